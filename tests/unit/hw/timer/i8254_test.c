/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/timer/i8254.h"

#include "base/clockconv.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define PIT    0x40
#define CW     0x43
#define PORT61 0x61
#define OUT2   0x20

#define LSB  1
#define MSB  2
#define BOTH 3

struct fixture {
    struct testvm *tv;
    struct device *pit;
    struct testvm_irq irq;
    int64_t tick; /* now */
};

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct i8254_config config;

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->irq, 0);
    config.irq = testvm_irq_source(&f->irq);
    f->pit = testvm_add(f->tv, &i8254_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

/* Lets n CLK pulses pass, to just after the last of them. */
static void pulses(struct fixture *f, int64_t n)
{
    f->tick += n;
    testvm_advance(f->tv, ticks_to_ns(f->tick, I8254_HZ) - clock_now(f->tv->vm.clock));
}

static void control(struct fixture *f, unsigned ch, unsigned rw, unsigned mode, unsigned bcd)
{
    testvm_outb(f->tv, CW, (uint8_t)(ch << 6 | rw << 4 | mode << 1 | bcd));
}

static void count(struct fixture *f, unsigned ch, uint16_t value)
{
    testvm_outb(f->tv, (uint16_t)(PIT + ch), (uint8_t)value);
    testvm_outb(f->tv, (uint16_t)(PIT + ch), (uint8_t)(value >> 8));
}

static void program(struct fixture *f, unsigned ch, unsigned mode, uint16_t value)
{
    control(f, ch, BOTH, mode, 0);
    count(f, ch, value);
}

static unsigned read_count(struct fixture *f, unsigned ch)
{
    unsigned low = testvm_inb(f->tv, (uint16_t)(PIT + ch));

    return low | (unsigned)testvm_inb(f->tv, (uint16_t)(PIT + ch)) << 8;
}

static unsigned latched(struct fixture *f, unsigned ch)
{
    testvm_outb(f->tv, CW, (uint8_t)(ch << 6));
    return read_count(f, ch);
}

static uint8_t read_status(struct fixture *f, unsigned ch)
{
    testvm_outb(f->tv, CW, (uint8_t)(0xe0 | 2u << ch));
    return testvm_inb(f->tv, (uint16_t)(PIT + ch));
}

static bool out(struct fixture *f, unsigned ch)
{
    return read_status(f, ch) & 0x80;
}

static void gate2(struct fixture *f, bool on)
{
    testvm_outb(f->tv, PORT61, on);
}

/* OUT of counter 2 over n ticks as a string of H and L, starting one pulse from now. */
static const char *wave(struct fixture *f, unsigned n)
{
    static char text[64];

    for (unsigned i = 0; i < n; i++) {
        pulses(f, 1);
        text[i] = out(f, 2) ? 'H' : 'L';
    }
    text[n] = 0;
    return text;
}

/* ---- The modes: data sheet, figures 15 to 20 ---- */

TEST_F(mode0_rises_n_plus_1_pulses_after_the_count)
{
    gate2(f, true);
    program(f, 2, 0, 4);
    assert_false(out(f, 2));
    assert_string_equal(wave(f, 7), "LLLLHHH");
}

TEST_F(mode0_counts_on_after_zero)
{
    gate2(f, true);
    program(f, 2, 0, 4);
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 4);
    pulses(f, 3);
    assert_int_equal(latched(f, 2), 1);
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 0);
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 0xffff);
    pulses(f, 0x10000);
    assert_int_equal(latched(f, 2), 0xffff);
}

TEST_F(mode0_stands_still_while_gate_is_low)
{
    gate2(f, true);
    program(f, 2, 0, 4);
    pulses(f, 2);
    gate2(f, false);
    pulses(f, 10);
    assert_int_equal(latched(f, 2), 3);
    assert_false(out(f, 2));
    gate2(f, true);
    assert_string_equal(wave(f, 4), "LLHH");
}

TEST_F(mode0_count_written_with_gate_low_needs_no_extra_pulse)
{
    program(f, 2, 0, 3);
    pulses(f, 5);
    gate2(f, true);
    assert_string_equal(wave(f, 4), "LLHH");
}

