/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The TLB and the slow paths against the walker, in 64-bit mode unless a test says otherwise.
 * Exceptions are caught by the functions below, which stand in for event.c, run.c, seg.c and
 * block.c (stores to code are recorded).
 */
#include <string.h>

#include "base/hostcpu.h"
#include "cpu/model.h"
#include "engine/interp/block.h"
#include "engine/interp/interp.h"
#include "engine/interp/mode.h"
#include "engine/interp/tlb.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define P   1ull
#define W   2ull
#define U   4ull
#define D   0x40ull
#define PS  0x80ull
#define ALL (P | W | U)

#define PML4   0x10000ull
#define PDPT   0x11000ull
#define PD     0x12000ull
#define PT     0x13000ull
#define PML4_B 0x14000ull
#define PDPT_B 0x15000ull
#define PD_B   0x16000ull
#define PT_B   0x17000ull
/* Linear 0 to 2 MiB is mapped by PT to the same physical addresses; page n is n * 4 KiB. */
#define PAGE_A 0x100000ull
#define PAGE_B 0x101000ull
#define PAGE_C 0x102000ull
#define LARGE  0x40000000ull /* linear, for tests of large pages: PDPT entry 1 */

struct raised {
    unsigned vector;
    uint32_t error;
    gva_t addr;
};

struct fixture {
    struct testvm *tv;
    struct interp_vm iv;
    struct cpu_model model;
    struct interp *c;
    sigjmp_buf raise_to;
    struct raised raised;
    unsigned code_writes;
    uint32_t code_page;
    unsigned code_first, code_last;
};

/* The interpreter under test finds its fixture behind itself. */
struct holder {
    struct interp interp;
    struct fixture *fixture;
};

static struct fixture *fixture_of(struct interp *c)
{
    return container_of(c, struct holder, interp)->fixture;
}

_Noreturn static void leave(struct interp *c, struct raised raised)
{
    fixture_of(c)->raised = raised;
    siglongjmp(fixture_of(c)->raise_to, 1);
}

_Noreturn void interp_raise_err(struct interp *c, unsigned vector, uint32_t error)
{
    leave(c, (struct raised){.vector = vector, .error = error});
}

_Noreturn void interp_raise_pf(struct interp *c, gva_t addr, uint32_t error)
{
    leave(c, (struct raised){.vector = VEC_PF, .error = error, .addr = addr});
}

void interp_sync_clock(struct interp *c)
{
    (void)c;
}

gva_t seg_linear_slow(struct interp *c, unsigned seg, uint64_t off, unsigned size, enum access how)
{
    (void)size;
    (void)how;
    return c->s.seg[seg].base + off;
}

void blocks_written(struct interp *c, uint32_t ram_page, unsigned first, unsigned last)
{
    struct fixture *f = fixture_of(c);

    f->code_writes++;
    f->code_page = ram_page;
    f->code_first = first;
    f->code_last = last;
}

#define RAISES(f, statement, want_vector)                  \
    do {                                                   \
        (f)->raised.vector = 0xff;                         \
        if (!sigsetjmp((f)->raise_to, 0)) {                \
            statement;                                     \
        }                                                  \
        assert_int_equal((f)->raised.vector, want_vector); \
    } while (0)

static uint64_t *entry(struct fixture *f, gpa_t table, unsigned index)
{
    return (uint64_t *)mem_page(&f->tv->vm, table, true, NULL) + index;
}

static uint8_t *ram(struct fixture *f, gpa_t gpa)
{
    return mem_page(&f->tv->vm, gpa, true, NULL) + (gpa & PAGE_MASK);
}

static struct interp *add_vcpu(struct fixture *f)
{
    struct holder *h = calloc(1, sizeof(*h));
    struct vcpu *vcpu = vm_add_vcpu(&f->tv->vm, &f->model, NULL);
    struct interp *c = &h->interp;

    assert_non_null(vcpu);
    h->fixture = f;
    vcpu->engine = c;
    c->vcpu = vcpu;
    c->vm = &f->tv->vm;
    cpu_state_reset(&c->s, true, 0);
    c->s.cr0 = CR0_PE | CR0_PG | CR0_WP;
    c->s.cr4 = CR4_PAE;
    c->s.efer = EFER_LME | EFER_LMA | EFER_NXE;
    c->s.cr3 = PML4;
    c->s.seg[SEG_CS].attr = 0xa09b;
    c->s.seg[SEG_SS].attr = 0xc093;
    interp_mode_changed(c);
    return c;
}

