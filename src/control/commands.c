/* SPDX-License-Identifier: Apache-2.0 */
/* What a running VM answers on its control socket, and the command table. Handlers: command.h. */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/ctl.h"
#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "engine/engine.h"
#include "hw/acpi/ich9_pm.h"

#define TRACE_BATCH 256 /* records in one reply */

static void add_string(struct json_object *obj, const char *name, const char *value)
{
    json_object_object_add(obj, name, value ? json_object_new_string(value) : NULL);
}

static void add_uint(struct json_object *obj, const char *name, uint64_t value)
{
    json_object_object_add(obj, name, json_object_new_uint64(value));
}

static void add_bool(struct json_object *obj, const char *name, bool value)
{
    json_object_object_add(obj, name, json_object_new_boolean(value));
}

static const char *arg_string(struct json_object *args, const char *name)
{
    struct json_object *value;

    return args && json_object_object_get_ex(args, name, &value) ? json_object_get_string(value)
                                                                 : NULL;
}

static bool arg_uint(struct json_object *args, const char *name, uint64_t *out)
{
    struct json_object *value;

    if (!args || !json_object_object_get_ex(args, name, &value))
        return false;
    *out = json_object_get_uint64(value);
    return true;
}

/* ---- the VM ---- */

static struct ctl *ctl_of(void *opaque)
{
    return ((struct ctl_client *)opaque)->ctl;
}

static bool serve_version(void *opaque, struct json_object *args, struct json_object **ret,
                          struct qmp_error *error)
{
    struct json_object *version = json_object_new_object();

    (void)opaque, (void)args, (void)error;
    *ret = json_object_new_object();
    add_uint(version, "major", 8);
    add_uint(version, "minor", 2);
    add_uint(version, "micro", 0);
    json_object_object_add(*ret, "qemu", version);
    add_string(*ret, "package", "doppel");
    return true;
}

static bool serve_commands(void *opaque, struct json_object *args, struct json_object **ret,
                           struct qmp_error *error)
{
    const struct command *c;

    (void)opaque, (void)args, (void)error;
    *ret = json_object_new_array();
    for (c = commands; c->name || c->verb; c++) {
        struct json_object *row;

        if (!c->name)
            continue;
        row = json_object_new_object();
        add_string(row, "name", c->name);
        json_object_array_add(*ret, row);
    }
    return true;
}

static bool serve_name(void *opaque, struct json_object *args, struct json_object **ret,
                       struct qmp_error *error)
{
    (void)args, (void)error;
    *ret = json_object_new_object();
    add_string(*ret, "name", ctl_of(opaque)->vm->name);
    return true;
}

static void add_status(struct ctl *ctl, struct json_object *obj)
{
    bool paused = machine_paused(ctl->machine);

    add_string(obj, "status", paused ? "paused" : "running");
    add_bool(obj, "running", !paused);
}

static bool serve_status(void *opaque, struct json_object *args, struct json_object **ret,
                         struct qmp_error *error)
{
    (void)args, (void)error;
    *ret = json_object_new_object();
    add_bool(*ret, "singlestep", false);
    add_status(ctl_of(opaque), *ret);
    return true;
}

static bool serve_vm(void *opaque, struct json_object *args, struct json_object **ret,
                     struct qmp_error *error)
{
    struct ctl *ctl = ctl_of(opaque);
    const struct machine_config *m = ctl->config;

    (void)args, (void)error;
    *ret = json_object_new_object();
    add_string(*ret, "name", ctl->vm->name);
    add_uint(*ret, "pid", (uint64_t)getpid());
    add_status(ctl, *ret);
    add_string(*ret, "machine", m->type ? m->type : "q35");
    add_string(*ret, "engine", ctl->vm->engine->name);
    add_string(*ret, "cpu", m->cpu);
    add_uint(*ret, "cpus", ctl->vm->nvcpus);
    add_uint(*ret, "memory", m->memory);
    add_string(*ret, "clock", m->clock == CLOCK_VIRTUAL ? "virtual" : "real");
    add_uint(*ret, "time_ns", (uint64_t)clock_now(ctl->vm->clock));
    add_string(*ret, "boot", m->kernel ? m->kernel : m->bios);
    add_uint(*ret, "unknown_accesses", ctl->vm->trace.unknown);
    return true;
}

