/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the NVMe controller share: nvme.c has registers, queues and interrupts,
 * nvme_admin.c the admin commands, nvme_io.c the NVM commands and data transfer. Sections are those
 * of NVM Express Base Specification 1.4.
 */
#ifndef HW_BLOCK_NVME_INTERNAL_H
#define HW_BLOCK_NVME_INTERNAL_H

#include "hw/block/nvme.h"
#include "hw/pci/msi.h"

#define NVME_IO_QUEUES        64
#define NVME_QUEUES           (1 + NVME_IO_QUEUES) /* number 0 is the admin queue */
#define NVME_IO_QUEUE_SIZE    1024u
#define NVME_ADMIN_QUEUE_SIZE 4096u
#define NVME_VECTORS          NVME_QUEUES

#define NVME_SECTOR_SHIFT 9
#define NVME_PAGE         4096u
#define NVME_MDTS         7 /* the largest transfer: 2^7 pages */
#define NVME_MAX_TRANSFER (NVME_PAGE << NVME_MDTS)
#define NVME_MAX_SEGS     ((1u << NVME_MDTS) + 1)
#define NVME_NSID         1u
#define NVME_NSID_ALL     0xffffffffu

#define NVME_AERS   4 /* asynchronous event requests outstanding at most */
#define NVME_ABORTS 4

/* Requests in flight, and the bytes they may hold: what the guest can make us allocate. */
#define NVME_REQS      128
#define NVME_MAX_BYTES (16u << 20)
#define NVME_BUF_KEPT  (64u << 10) /* a request keeps its buffer up to this size */

/* ---- status (4.6.1): type in bits 10:8, code in 7:0, do-not-retry in 14 ---- */

#define NVME_DNR                0x4000
#define NVME_OK                 0x0000
#define NVME_BAD_OPCODE         (0x0001 | NVME_DNR)
#define NVME_BAD_FIELD          (0x0002 | NVME_DNR)
#define NVME_TRANSFER_ERROR     0x0004
#define NVME_INTERNAL           0x0006
#define NVME_BAD_NAMESPACE      (0x000b | NVME_DNR)
#define NVME_BAD_PRP_OFFSET     (0x0013 | NVME_DNR)
#define NVME_WRITE_PROTECTED    (0x0020 | NVME_DNR)
#define NVME_LBA_RANGE          (0x0080 | NVME_DNR)
#define NVME_CAPACITY           (0x0081 | NVME_DNR)
#define NVME_BAD_CQ             (0x0100 | NVME_DNR)
#define NVME_BAD_QUEUE_ID       (0x0101 | NVME_DNR)
#define NVME_BAD_QUEUE_SIZE     (0x0102 | NVME_DNR)
#define NVME_AER_LIMIT          (0x0105 | NVME_DNR)
#define NVME_BAD_VECTOR         (0x0108 | NVME_DNR)
#define NVME_BAD_LOG_PAGE       (0x0109 | NVME_DNR)
#define NVME_BAD_QUEUE_DELETION (0x010c | NVME_DNR)
#define NVME_NOT_SAVEABLE       (0x010d | NVME_DNR)
#define NVME_WRITE_FAULT        0x0280
#define NVME_READ_ERROR         0x0281
#define NVME_LATER              0xffff /* no status: completed by someone later */

/* ---- state ---- */

struct nvme_sq {
    uint64_t base;
    uint16_t size; /* entries; 0: the queue does not exist */
    uint16_t head, tail;
    uint16_t cq;
};

struct nvme_cq {
    uint64_t base;
    uint16_t size;
    uint16_t head, tail;
    uint16_t vector;
    uint32_t phase; /* of the entries of this round */
    uint32_t ien;
};

