/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/lapic.h"
#include "tests/lib/fuzzops.h"

#define CPUS 3
#define BASE 0xfee00000ull

static int pic_ack(void *opaque)
{
    (void)opaque;
    return 0x20;
}

static void eoi_sink(void *opaque, uint8_t vector)
{
    (void)opaque;
    (void)vector;
}

static void access_page(struct fuzz_in *in, struct vcpu *cpu, unsigned op)
{
    unsigned width = op & 0x40 ? fuzz_width(in) : 4;
    uint64_t off = fuzz_take(in, 1) << 4 | (op & 0x80 ? fuzz_take(in, 1) & 0xf : 0);
    uint64_t value = op & 1 ? fuzz_take(in, width) : 0;

    vcpu_mmio(cpu, BASE + (off & 0xfff), &value, width, op & 1);
}

static void access_msr(struct fuzz_in *in, struct vcpu *cpu, unsigned op)
{
    static const uint32_t others[] = {0x1b, 0x6e0};
    uint32_t index = op & 0x40 ? others[op >> 5 & 1] : 0x800 + (uint32_t)(fuzz_take(in, 1) & 0x3f);
    uint64_t value = 0;

    if (!(op & 1))
        vcpu_rdmsr(cpu, index, &value);
    else if (index == 0x1b)
        vcpu_wrmsr(cpu, index, BASE | (fuzz_take(in, 1) & 0xd) << 8);
    else
        vcpu_wrmsr(cpu, index, op & 0x80 ? fuzz_take(in, 8) : fuzz_take(in, 3));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    struct testvm *tv = testvm_new();
    struct lapic_bus bus = {0};
    struct device *apic[CPUS];
    struct vcpu *cpu[CPUS];

    tv->vm.eoi_sink = eoi_sink;
    for (unsigned i = 0; i < CPUS; i++) {
        char name[] = {'a', (char)('0' + i), 0};
        struct lapic_config config = {.bus = &bus,
                                      .id = i,
                                      .bsp = i == 0,
                                      .x2apic = i != 2,
                                      .tsc_deadline = i != 2,
                                      .virtual_wire = i == 0,
                                      .extint_ack = pic_ack};

        cpu[i] = config.vcpu = vm_add_vcpu(&tv->vm, NULL, NULL);
        apic[i] = testvm_add_named(tv, &lapic_type, name, &config);
    }
    while (in.size) {
        unsigned op = (unsigned)fuzz_take(&in, 1), n = (op >> 3 & 3) % CPUS;
        const struct vcpu_intc *intc = cpu[n]->intc_ops;
        uint64_t addr;
        struct irq_pin pin;

        switch (op & 7) {
        case 0:
        case 1:
            access_page(&in, cpu[n], op);
            break;
        case 2:
        case 3:
            access_msr(&in, cpu[n], op);
            break;
        case 4:
            addr = BASE | fuzz_take(&in, 2) << 2;
            if (op & 0x80)
                lapic_msi(&bus, addr, (uint32_t)fuzz_take(&in, 2));
            else
                lapic_msi_pending(&bus, addr, (uint32_t)fuzz_take(&in, 2));
            break;
        case 5:
            pin = lapic_lint_pin(apic[n], op >> 5);
            pin.set(pin.chip, pin.pin, op & 0x80);
            break;
        case 6:
            if (op & 0x80)
                fuzz_time(&in, tv);
            else if (intc->has_intr(cpu[n]->intc))
                intc->ack(cpu[n]->intc);
            break;
        case 7:
            if (op < 0x40)
                fuzz_load(&in, apic[n]);
            else if (op < 0x50)
                fuzz_reset(&in, apic[n]);
            else if (op < 0x60)
                intc->init_reset(cpu[n]->intc);
            else if (op < 0x70)
                intc->tsc_jumps(cpu[n]->intc);
            else
                intc->set_cr8(cpu[n]->intc, intc->get_cr8(cpu[n]->intc) + op);
            break;
        }
    }
    testvm_free(tv);
    return 0;
}
