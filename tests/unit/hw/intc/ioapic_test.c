/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hw/intc/ioapic.h"
#include "tests/lib/testvm.h"

#define SEL   IOAPIC_BASE
#define WIN   (IOAPIC_BASE + 0x10)
#define IRQPA (IOAPIC_BASE + 0x20)
#define EOIR  (IOAPIC_BASE + 0x40)

#define RTE_LEVEL      0x8000u
#define RTE_MASKED     0x10000u
#define RTE_REMOTE_IRR 0x4000u

struct fixture {
    struct testvm *tv;
    struct irq_line lines[IOAPIC_PINS];
    struct irq source[IOAPIC_PINS];
    struct device *io;
    bool busy;
    unsigned eois;
};

static bool pending(void *opaque, uint64_t addr, uint32_t data)
{
    (void)addr;
    (void)data;
    return ((struct fixture *)opaque)->busy;
}

static int setup(void **state)
{
    static struct fixture f;
    struct ioapic_config config = {.id = 5, .pending = pending, .pending_opaque = &f};

    f = (struct fixture){.tv = testvm_new()};
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        irq_line_init(&f.lines[i], "line", i, NULL);
        f.source[i] = irq_line_source(&f.lines[i]);
        config.lines[i] = &f.lines[i];
    }
    f.io = testvm_add(f.tv, &ioapic_type, &config);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        irq_line_add_pin(&f.lines[i], ioapic_pin(f.io, i));
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    testvm_free(((struct fixture *)*state)->tv);
    return 0;
}

static void set_reg(struct fixture *f, uint8_t index, uint32_t value)
{
    testvm_write(f->tv, SEL, index, 4);
    testvm_write(f->tv, WIN, value, 4);
}

static uint32_t reg(struct fixture *f, uint8_t index)
{
    testvm_write(f->tv, SEL, index, 1);
    return (uint32_t)testvm_read(f->tv, WIN, 4);
}

static void set_pin(struct fixture *f, unsigned pin, uint32_t low, uint32_t high)
{
    set_reg(f, (uint8_t)(0x11 + 2 * pin), high);
    set_reg(f, (uint8_t)(0x10 + 2 * pin), low);
}

static void version_tells_24_pins_and_an_eoi_register(void **state)
{
    assert_int_equal(reg(*state, 1), 0x00170020);
    set_reg(*state, 1, 0xffffffff);
    assert_int_equal(reg(*state, 1), 0x00170020);
}

static void id_is_the_configured_one_until_written(void **state)
{
    assert_int_equal(reg(*state, 0), 5u << 24);
    set_reg(*state, 0, 0xffffffff);
    assert_int_equal(reg(*state, 0), 0xfu << 24);
    assert_int_equal(reg(*state, 2), 0xfu << 24);
}

static void pins_are_masked_after_reset(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(reg(f, 0x10), RTE_MASKED);
    assert_false(irq_set(f->source[0], true));
    assert_int_equal(f->tv->nmsis, 0);
}

static void rising_edge_sends_one_message_to_its_destination(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 4, 0x31, 3u << 24);
    assert_true(irq_set(f->source[4], true));
    irq_set(f->source[4], true);
    irq_set(f->source[4], false);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].addr, 0xfee03000);
    assert_int_equal(f->tv->msis[0].data, 0x4031);
}

static void logical_lowest_priority_is_told_in_the_address(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 4, 0x931, 0xffu << 24);
    irq_set(f->source[4], true);
    assert_int_equal(f->tv->msis[0].addr, 0xfeeff00c);
    assert_int_equal(f->tv->msis[0].data, 0x4131);
}

static void edge_while_masked_is_lost(void **state)
{
    struct fixture *f = *state;

    irq_set(f->source[4], true);
    set_pin(f, 4, 0x31, 0);
    assert_int_equal(f->tv->nmsis, 0);
}

static void edge_behind_a_waiting_vector_is_coalesced(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 4, 0x31, 0);
    f->busy = true;
    assert_false(irq_set(f->source[4], true));
    assert_int_equal(f->tv->nmsis, 1);
}

static void level_is_sent_once_until_its_eoi(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].data, 0xc051);
    assert_true(reg(f, 0x30) & RTE_REMOTE_IRR);
    irq_set(f->source[16], false);
    irq_set(f->source[16], true);
    assert_int_equal(f->tv->nmsis, 1);
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->tv->nmsis, 2);
    irq_set(f->source[16], false);
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->tv->nmsis, 2);
    assert_false(reg(f, 0x30) & RTE_REMOTE_IRR);
}

