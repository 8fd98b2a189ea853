/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of mode and of privilege: long and compatibility mode, out of long mode and back, call
 * gates, SYSCALL, SYSENTER, IRET, ISTs, bases, debug traps across them. SDM vol. 3A ch. 5, 6, 9.8,
 * vol. 3B ch. 18.
 */
#include "rt/guest.h"

#define GUARD          0x7f000000ull
#define BACKING        0x2000000ull
#define SEL_CODE32     0x18
#define SEL_UCODE32    0x33
#define S0             SEL_FREE
#define S1             (SEL_FREE + 8)
#define S2             (SEL_FREE + 16)
#define EFER           0xc0000080
#define STAR           0xc0000081
#define LSTAR          0xc0000082
#define FMASK          0xc0000084
#define FS_BASE        0xc0000100
#define GS_BASE        0xc0000101
#define KERNEL_GS_BASE 0xc0000102
#define DR6_CLEAR      0xffff0ff0

struct far_ptr {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));

static bool feature7(unsigned reg, unsigned bit)
{
    uint32_t r[4] = {7, 0, 0, 0};

    __asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
    return r[reg] >> bit & 1;
}

void user_return_now(void);
void user_return_now(void)
{
    __asm__ volatile("int $0x80");
}

/* ---- compatibility mode ---- */

/* 40h is INC EAX there and REX in 64-bit code. */
void compat_inc(void);
__asm__(
    ".code32; .globl compat_inc; compat_inc: mov $0x1234, %eax; .byte 0x40; push %eax; pop %ecx;"
    "lret; .code64");

CASE(far_call_into_compatibility_mode, "far CALL into compatibility mode")
{
    struct far_ptr p = {(uint32_t)(uintptr_t)compat_inc, SEL_CODE32};

    TRAP("mov %%rsp, %%r8; lcall *(%%rdx); sub %%rsp, %%r8; mov %%r8, compat_sp(%%rip);"
         "mov %%rax, compat_ax(%%rip);"
         ".pushsection .data; .globl compat_sp, compat_ax; compat_sp: .quad 1; compat_ax: .quad 0;"
         ".popsection",
         .d = (uintptr_t)&p);
    {
        extern uint64_t compat_sp, compat_ax;

        CHECK_EQ(trap.count, 0);
        CHECK_EQ(compat_sp, 0);
        CHECK_EQ(compat_ax, 0x1235);
    }
}

/* A write of a 32-bit register in compatibility mode clears the upper half; the others keep theirs
 * or not. */
CASE(iret_into_compatibility_mode, "IRET into compatibility mode")
{
    TRAP("mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $0x18; lea 3f(%%rip), %%rax;"
         "push %%rax; iretq; .code32; 3: .byte 0x40; mov %%cs, %%edx; int $0x80; .code64");
    CHECK_EQ(trap.vector, 0x80);
    CHECK_EQ(trap.cs, SEL_CODE32);
    CHECK_EQ(trap.sp, trap_sp);
}

/* SDM vol. 1 section 3.4.1.1 leaves the upper halves open; Intel's processors cut RSP and keep the
 * rest. */
CASE(far_jump_cuts_the_stack_pointer, "far JMP cuts RSP")
{
    extern char compat_cut[];
    struct far_ptr p = {(uint32_t)(uintptr_t)compat_cut, SEL_CODE32};
    uint64_t sp, b = 0x1122334455667788ull;

    __asm__ volatile("mov %%rsp, %%r12; mov $0x520001000, %%rsp; ljmp *(%2);"
                     ".code32; .globl compat_cut; compat_cut: ljmp $8, $3f; .code64;"
                     "3: mov %%rsp, %0; mov %%r12, %%rsp"
                     : "=&r"(sp), "+b"(b)
                     : "r"(&p)
                     : "r12", "memory");
    CHECK_EQ(sp, 0x20001000);
    CHECK_EQ(b, 0x1122334455667788ull);
}

void compat16(void);
__asm__(".code16; .globl compat16; compat16: mov $0xfffe, %ax; inc %ax; inc %ax; mov %sp, %dx;"
        ".byte 0x66; lret; .code64");
CASE(sixteen_bit_compatibility_mode, "16-bit compatibility mode")
{
    struct far_ptr p = {0, S0};
    uint64_t a = 0x11111111;
    uint64_t base = (uintptr_t)compat16;

    gdt[S0 / 8] = 0x00009b000000ffffull | (base & 0xffffff) << 16 | (base >> 24) << 56;
    __asm__ volatile("lcall *(%1)" : "+a"(a) : "r"(&p) : "rdx", "memory", "cc");
    CHECK_EQ(a, 0x11110000);
}

CASE(limits_count_in_compatibility_mode, "limits in compatibility mode")
{
    extern char compat_limit[];
    struct far_ptr p = {(uint32_t)(uintptr_t)compat_limit, SEL_CODE32};

    /* A data segment of 8 bytes: ES counts in compatibility mode, and not in 64-bit mode. */
    gdt[S0 / 8] = 0x0040930000000007ull;
    __asm__ volatile("mov %w0, %%es" : : "r"(S0));
    RUNS("mov %%es:0x1000, %%eax");
    TRAP(
        "lcall *(%%rdx); jmp 2f; .code32; .globl compat_limit; compat_limit: mov %%es:8, %%al; lret; .code64",
        .d = (uintptr_t)&p);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.ip, (uintptr_t)compat_limit);
    CHECK_EQ(trap.error, 0);
    __asm__ volatile("mov %w0, %%es" : : "r"(SEL_DATA));
}

CASE(addresses_wrap_in_compatibility_mode, "32-bit addresses wrap")
{
    extern char compat_wrap[];
    struct far_ptr p = {(uint32_t)(uintptr_t)compat_wrap, SEL_CODE32};
    uint64_t a;

    *(volatile uint32_t *)0x200010 = 0x600d;
    __asm__ volatile("lcall *(%1); jmp 2f; .code32; .globl compat_wrap; compat_wrap:"
                     "mov $0xffffffff, %%ebx; mov 0x200011(%%ebx), %%eax; lret; .code64; 2:"
                     : "=&a"(a)
                     : "r"(&p)
                     : "rbx", "memory");
    CHECK_EQ(a, 0x600d);
}

