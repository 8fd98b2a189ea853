/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks: every mode of the 8254, the RTC's three interrupts, the local APIC timer, TSC, PM timer.
 * 8254 data sheet 231164, MC146818 data sheet, SDM vol. 3A ch. 10 and 17, ACPI 4.8.3.3. No bound is
 * on how late anything is: the machine below may be busy.
 */
#include "rt/irq.h"

#define STATUS_OUT  0x80
#define STATUS_NULL 0x40

static void gate(bool on)
{
    out8(0x61, (uint8_t)((in8(0x61) & 0xc) | on));
}

/* The status of counter n by read-back. */
static uint8_t status(unsigned n)
{
    out8(0x43, (uint8_t)(0xe0 | 2 << n));
    return in8((uint16_t)(0x40 + n));
}

static uint16_t count(unsigned n)
{
    uint8_t lo;

    out8(0x43, (uint8_t)(n << 6));
    lo = in8((uint16_t)(0x40 + n));
    return (uint16_t)(lo | in8((uint16_t)(0x40 + n)) << 8);
}

static void control(unsigned n, unsigned mode, bool bcd)
{
    out8(0x43, (uint8_t)(n << 6 | 0x30 | mode << 1 | bcd));
}

static void load(unsigned n, uint16_t v)
{
    out8((uint16_t)(0x40 + n), (uint8_t)v);
    out8((uint16_t)(0x40 + n), (uint8_t)(v >> 8));
}

static bool out2(void)
{
    return in8(0x61) & 0x20;
}

/* Until counter 2's OUT is `high`, or a second is over. */
static bool wait_out2(bool high)
{
    uint64_t t = rdtsc();

    while (rdtsc() - t < SPIN * 60)
        if (out2() == high)
            return true;
    return false;
}

CASE(control_word_sets_out_and_null, "8254: control word")
{
    static const uint8_t as_written[] = {0, 1, 2, 3, 4, 5, 6, 7};

    gate(false);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned n = 0; n < 3; n += 2) {
            control(n, as_written[i], i & 1);
            CHECK_EQ(status(n), (i ? STATUS_OUT : 0) | STATUS_NULL | 0x30 | i << 1 | (i & 1));
        }
    control(0, 0, false);
}

CASE(mode_0_counts_down_and_stays_high, "8254: mode 0")
{
    uint16_t a, b;

    gate(true);
    control(2, 0, false);
    CHECK(!out2());
    load(2, 40000);
    CHECK(!out2());
    a = count(2);
    CHECK(a <= 40000);
    spin(100000);
    b = count(2);
    CHECK(b < a);
    load(2, 200);
    CHECK(wait_out2(true));
    spin(1000000);
    CHECK(out2());
    CHECK(count(2) > 200); /* it counts on from FFFFh */
    CHECK_EQ(status(2), STATUS_OUT | 0x30);
}

CASE(mode_0_gate_stops_the_count, "8254: mode 0, GATE")
{
    uint16_t a;

    gate(true);
    control(2, 0, false);
    load(2, 60000);
    gate(false);
    a = count(2);
    spin(1000000);
    CHECK_EQ(count(2), a);
    CHECK(!out2());
    gate(true);
    spin(1000000);
    CHECK(count(2) < a);
}

CASE(mode_0_first_byte_stops_the_count, "8254: mode 0, first byte")
{
    gate(true);
    control(2, 0, false);
    load(2, 100);
    CHECK(wait_out2(true));
    out8(0x42, 0x00);
    CHECK(!out2());
    spin(3000000);
    CHECK(!out2());
    out8(0x42, 0x01);
    CHECK(wait_out2(true));
}

CASE(mode_1_waits_for_its_gate, "8254: mode 1")
{
    gate(false);
    control(2, 1, false);
    CHECK(out2());
    load(2, 60000);
    CHECK_EQ(status(2) & STATUS_NULL, STATUS_NULL);
    spin(1000000);
    CHECK(out2());
    gate(true);
    CHECK(wait_out2(false));
    spin(100000);
    CHECK_EQ(status(2), 0x32);
    gate(false);  /* the level does not count */
    load(2, 300); /* nor a new count, until the next trigger */
    CHECK(count(2) > 300);
    CHECK(!out2());
    gate(true);
    CHECK(wait_out2(true));
    CHECK(count(2) != 0);
}

