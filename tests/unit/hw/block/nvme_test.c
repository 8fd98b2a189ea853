/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "hw/block/nvme.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define DEVFN        PCI_DEVFN(4, 0)
#define BAR          0xc0000000ull
#define SECTORS      4096u
#define DISK_BYTES   (SECTORS * 512u)
#define MAX_TRANSFER (512u * 1024)

/* Registers. */
#define CAP        0x00
#define VS         0x08
#define INTMS      0x0c
#define INTMC      0x10
#define CC         0x14
#define CSTS       0x1c
#define AQA        0x24
#define ASQ        0x28
#define ACQ        0x30
#define SQ_BELL(q) (0x1000 + (q)*8)
#define CQ_BELL(q) (0x1004 + (q)*8)
#define MSIX_TABLE 0x2000
#define CC_ON      0x00460001u

/* Guest memory. */
#define ADMIN_SQ  0x10000u
#define ADMIN_CQ  0x11000u
#define IO_SQ     0x12000u
#define IO_CQ     0x14000u
#define PAGE_DATA 0x20000u
#define LIST      0x1f000u
#define QUEUE     16u

/* Status values, DNR included. */
#define OK         0
#define BAD_OPCODE 0x4001
#define BAD_FIELD  0x4002
#define TRANSFER   0x0004
#define BAD_NS     0x400b
#define BAD_PRP    0x4013
#define PROTECTED  0x4020
#define BAD_CQ     0x4100
#define BAD_QUEUE  0x4101
#define BAD_SIZE   0x4102
#define LBA_RANGE  0x4080
#define CAPACITY   0x4081
#define NONE       (-1)

/* A back end that keeps requests until the test lets them go. */
struct fake_disk {
    struct block block;
    uint8_t data[DISK_BYTES];
    struct block_req *head, **tail;
    unsigned waiting, ops[5];
    int error; /* of the next request that ends */
};

static void fake_submit(struct block *block, struct block_req *req)
{
    struct fake_disk *d = (struct fake_disk *)block;

    req->next = NULL;
    *d->tail = req;
    d->tail = &req->next;
    d->waiting++;
    d->ops[req->op]++;
}

static const struct block_ops fake_ops = {.submit = fake_submit};

static void fake_do(struct fake_disk *d, struct block_req *req)
{
    switch (req->op) {
    case BLOCK_READ:
        memcpy(req->buf, d->data + req->offset, req->len);
        break;
    case BLOCK_WRITE:
        memcpy(d->data + req->offset, req->buf, req->len);
        break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        memset(d->data + req->offset, 0, req->len);
        break;
    case BLOCK_FLUSH:
        break;
    }
}

struct fixture {
    struct testvm *tv;
    struct testvm_irq irq;
    struct pci_bus bus;
    struct fake_disk disk;
    struct device *dev;
    uint16_t admin_tail, admin_head, io_tail, io_head, cid;
    unsigned admin_phase, io_phase;
    uint32_t dw0;
};

static unsigned route(unsigned slot, unsigned pin)
{
    (void)slot;
    (void)pin;
    return 0;
}

static void finish_one(struct fixture *f)
{
    struct fake_disk *d = &f->disk;
    struct block_req *req = d->head;

    vm_lock(&f->tv->vm);
    d->head = req->next;
    d->tail = d->head ? d->tail : &d->head;
    d->waiting--;
    fake_do(d, req);
    req->error = d->error;
    d->error = 0;
    req->done(req);
    vm_unlock(&f->tv->vm);
}

static void finish_all(struct fixture *f)
{
    while (f->disk.waiting)
        finish_one(f);
}

static uint32_t rd(struct fixture *f, unsigned off)
{
    return (uint32_t)testvm_read(f->tv, BAR + off, 4);
}

static void wr(struct fixture *f, unsigned off, uint32_t v)
{
    testvm_write(f->tv, BAR + off, v, 4);
}

static void config(struct fixture *f, unsigned off, uint32_t v, unsigned size)
{
    TESTVM_LOCKED(f->tv, pci_config_write(&f->bus, DEVFN, off, v, size));
}

static uint64_t mem(struct fixture *f, uint64_t gpa, unsigned size)
{
    return testvm_read(f->tv, gpa, size);
}

static void put(struct fixture *f, uint64_t gpa, uint64_t v, unsigned size)
{
    testvm_write(f->tv, gpa, v, size);
}

struct cmd {
    uint8_t opcode, flags;
    uint32_t nsid;
    uint64_t prp1, prp2;
    uint32_t cdw10, cdw11, cdw12;
};

static void put_cmd(struct fixture *f, uint64_t at, const struct cmd *c)
{
    for (unsigned i = 0; i < 64; i += 8)
        put(f, at + i, 0, 8);
    put(f, at, c->opcode | c->flags << 8 | (uint32_t)++f->cid << 16, 4);
    put(f, at + 4, c->nsid, 4);
    put(f, at + 24, c->prp1, 8);
    put(f, at + 32, c->prp2, 8);
    put(f, at + 40, c->cdw10, 4);
    put(f, at + 44, c->cdw11, 4);
    put(f, at + 48, c->cdw12, 4);
}

