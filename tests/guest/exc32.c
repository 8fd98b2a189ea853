/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit protected mode without paging and with: what long mode no longer has. Segment limits and
 * types, call gates, tasks, BOUND, INTO, virtual-8086 mode, 16-bit code, PSE and PAE paging. SDM
 * vol. 3A ch. 5-7, 20.
 */
#include "rt/irq.h"

static uint64_t descriptor(uint32_t base, uint32_t limit, uint16_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(attr >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(uint32_t off, uint16_t sel, uint8_t type, uint8_t params)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 | (uint64_t)type << 40 |
           (uint64_t)(off >> 16) << 48;
}

#define S0 SEL_FREE
#define S1 (SEL_FREE + 8)
#define S2 (SEL_FREE + 16)
#define S3 (SEL_FREE + 24)

static uint32_t cell[4] __attribute__((aligned(16))) = {0x11111111, 0x22222222, 0x33333333, 4};

static void divide(void)
{
    TRAP("div %%ecx", .a = 1, .c = 0, .d = 0);
    EXPECT_FAULT(DE, 0);
    TRAP("aam $0", .a = 1);
    EXPECT_FAULT(DE, 0);
}

static void into_traps(void)
{
    TRAP("mov $0x7fffffff, %%eax; inc %%eax; into", .a = 0);
    EXPECT_TRAP(OF, 5 + 1 + 1);
    TRAP("xor %%eax, %%eax; into", .a = 0);
    CHECK_EQ(trap.count, 0);
}

static void bound_faults(void)
{
    int32_t limits[2] = {-5, 10};

    TRAP("bound %%eax, (%%edx)", .a = 11, .d = (uintptr_t)limits);
    EXPECT_FAULT(BR, 0);
    TRAP("bound %%eax, (%%edx)", .a = (uintptr_t)-5, .d = (uintptr_t)limits);
    CHECK_EQ(trap.count, 0);
}

static void limit_of_a_data_segment(void)
{
    gdt[S0 / 8] = descriptor((uintptr_t)cell, 7, 0x4093);
    TRAP("mov %%dx, %%es; mov %%es:4, %%eax", .d = S0);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; 3: mov %%es:5, %%eax", .d = S0);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, 0);
    TRAP("mov %%dx, %%es; movb %%es:7, %%al; movb %%es:8, %%al", .d = S0);
    CHECK_EQ(trap.vector, GP);
}

static void expand_down_segment(void)
{
    gdt[S0 / 8] = descriptor(0, 0xfff, 0x4097); /* valid: 1000h..FFFFFFFFh */
    TRAP("mov %%dx, %%es; mov %%es:0x1000, %%eax", .d = S0);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; mov %%es:0xfff, %%al", .d = S0);
    CHECK_EQ(trap.vector, GP);
    gdt[S0 / 8] = descriptor(0, 0xfff, 0x0097); /* B = 0: up to FFFFh */
    TRAP("mov %%dx, %%es; mov %%es:0xffff, %%al", .d = S0);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; mov %%es:0x10000, %%al", .d = S0);
    CHECK_EQ(trap.vector, GP);
}

static void read_only_and_execute_only(void)
{
    gdt[S0 / 8] = descriptor((uintptr_t)cell, 15, 0x4091);
    TRAP("mov %%dx, %%es; mov %%es:0, %%eax", .d = S0);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; mov %%eax, %%es:0", .d = S0);
    CHECK_EQ(trap.vector, GP);
    gdt[S0 / 8] = descriptor((uintptr_t)cell, 15, 0x4099); /* code, execute-only */
    TRAP("mov %%dx, %%es", .d = S0);
    EXPECT_FAULT(GP, S0);
    gdt[S0 / 8] = descriptor((uintptr_t)cell, 15, 0x409b); /* readable code */
    TRAP("mov %%dx, %%es; mov %%es:0, %%eax", .d = S0);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; mov %%eax, %%es:0", .d = S0);
    CHECK_EQ(trap.vector, GP);
    TRAP("mov %%cs:(%%edx), %%eax", .d = (uintptr_t)cell);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%eax, %%cs:(%%edx)", .d = (uintptr_t)cell);
    EXPECT_FAULT(GP, 0);
}

static void null_selector(void)
{
    TRAP("mov %%dx, %%es", .d = 3);
    CHECK_EQ(trap.count, 0);
    TRAP("mov %%dx, %%es; mov %%es:0x100000, %%eax", .d = 0);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, 0);
    TRAP("mov %%dx, %%ss", .d = 0);
    EXPECT_FAULT(GP, 0);
}

