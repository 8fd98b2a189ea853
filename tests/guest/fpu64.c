/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 and MMX as programs use them: loops that are interrupted, the pointers that FXSAVE and
 * FNSTENV show, where #MF comes and what comes before it, control words, and MMX, x87 and SSE
 * beside each other in one run of code. SDM vol. 1 chapters 8 and 9, section 10.5; vol. 3A
 * section 6.15 "#MF".
 */
#include "rt/hot.h"
#include "rt/irq.h"

#define ABSENT  0x7f000000ull /* a page that is not there */
#define HERE(l) ((uintptr_t)(l))

struct fx {
    uint16_t fcw, fsw, ftw, fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint64_t st[8][2], xmm[16][2], rest[12];
} __attribute__((aligned(16)));

struct fx fx;
/* Not static: code names them. */
uint16_t cw_all = 0x37f, cw_none = 0x340, cw_no_zero = 0x37b, cw_no_invalid = 0x37e;
uint64_t zero[2] = {0, 0};
static uint64_t three = 0x4008000000000000;

static void save(void)
{
    __asm__ volatile("fxsave64 %0" : "=m"(fx));
}

/* ---- loops that are interrupted ----------------------------------------------------------------
 */

uint64_t k37 = 0x400d99999999999a, start_x = 0x3fd3333333333333, out; /* 3.7, 0.3 */
uint32_t weight = 0x3f400000;                                         /* 0.75 */
uint8_t t80[16], env[28];

/* The sum of 0.75 x over x = 3.7 x (1 - x), in 80 bits. `between` is run in each turn. */
#define SERIES(n, between)                                                                 \
    ({                                                                                     \
        unsigned n_ = (n);                                                                 \
        __asm__ volatile("fninit; fldz; fldl start_x; 1:"                                  \
                         "fld1; fsub %%st(1), %%st; fmulp; fmull k37; fld %%st(0);"        \
                         "fstpt t80; fldt t80; fmuls weight; faddp %%st, %%st(2);" between \
                         "dec %0; jnz 1b; fstp %%st(0); fstpl out"                         \
                         : "+r"(n_)                                                        \
                         :                                                                 \
                         : "memory", "cc", "rax", "rbx", "rcx", "rdx");                    \
        out;                                                                               \
    })
#define SERIES_1000 0x407f3a5e50002a72

CASE(loop, "x87: a loop")
{
    for (unsigned i = 0; i < 20; i++)
        CHECK_EQ(SERIES(1000, ""), SERIES_1000);
}

CASE(loop_with_state_areas, "x87: a loop with FNSTENV and FXSAVE in it")
{
    CHECK_EQ(SERIES(1000, "fnstenv env; fldenv env;"), SERIES_1000);
    CHECK_EQ(SERIES(1000, "fxsave64 fx; fninit; fxrstor64 fx;"), SERIES_1000);
    CHECK_EQ(SERIES(1000, "cpuid;"), SERIES_1000);
}

static void timer(unsigned hz)
{
    unsigned n = 1193182 / hz;

    out8(0x43, 0x34);
    out8(0x40, (uint8_t)n);
    out8(0x40, (uint8_t)(n >> 8));
    out8(0x21, 0xfe);
    __asm__ volatile("sti");
}

IRQ_CASE(loop_with_timer, "x87: a loop under timer interrupts")
{
    timer(4000);
    for (unsigned i = 0; i < 100 || (seen[0x20] < 20 && i < 1000000); i++)
        CHECK_EQ(SERIES(1000, ""), SERIES_1000);
    CHECK(seen[0x20] > 10);
}

/* As a kernel does with tasks that compute. */
static bool hook_that_computes(struct frame *f)
{
    static struct fx task;
    static uint32_t result;

    if (f->vector < 0x20)
        return false;
    __asm__ volatile("fxsave64 %0; fninit; fldpi; fldpi; fmulp; fistpl %1; pcmpeqd %%xmm5, %%xmm5;"
                     "movd %%xmm5, %%eax; movd %%eax, %%mm3; fxrstor64 %0"
                     : "+m"(task), "=m"(result)
                     :
                     : "eax");
    CHECK_EQ(result, 10);
    return irq_hook(f);
}

