/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8259: the two cascaded 8259A programmable interrupt controllers of a PC. The first (ports 20h,
 * 21h) has inputs IR0-IR7 and drives INTR; the second (A0h, A1h) has IR8-IR15 and drives IR2 of the
 * first. The edge/level registers ELCR (4D0h, 4D1h) make single inputs level triggered, as PCI
 * needs.
 *
 * Intel 8259A data sheet, order number 231468-003, whose names are used; ELCR: Intel ICH9 data
 * sheet, 316972, section 13.4.
 *
 * An edge is kept in IRR until it is acknowledged, even if the input falls meanwhile. The data
 * sheet would answer the acknowledge with the default IR7 then; keeping it lets sources pulse their
 * line, and a driver finds nothing to do. A level input follows its wire, and does give IR7. The
 * two INTA cycles are one step here, so the second chip never has to give its own IR7 (IRQ 15).
 *
 * Not emulated: MCS-80/85 call mode (ICW4 bit 0 clear is taken as 8086 mode), buffered mode, slave
 * identities other than IR2. Writes to ICW3 are accepted and not used: the wires are what they are.
 *
 * A hostile guest reaches eight bytes of registers and the EOI notifiers of the sources.
 */
#include "hw/intc/i8259.h"

#include <errno.h>

#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define MASTER_PORT 0x20
#define SLAVE_PORT  0xa0
#define ELCR_PORT   0x4d0

#define A0 1 /* the address bit that tells the two ports of a chip apart */

/* A0 = 0 */
#define ICW1_IC4                 0x01 /* ICW4 will follow */
#define ICW1_SNGL                0x02 /* no ICW3 */
#define ICW1_LTIM                0x08 /* level triggered; ELCR replaces it on a PC */
#define ICW1                     0x10 /* tells ICW1 from OCW2 and OCW3 */
#define OCW3                     0x08 /* tells OCW3 from OCW2 */
#define OCW2_L                   0x07
#define OCW2_COMMAND             0xe0
#define OCW2_ROTATE_AEOI_CLEAR   0x00
#define OCW2_EOI                 0x20
#define OCW2_NOP                 0x40
#define OCW2_SPECIFIC_EOI        0x60
#define OCW2_ROTATE_AEOI_SET     0x80
#define OCW2_ROTATE_EOI          0xa0
#define OCW2_SET_PRIORITY        0xc0
#define OCW2_ROTATE_SPECIFIC_EOI 0xe0
#define OCW3_RIS                 0x01
#define OCW3_RR                  0x02
#define OCW3_P                   0x04
#define OCW3_SMM                 0x20
#define OCW3_ESMM                0x40

/* A0 = 1 */
#define ICW2_T    0xf8
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10

#define POLL_I 0x80 /* in the byte that a poll reads: there is a request */

#define CASCADE    2 /* IR of the first chip that the second drives */
#define DEFAULT_IR 7

#define MASTER 0
#define SLAVE  1

/* Inputs that are never level triggered: 0, 1, 2 and 8, 13. They read 0 in ELCR. */
static const uint8_t elcr_mask[2] = {0xf8, 0xde};

/* Which initialisation word the next write to A0 = 1 is. */
enum icw_next { ICW_NONE, ICW_2, ICW_3, ICW_4 };

/* ---- The device ----------------------------------------------------------------------------- */

struct i8259_chip {
    uint8_t lines; /* levels of IR0-IR7, kept to see edges */
    uint8_t irr;   /* edges not acknowledged yet; level inputs are added from `lines` */
    uint8_t isr;
    uint8_t imr;
    uint8_t elcr;
    uint8_t icw2;   /* vector base */
    uint8_t lowest; /* IR with the lowest priority; the next one has the highest */
    uint8_t icw_next;
    bool icw_needs_3;
    bool icw_needs_4;
    bool auto_eoi;
    bool rotate_aeoi;
    bool special_mask;
    bool fully_nested_special;
    bool read_isr;
    bool poll;
};

struct i8259 {
    struct device dev;

    /* wiring */
    struct irq intr;
    struct irq_line *lines[16]; /* borrowed */
    struct region regions[3];

