/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target without libFuzzer: `count` pseudo-random inputs from a seed that is printed, so
 * that every check gets a short run and a failure can be repeated. A file argument is run as it is.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static int run_file(const char *path)
{
    static uint8_t buf[1 << 20];
    FILE *f = fopen(path, "rb");
    size_t len;

    if (!f) {
        perror(path);
        return 1;
    }
    len = fread(buf, 1, sizeof(buf), f);
    fclose(f);
    LLVMFuzzerTestOneInput(buf, len);
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t buf[4096];
    uint64_t seed = (uint64_t)time(NULL) * 2654435761u | 1;
    double seconds = 2;
    unsigned long runs = 0;
    struct timespec a, b;

    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--seed=", 7))
            seed = strtoull(argv[i] + 7, NULL, 0) | 1;
        else if (!strncmp(argv[i], "--seconds=", 10))
            seconds = atof(argv[i] + 10);
        else
            return run_file(argv[i]);
    }
    printf("seed %#llx\n", (unsigned long long)seed);
    fflush(stdout);
    clock_gettime(CLOCK_MONOTONIC, &a);
    do {
        size_t len = next(&seed) % sizeof(buf);

        for (size_t i = 0; i < len; i++)
            buf[i] = (uint8_t)(next(&seed) >> 24);
        LLVMFuzzerTestOneInput(buf, len);
        runs++;
        clock_gettime(CLOCK_MONOTONIC, &b);
    } while ((b.tv_sec - a.tv_sec) + (b.tv_nsec - a.tv_nsec) * 1e-9 < seconds);
    printf("%lu runs\n", runs);
    return 0;
}
