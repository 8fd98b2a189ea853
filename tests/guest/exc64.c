/* SPDX-License-Identifier: Apache-2.0 */
/* Every exception vector and its causes in long mode: error code, CR2, RF, saved RIP. SDM vol. 3A
 * ch. 6. */
#include "rt/guest.h"

#define GUARD   0x7f000000ull /* a page the cases play with, above the image */
#define BACKING 0x2000000ull  /* its RAM, and that of the page before it */

CASE(div_by_zero, "#DE: DIV by zero")
{
    FAULTS(DE, 0, "div %%ecx", .c = 0, .a = 1, .d = 0);
    CHECK(trap.flags & FLAG_RF);
}

CASE(div_overflow, "#DE: DIV overflow")
{
    FAULTS(DE, 0, "div %%ecx", .c = 1, .a = 0, .d = 1);
}

CASE(idiv_most_negative, "#DE: IDIV of the most negative by -1")
{
    TRAP("mov $0x80000000, %%eax; cdq; mov $-1, %%ecx; 1: idiv %%ecx");
    CHECK_EQ(trap.vector, DE);
}

CASE(single_step, "#DB: single step")
{
    TRAP("pushf; orl $0x100, (%%rsp); popf; nop; nop");
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label + 1 + 7 + 1 + 1); /* behind the first nop */
    CHECK(!(trap.flags & FLAG_RF));
    CHECK_EQ(read_dr6() & 0xe00f, 0x4000);
    write_dr6(0xffff0ff0);
}

CASE(mov_ss_holds_a_trap_back, "#DB: MOV SS holds it back")
{
    TRAP("mov %%ss, %%eax; pushf; orl $0x100, (%%rsp); popf; mov %%eax, %%ss; nop; nop");
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label + 2 + 1 + 7 + 1 + 2 + 1); /* behind the first nop */
    write_dr6(0xffff0ff0);
}

CASE(icebp, "#DB: INT1")
{
    TRAP(".byte 0xf1");
    EXPECT_TRAP(DB, 1);
}

CASE(breakpoint_on_execution, "#DB: execution breakpoint")
{
    extern char bp_here[];

    write_dr0((uintptr_t)bp_here);
    write_dr7(0x402);
    TRAP("nop; .globl bp_here; bp_here: nop");
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

CASE(resume_flag_steps_over_a_breakpoint, "#DB: RF steps over a breakpoint")
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

CASE(watchpoint_on_write, "#DB: write watchpoint")
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

CASE(watchpoint_ignores_reads_and_neighbours, "#DB: watchpoint ignores reads and neighbours")
{
    static volatile uint64_t pair[2] __attribute__((aligned(16)));

    write_dr0((uintptr_t)&pair[0]);
    write_dr7(0x402 | 0x90000);
    TRAP("movq (%%rdx), %%rax; movq $1, 8(%%rdx)", .d = (uintptr_t)(pair));
    write_dr7(0x400);
    CHECK_EQ(trap.count, 0);
}

CASE(general_detect, "#DB: general detect")
{
    write_dr7(0x2400);
    TRAP("mov %%dr0, %%rax");
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label);
    CHECK(read_dr6() & 0x2000);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
}

CASE(int3, "#BP: INT3")
{
    TRAP("int3");
    EXPECT_TRAP(BP, 1);
    CHECK(!(trap.flags & FLAG_RF));
}

CASE(int_n, "INT n")
{
    TRAP("int $0x80");
    EXPECT_TRAP(0x80, 2);
}

CASE(ud2, "#UD: UD2")
{
    FAULTS(UD, 0, "ud2");
    CHECK(trap.flags & FLAG_RF);
}

CASE(lock_on_a_register, "#UD: LOCK on a register")
{
    FAULTS(UD, 0, ".byte 0xf0, 0x01, 0xc0"); /* lock add %eax, %eax */
}

