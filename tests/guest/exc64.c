/* SPDX-License-Identifier: Apache-2.0 */
/* Every exception vector and its causes in long mode: error code, CR2, RF, saved RIP. SDM vol. 3A
 * ch. 6. */
#include "rt/guest.h"

#define GUARD   0x7f000000ull /* a page the cases play with, above the image */
#define BACKING 0x2000000ull  /* its RAM, and that of the page before it */

static void div_by_zero(void)
{
    TRAP("div %%ecx", .c = (uintptr_t)(0), .a = (uintptr_t)(1), .d = (uintptr_t)(0));
    EXPECT_FAULT(DE, 0);
    CHECK(trap.flags & FLAG_RF);
}

static void div_overflow(void)
{
    TRAP("div %%ecx", .c = (uintptr_t)(1), .a = (uintptr_t)(0), .d = (uintptr_t)(1));
    EXPECT_FAULT(DE, 0);
}

static void idiv_most_negative(void)
{
    TRAP("mov $0x80000000, %%eax; cdq; mov $-1, %%ecx; 1: idiv %%ecx", .a = 0);
    CHECK_EQ(trap.vector, DE);
}

static void single_step(void)
{
    TRAP("pushf; orl $0x100, (%%rsp); popf; nop; nop", .a = 0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label + 1 + 7 + 1 + 1); /* behind the first nop */
    CHECK(!(trap.flags & FLAG_RF));
    CHECK_EQ(read_dr6() & 0xe00f, 0x4000);
    write_dr6(0xffff0ff0);
}

static void mov_ss_holds_a_trap_back(void)
{
    TRAP("mov %%ss, %%eax; pushf; orl $0x100, (%%rsp); popf; mov %%eax, %%ss; nop; nop", .a = 0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label + 2 + 1 + 7 + 1 + 2 + 1); /* behind the first nop */
    write_dr6(0xffff0ff0);
}

static void icebp(void)
{
    TRAP(".byte 0xf1", .a = 0);
    EXPECT_TRAP(DB, 1);
}

static void breakpoint_on_execution(void)
{
    extern char bp_here[];

    write_dr0((uintptr_t)bp_here);
    write_dr7(0x402);
    TRAP("nop; .globl bp_here; bp_here: nop", .a = 0);
    write_dr7(0x400);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, (uintptr_t)bp_here);
    CHECK(!(trap.flags & FLAG_RF)); /* alone among the faults: SDM vol. 3B 18.3.1.1 */
    CHECK_EQ(read_dr6() & 0xf, 1);
    write_dr6(0xffff0ff0);
}

static bool rf_hook(struct frame *f)
{
    if (f->vector != DB)
        return false;
    trap.count++;
    f->flags |= FLAG_RF;
    return true;
}

static void resume_flag_steps_over_a_breakpoint(void)
{
    extern char bp_rf[];
    uint64_t n = 0;

    write_dr0((uintptr_t)bp_rf);
    write_dr7(0x402);
    trap.count = 0;
    trap_hook = rf_hook;
    __asm__ volatile(".globl bp_rf; bp_rf: inc %0" : "+r"(n));
    trap_hook = NULL;
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    CHECK_EQ(n, 1);
    CHECK_EQ(trap.count, 1);
}

static volatile uint64_t watched;

static void watchpoint_on_write(void)
{
    write_dr0((uintptr_t)&watched);
    write_dr7(0x402 | 0x90000); /* write, 8 bytes is 10b; 4 bytes 11b: R/W0=01, LEN0=10 */
    TRAP("movl $7, (%%rdx)", .d = (uintptr_t)(&watched));
    write_dr7(0x400);
    EXPECT_TRAP(DB, 6);
    CHECK_EQ(watched, 7);
    CHECK_EQ(read_dr6() & 0xf, 1);
    write_dr6(0xffff0ff0);
}

static void watchpoint_ignores_reads_and_neighbours(void)
{
    static volatile uint64_t pair[2] __attribute__((aligned(16)));

    write_dr0((uintptr_t)&pair[0]);
    write_dr7(0x402 | 0x90000);
    TRAP("movq (%%rdx), %%rax; movq $1, 8(%%rdx)", .d = (uintptr_t)(pair));
    write_dr7(0x400);
    CHECK_EQ(trap.count, 0);
}

