/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NVM Express controller: a disk on PCI Express, with one namespace of 512-byte blocks. This file
 * has its registers, its queues and its interrupts.
 *
 * NVM Express Base Specification 1.4: chapters 3 (registers), 4 (queues, completion entries), 7
 * (initialisation, shutdown, reset). Interrupts by MSI-X, MSI or INTx (7.5).
 *
 * Not emulated: SGLs, metadata, protection information, other page sizes than 4 KiB, controller
 * memory buffer, firmware update, namespace management, Compare, reservations. Arbitration is round
 * robin. Abort never aborts: commands in flight end by themselves.
 *
 * A hostile guest reaches: doorbells (queue numbers and values checked), queue entries (copied,
 * then checked), addresses (DMA only, which reaches RAM only). A doorbell makes at most NVME_STEP
 * commands run; the rest go on from a timer, so that no ring of the bell takes long. Completion
 * entries are reserved before a command is fetched: a completion queue that is never emptied stops
 * its submission queues and nothing else.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "hw/block/nvme_internal.h"
#include "hw/region.h"

/* ---- registers (3.1) ---- */

#define REG_CAP            0x00
#define REG_CAP_HIGH       0x04
#define REG_VS             0x08
#define REG_INTMS          0x0c
#define REG_INTMC          0x10
#define REG_CC             0x14
#define REG_CSTS           0x1c
#define REG_NSSR           0x20
#define REG_AQA            0x24
#define REG_ASQ            0x28
#define REG_ASQ_HIGH       0x2c
#define REG_ACQ            0x30
#define REG_ACQ_HIGH       0x34
#define REG_CMBLOC         0x38
#define REG_CMBSZ          0x3c
#define REG_BPINFO         0x40
#define REG_BPRSEL         0x44
#define REG_BPMBL          0x48
#define REG_BPMBL_HIGH     0x4c
#define REG_DOORBELLS      0x1000
#define REG_DOORBELLS_SIZE (NVME_QUEUES * 8u)
#define REG_MSIX_TABLE     0x2000
#define REG_MSIX_PBA       0x3000
#define BAR_SIZE           0x4000u

/* MQES; contiguous queues required; ready within 10 s (units of 500 ms); NVM command set; 4 KiB
 * pages. */
#define CAP_VALUE ((NVME_IO_QUEUE_SIZE - 1ull) | BIT(16) | 20ull << 24 | BIT(37))
#define VS_VALUE  0x00010400u

#define CC_EN       0x1u
#define CC_CSS      0x70u
#define CC_MPS      0x780u
#define CC_AMS      0x3800u
#define CC_SHN      0xc000u
#define CC_WRITABLE 0x00fffff1u

#define AQA_WRITABLE 0x0fff0fffu
#define AQ_ADDR      (~PAGE_MASK)

#define SQ_ENTRY 64u
#define CQ_ENTRY 16u

#define NVME_STEP 128 /* commands per doorbell */

#define VENDOR_ID  0x1234
#define DEVICE_ID  0xd0e1
#define CLASS_NVME 0x010802
#define LOG2_MSIS  5

static const struct state_field sq_fields[] = {
    STATE_UINT(struct nvme_sq, base, 0, UINT64_MAX),
    STATE_UINT(struct nvme_sq, size, 0, NVME_ADMIN_QUEUE_SIZE),
    STATE_UINT(struct nvme_sq, head, 0, NVME_ADMIN_QUEUE_SIZE - 1),
    STATE_UINT(struct nvme_sq, tail, 0, NVME_ADMIN_QUEUE_SIZE - 1),
    STATE_UINT(struct nvme_sq, cq, 0, NVME_QUEUES - 1),
};

static const struct state_field cq_fields[] = {
    STATE_UINT(struct nvme_cq, base, 0, UINT64_MAX),
    STATE_UINT(struct nvme_cq, size, 0, NVME_ADMIN_QUEUE_SIZE),
    STATE_UINT(struct nvme_cq, head, 0, NVME_ADMIN_QUEUE_SIZE - 1),
    STATE_UINT(struct nvme_cq, tail, 0, NVME_ADMIN_QUEUE_SIZE - 1),
    STATE_UINT(struct nvme_cq, vector, 0, NVME_VECTORS - 1),
    STATE_UINT(struct nvme_cq, phase, 0, 1),
    STATE_UINT(struct nvme_cq, ien, 0, 1),
};

