/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#define FIXTURE struct vm *vm
#include "core/vm.h"
#include "tests/lib/unit.h"

/* A device that remembers its accesses and answers with its tag in each byte. */
struct probe {
    struct region region;
    struct io_ops ops;
    uint8_t tag;
    unsigned n;
    uint64_t off[64], val[64];
    unsigned size[64];
};

static uint64_t probe_read(void *opaque, uint64_t off, unsigned size)
{
    struct probe *p = opaque;

    p->off[p->n] = off;
    p->size[p->n++ % 64] = size;
    return 0x0101010101010101ull * p->tag;
}

static void probe_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct probe *p = opaque;

    p->off[p->n] = off;
    p->val[p->n] = val;
    p->size[p->n++ % 64] = size;
}

static void probe_init(struct probe *p, uint8_t tag, uint64_t size, unsigned sizes, int priority)
{
    memset(p, 0, sizeof(*p));
    p->tag = tag;
    p->ops = (struct io_ops){.read = probe_read, .write = probe_write, .sizes = sizes};
    p->region = (struct region){.name = "probe",
                                .kind = REGION_IO,
                                .size = size,
                                .ops = &p->ops,
                                .dev = p,
                                .priority = priority};
}

static const struct bus_from nobody = {.vcpu = -1};

static uint64_t rd(struct vm *vm, uint64_t addr, unsigned size)
{
    uint64_t v = 0;

    bus_access(&vm->memory, nobody, addr, &v, size, false);
    return v;
}

static void wr(struct vm *vm, uint64_t addr, uint64_t v, unsigned size)
{
    bus_access(&vm->memory, nobody, addr, &v, size, true);
}

static struct vm *setup(void)
{
    struct vm_config config = {.ram_bytes = 1 << 20, .clock = CLOCK_MANUAL};
    struct vm *vm = calloc(1, sizeof(*vm));

    assert_int_equal(vm_init(vm, &config, NULL), 0);
    return vm;
}

static void teardown(struct vm *vm)
{
    vm_fini(vm);
    free(vm);
}

TEST_F(holes_read_as_ones_and_count_as_unknown)
{
    uint64_t before = vm->trace.unknown;

    assert_int_equal(rd(vm, 0x1234, 4), 0xffffffff);
    assert_int_equal(vm->trace.unknown, before + 1);
}

TEST_F(wide_accesses_split_into_allowed_widths)
{
    struct probe p;

    probe_init(&p, 0xab, 0x100, IO_1 | IO_4, 0);
    bus_map(&vm->memory, &p.region, 0x1000);
    assert_int_equal(rd(vm, 0x1008, 8), 0xababababababababull);
    assert_int_equal(p.n, 2);
    assert_int_equal(p.size[0], 4);
    assert_int_equal(p.off[1], 12);
    p.n = 0;
    rd(vm, 0x1003, 2);
    assert_int_equal(p.n, 2);
    assert_int_equal(p.size[0], 1);
}

TEST_F(narrower_than_any_allowed_width_is_refused)
{
    struct probe p;

    probe_init(&p, 0xab, 0x100, IO_4, 0);
    bus_map(&vm->memory, &p.region, 0x1000);
    assert_int_equal(rd(vm, 0x1001, 1), 0xff);
    wr(vm, 0x1000, 0x55, 2);
    assert_int_equal(p.n, 0);
}

TEST_F(higher_priority_covers_and_uncovers)
{
    struct probe low, high;

    probe_init(&low, 1, 0x3000, IO_4, 0);
    probe_init(&high, 2, 0x1000, IO_4, 5);
    bus_map(&vm->memory, &high.region, 0x2000);
    bus_map(&vm->memory, &low.region, 0x1000);
    assert_int_equal(rd(vm, 0x1ffc, 4), 0x01010101);
    assert_int_equal(rd(vm, 0x2000, 4), 0x02020202);
    assert_int_equal(rd(vm, 0x3000, 4), 0x01010101);
    assert_int_equal(low.off[1], 0x2000);
    bus_set_enabled(&high.region, false);
    assert_int_equal(rd(vm, 0x2000, 4), 0x01010101);
    bus_set_enabled(&high.region, true);
    bus_move(&vm->memory, &high.region, 0x3000);
    assert_int_equal(rd(vm, 0x2000, 4), 0x01010101);
    assert_int_equal(rd(vm, 0x3000, 4), 0x02020202);
    bus_unmap(&high.region);
    assert_int_equal(rd(vm, 0x3000, 4), 0x01010101);
}

