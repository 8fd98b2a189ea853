/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a serial port sees of the outside: bytes out, bytes in. Input is pushed by the back end from the
 * loop (machine lock held) as long as the device says it can take some.
 */
#ifndef BACKEND_CHAR_CHARDEV_H
#define BACKEND_CHAR_CHARDEV_H

#include "base/err.h"
#include "base/types.h"

struct chardev;
struct vm;

struct chardev_ops {
    /* Takes len bytes, all of them: what the host can not take now is kept, up to a bound, then dropped. */
    void (*write)(struct chardev *chr, const uint8_t *data, size_t len);
    /* The device has room again (its receive FIFO was read). */
    void (*accept_input)(struct chardev *chr);
    void (*free)(struct chardev *chr);
};

struct chardev {
    const struct chardev_ops *ops;
    /* Set by the device that uses it. */
    size_t (*can_receive)(void *opaque); /* how many bytes it can take now */
    void (*receive)(void *opaque, const uint8_t *data, size_t len);
    void *opaque;
};

/* spec: "stdio", "file:PATH", "unix:PATH" (listens; one client at a time), "null". */
struct chardev *chardev_open(struct vm *vm, const char *spec, struct err *err);
void chardev_free(struct chardev *chr);

#endif
