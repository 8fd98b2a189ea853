/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "base/clockconv.h"
#include "core/clock.h"
#include "tests/lib/unit.h"

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

TEST(timers_fire_in_deadline_order_at_their_time)
{
    struct log log;

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

TEST(equal_deadlines_fire_in_the_order_of_arming)
{
    struct log log;

    start(&log, CLOCK_MANUAL);
    timer_arm(&log.b, 50);
    timer_arm(&log.a, 50);
    clock_advance(log.clock, 50);
    assert_string_equal(log.order, "ba");
    clock_free(log.clock);
}

TEST(rearming_moves_and_disarming_removes)
{
    struct log log;

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

TEST(periodic_callback_does_not_drift)
{
    struct log log;

    start(&log, CLOCK_MANUAL);
    log.period = 10;
    timer_arm(&log.a, 10);
    clock_advance(log.clock, 100);
    assert_int_equal(log.n, 10);
    assert_int_equal(log.at[9], 100);
    clock_free(log.clock);
}

TEST(a_timer_storm_ends_the_turn)
{
    struct log log;

    start(&log, CLOCK_VIRTUAL);
    log.period = -1;
    timer_arm(&log.a, 0);
    assert_in_range(clock_run_timers(log.clock), 1, 100000);
    clock_free(log.clock);
}

TEST(virtual_time_is_the_instruction_count_plus_warps)
{
    struct log log;

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

TEST(real_time_stops_while_paused)
{
    struct clock *clock = clock_new(CLOCK_REAL);
    int64_t t;

    clock_pause(clock);
    t = clock_now(clock);
    assert_int_equal(clock_now(clock), t);
    clock_resume(clock);
    assert_true(clock_now(clock) >= t);
    clock_free(clock);
}

TEST(tick_conversion_is_exact_after_a_year)
{
    const int64_t year = 365ll * 86400 * NS_PER_SEC;

    assert_int_equal(ns_to_ticks(year, 1193182), 365ll * 86400 * 1193182);
    assert_int_equal(ns_to_ticks(ticks_to_ns(123456789, 3579545), 3579545), 123456789);
}
