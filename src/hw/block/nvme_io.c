/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVMe: the NVM command set and the way data takes. NVM Express 1.4, sections 4.3 (PRPs) and 6.
 *
 * A command's data passes through a buffer of ours: the back end never sees guest memory. A request
 * that was in flight when its queue or the controller was reset is dropped when it comes back; its
 * data is not written to guest memory any more.
 *
 * A hostile guest reaches: block ranges (checked against the disk), PRP entries and lists
 * (alignment checked; a list is read into a local copy; every list page but the first brings 511
 * entries, so the walk ends), and dataset ranges (256 at most, one request at a time).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "hw/block/nvme_internal.h"

#define OP_FLUSH        0x00
#define OP_WRITE        0x01
#define OP_READ         0x02
#define OP_WRITE_ZEROES 0x08
#define OP_DSM          0x09

#define CDW12_NLB    0xffffu
#define CDW12_FUA    BIT(30)
#define DSM_CDW10_NR 0xffu
#define DSM_CDW11_AD BIT(2)
#define DSM_RANGE    16u /* bytes: attributes, length, start */

/* ---- PRPs ---- */

static void seg_add(struct nvme_seg *segs, unsigned *n, uint64_t gpa, uint32_t len)
{
    if (*n && segs[*n - 1].gpa + segs[*n - 1].len == gpa) {
        segs[*n - 1].len += len;
        return;
    }
    segs[(*n)++ % NVME_MAX_SEGS] = (struct nvme_seg){.gpa = gpa, .len = len};
}

/* Entries of a PRP list (4.3, figure 110) until `left` bytes are mapped. */
static uint16_t prp_list(struct nvme *n, uint64_t list, size_t left, struct nvme_seg *segs,
                         unsigned *nsegs)
{
    uint8_t entries[NVME_PAGE];

    if (list & 7)
        return NVME_BAD_PRP_OFFSET;
    for (;;) {
        unsigned room = (NVME_PAGE - (unsigned)(list % NVME_PAGE)) / 8;
        unsigned need = (unsigned)((left + NVME_PAGE - 1) / NVME_PAGE);
        unsigned count = (unsigned)min_u64(room, need);
        unsigned data = need > room ? room - 1 : need;

        if (!dma_read(&n->dev, list, entries, count * 8))
            return NVME_TRANSFER_ERROR;
        for (unsigned i = 0; i < data; i++) {
            uint64_t entry = get_le64(entries + i * 8);
            uint32_t len = (uint32_t)min_u64(left, NVME_PAGE);

            if (entry % NVME_PAGE)
                return NVME_BAD_PRP_OFFSET;
            seg_add(segs, nsegs, entry, len);
            left -= len;
        }
        if (!left)
            return NVME_OK;
        /* The last entry of a full list page leads to the next one. */
        list = get_le64(entries + (count - 1) * 8);
        if (list % NVME_PAGE)
            return NVME_BAD_PRP_OFFSET;
    }
}

/* len is 1 to NVME_MAX_TRANSFER, so NVME_MAX_SEGS are enough. */
static uint16_t prp_map(struct nvme *n, const struct nvme_cmd *cmd, size_t len,
                        struct nvme_seg *segs, unsigned *nsegs)
{
    uint32_t first = (uint32_t)min_u64(len, NVME_PAGE - cmd->prp1 % NVME_PAGE);
    size_t left = len - first;

    *nsegs = 0;
    if (cmd->prp1 & 3)
        return NVME_BAD_PRP_OFFSET;
    seg_add(segs, nsegs, cmd->prp1, first);
    if (!left)
        return NVME_OK;
    if (left > NVME_PAGE)
        return prp_list(n, cmd->prp2, left, segs, nsegs);
    if (cmd->prp2 % NVME_PAGE)
        return NVME_BAD_PRP_OFFSET;
    seg_add(segs, nsegs, cmd->prp2, (uint32_t)left);
    return NVME_OK;
}

static bool segs_read(struct nvme *n, const struct nvme_seg *segs, unsigned nsegs, uint8_t *buf)
{
    for (unsigned i = 0; i < nsegs; buf += segs[i++].len)
        if (!dma_read(&n->dev, segs[i].gpa, buf, segs[i].len))
            return false;
    return true;
}

static bool segs_write(struct nvme *n, const struct nvme_seg *segs, unsigned nsegs,
                       const uint8_t *buf)
{
    for (unsigned i = 0; i < nsegs; buf += segs[i++].len)
        if (!dma_write(&n->dev, segs[i].gpa, buf, segs[i].len))
            return false;
    return true;
}

