/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/hostcpu.h"
#include "cpu/cpu_state.h"
#include "cpu/model.h"
#include "cpu/paging.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define P       1ull
#define W       2ull
#define U       4ull
#define A       0x20ull
#define D       0x40ull
#define PS      0x80ull
#define G       0x100ull
#define NX      BIT(63)
#define RW_USER (P | W | U)

/* Tables at fixed places; the linear address most tests use, and the page behind it. */
#define PML4   0x10000ull
#define PDPT   0x11000ull
#define PD     0x12000ull
#define PT     0x13000ull
#define PAGE   0x20000ull
#define LINEAR 0x0000123456789abcull

struct fixture {
    struct testvm *tv;
    struct vcpu *vcpu;
    struct cpu_model model;
    struct cpu_state cs;
    struct walk_in in;
    struct walk_out out;
};

static uint64_t *entry(struct fixture *f, gpa_t table, unsigned index)
{
    return (uint64_t *)mem_page(&f->tv->vm, table, true, NULL) + index;
}

static uint32_t *entry32(struct fixture *f, gpa_t table, unsigned index)
{
    return (uint32_t *)mem_page(&f->tv->vm, table, true, NULL) + index;
}

static unsigned index_of(gva_t addr, unsigned level)
{
    return addr >> (12 + 9 * (level - 1)) & 511;
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err err = {0};

    f->tv = testvm_new();
    assert_int_equal(cpu_model_init(&f->model, "max", 1, 1000000000, hostcpu_probe(), &err), 0);
    f->model.phys_bits = 40;
    f->vcpu = vm_add_vcpu(&f->tv->vm, &f->model, &err);
    assert_non_null(f->vcpu);
    cpu_state_reset(&f->cs, true, 0);
    f->in = (struct walk_in){.cs = &f->cs, .model = &f->model, .vcpu = f->vcpu};
    return f;
}

/* 4-level paging with a user-writable 4 KiB page. */
static struct fixture *setup_long(void)
{
    struct fixture *f = setup();

    f->cs.cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->cs.cr4 = CR4_PAE;
    f->cs.efer = EFER_LME | EFER_LMA | EFER_NXE;
    f->cs.cr3 = PML4;
    *entry(f, PML4, index_of(LINEAR, 4)) = PDPT | RW_USER;
    *entry(f, PDPT, index_of(LINEAR, 3)) = PD | RW_USER;
    *entry(f, PD, index_of(LINEAR, 2)) = PT | RW_USER;
    *entry(f, PT, index_of(LINEAR, 1)) = PAGE | RW_USER;
    return f;
}

static struct fixture *setup_pae(void)
{
    struct fixture *f = setup();

    f->cs.cr0 = CR0_PE | CR0_PG;
    f->cs.cr4 = CR4_PAE;
    f->cs.cr3 = PDPT;
    *entry(f, PDPT, 1) = PD | P;
    *entry(f, PD, 2) = PT | RW_USER;
    *entry(f, PT, 3) = PAGE | RW_USER;
    assert_true(paging_load_pdptes(f->vcpu, &f->model, f->cs.cr3, f->cs.pdpte));
    return f;
}
#define PAE_LINEAR (0x40000000ull + 2 * 0x200000 + 3 * 0x1000 + 0x123)

static struct fixture *setup_legacy(void)
{
    struct fixture *f = setup();

    f->cs.cr0 = CR0_PE | CR0_PG;
    f->cs.cr3 = PD;
    *entry32(f, PD, 5) = PT | RW_USER;
    *entry32(f, PT, 6) = PAGE | RW_USER;
    return f;
}
#define LEGACY_LINEAR (5ull * 0x400000 + 6 * 0x1000 + 0x321)

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void assert_maps(struct fixture *f, gva_t addr, gpa_t gpa)
{
    assert_true(paging_walk(&f->in, addr, &f->out));
    assert_int_equal(f->out.gpa, gpa);
}

static void assert_faults(struct fixture *f, gva_t addr, uint32_t error)
{
    assert_false(paging_walk(&f->in, addr, &f->out));
    assert_int_equal(f->out.error, error);
}

/* ---- no paging, A20 ------------------------------------------------------------------- */

TEST_F(without_paging_linear_is_physical)
{
    f->in.write = f->in.user = true;
    assert_maps(f, 0xfffff123, 0xfffff123);
    assert_true(f->out.writable);
}

TEST_F(a20_mask_clears_bit_20_of_the_page)
{
    atomic_store(&f->tv->vm.a20_mask, ~BIT(20));
    assert_maps(f, 0x100010, 0x10);
}

TEST_WITH(setup_legacy, a20_mask_applies_to_table_addresses)
{
    atomic_store(&f->tv->vm.a20_mask, ~BIT(20));
    f->cs.cr3 = PD | BIT(20);
    assert_maps(f, LEGACY_LINEAR, PAGE + 0x321);
}

