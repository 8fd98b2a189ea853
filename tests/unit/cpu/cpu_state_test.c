/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_state.h"
#include "tests/lib/unit.h"

static struct cpu_state reset_state(void)
{
    struct cpu_state cs;

    cpu_state_reset(&cs, true, 0x6fb);
    return cs;
}

/* 64-bit kernel mode as an operating system has it. */
static struct cpu_state long_mode_state(void)
{
    struct cpu_state cs = reset_state();

    cs.cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_ET;
    cs.cr4 = CR4_PAE | CR4_OSFXSR;
    cs.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    cs.rip = 0xffffffff81000000;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cs.seg[i] = (struct cpu_seg){.limit = UINT32_MAX, .selector = 0x18, .attr = 0xc093};
    cs.seg[SEG_CS].attr = 0xa09b;
    return cs;
}

static struct cpu_state protected_state(void)
{
    struct cpu_state cs = long_mode_state();

    cs.efer = 0;
    cs.cr4 = 0;
    cs.cr0 = CR0_PE | CR0_ET;
    cs.rip = 0x100000;
    cs.seg[SEG_CS].attr = 0xc09b;
    return cs;
}

static void assert_refused(const struct cpu_state *cs)
{
    struct err err = {0};

    assert_true(cpu_state_check(cs, &err) < 0);
    assert_true(strlen(err.text) > 0);
}

static void assert_accepted(const struct cpu_state *cs)
{
    struct err err = {0};

    assert_int_equal(cpu_state_check(cs, &err), 0);
}

TEST(every_byte_is_listed)
{
    uint32_t where = 0;

    assert_true(state_audit(&cpu_state_table, &where));
}

