/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models and CPUID. SDM vol. 2A "CPUID" and vol. 1 chapter 13 (XSAVE); AMD APM vol. 3 appendix
 * E; the levels v1 to v4 are those of the x86-64 psABI, each with the system features of processors
 * of its time.
 *
 * Instructions that the engines hand to the host CPU need the host's own CPUID bit, and its
 * operating system's consent for vector state (XCR0). System features that doppel provides itself
 * (EMULATED) do not. Never offered, because no engine provides them: PKU, CET, AMX, LA57, TSX, SGX,
 * MPX, MONITOR, performance counters, XSAVEOPT, XSAVEC, XSAVES.
 *
 * Topology: one package of ncpus cores with one thread each; the APIC id is the core's number.
 */
#include "cpu/model.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hostcpu.h"
#include "cpu/cpu_state.h"
#include "cpu/pv.h"

#define LEAF_TOPOLOGY         0xb
#define LEAF_XSAVE            0xd
#define LEAF_TSC              0x15
#define LEAF_FREQUENCY        0x16
#define LEAF_EXT              0x80000000
#define LEAF_EXT_AMD_LAST     0x8000001e
#define LEAF_EXT_AMD_FEATURES 0x80000021

#define EDX1_HTT       BIT(28)
#define AMD_CMP_LEGACY BIT(1)
#define AMD_TOPOEXT    BIT(22)
/* Bits of leaf 1 EDX that AMD repeats in leaf 80000001h EDX. */
#define AMD_EDX_REPEATED        0x0183f3ffu
#define MISC_ENABLE_LIMIT_CPUID BIT(22)

/* The clock that leaf 15h relates the TSC to: the local APIC timer's. */
#define CRYSTAL_HZ 1000000000ull

struct feature_bit {
    uint32_t leaf;
    uint8_t subleaf, reg, bit;
};

static const struct feature_bit feature_bits[FEAT_COUNT] = {
#define FEATURE(name, leaf, subleaf, reg, bit) {leaf, subleaf, reg, bit},
#include "cpu/features.def"
#undef FEATURE
};

static const char *const feature_names[FEAT_COUNT] = {
#define FEATURE(name, leaf, subleaf, reg, bit) #name,
#include "cpu/features.def"
#undef FEATURE
};

/* ---- lists ---------------------------------------------------------------------------- */

#define LIST(...)             \
    (const uint8_t[])         \
    {                         \
        __VA_ARGS__, LIST_END \
    }
#define LIST_END 0xff
_Static_assert(FEAT_COUNT < LIST_END, "feature numbers fit the lists");

/* What the engines and chips provide whatever the host CPU has. */
static const uint8_t *const emulated =
    LIST(FEAT_FPU, FEAT_VME, FEAT_DE, FEAT_PSE, FEAT_TSC, FEAT_MSR, FEAT_PAE, FEAT_MCE, FEAT_CX8,
         FEAT_APIC, FEAT_SEP, FEAT_MTRR, FEAT_PGE, FEAT_MCA, FEAT_CMOV, FEAT_PAT, FEAT_PSE36,
         FEAT_CLFSH, FEAT_MMX, FEAT_FXSR, FEAT_SSE, FEAT_SSE2, FEAT_SS, FEAT_PCID, FEAT_X2APIC,
         FEAT_TSC_DEADLINE, FEAT_HYPERVISOR, FEAT_ARAT, FEAT_FSGSBASE, FEAT_TSC_ADJUST, FEAT_SMEP,
         FEAT_ERMS, FEAT_INVPCID, FEAT_SMAP, FEAT_UMIP, FEAT_RDPID, FEAT_FSRM, FEAT_SYSCALL,
         FEAT_NX, FEAT_PDPE1GB, FEAT_RDTSCP, FEAT_LM, FEAT_LAHF_LM, FEAT_INVARIANT_TSC,
         FEAT_ARCH_CAPABILITIES, FEAT_BTC_NO, FEAT_SRSO_NO, FEAT_TSA_SQ_NO, FEAT_TSA_L1_NO);

/*
 * "Not affected" bits. A guest's mitigation for a flaw of real processors (flushing buffers,
 * unmapping its kernel, untraining the return predictor) does nothing for it on a software engine:
 * its two halves are kept apart by checks of ours, in one host address space. Saying so spares it
 * the work.
 */