IRQ_CASE(loop_with_computing_timer, "x87: a loop under interrupts that compute")
{
    trap_hook = hook_that_computes;
    timer(4000);
    for (unsigned i = 0; i < 100 || (seen[0x20] < 20 && i < 1000000); i++)
        CHECK_EQ(SERIES(1000, ""), SERIES_1000);
    CHECK(seen[0x20] > 10);
}

/* The first touch of each page leaves the run of code with all registers loaded. */
CASE(pages, "x87 and SSE: operands in many pages")
{
    uint64_t got = 0, sum;

    for (unsigned i = 0; i < 64; i++)
        *(uint64_t *)(uintptr_t)(0x2000000 + i * 4096) = 0x3ff0000000000000; /* 1.0 */
    for (unsigned turn = 0; turn < 3; turn++) {
        __asm__ volatile(
            "mov %%cr3, %%rax; mov %%rax, %%cr3; fninit; fldz; xorps %%xmm6, %%xmm6;"
            "mov $0x2000000, %%edx; mov $64, %%ecx;"
            "1: faddl (%%rdx); addsd (%%rdx), %%xmm6; add $4096, %%edx; dec %%ecx; jnz 1b;"
            "fistpll %0; movq %%xmm6, %1"
            : "=m"(got), "=r"(sum)
            :
            : "rax", "rcx", "rdx", "memory", "cc");
        CHECK_EQ(got, 64);
        CHECK_EQ(sum, 0x4050000000000000);
    }
}

/* ---- pointers
 * -------------------------------------------------------------------------------------- */

#define IS_OR_0(got, want) CHECK(!(got) || (got) == (want))

CASE(fip_without_exception, "FIP: of the last instruction that is no control instruction")
{
    extern char fip_1[], fip_2[], fip_3[];

    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "fninit; fld1; fip_1: fldl %1; fnstcw t80; fxsave64 %0; fstp %%st(0); fstp %%st(0)"
            : "=m"(fx)
            : "m"(three));
        IS_OR_0(fx.fip, HERE(fip_1));
        IS_OR_0(fx.fdp, (uintptr_t)&three);
        IS_OR_0(fx.fop, 0x504);
        __asm__ volatile("fninit; fldl (%0); fip_2: fldpi; nop; fnstenv env; fninit"
                         :
                         : "r"(&three)
                         : "memory");
        IS_OR_0(*(uint32_t *)(env + 12), (uint32_t)HERE(fip_2));
        IS_OR_0(*(uint32_t *)(env + 20), (uint32_t)(uintptr_t)&three);
        /* REX belongs to it; an integer loop behind it does not matter. */
        __asm__ volatile(
            "fninit; mov %1, %%r14; fip_3: fldl (%%r14); mov $5, %%ecx; 1: dec %%ecx; jnz 1b;"
            "fxsave64 %0; fninit"
            : "=m"(fx)
            : "r"(&three)
            : "r14", "rcx", "cc");
        IS_OR_0(fx.fip, HERE(fip_3));
    }
    __asm__ volatile("fld1; fninit");
    save();
    CHECK_EQ(fx.fip | fx.fdp | fx.fop, 0);
}

CASE(pointers_are_kept, "FIP, FDP, FOP: FXRSTOR to FXSAVE")
{
    save();
    fx.fip = 0x123456789abc;
    fx.fdp = 0xfedcba98;
    fx.fop = 0x345;
    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "fxrstor64 %0; jmp 1f; 1: movd %%eax, %%mm2; pslld $3, %%mm2; emms; fnstcw t80;"
            "fxsave64 %0"
            : "+m"(fx));
        /* AMD: only with a pending exception. */
        IS_OR_0(fx.fip, 0x123456789abc);
        IS_OR_0(fx.fdp, 0xfedcba98);
        IS_OR_0(fx.fop, 0x345);
    }
}

/* ---- #MF
 * --------------------------------------------------------------------------------------------- */

