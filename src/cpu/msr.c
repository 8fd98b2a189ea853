/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU MSRs. SDM vol. 4; AMD APM vol. 2 appendix A and the BKDG/PPR of the families in cpu/model.c.
 *
 * Three kinds: those whose value matters to the CPU or comes back to the guest (struct cpu_state);
 * those that exist so that guests which read or write them without care do not fault, with a fixed
 * value; and those that are known and refused, so that a probe of them does not count as an unknown
 * access. Reserved bits and addresses that are not canonical raise #GP.
 *
 * Machine check: MC_BANKS banks that never report anything.
 */
#include "cpu/msr.h"

#include "core/vm.h"
#include "cpu/model.h"
#include "cpu/pv.h"

#define IA32_P5_MC_ADDR         0x0
#define IA32_P5_MC_TYPE         0x1
#define IA32_TIME_STAMP_COUNTER 0x10
#define IA32_PLATFORM_ID        0x17
#define EBL_CR_POWERON          0x2a
#define TEST_CTRL               0x33
#define SMI_COUNT               0x34
#define IA32_FEATURE_CONTROL    0x3a
#define IA32_TSC_ADJUST         0x3b
#define PPIN_CTL                0x4e
#define PPIN                    0x4f
#define IA32_BIOS_UPDT_TRIG     0x79
#define IA32_BIOS_SIGN_ID       0x8b
#define PLATFORM_INFO           0xce
#define CORE_CAPABILITIES       0xcf
#define IA32_MTRRCAP            0xfe
#define IA32_ARCH_CAPABILITIES  0x10a
#define BBL_CR_CTL3             0x11e
#define MISC_FEATURES_ENABLES   0x140
#define IA32_SYSENTER_CS        0x174
#define IA32_SYSENTER_ESP       0x175
#define IA32_SYSENTER_EIP       0x176
#define IA32_MCG_CAP            0x179
#define IA32_MCG_STATUS         0x17a
#define IA32_PERF_STATUS        0x198
#define IA32_PERF_CTL           0x199
#define IA32_MISC_ENABLE        0x1a0
#define IA32_DEBUGCTL           0x1d9
#define LASTBRANCHFROMIP        0x1db
#define LASTINTTOIP             0x1de
#define IA32_MTRR_PHYSBASE0     0x200
#define IA32_MTRR_PHYSMASK7     0x20f
#define IA32_MTRR_FIX64K_00000  0x250
#define IA32_MTRR_FIX16K_80000  0x258
#define IA32_MTRR_FIX16K_A0000  0x259
#define IA32_MTRR_FIX4K_C0000   0x268
#define IA32_MTRR_FIX4K_F8000   0x26f
#define IA32_PAT                0x277
#define IA32_MTRR_DEF_TYPE      0x2ff
#define IA32_MC0_CTL            0x400
#define PPERF                   0x64e
#define IA32_EFER               0xc0000080
#define IA32_STAR               0xc0000081
#define IA32_LSTAR              0xc0000082
#define IA32_CSTAR              0xc0000083
#define IA32_FMASK              0xc0000084
#define IA32_FS_BASE            0xc0000100
#define IA32_GS_BASE            0xc0000101
#define IA32_KERNEL_GS_BASE     0xc0000102
#define IA32_TSC_AUX            0xc0000103

#define AMD_SYSCFG         0xc0010010
#define AMD_HWCR           0xc0010015
#define AMD_IORR_BASE0     0xc0010016
#define AMD_IORR_MASK1     0xc0010019
#define AMD_TOP_MEM        0xc001001a
#define AMD_CLK_CTL        0xc001001b
#define AMD_TOP_MEM2       0xc001001d
#define AMD_NB_CFG         0xc001001f
#define AMD_PATCH_LOADER   0xc0010020
#define AMD_INT_PENDING    0xc0010055
#define AMD_MMIO_CFG_BASE  0xc0010058
#define AMD_SMBASE         0xc0010111
#define AMD_SMM_ADDR       0xc0010112
#define AMD_SMM_MASK       0xc0010113
#define AMD_VM_CR          0xc0010114
#define AMD_OSVW_ID_LENGTH 0xc0010140
#define AMD_OSVW_STATUS    0xc0010141
#define AMD_LS_CFG         0xc0011020
#define AMD_DE_CFG         0xc0011029
#define AMD_BU_CFG2        0xc001102a

