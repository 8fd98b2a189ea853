/* SPDX-License-Identifier: Apache-2.0 */
/* The host bridge, the LPC bridge and a disk's configuration space: mechanism 1, ECAM, BARs, PAM.
 */
#include "backend/block/block.h"
#include "hw/block/nvme.h"
#include "hw/pci/ich9_lpc.h"
#include "hw/pci/q35_host.h"
#include "tests/lib/fuzzops.h"

#define ECAM     0xb0000000ull
#define ROM_BASE 0xe0000u

static void no_disk(struct block *block, struct block_req *req)
{
    (void)block;
    (void)req;
}

static uint8_t cf9_read(struct device *dev)
{
    (void)dev;
    return 0;
}

static void cf9_write(struct device *dev, uint8_t value)
{
    (void)dev;
    (void)value;
}

static void place_pm(struct device *dev, uint16_t base, bool enabled)
{
    (void)dev;
    (void)base;
    (void)enabled;
}

/* Mostly functions and registers that exist. */
static uint32_t pick_address(struct fuzz_in *in)
{
    static const uint8_t slots[] = {0, 4, 31, 9};
    uint32_t v = (uint32_t)fuzz_take(in, 2);

    return (uint32_t)slots[v >> 14] << 15 | (v & (v & 0x2000 ? 0xfff : 0xff));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct block_ops ops = {.submit = no_disk};
    struct block disk = {.ops = &ops, .size = 1 << 20};
    struct fuzz_in in = {data, size};
    struct testvm *tv = testvm_new();
    struct testvm_irq pirq[PCI_BUS_PIRQS], isa[16];
    struct irq source[PCI_BUS_PIRQS];
    struct q35_host_config host = {.ecam_base = ECAM,
                                   .rom_offset = 2 << 20,
                                   .rom_base = ROM_BASE,
                                   .cf9_read = cf9_read,
                                   .cf9_write = cf9_write};
    struct ich9_lpc_config lpc = {.pm_base = 0x600, .place_pm = place_pm};
    struct nvme_config nvme = {.devfn = PCI_DEVFN(4, 0), .block = &disk};
    struct device *dev[3];

    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++) {
        testvm_irq_init(tv, &pirq[i], 16 + i);
        source[i] = testvm_irq_source(&pirq[i]);
        host.pirq[i] = lpc.pirq[i] = &pirq[i].line;
    }
    for (unsigned i = 0; i < 16; i++) {
        testvm_irq_init(tv, &isa[i], i);
        lpc.isa[i] = &isa[i].line;
    }
    dev[0] = testvm_add(tv, &q35_host_type, &host);
    lpc.bus = nvme.bus = q35_host_bus(dev[0]);
    dev[1] = testvm_add(tv, &ich9_lpc_type, &lpc);
    dev[2] = testvm_add(tv, &nvme_type, &nvme);

    while (in.size) {
        unsigned op = (unsigned)fuzz_take(&in, 1), width;
        uint64_t at;

        switch (op & 7) {
        case 0:
        case 1:
            at = ECAM + pick_address(&in);
            width = fuzz_width(&in);
            if (op & 0x80)
                testvm_read(tv, at, width);
            else
                testvm_write(tv, at, fuzz_take(&in, width), width);
            break;
        case 2:
        case 3:
            at = pick_address(&in);
            testvm_out(tv, 0xcf8, 0x80000000u | at >> 12 << 8 | (at & 0xff), 4);
            width = fuzz_width(&in) & 7 ? 1u << (op >> 4 & 3) % 3 : 4;
            if (op & 0x80)
                testvm_in(tv, (uint16_t)(0xcfc + (at & 3)), width);
            else
                testvm_out(tv, (uint16_t)(0xcfc + (at & 3)), fuzz_take(&in, width), width);
            break;
        case 4:
            width = 1u << (op >> 4 & 3) % 3;
            at = 0xcf8 + (fuzz_take(&in, 1) & 7);
            if (op & 0x80)
                testvm_in(tv, (uint16_t)at, width);
            else
                testvm_out(tv, (uint16_t)at, fuzz_take(&in, width), width);
            break;
        case 5:
            at = op & 0x40 ? 0xa0000 + fuzz_take(&in, 3) % 0x60000 : fuzz_take(&in, 4);
            width = fuzz_width(&in);
            if (op & 0x80)
                testvm_read(tv, at, width);
            else
                testvm_write(tv, at, fuzz_take(&in, width), width);
            break;
        case 6:
            irq_set(source[op >> 3 & 7], op & 0x80);
            break;
        case 7:
            if (op & 0x80)
                fuzz_load(&in, dev[(op >> 3) % 3]);
            else
                fuzz_reset(&in, dev[(op >> 3) % 3]);
            break;
        }
    }
    for (unsigned i = 3; i-- > 0;) {
        TESTVM_LOCKED(tv, device_free(dev[i]));
    }
    testvm_free(tv);
    return 0;
}
