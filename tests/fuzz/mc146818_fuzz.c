/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/timer/mc146818.h"
#include "tests/lib/fuzzdev.h"

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    static const uint8_t regs[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xa, 0xb, 0xc, 0xd, 0x32, 0x0b};

    if (op < 0xe0) {
        testvm_outb(f->tv, 0x70, regs[op & 15]);
        if (op & 16)
            testvm_outb(f->tv, 0x71, (uint8_t)fuzz_take(in, 1));
        else
            testvm_inb(f->tv, 0x71);
    } else if (op < 0xf0) {
        /* Seconds to days: updates and alarms. */
        testvm_advance(f->tv, (int64_t)fuzz_take(in, 2) * 7 * NS_PER_SEC);
    } else if (op < 0xf4) {
        /* The host's clock is set, forward or back. */
        clock_set_wall_base(f->tv->vm.clock, (int64_t)fuzz_take(in, 5) * 1000000);
    } else {
        mc146818_nmi_masked(f->dev);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x70, 4}, {0, 0}};
    struct mc146818_config config = {.ram_below = 1ull << 30, .ram_above = 1ull << 32};
    struct testvm_irq irq;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    testvm_irq_init(f.tv, &irq, 8);
    config.irq = testvm_irq_source(&irq);
    f.dev = testvm_add(f.tv, &mc146818_type, &config);
    fuzzdev_run(&f, data, size);
    return 0;
}
