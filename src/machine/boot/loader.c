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
        return err_set(err, ENOMEM, "%s does not fit in guest memory at %#llx: give it more with "
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

/*
 * Interrupt vectors and BIOS data, with the two words that systems read even though no BIOS ran: the
 * EBDA's segment (40:0E) and the size of conventional memory (40:13). The EBDA's first byte is its size.
 */
static int low_memory(const struct boot_memory *mem, struct err *err)
{
    uint8_t bda[0x500] = {0};
    uint8_t ebda[1024] = {1};
    int r;

    put_le16(bda + 0x40e, EBDA_BASE >> 4);
    put_le16(bda + 0x413, EBDA_BASE / 1024);
    r = boot_write(mem, 0, bda, sizeof(bda), "the BIOS data area", err);
    if (r)
        return r;
    return boot_write(mem, EBDA_BASE, ebda, sizeof(ebda), "the BIOS data area", err);
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
