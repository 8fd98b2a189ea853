/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For guests that look for a translator's mistakes: what they check is checked cold, and again when
 * it has run often enough to be translated, optimised and chained.
 */
#ifndef GUEST_HOT_H
#define GUEST_HOT_H

#include "guest.h"

#define HOT 2000u

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* Like CHECK_EQ, for a row of a table; says whether it was so, that a loop may stop at once. */
static inline bool row_is(const char *row, uint64_t got, uint64_t want)
{
    if (got != want)
        fail_at(row, got, want);
    return got == want;
}

/* One register of a leaf, 0 to 3: EAX to EDX. */
static inline uint32_t cpuid_reg(uint32_t leaf, unsigned reg)
{
    uint32_t r[4] = {leaf, 0, 0, 0};

    if (leaf & 0xffff && (leaf & 0xffff) > cpuid_reg(leaf & 0x80000000, 0) % 0x10000)
        return 0;
    __asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
    return r[reg];
}

enum { HAS_SSE, HAS_AVX, HAS_AVX512 };

/* Switches on all the vector state there is; the highest kind. */
static inline int vectors_on(void)
{
    uint32_t lo, hi = 0;

    __asm__ volatile("fninit");
    if (!(cpuid_reg(1, 2) >> 26 & 1))
        return HAS_SSE;
    write_cr4(read_cr4() | 1u << 18);
    lo = 3;
    if (cpuid_reg(1, 2) >> 28 & 1)
        lo |= 4;
    if (cpuid_reg(7, 1) >> 16 & cpuid_reg(7, 1) >> 31 & 1) /* F and VL */
        lo |= 0xe0;
    __asm__ volatile("xsetbv" : : "a"(lo), "d"(hi), "c"(0));
    return lo & 0x80 ? HAS_AVX512 : lo & 4 ? HAS_AVX : HAS_SSE;
}

#ifdef __x86_64__
static inline void map4k(uintptr_t va, uint64_t pa, uint64_t bits)
{
    *pte(va, 1) = pa | bits;
    invlpg((void *)va);
}
#endif

/* Code is put together byte by byte: EMIT(p, 0xb8), then its immediate. */
#define EMIT(p, ...)                                   \
    do {                                               \
        static const uint8_t bytes_[] = {__VA_ARGS__}; \
        memcpy((p), bytes_, sizeof(bytes_));           \
        (p) += sizeof(bytes_);                         \
    } while (0)

static inline uint8_t *emit32(uint8_t *p, uint32_t v)
{
    *(volatile uint32_t *)p = v;
    return p + 4;
}

static inline uint8_t *emit64(uint8_t *p, uint64_t v)
{
    return emit32(emit32(p, (uint32_t)v), (uint32_t)(v >> 32));
}

/* A displacement from its own end. */
static inline uint8_t *emit_rel32(uint8_t *p, uintptr_t target)
{
    return emit32(p, (uint32_t)(target - (uintptr_t)p - 4));
}

/* Code that returns n. */
static inline uint8_t *emit_return(uint8_t *p, uint32_t n)
{
    EMIT(p, 0xb8);
    p = emit32(p, n);
    EMIT(p, 0xc3);
    return p;
}

typedef uintptr_t code_fn(void);
#define CALL(at) (((code_fn *)(uintptr_t)(at))())

#endif