CASE(lock_on_a_load, "#UD: LOCK on a load")
{
    FAULTS(UD, 0, ".byte 0xf0, 0x8b, 0x02", .d = (uintptr_t)(&watched)); /* lock mov (%rdx), %eax */
}

CASE(opcodes_gone_in_64_bit_mode, "#UD: opcodes gone in 64-bit mode")
{
    FAULTS(UD, 0, ".byte 0x06");                   /* push %es */
    FAULTS(UD, 0, ".byte 0x27");                   /* daa */
    FAULTS(UD, 0, ".byte 0xce");                   /* into */
    FAULTS(UD, 0, ".byte 0xea, 0, 0, 0, 0, 0, 0"); /* jmp far */
}

CASE(sixteen_byte_instruction, "#GP: 16-byte instruction")
{
    FAULTS(GP, 0,
           ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90");
}

CASE(x87_with_task_switched, "#NM: CR0.TS")
{
    write_cr0(read_cr0() | 8);
    FAULTS(NM, 0, "fnop");
    FAULTS(NM, 0, "movaps %%xmm0, %%xmm1");
    FAULTS(NM, 0, "fwait");
    __asm__ volatile("clts");
    RUNS("fnop");
}

CASE(sse_without_osfxsr, "#UD: SSE without OSFXSR")
{
    write_cr4(read_cr4() & ~0x200ull);
    TRAP("movaps %%xmm0, %%xmm1");
    write_cr4(read_cr4() | 0x200);
    EXPECT_FAULT(UD, 0);
}

CASE(emulation_bit, "#NM and #UD: CR0.EM")
{
    write_cr0((read_cr0() | 4) & ~2ull);
    FAULTS(NM, 0, "fnop");
    FAULTS(UD, 0, "movaps %%xmm0, %%xmm1");
    write_cr0((read_cr0() & ~4ull) | 2);
}

CASE(double_fault_through_an_ist, "#DF: missing gate, on an IST stack")
{
    uint64_t *stack = page_alloc();

    tss.ist[0] = (uintptr_t)stack + 4096;
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x0e, 0); /* not present: #NP while delivering #GP */
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 1);
    TRAP("mov $0x8000000000000000, %%rax; mov (%%rax), %%rax");
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x8e, 0);
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 0);
    EXPECT_VECTOR(DF, 0);
}

CASE(missing_gate, "#NP: gate not present")
{
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0x0e, 0);
    FAULTS(NP, 0x90 * 8 + 2, "int $0x90");
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0xee, 0);
}

CASE(gate_with_a_null_selector, "#GP: gate with a null selector")
{
    idt_set(0x91, idt_stub(0x91), 0, 0x8e, 0);
    FAULTS(GP, 0, "int $0x91");
}

CASE(gate_of_the_wrong_type, "#GP: gate of the wrong type")
{
    idt_set(0x92, idt_stub(0x92), SEL_CODE, 0x8c, 0); /* call gate */
    FAULTS(GP, 0x92 * 8 + 2, "int $0x92");
}

CASE(segment_not_present, "#NP and #SS: segment not present")
{
    gdt[SEL_FREE / 8] = 0x00cf13000000ffff;
    FAULTS(NP, SEL_FREE, "mov %%dx, %%ds", .d = SEL_FREE);
    FAULTS(SS, SEL_FREE, "mov %%dx, %%ss", .d = SEL_FREE);
}

CASE(selector_beyond_the_table, "#GP: selector beyond the table")
{
    FAULTS(GP, 0x7fb8, "mov %%dx, %%ds", .d = 0x7fb8);
    FAULTS(GP, 0x14, "mov %%dx, %%es", .d = 0x14); /* LDT, and there is none */
}

CASE(code_segment_into_ss, "#GP: code segment into SS")
{
    FAULTS(GP, SEL_CODE, "mov %%dx, %%ss", .d = SEL_CODE);
}

CASE(mov_to_cs, "#UD: MOV to CS")
{
    FAULTS(UD, 0, ".byte 0x8e, 0xc8");
}

