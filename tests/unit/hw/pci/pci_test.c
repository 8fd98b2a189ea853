/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "hw/pci/msi.h"
#include "hw/pci/pci.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

/* A function with one BAR of each kind, a ROM, and all capabilities of the framework. */
#define MEM32 0x10
#define MEM64 0x14
#define IO    0x1c
#define DEVFN PCI_DEVFN(3, 0)

struct widget_state {
    struct pci_function_state pci;
};

struct widget {
    struct device dev;
    struct pci_function pci;
    struct region mem32, mem64, io, rom;
    unsigned written, resets;
    bool intx;
    struct widget_state state;
};

struct widget_config {
    struct pci_bus *bus;
    uint8_t devfn;
};

static uint64_t widget_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    (void)size;
    return 0x5a00 + off;
}

static void widget_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    (void)dev;
    (void)off;
    (void)val;
    (void)size;
}

static const struct io_ops widget_ops = {
    .read = widget_read, .write = widget_write, .sizes = IO_1 | IO_2 | IO_4};

static void config_written(struct pci_function *fn, unsigned off, unsigned size)
{
    (void)off;
    (void)size;
    container_of(fn, struct widget, pci)->written++;
}

static struct region region(struct widget *w, uint64_t size)
{
    return (struct region){
        .name = "widget", .size = size, .ops = &widget_ops, .dev = w, .owner = &w->dev};
}

static int widget_init(struct device *dev, const void *config, struct err *err)
{
    static const struct pci_ids ids = {.vendor = 0x1234,
                                       .device = 0x5678,
                                       .class_code = 0x0c0330,
                                       .subsystem_vendor = 0x1af4,
                                       .subsystem = 0x1100,
                                       .revision = 7,
                                       .interrupt_pin = 1};
    const struct widget_config *c = config;
    struct widget *w = (struct widget *)dev;
    int ret = pci_function_init(&w->pci, dev, c->bus, c->devfn, &w->state.pci, &ids,
                                PCIE_CONFIG_SIZE, err);

    if (ret)
        return ret;
    w->pci.config_written = config_written;
    w->mem32 = region(w, 0x1000);
    w->mem64 = region(w, 0x4000);
    w->io = region(w, 0x20);
    w->rom = region(w, 0x10000);
    pci_add_bar(&w->pci, 0, PCI_BAR_MEM32, &w->mem32);
    pci_add_bar(&w->pci, 1, PCI_BAR_MEM64_PREFETCH, &w->mem64);
    pci_add_bar(&w->pci, 3, PCI_BAR_IO, &w->io);
    pci_add_rom(&w->pci, &w->rom);
    pci_add_pm(&w->pci);
    pci_add_express(&w->pci);
    return 0;
}

static void widget_attach(struct device *dev)
{
    pci_add_function(&((struct widget *)dev)->pci);
}

static void widget_detach(struct device *dev)
{
    pci_remove_function(&((struct widget *)dev)->pci);
}

static void widget_reset(struct device *dev, enum reset_kind kind)
{
    struct widget *w = (struct widget *)dev;

    w->resets++;
    pci_function_reset(&w->pci, kind);
}

static int widget_check(struct device *dev, struct err *err)
{
    return pci_function_check(&((struct widget *)dev)->pci, err);
}

static void widget_derive(struct device *dev)
{
    struct widget *w = (struct widget *)dev;

    pci_function_derive(&w->pci);
    pci_intx_set(&w->pci, w->intx);
}

static const struct state_field widget_fields[] = {STATE_PCI_FUNCTION(struct widget_state, pci)};
static const struct state widget_table = STATE(struct widget, state, 1, widget_fields);
static const struct dev_type widget_type = {
    .name = "widget",
    .size = sizeof(struct widget),
    .init = widget_init,
    .attach = widget_attach,
    .detach = widget_detach,
    .reset = widget_reset,
    .check = widget_check,
    .derive = widget_derive,
    .state = &widget_table,
};

struct fixture {
    struct testvm *tv;
    struct testvm_irq irq;
    struct pci_bus bus;
    struct widget *w;
};

static unsigned route(unsigned slot, unsigned pin)
{
    return slot + pin;
}

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->irq, 20);
    f->bus.vm = &f->tv->vm;
    f->bus.route = route;
    f->bus.pirq[4] = &f->irq.line;
    f->w = (struct widget *)testvm_add(f->tv, &widget_type,
                                       &(struct widget_config){.bus = &f->bus, .devfn = DEVFN});
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static uint32_t rd(struct fixture *f, unsigned off, unsigned size)
{
    return pci_config_read(&f->bus, DEVFN, off, size);
}

