/* SPDX-License-Identifier: Apache-2.0 */
/* A PCI function with MSI (4 vectors) and MSI-X (3 vectors) and nothing else, for tests and
 * fuzzing. */
#ifndef TESTS_LIB_PCI_GADGET_H
#define TESTS_LIB_PCI_GADGET_H

#include "hw/pci/msi.h"
#include "tests/lib/testvm.h"

#define DEVFN   PCI_DEVFN(3, 0)
#define VECTORS 3
#define MSI     0x40 /* where the capabilities lie: MSI, then MSI-X */
#define MSIX    0x58

struct gadget_state {
    struct pci_function_state pci;
    struct pci_msix_state msix;
};

struct gadget {
    struct device dev;
    struct pci_function pci;
    struct pci_msix msix;
    struct gadget_state state;
};

static int gadget_init(struct device *dev, const void *config, struct err *err)
{
    static const struct pci_ids ids = {.vendor = 0x1234, .device = 1};
    struct gadget *g = (struct gadget *)dev;
    int ret = pci_function_init(&g->pci, dev, (struct pci_bus *)config, DEVFN, &g->state.pci, &ids,
                                PCI_CONFIG_SIZE, err);

    pci_add_msi(&g->pci, 2);
    pci_add_msix(&g->msix, &g->pci, &g->state.msix, VECTORS, 1, 0x2000, 0x3000);
    return ret;
}

static void gadget_attach(struct device *dev)
{
    pci_add_function(&((struct gadget *)dev)->pci);
}

static void gadget_reset(struct device *dev, enum reset_kind kind)
{
    struct gadget *g = (struct gadget *)dev;

    pci_function_reset(&g->pci, kind);
    pci_msix_reset(&g->msix);
}

static int gadget_check(struct device *dev, struct err *err)
{
    struct gadget *g = (struct gadget *)dev;
    int ret = pci_function_check(&g->pci, err);

    return ret ? ret : pci_msix_check(&g->msix, err);
}

static void gadget_derive(struct device *dev)
{
    struct gadget *g = (struct gadget *)dev;

    pci_function_derive(&g->pci);
    pci_msix_derive(&g->msix);
}

static const struct state_field gadget_fields[] = {
    STATE_PCI_FUNCTION(struct gadget_state, pci),
    STATE_PCI_MSIX(struct gadget_state, msix),
};
static const struct state gadget_table = STATE(struct gadget, state, 1, gadget_fields);
static const struct dev_type gadget_type = {
    .name = "gadget",
    .size = sizeof(struct gadget),
    .init = gadget_init,
    .attach = gadget_attach,
    .reset = gadget_reset,
    .check = gadget_check,
    .derive = gadget_derive,
    .state = &gadget_table,
};

#endif
