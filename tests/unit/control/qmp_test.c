/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <json-c/json.h>
#include <string.h>

#include "control/qmp.h"

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

static int setup(void **state)
{
    static struct talk talk;

    memset(&talk, 0, sizeof(talk));
    *state = &talk;
    return qmp_init(&talk.qmp, table, &talk, keep) ? 0 : -1;
}

static int setup_negotiated(void **state)
{
    static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
    int r = setup(state);
    struct talk *t = *state;

    r |= !qmp_feed(&t->qmp, hello, strlen(hello));
    t->len = 0;
    return r;
}

static int teardown(void **state)
{
    struct talk *t = *state;

    qmp_fini(&t->qmp);
    return 0;
}

static bool say(struct talk *t, const char *text)
{
    t->len = 0;
    t->out[0] = 0;
    return qmp_feed(&t->qmp, text, strlen(text));
}

static void greets_with_a_version(void **state)
{
    struct talk *t = *state;

    assert_non_null(strstr(t->out, "{\"QMP\":{\"version\":{\"qemu\":{"));
    assert_string_equal(t->out + t->len - 2, "\r\n");
}

static void nothing_but_capabilities_at_first(void **state)
{
    struct talk *t = *state;

    assert_true(say(t, "{\"execute\":\"set\",\"arguments\":{\"n\":1}}"));
    assert_non_null(strstr(t->out, "\"CommandNotFound\""));
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    assert_string_equal(t->out, "{\"return\":{}}\r\n");
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    assert_non_null(strstr(t->out, "\"CommandNotFound\""));
}

static void command_returns_with_its_id(void **state)
{
    struct talk *t = *state;

    assert_true(say(t, "{\"execute\":\"set\",\"arguments\":{\"n\":7},\"id\":[1,\"x\"]}"));
    assert_string_equal(t->out, "{\"return\":\"done\",\"id\":[1,\"x\"]}\r\n");
    assert_int_equal(t->got, 7);
}

static void error_carries_class_and_id(void **state)
{
    struct talk *t = *state;

    assert_true(say(t, "{\"execute\":\"fail\",\"id\":3}"));
    assert_string_equal(
        t->out, "{\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"no luck\"},\"id\":3}\r\n");
}

static void requests_may_come_in_pieces_and_in_bunches(void **state)
{
    static const char both[] = " {\"execute\":\"set\",\"arguments\":{\"n\":1}}{\"execute\":\"set\","
                               "\"arguments\":{\"n\":2}}\n";
    struct talk *t = *state;
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

static void wrong_requests_are_refused_and_forgotten(void **state)
{
    struct talk *t = *state;

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

static void depth_is_bounded(void **state)
{
    char deep[QMP_DEPTH + 10];
    struct talk *t = *state;

    memset(deep, '[', sizeof(deep));
    deep[sizeof(deep) - 1] = 0;
    assert_refused(t, deep, "parse error");
}

static void length_is_bounded(void **state)
{
    static char longest[QMP_REQUEST_MAX + 2];
    struct talk *t = *state;

    memset(longest, 'x', sizeof(longest) - 1);
    longest[0] = '"';
    assert_false(say(t, longest));
    assert_non_null(strstr(t->out, "too long"));
}

static void zero_bytes_do_not_hang_it(void **state)
{
    static const char zeros[64];
    struct talk *t = *state;

    assert_true(qmp_feed(&t->qmp, zeros, sizeof(zeros)));
    assert_true(say(t, "\n{\"execute\":\"set\",\"arguments\":{\"n\":5}}"));
    assert_non_null(strstr(t->out, "\"done\""));
}

static void events_wait_for_negotiation(void **state)
{
    struct talk *t = *state;

    t->len = 0;
    qmp_event(&t->qmp, "STOP");
    assert_int_equal(t->len, 0);
    assert_true(say(t, "{\"execute\":\"qmp_capabilities\"}"));
    qmp_event(&t->qmp, "STOP");
    assert_non_null(strstr(t->out, "\"event\":\"STOP\""));
}

#define FRESH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define READY(test) cmocka_unit_test_setup_teardown(test, setup_negotiated, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(greets_with_a_version),
        FRESH(nothing_but_capabilities_at_first),
        FRESH(events_wait_for_negotiation),
        READY(command_returns_with_its_id),
        READY(error_carries_class_and_id),
        READY(requests_may_come_in_pieces_and_in_bunches),
        READY(wrong_requests_are_refused_and_forgotten),
        READY(depth_is_bounded),
        READY(length_is_bounded),
        READY(zero_bytes_do_not_hang_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
