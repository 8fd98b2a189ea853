/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a machine that stands still: slow clients, many clients. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/ctl.h"
#include "core/vm.h"
#include "tests/lib/unit.h"

#define HELLO "{\"execute\":\"qmp_capabilities\"}"
#define TURNS 20000

struct fixture {
    char dir[32];
    struct machine_config config;
    struct machine *machine;
    struct vm *vm;
    struct ctl *ctl;
    struct sockaddr_un addr;
};

static struct fixture *setup(void)
{
    static const uint8_t rom[4096];
    struct fixture *f = calloc(1, sizeof(*f));
    char path[64];
    struct err err;
    int fd;

    strcpy(f->dir, "/tmp/doppel-ctl-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(path, sizeof(path), "%s/rom", f->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, rom, sizeof(rom)), sizeof(rom));
    close(fd);
    machine_config_defaults(&f->config);
    f->config.bios = path;
    f->config.memory = 1 << 20;
    f->config.serial = NULL;
    f->machine = machine_new(&f->config, &err);
    assert_non_null(f->machine);
    unlink(path);
    f->config.bios = "rom";
    f->vm = machine_vm(f->machine);
    f->addr.sun_family = AF_UNIX;
    snprintf(f->addr.sun_path, sizeof(f->addr.sun_path), "%s/sock", f->dir);
    f->ctl = ctl_new(f->machine, &f->config, f->addr.sun_path, &err);
    assert_non_null(f->ctl);
    return f;
}

static void teardown(struct fixture *f)
{
    ctl_free(f->ctl);
    machine_free(f->machine);
    unlink(f->addr.sun_path);
    rmdir(f->dir);
    free(f);
}

static int come(struct fixture *f)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&f->addr, sizeof(f->addr)), 0);
    loop_once(f->vm->loop, 0);
    return fd;
}

/* Connected, negotiated, and nothing left to read. */
static int come_and_say_hello(struct fixture *f)
{
    char text[1024];
    int fd = come(f);

    assert_int_equal(send(fd, HELLO, strlen(HELLO), 0), strlen(HELLO));
    loop_once(f->vm->loop, 0);
    assert_true(recv(fd, text, sizeof(text), 0) > 0);
    return fd;
}

static void event(struct fixture *f)
{
    vm_lock(f->vm);
    ctl_event(f->ctl, "STOP");
    vm_unlock(f->vm);
}

/* All that comes until nothing does any more; how many events that were. */
static unsigned count_events(struct fixture *f, int fd)
{
    char text[65536];
    unsigned events = 0;
    ssize_t n;

    do {
        n = recv(fd, text, sizeof(text), 0);
        for (ssize_t i = 0; i < n; i++)
            events += text[i] == '\n';
        loop_once(f->vm->loop, 0);
    } while (n > 0);
    return events;
}

TEST_F(events_that_did_not_fit_follow)
{
    int fd = come_and_say_hello(f);
    unsigned sent = 0;

    while (!f->ctl->clients->out_len) {
        event(f);
        sent++;
    }
    event(f);
    assert_int_equal(count_events(f, fd), sent + 1);
    assert_int_equal(f->ctl->clients->out_len, 0);
    close(fd);
}

TEST_F(client_that_reads_no_events_is_dropped)
{
    int slow = come_and_say_hello(f), other = come_and_say_hello(f);

    for (unsigned n = 0; f->ctl->nclients == 2; n++) {
        assert_true(n < 10 * TURNS);
        event(f);
        count_events(f, other);
    }
    assert_int_equal(f->ctl->nclients, 1);
    event(f);
    assert_int_equal(count_events(f, other), 1);
    close(slow);
    close(other);
}

TEST_F(clients_are_counted)
{
    int fd[CTL_MAX_CLIENTS], one_more;
    char byte;

    for (unsigned i = 0; i < CTL_MAX_CLIENTS; i++)
        fd[i] = come(f);
    one_more = come(f);
    assert_int_equal(f->ctl->nclients, CTL_MAX_CLIENTS);
    assert_int_equal(recv(one_more, &byte, 1, 0), 0);
    close(one_more);
    for (unsigned i = 0; i < CTL_MAX_CLIENTS; i++)
        close(fd[i]);
    for (unsigned n = 0; f->ctl->nclients; n++) {
        assert_true(n < TURNS);
        loop_once(f->vm->loop, 0);
    }
}

TEST_F(pausing_tells_the_other_client)
{
    static const char stop[] = "{\"execute\":\"stop\"}{\"execute\":\"stop\"}{\"execute\":\"cont\"}";
    int one = come_and_say_hello(f), other = come_and_say_hello(f);

    assert_int_equal(send(one, stop, strlen(stop), 0), strlen(stop));
    loop_once(f->vm->loop, 0);
    assert_int_equal(count_events(f, other), 2); /* STOP, RESUME */
    assert_int_equal(count_events(f, one), 5);
    assert_false(machine_paused(f->machine));
    close(one);
    close(other);
}
