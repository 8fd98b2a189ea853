/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flags between the instruction that sets them and the one that wants them, with everything in
 * between that a translator may take for their death: returns, indirect jumps, other pages, faults,
 * interrupts, TLB misses. Each mix of a producer, a gap and a consumer is code put together here.
 */
#include "rt/hot.h"

#define VA     0x10000000000ull
#define PHYS   0x2800000ull
#define MIXES  0x1000000ull  /* 24 MiB of RAM as it is mapped at the start */
#define ABSENT 0x7f000000ull /* a page that the gaps take away and a fault brings back */
#define FLAGS  0x8d5u        /* OF SF ZF AF PF CF */
#define SET    (FLAGS | 2)

/* Known below 4 GiB: code that moves about uses absolute addresses. */
uint64_t fl_mem[32], fl_one = 1;
volatile uint64_t *fl_pte;

/* ---- producers ----------------------------------------------------------------------------------
 */

/* id, rdi, rsi, which flags are defined, what comes from all clear, and from all set */
#define PRODUCERS(X)                                                                         \
    X(add, 0x7fffffffffffffff, 1, FLAGS, 0x894, 0x894, "add %rsi, %rdi")                     \
    X(add8, 0xff, 1, FLAGS, 0x55, 0x55, "add %sil, %dil")                                    \
    X(add_mem, 0xff, 1, FLAGS, 0x14, 0x14, "mov %rdi, fl_mem; add %rsi, fl_mem")             \
    X(sub, 0, 1, FLAGS, 0x95, 0x95, "sub %esi, %edi")                                        \
    X(cmp, 5, 5, FLAGS, 0x44, 0x44, "cmp %rsi, %rdi")                                        \
    X(cmp_mem, 4, 5, FLAGS, 0x95, 0x95, "mov %rdi, fl_mem; cmp %rsi, fl_mem")                \
    X(cmp_high, 0x100, 0, FLAGS, 0x01 | 0x94, 0x95, "mov %edi, %eax; cmp %ah, %al")          \
    X(inc, 0xffffffff, 0, FLAGS, 0x54, 0x55, "inc %edi")                                     \
    X(dec, 0x80000000, 0, FLAGS, 0x814, 0x815, "dec %edi")                                   \
    X(inc_mem, 0x7f, 0, FLAGS, 0x890, 0x891, "mov %rdi, fl_mem; incb fl_mem")                \
    X(neg, 0, 0, FLAGS, 0x44, 0x44, "neg %rdi")                                              \
    X(adc, -1ull, 0, FLAGS, 0x84, 0x55, "adc %rsi, %rdi")                                    \
    X(sbb, 0, 0, FLAGS, 0x44, 0x95, "sbb %rsi, %rdi")                                        \
    X(sbb_mem, 0, 0, FLAGS, 0x44, 0x95, "mov %rdi, fl_mem; sbb %rsi, fl_mem")                \
    X(test, 1ull << 63, -1ull, 0x8c5, 0x84, 0x84, "test %rsi, %rdi")                         \
    X(xor, 0, 0, 0x8c5, 0x44, 0x44, "xor %edi, %edi")                                        \
    X(shl, 3ull << 62, 0, 0x8c5, 0x85, 0x85, "shl $1, %rdi")                                 \
    X(shl_0, 1, 0, FLAGS, 0, FLAGS, "mov $0, %ecx; shl %cl, %rdi")                           \
    X(shift_32, 1, 0, FLAGS, 0, FLAGS, "mov $32, %ecx; shl %cl, %edi; shld %cl, %edi, %esi") \
    X(shr_cl, 5, 0, 0xc5, 0x01, 0x01, "mov $1, %ecx; shr %cl, %rdi")                         \
    X(rol, 0x8000000000000001, 0, FLAGS, 0x801, FLAGS, "rol $1, %rdi")                       \
    X(rcr, 1, 0, FLAGS, 0x001, FLAGS, "rcr $1, %rdi")                                        \
    X(bt, 8, 0, 0x41, 0x01, 0x41, "bt $3, %rdi")                                             \
    X(bts_mem, 0x40000, 0, 0x41, 0x01, 0x41,                                                 \
      "mov %rdi, fl_mem + 8; mov $82, %ecx; bts %rcx, fl_mem")                               \
    X(imul, 1ull << 62, 4, 0x801, 0x801, 0x801, "imul %rsi, %rdi")                           \
    X(mul, 3, 4, 0x801, 0, 0, "mov %rdi, %rax; mul %rsi")                                    \
    X(bsf, 0, 0, 0x40, 0x40, 0x40, "bsf %rdi, %rax")                                         \
    X(popcnt, 0, 0, FLAGS, 0x40, 0x40, "popcnt %rdi, %rax")                                  \
    X(blsr, 0, 0, 0x8c1, 0x41, 0x41, "blsr %rdi, %rax")                                      \
    X(adox, -1ull, 1, FLAGS, 0x800, FLAGS, "adox %rsi, %rdi")                                \
    X(adcx, -1ull, 1, FLAGS, 0x001, FLAGS, "adcx %rsi, %rdi")                                \
    X(comisd, 0, 0, FLAGS, 0x45, 0x45, "pcmpeqd %xmm0, %xmm0; comisd %xmm0, %xmm0")          \
    X(fcomi, 0, 0, 0x45, 0, 0, "fldz; fld1; fcomip %st(1), %st; fstp %st(0)")                \
    X(ptest, 0, 0, FLAGS, 0x01, 0x01, "pcmpeqd %xmm0, %xmm0; ptest %xmm0, %xmm0")            \
    X(cmpxchg, 1, 2, FLAGS, 0x95, 0x95,                                                      \
      "mov %rdi, %rax; mov %rsi, fl_mem; lock cmpxchg %rdi, fl_mem")                         \
    X(cmpxchg8b, 0, 0, FLAGS, 0x40, FLAGS,                                                   \
      "mov %rdi, fl_mem; mov $0, %eax; mov $0, %edx; mov $0, %ecx; lock cmpxchg8b fl_mem")   \
    X(xadd, -1ull, 1, FLAGS, 0x55, 0x55, "mov %rdi, fl_mem; lock xadd %rsi, fl_mem")         \
    X(scasb, 0x61, 0, FLAGS, 0x44, 0x44,                                                     \
      "mov %edi, %eax; mov %rdi, fl_mem; lea fl_mem, %rdi; scasb")                           \
    X(repe_cmpsb, 0, 0, FLAGS, 0x44, 0x44,                                                   \
      "lea fl_mem, %rsi; lea fl_mem, %rdi; mov $9, %ecx; repe cmpsb")                        \
    X(sahf, 0, 0, FLAGS, 0xd5, FLAGS, "mov $0xd7, %ah; sahf")                                \
    X(popf, 0, 0, FLAGS, 0x891, 0x891, "push $0x893; popf")                                  \
    X(popfw, 0, 0, FLAGS, 0x45, 0x45, "pushw $0x47; popfw")                                  \
    X(stc, 0, 0, FLAGS, 0x01, FLAGS, "stc")                                                  \
    X(cmc, 0, 0, FLAGS, 0x01, 0x8d4, "cmc")                                                  \
    X(verr, 0, 0, FLAGS, 0x40, FLAGS, "mov %ds, %ecx; verr %cx")                             \
    X(lsl, 0, 0, FLAGS, 0, 0x895, "mov $0, %ecx; lsl %ecx, %ecx")                            \
    X(returned, 7, 7, FLAGS, 0x44, 0x44, "call 1f; jmp 2f; 1: cmp %rsi, %rdi; ret; 2:")      \
    X(by_iret, 0, 0, FLAGS, 0x01, FLAGS, "int $0x91")