CASE(noncanonical_load, "#GP: non-canonical load")
{
    FAULTS(GP, 0, "mov (%%rdx), %%eax", .d = 0x8000000000000000ull);
    TRAP("mov (%%rdx), %%eax", .d = 0x00007ffffffffffdull); /* the last bytes are beyond */
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

CASE(noncanonical_stack, "#SS: non-canonical stack")
{
    with_ist(SS, true);
    TRAP("mov %%rdx, %%rsp; push %%rax", .d = 0x8000000000000000ull);
    with_ist(SS, false);
    EXPECT_VECTOR(SS, 0);
    CHECK_EQ(trap.ip, trap_label + 3);
    CHECK_EQ(trap.sp, 0x8000000000000000ull);
}

CASE(noncanonical_through_rbp_is_a_stack_fault, "#SS: non-canonical through RBP")
{
    RAISES(SS, 0, "mov %%rdx, %%rbp; mov (%%rbp), %%eax", .d = 0x8000000000000000ull);
}

CASE(reserved_bits_of_control_registers, "#GP: reserved bits of CR0 and CR4")
{
    FAULTS(GP, 0, "mov %%rdx, %%cr0", .d = (uintptr_t)((read_cr0() & ~1ull))); /* PG without PE */
    FAULTS(GP, 0, "mov %%rdx, %%cr0", .d = (uintptr_t)(read_cr0() | (1ull << 32)));
    FAULTS(GP, 0, "mov %%rdx, %%cr4", .d = (uintptr_t)(read_cr4() | (1ull << 31)));
    FAULTS(GP, 0, "mov %%rdx, %%cr4",
           .d = (uintptr_t)(read_cr4() & ~0x20ull)); /* PAE may not go in long mode */
}

CASE(cr0_nw_without_cd, "#GP: CR0.NW without CD")
{
    FAULTS(GP, 0, "mov %%rdx, %%cr0",
           .d = (uintptr_t)((read_cr0() | (1ull << 29)) & ~(1ull << 30)));
}

CASE(missing_control_register, "#UD: no such control register")
{
    FAULTS(UD, 0, ".byte 0x0f, 0x20, 0xc8"); /* mov %cr1, %rax */
}

CASE(unknown_msr, "#GP: unknown MSR")
{
    FAULTS(GP, 0, "rdmsr", .c = 0x12345678);
    FAULTS(GP, 0, "wrmsr", .c = 0x12345678, .a = 0, .d = 0);
}

CASE(noncanonical_msr, "#GP: non-canonical LSTAR")
{
    FAULTS(GP, 0, "wrmsr", .c = 0xc0000082, .a = 0, .d = 0x80000000); /* LSTAR */
}

CASE(reserved_efer_bits, "#GP: reserved EFER bits")
{
    FAULTS(GP, 0, "wrmsr", .c = 0xc0000080, .a = 0xffff, .d = 0);
}

/* ---- page faults ---- */

static volatile uint64_t *guard(uint64_t bits)
{
    volatile uint64_t *e = pte(GUARD, 1);

    *pte(GUARD - 4096, 1) = (BACKING + 4096) | PTE_P | PTE_W;
    *e = BACKING | bits;
    write_cr3(read_cr3());
    return e;
}

CASE(pf_read_absent, "#PF: read, absent")
{
    guard(0);
    FAULTS(PF, 0, "mov (%%rdx), %%eax", .d = GUARD + 0x123);
    CHECK_EQ(trap.cr2, GUARD + 0x123);
    CHECK(trap.flags & FLAG_RF);
}

CASE(pf_write_absent, "#PF: write, absent")
{
    guard(0);
    FAULTS(PF, 2, "mov %%eax, (%%rdx)", .d = GUARD + 8);
}

CASE(pf_write_protected, "#PF: write-protected, and WP off")
{
    guard(PTE_P);
    RUNS("mov (%%rdx), %%eax", .d = GUARD);
    FAULTS(PF, 3, "mov %%eax, (%%rdx)", .d = GUARD);
    write_cr0(read_cr0() & ~0x10000ull); /* WP off: ring 0 may write */
    RUNS("mov %%eax, (%%rdx)", .d = GUARD);
    write_cr0(read_cr0() | 0x10000);
}

CASE(pf_read_modify_write_reports_a_write, "#PF: read-modify-write is a write")
{
    guard(PTE_P);
    FAULTS(PF, 3, "addl $1, (%%rdx)", .d = GUARD);
    guard(0);
    FAULTS(PF, 2, "addl $1, (%%rdx)", .d = GUARD);
}

CASE(pf_execute, "#PF: execute")
{
    guard(PTE_P | PTE_W | PTE_NX);
    RAISES(PF, 0x11, "jmp *%%rdx", .d = GUARD);
    CHECK_EQ(trap.ip, GUARD);
    CHECK_EQ(trap.cr2, GUARD);
    guard(0);
    TRAP("jmp *%%rdx", .d = GUARD);
    CHECK_EQ(trap.error, 0x10);
}

CASE(pf_reserved_bit, "#PF: reserved bit")
{
    guard(PTE_P | PTE_W | (1ull << 51));
    RAISES(PF, 9, "mov (%%rdx), %%eax", .d = GUARD);
}

CASE(pf_second_page_of_a_crossing_access, "#PF: second page of a crossing access")
{
    guard(0);
    FAULTS(PF, 0, "movq (%%rdx), %%rax", .d = GUARD - 4);
    CHECK_EQ(trap.cr2, GUARD);
    *(volatile uint32_t *)(GUARD - 4) = 0x1234;
    FAULTS(PF, 2, "movq %%rax, (%%rdx)", .d = GUARD - 4);
    CHECK_EQ(*(volatile uint32_t *)(GUARD - 4), 0x1234);
}

CASE(pf_in_a_push_leaves_rsp, "#PF: in PUSH")
{
    guard(0);
    with_ist(PF, true);
    TRAP("mov %%rdx, %%rsp; push %%rax", .d = GUARD + 8);
    with_ist(PF, false);
    EXPECT_VECTOR(PF, 2);
    CHECK_EQ(trap.cr2, GUARD);
    CHECK_EQ(trap.sp, GUARD + 8);
    CHECK_EQ(trap.ip, trap_label + 3);
}

CASE(pf_in_a_call_leaves_rsp, "#PF: in CALL")
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

CASE(rep_movs_resumes_after_a_fault, "#PF: REP MOVS resumes")
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

CASE(pf_from_ring_3, "#PF: from ring 3")
{
    guard(PTE_P | PTE_W);
    USER_FAULTS(PF, 5, user_load);
    CHECK_EQ(trap.cs, SEL_UCODE);
    guard(0);
    run_user(user_load);
    CHECK_EQ(trap.error, 4);
    guard(PTE_P | PTE_U);
    run_user(user_store);
    CHECK_EQ(trap.error, 7);
    guard(PTE_P | PTE_U | PTE_W);
    USER_RUNS(user_store);
}

USER_CODE(user_cli, "cli")
USER_CODE(user_hlt, "hlt")
USER_CODE(user_in, "in $0x71, %al")
USER_CODE(user_int_0, "int $0x0d")
USER_CODE(user_cr, "mov %cr3, %rax")
static void user_misaligned(void)
{
    __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; mov (%0), %%eax"
                     :
                     : "r"(GUARD + 1)
                     : "rax");
    __asm__ volatile("int $0x80");
}

