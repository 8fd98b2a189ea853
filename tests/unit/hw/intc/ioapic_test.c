/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/ioapic.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

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

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct ioapic_config config = {.id = 5, .pending = pending, .pending_opaque = f};

    f->tv = testvm_new();
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        irq_line_init(&f->lines[i], "line", i, NULL);
        f->source[i] = irq_line_source(&f->lines[i]);
        config.lines[i] = &f->lines[i];
    }
    f->io = testvm_add(f->tv, &ioapic_type, &config);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        irq_line_add_pin(&f->lines[i], ioapic_pin(f->io, i));
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
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

TEST_F(version_tells_24_pins_and_an_eoi_register)
{
    assert_int_equal(reg(f, 1), 0x00170020);
    set_reg(f, 1, 0xffffffff);
    assert_int_equal(reg(f, 1), 0x00170020);
}

TEST_F(id_is_the_configured_one_until_written)
{
    assert_int_equal(reg(f, 0), 5u << 24);
    set_reg(f, 0, 0xffffffff);
    assert_int_equal(reg(f, 0), 0xfu << 24);
    assert_int_equal(reg(f, 2), 0xfu << 24);
}

TEST_F(pins_are_masked_after_reset)
{
    assert_int_equal(reg(f, 0x10), RTE_MASKED);
    assert_false(irq_set(f->source[0], true));
    assert_int_equal(f->tv->nmsis, 0);
}

TEST_F(rising_edge_sends_one_message_to_its_destination)
{
    set_pin(f, 4, 0x31, 3u << 24);
    assert_true(irq_set(f->source[4], true));
    irq_set(f->source[4], true);
    irq_set(f->source[4], false);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].addr, 0xfee03000);
    assert_int_equal(f->tv->msis[0].data, 0x4031);
}

TEST_F(logical_lowest_priority_is_told_in_the_address)
{
    set_pin(f, 4, 0x931, 0xffu << 24);
    irq_set(f->source[4], true);
    assert_int_equal(f->tv->msis[0].addr, 0xfeeff00c);
    assert_int_equal(f->tv->msis[0].data, 0x4131);
}

TEST_F(edge_while_masked_is_lost)
{
    irq_set(f->source[4], true);
    set_pin(f, 4, 0x31, 0);
    assert_int_equal(f->tv->nmsis, 0);
}

TEST_F(edge_behind_a_waiting_vector_is_coalesced)
{
    set_pin(f, 4, 0x31, 0);
    f->busy = true;
    assert_false(irq_set(f->source[4], true));
    assert_int_equal(f->tv->nmsis, 1);
}

TEST_F(level_is_sent_once_until_its_eoi)
{
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

TEST_F(eoi_of_another_vector_changes_nothing)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    ioapic_eoi(f->io, 0x52);
    assert_true(reg(f, 0x30) & RTE_REMOTE_IRR);
}

TEST_F(asserted_level_is_sent_when_unmasked)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL | RTE_MASKED, 0);
    irq_set(f->source[16], true);
    assert_int_equal(f->tv->nmsis, 0);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    assert_int_equal(f->tv->nmsis, 1);
}

TEST_F(eoi_register_ends_a_level_interrupt)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    testvm_write(f->tv, EOIR, 0x51, 4);
    assert_int_equal(f->tv->nmsis, 2);
}

TEST_F(turning_a_pin_to_edge_frees_it)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    set_reg(f, 0x30, 0x51 | RTE_MASKED);
    assert_false(reg(f, 0x30) & RTE_REMOTE_IRR);
}

TEST_F(nmi_ignores_the_trigger_mode)
{
    set_pin(f, 2, 0x400 | RTE_LEVEL, 0);
    irq_set(f->source[2], true);
    assert_int_equal(f->tv->msis[0].data, 0x4400);
    assert_false(reg(f, 0x14) & RTE_REMOTE_IRR);
}

TEST_F(pin_assertion_register_makes_an_edge)
{
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

TEST_F(line_hears_of_its_eoi)
{
    struct eoi_notifier notifier = {.eoi = count_eoi, .opaque = f};

    irq_add_eoi(f->source[16], &notifier);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->eois, 1);
}

TEST_F(reset_masks_and_keeps_the_wires)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    irq_set(f->source[16], true);
    TESTVM_LOCKED(f->tv, device_reset(f->io, RESET_WARM));
    assert_int_equal(reg(f, 0x30), RTE_MASKED);
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0);
    assert_int_equal(f->tv->nmsis, 2);
}

TEST_F(unknown_indexes_read_ones_and_take_nothing)
{
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

TEST_F(state_round_trips)
{
    set_pin(f, 16, 0x51 | RTE_LEVEL, 0x12u << 24);
    irq_set(f->source[16], true);
    testvm_state_roundtrip(f->io);
    assert_true(reg(f, 0x30) & RTE_REMOTE_IRR);
}
