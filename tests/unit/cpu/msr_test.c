/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's MSRs and kvm-clock (cpu/msr.c, cpu/pv.c), through vcpu_rdmsr and vcpu_wrmsr. */
#include <string.h>

#include "base/bytes.h"
#include "cpu/model.h"
#include "cpu/msr.h"
#include "cpu/pv.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

struct fixture {
    struct testvm *tv;
    struct cpu_model model;
    struct cpu_state cs;
    struct cpu_msrs msrs;
    struct vcpu *vcpu;
    unsigned changes;
};

static void count_change(void *opaque)
{
    struct fixture *f = opaque;

    f->changes++;
}

static struct fixture *setup_model(const char *name, enum cpu_vendor vendor)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    assert_int_equal(cpu_model_init(&f->model, name, 1, f->tv->vm.tsc_hz, f->tv->vm.host, NULL), 0);
    f->model.vendor = vendor;
    f->model.phys_bits = 40;
    f->vcpu = vm_add_vcpu(&f->tv->vm, &f->model, NULL);
    cpu_state_reset(&f->cs, true, 0);
    f->msrs =
        (struct cpu_msrs){.vcpu = f->vcpu, .cs = &f->cs, .changed = count_change, .opaque = f};
    cpu_msrs_attach(&f->msrs);
    return f;
}