static bool serve_pause(void *opaque, struct json_object *args, struct json_object **ret,
                        struct qmp_error *error)
{
    struct ctl *ctl = ctl_of(opaque);

    (void)args, (void)ret, (void)error;
    if (ctl->stopped)
        return true;
    ctl->stopped = true;
    machine_pause(ctl->machine);
    ctl_event(ctl, "STOP");
    return true;
}

static bool serve_cont(void *opaque, struct json_object *args, struct json_object **ret,
                       struct qmp_error *error)
{
    struct ctl *ctl = ctl_of(opaque);

    (void)args, (void)ret, (void)error;
    if (!ctl->stopped)
        return true;
    ctl->stopped = false;
    machine_resume(ctl->machine);
    ctl_event(ctl, "RESUME");
    return true;
}

static bool serve_quit(void *opaque, struct json_object *args, struct json_object **ret,
                       struct qmp_error *error)
{
    (void)args, (void)ret, (void)error;
    machine_stop(ctl_of(opaque)->machine);
    return true;
}

static bool serve_reset(void *opaque, struct json_object *args, struct json_object **ret,
                        struct qmp_error *error)
{
    (void)args, (void)ret, (void)error;
    vm_request(ctl_of(opaque)->vm, VM_REQUEST_RESET, 0);
    return true;
}

static bool serve_powerdown(void *opaque, struct json_object *args, struct json_object **ret,
                            struct qmp_error *error)
{
    struct vm *vm = ctl_of(opaque)->vm;
    unsigned i;

    (void)args, (void)ret;
    for (i = 0; i < vm->ndevices; i++) {
        if (vm->devices[i]->type == &ich9_pm_type) {
            ich9_pm_power_button(vm->devices[i]);
            ctl_event(ctl_of(opaque), "POWERDOWN");
            return true;
        }
    }
    return qmp_error_set(error, "DeviceNotFound", "this machine has no power button");
}

static bool serve_report(void *opaque, struct json_object *args, struct json_object **ret,
                         struct qmp_error *error)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    (void)args;
    if (!out)
        return qmp_error_set(error, NULL, "no memory for the report");
    machine_report(ctl_of(opaque)->machine, out, "asked for by the operator");
    fclose(out);
    *ret = json_object_new_object();
    json_object_object_add(*ret, "text", json_object_new_string_len(text, (int)size));
    free(text);
    return true;
}

/* ---- inspect ---- */

static int64_t sign_extend(uint64_t value, unsigned size)
{
    unsigned shift = 64 - 8 * size;

    return (int64_t)(value << shift) >> shift;
}

static struct json_object *hex_bytes(const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * size + 1);
    struct json_object *obj;
    size_t i;

    if (!text)
        return NULL;
    for (i = 0; i < size; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    obj = json_object_new_string_len(text, (int)(2 * size));
    free(text);
    return obj;
}

static void visit_field(void *opaque, const char *path, const struct state_field *field,
                        const void *value)
{
    struct json_object *obj = NULL;
    uint64_t bits = 0;

    memcpy(&bits, value, min_u64(field->size, sizeof(bits)));
    switch (field->kind) {
    case STATE_KIND_UINT:
        obj = json_object_new_uint64(bits);
        break;
    case STATE_KIND_INT:
        obj = json_object_new_int64(sign_extend(bits, field->size));
        break;
    case STATE_KIND_BOOL:
        obj = json_object_new_boolean(bits & 1);
        break;
    case STATE_KIND_BYTES:
        obj = hex_bytes(value, field->size);
        break;
    case STATE_KIND_STRUCT:
        return;
    }
    json_object_object_add(opaque, path, obj);
}

/* Not a device, but asked in the same way: what the engine tells of itself. */
#define JIT "jit"

static void list_one(struct json_object *list, const char *name, const char *type, const char *desc)
{
    struct json_object *row = json_object_new_object();

    add_string(row, "name", name);
    add_string(row, "type", type);
    add_string(row, "description", desc);
    json_object_array_add(list, row);
}

static bool serve_devices(void *opaque, struct json_object *args, struct json_object **ret,
                          struct qmp_error *error)
{
    struct vm *vm = ctl_of(opaque)->vm;
    char name[16];
    unsigned i;

