/* SPDX-License-Identifier: Apache-2.0 */
/* Work done mostly by the guest's kernel: traps, faults, processes, switches. */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int zero_file, to_child[2], to_parent[2];
static pid_t partner;

static uint64_t getpid_batch(uint64_t *checksum)
{
    enum { CALLS = 10000 };

    for (int i = 0; i < CALLS; i++)
        syscall(SYS_getpid);
    *checksum = 0;
    return CALLS;
}

static int open_zero(void)
{
    return (zero_file = open("/dev/zero", O_RDONLY)) < 0;
}

static uint64_t read_batch(uint64_t *checksum)
{
    enum { CALLS = 5000 };
    char byte;

    *checksum = 0;
    for (int i = 0; i < CALLS; i++)
        *checksum += read(zero_file, &byte, 1);
    return CALLS;
}

static void close_zero(void)
{
    close(zero_file);
}

static uint64_t fault_batch(uint64_t *checksum)
{
    enum { PAGE = 4096, PAGES = 512 };
    char *area =
        mmap(NULL, PAGE * PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    madvise(area, PAGE * PAGES, MADV_NOHUGEPAGE);
    for (int i = 0; i < PAGES; i++)
        area[i * PAGE] = 1;
    munmap(area, PAGE * PAGES);
    *checksum = 0;
    return PAGES;
}

static uint64_t fork_exec_batch(uint64_t *checksum)
{
    enum { CHILDREN = 10 };

    *checksum = 0;
    for (int i = 0; i < CHILDREN; i++) {
        int status = 1;
        pid_t child = fork();

        if (!child) {
            execl("/proc/self/exe", "bench", "nothing", (char *)NULL);
            _exit(127);
        }
        waitpid(child, &status, 0);
        *checksum += status;
    }
    return CHILDREN;
}

static int start_partner(void)
{
    char byte;

    if (pipe(to_child) || pipe(to_parent))
        return 1;
    partner = fork();
    if (!partner) {
        close(to_child[1]);
        while (read(to_child[0], &byte, 1) == 1)
            if (write(to_parent[1], &byte, 1) != 1)
                break;
        _exit(0);
    }
    close(to_child[0]);
    close(to_parent[1]);
    return partner < 0;
}

static uint64_t pipe_batch(uint64_t *checksum)
{
    enum { TRIPS = 500 };
    char byte = 0;

    *checksum = 0;
    for (int i = 0; i < TRIPS; i++)
        *checksum += write(to_child[1], &byte, 1) + read(to_parent[0], &byte, 1);
    return TRIPS;
}

static void stop_partner(void)
{
    close(to_child[1]);
    close(to_parent[0]);
    waitpid(partner, NULL, 0);
}

const struct workload kernel_workloads[] = {
    {"sys-getpid", "call", NULL, getpid_batch, NULL},
    {"sys-read", "call", open_zero, read_batch, close_zero},
    {"page-fault", "fault", NULL, fault_batch, NULL},
    {"fork-exec", "process", NULL, fork_exec_batch, NULL},
    {"pipe-switch", "roundtrip", start_partner, pipe_batch, stop_partner},
    {0},
};
