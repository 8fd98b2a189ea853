/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICH9 LPC interface bridge 00:1F.0: the ISA side of the chipset. Here it routes the PCI interrupts
 * PIRQA to PIRQH to the PIC, says where the ACPI power management block lies, and holds the chipset
 * configuration registers.
 *
 * Intel ICH9 data sheet (316972): 13.1 (LPC configuration registers), 10.1 (chipset configuration
 * registers, RCBA), 5.9.7 (PIRQ routing).
 *
 * Not emulated: decode ranges (LPC_EN, GENx_DEC, GPIOBASE are storage: what is on the board decodes
 * always), GPIO, SPI, the watchdog, the interrupt route registers DxxIR (routing is fixed, as
 * q35_host_pirq says). PIRQs reach I/O APIC pins 16 to 23 by their lines, whatever stands here.
 */
#include "hw/pci/ich9_lpc.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"

/* ---- registers
 * -------------------------------------------------------------------------------------- */

#define LPC_DEVFN             PCI_DEVFN(0x1f, 0)
#define VENDOR_INTEL          0x8086
#define DEVICE_ICH9           0x2918
#define CLASS_ISA_BRIDGE      0x060100
#define HEADER_MULTI_FUNCTION 0x80

#define PMBASE             0x40
#define PMBASE_IO          0x1u
#define PMBASE_ADDR        0xff80u
#define ACPI_CNTL          0x44
#define ACPI_CNTL_EN       0x80
#define ACPI_CNTL_SCI      0x07
#define GPIOBASE           0x48
#define GC                 0x4c
#define PIRQA_ROUT         0x60
#define SIRQ_CNTL          0x64
#define SIRQ_CNTL_RESET    0x10
#define PIRQE_ROUT         0x68
#define PIRQ_ROUT_OFF      0x80
#define PIRQ_ROUT_IRQ      0x0f
#define PIRQ_ROUT_WRITABLE 0x8f
#define LPC_IO_DEC         0x80
#define LPC_EN             0x82
#define GEN1_DEC           0x84
#define GEN_PMCON_1        0xa0
#define GEN_PMCON_3        0xa4
#define BIOS_CNTL          0xdc
#define RCBA               0xf0
#define RCBA_ENABLE        1u
#define RCBA_ADDR          0xffffc000u

/* IRQs that a PIRQ can be routed to: 3 to 7, 9 to 12, 14, 15. */
#define ROUTABLE_IRQS 0xdef8u

/* Chipset configuration registers, from RCBA. */
#define RCBA_SIZE         0x4000u
#define RCBA_OIC          0x31fc /* OIC is its top half */
#define RCBA_OIC_WRITABLE 0x03ff0000u
#define RCBA_HPTC         0x3404
#define RCBA_GCS          0x3410
#define RCBA_GCS_WRITABLE 0x00000c64u
#define RCBA_FD           0x3418

struct ich9_lpc_state {
    struct pci_function_state pci;
    uint32_t oic, gcs, fd;
    uint32_t pirqs; /* levels of PIRQA to PIRQH: they come from outside and outlast a reset */
};

struct ich9_lpc {
    struct device dev;
    struct pci_function pci;

    /* Wiring. */
    struct ich9_lpc_config cfg;
    struct irq isa[16];
    struct region rcba;

    /* Derived. */
    bool pm_placed, pm_enabled;
    uint16_t pm_base;

    struct ich9_lpc_state state;
};

static const struct state_field ich9_lpc_fields[] = {
    STATE_PCI_FUNCTION(struct ich9_lpc_state, pci),
    STATE_UINT(struct ich9_lpc_state, oic, 0, RCBA_OIC_WRITABLE),
    STATE_UINT(struct ich9_lpc_state, gcs, 0, RCBA_GCS_WRITABLE),
    STATE_UINT(struct ich9_lpc_state, fd, 0, UINT32_MAX),
    STATE_UINT(struct ich9_lpc_state, pirqs, 0, (1u << PCI_BUS_PIRQS) - 1),
};

static unsigned pirq_rout(unsigned n)
{
    return n < 4 ? PIRQA_ROUT + n : PIRQE_ROUT + n - 4;
}

/* ---- derive
 * --------------------------------------------------------------------------------------- */