static const struct state_field nvme_fields[] = {
    STATE_PCI_FUNCTION(struct nvme_state, pci),
    STATE_PCI_MSIX(struct nvme_state, msix),
    STATE_STRUCTS(struct nvme_state, sq, sq_fields),
    STATE_STRUCTS(struct nvme_state, cq, cq_fields),
    STATE_UINT(struct nvme_state, asq, 0, UINT64_MAX),
    STATE_UINT(struct nvme_state, acq, 0, UINT64_MAX),
    STATE_UINT(struct nvme_state, cc, 0, CC_WRITABLE),
    STATE_UINT(struct nvme_state, csts, 0, 0xf),
    STATE_UINT(struct nvme_state, aqa, 0, AQA_WRITABLE),
    STATE_UINT(struct nvme_state, intm, 0, UINT32_MAX),
    STATE_UINT(struct nvme_state, arbitration, 0, UINT32_MAX),
    STATE_UINT(struct nvme_state, temp_over, 0, 0xffff),
    STATE_UINT(struct nvme_state, temp_under, 0, 0xffff),
    STATE_UINT(struct nvme_state, error_recovery, 0, UINT32_MAX),
    STATE_UINT(struct nvme_state, wce, 0, 1),
    STATE_UINT(struct nvme_state, coalescing, 0, UINT32_MAX),
    STATE_UINT(struct nvme_state, atomicity, 0, UINT32_MAX),
    STATE_UINT(struct nvme_state, async_config, 0, UINT32_MAX),
    STATE_UINTS(struct nvme_state, aer_cid, 0, 0xffff),
    STATE_UINT(struct nvme_state, aers, 0, NVME_AERS),
    STATE_UINT(struct nvme_state, events, 0, (1u << NVME_EVENTS) - 1),
    STATE_UINT(struct nvme_state, events_masked, 0, 1),
    STATE_UINT(struct nvme_state, next_sq, 0, NVME_QUEUES - 1),
    STATE_UINT(struct nvme_state, reads, 0, UINT64_MAX),
    STATE_UINT(struct nvme_state, writes, 0, UINT64_MAX),
    STATE_UINT(struct nvme_state, sectors_read, 0, UINT64_MAX),
    STATE_UINT(struct nvme_state, sectors_written, 0, UINT64_MAX),
};

/* ---- interrupts (7.5) ---- */

/* INTMS and INTMC count for INTx and MSI, whose vectors are at most 32; MSI-X has masks of its own.
 */
static bool vector_masked(const struct nvme *n, unsigned vector)
{
    return n->state.intm >> (vector & 31) & 1;
}

static bool cq_waits(const struct nvme_cq *cq)
{
    return cq->size && cq->ien && cq->head != cq->tail;
}

/* An entry was posted: messages are edges, the pin is derive's. */
static void cq_notify(struct nvme *n, const struct nvme_cq *cq)
{
    if (!cq->ien)
        return;
    if (pci_msix_enabled(&n->msix))
        pci_msix_notify(&n->msix, cq->vector);
    else if (pci_msi_enabled(&n->pci) && !vector_masked(n, cq->vector))
        pci_msi_notify(&n->pci, cq->vector);
}

static bool intx_level(const struct nvme *n)
{
    if (pci_msix_enabled(&n->msix) || pci_msi_enabled(&n->pci))
        return false;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (cq_waits(&n->state.cq[i]) && !vector_masked(n, n->state.cq[i].vector))
            return true;
    return false;
}

static void unmask_interrupts(struct nvme *n, uint32_t bits)
{
    uint32_t opened = n->state.intm & bits;

    n->state.intm &= ~bits;
    if (pci_msix_enabled(&n->msix))
        return;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (cq_waits(&n->state.cq[i]) && (opened >> (n->state.cq[i].vector & 31) & 1))
            cq_notify(n, &n->state.cq[i]);
}

/* ---- queues (4.1) ---- */

static bool controller_runs(const struct nvme *n)
{
    return (n->state.csts & (NVME_CSTS_RDY | NVME_CSTS_CFS)) == NVME_CSTS_RDY;
}

static void controller_fails(struct nvme *n, const char *why)
{
    guest_err(&n->dev, "%s: the controller reports a fatal error", why);
    n->state.csts |= NVME_CSTS_CFS;
}

