/* SPDX-License-Identifier: Apache-2.0 */
/* Coprocessor error: FERR# to IRQ 13, port F0h to IGNNE#. See coproc_err.c. */
#ifndef HW_MISC_COPROC_ERR_H
#define HW_MISC_COPROC_ERR_H

#include "core/device.h"

struct coproc_err_config {
    struct irq irq; /* IRQ 13 */
};

extern const struct dev_type coproc_err_type;

/* For vm->ferr_sink; the opaque is the struct device. */
bool coproc_err_ferr(void *dev, unsigned vcpu, bool level);

#endif