static void map_space(struct fixture *f, gpa_t pml4, gpa_t pdpt, gpa_t pd, gpa_t pt)
{
    *entry(f, pml4, 0) = pdpt | ALL;
    *entry(f, pdpt, 0) = pd | ALL;
    *entry(f, pd, 0) = pt | ALL;
    for (unsigned i = 0; i < 512; i++)
        *entry(f, pt, i) = (i * 0x1000ull) | ALL;
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->tv->vm.engine_data = &f->iv;
    assert_int_equal(cpu_model_init(&f->model, "max", 2, 1000000000, hostcpu_probe(), NULL), 0);
    map_space(f, PML4, PDPT, PD, PT);
    map_space(f, PML4_B, PDPT_B, PD_B, PT_B);
    f->c = add_vcpu(f);
    return f;
}

static void teardown(struct fixture *f)
{
    for (unsigned i = 0; i < f->tv->vm.nvcpus; i++)
        free(f->tv->vm.vcpus[i]->engine);
    testvm_free(f->tv);
    free(f);
}

static uint64_t load(struct fixture *f, gva_t addr, unsigned size)
{
    return access_load(f->c, addr, size, f->c->key);
}

static void store(struct fixture *f, gva_t addr, unsigned size, uint64_t v)
{
    access_store(f->c, addr, size, v, f->c->key);
}

static bool tagged(struct fixture *f, gva_t addr, enum access how)
{
    return f->c->tlb[TLB_SLOT(addr)].tag[how] == ((addr & ~PAGE_MASK) | f->c->key);
}

static void enter_user(struct fixture *f)
{
    f->c->s.seg[SEG_CS].attr |= 0x60;
    f->c->s.seg[SEG_SS].attr |= 0x60;
    interp_mode_changed(f->c);
}

/* ---- plain accesses ------------------------------------------------------------------- */

TEST_F(loads_and_stores_of_all_sizes_reach_ram)
{
    store(f, PAGE_A + 8, 8, 0x1122334455667788);
    store(f, PAGE_A + 1, 1, 0xab);
    store(f, PAGE_A + 18, 2, 0xbeef);
    store(f, PAGE_A + 21, 4, 0xcafef00d);
    assert_int_equal(load(f, PAGE_A + 8, 8), 0x1122334455667788);
    assert_int_equal(load(f, PAGE_A + 12, 4), 0x11223344);
    assert_int_equal(load(f, PAGE_A + 1, 1), 0xab);
    assert_int_equal(load(f, PAGE_A + 18, 2), 0xbeef);
    assert_int_equal(load(f, PAGE_A + 21, 4), 0xcafef00d);
    assert_int_equal(*ram(f, PAGE_A + 1), 0xab);
}

TEST_F(an_access_fills_its_tag)
{
    load(f, PAGE_A, 4);
    assert_true(tagged(f, PAGE_A, ACCESS_READ));
    assert_false(tagged(f, PAGE_A, ACCESS_WRITE));
    store(f, PAGE_A, 4, 1);
    assert_true(tagged(f, PAGE_A, ACCESS_WRITE));
    assert_true(tagged(f, PAGE_A, ACCESS_READ));
}

TEST_F(the_first_store_sets_dirty_although_a_load_came_before)
{
    load(f, PAGE_A, 4);
    assert_int_equal(*entry(f, PT, 0x100) & D, 0);
    store(f, PAGE_A, 4, 1);
    assert_int_equal(*entry(f, PT, 0x100) & D, D);
}

TEST_F(page_faults_carry_address_and_error)
{
    *entry(f, PT, 0x100) &= ~W;
    enter_user(f);
    RAISES(f, store(f, PAGE_A + 0x123, 4, 1), VEC_PF);
    assert_int_equal(f->raised.addr, PAGE_A + 0x123);
    assert_int_equal(f->raised.error, 7);
}

TEST_F(a_zeroed_tlb_matches_nothing)
{
    *entry(f, PT, 0) = 0;
    memset(f->c->tlb, 0, sizeof(f->c->tlb));
    RAISES(f, load(f, 0, 4), VEC_PF);
}

/* ---- page crossing -------------------------------------------------------------------- */

