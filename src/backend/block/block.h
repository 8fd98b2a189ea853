/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk controller sees of a disk. Requests are submitted and return at once; done is always called
 * later, from the loop, with the machine lock held, never inside submit. A request belongs to the back
 * end until then.
 */
#ifndef BACKEND_BLOCK_BLOCK_H
#define BACKEND_BLOCK_BLOCK_H

#include "base/err.h"
#include "base/types.h"
#include "core/loop.h"

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

struct block_req {
    enum block_op op;
    uint64_t offset; /* bytes; a multiple of the sector size (512), inside the disk: the device checks */
    uint64_t len;
    void *buf;       /* READ, WRITE: the device's own buffer, never guest memory */
    void (*done)(struct block_req *req);
    void *opaque;
    int error;       /* 0 or a positive errno when done */
    struct block_req *next; /* the back end's */
    int64_t due;            /* the back end's: VM time at which done is called (virtual clock) */
};

struct block;

struct block_ops {
    void (*submit)(struct block *block, struct block_req *req);
    void (*free)(struct block *block);
};

struct block {
    const struct block_ops *ops;
    uint64_t size; /* bytes, a multiple of 512 */
    bool read_only;
    char *path;    /* for messages */
};

static inline void block_submit(struct block *block, struct block_req *req)
{
    block->ops->submit(block, req);
}

struct vm;

/*
 * A raw image file. ro: opened read-only; snapshot: writes go to a private, unlinked overlay and are lost
 * at the end. With a virtual clock, completions come at a fixed VM-time latency, so runs repeat exactly.
 */
struct block *block_raw_open(struct vm *vm, const char *path, bool ro, bool snapshot,
                             struct err *err);
/*
 * Requests in flight are finished first; those not told yet end with ECANCELED. Free the device before,
 * the VM's loop and clock after.
 */
void block_free(struct block *block);

#endif
