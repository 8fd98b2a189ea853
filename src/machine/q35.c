/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The q35 machine: Q35 MCH and ICH9, as an operating system sees them (Intel 3 Series chipset
 * datasheet 316966, I/O Controller Hub 9 datasheet 316972). This file only says what exists, where,
 * and which wire goes to which pin; nothing exists unless it stands here or the user asked for it.
 *
 *   memory     0 - 9FFFF          RAM
 *              A0000 - BFFFF      nothing (no VGA): reads ones
 *              C0000 - FFFFF      RAM behind PAM; the ROM's last 128 KiB where there is one
 *              100000 - low_end   RAM, to at most B0000000h; with more in all, to 80000000h
 *              B0000000 - BFFFFFFF  ECAM
 *              low_end or 80000000 - FEBFFFFF  PCI memory, the ECAM excepted
 *              FEC00000           I/O APIC
 *              FEE00000           local APICs (each vCPU's own)
 *              - FFFFFFFF         ROM, ending there
 *              100000000 -        the rest of RAM, then PCI memory
 *   ports      each chip's; 600h ACPI; 510h fw_cfg; E9h and 501h if asked for
 *   interrupts ISA 0-15: 8259s and I/O APIC pins of the same number, IRQ 0 at pin 2
 *              the 8259s' INTR: LINT0 of the first CPU, and I/O APIC pin 0 (for ExtINT)
 *              PIRQA-H: I/O APIC pins 16-23; to ISA 10 and 11 through the LPC bridge
 *              no HPET: nothing announces one
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "cpu/cpu_state.h"
#include "hw/acpi/ich9_pm.h"
#include "hw/block/nvme.h"
#include "hw/char/uart16550a.h"
#include "hw/input/i8042.h"
#include "hw/intc/i8259.h"
#include "hw/intc/ioapic.h"
#include "hw/misc/coproc_err.h"
#include "hw/misc/debugcon.h"
#include "hw/misc/fw_cfg.h"
#include "hw/misc/i8237.h"
#include "hw/misc/ignored_ports.h"
#include "hw/misc/isa_debug_exit.h"
#include "hw/pci/ich9_lpc.h"
#include "hw/pci/q35_host.h"
#include "hw/timer/i8254.h"
#include "hw/timer/mc146818.h"
#include "machine/internal.h"
#include "machine/props.h"

#define MIB             (1ull << 20)
#define GIB             (1ull << 30)
#define FOUR_GIB        (4 * GIB)
#define LOW_MAX         Q35_ECAM_BASE
#define LOW_IF_MORE     (2 * GIB)
#define PCI32_FIRST     0x80000000ull
#define PCI32_ALIGN     0x10000000ull /* RAM just below: a few MTRRs describe the hole */
#define ROM_LOW_SIZE    (128 * 1024u)
#define ROM_MAX         (16 * MIB) /* FF000000h: what the ICH9 decodes */
#define COM1            0x3f8
#define COM1_IRQ        4
#define FERR_IRQ        13
#define FIRST_DISK_SLOT 4

static const struct ignored_port ignored[] = {
    {0x80, 1, 0xff, "post", "POST codes; Linux and others write here to wait a microsecond"},
    {0x84, 1, 0xff, "post4", "POST codes of EISA-time firmware and of UEFI"},
    {0xed, 1, 0xff, "delay", "Linux's other delay port (io_delay=0xed)"},
    {0xf1, 1, 0xff, "fpu_reset", "resets a coprocessor that is built in"},
    {0x2f8, 8, 0xff, "com2", "probed for a second UART; there is none"},
    {0x3e8, 8, 0xff, "com3", "probed for a third UART; there is none"},
    {0x2e8, 8, 0xff, "com4", "probed for a fourth UART; there is none"},
    {0x3c0, 32, 0xff, "vga", "probed for a VGA; there is none"},
    {0x3b0, 16, 0xff, "mda", "probed for a monochrome adapter; there is none"},
    {0x279, 1, 0xff, "isapnp_address", "ISA Plug and Play isolation: no cards answer"},
    {0xa79, 1, 0xff, "isapnp_write", "ISA Plug and Play isolation: no cards answer"},
    {0x203, 1, 0xff, "isapnp_read", "ISA Plug and Play isolation: no cards answer"},
    {0, 0, 0, NULL, NULL},
};

/* ---- pieces ---- */

static struct device *add(struct machine *m, const struct dev_type *type, const void *config,
                          struct err *err)
{
    return device_new(&m->vm, type, type->name, config, err);
}

static void set_a20(void *opaque, bool on)
{
    struct machine *m = opaque;
    uint64_t mask = on ? UINT64_MAX : ~BIT(20);

    if (atomic_exchange(&m->vm.a20_mask, mask) == mask)
        return;
    /* Every odd megabyte changed its meaning. */
    if (m->vm.engine && m->vm.engine->slot_changed)
        m->vm.engine->slot_changed(&m->vm, 0, UINT64_MAX);
}

static int extint_ack(void *opaque)
{
    struct machine *m = opaque;

    return i8259_ack(m->pic);
}

/* ---- a CPU without local APIC: INTR is a pin of it ---- */

static bool intr_pin_set(void *chip, unsigned pin, bool level)
{
    struct machine *m = chip;

    (void)pin;
    atomic_store(&m->intr_level, level);
    if (level)
        vcpu_post(m->vm.vcpus[0], PEND_INTR);
    return true;
}

static bool intr_has(void *intc)
{
    struct machine *m = intc;

    return atomic_load(&m->intr_level);
}

static int intr_ack(void *intc)
{
    struct machine *m = intc;
    int vector = -1;

    vm_lock(&m->vm);
    if (i8259_intr(m->pic))
        vector = i8259_ack(m->pic);
    vm_unlock(&m->vm);
    return vector;
}

static uint64_t no_cr8(void *intc)
{
    (void)intc;
    return 0;
}

static void ignore_cr8(void *intc, uint64_t cr8)
{
    (void)intc;
    (void)cr8;
}

static void no_init_reset(void *intc)
{
    (void)intc;
}

static const struct vcpu_intc intr_ops = {
    .has_intr = intr_has,
    .ack = intr_ack,
    .get_cr8 = no_cr8,
    .set_cr8 = ignore_cr8,
    .init_reset = no_init_reset,
};

/* ---- memory ---- */

static void map_memory(struct machine *m, struct region *region, const char *name,
                       enum region_kind kind, gpa_t base, uint64_t size, uint64_t offset)
{
    if (size == 0)
        return;
    *region = (struct region){.name = name,
                              .kind = kind,
                              .size = size,
                              .priority = REGION_PRIO_NORMAL,
                              .ram_offset = offset};
    bus_map(&m->vm.memory, region, base);
}

static int build_ram(struct machine *m, struct err *err)
{
    uint64_t offset;
    int r = ram_alloc(&m->vm.ram, m->memory, &offset, err);

    if (r)
        return r;
    m->low_end = m->memory <= LOW_MAX ? m->memory : LOW_IF_MORE;
    m->high_end = m->memory > m->low_end ? FOUR_GIB + m->memory - m->low_end : 0;
    map_memory(m, &m->ram_conventional, "ram", REGION_RAM, 0, 0xa0000, offset);
    map_memory(m, &m->ram_low, "ram", REGION_RAM, MIB, m->low_end - MIB, offset + MIB);
    if (m->high_end)
        map_memory(m, &m->ram_high, "ram", REGION_RAM, FOUR_GIB, m->high_end - FOUR_GIB,
                   offset + m->low_end);
    return 0;
}

/*
 * The ROM ends at 4 GiB, and its last 128 KiB at 1 MiB as well. rom_offset and rom_base tell the
 * host bridge where the lower copy is.
 */
static int build_rom(struct machine *m, const char *path, struct q35_host_config *host,
                     struct err *err)
{
    uint64_t size, low, offset;
    uint8_t *data;
    size_t len;
    int r = machine_read_file(path, ROM_MAX, &data, &len, err);

    if (r)
        return r;
    size = align_up(len, PAGE_SIZE);
    if (len < 16)
        r = err_set(err, EINVAL, "%s has %zu bytes: a ROM needs at least a reset vector", path,
                    len);
    if (r == 0)
        r = ram_alloc(&m->vm.ram, size, &offset, err);
    if (r) {
        free(data);
        return r;
    }
    low = min_u64(size, ROM_LOW_SIZE);
    map_memory(m, &m->rom, "rom", REGION_ROM, FOUR_GIB - size, size, offset);
    map_memory(m, &m->rom_low, "rom", REGION_ROM, MIB - low, low, offset + size - low);
    host->rom_base = (uint32_t)(MIB - low);
    host->rom_offset = offset + size - low;
    mem_load(&m->vm, FOUR_GIB - len, data, len);
    free(data);
    return 0;
}

/* ---- devices ---- */

static void build_lines(struct machine *m)
{
    struct trace *trace = &m->vm.trace;

    for (unsigned i = 0; i < ISA_IRQS; i++)
        irq_line_init(&m->isa[i], "isa", i, trace);
    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++)
        irq_line_init(&m->pirq[i], "pirq", ACPI_PCI_GSI + i, trace);
    irq_line_init(&m->intr, "intr", 0, trace);
}