/* Takes a completion off a queue: its status, or NONE. */
static int reap(struct fixture *f, uint64_t cq, uint16_t *head, unsigned *phase, unsigned bell)
{
    uint64_t at = cq + *head * 16u;
    uint32_t dw3 = (uint32_t)mem(f, at + 12, 4);

    if ((dw3 >> 16 & 1) != *phase)
        return NONE;
    f->dw0 = (uint32_t)mem(f, at, 4);
    *head = (uint16_t)((*head + 1) % QUEUE);
    *phase ^= *head == 0;
    wr(f, bell, *head);
    return (int)(dw3 >> 17);
}

static int reap_admin(struct fixture *f)
{
    return reap(f, ADMIN_CQ, &f->admin_head, &f->admin_phase, CQ_BELL(0));
}

static int reap_io(struct fixture *f)
{
    return reap(f, IO_CQ, &f->io_head, &f->io_phase, CQ_BELL(1));
}

static void queue_admin(struct fixture *f, const struct cmd *c)
{
    put_cmd(f, ADMIN_SQ + f->admin_tail * 64u, c);
    f->admin_tail = (uint16_t)((f->admin_tail + 1) % QUEUE);
    wr(f, SQ_BELL(0), f->admin_tail);
}

static int admin(struct fixture *f, const struct cmd *c)
{
    queue_admin(f, c);
    return reap_admin(f);
}

static void queue_io(struct fixture *f, const struct cmd *c)
{
    put_cmd(f, IO_SQ + f->io_tail * 64u, c);
    f->io_tail = (uint16_t)((f->io_tail + 1) % QUEUE);
    wr(f, SQ_BELL(1), f->io_tail);
}

static int io(struct fixture *f, const struct cmd *c)
{
    queue_io(f, c);
    finish_all(f);
    return reap_io(f);
}

#define ADMIN(...)    admin(f, &(struct cmd){__VA_ARGS__})
#define IO(...)       io(f, &(struct cmd){.nsid = 1, __VA_ARGS__})
#define IO_NS(...)    io(f, &(struct cmd){__VA_ARGS__})
#define QUEUE_IO(...) queue_io(f, &(struct cmd){.nsid = 1, __VA_ARGS__})

static int create_queues(struct fixture *f)
{
    int status = ADMIN(.opcode = 5, .prp1 = IO_CQ, .cdw10 = (QUEUE - 1) << 16 | 1, .cdw11 = 3);

    f->io_tail = f->io_head = 0;
    f->io_phase = 1;
    return status ? status
                  : ADMIN(.opcode = 1, .prp1 = IO_SQ, .cdw10 = (QUEUE - 1) << 16 | 1,
                          .cdw11 = 1 << 16 | 1);
}

static void enable(struct fixture *f)
{
    wr(f, AQA, (QUEUE - 1) << 16 | (QUEUE - 1));
    wr(f, ASQ, ADMIN_SQ);
    wr(f, ASQ + 4, 0);
    wr(f, ACQ, ADMIN_CQ);
    wr(f, ACQ + 4, 0);
    for (unsigned i = 0; i < QUEUE * 16; i += 8) {
        put(f, ADMIN_CQ + i, 0, 8);
        put(f, IO_CQ + i, 0, 8);
    }
    wr(f, CC, CC_ON);
    f->admin_tail = f->admin_head = 0;
    f->admin_phase = 1;
}

static void make(struct fixture *f, bool ro)
{
    struct nvme_config cfg = {
        .bus = &f->bus, .devfn = DEVFN, .block = &f->disk.block, .serial = "S123"};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->irq, 16);
    f->bus.vm = &f->tv->vm;
    f->bus.route = route;
    f->bus.pirq[0] = &f->irq.line;
    f->disk.block = (struct block){.ops = &fake_ops, .size = DISK_BYTES, .read_only = ro};
    f->disk.head = NULL;
    f->disk.tail = &f->disk.head;
    f->dev = testvm_add(f->tv, &nvme_type, &cfg);
    config(f, PCI_BASE_ADDRESS_0, BAR, 4);
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

static struct fixture *setup_off(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    make(f, false);
    return f;
}

static struct fixture *setup(void)
{
    struct fixture *f = setup_off();

    enable(f);
    assert_int_equal(create_queues(f), 0);
    return f;
}

static struct fixture *setup_ro(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    make(f, true);
    enable(f);
    assert_int_equal(create_queues(f), 0);
    return f;
}

static void teardown(struct fixture *f)
{
    finish_all(f);
    testvm_free(f->tv);
    free(f);
}

/* ---- registers ---- */

TEST_WITH(setup_off, capabilities_say_what_is_there)
{
    assert_int_equal(rd(f, CAP), 0x140103ff);
    assert_int_equal(rd(f, CAP + 4), 0x20);
    assert_int_equal(rd(f, VS), 0x10400);
    assert_int_equal(rd(f, CC), 0);
    assert_int_equal(rd(f, CSTS), 0);
    assert_int_equal(testvm_read(f->tv, BAR + CAP, 8), 0x00000020140103ff);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, 0x08, 4), 0x01080201);
}

