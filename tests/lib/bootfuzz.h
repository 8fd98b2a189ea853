/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the loaders' fuzz targets share. The first bytes choose the guest's size, its modules and
 * its command line, and how the rest is used: as the image itself, or as changes to a valid kernel,
 * three bytes each (offset low, offset high, value), because random bytes are hardly ever a kernel.
 * The image lies in a buffer of exactly its size, so that reads past it are seen. A write outside
 * the RAM of the memory map fails as it would in a VM, and the entry must be in RAM.
 */
#ifndef TESTS_LIB_BOOTFUZZ_H
#define TESTS_LIB_BOOTFUZZ_H

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/cpu_state.h"
#include "machine/boot/loader.h"
#include "tests/lib/bootmem.h"

#define BOOTFUZZ_HEAD  8
#define BOOTFUZZ_RAW   0x80
#define BOOTFUZZ_IMAGE 2048u

struct bootfuzz_memory {
    const struct e820 *map;
    uint8_t sum;
};

static inline bool bootfuzz_write(void *opaque, gpa_t gpa, const void *data, size_t size)
{
    struct bootfuzz_memory *m = opaque;

    /* Reads all of it: the source must be there. */
    for (size_t i = 0; i<size; i += size> 4096 ? 64 : 1)
        m->sum ^= ((const uint8_t *)data)[i];
    /* The BIOS areas are RAM, too, though the map keeps them from the system. */
    return e820_is_ram(m->map, gpa, size) || (gpa == EBDA_BASE && size <= 1024) ||
           (gpa >= 0xf0000 && range_ok(gpa, size, 0x100000));
}

/* A valid kernel of one of four sorts; returns its size, at most BOOTFUZZ_IMAGE. */
static inline size_t bootfuzz_kernel(uint8_t *image, uint8_t sort)
{
    uint8_t payload[512] = {0}, note[20] = {0};
    struct bootmem_elf elf = {.is64 = sort & 4,
                              .entry = 0x200010,
                              .paddr = 0x200000,
                              .vaddr = sort & 8 ? 0xc0200000 : 0x200000,
                              .memsz = 0x3000,
                              .payload = payload,
                              .payload_size = sizeof(payload)};

    memset(image, 0, BOOTFUZZ_IMAGE);
    switch (sort & 3) {
    case 0: /* bzImage */
        image[0x1f1] = 1;
        put_le16(image + 0x1fe, 0xaa55);
        image[0x201] = 0x6a;
        memcpy(image + 0x202, "HdrS", 4);
        put_le16(image + 0x206, sort & 8 ? 0x204 : 0x20f);
        image[0x211] = 1;
        put_le32(image + 0x22c, 0x7fffffff);
        put_le32(image + 0x230, 0x10000);
        image[0x234] = 1;
        put_le16(image + 0x236, (sort >> 2) & 1);
        put_le32(image + 0x238, 255);
        put_le32(image + 0x24c, 64);
        put_le64(image + 0x258, 0x200000);
        put_le32(image + 0x260, 0x8000);
        return BOOTFUZZ_IMAGE;
    case 1: /* PVH */
        put_le32(note, 4);
        put_le32(note + 4, 4);
        put_le32(note + 8, 18);
        memcpy(note + 12, "Xen", 4);
        put_le32(note + 16, 0x200020);
        elf.note = note;
        elf.note_size = sizeof(note);
        return bootmem_elf(image, &elf);
    case 2: /* Multiboot ELF; without the header a vmlinux */
        put_le32(payload, 0x1badb002);
        put_le32(payload + 4, 3);
        put_le32(payload + 8, 0u - 0x1badb002u - 3);
        return bootmem_elf(image, &elf);
    default: /* Multiboot with addresses */
        put_le32(image, 0x1badb002);
        put_le32(image + 4, 0x10003);
        put_le32(image + 8, 0u - 0x1badb002u - 0x10003);
        put_le32(image + 12, 0x200000);
        put_le32(image + 16, 0x200000);
        put_le32(image + 20, sort & 4 ? 0x200100 : 0);
        put_le32(image + 24, sort & 8 ? 0x200400 : 0);
        put_le32(image + 28, 0x200010);
        return 1024;
    }
}

static inline uint8_t *bootfuzz_image(const uint8_t *data, size_t size, uint8_t sort, uint8_t how,
                                      size_t *len)
{
    uint8_t kernel[BOOTFUZZ_IMAGE];
    uint8_t *image;

    if (how & BOOTFUZZ_RAW) {
        image = malloc(size ? size : 1);
        if (image)
            memcpy(image, data, size);
        *len = size;
        return image;
    }
    *len = bootfuzz_kernel(kernel, sort);
    for (; size >= 3; data += 3, size -= 3)
        kernel[get_le16(data) % *len] = data[2];
    if (how & 1)
        *len = *len * 3 / 4; /* cut off */
    image = malloc(*len);
    if (image)
        memcpy(image, kernel, *len);
    return image;
}

static inline int bootfuzz(const uint8_t *data, size_t size, const enum boot_kind *kinds,
                           unsigned nkinds, uint8_t sort)
{
    static const uint8_t module[70000];
    struct boot_input in = {.cmdline = "a b"};
    struct bootfuzz_memory fm = {.map = &in.map};
    struct boot_memory mem = {.write = bootfuzz_write, .opaque = &fm};
    struct e820_config map = {0};
    struct boot_entry entry;
    struct cpu_state cs;
    struct err err;
    uint8_t *image;
    size_t len;

    if (size < BOOTFUZZ_HEAD)
        return 0;
    image = bootfuzz_image(data + BOOTFUZZ_HEAD, size - BOOTFUZZ_HEAD,
                           sort ^ (data[6] & 0x0c) ^ (data[6] & 0x80 ? 1 : 0), data[0], &len);
    if (!image)
        return 0;
    map.low_end = (1ull << 20) + ((uint64_t)(get_le16(data + 1) & 0x3fff) << 12);
    map.high_end = data[0] & 0x20 ? 5ull << 30 : 0;
    e820_build(&map, &in.map);
    in.rsdp = 0xf0000;
    in.long_mode = data[3] & 1;
    in.kernel = (struct boot_file){.data = image, .size = len, .name = "kernel", .args = NULL};
    in.nmodules = data[4] & 0x80 ? data[4] % (BOOT_MAX_MODULES + 1) : data[4] & 1;
    for (unsigned i = 0; i < in.nmodules; i++)
        in.module[i] = (struct boot_file){.data = module, .size = 1 + get_le16(data + 5), .name = "module", .args = "module args"};
    boot_kind_name(boot_sniff(image, len));
    for (unsigned i = 0; i < nkinds; i++) {
        if (boot_load(kinds[i], &in, &mem, &entry, &err))
            continue;
        memset(&cs, 0, sizeof(cs));
        boot_entry_apply(&entry, &cs);
        if (!e820_is_ram(&in.map, entry.rip, 1))
            abort();
    }
    free(image);
    return 0;
}

#endif
