/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that has segments: 32- and 16-bit code, in whatever mode. A segment is one of three things:
 * flat (MODE_FLAT), which costs nothing; plain for an access (BT_KEY_READ, BT_KEY_WRITE), whose
 * limit is compared and whose base is added at run time, so that loading a segment register of the
 * same kind changes no code; or neither, and the interpreter has the access. SDM vol. 3A chapters 3
 * and 5.
 */
#include "engine/bt/translate.h"

/* ---- the kinds ------------------------------------------------------------------------------- */

static bool expands_up(const struct cpu_seg *g)
{
    return (g->attr & (SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND)) !=
           (SEG_ATTR_S | SEG_TYPE_EXPAND);
}

/* As seg_linear_slow decides it. */
uint64_t bt_key_segments(const struct interp *c)
{
    bool by_type = !(c->mode & (MODE_REAL | MODE_V86));
    uint64_t key = BT_KEY_64K;

    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct cpu_seg *g = &c->s.seg[i];
        unsigned type = g->attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE);

        if (!expands_up(g) || (by_type && !(g->attr & SEG_ATTR_P)))
            continue;
        if (!by_type || type != SEG_TYPE_CODE)
            key |= BIT(BT_KEY_READ_SHIFT + i);
        if (!by_type || type == SEG_TYPE_WRITE)
            key |= BIT(BT_KEY_WRITE_SHIFT + i);
        if (g->limit < 0xffff)
            key &= ~BT_KEY_64K;
    }
    return key;
}

bool seg_flat(const struct translation *t, unsigned seg)
{
    return t->key >> (MODE_FLAT_SHIFT + seg) & 1;
}

static bool seg_usable(const struct translation *t, unsigned seg, enum access how)
{
    unsigned shift = how == ACCESS_WRITE ? BT_KEY_WRITE_SHIFT : BT_KEY_READ_SHIFT;

    return seg < SEG_COUNT && (seg_flat(t, seg) || t->key >> (shift + seg) & 1);
}

/* ---- what a form needs ----------------------------------------------------------------------- */

/* Far less than BT_WINDOW_EDGE: what lies so near to rsp and in the window is not beyond a wrap. */
#define NEAR32 4096

bool is_pushf(const struct form *f)
{
    return f->zi.mnemonic == ZYDIS_MNEMONIC_PUSHF || f->zi.mnemonic == ZYDIS_MNEMONIC_PUSHFD ||
           f->zi.mnemonic == ZYDIS_MNEMONIC_PUSHFQ;
}

bool is_popf(const struct form *f)
{
    return f->zi.mnemonic == ZYDIS_MNEMONIC_POPF || f->zi.mnemonic == ZYDIS_MNEMONIC_POPFD ||
           f->zi.mnemonic == ZYDIS_MNEMONIC_POPFQ;
}

/* May an access at rsp + disp be in the stack's window? */
static bool near_disp(const struct translation *t, int64_t disp)
{
    return t->code64 ? near(disp) : disp > -NEAR32 && disp < NEAR32;
}

static bool uses_stack(const struct form *f)
{
    switch (f->class) {
    case FORM_PUSH:
    case FORM_POP:
    case FORM_LEAVE:
    case FORM_CALL:
    case FORM_CALL_INDIRECT:
    case FORM_RET:
        return true;
    case FORM_SYSTEM:
        return is_pushf(f) || is_popf(f) || f->sreg_push || f->sreg_pop;
    default:
        return false;
    }
}

static bool reads_operand(const struct form *f)
{
    return (f->class == FORM_PUSH || f->class == FORM_JMP_INDIRECT ||
            f->class == FORM_CALL_INDIRECT || (f->class == FORM_SYSTEM && f->mem_size)) &&
           (f->in.flags & INSN_MEM);
}

/* False: a segment is in the way. */
static bool segments_usable(const struct translation *t, const struct form *f)
{
    if (uses_stack(f) && !seg_usable(t, SEG_SS, ACCESS_WRITE))
        return false;
    if ((f->class == FORM_NATIVE && f->mem_size) || reads_operand(f))
        return seg_usable(t, f->in.seg, f->mem_write ? ACCESS_WRITE : ACCESS_READ);
    return true;
}

