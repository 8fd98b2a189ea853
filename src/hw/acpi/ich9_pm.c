/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ich9_pm: what ACPI needs of the ICH9: the power management block (128 ports at PMBASE, which the
 * LPC bridge places), the APM ports B2h and B3h, and the reset control register CF9h.
 *
 * Intel ICH9 data sheet, 316972: sections 13.8.3 (power management I/O), 13.9 (TCO), 13.7.5
 * (RST_CNT), 13.8.2 (APM); ACPI specification 6.4, chapter 4.8.
 *
 * There is no SMM: writing ACPI_ENABLE to APM_CNT sets SCI_EN at once, and what would raise an SMI
 * only shows in SMI_STS. The PM timer counts 32 bits (the FADT says so), where the chip has 24.
 *
 * Not emulated: sleep states other than S5 and S4, which end the VM; the TCO watchdog, whose
 * registers are there and say that it is halted; processor throttling.
 *
 * A hostile guest reaches 128 bytes of registers with masks, requests to reset and power off, and
 * the place of the block.
 */
#include "hw/acpi/ich9_pm.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clockconv.h"
#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define PM1_EN         0x02
#define PROC_CNT       0x10
#define LV2            0x14
#define LV3            0x15
#define LV4            0x16
#define GPE0_EN        0x28
#define SMI_EN         0x30
#define SMI_STS        0x34
#define ALT_GP_SMI_EN  0x38
#define ALT_GP_SMI_STS 0x3a
#define UPRWC          0x3c
#define GPE_CNTL       0x42
#define DEVACT_STS     0x44
#define TCO_RLD        0x60
#define TCO_DAT_IN     0x62
#define TCO_DAT_OUT    0x63
#define TCO1_STS       0x64
#define TCO2_STS       0x66
#define TCO1_CNT       0x68
#define TCO2_CNT       0x6a
#define TCO_MESSAGE    0x6c
#define TCO_WDCNT      0x6e
#define SW_IRQ_GEN     0x70
#define TCO_TMR        0x72

#define STS_TMROF  0x0001
#define STS_PWRBTN 0x0100
#define STS_WAK    0x8000
#define STS_MASK   0xcd31
#define EN_MASK    0x4521
#define EN_EVENTS  0x0521 /* those that can raise the SCI */

#define CNT_SCI_EN        0x0001
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_TYP       0x1c00
#define CNT_SLP_EN        0x2000 /* write only */
#define CNT_MASK          0x1c03
#define SLP_TYP_S0        0
#define SLP_TYP_S4        6

#define SMI_EN_APMC_EN 0x0020

#define TCO1_CNT_TMR_HLT 0x0800

#define APM_CNT 0
#define APM_STS 1

#define RST_SYS_RST  0x02
#define RST_RST_CPU  0x04
#define RST_FULL_RST 0x08

#define TMR_MSB_SHIFT 31

/* One register of the block: which bits a write sets, which it clears where it has ones. */
struct pm_reg {
    uint8_t offset, width;
    const char *name;
    uint64_t writable, clears, initial;
};

static const struct pm_reg pm_regs[] = {
    {ICH9_PM1_STS, 2, "PM1_STS", 0, STS_MASK, 0},
    {PM1_EN, 2, "PM1_EN", EN_MASK, 0, 0},
    {ICH9_PM1_CNT, 4, "PM1_CNT", CNT_MASK, 0, 0},
    {ICH9_PM1_TMR, 4, "PM1_TMR", 0, 0, 0},
    {PROC_CNT, 4, "PROC_CNT", 0xff, 0, 0},
    {LV2, 1, "LV2", 0, 0, 0},
    {LV3, 1, "LV3", 0, 0, 0},
    {LV4, 1, "LV4", 0, 0, 0},
    {ICH9_GPE0_STS, 8, "GPE0_STS", 0, UINT64_MAX, 0},
    {GPE0_EN, 8, "GPE0_EN", UINT64_MAX, 0, 0},
    /* There is no SMM: firmware that finds APMC_EN set does not wait for an SMI (SeaBIOS does). */
    {SMI_EN, 4, "SMI_EN", 0xffffffff, 0, SMI_EN_APMC_EN},
    {SMI_STS, 4, "SMI_STS", 0, 0xffffffff, 0},
    {ALT_GP_SMI_EN, 2, "ALT_GP_SMI_EN", 0xffff, 0, 0},
    {ALT_GP_SMI_STS, 2, "ALT_GP_SMI_STS", 0, 0xffff, 0},
    {UPRWC, 2, "UPRWC", 0x0003, 0, 0},
    {GPE_CNTL, 1, "GPE_CNTL", 0x02, 0, 0},
    {DEVACT_STS, 2, "DEVACT_STS", 0, 0xffff, 0},
    {ICH9_PM2_CNT, 1, "PM2_CNT", 0x01, 0, 0},
    {TCO_RLD, 2, "TCO_RLD", 0x03ff, 0, 0},
    {TCO_DAT_IN, 1, "TCO_DAT_IN", 0xff, 0, 0},
    {TCO_DAT_OUT, 1, "TCO_DAT_OUT", 0xff, 0, 0},
    {TCO1_STS, 2, "TCO1_STS", 0, 0x3f8f, 0},
    {TCO2_STS, 2, "TCO2_STS", 0, 0x001f, 0},
    {TCO1_CNT, 2, "TCO1_CNT", 0x0300, 0, TCO1_CNT_TMR_HLT},
    {TCO2_CNT, 2, "TCO2_CNT", 0x003e, 0, 0x0008},
    {TCO_MESSAGE, 2, "TCO_MESSAGE", 0xffff, 0, 0},
    {TCO_WDCNT, 1, "TCO_WDCNT", 0xff, 0, 0},
    {SW_IRQ_GEN, 1, "SW_IRQ_GEN", 0x03, 0, 0x03},
    {TCO_TMR, 2, "TCO_TMR", 0x03ff, 0, 0x0004},
};

