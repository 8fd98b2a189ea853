/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/ioapic.h"
#include "tests/lib/fuzzops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    struct testvm *tv = testvm_new();
    struct ioapic_config config = {.id = 1};
    struct irq_line lines[IOAPIC_PINS];
    struct irq source[IOAPIC_PINS];
    struct device *io;

    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        irq_line_init(&lines[i], "line", i, NULL);
        source[i] = irq_line_source(&lines[i]);
        config.lines[i] = &lines[i];
    }
    io = testvm_add(tv, &ioapic_type, &config);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        irq_line_add_pin(&lines[i], ioapic_pin(io, i));

    while (in.size) {
        unsigned op = (unsigned)fuzz_take(&in, 1), width;
        uint64_t off;

        switch (op & 7) {
        case 0:
        case 1: /* a register through the window */
            testvm_write(tv, IOAPIC_BASE, op >> 3 & 1 ? fuzz_take(&in, 1) : 0x10 + (op >> 3), 4);
            testvm_write(tv, IOAPIC_BASE + 0x10, fuzz_take(&in, 4), 4);
            break;
        case 2:
            off = fuzz_take(&in, 2) & (op & 0x80 ? 0xfff : 0x7f);
            width = fuzz_width(&in);
            testvm_write(tv, IOAPIC_BASE + off, fuzz_take(&in, width), width);
            break;
        case 3:
            off = fuzz_take(&in, 2) & (op & 0x80 ? 0xfff : 0x7f);
            testvm_read(tv, IOAPIC_BASE + off, fuzz_width(&in));
            break;
        case 4:
        case 5:
            irq_set(source[(op >> 3) % IOAPIC_PINS], op & 1);
            break;
        case 6:
            ioapic_eoi(io, (uint8_t)fuzz_take(&in, 1));
            break;
        case 7:
            if (op & 0x80)
                fuzz_load(&in, io);
            else
                fuzz_reset(&in, io);
            break;
        }
    }
    testvm_free(tv);
    return 0;
}
