/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/fw_cfg.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/testvm.h"

#define SELECT 0x510
#define DATA   0x511

struct fixture {
    struct testvm *tv;
    struct device *fw;
};

static int setup(void **state)
{
    static const struct fw_cfg_config config = {
        .ram_size = 0x123456789a, .ncpus = 3, .max_cpus = 5, .nographic = true};
    struct fixture *f = test_calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->fw = testvm_add(f->tv, &fw_cfg_type, &config);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testvm_free(f->tv);
    test_free(f);
    return 0;
}

static void select_item(struct fixture *f, uint16_t key)
{
    testvm_out(f->tv, SELECT, key, 2);
}

static uint64_t little(struct fixture *f, uint16_t key, unsigned bytes)
{
    uint64_t v = 0;

    select_item(f, key);
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)testvm_inb(f->tv, DATA) << (i * 8);
    return v;
}

static uint32_t big(struct fixture *f, unsigned bytes)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v = v << 8 | testvm_inb(f->tv, DATA);
    return v;
}

static void signature_and_id_announce_the_port_interface_only(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(little(f, FW_CFG_SIGNATURE, 4), 0x554d4551); /* "QEMU" */
    assert_int_equal(little(f, FW_CFG_ID, 4), 1);
}

static void numbers_tell_of_the_machine(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(little(f, FW_CFG_RAM_SIZE, 8), 0x123456789a);
    assert_int_equal(little(f, FW_CFG_NB_CPUS, 2), 3);
    assert_int_equal(little(f, FW_CFG_MAX_CPUS, 2), 5);
    assert_int_equal(little(f, FW_CFG_NOGRAPHIC, 2), 1);
}

static void reading_past_the_end_and_absent_items_gives_zeros(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(little(f, FW_CFG_NB_CPUS, 4), 3);
    assert_int_equal(little(f, 0x0042, 4), 0);
    assert_int_equal(little(f, 0xffff, 4), 0);
    assert_int_equal(little(f, 0x8003, 4), 0);
}

static void selecting_starts_at_the_first_byte(void **state)
{
    struct fixture *f = *state;

    select_item(f, FW_CFG_SIGNATURE);
    testvm_inb(f->tv, DATA);
    assert_int_equal(little(f, FW_CFG_SIGNATURE, 1), 'Q');
    assert_int_equal(little(f, FW_CFG_SIGNATURE | 0x4000, 1), 'Q'); /* the write bit */
}

static void string_input_reads_on(void **state)
{
    struct fixture *f = *state;
    char text[4];

    select_item(f, FW_CFG_SIGNATURE);
    bus_access_rep(&f->tv->vm.ports, (struct bus_from){.vcpu = -1}, DATA, text, 1, 4, false);
    assert_memory_equal(text, "QEMU", 4);
}

static void files_are_listed_and_read(void **state)
{
    struct fixture *f = *state;
    char name[FW_CFG_NAME_SIZE];

    assert_int_equal(fw_cfg_add_file(f->fw, "etc/one", "abc", 3), 0);
    assert_int_equal(fw_cfg_add_file(f->fw, "etc/empty", NULL, 0), 0);
    select_item(f, FW_CFG_FILE_DIR);
    assert_int_equal(big(f, 4), 2);
    assert_int_equal(big(f, 4), 3);
    assert_int_equal(big(f, 2), FW_CFG_FILE_FIRST);
    assert_int_equal(big(f, 2), 0);
    for (unsigned i = 0; i < FW_CFG_NAME_SIZE; i++)
        name[i] = (char)testvm_inb(f->tv, DATA);
    assert_string_equal(name, "etc/one");
    assert_int_equal(little(f, FW_CFG_FILE_FIRST, 4), 0x636261);
}

static void bad_files_are_refused(void **state)
{
    struct fixture *f = *state;
    char name[80];

    memset(name, 'x', sizeof(name));
    name[79] = 0;
    assert_int_equal(fw_cfg_add_file(f->fw, name, "", 0), -EINVAL);
    assert_int_equal(fw_cfg_add_file(f->fw, "", "", 0), -EINVAL);
    assert_int_equal(fw_cfg_add_file(f->fw, "a", "", 0), 0);
    assert_int_equal(fw_cfg_add_file(f->fw, "a", "", 0), -EEXIST);
    for (unsigned i = 1; i < FW_CFG_MAX_FILES; i++) {
        snprintf(name, sizeof(name), "file%u", i);
        assert_int_equal(fw_cfg_add_file(f->fw, name, "z", 1), 0);
    }
    assert_int_equal(fw_cfg_add_file(f->fw, "one too many", "", 0), -ENOSPC);
    assert_int_equal(little(f, FW_CFG_FILE_FIRST + FW_CFG_MAX_FILES - 1, 1), 'z');
}

static void numbered_items_can_be_set_and_replaced(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_CMDLINE_DATA, "hello", 6), 0);
    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_CMDLINE_DATA, "bye", 4), 0);
    assert_int_equal(little(f, FW_CFG_CMDLINE_DATA, 6), 0x657962);
    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_FILE_FIRST, "", 0), -EINVAL);
}

static void writes_to_data_and_byte_accesses_to_the_selector_change_nothing(void **state)
{
    struct fixture *f = *state;

    select_item(f, FW_CFG_SIGNATURE);
    testvm_outb(f->tv, DATA, 0xff);
    testvm_outb(f->tv, SELECT, 5);
    assert_int_equal(testvm_inb(f->tv, DATA), 'Q');
    assert_int_equal(testvm_inb(f->tv, SELECT), 0xff);
    assert_int_equal(f->fw->bad_accesses, 2);
}

static void state_survives(void **state)
{
    struct fixture *f = *state;

    select_item(f, FW_CFG_SIGNATURE);
    testvm_inb(f->tv, DATA);
    testvm_state_roundtrip(f->fw);
    assert_int_equal(testvm_inb(f->tv, DATA), 'E');
    assert_true(testvm_load_with(f->fw, "offset", 0, UINT32_MAX));
    assert_int_equal(testvm_inb(f->tv, DATA), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(signature_and_id_announce_the_port_interface_only),
        T(numbers_tell_of_the_machine),
        T(reading_past_the_end_and_absent_items_gives_zeros),
        T(selecting_starts_at_the_first_byte),
        T(string_input_reads_on),
        T(files_are_listed_and_read),
        T(bad_files_are_refused),
        T(numbered_items_can_be_set_and_replaced),
        T(writes_to_data_and_byte_accesses_to_the_selector_change_nothing),
        T(state_survives),
    };

    return cmocka_run_group_tests_name("fw_cfg", tests, NULL, NULL);
}