    (void)args, (void)error;
    *ret = json_object_new_array();
    for (i = 0; i < vm->nvcpus; i++) {
        snprintf(name, sizeof(name), "cpu%u", i);
        list_one(*ret, name, "cpu", "processor");
    }
    for (i = 0; i < vm->ndevices; i++)
        list_one(*ret, vm->devices[i]->name, vm->devices[i]->type->name,
                 vm->devices[i]->type->desc);
    if (vm->engine->inspect)
        list_one(*ret, JIT, "engine", "the translator's counters");
    return true;
}

/* By its place, or by its type if there is one of that. */
static struct device *find_device(struct vm *vm, const char *name)
{
    struct device *found = device_find(vm, name);
    unsigned i, n = 0;

    for (i = 0; !found && i < vm->ndevices; i++)
        n += !strcmp(vm->devices[i]->type->name, name);
    for (i = 0; !found && n == 1 && i < vm->ndevices; i++)
        if (!strcmp(vm->devices[i]->type->name, name))
            found = vm->devices[i];
    return found;
}

static struct vcpu *find_vcpu(struct vm *vm, const char *name)
{
    char ours[16];
    unsigned i;

    for (i = 0; i < vm->nvcpus; i++) {
        snprintf(ours, sizeof(ours), "cpu%u", i);
        if (!strcmp(ours, name))
            return vm->vcpus[i];
    }
    return NULL;
}

static struct json_object *vcpu_state(struct ctl *ctl, struct vcpu *vcpu)
{
    struct json_object *state = json_object_new_object();
    struct cpu_state *cs = calloc(1, sizeof(*cs));

    if (!cs)
        return state;
    machine_pause(ctl->machine);
    ctl->vm->engine->get(vcpu, cs);
    machine_resume(ctl->machine);
    state_visit(&cpu_state_table, cs, visit_field, state);
    free(cs);
    return state;
}

static void add_counter(void *opaque, const char *name, uint64_t value)
{
    add_uint(opaque, name, value);
}

static bool serve_jit(struct ctl *ctl, struct json_object **ret, struct qmp_error *error)
{
    const struct engine *engine = ctl->vm->engine;
    struct json_object *state;

    if (!engine->inspect)
        return qmp_error_set(error, "DeviceNotFound", "engine '%s' translates nothing",
                             engine->name);
    state = json_object_new_object();
    machine_pause(ctl->machine);
    engine->inspect(ctl->vm, add_counter, state);
    machine_resume(ctl->machine);
    *ret = json_object_new_object();
    add_string(*ret, "name", JIT);
    add_string(*ret, "type", "engine");
    add_string(*ret, "description", "the translator's counters");
    json_object_object_add(*ret, "state", state);
    return true;
}

static bool serve_inspect(void *opaque, struct json_object *args, struct json_object **ret,
                          struct qmp_error *error)
{
    struct ctl *ctl = ctl_of(opaque);
    const char *name = arg_string(args, "device");
    struct vcpu *vcpu = find_vcpu(ctl->vm, name);
    struct device *dev = vcpu ? NULL : find_device(ctl->vm, name);
    struct json_object *state;

    if (!vcpu && !dev && !strcmp(name, JIT))
        return serve_jit(ctl, ret, error);
    if (!vcpu && !dev)
        return qmp_error_set(error, "DeviceNotFound", "there is no device '%.64s' in this VM",
                             name);
    state = vcpu ? vcpu_state(ctl, vcpu) : json_object_new_object();
    if (dev && !dev->type->state->none)
        state_visit(dev->type->state, dev, visit_field, state);
    *ret = json_object_new_object();
    add_string(*ret, "name", vcpu ? name : dev->name);
    add_string(*ret, "type", vcpu ? "cpu" : dev->type->name);
    add_string(*ret, "description", vcpu ? "processor" : dev->type->desc);
    if (dev) {
        add_uint(*ret, "unknown_accesses", dev->bad_accesses);
        add_uint(*ret, "guest_errors", dev->guest_errs);
        add_string(*ret, "no_state", dev->type->state->none);
    }
    json_object_object_add(*ret, "state", state);
    return true;
}

/* ---- trace ---- */

static struct json_object *trace_object(const struct trace_rec *rec)
{
    struct json_object *obj = json_object_new_object();
    char text[256];

