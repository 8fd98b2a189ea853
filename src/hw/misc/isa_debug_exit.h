/* SPDX-License-Identifier: Apache-2.0 */
/* A port that ends the VM with a value, for test programs. */
#ifndef HW_MISC_ISA_DEBUG_EXIT_H
#define HW_MISC_ISA_DEBUG_EXIT_H

#include "core/device.h"

struct isa_debug_exit_config {
    uint64_t iobase; /* property; 0 means 501h */
    uint64_t iosize; /* property; 0 means 2; 1 to 4 */
};

extern const struct dev_type isa_debug_exit_type;

#endif
