/* SPDX-License-Identifier: Apache-2.0 */
#include "core/trace.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

static const char *const kind_names[TRACE_KINDS] = {
    [TRACE_PIO] = "pio",   [TRACE_MMIO] = "mmio",           [TRACE_MSR] = "msr",
    [TRACE_IRQ] = "irq",   [TRACE_MSI] = "msi",             [TRACE_DMA] = "dma",
    [TRACE_INTR] = "intr", [TRACE_EXCEPTION] = "exception", [TRACE_CPU] = "cpu",
    [TRACE_JIT] = "jit",   [TRACE_UNKNOWN] = "unknown",
};

const char *trace_kind_name(enum trace_kind kind)
{
    return (unsigned)kind < TRACE_KINDS ? kind_names[kind] : "?";
}

int trace_init(struct trace *trace, struct clock *clock, struct err *err)
{
    *trace = (struct trace){.clock = clock};
    pthread_mutex_init(&trace->lock, NULL);
    trace->ring = calloc(TRACE_RING, sizeof(*trace->ring));
    if (!trace->ring)
        return err_set(err, ENOMEM, "out of memory for the trace ring");
    return 0;
}

void trace_fini(struct trace *trace)
{
    if (trace->out && trace->out_owned)
        fclose(trace->out);
    free(trace->patterns);
    free(trace->ring);
    pthread_mutex_destroy(&trace->lock);
}

/* The points are on while anybody listens; the lock is held. */
static void trace_update(struct trace *trace)
{
    atomic_store(&trace->on, trace->out || trace->readers);
}

void trace_listen(struct trace *trace, bool on)
{
    pthread_mutex_lock(&trace->lock);
    trace->readers += on ? 1 : -1;
    trace_update(trace);
    pthread_mutex_unlock(&trace->lock);
}

int trace_start(struct trace *trace, const char *patterns, const char *path, struct err *err)
{
    FILE *out = path ? fopen(path, "we") : stderr;

    if (!out)
        return err_set(err, errno, "cannot write the trace to '%s': %s", path, strerror(errno));
    pthread_mutex_lock(&trace->lock);
    if (trace->out && trace->out_owned)
        fclose(trace->out);
    trace->out = out;
    trace->out_owned = path != NULL;
    free(trace->patterns);
    trace->patterns = patterns ? strdup(patterns) : NULL;
    trace_update(trace);
    pthread_mutex_unlock(&trace->lock);
    return 0;
}

/* One glob against a record: a kind's name, "device", or "device.register". */
static bool match_one(const char *pattern, const struct trace_rec *rec)
{
    char full[128];

    if (!fnmatch(pattern, trace_kind_name(rec->kind), 0))
        return true;
    if (!rec->device)
        return false;
    if (!fnmatch(pattern, rec->device, 0))
        return true;
    snprintf(full, sizeof(full), "%s.%s", rec->device, rec->name ? rec->name : "");
    return !fnmatch(pattern, full, 0);
}

bool trace_match(const char *patterns, const struct trace_rec *rec)
{
    const char *p = patterns;

    if (!patterns || !*patterns)
        return true;
    while (*p) {
        size_t len = strcspn(p, ",");
        char one[128];

        if (len && len < sizeof(one)) {
            memcpy(one, p, len);
            one[len] = 0;
            if (match_one(one, rec))
                return true;
        }
        p += len + (p[len] == ',');
    }
    return false;
}

void trace_format(const struct trace_rec *rec, char *buf, size_t size)
{
    char who[16] = "-", reg[32];
    const char *name = rec->name;
    const char *arrow = rec->write ? "<-" : "->";

    if (rec->vcpu >= 0)
        snprintf(who, sizeof(who), "cpu%d", rec->vcpu);
    if (!name) {
        snprintf(reg, sizeof(reg), "%#llx", (unsigned long long)rec->addr);
        name = reg;
    }
    if (rec->kind == TRACE_EXCEPTION)
        snprintf(buf, size, "%14lld %-5s %-9s vector %llu error %#llx cr2 %#llx rip %#llx",
                 (long long)rec->ns, who, "exception", (unsigned long long)rec->value,
                 (unsigned long long)rec->addr, (unsigned long long)rec->extra,
                 (unsigned long long)rec->rip);
    else if (rec->kind == TRACE_JIT)
        snprintf(buf, size, "%14lld %-5s %-9s %s.%s [%#llx] %llu %#llx rip %#llx",
                 (long long)rec->ns, who, "jit", rec->device, name, (unsigned long long)rec->addr,
                 (unsigned long long)rec->value, (unsigned long long)rec->extra,
                 (unsigned long long)rec->rip);
    else
        snprintf(buf, size, "%14lld %-5s %-9s %s.%s [%#llx] %s %#llx size %u rip %#llx",
                 (long long)rec->ns, who, trace_kind_name(rec->kind),
                 rec->device ? rec->device : "-", name, (unsigned long long)rec->addr, arrow,
                 (unsigned long long)rec->value, rec->size, (unsigned long long)rec->rip);
}

void trace_emit(struct trace *trace, struct trace_rec rec)
{
    char line[256];

    rec.ns = trace->clock ? clock_now(trace->clock) : 0;
    pthread_mutex_lock(&trace->lock);
    trace->ring[atomic_load(&trace->head) % TRACE_RING] = rec;
    atomic_fetch_add(&trace->head, 1);
    if (trace->out && trace_match(trace->patterns, &rec)) {
        trace_format(&rec, line, sizeof(line));
        fprintf(trace->out, "%s\n", line);
    }
    pthread_mutex_unlock(&trace->lock);
}

unsigned trace_read(struct trace *trace, uint64_t from, struct trace_rec *recs, unsigned max,
                    uint64_t *next)
{
    uint64_t head;
    unsigned n = 0;

    pthread_mutex_lock(&trace->lock);
    head = atomic_load(&trace->head);
    if (from > head)
        from = head;
    if (head - from > TRACE_RING)
        from = head - TRACE_RING;
    while (from < head && n < max)
        recs[n++] = trace->ring[from++ % TRACE_RING];
    pthread_mutex_unlock(&trace->lock);
    *next = from;
    return n;
}
