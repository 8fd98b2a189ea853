/* SPDX-License-Identifier: Apache-2.0 */
#include "machine/boot/loader.h"
#include "tests/lib/unit.h"

#define GIB (1ull << 30)

static const struct e820_config big = {.low_end = 2 * GIB,
                                       .high_end = 6 * GIB,
                                       .acpi_base = 2 * GIB - 0x3000,
                                       .acpi_size = 0x3000,
                                       .nvs_size = 0x1000,
                                       .ecam_base = 0xb0000000,
                                       .ecam_size = 0x10000000};

static void assert_entry(const struct e820_entry *e, uint64_t addr, uint64_t end, uint32_t type)
{
    assert_int_equal(e->addr, addr);
    assert_int_equal(e->addr + e->size, end);
    assert_int_equal(e->type, type);
}

TEST(map_lists_every_area_in_order)
{
    struct e820 map;

    e820_build(&big, &map);
    assert_int_equal(map.count, 8);
    assert_entry(&map.entry[0], 0, 0x9fc00, E820_RAM);
    assert_entry(&map.entry[1], 0x9fc00, 0xa0000, E820_RESERVED);
    assert_entry(&map.entry[2], 0xf0000, 0x100000, E820_RESERVED);
    assert_entry(&map.entry[3], 0x100000, 2 * GIB - 0x3000, E820_RAM);
    assert_entry(&map.entry[4], 2 * GIB - 0x3000, 2 * GIB - 0x1000, E820_ACPI);
    assert_entry(&map.entry[5], 2 * GIB - 0x1000, 2 * GIB, E820_NVS);
    assert_entry(&map.entry[6], 0xb0000000, 0xc0000000, E820_RESERVED);
    assert_entry(&map.entry[7], 4 * GIB, 6 * GIB, E820_RAM);
}

TEST(what_is_absent_is_not_listed)
{
    struct e820_config config = {.low_end = 16u << 20};
    struct e820 map;

    e820_build(&config, &map);
    assert_int_equal(map.count, 4);
    assert_entry(&map.entry[3], 0x100000, 16u << 20, E820_RAM);
}

TEST(one_megabyte_has_only_conventional_memory)
{
    struct e820_config config = {.low_end = 1u << 20};
    struct e820 map;

    e820_build(&config, &map);
    assert_int_equal(map.count, 3);
    assert_int_equal(e820_run_end(&map, 0x100000), 0x100000);
}

TEST(ram_is_ram_only_inside_one_run)
{
    struct e820 map;

    e820_build(&big, &map);
    assert_true(e820_is_ram(&map, 0x100000, GIB));
    assert_true(e820_is_ram(&map, 4 * GIB, 2 * GIB));
    assert_false(e820_is_ram(&map, 4 * GIB, 2 * GIB + 1));
    assert_false(e820_is_ram(&map, 0x9f000, 0x1000));
    assert_false(e820_is_ram(&map, 0xa0000, 1));
    assert_false(e820_is_ram(&map, 0x100000, UINT64_MAX - 0x80000));
    assert_true(e820_is_ram(&map, 0xa0000, 0));
    assert_int_equal(e820_run_end(&map, 0x200000), 2 * GIB - 0x3000);
}
