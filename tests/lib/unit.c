/* SPDX-License-Identifier: Apache-2.0 */
/* main of every unit test. An argument is a pattern: only tests whose names match it run. */
#include "tests/lib/unit.h"

extern const struct CMUnitTest *const __start_unit_tests[];
extern const struct CMUnitTest *const __stop_unit_tests[];

int main(int argc, char **argv)
{
    size_t n = (size_t)(__stop_unit_tests - __start_unit_tests);
    struct CMUnitTest tests[n];

    for (size_t i = 0; i < n; i++)
        tests[i] = *__start_unit_tests[i];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name(argv[0], tests, NULL, NULL);
}