TEST_WITH(setup_off, unknown_registers_are_counted)
{
    assert_int_equal(rd(f, 0x60), 0xffffffff);
    wr(f, 0x60, 1);
    assert_int_equal(rd(f, 0x1c00), 0xffffffff);
    wr(f, 0x1c00, 1);
    assert_int_equal(f->dev->bad_accesses, 4);
    assert_int_equal(rd(f, 0x38), 0);
    wr(f, 0x38, 1);
    assert_int_equal(rd(f, SQ_BELL(1)), 0);
    assert_int_equal(rd(f, 0x3000), 0);
    wr(f, 0x3000, 1);
    assert_int_equal(f->dev->bad_accesses, 4);
}

TEST_WITH(setup_off, enabling_makes_it_ready_and_disabling_undoes_it)
{
    enable(f);
    assert_int_equal(rd(f, CSTS), 1);
    wr(f, ASQ, 0x55000);
    wr(f, AQA, 0);
    assert_int_equal(rd(f, ASQ), ADMIN_SQ);
    assert_int_equal(rd(f, AQA), 0x000f000f);
    wr(f, CC, 0);
    assert_int_equal(rd(f, CSTS), 0);
    assert_int_equal(rd(f, ACQ), ADMIN_CQ);
    assert_int_equal(rd(f, ASQ + 4), 0);
    assert_int_equal(rd(f, ACQ + 4), 0);
}

TEST_WITH(setup_off, impossible_configurations_are_fatal)
{
    wr(f, AQA, 0);
    wr(f, CC, 1);
    assert_int_equal(rd(f, CSTS), 2);
    wr(f, CC, 0);
    wr(f, AQA, 0x000f000f);
    wr(f, CC, 1 | 1 << 7);
    assert_int_equal(rd(f, CSTS), 2);
    wr(f, CC, 0);
    wr(f, CC, 1);
    assert_int_equal(rd(f, CSTS), 1);
}

TEST_WITH(setup_off, queues_outside_memory_are_fatal)
{
    enable(f);
    wr(f, CC, 0);
    wr(f, ASQ + 4, 0xffff);
    wr(f, CC, CC_ON);
    wr(f, SQ_BELL(0), 1);
    assert_int_equal(rd(f, CSTS), 3);
    wr(f, CC, 0);
    wr(f, ASQ + 4, 0);
    wr(f, ACQ + 4, 0xffff);
    wr(f, CC, CC_ON);
    wr(f, SQ_BELL(0), 1);
    assert_int_equal(rd(f, CSTS), 3);
}

TEST_WITH(setup_off, doorbells_before_ready_do_nothing)
{
    wr(f, SQ_BELL(0), 1);
    assert_int_equal(f->dev->guest_errs, 1);
    assert_int_equal(rd(f, CSTS), 0);
}

/* ---- admin ---- */

TEST_F(identify_controller_names_it)
{
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA, .cdw10 = 1), OK);
    assert_int_equal(mem(f, PAGE_DATA, 2), 0x1234);
    assert_int_equal(mem(f, PAGE_DATA + 4, 4), 0x33323153);
    assert_int_equal(mem(f, PAGE_DATA + 8, 2), 0x2020);
    assert_int_equal(mem(f, PAGE_DATA + 77, 1), 7);
    assert_int_equal(mem(f, PAGE_DATA + 516, 4), 1);
    assert_int_equal(mem(f, PAGE_DATA + 768, 4), 0x2e6e716e);
}

TEST_F(identify_namespace_tells_its_size)
{
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 1, .prp1 = PAGE_DATA), OK);
    assert_int_equal(mem(f, PAGE_DATA, 8), SECTORS);
    assert_int_equal(mem(f, PAGE_DATA + 128, 4), 9 << 16);
    assert_int_equal(mem(f, PAGE_DATA + 99, 1), 0);
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 2, .prp1 = PAGE_DATA), BAD_NS);
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 1, .prp1 = PAGE_DATA, .cdw10 = 2), OK);
    assert_int_equal(mem(f, PAGE_DATA, 4), 0);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA, .cdw10 = 2), OK);
    assert_int_equal(mem(f, PAGE_DATA, 4), 1);
    assert_int_equal(ADMIN(.opcode = 6, .nsid = ~0u, .prp1 = PAGE_DATA, .cdw10 = 2), BAD_NS);
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 1, .prp1 = PAGE_DATA, .cdw10 = 3), OK);
    assert_int_equal(mem(f, PAGE_DATA, 2), 0x1003);
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 3, .prp1 = PAGE_DATA, .cdw10 = 3), BAD_NS);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA, .cdw10 = 6), OK);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA, .cdw10 = 6, .cdw11 = 1 << 24),
                     BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA, .cdw10 = 0x40), BAD_FIELD);
}