#define MC_BANKS             4
#define MTRRCAP_FIX          BIT(8)
#define MTRRCAP_WC           BIT(10)
#define MTRR_DEF_FE          BIT(10)
#define MTRR_DEF_E           BIT(11)
#define MTRR_MASK_VALID      BIT(11)
#define FEATURE_CONTROL_LOCK BIT(0)
#define DEBUGCTL_KNOWN       (BIT(0) | BIT(1)) /* LBR, BTF */
/* Fast strings, TCC, EIST, MONITOR (absent), CPUID limit, xTPR, XD disable. */
#define MISC_ENABLE_WRITABLE (BIT(0) | BIT(3) | BIT(16) | BIT(18) | BIT(22) | BIT(23) | BIT(34))
/* The update that the CPU claims to have: Intel in the upper half. */
#define INTEL_MICROCODE (1ull << 32)
#define AMD_MICROCODE   0x01000065
#define HWCR_TSC_FREQ_SEL                                                  \
    BIT(24) /* Linux complains if the TSC does not count at P0's frequency \
             */
#define DE_CFG_LFENCE_SERIALIZE BIT(1)
#define VM_CR_SVM_LOCKED_OFF    0x18

static const struct cpu_model *model(const struct cpu_msrs *m)
{
    return m->vcpu->model;
}

static void changed(const struct cpu_msrs *m)
{
    if (m->changed)
        m->changed(m->opaque);
}

/* Stores an address, or refuses it. */
static bool put_address(uint64_t *field, uint64_t value)
{
    if (!canonical(value))
        return false;
    *field = value;
    return true;
}

/* ---- TSC ------------------------------------------------------------------------------ */

uint64_t cpu_tsc(struct vcpu *vcpu, const struct cpu_state *cs)
{
    return gate_input(&vcpu->vm->gate, GATE_TSC, cs->icount, vm_tsc(vcpu->vm) + cs->tsc_offset);
}

static bool tsc_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = index == IA32_TSC_ADJUST ? m->cs->tsc_adjust : cpu_tsc(m->vcpu, m->cs);
    return index != IA32_TSC_ADJUST || cpu_has(model(m), FEAT_TSC_ADJUST);
}

static void tsc_jumps(struct vcpu *vcpu)
{
    if (vcpu->intc_ops && vcpu->intc_ops->tsc_jumps)
        vcpu->intc_ops->tsc_jumps(vcpu->intc);
}

static bool tsc_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;
    struct cpu_state *cs = m->cs;
    uint64_t delta;

    if (index == IA32_TSC_ADJUST) {
        if (!cpu_has(model(m), FEAT_TSC_ADJUST))
            return false;
        delta = value - cs->tsc_adjust;
    } else {
        delta = value - cpu_tsc(m->vcpu, cs);
    }
    tsc_jumps(m->vcpu);
    /* Both move together, whichever was written (SDM vol. 3B 18.17.3). */
    cs->tsc_offset += delta;
    cs->tsc_adjust += delta;
    tsc_jumps(m->vcpu);
    pv_clock_update(m->vcpu, cs);
    return true;
}

/* ---- system calls, segment bases ------------------------------------------------------ */

static bool sysenter_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = index == IA32_SYSENTER_CS    ? m->cs->sysenter_cs
             : index == IA32_SYSENTER_ESP ? m->cs->sysenter_esp
                                          : m->cs->sysenter_eip;
    return cpu_has(model(m), FEAT_SEP);
}

static bool sysenter_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    if (!cpu_has(model(m), FEAT_SEP))
        return false;
    if (index == IA32_SYSENTER_CS) {
        m->cs->sysenter_cs = value;
        return true;
    }
    return put_address(index == IA32_SYSENTER_ESP ? &m->cs->sysenter_esp : &m->cs->sysenter_eip,
                       value);
}

static bool has_efer(const struct cpu_model *model)
{
    return cpu_has(model, FEAT_LM) || cpu_has(model, FEAT_NX) || cpu_has(model, FEAT_SYSCALL);
}

