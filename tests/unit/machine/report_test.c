/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#define FIXTURE struct text *t
#include "cpu/cpu_state.h"
#include "engine/engine.h"
#include "machine/report.h"
#include "tests/lib/unit.h"

struct text {
    char *buf;
    size_t size;
    FILE *f;
};

static struct text *setup(void)
{
    struct text *t = calloc(1, sizeof(*t));

    t->f = open_memstream(&t->buf, &t->size);
    assert_non_null(t->f);
    return t;
}

static void teardown(struct text *t)
{
    fclose(t->f);
    free(t->buf);
    free(t);
}

static const char *exception(struct text *t, const struct cpu_exception *e)
{
    report_exception(t->f, e);
    fflush(t->f);
    return t->buf;
}

TEST_F(page_fault_is_told_in_words)
{
    struct cpu_exception e = {.rip = 0xffffffff81000123,
                              .cr2 = 0x10,
                              .error = 2,
                              .vector = VEC_PF,
                              .has_error = true,
                              .icount = 99};

    assert_string_equal(exception(t, &e),
                        "#PF page fault at rip 0xffffffff81000123, error code 0x2: write to a page "
                        "that is not present at 0x10, supervisor mode (instruction 99)\n");
}

TEST_F(user_fetch_from_protected_page_is_told)
{
    struct cpu_exception e = {.error = 0x15, .vector = VEC_PF, .has_error = true};

    assert_non_null(
        strstr(exception(t, &e), "instruction fetch from a page that forbids it at 0, user mode"));
}

TEST_F(selector_error_names_its_table)
{
    struct cpu_exception e = {.error = 0x6a, .vector = VEC_GP, .has_error = true};

    assert_non_null(strstr(exception(t, &e), "IDT entry 0xd"));
}

TEST_F(general_protection_without_selector_says_so)
{
    struct cpu_exception e = {.vector = VEC_GP, .has_error = true};

    assert_non_null(strstr(exception(t, &e), "no selector"));
}

TEST_F(vector_without_a_name_is_a_number)
{
    struct cpu_exception e = {.vector = 0x80, .rip = 1};

    assert_string_equal(exception(t, &e), "vector 128 at rip 0x1 (instruction 0)\n");
}

TEST(modes_have_names)
{
    struct cpu_state cs = {0};

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

TEST_F(registers_name_flags_and_unusable_segments)
{
    struct cpu_state cs = {.rflags = RFLAGS_ZF | RFLAGS_IF};

    cs.gpr[REG_R15] = 0x1234;
    report_registers(t->f, &cs);
    fflush(t->f);
    assert_non_null(strstr(t->buf, "r15 0000000000001234"));
    assert_non_null(strstr(t->buf, " ZF IF\n"));
    assert_non_null(strstr(t->buf, "(unusable)"));
}
