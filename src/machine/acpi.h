/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables of the q35 machine: what configuration space can not tell. ACPI specification 6.4
 * chapters 5 and 6; PCI Firmware Specification 3.3 for MCFG and _OSC. Pure: a description goes in,
 * bytes with their final addresses come out.
 */
#ifndef MACHINE_ACPI_H
#define MACHINE_ACPI_H

#include "base/err.h"
#include "base/types.h"

struct acpi_config {
    unsigned ncpus;
    bool has_apic; /* local APICs and the I/O APIC exist: MADT */
    uint32_t lapic_base, ioapic_base;
    uint8_t ioapic_id;

    uint16_t pm_base;
    uint8_t sci_irq;
    uint64_t ecam_base, ecam_size;
    /* What of the address space is free for BARs. */
    uint32_t pci32_first, pci32_last; /* below the ECAM; first > last: none */
    uint64_t pci64_first, pci64_last; /* 0: none */

    bool has_serial; /* COM1 */

    /* Where the tables will stand, and the RSDP. */
    gpa_t base;
    gpa_t rsdp_at;
};

/* PIRQs: PIRQ n is GSI 16 + n, in the order of q35_host_pirq. */
#define ACPI_PCI_GSI 16u

struct acpi_tables {
    uint8_t *data; /* at config->base */
    size_t size;   /* whole pages */
    size_t nvs;    /* bytes at the end that the system writes (FACS): whole pages */
    uint8_t rsdp[36];
    size_t rsdp_size;
};

/* The size does not depend on base: build once to learn it, again when the place is known. */
int acpi_build(const struct acpi_config *config, struct acpi_tables *tables, struct err *err);
void acpi_tables_fini(struct acpi_tables *tables);

#endif
