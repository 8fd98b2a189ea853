/* SPDX-License-Identifier: Apache-2.0 */
/* ICH9 LPC bridge 00:1F.0: PIRQ routing, ACPI base, chipset registers. See ich9_lpc.c. */
#ifndef HW_PCI_ICH9_LPC_H
#define HW_PCI_ICH9_LPC_H

#include "hw/pci/pci.h"

struct ich9_lpc_config {
    struct pci_bus *bus;
    /* PIRQA to PIRQH, which the bridge forwards to ISA interrupts where PIRQx_ROUT says so. */
    struct irq_line *pirq[PCI_BUS_PIRQS];
    /* ISA IRQ lines 0 to 15; those that PIRQs can not be routed to may be NULL. */
    struct irq_line *isa[16];
    /*
     * PMBASE and ACPI_CNTL after reset: what firmware would have set. pm_base 0: as the chip comes
     * up, disabled.
     */
    uint16_t pm_base;
    /* PIRQA_ROUT to PIRQH_ROUT after reset; 0 means 80h (not routed), as the chip comes up. */
    uint8_t pirq_rout[PCI_BUS_PIRQS];
    /*
     * Places the ACPI PM block (ich9_pm_map fits): called from derive when PMBASE or ACPI_EN
     * changed. May be NULL.
     */
    void (*place_pm)(struct device *pm, uint16_t base, bool enabled);
    struct device *pm;
};

extern const struct dev_type ich9_lpc_type;

#endif
