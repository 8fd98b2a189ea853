/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What seg.c, far.c, task.c, event.c and sys.c share: descriptors, limit checks, and stacks that
 * are not (yet) SS:RSP. SDM vol. 3A chapters 3, 5, 6 and 7.
 */
#ifndef ENGINE_INTERP_SEG_H
#define ENGINE_INTERP_SEG_H

#include "cpu/model.h"
#include "engine/interp/interp.h"

/* Types of system descriptors (S = 0). */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15,
};

#define SEL_RPL 3u
#define SEL_TI  4u
/* A selector as it stands in an error code. */
#define SEL_ERROR(sel) ((uint32_t)(sel)&0xfffcu)

static inline bool sel_null(uint16_t sel)
{
    return !(sel & 0xfffc);
}

/* ---- descriptors ---------------------------------------------------------------------------- */

/* A descriptor, 8 bytes or, of system segments and gates in long mode, 16. */
struct desc {
    uint64_t lo, hi;
    gva_t at; /* linear address in its table */
};

static inline unsigned desc_attr(const struct desc *d)
{
    return (d->lo >> 40) & 0xf0ff;
}

static inline unsigned desc_type(const struct desc *d)
{
    return (d->lo >> 40) & 0xf;
}

static inline unsigned desc_dpl(const struct desc *d)
{
    return (d->lo >> 45) & 3;
}

static inline bool desc_is_system(const struct desc *d)
{
    return !(d->lo >> 44 & 1);
}

static inline bool desc_is_present(const struct desc *d)
{
    return d->lo >> 47 & 1;
}

static inline bool desc_is_code(const struct desc *d)
{
    return (d->lo >> 43 & 3) == 3;
}

static inline bool desc_is_conforming(const struct desc *d)
{
    return d->lo >> 42 & 1;
}

static inline bool desc_is_writable_data(const struct desc *d)
{
    return (d->lo >> 41 & 0xd) == 0x9;
}

/* Code that may not be read is the one kind of segment that may not. */
static inline bool desc_is_readable(const struct desc *d)
{
    return !desc_is_system(d) && (desc_type(d) & (SEG_TYPE_CODE | 2)) != SEG_TYPE_CODE;
}

static inline uint32_t desc_base(const struct desc *d)
{
    return (uint32_t)((d->lo >> 16 & 0xffffff) | (d->lo >> 56 & 0xff) << 24);
}

static inline uint32_t desc_limit(const struct desc *d)
{
    uint32_t limit = (uint32_t)((d->lo & 0xffff) | (d->lo >> 32 & 0xf0000));

    return d->lo >> 55 & 1 ? limit << 12 | 0xfff : limit;
}

static inline uint16_t gate_selector(const struct desc *d)
{
    return (uint16_t)(d->lo >> 16);
}

/* Reads the descriptor of `sel`; false: outside its table, or an LDT that is not there. */
bool desc_read(struct interp *c, uint16_t sel, struct desc *d);
/* The upper half of a 16-byte descriptor; false: it is outside the table. */
bool desc_read_high(struct interp *c, uint16_t sel, struct desc *d);
/* Sets or clears a bit of the type in the table (accessed, busy) with a host atomic. */
void desc_type_bit(struct interp *c, const struct desc *d, unsigned bit, bool set);
/* Marks a code or data segment accessed, in the table and in *d. */
void desc_accessed(struct interp *c, struct desc *d);
/* The hidden part of a code or data segment. */
struct cpu_seg desc_seg(const struct desc *d, uint16_t sel);

/* A selector of no segment, unusable. AMD keeps base (and limit), Intel clears it. */
void seg_set_null(struct interp *c, unsigned seg, uint16_t sel, unsigned dpl);
/* Loads a segment register as this mode does it: seg_load or seg_load_real. */
void seg_load_any(struct interp *c, unsigned seg, uint16_t sel);
/*
 * Checks of a selector for SS of privilege `cpl`, and its segment. Raises `vector` (#GP, or #TS
 * when it comes from a TSS), #SS where it is not present.
 */