static void wr(struct fixture *f, unsigned off, uint32_t val, unsigned size)
{
    TESTVM_LOCKED(f->tv, pci_config_write(&f->bus, DEVFN, off, val, size));
}

TEST_F(identity_reads_back_at_every_width)
{
    assert_int_equal(rd(f, 0, 4), 0x56781234);
    assert_int_equal(rd(f, 2, 2), 0x5678);
    assert_int_equal(rd(f, 3, 1), 0x56);
    assert_int_equal(rd(f, 8, 4), 0x0c033007);
    assert_int_equal(rd(f, 0x2c, 4), 0x11001af4);
    assert_int_equal(rd(f, 0x3c, 2), 0x0100);
    wr(f, 0, 0xffffffff, 4);
    assert_int_equal(rd(f, 0, 4), 0x56781234);
}

TEST_F(absent_functions_read_ones)
{
    assert_int_equal(pci_config_read(&f->bus, PCI_DEVFN(4, 0), 0, 4), 0xffffffff);
    pci_config_write(&f->bus, PCI_DEVFN(4, 0), 4, 7, 2);
    assert_int_equal(rd(f, 0xffe, 4), 0xffffffff);
}

TEST_F(taken_address_is_refused_with_a_sentence)
{
    struct err err = {0};

    assert_null(device_new(&f->tv->vm, &widget_type, "other",
                           &(struct widget_config){.bus = &f->bus, .devfn = DEVFN}, &err));
    assert_non_null(strstr(err.text, "03.0 is taken"));
}

TEST_F(bars_tell_their_size)
{
    wr(f, MEM32, 0xffffffff, 4);
    wr(f, MEM64, 0xffffffff, 4);
    wr(f, MEM64 + 4, 0xffffffff, 4);
    wr(f, IO, 0xffffffff, 4);
    wr(f, PCI_ROM_ADDRESS, 0xfffffffe, 4);
    assert_int_equal(rd(f, MEM32, 4), 0xfffff000);
    assert_int_equal(rd(f, MEM64, 4), 0xffffc00c);
    assert_int_equal(rd(f, MEM64 + 4, 4), 0xffffffff);
    assert_int_equal(rd(f, IO, 4), 0xffffffe1);
    assert_int_equal(rd(f, PCI_ROM_ADDRESS, 4), 0xffff0000);
    assert_int_equal(rd(f, 0x20, 4), 0);
}

TEST_F(bars_decode_only_when_the_command_register_says)
{
    wr(f, MEM32, 0xc0000000, 4);
    wr(f, IO, 0xc000, 4);
    assert_int_equal(testvm_read(f->tv, 0xc0000010, 4), 0xffffffff);
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    assert_int_equal(testvm_read(f->tv, 0xc0000010, 4), 0x5a10);
    assert_int_equal(pci_bar_base(&f->w->pci, 0), 0xc0000000);
    assert_int_equal(testvm_in(f->tv, 0xc004, 2), 0xffff);
    assert_true(pci_bar_base(&f->w->pci, 3) == UINT64_MAX);
    wr(f, PCI_COMMAND, PCI_COMMAND_IO, 2);
    assert_int_equal(testvm_in(f->tv, 0xc004, 2), 0x5a04);
    assert_int_equal(testvm_read(f->tv, 0xc0000010, 4), 0xffffffff);
    assert_true(pci_bar_base(&f->w->pci, 9) == UINT64_MAX);
}

TEST_F(bars_move_and_the_64_bit_one_goes_high)
{
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    wr(f, MEM64, 0x40000000, 4);
    wr(f, MEM64 + 4, 0x80, 4);
    assert_int_equal(testvm_read(f->tv, 0x8040000020ull, 4), 0x5a20);
    wr(f, MEM64 + 4, 0xffffffff, 4);
    assert_true(pci_bar_base(&f->w->pci, 1) == UINT64_MAX);
    assert_int_equal(testvm_read(f->tv, 0x8040000020ull, 4), 0xffffffff);
}

TEST_F(ram_wins_over_a_bar_on_top_of_it)
{
    testvm_write(f->tv, 0x100000, 0x11223344, 4);
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    wr(f, MEM32, 0x100000, 4);
    assert_int_equal(testvm_read(f->tv, 0x100000, 4), 0x11223344);
}

