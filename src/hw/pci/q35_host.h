/* SPDX-License-Identifier: Apache-2.0 */
/* Q35 memory controller hub: host bridge 00:00.0, configuration mechanisms, PAM, SMRAM. See
 * q35_host.c. */
#ifndef HW_PCI_Q35_HOST_H
#define HW_PCI_Q35_HOST_H

#include "hw/pci/pci.h"

#define Q35_PAM_REGS  7
#define Q35_ECAM_SIZE 0x10000000ull /* 256 buses */

struct q35_host_config {
    /*
     * ECAM base after reset, enabled: what firmware would have set (B0000000h or E0000000h). 0: as
     * the chip comes up, disabled.
     */
    uint64_t ecam_base;
    /* PIRQA to PIRQH: GSI 16 to 23. */
    struct irq_line *pirq[PCI_BUS_PIRQS];
    /* RAM file offset of guest RAM's first 1 MiB: DRAM behind A0000h to FFFFFh. */
    uint64_t dram_offset;
    /*
     * The ROM that PAM's write-only shadowing reads: RAM file offset of the byte at rom_base;
     * rom_base to FFFFFh is ROM. rom_base 0: no ROM. The machine itself maps it as a normal region.
     */
    uint64_t rom_offset;
    uint32_t rom_base;
    /*
     * PAM0 to PAM6 after reset. All 0: as the chip comes up (ROM). 30h,33h,33h...: all RAM, for
     * guests that get no firmware. Bits: 0 read DRAM, 1 write DRAM, 4 and 5 the same for the upper
     * segment.
     */
    uint8_t pam[Q35_PAM_REGS];
    /*
     * The reset control register CF9h, which lies inside CONFIG_ADDRESS: byte accesses to it are
     * handed over (ich9_pm_cf9_read and _write fit). NULL: no such register.
     */
    uint8_t (*cf9_read)(struct device *dev);
    void (*cf9_write)(struct device *dev, uint8_t value);
    struct device *cf9_dev;
};

extern const struct dev_type q35_host_type;

/* Bus 0, for the configs of PCI devices. */
struct pci_bus *q35_host_bus(struct device *host);

/*
 * The PIRQ (0: A to 7: H) of a device's INTA# to INTD# (pin 1 to 4) on bus 0: slots 0 to 23 use E
 * to H, slots 24 to 31 A to D, rotated by slot. _PRT tells the same: PIRQ n is GSI 16 + n.
 */
unsigned q35_host_pirq(unsigned slot, unsigned pin);

#endif
