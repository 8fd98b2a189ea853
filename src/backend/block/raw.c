/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw disk images: byte n of the disk is byte n of the file, or of the block device.
 *
 * With a real clock each disk has a worker thread that takes requests in order; what it has
 * finished comes back through loop_post. Requests never overtake each other, so a write from before
 * a reset can not land on top of one from after it. With a virtual or manual clock a request is
 * done at once and told by a timer RAW_LATENCY_NS later: two runs see the same completions at the
 * same VM times.
 *
 * A snapshot keeps what the guest writes in an unlinked, sparse file, and a bit per 4 KiB cluster
 * that says which of the two files has it.
 *
 * The image is locked (open file description locks): by one writer, or by any number of readers.
 * The device has checked offsets and lengths; a file that shrinks under us reads as zeros past its
 * end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "base/bytes.h"
#include "core/vm.h"

#define RAW_SECTOR     512u
#define RAW_LATENCY_NS 100000 /* virtual clock: a good solid-state disk */
#define CLUSTER_SHIFT  12
#define CLUSTER        (1u << CLUSTER_SHIFT)
#define ZERO_CHUNK     (64u * 1024)

struct raw_queue {
    struct block_req *head, **tail;
};

struct raw {
    struct block block;
    struct vm *vm; /* borrowed */
    int fd;
    bool is_device;
    /* Snapshot. */
    int overlay;      /* -1: none */
    uint8_t *written; /* a bit per cluster: it is in the overlay */
    uint8_t cluster[CLUSTER];

    /* Virtual clock: done, told when the timer rings. */
    struct timer timer;
    struct raw_queue told_later;

    /* Real clock. */
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock; /* leaf: the rest */
    pthread_cond_t wake;
    struct raw_queue todo, done;
    bool quit;
    struct loop_work work;
};

static const uint8_t zeros[ZERO_CHUNK];

/* ---- queues ---- */

static void queue_init(struct raw_queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
}

static void queue_put(struct raw_queue *q, struct block_req *req)
{
    req->next = NULL;
    *q->tail = req;
    q->tail = &req->next;
}

static struct block_req *queue_take(struct raw_queue *q)
{
    struct block_req *req = q->head;

    if (!req)
        return NULL;
    q->head = req->next;
    if (!q->head)
        q->tail = &q->head;
    return req;
}

/* ---- whole reads and writes: 0 or a positive errno ---- */