/* ---- The device ----------------------------------------------------------------------------- */

struct ich9_pm {
    struct device dev;

    /* wiring */
    struct ich9_pm_config config;
    struct region block, apm, cf9;
    struct io_reg names[ARRAY_LEN(pm_regs) + 1];
    struct io_ops block_ops;

    /* derived */
    struct timer timer;

    struct ich9_pm_state {
        uint64_t gpe_levels; /* events that are active now */
        int64_t seen_tick;   /* PM timer tick up to which TMROF_STS is accounted for */
        uint8_t regs[ICH9_PM_SIZE];
        uint16_t base;
        bool enabled;
        uint8_t apm_cnt;
        uint8_t apm_sts;
        uint8_t rst_cnt;
        uint8_t zero[2];
    } state;
};

static const struct state_field fields[] = {
    STATE_UINT(struct ich9_pm_state, gpe_levels, 0, UINT64_MAX),
    STATE_INT(struct ich9_pm_state, seen_tick, 0, INT64_MAX),
    STATE_BYTES(struct ich9_pm_state, regs),
    STATE_UINT(struct ich9_pm_state, base, 0, UINT16_MAX),
    STATE_BOOL(struct ich9_pm_state, enabled),
    STATE_UINT(struct ich9_pm_state, apm_cnt, 0, 0xff),
    STATE_UINT(struct ich9_pm_state, apm_sts, 0, 0xff),
    STATE_UINT(struct ich9_pm_state, rst_cnt, 0, RST_SYS_RST | RST_RST_CPU | RST_FULL_RST),
    STATE_UINTS(struct ich9_pm_state, zero, 0, 0),
};

static const struct state state = STATE(struct ich9_pm, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

/* The register that has a byte at off, or NULL. */
static const struct pm_reg *reg_at(uint64_t off)
{
    for (unsigned i = 0; i < ARRAY_LEN(pm_regs); i++)
        if (off >= pm_regs[i].offset && off - pm_regs[i].offset < pm_regs[i].width)
            return &pm_regs[i];
    return NULL;
}

/* The byte of a 64-bit mask that belongs to offset off of reg. */
static uint8_t mask_at(const struct pm_reg *reg, uint64_t mask, uint64_t off)
{
    return (uint8_t)(mask >> ((off - reg->offset) * 8));
}

static uint16_t get16(const struct ich9_pm_state *s, unsigned off)
{
    return get_le16(s->regs + off);
}

static bool sci_level(const struct ich9_pm_state *s)
{
    if (!(get16(s, ICH9_PM1_CNT) & CNT_SCI_EN))
        return false;
    return (get16(s, ICH9_PM1_STS) & get16(s, PM1_EN) & EN_EVENTS) ||
           (get_le64(s->regs + ICH9_GPE0_STS) & get_le64(s->regs + GPE0_EN));
}

/* ---- Derive --------------------------------------------------------------------------------- */

static int64_t pm_tick(struct ich9_pm *pm)
{
    return ns_to_ticks(clock_now(pm->dev.vm->clock), ICH9_PM_TIMER_HZ);
}

/* Brings the status bits up to now. */
static void account(struct ich9_pm *pm)
{
    struct ich9_pm_state *s = &pm->state;
    int64_t now = pm_tick(pm);
    uint64_t gpe = get_le64(s->regs + ICH9_GPE0_STS) | s->gpe_levels;

    if (now >> TMR_MSB_SHIFT != s->seen_tick >> TMR_MSB_SHIFT)
        s->regs[ICH9_PM1_STS] |= STS_TMROF;
    s->seen_tick = now;
    put_le64(s->regs + ICH9_GPE0_STS, gpe);
}

static void derive(struct device *dev)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;
    struct ich9_pm_state *s = &pm->state;

    account(pm);
    irq_set(pm->config.sci, sci_level(s));
    if (dev->attached) {
        bus_set_enabled(&pm->block, s->enabled);
        bus_move(&dev->vm->ports, &pm->block, s->base & ~(ICH9_PM_SIZE - 1u));
    }
    if ((get16(s, PM1_EN) & STS_TMROF) && !(get16(s, ICH9_PM1_STS) & STS_TMROF))
        timer_arm(&pm->timer, ticks_to_ns(((s->seen_tick >> TMR_MSB_SHIFT) + 1) << TMR_MSB_SHIFT,
                                          ICH9_PM_TIMER_HZ));
    else
        timer_disarm(&pm->timer);
}

