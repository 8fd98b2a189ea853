/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs that ask a running VM: ps, inspect, trace, stop, report. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "control/client.h"
#include "control/command.h"
#include "control/rundir.h"

#define FOLLOW_MS    20
#define STOP_SECONDS 30

enum { STATUS_OK, STATUS_FAILED, STATUS_USAGE };

/* What every verb takes: flags, and up to two words. */
struct words {
    const char *verb;
    bool json, powerdown;
    const char *word[2];
    int n;
};

static int failed(const char *verb, const struct err *err)
{
    fprintf(stderr, "doppel %s: %s\n", verb, err->text);
    return STATUS_FAILED;
}

static bool usage(const char *verb)
{
    const struct command *c;

    for (c = commands; c->name || c->verb; c++)
        if (c->verb && !strcmp(c->verb, verb))
            fprintf(stderr, "usage: doppel %s %s\n", c->verb, c->usage);
    return false;
}

static bool parse(struct words *w, int argc, char **argv, int min, int max, bool powerdown)
{
    int i;

    *w = (struct words){.verb = argv[0]};
    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--json")) {
            w->json = true;
        } else if (powerdown && !strcmp(argv[i], "--powerdown")) {
            w->powerdown = true;
        } else if (argv[i][0] == '-' || w->n == max) {
            fprintf(stderr, "doppel %s: '%s' is not understood.\n", argv[0], argv[i]);
            return usage(argv[0]);
        } else {
            w->word[w->n++] = argv[i];
        }
    }
    if (w->n < min) {
        fprintf(stderr, "doppel %s: the name of a VM is missing; doppel ps lists them.\n", argv[0]);
        return usage(argv[0]);
    }
    return true;
}