CASE(privileged_in_ring_3, "#GP: privileged instructions in ring 3")
{
    static void (*const fns[])(void) = {user_cli, user_hlt, user_in, user_cr};

    for (unsigned i = 0; i < sizeof(fns) / sizeof(fns[0]); i++) {
        USER_FAULTS(GP, 0, fns[i]);
    }
}

CASE(gate_with_too_low_a_privilege, "#GP: INT n through a kernel gate")
{
    USER_FAULTS(GP, 0x0d * 8 + 2, user_int_0);
}

CASE(alignment_check, "#AC: misaligned in ring 3")
{
    guard(PTE_P | PTE_W | PTE_U);
    write_cr0(read_cr0() | (1ull << 18));
    run_user(user_misaligned);
    write_cr0(read_cr0() & ~(1ull << 18));
    EXPECT_VECTOR(AC, 0);
    USER_RUNS(user_misaligned);
}

CASE(x87_error_comes_at_the_next_instruction, "#MF: at the next x87 instruction")
{
    uint16_t cw = 0x37b; /* zero divide unmasked */

    __asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp" : : "m"(cw));
    FAULTS(MF, 0, "fwait");
    __asm__ volatile("fnclex; fninit");
}

CASE(sse_error, "#XM: divide by zero")
{
    uint32_t mxcsr = 0x1d80; /* zero divide unmasked */

    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    __asm__ volatile("mov $1, %%eax; cvtsi2sd %%eax, %%xmm0; pxor %%xmm1, %%xmm1" ::: "rax");
    FAULTS(XM, 0, "divsd %%xmm1, %%xmm0");
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    CHECK_EQ(mxcsr & 0x3f, 4);
    mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

CASE(misaligned_movaps, "#GP: misaligned MOVAPS")
{
    FAULTS(GP, 0, "movaps 1(%%rdx), %%xmm0", .d = 0x200000);
}

CASE(reserved_mxcsr_bits, "#GP: reserved MXCSR bits")
{
    uint32_t mxcsr = 0x80000000;

    FAULTS(GP, 0, "ldmxcsr (%%rdx)", .d = (uintptr_t)(&mxcsr));
}

CASE(smep_and_smap, "#PF: SMEP and SMAP")
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
        RAISES(PF, 0x11, "jmp *%%rdx", .d = GUARD);
        write_cr4(read_cr4() & ~(1ull << 20));
    }
    if (b & (1u << 20)) {
        write_cr4(read_cr4() | (1u << 21));
        FAULTS(PF, 1, "mov (%%rdx), %%eax", .d = GUARD);
        RUNS("stac; mov (%%rdx), %%eax; clac", .d = GUARD);
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

CASE(nmi_and_its_blocking, "NMI: delivered, blocked until IRET")
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

CASE(syscall_and_sysret, "SYSCALL")
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

CASE(syscall_disabled, "#UD: SYSCALL disabled")
{
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
    FAULTS(UD, 0, "syscall");
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

CASE(iret_to_a_noncanonical_address, "#GP: IRET to a non-canonical address")
{
    RAISES(
        GP, 0,
        "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $8; mov $0x8000000000000000, %%rax;"
        "push %%rax; iretq");
}

CASE(far_jump_to_data, "#GP: far jump to data")
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) p = {0x100000, SEL_DATA};

    FAULTS(GP, SEL_DATA, "ljmp *(%%rdx)", .d = (uintptr_t)(&p));
}

