/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One virtual machine. The machine lock guards all device state, local APICs excepted. Lock order:
 * machine lock, then leaf locks (trace, wait_lock, exclusive). No mutable state outside this struct: two
 * VMs in one process must work.
 */
#ifndef CORE_VM_H
#define CORE_VM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/hostcpu.h"
#include "base/types.h"
#include "core/bus.h"
#include "core/clock.h"
#include "core/device.h"
#include "core/gate.h"
#include "core/irq.h"
#include "core/loop.h"
#include "core/mem.h"
#include "core/trace.h"
#include "core/vcpu.h"

#define VM_MAX_VCPUS 64
#define VM_MAX_DEVICES 128

/* Kinds of thread, for the sandbox's list per kind. */
enum vm_thread { VM_THREAD_MAIN, VM_THREAD_VCPU, VM_THREAD_WORKER };

/* Of translators; the others ignore them. */
struct engine_options {
    unsigned warm;    /* runs of cold code before it is translated; 0: their own number */
    unsigned plant;   /* lockstep: a mistake to make (enum bt_plant) */
    bool perf_map;    /* name generated code for perf */
    bool times;       /* measure where vCPUs spend their time */
    bool anywhere;    /* all 64-bit code is translated so that it runs at any address */
    bool exact_flags; /* keep flags that nobody reads, but for who looks at RFLAGS after a fault */
};

struct vm {
    char name[64];
    pthread_mutex_t lock; /* the machine lock */
    const struct engine *engine; /* may be NULL (unit tests) */
    void *engine_data;           /* the engine's, per VM */
    struct engine_options engine_options;
    uint32_t host;               /* HOST_*: what may be used of the host's CPU (base/hostcpu.h) */
    struct loop *loop;           /* may be NULL (unit tests) */
    struct clock *clock;
    struct gate gate;
    struct trace trace;
    struct space ports, memory;
    struct ram ram;
    _Atomic uint64_t a20_mask; /* ANDed to every guest-physical address a vCPU makes */

    struct vcpu *vcpus[VM_MAX_VCPUS];
    unsigned nvcpus;
    struct device *devices[VM_MAX_DEVICES];
    unsigned ndevices;

    /* Where MSIs go (the local APICs); set by the machine. */
    void (*msi_sink)(void *opaque, uint64_t addr, uint32_t data);
    void *msi_opaque;
    /* Where level EOIs go (the I/O APIC); set by the machine. */
    void (*eoi_sink)(void *opaque, uint8_t vector);
    void *eoi_opaque;

    /* Where the CPUs' FERR# pins go; true while IGNNE# is active. Machine lock held. NULL: nowhere. */
    bool (*ferr_sink)(void *opaque, unsigned vcpu, bool level);
    void *ferr_opaque;

    _Atomic uint32_t request;       /* enum vm_request; the first one wins until taken */
    _Atomic uint32_t request_value;
    struct loop_work request_work; /* posted with the request, if fn is set (by the machine) */

    /* Grace periods for retired maps: see vm_quiescent. */
    _Atomic uint64_t epoch;
    struct map *retired;

    /* vcpu_exclusive_*: leaf lock. */
    pthread_mutex_t exclusive_lock;
    pthread_cond_t exclusive_cond;
    struct vcpu *exclusive_owner;
    unsigned exclusive_parked;

    /* Every thread made for the VM calls it first, where set: the sandbox narrows the thread there. */
    void (*thread_started)(void *opaque, enum vm_thread kind);
    void *thread_opaque;

    uint64_t tsc_hz; /* guest TSC frequency */
};

struct vm_config {
    const char *name;
    uint64_t ram_bytes; /* size of the RAM file: guest RAM and ROMs */
    enum clock_mode clock;
    const struct engine *engine;
    struct engine_options engine_options;
    uint32_t host_without; /* HOST_*: done without, though they may be there */
    bool with_loop;
};

int vm_init(struct vm *vm, const struct vm_config *config, struct err *err);
void vm_fini(struct vm *vm);
/* Makes vCPU number nvcpus. The caller adds MSRs and intc before vm_start. */
struct vcpu *vm_add_vcpu(struct vm *vm, const struct cpu_model *model, struct err *err);

void vm_lock(struct vm *vm);
void vm_unlock(struct vm *vm);

/*
 * The calling vCPU holds no map, host pointer or block from before this call. Called at least once per
 * engine run and while waiting; retired maps are freed once every vCPU has passed.
 */
void vm_quiescent(struct vcpu *vcpu);

/* Kicks every vCPU out of run(). */
void vm_kick_all(struct vm *vm, uint32_t bits);

/* Guest TSC now (host-independent: derived from the clock), before a vCPU's own offset. */
uint64_t vm_tsc(struct vm *vm);

#endif