TEST_F(data_may_cross_into_a_second_page)
{
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA + 0xc00, .prp2 = 0x30000, .cdw10 = 1),
                     OK);
    assert_int_equal(mem(f, PAGE_DATA + 0xc00, 2), 0x1234);
    assert_int_equal(mem(f, 0x30000 + 2048 - 1024, 2), 900);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA + 0xc00, .prp2 = 0x30010, .cdw10 = 1),
                     BAD_PRP);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = PAGE_DATA + 2, .cdw10 = 1), BAD_PRP);
    assert_int_equal(ADMIN(.opcode = 6, .prp1 = 0xffff000000ull, .cdw10 = 1), TRANSFER);
}

TEST_F(log_pages_are_served_and_bounded)
{
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 127 << 16 | 2), OK);
    assert_int_equal(mem(f, PAGE_DATA + 1, 2), 310);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 127 << 16 | 3), OK);
    assert_int_equal(mem(f, PAGE_DATA + 8, 1), '1');
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 15 << 16 | 1), OK);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 1023 << 16 | 5), OK);
    assert_int_equal(mem(f, PAGE_DATA + 1024 + 4, 4), 3);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 5, .cdw12 = 1028), OK);
    assert_int_equal(mem(f, PAGE_DATA, 4), 3);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 0x70), 0x4109);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 2, .cdw11 = 0xffff), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 2, .cdw12 = 8192), BAD_FIELD);
}

static uint32_t feature(struct fixture *f, uint32_t id, uint32_t cdw11)
{
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = id, .cdw11 = cdw11), OK);
    return f->dw0;
}

TEST_F(features_are_stored_and_read)
{
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 7, .cdw11 = 0x00030003), OK);
    assert_int_equal(f->dw0, 63 | 63 << 16);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 7, .cdw11 = 0xffff), BAD_FIELD);
    assert_int_equal(feature(f, 7, 0), 63 | 63 << 16);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 1, .cdw11 = 0x05), OK);
    assert_int_equal(feature(f, 1, 0), 5);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 4, .cdw11 = 0x00100111), OK);
    assert_int_equal(feature(f, 4, 0x00100000), 0x111);
    assert_int_equal(feature(f, 4, 0), 343);
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = 4, .cdw11 = 0x10000), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 4, .cdw11 = 0x200000), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 2, .cdw11 = 0), OK);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 2, .cdw11 = 1), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = 2), OK);
    assert_int_equal(feature(f, 6, 0), 1);
    assert_int_equal(feature(f, 9, 2), 0x10002);
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = 9, .cdw11 = 200), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 9, .cdw11 = 2), OK);
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = 0x7f), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 0x7f), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 0x80000001), 0x410d);
    for (unsigned id = 5; id <= 0x0b; id += 3) {
        assert_int_equal(ADMIN(.opcode = 9, .cdw10 = id, .cdw11 = id), OK);
        assert_int_equal(feature(f, id, 0), id);
    }
    assert_int_equal(ADMIN(.opcode = 10, .cdw10 = 0x0a), OK);
}

TEST_F(queue_creation_checks_every_field)
{
    static const struct {
        uint8_t opcode;
        uint32_t prp1, cdw10, cdw11;
        int status;
    } cases[] = {
        {5, 0x40000, 15 << 16 | 1, 3, BAD_QUEUE}, /* there already */
        {5, 0x40000, 15 << 16, 3, BAD_QUEUE},
        {5, 0x40000, 15 << 16 | 65, 3, BAD_QUEUE},
        {5, 0x40000, 0xffffffff, 3, BAD_QUEUE},
        {5, 0x40000, 2, 3, BAD_SIZE},
        {5, 0x40000, 1024 << 16 | 2, 3, BAD_SIZE},
        {5, 0x40000, 15 << 16 | 2, 2, BAD_FIELD},
        {5, 0x40010, 15 << 16 | 2, 3, BAD_PRP},
        {5, 0x40000, 15 << 16 | 2, 65 << 16 | 3, 0x4108},
        {1, 0x40000, 15 << 16 | 1, 0x10001, BAD_QUEUE},
        {1, 0x40000, 2, 0x10001, BAD_SIZE},
        {1, 0x40000, 15 << 16 | 2, 1, BAD_CQ},
        {1, 0x40000, 15 << 16 | 2, 0x20001, BAD_CQ},
        {1, 0x40000, 15 << 16 | 2, 0x10000, BAD_FIELD},
        {1, 0x40008, 15 << 16 | 2, 0x10001, BAD_PRP},
    };

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(ADMIN(.opcode = cases[i].opcode, .prp1 = cases[i].prp1,
                               .cdw10 = cases[i].cdw10, .cdw11 = cases[i].cdw11),
                         cases[i].status);
}

TEST_F(queues_are_deleted_in_order)
{
    assert_int_equal(ADMIN(.opcode = 4, .cdw10 = 1), 0x410c);
    assert_int_equal(ADMIN(.opcode = 0, .cdw10 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 0, .cdw10 = 1), BAD_QUEUE);
    assert_int_equal(ADMIN(.opcode = 4, .cdw10 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 4, .cdw10 = 0), BAD_QUEUE);
    assert_int_equal(create_queues(f), OK);
}

