/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The paravirtual interface that every engine offers: the KVM CPUID leaves and kvm-clock, as in
 * Linux, Documentation/virt/kvm/x86/{cpuid,msr}.rst. So a guest knows its TSC and APIC frequencies
 * and calibrates nothing. Other KVM features (asynchronous page faults, steal time, PV EOI...) are
 * not offered, and their MSRs are refused.
 */
#ifndef CPU_PV_H
#define CPU_PV_H

#include "core/vcpu.h"
#include "cpu/model.h"

#define PV_LEAF_FIRST 0x40000000
#define PV_LEAF_LAST  0x400000ff

struct cpuid_regs pv_cpuid(const struct cpu_model *m, uint32_t leaf);

/* kvm-clock's MSRs; opaque is a struct cpu_msrs (cpu/msr.h). */
extern const struct msr_range pv_msrs[];

/*
 * Writes the vCPU's time page again if the guest has one: after its TSC offset changed, and after a
 * state was loaded. On the vCPU's thread, or while it is not running.
 */
void pv_clock_update(struct vcpu *vcpu, const struct cpu_state *cs);

/* tsc_to_system_mul and tsc_shift: ns = (tsc << shift or >> -shift) * mul >> 32. */
void pv_clock_scale(uint64_t tsc_hz, uint32_t *mul, int8_t *shift);

#endif
