/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a CPU engine is. It runs a vCPU until something needs attention, and reports upwards by calls:
 * vcpu_pio, vcpu_mmio, vcpu_msr_read/write (core/vcpu.h). Devices know nothing of engines.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"
#include "base/types.h"

struct vm;
struct vcpu;
struct cpu_state;

enum vcpu_stop {
    VCPU_STOP_BUDGET, /* the budget of instructions is used up, exactly */
    VCPU_STOP_KICK,   /* vcpu->pending asks the run loop for something the engine does not handle */
    VCPU_STOP_HALT,   /* HLT or wait-for-SIPI with nothing to wake it: the run loop waits */
    VCPU_STOP_SHUTDOWN, /* triple fault: cpu_state says where */
};

/* An exception the guest took, for reports. */
struct cpu_exception {
    uint64_t rip, cr2, icount;
    uint32_t error;
    uint8_t vector;
    bool has_error;
};

struct engine {
    const char *name;
    int (*vm_init)(struct vm *vm, struct err *err);
    void (*vm_fini)(struct vm *vm);
    int (*vcpu_init)(struct vcpu *vcpu, struct err *err);
    void (*vcpu_fini)(struct vcpu *vcpu);
    /* Runs at most `budget` instructions (UINT64_MAX: no limit). On the vCPU's own thread. */
    enum vcpu_stop (*run)(struct vcpu *vcpu, uint64_t budget);
    /* From any thread: make run look at vcpu->pending soon. */
    void (*kick)(struct vcpu *vcpu);
    /* The state at an instruction boundary. Only while the vCPU is not in run. */
    void (*get)(struct vcpu *vcpu, struct cpu_state *cs);
    void (*set)(struct vcpu *vcpu, const struct cpu_state *cs);
    /* What the vCPU's own TSC adds to vm_tsc now. On the vCPU's thread. */
    uint64_t (*tsc_offset)(struct vcpu *vcpu);
    /* Guest-physical [gpa, gpa+len) changed its meaning: returns when no vCPU uses the old one. */
    void (*slot_changed)(struct vm *vm, gpa_t gpa, uint64_t len);
    /* Bytes of the RAM file were written behind the vCPUs' backs (DMA, loaders). */
    void (*ram_written)(struct vm *vm, uint64_t ram_offset, uint64_t len);
    /* The last exceptions of a vCPU that is not in run, the latest first; how many. May be NULL. */
    unsigned (*last_exceptions)(struct vcpu *vcpu, struct cpu_exception *out, unsigned max);
    /* Counters of the engine's own, for people, one call each; every vCPU stands. May be NULL. */
    void (*inspect)(struct vm *vm, void (*counter)(void *opaque, const char *name, uint64_t value),
                    void *opaque);
};

extern const struct engine engine_interp, engine_bt, engine_lockstep;

#endif