/* ---- sizes ---------------------------------------------------------------------------- */

TEST_WITH(setup_long, four_levels_reach_a_4_kib_page)
{
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_int_equal(f->out.page_shift, 12);
    assert_int_equal(f->out.nlevels, 4);
    assert_int_equal(f->out.level[0].at, PML4 + index_of(LINEAR, 4) * 8);
}

TEST_WITH(setup_long, four_levels_reach_a_2_mib_page)
{
    *entry(f, PD, index_of(LINEAR, 2)) = 0x40000000 | RW_USER | PS;
    assert_maps(f, LINEAR, 0x40000000 + (LINEAR & 0x1fffff));
    assert_int_equal(f->out.page_shift, 21);
}

TEST_WITH(setup_long, four_levels_reach_a_1_gib_page)
{
    *entry(f, PDPT, index_of(LINEAR, 3)) = 0x40000000 | RW_USER | PS;
    assert_maps(f, LINEAR, 0x40000000 + (LINEAR & 0x3fffffff));
    assert_int_equal(f->out.page_shift, 30);
}

TEST_WITH(setup_pae, pae_reaches_4_kib_and_2_mib_pages)
{
    assert_maps(f, PAE_LINEAR, PAGE + 0x123);
    *entry(f, PD, 2) = 0x12340000000 % BIT(40) | RW_USER | PS;
    assert_maps(f, PAE_LINEAR, (0x12340000000 % BIT(40)) + 0x3123);
    assert_int_equal(f->out.page_shift, 21);
}

TEST_WITH(setup_legacy, legacy_reaches_4_kib_pages)
{
    assert_maps(f, LEGACY_LINEAR, PAGE + 0x321);
}

TEST_WITH(setup_legacy, pse36_puts_bits_20_to_13_above_4_gib)
{
    f->cs.cr4 = CR4_PSE;
    *entry32(f, PD, 5) = 0x00c00000 | 0xa5 << 13 | RW_USER | PS;
    assert_maps(f, LEGACY_LINEAR, 0xa500c00000 + 0x6321);
    assert_int_equal(f->out.page_shift, 22);
}

TEST_WITH(setup_legacy, without_pse_the_page_size_bit_is_ignored)
{
    *entry32(f, PD, 5) |= PS;
    assert_maps(f, LEGACY_LINEAR, PAGE + 0x321);
}

/* ---- accessed and dirty --------------------------------------------------------------- */

TEST_WITH(setup_long, a_read_sets_accessed_everywhere_and_dirty_nowhere)
{
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_int_equal(*entry(f, PML4, index_of(LINEAR, 4)), PDPT | RW_USER | A);
    assert_int_equal(*entry(f, PDPT, index_of(LINEAR, 3)), PD | RW_USER | A);
    assert_int_equal(*entry(f, PD, index_of(LINEAR, 2)), PT | RW_USER | A);
    assert_int_equal(*entry(f, PT, index_of(LINEAR, 1)), PAGE | RW_USER | A);
    assert_false(f->out.writable);
}

TEST_WITH(setup_long, a_write_sets_dirty_in_the_leaf_alone)
{
    f->in.write = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_int_equal(*entry(f, PD, index_of(LINEAR, 2)), PT | RW_USER | A);
    assert_int_equal(*entry(f, PT, index_of(LINEAR, 1)), PAGE | RW_USER | A | D);
    assert_true(f->out.writable);
}

TEST_WITH(setup_legacy, legacy_entries_keep_their_neighbours)
{
    f->in.write = true;
    *entry32(f, PT, 7) = 0xdead;
    assert_maps(f, LEGACY_LINEAR, PAGE + 0x321);
    assert_int_equal(*entry32(f, PT, 6), PAGE | RW_USER | A | D);
    assert_int_equal(*entry32(f, PT, 7), 0xdead);
}

TEST_WITH(setup_long, a_look_changes_nothing)
{
    f->in.write = f->in.no_update = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_int_equal(*entry(f, PML4, index_of(LINEAR, 4)), PDPT | RW_USER);
    assert_int_equal(*entry(f, PT, index_of(LINEAR, 1)), PAGE | RW_USER);
    assert_false(f->out.writable);
}

TEST_WITH(setup_long, a_faulting_walk_sets_nothing)
{
    f->in.write = true;
    *entry(f, PT, index_of(LINEAR, 1)) = PAGE | P | U;
    assert_faults(f, LINEAR, PF_P | PF_W);
    assert_int_equal(*entry(f, PML4, index_of(LINEAR, 4)), PDPT | RW_USER);
}