static struct fixture *setup(void)
{
    return setup_model("max", CPU_INTEL);
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static uint64_t get(struct fixture *f, uint32_t index)
{
    uint64_t value = 0xdead;

    assert_true(vcpu_rdmsr(f->vcpu, index, &value));
    return value;
}

static void assert_takes(struct fixture *f, uint32_t index, uint64_t value)
{
    assert_true(vcpu_wrmsr(f->vcpu, index, value));
    assert_int_equal(get(f, index), value);
}

static void assert_refuses(struct fixture *f, uint32_t index, uint64_t value)
{
    assert_false(vcpu_wrmsr(f->vcpu, index, value));
}

static void assert_absent(struct fixture *f, uint32_t index)
{
    uint64_t value;

    assert_false(vcpu_rdmsr(f->vcpu, index, &value));
    assert_false(vcpu_wrmsr(f->vcpu, index, 0));
}

TEST_F(unknown_msrs_are_refused_and_counted)
{
    assert_absent(f, 0x12345);
    assert_int_equal(f->tv->vm.trace.unknown, 2);
}

TEST(a_486_has_no_msrs)
{
    struct fixture *f = setup_model("486", CPU_INTEL);

    assert_absent(f, 0x10);
    teardown(f);
}

TEST(a_pentium3_has_no_long_mode_msrs)
{
    struct fixture *f = setup_model("pentium3", CPU_INTEL);

    assert_absent(f, 0xc0000080);
    assert_absent(f, 0xc0000101);
    assert_absent(f, 0x4b564d00);
    assert_takes(f, 0x174, 0x60);
    teardown(f);
}

TEST(addresses_must_be_canonical)
{
    static const uint32_t addresses[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
                                         0xc0000102, 0x175,      0x176};
    struct fixture *f = setup();

    for (unsigned i = 0; i < ARRAY_LEN(addresses); i++) {
        assert_takes(f, addresses[i], 0xffff800000000000);
        assert_refuses(f, addresses[i], 0x0000800000000000);
    }
    teardown(f);
}

TEST_F(efer_refuses_reserved_bits_and_lme_under_paging)
{
    assert_takes(f, 0xc0000080, EFER_SCE | EFER_LME | EFER_NXE);
    assert_int_equal(f->changes, 1);
    assert_refuses(f, 0xc0000080, EFER_SVME);
    f->cs.cr0 |= CR0_PG;
    f->cs.efer |= EFER_LMA;
    assert_refuses(f, 0xc0000080, EFER_SCE);
    assert_true(vcpu_wrmsr(f->vcpu, 0xc0000080, EFER_LME)); /* LMA is not the guest's to clear */
    assert_int_equal(get(f, 0xc0000080), EFER_LME | EFER_LMA);
}

TEST_F(segment_bases_go_to_the_hidden_parts)
{
    assert_takes(f, 0xc0000101, 0x1234);
    assert_int_equal(f->cs.seg[SEG_GS].base, 0x1234);
    assert_int_equal(f->changes, 1);
    assert_takes(f, 0xc0000102, 0x5678);
    assert_int_equal(f->cs.kernel_gs_base, 0x5678);
}

TEST_F(writing_the_tsc_moves_tsc_adjust)
{
    testvm_advance(f->tv, 1000);
    assert_int_equal(get(f, 0x10), 1000);
    assert_takes(f, 0x10, 50000);
    assert_int_equal(get(f, 0x3b), 49000);
    assert_takes(f, 0x3b, 0);
    assert_int_equal(get(f, 0x10), 1000);
}

static void note_tsc(void *intc)
{
    struct fixture *f = intc;

    f->changes = f->changes * 10 + (unsigned)(f->cs.tsc_offset / 1000);
}

TEST_F(writing_the_tsc_is_told_before_and_after)
{
    static const struct vcpu_intc ops = {.tsc_jumps = note_tsc};

    f->vcpu->intc_ops = &ops;
    f->vcpu->intc = f;
    f->cs.tsc_offset = 3000;
    assert_true(vcpu_wrmsr(f->vcpu, 0x3b, 2000));
    assert_int_equal(f->changes, 35);
    assert_true(vcpu_wrmsr(f->vcpu, 0x10, 7000));
    assert_int_equal(f->changes, 3557);
}

TEST_F(memory_types_are_checked)
{
    assert_takes(f, 0x277, 0x0007010600070106);
    assert_refuses(f, 0x277, 2);
    assert_refuses(f, 0x277, 8);
    assert_takes(f, 0x2ff, 0xc06);
    assert_refuses(f, 0x2ff, 0xc02);
    assert_refuses(f, 0x2ff, 0x1000);
    assert_takes(f, 0x26f, 0x0605040100060606);
    assert_refuses(f, 0x26f, 7);
    assert_int_equal(f->cs.mtrr_fixed[10], 0x0605040100060606);
    assert_takes(f, 0x259, 0);
}

TEST_F(variable_mtrrs_are_limited_by_maxphyaddr)
{
    assert_int_equal(get(f, 0xfe) & 0xff, CPU_MTRR_VAR);
    assert_takes(f, 0x20e, 0xff00000006);
    assert_takes(f, 0x20f, 0xff00000800);
    assert_int_equal(f->cs.mtrr_mask[7], 0xff00000800);
    assert_refuses(f, 0x200, BIT(40));
    assert_refuses(f, 0x200, 0x100);
    assert_refuses(f, 0x201, 0x400);
    assert_absent(f, 0x210);
}

TEST_F(machine_check_banks_report_nothing)
{
    unsigned banks = get(f, 0x179) & 0xff;

    for (unsigned i = 0; i < banks; i++) {
        assert_true(vcpu_wrmsr(f->vcpu, 0x400 + 4 * i, UINT64_MAX));
        assert_int_equal(get(f, 0x401 + 4 * i), 0);
        assert_refuses(f, 0x401 + 4 * i, 1);
    }
    assert_absent(f, 0x400 + 4 * banks);
}

TEST_F(feature_control_stays_locked)
{
    assert_takes(f, 0x3a, 1);
    assert_refuses(f, 0x3a, 1);
}

TEST_F(misc_enable_keeps_fast_strings_for_linux)
{
    assert_int_equal(get(f, 0x1a0) & 1, 1);
    assert_true(vcpu_wrmsr(f->vcpu, 0x1a0, BIT(22)));
    assert_int_equal(cpu_model_cpuid(&f->model, &f->cs, 0, true, 0, 0).eax, 2);
    assert_int_equal(get(f, 0x1a0) & (BIT(11) | BIT(12)), BIT(11) | BIT(12));
}

TEST(each_vendor_has_its_own)
{
    struct fixture *intel = setup(), *amd = setup_model("max", CPU_AMD);

    assert_int_equal(get(amd, 0xc0010015), BIT(24));
    assert_int_equal(get(amd, 0xc0011029), BIT(1));
    assert_absent(amd, 0x17);
    assert_int_equal(get(intel, 0x8b) >> 32, 1);
    assert_absent(intel, 0xc0010015);
    teardown(intel);
    teardown(amd);
}

/* ---- kvm-clock ------------------------------------------------------------------------ */

TEST(the_scale_turns_ticks_into_nanoseconds)
{
    static const uint64_t hz[] = {1000000000, 2700000000, 999999999, 33000000, 5000000001};

    for (unsigned i = 0; i < ARRAY_LEN(hz); i++) {
        uint32_t mul;
        int8_t shift;
        uint64_t ticks = hz[i] * 100, shifted;

        pv_clock_scale(hz[i], &mul, &shift);
        shifted = shift < 0 ? ticks >> -shift : ticks << shift;
        assert_in_range((uint64_t)(((unsigned __int128)shifted * mul) >> 32), 99999999000,
                        100000000000);
    }
}

TEST_F(the_time_page_gives_vm_time)
{
    uint8_t page[32];
    uint64_t delta;

    testvm_advance(f->tv, 5000);
    assert_true(vcpu_wrmsr(f->vcpu, 0x10, 0x100000000));
    assert_takes(f, 0x4b564d01, 0x1000 | 1);
    testvm_advance(f->tv, 7000);
    assert_true(mem_read(&f->tv->vm, 0x1000, page, sizeof(page)));
    assert_int_equal(get_le32(page) & 1, 0);
    assert_int_not_equal(get_le32(page), 0);
    assert_int_equal(page[29], 1);
    delta = get(f, 0x10) - get_le64(page + 8);
    delta = (int8_t)page[28] < 0 ? delta >> -(int8_t)page[28] : delta << page[28];
    assert_int_equal(get_le64(page + 16) + (delta * get_le32(page + 24) >> 32), 12000);
}

TEST_F(a_tsc_write_updates_the_time_page)
{
    uint8_t before[32], after[32];

    assert_true(vcpu_wrmsr(f->vcpu, 0x12, 0x1001));
    assert_true(mem_read(&f->tv->vm, 0x1000, before, sizeof(before)));
    assert_true(vcpu_wrmsr(f->vcpu, 0x10, 777));
    assert_true(mem_read(&f->tv->vm, 0x1000, after, sizeof(after)));
    assert_int_equal(get_le64(after + 8), 777);
    assert_int_not_equal(get_le32(after), get_le32(before));
    assert_int_equal(get_le32(after) & 1, 0);
}

TEST_F(a_disabled_time_page_is_left_alone)
{
    uint8_t page[32], zeros[32] = {0};

    assert_takes(f, 0x4b564d01, 0x1000);
    assert_true(mem_read(&f->tv->vm, 0x1000, page, sizeof(page)));
    assert_memory_equal(page, zeros, sizeof(page));
}

TEST_F(the_wall_clock_is_that_of_vm_time_zero)
{
    uint8_t page[12];

    testvm_advance(f->tv, 3 * NS_PER_SEC);
    assert_true(vcpu_wrmsr(f->vcpu, 0x4b564d00, 0x2000));
    assert_true(mem_read(&f->tv->vm, 0x2000, page, sizeof(page)));
    assert_int_equal(get_le32(page) & 1, 0);
    assert_int_equal(get_le32(page + 4), TESTVM_WALL / NS_PER_SEC);
    assert_int_equal(get_le32(page + 8), 0);
}

TEST_F(clocks_outside_ram_do_nothing)
{
    assert_takes(f, 0x4b564d01, 0xfffffffffffffffd);
    assert_takes(f, 0x4b564d00, 0xfee00000);
}

TEST_F(features_not_offered_are_refused)
{
    for (uint32_t index = 0x4b564d02; index < 0x4b564d08; index++)
        assert_absent(f, index);
    assert_int_equal(f->tv->vm.trace.unknown, 0);
}
