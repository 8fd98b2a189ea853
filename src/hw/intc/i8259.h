/* SPDX-License-Identifier: Apache-2.0 */
/* The pair of 8259A interrupt controllers of a PC, as one device with sixteen pins. */
#ifndef HW_INTC_I8259_H
#define HW_INTC_I8259_H

#include "core/device.h"

struct i8259_config {
    struct irq intr; /* INTR of the master: the CPU, or LINT0 of the local APIC */
    /* Told of the EOI of each pin; borrowed; NULL where nobody wants to know. */
    struct irq_line *lines[16];
};

extern const struct dev_type i8259_type;

/* Input IRn of the pair, 0 to 15. Pin 2 is the cascade and goes nowhere. */
struct irq_pin i8259_pin(struct device *dev, unsigned n);

/* True while INTR is up. */
bool i8259_intr(struct device *dev);

/* The INTA cycles of the processor: the vector. Machine lock held. */
int i8259_ack(struct device *dev);

#endif
