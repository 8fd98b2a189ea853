/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One conversation in QMP framing (the QEMU Machine Protocol: JSON objects, a greeting, then
 * qmp_capabilities, then commands) over a command table. Bytes come in by qmp_feed; replies go out
 * by `send`. It knows nothing of sockets or machines.
 *
 * The other side is not trusted: one request is at most QMP_REQUEST_MAX bytes and QMP_DEPTH levels
 * deep.
 */
#ifndef CONTROL_QMP_H
#define CONTROL_QMP_H

#include "base/types.h"
#include "control/command.h"

#define QMP_REQUEST_MAX 65536u
#define QMP_DEPTH       16

struct qmp {
    const struct command *commands; /* borrowed */
    void *opaque;                   /* for the handlers and send */
    void (*send)(void *opaque, const char *text, size_t len);
    struct json_tokener *tokener;
    size_t taken;    /* bytes of the request so far */
    bool negotiated; /* qmp_capabilities was sent */
    bool skipping;   /* after a syntax error: up to the end of the line */
};

/* Sends the greeting. False: no memory. */
bool qmp_init(struct qmp *qmp, const struct command *commands, void *opaque,
              void (*send)(void *opaque, const char *text, size_t len));
void qmp_fini(struct qmp *qmp);

/* False: the client broke the bounds and is to be dropped (it has been told). */
bool qmp_feed(struct qmp *qmp, const char *data, size_t len);

/* Sends an event, if the client has negotiated. */
void qmp_event(struct qmp *qmp, const char *name);

#endif