    struct i8259_state {
        struct i8259_chip chip[2];
    } state;
};

static const struct state_field chip_fields[] = {
    STATE_UINT(struct i8259_chip, lines, 0, 0xff),
    STATE_UINT(struct i8259_chip, irr, 0, 0xff),
    STATE_UINT(struct i8259_chip, isr, 0, 0xff),
    STATE_UINT(struct i8259_chip, imr, 0, 0xff),
    STATE_UINT(struct i8259_chip, elcr, 0, 0xff),
    STATE_UINT(struct i8259_chip, icw2, 0, 0xff),
    STATE_UINT(struct i8259_chip, lowest, 0, 7),
    STATE_UINT(struct i8259_chip, icw_next, ICW_NONE, ICW_4),
    STATE_BOOL(struct i8259_chip, icw_needs_3),
    STATE_BOOL(struct i8259_chip, icw_needs_4),
    STATE_BOOL(struct i8259_chip, auto_eoi),
    STATE_BOOL(struct i8259_chip, rotate_aeoi),
    STATE_BOOL(struct i8259_chip, special_mask),
    STATE_BOOL(struct i8259_chip, fully_nested_special),
    STATE_BOOL(struct i8259_chip, read_isr),
    STATE_BOOL(struct i8259_chip, poll),
};

static const struct state_field fields[] = {
    STATE_STRUCTS(struct i8259_state, chip, chip_fields),
};

static const struct state state = STATE(struct i8259, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

/* Distance of ir from the top of the priority order: 0 is the most urgent. */
static unsigned rank(const struct i8259_chip *c, unsigned ir)
{
    return (ir - c->lowest - 1) & 7;
}

/* The most urgent of the set bits, or -1. */
static int most_urgent(const struct i8259_chip *c, uint8_t bits)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned ir = (c->lowest + i) & 7;

        if (bits & BIT(ir))
            return (int)ir;
    }
    return -1;
}

static uint8_t requests(const struct i8259_chip *c)
{
    return c->irr | (c->lines & c->elcr);
}

/*
 * The input that would be acknowledged now, or -1. An input in service inhibits itself and what is
 * less urgent; in special mask mode it does not if it is masked. In special fully nested mode the
 * cascade's own input stays open, for the more urgent inputs of the other chip.
 */
static int pending(const struct i8259_chip *c, bool has_cascade)
{
    int ir = most_urgent(c, requests(c) & ~c->imr);
    uint8_t in_service = c->isr;
    int top;

    if (ir < 0)
        return -1;
    if (c->special_mask)
        in_service &= (uint8_t)~c->imr;
    if (has_cascade && c->fully_nested_special && ir == CASCADE)
        in_service &= (uint8_t)~BIT(CASCADE);
    top = most_urgent(c, in_service);
    return top < 0 || rank(c, (unsigned)ir) < rank(c, (unsigned)top) ? ir : -1;
}

/* ---- Derive --------------------------------------------------------------------------------- */

/* The first chip as it stands with its cascade input driven by the second. */
static struct i8259_chip master_view(const struct i8259 *pic)
{
    struct i8259_chip m = pic->state.chip[MASTER];

    /* The cascade behaves as a level: it is up exactly while the second chip has something. */
    m.irr &= (uint8_t)~BIT(CASCADE);
    if (pending(&pic->state.chip[SLAVE], false) >= 0)
        m.irr |= BIT(CASCADE);
    return m;
}

static bool intr_level(const struct i8259 *pic)
{
    struct i8259_chip m = master_view(pic);

    return pending(&m, true) >= 0;
}

static void derive(struct device *dev)
{
    struct i8259 *pic = (struct i8259 *)dev;

    irq_set(pic->intr, intr_level(pic));
}

/* An acknowledge takes INTR back even if another request waits: an edge-triggered pin sees each. */
static void acknowledged(struct i8259 *pic)
{
    irq_set(pic->intr, false);
    derive(&pic->dev);
}

/* ---- Acknowledge and end of interrupt ------------------------------------------------------- */