TEST_F(odd_commands_are_refused)
{
    assert_int_equal(ADMIN(.opcode = 0x7f), BAD_OPCODE);
    assert_int_equal(ADMIN(.opcode = 6, .flags = 0x40, .prp1 = PAGE_DATA, .cdw10 = 1), BAD_FIELD);
    assert_int_equal(ADMIN(.opcode = 8, .cdw10 = 1), OK);
    assert_int_equal(f->dw0, 1);
    assert_int_equal(IO(.opcode = 0x55), BAD_OPCODE);
    assert_int_equal(IO(.opcode = 2, .flags = 1, .prp1 = PAGE_DATA), BAD_FIELD);
}

TEST_F(bad_doorbells_are_told_as_events)
{
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(ADMIN(.opcode = 0x0c), NONE);
    assert_int_equal(ADMIN(.opcode = 0x0c), 0x4105);
    wr(f, SQ_BELL(9), 1);
    assert_int_equal(reap_admin(f), OK);
    assert_int_equal(f->dw0, 0x00010000);
    wr(f, SQ_BELL(1), QUEUE);
    wr(f, CQ_BELL(1), 5);
    wr(f, CQ_BELL(30), 5);
    assert_int_equal(reap_admin(f), NONE);
    queue_admin(f, &(struct cmd){.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = 1});
    assert_int_equal(reap_admin(f), OK);
    assert_int_equal(reap_admin(f), OK);
    assert_int_equal(f->dw0, 0x00010000);
}

/* ---- I/O ---- */

static void fill(struct fixture *f, uint64_t gpa, unsigned len, uint8_t seed)
{
    for (unsigned i = 0; i < len; i += 8)
        put(f, gpa + i, (seed + i) * 0x0101010101010101ull, 8);
}

TEST_F(written_blocks_read_back)
{
    fill(f, PAGE_DATA, 4096, 3);
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA, .cdw10 = 8, .cdw12 = 7), OK);
    assert_int_equal(IO(.opcode = 2, .prp1 = 0x30000, .cdw10 = 8, .cdw12 = 7), OK);
    assert_int_equal(mem(f, 0x30000, 8), 0x0303030303030303ull);
    assert_int_equal(mem(f, 0x30ff8, 8), mem(f, PAGE_DATA + 0xff8, 8));
    assert_int_equal(f->disk.data[8 * 512], 3);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 0);
}

TEST_F(completion_comes_only_when_the_disk_is_done)
{
    QUEUE_IO(.opcode = 2, .prp1 = PAGE_DATA);
    assert_int_equal(reap_io(f), NONE);
    assert_false(f->dev->type->quiesce(f->dev));
    finish_all(f);
    assert_true(f->dev->type->quiesce(f->dev));
    assert_int_equal(reap_io(f), OK);
}

TEST_F(prp_list_scatters_a_long_transfer)
{
    for (unsigned i = 0; i < 4; i++)
        put(f, LIST + i * 8, 0x80000 - i * 0x2000, 8);
    for (unsigned i = 0; i < DISK_BYTES; i++)
        f->disk.data[i] = (uint8_t)(i / 512);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA + 0x800, .prp2 = LIST, .cdw12 = 31), OK);
    assert_int_equal(mem(f, PAGE_DATA + 0x800, 1), 0);
    assert_int_equal(mem(f, 0x80000, 1), 4);
    assert_int_equal(mem(f, 0x7e000, 1), 12);
    assert_int_equal(mem(f, 0x7a000, 1), 28);
}

TEST_F(prp_list_goes_on_in_another_page)
{
    f->disk.data[4096 * 2] = 0x99;
    put(f, LIST + 0xff0, 0x60000, 8);
    put(f, LIST + 0xff8, 0x50000, 8);
    put(f, 0x50000, 0x70000, 8);
    put(f, 0x50008, 0x72000, 8);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .prp2 = LIST + 0xff0, .cdw12 = 31), OK);
    assert_int_equal(mem(f, 0x70000, 1), 0x99);
    put(f, LIST + 0xff8, 0x50008, 8);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .prp2 = LIST + 0xff0, .cdw12 = 31),
                     BAD_PRP);
}

TEST_F(bad_prp_lists_are_refused)
{
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .prp2 = LIST + 4, .cdw12 = 31), BAD_PRP);
    put(f, LIST, 0x60010, 8);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .prp2 = LIST, .cdw12 = 31), BAD_PRP);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .prp2 = 1ull << 40, .cdw12 = 31), TRANSFER);
    assert_int_equal(IO(.opcode = 1, .prp1 = 1ull << 40, .cdw12 = 7), TRANSFER);
    assert_int_equal(IO(.opcode = 2, .prp1 = 1ull << 40, .cdw12 = 7), TRANSFER);
    assert_int_equal(f->disk.ops[BLOCK_WRITE], 0);
}

