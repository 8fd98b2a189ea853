/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/gate.h"
#include "core/trace.h"

static const struct trace_rec rec = {.kind = TRACE_PIO, .device = "i8254", .name = "counter0",
                                     .addr = 0x40, .value = 0x12, .size = 1, .write = 1};

static void patterns_match_kind_device_and_register(void **state)
{
    (void)state;
    assert_true(trace_match(NULL, &rec));
    assert_true(trace_match("pio", &rec));
    assert_true(trace_match("i8254", &rec));
    assert_true(trace_match("irq,i8254.*", &rec));
    assert_true(trace_match("*.counter0", &rec));
    assert_false(trace_match("i8259.*,msr", &rec));
}

static void ring_keeps_the_newest_records(void **state)
{
    struct trace trace;
    struct trace_rec got[4];
    uint64_t next;

    (void)state;
    assert_int_equal(trace_init(&trace, NULL, NULL), 0);
    for (unsigned i = 0; i < TRACE_RING + 10; i++)
        trace_emit(&trace, (struct trace_rec){.value = i});
    assert_int_equal(trace_read(&trace, 0, got, 4, &next), 4);
    assert_int_equal(got[0].value, 10);
    assert_int_equal(next, 14);
    trace_fini(&trace);
}

static void points_are_off_until_someone_listens(void **state)
{
    struct trace trace;

    (void)state;
    assert_int_equal(trace_init(&trace, NULL, NULL), 0);
    assert_false(trace_on(&trace));
    trace_listen(&trace, true);
    assert_true(trace_on(&trace));
    trace_listen(&trace, false);
    assert_false(trace_on(&trace));
    trace_fini(&trace);
}

static void line_names_device_register_value_and_rip(void **state)
{
    char line[256];
    struct trace_rec r = rec;

    (void)state;
    r.rip = 0xfff0;
    trace_format(&r, line, sizeof(line));
    assert_non_null(strstr(line, "i8254.counter0"));
    assert_non_null(strstr(line, "0x12"));
    assert_non_null(strstr(line, "0xfff0"));
}

static void replayed_inputs_equal_the_recorded_ones(void **state)
{
    struct gate gate = {0};

    (void)state;
    assert_int_equal(gate_input(&gate, GATE_TSC, 1, 11), 11);
    gate_record(&gate);
    gate_input(&gate, GATE_TSC, 10, 100);
    gate_input(&gate, GATE_RANDOM, 20, 200);
    gate_replay(&gate);
    assert_int_equal(gate_input(&gate, GATE_TSC, 10, 1), 100);
    assert_int_equal(gate_input(&gate, GATE_RANDOM, 20, 2), 200);
    assert_false(gate.diverged);
    gate_fini(&gate);
}

static void replay_notices_another_question(void **state)
{
    struct gate gate = {0};

    (void)state;
    gate_record(&gate);
    gate_input(&gate, GATE_TSC, 10, 100);
    gate_replay(&gate);
    gate_input(&gate, GATE_TSC, 11, 1);
    assert_true(gate.diverged);
    gate_fini(&gate);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patterns_match_kind_device_and_register),
        cmocka_unit_test(ring_keeps_the_newest_records),
        cmocka_unit_test(points_are_off_until_someone_listens),
        cmocka_unit_test(line_names_device_register_value_and_rip),
        cmocka_unit_test(replayed_inputs_equal_the_recorded_ones),
        cmocka_unit_test(replay_notices_another_question),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
