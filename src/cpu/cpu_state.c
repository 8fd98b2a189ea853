/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The canonical CPU state: its field table, power-on and INIT values (SDM vol. 3A table 10-1, AMD
 * APM vol. 2 section 14.1), and the check that refuses what no processor can be in. An engine may
 * rely on what the check says: it is the only thing between a hostile snapshot and the engine.
 */
#include "cpu/cpu_state.h"

#include <errno.h>
#include <string.h>

/* ---- the field table ------------------------------------------------------------------ */

static const char *const gpr_names[] = {
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};
static const char *const seg_names[] = {"es", "cs", "ss", "ds", "fs", "gs"};
static const char *const dr_names[] = {"dr0", "dr1", "dr2", "dr3"};
static const char *const zmm_names[] = {
    "zmm0",  "zmm1",  "zmm2",  "zmm3",  "zmm4",  "zmm5",  "zmm6",  "zmm7",
    "zmm8",  "zmm9",  "zmm10", "zmm11", "zmm12", "zmm13", "zmm14", "zmm15",
    "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23",
    "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31",
};
static const char *const k_names[] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
static const char *const st_names[] = {"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"};
static const char *const mtrr_fixed_names[] = {
    "mtrr_fix64k_00000", "mtrr_fix16k_80000", "mtrr_fix16k_a0000", "mtrr_fix4k_c0000",
    "mtrr_fix4k_c8000",  "mtrr_fix4k_d0000",  "mtrr_fix4k_d8000",  "mtrr_fix4k_e0000",
    "mtrr_fix4k_e8000",  "mtrr_fix4k_f0000",  "mtrr_fix4k_f8000",
};

static const struct state_field seg_fields[] = {
    STATE_UINT(struct cpu_seg, base, 0, UINT64_MAX),
    STATE_UINT(struct cpu_seg, limit, 0, UINT32_MAX),
    STATE_UINT(struct cpu_seg, selector, 0, UINT16_MAX),
    STATE_UINT(struct cpu_seg, attr, 0, 0xf0ff),
};

static const struct state_field dtr_fields[] = {
    STATE_UINT(struct cpu_dtr, base, 0, UINT64_MAX),
    STATE_UINT(struct cpu_dtr, limit, 0, UINT16_MAX),
    STATE_UINTS(struct cpu_dtr, pad, 0, 0),
};

static const struct state_field fpu_fields[] = {
    STATE_ROWS_NAMED(struct cpu_fpu, zmm, zmm_names),
    STATE_UINTS_NAMED(struct cpu_fpu, k, 0, UINT64_MAX, k_names),
    STATE_ROWS_NAMED(struct cpu_fpu, st, st_names),
    STATE_UINT(struct cpu_fpu, fcw, 0, UINT16_MAX),
    STATE_UINT(struct cpu_fpu, fsw, 0, UINT16_MAX),
    STATE_UINT(struct cpu_fpu, ftw, 0, UINT8_MAX),
    STATE_UINT(struct cpu_fpu, pad, 0, 0),
    STATE_UINT(struct cpu_fpu, fop, 0, 0x7ff),
    STATE_UINT(struct cpu_fpu, fip, 0, UINT64_MAX),
    STATE_UINT(struct cpu_fpu, fdp, 0, UINT64_MAX),
    STATE_UINT(struct cpu_fpu, fcs, 0, UINT16_MAX),
    STATE_UINT(struct cpu_fpu, fds, 0, UINT16_MAX),
    STATE_UINT(struct cpu_fpu, mxcsr, 0, 0xffff),
};

