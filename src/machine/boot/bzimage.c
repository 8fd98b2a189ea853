/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Linux/x86 boot protocol: Documentation/x86/boot.rst and zero-page.rst of the kernel.
 *
 * Kernels with XLF_KERNEL_64 (protocol 2.12) are entered by the 64-bit protocol at load address +
 * 200h: long mode, identity-mapped page tables over the first 4 GiB, RSI at boot_params. The
 * others, i386 kernels among them, are entered by the 32-bit protocol at their load address, paging
 * off. A vmlinux ELF file for x86-64 is what a bzImage unpacks to, and takes the same entry at its
 * first byte. Kernels older than protocol 2.02, not loaded high or with a 16-bit entry only need a
 * BIOS and are refused.
 *
 * Everything in the file is hostile: offsets and sizes are checked against it and against RAM.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "machine/boot/loader.h"

/* struct setup_header, by offset in the image and in boot_params. */
#define HDR_SETUP_SECTS        0x1f1 /* u8 */
#define HDR_VID_MODE           0x1fa /* u16 */
#define HDR_BOOT_FLAG          0x1fe /* u16 */
#define HDR_JUMP_LEN           0x201 /* u8: the header ends at 202h + this */
#define HDR_MAGIC              0x202 /* "HdrS" */
#define HDR_VERSION            0x206 /* u16 */
#define HDR_TYPE_OF_LOADER     0x210
#define HDR_LOADFLAGS          0x211
#define HDR_CODE32_START       0x214
#define HDR_RAMDISK_IMAGE      0x218
#define HDR_RAMDISK_SIZE       0x21c
#define HDR_HEAP_END_PTR       0x224
#define HDR_CMD_LINE_PTR       0x228
#define HDR_INITRD_ADDR_MAX    0x22c /* 2.03 */
#define HDR_KERNEL_ALIGNMENT   0x230 /* 2.05 */
#define HDR_RELOCATABLE_KERNEL 0x234 /* 2.05, u8 */
#define HDR_XLOADFLAGS         0x236 /* 2.12, u16 */
#define HDR_CMDLINE_SIZE       0x238 /* 2.06 */
#define HDR_PAYLOAD_OFFSET     0x248 /* 2.08 */
#define HDR_PAYLOAD_LENGTH     0x24c /* 2.08 */
#define HDR_SETUP_DATA         0x250 /* 2.09, u64 */
#define HDR_PREF_ADDRESS       0x258 /* 2.10, u64 */
#define HDR_INIT_SIZE          0x260 /* 2.10 */

#define BOOT_FLAG        0xaa55
#define MAGIC            0x53726448 /* HdrS */
#define LOADED_HIGH      BIT(0)
#define CAN_USE_HEAP     BIT(7)
#define XLF_KERNEL_64    BIT(0)
#define LOADER_UNDEFINED 0xff
#define VID_MODE_NORMAL  0xffff
#define ENTRY_64         0x200

/* Fields of boot_params outside the header. */
#define BP_ACPI_RSDP_ADDR 0x070 /* u64 */
#define BP_E820_ENTRIES   0x1e8 /* u8 */
#define BP_E820_TABLE     0x2d0
#define BP_E820_ENTRY     20u
#define BP_SIZE           4096

#define DEFAULT_LOAD        0x100000u
#define DEFAULT_INITRD_MAX  0x37ffffffu
#define DEFAULT_CMDLINE_MAX 255u /* before 2.06 */

/* Selectors of the boot protocol. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18

bool bzimage_probe(const uint8_t *data, size_t size)
{
    return size >= 0x268 && get_le16(data + HDR_BOOT_FLAG) == BOOT_FLAG &&
           get_le32(data + HDR_MAGIC) == MAGIC;
}

static int write_gdt(const struct boot_memory *mem, struct boot_entry *entry, struct err *err)
{
    uint8_t gdt[32] = {0};

    /* Flat, present, ring 0, accessed: 64- or 32-bit code at 10h, data at 18h. */
    put_le64(gdt + BOOT_CS,
             entry->mode == BOOT_MODE_LONG ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
    put_le64(gdt + BOOT_DS, 0x00cf93000000ffffull);
    entry->gdt_base = BOOT_GDT;
    entry->gdt_limit = sizeof(gdt) - 1;
    entry->code_selector = BOOT_CS;
    entry->data_selector = BOOT_DS;
    return boot_write(mem, BOOT_GDT, gdt, sizeof(gdt), "the boot GDT", err);
}