uint16_t nvme_to_guest(struct nvme *n, const struct nvme_cmd *cmd, const void *data, size_t len)
{
    struct nvme_seg segs[NVME_MAX_SEGS];
    unsigned nsegs;
    uint16_t status = prp_map(n, cmd, len, segs, &nsegs);

    if (status == NVME_OK && !segs_write(n, segs, nsegs, data))
        status = NVME_TRANSFER_ERROR;
    return status;
}

/* ---- requests ---- */

int nvme_pool_init(struct nvme *n, struct err *err)
{
    struct nvme_pool *pool = calloc(1, sizeof(*pool));

    if (!pool)
        return err_set(err, ENOMEM, "out of memory making an NVMe controller");
    pool->n = n;
    pool->shutdown.pool = pool;
    for (unsigned i = 0; i < NVME_REQS; i++) {
        pool->req[i].pool = pool;
        pool->req[i].next_free = pool->free;
        pool->free = &pool->req[i];
    }
    n->pool = pool;
    return 0;
}

static bool pool_idle(const struct nvme_pool *pool)
{
    return !pool->inflight && !pool->shutdown_busy;
}

static void pool_free(struct nvme_pool *pool)
{
    for (unsigned i = 0; i < NVME_REQS; i++)
        free(pool->req[i].buf);
    free(pool);
}

void nvme_pool_fini(struct nvme *n)
{
    n->pool->n = NULL;
    if (pool_idle(n->pool))
        pool_free(n->pool);
    n->pool = NULL;
}

bool nvme_pool_idle(const struct nvme *n)
{
    return pool_idle(n->pool);
}

bool nvme_pool_room(const struct nvme *n)
{
    return n->pool->free && n->pool->bytes + NVME_MAX_TRANSFER <= NVME_MAX_BYTES;
}

/* A request with a buffer of `bytes`; NULL if memory is short. The caller has seen nvme_pool_room.
 */
static struct nvme_req *req_get(struct nvme *n, unsigned sq, uint16_t cid, size_t bytes)
{
    struct nvme_pool *pool = n->pool;
    struct nvme_req *req = pool->free;

    if (!req)
        return NULL;
    if (bytes > req->buf_size) {
        uint8_t *buf = realloc(req->buf, bytes);

        if (!buf)
            return NULL;
        req->buf = buf;
        req->buf_size = bytes;
    }
    pool->free = req->next_free;
    pool->inflight++;
    pool->bytes += bytes;
    req->bytes = bytes;
    req->epoch = n->sq_epoch[sq % NVME_QUEUES];
    req->sq = (uint16_t)sq;
    req->cid = cid;
    req->flush_after = false;
    req->nsegs = 0;
    req->range = req->ranges = 0;
    memset(&req->block, 0, sizeof(req->block));
    return req;
}

static void req_put(struct nvme_req *req)
{
    struct nvme_pool *pool = req->pool;

    pool->inflight--;
    pool->bytes -= req->bytes;
    if (req->buf_size > NVME_BUF_KEPT) {
        free(req->buf);
        req->buf = NULL;
        req->buf_size = 0;
    }
    req->next_free = pool->free;
    pool->free = req;
    if (!pool->n && pool_idle(pool))
        pool_free(pool);
}

static void req_submit(struct nvme *n, struct nvme_req *req, enum block_op op, uint64_t offset,
                       uint64_t len, void (*done)(struct block_req *))
{
    req->block = (struct block_req){
        .op = op,
        .offset = offset,
        .len = len,
        .buf = op == BLOCK_READ || op == BLOCK_WRITE ? req->buf : NULL,
        .done = done,
        .opaque = req,
    };
    block_submit(n->block, &req->block);
}

static uint16_t error_status(int error, bool read)
{
    if (!error)
        return NVME_OK;
    if (error == ENOSPC)
        return NVME_CAPACITY;
    return read ? NVME_READ_ERROR : NVME_WRITE_FAULT;
}

/* The controller that still wants to hear of req, or NULL: req is given back then. */
static struct nvme *req_owner(struct nvme_req *req)
{
    struct nvme *n = req->pool->n;

    if (n && req->epoch == n->sq_epoch[req->sq % NVME_QUEUES])
        return n;
    req_put(req);
    /* Its place may be what another queue waits for. */
    if (n)
        nvme_run(n);
    return NULL;
}

static void req_complete(struct nvme *n, struct nvme_req *req, uint16_t status)
{
    unsigned sq = req->sq % NVME_QUEUES;
    uint16_t cid = req->cid;

    n->sq_inflight[sq]--;
    n->cq_inflight[n->state.sq[sq].cq % NVME_QUEUES]--;
    req_put(req);
    nvme_complete(n, sq, cid, status, 0);
    nvme_run(n);
}

