/* SPDX-License-Identifier: Apache-2.0 */
/* Seeing inside the translator: names of its code for perf. */
#ifndef ENGINE_BT_LOOK_H
#define ENGINE_BT_LOOK_H

#include "engine/bt/bt.h"

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
