/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the character back ends share: a bounded queue of output and a pump of input over file
 * descriptors, driven by the loop. Descriptors that cannot be waited for (regular files, /dev/null)
 * count as always ready. Everything here runs with the machine lock held.
 */
#ifndef BACKEND_CHAR_CHARFD_H
#define BACKEND_CHAR_CHARFD_H

#include "backend/char/chardev.h"
#include "core/loop.h"

#define CHARFD_OUT_MAX 262144u /* bytes of output kept for a slow reader */
#define CHARFD_IN_MAX  65536u  /* bytes of input kept for a slow guest */

struct charfd {
    struct chardev chr;
    struct vm *vm;     /* borrowed */
    const char *what;  /* for messages; static */
    int in_fd, out_fd; /* owned; -1: none. Equal for a socket */

    bool read_ahead;  /* input is read even if the guest takes none, so that an escape key works */
    bool keep_latest; /* when the queue is full, the oldest output goes */
    /* Looks at what was read, in place; returns how many bytes are left for the guest. May be NULL.
     */
    size_t (*filter)(struct charfd *c, uint8_t *data, size_t len);
    /* End of file or error on the input; NULL: input ends, output goes on. */
    void (*hangup)(struct charfd *c);
    void (*closed)(struct charfd *c); /* the back end's own part of free; may be NULL */

    uint32_t in_events, out_events; /* what the loop watches now, per descriptor */
    bool in_ready_always, out_ready_always;
    bool dropping; /* output is being dropped: said once per stretch */
    uint8_t *out;  /* ring of CHARFD_OUT_MAX */
    size_t out_pos, out_len;
    uint8_t *in; /* CHARFD_IN_MAX */
    size_t in_pos, in_len;
    struct loop_work work;
};

extern const struct chardev_ops charfd_ops;

/* c is zeroed and the first member of what malloc gave: chardev_free frees it. */
int charfd_init(struct charfd *c, struct vm *vm, const char *what, int in_fd, int out_fd,
                struct err *err);
/* Takes both descriptors off the loop and closes them. */
void charfd_close(struct charfd *c);
/* New descriptors after charfd_close (or none before): output that was kept flows. */
void charfd_reopen(struct charfd *c, int in_fd, int out_fd);

/*
 * A descriptor of its own for what fd refers to, non-blocking, so that the flag is not shared with
 * the shell and whoever else holds the terminal or pipe. Falls back to a plain duplicate.
 */
int charfd_private(int fd, int flags);

struct chardev *chardev_stdio_open(struct vm *vm, struct err *err);
struct chardev *chardev_file_open(struct vm *vm, const char *path, struct err *err);
struct chardev *chardev_unix_open(struct vm *vm, const char *path, struct err *err);

#endif
