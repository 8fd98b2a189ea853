/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of a running VM: up to CTL_MAX_CLIENTS monitors at once, each a QMP
 * conversation over the command table. Runs in the main loop. A client that sends nonsense past the
 * bounds, or does not read its replies, is dropped; the VM does not notice.
 */
#ifndef CONTROL_CTL_H
#define CONTROL_CTL_H

#include "control/qmp.h"
#include "core/loop.h"
#include "machine/machine.h"

#define CTL_MAX_CLIENTS 32
#define CTL_OUT_MAX     (4u << 20) /* bytes a client may leave unread */

struct ctl;

struct ctl_client {
    struct ctl *ctl;
    struct ctl_client *next;
    struct qmp qmp;
    int fd;
    bool dead;    /* freed at the end of its callback, or by reap */
    bool tracing; /* keeps the trace points on */
    char *out;    /* unsent replies */
    size_t out_len, out_cap;
};

struct ctl {
    struct machine *machine;             /* borrowed */
    const struct machine_config *config; /* borrowed */
    struct vm *vm;                       /* borrowed */
    int listen_fd;
    struct ctl_client *clients;
    unsigned nclients;
    bool stopped;          /* a client has paused the VM */
    struct loop_work reap; /* frees clients that died outside of their callback */
};

/* Listens at socket_path. Strings and config are borrowed. */
struct ctl *ctl_new(struct machine *machine, const struct machine_config *config,
                    const char *socket_path, struct err *err);
void ctl_free(struct ctl *ctl);
/* To every client that has negotiated. */
void ctl_event(struct ctl *ctl, const char *name);

#endif