static int build_interrupts(struct machine *m, struct err *err)
{
    struct i8259_config pic = {.intr = irq_line_source(&m->intr)};
    struct ioapic_config ioapic = {
        .id = 0, .pending = lapic_msi_pending, .pending_opaque = &m->lapics};

    for (unsigned i = 0; i < ISA_IRQS; i++)
        pic.lines[i] = &m->isa[i];
    m->pic = add(m, &i8259_type, &pic, err);
    if (!m->pic)
        return -1;
    for (unsigned i = 0; i < ISA_IRQS; i++)
        if (i != 2)
            irq_line_add_pin(&m->isa[i], i8259_pin(m->pic, i));

    if (!m->has_apic) {
        m->vm.vcpus[0]->intc_ops = &intr_ops;
        m->vm.vcpus[0]->intc = m;
        irq_line_add_pin(&m->intr, (struct irq_pin){.set = intr_pin_set, .chip = m});
        return 0;
    }

    for (unsigned i = 0; i < ISA_IRQS; i++)
        if (i != 2)
            ioapic.lines[i == 0 ? 2 : i] = &m->isa[i];
    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++)
        ioapic.lines[ACPI_PCI_GSI + i] = &m->pirq[i];
    m->ioapic = add(m, &ioapic_type, &ioapic, err);
    if (!m->ioapic)
        return -1;
    for (unsigned i = 0; i < ISA_IRQS; i++)
        if (i != 2)
            irq_line_add_pin(&m->isa[i], ioapic_pin(m->ioapic, i == 0 ? 2 : i));
    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++)
        irq_line_add_pin(&m->pirq[i], ioapic_pin(m->ioapic, ACPI_PCI_GSI + i));
    m->vm.eoi_sink = ioapic_eoi;
    m->vm.eoi_opaque = m->ioapic;

    for (unsigned i = 0; i < m->vm.nvcpus; i++) {
        struct lapic_config config = {.vcpu = m->vm.vcpus[i],
                                      .bus = &m->lapics,
                                      .id = i,
                                      .bsp = i == 0,
                                      .x2apic = cpu_has(&m->model, FEAT_X2APIC),
                                      .tsc_deadline = cpu_has(&m->model, FEAT_TSC_DEADLINE),
                                      .phys_bits = m->model.phys_bits,
                                      .virtual_wire = i == 0 && m->direct_boot,
                                      .tsc_offset = m->vm.engine->tsc_offset,
                                      .extint_ack = extint_ack,
                                      .extint_opaque = m};
        char name[24];

        snprintf(name, sizeof(name), "lapic.%u", i);
        m->lapic[i] = device_new(&m->vm, &lapic_type, name, &config, err);
        if (!m->lapic[i])
            return -1;
    }
    m->vm.msi_sink = lapic_msi;
    m->vm.msi_opaque = &m->lapics;
    irq_line_add_pin(&m->intr, lapic_lint_pin(m->lapic[0], 0));
    irq_line_add_pin(&m->intr, ioapic_pin(m->ioapic, 0));
    return 0;
}

