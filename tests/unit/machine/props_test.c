/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "machine/props.h"
#include "tests/lib/unit.h"

struct config {
    bool on;
    uint64_t number, size;
    const char *text;
};

static const struct prop props[] = {
    {"on", PROP_BOOL, offsetof(struct config, on), "off", "a switch"},
    {"number", PROP_UINT, offsetof(struct config, number), "0", "a number"},
    {"size", PROP_SIZE, offsetof(struct config, size), "0", "a size"},
    {"text", PROP_STRING, offsetof(struct config, text), "", "a text"},
    {NULL, PROP_BOOL, 0, NULL, NULL},
};

TEST(every_kind_lands_in_its_field)
{
    struct config c = {0};

    assert_int_equal(props_set(props, &c, "on", "yes", NULL), 0);
    assert_int_equal(props_set(props, &c, "number", "0x1f", NULL), 0);
    assert_int_equal(props_set(props, &c, "size", "2g", NULL), 0);
    assert_int_equal(props_set(props, &c, "text", "hello", NULL), 0);
    assert_true(c.on);
    assert_int_equal(c.number, 31);
    assert_int_equal(c.size, 2ull << 30);
    assert_string_equal(c.text, "hello");
    assert_int_equal(props_set(props, &c, "on", "off", NULL), 0);
    assert_false(c.on);
}

TEST(bad_values_are_refused_and_change_nothing)
{
    struct config c = {.number = 7, .size = 9};
    struct err err;

    assert_true(props_set(props, &c, "on", "maybe", &err) < 0);
    assert_true(props_set(props, &c, "number", "7K", &err) < 0);
    assert_true(props_set(props, &c, "number", "-1", &err) < 0);
    assert_true(props_set(props, &c, "number", "99999999999999999999", &err) < 0);
    assert_true(props_set(props, &c, "size", "16777216T", &err) < 0);
    assert_true(props_set(props, &c, "size", "1Kx", &err) < 0);
    assert_int_equal(c.number, 7);
    assert_int_equal(c.size, 9);
}

TEST(unknown_names_are_refused)
{
    struct config c = {0};
    struct err err;

    assert_true(props_set(props, &c, "colour", "red", &err) < 0);
    assert_non_null(strstr(err.text, "colour"));
    assert_true(props_set(NULL, &c, "on", "yes", &err) < 0);
}
