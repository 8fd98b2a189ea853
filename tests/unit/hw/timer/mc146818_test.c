/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/timer/mc146818.h"

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

enum {
    SECONDS = 0,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    A,
    B,
    C,
    D,
    CENTURY = 0x32,
};

#define SET      0x80
#define PIE      0x40
#define AIE      0x20
#define UIE      0x10
#define BINARY   0x04
#define H24      0x02
#define UIP      0x80
#define IRQF     0x80
#define PF       0x40
#define AF       0x20
#define UF       0x10
#define DV_RESET 0x70
#define DV_RUN   0x20

struct fixture {
    struct testvm *tv;
    struct device *rtc;
    struct testvm_irq irq;
};

static uint8_t rd(struct fixture *f, uint8_t reg)
{
    testvm_outb(f->tv, 0x70, reg);
    return testvm_inb(f->tv, 0x71);
}

static void wr(struct fixture *f, uint8_t reg, uint8_t val)
{
    testvm_outb(f->tv, 0x70, reg);
    testvm_outb(f->tv, 0x71, val);
}

static struct device *add(struct testvm *tv, struct testvm_irq *irq, uint64_t below, uint64_t above)
{
    struct mc146818_config config = {.ram_below = below, .ram_above = above, .ncpus = 4};

    testvm_irq_init(tv, irq, 8);
    config.irq = testvm_irq_source(irq);
    return testvm_add(tv, &mc146818_type, &config);
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->rtc = add(f->tv, &f->irq, 512 * MIB, 0);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

/* yyyymmdd and hhmmss as the registers show them, in whatever format is set. */
static uint32_t date(struct fixture *f)
{
    return (uint32_t)(rd(f, CENTURY) << 24 | rd(f, YEAR) << 16 | rd(f, MONTH) << 8 | rd(f, DAY));
}

static uint32_t time_of_day(struct fixture *f)
{
    return (uint32_t)(rd(f, HOURS) << 16 | rd(f, MINUTES) << 8 | rd(f, SECONDS));
}

/* Sets date and time (BCD) the way the data sheet asks for. */
static void set(struct fixture *f, uint32_t d, uint32_t t)
{
    uint8_t b = rd(f, B);

    wr(f, B, b | SET);
    wr(f, CENTURY, (uint8_t)(d >> 24));
    wr(f, YEAR, (uint8_t)(d >> 16));
    wr(f, MONTH, (uint8_t)(d >> 8));
    wr(f, DAY, (uint8_t)d);
    wr(f, HOURS, (uint8_t)(t >> 16));
    wr(f, MINUTES, (uint8_t)(t >> 8));
    wr(f, SECONDS, (uint8_t)t);
    wr(f, B, b);
}

TEST_F(starts_with_the_wall_clock)
{
    assert_int_equal(date(f), 0x20240228);
    assert_int_equal(time_of_day(f), 0x235950);
    assert_int_equal(rd(f, WEEKDAY), 4); /* Wednesday */
    assert_int_equal(rd(f, D), 0x80);
}

TEST_F(leap_day_and_month_ends_come_out_right)
{
    testvm_advance(f->tv, 10 * NS_PER_SEC);
    assert_int_equal(date(f), 0x20240229);
    assert_int_equal(time_of_day(f), 0x000000);
    assert_int_equal(rd(f, WEEKDAY), 5);
    testvm_advance(f->tv, 86400 * NS_PER_SEC);
    assert_int_equal(date(f), 0x20240301);
    set(f, 0x19991231, 0x235959);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_int_equal(date(f), 0x20000101);
    set(f, 0x21000228, 0x235959); /* 2100 is no leap year */
    testvm_advance(f->tv, NS_PER_SEC);
    assert_int_equal(date(f), 0x21000301);
    set(f, 0x00000101, 0x000000);
    assert_int_equal(date(f), 0x00000101);
    set(f, 0x99991231, 0x235959);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_int_equal(date(f), 0x00000101);
}

TEST_F(binary_mode_shows_plain_numbers)
{
    wr(f, B, H24 | BINARY);
    assert_int_equal(rd(f, HOURS), 23);
    assert_int_equal(rd(f, MINUTES), 59);
    assert_int_equal(rd(f, YEAR), 24);
    assert_int_equal(rd(f, CENTURY), 20);
    wr(f, B, H24 | BINARY | SET);
    wr(f, HOURS, 13);
    wr(f, B, H24 | BINARY);
    assert_int_equal(rd(f, HOURS), 13);
}

TEST_F(twelve_hour_mode_has_its_pm_bit)
{
    wr(f, B, 0);
    assert_int_equal(rd(f, HOURS), 0x91); /* 11 pm */
    testvm_advance(f->tv, 10 * NS_PER_SEC);
    assert_int_equal(rd(f, HOURS), 0x12); /* midnight is 12 am */
    testvm_advance(f->tv, 12 * 3600 * NS_PER_SEC);
    assert_int_equal(rd(f, HOURS), 0x92); /* noon is 12 pm */
    wr(f, HOURS, 0x81);
    wr(f, B, H24);
    assert_int_equal(rd(f, HOURS), 0x13);
}

TEST_F(set_time_runs_on_and_keeps_its_offset)
{
    set(f, 0x19870605, 0x010203);
    assert_int_equal(date(f), 0x19870605);
    testvm_advance(f->tv, 3600 * NS_PER_SEC);
    assert_int_equal(time_of_day(f), 0x020203);
    TESTVM_LOCKED(f->tv, device_reset(f->rtc, RESET_WARM));
    assert_int_equal(date(f), 0x19870605);
    assert_int_equal(time_of_day(f), 0x020203);
}

TEST_F(set_bit_freezes_the_registers)
{
    wr(f, B, H24 | SET | UIE);
    assert_int_equal(rd(f, B), H24 | SET); /* SET clears UIE */
    wr(f, SECONDS, 0x77);
    testvm_advance(f->tv, 5 * NS_PER_SEC);
    assert_int_equal(rd(f, SECONDS), 0x77);
    assert_int_equal(rd(f, MINUTES), 0x59);
    assert_int_equal(rd(f, A) & UIP, 0);
}

TEST_F(divider_reset_starts_the_second_half_a_second_later)
{
    testvm_advance(f->tv, 300 * NS_PER_MS);
    wr(f, A, DV_RESET | 6);
    set(f, 0x20200101, 0x000000);
    testvm_advance(f->tv, 700 * NS_PER_MS);
    wr(f, A, DV_RUN | 6);
    testvm_advance(f->tv, 499 * NS_PER_MS);
    assert_int_equal(rd(f, SECONDS), 0x00);
    testvm_advance(f->tv, 2 * NS_PER_MS);
    assert_int_equal(rd(f, SECONDS), 0x01);
}

TEST_F(time_register_written_while_running_sets_the_time)
{
    wr(f, MINUTES, 0x30);
    assert_int_equal(time_of_day(f), 0x233050);
    wr(f, WEEKDAY, 0x01);
    assert_int_equal(rd(f, WEEKDAY), 1);
    testvm_advance(f->tv, 86400 * NS_PER_SEC);
    assert_int_equal(rd(f, WEEKDAY), 2);
}

TEST_F(nonsense_in_the_registers_is_some_valid_time)
{
    set(f, 0xffffffff, 0xffffff);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_in_range(rd(f, MONTH), 0x01, 0x12);
    assert_in_range(rd(f, DAY), 0x01, 0x31);
    assert_in_range(rd(f, SECONDS), 0x00, 0x59);
}

TEST_F(uip_warns_before_each_update)
{
    testvm_advance(f->tv, 900 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, 0);
    testvm_advance(f->tv, 98 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, UIP);
    testvm_advance(f->tv, 2 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, 0);
    assert_int_equal(rd(f, SECONDS), 0x51);
}

TEST_F(update_interrupt_comes_once_a_second)
{
    rd(f, C);
    wr(f, B, H24 | UIE);
    testvm_advance(f->tv, 999 * NS_PER_MS);
    assert_false(f->irq.level);
    testvm_advance(f->tv, NS_PER_MS);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, C) & (IRQF | UF), IRQF | UF);
    assert_false(f->irq.level);
    assert_int_equal(rd(f, C), 0);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_true(f->irq.level);
}

