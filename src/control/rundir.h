/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runtime directory: $XDG_RUNTIME_DIR/doppel, or /tmp/doppel-UID, holds one directory per
 * running VM, named after it:
 *
 *     NAME/pid           the process id; locked (flock) as long as the VM or its janitor lives
 *     NAME/control.sock  the control socket
 *
 * The lock decides whether a name is taken: it cannot be left over from a process that is gone.
 * Whoever finds a directory that nobody locks removes it.
 */
#ifndef CONTROL_RUNDIR_H
#define CONTROL_RUNDIR_H

#include <sys/types.h>

#include "base/err.h"

struct rundir {
    char path[128];
    char socket[160];
    int lock_fd; /* -1: none */
};

/* Takes the name: makes the directory, locks and writes the pid file. */
int rundir_take(struct rundir *dir, const char *name, struct err *err);
/* Takes the files away and lets go of the name. */
void rundir_remove(struct rundir *dir);

/* Calls fn for each VM that runs, in no order; clears away what dead ones left. */
int rundir_each(void (*fn)(void *opaque, const char *name, pid_t pid), void *opaque,
                struct err *err);
/* A connection to the control socket of a running VM. */
int rundir_connect(const char *name, struct err *err);
/* True while a VM of this name runs. */
bool rundir_alive(const char *name);

#endif