TEST_F(ranges_past_the_end_are_refused)
{
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = SECTORS), LBA_RANGE);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = SECTORS - 1, .cdw12 = 1),
                     LBA_RANGE);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = ~0u, .cdw11 = ~0u, .cdw12 = 7),
                     LBA_RANGE);
    assert_int_equal(IO(.opcode = 8, .cdw10 = SECTORS - 1, .cdw12 = 1), LBA_RANGE);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .cdw12 = 1024), BAD_FIELD);
    assert_int_equal(IO_NS(.opcode = 2, .nsid = 2, .prp1 = PAGE_DATA), BAD_NS);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA, .cdw10 = SECTORS - 1), OK);
}

TEST_F(flush_write_zeroes_and_trim_reach_the_disk)
{
    memset(f->disk.data, 0xee, sizeof(f->disk.data));
    assert_int_equal(IO_NS(.opcode = 0, .nsid = ~0u), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    assert_int_equal(IO(.opcode = 8, .cdw10 = 4, .cdw12 = 1), OK);
    assert_int_equal(f->disk.data[4 * 512], 0);
    assert_int_equal(f->disk.data[6 * 512], 0xee);
    put(f, PAGE_DATA + 4, 0, 4); /* an empty range, then two */
    put(f, PAGE_DATA + 8, 0, 8);
    put(f, PAGE_DATA + 20, 2, 4);
    put(f, PAGE_DATA + 24, 10, 8);
    put(f, PAGE_DATA + 36, 1, 4);
    put(f, PAGE_DATA + 40, 20, 8);
    assert_int_equal(IO(.opcode = 9, .prp1 = PAGE_DATA, .cdw10 = 2, .cdw11 = 4), OK);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 2);
    assert_int_equal(f->disk.data[11 * 512], 0);
    assert_int_equal(f->disk.data[20 * 512], 0);
    assert_int_equal(f->disk.data[21 * 512], 0xee);
}

TEST_F(odd_trims_end_well)
{
    assert_int_equal(IO(.opcode = 9, .prp1 = PAGE_DATA, .cdw10 = 2, .cdw11 = 1), OK);
    assert_int_equal(IO(.opcode = 9, .prp1 = 0x300000, .cdw10 = 0, .cdw11 = 4), OK);
    assert_int_equal(IO(.opcode = 9, .prp1 = 1ull << 40, .cdw10 = 0, .cdw11 = 4), TRANSFER);
    put(f, PAGE_DATA + 4, 2, 4);
    put(f, PAGE_DATA + 8, SECTORS - 1, 8);
    assert_int_equal(IO(.opcode = 9, .prp1 = PAGE_DATA, .cdw10 = 0, .cdw11 = 4), LBA_RANGE);
    put(f, PAGE_DATA + 4, 1, 4);
    f->disk.error = EIO;
    assert_int_equal(IO(.opcode = 9, .prp1 = PAGE_DATA, .cdw10 = 0, .cdw11 = 4), 0x280);
    assert_int_equal(f->disk.ops[BLOCK_DISCARD], 1);
}

TEST_F(forced_unit_access_flushes_before_completing)
{
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA, .cdw12 = 1u << 30), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 1);
    assert_int_equal(ADMIN(.opcode = 9, .cdw10 = 6, .cdw11 = 0), OK);
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA), OK);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 2);
}

TEST_F(host_errors_become_media_errors)
{
    f->disk.error = EIO;
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA), 0x281);
    f->disk.error = EIO;
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA), 0x280);
    f->disk.error = ENOSPC;
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA), CAPACITY);
    f->disk.error = EIO;
    assert_int_equal(IO(.opcode = 0), 0x280);
}

TEST_WITH(setup_ro, read_only_disk_refuses_writes)
{
    assert_int_equal(ADMIN(.opcode = 6, .nsid = 1, .prp1 = PAGE_DATA), OK);
    assert_int_equal(mem(f, PAGE_DATA + 99, 1), 1);
    assert_int_equal(IO(.opcode = 1, .prp1 = PAGE_DATA), PROTECTED);
    assert_int_equal(IO(.opcode = 8), PROTECTED);
    assert_int_equal(IO(.opcode = 9, .prp1 = PAGE_DATA, .cdw11 = 4), PROTECTED);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA), OK);
}

TEST_F(full_completion_queue_stops_fetching)
{
    for (unsigned i = 0; i < QUEUE - 1; i++)
        QUEUE_IO(.opcode = 0);
    finish_all(f);
    QUEUE_IO(.opcode = 0);
    assert_int_equal(f->disk.waiting, 0);
    assert_int_equal(reap_io(f), OK);
    assert_int_equal(f->disk.waiting, 1);
}

TEST_F(memory_in_flight_is_bounded)
{
    unsigned before;

    assert_int_equal(ADMIN(.opcode = 5, .prp1 = 0x40000, .cdw10 = 1023 << 16 | 2, .cdw11 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 1, .prp1 = 0x50000, .cdw10 = 1023 << 16 | 2, .cdw11 = 0x20001),
                     OK);
    for (unsigned i = 0; i < 128; i++)
        put(f, LIST + i * 8, 0x200000, 8);
    for (unsigned i = 0; i < 300; i++)
        put_cmd(
            f, 0x50000 + i * 64,
            &(struct cmd){.opcode = 2, .nsid = 1, .prp1 = 0x200000, .prp2 = LIST, .cdw12 = 1023});
    wr(f, SQ_BELL(2), 300);
    assert_int_equal(f->disk.waiting, 16 * 1024 / 512);
    before = f->disk.ops[BLOCK_READ];
    finish_one(f);
    assert_int_equal(f->disk.ops[BLOCK_READ], before + 1);
    finish_all(f);
    testvm_advance(f->tv, 1);
    assert_int_equal(f->disk.ops[BLOCK_READ], 300);
}

