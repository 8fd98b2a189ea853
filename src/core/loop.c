/* SPDX-License-Identifier: Apache-2.0 */
#include "core/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "core/vm.h"

struct loop_fd {
    int fd; /* -1: deleted, freed when no event of this turn can name it */
    void (*fn)(void *opaque, unsigned ready);
    void *opaque;
    struct loop_fd *next;
};

struct loop {
    struct vm *vm;
    int epoll, wake, timer;
    struct loop_fd *fds;
    pthread_mutex_t lock; /* leaf: the work queue */
    /*
     * Leaf: from reading the earliest deadline to setting the host timer. Without it a slow setter could
     * overwrite the deadline that another thread (a local APIC's) has armed meanwhile.
     */
    pthread_mutex_t arm_lock;
    struct loop_work *head, **tail;
    _Atomic bool quit;
};

/* Arms the host timer for the earliest guest deadline. Called from any thread that arms a timer. */
static void loop_arm(void *opaque)
{
    struct loop *loop = opaque;
    struct itimerspec its = {0};
    int64_t next;

    /* With a virtual clock the vCPU runs the timers, and host time means nothing. */
    if (clock_mode(loop->vm->clock) != CLOCK_REAL)
        return;
    pthread_mutex_lock(&loop->arm_lock);
    next = clock_next_deadline(loop->vm->clock);
    if (next != TIMER_NEVER) {
        int64_t in = next - clock_now(loop->vm->clock);

        if (in < 1)
            in = 1;
        its.it_value.tv_sec = in / NS_PER_SEC;
        its.it_value.tv_nsec = in % NS_PER_SEC;
    }
    timerfd_settime(loop->timer, 0, &its, NULL);
    pthread_mutex_unlock(&loop->arm_lock);
}

static int epoll_add(int epoll, int fd, uint32_t events, void *ptr)
{
    struct epoll_event ev = {.events = events, .data.ptr = ptr};

    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev);
}

struct loop *loop_new(struct vm *vm, struct err *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));

    if (!loop) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    loop->vm = vm;
    loop->tail = &loop->head;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_mutex_init(&loop->arm_lock, NULL);
    loop->epoll = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->epoll < 0 || loop->wake < 0 || loop->timer < 0 ||
        epoll_add(loop->epoll, loop->wake, EPOLLIN, &loop->wake) ||
        epoll_add(loop->epoll, loop->timer, EPOLLIN, &loop->timer)) {
        err_set(err, errno, "cannot make the event loop: %s", strerror(errno));
        loop_free(loop);
        return NULL;
    }
    clock_set_notify(vm->clock, loop_arm, loop);
    return loop;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    clock_set_notify(loop->vm->clock, NULL, NULL);
    while (loop->fds) {
        struct loop_fd *next = loop->fds->next;

        free(loop->fds);
        loop->fds = next;
    }
    if (loop->epoll >= 0)
        close(loop->epoll);
    if (loop->wake >= 0)
        close(loop->wake);
    if (loop->timer >= 0)
        close(loop->timer);
    pthread_mutex_destroy(&loop->arm_lock);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

static uint32_t to_epoll(unsigned events)
{
    return (events & LOOP_IN ? EPOLLIN : 0) | (events & LOOP_OUT ? EPOLLOUT : 0);
}

static struct loop_fd *find_fd(struct loop *loop, int fd)
{
    struct loop_fd *f = loop->fds;

    while (f && f->fd != fd)
        f = f->next;
    return f;
}

int loop_add_fd(struct loop *loop, int fd, unsigned events, void (*fn)(void *opaque, unsigned ready),
                void *opaque)
{
    struct loop_fd *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    *f = (struct loop_fd){.fd = fd, .fn = fn, .opaque = opaque, .next = loop->fds};
    if (epoll_add(loop->epoll, fd, to_epoll(events), f)) {
        int ret = -errno;

        free(f);
        return ret;
    }
    loop->fds = f;
    return 0;
}