/* 1 / 0 at label `at`, whose operand is `ea`; the exception comes at label `next`. */
#define POINTERS(at, next, ea, opcode)     \
    do {                                   \
        CHECK_EQ(trap.count, 1);           \
        CHECK_EQ(trap.vector, MF);         \
        CHECK_EQ(trap.ip, HERE(next));     \
        save();                            \
        CHECK_EQ(fx.fsw & 0x8084, 0x8084); \
        CHECK_EQ(fx.fip, HERE(at));        \
        CHECK_EQ(fx.fdp, (uintptr_t)(ea)); \
        CHECK_EQ(fx.fop, (opcode));        \
        __asm__ volatile("fninit");        \
    } while (0)

/* The trap's way back does not keep these registers. */
#define TRAP_ANY(code, d)                                                           \
    do {                                                                            \
        trap.count = 0;                                                             \
        __asm__ volatile(TRAP_SETUP "1: " code "\n2: " TRAP_END                     \
                         :                                                          \
                         : "d"(d)                                                   \
                         : TRAP_CLOBBER, "rax", "rcx", "r12", "r13", "r14", "r15"); \
        trap_resume = 0;                                                            \
    } while (0)

CASE(mf_pointers, "#MF: where, and by which operand")
{
    extern char mf_1[], mf_1n[], mf_2[], mf_2n[], mf_3[], mf_3n[], mf_4[], mf_4n[], mf_5[], mf_5n[];

    for (unsigned i = 0; i < 3; i++) {
        TRAP_ANY(
            "fninit; fldcw cw_no_zero; fld1; mf_1: fdivl (%%rdx); mov $3, %%ecx; 3: dec %%ecx; jnz 3b;"
            "mf_1n: fld1",
            (uintptr_t)zero);
        POINTERS(mf_1, mf_1n, zero, 0x432);
        TRAP_ANY(
            "fninit; fldcw cw_no_zero; fld1; mov %%rdx, %%r14; mf_2: fidivl 4(%%r14); fnstsw %%ax;"
            "mf_2n: fwait",
            (uintptr_t)zero);
        POINTERS(mf_2, mf_2n, (uintptr_t)zero + 4, 0x276);
        TRAP_ANY(
            "fninit; fldcw cw_no_zero; fld1; mov %%rdx, %%r15; mov $1, %%r14d; mf_3: fdivs -4(%%r15,%%r14,4);"
            "fnstcw t80; mf_3n: paddb %%mm1, %%mm1",
            (uintptr_t)zero);
        POINTERS(mf_3, mf_3n, zero, 0x074);
        TRAP_ANY("fninit; fldcw cw_no_zero; fld1; mf_4: fdivl zero(%%rip); mf_4n: fstpl (%%rdx)",
                 (uintptr_t)&out);
        POINTERS(mf_4, mf_4n, zero, 0x435);
        wrmsr(0xc0000100, 0x100);
        TRAP_ANY(
            "fninit; fldcw cw_no_zero; fld1; mf_5: fdivl %%fs:-0x100(%%rdx); mf_5n: fstpl (%%rdx)",
            (uintptr_t)zero);
        wrmsr(0xc0000100, 0);
        POINTERS(mf_5, mf_5n, (uintptr_t)zero - 0x100, 0x4b2);
    }
}

CASE(mf_register, "#MF: register operands")
{
    extern char mf_6[], mf_6n[];

    for (unsigned i = 0; i < 3; i++) {
        TRAP("fninit; fldcw cw_no_zero; fldz; fld1; fdiv %%st(1), %%st; fnclex; fldz; fld1;"
             "mf_6: fdiv %%st(1), %%st; mf_6n: fxch");
        CHECK_EQ(trap.vector, MF);
        CHECK_EQ(trap.ip, HERE(mf_6n));
        save();
        CHECK_EQ(fx.fip, HERE(mf_6));
        CHECK_EQ(fx.fop, 0x0f1);
        __asm__ volatile("fninit");
    }
}