/* ---- RF in the frame ---- */

CASE(rf_of_faults_and_traps, "RF of faults and traps")
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
    TRAP("fnop");
    __asm__ volatile("clts");
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    write_dr7(0x2400);
    TRAP("mov %%dr0, %%rax");
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    /* Traps: INT n, INT1, a watchpoint, a step. */
    TRAP("int $0x80");
    CHECK_EQ(trap.flags & FLAG_RF, 0);
    TRAP(".byte 0xf1");
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

/* ---- exceptions that meet: SDM vol. 3A table 6-5 ---- */

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
        TRAP(".byte 0xf1");
        break;
    case BP:
        TRAP("int3");
        break;
    case UD:
        TRAP("ud2");
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

CASE(meetings, "#DF: who meets whom, and EXT")
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

/* ---- the tables themselves ---- */

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

CASE(limit_of_the_idt, "#GP: limit of the IDT")
{
    struct table_register old, small;

    __asm__ volatile("sidt %0" : "=m"(old));
    small = old;
    small.limit = 0x90 * 16 + 14; /* one byte short */
    __asm__ volatile("lidt %0" : : "m"(small));
    TRAP("int $0x90");
    __asm__ volatile("lidt %0" : : "m"(old));
    EXPECT_FAULT(GP, 0x90 * 8 + 2);
    TRAP("int $0x90");
    EXPECT_TRAP(0x90, 2);
    small.base = 0x8000000000000000ull;
    FAULTS(GP, 0, "lidt (%%rdx)", .d = (uintptr_t)&small);
}