/* Entries that can still be posted, those promised to commands in flight not counted. */
static unsigned cq_room(const struct nvme *n, unsigned i)
{
    const struct nvme_cq *cq = &n->state.cq[i];
    unsigned used;

    if (!cq->size)
        return 0;
    used = (unsigned)(cq->tail + cq->size - cq->head) % cq->size + n->cq_inflight[i];
    return used < cq->size - 1u ? cq->size - 1u - used : 0;
}

/* A completion entry (4.6): its last word, with the phase, goes last, for who polls it. */
static void cq_post(struct nvme *n, unsigned i, const struct nvme_sq *sq, unsigned sqid,
                    uint16_t cid, uint16_t status, uint32_t dw0)
{
    struct nvme_cq *cq = &n->state.cq[i];
    uint64_t gpa = cq->base + (uint64_t)cq->tail * CQ_ENTRY;
    uint8_t entry[CQ_ENTRY] = {0};

    put_le32(entry, dw0);
    put_le32(entry + 8, sq->head | sqid << 16);
    put_le32(entry + 12, cid | cq->phase << 16 | (uint32_t)status << 17);
    if (!dma_write(&n->dev, gpa, entry, 12) || !dma_write(&n->dev, gpa + 12, entry + 12, 4)) {
        controller_fails(n, "a completion queue is not in memory");
        return;
    }
    if (++cq->tail == cq->size) {
        cq->tail = 0;
        cq->phase ^= 1;
    }
    cq_notify(n, cq);
}

void nvme_complete(struct nvme *n, unsigned sq, uint16_t cid, uint16_t status, uint32_t dw0)
{
    cq_post(n, n->state.sq[sq].cq % NVME_QUEUES, &n->state.sq[sq], sq, cid, status, dw0);
}

/* Not while a command runs: the entry that its own completion needs is still free then. */
static void tell_events(struct nvme *n)
{
    struct nvme_state *s = &n->state;

    while (controller_runs(n) && s->events && !s->events_masked && s->aers && cq_room(n, 0)) {
        unsigned event = (unsigned)__builtin_ctz(s->events);

        s->events &= s->events - 1;
        s->events_masked = 1;
        /* Type: error (0); the information; log page 1 tells more. */
        nvme_complete(n, 0, s->aer_cid[--s->aers % NVME_AERS], NVME_OK, event << 8 | 1u << 16);
    }
}

void nvme_event(struct nvme *n, enum nvme_event event)
{
    n->state.events |= 1u << event;
}

void nvme_drop_sq(struct nvme *n, unsigned sq)
{
    n->cq_inflight[n->state.sq[sq].cq % NVME_QUEUES] -= n->sq_inflight[sq];
    n->sq_inflight[sq] = 0;
    n->sq_epoch[sq]++;
    n->state.sq[sq] = (struct nvme_sq){0};
}

static bool sq_runnable(const struct nvme *n, unsigned i)
{
    const struct nvme_sq *sq = &n->state.sq[i];

    return sq->size && sq->head != sq->tail && cq_room(n, sq->cq % NVME_QUEUES) &&
           (i == 0 || nvme_pool_room(n));
}

static bool runnable(const struct nvme *n)
{
    if (!controller_runs(n) || !n->pci.bus_master)
        return false;
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (sq_runnable(n, i))
            return true;
    return false;
}

static void execute(struct nvme *n, unsigned i, const uint8_t *entry)
{
    struct nvme_cmd cmd = {
        .opcode = entry[0],
        .cid = get_le16(entry + 2),
        .nsid = get_le32(entry + 4),
        .prp1 = get_le64(entry + 24),
        .prp2 = get_le64(entry + 32),
        .cdw10 = get_le32(entry + 40),
        .cdw11 = get_le32(entry + 44),
        .cdw12 = get_le32(entry + 48),
        .cdw13 = get_le32(entry + 52),
        .cdw14 = get_le32(entry + 56),
        .cdw15 = get_le32(entry + 60),
    };
    uint16_t status = NVME_BAD_FIELD;
    uint32_t dw0 = 0;

    /* Neither fused operations nor SGLs (4.2, figure 104: FUSE, PSDT). */
    if (!(entry[1] & 0xc3))
        status = i ? nvme_io(n, i, &cmd) : nvme_admin(n, &cmd, &dw0);
    if (status != NVME_LATER)
        nvme_complete(n, i, cmd.cid, status, dw0);
}

