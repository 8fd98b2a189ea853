/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/coproc_err.h"
#include "tests/lib/fuzzdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    (void)in;
    vm_lock(&f->tv->vm);
    coproc_err_ferr(f->dev, op >> 1, op & 1);
    vm_unlock(&f->tv->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0xf0, 2}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};
    struct testvm_irq irq;

    testvm_irq_init(f.tv, &irq, 13);
    f.dev = testvm_add(f.tv, &coproc_err_type,
                       &(struct coproc_err_config){.irq = testvm_irq_source(&irq)});
    fuzzdev_run(&f, data, size);
    return 0;
}
