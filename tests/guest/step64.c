/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes between instructions: single steps, breakpoints, timer interrupts, the windows in
 * which interrupts are let in; on code that is cold and on code that is warm. SDM vol. 3A 6.8, 6.9,
 * vol. 3B 18.3.
 */
#include "rt/irq.h"
#include "rt/regs.h"

#define W      0x10000000000ull
#define CODE   (W + 0x100000)
#define PHYS   0x2000000ull
#define ABSENT 0x7f000000ull
#define PAIRS  80u /* of pages for code */
#define MASK   0xcd5u

uint64_t res[128] __attribute__((aligned(64)));
uint8_t vec_data[2048] __attribute__((aligned(64)));

/* ---- single steps -------------------------------------------------------------------------------
 */

/*
 * The code, and where each step finds RIP: labels, each in front of an instruction or of the INT3
 * at the end. rbx: memory; rsi, rdi: memory; rsp: a stack.
 */
#define NOTF   1u /* starts with TF clear */
#define VARIES 2u /* rax is not the same with TF, or the time is read */
#define ROWS(X)                                                                                        \
    X(alu, 0, "add %rax, %rcx; 1: adc (%rbx), %rax; 2: imul %rcx, %rax; 3: lock incq (%rbx); 4:",      \
      "1b-S, 2b-S, 3b-S, 4b-S")                                                                        \
    X(branches, 0,                                                                                     \
      "cmp %rax, %rax; 1: jne 9f; 2: je 3f; 9: int3; 3: cmovz %rcx, %rax; 4: setz %al; 5:",            \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S")                                                                  \
    X(counted, 0, "mov $2, %ecx; 1: dec %ecx; 2: jnz 1b; 3: jrcxz 4f; int3; 4:",                       \
      "1b-S, 2b-S, 1b-S, 2b-S, 3b-S, 4b-S")                                                            \
    X(loop, 0, "mov $3, %ecx; 1: loop 1b; 2:", "1b-S, 1b-S, 1b-S, 2b-S")                               \
    X(call, 0, "call 3f; 1: jmp 4f; 3: nop; 2: ret; 4:", "3b-S, 2b-S, 1b-S, 4b-S")                     \
    X(indirect, 0,                                                                                     \
      "lea 2f(%rip), %rax; 1: jmp *%rax; int3; 2: lea 4f(%rip), %rax; 3: push %rax;"                   \
      "5: ret; int3; 4:",                                                                              \
      "1b-S, 2b-S, 3b-S, 5b-S, 4b-S")                                                                  \
    X(far_return, 0,                                                                                   \
      "mov %cs, %eax; 1: push %rax; 2: lea 5f(%rip), %rax; 3: push %rax; 4: lretq;"                    \
      "int3; 5:",                                                                                      \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S")                                                                  \
    X(stack, 0,                                                                                        \
      "push %rax; 1: pushq (%rbx); 2: pop %rcx; 3: pop (%rbx); 4: enter $8, $1; 5: leave; 6:",         \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S, 6b-S")                                                            \
    X(strings, 0,                                                                                      \
      "movsb; 1: stosq; 2: lodsb; 3: scasb; 4: cmpsb; 5:", "1b-S, 2b-S, 3b-S, 4b-S, 5b-S")             \
    X(rep_movs, 0, "mov $3, %ecx; 1: rep movsb; 2:", "1b-S, 1b-S, 1b-S, 2b-S")                         \
    X(rep_none, 0, "mov $0, %ecx; 1: rep movsb; 2: nop; 3:", "1b-S, 2b-S, 3b-S")                       \
    X(repne_scas, 0, "mov (%rdi), %eax; 1: repne scasb; 2:", "1b-S, 2b-S")                             \
    X(pushf, VARIES, "pushf; 1: pop %rax; 2:", "1b-S, 2b-S")                                           \
    X(popf_off, 0, "push $2; 1: popf; 2: nop; nop", "1b-S, 2b-S")                                      \
    X(popf_on, NOTF | VARIES, "pushf; orl $0x100, (%rsp); popf; 1: nop; 2: nop; 3:", "2b-S, 3b-S")     \
    X(iret_on, NOTF | VARIES,                                                                          \
      "mov %rsp, %rcx; push $0x10; push %rcx; pushf; orl $0x100, (%rsp); push $8; lea 1f(%rip), %rax;" \
      "push %rax; iretq; int3; 1: nop; 2: nop; 3:",                                                    \
      "2b-S, 3b-S")                                                                                    \
    X(mov_ss, 0, "mov %ss, %eax; 1: mov %eax, %ss; 2: nop; 3: nop; 4:", "1b-S, 3b-S, 4b-S")            \
    X(sti, 0, "sti; 1: nop; 2: cli; 3:", "1b-S, 2b-S, 3b-S")                                           \
    X(interrupt, 0, "int $0x90; 1: nop; 2: nop; 3:", "2b-S, 3b-S")                                     \
    X(icebp, 0, ".byte 0xf1; 1: nop; 2:", "1b-S, 2b-S")                                                \
    X(undefined, 0, "ud2; 1: nop; 2: nop; 3:", "2b-S, 3b-S")                                           \
    X(page_fault, 0, "mov 0x7f000000, %eax; 1: nop; 2:", "1b-S, 2b-S")                                 \
    X(fault_push, 0, "push 0x7f000ff8; 1: pop %rax; 2:", "1b-S, 2b-S")                                 \
    X(x87, 0, "fld1; 1: fadd %st, %st(0); 2: fistpl (%rbx); 3: fnstsw %ax; 4: fwait; 5:",              \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S")                                                                  \
    X(sse, 0,                                                                                          \
      "movups (%rbx), %xmm0; 1: paddd %xmm0, %xmm0; 2: movups %xmm0, (%rbx); 3: movd %xmm0, %eax; 4:", \
      "1b-S, 2b-S, 3b-S, 4b-S")                                                                        \
    X(system, VARIES,                                                                                  \
      "mov %cr3, %rax; 1: mov %rax, %cr3; 2: invlpg (%rbx); 3: mov %cr8, %rax; 4:"                     \
      "rdtsc; 5: swapgs; 6: swapgs; 7:",                                                               \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S, 6b-S, 7b-S")                                                      \
    X(cpuid, 0, "xor %eax, %eax; 1: xor %ecx, %ecx; 2: cpuid; 3: mov %eax, %ebx; 4:",                  \
      "1b-S, 2b-S, 3b-S, 4b-S")                                                                        \
    X(ports, 0, "in $0x21, %al; 1: out %al, $0x80; 2: nop; 3:", "1b-S, 2b-S, 3b-S")                    \
    X(segments, 0, "mov %ds, %eax; 1: mov %eax, %ds; 2: nop; 3:", "1b-S, 2b-S, 3b-S")                  \
    X(modifies, 0,                                                                                     \
      "lea 3f(%rip), %rdx; 1: movb $5, 1(%rdx); 2: nop; 3: mov $9, %eax; 4:"                           \
      "movb $9, 1(%rdx); 5:",                                                                          \
      "1b-S, 2b-S, 3b-S, 4b-S, 5b-S")                                                                  \
    X(syscall, VARIES, "syscall; 1: nop; 2: nop; 3:", "1b-S, 2b-S, 3b-S")                              \
    X(syscall_masked, VARIES, "syscall; 1: nop; 2: nop; 3:", "")

#define ROW_CODE(id, flags, code, seq)                                                  \
    __asm__(".set S, .; ss_" #id ": " code "; ss_" #id "_end: int3; .balign 2; ss_" #id \
            "_seq: .short " seq "; .short 0xffff");
#define ROW_NAMES(id, flags, code, seq)        \
    extern uint8_t ss_##id[], ss_##id##_end[]; \
    extern const uint16_t ss_##id##_seq[];
#define ROW(id, flags, code, seq) {#id, ss_##id, ss_##id##_end, ss_##id##_seq, flags},
ROWS(ROW_CODE)
ROWS(ROW_NAMES)
static const struct row {
    const char *name;
    const uint8_t *code, *end;
    const uint16_t *seq;
    unsigned flags;
} rows[] = {ROWS(ROW)};

void syscall_back(void);
__asm__("syscall_back: jmp *%rcx");

static uint64_t steps[64];
static unsigned nsteps;
static int vectors;
static volatile uint64_t *absent;

static bool step_hook(struct frame *f)
{
    switch (f->vector) {
    case DB:
        if (f->ip - (in_regs[RIP] & ~0x1fffull) < 0x2000 && nsteps < COUNT(steps))
            steps[nsteps++] = f->ip - in_regs[RIP];
        write_dr6(0xffff0ff0);
        return true;
    case UD:
        f->ip += 2;
        return true;
    case PF:
        *absent = (PHYS + 0x9000) | PTE_P | PTE_W;
        return true;
    case 0x90:
        return true;
    }
    return regs_hook(f);
}

static void begin(bool (*hook)(struct frame *))
{
    vectors = vectors_on();
    for (unsigned i = 0; i < 8; i++)
        map4k(W + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
    for (unsigned i = 0; i < 2 * PAIRS; i++)
        map4k(CODE + i * 4096, PHYS + 0x10000 + i * 4096, PTE_P | PTE_W);
    memset((void *)CODE, 0xcc, 2 * PAIRS * 4096);
    absent = pte(ABSENT, 1);
    regs_start(hook);
}

static void place(const uint8_t *code, const uint8_t *end, uintptr_t to)
{
    size_t len = (size_t)(end - code);

    /* Written once: what is rewritten too often may never be translated. */
    for (size_t i = 0; i < len; i++)
        if (((volatile uint8_t *)to)[i] != code[i])
            ((volatile uint8_t *)to)[i] = code[i];
    for (unsigned i = 0; i < 16; i++)
        in_regs[i] = 0x9182736455463728 + 0x101 * i;
    in_regs[RBX] = W + 0x100;
    in_regs[RSP] = W + 0x1800;
    in_regs[RBP] = W + 0x1400;
    in_regs[RSI] = W + 0x2ffa;
    in_regs[RDI] = W + 0x4ffb;
    in_regs[RIP] = to;
    in_regs[RFL] = 2;
}

static void fresh(void)
{
    for (unsigned i = 0; i < 0x200; i += 8)
        *(volatile uint64_t *)(W + i) = 0x1112131415161718 * (uint64_t)i;
    for (unsigned i = 0; i < 0x20; i++)
        *(volatile uint64_t *)(W + 0x2ff0 + i) = *(volatile uint64_t *)(W + 0x4ff0 + i) = i;
    *absent = 0;
    invlpg((void *)ABSENT);
}

static bool stepped(const struct row *r, const uint64_t *want)
{
    unsigned n = 0;

    in_regs[RFL] = r->flags & NOTF ? 2 : 2 | FLAG_TF;
    nsteps = 0;
    fresh();
    regs_run();
    if (!(r->flags & NOTF) && !row_is(r->name, steps[n++], 0)) /* behind the jump to it */
        return false;
    for (unsigned k = 0; r->seq[k] != 0xffff; k++)
        if (!row_is(r->name, n < nsteps ? steps[n++] : -1ull, r->seq[k]))
            return false;
    if (r->flags & VARIES)
        out_regs[RAX] = out_regs[RDX] = out_regs[11] = 0;
    return row_is(r->name, nsteps, n) && same_regs(r->name, out_regs, want, RIP + 1) &&
           row_is(r->name, out_regs[RFL] & MASK, want[RFL] & MASK);
}

static void single_steps(void)
{
    uint64_t want[NREGS];

    begin(step_hook);
    wrmsr(0xc0000081, (uint64_t)SEL_CODE << 32);
    wrmsr(0xc0000082, (uintptr_t)syscall_back);
    for (unsigned i = 0; i < COUNT(rows); i++)
        for (unsigned at = 0; at < 2; at++) {
            const struct row *r = &rows[i];
            bool good;

            wrmsr(0xc0000084, r->seq[0] == 0xffff ? FLAG_TF : 0);
            __asm__ volatile("fninit");
            place(r->code, r->end,
                  CODE + (2 * i + at) * 0x2000 +
                      (at ? 0x1000 - (size_t)(r->end - r->code) / 2 : 0x100));
            for (unsigned n = 0; n < HOT; n++) {
                fresh();
                regs_run();
                if (r->flags & VARIES)
                    out_regs[RAX] = out_regs[RDX] = out_regs[11] = 0;
                if (n == 0) {
                    for (unsigned k = 0; k < NREGS; k++)
                        want[k] = out_regs[k];
                } else if (!same_regs(r->name, out_regs, want, RIP + 1)) {
                    break;
                }
                in_regs[RFL] = 2;
                /* Stepped cold, then while warm, and when warm. */
                good = n != 0 && n % 500 != 499 ? true : stepped(r, want);
                in_regs[RFL] = 2;
                if (!good)
                    break;
            }
        }
    wrmsr(0xc0000084, 0);
    regs_end();
}

/* ---- breakpoints --------------------------------------------------------------------------------
 */

#define TURNS 40u

extern uint8_t hb_code[], hb_l1[], hb_l2[], hb_l3[], hb_l4[], hb_l5[], hb_l6[], hb_l7[], hb_end[];
/* rbx: memory watched; a store, a load, a read-modify-write, a push, a string. */
__asm__(
    "hb_code: mov $40, %ecx; hb_l1: mov %rcx, (%rbx); hb_l2: mov (%rbx), %rdx; hb_l3: incl 8(%rbx);"
    "hb_l4: push %rdx; hb_l5: pop %rdx; lea 24(%rbx), %rdi; stosb; hb_l6: movups %xmm5, 32(%rbx);"
    "hb_l7: dec %ecx; jnz hb_l1; hb_end:");

static const struct {
    const char *name;
    uint32_t at, type; /* offset from rbx, DR7's R/W and LEN of it; EXEC: a label */
    const uint8_t *ip; /* where each hit is reported... */
    unsigned hits;     /* ... and how many there are a turn */
} points[] = {
#define EXEC 0xffffffffu
    {"execute the first", EXEC, 0, hb_l1, 1},
    {"execute a load", EXEC, 0, hb_l2, 1},
    {"execute a push", EXEC, 0, hb_l4, 1},
    {"execute the last", EXEC, 0, hb_l7, 1},
    {"write 1", 0, 1, hb_l2, 1},
    {"write 1 inside", 7, 1, hb_l2, 1},
    {"write 4", 4, 0xd, hb_l2, 1},
    {"write 8", 0, 9, hb_l2, 1},
    {"read or write 8", 0, 0xb, hb_l2, 2},
    {"write of an increment", 8, 0xd, hb_l4, 1},
    {"access of an increment", 8, 0xf, hb_l4, 1},
    {"a neighbour", 12, 0xd, NULL, 0},
    {"a push", -8u + 0x1700, 9, hb_l5, 1},
    {"a string", 24, 1, hb_l6, 1},
    {"behind a string", 25, 1, NULL, 0},
    {"a vector", 44, 0xd, hb_l7, 1},
    {"behind a vector", 48, 0xd, NULL, 0},
};

static unsigned hits, bad_hits;
static uint64_t first_ip, second_ip;
static bool point_hook(struct frame *f)
{
    if (f->vector != DB)
        return regs_hook(f);
    if (f->ip - (in_regs[RIP] & ~0x1fffull) < 0x2000) {
        if (!(read_dr6() & 1))
            bad_hits++;
        if (hits == 0)
            first_ip = f->ip;
        else if (hits == 1)
            second_ip = f->ip;
        hits++;
    }
    write_dr6(0xffff0ff0);
    f->flags |= FLAG_RF;
    return true;
}

static void breakpoints_on_warm_code(void)
{
    begin(point_hook);
    for (unsigned at = 0; at < 2; at++) {
        size_t len = (size_t)(hb_end - hb_code);
        uintptr_t to = CODE + at * 0x2000 + (at ? 0x1000 - len / 2 : 0x100);

        for (unsigned warm = 0; warm < 3; warm++)
            for (unsigned i = 0; i < COUNT(points); i++) {
                uint64_t want = points[i].hits * TURNS, second;

                place(hb_code, hb_end, to);
                in_regs[RSP] = in_regs[RBX] + 0x1700;
                for (unsigned n = 0; n < (warm ? HOT / TURNS : 0); n++) {
                    hits = 0;
                    regs_run();
                    row_is("before", hits, 0);
                }
                hits = bad_hits = 0;
                write_dr0(points[i].at == EXEC ? to + (size_t)(points[i].ip - hb_code)
                                               : in_regs[RBX] + points[i].at);
                write_dr7(0x402 | points[i].type << 16);
                regs_run();
                write_dr7(0x400);
                second = points[i].hits == 2 ? to + (size_t)(hb_l3 - hb_code) : first_ip;
                if (!row_is(points[i].name, hits, want) || !row_is(points[i].name, bad_hits, 0))
                    continue;
                if (want) {
                    row_is(points[i].name, first_ip - to, (size_t)(points[i].ip - hb_code));
                    row_is(points[i].name, second_ip, second);
                }
                hits = 0;
                regs_run();
                row_is("behind", hits, 0);
                row_is("rcx", out_regs[RCX], 0);
            }
    }
    regs_end();
}

/* ---- interrupts in hot loops --------------------------------------------------------------------
 */

/* Each leaves in registers, in res and in vector registers what does not depend on when it was
 * stopped. */
#define BUSY(X)                                                                                               \
    X(empty, "stc; mov $30000, %ecx; 1: dec %ecx; jnz 1b")                                                    \
    X(loop, "stc; mov $20000, %ecx; 1: loop 1b")                                                              \
    X(arithmetic,                                                                                             \
      "mov $3000, %ecx; 1: add %rcx, %rax; adc %rax, %rdx; rol $7, %rdx; imul %rdx, %r8;"                     \
      "xor %r8, %r9; sbb %r9, %r10; bswap %r10; lea (%r10,%r11,4), %r11; dec %ecx; jnz 1b")                   \
    X(rep_movs, "mov $6, %edx; 1: lea res, %rsi; lea res + 512, %rdi; mov $512, %ecx; rep movsb;"             \
                "dec %edx; jnz 1b")                                                                           \
    X(rep_movs_far, "mov %rbx, %rsi; lea 0x1800(%rbx), %rdi; mov $0x1400, %ecx; rep movsb")                   \
    X(rep_stos, "mov $30, %edx; 1: lea res, %rdi; mov $128, %ecx; rep stosq; dec %edx; jnz 1b")               \
    X(repe_cmps, "mov %rbx, %rsi; mov %rbx, %rdi; mov $0x2000, %ecx; repe cmpsb")                             \
    X(calls, "mov $3000, %ecx; 1: call 2f; dec %ecx; jnz 1b; jmp 9f; 2: add $3, %rax; jc 3f; ret;"            \
             "3: lea 1(%rdx), %rdx; ret; 9:")                                                                 \
    X(chained,                                                                                                \
      "mov $2000, %ecx; 1: jmp 3f; 2: jmp 4f; 3: jmp 2b; 4: jrcxz 5f; dec %rcx; jmp 1b; 5:")                  \
    X(indirect, "mov $2000, %ecx; lea 1f(%rip), %rdx; 1: dec %ecx; jz 2f; jmp *%rdx; 2:")                     \
    X(memory, "mov $3000, %ecx; 1: addq $3, (%rbx); mov (%rbx), %rax; xor %rax, 8(%rbx);"                     \
              "lock xadd %rax, 16(%rbx); push %rax; pop 24(%rbx); dec %ecx; jnz 1b")                          \
    X(flags,                                                                                                  \
      "mov $2000, %ecx; 1: add %rcx, %rax; pushf; pop %rdx; and $0x8d5, %edx; add %rdx, %r8;"                 \
      "setc %r9b; lahf; sahf; pushf; popf; dec %ecx; jnz 1b; mov $0, %edx")                                   \
    X(carried, "mov $2000, %ecx; stc; 1: adc $0, %rax; rcl $1, %rdx; dec %ecx; jnz 1b")                       \
    X(sse, "mov $2000, %ecx; 1: paddd %xmm5, %xmm0; pxor %xmm0, %xmm1; movups %xmm1, res;"                    \
           "pshufd $0x1b, %xmm1, %xmm1; dec %ecx; jnz 1b")                                                    \
    X(x87,                                                                                                    \
      "mov $1000, %ecx; fldz; 1: fld1; faddp; fldpi; fmulp; fld1; faddp; fsqrt; dec %ecx; jnz 1b; fstpt res") \
    X(windows, "mov $1500, %ecx; 1: cli; inc %rax; sti; nop; cli; inc %rdx; sti; dec %ecx; jnz 1b")

#define BUSY_CODE(id, code)  __asm__("bz_" #id ": " code "; bz_" #id "_end:");
#define BUSY_NAMES(id, code) extern uint8_t bz_##id[], bz_##id##_end[];
#define BUSY_ROW(id, code)   {#id, bz_##id, bz_##id##_end},
BUSY(BUSY_CODE)
BUSY(BUSY_NAMES)
static const struct busy {
    const char *name;
    const uint8_t *code, *end;
} busy[] = {BUSY(BUSY_ROW)};

static unsigned ticks;
static bool tick_hook(struct frame *f)
{
    if (f->vector != 0x40)
        return regs_hook(f);
    ticks++;
    lapic_w(0xb0, 0);
    return true;
}

/* All the vector registers from vec_data; back behind them. */
static void vectors_load(void)
{
    for (unsigned i = 0; i < sizeof(vec_data); i++)
        vec_data[i] = (uint8_t)(i * 13 + (i >> 6));
    __asm__ volatile("fninit; .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15;"
                     "movups vec_data + 64 * \\n, %xmm\\n; .endr");
    if (vectors >= HAS_AVX)
        __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15;"
                         "vmovups vec_data + 64 * \\n, %ymm\\n; .endr");
    if (vectors >= HAS_AVX512)
        __asm__ volatile(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
            "26,27,28,29,30,31; vmovups vec_data + 64 * \\n, %zmm\\n; .endr;"
            ".irp n,1,2,3,4,5,6,7; kmovw vec_data + 2 * \\n, %k\\n; .endr");
}

static uint64_t vectors_sum(void)
{
    uint64_t sum = 0;

    __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15;"
                     "movups %xmm\\n, vec_data + 64 * \\n; .endr");
    if (vectors >= HAS_AVX)
        __asm__ volatile(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15;"
                         "vmovups %ymm\\n, vec_data + 64 * \\n; .endr");
    if (vectors >= HAS_AVX512)
        __asm__ volatile(
            ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,"
            "26,27,28,29,30,31; vmovups %zmm\\n, vec_data + 64 * \\n; .endr;"
            ".irp n,1,2,3,4,5,6,7; kmovw %k\\n, vec_data + 2 * \\n; .endr");
    for (unsigned i = 0; i < COUNT(res); i++)
        sum = (sum << 9 | sum >> 55) ^ res[i];
    for (unsigned i = 0; i < sizeof(vec_data) / 8; i++)
        sum = (sum << 9 | sum >> 55) ^ ((uint64_t *)vec_data)[i];
    return sum;
}

