/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
/*
 * unix:PATH: listens on a socket; one client at a time, the next one waits. What the guest writes
 * while nobody listens is kept up to a bound, the latest of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/char/charfd.h"
#include "core/vm.h"

struct unix_char {
    struct charfd c; /* first */
    int listen_fd;
    bool listening; /* the loop watches listen_fd */
};

static void listen_again(struct unix_char *u);

static void client_gone(struct charfd *c)
{
    charfd_close(c);
    listen_again((struct unix_char *)c);
}

static void client_came(void *opaque, unsigned ready)
{
    struct unix_char *u = opaque;
    int fd = accept4(u->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)ready;
    if (fd < 0)
        return;
    loop_del_fd(u->c.vm->loop, u->listen_fd);
    u->listening = false;
    charfd_reopen(&u->c, fd, fd);
}

static void listen_again(struct unix_char *u)
{
    if (u->c.vm->loop && !u->listening)
        u->listening = loop_add_fd(u->c.vm->loop, u->listen_fd, LOOP_IN, client_came, u) >= 0;
}

/* The file itself stays for whoever named it (control/janitor.c takes it away): no unlink in the
 * sandbox. */
static void unix_closed(struct charfd *c)
{
    struct unix_char *u = (struct unix_char *)c;

    if (u->listening)
        loop_del_fd(c->vm->loop, u->listen_fd);
    close(u->listen_fd);
}

/* A socket file that nobody listens on is left over from a VM that is gone. */
static bool stale(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct stat st;
    bool dead;

    if (fd < 0)
        return false;
    dead = lstat(addr->sun_path, &st) == 0 && S_ISSOCK(st.st_mode) &&
           connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

static int open_listener(const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd, r;

    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, ENAMETOOLONG,
                       "%s is too long for a socket; use at most %zu characters.", path,
                       sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, errno, "a socket cannot be made: %s.", strerror(errno));
    if (stale(&addr))
        unlink(path);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0) {
        r = err_set(err, errno, "%s cannot be listened on: %s.", path,
                    errno == EADDRINUSE ? "the file exists; remove it or choose another name"
                                        : strerror(errno));
        close(fd);
        return r;
    }
    return fd;
}

struct chardev *chardev_unix_open(struct vm *vm, const char *path, struct err *err)
{
    struct unix_char *u = calloc(1, sizeof(*u));

    if (!u) {
        err_set(err, ENOMEM, "no memory for a serial port.");
        return NULL;
    }
    u->listen_fd = open_listener(path, err);
    if (u->listen_fd < 0)
        goto fail;
    if (charfd_init(&u->c, vm, "serial socket", -1, -1, err) < 0)
        goto fail_close;
    u->c.keep_latest = true;
    u->c.hangup = client_gone;
    u->c.closed = unix_closed;
    listen_again(u);
    return &u->c.chr;

fail_close:
    close(u->listen_fd);
    free(u->c.out);
    free(u->c.in);
fail:
    free(u);
    return NULL;
}
