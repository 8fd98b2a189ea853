/* SPDX-License-Identifier: Apache-2.0 */
/* 82093AA I/O APIC: 24 pins to interrupt messages. See ioapic.c. */
#ifndef HW_INTC_IOAPIC_H
#define HW_INTC_IOAPIC_H

#include "core/device.h"

#define IOAPIC_PINS 24
#define IOAPIC_BASE 0xfec00000ull

struct ioapic_config {
    uint64_t base; /* 0: IOAPIC_BASE */
    uint8_t id;    /* APIC id after reset, 0 to 15, as the MADT tells it */
    /* The line each pin hangs on, told of its EOIs; entries may be NULL. */
    struct irq_line *lines[IOAPIC_PINS];
    /*
     * Optional: is the vector of such a message already waiting in an APIC it would reach? Then a
     * new edge is coalesced. lapic_msi_pending with the lapic_bus fits.
     */
    bool (*pending)(void *opaque, uint64_t addr, uint32_t data);
    void *pending_opaque;
};

extern const struct dev_type ioapic_type;

/* Pin n, to be added to its line. */
struct irq_pin ioapic_pin(struct device *ioapic, unsigned n);

/* For vm->eoi_sink; the opaque is the I/O APIC's struct device. */
void ioapic_eoi(void *ioapic, uint8_t vector);

#endif
