/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tests/lib/pci_gadget.h"
#include "tests/lib/unit.h"

struct fixture {
    struct testvm *tv;
    struct pci_bus bus;
    struct gadget *g;
};

static void wr(struct fixture *f, unsigned off, uint32_t val, unsigned size)
{
    pci_config_write(&f->bus, DEVFN, off, val, size);
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->bus.vm = &f->tv->vm;
    f->g = (struct gadget *)testvm_add(f->tv, &gadget_type, &f->bus);
    wr(f, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void msi_on(struct fixture *f, uint16_t control)
{
    wr(f, MSI + 4, 0xfee01003, 4);
    wr(f, MSI + 8, 0x1, 4);
    wr(f, MSI + 12, 0x4147, 2);
    wr(f, MSI + 2, control, 2);
}

static void table_entry(struct fixture *f, unsigned i, uint32_t data, uint32_t control)
{
    pci_msix_table_write(&f->g->msix, i * 16, 0xfee00003 + (i << 12));
    pci_msix_table_write(&f->g->msix, i * 16 + 4, 2);
    pci_msix_table_write(&f->g->msix, i * 16 + 8, data);
    pci_msix_table_write(&f->g->msix, i * 16 + 12, control);
}

TEST_F(msi_is_off_after_reset)
{
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSI, 4), 0x01845805);
    assert_false(pci_msi_notify(&f->g->pci, 0));
    assert_int_equal(f->tv->nmsis, 0);
}

TEST_F(msi_sends_address_and_data)
{
    msi_on(f, 0x0001);
    assert_true(pci_msi_enabled(&f->g->pci));
    assert_int_equal(pci_msi_vectors(&f->g->pci), 1);
    assert_true(pci_msi_notify(&f->g->pci, 3));
    assert_int_equal(f->tv->msis[0].addr, 0x1fee01000);
    assert_int_equal(f->tv->msis[0].data, 0x4147);
}

TEST_F(msi_vectors_go_into_the_low_bits)
{
    msi_on(f, 0x0021);
    assert_int_equal(pci_msi_vectors(&f->g->pci), 4);
    pci_msi_notify(&f->g->pci, 1);
    assert_int_equal(f->tv->msis[0].data, 0x4145);
    pci_msi_notify(&f->g->pci, 6);
    assert_int_equal(f->tv->msis[1].data, 0x4146);
}

TEST_F(msi_never_gives_more_vectors_than_it_has)
{
    msi_on(f, 0x0071);
    assert_int_equal(pci_msi_vectors(&f->g->pci), 4);
}

TEST_F(masked_msi_waits_in_the_pending_bits)
{
    msi_on(f, 0x0021);
    wr(f, MSI + 16, 0xffffffff, 4);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSI + 16, 4), 0xf);
    pci_msi_notify(&f->g->pci, 2);
    assert_int_equal(f->tv->nmsis, 0);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSI + 20, 4), 4);
    wr(f, MSI + 16, 0xb, 4);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].data, 0x4146);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSI + 20, 4), 0);
}

TEST_F(msix_table_reads_back_and_starts_masked)
{
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSIX, 4), 0x00020011);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSIX + 4, 4), 0x2001);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSIX + 8, 4), 0x3001);
    assert_int_equal(pci_msix_table_read(&f->g->msix, 12), 1);
    table_entry(f, 2, 0x77, 0xfffffffe);
    assert_int_equal(pci_msix_table_read(&f->g->msix, 32), 0xfee02000);
    assert_int_equal(pci_msix_table_read(&f->g->msix, 36), 2);
    assert_int_equal(pci_msix_table_read(&f->g->msix, 40), 0x77);
    assert_int_equal(pci_msix_table_read(&f->g->msix, 44), 0);
}

TEST_F(msix_accesses_past_the_table_do_nothing)
{
    pci_msix_table_write(&f->g->msix, VECTORS * 16, 0xffffffff);
    assert_int_equal(pci_msix_table_read(&f->g->msix, VECTORS * 16), 0);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0x800), 0);
}

TEST_F(msix_sends_what_the_entry_says)
{
    table_entry(f, 1, 0x77, 0);
    assert_false(pci_msix_notify(&f->g->msix, 1));
    wr(f, MSIX + 2, 0x8000, 2);
    assert_true(pci_msix_notify(&f->g->msix, 1));
    assert_true(pci_msix_notify(&f->g->msix, VECTORS));
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].addr, 0x2fee01000);
    assert_int_equal(f->tv->msis[0].data, 0x77);
}

TEST_F(masked_msix_vector_waits_and_is_sent_once)
{
    table_entry(f, 1, 0x77, 1);
    wr(f, MSIX + 2, 0x8000, 2);
    pci_msix_notify(&f->g->msix, 1);
    pci_msix_notify(&f->g->msix, 1);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0), 2);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 4), 0);
    pci_msix_table_write(&f->g->msix, 16 + 12, 0);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0), 0);
}

TEST_F(function_mask_holds_all_vectors)
{
    table_entry(f, 0, 0x70, 0);
    wr(f, MSIX + 2, 0xc000, 2);
    pci_msix_notify(&f->g->msix, 0);
    assert_int_equal(f->tv->nmsis, 0);
    wr(f, MSIX + 2, 0x8000, 2);
    assert_int_equal(f->tv->nmsis, 1);
}

TEST_F(messages_need_bus_mastering)
{
    msi_on(f, 1);
    wr(f, PCI_COMMAND, 0, 2);
    pci_msi_notify(&f->g->pci, 0);
    assert_int_equal(f->tv->nmsis, 0);
}

TEST_F(state_round_trips)
{
    table_entry(f, 1, 0x77, 1);
    wr(f, MSIX + 2, 0x8000, 2);
    pci_msix_notify(&f->g->msix, 1);
    testvm_state_roundtrip(&f->g->dev);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0), 2);
}

TEST_F(pending_vectors_that_do_not_exist_are_refused)
{
    struct err err = {0};

    f->g->state.msix.pending[1] = 1;
    assert_int_not_equal(pci_msix_check(&f->g->msix, &err), 0);
    assert_non_null(strstr(err.text, "vector 64"));
}
