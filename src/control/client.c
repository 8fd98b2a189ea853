/* SPDX-License-Identifier: Apache-2.0 */
#include "control/client.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "control/rundir.h"

#define ANSWER_SECONDS 20
#define LINE_MAX_BYTES (16u << 20)

static int lost(struct err *err)
{
    if (errno == EAGAIN)
        return err_set(err, ETIMEDOUT, "the VM does not answer within %d seconds.", ANSWER_SECONDS);
    return err_set(err, EPIPE, "the VM has ended.");
}

/* One object, which the server ends with a newline. NULL with err set. */
static struct json_object *read_object(struct client *client, struct err *err)
{
    char *end;

    while (!(end = client->len ? memchr(client->buf, '\n', client->len) : NULL)) {
        ssize_t n;

        if (client->cap - client->len < 4096) {
            size_t cap = client->cap ? 2 * client->cap : 65536;
            char *buf = cap <= LINE_MAX_BYTES ? realloc(client->buf, cap) : NULL;

            if (!buf) {
                err_set(err, ENOMEM, "the VM's answer is too long.");
                return NULL;
            }
            client->buf = buf;
            client->cap = cap;
        }
        n = read(client->fd, client->buf + client->len, client->cap - client->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : EPIPE;
            lost(err);
            return NULL;
        }
        client->len += (size_t)n;
    }
    *end = 0;
    struct json_object *obj = json_tokener_parse(client->buf);

    client->len -= (size_t)(end + 1 - client->buf);
    memmove(client->buf, end + 1, client->len);
    if (!obj)
        err_set(err, EPROTO, "the VM's answer makes no sense.");
    return obj;
}

static int send_all(struct client *client, const char *text, size_t len, struct err *err)
{
    while (len) {
        ssize_t n = send(client->fd, text, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            lost(err);
            return -EPIPE;
        }
        text += n;
        len -= (size_t)n;
    }
    return 0;
}

int client_call(struct client *client, const char *command, struct json_object *args,
                struct json_object **ret, struct err *err)
{
    struct json_object *request = json_object_new_object(), *answer, *part;
    const char *text;
    size_t len;
    int r;

    json_object_object_add(request, "execute", json_object_new_string(command));
    if (args)
        json_object_object_add(request, "arguments", args);
    text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &len);
    r = send_all(client, text, len, err);
    json_object_put(request);
    if (r < 0)
        return r;
    for (;;) {
        answer = read_object(client, err);
        if (!answer)
            return -EPIPE;
        if (json_object_object_get_ex(answer, "return", &part)) {
            if (ret)
                *ret = json_object_get(part);
            json_object_put(answer);
            return 0;
        }
        if (json_object_object_get_ex(answer, "error", &part)) {
            struct json_object *desc = NULL;

            json_object_object_get_ex(part, "desc", &desc);
            r = err_set(err, EREMOTEIO, "%s.", desc ? json_object_get_string(desc) : "refused");
            json_object_put(answer);
            return r;
        }
        json_object_put(answer); /* an event */
    }
}

int client_open(struct client *client, const char *name, struct err *err)
{
    struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    struct json_object *greeting;
    int r;

    memset(client, 0, sizeof(*client));
    client->fd = rundir_connect(name, err);
    if (client->fd < 0)
        return client->fd;
    setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    greeting = read_object(client, err);
    r = greeting ? client_call(client, "qmp_capabilities", NULL, NULL, err) : -EPIPE;
    json_object_put(greeting);
    if (r < 0)
        client_close(client);
    return r;
}

void client_close(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    free(client->buf);
    client->buf = NULL;
}
