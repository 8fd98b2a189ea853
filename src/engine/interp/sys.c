/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System instructions: control and debug registers, descriptor-table registers, MSRs, flags,
 * SYSCALL and its kin, interrupts asked for by software, TLB and identification. SDM vol. 2; where
 * Intel and AMD differ (APM vol. 3), the model's vendor decides.
 *
 * CPUID features are the decoder's business (insns.def), as far as the whole instruction depends on
 * one.
 */
#include "engine/interp/sys.h"

#include <sys/random.h>

#include "base/bytes.h"
#include "cpu/msr.h"
#include "cpu/paging.h"
#include "engine/interp/seg.h"

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
#define DR6_BD       BIT(13)
#define DR6_BS       BIT(14)
#define DR6_WRITABLE 0xe00full
#define DR6_FIXED    0xffff0ff0ull
#define DR7_GD       BIT(13)
#define DR7_WRITABLE 0xffff23ffull
#define DR7_FIXED    0x400ull

#define MSR_APIC_BASE    0x1b
#define APIC_BASE_ENABLE BIT(11)

#define INVPCID_MAX 3

#define ATTR_FLAT (SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | SEG_TYPE_ACCESSED)

static bool is_amd(const struct interp *c)
{
    return c->vcpu->model->vendor == CPU_AMD;
}

static void require_cpl0(struct interp *c)
{
    if (c->cpl)
        interp_raise_err(c, VEC_GP, 0);
}

static void require_protected(struct interp *c)
{
    if (in_paragraph_mode(c))
        interp_raise(c, VEC_UD);
}

/* SGDT, SIDT, SLDT, STR, SMSW. */
static void check_umip(struct interp *c)
{
    if ((c->s.cr4 & CR4_UMIP) && c->cpl)
        interp_raise_err(c, VEC_GP, 0);
}

/* The block ends: what it depends on may have changed. */
static void end(struct interp *c)
{
    c->s.rip = interp_next_rip(c);
    interp_mode_changed(c);
}

static uint16_t load_rm16(struct interp *c, const struct insn *i)
{
    if (i->flags & INSN_MEM)
        return (uint16_t)access_load(c, insn_lin(c, i, 2, ACCESS_READ), 2, c->key);
    return (uint16_t)c->s.gpr[i->rm & 15];
}

/* SLDT, STR, SMSW: 16 bits to memory, else the operand size. */
static void store_rm(struct interp *c, const struct insn *i, uint64_t v)
{
    if (i->flags & INSN_MEM)
        access_store(c, insn_lin(c, i, 2, ACCESS_WRITE), 2, v & 0xffff, c->key);
    else
        reg_set(c, i->rm & 15, i->osize, v);
}

static void trace_mode(struct interp *c, const char *name)
{
    struct trace *trace = &c->vm->trace;

    if (trace_on(trace))
        trace_emit(trace, (struct trace_rec){.rip = interp_rip(c),
                                             .addr = c->s.cr0,
                                             .value = c->s.efer,
                                             .extra = c->s.cr4,
                                             .device = "cpu",
                                             .name = name,
                                             .kind = TRACE_CPU,
                                             .vcpu = (int8_t)c->vcpu->index});
}

/* ---- software interrupts, HLT
 * ----------------------------------------------------------------------- */

void op_int(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_soft_int(c, (unsigned)i->imm & 0xff, true);
}

void op_int3(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_soft_int(c, VEC_BP, false);
}

void op_into(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    if (!(flags_get(c) & RFLAGS_OF))
        NEXT(c, i);
    interp_soft_int(c, VEC_OF, false);
}

void op_int1(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_soft_int(c, VEC_DB, false);
}

void op_ud(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_raise(c, VEC_UD);
}

void op_monitor(struct interp *c, const struct insn *i)
{
    op_ud(c, i);
}

void op_mwait(struct interp *c, const struct insn *i)
{
    op_ud(c, i);
}

void op_rsm(struct interp *c, const struct insn *i)
{
    op_ud(c, i);
}

void op_hlt(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_cpl0(c);
    c->s.activity = CPU_HALTED;
    c->s.rip = interp_next_rip(c);
}

/* ---- flags
 * ------------------------------------------------------------------------------------------- */