/* ---- gaps: any general register but rbx, rbp, rsp, r12 to r15 may change, no flag may -----------
 */

#define GAPS(X)                                                                                   \
    X(none, "")                                                                                   \
    X(jmp, "jmp 9f; .skip 20, 0xcc; 9:")                                                          \
    X(jumps, "jmp 7f; 8: jmp 9f; 7: jmp 8b; 9:")                                                  \
    X(call, "call 8f; jmp 9f; 8: ret; 9:")                                                        \
    X(calls, "call 7f; jmp 9f; 7: call 8f; ret; 8: ret; 9:")                                      \
    X(call_indirect, "lea 8f(%rip), %rax; call *%rax; jmp 9f; 8: ret; 9:")                        \
    X(jmp_indirect, "lea 9f(%rip), %rax; jmp *%rax; 9:")                                          \
    X(jmp_mem, "lea 9f(%rip), %rax; mov %rax, fl_mem; jmp *fl_mem; 9:")                           \
    X(ret, "lea 9f(%rip), %rax; push %rax; ret; 9:")                                              \
    X(ret_n, "push %rdi; lea 9f(%rip), %rax; push %rax; ret $8; 9:")                              \
    X(lret, "mov %cs, %ecx; push %rcx; lea 9f(%rip), %rax; push %rax; lretq; 9:")                 \
    X(iret,                                                                                       \
      "mov %rsp, %rcx; mov %ss, %edx; push %rdx; push %rcx; pushf; mov %cs, %edx; push %rdx;"     \
      "lea 9f(%rip), %rax; push %rax; iretq; 9:")                                                 \
    X(far_code, "mov $fl_far, %eax; call *%rax")                                                  \
    X(push_pop, "push %rdi; pop %r8; push fl_mem; pop fl_mem")                                    \
    X(enter, "enter $16, $0; leave")                                                              \
    X(memory, "mov %rdi, fl_mem; mov fl_mem, %r9; xchg %r9, fl_mem")                              \
    X(tlb_miss,                                                                                   \
      "invlpg fl_mem; mov %rdi, fl_mem; invlpg fl_mem; mov fl_mem, %r9; push %r9; pop %r9")       \
    X(tlb_miss_stack,                                                                             \
      "invlpg (%rsp); push %rdi; pop %rdi; invlpg (%rsp); call 8f; jmp 9f; 8: ret; 9:")           \
    X(fault_load, "mov fl_pte, %rcx; movq $0, (%rcx); invlpg 0x7f000000; mov 0x7f000000, %ecx")   \
    X(fault_store, "mov fl_pte, %rcx; movq $0, (%rcx); invlpg 0x7f000000; mov %ecx, 0x7f000ffe")  \
    X(fault_push,                                                                                 \
      "mov fl_pte, %rcx; movq $0, (%rcx); invlpg 0x7f000000; push 0x7f000000; pop %rcx")          \
    X(interrupt, "int $0x90")                                                                     \
    X(int3, "int3")                                                                               \
    X(undefined, "ud2")                                                                           \
    X(interrupt_df, "std; int $0x90; cld")                                                        \
    X(sti, "sti; nop; cli")                                                                       \
    X(strings, "lea fl_mem, %rsi; lea fl_mem + 64, %rdi; movsb; movsq; lodsb; stosl")             \
    X(rep_movsb, "lea fl_mem, %rsi; lea fl_mem + 64, %rdi; mov $16, %ecx; rep movsb")             \
    X(rep_zero, "mov $0, %ecx; repe cmpsb; repne scasb; rep movsb; rep stosq")                    \
    X(shift_zero,                                                                                 \
      "mov $0, %ecx; shl %cl, %rdi; shld %cl, %rdi, %rsi; rol %cl, %rdi;"                         \
      "rcr %cl, %r8; sar $0, %rdi; shr $0x40, %rdi; shrd $0, %r8, %r9; rolb %cl, fl_mem")         \
    X(moves, "lea 1(%rdi), %rax; not %rax; bswap %rax; xchg %rax, %rcx; cmovz %rax, %rcx;"        \
             "movzx %al, %edx; cqo; movslq %eax, %r8; notl fl_mem")                               \
    X(bmi2,                                                                                       \
      "mulx %rdi, %rax, %rcx; rorx $3, %rdi, %rax; shlx %rsi, %rdi, %rax; pdep %rsi, %rdi, %rax") \
    X(sse,                                                                                        \
      "movups fl_mem, %xmm1; addps %xmm1, %xmm1; cvttss2si %xmm1, %eax; movmskps %xmm1, %ecx")    \
    X(x87, "fld1; fadd %st, %st(0); fistpl fl_mem; fnstsw %ax")                                   \
    X(loop, "mov $3, %ecx; 8: loop 8b")                                                           \
    X(jrcxz, "mov $0, %ecx; jrcxz 9f; int3; 9:")                                                  \
    X(branches, "jz 1f; nop; 1: jc 2f; nop; 2: js 3f; nop; 3: jo 4f; nop; 4: jp 5f; nop; 5:")     \
    X(hidden_writer, "jrcxz 8f; 8: mov $0, %ecx; jrcxz 9f; cmp %ecx, %ecx; 9:")                   \
    X(pushf_popf, "pushf; popf")                                                                  \
    X(pushfw_popfw, "pushfw; popfw")                                                              \
    X(lahf_sahf, "lahf; sahf")                                                                    \
    X(setcc, "setz %al; sets fl_mem; seto %ah; setc %cl")                                         \
    X(port, "in $0x21, %al; out %al, $0x80")                                                      \
    X(cpuid, "mov %rbx, %r8; mov $0, %eax; mov $0, %ecx; cpuid; mov %r8, %rbx; rdtsc")            \
    X(fences, "mfence; lfence; pause; prefetcht0 fl_mem; clflush fl_mem")                         \
    X(swapgs, "swapgs; swapgs")                                                                   \
    X(segment, "mov %ds, %eax; mov %eax, %ds; mov %ss, %eax; mov %eax, %ss; nop")                 \
    X(msr, "mov $0xc0000101, %ecx; rdmsr; wrmsr")

