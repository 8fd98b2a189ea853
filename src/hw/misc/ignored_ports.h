/* SPDX-License-Identifier: Apache-2.0 */
/* Ports that PC software touches and that are deliberately nothing here, each with its reason. */
#ifndef HW_MISC_IGNORED_PORTS_H
#define HW_MISC_IGNORED_PORTS_H

#include "core/device.h"

struct ignored_port {
    uint16_t port;
    uint16_t length;
    uint8_t value;      /* what each byte reads as */
    const char *name;   /* the register's name, for traces; NULL ends the table */
    const char *reason; /* why nothing is the right answer */
};

struct ignored_ports_config {
    const struct ignored_port *table; /* borrowed, outlives the device */
};

#define IGNORED_PORTS_MAX 64

extern const struct dev_type ignored_ports_type;

#endif