static void accessed_bit_is_set(void)
{
    gdt[S0 / 8] = descriptor(0, 0xfffff, 0xc092);
    TRAP("mov %%dx, %%es", .d = S0);
    CHECK_EQ(gdt[S0 / 8] >> 40 & 1, 1);
}

static void stack_limit(void)
{
    gdt[S0 / 8] = descriptor(0, 0xffffe, 0xc093); /* all but the last page */
    TRAP("mov %%dx, %%ss; mov %%ss:0xfffff000, %%eax", .d = S0);
    CHECK_EQ(trap.vector, SS);
    CHECK_EQ(trap.error, 0);
}

static void lar_lsl_verr(void)
{
    uint32_t lar, lsl;
    uint8_t ok;

    gdt[S0 / 8] = descriptor(0x1234, 0x54321, 0xc0f2);
    __asm__ volatile("lar %2, %0; setz %1" : "=r"(lar), "=q"(ok) : "r"(S0));
    CHECK_EQ(ok, 1);
    CHECK_EQ(lar & 0xf0ff00, 0xc0f200);
    __asm__ volatile("lsl %2, %0; setz %1" : "=r"(lsl), "=q"(ok) : "r"(S0));
    CHECK_EQ(ok, 1);
    CHECK_EQ(lsl, 0x54321fff);
    __asm__ volatile("lar %1, %%eax; setz %0" : "=q"(ok) : "r"(0x7fb8) : "eax");
    CHECK_EQ(ok, 0);
    __asm__ volatile("verw %w1; setz %0" : "=q"(ok) : "r"(SEL_CODE));
    CHECK_EQ(ok, 0);
    __asm__ volatile("verr %w1; setz %0" : "=q"(ok) : "r"(SEL_CODE));
    CHECK_EQ(ok, 1);
}

static void sixteen_bit_code(void)
{
    uint32_t ret;
    extern char code16[];

    gdt[S0 / 8] = descriptor((uintptr_t)code16, 0xffff, 0x009b);
    __asm__ volatile("jmp 2f; .globl code16; code16: .code16; mov $0x1234, %%ax; add $0x1111, %%ax;"
                     "push %%ax; pop %%cx; .byte 0x66; lret; .code32;"
                     "2: xor %%eax, %%eax; lcall *(%1)"
                     : "=&a"(ret)
                     : "r"(&(struct {
                         uint32_t off;
                         uint16_t sel;
                     } __attribute__((packed))){0, S0})
                     : "ecx", "memory");
    CHECK_EQ(ret, 0x2345);
}

/* ---- call gates
 * ----------------------------------------------------------------------------------- */

uint32_t gate_saw[4];
void gate_target(void);
__asm__(".globl gate_target; gate_target: mov %cs, %eax; mov %eax, gate_saw;"
        "mov 8(%esp), %eax; mov %eax, gate_saw + 4; mov 12(%esp), %eax; mov %eax, gate_saw + 8;"
        "lret $8");

static void user_through_gate(void)
{
    __asm__ volatile("push $0x1111; push $0x2222; lcall $0x4b, $0; int $0x80");
}

static void call_gate_to_ring_0(void)
{
    gdt[S0 / 8] = gate((uintptr_t)gate_target, SEL_CODE, 0xec, 2);
    run_user(user_through_gate);
    CHECK_EQ(trap.vector, 0x80);
    CHECK_EQ(gate_saw[0], SEL_CODE);
    CHECK_EQ(gate_saw[1], 0x2222);
    CHECK_EQ(gate_saw[2], 0x1111);
}

static void call_gate_with_too_low_a_privilege(void)
{
    gdt[S0 / 8] = gate((uintptr_t)gate_target, SEL_CODE, 0x8c, 2);
    run_user(user_through_gate);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, S0);
}

static void call_gate_not_present(void)
{
    gdt[S0 / 8] = gate((uintptr_t)gate_target, SEL_CODE, 0x6c, 2);
    run_user(user_through_gate);
    CHECK_EQ(trap.vector, NP);
    CHECK_EQ(trap.error, S0);
}

/* ---- tasks
 * ---------------------------------------------------------------------------------------- */

static struct tss32 other;
static uint32_t other_stack[1024];
uint32_t other_saw;

void other_task(void);
__asm__(".globl other_task; other_task: 1: mov %ecx, other_saw; pushf; pop %edx; iret; jmp 1b");

static void make_task(uint16_t sel)
{
    other = (struct tss32){.eip = (uintptr_t)other_task,
                           .cs = SEL_CODE,
                           .ss = SEL_DATA,
                           .ds = SEL_DATA,
                           .es = SEL_DATA,
                           .eflags = 2,
                           .ecx = 0xc0ffee,
                           .esp = (uintptr_t)(other_stack + 1024),
                           .iomap = sizeof(other)};
    gdt[sel / 8] = descriptor((uintptr_t)&other, sizeof(other) - 1, 0x0089);
}

