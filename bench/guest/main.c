/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bench run SECONDS [NAME,NAME...|all]    run workloads, report on stdout
 * bench list                              list workload names
 *
 * For each workload:
 *   BENCH-START name
 *   BENCH-STOP name operations checksum unit
 *   BENCH name rate unit/s                 (by this machine's own clock)
 * The START and STOP lines let an observer outside time the same interval.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const struct workload *const groups[] = {
    cpu_workloads, memory_workloads, kernel_workloads,
    smp_workloads, tool_workloads,   disk_workloads,
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int selected(const char *name, const char *list)
{
    size_t length = strlen(name);

    if (!strcmp(list, "all"))
        return 1;
    for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL) {
        size_t item = strcspn(at, ",");
        if (item == length && !strncmp(at, name, length))
            return 1;
        if (item && at[item - 1] == '*' && !strncmp(at, name, item - 1))
            return 1;
    }
    return 0;
}

static void run(const struct workload *w, double seconds)
{
    const char *name = w->name;
    uint64_t operations = 0, expected = 0, checksum = 0;
    const char *verdict = "";

    if (w->setup && w->setup()) {
        printf("BENCH-SKIP %s\n", name);
        return;
    }
    w->batch(&expected); /* warm up */
    printf("BENCH-START %s\n", name);
    tcdrain(STDOUT_FILENO);

    double start = now(), elapsed;
    do {
        operations += w->batch(&checksum);
        if (checksum != expected)
            verdict = " UNSTABLE";
        elapsed = now() - start;
    } while (elapsed < seconds);

    printf("BENCH-STOP %s %llu %016llx %s%s\n", name, (unsigned long long)operations,
           (unsigned long long)checksum, w->unit, verdict);
    printf("BENCH %s %.4f %s/s\n", name, operations / elapsed, w->unit);
    tcdrain(STDOUT_FILENO);
    if (w->teardown)
        w->teardown();
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "list";
    const char *list = argc > 3 ? argv[3] : "all";

    if (!strcmp(command, "nothing")) /* what fork-exec executes */
        return 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t g = 0; g < sizeof(groups) / sizeof(*groups); g++)
        for (const struct workload *w = groups[g]; w->name; w++)
            if (!strcmp(command, "list"))
                puts(w->name);
            else if (!strcmp(command, "run") && argc > 2 && selected(w->name, list))
                run(w, atof(argv[2]));
    return 0;
}
