/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/fw_cfg.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define SELECT 0x510
#define DATA   0x511

struct fixture {
    struct testvm *tv;
    struct device *fw;
};

static struct fixture *setup(void)
{
    static const struct fw_cfg_config config = {
        .ram_size = 0x123456789a, .ncpus = 3, .max_cpus = 5, .nographic = true};
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->fw = testvm_add(f->tv, &fw_cfg_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
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

TEST_F(signature_and_id_announce_the_port_interface_only)
{
    assert_int_equal(little(f, FW_CFG_SIGNATURE, 4), 0x554d4551); /* "QEMU" */
    assert_int_equal(little(f, FW_CFG_ID, 4), 1);
}

TEST_F(numbers_tell_of_the_machine)
{
    assert_int_equal(little(f, FW_CFG_RAM_SIZE, 8), 0x123456789a);
    assert_int_equal(little(f, FW_CFG_NB_CPUS, 2), 3);
    assert_int_equal(little(f, FW_CFG_MAX_CPUS, 2), 5);
    assert_int_equal(little(f, FW_CFG_NOGRAPHIC, 2), 1);
}

TEST_F(reading_past_the_end_and_absent_items_gives_zeros)
{
    assert_int_equal(little(f, FW_CFG_NB_CPUS, 4), 3);
    assert_int_equal(little(f, 0x0042, 4), 0);
    assert_int_equal(little(f, 0xffff, 4), 0);
    assert_int_equal(little(f, 0x8003, 4), 0);
}

TEST_F(selecting_starts_at_the_first_byte)
{
    select_item(f, FW_CFG_SIGNATURE);
    testvm_inb(f->tv, DATA);
    assert_int_equal(little(f, FW_CFG_SIGNATURE, 1), 'Q');
    assert_int_equal(little(f, FW_CFG_SIGNATURE | 0x4000, 1), 'Q'); /* the write bit */
}

TEST_F(string_input_reads_on)
{
    char text[4];

    select_item(f, FW_CFG_SIGNATURE);
    bus_access_rep(&f->tv->vm.ports, (struct bus_from){.vcpu = -1}, DATA, text, 1, 4, false);
    assert_memory_equal(text, "QEMU", 4);
}

TEST_F(files_are_listed_and_read)
{
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

TEST_F(bad_files_are_refused)
{
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

TEST_F(numbered_items_can_be_set_and_replaced)
{
    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_CMDLINE_DATA, "hello", 6), 0);
    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_CMDLINE_DATA, "bye", 4), 0);
    assert_int_equal(little(f, FW_CFG_CMDLINE_DATA, 6), 0x657962);
    assert_int_equal(fw_cfg_add_item(f->fw, FW_CFG_FILE_FIRST, "", 0), -EINVAL);
}

TEST_F(writes_to_data_and_byte_accesses_to_the_selector_change_nothing)
{
    select_item(f, FW_CFG_SIGNATURE);
    testvm_outb(f->tv, DATA, 0xff);
    testvm_outb(f->tv, SELECT, 5);
    assert_int_equal(testvm_inb(f->tv, DATA), 'Q');
    assert_int_equal(testvm_inb(f->tv, SELECT), 0xff);
    assert_int_equal(f->fw->bad_accesses, 2);
}

TEST_F(state_survives)
{
    select_item(f, FW_CFG_SIGNATURE);
    testvm_inb(f->tv, DATA);
    testvm_state_roundtrip(f->fw);
    assert_int_equal(testvm_inb(f->tv, DATA), 'E');
    assert_true(testvm_load_with(f->fw, "offset", 0, UINT32_MAX));
    assert_int_equal(testvm_inb(f->tv, DATA), 0);
}
