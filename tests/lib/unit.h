/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests, on cmocka. A test is written as
 *
 *     TEST(latched_count_survives_later_ticks)
 *     {
 *         ...
 *     }
 *
 * and stands in no list: main, in unit.c, runs what the file holds, in order. TEST_F is the same
 * with a fixture: the test gets as FIXTURE what setup() returned, and teardown() takes it back even
 * if the test failed. TEST_WITH names another function than setup to make it.
 */
#ifndef TESTS_LIB_UNIT_H
#define TESTS_LIB_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first */
#include <cmocka.h>
#include <stdlib.h> /* fixtures are calloc'ed */

/* The parameter of a test with a fixture; a file may define its own before it includes this. */
#ifndef FIXTURE
#define FIXTURE struct fixture *f
#endif

#define UNIT_ENTRY(name, run, end)                                              \
    static const struct CMUnitTest unit_##name = {#name, run, NULL, end, NULL}; \
    static const struct CMUnitTest *const unit_entry_##name                     \
        __attribute__((used, no_reorder, section("unit_tests"))) = &unit_##name

#define TEST(name)                \
    static void name(void **);    \
    UNIT_ENTRY(name, name, NULL); \
    static void name(__attribute__((unused)) void **unit_state)

/*
 * The fixture is made inside the test: cmocka sets its own signal handlers before that, and the
 * interpreter's must come after them.
 */
#define TEST_WITH(make, name)                           \
    static void name(FIXTURE);                          \
    static void unit_run_##name(void **state)           \
    {                                                   \
        name(*state = make());                          \
    }                                                   \
    static int unit_end_##name(void **state)            \
    {                                                   \
        if (*state)                                     \
            teardown(*state);                           \
        return 0;                                       \
    }                                                   \
    UNIT_ENTRY(name, unit_run_##name, unit_end_##name); \
    static void name(__attribute__((unused)) FIXTURE)

#define TEST_F(name) TEST_WITH(setup, name)

#endif
