/* SPDX-License-Identifier: Apache-2.0 */
#include <json-c/json.h>
#include <string.h>

#define FIXTURE struct talk *t
#include "control/qmp.h"
#include "tests/lib/unit.h"

struct talk {
    struct qmp qmp;
    char out[4096]; /* what was sent since the last look */
    size_t len;
    uint64_t got; /* the argument of the last command */
};

static void keep(void *opaque, const char *text, size_t len)
{
    struct talk *t = opaque;
    size_t n = len < sizeof(t->out) - 1 - t->len ? len : sizeof(t->out) - 1 - t->len;

    memcpy(t->out + t->len, text, n);
    t->len += n;
    t->out[t->len] = 0;
}

static bool serve_set(void *opaque, struct json_object *args, struct json_object **ret,
                      struct qmp_error *error)
{
    struct talk *t = opaque;

    (void)error;
    t->got = json_object_get_uint64(json_object_object_get(args, "n"));
    *ret = json_object_new_string("done");
    return true;
}

static bool serve_fail(void *opaque, struct json_object *args, struct json_object **ret,
                       struct qmp_error *error)
{
    (void)opaque, (void)args, (void)ret;
    return qmp_error_set(error, "DeviceNotFound", "no %s", "luck");
}

static const struct command_arg set_args[] = {
    {"n", ARG_UINT, true},
    {"s", ARG_STRING, false},
    {"b", ARG_BOOL, false},
    {NULL, 0, false},
};

static const struct command table[] = {
    {.name = "set", .args = set_args, .serve = serve_set},
    {.name = "fail", .serve = serve_fail},
    {.verb = "only-a-verb"},
    {.help = NULL},
};

static struct talk *setup(void)
{
    struct talk *t = calloc(1, sizeof(*t));

    assert_true(qmp_init(&t->qmp, table, t, keep));
    return t;
}

static struct talk *setup_negotiated(void)
{
    static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
    struct talk *t = setup();

    assert_true(qmp_feed(&t->qmp, hello, strlen(hello)));
    t->len = 0;
    return t;
}

static void teardown(struct talk *t)
{
    qmp_fini(&t->qmp);
    free(t);
}

static bool say(struct talk *t, const char *text)
{
    t->len = 0;
    t->out[0] = 0;
    return qmp_feed(&t->qmp, text, strlen(text));
}

TEST_F(greets_with_a_version)
{
    assert_non_null(strstr(t->out, "{\"QMP\":{\"version\":{\"qemu\":{"));
    assert_string_equal(t->out + t->len - 2, "\r\n");
}

TEST_F(nothing_but_capabilities_at_first)
{
    assert_true(say(t, "{\"execute\":\"set\",\"arguments\":{\"n\":1}}"));
    assert_non_null(strstr(t->out, "\"CommandNotFound\""));
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    assert_string_equal(t->out, "{\"return\":{}}\r\n");
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    assert_non_null(strstr(t->out, "\"CommandNotFound\""));
}

TEST_WITH(setup_negotiated, command_returns_with_its_id)
{
    assert_true(say(t, "{\"execute\":\"set\",\"arguments\":{\"n\":7},\"id\":[1,\"x\"]}"));
    assert_string_equal(t->out, "{\"return\":\"done\",\"id\":[1,\"x\"]}\r\n");
    assert_int_equal(t->got, 7);
}

TEST_WITH(setup_negotiated, error_carries_class_and_id)
{
    assert_true(say(t, "{\"execute\":\"fail\",\"id\":3}"));
    assert_string_equal(
        t->out, "{\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"no luck\"},\"id\":3}\r\n");
}

TEST_WITH(setup_negotiated, requests_may_come_in_pieces_and_in_bunches)
{
    static const char both[] = " {\"execute\":\"set\",\"arguments\":{\"n\":1}}{\"execute\":\"set\","
                               "\"arguments\":{\"n\":2}}\n";
    size_t i;

    for (i = 0; i < strlen(both); i++)
        assert_true(qmp_feed(&t->qmp, both + i, 1));
    assert_string_equal(t->out, "{\"return\":\"done\"}\r\n{\"return\":\"done\"}\r\n");
    assert_int_equal(t->got, 2);
    assert_true(say(t, both));
    assert_string_equal(t->out, "{\"return\":\"done\"}\r\n{\"return\":\"done\"}\r\n");
}