USER_CODE(user_int_80, "int $0x80")
USER_CODE(user_load_from_ldt, "mov $0xf, %eax; mov %eax, %es; int $0x81")

/* From ring 3 as well the access is the supervisor's: U is 0 in the error code. */
CASE(pf_on_the_idt, "#PF: on the IDT")
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
    EXPECT_VECTOR(PF, 0);
    CHECK_EQ(trap.cr2, GUARD);
    CHECK_EQ(trap.cs, SEL_UCODE);
}

CASE(pf_on_a_descriptor, "#PF: on a descriptor")
{
    guard(0);
    gdt[SEL_FREE / 8] =
        0xfff | (GUARD & 0xffffff) << 16 | 0x82ull << 40 | (GUARD >> 24 & 0xff) << 56;
    gdt[SEL_FREE / 8 + 1] = 0;
    __asm__ volatile("lldt %w0" : : "r"(SEL_FREE));
    FAULTS(PF, 0, "mov %%dx, %%es", .d = 0xc);
    CHECK_EQ(trap.cr2, GUARD + 8);
    USER_FAULTS(PF, 0, user_load_from_ldt);
    guard(PTE_P | PTE_W);
    *(volatile uint64_t *)(GUARD + 8) = 0x00cff2000000ffffull; /* not accessed yet */
    guard(PTE_P);
    FAULTS(PF, 3, "mov %%dx, %%es", .d = 0xf); /* the accessed bit cannot be written */
    USER_FAULTS(PF, 3, user_load_from_ldt);
    guard(PTE_P | PTE_W); /* for the supervisor only: it is the one who reads */
    run_user(user_load_from_ldt);
    CHECK_EQ(trap.vector, 0x81);
    CHECK_EQ(*(volatile uint64_t *)(GUARD + 8) >> 40 & 1, 1);
    __asm__ volatile("mov %w0, %%es; lldt %w1" : : "r"(SEL_DATA), "r"(0));
}

CASE(pf_on_the_task_segment, "#PF: on the TSS")
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
    EXPECT_VECTOR(PF, 0);
    CHECK_EQ(trap.cr2, base + 4);
    CHECK_EQ(trap.cs, SEL_UCODE);
}

/* ---- #AC ---- */

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

CASE(alignment_checks, "#AC: sizes")
{
    static void (*const checked[])(void) = {ac_word, ac_long, ac_quad, ac_store, ac_push};

    write_cr0(read_cr0() | 1u << 18);
    guard(PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < 5; i++) {
        USER_FAULTS(AC, 0, checked[i]);
        CHECK_EQ(trap.flags & (FLAG_RF | 1u << 18), FLAG_RF | 1u << 18);
    }
    guard(0); /* Intel's look at the alignment before the page */
    run_user(ac_long);
    CHECK_EQ(trap.vector, AC);
    run_user(ac_byte);
    CHECK_EQ(trap.vector, PF);
    guard(PTE_P | PTE_W | PTE_U);
    USER_RUNS(ac_byte);
    USER_RUNS(ac_aligned);
    RUNS(
        "pushf; orl $0x40000, (%%rsp); popf; mov 1(%%rdx), %%eax; pushf; andl $~0x40000, (%%rsp); popf",
        .d = GUARD); /* ring 0 */
    write_cr0(read_cr0() & ~(1ull << 18));
}
