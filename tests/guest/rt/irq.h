/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupts for guests that are about them: controllers set up, what came counted, times measured.
 */
#ifndef GUEST_IRQ_H
#define GUEST_IRQ_H

#include "guest.h"

#define LAPIC  0xfee00000ull
#define IOAPIC 0xfec00000ull
#define SPIN   50000000ull /* TSC ticks that nothing here should take */

static volatile unsigned seen[256], order[16], norder;

static inline void lapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(uintptr_t)(LAPIC + reg) = v;
}
static inline uint32_t lapic_r(unsigned reg)
{
    return *(volatile uint32_t *)(uintptr_t)(LAPIC + reg);
}
static inline void ioapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(uintptr_t)IOAPIC = reg;
    *(volatile uint32_t *)(uintptr_t)(IOAPIC + 0x10) = v;
}
static inline uint32_t ioapic_r(unsigned reg)
{
    *(volatile uint32_t *)(uintptr_t)IOAPIC = reg;
    return *(volatile uint32_t *)(uintptr_t)(IOAPIC + 0x10);
}

static inline uint8_t cmos_r(uint8_t reg)
{
    out8(0x70, reg);
    return in8(0x71);
}
static inline void cmos_w(uint8_t reg, uint8_t v)
{
    out8(0x70, reg);
    out8(0x71, v);
}

/* Counts the vector and ends the interrupt where it came from. */
static inline bool irq_hook(struct frame *f)
{
    if (f->vector < 0x20)
        return false;
    seen[f->vector]++;
    order[norder++ & 15] = (unsigned)f->vector;
    if (f->vector >= 0x20 && f->vector < 0x28) {
        out8(0x20, 0x20);
    } else if (f->vector >= 0x28 && f->vector < 0x30) {
        out8(0xa0, 0x20);
        out8(0x20, 0x20);
    } else if (f->vector != 0xff) {
        lapic_w(0xb0, 0);
    }
    return true;
}

static inline void pic_init(uint8_t icw4)
{
    /* Vectors 20h and 28h, all masked. */
    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 4);
    out8(0x21, icw4);
    out8(0xa0, 0x11);
    out8(0xa1, 0x28);
    out8(0xa1, 2);
    out8(0xa1, icw4);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

static inline void start(void)
{
    for (unsigned i = 0; i < 256; i++)
        seen[i] = 0;
    norder = 0;
    trap_hook = irq_hook;
    pic_init(1);
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    lapic_w(0x350, 0x700); /* LINT0: ExtINT */
    lapic_w(0x320, 0x10000);
}

static inline void stop(void)
{
    __asm__ volatile("cli");
    trap_hook = NULL;
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

/* A case between start and stop. */
#define IRQ_CASE(fn, title)                                                                        \
    static void fn##_irq(void);                                                                    \
    CASE(fn, title)                                                                                \
    {                                                                                              \
        start();                                                                                   \
        fn##_irq();                                                                                \
        stop();                                                                                    \
    }                                                                                              \
    static void fn##_irq(void)

/* Interrupts on until vector has come or time is up. */
static inline bool wait_for(unsigned vector)
{
    uint64_t t = rdtsc();
    unsigned before = seen[vector];

    __asm__ volatile("sti");
    while (seen[vector] == before && rdtsc() - t < SPIN * 100)
        ;
    __asm__ volatile("cli");
    return seen[vector] != before;
}

/* A moment with interrupts on, for what is pending. */
static inline void window(void)
{
    __asm__ volatile("sti; nop; nop; cli");
}

static inline void spin(uint64_t ticks)
{
    uint64_t t = rdtsc();

    while (rdtsc() - t < ticks)
        ;
}

#endif