static bool efer_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    *value = m->cs->efer;
    return has_efer(model(m));
}

static bool efer_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;
    struct cpu_state *cs = m->cs;

    (void)index;
    if (!has_efer(model(m)) || (value & ~(cpu_model_efer_mask(model(m)) | EFER_LMA)))
        return false;
    if (((value ^ cs->efer) & EFER_LME) && (cs->cr0 & CR0_PG))
        return false;
    cs->efer = (value & ~EFER_LMA) | (cs->efer & EFER_LMA);
    changed(m);
    return true;
}

static uint64_t *syscall_field(struct cpu_state *cs, uint32_t index)
{
    switch (index) {
    case IA32_STAR:
        return &cs->star;
    case IA32_LSTAR:
        return &cs->lstar;
    case IA32_CSTAR:
        return &cs->cstar;
    default:
        return &cs->sfmask;
    }
}

static bool syscall_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = *syscall_field(m->cs, index);
    return cpu_has(model(m), FEAT_SYSCALL);
}

static bool syscall_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;
    uint64_t *field = syscall_field(m->cs, index);

    if (!cpu_has(model(m), FEAT_SYSCALL))
        return false;
    if (index == IA32_LSTAR || index == IA32_CSTAR)
        return put_address(field, value);
    if (index == IA32_FMASK && value > UINT32_MAX)
        return false;
    *field = value;
    return true;
}

static uint64_t *base_field(struct cpu_state *cs, uint32_t index)
{
    switch (index) {
    case IA32_FS_BASE:
        return &cs->seg[SEG_FS].base;
    case IA32_GS_BASE:
        return &cs->seg[SEG_GS].base;
    default:
        return &cs->kernel_gs_base;
    }
}

static bool base_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = *base_field(m->cs, index);
    return cpu_has(model(m), FEAT_LM);
}

static bool base_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    if (!cpu_has(model(m), FEAT_LM) || !put_address(base_field(m->cs, index), value))
        return false;
    if (index != IA32_KERNEL_GS_BASE)
        changed(m);
    return true;
}

static bool has_tsc_aux(const struct cpu_model *model)
{
    return cpu_has(model, FEAT_RDTSCP) || cpu_has(model, FEAT_RDPID);
}

static bool tsc_aux_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    *value = m->cs->tsc_aux;
    return has_tsc_aux(model(m));
}

static bool tsc_aux_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    if (!has_tsc_aux(model(m)) || value > UINT32_MAX)
        return false;
    m->cs->tsc_aux = value;
    return true;
}

/* ---- memory types (SDM vol. 3A 12.11, 12.12) ------------------------------------------ */

/* Types that the MTRRs (pat false) or the PAT know, as bits. */
#define TYPES_MTRR 0x73u /* UC WC WT WP WB */
#define TYPES_PAT  0xf3u /* and UC- */

static bool type_ok(uint64_t type, unsigned known)
{
    return type < 8 && (known >> type & 1);
}

static bool types_ok(uint64_t eight, unsigned known)
{
    for (unsigned i = 0; i < 64; i += 8)
        if (!type_ok(eight >> i & 0xff, known))
            return false;
    return true;
}

static bool pat_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    *value = m->cs->pat;
    return cpu_has(model(m), FEAT_PAT);
}

static bool pat_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    if (!cpu_has(model(m), FEAT_PAT) || !types_ok(value, TYPES_PAT))
        return false;
    m->cs->pat = value;
    return true;
}

static uint64_t *mtrr_fixed(struct cpu_state *cs, uint32_t index)
{
    if (index == IA32_MTRR_FIX64K_00000)
        return &cs->mtrr_fixed[0];
    if (index <= IA32_MTRR_FIX16K_A0000)
        return &cs->mtrr_fixed[1 + (index & 1)];
    return &cs->mtrr_fixed[3 + (index & 7)];
}

static uint64_t *mtrr_field(struct cpu_state *cs, uint32_t index)
{
    unsigned n = (index - IA32_MTRR_PHYSBASE0) / 2 % CPU_MTRR_VAR;

    if (index == IA32_MTRR_DEF_TYPE)
        return &cs->mtrr_def_type;
    if (index >= IA32_MTRR_FIX64K_00000)
        return mtrr_fixed(cs, index);
    return index & 1 ? &cs->mtrr_mask[n] : &cs->mtrr_base[n];
}

