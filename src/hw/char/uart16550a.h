/* SPDX-License-Identifier: Apache-2.0 */
/* A 16550A serial port. */
#ifndef HW_CHAR_UART16550A_H
#define HW_CHAR_UART16550A_H

#include "backend/char/chardev.h"
#include "core/device.h"

struct uart16550a_config {
    struct irq irq;
    uint16_t iobase;     /* 3F8h, 2F8h, 3E8h, 2E8h */
    struct chardev *chr; /* borrowed; NULL: nothing is plugged in */
};

extern const struct dev_type uart16550a_type;

/* A break arrives on the line (Linux: the SysRq key of a serial console). Machine lock held. */
void uart16550a_receive_break(struct device *dev);

#endif