struct cpu_seg seg_check_ss(struct interp *c, uint16_t sel, unsigned cpl, unsigned vector);
/* After a return to an outer level: DS, ES, FS, GS that it may not use become null. */
void seg_drop_inner(struct interp *c, unsigned cpl);

/* ---- addresses ---------------------------------------------------------------------------------
 */

static inline bool is_canonical(const struct interp *c, uint64_t addr)
{
    unsigned virt_bits = c->vcpu->model->virt_bits;
    unsigned unused = virt_bits > 32 ? 64 - virt_bits : 0; /* a 32-bit CPU takes any address */

    return (uint64_t)((int64_t)(addr << (unused & 63)) >> (unused & 63)) == addr;
}

static inline bool in_long_mode(const struct interp *c)
{
    return c->s.efer & EFER_LMA;
}

/* Real and virtual-8086 mode: a selector is a paragraph number. */
static inline bool in_paragraph_mode(const struct interp *c)
{
    return !(c->s.cr0 & CR0_PE) || (c->s.rflags & RFLAGS_VM);
}

/*
 * True if [off, off+size) is inside the segment. A segment that reaches 4 GiB has no end: accesses
 * wrap, as they do in the flat ones.
 */
static inline bool seg_in_limit(const struct cpu_seg *g, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;

    if ((g->attr & (SEG_ATTR_S | SEG_TYPE_CODE | SEG_TYPE_EXPAND)) ==
        (SEG_ATTR_S | SEG_TYPE_EXPAND))
        return off > g->limit && last <= (g->attr & SEG_ATTR_DB ? UINT32_MAX : 0xffff);
    return last <= g->limit || (g->limit == UINT32_MAX && off <= UINT32_MAX);
}

/* ---- stacks -----------------------------------------------------------------------------------
 */

/*
 * A stack in use before SS:RSP are committed to it. error: the error code of #SS where the limit is
 * violated (0 for the current stack, the selector for a new one).
 */
struct stack {
    struct cpu_seg ss;
    uint64_t sp, mask, key;
    uint64_t start; /* sp before the first use: the bits outside of the mask stay */
    uint32_t error;
    bool flat; /* 64-bit: no segment */
};

static inline uint64_t stack_mask(const struct cpu_seg *ss)
{
    return ss->attr & SEG_ATTR_DB ? UINT32_MAX : 0xffff;
}

/* The current one. */
struct stack stack_here(const struct interp *c);
void stack_push(struct interp *c, struct stack *st, unsigned size, uint64_t v);
uint64_t stack_pop(struct interp *c, struct stack *st, unsigned size);
/* `size` bytes at sp + off, which stay there. */
uint64_t stack_peek(struct interp *c, const struct stack *st, unsigned off, unsigned size);
/* RSP after use. */
uint64_t stack_rsp(const struct stack *st);
/* SS and RSP of privilege `cpl` out of the current TSS; in long mode SS is null. */
struct stack stack_inner(struct interp *c, unsigned cpl);

/* ---- flags and events -------------------------------------------------------------------------
 */

/*
 * RFLAGS have been replaced (`old`: before): a trap that TF had armed, interrupts that IF lets in
 * now. The block ends after it, and interp_mode_changed has been or will be called.
 */
void interp_flags_replaced(struct interp *c, uint64_t old);
/* STI, MOV SS, POP SS, not LSS: one instruction's time without interrupts. */
void interp_shadow(struct interp *c, uint8_t kind);
/* IRET: NMIs are no longer blocked. */
void interp_nmi_unblock(struct interp *c);
/* The back link of the current TSS: IRET with NT. */
void task_return(struct interp *c);
/* JMP, CALL or an interrupt by way of a task gate (already checked: type, DPL, present). */
void task_gate(struct interp *c, const struct desc *gate, enum task_cause cause, bool has_error,
               uint32_t error);

#endif
