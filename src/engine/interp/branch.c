/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Near branches: Jcc, JMP, CALL, RET, LOOP, JCXZ. The target is cut to the operand size and checked
 * against CS's limit, or for being canonical, before anything changes (SDM vol. 2 "JMP", "CALL",
 * "RET").
 *
 * In a relative branch `imm` is the target's distance from the block's first instruction; that of
 * 64-bit code needs no cutting and has handlers of its own.
 */
#include "engine/interp/block.h"
#include "engine/interp/int.h"

#include "engine/interp/mode.h"
#include "engine/interp/sys.h"

void branch_check_slow(struct interp *c, uint64_t rip)
{
    if (c->code64) {
        unsigned shift = c->s.cr4 & CR4_LA57 ? 7 : 16;

        if ((uint64_t)((int64_t)(rip << shift) >> shift) == rip)
            return;
    }
    interp_raise_err(c, VEC_GP, 0);
}

static uint64_t next_rip(const struct interp *c, const struct insn *i)
{
    return (c->block_rip + i->off + i->len) & c->rip_mask;
}

static void prep_relative(struct decode *d)
{
    struct insn *out = d->out;

    /* off is not known yet: the handlers add it. */
    out->imm = out->len + d->ops[0].imm.value.u;
    out->osize = (uint8_t)(d->zi->operand_width / 8);
    if (d->c->code64 && out->osize == 4)
        out->osize = 8;
}

/* ---- Jcc ---- */

#define JCC_OP(cc, unused)                                         \
    static void jcc64_##cc(struct interp *c, const struct insn *i) \
    {                                                              \
        uint64_t rip = c->block_rip + i->off;                      \
                                                                   \
        if (cond(c->aflags, cc)) {                                 \
            BEGIN(c, i);                                           \
            rip += i->imm;                                         \
            branch_check(c, rip);                                  \
            chain_direct(c, 1, rip);                               \
        } else {                                                   \
            chain_direct(c, 0, rip + i->len);                      \
        }                                                          \
    }
EACH_COND(JCC_OP, )
#define JCC_NAME(cc, unused) jcc64_##cc,

/* Where a relative branch goes, checked. */
static uint64_t jump_target(struct interp *c, const struct insn *i, bool taken)
{
    uint64_t rip = next_rip(c, i);

    BEGIN(c, i);
    if (taken) {
        rip = (c->block_rip + i->off + i->imm) & mask_bytes(i->osize);
        branch_check(c, rip);
    }
    return rip;
}

static void jcc(struct interp *c, const struct insn *i)
{
    bool taken = cond(c->aflags, i->aux);

    chain_direct(c, taken, jump_target(c, i, taken));
}

bool prep_jcc(struct decode *d)
{
    static insn_fn *const table[16] = {EACH_COND(JCC_NAME, )};
    struct insn *out = d->out;

    prep_relative(d);
    out->aux = d->row->arg;
    out->fn = out->osize == 8 ? table[out->aux] : jcc;
    return true;
}

/* ---- LOOP, LOOPE, LOOPNE, JCXZ: the counter has the address size ---- */

static void op_loop(struct interp *c, const struct insn *i)
{
    uint64_t n = reg_get(c, REG_RCX, i->asize) - 1;
    bool zf = c->aflags & AF_ZF;
    bool taken = (n & mask_bytes(i->asize)) && (i->aux == 2 || zf == (i->aux == 1));

    uint64_t rip = jump_target(c, i, taken);

    reg_set(c, REG_RCX, i->asize, n);
    chain_direct(c, taken, rip);
}

static void op_jcxz(struct interp *c, const struct insn *i)
{
    bool taken = !reg_get(c, REG_RCX, i->asize);

    chain_direct(c, taken, jump_target(c, i, taken));
}

bool prep_loop(struct decode *d)
{
    prep_relative(d);
    d->out->aux = d->row->arg;
    d->out->fn = d->row->arg == 3 ? op_jcxz : op_loop;
    return true;
}

/* ---- JMP, CALL ---- */

static void jmp_rel64(struct interp *c, const struct insn *i)
{
    uint64_t rip = c->block_rip + i->off + i->imm;

    BEGIN(c, i);
    branch_check(c, rip);
    chain_direct(c, 1, rip);
}