TEST_F(among_equals_the_later_mapping_wins)
{
    struct probe a, b;

    probe_init(&a, 1, 0x1000, IO_4, 0);
    probe_init(&b, 2, 0x1000, IO_4, 0);
    bus_map(&vm->memory, &a.region, 0x1000);
    bus_map(&vm->memory, &b.region, 0x1000);
    assert_int_equal(rd(vm, 0x1000, 4), 0x02020202);
}

TEST_F(access_across_two_regions_reaches_both)
{
    struct probe a, b;

    probe_init(&a, 1, 0x1000, IO_1 | IO_2 | IO_4, 0);
    probe_init(&b, 2, 0x1000, IO_1 | IO_2 | IO_4, 0);
    bus_map(&vm->memory, &a.region, 0x1000);
    bus_map(&vm->memory, &b.region, 0x2000);
    assert_int_equal(rd(vm, 0x1ffe, 4), 0x02020101);
}

TEST_F(region_at_the_end_of_the_space_is_cut_off)
{
    struct probe p;

    probe_init(&p, 7, 0x100, IO_1, 0);
    bus_map(&vm->ports, &p.region, 0xfff0);
    assert_int_equal(vcpu_in(&(struct vcpu){.vm = vm}, 0xffff, 1), 7);
    assert_int_equal(vcpu_in(&(struct vcpu){.vm = vm}, 0xffff, 2), 0xff07);
}

TEST_F(rom_drops_writes_and_loaders_write_it)
{
    struct region rom = {.name = "rom", .kind = REGION_ROM, .size = 0x1000, .ram_offset = 0x2000};
    uint32_t v = 0x12345678;

    bus_map(&vm->memory, &rom, 0xf0000);
    assert_true(mem_load(vm, 0xf0010, &v, 4));
    wr(vm, 0xf0010, 0, 4);
    assert_int_equal(rd(vm, 0xf0010, 4), 0x12345678);
    assert_false(mem_write(vm, 0xf0010, &v, 4));
    assert_null(mem_page(vm, 0xf0000, true, NULL));
    assert_non_null(mem_page(vm, 0xf0000, false, NULL));
}

TEST_F(dma_copies_stop_at_the_end_of_ram)
{
    struct region ram = {.name = "ram", .kind = REGION_RAM, .size = 0x2000};
    uint8_t buf[0x2001] = {0};

    bus_map(&vm->memory, &ram, 0);
    assert_true(mem_write(vm, 0, buf, 0x2000));
    assert_false(mem_write(vm, 0, buf, 0x2001));
    assert_false(mem_read(vm, UINT64_MAX - 3, buf, 8));
}

TEST_F(part_of_a_page_of_ram_gives_no_page_pointer)
{
    struct region ram = {.name = "ram", .kind = REGION_RAM, .size = 0x1800};
    uint64_t v = 0;

    bus_map(&vm->memory, &ram, 0);
    assert_non_null(mem_page(vm, 0xfff, true, NULL));
    assert_null(mem_page(vm, 0x1000, true, NULL));
    wr(vm, 0x1000, 0x77, 4);
    assert_true(mem_read(vm, 0x1000, &v, 4));
    assert_int_equal(v, 0x77);
}

TEST_F(batched_changes_appear_together)
{
    struct probe p;

    probe_init(&p, 9, 0x1000, IO_4, 0);
    bus_begin(&vm->memory);
    bus_map(&vm->memory, &p.region, 0x1000);
    assert_null(bus_lookup(&vm->memory, 0x1000));
    bus_commit(&vm->memory);
    assert_non_null(bus_lookup(&vm->memory, 0x1000));
}

TEST_F(last_accesses_are_kept_for_reports)
{
    struct probe p;

    probe_init(&p, 9, 0x1000, IO_4, 0);
    bus_map(&vm->memory, &p.region, 0x1000);
    wr(vm, 0x1004, 42, 4);
    assert_int_equal(vm->trace.last_n, 1);
    assert_int_equal(vm->trace.last[0].addr, 0x1004);
    assert_int_equal(vm->trace.last[0].value, 42);
}