TEST_WITH(setup_pae, pae_leaves_the_pdpte_alone)
{
    assert_maps(f, PAE_LINEAR, PAGE + 0x123);
    assert_int_equal(*entry(f, PDPT, 1), PD | P);
    assert_int_equal(*entry(f, PD, 2), PT | RW_USER | A);
}

/* ---- rights --------------------------------------------------------------------------- */

TEST_WITH(setup_long, absent_entries_fault_without_p)
{
    f->in.user = f->in.write = true;
    *entry(f, PD, index_of(LINEAR, 2)) = 0;
    assert_faults(f, LINEAR, PF_W | PF_U);
    *entry(f, PML4, index_of(LINEAR, 4)) = ~1ull;
    assert_faults(f, LINEAR, PF_W | PF_U);
}

TEST_WITH(setup_long, a_user_access_needs_u_at_every_level)
{
    f->in.user = true;
    *entry(f, PDPT, index_of(LINEAR, 3)) &= ~U;
    assert_faults(f, LINEAR, PF_P | PF_U);
    f->in.user = false;
    assert_maps(f, LINEAR, PAGE + 0xabc);
}

TEST_WITH(setup_long, a_write_needs_w_at_every_level)
{
    f->in.user = f->in.write = true;
    *entry(f, PML4, index_of(LINEAR, 4)) &= ~W;
    assert_faults(f, LINEAR, PF_P | PF_W | PF_U);
}

TEST_WITH(setup_long, wp_decides_supervisor_writes_to_read_only_pages)
{
    f->in.write = true;
    *entry(f, PT, index_of(LINEAR, 1)) &= ~W;
    assert_faults(f, LINEAR, PF_P | PF_W);
    f->cs.cr0 &= ~CR0_WP;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_true(f->out.writable);
    f->in.user = true;
    assert_faults(f, LINEAR, PF_P | PF_W | PF_U);
}

TEST_WITH(setup_long, nx_stops_fetches_alone)
{
    *entry(f, PD, index_of(LINEAR, 2)) |= NX;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_true(f->out.nx);
    f->in.exec = true;
    assert_faults(f, LINEAR, PF_P | PF_I);
}

TEST_WITH(setup_long, nx_is_reserved_while_nxe_is_off)
{
    f->cs.efer &= ~EFER_NXE;
    *entry(f, PD, index_of(LINEAR, 2)) |= NX;
    assert_faults(f, LINEAR, PF_P | PF_RSVD);
}

TEST_WITH(setup_long, smep_stops_supervisor_fetches_from_user_pages)
{
    f->in.exec = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    f->cs.cr4 |= CR4_SMEP;
    assert_faults(f, LINEAR, PF_P | PF_I);
    f->in.user = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
}

TEST_WITH(setup_legacy, the_fetch_bit_needs_nx_or_smep)
{
    f->in.exec = true;
    *entry32(f, PT, 6) = 0;
    assert_faults(f, LEGACY_LINEAR, 0);
    f->cs.cr4 |= CR4_SMEP;
    assert_faults(f, LEGACY_LINEAR, PF_I);
}

TEST_WITH(setup_long, smap_yields_to_ac_for_explicit_accesses)
{
    f->cs.cr4 |= CR4_SMAP;
    assert_faults(f, LINEAR, PF_P);
    f->cs.rflags |= RFLAGS_AC;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    f->in.implicit = true;
    assert_faults(f, LINEAR, PF_P);
}

TEST_WITH(setup_long, global_counts_with_pge)
{
    *entry(f, PT, index_of(LINEAR, 1)) |= G;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_false(f->out.global);
    f->cs.cr4 |= CR4_PGE;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_true(f->out.global);
}

/* ---- reserved bits -------------------------------------------------------------------- */

TEST_WITH(setup_long, addresses_above_maxphyaddr_are_reserved)
{
    f->in.user = true;
    *entry(f, PT, index_of(LINEAR, 1)) |= BIT(40);
    assert_faults(f, LINEAR, PF_P | PF_U | PF_RSVD);
    f->model.phys_bits = 41;
    assert_maps(f, LINEAR, BIT(40) + PAGE + 0xabc);
}

TEST_WITH(setup_long, low_address_bits_of_large_pages_are_reserved)
{
    *entry(f, PD, index_of(LINEAR, 2)) = 0x40002000 | RW_USER | PS;
    assert_faults(f, LINEAR, PF_P | PF_RSVD);
    *entry(f, PDPT, index_of(LINEAR, 3)) = 0x40200000 | RW_USER | PS;
    assert_faults(f, LINEAR, PF_P | PF_RSVD);
}

TEST_WITH(setup_long, page_size_is_reserved_in_the_top_level)
{
    *entry(f, PML4, index_of(LINEAR, 4)) |= PS;
    assert_faults(f, LINEAR, PF_P | PF_RSVD);
}

