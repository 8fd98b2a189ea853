/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seeing inside the translator: names of its code for perf, trace points, and what
 * `doppel inspect NAME jit` tells. None of it is in translated code.
 */
#ifndef ENGINE_BT_LOOK_H
#define ENGINE_BT_LOOK_H

#include "core/vm.h"
#include "engine/bt/bt.h"

void bt_look_init(struct bt_vm *bt);
void bt_look_vcpu(struct bt_vcpu *v);
/* Of struct engine. */
void bt_inspect(struct vm *vm, void (*counter)(void *opaque, const char *name, uint64_t value),
                void *opaque);

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t bt_host_ns(void);
void bt_phase_ends(struct bt_vcpu *v);

/* From now on the vCPU's thread is in `phase`. */
static inline void bt_phase(struct bt_vcpu *v, enum bt_phase phase)
{
    if (unlikely(v->n.timed))
        bt_phase_ends(v);
    v->n.phase = phase;
}

/* ---- trace points: docs/control.md has the list -------------------------------------------------
 */

void bt_trace_emit(struct vm *vm, int vcpu, const char *name, uint64_t rip, uint64_t addr,
                   uint64_t value, uint64_t extra);

static inline void bt_trace(struct bt_vcpu *v, const char *name, uint64_t rip, uint64_t addr,
                            uint64_t value, uint64_t extra)
{
    if (trace_on(&v->c.vm->trace))
        bt_trace_emit(v->c.vm, (int)v->c.vcpu->index, name, rip, addr, value, extra);
}

/* ---- perf -------------------------------------------------------------------------------------
 */

/*
 * /tmp/perf-PID.map, from which perf takes the names of generated code: a line per piece of code,
 * "host address, bytes, name", appended as the piece is made. A flush of the buffer leaves the old
 * lines in it, so that the names of a run with flushes are only nearly right.
 */
int bt_perf_map_open(struct bt_vm *bt, struct err *err);
void bt_perf_map_close(struct bt_vm *bt);
/* A block whose cold part lies in [cold, cold_end); its hot one begins at entry_indirect. */
void bt_perf_map_block(struct bt_vm *bt, const struct bt_block *b, uint32_t hot_end, uint32_t cold,
                       uint32_t cold_end);

#endif
