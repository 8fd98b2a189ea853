/* SPDX-License-Identifier: Apache-2.0 */
/* Interrupt paths and timers: PIC, I/O APIC, local APIC, MSI, PIT, RTC, PM timer; STI shadow, HLT,
 * TPR. */
#include "rt/irq.h"

IRQ_CASE(pit_through_the_pic, "PIT through the PIC, periodic")
{
    out8(0x43, 0x34);
    out8(0x40, 1000 & 0xff);
    out8(0x40, 1000 >> 8);
    out8(0x21, 0xfe);
    CHECK(wait_for(0x20));
    CHECK(wait_for(0x20));
    out8(0x21, 0xff);
    out8(0x43, 0x30);
}

IRQ_CASE(pit_one_shot_fires_once, "PIT one-shot")
{
    uint64_t t;

    out8(0x21, 0xfe);
    out8(0x43, 0x30);
    out8(0x40, 0x00);
    out8(0x40, 0x01);
    CHECK(wait_for(0x20));
    __asm__ volatile("sti");
    for (t = rdtsc(); rdtsc() - t < SPIN / 10;)
        ;
    CHECK_EQ(seen[0x20], 1);
}

IRQ_CASE(hlt_wakes_on_an_interrupt, "HLT wakes")
{
    out8(0x43, 0x30);
    out8(0x40, 0x00);
    out8(0x40, 0x08);
    out8(0x21, 0xfe);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x20], 1);
}

IRQ_CASE(rtc_through_the_second_pic, "RTC through the second PIC")
{
    cmos_w(0x0a, 0x26);
    cmos_r(0x0c);
    cmos_w(0x0b, 0x42); /* PIE, 24 hours */
    out8(0x21, 0xfb);
    out8(0xa1, 0xfe);
    CHECK(wait_for(0x28));
    out8(0x70, 0x0c);
    CHECK_EQ(in8(0x71) & 0xc0, 0xc0);
    cmos_w(0x0b, 0x02);
}

IRQ_CASE(pit_through_the_io_apic, "PIT through the I/O APIC")
{
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
}

/* The 8259s' INTR is pin 0: an ExtINT entry there takes the vector from them. */
IRQ_CASE(pit_through_the_pic_and_io_apic_pin_0, "PIT through the PIC and I/O APIC pin 0")
{
    lapic_w(0x350, 0x10000);
    out8(0x43, 0x34);
    out8(0x40, 1000 & 0xff);
    out8(0x40, 1000 >> 8);
    out8(0x21, 0xfe);
    window();
    CHECK_EQ(seen[0x20], 0);
    out8(0x21, 0xff);
    ioapic_w(0x11, 0);
    ioapic_w(0x10, 0x700);
    out8(0x21, 0xfe);
    CHECK(wait_for(0x20));
    CHECK(wait_for(0x20));
    /* Automatic EOI: the next request finds the last one's INTR gone all the same. */
    pic_init(3);
    out8(0x21, 0xfe);
    CHECK(wait_for(0x20));
    CHECK(wait_for(0x20));
    ioapic_w(0x10, 0x10000);
    out8(0x21, 0xff);
    out8(0x43, 0x30);
    window(); /* what was under way: IRQ 7, as nothing asks any more */
}

IRQ_CASE(self_ipi_and_priorities, "self IPI and priorities")
{
    lapic_w(0x310, 0);
    lapic_w(0x300, 0x40051); /* to self, vector 51h */
    lapic_w(0x300, 0x40091);
    lapic_w(0x300, 0x40071);
    CHECK(wait_for(0x51));
    CHECK_EQ(order[0], 0x91);
    CHECK_EQ(order[1], 0x71);
    CHECK_EQ(order[2], 0x51);
}

IRQ_CASE(task_priority_holds_lower_ones_back, "task priority and CR8")
{
    uint64_t cr8;

    lapic_w(0x80, 0x60);
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    CHECK_EQ(cr8, 6);
    lapic_w(0x300, 0x40051);
    lapic_w(0x300, 0x40071);
    CHECK(wait_for(0x71));
    CHECK_EQ(seen[0x51], 0);
    __asm__ volatile("sti; mov %0, %%cr8; nop" : : "r"(0ull));
    CHECK_EQ(seen[0x51], 1);
}