TEST_F(mode0_first_byte_stops_the_counting)
{
    gate2(f, true);
    program(f, 2, 0, 3);
    pulses(f, 6);
    assert_true(out(f, 2));
    testvm_outb(f->tv, PIT + 2, 2);
    assert_false(out(f, 2));
    pulses(f, 10);
    assert_false(out(f, 2));
    testvm_outb(f->tv, PIT + 2, 0);
    assert_string_equal(wave(f, 4), "LLHH");
}

TEST_F(mode1_is_low_for_n_pulses_after_each_trigger)
{
    program(f, 2, 1, 3);
    assert_string_equal(wave(f, 3), "HHH");
    gate2(f, true);
    assert_string_equal(wave(f, 5), "LLLHH");
    gate2(f, false);
    gate2(f, true);
    assert_string_equal(wave(f, 2), "LL");
    gate2(f, false);
    gate2(f, true); /* retriggered: the full length again */
    assert_string_equal(wave(f, 5), "LLLHH");
}

TEST_F(mode1_new_count_waits_for_the_next_trigger)
{
    program(f, 2, 1, 2);
    gate2(f, true);
    pulses(f, 1);
    count(f, 2, 4);
    assert_string_equal(wave(f, 3), "LHH");
    gate2(f, false);
    gate2(f, true);
    assert_string_equal(wave(f, 6), "LLLLHH");
}

TEST_F(mode2_is_low_for_the_last_pulse_of_each_period)
{
    gate2(f, true);
    program(f, 2, 2, 3);
    assert_string_equal(wave(f, 9), "HHLHHLHHL");
}

TEST_F(mode2_counts_n_to_1)
{
    gate2(f, true);
    program(f, 2, 2, 3);
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 3);
    pulses(f, 2);
    assert_int_equal(latched(f, 2), 1);
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 3);
}

TEST_F(a_count_that_waits_while_gate_falls_is_loaded_by_the_trigger)
{
    gate2(f, true);
    program(f, 2, 2, 100);
    pulses(f, 11);
    count(f, 2, 50); /* for the end of this period */
    gate2(f, false);
    pulses(f, 500);
    testvm_state_roundtrip(f->pit);
    gate2(f, true);
    testvm_state_roundtrip(f->pit); /* it used to be "loaded at an impossible time" */
    pulses(f, 1);
    control(f, 2, 0, 0, 0);
    assert_in_range(testvm_inb(f->tv, PIT + 2), 48, 50);
}

TEST_F(mode2_gate_low_raises_out_and_its_rise_reloads)
{
    gate2(f, true);
    program(f, 2, 2, 3);
    pulses(f, 3);
    assert_false(out(f, 2));
    gate2(f, false);
    assert_true(out(f, 2));
    assert_string_equal(wave(f, 5), "HHHHH");
    gate2(f, true);
    assert_string_equal(wave(f, 6), "HHLHHL");
}

TEST_F(mode2_new_count_takes_over_at_the_end_of_the_period)
{
    gate2(f, true);
    program(f, 2, 2, 4);
    pulses(f, 2);
    count(f, 2, 5);
    assert_int_equal(read_status(f, 2) & 0x40, 0x40); /* not loaded yet */
    assert_string_equal(wave(f, 9), "HLHHHHLHH");
    assert_int_equal(read_status(f, 2) & 0x40, 0);
}

TEST_F(mode3_even_count_is_a_square_wave)
{
    gate2(f, true);
    program(f, 2, 3, 4);
    assert_string_equal(wave(f, 8), "HHLLHHLL");
}

TEST_F(mode3_odd_count_is_one_pulse_longer_high)
{
    gate2(f, true);
    program(f, 2, 3, 5);
    assert_string_equal(wave(f, 10), "HHHLLHHHLL");
}

TEST_F(mode3_counts_by_two)
{
    static const unsigned even[] = {6, 4, 2, 6, 4, 2, 6};
    static const unsigned odd[] = {4, 2, 0, 4, 2, 4, 2};

    gate2(f, true);
    program(f, 2, 3, 6);
    for (unsigned i = 0; i < ARRAY_LEN(even); i++) {
        pulses(f, 1);
        assert_int_equal(latched(f, 2), even[i]);
    }
    program(f, 2, 3, 5);
    for (unsigned i = 0; i < ARRAY_LEN(odd); i++) {
        pulses(f, 1);
        assert_int_equal(latched(f, 2), odd[i]);
    }
}

