/* SPDX-License-Identifier: Apache-2.0 */
/* What the loaders share: sniffing, low memory, and the state in which a kernel is entered. */
#include "machine/boot/loader.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/cpu_state.h"

enum boot_kind boot_sniff(const uint8_t *data, size_t size)
{
    if (bzimage_probe(data, size))
        return BOOT_BZIMAGE;
    /* Xen has both headers; by Multiboot it is started as on a bare machine, with its modules. */
    if (multiboot_probe(data, size))
        return BOOT_MULTIBOOT;
    if (pvh_probe(data, size))
        return BOOT_PVH;
    if (vmlinux_probe(data, size))
        return BOOT_VMLINUX;
    return BOOT_UNKNOWN;
}

const char *boot_kind_name(enum boot_kind kind)
{
    static const char *const names[] = {"unknown", "bzImage", "PVH ELF", "Multiboot", "vmlinux"};

    return names[kind];
}

int boot_write(const struct boot_memory *mem, gpa_t gpa, const void *data, size_t size,
               const char *what, struct err *err)
{
    if (size && !mem->write(mem->opaque, gpa, data, size))
        return err_set(err, ENOMEM,
                       "%s does not fit in guest memory at %#llx: give it more with "
                       "--memory",
                       what, (unsigned long long)gpa);
    return 0;
}

int boot_zero(const struct boot_memory *mem, gpa_t gpa, uint64_t size, const char *what,
              struct err *err)
{
    static const uint8_t zeroes[64 * 1024];
    int r = 0;

    while (size && r == 0) {
        size_t n = min_u64(size, sizeof(zeroes));

        r = boot_write(mem, gpa, zeroes, n, what, err);
        gpa += n;
        size -= n;
    }
    return r;
}

int boot_no_room(const struct boot_file *file, struct err *err)
{
    return err_set(err, ENOMEM,
                   "%s (%zu KiB) does not fit above the kernel in guest memory: give it more with "
                   "--memory",
                   file->name, (file->size + 1023) / 1024);
}

int boot_place_modules(const struct boot_input *in, const struct boot_memory *mem, gpa_t last,
                       gpa_t module_at[], gpa_t *at, gpa_t *end, struct err *err)
{
    *at = align_up(max_u64(last, ONE_MIB), PAGE_SIZE);
    *end = max_u64(*at, e820_run_end(&in->map, *at));
    for (unsigned i = 0; i < in->nmodules; i++) {
        const struct boot_file *m = &in->module[i];
        int r;

        if (m->size > *end - *at)
            return boot_no_room(m, err);
        r = boot_write(mem, *at, m->data, m->size, m->name, err);
        if (r)
            return r;
        module_at[i] = *at;
        *at = min_u64(align_up(*at + m->size, PAGE_SIZE), *end);
    }
    return 0;
}

/*
 * A stub where a BIOS would be, at the end of segment F000h: loaders that go back to real mode to
 * ask it (Xen's trampoline) are told "no such function" by carry and AH = 86h, and go on without.
 * The vectors of the 8259s acknowledge, all others return.
 */
#define STUB_SEGMENT 0xf000u
#define STUB_OFFSET  0xff00u
#define STUB_IRET    0xff53u /* where BIOSes have their dummy handler */

static const uint8_t stub_unsupported[] = {
    0x55,                   /* push %bp */
    0x89, 0xe5,             /* mov %sp, %bp */
    0x80, 0x4e, 0x06, 0x01, /* orb $1, 6(%bp): carry in the saved flags */
    0x5d,                   /* pop %bp */
    0xb4, 0x86,             /* mov $0x86, %ah */
    0xcf,                   /* iret */
};
static const uint8_t stub_memory_size[] = {
    0xb8, 0x7f, 0x02, /* mov $639, %ax */
    0xcf,             /* iret */
};
static const uint8_t stub_irq[] = {
    0x50,       /* push %ax */
    0xb0, 0x20, /* mov $0x20, %al: end of interrupt */
    0xe6, 0x20, /* out %al, $0x20 */
    0x58,       /* pop %ax */
    0xcf,       /* iret */
};
static const uint8_t stub_irq2[] = {
    0x50,       /* push %ax */
    0xb0, 0x20, /* mov $0x20, %al */
    0xe6, 0xa0, /* out %al, $0xa0 */
    0xe6, 0x20, /* out %al, $0x20 */
    0x58,       /* pop %ax */
    0xcf,       /* iret */
};
static const uint8_t stub_iret[] = {0xcf};

/* Which piece serves a range of vectors; the first match counts. */
static const struct {
    uint8_t first, last;
    uint16_t offset;
    const uint8_t *code;
    size_t size;
} stubs[] = {
    {0x12, 0x12, STUB_OFFSET, stub_memory_size, sizeof(stub_memory_size)},
    {0x08, 0x0f, STUB_OFFSET + 0x10, stub_irq, sizeof(stub_irq)},
    {0x70, 0x77, STUB_OFFSET + 0x20, stub_irq2, sizeof(stub_irq2)},
    {0x10, 0x1a, STUB_OFFSET + 0x30, stub_unsupported, sizeof(stub_unsupported)},
    {0x00, 0x7f, STUB_IRET, stub_iret, sizeof(stub_iret)},
};

/* INT 1Dh to 1Fh, 41h, 43h and 46h are not code: pointers to tables that nobody made. */
static bool is_table_pointer(unsigned vector)
{
    return (vector >= 0x1d && vector <= 0x1f) || vector == 0x41 || vector == 0x43 || vector == 0x46;
}

