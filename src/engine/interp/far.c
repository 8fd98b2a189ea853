/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far transfers: JMP, CALL, RET and IRET in every mode. SDM vol. 2 has the order of the checks
 * under each instruction; vol. 3A sections 5.8 (gates, conforming code), 6.14 (64-bit mode), 20.2
 * and 20.3 (V86).
 *
 * Each function checks and stores first and commits last, so that a fault leaves the state as it
 * was; only accessed bits and bytes below the stack pointer may have changed, as on the hardware.
 */
#include "engine/interp/seg.h"
#include "engine/interp/sys.h"

/* ---- code segments --------------------------------------------------------------------------- */

/* Where a transfer goes, before it is committed. */
struct target {
    struct cpu_seg cs; /* selector's RPL is the new CPL */
    uint64_t rip;
    unsigned cpl;
};

static bool is_64bit_code(const struct interp *c, const struct cpu_seg *cs)
{
    return in_long_mode(c) && (cs->attr & SEG_ATTR_L);
}

/* #GP(0) unless the instruction pointer is inside the code segment. */
static void check_rip(struct interp *c, struct target *t)
{
    if (is_64bit_code(c, &t->cs)) {
        if (!is_canonical(c, t->rip))
            interp_raise_err(c, VEC_GP, 0);
        return;
    }
    t->rip = (uint32_t)t->rip;
    if (t->rip > t->cs.limit)
        interp_raise_err(c, VEC_GP, 0);
}

static void commit(struct interp *c, const struct target *t)
{
    /* Of all registers the stack pointer loses its upper half on the way to compatibility mode. */
    if (c->code64 && !is_64bit_code(c, &t->cs))
        c->s.gpr[REG_RSP] = (uint32_t)c->s.gpr[REG_RSP];
    c->s.seg[SEG_CS] = t->cs;
    c->s.rip = t->rip;
}

static struct target target_of(struct interp *c, struct desc *d, uint16_t sel, unsigned cpl,
                               uint64_t rip)
{
    struct target t = {.rip = rip, .cpl = cpl};

    desc_accessed(c, d);
    t.cs = desc_seg(d, (uint16_t)((sel & ~SEL_RPL) | cpl));
    return t;
}

/* L and D together mean nothing. */
static bool bad_size(const struct interp *c, const struct desc *d)
{
    return in_long_mode(c) && (desc_attr(d) & SEG_ATTR_L) && (desc_attr(d) & SEG_ATTR_DB);
}

/* A code segment named by JMP or CALL itself: privilege stays. */
static struct target direct_target(struct interp *c, struct desc *d, uint16_t sel, uint64_t off)
{
    if (desc_is_conforming(d) ? desc_dpl(d) > c->cpl
                              : (sel & SEL_RPL) > c->cpl || desc_dpl(d) != c->cpl)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (bad_size(c, d))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    return target_of(c, d, sel, c->cpl, off);
}

/* ---- gates ------------------------------------------------------------------------------------
 */

struct call_gate {
    unsigned size; /* of what is pushed: 2, 4, 8 */
    unsigned params;
    struct target to;
};

static void check_gate(struct interp *c, const struct desc *d, uint16_t sel)
{
    if (desc_dpl(d) < c->cpl || desc_dpl(d) < (sel & SEL_RPL))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
}

/* Through a call gate; `call`: more privileged code may be reached. */
static struct call_gate through_gate(struct interp *c, struct desc *gate, uint16_t sel, bool call)
{
    struct call_gate g = {.size = desc_type(gate) == SYS_CALL16 ? 2 : 4};
    uint16_t cs = gate_selector(gate);
    uint64_t off = (gate->lo & 0xffff) | (gate->lo >> 32 & 0xffff0000);
    struct desc code;
    unsigned cpl = c->cpl;

    if (in_long_mode(c)) {
        /* The type of the upper half must be 0, so that half a gate is never taken for one. */
        if (!desc_read_high(c, sel, gate) || (gate->hi >> 40 & 0x1f))
            interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
        g.size = 8;
    }
    check_gate(c, gate, sel);
    if (in_long_mode(c)) {
        off |= gate->hi << 32;
    } else {
        g.params = gate->lo >> 32 & 0x1f;
        if (g.size == 2)
            off &= 0xffff;
    }

