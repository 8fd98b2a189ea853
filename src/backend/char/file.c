/* SPDX-License-Identifier: Apache-2.0 */
/* file:PATH: output only, to a new or emptied file, a terminal or a named pipe. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/char/charfd.h"

struct chardev *chardev_file_open(struct vm *vm, const char *path, struct err *err)
{
    struct charfd *c = calloc(1, sizeof(*c));
    int fd;

    if (!c) {
        err_set(err, ENOMEM, "no memory for a serial port.");
        return NULL;
    }
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_set(err, errno, "%s cannot be written: %s.", path,
                errno == ENXIO ? "nobody reads this named pipe yet" : strerror(errno));
        goto fail;
    }
    if (charfd_init(c, vm, "serial file", -1, fd, err) < 0)
        goto fail_close;
    return &c->chr;

fail_close:
    close(fd);
    free(c->out);
    free(c->in);
fail:
    free(c);
    return NULL;
}
