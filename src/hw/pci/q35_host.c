/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Q35 memory controller hub: host bridge 00:00.0. It turns port CF8h/CFCh and ECAM accesses into
 * configuration accesses, and decides whether A0000h to FFFFFh is RAM, ROM or the bus behind.
 *
 * Intel 3 Series Express Chipset data sheet (316966): 5.1 (DRAM controller registers), 3.2 (memory
 * map); PCI Local Bus Specification 3.0, 3.2.2.3.2 (mechanism 1); PCI Express Base
 * Specification 3.0, 7.2.2.
 *
 * Not emulated: DMI, the PCI Express root port, TSEG, the memory controller proper (MCHBAR and its
 * likes can be written and read, and decode nothing), buses behind bridges. Compatible SMRAM is
 * visible while D_OPEN is set; when SMM sees it is the engine's business.
 *
 * A hostile guest reaches: device numbers and offsets (bounded by their masks), the ECAM base, and
 * the PAM bits, each change of which rebuilds the memory map once.
 */
#include "hw/pci/q35_host.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "hw/region.h"

/* ---- registers ---- */

#define CONFIG_ADDRESS          0xcf8
#define CONFIG_DATA             0xcfc
#define CONFIG_ENABLE           BIT(31)
#define CONFIG_ADDRESS_WRITABLE 0x80fffffcu
#define CF9_OFFSET              1 /* of the reset control register in CONFIG_ADDRESS */

#define VENDOR_INTEL      0x8086
#define DEVICE_MCH        0x29c0
#define CLASS_HOST_BRIDGE 0x060000

#define EPBAR                 0x40
#define MCHBAR                0x48
#define DEVEN                 0x54
#define PCIEXBAR              0x60
#define PCIEXBAR_ENABLE       1u
#define PCIEXBAR_LENGTH       6u
#define PCIEXBAR_LENGTH_SHIFT 1
#define PCIEXBAR_WRITABLE     0xffc000007ull
#define DMIBAR                0x68
#define PAM0                  0x90
#define PAM_READ              1u
#define PAM_WRITE             2u
#define PAM_LOW               0x03
#define PAM_HIGH              0x30
#define SMRAM                 0x9d
#define SMRAM_BASE_SEG        0x02
#define SMRAM_G_SMRAME        0x08
#define SMRAM_D_LCK           0x10
#define SMRAM_D_CLS           0x20
#define SMRAM_D_OPEN          0x40
#define SMRAM_WRITABLE        (SMRAM_G_SMRAME | SMRAM_D_LCK | SMRAM_D_CLS | SMRAM_D_OPEN)

#define SMRAM_GPA  0xa0000u
#define SMRAM_SIZE 0x20000u

/* Segments that PAM steers: F0000h (64 KiB), then C0000h to EFFFFh in pieces of 16 KiB. */
#define PAM_SEGMENTS  13
#define PAM_BIOS_GPA  0xf0000u
#define PAM_BIOS_SIZE 0x10000u
#define PAM_GPA       0xc0000u
#define PAM_SIZE      0x4000u

#define ECAM_LENGTHS 3 /* 256, 128 and 64 MiB */

struct q35_host_state {
    struct pci_function_state pci;
    uint32_t config_address;
};

struct pam_segment {
    struct vm *vm;
    uint32_t gpa, size;
    uint64_t dram; /* RAM file offset */
    struct region ram, rom, shadow;
};

struct q35_host {
    struct device dev;
    struct pci_function pci;

    /* Wiring. */
    struct q35_host_config cfg;
    struct pci_bus bus;
    struct region address, data, ecam[ECAM_LENGTHS], smram;
    struct pam_segment pam[PAM_SEGMENTS];

    struct q35_host_state state;
};

static const struct state_field q35_host_fields[] = {
    STATE_PCI_FUNCTION(struct q35_host_state, pci),
    STATE_UINT(struct q35_host_state, config_address, 0, CONFIG_ADDRESS_WRITABLE),
};

unsigned q35_host_pirq(unsigned slot, unsigned pin)
{
    return ((slot + pin + 3) & 3) + (slot < 24 ? 4 : 0);
}

/* ---- PAM and SMRAM ---- */

/* What PAM says about segment i: PAM_READ and PAM_WRITE. */
static unsigned pam_bits(const uint8_t *config, unsigned i)
{
    uint8_t reg = config[PAM0 + (i + 1) / 2];

    return i % 2 == 0 ? reg >> 4 & 3 : reg & 3;
}

