/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segmentation: descriptors, loading of segment registers, checks of accesses that are not flat,
 * and the instructions about selectors. SDM vol. 3A chapters 3 and 5, vol. 2 "MOV", "LAR", "LSL",
 * "VERR"; where Intel and AMD differ, the model's vendor decides.
 */
#include "engine/interp/seg.h"

#include "engine/interp/sys.h"

#define AFLAGS_ZF 0x4000u

static void set_zf(struct interp *c, bool zf)
{
    c->aflags = zf ? c->aflags | AFLAGS_ZF : c->aflags & ~AFLAGS_ZF;
}

/* ---- descriptors ------------------------------------------------------------------------------
 */

/* Implicit accesses wrap at 4 GiB outside of long mode. */
static gva_t table_linear(const struct interp *c, uint64_t addr)
{
    return in_long_mode(c) ? addr : (uint32_t)addr;
}

static bool table_entry(struct interp *c, uint16_t sel, unsigned size, gva_t *at)
{
    uint64_t base = c->s.gdtr.base;
    uint32_t limit = c->s.gdtr.limit;
    uint32_t off = sel & 0xfff8u;

    if (sel & SEL_TI) {
        if (!(c->s.ldtr.attr & SEG_ATTR_P))
            return false;
        base = c->s.ldtr.base;
        limit = c->s.ldtr.limit;
    }
    *at = table_linear(c, base + off);
    return (uint64_t)off + size - 1 <= limit;
}

bool desc_read(struct interp *c, uint16_t sel, struct desc *d)
{
    if (!table_entry(c, sel, 8, &d->at))
        return false;
    d->lo = access_load(c, d->at, 8, c->key_sys);
    d->hi = 0;
    return true;
}

bool desc_read_high(struct interp *c, uint16_t sel, struct desc *d)
{
    gva_t at;

    if (!table_entry(c, sel, 16, &at))
        return false;
    d->hi = access_load(c, at + 8, 8, c->key_sys);
    return true;
}

void desc_type_bit(struct interp *c, const struct desc *d, unsigned bit, bool set)
{
    gva_t at = table_linear(c, d->at + 5);
    uint8_t *host = access_host(c, at, 1, ACCESS_WRITE, c->key_sys);

    if (!host) {
        uint64_t v = access_load(c, at, 1, c->key_sys);

        access_store(c, at, 1, set ? v | bit : v & ~(uint64_t)bit, c->key_sys);
    } else if (set) {
        __atomic_fetch_or(host, (uint8_t)bit, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(host, (uint8_t)~bit, __ATOMIC_SEQ_CST);
    }
}

void desc_accessed(struct interp *c, struct desc *d)
{
    if (!(desc_type(d) & SEG_TYPE_ACCESSED))
        desc_type_bit(c, d, SEG_TYPE_ACCESSED, true);
    d->lo |= BIT(40);
}

struct cpu_seg desc_seg(const struct desc *d, uint16_t sel)
{
    return (struct cpu_seg){.base = desc_base(d),
                            .limit = desc_limit(d),
                            .selector = sel,
                            .attr = (uint16_t)desc_attr(d)};
}

/* ---- loading -----------------------------------------------------------------------------------
 */

void seg_set_null(struct interp *c, unsigned seg, uint16_t sel, unsigned dpl)
{
    struct cpu_seg *g = &c->s.seg[seg];

    /* Without CPUID 8000_0021 "NullSelectorClearsBase" AMD's keep what was there. */
    if (c->vcpu->model->vendor == CPU_INTEL) {
        g->base = 0;
        g->limit = 0;
    }
    g->selector = sel;
    g->attr = (uint16_t)(dpl << SEG_ATTR_DPL_SHIFT);
}

struct cpu_seg seg_check_ss(struct interp *c, uint16_t sel, unsigned cpl, unsigned vector)
{
    struct desc d;

    if (sel_null(sel))
        interp_raise_err(c, vector, 0);
    if (!desc_read(c, sel, &d) || (sel & SEL_RPL) != cpl || !desc_is_writable_data(&d) ||
        desc_dpl(&d) != cpl)
        interp_raise_err(c, vector, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_SS, SEL_ERROR(sel));
    desc_accessed(c, &d);
    return desc_seg(&d, sel);
}

static void load_ss(struct interp *c, uint16_t sel)
{
    /* 64-bit code inside the kernel runs without a stack segment. */
    if (sel_null(sel) && c->code64 && c->cpl != 3 && (sel & SEL_RPL) == c->cpl)
        seg_set_null(c, SEG_SS, sel, c->cpl);
    else
        c->s.seg[SEG_SS] = seg_check_ss(c, sel, c->cpl, VEC_GP);
}

static void load_data(struct interp *c, unsigned seg, uint16_t sel)
{
    struct desc d;
    unsigned rpl = sel & SEL_RPL;

    if (sel_null(sel)) {
        seg_set_null(c, seg, sel, 0);
        return;
    }
    if (!desc_read(c, sel, &d) || !desc_is_readable(&d))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!(desc_is_code(&d) && desc_is_conforming(&d)) &&
        (rpl > desc_dpl(&d) || c->cpl > desc_dpl(&d)))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    desc_accessed(c, &d);
    c->s.seg[seg] = desc_seg(&d, sel);
}