IRQ_CASE(sti_shadow_covers_one_instruction, "STI shadow")
{
    uint64_t n;

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
}

IRQ_CASE(apic_timer_one_shot, "APIC timer, one-shot")
{
    lapic_w(0x3e0, 0xb); /* divide by 1 */
    lapic_w(0x320, 0x52);
    lapic_w(0x380, 100000);
    CHECK(wait_for(0x52));
    CHECK_EQ(lapic_r(0x390), 0);
    CHECK_EQ(seen[0x52], 1);
}

/* Loops that do nothing else than what their name says; each must be left. */
#define LOOP(name, code)                                                                          \
    static void name(void)                                                                        \
    {                                                                                             \
        lapic_w(0x380, 300000);                                                                   \
        __asm__ volatile("sti\n" code "cli" : : "r"(&seen[0x55]) : "rax", "rcx", "memory", "cc"); \
    }

LOOP(loop_plain, "1: cmpl $0, (%0)\nje 1b\n")
LOOP(loop_push, "1: push %%rax\npop %%rax\ncmpl $0, (%0)\nje 1b\n")
LOOP(loop_call, "jmp 2f\n1: ret\n2: call 1b\ncmpl $0, (%0)\nje 2b\n")
LOOP(loop_flags, "xor %%eax, %%eax\n1: setz %%al\npush %%rax\npop %%rcx\ncmpl $0, (%0)\nje 1b\n")
LOOP(loop_pages, "1: mov %%rsp, %%rax\nlea -4000(%%rsp), %%rsp\npush %%rax\npop %%rcx\n"
                 "mov %%rax, %%rsp\npush %%rax\npop %%rcx\ncmpl $0, (%0)\nje 1b\n")
LOOP(loop_vector, "1: push %%rax\npxor %%xmm0, %%xmm0\npop %%rax\ncmpl $0, (%0)\nje 1b\n")
/* Without checks: all its addresses move by constants; or one does. */
LOOP(loop_pure, "1: add $1, %%rcx\ncmpl $0, (%0)\nje 1b\n")
LOOP(loop_mixed,
     "1: sub $1, %%rcx\nmovzbl %%cl, %%eax\nmov (%0,%%rax), %%al\ncmpl $0, (%0)\nje 1b\n")

IRQ_CASE(every_loop_is_left, "every loop is left")
{
    static void (*const loops[])(void) = {loop_plain, loop_push,   loop_call, loop_flags,
                                          loop_pages, loop_vector, loop_pure, loop_mixed};

    lapic_w(0x3e0, 0xb);
    lapic_w(0x320, 0x55);
    for (unsigned i = 0; i < sizeof(loops) / sizeof(loops[0]); i++) {
        for (unsigned k = 0; k < 20; k++) {
            seen[0x55] = 0;
            loops[i]();
            CHECK_EQ(seen[0x55], 1);
        }
    }
    lapic_w(0x320, 0x10000);
}

IRQ_CASE(apic_timer_periodic, "APIC timer, periodic")
{
    lapic_w(0x3e0, 0xb);
    lapic_w(0x320, 0x20053);
    lapic_w(0x380, 200000);
    CHECK(wait_for(0x53));
    CHECK(wait_for(0x53));
    CHECK(wait_for(0x53));
    lapic_w(0x380, 0);
    lapic_w(0x320, 0x10000);
}

IRQ_CASE(apic_timer_tsc_deadline, "APIC timer, TSC deadline")
{
    lapic_w(0x320, 0x40054);
    wrmsr(0x6e0, rdtsc() + 100000);
    CHECK(wait_for(0x54));
    CHECK_EQ(rdmsr(0x6e0), 0);
    lapic_w(0x320, 0x10000);
}

IRQ_CASE(apic_timer_rate_is_what_cpuid_says, "APIC timer rate")
{
    uint64_t t0, t1;
    uint32_t c0, c1;

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
}

