/* SPDX-License-Identifier: Apache-2.0 */
/* NVM Express 1.4 controller with one namespace. See nvme.c. */
#ifndef HW_BLOCK_NVME_H
#define HW_BLOCK_NVME_H

#include "backend/block/block.h"
#include "hw/pci/pci.h"

struct nvme_config {
    struct pci_bus *bus;
    uint8_t devfn;
    struct block *block; /* borrowed: freed by the machine after the device */
    const char *
        serial; /* at most 20 characters, borrowed until init has returned; NULL: made from devfn */
};

extern const struct dev_type nvme_type;

#endif
