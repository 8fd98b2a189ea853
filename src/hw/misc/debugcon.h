/* SPDX-License-Identifier: Apache-2.0 */
/* The debug port E9h: what is written comes out on a character back end. */
#ifndef HW_MISC_DEBUGCON_H
#define HW_MISC_DEBUGCON_H

#include "backend/char/chardev.h"
#include "core/device.h"

struct debugcon_config {
    uint64_t iobase;     /* property; 0 means E9h */
    struct chardev *chr; /* borrowed; NULL: lines go to the log */
};

extern const struct dev_type debugcon_type;

#endif