static const struct state_field fields[] = {
    STATE_UINTS_NAMED(struct cpu_state, gpr, 0, UINT64_MAX, gpr_names),
    STATE_UINT(struct cpu_state, rip, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, rflags, 2, 0x3f7fd7),
    STATE_STRUCTS_NAMED(struct cpu_state, seg, seg_fields, seg_names),
    STATE_STRUCT(struct cpu_state, ldtr, seg_fields),
    STATE_STRUCT(struct cpu_state, tr, seg_fields),
    STATE_STRUCT(struct cpu_state, gdtr, dtr_fields),
    STATE_STRUCT(struct cpu_state, idtr, dtr_fields),
    STATE_UINT(struct cpu_state, cr0, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, cr2, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, cr3, 0, BIT(52) - 1),
    STATE_UINT(struct cpu_state, cr4, 0, UINT32_MAX),
    STATE_UINTS(struct cpu_state, pdpte, 0, UINT64_MAX),
    STATE_UINTS_NAMED(struct cpu_state, dr, 0, UINT64_MAX, dr_names),
    STATE_UINT(struct cpu_state, dr6, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, dr7, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, xcr0, 1, 0xe7),
    STATE_UINT(struct cpu_state, xss, 0, 0),
    STATE_STRUCT(struct cpu_state, fpu, fpu_fields),
    STATE_UINT(struct cpu_state, efer, 0, 0xffff),
    STATE_UINT(struct cpu_state, star, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, lstar, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, cstar, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, sfmask, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, kernel_gs_base, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, sysenter_cs, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, sysenter_esp, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, sysenter_eip, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, tsc_aux, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, tsc_offset, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, tsc_adjust, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, pat, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, misc_enable, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, spec_ctrl, 0, 7),
    STATE_UINT(struct cpu_state, debugctl, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, feature_control, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, mtrr_def_type, 0, 0xcff),
    STATE_UINTS(struct cpu_state, mtrr_base, 0, BIT(52) - 1),
    STATE_UINTS(struct cpu_state, mtrr_mask, 0, BIT(52) - 1),
    STATE_UINTS_NAMED(struct cpu_state, mtrr_fixed, 0, UINT64_MAX, mtrr_fixed_names),
    STATE_UINT(struct cpu_state, mcg_status, 0, 0xf),
    STATE_UINT(struct cpu_state, mcg_ctl, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, pv_system_time, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, pv_wall_clock, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, pv_async_pf, 0, 0),
    STATE_UINT(struct cpu_state, pv_steal_time, 0, 0),
    STATE_UINT(struct cpu_state, pv_eoi, 0, 0),
    STATE_UINT(struct cpu_state, pv_poll_control, 0, 0),
    STATE_UINT(struct cpu_state, smbase, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, icount, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, event_cr2, 0, UINT64_MAX),
    STATE_UINT(struct cpu_state, event_error, 0, UINT32_MAX),
    STATE_UINT(struct cpu_state, event_pending, 0, 1),
    STATE_UINT(struct cpu_state, event_vector, 0, UINT8_MAX),
    STATE_UINT(struct cpu_state, event_has_error, 0, 1),
    STATE_UINT(struct cpu_state, event_soft, 0, 1),
    STATE_UINT(struct cpu_state, pending_dbg, 0, 0xffff),
    STATE_UINT(struct cpu_state, activity, CPU_RUNNING, CPU_SHUTDOWN),
    STATE_UINT(struct cpu_state, shadow, 0, CPU_SHADOW_STI | CPU_SHADOW_MOV_SS),
    STATE_UINT(struct cpu_state, nmi_blocked, 0, 1),
    STATE_UINT(struct cpu_state, nmi_pending, 0, 1),
    STATE_UINT(struct cpu_state, sipi_vector, 0, UINT8_MAX),
    STATE_UINT(struct cpu_state, in_smm, 0, 1),
    STATE_UINTS(struct cpu_state, pad2, 0, 0),
};

const struct state cpu_state_table = {
    .version = 1,
    .offset = 0,
    .size = sizeof(struct cpu_state),
    .fields = fields,
    .nfields = ARRAY_LEN(fields),
};

/* ---- power-on and INIT ---------------------------------------------------------------- */

#define RESET_CR0    (CR0_ET | CR0_NW | CR0_CD)
#define RESET_DR6    0xffff0ff0
#define RESET_DR7    0x400
#define RESET_PAT    0x0007040600070406ull
#define RESET_SMBASE 0x30000
/* Fast strings; no branch trace store and no PEBS. */
#define RESET_MISC_ENABLE (BIT(0) | BIT(11) | BIT(12))

#define ATTR_DATA     (SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_WRITE | SEG_TYPE_ACCESSED)
#define ATTR_LDT      (SEG_ATTR_P | 2)
#define ATTR_TSS_BUSY (SEG_ATTR_P | 11)

/* What RESET and INIT have in common. */
static void restart(struct cpu_state *cs, bool is_bsp, uint32_t signature)
{
    memset(cs->gpr, 0, sizeof(cs->gpr));
    cs->gpr[REG_RDX] = signature;
    cs->rip = 0xfff0;
    cs->rflags = RFLAGS_ONE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cs->seg[i] = (struct cpu_seg){.limit = 0xffff, .attr = ATTR_DATA};
    cs->seg[SEG_CS].selector = 0xf000;
    cs->seg[SEG_CS].base = 0xffff0000;
    cs->ldtr = (struct cpu_seg){.limit = 0xffff, .attr = ATTR_LDT};
    cs->tr = (struct cpu_seg){.limit = 0xffff, .attr = ATTR_TSS_BUSY};
    cs->gdtr = cs->idtr = (struct cpu_dtr){.limit = 0xffff};
    cs->cr2 = cs->cr3 = cs->cr4 = 0;
    memset(cs->pdpte, 0, sizeof(cs->pdpte));
    memset(cs->dr, 0, sizeof(cs->dr));
    cs->dr6 = RESET_DR6;
    cs->dr7 = RESET_DR7;
    cs->efer = 0;
    cs->debugctl = 0;
    cs->event_cr2 = 0;
    cs->event_error = 0;
    cs->event_pending = cs->event_vector = cs->event_has_error = cs->event_soft = 0;
    cs->pending_dbg = 0;
    cs->activity = is_bsp ? CPU_RUNNING : CPU_WAIT_FOR_SIPI;
    cs->shadow = cs->nmi_blocked = cs->nmi_pending = cs->sipi_vector = cs->in_smm = 0;
}