static void print_json(struct json_object *obj)
{
    puts(json_object_to_json_string_ext(obj,
                                        JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static const char *text_of(struct json_object *obj, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(obj, name, &value) && value ? json_object_get_string(value)
                                                                 : "";
}

static uint64_t uint_of(struct json_object *obj, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(obj, name, &value) ? json_object_get_uint64(value) : 0;
}

/* One question to one VM. */
static int ask(const char *vm, const char *command, struct json_object *args,
               struct json_object **ret, struct err *err)
{
    struct client client;
    int r = client_open(&client, vm, err);

    if (r < 0) {
        json_object_put(args);
        return r;
    }
    r = client_call(&client, command, args, ret, err);
    client_close(&client);
    return r;
}

/* ---- ps ----------------------------------------------------------------------------------------
 */

static void ps_one(void *opaque, const char *name, pid_t pid)
{
    struct json_object *vm = NULL;
    struct err err;

    /* One that is starting, ending or hung is listed all the same. */
    if (ask(name, "query-vm", NULL, &vm, &err) < 0) {
        vm = json_object_new_object();
        json_object_object_add(vm, "name", json_object_new_string(name));
        json_object_object_add(vm, "pid", json_object_new_int(pid));
        json_object_object_add(vm, "status", json_object_new_string("unreachable"));
    }
    json_object_array_add(opaque, vm);
}

int ps_main(int argc, char **argv)
{
    struct json_object *list;
    struct words w;
    struct err err;
    size_t i;

    if (!parse(&w, argc, argv, 0, 0, false))
        return STATUS_USAGE;
    list = json_object_new_array();
    if (rundir_each(ps_one, list, &err) < 0) {
        json_object_put(list);
        return failed(w.verb, &err);
    }
    if (w.json)
        print_json(list);
    else
        printf("%-20s %8s %-11s %4s %7s %9s  %s\n", "NAME", "PID", "STATUS", "CPUS", "MEMORY",
               "TIME", "BOOT");
    for (i = 0; !w.json && i < json_object_array_length(list); i++) {
        struct json_object *vm = json_object_array_get_idx(list, i);
        uint64_t seconds = uint_of(vm, "time_ns") / 1000000000;

        printf("%-20s %8" PRIu64 " %-11s %4" PRIu64 " %6" PRIu64 "M %6" PRIu64 ":%02" PRIu64
               "  %s\n",
               text_of(vm, "name"), uint_of(vm, "pid"), text_of(vm, "status"), uint_of(vm, "cpus"),
               uint_of(vm, "memory") >> 20, seconds / 60, seconds % 60, text_of(vm, "boot"));
    }
    json_object_put(list);
    return STATUS_OK;
}

/* ---- inspect -----------------------------------------------------------------------------------
 */

static void print_devices(struct json_object *list)
{
    size_t i;

    for (i = 0; i < json_object_array_length(list); i++) {
        struct json_object *dev = json_object_array_get_idx(list, i);

        printf("%-24s %-14s %s\n", text_of(dev, "name"), text_of(dev, "type"),
               text_of(dev, "description"));
    }
}

static void print_device(struct json_object *dev)
{
    const char *no_state = text_of(dev, "no_state");
    struct json_object *state;
    bool counters = !strcmp(text_of(dev, "type"), "engine");

    printf("%s (%s): %s\n", text_of(dev, "name"), text_of(dev, "type"),
           text_of(dev, "description"));
    if (uint_of(dev, "unknown_accesses"))
        printf("  accesses to unknown registers: %" PRIu64 "\n", uint_of(dev, "unknown_accesses"));
    if (uint_of(dev, "guest_errors"))
        printf("  guest errors: %" PRIu64 "\n", uint_of(dev, "guest_errors"));
    if (*no_state)
        printf("  no state: %s\n", no_state);
    if (!json_object_object_get_ex(dev, "state", &state))
        return;
    json_object_object_foreach(state, path, value)
    {
        if (counters)
            printf("  %-28s %15" PRIu64 "\n", path, json_object_get_uint64(value));
        else if (json_object_is_type(value, json_type_int) && json_object_get_int64(value) < 0)
            printf("  %-28s %" PRId64 "\n", path, json_object_get_int64(value));
        else if (json_object_is_type(value, json_type_int))
            printf("  %-28s %#" PRIx64 "\n", path, json_object_get_uint64(value));
        else
            printf("  %-28s %s\n", path, json_object_get_string(value));
    }
}

int inspect_main(int argc, char **argv)
{
    struct json_object *args = NULL, *ret = NULL;
    struct words w;
    struct err err;

    if (!parse(&w, argc, argv, 1, 2, false))
        return STATUS_USAGE;
    if (w.n == 2) {
        args = json_object_new_object();
        json_object_object_add(args, "device", json_object_new_string(w.word[1]));
    }
    if (ask(w.word[0], w.n == 2 ? "inspect" : "query-devices", args, &ret, &err) < 0)
        return failed(w.verb, &err);
    if (w.json)
        print_json(ret);
    else if (w.n == 2)
        print_device(ret);
    else
        print_devices(ret);
    json_object_put(ret);
    return STATUS_OK;
}

/* ---- trace -------------------------------------------------------------------------------------
 */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void print_records(const struct words *w, struct json_object *batch)
{
    struct json_object *records;
    size_t i;

    if (uint_of(batch, "lost"))
        fprintf(stderr, "doppel trace: %" PRIu64 " records came too fast and are missing here.\n",
                uint_of(batch, "lost"));
    if (!json_object_object_get_ex(batch, "records", &records))
        return;
    for (i = 0; i < json_object_array_length(records); i++) {
        struct json_object *rec = json_object_array_get_idx(records, i);

        puts(w->json ? json_object_to_json_string_ext(rec, JSON_C_TO_STRING_PLAIN)
                     : text_of(rec, "text"));
    }
    fflush(stdout);
}

int trace_main(int argc, char **argv)
{
    struct client client;
    struct words w;
    struct err err;
    uint64_t from = 0;
    bool started = false;
    int r;

    if (!parse(&w, argc, argv, 1, 2, false))
        return STATUS_USAGE;
    if (client_open(&client, w.word[0], &err) < 0)
        return failed(w.verb, &err);
    for (;;) {
        struct json_object *args = json_object_new_object(), *batch = NULL, *more;

        if (started)
            json_object_object_add(args, "from", json_object_new_uint64(from));
        if (w.n == 2)
            json_object_object_add(args, "patterns", json_object_new_string(w.word[1]));
        r = client_call(&client, "trace-read", args, &batch, &err);
        if (r < 0)
            break;
        print_records(&w, batch);
        from = uint_of(batch, "next");
        started = true;
        if (!json_object_object_get_ex(batch, "more", &more) || !json_object_get_boolean(more))
            pause_ms(FOLLOW_MS);
        json_object_put(batch);
        if (ferror(stdout))
            break;
    }
    client_close(&client);
    /* The end of the VM is the end of its trace, not a failure. */
    return r == -EPIPE || r == 0 ? STATUS_OK : failed(w.verb, &err);
}

/* ---- stop, report ------------------------------------------------------------------------------
 */

int stop_main(int argc, char **argv)
{
    struct words w;
    struct err err;
    int i, r;

    if (!parse(&w, argc, argv, 1, 1, true))
        return STATUS_USAGE;
    r = ask(w.word[0], w.powerdown ? "system_powerdown" : "quit", NULL, NULL, &err);
    /* A VM that ends faster than it answers has done what it was told. */
    if (r < 0 && r != -EPIPE)
        return failed(w.verb, &err);
    for (i = 0; rundir_alive(w.word[0]); i++) {
        if (i == STOP_SECONDS * 1000 / FOLLOW_MS) {
            err_set(&err, ETIMEDOUT, "%s still runs after %d seconds%s.", w.word[0], STOP_SECONDS,
                    w.powerdown ? "; its guest may not listen to the power button" : "");
            return failed(w.verb, &err);
        }
        pause_ms(FOLLOW_MS);
    }
    return STATUS_OK;
}

int report_main(int argc, char **argv)
{
    struct json_object *ret = NULL;
    struct words w;
    struct err err;

    if (!parse(&w, argc, argv, 1, 1, false))
        return STATUS_USAGE;
    if (ask(w.word[0], "report", NULL, &ret, &err) < 0)
        return failed(w.verb, &err);
    if (w.json)
        print_json(ret);
    else
        fputs(text_of(ret, "text"), stdout);
    json_object_put(ret);
    return STATUS_OK;
}