/*
 * Writes go to DRAM while reads come from ROM: how firmware copies itself. DRAM has no address of
 * its own then, so it is reached through the RAM file.
 */
static void shadow_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct pam_segment *seg = opaque;

    if (!range_ok(off, size, seg->size) || !range_ok(seg->dram + off, size, seg->vm->ram.size))
        return;
    put_le(seg->vm->ram.host + seg->dram + off, val, size);
    ram_written(seg->vm, seg->dram + off, size);
}

static uint64_t shadow_read(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque;
    (void)off;
    (void)size;
    return UINT64_MAX; /* no ROM here: nobody answers on the bus */
}

static const struct io_ops shadow_ops = {
    .read = shadow_read,
    .write = shadow_write,
    .sizes = IO_1 | IO_2 | IO_4 | IO_8,
};

static void pam_init(struct q35_host *host, unsigned i)
{
    struct pam_segment *seg = &host->pam[i];
    bool has_rom;

    seg->vm = host->dev.vm;
    seg->gpa = i ? PAM_GPA + (i - 1) * PAM_SIZE : PAM_BIOS_GPA;
    seg->size = i ? PAM_SIZE : PAM_BIOS_SIZE;
    seg->dram = host->cfg.dram_offset + seg->gpa;
    has_rom = host->cfg.rom_base && seg->gpa >= host->cfg.rom_base;
    seg->ram = (struct region){
        .name = "pam-ram",
        .kind = REGION_RAM,
        .size = seg->size,
        .priority = REGION_PRIO_OVERLAY,
        .ram_offset = seg->dram,
        .disabled = true,
    };
    seg->rom = seg->ram;
    seg->rom.name = "pam-rom";
    seg->rom.kind = REGION_ROM;
    seg->shadow = (struct region){
        .name = "pam-shadow",
        .kind = has_rom ? REGION_ROMD : REGION_IO,
        .size = seg->size,
        .priority = REGION_PRIO_OVERLAY,
        .ops = &shadow_ops,
        .dev = seg,
        .ram_offset = has_rom ? host->cfg.rom_offset + (seg->gpa - host->cfg.rom_base) : 0,
        .disabled = true,
    };
}

static void pam_derive(struct q35_host *host)
{
    const uint8_t *config = host->state.pci.config;
    uint8_t smram = config[SMRAM];

    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        unsigned bits = pam_bits(config, i);

        bus_set_enabled(&host->pam[i].ram, bits == (PAM_READ | PAM_WRITE));
        bus_set_enabled(&host->pam[i].rom, bits == PAM_READ);
        bus_set_enabled(&host->pam[i].shadow, bits == PAM_WRITE);
    }
    bus_set_enabled(&host->smram,
                    (smram & SMRAM_G_SMRAME) && (smram & SMRAM_D_OPEN) && !(smram & SMRAM_D_CLS));
}

/* ---- configuration space of the bridge itself ---- */

static void ecam_derive(struct q35_host *host)
{
    uint64_t reg = get_le64(host->state.pci.config + PCIEXBAR);
    unsigned length = (reg & PCIEXBAR_LENGTH) >> PCIEXBAR_LENGTH_SHIFT;

    for (unsigned i = 0; i < ECAM_LENGTHS; i++) {
        struct region *region = &host->ecam[i];
        uint64_t base = reg & PCIEXBAR_WRITABLE & ~(region->size - 1);
        bool on = (reg & PCIEXBAR_ENABLE) && length == i;

        if (on)
            bus_move(&host->dev.vm->memory, region, base);
        bus_set_enabled(region, on);
    }
}

static void q35_host_derive(struct device *dev)
{
    struct q35_host *host = (struct q35_host *)dev;
    struct space *memory = &dev->vm->memory;

    bus_begin(memory);
    pci_function_derive(&host->pci);
    ecam_derive(host);
    pam_derive(host);
    bus_commit(memory);
    /* D_LCK freezes SMRAM, itself included, until a reset. */
    host->pci.wmask[SMRAM] = host->state.pci.config[SMRAM] & SMRAM_D_LCK ? 0 : SMRAM_WRITABLE;
}

static void q35_config_written(struct pci_function *fn, unsigned off, unsigned size)
{
    uint8_t *smram = &fn->state->config[SMRAM];

    (void)off;
    (void)size;
    if (*smram & SMRAM_D_LCK)
        *smram &= (uint8_t)~SMRAM_D_OPEN;
}

/* ---- mechanism 1 ---- */

