/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8237: the two cascaded 8237A DMA controllers of a PC (ports 00h-0Fh for channels 0-3, C0h-DFh
 * for 4-7, where register n is at 2n) and the page registers (80h-8Fh).
 *
 * Intel 8237A data sheet, order number 231466-005, whose names are used; page registers: Intel ICH9
 * data sheet, 316972, section 13.2.
 *
 * No ISA device here asks for DMA, so no transfer ever starts: registers are what the chip has,
 * requests (software ones and memory-to-memory included) are recorded and never served. A hostile
 * guest reaches the registers.
 */
#include "hw/misc/i8237.h"

#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define FIRST_PORT  0x00
#define SECOND_PORT 0xc0
#define PAGE_PORT   0x80
#define PAGES       16

/* 0 to 7: current address and word count of the channels, alternating */
#define COMMAND_STATUS  8
#define REQUEST         9
#define SINGLE_MASK     10
#define MODE            11
#define CLEAR_FLIP_FLOP 12
#define MASTER_CLEAR    13 /* read: temporary register */
#define CLEAR_MASK      14
#define ALL_MASKS       15
#define REGS            16

#define CHANNEL 3 /* in REQUEST, SINGLE_MASK, MODE */
#define SET_BIT 4 /* in REQUEST, SINGLE_MASK */
#define MASKS   0x0f

/* ---- The device ----------------------------------------------------------------------------- */

struct i8237_channel {
    uint16_t base_address;
    uint16_t base_count;
    uint16_t address;
    uint16_t count;
    uint8_t mode;
    uint8_t zero;
};

struct i8237_chip {
    struct i8237_channel ch[4];
    uint8_t command;
    uint8_t request;
    uint8_t mask;
    uint8_t reached; /* status: channels that have reached terminal count */
    bool high_byte;  /* the first/last flip-flop */
    uint8_t zero;
};

struct i8237 {
    struct device dev;

    /* wiring */
    struct region first, second, pages;

    struct i8237_state {
        struct i8237_chip chip[2];
        uint8_t page[PAGES];
    } state;
};

static const struct state_field channel_fields[] = {
    STATE_UINT(struct i8237_channel, base_address, 0, UINT16_MAX),
    STATE_UINT(struct i8237_channel, base_count, 0, UINT16_MAX),
    STATE_UINT(struct i8237_channel, address, 0, UINT16_MAX),
    STATE_UINT(struct i8237_channel, count, 0, UINT16_MAX),
    STATE_UINT(struct i8237_channel, mode, 0, 0xff),
    STATE_UINT(struct i8237_channel, zero, 0, 0),
};

static const struct state_field chip_fields[] = {
    STATE_STRUCTS(struct i8237_chip, ch, channel_fields),
    STATE_UINT(struct i8237_chip, command, 0, 0xff),
    STATE_UINT(struct i8237_chip, request, 0, MASKS),
    STATE_UINT(struct i8237_chip, mask, 0, MASKS),
    STATE_UINT(struct i8237_chip, reached, 0, MASKS),
    STATE_BOOL(struct i8237_chip, high_byte),
    STATE_UINT(struct i8237_chip, zero, 0, 0),
};

static const struct state_field fields[] = {
    STATE_STRUCTS(struct i8237_state, chip, chip_fields),
    STATE_BYTES(struct i8237_state, page),
};

static const struct state state = STATE(struct i8237, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

static uint16_t with_byte(uint16_t old, uint8_t val, bool high)
{
    return (uint16_t)(high ? (old & 0x00ff) | val << 8 : (old & 0xff00) | val);
}

/* Master Clear, and what RESET does ("Software Commands"). */
static void clear_chip(struct i8237_chip *c)
{
    c->command = 0;
    c->request = 0;
    c->reached = 0;
    c->high_byte = false;
    c->mask = MASKS;
}

static void derive(struct device *dev)
{
    (void)dev; /* no wires */
}

/* ---- Writes --------------------------------------------------------------------------------- */

static void write_channel(struct i8237_chip *c, unsigned reg, uint8_t val)
{
    struct i8237_channel *ch = &c->ch[reg >> 1 & CHANNEL];

    if (reg & 1)
        ch->count = ch->base_count = with_byte(ch->base_count, val, c->high_byte);
    else
        ch->address = ch->base_address = with_byte(ch->base_address, val, c->high_byte);
    c->high_byte = !c->high_byte;
}

static uint8_t set_or_clear(uint8_t bits, uint8_t val)
{
    uint8_t bit = (uint8_t)BIT(val & CHANNEL);

    return val & SET_BIT ? bits | bit : bits & (uint8_t)~bit;
}

static void chip_write(struct i8237_chip *c, unsigned reg, uint8_t val)
{
    switch (reg) {
    case COMMAND_STATUS:
        c->command = val;
        break;
    case REQUEST:
        c->request = set_or_clear(c->request, val);
        break;
    case SINGLE_MASK:
        c->mask = set_or_clear(c->mask, val);
        break;
    case MODE:
        c->ch[val & CHANNEL].mode = val;
        break;
    case CLEAR_FLIP_FLOP:
        c->high_byte = false;
        break;
    case MASTER_CLEAR:
        clear_chip(c);
        break;
    case CLEAR_MASK:
        c->mask = 0;
        break;
    case ALL_MASKS:
        c->mask = val & MASKS;
        break;
    default:
        write_channel(c, reg, val);
        break;
    }
}

static void first_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)size;
    chip_write(&((struct i8237 *)dev)->state.chip[0], off % REGS, (uint8_t)val);
}