CASE(x2apic_mode, "x2APIC")
{
    uint32_t a = 1, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    CHECK(c & (1 << 21));
    start();
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    CHECK_EQ(rdmsr(0x802), 0);
    wrmsr(0x83f, 0x55); /* self IPI */
    trap_hook = NULL;
    FAULTS(GP, 0, "wrmsr", .c = 0x802, .a = 0, .d = 0);
    trap_hook = irq_hook;
    __asm__ volatile("sti; nop; cli");
    CHECK_EQ(seen[0x55], 1);
    wrmsr(0x80b, 0);
    /* x2APIC to xAPIC directly is refused. */
    trap_hook = NULL;
    FAULTS(GP, 0, "wrmsr", .c = 0x1b, .a = (uint32_t)(rdmsr(0x1b) & ~0x400ull), .d = 0);
    wrmsr(0x1b, rdmsr(0x1b) & ~0xc00ull);
    wrmsr(0x1b, rdmsr(0x1b) | 0x800);
    stop();
}

CASE(pm_timer_runs, "PM timer")
{
    uint32_t a = in32(0x608), b;
    uint64_t t = rdtsc();

    while (rdtsc() - t < 1000000)
        ;
    b = in32(0x608);
    CHECK(((b - a) & 0xffffff) > 1000);
}

CASE(port_61_toggles_and_counter_2_counts, "port 61h")
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

IRQ_CASE(spurious_irq_7, "PIC in-service register")
{
    /* A line that drops before the acknowledge reads as IRQ 7, with no in-service bit. */
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0);
}

/* ---- 8259A: lines that a program can move, seen by polling with IF = 0 ---- */

static bool until_status(uint8_t mask, uint8_t want)
{
    uint64_t t = rdtsc();

    while (rdtsc() - t < SPIN * 20)
        if ((in8(0x64) & mask) == want)
            return true;
    return false;
}

static void irq4(bool on)
{
    out8(0x3fb, 3);
    out8(0x3fc, on ? 0x0b : 0);
    out8(0x3f9, on ? 2 : 0); /* transmitter empty */
}

static void irq1(bool on)
{
    if (on) {
        until_status(2, 0);
        out8(0x64, 0x60);
        until_status(2, 0);
        out8(0x60, 0x01);
        until_status(2, 0);
        out8(0x64, 0xd2); /* as if the keyboard had sent it */
        until_status(2, 0);
        out8(0x60, 0x5a);
        until_status(1, 1);
    } else {
        while (in8(0x64) & 1)
            in8(0x60);
    }
}

static uint8_t poll(void)
{
    out8(0x20, 0x0c);
    return in8(0x20);
}
static uint8_t pic_isr(void)
{
    out8(0x20, 0x0b);
    return in8(0x20);
}
static uint8_t pic_irr(void)
{
    out8(0x20, 0x0a);
    return in8(0x20);
}

static void pic_start(uint8_t icw4, uint8_t mask)
{
    irq4(false);
    irq1(false);
    start();
    lapic_w(0x350, 0x10000);
    out8(0x4d0, 0);
    out8(0x4d1, 0);
    pic_init(icw4);
    out8(0x21, mask);
}

static void pic_stop(void)
{
    irq4(false);
    irq1(false);
    pic_init(1);
    out8(0x4d0, 0);
    out8(0x4d1, 0x0e); /* IRQ 9 to 11, as firmware leaves it */
    stop();
}

CASE(pic_poll, "PIC: poll")
{
    pic_start(1, 0xed);
    CHECK_EQ(poll() & 0x80, 0);
    irq4(true);
    CHECK_EQ(pic_irr() & 0x10, 0x10);
    CHECK_EQ(poll(), 0x84);
    CHECK_EQ(pic_isr(), 0x10);
    CHECK_EQ(poll() & 0x80, 0);
    out8(0x20, 0x20);
    CHECK_EQ(pic_isr(), 0);
    CHECK_EQ(poll() & 0x80, 0); /* an edge counts once */
    irq4(false);
    irq4(true);
    CHECK_EQ(poll(), 0x84);
    pic_stop();
}

