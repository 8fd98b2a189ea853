/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/isa_debug_exit.h"

#include <string.h>

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

TEST(write_ends_the_vm_with_the_value)
{
    struct testvm *tv = testvm_new();
    struct device *dev = testvm_add(tv, &isa_debug_exit_type, &(struct isa_debug_exit_config){0});
    uint32_t value = 0;

    testvm_outb(tv, 0x501, 0x31);
    assert_int_equal(testvm_take_request(tv, &value), VM_REQUEST_DEBUG_EXIT);
    assert_int_equal(value, 0x31);
    testvm_out(tv, 0x501, 0x1234, 2);
    assert_int_equal(testvm_take_request(tv, &value), VM_REQUEST_DEBUG_EXIT);
    assert_int_equal(value, 0x1234);
    testvm_state_roundtrip(dev);
    testvm_free(tv);
}

TEST(reading_does_nothing)
{
    struct testvm *tv = testvm_new();

    testvm_add(tv, &isa_debug_exit_type,
               &(struct isa_debug_exit_config){.iobase = 0xf4, .iosize = 4});
    assert_int_equal(testvm_in(tv, 0xf4, 4), 0);
    assert_int_equal(testvm_take_request(tv, NULL), VM_REQUEST_NONE);
    assert_int_equal(testvm_inb(tv, 0x501), 0xff);
    testvm_free(tv);
}

TEST(bad_properties_are_refused)
{
    struct testvm *tv = testvm_new();
    struct err err = {0};

    assert_null(device_new(&tv->vm, &isa_debug_exit_type, "x",
                           &(struct isa_debug_exit_config){.iobase = 0x12345}, &err));
    assert_non_null(strstr(err.text, "0x12345"));
    assert_null(device_new(&tv->vm, &isa_debug_exit_type, "x",
                           &(struct isa_debug_exit_config){.iosize = 5}, &err));
    assert_non_null(strstr(err.text, "iosize"));
    testvm_free(tv);
}
