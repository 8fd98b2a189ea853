/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector registers as long as the processor offers them: they outlive whatever is done in between,
 * and what is not offered is not there. Run on hosts, or engines, with fewer features it is another
 * test: the first case says which. SDM vol. 1 chapters 13 to 15; vol. 2A section 2.8.
 */
#include "rt/hot.h"
#include "rt/irq.h"

#define PAGES 64

/* Not static: code names them. */
uint64_t vec_in[32][8] __attribute__((aligned(64))), vec_out[32][8] __attribute__((aligned(64)));
uint64_t mask_in[8], mask_out[8], spill[2][8] __attribute__((aligned(64)));

static int kind; /* HAS_* */

static bool offers(unsigned leaf, unsigned reg, unsigned bit)
{
    return cpuid_reg(leaf, reg) >> bit & 1;
}

static bool has_xgetbv1(void)
{
    uint32_t a = 0xd, c = 1;

    if (cpuid_reg(0, 0) < 0xd)
        return false;
    __asm__ volatile("cpuid" : "+a"(a), "+c"(c) : : "rbx", "rdx");
    return a & 4;
}

static void say(const char *name, bool yes)
{
    put_str(yes ? "offers " : "does not offer ");
    put_str(name);
    put_str("\n");
}

CASE(offered, "what is offered")
{
    kind = vectors_on();
    say("avx", offers(1, 2, 28));
    say("avx512", kind == HAS_AVX512);
    say("xgetbv1", has_xgetbv1());
    say("bmi2", offers(7, 1, 8));
    CHECK_EQ(kind >= HAS_AVX, offers(1, 2, 28));
}

/* ---- what is not offered ------------------------------------------------ */

CASE(avx_or_not, "AVX: there, or #UD and no state of it")
{
    for (unsigned i = 0; i < 20; i++) {
        if (kind >= HAS_AVX) {
            RUNS("vaddps %%ymm1, %%ymm2, %%ymm3");
        } else {
            FAULTS(UD, 0, "vaddps %%ymm1, %%ymm2, %%ymm3");
            FAULTS(UD, 0, "vzeroupper");
            CHECK(!offers(7, 1, 5) && !offers(1, 2, 12) && !offers(1, 2, 29)); /* AVX2 FMA F16C */
            if (offers(1, 2, 26))
                FAULTS(GP, 0, "xsetbv", .a = 7, .c = 0, .d = 0);
        }
    }
}

CASE(avx512_or_not, "AVX-512: there, or #UD and no state of it")
{
    for (unsigned i = 0; i < 20; i++) {
        if (kind == HAS_AVX512) {
            RUNS("vpaddd %%zmm1, %%zmm2, %%zmm19");
        } else {
            FAULTS(UD, 0, "vpaddd %%zmm1, %%zmm2, %%zmm19");
            FAULTS(UD, 0, "kmovw %%k1, %%k2");
            if (offers(1, 2, 26))
                FAULTS(GP, 0, "xsetbv", .a = 0xe7, .c = 0, .d = 0);
        }
    }
}

CASE(bmi2_or_not, "BMI2: there, or #UD")
{
    for (unsigned i = 0; i < HOT; i++) {
        uint64_t rotated, shifted;

        if (!offers(7, 1, 8)) {
            FAULTS(UD, 0, "rorx $8, %%rax, %%rcx");
            FAULTS(UD, 0, "shlx %%rcx, %%rax, %%rdx");
            return;
        }
        __asm__ volatile("rorx $8, %2, %0; shlx %3, %2, %1"
                         : "=&r"(rotated), "=&r"(shifted)
                         : "r"(0x1122334455667700 + (i & 0xff)), "r"(8ull));
        CHECK_EQ(rotated, (uint64_t)(i & 0xff) << 56 | 0x11223344556677);
        CHECK_EQ(shifted, 0x2233445566770000 + ((uint64_t)(i & 0xff) << 8));
    }
}

