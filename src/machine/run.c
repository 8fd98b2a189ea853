/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a machine. One thread per vCPU executes; the main thread runs the loop and is the only
 * one that resets, ends or reports, always with every vCPU standing: in stand(), at an instruction
 * boundary, holding nothing of the VM.
 *
 * No kick is lost: whoever wants a vCPU to look changes the condition first (stop_depth, ended),
 * then posts PEND_EXIT; the vCPU clears PEND_EXIT first and looks at the condition afterwards.
 *
 * With the virtual clock there is one vCPU, and its thread runs the timers as well: it executes
 * exactly up to the next deadline, one instruction being one nanosecond, and skips idle time.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cpu/cpu_state.h"
#include "engine/engine.h"
#include "machine/internal.h"
#include "machine/report.h"

/* So that a vCPU without any timer still looks up now and then (virtual clock). */
#define VIRTUAL_SLICE 1000000u
#define QUIESCE_MS    10

void machine_run_init(struct machine *m)
{
    pthread_mutex_init(&m->run_lock, NULL);
    pthread_cond_init(&m->run_cond, NULL);
    atomic_store(&m->crashed_vcpu, -1);
    m->sigquit_fd = -1;
}

void machine_run_fini(struct machine *m)
{
    pthread_cond_destroy(&m->run_cond);
    pthread_mutex_destroy(&m->run_lock);
}

/* ---- vCPU threads ---- */

/*
 * A request that waits to be taken stops every vCPU as well: nothing is executed after the
 * instruction that asked for power-off, so that runs with the virtual clock end alike.
 */
static bool must_stand(struct machine *m)
{
    return (atomic_load(&m->stop_depth) || atomic_load(&m->vm.request)) && !atomic_load(&m->ended);
}

/* Stands still while the main thread wants that. False: the VM has ended. */
static bool stand(struct machine *m, struct vcpu *vcpu)
{
    atomic_fetch_and(&vcpu->pending, ~(uint32_t)PEND_EXIT);
    if (likely(!must_stand(m) && !atomic_load(&m->ended)))
        return true;
    vcpu_set_running(vcpu, false);
    pthread_mutex_lock(&m->run_lock);
    m->standing++;
    pthread_cond_broadcast(&m->run_cond);
    while (must_stand(m))
        pthread_cond_wait(&m->run_cond, &m->run_lock);
    m->standing--;
    pthread_mutex_unlock(&m->run_lock);
    vcpu_set_running(vcpu, true);
    return !atomic_load(&m->ended);
}

/* Executes up to the next deadline, then fires what is due. */
static enum vcpu_stop run_virtual(struct machine *m, struct vcpu *vcpu)
{
    struct vm *vm = &m->vm;
    int64_t next = clock_next_deadline(vm->clock), now = clock_now(vm->clock);
    enum vcpu_stop stop = VCPU_STOP_BUDGET;

    if (next > now) {
        /* The engine tells the clock its instruction count before it returns. */
        stop = vm->engine->run(vcpu, min_u64((uint64_t)(next - now), VIRTUAL_SLICE));
    }
    vm_lock(vm);
    if (stop == VCPU_STOP_HALT)
        clock_warp(vm->clock);
    clock_run_timers(vm->clock);
    vm_unlock(vm);
    /* Idle, and time can only go on from outside: wait as with the real clock. */
    if (stop == VCPU_STOP_HALT && clock_next_deadline(vm->clock) != TIMER_NEVER)
        return VCPU_STOP_BUDGET;
    return stop;
}

static void *vcpu_main(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct machine *m = container_of(vcpu->vm, struct machine, vm);
    bool virtual = clock_mode(m->vm.clock) == CLOCK_VIRTUAL;

    if (m->vm.thread_started)
        m->vm.thread_started(m->vm.thread_opaque, VM_THREAD_VCPU);
    vcpu_set_running(vcpu, true);
    while (stand(m, vcpu)) {
        vm_quiescent(vcpu);
        switch (virtual ? run_virtual(m, vcpu) : m->vm.engine->run(vcpu, UINT64_MAX)) {
        case VCPU_STOP_BUDGET:
        case VCPU_STOP_KICK:
            break;
        case VCPU_STOP_HALT:
            vcpu_wait(vcpu);
            break;
        case VCPU_STOP_SHUTDOWN:
            atomic_store(&m->crashed_vcpu, (int)vcpu->index);
            vm_request(&m->vm, VM_REQUEST_CRASHED, vcpu->index);
            vcpu_wait(vcpu);
            break;
        }
    }
    vcpu_set_running(vcpu, false);
    pthread_mutex_lock(&m->run_lock);
    m->threads--;
    pthread_cond_broadcast(&m->run_cond);
    pthread_mutex_unlock(&m->run_lock);
    return NULL;
}