CASE(pic_level_triggered, "PIC: level-triggered")
{
    pic_start(1, 0xed);
    out8(0x4d0, 0xff);
    out8(0x4d1, 0xff);
    CHECK_EQ(in8(0x4d0), 0xf8); /* IRQ 0 to 2, 8 and 13 are always edges */
    CHECK_EQ(in8(0x4d1), 0xde);
    out8(0x4d0, 0x10);
    irq4(true);
    CHECK_EQ(poll(), 0x84);
    CHECK_EQ(poll() & 0x80, 0);
    out8(0x20, 0x20);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0x20);
    irq4(false);
    CHECK_EQ(poll() & 0x80, 0);
    irq4(true);
    irq4(false);
    CHECK_EQ(pic_irr() & 0x10, 0); /* a level that is gone leaves nothing */
    pic_stop();
}

CASE(pic_priorities_and_specific_eoi, "PIC: priorities")
{
    pic_start(1, 0xed);
    irq4(true);
    CHECK_EQ(poll(), 0x84);
    irq1(true);
    CHECK_EQ(poll(), 0x81); /* above the one in service */
    irq4(false);
    irq4(true);
    CHECK_EQ(poll() & 0x80, 0);
    CHECK_EQ(pic_isr(), 0x12);
    out8(0x20, 0x61); /* specific EOI: 1 */
    CHECK_EQ(pic_isr(), 0x10);
    out8(0x20, 0x64);
    CHECK_EQ(pic_isr(), 0);
    CHECK_EQ(poll(), 0x84);
    pic_stop();
}

CASE(pic_rotation, "PIC: rotation")
{
    pic_start(1, 0xed);
    out8(0x20, 0xc1); /* 1 is the lowest: 4 comes first */
    irq1(true);
    irq4(true);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0xa0); /* EOI, and 4 becomes the lowest */
    irq4(false);
    irq4(true);
    CHECK_EQ(poll(), 0x81);
    out8(0x20, 0xe1); /* specific EOI, and 1 becomes the lowest */
    irq1(false);
    irq1(true);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0x20);
    CHECK_EQ(poll(), 0x81);
    out8(0x20, 0xc7);
    out8(0x20, 0x20);
    pic_stop();
}

CASE(pic_special_mask, "PIC: special mask mode")
{
    pic_start(1, 0xed);
    irq1(true);
    CHECK_EQ(poll(), 0x81);
    irq4(true);
    CHECK_EQ(poll() & 0x80, 0);
    out8(0x21, 0xef);
    CHECK_EQ(poll() & 0x80, 0); /* masked, and yet in the way */
    out8(0x20, 0x68);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0x48);
    out8(0x20, 0x61);
    out8(0x20, 0x64);
    CHECK_EQ(pic_isr(), 0);
    pic_stop();
}

CASE(pic_mask_keeps_the_request, "PIC: mask")
{
    pic_start(1, 0xff);
    irq4(true);
    CHECK_EQ(pic_irr() & 0x10, 0x10);
    CHECK_EQ(poll() & 0x80, 0);
    CHECK_EQ(in8(0x21), 0xff);
    out8(0x21, 0xef);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0x20);
    pic_stop();
}

static uint8_t isr_in_handler;
static bool aeoi_hook(struct frame *f)
{
    isr_in_handler = pic_isr();
    seen[f->vector]++;
    return true;
}

CASE(pic_automatic_eoi, "PIC: automatic EOI")
{
    pic_start(3, 0xed);
    lapic_w(0x350, 0x700);
    trap_hook = aeoi_hook;
    irq4(true);
    isr_in_handler = 0xff;
    CHECK(wait_for(0x24));
    CHECK_EQ(isr_in_handler, 0);
    irq4(false);
    irq4(true);
    CHECK(wait_for(0x24));
    CHECK_EQ(seen[0x24], 2);
    pic_init(1);
    out8(0x21, 0xef);
    irq4(false);
    irq4(true);
    window();
    CHECK_EQ(isr_in_handler, 0x10);
    pic_stop();
}

CASE(pic_initialisation_forgets, "PIC: initialisation")
{
    pic_start(1, 0xed);
    irq4(true);
    CHECK_EQ(poll(), 0x84);
    out8(0x20, 0xc4);
    pic_init(1);
    CHECK_EQ(pic_isr(), 0);
    CHECK_EQ(pic_irr() & 0x10, 0); /* the edge detector is reset: a line must go low first */
    out8(0x21, 0xed);
    CHECK_EQ(poll() & 0x80, 0);
    pic_stop();
}

