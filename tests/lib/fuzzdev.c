/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fuzzdev.h"

#define MAX_OPS 4096

/* Any of the chip's ports, all equally likely. */
static uint16_t pick_port(const struct fuzzdev *f, struct fuzz_in *in)
{
    unsigned total = 0, n;

    for (const struct fuzzdev_ports *p = f->ports; p->count; p++)
        total += p->count;
    n = (unsigned)fuzz_take(in, 1) % total;
    for (const struct fuzzdev_ports *p = f->ports; p->count; p++) {
        if (n < p->count)
            return (uint16_t)(p->first + n);
        n -= p->count;
    }
    return 0;
}

static void write_port(struct fuzzdev *f, struct fuzz_in *in, unsigned size)
{
    uint16_t port = pick_port(f, in);

    testvm_out(f->tv, port, fuzz_take(in, size), size);
}

static void write_memory(struct fuzzdev *f, struct fuzz_in *in)
{
    gpa_t gpa = fuzz_take(in, 3) % TESTVM_RAM_BYTES;
    uint64_t value = fuzz_take(in, 8);

    testvm_write(f->tv, gpa, value, 8);
}

void fuzzdev_run(struct fuzzdev *f, const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};

    for (unsigned i = 0; in.size && i < MAX_OPS; i++) {
        unsigned op = (unsigned)fuzz_take(&in, 1);

        switch (op % 16) {
        case 0 ... 3:
            write_port(f, &in, 1);
            break;
        case 4:
            write_port(f, &in, fuzz_width(&in));
            break;
        case 5 ... 7:
            testvm_in(f->tv, pick_port(f, &in), 1);
            break;
        case 8:
            testvm_in(f->tv, pick_port(f, &in), fuzz_width(&in));
            break;
        case 9:
        case 10:
            fuzz_time(&in, f->tv);
            break;
        case 11:
            fuzz_load(&in, f->dev);
            break;
        case 12:
            /* Rarely: a reset undoes what the input has built up. */
            if (op >= 0xc0)
                fuzz_reset(&in, f->dev);
            else if (op >= 0x80)
                testvm_state_roundtrip(f->dev);
            else
                write_memory(f, &in);
            break;
        default:
            if (f->extra)
                f->extra(f, &in, (unsigned)fuzz_take(&in, 1));
            else
                write_port(f, &in, 1);
            break;
        }
    }
    testvm_state_roundtrip(f->dev);
    testvm_free(f->tv);
}
