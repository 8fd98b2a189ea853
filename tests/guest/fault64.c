/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Faults in the middle of instructions, cold and warm. Each row is one instruction. It runs once
 * with all its pages there, and then with some of them absent or read-only: at a fault every
 * register is as before it, the handler brings the page back, and the outcome is that of the first
 * run.
 */
#include "rt/regs.h"

#define W      0x10000000000ull /* a window of 8 pages */
#define CODE   (W + 0x20000)
#define PHYS   0x2000000ull
#define PAGES  8u
#define TARGET (CODE + 0x800) /* an INT3, where calls and returns lead */
#define FLAGS  0xcd5u

uint64_t res[64];
uint8_t vec_data[64] __attribute__((aligned(64)));

/* ---- the rows -----------------------------------------------------------------------------------
 */

/*
 * rdx, rsi, r12: 3 bytes before page 1; rdi: 3 bytes before page 3; rbx: page 1; rbp: 3 bytes
 * before page 1; rsp: page 1 + sp; rcx: cx; r15: TARGET. What they all point to is TARGET, unless
 * PLAIN.
 */
#define PLAIN 1u /* the window is a pattern, the same in each page */
#define DOWN  2u /* DF; rsi, rdi: 3 bytes before pages 3 and 5 */
#define STEPS 4u /* commits as it goes on: registers are not as before at a later fault */
#define AVX   8u
#define AVX5  16u
#define HIT   32u /* rax is TARGET as well */
#define STACK 64u /* what is below rsp may be written before a fault */
#define FULL  0x1122334455667788
#define ROWS(X)                                                                                  \
    X(push_r, 0x1004, 5, 0, 2, 0xffc, "push %rax")                                               \
    X(push_m, 0x1004, 5, 0, 0, -3, "push (%rdx)")                                                \
    X(push_imm, 0x1004, 5, 0, 2, 0xffc, "push $-2")                                              \
    X(push_sp, 0x1004, 5, 0, 2, 0xffc, "push %rsp")                                              \
    X(push_m_sp, 0x1004, 5, 0, 0, 0xffc, "push -8(%rsp)")                                        \
    X(push_16, 0x1001, 5, 0, 2, 0xfff, "pushw %ax")                                              \
    X(pop_r, 0xffc, 5, 0, 0, 0xffc, "pop %rax")                                                  \
    X(pop_m, 0xffc, 5, 0, 0, 0xffc, "pop (%rdx)")                                                \
    X(pop_m_sp, 0xffc, 5, 0, 0, 0xffc, "pop 0xff6(%rsp)")                                        \
    X(pop_sp, 0xffc, 5, 0, 0, 0xffc, "pop %rsp")                                                 \
    X(pop_16, 0xfff, 5, 0, 0, 0xfff, "popw %ax")                                                 \
    X(call, 0x1004, 5, 0, 2, 0xffc, "call 1f; nop; 1: nop")                                      \
    X(call_r, 0x1004, 5, 0, 2, 0xffc, "call *%r15")                                              \
    X(call_m, 0x1004, 5, 0, 0, -3, "call *(%rdx)")                                               \
    X(call_m_sp, 0xffc, 5, 0, 0, 0xffc, "call *(%rsp)")                                          \
    X(jmp_m, 0, 5, 0, 0, -3, "jmp *(%rdx)")                                                      \
    X(ret, 0xffc, 5, 0, 0, 0xffc, "ret")                                                         \
    X(ret_n, 0xffc, 5, 0, 0, 0xffc, "ret $0x123")                                                \
    X(lret, 0xffc, 5, 0, 0, ANY, "lretq")                                                        \
    X(iret, 0xfec, 5, 0, 0, ANY, "iretq")                                                        \
    X(enter_0, 0x1004, 5, 0, 2, 0xffc, "enter $0x20, $0")                                        \
    X(enter_1, 0x1004, 5, STACK, 2, 0xffc, "enter $0x20, $1")                                    \
    X(enter_3, 0x1004, 5, STACK, 2, 0xffc, "enter $0x20, $3")                                    \
    X(leave, 0, 5, 0, 0, -3, "leave")                                                            \
    X(pushf, 0x1004, 5, 0, 2, 0xffc, "pushf")                                                    \
    X(popf, 0xffc, 5, 0, 0, 0xffc, "popf")                                                       \
    X(mov_load, 0, 5, 0, 0, -3, "mov (%rdx), %rax")                                              \
    X(mov_load_base, 0, 5, 0, 0, -3, "mov (%r12), %r12")                                         \
    X(mov_store, 0, 5, 0, 2, -3, "mov %rax, (%rdx)")                                             \
    X(mov_moffs, 0, 5, 0, 2, -3, "movabs %rax, 0x10000000ffd")                                   \
    X(mov_imm, 0, 5, 0, 2, -3, "movl $0x12345, (%rdx)")                                          \
    X(movzx, 0, 5, 0, 0, -1, "movzwl 2(%rdx), %eax")                                             \
    X(movbe, 0, 5, 0, 2, -3, "movbe %rax, (%rdx)")                                               \
    X(movnti, 0, 5, 0, 2, -3, "movnti %rax, (%rdx)")                                             \
    X(cmovz, 0, 5, 0, 0, -3, "cmovz (%rdx), %rax")                                               \
    X(cmovnz, 0, 5, 0, 0, -3, "cmovnz (%rdx), %eax")                                             \
    X(setz, 0, 5, 0, 2, 0, "setz (%rbx)")                                                        \
    X(xchg, 0, 5, 0, 2, -3, "xchg %rax, (%rdx)")                                                 \
    X(cmpxchg_not, 0, 5, 0, 2, -3, "cmpxchg %rcx, (%rdx)")                                       \
    X(cmpxchg, 0, 5, HIT, 2, -3, "cmpxchg %rcx, (%rdx)")                                         \
    X(cmpxchg8b, 0, 5, 0, 2, -3, "cmpxchg8b (%rdx)")                                             \
    X(cmpxchg16b, 0, 5, 0, 2, 0, "lock cmpxchg16b (%rbx)")                                       \
    X(xadd, 0, 5, 0, 2, -3, "lock xadd %rax, (%rdx)")                                            \
    X(add_load, 0, 5, 0, 0, -3, "add (%rdx), %rax")                                              \
    X(add_store, 0, 5, 0, 2, -3, "add %rax, (%rdx)")                                             \
    X(adc_store, 0, 5, 0, 2, -3, "adc %eax, (%rdx)")                                             \
    X(sub_lock, 0, 5, 0, 2, -3, "lock sub %eax, (%rdx)")                                         \
    X(cmp, 0, 5, 0, 0, -3, "cmp %rax, (%rdx)")                                                   \
    X(inc, 0, 5, 0, 2, -3, "incl (%rdx)")                                                        \
    X(not, 0, 5, 0, 2, -3, "notq (%rdx)")                                                        \
    X(neg, 0, 5, 0, 2, -1, "negw 2(%rdx)")                                                       \
    X(shl, 0, 5, 0, 2, -3, "shlq $3, (%rdx)")                                                    \
    X(rcr_cl, 0, 5, 0, 2, -3, "rcrl %cl, (%rdx)")                                                \
    X(shld, 0, 5, 0, 2, -3, "shld $5, %rax, (%rdx)")                                             \
    X(bts, 0, 0x8005, 0, 2, 0xffd, "bts %rcx, (%rdx)")                                           \
    X(bt, 0, 5, 0, 0, -3, "bt %ecx, (%rdx)")                                                     \
    X(mul, 0, 5, 0, 0, -3, "mulq (%rdx)")                                                        \
    X(imul, 0, 5, 0, 0, -3, "imul $3, (%rdx), %rax")                                             \
    X(div, 0, 5, 0, 0, 0x10, "divq 0x10(%rbx)")                                                  \
    X(popcnt, 0, 5, 0, 0, -3, "popcnt (%rdx), %rax")                                             \
    X(crc32, 0, 5, 0, 0, -3, "crc32q (%rdx), %rax")                                              \
    X(mulx, 0, 5, 0, 0, -3, "mulx (%rdx), %rax, %r9")                                            \
    X(andn, 0, 5, 0, 0, -3, "andn (%rdx), %rax, %r9")                                            \
    X(xlat, 0, 5, 0, 0, 0x88, "xlat")                                                            \
    X(sgdt, 0, 5, 0, 2, -3, "sgdt (%rdx)")                                                       \
    X(movsb, 0, 5, 0, 0, -3, "movsb")                                                            \
    X(movsq, 0, 5, 0, 0, -3, "movsq")                                                            \
    X(stosq, 0, 5, 0, 2, 0x1ffd, "stosq")                                                        \
    X(lodsq, 0, 5, 0, 0, -3, "lodsq")                                                            \
    X(scasq, 0, 5, 0, 0, 0x1ffd, "scasq")                                                        \
    X(cmpsq, 0, 5, PLAIN, 0, ANY, "cmpsq")                                                       \
    X(rep_movsb, 0, 0x1008, STEPS, 0, -3, "rep movsb")                                           \
    X(rep_movsq, 0, 0x205, STEPS, 0, -3, "rep movsq")                                            \
    X(rep_movsw_down, 0, 0x803, STEPS | DOWN, 0, 0x1ffd, "rep movsw")                            \
    X(rep_stosb, 0, 0x1008, STEPS, 2, 0x1ffd, "rep stosb")                                       \
    X(rep_stosd_down, 0, 0x405, STEPS | DOWN, 2, 0x3ffd, "rep stosl")                            \
    X(rep_lodsq, 0, 0x205, STEPS, 0, -3, "rep lodsq")                                            \
    X(repe_cmpsb, 0, 0x1008, STEPS | PLAIN, 0, ANY, "repe cmpsb")                                \
    X(repe_cmpsq_down, 0, 0x205, STEPS | PLAIN | DOWN, 0, ANY, "repe cmpsq")                     \
    X(repne_scasb, 0, 0x1008, STEPS | PLAIN, 0, 0x1ffd, "repne scasb")                           \
    X(rep_movsb_32, 0, 0, STEPS, 0, NONE, "addr32 rep movsb; nop")                               \
    X(movups_load, 0, 5, 0, 0, -3, "movups (%rdx), %xmm0; movups %xmm0, res")                    \
    X(movups_store, 0, 5, 0, 2, -3, "movups %xmm5, (%rdx)")                                      \
    X(movaps_store, 0, 5, 0, 2, 0, "movaps %xmm5, (%rbx)")                                       \
    X(movss_load, 0, 5, 0, 0, -3, "movss (%rdx), %xmm0; movups %xmm0, res")                      \
    X(movhps_store, 0, 5, 0, 2, -3, "movhps %xmm5, (%rdx)")                                      \
    X(pinsrd, 0, 5, 0, 0, -3, "pinsrd $2, (%rdx), %xmm5; movups %xmm5, res")                     \
    X(paddd, 0, 5, 0, 0, 0, "paddd (%rbx), %xmm5; movups %xmm5, res")                            \
    X(cvtsi2sd, 0, 5, 0, 0, -3, "cvtsi2sdq (%rdx), %xmm5; movups %xmm5, res")                    \
    X(maskmovdqu, 0, 5, STEPS, 2, ANY, "maskmovdqu %xmm6, %xmm5")                                \
    X(fld80, 0, 5, 0, 0, -3, "fldt (%rdx); fstpt res")                                           \
    X(fstp80, 0, 5, 0, 2, -3, "fstpt (%rdx)")                                                    \
    X(fistp, 0, 5, 0, 2, -3, "fistpll (%rdx)")                                                   \
    X(fbstp, 0, 5, 0, 2, -3, "fbstp (%rdx)")                                                     \
    X(fadd, 0, 5, 0, 0, -3, "faddl (%rdx); fstpt res")                                           \
    X(fnstcw, 0, 5, 0, 2, -1, "fnstcw 2(%rdx)")                                                  \
    X(stmxcsr, 0, 5, 0, 2, -3, "stmxcsr (%rdx)")                                                 \
    X(fxsave, 0, 5, STEPS, 2, ANY, "fxsave -0x100(%rbx)")                                        \
    X(vmovups32_load, 0, 5, AVX, 0, -3, "vmovups (%rdx), %ymm0; vmovups %ymm0, res")             \
    X(vmovups32_store, 0, 5, AVX, 2, -3, "vmovups %ymm5, (%rdx)")                                \
    X(vpaddd32, 0, 5, AVX, 0, -3, "vpaddd (%rdx), %ymm5, %ymm5; vmovups %ymm5, res")             \
    X(vbroadcast, 0, 5, AVX, 0, -3, "vbroadcasti128 (%rdx), %ymm5; vmovups %ymm5, res")          \
    X(vmaskmov_load, 0, 5, AVX, 0, ANY, "vmaskmovps (%rdx), %ymm6, %ymm0; vmovups %ymm0, res")   \
    X(vmaskmov_store, 0, 5, AVX | STEPS, 2, ANY, "vmaskmovps %ymm5, %ymm6, (%rdx)")              \
    X(vgather, 0, 5, AVX, 0, ANY, "vpgatherdd %ymm6, (%rdx,%ymm7,8), %ymm5; vmovups %ymm5, res") \
    X(vmovups64_load, 0, 5, AVX5, 0, -3, "vmovups (%rdx), %zmm0; vmovups %zmm0, res")            \
    X(vmovups64_store, 0, 5, AVX5, 2, -3, "vmovups %zmm5, (%rdx)")                               \
    X(vmovups_k, 0, 5, AVX5 | STEPS, 2, ANY, "vmovups %zmm5, (%rdx){%k1}")                       \
    X(vcompress, 0, 5, AVX5 | STEPS, 2, ANY, "vpcompressd %zmm5, (%rdx){%k1}")                   \
    X(vscatter, 0, 5, AVX5 | STEPS, 2, ANY, "vpscatterdd %zmm5, (%rdx,%zmm7,8){%k1}")