static void jmp_rel(struct interp *c, const struct insn *i)
{
    chain_direct(c, 1, jump_target(c, i, true));
}

/* The target of an indirect branch: a register or memory, osize bytes. */
static uint64_t indirect(struct interp *c, const struct insn *i)
{
    if (i->flags & INSN_MEM)
        return access_load(c, insn_lin(c, i, i->osize, ACCESS_READ), i->osize, c->key);
    return reg_get(c, i->rm, i->osize);
}

static void jmp_ind(struct interp *c, const struct insn *i)
{
    uint64_t rip;

    BEGIN(c, i);
    rip = indirect(c, i);
    branch_check(c, rip);
    chain_jump(c, rip);
}

/*
 * Pushes the next RIP, then goes to rip. The target is looked at last, as processors do: it raises
 * #GP with the return address already in memory, rSP as it was.
 */
static void call_to(struct interp *c, const struct insn *i, uint64_t rip)
{
    uint64_t sp = c->s.gpr[REG_RSP] - i->osize;

    access_store(c, stack_linear(c, sp, i->osize, ACCESS_WRITE), i->osize,
                 next_rip(c, i) & mask_bytes(i->osize), c->key);
    branch_check(c, rip);
    set_sp(c, sp);
    chain_jump(c, rip);
}

static void call_rel64(struct interp *c, const struct insn *i)
{
    uint64_t rip = c->block_rip + i->off, sp = c->s.gpr[REG_RSP] - 8;

    BEGIN(c, i);
    access_store(c, stack_linear(c, sp, 8, ACCESS_WRITE), 8, rip + i->len, c->key);
    branch_check(c, rip + i->imm);
    c->s.gpr[REG_RSP] = sp;
    chain_direct(c, 1, rip + i->imm);
}

static void call_rel(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    call_to(c, i, (c->block_rip + i->off + i->imm) & mask_bytes(i->osize));
}

static void call_ind(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    call_to(c, i, indirect(c, i));
}

static bool prep_branch(struct decode *d, bool call)
{
    struct insn *out = d->out;
    const ZydisDecodedOperand *op = &d->ops[0];

    if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        out->osize = (uint8_t)(d->zi->operand_width / 8);
        if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
            out->imm = op->ptr.offset;
            out->disp = op->ptr.segment;
            out->fn = call ? op_call_far_imm : op_jmp_far_imm;
        } else {
            out->fn = call ? op_call_far_mem : op_jmp_far_mem;
        }
        return true;
    }
    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        prep_relative(d);
        if (out->osize == 8)
            out->fn = call ? call_rel64 : jmp_rel64;
        else
            out->fn = call ? call_rel : jmp_rel;
        return true;
    }
    out->osize = (uint8_t)(op->size / 8);
    if (op->type == ZYDIS_OPERAND_TYPE_REGISTER)
        out->rm = decode_gpr(op->reg.value);
    out->fn = call ? call_ind : jmp_ind;
    return true;
}

bool prep_jmp(struct decode *d)
{
    return prep_branch(d, false);
}

bool prep_call(struct decode *d)
{
    return prep_branch(d, true);
}

/* ---- RET ---- */

static void ret64(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP], rip;

    BEGIN(c, i);
    rip = access_load(c, stack_linear(c, sp, 8, ACCESS_READ), 8, c->key);
    branch_check(c, rip);
    c->s.gpr[REG_RSP] = sp + 8 + i->imm;
    chain_jump(c, rip);
}

static void ret(struct interp *c, const struct insn *i)
{
    uint64_t sp = c->s.gpr[REG_RSP], rip;

    BEGIN(c, i);
    rip = access_load(c, stack_linear(c, sp, i->osize, ACCESS_READ), i->osize, c->key);
    branch_check(c, rip);
    set_sp(c, sp + i->osize + i->imm);
    chain_jump(c, rip);
}

bool prep_ret(struct decode *d)
{
    struct insn *out = d->out;

    out->osize = (uint8_t)(d->zi->operand_width / 8);
    out->imm = d->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? d->ops[0].imm.value.u & 0xffff : 0;
    if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        out->fn = op_ret_far;
        return true;
    }
    if (d->c->code64 && out->osize == 4)
        out->osize = 8;
    out->fn = out->osize == 8 ? ret64 : ret;
    return true;
}