static void pirq_derive(struct ich9_lpc *lpc)
{
    uint32_t irqs = 0;

    for (unsigned n = 0; n < PCI_BUS_PIRQS; n++) {
        uint8_t rout = lpc->state.pci.config[pirq_rout(n)];

        if ((lpc->state.pirqs >> n & 1) && !(rout & PIRQ_ROUT_OFF))
            irqs |= 1u << (rout & PIRQ_ROUT_IRQ);
    }
    irqs &= ROUTABLE_IRQS;
    for (unsigned i = 0; i < ARRAY_LEN(lpc->isa); i++)
        irq_set(lpc->isa[i], irqs >> i & 1);
}

static void pm_derive(struct ich9_lpc *lpc)
{
    const uint8_t *config = lpc->state.pci.config;
    uint16_t base = get_le16(config + PMBASE) & PMBASE_ADDR;
    bool enabled = config[ACPI_CNTL] & ACPI_CNTL_EN;

    if (lpc->pm_placed && base == lpc->pm_base && enabled == lpc->pm_enabled)
        return;
    lpc->pm_placed = true;
    lpc->pm_base = base;
    lpc->pm_enabled = enabled;
    if (lpc->cfg.place_pm)
        lpc->cfg.place_pm(lpc->cfg.pm, base, enabled);
}

static void ich9_lpc_derive(struct device *dev)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;
    uint32_t rcba = get_le32(lpc->state.pci.config + RCBA);
    struct space *memory = &dev->vm->memory;

    pci_function_derive(&lpc->pci);
    pirq_derive(lpc);
    pm_derive(lpc);
    bus_begin(memory);
    if (rcba & RCBA_ENABLE)
        bus_move(memory, &lpc->rcba, rcba & RCBA_ADDR);
    bus_set_enabled(&lpc->rcba, rcba & RCBA_ENABLE);
    bus_commit(memory);
}

static bool pirq_set(void *chip, unsigned n, bool level)
{
    struct ich9_lpc *lpc = chip;
    uint32_t bit = 1u << n % PCI_BUS_PIRQS;

    if (level)
        lpc->state.pirqs |= bit;
    else
        lpc->state.pirqs &= ~bit;
    pirq_derive(lpc);
    return true;
}

/* ---- chipset configuration registers
 * --------------------------------------------------------------- */

static void rcba_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct ich9_lpc *lpc = opaque;
    uint32_t *reg, writable;
    uint32_t mask = (uint32_t)(mask_bytes(size) << (off & 3) * 8);

    switch (off & ~3ull) {
    case RCBA_OIC:
        reg = &lpc->state.oic;
        writable = RCBA_OIC_WRITABLE;
        break;
    case RCBA_GCS:
        reg = &lpc->state.gcs;
        writable = RCBA_GCS_WRITABLE;
        break;
    case RCBA_FD:
        reg = &lpc->state.fd;
        writable = UINT32_MAX;
        break;
    default:
        return; /* of the rest nothing is behind */
    }
    mask &= writable;
    *reg = (*reg & ~mask) | ((uint32_t)(val << (off & 3) * 8) & mask);
}

static uint64_t rcba_read(void *opaque, uint64_t off, unsigned size)
{
    struct ich9_lpc *lpc = opaque;
    uint32_t reg = 0; /* HPTC too: there is no HPET */

    (void)size;
    switch (off & ~3ull) {
    case RCBA_OIC:
        reg = lpc->state.oic;
        break;
    case RCBA_GCS:
        reg = lpc->state.gcs;
        break;
    case RCBA_FD:
        reg = lpc->state.fd;
        break;
    }
    return reg >> (off & 3) * 8;
}

static const struct io_reg rcba_regs[] = {
    {RCBA_OIC, 4, "OIC"}, {RCBA_HPTC, 4, "HPTC"}, {RCBA_GCS, 4, "GCS"}, {RCBA_FD, 4, "FD"}, {0},
};

static const struct io_ops rcba_ops = {
    .read = rcba_read,
    .write = rcba_write,
    .sizes = IO_1 | IO_2 | IO_4,
    .regs = rcba_regs,
};

/* ---- life
 * -------------------------------------------------------------------------------------------- */

static void ich9_lpc_reset(struct device *dev, enum reset_kind kind)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;

    pci_function_reset(&lpc->pci, kind);
    lpc->state.oic = 0;
    lpc->state.gcs = 0;
    lpc->state.fd = 0;
}

static int ich9_lpc_check(struct device *dev, struct err *err)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;

    if ((lpc->state.gcs & ~RCBA_GCS_WRITABLE) || (lpc->state.oic & ~RCBA_OIC_WRITABLE))
        return err_set(err, EINVAL, "saved chipset configuration has reserved bits set");
    return pci_function_check(&lpc->pci, err);
}