TEST_F(mode3_new_count_takes_over_at_the_end_of_the_half)
{
    gate2(f, true);
    program(f, 2, 3, 8);
    pulses(f, 2);
    count(f, 2, 4);
    assert_string_equal(wave(f, 10), "HHLLHHLLHH");
    program(f, 2, 3, 4);
    pulses(f, 3);
    count(f, 2, 6);
    assert_string_equal(wave(f, 8), "LHHHLLLH");
}

TEST_F(mode4_strobes_once)
{
    gate2(f, true);
    program(f, 2, 4, 3);
    assert_string_equal(wave(f, 8), "HHHLHHHH");
    count(f, 2, 1);
    assert_string_equal(wave(f, 4), "HLHH");
}

TEST_F(mode5_strobes_after_each_trigger)
{
    program(f, 2, 5, 3);
    assert_string_equal(wave(f, 4), "HHHH");
    gate2(f, true);
    assert_string_equal(wave(f, 6), "HHHLHH");
    gate2(f, false);
    gate2(f, true);
    assert_string_equal(wave(f, 5), "HHHLH");
}

TEST_F(modes_6_and_7_are_2_and_3)
{
    gate2(f, true);
    program(f, 2, 6, 3);
    assert_string_equal(wave(f, 6), "HHLHHL");
    assert_int_equal(read_status(f, 2) & 0x3f, 0x3c); /* as written */
    program(f, 2, 7, 4);
    assert_string_equal(wave(f, 4), "HHLL");
}

TEST_F(count_of_one_in_a_periodic_mode_is_taken_as_two)
{
    gate2(f, true);
    program(f, 2, 2, 1);
    assert_string_equal(wave(f, 4), "HLHL");
}

TEST_F(zero_is_the_largest_count)
{
    gate2(f, true);
    program(f, 2, 0, 0);
    pulses(f, 0x10000);
    assert_false(out(f, 2));
    assert_int_equal(latched(f, 2), 1);
    pulses(f, 1);
    assert_true(out(f, 2));
    control(f, 2, BOTH, 0, 1);
    count(f, 2, 0);
    pulses(f, 10000);
    assert_false(out(f, 2));
    pulses(f, 1);
    assert_true(out(f, 2));
    pulses(f, 1);
    assert_int_equal(latched(f, 2), 0x9999);
}

TEST_F(bcd_counts_in_decimal)
{
    gate2(f, true);
    control(f, 2, BOTH, 2, 1);
    count(f, 2, 0x1000);
    pulses(f, 2);
    assert_int_equal(latched(f, 2), 0x0999);
    pulses(f, 999);
    assert_int_equal(latched(f, 2), 0x1000);
    count(f, 2, 0xffff); /* no digits: still some count */
    pulses(f, 100000);
    latched(f, 2);
}

/* ---- Reading and writing ---- */

TEST_F(latched_count_survives_later_ticks)
{
    gate2(f, true);
    program(f, 2, 2, 1000);
    pulses(f, 1);
    testvm_outb(f->tv, CW, 2 << 6);
    pulses(f, 500);
    testvm_outb(f->tv, CW, 2 << 6); /* the first latch stands */
    assert_int_equal(read_count(f, 2), 1000);
    assert_int_equal(read_count(f, 2), 500);
}

TEST_F(read_back_gives_status_before_count)
{
    gate2(f, true);
    program(f, 2, 2, 1000);
    pulses(f, 11);
    testvm_outb(f->tv, CW, 0xc0 | 2u << 2);
    pulses(f, 5);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x80 | 0x34);
    assert_int_equal(read_count(f, 2), 990);
}

TEST_F(read_back_latches_several_counters)
{
    gate2(f, true);
    program(f, 0, 2, 2000);
    program(f, 2, 2, 1000);
    pulses(f, 1);
    testvm_outb(f->tv, CW, 0xd0 | 2u << 0 | 2u << 2); /* counts only */
    pulses(f, 100);
    assert_int_equal(read_count(f, 0), 2000);
    assert_int_equal(read_count(f, 2), 1000);
}

