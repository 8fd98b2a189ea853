/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/timer/mc146818.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/lib/testvm.h"

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

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->rtc = add(f->tv, &f->irq, 512 * MIB, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testvm_free(f->tv);
    test_free(f);
    return 0;
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

static void starts_with_the_wall_clock(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(date(f), 0x20240228);
    assert_int_equal(time_of_day(f), 0x235950);
    assert_int_equal(rd(f, WEEKDAY), 4); /* Wednesday */
    assert_int_equal(rd(f, D), 0x80);
}

static void leap_day_and_month_ends_come_out_right(void **state)
{
    struct fixture *f = *state;

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

static void binary_mode_shows_plain_numbers(void **state)
{
    struct fixture *f = *state;

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

static void twelve_hour_mode_has_its_pm_bit(void **state)
{
    struct fixture *f = *state;

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

static void set_time_runs_on_and_keeps_its_offset(void **state)
{
    struct fixture *f = *state;

    set(f, 0x19870605, 0x010203);
    assert_int_equal(date(f), 0x19870605);
    testvm_advance(f->tv, 3600 * NS_PER_SEC);
    assert_int_equal(time_of_day(f), 0x020203);
    vm_lock(&f->tv->vm);
    device_reset(f->rtc, RESET_WARM);
    vm_unlock(&f->tv->vm);
    assert_int_equal(date(f), 0x19870605);
    assert_int_equal(time_of_day(f), 0x020203);
}

static void set_bit_freezes_the_registers(void **state)
{
    struct fixture *f = *state;

    wr(f, B, H24 | SET | UIE);
    assert_int_equal(rd(f, B), H24 | SET); /* SET clears UIE */
    wr(f, SECONDS, 0x77);
    testvm_advance(f->tv, 5 * NS_PER_SEC);
    assert_int_equal(rd(f, SECONDS), 0x77);
    assert_int_equal(rd(f, MINUTES), 0x59);
    assert_int_equal(rd(f, A) & UIP, 0);
}

static void divider_reset_starts_the_second_half_a_second_later(void **state)
{
    struct fixture *f = *state;

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

static void time_register_written_while_running_sets_the_time(void **state)
{
    struct fixture *f = *state;

    wr(f, MINUTES, 0x30);
    assert_int_equal(time_of_day(f), 0x233050);
    wr(f, WEEKDAY, 0x01);
    assert_int_equal(rd(f, WEEKDAY), 1);
    testvm_advance(f->tv, 86400 * NS_PER_SEC);
    assert_int_equal(rd(f, WEEKDAY), 2);
}

static void nonsense_in_the_registers_is_some_valid_time(void **state)
{
    struct fixture *f = *state;

    set(f, 0xffffffff, 0xffffff);
    testvm_advance(f->tv, NS_PER_SEC);
    assert_in_range(rd(f, MONTH), 0x01, 0x12);
    assert_in_range(rd(f, DAY), 0x01, 0x31);
    assert_in_range(rd(f, SECONDS), 0x00, 0x59);
}

static void uip_warns_before_each_update(void **state)
{
    struct fixture *f = *state;

    testvm_advance(f->tv, 900 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, 0);
    testvm_advance(f->tv, 98 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, UIP);
    testvm_advance(f->tv, 2 * NS_PER_MS);
    assert_int_equal(rd(f, A) & UIP, 0);
    assert_int_equal(rd(f, SECONDS), 0x51);
}

static void update_interrupt_comes_once_a_second(void **state)
{
    struct fixture *f = *state;

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

static void update_flag_can_be_polled(void **state)
{
    struct fixture *f = *state;

    rd(f, C);
    testvm_advance(f->tv, 999 * NS_PER_MS);
    assert_int_equal(rd(f, C) & UF, 0);
    testvm_advance(f->tv, NS_PER_MS);
    assert_int_equal(rd(f, C) & (UF | IRQF), UF);
}

static void alarm_strikes_at_its_time(void **state)
{
    struct fixture *f = *state;

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

static void alarm_bytes_can_be_wildcards(void **state)
{
    struct fixture *f = *state;

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

static void impossible_alarm_never_strikes(void **state)
{
    struct fixture *f = *state;

    wr(f, HOURS_ALARM, 0xc0);
    wr(f, MINUTES_ALARM, 0x75);
    wr(f, SECONDS_ALARM, 0x00);
    wr(f, B, H24 | AIE);
    testvm_advance(f->tv, 2 * 86400 * NS_PER_SEC);
    assert_int_equal(f->irq.rises, 0);
}

/* Data sheet, table 5: rate select and periodic interrupt rate. */
static void periodic_rates_are_those_of_the_table(void **state)
{
    static const struct {
        uint8_t rs;
        unsigned hz;
    } rates[] = {{1, 256}, {2, 128}, {3, 8192}, {6, 1024}, {10, 64}, {14, 4}, {15, 2}};
    struct fixture *f = *state;

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

static void periodic_interrupt_needs_register_c_to_be_read(void **state)
{
    struct fixture *f = *state;

    rd(f, C);
    wr(f, B, H24 | PIE);
    testvm_advance(f->tv, 1 * NS_PER_MS);
    assert_int_equal(f->irq.rises, 1);
    assert_int_equal(rd(f, C) & (PF | IRQF), PF | IRQF);
    assert_false(f->irq.level);
    testvm_advance(f->tv, 1 * NS_PER_MS);
    assert_int_equal(f->irq.rises, 2);
}

static void missed_periodic_interrupts_are_repaid(void **state)
{
    struct fixture *f = *state;
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

static void cmos_ram_keeps_bytes_in_both_banks(void **state)
{
    struct fixture *f = *state;

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

static void index_bit_7_masks_nmi(void **state)
{
    struct fixture *f = *state;

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

static void memory_sizes_stand_where_firmware_looks(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(rd16(f, 0x15), 640);
    assert_int_equal(rd16(f, 0x17), 0xffff);
    assert_int_equal(rd16(f, 0x30), 0xffff);
    assert_int_equal(rd16(f, 0x34), (512 - 16) * 16);
    assert_int_equal(rd(f, 0x5b) | rd(f, 0x5c) << 8 | rd(f, 0x5d) << 16, 0);
    assert_int_equal(rd(f, 0x5f), 3);
}

static void memory_sizes_of_small_and_large_machines(void **state)
{
    struct testvm *tv = testvm_new();
    struct fixture small = {.tv = tv};

    (void)state;
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

static void checksum_covers_10h_to_2dh(void **state)
{
    struct fixture *f = *state;
    unsigned sum = 0;

    for (uint8_t i = 0x10; i <= 0x2d; i++)
        sum += rd(f, i);
    assert_int_equal(rd(f, 0x2e) << 8 | rd(f, 0x2f), sum);
}

static void state_survives(void **state)
{
    struct fixture *f = *state;

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

static void state_moves_to_another_vm(void **state)
{
    struct fixture *f = *state;
    struct testvm *other = testvm_new();
    struct fixture g = {.tv = other};

    g.rtc = add(other, &g.irq, 0, 0);
    set(f, 0x19870605, 0x010203);
    testvm_transfer(f->rtc, g.rtc);
    assert_int_equal(date(&g), 0x19870605);
    assert_int_equal(rd16(&g, 0x34), (512 - 16) * 16);
    testvm_free(other);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_false(testvm_load_with(f->rtc, "offset_s", 0, 1ull << 50));
    assert_false(testvm_load_with(f->rtc, "offset_ns", 0, 1ull << 40));
    assert_false(testvm_load_with(f->rtc, "weekday_shift", 0, 7));
    assert_true(testvm_load_with(f->rtc, "chain_base", 0, 1ull << 50));
    assert_true(testvm_load_with(f->rtc, "offset_s", 0, 1ull << 40));
    assert_true(testvm_load_with(f->rtc, "offset_s", 0, 0ull - (1ull << 40)));
    rd(f, SECONDS);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(starts_with_the_wall_clock),
        T(leap_day_and_month_ends_come_out_right),
        T(binary_mode_shows_plain_numbers),
        T(twelve_hour_mode_has_its_pm_bit),
        T(set_time_runs_on_and_keeps_its_offset),
        T(set_bit_freezes_the_registers),
        T(divider_reset_starts_the_second_half_a_second_later),
        T(time_register_written_while_running_sets_the_time),
        T(nonsense_in_the_registers_is_some_valid_time),
        T(uip_warns_before_each_update),
        T(update_interrupt_comes_once_a_second),
        T(update_flag_can_be_polled),
        T(alarm_strikes_at_its_time),
        T(alarm_bytes_can_be_wildcards),
        T(impossible_alarm_never_strikes),
        T(periodic_rates_are_those_of_the_table),
        T(periodic_interrupt_needs_register_c_to_be_read),
        T(missed_periodic_interrupts_are_repaid),
        T(cmos_ram_keeps_bytes_in_both_banks),
        T(index_bit_7_masks_nmi),
        T(memory_sizes_stand_where_firmware_looks),
        T(memory_sizes_of_small_and_large_machines),
        T(checksum_covers_10h_to_2dh),
        T(state_survives),
        T(state_moves_to_another_vm),
        T(impossible_state_is_refused),
    };

    return cmocka_run_group_tests_name("mc146818", tests, NULL, NULL);
}
