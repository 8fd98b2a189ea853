/* SPDX-License-Identifier: Apache-2.0 */
#include "core/irq.h"

#include <assert.h>

#include "core/trace.h"

void irq_line_init(struct irq_line *line, const char *name, unsigned number, struct trace *trace)
{
    *line = (struct irq_line){.name = name, .number = number, .trace = trace};
}

void irq_line_add_pin(struct irq_line *line, struct irq_pin pin)
{
    assert(line->npins < IRQ_MAX_PINS);
    line->pins[line->npins++] = pin;
}

struct irq irq_line_source(struct irq_line *line)
{
    assert(line->nsources < IRQ_MAX_SOURCES);
    return (struct irq){.line = line, .source = line->nsources++};
}

bool irq_set(struct irq irq, bool level)
{
    struct irq_line *line = irq.line;
    uint64_t old;
    bool taken = false;

    if (!line)
        return true;
    old = line->levels;
    if (level)
        line->levels |= BIT(irq.source);
    else
        line->levels &= ~BIT(irq.source);
    if (!old == !line->levels)
        return !level || old == line->levels;
    if (line->trace && trace_on(line->trace))
        trace_emit(line->trace,
                   (struct trace_rec){.kind = TRACE_IRQ, .addr = line->number, .value = level,
                                      .device = line->name, .name = "irq", .write = 1, .vcpu = -1});
    for (unsigned i = 0; i < line->npins; i++)
        if (line->pins[i].set(line->pins[i].chip, line->pins[i].pin, level))
            taken = true;
    return taken || !line->npins;
}

void irq_add_eoi(struct irq irq, struct eoi_notifier *notifier)
{
    if (!irq.line)
        return;
    notifier->next = irq.line->notifiers;
    irq.line->notifiers = notifier;
}

void irq_remove_eoi(struct irq irq, struct eoi_notifier *notifier)
{
    struct eoi_notifier **p;

    if (!irq.line)
        return;
    for (p = &irq.line->notifiers; *p; p = &(*p)->next) {
        if (*p == notifier) {
            *p = notifier->next;
            notifier->next = NULL;
            return;
        }
    }
}

void irq_line_eoi(struct irq_line *line)
{
    struct eoi_notifier *n, *next;

    for (n = line->notifiers; n; n = next) {
        next = n->next;
        n->eoi(n->opaque);
    }
}