void seg_load(struct interp *c, unsigned seg, uint16_t selector)
{
    if (seg == SEG_SS)
        load_ss(c, selector);
    else
        load_data(c, seg, selector);
    interp_mode_changed(c);
}

void seg_load_real(struct interp *c, unsigned seg, uint16_t selector)
{
    struct cpu_seg *g = &c->s.seg[seg];

    g->selector = selector;
    g->base = (uint32_t)selector << 4;
    if (cpu_v86(&c->s)) {
        g->limit = 0xffff;
        g->attr = SEG_ATTR_P | SEG_ATTR_DPL | SEG_ATTR_S | SEG_TYPE_WRITE | SEG_TYPE_ACCESSED;
    } else if (!(g->attr & SEG_ATTR_P)) {
        g->limit = 0xffff;
        g->attr = SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_WRITE | SEG_TYPE_ACCESSED;
    } else {
        /* "Unreal" mode: limit and size stay what protected mode loaded last. */
        if (seg == SEG_CS)
            g->attr = (uint16_t)((g->attr & ~(SEG_ATTR_TYPE | SEG_ATTR_L)) | SEG_TYPE_WRITE |
                                 SEG_TYPE_ACCESSED);
        g->attr &= (uint16_t)~SEG_ATTR_DPL;
    }
    interp_mode_changed(c);
}

void seg_load_any(struct interp *c, unsigned seg, uint16_t sel)
{
    if (in_paragraph_mode(c))
        seg_load_real(c, seg, sel);
    else
        seg_load(c, seg, sel);
}

