/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "hw/pci/ich9_lpc.h"
#include "hw/pci/q35_host.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define ADDRESS  0xcf8
#define DATA     0xcfc
#define ECAM     0xb0000000ull
#define ROM_BASE 0xe0000u
#define LPC      0x1f

struct fixture {
    struct testvm *tv;
    struct testvm_irq pirq, isa;
    struct irq device;
    struct device *host, *lpc;
    struct region rom;
    uint8_t cf9;
    uint16_t pm_base;
    bool pm_enabled;
    unsigned pm_placed;
};

/* The callbacks get a struct device: a shell round the fixture. */
struct shell {
    struct device dev;
    struct fixture *f;
};

static uint8_t cf9_read(struct device *dev)
{
    return ((struct shell *)dev)->f->cf9;
}

static void cf9_write(struct device *dev, uint8_t value)
{
    ((struct shell *)dev)->f->cf9 = value;
}

static void place_pm(struct device *dev, uint16_t base, bool enabled)
{
    struct fixture *f = ((struct shell *)dev)->f;

    f->pm_base = base;
    f->pm_enabled = enabled;
    f->pm_placed++;
}

/*
 * The RAM file: guest RAM at 0 (the test VM's 4 MiB); 2 MiB up in it stands what the ROM holds. The
 * test VM's RAM region covers the first megabyte too, so an absent PAM segment reads as plain RAM.
 */
static struct fixture *setup(void)
{
    static struct shell shell;
    struct fixture *f = calloc(1, sizeof(*f));
    struct q35_host_config host = {.ecam_base = ECAM,
                                   .dram_offset = 0,
                                   .rom_offset = 2 << 20,
                                   .rom_base = ROM_BASE,
                                   .cf9_read = cf9_read,
                                   .cf9_write = cf9_write,
                                   .cf9_dev = &shell.dev};
    struct ich9_lpc_config lpc = {.pm_base = 0x600, .place_pm = place_pm, .pm = &shell.dev};

    shell.f = f;
    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->pirq, 20);
    testvm_irq_init(f->tv, &f->isa, 10);
    f->device = testvm_irq_source(&f->pirq);
    host.pirq[4] = lpc.pirq[4] = &f->pirq.line;
    lpc.isa[10] = &f->isa.line;
    f->rom = (struct region){
        .name = "rom", .kind = REGION_ROM, .size = 0x100000 - ROM_BASE, .ram_offset = 2 << 20};
    TESTVM_LOCKED(f->tv, bus_map(&f->tv->vm.memory, &f->rom, ROM_BASE));
    f->host = testvm_add(f->tv, &q35_host_type, &host);
    lpc.bus = q35_host_bus(f->host);
    f->lpc = testvm_add(f->tv, &ich9_lpc_type, &lpc);
    return f;
}

static void teardown(struct fixture *f)
{
    vm_lock(&f->tv->vm);
    device_free(f->lpc);
    device_free(f->host);
    vm_unlock(&f->tv->vm);
    testvm_free(f->tv);
    free(f);
}

static uint32_t cfg(unsigned slot, unsigned reg)
{
    return 0x80000000u | slot << 11 | (reg & 0xfc);
}

static uint32_t rd(struct fixture *f, unsigned slot, unsigned reg, unsigned size)
{
    testvm_out(f->tv, ADDRESS, cfg(slot, reg), 4);
    return (uint32_t)testvm_in(f->tv, (uint16_t)(DATA + (reg & 3)), size);
}

static void wr(struct fixture *f, unsigned slot, unsigned reg, uint32_t val, unsigned size)
{
    testvm_out(f->tv, ADDRESS, cfg(slot, reg), 4);
    testvm_out(f->tv, (uint16_t)(DATA + (reg & 3)), val, size);
}

TEST_F(mechanism_1_reads_at_all_widths_and_offsets)
{
    assert_int_equal(rd(f, 0, 0, 4), 0x29c08086);
    assert_int_equal(rd(f, 0, 2, 2), 0x29c0);
    assert_int_equal(rd(f, 0, 1, 1), 0x80);
    assert_int_equal(rd(f, LPC, 0, 4), 0x29188086);
    assert_int_equal(rd(f, LPC, 0x0e, 1), 0x80);
    assert_int_equal(testvm_in(f->tv, ADDRESS, 4), cfg(LPC, 0x0c));
}