/* Those that raise something else, always: id, rax, rcx, vector, code. */
#define HIGH 0x8000000000000000
#define OTHERS(X)                                                   \
    X(movaps_load, FULL, 5, GP, "movaps (%rdx), %xmm0")             \
    X(movaps_mis, FULL, 5, GP, "movaps %xmm5, (%rdx)")              \
    X(addps_mis, FULL, 5, GP, "addps (%rdx), %xmm0")                \
    X(cmpxchg16b_mis, FULL, 5, GP, "lock cmpxchg16b (%rdx)")        \
    X(fxsave_mis, FULL, 5, GP, "fxsave (%rdx)")                     \
    X(div_zero, FULL, 0, DE, "div %rcx")                            \
    X(div_over, FULL, 5, DE, "div %rcx")                            \
    X(div8_over, 0x7fff, 5, DE, "div %cl")                          \
    X(idiv_over, FULL, -1ull, DE, "idiv %rcx")                      \
    X(idiv32_zero, FULL, 0, DE, "idiv %ecx")                        \
    X(ud2_after, FULL, 5, UD, "ud2")                                \
    X(load, HIGH, 5, GP, "mov (%rax), %rcx")                        \
    X(load_index, HIGH - 40, 5, GP, "mov (%rax,%rcx,8), %rcx")      \
    X(load_disp, HIGH - 1, 5, GP, "mov 1(%rax), %rcx")              \
    X(load_as_index, HIGH, 0, GP, "mov (%rcx,%rax), %rcx")          \
    X(load_bp, HIGH, 5, SS, "mov (%rbp,%rax), %rcx")                \
    X(load_sp, HIGH, 5, SS, "mov (%rsp,%rax), %cl")                 \
    X(load_r13, HIGH, 5, GP, "mov (%r13,%rax), %cl")                \
    X(load_r12, HIGH, 5, GP, "mov (%r12,%rax), %cl")                \
    X(load_gs_bp, HIGH, 5, GP, "mov %gs:(%rbp,%rax), %cl")          \
    X(store_hole, 0x800000000000, 5, GP, "mov %rcx, (%rax)")        \
    X(store_hole_end, 0xffff7fffffffffff, 5, GP, "mov %cl, (%rax)") \
    X(rmw_hole, HIGH, 5, GP, "lock incq (%rax)")                    \
    X(movups_hole, HIGH, 5, GP, "movups %xmm5, (%rax)")             \
    X(push_hole, HIGH, 5, GP, "push (%rax)")                        \
    X(pop_hole, HIGH, 5, GP, "pop (%rax)")                          \
    X(call_hole, HIGH, 5, GP, "call *(%rax)")                       \
    X(bts_hole, HIGH, 5, GP, "bts %rax, -8(%rdx,%rax)")             \
    X(jmp_high, HIGH, 5, GP, "jmp *%rax")                           \
    X(call_high, HIGH, 5, GP, "call *%rax")                         \
    X(int_gate, FULL, 5, NP, "int $0x93")                           \
    X(cr_bit, HIGH, 5, GP, "mov %rax, %cr4")                        \
    X(rdmsr_bad, FULL, 0x12345678, GP, "rdmsr")

