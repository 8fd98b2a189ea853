/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: one VM with its chips, CPUs and guest, built from what the command line asked for. The
 * wiring table of each machine type is a file of its own (q35.c); run.c runs any of them.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"
#include "core/clock.h"
#include "core/vm.h"

struct engine;
struct machine;
struct vm;

#define MACHINE_MAX_DISKS 16
#define MACHINE_MAX_PROPS 8

struct machine_prop {
    const char *name, *value;
};

struct machine_disk {
    const char *path;
    const char *bus; /* "nvme", which NULL means as well */
    bool ro;
    bool snapshot; /* writes are lost at the end */
    /* Further options of the controller, as its property table names them (serial=...). */
    struct machine_prop props[MACHINE_MAX_PROPS];
    unsigned nprops;
};

/*
 * Everything that can be asked of a machine. Zeroed plus machine_config_defaults() is a machine
 * that only lacks something to boot. Strings are borrowed until machine_new has returned.
 */
struct machine_config {
    const char *name; /* of the VM */
    const char *type; /* "q35", which NULL means as well */

    /* What to boot: `kernel` or `bios`, exactly one. */
    const char *kernel; /* bzImage, PVH or multiboot ELF; sniffed */
    /*
     * bzImage and PVH: one file. Multiboot: modules, "FILE ARGS,FILE2 ARGS"; a comma is written
     * twice.
     */
    const char *initrd;
    const char *append; /* kernel command line */
    const char *bios;   /* ROM image, ends at 4 GiB */

    uint64_t memory; /* bytes of guest RAM */
    unsigned ncpus;
    const char *cpu;             /* model: 486 pentium3 v1 v2 v3 v4 max */
    const struct engine *engine; /* NULL: the translator */
    struct engine_options engine_options;
    uint32_t host_without;       /* see struct vm_config */
    enum clock_mode clock;       /* CLOCK_REAL or CLOCK_VIRTUAL */
    /* Virtual clock: wall-clock time at the start, ns since 1970; 0: the fixed
     * MACHINE_VIRTUAL_EPOCH. */
    int64_t wall_base;

    struct machine_disk disks[MACHINE_MAX_DISKS];
    unsigned ndisks;
    const char *serial;       /* back end of COM1 (backend/char/chardev.h); NULL: no serial port */
    const char *debugcon;     /* back end of the debug port; NULL: there is none */
    uint16_t debugcon_port;   /* 0: E9h; SeaBIOS and OVMF write to 402h */
    bool debug_exit;          /* isa-debug-exit at port 501h (QEMU's default) */
    uint16_t debug_exit_port; /* 0: 501h */

    bool no_acpi;   /* no tables: old guests, tests */
    bool no_reboot; /* a reset ends the VM with MACHINE_EXIT_REBOOT */

    const char *trace;      /* patterns; NULL: not traced */
    const char *trace_file; /* NULL: standard error */
};

#define MACHINE_VIRTUAL_EPOCH (1735689600ll * NS_PER_SEC) /* 2025-01-01 00:00:00 UTC */

#define MACHINE_MIN_MEMORY (1ull << 20)
/* 40 physical address bits, and the PCI window above RAM. */
#define MACHINE_MAX_MEMORY (1ull << 39)

/* 512 MiB, one `max` CPU, the interpreter, real clock, serial on stdio. */
void machine_config_defaults(struct machine_config *config);

/*
 * Exit statuses of a VM. Those of ours are even, because isa-debug-exit makes every odd one: a
 * guest that writes v to it ends the VM with (v << 1) | 1, cut to 8 bits.
 */
enum machine_exit {
    MACHINE_EXIT_POWEROFF = 0, /* the guest powered itself off */
    MACHINE_EXIT_USAGE = 2,    /* wrong options or files: nothing was run */
    MACHINE_EXIT_HOST = 4,     /* the host could not give what the VM needs */
    MACHINE_EXIT_REBOOT = 6,   /* the guest reset the machine, and --no-reboot was given */
    MACHINE_EXIT_CRASH = 8,    /* the guest died: triple fault; the report is on standard error */
    MACHINE_EXIT_STOPPED = 10, /* the operator ended it */
    MACHINE_EXIT_DIFFERENCE = 12, /* --engine lockstep: the engines disagree; see standard error */
};

/* Builds everything; opens every file that will ever be needed. NULL and one sentence on failure.
 */
struct machine *machine_new(const struct machine_config *config, struct err *err);
void machine_free(struct machine *machine);

/* Starts the vCPUs and runs the loop in the calling thread until the VM ends. Returns its exit
 * status. */
int machine_run(struct machine *machine);

struct vm *machine_vm(struct machine *machine);

/*
 * Loop callbacks (main thread, machine lock held) may call the rest. Pause returns once every vCPU
 * stands still at an instruction boundary and VM time is stopped; the machine lock is let go of
 * meanwhile. They nest: as many resumes as pauses.
 */
void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
bool machine_paused(const struct machine *machine);

/* Ends the VM from outside: machine_run returns MACHINE_EXIT_STOPPED. From any thread. */
void machine_stop(struct machine *machine);

/* The report of machine/report.h, with the vCPUs paused while it is written. */
void machine_report(struct machine *machine, FILE *out, const char *why);

#endif