CASE(upper_halves_in_compatibility_mode, "upper halves in compatibility mode")
{
    extern char compat_halves[];
    struct far_ptr p = {(uint32_t)(uintptr_t)compat_halves, SEL_CODE32};

    /* Addresses are of 32 bits; a register that is not written keeps what 64-bit code left in it. */
    *(volatile uint32_t *)0x200010 = 0x600d;
    for (unsigned n = 0; n < 3000; n++) {
        uint64_t a = 0, b = 0xabcd000000200010ull | (uint64_t)n << 48, c = 0x1234567800000003ull,
                 d = 0xffffffff00000001ull;

        __asm__ volatile("push %%rbp; lcall *(%4); jmp 2f; .code32; .globl compat_halves;"
                         "compat_halves: mov (%%ebx), %%eax; add %%edx, (%%ebx); sub %%edx, (%%ebx);"
                         "3: inc %%eax; loop 3b; push %%eax; pop %%eax; lret; .code64; 2: pop %%rbp"
                         : "+&a"(a), "+b"(b), "+c"(c), "+d"(d)
                         : "S"(&p)
                         : "memory", "cc");
        CHECK_EQ(a, 0x600d + 3);
        CHECK_EQ((uint32_t)b, 0x200010);
        CHECK_EQ((uint32_t)c, 0);
        CHECK_EQ((uint32_t)d, 1);
        if (a != 0x600d + 3)
            break;
    }
}

CASE(l_and_d_together_are_refused, "#GP: code with L and D")
{
    struct far_ptr p = {0x100000, S0};

    gdt[S0 / 8] = 0x00ef9b000000ffffull;
    FAULTS(GP, S0, "ljmp *(%%rdx)", .d = (uintptr_t)&p);
}

static void user_compat(void)
{
    static const struct far_ptr p = {0x20000, SEL_UCODE32};

    __asm__ volatile("ljmp *(%0)" : : "r"(&p));
}

CASE(exceptions_of_ring_3_compatibility_code, "ring 3 compatibility mode")
{
    static const uint8_t code[] = {0x40, 0x0f, 0x05}; /* inc eax; syscall: #UD on Intel's */
    static const uint8_t daa[] = {0x27, 0x06, 0x07, 0xcd, 0x80}; /* daa; push es; pop es; int 80h */

    memcpy((void *)0x20000, code, sizeof(code));
    run_user(user_compat);
    CHECK_EQ(trap.vector, UD);
    CHECK_EQ(trap.ip, 0x20001);
    CHECK_EQ(trap.cs, SEL_UCODE32);
    memcpy((void *)0x20000, daa, sizeof(daa));
    /* The stack is far below 4 GiB. */
    USER_RUNS(user_compat);
    CHECK_EQ(trap.ip, 0x20005);
}

/* ---- out of long mode and back ---- */

/*
 * Copied to 8000h. 32-bit compatibility code comes in: paging off, LME off, 32-bit protected mode,
 * 16-bit protected mode, real mode with an INT through the table at 0, and all the way back.
 */
extern char away[], away_end[], away_marks[], away_cr3[];
__asm__(
    ".balign 16; .globl away, away_end, away_marks, away_cr3; .code32;"
    "away: pushf; mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0;"
    "mov $0xc0000080, %ecx; rdmsr; mov %eax, 0x8000 + (away_marks - away); and $~0x100, %eax; wrmsr;"
    "mov $1, %eax; .byte 0x40; mov %eax, 0x8000 + (away_marks - away) + 4;"
    "ljmp $0x48, $(1f - away); .code16;"
    "1: mov $0x50, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %cr0, %eax; and $0xfe, %al;"
    "mov %eax, %cr0; ljmp $0x800, $(2f - away);"
    "2: mov %cs, %ax; mov %ax, %ds; xor %ax, %ax; mov %ax, %ss; mov %esp, %ebx; mov $0x7000, %sp;"
    "sidt (away_idt - away); lidt (away_ivt - away); int $0x60; lidt (away_idt - away);"
    "mov %ebx, %esp; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $0x18, $0x8000 + (3f - away);"
    ".code32; 3: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss;"
    "mov $0xc0000080, %ecx; rdmsr; mov %eax, 0x8000 + (away_marks - away) + 12; or $0x100, %eax; wrmsr;"
    "mov 0x8000 + (away_cr3 - away), %eax; mov %eax, %cr3;"
    "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0; rdmsr;"
    "mov %eax, 0x8000 + (away_marks - away) + 16; popf; lret;"
    ".code16; away_int: movw $0x60, %cs:(away_marks - away) + 8; iret;"
    "away_ivt: .word 0x3ff; .long 0; away_idt: .skip 8; away_cr3: .long 0; .balign 4;"
    "away_marks: .skip 32; .globl away_int; away_end: .code64");

CASE(to_real_mode_and_back, "to real mode and back")
{
    extern char away_int[];
    volatile uint32_t *marks = (volatile uint32_t *)(uintptr_t)(0x8000 + (away_marks - away));
    struct far_ptr p = {0x8000, SEL_CODE32};
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr;

    memcpy((void *)0x8000, away, (size_t)(away_end - away));
    *(volatile uint32_t *)(uintptr_t)(0x8000 + (away_cr3 - away)) = (uint32_t)read_cr3();
    *(volatile uint32_t *)(0x60 * 4ull) = 0x8000000u | (uint32_t)(away_int - away);
    gdt[0x48 / 8] = 0x00009b008000ffffull;
    gdt[0x50 / 8] = 0x000093000000ffffull;
    __asm__ volatile("sidt %0" : "=m"(idtr));
    __asm__ volatile("lcall *(%0)" : : "r"(&p) : "rax", "rbx", "rcx", "rdx", "memory", "cc");
    __asm__ volatile("lidt %0" : : "m"(idtr));
    CHECK_EQ(marks[0] & 0xd00, 0x900); /* LMA goes with PG; LME stays */
    CHECK_EQ(marks[1], 2);             /* INC EAX: this was no 64-bit code */
    CHECK_EQ(marks[2], 0x60);
    CHECK_EQ(marks[3] & 0x500, 0);
    CHECK_EQ(marks[4] & 0x500, 0x500);
    TRAP("int $0x80"); /* TR and the IDT are as before */
    EXPECT_TRAP(0x80, 2);
}

