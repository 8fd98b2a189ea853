/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/char/uart16550a.h"
#include "tests/lib/fuzzdev.h"

#define BASE 0x3f8

struct fake_chr {
    struct chardev chr;
    size_t waiting; /* bytes of input there still are */
};

static void fake_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    (void)chr;
    (void)data;
    (void)len;
}

/* Pushes all there is room for, from inside the call. */
static void fake_accept(struct chardev *chr)
{
    static const uint8_t bytes[64] = "some input";
    struct fake_chr *c = (struct fake_chr *)chr;
    size_t n = chr->can_receive(chr->opaque);

    n = n < c->waiting ? n : c->waiting;
    n = n < sizeof(bytes) ? n : sizeof(bytes);
    c->waiting -= n;
    if (n)
        chr->receive(chr->opaque, bytes, n);
}

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    struct fake_chr *c = f->opaque;

    vm_lock(&f->tv->vm);
    if (op < 0x80) {
        c->waiting += op;
        fake_accept(&c->chr);
    } else if (op < 0x90) {
        uart16550a_receive_break(f->dev);
    } else if (op < 0xa0) {
        uint8_t rude[20] = {0}; /* more than it asked for */

        c->chr.receive(c->chr.opaque, rude, sizeof(rude));
    }
    vm_unlock(&f->tv->vm);
    if (op >= 0xa0) {
        /* MCR with RTS and OUT2, or the interrupt enables, in known combinations. */
        testvm_outb(f->tv, op & 1 ? BASE + 4 : BASE + 1, (uint8_t)fuzz_take(in, 1) | 0x0a);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct chardev_ops ops = {.write = fake_write, .accept_input = fake_accept};
    static const struct fuzzdev_ports ports[] = {{BASE, 8}, {0, 0}};
    struct fake_chr chr = {.chr = {.ops = &ops}};
    struct uart16550a_config config = {.iobase = BASE, .chr = &chr.chr};
    struct testvm_irq irq;
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra, .opaque = &chr};

    testvm_irq_init(f.tv, &irq, 4);
    config.irq = testvm_irq_source(&irq);
    f.dev = testvm_add(f.tv, &uart16550a_type, &config);
    fuzzdev_run(&f, data, size);
    return 0;
}