static bool mtrr_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    if (index == IA32_MTRRCAP)
        *value = CPU_MTRR_VAR | MTRRCAP_FIX | MTRRCAP_WC;
    else
        *value = *mtrr_field(m->cs, index);
    return cpu_has(model(m), FEAT_MTRR);
}

static bool mtrr_value_ok(const struct cpu_model *model, uint32_t index, uint64_t value)
{
    uint64_t page_bits = (BIT(model->phys_bits) - 1) & ~PAGE_MASK;

    if (index == IA32_MTRR_DEF_TYPE)
        return !(value & ~(0xff | MTRR_DEF_FE | MTRR_DEF_E)) && type_ok(value & 0xff, TYPES_MTRR);
    if (index >= IA32_MTRR_FIX64K_00000)
        return types_ok(value, TYPES_MTRR);
    if (index & 1)
        return !(value & ~(page_bits | MTRR_MASK_VALID));
    return !(value & ~(page_bits | 0xff)) && type_ok(value & 0xff, TYPES_MTRR);
}

static bool mtrr_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    if (!cpu_has(model(m), FEAT_MTRR) || !mtrr_value_ok(model(m), index, value))
        return false;
    *mtrr_field(m->cs, index) = value;
    return true;
}

/* ---- machine check (SDM vol. 3B chapter 16) ------------------------------------------- */

static bool mcg_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = index == IA32_MCG_CAP ? MC_BANKS : m->cs->mcg_status;
    return cpu_has(model(m), FEAT_MCA);
}

static bool mcg_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    if (!cpu_has(model(m), FEAT_MCA) || index == IA32_MCG_CAP || value > 7)
        return false;
    m->cs->mcg_status = value;
    return true;
}

static bool mc_bank_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    *value = index & 3 ? 0 : UINT64_MAX; /* CTL: all errors on; STATUS, ADDR, MISC: none seen */
    return cpu_has(model(m), FEAT_MCA);
}

static bool mc_bank_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    return cpu_has(model(m), FEAT_MCA) && (!(index & 3) || !value);
}

/* P5's two, which later CPUs keep. */
static bool p5_mc_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    (void)index;
    *value = 0;
    return cpu_has(model(m), FEAT_MCE);
}

/* ---- values that only have to be there ------------------------------------------------ */

static bool ignore_write(void *opaque, uint32_t index, uint64_t value)
{
    (void)opaque;
    (void)index;
    (void)value;
    return true;
}

static bool zero_write(void *opaque, uint32_t index, uint64_t value)
{
    (void)opaque;
    (void)index;
    return !value;
}

static bool intel_fixed_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;
    uint64_t ratio = model(m)->tsc_hz / 100000000;

    switch (index) {
    case IA32_BIOS_SIGN_ID:
        *value = INTEL_MICROCODE;
        break;
    case PLATFORM_INFO: /* the ratio of the TSC to 100 MHz */
    case IA32_PERF_STATUS:
    case IA32_PERF_CTL:
        *value = (ratio & 0xff) << 8;
        break;
    case BBL_CR_CTL3: /* the level 2 cache is there and on */
        *value = BIT(8) | BIT(0);
        break;
    default:
        *value = 0;
        break;
    }
    return true;
}

static bool amd_fixed_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    switch (index) {
    case IA32_BIOS_SIGN_ID:
        *value = AMD_MICROCODE;
        break;
    case AMD_HWCR:
        *value = HWCR_TSC_FREQ_SEL;
        break;
    case AMD_SMBASE:
        *value = m->cs->smbase;
        break;
    case AMD_VM_CR:
        *value = VM_CR_SVM_LOCKED_OFF;
        break;
    case AMD_DE_CFG:
        *value = DE_CFG_LFENCE_SERIALIZE;
        break;
    default:
        *value = 0;
        break;
    }
    return true;
}

/* ---- Intel's own ---------------------------------------------------------------------- */

