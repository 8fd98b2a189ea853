/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu_state.h"
#include "engine/engine.h"
#include "machine/report.h"

struct text {
    char *buf;
    size_t size;
    FILE *f;
};

static int setup(void **state)
{
    struct text *t = calloc(1, sizeof(*t));

    t->f = open_memstream(&t->buf, &t->size);
    *state = t;
    return t->f ? 0 : -1;
}

static int teardown(void **state)
{
    struct text *t = *state;

    fclose(t->f);
    free(t->buf);
    free(t);
    return 0;
}

static const char *exception(struct text *t, const struct cpu_exception *e)
{
    report_exception(t->f, e);
    fflush(t->f);
    return t->buf;
}

static void page_fault_is_told_in_words(void **state)
{
    struct cpu_exception e = {.rip = 0xffffffff81000123,
                              .cr2 = 0x10,
                              .error = 2,
                              .vector = VEC_PF,
                              .has_error = true,
                              .icount = 99};

    assert_string_equal(exception(*state, &e),
                        "#PF page fault at rip 0xffffffff81000123, error code 0x2: write to a page "
                        "that is not present at 0x10, supervisor mode (instruction 99)\n");
}

static void user_fetch_from_protected_page_is_told(void **state)
{
    struct cpu_exception e = {.error = 0x15, .vector = VEC_PF, .has_error = true};

    assert_non_null(strstr(exception(*state, &e),
                           "instruction fetch from a page that forbids it at 0, user mode"));
}

static void selector_error_names_its_table(void **state)
{
    struct cpu_exception e = {.error = 0x6a, .vector = VEC_GP, .has_error = true};

    assert_non_null(strstr(exception(*state, &e), "IDT entry 0xd"));
}

static void general_protection_without_selector_says_so(void **state)
{
    struct cpu_exception e = {.vector = VEC_GP, .has_error = true};

    assert_non_null(strstr(exception(*state, &e), "no selector"));
}

static void vector_without_a_name_is_a_number(void **state)
{
    struct cpu_exception e = {.vector = 0x80, .rip = 1};

    assert_string_equal(exception(*state, &e), "vector 128 at rip 0x1 (instruction 0)\n");
}

static void modes_have_names(void **state)
{
    struct cpu_state cs = {0};

    (void)state;
    assert_string_equal(report_mode(&cs), "real mode");
    cs.cr0 = CR0_PE;
    assert_string_equal(report_mode(&cs), "protected mode, 16-bit code");
    cs.seg[SEG_CS].attr = SEG_ATTR_DB;
    assert_string_equal(report_mode(&cs), "protected mode, 32-bit code");
    cs.rflags = RFLAGS_VM;
    assert_string_equal(report_mode(&cs), "virtual-8086 mode");
    cs.rflags = 0;
    cs.efer = EFER_LMA;
    assert_string_equal(report_mode(&cs), "compatibility mode, 32-bit code");
    cs.seg[SEG_CS].attr = SEG_ATTR_L;
    assert_string_equal(report_mode(&cs), "64-bit mode");
}

static void registers_name_flags_and_unusable_segments(void **state)
{
    struct text *t = *state;
    struct cpu_state cs = {.rflags = RFLAGS_ZF | RFLAGS_IF};

    cs.gpr[REG_R15] = 0x1234;
    report_registers(t->f, &cs);
    fflush(t->f);
    assert_non_null(strstr(t->buf, "r15 0000000000001234"));
    assert_non_null(strstr(t->buf, " ZF IF\n"));
    assert_non_null(strstr(t->buf, "(unusable)"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(page_fault_is_told_in_words),
        T(user_fetch_from_protected_page_is_told),
        T(selector_error_names_its_table),
        T(general_protection_without_selector_says_so),
        T(vector_without_a_name_is_a_number),
        cmocka_unit_test(modes_have_names),
        T(registers_name_flags_and_unusable_segments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