static int build_chipset(struct machine *m, const struct machine_config *config, struct err *err)
{
    struct q35_host_config host = {0};
    struct ich9_lpc_config lpc = {.place_pm = ich9_pm_map};
    struct ich9_pm_config pm = {.sci = irq_line_source(&m->isa[Q35_SCI_IRQ])};
    int r;

    if (config->bios) {
        r = build_rom(m, config->bios, &host, err);
        if (r)
            return r;
    }
    if (m->direct_boot) {
        host.ecam_base = Q35_ECAM_BASE;
        host.pam[0] = 0x30;
        memset(host.pam + 1, 0x33, sizeof(host.pam) - 1);
        lpc.pm_base = Q35_PM_BASE;
        pm.base = Q35_PM_BASE;
        pm.enabled = true;
    }
    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++) {
        host.pirq[i] = lpc.pirq[i] = &m->pirq[i];
        if (m->direct_boot)
            lpc.pirq_rout[i] = Q35_PCI_IRQ(i);
    }
    for (unsigned i = 0; i < ISA_IRQS; i++)
        lpc.isa[i] = &m->isa[i];
    m->pm = add(m, &ich9_pm_type, &pm, err);
    if (!m->pm)
        return -1;
    /* CF9h is the ICH9's, inside the host bridge's CONFIG_ADDRESS. */
    host.cf9_dev = m->pm;
    host.cf9_read = ich9_pm_cf9_read;
    host.cf9_write = ich9_pm_cf9_write;
    m->host = add(m, &q35_host_type, &host, err);
    if (!m->host)
        return -1;
    lpc.pm = m->pm;
    lpc.bus = q35_host_bus(m->host);
    m->lpc = add(m, &ich9_lpc_type, &lpc, err);
    return m->lpc ? 0 : -1;
}

