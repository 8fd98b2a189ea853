/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a device. A chip embeds struct device first in its own struct and ends its file with a
 * struct dev_type. The core does the choreography: all are initialised, then attached; all are reset,
 * then all derived; all are loaded, all checked, all derived. No device resets, loads or notifies
 * another one: wiring between them is values (struct irq) passed in by the machine.
 */
#ifndef CORE_DEVICE_H
#define CORE_DEVICE_H

#include "base/err.h"
#include "base/types.h"
#include "core/bus.h"
#include "core/clock.h"
#include "core/dma.h"
#include "core/irq.h"
#include "core/state.h"

struct vm;

enum reset_kind {
    RESET_COLD,     /* power on */
    RESET_WARM,     /* CPU and platform reset: port 92h, CF9h, i8042, triple fault */
    RESET_BUS,      /* PCI secondary bus reset */
    RESET_FUNCTION, /* FLR, or a controller's own reset bit */
};

/* An option of a device, parsed by the command line and listed in its help. */
enum prop_kind { PROP_BOOL, PROP_UINT, PROP_SIZE, PROP_STRING };
struct prop {
    const char *name;
    enum prop_kind kind;
    uint32_t offset; /* inside the config struct */
    const char *fallback;
    const char *help;
};

struct dev_type {
    const char *name; /* the stem: i8254, nvme */
    const char *desc; /* one line, for lists */
    size_t size;      /* of the chip's struct; it starts with struct device */
    const struct prop *props; /* into the config struct; ends with a NULL name; may be NULL */
    /* Builds: copies wiring out of `config` (the chip's config struct). The struct comes zeroed. */
    int (*init)(struct device *dev, const void *config, struct err *err);
    /* Publishes regions; last, cannot fail. May be NULL for a device that maps nothing itself. */
    void (*attach)(struct device *dev);
    void (*detach)(struct device *dev);
    /* Writes own state only. */
    void (*reset)(struct device *dev, enum reset_kind kind);
    /* Refuses loaded state that passes the ranges and is impossible all the same. May be NULL. */
    int (*check)(struct device *dev, struct err *err);
    /* From state alone: interrupt level, timers, mappings. The only code that does any of these. */
    void (*derive)(struct device *dev);
    /* Lets requests in flight end (before reset, save, detach). Returns true when idle. May be NULL. */
    bool (*quiesce)(struct device *dev);
    void (*fini)(struct device *dev);
    const struct state *state; /* never NULL: STATE_NONE says why there is none */
};

struct device {
    const struct dev_type *type;
    struct vm *vm; /* borrowed */
    char name[32]; /* its place in the machine: "i8254", "pci.0.4.0/nvme" */
    unsigned id;   /* index in the VM, for trace records */
    bool attached;
    bool engaged; /* a handler of it is running: it can not be entered again */
    /* Bus mastering, set by the PCI function it belongs to; NULL: always allowed (ISA). */
    const bool *bus_master;
    uint16_t requester_id; /* PCI bus/device/function, for MSI and the IOMMU */
    uint32_t bad_accesses; /* io_bad_* so far */
    uint32_t guest_errs;
};

/*
 * Makes a device and initialises it; the VM owns it. Name must be unique in the VM. NULL and a sentence
 * on failure.
 */
struct device *device_new(struct vm *vm, const struct dev_type *type, const char *name,
                          const void *config, struct err *err);
void device_attach(struct device *dev);
void device_detach(struct device *dev);
void device_free(struct device *dev);
/* Resets one device (function level reset): reset, then derive. */
void device_reset(struct device *dev, enum reset_kind kind);
struct device *device_find(struct vm *vm, const char *name);

/* The guest did what a driver should not: rate-limited line for the operator. The guest carries on. */
void guest_err(struct device *dev, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* All devices of a VM: reset all then derive all; save; load all, check all, derive all. */
void devices_reset(struct vm *vm, enum reset_kind kind);
void devices_attach(struct vm *vm);
void devices_save(struct vm *vm, struct state_buf *out);
int devices_load(struct vm *vm, struct state_buf *in, struct err *err);
/* True when no device has a request in flight. */
bool devices_quiesce(struct vm *vm);

/* Message-signalled interrupts: a write to addr by `from`, whose requester id is in the trace. */
void msi_send(struct device *from, uint64_t addr, uint32_t data);

/*
 * A device asks for what only the run loop may do: reset, power-off. Taken at the next safe point, never
 * in place. Machine lock held.
 */
enum vm_request {
    VM_REQUEST_NONE,
    VM_REQUEST_RESET,      /* warm reset of the machine */
    VM_REQUEST_POWEROFF,   /* guest powered off */
    VM_REQUEST_DEBUG_EXIT, /* isa-debug-exit: value says the status */
    VM_REQUEST_CRASHED,    /* triple fault with nothing to reset to */
    VM_REQUEST_STOP,       /* the operator or the host wants the VM to end */
    VM_REQUEST_DIFFERENCE, /* two engines disagree */
};
void vm_request(struct vm *vm, enum vm_request what, uint32_t value);

#endif
