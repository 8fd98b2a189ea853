/* SPDX-License-Identifier: Apache-2.0 */
/*
 * I/O APIC: 24 interrupt inputs, each with a redirection entry that says which vector goes to which
 * local APIC. Interrupts leave as messages (msi_send), as they do in chipsets since the ICH.
 *
 * Intel 82093AA data sheet (290566), chapter 3; ICH9 data sheet (316972) section 13.5 for version
 * 20h and its EOI register.
 *
 * Not emulated: the serial APIC bus (delivery is immediate, so delivery status always reads idle,
 * and the arbitration id is storage), and the electrical polarity of pins: our lines know
 * "asserted", so the polarity bit is storage too.
 *
 * A hostile guest reaches 64 index values and an EOI vector. A level-triggered pin that stays
 * asserted interrupts again only after an EOI, so every message costs the guest an access.
 */
#include "hw/intc/ioapic.h"

#include <errno.h>

#include "core/vm.h"
#include "hw/region.h"

/* ---- registers (82093AA 3.1, 3.2) ---- */

#define IOREGSEL 0x00
#define IOWIN    0x10
#define IRQPA    0x20 /* pin assertion: a message-signalled way in; write-only */
#define EOIR     0x40

#define IOAPICID    0x00
#define IOAPICVER   0x01
#define IOAPICARB   0x02
#define BOOT_CONFIG 0x03
#define IOREDTBL    0x10

#define VERSION_VALUE   (0x20u | (IOAPIC_PINS - 1) << 16)
#define BOOT_CONFIG_FSB 1u /* messages go by the system bus */
#define ID_SHIFT        24

#define RTE_VECTOR     0xffull
#define RTE_MODE_SHIFT 8
#define RTE_LOGICAL    BIT(11)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL      BIT(15)
#define RTE_MASKED     BIT(16)
#define RTE_DEST_SHIFT 56
#define RTE_WRITABLE   0xff0000000001afffull
#define RTE_KEPT       (RTE_WRITABLE | RTE_REMOTE_IRR)

enum { MODE_FIXED, MODE_LOWEST };

#define MSI_ADDR            0xfee00000ull
#define MSI_ADDR_DEST_SHIFT 12
#define MSI_ADDR_HINT       BIT(3)
#define MSI_ADDR_LOGICAL    BIT(2)
#define MSI_DATA_ASSERT     0x4000u
#define MSI_DATA_LEVEL      0x8000u

#define REGION_SIZE 0x1000u

struct ioapic_state {
    uint64_t redtbl[IOAPIC_PINS];
    uint32_t levels; /* of the pins: they come from outside and outlast a reset */
    uint8_t regsel, id;
    uint8_t arb;
    uint8_t boot; /* boot configuration, as written */
};

struct ioapic {
    struct device dev;

    /* Wiring. */
    struct ioapic_config cfg;
    struct region region;

    struct ioapic_state state;
};

static const struct state_field ioapic_fields[] = {
    STATE_UINTS(struct ioapic_state, redtbl, 0, UINT64_MAX),
    STATE_UINT(struct ioapic_state, levels, 0, BIT(IOAPIC_PINS) - 1),
    STATE_UINT(struct ioapic_state, regsel, 0, 0xff),
    STATE_UINT(struct ioapic_state, id, 0, 0xf),
    STATE_UINT(struct ioapic_state, arb, 0, 0xf),
    STATE_UINT(struct ioapic_state, boot, 0, 1),
};

/* ---- messages ---- */

static unsigned rte_mode(uint64_t rte)
{
    return rte >> RTE_MODE_SHIFT & 7;
}

/* SMI, NMI, INIT and ExtINT are edges whatever the trigger bit says (3.2.4). */
static bool rte_level(uint64_t rte)
{
    return (rte & RTE_LEVEL) && rte_mode(rte) <= MODE_LOWEST;
}

static uint64_t rte_msi_addr(uint64_t rte)
{
    return MSI_ADDR | rte >> RTE_DEST_SHIFT << MSI_ADDR_DEST_SHIFT |
           (rte & RTE_LOGICAL ? MSI_ADDR_LOGICAL : 0) |
           (rte_mode(rte) == MODE_LOWEST ? MSI_ADDR_HINT : 0);
}

