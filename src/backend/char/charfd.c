/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "backend/char/charfd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "core/vm.h"

#define FLUSH_MS 2000 /* how long the end of a VM waits for a reader */

static void charfd_event(void *opaque, unsigned ready);

/* ---- the loop's view ------------------------------------------------------------------------- */

/*
 * A descriptor nothing is wanted from is taken off altogether: a hung-up pipe reports itself even
 * to those who asked for no event. Returns false if it cannot be waited for at all.
 */
static bool watch(struct charfd *c, int fd, uint32_t *now, uint32_t want)
{
    int r = 0;

    if (*now == want)
        return true;
    if (!want)
        loop_del_fd(c->vm->loop, fd);
    else if (*now)
        loop_mod_fd(c->vm->loop, fd, want);
    else
        r = loop_add_fd(c->vm->loop, fd, want, charfd_event, c);
    *now = r < 0 ? 0 : want;
    return r >= 0;
}

static size_t guest_room(const struct charfd *c)
{
    return c->chr.can_receive ? c->chr.can_receive(c->chr.opaque) : 0;
}

/* How much may be read from the descriptor now. */
static size_t read_room(const struct charfd *c)
{
    size_t room = CHARFD_IN_MAX - c->in_len;

    if (c->in_fd < 0)
        return 0;
    if (c->read_ahead)
        return CHARFD_IN_MAX; /* what does not fit is looked at and dropped */
    return min_u64(room, guest_room(c));
}

static void update(struct charfd *c)
{
    uint32_t in = read_room(c) ? LOOP_IN : 0;
    uint32_t out = c->out_fd >= 0 && c->out_len ? LOOP_OUT : 0;

    if (!c->vm->loop)
        return;
    if (c->in_fd >= 0 && c->in_fd == c->out_fd) {
        watch(c, c->in_fd, &c->in_events, in | out);
        return;
    }
    if (c->in_fd >= 0 && !c->in_ready_always && !watch(c, c->in_fd, &c->in_events, in))
        c->in_ready_always = true;
    if (c->out_fd >= 0 && !c->out_ready_always && !watch(c, c->out_fd, &c->out_events, out))
        c->out_ready_always = true;
    if (in && c->in_ready_always)
        loop_post(c->vm->loop, &c->work);
}

/* ---- output ---------------------------------------------------------------------------------- */

/* A reader that went away loses output; the guest does not notice, as with an unplugged cable. */
static void output_failed(struct charfd *c)
{
    if (c->hangup)
        c->hangup(c);
    else
        c->out_len = 0;
}

static void pump_out(struct charfd *c)
{
    while (c->out_fd >= 0 && c->out_len) {
        size_t run = min_u64(c->out_len, CHARFD_OUT_MAX - c->out_pos);
        ssize_t n = write(c->out_fd, c->out + c->out_pos, run);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0) {
            output_failed(c);
            return;
        }
        c->out_pos = (c->out_pos + (size_t)n) % CHARFD_OUT_MAX;
        c->out_len -= (size_t)n;
    }
    c->dropping = false;
}

static void keep(struct charfd *c, const uint8_t *data, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        if (c->out_len == CHARFD_OUT_MAX) {
            if (!c->dropping && !c->keep_latest)
                log_warn(c->what, "nobody reads the output fast enough; some of it is dropped.");
            c->dropping = true;
            if (!c->keep_latest)
                return;
            c->out_pos = (c->out_pos + 1) % CHARFD_OUT_MAX;
            c->out_len--;
        }
        c->out[(c->out_pos + c->out_len++) % CHARFD_OUT_MAX] = data[i];
    }
}

static void charfd_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    struct charfd *c = container_of(chr, struct charfd, chr);

    while (!c->out_len && len && c->out_fd >= 0) {
        ssize_t n = write(c->out_fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            output_failed(c);
            if (!c->hangup)
                return;
        }
        if (n < 0)
            break;
        data += n;
        len -= (size_t)n;
    }
    if (!len)
        return;
    keep(c, data, len);
    if (c->out_fd >= 0 && !(c->out_events & LOOP_OUT) && c->vm->loop)
        loop_post(c->vm->loop, &c->work);
}

/* ---- input ----------------------------------------------------------------------------------- */

static void deliver(struct charfd *c)
{
    size_t room;

    while (c->in_len && (room = guest_room(c)) > 0) {
        uint8_t bytes[256];
        size_t i, n = min_u64(min_u64(room, c->in_len), sizeof(bytes));

        /* VM time stands for icount: with a virtual clock they move together. */
        for (i = 0; i < n; i++)
            bytes[i] = (uint8_t)gate_input(&c->vm->gate, GATE_INPUT,
                                           (uint64_t)clock_now(c->vm->clock), c->in[c->in_pos + i]);
        c->in_pos += n;
        c->in_len -= n;
        c->chr.receive(c->chr.opaque, bytes, n);
    }
    if (!c->in_len)
        c->in_pos = 0;
}

