/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Multiboot Specification 0.6.96: ELF files and images with an address header ("a.out kludge"),
 * modules with command lines, memory map. GNU Mach, Xen, memtest86+ and most teaching systems start
 * this way. The information structure stands in RAM after the kernel and its modules; the kernel's
 * own pages may be anywhere, below 1 MiB too.
 *
 * Video modes, drives, the configuration table, APM and symbol tables are not offered: their flags
 * are clear. A kernel that asks for a video mode is started without.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/boot/loader.h"

/* Header, section 3.1. */
#define SEARCH              8192u
#define HEADER_MAGIC        0x1badb002u
#define HEADER_SIZE         12u
#define HEADER_SIZE_ADDRESS 32u
#define FLAG_PAGE_ALIGN     BIT(0)
#define FLAG_MEMORY_INFO    BIT(1)
#define FLAG_VIDEO_MODE     BIT(2)
#define FLAG_ADDRESS        BIT(16)
#define FLAGS_REQUIRED      0xffffu /* bits 0-15: refuse what we do not know */
#define FLAGS_KNOWN         (FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO | FLAG_VIDEO_MODE)

/* Information structure, section 3.3. */
#define LOADER_MAGIC     0x2badb002u
#define INFO_SIZE        120u
#define INFO_MEMORY      BIT(0)
#define INFO_CMDLINE     BIT(2)
#define INFO_MODS        BIT(3)
#define INFO_MEM_MAP     BIT(6)
#define INFO_LOADER_NAME BIT(9)
#define MODULE_SIZE      16u
#define MMAP_SIZE        24u

#define LOADER_NAME "doppel"

struct header {
    uint32_t offset; /* in the file */
    uint32_t flags;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static bool find_header(const uint8_t *data, size_t size, struct header *h)
{
    for (uint32_t at = 0; at + HEADER_SIZE <= min_u64(size, SEARCH); at += 4) {
        const uint8_t *p = data + at;
        uint32_t flags = get_le32(p + 4);

        if (get_le32(p) != HEADER_MAGIC || HEADER_MAGIC + flags + get_le32(p + 8) != 0)
            continue;
        *h = (struct header){.offset = at, .flags = flags};
        if (flags & FLAG_ADDRESS) {
            if (!range_ok(at, HEADER_SIZE_ADDRESS, size))
                return false;
            h->header_addr = get_le32(p + 12);
            h->load_addr = get_le32(p + 16);
            h->load_end_addr = get_le32(p + 20);
            h->bss_end_addr = get_le32(p + 24);
            h->entry_addr = get_le32(p + 28);
        }
        return true;
    }
    return false;
}

bool multiboot_probe(const uint8_t *data, size_t size)
{
    struct header h;

    return find_header(data, size, &h);
}

/* Section 3.1.3: the file is one run of bytes at load_addr. */
static int load_by_address(const struct boot_input *in, const struct boot_memory *mem,
                           const struct header *h, gpa_t *last, struct err *err)
{
    const char *name = in->kernel.name;
    uint64_t start, size, bss;
    int r;

    if (h->header_addr < h->load_addr || h->header_addr - h->load_addr > h->offset)
        return err_set(err, EINVAL, "%s: its multiboot header contradicts itself: it is damaged",
                       name);
    start = h->offset - (h->header_addr - h->load_addr);
    size = in->kernel.size - start;
    if (h->load_end_addr) {
        if (h->load_end_addr < h->load_addr || h->load_end_addr - h->load_addr > size)
            return err_set(err, EINVAL, "%s is truncated: its multiboot header promises more",
                           name);
        size = h->load_end_addr - h->load_addr;
    }
    *last = h->load_addr + size;
    bss = h->bss_end_addr > *last ? h->bss_end_addr - *last : 0;
    if (!e820_is_ram(&in->map, h->load_addr, size + bss))
        return err_set(err, ENOMEM,
                       "%s wants memory from %#x to %#llx, and the guest has no RAM "
                       "there: give it more with --memory",
                       name, h->load_addr, (unsigned long long)(*last + bss));
    r = boot_write(mem, h->load_addr, in->kernel.data + start, size, name, err);
    if (r == 0)
        r = boot_zero(mem, *last, bss, name, err);
    *last += bss;
    return r;
}

/* Appends to the information being built; false: no room. */
struct builder {
    uint8_t *buf;
    uint64_t len, cap;
};

static bool append(struct builder *b, const void *data, size_t size, uint64_t *at)
{
    if (size > b->cap - b->len)
        return false;
    *at = b->len;
    memcpy(b->buf + b->len, data, size);
    b->len += size;
    return true;
}

static int write_info(const struct boot_input *in, const struct boot_memory *mem, gpa_t at,
                      gpa_t end, const gpa_t *module_at, struct err *err)
{
    uint8_t buf[64 * 1024] = {0};
    struct builder b = {.buf = buf, .len = INFO_SIZE, .cap = min_u64(sizeof(buf), end - at)};
    uint8_t mmap[E820_MAX * MMAP_SIZE] = {0}, mods[BOOT_MAX_MODULES * MODULE_SIZE] = {0};
    uint32_t flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MEM_MAP | INFO_LOADER_NAME;
    uint64_t off, str;
    bool ok = b.cap >= INFO_SIZE;

    for (unsigned i = 0; i < in->map.count; i++) {
        uint8_t *e = mmap + i * MMAP_SIZE;

        put_le32(e, MMAP_SIZE - 4); /* its own size field not counted */
        put_le64(e + 4, in->map.entry[i].addr);
        put_le64(e + 12, in->map.entry[i].size);
        put_le32(e + 20, in->map.entry[i].type);
    }
    ok = ok && append(&b, mmap, in->map.count * MMAP_SIZE, &off);
    if (ok) {
        put_le32(buf + 44, in->map.count * MMAP_SIZE);
        put_le32(buf + 48, (uint32_t)(at + off));
    }
    for (unsigned i = 0; ok && i < in->nmodules; i++) {
        const struct boot_file *m = &in->module[i];
        const char *args = m->args ? m->args : m->name;

        ok = append(&b, args, strlen(args) + 1, &str);
        put_le32(mods + i * MODULE_SIZE, (uint32_t)module_at[i]);
        put_le32(mods + i * MODULE_SIZE + 4, (uint32_t)(module_at[i] + m->size));
        put_le32(mods + i * MODULE_SIZE + 8, (uint32_t)(at + str));
    }
    b.len = min_u64(align_up(b.len, 4), b.cap);
    ok = ok && append(&b, mods, in->nmodules * MODULE_SIZE, &off);
    if (ok) {
        put_le32(buf + 20, in->nmodules);
        put_le32(buf + 24, (uint32_t)(at + off));
    }
    /* The image's name comes first: Xen and others skip a word. */
    ok = ok && append(&b, in->kernel.name, strlen(in->kernel.name), &off) &&
         append(&b, " ", 1, &str) && append(&b, in->cmdline, strlen(in->cmdline) + 1, &str);
    if (ok)
        put_le32(buf + 16, (uint32_t)(at + off));
    ok = ok && append(&b, LOADER_NAME, sizeof(LOADER_NAME), &off);
    if (!ok)
        return err_set(err, ENOMEM,
                       "%s, its modules and their command lines leave no room in "
                       "guest memory: give it more with --memory",
                       in->kernel.name);
    put_le32(buf + 64, (uint32_t)(at + off));
    put_le32(buf, flags);
    put_le32(buf + 4, (uint32_t)(e820_run_end(&in->map, 0) / 1024));
    put_le32(buf + 8, (uint32_t)((e820_run_end(&in->map, ONE_MIB) - ONE_MIB) / 1024));
    return boot_write(mem, at, buf, b.len, "the multiboot information", err);
}

int multiboot_load(const struct boot_input *in, const struct boot_memory *mem,
                   struct boot_entry *entry, struct err *err)
{
    gpa_t module_at[BOOT_MAX_MODULES] = {0};
    const char *name = in->kernel.name;
    struct elf_image elf;
    gpa_t first = 0, last, at, end;
    uint64_t start;
    struct header h;
    int r;