CASE(mode_2_reloads, "8254: mode 2")
{
    uint16_t lowest = 0xffff, highest = 0;

    gate(true);
    control(2, 2, false);
    CHECK(out2());
    load(2, 50);
    spin(100000);
    for (unsigned i = 0; i < 2000; i++) {
        uint16_t v = count(2);

        lowest = v < lowest ? v : lowest;
        highest = v > highest ? v : highest;
    }
    CHECK(lowest >= 1 && lowest < 20);
    CHECK(highest <= 50 && highest > 30);
    gate(false);
    CHECK(out2());
    lowest = count(2);
    spin(300000);
    CHECK_EQ(count(2), lowest);
    CHECK(out2());
}

CASE(mode_2_takes_a_new_count_at_the_end_of_the_period, "8254: mode 2, new count")
{
    uint64_t t;

    gate(true);
    control(2, 2, false);
    load(2, 0); /* 65536: 55 ms */
    spin(100000);
    CHECK_EQ(status(2) & STATUS_NULL, 0);
    load(2, 100);
    CHECK_EQ(status(2) & STATUS_NULL, STATUS_NULL);
    CHECK(count(2) > 100);
    for (t = rdtsc(); (status(2) & STATUS_NULL) && rdtsc() - t < SPIN * 60;)
        ;
    CHECK_EQ(status(2) & STATUS_NULL, 0);
    CHECK(count(2) <= 100);
    /* A trigger loads it at once. */
    load(2, 0);
    spin(1000000);
    load(2, 40);
    gate(false);
    gate(true);
    spin(100000);
    CHECK(count(2) <= 40);
}

CASE(mode_3_is_a_square_wave, "8254: mode 3")
{
    gate(true);
    control(2, 3, false);
    CHECK(out2());
    load(2, 9000);
    for (unsigned i = 0; i < 4; i++) {
        CHECK(wait_out2(false));
        CHECK(wait_out2(true));
    }
    for (unsigned i = 0; i < 200; i++) {
        uint16_t v = count(2);

        CHECK_EQ(v & 1, 0);
        CHECK(v <= 9000);
    }
    CHECK(wait_out2(false));
    gate(false);
    CHECK(out2()); /* high at once */
    control(2, 3, false);
    gate(true);
    load(2, 9001); /* odd: loaded less one */
    spin(100000);
    for (unsigned i = 0; i < 200; i++)
        CHECK_EQ(count(2) & 1, 0);
}

CASE(mode_4_strobes_once, "8254: mode 4")
{
    uint16_t a;

    gate(true);
    control(2, 4, false);
    CHECK(out2());
    load(2, 60000);
    spin(100000);
    CHECK(out2());
    a = count(2);
    CHECK(a < 60000);
    gate(false);
    a = count(2);
    spin(300000);
    CHECK_EQ(count(2), a);
    gate(true);
    load(2, 100); /* a new count is loaded by the next pulse */
    spin(3000000);
    CHECK(out2());
    CHECK(count(2) > 100); /* no reload */
}

CASE(mode_5_is_triggered, "8254: mode 5")
{
    gate(false);
    control(2, 5, false);
    load(2, 50000);
    CHECK_EQ(status(2), STATUS_OUT | STATUS_NULL | 0x3a);
    gate(true);
    spin(100000);
    CHECK_EQ(status(2), STATUS_OUT | 0x3a);
    CHECK(count(2) <= 50000);
    spin(1000000);
    gate(false);
    gate(true); /* again, from the start */
    CHECK(count(2) > 30000);
    CHECK(out2());
}

CASE(bcd_counts_in_decimal, "8254: BCD")
{
    uint16_t v;

    gate(true);
    control(2, 2, true);
    load(2, 0x9999);
    for (unsigned i = 0; i < 500; i++) {
        v = count(2);
        for (unsigned d = 0; d < 16; d += 4)
            CHECK((v >> d & 15) <= 9);
    }
    control(2, 0, true);
    load(2, 0x0010);
    CHECK(wait_out2(true));
    v = count(2);
    CHECK(v > 0x10 && (v >> 12) <= 9); /* on from 9999 */
    gate(false);
    control(2, 0, true);
    load(2, 0); /* 10000 */
    CHECK_EQ(count(2), 0);
}

