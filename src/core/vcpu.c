/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vcpu.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, struct err *err)
{
    vcpu->vm = vm;
    vcpu->index = index;
    pthread_mutex_init(&vcpu->wait_lock, NULL);
    pthread_cond_init(&vcpu->wait_cond, NULL);
    /* Until its thread runs it holds nothing, as if it slept. */
    atomic_store(&vcpu->sleeping, true);
    atomic_store(&vcpu->seen_epoch, UINT64_MAX);
    return vm->engine ? vm->engine->vcpu_init(vcpu, err) : 0;
}

void vcpu_fini(struct vcpu *vcpu)
{
    if (vcpu->vm->engine)
        vcpu->vm->engine->vcpu_fini(vcpu);
    pthread_cond_destroy(&vcpu->wait_cond);
    pthread_mutex_destroy(&vcpu->wait_lock);
}

void vcpu_post(struct vcpu *vcpu, uint32_t bits)
{
    if ((atomic_fetch_or(&vcpu->pending, bits) & bits) == bits)
        return; /* whoever set them has kicked, or is about to */
    pthread_mutex_lock(&vcpu->wait_lock);
    pthread_cond_signal(&vcpu->wait_cond);
    pthread_mutex_unlock(&vcpu->wait_lock);
    if (vcpu->vm->engine && vcpu->vm->engine->kick)
        vcpu->vm->engine->kick(vcpu);
}

void vcpu_set_running(struct vcpu *vcpu, bool running)
{
    struct vm *vm = vcpu->vm;

    if (running) {
        atomic_store(&vcpu->seen_epoch, atomic_load(&vm->epoch));
        atomic_store(&vcpu->sleeping, false);
        return;
    }
    atomic_store(&vcpu->seen_epoch, UINT64_MAX);
    atomic_store(&vcpu->sleeping, true);
    pthread_mutex_lock(&vm->exclusive_lock);
    pthread_cond_broadcast(&vm->exclusive_cond);
    pthread_mutex_unlock(&vm->exclusive_lock);
}

void vcpu_wait(struct vcpu *vcpu)
{
    vcpu_set_running(vcpu, false);
    pthread_mutex_lock(&vcpu->wait_lock);
    while (!atomic_load(&vcpu->pending))
        pthread_cond_wait(&vcpu->wait_cond, &vcpu->wait_lock);
    pthread_mutex_unlock(&vcpu->wait_lock);
    vcpu_set_running(vcpu, true);
}

/* ---- stopping the world ------------------------------------------------------------------------ */

/* True when no vCPU but `self` may be executing guest instructions; exclusive_lock held. */
static bool others_stopped(struct vm *vm, const struct vcpu *self)
{
    unsigned awake = 0;

    for (unsigned i = 0; i < vm->nvcpus; i++)
        if (vm->vcpus[i] != self && !atomic_load(&vm->vcpus[i]->sleeping))
            awake++;
    return awake <= vm->exclusive_parked;
}

/* Counts as parked until no one (else) owns the world; exclusive_lock held. */
static void park_locked(struct vm *vm, const struct vcpu *self)
{
    vm->exclusive_parked++;
    pthread_cond_broadcast(&vm->exclusive_cond);
    while (vm->exclusive_owner && vm->exclusive_owner != self)
        pthread_cond_wait(&vm->exclusive_cond, &vm->exclusive_lock);
    vm->exclusive_parked--;
}

void vcpu_exclusive_begin(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    if (vm->nvcpus < 2)
        return;
    pthread_mutex_lock(&vm->exclusive_lock);
    while (vm->exclusive_owner)
        park_locked(vm, vcpu);
    vm->exclusive_owner = vcpu;
    for (unsigned i = 0; i < vm->nvcpus; i++)
        if (vm->vcpus[i] != vcpu)
            vcpu_post(vm->vcpus[i], PEND_EXCLUSIVE);
    while (!others_stopped(vm, vcpu))
        pthread_cond_wait(&vm->exclusive_cond, &vm->exclusive_lock);
    pthread_mutex_unlock(&vm->exclusive_lock);
}

void vcpu_exclusive_end(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    if (vm->nvcpus < 2)
        return;
    pthread_mutex_lock(&vm->exclusive_lock);
    vm->exclusive_owner = NULL;
    pthread_cond_broadcast(&vm->exclusive_cond);
    pthread_mutex_unlock(&vm->exclusive_lock);
}

void vcpu_exclusive_park(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;

    pthread_mutex_lock(&vm->exclusive_lock);
    atomic_fetch_and(&vcpu->pending, ~(uint32_t)PEND_EXCLUSIVE);
    park_locked(vm, vcpu);
    pthread_mutex_unlock(&vm->exclusive_lock);
}

/* ---- accesses ------------------------------------------------------------------------------------ */

/* Around what device models do for the vCPU. */
static inline uint64_t ticks_begin(const struct vcpu *vcpu)
{
    return unlikely(vcpu->count_devices) ? __builtin_ia32_rdtsc() : 0;
}

static inline void ticks_end(struct vcpu *vcpu, uint64_t begin)
{
    if (unlikely(vcpu->count_devices))
        vcpu->device_ticks += __builtin_ia32_rdtsc() - begin;
}

static struct bus_from from_vcpu(const struct vcpu *vcpu)
{
    return (struct bus_from){.vcpu = (int)vcpu->index, .rip = vcpu->access_rip};
}

uint32_t vcpu_in(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    uint8_t buf[4] = {0};
    uint64_t begin = ticks_begin(vcpu);

    bus_access(&vcpu->vm->ports, from_vcpu(vcpu), port, buf, size, false);
    ticks_end(vcpu, begin);
    return get_le32(buf);
}