    if (!find_header(in->kernel.data, in->kernel.size, &h))
        return err_set(err, EINVAL, "%s has no multiboot header", name);
    if (h.flags & FLAGS_REQUIRED & ~FLAGS_KNOWN)
        return err_set(err, EINVAL, "%s requires multiboot features %#x that no loader has", name,
                       (unsigned)(h.flags & FLAGS_REQUIRED & ~FLAGS_KNOWN));
    if (h.flags & FLAG_ADDRESS) {
        start = h.entry_addr;
        first = h.load_addr;
        r = load_by_address(in, mem, &h, &last, err);
    } else {
        if (!elf_open(&elf, in->kernel.data, in->kernel.size))
            return err_set(err, EINVAL,
                           "%s has a multiboot header without addresses and is no ELF "
                           "file for x86",
                           name);
        start = elf.entry;
        r = elf_load(&elf, in, mem, &first, &last, err);
        /* Some link at a virtual address and enter by it: find the segment that holds the entry. */
        for (unsigned i = 0; r == 0 && (start < first || start >= last) && i < elf.phnum; i++) {
            struct elf_segment seg;

            if (elf_segment(&elf, i, &seg) && seg.type == 1 && elf.entry >= seg.vaddr &&
                elf.entry - seg.vaddr < seg.memsz)
                start = seg.paddr + (elf.entry - seg.vaddr);
        }
    }
    if (r)
        return r;
    if (start < first || start >= last)
        return err_set(err, EINVAL, "%s starts at %#llx, outside what it loads: it is damaged",
                       name, (unsigned long long)start);

    r = boot_place_modules(in, mem, last, module_at, &at, &end, err);
    if (r)
        return r;
    r = write_info(in, mem, at, end, module_at, err);
    if (r)
        return r;
    entry->mode = BOOT_MODE_PROTECTED;
    entry->rip = start;
    entry->rax = LOADER_MAGIC;
    entry->rbx = at;
    entry->code_selector = 0x10;
    entry->data_selector = 0x18;
    return 0;
}
