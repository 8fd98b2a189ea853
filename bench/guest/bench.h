/* SPDX-License-Identifier: Apache-2.0 */
/* A workload is a batch of work repeated until enough time has passed. */
#ifndef BENCH_GUEST_BENCH_H
#define BENCH_GUEST_BENCH_H

#include <stddef.h>
#include <stdint.h>

struct workload {
    const char *name;
    const char *unit;                      /* of one operation; results are unit/s */
    int (*setup)(void);                    /* optional; nonzero means "not available here" */
    uint64_t (*batch)(uint64_t *checksum); /* returns the operations done */
    void (*teardown)(void);                /* optional */
};

extern const struct workload cpu_workloads[];
extern const struct workload memory_workloads[];
extern const struct workload kernel_workloads[];
extern const struct workload smp_workloads[];
extern const struct workload tool_workloads[];
extern const struct workload disk_workloads[];

/* The cpu-int batch, shared with smp-scale: touches only what it is given. */
struct cpu_int_space {
    uint32_t keys[4096];
};
uint64_t cpu_int(struct cpu_int_space *space, uint64_t *checksum);

static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static inline uint64_t mix(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 0x100000001b3ull;
}

#endif