void vcpu_out(struct vcpu *vcpu, uint16_t port, unsigned size, uint32_t value)
{
    uint8_t buf[4];
    uint64_t begin = ticks_begin(vcpu);

    put_le32(buf, value);
    bus_access(&vcpu->vm->ports, from_vcpu(vcpu), port, buf, size, true);
    ticks_end(vcpu, begin);
}

void vcpu_pio_rep(struct vcpu *vcpu, uint16_t port, unsigned size, unsigned count, void *data,
                  bool write)
{
    uint64_t begin = ticks_begin(vcpu);

    bus_access_rep(&vcpu->vm->ports, from_vcpu(vcpu), port, data, size, count, write);
    ticks_end(vcpu, begin);
}

/* The overlay slot that serves gpa, or -1. */
static int overlay_at(const struct vcpu *vcpu, gpa_t gpa)
{
    for (int i = 0; i < VCPU_OVERLAYS; i++)
        if (vcpu->overlay[i] && gpa >= vcpu->overlay_base[i] &&
            gpa - vcpu->overlay_base[i] < vcpu->overlay[i]->size)
            return i;
    return -1;
}

bool vcpu_in_overlay(const struct vcpu *vcpu, gpa_t gpa)
{
    return overlay_at(vcpu, gpa) >= 0;
}

void vcpu_mmio(struct vcpu *vcpu, gpa_t gpa, void *data, unsigned size, bool write)
{
    uint64_t begin = ticks_begin(vcpu);
    uint8_t *p = data;

    while (size) {
        /* Overlays begin and end at pages, so a piece inside one page has one answer. */
        unsigned piece = (unsigned)min_u64(size, PAGE_SIZE - (gpa & PAGE_MASK));
        int slot = overlay_at(vcpu, gpa);

        if (slot >= 0)
            bus_access_region(&vcpu->vm->memory, from_vcpu(vcpu), vcpu->overlay[slot],
                              vcpu->overlay_base[slot], gpa - vcpu->overlay_base[slot], p, piece,
                              write);
        else
            bus_access(&vcpu->vm->memory, from_vcpu(vcpu), gpa, p, piece, write);
        gpa += piece;
        p += piece;
        size -= piece;
    }
    ticks_end(vcpu, begin);
}

void vcpu_set_overlay(struct vcpu *vcpu, unsigned slot, struct region *region, uint64_t base)
{
    struct vm *vm = vcpu->vm;

    assert(slot < VCPU_OVERLAYS);
    if (vcpu->overlay[slot] == region && (!region || vcpu->overlay_base[slot] == base))
        return;
    vcpu->overlay[slot] = region;
    vcpu->overlay_base[slot] = base;
    if (vm->engine && vm->engine->slot_changed)
        vm->engine->slot_changed(vm, base & ~PAGE_MASK, region ? region->size : UINT64_MAX);
}

/* ---- MSRs ------------------------------------------------------------------------------------------ */

void vcpu_add_msrs(struct vcpu *vcpu, const struct msr_range *ranges, void *opaque)
{
    assert(vcpu->nmsrs < VCPU_MSR_TABLES);
    vcpu->msrs[vcpu->nmsrs++] = (struct msr_table){.ranges = ranges, .opaque = opaque};
}

static const struct msr_range *msr_find(const struct vcpu *vcpu, uint32_t index, void **opaque)
{
    for (unsigned i = 0; i < vcpu->nmsrs; i++) {
        for (const struct msr_range *r = vcpu->msrs[i].ranges; r->name; r++) {
            if (index >= r->first && index <= r->last) {
                *opaque = vcpu->msrs[i].opaque;
                return r;
            }
        }
    }
    return NULL;
}

static void msr_trace(struct vcpu *vcpu, uint32_t index, const struct msr_range *r, uint64_t value,
                      bool write)
{
    struct trace *trace = &vcpu->vm->trace;

    if (!r)
        atomic_fetch_add(&trace->unknown, 1);
    if (trace_on(trace))
        trace_emit(trace, (struct trace_rec){.kind = r ? TRACE_MSR : TRACE_UNKNOWN,
                                             .rip = vcpu->access_rip, .addr = index,
                                             .value = value, .device = "msr",
                                             .name = r ? r->name : NULL, .size = 8,
                                             .write = write, .vcpu = (int8_t)vcpu->index});
}

bool vcpu_rdmsr(struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
    void *opaque;
    const struct msr_range *r = msr_find(vcpu, index, &opaque);
    uint64_t begin = ticks_begin(vcpu);
    bool ok = r && r->read && r->read(opaque, index, value);

    ticks_end(vcpu, begin);
    msr_trace(vcpu, index, r, ok ? *value : 0, false);
    return ok;
}

bool vcpu_wrmsr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
    void *opaque;
    const struct msr_range *r = msr_find(vcpu, index, &opaque);
    uint64_t begin = ticks_begin(vcpu);
    bool ok;

    msr_trace(vcpu, index, r, value, true);
    ok = r && r->write && r->write(opaque, index, value);
    ticks_end(vcpu, begin);
    return ok;
}

void vcpu_eoi_broadcast(struct vcpu *vcpu, uint8_t vector)
{
    struct vm *vm = vcpu->vm;

    if (!vm->eoi_sink)
        return;
    vm_lock(vm);
    vm->eoi_sink(vm->eoi_opaque, vector);
    vm_unlock(vm);
}

bool vcpu_ferr(struct vcpu *vcpu, bool level)
{
    struct vm *vm = vcpu->vm;
    bool ignne;

    vm_lock(vm);
    ignne = vm->ferr_sink(vm->ferr_opaque, vcpu->index, level);
    vm_unlock(vm);
    return ignne;
}