CASE(mf_before_page_fault, "#MF: before the fault of the operand")
{
    map4k(ABSENT, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st" : : "m"(cw_no_zero));
        FAULTS(MF, 0, "fldl (%%rdx)", .d = ABSENT);
        FAULTS(MF, 0, "fstpt (%%rdx)", .d = ABSENT);
        FAULTS(MF, 0, "movq (%%rdx), %%mm0", .d = ABSENT);
        /* These do not wait. */
        FAULTS(PF, 2, "fnstcw (%%rdx)", .d = ABSENT);
        FAULTS(PF, 2, "fnstsw (%%rdx)", .d = ABSENT);
        __asm__ volatile("fninit");
        FAULTS(PF, 0, "fldl (%%rdx)", .d = ABSENT);
        FAULTS(PF, 2, "fsts (%%rdx)", .d = ABSENT);
    }
}

CASE(exception_keeps_store, "x87: an unmasked exception keeps a store from memory")
{
    map4k(ABSENT, 0, 0);
    for (unsigned i = 0; i < 3; i++) {
        out = 1234;
        __asm__ volatile("fninit; fldcw %0" : : "m"(cw_no_invalid));
        RUNS("fstpl (%%rdx)", .d = (uintptr_t)&out); /* of an empty register */
        CHECK_EQ(out, 1234);
        FAULTS(MF, 0, "fstpl (%%rdx)", .d = (uintptr_t)&out);
        __asm__ volatile("fnclex");
        /* ... and from its fault as well, on the processors that look at it first */
        TRAP("fistpl (%%rdx)", .d = ABSENT);
        CHECK(trap.count == 0 || trap.vector == PF);
        __asm__ volatile("fninit");
        RUNS("fstpl (%%rdx)", .d = (uintptr_t)&out);
        CHECK_EQ(out, 0xfff8000000000000);
    }
    __asm__ volatile("fninit");
}

CASE(unmasked_by_loading, "#MF: a control word unmasks what has happened")
{
    extern char mf_7[];

    for (unsigned i = 0; i < 3; i++) {
        TRAP("fninit; fldcw cw_all; fldz; fld1; fdiv %%st(1), %%st; fldcw cw_none; mf_7: fabs");
        CHECK_EQ(trap.vector, MF);
        CHECK_EQ(trap.ip, HERE(mf_7));
        __asm__ volatile("fninit");
    }
}

/* ---- control words
 * --------------------------------------------------------------------------------- */

static struct {
    uint16_t cw;
    uint64_t third;
} thirds[] = {
    {0x37f, 0xaaaaaaaaaaaaaaab}, {0x27f, 0xaaaaaaaaaaaaa800}, {0x07f, 0xaaaaab0000000000},
    {0xb7f, 0xaaaaaaaaaaaaaaab}, {0xf7f, 0xaaaaaaaaaaaaaaaa}, {0xa7f, 0xaaaaaaaaaaaab000},
    {0xc7f, 0xaaaaaa0000000000},
};

CASE(precision, "x87: precision and rounding control")
{
    uint64_t got[2] = {0, 0};
    uint16_t cw;

    for (unsigned i = 0; i < 3 * COUNT(thirds); i++) {
        __asm__ volatile("fninit; fldcw %2; fld1; fdivl %3; fstpt %0; fnstcw %1"
                         : "=m"(got), "=m"(cw)
                         : "m"(thirds[i % COUNT(thirds)].cw), "m"(three));
        CHECK_EQ(got[0], thirds[i % COUNT(thirds)].third);
        CHECK_EQ((uint16_t)got[1], 0x3ffd);
        CHECK_EQ(cw, thirds[i % COUNT(thirds)].cw);
    }
    __asm__ volatile("fninit");
}