static void general_detect(void)
{
    write_dr7(0x2400);
    TRAP("mov %%dr0, %%rax", .a = 0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label);
    CHECK(read_dr6() & 0x2000);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

static void int3(void)
{
    TRAP("int3", .a = 0);
    EXPECT_TRAP(BP, 1);
    CHECK(!(trap.flags & FLAG_RF));
}

static void int_n(void)
{
    TRAP("int $0x80", .a = 0);
    EXPECT_TRAP(0x80, 2);
}

static void ud2(void)
{
    TRAP("ud2", .a = 0);
    EXPECT_FAULT(UD, 0);
    CHECK(trap.flags & FLAG_RF);
}

static void lock_on_a_register(void)
{
    TRAP(".byte 0xf0, 0x01, 0xc0", .a = 0); /* lock add %eax, %eax */
    EXPECT_FAULT(UD, 0);
}

static void lock_on_a_load(void)
{
    TRAP(".byte 0xf0, 0x8b, 0x02", .d = (uintptr_t)(&watched)); /* lock mov (%rdx), %eax */
    EXPECT_FAULT(UD, 0);
}

static void opcodes_gone_in_64_bit_mode(void)
{
    TRAP(".byte 0x06", .a = 0); /* push %es */
    EXPECT_FAULT(UD, 0);
    TRAP(".byte 0x27", .a = 0); /* daa */
    EXPECT_FAULT(UD, 0);
    TRAP(".byte 0xce", .a = 0); /* into */
    EXPECT_FAULT(UD, 0);
    TRAP(".byte 0xea, 0, 0, 0, 0, 0, 0", .a = 0); /* jmp far */
    EXPECT_FAULT(UD, 0);
}

static void sixteen_byte_instruction(void)
{
    TRAP(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90",
         .a = 0);
    EXPECT_FAULT(GP, 0);
}

static void x87_with_task_switched(void)
{
    write_cr0(read_cr0() | 8);
    TRAP("fnop", .a = 0);
    EXPECT_FAULT(NM, 0);
    TRAP("movaps %%xmm0, %%xmm1", .a = 0);
    EXPECT_FAULT(NM, 0);
    TRAP("fwait", .a = 0);
    EXPECT_FAULT(NM, 0);
    __asm__ volatile("clts");
    TRAP("fnop", .a = 0);
    CHECK_EQ(trap.count, 0);
}

static void sse_without_osfxsr(void)
{
    write_cr4(read_cr4() & ~0x200ull);
    TRAP("movaps %%xmm0, %%xmm1", .a = 0);
    write_cr4(read_cr4() | 0x200);
    EXPECT_FAULT(UD, 0);
}

static void emulation_bit(void)
{
    write_cr0((read_cr0() | 4) & ~2ull);
    TRAP("fnop", .a = 0);
    EXPECT_FAULT(NM, 0);
    TRAP("movaps %%xmm0, %%xmm1", .a = 0);
    EXPECT_FAULT(UD, 0);
    write_cr0((read_cr0() & ~4ull) | 2);
}

static void double_fault_through_an_ist(void)
{
    uint64_t *stack = page_alloc();

    tss.ist[0] = (uintptr_t)stack + 4096;
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x0e, 0); /* not present: #NP while delivering #GP */
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 1);
    TRAP("mov $0x8000000000000000, %%rax; mov (%%rax), %%rax", .a = 0);
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x8e, 0);
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 0);
    CHECK_EQ(trap.vector, DF);
    CHECK_EQ(trap.error, 0);
}

static void missing_gate(void)
{
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0x0e, 0);
    TRAP("int $0x90", .a = 0);
    EXPECT_FAULT(NP, 0x90 * 8 + 2);
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0xee, 0);
}

static void gate_with_a_null_selector(void)
{
    idt_set(0x91, idt_stub(0x91), 0, 0x8e, 0);
    TRAP("int $0x91", .a = 0);
    EXPECT_FAULT(GP, 0);
}

static void gate_of_the_wrong_type(void)
{
    idt_set(0x92, idt_stub(0x92), SEL_CODE, 0x8c, 0); /* call gate */
    TRAP("int $0x92", .a = 0);
    EXPECT_FAULT(GP, 0x92 * 8 + 2);
}

static void segment_not_present(void)
{
    gdt[SEL_FREE / 8] = 0x00cf13000000ffff;
    TRAP("mov %%dx, %%ds", .d = (uintptr_t)(SEL_FREE));
    EXPECT_FAULT(NP, SEL_FREE);
    TRAP("mov %%dx, %%ss", .d = (uintptr_t)(SEL_FREE));
    EXPECT_FAULT(SS, SEL_FREE);
}

static void selector_beyond_the_table(void)
{
    TRAP("mov %%dx, %%ds", .d = (uintptr_t)(0x7fb8));
    EXPECT_FAULT(GP, 0x7fb8);
    TRAP("mov %%dx, %%es", .d = (uintptr_t)(0x14)); /* LDT, and there is none */
    EXPECT_FAULT(GP, 0x14);
}

static void code_segment_into_ss(void)
{
    TRAP("mov %%dx, %%ss", .d = (uintptr_t)(SEL_CODE));
    EXPECT_FAULT(GP, SEL_CODE);
}

static void mov_to_cs(void)
{
    TRAP(".byte 0x8e, 0xc8", .a = 0);
    EXPECT_FAULT(UD, 0);
}

static void noncanonical_load(void)
{
    TRAP("mov (%%rdx), %%eax", .d = (uintptr_t)(0x8000000000000000ull));
    EXPECT_FAULT(GP, 0);
    TRAP("mov (%%rdx), %%eax",
         .d = (uintptr_t)(0x00007ffffffffffdull)); /* the last bytes are beyond */
    CHECK(trap.count == 1);
}

/* Gives `vector` a stack of its own, for cases that ruin rsp. */
static void with_ist(unsigned vector, bool on)
{
    static uint64_t *stack;

    if (!stack)
        stack = page_alloc();
    tss.ist[1] = (uintptr_t)stack + 4096;
    idt_set(vector, idt_stub(vector), SEL_CODE, 0x8e, on ? 2 : 0);
}