TEST_F(long_queues_go_on_from_a_timer)
{
    assert_int_equal(ADMIN(.opcode = 5, .prp1 = 0x40000, .cdw10 = 1023 << 16 | 2, .cdw11 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 1, .prp1 = 0x50000, .cdw10 = 1023 << 16 | 2, .cdw11 = 0x20001),
                     OK);
    wr(f, SQ_BELL(2), 1000); /* zeroed entries: refused at once, one by one */
    assert_int_equal(mem(f, 0x40000 + 128 * 16 + 12, 4), 0);
    assert_int_not_equal(mem(f, 0x40000 + 127 * 16 + 12, 4), 0);
    testvm_advance(f->tv, 10);
    assert_int_not_equal(mem(f, 0x40000 + 999 * 16 + 12, 4), 0);
}

TEST_F(fetching_needs_bus_mastering)
{
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    QUEUE_IO(.opcode = 0);
    assert_int_equal(f->disk.waiting, 0);
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    testvm_advance(f->tv, 1);
    assert_int_equal(f->disk.waiting, 1);
    assert_int_equal(rd(f, CSTS), 1);
}

/* ---- interrupts ---- */

TEST_F(intx_is_up_while_entries_wait)
{
    assert_false(f->irq.level);
    QUEUE_IO(.opcode = 0);
    finish_all(f);
    assert_true(f->irq.level);
    wr(f, INTMS, 1);
    assert_false(f->irq.level);
    assert_int_equal(rd(f, INTMS), 1);
    wr(f, INTMC, 1);
    assert_int_equal(rd(f, INTMC), 0);
    assert_true(f->irq.level);
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE, 2);
    assert_false(f->irq.level);
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    reap_io(f);
    assert_false(f->irq.level);
}

static unsigned find_cap(struct fixture *f, uint8_t id)
{
    unsigned at = pci_config_read(&f->bus, DEVFN, PCI_CAPABILITY_LIST, 1);

    while (pci_config_read(&f->bus, DEVFN, at, 1) != id)
        at = pci_config_read(&f->bus, DEVFN, at + 1, 1);
    return at;
}

TEST_F(msix_sends_the_queue_s_vector)
{
    wr(f, MSIX_TABLE + 0, 0xfee00000);
    wr(f, MSIX_TABLE + 8, 0x51);
    wr(f, MSIX_TABLE + 12, 0);
    assert_int_equal(rd(f, MSIX_TABLE + 8), 0x51);
    config(f, find_cap(f, PCI_CAP_ID_MSIX) + 2, 0x8000, 2);
    QUEUE_IO(.opcode = 0);
    finish_all(f);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].data, 0x51);
    assert_false(f->irq.level);
    wr(f, INTMS, 1);
    wr(f, INTMC, 1);
    assert_int_equal(f->tv->nmsis, 1);
}

TEST_F(msi_obeys_the_controller_s_mask)
{
    unsigned cap = find_cap(f, PCI_CAP_ID_MSI);

    config(f, cap + 4, 0xfee00000, 4);
    config(f, cap + 12, 0x60, 2);
    config(f, cap + 2, 1, 2);
    wr(f, INTMS, 1);
    QUEUE_IO(.opcode = 0);
    finish_all(f);
    assert_int_equal(f->tv->nmsis, 0);
    wr(f, INTMC, 1);
    assert_int_equal(f->tv->nmsis, 1);
    assert_int_equal(f->tv->msis[0].data, 0x60);
    QUEUE_IO(.opcode = 0);
    finish_all(f);
    assert_int_equal(f->tv->nmsis, 2);
}

TEST_F(queue_without_interrupts_is_silent)
{
    assert_int_equal(ADMIN(.opcode = 0, .cdw10 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 4, .cdw10 = 1), OK);
    assert_int_equal(ADMIN(.opcode = 5, .prp1 = IO_CQ, .cdw10 = (QUEUE - 1) << 16 | 1, .cdw11 = 1),
                     OK);
    assert_int_equal(
        ADMIN(.opcode = 1, .prp1 = IO_SQ, .cdw10 = (QUEUE - 1) << 16 | 1, .cdw11 = 0x10001), OK);
    f->io_tail = 0;
    QUEUE_IO(.opcode = 0);
    finish_all(f);
    assert_false(f->irq.level);
}

/* ---- resets ---- */