void cpu_state_reset(struct cpu_state *cs, bool is_bsp, uint32_t signature)
{
    memset(cs, 0, sizeof(*cs));
    restart(cs, is_bsp, signature);
    cs->cr0 = RESET_CR0;
    cs->xcr0 = XCR0_X87;
    cs->fpu.fcw = 0x40;
    cs->fpu.ftw = 0xff; /* 5555h in full: every register holds +0.0 */
    cs->fpu.mxcsr = 0x1f80;
    cs->pat = RESET_PAT;
    cs->misc_enable = RESET_MISC_ENABLE;
    cs->smbase = RESET_SMBASE;
}

void cpu_state_init(struct cpu_state *cs, bool is_bsp, uint32_t signature)
{
    restart(cs, is_bsp, signature);
    cs->cr0 = CR0_ET | (cs->cr0 & (CR0_NW | CR0_CD));
}

/* ---- the check ------------------------------------------------------------------------ */

#define CR0_KNOWN                                                                              \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
     CR0_PG)
#define CR4_KNOWN                                                                                 \
    (CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |     \
     CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | \
     CR4_SMAP)
#define EFER_KNOWN (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR)
#define RFLAGS_KNOWN                                                                           \
    (RFLAGS_ARITH | RFLAGS_ONE | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | \
     RFLAGS_RF | RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID)
/* B0 to B3, BD, BS, BT, and BLD, RTM, which stand inverted in DR6 but are not offered. */
#define DBG_KNOWN 0xe00full

/* Every byte is a memory type of PAT (SDM vol. 3A table 12-10). */
static bool pat_ok(uint64_t pat)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = pat >> i & 0xff;

        if (type > 7 || type == 2 || type == 3)
            return false;
    }
    return true;
}

static const char *control_wrong(const struct cpu_state *cs)
{
    bool lma = cs->efer & EFER_LMA;

    if (cs->cr0 & ~CR0_KNOWN)
        return "reserved bits of CR0 are set";
    if ((cs->cr0 & CR0_PG) && !(cs->cr0 & CR0_PE))
        return "paging without protection";
    if ((cs->cr0 & CR0_NW) && !(cs->cr0 & CR0_CD))
        return "CR0.NW without CR0.CD";
    if (cs->cr4 & ~CR4_KNOWN)
        return "reserved bits of CR4 are set";
    if (cs->efer & ~EFER_KNOWN)
        return "reserved bits of EFER are set";
    if (lma != ((cs->efer & EFER_LME) && (cs->cr0 & CR0_PG)))
        return "EFER.LMA disagrees with EFER.LME and CR0.PG";
    if (lma && !(cs->cr4 & CR4_PAE))
        return "long mode without CR4.PAE";
    if ((cs->cr4 & CR4_PCIDE) && !lma)
        return "CR4.PCIDE outside long mode";
    if ((cs->rflags & ~RFLAGS_KNOWN) || !(cs->rflags & RFLAGS_ONE))
        return "reserved bits of RFLAGS are wrong";
    if ((cs->rflags & RFLAGS_VM) && (lma || !(cs->cr0 & CR0_PE)))
        return "RFLAGS.VM outside legacy protected mode";
    if (!(cs->xcr0 & XCR0_X87))
        return "XCR0 without x87";
    if ((cs->xcr0 & XCR0_AVX) && !(cs->xcr0 & XCR0_SSE))
        return "XCR0 has AVX without SSE";
    if ((cs->xcr0 & XCR0_AVX512) &&
        ((cs->xcr0 & XCR0_AVX512) != XCR0_AVX512 || !(cs->xcr0 & XCR0_AVX)))
        return "XCR0 has a part of AVX-512";
    if (cs->xcr0 & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512))
        return "reserved bits of XCR0 are set";
    if (cs->fpu.mxcsr & ~0xffffu)
        return "reserved bits of MXCSR are set";
    if (cs->pending_dbg & ~DBG_KNOWN)
        return "a pending debug exception has no cause";
    if ((cs->cr0 & CR0_PG) && (cs->cr4 & CR4_PAE) && !lma)
        for (unsigned i = 0; i < 4; i++)
            if ((cs->pdpte[i] & 1) && (cs->pdpte[i] & 0xfff00000000001e6ull))
                return "reserved bits of a PDPTE are set";
    return NULL;
}