static void second_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)size;
    chip_write(&((struct i8237 *)dev)->state.chip[1], (off >> 1) % REGS, (uint8_t)val);
}

static void page_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)size;
    ((struct i8237 *)dev)->state.page[off % PAGES] = (uint8_t)val;
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint8_t chip_read(struct i8237_chip *c, unsigned reg)
{
    uint8_t status;
    uint16_t word;

    if (reg < COMMAND_STATUS) {
        const struct i8237_channel *ch = &c->ch[reg >> 1 & CHANNEL];

        word = reg & 1 ? ch->count : ch->address;
        word = c->high_byte ? word >> 8 : word & 0xff;
        c->high_byte = !c->high_byte;
        return (uint8_t)word;
    }
    switch (reg) {
    case COMMAND_STATUS:
        status = (uint8_t)(c->request << 4 | c->reached);
        c->reached = 0;
        return status;
    case ALL_MASKS:
        return 0xf0 | c->mask;
    case MASTER_CLEAR:
        return 0; /* the temporary register: no memory-to-memory transfer has filled it */
    default:
        return 0xff; /* write only */
    }
}

static uint64_t first_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return chip_read(&((struct i8237 *)dev)->state.chip[0], off % REGS);
}

static uint64_t second_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return chip_read(&((struct i8237 *)dev)->state.chip[1], (off >> 1) % REGS);
}

static uint64_t page_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return ((struct i8237 *)dev)->state.page[off % PAGES];
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void reset(struct device *dev, enum reset_kind kind)
{
    struct i8237 *dma = (struct i8237 *)dev;

    if (kind == RESET_COLD)
        dma->state = (struct i8237_state){0};
    for (unsigned i = 0; i < 2; i++)
        clear_chip(&dma->state.chip[i]);
}

static const struct io_reg first_regs[] = {
    {0, 1, "DMA1_ADDR0"},   {1, 1, "DMA1_COUNT0"},  {2, 1, "DMA1_ADDR1"},   {3, 1, "DMA1_COUNT1"},
    {4, 1, "DMA1_ADDR2"},   {5, 1, "DMA1_COUNT2"},  {6, 1, "DMA1_ADDR3"},   {7, 1, "DMA1_COUNT3"},
    {8, 1, "DMA1_CMD_STS"}, {9, 1, "DMA1_REQUEST"}, {10, 1, "DMA1_MASK"},   {11, 1, "DMA1_MODE"},
    {12, 1, "DMA1_CLR_FF"}, {13, 1, "DMA1_CLEAR"},  {14, 1, "DMA1_UNMASK"}, {15, 1, "DMA1_MASKS"},
    {0, 0, NULL},
};
static const struct io_reg second_regs[] = {
    {0, 2, "DMA2_ADDR4"},    {2, 2, "DMA2_COUNT4"},  {4, 2, "DMA2_ADDR5"},
    {6, 2, "DMA2_COUNT5"},   {8, 2, "DMA2_ADDR6"},   {10, 2, "DMA2_COUNT6"},
    {12, 2, "DMA2_ADDR7"},   {14, 2, "DMA2_COUNT7"}, {16, 2, "DMA2_CMD_STS"},
    {18, 2, "DMA2_REQUEST"}, {20, 2, "DMA2_MASK"},   {22, 2, "DMA2_MODE"},
    {24, 2, "DMA2_CLR_FF"},  {26, 2, "DMA2_CLEAR"},  {28, 2, "DMA2_UNMASK"},
    {30, 2, "DMA2_MASKS"},   {0, 0, NULL},
};
static const struct io_reg page_regs[] = {
    {0, 1, "PAGE_80"},  {1, 1, "PAGE_CHAN2"}, {2, 1, "PAGE_CHAN3"},  {3, 1, "PAGE_CHAN1"},
    {4, 1, "PAGE_84"},  {5, 1, "PAGE_85"},    {6, 1, "PAGE_86"},     {7, 1, "PAGE_CHAN0"},
    {8, 1, "PAGE_88"},  {9, 1, "PAGE_CHAN6"}, {10, 1, "PAGE_CHAN7"}, {11, 1, "PAGE_CHAN5"},
    {12, 1, "PAGE_8C"}, {13, 1, "PAGE_8D"},   {14, 1, "PAGE_8E"},    {15, 1, "PAGE_REFRESH"},
    {0, 0, NULL},
};
static const struct io_ops first_ops = {first_read, first_write, IO_1, first_regs, false};
static const struct io_ops second_ops = {second_read, second_write, IO_1, second_regs, false};
static const struct io_ops page_ops = {page_read, page_write, IO_1, page_regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    struct i8237 *dma = (struct i8237 *)dev;

    (void)config;
    (void)err;
    dma->first = region_io(dev, "i8237 0-3", REGS, &first_ops);
    dma->second = region_io(dev, "i8237 4-7", 2 * REGS, &second_ops);
    dma->pages = region_io(dev, "dma pages", PAGES, &page_ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct i8237 *dma = (struct i8237 *)dev;

    bus_map(&dev->vm->ports, &dma->first, FIRST_PORT);
    bus_map(&dev->vm->ports, &dma->second, SECOND_PORT);
    bus_map(&dev->vm->ports, &dma->pages, PAGE_PORT);
}

static void detach(struct device *dev)
{
    struct i8237 *dma = (struct i8237 *)dev;

    bus_unmap(&dma->first);
    bus_unmap(&dma->second);
    bus_unmap(&dma->pages);
}

const struct dev_type i8237_type = {
    .name = "i8237",
    .desc = "pair of 8237A DMA controllers with page registers",
    .size = sizeof(struct i8237),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .derive = derive,
    .state = &state,
};