/* The first 4 GiB identity-mapped with 2 MiB pages: present, writable; no page has been accessed.
 */
static int write_page_tables(const struct boot_memory *mem, struct err *err)
{
    uint8_t page[PAGE_SIZE] = {0};
    int r;

    put_le64(page, (BOOT_PAGE_TABLES + PAGE_SIZE) | 3);
    r = boot_write(mem, BOOT_PAGE_TABLES, page, sizeof(page), "the boot page tables", err);
    for (unsigned i = 0; i < 4; i++)
        put_le64(page + 8 * i, (BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | 3);
    if (r == 0)
        r = boot_write(mem, BOOT_PAGE_TABLES + PAGE_SIZE, page, sizeof(page),
                       "the boot page tables", err);
    for (unsigned i = 0; i < 4 && r == 0; i++) {
        for (unsigned j = 0; j < 512; j++)
            put_le64(page + 8 * j, ((uint64_t)i << 30 | (uint64_t)j << 21) | 0x83);
        r = boot_write(mem, BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE, page, sizeof(page),
                       "the boot page tables", err);
    }
    return r;
}

/*
 * boot_params but for the header: memory map, RSDP. screen_info stays zero: there is no display,
 * and Linux takes its dummy console.
 */
static void fill_params(const struct boot_input *in, uint8_t *bp, bool rsdp)
{
    bp[BP_E820_ENTRIES] = (uint8_t)in->map.count;
    for (unsigned i = 0; i < in->map.count; i++) {
        uint8_t *e = bp + BP_E820_TABLE + i * BP_E820_ENTRY;

        put_le64(e, in->map.entry[i].addr);
        put_le64(e + 8, in->map.entry[i].size);
        put_le32(e + 16, in->map.entry[i].type);
    }
    if (rsdp)
        put_le64(bp + BP_ACPI_RSDP_ADDR, in->rsdp);
}

/* Command line and initrd, and their fields of the header. `end` is the first byte past the kernel.
 */
static int place_payload(const struct boot_input *in, const struct boot_memory *mem, uint8_t *bp,
                         gpa_t end, uint64_t initrd_max, uint32_t cmdline_max, struct err *err)
{
    size_t len = strlen(in->cmdline);
    int r;

    if (len > min_u64(cmdline_max, BOOT_CMDLINE_MAX - 1))
        return err_set(err, EINVAL,
                       "the command line has %zu characters and %s takes %u: shorten "
                       "--append",
                       len, in->kernel.name, (unsigned)min_u64(cmdline_max, BOOT_CMDLINE_MAX - 1));
    r = boot_write(mem, BOOT_CMDLINE, in->cmdline, len + 1, "the command line", err);
    if (r)
        return r;
    put_le32(bp + HDR_CMD_LINE_PTR, BOOT_CMDLINE);

    if (in->nmodules > 1)
        return err_set(err, EINVAL, "%s takes one initrd and %u were given", in->kernel.name,
                       in->nmodules);
    if (in->nmodules == 1 && in->module[0].size) {
        const struct boot_file *initrd = &in->module[0];
        uint64_t top = min_u64(e820_run_end(&in->map, DEFAULT_LOAD), initrd_max + 1);
        uint64_t at;

        if (end > top || initrd->size > top - end)
            return boot_no_room(initrd, err);
        at = align_down(top - initrd->size, PAGE_SIZE);
        if (at < end)
            at = end; /* fits only unaligned, which is allowed */
        r = boot_write(mem, at, initrd->data, initrd->size, initrd->name, err);
        if (r)
            return r;
        put_le32(bp + HDR_RAMDISK_IMAGE, (uint32_t)at);
        put_le32(bp + HDR_RAMDISK_SIZE, (uint32_t)initrd->size);
    }
    return 0;
}

static int finish_64(const struct boot_memory *mem, struct boot_entry *entry, struct err *err)
{
    entry->mode = BOOT_MODE_LONG;
    entry->cr3 = BOOT_PAGE_TABLES;
    return write_page_tables(mem, err);
}

/*
 * A relocatable kernel runs where it is loaded, but never below its preferred address; the others
 * go to 1 MiB and unpack themselves to it. False: not enough memory from there on.
 */
static bool choose_load(const struct boot_input *in, uint16_t version, uint64_t size, gpa_t *load,
                        uint64_t *need)
{
    const uint8_t *k = in->kernel.data;
    uint64_t top = min_u64(e820_run_end(&in->map, DEFAULT_LOAD), BIT(32));
    uint64_t align = version >= 0x205 ? get_le32(k + HDR_KERNEL_ALIGNMENT) : 0;
    uint64_t pref = version >= 0x20a ? get_le64(k + HDR_PREF_ADDRESS) : 0;
    uint64_t init_size = version >= 0x20a ? get_le32(k + HDR_INIT_SIZE) : 0;
    bool relocatable = version >= 0x205 && k[HDR_RELOCATABLE_KERNEL];
    uint64_t runs_at = max_u64(pref, DEFAULT_LOAD);

    *need = max_u64(size, init_size);
    if (relocatable && is_pow2(align) && runs_at < BIT(32))
        runs_at = align_up(runs_at, align);
    *load = relocatable ? runs_at : DEFAULT_LOAD;
    if (top < runs_at || *need > top - runs_at) {
        *need = runs_at < BIT(32) ? *need + runs_at : BIT(32);
        return false;
    }
    *need += runs_at - *load;
    return true;
}

int bzimage_load(const struct boot_input *in, const struct boot_memory *mem,
                 struct boot_entry *entry, struct err *err)
{
    const uint8_t *k = in->kernel.data;
    const char *name = in->kernel.name;
    uint8_t bp[BP_SIZE] = {0};
    uint16_t version;
    uint64_t setup, size, need;
    unsigned header_end;
    gpa_t load;
    bool is64;
    int r;

    if (!bzimage_probe(k, in->kernel.size))
        return err_set(err, EINVAL, "%s is not a Linux bzImage", name);
    version = get_le16(k + HDR_VERSION);
    /* Without a 32-bit entry (iPXE's) there is only the 16-bit one. */
    if (version < 0x202 || !(k[HDR_LOADFLAGS] & LOADED_HIGH) || !get_le32(k + HDR_CODE32_START))
        return err_set(err, EINVAL,
                       "%s speaks boot protocol %u.%02u, which needs a BIOS: boot it from a disk "
                       "with its own boot loader",
                       name, version >> 8, version & 0xff);
    setup = ((k[HDR_SETUP_SECTS] ? k[HDR_SETUP_SECTS] : 4u) + 1) * 512ull;
    if (setup >= in->kernel.size)
        return err_set(err, EINVAL, "%s is truncated: it ends inside its setup code", name);
    size = in->kernel.size - setup;
    if (version >= 0x208 &&
        !range_ok(get_le32(k + HDR_PAYLOAD_OFFSET), get_le32(k + HDR_PAYLOAD_LENGTH), size))
        return err_set(err, EINVAL, "%s is truncated: its payload ends after the file", name);
    is64 = version >= 0x20c && (get_le16(k + HDR_XLOADFLAGS) & XLF_KERNEL_64);
    if (is64 && !in->long_mode)
        return err_set(err, EINVAL,
                       "%s is a 64-bit kernel and this CPU model is not: choose "
                       "--cpu v1 or later",
                       name);
    if (is64 && size <= ENTRY_64)
        return err_set(err, EINVAL, "%s is truncated: it ends before its 64-bit entry", name);
    if (!choose_load(in, version, size, &load, &need))
        return err_set(err, ENOMEM,
                       "%s needs %llu MiB to unpack itself: give the guest more with "
                       "--memory",
                       name, (unsigned long long)(need >> 20) + 1);
    r = boot_write(mem, load, k + setup, size, name, err);
    if (r)
        return r;

    /* boot.rst, "64-bit Boot Protocol": the header is copied from 1F1h up to its own end. */
    header_end = (unsigned)min_u64(HDR_MAGIC + k[HDR_JUMP_LEN], BP_E820_TABLE);
    header_end = (unsigned)min_u64(header_end, in->kernel.size);
    memcpy(bp + HDR_SETUP_SECTS, k + HDR_SETUP_SECTS, header_end - HDR_SETUP_SECTS);
    bp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    bp[HDR_LOADFLAGS] &= (uint8_t)~CAN_USE_HEAP;
    put_le16(bp + HDR_HEAP_END_PTR, 0);
    put_le16(bp + HDR_VID_MODE, VID_MODE_NORMAL);
    put_le32(bp + HDR_CODE32_START, (uint32_t)load);
    put_le32(bp + HDR_RAMDISK_IMAGE, 0);
    put_le32(bp + HDR_RAMDISK_SIZE, 0);
    if (version >= 0x209)
        put_le64(bp + HDR_SETUP_DATA, 0);
    fill_params(in, bp, version >= 0x20e);
    r = place_payload(in, mem, bp, load + need,
                      version >= 0x203 ? get_le32(k + HDR_INITRD_ADDR_MAX) : DEFAULT_INITRD_MAX,
                      version >= 0x206 ? get_le32(k + HDR_CMDLINE_SIZE) : DEFAULT_CMDLINE_MAX, err);
    if (r == 0)
        r = boot_write(mem, BOOT_PARAMS, bp, sizeof(bp), "boot_params", err);
    if (r)
        return r;

    entry->rsi = BOOT_PARAMS;
    entry->rsp = BOOT_STACK;
    entry->rip = load;
    if (is64) {
        entry->rip = load + ENTRY_64;
        r = finish_64(mem, entry, err);
    }
    return r ? r : write_gdt(mem, entry, err);
}

/* ---- vmlinux ---- */

bool vmlinux_probe(const uint8_t *data, size_t size)
{
    struct elf_image elf;

    return elf_open(&elf, data, size) && elf.is64 && elf.machine == EM_X86_64 &&
           get_le16(data + offsetof(Elf64_Ehdr, e_type)) == ET_EXEC;
}

int vmlinux_load(const struct boot_input *in, const struct boot_memory *mem,
                 struct boot_entry *entry, struct err *err)
{
    uint8_t bp[BP_SIZE] = {0};
    struct elf_image elf;
    gpa_t first, last;
    int r;

    if (!vmlinux_probe(in->kernel.data, in->kernel.size))
        return err_set(err, EINVAL, "%s is not a 64-bit kernel ELF file", in->kernel.name);
    elf_open(&elf, in->kernel.data, in->kernel.size);
    if (!in->long_mode)
        return err_set(err, EINVAL,
                       "%s is a 64-bit kernel and this CPU model is not: choose "
                       "--cpu v1 or later",
                       in->kernel.name);
    r = elf_load(&elf, in, mem, &first, &last, err);
    if (r)
        return r;
    if (first < DEFAULT_LOAD || elf.entry < first || elf.entry >= last)
        return err_set(err, EINVAL, "%s starts at %#llx, outside what it loads: it is not a kernel",
                       in->kernel.name, (unsigned long long)elf.entry);
    put_le16(bp + HDR_BOOT_FLAG, BOOT_FLAG);
    put_le32(bp + HDR_MAGIC, MAGIC);
    put_le16(bp + HDR_VERSION, 0x20f);
    put_le16(bp + HDR_VID_MODE, VID_MODE_NORMAL);
    bp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    bp[HDR_LOADFLAGS] = LOADED_HIGH;
    put_le32(bp + HDR_CODE32_START, (uint32_t)first);
    fill_params(in, bp, true);
    r = place_payload(in, mem, bp, align_up(last, PAGE_SIZE), UINT32_MAX, 2047, err);
    if (r == 0)
        r = boot_write(mem, BOOT_PARAMS, bp, sizeof(bp), "boot_params", err);
    if (r == 0)
        r = finish_64(mem, entry, err);
    if (r)
        return r;
    entry->rsi = BOOT_PARAMS;
    entry->rsp = BOOT_STACK;
    entry->rip = elf.entry;
    return write_gdt(mem, entry, err);
}