#define ANY                                         0x10000 /* a fault in whichever page, in the order the CPU likes */
#define NONE                                        0x20000 /* no fault */
#define ROW_CODE(id, sp, cx, kind, err, cr2, code)  __asm__("ro_" #id ": " code "; ro_" #id "_end:");
#define ROW_NAMES(id, sp, cx, kind, err, cr2, code) extern uint8_t ro_##id[], ro_##id##_end[];
#define ROW(id, sp, cx, kind, err, cr2, code)       {#id, ro_##id, ro_##id##_end, sp, cx, kind, err, cr2},
#define RAISE_CODE(id, ax, cx, vector, code)        __asm__("ra_" #id ": " code "; ra_" #id "_end:");
#define RAISE_NAMES(id, ax, cx, vector, code)       extern uint8_t ra_##id[], ra_##id##_end[];
#define RAISE(id, ax, cx, vector, code)             {#id, ra_##id, ra_##id##_end, ax, cx, vector},
ROWS(ROW_CODE)
ROWS(ROW_NAMES)
OTHERS(RAISE_CODE)
OTHERS(RAISE_NAMES)

static const struct row {
    const char *name;
    const uint8_t *code, *end;
    int sp; /* from page 1 on */
    uint64_t cx;
    unsigned kind;
    unsigned err; /* of the first fault if all is absent, and where from page 1 on */
    int cr2;
} rows[] = {ROWS(ROW)};

