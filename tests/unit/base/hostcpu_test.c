/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/hostcpu.h"
#include "tests/lib/unit.h"

TEST(every_name_in_the_list_is_a_feature)
{
    char names[] = HOSTCPU_NAMES, *rest = names, *name;
    uint32_t all = 0;

    while ((name = strsep(&rest, ","))) {
        name += *name == ' ';
        assert_int_not_equal(hostcpu_feature(name), 0);
        assert_int_equal(all & hostcpu_feature(name), 0);
        all |= hostcpu_feature(name);
    }
    assert_int_equal(all & (HOST_LAHF | HOST_X87_SELECTORS), 0);
    assert_int_equal(hostcpu_feature("lahf"), 0);
}

TEST(without_avx_nothing_of_it_is_left)
{
    const uint32_t all = HOST_AVX | HOST_AVX512 | HOST_XINUSE | HOST_FSGSBASE | HOST_BMI2;

    assert_int_equal(hostcpu_without(all, HOST_AVX), HOST_FSGSBASE | HOST_BMI2);
    assert_int_equal(hostcpu_without(all, HOST_AVX512), all & ~(uint32_t)HOST_AVX512);
    assert_int_equal(hostcpu_without(0, HOST_AVX), 0);
}

TEST(this_host_has_what_the_compiler_sees_in_it)
{
    uint32_t have = hostcpu_probe();

    assert_int_equal(!!(have & HOST_AVX), !!__builtin_cpu_supports("avx"));
    assert_int_equal(!!(have & HOST_BMI2), !!__builtin_cpu_supports("bmi2"));
    assert_int_equal(!!(have & HOST_AVX512),
                     __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"));
}
