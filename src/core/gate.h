/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The input gate: everything that the guest does not determine itself (TSC, RDRAND, wall-clock time,
 * completions, input bytes, the instant an interrupt is taken) passes here, so that a run can be logged
 * and replayed. Open, it hands the live value through.
 */
#ifndef CORE_GATE_H
#define CORE_GATE_H

#include "base/types.h"

enum gate_kind {
    GATE_TSC,
    GATE_RANDOM,
    GATE_WALL,
    GATE_INPUT,      /* a byte from a character back end */
    GATE_COMPLETION, /* a back end's request ended */
    GATE_KINDS,
};

enum gate_mode { GATE_OPEN, GATE_RECORD, GATE_REPLAY };

struct gate_rec {
    uint32_t kind;
    uint32_t pad;
    uint64_t icount;
    uint64_t value;
};

struct gate {
    enum gate_mode mode;
    struct gate_rec *log; /* record: grows; replay: what was recorded */
    size_t count, cap, next;
    bool diverged; /* replay asked for another kind than was recorded */
};

/* Passes a live value: returned as is, recorded, or replaced by the recorded one. */
uint64_t gate_input(struct gate *gate, enum gate_kind kind, uint64_t icount, uint64_t live);
void gate_record(struct gate *gate);
/* Replays what this gate has recorded, from the start. */
void gate_replay(struct gate *gate);
void gate_fini(struct gate *gate);

#endif
