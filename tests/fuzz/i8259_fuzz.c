/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/i8259.h"
#include "tests/lib/fuzzdev.h"

struct wires {
    struct irq_line lines[16];
    struct irq in[16];
    struct eoi_notifier notifiers[16];
};

/* What a level source does on EOI: looks again, from inside the controller's write. */
static void eoi(void *opaque)
{
    struct irq *in = opaque;

    irq_set(*in, false);
    irq_set(*in, true);
}

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    struct wires *w = f->opaque;

    (void)in;
    vm_lock(&f->tv->vm);
    if (op < 0xa0)
        irq_set(w->in[op & 15], op & 16);
    else if (op < 0xf0)
        i8259_ack(f->dev);
    else
        i8259_intr(f->dev);
    vm_unlock(&f->tv->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x20, 2}, {0xa0, 2}, {0x4d0, 2}, {0, 0}};
    struct i8259_config config = {0};
    struct wires w;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra, .opaque = &w};
    struct testvm_irq intr;

    testvm_irq_init(f.tv, &intr, 0);
    config.intr = testvm_irq_source(&intr);
    for (unsigned i = 0; i < 16; i++) {
        irq_line_init(&w.lines[i], "isa", i, NULL);
        config.lines[i] = &w.lines[i];
    }
    f.dev = testvm_add(f.tv, &i8259_type, &config);
    for (unsigned i = 0; i < 16; i++) {
        irq_line_add_pin(&w.lines[i], i8259_pin(f.dev, i));
        w.in[i] = irq_line_source(&w.lines[i]);
        w.notifiers[i] = (struct eoi_notifier){.eoi = eoi, .opaque = &w.in[i]};
        if (i & 1)
            irq_add_eoi(w.in[i], &w.notifiers[i]);
    }
    fuzzdev_run(&f, data, size);
    return 0;
}