static void sq_step(struct nvme *n, unsigned i)
{
    struct nvme_sq *sq = &n->state.sq[i];
    uint8_t entry[SQ_ENTRY];

    if (!dma_read(&n->dev, sq->base + (uint64_t)sq->head * SQ_ENTRY, entry, sizeof(entry))) {
        controller_fails(n, "a submission queue is not in memory");
        return;
    }
    sq->head = (uint16_t)((sq->head + 1u) % sq->size);
    execute(n, i, entry);
}

static void nvme_derive(struct device *dev);

void nvme_run(struct nvme *n)
{
    unsigned steps = 0, idle = 0;

    while (controller_runs(n) && n->pci.bus_master && steps < NVME_STEP && idle < NVME_QUEUES) {
        unsigned i = n->state.next_sq;

        n->state.next_sq = (i + 1) % NVME_QUEUES;
        if (!sq_runnable(n, i)) {
            idle++;
            continue;
        }
        idle = 0;
        steps++;
        sq_step(n, i);
        tell_events(n);
    }
    tell_events(n);
    nvme_derive(&n->dev);
}

static void nvme_work(void *opaque)
{
    nvme_run(opaque);
}

/* ---- derive ---- */

static void nvme_derive(struct device *dev)
{
    struct nvme *n = (struct nvme *)dev;

    pci_function_derive(&n->pci);
    pci_msix_derive(&n->msix);
    pci_intx_set(&n->pci, intx_level(n));
    if (!runnable(n))
        timer_disarm(&n->work);
    else if (!timer_armed(&n->work))
        timer_arm(&n->work, clock_now(dev->vm->clock));
}

/* ---- enable, reset, shutdown (3.1.5, 7.3, 7.6) ---- */

/* A controller level reset: everything but the configuration and the admin queue's place goes. */
static void controller_reset(struct nvme *n)
{
    struct nvme_state *s = &n->state;

    for (unsigned i = 0; i < NVME_QUEUES; i++)
        nvme_drop_sq(n, i);
    memset(s->cq, 0, sizeof(s->cq));
    memset(s->aer_cid, 0, sizeof(s->aer_cid));
    n->shutdown_epoch++;
    s->csts = 0;
    s->intm = 0;
    s->aers = 0;
    s->events = 0;
    s->events_masked = 0;
    s->next_sq = 0;
    nvme_features_reset(n);
}

static void controller_start(struct nvme *n)
{
    struct nvme_state *s = &n->state;
    unsigned sq_size = (s->aqa & 0xfff) + 1, cq_size = (s->aqa >> 16 & 0xfff) + 1;

    if ((s->cc & (CC_CSS | CC_MPS | CC_AMS)) || sq_size < 2 || cq_size < 2) {
        controller_fails(n, "it was enabled with a configuration that it does not have");
        return;
    }
    s->sq[0] = (struct nvme_sq){.base = s->asq, .size = (uint16_t)sq_size};
    s->cq[0] = (struct nvme_cq){.base = s->acq, .size = (uint16_t)cq_size, .phase = 1, .ien = 1};
    s->csts = NVME_CSTS_RDY;
}

static void write_cc(struct nvme *n, uint32_t val)
{
    uint32_t old = n->state.cc;

    n->state.cc = val & CC_WRITABLE;
    if ((old & CC_EN) && !(val & CC_EN))
        controller_reset(n);
    else if (!(old & CC_EN) && (val & CC_EN))
        controller_start(n);
    if (!(old & CC_SHN) && (val & CC_SHN))
        nvme_shutdown(n);
    else if ((old & CC_SHN) && !(val & CC_SHN))
        n->state.csts &= ~NVME_CSTS_SHST;
}

/* ---- register accesses ---- */

static void sq_doorbell(struct nvme *n, unsigned i, uint32_t val)
{
    struct nvme_sq *sq = &n->state.sq[i];

    if (!sq->size) {
        nvme_event(n, NVME_EVENT_DOORBELL_REGISTER);
    } else if (val >= sq->size) {
        nvme_event(n, NVME_EVENT_DOORBELL_VALUE);
    } else {
        sq->tail = (uint16_t)val;
    }
}

