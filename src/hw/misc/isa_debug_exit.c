/* SPDX-License-Identifier: Apache-2.0 */
/*
 * isa_debug_exit: a port that ends the VM. Test programs write their verdict to it; the value
 * becomes part of the command's exit status (docs, "Exit status"). Reads give 0.
 *
 * A hostile guest reaches the end of its own VM.
 */
#include "hw/misc/isa_debug_exit.h"

#include <errno.h>

#include "core/vm.h"
#include "hw/region.h"

#define DEFAULT_IOBASE 0x501
#define DEFAULT_IOSIZE 2
#define MAX_IOSIZE     4

struct isa_debug_exit {
    struct device dev;

    /* wiring */
    struct region region;
    uint16_t iobase;
};

static const struct state state = STATE_NONE("its only register ends the VM");

static void derive(struct device *dev)
{
    (void)dev; /* no wires */
}

static void exit_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct isa_debug_exit *port = dev;

    (void)off;
    (void)size;
    vm_request(port->dev.vm, VM_REQUEST_DEBUG_EXIT, (uint32_t)val);
}

static uint64_t exit_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    (void)off;
    (void)size;
    return 0;
}

static void reset(struct device *dev, enum reset_kind kind)
{
    (void)dev;
    (void)kind;
}

static const struct io_reg regs[] = {{0, MAX_IOSIZE, "EXIT"}, {0, 0, NULL}};
static const struct io_ops ops = {exit_read, exit_write, IO_1 | IO_2 | IO_4, regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct isa_debug_exit_config *cfg = config;
    struct isa_debug_exit *port = (struct isa_debug_exit *)dev;

    if (cfg->iobase > UINT16_MAX)
        return err_set(err, EINVAL, "iobase %#llx is no port: give one up to 0xffff",
                       (unsigned long long)cfg->iobase);
    if (cfg->iosize > MAX_IOSIZE)
        return err_set(err, EINVAL, "iosize %llu is too large: give 1, 2 or 4",
                       (unsigned long long)cfg->iosize);
    port->iobase = cfg->iobase ? (uint16_t)cfg->iobase : DEFAULT_IOBASE;
    port->region =
        region_io(dev, "isa_debug_exit", cfg->iosize ? cfg->iosize : DEFAULT_IOSIZE, &ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct isa_debug_exit *port = (struct isa_debug_exit *)dev;

    bus_map(&dev->vm->ports, &port->region, port->iobase);
}

static void detach(struct device *dev)
{
    bus_unmap(&((struct isa_debug_exit *)dev)->region);
}

static const struct prop props[] = {
    {"iobase", PROP_UINT, offsetof(struct isa_debug_exit_config, iobase), "0x501", "port"},
    {"iosize", PROP_UINT, offsetof(struct isa_debug_exit_config, iosize), "2", "bytes, 1 to 4"},
    {NULL, PROP_UINT, 0, NULL, NULL},
};

const struct dev_type isa_debug_exit_type = {
    .name = "isa_debug_exit",
    .desc = "port that ends the VM with a value",
    .size = sizeof(struct isa_debug_exit),
    .props = props,
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .derive = derive,
    .state = &state,
};