CASE(mode_bits_that_may_not_change, "#GP: mode bits")
{
    FAULTS(GP, 0, "mov %%rdx, %%cr0", .d = read_cr0() & 0x7fffffff); /* PG in 64-bit code */
    FAULTS(GP, 0, "wrmsr", .c = EFER, .a = (uint32_t)rdmsr(EFER) & ~0x100u,
           .d = 0);                                              /* LME under PG */
    FAULTS(GP, 0, "mov %%rdx, %%cr4", .d = read_cr4() ^ 0x1000); /* LA57 */
    FAULTS(GP, 0, "mov %%rdx, %%cr8", .d = 0x10);
    FAULTS(GP, 0, "mov %%rdx, %%cr3", .d = read_cr3() | 1ull << 62);
    RUNS("wrmsr", .c = EFER, .a = (uint32_t)rdmsr(EFER) & ~0x400u, .d = 0); /* LMA is ignored */
    CHECK_EQ(rdmsr(EFER) & 0x400, 0x400);
}

/* ---- call gates, conforming code ---- */

uint64_t gate_saw[5];
void gate_target(void);
__asm__(".globl gate_target; gate_target: mov %cs, %eax; mov %rax, gate_saw(%rip); mov %ss, %eax;"
        "mov %rax, gate_saw + 8(%rip); mov 24(%rsp), %rax; mov %rax, gate_saw + 16(%rip);"
        "mov 16(%rsp), %rax; mov %rax, gate_saw + 24(%rip); mov %rsp, gate_saw + 32(%rip); lretq");

static void set_gate(uint16_t sel, uint64_t off, uint16_t cs, uint8_t type, uint64_t hi)
{
    gdt[sel / 8] =
        (off & 0xffff) | (uint64_t)cs << 16 | (uint64_t)type << 40 | (off >> 16 & 0xffff) << 48;
    gdt[sel / 8 + 1] = off >> 32 | hi;
}

static void user_call_gate(void)
{
    static const struct far_ptr p = {0, S0 | 3};

    __asm__ volatile("mov %%rsp, %%r8; lcall *(%0); sub %%rsp, %%r8; mov %%r8d, %%eax; int $0x80"
                     :
                     : "r"(&p));
}

static void user_jump_gate(void)
{
    static const struct far_ptr p = {0, S0 | 3};

    __asm__ volatile("ljmp *(%0)" : : "r"(&p));
}

CASE(call_gate_to_ring_0, "call gate")
{
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE, 0xec, 0);
    USER_RUNS(user_call_gate);
    CHECK_EQ(trap.cs, SEL_UCODE);
    CHECK_EQ(gate_saw[0], SEL_CODE);
    CHECK_EQ(gate_saw[1], 0); /* SS is null with the new RPL */
    CHECK_EQ(gate_saw[2], 0x23);
    CHECK_EQ(gate_saw[3], trap.sp);
    CHECK_EQ(gate_saw[4], tss.rsp[0] - 32);
}

CASE(call_gate_faults, "call gate faults")
{
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE, 0xec, 0xcull << 40);
    USER_FAULTS(GP, S0, user_call_gate); /* type bits in the upper half */
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE, 0x8c, 0);
    USER_FAULTS(GP, S0, user_call_gate);
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE, 0x6c, 0);
    USER_FAULTS(NP, S0, user_call_gate);
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE32, 0xec, 0);
    USER_FAULTS(GP, SEL_CODE32, user_call_gate); /* not 64-bit code */
    set_gate(S0, (uintptr_t)gate_target, SEL_DATA, 0xec, 0);
    USER_FAULTS(GP, SEL_DATA, user_call_gate);
    set_gate(S0, (uintptr_t)gate_target, SEL_CODE, 0xec, 0);
    USER_FAULTS(GP, SEL_CODE, user_jump_gate); /* a jump raises no privilege */
    set_gate(S0, 0x0000800000000000ull, SEL_CODE, 0xec, 0);
    USER_FAULTS(GP, 0, user_call_gate);
    gdt[S0 / 8] = 0x0000e40000000000ull | (uint64_t)SEL_CODE << 16; /* 16-bit call gate: gone */
    USER_FAULTS(GP, S0, user_call_gate);
    gdt[S0 / 8] = 0x0000e90000000067ull; /* a TSS: no task switches */
    USER_FAULTS(GP, S0, user_call_gate);
}

static struct far_ptr conforming;
static void user_conforming(void)
{
    __asm__ volatile("ljmp *(%0)" : : "r"(&conforming));
}