static void cq_doorbell(struct nvme *n, unsigned i, uint32_t val)
{
    struct nvme_cq *cq = &n->state.cq[i];

    if (!cq->size) {
        nvme_event(n, NVME_EVENT_DOORBELL_REGISTER);
        return;
    }
    /* The head can only move over entries that were posted. */
    if (val >= cq->size || (val + cq->size - cq->head) % cq->size >
                               ((uint32_t)cq->tail + cq->size - cq->head) % cq->size) {
        nvme_event(n, NVME_EVENT_DOORBELL_VALUE);
        return;
    }
    cq->head = (uint16_t)val;
}

static void doorbell(struct nvme *n, uint64_t off, uint32_t val)
{
    unsigned i = (unsigned)(off / 8) % NVME_QUEUES;

    if (!controller_runs(n)) {
        guest_err(&n->dev, "rang doorbell %#llx while the controller is not ready",
                  (unsigned long long)off);
        return;
    }
    if (off & 4)
        cq_doorbell(n, i, val);
    else
        sq_doorbell(n, i, val);
}

/* Halves of the 64-bit registers; they hold still while the controller is enabled (3.1.8). */
static void write_half(const struct nvme *n, uint64_t *reg, bool high, uint32_t val)
{
    if (n->state.cc & CC_EN)
        return;
    if (high)
        *reg = (uint64_t)val << 32 | (uint32_t)*reg;
    else
        *reg = (*reg & ~0xffffffffull) | (val & AQ_ADDR);
}

static void register_write(struct nvme *n, uint64_t off, uint32_t val)
{
    struct nvme_state *s = &n->state;

    switch (off) {
    case REG_INTMS:
        s->intm |= val;
        return;
    case REG_INTMC:
        unmask_interrupts(n, val);
        return;
    case REG_CC:
        write_cc(n, val);
        return;
    case REG_AQA:
        if (!(s->cc & CC_EN))
            s->aqa = val & AQA_WRITABLE;
        return;
    case REG_ASQ:
    case REG_ASQ_HIGH:
        write_half(n, &s->asq, off == REG_ASQ_HIGH, val);
        return;
    case REG_ACQ:
    case REG_ACQ_HIGH:
        write_half(n, &s->acq, off == REG_ACQ_HIGH, val);
        return;
    case REG_CAP:
    case REG_CAP_HIGH:
    case REG_VS:
    case REG_CSTS:
    case REG_NSSR: /* CAP.NSSRS is 0 */
    case REG_CMBLOC ... REG_BPMBL_HIGH:
        return;
    }
    io_bad_write(&n->dev, off, val, 4);
}

static void nvme_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct nvme *n = opaque;

    (void)size;
    if (off >= REG_MSIX_PBA)
        return; /* pending bits are read-only */
    if (off >= REG_MSIX_TABLE)
        pci_msix_table_write(&n->msix, off - REG_MSIX_TABLE, (uint32_t)val);
    else if (off >= REG_DOORBELLS && off < REG_DOORBELLS + REG_DOORBELLS_SIZE)
        doorbell(n, off - REG_DOORBELLS, (uint32_t)val);
    else if (off < REG_DOORBELLS)
        register_write(n, off, (uint32_t)val);
    else
        io_bad_write(&n->dev, off, val, size);
    nvme_run(n);
}

static uint64_t register_read(struct nvme *n, uint64_t off)
{
    const struct nvme_state *s = &n->state;

    switch (off) {
    case REG_CAP:
        return (uint32_t)CAP_VALUE;
    case REG_CAP_HIGH:
        return (uint32_t)(CAP_VALUE >> 32);
    case REG_VS:
        return VS_VALUE;
    case REG_INTMS:
    case REG_INTMC:
        return s->intm;
    case REG_CC:
        return s->cc;
    case REG_CSTS:
        return s->csts;
    case REG_AQA:
        return s->aqa;
    case REG_ASQ:
        return (uint32_t)s->asq;
    case REG_ASQ_HIGH:
        return s->asq >> 32;
    case REG_ACQ:
        return (uint32_t)s->acq;
    case REG_ACQ_HIGH:
        return s->acq >> 32;
    case REG_NSSR:
    case REG_CMBLOC ... REG_BPMBL_HIGH:
        return 0;
    }
    return io_bad_read(&n->dev, off, 4);
}