/* Tells the sources of the inputs in `done`. Last of all: they may drive their lines from in here.
 */
static void notify_eoi(struct i8259 *pic, unsigned which, uint8_t done)
{
    for (unsigned ir = 0; ir < 8; ir++)
        if ((done & BIT(ir)) && pic->lines[which * 8 + ir])
            irq_line_eoi(pic->lines[which * 8 + ir]);
}

/* Takes input ir into service. Returns what an automatic EOI has ended. */
static uint8_t take(struct i8259_chip *c, unsigned ir)
{
    uint8_t bit = (uint8_t)BIT(ir & 7);

    c->irr &= (uint8_t)~bit;
    if (!c->auto_eoi) {
        c->isr |= bit;
        return 0;
    }
    if (c->rotate_aeoi)
        c->lowest = ir & 7;
    return bit;
}

int i8259_ack(struct device *dev)
{
    struct i8259 *pic = (struct i8259 *)dev;
    struct i8259_chip *master = &pic->state.chip[MASTER], *slave = &pic->state.chip[SLAVE];
    struct i8259_chip view = master_view(pic);
    uint8_t ended[2] = {0, 0};
    int ir = pending(&view, true), vector;

    if (ir < 0) {
        /* The request went away: the default IR7, and no bit in service. */
        vector = master->icw2 | DEFAULT_IR;
    } else if (ir == CASCADE) {
        int sub = pending(slave, false);

        /* The cascade is up only while the second chip has a request. */
        ended[MASTER] = take(master, CASCADE);
        ended[SLAVE] = take(slave, (unsigned)sub);
        vector = slave->icw2 | (sub & 7);
    } else {
        ended[MASTER] = take(master, (unsigned)ir);
        vector = master->icw2 | ir;
    }
    acknowledged(pic);
    notify_eoi(pic, MASTER, ended[MASTER]);
    notify_eoi(pic, SLAVE, ended[SLAVE]);
    return vector;
}

bool i8259_intr(struct device *dev)
{
    return intr_level((const struct i8259 *)dev);
}

/*
 * A poll is an acknowledge of one chip without a vector; the input's number is read instead. The
 * cascade's part of it belongs to the first chip alone.
 */
static uint8_t poll_read(struct i8259 *pic, unsigned which)
{
    struct i8259_chip *c = &pic->state.chip[which];
    struct i8259_chip view = which == MASTER ? master_view(pic) : *c;
    int ir = pending(&view, which == MASTER);
    uint8_t ended;

    c->poll = false;
    if (ir < 0)
        return 0;
    ended = take(c, (unsigned)ir);
    acknowledged(pic);
    notify_eoi(pic, which, ended);
    return (uint8_t)(POLL_I | ir);
}

/* ---- Writes --------------------------------------------------------------------------------- */

/* Section "Initialization Command Words": what ICW1 does by itself. */
static void write_icw1(struct i8259_chip *c, uint8_t val)
{
    c->irr = 0; /* the edge sense circuit is reset */
    c->isr = 0;
    c->imr = 0;
    c->lowest = 7;
    c->special_mask = false;
    c->read_isr = false;
    c->poll = false;
    c->rotate_aeoi = false;
    /* Without ICW4 all its functions are off. */
    c->auto_eoi = false;
    c->fully_nested_special = false;
    c->icw_needs_3 = !(val & ICW1_SNGL);
    c->icw_needs_4 = val & ICW1_IC4;
    c->icw_next = ICW_2;
}