static void eoi_of_another_vector_changes_nothing(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    ioapic_eoi(f->io, 0x52);
    assert_true(reg(f, 0x30) & RTE_REMOTE_IRR);
}

static void asserted_level_is_sent_when_unmasked(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL | RTE_MASKED, 0);
    irq_set(f->source[16], true);
    assert_int_equal(f->tv->nmsis, 0);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    assert_int_equal(f->tv->nmsis, 1);
}

static void eoi_register_ends_a_level_interrupt(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    testvm_write(f->tv, EOIR, 0x51, 4);
    assert_int_equal(f->tv->nmsis, 2);
}

static void turning_a_pin_to_edge_frees_it(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    set_reg(f, 0x30, 0x51 | RTE_MASKED);
    assert_false(reg(f, 0x30) & RTE_REMOTE_IRR);
}

static void nmi_ignores_the_trigger_mode(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 2, 0x400 | RTE_LEVEL, 0);
    irq_set(f->source[2], true);
    assert_int_equal(f->tv->msis[0].data, 0x4400);
    assert_false(reg(f, 0x14) & RTE_REMOTE_IRR);
}

static void pin_assertion_register_makes_an_edge(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 7, 0x37, 0);
    testvm_write(f->tv, IRQPA, 7, 4);
    testvm_write(f->tv, IRQPA, 8, 4);
    testvm_write(f->tv, IRQPA, 31, 4);
    assert_int_equal(f->tv->nmsis, 1);
}

static void count_eoi(void *opaque)
{
    ((struct fixture *)opaque)->eois++;
}

static void line_hears_of_its_eoi(void **state)
{
    struct fixture *f = *state;
    struct eoi_notifier notifier = {.eoi = count_eoi, .opaque = f};

    irq_add_eoi(f->source[16], &notifier);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->eois, 1);
}

static void reset_masks_and_keeps_the_wires(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    vm_lock(&f->tv->vm);
    device_reset(f->io, RESET_WARM);
    vm_unlock(&f->tv->vm);
    assert_int_equal(reg(f, 0x30), RTE_MASKED);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    assert_int_equal(f->tv->nmsis, 2);
}

static void unknown_indexes_read_ones_and_take_nothing(void **state)
{
    struct fixture *f = *state;

    set_reg(f, 0x40, 1);
    assert_int_equal(reg(f, 0x40), 0xffffffff);
    set_reg(f, 3, 0);
    assert_int_equal(reg(f, 3), 0);
    set_reg(f, 2, 1);
    assert_int_equal(testvm_read(f->tv, EOIR, 4), 0);
    assert_int_equal(testvm_read(f->tv, SEL + 1, 1), 0);
    assert_int_equal(testvm_read(f->tv, SEL + 0x80, 4), 0xffffffff);
    testvm_write(f->tv, SEL + 0x80, 1, 4);
    testvm_write(f->tv, WIN, 1, 1);
    assert_int_equal(f->io->bad_accesses, 2);
}

static void state_round_trips(void **state)
{
    struct fixture *f = *state;

    set_pin(f, 16, 0x51 | RTE_LEVEL, 0x12u << 24);
    irq_set(f->source[16], true);
    testvm_state_roundtrip(f->io);
    assert_true(reg(f, 0x30) & RTE_REMOTE_IRR);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(version_tells_24_pins_and_an_eoi_register),
        TEST(id_is_the_configured_one_until_written),
        TEST(pins_are_masked_after_reset),
        TEST(rising_edge_sends_one_message_to_its_destination),
        TEST(logical_lowest_priority_is_told_in_the_address),
        TEST(edge_while_masked_is_lost),
        TEST(edge_behind_a_waiting_vector_is_coalesced),
        TEST(level_is_sent_once_until_its_eoi),
        TEST(eoi_of_another_vector_changes_nothing),
        TEST(asserted_level_is_sent_when_unmasked),
        TEST(eoi_register_ends_a_level_interrupt),
        TEST(turning_a_pin_to_edge_frees_it),
        TEST(nmi_ignores_the_trigger_mode),
        TEST(pin_assertion_register_makes_an_edge),
        TEST(line_hears_of_its_eoi),
        TEST(reset_masks_and_keeps_the_wires),
        TEST(unknown_indexes_read_ones_and_take_nothing),
        TEST(state_round_trips),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