static bool intel_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    switch (index) {
    case IA32_FEATURE_CONTROL:
        *value = m->cs->feature_control;
        break;
    case IA32_MISC_ENABLE:
        *value = m->cs->misc_enable;
        break;
    default:
        *value = m->cs->debugctl;
        break;
    }
    return true;
}

static bool intel_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;
    struct cpu_state *cs = m->cs;

    switch (index) {
    case IA32_FEATURE_CONTROL:
        if ((cs->feature_control & FEATURE_CONTROL_LOCK) || (value & ~FEATURE_CONTROL_LOCK))
            return false;
        cs->feature_control = value;
        return true;
    case IA32_MISC_ENABLE:
        cs->misc_enable =
            (cs->misc_enable & ~MISC_ENABLE_WRITABLE) | (value & MISC_ENABLE_WRITABLE);
        return true;
    default:
        if (value & ~DEBUGCTL_KNOWN)
            return false;
        cs->debugctl = value;
        return true;
    }
}

/* ---- the tables ----------------------------------------------------------------------- */

static const struct msr_range common_msrs[] = {
    {IA32_P5_MC_ADDR, IA32_P5_MC_TYPE, "P5_MC", p5_mc_read, zero_write},
    {IA32_TIME_STAMP_COUNTER, IA32_TIME_STAMP_COUNTER, "IA32_TIME_STAMP_COUNTER", tsc_read,
     tsc_write},
    {IA32_TSC_ADJUST, IA32_TSC_ADJUST, "IA32_TSC_ADJUST", tsc_read, tsc_write},
    {IA32_MTRRCAP, IA32_MTRRCAP, "IA32_MTRRCAP", mtrr_read, NULL},
    {IA32_SYSENTER_CS, IA32_SYSENTER_CS, "IA32_SYSENTER_CS", sysenter_read, sysenter_write},
    {IA32_SYSENTER_ESP, IA32_SYSENTER_ESP, "IA32_SYSENTER_ESP", sysenter_read, sysenter_write},
    {IA32_SYSENTER_EIP, IA32_SYSENTER_EIP, "IA32_SYSENTER_EIP", sysenter_read, sysenter_write},
    {IA32_MCG_CAP, IA32_MCG_CAP, "IA32_MCG_CAP", mcg_read, mcg_write},
    {IA32_MCG_STATUS, IA32_MCG_STATUS, "IA32_MCG_STATUS", mcg_read, mcg_write},
    {IA32_MTRR_PHYSBASE0, IA32_MTRR_PHYSMASK7, "IA32_MTRR_PHYS", mtrr_read, mtrr_write},
    {IA32_MTRR_FIX64K_00000, IA32_MTRR_FIX64K_00000, "IA32_MTRR_FIX64K", mtrr_read, mtrr_write},
    {IA32_MTRR_FIX16K_80000, IA32_MTRR_FIX16K_A0000, "IA32_MTRR_FIX16K", mtrr_read, mtrr_write},
    {IA32_MTRR_FIX4K_C0000, IA32_MTRR_FIX4K_F8000, "IA32_MTRR_FIX4K", mtrr_read, mtrr_write},
    {IA32_PAT, IA32_PAT, "IA32_PAT", pat_read, pat_write},
    {IA32_MTRR_DEF_TYPE, IA32_MTRR_DEF_TYPE, "IA32_MTRR_DEF_TYPE", mtrr_read, mtrr_write},
    {IA32_MC0_CTL, IA32_MC0_CTL + MC_BANKS * 4 - 1, "IA32_MCi", mc_bank_read, mc_bank_write},
    {IA32_EFER, IA32_EFER, "IA32_EFER", efer_read, efer_write},
    {IA32_STAR, IA32_STAR, "IA32_STAR", syscall_read, syscall_write},
    {IA32_LSTAR, IA32_LSTAR, "IA32_LSTAR", syscall_read, syscall_write},
    {IA32_CSTAR, IA32_CSTAR, "IA32_CSTAR", syscall_read, syscall_write},
    {IA32_FMASK, IA32_FMASK, "IA32_FMASK", syscall_read, syscall_write},
    {IA32_FS_BASE, IA32_FS_BASE, "IA32_FS_BASE", base_read, base_write},
    {IA32_GS_BASE, IA32_GS_BASE, "IA32_GS_BASE", base_read, base_write},
    {IA32_KERNEL_GS_BASE, IA32_KERNEL_GS_BASE, "IA32_KERNEL_GS_BASE", base_read, base_write},
    {IA32_TSC_AUX, IA32_TSC_AUX, "IA32_TSC_AUX", tsc_aux_read, tsc_aux_write},
    {0, 0, NULL, NULL, NULL},
};

