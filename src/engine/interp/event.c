/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: exceptions, software interrupts, external interrupts, NMI, INIT and SIPI; their delivery
 * in every mode; and what happens between instructions (interp_boundary). SDM vol. 3A chapters 6,
 * 17 and 20.
 *
 * The kick contract. PEND_INTR means "ask the interrupt controller". It is taken off before the
 * question, so that a request that comes later posts it again. Where the answer could not be used
 * because IF is 0, nobody asks: intr_masked remembers that the bit has been taken off, and whatever
 * sets IF (STI, POPF, IRET, SYSRET, a task switch: interp_flags_replaced) posts it again. In the
 * shadow of STI and MOV SS the bit stays, and the run loop goes on with one instruction. So
 * PEND_INTR set means that there is something to do, and a halted CPU with IF = 0 sleeps with
 * nothing pending.
 *
 * TF, RF and the shadow belong to the instruction that begins with them set. The boundary before it
 * notes them in c->armed, with the instruction count; the boundary after it, if the count has
 * moved, makes the trap of TF and takes RF and the shadow off. An instruction that makes a shadow,
 * and a delivered event, disarm.
 */
#include <setjmp.h>

#include "base/bytes.h"
#include "engine/interp/seg.h"

#define DR6_TRAPS 0xfull
#define DR6_BD    BIT(13)
#define DR6_BS    BIT(14)
#define DR6_FIXED 0xffff0ff0ull /* reserved bits that read as ones */
#define DR7_GD    BIT(13)

/* interp.event_kind */
enum event_kind { KIND_EXCEPTION, KIND_SOFT, KIND_HARD };

/* Benign exceptions can follow each other without end (#AC on the handler's stack): not here. */
#define MAX_NESTED 4

static const char *const vector_names[] = {
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#09", "#TS",
    "#NP", "#SS", "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
};

static const char *vector_name(unsigned vector)
{
    return vector < ARRAY_LEN(vector_names) ? vector_names[vector] : "exception";
}

static void trace_cpu(struct interp *c, enum trace_kind kind, const char *name, unsigned vector)
{
    struct trace *trace = &c->vm->trace;

    if (trace_on(trace))
        trace_emit(trace, (struct trace_rec){.rip = c->s.rip,
                                             .addr = c->s.event_error,
                                             .value = vector,
                                             .extra = c->s.cr2,
                                             .device = "cpu",
                                             .name = name,
                                             .kind = (uint8_t)kind,
                                             .vcpu = (int8_t)c->vcpu->index});
}

/* ---- raising ------------------------------------------------------------------------------------
 */

static _Noreturn void raise_it(struct interp *c, unsigned vector, bool has_error, uint32_t error,
                               uint64_t payload)
{
    /* EXT: the fault is about an event that the program did not ask for. */
    if (c->exc_ext && vector >= VEC_TS && vector <= VEC_GP)
        error |= 1;
    c->exc_vector = (uint8_t)vector;
    c->exc_has_error = has_error;
    c->exc_soft = 0;
    c->exc_error = error;
    c->exc_payload = payload;
    c->stack_addr = 0; /* it was of this access */
    siglongjmp(*c->raise_to, 1);
}

void interp_raise(struct interp *c, unsigned vector)
{
    raise_it(c, vector, false, 0, 0);
}

void interp_raise_err(struct interp *c, unsigned vector, uint32_t error)
{
    raise_it(c, vector, true, error, 0);
}

void interp_raise_pf(struct interp *c, gva_t addr, uint32_t error)
{
    raise_it(c, VEC_PF, true, error, addr);
}

void interp_raise_db(struct interp *c, uint64_t dr6_bits)
{
    raise_it(c, VEC_DB, false, 0, dr6_bits);
}

void interp_between(struct interp *c)
{
    static const struct insn none;

    c->cur = &none;
    c->block_rip = c->s.rip;
}

/* ---- flags and pending bits -------------------------------------------------------------------
 */

static void post_to_self(struct interp *c, uint32_t bits)
{
    atomic_fetch_or(&c->vcpu->pending, bits);
}

static void take_off(struct interp *c, uint32_t bits)
{
    atomic_fetch_and(&c->vcpu->pending, ~bits);
}

