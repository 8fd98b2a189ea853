/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus: ports and memory, each a space of regions with priorities. The map a reader sees is
 * immutable: a change builds a new one and swaps it in, and readers leave the old one in their own
 * time (vm_quiescent in core/vm.h). PAM, SMRAM, moved and overlapping BARs are all just regions.
 *
 * Every access of a vCPU goes through bus_access: it traces, splits, checks widths, and calls the
 * handler. Devices see an offset from their region's start, never an absolute address.
 */
#ifndef CORE_BUS_H
#define CORE_BUS_H

#include "base/types.h"

struct device;
struct vm;
struct ram;

enum region_kind {
    REGION_IO,   /* handlers */
    REGION_RAM,  /* guest RAM, read and written directly */
    REGION_ROM,  /* read directly, writes dropped */
    REGION_ROMD, /* read directly, writes go to the handlers (flash) */
};

/* A register: for traces, the unknown-access check, and fuzzers. Tables end with a NULL name. */
struct io_reg {
    uint32_t offset;
    uint32_t width; /* bytes */
    const char *name;
};

#define IO_1 1u
#define IO_2 2u
#define IO_4 4u
#define IO_8 8u

struct io_ops {
    uint64_t (*read)(void *dev, uint64_t off, unsigned size);
    void (*write)(void *dev, uint64_t off, uint64_t val, unsigned size);
    /*
     * Widths the handlers take, an OR of IO_1..IO_8. A wider access is split into the widest allowed
     * (naturally aligned) pieces, in ascending order; a narrower one than any allowed is refused:
     * it reads as ones, writes are dropped, and it is counted as an unknown access.
     */
    unsigned sizes;
    const struct io_reg *regs; /* NULL: traced by offset */
    bool lockless;             /* overlays only: called without the machine lock (local APIC) */
};

#define REGION_PRIO_BACKGROUND (-10) /* catch-all */
#define REGION_PRIO_NORMAL 0
#define REGION_PRIO_OVERLAY 10 /* PAM, SMRAM, VGA hole */

struct region {
    /* Set by the owner before bus_map. */
    const char *name;
    enum region_kind kind;
    uint64_t size;
    int priority;
    const struct io_ops *ops; /* IO, ROMD */
    void *dev;                /* what the handlers get; usually the device */
    struct device *owner;     /* for traces and the engaged flag; may be NULL */
    uint64_t ram_offset;      /* RAM, ROM, ROMD: where in the VM's RAM file */
    bool disabled;            /* mapped but not visible; change with bus_set_enabled */
    /* Owned by the bus. */
    struct space *space;
    uint64_t base;
    uint32_t order; /* of mapping: the later one wins among equals */
};

/* A run of addresses that one region serves. Runs are sorted, disjoint, and may leave holes. */
struct map_range {
    uint64_t start, last; /* inclusive, so that the end of the space can be expressed */
    uint64_t offset;      /* of `start` inside the region */
    struct region *region;
};

struct map {
    uint64_t generation;
    unsigned count;
    struct map *retired_next;
    struct map_range ranges[];
};

struct space {
    const char *name;
    struct vm *vm;
    bool is_io;          /* the port space */
    uint64_t last;       /* highest address */
    struct map *_Atomic map;
    struct region **regions;
    unsigned nregions, cap;
    uint32_t next_order;
    unsigned batch; /* depth of bus_begin */
    bool dirty;
};

void space_init(struct space *space, struct vm *vm, const char *name, bool is_io, uint64_t last);
void space_fini(struct space *space);

/* Publishes region at base; the part past the end of the space is cut off. Cannot fail. Machine lock held. */
void bus_map(struct space *space, struct region *region, uint64_t base);
/* Takes it off again; harmless if it is not mapped. */
void bus_unmap(struct region *region);
/* Moves it (BARs), or maps it if it was not. */
void bus_move(struct space *space, struct region *region, uint64_t base);
void bus_set_enabled(struct region *region, bool enabled);
/* Changes between begin and end become visible together. Nests. */
void bus_begin(struct space *space);
void bus_commit(struct space *space);

/* The run that serves addr, or NULL. Valid until the reader is next quiescent, or under the machine lock. */
const struct map_range *bus_lookup(struct space *space, uint64_t addr);

/* Who is asking, for the trace. All zero for "the machine itself". */
struct bus_from {
    int vcpu;     /* -1: none */
    uint64_t rip; /* guest RIP of the access */
};

/*
 * Reads or writes `size` bytes (1 to 64) at addr through the handlers; RAM runs are copied. Crossing
 * regions is fine. Takes the machine lock. Absent addresses read as ones.
 */
void bus_access(struct space *space, struct bus_from from, uint64_t addr, void *data, unsigned size,
                bool write);

/*
 * A string instruction's run on one port: `count` elements of `size` bytes from/to data, the lock taken
 * once. Same meaning as count calls.
 */
void bus_access_rep(struct space *space, struct bus_from from, uint64_t addr, void *data,
                    unsigned size, unsigned count, bool write);

/*
 * An access to bytes [off, off+size) of one region that is not looked up in the space: a vCPU's overlay
 * at `base`. Takes the machine lock unless the region's handlers are lockless.
 */
void bus_access_region(struct space *space, struct bus_from from, struct region *region,
                       uint64_t base, uint64_t off, void *data, unsigned size, bool write);

/* What a handler calls for an offset that is no register of it: counted, traced, reported once. */
uint64_t io_bad_read(struct device *dev, uint64_t off, unsigned size);
void io_bad_write(struct device *dev, uint64_t off, uint64_t val, unsigned size);

#endif
