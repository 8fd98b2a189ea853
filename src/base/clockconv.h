/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nanoseconds and ticks of a device clock, exactly: the product is 128 bits wide, so no rounded
 * "nanoseconds per tick" constant can drift.
 */
#ifndef BASE_CLOCKCONV_H
#define BASE_CLOCKCONV_H

#include "base/types.h"

/* Whole ticks of a `hz` clock in `ns` nanoseconds, rounded down. ns >= 0, hz > 0. */
static inline int64_t ns_to_ticks(int64_t ns, uint32_t hz)
{
    return (int64_t)((unsigned __int128)ns * hz / (uint64_t)NS_PER_SEC);
}

/* The first nanosecond at which `ticks` ticks have passed: ns_to_ticks(result) == ticks. */
static inline int64_t ticks_to_ns(int64_t ticks, uint32_t hz)
{
    return (int64_t)(((unsigned __int128)ticks * (uint64_t)NS_PER_SEC + hz - 1) / hz);
}

#endif
