/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "core/state.h"

struct inner {
    uint16_t a;
    bool on;
    int8_t t;
};
struct thing {
    int wiring;
    struct thing_state {
        uint32_t x;
        uint8_t mem[4];
        struct inner in[3];
        uint32_t y[3];
    } state;
};

static const struct state_field inner_fields[] = {
    STATE_UINT(struct inner, a, 0, 1000),
    STATE_BOOL(struct inner, on),
    STATE_INT(struct inner, t, -5, 5),
};
static const struct state_field fields[] = {
    STATE_UINT(struct thing_state, x, 1, 7),
    STATE_BYTES(struct thing_state, mem),
    STATE_STRUCTS(struct thing_state, in, inner_fields),
    STATE_UINTS(struct thing_state, y, 0, UINT32_MAX),
};
static const struct state table = STATE(struct thing, state, 2, fields);

static const struct thing sample = {
    .state = {.x = 7, .mem = "abc", .in = {{1000, true, -5}, {3, false, 5}, {0, true, 0}},
              .y = {1, 2, 0xffffffff}}};

static void save_load_save_gives_the_same_bytes(void **state)
{
    struct state_buf a = {0}, b = {0};
    struct thing t = {0};

    (void)state;
    state_save(&table, &sample, &a);
    assert_int_equal(state_load(&table, &t, &a, NULL), 0);
    state_save(&table, &t, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(&t.state, &sample.state, sizeof(t.state));
    state_buf_fini(&a);
    state_buf_fini(&b);
}

static void every_cut_of_a_saved_state_is_refused(void **state)
{
    struct state_buf a = {0};
    struct thing t = {0};
    size_t len;

    (void)state;
    state_save(&table, &sample, &a);
    len = a.len;
    for (size_t cut = 0; cut < len; cut++) {
        a.len = cut;
        a.pos = 0;
        assert_int_not_equal(state_load(&table, &t, &a, NULL), 0);
    }
    state_buf_fini(&a);
}

static void values_out_of_range_are_refused(void **state)
{
    struct state_buf a = {0}, b = {0};
    struct thing bad = sample, t = {0};
    struct err err;

    (void)state;
    bad.state.in[1].t = 6;
    state_save(&table, &bad, &a);
    assert_int_not_equal(state_load(&table, &t, &a, &err), 0);
    assert_non_null(strstr(err.text, "'t'"));
    bad = sample;
    bad.state.x = 0;
    state_save(&table, &bad, &b);
    assert_int_not_equal(state_load(&table, &t, &b, &err), 0);
    state_buf_fini(&a);
    state_buf_fini(&b);
}

static void absent_fields_keep_their_value(void **state)
{
    static const struct state old = {.version = 1, .offset = offsetof(struct thing, state),
                                     .size = sizeof(struct thing_state), .fields = fields,
                                     .nfields = 2};
    struct state_buf a = {0};
    struct thing t = {.state = {.y = {9, 9, 9}}};

    (void)state;
    state_save(&old, &sample, &a);
    assert_int_equal(state_load(&table, &t, &a, NULL), 0);
    assert_int_equal(t.state.x, 7);
    assert_int_equal(t.state.y[0], 9);
    state_buf_fini(&a);
}

static void unknown_fields_are_refused(void **state)
{
    static const struct state older = {.version = 2, .offset = offsetof(struct thing, state),
                                       .size = sizeof(struct thing_state), .fields = fields,
                                       .nfields = 3};
    struct state_buf a = {0};
    struct thing t = {0};

    (void)state;
    state_save(&table, &sample, &a);
    assert_int_not_equal(state_load(&older, &t, &a, NULL), 0);
    state_buf_fini(&a);
}

static void audit_accepts_a_full_list(void **state)
{
    uint32_t where;

    (void)state;
    assert_true(state_audit(&table, &where));
}

static void audit_finds_a_missing_field_and_a_double_one(void **state)
{
    struct state_field twice[] = {fields[0], fields[0], fields[1], fields[2], fields[3]};
    struct state missing = table, doubled = table;
    uint32_t where;

    (void)state;
    missing.fields = fields + 1;
    missing.nfields = 3;
    assert_false(state_audit(&missing, &where));
    assert_int_equal(where, 0);
    doubled.fields = twice;
    doubled.nfields = 5;
    assert_false(state_audit(&doubled, &where));
}

static void count_scalar(void *opaque, const char *path, const struct state_field *field,
                         const void *value)
{
    (void)field;
    *(unsigned *)opaque += !strcmp(path, "in[1].a") && *(const uint16_t *)value == 3;
}

static void visit_gives_dotted_paths(void **state)
{
    unsigned hits = 0;

    (void)state;
    state_visit(&table, &sample, count_scalar, &hits);
    assert_int_equal(hits, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(save_load_save_gives_the_same_bytes),
        cmocka_unit_test(every_cut_of_a_saved_state_is_refused),
        cmocka_unit_test(values_out_of_range_are_refused),
        cmocka_unit_test(absent_fields_keep_their_value),
        cmocka_unit_test(unknown_fields_are_refused),
        cmocka_unit_test(audit_accepts_a_full_list),
        cmocka_unit_test(audit_finds_a_missing_field_and_a_double_one),
        cmocka_unit_test(visit_gives_dotted_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
