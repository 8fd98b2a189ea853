/* SPDX-License-Identifier: Apache-2.0 */
#include "core/clock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct clock {
    enum clock_mode mode;
    _Atomic int64_t offset; /* real: host time at VM time 0; virtual and manual: VM time - icount */
    _Atomic int64_t paused_at; /* VM time, or -1 when running (real mode) */
    _Atomic uint64_t icount;
    _Atomic int64_t wall_base; /* wall clock at VM time 0 (virtual, manual) */
    pthread_mutex_t lock;      /* leaf: the timer list. A local APIC arms its timer without the machine lock */
    struct timer *timers;
    void (*notify)(void *opaque);
    void *notify_opaque;
};

static int64_t host_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

struct clock *clock_new(enum clock_mode mode)
{
    struct clock *clock = calloc(1, sizeof(*clock));

    if (!clock)
        return NULL;
    clock->mode = mode;
    pthread_mutex_init(&clock->lock, NULL);
    atomic_store(&clock->paused_at, -1);
    if (mode == CLOCK_REAL)
        atomic_store(&clock->offset, host_ns(CLOCK_MONOTONIC));
    return clock;
}

void clock_free(struct clock *clock)
{
    if (!clock)
        return;
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}

enum clock_mode clock_mode(const struct clock *clock)
{
    return clock->mode;
}

int64_t clock_now(struct clock *clock)
{
    int64_t paused;

    if (clock->mode != CLOCK_REAL)
        return (int64_t)atomic_load_explicit(&clock->icount, memory_order_relaxed) +
               atomic_load_explicit(&clock->offset, memory_order_relaxed);
    paused = atomic_load(&clock->paused_at);
    if (paused >= 0)
        return paused;
    return host_ns(CLOCK_MONOTONIC) - atomic_load(&clock->offset);
}

int64_t clock_wall(struct clock *clock)
{
    if (clock->mode == CLOCK_REAL)
        return host_ns(CLOCK_REALTIME);
    return atomic_load(&clock->wall_base) + clock_now(clock);
}

void clock_set_wall_base(struct clock *clock, int64_t ns_since_1970)
{
    atomic_store(&clock->wall_base, ns_since_1970);
}

void clock_pause(struct clock *clock)
{
    if (clock->mode == CLOCK_REAL && atomic_load(&clock->paused_at) < 0)
        atomic_store(&clock->paused_at, clock_now(clock));
}

static void clock_changed(struct clock *clock)
{
    if (clock->notify)
        clock->notify(clock->notify_opaque);
}

void clock_resume(struct clock *clock)
{
    int64_t paused = atomic_load(&clock->paused_at);

    if (clock->mode != CLOCK_REAL || paused < 0)
        return;
    atomic_store(&clock->offset, host_ns(CLOCK_MONOTONIC) - paused);
    atomic_store(&clock->paused_at, -1);
    clock_changed(clock);
}

void clock_set(struct clock *clock, int64_t ns)
{
    if (clock->mode != CLOCK_REAL)
        atomic_store(&clock->offset, ns - (int64_t)atomic_load(&clock->icount));
    else if (atomic_load(&clock->paused_at) >= 0)
        atomic_store(&clock->paused_at, ns);
    else
        atomic_store(&clock->offset, host_ns(CLOCK_MONOTONIC) - ns);
    clock_changed(clock);
}

void clock_set_icount(struct clock *clock, uint64_t icount)
{
    atomic_store_explicit(&clock->icount, icount, memory_order_relaxed);
}

bool clock_warp(struct clock *clock)
{
    int64_t next = clock_next_deadline(clock);
    int64_t now = clock_now(clock);

    if (next == TIMER_NEVER)
        return false;
    if (next > now)
        atomic_fetch_add(&clock->offset, next - now);
    return true;
}

void clock_advance(struct clock *clock, int64_t ns)
{
    int64_t end = clock_now(clock) + ns;

    for (;;) {
        int64_t next = clock_next_deadline(clock);
        int64_t now = clock_now(clock);

        if (next > end)
            break;
        if (next > now)
            atomic_fetch_add(&clock->offset, next - now);
        clock_run_timers(clock);
    }
    atomic_fetch_add(&clock->offset, end - clock_now(clock));
}

void timer_init(struct timer *timer, struct clock *clock, const char *name,
                void (*fire)(void *opaque), void *opaque)
{
    *timer = (struct timer){
        .clock = clock, .name = name, .fire = fire, .opaque = opaque, .deadline = TIMER_NEVER};
}

/* Takes timer off the list; the clock's lock is held. */
static void timer_unlink(struct timer *timer)
{
    struct timer **p = &timer->clock->timers;

    while (*p && *p != timer)
        p = &(*p)->next;
    if (*p)
        *p = timer->next;
    timer->next = NULL;
    timer->deadline = TIMER_NEVER;
}

void timer_arm(struct timer *timer, int64_t deadline_ns)
{
    struct clock *clock = timer->clock;
    struct timer **p;
    bool first;

    if (deadline_ns == TIMER_NEVER) {
        timer_disarm(timer);
        return;
    }
    pthread_mutex_lock(&clock->lock);
    timer_unlink(timer);
    timer->deadline = deadline_ns;
    for (p = &clock->timers; *p && (*p)->deadline <= deadline_ns;)
        p = &(*p)->next;
    timer->next = *p;
    *p = timer;
    first = clock->timers == timer;
    pthread_mutex_unlock(&clock->lock);
    if (first)
        clock_changed(clock);
}

void timer_disarm(struct timer *timer)
{
    struct clock *clock = timer->clock;

    if (!clock)
        return;
    pthread_mutex_lock(&clock->lock);
    if (timer->deadline != TIMER_NEVER)
        timer_unlink(timer);
    pthread_mutex_unlock(&clock->lock);
}

int64_t clock_next_deadline(struct clock *clock)
{
    int64_t next;

    pthread_mutex_lock(&clock->lock);
    next = clock->timers ? clock->timers->deadline : TIMER_NEVER;
    pthread_mutex_unlock(&clock->lock);
    return next;
}

/*
 * How many timers one call may fire: a guest that arms a timer in the past from its own handler must
 * not keep the loop here for ever. What is left fires in the next turn.
 */
#define CLOCK_FIRE_BUDGET 1000

unsigned clock_run_timers(struct clock *clock)
{
    unsigned fired = 0;

    while (fired < CLOCK_FIRE_BUDGET) {
        int64_t now = clock_now(clock);
        struct timer *timer;
        void (*fire)(void *opaque) = NULL;
        void *opaque = NULL;

        pthread_mutex_lock(&clock->lock);
        timer = clock->timers;
        if (timer && timer->deadline <= now) {
            fire = timer->fire;
            opaque = timer->opaque;
            timer_unlink(timer);
        }
        pthread_mutex_unlock(&clock->lock);
        if (!fire)
            break;
        fire(opaque);
        fired++;
    }
    return fired;
}

void clock_set_notify(struct clock *clock, void (*notify)(void *opaque), void *opaque)
{
    clock->notify = notify;
    clock->notify_opaque = opaque;
}