static void noncanonical_stack(void)
{
    with_ist(SS, true);
    TRAP("mov %%rdx, %%rsp; push %%rax", .d = 0x8000000000000000ull);
    with_ist(SS, false);
    CHECK_EQ(trap.vector, SS);
    CHECK_EQ(trap.error, 0);
    CHECK_EQ(trap.ip, trap_label + 3);
    CHECK_EQ(trap.sp, 0x8000000000000000ull);
}

static void noncanonical_through_rbp_is_a_stack_fault(void)
{
    TRAP("mov %%rdx, %%rbp; mov (%%rbp), %%eax", .d = (uintptr_t)(0x8000000000000000ull));
    CHECK_EQ(trap.vector, SS);
    CHECK_EQ(trap.error, 0);
}

static void reserved_bits_of_control_registers(void)
{
    TRAP("mov %%rdx, %%cr0", .d = (uintptr_t)((read_cr0() & ~1ull))); /* PG without PE */
    EXPECT_FAULT(GP, 0);
    TRAP("mov %%rdx, %%cr0", .d = (uintptr_t)(read_cr0() | (1ull << 32)));
    EXPECT_FAULT(GP, 0);
    TRAP("mov %%rdx, %%cr4", .d = (uintptr_t)(read_cr4() | (1ull << 31)));
    EXPECT_FAULT(GP, 0);
    TRAP("mov %%rdx, %%cr4",
         .d = (uintptr_t)(read_cr4() & ~0x20ull)); /* PAE may not go in long mode */
    EXPECT_FAULT(GP, 0);
}

static void cr0_nw_without_cd(void)
{
    TRAP("mov %%rdx, %%cr0", .d = (uintptr_t)((read_cr0() | (1ull << 29)) & ~(1ull << 30)));
    EXPECT_FAULT(GP, 0);
}

static void missing_control_register(void)
{
    TRAP(".byte 0x0f, 0x20, 0xc8", .a = 0); /* mov %cr1, %rax */
    EXPECT_FAULT(UD, 0);
}

static void unknown_msr(void)
{
    TRAP("rdmsr", .c = (uintptr_t)(0x12345678));
    EXPECT_FAULT(GP, 0);
    TRAP("wrmsr", .c = (uintptr_t)(0x12345678), .a = (uintptr_t)(0), .d = (uintptr_t)(0));
    EXPECT_FAULT(GP, 0);
}

static void noncanonical_msr(void)
{
    TRAP("wrmsr", .c = (uintptr_t)(0xc0000082), .a = (uintptr_t)(0),
         .d = (uintptr_t)(0x80000000)); /* LSTAR */
    EXPECT_FAULT(GP, 0);
}

static void reserved_efer_bits(void)
{
    TRAP("wrmsr", .c = (uintptr_t)(0xc0000080), .a = (uintptr_t)(0xffff), .d = (uintptr_t)(0));
    EXPECT_FAULT(GP, 0);
}

/* ---- page faults --------------------------------------------------------------------------------
 */

static volatile uint64_t *guard(uint64_t bits)
{
    volatile uint64_t *e = pte(GUARD, 1);

    *pte(GUARD - 4096, 1) = (BACKING + 4096) | PTE_P | PTE_W;
    *e = BACKING | bits;
    write_cr3(read_cr3());
    return e;
}

static void pf_read_absent(void)
{
    guard(0);
    TRAP("mov (%%rdx), %%eax", .d = (uintptr_t)(GUARD + 0x123));
    EXPECT_FAULT(PF, 0);
    CHECK_EQ(trap.cr2, GUARD + 0x123);
    CHECK(trap.flags & FLAG_RF);
}

static void pf_write_absent(void)
{
    guard(0);
    TRAP("mov %%eax, (%%rdx)", .d = (uintptr_t)(GUARD + 8));
    EXPECT_FAULT(PF, 2);
}

static void pf_write_protected(void)
{
    guard(PTE_P);
    TRAP("mov (%%rdx), %%eax", .d = (uintptr_t)(GUARD));
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%eax, (%%rdx)", .d = (uintptr_t)(GUARD));
    EXPECT_FAULT(PF, 3);
    write_cr0(read_cr0() & ~0x10000ull); /* WP off: ring 0 may write */
    TRAP("mov %%eax, (%%rdx)", .d = (uintptr_t)(GUARD));
    CHECK_EQ(trap.count, 0);
    write_cr0(read_cr0() | 0x10000);
}

static void pf_read_modify_write_reports_a_write(void)
{
    guard(PTE_P);
    TRAP("addl $1, (%%rdx)", .d = (uintptr_t)(GUARD));
    EXPECT_FAULT(PF, 3);
    guard(0);
    TRAP("addl $1, (%%rdx)", .d = (uintptr_t)(GUARD));
    EXPECT_FAULT(PF, 2);
}

static void pf_execute(void)
{
    guard(PTE_P | PTE_W | PTE_NX);
    TRAP("jmp *%%rdx", .d = (uintptr_t)(GUARD));
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 0x11);
    CHECK_EQ(trap.ip, GUARD);
    CHECK_EQ(trap.cr2, GUARD);
    guard(0);
    TRAP("jmp *%%rdx", .d = (uintptr_t)(GUARD));
    CHECK_EQ(trap.error, 0x10);
}

static void pf_reserved_bit(void)
{
    guard(PTE_P | PTE_W | (1ull << 51));
    TRAP("mov (%%rdx), %%eax", .d = (uintptr_t)(GUARD));
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 9);
}

