/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtual CPU as the machine sees it: its pending events, its interrupt controller, its overlay, its
 * MSR tables, and the calls by which an engine reaches the machine. Everything an engine does to the
 * outside goes through vcpu_pio, vcpu_mmio and vcpu_msr_*.
 */
#ifndef CORE_VCPU_H
#define CORE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"
#include "core/bus.h"
#include "engine/engine.h"

struct vm;
struct cpu_model;

/* Bits of vcpu->pending: set by anyone, then kicked; cleared by the vCPU. */
#define PEND_INTR BIT(0)  /* the interrupt controller may have something: ask vcpu->intc */
#define PEND_NMI BIT(1)
#define PEND_INIT BIT(2)
#define PEND_SIPI BIT(3)  /* vector in vcpu->sipi_vector */
#define PEND_SMI BIT(4)
#define PEND_EXIT BIT(5)  /* leave run(): VM request, pause, work for the run loop */
#define PEND_TLB BIT(6)   /* engine: drop cached translations (slot_changed, code pages) */
#define PEND_EXCLUSIVE BIT(7) /* engine: another vCPU wants the world stopped */

/* The local APIC (or, without one, the PIC's INTR line) as the engine sees it. Called on the vCPU's thread. */
struct vcpu_intc {
    /* Is an interrupt deliverable now, priority considered? IF and shadows are the engine's business. */
    bool (*has_intr)(void *intc);
    /* Takes it: the vector, or -1 if it went away. */
    int (*ack)(void *intc);
    /* CR8: TPR bits 7:4. */
    uint64_t (*get_cr8)(void *intc);
    void (*set_cr8)(void *intc, uint64_t cr8);
    /* IA32_APIC_BASE changed or INIT arrived. */
    void (*init_reset)(void *intc);
    /*
     * The vCPU's TSC is about to be written, and again when it has been: a deadline that it had reached
     * stays reached, one that waits moves. May be NULL.
     */
    void (*tsc_jumps)(void *intc);
};

#define VCPU_OVERLAYS 4

/* MSRs: ranges with handlers and names. Handlers run on the vCPU's thread; false raises #GP(0). */
struct msr_range {
    uint32_t first, last;
    const char *name;
    bool (*read)(void *opaque, uint32_t index, uint64_t *value);
    bool (*write)(void *opaque, uint32_t index, uint64_t value);
};

#define VCPU_MSR_TABLES 8
struct msr_table {
    const struct msr_range *ranges; /* ends with a NULL name */
    void *opaque;
};

struct vcpu {
    struct vm *vm;
    unsigned index;   /* also its initial APIC id */
    _Atomic uint32_t pending;
    _Atomic uint8_t sipi_vector;
    _Atomic bool sleeping; /* in vcpu_wait: holds no map, host pointer or block */
    pthread_mutex_t wait_lock; /* leaf */
    pthread_cond_t wait_cond;
    pthread_t thread;
    bool thread_started;

    const struct vcpu_intc *intc_ops;
    void *intc;
    struct region *overlay[VCPU_OVERLAYS]; /* looked up first, by this vCPU alone: APIC page, SMRAM */
    uint64_t overlay_base[VCPU_OVERLAYS];
    struct msr_table msrs[VCPU_MSR_TABLES];
    unsigned nmsrs;

    const struct cpu_model *model; /* CPUID and features; fixed when the VM is made */
    void *engine;                  /* the engine's own */
    uint64_t access_rip;           /* the engine sets it before a bus access, for traces */
    bool count_devices;            /* the engine wants device_ticks counted */
    uint64_t device_ticks;         /* host TSC ticks in handlers of ports, MMIO and MSRs */
    _Atomic uint64_t seen_epoch;   /* see vm_quiescent */
    uint64_t epoch_pad[6];
};

/* vcpu comes zeroed, with its model set. */
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, struct err *err);
void vcpu_fini(struct vcpu *vcpu);

/* Sets bits in pending and wakes or kicks the vCPU. From any thread; a kick is never lost. */
void vcpu_post(struct vcpu *vcpu, uint32_t bits);
/*
 * The vCPU's thread is about to run guest code (true), or will not until it says so again (false): then
 * nobody waits for it. Its thread calls this when it starts, pauses, and ends.
 */
void vcpu_set_running(struct vcpu *vcpu, bool running);
/* Blocks until pending is non-zero. Called by the run loop, holding no lock. */
void vcpu_wait(struct vcpu *vcpu);

/*
 * One port access, size 1, 2 or 4. Read results are zero-extended.
 */
uint32_t vcpu_in(struct vcpu *vcpu, uint16_t port, unsigned size);
void vcpu_out(struct vcpu *vcpu, uint16_t port, unsigned size, uint32_t value);
/* A run of INS/OUTS on one port. */
void vcpu_pio_rep(struct vcpu *vcpu, uint16_t port, unsigned size, unsigned count, void *data,
                  bool write);
/* An access that mem_page refused, 1 to 64 bytes, inside one page or not. */
void vcpu_mmio(struct vcpu *vcpu, gpa_t gpa, void *data, unsigned size, bool write);
/* False: #GP(0). Unknown MSRs are counted and traced here. */
bool vcpu_rdmsr(struct vcpu *vcpu, uint32_t index, uint64_t *value);
bool vcpu_wrmsr(struct vcpu *vcpu, uint32_t index, uint64_t value);
void vcpu_add_msrs(struct vcpu *vcpu, const struct msr_range *ranges, void *opaque);
/* The overlay: base moves or region NULL removes it. Own vCPU only. Engines hear slot_changed. */
void vcpu_set_overlay(struct vcpu *vcpu, unsigned slot, struct region *region, uint64_t base);
/* True if an overlay of this vCPU serves the page at gpa (then mem_page must not be used for it). */
bool vcpu_in_overlay(const struct vcpu *vcpu, gpa_t gpa);

/* A level-triggered EOI leaves the local APIC: tells the I/O APIC under the machine lock. */
void vcpu_eoi_broadcast(struct vcpu *vcpu, uint8_t vector);

/*
 * Drives FERR#: an x87 exception waits and CR0.NE is 0 (SDM vol. 1 section 8.7). True while IGNNE# is
 * active: the exception is to be ignored. Only where vm->ferr_sink is set.
 */
bool vcpu_ferr(struct vcpu *vcpu, bool level);

/*
 * Stops every other vCPU at an instruction boundary (LOCKed accesses that no host atomic covers).
 * Call from the engine at an instruction; holds no lock.
 */
void vcpu_exclusive_begin(struct vcpu *vcpu);
void vcpu_exclusive_end(struct vcpu *vcpu);
/* Engine: PEND_EXCLUSIVE seen at an instruction boundary: parks until the world goes on. */
void vcpu_exclusive_park(struct vcpu *vcpu);

#endif
