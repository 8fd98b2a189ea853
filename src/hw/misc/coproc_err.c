/* SPDX-License-Identifier: Apache-2.0 */
/*
 * coproc_err: x87 exceptions the AT's way, for systems that leave CR0.NE clear. FERR# of a CPU
 * makes IRQ 13; the handler's write to COPROC_ERR (F0h) takes that back and drives IGNNE#, under
 * which the handler may use the coprocessor, until FERR# goes away.
 *
 * Intel ICH9 data sheet (316972) 5.15.1.2 (FERR#, IGNNE#) and 13.7.3 (COPROC_ERR); SDM vol. 1
 * appendix D (guidelines for x87 exception handlers), figure D-1: two flip-flops.
 *
 * The FERR# pins of several CPUs are one wire, and IGNNE# reaches all of them.
 *
 * A hostile guest reaches one write-only port.
 */
#include "hw/misc/coproc_err.h"

#include <errno.h>

#include "core/vm.h"

#define COPROC_ERR 0xf0

struct coproc_err_state {
    uint64_t ferr; /* the CPUs that assert FERR# */
    uint32_t irq;
    uint32_t ignne;
};

struct coproc_err {
    struct device dev;

    /* Wiring. */
    struct irq irq;
    struct region region;

    struct coproc_err_state state;
};

static const struct state_field coproc_err_fields[] = {
    STATE_UINT(struct coproc_err_state, ferr, 0, UINT64_MAX),
    STATE_UINT(struct coproc_err_state, irq, 0, 1),
    STATE_UINT(struct coproc_err_state, ignne, 0, 1),
};

static void coproc_err_derive(struct device *dev)
{
    struct coproc_err *ce = (struct coproc_err *)dev;

    irq_set(ce->irq, ce->state.irq);
}

bool coproc_err_ferr(void *dev, unsigned vcpu, bool level)
{
    struct coproc_err *ce = dev;
    struct coproc_err_state *s = &ce->state;
    uint64_t bit = BIT(vcpu % VM_MAX_VCPUS);

    if (level && !s->ferr)
        s->irq = 1;
    s->ferr = level ? s->ferr | bit : s->ferr & ~bit;
    if (!s->ferr)
        s->ignne = 0;
    coproc_err_derive(&ce->dev);
    return s->ignne;
}

static void coproc_err_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct coproc_err *ce = opaque;

    (void)off;
    (void)val;
    (void)size;
    ce->state.irq = 0;
    ce->state.ignne = ce->state.ferr != 0;
    coproc_err_derive(&ce->dev);
}

static uint64_t coproc_err_read(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque;
    (void)off;
    (void)size;
    return 0xff; /* write-only */
}

static const struct io_reg coproc_err_regs[] = {{0, 1, "COPROC_ERR"}, {0}};

static const struct io_ops coproc_err_ops = {
    .read = coproc_err_read,
    .write = coproc_err_write,
    .sizes = IO_1,
    .regs = coproc_err_regs,
};

static void coproc_err_reset(struct device *dev, enum reset_kind kind)
{
    (void)kind;
    ((struct coproc_err *)dev)->state = (struct coproc_err_state){0};
}

static int coproc_err_check(struct device *dev, struct err *err)
{
    struct coproc_err *ce = (struct coproc_err *)dev;

    if (ce->state.ignne && !ce->state.ferr)
        return err_set(err, EINVAL, "saved IGNNE# is active without FERR#");
    return 0;
}

static int coproc_err_init(struct device *dev, const void *config, struct err *err)
{
    struct coproc_err *ce = (struct coproc_err *)dev;

    (void)err;
    ce->irq = ((const struct coproc_err_config *)config)->irq;
    ce->region = (struct region){
        .name = "coproc_err",
        .kind = REGION_IO,
        .size = 1,
        .ops = &coproc_err_ops,
        .dev = ce,
        .owner = dev,
    };
    return 0;
}

static void coproc_err_attach(struct device *dev)
{
    bus_map(&dev->vm->ports, &((struct coproc_err *)dev)->region, COPROC_ERR);
}

static void coproc_err_detach(struct device *dev)
{
    bus_unmap(&((struct coproc_err *)dev)->region);
}

static const struct state coproc_err_state_table =
    STATE(struct coproc_err, state, 1, coproc_err_fields);

const struct dev_type coproc_err_type = {
    .name = "coproc_err",
    .desc = "coprocessor error: FERR#, IGNNE#, IRQ 13",
    .size = sizeof(struct coproc_err),
    .init = coproc_err_init,
    .attach = coproc_err_attach,
    .detach = coproc_err_detach,
    .reset = coproc_err_reset,
    .check = coproc_err_check,
    .derive = coproc_err_derive,
    .state = &coproc_err_state_table,
};