void segment_form(const struct translation *t, struct form *f)
{
    const struct insn *in = &f->in;
    bool flat_stack = t->code64 || ((t->key & MODE_SS32) && seg_flat(t, SEG_SS));
    bool one = in->base < 16 && in->index == R_NONE;
    bool flat =
        t->code64 ? in->seg < SEG_FS && in->asize == 8 : seg_flat(t, in->seg) && in->asize == 4;

    f->simple = f->windowed = f->stack_windowed = false;
    if (f->in.mnemonic == ZYDIS_MNEMONIC_INVALID)
        return;
    if (!t->code64 && !segments_usable(t, f)) {
        if (f->class == FORM_NATIVE || f->class == FORM_PUSH || f->class == FORM_POP ||
            f->class == FORM_LEAVE)
            form_is_slow(f);
        else
            form_is_end(f);
        return;
    }
    f->stack_windowed = (flat_stack || bt_key_stack16(t->key)) && uses_stack(f);
    if (!(in->flags & INSN_MEM) || !one || !flat)
        return;
    f->windowed = in->base == REG_RSP && flat_stack && near_disp(t, in->disp);
    /*
     * Base and displacement are added in 64 bits, here and by the access itself: a sum that guests
     * cut to 32 has no tag, unless 64-bit code beside this one has made it.
     */
    f->simple =
        !is_stolen(in->base) && in->base != f->high &&
        (t->code64 || (!(t->key & MODE_LMA) && near(in->disp)));
}

/* ---- code ------------------------------------------------------------------------------------ */

#define CC_L 12

void emit_segment(struct translation *t, unsigned seg, unsigned asize, unsigned size, uint32_t site)
{
    struct emit *e = &t->hot;

    if (seg_flat(t, seg))
        return;
    if (asize == 2 && (t->key & BT_KEY_64K)) {
        if (size > 1) { /* a larger segment may go on: that is the interpreter's */
            emit_dword(e, 7, rm_reg(T0), 0x10000 - size);
            add_stub(t, STUB_LIMIT, emit_jump(e, CC_A, e->at), site);
        }
    } else {
        t1_lost(t);
        emit_op(e, false, OP_LOAD, T1, SEG_AT(seg, limit));
        emit_op(e, true, 0x2b, T1, rm_reg(T0)); /* sub r15, r14 */
        emit_op(e, true, 0x83, 7, rm_reg(T1));  /* cmp r15, size - 1 */
        emit8(e, size - 1);
        add_stub(t, STUB_LIMIT, emit_jump(e, CC_L, e->at), site);
    }
    emit_op(e, false, OP_ADD, T0, SEG_AT(seg, base));
    t->host = false;
}

void emit_stack_address(struct translation *t, const struct form *f, unsigned base, int32_t disp,
                        uint32_t site)
{
    struct emit *e = &t->hot;

    emit_op(e, false, OP_LEA, T0, rm_mem(base, NO_REG, 0, disp));
    if (!(t->key & MODE_SS32))
        emit_op(e, false, 0x1b7, T0, rm_reg(T0)); /* movzx r14d, r14w */
    emit_segment(t, SEG_SS, t->key & MODE_SS32 ? 4 : 2, f->stack, site);
}

/* ---- sizes ----------------------------------------------------------------------------------- */

void emit_load_sized(struct emit *e, unsigned size, unsigned reg, struct rm m)
{
    emit_op(e, size == 8, size == 2 ? 0x1b7 : OP_LOAD, reg, m);
}

void emit_sized(struct emit *e, unsigned size, unsigned opcode, unsigned reg, struct rm m)
{
    if (size == 2)
        emit8(e, 0x66);
    emit_op(e, size == 8, opcode, reg, m);
}

void emit_store_constant(struct emit *e, unsigned size, struct rm m, uint32_t v)
{
    emit_sized(e, size, 0xc7, 0, m);
    if (size == 2)
        emit_bytes(e, &v, 2);
    else
        emit32(e, v);
}
