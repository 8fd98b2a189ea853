/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/char/chardev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/char/charfd.h"

static void null_write(struct chardev *chr, const uint8_t *data, size_t len)
{
    (void)chr;
    (void)data;
    (void)len;
}

static void null_accept_input(struct chardev *chr)
{
    (void)chr;
}

static void null_free(struct chardev *chr)
{
    free(chr);
}

static const struct chardev_ops null_ops = {
    .write = null_write,
    .accept_input = null_accept_input,
    .free = null_free,
};

static struct chardev *null_open(struct err *err)
{
    struct chardev *chr = calloc(1, sizeof(*chr));

    if (!chr) {
        err_set(err, ENOMEM, "no memory for a null port.");
        return NULL;
    }
    chr->ops = &null_ops;
    return chr;
}

struct chardev *chardev_open(struct vm *vm, const char *spec, struct err *err)
{
    if (!strcmp(spec, "null"))
        return null_open(err);
    if (!strcmp(spec, "stdio"))
        return chardev_stdio_open(vm, err);
    if (!strncmp(spec, "file:", 5) && spec[5])
        return chardev_file_open(vm, spec + 5, err);
    if (!strncmp(spec, "unix:", 5) && spec[5])
        return chardev_unix_open(vm, spec + 5, err);
    err_set(err, EINVAL,
            "'%s' is no place for a serial port; use stdio, file:PATH, unix:PATH or null.", spec);
    return NULL;
}

void chardev_free(struct chardev *chr)
{
    if (chr)
        chr->ops->free(chr);
}
