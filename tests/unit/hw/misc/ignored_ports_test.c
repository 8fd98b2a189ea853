/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/ignored_ports.h"

#include "hw/misc/debugcon.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

static const struct ignored_port table[] = {
    {0x80, 1, 0xff, "post", "diagnostic codes"},
    {0xe0, 16, 0x5a, "things", "nobody knows"},
    {0, 0, 0, NULL, NULL},
};

TEST(ports_read_their_value_and_swallow_writes)
{
    struct testvm *tv = testvm_new();
    struct device *dev = testvm_add(tv, &ignored_ports_type, &(struct ignored_ports_config){table});
    uint64_t unknown = tv->vm.trace.unknown;

    testvm_outb(tv, 0x80, 0x12);
    assert_int_equal(testvm_inb(tv, 0x80), 0xff);
    assert_int_equal(testvm_in(tv, 0xe4, 4), 0x5a5a5a5a);
    assert_int_equal(tv->vm.trace.unknown, unknown);
    testvm_state_roundtrip(dev);
    testvm_free(tv);
}

TEST(chip_at_the_same_port_wins)
{
    struct testvm *tv = testvm_new();

    testvm_add(tv, &debugcon_type, &(struct debugcon_config){0});
    testvm_add(tv, &ignored_ports_type, &(struct ignored_ports_config){table});
    assert_int_equal(testvm_inb(tv, 0xe9), 0xe9);
    assert_int_equal(testvm_inb(tv, 0xe8), 0x5a);
    testvm_free(tv);
}

TEST(tables_that_do_not_fit_are_refused)
{
    static const struct ignored_port empty[] = {{1, 0, 0, "nothing", ""}, {0, 0, 0, NULL, NULL}};
    struct ignored_port many[IGNORED_PORTS_MAX + 2] = {0};
    struct testvm *tv = testvm_new();
    struct err err = {0};

    for (unsigned i = 0; i <= IGNORED_PORTS_MAX; i++)
        many[i] = (struct ignored_port){(uint16_t)i, 1, 0, "x", ""};
    assert_null(
        device_new(&tv->vm, &ignored_ports_type, "x", &(struct ignored_ports_config){many}, &err));
    assert_null(
        device_new(&tv->vm, &ignored_ports_type, "x", &(struct ignored_ports_config){empty}, &err));
    testvm_free(tv);
}

TEST(detached_ports_are_gone)
{
    struct testvm *tv = testvm_new();
    struct device *dev = testvm_add(tv, &ignored_ports_type, &(struct ignored_ports_config){table});

    TESTVM_LOCKED(tv, device_detach(dev));
    assert_int_equal(testvm_inb(tv, 0xe0), 0xff);
    testvm_free(tv);
}
