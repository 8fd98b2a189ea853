/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVMe: the admin commands. NVM Express 1.4, chapter 5.
 *
 * They complete at once; only asynchronous event requests wait. A hostile guest reaches queue
 * numbers, sizes and vectors (checked before use) and log lengths (bounded by the largest
 * transfer).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hw/block/nvme_internal.h"

#define OP_DELETE_SQ    0x00
#define OP_CREATE_SQ    0x01
#define OP_GET_LOG_PAGE 0x02
#define OP_DELETE_CQ    0x04
#define OP_CREATE_CQ    0x05
#define OP_IDENTIFY     0x06
#define OP_ABORT        0x08
#define OP_SET_FEATURES 0x09
#define OP_GET_FEATURES 0x0a
#define OP_ASYNC_EVENT  0x0c

#define TEMPERATURE          310u /* kelvin: what a disk at rest reports */
#define TEMPERATURE_WARNING  343u
#define TEMPERATURE_CRITICAL 353u

/* ---- queues (5.3 to 5.6) ---- */

#define QUEUE_CONTIGUOUS 1u
#define CQ_INTERRUPTS    2u

static bool io_queue_id(unsigned id)
{
    return id >= 1 && id <= NVME_IO_QUEUES;
}

static uint16_t create_cq(struct nvme *n, const struct nvme_cmd *cmd)
{
    unsigned id = cmd->cdw10 & 0xffff, size = (cmd->cdw10 >> 16) + 1, vector = cmd->cdw11 >> 16;

    if (!io_queue_id(id) || n->state.cq[id % NVME_QUEUES].size)
        return NVME_BAD_QUEUE_ID;
    if (size < 2 || size > NVME_IO_QUEUE_SIZE)
        return NVME_BAD_QUEUE_SIZE;
    if (!(cmd->cdw11 & QUEUE_CONTIGUOUS))
        return NVME_BAD_FIELD;
    if (cmd->prp1 % NVME_PAGE)
        return NVME_BAD_PRP_OFFSET;
    if (vector >= NVME_VECTORS)
        return NVME_BAD_VECTOR;
    n->state.cq[id % NVME_QUEUES] = (struct nvme_cq){
        .base = cmd->prp1,
        .size = (uint16_t)size,
        .vector = (uint16_t)vector,
        .phase = 1,
        .ien = cmd->cdw11 & CQ_INTERRUPTS ? 1 : 0,
    };
    return NVME_OK;
}

static uint16_t create_sq(struct nvme *n, const struct nvme_cmd *cmd)
{
    unsigned id = cmd->cdw10 & 0xffff, size = (cmd->cdw10 >> 16) + 1, cq = cmd->cdw11 >> 16;

    if (!io_queue_id(id) || n->state.sq[id % NVME_QUEUES].size)
        return NVME_BAD_QUEUE_ID;
    if (size < 2 || size > NVME_IO_QUEUE_SIZE)
        return NVME_BAD_QUEUE_SIZE;
    if (!io_queue_id(cq) || !n->state.cq[cq % NVME_QUEUES].size)
        return NVME_BAD_CQ;
    if (!(cmd->cdw11 & QUEUE_CONTIGUOUS))
        return NVME_BAD_FIELD;
    if (cmd->prp1 % NVME_PAGE)
        return NVME_BAD_PRP_OFFSET;
    n->state.sq[id % NVME_QUEUES] =
        (struct nvme_sq){.base = cmd->prp1, .size = (uint16_t)size, .cq = (uint16_t)cq};
    return NVME_OK;
}

static uint16_t delete_sq(struct nvme *n, const struct nvme_cmd *cmd)
{
    unsigned id = cmd->cdw10 & 0xffff;

    if (!io_queue_id(id) || !n->state.sq[id % NVME_QUEUES].size)
        return NVME_BAD_QUEUE_ID;
    nvme_drop_sq(n, id % NVME_QUEUES);
    return NVME_OK;
}

static uint16_t delete_cq(struct nvme *n, const struct nvme_cmd *cmd)
{
    unsigned id = cmd->cdw10 & 0xffff;

    if (!io_queue_id(id) || !n->state.cq[id % NVME_QUEUES].size)
        return NVME_BAD_QUEUE_ID;
    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (n->state.sq[i].size && n->state.sq[i].cq == id)
            return NVME_BAD_QUEUE_DELETION;
    n->state.cq[id % NVME_QUEUES] = (struct nvme_cq){0};
    return NVME_OK;
}

/* ---- identify (5.15) ---- */

