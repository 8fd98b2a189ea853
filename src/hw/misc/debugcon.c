/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debugcon: the debug port E9h that Bochs made customary. Bytes written come out on a character
 * back end; without one they are collected into lines of the log. Reading gives E9h, by which
 * software finds out that the port is there.
 *
 * A hostile guest reaches the line buffer and writes to the back end.
 */
#include "hw/misc/debugcon.h"

#include <errno.h>

#include "base/log.h"
#include "core/vm.h"
#include "hw/region.h"

#define DEBUGCON_PORT 0xe9
#define DEBUGCON_ID   0xe9 /* what reads give */

#define LINE_MAX_BYTES 200
#define LOG_LINES_MAX  10000 /* then the guest has filled the operator's log enough */

struct debugcon {
    struct device dev;

    /* wiring */
    struct chardev *chr; /* borrowed; may be NULL */
    struct region region;
    uint16_t iobase;

    /* derived: text not logged yet */
    char line[LINE_MAX_BYTES + 1];
    unsigned len;
    unsigned lines;
};

static const struct state state =
    STATE_NONE("bytes leave at once; a line of the log that is not complete yet may be lost");

static void log_byte(struct debugcon *con, char c)
{
    if (c != '\n')
        con->line[con->len++] = c >= ' ' && c <= '~' ? c : '.';
    if (c != '\n' && con->len < LINE_MAX_BYTES)
        return;
    con->line[con->len] = 0;
    con->len = 0;
    if (con->lines++ < LOG_LINES_MAX)
        log_info(con->dev.name, "%s", con->line);
}

static void derive(struct device *dev)
{
    (void)dev; /* no wires */
}

static void debugcon_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct debugcon *con = dev;
    uint8_t byte = (uint8_t)val;

    (void)off;
    (void)size;
    if (con->chr)
        con->chr->ops->write(con->chr, &byte, 1);
    else
        log_byte(con, (char)byte);
}

static uint64_t debugcon_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    (void)off;
    (void)size;
    return DEBUGCON_ID;
}

static void reset(struct device *dev, enum reset_kind kind)
{
    (void)dev;
    (void)kind;
}

static const struct io_reg regs[] = {{0, 1, "DEBUG"}, {0, 0, NULL}};
static const struct io_ops ops = {debugcon_read, debugcon_write, IO_1, regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct debugcon_config *cfg = config;
    struct debugcon *con = (struct debugcon *)dev;

    if (cfg->iobase > UINT16_MAX)
        return err_set(err, EINVAL, "iobase %#llx is no port: give one up to 0xffff",
                       (unsigned long long)cfg->iobase);
    con->chr = cfg->chr;
    con->iobase = cfg->iobase ? (uint16_t)cfg->iobase : DEBUGCON_PORT;
    con->region = region_io(dev, "debugcon", 1, &ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct debugcon *con = (struct debugcon *)dev;

    bus_map(&dev->vm->ports, &con->region, con->iobase);
}

static void detach(struct device *dev)
{
    bus_unmap(&((struct debugcon *)dev)->region);
}

static const struct prop props[] = {
    {"iobase", PROP_UINT, offsetof(struct debugcon_config, iobase), "0xe9", "port"},
    {NULL, PROP_UINT, 0, NULL, NULL},
};

const struct dev_type debugcon_type = {
    .name = "debugcon",
    .desc = "debug port E9h",
    .size = sizeof(struct debugcon),
    .props = props,
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .derive = derive,
    .state = &state,
};
