/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory map that firmware would report (ACPI 6 section 15). PC memory below 1 MiB is as every
 * BIOS has it: conventional memory up to the extended BIOS data area, and the top 64 KiB reserved;
 * what lies between A0000h and EFFFFh is not mentioned.
 */
#include "machine/boot/loader.h"

#define MIB      (1ull << 20)
#define FOUR_GIB (1ull << 32)

static void add(struct e820 *map, uint64_t addr, uint64_t end, uint32_t type)
{
    if (end <= addr || map->count >= E820_MAX)
        return;
    map->entry[map->count++] = (struct e820_entry){addr, end - addr, type};
}

void e820_build(const struct e820_config *config, struct e820 *map)
{
    uint64_t ram_end = config->acpi_size ? config->acpi_base : config->low_end;
    uint64_t nvs = config->acpi_base + config->acpi_size - config->nvs_size;

    map->count = 0;
    add(map, 0, min_u64(config->low_end, EBDA_BASE), E820_RAM);
    add(map, EBDA_BASE, 0xa0000, E820_RESERVED);
    add(map, 0xf0000, MIB, E820_RESERVED);
    add(map, MIB, ram_end, E820_RAM);
    if (config->acpi_size) {
        add(map, config->acpi_base, nvs, E820_ACPI);
        add(map, nvs, config->acpi_base + config->acpi_size, E820_NVS);
    }
    if (config->ecam_size)
        add(map, config->ecam_base, config->ecam_base + config->ecam_size, E820_RESERVED);
    add(map, FOUR_GIB, config->high_end, E820_RAM);
}

uint64_t e820_run_end(const struct e820 *map, uint64_t from)
{
    for (unsigned i = 0; i < map->count; i++) {
        const struct e820_entry *e = &map->entry[i];

        if (e->type == E820_RAM && from >= e->addr && from - e->addr < e->size)
            return e->addr + e->size;
    }
    return from;
}

bool e820_is_ram(const struct e820 *map, uint64_t addr, uint64_t size)
{
    uint64_t end;

    if (__builtin_add_overflow(addr, size, &end))
        return false;
    return size == 0 || e820_run_end(map, addr) >= end;
}
