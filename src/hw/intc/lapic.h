/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC: xAPIC, x2APIC, timer. One device per vCPU. See lapic.c. */
#ifndef HW_INTC_LAPIC_H
#define HW_INTC_LAPIC_H

#include "core/device.h"
#include "core/vcpu.h"
#include "core/vm.h"

struct lapic;

/*
 * The APICs that hear each other. Zeroed by the machine, filled by the devices' init; vm->msi_sink
 * is lapic_msi with this as its opaque.
 */
struct lapic_bus {
    struct lapic *apic[VM_MAX_VCPUS];
    unsigned count;
};

struct lapic_config {
    struct vcpu *vcpu;     /* init sets its intc and adds the MSRs */
    struct lapic_bus *bus; /* borrowed */
    uint32_t id;           /* APIC id: vcpu->index */
    bool bsp;
    bool x2apic;        /* as CPUID says */
    bool tsc_deadline;  /* as CPUID says */
    unsigned phys_bits; /* physical address bits, which bound IA32_APIC_BASE; 0: 36 */
    /*
     * Cold and warm reset leave "virtual wire mode" as firmware would: software-enabled, LINT0
     * ExtINT unmasked, LINT1 NMI. For the bootstrap processor of a machine whose guest gets no
     * firmware.
     */
    bool virtual_wire;
    /* ExtINT: takes the vector from the PIC (INTA). Called with the machine lock held. NULL: no
     * PIC. */
    int (*extint_ack)(void *opaque);
    void *extint_opaque;
    /* Optional: what the vCPU's own TSC adds to vm_tsc now. Called on the vCPU's thread. */
    uint64_t (*tsc_offset)(struct vcpu *vcpu);
};

extern const struct dev_type lapic_type;

/* LINT0 is where the PIC's INTR line goes (level), LINT1 takes NMI. */
struct irq_pin lapic_lint_pin(struct device *lapic, unsigned lint);

/* For vm->msi_sink; the opaque is the struct lapic_bus. From any thread. */
void lapic_msi(void *bus, uint64_t addr, uint32_t data);
/* Would this message find its vector already waiting in every APIC it names? */
bool lapic_msi_pending(void *bus, uint64_t addr, uint32_t data);

/* IA32_APIC_BASE's enable bit: CPUID.1:EDX.APIC follows it. */
bool lapic_enabled(const struct device *lapic);
#endif