TEST_F(null_count_falls_when_the_count_is_loaded)
{
    gate2(f, true);
    control(f, 2, BOTH, 0, 0);
    assert_int_equal(read_status(f, 2), 0x40 | 0x30);
    count(f, 2, 5);
    assert_int_equal(read_status(f, 2), 0x40 | 0x30);
    pulses(f, 1);
    assert_int_equal(read_status(f, 2), 0x30);
}

TEST_F(single_byte_modes_write_and_read_their_byte)
{
    gate2(f, true);
    control(f, 2, LSB, 2, 0);
    testvm_outb(f->tv, PIT + 2, 0x50);
    pulses(f, 2);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x4f);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x4f);
    control(f, 2, MSB, 2, 0);
    testvm_outb(f->tv, PIT + 2, 0x50);
    pulses(f, 2);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x4f);
    testvm_outb(f->tv, CW, 2 << 6);
    pulses(f, 0x300);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x4f);
    assert_int_equal(testvm_inb(f->tv, PIT + 2), 0x4c);
}

TEST_F(control_word_register_can_not_be_read)
{
    assert_int_equal(testvm_inb(f->tv, CW), 0xff);
}

/* ---- Port 61h ---- */

TEST_F(port61_shows_gate_out_and_the_refresh_toggle)
{
    unsigned toggles = 0;
    uint8_t last;

    testvm_outb(f->tv, PORT61, 0xff);
    assert_int_equal(testvm_inb(f->tv, PORT61) & 0xcf, 0x0f);
    program(f, 2, 0, 100);
    pulses(f, 100);
    assert_int_equal(testvm_inb(f->tv, PORT61) & OUT2, 0);
    pulses(f, 1);
    assert_int_equal(testvm_inb(f->tv, PORT61) & OUT2, OUT2);
    last = testvm_inb(f->tv, PORT61);
    for (unsigned i = 0; i < 1000; i++) {
        testvm_advance(f->tv, 1000);
        toggles += (testvm_inb(f->tv, PORT61) ^ last) >> 4 & 1;
        last = testvm_inb(f->tv, PORT61);
    }
    assert_in_range(toggles, 66, 67); /* 15.085 us */
}

/* ---- IRQ 0 ---- */

TEST_F(periodic_mode_ticks_exactly_and_never_drifts)
{
    program(f, 0, 2, 11932); /* 100 Hz, as Linux programs it */
    f->irq.rises = 0;
    testvm_advance(f->tv, 600 * NS_PER_SEC);
    assert_int_equal(f->irq.rises, 600ull * I8254_HZ / 11932);
}

TEST_F(square_wave_ticks_once_a_period)
{
    program(f, 0, 3, 0);
    f->irq.rises = 0;
    testvm_advance(f->tv, 60 * NS_PER_SEC);
    assert_int_equal(f->irq.rises, 60ull * I8254_HZ / 65536);
}

TEST_F(one_shot_interrupts_once_at_terminal_count)
{
    program(f, 0, 0, 1000);
    assert_false(f->irq.level);
    f->irq.rises = 0;
    pulses(f, 1000);
    assert_false(f->irq.level);
    pulses(f, 1);
    assert_true(f->irq.level);
    pulses(f, 200000);
    assert_int_equal(f->irq.rises, 1);
    program(f, 0, 4, 1000);
    f->irq.rises = 0;
    pulses(f, 1001);
    assert_int_equal(f->irq.rises, 0);
    pulses(f, 200000);
    assert_int_equal(f->irq.rises, 1);
}

TEST_F(triggered_modes_of_counter_0_never_interrupt)
{
    program(f, 0, 1, 10);
    f->irq.rises = 0;
    pulses(f, 1000);
    program(f, 0, 5, 10);
    pulses(f, 1000);
    assert_int_equal(f->irq.rises, 0);
}

TEST_F(control_word_that_raises_out_interrupts)
{
    program(f, 0, 0, 1000);
    f->irq.rises = 0;
    control(f, 0, BOTH, 2, 0);
    assert_int_equal(f->irq.rises, 1);
}

TEST_F(coalesced_ticks_are_repaid_at_twice_the_rate)
{
    program(f, 0, 2, 11932);
    f->irq.busy = true;
    testvm_advance(f->tv, 55 * NS_PER_MS); /* five ticks that nobody takes */
    f->irq.busy = false;
    f->irq.rises = 0;
    testvm_advance(f->tv, 20 * NS_PER_MS);
    assert_in_range(f->irq.rises, 4, 5);
    testvm_advance(f->tv, 980 * NS_PER_MS);
    assert_in_range(f->irq.rises, 100 + 5 - 1, 100 + 5 + 1);
}