TEST_F(accesses_across_pages_reach_both)
{
    *entry(f, PT, 0x101) = PAGE_C | ALL; /* not adjacent in RAM */
    store(f, PAGE_B - 3, 8, 0x8877665544332211);
    assert_int_equal(*ram(f, PAGE_A + 0xffd), 0x11);
    assert_int_equal(*ram(f, PAGE_C + 4), 0x88);
    assert_int_equal(load(f, PAGE_B - 3, 8), 0x8877665544332211);
}

TEST_F(a_store_that_faults_on_its_second_page_changes_nothing)
{
    *entry(f, PT, 0x101) &= ~P;
    RAISES(f, store(f, PAGE_B - 3, 8, UINT64_MAX), VEC_PF);
    assert_int_equal(f->raised.addr, PAGE_B);
    assert_int_equal(*ram(f, PAGE_A + 0xffd), 0);
}

TEST_F(a_long_copy_that_faults_late_changes_nothing)
{
    static uint8_t buf[3 * 4096] = {[0] = 0x55};

    *entry(f, PT, 0x103) &= ~W;
    RAISES(f, access_copy_out(f->c, PAGE_A + 0x800, buf, sizeof(buf), f->c->key), VEC_PF);
    assert_int_equal(f->raised.addr, 0x103000);
    assert_int_equal(*ram(f, PAGE_A + 0x800), 0);
}

TEST_F(copies_of_any_length_move_every_byte)
{
    static uint8_t out[3 * 4096], in[sizeof(out)];

    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7 + i / 256);
    access_copy_out(f->c, PAGE_A + 0x7f1, out, sizeof(out), f->c->key);
    access_copy_in(f->c, in, PAGE_A + 0x7f1, sizeof(in), f->c->key);
    assert_memory_equal(in, out, sizeof(out));
    assert_int_equal(*ram(f, PAGE_A + 0x7f1 + 4096), out[4096]);
}

/* ---- addresses that are not canonical, alignment -------------------------------------- */

TEST_F(noncanonical_data_raises_gp)
{
    const struct insn insn = {.seg = SEG_DS};

    f->c->cur = &insn;
    RAISES(f, load(f, BIT(47), 8), VEC_GP);
    RAISES(f, store(f, BIT(47) - 4, 8, 0), VEC_GP);
}

TEST_F(noncanonical_stack_segment_operand_raises_ss)
{
    const struct insn insn = {.seg = SEG_SS};

    f->c->cur = &insn;
    RAISES(f, load(f, BIT(47), 8), VEC_SS);
}

TEST_F(noncanonical_push_raises_ss_and_later_data_gp)
{
    const struct insn insn = {.seg = SEG_DS};
    gva_t at;

    f->c->cur = &insn;
    at = stack_linear(f->c, BIT(50), 8, ACCESS_WRITE);
    RAISES(f, store(f, at, 8, 0), VEC_SS);
    RAISES(f, store(f, at, 8, 0), VEC_GP);
}

TEST_F(misaligned_user_accesses_raise_ac_when_am_and_ac_are_set)
{
    f->c->s.cr0 |= CR0_AM;
    f->c->s.rflags |= RFLAGS_AC;
    interp_mode_changed(f->c);
    assert_int_equal(load(f, PAGE_A + 1, 4), 0); /* not at CPL 0 */
    enter_user(f);
    RAISES(f, load(f, PAGE_A + 1, 4), VEC_AC);
    assert_int_equal(load(f, PAGE_A + 4, 4), 0);
    RAISES(f, store(f, PAGE_A + 2, 4, 0), VEC_AC);
    RAISES(f, load(f, PAGE_A + 4, 8), VEC_AC);
    assert_int_equal(access_load(f->c, PAGE_A + 1, 4, f->c->key_sys), 0);
}

TEST_F(code_is_tagged_while_data_alignment_is_checked)
{
    f->c->s.cr0 |= CR0_AM;
    f->c->s.rflags |= RFLAGS_AC;
    enter_user(f);
    assert_ptr_equal(access_host(f->c, PAGE_A + 5, 1, ACCESS_EXEC, f->c->key), ram(f, PAGE_A + 5));
    assert_true(tagged(f, PAGE_A, ACCESS_EXEC));
    assert_int_equal(f->c->tlb_ram_page[TLB_SLOT(PAGE_A)], PAGE_A >> 12);
}

/* ---- privilege ------------------------------------------------------------------------ */

TEST_F(supervisor_entries_do_not_serve_user_accesses)
{
    *entry(f, PT, 0x100) &= ~U;
    store(f, PAGE_A, 4, 1);
    enter_user(f);
    RAISES(f, load(f, PAGE_A, 4), VEC_PF);
    assert_int_equal(access_load(f->c, PAGE_A, 4, f->c->key_sys), 1);
}