static int build_isa(struct machine *m, const struct machine_config *config, struct err *err)
{
    struct i8254_config pit = {.irq = irq_line_source(&m->isa[0])};
    struct i8042_config kbc = {.irq_kbd = irq_line_source(&m->isa[1]),
                               .irq_mouse = irq_line_source(&m->isa[12]),
                               .set_a20 = set_a20,
                               .a20_opaque = m};
    struct mc146818_config rtc = {
        .irq = irq_line_source(&m->isa[8]),
        .ram_below = m->low_end,
        .ram_above = m->high_end ? m->high_end - FOUR_GIB : 0,
        .ncpus = (uint8_t)m->vm.nvcpus,
    };
    struct fw_cfg_config fw = {
        .ram_size = m->memory, .ncpus = (uint16_t)m->vm.nvcpus, .nographic = true};
    struct i8237_config dma = {0};
    struct coproc_err_config ferr = {.irq = irq_line_source(&m->isa[FERR_IRQ])};
    struct ignored_ports_config ign = {.table = ignored};

    if (!add(m, &i8254_type, &pit, err) || !add(m, &i8042_type, &kbc, err) ||
        !add(m, &mc146818_type, &rtc, err) || !add(m, &i8237_type, &dma, err) ||
        !add(m, &fw_cfg_type, &fw, err) || !add(m, &ignored_ports_type, &ign, err))
        return -1;
    m->vm.ferr_opaque = add(m, &coproc_err_type, &ferr, err);
    if (!m->vm.ferr_opaque)
        return -1;
    m->vm.ferr_sink = coproc_err_ferr;

    if (config->serial) {
        struct uart16550a_config uart = {.irq = irq_line_source(&m->isa[COM1_IRQ]), .iobase = COM1};

        m->serial = chardev_open(&m->vm, config->serial, err);
        if (!m->serial)
            return -1;
        uart.chr = m->serial;
        if (!add(m, &uart16550a_type, &uart, err))
            return -1;
    }
    if (config->debugcon) {
        struct debugcon_config dbg = {.iobase = config->debugcon_port};

        m->debugcon = chardev_open(&m->vm, config->debugcon, err);
        if (!m->debugcon)
            return -1;
        dbg.chr = m->debugcon;
        if (!add(m, &debugcon_type, &dbg, err))
            return -1;
    }
    if (config->debug_exit) {
        struct isa_debug_exit_config ex = {.iobase = config->debug_exit_port};

        if (!add(m, &isa_debug_exit_type, &ex, err))
            return -1;
    }
    return 0;
}

