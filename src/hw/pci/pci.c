/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI functions: what every function's configuration space does, whatever the chip.
 *
 * PCI Local Bus Specification 3.0, chapter 6; PCI Express Base Specification 3.0, chapter 7; PCI
 * Bus Power Management Interface 1.2.
 *
 * A chip fills three images of its configuration space: the values after reset, the bits that
 * software may write, and those it clears by writing 1. All else follows from them. BARs lie below
 * everything else on the bus (priority): whatever a guest writes into one, RAM, ROM and the fixed
 * chipset registers stay where they are.
 *
 * A hostile guest reaches: offsets (bounded where used) and BAR addresses (checked against the end
 * of the space). Not emulated: bridges, parity, BIST, VPD.
 */
#include "hw/pci/pci.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "hw/pci/msi.h"

#define PCI_BAR_PRIORITY (REGION_PRIO_NORMAL - 1)

#define BAR_IO           0x1u
#define BAR_MEM_64       0x4u
#define BAR_MEM_PREFETCH 0x8u
#define BAR_IO_MASK      0xfffffffcu
#define BAR_MEM_MASK     0xfffffff0u
#define ROM_ENABLE       0x1u
#define ROM_MASK         0xfffff800u

#define FIRST_CAPABILITY 0x40

#define COMMAND_WRITABLE                                                             \
    (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | \
     PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)

/* Power management capability. */
#define PM_SIZE                8
#define PM_PMC                 2
#define PM_PMC_VERSION         3
#define PM_PMCSR               4
#define PM_PMCSR_STATE         3
#define PM_PMCSR_NO_SOFT_RESET 8

/* PCI Express capability. */
#define EXP_SIZE             0x3c
#define EXP_FLAGS            2
#define EXP_FLAGS_VALUE      (2 | 9 << 4) /* version 2, root complex integrated endpoint */
#define EXP_DEVCAP           4
#define EXP_DEVCAP_RBER      BIT(15)
#define EXP_DEVCAP_FLR       BIT(28)
#define EXP_DEVCTL           8
#define EXP_DEVCTL_WRITABLE  0x7fff
#define EXP_DEVCTL_FLR       0x8000
#define EXP_DEVSTA           10
#define EXP_DEVSTA_ERRORS    0xf
#define EXP_DEVCTL2          0x28
#define EXP_DEVCTL2_WRITABLE 0x1f

const struct state_field pci_function_fields[1] = {
    STATE_BYTES(struct pci_function_state, config),
};

/* ---- building ---- */

int pci_function_init(struct pci_function *fn, struct device *dev, struct pci_bus *bus,
                      uint8_t devfn, struct pci_function_state *state, const struct pci_ids *ids,
                      uint16_t config_size, struct err *err)
{
    if (bus->fn[devfn])
        return err_set(err, EBUSY, "PCI address %02x.%u is taken: give the device another one",
                       PCI_SLOT(devfn), devfn & 7);
    fn->dev = dev;
    fn->bus = bus;
    fn->state = state;
    fn->devfn = devfn;
    fn->config_size = config_size;
    fn->next_cap = FIRST_CAPABILITY;
    fn->last_cap = PCI_CAPABILITY_LIST;
    put_le16(fn->reset + PCI_VENDOR_ID, ids->vendor);
    put_le16(fn->reset + PCI_DEVICE_ID, ids->device);
    put_le16(fn->reset + PCI_SUBSYSTEM_VENDOR_ID, ids->subsystem_vendor);
    put_le16(fn->reset + PCI_SUBSYSTEM_ID, ids->subsystem);
    fn->reset[PCI_REVISION_ID] = ids->revision;
    put_le16(fn->reset + PCI_CLASS_PROG, (uint16_t)ids->class_code);
    fn->reset[PCI_CLASS_PROG + 2] = (uint8_t)(ids->class_code >> 16);
    fn->reset[PCI_INTERRUPT_PIN] = ids->interrupt_pin;
    put_le16(fn->wmask + PCI_COMMAND, COMMAND_WRITABLE);
    put_le16(fn->w1c + PCI_STATUS, PCI_STATUS_ERRORS);
    fn->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
    fn->wmask[PCI_LATENCY_TIMER] = 0xff;
    fn->wmask[PCI_INTERRUPT_LINE] = 0xff;
    if (ids->interrupt_pin && bus->route) {
        unsigned pirq = bus->route(PCI_SLOT(devfn), ids->interrupt_pin) % PCI_BUS_PIRQS;

        if (bus->pirq[pirq])
            fn->intx = irq_line_source(bus->pirq[pirq]);
    }
    memcpy(state->config, fn->reset, sizeof(state->config));
    dev->bus_master = &fn->bus_master;
    dev->requester_id = devfn;
    return 0;
}

