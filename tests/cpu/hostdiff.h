/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host differential: the same instruction in the same state, natively in a child process and on
 * the interpreter or the translator, and everything compared.
 *
 * Both sides see the same linear addresses: three code pages of which the third is absent, and six
 * data pages (HD_DATA_MAP). In 64-bit code segments are flat and FS and GS have bases; 32- and
 * 16-bit code runs in segments of an LDT. The native side enters a case by returning from a signal
 * handler and leaves it by the next signal: the instruction's own fault, the INT3 that stands after
 * it, or the single-step trap where the instruction branches.
 */
#ifndef TESTS_CPU_HOSTDIFF_H
#define TESTS_CPU_HOSTDIFF_H

#include <Zydis/Zydis.h>

#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "base/types.h"
#include "cpu/cpu_state.h"
#include "cpu/model.h"

/*
 * Under ASan and TSan there is no native side: their shadow memory lies where random addresses must
 * find nothing, and their signal handling is not for a process that lives in a handler. The
 * interpreter runs the cases all the same, for what the sanitiser has to say of it.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HD_NATIVE 0
#else
#define HD_NATIVE 1
#endif

#define HD_CODE       0x10000000ull
/* In 64-bit code all of it is here a second time, where addresses have more than 32 bits. */
#define HD_HIGH       0x300000000000ull
#define HD_CODE_MAX   96 /* bytes of a case */
#define HD_CODE_PAGES 2 /* mapped ones; the next is not */
#define HD_DATA       0x20000000ull
#define HD_DATA_PAGES 6
/* 0 absent, 1 read-only, 2 writable */
#define HD_DATA_MAP      \
    {                    \
        2, 2, 0, 2, 1, 0 \
    }
#define HD_DATA_BYTES (HD_DATA_PAGES * PAGE_SIZE)

enum hd_mode { HD_64, HD_32, HD_16, HD_MODES };

/* Segments of the LDT: index << 3 | 7 is the selector. */
enum hd_ldt {
    LDT_CODE32, /* at HD_CODE, limited */
    LDT_CODE16, /* at HD_CODE */
    LDT_DATA32, /* at HD_DATA, limit to its end */
    LDT_DATA16,
    LDT_FLAT,   /* base 0, 4 GiB */
    LDT_DOWN32, /* expand-down */
    LDT_DOWN16,
    LDT_DATA_RO,
    LDT_CODE32_FLAT,
    LDT_ABSENT,
    LDT_CODE_XO,    /* execute-only */
    LDT_DATA_ODD,   /* base that is no multiple of anything */
    LDT_CONFORMING, /* absent: Linux allows no other */
    LDT_END1,       /* these end some bytes into a data page of this number */
    LDT_END2,
    LDT_END3,
    LDT_END4,
    LDT_COUNT,
};
#define LDT_SEL(n) ((uint16_t)((n) << 3 | 7))

struct hd_desc {
    uint32_t base, limit; /* limit as in the descriptor */
    uint8_t big, contents, read_exec_only, in_pages, absent;
};
extern const struct hd_desc hd_ldt[LDT_COUNT];

struct hd_regs {
    uint64_t gpr[16];
    uint64_t rip, rflags;
    uint16_t seg[SEG_COUNT];
    uint64_t fs_base, gs_base;
};

struct hd_case {
    uint64_t number;
    uint32_t mnemonic;
    uint8_t mode; /* enum hd_mode */
    uint8_t insns; /* 1, or more: a run, perhaps in a loop; all other branches go forward */
    uint8_t len;
    uint8_t step; /* native: stop by TF; else by INT3 */
    uint8_t dump; /* native: copy the memory afterwards */
    uint8_t calls; /* a run with a CALL in it */
    uint8_t code[HD_CODE_MAX];
    struct hd_regs regs;
    struct cpu_fpu fpu;
    uint32_t patch_at, patch_len; /* into the data pages */
    uint8_t patch[640];
};

#define HD_DONE 0xff /* vector: no fault, stopped after the instruction */

struct hd_result {
    struct hd_regs regs;
    struct cpu_fpu fpu;
    uint8_t vector;
    uint32_t error;
    uint64_t addr; /* CR2 of #PF */
    uint64_t hash; /* of the data pages */
};

#define HD_BATCH 128