    if (sel_null(cs))
        interp_raise_err(c, VEC_GP, 0);
    if (!desc_read(c, cs, &code) || !desc_is_code(&code) || desc_dpl(&code) > c->cpl)
        interp_raise_err(c, VEC_GP, SEL_ERROR(cs));
    if (!desc_is_conforming(&code)) {
        if (!call && desc_dpl(&code) != c->cpl)
            interp_raise_err(c, VEC_GP, SEL_ERROR(cs));
        cpl = desc_dpl(&code);
    }
    if (in_long_mode(c) && (desc_attr(&code) & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
        interp_raise_err(c, VEC_GP, SEL_ERROR(cs));
    if (!desc_is_present(&code))
        interp_raise_err(c, VEC_NP, SEL_ERROR(cs));
    if (cpl != c->cpl) {
        /* The instruction pointer is looked at after the new stack. */
        g.to = (struct target){.rip = off, .cpl = cpl};
        desc_accessed(c, &code);
        g.to.cs = desc_seg(&code, (uint16_t)((cs & ~SEL_RPL) | cpl));
    } else {
        g.to = target_of(c, &code, cs, cpl, off);
    }
    return g;
}

/* A system descriptor as the target: true if it was a task; call gates are left to the caller. */
static bool task_target(struct interp *c, const struct desc *d, uint16_t sel, enum task_cause cause)
{
    unsigned type = desc_type(d);

    if (in_long_mode(c)) {
        if (type != SYS_CALL32)
            interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
        return false;
    }
    switch (type) {
    case SYS_CALL16:
    case SYS_CALL32:
        return false;
    case SYS_TASK_GATE:
        check_gate(c, d, sel);
        task_gate(c, d, cause, false, 0);
        return true;
    case SYS_TSS16:
    case SYS_TSS32:
        check_gate(c, d, sel);
        task_switch(c, sel, cause, false, 0);
        return true;
    default:
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    }
}

static void read_target(struct interp *c, uint16_t sel, struct desc *d)
{
    if (sel_null(sel))
        interp_raise_err(c, VEC_GP, 0);
    if (!desc_read(c, sel, d))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_system(d) && !desc_is_code(d))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
}

/* ---- JMP
 * ------------------------------------------------------------------------------------------ */

void far_jmp(struct interp *c, uint16_t selector, uint64_t off, unsigned osize)
{
    struct desc d;
    struct target t;

    off &= mask_bytes(osize);
    if (in_paragraph_mode(c)) {
        if (off > c->s.seg[SEG_CS].limit)
            interp_raise_err(c, VEC_GP, 0);
        c->s.rip = off;
        seg_load_real(c, SEG_CS, selector);
        return;
    }
    read_target(c, selector, &d);
    if (!desc_is_system(&d))
        t = direct_target(c, &d, selector, off);
    else if (task_target(c, &d, selector, TASK_JMP))
        return;
    else
        t = through_gate(c, &d, selector, false).to;
    check_rip(c, &t);
    commit(c, &t);
    interp_mode_changed(c);
}

/* ---- CALL ---------------------------------------------------------------------------------------
 */

/* To an inner level: the stack comes from the TSS, with the old SS:RSP and the parameters on it. */
static void call_inner(struct interp *c, struct call_gate *g)
{
    struct stack old = stack_here(c);
    struct stack st = stack_inner(c, g->to.cpl);
    unsigned size = g->size;

    check_rip(c, &g->to);
    stack_push(c, &st, size, c->s.seg[SEG_SS].selector);
    stack_push(c, &st, size, c->s.gpr[REG_RSP]);
    for (unsigned k = g->params; k > 0; k--) {
        struct stack from = old;

        from.sp += (uint64_t)(k - 1) * size;
        stack_push(c, &st, size, stack_pop(c, &from, size));
    }
    stack_push(c, &st, size, c->s.seg[SEG_CS].selector);
    stack_push(c, &st, size, interp_next_rip(c));

    c->s.seg[SEG_SS] = st.ss;
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    commit(c, &g->to);
    interp_mode_changed(c);
}

void far_call(struct interp *c, uint16_t selector, uint64_t off, unsigned osize)
{
    struct stack st = stack_here(c);
    struct call_gate g = {.size = osize};
    struct desc d;

    off &= mask_bytes(osize);
    if (in_paragraph_mode(c)) {
        if (off > c->s.seg[SEG_CS].limit)
            interp_raise_err(c, VEC_GP, 0);
        stack_push(c, &st, osize, c->s.seg[SEG_CS].selector);
        stack_push(c, &st, osize, interp_next_rip(c));
        c->s.gpr[REG_RSP] = stack_rsp(&st);
        c->s.rip = off;
        seg_load_real(c, SEG_CS, selector);
        return;
    }
    read_target(c, selector, &d);
    if (!desc_is_system(&d)) {
        g.to = direct_target(c, &d, selector, off);
        /* The frame goes to the stack as the new code sees it. */
        st.flat = is_64bit_code(c, &g.to.cs);
        st.mask = st.flat ? UINT64_MAX : stack_mask(&st.ss);
    } else if (task_target(c, &d, selector, TASK_CALL)) {
        return;
    } else {
        g = through_gate(c, &d, selector, true);
        if (g.to.cpl != c->cpl) {
            call_inner(c, &g);
            return;
        }
        if (in_long_mode(c)) {
            /* The pushes are the 64-bit target's, even out of compatibility mode. */
            st.flat = true;
            st.mask = UINT64_MAX;
        }
    }
    /* In the processors' order: the frame is written before the target address is looked at. */
    stack_push(c, &st, g.size, c->s.seg[SEG_CS].selector);
    stack_push(c, &st, g.size, interp_next_rip(c));
    check_rip(c, &g.to);
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    commit(c, &g.to);
    interp_mode_changed(c);
}

/* ---- RET and IRET to protected and long mode
 * --------------------------------------------------------- */

/* The code segment that a return goes to: the same level or an outer one. */
static struct target return_code(struct interp *c, uint16_t sel, uint64_t rip)
{
    unsigned rpl = sel & SEL_RPL;
    struct target t = {.rip = rip, .cpl = rpl};
    struct desc d;

