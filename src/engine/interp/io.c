/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IN and OUT, and the permission to use ports (SDM vol. 1 19.5). They end their block: a port write
 * may change the memory map, and may have made an interrupt due.
 */
#include "engine/interp/int.h"

#include "engine/interp/mode.h"

/* Offset of the I/O bitmap's base in a 32- or 64-bit TSS. */
#define TSS_IO_BASE 102

void io_check(struct interp *c, uint16_t port, unsigned size)
{
    const struct cpu_seg *tr = &c->s.tr;
    unsigned type = tr->attr & SEG_ATTR_TYPE, base, bits;

    if (!(c->s.cr0 & CR0_PE))
        return;
    if (!(c->s.rflags & RFLAGS_VM) && c->cpl <= mode_iopl(c->mode))
        return;
    /* Only a 386 TSS (available 9, busy 11) has a bitmap; its words must be within the limit. */
    if (!(tr->attr & SEG_ATTR_P) || (type & ~2u) != 9 || tr->limit < TSS_IO_BASE + 1)
        interp_raise_err(c, VEC_GP, 0);
    base = (unsigned)access_load(c, tr->base + TSS_IO_BASE, 2, c->key_sys);
    if (base + port / 8 + 1 > tr->limit)
        interp_raise_err(c, VEC_GP, 0);
    bits = (unsigned)access_load(c, tr->base + base + port / 8, 2, c->key_sys);
    if (bits >> (port & 7) & ((1u << size) - 1))
        interp_raise_err(c, VEC_GP, 0);
}

/* DR7's I/O breakpoints (CR4.DE, type 2): a trap after the access. */
static void io_breakpoints(struct interp *c, uint16_t port, unsigned size)
{
    if (likely(!(c->s.dr7 & 0xff)) || !(c->s.cr4 & CR4_DE))
        return;
    for (unsigned n = 0; n < 4; n++) {
        unsigned type = c->s.dr7 >> (16 + n * 4) & 3, len = c->s.dr7 >> (18 + n * 4) & 3;
        uint64_t first = c->s.dr[n] & ~(uint64_t)len;

        if ((c->s.dr7 >> (n * 2) & 3) && type == 2 && len != 2 && first < (uint64_t)port + size &&
            port <= first + len)
            c->s.pending_dbg |= BIT(n);
    }
}

static uint16_t port_of(const struct interp *c, const struct insn *i)
{
    return i->aux ? (uint16_t)c->s.gpr[REG_RDX] : (uint16_t)i->imm;
}

static void op_in(struct interp *c, const struct insn *i)
{
    uint16_t port = port_of(c, i);
    uint32_t v;

    BEGIN(c, i);
    io_check(c, port, i->osize);
    c->vcpu->access_rip = interp_rip(c);
    interp_sync_clock(c);
    v = vcpu_in(c->vcpu, port, i->osize);
    reg_set(c, REG_RAX, i->osize, v);
    io_breakpoints(c, port, i->osize);
    NEXT(c, i);
}

static void op_out(struct interp *c, const struct insn *i)
{
    uint16_t port = port_of(c, i);

    BEGIN(c, i);
    io_check(c, port, i->osize);
    c->vcpu->access_rip = interp_rip(c);
    interp_sync_clock(c);
    vcpu_out(c->vcpu, port, i->osize, (uint32_t)(c->s.gpr[REG_RAX] & mask_bytes(i->osize)));
    io_breakpoints(c, port, i->osize);
    NEXT(c, i);
}

/* aux: the port is in DX. */
static bool prep_io(struct decode *d, const ZydisDecodedOperand *data,
                    const ZydisDecodedOperand *port, insn_fn *fn)
{
    d->out->osize = (uint8_t)(data->size / 8);
    d->out->aux = port->type != ZYDIS_OPERAND_TYPE_IMMEDIATE;
    d->out->imm = d->out->aux ? 0 : port->imm.value.u & 0xff;
    d->out->fn = fn;
    return d->out->osize <= 4;
}

bool prep_in(struct decode *d)
{
    return prep_io(d, &d->ops[0], &d->ops[1], op_in);
}

bool prep_out(struct decode *d)
{
    return prep_io(d, &d->ops[1], &d->ops[0], op_out);
}
