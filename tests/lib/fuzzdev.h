/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared fuzz driver of chips behind ports: takes the input as a stream of register reads and
 * writes of all widths, time steps, resets, memory contents, saves, and loads of hostile state. A
 * target names the ports and adds what else the outside world can do.
 *
 * At the end the chip must still take its own state: values that its table would refuse are found
 * here.
 */
#ifndef TESTS_LIB_FUZZDEV_H
#define TESTS_LIB_FUZZDEV_H

#include "tests/lib/fuzzops.h"

struct fuzzdev_ports {
    uint16_t first, count; /* count 0 ends the list */
};

struct fuzzdev {
    struct testvm *tv;
    struct device *dev;
    const struct fuzzdev_ports *ports;
    /* What else can happen: `op` is 0 to 255. Machine lock not held. May be NULL. */
    void (*extra)(struct fuzzdev *f, struct fuzz_in *in, unsigned op);
    void *opaque;
};

/* Runs the input and frees f->tv. */
void fuzzdev_run(struct fuzzdev *f, const uint8_t *data, size_t size);

#endif