static void call_to_a_task_and_back(void)
{
    make_task(S0);
    other_saw = 0;
    TRAP("lcall $0x48, $0", .a = 0);
    CHECK_EQ(trap.count, 0);
    CHECK_EQ(other_saw, 0xc0ffee);
    CHECK_EQ(other.link, SEL_TSS);
    CHECK(other.edx & (1 << 14));       /* NT in the new task */
    CHECK_EQ(gdt[S0 / 8] >> 41 & 1, 0); /* not busy after the return */
    CHECK_EQ(gdt[SEL_TSS / 8] >> 41 & 1, 1);
}

static void call_to_a_task_through_a_gate(void)
{
    make_task(S1);
    gdt[S0 / 8] = gate(0, S1, 0x85, 0);
    other_saw = 0;
    TRAP("lcall $0x48, $0", .a = 0);
    CHECK_EQ(trap.count, 0);
    CHECK_EQ(other_saw, 0xc0ffee);
}

static void busy_task_is_refused(void)
{
    make_task(S0);
    gdt[S0 / 8] |= 2ull << 40;
    TRAP("lcall $0x48, $0", .a = 0);
    EXPECT_FAULT(GP, S0);
}

static void short_task_segment_is_refused(void)
{
    make_task(S0);
    gdt[S0 / 8] = descriptor((uintptr_t)&other, 0x66, 0x0089);
    TRAP("lcall $0x48, $0", .a = 0);
    EXPECT_FAULT(TS, S0);
}

