/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/i8259.h"

#include <string.h>

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define MASTER    0x20
#define SLAVE     0xa0
#define ELCR      0x4d0
#define NSEOI     0x20
#define READ_IRR  0x0a
#define READ_ISR  0x0b
#define POLL      0x0c
#define SPURIOUS7 0x27

struct fixture {
    struct testvm *tv;
    struct device *pic;
    struct testvm_irq intr;
    struct irq_line lines[16];
    struct irq in[16];
    struct eoi_notifier notifiers[16];
    unsigned eois[16];
};

static void count_eoi(void *opaque)
{
    (*(unsigned *)opaque)++;
}

/* Vectors 20h and 28h; the last word chooses AEOI and the like. */
static void program(struct fixture *f, uint8_t icw1, uint8_t icw4)
{
    static const uint8_t base[2] = {0x20, 0x28}, icw3[2] = {0x04, 0x02};

    for (unsigned i = 0; i < 2; i++) {
        uint16_t port = i ? SLAVE : MASTER;

        testvm_outb(f->tv, port, icw1);
        testvm_outb(f->tv, port + 1, base[i]);
        testvm_outb(f->tv, port + 1, icw3[i]);
        testvm_outb(f->tv, port + 1, icw4);
        testvm_outb(f->tv, port + 1, 0);
    }
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct i8259_config config = {0};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->intr, 0);
    config.intr = testvm_irq_source(&f->intr);
    for (unsigned i = 0; i < 16; i++) {
        irq_line_init(&f->lines[i], "isa", i, NULL);
        config.lines[i] = &f->lines[i];
    }
    f->pic = testvm_add(f->tv, &i8259_type, &config);
    for (unsigned i = 0; i < 16; i++) {
        irq_line_add_pin(&f->lines[i], i8259_pin(f->pic, i));
        f->in[i] = irq_line_source(&f->lines[i]);
        f->notifiers[i] = (struct eoi_notifier){.eoi = count_eoi, .opaque = &f->eois[i]};
        irq_add_eoi(f->in[i], &f->notifiers[i]);
    }
    program(f, 0x11, 0x01);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void pulse(struct fixture *f, unsigned n)
{
    irq_set(f->in[n], true);
    irq_set(f->in[n], false);
}

static uint8_t read_reg(struct fixture *f, uint16_t port, uint8_t which)
{
    testvm_outb(f->tv, port, which);
    return testvm_inb(f->tv, port);
}

TEST_F(edge_raises_intr_and_is_acknowledged_with_its_vector)
{
    irq_set(f->in[4], true);
    assert_true(i8259_intr(f->pic));
    assert_true(f->intr.level);
    assert_int_equal(i8259_ack(f->pic), 0x24);
    assert_false(i8259_intr(f->pic));
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x10);
    assert_int_equal(read_reg(f, MASTER, READ_IRR), 0x00);
}

/* For an edge-triggered pin behind INTR: the I/O APIC's. */
TEST_F(each_request_raises_intr_anew)
{
    program(f, 0x11, 0x03); /* automatic EOI: nothing in service holds the second one back */
    irq_set(f->in[3], true);
    irq_set(f->in[4], true);
    assert_int_equal(f->intr.rises, 1);
    assert_int_equal(i8259_ack(f->pic), 0x23);
    assert_int_equal(f->intr.rises, 2);
    assert_int_equal(i8259_ack(f->pic), 0x24);
    assert_int_equal(f->intr.rises, 2);
    assert_false(f->intr.level);
}

TEST_F(inputs_of_the_second_chip_come_through_the_cascade)
{
    pulse(f, 14);
    assert_int_equal(read_reg(f, MASTER, READ_IRR), 0x04);
    assert_int_equal(i8259_ack(f->pic), 0x2e);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x04);
    assert_int_equal(read_reg(f, SLAVE, READ_ISR), 0x40);
}

TEST_F(power_on_masks_everything)
{
    device_reset(f->pic, RESET_COLD);
    pulse(f, 1);
    assert_false(i8259_intr(f->pic));
    assert_int_equal(testvm_inb(f->tv, MASTER + 1), 0xff);
    assert_int_equal(testvm_inb(f->tv, SLAVE + 1), 0xff);
}