/* The main thread, no lock held: returns with every vCPU standing. Nests with resume_vcpus. */
static void stop_vcpus(struct machine *m)
{
    atomic_fetch_add(&m->stop_depth, 1);
    vm_kick_all(&m->vm, PEND_EXIT);
    pthread_mutex_lock(&m->run_lock);
    while (m->standing < m->threads)
        pthread_cond_wait(&m->run_cond, &m->run_lock);
    pthread_mutex_unlock(&m->run_lock);
}

static void resume_vcpus(struct machine *m)
{
    pthread_mutex_lock(&m->run_lock);
    atomic_fetch_sub(&m->stop_depth, 1);
    pthread_cond_broadcast(&m->run_cond);
    pthread_mutex_unlock(&m->run_lock);
}

/* ---- reset ---- */

static bool load_write(void *opaque, gpa_t gpa, const void *data, size_t size)
{
    struct machine *m = opaque;

    return mem_load(&m->vm, gpa, data, size);
}

int machine_reset(struct machine *m, enum reset_kind kind, struct err *err)
{
    struct vm *vm = &m->vm;
    struct boot_memory mem = {.write = load_write, .opaque = m};
    struct boot_entry entry;
    int r = 0;

    vm_lock(vm);
    for (unsigned i = 0; i < vm->nvcpus; i++)
        atomic_fetch_and(&vm->vcpus[i]->pending,
                         ~(uint32_t)(PEND_INTR | PEND_NMI | PEND_INIT | PEND_SIPI | PEND_SMI));
    devices_reset(vm, kind);
    vm_unlock(vm);
    if (m->direct_boot) {
        q35_firmware(m);
        r = machine_read_boot_files(m, err);
        vm_lock(vm);
        if (r == 0)
            r = boot_load(m->kind, &m->boot, &mem, &entry, err);
        vm_unlock(vm);
        machine_forget_boot_files(m);
    }
    for (unsigned i = 0; r == 0 && i < vm->nvcpus; i++) {
        struct cpu_state cs;
        uint64_t icount;

        /* The instruction count goes on: it is VM time where the clock is virtual. */
        vm->engine->get(vm->vcpus[i], &cs);
        icount = cs.icount;
        cpu_state_reset(&cs, i == 0, m->model.signature);
        cs.icount = icount;
        if (m->direct_boot) {
            q35_firmware_cpu(m, &cs);
            if (i == 0)
                boot_entry_apply(&entry, &cs);
        }
        vm->engine->set(vm->vcpus[i], &cs);
    }
    return r;
}

/* Requests in flight end; nothing new comes, because the vCPUs stand. */
static void quiesce(struct machine *m)
{
    struct vm *vm = &m->vm;

    for (;;) {
        bool idle;

        vm_lock(vm);
        idle = devices_quiesce(vm);
        if (!idle && clock_mode(vm->clock) == CLOCK_VIRTUAL) {
            clock_warp(vm->clock);
            clock_run_timers(vm->clock);
        }
        vm_unlock(vm);
        if (idle)
            return;
        loop_once(vm->loop, QUIESCE_MS);
    }
}

/* ---- requests ---- */

static void end(struct machine *m, int status)
{
    m->exit_status = status;
    pthread_mutex_lock(&m->run_lock);
    atomic_store(&m->ended, true);
    pthread_cond_broadcast(&m->run_cond);
    pthread_mutex_unlock(&m->run_lock);
    vm_kick_all(&m->vm, PEND_EXIT);
}

static void do_reset(struct machine *m)
{
    struct err err;

    if (m->no_reboot) {
        end(m, MACHINE_EXIT_REBOOT);
        return;
    }
    if (machine_reset(m, RESET_WARM, &err)) {
        log_error("machine", "cannot boot again: %s", err.text);
        end(m, MACHINE_EXIT_HOST);
    }
}

/*
 * A triple fault. On a board the chipset resets then, and firmware-booted systems use it to (the
 * 286's way back to real mode, the last resort of a reboot). A directly booted kernel has simply
 * died.
 */
static void crashed(struct machine *m)
{
    int vcpu = atomic_exchange(&m->crashed_vcpu, -1);

    if (!m->direct_boot && !m->no_reboot) {
        log_info("machine", "CPU %d shut down (triple fault): resetting", vcpu);
        do_reset(m);
        return;
    }
    report_write(m, stderr, "triple fault", vcpu);
    end(m, MACHINE_EXIT_CRASH);
}