static const uint8_t *const only_intel = LIST(FEAT_ARCH_CAPABILITIES);
static const uint8_t *const only_amd = LIST(FEAT_SRSO_NO, FEAT_TSA_SQ_NO, FEAT_TSA_L1_NO);

/* Not in any model: OSXSAVE is state, and LOCK MOV CR0 is not decoded. */
static const uint8_t *const never = LIST(FEAT_OSXSAVE, FEAT_CR8_LEGACY);

/* Useless without the first one. */
static const uint8_t *const needs_xsave = LIST(
    FEAT_XSAVE, FEAT_XGETBV1, FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_VAES, FEAT_VPCLMULQDQ,
    FEAT_AVX512F, FEAT_AVX512DQ, FEAT_AVX512IFMA, FEAT_AVX512CD, FEAT_AVX512BW, FEAT_AVX512VL,
    FEAT_AVX512VBMI, FEAT_AVX512VBMI2, FEAT_AVX512VNNI, FEAT_AVX512BITALG, FEAT_AVX512VPOPCNTDQ);
static const uint8_t *const needs_avx = LIST(
    FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_VAES, FEAT_VPCLMULQDQ, FEAT_AVX512F,
    FEAT_AVX512DQ, FEAT_AVX512IFMA, FEAT_AVX512CD, FEAT_AVX512BW, FEAT_AVX512VL, FEAT_AVX512VBMI,
    FEAT_AVX512VBMI2, FEAT_AVX512VNNI, FEAT_AVX512BITALG, FEAT_AVX512VPOPCNTDQ);
static const uint8_t *const needs_avx512f = LIST(
    FEAT_AVX512F, FEAT_AVX512DQ, FEAT_AVX512IFMA, FEAT_AVX512CD, FEAT_AVX512BW, FEAT_AVX512VL,
    FEAT_AVX512VBMI, FEAT_AVX512VBMI2, FEAT_AVX512VNNI, FEAT_AVX512BITALG, FEAT_AVX512VPOPCNTDQ);

static const uint8_t *const only_486 = LIST(FEAT_FPU);

static const uint8_t *const only_pentium3 =
    LIST(FEAT_FPU, FEAT_VME, FEAT_DE, FEAT_PSE, FEAT_TSC, FEAT_MSR, FEAT_PAE, FEAT_MCE, FEAT_CX8,
         FEAT_APIC, FEAT_SEP, FEAT_MTRR, FEAT_PGE, FEAT_MCA, FEAT_CMOV, FEAT_PAT, FEAT_PSE36,
         FEAT_MMX, FEAT_FXSR, FEAT_SSE);

static const uint8_t *const add_v1 =
    LIST(FEAT_FPU, FEAT_VME, FEAT_DE, FEAT_PSE, FEAT_TSC, FEAT_MSR, FEAT_PAE, FEAT_MCE, FEAT_CX8,
         FEAT_APIC, FEAT_SEP, FEAT_MTRR, FEAT_PGE, FEAT_MCA, FEAT_CMOV, FEAT_PAT, FEAT_PSE36,
         FEAT_CLFSH, FEAT_MMX, FEAT_FXSR, FEAT_SSE, FEAT_SSE2, FEAT_SS, FEAT_X2APIC,
         FEAT_TSC_DEADLINE, FEAT_HYPERVISOR, FEAT_ARAT, FEAT_TSC_ADJUST, FEAT_SYSCALL, FEAT_NX,
         FEAT_LM, FEAT_INVARIANT_TSC);
static const uint8_t *const add_v2 =
    LIST(FEAT_CX16, FEAT_LAHF_LM, FEAT_POPCNT, FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42,
         FEAT_RDTSCP, FEAT_PCID);
static const uint8_t *const add_v3 =
    LIST(FEAT_XSAVE, FEAT_AVX, FEAT_AVX2, FEAT_BMI1, FEAT_BMI2, FEAT_F16C, FEAT_FMA, FEAT_LZCNT,
         FEAT_MOVBE, FEAT_FSGSBASE, FEAT_SMEP, FEAT_INVPCID, FEAT_ERMS, FEAT_PDPE1GB);
static const uint8_t *const add_v4 = LIST(FEAT_AVX512F, FEAT_AVX512BW, FEAT_AVX512CD, FEAT_AVX512DQ,
                                          FEAT_AVX512VL, FEAT_SMAP, FEAT_UMIP);