TEST_F(io_bar_past_the_port_space_is_not_decoded)
{
    wr(f, PCI_COMMAND, PCI_COMMAND_IO, 2);
    wr(f, IO, 0x1c000, 4);
    assert_true(pci_bar_base(&f->w->pci, 3) == UINT64_MAX);
}

TEST_F(rom_needs_its_own_enable_bit)
{
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    wr(f, PCI_ROM_ADDRESS, 0xc0010000, 4);
    assert_int_equal(testvm_read(f->tv, 0xc0010000, 2), 0xffff);
    wr(f, PCI_ROM_ADDRESS, 0xc0010001, 4);
    assert_int_equal(testvm_read(f->tv, 0xc0010000, 2), 0x5a00);
}

TEST_F(bus_master_bit_gates_dma)
{
    uint8_t byte;

    assert_false(dma_read(&f->w->dev, 0, &byte, 1));
    wr(f, PCI_COMMAND, PCI_COMMAND_MASTER, 2);
    assert_true(dma_read(&f->w->dev, 0, &byte, 1));
    assert_int_equal(f->w->dev.requester_id, DEVFN);
}

TEST_F(intx_follows_the_chip_and_the_disable_bit)
{
    vm_lock(&f->tv->vm);
    f->w->intx = true;
    widget_derive(&f->w->dev);
    vm_unlock(&f->tv->vm);
    assert_true(f->irq.level);
    assert_true(rd(f, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    wr(f, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
    assert_false(f->irq.level);
    assert_true(rd(f, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    wr(f, PCI_COMMAND, 0, 2);
    assert_true(f->irq.level);
}

TEST_F(status_errors_clear_by_writing_ones)
{
    f->w->state.pci.config[PCI_STATUS + 1] = 0x30;
    wr(f, PCI_STATUS, 0x1000, 2);
    assert_int_equal(rd(f, PCI_STATUS, 2), 0x2010);
    assert_int_equal(f->w->written, 1);
}

TEST_F(capabilities_form_a_list)
{
    assert_int_equal(rd(f, PCI_CAPABILITY_LIST, 1), 0x40);
    assert_int_equal(rd(f, 0x40, 2), 0x4801);
    assert_int_equal(rd(f, 0x48, 4), 0x00920010);
    assert_true(rd(f, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
}

TEST_F(sleeping_function_decodes_nothing)
{
    wr(f, MEM32, 0xc0000000, 4);
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    wr(f, 0x44, 3, 2);
    assert_int_equal(testvm_read(f->tv, 0xc0000000, 4), 0xffffffff);
    assert_false(f->w->pci.bus_master);
    wr(f, 0x44, 0, 2);
    assert_int_equal(testvm_read(f->tv, 0xc0000000, 4), 0x5a00);
}

TEST_F(function_level_reset_resets_the_chip)
{
    unsigned before = f->w->resets;

    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    wr(f, 0x50, 0x7fff, 2);
    assert_int_equal(f->w->resets, before);
    wr(f, 0x50, 0x8000, 4);
    assert_int_equal(f->w->resets, before + 1);
    assert_int_equal(rd(f, PCI_COMMAND, 2), 0);
    assert_int_equal(rd(f, 0x50, 2), 0);
    wr(f, 0x51, 0x80, 1);
    assert_int_equal(f->w->resets, before + 2);
}

TEST_F(detached_function_is_absent)
{
    wr(f, MEM32, 0xc0000000, 4);
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    vm_lock(&f->tv->vm);
    device_detach(&f->w->dev);
    widget_derive(&f->w->dev);
    vm_unlock(&f->tv->vm);
    assert_int_equal(rd(f, 0, 4), 0xffffffff);
    assert_int_equal(testvm_read(f->tv, 0xc0000000, 4), 0xffffffff);
}

TEST_F(state_round_trips_with_its_mappings)
{
    wr(f, MEM32, 0xc0000000, 4);
    wr(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    testvm_state_roundtrip(&f->w->dev);
    assert_int_equal(testvm_read(f->tv, 0xc0000000, 4), 0x5a00);
}

TEST_F(state_of_another_device_is_refused)
{
    struct err err = {0};

    f->w->state.pci.config[0] ^= 1;
    assert_int_not_equal(pci_function_check(&f->w->pci, &err), 0);
    assert_non_null(strstr(err.text, "configuration space differs at 0"));
}
