/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PUSH, POP, PUSHA, POPA, ENTER, LEAVE. Memory first, registers last: a fault leaves rSP as it was.
 * SDM vol. 2; the stack's width is SS's (sp_mask), the operand's the instruction's.
 */
#include "engine/interp/int.h"

#include "engine/interp/sys.h"

static inline void push(struct interp *c, uint64_t v, unsigned size)
{
    uint64_t sp = c->s.gpr[REG_RSP] - size;

    access_store(c, stack_linear(c, sp, size, ACCESS_WRITE), size, v, c->key);
    set_sp(c, sp);
}

/* The top of the stack; rSP stays. */
static inline uint64_t stack_top(struct interp *c, unsigned size)
{
    return access_load(c, stack_linear(c, c->s.gpr[REG_RSP], size, ACCESS_READ), size, c->key);
}

/* ---- PUSH ---- */

static void push_r64(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP] - 8;

    BEGIN(c, i);
    access_store(c, stack_linear(c, sp, 8, ACCESS_WRITE), 8, c->s.gpr[i->reg], c->key);
    c->s.gpr[REG_RSP] = sp;
    NEXT(c, i);
}

static void push_r(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    push(c, reg_get(c, i->reg, i->osize), i->osize);
    NEXT(c, i);
}

static void push_i(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    push(c, i->imm & mask_bytes(i->osize), i->osize);
    NEXT(c, i);
}

static void push_m(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    v = access_load(c, insn_lin(c, i, i->osize, ACCESS_READ), i->osize, c->key);
    push(c, v, i->osize);
    NEXT(c, i);
}

static bool prep_sreg(struct decode *d, insn_fn *fn)
{
    ZydisRegister r = d->ops[0].reg.value;

    if (r < ZYDIS_REGISTER_ES || r > ZYDIS_REGISTER_GS)
        return false;
    d->out->reg = (uint8_t)(r - ZYDIS_REGISTER_ES);
    d->out->fn = fn;
    return true;
}

/* The operand size of a stack instruction: never 4 in 64-bit code. */
static uint8_t stack_osize(const struct decode *d)
{
    unsigned size = d->zi->operand_width / 8;

    return (uint8_t)(d->c->code64 && size != 2 ? 8 : size);
}

bool prep_push(struct decode *d)
{
    struct insn *out = d->out;

    out->osize = stack_osize(d);
    switch (d->ops[0].type) {
    case ZYDIS_OPERAND_TYPE_MEMORY:
        out->fn = push_m;
        return true;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        out->imm = d->ops[0].imm.value.u;
        out->fn = push_i;
        return true;
    default:
        out->reg = decode_gpr(d->ops[0].reg.value);
        if (out->reg == R_NONE)
            return prep_sreg(d, op_push_sreg);
        out->fn = d->c->code64 && out->osize == 8 ? push_r64 : push_r;
        return true;
    }
}

/* ---- POP ---- */

static void pop_r64(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP], v;

    BEGIN(c, i);
    v = access_load(c, stack_linear(c, sp, 8, ACCESS_READ), 8, c->key);
    c->s.gpr[REG_RSP] = sp + 8;
    c->s.gpr[i->reg] = v; /* POP RSP: the popped value stays */
    NEXT(c, i);
}

static void pop_r(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    v = stack_top(c, i->osize);
    set_sp(c, c->s.gpr[REG_RSP] + i->osize);
    reg_set(c, i->reg, i->osize, v);
    NEXT(c, i);
}

/* An address based on rSP is computed with rSP already moved. */
static void pop_m(struct interp *c, const struct insn *i)
{
    uint64_t v, ea = insn_ea(c, i), old = c->s.gpr[REG_RSP], now;
    gva_t a;

    BEGIN(c, i);
    v = stack_top(c, i->osize);
    set_sp(c, old + i->osize);
    now = c->s.gpr[REG_RSP];
    c->s.gpr[REG_RSP] = old;
    if (i->base == REG_RSP)
        ea = (ea + (now - old)) & mask_bytes(i->asize);
    a = seg_linear(c, i->seg, ea, i->osize, ACCESS_WRITE);
    access_store(c, a, i->osize, v, c->key);
    c->s.gpr[REG_RSP] = now;
    NEXT(c, i);
}

