/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/pci_gadget.h"

struct fixture {
    struct testvm *tv;
    struct pci_bus bus;
    struct gadget *g;
};

static void wr(struct fixture *f, unsigned off, uint32_t val, unsigned size)
{
    pci_config_write(&f->bus, DEVFN, off, val, size);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->bus.vm = &f->tv->vm;
    f->g = (struct gadget *)testvm_add(f->tv, &gadget_type, &f->bus);
    wr(f, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testvm_free(f->tv);
    free(f);
    return 0;
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

static void msi_is_off_after_reset(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(pci_config_read(&f->bus, DEVFN, MSI, 4), 0x01845805);
    assert_false(pci_msi_notify(&f->g->pci, 0));
    assert_int_equal(f->tv->nmsis, 0);
}

static void msi_sends_address_and_data(void **state)
{
    struct fixture *f = *state;

    msi_on(f, 0x0001);
    assert_true(pci_msi_enabled(&f->g->pci));
    assert_int_equal(pci_msi_vectors(&f->g->pci), 1);
    assert_true(pci_msi_notify(&f->g->pci, 3));
    assert_int_equal(f->tv->msis[0].addr, 0x1fee01000);
    assert_int_equal(f->tv->msis[0].data, 0x4147);
}

static void msi_vectors_go_into_the_low_bits(void **state)
{
    struct fixture *f = *state;

    msi_on(f, 0x0021);
    assert_int_equal(pci_msi_vectors(&f->g->pci), 4);
    pci_msi_notify(&f->g->pci, 1);
    assert_int_equal(f->tv->msis[0].data, 0x4145);
    pci_msi_notify(&f->g->pci, 6);
    assert_int_equal(f->tv->msis[1].data, 0x4146);
}

static void msi_never_gives_more_vectors_than_it_has(void **state)
{
    struct fixture *f = *state;

    msi_on(f, 0x0071);
    assert_int_equal(pci_msi_vectors(&f->g->pci), 4);
}

static void masked_msi_waits_in_the_pending_bits(void **state)
{
    struct fixture *f = *state;

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

static void msix_table_reads_back_and_starts_masked(void **state)
{
    struct fixture *f = *state;

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

static void msix_accesses_past_the_table_do_nothing(void **state)
{
    struct fixture *f = *state;

    pci_msix_table_write(&f->g->msix, VECTORS * 16, 0xffffffff);
    assert_int_equal(pci_msix_table_read(&f->g->msix, VECTORS * 16), 0);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0x800), 0);
}

static void msix_sends_what_the_entry_says(void **state)
{
    struct fixture *f = *state;

    table_entry(f, 1, 0x77, 0);
    assert_false(pci_msix_notify(&f->g->msix, 1));
    wr(f, MSIX + 2, 0x8000, 2);
    assert_true(pci_msix_notify(&f->g->msix, 1));
    assert_true(pci_msix_notify(&f->g->msix, VECTORS));
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].addr, 0x2fee01000);
    assert_int_equal(f->tv->msis[0].data, 0x77);
}

static void masked_msix_vector_waits_and_is_sent_once(void **state)
{
    struct fixture *f = *state;

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

static void function_mask_holds_all_vectors(void **state)
{
    struct fixture *f = *state;

    table_entry(f, 0, 0x70, 0);
    wr(f, MSIX + 2, 0xc000, 2);
    pci_msix_notify(&f->g->msix, 0);
    assert_int_equal(f->tv->nmsis, 0);
    wr(f, MSIX + 2, 0x8000, 2);
    assert_int_equal(f->tv->nmsis, 1);
}

static void messages_need_bus_mastering(void **state)
{
    struct fixture *f = *state;

    msi_on(f, 1);
    wr(f, PCI_COMMAND, 0, 2);
    pci_msi_notify(&f->g->pci, 0);
    assert_int_equal(f->tv->nmsis, 0);
}

static void state_round_trips(void **state)
{
    struct fixture *f = *state;

    table_entry(f, 1, 0x77, 1);
    wr(f, MSIX + 2, 0x8000, 2);
    pci_msix_notify(&f->g->msix, 1);
    testvm_state_roundtrip(&f->g->dev);
    assert_int_equal(pci_msix_pba_read(&f->g->msix, 0), 2);
}

static void pending_vectors_that_do_not_exist_are_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};

    f->g->state.msix.pending[1] = 1;
    assert_int_not_equal(pci_msix_check(&f->g->msix, &err), 0);
    assert_non_null(strstr(err.text, "vector 64"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(msi_is_off_after_reset),
        TEST(msi_sends_address_and_data),
        TEST(msi_vectors_go_into_the_low_bits),
        TEST(msi_never_gives_more_vectors_than_it_has),
        TEST(masked_msi_waits_in_the_pending_bits),
        TEST(msix_table_reads_back_and_starts_masked),
        TEST(msix_accesses_past_the_table_do_nothing),
        TEST(msix_sends_what_the_entry_says),
        TEST(masked_msix_vector_waits_and_is_sent_once),
        TEST(function_mask_holds_all_vectors),
        TEST(messages_need_bus_mastering),
        TEST(state_round_trips),
        TEST(pending_vectors_that_do_not_exist_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