TEST_F(smap_entries_made_under_ac_do_not_outlive_it)
{
    f->c->s.cr4 |= CR4_SMAP;
    f->c->s.rflags |= RFLAGS_AC;
    interp_mode_changed(f->c);
    store(f, PAGE_A, 4, 1);
    RAISES(f, access_load(f->c, PAGE_A, 4, f->c->key_sys), VEC_PF);
    f->c->s.rflags &= ~RFLAGS_AC;
    interp_mode_changed(f->c);
    RAISES(f, load(f, PAGE_A, 4), VEC_PF);
}

TEST_F(clearing_wp_takes_effect_at_once)
{
    f->c->s.cr0 &= ~CR0_WP;
    interp_mode_changed(f->c);
    *entry(f, PT, 0x100) &= ~W;
    store(f, PAGE_A, 4, 1);
    f->c->s.cr0 |= CR0_WP;
    interp_mode_changed(f->c);
    RAISES(f, store(f, PAGE_A, 4, 1), VEC_PF);
}

/* ---- invalidation --------------------------------------------------------------------- */

TEST_F(translations_stay_until_they_are_invalidated)
{
    store(f, PAGE_A, 4, 0xa);
    store(f, PAGE_B, 4, 0xb);
    *entry(f, PT, 0x100) = PAGE_B | ALL;
    assert_int_equal(load(f, PAGE_A, 4), 0xa);
    tlb_flush_page(f->c, PAGE_A + 0x10);
    assert_int_equal(load(f, PAGE_A, 4), 0xb);
}

TEST_F(a_flush_forgets_everything)
{
    store(f, PAGE_A, 4, 0xa);
    *entry(f, PT, 0x100) = 0;
    tlb_flush(f->c, false);
    RAISES(f, load(f, PAGE_A, 4), VEC_PF);
}

TEST_F(invlpg_drops_every_part_of_a_2_mib_page)
{
    *entry(f, PDPT, 1) = PD_B | ALL;
    *entry(f, PD_B, 0) = 0x000000 | ALL | PS;
    *entry(f, PD_B, 1) = 0x200000 | ALL | PS;
    *ram(f, 0x150000) = 0x15;
    *ram(f, 0x350000) = 0x35;
    assert_int_equal(load(f, LARGE + 0x150000, 1), 0x15);
    assert_int_equal(load(f, LARGE + 0x151000, 1), 0);
    assert_int_equal(load(f, LARGE + 0x350000, 1), 0x35);
    *entry(f, PD_B, 0) = 0x200000 | ALL | PS;
    tlb_flush_page(f->c, LARGE + 0x1000);
    assert_int_equal(load(f, LARGE + 0x150000, 1), 0x35);
}

TEST_F(other_parts_of_a_large_page_need_no_walk)
{
    *entry(f, PDPT, 1) = PD_B | ALL;
    *entry(f, PD_B, 0) = ALL | PS;
    *ram(f, 0x150000) = 0x15;
    load(f, LARGE + 0x1000, 1);
    assert_int_equal(*entry(f, PD_B, 0) & D, 0);
    *entry(f, PD_B, 0) &= ~P; /* stays until it is invalidated */
    assert_int_equal(load(f, LARGE + 0x150000, 1), 0x15);
    *entry(f, PD_B, 0) |= P;
    store(f, LARGE + 0x150000, 1, 1);
    assert_int_equal(*entry(f, PD_B, 0) & D, D);
    *entry(f, PD_B, 0) &= ~(P | D);
    store(f, LARGE + 0x160000, 1, 0x16);
    assert_int_equal(*ram(f, 0x160000), 0x16);
    assert_int_equal(*entry(f, PD_B, 0) & D, 0);
    enter_user(f); /* who has another privilege walks */
    RAISES(f, load(f, LARGE + 0x170000, 1), VEC_PF);
}

TEST_F(large_pages_are_split_where_a20_is_masked)
{
    *entry(f, PDPT, 1) = PD_B | ALL;
    *entry(f, PD_B, 0) = ALL | PS;
    *ram(f, 0x50000) = 0x50;
    *ram(f, 0x150000) = 0x15;
    atomic_store(&f->tv->vm.a20_mask, ~BIT(20));
    assert_int_equal(load(f, LARGE + 0x51000, 1), 0);
    assert_int_equal(load(f, LARGE + 0x150000, 1), 0x50);
}