CASE(conforming_code_keeps_the_privilege, "conforming code")
{
    gdt[S0 / 8] = 0x00af9f000000ffffull;
    conforming = (struct far_ptr){(uint32_t)(uintptr_t)user_return_now, S0};
    USER_RUNS(user_conforming);
    CHECK_EQ(trap.cs, S0 | 3);
    /* DPL 3 conforming from ring 0: refused. */
    gdt[S0 / 8] = 0x00afff000000ffffull;
    FAULTS(GP, S0, "ljmp *(%%rdx)", .d = (uintptr_t)&conforming);
    /* An interrupt through a gate to conforming code stays at level 3 and on its stack. */
    gdt[S0 / 8] = 0x00af9b000000ffffull;
    USER_FAULTS(GP, S0, user_conforming); /* non-conforming, DPL 0 */
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT ---- */

uint64_t sc_saw[6];
void sc_entry64(void), sc_entry32(void), sc_bad(void);
__asm__(
    ".globl sc_entry64, sc_entry32, sc_bad;"
    "sc_entry64: mov %cs, %eax; mov %rax, sc_saw(%rip); mov %ss, %eax; mov %rax, sc_saw + 8(%rip);"
    "mov %rcx, sc_saw + 16(%rip); mov %r11, sc_saw + 24(%rip); pushf; pop %rax;"
    "mov %rax, sc_saw + 32(%rip); sysretq;"
    "sc_entry32: mov $0x20000, %ecx; mov $0x202, %r11d; sysretl;"
    "sc_bad: mov $0x800000000000, %rcx; .globl sc_bad_ret; sc_bad_ret: sysretq");

static void set_syscall(void (*entry)(void), uint64_t mask)
{
    wrmsr(STAR, 0x1bull << 48 | (uint64_t)SEL_CODE << 32);
    wrmsr(LSTAR, (uintptr_t)entry);
    wrmsr(FMASK, mask);
}

void user_syscall(void);
__asm__(
    ".globl user_syscall, user_syscall_ret; user_syscall: stc; std; syscall; user_syscall_ret: int $0x80");

CASE(syscall_and_sysret, "SYSCALL and SYSRET")
{
    extern char user_syscall_ret[];

    set_syscall(sc_entry64, 0x400 | 0x200);
    USER_RUNS(user_syscall);
    CHECK_EQ(trap.cs, SEL_UCODE);
    CHECK_EQ(sc_saw[0], SEL_CODE);
    CHECK_EQ(sc_saw[1], SEL_DATA);
    CHECK_EQ(sc_saw[2], (uintptr_t)user_syscall_ret);
    CHECK_EQ(sc_saw[3] & 0x401, 0x401);
    CHECK_EQ(sc_saw[4] & 0x401, 1); /* DF masked, CF not */
    CHECK_EQ(trap.flags & 0x401, 0x401);
}

CASE(sysret_to_compatibility_mode, "SYSRET to compatibility mode")
{
    static const uint8_t code[] = {0x40, 0xcd, 0x80};

    memcpy((void *)0x20000, code, sizeof(code));
    set_syscall(sc_entry32, 0x200);
    USER_RUNS(user_syscall);
    CHECK_EQ(trap.cs, 0x1b);
    CHECK_EQ(trap.ip, 0x20003);
}

CASE(sysret_to_a_noncanonical_address, "#GP: SYSRET to a non-canonical address")
{
    extern char sc_bad_ret[];

    set_syscall(sc_bad, 0x200);
    trap_resume = 0;
    RAISES(GP, 0, "jmp *%%rdx", .d = (uintptr_t)sc_bad);
    CHECK_EQ(trap.cs, SEL_CODE);
    CHECK_EQ(trap.ip, (uintptr_t)sc_bad_ret);
}

USER_CODE(user_sysret, "sysretq")
USER_CODE(user_sysexit, "sysexitl")
USER_CODE(user_sysenter, "sysenter")

void se_entry(void), se_exit64(void), se_exit32(void);
__asm__(
    ".globl se_entry, se_exit64, se_exit32;"
    "se_entry: mov %cs, %eax; mov %rax, sc_saw(%rip); mov %ss, %eax; mov %rax, sc_saw + 8(%rip);"
    "mov %rsp, sc_saw + 16(%rip); pushf; pop sc_saw + 24(%rip); jmp *sc_saw + 40(%rip);"
    "se_exit64: mov $user_return_now, %edx; mov $0x21ff00, %ecx; sysexitq;"
    "se_exit32: mov $0x20000, %edx; mov $0x21ff00, %ecx; sysexitl");

CASE(sysenter_and_sysexit, "SYSENTER and SYSEXIT")
{
    static const uint8_t code[] = {0x40, 0xcd, 0x80};
    uint64_t *stack = page_alloc();

    memcpy((void *)0x20000, code, sizeof(code));
    wrmsr(0x174, SEL_CODE);
    wrmsr(0x175, (uintptr_t)stack + 4096);
    wrmsr(0x176, (uintptr_t)se_entry);
    sc_saw[5] = (uintptr_t)se_exit64;
    USER_RUNS(user_sysenter);
    CHECK_EQ(trap.cs, SEL_CODE + 32 + 3);
    CHECK_EQ(trap.sp, 0x21ff00);
    CHECK_EQ(sc_saw[0], SEL_CODE);
    CHECK_EQ(sc_saw[1], SEL_CODE + 8);
    CHECK_EQ(sc_saw[2], (uintptr_t)stack + 4096);
    CHECK_EQ(sc_saw[3] & FLAG_IF, 0);
    sc_saw[5] = (uintptr_t)se_exit32;
    USER_RUNS(user_sysenter);
    CHECK_EQ(trap.cs, SEL_CODE + 16 + 3);
    CHECK_EQ(trap.ip, 0x20003);
    wrmsr(0x174, 0);
    USER_FAULTS(GP, 0, user_sysenter);
    FAULTS(GP, 0, "sysexitq");
    wrmsr(0x174, SEL_CODE);
    FAULTS(GP, 0, "sysexitq", .c = 0, .d = 0x800000000000ull);
    FAULTS(GP, 0, "wrmsr", .c = 0x176, .a = 0, .d = 0x8000);
}

CASE(fast_returns_are_ring_0s, "#GP: SYSRET and SYSEXIT in ring 3")
{
    USER_FAULTS(GP, 0, user_sysret);
    USER_FAULTS(GP, 0, user_sysexit);
}

/* ---- IRET ---- */

CASE(iretq_with_a_null_ss, "IRETQ: null SS")
{
    RUNS(
        "mov %%rsp, %%rax; push $0; push %%rax; push $2; push $8; lea 3f(%%rip), %%rax; push %%rax; iretq;"
        "3: mov %%ss, %%eax; mov $0x10, %%edx; mov %%edx, %%ss; test %%eax, %%eax; jz 2f; ud2");
    RAISES(
        GP, 0,
        "mov %%rsp, %%rax; push $3; push %%rax; push $2; push $0x2b; lea 3f(%%rip), %%rax; push %%rax;"
        "3: iretq");
}

CASE(iretq_with_nested_task, "IRETQ: NT")
{
    RAISES(GP, 0, "pushf; orl $0x4000, (%%rsp); popf; 1: iretq");
    CHECK_EQ(trap.flags & 0x4000, 0x4000); /* delivery clears it, the frame keeps it */
}

CASE(iretq_checks_its_selectors, "IRETQ: selectors")
{
    RAISES(GP, 0, "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $0; push %%rax; iretq");
    RAISES(GP, 0x10,
           "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $0x10; push %%rax; iretq");
    /* SS: RPL is not that of CS. */
    RAISES(GP, 0x10,
           "mov %%rsp, %%rax; push $0x10; push %%rax; push $2; push $0x2b; push %%rax; iretq");
    gdt[S0 / 8] = 0x00cf73000000ffffull; /* DPL 3, not present */
    RAISES(SS, S0,
           "mov %%rsp, %%rax; push $0x4b; push %%rax; push $2; push $0x2b; push %%rax; iretq");
}

static void user_data_segments(void)
{
    __asm__ volatile("mov %%ds, %%eax; mov %%es, %%ecx; mov %%gs, %%edx; int $0x81" ::
                         : "rax", "rcx", "rdx");
}
static uint16_t user_ds, user_es, user_gs;
static bool ds_hook(struct frame *f)
{
    if (f->vector == 0x81) {
        user_ds = (uint16_t)f->ax;
        user_es = (uint16_t)f->cx;
        user_gs = (uint16_t)f->dx;
    }
    return false;
}

CASE(return_to_ring_3_clears_inner_segments, "IRETQ: data segments")
{
    uint16_t null = 3, udata = 0x23;

    wrmsr(GS_BASE, 0x12345000);
    __asm__ volatile("mov %0, %%gs; mov %1, %%es" : : "r"(null), "r"(udata));
    wrmsr(GS_BASE, 0x12345000);
    trap_hook = ds_hook;
    run_user(user_data_segments);
    trap_hook = NULL;
    CHECK_EQ(user_ds, 0); /* it was the kernel's */
    CHECK_EQ(user_es, udata);
    CHECK_EQ(user_gs, 0);                 /* a null selector loses its RPL */
    CHECK_EQ(rdmsr(GS_BASE), 0x12345000); /* and nothing else */
    __asm__ volatile("mov %0, %%gs; mov %0, %%es" : : "r"((uint16_t)SEL_DATA));
    wrmsr(GS_BASE, 0);
}

/* ---- stacks of delivery ---- */

static uintptr_t frame_end, frame_sp;
static bool align_hook(struct frame *f)
{
    frame_end = (uintptr_t)(&f->ss + 1);
    frame_sp = f->sp;
    return true;
}

CASE(delivery_aligns_the_stack, "delivery aligns RSP")
{
    for (unsigned off = 0; off < 16; off++) {
        uint64_t sp;

        trap_hook = align_hook;
        __asm__ volatile(
            "mov %%rsp, %%rbx; sub $256, %%rsp; and $-16, %%rsp; sub %1, %%rsp; mov %%rsp, %0;"
            "int $0x80; mov %%rbx, %%rsp"
            : "=&r"(sp)
            : "r"((uint64_t)off)
            : "rbx", "memory", "cc");
        trap_hook = NULL;
        CHECK_EQ(frame_sp, sp);
        CHECK_EQ(frame_end, sp & ~15ull);
    }
}

static unsigned ist_depth;
static uintptr_t ist_frames[3];
static bool ist_hook(struct frame *f)
{
    ist_frames[ist_depth++ % 3] = (uintptr_t)f;
    if (ist_depth == 1)
        __asm__ volatile("int $0x83"); /* another IST */
    return true;
}

CASE(ists_nest_and_start_over, "ISTs nest")
{
    uint64_t *a = page_alloc(), *b = page_alloc();

    tss.ist[2] = (uintptr_t)a + 4096;
    tss.ist[3] = (uintptr_t)b + 4096;
    idt_set(0x82, idt_stub(0x82), SEL_CODE, 0xee, 3);
    idt_set(0x83, idt_stub(0x83), SEL_CODE, 0xee, 4);
    ist_depth = 0;
    trap_hook = ist_hook;
    __asm__ volatile("int $0x82");
    trap_hook = NULL;
    CHECK_EQ(ist_depth, 2);
    CHECK_EQ(ist_frames[0], (uintptr_t)a + 4096 - sizeof(struct frame));
    CHECK_EQ(ist_frames[1], (uintptr_t)b + 4096 - sizeof(struct frame));
    USER_RUNS(user_return_now);
}

CASE(ist_beyond_the_task_segment, "#TS: IST beyond the TSS, and LTR")
{
    static volatile struct tss64 short_tss;
    uint64_t base = (uintptr_t)&short_tss;

    short_tss.rsp[0] = tss.rsp[0];
    gdt[S0 / 8] = 0x2b | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[S1 / 8] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(S0));
    idt_set(0x84, idt_stub(0x84), SEL_CODE, 0xee, 7);
    FAULTS(TS, S0, "int $0x84");
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    idt_set(0x84, idt_stub(0x84), SEL_CODE, 0xee, 0);
    FAULTS(GP, SEL_TSS, "ltr %%dx", .d = SEL_TSS); /* busy */
    FAULTS(GP, 0, "ltr %%dx", .d = 0);
    gdt[S0 / 8] &= ~((1ull << 47) | (2ull << 40));
    FAULTS(NP, S0, "ltr %%dx", .d = S0);
    FAULTS(GP, S0, "lldt %%dx", .d = S0);
}

