/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/isa_debug_exit.h"
#include "tests/lib/fuzzdev.h"

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    (void)in;
    testvm_take_request(f->tv, NULL);
    if (op & 1)
        return;
    vm_lock(&f->tv->vm);
    device_detach(f->dev);
    device_attach(f->dev);
    vm_unlock(&f->tv->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x501, 4}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    f.dev =
        testvm_add(f.tv, &isa_debug_exit_type, &(struct isa_debug_exit_config){.iosize = size & 3});
    fuzzdev_run(&f, data, size);
    return 0;
}