TEST_F(lower_number_goes_first)
{
    pulse(f, 6);
    pulse(f, 1);
    pulse(f, 9);
    assert_int_equal(i8259_ack(f->pic), 0x21);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x29);
    testvm_outb(f->tv, SLAVE, NSEOI);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x26);
}

TEST_F(input_in_service_holds_back_itself_and_lower_ones)
{
    pulse(f, 3);
    i8259_ack(f->pic);
    pulse(f, 3);
    pulse(f, 5);
    assert_false(i8259_intr(f->pic));
    pulse(f, 0);
    assert_int_equal(i8259_ack(f->pic), 0x20);
    testvm_outb(f->tv, MASTER, NSEOI); /* ends 0, the most urgent in service */
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x08);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x23);
}

TEST_F(masked_input_is_remembered)
{
    testvm_outb(f->tv, MASTER + 1, 0x20);
    pulse(f, 5);
    assert_false(i8259_intr(f->pic));
    assert_int_equal(read_reg(f, MASTER, READ_IRR), 0x20);
    testvm_outb(f->tv, MASTER + 1, 0);
    assert_int_equal(i8259_ack(f->pic), 0x25);
}

TEST_F(second_edge_before_the_acknowledge_is_coalesced)
{
    assert_true(irq_set(f->in[5], true));
    irq_set(f->in[5], false);
    assert_false(irq_set(f->in[5], true));
    assert_int_equal(i8259_ack(f->pic), 0x25);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_false(i8259_intr(f->pic)); /* the level alone is no request */
}

TEST_F(acknowledge_without_request_is_the_default_ir7)
{
    assert_int_equal(i8259_ack(f->pic), SPURIOUS7);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0);
}

TEST_F(level_that_goes_away_before_the_acknowledge_leaves_ir7)
{
    testvm_out(f->tv, ELCR, 0x0820, 2);
    irq_set(f->in[5], true);
    assert_true(i8259_intr(f->pic));
    irq_set(f->in[5], false);
    assert_false(i8259_intr(f->pic));
    assert_int_equal(i8259_ack(f->pic), SPURIOUS7);
    irq_set(f->in[11], true);
    irq_set(f->in[11], false);
    assert_int_equal(i8259_ack(f->pic), SPURIOUS7);
    assert_int_equal(read_reg(f, SLAVE, READ_ISR), 0);
}

TEST_F(level_input_asks_again_after_the_eoi)
{
    testvm_outb(f->tv, ELCR + 1, 0x08);
    irq_set(f->in[11], true);
    assert_int_equal(i8259_ack(f->pic), 0x2b);
    assert_false(i8259_intr(f->pic));
    testvm_outb(f->tv, SLAVE, NSEOI);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_true(i8259_intr(f->pic));
    irq_set(f->in[11], false);
    assert_false(i8259_intr(f->pic));
}

TEST_F(elcr_keeps_the_inputs_that_must_be_edges)
{
    testvm_out(f->tv, ELCR, 0xffff, 2);
    assert_int_equal(testvm_in(f->tv, ELCR, 2), 0xdef8);
}

TEST_F(eoi_reaches_the_notifier_of_its_line)
{
    pulse(f, 12);
    i8259_ack(f->pic);
    assert_int_equal(f->eois[12], 0);
    testvm_outb(f->tv, SLAVE, NSEOI);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(f->eois[12], 1);
    pulse(f, 3);
    i8259_ack(f->pic);
    testvm_outb(f->tv, MASTER, 0x60 | 3);
    assert_int_equal(f->eois[3], 1);
    testvm_outb(f->tv, MASTER, 0x60 | 3); /* nothing in service: nothing ends */
    assert_int_equal(f->eois[3], 1);
}

TEST_F(specific_eoi_ends_the_named_input_alone)
{
    pulse(f, 5);
    i8259_ack(f->pic);
    pulse(f, 1);
    i8259_ack(f->pic);
    testvm_outb(f->tv, MASTER, 0x60 | 5);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x02);
}