static int build_disk(struct machine *m, const struct machine_disk *disk, unsigned slot,
                      struct err *err)
{
    struct nvme_config nvme = {.bus = q35_host_bus(m->host), .devfn = PCI_DEVFN(slot, 0)};
    char name[32];
    int r;

    if (disk->bus && strcmp(disk->bus, "nvme"))
        return err_set(err, EINVAL, "there is no disk bus '%s': use bus=nvme", disk->bus);
    for (unsigned i = 0; i < disk->nprops; i++) {
        r = props_set(nvme_type.props, &nvme, disk->props[i].name, disk->props[i].value, err);
        if (r) {
            err_prefix(err, "disk %s", disk->path);
            return r;
        }
    }
    nvme.block = block_raw_open(&m->vm, disk->path, disk->ro, disk->snapshot, err);
    if (!nvme.block)
        return -1;
    m->blocks[m->nblocks++] = nvme.block;
    snprintf(name, sizeof(name), "pci.0.%u.0/nvme", slot);
    return device_new(&m->vm, &nvme_type, name, &nvme, err) ? 0 : -1;
}

int q35_build(struct machine *m, const struct machine_config *config, struct err *err)
{
    int r;

    m->has_apic = cpu_has(&m->model, FEAT_APIC);
    if (!m->has_apic && m->vm.nvcpus > 1)
        return err_set(err, EINVAL,
                       "the CPU model %s has no local APIC, so there can be only one: "
                       "use --cpus 1 or another model",
                       m->model.name);
    r = build_ram(m, err);
    if (r)
        return r;
    build_lines(m);
    if (build_interrupts(m, err) || build_chipset(m, config, err) || build_isa(m, config, err))
        return -EINVAL;
    for (unsigned i = 0; i < config->ndisks && i < MACHINE_MAX_DISKS; i++)
        if (build_disk(m, &config->disks[i], FIRST_DISK_SLOT + i, err))
            return -EINVAL;
    vm_lock(&m->vm);
    devices_attach(&m->vm);
    vm_unlock(&m->vm);
    return 0;
}

/* ---- what firmware would do ---- */

static uint64_t pci32_first(const struct machine *m)
{
    return max_u64(PCI32_FIRST, align_up(m->low_end, PCI32_ALIGN));
}

/* Below this there is no room for tables and a kernel both. */
#define ACPI_MIN_RAM (4 * MIB)

int q35_describe(struct machine *m, const struct machine_config *config, struct err *err)
{
    struct acpi_config acpi = {
        .ncpus = m->vm.nvcpus,
        .has_apic = m->has_apic,
        .lapic_base = 0xfee00000,
        .ioapic_base = (uint32_t)IOAPIC_BASE,
        .ioapic_id = 0,
        .pm_base = Q35_PM_BASE,
        .sci_irq = Q35_SCI_IRQ,
        .ecam_base = Q35_ECAM_BASE,
        .ecam_size = Q35_ECAM_SIZE,
        .pci32_first = (uint32_t)pci32_first(m),
        .pci32_last = (uint32_t)Q35_ECAM_BASE - 1,
        .has_serial = config->serial != NULL,
        .rsdp_at = Q35_RSDP,
    };
    struct e820_config map = {.low_end = m->low_end,
                              .high_end = m->high_end,
                              .ecam_base = Q35_ECAM_BASE,
                              .ecam_size = Q35_ECAM_SIZE};
    uint64_t top = align_up(max_u64(m->high_end, FOUR_GIB), GIB);
    int r;

    /* A 36-bit guest is an old one, and the oldest dislike a window that they can not reach. */
    if (m->model.phys_bits > 36 && top < BIT(m->model.phys_bits)) {
        acpi.pci64_first = top;
        acpi.pci64_last = BIT(m->model.phys_bits) - 1;
    }
    if (!config->no_acpi && m->low_end >= ACPI_MIN_RAM) {
        r = acpi_build(&acpi, &m->acpi, err);
        if (r)
            return r;
        acpi.base = align_down(m->low_end, PAGE_SIZE) - m->acpi.size;
        acpi_tables_fini(&m->acpi);
        r = acpi_build(&acpi, &m->acpi, err);
        if (r)
            return r;
        m->acpi_base = acpi.base;
        m->boot.rsdp = Q35_RSDP;
        map.acpi_base = acpi.base;
        map.acpi_size = m->acpi.size;
        map.nvs_size = m->acpi.nvs;
    }
    e820_build(&map, &m->boot.map);
    return 0;
}