TEST_F(the_next_page_is_one_that_cannot_fault)
{
    *entry(f, PDPT, 1) = PD_B | ALL;
    *entry(f, PD_B, 0) = P | U | PS; /* not writable */
    assert_null(tlb_next_page(f->c, LARGE + 0x2000, ACCESS_READ));
    load(f, LARGE + 0x1000, 1);
    assert_ptr_equal(tlb_next_page(f->c, LARGE + 0x2000, ACCESS_READ), ram(f, 0x2000));
    assert_null(tlb_next_page(f->c, LARGE + 0x2000, ACCESS_WRITE));
    *entry(f, PD_B, 0) |= W;
    tlb_flush(f->c, true);
    store(f, LARGE + 0x1000, 1, 1);
    assert_ptr_equal(tlb_next_page(f->c, LARGE + 0x3000, ACCESS_WRITE), ram(f, 0x3000));
    atomic_store(&f->tv->vm.ram.page_flags[4], RAM_HAS_CODE);
    assert_null(tlb_next_page(f->c, LARGE + 0x4000, ACCESS_WRITE));
}

TEST_F(invlpg_drops_every_part_of_a_1_gib_page)
{
    *entry(f, PDPT, 1) = ALL | PS;
    *ram(f, 0x350000) = 0x35;
    assert_int_equal(load(f, LARGE + 0x350000, 1), 0x35);
    *entry(f, PDPT, 1) = 0;
    tlb_flush_page(f->c, LARGE + 0x3ffff000);
    RAISES(f, load(f, LARGE + 0x350000, 1), VEC_PF);
}

TEST_F(invlpg_drops_4_mib_pages_in_legacy_paging)
{
    uint32_t *pd = (uint32_t *)entry(f, PD_B, 0);

    f->c->s.efer = 0;
    f->c->s.cr4 = CR4_PSE;
    f->c->s.cr3 = PD_B;
    f->c->s.seg[SEG_CS].attr = 0xc09b;
    f->c->s.rip = 0;
    interp_mode_changed(f->c);
    memset(pd, 0, PAGE_SIZE);
    pd[2] = ALL | PS;
    *ram(f, 0x350000) = 0x35;
    assert_int_equal(load(f, 0x800000 + 0x350000, 1), 0x35);
    pd[2] = 0;
    tlb_flush_page(f->c, 0x800000);
    RAISES(f, load(f, 0x800000 + 0x350000, 1), VEC_PF);
}

TEST_F(invlpg_works_in_every_address_space)
{
    f->c->s.cr4 |= CR4_PCIDE;
    interp_mode_changed(f->c);
    load(f, PAGE_A, 4);
    tlb_switch(f->c, PML4_B | 5, true);
    tlb_flush_page(f->c, PAGE_A);
    *entry(f, PT, 0x100) = 0;
    tlb_switch(f->c, PML4, true);
    RAISES(f, load(f, PAGE_A, 4), VEC_PF);
}

TEST_F(cr3_loads_switch_and_forget_without_pcid)
{
    *entry(f, PT_B, 0x100) = PAGE_B | ALL;
    store(f, PAGE_A, 4, 0xa);
    store(f, PAGE_B, 4, 0xb);
    tlb_switch(f->c, PML4_B, false);
    assert_int_equal(f->c->s.cr3, PML4_B);
    assert_int_equal(load(f, PAGE_A, 4), 0xb);
    *entry(f, PT, 0x100) = PAGE_C | ALL;
    tlb_switch(f->c, PML4, false);
    assert_int_equal(load(f, PAGE_A, 4), 0);
}

TEST_F(pcids_keep_their_translations_when_asked)
{
    f->c->s.cr4 |= CR4_PCIDE;
    interp_mode_changed(f->c);
    store(f, PAGE_A, 4, 0xa);
    tlb_switch(f->c, PML4_B | 5, true);
    *entry(f, PT, 0x100) = PAGE_B | ALL; /* a change that is not announced */
    tlb_switch(f->c, PML4 | BIT(63), true);
    assert_int_equal(f->c->s.cr3, PML4);
    assert_int_equal(load(f, PAGE_A, 4), 0xa);
    tlb_switch(f->c, PML4, false);
    assert_int_equal(load(f, PAGE_A, 4), 0);
}

