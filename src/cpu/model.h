/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU models: which CPUID leaves a guest sees, and so which instructions exist for it. A model is fixed
 * when the VM is made; its vendor is the host's; every feature in it is one that the host has and every
 * engine offers.
 */
#ifndef CPU_MODEL_H
#define CPU_MODEL_H

#include "base/err.h"
#include "base/types.h"

struct cpu_state;
struct vcpu;

enum cpu_vendor { CPU_INTEL, CPU_AMD };

/* Feature numbers: one per CPUID bit we know; the list with leaf, register and bit is features.def. */
enum cpu_feature {
#define FEATURE(name, leaf, subleaf, reg, bit) FEAT_##name,
#include "cpu/features.def"
#undef FEATURE
    FEAT_COUNT,
};

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};

struct cpu_model {
    char name[16];
    enum cpu_vendor vendor;
    uint32_t signature; /* CPUID 1 EAX */
    uint64_t features[(FEAT_COUNT + 63) / 64];
    uint32_t max_leaf, max_ext_leaf;
    unsigned phys_bits, virt_bits;
    uint64_t xcr0_mask; /* XCR0 bits the guest may set */
    unsigned ncpus;     /* for the topology leaves */
    uint64_t tsc_hz;
    char brand[49];
};

static inline bool cpu_has(const struct cpu_model *m, enum cpu_feature f)
{
    return m->features[f / 64] >> (f % 64) & 1;
}

/*
 * names: 486 pentium3 v1 v2 v3 v4 max. `host`: HOST_* (base/hostcpu.h). Fails in one sentence if
 * the host lacks what the model needs.
 */
int cpu_model_init(struct cpu_model *m, const char *name, unsigned ncpus, uint64_t tsc_hz,
                   uint32_t host, struct err *err);

/*
 * CPUID as this vCPU sees it now (OSXSAVE, APIC id, XCR0-dependent sizes come from the state). apic_on:
 * IA32_APIC_BASE's enable bit.
 */
struct cpuid_regs cpu_model_cpuid(const struct cpu_model *m, const struct cpu_state *cs,
                                  unsigned apic_id, bool apic_on, uint32_t leaf, uint32_t subleaf);

/* CR4 and EFER bits that this model's guest may set. */
uint64_t cpu_model_cr4_mask(const struct cpu_model *m);
uint64_t cpu_model_efer_mask(const struct cpu_model *m);

/* Standard-format XSAVE: offset and size of a state component (2: AVX, 5 to 7: AVX-512), and the whole for xcr0. */
uint32_t xsave_component_offset(unsigned component);
uint32_t xsave_component_size(unsigned component);
uint32_t xsave_size(uint64_t xcr0);

#endif