static const char *msrs_wrong(const struct cpu_state *cs)
{
    if (!canonical(cs->lstar) || !canonical(cs->cstar) || !canonical(cs->kernel_gs_base) ||
        !canonical(cs->sysenter_esp) || !canonical(cs->sysenter_eip))
        return "an address in an MSR is not canonical";
    if (!pat_ok(cs->pat))
        return "the PAT has an unknown memory type";
    return NULL;
}

/* A descriptor register that may hold a code or data segment. */
static bool seg_limit_ok(const struct cpu_seg *seg)
{
    return (seg->attr & SEG_ATTR_G) || seg->limit <= 0xfffff;
}

static const char *segments_wrong(const struct cpu_state *cs)
{
    const struct cpu_seg *sel_cs = &cs->seg[SEG_CS], *ss = &cs->seg[SEG_SS];
    unsigned cs_dpl = (sel_cs->attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
    unsigned cpl = cpu_cpl(cs);

    for (unsigned i = 0; i < SEG_COUNT; i++) {
        bool wide = i == SEG_FS || i == SEG_GS;

        if (wide ? !canonical(cs->seg[i].base) : cs->seg[i].base > UINT32_MAX)
            return "a segment base is impossible";
        if ((cs->seg[i].attr & SEG_ATTR_P) && !seg_limit_ok(&cs->seg[i]))
            return "a segment limit disagrees with its granularity";
    }
    if (!canonical(cs->ldtr.base) || !canonical(cs->tr.base) || !canonical(cs->gdtr.base) ||
        !canonical(cs->idtr.base))
        return "a table base is not canonical";
    if ((cs->ldtr.attr & SEG_ATTR_P) && (cs->ldtr.attr & (SEG_ATTR_S | SEG_ATTR_TYPE)) != 2)
        return "LDTR does not hold an LDT";
    if ((cs->tr.attr & SEG_ATTR_P) &&
        ((cs->tr.attr & SEG_ATTR_S) || (cs->tr.attr & 5) != 1)) /* 1, 3, 9, 11 */
        return "TR does not hold a TSS";
    if (cpu_real_mode(cs))
        return NULL;
    if (cpu_v86(cs))
        return cpl == 3 ? NULL : "virtual-8086 mode outside CPL 3";
    if (!(sel_cs->attr & SEG_ATTR_P) || !(sel_cs->attr & SEG_ATTR_S))
        return "CS holds no segment";
    if (!(sel_cs->attr & SEG_TYPE_CODE)) /* real mode's, until the first far jump */
        return cpl == 0 && cs_dpl == 0 ? NULL : "CS holds a data segment outside CPL 0";
    if (sel_cs->attr & SEG_TYPE_EXPAND ? cs_dpl > cpl : cs_dpl != cpl)
        return "the privilege levels of CS and SS disagree";
    if (cpu_long_mode(cs) && (sel_cs->attr & SEG_ATTR_L) && (sel_cs->attr & SEG_ATTR_DB))
        return "CS has both L and D";
    if ((ss->attr & SEG_ATTR_P) &&
        (!(ss->attr & SEG_ATTR_S) || (ss->attr & SEG_TYPE_CODE) || !(ss->attr & SEG_TYPE_WRITE)))
        return "SS holds no stack";
    if (!(ss->attr & SEG_ATTR_P) && !cpu_64bit(cs))
        return "SS is null outside 64-bit code";
    return NULL;
}

static const char *small_wrong(const struct cpu_state *cs)
{
    static const uint8_t zeros[6];

    for (unsigned i = 0; i < 8; i++)
        if (memcmp(cs->fpu.st[i] + 10, zeros, sizeof(zeros)))
            return "an x87 register is longer than 80 bits";
    if (!cpu_64bit(cs) && cs->rip > UINT32_MAX)
        return "RIP is above 4 GiB outside 64-bit code";
    if (cs->activity > CPU_SHUTDOWN)
        return "the activity state is unknown";
    if (cs->shadow > (CPU_SHADOW_STI | CPU_SHADOW_MOV_SS))
        return "the interrupt shadow is unknown";
    if (cs->event_pending && cs->event_has_error && cs->event_vector >= 32)
        return "an interrupt has an error code";
    return NULL;
}

int cpu_state_check(const struct cpu_state *cs, struct err *err)
{
    const char *wrong = control_wrong(cs);

    if (!wrong)
        wrong = segments_wrong(cs);
    if (!wrong)
        wrong = msrs_wrong(cs);
    if (!wrong)
        wrong = small_wrong(cs);
    if (wrong)
        return err_set(err, EINVAL, "the CPU state is impossible: %s", wrong);
    return 0;
}