static uint64_t nvme_read(void *opaque, uint64_t off, unsigned size)
{
    struct nvme *n = opaque;

    if (off >= REG_MSIX_PBA)
        return pci_msix_pba_read(&n->msix, off - REG_MSIX_PBA);
    if (off >= REG_MSIX_TABLE)
        return pci_msix_table_read(&n->msix, off - REG_MSIX_TABLE);
    if (off >= REG_DOORBELLS && off < REG_DOORBELLS + REG_DOORBELLS_SIZE)
        return 0; /* reading a doorbell is vendor specific (3.1.24) */
    if (off >= REG_DOORBELLS)
        return io_bad_read(&n->dev, off, size);
    return register_read(n, off);
}

static const struct io_reg nvme_regs[] = {
    {REG_DOORBELLS, 4, "SQ0TDBL"},
    {REG_DOORBELLS + 4, 4, "CQ0HDBL"},
    {REG_DOORBELLS + 8, 4, "SQ1TDBL"},
    {REG_DOORBELLS + 12, 4, "CQ1HDBL"},
    {REG_DOORBELLS + 16, REG_DOORBELLS_SIZE - 16, "DOORBELL"},
    {REG_CAP, 8, "CAP"},
    {REG_VS, 4, "VS"},
    {REG_INTMS, 4, "INTMS"},
    {REG_INTMC, 4, "INTMC"},
    {REG_CC, 4, "CC"},
    {REG_CSTS, 4, "CSTS"},
    {REG_NSSR, 4, "NSSR"},
    {REG_AQA, 4, "AQA"},
    {REG_ASQ, 8, "ASQ"},
    {REG_ACQ, 8, "ACQ"},
    {REG_CMBLOC, 4, "CMBLOC"},
    {REG_CMBSZ, 4, "CMBSZ"},
    {REG_BPINFO, 4, "BPINFO"},
    {REG_BPRSEL, 4, "BPRSEL"},
    {REG_BPMBL, 8, "BPMBL"},
    {REG_MSIX_TABLE, NVME_VECTORS * 16, "MSIX_TABLE"},
    {REG_MSIX_PBA, 16, "MSIX_PBA"},
    {0},
};

static const struct io_ops nvme_ops = {
    .read = nvme_read,
    .write = nvme_write,
    .sizes = IO_4,
    .regs = nvme_regs,
};

/* ---- life ---- */

static void nvme_reset(struct device *dev, enum reset_kind kind)
{
    struct nvme *n = (struct nvme *)dev;

    pci_function_reset(&n->pci, kind);
    pci_msix_reset(&n->msix);
    controller_reset(n);
    n->state.cc = 0;
    n->state.aqa = 0;
    n->state.asq = 0;
    n->state.acq = 0;
    n->state.reads = n->state.writes = 0;
    n->state.sectors_read = n->state.sectors_written = 0;
}

static int check_queue(const struct nvme *n, unsigned i, struct err *err)
{
    const struct nvme_sq *sq = &n->state.sq[i];
    const struct nvme_cq *cq = &n->state.cq[i];
    unsigned max = i ? NVME_IO_QUEUE_SIZE : NVME_ADMIN_QUEUE_SIZE;
    bool ready = n->state.csts & NVME_CSTS_RDY;

    if (sq->size &&
        (sq->size < 2 || sq->size > max || sq->head >= sq->size || sq->tail >= sq->size ||
         sq->base % NVME_PAGE || !n->state.cq[sq->cq % NVME_QUEUES].size || !i != !sq->cq))
        return err_set(err, EINVAL, "saved submission queue %u is not possible", i);
    if (cq->size && (cq->size < 2 || cq->size > max || cq->head >= cq->size ||
                     cq->tail >= cq->size || cq->base % NVME_PAGE))
        return err_set(err, EINVAL, "saved completion queue %u is not possible", i);
    if ((sq->size || cq->size) && !ready)
        return err_set(err, EINVAL, "saved queue %u exists in a controller that is not ready", i);
    return 0;
}