void interp_flags_replaced(struct interp *c, uint64_t old)
{
    if (c->intr_masked && (c->s.rflags & ~old & RFLAGS_IF)) {
        c->intr_masked = 0;
        post_to_self(c, PEND_INTR);
    }
}

void interp_shadow(struct interp *c, uint8_t kind)
{
    c->s.shadow = kind;
    c->armed &= (uint8_t)~INTERP_ARMED_SHADOW;
}

void interp_events_loaded(struct interp *c)
{
    c->armed = 0;
    c->intr_masked = 0;
    post_to_self(c, PEND_INTR);
}

void interp_nmi_unblock(struct interp *c)
{
    c->s.nmi_blocked = 0;
    if (c->s.nmi_pending)
        post_to_self(c, PEND_NMI);
}

/* ---- delivery: real mode
 * -------------------------------------------------------------------------- */

/* Error code of a bad IDT entry. */
static uint32_t idt_error(unsigned vector)
{
    return vector * 8 + 2;
}

/* FLAGS, CS and IP on the stack, and through the 4-byte vector at `at`. */
static void deliver_vector(struct interp *c, gva_t at, uint64_t key, uint64_t image, uint64_t clear)
{
    struct stack st = stack_here(c);
    uint32_t entry = (uint32_t)access_load(c, at, 4, key);

    if ((entry & 0xffff) > c->s.seg[SEG_CS].limit)
        interp_raise_err(c, VEC_GP, 0);
    stack_push(c, &st, 2, image);
    stack_push(c, &st, 2, c->s.seg[SEG_CS].selector);
    stack_push(c, &st, 2, interp_next_rip(c));
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    c->s.rip = entry & 0xffff;
    c->s.rflags &= ~clear;
    seg_load_real(c, SEG_CS, (uint16_t)(entry >> 16));
}