static void timer(uint32_t mode, uint32_t count)
{
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x3e0, 0x0b); /* divide by 1 */
    lapic_w(0x320, mode);
    lapic_w(0x380, count);
}

static void interrupts_in_hot_loops(void)
{
    start();
    begin(tick_hook);
    for (unsigned i = 0; i < COUNT(busy); i++) {
        uint64_t want[NREGS], sum = 0;

        ticks = 0;
        /* A fast CPU needs more runs to be interrupted. */
        for (unsigned n = 0; n < 600 ? ticks < 400 : n < 30000 && ticks < 30; n++) {
            place(busy[i].code, busy[i].end, CODE + i * 0x2000 + 0xff0);
            in_regs[RFL] = 2 | FLAG_IF;
            for (unsigned k = 0; k < 0x3000; k += 512)
                *(volatile uint64_t *)(W + k) = k;
            for (unsigned k = 0; k < 64; k += 8)
                *(volatile uint64_t *)(W + 0x100 + k) = k;
            for (unsigned k = 0; k < COUNT(res); k++)
                res[k] = k;
            if (n == 1)
                timer(0x20040, 3000 + 1000 * i);
            vectors_load();
            regs_run();
            if (n == 0) { /* without */
                row_is("none yet", ticks, 0);
                sum = vectors_sum();
                for (unsigned k = 0; k < NREGS; k++)
                    want[k] = out_regs[k];
            } else if (!same_regs(busy[i].name, out_regs, want, RIP + 1) ||
                       !row_is(busy[i].name, out_regs[RFL] & MASK, want[RFL] & MASK) ||
                       !row_is(busy[i].name, vectors_sum(), sum)) {
                break;
            }
        }
        timer(0x10040, 0);
        __asm__ volatile("sti; nop; cli");
        row_is(busy[i].name, ticks > 20, 1);
    }
    regs_end();
    stop();
}