USER_CODE(user_wild, "mov $0x8000000000000000, %rsp; int $0x80")

CASE(ring_3s_stack_does_not_matter, "ring 3's stack pointer")
{
    USER_RUNS(user_wild);
    CHECK_EQ(trap.sp, 0x8000000000000000ull);
}

/* ---- bases ---- */

static uint64_t fs_read(void)
{
    uint64_t v;

    __asm__ volatile("mov %%fs:8, %0" : "=r"(v));
    return v;
}
static uint64_t gs_read(void)
{
    uint64_t v;

    __asm__ volatile("mov %%gs:8, %0" : "=r"(v));
    return v;
}

CASE(segment_bases, "FS, GS, SWAPGS")
{
    uint64_t *a = page_alloc(), *b = page_alloc();
    uint16_t null = 0;

    a[1] = 0xaaaa;
    b[1] = 0xbbbb;
    wrmsr(FS_BASE, (uintptr_t)a);
    wrmsr(GS_BASE, (uintptr_t)a);
    wrmsr(KERNEL_GS_BASE, (uintptr_t)b);
    CHECK_EQ(fs_read(), 0xaaaa);
    CHECK_EQ(gs_read(), 0xaaaa);
    __asm__ volatile("swapgs");
    CHECK_EQ(gs_read(), 0xbbbb);
    CHECK_EQ(rdmsr(KERNEL_GS_BASE), (uintptr_t)a);
    __asm__ volatile("swapgs");
    /* A descriptor's base counts for FS and GS; for DS and ES it does not. */
    gdt[S0 / 8] = 0x00cf93000000ffffull | ((uintptr_t)b & 0xffffff) << 16;
    __asm__ volatile("mov %0, %%fs; mov %0, %%es" : : "r"((uint16_t)S0));
    CHECK_EQ(rdmsr(FS_BASE), (uintptr_t)b & 0xffffff);
    a[1] = 0xcccc;
    __asm__ volatile("mov %%es:(%1), %0" : "=r"(a[2]) : "r"(&a[1]));
    CHECK_EQ(a[2], 0xcccc);
    __asm__ volatile("mov %0, %%fs; mov %1, %%es" : : "r"(null), "r"((uint16_t)SEL_DATA));
    CHECK_EQ(rdmsr(FS_BASE), 0);
    FAULTS(GP, 0, "wrmsr", .c = FS_BASE, .a = 0, .d = 0x8000);
    wrmsr(GS_BASE, 0);
}