/* Returns the inputs whose service has ended. */
static uint8_t write_ocw2(struct i8259_chip *c, uint8_t val)
{
    unsigned level = val & OCW2_L;
    uint8_t unmasked = c->special_mask ? (uint8_t)~c->imr : 0xff;
    uint8_t ended = 0;
    int ir;

    switch (val & OCW2_COMMAND) {
    case OCW2_EOI:
    case OCW2_ROTATE_EOI:
        /* In special mask mode a non-specific EOI does not reach bits that are masked. */
        ir = most_urgent(c, c->isr & unmasked);
        if (ir < 0)
            break;
        ended = (uint8_t)BIT(ir);
        if ((val & OCW2_COMMAND) == OCW2_ROTATE_EOI)
            c->lowest = (uint8_t)ir;
        break;
    case OCW2_SPECIFIC_EOI:
        ended = (uint8_t)(c->isr & BIT(level));
        break;
    case OCW2_ROTATE_SPECIFIC_EOI:
        ended = (uint8_t)(c->isr & BIT(level));
        c->lowest = (uint8_t)level;
        break;
    case OCW2_SET_PRIORITY:
        c->lowest = (uint8_t)level;
        break;
    case OCW2_ROTATE_AEOI_SET:
        c->rotate_aeoi = true;
        break;
    case OCW2_ROTATE_AEOI_CLEAR:
        c->rotate_aeoi = false;
        break;
    case OCW2_NOP:
        break;
    }
    c->isr &= (uint8_t)~ended;
    return ended;
}

static void write_ocw3(struct i8259_chip *c, uint8_t val)
{
    if (val & OCW3_ESMM)
        c->special_mask = val & OCW3_SMM;
    if (val & OCW3_P)
        c->poll = true;
    else if (val & OCW3_RR)
        c->read_isr = val & OCW3_RIS;
}

static void write_a1(struct i8259_chip *c, uint8_t val)
{
    switch ((enum icw_next)c->icw_next) {
    case ICW_NONE:
        c->imr = val; /* OCW1 */
        break;
    case ICW_2:
        c->icw2 = val & ICW2_T;
        c->icw_next = c->icw_needs_3 ? ICW_3 : c->icw_needs_4 ? ICW_4 : ICW_NONE;
        break;
    case ICW_3:
        c->icw_next = c->icw_needs_4 ? ICW_4 : ICW_NONE;
        break;
    case ICW_4:
        c->auto_eoi = val & ICW4_AEOI;
        c->fully_nested_special = val & ICW4_SFNM;
        c->icw_next = ICW_NONE;
        break;
    }
}

static void chip_write(struct i8259 *pic, unsigned which, uint64_t off, uint64_t val)
{
    struct i8259_chip *c = &pic->state.chip[which];
    uint8_t ended = 0;

    if (off == A0)
        write_a1(c, (uint8_t)val);
    else if (val & ICW1)
        write_icw1(c, (uint8_t)val);
    else if (val & OCW3)
        write_ocw3(c, (uint8_t)val);
    else
        ended = write_ocw2(c, (uint8_t)val);
    derive(&pic->dev);
    notify_eoi(pic, which, ended);
}

static void master_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)size;
    chip_write(dev, MASTER, off, val);
}

static void slave_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)size;
    chip_write(dev, SLAVE, off, val);
}

static void elcr_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8259 *pic = dev;
    unsigned which = off & 1;

    (void)size;
    pic->state.chip[which].elcr = (uint8_t)val & elcr_mask[which];
    derive(&pic->dev);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint64_t chip_read(struct i8259 *pic, unsigned which, uint64_t off)
{
    struct i8259_chip *c = &pic->state.chip[which];
    struct i8259_chip view;

    /* After a poll command the next read of either port is the poll ("The Poll Command"). */
    if (c->poll)
        return poll_read(pic, which);
    if (off == A0)
        return c->imr;
    if (c->read_isr)
        return c->isr;
    view = which == MASTER ? master_view(pic) : *c;
    return requests(&view);
}

static uint64_t master_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return chip_read(dev, MASTER, off);
}

static uint64_t slave_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return chip_read(dev, SLAVE, off);
}

static uint64_t elcr_read(void *dev, uint64_t off, unsigned size)
{
    struct i8259 *pic = dev;

    (void)size;
    return pic->state.chip[off & 1].elcr;
}

/* ---- Pins ----------------------------------------------------------------------------------- */