static int nvme_check(struct device *dev, struct err *err)
{
    struct nvme *n = (struct nvme *)dev;
    const struct nvme_state *s = &n->state;
    int ret;

    /* What was in flight belongs to the state before. */
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        n->sq_epoch[i]++;
        n->sq_inflight[i] = 0;
        n->cq_inflight[i] = 0;
    }
    n->shutdown_epoch++;
    if ((s->cc & ~CC_WRITABLE) || (s->aqa & ~AQA_WRITABLE) || (s->asq | s->acq) % NVME_PAGE ||
        ((s->csts & NVME_CSTS_RDY) && !(s->cc & CC_EN)))
        return err_set(err, EINVAL, "saved controller registers are not possible");
    if ((s->csts & NVME_CSTS_SHST) == NVME_CSTS_SHST_BUSY)
        return err_set(err, EINVAL, "saved controller is in the middle of a shutdown");
    if ((s->csts & NVME_CSTS_RDY) && (!s->sq[0].size || !s->cq[0].size))
        return err_set(err, EINVAL, "saved controller is ready and has no admin queues");
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        ret = check_queue(n, i, err);
        if (ret)
            return ret;
    }
    ret = pci_msix_check(&n->msix, err);
    return ret ? ret : pci_function_check(&n->pci, err);
}

static bool nvme_quiesce(struct device *dev)
{
    return nvme_pool_idle((struct nvme *)dev);
}

static int set_serial(struct nvme *n, const struct nvme_config *config, struct err *err)
{
    const char *serial = config->serial;

    if (!serial || !*serial) {
        snprintf(n->serial, sizeof(n->serial), "DOPPEL%02X", config->devfn);
        return 0;
    }
    if (strlen(serial) >= sizeof(n->serial))
        return err_set(err, EINVAL,
                       "the serial number '%s' is too long: give at most 20 characters", serial);
    for (const char *p = serial; *p; p++)
        if (*p < ' ' || *p > '~')
            return err_set(err, EINVAL, "a serial number has only printable ASCII characters");
    snprintf(n->serial, sizeof(n->serial), "%s", serial);
    return 0;
}

static int nvme_init(struct device *dev, const void *config, struct err *err)
{
    static const struct pci_ids ids = {
        .vendor = VENDOR_ID,
        .device = DEVICE_ID,
        .subsystem_vendor = VENDOR_ID,
        .subsystem = DEVICE_ID,
        .class_code = CLASS_NVME,
        .revision = 1,
        .interrupt_pin = 1,
    };
    const struct nvme_config *cfg = config;
    struct nvme *n = (struct nvme *)dev;
    int ret;

    n->block = cfg->block;
    ret = set_serial(n, cfg, err);
    if (ret)
        return ret;
    ret = nvme_pool_init(n, err);
    if (ret)
        return ret;
    ret = pci_function_init(&n->pci, dev, cfg->bus, cfg->devfn, &n->state.pci, &ids,
                            PCIE_CONFIG_SIZE, err);
    if (ret) {
        nvme_pool_fini(n);
        return ret;
    }
    n->bar = region_io(dev, "nvme", BAR_SIZE, &nvme_ops);
    pci_add_bar(&n->pci, 0, PCI_BAR_MEM64, &n->bar);
    pci_add_pm(&n->pci);
    pci_add_msi(&n->pci, LOG2_MSIS);
    pci_add_express(&n->pci);
    pci_add_msix(&n->msix, &n->pci, &n->state.msix, NVME_VECTORS, 0, REG_MSIX_TABLE, REG_MSIX_PBA);
    timer_init(&n->work, dev->vm->clock, "nvme", nvme_work, n);
    nvme_reset(dev, RESET_COLD);
    return 0;
}

static void nvme_attach(struct device *dev)
{
    pci_add_function(&((struct nvme *)dev)->pci);
}

static void nvme_detach(struct device *dev)
{
    struct nvme *n = (struct nvme *)dev;

    timer_disarm(&n->work);
    pci_remove_function(&n->pci);
}

static void nvme_fini(struct device *dev)
{
    struct nvme *n = (struct nvme *)dev;

    timer_disarm(&n->work);
    nvme_pool_fini(n);
}

static const struct prop nvme_props[] = {
    {"serial", PROP_STRING, offsetof(struct nvme_config, serial), "from the slot",
     "serial number, at most 20 characters"},
    {0},
};

static const struct state nvme_state_table = STATE(struct nvme, state, 1, nvme_fields);

const struct dev_type nvme_type = {
    .name = "nvme",
    .desc = "NVM Express 1.4 disk controller",
    .size = sizeof(struct nvme),
    .props = nvme_props,
    .init = nvme_init,
    .attach = nvme_attach,
    .detach = nvme_detach,
    .reset = nvme_reset,
    .check = nvme_check,
    .derive = nvme_derive,
    .quiesce = nvme_quiesce,
    .fini = nvme_fini,
    .state = &nvme_state_table,
};
