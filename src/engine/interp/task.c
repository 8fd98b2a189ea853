/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardware task switches: JMP, CALL, interrupts and IRET to a TSS, of 16 and 32 bits (SDM vol. 3A
 * section 7.3). There are none in long mode.
 *
 * Everything that the old task can be blamed for is checked before the first change. Then the old
 * registers are stored, the new ones loaded, and what is wrong with the new segments is a fault of
 * the new task, raised at its EIP (interp_between).
 */
#include "base/bytes.h"
#include "cpu/paging.h"
#include "engine/interp/seg.h"

/* Order of the general and segment registers in both formats. */
#define TSS_SEGS 6 /* ES CS SS DS FS GS; the 16-bit format has the first four */

struct tss_layout {
    unsigned min_limit, word; /* word: 2 or 4 bytes */
    unsigned ip, flags, gpr, segs, nsegs, seg_step, ldt;
};

static const struct tss_layout layout16 = {.min_limit = 0x2b,
                                           .word = 2,
                                           .ip = 0x0e,
                                           .flags = 0x10,
                                           .gpr = 0x12,
                                           .segs = 0x22,
                                           .nsegs = 4,
                                           .seg_step = 2,
                                           .ldt = 0x2a};
static const struct tss_layout layout32 = {.min_limit = 0x67,
                                           .word = 4,
                                           .ip = 0x20,
                                           .flags = 0x24,
                                           .gpr = 0x28,
                                           .segs = 0x48,
                                           .nsegs = 6,
                                           .seg_step = 4,
                                           .ldt = 0x60};
#define TSS32_CR3  0x1c
#define TSS32_TRAP 0x64 /* bit 0: T */
#define TSS_MAX    0x68

#define DR6_BT    BIT(15)
#define DR7_LOCAL 0x155ull /* L0 to L3, LE */

static const struct tss_layout *layout_of(unsigned type)
{
    return type & 8 ? &layout32 : &layout16;
}

/* A task's registers on their way from its TSS. */
struct task {
    uint64_t cr3, ip, flags, gpr[8];
    uint16_t seg[TSS_SEGS], ldt;
    bool trap;
};

static struct task task_parse(const struct tss_layout *l, const uint8_t *tss)
{
    struct task t = {.ip = get_le(tss + l->ip, l->word), .flags = get_le(tss + l->flags, l->word)};

    for (unsigned k = 0; k < 8; k++)
        t.gpr[k] = get_le(tss + l->gpr + k * l->word, l->word);
    for (unsigned k = 0; k < l->nsegs; k++)
        t.seg[k] = get_le16(tss + l->segs + k * l->seg_step);
    t.ldt = get_le16(tss + l->ldt);
    if (l == &layout32) {
        t.cr3 = get_le32(tss + TSS32_CR3);
        t.trap = tss[TSS32_TRAP] & 1;
    }
    return t;
}

/* ---- out ----------------------------------------------------------------------------------------
 */

static void task_save(struct interp *c, const struct tss_layout *l, uint64_t flags)
{
    gva_t tss = (uint32_t)c->s.tr.base;
    uint8_t buf[TSS_MAX];
    unsigned first = l->ip, end = l->segs + l->nsegs * l->seg_step;

    /* The static fields between the registers must survive: read, change, write back as one run. */
    access_copy_in(c, buf, tss + first, end - first, c->key_sys);
    put_le(buf, interp_next_rip(c), l->word);
    put_le(buf + (l->flags - first), flags, l->word);
    for (unsigned k = 0; k < 8; k++)
        put_le(buf + (l->gpr - first) + k * l->word, c->s.gpr[k], l->word);
    for (unsigned k = 0; k < l->nsegs; k++)
        put_le16(buf + (l->segs - first) + k * l->seg_step, c->s.seg[k].selector);
    access_copy_out(c, tss + first, buf, end - first, c->key_sys);
}

/* ---- in: the new task's segments, its own faults
 * ------------------------------------------------- */

static void load_ldt(struct interp *c, uint16_t sel)
{
    struct desc d;

    c->s.ldtr = (struct cpu_seg){.selector = sel};
    if (sel_null(sel))
        return;
    if ((sel & SEL_TI) || !desc_read(c, sel, &d) || !desc_is_system(&d) ||
        desc_type(&d) != SYS_LDT || !desc_is_present(&d))
        interp_raise_err(c, VEC_TS, SEL_ERROR(sel));
    c->s.ldtr = desc_seg(&d, sel);
}

