/* SPDX-License-Identifier: Apache-2.0 */
/* What every chip with registers does in its init. */
#ifndef HW_REGION_H
#define HW_REGION_H

#include "core/bus.h"

/* A region whose handlers get the chip: its struct device is the chip's first member. */
static inline struct region region_io(struct device *dev, const char *name, uint64_t size,
                                      const struct io_ops *ops)
{
    return (struct region){
        .name = name,
        .kind = REGION_IO,
        .size = size,
        .ops = ops,
        .dev = dev,
        .owner = dev,
    };
}

#endif
