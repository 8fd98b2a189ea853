/* SPDX-License-Identifier: Apache-2.0 */
#include "core/irq.h"
#include "tests/lib/unit.h"

struct sink {
    unsigned rises, falls;
    bool pending;
};

static bool sink_set(void *chip, unsigned pin, bool level)
{
    struct sink *s = chip;
    bool taken = !(level && s->pending);

    (void)pin;
    if (level)
        s->rises++;
    else
        s->falls++;
    if (level)
        s->pending = true;
    return taken;
}

TEST(shared_line_is_the_or_of_its_sources)
{
    struct sink sink = {0};
    struct irq_line line;
    struct irq a, b;

    irq_line_init(&line, "line", 5, NULL);
    irq_line_add_pin(&line, (struct irq_pin){.set = sink_set, .chip = &sink});
    a = irq_line_source(&line);
    b = irq_line_source(&line);
    irq_set(a, true);
    irq_set(b, true);
    irq_set(a, false);
    assert_true(irq_line_level(&line));
    assert_int_equal(sink.rises, 1);
    assert_int_equal(sink.falls, 0);
    irq_set(b, false);
    assert_int_equal(sink.falls, 1);
}

TEST(repeated_level_is_idempotent)
{
    struct sink sink = {0};
    struct irq_line line;
    struct irq a;

    irq_line_init(&line, "line", 5, NULL);
    irq_line_add_pin(&line, (struct irq_pin){.set = sink_set, .chip = &sink});
    a = irq_line_source(&line);
    irq_set(a, true);
    irq_set(a, true);
    assert_int_equal(sink.rises, 1);
}

TEST(edge_into_a_pending_pin_reports_coalescing)
{
    struct sink sink = {0};
    struct irq_line line;
    struct irq a;

    irq_line_init(&line, "line", 5, NULL);
    irq_line_add_pin(&line, (struct irq_pin){.set = sink_set, .chip = &sink});
    a = irq_line_source(&line);
    assert_true(irq_set(a, true));
    irq_set(a, false);
    assert_false(irq_set(a, true));
}

TEST(unconnected_input_is_harmless)
{
    assert_true(irq_set((struct irq){0}, true));
}

static void count_eoi(void *opaque)
{
    ++*(unsigned *)opaque;
}

TEST(eoi_reaches_every_notifier_until_removed)
{
    struct irq_line line;
    unsigned n1 = 0, n2 = 0;
    struct eoi_notifier a = {.eoi = count_eoi, .opaque = &n1},
                        b = {.eoi = count_eoi, .opaque = &n2};
    struct irq irq;

    irq_line_init(&line, "line", 0, NULL);
    irq = irq_line_source(&line);
    irq_add_eoi(irq, &a);
    irq_add_eoi(irq, &b);
    irq_line_eoi(&line);
    irq_remove_eoi(irq, &a);
    irq_line_eoi(&line);
    assert_int_equal(n1, 1);
    assert_int_equal(n2, 2);
}