CASE(slave_through_irq_2, "PIC: slave")
{
    pic_start(1, 0xff);
    out8(0x21, 0xfb);
    out8(0xa1, 0xfe);
    cmos_w(0x0a, 0x26);
    cmos_r(0x0c);
    cmos_w(0x0b, 0x42);
    {
        uint64_t t = rdtsc();

        while (!(pic_irr() & 4) && rdtsc() - t < SPIN * 20)
            ;
    }
    CHECK_EQ(poll(), 0x82);
    out8(0xa0, 0x0c);
    CHECK_EQ(in8(0xa0), 0x80);
    out8(0xa0, 0x20);
    out8(0x20, 0x20);
    cmos_w(0x0b, 0x02);
    cmos_r(0x0c);
    pic_stop();
}

CASE(request_without_a_source_is_irq_7, "PIC: no source")
{
    pic_start(1, 0xff);
    /* The I/O APIC asks for an acknowledge that the 8259A knows nothing of. */
    ioapic_w(0x10 + 4 * 2 + 1, 0);
    ioapic_w(0x10 + 4 * 2, 0x700);
    irq4(true);
    CHECK(wait_for(0x27));
    CHECK_EQ(pic_isr(), 0);
    ioapic_w(0x10 + 4 * 2, 0x10000);
    pic_stop();
}

/* ---- I/O APIC: the same line as pin 4 ---- */

#define RTE4 (0x10 + 4 * 2)

static void ioapic_start(uint32_t high, uint32_t low)
{
    pic_start(1, 0xff);
    ioapic_w(RTE4, 0x10000);
    ioapic_w(RTE4 + 1, high);
    ioapic_w(RTE4, low);
}

static void ioapic_stop(void)
{
    irq4(false);
    ioapic_w(RTE4, 0x10000);
    ioapic_w(RTE4, 0x10000);
    pic_stop();
}

static unsigned storms;
static bool level_hook(struct frame *f)
{
    if (f->vector != 0x44)
        return false;
    seen[0x44]++;
    CHECK_EQ(ioapic_r(RTE4) & 0x4000, 0x4000);             /* remote IRR until the EOI */
    CHECK_EQ(lapic_r(0x180 + 0x20) >> (0x44 & 31) & 1, 1); /* TMR: level */
    CHECK_EQ(lapic_r(0x100 + 0x20) >> (0x44 & 31) & 1, 1); /* ISR */
    CHECK_EQ(lapic_r(0xa0), 0x40);                         /* PPR */
    if (++storms == 3)
        irq4(false);
    lapic_w(0xb0, 0);
    return true;
}

CASE(ioapic_level_and_remote_irr, "I/O APIC: level, remote IRR")
{
    ioapic_start(0, 0x8044);
    storms = 0;
    trap_hook = level_hook;
    irq4(true);
    window();
    window();
    window();
    window();
    CHECK_EQ(seen[0x44], 3); /* again after each EOI, until the line fell */
    CHECK_EQ(ioapic_r(RTE4) & 0x4000, 0);
    ioapic_stop();
}

/* Lowers the line: a level would come again and again. */
static bool once_hook(struct frame *f)
{
    if (f->vector >= 0x20)
        irq4(false);
    return irq_hook(f);
}

CASE(ioapic_masked, "I/O APIC: mask")
{
    ioapic_start(0, 0x10045);
    irq4(true); /* an edge under the mask is lost */
    ioapic_w(RTE4, 0x45);
    window();
    CHECK_EQ(seen[0x45], 0);
    irq4(false);
    irq4(true);
    window();
    CHECK_EQ(seen[0x45], 1);
    ioapic_w(RTE4, 0x18045);
    window();
    CHECK_EQ(seen[0x45], 1);
    trap_hook = once_hook;
    ioapic_w(RTE4, 0x8045); /* a level is still there */
    window();
    CHECK_EQ(seen[0x45], 2);
    ioapic_stop();
}

