/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt paths and timers: PIC, I/O APIC, local APIC, MSI, PIT, RTC, PM timer; STI shadow, HLT, TPR. */
#include "rt/guest.h"

#define LAPIC 0xfee00000ull
#define IOAPIC 0xfec00000ull
#define SPIN 50000000ull /* TSC ticks that nothing here should take */

static volatile unsigned seen[256], order[16], norder;

static void lapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}
static uint32_t lapic_r(unsigned reg)
{
    return *(volatile uint32_t *)(LAPIC + reg);
}
static void ioapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)IOAPIC = reg;
    *(volatile uint32_t *)(IOAPIC + 0x10) = v;
}
static uint32_t ioapic_r(unsigned reg)
{
    *(volatile uint32_t *)IOAPIC = reg;
    return *(volatile uint32_t *)(IOAPIC + 0x10);
}

static bool hook(struct frame *f)
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

static void start(void)
{
    for (unsigned i = 0; i < 256; i++)
        seen[i] = 0;
    norder = 0;
    trap_hook = hook;
    /* PIC: vectors 20h and 28h, all masked. */
    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0xa0, 0x11);
    out8(0xa1, 0x28);
    out8(0xa1, 2);
    out8(0xa1, 1);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    lapic_w(0x350, 0x700); /* LINT0: ExtINT */
    lapic_w(0x320, 0x10000);
}

static void stop(void)
{
    __asm__ volatile("cli");
    trap_hook = NULL;
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

/* Interrupts on until vector has come or time is up. */
static bool wait_for(unsigned vector)
{
    uint64_t t = rdtsc();
    unsigned before = seen[vector];

    __asm__ volatile("sti");
    while (seen[vector] == before && rdtsc() - t < SPIN * 20)
        ;
    __asm__ volatile("cli");
    return seen[vector] != before;
}

static void pit_through_the_pic(void)
{
    start();
    out8(0x43, 0x34);
    out8(0x40, 1000 & 0xff);
    out8(0x40, 1000 >> 8);
    out8(0x21, 0xfe);
    CHECK(wait_for(0x20));
    CHECK(wait_for(0x20));
    out8(0x21, 0xff);
    out8(0x43, 0x30);
    stop();
}

static void pit_one_shot_fires_once(void)
{
    uint64_t t;

    start();
    out8(0x21, 0xfe);
    out8(0x43, 0x30);
    out8(0x40, 0x00);
    out8(0x40, 0x01);
    CHECK(wait_for(0x20));
    __asm__ volatile("sti");
    for (t = rdtsc(); rdtsc() - t < SPIN / 10;)
        ;
    CHECK_EQ(seen[0x20], 1);
    stop();
}

static void hlt_wakes_on_an_interrupt(void)
{
    start();
    out8(0x43, 0x30);
    out8(0x40, 0x00);
    out8(0x40, 0x08);
    out8(0x21, 0xfe);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x20], 1);
    stop();
}

static void rtc_through_the_second_pic(void)
{
    start();
    out8(0x70, 0x0a);
    out8(0x71, 0x26);
    out8(0x70, 0x0c);
    in8(0x71);
    out8(0x70, 0x0b);
    out8(0x71, 0x42); /* PIE, 24 hours */
    out8(0x21, 0xfb);
    out8(0xa1, 0xfe);
    CHECK(wait_for(0x28));
    out8(0x70, 0x0c);
    CHECK_EQ(in8(0x71) & 0xc0, 0xc0);
    out8(0x70, 0x0b);
    out8(0x71, 0x02);
    stop();
}

static void pit_through_the_io_apic(void)
{
    start();
    lapic_w(0x350, 0x10000);
    ioapic_w(0x10 + 2 * 2 + 1, 0);
    ioapic_w(0x10 + 2 * 2, 0x40);
    out8(0x43, 0x34);
    out8(0x40, 0x00);
    out8(0x40, 0x10);
    CHECK(wait_for(0x40));
    ioapic_w(0x10 + 2 * 2, 0x10000);
    out8(0x43, 0x30);
    CHECK_EQ(ioapic_r(1) >> 16 & 0xff, 23);
    stop();
}

static void self_ipi_and_priorities(void)
{
    start();
    lapic_w(0x310, 0);
    lapic_w(0x300, 0x40051); /* to self, vector 51h */
    lapic_w(0x300, 0x40091);
    lapic_w(0x300, 0x40071);
    CHECK(wait_for(0x51));
    CHECK_EQ(order[0], 0x91);
    CHECK_EQ(order[1], 0x71);
    CHECK_EQ(order[2], 0x51);
    stop();
}

static void task_priority_holds_lower_ones_back(void)
{
    uint64_t cr8;

    start();
    lapic_w(0x80, 0x60);
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    CHECK_EQ(cr8, 6);
    lapic_w(0x300, 0x40051);
    lapic_w(0x300, 0x40071);
    CHECK(wait_for(0x71));
    CHECK_EQ(seen[0x51], 0);
    __asm__ volatile("sti; mov %0, %%cr8; nop" : : "r"(0ull));
    CHECK_EQ(seen[0x51], 1);
    stop();
}