CASE(conversions, "x87: integers, decimals, truncation")
{
    static int64_t v[4];
    static uint8_t bcd[10];

    for (unsigned i = 0; i < 3; i++) {
        v[0] = -1234567890123 - i;
        __asm__ volatile(
            "fninit; fildll %0; fld %%st(0); fistpll %1; fld %%st(0); fbstp %2; fbld %2;"
            "fsubp; fisttpll %3; fldl %4; fisttps %5"
            : "+m"(v[0]), "=m"(v[1]), "=m"(bcd), "=m"(v[2])
            : "m"(k37), "m"(v[3])
            : "memory");
        CHECK_EQ(v[1], v[0]);
        CHECK_EQ(v[2], 0);
        CHECK_EQ(v[3], 3);
        CHECK_EQ(*(uint32_t *)bcd, 0x67890123 + i);
        CHECK_EQ(bcd[9], 0x80);
    }
}

CASE(ten_bytes, "x87: ten bytes across pages")
{
    static uint8_t pages[3 * 4096] __attribute__((aligned(4096)));

    for (unsigned i = 0; i < 3; i++)
        for (unsigned off = 4096 - 12; off <= 4096; off++) {
            uint64_t got;

            pages[off - 1] = pages[off + 10] = 0x5a;
            __asm__ volatile("fninit; fldpi; fstpt (%1); fldt (%1); fstpl %0"
                             : "=m"(got)
                             : "r"(pages + off)
                             : "memory");
            CHECK_EQ(got, 0x400921fb54442d18);
            CHECK_EQ(*(uint64_t *)(pages + off), 0xc90fdaa22168c235);
            CHECK_EQ(pages[off - 1] | pages[off + 10], 0x5a);
        }
}

CASE(compares, "x87: comparisons and the flags")
{
    unsigned below, equal, moved;

    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "fninit; fld1; fldz; xor %0, %0; xor %1, %1; fcomi %%st(1), %%st; fldl %3; fstp %%st(0);"
            "adc $0, %0; fucomi %%st(0), %%st; jne 1f; inc %1; 1: fcomip %%st(1), %%st;"
            "fldpi; fcmovb %%st(1), %%st; fistpl %2"
            : "=&r"(below), "=&r"(equal), "=m"(moved)
            : "m"(three)
            : "cc");
        CHECK_EQ(below, 1);
        CHECK_EQ(equal, 1);
        CHECK_EQ(moved, 1);
        __asm__ volatile("fninit; fld1; fldz; fcompp; fnstsw %%ax; sahf; setb %%al; movzx %%al, %0"
                         : "=r"(below)
                         :
                         : "rax", "cc");
        CHECK_EQ(below, 1);
    }
}

/* ---- MMX, SSE
 * ---------------------------------------------------------------------------------------- */

CASE(mmx, "MMX: tags, TOP, and x87 after EMMS")
{
    uint64_t got, mask;

    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "fninit; fld1; movq %2, %%mm1; paddw %%mm1, %%mm1; psrlq $4, %%mm1; pshufw $0x1b, %%mm1, %%mm2;"
            "mov $0xbeef, %%r14d; pinsrw $1, %%r14d, %%mm2; movq %%mm2, %0; mov $-1, %%r15;"
            "pmovmskb %%mm2, %%r15d; mov %%r15, %1; fxsave64 fx"
            : "=m"(got), "=r"(mask)
            : "m"(*(uint64_t[]){0x0102030405067788})
            : "r14", "r15", "memory");
        CHECK_EQ(got, 0xcef180a0beef0020); /* lanes of 0020_4060_80a0_cef1 turned, and one put in */
        CHECK_EQ(mask, 0xfc);
        CHECK_EQ(fx.ftw, 0xff);
        CHECK_EQ(fx.fsw & 0x3800, 0);
        CHECK_EQ(fx.st[2][0], got);
        CHECK_EQ((uint16_t)fx.st[2][1], 0xffff);
        __asm__ volatile("emms; fld1; fldpi; faddp; fistpll %0; fxsave64 fx"
                         : "=m"(got)
                         :
                         : "memory");
        CHECK_EQ(got, 4);
        CHECK_EQ(fx.ftw, 0);
    }
}