static void task_with_a_bad_segment(void)
{
    make_task(S0);
    other.ds = 0x7fb8;
    TRAP("lcall $0x48, $0", .a = 0);
    CHECK_EQ(trap.vector, TS);
    CHECK_EQ(trap.error, 0x7fb8);
    /* The fault came in the new task: put things right by hand. */
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    gdt[S0 / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void df_task(void);
volatile uint32_t df_error;
__asm__(".globl df_task; df_task: mov (%esp), %eax; mov %eax, df_error; mov trap_sp, %esp;"
        "pushf; andl $~0x4000, (%esp); popf; jmp *trap_resume");

static void double_fault_through_a_task_gate(void)
{
    make_task(S0);
    other.eip = (uintptr_t)df_task;
    *(volatile uint64_t *)(idt + DF * 8) = gate(0, S0, 0x85, 0);
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x0e, 0);
    df_error = 1;
    TRAP("mov %%dx, %%ds", .d = 0x7fb8);
    idt_set(GP, idt_stub(GP), SEL_CODE, 0x8e, 0);
    idt_set(DF, idt_stub(DF), SEL_CODE, 0x8e, 0);
    CHECK_EQ(df_error, 0);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    gdt[S0 / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

/* ---- virtual-8086 mode
 * -------------------------------------------------------------------------------- */

static struct {
    uint32_t vector, error, ip, cs, flags, es, ds;
} v86;

void enter_v86(uint32_t cs_ip, uint32_t flags);
__asm__(".globl enter_v86; enter_v86: mov 4(%esp), %ecx; mov 8(%esp), %edx;"
        "push %ebx; push %ebp; push %esi; push %edi; mov %esp, user_return_sp;"
        "movl $1f, user_return; push $0x4444; push $0x3333; push $0x2222; push $0x1111;"
        "push $0x3000; push $0xfff0; push %edx; mov %ecx, %eax; shr $16, %eax; push %eax;"
        "movzwl %cx, %ecx; push %ecx; iret; 1: pop %edi; pop %esi; pop %ebp; pop %ebx; ret");

static bool v86_hook(struct frame *f)
{
    extern volatile uintptr_t user_return, user_return_sp;
    extern _Noreturn void rt_resume(uintptr_t ip, uintptr_t sp);
    uintptr_t *tail = &f->ss;

    if (!(f->flags & (1u << 17)))
        return false;
    v86.vector = f->vector;
    v86.error = f->error;
    v86.ip = f->ip;
    v86.cs = f->cs;
    v86.flags = f->flags;
    v86.es = tail[1];
    v86.ds = tail[2];
    rt_resume(user_return, user_return_sp);
}

static void run_v86(const void *code, unsigned len, uint32_t flags)
{
    uint8_t *at = (uint8_t *)0x20000;

    for (unsigned i = 0; i < len; i++)
        at[i] = ((const uint8_t *)code)[i];
    trap_hook = v86_hook;
    v86.vector = 0xff;
    enter_v86(0x20000000, 0x20002 | flags);
    trap_hook = NULL;
}
#define RUN_V86(flags, ...)                           \
    do {                                              \
        static const uint8_t code_[] = {__VA_ARGS__}; \
        run_v86(code_, sizeof(code_), flags);         \
    } while (0)

static void v86_saves_the_segments(void)
{
    RUN_V86(0, 0x0f, 0x0b); /* ud2 */
    CHECK_EQ(v86.vector, UD);
    CHECK_EQ(v86.cs, 0x2000);
    CHECK_EQ(v86.ip, 0);
    CHECK_EQ(v86.es, 0x1111);
    CHECK_EQ(v86.ds, 0x2222);
}

static void v86_sensitive_instructions_need_iopl(void)
{
    RUN_V86(0, 0xfa); /* cli */
    CHECK_EQ(v86.vector, GP);
    CHECK_EQ(v86.error, 0);
    RUN_V86(0, 0x9c); /* pushf */
    CHECK_EQ(v86.vector, GP);
    RUN_V86(0, 0xcd, 0x21); /* int 21h */
    CHECK_EQ(v86.vector, GP);
    CHECK_EQ(v86.error, 0);
    CHECK_EQ(v86.ip, 0);
    RUN_V86(0x3000, 0xfa, 0x9c, 0x0f, 0x0b);
    CHECK_EQ(v86.vector, UD);
    CHECK_EQ(v86.ip, 2);
    CHECK_EQ(v86.flags & 0x200, 0);
}

static void v86_int_n_with_iopl_3_goes_through_the_idt(void)
{
    RUN_V86(0x3000, 0xcd, 0x80);
    CHECK_EQ(v86.vector, 0x80);
    CHECK_EQ(v86.ip, 2);
}

static void v86_segments_are_paragraphs(void)
{
    /* mov ax, 2000h; mov ds, ax; mov ax, [100h]; cmp ax, 5678h; je +1; hlt; ud2 */
    *(volatile uint16_t *)0x20100 = 0x5678;
    RUN_V86(0x3000, 0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa1, 0x00, 0x01, 0x3d, 0x78, 0x56, 0x74, 0x01,
            0xf4, 0x0f, 0x0b);
    CHECK_EQ(v86.vector, UD);
    CHECK_EQ(v86.ip, 14);
}

static void v86_limit_is_64k(void)
{
    /* mov eax, 10000h; mov al, [eax] with address prefix */
    RUN_V86(0x3000, 0x66, 0xb8, 0x00, 0x00, 0x01, 0x00, 0x67, 0x8a, 0x00);
    CHECK_EQ(v86.vector, GP);
    CHECK_EQ(v86.ip, 6);
}

static void v86_io_follows_the_bitmap(void)
{
    RUN_V86(0x3000, 0xe4, 0x61); /* in al, 61h: IOPL does not matter in V86 */
    CHECK_EQ(v86.vector, GP);
}

/* ---- 32-bit paging
 * -------------------------------------------------------------------------------------- */

static void two_level_paging_and_its_bits(void)
{
    uint32_t *dir = page_alloc(), *table = page_alloc();

    for (unsigned i = 0; i < 1024; i++)
        dir[i] = i << 22 | 0x83; /* 4 MiB identity */
    dir[0x7f000000u >> 22] = (uintptr_t)table | 3;
    table[0] = 0x200000 | 3;
    table[1] = 0x201000 | 1;
    write_cr4(read_cr4() | 0x10);
    write_cr3((uintptr_t)dir);
    write_cr0(read_cr0() | 0x80010000);
    *(volatile uint32_t *)0x200010 = 77;
    CHECK_EQ(*(volatile uint32_t *)0x7f000010, 77);
    CHECK_EQ(table[0] & 0x60, 0x20);
    *(volatile uint32_t *)0x7f000010 = 78;
    CHECK_EQ(table[0] & 0x60, 0x60);
    TRAP("mov %%eax, (%%edx)", .d = 0x7f001000);
    EXPECT_FAULT(PF, 3);
    CHECK_EQ(trap.cr2, 0x7f001000);
    TRAP("mov (%%edx), %%eax", .d = 0x7f002000);
    EXPECT_FAULT(PF, 0);
    CHECK_EQ(dir[0] & 0x60, 0x60);
    write_cr0(read_cr0() & ~0x80000000u);
}

static void pae_paging(void)
{
    static uint64_t pdpt[4] __attribute__((aligned(32)));
    uint64_t *dir = page_alloc();

    for (unsigned i = 0; i < 512; i++)
        dir[i] = (uint64_t)i << 21 | 0x83;
    pdpt[0] = (uintptr_t)dir | 1;
    dir[511] = 0x200083;
    write_cr4(read_cr4() | 0x20);
    write_cr3((uintptr_t)pdpt);
    write_cr0(read_cr0() | 0x80000000);
    *(volatile uint32_t *)0x200010 = 99;
    CHECK_EQ(*(volatile uint32_t *)(511u << 21 | 0x10), 99);
    TRAP("mov (%%edx), %%eax", .d = 0x40000000);
    EXPECT_FAULT(PF, 0);
    /* PDPTEs are loaded with CR3: a change in memory shows only then. */
    pdpt[0] = 0;
    CHECK_EQ(*(volatile uint32_t *)(511u << 21 | 0x10), 99);
    pdpt[0] = (uintptr_t)dir | 1;
    pdpt[1] = (uintptr_t)dir | 1 | 2; /* reserved bit in a PDPTE */
    TRAP("mov %%edx, %%cr3", .d = (uintptr_t)pdpt);
    EXPECT_FAULT(GP, 0);
    write_cr0(read_cr0() & ~0x80000000u);
    write_cr4(read_cr4() & ~0x20u);
}

static void self_modifying_code(void)
{
    uint32_t got;

    __asm__ volatile("movl $1, %%eax; mov $3f, %%edx; movb $2, 1(%%edx); 3: movl $9, %%eax"
                     : "=&a"(got)
                     :
                     : "edx", "memory");
    CHECK_EQ(got, 2);
}

/* ---- #TS: the stack of an inner level
 * ------------------------------------------------------------------- */

static void user_ud(void)
{
    __asm__ volatile("ud2");
}
static void user_int_90(void)
{
    __asm__ volatile("int $0x90");
}

/* Level 1 code, and what the TSS says about its stack. */
static void inner_stack(uint16_t ss1, uint32_t esp1)
{
    gdt[S1 / 8] = 0x00cfbb000000ffffull;
    tss.ss1 = ss1;
    tss.esp1 = esp1;
}

static void stacks_of_inner_levels(void)
{
    static const struct {
        uint16_t ss;
        uint8_t vector;
        uint16_t error;
    } table[] = {
        {0, TS, 0},                   /* null */
        {0x7fb9, TS, 0x7fb8},         /* beyond the GDT */
        {SEL_DATA, TS, SEL_DATA},     /* RPL and DPL 0 */
        {S2, TS, S2},                 /* RPL 0, DPL 1 */
        {S3 | 1, SS, S3},             /* not present */
        {SEL_CODE | 1, TS, SEL_CODE}, /* code */
    };

    gdt[S0 / 8] = gate((uintptr_t)gate_target, S1, 0xec, 0);
    gdt[S2 / 8] = descriptor(0, 0xfffff, 0xc0b3);
    gdt[S3 / 8] = descriptor(0, 0xfffff, 0xc033);
    idt_set(0x90, idt_stub(0x90), S1, 0xee, 0);
    for (unsigned i = 0; i < 6; i++) {
        inner_stack(table[i].ss, (uintptr_t)(other_stack + 1024));
        run_user(user_through_gate);
        CHECK_EQ(trap.vector, table[i].vector);
        CHECK_EQ(trap.error, table[i].error);
        CHECK_EQ(trap.cs, SEL_UCODE);
        run_user(user_int_90);
        CHECK_EQ(trap.vector, table[i].vector);
        CHECK_EQ(trap.error, table[i].error);
        /* An exception is no program's wish: EXT. */
        idt_set(UD, idt_stub(UD), S1, 0x8e, 0);
        run_user(user_ud);
        idt_set(UD, idt_stub(UD), SEL_CODE, 0x8e, 0);
        CHECK_EQ(trap.vector, table[i].vector);
        CHECK_EQ(trap.error, table[i].error | 1);
    }
    /* Room for nothing below the new stack pointer: #SS with the selector. */
    gdt[S2 / 8] = descriptor((uintptr_t)other_stack, 0xfff, 0x40b3);
    inner_stack(S2 | 1, 4);
    run_user(user_int_90);
    CHECK_EQ(trap.vector, SS);
    CHECK_EQ(trap.error, S2);
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0xee, 0);
}

static void pop_of_a_selector_reads_two_bytes(void)
{
    /* The stack ends behind the selector: nothing of the slot's upper half is touched. */
    gdt[S0 / 8] = descriptor(0, 0xfff, 0x4093);
    *(volatile uint16_t *)0xffe = SEL_DATA;
    TRAP("mov %%esp, %%ecx; mov %%edx, %%ss; mov $0xffe, %%esp; pop %%fs; mov %%ss, %%eax;"
         "mov $0x10, %%edx; mov %%edx, %%ss; mov %%ecx, %%esp",
         .d = S0);
    CHECK_EQ(trap.count, 0);
}

/* ---- mode bits
 * ---------------------------------------------------------------------------------------------- */

static void long_mode_needs_pae(void)
{
    write_cr3((uintptr_t)page_alloc());
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(0x100), "d"(0));
    TRAP("mov %%edx, %%cr0", .d = read_cr0() | 0x80000000);
    EXPECT_FAULT(GP, 0);
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(0), "d"(0));
    TRAP("mov %%edx, %%cr0", .d = (read_cr0() | 0x80000000) & ~1u);
    EXPECT_FAULT(GP, 0);
    TRAP("mov %%edx, %%cr4", .d = read_cr4() | 1u << 17); /* PCIDE outside of long mode */
    EXPECT_FAULT(GP, 0);
}

