/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PVH: Xen's direct boot ABI for HVM guests (docs/misc/pvh.pandoc and
 * xen/include/public/arch-x86/hvm/start_info.h of Xen). The ELF file, of either class, names its
 * 32-bit physical entry in a note; the kernel is entered in protected mode without paging, EBX
 * pointing at struct hvm_start_info. Our structures stand in RAM after the kernel and its modules.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/boot/loader.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_MAGIC              0x336ec578
#define START_VERSION            1
#define START_SIZE               56
#define MODULE_SIZE              32
#define MEMMAP_SIZE              24

#define NOTE_HEADER 12

/* Walks one PT_NOTE segment for the entry point. */
static bool find_in_notes(const uint8_t *p, uint64_t size, uint32_t *entry)
{
    while (size >= NOTE_HEADER) {
        uint64_t namesz = get_le32(p), descsz = get_le32(p + 4);
        uint32_t type = get_le32(p + 8);
        uint64_t desc = NOTE_HEADER + align_up(namesz, 4);
        uint64_t next = desc + align_up(descsz, 4);

        if (!range_ok(desc, descsz, size))
            return false;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(p + NOTE_HEADER, "Xen", 4) &&
            (descsz == 4 || descsz == 8)) {
            *entry = get_le32(p + desc);
            return descsz == 4 || get_le32(p + desc + 4) == 0;
        }
        if (next > size)
            return false;
        p += next;
        size -= next;
    }
    return false;
}

static bool find_entry(const struct elf_image *elf, uint32_t *entry)
{
    struct elf_segment seg;

    for (unsigned i = 0; i < elf->phnum; i++)
        if (elf_segment(elf, i, &seg) && seg.type == PT_NOTE &&
            find_in_notes(elf->data + seg.offset, seg.filesz, entry))
            return true;
    return false;
}

bool pvh_probe(const uint8_t *data, size_t size)
{
    struct elf_image elf;
    uint32_t entry;

    return elf_open(&elf, data, size) && find_entry(&elf, &entry);
}

/* Start info, module list, memory map, command lines, in one run at `at`. */
static int write_start_info(const struct boot_input *in, const struct boot_memory *mem, gpa_t at,
                            gpa_t end, const gpa_t *module_at, struct err *err)
{
    uint8_t info[START_SIZE + BOOT_MAX_MODULES * MODULE_SIZE + E820_MAX * MEMMAP_SIZE] = {0};
    size_t cmdline_len = strlen(in->cmdline) + 1;
    uint64_t modules = START_SIZE, memmap = modules + in->nmodules * MODULE_SIZE;
    uint64_t size = memmap + in->map.count * MEMMAP_SIZE;
    int r;

    if (size + cmdline_len > end - at)
        return err_set(err, ENOMEM,
                       "%s and its modules leave no room in guest memory: give it "
                       "more with --memory",
                       in->kernel.name);
    put_le32(info, START_MAGIC);
    put_le32(info + 4, START_VERSION);
    put_le32(info + 12, in->nmodules);
    put_le64(info + 16, in->nmodules ? at + modules : 0);
    put_le64(info + 24, at + size);
    put_le64(info + 32, in->rsdp);
    put_le64(info + 40, at + memmap);
    put_le32(info + 48, in->map.count);
    for (unsigned i = 0; i < in->nmodules; i++) {
        put_le64(info + modules + i * MODULE_SIZE, module_at[i]);
        put_le64(info + modules + i * MODULE_SIZE + 8, in->module[i].size);
    }
    for (unsigned i = 0; i < in->map.count; i++) {
        uint8_t *e = info + memmap + i * MEMMAP_SIZE;

        put_le64(e, in->map.entry[i].addr);
        put_le64(e + 8, in->map.entry[i].size);
        put_le32(e + 16, in->map.entry[i].type);
    }
    r = boot_write(mem, at, info, size, "hvm_start_info", err);
    return r ? r : boot_write(mem, at + size, in->cmdline, cmdline_len, "the command line", err);
}

int pvh_load(const struct boot_input *in, const struct boot_memory *mem, struct boot_entry *entry,
             struct err *err)
{
    gpa_t module_at[BOOT_MAX_MODULES];
    struct elf_image elf;
    gpa_t first, last, at, end;
    uint32_t start;
    int r;

    if (!elf_open(&elf, in->kernel.data, in->kernel.size) || !find_entry(&elf, &start))
        return err_set(err, EINVAL, "%s has no PVH entry note", in->kernel.name);
    r = elf_load(&elf, in, mem, &first, &last, err);
    if (r)
        return r;
    if (start < first || start >= last)
        return err_set(err, EINVAL,
                       "%s: its PVH entry %#x lies outside what it loads: it is "
                       "damaged",
                       in->kernel.name, start);

    r = boot_place_modules(in, mem, last, module_at, &at, &end, err);
    if (r)
        return r;
    r = write_start_info(in, mem, at, end, module_at, err);
    if (r)
        return r;
    entry->mode = BOOT_MODE_PROTECTED;
    entry->rip = start;
    entry->rbx = at;
    /* pvh.pandoc leaves selectors open; 10h and 18h are what a GDT of ours would have. */
    entry->code_selector = 0x10;
    entry->data_selector = 0x18;
    return 0;
}
