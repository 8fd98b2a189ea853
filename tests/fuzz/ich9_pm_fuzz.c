/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/acpi/ich9_pm.h"
#include "tests/lib/fuzzdev.h"

#define BASE 0x600

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    if (op < 0x40) {
        testvm_out(f->tv, BASE + (op & 0x3f), fuzz_take(in, 4), op & 1 ? 2 : 4);
        return;
    }
    if (op < 0x50) {
        testvm_advance(f->tv, (int64_t)fuzz_take(in, 2) * NS_PER_SEC);
        return;
    }
    vm_lock(&f->tv->vm);
    if (op < 0x80)
        ich9_pm_gpe(f->dev, op, fuzz_take(in, 1) & 1);
    else if (op < 0x90)
        ich9_pm_power_button(f->dev);
    else if (op < 0xa0)
        ich9_pm_cf9_write(f->dev, (uint8_t)fuzz_take(in, 1));
    else if (op < 0xa8)
        ich9_pm_map(f->dev, (uint16_t)fuzz_take(in, 2), op & 1);
    else
        ich9_pm_map(f->dev, BASE, true);
    vm_unlock(&f->tv->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{BASE, 0x80}, {0xb2, 2}, {0xcf9, 1}, {0, 0}};
    struct ich9_pm_config config = {.base = BASE, .enabled = true, .map_cf9 = true};
    struct testvm_irq sci;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    testvm_irq_init(f.tv, &sci, 9);
    config.sci = testvm_irq_source(&sci);
    f.dev = testvm_add(f.tv, &ich9_pm_type, &config);
    fuzzdev_run(&f, data, size);
    return 0;
}