static void config_init(struct ich9_lpc *lpc)
{
    struct pci_function *fn = &lpc->pci;

    fn->reset[PCI_HEADER_TYPE] = HEADER_MULTI_FUNCTION;
    /* The bridge always decodes and masters (13.1.3). */
    put_le16(fn->reset + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put_le16(fn->wmask + PCI_COMMAND, PCI_COMMAND_PARITY | PCI_COMMAND_SERR);
    put_le32(fn->reset + PMBASE, PMBASE_IO | (lpc->cfg.pm_base & PMBASE_ADDR));
    put_le32(fn->wmask + PMBASE, PMBASE_ADDR);
    fn->reset[ACPI_CNTL] = lpc->cfg.pm_base ? ACPI_CNTL_EN : 0;
    fn->wmask[ACPI_CNTL] = ACPI_CNTL_EN | ACPI_CNTL_SCI;
    fn->reset[GPIOBASE] = 1;
    put_le32(fn->wmask + GPIOBASE, 0xff80);
    fn->wmask[GC] = 0x11;
    for (unsigned n = 0; n < PCI_BUS_PIRQS; n++) {
        uint8_t rout = lpc->cfg.pirq_rout[n];

        fn->reset[pirq_rout(n)] = rout ? rout & PIRQ_ROUT_WRITABLE : PIRQ_ROUT_OFF;
        fn->wmask[pirq_rout(n)] = PIRQ_ROUT_WRITABLE;
    }
    fn->reset[SIRQ_CNTL] = SIRQ_CNTL_RESET;
    fn->wmask[SIRQ_CNTL] = 0xff;
    put_le16(fn->wmask + LPC_IO_DEC, 0x1377);
    put_le16(fn->wmask + LPC_EN, 0x3f0f);
    for (unsigned i = 0; i < 4; i++)
        put_le32(fn->wmask + GEN1_DEC + i * 4, 0x00fcfffd);
    put_le32(fn->wmask + GEN_PMCON_1, 0x00010c7f);
    fn->wmask[GEN_PMCON_3] = 0xf9;
    fn->wmask[BIOS_CNTL] = 0x0f;
    put_le32(fn->wmask + RCBA, RCBA_ADDR | RCBA_ENABLE);
}

static int ich9_lpc_init(struct device *dev, const void *config, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = VENDOR_INTEL,
        .device = DEVICE_ICH9,
        .revision = 2,
        .class_code = CLASS_ISA_BRIDGE,
    };
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;
    int ret;

    lpc->cfg = *(const struct ich9_lpc_config *)config;
    ret = pci_function_init(&lpc->pci, dev, lpc->cfg.bus, LPC_DEVFN, &lpc->state.pci, &ids,
                            PCI_CONFIG_SIZE, err);
    if (ret)
        return ret;
    config_init(lpc);
    lpc->rcba = (struct region){
        .name = "rcba",
        .kind = REGION_IO,
        .size = RCBA_SIZE,
        .ops = &rcba_ops,
        .dev = lpc,
        .owner = dev,
        .disabled = true,
    };
    for (unsigned i = 0; i < ARRAY_LEN(lpc->isa); i++)
        if ((ROUTABLE_IRQS >> i & 1) && lpc->cfg.isa[i])
            lpc->isa[i] = irq_line_source(lpc->cfg.isa[i]);
    for (unsigned n = 0; n < PCI_BUS_PIRQS; n++)
        if (lpc->cfg.pirq[n])
            irq_line_add_pin(lpc->cfg.pirq[n],
                             (struct irq_pin){.set = pirq_set, .chip = lpc, .pin = n});
    ich9_lpc_reset(dev, RESET_COLD);
    return 0;
}

static void ich9_lpc_attach(struct device *dev)
{
    pci_add_function(&((struct ich9_lpc *)dev)->pci);
}

static void ich9_lpc_detach(struct device *dev)
{
    struct ich9_lpc *lpc = (struct ich9_lpc *)dev;

    bus_unmap(&lpc->rcba);
    pci_remove_function(&lpc->pci);
}

static const struct state ich9_lpc_state_table = STATE(struct ich9_lpc, state, 1, ich9_lpc_fields);

const struct dev_type ich9_lpc_type = {
    .name = "ich9_lpc",
    .desc = "ICH9 LPC bridge",
    .size = sizeof(struct ich9_lpc),
    .init = ich9_lpc_init,
    .attach = ich9_lpc_attach,
    .detach = ich9_lpc_detach,
    .reset = ich9_lpc_reset,
    .check = ich9_lpc_check,
    .derive = ich9_lpc_derive,
    .state = &ich9_lpc_state_table,
};
