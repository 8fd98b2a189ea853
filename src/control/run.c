/* SPDX-License-Identifier: Apache-2.0 */
/* The verb `run`: from a command line to a machine in its sandbox, and what is left to do after it.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "control/command.h"
#include "control/ctl.h"
#include "control/janitor.h"
#include "control/options.h"
#include "control/rundir.h"
#include "control/sandbox.h"
#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "engine/engine.h"

struct run {
    struct run_options options;
    char name[32];
    struct rundir dir;
    struct janitor janitor;
    struct machine *machine;
    struct ctl *ctl;
    struct sandbox sandbox;
    int signal_fd;
};

/* ---- signals ---- */

/* Blocked before the first thread is made, so that they only ever arrive in the loop. */
static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigprocmask(SIG_BLOCK, set, NULL);
    /* A reader that goes away is an error of that write, not of the VM. */
    signal(SIGPIPE, SIG_IGN);
}

static void on_signal(void *opaque, unsigned ready)
{
    struct run *run = opaque;
    struct signalfd_siginfo info;

    (void)ready;
    if (read(run->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        machine_stop(run->machine);
}

static int watch_signals(struct run *run, const sigset_t *set, struct err *err)
{
    run->signal_fd = signalfd(-1, set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (run->signal_fd < 0 ||
        loop_add_fd(machine_vm(run->machine)->loop, run->signal_fd, LOOP_IN, on_signal, run) < 0)
        return err_set(err, errno, "signals can not be waited for: %s.", strerror(errno));
    return 0;
}

/* ---- --print-hash ---- */

#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME  0x100000001b3ull

/* FNV-1a by 8-byte words. */
static uint64_t hash_page(uint64_t hash, const uint8_t *page)
{
    unsigned i;

    for (i = 0; i < PAGE_SIZE; i += 8) {
        uint64_t word;

        memcpy(&word, page + i, sizeof(word));
        hash = (hash ^ word) * FNV_PRIME;
    }
    return hash;
}

static void print_hash(struct vm *vm)
{
    const struct map *map = atomic_load(&vm->memory.map);
    uint64_t hash = FNV_OFFSET, icount = 0, gpa;
    unsigned i;

    for (i = 0; i < vm->nvcpus; i++) {
        struct cpu_state cs;

        vm->engine->get(vm->vcpus[i], &cs);
        icount += cs.icount;
    }
    for (i = 0; i < map->count; i++) {
        const struct map_range *range = &map->ranges[i];

        if (range->region->kind != REGION_RAM)
            continue;
        for (gpa = align_up(range->start, PAGE_SIZE); gpa <= range->last; gpa += PAGE_SIZE) {
            const uint8_t *page = mem_page(vm, gpa, false, NULL);

            if (page)
                hash = hash_page(hash ^ gpa, page);
        }
    }
    fprintf(stderr, "doppel: icount %" PRIu64 " ram %016" PRIx64 " unknown %" PRIu64 "\n", icount,
            hash, vm->trace.unknown);
}

/* ---- steps ---- */

/* A VM without a name of its own runs even where there is no room for a runtime directory. */
static int take_name(struct run *run, struct err *err)
{
    struct machine_config *m = &run->options.machine;
    bool named = m->name;
    int r;

    snprintf(run->name, sizeof(run->name), "vm-%d", (int)getpid());
    if (!named)
        m->name = run->name;
    r = rundir_take(&run->dir, m->name, err);
    if (r < 0 && !named) {
        log_warn("control", "%s This VM can not be seen by doppel ps.", err->text);
        return 0;
    }
    return r;
}

static const char *socket_of(const char *stream)
{
    return stream && !strncmp(stream, "unix:", 5) ? stream + 5 : NULL;
}

/*
 * Relative paths stay valid: nothing changes the working directory. The janitor starts before the
 * sockets exist, and takes away only what is there when it ends.
 */
static int start_janitor(struct run *run, struct err *err)
{
    struct janitor_job job = {.dir = run->dir.lock_fd >= 0 ? &run->dir : NULL};

    job.paths[0] = socket_of(run->options.machine.serial);
    job.paths[1] = socket_of(run->options.machine.debugcon);
    return janitor_start(&run->janitor, &job, err);
}

static int prepare(struct run *run, const sigset_t *signals, struct err *err)
{
    struct vm *vm;
    int r;

    janitor_owns_paths(&run->janitor);
    vm = machine_vm(run->machine);
    if (run->dir.lock_fd >= 0) {
        run->ctl = ctl_new(run->machine, &run->options.machine, run->dir.socket, err);
        if (!run->ctl)
            return -EIO;
    }
    r = watch_signals(run, signals, err);
    if (r < 0)
        return r;
    vm->thread_started = sandbox_thread;
    vm->thread_opaque = &run->sandbox;
    return sandbox_enter(&run->sandbox, run->options.sandbox, err);
}

static int execute(struct run *run, struct err *err)
{
    sigset_t signals;
    int status = MACHINE_EXIT_USAGE;

    block_signals(&signals);
    if (take_name(run, err) < 0)
        return status;
    if (start_janitor(run, err) < 0)
        return MACHINE_EXIT_HOST;
    run->machine = machine_new(&run->options.machine, err);
    if (run->machine) {
        status = MACHINE_EXIT_HOST;
        if (prepare(run, &signals, err) == 0) {
            status = machine_run(run->machine);
            err->text[0] = 0;
            if (run->options.print_hash)
                print_hash(machine_vm(run->machine));
        }
    }
    ctl_free(run->ctl);
    machine_free(run->machine);
    return status;
}

int run_main(int argc, char **argv)
{
    struct run run = {.dir.lock_fd = -1, .signal_fd = -1, .janitor.pipe_fd = -1};
    struct err err = {0};
    int status;

    if (argc == 1) {
        options_usage(stdout);
        return MACHINE_EXIT_USAGE;
    }
    if (options_parse_run(&run.options, argc - 1, argv + 1, &err) < 0) {
        fprintf(stderr, "doppel run: %s\n", err.text);
        options_fini(&run.options);
        return MACHINE_EXIT_USAGE;
    }
    if (run.options.help) {
        options_help(stdout);
        options_fini(&run.options);
        return 0;
    }
    if (run.options.verbose)
        log_set_level(LOG_LEVEL_INFO);
    status = execute(&run, &err);
    if (err.text[0])
        fprintf(stderr, "doppel run: %s\n", err.text);
    janitor_finish(&run.janitor);
    sandbox_fini(&run.sandbox);
    options_fini(&run.options);
    return status;
}