static uint16_t stub_for(unsigned vector)
{
    for (unsigned i = 0; i < ARRAY_LEN(stubs); i++)
        if (vector >= stubs[i].first && vector <= stubs[i].last)
            return stubs[i].offset;
    return STUB_IRET;
}

/*
 * Interrupt vectors and BIOS data, with the two words that systems read even though no BIOS ran:
 * the EBDA's segment (40:0E) and the size of conventional memory (40:13). The EBDA's first byte is
 * its size.
 */
static int low_memory(const struct boot_memory *mem, struct err *err)
{
    uint8_t low[0x500] = {0};
    uint8_t ebda[1024] = {1};
    int r;

    for (unsigned v = 0; v < 0x80; v++) {
        if (is_table_pointer(v))
            continue;
        put_le16(low + v * 4, stub_for(v));
        put_le16(low + v * 4 + 2, STUB_SEGMENT);
    }
    put_le16(low + 0x40e, EBDA_BASE >> 4);
    put_le16(low + 0x413, EBDA_BASE / 1024);
    r = boot_write(mem, 0, low, sizeof(low), "the BIOS data area", err);
    if (r == 0)
        r = boot_write(mem, EBDA_BASE, ebda, sizeof(ebda), "the BIOS data area", err);
    for (unsigned i = 0; i < ARRAY_LEN(stubs) && r == 0; i++)
        r = boot_write(mem, (STUB_SEGMENT << 4) + stubs[i].offset, stubs[i].code, stubs[i].size,
                       "the BIOS stub", err);
    return r;
}

int boot_load(enum boot_kind kind, const struct boot_input *in, const struct boot_memory *mem,
              struct boot_entry *entry, struct err *err)
{
    int r = low_memory(mem, err);

    *entry = (struct boot_entry){0};
    if (r)
        return r;
    switch (kind) {
    case BOOT_BZIMAGE:
        return bzimage_load(in, mem, entry, err);
    case BOOT_PVH:
        return pvh_load(in, mem, entry, err);
    case BOOT_MULTIBOOT:
        return multiboot_load(in, mem, entry, err);
    case BOOT_VMLINUX:
        return vmlinux_load(in, mem, entry, err);
    case BOOT_UNKNOWN:
        break;
    }
    if (in->kernel.size > 2 && in->kernel.data[0] == 0x1f && in->kernel.data[1] == 0x8b)
        return err_set(err, EINVAL, "%s is compressed with gzip: unpack it first (gunzip)",
                       in->kernel.name);
    return err_set(err, EINVAL,
                   "%s is no kernel that can be started directly (bzImage, ELF with a PVH note, "
                   "Multiboot): is it a disk image or a ROM (--disk, --bios)?",
                   in->kernel.name);
}

/* A flat segment: base 0, limit 4 GiB. */
static struct cpu_seg flat(uint16_t selector, uint16_t attr)
{
    return (struct cpu_seg){.base = 0, .limit = UINT32_MAX, .selector = selector, .attr = attr};
}

void boot_entry_apply(const struct boot_entry *entry, struct cpu_state *cs)
{
    bool is64 = entry->mode == BOOT_MODE_LONG;
    struct cpu_seg code, data;

    code = flat(entry->code_selector, SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | SEG_TYPE_CODE |
                                          SEG_TYPE_WRITE | SEG_TYPE_ACCESSED |
                                          (is64 ? SEG_ATTR_L : SEG_ATTR_DB));
    data = flat(entry->data_selector, SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | SEG_ATTR_DB |
                                          SEG_TYPE_WRITE | SEG_TYPE_ACCESSED);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cs->seg[i] = i == SEG_CS ? code : data;
    /* A busy 32-bit TSS (type 11) at 0, as the PVH and VMX conventions have it; no IDT. */
    cs->tr = (struct cpu_seg){.limit = 0x67, .attr = SEG_ATTR_P | 11};
    cs->ldtr = (struct cpu_seg){0};
    cs->gdtr = (struct cpu_dtr){.base = entry->gdt_base, .limit = entry->gdt_limit};
    cs->idtr = (struct cpu_dtr){0};

    memset(cs->gpr, 0, sizeof(cs->gpr));
    cs->gpr[REG_RAX] = entry->rax;
    cs->gpr[REG_RBX] = entry->rbx;
    cs->gpr[REG_RSI] = entry->rsi;
    cs->gpr[REG_RSP] = entry->rsp;
    cs->rip = entry->rip;
    cs->rflags = RFLAGS_ONE;
    cs->cr0 = CR0_PE | CR0_ET;
    cs->cr4 = 0;
    cs->efer = 0;
    if (is64) {
        cs->cr0 |= CR0_PG;
        cs->cr4 |= CR4_PAE;
        cs->efer = EFER_LME | EFER_LMA;
        cs->cr3 = entry->cr3;
    }
    cs->activity = CPU_RUNNING;
}

int boot_split_modules(char *list, char *strings[], unsigned max)
{
    char *in = list, *out = list, *start = list;
    unsigned n = 0;

    if (*list == '\0')
        return 0;
    for (;;) {
        bool end = *in == '\0';

        if (!end && !(in[0] == ',' && in[1] != ',')) {
            if (*in == ',')
                in++;
            *out++ = *in++;
            continue;
        }
        if (n == max)
            return -1;
        *out++ = '\0';
        strings[n++] = start;
        if (end)
            return (int)n;
        in++;
        start = out;
    }
}
