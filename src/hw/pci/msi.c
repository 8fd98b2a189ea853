/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI and MSI-X (PCI Local Bus Specification 3.0, 6.8). An interrupt is a write of a little word to
 * an address, both chosen by software; where it goes is the business of msi_send.
 *
 * MSI lives in configuration space alone. MSI-X has a table and pending bits in a BAR of the chip,
 * which hands accesses over. A hostile guest reaches the table index (bounded by the number of
 * vectors).
 */
#include "hw/pci/msi.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

/* ---- MSI (6.8.1), in the 64-bit layout with masks ---- */

#define MSI_SIZE              0x18
#define MSI_CONTROL           2
#define MSI_CONTROL_ENABLE    0x0001
#define MSI_CONTROL_MMC_SHIFT 1
#define MSI_CONTROL_MME       0x0070
#define MSI_CONTROL_MME_SHIFT 4
#define MSI_CONTROL_64        0x0080
#define MSI_CONTROL_MASKS     0x0100
#define MSI_ADDR_LOW          4
#define MSI_ADDR_HIGH         8
#define MSI_DATA              12
#define MSI_MASK              16
#define MSI_PENDING           20

void pci_add_msi(struct pci_function *fn, unsigned log2_vectors)
{
    unsigned cap = pci_add_capability(fn, PCI_CAP_ID_MSI, MSI_SIZE);
    uint32_t vectors = (uint32_t)mask_bytes(8) >> (32 - (1u << log2_vectors));

    fn->msi_cap = (uint8_t)cap;
    put_le16(fn->reset + cap + MSI_CONTROL, (uint16_t)(MSI_CONTROL_64 | MSI_CONTROL_MASKS |
                                                       log2_vectors << MSI_CONTROL_MMC_SHIFT));
    put_le16(fn->wmask + cap + MSI_CONTROL, MSI_CONTROL_ENABLE | MSI_CONTROL_MME);
    put_le32(fn->wmask + cap + MSI_ADDR_LOW, 0xfffffffc);
    put_le32(fn->wmask + cap + MSI_ADDR_HIGH, 0xffffffff);
    put_le16(fn->wmask + cap + MSI_DATA, 0xffff);
    put_le32(fn->wmask + cap + MSI_MASK, vectors);
    put_le32(fn->hw + cap + MSI_PENDING, vectors);
}

static uint16_t msi_control(const struct pci_function *fn)
{
    return fn->msi_cap ? get_le16(fn->state->config + fn->msi_cap + MSI_CONTROL) : 0;
}

bool pci_msi_enabled(const struct pci_function *fn)
{
    return msi_control(fn) & MSI_CONTROL_ENABLE;
}

unsigned pci_msi_vectors(const struct pci_function *fn)
{
    unsigned given = (msi_control(fn) & MSI_CONTROL_MME) >> MSI_CONTROL_MME_SHIFT;
    unsigned able = msi_control(fn) >> MSI_CONTROL_MMC_SHIFT & 7;

    return 1u << min_u64(given, min_u64(able, 5));
}

static void msi_emit(struct pci_function *fn, unsigned vector)
{
    const uint8_t *cap = fn->state->config + fn->msi_cap;
    uint64_t addr = get_le32(cap + MSI_ADDR_LOW) | (uint64_t)get_le32(cap + MSI_ADDR_HIGH) << 32;
    uint32_t data = get_le16(cap + MSI_DATA);

    msi_send(fn->dev, addr, (data & ~(pci_msi_vectors(fn) - 1)) | vector);
}

bool pci_msi_notify(struct pci_function *fn, unsigned vector)
{
    uint8_t *cap = fn->state->config + fn->msi_cap;

    if (!pci_msi_enabled(fn))
        return false;
    vector &= pci_msi_vectors(fn) - 1;
    if (get_le32(cap + MSI_MASK) >> vector & 1)
        put_le32(cap + MSI_PENDING, get_le32(cap + MSI_PENDING) | 1u << vector);
    else
        msi_emit(fn, vector);
    return true;
}

void pci_msi_derive(struct pci_function *fn)
{
    uint8_t *cap = fn->state->config + fn->msi_cap;
    uint32_t open;

    if (!pci_msi_enabled(fn))
        return;
    open = get_le32(cap + MSI_PENDING) & ~get_le32(cap + MSI_MASK);
    put_le32(cap + MSI_PENDING, get_le32(cap + MSI_PENDING) & ~open);
    for (; open; open &= open - 1)
        msi_emit(fn, (unsigned)__builtin_ctz(open) & (pci_msi_vectors(fn) - 1));
}

/* ---- MSI-X (6.8.2) ---- */

#define MSIX_SIZE             12
#define MSIX_CONTROL          2
#define MSIX_CONTROL_ENABLE   0x8000
#define MSIX_CONTROL_MASK_ALL 0x4000
#define MSIX_TABLE            4
#define MSIX_PBA              8

#define ENTRY_SIZE      16
#define ENTRY_ADDR_LOW  0
#define ENTRY_ADDR_HIGH 4
#define ENTRY_DATA      8
#define ENTRY_CONTROL   12
#define ENTRY_MASKED    1u