/* ---- windows ------------------------------------------------------------------------------------
 */

/* One interrupt is pending, IF is clear; the label is where it is let in. */
#define WINDOWS(X)                                                                               \
    X(sti_nop, 1, "sti; nop; 1: cli")                                                            \
    X(sti_store, 1, "sti; incl res; 1: cli")                                                     \
    X(sti_jmp, 1, "sti; jmp 1f; ud2; 1: cli")                                                    \
    X(sti_call, 1, "sti; call 2f; cli; jmp 3f; 2: 1: ret; 3:")                                   \
    X(sti_hlt, 1, "sti; hlt; 1: cli")                                                            \
    X(sti_cli, 0, "sti; cli; 1: nop; sti; nop; 2: cli")                                          \
    X(popf, 1, "pushf; orl $0x200, (%rsp); popf; 1: cli")                                        \
    X(iret, 1,                                                                                   \
      "mov %rsp, %rcx; push $0x10; push %rcx; pushf; orl $0x200, (%rsp); push $8;"               \
      "lea 1f(%rip), %rax; push %rax; iretq; ud2; 1: cli")                                       \
    X(cr8, 2,                                                                                    \
      "mov $15, %eax; mov %rax, %cr8; sti; nop; nop; mov $0, %eax; mov %rax, %cr8; 1: nop; cli") \
    X(mov_ss, 1, "mov %ss, %eax; pushf; orl $0x200, (%rsp); popf; 1: mov %eax, %ss; nop; cli")   \
    X(loop, 1, "mov $5, %ecx; sti; 1: loop 1b; cli")                                             \
    X(pushed, 1, "sti; push %rax; 1: pop %rax; cli")