static void out8(struct machine *m, uint16_t port, uint8_t value)
{
    bus_access(&m->vm.ports, (struct bus_from){.vcpu = -1}, port, &value, 1, true);
}

void q35_firmware(struct machine *m)
{
    struct pci_bus *bus = q35_host_bus(m->host);
    uint16_t level = (uint16_t)(BIT(Q35_PCI_IRQ(0)) | BIT(Q35_PCI_IRQ(1)) | BIT(Q35_SCI_IRQ));

    /* ELCR: the IRQs that PIRQs and the SCI use are level-triggered. */
    out8(m, 0x4d0, (uint8_t)level);
    out8(m, 0x4d1, (uint8_t)(level >> 8));
    vm_lock(&m->vm);
    for (unsigned devfn = 0; devfn < ARRAY_LEN(bus->fn); devfn++) {
        uint32_t pin;

        if (!bus->fn[devfn])
            continue;
        pin = pci_config_read(bus, (uint8_t)devfn, PCI_INTERRUPT_PIN, 1);
        if (pin >= 1 && pin <= 4)
            pci_config_write(bus, (uint8_t)devfn, PCI_INTERRUPT_LINE,
                             Q35_PCI_IRQ(q35_host_pirq(PCI_SLOT(devfn), pin)), 1);
    }
    vm_unlock(&m->vm);
    if (m->acpi.data) {
        mem_load(&m->vm, m->acpi_base, m->acpi.data, m->acpi.size);
        mem_load(&m->vm, Q35_RSDP, m->acpi.rsdp, m->acpi.rsdp_size);
    }
}

#define MTRR_WB              6ull
#define MTRR_BYTES(type)     ((type)*0x0101010101010101ull)
#define MTRR_DEF_E           BIT(11)
#define MTRR_DEF_FE          BIT(10)
#define MTRR_MASK_VALID      BIT(11)
#define MTRR_FIXED_A0000     2 /* index of IA32_MTRR_FIX16K_A0000 */
#define FEATURE_CONTROL_LOCK BIT(0)

/*
 * MTRRs as firmware leaves them: all write-back, but for A0000h to BFFFFh and the PCI hole, which
 * takes as many ranges as it has naturally aligned pieces. SDM vol. 3A 11.11. Without them Linux
 * turns PAT off; if the CPUs differ, it complains. The feature-control MSR is locked.
 */
void q35_firmware_cpu(struct machine *m, struct cpu_state *cs)
{
    uint64_t at = pci32_first(m);

    cs->feature_control = FEATURE_CONTROL_LOCK;
    if (!cpu_has(&m->model, FEAT_MTRR))
        return;
    for (unsigned i = 0; i < ARRAY_LEN(cs->mtrr_fixed); i++)
        cs->mtrr_fixed[i] = i == MTRR_FIXED_A0000 ? 0 : MTRR_BYTES(MTRR_WB);
    for (unsigned i = 0; i < CPU_MTRR_VAR && at < FOUR_GIB; i++) {
        uint64_t size = at & -at;

        cs->mtrr_base[i] = at;
        cs->mtrr_mask[i] =
            ((BIT(m->model.phys_bits) - 1) & ~(size - 1) & ~PAGE_MASK) | MTRR_MASK_VALID;
        at += size;
    }
    cs->mtrr_def_type = MTRR_DEF_E | MTRR_DEF_FE | MTRR_WB;
}