/* Shared with the child. */
struct hd_batch {
    uint32_t count;
    _Atomic uint32_t state; /* 0: the parent's, 1: the child's */
    _Atomic uint32_t at;    /* case the child is in */
    struct hd_case cases[HD_BATCH];
    struct hd_result results[HD_BATCH];
};

struct hd_shared {
    struct hd_batch batch[2];
    uint8_t pattern[HD_DATA_BYTES]; /* what the data pages hold before a case */
    uint8_t dump[HD_DATA_BYTES];
    uint32_t cpunode_limit; /* LSL of selector 7Bh on the child's CPU; ~0: none */
    _Atomic uint32_t ready;
};

static inline uint64_t hd_hash(const void *p, size_t len)
{
    const uint64_t *w = p;
    uint64_t a = 1, b = 2, c = 3, d = 4;

    for (size_t n = 0; n < len / 8; n += 4) {
        a = (a ^ w[n]) * 0x9e3779b97f4a7c15ull;
        b = (b ^ w[n + 1]) * 0xc2b2ae3d27d4eb4full;
        c = (c ^ w[n + 2]) * 0x165667b19e3779f9ull;
        d = (d ^ w[n + 3]) * 0x27d4eb2f165667c5ull;
        a ^= a >> 29;
        b ^= b >> 31;
        c ^= c >> 30;
        d ^= d >> 32;
    }
    return a ^ b << 1 ^ c << 2 ^ d << 3;
}

/* Offset in the code pages. */
static inline uint64_t hd_code_at(const struct hd_case *tc)
{
    if (tc->mode == HD_64)
        return (tc->regs.rip & ~HD_HIGH) - HD_CODE;
    return tc->regs.rip - (tc->regs.seg[SEG_CS] == LDT_SEL(LDT_CODE32_FLAT) ? HD_CODE : 0);
}

/* Only what can change counts. */
static inline uint64_t hd_hash_data(const uint8_t *data)
{
    return hd_hash(data, 2 * PAGE_SIZE) ^ hd_hash(data + 3 * PAGE_SIZE, PAGE_SIZE) << 1;
}

static inline void hd_fill_data(uint8_t *data, const uint8_t *pattern, const struct hd_case *tc)
{
    memcpy(data, pattern, 2 * PAGE_SIZE);
    memcpy(data + 3 * PAGE_SIZE, pattern + 3 * PAGE_SIZE, 2 * PAGE_SIZE);
    if (range_ok(tc->patch_at, tc->patch_len, HD_DATA_BYTES))
        memcpy(data + tc->patch_at, tc->patch, tc->patch_len);
}

/* hostdiff_native.c */
bool native_start(struct hd_shared *shared);
void native_stop(void);
void native_submit(unsigned batch);
/* Waits. False: the child died in case batch->at. */
bool native_wait(unsigned batch);
/* Is there something at the address in the child that is no page of a case's? */
bool native_has(uint64_t addr);

/* hostdiff_vm.c */
struct hd_vm;
struct hd_vm *hd_vm_new(struct hd_shared *shared, bool translate, bool anywhere);
void hd_vm_free(struct hd_vm *vm);
const struct cpu_model *hd_vm_model(const struct hd_vm *vm);
void hd_vm_run(struct hd_vm *vm, const struct hd_case *tc, struct hd_result *out);
const uint8_t *hd_vm_data(const struct hd_vm *vm); /* HD_DATA_BYTES */

/* hostdiff_gen.c */
struct hd_group { /* what is counted on its own: a mnemonic in a mode and width */
    uint32_t mnemonic;
    uint8_t mode;
    uint16_t width;
    uint32_t first, count; /* templates */
    uint64_t done, failed_to_make;
};
struct hd_gen;
struct hd_gen *gen_new(const struct cpu_model *model, const uint8_t *pattern);
void gen_free(struct hd_gen *g);
struct hd_group *gen_groups(struct hd_gen *g, unsigned *n);
const char *gen_skip_reason(uint32_t mnemonic);
/* Makes the case that (seed, number) stands for; false if no encoding was found. */
bool gen_case(struct hd_gen *g, const struct hd_group *group, uint64_t seed, uint64_t number,
              struct hd_case *out);
/* A run of instructions, of the groups given; false if none was found. */
bool gen_run(struct hd_gen *g, struct hd_group *groups, unsigned ngroups, uint64_t seed,
             uint64_t number, struct hd_case *out);
void gen_decoder(ZydisDecoder *z, unsigned mode);

#endif