CASE(latches, "8254: latches and read-back")
{
    uint8_t lo, hi;

    gate(true);
    control(2, 2, false);
    load(2, 0xf000);
    /* A latched count holds, whatever is latched on top. */
    out8(0x43, 0x80);
    spin(3000000);
    out8(0x43, 0x80);
    lo = in8(0x42);
    hi = in8(0x42);
    CHECK((uint16_t)(hi << 8 | lo) > 0xe000);
    /* Both by read-back: the status comes first. */
    out8(0x43, 0xc8);
    CHECK_EQ(in8(0x42) & 0x3f, 0x34);
    lo = in8(0x42);
    hi = in8(0x42);
    CHECK((uint16_t)(hi << 8 | lo) <= 0xf000);
    /* Of several counters at once. */
    control(0, 2, false);
    load(0, 0x1000);
    out8(0x43, 0xca);
    CHECK_EQ(in8(0x40) & 0x3f, 0x34);
    CHECK_EQ(in8(0x42) & 0x3f, 0x34);
    lo = in8(0x40);
    hi = in8(0x40);
    CHECK((uint16_t)(hi << 8 | lo) <= 0x1000);
    in8(0x42);
    in8(0x42);
    control(0, 0, false);
}

CASE(single_byte_counts, "8254: single bytes")
{
    gate(false);
    out8(0x43, 0x90); /* LSB, mode 0 */
    out8(0x42, 0x55);
    out8(0x43, 0x80);
    CHECK_EQ(in8(0x42), 0x55);
    CHECK_EQ(in8(0x42), 0x55);
    out8(0x43, 0xa0); /* MSB */
    out8(0x42, 0x12);
    CHECK_EQ(in8(0x42), 0x12);
    CHECK_EQ(status(2) & 0x3f, 0x20);
    out8(0x43, 0xb0);
    load(2, 0x3456);
    CHECK_EQ(count(2), 0x3456);
    gate(true);
    out8(0x43, 0x90);
    out8(0x42, 100); /* 100, not x64h with an old upper byte */
    CHECK(wait_out2(true));
}

CASE(irq_0_in_every_mode, "8254: IRQ 0 in every mode")
{
    static const uint8_t want[] = {1, 0, 2, 2,
                                   1, 0, 2, 2}; /* 1 and 5 need a trigger, which GATE 0 has not */

    for (unsigned mode = 0; mode < 8; mode++) {
        start();
        control(0, mode, false);
        load(0, 2000);
        out8(0x21, 0xfe);
        /* Switching modes may leave an edge behind; it is taken before the count begins. */
        window();
        control(0, mode, false);
        window();
        seen[0x20] = 0;
        load(0, 2000);
        for (unsigned i = 0; i < want[mode]; i++)
            CHECK(wait_for(0x20));
        __asm__ volatile("sti");
        spin(20000000);
        __asm__ volatile("cli");
        if (want[mode] < 2)
            CHECK_EQ(seen[0x20], want[mode]);
        out8(0x21, 0xff);
        control(0, 0, false);
        stop();
    }
}

CASE(refresh_toggles, "port 61h: refresh")
{
    uint64_t t = rdtsc();
    unsigned edges = 0;
    uint8_t last = in8(0x61) & 0x10;

    while (edges < 20 && rdtsc() - t < SPIN * 20) {
        uint8_t now = in8(0x61) & 0x10;

        edges += now != last;
        last = now;
    }
    CHECK_EQ(edges, 20);
}

/* ---- RTC ---- */

static void rtc_start(uint8_t enables)
{
    start();
    cmos_w(0x0a, 0x26);
    cmos_r(0x0c);
    cmos_w(0x0b, (uint8_t)(0x02 | enables));
    out8(0x21, 0xfb);
    out8(0xa1, 0xfe);
}

static void rtc_stop(void)
{
    cmos_w(0x0b, 0x02);
    cmos_r(0x0c);
    stop();
}

CASE(rtc_update_ended, "RTC: update ended")
{
    rtc_start(0x10);
    CHECK(wait_for(0x28));
    CHECK_EQ(cmos_r(0x0c) & 0x90, 0x90);
    CHECK_EQ(cmos_r(0x0c) & 0x90, 0); /* reading clears; PF may be back */
    CHECK_EQ(cmos_r(0x0a) & 0x80, 0);
    rtc_stop();
}