static void address_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct q35_host *host = opaque;

    /* Only a 32-bit write is for the register; others pass on to what lies behind (3.2.2.3.2). */
    if (size == 4 && off == 0)
        host->state.config_address = (uint32_t)val & CONFIG_ADDRESS_WRITABLE;
    else if (off == CF9_OFFSET && host->cfg.cf9_write)
        host->cfg.cf9_write(host->cfg.cf9_dev, (uint8_t)val);
}

static uint64_t address_read(void *opaque, uint64_t off, unsigned size)
{
    struct q35_host *host = opaque;

    if (size == 4 && off == 0)
        return host->state.config_address;
    if (off == CF9_OFFSET && host->cfg.cf9_read)
        return ~0xffull | host->cfg.cf9_read(host->cfg.cf9_dev);
    return UINT64_MAX;
}

/* False if the address selects no configuration space of bus 0. */
static bool address_decode(const struct q35_host *host, uint64_t off, uint8_t *devfn, unsigned *reg)
{
    uint32_t address = host->state.config_address;

    *devfn = (uint8_t)(address >> 8);
    *reg = (address & 0xfc) + (off & 3);
    return (address & CONFIG_ENABLE) && !(address >> 16 & 0xff);
}

static void data_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct q35_host *host = opaque;
    uint8_t devfn;
    unsigned reg;

    if (address_decode(host, off, &devfn, &reg))
        pci_config_write(&host->bus, devfn, reg, (uint32_t)val, size);
}

static uint64_t data_read(void *opaque, uint64_t off, unsigned size)
{
    struct q35_host *host = opaque;
    uint8_t devfn;
    unsigned reg;

    return address_decode(host, off, &devfn, &reg) ? pci_config_read(&host->bus, devfn, reg, size)
                                                   : UINT64_MAX;
}

static const struct io_reg address_regs[] = {
    {CF9_OFFSET, 1, "RST_CNT"},
    {0, 4, "CONFIG_ADDRESS"},
    {0},
};
static const struct io_reg data_regs[] = {{0, 4, "CONFIG_DATA"}, {0}};

static const struct io_ops address_ops = {
    .read = address_read,
    .write = address_write,
    .sizes = IO_1 | IO_2 | IO_4,
    .regs = address_regs,
};

static const struct io_ops data_ops = {
    .read = data_read,
    .write = data_write,
    .sizes = IO_1 | IO_2 | IO_4,
    .regs = data_regs,
};

/* ---- ECAM ---- */

#define ECAM_BUS(off)   ((off) >> 20)
#define ECAM_DEVFN(off) ((uint8_t)((off) >> 12))
#define ECAM_REG(off)   ((unsigned)(off)&0xfff)

static void ecam_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct q35_host *host = opaque;

    if (!ECAM_BUS(off))
        pci_config_write(&host->bus, ECAM_DEVFN(off), ECAM_REG(off), (uint32_t)val, size);
}

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size)
{
    struct q35_host *host = opaque;

    return ECAM_BUS(off) ? UINT64_MAX
                         : pci_config_read(&host->bus, ECAM_DEVFN(off), ECAM_REG(off), size);
}

static const struct io_ops ecam_ops = {
    .read = ecam_read,
    .write = ecam_write,
    .sizes = IO_1 | IO_2 | IO_4,
};

/* ---- life ---- */

static void q35_host_reset(struct device *dev, enum reset_kind kind)
{
    struct q35_host *host = (struct q35_host *)dev;

    pci_function_reset(&host->pci, kind);
    host->state.config_address = 0;
}

static int q35_host_check(struct device *dev, struct err *err)
{
    struct q35_host *host = (struct q35_host *)dev;

    if (host->state.config_address & ~CONFIG_ADDRESS_WRITABLE)
        return err_set(err, EINVAL, "saved CONFIG_ADDRESS has reserved bits set");
    return pci_function_check(&host->pci, err);
}