CASE(ioapic_logical_destinations, "I/O APIC: destinations")
{
    uint32_t ldr = lapic_r(0xd0);

    lapic_w(0xe0, 0xffffffff);
    lapic_w(0xd0, 0x04000000);
    ioapic_start(0x06000000, 0x846);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 1);
    irq4(false);
    ioapic_w(RTE4 + 1, 0x02000000);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 1); /* another one's bit */
    irq4(false);
    lapic_w(0xe0, 0x0fffffff); /* clusters */
    lapic_w(0xd0, 0x12000000);
    ioapic_w(RTE4 + 1, 0x13000000);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 2);
    irq4(false);
    ioapic_w(RTE4 + 1, 0x23000000);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 2);
    irq4(false);
    lapic_w(0xe0, 0xffffffff);
    ioapic_w(RTE4 + 1, 0x12000000);
    ioapic_w(RTE4, 0x946); /* lowest priority */
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 3);
    irq4(false);
    ioapic_w(RTE4 + 1, 0xff000000); /* physical broadcast */
    ioapic_w(RTE4, 0x46);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 4);
    irq4(false);
    ioapic_w(RTE4 + 1, 0x0e000000);
    irq4(true);
    window();
    CHECK_EQ(seen[0x46], 4); /* nobody's */
    lapic_w(0xd0, ldr);
    ioapic_stop();
}

static bool nmi_hook(struct frame *f)
{
    if (f->vector != NMI)
        return irq_hook(f);
    seen[NMI]++;
    return true;
}

CASE(nmi_by_the_io_apic_and_by_lint0, "NMI by the I/O APIC and LINT0")
{
    ioapic_start(0, 0x400);
    trap_hook = nmi_hook;
    irq4(true);
    spin(100000);
    CHECK_EQ(seen[NMI], 1); /* IF is 0 */
    irq4(false);
    ioapic_w(RTE4, 0x10000);
    lapic_w(0x350, 0x400); /* the 8259A's output is an NMI */
    out8(0x21, 0xef);
    irq4(true);
    spin(100000);
    CHECK_EQ(seen[NMI], 2);
    lapic_w(0x350, 0x10000);
    ioapic_stop();
}

CASE(ioapic_eoi_register, "I/O APIC: EOI register")
{
    CHECK_EQ(ioapic_r(1) & 0xff, 0x20);
    if (!(lapic_r(0x30) & 1u << 24))
        return;
    ioapic_start(0, 0x8047);
    lapic_w(0xf0, 0x11ff); /* no EOI broadcast */
    irq4(true);
    window();
    CHECK_EQ(seen[0x47], 1);
    window();
    CHECK_EQ(seen[0x47], 1);
    CHECK_EQ(ioapic_r(RTE4) & 0x4000, 0x4000);
    irq4(false);
    *(volatile uint32_t *)(IOAPIC + 0x40) = 0x47;
    CHECK_EQ(ioapic_r(RTE4) & 0x4000, 0);
    lapic_w(0xf0, 0x1ff);
    ioapic_stop();
}

/* ---- local APIC ---- */

IRQ_CASE(ipi_shorthands, "IPI shorthands")
{
    lapic_w(0x310, 0xff000000);
    lapic_w(0x300, 0x80048); /* all with self */
    window();
    CHECK_EQ(seen[0x48], 1);
    lapic_w(0x300, 0xc0048); /* all but self: nobody */
    window();
    CHECK_EQ(seen[0x48], 1);
    lapic_w(0x300, 0x00048); /* the broadcast destination */
    window();
    CHECK_EQ(seen[0x48], 2);
    lapic_w(0x310, 0x07000000);
    lapic_w(0x300, 0x00048); /* nobody's id */
    window();
    CHECK_EQ(seen[0x48], 2);
    lapic_w(0x310, 0);
    lapic_w(0x300, 0x00048);
    lapic_w(0x300, 0x00048); /* merges with the one in IRR */
    window();
    CHECK_EQ(seen[0x48], 3);
}