TEST_WITH(setup_long, a_1_gib_page_is_reserved_without_the_feature)
{
    *entry(f, PDPT, index_of(LINEAR, 3)) = 0x40000000 | RW_USER | PS;
    f->model.features[FEAT_PDPE1GB / 64] &= ~BIT(FEAT_PDPE1GB % 64);
    assert_faults(f, LINEAR, PF_P | PF_RSVD);
}

TEST(bits_62_to_52_are_reserved_in_pae_alone)
{
    struct fixture *pae = setup_pae(), *f = setup_long();

    *entry(pae, PT, 3) |= BIT(52);
    assert_faults(pae, PAE_LINEAR, PF_P | PF_RSVD);
    *entry(f, PT, index_of(LINEAR, 1)) |= BIT(52) | BIT(62);
    assert_maps(f, LINEAR, PAGE + 0xabc);
    teardown(pae);
    teardown(f);
}

TEST_WITH(setup_legacy, bit_21_of_a_4_mib_page_is_reserved)
{
    f->cs.cr4 = CR4_PSE;
    *entry32(f, PD, 5) = 0x00c00000 | BIT(21) | RW_USER | PS;
    assert_faults(f, LEGACY_LINEAR, PF_P | PF_RSVD);
}

TEST_WITH(setup_long, an_absent_entry_has_no_reserved_bits)
{
    *entry(f, PT, index_of(LINEAR, 1)) = ~P;
    assert_faults(f, LINEAR, 0);
}

/* ---- PDPTEs --------------------------------------------------------------------------- */

TEST_WITH(setup_pae, pdptes_with_reserved_bits_are_refused)
{
    uint64_t pdpte[4] = {7, 7, 7, 7};

    *entry(f, PDPT, 3) = PD | P | W;
    assert_false(paging_load_pdptes(f->vcpu, &f->model, PDPT, pdpte));
    assert_int_equal(pdpte[1], 7);
    *entry(f, PDPT, 3) = PD | P | BIT(40);
    assert_false(paging_load_pdptes(f->vcpu, &f->model, PDPT, pdpte));
    *entry(f, PDPT, 3) = W;
    assert_true(paging_load_pdptes(f->vcpu, &f->model, PDPT, pdpte));
    assert_int_equal(pdpte[3], W);
}

TEST_WITH(setup_pae, an_absent_pdpte_faults)
{
    assert_faults(f, 0x80000000, 0);
}

/* ---- tables that are no RAM ----------------------------------------------------------- */

TEST_WITH(setup_long, tables_in_nowhere_read_as_ones_and_do_not_hang)
{
    f->cs.cr3 = 0x1000000000;
    f->in.write = true;
    assert_faults(f, LINEAR, PF_P | PF_W | PF_RSVD);
}

TEST_WITH(setup_long, tables_in_rom_work_and_stay_clean)
{
    struct region rom = {.name = "rom", .kind = REGION_ROM, .size = PAGE_SIZE, .priority = 1};

    rom.ram_offset = PT;
    TESTVM_LOCKED(f->tv, bus_map(&f->tv->vm.memory, &rom, PT));
    f->in.write = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    TESTVM_LOCKED(f->tv, bus_unmap(&rom));
    assert_int_equal(*entry(f, PT, index_of(LINEAR, 1)), PAGE | RW_USER);
}

struct device_table {
    uint64_t entry;
    unsigned reads, writes;
};

static uint64_t table_read(void *dev, uint64_t off, unsigned size)
{
    struct device_table *t = dev;

    (void)off;
    (void)size;
    t->reads++;
    return t->entry;
}

static void table_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct device_table *t = dev;

    (void)off;
    (void)size;
    t->entry = val;
    t->writes++;
}

TEST(tables_in_a_device_are_read_but_not_by_a_look)
{
    static const struct io_ops ops = {.read = table_read, .write = table_write, .sizes = IO_8};
    struct fixture *f = setup_long();
    struct device_table t = {.entry = PAGE | RW_USER};
    struct region mmio = {.name = "table",
                          .kind = REGION_IO,
                          .size = PAGE_SIZE,
                          .priority = 1,
                          .ops = &ops,
                          .dev = &t};

    TESTVM_LOCKED(f->tv, bus_map(&f->tv->vm.memory, &mmio, PT));
    f->in.no_update = true;
    assert_faults(f, LINEAR, 0);
    assert_int_equal(t.reads, 0);
    f->in.no_update = false;
    f->in.write = true;
    assert_maps(f, LINEAR, PAGE + 0xabc);
    assert_int_equal(t.entry, PAGE | RW_USER | A | D);
    assert_int_equal(t.writes, 1);
    TESTVM_LOCKED(f->tv, bus_unmap(&mmio));
    teardown(f);
}
