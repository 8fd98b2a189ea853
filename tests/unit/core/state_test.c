/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#include "core/state.h"
#include "tests/lib/unit.h"

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

static const struct thing sample = {.state = {.x = 7,
                                              .mem = "abc",
                                              .in = {{1000, true, -5}, {3, false, 5}, {0, true, 0}},
                                              .y = {1, 2, 0xffffffff}}};

TEST(save_load_save_gives_the_same_bytes)
{
    struct state_buf a = {0}, b = {0};
    struct thing t = {0};

    state_save(&table, &sample, &a);
    assert_int_equal(state_load(&table, &t, &a, NULL), 0);
    state_save(&table, &t, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(&t.state, &sample.state, sizeof(t.state));
    state_buf_fini(&a);
    state_buf_fini(&b);
}

TEST(every_cut_of_a_saved_state_is_refused)
{
    struct state_buf a = {0};
    struct thing t = {0};
    size_t len;

    state_save(&table, &sample, &a);
    len = a.len;
    for (size_t cut = 0; cut < len; cut++) {
        a.len = cut;
        a.pos = 0;
        assert_int_not_equal(state_load(&table, &t, &a, NULL), 0);
    }
    state_buf_fini(&a);
}

TEST(values_out_of_range_are_refused)
{
    struct state_buf a = {0}, b = {0};
    struct thing bad = sample, t = {0};
    struct err err;

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

TEST(absent_fields_keep_their_value)
{
    static const struct state old = {.version = 1,
                                     .offset = offsetof(struct thing, state),
                                     .size = sizeof(struct thing_state),
                                     .fields = fields,
                                     .nfields = 2};
    struct state_buf a = {0};
    struct thing t = {.state = {.y = {9, 9, 9}}};

    state_save(&old, &sample, &a);
    assert_int_equal(state_load(&table, &t, &a, NULL), 0);
    assert_int_equal(t.state.x, 7);
    assert_int_equal(t.state.y[0], 9);
    state_buf_fini(&a);
}

TEST(unknown_fields_are_refused)
{
    static const struct state older = {.version = 2,
                                       .offset = offsetof(struct thing, state),
                                       .size = sizeof(struct thing_state),
                                       .fields = fields,
                                       .nfields = 3};
    struct state_buf a = {0};
    struct thing t = {0};

    state_save(&table, &sample, &a);
    assert_int_not_equal(state_load(&older, &t, &a, NULL), 0);
    state_buf_fini(&a);
}

TEST(audit_accepts_a_full_list)
{
    uint32_t where;

    assert_true(state_audit(&table, &where));
}

TEST(audit_finds_a_missing_field_and_a_double_one)
{
    struct state_field twice[] = {fields[0], fields[0], fields[1], fields[2], fields[3]};
    struct state missing = table, doubled = table;
    uint32_t where;

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

TEST(visit_gives_dotted_paths)
{
    unsigned hits = 0;

    state_visit(&table, &sample, count_scalar, &hits);
    assert_int_equal(hits, 1);
}

struct named {
    struct named_state {
        uint16_t reg[2];
        struct inner part[2];
        uint8_t row[2][4];
    } state;
};

static const char *const reg_names[] = {"ax", "cx"}, *const part_names[] = {"left", "right"},
                         *const row_names[] = {"xmm0", "xmm1"};
static const struct state_field named_fields[] = {
    STATE_UINTS_NAMED(struct named_state, reg, 0, UINT16_MAX, reg_names),
    STATE_STRUCTS_NAMED(struct named_state, part, inner_fields, part_names),
    STATE_ROWS_NAMED(struct named_state, row, row_names),
};
static const struct state named_table = STATE(struct named, state, 1, named_fields);
static const struct named named_sample = {
    .state = {.reg = {5, 6}, .part = {{1, false, 0}, {2, true, 1}}, .row = {"abc", "def"}}};

static void add_path(void *opaque, const char *path, const struct state_field *field,
                     const void *value)
{
    (void)field, (void)value;
    strcat(strcat(opaque, path), " ");
}

TEST(elements_are_shown_by_their_names)
{
    char paths[256] = "";
    uint32_t where;

    assert_true(state_audit(&named_table, &where));
    state_visit(&named_table, &named_sample, add_path, paths);
    assert_string_equal(paths, "ax cx left.a left.on left.t right.a right.on right.t xmm0 xmm1 ");
}

TEST(names_of_elements_are_not_saved)
{
    struct state_buf a = {0};
    struct named t = {0};

    state_save(&named_table, &named_sample, &a);
    assert_null(memmem(a.data, a.len, "ax", 2));
    assert_non_null(memmem(a.data, a.len, "reg", 3));
    assert_int_equal(state_load(&named_table, &t, &a, NULL), 0);
    assert_memory_equal(&t, &named_sample, sizeof(t));
    state_buf_fini(&a);
}