struct model_row {
    const char *name;
    const uint8_t *const *adds[4]; /* NULL: everything */
    uint32_t signature[2];         /* by enum cpu_vendor; 0: the host's */
    uint32_t max_leaf[2], max_ext_leaf[2];
    unsigned phys_bits;
};

static const struct model_row model_rows[] = {
    {"486", {&only_486}, {0x480, 0x494}, {1, 1}, {0, 0}, 32},
    {"pentium3", {&only_pentium3}, {0x683, 0x681}, {2, 1}, {0, 0}, 36},
    /* Core 2, Nehalem, Haswell, Skylake server; Barcelona, Bulldozer, Zen, Zen 4. */
    {"v1",
     {&add_v1},
     {0x6fb, 0x100f42},
     {LEAF_FREQUENCY, LEAF_XSAVE},
     {0x80000008, LEAF_EXT_AMD_LAST},
     40},
    {"v2",
     {&add_v1, &add_v2},
     {0x106a5, 0x600f12},
     {LEAF_FREQUENCY, LEAF_XSAVE},
     {0x80000008, LEAF_EXT_AMD_LAST},
     40},
    {"v3",
     {&add_v1, &add_v2, &add_v3},
     {0x306c3, 0x800f12},
     {LEAF_FREQUENCY, LEAF_XSAVE},
     {0x80000008, LEAF_EXT_AMD_LAST},
     40},
    {"v4",
     {&add_v1, &add_v2, &add_v3, &add_v4},
     {0x50654, 0xa10f11},
     {LEAF_FREQUENCY, LEAF_XSAVE},
     {0x80000008, LEAF_EXT_AMD_LAST},
     46},
    {"max", {NULL}, {0, 0}, {LEAF_FREQUENCY, LEAF_XSAVE}, {0x80000008, LEAF_EXT_AMD_FEATURES}, 46},
};

/* ---- the host ------------------------------------------------------------------------- */

struct host {
    enum cpu_vendor vendor;
    uint32_t signature;
    unsigned phys_bits;
    uint64_t features[(FEAT_COUNT + 63) / 64];
};

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_regs r = {0};

    if ((uint32_t)__get_cpuid_max(leaf & LEAF_EXT, NULL) >= leaf)
        __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

static void set(uint64_t *features, unsigned f)
{
    features[f / 64] |= BIT(f % 64);
}

static void clear_list(uint64_t *features, const uint8_t *list)
{
    for (; *list != LIST_END; list++)
        features[*list / 64] &= ~BIT(*list % 64);
}

static void set_list(uint64_t *features, const uint8_t *list)
{
    for (; *list != LIST_END; list++)
        set(features, *list);
}

static bool has(const uint64_t *features, unsigned f)
{
    return features[f / 64] >> (f % 64) & 1;
}

/* Everything this host lets a guest have, if doppel uses no more of it than `usable`. */
static void host_read(struct host *host, uint32_t usable)
{
    struct cpuid_regs id = host_cpuid(0, 0);

    *host = (struct host){.signature = host_cpuid(1, 0).eax};
    host->vendor = id.ebx == signature_INTEL_ebx ? CPU_INTEL : CPU_AMD;
    host->phys_bits = host_cpuid(0x80000008, 0).eax & 0xff;
    if (host->phys_bits < 36 || host->phys_bits > 52)
        host->phys_bits = 36;
    for (unsigned f = 0; f < FEAT_COUNT; f++) {
        const struct feature_bit *b = &feature_bits[f];
        struct cpuid_regs r = host_cpuid(b->leaf, b->subleaf);
        const uint32_t regs[4] = {r.eax, r.ebx, r.ecx, r.edx};

        if (regs[b->reg] >> b->bit & 1)
            set(host->features, f);
    }
    set_list(host->features, emulated);
    if (!has(host->features, FEAT_XSAVE) || !has(host->features, FEAT_OSXSAVE))
        clear_list(host->features, needs_xsave);
    if (!(usable & HOST_AVX))
        clear_list(host->features, needs_avx);
    if (!(usable & HOST_AVX512))
        clear_list(host->features, needs_avx512f);
    if (!(usable & HOST_XINUSE))
        clear_list(host->features, LIST(FEAT_XGETBV1));
    if (!(usable & HOST_BMI2))
        clear_list(host->features, LIST(FEAT_BMI2));
    clear_list(host->features, never);
}

