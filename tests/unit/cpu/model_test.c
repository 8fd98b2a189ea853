/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/hostcpu.h"
#include "cpu/cpu_state.h"
#include "cpu/model.h"
#include "tests/lib/unit.h"

#define GHZ 1000000000ull

static struct cpu_model model(const char *name, unsigned ncpus)
{
    struct cpu_model m;
    struct err err = {0};

    assert_int_equal(cpu_model_init(&m, name, ncpus, GHZ, hostcpu_probe(), &err), 0);
    return m;
}

/* As seen by a CPU in real mode. */
static struct cpuid_regs leaf(const struct cpu_model *m, uint32_t leaf, uint32_t subleaf)
{
    struct cpu_state cs;

    cpu_state_reset(&cs, true, m->signature);
    return cpu_model_cpuid(m, &cs, 0, true, leaf, subleaf);
}

TEST(unknown_names_are_refused_with_a_list)
{
    struct cpu_model m;
    struct err err = {0};

    assert_int_equal(cpu_model_init(&m, "pentium9", 1, GHZ, hostcpu_probe(), &err), -EINVAL);
    assert_non_null(strstr(err.text, "v4"));
}

TEST(a_486_has_an_fpu_and_one_leaf)
{
    struct cpu_model m = model("486", 1);
    struct cpuid_regs r = leaf(&m, 1, 0);

    assert_int_equal(leaf(&m, 0, 0).eax, 1);
    assert_int_equal(r.edx, 1);
    assert_int_equal(r.ecx, 0);
    assert_int_equal(cpu_model_cr4_mask(&m), 0);
    assert_int_equal(cpu_model_efer_mask(&m), 0);
    assert_int_equal(m.xcr0_mask, XCR0_X87);
}

TEST(a_pentium3_has_sse_and_neither_sse2_nor_long_mode)
{
    struct cpu_model m = model("pentium3", 1);

    assert_true(cpu_has(&m, FEAT_SSE));
    assert_true(cpu_has(&m, FEAT_PAE));
    assert_false(cpu_has(&m, FEAT_SSE2));
    assert_false(cpu_has(&m, FEAT_LM));
    assert_false(cpu_has(&m, FEAT_HYPERVISOR));
    assert_int_equal(m.phys_bits, 36);
    assert_int_equal(m.virt_bits, 32);
    assert_true(leaf(&m, 0x80000000, 0).eax < 0x80000000);
    assert_true(leaf(&m, 0x40000000, 0).ebx != 0x4b4d564b);
}

TEST(each_level_has_what_the_psabi_says)
{
    struct cpu_model v1 = model("v1", 1), v2 = model("v2", 1);

    assert_true(cpu_has(&v1, FEAT_SSE2) && cpu_has(&v1, FEAT_CMOV) && cpu_has(&v1, FEAT_LM));
    assert_false(cpu_has(&v1, FEAT_SSE3));
    assert_true(cpu_has(&v2, FEAT_CX16) && cpu_has(&v2, FEAT_POPCNT) && cpu_has(&v2, FEAT_SSE42));
    assert_false(cpu_has(&v2, FEAT_AVX));
}

TEST(max_offers_the_system_features_on_every_host)
{
    struct cpu_model m = model("max", 1);
    static const enum cpu_feature features[] = {
        FEAT_SMEP,         FEAT_SMAP,    FEAT_UMIP,     FEAT_PCID,       FEAT_INVPCID, FEAT_X2APIC,
        FEAT_TSC_DEADLINE, FEAT_PDPE1GB, FEAT_FSGSBASE, FEAT_HYPERVISOR, FEAT_ARAT,
    };

    for (unsigned i = 0; i < ARRAY_LEN(features); i++)
        assert_true(cpu_has(&m, features[i]));
    assert_false(cpu_has(&m, FEAT_OSXSAVE));
    assert_int_equal(m.virt_bits, 48);
}

TEST(avx_features_never_stand_without_their_base)
{
    struct cpu_model m = model("max", 1);

    assert_true(!cpu_has(&m, FEAT_AVX2) || cpu_has(&m, FEAT_AVX));
    assert_true(!cpu_has(&m, FEAT_AVX512BW) || cpu_has(&m, FEAT_AVX512F));
    assert_true(!cpu_has(&m, FEAT_AVX) || (m.xcr0_mask & XCR0_AVX));
}

