/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MSRs that belong to the CPU itself, for every engine. The local APIC registers its own
 * (IA32_APIC_BASE, 800h-8FFh, TSC_DEADLINE); anything else is unknown and refused by the core.
 */
#ifndef CPU_MSR_H
#define CPU_MSR_H

#include "core/vcpu.h"
#include "cpu/cpu_state.h"

/* What the handlers work on. It outlives the vCPU's tables; cs is the engine's live state. */
struct cpu_msrs {
    struct vcpu *vcpu;
    struct cpu_state *cs;
    /* EFER, FS or GS base changed: the engine looks at cs again. May be NULL. */
    void (*changed)(void *opaque);
    void *opaque;
};

/* Registers the tables that the vCPU's model has. Once per vCPU, after vcpu->model is set. */
void cpu_msrs_attach(struct cpu_msrs *m);

/* The guest's TSC now, through the input gate: RDTSC, RDTSCP, and the MSR. */
uint64_t cpu_tsc(struct vcpu *vcpu, const struct cpu_state *cs);

#endif
