/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/ignored_ports.h"
#include "tests/lib/fuzzdev.h"

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    (void)in;
    (void)op;
    vm_lock(&f->tv->vm);
    device_detach(f->dev);
    device_attach(f->dev);
    vm_unlock(&f->tv->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct ignored_port table[] = {
        {0x80, 1, 0xff, "post", "one byte"},
        {0x82, 3, 0x12, "odd", "an odd number of them"},
        {0xfffe, 16, 0x34, "end", "more than the port space has"},
        {0, 0, 0, NULL, NULL},
    };
    static const struct fuzzdev_ports ports[] = {{0x7e, 12}, {0xfff8, 8}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    f.dev = testvm_add(f.tv, &ignored_ports_type, &(struct ignored_ports_config){table});
    fuzzdev_run(&f, data, size);
    return 0;
}
