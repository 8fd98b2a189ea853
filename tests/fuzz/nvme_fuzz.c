/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NVMe controller: register accesses of all widths, commands whose fields come from the input,
 * PRP lists and queues anywhere, completions in time or late, resets with requests in flight,
 * loaded state.
 */
#include <errno.h>

#include "backend/block/block.h"
#include "hw/block/nvme.h"
#include "tests/lib/fuzzops.h"

#define DEVFN      PCI_DEVFN(4, 0)
#define BAR        0xc0000000ull
#define ADMIN_SQ   0x10000u
#define ADMIN_CQ   0x11000u
#define IO_SQ      0x12000u
#define IO_CQ      0x13000u
#define QUEUE      16u
#define DISK_BYTES (256u * 1024)

struct fake_disk {
    struct block block;
    struct block_req *head;
    uint64_t bad; /* ranges outside the disk that came through */
};

/* Newest first: completions out of order. */
static void fake_submit(struct block *block, struct block_req *req)
{
    struct fake_disk *d = (struct fake_disk *)block;

    if (req->op != BLOCK_FLUSH &&
        (req->offset > block->size || req->len > block->size - req->offset))
        __builtin_trap();
    if (req->op == BLOCK_READ)
        memset(req->buf, 0x5a, req->len);
    req->next = d->head;
    d->head = req;
}

static void finish(struct testvm *tv, struct fake_disk *d, int error)
{
    struct block_req *req = d->head;

    if (!req)
        return;
    d->head = req->next;
    req->error = error;
    TESTVM_LOCKED(tv, req->done(req));
}

static unsigned route(unsigned slot, unsigned pin)
{
    return slot + pin;
}

struct fuzz {
    struct testvm *tv;
    struct pci_bus bus;
    struct device *dev;
    unsigned tail[2], phase_head[2];
};

static void wr(struct fuzz *f, unsigned off, uint32_t v)
{
    testvm_write(f->tv, BAR + off, v, 4);
}

