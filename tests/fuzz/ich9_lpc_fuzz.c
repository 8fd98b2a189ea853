/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The LPC bridge with the power management block that it places: configuration space by both
 * mechanisms, RCBA and PMBASE moved about, PIRQs routed anywhere while lines move, resets, state.
 */
#include "hw/acpi/ich9_pm.h"
#include "hw/pci/ich9_lpc.h"
#include "hw/pci/q35_host.h"
#include "tests/lib/fuzzdev.h"

#define ECAM     0xb0000000ull
#define LPC      (31u << 15)
#define PMBASE   0x40u
#define RCBA     0xf0u
#define RCBA_AT  0xfed1c000u
#define ROUTABLE 0xdef8u

/* A to D lie at 60h, E to H at 68h. */
#define PIRQ_ROUT(n) (0x60u + ((n)&3) + ((n)&4) * 2)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct board {
    struct device *lpc, *pm;
    struct testvm_irq pirq[PCI_BUS_PIRQS], isa[16];
    struct irq pirq_source[PCI_BUS_PIRQS], isa_source[16];
};

static void config_address(struct testvm *tv, unsigned reg)
{
    testvm_out(tv, 0xcf8, 0x80000000u | 31u << 11 | (reg & 0xfc), 4);
}

static uint32_t config_read(struct testvm *tv, unsigned reg, unsigned width)
{
    config_address(tv, reg);
    return (uint32_t)testvm_in(tv, (uint16_t)(0xcfc + (reg & 3)), width);
}

static void config_write(struct testvm *tv, unsigned reg, uint64_t value, unsigned width)
{
    config_address(tv, reg);
    testvm_out(tv, (uint16_t)(0xcfc + (reg & 3)), value, width);
}

/* Mechanism 1, or ECAM. */
static void config_access(struct testvm *tv, struct fuzz_in *in, unsigned op)
{
    unsigned reg = (unsigned)fuzz_take(in, 1);
    unsigned width = op & 1 ? fuzz_width(in) : 1u << (op >> 1 & 3) % 3;
    uint64_t value = fuzz_take(in, width);

    if (op & 1 && op & 8)
        testvm_read(tv, ECAM + LPC + reg, width);
    else if (op & 1)
        testvm_write(tv, ECAM + LPC + reg, value, width);
    else if (op & 8)
        config_read(tv, reg, width);
    else
        config_write(tv, reg, value, width);
}

/* Where RCBA is now, mostly at the registers behind which there is something. */
static void rcba_access(struct testvm *tv, struct fuzz_in *in, unsigned op)
{
    static const uint16_t regs[] = {0x31fc, 0x3404, 0x3410, 0x3418};
    unsigned width = fuzz_width(in);
    uint64_t at = config_read(tv, RCBA, 4) & ~0x3fffull;

    at += op & 0x10 ? fuzz_take(in, 2) & 0x3fff : regs[op >> 2 & 3] + (op & 3);
    if (op & 0x20)
        testvm_read(tv, at, width);
    else
        testvm_write(tv, at, fuzz_take(in, width), width);
}

/* A port of the power management block, where PMBASE is now. */
static void pm_access(struct testvm *tv, struct fuzz_in *in, unsigned op)
{
    uint16_t at = (uint16_t)((config_read(tv, PMBASE, 2) & 0xff80) + fuzz_take(in, 1) % 0x80);
    unsigned width = 1u << (op & 3) % 3;

    if (op & 0x20)
        testvm_in(tv, at, width);
    else
        testvm_out(tv, at, fuzz_take(in, width), width);
}

/* The lines that the bridge drives follow from the levels of the PIRQs and their routes alone. */
static void check_routing(struct board *b, struct testvm *tv)
{
    uint32_t want = 0;

    for (unsigned n = 0; n < PCI_BUS_PIRQS; n++) {
        uint32_t rout = config_read(tv, PIRQ_ROUT(n), 1);
        bool level = b->pirq[n].level;

        /* A loaded state may have had other levels than the lines. */
        irq_set(b->pirq_source[n], !level);
        irq_set(b->pirq_source[n], level);
        if (level && !(rout & 0x80))
            want |= 1u << (rout & 15);
    }
    for (unsigned i = 0; i < 16; i++) {
        irq_set(b->isa_source[i], false);
        /* The SCI shares line 9. */
        if (i != 9 && b->isa[i].level != ((want & ROUTABLE) >> i & 1))
            __builtin_trap();
    }
}

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    struct board *b = f->opaque;

    switch (op >> 5) {
    case 0:
    case 1:
        config_access(f->tv, in, op);
        break;
    case 2:
        config_write(f->tv, RCBA, op & 1 ? RCBA_AT | 1 : fuzz_take(in, 4) | 1, 4);
        rcba_access(f->tv, in, op >> 1);
        break;
    case 3:
        rcba_access(f->tv, in, op);
        break;
    case 4:
        irq_set(b->pirq_source[op & 7], op & 8);
        break;
    case 5:
        config_write(f->tv, PIRQ_ROUT(op & 7), fuzz_take(in, 1), 1);
        break;
    case 6:
        pm_access(f->tv, in, op);
        break;
    default:
        if (op & 0x10)
            fuzz_reset(in, op & 1 ? b->pm : b->lpc);
        else if (op & 8)
            check_routing(b, f->tv);
        else
            irq_set(b->isa_source[fuzz_take(in, 1) & 15], op & 1);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x600, 0x80}, {0xb2, 2}, {0xcf9, 1}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};
    struct ich9_pm_config pm = {.base = 0x600, .enabled = true};
    struct ich9_lpc_config lpc = {.place_pm = ich9_pm_map};
    struct q35_host_config host = {
        .ecam_base = ECAM, .cf9_read = ich9_pm_cf9_read, .cf9_write = ich9_pm_cf9_write};
    struct device *mch;
    struct board b;
    struct fuzz_in in = {data, size};
    unsigned how = (unsigned)fuzz_take(&in, 1);

    f.opaque = &b;
    for (unsigned i = 0; i < PCI_BUS_PIRQS; i++) {
        testvm_irq_init(f.tv, &b.pirq[i], 16 + i);
        b.pirq_source[i] = testvm_irq_source(&b.pirq[i]);
        host.pirq[i] = lpc.pirq[i] = &b.pirq[i].line;
        lpc.pirq_rout[i] = how & 1 ? (uint8_t)(10 + (i & 1)) : 0;
    }
    for (unsigned i = 0; i < 16; i++) {
        testvm_irq_init(f.tv, &b.isa[i], i);
        b.isa_source[i] = testvm_irq_source(&b.isa[i]);
        lpc.isa[i] = &b.isa[i].line;
    }
    lpc.pm_base = how & 1 ? 0x600 : 0;
    pm.sci = testvm_irq_source(&b.isa[9]);
    lpc.pm = host.cf9_dev = b.pm = testvm_add(f.tv, &ich9_pm_type, &pm);
    mch = testvm_add(f.tv, &q35_host_type, &host);
    lpc.bus = q35_host_bus(mch);
    f.dev = b.lpc = testvm_add(f.tv, &ich9_lpc_type, &lpc);

    fuzzdev_run(&f, in.data, in.size);
    return 0;
}