static uint32_t rte_msi_data(uint64_t rte)
{
    return (uint32_t)(rte & RTE_VECTOR) | rte_mode(rte) << RTE_MODE_SHIFT | MSI_DATA_ASSERT |
           (rte_level(rte) ? MSI_DATA_LEVEL : 0);
}

/* False if the vector was already waiting. */
static bool pin_send(struct ioapic *io, uint64_t rte)
{
    uint64_t addr = rte_msi_addr(rte);
    uint32_t data = rte_msi_data(rte);
    bool waiting = io->cfg.pending && io->cfg.pending(io->cfg.pending_opaque, addr, data);

    msi_send(&io->dev, addr, data);
    return !waiting;
}

/* A level-triggered pin that is asserted, open and not in service interrupts. */
static bool pin_service(struct ioapic *io, unsigned pin)
{
    uint64_t *rte = &io->state.redtbl[pin];

    if (!(io->state.levels >> pin & 1) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)) ||
        !rte_level(*rte))
        return false;
    *rte |= RTE_REMOTE_IRR;
    return pin_send(io, *rte);
}

static bool ioapic_set(void *chip, unsigned pin, bool level)
{
    struct ioapic *io = chip;
    uint64_t rte = io->state.redtbl[pin % IOAPIC_PINS];
    uint32_t bit = 1u << pin % IOAPIC_PINS;
    bool rises = level && !(io->state.levels & bit);

    if (level)
        io->state.levels |= bit;
    else
        io->state.levels &= ~bit;
    if (!rises)
        return !level;
    if (rte_level(rte))
        return pin_service(io, pin % IOAPIC_PINS);
    /* Edges on a masked pin are ignored, not held (3.2.4). */
    return !(rte & RTE_MASKED) && pin_send(io, rte);
}

void ioapic_eoi(void *ioapic, uint8_t vector)
{
    struct ioapic *io = ioapic;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *rte = &io->state.redtbl[pin];

        if (!(*rte & RTE_REMOTE_IRR) || (*rte & RTE_VECTOR) != vector)
            continue;
        *rte &= ~RTE_REMOTE_IRR;
        if (io->cfg.lines[pin])
            irq_line_eoi(io->cfg.lines[pin]);
        pin_service(io, pin);
    }
}

/* ---- registers ---- */

static void ioapic_derive(struct device *dev)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pin_service((struct ioapic *)dev, pin);
}

static void write_redtbl(struct ioapic *io, unsigned index, uint32_t val)
{
    unsigned pin = index / 2, shift = index % 2 * 32;
    uint64_t *rte = &io->state.redtbl[pin % IOAPIC_PINS];
    uint64_t mask = 0xffffffffull << shift;

    *rte = (*rte & ~(RTE_WRITABLE & mask)) | ((uint64_t)val << shift & RTE_WRITABLE);
    /*
     * Remote IRR means nothing for an edge: Linux turns a stuck pin to edge and back to free it on
     * chips without an EOI register.
     */
    if (!rte_level(*rte))
        *rte &= ~RTE_REMOTE_IRR;
    ioapic_derive(&io->dev);
}

static void write_window(struct ioapic *io, uint32_t val)
{
    struct ioapic_state *s = &io->state;

    switch (s->regsel) {
    case IOAPICID:
        s->id = val >> ID_SHIFT & 0xf;
        s->arb = s->id;
        return;
    case IOAPICVER:
    case IOAPICARB:
        return;
    case BOOT_CONFIG:
        s->boot = val & 1;
        return;
    case IOREDTBL ... IOREDTBL + 2 * IOAPIC_PINS - 1:
        write_redtbl(io, s->regsel - IOREDTBL, val);
        return;
    }
    guest_err(&io->dev, "wrote %#x to index %#x, which is no register", val, s->regsel);
}

static void ioapic_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct ioapic *io = opaque;

    switch (off) {
    case IOREGSEL:
        io->state.regsel = (uint8_t)val;
        return;
    case IOWIN:
        if (size != 4)
            break; /* the window takes 32-bit words only (3.1.2) */
        write_window(io, (uint32_t)val);
        return;
    case IRQPA:
        if ((val & 0x1f) < IOAPIC_PINS) {
            uint64_t rte = io->state.redtbl[val & 0x1f];

            if (!rte_level(rte) && !(rte & RTE_MASKED))
                pin_send(io, rte);
        }
        return;
    case EOIR:
        ioapic_eoi(io, (uint8_t)val);
        return;
    }
    if (off >= EOIR + 4 || (off & 0xf) >= 4)
        io_bad_write(&io->dev, off, val, size);
}

