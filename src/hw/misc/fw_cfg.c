/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fw_cfg: the firmware configuration interface, a selector at port 510h and a data port at 511h.
 * The guest selects an item by number and reads its bytes one after another; item 19h lists named
 * files.
 *
 * Specification: QEMU docs/specs/fw_cfg.txt, an interface document; SeaBIOS, OVMF and Linux
 * (drivers/firmware/qemu_fw_cfg.c) are its readers. Numbers in items are little-endian, those of
 * the file directory big-endian.
 *
 * Not emulated: the DMA interface (feature bit 1 is clear), writing to items.
 *
 * The items are wiring: the machine adds them before the VM starts. A hostile guest reaches an item
 * number and an offset, both bounded where they are used.
 */
#include "hw/misc/fw_cfg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define FW_CFG_PORT 0x510
#define SELECTOR    0
#define DATA        1

#define ID_TRADITIONAL 0x1 /* feature bit 0: the two ports */

#define SELECT_WRITE 0x4000 /* asks to write; ignored */
#define SELECT_ARCH  0x8000 /* architecture-local items: there are none */

#define ITEMS (FW_CFG_FILE_FIRST + FW_CFG_MAX_FILES)

/* A directory entry: be32 size, be16 select, be16 reserved, name. */
#define DIR_ENTRY (8 + FW_CFG_NAME_SIZE)

/* ---- The device ----------------------------------------------------------------------------- */

struct fw_cfg {
    struct device dev;

    /* wiring */
    struct region region;
    struct fw_cfg_item {
        uint8_t *data; /* owned; NULL: no such item */
        uint32_t len;
    } items[ITEMS];
    char names[FW_CFG_MAX_FILES][FW_CFG_NAME_SIZE];
    unsigned nfiles;

    struct fw_cfg_state {
        uint32_t offset; /* into the selected item */
        uint16_t select;
        uint8_t zero[2];
    } state;
};

static const struct state_field fields[] = {
    STATE_UINT(struct fw_cfg_state, offset, 0, UINT32_MAX),
    STATE_UINT(struct fw_cfg_state, select, 0, UINT16_MAX),
    STATE_UINTS(struct fw_cfg_state, zero, 0, 0),
};

static const struct state state = STATE(struct fw_cfg, state, 1, fields);

/* ---- Items ---------------------------------------------------------------------------------- */

static int set_item(struct fw_cfg *fw, unsigned key, const void *data, size_t len)
{
    uint8_t *copy;

    if (len > UINT32_MAX)
        return -EINVAL;
    copy = malloc(len ? len : 1);
    if (!copy)
        return -ENOMEM;
    if (len)
        memcpy(copy, data, len);
    free(fw->items[key].data);
    fw->items[key] = (struct fw_cfg_item){copy, (uint32_t)len};
    return 0;
}

static int set_le16(struct fw_cfg *fw, unsigned key, uint16_t value)
{
    uint8_t b[2];

    put_le16(b, value);
    return set_item(fw, key, b, sizeof(b));
}

static void put_be32(uint8_t *p, uint32_t v)
{
    put_le32(p, __builtin_bswap32(v));
}

static int rebuild_directory(struct fw_cfg *fw)
{
    uint8_t dir[4 + FW_CFG_MAX_FILES * DIR_ENTRY] = {0};

    put_be32(dir, fw->nfiles);
    for (unsigned i = 0; i < fw->nfiles; i++) {
        uint8_t *e = dir + 4 + i * DIR_ENTRY;
        unsigned key = FW_CFG_FILE_FIRST + i;

        put_be32(e, fw->items[key].len);
        put_be32(e + 4, key << 16);
        memcpy(e + 8, fw->names[i], FW_CFG_NAME_SIZE);
    }
    return set_item(fw, FW_CFG_FILE_DIR, dir, 4 + fw->nfiles * DIR_ENTRY);
}

int fw_cfg_add_item(struct device *dev, uint16_t key, const void *data, size_t len)
{
    if (key >= FW_CFG_FILE_FIRST)
        return -EINVAL;
    return set_item((struct fw_cfg *)dev, key, data, len);
}

int fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t len)
{
    struct fw_cfg *fw = (struct fw_cfg *)dev;
    int ret;

    if (!name[0] || strlen(name) >= FW_CFG_NAME_SIZE)
        return -EINVAL;
    for (unsigned i = 0; i < fw->nfiles; i++)
        if (!strcmp(fw->names[i], name))
            return -EEXIST;
    if (fw->nfiles == FW_CFG_MAX_FILES)
        return -ENOSPC;
    ret = set_item(fw, FW_CFG_FILE_FIRST + fw->nfiles, data, len);
    if (ret)
        return ret;
    strncpy(fw->names[fw->nfiles], name, FW_CFG_NAME_SIZE - 1);
    fw->nfiles++;
    return rebuild_directory(fw);
}

/* ---- Access --------------------------------------------------------------------------------- */

static void derive(struct device *dev)
{
    (void)dev; /* no wires */
}

static void fw_cfg_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct fw_cfg *fw = dev;

    if (off == SELECTOR && size == 2) {
        fw->state.select = (uint16_t)val & (uint16_t)~SELECT_WRITE;
        fw->state.offset = 0;
    } else if (off != DATA) {
        io_bad_write(&fw->dev, off, val, size);
    }
    /* Writing to items was given up by the interface itself. */
}

static uint64_t fw_cfg_read(void *dev, uint64_t off, unsigned size)
{
    struct fw_cfg *fw = dev;
    struct fw_cfg_state *s = &fw->state;

    if (off != DATA)
        return io_bad_read(&fw->dev, off, size);
    /* Absent items and what lies past the end read as zeros. */
    if (s->select >= ITEMS || s->offset >= fw->items[s->select].len)
        return 0;
    return fw->items[s->select].data[s->offset++];
}

/* ---- Life ----------------------------------------------------------------------------------- */

static void reset(struct device *dev, enum reset_kind kind)
{
    (void)kind;
    ((struct fw_cfg *)dev)->state = (struct fw_cfg_state){0};
}

static const struct io_reg regs[] = {
    {SELECTOR, 1, "SELECTOR"},
    {DATA, 1, "DATA"},
    {0, 0, NULL},
};
static const struct io_ops ops = {fw_cfg_read, fw_cfg_write, IO_1 | IO_2, regs, false};

static void fini(struct device *dev)
{
    struct fw_cfg *fw = (struct fw_cfg *)dev;

    for (unsigned i = 0; i < ITEMS; i++)
        free(fw->items[i].data);
}

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct fw_cfg_config *cfg = config;
    struct fw_cfg *fw = (struct fw_cfg *)dev;
    uint8_t id[4], ram[8], uuid[16] = {0};
    int ret;

    put_le32(id, ID_TRADITIONAL);
    put_le64(ram, cfg->ram_size);
    ret = set_item(fw, FW_CFG_SIGNATURE, "QEMU", 4);
    ret = ret ? ret : set_item(fw, FW_CFG_ID, id, sizeof(id));
    ret = ret ? ret : set_item(fw, FW_CFG_UUID, uuid, sizeof(uuid));
    ret = ret ? ret : set_item(fw, FW_CFG_RAM_SIZE, ram, sizeof(ram));
    ret = ret ? ret : set_le16(fw, FW_CFG_NOGRAPHIC, cfg->nographic);
    ret = ret ? ret : set_le16(fw, FW_CFG_NB_CPUS, cfg->ncpus);
    ret = ret ? ret : set_le16(fw, FW_CFG_MAX_CPUS, cfg->max_cpus ? cfg->max_cpus : cfg->ncpus);
    ret = ret ? ret : set_le16(fw, FW_CFG_BOOT_MENU, 0);
    ret = ret ? ret : rebuild_directory(fw);
    if (ret) {
        fini(dev);
        return err_set(err, -ret, "out of memory");
    }
    fw->region = region_io(dev, "fw_cfg", 2, &ops);
    return 0;
}

static void attach(struct device *dev)
{
    bus_map(&dev->vm->ports, &((struct fw_cfg *)dev)->region, FW_CFG_PORT);
}

static void detach(struct device *dev)
{
    bus_unmap(&((struct fw_cfg *)dev)->region);
}

const struct dev_type fw_cfg_type = {
    .name = "fw_cfg",
    .desc = "firmware configuration interface",
    .size = sizeof(struct fw_cfg),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .derive = derive,
    .fini = fini,
    .state = &state,
};
