/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The canonical CPU state: every register an engine owns, in one struct, in no host's layout. Engines
 * swap it at any instruction boundary; snapshots, `doppel inspect`, gdb and reports read it.
 *
 * Register numbers are the encoding's: rax rcx rdx rbx rsp rbp rsi rdi r8..r15; es cs ss ds fs gs.
 * Intel SDM vol. 1 chapter 3, vol. 3A chapters 2 to 6; AMD APM vol. 2.
 */
#ifndef CPU_CPU_STATE_H
#define CPU_CPU_STATE_H

#include "base/types.h"
#include "core/state.h"

enum { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R15 = 15 };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* Hidden part of a segment register. attr: descriptor bits 40-47 in bits 0-7, bits 52-55 in 12-15. */
#define SEG_ATTR_TYPE 0x000f
#define SEG_ATTR_S 0x0010
#define SEG_ATTR_DPL 0x0060
#define SEG_ATTR_DPL_SHIFT 5
#define SEG_ATTR_P 0x0080 /* clear: the register is unusable (null selector) */
#define SEG_ATTR_AVL 0x1000
#define SEG_ATTR_L 0x2000
#define SEG_ATTR_DB 0x4000
#define SEG_ATTR_G 0x8000
/* Type bits of code and data segments (S = 1). */
#define SEG_TYPE_ACCESSED 1
#define SEG_TYPE_WRITE 2  /* data: writable; code: readable */
#define SEG_TYPE_EXPAND 4 /* data: expand-down; code: conforming */
#define SEG_TYPE_CODE 8

struct cpu_seg {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity already applied */
    uint16_t selector;
    uint16_t attr;
};

struct cpu_dtr {
    uint64_t base;
    uint16_t limit;
    uint16_t pad[3]; /* zero */
};

#define RFLAGS_CF BIT(0)
#define RFLAGS_ONE BIT(1)
#define RFLAGS_PF BIT(2)
#define RFLAGS_AF BIT(4)
#define RFLAGS_ZF BIT(6)
#define RFLAGS_SF BIT(7)
#define RFLAGS_TF BIT(8)
#define RFLAGS_IF BIT(9)
#define RFLAGS_DF BIT(10)
#define RFLAGS_OF BIT(11)
#define RFLAGS_IOPL (3ull << 12)
#define RFLAGS_IOPL_SHIFT 12
#define RFLAGS_NT BIT(14)
#define RFLAGS_RF BIT(16)
#define RFLAGS_VM BIT(17)
#define RFLAGS_AC BIT(18)
#define RFLAGS_VIF BIT(19)
#define RFLAGS_VIP BIT(20)
#define RFLAGS_ID BIT(21)
#define RFLAGS_ARITH                                                                               \
    (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME BIT(0)
#define CR4_PVI BIT(1)
#define CR4_TSD BIT(2)
#define CR4_DE BIT(3)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_PCE BIT(8)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_LA57 BIT(12)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_FSGSBASE BIT(16)
#define CR4_PCIDE BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define CR4_PKE BIT(22)

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)
#define EFER_SVME BIT(12)
#define EFER_FFXSR BIT(14)

#define XCR0_X87 BIT(0)
#define XCR0_SSE BIT(1)
#define XCR0_AVX BIT(2)
#define XCR0_OPMASK BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM BIT(7)
#define XCR0_AVX512 (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

enum {
    VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7,
    VEC_DF = 8, VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16,
    VEC_AC = 17, VEC_MC = 18, VEC_XM = 19, VEC_VE = 20, VEC_CP = 21,
};

enum cpu_activity {
    CPU_RUNNING,
    CPU_HALTED,        /* HLT: an interrupt wakes it */
    CPU_WAIT_FOR_SIPI, /* application processor after INIT */
    CPU_SHUTDOWN,      /* triple fault */
};

/* Blocking that lasts one instruction. */
#define CPU_SHADOW_STI 1
#define CPU_SHADOW_MOV_SS 2