static uint32_t read_window(struct ioapic *io)
{
    const struct ioapic_state *s = &io->state;

    switch (s->regsel) {
    case IOAPICID:
        return (uint32_t)s->id << ID_SHIFT;
    case IOAPICVER:
        return VERSION_VALUE;
    case IOAPICARB:
        return (uint32_t)s->arb << ID_SHIFT;
    case BOOT_CONFIG:
        return s->boot;
    case IOREDTBL ... IOREDTBL + 2 * IOAPIC_PINS - 1: {
        unsigned index = s->regsel - IOREDTBL;

        return (uint32_t)(s->redtbl[index / 2 % IOAPIC_PINS] >> index % 2 * 32);
    }
    }
    return UINT32_MAX;
}

static uint64_t ioapic_read(void *opaque, uint64_t off, unsigned size)
{
    struct ioapic *io = opaque;

    switch (off & ~3ull) {
    case IOREGSEL:
        return off & 3 ? 0 : io->state.regsel;
    case IOWIN:
        return read_window(io) >> (off & 3) * 8;
    case IRQPA:
    case EOIR:
        return 0;
    }
    return io_bad_read(&io->dev, off, size);
}

static const struct io_reg ioapic_regs[] = {
    {IOREGSEL, 4, "IOREGSEL"}, {IOWIN, 4, "IOWIN"}, {IRQPA, 4, "IRQPA"}, {EOIR, 4, "EOIR"}, {0},
};

static const struct io_ops ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .sizes = IO_1 | IO_2 | IO_4,
    .regs = ioapic_regs,
};

/* ---- life ---- */

static void ioapic_reset(struct device *dev, enum reset_kind kind)
{
    struct ioapic *io = (struct ioapic *)dev;

    (void)kind;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->state.redtbl[pin] = RTE_MASKED;
    io->state.regsel = 0;
    io->state.id = io->cfg.id & 0xf;
    io->state.arb = io->state.id;
    io->state.boot = BOOT_CONFIG_FSB;
}

static int ioapic_check(struct device *dev, struct err *err)
{
    struct ioapic *io = (struct ioapic *)dev;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t rte = io->state.redtbl[pin];

        if ((rte & ~RTE_KEPT) || ((rte & RTE_REMOTE_IRR) && !rte_level(rte)))
            return err_set(err, EINVAL, "saved redirection entry %u is not possible", pin);
    }
    return 0;
}

static int ioapic_init(struct device *dev, const void *config, struct err *err)
{
    struct ioapic *io = (struct ioapic *)dev;

    (void)err;
    io->cfg = *(const struct ioapic_config *)config;
    io->region = region_io(dev, "ioapic", REGION_SIZE, &ioapic_ops);
    ioapic_reset(dev, RESET_COLD);
    return 0;
}

static void ioapic_attach(struct device *dev)
{
    struct ioapic *io = (struct ioapic *)dev;

    bus_map(&dev->vm->memory, &io->region, io->cfg.base ? io->cfg.base : IOAPIC_BASE);
}

static void ioapic_detach(struct device *dev)
{
    bus_unmap(&((struct ioapic *)dev)->region);
}

struct irq_pin ioapic_pin(struct device *ioapic, unsigned n)
{
    return (struct irq_pin){.set = ioapic_set, .chip = ioapic, .pin = n % IOAPIC_PINS};
}

static const struct state ioapic_state_table = STATE(struct ioapic, state, 1, ioapic_fields);

const struct dev_type ioapic_type = {
    .name = "ioapic",
    .desc = "I/O APIC (82093AA, version 20h)",
    .size = sizeof(struct ioapic),
    .init = ioapic_init,
    .attach = ioapic_attach,
    .detach = ioapic_detach,
    .reset = ioapic_reset,
    .check = ioapic_check,
    .derive = ioapic_derive,
    .state = &ioapic_state_table,
};