bool prep_pop(struct decode *d)
{
    struct insn *out = d->out;

    out->osize = stack_osize(d);
    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        out->fn = pop_m;
        return true;
    }
    out->reg = decode_gpr(d->ops[0].reg.value);
    if (out->reg == R_NONE)
        return prep_sreg(d, op_pop_sreg);
    out->fn = d->c->code64 && out->osize == 8 ? pop_r64 : pop_r;
    return true;
}

/* ---- PUSHA, POPA ---- */

/* Goes through memory one by one: a fault finds some pushed, or popped, and rSP as it was. */
void op_pusha(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP];

    BEGIN(c, i);
    for (unsigned r = 0; r < 8; r++)
        access_store(c, stack_linear(c, sp - (r + 1) * i->osize, i->osize, ACCESS_WRITE), i->osize,
                     reg_get(c, r, i->osize), c->key);
    set_sp(c, sp - 8 * i->osize);
    NEXT(c, i);
}

/* The place of rSP is read as well, for nothing. */
static __attribute__((noinline)) void popa(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP];

    BEGIN(c, i);
    for (unsigned n = 0; n < 8; n++) {
        uint64_t v = access_load(c, stack_linear(c, sp + n * i->osize, i->osize, ACCESS_READ),
                                 i->osize, c->key);

        if (7 - n != REG_RSP)
            reg_set(c, 7 - n, i->osize, v);
    }
    set_sp(c, sp + 8 * i->osize);
}

void op_popa(struct interp *c, const struct insn *i)
{
    popa(c, i);
    NEXT(c, i);
}

/* ---- ENTER, LEAVE ---- */

/* imm: bytes to allocate; aux: nesting level. */
void op_enter(struct interp *c, const struct insn *i)
{
    unsigned size = i->osize, level = i->aux;
    uint64_t sp = c->s.gpr[REG_RSP] - size, bp = c->s.gpr[REG_RBP], frame;
    gva_t lin;

    BEGIN(c, i);
    access_store(c, stack_linear(c, sp, size, ACCESS_WRITE), size, bp & mask_bytes(size), c->key);
    frame =
        c->sp_mask == 0xffff ? (c->s.gpr[REG_RSP] & ~0xffffull) | (sp & 0xffff) : sp & c->sp_mask;
    for (unsigned n = 1; n < level; n++) {
        uint64_t v;

        bp -= size;
        v = access_load(c, stack_linear(c, bp, size, ACCESS_READ), size, c->key);
        sp -= size;
        access_store(c, stack_linear(c, sp, size, ACCESS_WRITE), size, v, c->key);
    }
    if (level) {
        sp -= size;
        access_store(c, stack_linear(c, sp, size, ACCESS_WRITE), size, frame & mask_bytes(size),
                     c->key);
    }
    sp -= i->imm;
    /* The new top must be writable, though nothing is written there. */
    lin = stack_linear(c, sp, size, ACCESS_WRITE);
    if (!access_host(c, lin, size, ACCESS_WRITE, c->key)) /* looks at alignment too */
        access_probe(c, lin, size, ACCESS_WRITE, c->key);
    reg_set(c, REG_RBP, size, frame);
    set_sp(c, sp);
    NEXT(c, i);
}

bool prep_enter(struct decode *d)
{
    d->out->osize = stack_osize(d);
    d->out->imm = d->ops[0].imm.value.u & 0xffff;
    d->out->aux = (uint8_t)(d->ops[1].imm.value.u & 31);
    d->out->fn = d->row->fn;
    return true;
}

void op_leave(struct interp *c, const struct insn *i)
{
    unsigned size = c->code64 && i->osize != 2 ? 8 : i->osize;
    uint64_t bp = c->s.gpr[REG_RBP], v;

    BEGIN(c, i);
    v = access_load(c, stack_linear(c, bp, size, ACCESS_READ), size, c->key);
    set_sp(c, bp + size);
    reg_set(c, REG_RBP, size, v);
    NEXT(c, i);
}
