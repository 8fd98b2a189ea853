/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupt wiring. A line has sources (devices), which each drive their own input, and sinks (pins of
 * interrupt controllers). The line's level is the OR of its sources, so a shared line needs nothing
 * special. Level changes reach the sinks at once, under the machine lock.
 */
#ifndef CORE_IRQ_H
#define CORE_IRQ_H

#include "base/types.h"

struct trace;

/* A pin of an interrupt controller. */
struct irq_pin {
    /* Returns false if an edge was coalesced: the pin was already pending. */
    bool (*set)(void *chip, unsigned pin, bool level);
    void *chip;
    unsigned pin;
};

/* Told that the guest has finished with the interrupt on this line (EOI). Leave zeroed until added. */
struct eoi_notifier {
    void (*eoi)(void *opaque);
    void *opaque;
    struct eoi_notifier *next;
};

#define IRQ_MAX_SOURCES 64
#define IRQ_MAX_PINS 4

struct irq_line {
    const char *name;
    unsigned number; /* GSI, for traces */
    uint64_t levels; /* one bit per source: derived, never saved; sources re-drive in derive() */
    unsigned nsources, npins;
    struct irq_pin pins[IRQ_MAX_PINS];
    struct eoi_notifier *notifiers;
    struct trace *trace; /* borrowed; may be NULL */
};

/* One input of a line, held by the device that drives it. A zeroed irq is not connected. */
struct irq {
    struct irq_line *line;
    unsigned source;
};

void irq_line_init(struct irq_line *line, const char *name, unsigned number, struct trace *trace);
void irq_line_add_pin(struct irq_line *line, struct irq_pin pin);
struct irq irq_line_source(struct irq_line *line);

/*
 * Drives this input. Idempotent and cheap. Returns false if a rising edge was coalesced because every
 * pin that took it was already pending (tick catch-up policies want to know).
 */
bool irq_set(struct irq irq, bool level);

static inline bool irq_line_level(const struct irq_line *line)
{
    return line->levels != 0;
}

void irq_add_eoi(struct irq irq, struct eoi_notifier *notifier);
void irq_remove_eoi(struct irq irq, struct eoi_notifier *notifier);
/* An interrupt controller saw the EOI of this line. */
void irq_line_eoi(struct irq_line *line);

#endif