TEST_F(debt_is_bounded_and_forgotten_on_reprogramming)
{
    program(f, 0, 2, 11932);
    f->irq.busy = true;
    testvm_advance(f->tv, 60 * NS_PER_SEC);
    f->irq.busy = false;
    f->irq.rises = 0;
    testvm_advance(f->tv, 10 * NS_PER_SEC);
    assert_in_range(f->irq.rises, 1000 + 90, 1000 + 101); /* one second's worth */
    f->irq.busy = true;
    testvm_advance(f->tv, 60 * NS_PER_SEC);
    f->irq.busy = false;
    program(f, 0, 2, 11932);
    f->irq.rises = 0;
    testvm_advance(f->tv, NS_PER_SEC);
    assert_in_range(f->irq.rises, 99, 101);
}

TEST_F(absurd_rates_make_no_storm)
{
    program(f, 0, 2, 2);
    f->irq.rises = 0;
    testvm_advance(f->tv, 100 * NS_PER_MS);
    assert_in_range(f->irq.rises, 4000, 5001);
}

/* ---- State ---- */

TEST_F(reset_leaves_what_firmware_leaves)
{
    program(f, 0, 0, 10);
    TESTVM_LOCKED(f->tv, device_reset(f->pit, RESET_WARM));
    assert_int_equal(read_status(f, 0), 0x80 | 0x36);
    assert_int_equal(testvm_inb(f->tv, PORT61) & 0x0f, 0);
}

TEST_F(state_survives_with_counts_latched_and_half_written)
{
    gate2(f, true);
    program(f, 0, 2, 5000);
    program(f, 2, 3, 700);
    pulses(f, 100);
    count(f, 2, 300);
    testvm_outb(f->tv, CW, 0xc0 | 2u << 2);
    testvm_outb(f->tv, PIT + 1, 9);
    testvm_state_roundtrip(f->pit);
    testvm_inb(f->tv, PIT + 2);
    assert_int_equal(read_count(f, 2), 700 - 2 * 99);
}

TEST_F(state_moves_to_another_vm_and_ticks_on)
{
    struct testvm *other = testvm_new();
    struct testvm_irq irq;
    struct device *pit;

    testvm_irq_init(other, &irq, 0);
    pit = testvm_add(other, &i8254_type, &(struct i8254_config){.irq = testvm_irq_source(&irq)});
    program(f, 0, 2, 11932);
    testvm_advance(f->tv, 123456789);
    clock_set(other->vm.clock, clock_now(f->tv->vm.clock));
    testvm_transfer(f->pit, pit);
    irq.rises = f->irq.rises = 0;
    testvm_advance(f->tv, NS_PER_SEC);
    testvm_advance(other, NS_PER_SEC);
    assert_int_equal(irq.rises, f->irq.rises);
    testvm_free(other);
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->pit, "load", 0, 0));
    assert_false(testvm_load_with(f->pit, "control", 0, 0x04)); /* no RW mode */
    assert_false(testvm_load_with(f->pit, "gate", 0, 0));
    assert_false(testvm_load_with(f->pit, "port61", 0, 1));
    assert_false(testvm_load_with(f->pit, "switch_at", 0, 1ull << 60));
    assert_false(testvm_load_with(f->pit, "base", 0, 1ull << 60));
}

TEST_F(a_count_held_longer_than_the_vm_has_run_counts_on)
{
    gate2(f, true);
    program(f, 2, 4, 100);
    gate2(f, false);
    assert_true(testvm_load_with(f->pit, "base", 2, 1ull << 53));
    gate2(f, true);
    testvm_state_roundtrip(f->pit); /* it used to be a base of -(1 << 53) */
}

TEST_F(state_from_the_far_future_still_works)
{
    assert_true(testvm_load_with(f->pit, "base", 0, 1ull << 53));
    assert_true(testvm_load_with(f->pit, "seen", 0, 1ull << 53));
    testvm_advance(f->tv, NS_PER_SEC);
    latched(f, 0);
    assert_int_equal(read_status(f, 0) & 0x40, 0x40);
}
