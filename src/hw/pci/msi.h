/* SPDX-License-Identifier: Apache-2.0 */
/* MSI and MSI-X: the interrupt messages of PCI functions. See msi.c. */
#ifndef HW_PCI_MSI_H
#define HW_PCI_MSI_H

#include "hw/pci/pci.h"

/* MSI: 64-bit addresses, per-vector masks; 1 << log2_vectors of them, log2_vectors 0 to 5. */
void pci_add_msi(struct pci_function *fn, unsigned log2_vectors);
bool pci_msi_enabled(const struct pci_function *fn);
/* Vectors that software has given the function: 1 to 32. */
unsigned pci_msi_vectors(const struct pci_function *fn);
/* Interrupts; false if MSI is not enabled. Vectors past the ones given wrap, as the data's low bits
 * do. */
bool pci_msi_notify(struct pci_function *fn, unsigned vector);
/* Sends what waited behind a mask that is gone. pci_function_derive calls it. */
void pci_msi_derive(struct pci_function *fn);

#define PCI_MSIX_MAX 72

struct pci_msix_entry {
    uint64_t addr;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
};

struct pci_msix_state {
    struct pci_msix_entry entry[PCI_MSIX_MAX];
    uint64_t pending[(PCI_MSIX_MAX + 63) / 64];
};

extern const struct state_field pci_msix_fields[2];
#define STATE_PCI_MSIX(type, m) STATE_STRUCT(type, m, pci_msix_fields)

struct pci_msix {
    struct pci_function *fn;
    struct pci_msix_state *state;
    unsigned vectors;
    uint8_t cap;
};

/* Table and pending bits lie in BAR `bar` at the offsets given, both 8-aligned; vectors <=
 * PCI_MSIX_MAX. */
void pci_add_msix(struct pci_msix *msix, struct pci_function *fn, struct pci_msix_state *state,
                  unsigned vectors, unsigned bar, uint32_t table, uint32_t pba);
void pci_msix_reset(struct pci_msix *msix);
int pci_msix_check(const struct pci_msix *msix, struct err *err);
bool pci_msix_enabled(const struct pci_msix *msix);
/* Interrupts, or keeps it pending behind a mask; false if MSI-X is not enabled. */
bool pci_msix_notify(struct pci_msix *msix, unsigned vector);
/* Sends what waited behind a mask that is gone. The chip's derive calls it. */
void pci_msix_derive(struct pci_msix *msix);

/* The chip's BAR handlers hand over 32-bit accesses; offsets count from the table and the PBA. */
uint32_t pci_msix_table_read(const struct pci_msix *msix, uint64_t off);
void pci_msix_table_write(struct pci_msix *msix, uint64_t off, uint32_t val);
uint32_t pci_msix_pba_read(const struct pci_msix *msix, uint64_t off);

#endif