static void pf_second_page_of_a_crossing_access(void)
{
    guard(0);
    TRAP("movq (%%rdx), %%rax", .d = (uintptr_t)(GUARD - 4));
    EXPECT_FAULT(PF, 0);
    CHECK_EQ(trap.cr2, GUARD);
    *(volatile uint32_t *)(GUARD - 4) = 0x1234;
    TRAP("movq %%rax, (%%rdx)", .d = (uintptr_t)(GUARD - 4));
    EXPECT_FAULT(PF, 2);
    CHECK_EQ(*(volatile uint32_t *)(GUARD - 4), 0x1234);
}

static void pf_in_a_push_leaves_rsp(void)
{
    guard(0);
    with_ist(PF, true);
    TRAP("mov %%rdx, %%rsp; push %%rax", .d = GUARD + 8);
    with_ist(PF, false);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 2);
    CHECK_EQ(trap.cr2, GUARD);
    CHECK_EQ(trap.sp, GUARD + 8);
    CHECK_EQ(trap.ip, trap_label + 3);
}

static void pf_in_a_call_leaves_rsp(void)
{
    guard(0);
    with_ist(PF, true);
    TRAP("mov %%rdx, %%rsp; call 2f", .d = GUARD + 8);
    with_ist(PF, false);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.sp, GUARD + 8);
    CHECK_EQ(trap.ip, trap_label + 3);
}

static uintptr_t movs_regs[2];
static bool movs_hook(struct frame *f)
{
    movs_regs[0] = f->cx;
    movs_regs[1] = f->di;
    guard(PTE_P | PTE_W);
    return true;
}

static void rep_movs_resumes_after_a_fault(void)
{
    uint64_t count, di;

    guard(0);
    trap_hook = movs_hook;
    __asm__ volatile("rep movsb"
                     : "=c"(count), "=D"(di)
                     : "0"(100), "1"(GUARD - 10), "S"(0x200000)
                     : "memory");
    trap_hook = NULL;
    CHECK_EQ(movs_regs[0], 90);
    CHECK_EQ(movs_regs[1], GUARD);
    CHECK_EQ(count, 0);
    CHECK_EQ(di, GUARD + 90);
}

static void user_load(void)
{
    __asm__ volatile("mov (%0), %%eax" : : "r"(GUARD) : "rax");
    __asm__ volatile("int $0x80");
}

static void user_store(void)
{
    __asm__ volatile("mov %%eax, (%0)" : : "r"(GUARD) : "rax");
    __asm__ volatile("int $0x80");
}

static void pf_from_ring_3(void)
{
    guard(PTE_P | PTE_W);
    run_user(user_load);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 5);
    CHECK_EQ(trap.cs, SEL_UCODE);
    guard(0);
    run_user(user_load);
    CHECK_EQ(trap.error, 4);
    guard(PTE_P | PTE_U);
    run_user(user_store);
    CHECK_EQ(trap.error, 7);
    guard(PTE_P | PTE_U | PTE_W);
    run_user(user_store);
    CHECK_EQ(trap.vector, 0x80);
}

static void user_cli(void)
{
    __asm__ volatile("cli");
}
static void user_hlt(void)
{
    __asm__ volatile("hlt");
}
static void user_in(void)
{
    __asm__ volatile("in $0x71, %%al" ::: "rax");
}
static void user_int_0(void)
{
    __asm__ volatile("int $0x0d");
}
static void user_cr(void)
{
    __asm__ volatile("mov %%cr3, %%rax" ::: "rax");
}
static void user_misaligned(void)
{
    __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; mov (%0), %%eax"
                     :
                     : "r"(GUARD + 1)
                     : "rax");
    __asm__ volatile("int $0x80");
}

static void privileged_in_ring_3(void)
{
    static void (*const fns[])(void) = {user_cli, user_hlt, user_in, user_cr};

    for (unsigned i = 0; i < sizeof(fns) / sizeof(fns[0]); i++) {
        run_user(fns[i]);
        CHECK_EQ(trap.vector, GP);
        CHECK_EQ(trap.error, 0);
    }
}

static void gate_with_too_low_a_privilege(void)
{
    run_user(user_int_0);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, 0x0d * 8 + 2);
}

static void alignment_check(void)
{
    guard(PTE_P | PTE_W | PTE_U);
    write_cr0(read_cr0() | (1ull << 18));
    run_user(user_misaligned);
    write_cr0(read_cr0() & ~(1ull << 18));
    CHECK_EQ(trap.vector, AC);
    CHECK_EQ(trap.error, 0);
    run_user(user_misaligned);
    CHECK_EQ(trap.vector, 0x80);
}

static void x87_error_comes_at_the_next_instruction(void)
{
    uint16_t cw = 0x37b; /* zero divide unmasked */

    __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
    TRAP("fwait", .a = 0);
    EXPECT_FAULT(MF, 0);
    __asm__ volatile("fnclex; fninit");
}

