/* SPDX-License-Identifier: Apache-2.0 */
/* The 8254 interval timer with port 61h. */
#ifndef HW_TIMER_I8254_H
#define HW_TIMER_I8254_H

#include "core/device.h"

#define I8254_HZ 1193182u

struct i8254_config {
    struct irq irq; /* OUT of counter 0: IRQ 0 */
};

extern const struct dev_type i8254_type;

#endif