CASE(xgetbv1_or_not, "XGETBV with ECX = 1: there, or #GP")
{
    uint32_t lo, hi;

    if (kind < HAS_AVX)
        return;
    for (unsigned i = 0; i < 20; i++) {
        if (!has_xgetbv1()) {
            FAULTS(GP, 0, "xgetbv", .c = 1);
            continue;
        }
        __asm__ volatile(
            "vpcmpeqd %%xmm1, %%xmm1, %%xmm1; vinsertf128 $1, %%xmm1, %%ymm1, %%ymm1; xgetbv"
            : "=a"(lo), "=d"(hi)
            : "c"(1));
        CHECK_EQ(lo & 4, 4);
    }
}

/* ---- what is, is kept ------------------------------------------------ */

#define EACH16 ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15;"
#define EACH32 \
    EACH16     \
    ".endr; .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31;"
#define EACH_K ".irp n,0,1,2,3,4,5,6,7;"

#define LOAD_XMM  EACH16 "movups vec_in+64*\\n(%%rip), %%xmm\\n; .endr;"
#define STORE_XMM EACH16 "movups %%xmm\\n, vec_out+64*\\n(%%rip); .endr;"
#define LOAD_YMM  EACH16 "vmovups vec_in+64*\\n(%%rip), %%ymm\\n; .endr;"
#define STORE_YMM EACH16 "vmovups %%ymm\\n, vec_out+64*\\n(%%rip); .endr;"
#define LOAD_ZMM                                                   \
    EACH32 "vmovups vec_in+64*\\n(%%rip), %%zmm\\n; .endr;" EACH_K \
           "kmovw mask_in+8*\\n(%%rip), %%k\\n; .endr;"
#define STORE_ZMM                                                   \
    EACH32 "vmovups %%zmm\\n, vec_out+64*\\n(%%rip); .endr;" EACH_K \
           "kmovw %%k\\n, mask_out+8*\\n(%%rip); .endr;"

static uint64_t pattern(unsigned turn, unsigned reg, unsigned part)
{
    return (turn + 1) * 0x9e3779b97f4a7c15 ^ (reg * 8 + part) * 0x0101010101010101;
}

/* `used`: 8-byte parts of each register that are not zero. */
static void fill(unsigned turn, unsigned used)
{
    for (unsigned reg = 0; reg < 32; reg++)
        for (unsigned part = 0; part < 8; part++) {
            vec_in[reg][part] = part < used ? pattern(turn, reg, part) : 0;
            vec_out[reg][part] = ~0ull;
        }
    for (unsigned k = 0; k < 8; k++)
        mask_in[k] = pattern(turn, k, 0) & 0xffff;
}

static bool same(void)
{
    static const unsigned parts[] = {2, 4, 8};
    unsigned regs = kind == HAS_AVX512 ? 32 : 16;

    for (unsigned reg = 0; reg < regs; reg++)
        for (unsigned part = 0; part < parts[kind]; part++)
            if (!row_is("vector register", vec_out[reg][part], vec_in[reg][part]))
                return false;
    for (unsigned k = 0; k < 8 && kind == HAS_AVX512; k++)
        if (!row_is("mask register", mask_out[k] & 0xffff, mask_in[k]))
            return false;
    return true;
}

/* Registers are loaded, `between` is done, and they are stored: rdi is a page. */
#define KEEPS(between, page)                                                           \
    do {                                                                               \
        uintptr_t d_ = (page);                                                         \
        if (kind == HAS_AVX512)                                                        \
            __asm__ volatile(LOAD_ZMM between STORE_ZMM : "+D"(d_) : : KEEPS_CLOBBER); \
        else if (kind == HAS_AVX)                                                      \
            __asm__ volatile(LOAD_YMM between STORE_YMM : "+D"(d_) : : KEEPS_CLOBBER); \
        else                                                                           \
            __asm__ volatile(LOAD_XMM between STORE_XMM : "+D"(d_) : : KEEPS_CLOBBER); \
    } while (0)
#define KEEPS_CLOBBER "rax", "rbx", "rcx", "rdx", "rsi", "memory", "cc"

static uintptr_t page_of(unsigned turn)
{
    return 0x2000000 + turn % PAGES * 4096;
}