static unsigned iopl(const struct interp *c)
{
    return (c->s.rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT;
}

/* CLI and STI work on VIF: V86 with VME, or CPL 3 with PVI, without I/O privilege. */
static bool uses_vif(struct interp *c)
{
    if (c->cpl <= iopl(c))
        return false;
    if (c->s.rflags & RFLAGS_VM ? !(c->s.cr4 & CR4_VME) : !(c->s.cr4 & CR4_PVI) || c->cpl != 3)
        interp_raise_err(c, VEC_GP, 0);
    return true;
}

void op_cli(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    c->s.rflags &= uses_vif(c) ? ~RFLAGS_VIF : ~RFLAGS_IF;
    c->s.rip = interp_next_rip(c);
}

void op_sti(struct interp *c, const struct insn *i)
{
    uint64_t old = c->s.rflags;

    BEGIN(c, i);
    if (uses_vif(c)) {
        if (old & RFLAGS_VIP)
            interp_raise_err(c, VEC_GP, 0);
        c->s.rflags |= RFLAGS_VIF;
    } else {
        c->s.rflags |= RFLAGS_IF;
        if (!(old & RFLAGS_IF))
            interp_shadow(c, CPU_SHADOW_STI);
        interp_flags_replaced(c, old);
    }
    c->s.rip = interp_next_rip(c);
}

static void set_ac(struct interp *c, const struct insn *i, bool ac)
{
    BEGIN(c, i);
    if (c->cpl)
        interp_raise(c, VEC_UD);
    c->s.rflags = ac ? c->s.rflags | RFLAGS_AC : c->s.rflags & ~RFLAGS_AC;
    end(c);
}

void op_clac(struct interp *c, const struct insn *i)
{
    set_ac(c, i, false);
}

void op_stac(struct interp *c, const struct insn *i)
{
    set_ac(c, i, true);
}

/* V86 code without I/O privilege: PUSHF and POPF of 16 bits with VME, else #GP(0). */
static bool vme_flags(struct interp *c, const struct insn *i)
{
    if (!(c->s.rflags & RFLAGS_VM) || iopl(c) == 3)
        return false;
    if (!(c->s.cr4 & CR4_VME) || i->osize != 2)
        interp_raise_err(c, VEC_GP, 0);
    return true;
}

void op_pushf(struct interp *c, const struct insn *i)
{
    struct stack st;
    uint64_t f;

    BEGIN(c, i);
    st = stack_here(c);
    f = flags_get(c) & ~(RFLAGS_VM | RFLAGS_RF);
    if (vme_flags(c, i))
        f = (f & ~RFLAGS_IF) | RFLAGS_IOPL | (f & RFLAGS_VIF ? RFLAGS_IF : 0);
    stack_push(c, &st, i->osize, f);
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    NEXT(c, i);
}

void op_popf(struct interp *c, const struct insn *i)
{
    uint64_t mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT, old, f;
    struct stack st;

    BEGIN(c, i);
    st = stack_here(c);
    old = flags_get(c);
    if (vme_flags(c, i)) {
        f = stack_pop(c, &st, 2);
        if ((f & RFLAGS_TF) || ((f & RFLAGS_IF) && (old & RFLAGS_VIP)))
            interp_raise_err(c, VEC_GP, 0);
        f = (f & ~RFLAGS_VIF) | (f & RFLAGS_IF ? RFLAGS_VIF : 0);
        mask |= RFLAGS_VIF;
    } else {
        f = stack_pop(c, &st, i->osize);
        if (i->osize != 2)
            mask |= RFLAGS_AC | RFLAGS_ID;
        if (c->cpl <= iopl(c))
            mask |= RFLAGS_IF;
        if (!c->cpl)
            mask |= RFLAGS_IOPL;
    }
    c->s.gpr[REG_RSP] = stack_rsp(&st);
    flags_set(c, (old & ~(mask | RFLAGS_RF)) | (f & mask));
    interp_flags_replaced(c, old);
    c->s.rip = interp_next_rip(c);
    if ((old ^ c->s.rflags) & (RFLAGS_TF | RFLAGS_AC | RFLAGS_IOPL | RFLAGS_NT))
        interp_mode_changed(c);
}

/* ---- descriptor-table registers
 * -------------------------------------------------------------------- */

static void load_dtr(struct interp *c, const struct insn *i, struct cpu_dtr *dtr)
{
    unsigned size = c->code64 ? 10 : 6;
    uint8_t buf[10];
    uint64_t base;

    BEGIN(c, i);
    require_cpl0(c);
    access_copy_in(c, buf, insn_lin(c, i, size, ACCESS_READ), size, c->key);
    base = get_le(buf + 2, size - 2);
    if (c->code64 && !is_canonical(c, base))
        interp_raise_err(c, VEC_GP, 0);
    if (!c->code64 && i->osize == 2)
        base &= 0xffffff;
    dtr->limit = get_le16(buf);
    dtr->base = base;
    c->s.rip = interp_next_rip(c);
}

void op_lgdt(struct interp *c, const struct insn *i)
{
    load_dtr(c, i, &c->s.gdtr);
}

void op_lidt(struct interp *c, const struct insn *i)
{
    load_dtr(c, i, &c->s.idtr);
}

static void store_dtr(struct interp *c, const struct insn *i, const struct cpu_dtr *dtr)
{
    unsigned size = c->code64 ? 10 : 6;
    uint8_t buf[10];

    BEGIN(c, i);
    check_umip(c);
    put_le16(buf, dtr->limit);
    put_le64(buf + 2, dtr->base);
    access_copy_out(c, insn_lin(c, i, size, ACCESS_WRITE), buf, size, c->key);
}

void op_sgdt(struct interp *c, const struct insn *i)
{
    store_dtr(c, i, &c->s.gdtr);
    NEXT(c, i);
}

void op_sidt(struct interp *c, const struct insn *i)
{
    store_dtr(c, i, &c->s.idtr);
    NEXT(c, i);
}

/* The descriptor that LLDT and LTR ask for: in the GDT, of a type in `types`; its base has 64 bits.
 */
static struct cpu_seg system_segment(struct interp *c, uint16_t sel, uint64_t types, struct desc *d)
{
    struct cpu_seg g;

    if ((sel & SEL_TI) || !desc_read(c, sel, d) || !desc_is_system(d) ||
        !(types >> desc_type(d) & 1))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (in_long_mode(c) && (!desc_read_high(c, sel, d) || (d->hi >> 40 & 0x1f)))
        interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    if (!desc_is_present(d))
        interp_raise_err(c, VEC_NP, SEL_ERROR(sel));
    g = desc_seg(d, sel);
    if (in_long_mode(c)) {
        g.base |= d->hi << 32;
        if (!is_canonical(c, g.base))
            interp_raise_err(c, VEC_GP, SEL_ERROR(sel));
    }
    return g;
}

void op_lldt(struct interp *c, const struct insn *i)
{
    struct desc d;
    uint16_t sel;

    BEGIN(c, i);
    require_protected(c);
    require_cpl0(c);
    sel = load_rm16(c, i);
    if (sel_null(sel))
        c->s.ldtr = (struct cpu_seg){.selector = sel};
    else
        c->s.ldtr = system_segment(c, sel, BIT(SYS_LDT), &d);
    c->s.rip = interp_next_rip(c);
}

void op_ltr(struct interp *c, const struct insn *i)
{
    uint64_t types;
    struct cpu_seg g;
    struct desc d;
    uint16_t sel;

    BEGIN(c, i);
    require_protected(c);
    require_cpl0(c);
    sel = load_rm16(c, i);
    if (sel_null(sel))
        interp_raise_err(c, VEC_GP, 0);
    types = in_long_mode(c) ? BIT(SYS_TSS32) : BIT(SYS_TSS32) | BIT(SYS_TSS16);
    g = system_segment(c, sel, types, &d);
    desc_type_bit(c, &d, 2, true);
    g.attr |= 2;
    c->s.tr = g;
    c->s.rip = interp_next_rip(c);
}

void op_sldt(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_protected(c);
    check_umip(c);
    store_rm(c, i, c->s.ldtr.selector);
    NEXT(c, i);
}

void op_str(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_protected(c);
    check_umip(c);
    store_rm(c, i, c->s.tr.selector);
    NEXT(c, i);
}

/* ---- control registers
 * -------------------------------------------------------------------------------- */

static bool has_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* PAE paging reads its four top entries when CR3 is loaded and when the mode is entered. */
static void reload_pdptes(struct interp *c, uint64_t cr3)
{
    uint64_t pdpte[4];

    if (!paging_load_pdptes(c->vcpu, c->vcpu->model, cr3, pdpte))
        interp_raise_err(c, VEC_GP, 0);
    for (unsigned k = 0; k < 4; k++)
        c->s.pdpte[k] = pdpte[k];
}

/* #GP where long mode cannot begin (SDM vol. 3A section 10.8.5). */
static void check_long_entry(struct interp *c)
{
    if (!(c->s.cr4 & CR4_PAE) || (c->s.seg[SEG_CS].attr & SEG_ATTR_L) ||
        !(c->s.tr.attr & 8)) /* a 16-bit TSS */
        interp_raise_err(c, VEC_GP, 0);
}

static void write_cr0(struct interp *c, uint64_t v)
{
    uint64_t old = c->s.cr0, efer = c->s.efer;

    if (v >> 32)
        interp_raise_err(c, VEC_GP, 0);
    v = (v & CR0_KNOWN) | CR0_ET;
    if (((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
        interp_raise_err(c, VEC_GP, 0);
    if ((v & CR0_PG) && !(old & CR0_PG) && (efer & EFER_LME)) {
        check_long_entry(c);
        efer |= EFER_LMA;
    }
    if (!(v & CR0_PG) && (old & CR0_PG)) {
        if (c->code64 || (c->s.cr4 & CR4_PCIDE))
            interp_raise_err(c, VEC_GP, 0);
        efer &= ~EFER_LMA;
    }
    if (has_pae_paging(v, c->s.cr4, efer) && ((old ^ v) & (CR0_PG | CR0_CD | CR0_NW)))
        reload_pdptes(c, c->s.cr3);
    c->s.cr0 = v;
    c->s.efer = efer;
    if ((old ^ v) & CR0_PE)
        trace_mode(c, v & CR0_PE ? "protected" : "real");
    if ((old ^ v) & CR0_PG)
        trace_mode(c, !(v & CR0_PG) ? "paging off" : efer & EFER_LMA ? "long" : "paging on");
}

static void write_cr3(struct interp *c, uint64_t v)
{
    bool keep = false;

    if (in_long_mode(c)) {
        if (c->s.cr4 & CR4_PCIDE) {
            keep = v >> 63;
            v &= ~BIT(63);
        }
        if (v >> c->vcpu->model->phys_bits)
            interp_raise_err(c, VEC_GP, 0);
    } else {
        v = (uint32_t)v;
        if (has_pae_paging(c->s.cr0, c->s.cr4, c->s.efer))
            reload_pdptes(c, v);
    }
    tlb_switch(c, v | (keep ? BIT(63) : 0), keep);
}

static void write_cr4(struct interp *c, uint64_t v)
{
    uint64_t old = c->s.cr4;

    if (v & ~cpu_model_cr4_mask(c->vcpu->model))
        interp_raise_err(c, VEC_GP, 0);
    if (in_long_mode(c) && !(v & CR4_PAE))
        interp_raise_err(c, VEC_GP, 0);
    if ((v & ~old & CR4_PCIDE) && (!in_long_mode(c) || (c->s.cr3 & 0xfff)))
        interp_raise_err(c, VEC_GP, 0);
    if (has_pae_paging(c->s.cr0, v, c->s.efer) &&
        ((old ^ v) & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)))
        reload_pdptes(c, c->s.cr3);
    c->s.cr4 = v;
}

/* CR0, 2, 3, 4; 8 in 64-bit mode, the only one that can name it. */
static bool is_control_register(unsigned n)
{
    return n == 0 || (n >= 2 && n <= 4) || n == 8;
}

void op_mov_from_cr(struct interp *c, const struct insn *i)
{
    const struct vcpu_intc *intc = c->vcpu->intc_ops;
    uint64_t v;

    BEGIN(c, i);
    if (!is_control_register(i->reg))
        interp_raise(c, VEC_UD);
    require_cpl0(c);
    switch (i->reg) {
    case 0:
        v = c->s.cr0;
        break;
    case 2:
        v = c->s.cr2;
        break;
    case 3:
        v = c->s.cr3;
        break;
    case 4:
        v = c->s.cr4;
        break;
    default:
        v = intc && intc->get_cr8 ? intc->get_cr8(c->vcpu->intc) : 0;
        break;
    }
    reg_set(c, i->rm & 15, c->code64 ? 8 : 4, v);
    NEXT(c, i);
}

void op_mov_to_cr(struct interp *c, const struct insn *i)
{
    const struct vcpu_intc *intc = c->vcpu->intc_ops;
    uint64_t v;

    BEGIN(c, i);
    if (!is_control_register(i->reg))
        interp_raise(c, VEC_UD);
    require_cpl0(c);
    v = reg_get(c, i->rm & 15, c->code64 ? 8 : 4);
    switch (i->reg) {
    case 0:
        write_cr0(c, v);
        break;
    case 2:
        c->s.cr2 = v;
        break;
    case 3:
        write_cr3(c, v);
        break;
    case 4:
        write_cr4(c, v);
        break;
    default:
        if (v >> 4)
            interp_raise_err(c, VEC_GP, 0);
        if (intc && intc->set_cr8)
            intc->set_cr8(c->vcpu->intc, v);
        break;
    }
    end(c);
}

void op_clts(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_cpl0(c);
    c->s.cr0 &= ~CR0_TS;
    end(c);
}

void op_smsw(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    check_umip(c);
    store_rm(c, i, c->s.cr0);
    NEXT(c, i);
}

void op_lmsw(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    require_cpl0(c);
    v = load_rm16(c, i) & (CR0_PE | CR0_MP | CR0_EM | CR0_TS);
    /* It can enter protected mode, not leave it. */
    write_cr0(c, (c->s.cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | v);
    end(c);
}

/* ---- debug registers
 * ------------------------------------------------------------------------------------ */

/* Register n after the aliases of DR4 and DR5; raises what every access may. */
static unsigned debug_register(struct interp *c, unsigned n)
{
    if (n > 7)
        interp_raise(c, VEC_UD);
    require_cpl0(c);
    if (n == 4 || n == 5) {
        if (c->s.cr4 & CR4_DE)
            interp_raise(c, VEC_UD);
        n += 2;
    }
    if (c->s.dr7 & DR7_GD)
        interp_raise_db(c, DR6_BD);
    return n;
}

void op_mov_from_dr(struct interp *c, const struct insn *i)
{
    unsigned n;

    BEGIN(c, i);
    n = debug_register(c, i->reg);
    reg_set(c, i->rm & 15, c->code64 ? 8 : 4,
            n < 4    ? c->s.dr[n & 3]
            : n == 6 ? c->s.dr6
                     : c->s.dr7);
    NEXT(c, i);
}

void op_mov_to_dr(struct interp *c, const struct insn *i)
{
    unsigned n;
    uint64_t v;

    BEGIN(c, i);
    n = debug_register(c, i->reg);
    v = reg_get(c, i->rm & 15, c->code64 ? 8 : 4);
    if (n >= 6 && v >> 32)
        interp_raise_err(c, VEC_GP, 0);
    if (n < 4)
        c->s.dr[n & 3] = v;
    else if (n == 6)
        c->s.dr6 = (v & DR6_WRITABLE) | DR6_FIXED;
    else
        c->s.dr7 = (v & DR7_WRITABLE) | DR7_FIXED;
    end(c);
}

/* ---- MSRs, XCR0, bases
 * ---------------------------------------------------------------------------------- */

void op_rdmsr(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    require_cpl0(c);
    interp_sync_clock(c);
    c->vcpu->access_rip = interp_rip(c);
    if (!vcpu_rdmsr(c->vcpu, (uint32_t)c->s.gpr[REG_RCX], &v))
        interp_raise_err(c, VEC_GP, 0);
    access_after_io(c);
    c->s.gpr[REG_RAX] = (uint32_t)v;
    c->s.gpr[REG_RDX] = v >> 32;
    NEXT(c, i);
}

void op_wrmsr(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    require_cpl0(c);
    interp_sync_clock(c);
    c->vcpu->access_rip = interp_rip(c);
    v = (uint32_t)c->s.gpr[REG_RAX] | c->s.gpr[REG_RDX] << 32;
    if (!vcpu_wrmsr(c->vcpu, (uint32_t)c->s.gpr[REG_RCX], v))
        interp_raise_err(c, VEC_GP, 0);
    end(c);
}

void op_xgetbv(struct interp *c, const struct insn *i)
{
    uint32_t n;

    BEGIN(c, i);
    if (!(c->s.cr4 & CR4_OSXSAVE))
        interp_raise(c, VEC_UD);
    n = (uint32_t)c->s.gpr[REG_RCX];
    /* 1: components in use; no init optimisation is made, so all of them are. */
    if (n > 1 || (n == 1 && !cpu_has(c->vcpu->model, FEAT_XGETBV1)))
        interp_raise_err(c, VEC_GP, 0);
    c->s.gpr[REG_RAX] = (uint32_t)c->s.xcr0;
    c->s.gpr[REG_RDX] = c->s.xcr0 >> 32;
    NEXT(c, i);
}

static bool xcr0_valid(const struct interp *c, uint64_t v)
{
    if ((v & ~c->vcpu->model->xcr0_mask) || !(v & XCR0_X87))
        return false;
    if ((v & XCR0_AVX) && !(v & XCR0_SSE))
        return false;
    return !(v & XCR0_AVX512) || ((v & XCR0_AVX512) == XCR0_AVX512 && (v & XCR0_AVX));
}

void op_xsetbv(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    if (!(c->s.cr4 & CR4_OSXSAVE))
        interp_raise(c, VEC_UD);
    require_cpl0(c);
    v = (uint32_t)c->s.gpr[REG_RAX] | c->s.gpr[REG_RDX] << 32;
    if ((uint32_t)c->s.gpr[REG_RCX] || !xcr0_valid(c, v))
        interp_raise_err(c, VEC_GP, 0);
    c->s.xcr0 = v;
    end(c);
}

void op_swapgs(struct interp *c, const struct insn *i)
{
    uint64_t base;

    BEGIN(c, i);
    if (!c->code64)
        interp_raise(c, VEC_UD);
    require_cpl0(c);
    base = c->s.seg[SEG_GS].base;
    c->s.seg[SEG_GS].base = c->s.kernel_gs_base;
    c->s.kernel_gs_base = base;
    c->s.rip = interp_next_rip(c);
}

static void require_fsgsbase(struct interp *c)
{
    if (!c->code64 || !(c->s.cr4 & CR4_FSGSBASE))
        interp_raise(c, VEC_UD);
}

static void write_base(struct interp *c, const struct insn *i, unsigned seg)
{
    uint64_t v = reg_get(c, i->rm & 15, i->osize);

    require_fsgsbase(c);
    if (!is_canonical(c, v))
        interp_raise_err(c, VEC_GP, 0);
    c->s.seg[seg].base = v;
}

void op_rdfsbase(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_fsgsbase(c);
    reg_set(c, i->rm & 15, i->osize, c->s.seg[SEG_FS].base);
    NEXT(c, i);
}

void op_rdgsbase(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_fsgsbase(c);
    reg_set(c, i->rm & 15, i->osize, c->s.seg[SEG_GS].base);
    NEXT(c, i);
}

void op_wrfsbase(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    write_base(c, i, SEG_FS);
    NEXT(c, i);
}

void op_wrgsbase(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    write_base(c, i, SEG_GS);
    NEXT(c, i);
}

/* ---- TLB and caches
 * -------------------------------------------------------------------------------------- */

void op_invlpg(struct interp *c, const struct insn *i)
{
    uint64_t off, at;

    BEGIN(c, i);
    require_cpl0(c);
    /* Only the address is made: no limits, and one that is not canonical names no page. */
    off = insn_ea(c, i);
    if (c->code64)
        at = i->seg >= SEG_FS ? c->s.seg[i->seg % SEG_COUNT].base + off : off;
    else
        at = (uint32_t)(c->s.seg[i->seg % SEG_COUNT].base + off);
    if (is_canonical(c, at))
        tlb_flush_page(c, at);
    c->s.rip = interp_next_rip(c);
}

void op_invpcid(struct interp *c, const struct insn *i)
{
    uint64_t type, pcid, addr;
    uint8_t buf[16];

    BEGIN(c, i);
    require_cpl0(c);
    type = reg_get(c, i->reg & 15, c->code64 ? 8 : 4);
    access_copy_in(c, buf, insn_lin(c, i, 16, ACCESS_READ), 16, c->key);
    pcid = get_le64(buf);
    addr = get_le64(buf + 8);
    if (type > INVPCID_MAX)
        interp_raise_err(c, VEC_GP, 0);
    if (type < 2 && (pcid >> 12 || (pcid && !(c->s.cr4 & CR4_PCIDE))))
        interp_raise_err(c, VEC_GP, 0);
    switch (type) {
    case 0:
        if (!is_canonical(c, addr))
            interp_raise_err(c, VEC_GP, 0);
        tlb_flush_page(c, addr);
        break;
    case 1:
        tlb_flush_pcid(c, (unsigned)pcid);
        break;
    case 2:
        tlb_flush(c, true);
        break;
    default:
        tlb_flush(c, false);
        break;
    }
    c->s.rip = interp_next_rip(c);
}

void op_invd(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    require_cpl0(c);
    NEXT(c, i);
}

void op_wbinvd(struct interp *c, const struct insn *i)
{
    op_invd(c, i);
}

/* ---- identification, time, random numbers
 * ----------------------------------------------------------------- */

void op_cpuid(struct interp *c, const struct insn *i)
{
    struct vcpu *vcpu = c->vcpu;
    uint32_t leaf = (uint32_t)c->s.gpr[REG_RAX];
    uint64_t apic_base = APIC_BASE_ENABLE;
    struct cpuid_regs r;

    BEGIN(c, i);
    /* Leaf 1 shows whether the local APIC is enabled. */
    if (leaf == 1 && cpu_has(vcpu->model, FEAT_APIC)) {
        vcpu->access_rip = interp_rip(c);
        if (!vcpu_rdmsr(vcpu, MSR_APIC_BASE, &apic_base))
            apic_base = 0;
    }
    r = cpu_model_cpuid(vcpu->model, &c->s, vcpu->index, apic_base & APIC_BASE_ENABLE, leaf,
                        (uint32_t)c->s.gpr[REG_RCX]);
    c->s.gpr[REG_RAX] = r.eax;
    c->s.gpr[REG_RBX] = r.ebx;
    c->s.gpr[REG_RCX] = r.ecx;
    c->s.gpr[REG_RDX] = r.edx;
    NEXT(c, i);
}

void interp_read_tsc(struct interp *c)
{
    uint64_t v;

    if ((c->s.cr4 & CR4_TSD) && c->cpl)
        interp_raise_err(c, VEC_GP, 0);
    interp_sync_clock(c);
    v = cpu_tsc(c->vcpu, &c->s);
    c->s.gpr[REG_RAX] = (uint32_t)v;
    c->s.gpr[REG_RDX] = v >> 32;
}

void op_rdtsc(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_read_tsc(c);
    NEXT(c, i);
}

void op_rdtscp(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_read_tsc(c);
    c->s.gpr[REG_RCX] = (uint32_t)c->s.tsc_aux;
    NEXT(c, i);
}

void op_rdpid(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    reg_set(c, i->rm & 15, c->code64 ? 8 : 4, (uint32_t)c->s.tsc_aux);
    NEXT(c, i);
}

void op_rdpmc(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    /* No model has performance counters: every number is a wrong one. */
    interp_raise_err(c, VEC_GP, 0);
}

/*
 * With a virtual clock a run must depend on its inputs alone: the numbers then come from the place
 * in the run (a splitmix64 step), and are of course no secret.
 */
static uint64_t random_number(struct interp *c)
{
    uint64_t v = interp_icount(c), live;

    if (clock_mode(c->vm->clock) == CLOCK_VIRTUAL ||
        getrandom(&live, sizeof(live), 0) != sizeof(live)) {
        live = v * 0x9e3779b97f4a7c15ull + c->vcpu->index;
        live = (live ^ live >> 30) * 0xbf58476d1ce4e5b9ull;
        live = (live ^ live >> 27) * 0x94d049bb133111ebull;
        live ^= live >> 31;
    }
    return gate_input(&c->vm->gate, GATE_RANDOM, v, live);
}

static void read_random(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    reg_set(c, i->rm & 15, i->osize, random_number(c));
    c->aflags = rflags_to_aflags(RFLAGS_CF);
}

void op_rdrand(struct interp *c, const struct insn *i)
{
    read_random(c, i);
    NEXT(c, i);
}

void op_rdseed(struct interp *c, const struct insn *i)
{
    read_random(c, i);
    NEXT(c, i);
}

/* KVM's hypercalls, of which none is offered (Linux, Documentation/virt/kvm/x86/hypercalls.rst). */
#define KVM_ENOSYS 1000
#define KVM_EPERM  1

static void hypercall(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    if (!cpu_has(c->vcpu->model, FEAT_HYPERVISOR))
        interp_raise(c, VEC_UD);
    reg_set(c, REG_RAX, c->code64 ? 8 : 4, (uint64_t) - (c->cpl ? KVM_EPERM : KVM_ENOSYS));
}

void op_vmcall(struct interp *c, const struct insn *i)
{
    hypercall(c, i);
    NEXT(c, i);
}

void op_vmmcall(struct interp *c, const struct insn *i)
{
    hypercall(c, i);
    NEXT(c, i);
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT
 * -------------------------------------------------------------------- */

/* CS and SS that these instructions make up without looking at a descriptor. */
static void set_flat_segments(struct interp *c, uint16_t cs, uint16_t ss, unsigned cpl, bool is64)
{
    uint16_t dpl = (uint16_t)(cpl << SEG_ATTR_DPL_SHIFT);

    c->s.seg[SEG_CS] =
        (struct cpu_seg){.limit = UINT32_MAX,
                         .selector = cs,
                         .attr = (uint16_t)(ATTR_FLAT | SEG_TYPE_CODE | SEG_TYPE_WRITE | dpl |
                                            (is64 ? SEG_ATTR_L : SEG_ATTR_DB))};
    c->s.seg[SEG_SS] =
        (struct cpu_seg){.limit = UINT32_MAX,
                         .selector = ss,
                         .attr = (uint16_t)(ATTR_FLAT | SEG_TYPE_WRITE | SEG_ATTR_DB | dpl)};
}

static void require_syscall(struct interp *c)
{
    /* Intel has it in 64-bit mode only, AMD in all of protected mode. */
    if (!(c->s.efer & EFER_SCE) || (is_amd(c) ? in_paragraph_mode(c) : !c->code64))
        interp_raise(c, VEC_UD);
}

void op_syscall(struct interp *c, const struct insn *i)
{
    uint16_t cs = (uint16_t)(c->s.star >> 32) & 0xfffc;
    uint64_t flags = flags_get(c) & ~RFLAGS_RF;

    BEGIN(c, i);
    require_syscall(c);
    c->s.gpr[REG_RCX] = interp_next_rip(c);
    if (in_long_mode(c)) {
        c->s.gpr[REG_R8 + 3] = flags;
        c->s.rip = c->code64 ? c->s.lstar : c->s.cstar;
        flags &= ~c->s.sfmask;
    } else {
        c->s.rip = (uint32_t)c->s.star;
        flags &= ~(RFLAGS_VM | RFLAGS_IF);
    }
    flags_set(c, flags);
    /* A TF that the mask takes away does not trap any more. */
    if (!(flags & RFLAGS_TF))
        c->armed &= (uint8_t)~INTERP_ARMED_TF;
    set_flat_segments(c, cs, (uint16_t)(cs + 8), 0, in_long_mode(c));
    interp_mode_changed(c);
}

/* What SYSRET lets through of R11: not RF, VM and the reserved ones. */
#define SYSRET_FLAGS 0x3c7fd7ull

void op_sysret(struct interp *c, const struct insn *i)
{
    uint16_t base = (uint16_t)(c->s.star >> 48);
    uint16_t cs = (uint16_t)((base + (i->osize == 8 ? 16 : 0)) | 3);
    uint64_t old = flags_get(c);

    BEGIN(c, i);
    require_syscall(c);
    require_cpl0(c);
    if (i->osize == 8) {
        /* AMD's go there and fault in user mode. */
        if (!is_amd(c) && !is_canonical(c, c->s.gpr[REG_RCX]))
            interp_raise_err(c, VEC_GP, 0);
        c->s.rip = c->s.gpr[REG_RCX];
    } else {
        c->s.rip = (uint32_t)c->s.gpr[REG_RCX];
    }
    if (in_long_mode(c))
        flags_set(c, c->s.gpr[REG_R8 + 3] & SYSRET_FLAGS);
    else
        flags_set(c, old | RFLAGS_IF);
    interp_flags_replaced(c, old);
    /* As if the SYSCALL were over just now: a TF that comes back traps before the next instruction. */
    if (c->s.rflags & RFLAGS_TF)
        c->s.pending_dbg |= DR6_BS;
    set_flat_segments(c, cs, (uint16_t)((base + 8) | 3), 3, i->osize == 8);
    interp_mode_changed(c);
}

static void require_sysenter(struct interp *c)
{
    if (is_amd(c) && in_long_mode(c))
        interp_raise(c, VEC_UD);
    if (!(c->s.cr0 & CR0_PE) || sel_null((uint16_t)c->s.sysenter_cs))
        interp_raise_err(c, VEC_GP, 0);
}

void op_sysenter(struct interp *c, const struct insn *i)
{
    uint16_t cs = (uint16_t)c->s.sysenter_cs & 0xfffc;
    uint64_t mask;

    BEGIN(c, i);
    require_sysenter(c);
    mask = in_long_mode(c) ? UINT64_MAX : UINT32_MAX;
    c->s.gpr[REG_RSP] = c->s.sysenter_esp & mask;
    c->s.rip = c->s.sysenter_eip & mask;
    c->s.rflags &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    set_flat_segments(c, cs, (uint16_t)(cs + 8), 0, in_long_mode(c));
    interp_mode_changed(c);
}

void op_sysexit(struct interp *c, const struct insn *i)
{
    uint16_t base = (uint16_t)c->s.sysenter_cs & 0xfffc;
    uint64_t rip = c->s.gpr[REG_RDX], rsp = c->s.gpr[REG_RCX];
    bool is64 = i->osize == 8;

    BEGIN(c, i);
    require_sysenter(c);
    require_cpl0(c);
    if (is64) {
        if (!is_canonical(c, rip) || !is_canonical(c, rsp))
            interp_raise_err(c, VEC_GP, 0);
        base = (uint16_t)(base + 16);
    } else {
        rip = (uint32_t)rip;
        rsp = (uint32_t)rsp;
    }
    c->s.rip = rip;
    c->s.gpr[REG_RSP] = rsp;
    set_flat_segments(c, (uint16_t)((base + 16) | 3), (uint16_t)((base + 24) | 3), 3, is64);
    interp_mode_changed(c);
}