TEST_F(disabled_or_foreign_addresses_read_ones)
{
    testvm_out(f->tv, ADDRESS, 0, 4);
    assert_int_equal(testvm_in(f->tv, DATA, 4), 0xffffffff);
    testvm_out(f->tv, DATA, 0, 4);
    testvm_out(f->tv, ADDRESS, 0x80010000, 4);
    assert_int_equal(testvm_in(f->tv, DATA, 4), 0xffffffff);
    assert_int_equal(rd(f, 5, 0, 4), 0xffffffff);
}

TEST_F(narrow_writes_do_not_touch_config_address)
{
    testvm_out(f->tv, ADDRESS, 0x80000004, 4);
    testvm_out(f->tv, ADDRESS, 0x12, 1);
    testvm_out(f->tv, ADDRESS + 2, 0x1234, 2);
    assert_int_equal(testvm_in(f->tv, ADDRESS, 4), 0x80000004);
    assert_int_equal(testvm_in(f->tv, ADDRESS, 1), 0xff);
}

TEST_F(byte_at_cf9_is_the_reset_register)
{
    testvm_out(f->tv, 0xcf9, 0x06, 1);
    assert_int_equal(f->cf9, 6);
    assert_int_equal(testvm_in(f->tv, 0xcf9, 1), 6);
    testvm_out(f->tv, ADDRESS, 0x8000ff00, 4);
    assert_int_equal(f->cf9, 6);
}

TEST_F(ecam_reaches_the_same_registers)
{
    assert_int_equal(testvm_read(f->tv, ECAM, 4), 0x29c08086);
    assert_int_equal(testvm_read(f->tv, ECAM + (LPC << 15) + 2, 2), 0x2918);
    assert_int_equal(testvm_read(f->tv, ECAM + 0x100, 4), 0xffffffff);
    assert_int_equal(testvm_read(f->tv, ECAM + (1 << 20), 4), 0xffffffff);
    testvm_write(f->tv, ECAM + (1 << 20) + 0x48, 1, 4);
    testvm_write(f->tv, ECAM + 0x48, 0xfed10001, 4);
    assert_int_equal(rd(f, 0, 0x48, 4), 0xfed10001);
}

TEST_F(ecam_moves_shrinks_and_goes)
{
    wr(f, 0, 0x60, 0xe0000001, 4);
    assert_int_equal(testvm_read(f->tv, 0xe0000000, 4), 0x29c08086);
    assert_int_equal(testvm_read(f->tv, ECAM, 4), 0xffffffff);
    wr(f, 0, 0x60, 0xe4000005, 4);
    assert_int_equal(testvm_read(f->tv, 0xe4000000, 4), 0x29c08086);
    assert_int_equal(testvm_read(f->tv, 0xe8000000, 4), 0xffffffff);
    wr(f, 0, 0x60, 0, 4);
    assert_int_equal(testvm_read(f->tv, 0xe4000000, 4), 0xffffffff);
}

TEST_F(pam_off_shows_the_rom)
{
    testvm_write(f->tv, 0x200000 + 0x10000, 0xabcd, 2); /* F0000h in the ROM */
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0xabcd);
    testvm_write(f->tv, 0xf0000, 0x1111, 2);
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0xabcd);
}

TEST_F(pam_shadows_the_bios_as_firmware_does)
{
    testvm_write(f->tv, 0x200000 + 0x10000, 0xabcd, 2);
    wr(f, 0, 0x90, 0x20, 1); /* reads from ROM, writes to DRAM */
    testvm_write(f->tv, 0xf0000, 0x5678, 2);
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0xabcd);
    wr(f, 0, 0x90, 0x10, 1); /* DRAM, read-only */
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0x5678);
    testvm_write(f->tv, 0xf0000, 0x9999, 2);
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0x5678);
    wr(f, 0, 0x90, 0x30, 1); /* DRAM */
    testvm_write(f->tv, 0xf0000, 0x9999, 2);
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0x9999);
    wr(f, 0, 0x90, 0, 1);
    assert_int_equal(testvm_read(f->tv, 0xf0000, 2), 0xabcd);
}

