/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * One tick is one nanosecond: the same TSC on every host, exact against VM time, and what the guest is
 * told through CPUID 15h/40000010h.
 */
#define VM_TSC_HZ 1000000000ull

#define PORT_LAST 0xffff
#define MEMORY_LAST ((1ull << 52) - 1)

int vm_init(struct vm *vm, const struct vm_config *config, struct err *err)
{
    pthread_mutexattr_t attr;
    int ret;

    memset(vm, 0, sizeof(*vm));
    snprintf(vm->name, sizeof(vm->name), "%s", config->name ? config->name : "vm");
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&vm->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_mutex_init(&vm->exclusive_lock, NULL);
    pthread_cond_init(&vm->exclusive_cond, NULL);
    vm->engine = config->engine;
    vm->engine_options = config->engine_options;
    vm->host = hostcpu_without(hostcpu_probe(), config->host_without);
    vm->tsc_hz = VM_TSC_HZ;
    atomic_store(&vm->a20_mask, UINT64_MAX);
    space_init(&vm->ports, vm, "ports", true, PORT_LAST);
    space_init(&vm->memory, vm, "memory", false, MEMORY_LAST);
    vm->clock = clock_new(config->clock);
    if (!vm->clock) {
        ret = err_set(err, ENOMEM, "out of memory");
        goto fail;
    }
    ret = trace_init(&vm->trace, vm->clock, err);
    if (ret)
        goto fail;
    ret = ram_init(&vm->ram, config->ram_bytes, err);
    if (ret)
        goto fail;
    if (config->with_loop) {
        vm->loop = loop_new(vm, err);
        if (!vm->loop) {
            ret = -EIO;
            goto fail;
        }
    }
    if (vm->engine && vm->engine->vm_init) {
        ret = vm->engine->vm_init(vm, err);
        if (ret) {
            vm->engine = NULL;
            goto fail;
        }
    }
    return 0;

fail:
    vm_fini(vm);
    return ret;
}

void vm_fini(struct vm *vm)
{
    while (vm->ndevices)
        device_free(vm->devices[vm->ndevices - 1]);
    while (vm->nvcpus) {
        struct vcpu *vcpu = vm->vcpus[--vm->nvcpus];

        vcpu_fini(vcpu);
        free(vcpu);
    }
    if (vm->engine && vm->engine->vm_fini)
        vm->engine->vm_fini(vm);
    loop_free(vm->loop);
    ram_fini(&vm->ram);
    trace_fini(&vm->trace);
    gate_fini(&vm->gate);
    clock_free(vm->clock);
    space_fini(&vm->ports);
    space_fini(&vm->memory);
    while (vm->retired) {
        struct map *next = vm->retired->retired_next;

        free(vm->retired);
        vm->retired = next;
    }
    pthread_cond_destroy(&vm->exclusive_cond);
    pthread_mutex_destroy(&vm->exclusive_lock);
    pthread_mutex_destroy(&vm->lock);
}

struct vcpu *vm_add_vcpu(struct vm *vm, const struct cpu_model *model, struct err *err)
{
    struct vcpu *vcpu;

    if (vm->nvcpus == VM_MAX_VCPUS) {
        err_set(err, EINVAL, "a VM has at most %d CPUs: ask for fewer with --cpus", VM_MAX_VCPUS);
        return NULL;
    }
    vcpu = aligned_alloc(64, align_up(sizeof(*vcpu), 64));
    if (!vcpu) {
        err_set(err, ENOMEM, "out of memory making a CPU");
        return NULL;
    }
    memset(vcpu, 0, sizeof(*vcpu));
    vcpu->model = model;
    if (vcpu_init(vcpu, vm, vm->nvcpus, err)) {
        free(vcpu);
        return NULL;
    }
    vm->vcpus[vm->nvcpus++] = vcpu;
    return vcpu;
}

void vm_lock(struct vm *vm)
{
    /* Error-checking: a second lock by the same thread is our mistake and must not hang a host. */
    if (pthread_mutex_lock(&vm->lock))
        abort();
}

void vm_unlock(struct vm *vm)
{
    if (pthread_mutex_unlock(&vm->lock))
        abort();
}

void vm_quiescent(struct vcpu *vcpu)
{
    atomic_store(&vcpu->seen_epoch, atomic_load(&vcpu->vm->epoch));
}

void vm_kick_all(struct vm *vm, uint32_t bits)
{
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_post(vm->vcpus[i], bits);
}

uint64_t vm_tsc(struct vm *vm)
{
    return (uint64_t)((unsigned __int128)(uint64_t)clock_now(vm->clock) * vm->tsc_hz /
                      (uint64_t)NS_PER_SEC);
}