TEST(hidden_features_stay_hidden)
{
    struct cpu_model m = model("max", 1);
    struct cpuid_regs one = leaf(&m, 1, 0), seven = leaf(&m, 7, 0), xsave = leaf(&m, 0xd, 1);

    assert_int_equal(one.ecx & (BIT(3) | BIT(5) | BIT(15)), 0); /* MONITOR, VMX, PDCM */
    assert_int_equal(seven.eax, 0);
    assert_int_equal(seven.ebx & (BIT(2) | BIT(4) | BIT(11) | BIT(14)), 0); /* SGX HLE RTM MPX */
    assert_int_equal(seven.ecx & (BIT(3) | BIT(7) | BIT(16)), 0);           /* PKU CET_SS LA57 */
    assert_int_equal(seven.edx & (BIT(20) | BIT(24)), 0);                   /* CET_IBT AMX */
    assert_int_equal(xsave.eax & ~BIT(2), 0);
    assert_int_equal(leaf(&m, 0xa, 0).eax, 0);
}

TEST(max_says_that_it_is_not_affected)
{
    struct cpu_model m = model("max", 1);

    assert_true(cpu_has(&m, FEAT_BTC_NO));
    assert_int_equal(cpu_has(&m, FEAT_ARCH_CAPABILITIES), m.vendor == CPU_INTEL);
    assert_int_equal(cpu_has(&m, FEAT_SRSO_NO), m.vendor == CPU_AMD);
    assert_true(leaf(&m, 0x80000008, 0).ebx & BIT(29));
}

TEST(osxsave_follows_cr4)
{
    struct cpu_model m = model("max", 1);
    struct cpu_state cs;

    cpu_state_reset(&cs, true, 0);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 1, 0).ecx & BIT(27), 0);
    cs.cr4 = CR4_OSXSAVE;
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 1, 0).ecx & BIT(27), BIT(27));
}

TEST(the_apic_bit_follows_its_enable_bit)
{
    struct cpu_model m = model("max", 1);
    struct cpu_state cs;

    cpu_state_reset(&cs, true, 0);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 1, 0).edx & BIT(9), BIT(9));
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, false, 1, 0).edx & BIT(9), 0);
}

TEST(intel_shows_syscall_in_64_bit_code_alone)
{
    struct cpu_model m = model("max", 1);
    struct cpu_state cs;

    m.vendor = CPU_INTEL;
    cpu_state_reset(&cs, true, 0);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0x80000001, 0).edx & BIT(11), 0);
    cs.efer = EFER_LMA;
    cs.seg[SEG_CS].attr |= SEG_ATTR_L;
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0x80000001, 0).edx & BIT(11), BIT(11));
    m.vendor = CPU_AMD;
    cs.efer = 0;
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0x80000001, 0).edx & BIT(11), BIT(11));
}

TEST(topology_numbers_cores_by_apic_id)
{
    struct cpu_model m = model("max", 6);
    struct cpu_state cs;
    struct cpuid_regs r;

    cpu_state_reset(&cs, true, 0);
    r = cpu_model_cpuid(&m, &cs, 5, true, 1, 0);
    assert_int_equal(r.ebx >> 24, 5);
    assert_int_equal(r.ebx >> 16 & 0xff, 8);
    r = cpu_model_cpuid(&m, &cs, 5, true, 0xb, 0);
    assert_int_equal(r.eax, 0);
    assert_int_equal(r.ecx, 0x100);
    r = cpu_model_cpuid(&m, &cs, 5, true, 0xb, 1);
    assert_int_equal(r.eax, 3);
    assert_int_equal(r.ebx, 6);
    assert_int_equal(r.ecx, 0x201);
    assert_int_equal(r.edx, 5);
    r = cpu_model_cpuid(&m, &cs, 5, true, 0xb, 2);
    assert_int_equal(r.ecx, 2);
    assert_int_equal(r.ebx, 0);
}

TEST(xsave_sizes_follow_the_standard_format)
{
    assert_int_equal(xsave_size(XCR0_X87), 576);
    assert_int_equal(xsave_size(3), 576);
    assert_int_equal(xsave_size(7), 832);
    assert_int_equal(xsave_size(0xe7), 2688);
    assert_int_equal(xsave_component_offset(7), 1664);
    assert_int_equal(xsave_component_size(6), 512);
    assert_int_equal(xsave_component_size(63), 0);
}

TEST(leaf_d_shows_the_size_for_xcr0_as_it_is)
{
    struct cpu_model m = model("max", 1);
    struct cpu_state cs;

    m.xcr0_mask = 0xe7;
    m.features[FEAT_XSAVE / 64] |= BIT(FEAT_XSAVE % 64);
    cpu_state_reset(&cs, true, 0);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, 0).ebx, 576);
    cs.xcr0 = 7;
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, 0).ebx, 832);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, 0).ecx, 2688);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, 2).ebx, 576);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, 3).eax, 0);
    assert_int_equal(cpu_model_cpuid(&m, &cs, 0, true, 0xd, UINT32_MAX).eax, 0);
}