CASE(mmx_and_sse, "MMX, SSE and x87 in one run")
{
    uint64_t got[4] = {0};

    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "fninit; mov $0x0000000700000005, %%rax; movq %%rax, %%mm0; cvtpi2ps %%mm0, %%xmm1;"
            "mulps %%xmm1, %%xmm1; cvttps2pi %%xmm1, %%mm1; movq %%mm1, %0; movq2dq %%mm1, %%xmm2;"
            "paddd %%xmm2, %%xmm2; movdq2q %%xmm2, %%mm3; movq %%mm3, %1; emms; fildll %1;"
            "fstps %2; cvtss2sd %2, %%xmm3; addsd %%xmm3, %%xmm3; movsd %%xmm3, %3"
            : "=m"(got[0]), "=m"(got[1]), "=m"(got[2]), "=m"(got[3])
            :
            : "rax");
        CHECK_EQ(got[0], 0x0000003100000019);
        CHECK_EQ(got[1], 0x0000006200000032);
        CHECK_EQ((uint32_t)got[2], 0x52c40000);
        CHECK_EQ(got[3], 0x4268800000000000);
    }
}

/* What x87 does must not touch MXCSR or the vector registers, whichever of them are loaded. */
CASE(mxcsr, "SSE registers and MXCSR beside x87")
{
    uint32_t up = 0x5f80, back, plain = 0x1f80;
    uint64_t got, x;

    for (unsigned i = 0; i < 3; i++) {
        __asm__ volatile(
            "ldmxcsr %4; mov %5, %%rax; movq %%rax, %%xmm9; jmp 1f; 1: fninit; fld1; jmp 2f; 2: fldpi; cpuid;"
            "jmp 3f; 3: faddp; fistpll %0; jmp 4f; 4: mov $1, %%eax; cvtsi2sd %%eax, %%xmm1; divsd %6, %%xmm1;"
            "movq %%xmm1, %1; stmxcsr %2; movq %%xmm9, %3; ldmxcsr %7"
            : "=m"(got), "=m"(x), "=m"(back), "=m"(out)
            : "m"(up), "r"(0x123456789abcdefull), "m"(three), "m"(plain)
            : "rax", "rbx", "rcx", "rdx", "memory");
        CHECK_EQ(got, 4);
        CHECK_EQ(x, 0x3fd5555555555556);
        CHECK_EQ(back & ~0x3fu, up);
        CHECK_EQ(out, 0x123456789abcdef);
    }
}

/* ---- CR0
 * ------------------------------------------------------------------------------------------------
 */

static __attribute__((noinline)) void one(void)
{
    __asm__ volatile(".globl fpu_one; fpu_one: fld1; fstp %st(0); movd %eax, %mm0; emms; fwait");
}

CASE(task_switched, "#NM: code that ran before CR0.TS was set")
{
    extern char fpu_one[];
    uintptr_t cr0 = read_cr0();

    for (unsigned i = 0; i < 3; i++) {
        one();
        write_cr0(cr0 | 8);
        TRAP("call fpu_one");
        CHECK_EQ(trap.vector, NM);
        CHECK_EQ(trap.ip, HERE(fpu_one));
        write_cr0(cr0 | 4);
        TRAP("call fpu_one");
        CHECK_EQ(trap.vector, NM);
        write_cr0(cr0);
        one();
    }
}

CASE(tasks, "FXSAVE and FXRSTOR: two tasks")
{
    static struct fx task[2];
    uint64_t got;

    __asm__ volatile(
        "fninit; fld1; fldpi; fxsave64 %0; fninit; fldl2e; fldln2; fld1; fxsave64 %1; fninit"
        : "=m"(task[0]), "=m"(task[1]));
    for (unsigned i = 0; i < 200; i++)
        __asm__ volatile("fxrstor64 %0; fxch; fxsave64 %0; fxrstor64 %1; fxch %%st(2); fxsave64 %1"
                         : "+m"(task[0]), "+m"(task[1]));
    __asm__ volatile("fxrstor64 %1; fsubp; fstpl %0; fninit" : "=m"(got) : "m"(task[0]));
    CHECK_EQ(got, 0x400121fb54442d18); /* pi - 1 */
    CHECK_EQ(task[1].ftw, 0xe0);
    CHECK_EQ(task[1].st[0][0], 0x8000000000000000);
}
