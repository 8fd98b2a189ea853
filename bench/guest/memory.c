/* SPDX-License-Identifier: Apache-2.0 */
/* Memory beyond the caches: 64 MiB streamed, copied, and chased at random. */
#include "bench.h"

#include <string.h>
#include <sys/mman.h>

enum { MIB = 1 << 20, SPACE = 64 * MIB, LINE = 64 };

static uint64_t *space;
static size_t position;

static int allocate(void)
{
    space = mmap(NULL, SPACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (space == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < SPACE / sizeof(*space); i++)
        space[i] = i;
    return position = 0;
}

/* One random cycle through every cache line (Sattolo's shuffle). */
static int link_lines(void)
{
    const size_t lines = SPACE / LINE, stride = LINE / sizeof(*space);
    uint64_t seed = 7;

    if (allocate())
        return 1;
    for (size_t i = 0; i < lines; i++)
        space[i * stride] = i;
    for (size_t i = lines - 1; i > 0; i--) {
        size_t j = next_random(&seed) % i;
        uint64_t t = space[i * stride];
        space[i * stride] = space[j * stride];
        space[j * stride] = t;
    }
    return 0;
}

static void release(void)
{
    munmap(space, SPACE);
}

static uint64_t stream_batch(uint64_t *checksum)
{
    const size_t third = SPACE / 3 / sizeof(*space) & ~7ul;
    uint64_t *a = space, *b = a + third, *c = b + third;

    for (size_t i = 0; i < third; i++)
        a[i] = b[i] + 3 * c[i];
    *checksum = a[third / 2];
    return SPACE / MIB;
}

static uint64_t copy_batch(uint64_t *checksum)
{
    memcpy(space, (char *)space + SPACE / 2, SPACE / 2);
    *checksum = space[12345];
    return SPACE / 2 / MIB;
}

static uint64_t chase_batch(uint64_t *checksum)
{
    enum { LOADS = 100000 };

    for (int i = 0; i < LOADS; i++)
        position = space[position * (LINE / sizeof(*space))];
    *checksum = 0;
    return LOADS;
}

const struct workload memory_workloads[] = {
    {"mem-stream", "MiB", allocate, stream_batch, release},
    {"mem-copy", "MiB", allocate, copy_batch, release},
    {"mem-chase", "load", link_lines, chase_batch, release},
    {0},
};