static const struct state_field entry_fields[] = {
    STATE_UINT(struct pci_msix_entry, addr, 0, UINT64_MAX),
    STATE_UINT(struct pci_msix_entry, data, 0, UINT32_MAX),
    STATE_UINT(struct pci_msix_entry, control, 0, 1),
};

const struct state_field pci_msix_fields[2] = {
    STATE_STRUCTS(struct pci_msix_state, entry, entry_fields),
    STATE_UINTS(struct pci_msix_state, pending, 0, UINT64_MAX),
};

void pci_add_msix(struct pci_msix *msix, struct pci_function *fn, struct pci_msix_state *state,
                  unsigned vectors, unsigned bar, uint32_t table, uint32_t pba)
{
    unsigned cap = pci_add_capability(fn, PCI_CAP_ID_MSIX, MSIX_SIZE);

    *msix = (struct pci_msix){.fn = fn, .state = state, .vectors = vectors, .cap = (uint8_t)cap};
    put_le16(fn->reset + cap + MSIX_CONTROL, (uint16_t)(vectors - 1));
    put_le16(fn->wmask + cap + MSIX_CONTROL, MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL);
    put_le32(fn->reset + cap + MSIX_TABLE, table | bar);
    put_le32(fn->reset + cap + MSIX_PBA, pba | bar);
    pci_msix_reset(msix);
}

void pci_msix_reset(struct pci_msix *msix)
{
    memset(msix->state, 0, sizeof(*msix->state));
    for (unsigned i = 0; i < msix->vectors; i++)
        msix->state->entry[i].control = ENTRY_MASKED;
}

int pci_msix_check(const struct pci_msix *msix, struct err *err)
{
    for (unsigned i = msix->vectors; i < ARRAY_LEN(msix->state->pending) * 64; i++)
        if (msix->state->pending[i / 64] >> i % 64 & 1)
            return err_set(err, EINVAL, "saved MSI-X vector %u is pending, which does not exist",
                           i);
    return 0;
}

static uint16_t msix_control(const struct pci_msix *msix)
{
    return get_le16(msix->fn->state->config + msix->cap + MSIX_CONTROL);
}

bool pci_msix_enabled(const struct pci_msix *msix)
{
    return msix_control(msix) & MSIX_CONTROL_ENABLE;
}

static bool msix_masked(const struct pci_msix *msix, unsigned vector)
{
    return (msix_control(msix) & MSIX_CONTROL_MASK_ALL) ||
           (msix->state->entry[vector].control & ENTRY_MASKED);
}

bool pci_msix_notify(struct pci_msix *msix, unsigned vector)
{
    const struct pci_msix_entry *entry;

    if (!pci_msix_enabled(msix))
        return false;
    if (vector >= msix->vectors)
        return true;
    entry = &msix->state->entry[vector];
    if (msix_masked(msix, vector))
        msix->state->pending[vector / 64] |= BIT(vector % 64);
    else
        msi_send(msix->fn->dev, entry->addr, entry->data);
    return true;
}

void pci_msix_derive(struct pci_msix *msix)
{
    if (!pci_msix_enabled(msix))
        return;
    for (unsigned i = 0; i < msix->vectors; i++) {
        uint64_t *word = &msix->state->pending[i / 64];

        if (!(*word >> i % 64 & 1) || msix_masked(msix, i))
            continue;
        *word &= ~BIT(i % 64);
        pci_msix_notify(msix, i);
    }
}

uint32_t pci_msix_table_read(const struct pci_msix *msix, uint64_t off)
{
    const struct pci_msix_entry *entry;

    if (off / ENTRY_SIZE >= msix->vectors)
        return 0;
    entry = &msix->state->entry[off / ENTRY_SIZE];
    switch (off % ENTRY_SIZE & ~3ull) {
    case ENTRY_ADDR_LOW:
        return (uint32_t)entry->addr;
    case ENTRY_ADDR_HIGH:
        return (uint32_t)(entry->addr >> 32);
    case ENTRY_DATA:
        return entry->data;
    }
    return entry->control;
}

void pci_msix_table_write(struct pci_msix *msix, uint64_t off, uint32_t val)
{
    struct pci_msix_entry *entry;

    if (off / ENTRY_SIZE >= msix->vectors)
        return;
    entry = &msix->state->entry[off / ENTRY_SIZE];
    switch (off % ENTRY_SIZE & ~3ull) {
    case ENTRY_ADDR_LOW:
        entry->addr = (entry->addr & ~0xffffffffull) | (val & ~3u);
        break;
    case ENTRY_ADDR_HIGH:
        entry->addr = (uint64_t)val << 32 | (uint32_t)entry->addr;
        break;
    case ENTRY_DATA:
        entry->data = val;
        break;
    case ENTRY_CONTROL:
        entry->control = val & ENTRY_MASKED;
        break;
    }
    pci_msix_derive(msix);
}

uint32_t pci_msix_pba_read(const struct pci_msix *msix, uint64_t off)
{
    if (off / 8 >= ARRAY_LEN(msix->state->pending))
        return 0;
    return (uint32_t)(msix->state->pending[off / 8] >> off % 8 / 4 * 32);
}