/* ---- making a model ------------------------------------------------------------------- */

static const struct model_row *find_row(const char *name)
{
    for (unsigned i = 0; i < ARRAY_LEN(model_rows); i++)
        if (!strcmp(model_rows[i].name, name))
            return &model_rows[i];
    return NULL;
}

static int features_pick(struct cpu_model *m, const struct model_row *row, const struct host *host,
                         struct err *err)
{
    if (!row->adds[0]) {
        memcpy(m->features, host->features, sizeof(m->features));
        clear_list(m->features, m->vendor == CPU_AMD ? only_intel : only_amd);
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_LEN(row->adds) && row->adds[i]; i++)
        set_list(m->features, *row->adds[i]);
    for (unsigned f = 0; f < FEAT_COUNT; f++)
        if (has(m->features, f) && !has(host->features, f))
            return err_set(err, ENOTSUP,
                           "this host's CPU has no %s, which CPU model %s needs: use --cpu max",
                           feature_names[f], row->name);
    return 0;
}

int cpu_model_init(struct cpu_model *m, const char *name, unsigned ncpus, uint64_t tsc_hz,
                   uint32_t usable, struct err *err)
{
    const struct model_row *row = find_row(name);
    struct host host;
    int ret;

    if (!row)
        return err_set(err, EINVAL,
                       "there is no CPU model '%s': use 486, pentium3, v1, v2, v3, v4 or max",
                       name);
    if (ncpus < 1 || ncpus > 255)
        return err_set(err, EINVAL, "a VM has 1 to 255 CPUs, not %u", ncpus);
    host_read(&host, usable);
    *m = (struct cpu_model){
        .vendor = host.vendor,
        .signature = row->signature[host.vendor] ? row->signature[host.vendor] : host.signature,
        .max_leaf = row->max_leaf[host.vendor],
        .max_ext_leaf = row->max_ext_leaf[host.vendor],
        .virt_bits = 32,
        .ncpus = ncpus,
        .tsc_hz = tsc_hz,
    };
    snprintf(m->name, sizeof(m->name), "%s", row->name);
    snprintf(m->brand, sizeof(m->brand), "doppel CPU, model %s", row->name);
    ret = features_pick(m, row, &host, err);
    if (ret)
        return ret;
    m->phys_bits = row->phys_bits;
    if (cpu_has(m, FEAT_LM)) {
        m->virt_bits = 48;
        m->phys_bits = (unsigned)min_u64(row->phys_bits, host.phys_bits);
    }
    m->xcr0_mask = XCR0_X87;
    if (cpu_has(m, FEAT_XSAVE))
        m->xcr0_mask |= XCR0_SSE;
    if (cpu_has(m, FEAT_AVX))
        m->xcr0_mask |= XCR0_AVX;
    if (cpu_has(m, FEAT_AVX512F))
        m->xcr0_mask |= XCR0_AVX512;
    return 0;
}

/* ---- CPUID ---------------------------------------------------------------------------- */

static struct cpuid_regs features_of(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    uint32_t regs[4] = {0};

    for (unsigned f = 0; f < FEAT_COUNT; f++) {
        const struct feature_bit *b = &feature_bits[f];

        if (b->leaf == leaf && b->subleaf == subleaf && has(m->features, f))
            regs[b->reg] |= 1u << b->bit;
    }
    return (struct cpuid_regs){regs[0], regs[1], regs[2], regs[3]};
}

static uint32_t four(const char *text)
{
    return (uint32_t)(uint8_t)text[0] | (uint32_t)(uint8_t)text[1] << 8 |
           (uint32_t)(uint8_t)text[2] << 16 | (uint32_t)(uint8_t)text[3] << 24;
}

/* Bits of an APIC id that number the cores. */
static unsigned core_bits(const struct cpu_model *m)
{
    unsigned bits = 0;

    while (1u << bits < m->ncpus)
        bits++;
    return bits;
}

static bool is_old(const struct cpu_model *m)
{
    return !cpu_has(m, FEAT_LM);
}

static struct cpuid_regs leaf_0(const struct cpu_model *m, const struct cpu_state *cs)
{
    const char *vendor = m->vendor == CPU_INTEL ? "GenuineIntel" : "AuthenticAMD";
    uint32_t max = m->max_leaf;

