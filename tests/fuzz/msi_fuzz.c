/* SPDX-License-Identifier: Apache-2.0 */
/* MSI and MSI-X of a function: configuration writes, the vector table, interrupts, hostile state.
 */
#include "tests/lib/fuzzops.h"
#include "tests/lib/pci_gadget.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_in in = {data, size};
    struct testvm *tv = testvm_new();
    struct pci_bus bus = {.vm = &tv->vm};
    struct gadget *g = (struct gadget *)testvm_add(tv, &gadget_type, &bus);
    uint64_t off;

    pci_config_write(&bus, DEVFN, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    while (in.size) {
        unsigned op = (unsigned)fuzz_take(&in, 1);

        switch (op & 7) {
        case 0: /* the capabilities, mostly */
        case 1:
            off = op & 0x40 ? fuzz_take(&in, 1) : MSI + fuzz_take(&in, 1) % 40;
            if (op & 0x80)
                pci_config_read(&bus, DEVFN, (unsigned)off, 1u << (op >> 3 & 3) % 3);
            else
                pci_config_write(&bus, DEVFN, (unsigned)off, (uint32_t)fuzz_take(&in, 4),
                                 1u << (op >> 3 & 3) % 3);
            break;
        case 2:
            pci_msi_notify(&g->pci, (unsigned)fuzz_take(&in, 1));
            break;
        case 3:
            pci_msix_notify(&g->msix, (unsigned)fuzz_take(&in, 1) & 7);
            break;
        case 4:
            off = fuzz_take(&in, 1) & 0xfc;
            if (op & 0x80)
                pci_msix_table_read(&g->msix, off);
            else
                pci_msix_table_write(&g->msix, off, (uint32_t)fuzz_take(&in, 4));
            gadget_derive(&g->dev);
            break;
        case 5:
            pci_msix_pba_read(&g->msix, fuzz_take(&in, 1) & 0xfc);
            break;
        case 6:
            fuzz_load(&in, &g->dev);
            break;
        case 7:
            if ((op & 0xf8) == 0xf8)
                fuzz_reset(&in, &g->dev);
            else /* both switched on, vectors unmasked */
                pci_config_write(&bus, DEVFN, (op & 8 ? MSIX : MSI) + 2, op & 8 ? 0x8000 : 0x21, 2);
            break;
        }
    }
    testvm_free(tv);
    return 0;
}