static void sse_error(void)
{
    uint32_t mxcsr = 0x1d80; /* zero divide unmasked */

    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    __asm__ volatile("mov $1, %%eax; cvtsi2sd %%eax, %%xmm0; pxor %%xmm1, %%xmm1" ::: "rax");
    TRAP("divsd %%xmm1, %%xmm0", .a = 0);
    EXPECT_FAULT(XM, 0);
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    CHECK_EQ(mxcsr & 0x3f, 4);
    mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

static void misaligned_movaps(void)
{
    TRAP("movaps 1(%%rdx), %%xmm0", .d = (uintptr_t)(0x200000));
    EXPECT_FAULT(GP, 0);
}

static void reserved_mxcsr_bits(void)
{
    uint32_t mxcsr = 0x80000000;

    TRAP("ldmxcsr (%%rdx)", .d = (uintptr_t)(&mxcsr));
    EXPECT_FAULT(GP, 0);
}

static void smep_and_smap(void)
{
    uint32_t a = 7, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    guard(PTE_P | PTE_W | PTE_U);
    /* The image itself becomes the kernel's alone. */
    *pte(0, 2) &= ~PTE_U;
    *pte(0x200000, 2) &= ~PTE_U;
    write_cr3(read_cr3());
    *(volatile uint8_t *)GUARD = 0xc3;
    if (b & (1u << 7)) {
        write_cr4(read_cr4() | (1u << 20));
        TRAP("jmp *%%rdx", .d = (uintptr_t)(GUARD));
        CHECK_EQ(trap.vector, PF);
        CHECK_EQ(trap.error, 0x11);
        write_cr4(read_cr4() & ~(1ull << 20));
    }
    if (b & (1u << 20)) {
        write_cr4(read_cr4() | (1u << 21));
        TRAP("mov (%%rdx), %%eax", .d = (uintptr_t)(GUARD));
        EXPECT_FAULT(PF, 1);
        TRAP("stac; mov (%%rdx), %%eax; clac", .d = (uintptr_t)(GUARD));
        CHECK_EQ(trap.count, 0);
        write_cr4(read_cr4() & ~(1ull << 21));
    }
    *pte(0, 2) |= PTE_U;
    *pte(0x200000, 2) |= PTE_U;
    write_cr3(read_cr3());
}

static unsigned nmis;
static bool nmi_hook(struct frame *f)
{
    if (f->vector != NMI)
        return false;
    nmis++;
    /* A second NMI while this one is in service waits for its IRET. */
    if (nmis == 1) {
        *(volatile uint32_t *)0xfee00300 = 0x44400;
        CHECK_EQ(nmis, 1);
    }
    return true;
}

static void nmi_and_its_blocking(void)
{
    *(volatile uint32_t *)0xfee000f0 = 0x1ff;
    nmis = 0;
    trap_hook = nmi_hook;
    *(volatile uint32_t *)0xfee00300 = 0x44400; /* NMI to self */
    for (volatile int i = 0; i < 1000; i++)
        ;
    trap_hook = NULL;
    CHECK_EQ(nmis, 2);
}

static void syscall_and_sysret(void)
{
    uint64_t ret;

    wrmsr(0xc0000081, (uint64_t)0x1b << 48 | (uint64_t)SEL_CODE << 32);
    wrmsr(0xc0000084, 0x200 | 0x400);
    {
        extern char sc_entry[];
        wrmsr(0xc0000082, (uintptr_t)sc_entry);
    }
    __asm__ volatile("jmp 2f; .globl sc_entry; sc_entry: mov %%rcx, %%rax; jmp *%%rcx;"
                     "2: syscall; 3: lea 3b(%%rip), %%rdx; sub %%rdx, %%rax"
                     : "=a"(ret)
                     :
                     : "rcx", "rdx", "r11", "memory");
    CHECK_EQ(ret, 0);
}

static void syscall_disabled(void)
{
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    TRAP("syscall", .a = 0);
    EXPECT_FAULT(UD, 0);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

static void iret_to_a_noncanonical_address(void)
{
    TRAP(
        "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $8; mov $0x8000000000000000, %%rax;"
        "push %%rax; iretq",
        .a = 0);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, 0);
}

static void far_jump_to_data(void)
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) p = {0x100000, SEL_DATA};

    TRAP("ljmp *(%%rdx)", .d = (uintptr_t)(&p));
    EXPECT_FAULT(GP, SEL_DATA);
}

/* ---- RF in the frame
 * ------------------------------------------------------------------------------ */

static void rf_of_faults_and_traps(void)
{
    TRAP("div %%ecx", .c = 0, .a = 1, .d = 0);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    TRAP("mov %%dx, %%ds", .d = 0x7fb8);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    gdt[SEL_FREE / 8] = 0x00cf13000000ffff;
    TRAP("mov %%dx, %%ds", .d = SEL_FREE);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    TRAP("mov %%dx, %%ss", .d = SEL_FREE);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    write_cr0(read_cr0() | 8);
    TRAP("fnop", .a = 0);
    __asm__ volatile("clts");
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    write_dr7(0x2400);
    TRAP("mov %%dr0, %%rax", .a = 0);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    /* Traps: INT n, INT1, a watchpoint, a step. */
    TRAP("int $0x80", .a = 0);
    CHECK_EQ(trap.flags & FLAG_RF, 0);
    TRAP(".byte 0xf1", .a = 0);
    CHECK_EQ(trap.flags & FLAG_RF, 0);
    write_dr0((uintptr_t)&watched);
    write_dr7(0x402 | 0x90000);
    TRAP("movl $7, (%%rdx)", .d = (uintptr_t)&watched);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.flags & FLAG_RF, 0);
    /* A step within a repeated instruction is a trap with RF: the instruction is not over. */
    TRAP("mov %%rdx, %%rdi; mov $3, %%ecx; pushf; orl $0x100, (%%rsp); popf; rep stosb",
         .d = (uintptr_t)&watched);
    write_dr6(0xffff0ff0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
}