CASE(rtc_alarm_every_second, "RTC: alarm, any")
{
    rtc_start(0);
    cmos_w(1, 0xff);
    cmos_w(3, 0xff);
    cmos_w(5, 0xff);
    cmos_r(0x0c);
    cmos_w(0x0b, 0x22);
    CHECK(wait_for(0x28));
    CHECK_EQ(cmos_r(0x0c) & 0xb0, 0xb0); /* UF as well, though not enabled */
    rtc_stop();
}

static uint8_t bcd_next(uint8_t v)
{
    return v == 0x59 ? 0 : (uint8_t)((v & 15) == 9 ? v + 7 : v + 1);
}

CASE(rtc_alarm_at_a_second, "RTC: alarm, a second")
{
    uint8_t at;

    rtc_start(0x10);
    CHECK(wait_for(0x28)); /* a second begins */
    cmos_r(0x0c);
    at = bcd_next(cmos_r(0));
    cmos_w(1, at);
    cmos_w(3, 0xc0);
    cmos_w(5, 0xff);
    cmos_w(0x0b, 0x22);
    CHECK(wait_for(0x28));
    CHECK_EQ(cmos_r(0x0c) & 0xa0, 0xa0);
    CHECK_EQ(cmos_r(0), at);
    rtc_stop();
}

CASE(rtc_periodic_rates, "RTC: periodic")
{
    static const uint8_t rates[] = {3, 6, 10, 15};

    for (unsigned i = 0; i < 4; i++) {
        rtc_start(0);
        cmos_w(0x0a, 0x20 | rates[i]);
        cmos_r(0x0c);
        cmos_w(0x0b, 0x42);
        for (unsigned n = 0; n < 2; n++) {
            CHECK(wait_for(0x28));
            CHECK_EQ(cmos_r(0x0c) & 0xc0, 0xc0);
        }
        rtc_stop();
    }
    /* No interrupt without a read of register C in between. */
    rtc_start(0x40);
    CHECK(wait_for(0x28));
    __asm__ volatile("sti");
    spin(20000000);
    __asm__ volatile("cli");
    CHECK_EQ(seen[0x28], 1);
    rtc_stop();
    /* Rate 0 is none. */
    rtc_start(0);
    cmos_w(0x0a, 0x20);
    cmos_r(0x0c);
    spin(10000000);
    CHECK_EQ(cmos_r(0x0c) & 0x40, 0);
    cmos_w(0x0a, 0x26);
    rtc_stop();
}

CASE(rtc_flags_without_enables, "RTC: flags without enables")
{
    uint64_t t;

    rtc_start(0);
    for (t = rdtsc(); rdtsc() - t < SPIN * 20;)
        if (cmos_r(0x0c) == 0x40) /* PF, and IRQF is not set */
            break;
    CHECK(rdtsc() - t < SPIN * 20);
    CHECK_EQ(seen[0x28], 0);
    rtc_stop();
}

CASE(rtc_set_stops_the_update, "RTC: SET and modes")
{
    uint8_t s;

    cmos_w(0x0b, 0x82);
    s = cmos_r(0);
    cmos_w(0, 0x12);
    cmos_r(0x0c);
    spin(SPIN * 60); /* over a second */
    CHECK_EQ(cmos_r(0), 0x12);
    CHECK_EQ(cmos_r(0x0c) & 0x10, 0);
    cmos_w(0, s);
    cmos_w(0x0b, 0x02);
    /* Binary data mode, and 12 hours. */
    cmos_w(0x0b, 0x86);
    cmos_w(4, 23);
    CHECK_EQ(cmos_r(4), 23);
    cmos_w(0x0b, 0x02);
    CHECK_EQ(cmos_r(0x0d) & 0x80, 0x80);
}

CASE(rtc_memory, "RTC: memory")
{
    uint8_t old = cmos_r(0x70);

    cmos_w(0x70, 0x5a);
    CHECK_EQ(cmos_r(0x70), 0x5a);
    CHECK_EQ(cmos_r(0xf0), 0x5a); /* bit 7 of port 70h masks NMI, and is no address */
    cmos_w(0x70, old);
}

/* ---- local APIC timer ---- */

