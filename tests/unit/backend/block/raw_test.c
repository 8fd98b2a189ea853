/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a few KiB under a temporary directory; the clock is manual, so requests end by a timer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define BYTES   20480u
#define LATENCY 100000

struct fixture {
    struct testvm *tv;
    char path[64];
    struct err err;
    struct block_req req;
    unsigned done;
};

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    uint8_t byte;
    int fd;

    f->tv = testvm_new();
    strcpy(f->path, "/tmp/doppel-raw-XXXXXX");
    fd = mkstemp(f->path);
    for (unsigned i = 0; i < BYTES; i++) {
        byte = (uint8_t)(i / 512 + 1);
        assert_int_equal(write(fd, &byte, 1), 1);
    }
    close(fd);
    return f;
}

static void teardown(struct fixture *f)
{
    unlink(f->path);
    testvm_free(f->tv);
    free(f);
}

static void count(struct block_req *req)
{
    ((struct fixture *)req->opaque)->done++;
}

static struct block *open_it(struct fixture *f, bool ro, bool snapshot)
{
    return block_raw_open(&f->tv->vm, f->path, ro, snapshot, &f->err);
}

/* Submits and waits in VM time; the request's error. */
static int run(struct fixture *f, struct block *b, enum block_op op, uint64_t offset, uint64_t len,
               void *buf)
{
    unsigned before = f->done;

    f->req = (struct block_req){
        .op = op, .offset = offset, .len = len, .buf = buf, .done = count, .opaque = f};
    TESTVM_LOCKED(f->tv, block_submit(b, &f->req));
    assert_int_equal(f->done, before);
    testvm_advance(f->tv, LATENCY - 1);
    assert_int_equal(f->done, before);
    testvm_advance(f->tv, 1);
    assert_int_equal(f->done, before + 1);
    return f->req.error;
}

static uint8_t on_host(struct fixture *f, off_t at)
{
    int fd = open(f->path, O_RDONLY);
    uint8_t byte = 0;

    assert_int_equal(pread(fd, &byte, 1, at), 1);
    close(fd);
    return byte;
}

