/* SPDX-License-Identifier: Apache-2.0 */
/* Direct I/O, one request at a time, on $BENCH_DISK (its contents are destroyed). */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 1 << 20, SMALL = 4096 };

static int disk;
static off_t size, position;
static char *buffer;
static uint64_t seed;

static int open_disk(void)
{
    const char *path = getenv("BENCH_DISK");

    if (!path || (disk = open(path, O_RDWR | O_DIRECT)) < 0)
        return 1;
    size = lseek(disk, 0, SEEK_END) / LARGE * LARGE;
    buffer = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < LARGE; i++)
        buffer[i] = i * 31 >> 3;
    position = 0;
    seed = 99;
    return size < LARGE;
}

static void close_disk(void)
{
    fsync(disk);
    close(disk);
    munmap(buffer, LARGE);
}

static off_t next_large(void)
{
    off_t at = position;
    position = (position + LARGE) % size;
    return at;
}

static off_t next_small(void)
{
    return next_random(&seed) % (size / SMALL) * SMALL;
}

static uint64_t sequential(ssize_t (*transfer)(off_t), uint64_t *checksum)
{
    enum { COUNT = 16 };

    *checksum = 0;
    for (int i = 0; i < COUNT; i++)
        *checksum += transfer(next_large()) == LARGE;
    return COUNT;
}

static uint64_t scattered(ssize_t (*transfer)(off_t), uint64_t *checksum)
{
    enum { COUNT = 64 };

    *checksum = 0;
    for (int i = 0; i < COUNT; i++)
        *checksum += transfer(next_small()) == SMALL;
    return COUNT;
}

static ssize_t read_large(off_t at)
{
    return pread(disk, buffer, LARGE, at);
}
static ssize_t write_large(off_t at)
{
    return pwrite(disk, buffer, LARGE, at);
}
static ssize_t read_small(off_t at)
{
    return pread(disk, buffer, SMALL, at);
}
static ssize_t write_small(off_t at)
{
    return pwrite(disk, buffer, SMALL, at);
}

static uint64_t seq_read(uint64_t *checksum)
{
    return sequential(read_large, checksum);
}
static uint64_t seq_write(uint64_t *checksum)
{
    return sequential(write_large, checksum);
}
static uint64_t rand_read(uint64_t *checksum)
{
    return scattered(read_small, checksum);
}
static uint64_t rand_write(uint64_t *checksum)
{
    return scattered(write_small, checksum);
}

const struct workload disk_workloads[] = {
    {"disk-seq-read", "MiB", open_disk, seq_read, close_disk},
    {"disk-seq-write", "MiB", open_disk, seq_write, close_disk},
    {"disk-rand-read", "request", open_disk, rand_read, close_disk},
    {"disk-rand-write", "request", open_disk, rand_write, close_disk},
    {0},
};
