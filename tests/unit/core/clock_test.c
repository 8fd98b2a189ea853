/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clockconv.h"
#include "core/clock.h"

struct log {
    struct timer a, b;
    char order[16];
    struct clock *clock;
    int64_t at[16];
    unsigned n;
    int64_t period;
};

static void fire_a(void *opaque)
{
    struct log *log = opaque;

    log->order[log->n % 15] = 'a';
    log->at[log->n++ % 16] = clock_now(log->clock);
    if (log->period)
        timer_arm(&log->a, clock_now(log->clock) + log->period);
}

static void fire_b(void *opaque)
{
    struct log *log = opaque;

    log->order[log->n % 15] = 'b';
    log->at[log->n++ % 16] = clock_now(log->clock);
}

static void start(struct log *log, enum clock_mode mode)
{
    memset(log, 0, sizeof(*log));
    log->clock = clock_new(mode);
    timer_init(&log->a, log->clock, "a", fire_a, log);
    timer_init(&log->b, log->clock, "b", fire_b, log);
}

static void timers_fire_in_deadline_order_at_their_time(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_MANUAL);
    timer_arm(&log.b, 200);
    timer_arm(&log.a, 100);
    clock_advance(log.clock, 99);
    assert_int_equal(log.n, 0);
    clock_advance(log.clock, 1000);
    assert_string_equal(log.order, "ab");
    assert_int_equal(log.at[0], 100);
    assert_int_equal(log.at[1], 200);
    assert_int_equal(clock_now(log.clock), 1099);
    clock_free(log.clock);
}

static void equal_deadlines_fire_in_the_order_of_arming(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_MANUAL);
    timer_arm(&log.b, 50);
    timer_arm(&log.a, 50);
    clock_advance(log.clock, 50);
    assert_string_equal(log.order, "ba");
    clock_free(log.clock);
}

static void rearming_moves_and_disarming_removes(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_MANUAL);
    timer_arm(&log.a, 50);
    timer_arm(&log.a, 500);
    timer_arm(&log.b, 60);
    timer_disarm(&log.b);
    clock_advance(log.clock, 400);
    assert_int_equal(log.n, 0);
    assert_int_equal(clock_next_deadline(log.clock), 500);
    clock_free(log.clock);
}

static void periodic_callback_does_not_drift(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_MANUAL);
    log.period = 10;
    timer_arm(&log.a, 10);
    clock_advance(log.clock, 100);
    assert_int_equal(log.n, 10);
    assert_int_equal(log.at[9], 100);
    clock_free(log.clock);
}

static void a_timer_storm_ends_the_turn(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_VIRTUAL);
    log.period = -1;
    timer_arm(&log.a, 0);
    assert_in_range(clock_run_timers(log.clock), 1, 100000);
    clock_free(log.clock);
}

static void virtual_time_is_the_instruction_count_plus_warps(void **state)
{
    struct log log;

    (void)state;
    start(&log, CLOCK_VIRTUAL);
    clock_set_icount(log.clock, 1000);
    assert_int_equal(clock_now(log.clock), 1000);
    assert_false(clock_warp(log.clock));
    timer_arm(&log.a, 5000);
    assert_true(clock_warp(log.clock));
    assert_int_equal(clock_now(log.clock), 5000);
    clock_set_icount(log.clock, 1500);
    assert_int_equal(clock_now(log.clock), 5500);
    clock_free(log.clock);
}

static void real_time_stops_while_paused(void **state)
{
    struct clock *clock = clock_new(CLOCK_REAL);
    int64_t t;

    (void)state;
    clock_pause(clock);
    t = clock_now(clock);
    assert_int_equal(clock_now(clock), t);
    clock_resume(clock);
    assert_true(clock_now(clock) >= t);
    clock_free(clock);
}

static void tick_conversion_is_exact_after_a_year(void **state)
{
    const int64_t year = 365ll * 86400 * NS_PER_SEC;

    (void)state;
    assert_int_equal(ns_to_ticks(year, 1193182), 365ll * 86400 * 1193182);
    assert_int_equal(ns_to_ticks(ticks_to_ns(123456789, 3579545), 3579545), 123456789);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_deadline_order_at_their_time),
        cmocka_unit_test(equal_deadlines_fire_in_the_order_of_arming),
        cmocka_unit_test(rearming_moves_and_disarming_removes),
        cmocka_unit_test(periodic_callback_does_not_drift),
        cmocka_unit_test(a_timer_storm_ends_the_turn),
        cmocka_unit_test(virtual_time_is_the_instruction_count_plus_warps),
        cmocka_unit_test(real_time_stops_while_paused),
        cmocka_unit_test(tick_conversion_is_exact_after_a_year),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