TEST_F(update_flag_can_be_polled)
{
    rd(f, C);
    testvm_advance(f->tv, 999 * NS_PER_MS);
    assert_int_equal(rd(f, C) & UF, 0);
    testvm_advance(f->tv, NS_PER_MS);
    assert_int_equal(rd(f, C) & (UF | IRQF), UF);
}

TEST_F(alarm_strikes_at_its_time)
{
    wr(f, HOURS_ALARM, 0x00);
    wr(f, MINUTES_ALARM, 0x01);
    wr(f, SECONDS_ALARM, 0x30);
    wr(f, B, H24 | AIE);
    testvm_advance(f->tv, 99 * NS_PER_SEC);
    assert_false(f->irq.level);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_true(f->irq.level);
    assert_int_equal(rd(f, C) & (AF | IRQF), AF | IRQF);
    f->irq.rises = 0;
    testvm_advance(f->tv, 86400 * NS_PER_SEC - 1);
    assert_int_equal(f->irq.rises, 0);
    testvm_advance(f->tv, 1);
    assert_int_equal(f->irq.rises, 1);
}

TEST_F(alarm_bytes_can_be_wildcards)
{
    wr(f, HOURS_ALARM, 0xc0);
    wr(f, MINUTES_ALARM, 0xff);
    wr(f, SECONDS_ALARM, 0x55);
    wr(f, B, H24 | AIE);
    testvm_advance(f->tv, 5 * NS_PER_SEC);
    assert_true(f->irq.level);
    rd(f, C);
    testvm_advance(f->tv, 60 * NS_PER_SEC);
    assert_int_equal(rd(f, C) & AF, AF);
    wr(f, SECONDS_ALARM, 0xc0);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_int_equal(rd(f, C) & AF, AF);
}