USER_CODE(user_swapgs, "swapgs")

CASE(fsgsbase_instructions, "FSGSBASE")
{
    uint64_t v;

    run_user(user_swapgs);
    CHECK_EQ(trap.vector, GP);
    FAULTS(UD, 0, "rdfsbase %%rax");
    CHECK(feature7(1, 0));
    write_cr4(read_cr4() | 0x10000);
    __asm__ volatile("wrfsbase %1; rdfsbase %0" : "=r"(v) : "r"(0x123456789000ull));
    CHECK_EQ(v, 0x123456789000ull);
    CHECK_EQ(rdmsr(FS_BASE), 0x123456789000ull);
    __asm__ volatile("wrfsbase %k1; rdfsbase %0" : "=r"(v) : "r"(0x1122334455ull));
    CHECK_EQ(v, 0x22334455);
    __asm__ volatile("wrgsbase %1; rdgsbase %k0" : "=r"(v) : "r"(0x1122334455ull));
    CHECK_EQ(v, 0x22334455);
    FAULTS(GP, 0, "wrgsbase %%rdx", .d = 0x800000000000ull);
    wrmsr(FS_BASE, 0);
    wrmsr(GS_BASE, 0);
    write_cr4(read_cr4() & ~0x10000ull);
}

/* ---- debug traps ---- */

void user_tf_syscall(void);
__asm__(".globl user_tf_syscall, user_tf_ret; user_tf_syscall: pushf; orl $0x100, (%rsp); popf;"
        "syscall; user_tf_ret: nop; int $0x80");

static bool tf_seen_in_kernel;
static unsigned dbs;
static uintptr_t db_ip[4];
static bool tf_hook(struct frame *f)
{
    if (f->vector != DB)
        return false;
    db_ip[dbs++ & 3] = f->ip;
    if (!(f->cs & 3))
        tf_seen_in_kernel = true;
    if (dbs >= 2)
        f->flags &= ~(uintptr_t)FLAG_TF;
    return true;
}

CASE(single_step_across_syscall, "TF across SYSCALL")
{
    extern char user_tf_ret[];

    /* TF in FMASK: no trap at the entry; SYSRET brings TF back and traps at once. */
    set_syscall(sc_entry64, FLAG_TF | FLAG_IF);
    dbs = 0;
    tf_seen_in_kernel = false;
    trap_hook = tf_hook;
    run_user(user_tf_syscall);
    trap_hook = NULL;
    CHECK_EQ(trap.vector, 0x80);
    CHECK(!tf_seen_in_kernel);
    CHECK_EQ(dbs, 2);
    CHECK_EQ(db_ip[0], (uintptr_t)user_tf_ret);
    CHECK_EQ(db_ip[1], (uintptr_t)user_tf_ret + 1);
    write_dr6(DR6_CLEAR);
}

CASE(iret_sets_tf_for_the_next_instruction, "TF by IRET")
{
    extern char tf_iret[];

    TRAP(
        "mov %%rsp, %%rax; push $0x10; push %%rax; push $0x102; push $8; lea tf_iret(%%rip), %%rax;"
        "push %%rax; iretq; .globl tf_iret; tf_iret: nop; nop");
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, (uintptr_t)tf_iret + 1);
    CHECK_EQ(read_dr6() & 0xe00f, 0x4000);
    write_dr6(DR6_CLEAR);
}

CASE(int_n_clears_tf, "TF and INT n")
{
    dbs = 0;
    TRAP("pushf; orl $0x100, (%%rsp); popf; int $0x80");
    CHECK_EQ(trap.count, 1);
    CHECK_EQ(trap.vector, 0x80);
    CHECK_EQ(trap.flags & FLAG_TF, FLAG_TF);
}