struct nvme_state {
    struct pci_function_state pci;
    struct pci_msix_state msix;
    struct nvme_sq sq[NVME_QUEUES];
    struct nvme_cq cq[NVME_QUEUES];
    uint64_t asq, acq;
    uint32_t cc, csts, aqa, intm;
    /* Features (5.21.1). */
    uint32_t arbitration, temp_over, temp_under, error_recovery, wce, coalescing, atomicity,
        async_config;
    uint16_t aer_cid[NVME_AERS];
    uint32_t aers;
    uint32_t events;        /* bits of enum nvme_event that no request has told yet */
    uint32_t events_masked; /* told, and the log page not yet read */
    uint32_t next_sq;       /* round robin */
    uint64_t reads, writes, sectors_read, sectors_written;
};

enum nvme_event { NVME_EVENT_DOORBELL_REGISTER, NVME_EVENT_DOORBELL_VALUE, NVME_EVENTS };

struct nvme_cmd {
    uint8_t opcode;
    uint16_t cid;
    uint32_t nsid;
    uint64_t prp1, prp2;
    uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct nvme_seg {
    uint64_t gpa;
    uint32_t len;
};

struct nvme_pool;

struct nvme_req {
    struct block_req block;
    struct nvme_pool *pool;
    struct nvme_req *next_free;
    uint32_t epoch; /* of its submission queue when it was fetched */
    uint16_t sq, cid;
    bool flush_after; /* write-through: a flush follows before it completes */
    uint8_t *buf;
    size_t buf_size, bytes;
    unsigned nsegs;
    unsigned range, ranges; /* dataset management: buf holds the descriptors */
    struct nvme_seg segs[NVME_MAX_SEGS];
};

/* Outlives the controller while the back end still has requests of it. */
struct nvme_pool {
    struct nvme *n; /* NULL: the controller is gone */
    unsigned inflight;
    size_t bytes;
    struct nvme_req *free;
    struct nvme_req shutdown; /* the flush before power-off has a request of its own */
    bool shutdown_busy, shutdown_again;
    struct nvme_req req[NVME_REQS];
};

struct nvme {
    struct device dev;
    struct pci_function pci;

    /* Wiring. */
    struct block *block; /* borrowed */
    char serial[21];
    struct region bar;
    struct pci_msix msix;

    /* Derived. */
    struct nvme_pool *pool;
    struct timer work;              /* goes on with queues that a step left over */
    uint32_t sq_epoch[NVME_QUEUES]; /* moves on when a queue dies: its requests are dropped then */
    uint32_t shutdown_epoch;        /* the same for the controller */
    uint16_t sq_inflight[NVME_QUEUES];
    uint32_t cq_inflight[NVME_QUEUES]; /* completion entries spoken for */

    struct nvme_state state;
};

#define NVME_CSTS_RDY       0x1u
#define NVME_CSTS_CFS       0x2u
#define NVME_CSTS_SHST      0xcu
#define NVME_CSTS_SHST_BUSY 0x4u
#define NVME_CSTS_SHST_DONE 0x8u

/* nvme.c */
void nvme_complete(struct nvme *n, unsigned sq, uint16_t cid, uint16_t status, uint32_t dw0);
void nvme_event(struct nvme *n, enum nvme_event event);
/* Forgets a submission queue and what is in flight from it. */
void nvme_drop_sq(struct nvme *n, unsigned sq);
/* Fetches what can be fetched, then derives: after anything that may have freed room. */
void nvme_run(struct nvme *n);

/* nvme_admin.c */
void nvme_features_reset(struct nvme *n);
uint16_t nvme_admin(struct nvme *n, const struct nvme_cmd *cmd, uint32_t *dw0);

/* nvme_io.c */
int nvme_pool_init(struct nvme *n, struct err *err);
void nvme_pool_fini(struct nvme *n);
bool nvme_pool_idle(const struct nvme *n);
/* Is there room for one more request of any size? */
bool nvme_pool_room(const struct nvme *n);
uint16_t nvme_io(struct nvme *n, unsigned sq, const struct nvme_cmd *cmd);
void nvme_shutdown(struct nvme *n);
/* Admin data: to guest memory named by the command's PRPs. len <= NVME_MAX_TRANSFER. */
uint16_t nvme_to_guest(struct nvme *n, const struct nvme_cmd *cmd, const void *data, size_t len);

#endif