/* ---- exceptions that meet: SDM vol. 3A table 6-5
 * ---------------------------------------------------- */

enum second { SECOND_NP, SECOND_GP, SECOND_PF, SECOND_SS };

/* Makes the delivery of `vector` fail in this way. */
static void spoil(unsigned vector, enum second how)
{
    switch (how) {
    case SECOND_NP:
        idt_set(vector, idt_stub(vector), SEL_CODE, vector == BP ? 0x6e : 0x0e, 0);
        break;
    case SECOND_GP:
        idt_set(vector, idt_stub(vector), SEL_DATA, vector == BP ? 0xee : 0x8e, 0);
        break;
    case SECOND_PF:
        guard(0);
        tss.ist[4] = GUARD + 0x800;
        idt_set(vector, idt_stub(vector), SEL_CODE, vector == BP ? 0xee : 0x8e, 5);
        break;
    case SECOND_SS:
        tss.ist[4] = 0x8000000000000000ull;
        idt_set(vector, idt_stub(vector), SEL_CODE, vector == BP ? 0xee : 0x8e, 5);
        break;
    }
}

static void cause(unsigned vector)
{
    switch (vector) {
    case DE:
        TRAP("div %%ecx", .c = 0, .a = 1, .d = 0);
        break;
    case DB:
        TRAP(".byte 0xf1", .a = 0);
        break;
    case BP:
        TRAP("int3", .a = 0);
        break;
    case UD:
        TRAP("ud2", .a = 0);
        break;
    case NP:
        gdt[SEL_FREE / 8] = 0x00cf13000000ffff;
        TRAP("mov %%dx, %%ds", .d = SEL_FREE);
        break;
    case GP:
        TRAP("mov %%dx, %%ds", .d = 0x7fb8);
        break;
    case PF:
        guard(0);
        TRAP("mov (%%rdx), %%eax", .d = GUARD);
        break;
    case NMI:
        *(volatile uint32_t *)0xfee000f0 = 0x1ff;
        TRAP("movl $0x44400, 0x300(%%rdx); mov $10000, %%ecx; 3: loop 3b", .d = 0xfee00000);
        /* The frame was never made, and NMIs stay blocked until an IRET. */
        __asm__ volatile(
            "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $8; lea 1f(%%rip), %%rax;"
            "push %%rax; iretq; 1:" ::
                : "rax", "memory");
        break;
    default:
        break;
    }
}

static void meetings(void)
{
    static const struct {
        uint8_t first, second, vector;
        uint16_t error;
    } table[] = {
        {DE, SECOND_NP, DF, 0},
        {DE, SECOND_GP, DF, 0},
        {DE, SECOND_SS, DF, 0},
        {DE, SECOND_PF, PF, 2}, /* a page fault after a contributory one is served on its own */
        {NP, SECOND_GP, DF, 0},
        {NP, SECOND_PF, PF, 2},
        {GP, SECOND_NP, DF, 0},
        {GP, SECOND_SS, DF, 0},
        {GP, SECOND_PF, PF, 2},
        {PF, SECOND_NP, DF, 0},
        {PF, SECOND_GP, DF, 0},
        {PF, SECOND_SS, DF, 0},
        {PF, SECOND_PF, DF, 0},
        {UD, SECOND_NP, NP, UD * 8 + 3}, /* benign first; EXT */
        {UD, SECOND_GP, GP, SEL_DATA + 1},
        {UD, SECOND_SS, SS, 1},
        {UD, SECOND_PF, PF, 2},
        {BP, SECOND_NP, NP, BP * 8 + 2}, /* a program's own interrupt: no EXT */
        {BP, SECOND_GP, GP, SEL_DATA},
        {BP, SECOND_SS, SS, 0},
        {BP, SECOND_PF, PF, 2},
        {DB, SECOND_NP, NP, DB * 8 + 3}, /* INT1 counts as external */
        {DB, SECOND_GP, GP, SEL_DATA + 1},
        {NMI, SECOND_NP, NP, NMI * 8 + 3},
        {NMI, SECOND_GP, GP, SEL_DATA + 1},
        {NMI, SECOND_PF, PF, 2},
    };

    tss.ist[0] = (uintptr_t)page_alloc() + 4096;
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 1);
    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        unsigned v = table[i].first;

        spoil(v, table[i].second);
        cause(v);
        idt_set(v, idt_stub(v), SEL_CODE, v == BP ? 0xee : 0x8e, 0);
        if (trap.vector != table[i].vector || trap.error != table[i].error) {
            CHECK_EQ(i << 16 | trap.vector, i << 16 | table[i].vector);
            CHECK_EQ(i << 16 | trap.error, i << 16 | table[i].error);
        }
    }
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 0);
}

/* ---- the tables themselves
 * ----------------------------------------------------------------------------- */

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