static const struct raise {
    const char *name;
    const uint8_t *code, *end;
    uint64_t ax, cx;
    unsigned vector;
} raises[] = {OTHERS(RAISE)};

/* ---- running them -------------------------------------------------------------------------------
 */

static struct {
    uint64_t regs[NREGS], vector, error, cr2, spots;
} faults[64];
static volatile unsigned nfaults;
static int vectors;

/* What is around the page ends. */
static uint64_t spots(void)
{
    uint64_t sum = 0;

    for (unsigned at = 0xff8; at < PAGES * 4096 - 8; at += at & 8 ? 8 : 0xff8)
        sum = (sum << 7 | sum >> 57) ^ *(uint64_t *)(PHYS + at);
    return sum;
}

static bool hook(struct frame *f)
{
    uint64_t cr2 = read_cr2();

    if (f->vector != BP && nfaults < COUNT(faults)) {
        frame_regs(f, faults[nfaults].regs);
        faults[nfaults].vector = f->vector;
        faults[nfaults].error = f->error;
        faults[nfaults].spots = spots();
        faults[nfaults++].cr2 = cr2;
        if (f->vector == PF && cr2 - W < PAGES * 4096 && nfaults < COUNT(faults)) {
            *pte(cr2, 1) |= PTE_P | PTE_W;
            return true;
        }
    }
    regs_leave(f);
    return true;
}

