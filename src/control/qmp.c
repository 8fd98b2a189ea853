/* SPDX-License-Identifier: Apache-2.0 */
#include "control/qmp.h"

#include <ctype.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* The version of QMP that our replies have the form of; the package is what a person should read.
 */
#define GREETING                                                             \
    "{\"QMP\":{\"version\":{\"qemu\":{\"major\":8,\"minor\":2,\"micro\":0}," \
    "\"package\":\"doppel\"},\"capabilities\":[]}}\r\n"

/* Bytes of the character that begins at s, or 0: a piece of one. Requests were checked, so lengths
 * do. */
static size_t utf8_len(const unsigned char *s)
{
    size_t len = *s < 0x80 ? 1 : *s < 0xc0 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4;

    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

/* What the client sent is quoted only so far: a character that was cut in two is not UTF-8. */
static void mend_utf8(char *text)
{
    char *out = text;

    while (*text) {
        size_t len = utf8_len((const unsigned char *)text);

        if (len) {
            memmove(out, text, len);
            out += len;
            text += len;
            continue;
        }
        *out++ = '?';
        do
            text++;
        while ((*text & 0xc0) == 0x80);
    }
    *out = 0;
}

bool qmp_error_set(struct qmp_error *error, const char *class_, const char *fmt, ...)
{
    va_list ap;

    error->class_ = class_;
    va_start(ap, fmt);
    vsnprintf(error->desc, sizeof(error->desc), fmt, ap);
    va_end(ap);
    mend_utf8(error->desc);
    return false;
}

bool qmp_init(struct qmp *qmp, const struct command *table, void *opaque,
              void (*send)(void *opaque, const char *text, size_t len))
{
    *qmp = (struct qmp){.commands = table, .opaque = opaque, .send = send};
    qmp->tokener = json_tokener_new_ex(QMP_DEPTH);
    if (!qmp->tokener)
        return false;
    json_tokener_set_flags(qmp->tokener, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS |
                                             JSON_TOKENER_VALIDATE_UTF8);
    send(opaque, GREETING, strlen(GREETING));
    return true;
}

void qmp_fini(struct qmp *qmp)
{
    if (qmp->tokener)
        json_tokener_free(qmp->tokener);
    qmp->tokener = NULL;
}

/* ---- replies -----------------------------------------------------------------------------------
 */

/* Consumes obj. */
static void send_object(struct qmp *qmp, struct json_object *obj)
{
    size_t len;
    const char *text = json_object_to_json_string_length(obj, JSON_C_TO_STRING_PLAIN, &len);

    if (text) {
        qmp->send(qmp->opaque, text, len);
        qmp->send(qmp->opaque, "\r\n", 2);
    }
    json_object_put(obj);
}

static void add_id(struct json_object *reply, struct json_object *id)
{
    if (id)
        json_object_object_add(reply, "id", json_object_get(id));
}

static void send_error(struct qmp *qmp, struct json_object *id, const struct qmp_error *error)
{
    struct json_object *reply = json_object_new_object(), *body = json_object_new_object();

    json_object_object_add(body, "class",
                           json_object_new_string(error->class_ ? error->class_ : "GenericError"));
    json_object_object_add(body, "desc", json_object_new_string(error->desc));
    json_object_object_add(reply, "error", body);
    add_id(reply, id);
    send_object(qmp, reply);
}

static void send_return(struct qmp *qmp, struct json_object *id, struct json_object *value)
{
    struct json_object *reply = json_object_new_object();

    json_object_object_add(reply, "return", value ? value : json_object_new_object());
    add_id(reply, id);
    send_object(qmp, reply);
}

void qmp_event(struct qmp *qmp, const char *name)
{
    struct json_object *event, *stamp;
    struct timespec now;

    if (!qmp->negotiated)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    event = json_object_new_object();
    stamp = json_object_new_object();
    json_object_object_add(stamp, "seconds", json_object_new_int64(now.tv_sec));
    json_object_object_add(stamp, "microseconds", json_object_new_int64(now.tv_nsec / 1000));
    json_object_object_add(event, "timestamp", stamp);
    json_object_object_add(event, "event", json_object_new_string(name));
    send_object(qmp, event);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

static bool kind_fits(enum arg_kind kind, struct json_object *value)
{
    switch (kind) {
    case ARG_STRING:
        return json_object_is_type(value, json_type_string);
    case ARG_UINT:
        return json_object_is_type(value, json_type_int) && json_object_get_int64(value) >= 0;
    case ARG_BOOL:
        return json_object_is_type(value, json_type_boolean);
    }
    return false;
}

static bool check_args(const struct command *command, struct json_object *args,
                       struct qmp_error *error)
{
    const struct command_arg *arg;

    for (arg = command->args; arg && arg->name; arg++) {
        struct json_object *value;

        if (!args || !json_object_object_get_ex(args, arg->name, &value)) {
            if (arg->required)
                return qmp_error_set(error, NULL, "Parameter '%s' is missing", arg->name);
            continue;
        }
        if (!kind_fits(arg->kind, value))
            return qmp_error_set(error, NULL, "Invalid parameter type for '%s'", arg->name);
    }
    if (!args)
        return true;
    json_object_object_foreach(args, key, unused)
    {
        (void)unused;
        for (arg = command->args; arg && arg->name && strcmp(arg->name, key); arg++)
            ;
        if (!arg || !arg->name)
            return qmp_error_set(error, NULL, "Parameter '%.64s' is unexpected", key);
    }
    return true;
}

static const struct command *find_command(const struct qmp *qmp, const char *name)
{
    const struct command *c;

    for (c = qmp->commands; c->name || c->verb; c++)
        if (c->name && !strcmp(c->name, name))
            return c;
    return NULL;
}

/* The members of a request, and nothing else. */
static bool take_apart(struct json_object *request, const char **name, struct json_object **args,
                       struct json_object **id, struct qmp_error *error)
{
    *name = NULL;
    *args = *id = NULL;
    if (!json_object_is_type(request, json_type_object))
        return qmp_error_set(error, NULL, "QMP input must be a JSON object");
    json_object_object_get_ex(request, "id", id);
    json_object_object_foreach(request, key, value)
    {
        if (!strcmp(key, "execute") && json_object_is_type(value, json_type_string))
            *name = json_object_get_string(value);
        else if (!strcmp(key, "execute"))
            return qmp_error_set(error, NULL, "QMP input member 'execute' must be a string");
        else if (!strcmp(key, "arguments") && json_object_is_type(value, json_type_object))
            *args = value;
        else if (!strcmp(key, "arguments"))
            return qmp_error_set(error, NULL, "QMP input member 'arguments' must be an object");
        else if (strcmp(key, "id"))
            return qmp_error_set(error, NULL, "QMP input member '%.64s' is unexpected", key);
    }
    if (!*name)
        return qmp_error_set(error, NULL, "QMP input lacks member 'execute'");
    return true;
}

static bool run(struct qmp *qmp, const char *name, struct json_object *args,
                struct json_object **ret, struct qmp_error *error)
{
    const struct command *command;

    if (!strcmp(name, "qmp_capabilities")) {
        if (qmp->negotiated)
            return qmp_error_set(error, "CommandNotFound",
                                 "Capabilities negotiation is already complete, command ignored");
        qmp->negotiated = true;
        return true;
    }
    if (!qmp->negotiated)
        return qmp_error_set(error, "CommandNotFound",
                             "Expecting capabilities negotiation with 'qmp_capabilities'");
    command = find_command(qmp, name);
    if (!command)
        return qmp_error_set(error, "CommandNotFound", "The command %.64s has not been found",
                             name);
    return check_args(command, args, error) && command->serve(qmp->opaque, args, ret, error);
}

static void dispatch(struct qmp *qmp, struct json_object *request)
{
    struct json_object *args, *id, *ret = NULL;
    struct qmp_error error = {0};
    const char *name;

    if (take_apart(request, &name, &args, &id, &error) && run(qmp, name, args, &ret, &error))
        send_return(qmp, id, ret);
    else
        send_error(qmp, id, &error);
}

static void syntax_error(struct qmp *qmp, const char *why)
{
    struct qmp_error error;

    qmp_error_set(&error, NULL, "JSON parse error, %s", why);
    send_error(qmp, NULL, &error);
    json_tokener_reset(qmp->tokener);
    qmp->taken = 0;
    qmp->skipping = true;
}

/* What lies between requests: blanks, and the rest of a line that made no sense. */
static bool between(struct qmp *qmp, char c)
{
    if (qmp->skipping) {
        qmp->skipping = c != '\n';
        return true;
    }
    return !qmp->taken && isspace((unsigned char)c);
}

bool qmp_feed(struct qmp *qmp, const char *data, size_t len)
{
    while (len) {
        size_t room = QMP_REQUEST_MAX - qmp->taken;
        size_t part = len < room ? len : room;
        struct json_object *request;
        enum json_tokener_error state;
        size_t used;

        if (between(qmp, *data)) {
            data++;
            len--;
            continue;
        }
        if (!part) {
            syntax_error(qmp, "request too long");
            return false;
        }
        request = json_tokener_parse_ex(qmp->tokener, data, (int)part);
        state = json_tokener_get_error(qmp->tokener);
        used = json_tokener_get_parse_end(qmp->tokener);
        if (state == json_tokener_continue) {
            qmp->taken += part;
            data += part;
            len -= part;
            continue;
        }
        if (state != json_tokener_success || !used) {
            json_object_put(request);
            syntax_error(qmp, state != json_tokener_success ? json_tokener_error_desc(state)
                                                            : "unexpected byte");
            continue;
        }
        qmp->taken = 0;
        data += used;
        len -= used;
        dispatch(qmp, request);
        json_object_put(request);
    }
    return true;
}