static void put_text(uint8_t *at, size_t len, const char *text)
{
    size_t n = strlen(text);

    memset(at, ' ', len);
    memcpy(at, text, n < len ? n : len);
}

/* A number that is the same for the same disk in every run: FNV-1a over serial and place. */
static uint64_t disk_hash(const struct nvme *n, uint64_t seed)
{
    uint64_t h = 0xcbf29ce484222325ull ^ seed;

    for (const char *p = n->serial; *p; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3ull;
    return (h ^ n->pci.devfn) * 0x100000001b3ull;
}

static void identify_controller(const struct nvme *n, uint8_t *d)
{
    put_le16(d + 0, get_le16(n->pci.reset + PCI_VENDOR_ID));
    put_le16(d + 2, get_le16(n->pci.reset + PCI_SUBSYSTEM_VENDOR_ID));
    put_text(d + 4, 20, n->serial);
    put_text(d + 24, 40, "doppel NVMe disk");
    put_text(d + 64, 8, "1");
    d[72] = 6;                    /* RAB: 64 commands at a time */
    d[77] = NVME_MDTS;            /* of 4 KiB pages */
    put_le32(d + 80, 0x00010400); /* VER */
    d[111] = 1;                   /* CNTRLTYPE: I/O controller */
    d[258] = NVME_ABORTS - 1;     /* ACL */
    d[259] = NVME_AERS - 1;       /* AERL */
    d[260] = 0x03;                /* FRMW: one slot, read-only */
    d[261] = 0x06;                /* LPA: commands supported log, extended data */
    put_le16(d + 266, TEMPERATURE_WARNING);
    put_le16(d + 268, TEMPERATURE_CRITICAL);
    d[512] = 0x66;           /* SQES: 64 bytes */
    d[513] = 0x44;           /* CQES: 16 bytes */
    put_le32(d + 516, 1);    /* NN */
    put_le16(d + 520, 0x0c); /* ONCS: dataset management, write zeroes */
    d[525] = 0x07;           /* VWC: there is one; flush takes NSID FFFFFFFFh */
    snprintf((char *)d + 768, 256, "nqn.2025-01.io.doppel:nvme:%s-%02x", n->serial, n->pci.devfn);
    put_le16(d + 2048, 900); /* power state 0: 9 W */
}

static void identify_namespace(const struct nvme *n, uint8_t *d)
{
    uint64_t blocks = n->block->size >> NVME_SECTOR_SHIFT;

    put_le64(d + 0, blocks);             /* NSZE */
    put_le64(d + 8, blocks);             /* NCAP */
    put_le64(d + 16, blocks);            /* NUSE */
    d[99] = n->block->read_only ? 1 : 0; /* NSATTR: write protected */
    d[128 + 2] = NVME_SECTOR_SHIFT;      /* LBAF0: LBADS */
}

static void identify_descriptors(const struct nvme *n, uint8_t *d)
{
    d[0] = 3; /* NIDT: UUID, version 8 (of our own making) */
    d[1] = 16;
    put_le64(d + 4, disk_hash(n, 0));
    put_le64(d + 12, disk_hash(n, 0x9e3779b97f4a7c15ull));
    d[4 + 6] = (d[4 + 6] & 0x0f) | 0x80;
    d[4 + 8] = (d[4 + 8] & 0x3f) | 0x80;
}

static uint16_t identify(struct nvme *n, const struct nvme_cmd *cmd)
{
    uint8_t d[NVME_PAGE] = {0};

    switch (cmd->cdw10 & 0xff) {
    case 0x00:
        if (cmd->nsid != NVME_NSID)
            return NVME_BAD_NAMESPACE;
        identify_namespace(n, d);
        break;
    case 0x01:
        identify_controller(n, d);
        break;
    case 0x02: /* active namespaces above NSID */
        if (cmd->nsid >= NVME_NSID_ALL - 1)
            return NVME_BAD_NAMESPACE;
        if (cmd->nsid < NVME_NSID)
            put_le32(d, NVME_NSID);
        break;
    case 0x03:
        if (cmd->nsid != NVME_NSID)
            return NVME_BAD_NAMESPACE;
        identify_descriptors(n, d);
        break;
    case 0x05: /* of the NVM command set: no further limits, no protection formats */
    case 0x06:
        if (cmd->cdw11 >> 24)
            return NVME_BAD_FIELD;
        break;
    default:
        return NVME_BAD_FIELD;
    }
    return nvme_to_guest(n, cmd, d, sizeof(d));
}

/* ---- log pages (5.14) ---- */

#define LOG_RAE BIT(15)

#define EFFECT_SUPPORTED 1u
#define EFFECT_CONTENT   2u /* changes blocks */

static uint64_t data_units(uint64_t sectors)
{
    return (sectors + 999) / 1000;
}

static void log_smart(const struct nvme *n, uint8_t *d)
{
    put_le16(d + 1, TEMPERATURE);
    d[3] = 100; /* available spare */
    d[4] = 10;
    put_le64(d + 32, data_units(n->state.sectors_read));
    put_le64(d + 48, data_units(n->state.sectors_written));
    put_le64(d + 64, n->state.reads);
    put_le64(d + 80, n->state.writes);
}

static void log_effects(uint8_t *d)
{
    static const uint8_t admin[] = {
        OP_DELETE_SQ, OP_CREATE_SQ, OP_GET_LOG_PAGE, OP_DELETE_CQ,    OP_CREATE_CQ,
        OP_IDENTIFY,  OP_ABORT,     OP_SET_FEATURES, OP_GET_FEATURES, OP_ASYNC_EVENT};
    static const uint8_t io[] = {0x00, 0x01, 0x02, 0x08, 0x09};
    const unsigned reads = 0x02;

    for (size_t i = 0; i < ARRAY_LEN(admin); i++)
        put_le32(d + admin[i] * 4u, EFFECT_SUPPORTED);
    for (size_t i = 0; i < ARRAY_LEN(io); i++)
        put_le32(d + 1024 + io[i] * 4u,
                 EFFECT_SUPPORTED | (io[i] && io[i] != reads ? EFFECT_CONTENT : 0));
}

static uint16_t get_log_page(struct nvme *n, const struct nvme_cmd *cmd)
{
    uint64_t dwords = (cmd->cdw10 >> 16 | (uint64_t)(cmd->cdw11 & 0xffff) << 16) + 1;
    uint64_t offset = cmd->cdw12 | (uint64_t)cmd->cdw13 << 32;
    uint8_t page[NVME_PAGE] = {0}, *out;
    uint16_t status;
    size_t len;

    switch (cmd->cdw10 & 0xff) {
    case 0x01: /* error information: none ever */
        if (!(cmd->cdw10 & LOG_RAE))
            n->state.events_masked = 0;
        break;
    case 0x02:
        log_smart(n, page);
        break;
    case 0x03: /* firmware slots */
        page[0] = 1;
        put_text(page + 8, 8, "1");
        break;
    case 0x05:
        log_effects(page);
        break;
    default:
        return NVME_BAD_LOG_PAGE;
    }
    if (dwords * 4 > NVME_MAX_TRANSFER || (offset & 3) || offset > sizeof(page))
        return NVME_BAD_FIELD;
    len = dwords * 4;
    out = calloc(1, len);
    if (!out)
        return NVME_INTERNAL;
    memcpy(out, page + offset, min_u64(len, sizeof(page) - offset));
    status = nvme_to_guest(n, cmd, out, len);
    free(out);
    return status;
}

/* ---- features (5.21) ---- */

#define FEATURE_ARBITRATION    0x01
#define FEATURE_POWER          0x02
#define FEATURE_TEMPERATURE    0x04
#define FEATURE_ERROR_RECOVERY 0x05
#define FEATURE_WRITE_CACHE    0x06
#define FEATURE_QUEUES         0x07
#define FEATURE_COALESCING     0x08
#define FEATURE_VECTOR         0x09
#define FEATURE_ATOMICITY      0x0a
#define FEATURE_ASYNC_EVENTS   0x0b

#define FEATURE_SAVE         BIT(31)
#define VECTOR_NO_COALESCING BIT(16)

void nvme_features_reset(struct nvme *n)
{
    struct nvme_state *s = &n->state;

    s->arbitration = 0;
    s->temp_over = TEMPERATURE_WARNING;
    s->temp_under = 0;
    s->error_recovery = 0;
    s->wce = 1;
    s->coalescing = 0;
    s->atomicity = 0;
    s->async_config = 0;
}

/* The threshold that CDW11 selects, or NULL: sensor 0 is the composite temperature, the only one.
 */
static uint32_t *threshold(struct nvme *n, uint32_t cdw11)
{
    if (cdw11 >> 16 & 0xf)
        return NULL;
    switch (cdw11 >> 20 & 3) {
    case 0:
        return &n->state.temp_over;
    case 1:
        return &n->state.temp_under;
    }
    return NULL;
}

/* Where a feature that is a plain word of storage lies. */
static uint32_t *feature_word(struct nvme *n, unsigned feature)
{
    switch (feature) {
    case FEATURE_ARBITRATION:
        return &n->state.arbitration;
    case FEATURE_ERROR_RECOVERY:
        return &n->state.error_recovery;
    case FEATURE_COALESCING:
        return &n->state.coalescing;
    case FEATURE_ATOMICITY:
        return &n->state.atomicity;
    case FEATURE_ASYNC_EVENTS:
        return &n->state.async_config;
    }
    return NULL;
}

#define QUEUES_VALUE ((NVME_IO_QUEUES - 1) | (NVME_IO_QUEUES - 1) << 16)

static uint16_t set_features(struct nvme *n, const struct nvme_cmd *cmd, uint32_t *dw0)
{
    unsigned feature = cmd->cdw10 & 0xff;
    uint32_t *word = feature_word(n, feature);

    if (cmd->cdw10 & FEATURE_SAVE)
        return NVME_NOT_SAVEABLE;
    if (word) {
        *word = cmd->cdw11;
        return NVME_OK;
    }
    switch (feature) {
    case FEATURE_POWER:
        return cmd->cdw11 & 0x1f ? NVME_BAD_FIELD : NVME_OK;
    case FEATURE_TEMPERATURE:
        word = threshold(n, cmd->cdw11);
        if (!word)
            return NVME_BAD_FIELD;
        *word = cmd->cdw11 & 0xffff;
        return NVME_OK;
    case FEATURE_WRITE_CACHE:
        n->state.wce = cmd->cdw11 & 1;
        return NVME_OK;
    case FEATURE_QUEUES:
        if ((cmd->cdw11 & 0xffff) == 0xffff || cmd->cdw11 >> 16 == 0xffff)
            return NVME_BAD_FIELD;
        *dw0 = QUEUES_VALUE;
        return NVME_OK;
    case FEATURE_VECTOR: /* interrupts are never coalesced: any setting is honoured */
        return (cmd->cdw11 & 0xffff) < NVME_VECTORS ? NVME_OK : NVME_BAD_FIELD;
    }
    return NVME_BAD_FIELD;
}

static uint16_t get_features(struct nvme *n, const struct nvme_cmd *cmd, uint32_t *dw0)
{
    unsigned feature = cmd->cdw10 & 0xff;
    uint32_t *word = feature_word(n, feature);

    switch (feature) {
    case FEATURE_POWER:
        *dw0 = 0;
        return NVME_OK;
    case FEATURE_TEMPERATURE:
        word = threshold(n, cmd->cdw11);
        break;
    case FEATURE_WRITE_CACHE:
        *dw0 = n->state.wce;
        return NVME_OK;
    case FEATURE_QUEUES:
        *dw0 = QUEUES_VALUE;
        return NVME_OK;
    case FEATURE_VECTOR:
        if ((cmd->cdw11 & 0xffff) >= NVME_VECTORS)
            return NVME_BAD_FIELD;
        *dw0 = (cmd->cdw11 & 0xffff) | VECTOR_NO_COALESCING;
        return NVME_OK;
    }
    if (!word)
        return NVME_BAD_FIELD;
    *dw0 = *word;
    return NVME_OK;
}

/* ---- the rest ---- */

static uint16_t async_event(struct nvme *n, const struct nvme_cmd *cmd)
{
    if (n->state.aers >= NVME_AERS)
        return NVME_AER_LIMIT;
    n->state.aer_cid[n->state.aers++ % NVME_AERS] = cmd->cid;
    return NVME_LATER;
}

uint16_t nvme_admin(struct nvme *n, const struct nvme_cmd *cmd, uint32_t *dw0)
{
    switch (cmd->opcode) {
    case OP_DELETE_SQ:
        return delete_sq(n, cmd);
    case OP_CREATE_SQ:
        return create_sq(n, cmd);
    case OP_GET_LOG_PAGE:
        return get_log_page(n, cmd);
    case OP_DELETE_CQ:
        return delete_cq(n, cmd);
    case OP_CREATE_CQ:
        return create_cq(n, cmd);
    case OP_IDENTIFY:
        return identify(n, cmd);
    case OP_ABORT:
        *dw0 = 1; /* not aborted (5.1): commands in flight end by themselves soon */
        return NVME_OK;
    case OP_SET_FEATURES:
        return set_features(n, cmd, dw0);
    case OP_GET_FEATURES:
        return get_features(n, cmd, dw0);
    case OP_ASYNC_EVENT:
        return async_event(n, cmd);
    }
    return NVME_BAD_OPCODE;
}
