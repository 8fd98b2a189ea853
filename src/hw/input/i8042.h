/* SPDX-License-Identifier: Apache-2.0 */
/* The 8042 keyboard controller with a PS/2 keyboard, a PS/2 mouse, and port 92h. */
#ifndef HW_INPUT_I8042_H
#define HW_INPUT_I8042_H

#include "core/device.h"

struct i8042_config {
    struct irq irq_kbd;   /* IRQ 1 */
    struct irq irq_mouse; /* IRQ 12 */
    /* Drives the A20 gate: the machine sets vm->a20_mask. May be NULL. */
    void (*set_a20)(void *opaque, bool on);
    void *a20_opaque;
};

extern const struct dev_type i8042_type;

/*
 * The control plane presses or releases a key: one byte of scan code set 1 at a time, E0h and E1h
 * prefixes as bytes of their own, bit 7 for release. The keyboard sends what its current set says.
 * Machine lock held. False if the keyboard's buffer was full and the key was lost.
 */
bool i8042_key(struct device *dev, uint8_t scancode_set1);

/* Mouse movement (y grows upwards, as on the wire), wheel steps, and buttons (bit 0 left, 1 right,
 * 2 middle). */
void i8042_mouse(struct device *dev, int dx, int dy, int dz, uint8_t buttons);

#endif