static const struct msr_range intel_msrs[] = {
    {IA32_PLATFORM_ID, IA32_PLATFORM_ID, "IA32_PLATFORM_ID", intel_fixed_read, NULL},
    {EBL_CR_POWERON, EBL_CR_POWERON, "EBL_CR_POWERON", intel_fixed_read, ignore_write},
    {IA32_FEATURE_CONTROL, IA32_FEATURE_CONTROL, "IA32_FEATURE_CONTROL", intel_read, intel_write},
    {IA32_BIOS_UPDT_TRIG, IA32_BIOS_UPDT_TRIG, "IA32_BIOS_UPDT_TRIG", NULL, ignore_write},
    {IA32_BIOS_SIGN_ID, IA32_BIOS_SIGN_ID, "IA32_BIOS_SIGN_ID", intel_fixed_read, ignore_write},
    {PLATFORM_INFO, PLATFORM_INFO, "PLATFORM_INFO", intel_fixed_read, NULL},
    {BBL_CR_CTL3, BBL_CR_CTL3, "BBL_CR_CTL3", intel_fixed_read, ignore_write},
    {MISC_FEATURES_ENABLES, MISC_FEATURES_ENABLES, "MISC_FEATURES_ENABLES", intel_fixed_read,
     zero_write},
    {IA32_PERF_STATUS, IA32_PERF_STATUS, "IA32_PERF_STATUS", intel_fixed_read, NULL},
    {IA32_PERF_CTL, IA32_PERF_CTL, "IA32_PERF_CTL", intel_fixed_read, ignore_write},
    {IA32_MISC_ENABLE, IA32_MISC_ENABLE, "IA32_MISC_ENABLE", intel_read, intel_write},
    {IA32_DEBUGCTL, IA32_DEBUGCTL, "IA32_DEBUGCTL", intel_read, intel_write},
    {LASTBRANCHFROMIP, LASTINTTOIP, "LASTBRANCH", intel_fixed_read, NULL},
    /* What Linux and Windows probe by the host's model number, or everywhere, and do without. */
    {TEST_CTRL, TEST_CTRL, "TEST_CTRL", NULL, NULL},
    {SMI_COUNT, SMI_COUNT, "SMI_COUNT", NULL, NULL},
    {PPIN_CTL, PPIN, "PPIN", NULL, NULL},
    {CORE_CAPABILITIES, CORE_CAPABILITIES, "IA32_CORE_CAPABILITIES", NULL, NULL},
    {PPERF, PPERF, "PPERF", NULL, NULL},
    {AMD_DE_CFG, AMD_DE_CFG, "DE_CFG", NULL, NULL},
    {0, 0, NULL, NULL, NULL},
};

