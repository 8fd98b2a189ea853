/* SPDX-License-Identifier: Apache-2.0 */
/* Without a back end: the line buffer of the log is what a guest can reach. */
#include "hw/misc/debugcon.h"
#include "tests/lib/fuzzdev.h"

static void take(struct chardev *chr, const uint8_t *data, size_t len)
{
    (void)chr;
    (void)data;
    (void)len;
}

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    (void)in;
    vm_lock(&f->tv->vm);
    if (op < 8) {
        device_detach(f->dev);
        device_attach(f->dev);
    }
    vm_unlock(&f->tv->vm);
    for (unsigned i = 0; i < op; i++)
        testvm_outb(f->tv, 0xe9, (uint8_t)(op + i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct chardev_ops ops = {.write = take};
    static const struct fuzzdev_ports ports[] = {{0xe9, 1}, {0, 0}};
    struct chardev chr = {.ops = &ops};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    f.dev =
        testvm_add(f.tv, &debugcon_type, &(struct debugcon_config){.chr = size & 1 ? &chr : NULL});
    fuzzdev_run(&f, data, size);
    return 0;
}
