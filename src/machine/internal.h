/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's own struct: what machine.c builds, q35.c wires, run.c runs and report.c shows. */
#ifndef MACHINE_INTERNAL_H
#define MACHINE_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "backend/block/block.h"
#include "backend/char/chardev.h"
#include "core/vm.h"
#include "cpu/model.h"
#include "hw/intc/lapic.h"
#include "hw/pci/pci.h"
#include "machine/acpi.h"
#include "machine/boot/loader.h"
#include "machine/machine.h"

#define ISA_IRQS 16

struct cpu_state;

struct machine {
    struct vm vm;
    bool vm_made;
    struct cpu_model model;

    /* ---- what was asked for; the strings of config are not kept ---- */
    uint64_t memory;
    bool no_reboot;
    bool direct_boot; /* no firmware: we set up what it would have */

    /* ---- back ends, freed after the devices ---- */
    struct block *blocks[MACHINE_MAX_DISKS];
    unsigned nblocks;
    struct chardev *serial, *debugcon;

    /* ---- q35.c: wires and memory ---- */
    struct irq_line isa[ISA_IRQS];
    struct irq_line pirq[PCI_BUS_PIRQS];
    struct irq_line intr; /* from the 8259s */
    struct lapic_bus lapics;
    struct device *lapic[VM_MAX_VCPUS];
    struct device *pic, *ioapic, *host, *lpc, *pm;
    _Atomic bool intr_level;    /* of `intr`, for a CPU without a local APIC */
    uint64_t low_end, high_end; /* of RAM below and above 4 GiB; high_end 0: none */
    struct region ram_conventional, ram_low, ram_high, rom, rom_low;
    bool has_apic;

    /* ---- direct boot ---- */
    enum boot_kind kind;
    struct boot_input boot; /* its files and strings are owned */
    struct acpi_tables acpi;
    gpa_t acpi_base;
    char *module_list; /* owns boot.module[].name and args */

    /* ---- run.c ---- */
    pthread_mutex_t run_lock; /* leaf: the fields below */
    pthread_cond_t run_cond;
    _Atomic unsigned stop_depth; /* vCPUs stand still while it is not 0 */
    unsigned standing;           /* vCPU threads that do */
    unsigned threads;            /* started and not yet ended */
    _Atomic bool ended;          /* threads leave */
    unsigned pauses;             /* machine_pause calls in force; main thread */
    int sigquit_fd;              /* -1: none */
    sigset_t old_mask;
    int exit_status;
    _Atomic int crashed_vcpu; /* -1: none */
};

/* machine.c */

/* The whole of a regular file, at most `max` bytes; malloced. */
int machine_read_file(const char *path, uint64_t max, uint8_t **data, size_t *size,
                      struct err *err);

/*
 * The files of a direct boot are in memory only while they are loaded: they may be as large as all
 * else that a machine takes. What is open is read again at each reset. Both do nothing without such
 * files.
 */
int machine_read_boot_files(struct machine *m, struct err *err);
void machine_forget_boot_files(struct machine *m);

/* run.c */

void machine_run_init(struct machine *m);
void machine_run_fini(struct machine *m);
int machine_watch_sigquit(struct machine *m, struct err *err);
void machine_unwatch_sigquit(struct machine *m);

/* q35.c. Where firmware leaves things; the ACPI tables and the chips' reset values both come from
 * here. */
#define Q35_PM_BASE       0x600u
#define Q35_SCI_IRQ       9u
#define Q35_ECAM_BASE     0xb0000000ull
#define Q35_RSDP          0xf0000u
#define Q35_PCI_IRQ(pirq) ((pirq)&1 ? 11u : 10u)

/* Wires up everything, devices attached and not yet reset. */
int q35_build(struct machine *m, const struct machine_config *config, struct err *err);
/* The memory map and ACPI tables of a direct boot. */
int q35_describe(struct machine *m, const struct machine_config *config, struct err *err);
/* What firmware does after each reset, before the kernel: no lock held, vCPUs standing. */
void q35_firmware(struct machine *m);
/* The registers that firmware would have set in every CPU. */
void q35_firmware_cpu(struct machine *m, struct cpu_state *cs);

/*
 * Everything to its power-on (or reset) state, and the guest's first instruction: devices, RAM
 * images, CPUs. The vCPUs stand. No lock held. Fails only where a direct boot does not fit, or its
 * files cannot be read any more.
 */
int machine_reset(struct machine *m, enum reset_kind kind, struct err *err);

#endif