static void enable(struct fuzz *f)
{
    vm_lock(&f->tv->vm);
    pci_config_write(&f->bus, DEVFN, PCI_BASE_ADDRESS_0, BAR, 4);
    pci_config_write(&f->bus, DEVFN, PCI_BASE_ADDRESS_0 + 4, 0, 4);
    pci_config_write(&f->bus, DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    vm_unlock(&f->tv->vm);
    wr(f, 0x14, 0);
    wr(f, 0x24, (QUEUE - 1) << 16 | (QUEUE - 1));
    wr(f, 0x28, ADMIN_SQ);
    wr(f, 0x2c, 0);
    wr(f, 0x30, ADMIN_CQ);
    wr(f, 0x34, 0);
    wr(f, 0x14, 0x00460001);
    memset(f->tail, 0, sizeof(f->tail));
}

static void command(struct fuzz *f, unsigned q, uint32_t dw0, uint32_t nsid, uint64_t prp1,
                    uint64_t prp2, uint32_t cdw10, uint32_t cdw11, uint32_t cdw12)
{
    uint64_t at = (q ? IO_SQ : ADMIN_SQ) + f->tail[q] * 64u;

    testvm_write(f->tv, at, (uint64_t)nsid << 32 | dw0, 8);
    testvm_write(f->tv, at + 24, prp1, 8);
    testvm_write(f->tv, at + 32, prp2, 8);
    testvm_write(f->tv, at + 40, (uint64_t)cdw11 << 32 | cdw10, 8);
    testvm_write(f->tv, at + 48, cdw12, 8);
    f->tail[q] = (f->tail[q] + 1) % QUEUE;
    wr(f, 0x1000 + q * 8, f->tail[q]);
    wr(f, 0x1004 + q * 8, (f->tail[q] + QUEUE - 1) % QUEUE);
}

static uint64_t pick_prp(struct fuzz_in *in)
{
    uint64_t v = fuzz_take(in, 2);

    switch (v & 7) {
    case 0:
        return v << 48 | 0x1000; /* nowhere */
    case 1:
        return v << 4;
    default:
        return (v & 0x1f8) << 12;
    }
}

static void some_command(struct fuzz *f, struct fuzz_in *in)
{
    static const uint8_t admin[] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12};
    static const uint8_t io[] = {0, 1, 2, 8, 9, 1, 2, 9};
    uint32_t v = (uint32_t)fuzz_take(in, 2), cdw10, cdw11;
    unsigned q = v & 1;
    uint32_t op = q ? io[v >> 1 & 7] : admin[(v >> 1 & 15) % sizeof(admin)];
    uint64_t prp1 = pick_prp(in), prp2 = pick_prp(in);

    cdw10 = (uint32_t)fuzz_take(in, v & 0x100 ? 4 : 1);
    cdw11 = q && op != 9 && !(v & 0x200) ? 0 : (uint32_t)fuzz_take(in, v & 0x400 ? 4 : 1);
    if (v & 0x8000)
        op = (uint32_t)fuzz_take(in, 4);
    command(f, q, op, v & 0x800 ? (uint32_t)fuzz_take(in, 4) : 1, prp1, prp2, cdw10, cdw11,
            (uint32_t)fuzz_take(in, v & 0x1000 ? 4 : 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct block_ops ops = {.submit = fake_submit};
    struct fake_disk disk = {.block = {.ops = &ops, .size = DISK_BYTES}};
    struct fuzz_in in = {data, size};
    struct fuzz f = {.tv = testvm_new()};
    struct testvm_irq irq;
    struct nvme_config config = {.bus = &f.bus, .devfn = DEVFN, .block = &disk.block};

    disk.block.read_only = (fuzz_take(&in, 1) & 7) == 7;
    f.bus.vm = &f.tv->vm;
    f.bus.route = route;
    testvm_irq_init(f.tv, &irq, 16);
    f.bus.pirq[5] = &irq.line;
    f.dev = testvm_add(f.tv, &nvme_type, &config);
    enable(&f);
    command(&f, 0, 5, 0, IO_CQ, 0, (QUEUE - 1) << 16 | 1, 3, 0);
    command(&f, 0, 1, 0, IO_SQ, 0, (QUEUE - 1) << 16 | 1, 1 << 16 | 1, 0);

    while (in.size) {
        unsigned op = (unsigned)fuzz_take(&in, 1), width;
        uint64_t at;

        switch (op & 7) {
        case 0:
        case 1:
        case 2:
            some_command(&f, &in);
            break;
        case 3:
            finish(f.tv, &disk, op & 0x80 ? op & 0x40 ? ENOSPC : EIO : 0);
            break;
        case 4: /* registers, doorbells, the MSI-X table */
            at = BAR + ((fuzz_take(&in, 2) & 0x7f) << 2) + (op >> 4 & 3) * 0x1000u;
            width = fuzz_width(&in);
            if (op & 0x80)
                testvm_read(f.tv, at, width);
            else
                testvm_write(f.tv, at, fuzz_take(&in, width), width);
            break;
        case 5: /* memory: lists and entries */
            testvm_write(f.tv, fuzz_take(&in, 2) << 3,
                         op & 0x80 ? pick_prp(&in) : fuzz_take(&in, 8), 8);
            break;
        case 6:
            at = fuzz_take(&in, 1) | (op & 0x80 ? 0x100 : 0);
            TESTVM_LOCKED(f.tv,
                          pci_config_write(&f.bus, DEVFN, (unsigned)at, (uint32_t)fuzz_take(&in, 4),
                                           1u << (op >> 3 & 3) % 3));
            break;
        case 7:
            if (op < 0x40) {
                enable(&f);
            } else if (op < 0x80) {
                fuzz_time(&in, f.tv);
            } else if (op < 0xc0) {
                fuzz_load(&in, f.dev);
            } else {
                fuzz_reset(&in, f.dev);
            }
            break;
        }
    }
    /* Half of the runs take the device away under the requests. */
    if (size & 1) {
        TESTVM_LOCKED(f.tv, device_free(f.dev));
    }
    while (disk.head)
        finish(f.tv, &disk, 0);
    testvm_free(f.tv);
    return 0;
}
