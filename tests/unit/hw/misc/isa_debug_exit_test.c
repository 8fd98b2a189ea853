/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/isa_debug_exit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/testvm.h"

static void write_ends_the_vm_with_the_value(void **state)
{
    struct testvm *tv = testvm_new();
    struct device *dev = testvm_add(tv, &isa_debug_exit_type, &(struct isa_debug_exit_config){0});
    uint32_t value = 0;

    (void)state;
    testvm_outb(tv, 0x501, 0x31);
    assert_int_equal(testvm_take_request(tv, &value), VM_REQUEST_DEBUG_EXIT);
    assert_int_equal(value, 0x31);
    testvm_out(tv, 0x501, 0x1234, 2);
    assert_int_equal(testvm_take_request(tv, &value), VM_REQUEST_DEBUG_EXIT);
    assert_int_equal(value, 0x1234);
    testvm_state_roundtrip(dev);
    testvm_free(tv);
}

static void reading_does_nothing(void **state)
{
    struct testvm *tv = testvm_new();

    (void)state;
    testvm_add(tv, &isa_debug_exit_type,
               &(struct isa_debug_exit_config){.iobase = 0xf4, .iosize = 4});
    assert_int_equal(testvm_in(tv, 0xf4, 4), 0);
    assert_int_equal(testvm_take_request(tv, NULL), VM_REQUEST_NONE);
    assert_int_equal(testvm_inb(tv, 0x501), 0xff);
    testvm_free(tv);
}

static void bad_properties_are_refused(void **state)
{
    struct testvm *tv = testvm_new();
    struct err err = {0};

    (void)state;
    assert_null(device_new(&tv->vm, &isa_debug_exit_type, "x",
                           &(struct isa_debug_exit_config){.iobase = 0x12345}, &err));
    assert_non_null(strstr(err.text, "0x12345"));
    assert_null(device_new(&tv->vm, &isa_debug_exit_type, "x",
                           &(struct isa_debug_exit_config){.iosize = 5}, &err));
    assert_non_null(strstr(err.text, "iosize"));
    testvm_free(tv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_ends_the_vm_with_the_value),
        cmocka_unit_test(reading_does_nothing),
        cmocka_unit_test(bad_properties_are_refused),
    };

    return cmocka_run_group_tests_name("isa_debug_exit", tests, NULL, NULL);
}