void loop_mod_fd(struct loop *loop, int fd, unsigned events)
{
    struct epoll_event ev = {.events = to_epoll(events), .data.ptr = find_fd(loop, fd)};

    if (ev.data.ptr)
        epoll_ctl(loop->epoll, EPOLL_CTL_MOD, fd, &ev);
}

void loop_del_fd(struct loop *loop, int fd)
{
    struct loop_fd *f = find_fd(loop, fd);

    if (!f)
        return;
    epoll_ctl(loop->epoll, EPOLL_CTL_DEL, fd, NULL);
    f->fd = -1;
}

void loop_post(struct loop *loop, struct loop_work *work)
{
    uint64_t one = 1;
    bool queued;

    pthread_mutex_lock(&loop->lock);
    queued = work->queued;
    if (!queued) {
        work->queued = true;
        work->next = NULL;
        *loop->tail = work;
        loop->tail = &work->next;
    }
    pthread_mutex_unlock(&loop->lock);
    /* A full eventfd is already readable: nothing is lost. */
    if (!queued && write(loop->wake, &one, sizeof(one)) < 0)
        return;
}

void loop_cancel(struct loop *loop, struct loop_work *work)
{
    struct loop_work **p;

    pthread_mutex_lock(&loop->lock);
    for (p = &loop->head; *p && *p != work; p = &(*p)->next)
        ;
    if (*p) {
        *p = work->next;
        if (loop->tail == &work->next)
            loop->tail = p;
        work->queued = false;
    }
    pthread_mutex_unlock(&loop->lock);
}

static void run_posted(struct loop *loop)
{
    struct loop_work *work;
    uint64_t count;

    if (read(loop->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    for (;;) {
        pthread_mutex_lock(&loop->lock);
        work = loop->head;
        if (work) {
            loop->head = work->next;
            if (!loop->head)
                loop->tail = &loop->head;
            work->queued = false;
        }
        pthread_mutex_unlock(&loop->lock);
        if (!work)
            return;
        work->fn(work->opaque);
    }
}

static void run_timers(struct loop *loop)
{
    uint64_t count;

    if (read(loop->timer, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return;
    if (clock_mode(loop->vm->clock) == CLOCK_REAL)
        clock_run_timers(loop->vm->clock);
    loop_arm(loop);
}

static void sweep_fds(struct loop *loop)
{
    struct loop_fd **p = &loop->fds;

    while (*p) {
        struct loop_fd *f = *p;

        if (f->fd < 0) {
            *p = f->next;
            free(f);
        } else {
            p = &f->next;
        }
    }
}

void loop_once(struct loop *loop, int timeout_ms)
{
    struct epoll_event events[32];
    int n = epoll_wait(loop->epoll, events, ARRAY_LEN(events), timeout_ms);

    if (n <= 0)
        return;
    vm_lock(loop->vm);
    for (int i = 0; i < n; i++) {
        struct loop_fd *f = events[i].data.ptr;
        uint32_t ev = events[i].events;

        if (events[i].data.ptr == &loop->wake) {
            run_posted(loop);
        } else if (events[i].data.ptr == &loop->timer) {
            run_timers(loop);
        } else if (f->fd >= 0) {
            /* Hang-ups and errors are seen by reading or writing. */
            f->fn(f->opaque, (ev & (EPOLLIN | EPOLLHUP | EPOLLERR) ? LOOP_IN : 0) |
                                 (ev & (EPOLLOUT | EPOLLHUP | EPOLLERR) ? LOOP_OUT : 0));
        }
    }
    sweep_fds(loop);
    vm_unlock(loop->vm);
}

void loop_run(struct loop *loop)
{
    while (!atomic_load(&loop->quit))
        loop_once(loop, -1);
}

void loop_quit(struct loop *loop)
{
    uint64_t one = 1;

    atomic_store(&loop->quit, true);
    if (write(loop->wake, &one, sizeof(one)) < 0)
        return;
}
