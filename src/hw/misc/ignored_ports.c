/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ignored_ports: ports that PC software touches and that are deliberately nothing. The machine's
 * table says which, what they read as, and why; so an access to any other port is news.
 *
 * They lie below every chip: a chip that is there wins. A hostile guest reaches nothing.
 */
#include "hw/misc/ignored_ports.h"

#include <errno.h>

#include "core/vm.h"

#define PRIORITY (REGION_PRIO_NORMAL - 1)

struct ignored_ports {
    struct device dev;

    /* wiring */
    unsigned count;
    struct ignored_entry {
        struct region region;
        struct io_ops ops;
        struct io_reg regs[2]; /* the entry's name, for traces */
        uint8_t value;
        uint16_t port;
    } entries[IGNORED_PORTS_MAX];
};

static const struct state state = STATE_NONE("nothing is kept");

static void derive(struct device *dev)
{
    (void)dev; /* no wires */
}

static void ignore_write(void *entry, uint64_t off, uint64_t val, unsigned size)
{
    (void)entry;
    (void)off;
    (void)val;
    (void)size;
}

static uint64_t ignore_read(void *entry, uint64_t off, unsigned size)
{
    (void)off;
    return ((const struct ignored_entry *)entry)->value * 0x0101010101010101ull & mask_bytes(size);
}

static void reset(struct device *dev, enum reset_kind kind)
{
    (void)dev;
    (void)kind;
}

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct ignored_ports_config *cfg = config;
    struct ignored_ports *ports = (struct ignored_ports *)dev;

    for (const struct ignored_port *p = cfg->table; p && p->name; p++) {
        struct ignored_entry *e;

        if (ports->count == IGNORED_PORTS_MAX)
            return err_set(err, ENOSPC, "more than %u ignored ports", IGNORED_PORTS_MAX);
        if (!p->length)
            return err_set(err, EINVAL, "ignored port %#x has no length", p->port);
        e = &ports->entries[ports->count++];
        e->value = p->value;
        e->port = p->port;
        e->regs[0] = (struct io_reg){0, p->length, p->name};
        e->ops = (struct io_ops){
            .read = ignore_read,
            .write = ignore_write,
            .sizes = IO_1 | IO_2 | IO_4,
            .regs = e->regs,
        };
        e->region = (struct region){
            .name = p->name,
            .kind = REGION_IO,
            .size = p->length,
            .priority = PRIORITY,
            .ops = &e->ops,
            .dev = e,
            .owner = dev,
        };
    }
    return 0;
}

static void attach(struct device *dev)
{
    struct ignored_ports *ports = (struct ignored_ports *)dev;

    for (unsigned i = 0; i < ports->count; i++)
        bus_map(&dev->vm->ports, &ports->entries[i].region, ports->entries[i].port);
}

static void detach(struct device *dev)
{
    struct ignored_ports *ports = (struct ignored_ports *)dev;

    for (unsigned i = 0; i < ports->count; i++)
        bus_unmap(&ports->entries[i].region);
}

const struct dev_type ignored_ports_type = {
    .name = "ignored_ports",
    .desc = "ports that are deliberately nothing",
    .size = sizeof(struct ignored_ports),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .derive = derive,
    .state = &state,
};