static void start(void)
{
    vectors = vectors_on();
    for (unsigned i = 0; i < 64; i++)
        vec_data[i] = (uint8_t)(0x40 + i);
    for (unsigned i = 0; i < PAGES; i++)
        map4k(W + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
    map4k(CODE, PHYS + (CODE - W), PTE_P | PTE_W);
    *(volatile uint8_t *)TARGET = 0xcc;
    regs_start(hook);
    idt_set(0x93, idt_stub(0x93), SEL_CODE, 0x0e, 0);
}

static void protect(unsigned pages, uint64_t clear)
{
    for (unsigned i = 0; i < PAGES; i++) {
        volatile uint64_t *e = pte(W + i * 4096, 1);

        *e |= PTE_P | PTE_W;
        if (pages >> i & 1)
            *e &= ~clear;
        invlpg((void *)(W + i * 4096));
    }
}

static void put64(unsigned off, uint64_t v)
{
    memcpy((void *)(PHYS + off), &v, 8);
}

static void copy(void *to, const void *from, size_t n)
{
    n /= 8;
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static uint8_t pattern[PAGES * 4096];

static void fill(const struct row *r)
{
    static const uint64_t frame[] = {TARGET, SEL_CODE, 2, W + 0x3000, SEL_DATA};

    if (!pattern[1])
        for (unsigned i = 0; i < sizeof(pattern); i++)
            pattern[i] = (uint8_t)(((i & 0xfff) * 7 + 3) & 0x7f);
    copy((void *)PHYS, pattern, sizeof(pattern));
    memset(res, 0, sizeof(res));
    if (r->kind & PLAIN)
        return;
    put64(0xffd, TARGET);
    for (unsigned i = 0; i < COUNT(frame) && r->sp; i++)
        put64((unsigned)r->sp + 0x1000 + 8 * i, frame[i]);
}

/* Copies code to a page of its own; everything that it may use is as a row says. */
static void prepare(const uint8_t *code, const uint8_t *code_end, uint64_t ax, uint64_t cx)
{
    size_t len = (size_t)(code_end - code);
    static unsigned n;
    uintptr_t page = CODE + ++n * 4096; /* never rewritten, so that it may be translated */
    uint8_t *to = (uint8_t *)page + 0x100;

    map4k(page, PHYS + (page - W), PTE_P | PTE_W);
    memset(to, 0xcc, 64);
    memcpy(to, code, len);
    for (unsigned i = 0; i < 16; i++)
        in_regs[i] = 0x0123456789abcdef * (i + 1);
    in_regs[0] = ax;
    in_regs[1] = cx;
    in_regs[2] = in_regs[5] = in_regs[6] = in_regs[12] = W + 0x1000 - 3;
    in_regs[3] = W + 0x1000;
    in_regs[4] = W + 0x2804;
    in_regs[7] = W + 0x3000 - 3;
    in_regs[13] = 0;
    in_regs[15] = TARGET;
    in_regs[RIP] = (uintptr_t)to;
    in_regs[RFL] = 2 | 0x41;
}

static void run(void)
{
    nfaults = 0;
    __asm__ volatile("fninit; fldpi; movups vec_data, %xmm5; pcmpeqd %xmm6, %xmm6");
    if (vectors >= HAS_AVX)
        __asm__ volatile(
            "vmovups vec_data, %ymm5; vpcmpeqd %ymm6, %ymm6, %ymm6; vpmovzxbd gather_at, %ymm7");
    if (vectors >= HAS_AVX512)
        __asm__ volatile(
            "vmovups vec_data, %%zmm5; vpmovzxbd gather_at, %%zmm7; mov $0x9249, %%eax;"
            "kmovw %%eax, %%k1"
            :
            :
            : "eax");
    regs_run();
}
uint8_t gather_at[16] = {0, 8, 16, 100, 200, 17, 3, 250, 90, 91, 92, 93, 180, 181, 7, 5};

static uint8_t want_mem[PAGES * 4096];
static uint64_t want_regs[NREGS], want_res[64];

static bool same_memory(const char *name)
{
    const void *have = (void *)PHYS, *want = want_mem;
    size_t n = PAGES * 512;
    bool same;

    __asm__ volatile("repe cmpsq" : "+D"(have), "+S"(want), "+c"(n), "=@ccz"(same) : : "memory");
    for (unsigned i = 0; i < PAGES * 4096 && !same; i += 8)
        if (!row_is(name, *(uint64_t *)(PHYS + i), *(uint64_t *)(want_mem + i)))
            return false;
    for (unsigned i = 0; i < COUNT(res); i++)
        if (!row_is(name, res[i], want_res[i]))
            return false;
    return true;
}

/* Every fault is a page fault at the instruction, of a page that was taken away, all as before it.
 */
static bool good_faults(const struct row *r, unsigned pages, uint64_t cleared, uint64_t before)
{
    for (unsigned i = 0; i < nfaults; i++) {
        uint64_t page = (faults[i].cr2 - W) >> 12;

        if (!row_is(r->name, faults[i].vector, PF) ||
            !row_is("IP", faults[i].regs[RIP], in_regs[RIP]) ||
            !row_is("page", page < PAGES && pages >> page & 1, 1) ||
            !row_is("error", faults[i].error & ~2ull, cleared == PTE_P ? 0 : 1))
            return false;
        if (!(r->kind & STEPS) &&
            (!same_regs(r->name, faults[i].regs, in_regs, 16) ||
             (!(r->kind & STACK) && !row_is("memory at the fault", faults[i].spots, before)))) {
            fail_at(r->name, pages, cleared);
            return false;
        }
    }
    return true;
}

static bool with_pages(const struct row *r, unsigned pages, uint64_t cleared)
{
    uint64_t before;

    fill(r);
    before = spots();
    protect(pages, cleared);
    run();
    protect(0, 0);
    return good_faults(r, pages, cleared, before) &&
           same_regs(r->name, out_regs, want_regs, RIP + 1) &&
           row_is("flags", out_regs[RFL] & FLAGS, want_regs[RFL] & FLAGS) && same_memory(r->name);
}

static bool fault_row(const struct row *r)
{
    prepare(r->code, r->end, r->kind & HIT ? TARGET : FULL, r->cx);
    if (r->sp)
        in_regs[4] = W + 0x1000 + (uint64_t)r->sp;
    if (r->kind & DOWN) {
        in_regs[6] = W + 0x3000 - 3;
        in_regs[7] = W + 0x5000 - 3;
        in_regs[RFL] |= 0x400;
    }
    /* The first run tells what comes of it. */
    fill(r);
    protect(0, 0);
    run();
    if (!row_is(r->name, nfaults, 0))
        return false;
    memcpy(want_regs, out_regs, sizeof(want_regs));
    copy(want_mem, (void *)PHYS, sizeof(want_mem));
    memcpy(want_res, res, sizeof(want_res));
    for (unsigned warm = 0; warm < 2; warm++) {
        for (unsigned n = 0; n < (warm ? HOT / 2 : 0); n++) {
            if (!(r->kind & STEPS) || n % 16 == 0)
                fill(r);
            run();
            if (!row_is(r->name, nfaults, 0) || !same_regs(r->name, out_regs, want_regs, RIP + 1))
                return false;
        }
        for (unsigned again = 0; again < 2; again++) {
            if (!with_pages(r, 0xff, PTE_P))
                return false;
            if (r->cr2 < ANY && (!row_is(r->name, faults[0].cr2, W + 0x1000 + (uint64_t)r->cr2) ||
                                 !row_is(r->name, faults[0].error, r->err)))
                return false;
            if (!row_is(r->name, nfaults > 0, r->cr2 != NONE) || !with_pages(r, 0xff, PTE_W))
                return false;
            for (unsigned page = 0; page < PAGES; page++)
                if (!with_pages(r, 1u << page, PTE_P) || !with_pages(r, 1u << page, PTE_W))
                    return false;
        }
    }
    return true;
}

static void faults_in_mid_instruction(void)
{
    start();
    for (unsigned i = 0; i < COUNT(rows); i++) {
        int need = rows[i].kind & AVX5 ? HAS_AVX512 : rows[i].kind & AVX ? HAS_AVX : HAS_SSE;

        if (need <= vectors)
            fault_row(&rows[i]);
    }
    regs_end();
}

static void faults_of_other_kinds(void)
{
    start();
    for (unsigned i = 0; i < COUNT(raises); i++) {
        const struct raise *r = &raises[i];
        uint64_t before;

        prepare(r->code, r->end, r->ax, r->cx);
        before = spots();
        for (unsigned n = 0; n < HOT; n++) {
            run();
            if (!row_is(r->name, nfaults, 1) || !row_is(r->name, faults[0].vector, r->vector) ||
                !row_is(r->name, faults[0].error, r->vector == NP ? 0x93 * 8 + 2 : 0) ||
                !same_regs(r->name, faults[0].regs, in_regs, RIP + 1) ||
                !row_is(r->name, faults[0].spots, before))
                break;
        }
    }
    regs_end();
}

/* ---- loops that meet one bad element ------------------------------------------------------------
 */

/*
 * rcx counts, r8 adds up what the element in rax comes to. The bad one raises; the handler looks at
 * the registers, puts the good one there and goes on.
 */
#define LOOPS(X)                                                                 \
    X(div, DE, 7, 0, "mov $100, %eax; mov $0, %edx; div %r9")                    \
    X(div_overflow, DE, 7, 1, "mov $100, %eax; mov $6, %edx; div %r9")           \
    X(div_8, DE, 7, 0, "mov $100, %eax; div %r9b; movzx %al, %eax")              \
    X(idiv_32, DE, 7, 0, "mov $-100, %eax; cdq; idiv %r9d")                      \
    X(load, GP, W, HIGH, "mov (%r9), %rax")                                      \
    X(load_disp, GP, W, HIGH, "mov 0x40(%r9), %eax")                             \
    X(load_pf, PF, W, W + 0x7000, "mov (%r9), %rax; add 8(%r9), %rax")           \
    X(load_twice, PF, W, W + 0x6ffc, "mov 4(%r9), %eax; add (%r9), %rax")        \
    X(store_pf, PF, W, W + 0x7000, "mov %rcx, %rax; mov %rax, (%r9)")            \
    X(rmw, PF, W, W + 0x6ffc, "lock incq (%r9); mov $3, %eax")                   \
    X(push_m, GP, W, HIGH, "push (%r9); pop %rax")                               \
    X(movaps, GP, W, W + 8, "movaps (%r9), %xmm0; movq %xmm0, %rax")             \
    X(movups_pf, PF, W, W + 0x6ff8, "movups (%r9), %xmm0; movq %xmm0, %rax")     \
    X(stack, SS, 0, HIGH, "mov (%rsp,%r9), %rax; mov $1, %eax")                  \
    X(call, GP, 0, HIGH,                                                         \
      "lea 3f(%rip), %rax; add %r9, %rax; call *%rax; jmp 4f; 3: mov $2, %eax;"  \
      "ret; 4:")                                                                 \
    X(divsd, XM, 3, 0,                                                           \
      "mov $12, %eax; cvtsi2sd %eax, %xmm0; cvtsi2sd %r9, %xmm1;"                \
      "divsd %xmm1, %xmm0; cvttsd2si %xmm0, %rax")                               \
    X(fidiv, MF, 3, 0,                                                           \
      "mov %r9, res; movl $12, res + 8; fildl res + 8; fidivl res; fistpll res;" \
      "mov res, %rax")
#define LOOP_CODE(id, vector, good, bad, code)                                                    \
    __asm__(                                                                                      \
        "lo_" #id                                                                                 \
        ": push %rbx; mov $0, %ecx; mov $0, %r8d; 1: mov (%rdi,%rcx,8), %r9; lea -1(%rcx), %r10;" \
        "not %r10; " code "; add %rax, %r8; inc %rcx; cmp %rsi, %rcx; jne 1b; mov %r8, %rax;"     \
        "pop %rbx; ret");
#define LOOP_NAMES(id, vector, good, bad, code) uint64_t lo_##id(const uint64_t *of, uint64_t n);
#define LOOP_ROW(id, vector, good, bad, code)   {#id, lo_##id, good, bad, vector},
LOOPS(LOOP_CODE)
LOOPS(LOOP_NAMES)
static const struct loop {
    const char *name;
    uint64_t (*run)(const uint64_t *of, uint64_t n);
    uint64_t good, bad;
    unsigned vector;
} loops[] = {LOOPS(LOOP_ROW)};

static uint64_t elements[HOT], at_fault[3];
static const struct loop *now;

static bool loop_hook(struct frame *f)
{
    static const uint32_t four = 4;

    nfaults++;
    at_fault[0] = f->vector;
    at_fault[1] = f->cx;
    at_fault[2] = f->r10 + f->cx;
    switch (f->vector) {
    case PF:
        protect(0, 0);
        break;
    case MF: /* 12 / 3, and the exception is over */
        __asm__ volatile("fnclex; fstp %%st(0); fildl %0" : : "m"(four));
        break;
    case XM:
        __asm__ volatile("cvtsi2sd %0, %%xmm1" : : "r"(3));
        break;
    }
    if (now->run == lo_call)
        f->ax = f->ip + 4;
    if (f->vector != PF)
        f->r9 = now->good;
    return f->vector == now->vector;
}

static void loops_with_one_bad_element(void)
{
    uint32_t mxcsr = 0x1d80; /* zero divide unmasked, as in cw */
    uint16_t cw = 0x37b;
    const struct row plain = {.kind = PLAIN};

    start();
    trap_hook = loop_hook;
    __asm__ volatile("fninit; fldcw %0; ldmxcsr %1" : : "m"(cw), "m"(mxcsr));
    for (unsigned i = 0; i < COUNT(loops); i++) {
        unsigned bad = HOT - 7, faulty = loops[i].vector == PF;
        uint64_t want = 0, got;

        now = &loops[i];
        for (unsigned n = 0; n < HOT; n++)
            elements[n] = now->good;
        for (unsigned round = 0; round < 6; round++) {
            if (round == 3)
                bad = 0; /* the first is the bad one */
            fill(&plain);
            for (unsigned n = 0; n < HOT; n++)
                elements[n] = n == bad && (faulty || round) ? now->bad : now->good;
            if (faulty && round)
                protect(0x80, PTE_P);
            nfaults = 0;
            got = now->run(elements, HOT);
            want = round == 0 || (faulty && round == 3) ? got : want;
            if (!row_is(now->name, nfaults, round != 0) || !row_is(now->name, got, want))
                break;
            if (round &&
                (!row_is(now->name, at_fault[1], bad) || !row_is(now->name, at_fault[2], 0)))
                break;
        }
    }
    mxcsr = 0x1f80;
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
    regs_end();
}

/* ---- stacks at odd places -----------------------------------------------------------------------
 */

/* The sum from 1 to n by recursion, with locals in a frame; on the stack given. */
uint64_t sum_on(uint64_t n, uint64_t sp);
__asm__(
    "sum_on: push %rbp; push %rbx; mov %rsp, %rbx; mov %rsi, %rsp; push %rbx; call 1f; pop %rsp;"
    "pop %rbx; pop %rbp; ret; 1: push %rbp; mov %rsp, %rbp; push %rdi; sub $40, %rsp;"
    "mov %rdi, -24(%rbp); movups %xmm5, -0x28(%rbp); xor %eax, %eax; test %rdi, %rdi; jz 2f;"
    "dec %rdi; movq $0, (%rsp); call 1b; add -24(%rbp), %rax; add (%rsp), %rax; 2: add $40, %rsp;"
    "pop %rdi; leave; ret");

static void frames_across_pages(void)
{
    start();
    for (unsigned n = 0; n < HOT; n++) {
        if (n % 16 == 15)
            protect(n & 16 ? 0x40 : 0xff, n & 32 ? PTE_P : PTE_W);
        nfaults = 0;
        if (!row_is("sum", sum_on(100, W + 0x7800 - n), 5050) || !row_is("faults", nfaults,
                                                                         n % 16 != 15 ? 0
                                                                         : n & 16     ? 1
                                                                                      : 3))
            break;
    }
    regs_end();
}

const struct guest_case guest_cases[] = {
    {"faults in mid-instruction", faults_in_mid_instruction},
    {"faults of other kinds", faults_of_other_kinds},
    {"loops with one bad element", loops_with_one_bad_element},
    {"frames across pages", frames_across_pages},
};
const unsigned guest_ncases = COUNT(guest_cases);