CASE(popf_that_clears_tf_still_traps, "TF cleared by POPF")
{
    TRAP("pushf; pushf; orl $0x100, (%%rsp); popf; popf; nop");
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, trap_label + 1 + 1 + 7 + 1 + 1);
    CHECK_EQ(trap.flags & FLAG_TF, 0);
    write_dr6(DR6_CLEAR);
}

CASE(repeated_string_traps_per_iteration, "TF and REP")
{
    uint64_t *page = page_alloc();

    TRAP(
        "mov %%rdx, %%rdi; mov $3, %%ecx; pushf; orl $0x100, (%%rsp); popf; .globl tf_rep; tf_rep: rep stosb",
        .d = (uintptr_t)page);
    {
        extern char tf_rep[];

        CHECK_EQ(trap.vector, DB);
        CHECK_EQ(trap.ip, (uintptr_t)tf_rep); /* two are left */
    }
    write_dr6(DR6_CLEAR);
}

static volatile uint8_t field[64] __attribute__((aligned(64)));

/* The B bits after a 1-byte write or read at field + at, with DR7 as given and DR0 at field + 16.
 */
static unsigned hit(unsigned at, uint64_t dr7, bool write, unsigned size)
{
    unsigned b;

    write_dr6(DR6_CLEAR);
    write_dr0((uintptr_t)field + 16);
    write_dr7(0x402 | dr7);
    if (write && size == 1)
        TRAP("movb $1, (%%rdx)", .d = (uintptr_t)field + at);
    else if (write)
        TRAP("movq $1, (%%rdx)", .d = (uintptr_t)field + at);
    else if (size == 1)
        TRAP("movb (%%rdx), %%al", .d = (uintptr_t)field + at);
    else
        TRAP("movq (%%rdx), %%rax", .d = (uintptr_t)field + at);
    write_dr7(0x400);
    b = read_dr6() & 0xf;
    return b | trap.count << 4;
}

CASE(watchpoint_lengths_and_kinds, "watchpoint lengths")
{
    static const struct {
        uint64_t len;
        unsigned bytes;
    } lens[] = {{0, 1}, {1, 2}, {3, 4}, {2, 8}};

    for (unsigned i = 0; i < 4; i++) {
        uint64_t w = 0x10000 | lens[i].len << 18, rw = 0x30000 | lens[i].len << 18;

        CHECK_EQ(hit(15, w, true, 1), 0);
        CHECK_EQ(hit(16, w, true, 1), 0x11);
        CHECK_EQ(hit(16 + lens[i].bytes - 1, w, true, 1), 0x11);
        CHECK_EQ(hit(16 + lens[i].bytes, w, true, 1), 0);
        CHECK_EQ(hit(16, w, false, 1), 0);
        CHECK_EQ(hit(16, rw, false, 1), 0x11);
        CHECK_EQ(hit(9, rw, false, 8), 0x11); /* its last byte */
        CHECK_EQ(hit(8, rw, false, 8), 0);
        CHECK_EQ(hit(16 + lens[i].bytes - 1, w, true, 8), 0x11);
    }
}

CASE(step_and_watchpoint_come_together, "step and watchpoint")
{
    write_dr6(DR6_CLEAR);
    write_dr0((uintptr_t)field);
    write_dr7(0x402 | 0x10000);
    TRAP("pushf; orl $0x100, (%%rsp); popf; movb $1, (%%rdx); nop", .d = (uintptr_t)field);
    write_dr7(0x400);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(read_dr6() & 0xe00f, 0x4001);
    /* DR6.BS stays until software clears it; the B bits are those of the last #DB. */
    TRAP(".byte 0xf1");
    CHECK_EQ(read_dr6() & 0x4000, 0x4000);
    write_dr6(DR6_CLEAR);
}

CASE(io_breakpoint, "I/O breakpoint, DR4 and DR5")
{
    RUNS("mov %%dr4, %%rax"); /* an alias without CR4.DE */
    write_cr4(read_cr4() | 8);
    FAULTS(UD, 0, "mov %%dr4, %%rax");
    FAULTS(UD, 0, "mov %%rax, %%dr5");
    write_dr6(DR6_CLEAR);
    write_dr0(0x61);
    write_dr7(0x402 | 0x20000);
    TRAP("in $0x61, %%al");
    write_dr7(0x400);
    EXPECT_TRAP(DB, 2);
    CHECK_EQ(read_dr6() & 0xf, 1);
    write_cr4(read_cr4() & ~8ull);
    write_dr6(DR6_CLEAR);
}

USER_CODE(user_dr4, ".byte 0x0f, 0x21, 0xe0")
USER_CODE(user_to_dr5, ".byte 0x0f, 0x23, 0xe8")

CASE(debug_registers_in_ring_3, "debug registers in ring 3")
{
    USER_FAULTS(GP, 0, user_dr4);
    write_cr4(read_cr4() | 8);
    run_user(user_to_dr5);
    write_cr4(read_cr4() & ~8ull);
    CHECK_EQ(trap.vector, GP);
    FAULTS(GP, 0, "mov %%rdx, %%dr7", .d = 1ull << 32);
    FAULTS(GP, 0, "mov %%rdx, %%dr6", .d = 1ull << 32);
}

/* ---- what ring 3 may ---- */

static struct {
    struct tss64 t;
    uint8_t map[0x20];
    uint8_t last;
} __attribute__((packed)) io_tss __attribute__((aligned(64)));

USER_CODE(user_in_61, "in $0x61, %al; int $0x80")
USER_CODE(user_inw_61, "in $0x61, %ax; int $0x80")
USER_CODE(user_in_ff, "in $0xff, %ax; int $0x80")

