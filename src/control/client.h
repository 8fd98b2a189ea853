/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of the control socket: how a verb talks to a running VM. */
#ifndef CONTROL_CLIENT_H
#define CONTROL_CLIENT_H

#include "base/err.h"

struct json_object;

struct client {
    int fd;
    char *buf; /* received, not yet taken */
    size_t len, cap;
};

/* Connects, reads the greeting, negotiates. */
int client_open(struct client *client, const char *name, struct err *err);
void client_close(struct client *client);

/*
 * Asks and waits for the answer; consumes args (NULL: none). The value of "return" in *ret, which
 * the caller puts. -EPIPE: the VM has ended.
 */
int client_call(struct client *client, const char *command, struct json_object *args,
                struct json_object **ret, struct err *err);

#endif