TEST(save_and_load_give_the_same_bytes)
{
    struct cpu_state a = long_mode_state(), b = reset_state();
    struct state_buf buf = {0};
    struct err err = {0};

    a.fpu.zmm[31][63] = 7;
    a.gpr[15] = 0x1122334455667788;
    a.mtrr_mask[7] = 0x800;
    state_save(&cpu_state_table, &a, &buf);
    assert_int_equal(state_load(&cpu_state_table, &b, &buf, &err), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    state_buf_fini(&buf);
}

struct want {
    const char *path;
    unsigned seen;
};

static void count_path(void *opaque, const char *path, const struct state_field *field,
                       const void *value)
{
    (void)field, (void)value;
    for (struct want *w = opaque; w->path; w++)
        w->seen += !strcmp(w->path, path);
}

TEST(registers_are_shown_by_name)
{
    struct want want[] = {{"rax", 0},       {"rsp", 0},     {"r15", 0},       {"es.selector", 0},
                          {"cs.base", 0},   {"gs.attr", 0}, {"tr.limit", 0},  {"cr0", 0},
                          {"dr3", 0},       {"fpu.st7", 0}, {"fpu.zmm31", 0}, {"fpu.k7", 0},
                          {"gdtr.base", 0}, {"rflags", 0},  {NULL, 0}};
    struct cpu_state cs = reset_state();

    state_visit(&cpu_state_table, &cs, count_path, want);
    for (struct want *w = want; w->path; w++)
        assert_int_equal(w->seen, 1);
}

TEST(reset_starts_the_boot_processor_below_4_gib)
{
    struct cpu_state cs = reset_state();

    assert_int_equal(cs.seg[SEG_CS].base + cs.rip, 0xfffffff0);
    assert_int_equal(cs.seg[SEG_CS].selector, 0xf000);
    assert_int_equal(cs.gpr[REG_RDX], 0x6fb);
    assert_int_equal(cs.cr0, 0x60000010);
    assert_int_equal(cs.rflags, 2);
    assert_int_equal(cs.dr6, 0xffff0ff0);
    assert_int_equal(cs.dr7, 0x400);
    assert_int_equal(cs.idtr.limit, 0xffff);
    assert_int_equal(cs.activity, CPU_RUNNING);
    assert_accepted(&cs);
}

TEST(reset_leaves_application_processors_waiting)
{
    struct cpu_state cs;

    cpu_state_reset(&cs, false, 0x6fb);
    assert_int_equal(cs.activity, CPU_WAIT_FOR_SIPI);
    assert_accepted(&cs);
}

TEST(init_keeps_vectors_mtrrs_tsc_and_cache_bits)
{
    struct cpu_state cs = long_mode_state();

    cs.fpu.zmm[3][5] = 9;
    cs.fpu.fcw = 0x37f;
    cs.mtrr_def_type = 0xc06;
    cs.tsc_offset = 12345;
    cs.xcr0 = 7;
    cs.icount = 99;
    cs.cr0 |= CR0_CD;
    cpu_state_init(&cs, false, 0x6fb);
    assert_int_equal(cs.fpu.zmm[3][5], 9);
    assert_int_equal(cs.fpu.fcw, 0x37f);
    assert_int_equal(cs.mtrr_def_type, 0xc06);
    assert_int_equal(cs.tsc_offset, 12345);
    assert_int_equal(cs.xcr0, 7);
    assert_int_equal(cs.icount, 99);
    assert_int_equal(cs.cr0, CR0_ET | CR0_CD);
    assert_int_equal(cs.efer, 0);
    assert_int_equal(cs.activity, CPU_WAIT_FOR_SIPI);
    assert_accepted(&cs);
}

TEST(ordinary_states_are_accepted)
{
    struct cpu_state a = long_mode_state(), b = protected_state();

    assert_accepted(&a);
    assert_accepted(&b);
}

TEST(virtual_8086_state_is_accepted)
{
    struct cpu_state cs = protected_state();

    cs.rflags |= RFLAGS_VM;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cs.seg[i] = (struct cpu_seg){.limit = 0xffff, .attr = 0xf3};
    assert_accepted(&cs);
    cs.seg[SEG_SS].attr = 0x93;
    assert_refused(&cs);
}

#define REFUSES(name, start, change)   \
    TEST(name)                         \
    {                                  \
        struct cpu_state cs = start(); \
                                       \
        change;                        \
        assert_refused(&cs);           \
    }

REFUSES(paging_without_protection_is_refused, reset_state, cs.cr0 |= CR0_PG)
REFUSES(nw_without_cd_is_refused, reset_state, cs.cr0 = CR0_NW)
REFUSES(reserved_cr0_bit_is_refused, reset_state, cs.cr0 |= BIT(6))
REFUSES(reserved_cr4_bit_is_refused, reset_state, cs.cr4 |= CR4_LA57)
REFUSES(reserved_efer_bit_is_refused, reset_state, cs.efer |= EFER_SVME)
REFUSES(lma_without_lme_is_refused, long_mode_state, cs.efer &= ~EFER_LME)
REFUSES(long_mode_without_pae_is_refused, long_mode_state, cs.cr4 &= ~CR4_PAE)
REFUSES(pcid_outside_long_mode_is_refused, protected_state, cs.cr4 |= CR4_PCIDE)
REFUSES(rflags_without_bit_1_is_refused, reset_state, cs.rflags = 0)
REFUSES(rflags_bit_3_is_refused, reset_state, cs.rflags |= BIT(3))
REFUSES(vm_in_real_mode_is_refused, reset_state, cs.rflags |= RFLAGS_VM)
REFUSES(vm_in_long_mode_is_refused, long_mode_state, cs.rflags |= RFLAGS_VM)
REFUSES(mxcsr_high_bit_is_refused, reset_state, cs.fpu.mxcsr |= 0x10000)
REFUSES(xcr0_without_x87_is_refused, reset_state, cs.xcr0 = XCR0_SSE)
REFUSES(xcr0_avx_without_sse_is_refused, reset_state, cs.xcr0 = XCR0_X87 | XCR0_AVX)
REFUSES(xcr0_with_half_of_avx512_is_refused, reset_state, cs.xcr0 = 7 | XCR0_OPMASK)
REFUSES(noncanonical_lstar_is_refused, long_mode_state, cs.lstar = BIT(50))
REFUSES(noncanonical_gs_base_is_refused, long_mode_state, cs.seg[SEG_GS].base = BIT(47))
REFUSES(wide_ds_base_is_refused, long_mode_state, cs.seg[SEG_DS].base = BIT(32))
REFUSES(noncanonical_idt_is_refused, long_mode_state, cs.idtr.base = BIT(60))
REFUSES(cpl_that_cs_and_ss_disagree_on_is_refused, long_mode_state, cs.seg[SEG_SS].attr |= 0x60)
REFUSES(cs_with_l_and_d_is_refused, long_mode_state, cs.seg[SEG_CS].attr |= SEG_ATTR_DB)
REFUSES(read_only_stack_is_refused, protected_state, cs.seg[SEG_SS].attr = 0xc091)
REFUSES(null_stack_in_32_bit_code_is_refused, protected_state, cs.seg[SEG_SS].attr = 0)
REFUSES(byte_limit_above_1_mib_is_refused, protected_state, cs.seg[SEG_DS].attr = 0x4093)
REFUSES(tr_with_a_gate_is_refused, long_mode_state, cs.tr.attr = 0x85)
REFUSES(pat_type_2_is_refused, reset_state, cs.pat = 2)
REFUSES(long_x87_register_is_refused, reset_state, cs.fpu.st[7][15] = 1)
REFUSES(wide_rip_in_32_bit_code_is_refused, protected_state, cs.rip = BIT(32))
REFUSES(unknown_activity_is_refused, reset_state, cs.activity = 4)
REFUSES(bad_pdpte_is_refused, protected_state, cs.cr0 |= CR0_PG; cs.cr4 |= CR4_PAE;
        cs.pdpte[3] = 0x1003)
