/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory for the loaders' tests: an array that refuses writes past its end, and an input. */
#ifndef TESTS_LIB_BOOTMEM_H
#define TESTS_LIB_BOOTMEM_H

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/boot/loader.h"

#define BOOTMEM_SIZE (64u << 20)
#define BOOTMEM_RSDP 0xf0000u

struct bootmem {
    uint8_t *ram;
    struct boot_memory mem;
    struct boot_input in;
    struct boot_entry entry;
    struct err err;
};

static inline bool bootmem_write(void *opaque, gpa_t gpa, const void *data, size_t size)
{
    struct bootmem *b = opaque;

    if (!range_ok(gpa, size, BOOTMEM_SIZE))
        return false;
    memcpy(b->ram + gpa, data, size);
    return true;
}

/* RAM filled with ones, so that what must be zeroed is seen to be. */
static inline void bootmem_init(struct bootmem *b)
{
    struct e820_config map = {.low_end = BOOTMEM_SIZE,
                              .acpi_base = BOOTMEM_SIZE - 0x10000,
                              .acpi_size = 0x10000,
                              .nvs_size = 0x1000};

    memset(b, 0, sizeof(*b));
    b->ram = malloc(BOOTMEM_SIZE);
    if (!b->ram)
        abort();
    memset(b->ram, 0xff, BOOTMEM_SIZE);
    b->mem = (struct boot_memory){.write = bootmem_write, .opaque = b};
    e820_build(&map, &b->in.map);
    b->in.cmdline = "";
    b->in.rsdp = BOOTMEM_RSDP;
    b->in.long_mode = true;
    b->in.kernel.name = "kernel";
}

static inline void bootmem_fini(struct bootmem *b)
{
    free(b->ram);
}

static inline int bootmem_load(struct bootmem *b, enum boot_kind kind)
{
    return boot_load(kind, &b->in, &b->mem, &b->entry, &b->err);
}

/* True if the image is refused by a sentence with this in it. */
static inline bool bootmem_refuses(struct bootmem *b, enum boot_kind kind, const char *part)
{
    return bootmem_load(b, kind) < 0 && strstr(b->err.text, part);
}

/* An ELF executable of one segment and, if note_size is not 0, one PT_NOTE; returns its size. */
struct bootmem_elf {
    bool is64;
    uint64_t entry, paddr, vaddr, memsz;
    const uint8_t *payload;
    size_t payload_size;
    const uint8_t *note;
    size_t note_size;
};

static inline size_t bootmem_elf(uint8_t *out, const struct bootmem_elf *e)
{
    size_t ehdr = e->is64 ? 64 : 52, phdr = e->is64 ? 56 : 32;
    unsigned n = e->note_size ? 2 : 1;
    size_t payload_at = 0x100, note_at = payload_at + e->payload_size;
    uint8_t *p;

    memset(out, 0, payload_at);
    memcpy(out, "\177ELF", 4);
    out[4] = e->is64 ? 2 : 1;
    out[5] = 1;
    out[6] = 1;
    put_le16(out + 16, 2);                /* ET_EXEC */
    put_le16(out + 18, e->is64 ? 62 : 3); /* machine */
    put_le(out + 24, e->entry, e->is64 ? 8 : 4);
    put_le(out + (e->is64 ? 32 : 28), ehdr, e->is64 ? 8 : 4);
    put_le16(out + (e->is64 ? 54 : 42), (uint16_t)phdr);
    put_le16(out + (e->is64 ? 56 : 44), (uint16_t)n);
    for (unsigned i = 0; i < n; i++) {
        uint64_t off = i ? note_at : payload_at, size = i ? e->note_size : e->payload_size;

        p = out + ehdr + i * phdr;
        put_le32(p, i ? 4 : 1);
        if (e->is64) {
            put_le64(p + 8, off);
            put_le64(p + 16, i ? 0 : e->vaddr);
            put_le64(p + 24, i ? 0 : e->paddr);
            put_le64(p + 32, size);
            put_le64(p + 40, i ? size : e->memsz);
        } else {
            put_le32(p + 4, (uint32_t)off);
            put_le32(p + 8, i ? 0 : (uint32_t)e->vaddr);
            put_le32(p + 12, i ? 0 : (uint32_t)e->paddr);
            put_le32(p + 16, (uint32_t)size);
            put_le32(p + 20, i ? (uint32_t)size : (uint32_t)e->memsz);
        }
    }
    memcpy(out + payload_at, e->payload, e->payload_size);
    if (e->note_size)
        memcpy(out + note_at, e->note, e->note_size);
    return note_at + e->note_size;
}

#endif