static bool pin_set(void *chip, unsigned pin, bool level)
{
    struct i8259 *pic = chip;
    struct i8259_chip *c = &pic->state.chip[pin / 8 & 1];
    uint8_t bit = (uint8_t)BIT(pin & 7);
    bool fresh = true;

    if (pin == CASCADE)
        return true;
    if (level && !(c->lines & bit)) {
        c->lines |= bit;
        if (!(c->elcr & bit)) {
            fresh = !(c->irr & bit);
            c->irr |= bit;
        }
    } else if (!level) {
        c->lines &= (uint8_t)~bit;
    }
    derive(&pic->dev);
    return fresh;
}

struct irq_pin i8259_pin(struct device *dev, unsigned n)
{
    return (struct irq_pin){.set = pin_set, .chip = dev, .pin = n & 15};
}

/* ---- Life ----------------------------------------------------------------------------------- */

/* The level of input n as its wire has it now: what `lines` holds may come from a refused snapshot.
 */
static bool wire_level(const struct i8259 *pic, unsigned n)
{
    if (n == CASCADE)
        return false;
    if (pic->lines[n])
        return irq_line_level(pic->lines[n]);
    return pic->state.chip[n / 8].lines & BIT(n & 7);
}

static void reset(struct device *dev, enum reset_kind kind)
{
    struct i8259 *pic = (struct i8259 *)dev;

    (void)kind;
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = 0;

        for (unsigned ir = 0; ir < 8; ir++)
            lines |= (uint8_t)(wire_level(pic, i * 8 + ir) << ir);
        /* The chip comes up masked and waits for ICW1. */
        pic->state.chip[i] = (struct i8259_chip){.lines = lines, .imr = 0xff, .lowest = 7};
    }
}

static int check(struct device *dev, struct err *err)
{
    const struct i8259_chip *chip = ((struct i8259 *)dev)->state.chip;

    for (unsigned i = 0; i < 2; i++)
        if ((chip[i].elcr & ~elcr_mask[i]) || (chip[i].icw2 & ~ICW2_T))
            return err_set(err, EINVAL, "8259A %u has register bits set that do not exist", i);
    if ((chip[MASTER].lines | chip[MASTER].irr) & BIT(CASCADE))
        return err_set(err, EINVAL, "8259A 0 has its cascade input driven from outside");
    return 0;
}

static const struct io_reg master_regs[] = {
    {0, 1, "MASTER_A0"},
    {1, 1, "MASTER_A1"},
    {0, 0, NULL},
};
static const struct io_reg slave_regs[] = {
    {0, 1, "SLAVE_A0"},
    {1, 1, "SLAVE_A1"},
    {0, 0, NULL},
};
static const struct io_reg elcr_regs[] = {
    {0, 1, "ELCR1"},
    {1, 1, "ELCR2"},
    {0, 0, NULL},
};
static const struct io_ops master_ops = {master_read, master_write, IO_1, master_regs, false};
static const struct io_ops slave_ops = {slave_read, slave_write, IO_1, slave_regs, false};
static const struct io_ops elcr_ops = {elcr_read, elcr_write, IO_1, elcr_regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct i8259_config *cfg = config;
    struct i8259 *pic = (struct i8259 *)dev;

    (void)err;
    pic->intr = cfg->intr;
    for (unsigned i = 0; i < 16; i++)
        pic->lines[i] = cfg->lines[i];
    pic->regions[0] = region_io(dev, "i8259 master", 2, &master_ops);
    pic->regions[1] = region_io(dev, "i8259 slave", 2, &slave_ops);
    pic->regions[2] = region_io(dev, "i8259 elcr", 2, &elcr_ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct i8259 *pic = (struct i8259 *)dev;

    bus_map(&dev->vm->ports, &pic->regions[0], MASTER_PORT);
    bus_map(&dev->vm->ports, &pic->regions[1], SLAVE_PORT);
    bus_map(&dev->vm->ports, &pic->regions[2], ELCR_PORT);
}

static void detach(struct device *dev)
{
    struct i8259 *pic = (struct i8259 *)dev;

    for (unsigned i = 0; i < 3; i++)
        bus_unmap(&pic->regions[i]);
}

const struct dev_type i8259_type = {
    .name = "i8259",
    .desc = "pair of 8259A interrupt controllers with ELCR",
    .size = sizeof(struct i8259),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
