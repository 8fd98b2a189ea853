/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "control/janitor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Everything but `keep` (ascending, n of them): an open pipe or socket would look like a living
 * VMM. */
static void close_others(const int *keep, unsigned n)
{
    unsigned first = 0, i;

    for (i = 0; i < n; i++) {
        if ((unsigned)keep[i] > first)
            close_range(first, (unsigned)keep[i] - 1, 0);
        first = (unsigned)keep[i] + 1;
    }
    close_range(first, ~0u, 0);
}

static void sort(int *v, unsigned n)
{
    unsigned i, j;

    for (i = 1; i < n; i++) {
        for (j = i; j > 0 && v[j - 1] > v[j]; j--) {
            int t = v[j];

            v[j] = v[j - 1];
            v[j - 1] = t;
        }
    }
}

/* saved: the terminal's settings, NULL if there is none. */
static void clean(const struct janitor_job *job, int wait_fd, const struct termios *saved)
{
    int tty = saved ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3) : -1;
    int keep[3];
    unsigned n = 0, i;
    bool ours = false;
    ssize_t got;
    char byte;

    keep[n++] = wait_fd;
    if (tty >= 0)
        keep[n++] = tty;
    if (job->dir && job->dir->lock_fd >= 0)
        keep[n++] = job->dir->lock_fd;
    sort(keep, n);
    close_others(keep, n);
    /* A session of its own: no key and no stopped job reaches it, and it may set any terminal. */
    setsid();
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    prctl(PR_SET_NAME, "doppel-janitor");
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    /* A byte says that the paths are ours; the end says that the VMM is gone. */
    while ((got = read(wait_fd, &byte, 1)) != 0 && (got > 0 || errno == EINTR))
        ours |= got > 0;
    if (tty >= 0)
        tcsetattr(tty, TCSANOW, saved);
    for (i = 0; i < JANITOR_PATHS; i++)
        if (ours && job->paths[i])
            unlink(job->paths[i]);
    if (job->dir)
        rundir_remove(job->dir);
}

int janitor_start(struct janitor *janitor, const struct janitor_job *job, struct err *err)
{
    struct termios saved;
    int fds[2];
    bool tty;
    pid_t pid;

    *janitor = (struct janitor){.pipe_fd = -1};
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_set(err, errno, "a pipe can not be made: %s.", strerror(errno));
    /* Before the fork: the child may first run when the terminal is in raw mode already. */
    tty = tcgetattr(STDIN_FILENO, &saved) == 0;
    pid = fork();
    if (pid < 0) {
        close(fds[0]);
        close(fds[1]);
        return err_set(err, errno, "a process can not be made: %s.", strerror(errno));
    }
    if (!pid) {
        close(fds[1]);
        clean(job, fds[0], tty ? &saved : NULL);
        _exit(0);
    }
    close(fds[0]);
    janitor->pid = pid;
    janitor->pipe_fd = fds[1];
    return 0;
}

void janitor_owns_paths(struct janitor *janitor)
{
    if (janitor->pid && write(janitor->pipe_fd, "k", 1) < 0) {
        /* It is gone: then the paths stay, which the next VM puts up with. */
    }
}

void janitor_finish(struct janitor *janitor)
{
    if (!janitor->pid)
        return;
    close(janitor->pipe_fd);
    while (waitpid(janitor->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    janitor->pid = 0;
}
