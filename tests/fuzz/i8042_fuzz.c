/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/input/i8042.h"
#include "tests/lib/fuzzdev.h"

static void set_a20(void *opaque, bool on)
{
    (void)opaque;
    (void)on;
}

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    if (op >= 0xa0) {
        /* A command to the mouse, then time for its answer. */
        testvm_outb(f->tv, 0x64, 0xd4);
        testvm_outb(f->tv, 0x60, (uint8_t)fuzz_take(in, 1) | (op & 1 ? 0xe0 : 0));
        testvm_advance(f->tv, NS_PER_MS);
        testvm_inb(f->tv, 0x60);
        return;
    }
    vm_lock(&f->tv->vm);
    if (op < 0x60)
        i8042_key(f->dev, (uint8_t)fuzz_take(in, 1));
    else
        i8042_mouse(f->dev, (int)(int32_t)fuzz_take(in, 4), (int)(int8_t)fuzz_take(in, 1),
                    (int)(int8_t)fuzz_take(in, 1), (uint8_t)fuzz_take(in, 1));
    vm_unlock(&f->tv->vm);
    if (op & 1)
        testvm_advance(f->tv, NS_PER_MS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x60, 1}, {0x64, 1}, {0x92, 1},
                                                 {0x60, 1}, {0x64, 1}, {0, 0}};
    struct i8042_config config = {.set_a20 = set_a20};
    struct testvm_irq kbd, mouse;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    testvm_irq_init(f.tv, &kbd, 1);
    testvm_irq_init(f.tv, &mouse, 12);
    config.irq_kbd = testvm_irq_source(&kbd);
    config.irq_mouse = testvm_irq_source(&mouse);
    f.dev = testvm_add(f.tv, &i8042_type, &config);
    fuzzdev_run(&f, data, size);
    return 0;
}