    if (m->vendor == CPU_INTEL && (cs->misc_enable & MISC_ENABLE_LIMIT_CPUID) && max > 2)
        max = 2;
    return (struct cpuid_regs){max, four(vendor), four(vendor + 8), four(vendor + 4)};
}

static struct cpuid_regs leaf_1(const struct cpu_model *m, const struct cpu_state *cs,
                                unsigned apic_id, bool apic_on)
{
    struct cpuid_regs r = features_of(m, 1, 0);

    r.eax = m->signature;
    if (cpu_has(m, FEAT_CLFSH))
        r.ebx |= 8 << 8; /* CLFLUSH line of 64 bytes */
    if (cpu_has(m, FEAT_APIC)) {
        r.ebx |= (apic_id & 0xff) << 24;
        if (!apic_on)
            r.edx &= ~(uint32_t)BIT(feature_bits[FEAT_APIC].bit);
    }
    if (m->ncpus > 1 && !is_old(m)) {
        r.ebx |= (uint32_t)min_u64(1u << core_bits(m), 255) << 16;
        r.edx |= EDX1_HTT;
    }
    if (cs->cr4 & CR4_OSXSAVE)
        r.ecx |= (uint32_t)BIT(feature_bits[FEAT_OSXSAVE].bit);
    return r;
}

/* Leaf 2: cache descriptors. FFh sends software to leaf 4. */
static struct cpuid_regs leaf_2(const struct cpu_model *m)
{
    if (m->vendor != CPU_INTEL)
        return (struct cpuid_regs){0};
    if (is_old(m)) /* TLBs; 16 KiB L1 caches, 512 KiB L2 */
        return (struct cpuid_regs){0x03020101, 0, 0, 0x0c040843};
    return (struct cpuid_regs){0x00feff01, 0, 0, 0};
}

/* Leaf 4, and AMD's 8000001Dh. The sizes are typical ones: nothing here depends on them. */
static struct cpuid_regs leaf_caches(const struct cpu_model *m, uint32_t subleaf)
{
    static const struct {
        uint8_t type, level, ways; /* type: 1 data, 2 instructions, 3 both */
        bool shared;
        uint32_t sets;
    } caches[] = {
        {1, 1, 8, false, 64},
        {2, 1, 8, false, 64},
        {3, 2, 16, false, 1024},
        {3, 3, 16, true, 16384},
    };
    uint32_t ids = 1u << core_bits(m);
    struct cpuid_regs r = {0};

    if (subleaf >= ARRAY_LEN(caches))
        return r;
    r.eax = caches[subleaf].type | caches[subleaf].level << 5 | (uint32_t)BIT(8);
    if (caches[subleaf].shared)
        r.eax |= (ids - 1) << 14;
    if (m->vendor == CPU_INTEL)
        r.eax |= (uint32_t)min_u64(ids - 1, 63) << 26;
    r.ebx = (caches[subleaf].ways - 1u) << 22 | 63; /* lines of 64 bytes */
    r.ecx = caches[subleaf].sets - 1;
    return r;
}

static struct cpuid_regs leaf_topology(const struct cpu_model *m, unsigned apic_id,
                                       uint32_t subleaf)
{
    struct cpuid_regs r = {.ecx = subleaf & 0xff, .edx = apic_id};

    if (!cpu_has(m, FEAT_X2APIC))
        return (struct cpuid_regs){0};
    if (subleaf == 0) { /* threads of a core */
        r.ebx = 1;
        r.ecx |= 1 << 8;
    } else if (subleaf == 1) { /* cores of the package */
        r.eax = core_bits(m);
        r.ebx = m->ncpus;
        r.ecx |= 2 << 8;
    }
    return r;
}

static struct cpuid_regs leaf_xsave(const struct cpu_model *m, const struct cpu_state *cs,
                                    uint32_t subleaf)
{
    if (!cpu_has(m, FEAT_XSAVE))
        return (struct cpuid_regs){0};
    if (subleaf == 0)
        return (struct cpuid_regs){(uint32_t)m->xcr0_mask, xsave_size(cs->xcr0),
                                   xsave_size(m->xcr0_mask), (uint32_t)(m->xcr0_mask >> 32)};
    if (subleaf == 1)
        return features_of(m, LEAF_XSAVE, 1);
    if (subleaf < 64 && (m->xcr0_mask >> subleaf & 1))
        return (struct cpuid_regs){xsave_component_size(subleaf), xsave_component_offset(subleaf),
                                   0, 0};
    return (struct cpuid_regs){0};
}

