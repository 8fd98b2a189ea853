/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hostile clients of the control socket of a machine that stands still: bytes in any chunks,
 * words and whole requests of the protocol, half-read replies, hang-ups, events. Everything that
 * comes back must be JSON; what a client may make the VM keep is bounded; nothing is left of it
 * when it has gone.
 *
 * The machine is made once: its state outlasts an input, but for what clients can do to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/ctl.h"
#include "tests/lib/fuzzops.h"

#define CLIENTS   2
#define MAX_OPS   512
#define MAX_TURNS 4096
#define TRAP_IF(what)         \
    do {                      \
        if (what)             \
            __builtin_trap(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct server {
    struct machine_config config;
    struct machine *machine;
    struct vm *vm;
    struct ctl *ctl;
    struct sockaddr_un addr;
};

struct peer {
    int fd; /* -1: has hung up */
    struct json_tokener *replies;
};

static const char *const words[] = {
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\n",
    "\\ud800",
    "1e999",
    "-1",
    "18446744073709551616",
    "null",
    "true",
    "NaN",
    "\"execute\":",
    "\"arguments\":",
    "\"id\":",
    "\"device\":\"cpu0\"",
    "\"device\":\"",
    "\"from\":0",
    "\"patterns\":\"*.*,[\"",
    "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
    "\xff",
    "{\"execute\":\"qmp_capabilities\"}",
    "{\"execute\":\"inspect\",\"arguments\":{\"device\":\"i8254\"},\"id\":",
    "{\"execute\":\"inspect\",\"arguments\":{\"device\":\"cpu0\"}}",
    "{\"execute\":\"trace-read\",\"arguments\":{\"from\":0}}",
    "{\"execute\":\"trace-read\"}",
    "{\"execute\":\"",
    "\"id\":[{\"a\":[[[[[[",
    "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4",
};

/* For the end of the process. */
static struct server *server;

static void leave(void)
{
    char *path = server->addr.sun_path;

    ctl_free(server->ctl);
    machine_free(server->machine);
    unlink(path);
    *strrchr(path, '/') = 0;
    rmdir(path);
    free(server);
}

static struct server *serve(void)
{
    static const uint8_t rom[4096];
    char dir[] = "/tmp/doppel-fuzz-XXXXXX", path[64];
    struct server *s = server;
    struct err err;
    int fd;

    if (s)
        return s;
    s = calloc(1, sizeof(*s));
    TRAP_IF(!s || !mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/rom", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    TRAP_IF(fd < 0 || write(fd, rom, sizeof(rom)) != sizeof(rom));
    close(fd);
    machine_config_defaults(&s->config);
    s->config.bios = path;
    s->config.memory = 1 << 20;
    s->config.ncpus = 2;
    s->config.serial = NULL;
    s->machine = machine_new(&s->config, &err);
    TRAP_IF(!s->machine);
    unlink(path);
    s->config.bios = "rom";
    s->vm = machine_vm(s->machine);
    s->addr.sun_family = AF_UNIX;
    snprintf(s->addr.sun_path, sizeof(s->addr.sun_path), "%s/sock", dir);
    s->ctl = ctl_new(s->machine, &s->config, s->addr.sun_path, &err);
    TRAP_IF(!s->ctl);
    server = s;
    atexit(leave);
    return s;
}

static void come(struct server *s, struct peer *p)
{
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    TRAP_IF(p->fd < 0 || connect(p->fd, (struct sockaddr *)&s->addr, sizeof(s->addr)));
    p->replies = json_tokener_new_ex(2 * QMP_DEPTH);
    TRAP_IF(!p->replies);
    json_tokener_set_flags(p->replies, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS |
                                           JSON_TOKENER_VALIDATE_UTF8);
    loop_once(s->vm->loop, 0);
}

static void go(struct peer *p)
{
    if (p->fd < 0)
        return;
    close(p->fd);
    json_tokener_free(p->replies);
    p->fd = -1;
}

static void check_reply(struct json_object *reply)
{
    struct json_object *unused;

    TRAP_IF(!json_object_object_get_ex(reply, "QMP", &unused) &&
            !json_object_object_get_ex(reply, "return", &unused) &&
            !json_object_object_get_ex(reply, "error", &unused) &&
            !json_object_object_get_ex(reply, "event", &unused));
}

static void check_replies(struct peer *p, const char *data, size_t len)
{
    while (len) {
        struct json_object *reply = json_tokener_parse_ex(p->replies, data, (int)len);
        enum json_tokener_error state = json_tokener_get_error(p->replies);
        size_t used = json_tokener_get_parse_end(p->replies);

        if (state == json_tokener_continue)
            return;
        TRAP_IF(state != json_tokener_success || !used);
        check_reply(reply);
        json_object_put(reply);
        data += used;
        len -= used;
        while (len && (*data == '\r' || *data == '\n')) {
            data++;
            len--;
        }
    }
}

static void hear(struct peer *p, size_t most)
{
    char data[65536];
    ssize_t n;

    if (p->fd < 0)
        return;
    n = recv(p->fd, data, most < sizeof(data) ? most : sizeof(data), MSG_DONTWAIT);
    if (n > 0)
        check_replies(p, data, (size_t)n);
    else if (n == 0 || errno == ECONNRESET)
        go(p);
}

static void say(struct server *s, struct peer *p, const void *data, size_t len)
{
    if (p->fd >= 0 && len && send(p->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
        errno != EAGAIN)
        go(p);
    loop_once(s->vm->loop, 0);
    for (struct ctl_client *c = s->ctl->clients; c; c = c->next)
        TRAP_IF(c->out_len > CTL_OUT_MAX || c->qmp.taken > QMP_REQUEST_MAX);
}

static void say_word(struct server *s, struct peer *p, unsigned n)
{
    const struct command *c = commands;
    char text[128];

    if (n < ARRAY_LEN(words)) {
        say(s, p, words[n], strlen(words[n]));
        return;
    }
    for (n -= ARRAY_LEN(words); n && (c->name || c->verb); n--)
        c++;
    snprintf(text, sizeof(text), "{\"execute\":\"%s\"}", c->name ? c->name : "none");
    say(s, p, text, strlen(text));
}

/* Past the longest request, in one string. */
static void say_much(struct server *s, struct peer *p, unsigned char fill)
{
    char block[4096];

    memset(block, fill, sizeof(block));
    for (unsigned n = 0; n < QMP_REQUEST_MAX / sizeof(block) + 1; n++)
        say(s, p, block, sizeof(block));
}

static void step(struct server *s, struct peer *p, struct fuzz_in *in, unsigned op)
{
    uint64_t value;
    size_t n;

    switch (op % 16) {
    case 0 ... 3:
        n = fuzz_take(in, 1);
        n = n < in->size ? n : in->size;
        say(s, p, in->data, n);
        in->data += n;
        in->size -= n;
        break;
    case 4 ... 10:
        say_word(s, p, (unsigned)fuzz_take(in, 1) % 64);
        break;
    case 11:
        hear(p, 1 + fuzz_take(in, 1));
        break;
    case 12:
        hear(p, SIZE_MAX);
        break;
    case 13:
        vm_lock(s->vm);
        ctl_event(s->ctl, "RESET");
        vm_unlock(s->vm);
        break;
    case 14:
        value = 0;
        for (n = fuzz_take(in, 1); n; n--)
            bus_access(&s->vm->ports, (struct bus_from){.vcpu = -1}, 0x40, &value, 1, false);
        break;
    default:
        if (op & 0x80)
            say_much(s, p, (unsigned char)fuzz_take(in, 1));
        else
            go(p);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct server *s = serve();
    struct peer peers[CLIENTS];
    struct fuzz_in in = {data, size};

    for (unsigned i = 0; i < CLIENTS; i++)
        come(s, &peers[i]);
    for (unsigned n = 0; in.size && n < MAX_OPS; n++) {
        unsigned op = (unsigned)fuzz_take(&in, 1);

        step(s, &peers[op >> 4 & 1], &in, op);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        hear(&peers[i], SIZE_MAX);
        go(&peers[i]);
    }
    for (unsigned n = 0; s->ctl->nclients; n++) {
        TRAP_IF(n == MAX_TURNS);
        loop_once(s->vm->loop, 0);
    }
    TRAP_IF(s->ctl->clients || atomic_load(&s->vm->trace.on));
    /* A VM that was paused stays so; the next input finds it running. */
    if (s->ctl->stopped) {
        machine_resume(s->machine);
        s->ctl->stopped = false;
    }
    TRAP_IF(machine_paused(s->machine));
    atomic_store(&s->vm->request, VM_REQUEST_NONE);
    return 0;
}