    if (sel_null(sel))
        interp_raise_err(c, VEC_GP, 0);
    if (!desc_read(c, sel, &d) || !desc_is_code(&d) || rpl < c->cpl)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (bad_size(c, &d))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    desc_accessed(c, &d);
    t.cs = desc_seg(&d, sel);
    return t;
}

/* SS of a return; 64-bit code of levels 0 to 2 may go without. `null`: it does. */
static struct cpu_seg return_ss(struct interp *c, const struct target *t, uint16_t sel, bool *null)
{
    *null = sel_null(sel) && is_64bit_code(c, &t->cs) && t->cpl != 3;
    if (*null)
        return (struct cpu_seg){0};
    return seg_check_ss(c, sel, t->cpl, VEC_GP);
}

/*
 * Return frames are read as processors do it, which shows in CR2: the last word first, and of a selector
 * only its two bytes.
 */
struct frame {
    uint64_t rip, image;
    uint16_t sel;
};

static struct frame pop_frame(struct interp *c, struct stack *st, unsigned osize, bool with_flags)
{
    struct frame f = {0};

    if (with_flags)
        f.image = stack_peek(c, st, 2 * osize, osize);
    f.sel = (uint16_t)stack_peek(c, st, osize, 2);
    f.rip = stack_peek(c, st, 0, osize);
    st->sp += (with_flags ? 3 : 2) * osize;
    return f;
}

/* Commits a return that also loads SS:RSP; `sp` as popped, with `add` (RET n) on top. */
static void commit_outer(struct interp *c, const struct target *t, uint16_t ss_sel,
                         const struct cpu_seg *ss, bool ss_null, uint64_t sp, unsigned add)
{
    unsigned old_cpl = c->cpl;

    commit(c, t);
    if (ss_null)
        seg_set_null(c, SEG_SS, ss_sel, t->cpl);
    else
        c->s.seg[SEG_SS] = *ss;
    sp += add;
    if (is_64bit_code(c, &t->cs))
        c->s.gpr[REG_RSP] = sp;
    else if (c->s.seg[SEG_SS].attr & SEG_ATTR_DB)
        c->s.gpr[REG_RSP] = (uint32_t)sp;
    else
        /* The upper half stays the inner level's: Linux has its "espfix" for it. */
        c->s.gpr[REG_RSP] = (uint32_t)((c->s.gpr[REG_RSP] & 0xffff0000) | (sp & 0xffff));
    if (t->cpl != old_cpl)
        seg_drop_inner(c, t->cpl);
}

/* RSP after a return that stays on its stack: added up in the width of the code that is returned to. */
static uint64_t returned_sp(const struct interp *c, const struct target *t, struct stack *st)
{
    if (is_64bit_code(c, &t->cs))
        st->mask = UINT64_MAX;
    return stack_rsp(st);
}

void far_ret(struct interp *c, unsigned osize, unsigned pop_bytes)
{
    struct stack st = stack_here(c);
    struct frame f = pop_frame(c, &st, osize, false);
    uint64_t rip = f.rip;
    uint16_t sel = f.sel;
    struct target t;
    struct cpu_seg ss;
    uint64_t sp;
    uint16_t ss_sel;
    bool ss_null;

    if (in_paragraph_mode(c)) {
        if (rip > c->s.seg[SEG_CS].limit)
            interp_raise_err(c, VEC_GP, 0);
        st.sp += pop_bytes;
        c->s.gpr[REG_RSP] = stack_rsp(&st);
        c->s.rip = rip;
        seg_load_real(c, SEG_CS, sel);
        return;
    }
    t = return_code(c, sel, rip);
    st.sp += pop_bytes;
    if (t.cpl == c->cpl) {
        check_rip(c, &t);
        c->s.gpr[REG_RSP] = returned_sp(c, &t, &st);
        commit(c, &t);
        interp_mode_changed(c);
        return;
    }
    ss_sel = (uint16_t)stack_peek(c, &st, osize, 2);
    sp = stack_peek(c, &st, 0, osize);
    ss = return_ss(c, &t, ss_sel, &ss_null);
    check_rip(c, &t);
    commit_outer(c, &t, ss_sel, &ss, ss_null, sp, pop_bytes);
    interp_mode_changed(c);
}

/* ---- IRET
 * ------------------------------------------------------------------------------------------- */

#define FLAGS_16 (RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT)
#define FLAGS_32 (FLAGS_16 | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID)

/* The bits of `mask` come from the popped image. */
static void iret_flags(struct interp *c, uint64_t image, uint64_t mask)
{
    uint64_t old = flags_get(c);

    flags_set(c, (old & ~mask) | (image & mask));
    /* RF is for the next instruction: the one it was set for has been this IRET. */
    c->s.rflags = (c->s.rflags & ~RFLAGS_RF) | (image & mask & RFLAGS_RF);
    c->armed &= (uint8_t)~INTERP_ARMED_RF;
    interp_flags_replaced(c, old);
}

/* Real mode, and V86 where IOPL or VME allows it. */
static void iret_paragraph(struct interp *c, unsigned osize)
{
    struct stack st = stack_here(c);
    uint64_t rip, image, mask = osize == 2 ? FLAGS_16 : FLAGS_32;
    bool v86 = c->s.rflags & RFLAGS_VM;
    bool vme = v86 && (c->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL;
    struct frame f;
    uint16_t sel;

    if (vme && (!(c->s.cr4 & CR4_VME) || osize != 2))
        interp_raise_err(c, VEC_GP, 0);
    f = pop_frame(c, &st, osize, true);
    rip = f.rip;
    sel = f.sel;
    image = f.image;
    if (rip > c->s.seg[SEG_CS].limit)
        interp_raise_err(c, VEC_GP, 0);
    if (v86)
        mask &= ~RFLAGS_IOPL;
    if (vme) {
        if ((image & RFLAGS_TF) || ((image & RFLAGS_IF) && (c->s.rflags & RFLAGS_VIP)))
            interp_raise_err(c, VEC_GP, 0);
        mask = (mask & ~RFLAGS_IF) | RFLAGS_VIF;
        image = (image & ~RFLAGS_VIF) | (image & RFLAGS_IF ? RFLAGS_VIF : 0);
    }
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    c->s.rip = rip;
    iret_flags(c, image, mask);
    seg_load_real(c, SEG_CS, sel);
}

/* From level 0 to virtual-8086 mode; `st` is past EFLAGS. */
static void iret_to_v86(struct interp *c, struct stack *st, uint64_t rip, uint16_t cs,
                        uint64_t image)
{
    static const uint8_t order[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint16_t sel[ARRAY_LEN(order)];
    uint64_t sp = stack_pop(c, st, 4);
    uint16_t ss = (uint16_t)stack_pop(c, st, 4);

    for (unsigned k = 0; k < ARRAY_LEN(order); k++)
        sel[k] = (uint16_t)stack_pop(c, st, 4);
    if (rip > 0xffff)
        interp_raise_err(c, VEC_GP, 0);

    c->s.rip = rip;
    c->s.gpr[REG_RSP] = (uint32_t)sp;
    iret_flags(c, image, FLAGS_32 | RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP);
    for (unsigned k = 0; k < ARRAY_LEN(order); k++)
        seg_load_real(c, order[k], sel[k]);
    seg_load_real(c, SEG_SS, ss);
    seg_load_real(c, SEG_CS, cs);
}

static uint64_t iret_mask(const struct interp *c, unsigned osize)
{
    uint64_t mask = osize == 2 ? FLAGS_16 : FLAGS_32;
    unsigned iopl = (c->s.rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;

    if (c->cpl > iopl)
        mask &= ~RFLAGS_IF;
    if (c->cpl)
        mask &= ~RFLAGS_IOPL;
    else if (osize != 2)
        mask |= RFLAGS_VIF | RFLAGS_VIP;
    return mask;
}

void far_iret(struct interp *c, unsigned osize)
{
    struct stack st = stack_here(c);
    uint64_t rip, image, mask, sp;
    struct target t;
    struct cpu_seg ss;
    struct frame f;
    uint16_t sel, ss_sel;
    bool ss_null;

    if (in_paragraph_mode(c)) {
        iret_paragraph(c, osize);
        interp_nmi_unblock(c);
        return;
    }
    /* Unblocked even if the return faults: SDM vol. 3A section 6.7.1, "the next IRET". */
    interp_nmi_unblock(c);
    if (c->s.rflags & RFLAGS_NT) {
        if (in_long_mode(c))
            interp_raise_err(c, VEC_GP, 0);
        task_return(c);
        return;
    }
    f = pop_frame(c, &st, osize, true);
    rip = f.rip;
    sel = f.sel;
    image = f.image;
    if (osize == 4 && (image & RFLAGS_VM) && !c->cpl && !in_long_mode(c)) {
        iret_to_v86(c, &st, rip, sel, image);
        return;
    }
    t = return_code(c, sel, rip);
    mask = iret_mask(c, osize);
    if (t.cpl == c->cpl && !c->code64) {
        check_rip(c, &t);
        c->s.gpr[REG_RSP] = returned_sp(c, &t, &st);
        commit(c, &t);
        iret_flags(c, image, mask);
        interp_mode_changed(c);
        return;
    }
    ss_sel = (uint16_t)stack_peek(c, &st, osize, 2);
    sp = stack_peek(c, &st, 0, osize);
    ss = return_ss(c, &t, ss_sel, &ss_null);
    check_rip(c, &t);
    commit_outer(c, &t, ss_sel, &ss, ss_null, sp, 0);
    iret_flags(c, image, mask);
    interp_mode_changed(c);
}

/* ---- instructions
 * -------------------------------------------------------------------------------- */

static uint64_t load_far(struct interp *c, const struct insn *i, unsigned osize, uint16_t *sel)
{
    /* Two accesses, of which the first may fault before the second is outside of its segment. */
    uint64_t ea = insn_ea(c, i);
    uint64_t off =
        access_load(c, seg_linear(c, i->seg, ea, osize, ACCESS_READ), osize, c->key);

    ea = c->code64 ? ea + osize : (uint32_t)(ea + osize);
    *sel = (uint16_t)access_load(c, seg_linear(c, i->seg, ea, 2, ACCESS_READ), 2, c->key);
    return off;
}

/* AMD's have no m16:64. */
static unsigned far_osize(const struct interp *c, const struct insn *i)
{
    return i->osize == 8 && c->vcpu->model->vendor == CPU_AMD ? 4 : i->osize;
}

void op_jmp_far_imm(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    far_jmp(c, (uint16_t)i->disp, i->imm, i->osize);
}

void op_call_far_imm(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    far_call(c, (uint16_t)i->disp, i->imm, i->osize);
}

void op_jmp_far_mem(struct interp *c, const struct insn *i)
{
    uint64_t off;
    uint16_t sel;

    BEGIN(c, i);
    off = load_far(c, i, far_osize(c, i), &sel);
    far_jmp(c, sel, off, far_osize(c, i));
}

void op_call_far_mem(struct interp *c, const struct insn *i)
{
    uint64_t off;
    uint16_t sel;

    BEGIN(c, i);
    off = load_far(c, i, far_osize(c, i), &sel);
    far_call(c, sel, off, far_osize(c, i));
}

void op_ret_far(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    far_ret(c, i->osize, (unsigned)i->imm & 0xffff);
}

void op_iret(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    far_iret(c, i->osize);
}
