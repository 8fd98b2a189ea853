/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "core/gate.h"
#include "core/trace.h"
#include "tests/lib/unit.h"

static const struct trace_rec rec = {.kind = TRACE_PIO,
                                     .device = "i8254",
                                     .name = "counter0",
                                     .addr = 0x40,
                                     .value = 0x12,
                                     .size = 1,
                                     .write = 1};

TEST(patterns_match_kind_device_and_register)
{
    assert_true(trace_match(NULL, &rec));
    assert_true(trace_match("pio", &rec));
    assert_true(trace_match("i8254", &rec));
    assert_true(trace_match("irq,i8254.*", &rec));
    assert_true(trace_match("*.counter0", &rec));
    assert_false(trace_match("i8259.*,msr", &rec));
}

TEST(ring_keeps_the_newest_records)
{
    struct trace trace;
    struct trace_rec got[4];
    uint64_t next;

    assert_int_equal(trace_init(&trace, NULL, NULL), 0);
    for (unsigned i = 0; i < TRACE_RING + 10; i++)
        trace_emit(&trace, (struct trace_rec){.value = i});
    assert_int_equal(trace_read(&trace, 0, got, 4, &next), 4);
    assert_int_equal(got[0].value, 10);
    assert_int_equal(next, 14);
    trace_fini(&trace);
}

TEST(points_are_off_until_someone_listens)
{
    struct trace trace;

    assert_int_equal(trace_init(&trace, NULL, NULL), 0);
    assert_false(trace_on(&trace));
    trace_listen(&trace, true);
    assert_true(trace_on(&trace));
    trace_listen(&trace, false);
    assert_false(trace_on(&trace));
    trace_fini(&trace);
}

TEST(line_names_device_register_value_and_rip)
{
    char line[256];
    struct trace_rec r = rec;

    r.rip = 0xfff0;
    trace_format(&r, line, sizeof(line));
    assert_non_null(strstr(line, "i8254.counter0"));
    assert_non_null(strstr(line, "0x12"));
    assert_non_null(strstr(line, "0xfff0"));
}

TEST(line_of_a_translator_has_three_numbers)
{
    char line[256];
    const struct trace_rec jit = {.kind = TRACE_JIT, .device = "bt", .name = "translate",
                                  .rip = 0x40, .addr = 0x1040, .value = 7, .extra = 0x90};

    trace_format(&jit, line, sizeof(line));
    assert_non_null(strstr(line, "bt.translate [0x1040] 7 0x90 rip 0x40"));
    assert_true(trace_match("bt.*", &jit));
    assert_true(trace_match("jit", &jit));
}

TEST(replayed_inputs_equal_the_recorded_ones)
{
    struct gate gate = {0};

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

TEST(replay_notices_another_question)
{
    struct gate gate = {0};

    gate_record(&gate);
    gate_input(&gate, GATE_TSC, 10, 100);
    gate_replay(&gate);
    gate_input(&gate, GATE_TSC, 11, 1);
    assert_true(gate.diverged);
    gate_fini(&gate);
}