/* ---- paging: what has more than 32 bits
 * --------------------------------------------------------------------- */

static void pse_36(void)
{
    uint32_t *dir = page_alloc();

    for (unsigned i = 0; i < 1024; i++)
        dir[i] = i << 22 | 0x83;
    dir[0x100] = 0x83 | 1u << 13; /* 4 GiB */
    dir[0x101] = 0x83 | 1u << 21; /* reserved */
    write_cr4(read_cr4() | 0x10);
    write_cr3((uintptr_t)dir);
    *(volatile uint32_t *)0 = 0x600d;
    write_cr0(read_cr0() | 0x80010000);
    CHECK(*(volatile uint32_t *)0x40000000 != 0x600d);
    TRAP("mov (%%edx), %%eax", .d = 0x40400000);
    EXPECT_FAULT(PF, 9);
    write_cr0(read_cr0() & ~0x80000000u);
}

static void pae_nx_and_reserved_bits(void)
{
    static uint64_t pdpt[4] __attribute__((aligned(32)));
    uint64_t *dir = page_alloc(), *table = page_alloc();

    for (unsigned i = 0; i < 512; i++)
        dir[i] = (uint64_t)i << 21 | 0x83;
    pdpt[0] = (uintptr_t)dir | 1;
    dir[510] = (uintptr_t)table | 3;
    table[0] = 0x200003;
    table[1] = 0x201003 | PTE_NX;
    table[2] = 0x202003 | 1ull << 62;
    table[3] = 0x203003 | 1ull << 51;
    dir[509] = 0x200083 | 1ull << 13;
    *(volatile uint8_t *)0x200000 = 0xc3;
    *(volatile uint8_t *)0x201000 = 0xc3;
    write_cr4(read_cr4() | 0x20);
    write_cr3((uintptr_t)pdpt);
    write_cr0(read_cr0() | 0x80010000);
    TRAP("mov (%%edx), %%eax", .d = (510u << 21) + 0x1000); /* NXE is off: reserved */
    EXPECT_FAULT(PF, 9);
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(0x800), "d"(0));
    TRAP("call *%%edx", .d = 510u << 21);
    CHECK_EQ(trap.count, 0);
    TRAP("mov (%%edx), %%eax; call *%%edx", .d = (510u << 21) + 0x1000);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.error, 0x11);
    CHECK_EQ(trap.cr2, (510u << 21) + 0x1000);
    TRAP("mov (%%edx), %%eax", .d = (510u << 21) + 0x2000);
    EXPECT_FAULT(PF, 9);
    TRAP("mov (%%edx), %%eax", .d = (510u << 21) + 0x3000);
    EXPECT_FAULT(PF, 9);
    TRAP("mov (%%edx), %%eax", .d = 509u << 21);
    EXPECT_FAULT(PF, 9);
    write_cr0(read_cr0() & ~0x80000000u);
    write_cr4(read_cr4() & ~0x20u);
    __asm__ volatile("wrmsr" : : "c"(0xc0000080), "a"(0), "d"(0));
}

