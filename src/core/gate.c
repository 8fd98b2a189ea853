/* SPDX-License-Identifier: Apache-2.0 */
#include "core/gate.h"

#include <stdlib.h>

uint64_t gate_input(struct gate *gate, enum gate_kind kind, uint64_t icount, uint64_t live)
{
    if (likely(gate->mode == GATE_OPEN))
        return live;
    if (gate->mode == GATE_REPLAY) {
        const struct gate_rec *rec;

        if (gate->next >= gate->count) {
            gate->diverged = true;
            return live;
        }
        rec = &gate->log[gate->next++];
        if (rec->kind != (uint32_t)kind || rec->icount != icount)
            gate->diverged = true;
        return rec->value;
    }
    if (gate->count == gate->cap) {
        size_t cap = gate->cap ? gate->cap * 2 : 1024;
        struct gate_rec *log = realloc(gate->log, cap * sizeof(*log));

        if (!log) {
            gate->diverged = true;
            return live;
        }
        gate->log = log;
        gate->cap = cap;
    }
    gate->log[gate->count++] =
        (struct gate_rec){.kind = (uint32_t)kind, .icount = icount, .value = live};
    return live;
}

void gate_record(struct gate *gate)
{
    gate->mode = GATE_RECORD;
    gate->count = gate->next = 0;
    gate->diverged = false;
}

void gate_replay(struct gate *gate)
{
    gate->mode = GATE_REPLAY;
    gate->next = 0;
    gate->diverged = false;
}

void gate_fini(struct gate *gate)
{
    free(gate->log);
    *gate = (struct gate){0};
}