CASE(kept_by_interpreted, "registers outlive instructions that are not translated")
{
    for (unsigned turn = 0; turn < 400; turn++) {
        fill(turn, turn % 9);
        KEEPS("xor %%eax, %%eax; cpuid;", 0);
        if (!same())
            return;
        KEEPS("mov $0x80, %%edx; out %%al, %%dx; mov $3, %%esi;"
              "91: xor %%eax, %%eax; cpuid; mov $20, %%ecx; 92: dec %%ecx; jnz 92b;"
              "dec %%esi; jnz 91b;",
              0);
        if (!same())
            return;
    }
}

CASE(kept_by_misses, "registers outlive first accesses to pages")
{
    for (unsigned turn = 0; turn < 400; turn++) {
        fill(turn, turn % 9);
        if (turn % PAGES == 0)
            write_cr3(read_cr3());
        KEEPS("movl $1, (%%rdi); add $4096 * 7, %%rdi; mov (%%rdi), %%eax;", page_of(turn));
        if (!same())
            return;
    }
}

CASE(kept_by_sse, "SSE instructions keep what is above their half")
{
    for (unsigned turn = 0; turn < 400; turn++) {
        fill(turn, turn & 1 ? 8 : 2);
        KEEPS("pxor %%xmm3, %%xmm3; xor %%eax, %%eax; cpuid; pxor %%xmm9, %%xmm9;", 0);
        vec_in[3][0] = vec_in[3][1] = vec_in[9][0] = vec_in[9][1] = 0;
        if (!same())
            return;
    }
}

CASE(upper_halves, "VZEROUPPER, and registers whole again")
{
    for (unsigned turn = 0; turn < 400 && kind >= HAS_AVX; turn++) {
        fill(turn, 8);
        KEEPS("vzeroupper; xor %%eax, %%eax; cpuid;", 0);
        for (unsigned reg = 0; reg < 16; reg++)
            for (unsigned part = 2; part < 8; part++)
                vec_in[reg][part] = 0;
        if (!same())
            return;
        KEEPS("vpcmpeqd %%xmm5, %%xmm5, %%xmm5; vinsertf128 $1, %%xmm5, %%ymm5, %%ymm5;"
              "xor %%eax, %%eax; cpuid;",
              0);
        for (unsigned part = 0; part < 8; part++)
            vec_in[5][part] = part < 4 ? ~0ull : 0;
        if (!same())
            return;
    }
}

/* As a kernel that computes: what it uses it puts back. */
static bool hook_that_computes(struct frame *f)
{
    if (f->vector < 0x20)
        return false;
    if (kind == HAS_AVX512)
        __asm__ volatile(
            "vmovups %%zmm1, spill; vmovups %%zmm18, spill+64;"
            "vpternlogd $255, %%zmm1, %%zmm1, %%zmm1; vpternlogd $255, %%zmm18, %%zmm18, %%zmm18;"
            "vmovups spill, %%zmm1; vmovups spill+64, %%zmm18" ::
                : "memory");
    else if (kind == HAS_AVX)
        __asm__ volatile("vmovups %%ymm1, spill; vxorps %%ymm1, %%ymm1, %%ymm1;"
                         "vmovups spill, %%ymm1" ::
                             : "memory");
    else
        __asm__ volatile("movups %%xmm1, spill; pcmpeqd %%xmm1, %%xmm1; movups spill, %%xmm1" ::
                             : "memory");
    return irq_hook(f);
}

IRQ_CASE(kept_by_interrupts, "registers outlive interrupts that compute")
{
    unsigned turns;

    trap_hook = hook_that_computes;
    out8(0x43, 0x34);
    out8(0x40, 300 & 0xff);
    out8(0x40, 300 >> 8);
    out8(0x21, 0xfe);
    __asm__ volatile("sti");
    for (turns = 0; turns < 400 || (seen[0x20] < 20 && turns < 1000000); turns++) {
        fill(turns, turns % 9);
        KEEPS("mov $2000, %%ecx; 93: dec %%ecx; jnz 93b;", 0);
        if (!same())
            break;
    }
    __asm__ volatile("cli");
    CHECK(seen[0x20] > 10);
}