CASE(io_permission_bitmap, "I/O permission bitmap")
{
    uint64_t base = (uintptr_t)&io_tss;

    memcpy(&io_tss.t, (const void *)&tss, sizeof(io_tss.t));
    io_tss.t.iomap = sizeof(io_tss.t);
    memset(io_tss.map, 0xff, sizeof(io_tss.map) + 1);
    gdt[S0 / 8] =
        (sizeof(io_tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[S1 / 8] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(S0));
    USER_FAULTS(GP, 0, user_in_61);
    io_tss.map[0x61 / 8] &= (uint8_t) ~(1 << (0x61 & 7));
    USER_RUNS(user_in_61);
    run_user(user_inw_61); /* 62h is not allowed */
    CHECK_EQ(trap.vector, GP);
    io_tss.map[0x62 / 8] &= (uint8_t) ~(1 << (0x62 & 7));
    USER_RUNS(user_inw_61);
    memset(io_tss.map, 0, sizeof(io_tss.map));
    run_user(user_in_ff); /* 100h: the last byte of the map */
    CHECK_EQ(trap.vector, GP);
    io_tss.last = 0;
    USER_RUNS(user_in_ff);
    gdt[S0 / 8] =
        (sizeof(io_tss) - 2) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    __asm__ volatile("ltr %w0" : : "r"(S0));
    run_user(user_in_ff); /* the second byte is beyond the limit */
    CHECK_EQ(trap.vector, GP);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void user_iopl_entry(void);
__asm__(
    ".globl user_iopl_entry; user_iopl_entry: mov %rsp, %rax; push $0x23; push $0x21ff00; push $0x3002;"
    "push $0x2b; push $user_iopl_code; iretq");
void user_iopl_code(void);
__asm__(".globl user_iopl_code; user_iopl_code: cli; in $0x71, %al; pushf; pop %rax; int $0x80");

CASE(iopl_3_may, "IOPL 3")
{
    /* Back by the route of run_user: the frame's IOPL is 3 this once. */
    __asm__ volatile(
        "push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15;"
        "mov %%rsp, user_return_sp(%%rip); lea 1f(%%rip), %%rax; mov %%rax, user_return(%%rip);"
        "jmp user_iopl_entry; 1: pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx" ::
            : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    CHECK_EQ(trap.vector, 0x80);
    CHECK_EQ(trap.flags & 0x3000, 0x3000);
}

USER_CODE(user_sgdt, "sub $16, %rsp; sgdt (%rsp); int $0x80")
USER_CODE(user_sidt, "sub $16, %rsp; sidt (%rsp); int $0x80")
USER_CODE(user_sldt, "sldt %eax; int $0x80")
USER_CODE(user_str, "str %eax; int $0x80")
USER_CODE(user_smsw, "smsw %eax; int $0x80")

CASE(umip, "UMIP")
{
    static void (*const fns[])(void) = {user_sgdt, user_sidt, user_sldt, user_str, user_smsw};

    for (unsigned i = 0; i < 5; i++) {
        USER_RUNS(fns[i]);
    }
    CHECK(feature7(2, 2));
    write_cr4(read_cr4() | 0x800);
    for (unsigned i = 0; i < 5; i++) {
        USER_FAULTS(GP, 0, fns[i]);
    }
    RUNS("str %%eax");
    write_cr4(read_cr4() & ~0x800ull);
}

USER_CODE(user_rdtsc, "rdtsc; int $0x80")
USER_CODE(user_rdtscp, "rdtscp; int $0x80")
USER_CODE(user_rdpmc, "xor %ecx, %ecx; rdpmc; int $0x80")

CASE(time_stamp_disable, "TSD and PCE")
{
    USER_RUNS(user_rdtsc);
    write_cr4(read_cr4() | 4);
    RUNS("rdtsc");
    USER_FAULTS(GP, 0, user_rdtsc);
    run_user(user_rdtscp);
    CHECK_EQ(trap.vector, GP);
    write_cr4(read_cr4() & ~4ull);
    USER_FAULTS(GP, 0, user_rdpmc); /* CR4.PCE is 0 */
}

/* ---- SMAP: implicit accesses ---- */

static void kernel_only(uintptr_t va, bool on)
{
    if (on)
        *pte(va, 2) &= ~PTE_U;
    else
        *pte(va, 2) |= PTE_U;
}

CASE(implicit_accesses_ignore_ac, "SMAP: implicit accesses")
{
    volatile uint64_t *ldt = (volatile uint64_t *)GUARD;

    CHECK(feature7(1, 20));
    *pte(GUARD, 1) = BACKING | PTE_P | PTE_W | PTE_U;
    write_cr3(read_cr3());
    ldt[1] = 0x00cf93000000ffffull;
    gdt[S0 / 8] = 0xfff | (GUARD & 0xffffff) << 16 | 0x82ull << 40 | (GUARD >> 24 & 0xff) << 56;
    gdt[S1 / 8] = 0;
    __asm__ volatile("lldt %w0" : : "r"(S0));
    RUNS("mov %%dx, %%es", .d = 0xc);
    __asm__ volatile("mov %w0, %%es" : : "r"(SEL_DATA));
    for (uintptr_t va = 0; va < 0x800000; va += 0x200000)
        kernel_only(va, true);
    write_cr4(read_cr4() | 1u << 21);
    write_cr3(read_cr3());
    RUNS("stac; mov (%%rdx), %%rax; clac", .d = GUARD);
    RAISES(PF, 1, "stac; mov %%dx, %%es", .d = 0xc);
    CHECK_EQ(trap.cr2, GUARD + 8);
    __asm__ volatile("clac");
    write_cr4(read_cr4() & ~(1ull << 21));
    for (uintptr_t va = 0; va < 0x800000; va += 0x200000)
        kernel_only(va, false);
    write_cr3(read_cr3());
    __asm__ volatile("lldt %w0" : : "r"(0));
    RUNS("clac"); /* without CR4.SMAP they still work */
}

USER_CODE(user_stac, "stac")

CASE(stac_is_ring_0s, "#UD: STAC in ring 3")
{
    run_user(user_stac);
    CHECK_EQ(trap.vector, UD);
}
