/* SPDX-License-Identifier: Apache-2.0 */
/* SDM vol. 2A "CPUID", vol. 1 chapter 13; Linux, Documentation/x86/x86_64/fsgs.rst. */
#include "base/hostcpu.h"

#include <cpuid.h>
#include <string.h>
#include <sys/auxv.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2
#endif

#define XCR0_YMM 0x06u /* SSE and AVX */
#define XCR0_ZMM 0xe6u /* and the three components of AVX-512 */

struct leaf {
    unsigned eax, ebx, ecx, edx;
};

/* All zero where there is no such leaf. */
static struct leaf leaf(unsigned number, unsigned sub)
{
    struct leaf l = {0};

    if (!__get_cpuid_count(number, sub, &l.eax, &l.ebx, &l.ecx, &l.edx))
        return (struct leaf){0};
    return l;
}

/* XCR0, or 0 if the kernel does without. */
static unsigned vector_state(void)
{
    unsigned low, high;

    if (!(leaf(1, 0).ecx & bit_OSXSAVE))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

uint32_t hostcpu_probe(void)
{
    const struct leaf features = leaf(7, 0);
    const unsigned state = vector_state();
    uint32_t have = 0;

    if ((leaf(1, 0).ecx & bit_AVX) && (state & XCR0_YMM) == XCR0_YMM)
        have |= HOST_AVX;
    if ((features.ebx & bit_AVX512F) && (features.ebx & bit_AVX512BW) &&
        (state & XCR0_ZMM) == XCR0_ZMM)
        have |= HOST_AVX512;
    if (leaf(0xd, 1).eax & BIT(2))
        have |= HOST_XINUSE;
    if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)
        have |= HOST_FSGSBASE;
    if (features.ebx & bit_BMI2)
        have |= HOST_BMI2;
    if (!(features.ebx & BIT(13)))
        have |= HOST_X87_SELECTORS;
    if (leaf(0x80000001, 0).ecx & bit_LAHF_LM)
        have |= HOST_LAHF;
    return hostcpu_without(have, 0);
}

uint32_t hostcpu_without(uint32_t have, uint32_t features)
{
    have &= ~features;
    if (!(have & HOST_AVX))
        have &= ~(uint32_t)(HOST_AVX512 | HOST_XINUSE);
    return have;
}

uint32_t hostcpu_feature(const char *name)
{
    static const struct {
        const char *name;
        uint32_t feature;
    } names[] = {
        {"avx", HOST_AVX},           {"avx512", HOST_AVX512}, {"xinuse", HOST_XINUSE},
        {"fsgsbase", HOST_FSGSBASE}, {"bmi2", HOST_BMI2},
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(names[i].name, name))
            return names[i].feature;
    return 0;
}