/* ---- I/O permissions
 * -------------------------------------------------------------------------------------------- */

static struct {
    struct tss32 t;
    uint8_t map[0x20];
    uint8_t last;
} __attribute__((packed)) io_tss __attribute__((aligned(64)));

static void user_in_61(void)
{
    __asm__ volatile("in $0x61, %%al; int $0x80" ::: "eax");
}
static void user_inw_61(void)
{
    __asm__ volatile("in $0x61, %%ax; int $0x80" ::: "eax");
}

static void io_permission_bitmap(void)
{
    memcpy(&io_tss.t, (const void *)&tss, sizeof(io_tss.t));
    io_tss.t.iomap = sizeof(io_tss.t);
    memset(io_tss.map, 0xff, sizeof(io_tss.map) + 1);
    gdt[S0 / 8] = descriptor((uintptr_t)&io_tss, sizeof(io_tss) - 1, 0x0089);
    __asm__ volatile("ltr %w0" : : "r"(S0));
    run_user(user_in_61);
    CHECK_EQ(trap.vector, GP);
    CHECK_EQ(trap.error, 0);
    io_tss.map[0x61 / 8] &= (uint8_t) ~(1 << (0x61 & 7));
    run_user(user_in_61);
    CHECK_EQ(trap.vector, 0x80);
    run_user(user_inw_61);
    CHECK_EQ(trap.vector, GP);
    io_tss.map[0x62 / 8] &= (uint8_t) ~(1 << (0x62 & 7));
    run_user(user_inw_61);
    CHECK_EQ(trap.vector, 0x80);
    RUN_V86(0, 0xe4, 0x61, 0x0f, 0x0b);
    CHECK_EQ(v86.vector, UD);
    RUN_V86(0x3000, 0xe4, 0x71); /* IOPL does not matter */
    CHECK_EQ(v86.vector, GP);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

static void task_debug_bit_traps_in_the_new_task(void)
{
    make_task(S0);
    other.trap = 1;
    write_dr6(0xffff0ff0);
    trap_hook = NULL;
    TRAP("lcall $0x48, $0", .a = 0);
    CHECK_EQ(trap.vector, DB);
    CHECK_EQ(trap.ip, (uintptr_t)other_task);
    CHECK_EQ(read_dr6() & 0xe00f, 0x8000);
    write_dr6(0xffff0ff0);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    gdt[S0 / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

/* With VME a clear bit of the map below the I/O bitmap sends INT n to the program's own table at 0.
 */
static void v86_redirected_interrupts(void)
{
    static struct {
        struct tss32 t;
        uint8_t redirect[32];
        uint8_t end;
    } __attribute__((packed)) vme_tss __attribute__((aligned(64)));
    uint32_t old = *(volatile uint32_t *)(0x21 * 4);

    memcpy(&vme_tss.t, (const void *)&tss, sizeof(vme_tss.t));
    vme_tss.t.iomap = sizeof(vme_tss.t) + 32;
    vme_tss.end = 0xff;
    memset(vme_tss.redirect, 0, 32);
    vme_tss.redirect[0x22 / 8] = 1 << (0x22 & 7);
    gdt[S0 / 8] = descriptor((uintptr_t)&vme_tss, sizeof(vme_tss) - 1, 0x0089);
    __asm__ volatile("ltr %w0" : : "r"(S0));
    *(volatile uint32_t *)(0x21 * 4) = 0x20000040; /* 2000h:40h */
    *(volatile uint32_t *)0x20040 = 0x0b0f04b0;    /* mov al, 4; ud2 */
    write_cr4(read_cr4() | 1);
    RUN_V86(0, 0xcd, 0x21);
    CHECK_EQ(v86.vector, UD);
    CHECK_EQ(v86.ip, 0x42);
    RUN_V86(0, 0xcd, 0x22); /* not redirected, and IOPL is 0 */
    CHECK_EQ(v86.vector, GP);
    CHECK_EQ(v86.error, 0);
    RUN_V86(0, 0xfb, 0x0f, 0x0b); /* STI sets VIF */
    CHECK_EQ(v86.vector, UD);
    CHECK_EQ(v86.flags & (1u << 19 | 1u << 9), 1u << 19);
    RUN_V86(1u << 20, 0xfb); /* and faults if VIP waits for it */
    CHECK_EQ(v86.vector, GP);
    RUN_V86(1u << 19, 0x9c, 0x58, 0x0f, 0x0b); /* PUSHF shows VIF as IF, and IOPL 3 */
    CHECK_EQ(v86.vector, UD);
    write_cr4(read_cr4() & ~1u);
    *(volatile uint32_t *)(0x21 * 4) = old;
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

static void flags_in_32_bit_frames(void)
{
    TRAP("ud2", .a = 0);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    TRAP("mov %%dx, %%ds", .d = 0x7fb8);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    TRAP("bound %%eax, (%%edx)", .a = 0x7fffffff, .d = (uintptr_t)cell);
    CHECK_EQ(trap.vector, BR);
    CHECK_EQ(trap.flags & FLAG_RF, FLAG_RF);
    TRAP("mov $0x7fffffff, %%eax; inc %%eax; into", .a = 0);
    CHECK_EQ(trap.flags & FLAG_RF, 0);
    TRAP("int $0x80", .a = 0);
    CHECK_EQ(trap.flags & FLAG_RF, 0);
}

/* ---- x87 exceptions the AT's way: CR0.NE clear, FERR#, IRQ 13, port F0h
 * -------------------------- */

static unsigned ferr_count;
static uint16_t ferr_status;
static bool ferr_clears;

static bool ferr_hook(struct frame *f)
{
    if (f->vector != 0x2d)
        return false;
    ferr_count++;
    out8(0xf0, 0);
    __asm__ volatile("fnstsw %0" : "=m"(ferr_status));
    /* Under IGNNE# the coprocessor works in spite of the exception. */
    __asm__ volatile("fld1; fstp %st(0); fwait");
    if (ferr_clears || ferr_count > 9)
        __asm__ volatile("fnclex");
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
    return true;
}

/* 1 / 0 with that exception unmasked: it waits for the next instruction. */
static void x87_divide_by_zero(void)
{
    static const uint16_t control = 0x37b;

    __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st" : : "m"(control));
}

static void x87_error_by_irq_13(void)
{
    uint32_t cr0 = read_cr0();

    write_cr0(cr0 & ~0x2eu); /* NE, TS, EM, MP */
    start();
    trap_hook = ferr_hook;
    ferr_clears = true;
    ferr_count = 0;
    x87_divide_by_zero();
    out8(0x21, 0xfb);
    out8(0xa1, 0xdf);
    __asm__ volatile("sti; nop; nop");
    CHECK_EQ(ferr_count, 0);
    __asm__ volatile("fwait");
    CHECK_EQ(ferr_count, 1);
    CHECK_EQ(ferr_status & 0x84, 0x84); /* ES, ZE */
    __asm__ volatile("fwait; fld1; fstp %st(0)");
    CHECK_EQ(ferr_count, 1);
    /* And once more: IGNNE# went with FERR#. */
    x87_divide_by_zero();
    __asm__ volatile("fld1");
    CHECK_EQ(ferr_count, 2);
    /* A handler that leaves the exception: ignored until it is cleared. */
    ferr_clears = false;
    x87_divide_by_zero();
    __asm__ volatile("fwait; fwait; fld1");
    CHECK_EQ(ferr_count, 3);
    __asm__ volatile("fninit");
    stop();
    write_cr0(cr0);
}

const struct guest_case guest_cases[] = {
    {"#DE: DIV, AAM", divide},
    {"#OF: INTO", into_traps},
    {"#BR: BOUND", bound_faults},
    {"limit of a data segment", limit_of_a_data_segment},
    {"expand-down segment", expand_down_segment},
    {"read-only and execute-only segments", read_only_and_execute_only},
    {"null selector", null_selector},
    {"accessed bit", accessed_bit_is_set},
    {"#SS: stack limit", stack_limit},
    {"LAR, LSL, VERR, VERW", lar_lsl_verr},
    {"16-bit code segment", sixteen_bit_code},
    {"call gate to ring 0 with parameters", call_gate_to_ring_0},
    {"#GP: call gate privilege", call_gate_with_too_low_a_privilege},
    {"#NP: call gate", call_gate_not_present},
    {"task: CALL and IRET", call_to_a_task_and_back},
    {"task: through a gate", call_to_a_task_through_a_gate},
    {"#GP: busy task", busy_task_is_refused},
    {"#TS: short TSS", short_task_segment_is_refused},
    {"#TS: bad segment in the TSS", task_with_a_bad_segment},
    {"#DF: through a task gate", double_fault_through_a_task_gate},
    {"V86: segments are saved", v86_saves_the_segments},
    {"V86: IOPL", v86_sensitive_instructions_need_iopl},
    {"V86: INT n with IOPL 3", v86_int_n_with_iopl_3_goes_through_the_idt},
    {"V86: paragraphs", v86_segments_are_paragraphs},
    {"V86: 64 KiB limit", v86_limit_is_64k},
    {"V86: I/O bitmap", v86_io_follows_the_bitmap},
    {"paging: two levels, PSE, A and D", two_level_paging_and_its_bits},
    {"paging: PAE and its PDPTEs", pae_paging},
    {"self-modifying code", self_modifying_code},
    {"#TS and #SS: stacks of inner levels, EXT", stacks_of_inner_levels},
    {"POP FS reads two bytes", pop_of_a_selector_reads_two_bytes},
    {"#GP: long mode without PAE", long_mode_needs_pae},
    {"paging: PSE-36", pse_36},
    {"paging: PAE, NX and reserved bits", pae_nx_and_reserved_bits},
    {"I/O permission bitmap", io_permission_bitmap},
    {"#DB: T bit of a task", task_debug_bit_traps_in_the_new_task},
    {"V86: VME", v86_redirected_interrupts},
    {"RF of faults and traps", flags_in_32_bit_frames},
    {"x87 error by IRQ 13", x87_error_by_irq_13},
};
const unsigned guest_ncases = sizeof(guest_cases) / sizeof(guest_cases[0]);