TEST_F(invpcid_of_one_context_spares_the_others)
{
    f->c->s.cr4 |= CR4_PCIDE;
    interp_mode_changed(f->c);
    store(f, PAGE_A, 4, 0xa);
    tlb_switch(f->c, PML4_B | 5, true);
    tlb_flush_pcid(f->c, 7);
    *entry(f, PT, 0x100) = PAGE_B | ALL;
    tlb_switch(f->c, PML4, true);
    assert_int_equal(load(f, PAGE_A, 4), 0xa);
    tlb_flush_pcid(f->c, 0);
    assert_int_equal(load(f, PAGE_A, 4), 0);
}

TEST_F(asids_that_come_round_find_a_clean_tlb)
{
    store(f, PAGE_A, 4, 0xa);
    *entry(f, PT, 0x100) = PAGE_B | ALL;
    for (unsigned i = 0; i < 3 * KEY_ASIDS; i++) {
        tlb_switch(f->c, PML4, false);
        assert_int_equal(load(f, PAGE_A, 4), 0);
    }
}

/* ---- devices, ROM --------------------------------------------------------------------- */

struct fake {
    uint64_t last, value;
    unsigned reads, writes, size;
};

static uint64_t fake_read(void *dev, uint64_t off, unsigned size)
{
    struct fake *d = dev;

    (void)off;
    d->reads++;
    d->size = size;
    return d->value;
}

static void fake_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct fake *d = dev;

    (void)off;
    d->writes++;
    d->size = size;
    d->last = val;
}

static void map_region(struct fixture *f, struct region *region, gpa_t at)
{
    TESTVM_LOCKED(f->tv, bus_map(&f->tv->vm.memory, region, at));
}

static void unmap_region(struct fixture *f, struct region *region)
{
    TESTVM_LOCKED(f->tv, bus_unmap(region));
}

TEST(device_accesses_are_never_tagged)
{
    static const struct io_ops ops = {
        .read = fake_read, .write = fake_write, .sizes = IO_1 | IO_2 | IO_4 | IO_8};
    struct fixture *f = setup();
    struct fake d = {.value = 0x12345678};
    struct region mmio = {.name = "fake",
                          .kind = REGION_IO,
                          .size = PAGE_SIZE,
                          .priority = 1,
                          .ops = &ops,
                          .dev = &d};

    map_region(f, &mmio, PAGE_A);
    assert_int_equal(load(f, PAGE_A + 8, 4), 0x12345678);
    assert_int_equal(load(f, PAGE_A + 8, 4), 0x12345678);
    assert_int_equal(d.reads, 2);
    assert_int_equal(d.size, 4);
    store(f, PAGE_A + 2, 2, 0xbeef);
    assert_int_equal(d.last, 0xbeef);
    assert_int_equal(d.size, 2);
    assert_null(access_host(f->c, PAGE_A, 4, ACCESS_WRITE, f->c->key));
    unmap_region(f, &mmio);
    teardown(f);
}

TEST_F(rom_is_read_directly_and_written_never)
{
    struct region rom = {.name = "rom", .kind = REGION_ROM, .size = PAGE_SIZE, .priority = 1};

    rom.ram_offset = PAGE_A;
    *ram(f, PAGE_A) = 0x77;
    map_region(f, &rom, PAGE_A);
    assert_int_equal(load(f, PAGE_A, 1), 0x77);
    assert_true(tagged(f, PAGE_A, ACCESS_READ));
    store(f, PAGE_A, 1, 0x88);
    assert_int_equal(load(f, PAGE_A, 1), 0x77);
    unmap_region(f, &rom);
}

TEST_F(a_map_change_during_an_access_drops_the_tags)
{
    load(f, PAGE_A, 1);
    interp_slot_changed(&f->tv->vm, PAGE_A, PAGE_SIZE);
    access_after_io(f->c);
    assert_false(tagged(f, PAGE_A, ACCESS_READ));
    assert_int_equal(atomic_load(&f->c->vcpu->pending) & PEND_TLB, 0);
    assert_int_equal(atomic_load(&f->c->tlb_drops), 1);
}

TEST_F(a_map_change_moves_the_page_tables_too)
{
    struct region other = {.name = "other", .kind = REGION_RAM, .size = PAGE_SIZE, .priority = 1};

    load(f, PAGE_A, 4);
    *ram(f, PAGE_C) = 0xcc;
    *entry(f, PT_B, 0x100) = PAGE_C | ALL;
    other.ram_offset = PT_B;
    map_region(f, &other, PT);
    interp_slot_changed(&f->tv->vm, PT, PAGE_SIZE);
    access_after_io(f->c);
    assert_int_equal(load(f, PAGE_A, 1), 0xcc);
    unmap_region(f, &other);
}