static void fire(void *opaque)
{
    derive(opaque);
}

/* ---- Writes --------------------------------------------------------------------------------- */

/* SLP_EN was written: the system goes to sleep now. */
static void enter_sleep(struct ich9_pm *pm)
{
    struct ich9_pm_state *s = &pm->state;
    unsigned type = (get16(s, ICH9_PM1_CNT) & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT;

    if (type == ICH9_SLP_TYP_S5 || type == SLP_TYP_S4) {
        vm_request(pm->dev.vm, VM_REQUEST_POWEROFF, 0);
        return;
    }
    if (type != SLP_TYP_S0)
        guest_err(&pm->dev, "sleep type %u is not offered: awake again at once", type);
    s->regs[ICH9_PM1_STS + 1] |= STS_WAK >> 8;
}

static void write_byte(struct ich9_pm_state *s, const struct pm_reg *reg, uint64_t off, uint8_t val)
{
    uint8_t writable = mask_at(reg, reg->writable, off), clears = mask_at(reg, reg->clears, off);
    uint8_t *byte = &s->regs[off % ICH9_PM_SIZE];

    *byte = (uint8_t)((*byte & ~writable & ~(val & clears)) | (val & writable));
}

static void block_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct ich9_pm *pm = dev;
    bool known = false, sleep = false;

    account(pm);
    for (unsigned i = 0; i < size; i++) {
        const struct pm_reg *reg = reg_at(off + i);
        uint8_t byte = (uint8_t)(val >> (i * 8));

        if (!reg)
            continue;
        known = true;
        write_byte(&pm->state, reg, off + i, byte);
        if (off + i == ICH9_PM1_CNT + 1 && (byte & CNT_SLP_EN >> 8))
            sleep = true;
    }
    if (!known)
        io_bad_write(&pm->dev, off, val, size);
    if (sleep)
        enter_sleep(pm);
    derive(&pm->dev);
}

static void apm_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct ich9_pm *pm = dev;
    struct ich9_pm_state *s = &pm->state;

    (void)size;
    if (off == APM_STS) {
        s->apm_sts = (uint8_t)val;
        return;
    }
    s->apm_cnt = (uint8_t)val;
    if (val == ICH9_ACPI_ENABLE)
        s->regs[ICH9_PM1_CNT] |= CNT_SCI_EN;
    else if (val == ICH9_ACPI_DISABLE)
        s->regs[ICH9_PM1_CNT] &= (uint8_t)~CNT_SCI_EN;
    derive(&pm->dev);
}

void ich9_pm_cf9_write(struct device *dev, uint8_t value)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;
    uint8_t rose = value & (uint8_t)~pm->state.rst_cnt;

    pm->state.rst_cnt = value & (RST_SYS_RST | RST_RST_CPU | RST_FULL_RST);
    if (rose & RST_RST_CPU)
        vm_request(dev->vm, VM_REQUEST_RESET, 0);
}

static void cf9_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)off;
    (void)size;
    ich9_pm_cf9_write(dev, (uint8_t)val);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint64_t block_read(void *dev, uint64_t off, unsigned size)
{
    struct ich9_pm *pm = dev;
    uint8_t tmr[4];
    uint64_t val = 0;
    bool known = false;

    put_le32(tmr, (uint32_t)pm_tick(pm));
    if (off == ICH9_PM1_TMR && size == 4)
        return get_le32(tmr); /* the one that is read often */
    account(pm);
    for (unsigned i = 0; i < size; i++) {
        const struct pm_reg *reg = reg_at(off + i);
        uint8_t byte;

        if (!reg)
            continue;
        known = true;
        byte = reg->offset == ICH9_PM1_TMR ? tmr[(off + i - ICH9_PM1_TMR) % 4]
                                           : pm->state.regs[(off + i) % ICH9_PM_SIZE];
        val |= (uint64_t)byte << (i * 8);
    }
    return known ? val : io_bad_read(&pm->dev, off, size);
}