static void limit_of_the_idt(void)
{
    struct table_register old, small;

    __asm__ volatile("sidt %0" : "=m"(old));
    small = old;
    small.limit = 0x90 * 16 + 14; /* one byte short */
    __asm__ volatile("lidt %0" : : "m"(small));
    TRAP("int $0x90", .a = 0);
    __asm__ volatile("lidt %0" : : "m"(old));
    EXPECT_FAULT(GP, 0x90 * 8 + 2);
    TRAP("int $0x90", .a = 0);
    EXPECT_TRAP(0x90, 2);
    small.base = 0x8000000000000000ull;
    TRAP("lidt (%%rdx)", .d = (uintptr_t)&small);
    EXPECT_FAULT(GP, 0);
}

static void user_int_80(void)
{
    __asm__ volatile("int $0x80");
}
static void user_load_from_ldt(void)
{
    __asm__ volatile("mov $0xf, %%eax; mov %%eax, %%es; int $0x81" ::: "rax");
}

/* From ring 3 as well the access is the supervisor's: U is 0 in the error code. */
static void pf_on_the_idt(void)
{
    struct table_register old, here;

    guard(0);
    for (unsigned i = 0; i < 0x800; i++)
        ((volatile uint8_t *)(GUARD - 0x800))[i] = idt[i];
    __asm__ volatile("sidt %0" : "=m"(old));
    here = (struct table_register){old.limit, GUARD - 0x800};
    __asm__ volatile("lidt %0" : : "m"(here));
    run_user(user_int_80);
    __asm__ volatile("lidt %0" : : "m"(old));
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 0);
    CHECK_EQ(trap.cr2, GUARD);
    CHECK_EQ(trap.cs, SEL_UCODE);
}

static void pf_on_a_descriptor(void)
{
    guard(0);
    gdt[SEL_FREE / 8] =
        0xfff | (GUARD & 0xffffff) << 16 | 0x82ull << 40 | (GUARD >> 24 & 0xff) << 56;
    gdt[SEL_FREE / 8 + 1] = 0;
    __asm__ volatile("lldt %w0" : : "r"(SEL_FREE));
    TRAP("mov %%dx, %%es", .d = 0xc);
    EXPECT_FAULT(PF, 0);
    CHECK_EQ(trap.cr2, GUARD + 8);
    run_user(user_load_from_ldt);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 0);
    guard(PTE_P | PTE_W);
    *(volatile uint64_t *)(GUARD + 8) = 0x00cff2000000ffffull; /* not accessed yet */
    guard(PTE_P);
    TRAP("mov %%dx, %%es", .d = 0xf); /* the accessed bit cannot be written */
    EXPECT_FAULT(PF, 3);
    run_user(user_load_from_ldt);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 3);
    guard(PTE_P | PTE_W); /* for the supervisor only: it is the one who reads */
    run_user(user_load_from_ldt);
    CHECK_EQ(trap.vector, 0x81);
    CHECK_EQ(*(volatile uint64_t *)(GUARD + 8) >> 40 & 1, 1);
    __asm__ volatile("mov %w0, %%es; lldt %w1" : : "r"(SEL_DATA), "r"(0));
}

static void pf_on_the_task_segment(void)
{
    uint64_t base = GUARD + 4096 - 30, stack = (uintptr_t)page_alloc() + 4096;

    /* RSP0 is on the absent page, IST1 behind it. */
    guard(0);
    *pte(GUARD + 4096, 1) = (BACKING + 8192) | PTE_P | PTE_W;
    invlpg((void *)(GUARD + 4096));
    *(volatile uint64_t *)(base + 36) = stack;
    idt_set(PF, idt_stub(PF), SEL_CODE, 0x8e, 1);
    gdt[SEL_FREE / 8] = 0x67 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_FREE / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(SEL_FREE));
    run_user(user_int_80);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    idt_set(PF, idt_stub(PF), SEL_CODE, 0x8e, 0);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 0);
    CHECK_EQ(trap.cr2, base + 4);
    CHECK_EQ(trap.cs, SEL_UCODE);
}

/* ---- #AC
 * -------------------------------------------------------------------------------------------------
 */