static void deliver_real(struct interp *c, unsigned vector)
{
    if (vector * 4 + 3 > c->s.idtr.limit)
        interp_raise_err(c, VEC_GP, idt_error(vector));
    deliver_vector(c, (uint32_t)(c->s.idtr.base + vector * 4), c->key_sys, flags_get(c),
                   RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
}

/* ---- delivery: protected mode
 * ----------------------------------------------------------------------- */

struct handler {
    struct cpu_seg cs;
    uint64_t rip;
    unsigned cpl;
    unsigned size; /* of what is pushed */
    bool is_trap;  /* IF stays */
};

/* The code segment of a gate, with the checks of it. */
static void handler_code(struct interp *c, uint16_t sel, struct handler *h)
{
    struct desc d;

    if (sel_null(sel))
        interp_raise_err(c, VEC_GP, 0);
    if (!desc_read(c, sel, &d) || !desc_is_code(&d) || desc_dpl(&d) > c->cpl)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (in_long_mode(c) && (desc_attr(&d) & (SEG_ATTR_L | SEG_ATTR_DB)) != SEG_ATTR_L)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    h->cpl = desc_is_conforming(&d) ? c->cpl : desc_dpl(&d);
    /* Virtual-8086 mode is left for level 0 only. */
    if ((c->s.rflags & RFLAGS_VM) && h->cpl != 0)
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(&d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    desc_accessed(c, &d);
    h->cs = desc_seg(&d, (uint16_t)((sel & ~SEL_RPL) | h->cpl));
}

static void push_frame(struct interp *c, struct stack *st, unsigned size, bool has_error,
                       uint32_t error)
{
    stack_push(c, st, size, flags_get(c));
    stack_push(c, st, size, c->s.seg[SEG_CS].selector);
    stack_push(c, st, size, interp_next_rip(c));
    if (has_error)
        stack_push(c, st, size, error);
}

static void enter_handler(struct interp *c, const struct handler *h, const struct stack *st,
                          bool new_stack)
{
    c->s.gpr[REG_RSP] = stack_rsp(st);
    if (new_stack)
        c->s.seg[SEG_SS] = st->ss;
    c->s.seg[SEG_CS] = h->cs;
    c->s.rip = h->rip;
    c->s.rflags &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_VM | RFLAGS_RF);
    if (!h->is_trap)
        c->s.rflags &= ~RFLAGS_IF;
    interp_mode_changed(c);
}

/* Checks that all gates share; `system`: the types that may stand in this IDT, by bit. */
static void check_idt_gate(struct interp *c, const struct desc *gate, unsigned vector,
                           bool check_dpl, uint64_t types)
{
    if (!desc_is_system(gate) || !(types >> desc_type(gate) & 1) ||
        (check_dpl && desc_dpl(gate) < c->cpl))
        interp_raise_err(c, VEC_GP, idt_error(vector));
    if (!desc_is_present(gate))
        interp_raise_err(c, VEC_NP, idt_error(vector));
}

static void deliver_protected(struct interp *c, unsigned vector, bool check_dpl, bool has_error,
                              uint32_t error)
{
    static const uint8_t v86_segs[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    bool v86 = c->s.rflags & RFLAGS_VM, inner;
    struct stack st = stack_here(c);
    struct handler h;
    struct desc gate = {0};

    if (vector * 8 + 7 > c->s.idtr.limit)
        interp_raise_err(c, VEC_GP, idt_error(vector));
    gate.lo = access_load(c, (uint32_t)(c->s.idtr.base + vector * 8), 8, c->key_sys);
    check_idt_gate(c, &gate, vector, check_dpl,
                   BIT(SYS_TASK_GATE) | BIT(SYS_INT16) | BIT(SYS_TRAP16) | BIT(SYS_INT32) |
                       BIT(SYS_TRAP32));
    if (desc_type(&gate) == SYS_TASK_GATE) {
        task_gate(c, &gate, TASK_INT, has_error, error);
        return;
    }
    h.size = desc_type(&gate) & 8 ? 4 : 2;
    h.is_trap = desc_type(&gate) & 1;
    h.rip = (gate.lo & 0xffff) | (h.size == 4 ? gate.lo >> 32 & 0xffff0000 : 0);
    handler_code(c, gate_selector(&gate), &h);

    inner = h.cpl != c->cpl;
    if (inner)
        st = stack_inner(c, h.cpl);
    if (h.rip > h.cs.limit)
        interp_raise_err(c, VEC_GP, 0);
    if (inner) {
        if (v86)
            for (unsigned k = 0; k < ARRAY_LEN(v86_segs); k++)
                stack_push(c, &st, h.size, c->s.seg[v86_segs[k]].selector);
        stack_push(c, &st, h.size, c->s.seg[SEG_SS].selector);
        stack_push(c, &st, h.size, c->s.gpr[REG_RSP]);
    }
    push_frame(c, &st, h.size, has_error, error);
    if (v86)
        for (unsigned k = 0; k < ARRAY_LEN(v86_segs); k++)
            seg_set_null(c, v86_segs[k], 0, 0);
    enter_handler(c, &h, &st, inner);
}

/* RSP of interrupt stack n, 1 to 7. */
static uint64_t ist_stack(struct interp *c, unsigned n)
{
    unsigned at = 28 + n * 8;

    if (at + 7 > c->s.tr.limit)
        interp_raise_err(c, VEC_TS, SEL_ERROR(c->s.tr.selector));
    return access_load(c, c->s.tr.base + at, 8, c->key_sys);
}

static void deliver_long(struct interp *c, unsigned vector, bool check_dpl, bool has_error,
                         uint32_t error)
{
    struct stack st = stack_here(c);
    struct handler h = {.size = 8};
    struct desc gate = {0};
    gva_t at = c->s.idtr.base + vector * 16;
    unsigned ist;
    bool inner;

    if (vector * 16 + 15 > c->s.idtr.limit)
        interp_raise_err(c, VEC_GP, idt_error(vector));
    gate.lo = access_load(c, at, 8, c->key_sys);
    gate.hi = access_load(c, at + 8, 8, c->key_sys);
    check_idt_gate(c, &gate, vector, check_dpl, BIT(SYS_INT32) | BIT(SYS_TRAP32));
    h.is_trap = desc_type(&gate) & 1;
    h.rip = (gate.lo & 0xffff) | (gate.lo >> 32 & 0xffff0000) | gate.hi << 32;
    ist = gate.lo >> 32 & 7;
    handler_code(c, gate_selector(&gate), &h);

    inner = h.cpl != c->cpl;
    if (inner && !ist) {
        st = stack_inner(c, h.cpl);
    } else {
        if (ist)
            st.sp = ist_stack(c, ist);
        st.key = inner ? c->key_sys : c->key;
        st.ss = inner ? (struct cpu_seg){.selector = (uint16_t)h.cpl,
                                         .attr = (uint16_t)(h.cpl << SEG_ATTR_DPL_SHIFT)}
                      : c->s.seg[SEG_SS];
        st.mask = UINT64_MAX;
        st.flat = true;
    }
    if (!is_canonical(c, h.rip))
        interp_raise_err(c, VEC_GP, 0);
    st.sp &= ~15ull;
    stack_push(c, &st, 8, c->s.seg[SEG_SS].selector);
    stack_push(c, &st, 8, c->s.gpr[REG_RSP]);
    push_frame(c, &st, 8, has_error, error);
    enter_handler(c, &h, &st, inner);
}

static void deliver(struct interp *c, unsigned vector, bool check_dpl, bool has_error,
                    uint32_t error)
{
    if (!(c->s.cr0 & CR0_PE))
        deliver_real(c, vector);
    else if (in_long_mode(c))
        deliver_long(c, vector, check_dpl, has_error, error);
    else
        deliver_protected(c, vector, check_dpl, has_error, error);
    c->s.shadow = 0;
    c->armed = 0;
}

/* ---- exceptions that meet
 * ------------------------------------------------------------------------- */

static bool is_contributory(unsigned vector)
{
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP) || vector == VEC_CP;
}

static bool is_page_fault(unsigned vector)
{
    return vector == VEC_PF || vector == VEC_VE;
}

enum meeting { MEET_SECOND, MEET_DOUBLE, MEET_SHUTDOWN };

/* SDM vol. 3A table 6-5. */
static enum meeting meet(const struct interp *c, unsigned second)
{
    unsigned first = c->s.event_vector;
    bool serious = is_contributory(second) || is_page_fault(second);

    if (c->event_kind != KIND_EXCEPTION)
        return MEET_SECOND;
    if (first == VEC_DF && serious)
        return MEET_SHUTDOWN;
    if (is_page_fault(first) && serious)
        return MEET_DOUBLE;
    if (is_contributory(first) && is_contributory(second))
        return MEET_DOUBLE;
    return MEET_SECOND;
}

static void remember(struct interp *c)
{
    unsigned n = c->last_exc_n++ % ARRAY_LEN(c->last_exc);

    c->last_exc[n].rip = c->s.rip;
    c->last_exc[n].cr2 = c->s.cr2;
    c->last_exc[n].icount = c->s.icount;
    c->last_exc[n].error = c->s.event_error;
    c->last_exc[n].vector = c->s.event_vector;
    c->last_exc[n].has_error = c->s.event_has_error;
}

static void set_event(struct interp *c, enum event_kind kind, unsigned vector, bool has_error,
                      uint32_t error)
{
    c->event_kind = kind;
    c->s.event_pending = 1;
    c->s.event_soft = kind == KIND_SOFT;
    c->s.event_vector = (uint8_t)vector;
    c->s.event_has_error = has_error;
    c->s.event_error = has_error ? error : 0;
}

/* An exception becomes the event: CR2, DR6 and RF change now, whatever becomes of its delivery. */
static void set_exception(struct interp *c, unsigned vector, bool has_error, uint32_t error,
                          uint64_t payload)
{
    set_event(c, KIND_EXCEPTION, vector, has_error, error);
    if (vector == VEC_PF)
        c->s.cr2 = payload;
    if (vector == VEC_DB) {
        c->s.dr6 = (c->s.dr6 & ~DR6_TRAPS) | payload | DR6_FIXED;
        c->s.dr7 &= ~DR7_GD;
    }
    /* Pushed as 1 for every fault, instruction breakpoints excepted (vol. 3B section 18.3.1.1). */
    if (vector != VEC_DB || (payload & DR6_BD))
        c->s.rflags |= RFLAGS_RF;
    remember(c);
    trace_cpu(c, TRACE_EXCEPTION, vector_name(vector), vector);
}

static void shut_down(struct interp *c)
{
    c->s.activity = CPU_SHUTDOWN;
    c->stop = VCPU_STOP_SHUTDOWN + 1;
    trace_cpu(c, TRACE_CPU, "shutdown", c->exc_vector);
}

/* What was raised while the event was delivered takes its place, or the CPU shuts down. */
static void next_event(struct interp *c, unsigned nested)
{
    enum meeting m = meet(c, c->exc_vector);

    if (m == MEET_SHUTDOWN || nested > MAX_NESTED) {
        shut_down(c);
    } else if (m == MEET_DOUBLE) {
        if (c->exc_vector == VEC_PF)
            c->s.cr2 = c->exc_payload;
        set_exception(c, VEC_DF, true, 0, 0);
    } else {
        set_exception(c, c->exc_vector, c->exc_has_error, c->exc_error, c->exc_payload);
    }
}

/* Delivers the event in s.event_* at s.rip, and what comes of it. */
static void deliver_event(struct interp *c)
{
    sigjmp_buf here, *outer = c->raise_to;
    volatile unsigned nested = 0;

    c->raise_to = &here;
    c->exc_ext = 1;
    interp_between(c);
    if (sigsetjmp(here, 0)) {
        nested = nested + 1;
        next_event(c, nested);
    }
    if (c->s.activity != CPU_SHUTDOWN)
        deliver(c, c->s.event_vector, false, c->s.event_has_error, c->s.event_error);
    c->s.event_pending = 0;
    c->exc_ext = 0;
    c->raise_to = outer;
}

void interp_deliver_raised(struct interp *c)
{
    c->s.activity = CPU_RUNNING;
    set_exception(c, c->exc_vector, c->exc_has_error, c->exc_error, c->exc_payload);
    deliver_event(c);
}

void interp_hw_int(struct interp *c, unsigned vector, bool nmi)
{
    c->s.activity = CPU_RUNNING;
    if (nmi)
        c->s.nmi_blocked = 1;
    set_event(c, KIND_HARD, vector, false, 0);
    trace_cpu(c, TRACE_INTR, nmi ? "nmi" : "intr", vector);
    deliver_event(c);
}

/* ---- software interrupts
 * -------------------------------------------------------------------------- */

/* INT n in V86 mode with VME: true if the bitmap in the TSS sends it to the program's own vector.
 */
static bool vme_redirected(struct interp *c, unsigned vector)
{
    const struct cpu_seg *tr = &c->s.tr;
    unsigned at;

    if ((tr->attr & SEG_ATTR_TYPE) != SYS_TSS32_BUSY || tr->limit < 0x67)
        interp_raise_err(c, VEC_GP, 0);
    /* The 32 bytes right below the I/O permission map. */
    at = (unsigned)access_load(c, (uint32_t)(tr->base + 0x66), 2, c->key_sys);
    if (at < 32 || at - 32 + vector / 8 > tr->limit)
        interp_raise_err(c, VEC_GP, 0);
    at = at - 32 + vector / 8;
    return !(access_load(c, (uint32_t)(tr->base + at), 1, c->key_sys) >> (vector & 7) & 1);
}

/* Through the 8086 program's vector at linear address 0 (SDM vol. 3B section 21.3, methods 5 and
 * 6). */
static void deliver_redirected(struct interp *c, unsigned vector)
{
    uint64_t image = flags_get(c), clear = RFLAGS_TF | RFLAGS_RF | RFLAGS_IF;

    if ((c->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL) {
        image = (image & ~RFLAGS_IF) | RFLAGS_IOPL | (image & RFLAGS_VIF ? RFLAGS_IF : 0);
        clear = RFLAGS_TF | RFLAGS_RF | RFLAGS_VIF;
    }
    deliver_vector(c, vector * 4, c->key, image, clear);
    c->s.shadow = 0;
    c->armed = 0;
}

void interp_soft_int(struct interp *c, unsigned vector, bool is_int_n)
{
    /* INT1 is the hardware's own way to #DB: no DPL check, and faults count as external. */
    bool is_int1 = vector == VEC_DB && !is_int_n;

    vector &= 0xff;
    c->s.event_error = 0;
    c->s.rflags &= ~RFLAGS_RF; /* it was for this instruction */
    trace_cpu(c, is_int_n ? TRACE_INTR : TRACE_EXCEPTION, is_int_n ? "int" : vector_name(vector),
              vector);
    if (is_int_n && (c->s.rflags & RFLAGS_VM)) {
        if ((c->s.cr4 & CR4_VME) && vme_redirected(c, vector)) {
            deliver_redirected(c, vector);
            return;
        }
        if ((c->s.rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
            interp_raise_err(c, VEC_GP, 0);
    }
    c->exc_ext = is_int1;
    deliver(c, vector, !is_int1, false, 0);
    c->exc_ext = 0;
}

/* ---- between instructions
 * ------------------------------------------------------------------------- */

/* The instruction that TF, RF or the shadow was set for is over. */
static void disarm(struct interp *c)
{
    if (!c->armed || c->s.icount == c->armed_icount)
        return;
    if (c->armed & INTERP_ARMED_SHADOW)
        c->s.shadow = 0;
    if ((c->armed & INTERP_ARMED_TF) && !(c->s.shadow & CPU_SHADOW_MOV_SS))
        c->s.pending_dbg |= DR6_BS;
    if (c->armed & INTERP_ARMED_RF)
        c->s.rflags &= ~RFLAGS_RF;
    c->armed = 0;
}

static void arm(struct interp *c)
{
    c->armed = (uint8_t)((c->s.rflags & RFLAGS_TF ? INTERP_ARMED_TF : 0) |
                         (c->s.rflags & RFLAGS_RF ? INTERP_ARMED_RF : 0) |
                         (c->s.shadow ? INTERP_ARMED_SHADOW : 0));
    c->armed_icount = c->s.icount;
}

static void take_init(struct interp *c)
{
    struct vcpu *vcpu = c->vcpu;

    trace_cpu(c, TRACE_CPU, "init", 0);
    take_off(c, PEND_NMI); /* latched before: it ends with the rest */
    cpu_state_init(&c->s, vcpu->index == 0, vcpu->model->signature);
    c->aflags = rflags_to_aflags(c->s.rflags);
    c->armed = 0;
    c->intr_masked = 1;
    if (vcpu->intc_ops && vcpu->intc_ops->init_reset)
        vcpu->intc_ops->init_reset(vcpu->intc);
    tlb_flush(c, true);
    interp_mode_changed(c);
}

/* SDM vol. 3A section 9.4.4: the vector is the number of a page in the first megabyte. */
static void take_sipi(struct interp *c)
{
    uint8_t vector = atomic_load(&c->vcpu->sipi_vector);

    if (c->s.activity != CPU_WAIT_FOR_SIPI)
        return;
    c->s.sipi_vector = vector;
    c->s.activity = CPU_RUNNING;
    c->s.seg[SEG_CS].selector = (uint16_t)(vector << 8);
    c->s.seg[SEG_CS].base = (uint32_t)vector << 12;
    c->s.rip = 0;
    trace_cpu(c, TRACE_CPU, "sipi", vector);
    interp_mode_changed(c);
}

/* What other threads want from the engine. Returns the bits that are left. */
static uint32_t serve_requests(struct interp *c)
{
    struct vcpu *vcpu = c->vcpu;
    uint32_t pend = atomic_load(&vcpu->pending);

    while (pend & (PEND_EXCLUSIVE | PEND_TLB)) {
        if (pend & PEND_TLB)
            tlb_remote_drop(c);
        if (pend & PEND_EXCLUSIVE)
            vcpu_exclusive_park(vcpu);
        pend = atomic_load(&vcpu->pending);
    }
    return pend;
}

static void take_db(struct interp *c, uint64_t bits)
{
    c->s.activity = CPU_RUNNING;
    set_exception(c, VEC_DB, false, 0, bits);
    deliver_event(c);
}

/* The DR6 bits of the instruction breakpoints at s.rip. */
static uint64_t code_breakpoints(const struct interp *c)
{
    uint64_t at = c->code64 ? c->s.rip : (uint32_t)(c->s.seg[SEG_CS].base + c->s.rip);
    uint64_t hit = 0;

    if (likely(!(c->s.dr7 & 0xff)) || (c->s.rflags & RFLAGS_RF))
        return 0;
    for (unsigned n = 0; n < 4; n++)
        if ((c->s.dr7 >> (n * 2) & 3) && !(c->s.dr7 >> (16 + n * 4) & 3) && c->s.dr[n] == at)
            hit |= BIT(n);
    return hit;
}

/* An external interrupt if one is there and may come. */
static bool take_intr(struct interp *c)
{
    struct vcpu *vcpu = c->vcpu;
    int vector;

    if (!(c->s.rflags & RFLAGS_IF)) {
        take_off(c, PEND_INTR);
        c->intr_masked = 1;
        return false;
    }
    if (c->s.shadow)
        return false;
    take_off(c, PEND_INTR);
    if (!vcpu->intc_ops || !vcpu->intc_ops->has_intr(vcpu->intc))
        return false;
    vector = vcpu->intc_ops->ack(vcpu->intc);
    if (vector < 0)
        return false;
    post_to_self(c, PEND_INTR); /* there may be another one */
    interp_hw_int(c, (unsigned)vector & 0xff, false);
    return true;
}

/* One event in the order of SDM vol. 3A table 6-2. False: there is none. */
static bool take_event(struct interp *c, uint32_t pend)
{
    bool mov_ss = c->s.shadow & CPU_SHADOW_MOV_SS;

    if (c->s.event_pending) {
        /* Loaded with the state: its delivery was interrupted elsewhere. */
        c->event_kind = c->s.event_soft                                           ? KIND_SOFT
                        : c->s.event_vector >= 32 || c->s.event_vector == VEC_NMI ? KIND_HARD
                                                                                  : KIND_EXCEPTION;
        c->s.activity = CPU_RUNNING;
        if (c->event_kind == KIND_EXCEPTION && c->s.event_vector == VEC_PF)
            c->s.cr2 = c->s.event_cr2;
        deliver_event(c);
        return true;
    }
    if (c->s.pending_dbg && !mov_ss) {
        uint64_t bits = c->s.pending_dbg;

        c->s.pending_dbg = 0;
        take_db(c, bits);
        return true;
    }
    if (pend & PEND_NMI) {
        c->s.nmi_pending = 1;
        take_off(c, PEND_NMI);
    }
    if (c->s.nmi_pending && !c->s.nmi_blocked) {
        if (!mov_ss) {
            c->s.nmi_pending = 0;
            interp_hw_int(c, VEC_NMI, true);
            return true;
        }
        post_to_self(c, PEND_NMI);
    }
    if ((pend & PEND_INTR) && take_intr(c))
        return true;
    if (c->s.activity == CPU_RUNNING && !mov_ss) {
        uint64_t hit = code_breakpoints(c);

        if (hit) {
            take_db(c, hit);
            return true;
        }
    }
    return false;
}

static bool leave(struct interp *c, enum vcpu_stop why)
{
    c->stop = (uint8_t)(why + 1);
    return true;
}

bool interp_boundary(struct interp *c)
{
    disarm(c);
    if (c->s.activity != CPU_RUNNING)
        c->s.shadow = 0;
    for (;;) {
        uint32_t pend = serve_requests(c);

        if (pend & PEND_EXIT)
            return leave(c, VCPU_STOP_KICK);
        if (pend & (PEND_INIT | PEND_SMI)) {
            take_off(c, pend & (PEND_INIT | PEND_SMI)); /* there is no SMM to enter */
            if (pend & PEND_INIT)
                take_init(c);
            continue;
        }
        if (pend & PEND_SIPI) {
            take_off(c, PEND_SIPI);
            take_sipi(c);
            continue;
        }
        if (c->s.activity == CPU_SHUTDOWN)
            return leave(c, VCPU_STOP_SHUTDOWN);
        if (c->s.activity == CPU_WAIT_FOR_SIPI) {
            /* NMIs and interrupts are blocked, not lost (SDM vol. 3C 27.7.2): one NMI is held. */
            if (pend & PEND_NMI)
                c->s.nmi_pending = 1;
            take_off(c, PEND_NMI | PEND_INTR);
            c->intr_masked = 1;
            return leave(c, VCPU_STOP_HALT);
        }
        if (!take_event(c, pend))
            break;
    }
    if (c->s.activity == CPU_HALTED)
        return leave(c, VCPU_STOP_HALT);
    arm(c);
    return false;
}