/* Data sheet, figure "Automatic rotation": 4 is serviced, and becomes the lowest. */
TEST_F(rotate_on_nonspecific_eoi_makes_it_the_lowest)
{
    pulse(f, 4);
    pulse(f, 6);
    assert_int_equal(i8259_ack(f->pic), 0x24);
    testvm_outb(f->tv, MASTER, 0xa0);
    pulse(f, 4);
    assert_int_equal(i8259_ack(f->pic), 0x26); /* 5, 6, 7, 0 ... 4 */
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x24);
}

TEST_F(rotate_on_specific_eoi_names_the_lowest)
{
    pulse(f, 2 + 1);
    i8259_ack(f->pic);
    testvm_outb(f->tv, MASTER, 0xe0 | 3);
    pulse(f, 0);
    pulse(f, 7);
    assert_int_equal(i8259_ack(f->pic), 0x27);
}

TEST_F(set_priority_makes_an_input_the_lowest)
{
    testvm_outb(f->tv, MASTER, 0xc0 | 5);
    pulse(f, 5);
    pulse(f, 6);
    pulse(f, 0);
    assert_int_equal(i8259_ack(f->pic), 0x26);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x20);
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(i8259_ack(f->pic), 0x25);
}

TEST_F(automatic_eoi_leaves_nothing_in_service)
{
    program(f, 0x11, 0x03);
    pulse(f, 4);
    pulse(f, 10);
    assert_int_equal(i8259_ack(f->pic), 0x2a);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0);
    assert_int_equal(read_reg(f, SLAVE, READ_ISR), 0);
    assert_int_equal(f->eois[10], 1);
    assert_int_equal(i8259_ack(f->pic), 0x24);
}

TEST_F(automatic_eoi_can_rotate)
{
    program(f, 0x11, 0x03);
    testvm_outb(f->tv, MASTER, 0x80);
    pulse(f, 0);
    i8259_ack(f->pic);
    pulse(f, 0);
    pulse(f, 7);
    assert_int_equal(i8259_ack(f->pic), 0x27);
    testvm_outb(f->tv, MASTER, 0x00); /* off again: 0 keeps its place behind 7 */
    assert_int_equal(i8259_ack(f->pic), 0x20);
    pulse(f, 0);
    pulse(f, 7);
    assert_int_equal(i8259_ack(f->pic), 0x20);
}

TEST_F(special_mask_mode_opens_lower_inputs)
{
    pulse(f, 1);
    i8259_ack(f->pic);
    pulse(f, 6);
    assert_false(i8259_intr(f->pic));
    testvm_outb(f->tv, MASTER + 1, 0x02);
    testvm_outb(f->tv, MASTER, 0x68); /* ESMM, SMM */
    assert_int_equal(i8259_ack(f->pic), 0x26);
    /* A non-specific EOI passes over the masked bit. */
    testvm_outb(f->tv, MASTER, NSEOI);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x02);
    testvm_outb(f->tv, MASTER, 0x48); /* ESMM alone: off */
    pulse(f, 6);
    assert_false(i8259_intr(f->pic));
}

TEST_F(second_chip_nests_only_in_special_fully_nested_mode)
{
    pulse(f, 12);
    i8259_ack(f->pic);
    pulse(f, 8);
    assert_false(i8259_intr(f->pic));
    program(f, 0x11, 0x11);
    pulse(f, 12);
    i8259_ack(f->pic);
    pulse(f, 8);
    assert_int_equal(i8259_ack(f->pic), 0x28);
    pulse(f, 15);
    assert_false(i8259_intr(f->pic));
}

TEST_F(poll_reads_and_takes_the_most_urgent)
{
    pulse(f, 6);
    pulse(f, 3);
    testvm_outb(f->tv, MASTER, POLL);
    assert_int_equal(testvm_inb(f->tv, MASTER), 0x83);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x08);
    testvm_outb(f->tv, MASTER, NSEOI);
    testvm_outb(f->tv, MASTER, POLL);
    assert_int_equal(testvm_inb(f->tv, MASTER + 1), 0x86);
    testvm_outb(f->tv, MASTER, NSEOI);
    testvm_outb(f->tv, MASTER, POLL);
    assert_int_equal(testvm_inb(f->tv, MASTER), 0x00);
}