#define PRODUCER_CODE(id, a, b, mask, clear, set, code) \
    __asm__("pr_" #id ": " code "; pr_" #id "_end:");
#define PRODUCER_NAMES(id, a, b, mask, clear, set, code) extern uint8_t pr_##id[], pr_##id##_end[];
#define PRODUCER_ROW(id, a, b, mask, clear, set, code) \
    {#id, pr_##id, pr_##id##_end, a, b, mask, {clear, set}},
#define GAP_CODE(id, code)  __asm__("gap_" #id ": " code "; gap_" #id "_end:");
#define GAP_NAMES(id, code) extern uint8_t gap_##id[], gap_##id##_end[];
#define GAP_ROW(id, code)   {#id, gap_##id, gap_##id##_end},
PRODUCERS(PRODUCER_CODE)
PRODUCERS(PRODUCER_NAMES)
GAPS(GAP_CODE)
GAPS(GAP_NAMES)
/* A function far away; and a handler that returns CF as a BIOS does. */
__asm__("fl_far: ret; fl_carry: orl $1, 16(%rsp); iretq");

static const struct producer {
    const char *name;
    const uint8_t *code, *end;
    uint64_t a, b;
    uint32_t mask, want[2];
} producers[] = {PRODUCERS(PRODUCER_ROW)};

static const struct gap {
    const char *name;
    const uint8_t *code, *end;
} gaps[] = {GAPS(GAP_ROW)};

/* ---- consumers: kind 0 to 5 for each condition, then those of one kind --------------------------
 */

enum { SETCC, SETCC_MEM, CMOV, CMOV_MEM, JCC, JCC_NEAR, PER_CC };
enum { PUSHF = PER_CC * 16, LAHF, ADC, SBB, RCL, CMC, LOOPE, JCC_HIDES, CONSUMERS };

static bool condition(unsigned cc, uint32_t f)
{
    bool cf = f & 1, pf = f & 4, zf = f & 0x40, sf = f & 0x80, of = f & 0x800;
    bool is[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};

    return is[cc >> 1] != (cc & 1);
}

static uint32_t needs(unsigned consumer)
{
    static const uint32_t of_cc[8] = {0x800, 1, 0x40, 0x41, 0x80, 4, 0x880, 0x8c0};

    if (consumer < PUSHF)
        return of_cc[consumer % 16 >> 1];
    return consumer == PUSHF ? 0 : consumer == LAHF ? 0xd5 : consumer == LOOPE ? 0x40 : 1;
}

static uint8_t *emit_consumer(uint8_t *p, unsigned consumer)
{
    uint8_t cc = consumer % 16;

    switch (consumer < PUSHF ? consumer / 16 : consumer) {
    case SETCC:
        EMIT(p, 0x0f, 0x90, 0xc0, 0x0f, 0xb6, 0xc0);
        p[-5] += cc;
        break;
    case SETCC_MEM:
        EMIT(p, 0xc7, 0x04, 0x25);
        p = emit32(emit32(p, (uint32_t)(uintptr_t)fl_mem), 0);
        EMIT(p, 0x0f, 0x90, 0x04, 0x25);
        p[-3] += cc;
        p = emit32(p, (uint32_t)(uintptr_t)fl_mem);
        EMIT(p, 0x8b, 0x04, 0x25);
        p = emit32(p, (uint32_t)(uintptr_t)fl_mem);
        break;
    case CMOV:
        EMIT(p, 0xb9, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0x0f, 0x40, 0xc1);
        p[-2] += cc;
        break;
    case CMOV_MEM:
        EMIT(p, 0xb8, 0, 0, 0, 0, 0x48, 0x0f, 0x40, 0x04, 0x25);
        p[-3] += cc;
        p = emit32(p, (uint32_t)(uintptr_t)&fl_one);
        break;
    case JCC:
        EMIT(p, 0x70, 7, 0xb8, 0, 0, 0, 0, 0xeb, 5, 0xb8, 1, 0, 0, 0);
        p[-14] += cc;
        break;
    case JCC_NEAR:
        EMIT(p, 0x0f, 0x80, 7, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xeb, 5, 0xb8, 1, 0, 0, 0);
        p[-17] += cc;
        break;
    case PUSHF:
        EMIT(p, 0x9c, 0x58);
        break;
    case LAHF:
        EMIT(p, 0x9f, 0x0f, 0xb6, 0xc4);
        break;
    case ADC:
        EMIT(p, 0xb8, 0, 0, 0, 0, 0x83, 0xd0, 0);
        break;
    case SBB:
        EMIT(p, 0x19, 0xc0, 0xf7, 0xd8);
        break;
    case RCL:
        EMIT(p, 0xb8, 0, 0, 0, 0, 0xd1, 0xd0);
        break;
    case CMC:
        EMIT(p, 0xf5, 0x0f, 0x93, 0xc0, 0x0f, 0xb6, 0xc0);
        break;
    case LOOPE: /* taken: skips the MOV of 0 */
        EMIT(p, 0xb9, 5, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xe1, 5, 0xb8, 0, 0, 0, 0);
        break;
    case JCC_HIDES: /* JC goes past a comparison that sets CF; SETC wants the old one on that way */
        EMIT(p, 0x72, 4, 0x31, 0xc0, 0xff, 0xc8, 0x0f, 0x92, 0xc0, 0x0f, 0xb6, 0xc0);
        break;
    }
    EMIT(p, 0xc3);
    return p;
}

static uint64_t consumed(unsigned consumer, uint32_t f)
{
    if (consumer < PUSHF)
        return condition(consumer % 16, f);
    return consumer == PUSHF   ? f
           : consumer == LAHF  ? f | 2
           : consumer == LOOPE ? f >> 6 & 1
                               : f & 1;
}

/* ---- the mixes ----------------------------------------------------------------------------------
 */

static bool hook(struct frame *f)
{
    if (f->vector == PF && read_cr2() >> 12 == ABSENT >> 12)
        *fl_pte = PHYS + 0x8000 + (PTE_P | PTE_W);
    else if (f->vector == UD)
        f->ip += 2;
    else if (f->vector != 0x90 && f->vector != BP)
        return false;
    f->vector += 1; /* writes flags, as any handler does */
    return true;
}

static uint8_t *emit_code(uint8_t *p, const uint8_t *from, const uint8_t *end)
{
    memcpy(p, from, (size_t)(end - from));
    return p + (end - from);
}

typedef uint64_t mix_fn(uint64_t a, uint64_t b);

/* Each mix has its own two pages for a while: what is rewritten too often may never be translated.
 */
static uint8_t *next_pages(void)
{
    static unsigned n;

    return (uint8_t *)MIXES + n++ % 3072 * 8192;
}

/* Where the page ends: 0: far away, 1: before the gap, 2: in it, 3: behind it. */
static void mix(const struct producer *pr, const struct gap *g, unsigned consumer, unsigned times,
                unsigned end)
{
    size_t plen = (size_t)(pr->end - pr->code), glen = (size_t)(g->end - g->code);
    size_t before = 6 + plen + (end == 2 ? glen / 2 : end == 3 ? glen : 0);
    uint32_t mask = needs(consumer) ? needs(consumer) : pr->mask;

    if (consumer == LAHF)
        mask = pr->mask & 0xd5;
    else if (mask & ~pr->mask)
        return;
    for (unsigned set = 0; set < 2; set++) {
        uint8_t *p = next_pages() + (end ? 0x1000 - before : 0x100), *start = p;
        uint64_t want = consumed(consumer, pr->want[set]);
        uint64_t bits = consumer == PUSHF || consumer == LAHF ? mask : -1ull;

        EMIT(p, 0x68);
        p = emit32(p, set ? SET : 2);
        EMIT(p, 0x9d);
        p = emit_code(p, pr->code, pr->end);
        p = emit_code(p, g->code, g->end);
        emit_consumer(p, consumer);
        for (unsigned n = 0; n < times; n++) {
            uint64_t got = ((mix_fn *)(uintptr_t)start)(pr->a, pr->b);

            if (!row_is(pr->name, got & bits, want & bits)) {
                fail_at(g->name, consumer, n);
                break;
            }
        }
    }
}

static void start(void)
{
    extern uint8_t fl_carry[];

    vectors_on();
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    fl_pte = pte(ABSENT, 1);
    map4k(VA, PHYS, PTE_P | PTE_W);
    map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
    idt_set(0x91, (uintptr_t)fl_carry, SEL_CODE, 0x8e, 0);
    trap_hook = hook;
}

static void every_gap_after_every_producer(void)
{
    start();
    for (unsigned p = 0; p < COUNT(producers); p++)
        for (unsigned g = 0; g < COUNT(gaps); g++)
            mix(&producers[p], &gaps[g], PUSHF, HOT / 4, (p + g) % 4);
    trap_hook = NULL;
}

static void every_consumer_after_every_gap(void)
{
    static const unsigned some[] = {1, 2, 7};

    start();
    for (unsigned k = 0; k < COUNT(some); k++)
        for (unsigned g = 0; g < COUNT(gaps); g++)
            for (unsigned c = 0; c < CONSUMERS; c++)
                mix(&producers[some[k]], &gaps[g], c, HOT / 20, (c + g) % 4);
    trap_hook = NULL;
}

static void every_consumer_after_every_producer(void)
{
    start();
    for (unsigned p = 0; p < COUNT(producers); p++)
        for (unsigned c = 0; c < CONSUMERS; c++)
            mix(&producers[p], &gaps[0], c, HOT / 10, (c + p) % 4);
    trap_hook = NULL;
}

/* ---- long numbers: CF goes round a loop, over loads and stores that miss and fault --------------
 */

#define LIMBS 1024u
#define NUM_A (VA + 0x10000 - 24) /* across page ends */
#define NUM_B (VA + 0x14000 - 4)  /* limbs across page ends */

uint64_t chain_adc(uint64_t *to, const uint64_t *from, uint64_t n, uint64_t carry);
uint64_t chain_sbb(uint64_t *to, const uint64_t *from, uint64_t n, uint64_t carry);
uint64_t chain_adc4(uint64_t *to, const uint64_t *from, uint64_t n, uint64_t carry);
uint64_t chain_loop(uint64_t *to, const uint64_t *from, uint64_t n, uint64_t carry);
__asm__(
    "chain_adc: neg %rcx; mov %rdx, %rcx; 1: mov (%rsi), %rax; adc %rax, (%rdi);"
    "lea 8(%rsi), %rsi; lea 8(%rdi), %rdi; dec %rcx; jnz 1b; setc %al; movzx %al, %eax; ret;"
    "chain_sbb: neg %rcx; mov %rdx, %rcx; 1: mov (%rdi), %rax; sbb (%rsi), %rax; mov %rax, (%rdi);"
    "lea 8(%rsi), %rsi; lea 8(%rdi), %rdi; dec %rcx; jnz 1b; setc %al; movzx %al, %eax; ret;"
    "chain_adc4: neg %rcx; mov %rdx, %rcx; 1: mov (%rsi), %rax; mov 8(%rsi), %r8; mov 16(%rsi), %r9;"
    "mov 24(%rsi), %r10; adc %rax, (%rdi); adc %r8, 8(%rdi); adc %r9, 16(%rdi); adc %r10, 24(%rdi);"
    "lea 32(%rsi), %rsi; lea 32(%rdi), %rdi; lea -4(%rcx), %rcx; jrcxz 2f; jmp 1b;"
    "2: setc %al; movzx %al, %eax; ret;"
    "chain_loop: neg %rcx; mov %rdx, %rcx; 1: lodsq; adc (%rdi), %rax; stosq; loop 1b;"
    "mov $0, %eax; adc $0, %eax; ret");

static unsigned chain_faults;
static bool chain_hook(struct frame *f)
{
    if (f->vector != PF)
        return false;
    *pte(read_cr2(), 1) |= PTE_P | PTE_W;
    chain_faults++;
    return true;
}

static void carry_through_long_numbers(void)
{
    static uint64_t (*const fns[])(uint64_t *, const uint64_t *, uint64_t,
                                   uint64_t) = {chain_adc, chain_adc4, chain_loop, chain_sbb};
    uint64_t *a = (uint64_t *)NUM_A, *b = (uint64_t *)NUM_B;

    start();
    for (unsigned i = 0; i < 8; i++)
        map4k((VA + 0xf000) + i * 4096, PHYS + 0x10000 + i * 4096, PTE_P | PTE_W);
    trap_hook = chain_hook;
    for (unsigned round = 0; round < 12; round++)
        for (unsigned k = 0; k < COUNT(fns); k++) {
            uint64_t carry = round & 1, got;

            for (unsigned i = 0; i < LIMBS; i++) {
                a[i] = i % 7 == 3 ? -1ull : 0x123456789abcdefull * (i + round);
                b[i] = i % 3 == 1 ? 0 : i % 5 ? -1ull - i : i * 0x1111111111111ull;
            }
            for (unsigned i = 0; round > 3 && i < 8; i++) { /* absent, read-only, not in the TLB */
                *pte((VA + 0xf000) + i * 4096, 1) &= round & 1 ? ~PTE_P : ~PTE_W;
                invlpg((void *)((VA + 0xf000) + i * 4096));
            }
            chain_faults = 0;
            got = fns[k](a, b, LIMBS, carry);
            CHECK_EQ(chain_faults, round <= 3 ? 0 : round & 1 ? 6 : 3);
            for (unsigned i = 0; i < LIMBS; i++) {
                uint64_t x = i % 7 == 3 ? -1ull : 0x123456789abcdefull * (i + round), y = b[i],
                         want;

                if (fns[k] == chain_sbb) {
                    want = x - y - carry;
                    carry = x < y || (x == y && carry);
                } else {
                    want = x + y + carry;
                    carry = want < x || (want == x && carry);
                }
                if (!row_is("limb", a[i], want))
                    return;
            }
            CHECK_EQ(got, carry);
        }
    trap_hook = NULL;
}

/* ---- bit strings in memory ----------------------------------------------------------------------
 */

#define BITS_AT (VA + 0x100000000ull) /* room of 2^31 bytes on either side */

static void bits_far_away(void)
{
    static const int64_t offsets[] = {0,
                                      1,
                                      15,
                                      16,
                                      31,
                                      32,
                                      63,
                                      64,
                                      65,
                                      -1,
                                      -8,
                                      -32,
                                      -64,
                                      -65,
                                      32767,
                                      -32768,
                                      0x7fffffff,
                                      -0x80000000ll,
                                      0x3fffffff8ll,
                                      -0x400000000ll,
                                      4096 * 8 - 1,
                                      -4096 * 8,
                                      4096 * 8 - 48};
    static const uint8_t codes[] = {0xa3, 0xab, 0xb3, 0xbb}; /* bt bts btr btc */

    start();
    for (unsigned o = 0; o < COUNT(offsets); o++)
        for (unsigned op = 0; op < 4; op++)
            for (unsigned size = 2; size <= 8; size *= 2)
                for (unsigned lock = 0; lock < (op ? 2 : 1); lock++) {
                    /* The register's width counts, and the word it finds is of that width. */
                    int64_t off = size == 2   ? (int16_t)offsets[o]
                                  : size == 4 ? (int32_t)offsets[o]
                                              : offsets[o];
                    uintptr_t base = BITS_AT + 0xff9, byte = base + (uintptr_t)(off >> 3);
                    uintptr_t word = base + (uintptr_t)(off >> (size == 2   ? 4
                                                                : size == 4 ? 5
                                                                            : 6)) *
                                                size;
                    uint8_t bit = (uint8_t)(1u << (off & 7)), *p = (uint8_t *)VA + 0x200;

                    for (int page = -1; page < 2; page++)
                        map4k((word & ~0xfffull) + (uintptr_t)(page * 4096l),
                              PHYS + 0x20000 + (uint64_t)(page * 4096l), PTE_P | PTE_W);
                    if (lock)
                        EMIT(p, 0xf0);
                    if (size == 2)
                        EMIT(p, 0x66);
                    EMIT(p, 0x40, 0x0f, 0, 0x37, 0x19, 0xc0, 0xf7, 0xd8,
                         0xc3); /* op %rsi, (%rdi); sbb */
                    p[-9] = size == 8 ? 0x48 : 0x40;
                    p[-7] = codes[op];
                    *(volatile uint8_t *)byte = (uint8_t)(0x5a ^ offsets[o]);
                    for (unsigned n = 0; n < HOT / 20; n++) {
                        uint8_t old = *(volatile uint8_t *)byte;
                        uint8_t want = (uint8_t)(op == 1   ? old | bit
                                                 : op == 2 ? old & ~bit
                                                 : op == 3 ? old ^ bit
                                                           : old);

                        if (n % 8 == 7)
                            invlpg((void *)byte);
                        if (!row_is("CF", ((mix_fn *)(VA + 0x200))(base, (uint64_t)offsets[o]),
                                    !!(old & bit)) ||
                            !row_is("byte", *(volatile uint8_t *)byte, want)) {
                            fail_at("offset", (uint64_t)offsets[o], size << 8 | op);
                            return;
                        }
                    }
                }
    trap_hook = NULL;
}

/* ---- downwards ----------------------------------------------------------------------------------
 */

/* rdi, rsi, rcx in and out, rax; DF set, interrupts and faults in between. */
static void strings_go_down(void)
{
    static const struct {
        const char *name;
        uint8_t code[3];
        uint8_t size;
        bool rep, si, di;
    } rows[] = {
        {"movsb", {0xa4, 0x90, 0x90}, 1, false, true, true},
        {"movsq", {0x48, 0xa5, 0x90}, 8, false, true, true},
        {"rep movsb", {0xf3, 0xa4, 0x90}, 1, true, true, true},
        {"rep movsw", {0xf3, 0x66, 0xa5}, 2, true, true, true},
        {"rep movsq", {0xf3, 0x48, 0xa5}, 8, true, true, true},
        {"rep stosd", {0xf3, 0xab, 0x90}, 4, true, false, true},
        {"lodsd", {0xad, 0x90, 0x90}, 4, false, true, false},
        {"rep lodsq", {0xf3, 0x48, 0xad}, 8, true, true, false},
        {"repe cmpsb", {0xf3, 0xa6, 0x90}, 1, true, true, true},
        {"repne scasb", {0xf2, 0xae, 0x90}, 1, true, false, true},
    };

    start();
    for (unsigned i = 0; i < 8; i++)
        map4k((VA + 0xf000) + i * 4096, PHYS + 0x10000 + i * 4096, PTE_P | PTE_W);
    trap_hook = chain_hook;
    for (unsigned r = 0; r < COUNT(rows); r++)
        for (unsigned n = 0; n < HOT; n++) {
            uint64_t count = rows[r].rep ? 700 : 1, si = VA + 0x11003, di = VA + 0x14005, df;
            uint64_t moved = count * rows[r].size, a = 0, *p = (uint64_t *)(VA + 0x100);

            *p = 0xc3 | 0x909090ull << 8;
            memcpy(p, rows[r].code, 3);
            ((uint8_t *)p)[3] = 0xc3;
            if (n == 0)
                memset((void *)(VA + 0xf000), 0, 0x8000);
            if (n % 64 == 63)
                for (unsigned i = 0; i < 8; i++) {
                    *pte((VA + 0xf000) + i * 4096, 1) &= ~PTE_P;
                    invlpg((void *)((VA + 0xf000) + i * 4096));
                }
            if (rows[r].code[1] == 0xae)
                a = 0x77; /* nowhere */
            __asm__ volatile("std; call *%5; pushf; cld; pop %4"
                             : "+c"(count), "+S"(si), "+D"(di), "+a"(a), "=&r"(df)
                             : "r"(p)
                             : "memory");
            if (!row_is(rows[r].name, si, VA + 0x11003 - (rows[r].si ? moved : 0)) ||
                !row_is(rows[r].name, di, VA + 0x14005 - (rows[r].di ? moved : 0)) ||
                !row_is(rows[r].name, count, !rows[r].rep) || !row_is("DF", df >> 10 & 1, 1))
                return;
        }
    trap_hook = NULL;
}

const struct guest_case guest_cases[] = {
    {"every gap after every producer", every_gap_after_every_producer},
    {"every consumer after every gap", every_consumer_after_every_gap},
    {"every consumer after every producer", every_consumer_after_every_producer},
    {"carry through long numbers", carry_through_long_numbers},
    {"bits far away", bits_far_away},
    {"strings go down", strings_go_down},
};
const unsigned guest_ncases = COUNT(guest_cases);
