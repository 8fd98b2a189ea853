/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All processors of a 64-bit guest: started once, then each runs what it is given. Processor 0 is
 * the one that boots; a processor's number is its APIC ID.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include "hot.h"

#define LAPIC    0xfee00000ull
#define MAX_CPUS 8u

typedef void task_fn(unsigned cpu);

static volatile uint32_t cpus = 1, smp_seq, smp_done;
static task_fn *volatile smp_task;

static inline void lapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}

static inline void ipi(uint32_t icr, uint32_t to)
{
    lapic_w(0x310, to << 24);
    lapic_w(0x300, icr);
    while (*(volatile uint32_t *)(LAPIC + 0x300) & 0x1000)
        ;
}

static inline void relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* Waits until *p is v; not for ever. */
static inline bool until(const volatile uint32_t *p, uint32_t v)
{
    for (uint64_t t = rdtsc(); rdtsc() - t < 60000000000;) {
        if (*p == v)
            return true;
        relax();
    }
    fail_at("a wait for the other processors", *p, v);
    return false;
}

void smp_ap_main(unsigned cpu);
void smp_ap_main(unsigned cpu)
{
    uint32_t seq = 0;

    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    __asm__ volatile("lock incl %0" : "+m"(cpus));
    for (;;) {
        while (smp_seq == seq)
            relax();
        seq++;
        smp_task(cpu);
        __asm__ volatile("lock incl %0" : "+m"(smp_done));
    }
}

/* The way from real mode, copied to 8000h. */
extern char tramp[], tramp_end[], tramp_cr3[];
extern uint8_t smp_idtr[];
__asm__(".pushsection .text; .code16; .globl tramp; tramp: cli; xor %ax, %ax; mov %ax, %ds;"
        "lgdtl 0x8000 + (tramp_gdt - tramp); mov %cr4, %eax; or $0x620, %eax; mov %eax, %cr4;"
        "mov 0x8000 + (tramp_cr3 - tramp), %eax; mov %eax, %cr3; mov $0xc0000080, %ecx; rdmsr;"
        "or $0x901, %eax; wrmsr; mov $0x80010023, %eax; mov %eax, %cr0;"
        "ljmpl $8, $smp_entry; tramp_cr3: .long 0; tramp_gdt: .word 255; .long gdt; tramp_end:"
        ".code64; smp_entry: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss;"
        "mov $0xfee00020, %eax; mov (%rax), %edi; shr $24, %edi; mov %edi, %eax; shl $13, %eax;"
        "lea smp_stacks(%rax), %rsp; lidt smp_idtr; call smp_ap_main; .popsection;"
        ".pushsection .bss; .balign 16; smp_stacks: .skip 8 * 8192; .popsection;"
        ".pushsection .data; smp_idtr: .skip 10; .popsection");

static inline void smp_start(void)
{
    uint64_t t;

    __asm__ volatile("sidt %0" : "=m"(*(uint8_t(*)[10])smp_idtr));
    memcpy((void *)0x8000, tramp, (size_t)(tramp_end - tramp));
    *(volatile uint32_t *)(uintptr_t)(0x8000 + (tramp_cr3 - tramp)) = (uint32_t)read_cr3();
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    out16(0x510, 5); /* fw_cfg: how many there are */
    t = in8(0x511);
    t = t && t <= MAX_CPUS ? t : 2;
    ipi(0xc4500, 0);
    ipi(0xc4608, 0);
    until(&cpus, (uint32_t)t);
}

/* The others begin fn; join waits for them. */
static inline void on_others(task_fn *fn)
{
    smp_done = 0;
    smp_task = fn;
    __asm__ volatile("" : : : "memory");
    smp_seq++;
}

static inline bool join(void)
{
    return until(&smp_done, cpus - 1);
}

static inline bool everywhere(task_fn *fn)
{
    on_others(fn);
    fn(0);
    return join();
}

#endif
