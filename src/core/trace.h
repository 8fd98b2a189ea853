/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace ring: every port, MMIO, MSR, interrupt, DMA and exception passes one point, trace_emit, with
 * device, register name, value, size, guest RIP and VM time. Off, a point costs one predicted branch
 * (trace_on). Records go to a ring that the control socket reads, and to the printer of --trace or
 * --trace-file if there is one.
 *
 * A pattern is a list of comma-separated globs over "<device>.<register>" or a kind's name:
 * "i8254.*,irq,msr". Kinds: pio mmio msr irq msi dma exception intr cpu jit unknown.
 */
#ifndef CORE_TRACE_H
#define CORE_TRACE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/err.h"
#include "base/types.h"

struct clock;

enum trace_kind {
    TRACE_PIO,
    TRACE_MMIO,
    TRACE_MSR,
    TRACE_IRQ,       /* a line changed: addr = number, value = level */
    TRACE_MSI,       /* addr, value */
    TRACE_DMA,       /* addr, value = length */
    TRACE_EXCEPTION, /* value = vector, addr = error code, extra = CR2 */
    TRACE_INTR,      /* an interrupt was taken: value = vector */
    TRACE_CPU,       /* mode changes, INIT/SIPI, shutdown: name says which */
    TRACE_JIT,       /* a translator's doings: docs/control.md says what the numbers of each are */
    TRACE_UNKNOWN,   /* an access that no register took; value as for PIO/MMIO/MSR */
    TRACE_KINDS,
};

struct trace_rec {
    int64_t ns;         /* VM time */
    uint64_t rip;       /* guest RIP, 0 if none */
    uint64_t addr;      /* port, GPA, MSR index, line... */
    uint64_t value;
    uint64_t extra;
    const char *device; /* static or owned by a device that outlives the ring's readers: its name */
    const char *name;   /* register or event name, static; NULL: addr is printed */
    uint8_t kind;       /* enum trace_kind */
    uint8_t size;       /* bytes */
    uint8_t write;
    int8_t vcpu; /* -1: none */
};

#define TRACE_RING 4096 /* records, a power of two */
#define TRACE_LAST 32

struct trace {
    _Atomic bool on;        /* any reader or printer, or the short memory for reports */
    _Atomic uint64_t head;  /* records written so far */
    struct trace_rec *ring; /* TRACE_RING of them */
    struct clock *clock;    /* borrowed */
    pthread_mutex_t lock;   /* leaf: protects ring, patterns, out */
    char *patterns;         /* NULL: everything is kept in the ring */
    FILE *out;              /* --trace (stderr) or --trace-file; may be NULL */
    bool out_owned;
    unsigned readers; /* of the ring: control connections */
    _Atomic uint64_t unknown; /* accesses to unknown registers so far, traced or not */
    /* The last device accesses, kept always, for reports: they are slow anyway. Machine lock. */
    struct trace_rec last[TRACE_LAST];
    unsigned last_n; /* written so far; the newest is last[(last_n - 1) % TRACE_LAST] */
};

int trace_init(struct trace *trace, struct clock *clock, struct err *err);
void trace_fini(struct trace *trace);
/* Prints records that match patterns to path (NULL: standard error) from now on. */
int trace_start(struct trace *trace, const char *patterns, const char *path, struct err *err);

/* A reader of the ring comes (true) or goes: with no reader and no printer the points are off. */
void trace_listen(struct trace *trace, bool on);

static inline bool trace_on(struct trace *trace)
{
    return unlikely(atomic_load_explicit(&trace->on, memory_order_relaxed));
}

/* Stamps ns and stores it. Call behind trace_on. */
void trace_emit(struct trace *trace, struct trace_rec rec);

/* One line without newline into buf. */
void trace_format(const struct trace_rec *rec, char *buf, size_t size);
bool trace_match(const char *patterns, const struct trace_rec *rec);
const char *trace_kind_name(enum trace_kind kind);

/* Copies records from number `from` on (clamped to what the ring still holds), at most max. *next is where to go on. */
unsigned trace_read(struct trace *trace, uint64_t from, struct trace_rec *recs, unsigned max,
                    uint64_t *next);

#endif