static uint64_t apm_read(void *dev, uint64_t off, unsigned size)
{
    const struct ich9_pm *pm = dev;

    (void)size;
    return off == APM_STS ? pm->state.apm_sts : pm->state.apm_cnt;
}

uint8_t ich9_pm_cf9_read(struct device *dev)
{
    return ((const struct ich9_pm *)dev)->state.rst_cnt;
}

static uint64_t cf9_read(void *dev, uint64_t off, unsigned size)
{
    (void)off;
    (void)size;
    return ich9_pm_cf9_read(dev);
}

/* ---- From outside --------------------------------------------------------------------------- */

void ich9_pm_map(struct device *dev, uint16_t base, bool enabled)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;

    pm->state.base = base;
    pm->state.enabled = enabled;
    derive(dev);
}

void ich9_pm_power_button(struct device *dev)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;

    pm->state.regs[ICH9_PM1_STS + 1] |= STS_PWRBTN >> 8;
    derive(dev);
}

void ich9_pm_gpe(struct device *dev, unsigned n, bool level)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;
    uint64_t bit = BIT(n & 63);

    pm->state.gpe_levels = level ? pm->state.gpe_levels | bit : pm->state.gpe_levels & ~bit;
    derive(dev);
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void reset(struct device *dev, enum reset_kind kind)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;
    struct ich9_pm_state *s = &pm->state;
    uint64_t gpe_levels = s->gpe_levels;

    (void)kind;
    /* The wires of the events keep their level. */
    *s = (struct ich9_pm_state){
        .gpe_levels = gpe_levels,
        .seen_tick = pm_tick(pm),
        .base = pm->config.base,
        .enabled = pm->config.enabled,
    };
    for (unsigned i = 0; i < ARRAY_LEN(pm_regs); i++)
        put_le(s->regs + pm_regs[i].offset, pm_regs[i].initial, pm_regs[i].width);
}

static int check(struct device *dev, struct err *err)
{
    const struct ich9_pm_state *s = &((struct ich9_pm *)dev)->state;

    for (unsigned i = 0; i < ARRAY_LEN(pm_regs); i++) {
        const struct pm_reg *r = &pm_regs[i];

        if (get_le(s->regs + r->offset, r->width) & ~(r->writable | r->clears | r->initial))
            return err_set(err, EINVAL, "%s has bits set that do not exist", r->name);
    }
    for (unsigned i = 0; i < ICH9_PM_SIZE; i++)
        if (!reg_at(i) && s->regs[i])
            return err_set(err, EINVAL, "offset %#x of the PM block is no register", i);
    return 0;
}

static const struct io_reg apm_regs[] = {
    {APM_CNT, 1, "APM_CNT"},
    {APM_STS, 1, "APM_STS"},
    {0, 0, NULL},
};
static const struct io_reg cf9_regs[] = {{0, 1, "RST_CNT"}, {0, 0, NULL}};
static const struct io_ops apm_ops = {apm_read, apm_write, IO_1, apm_regs, false};
static const struct io_ops cf9_ops = {cf9_read, cf9_write, IO_1, cf9_regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;

    (void)err;
    pm->config = *(const struct ich9_pm_config *)config;
    timer_init(&pm->timer, dev->vm->clock, "ich9_pm", fire, pm);
    for (unsigned i = 0; i < ARRAY_LEN(pm_regs); i++)
        pm->names[i] = (struct io_reg){pm_regs[i].offset, pm_regs[i].width, pm_regs[i].name};
    pm->block_ops = (struct io_ops){
        .read = block_read,
        .write = block_write,
        .sizes = IO_1 | IO_2 | IO_4,
        .regs = pm->names,
    };
    pm->block = region_io(dev, "ich9_pm", ICH9_PM_SIZE, &pm->block_ops);
    pm->block.disabled = true;
    pm->apm = region_io(dev, "apm", 2, &apm_ops);
    pm->cf9 = region_io(dev, "rst_cnt", 1, &cf9_ops);
    pm->cf9.priority = REGION_PRIO_OVERLAY;
    return 0;
}

static void attach(struct device *dev)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;

    bus_map(&dev->vm->ports, &pm->block, pm->config.base & ~(ICH9_PM_SIZE - 1u));
    bus_map(&dev->vm->ports, &pm->apm, ICH9_APM_CNT_PORT);
    if (pm->config.map_cf9)
        bus_map(&dev->vm->ports, &pm->cf9, ICH9_RST_CNT_PORT);
}

static void detach(struct device *dev)
{
    struct ich9_pm *pm = (struct ich9_pm *)dev;

    bus_unmap(&pm->block);
    bus_unmap(&pm->apm);
    bus_unmap(&pm->cf9);
    timer_disarm(&pm->timer);
}

const struct dev_type ich9_pm_type = {
    .name = "ich9_pm",
    .desc = "ICH9 ACPI power management block and reset register",
    .size = sizeof(struct ich9_pm),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