static void load_cs(struct interp *c, uint16_t sel)
{
    struct desc d;
    unsigned rpl = sel & SEL_RPL;

    if (sel_null(sel) || !desc_read(c, sel, &d) || !desc_is_code(&d) ||
        (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        interp_raise_err(c, VEC_TS, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    desc_accessed(c, &d);
    c->s.seg[SEG_CS] = desc_seg(&d, sel);
}

static void load_data(struct interp *c, unsigned seg, uint16_t sel, unsigned cpl)
{
    struct desc d;

    if (sel_null(sel))
        return;
    if (!desc_read(c, sel, &d) || !desc_is_readable(&d) ||
        (!(desc_is_code(&d) && desc_is_conforming(&d)) &&
         (desc_dpl(&d) < cpl || desc_dpl(&d) < (sel & SEL_RPL))))
        interp_raise_err(c, VEC_TS, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    desc_accessed(c, &d);
    c->s.seg[seg] = desc_seg(&d, sel);
}

static void load_segments(struct interp *c, const struct task *t)
{
    static const uint8_t data_segs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    unsigned cpl = t->seg[SEG_CS] & SEL_RPL;

    load_ldt(c, t->ldt);
    if (c->s.rflags & RFLAGS_VM) {
        for (unsigned k = 0; k < TSS_SEGS; k++)
            seg_load_real(c, k, t->seg[k]);
        return;
    }
    load_cs(c, t->seg[SEG_CS]);
    c->s.seg[SEG_SS] = seg_check_ss(c, t->seg[SEG_SS], cpl, VEC_TS);
    interp_mode_changed(c);
    for (unsigned k = 0; k < ARRAY_LEN(data_segs); k++)
        load_data(c, data_segs[k], t->seg[data_segs[k]], cpl);
    interp_mode_changed(c);
}

/* Selectors without segments: what the new task has until each is loaded. */
static void clear_segments(struct interp *c, const struct task *t)
{
    unsigned cpl = t->flags & RFLAGS_VM ? 3 : t->seg[SEG_CS] & SEL_RPL;

    for (unsigned k = 0; k < SEG_COUNT; k++)
        c->s.seg[k] = (struct cpu_seg){.selector = t->seg[k]};
    c->s.seg[SEG_SS].attr = (uint16_t)(cpl << SEG_ATTR_DPL_SHIFT);
    /* A handler may have to return here: its frame needs an EIP of the task's width. */
    c->s.seg[SEG_CS].attr = SEG_ATTR_DB;
}

/* ---- the switch
 * ------------------------------------------------------------------------------------ */

/* The TSS descriptor of `sel` and the checks of it: for IRET it is busy, otherwise available. */
static void find_tss(struct interp *c, uint16_t sel, enum task_cause cause, struct desc *d)
{
    unsigned vector = cause == TASK_IRET ? VEC_TS : VEC_GP;
    unsigned busy = cause == TASK_IRET ? 2 : 0;

    if ((sel & SEL_TI) || sel_null(sel) || !desc_read(c, sel, d) || !desc_is_system(d) ||
        (desc_type(d) & 7) != (SYS_TSS16 | busy))
        interp_raise_err(c, vector, SEL_ERROR(sel));
    if (!desc_is_present(d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    if (desc_limit(d) < layout_of(desc_type(d))->min_limit)
        interp_raise_err(c, VEC_TS, SEL_ERROR(sel));
}

/* CR3 of a 32-bit TSS; the checks come first. */
static bool new_cr3(struct interp *c, const struct tss_layout *l, const struct task *t,
                    uint64_t pdpte[4])
{
    if (l != &layout32 || !(c->s.cr0 & CR0_PG))
        return false;
    if ((c->s.cr4 & CR4_PAE) &&
        !paging_load_pdptes(c->vcpu, c->vcpu->model, (uint32_t)t->cr3, pdpte))
        interp_raise_err(c, VEC_GP, 0);
    return true;
}

/* The registers of `t` become the CPU's; the segments have no hidden parts yet. */
static void task_enter(struct interp *c, const struct tss_layout *l, const struct task *t,
                       bool nest)
{
    uint64_t flags = (t->flags & (0xffff | RFLAGS_RF | RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF |
                                  RFLAGS_VIP | RFLAGS_ID)) &
                     ~(uint64_t)(BIT(3) | BIT(5) | BIT(15));

    for (unsigned k = 0; k < 8; k++)
        c->s.gpr[k] = t->gpr[k];
    flags_set(c, nest ? flags | RFLAGS_NT : flags);
    clear_segments(c, t);
    c->s.rip = t->ip;
    c->s.cr0 |= CR0_TS;
    c->s.dr7 &= ~DR7_LOCAL;
    c->s.shadow = 0;
    if (l == &layout32 && t->trap)
        c->s.pending_dbg |= DR6_BT;
    c->armed = 0;
    interp_mode_changed(c);
    interp_between(c);
}

static void push_error(struct interp *c, const struct tss_layout *l, uint32_t error)
{
    struct stack st = stack_here(c);

    stack_push(c, &st, l->word, error);
    c->s.gpr[REG_RSP] = stack_rsp(&st);
}

void task_switch(struct interp *c, uint16_t selector, enum task_cause cause, bool has_error,
                 uint32_t error)
{
    const struct tss_layout *from = layout_of(c->s.tr.attr & SEG_ATTR_TYPE), *to;
    bool nest = cause == TASK_CALL || cause == TASK_INT;
    uint64_t old_flags = flags_get(c), pdpte[4];
    uint8_t buf[TSS_MAX];
    struct desc d, old;
    bool load_cr3, old_found;
    struct task t;
    gva_t tss;

    find_tss(c, selector, cause, &d);
    to = layout_of(desc_type(&d));
    tss = desc_base(&d);
    if (c->s.tr.limit < from->min_limit)
        interp_raise_err(c, VEC_TS, SEL_ERROR(c->s.tr.selector));
    access_probe(c, (uint32_t)c->s.tr.base, from->min_limit + 1, ACCESS_WRITE, c->key_sys);
    access_probe(c, tss, 2, nest ? ACCESS_WRITE : ACCESS_READ, c->key_sys);
    access_copy_in(c, buf, tss, to->min_limit + 1, c->key_sys);
    t = task_parse(to, buf);
    load_cr3 = new_cr3(c, to, &t, pdpte);
    old_found = desc_read(c, c->s.tr.selector, &old);

    if (cause == TASK_IRET)
        old_flags &= ~RFLAGS_NT;
    if (cause != TASK_INT)
        old_flags &= ~RFLAGS_RF;
    task_save(c, from, old_flags);
    if (!nest && old_found)
        desc_type_bit(c, &old, 2, false);
    if (cause != TASK_IRET)
        desc_type_bit(c, &d, 2, true);
    if (nest)
        access_store(c, tss, 2, c->s.tr.selector, c->key_sys);
    /* A switch to itself sees what it has just saved. */
    if (tss == (uint32_t)c->s.tr.base) {
        access_copy_in(c, buf, tss, to->min_limit + 1, c->key_sys);
        t = task_parse(to, buf);
    }

    c->s.tr = desc_seg(&d, selector);
    c->s.tr.attr |= 2;
    if (load_cr3) {
        if (c->s.cr4 & CR4_PAE)
            for (unsigned k = 0; k < 4; k++)
                c->s.pdpte[k] = pdpte[k];
        tlb_switch(c, (uint32_t)t.cr3, false);
    }
    task_enter(c, to, &t, nest);

    load_segments(c, &t);
    if (has_error)
        push_error(c, to, error);
    if (c->s.rip > c->s.seg[SEG_CS].limit)
        interp_raise_err(c, VEC_GP, 0);
    interp_flags_replaced(c, 0);
}

void task_return(struct interp *c)
{
    uint16_t link;

    if (c->s.tr.limit < 1)
        interp_raise_err(c, VEC_TS, SEL_ERROR(c->s.tr.selector));
    link = (uint16_t)access_load(c, (uint32_t)c->s.tr.base, 2, c->key_sys);
    task_switch(c, link, TASK_IRET, false, 0);
}

void task_gate(struct interp *c, const struct desc *gate, enum task_cause cause, bool has_error,
               uint32_t error)
{
    task_switch(c, gate_selector(gate), cause, has_error, error);
}