TEST_F(writes_are_in_the_file)
{
    struct block *b = open_it(f, false, false);
    uint8_t buf[1024];

    assert_int_equal(b->size, BYTES);
    assert_false(b->read_only);
    memset(buf, 0xaa, sizeof(buf));
    assert_int_equal(run(f, b, BLOCK_WRITE, 512, sizeof(buf), buf), 0);
    assert_int_equal(run(f, b, BLOCK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(on_host(f, 511), 1);
    assert_int_equal(on_host(f, 512), 0xaa);
    assert_int_equal(on_host(f, 1536), 4);
    assert_int_equal(run(f, b, BLOCK_READ, 1024, sizeof(buf), buf), 0);
    assert_int_equal(buf[0], 0xaa);
    assert_int_equal(buf[512], 4);
    block_free(b);
}

TEST_F(zeroed_and_discarded_blocks_read_as_zeros)
{
    struct block *b = open_it(f, false, false);
    uint8_t buf[1536];

    assert_int_equal(run(f, b, BLOCK_WRITE_ZEROES, 1024, 512, NULL), 0);
    assert_int_equal(run(f, b, BLOCK_DISCARD, 4096, 4096, NULL), 0);
    assert_int_equal(run(f, b, BLOCK_READ, 512, sizeof(buf), buf), 0);
    assert_int_equal(buf[0], 2);
    assert_int_equal(buf[512], 0);
    assert_int_equal(buf[1024], 4);
    assert_int_equal(b->size, BYTES);
    block_free(b);
}

TEST_F(ranges_outside_the_disk_fail)
{
    struct block *b = open_it(f, false, false);
    uint8_t buf[512];

    assert_int_equal(run(f, b, BLOCK_READ, BYTES, 512, buf), EINVAL);
    assert_int_equal(run(f, b, BLOCK_WRITE, UINT64_MAX - 511, 512, buf), EINVAL);
    block_free(b);
}

TEST_F(file_that_shrinks_reads_as_zeros)
{
    struct block *b = open_it(f, true, false);
    uint8_t buf[1024];

    assert_int_equal(truncate(f->path, BYTES - 512), 0);
    assert_int_equal(run(f, b, BLOCK_READ, BYTES - 1024, 1024, buf), 0);
    assert_int_equal(buf[0], 39);
    assert_int_equal(buf[512], 0);
    block_free(b);
}

TEST_F(read_only_disk_refuses_writes)
{
    struct block *b = open_it(f, true, false);
    uint8_t buf[512] = {0};

    assert_true(b->read_only);
    assert_int_equal(run(f, b, BLOCK_WRITE, 0, 512, buf), EROFS);
    assert_int_equal(run(f, b, BLOCK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(on_host(f, 0), 1);
    block_free(b);
}

TEST_F(snapshot_keeps_the_file_as_it_was)
{
    struct block *b = open_it(f, false, true);
    uint8_t buf[BYTES];

    memset(buf, 0xbb, sizeof(buf));
    assert_int_equal(run(f, b, BLOCK_WRITE, 3584, 1024, buf), 0);
    assert_int_equal(run(f, b, BLOCK_WRITE, 8192, 4096, buf), 0);
    assert_int_equal(run(f, b, BLOCK_WRITE, BYTES - 512, 512, buf), 0);
    assert_int_equal(run(f, b, BLOCK_WRITE_ZEROES, 512, 512, NULL), 0);
    assert_int_equal(run(f, b, BLOCK_DISCARD, 8704, 512, NULL), 0);
    assert_int_equal(run(f, b, BLOCK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(run(f, b, BLOCK_READ, 0, BYTES, buf), 0);
    assert_int_equal(buf[0], 1);
    assert_int_equal(buf[512], 0);
    assert_int_equal(buf[1024], 3);
    assert_int_equal(buf[3583], 7);
    assert_int_equal(buf[3584], 0xbb);
    assert_int_equal(buf[4607], 0xbb);
    assert_int_equal(buf[4608], 10);
    assert_int_equal(buf[8192], 0xbb);
    assert_int_equal(buf[8704], 0);
    assert_int_equal(buf[9216], 0xbb);
    assert_int_equal(buf[12288], 25);
    assert_int_equal(buf[BYTES - 513], 39);
    assert_int_equal(buf[BYTES - 1], 0xbb);
    assert_int_equal(on_host(f, 3584), 8);
    assert_int_equal(on_host(f, 8192), 17);
    block_free(b);
}

TEST_F(image_has_one_writer)
{
    struct block *b = open_it(f, false, false);

    assert_null(open_it(f, false, false));
    assert_non_null(strstr(f->err.text, "in use by another VM"));
    assert_null(open_it(f, true, false));
    assert_non_null(strstr(f->err.text, "being written by another VM"));
    block_free(b);
}

TEST_F(image_has_many_readers)
{
    struct block *a = open_it(f, true, false), *b = open_it(f, false, true);

    assert_non_null(a);
    assert_non_null(b);
    assert_null(open_it(f, false, false));
    block_free(a);
    block_free(b);
}

TEST_F(wrong_files_get_a_sentence)
{
    assert_int_equal(truncate(f->path, 1000), 0);
    assert_null(open_it(f, false, false));
    assert_non_null(strstr(f->err.text, "1000 bytes"));
    assert_int_equal(truncate(f->path, 0), 0);
    assert_null(open_it(f, false, false));
    assert_null(block_raw_open(&f->tv->vm, "/tmp", true, false, &f->err));
    assert_non_null(strstr(f->err.text, "neither a file nor a block device"));
    assert_null(block_raw_open(&f->tv->vm, "/nonexistent/disk", false, false, &f->err));
    assert_non_null(strstr(f->err.text, "cannot open"));
}

TEST_F(requests_end_in_order_even_when_freed)
{
    struct block *b = open_it(f, false, false);
    struct block_req reqs[3];
    uint8_t buf[512] = {0x77};

    for (unsigned i = 0; i < 3; i++) {
        reqs[i] = (struct block_req){.op = BLOCK_WRITE,
                                     .offset = i * 512,
                                     .len = 512,
                                     .buf = buf,
                                     .done = count,
                                     .opaque = f};
        block_submit(b, &reqs[i]);
        testvm_advance(f->tv, LATENCY / 2);
    }
    assert_int_equal(f->done, 2);
    block_free(b);
    assert_int_equal(f->done, 3);
    assert_int_equal(reqs[2].error, ECANCELED);
    assert_int_equal(on_host(f, 1024), 0x77);
}

/* ---- with a loop and a real clock: the worker thread ---- */

TEST_F(worker_does_it_and_the_loop_tells)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    struct vm_config config = {
        .name = "raw", .ram_bytes = 4096, .clock = CLOCK_REAL, .with_loop = true};
    struct block_req reqs[2];
    uint8_t in[512], out[512];
    struct block *b;

    assert_int_equal(vm_init(vm, &config, &f->err), 0);
    b = block_raw_open(vm, f->path, false, false, &f->err);
    assert_non_null(b);
    memset(out, 0x5a, sizeof(out));
    reqs[0] = (struct block_req){
        .op = BLOCK_WRITE, .offset = 512, .len = 512, .buf = out, .done = count, .opaque = f};
    reqs[1] = (struct block_req){
        .op = BLOCK_READ, .offset = 512, .len = 512, .buf = in, .done = count, .opaque = f};
    block_submit(b, &reqs[0]);
    block_submit(b, &reqs[1]);
    while (f->done < 2)
        loop_once(vm->loop, -1);
    assert_memory_equal(in, out, sizeof(in));
    block_submit(b, &reqs[0]);
    block_free(b);
    assert_int_equal(f->done, 3);
    vm_fini(vm);
    free(vm);
}