static void bar_region(struct pci_function *fn, unsigned index, enum pci_bar_kind kind,
                       struct region *region)
{
    region->priority = PCI_BAR_PRIORITY;
    fn->bar[index] = (struct pci_bar){
        .kind = kind,
        .region = region,
        .space = kind == PCI_BAR_IO ? &fn->bus->vm->ports : &fn->bus->vm->memory,
    };
}

void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind,
                 struct region *region)
{
    unsigned off = PCI_BASE_ADDRESS_0 + index * 4;
    uint64_t mask = ~(region->size - 1);
    bool wide = kind == PCI_BAR_MEM64 || kind == PCI_BAR_MEM64_PREFETCH;

    bar_region(fn, index, kind, region);
    if (kind == PCI_BAR_IO) {
        put_le32(fn->reset + off, BAR_IO);
        put_le32(fn->wmask + off, (uint32_t)mask & BAR_IO_MASK);
        return;
    }
    put_le32(fn->reset + off,
             (wide ? BAR_MEM_64 : 0) | (kind == PCI_BAR_MEM64_PREFETCH ? BAR_MEM_PREFETCH : 0));
    put_le32(fn->wmask + off, (uint32_t)mask & BAR_MEM_MASK);
    if (wide)
        put_le32(fn->wmask + off + 4, (uint32_t)(mask >> 32));
}

void pci_add_rom(struct pci_function *fn, struct region *region)
{
    bar_region(fn, PCI_ROM_BAR, PCI_BAR_MEM32, region);
    put_le32(fn->wmask + PCI_ROM_ADDRESS, ((uint32_t) ~(region->size - 1) & ROM_MASK) | ROM_ENABLE);
}

unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned size)
{
    unsigned at = fn->next_cap;

    fn->reset[at] = id;
    fn->reset[fn->last_cap] = (uint8_t)at;
    fn->reset[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    fn->last_cap = (uint8_t)(at + 1);
    fn->next_cap = (uint8_t)align_up(at + size, 4);
    return at;
}

void pci_add_pm(struct pci_function *fn)
{
    unsigned cap = pci_add_capability(fn, PCI_CAP_ID_PM, PM_SIZE);

    fn->pm_cap = (uint8_t)cap;
    put_le16(fn->reset + cap + PM_PMC, PM_PMC_VERSION);
    put_le16(fn->reset + cap + PM_PMCSR, PM_PMCSR_NO_SOFT_RESET);
    put_le16(fn->wmask + cap + PM_PMCSR, PM_PMCSR_STATE);
}

void pci_add_express(struct pci_function *fn)
{
    unsigned cap = pci_add_capability(fn, PCI_CAP_ID_EXP, EXP_SIZE);

    fn->express_cap = (uint8_t)cap;
    put_le16(fn->reset + cap + EXP_FLAGS, EXP_FLAGS_VALUE);
    put_le32(fn->reset + cap + EXP_DEVCAP, EXP_DEVCAP_RBER | EXP_DEVCAP_FLR);
    put_le16(fn->wmask + cap + EXP_DEVCTL, EXP_DEVCTL_WRITABLE);
    put_le16(fn->w1c + cap + EXP_DEVSTA, EXP_DEVSTA_ERRORS);
    put_le16(fn->wmask + cap + EXP_DEVCTL2, EXP_DEVCTL2_WRITABLE);
}

void pci_add_function(struct pci_function *fn)
{
    fn->bus->fn[fn->devfn] = fn;
}

static void bar_unmap(struct pci_bar *bar)
{
    if (bar->region)
        bus_unmap(bar->region);
    bar->mapped = false;
}

void pci_remove_function(struct pci_function *fn)
{
    for (unsigned i = 0; i < ARRAY_LEN(fn->bar); i++)
        bar_unmap(&fn->bar[i]);
    irq_set(fn->intx, false);
    fn->bus->fn[fn->devfn] = NULL;
}

/* ---- state ---- */

void pci_function_reset(struct pci_function *fn, enum reset_kind kind)
{
    (void)kind; /* nothing here is sticky: no auxiliary power */
    memcpy(fn->state->config, fn->reset, sizeof(fn->state->config));
}

int pci_function_check(const struct pci_function *fn, struct err *err)
{
    for (unsigned i = 0; i < sizeof(fn->reset); i++) {
        uint8_t differs = fn->state->config[i] ^ fn->reset[i];

        if (differs & ~(fn->wmask[i] | fn->w1c[i] | fn->hw[i]))
            return err_set(err, EINVAL,
                           "saved PCI configuration space differs at %#x in bits that nothing can "
                           "change: start the VM with the same devices",
                           i);
    }
    return 0;
}

static uint16_t command(const struct pci_function *fn)
{
    return get_le16(fn->state->config + PCI_COMMAND);
}

static bool powered(const struct pci_function *fn)
{
    return !fn->pm_cap || !(fn->state->config[fn->pm_cap + PM_PMCSR] & PM_PMCSR_STATE);
}

/* Where the guest wants BAR `index`; false if it is not to be decoded. */
static bool bar_wanted(const struct pci_function *fn, unsigned index, uint64_t *base)
{
    const struct pci_bar *bar = &fn->bar[index];
    unsigned off = index == PCI_ROM_BAR ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + index * 4;
    const uint8_t *config = fn->state->config;
    uint64_t last, addr = get_le32(config + off);
    uint16_t enable = bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;

    if (!(command(fn) & enable) || !powered(fn))
        return false;
    if (index == PCI_ROM_BAR && !(addr & ROM_ENABLE))
        return false;
    if (bar->kind == PCI_BAR_MEM64 || bar->kind == PCI_BAR_MEM64_PREFETCH)
        addr |= (uint64_t)get_le32(config + off + 4) << 32;
    *base = addr & ~(bar->region->size - 1);
    return add_ok(*base, bar->region->size - 1, &last) && last <= bar->space->last;
}

static void bar_derive(struct pci_function *fn, unsigned index)
{
    struct pci_bar *bar = &fn->bar[index];
    uint64_t base = 0;
    bool wanted;

    if (bar->kind == PCI_BAR_NONE)
        return;
    wanted = bar_wanted(fn, index, &base);
    if (wanted == bar->mapped && (!wanted || base == bar->base))
        return;
    bar->mapped = wanted;
    bar->base = base;
    bus_begin(bar->space);
    if (wanted)
        bus_move(bar->space, bar->region, base);
    bus_set_enabled(bar->region, wanted);
    bus_commit(bar->space);
}

void pci_function_derive(struct pci_function *fn)
{
    /* A function that is not published decodes nothing. */
    if (fn->bus->fn[fn->devfn] != fn)
        return;
    fn->bus_master = (command(fn) & PCI_COMMAND_MASTER) && powered(fn);
    for (unsigned i = 0; i < ARRAY_LEN(fn->bar); i++)
        bar_derive(fn, i);
    pci_msi_derive(fn);
}

void pci_intx_set(struct pci_function *fn, bool level)
{
    fn->intx_level = level;
    irq_set(fn->intx, level && !(command(fn) & PCI_COMMAND_INTX_DISABLE));
}

uint64_t pci_bar_base(const struct pci_function *fn, unsigned index)
{
    return index < ARRAY_LEN(fn->bar) && fn->bar[index].mapped ? fn->bar[index].base : UINT64_MAX;
}

/* ---- configuration accesses ---- */

static void function_write(struct pci_function *fn, unsigned off, uint32_t val, unsigned size)
{
    uint8_t *config = fn->state->config;

    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(val >> i * 8), *p = &config[off + i], w = fn->wmask[off + i];

        *p = (uint8_t)((*p & ~w) | (byte & w));
        *p &= (uint8_t) ~(byte & fn->w1c[off + i]);
    }
    if (fn->config_written)
        fn->config_written(fn, off, size);
    if (fn->dev->type->derive)
        fn->dev->type->derive(fn->dev);
    else
        pci_function_derive(fn);
}

/* Does the write set Initiate Function Level Reset? The bit itself always reads 0. */
static bool starts_flr(const struct pci_function *fn, unsigned off, uint32_t val, unsigned size)
{
    unsigned at = fn->express_cap + EXP_DEVCTL + 1u;

    return fn->express_cap && off <= at && at < off + size &&
           (val >> (at - off) * 8 & EXP_DEVCTL_FLR >> 8);
}

void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned off, uint32_t val, unsigned size)
{
    struct pci_function *fn = bus->fn[devfn];

    if (!fn || !range_ok(off, size, fn->config_size))
        return;
    if (starts_flr(fn, off, val, size))
        device_reset(fn->dev, RESET_FUNCTION);
    else
        function_write(fn, off, val, size);
}

uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned off, unsigned size)
{
    struct pci_function *fn = bus->fn[devfn];
    uint8_t bytes[4];

    if (!fn || size > sizeof(bytes) || !range_ok(off, size, fn->config_size))
        return UINT32_MAX;
    for (unsigned i = 0; i < size; i++) {
        bytes[i] = fn->state->config[off + i];
        if (off + i == PCI_STATUS && fn->intx_level)
            bytes[i] |= PCI_STATUS_INTERRUPT;
    }
    return (uint32_t)get_le(bytes, size);
}