TEST_F(impossible_alarm_never_strikes)
{
    wr(f, HOURS_ALARM, 0xc0);
    wr(f, MINUTES_ALARM, 0x75);
    wr(f, SECONDS_ALARM, 0x00);
    wr(f, B, H24 | AIE);
    testvm_advance(f->tv, 2 * 86400 * NS_PER_SEC);
    assert_int_equal(f->irq.rises, 0);
}

/* Data sheet, table 5: rate select and periodic interrupt rate. */
TEST_F(periodic_rates_are_those_of_the_table)
{
    static const struct {
        uint8_t rs;
        unsigned hz;
    } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {10, 64}, {14, 4}, {15, 2}};

    wr(f, B, H24);
    for (unsigned i = 0; i < ARRAY_LEN(rates); i++) {
        unsigned flags = 0;

        wr(f, A, DV_RUN | rates[i].rs);
        rd(f, C);
        for (unsigned n = 0; n < 20000; n++) {
            testvm_advance(f->tv, 50 * NS_PER_US);
            flags += (rd(f, C) & PF) != 0;
        }
        assert_in_range(flags, rates[i].hz - 1, rates[i].hz + 1);
    }
    wr(f, A, DV_RUN);
    rd(f, C);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_int_equal(rd(f, C) & PF, 0);
}

TEST_F(periodic_interrupt_needs_register_c_to_be_read)
{
    rd(f, C);
    wr(f, B, H24 | PIE);
    testvm_advance(f->tv, 1 * NS_PER_MS);
    assert_int_equal(f->irq.rises, 1);
    assert_int_equal(rd(f, C) & (PF | IRQF), PF | IRQF);
    assert_false(f->irq.level);
    testvm_advance(f->tv, 1 * NS_PER_MS);
    assert_int_equal(f->irq.rises, 2);
}

TEST_F(missed_periodic_interrupts_are_repaid)
{
    unsigned seen = 0;

    rd(f, C);
    wr(f, B, H24 | PIE);
    testvm_advance(f->tv, 100 * NS_PER_MS); /* 102 ticks that nobody fetches */
    for (unsigned i = 0; i < 2000; i++) {
        seen += f->irq.level && (rd(f, C) & PF);
        testvm_advance(f->tv, 100 * NS_PER_US);
    }
    assert_in_range(seen, 102 + 204 - 2, 102 + 204 + 2);
    wr(f, B, H24);
    wr(f, B, H24 | PIE);
    testvm_advance(f->tv, 3600 * NS_PER_SEC);
    seen = 0;
    for (unsigned i = 0; i < 100 * 1000; i++) {
        seen += f->irq.level && (rd(f, C) & PF);
        testvm_advance(f->tv, 100 * NS_PER_US);
    }
    assert_in_range(seen, 10240 + 1000, 10240 + 1026);
}