static struct cpuid_regs leaf_tsc(const struct cpu_model *m)
{
    uint64_t a = CRYSTAL_HZ, b = m->tsc_hz;

    while (b) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    if (m->tsc_hz / a > UINT32_MAX)
        return (struct cpuid_regs){0};
    return (struct cpuid_regs){(uint32_t)(CRYSTAL_HZ / a), (uint32_t)(m->tsc_hz / a), CRYSTAL_HZ,
                               0};
}

static struct cpuid_regs leaf_basic(const struct cpu_model *m, const struct cpu_state *cs,
                                    unsigned apic_id, bool apic_on, uint32_t leaf, uint32_t subleaf)
{
    bool intel = m->vendor == CPU_INTEL;
    uint32_t mhz = (uint32_t)(m->tsc_hz / 1000000);

    switch (leaf) {
    case 0:
        return leaf_0(m, cs);
    case 1:
        return leaf_1(m, cs, apic_id, apic_on);
    case 2:
        return leaf_2(m);
    case 4:
        return intel ? leaf_caches(m, subleaf) : (struct cpuid_regs){0};
    case 6:
    case 7:
        return features_of(m, leaf, subleaf);
    case LEAF_TOPOLOGY:
        return leaf_topology(m, apic_id, subleaf);
    case LEAF_XSAVE:
        return leaf_xsave(m, cs, subleaf);
    case LEAF_TSC:
        return intel ? leaf_tsc(m) : (struct cpuid_regs){0};
    case LEAF_FREQUENCY:
        return intel ? (struct cpuid_regs){mhz & 0xffff, mhz & 0xffff, 100, 0}
                     : (struct cpuid_regs){0};
    default:
        return (struct cpuid_regs){0};
    }
}

static struct cpuid_regs leaf_ext_1(const struct cpu_model *m, const struct cpu_state *cs)
{
    struct cpuid_regs r = features_of(m, 0x80000001, 0);

    if (m->vendor == CPU_AMD) {
        r.eax = m->signature;
        r.ecx |= (uint32_t)AMD_TOPOEXT | (m->ncpus > 1 ? (uint32_t)AMD_CMP_LEGACY : 0);
        r.edx |= features_of(m, 1, 0).edx & AMD_EDX_REPEATED;
    } else if (!cpu_64bit(cs)) {
        r.edx &= ~(uint32_t)BIT(feature_bits[FEAT_SYSCALL].bit); /* Intel has it there only */
    }
    return r;
}

static struct cpuid_regs leaf_ext(const struct cpu_model *m, const struct cpu_state *cs,
                                  unsigned apic_id, uint32_t leaf, uint32_t subleaf)
{
    bool amd = m->vendor == CPU_AMD;
    const char *brand;

    switch (leaf) {
    case LEAF_EXT:
        return amd ? (struct cpuid_regs){m->max_ext_leaf, leaf_0(m, cs).ebx, leaf_0(m, cs).ecx,
                                         leaf_0(m, cs).edx}
                   : (struct cpuid_regs){m->max_ext_leaf, 0, 0, 0};
    case 0x80000001:
        return leaf_ext_1(m, cs);
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        brand = m->brand + (leaf - 0x80000002) * 16;
        return (struct cpuid_regs){four(brand), four(brand + 4), four(brand + 8), four(brand + 12)};
    case 0x80000005: /* AMD: TLBs of 64 entries; L1 caches of 32 KiB, 8 ways, 64-byte lines */
        return amd ? (struct cpuid_regs){0xff40ff40, 0xff40ff40, 0x20080140, 0x20080140}
                   : (struct cpuid_regs){0};
    case 0x80000006: /* L2 of 1 MiB; AMD's associativity code 8 is 16 ways, and L3 of 16 MiB */
        return (struct cpuid_regs){0, 0, 0x04008000 | (amd ? 0x140 : 0x40),
                                   amd ? 32 << 18 | 0x8140 : 0};
    case 0x80000007:
        return features_of(m, leaf, 0);
    case 0x80000008:
        return (struct cpuid_regs){m->phys_bits | m->virt_bits << 8, features_of(m, leaf, 0).ebx,
                                   amd ? (m->ncpus - 1) | core_bits(m) << 12 : 0, 0};
    case 0x8000001d:
        return amd ? leaf_caches(m, subleaf) : (struct cpuid_regs){0};
    case LEAF_EXT_AMD_FEATURES:
        return features_of(m, leaf, 0);
    case LEAF_EXT_AMD_LAST:
        return amd ? (struct cpuid_regs){apic_id, apic_id & 0xff, 0, 0} : (struct cpuid_regs){0};
    default:
        return (struct cpuid_regs){0};
    }
}