void seg_drop_inner(struct interp *c, unsigned cpl)
{
    static const uint8_t data_segs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (unsigned k = 0; k < ARRAY_LEN(data_segs); k++) {
        const struct cpu_seg *g = &c->s.seg[data_segs[k]];
        bool conforming =
            (g->attr & (SEG_TYPE_CODE | SEG_TYPE_EXPAND)) == (SEG_TYPE_CODE | SEG_TYPE_EXPAND);

        if (!(g->attr & SEG_ATTR_P))
            c->s.seg[data_segs[k]].selector = 0; /* a null one loses its RPL, and no base */
        else if (!conforming && (unsigned)((g->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT) < cpl)
            seg_set_null(c, data_segs[k], 0, 0);
    }
}

/* ---- checks of data accesses ------------------------------------------------------------------
 */

gva_t seg_linear_slow(struct interp *c, unsigned seg, uint64_t off, unsigned size, enum access how)
{
    const struct cpu_seg *g = &c->s.seg[seg];
    bool ok = seg_in_limit(g, off, size);

    if (!in_paragraph_mode(c)) {
        unsigned type = g->attr & (SEG_TYPE_CODE | SEG_TYPE_WRITE);

        ok = ok && (g->attr & SEG_ATTR_P) &&
             (how == ACCESS_WRITE ? type == SEG_TYPE_WRITE : type != SEG_TYPE_CODE);
    }
    if (!ok)
        interp_raise_err(c, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
    return (uint32_t)(g->base + off);
}

/* ---- stacks
 * -------------------------------------------------------------------------------------- */

struct stack stack_here(const struct interp *c)
{
    return (struct stack){.ss = c->s.seg[SEG_SS],
                          .sp = c->s.gpr[REG_RSP],
                          .start = c->s.gpr[REG_RSP],
                          .mask = c->sp_mask,
                          .key = c->key,
                          .flat = c->code64};
}

static gva_t stack_at(struct interp *c, const struct stack *st, uint64_t sp, unsigned size)
{
    uint64_t off = sp & st->mask;

    if (st->flat) {
        c->stack_addr = sp;
        return sp;
    }
    if (!(st->ss.attr & SEG_ATTR_P) || !seg_in_limit(&st->ss, off, size))
        interp_raise_err(c, VEC_SS, st->error);
    return (uint32_t)(st->ss.base + off);
}

void stack_push(struct interp *c, struct stack *st, unsigned size, uint64_t v)
{
    access_store(c, stack_at(c, st, st->sp - size, size), size, v, st->key);
    st->sp -= size;
}

uint64_t stack_pop(struct interp *c, struct stack *st, unsigned size)
{
    uint64_t v = access_load(c, stack_at(c, st, st->sp, size), size, st->key);

    st->sp += size;
    return v;
}

uint64_t stack_peek(struct interp *c, const struct stack *st, unsigned off, unsigned size)
{
    return access_load(c, stack_at(c, st, st->sp + off, size), size, st->key);
}

uint64_t stack_rsp(const struct stack *st)
{
    if (st->mask == 0xffff)
        return (st->start & ~0xffffull) | (st->sp & 0xffff);
    return st->sp & st->mask;
}

struct stack stack_inner(struct interp *c, unsigned cpl)
{
    const struct cpu_seg *tr = &c->s.tr;
    struct stack st = {.key = c->key_sys};
    uint32_t ts = SEL_ERROR(tr->selector);
    uint16_t sel;

    if (in_long_mode(c)) {
        unsigned at = 4 + cpl * 8;

        if (at + 7 > tr->limit)
            interp_raise_err(c, VEC_TS, ts);
        st.sp = access_load(c, tr->base + at, 8, c->key_sys);
        st.ss = (struct cpu_seg){.selector = (uint16_t)cpl,
                                 .attr = (uint16_t)(cpl << SEG_ATTR_DPL_SHIFT)};
        st.mask = UINT64_MAX;
        st.flat = true;
        return st;
    }
    if ((tr->attr & SEG_ATTR_TYPE) == SYS_TSS32_BUSY) {
        unsigned at = 4 + cpl * 8;

        if (at + 5 > tr->limit)
            interp_raise_err(c, VEC_TS, ts);
        st.sp = access_load(c, (uint32_t)(tr->base + at), 4, c->key_sys);
        sel = (uint16_t)access_load(c, (uint32_t)(tr->base + at + 4), 2, c->key_sys);
    } else {
        unsigned at = 2 + cpl * 4;

        if (at + 3 > tr->limit)
            interp_raise_err(c, VEC_TS, ts);
        st.sp = access_load(c, (uint32_t)(tr->base + at), 2, c->key_sys);
        sel = (uint16_t)access_load(c, (uint32_t)(tr->base + at + 2), 2, c->key_sys);
    }
    st.ss = seg_check_ss(c, sel, cpl, VEC_TS);
    st.start = st.sp;
    st.mask = stack_mask(&st.ss);
    st.error = SEL_ERROR(sel);
    return st;
}

/* ---- MOV, PUSH, POP, LDS...
 * ---------------------------------------------------------------------- */

static uint16_t load_rm16(struct interp *c, const struct insn *i)
{
    if (i->flags & INSN_MEM)
        return (uint16_t)access_load(c, insn_lin(c, i, 2, ACCESS_READ), 2, c->key);
    return (uint16_t)c->s.gpr[i->rm & 15];
}

void op_mov_from_sreg(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    if (i->reg >= SEG_COUNT)
        interp_raise(c, VEC_UD);
    if (i->flags & INSN_MEM)
        access_store(c, insn_lin(c, i, 2, ACCESS_WRITE), 2, c->s.seg[i->reg].selector, c->key);
    else
        reg_set(c, i->rm & 15, i->osize, c->s.seg[i->reg].selector);
    NEXT(c, i);
}

/* SS ends the block for the shadow's sake; the others only where the mode has become another one.
 */
static bool goes_on(struct interp *c, unsigned seg, uint64_t mode_before)
{
    if (seg != SEG_SS && c->mode == mode_before)
        return true;
    c->s.rip = interp_next_rip(c);
    run_left_early(c);
    return false;
}

void op_mov_to_sreg(struct interp *c, const struct insn *i)
{
    uint64_t mode = c->mode;

    BEGIN(c, i);
    if (i->reg >= SEG_COUNT || i->reg == SEG_CS)
        interp_raise(c, VEC_UD);
    seg_load_any(c, i->reg, load_rm16(c, i));
    if (i->reg == SEG_SS)
        interp_shadow(c, CPU_SHADOW_MOV_SS);
    if (goes_on(c, i->reg, mode))
        NEXT(c, i);
}

void op_push_sreg(struct interp *c, const struct insn *i)
{
    struct stack st;
    uint16_t sel;

    BEGIN(c, i);
    if (i->reg >= SEG_COUNT)
        interp_raise(c, VEC_UD);
    st = stack_here(c);
    sel = c->s.seg[i->reg].selector;
    if (i->osize == 4 && c->vcpu->model->vendor == CPU_INTEL) {
        /* Intel's move 16 bits into the slot of 32; AMD's store all of it. */
        st.sp -= 2;
        stack_push(c, &st, 2, sel);
    } else {
        stack_push(c, &st, i->osize, sel);
    }
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    NEXT(c, i);
}

void op_pop_sreg(struct interp *c, const struct insn *i)
{
    uint64_t mode = c->mode;
    struct stack st;
    uint64_t rsp;
    uint16_t sel;

    BEGIN(c, i);
    if (i->reg >= SEG_COUNT || i->reg == SEG_CS)
        interp_raise(c, VEC_UD);
    st = stack_here(c);
    sel = (uint16_t)stack_peek(c, &st, 0, 2); /* no more is read, but the slot has osize bytes */
    st.sp += i->osize;
    rsp = stack_rsp(&st); /* by the old stack's width */
    seg_load_any(c, i->reg, sel);
    c->s.gpr[REG_RSP] = rsp;
    if (i->reg == SEG_SS)
        interp_shadow(c, CPU_SHADOW_MOV_SS);
    if (goes_on(c, i->reg, mode))
        NEXT(c, i);
}

/* True: the block goes on. */
static bool load_far_pointer(struct interp *c, const struct insn *i, unsigned seg)
{
    uint64_t mode = c->mode;
    /* AMD's know no 64-bit far pointer: REX.W is without effect. */
    unsigned osize = i->osize == 8 && c->vcpu->model->vendor == CPU_AMD ? 4 : i->osize;
    uint64_t ea, off;
    gva_t at;

    BEGIN(c, i);
    /* Two accesses, of which the first may fault before the second is outside of its segment. */
    ea = insn_ea(c, i);
    off = access_load(c, seg_linear(c, i->seg, ea, osize, ACCESS_READ), osize, c->key);
    ea = c->code64 ? ea + osize : (uint32_t)(ea + osize);
    at = seg_linear(c, i->seg, ea, 2, ACCESS_READ);
    seg_load_any(c, seg, (uint16_t)access_load(c, at, 2, c->key));
    reg_set(c, i->reg & 15, osize, off);
    return goes_on(c, seg, mode);
}

#define OP_LOAD_FAR(name, seg)                        \
    void name(struct interp *c, const struct insn *i) \
    {                                                 \
        if (load_far_pointer(c, i, seg))              \
            NEXT(c, i);                               \
    }

OP_LOAD_FAR(op_les, SEG_ES)
OP_LOAD_FAR(op_lds, SEG_DS)
OP_LOAD_FAR(op_lss, SEG_SS)
OP_LOAD_FAR(op_lfs, SEG_FS)
OP_LOAD_FAR(op_lgs, SEG_GS)

/* ---- LAR, LSL, VERR, VERW, ARPL
 * ---------------------------------------------------------------------- */

static void require_protected(struct interp *c)
{
    if (in_paragraph_mode(c))
        interp_raise(c, VEC_UD);
}

/* The descriptor of `sel` if this privilege may look at it. */
static bool inspect(struct interp *c, uint16_t sel, struct desc *d)
{
    if (sel_null(sel) || !desc_read(c, sel, d))
        return false;
    if (desc_is_code(d) && desc_is_conforming(d))
        return true;
    return desc_dpl(d) >= c->cpl && desc_dpl(d) >= (sel & SEL_RPL);
}

/* System types by bit: those that LAR and LSL know, outside of and in long mode. */
#define LSL_TYPES \
    (BIT(SYS_TSS16) | BIT(SYS_LDT) | BIT(SYS_TSS16_BUSY) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY))
#define LAR_TYPES      (LSL_TYPES | BIT(SYS_CALL16) | BIT(SYS_TASK_GATE) | BIT(SYS_CALL32))
#define LSL_TYPES_LONG (BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY))
#define LAR_TYPES_LONG (LSL_TYPES_LONG | BIT(SYS_CALL32))

static bool system_type_in(const struct interp *c, const struct desc *d, uint64_t legacy,
                           uint64_t long_mode)
{
    return !desc_is_system(d) || ((in_long_mode(c) ? long_mode : legacy) >> desc_type(d) & 1);
}

void op_lar(struct interp *c, const struct insn *i)
{
    struct desc d;
    bool ok;

    BEGIN(c, i);
    require_protected(c);
    ok = inspect(c, load_rm16(c, i), &d) && system_type_in(c, &d, LAR_TYPES, LAR_TYPES_LONG);
    if (ok)
        reg_set(c, i->reg & 15, i->osize, (d.lo >> 32) & 0x00ffff00);
    set_zf(c, ok);
    NEXT(c, i);
}

void op_lsl(struct interp *c, const struct insn *i)
{
    struct desc d;
    bool ok;

    BEGIN(c, i);
    require_protected(c);
    ok = inspect(c, load_rm16(c, i), &d) && system_type_in(c, &d, LSL_TYPES, LSL_TYPES_LONG);
    if (ok)
        reg_set(c, i->reg & 15, i->osize, desc_limit(&d));
    set_zf(c, ok);
    NEXT(c, i);
}

void op_verr(struct interp *c, const struct insn *i)
{
    struct desc d;

    BEGIN(c, i);
    require_protected(c);
    set_zf(c, inspect(c, load_rm16(c, i), &d) && desc_is_readable(&d));
    NEXT(c, i);
}

void op_verw(struct interp *c, const struct insn *i)
{
    struct desc d;

    BEGIN(c, i);
    require_protected(c);
    set_zf(c, inspect(c, load_rm16(c, i), &d) && desc_is_writable_data(&d));
    NEXT(c, i);
}

void op_arpl(struct interp *c, const struct insn *i)
{
    uint16_t dst, src;
    bool raise_rpl;

    BEGIN(c, i);
    require_protected(c);
    src = (uint16_t)c->s.gpr[i->reg & 15];
    dst = load_rm16(c, i);
    raise_rpl = (dst & SEL_RPL) < (src & SEL_RPL);
    if (raise_rpl) {
        dst = (uint16_t)((dst & ~SEL_RPL) | (src & SEL_RPL));
        if (i->flags & INSN_MEM)
            access_store(c, insn_lin(c, i, 2, ACCESS_WRITE), 2, dst, c->key);
        else
            reg_set(c, i->rm & 15, 2, dst);
    }
    set_zf(c, raise_rpl);
    NEXT(c, i);
}