TEST_F(cmos_ram_keeps_bytes_in_both_banks)
{
    wr(f, 0x0f, 0x5a);
    testvm_outb(f->tv, 0x72, 0x0f);
    testvm_outb(f->tv, 0x73, 0xa5);
    assert_int_equal(rd(f, 0x0f), 0x5a);
    assert_int_equal(testvm_inb(f->tv, 0x72), 0x0f);
    assert_int_equal(testvm_inb(f->tv, 0x73), 0xa5);
    assert_int_equal(testvm_inb(f->tv, 0x70), 0xff);
    wr(f, C, 0xff);
    wr(f, D, 0x00);
    assert_int_equal(rd(f, D), 0x80);
}

TEST_F(index_bit_7_masks_nmi)
{
    assert_false(mc146818_nmi_masked(f->rtc));
    assert_int_equal(rd(f, 0x80 | D), 0x80);
    assert_true(mc146818_nmi_masked(f->rtc));
    rd(f, D);
    assert_false(mc146818_nmi_masked(f->rtc));
}

static unsigned rd16(struct fixture *f, uint8_t reg)
{
    return rd(f, reg) | (unsigned)rd(f, reg + 1) << 8;
}

TEST_F(memory_sizes_stand_where_firmware_looks)
{
    assert_int_equal(rd16(f, 0x15), 640);
    assert_int_equal(rd16(f, 0x17), 0xffff);
    assert_int_equal(rd16(f, 0x30), 0xffff);
    assert_int_equal(rd16(f, 0x34), (512 - 16) * 16);
    assert_int_equal(rd(f, 0x5b) | rd(f, 0x5c) << 8 | rd(f, 0x5d) << 16, 0);
    assert_int_equal(rd(f, 0x5f), 3);
}

TEST_F(memory_sizes_of_small_and_large_machines)
{
    struct testvm *tv = testvm_new();
    struct fixture small = {.tv = tv};

    small.rtc = add(tv, &small.irq, 8 * MIB, 5 * GIB);
    assert_int_equal(rd16(&small, 0x17), 7 * 1024);
    assert_int_equal(rd16(&small, 0x34), 0);
    assert_int_equal(rd(&small, 0x5b) | rd(&small, 0x5c) << 8 | rd(&small, 0x5d) << 16,
                     5 * 1024 * 16);
    testvm_free(tv);
    tv = small.tv = testvm_new();
    small.rtc = add(tv, &small.irq, 1 * MIB, 0);
    assert_int_equal(rd16(&small, 0x17), 0);
    testvm_free(tv);
}

TEST_F(checksum_covers_10h_to_2dh)
{
    unsigned sum = 0;

    for (uint8_t i = 0x10; i <= 0x2d; i++)
        sum += rd(f, i);
    assert_int_equal(rd(f, 0x2e) << 8 | rd(f, 0x2f), sum);
}

TEST_F(state_survives)
{
    set(f, 0x19870605, 0x010203);
    wr(f, B, H24 | PIE | UIE | AIE);
    wr(f, 0x40, 0x77);
    testvm_advance(f->tv, 1234567891);
    testvm_state_roundtrip(f->rtc);
    assert_int_equal(rd(f, 0x40), 0x77);
    assert_int_equal(time_of_day(f), 0x010204);
    wr(f, B, H24 | SET);
    testvm_state_roundtrip(f->rtc);
}

TEST_F(state_moves_to_another_vm)
{
    struct testvm *other = testvm_new();
    struct fixture g = {.tv = other};

    g.rtc = add(other, &g.irq, 0, 0);
    set(f, 0x19870605, 0x010203);
    testvm_transfer(f->rtc, g.rtc);
    assert_int_equal(date(&g), 0x19870605);
    assert_int_equal(rd16(&g, 0x34), (512 - 16) * 16);
    testvm_free(other);
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->rtc, "offset_s", 0, 1ull << 50));
    assert_false(testvm_load_with(f->rtc, "offset_ns", 0, 1ull << 40));
    assert_false(testvm_load_with(f->rtc, "weekday_shift", 0, 7));
    assert_true(testvm_load_with(f->rtc, "chain_base", 0, 1ull << 50));
    assert_true(testvm_load_with(f->rtc, "offset_s", 0, 1ull << 40));
    assert_true(testvm_load_with(f->rtc, "offset_s", 0, 0ull - (1ull << 40)));
    rd(f, SECONDS);
}
