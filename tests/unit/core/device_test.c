/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <string.h>

#define FIXTURE struct vm *vm
#include "core/vm.h"
#include "tests/lib/unit.h"

/* A chip with one register, which counts what the core does to it. */
struct chip {
    struct device dev;
    struct region region;
    struct chip_state {
        uint32_t reg;
    } state;
    unsigned resets, derives;
    bool busy, refuse;
    bool reentered;
};

static uint64_t chip_read(void *opaque, uint64_t off, unsigned size)
{
    struct chip *c = opaque;
    uint32_t v = 0;

    (void)off;
    (void)size;
    /* What a wiring mistake would do: reach one's own register from inside a handler. */
    bus_access(&c->dev.vm->memory, (struct bus_from){.vcpu = -1}, 0x1000, &v, 4, false);
    c->reentered = v != 0xffffffff;
    return c->state.reg;
}

static void chip_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct chip *c = opaque;

    (void)off;
    (void)size;
    c->state.reg = (uint32_t)val;
}

static const struct io_ops chip_ops = {.read = chip_read, .write = chip_write, .sizes = IO_4};

static int chip_init(struct device *dev, const void *config, struct err *err)
{
    struct chip *c = (struct chip *)dev;

    if (config)
        return err_set(err, 22, "no such chip");
    c->region =
        (struct region){.name = "chip", .size = 4, .ops = &chip_ops, .dev = c, .owner = dev};
    return 0;
}

static void chip_attach(struct device *dev)
{
    bus_map(&dev->vm->memory, &((struct chip *)dev)->region, 0x1000);
}

static void chip_detach(struct device *dev)
{
    bus_unmap(&((struct chip *)dev)->region);
}

static void chip_reset(struct device *dev, enum reset_kind kind)
{
    (void)kind;
    ((struct chip *)dev)->state.reg = 5;
    ((struct chip *)dev)->resets++;
}

static void chip_derive(struct device *dev)
{
    ((struct chip *)dev)->derives++;
}

static int chip_check(struct device *dev, struct err *err)
{
    return ((struct chip *)dev)->refuse ? err_set(err, 22, "impossible") : 0;
}

static bool chip_quiesce(struct device *dev)
{
    return !((struct chip *)dev)->busy;
}

static const struct state_field chip_fields[] = {STATE_UINT(struct chip_state, reg, 0, 99)};
static const struct state chip_state = STATE(struct chip, state, 1, chip_fields);
static const struct dev_type chip_type = {.name = "chip",
                                          .desc = "a chip",
                                          .size = sizeof(struct chip),
                                          .init = chip_init,
                                          .attach = chip_attach,
                                          .detach = chip_detach,
                                          .reset = chip_reset,
                                          .check = chip_check,
                                          .derive = chip_derive,
                                          .quiesce = chip_quiesce,
                                          .state = &chip_state};

static struct vm *setup(void)
{
    struct vm_config config = {.ram_bytes = 1 << 16, .clock = CLOCK_MANUAL};
    struct vm *vm = calloc(1, sizeof(*vm));

    assert_int_equal(vm_init(vm, &config, NULL), 0);
    return vm;
}

static void teardown(struct vm *vm)
{
    vm_fini(vm);
    free(vm);
}

TEST_F(names_are_unique_and_init_errors_carry_them)
{
    struct err err;

    assert_non_null(device_new(vm, &chip_type, "a", NULL, &err));
    assert_null(device_new(vm, &chip_type, "a", NULL, &err));
    assert_null(device_new(vm, &chip_type, "b", "x", &err));
    assert_string_equal(err.text, "b: no such chip");
}

TEST_F(reset_resets_all_then_derives_all)
{
    struct chip *a = (struct chip *)device_new(vm, &chip_type, "a", NULL, NULL);

    devices_reset(vm, RESET_COLD);
    assert_int_equal(a->resets, 1);
    assert_int_equal(a->derives, 1);
    assert_int_equal(a->state.reg, 5);
}

TEST_F(a_handler_cannot_enter_its_own_device)
{
    struct chip *a = (struct chip *)device_new(vm, &chip_type, "a", NULL, NULL);
    uint32_t v = 0;

    devices_attach(vm);
    vm->lock = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    bus_access(&vm->memory, (struct bus_from){.vcpu = -1}, 0x1000, &v, 4, false);
    assert_false(a->reentered);
}

TEST_F(detached_devices_do_not_answer)
{
    struct device *a = device_new(vm, &chip_type, "a", NULL, NULL);

    device_attach(a);
    assert_non_null(bus_lookup(&vm->memory, 0x1000));
    device_detach(a);
    assert_null(bus_lookup(&vm->memory, 0x1000));
}

TEST_F(saved_devices_load_into_the_same_machine)
{
    struct chip *a = (struct chip *)device_new(vm, &chip_type, "a", NULL, NULL);
    struct state_buf buf = {0};

    a->state.reg = 42;
    devices_save(vm, &buf);
    a->state.reg = 0;
    assert_int_equal(devices_load(vm, &buf, NULL), 0);
    assert_int_equal(a->state.reg, 42);
    state_buf_fini(&buf);
}

TEST_F(a_refused_state_leaves_a_reset_machine)
{
    struct chip *a = (struct chip *)device_new(vm, &chip_type, "a", NULL, NULL);
    struct state_buf buf = {0};
    struct err err;

    a->state.reg = 42;
    devices_save(vm, &buf);
    a->refuse = true;
    assert_int_not_equal(devices_load(vm, &buf, &err), 0);
    assert_string_equal(err.text, "a: impossible");
    assert_int_equal(a->state.reg, 5);
    state_buf_fini(&buf);
}

TEST_F(quiesce_waits_for_every_device)
{
    struct chip *a = (struct chip *)device_new(vm, &chip_type, "a", NULL, NULL);

    a->busy = true;
    assert_false(devices_quiesce(vm));
    a->busy = false;
    assert_true(devices_quiesce(vm));
}

TEST_F(dma_obeys_the_bus_master_bit_and_the_end_of_ram)
{
    struct device *a = device_new(vm, &chip_type, "a", NULL, NULL);
    struct region ram = {.name = "ram", .kind = REGION_RAM, .size = 0x1000};
    bool master = false;
    uint8_t b[16] = {0};

    bus_map(&vm->memory, &ram, 0);
    a->bus_master = &master;
    assert_false(dma_write(a, 0, b, 16));
    master = true;
    assert_true(dma_write(a, 0, b, 16));
    assert_false(dma_write(a, 0xff8, b, 16));
    assert_false(dma_read(a, UINT64_MAX - 7, b, 16));
}

TEST_F(the_first_request_wins)
{
    vm_request(vm, VM_REQUEST_POWEROFF, 1);
    vm_request(vm, VM_REQUEST_RESET, 2);
    assert_int_equal(vm->request, VM_REQUEST_POWEROFF);
    assert_int_equal(vm->request_value, 1);
}