static void take_request(struct machine *m)
{
    struct vm *vm = &m->vm;
    enum vm_request what;
    uint32_t value;

    if (!atomic_load(&vm->request))
        return;
    stop_vcpus(m);
    quiesce(m);
    what = atomic_exchange(&vm->request, VM_REQUEST_NONE);
    value = atomic_load(&vm->request_value);
    switch (what) {
    case VM_REQUEST_NONE:
        break;
    case VM_REQUEST_RESET:
        do_reset(m);
        break;
    case VM_REQUEST_POWEROFF:
        end(m, MACHINE_EXIT_POWEROFF);
        break;
    case VM_REQUEST_DEBUG_EXIT:
        end(m, (int)(value << 1 | 1) & 0xff);
        break;
    case VM_REQUEST_CRASHED:
        crashed(m);
        break;
    case VM_REQUEST_STOP:
        end(m, MACHINE_EXIT_STOPPED);
        break;
    case VM_REQUEST_DIFFERENCE:
        end(m, MACHINE_EXIT_DIFFERENCE);
        break;
    }
    resume_vcpus(m);
}

/* Posted with each request, so that the loop turns; take_request follows every turn. */
static void requested(void *opaque)
{
    (void)opaque;
}

/* A new deadline may come before the one that the vCPU is running up to (virtual clock). */
static void deadline_changed(void *opaque)
{
    struct machine *m = opaque;

    vm_kick_all(&m->vm, PEND_EXIT);
}

/* ---- SIGQUIT ---- */

static void on_sigquit(void *opaque, unsigned ready)
{
    struct machine *m = opaque;
    struct signalfd_siginfo info;

    (void)ready;
    if (read(m->sigquit_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        machine_report(m, stderr, "SIGQUIT asked for it");
}

/* Before any thread of the VM is made, so that the signal is blocked in all of them. */
int machine_watch_sigquit(struct machine *m, struct err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGQUIT);
    pthread_sigmask(SIG_BLOCK, &set, &m->old_mask);
    m->sigquit_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m->sigquit_fd < 0 || loop_add_fd(m->vm.loop, m->sigquit_fd, LOOP_IN, on_sigquit, m) < 0)
        return err_set(err, errno, "cannot wait for SIGQUIT: %s", strerror(errno));
    return 0;
}

void machine_unwatch_sigquit(struct machine *m)
{
    if (m->sigquit_fd < 0)
        return;
    loop_del_fd(m->vm.loop, m->sigquit_fd);
    close(m->sigquit_fd);
    m->sigquit_fd = -1;
    pthread_sigmask(SIG_SETMASK, &m->old_mask, NULL);
}

/* ---- the main thread ---- */

int machine_run(struct machine *m)
{
    struct vm *vm = &m->vm;

    vm->request_work = (struct loop_work){.fn = requested, .opaque = m};
    if (clock_mode(vm->clock) == CLOCK_VIRTUAL)
        clock_set_notify(vm->clock, deadline_changed, m);
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        struct vcpu *vcpu = vm->vcpus[i];
        int r;

        pthread_mutex_lock(&m->run_lock);
        m->threads++;
        pthread_mutex_unlock(&m->run_lock);
        r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
        if (r) {
            log_error("machine", "cannot start CPU %u: %s", i, strerror(r));
            pthread_mutex_lock(&m->run_lock);
            m->threads--;
            pthread_mutex_unlock(&m->run_lock);
            end(m, MACHINE_EXIT_HOST);
            break;
        }
        vcpu->thread_started = true;
    }
    if (vm->thread_started)
        vm->thread_started(vm->thread_opaque, VM_THREAD_MAIN);
    take_request(m);
    while (!atomic_load(&m->ended)) {
        loop_once(vm->loop, -1);
        take_request(m);
    }
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        if (vm->vcpus[i]->thread_started)
            pthread_join(vm->vcpus[i]->thread, NULL);
        vm->vcpus[i]->thread_started = false;
    }
    if (clock_mode(vm->clock) == CLOCK_VIRTUAL)
        clock_set_notify(vm->clock, NULL, NULL);
    return m->exit_status;
}

void machine_pause(struct machine *m)
{
    vm_unlock(&m->vm);
    stop_vcpus(m);
    vm_lock(&m->vm);
    if (m->pauses++ == 0)
        clock_pause(m->vm.clock);
}

void machine_resume(struct machine *m)
{
    if (m->pauses == 0)
        return;
    if (--m->pauses == 0)
        clock_resume(m->vm.clock);
    resume_vcpus(m);
}

bool machine_paused(const struct machine *m)
{
    return m->pauses != 0;
}

void machine_stop(struct machine *m)
{
    vm_request(&m->vm, VM_REQUEST_STOP, 0);
}

void machine_report(struct machine *m, FILE *out, const char *why)
{
    machine_pause(m);
    vm_unlock(&m->vm);
    report_write(m, out, why, -1);
    vm_lock(&m->vm);
    machine_resume(m);
}