static void flush_done(struct block_req *block)
{
    struct nvme_req *req = block->opaque;
    struct nvme *n = req_owner(req);

    if (n)
        req_complete(n, req, error_status(block->error, false));
}

static void write_done(struct block_req *block)
{
    struct nvme_req *req = block->opaque;
    struct nvme *n = req_owner(req);

    if (!n)
        return;
    if (!block->error && req->flush_after)
        req_submit(n, req, BLOCK_FLUSH, 0, 0, flush_done);
    else
        req_complete(n, req, error_status(block->error, false));
}

static void read_done(struct block_req *block)
{
    struct nvme_req *req = block->opaque;
    struct nvme *n = req_owner(req);
    uint16_t status;

    if (!n)
        return;
    status = error_status(block->error, true);
    if (status == NVME_OK && !segs_write(n, req->segs, req->nsegs, req->buf))
        status = NVME_TRANSFER_ERROR;
    req_complete(n, req, status);
}

/* The next dataset range that is not empty, or the end. Ranges were checked when they were read. */
static void dsm_next(struct nvme *n, struct nvme_req *req);

static void dsm_done(struct block_req *block)
{
    struct nvme_req *req = block->opaque;
    struct nvme *n = req_owner(req);

    if (!n)
        return;
    if (block->error)
        req_complete(n, req, error_status(block->error, false));
    else
        dsm_next(n, req);
}

static bool dsm_range(const struct nvme_req *req, unsigned i, uint64_t *start, uint64_t *blocks)
{
    const uint8_t *p = req->buf + (size_t)i * DSM_RANGE;

    *blocks = get_le32(p + 4);
    *start = get_le64(p + 8);
    return *blocks != 0;
}

static void dsm_next(struct nvme *n, struct nvme_req *req)
{
    uint64_t start, blocks;

    while (req->range < req->ranges) {
        if (dsm_range(req, req->range++, &start, &blocks)) {
            req_submit(n, req, BLOCK_DISCARD, start << NVME_SECTOR_SHIFT,
                       blocks << NVME_SECTOR_SHIFT, dsm_done);
            return;
        }
    }
    req_complete(n, req, NVME_OK);
}

/* ---- commands ---- */

static bool lba_ok(const struct nvme *n, uint64_t start, uint64_t blocks)
{
    return range_ok(start, blocks, n->block->size >> NVME_SECTOR_SHIFT);
}

/* Counts req as in flight for its queues; from here on it ends in req_complete. */
static void account(struct nvme *n, unsigned sq)
{
    n->sq_inflight[sq]++;
    n->cq_inflight[n->state.sq[sq].cq % NVME_QUEUES]++;
}

static uint16_t io_rw(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd)
{
    uint64_t start = cmd->cdw10 | (uint64_t)cmd->cdw11 << 32;
    uint64_t blocks = (cmd->cdw12 & CDW12_NLB) + 1ull;
    size_t bytes = blocks << NVME_SECTOR_SHIFT;
    bool write = cmd->opcode == OP_WRITE;
    struct nvme_req *req;
    uint16_t status;

    if (bytes > NVME_MAX_TRANSFER)
        return NVME_BAD_FIELD;
    if (!lba_ok(n, start, blocks))
        return NVME_LBA_RANGE;
    if (write && n->block->read_only)
        return NVME_WRITE_PROTECTED;
    req = req_get(n, sq, cmd->cid, bytes);
    if (!req)
        return NVME_INTERNAL;
    status = prp_map(n, cmd, bytes, req->segs, &req->nsegs);
    if (status == NVME_OK && write && !segs_read(n, req->segs, req->nsegs, req->buf))
        status = NVME_TRANSFER_ERROR;
    if (status != NVME_OK) {
        req_put(req);
        return status;
    }
    account(n, sq);
    if (write) {
        n->state.writes++;
        n->state.sectors_written += blocks;
        req->flush_after = (cmd->cdw12 & CDW12_FUA) || !n->state.wce;
    } else {
        n->state.reads++;
        n->state.sectors_read += blocks;
    }
    req_submit(n, req, write ? BLOCK_WRITE : BLOCK_READ, start << NVME_SECTOR_SHIFT, bytes,
               write ? write_done : read_done);
    return NVME_LATER;
}