TEST_F(completions_of_a_disabled_controller_are_dropped)
{
    put(f, PAGE_DATA, 0x1111, 8);
    QUEUE_IO(.opcode = 2, .prp1 = PAGE_DATA);
    QUEUE_IO(.opcode = 1, .prp1 = PAGE_DATA, .cdw12 = 1u << 30);
    wr(f, CC, 0);
    enable(f);
    assert_int_equal(create_queues(f), OK);
    finish_all(f);
    assert_int_equal(reap_io(f), NONE);
    assert_int_equal(mem(f, PAGE_DATA, 8), 0x1111);
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA), OK);
    assert_true(f->dev->type->quiesce(f->dev));
}

TEST_F(completions_of_a_deleted_queue_are_dropped)
{
    QUEUE_IO(.opcode = 0);
    QUEUE_IO(.opcode = 2, .prp1 = PAGE_DATA);
    put(f, PAGE_DATA + 0x1004, 1, 4);
    QUEUE_IO(.opcode = 9, .prp1 = PAGE_DATA + 0x1000, .cdw11 = 4);
    assert_int_equal(ADMIN(.opcode = 0, .cdw10 = 1), OK);
    finish_all(f);
    assert_int_equal(reap_io(f), NONE);
    assert_int_equal(ADMIN(.opcode = 4, .cdw10 = 1), OK);
    assert_int_equal(create_queues(f), OK);
    assert_int_equal(IO(.opcode = 0), OK);
}

TEST_F(shutdown_is_complete_after_a_flush)
{
    wr(f, CC, CC_ON | 1 << 14);
    assert_int_equal(rd(f, CSTS), 0x5);
    assert_false(f->dev->type->quiesce(f->dev));
    finish_all(f);
    assert_int_equal(rd(f, CSTS), 0x9);
    wr(f, CC, CC_ON);
    assert_int_equal(rd(f, CSTS), 0x1);
}

TEST_F(second_shutdown_flushes_again)
{
    wr(f, CC, CC_ON | 1 << 14);
    wr(f, CC, 0);
    wr(f, CC, 1 << 14);
    finish_one(f);
    assert_int_equal(rd(f, CSTS), 0x4);
    finish_one(f);
    assert_int_equal(rd(f, CSTS), 0x8);
    assert_int_equal(f->disk.ops[BLOCK_FLUSH], 2);
}

TEST_F(function_level_reset_brings_it_back)
{
    QUEUE_IO(.opcode = 0);
    config(f, find_cap(f, PCI_CAP_ID_EXP) + 8, 0x8000, 2);
    finish_all(f);
    assert_int_equal(pci_config_read(&f->bus, DEVFN, PCI_COMMAND, 2), 0);
    config(f, PCI_BASE_ADDRESS_0, BAR, 4);
    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    assert_int_equal(rd(f, CC), 0);
    enable(f);
    assert_int_equal(create_queues(f), OK);
    assert_int_equal(IO(.opcode = 0), OK);
}

TEST_F(device_may_go_while_requests_are_in_flight)
{
    QUEUE_IO(.opcode = 2, .prp1 = PAGE_DATA);
    wr(f, CC, CC_ON | 1 << 14);
    TESTVM_LOCKED(f->tv, device_free(f->dev));
    finish_all(f);
    assert_int_equal(f->disk.waiting, 0);
}

TEST_F(device_may_go_while_only_the_flush_is_in_flight)
{
    wr(f, CC, CC_ON | 1 << 14);
    TESTVM_LOCKED(f->tv, device_free(f->dev));
    finish_all(f);
    assert_int_equal(f->disk.waiting, 0);
}

/* ---- state and configuration ---- */

TEST_F(state_round_trips)
{
    assert_int_equal(IO(.opcode = 2, .prp1 = PAGE_DATA), OK);
    assert_int_equal(ADMIN(.opcode = 0x0c), NONE);
    testvm_state_roundtrip(f->dev);
    assert_int_equal(IO(.opcode = 0), OK);
}

TEST_F(backlog_is_run_in_the_vm_it_is_loaded_into)
{
    struct fixture *g = calloc(1, sizeof(*g));

    config(f, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    QUEUE_IO(.opcode = 0);
    make(g, false);
    testvm_transfer(f->dev, g->dev);
    config(g, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    put(g, IO_SQ + 4, 1, 4);
    testvm_advance(g->tv, 1);
    assert_int_equal(g->disk.waiting, 1);
    finish_all(g);
    testvm_free(g->tv);
    free(g);
}

TEST_F(bad_serials_are_refused_with_a_sentence)
{
    struct nvme_config cfg = {.bus = &f->bus,
                              .devfn = PCI_DEVFN(5, 0),
                              .block = &f->disk.block,
                              .serial = "123456789012345678901"};
    struct err err = {0};

    assert_null(device_new(&f->tv->vm, &nvme_type, "x", &cfg, &err));
    assert_non_null(strstr(err.text, "at most 20"));
    cfg.serial = "a\tb";
    assert_null(device_new(&f->tv->vm, &nvme_type, "x", &cfg, &err));
    cfg.serial = NULL;
    cfg.devfn = DEVFN;
    assert_null(device_new(&f->tv->vm, &nvme_type, "x", &cfg, &err));
    assert_non_null(strstr(err.text, "taken"));
}