TEST_F(both_chips_can_be_polled)
{
    pulse(f, 9);
    testvm_outb(f->tv, MASTER, POLL);
    assert_int_equal(testvm_inb(f->tv, MASTER), 0x82);
    testvm_outb(f->tv, SLAVE, POLL);
    assert_int_equal(testvm_inb(f->tv, SLAVE), 0x81);
    assert_int_equal(read_reg(f, SLAVE, READ_ISR), 0x02);
}

TEST_F(icw1_forgets_edges_and_needs_new_ones)
{
    irq_set(f->in[4], true);
    program(f, 0x11, 0x01);
    assert_false(i8259_intr(f->pic));
    irq_set(f->in[4], false);
    irq_set(f->in[4], true);
    assert_int_equal(i8259_ack(f->pic), 0x24);
}

TEST_F(initialisation_without_icw3_and_icw4_takes_two_words)
{
    testvm_outb(f->tv, MASTER, 0x12);
    testvm_outb(f->tv, MASTER + 1, 0x77);
    testvm_outb(f->tv, MASTER + 1, 0xaa);
    assert_int_equal(testvm_inb(f->tv, MASTER + 1), 0xaa);
    testvm_outb(f->tv, MASTER + 1, 0x00);
    pulse(f, 1);
    assert_int_equal(i8259_ack(f->pic), 0x71); /* the low bits of ICW2 do not exist */
}

TEST_F(cascade_pin_goes_nowhere)
{
    pulse(f, 2);
    assert_false(i8259_intr(f->pic));
    assert_int_equal(read_reg(f, MASTER, READ_IRR), 0);
}

TEST_F(state_survives_in_the_middle_of_initialisation_and_service)
{
    testvm_outb(f->tv, ELCR + 1, 0x0c);
    pulse(f, 5);
    irq_set(f->in[10], true);
    i8259_ack(f->pic);
    testvm_outb(f->tv, SLAVE, 0x11);
    testvm_outb(f->tv, SLAVE + 1, 0x70);
    testvm_state_roundtrip(f->pic);
    assert_int_equal(read_reg(f, MASTER, READ_ISR), 0x04);
}

TEST_F(state_moves_to_another_vm_without_new_edges)
{
    struct testvm *other = testvm_new();
    struct device *pic = testvm_add(other, &i8259_type, &(struct i8259_config){0});

    irq_set(f->in[3], true);
    i8259_ack(f->pic);
    testvm_outb(f->tv, MASTER, NSEOI);
    testvm_transfer(f->pic, pic);
    assert_false(i8259_intr(pic));
    i8259_pin(pic, 3).set(pic, 3, true); /* the source drives its level again after a load */
    assert_false(i8259_intr(pic));
    testvm_free(other);
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->pic, "irr", 0, 0x04)); /* the cascade, driven from outside */
    assert_false(testvm_load_with(f->pic, "elcr", 0, 0x01));
    assert_false(testvm_load_with(f->pic, "icw2", 0, 0x21));
    assert_false(testvm_load_with(f->pic, "lowest", 0, 8));
    assert_true(testvm_load_with(f->pic, "irr", 0, 0x08));
    assert_false(testvm_load_with(f->pic, "icw_next", 0, 9)); /* refused: as after a reset */
    assert_int_equal(testvm_inb(f->tv, MASTER + 1), 0xff);
}

/* Found by the fuzzer: the refused levels stayed. */
TEST_F(refused_levels_do_not_survive_the_reset)
{
    assert_false(testvm_load_with(f->pic, "lines", 0, 0xff));
    program(f, 0x11, 0x01);
    irq_set(f->in[4], true);
    assert_int_equal(i8259_ack(f->pic), 0x24);
    testvm_state_roundtrip(f->pic);
}