/* Ticks of the timer at this divide value during `tsc` ticks; of many runs the one least held up. */
static uint32_t ticks_in(uint32_t divide, uint64_t tsc)
{
    uint64_t shortest = ~0ull;
    uint32_t best = 0;

    lapic_w(0x320, 0x10000);
    lapic_w(0x3e0, divide);
    for (unsigned i = 0; i < 500 && shortest > tsc * 9 / 8; i++) {
        uint64_t t = rdtsc();
        uint32_t a, b;

        lapic_w(0x380, 0xffffffff);
        a = lapic_r(0x390);
        spin(tsc);
        b = lapic_r(0x390);
        t = rdtsc() - t;
        best = t < shortest ? a - b : best;
        shortest = t < shortest ? t : shortest;
    }
    lapic_w(0x380, 0);
    return best;
}

IRQ_CASE(apic_timer_divides, "APIC timer: divide")
{
    static const uint8_t code[] = {0xb, 0, 1, 2, 3, 8, 9, 0xa};
    uint32_t one;

    one = ticks_in(0xb, 2000000);
    for (unsigned i = 0; i < 8; i++) {
        uint32_t n = ticks_in(code[i], 2000000);

        CHECK_EQ(lapic_r(0x3e0), code[i]);
        CHECK(n > (one >> i) * 3 / 4);
        CHECK(n < (one >> i) * 3 / 2 + 8);
    }
    lapic_w(0x3e0, 0xb);
}

IRQ_CASE(apic_timer_masked, "APIC timer: masked")
{
    lapic_w(0x320, 0x10052);
    lapic_w(0x380, 10000);
    spin(10000000);
    CHECK_EQ(lapic_r(0x390), 0);
    window();
    CHECK_EQ(seen[0x52], 0);
    lapic_w(0x320, 0x52); /* unmasked afterwards: that one is gone */
    window();
    CHECK_EQ(seen[0x52], 0);
    lapic_w(0x380, 10000);
    CHECK(wait_for(0x52));
    lapic_w(0x320, 0x10000);
}

IRQ_CASE(apic_timer_periodic_stops, "APIC timer: periodic stops")
{
    unsigned n;

    lapic_w(0x320, 0x20053);
    lapic_w(0x380, 300000);
    CHECK(wait_for(0x53));
    CHECK(wait_for(0x53));
    CHECK(lapic_r(0x390) <= 300000);
    lapic_w(0x380, 0);
    window();
    n = seen[0x53];
    __asm__ volatile("sti");
    spin(20000000);
    __asm__ volatile("cli");
    CHECK_EQ(seen[0x53], n);
    CHECK_EQ(lapic_r(0x390), 0);
    lapic_w(0x320, 0x10000);
}

IRQ_CASE(apic_timer_deadlines, "APIC timer: deadlines")
{
    lapic_w(0x320, 0x52);
    wrmsr(0x6e0, rdtsc() + 1000); /* not in this mode */
    CHECK_EQ(rdmsr(0x6e0), 0);
    lapic_w(0x320, 0x40054);
    lapic_w(0x380, 1000); /* without effect */
    CHECK_EQ(lapic_r(0x390), 0);
    wrmsr(0x6e0, 1); /* long past */
    CHECK(wait_for(0x54));
    CHECK_EQ(seen[0x54], 1);
    CHECK_EQ(rdmsr(0x6e0), 0);
    wrmsr(0x6e0, rdtsc() + 100000000);
    CHECK(rdmsr(0x6e0) != 0);
    wrmsr(0x6e0, 0);
    __asm__ volatile("sti");
    spin(120000000);
    __asm__ volatile("cli");
    CHECK_EQ(seen[0x54], 1);
    /* Another mode disarms. */
    wrmsr(0x6e0, rdtsc() + 100000000);
    lapic_w(0x320, 0x10054);
    CHECK_EQ(rdmsr(0x6e0), 0);
    lapic_w(0x320, 0x10000);
}

/* ---- TSC, PM timer ---- */

CASE(tsc_is_monotonic, "TSC: monotonic")
{
    uint64_t last = rdtsc(), v;

    for (unsigned i = 0; i < 100000; i++) {
        v = rdtsc();
        if (v < last)
            CHECK_EQ(v, last);
        last = v;
    }
    v = rdmsr(0x10);
    CHECK(v >= last);
}