static uint16_t io_write_zeroes(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd)
{
    uint64_t start = cmd->cdw10 | (uint64_t)cmd->cdw11 << 32;
    uint64_t blocks = (cmd->cdw12 & CDW12_NLB) + 1ull;
    struct nvme_req *req;

    if (!lba_ok(n, start, blocks))
        return NVME_LBA_RANGE;
    if (n->block->read_only)
        return NVME_WRITE_PROTECTED;
    req = req_get(n, sq, cmd->cid, 0);
    if (!req)
        return NVME_INTERNAL;
    account(n, sq);
    req->flush_after = (cmd->cdw12 & CDW12_FUA) || !n->state.wce;
    req_submit(n, req, BLOCK_WRITE_ZEROES, start << NVME_SECTOR_SHIFT, blocks << NVME_SECTOR_SHIFT,
               write_done);
    return NVME_LATER;
}

static uint16_t io_dsm(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd)
{
    unsigned ranges = (cmd->cdw10 & DSM_CDW10_NR) + 1;
    uint64_t start, blocks;
    struct nvme_req *req;
    uint16_t status;

    if (!(cmd->cdw11 & DSM_CDW11_AD))
        return NVME_OK; /* hints for reading and writing: nothing to do */
    if (n->block->read_only)
        return NVME_WRITE_PROTECTED;
    req = req_get(n, sq, cmd->cid, (size_t)ranges * DSM_RANGE);
    if (!req)
        return NVME_INTERNAL;
    status = prp_map(n, cmd, (size_t)ranges * DSM_RANGE, req->segs, &req->nsegs);
    if (status == NVME_OK && !segs_read(n, req->segs, req->nsegs, req->buf))
        status = NVME_TRANSFER_ERROR;
    for (unsigned i = 0; status == NVME_OK && i < ranges; i++)
        if (dsm_range(req, i, &start, &blocks) && !lba_ok(n, start, blocks))
            status = NVME_LBA_RANGE;
    /* Nothing to discard: done at once, since a completion may not come from within a submission.
     */
    for (req->range = 0; req->range < ranges; req->range++)
        if (dsm_range(req, req->range, &start, &blocks))
            break;
    if (status != NVME_OK || req->range == ranges) {
        req_put(req);
        return status;
    }
    account(n, sq);
    req->ranges = ranges;
    dsm_next(n, req);
    return NVME_LATER;
}

static uint16_t io_flush(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd)
{
    struct nvme_req *req = req_get(n, sq, cmd->cid, 0);

    if (!req)
        return NVME_INTERNAL;
    account(n, sq);
    req_submit(n, req, BLOCK_FLUSH, 0, 0, flush_done);
    return NVME_LATER;
}

uint16_t nvme_io(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd)
{
    if (cmd->nsid != NVME_NSID && !(cmd->opcode == OP_FLUSH && cmd->nsid == NVME_NSID_ALL))
        return NVME_BAD_NAMESPACE;
    switch (cmd->opcode) {
    case OP_FLUSH:
        return io_flush(n, sq, cmd);
    case OP_WRITE:
    case OP_READ:
        return io_rw(n, sq, cmd);
    case OP_WRITE_ZEROES:
        return io_write_zeroes(n, sq, cmd);
    case OP_DSM:
        return io_dsm(n, sq, cmd);
    }
    return NVME_BAD_OPCODE;
}

/* ---- shutdown (7.6.2) ---- */

static void shutdown_submit(struct nvme *n);

static void shutdown_done(struct block_req *block)
{
    struct nvme_req *req = block->opaque;
    struct nvme_pool *pool = req->pool;
    struct nvme *n = pool->n;

    pool->shutdown_busy = false;
    if (!n) {
        if (pool_idle(pool))
            pool_free(pool);
        return;
    }
    if (pool->shutdown_again)
        shutdown_submit(n);
    else if (req->epoch == n->shutdown_epoch)
        n->state.csts = (n->state.csts & ~NVME_CSTS_SHST) | NVME_CSTS_SHST_DONE;
}

static void shutdown_submit(struct nvme *n)
{
    struct nvme_req *req = &n->pool->shutdown;

    n->pool->shutdown_busy = true;
    n->pool->shutdown_again = false;
    req->epoch = n->shutdown_epoch;
    req_submit(n, req, BLOCK_FLUSH, 0, 0, shutdown_done);
}

void nvme_shutdown(struct nvme *n)
{
    n->state.csts = (n->state.csts & ~NVME_CSTS_SHST) | NVME_CSTS_SHST_BUSY;
    if (n->pool->shutdown_busy)
        n->pool->shutdown_again = true; /* the one under way may be older than the last writes */
    else
        shutdown_submit(n);
}