IRQ_CASE(error_status, "APIC error status")
{
    lapic_w(0x370, 0x58);
    lapic_w(0x280, 0);
    lapic_w(0x280, 0);
    CHECK_EQ(lapic_r(0x280), 0);
    lapic_w(0x300, 0x40005);     /* an illegal vector */
    CHECK_EQ(lapic_r(0x280), 0); /* shows after a write */
    lapic_w(0x280, 0);
    CHECK_EQ(lapic_r(0x280) & 0x20, 0x20);
    window();
    CHECK_EQ(seen[0x58], 1);
    lapic_w(0x280, 0);
    CHECK_EQ(lapic_r(0x280), 0);
    lapic_r(0x3f0); /* a reserved register */
    lapic_w(0x280, 0);
    CHECK_EQ(lapic_r(0x280) & 0x80, 0x80);
    lapic_w(0x280, 0);
    lapic_w(0x370, 0x10000);
    window();
}

static bool nest_hook(struct frame *f)
{
    if (f->vector < 0x20)
        return false;
    seen[f->vector]++;
    order[norder++ & 15] = (unsigned)f->vector;
    __asm__ volatile("sti; nop; nop; cli");
    lapic_w(0xb0, 0);
    order[norder++ & 15] = (unsigned)f->vector | 0x100;
    return true;
}

IRQ_CASE(handlers_nest_by_class, "handlers nest by class")
{
    trap_hook = nest_hook;
    lapic_w(0x80, 0x50);
    lapic_w(0x300, 0x40061);
    lapic_w(0x300, 0x40041);
    lapic_w(0x300, 0x40068);
    lapic_w(0x300, 0x40091);
    window();
    CHECK_EQ(norder, 6);
    CHECK_EQ(order[0], 0x91);
    CHECK_EQ(order[1], 0x191);
    CHECK_EQ(order[2], 0x68);
    CHECK_EQ(order[3], 0x168); /* 61h is of the same class: it does not nest */
    CHECK_EQ(order[4], 0x61);
    lapic_w(0x80, 0);
    window();
    CHECK_EQ(seen[0x41], 1);
}

IRQ_CASE(disabled_by_software, "APIC disabled by software")
{
    lapic_w(0x320, 0x59);
    lapic_w(0xf0, 0xff);
    CHECK_EQ(lapic_r(0x320) & 0x10000, 0x10000); /* every LVT masks itself */
    lapic_w(0x320, 0x59);
    CHECK_EQ(lapic_r(0x320) & 0x10000, 0x10000); /* and stays so */
    lapic_w(0x300, 0x40049);
    window();
    CHECK_EQ(seen[0x49], 0);
    lapic_w(0xf0, 0x1ef);
    CHECK_EQ(lapic_r(0xf0) & 0x1ff, 0x1ef);
    lapic_w(0x320, 0x10000);
}

/* ---- an interrupt in the middle of a repeated instruction ---- */

static uintptr_t rep_ip, rep_flags, rep_cx;
static bool rep_hook(struct frame *f)
{
    if (f->vector == 0x5a && !rep_ip) {
        rep_ip = f->ip;
        rep_flags = f->flags;
        rep_cx = f->cx;
    }
    return irq_hook(f);
}

CASE(repeated_string_is_interrupted_and_goes_on, "interrupt within REP")
{
    extern char rep_here[];

    start();
    trap_hook = rep_hook;
    lapic_w(0x3e0, 0xb);
    lapic_w(0x320, 0x5a);
    /* The host's timer may be late, and the string is read soon: until one comes in its midst. */
    for (int tries = 0; tries < 2000; tries++) {
        uint64_t count = 0x800000, di = 0x2000000;

        rep_ip = 0;
        lapic_w(0x380, 2000 + tries % 16 * 1000);
        /* The shadow of STI covers the first element. */
        __asm__ volatile("sti; .globl rep_here; rep_here: rep lodsb; cli"
                         : "+c"(count), "+S"(di)
                         :
                         : "rax", "memory");
        lapic_w(0x380, 0);
        CHECK_EQ(count, 0);
        CHECK_EQ(di, 0x2800000);
        if (rep_ip == (uintptr_t)rep_here && rep_cx < 0x800000)
            break;
        seen[0x5a] = 0;
    }
    lapic_w(0x320, 0x10000);
    stop();
    CHECK(seen[0x5a] > 0); /* one of the try before may have come too */
    CHECK_EQ(rep_ip, (uintptr_t)rep_here);
    CHECK(rep_cx > 0 && rep_cx < 0x800000);
    CHECK_EQ(rep_flags & FLAG_RF, FLAG_RF);
}
