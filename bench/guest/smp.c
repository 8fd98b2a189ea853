/* SPDX-License-Identifier: Apache-2.0 */
/* Two threads: contending, handing over, and working independently. */
#include "bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_uint shared, turn;

static void two_threads(void *(*work)(void *))
{
    pthread_t other;

    pthread_create(&other, NULL, work, (void *)1);
    work((void *)0);
    pthread_join(other, NULL);
}

enum { ADDITIONS = 200000, HANDOVERS = 500, ROUNDS = 8 };

static void *add_shared(void *self)
{
    (void)self;
    for (int i = 0; i < ADDITIONS; i++)
        atomic_fetch_add(&shared, 1);
    return NULL;
}

static uint64_t atomic_batch(uint64_t *checksum)
{
    atomic_store(&shared, 0);
    two_threads(add_shared);
    *checksum = atomic_load(&shared);
    return 2 * ADDITIONS;
}

static void *hand_over(void *self)
{
    unsigned mine = (uintptr_t)self;

    for (int i = 0; i < HANDOVERS; i++) {
        while (atomic_load(&turn) != mine)
            syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !mine, NULL, NULL, 0);
        atomic_store(&turn, !mine);
        syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    return NULL;
}

static uint64_t futex_batch(uint64_t *checksum)
{
    atomic_store(&turn, 0);
    two_threads(hand_over);
    *checksum = 0;
    return HANDOVERS;
}

static void *compute(void *self)
{
    static struct {
        struct cpu_int_space space;
        char apart[4096];
    } spaces[2];
    static uint64_t sums[2][64];
    uintptr_t mine = (uintptr_t)self;

    for (int i = 0; i < ROUNDS; i++)
        cpu_int(&spaces[mine].space, &sums[mine][0]);
    return NULL;
}

static uint64_t scale_batch(uint64_t *checksum)
{
    two_threads(compute);
    *checksum = 0;
    return 2 * ROUNDS;
}

const struct workload smp_workloads[] = {
    {"smp-atomic", "add", NULL, atomic_batch, NULL},
    {"smp-futex", "roundtrip", NULL, futex_batch, NULL},
    {"smp-scale", "round", NULL, scale_batch, NULL},
    {0},
};
