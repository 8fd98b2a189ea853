/* SPDX-License-Identifier: Apache-2.0 */
/* The MC146818A real-time clock with 256 bytes of CMOS RAM. */
#ifndef HW_TIMER_MC146818_H
#define HW_TIMER_MC146818_H

#include "core/device.h"

struct mc146818_config {
    struct irq irq;      /* IRQ 8 */
    uint64_t ram_below;  /* bytes of guest RAM below 4 GiB */
    uint64_t ram_above;  /* bytes of guest RAM at and above 4 GiB */
    uint8_t boot_order;  /* CMOS 3Dh: SeaBIOS' boot devices, 0 if nobody asks */
    uint8_t boot_order2; /* CMOS 38h: third device and flags */
    uint8_t ncpus;       /* CMOS 5Fh: CPUs beyond the first, for SeaBIOS; 0 is taken as 1 */
};

extern const struct dev_type mc146818_type;

/* Port 70h bit 7: NMI is kept from the processor. */
bool mc146818_nmi_masked(struct device *dev);

#endif