static const struct msr_range amd_msrs[] = {
    {IA32_BIOS_SIGN_ID, IA32_BIOS_SIGN_ID, "PATCH_LEVEL", amd_fixed_read, ignore_write},
    {IA32_DEBUGCTL, IA32_DEBUGCTL, "DEBUGCTL", intel_read, intel_write},
    {LASTBRANCHFROMIP, LASTINTTOIP, "LASTBRANCH", intel_fixed_read, NULL},
    {AMD_SYSCFG, AMD_SYSCFG, "SYSCFG", amd_fixed_read, ignore_write},
    {AMD_HWCR, AMD_HWCR, "HWCR", amd_fixed_read, ignore_write},
    {AMD_IORR_BASE0, AMD_IORR_MASK1, "IORR", amd_fixed_read, ignore_write},
    {AMD_TOP_MEM, AMD_TOP_MEM, "TOP_MEM", amd_fixed_read, ignore_write},
    {AMD_CLK_CTL, AMD_CLK_CTL, "CLK_CTL", amd_fixed_read, ignore_write},
    {AMD_TOP_MEM2, AMD_TOP_MEM2, "TOP_MEM2", amd_fixed_read, ignore_write},
    {AMD_NB_CFG, AMD_NB_CFG, "NB_CFG", amd_fixed_read, ignore_write},
    {AMD_PATCH_LOADER, AMD_PATCH_LOADER, "PATCH_LOADER", NULL, ignore_write},
    {AMD_INT_PENDING, AMD_INT_PENDING, "INT_PENDING", amd_fixed_read, ignore_write},
    {AMD_MMIO_CFG_BASE, AMD_MMIO_CFG_BASE, "MMIO_CFG_BASE", amd_fixed_read, ignore_write},
    {AMD_SMBASE, AMD_SMBASE, "SMBASE", amd_fixed_read, NULL},
    {AMD_SMM_ADDR, AMD_SMM_MASK, "SMM_TSEG", amd_fixed_read, ignore_write},
    {AMD_VM_CR, AMD_VM_CR, "VM_CR", amd_fixed_read, ignore_write},
    {AMD_OSVW_ID_LENGTH, AMD_OSVW_STATUS, "OSVW", amd_fixed_read, ignore_write},
    {AMD_LS_CFG, AMD_BU_CFG2, "LS_CFG..BU_CFG2", amd_fixed_read, ignore_write},
    /* Performance counters: refused, as CPUID says. Linux probes them all the same. */
    {0xc0010000, 0xc0010007, "PERF_LEGACY", NULL, NULL},
    {0xc0010200, 0xc001020b, "PERF_CTL", NULL, NULL},
    {0, 0, NULL, NULL, NULL},
};

/* SDM vol. 4 table 2-2; why they are set: cpu/model.c, "not affected". */
#define ARCH_CAP_RDCL_NO            (1ull << 0)
#define ARCH_CAP_SKIP_L1DFL_VMENTRY (1ull << 3)
#define ARCH_CAP_SSB_NO             (1ull << 4)
#define ARCH_CAP_MDS_NO             (1ull << 5)
#define ARCH_CAP_IF_PSCHANGE_MC_NO  (1ull << 6)
#define ARCH_CAP_TAA_NO             (1ull << 8)
#define ARCH_CAP_SBDR_SSDP_NO       (1ull << 13)
#define ARCH_CAP_FBSDP_NO           (1ull << 14)
#define ARCH_CAP_PSDP_NO            (1ull << 15)
#define ARCH_CAP_BHI_NO             (1ull << 20)
#define ARCH_CAP_PBRSB_NO           (1ull << 24)
#define ARCH_CAP_GDS_NO             (1ull << 26)
#define ARCH_CAP_RFDS_NO            (1ull << 27)
#define ARCH_CAP_ITS_NO             (1ull << 62)

static bool arch_capabilities_read(void *opaque, uint32_t index, uint64_t *value)
{
    (void)opaque;
    (void)index;
    *value = ARCH_CAP_RDCL_NO | ARCH_CAP_SKIP_L1DFL_VMENTRY | ARCH_CAP_SSB_NO | ARCH_CAP_MDS_NO |
             ARCH_CAP_IF_PSCHANGE_MC_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO |
             ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO |
             ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO;
    return true;
}

static const struct msr_range arch_capabilities_msrs[] = {
    {IA32_ARCH_CAPABILITIES, IA32_ARCH_CAPABILITIES, "IA32_ARCH_CAPABILITIES",
     arch_capabilities_read, NULL},
    {0},
};

void cpu_msrs_attach(struct cpu_msrs *m)
{
    const struct cpu_model *model = m->vcpu->model;

    if (!cpu_has(model, FEAT_MSR))
        return;
    vcpu_add_msrs(m->vcpu, common_msrs, m);
    vcpu_add_msrs(m->vcpu, model->vendor == CPU_INTEL ? intel_msrs : amd_msrs, m);
    if (cpu_has(model, FEAT_ARCH_CAPABILITIES))
        vcpu_add_msrs(m->vcpu, arch_capabilities_msrs, m);
    if (cpu_has(model, FEAT_HYPERVISOR))
        vcpu_add_msrs(m->vcpu, pv_msrs, m);
}