static void assert_refused(struct talk *t, const char *request, const char *part)
{
    assert_true(say(t, request));
    assert_non_null(strstr(t->out, "\"error\""));
    assert_non_null(strstr(t->out, part));
    assert_true(say(t, "\n{\"execute\":\"set\",\"arguments\":{\"n\":5}}"));
    assert_non_null(strstr(t->out, "\"done\""));
}

TEST_WITH(setup_negotiated, wrong_requests_are_refused_and_forgotten)
{
    assert_refused(t, "{\"execute\":\"nope\"}", "CommandNotFound");
    assert_refused(t, "{\"execute\":\"only-a-verb\"}", "CommandNotFound");
    assert_refused(t, "{\"execute\":\"set\"}", "Parameter 'n' is missing");
    assert_refused(t, "{\"execute\":\"set\",\"arguments\":{\"n\":-1}}",
                   "Invalid parameter type for 'n'");
    assert_refused(t, "{\"execute\":\"set\",\"arguments\":{\"n\":1,\"s\":2}}", "type for 's'");
    assert_refused(t, "{\"execute\":\"set\",\"arguments\":{\"n\":1,\"b\":2}}", "type for 'b'");
    assert_refused(t, "{\"execute\":\"set\",\"arguments\":{\"n\":1,\"q\":2}}", "'q' is unexpected");
    assert_refused(t, "{\"execute\":\"fail\",\"arguments\":{\"q\":2}}", "'q' is unexpected");
    assert_refused(t, "{\"execute\":\"set\",\"arguments\":3}", "must be an object");
    assert_refused(t, "{\"execute\":3}", "must be a string");
    assert_refused(t, "{\"id\":3}", "lacks member 'execute'");
    assert_refused(t, "{\"execute\":\"set\",\"extra\":3}", "'extra' is unexpected");
    assert_refused(t, "[1]", "must be a JSON object");
    assert_refused(t, "null ", "must be a JSON object");
    assert_refused(t, "{execute}", "parse error");
    assert_refused(t, "'single'", "parse error");
    assert_refused(t, "\"\xff\"", "parse error");
}

/* A name is cut where it is quoted; what is left of its last character would not be UTF-8. */
TEST_WITH(setup_negotiated, quoted_names_stay_utf8)
{
    static const char request[] = "{\"execute\":\"x\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                  "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                  "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                  "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
                                  "\xc3\xa4\xc3\xa4\xc3\xa4\"}";

    assert_true(say(t, request));
    assert_non_null(strstr(t->out, "The command x\xc3\xa4"));
    assert_non_null(strstr(t->out, "\xc3\xa4? has not been found"));
}

TEST_WITH(setup_negotiated, depth_is_bounded)
{
    char deep[QMP_DEPTH + 10];

    memset(deep, '[', sizeof(deep));
    deep[sizeof(deep) - 1] = 0;
    assert_refused(t, deep, "parse error");
}

TEST_WITH(setup_negotiated, length_is_bounded)
{
    static char longest[QMP_REQUEST_MAX + 2];

    memset(longest, 'x', sizeof(longest) - 1);
    longest[0] = '"';
    assert_false(say(t, longest));
    assert_non_null(strstr(t->out, "too long"));
}

TEST_WITH(setup_negotiated, zero_bytes_do_not_hang_it)
{
    static const char zeros[64];

    assert_true(qmp_feed(&t->qmp, zeros, sizeof(zeros)));
    assert_true(say(t, "\n{\"execute\":\"set\",\"arguments\":{\"n\":5}}"));
    assert_non_null(strstr(t->out, "\"done\""));
}

TEST_F(events_wait_for_negotiation)
{
    t->len = 0;
    qmp_event(&t->qmp, "STOP");
    assert_int_equal(t->len, 0);
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    qmp_event(&t->qmp, "STOP");
    assert_non_null(strstr(t->out, "\"event\":\"STOP\""));
}
