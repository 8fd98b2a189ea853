/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/debugcon.h"

#include <string.h>

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

struct fake_chr {
    struct chardev chr;
    char out[16];
    size_t n;
};

static void fake_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    struct fake_chr *c = (struct fake_chr *)chr;

    memcpy(c->out + c->n, data, len);
    c->n += len;
}

static const struct chardev_ops fake_ops = {.write = fake_write};

TEST(bytes_come_out_and_reads_identify_the_port)
{
    struct fake_chr c = {.chr = {.ops = &fake_ops}};
    struct testvm *tv = testvm_new();
    struct device *dev = testvm_add(tv, &debugcon_type, &(struct debugcon_config){.chr = &c.chr});

    testvm_outb(tv, 0xe9, 'h');
    testvm_out(tv, 0xe9, 'i', 1);
    assert_memory_equal(c.out, "hi", 2);
    assert_int_equal(testvm_inb(tv, 0xe9), 0xe9);
    testvm_state_roundtrip(dev);
    testvm_free(tv);
}

TEST(port_can_be_moved)
{
    struct fake_chr c = {.chr = {.ops = &fake_ops}};
    struct testvm *tv = testvm_new();

    testvm_add(tv, &debugcon_type, &(struct debugcon_config){.iobase = 0x402, .chr = &c.chr});
    testvm_outb(tv, 0x402, 'x');
    assert_int_equal(c.n, 1);
    assert_int_equal(testvm_inb(tv, 0xe9), 0xff);
    testvm_free(tv);
}

TEST(endless_lines_without_a_back_end_are_harmless)
{
    struct testvm *tv = testvm_new();

    testvm_add(tv, &debugcon_type, &(struct debugcon_config){0});
    for (unsigned i = 0; i < 5000; i++)
        testvm_outb(tv, 0xe9, (uint8_t)i);
    testvm_free(tv);
}

TEST(port_beyond_the_space_is_refused)
{
    struct testvm *tv = testvm_new();
    struct err err = {0};

    assert_null(device_new(&tv->vm, &debugcon_type, "x",
                           &(struct debugcon_config){.iobase = 0x10000}, &err));
    assert_non_null(strstr(err.text, "0x10000"));
    testvm_free(tv);
}