    trace_format(rec, text, sizeof(text));
    json_object_object_add(obj, "ns", json_object_new_int64(rec->ns));
    add_string(obj, "kind", trace_kind_name(rec->kind));
    json_object_object_add(obj, "cpu", json_object_new_int(rec->vcpu));
    add_string(obj, "device", rec->device);
    add_string(obj, "name", rec->name);
    add_uint(obj, "addr", rec->addr);
    add_uint(obj, "value", rec->value);
    add_uint(obj, "extra", rec->extra);
    add_uint(obj, "size", rec->size);
    add_bool(obj, "write", rec->write);
    add_uint(obj, "rip", rec->rip);
    add_string(obj, "text", text);
    return obj;
}

/* A client that has asked once keeps the trace points on until it leaves. */
static void start_tracing(struct ctl_client *client)
{
    if (client->tracing)
        return;
    client->tracing = true;
    trace_listen(&client->ctl->vm->trace, true);
}

static bool serve_trace(void *opaque, struct json_object *args, struct json_object **ret,
                        struct qmp_error *error)
{
    struct ctl_client *client = opaque;
    struct trace *trace = &client->ctl->vm->trace;
    const char *patterns = arg_string(args, "patterns");
    struct trace_rec recs[TRACE_BATCH];
    uint64_t from, next;
    struct json_object *list = json_object_new_array();
    unsigned i, n;

    (void)error;
    start_tracing(client);
    if (!arg_uint(args, "from", &from))
        from = atomic_load(&trace->head);
    n = trace_read(trace, from, recs, TRACE_BATCH, &next);
    for (i = 0; i < n; i++)
        if (trace_match(patterns, &recs[i]))
            json_object_array_add(list, trace_object(&recs[i]));
    *ret = json_object_new_object();
    json_object_object_add(*ret, "records", list);
    add_uint(*ret, "next", next);
    add_uint(*ret, "lost", next >= from + n ? next - n - from : 0);
    add_bool(*ret, "more", n == TRACE_BATCH);
    return true;
}

/* ---- the table ---- */

static const struct command_arg inspect_args[] = {{"device", ARG_STRING, true}, {NULL, 0, false}};
static const struct command_arg trace_args[] = {
    {"from", ARG_UINT, false},
    {"patterns", ARG_STRING, false},
    {NULL, 0, false},
};

const struct command commands[] = {
    {.verb = "run", .usage = "[OPTION...] [THING]", .main = run_main, .help = "start a VM"},
    {.name = "query-vm",
     .serve = serve_vm,
     .verb = "ps",
     .usage = "[--json]",
     .main = ps_main,
     .help = "list the running VMs"},
    {.name = "inspect",
     .args = inspect_args,
     .serve = serve_inspect,
     .verb = "inspect",
     .usage = "NAME [DEVICE] [--json]",
     .main = inspect_main,
     .help = "a device's state by name; cpu0: a processor; jit: the translator; or the list"},
    {.name = "trace-read",
     .args = trace_args,
     .serve = serve_trace,
     .verb = "trace",
     .usage = "NAME [PATTERNS] [--json]",
     .main = trace_main,
     .help = "follow the accesses of a VM"},
    {.name = "quit",
     .serve = serve_quit,
     .verb = "stop",
     .usage = "NAME [--powerdown]",
     .main = stop_main,
     .help = "end a VM at once, or press its power button"},
    {.name = "report",
     .serve = serve_report,
     .verb = "report",
     .usage = "NAME",
     .main = report_main,
     .help = "what the processors are doing, and the last accesses"},
    {.verb = "doctor", .usage = "[--json]", .main = doctor_main, .help = "what this host can do"},
    {.name = "query-devices", .serve = serve_devices, .help = "the devices by name"},
    {.name = "query-commands", .serve = serve_commands, .help = "this table"},
    {.name = "query-version", .serve = serve_version, .help = "of the protocol"},
    {.name = "query-name", .serve = serve_name, .help = "the VM's name"},
    {.name = "query-status", .serve = serve_status, .help = "running or paused"},
    {.name = "stop", .serve = serve_pause, .help = "pause the VM"},
    {.name = "cont", .serve = serve_cont, .help = "let it run again"},
    {.name = "system_reset", .serve = serve_reset, .help = "warm reset"},
    {.name = "system_powerdown", .serve = serve_powerdown, .help = "press the power button"},
    {.help = NULL},
};
