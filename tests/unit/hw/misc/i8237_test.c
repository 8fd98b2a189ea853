/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/i8237.h"

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

struct fixture {
    struct testvm *tv;
    struct device *dma;
};

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->dma = testvm_add(f->tv, &i8237_type, &(struct i8237_config){0});
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void out(struct fixture *f, uint16_t port, uint8_t val)
{
    testvm_outb(f->tv, port, val);
}

static unsigned in(struct fixture *f, uint16_t port)
{
    return testvm_inb(f->tv, port);
}

TEST_F(sixteen_bit_registers_alternate_bytes)
{
    out(f, 0x0c, 0);
    out(f, 0x04, 0x34);
    out(f, 0x04, 0x12);
    out(f, 0x05, 0x78);
    out(f, 0x05, 0x56);
    assert_int_equal(in(f, 0x04), 0x34);
    assert_int_equal(in(f, 0x04), 0x12);
    assert_int_equal(in(f, 0x05), 0x78);
    out(f, 0x0c, 0); /* back to the low byte */
    assert_int_equal(in(f, 0x05), 0x78);
    assert_int_equal(in(f, 0x05), 0x56);
}

TEST_F(second_controller_is_at_even_ports)
{
    out(f, 0xd8, 0);
    out(f, 0xc4, 0xcd);
    out(f, 0xc4, 0xab);
    assert_int_equal(in(f, 0xc4), 0xcd);
    assert_int_equal(in(f, 0xc4), 0xab);
    out(f, 0x0c, 0);
    assert_int_equal(in(f, 0x02), 0);
}

TEST_F(masks_are_set_one_by_one_and_together)
{
    assert_int_equal(in(f, 0x0f), 0xff); /* all masked after reset */
    out(f, 0x0a, 0x02);
    assert_int_equal(in(f, 0x0f), 0xfb);
    out(f, 0x0a, 0x06);
    assert_int_equal(in(f, 0x0f), 0xff);
    out(f, 0x0e, 0);
    assert_int_equal(in(f, 0x0f), 0xf0);
    out(f, 0x0f, 0x05);
    assert_int_equal(in(f, 0x0f), 0xf5);
}

TEST_F(requests_show_in_status)
{
    out(f, 0xd2, 0x05);
    assert_int_equal(in(f, 0xd0), 0x20);
    out(f, 0xd2, 0x01);
    assert_int_equal(in(f, 0xd0), 0);
}

TEST_F(master_clear_masks_and_forgets)
{
    out(f, 0x0e, 0);
    out(f, 0x09, 0x07);
    out(f, 0x08, 0x10);
    out(f, 0x00, 0x11);
    out(f, 0x0d, 0);
    assert_int_equal(in(f, 0x0f), 0xff);
    assert_int_equal(in(f, 0x08), 0);
    assert_int_equal(in(f, 0x00), 0x11); /* the flip-flop is at the low byte */
    assert_int_equal(in(f, 0x0d), 0);
    assert_int_equal(in(f, 0x0b), 0xff);
}

/* Linux: i8237A_init_ops() takes a page register that reads FFh for a missing controller. */
TEST_F(page_registers_keep_their_bytes)
{
    assert_int_not_equal(in(f, 0x87), 0xff);
    out(f, 0x80, 0x80);
    out(f, 0x8f, 0x8f);
    assert_int_equal(in(f, 0x80), 0x80);
    assert_int_equal(in(f, 0x8f), 0x8f);
}

TEST_F(warm_reset_keeps_addresses)
{
    out(f, 0x00, 0x22);
    out(f, 0x0e, 0);
    TESTVM_LOCKED(f->tv, device_reset(f->dma, RESET_WARM));
    assert_int_equal(in(f, 0x00), 0x22);
    assert_int_equal(in(f, 0x0f), 0xff);
}

TEST_F(state_survives)
{
    out(f, 0x00, 0x22);
    out(f, 0x0b, 0x46);
    out(f, 0x82, 3);
    testvm_state_roundtrip(f->dma);
    assert_false(testvm_load_with(f->dma, "mask", 0, 0x10));
}