#define WINDOW_CODE(id, kind, code) \
    __asm__("wi_" #id ": " code "; ret; .balign 8; wi_" #id "_at: .quad 1b");
#define WINDOW_NAMES(id, kind, code) \
    void wi_##id(void);              \
    extern const uint64_t wi_##id##_at;
#define WINDOW_ROW(id, kind, code) {#id, wi_##id, &wi_##id##_at, kind},
WINDOWS(WINDOW_CODE)
WINDOWS(WINDOW_NAMES)
static const struct {
    const char *name;
    void (*run)(void);
    const uint64_t *at;
    unsigned kind; /* 0: not at the label, but behind it */
} windows[] = {WINDOWS(WINDOW_ROW)};

static uint64_t let_in_at;
static bool window_hook(struct frame *f)
{
    if (f->vector != 0x40)
        return false;
    ticks++;
    let_in_at = f->ip;
    lapic_w(0xb0, 0);
    return true;
}

static void windows_let_interrupts_in(void)
{
    start();
    trap_hook = window_hook;
    for (unsigned i = 0; i < COUNT(windows); i++)
        for (unsigned n = 0; n < 2 * HOT; n++) {
            bool sent = n == 0 || n % 3; /* also warm without one */

            if (!sent && windows[i].run == wi_sti_hlt)
                continue;
            ticks = 0;
            if (sent)
                lapic_w(0x300, 0x40040); /* to self */
            windows[i].run();
            if (!row_is(windows[i].name, ticks, sent) ||
                (sent &&
                 !row_is(windows[i].name, let_in_at == *windows[i].at, windows[i].kind > 0)))
                break;
        }
    stop();
}

static void halts_end_with_the_timer(void)
{
    start();
    trap_hook = window_hook;
    for (unsigned n = 0; n < 300; n++) {
        ticks = 0;
        timer(0x40, 1000 + n * 37);
        if (n & 1)
            __asm__ volatile("sti; hlt; cli");
        else
            __asm__ volatile("1: sti; nop; cli; cmpl $0, %0; je 1b" : : "m"(ticks));
        if (!row_is("interrupts", ticks, 1))
            break;
    }
    stop();
}

const struct guest_case guest_cases[] = {
    {"single steps", single_steps},
    {"breakpoints on warm code", breakpoints_on_warm_code},
    {"interrupts in hot loops", interrupts_in_hot_loops},
    {"windows let interrupts in", windows_let_interrupts_in},
    {"halts end with the timer", halts_end_with_the_timer},
};
const unsigned guest_ncases = COUNT(guest_cases);