struct cpuid_regs cpu_model_cpuid(const struct cpu_model *m, const struct cpu_state *cs,
                                  unsigned apic_id, bool apic_on, uint32_t leaf, uint32_t subleaf)
{
    if (leaf >= PV_LEAF_FIRST && leaf <= PV_LEAF_LAST && cpu_has(m, FEAT_HYPERVISOR))
        return pv_cpuid(m, leaf);
    if (m->max_ext_leaf && leaf >= LEAF_EXT && leaf <= m->max_ext_leaf)
        return leaf_ext(m, cs, apic_id, leaf, subleaf);
    if (leaf > m->max_leaf) {
        if (m->vendor == CPU_AMD)
            return (struct cpuid_regs){0};
        leaf = m->max_leaf; /* Intel answers with its highest basic leaf */
    }
    return leaf_basic(m, cs, apic_id, apic_on, leaf, subleaf);
}

/* ---- masks ---------------------------------------------------------------------------- */

uint64_t cpu_model_cr4_mask(const struct cpu_model *m)
{
    static const struct {
        uint8_t feature;
        uint64_t bits;
    } rows[] = {
        {FEAT_VME, CR4_VME | CR4_PVI}, {FEAT_TSC, CR4_TSD},       {FEAT_DE, CR4_DE},
        {FEAT_PSE, CR4_PSE},           {FEAT_PAE, CR4_PAE},       {FEAT_MCE, CR4_MCE},
        {FEAT_PGE, CR4_PGE},           {FEAT_MSR, CR4_PCE},       {FEAT_FXSR, CR4_OSFXSR},
        {FEAT_SSE, CR4_OSXMMEXCPT},    {FEAT_UMIP, CR4_UMIP},     {FEAT_FSGSBASE, CR4_FSGSBASE},
        {FEAT_PCID, CR4_PCIDE},        {FEAT_XSAVE, CR4_OSXSAVE}, {FEAT_SMEP, CR4_SMEP},
        {FEAT_SMAP, CR4_SMAP},
    };
    uint64_t mask = 0;

    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        if (has(m->features, rows[i].feature))
            mask |= rows[i].bits;
    return mask;
}

uint64_t cpu_model_efer_mask(const struct cpu_model *m)
{
    return (cpu_has(m, FEAT_SYSCALL) ? EFER_SCE : 0) | (cpu_has(m, FEAT_LM) ? EFER_LME : 0) |
           (cpu_has(m, FEAT_NX) ? EFER_NXE : 0) | (cpu_has(m, FEAT_FFXSR) ? EFER_FFXSR : 0);
}

/* ---- XSAVE's standard format (SDM vol. 1 13.4.3, with Intel's offsets on every host) -- */

static const struct {
    uint32_t offset, size;
} xsave_components[] = {
    [0] = {0, 160}, /* x87 and SSE: the legacy region, whose 512 bytes and header are always there
                     */
    [1] = {160, 256}, [2] = {576, 256}, [5] = {1088, 64}, [6] = {1152, 512}, [7] = {1664, 1024},
};

#define XSAVE_LEGACY_AND_HEADER 576

uint32_t xsave_component_offset(unsigned component)
{
    return component < ARRAY_LEN(xsave_components) ? xsave_components[component].offset : 0;
}

uint32_t xsave_component_size(unsigned component)
{
    return component < ARRAY_LEN(xsave_components) ? xsave_components[component].size : 0;
}

uint32_t xsave_size(uint64_t xcr0)
{
    uint32_t size = XSAVE_LEGACY_AND_HEADER;

    for (unsigned i = 2; i < ARRAY_LEN(xsave_components); i++)
        if ((xcr0 >> i & 1) && xsave_components[i].size)
            size = xsave_components[i].offset + xsave_components[i].size;
    return size;
}
