/* SPDX-License-Identifier: Apache-2.0 */
/* The pair of 8237A DMA controllers of a PC with their page registers. */
#ifndef HW_MISC_I8237_H
#define HW_MISC_I8237_H

#include "core/device.h"

struct i8237_config {
    char unused; /* it has no wires yet: no ISA device here asks for DMA */
};

extern const struct dev_type i8237_type;

#endif