#define USER_AC(name, access)                                                        \
    static void name(void)                                                           \
    {                                                                                \
        __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; " access "; int $0x80" \
                         :                                                           \
                         : "r"(GUARD)                                                \
                         : "rax", "memory");                                         \
    }
USER_AC(ac_word, "mov 1(%0), %%ax")
USER_AC(ac_long, "mov 2(%0), %%eax")
USER_AC(ac_quad, "mov 4(%0), %%rax")
USER_AC(ac_store, "mov %%eax, 3(%0)")
USER_AC(ac_push, "lea 0x801(%0), %%rsp; push %%rax")
USER_AC(ac_byte, "mov 3(%0), %%al")
USER_AC(ac_aligned, "mov 8(%0), %%rax; mov 6(%0), %%ax")

static void alignment_checks(void)
{
    static void (*const checked[])(void) = {ac_word, ac_long, ac_quad, ac_store, ac_push};

    write_cr0(read_cr0() | 1u << 18);
    guard(PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < 5; i++) {
        run_user(checked[i]);
        CHECK_EQ(trap.vector, AC);
        CHECK_EQ(trap.error, 0);
        CHECK_EQ(trap.flags & (FLAG_RF | 1u << 18), FLAG_RF | 1u << 18);
    }
    guard(0); /* Intel's look at the alignment before the page */
    run_user(ac_long);
    CHECK_EQ(trap.vector, AC);
    run_user(ac_byte);
    CHECK_EQ(trap.vector, PF);
    guard(PTE_P | PTE_W | PTE_U);
    run_user(ac_byte);
    CHECK_EQ(trap.vector, 0x80);
    run_user(ac_aligned);
    CHECK_EQ(trap.vector, 0x80);
    TRAP(
        "pushf; orl $0x40000, (%%rsp); popf; mov 1(%%rdx), %%eax; pushf; andl $~0x40000, (%%rsp); popf",
        .d = GUARD); /* ring 0 */
    CHECK_EQ(trap.count, 0);
    write_cr0(read_cr0() & ~(1ull << 18));
}

const struct guest_case guest_cases[] = {
    {"#DE: DIV by zero", div_by_zero},
    {"#DE: DIV overflow", div_overflow},
    {"#DE: IDIV of the most negative by -1", idiv_most_negative},
    {"#DB: single step", single_step},
    {"#DB: MOV SS holds it back", mov_ss_holds_a_trap_back},
    {"#DB: INT1", icebp},
    {"#DB: execution breakpoint", breakpoint_on_execution},
    {"#DB: RF steps over a breakpoint", resume_flag_steps_over_a_breakpoint},
    {"#DB: write watchpoint", watchpoint_on_write},
    {"#DB: watchpoint ignores reads and neighbours", watchpoint_ignores_reads_and_neighbours},
    {"#DB: general detect", general_detect},
    {"#BP: INT3", int3},
    {"INT n", int_n},
    {"#UD: UD2", ud2},
    {"#UD: LOCK on a register", lock_on_a_register},
    {"#UD: LOCK on a load", lock_on_a_load},
    {"#UD: opcodes gone in 64-bit mode", opcodes_gone_in_64_bit_mode},
    {"#GP: 16-byte instruction", sixteen_byte_instruction},
    {"#NM: CR0.TS", x87_with_task_switched},
    {"#UD: SSE without OSFXSR", sse_without_osfxsr},
    {"#NM and #UD: CR0.EM", emulation_bit},
    {"#DF: missing gate, on an IST stack", double_fault_through_an_ist},
    {"#NP: gate not present", missing_gate},
    {"#GP: gate with a null selector", gate_with_a_null_selector},
    {"#GP: gate of the wrong type", gate_of_the_wrong_type},
    {"#NP and #SS: segment not present", segment_not_present},
    {"#GP: selector beyond the table", selector_beyond_the_table},
    {"#GP: code segment into SS", code_segment_into_ss},
    {"#UD: MOV to CS", mov_to_cs},
    {"#GP: non-canonical load", noncanonical_load},
    {"#SS: non-canonical stack", noncanonical_stack},
    {"#SS: non-canonical through RBP", noncanonical_through_rbp_is_a_stack_fault},
    {"#GP: reserved bits of CR0 and CR4", reserved_bits_of_control_registers},
    {"#GP: CR0.NW without CD", cr0_nw_without_cd},
    {"#UD: no such control register", missing_control_register},
    {"#GP: unknown MSR", unknown_msr},
    {"#GP: non-canonical LSTAR", noncanonical_msr},
    {"#GP: reserved EFER bits", reserved_efer_bits},
    {"#PF: read, absent", pf_read_absent},
    {"#PF: write, absent", pf_write_absent},
    {"#PF: write-protected, and WP off", pf_write_protected},
    {"#PF: read-modify-write is a write", pf_read_modify_write_reports_a_write},
    {"#PF: execute", pf_execute},
    {"#PF: reserved bit", pf_reserved_bit},
    {"#PF: second page of a crossing access", pf_second_page_of_a_crossing_access},
    {"#PF: in PUSH", pf_in_a_push_leaves_rsp},
    {"#PF: in CALL", pf_in_a_call_leaves_rsp},
    {"#PF: REP MOVS resumes", rep_movs_resumes_after_a_fault},
    {"#PF: from ring 3", pf_from_ring_3},
    {"#GP: privileged instructions in ring 3", privileged_in_ring_3},
    {"#GP: INT n through a kernel gate", gate_with_too_low_a_privilege},
    {"#AC: misaligned in ring 3", alignment_check},
    {"#MF: at the next x87 instruction", x87_error_comes_at_the_next_instruction},
    {"#XM: divide by zero", sse_error},
    {"#GP: misaligned MOVAPS", misaligned_movaps},
    {"#GP: reserved MXCSR bits", reserved_mxcsr_bits},
    {"#PF: SMEP and SMAP", smep_and_smap},
    {"NMI: delivered, blocked until IRET", nmi_and_its_blocking},
    {"SYSCALL", syscall_and_sysret},
    {"#UD: SYSCALL disabled", syscall_disabled},
    {"#GP: IRET to a non-canonical address", iret_to_a_noncanonical_address},
    {"#GP: far jump to data", far_jump_to_data},
    {"RF of faults and traps", rf_of_faults_and_traps},
    {"#DF: who meets whom, and EXT", meetings},
    {"#GP: limit of the IDT", limit_of_the_idt},
    {"#PF: on the IDT", pf_on_the_idt},
    {"#PF: on a descriptor", pf_on_a_descriptor},
    {"#PF: on the TSS", pf_on_the_task_segment},
    {"#AC: sizes", alignment_checks},
};
const unsigned guest_ncases = sizeof(guest_cases) / sizeof(guest_cases[0]);