TEST_F(pam_segments_are_steered_one_by_one)
{
    testvm_write(f->tv, 0xc0000, 0x11, 1); /* plain RAM of the test VM below */
    wr(f, 0, 0x91, 0x02, 1);
    assert_int_equal(testvm_read(f->tv, 0xc0000, 1), 0xff); /* no ROM there */
    testvm_write(f->tv, 0xc0000, 0x22, 1);
    assert_int_equal(testvm_read(f->tv, 0xc4000, 1), 0);
    wr(f, 0, 0x91, 0x01, 1);
    assert_int_equal(testvm_read(f->tv, 0xc0000, 1), 0x22);
    wr(f, 0, 0x96, 0x30, 1);
    testvm_write(f->tv, 0xec000, 0x33, 1);
    assert_int_equal(testvm_read(f->tv, 0xec000, 1), 0x33);
    testvm_write(f->tv, 0xe8000, 0x44, 1);
    assert_int_equal(testvm_read(f->tv, 0xe8000, 1), 0);
}

TEST_F(smram_opens_closes_and_locks)
{
    assert_int_equal(rd(f, 0, 0x9d, 1), 0x02);
    wr(f, 0, 0x9d, 0x48, 1);
    testvm_write(f->tv, 0xa0000, 0x77, 1);
    assert_int_equal(testvm_read(f->tv, 0xa0000, 1), 0x77);
    wr(f, 0, 0x9d, 0x58, 1);
    assert_int_equal(rd(f, 0, 0x9d, 1), 0x1a);
    wr(f, 0, 0x9d, 0x48, 1);
    assert_int_equal(rd(f, 0, 0x9d, 1), 0x1a);
    TESTVM_LOCKED(f->tv, device_reset(f->host, RESET_WARM));
    assert_int_equal(rd(f, 0, 0x9d, 1), 0x02);
    wr(f, 0, 0x9d, 0x48, 1);
    assert_int_equal(rd(f, 0, 0x9d, 1), 0x4a);
}

TEST_F(pirqs_are_spread_over_the_slots)
{
    assert_int_equal(q35_host_pirq(0, 1), 4);
    assert_int_equal(q35_host_pirq(3, 1), 7);
    assert_int_equal(q35_host_pirq(4, 4), 7);
    assert_int_equal(q35_host_pirq(31, 1), 3);
    assert_int_equal(q35_host_pirq(24, 1), 0);
}

TEST_F(routed_pirq_raises_its_isa_irq)
{
    irq_set(f->device, true);
    assert_false(f->isa.level);
    wr(f, LPC, 0x68, 10, 1);
    assert_true(f->isa.level);
    irq_set(f->device, false);
    assert_false(f->isa.level);
    irq_set(f->device, true);
    wr(f, LPC, 0x68, 0x8a, 1);
    assert_false(f->isa.level);
    wr(f, LPC, 0x68, 13, 1); /* not routable */
    assert_false(f->isa.level);
}

TEST_F(power_management_block_follows_pmbase)
{
    assert_int_equal(f->pm_base, 0x600);
    assert_true(f->pm_enabled);
    wr(f, LPC, 0x40, 0xb000, 4);
    assert_int_equal(f->pm_base, 0xb000);
    assert_int_equal(rd(f, LPC, 0x40, 4), 0xb001);
    wr(f, LPC, 0x44, 0, 1);
    assert_false(f->pm_enabled);
    assert_int_equal(f->pm_placed, 3);
}

TEST_F(chipset_registers_appear_at_rcba)
{
    wr(f, LPC, 0xf0, 0xfed1c001, 4);
    testvm_write(f->tv, 0xfed1f410, 0x20, 4);
    assert_int_equal(testvm_read(f->tv, 0xfed1f410, 4), 0x20);
    testvm_write(f->tv, 0xfed1f1ff, 1, 1);
    assert_int_equal(testvm_read(f->tv, 0xfed1f1fe, 2), 0x100);
    testvm_write(f->tv, 0xfed1f418, 0xff, 4);
    assert_int_equal(testvm_read(f->tv, 0xfed1f418, 1), 0xff);
    testvm_write(f->tv, 0xfed1c000, 1, 4);
    assert_int_equal(testvm_read(f->tv, 0xfed1c000, 4), 0);
    wr(f, LPC, 0xf0, 0, 4);
    assert_int_equal(testvm_read(f->tv, 0xfed1f410, 4), 0xffffffff);
}

TEST_F(states_round_trip)
{
    wr(f, 0, 0x90, 0x30, 1);
    wr(f, 0, 0x9d, 0x18, 1);
    wr(f, LPC, 0x68, 10, 1);
    irq_set(f->device, true);
    testvm_state_roundtrip(f->host);
    testvm_state_roundtrip(f->lpc);
    assert_int_equal(rd(f, 0, 0x90, 1), 0x30);
    assert_true(f->isa.level);
}