CASE(tsc_is_written, "TSC: written")
{
    uint64_t before = rdtsc(), adjust = rdmsr(0x3b);

    wrmsr(0x10, before + (1ull << 40));
    CHECK(rdtsc() >= before + (1ull << 40));
    CHECK(rdmsr(0x3b) - adjust <= 1ull << 40);
    CHECK(rdmsr(0x3b) - adjust > 1ull << 39);
    wrmsr(0x3b, adjust);
    CHECK(rdtsc() < before + (1ull << 40));
    CHECK(rdtsc() >= before);
}

IRQ_CASE(deadline_moves_with_the_tsc, "APIC timer: deadlines follow the TSC")
{
    uint64_t adjust = rdmsr(0x3b), far = 1ull << 40;

    lapic_w(0x320, 0x40054);
    /* The jump is over it. */
    wrmsr(0x6e0, rdtsc() + far);
    wrmsr(0x3b, adjust + 2 * far);
    CHECK(wait_for(0x54));
    CHECK_EQ(rdmsr(0x6e0), 0);
    wrmsr(0x3b, adjust);
    /* The jump is to just before it. */
    wrmsr(0x6e0, rdtsc() + far);
    wrmsr(0x10, rdmsr(0x6e0) - 1000000);
    CHECK(wait_for(0x54));
    CHECK_EQ(seen[0x54], 2);
    wrmsr(0x3b, adjust);
    /* The jump is away from it. */
    wrmsr(0x6e0, rdtsc() + 100000000);
    wrmsr(0x3b, adjust - 2000000000);
    __asm__ volatile("sti");
    spin(120000000);
    __asm__ volatile("cli");
    CHECK_EQ(seen[0x54], 2);
    CHECK(rdmsr(0x6e0) != 0);
    wrmsr(0x6e0, 0);
    wrmsr(0x3b, adjust);
    lapic_w(0x320, 0x10000);
}

CASE(pm_timer_against_the_8254, "PM timer: rate")
{
    uint32_t a, b;

    gate(true);
    control(2, 0, false);
    a = in32(0x608);
    load(2, 59659); /* 50 ms */
    CHECK(wait_out2(true));
    b = in32(0x608);
    CHECK(((b - a) & 0xffffff) >= 59659u * 3 - 8);
    CHECK(((b - a) & 0xffffff) < 59659u * 60); /* one second, on the busiest of hosts */
}

CASE(pm_timer_carries_into_its_upper_byte, "PM timer: 32 bits")
{
    /* 32 bits, as FADT.TMR_VAL_EXT says: every 4.7 seconds the lower 24 wrap. */
    uint32_t last = in32(0x608), now = last;
    uint64_t t = rdtsc();

    while (now >> 24 == last >> 24 && rdtsc() - t < SPIN * 1000)
        now = in32(0x608);
    CHECK_EQ(now >> 24, (last >> 24) + 1);
    CHECK_EQ(in16(0x600) & 1, 0); /* TMROF_STS is for bit 31 then */
}

/* ---- HLT ---- */

CASE(halt_wakes_by_each, "HLT: every clock wakes")
{
    start();
    out8(0x21, 0xfe);
    control(0, 0, false);
    load(0, 3000);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x20], 1);
    stop();
    start();
    control(0, 2, false);
    load(0, 3000);
    out8(0x21, 0xfe);
    for (unsigned i = 0; i < 5; i++)
        __asm__ volatile("sti; hlt; cli");
    CHECK(seen[0x20] >= 5);
    control(0, 0, false);
    stop();
    rtc_start(0x40);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x28], 1);
    rtc_stop();
    start();
    lapic_w(0x320, 0x52);
    lapic_w(0x380, 1000000);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x52], 1);
    lapic_w(0x320, 0x40054);
    wrmsr(0x6e0, rdtsc() + 1000000);
    __asm__ volatile("sti; hlt; cli");
    CHECK_EQ(seen[0x54], 1);
    lapic_w(0x320, 0x20053);
    lapic_w(0x380, 1000000);
    for (unsigned i = 0; i < 5; i++)
        __asm__ volatile("sti; hlt; cli");
    CHECK(seen[0x53] >= 5);
    lapic_w(0x380, 0);
    lapic_w(0x320, 0x10000);
    stop();
}