static void input_ended(struct charfd *c)
{
    if (c->hangup) {
        c->hangup(c);
        return;
    }
    watch(c, c->in_fd, &c->in_events, 0);
    close(c->in_fd);
    c->in_fd = -1;
    c->in_ready_always = false;
}

/* One bounded read: the loop comes back for more. */
static void pump_in(struct charfd *c)
{
    uint8_t bytes[4096];
    size_t room = min_u64(read_room(c), sizeof(bytes)), kept;
    ssize_t n;

    if (!room)
        return;
    n = read(c->in_fd, bytes, room);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        input_ended(c);
        return;
    }
    kept = c->filter ? c->filter(c, bytes, (size_t)n) : (size_t)n;
    if (c->in_pos) {
        memmove(c->in, c->in + c->in_pos, c->in_len);
        c->in_pos = 0;
    }
    kept = min_u64(kept, CHARFD_IN_MAX - c->in_len);
    memcpy(c->in + c->in_len, bytes, kept);
    c->in_len += kept;
}

static void charfd_event(void *opaque, unsigned ready)
{
    struct charfd *c = opaque;

    pump_out(c);
    if (ready & LOOP_IN)
        pump_in(c);
    deliver(c);
    update(c);
}

static void charfd_work(void *opaque)
{
    struct charfd *c = opaque;

    charfd_event(c, c->in_ready_always ? LOOP_IN : 0);
}

/* Called inside the device's read handler: the bytes come later, from the loop. */
static void charfd_accept_input(struct chardev *chr)
{
    struct charfd *c = container_of(chr, struct charfd, chr);

    if (c->vm->loop && (c->in_len || (c->in_fd >= 0 && !(c->in_events & LOOP_IN))))
        loop_post(c->vm->loop, &c->work);
}

/* ---- life ------------------------------------------------------------------------------------ */

int charfd_private(int fd, int flags)
{
    char path[32];
    struct stat st;
    int r;

    /* A regular file never blocks, and its offset is to be shared. */
    if (fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
        return fcntl(fd, F_DUPFD_CLOEXEC, 3);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (r >= 0)
        return r;
    /* Sockets cannot be opened anew: their flag is shared after all. */
    r = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (r >= 0 && S_ISSOCK(st.st_mode))
        fcntl(r, F_SETFL, fcntl(r, F_GETFL) | O_NONBLOCK);
    return r;
}

int charfd_init(struct charfd *c, struct vm *vm, const char *what, int in_fd, int out_fd,
                struct err *err)
{
    c->chr.ops = &charfd_ops;
    c->vm = vm;
    c->what = what;
    c->in_fd = in_fd;
    c->out_fd = out_fd;
    c->work.fn = charfd_work;
    c->work.opaque = c;
    c->out = malloc(CHARFD_OUT_MAX);
    c->in = malloc(CHARFD_IN_MAX);
    if (!c->out || !c->in)
        return err_set(err, ENOMEM, "%s: no memory for its buffers.", what);
    /* The device that reads the input is attached by the time the loop runs this. */
    if (vm->loop)
        loop_post(vm->loop, &c->work);
    return 0;
}

void charfd_close(struct charfd *c)
{
    int in_fd = c->in_fd, out_fd = c->out_fd;

    if (in_fd >= 0 && c->in_events)
        loop_del_fd(c->vm->loop, in_fd);
    if (out_fd >= 0 && c->out_events)
        loop_del_fd(c->vm->loop, out_fd);
    if (in_fd >= 0)
        close(in_fd);
    if (out_fd >= 0 && out_fd != in_fd)
        close(out_fd);
    c->in_fd = c->out_fd = -1;
    c->in_events = c->out_events = 0;
    c->in_ready_always = c->out_ready_always = false;
}

void charfd_reopen(struct charfd *c, int in_fd, int out_fd)
{
    c->in_fd = in_fd;
    c->out_fd = out_fd;
    pump_out(c);
    update(c);
}

/* The last lines of a guest matter most: waits for a reader, but not for ever. */
static void flush(struct charfd *c)
{
    struct pollfd p = {.fd = c->out_fd, .events = POLLOUT};

    pump_out(c);
    while (c->out_fd >= 0 && c->out_len && poll(&p, 1, FLUSH_MS) > 0)
        pump_out(c);
}

static void charfd_free(struct chardev *chr)
{
    struct charfd *c = container_of(chr, struct charfd, chr);

    flush(c);
    if (c->vm->loop)
        loop_cancel(c->vm->loop, &c->work);
    charfd_close(c);
    if (c->closed)
        c->closed(c);
    free(c->out);
    free(c->in);
    free(c);
}

const struct chardev_ops charfd_ops = {
    .write = charfd_write,
    .accept_input = charfd_accept_input,
    .free = charfd_free,
};