TEST(the_kvm_leaves_give_the_frequencies)
{
    struct cpu_model m = model("max", 1);
    struct cpuid_regs r = leaf(&m, 0x40000000, 0);
    char text[13] = {0};

    memcpy(text, &r.ebx, 4);
    memcpy(text + 4, &r.ecx, 4);
    memcpy(text + 8, &r.edx, 4);
    assert_string_equal(text, "KVMKVMKVM");
    assert_int_equal(r.eax, 0x40000010);
    assert_int_equal(leaf(&m, 0x40000001, 0).eax, BIT(0) | BIT(1) | BIT(3) | BIT(24));
    assert_int_equal(leaf(&m, 0x40000010, 0).eax, 1000000);
    assert_int_equal(leaf(&m, 0x40000010, 0).ebx, 1000000);
}

TEST(leaf_15_multiplies_to_the_tsc)
{
    struct cpu_model m = model("max", 1);
    struct cpuid_regs r;

    m.vendor = CPU_INTEL;
    m.max_leaf = 0x16;
    m.tsc_hz = 2700000000;
    r = leaf(&m, 0x15, 0);
    assert_int_equal((uint64_t)r.ecx * r.ebx / r.eax, 2700000000);
}

TEST(intel_answers_unknown_leaves_with_the_last_one)
{
    struct cpu_model m = model("max", 1);
    struct cpuid_regs last, r;

    m.vendor = CPU_INTEL;
    last = leaf(&m, m.max_leaf, 0);
    r = leaf(&m, 0x12345678, 0);
    assert_memory_equal(&r, &last, sizeof(r));
    m.vendor = CPU_AMD;
    r = leaf(&m, 0x12345678, 0);
    assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
}

TEST(the_brand_string_is_in_three_leaves)
{
    struct cpu_model m = model("max", 1);
    char text[49] = {0};

    for (unsigned i = 0; i < 3; i++) {
        struct cpuid_regs r = leaf(&m, 0x80000002 + i, 0);

        memcpy(text + i * 16, &r, 16);
    }
    assert_string_equal(text, m.brand);
}

TEST(control_register_masks_follow_the_features)
{
    struct cpu_model m = model("max", 1), v1 = model("v1", 1);

    assert_int_equal(cpu_model_cr4_mask(&m) & (CR4_LA57 | CR4_PKE | CR4_VMXE), 0);
    assert_int_equal(cpu_model_cr4_mask(&m) & CR4_SMAP, CR4_SMAP);
    assert_int_equal(cpu_model_cr4_mask(&v1) & (CR4_SMAP | CR4_OSXSAVE), 0);
    assert_int_equal(cpu_model_efer_mask(&v1), EFER_SCE | EFER_LME | EFER_NXE);
}

static void offers_none(uint32_t without, const enum cpu_feature *list, size_t n)
{
    struct cpu_model m;
    struct err err;

    assert_int_equal(
        cpu_model_init(&m, "max", 1, GHZ, hostcpu_without(hostcpu_probe(), without), &err), 0);
    for (size_t i = 0; i < n; i++)
        assert_false(cpu_has(&m, list[i]));
}

#define OFFERS_NONE(without, ...)                                 \
    offers_none(without, (const enum cpu_feature[]){__VA_ARGS__}, \
                sizeof((const enum cpu_feature[]){__VA_ARGS__}) / sizeof(enum cpu_feature))

TEST(what_the_host_does_without_the_guest_is_not_offered)
{
    OFFERS_NONE(HOST_AVX, FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_AVX512F, FEAT_XGETBV1);
    OFFERS_NONE(HOST_AVX512, FEAT_AVX512F, FEAT_AVX512BW, FEAT_AVX512VBMI);
    OFFERS_NONE(HOST_XINUSE, FEAT_XGETBV1);
    OFFERS_NONE(HOST_BMI2, FEAT_BMI2);
}

TEST(a_model_says_what_the_host_lacks_for_it)
{
    struct cpu_model m;
    struct err err;

    assert_int_equal(
        cpu_model_init(&m, "v3", 1, GHZ, hostcpu_without(hostcpu_probe(), HOST_AVX), &err),
        -ENOTSUP);
    assert_non_null(strstr(err.text, "which CPU model v3 needs"));
}