static void sti_shadow_covers_one_instruction(void)
{
    uint64_t n;

    start();
    lapic_w(0x300, 0x40051);
    /* In the shadow of STI the CLI wins: nothing is taken. */
    __asm__ volatile("sti; cli; nop");
    CHECK_EQ(seen[0x51], 0);
    /* One instruction between: taken before CLI. */
    __asm__ volatile("sti; nop; cli");
    CHECK_EQ(seen[0x51], 1);
    lapic_w(0x300, 0x40051);
    __asm__ volatile("sti; mov %1, %0; cli" : "=r"(n) : "m"(seen[0x51]));
    CHECK_EQ(seen[0x51], 2);
    stop();
}

static void apic_timer_one_shot(void)
{
    start();
    lapic_w(0x3e0, 0xb); /* divide by 1 */
    lapic_w(0x320, 0x52);
    lapic_w(0x380, 100000);
    CHECK(wait_for(0x52));
    CHECK_EQ(lapic_r(0x390), 0);
    CHECK_EQ(seen[0x52], 1);
    stop();
}

static void apic_timer_periodic(void)
{
    start();
    lapic_w(0x3e0, 0xb);
    lapic_w(0x320, 0x20053);
    lapic_w(0x380, 200000);
    CHECK(wait_for(0x53));
    CHECK(wait_for(0x53));
    CHECK(wait_for(0x53));
    lapic_w(0x380, 0);
    lapic_w(0x320, 0x10000);
    stop();
}

static void apic_timer_tsc_deadline(void)
{
    start();
    lapic_w(0x320, 0x40054);
    wrmsr(0x6e0, rdtsc() + 100000);
    CHECK(wait_for(0x54));
    CHECK_EQ(rdmsr(0x6e0), 0);
    lapic_w(0x320, 0x10000);
    stop();
}

static void apic_timer_rate_is_what_cpuid_says(void)
{
    uint64_t t0, t1;
    uint32_t c0, c1;

    start();
    lapic_w(0x3e0, 0xb);
    lapic_w(0x320, 0x10000);
    lapic_w(0x380, 0xffffffff);
    t0 = rdtsc();
    c0 = lapic_r(0x390);
    while (rdtsc() - t0 < 2000000)
        ;
    c1 = lapic_r(0x390);
    t1 = rdtsc();
    CHECK(c0 - c1 > 1000000);
    CHECK(c0 - c1 <= t1 - t0 + 1000000);
    stop();
}

static void x2apic_mode(void)
{
    uint32_t a = 1, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    CHECK(c & (1 << 21));
    start();
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    CHECK_EQ(rdmsr(0x802), 0);
    wrmsr(0x83f, 0x55); /* self IPI */
    trap_hook = NULL;
    TRAP("wrmsr", .c = 0x802, .a = 0, .d = 0);
    EXPECT_FAULT(GP, 0);
    trap_hook = hook;
    __asm__ volatile("sti; nop; cli");
    CHECK_EQ(seen[0x55], 1);
    wrmsr(0x80b, 0);
    /* x2APIC to xAPIC directly is refused. */
    trap_hook = NULL;
    TRAP("wrmsr", .c = 0x1b, .a = (uint32_t)(rdmsr(0x1b) & ~0x400ull), .d = 0);
    EXPECT_FAULT(GP, 0);
    wrmsr(0x1b, rdmsr(0x1b) & ~0xc00ull);
    wrmsr(0x1b, rdmsr(0x1b) | 0x800);
    stop();
}

static void pm_timer_runs(void)
{
    uint32_t a = in32(0x608), b;
    uint64_t t = rdtsc();

    while (rdtsc() - t < 1000000)
        ;
    b = in32(0x608);
    CHECK(((b - a) & 0xffffff) > 1000);
}

static void port_61_toggles_and_counter_2_counts(void)
{
    uint8_t first = in8(0x61) & 0x10;
    uint64_t t = rdtsc();
    bool toggled = false, out = false;

    while (rdtsc() - t < SPIN)
        if ((in8(0x61) & 0x10) != first)
            toggled = true;
    CHECK(toggled);
    out8(0x61, (in8(0x61) & 0xfc) | 1);
    out8(0x43, 0xb0);
    out8(0x42, 0x00);
    out8(0x42, 0x01);
    for (t = rdtsc(); rdtsc() - t < SPIN && !out;)
        out = in8(0x61) & 0x20;
    CHECK(out);
}

static void spurious_irq_7(void)
{
    start();
    /* A line that drops before the acknowledge reads as IRQ 7, with no in-service bit. */
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0);
    stop();
}

const struct guest_case guest_cases[] = {
    {"PIT through the PIC, periodic", pit_through_the_pic},
    {"PIT one-shot", pit_one_shot_fires_once},
    {"HLT wakes", hlt_wakes_on_an_interrupt},
    {"RTC through the second PIC", rtc_through_the_second_pic},
    {"PIT through the I/O APIC", pit_through_the_io_apic},
    {"self IPI and priorities", self_ipi_and_priorities},
    {"task priority and CR8", task_priority_holds_lower_ones_back},
    {"STI shadow", sti_shadow_covers_one_instruction},
    {"APIC timer, one-shot", apic_timer_one_shot},
    {"APIC timer, periodic", apic_timer_periodic},
    {"APIC timer, TSC deadline", apic_timer_tsc_deadline},
    {"APIC timer rate", apic_timer_rate_is_what_cpuid_says},
    {"x2APIC", x2apic_mode},
    {"PM timer", pm_timer_runs},
    {"port 61h", port_61_toggles_and_counter_2_counts},
    {"PIC in-service register", spurious_irq_7},
};
const unsigned guest_ncases = sizeof(guest_cases) / sizeof(guest_cases[0]);
