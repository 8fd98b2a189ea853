/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/timer/i8254.h"
#include "tests/lib/fuzzdev.h"

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    struct testvm_irq *irq = f->opaque;

    (void)in;
    if (op < 0x80)
        irq->busy = op & 1; /* the guest does not get to its ticks */
    else
        testvm_advance(f->tv, (op & 0x7f) * 838); /* ticks, more or less */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x40, 4}, {0x61, 1}, {0, 0}};
    struct testvm_irq irq;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra, .opaque = &irq};

    testvm_irq_init(f.tv, &irq, 0);
    f.dev = testvm_add(f.tv, &i8254_type, &(struct i8254_config){.irq = testvm_irq_source(&irq)});
    fuzzdev_run(&f, data, size);
    return 0;
}