static void config_init(struct q35_host *host)
{
    struct pci_function *fn = &host->pci;

    fn->config_written = q35_config_written;
    put_le64(fn->wmask + EPBAR, 0xffffff001ull);
    put_le64(fn->wmask + MCHBAR, 0xfffffc001ull);
    put_le64(fn->wmask + DMIBAR, 0xffffff001ull);
    fn->reset[DEVEN] = 1; /* the host bridge is the only function of the hub */
    put_le64(fn->wmask + PCIEXBAR, PCIEXBAR_WRITABLE);
    if (host->cfg.ecam_base)
        put_le64(fn->reset + PCIEXBAR, (host->cfg.ecam_base & PCIEXBAR_WRITABLE) | PCIEXBAR_ENABLE);
    for (unsigned i = 0; i < Q35_PAM_REGS; i++) {
        uint8_t mask = i ? PAM_LOW | PAM_HIGH : PAM_HIGH;

        fn->wmask[PAM0 + i] = mask;
        fn->reset[PAM0 + i] = host->cfg.pam[i] & mask;
    }
    fn->reset[SMRAM] = SMRAM_BASE_SEG;
    fn->wmask[SMRAM] = SMRAM_WRITABLE;
    fn->hw[SMRAM] = SMRAM_WRITABLE; /* D_LCK takes the bits out of wmask */
}

static int q35_host_init(struct device *dev, const void *config, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = VENDOR_INTEL,
        .device = DEVICE_MCH,
        .revision = 2,
        .class_code = CLASS_HOST_BRIDGE,
    };
    struct q35_host *host = (struct q35_host *)dev;
    int ret;

    host->cfg = *(const struct q35_host_config *)config;
    host->bus.vm = dev->vm;
    host->bus.route = q35_host_pirq;
    memcpy(host->bus.pirq, host->cfg.pirq, sizeof(host->bus.pirq));
    ret = pci_function_init(&host->pci, dev, &host->bus, 0, &host->state.pci, &ids, PCI_CONFIG_SIZE,
                            err);
    if (ret)
        return ret;
    config_init(host);
    host->address = region_io(dev, "config-address", 4, &address_ops);
    /* Whatever else lies at CF9h must not split a 32-bit write to CONFIG_ADDRESS. */
    host->address.priority = REGION_PRIO_OVERLAY + 1;
    host->data = region_io(dev, "config-data", 4, &data_ops);
    for (unsigned i = 0; i < ECAM_LENGTHS; i++) {
        host->ecam[i] = region_io(dev, "ecam", Q35_ECAM_SIZE >> i, &ecam_ops);
        host->ecam[i].disabled = true;
    }
    host->smram = (struct region){
        .name = "smram",
        .kind = REGION_RAM,
        .size = SMRAM_SIZE,
        .priority = REGION_PRIO_OVERLAY,
        .ram_offset = host->cfg.dram_offset + SMRAM_GPA,
        .disabled = true,
    };
    for (unsigned i = 0; i < PAM_SEGMENTS; i++)
        pam_init(host, i);
    q35_host_reset(dev, RESET_COLD);
    return 0;
}

static void q35_host_attach(struct device *dev)
{
    struct q35_host *host = (struct q35_host *)dev;
    struct space *memory = &dev->vm->memory;

    pci_add_function(&host->pci);
    bus_map(&dev->vm->ports, &host->address, CONFIG_ADDRESS);
    bus_map(&dev->vm->ports, &host->data, CONFIG_DATA);
    bus_begin(memory);
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        bus_map(memory, &host->pam[i].ram, host->pam[i].gpa);
        bus_map(memory, &host->pam[i].rom, host->pam[i].gpa);
        bus_map(memory, &host->pam[i].shadow, host->pam[i].gpa);
    }
    bus_map(memory, &host->smram, SMRAM_GPA);
    bus_commit(memory);
}

static void q35_host_detach(struct device *dev)
{
    struct q35_host *host = (struct q35_host *)dev;
    struct space *memory = &dev->vm->memory;

    bus_begin(memory);
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        bus_unmap(&host->pam[i].ram);
        bus_unmap(&host->pam[i].rom);
        bus_unmap(&host->pam[i].shadow);
    }
    bus_unmap(&host->smram);
    for (unsigned i = 0; i < ECAM_LENGTHS; i++)
        bus_unmap(&host->ecam[i]);
    bus_commit(memory);
    bus_unmap(&host->address);
    bus_unmap(&host->data);
    pci_remove_function(&host->pci);
}

struct pci_bus *q35_host_bus(struct device *host)
{
    return &((struct q35_host *)host)->bus;
}

static const struct state q35_host_state_table = STATE(struct q35_host, state, 1, q35_host_fields);

const struct dev_type q35_host_type = {
    .name = "q35_host",
    .desc = "Q35 host bridge (82Q35 MCH)",
    .size = sizeof(struct q35_host),
    .init = q35_host_init,
    .attach = q35_host_attach,
    .detach = q35_host_detach,
    .reset = q35_host_reset,
    .check = q35_host_check,
    .derive = q35_host_derive,
    .state = &q35_host_state_table,
};
