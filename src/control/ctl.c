/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "control/ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/vm.h"

static void client_free(struct ctl_client *client)
{
    struct ctl *ctl = client->ctl;
    struct ctl_client **p = &ctl->clients;

    while (*p != client)
        p = &(*p)->next;
    *p = client->next;
    ctl->nclients--;
    if (client->tracing)
        trace_listen(&ctl->vm->trace, false);
    loop_del_fd(ctl->vm->loop, client->fd);
    close(client->fd);
    qmp_fini(&client->qmp);
    free(client->out);
    free(client);
}

/* ---- output ------------------------------------------------------------------------------------
 */

static void flush(struct ctl_client *client)
{
    size_t done = 0;

    while (done < client->out_len) {
        ssize_t n = send(client->fd, client->out + done, client->out_len - done,
                         MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            client->dead = true;
        if (n < 0)
            break;
        done += (size_t)n;
    }
    if (!done)
        return; /* most often, for a client that reads nothing: nothing moves */
    memmove(client->out, client->out + done, client->out_len - done);
    client->out_len -= done;
}

static void client_send(void *opaque, const char *text, size_t len)
{
    struct ctl_client *client = opaque;

    if (client->dead)
        return;
    if (len > CTL_OUT_MAX - client->out_len) {
        client->dead = true;
        return;
    }
    if (client->out_len + len > client->out_cap) {
        size_t cap = max_u64(client->out_len + len, 2 * client->out_cap);
        char *out = realloc(client->out, cap);

        if (!out) {
            client->dead = true;
            return;
        }
        client->out = out;
        client->out_cap = cap;
    }
    memcpy(client->out + client->out_len, text, len);
    client->out_len += len;
}

/* Heard again when its replies are gone; who has not read them is not listened to. */
static void wait_for(struct ctl_client *client)
{
    loop_mod_fd(client->ctl->vm->loop, client->fd, client->out_len ? LOOP_OUT : LOOP_IN);
}

/* ---- input -------------------------------------------------------------------------------------
 */

static void client_read(struct ctl_client *client)
{
    char data[4096];
    ssize_t n = recv(client->fd, data, sizeof(data), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || !qmp_feed(&client->qmp, data, (size_t)n)) {
        flush(client);
        client->dead = true;
    }
}

static void client_event(void *opaque, unsigned ready)
{
    struct ctl_client *client = opaque;

    if ((ready & LOOP_IN) && !client->out_len && !client->dead)
        client_read(client);
    if (!client->dead)
        flush(client);
    if (client->dead)
        client_free(client);
    else
        wait_for(client);
}

static void client_add(struct ctl *ctl, int fd)
{
    struct ctl_client *client;

    client = ctl->nclients < CTL_MAX_CLIENTS ? calloc(1, sizeof(*client)) : NULL;
    if (!client) {
        close(fd);
        return;
    }
    client->ctl = ctl;
    client->fd = fd;
    client->next = ctl->clients;
    ctl->clients = client;
    ctl->nclients++;
    if (loop_add_fd(ctl->vm->loop, fd, LOOP_IN, client_event, client) < 0 ||
        !qmp_init(&client->qmp, commands, client, client_send)) {
        client_free(client);
        return;
    }
    flush(client);
}

static void reap(void *opaque)
{
    struct ctl *ctl = opaque;
    struct ctl_client *client, *next;

    for (client = ctl->clients; client; client = next) {
        next = client->next;
        if (client->dead)
            client_free(client);
    }
}

static void client_came(void *opaque, unsigned ready)
{
    struct ctl *ctl = opaque;
    unsigned i;
    int fd;

    (void)ready;
    /* Several at a turn, but not as many as somebody cares to make. */
    for (i = 0; i < CTL_MAX_CLIENTS; i++) {
        fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        client_add(ctl, fd);
    }
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct ctl *ctl_new(struct machine *machine, const struct machine_config *config,
                    const char *socket_path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct ctl *ctl = calloc(1, sizeof(*ctl));

    if (!ctl || strlen(socket_path) >= sizeof(addr.sun_path)) {
        err_set(err, ENOMEM, "no memory for the control socket.");
        free(ctl);
        return NULL;
    }
    memcpy(addr.sun_path, socket_path, strlen(socket_path) + 1);
    ctl->machine = machine;
    ctl->config = config;
    ctl->vm = machine_vm(machine);
    ctl->reap = (struct loop_work){.fn = reap, .opaque = ctl};
    ctl->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (ctl->listen_fd < 0 || bind(ctl->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(ctl->listen_fd, CTL_MAX_CLIENTS) < 0 ||
        loop_add_fd(ctl->vm->loop, ctl->listen_fd, LOOP_IN, client_came, ctl) < 0) {
        err_set(err, errno, "the control socket %s can not be made: %s.", socket_path,
                strerror(errno));
        if (ctl->listen_fd >= 0)
            close(ctl->listen_fd);
        free(ctl);
        return NULL;
    }
    return ctl;
}

void ctl_free(struct ctl *ctl)
{
    if (!ctl)
        return;
    ctl_event(ctl, "SHUTDOWN");
    while (ctl->clients)
        client_free(ctl->clients);
    loop_cancel(ctl->vm->loop, &ctl->reap);
    loop_del_fd(ctl->vm->loop, ctl->listen_fd);
    close(ctl->listen_fd);
    free(ctl);
}

void ctl_event(struct ctl *ctl, const char *name)
{
    struct ctl_client *client;

    for (client = ctl->clients; client; client = client->next) {
        qmp_event(&client->qmp, name);
        flush(client);
        /* Not here: its own callback may be what this is called from. */
        if (client->dead)
            loop_post(ctl->vm->loop, &ctl->reap);
        wait_for(client);
    }
}