/* Vector, SSE and x87 state by component. ZMM registers hold XMM and YMM in their low bytes. */
struct cpu_fpu {
    uint8_t zmm[32][64];
    uint64_t k[8];
    uint8_t st[8][16]; /* ST(0)..ST(7) relative to TOP, as FXSAVE stores them; 10 bytes used */
    uint16_t fcw, fsw;
    uint8_t ftw; /* abridged: one bit per physical register, as in FXSAVE */
    uint8_t pad;
    uint16_t fop; /* 11 bits */
    uint64_t fip, fdp; /* 64-bit forms; with FCS and FDS where a 32-bit form is stored */
    uint16_t fcs, fds;
    uint32_t mxcsr;
};

#define CPU_MTRR_VAR 8

struct cpu_state {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    struct cpu_seg seg[SEG_COUNT];
    struct cpu_seg ldtr, tr;
    struct cpu_dtr gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4;
    uint64_t pdpte[4]; /* PAE paging: loaded with CR3 */
    uint64_t dr[4], dr6, dr7;
    uint64_t xcr0, xss;
    struct cpu_fpu fpu;

    /* MSRs that the CPU itself owns; the local APIC's stand in its device. */
    uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc_aux, tsc_offset, tsc_adjust;
    uint64_t pat, misc_enable, spec_ctrl, debugctl, feature_control;
    uint64_t mtrr_def_type, mtrr_base[CPU_MTRR_VAR], mtrr_mask[CPU_MTRR_VAR], mtrr_fixed[11];
    uint64_t mcg_status, mcg_ctl;
    uint64_t pv_system_time, pv_wall_clock, pv_async_pf, pv_steal_time, pv_eoi, pv_poll_control;
    uint64_t smbase;

    uint64_t icount; /* instructions retired, faulting ones included */

    /* An event whose delivery was interrupted, or that is to be delivered next. */
    uint64_t event_cr2;
    uint32_t event_error;
    uint8_t event_pending; /* 0, or 1 */
    uint8_t event_vector;
    uint8_t event_has_error;
    uint8_t event_soft; /* INT n, INT3, INTO: RIP after the instruction, DPL checked */

    uint64_t pending_dbg; /* DR6 bits of a #DB that waits for the instruction boundary */
    uint8_t activity;     /* enum cpu_activity */
    uint8_t shadow;       /* CPU_SHADOW_* */
    uint8_t nmi_blocked;  /* until IRET */
    uint8_t nmi_pending;
    uint8_t sipi_vector;
    uint8_t in_smm;
    uint8_t pad2[2];
};

/* Every byte of the struct, for snapshots and inspect. */
extern const struct state cpu_state_table;

/* Power-on and INIT values (SDM vol. 3A table 10-1). INIT keeps the vector state, MTRRs and TSC. */
void cpu_state_reset(struct cpu_state *cs, bool is_bsp, uint32_t signature);
void cpu_state_init(struct cpu_state *cs, bool is_bsp, uint32_t signature);
/* Refuses combinations no processor can be in (loaded snapshots). */
int cpu_state_check(const struct cpu_state *cs, struct err *err);

/* Bits 63 to 47 are the same: what 4-level paging can translate (SDM vol. 1, 3.3.7.1). */
static inline bool canonical(uint64_t addr)
{
    return (addr + BIT(47)) >> 48 == 0;
}

static inline unsigned cpu_cpl(const struct cpu_state *cs)
{
    return (cs->seg[SEG_SS].attr & SEG_ATTR_DPL) >> SEG_ATTR_DPL_SHIFT;
}

static inline bool cpu_long_mode(const struct cpu_state *cs)
{
    return cs->efer & EFER_LMA;
}

static inline bool cpu_64bit(const struct cpu_state *cs)
{
    return (cs->efer & EFER_LMA) && (cs->seg[SEG_CS].attr & SEG_ATTR_L);
}

static inline bool cpu_real_mode(const struct cpu_state *cs)
{
    return !(cs->cr0 & CR0_PE);
}

static inline bool cpu_v86(const struct cpu_state *cs)
{
    return (cs->cr0 & CR0_PE) && (cs->rflags & RFLAGS_VM);
}

#endif