static int read_all(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pread(fd, buf, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0) {
            memset(buf, 0, len);
            return 0;
        }
        buf += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *buf, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pwrite(fd, buf, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? errno : EIO;
        buf += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_zeros(int fd, uint64_t len, uint64_t offset)
{
    int error = 0;

    for (; !error && len; len -= min_u64(len, ZERO_CHUNK), offset += ZERO_CHUNK)
        error = write_all(fd, zeros, min_u64(len, ZERO_CHUNK), offset);
    return error;
}

/* Makes a range read as zeros, giving its space back where the file system can. */
static int zero_range(int fd, bool is_device, uint64_t offset, uint64_t len)
{
    int mode = is_device ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;

    if (!len || !fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len))
        return 0;
    return write_zeros(fd, len, offset);
}

/* ---- the snapshot's overlay ---- */

static bool in_overlay(const struct raw *raw, uint64_t cluster)
{
    return raw->written[cluster / 8] >> cluster % 8 & 1;
}

/* How much of [offset, offset + len) lies in clusters of one kind. */
static uint64_t overlay_run(const struct raw *raw, uint64_t offset, uint64_t len, bool *written)
{
    uint64_t cluster = offset >> CLUSTER_SHIFT, end = (cluster + 1) << CLUSTER_SHIFT;

    *written = in_overlay(raw, cluster);
    while (end < offset + len && in_overlay(raw, end >> CLUSTER_SHIFT) == *written)
        end += CLUSTER;
    return min_u64(len, end - offset);
}

static int overlay_read(struct raw *raw, uint8_t *buf, uint64_t len, uint64_t offset)
{
    int error = 0;

    while (!error && len) {
        bool written;
        uint64_t run = overlay_run(raw, offset, len, &written);

        error = read_all(written ? raw->overlay : raw->fd, buf, run, offset);
        buf += run;
        offset += run;
        len -= run;
    }
    return error;
}

/* The part of a cluster that a write leaves alone comes from below. */
static int overlay_fill(struct raw *raw, uint64_t cluster)
{
    uint64_t offset = cluster << CLUSTER_SHIFT;
    size_t len = (size_t)min_u64(CLUSTER, raw->block.size - offset);
    int error;

    if (in_overlay(raw, cluster))
        return 0;
    error = read_all(raw->fd, raw->cluster, len, offset);
    return error ? error : write_all(raw->overlay, raw->cluster, len, offset);
}

/* Before writing [offset, offset + len): clusters covered in part are filled. */
static int overlay_edges(struct raw *raw, uint64_t offset, uint64_t len)
{
    uint64_t end = offset + len;
    int error = 0;

    if (offset % CLUSTER)
        error = overlay_fill(raw, offset >> CLUSTER_SHIFT);
    if (!error && end % CLUSTER && end != raw->block.size)
        error = overlay_fill(raw, end >> CLUSTER_SHIFT);
    return error;
}

static void overlay_mark(struct raw *raw, uint64_t offset, uint64_t len)
{
    for (uint64_t c = offset >> CLUSTER_SHIFT; len && c <= (offset + len - 1) >> CLUSTER_SHIFT; c++)
        raw->written[c / 8] |= (uint8_t)(1u << c % 8);
}

static int overlay_write(struct raw *raw, const struct block_req *req)
{
    int error = overlay_edges(raw, req->offset, req->len);

    if (error)
        return error;
    error = req->op == BLOCK_WRITE ? write_all(raw->overlay, req->buf, req->len, req->offset)
                                   : zero_range(raw->overlay, false, req->offset, req->len);
    if (!error)
        overlay_mark(raw, req->offset, req->len);
    return error;
}

/* ---- one request ---- */

static int perform(struct raw *raw, const struct block_req *req)
{
    bool snapshot = raw->overlay >= 0;

    if (req->op == BLOCK_FLUSH)
        return !snapshot && !raw->block.read_only && fdatasync(raw->fd) ? errno : 0;
    if (!range_ok(req->offset, req->len, raw->block.size))
        return EINVAL;
    if (req->op == BLOCK_READ)
        return snapshot ? overlay_read(raw, req->buf, req->len, req->offset)
                        : read_all(raw->fd, req->buf, req->len, req->offset);
    if (raw->block.read_only)
        return EROFS;
    if (snapshot)
        return overlay_write(raw, req);
    if (req->op == BLOCK_WRITE)
        return write_all(raw->fd, req->buf, req->len, req->offset);
    /* A hint: where the file system or the device can not, the blocks keep what they have. */
    if (req->op == BLOCK_DISCARD)
        return fallocate(raw->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset,
                         (off_t)req->len) &&
                       errno == EIO
                   ? EIO
                   : 0;
    return zero_range(raw->fd, raw->is_device, req->offset, req->len);
}

static void tell(struct raw *raw, struct block_req *req)
{
    req->error = (int)gate_input(&raw->vm->gate, GATE_COMPLETION, 0, (uint64_t)req->error);
    req->done(req);
}

/* ---- virtual clock ---- */

/* All requests wait equally long, so they end in the order they came in. */
static void raw_rings(void *opaque)
{
    struct raw *raw = opaque;
    int64_t now = clock_now(raw->vm->clock);

    while (raw->told_later.head && raw->told_later.head->due <= now)
        tell(raw, queue_take(&raw->told_later));
    if (raw->told_later.head && !timer_armed(&raw->timer))
        timer_arm(&raw->timer, raw->told_later.head->due);
}

static void submit_now(struct raw *raw, struct block_req *req)
{
    req->error = perform(raw, req);
    req->due = clock_now(raw->vm->clock) + RAW_LATENCY_NS;
    queue_put(&raw->told_later, req);
    if (!timer_armed(&raw->timer))
        timer_arm(&raw->timer, raw->told_later.head->due);
}

/* ---- the worker ---- */

static void raw_completed(void *opaque)
{
    struct raw *raw = opaque;
    struct raw_queue done;

    pthread_mutex_lock(&raw->lock);
    done = raw->done;
    if (!done.head)
        done.tail = &done.head;
    queue_init(&raw->done);
    pthread_mutex_unlock(&raw->lock);
    while (done.head) {
        struct block_req *req = done.head;

        done.head = req->next;
        tell(raw, req);
    }
}

static void *raw_worker(void *opaque)
{
    struct raw *raw = opaque;
    struct vm *vm = raw->vm;
    struct block_req *req;
    bool started = false;

    pthread_mutex_lock(&raw->lock);
    for (;;) {
        req = queue_take(&raw->todo);
        if (!req && raw->quit)
            break;
        if (!req) {
            pthread_cond_wait(&raw->wake, &raw->lock);
            continue;
        }
        pthread_mutex_unlock(&raw->lock);
        /* We run before the VM is ready to be told: its first request says that it is. */
        if (!started && vm->thread_started)
            vm->thread_started(vm->thread_opaque, VM_THREAD_WORKER);
        started = true;
        req->error = perform(raw, req);
        pthread_mutex_lock(&raw->lock);
        queue_put(&raw->done, req);
        pthread_mutex_unlock(&raw->lock);
        loop_post(raw->vm->loop, &raw->work);
        pthread_mutex_lock(&raw->lock);
    }
    pthread_mutex_unlock(&raw->lock);
    return NULL;
}

static void raw_submit(struct block *block, struct block_req *req)
{
    struct raw *raw = (struct raw *)block;

    if (!raw->threaded) {
        submit_now(raw, req);
        return;
    }
    pthread_mutex_lock(&raw->lock);
    queue_put(&raw->todo, req);
    pthread_cond_signal(&raw->wake);
    pthread_mutex_unlock(&raw->lock);
}

/* ---- opening and closing ---- */

static void cancel(struct raw_queue *q)
{
    struct block_req *req;

    while ((req = queue_take(q))) {
        req->error = ECANCELED;
        req->done(req);
    }
}

/* What is queued is still written, for nothing may be lost. */
static void raw_free(struct block *block)
{
    struct raw *raw = (struct raw *)block;

    if (raw->threaded) {
        pthread_mutex_lock(&raw->lock);
        raw->quit = true;
        pthread_cond_signal(&raw->wake);
        pthread_mutex_unlock(&raw->lock);
        pthread_join(raw->thread, NULL);
        loop_cancel(raw->vm->loop, &raw->work);
        pthread_cond_destroy(&raw->wake);
        pthread_mutex_destroy(&raw->lock);
    }
    timer_disarm(&raw->timer);
    cancel(&raw->done);
    cancel(&raw->told_later);
    if (raw->overlay >= 0)
        close(raw->overlay);
    if (raw->fd >= 0)
        close(raw->fd);
    free(raw->written);
    free(raw->block.path);
    free(raw);
}

void block_free(struct block *block)
{
    if (block)
        block->ops->free(block);
}

static const struct block_ops raw_ops = {.submit = raw_submit, .free = raw_free};

static int open_file(struct raw *raw, const char *path, bool write, struct err *err)
{
    raw->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    if (raw->fd >= 0)
        return 0;
    if (write && (errno == EACCES || errno == EROFS || errno == EPERM))
        return err_set(
            err, errno,
            "the disk image %s can not be written (%s): make it writable, or add 'ro' or "
            "'snapshot'",
            path, strerror(errno));
    return err_set(err, errno, "cannot open the disk image %s: %s", path, strerror(errno));
}

static int lock_file(const struct raw *raw, const char *path, bool write, struct err *err)
{
    struct flock lock = {.l_type = write ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};

    if (!fcntl(raw->fd, F_OFD_SETLK, &lock) || (errno != EAGAIN && errno != EACCES))
        return 0; /* a file system without locks is used without */
    if (write)
        return err_set(err, EBUSY,
                       "the disk image %s is in use by another VM: stop that one, or add 'ro' or "
                       "'snapshot' to both",
                       path);
    return err_set(err, EBUSY,
                   "the disk image %s is being written by another VM: stop that one first", path);
}

static int find_size(struct raw *raw, const char *path, struct err *err)
{
    struct stat st;
    off_t end;

    if (fstat(raw->fd, &st))
        return err_set(err, errno, "cannot look at the disk image %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(err, EINVAL, "%s is neither a file nor a block device: give a disk image",
                       path);
    raw->is_device = S_ISBLK(st.st_mode);
    end = lseek(raw->fd, 0, SEEK_END);
    if (end < 0)
        return err_set(err, errno, "cannot find the size of %s: %s", path, strerror(errno));
    if (end == 0 || end % RAW_SECTOR)
        return err_set(
            err, EINVAL,
            "the disk image %s has %lld bytes: a disk is a multiple of 512 and not empty "
            "(truncate -s makes it so)",
            path, (long long)end);
    raw->block.size = (uint64_t)end;
    return 0;
}

static int open_overlay(struct raw *raw, struct err *err)
{
    const char *dir = getenv("TMPDIR");
    uint64_t clusters = (raw->block.size + CLUSTER - 1) >> CLUSTER_SHIFT;
    char name[4096];

    if (!dir || !*dir)
        dir = "/var/tmp";
    raw->overlay = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (raw->overlay < 0) {
        snprintf(name, sizeof(name), "%s/doppel-XXXXXX", dir);
        raw->overlay = mkostemp(name, O_CLOEXEC);
        if (raw->overlay >= 0)
            unlink(name);
    }
    if (raw->overlay < 0 || ftruncate(raw->overlay, (off_t)raw->block.size))
        return err_set(err, errno,
                       "cannot make a temporary file for the snapshot in %s (%s): set TMPDIR to "
                       "another directory",
                       dir, strerror(errno));
    raw->written = calloc(1, (clusters + 7) / 8);
    if (!raw->written)
        return err_set(err, ENOMEM, "out of memory for a snapshot of %s", raw->block.path);
    return 0;
}

static int start_worker(struct raw *raw, struct err *err)
{
    int ret;

    pthread_mutex_init(&raw->lock, NULL);
    pthread_cond_init(&raw->wake, NULL);
    ret = pthread_create(&raw->thread, NULL, raw_worker, raw);
    if (!ret) {
        raw->threaded = true;
        return 0;
    }
    pthread_cond_destroy(&raw->wake);
    pthread_mutex_destroy(&raw->lock);
    return err_set(err, ret, "cannot start a thread for the disk: %s", strerror(ret));
}

struct block *block_raw_open(struct vm *vm, const char *path, bool ro, bool snapshot,
                             struct err *err)
{
    struct raw *raw = calloc(1, sizeof(*raw));
    bool write = !ro && !snapshot;

    if (!raw) {
        err_set(err, ENOMEM, "out of memory opening %s", path);
        return NULL;
    }
    raw->vm = vm;
    raw->fd = raw->overlay = -1;
    raw->block.ops = &raw_ops;
    raw->block.read_only = ro;
    raw->work = (struct loop_work){.fn = raw_completed, .opaque = raw};
    queue_init(&raw->told_later);
    queue_init(&raw->todo);
    queue_init(&raw->done);
    timer_init(&raw->timer, vm->clock, "block", raw_rings, raw);
    raw->block.path = strdup(path);
    if (!raw->block.path) {
        err_set(err, ENOMEM, "out of memory opening %s", path);
        goto fail;
    }
    if (open_file(raw, path, write, err) || find_size(raw, path, err) ||
        lock_file(raw, path, write, err))
        goto fail;
    if (snapshot && !ro && open_overlay(raw, err))
        goto fail;
    /* The worker tells the loop; without one (tests), or with a clock that is not the host's, a
     * timer does. */
    if (vm->loop && clock_mode(vm->clock) == CLOCK_REAL && start_worker(raw, err))
        goto fail;
    return &raw->block;

fail:
    raw_free(&raw->block);
    return NULL;
}
