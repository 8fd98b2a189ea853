/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The janitor: a small child process that waits for the VMM to end, however it ends (killed,
 * crashed, stopped by its own sandbox), and then puts the terminal's settings back and takes the
 * VM's runtime directory and sockets away. So the VMM itself needs no right to remove files.
 */
#ifndef CONTROL_JANITOR_H
#define CONTROL_JANITOR_H

#include <sys/types.h>

#include "control/rundir.h"

#define JANITOR_PATHS 4

struct janitor_job {
    struct rundir *dir;               /* may be NULL */
    const char *paths[JANITOR_PATHS]; /* sockets to remove; NULL: none */
};

struct janitor {
    pid_t pid;   /* 0: none */
    int pipe_fd; /* its other end closes when we are gone */
};

/* Call while the process has one thread and holds nothing the child should not see. */
int janitor_start(struct janitor *janitor, const struct janitor_job *job, struct err *err);
/* The sockets in job->paths are ours now: until then they may belong to another VM. */
void janitor_owns_paths(struct janitor *janitor);
/* Lets it do its work now, and waits for it. */
void janitor_finish(struct janitor *janitor);

#endif
