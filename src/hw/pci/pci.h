/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI functions: configuration space with masks, BARs, INTx, capabilities. A chip embeds a struct
 * pci_function after its struct device, and a struct pci_function_state in its state struct:
 *
 *     init:    pci_function_init(), then header fields, pci_add_bar(), pci_add_capability()
 *     attach:  pci_add_function()
 *     reset:   pci_function_reset()      derive: pci_function_derive()      check:
 * pci_function_check()
 *
 * Configuration writes end in the chip's own derive. See pci.c.
 */
#ifndef HW_PCI_PCI_H
#define HW_PCI_PCI_H

#include "core/device.h"

/* Registers of the type 0 header (PCI Local Bus 3.0, 6.1). */
#define PCI_VENDOR_ID           0x00
#define PCI_DEVICE_ID           0x02
#define PCI_COMMAND             0x04
#define PCI_STATUS              0x06
#define PCI_REVISION_ID         0x08
#define PCI_CLASS_PROG          0x09
#define PCI_CLASS_DEVICE        0x0a
#define PCI_CACHE_LINE_SIZE     0x0c
#define PCI_LATENCY_TIMER       0x0d
#define PCI_HEADER_TYPE         0x0e
#define PCI_BASE_ADDRESS_0      0x10
#define PCI_SUBSYSTEM_VENDOR_ID 0x2c
#define PCI_SUBSYSTEM_ID        0x2e
#define PCI_ROM_ADDRESS         0x30
#define PCI_CAPABILITY_LIST     0x34
#define PCI_INTERRUPT_LINE      0x3c
#define PCI_INTERRUPT_PIN       0x3d

#define PCI_COMMAND_IO           0x0001
#define PCI_COMMAND_MEMORY       0x0002
#define PCI_COMMAND_MASTER       0x0004
#define PCI_COMMAND_PARITY       0x0040
#define PCI_COMMAND_SERR         0x0100
#define PCI_COMMAND_INTX_DISABLE 0x0400

#define PCI_STATUS_INTERRUPT 0x0008
#define PCI_STATUS_CAP_LIST  0x0010
#define PCI_STATUS_ERRORS    0xf900 /* write 1 to clear */

#define PCI_CAP_ID_PM   0x01
#define PCI_CAP_ID_MSI  0x05
#define PCI_CAP_ID_VNDR 0x09
#define PCI_CAP_ID_EXP  0x10
#define PCI_CAP_ID_MSIX 0x11

#define PCI_CONFIG_SIZE  256u
#define PCIE_CONFIG_SIZE 4096u

#define PCI_DEVFN(slot, fn) ((uint8_t)(((slot)&0x1f) << 3 | ((fn)&7)))
#define PCI_SLOT(devfn)     ((devfn) >> 3 & 0x1f)

#define PCI_BARS    6
#define PCI_ROM_BAR 6

enum pci_bar_kind {
    PCI_BAR_NONE,
    PCI_BAR_IO,
    PCI_BAR_MEM32,
    PCI_BAR_MEM64,
    PCI_BAR_MEM64_PREFETCH
};

struct pci_bar {
    enum pci_bar_kind kind;
    struct region *region; /* borrowed: the chip's */
    struct space *space;
    uint64_t base; /* derived: where it is mapped */
    bool mapped;   /* derived */
};

/* What the guest can change. */
struct pci_function_state {
    uint8_t config[PCIE_CONFIG_SIZE];
};

extern const struct state_field pci_function_fields[1];
#define STATE_PCI_FUNCTION(type, m) STATE_STRUCT(type, m, pci_function_fields)

#define PCI_BUS_PIRQS 8

/* A bus and what hangs on it; embedded in its host bridge. */
struct pci_bus {
    struct vm *vm;
    struct pci_function *fn[256]; /* by devfn */
    /* INTx: line of PIRQ n (A to H), and how a function's pin finds its PIRQ. */
    struct irq_line *pirq[PCI_BUS_PIRQS];
    unsigned (*route)(unsigned slot, unsigned pin); /* pin 1 to 4: INTA# to INTD# */
};

struct pci_function {
    /* Wiring. */
    struct device *dev;
    struct pci_bus *bus;
    struct pci_function_state *state;
    uint8_t devfn;
    uint16_t config_size;
    uint8_t next_cap;                     /* where the next capability goes */
    uint8_t last_cap;                     /* offset of the last one's next pointer */
    uint8_t pm_cap, express_cap, msi_cap; /* offsets; 0: not there */
    struct irq intx;
    struct pci_bar bar[PCI_BARS + 1];
    /*
     * After the bytes of `config` were merged with a guest's write to [off, off + size), before
     * derive. May be NULL.
     */
    void (*config_written)(struct pci_function *fn, unsigned off, unsigned size);
    uint8_t reset[PCIE_CONFIG_SIZE]; /* values after reset */
    uint8_t wmask[PCIE_CONFIG_SIZE]; /* bits software may write */
    uint8_t w1c[PCIE_CONFIG_SIZE];   /* bits software clears by writing 1 */
    uint8_t hw[PCIE_CONFIG_SIZE];    /* further bits that the chip itself changes */
    /* Derived. */
    bool bus_master; /* device.bus_master points here */
    bool intx_level; /* what the chip asks for, INTx disable not considered */
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* class, subclass, programming interface: 24 bits */
    uint8_t revision;
    uint8_t interrupt_pin; /* 0: none, 1 to 4: INTA# to INTD# */
};

/* Fails with a sentence if devfn is taken. config_size: PCI_CONFIG_SIZE or PCIE_CONFIG_SIZE. */
int pci_function_init(struct pci_function *fn, struct device *dev, struct pci_bus *bus,
                      uint8_t devfn, struct pci_function_state *state, const struct pci_ids *ids,
                      uint16_t config_size, struct err *err);
/* region->size is a power of two; a 64-bit BAR takes index + 1 too. */
void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind,
                 struct region *region);
/* Expansion ROM. */
void pci_add_rom(struct pci_function *fn, struct region *region);
/* Room for `size` bytes of capability `id` in the list; returns its offset. Bytes after the first
 * two are zero. */
unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned size);

/* Power management: D0 and D3hot, in which the function decodes and masters nothing. */
void pci_add_pm(struct pci_function *fn);
/* PCI Express, as an endpoint integrated in the root complex, with function level reset. */
void pci_add_express(struct pci_function *fn);

/* Publishes it on its bus (attach), and takes it off. */
void pci_add_function(struct pci_function *fn);
void pci_remove_function(struct pci_function *fn);

void pci_function_reset(struct pci_function *fn, enum reset_kind kind);
int pci_function_check(const struct pci_function *fn, struct err *err);
/* Bus mastering and BAR mappings, from the config space. Call it first in the chip's derive. */
void pci_function_derive(struct pci_function *fn);

/* Drives the function's INTx pin; the command register's INTx disable is obeyed here. */
void pci_intx_set(struct pci_function *fn, bool level);

/* Where a BAR is, or UINT64_MAX while it is not decoded. */
uint64_t pci_bar_base(const struct pci_function *fn, unsigned index);

/* Configuration accesses by the host bridge: size 1, 2 or 4, aligned, off < 4096. Absent: ones. */
uint32_t pci_config_read(struct pci_bus *bus, uint8_t devfn, unsigned off, unsigned size);
void pci_config_write(struct pci_bus *bus, uint8_t devfn, unsigned off, uint32_t val,
                      unsigned size);

#endif