/* ---- code pages ----------------------------------------------------------------------- */

TEST_F(marking_a_page_as_code_drops_its_write_tags)
{
    *entry(f, PT, 0x105) = PAGE_A | ALL; /* an alias */
    store(f, PAGE_A, 4, 1);
    store(f, 0x105000, 4, 1);
    store(f, PAGE_B, 4, 1);
    interp_mark_code(f->c, PAGE_A >> 12);
    assert_false(tagged(f, PAGE_A, ACCESS_WRITE));
    assert_false(tagged(f, 0x105000, ACCESS_WRITE));
    assert_true(tagged(f, PAGE_A, ACCESS_READ));
    assert_true(tagged(f, PAGE_B, ACCESS_WRITE));
}

TEST_F(stores_to_a_code_page_are_done_and_told)
{
    interp_mark_code(f->c, PAGE_A >> 12);
    store(f, PAGE_A + 0x10, 4, 0x1234);
    assert_int_equal(f->code_writes, 1);
    assert_int_equal(f->code_page, PAGE_A >> 12);
    assert_int_equal(f->code_first, 0x10);
    assert_int_equal(f->code_last, 0x13);
    assert_int_equal(load(f, PAGE_A + 0x10, 4), 0x1234);
    store(f, PAGE_A + 0x10, 4, 0x1234);
    assert_int_equal(f->code_writes, 2);
    assert_null(access_host(f->c, PAGE_A, 4, ACCESS_WRITE, f->c->key));
}

TEST_F(a_crossing_store_tells_of_the_part_in_the_code_page)
{
    interp_mark_code(f->c, PAGE_B >> 12);
    store(f, PAGE_B - 2, 8, 0);
    assert_int_equal(f->code_writes, 1);
    assert_int_equal(f->code_page, PAGE_B >> 12);
    assert_int_equal(f->code_first, 0);
    assert_int_equal(f->code_last, 5);
}

TEST_F(unmarked_pages_get_write_tags_again_and_a_new_generation)
{
    uint32_t before = atomic_load(&f->tv->vm.ram.code_gen[PAGE_A >> 12]);

    interp_mark_code(f->c, PAGE_A >> 12);
    interp_unmark_code(f->c, PAGE_A >> 12);
    store(f, PAGE_A, 4, 1);
    assert_true(tagged(f, PAGE_A, ACCESS_WRITE));
    assert_int_not_equal(atomic_load(&f->tv->vm.ram.code_gen[PAGE_A >> 12]), before);
}

TEST_F(marking_asks_other_vcpus_but_does_not_wait_for_sleeping_ones)
{
    struct interp *other = add_vcpu(f);

    interp_mark_code(f->c, PAGE_A >> 12);
    assert_int_equal(atomic_load(&other->vcpu->pending) & PEND_TLB, PEND_TLB);
    assert_int_equal(atomic_load(&f->tv->vm.ram.page_flags[PAGE_A >> 12]), RAM_HAS_CODE);
}

TEST_F(outside_writes_move_the_generation_of_code_pages_alone)
{
    _Atomic uint32_t *gen = f->tv->vm.ram.code_gen;

    interp_mark_code(f->c, PAGE_B >> 12);
    interp_ram_written(&f->tv->vm, PAGE_A + 0xfff, 2);
    assert_int_equal(atomic_load(&gen[PAGE_A >> 12]), 0);
    assert_int_equal(atomic_load(&gen[PAGE_B >> 12]), 1);
    interp_ram_written(&f->tv->vm, PAGE_A, 0x1000);
    assert_int_equal(atomic_load(&gen[PAGE_B >> 12]), 1);
    interp_ram_written(&f->tv->vm, UINT64_MAX - 5, UINT64_MAX);
}

TEST(accessed_bits_in_a_code_page_move_its_generation)
{
    static const struct engine with_written = {.name = "test", .ram_written = interp_ram_written};
    struct fixture *f = setup();

    interp_mark_code(f->c, PT >> 12);
    f->tv->vm.engine = &with_written;
    load(f, PAGE_C, 4);
    f->tv->vm.engine = NULL;
    assert_int_equal(atomic_load(&f->tv->vm.ram.code_gen[PT >> 12]), 1);
    teardown(f);
}

/* ---- watchpoints ---------------------------------------------------------------------- */

static void watch(struct fixture *f, unsigned rw, unsigned len, gva_t addr)
{
    f->c->s.dr[1] = addr;
    f->c->s.dr7 = 0x400 | 1 << 2 | rw << 20 | len << 22;
    interp_mode_changed(f->c);
}

TEST_F(a_watched_store_is_reported_although_the_page_was_tagged)
{
    store(f, PAGE_A, 4, 1);
    watch(f, 1, 3, PAGE_A + 0x20);
    store(f, PAGE_A + 0x1c, 4, 1);
    assert_int_equal(f->c->s.pending_dbg, 0);
    assert_int_equal(load(f, PAGE_A + 0x20, 4), 0);
    assert_int_equal(f->c->s.pending_dbg, 0);
    store(f, PAGE_A + 0x23, 1, 1);
    assert_int_equal(f->c->s.pending_dbg, BIT(1));
    assert_true(f->c->mode & MODE_BREAKPOINTS);
}

TEST_F(a_watched_load_is_reported)
{
    uint8_t buf[64];

    watch(f, 3, 2, PAGE_A + 0x28);
    access_copy_in(f->c, buf, PAGE_A, 0x28, f->c->key);
    assert_int_equal(f->c->s.pending_dbg, 0);
    access_copy_in(f->c, buf, PAGE_A, 0x29, f->c->key);
    assert_int_equal(f->c->s.pending_dbg, BIT(1));
    assert_null(access_host(f->c, PAGE_A, 4, ACCESS_READ, f->c->key));
}

TEST_F(a_store_across_pages_hits_a_watchpoint_in_the_second)
{
    watch(f, 1, 0, PAGE_B + 1);
    store(f, PAGE_B - 1, 4, 0);
    assert_int_equal(f->c->s.pending_dbg, BIT(1));
}

/* ---- mode ----------------------------------------------------------------------------- */

TEST_F(mode_follows_code_and_stack_segments)
{
    struct interp *c = f->c;

    assert_int_equal(c->mode & MODE_CODE, MODE_CODE64);
    assert_int_equal(c->stack_bytes, 8);
    c->s.seg[SEG_CS] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0xc09b};
    c->s.seg[SEG_DS] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0xc093};
    c->s.seg[SEG_ES] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0xc091};
    interp_mode_changed(c);
    assert_int_equal(c->mode & (MODE_CODE | MODE_LMA), MODE_CODE32 | MODE_LMA);
    assert_int_equal(c->rip_mask, UINT32_MAX);
    assert_int_equal(c->sp_mask, UINT32_MAX);
    assert_int_equal(c->flat, 1 << SEG_DS); /* ES is read-only, SS and the others have 64 KiB */
    assert_int_equal(c->mode & MODE_CS_SEGMENTED, 0);
}

TEST_F(real_mode_is_16_bit_and_segmented)
{
    cpu_state_reset(&f->c->s, true, 0);
    interp_mode_changed(f->c);
    assert_int_equal(f->c->mode & (MODE_CODE | MODE_REAL | MODE_LMA), MODE_CODE16 | MODE_REAL);
    assert_int_equal(f->c->mode & MODE_CS_SEGMENTED, MODE_CS_SEGMENTED);
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->c->rip_mask, 0xffff);
    assert_int_equal(f->c->sp_mask, 0xffff);
    assert_int_equal(f->c->flat, 0);
}

TEST_F(unreal_mode_is_flat_where_limits_say_so)
{
    cpu_state_reset(&f->c->s, true, 0);
    f->c->s.seg[SEG_DS].limit = UINT32_MAX;
    interp_mode_changed(f->c);
    assert_int_equal(f->c->flat, 1 << SEG_DS);
}

TEST_F(avx_bits_need_osxsave_and_xcr0)
{
    f->c->s.xcr0 = 7;
    interp_mode_changed(f->c);
    assert_int_equal(f->c->mode & MODE_AVX, 0);
    f->c->s.cr4 |= CR4_OSXSAVE;
    interp_mode_changed(f->c);
    assert_int_equal(f->c->mode & (MODE_AVX | MODE_AVX512), MODE_AVX);
    f->c->s.xcr0 = 0xe7;
    interp_mode_changed(f->c);
    assert_int_equal(f->c->mode & (MODE_AVX | MODE_AVX512), MODE_AVX | MODE_AVX512);
}
