/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VM time: one clock per VM, in nanoseconds since the VM was made. It feeds every guest timer, stops
 * when the VM is paused, and is saved with it. In real mode it runs with the host's monotonic clock; in
 * virtual mode it is derived from the retired-instruction count and nothing else; in manual mode (unit
 * tests, fuzzers) the test moves it.
 *
 * Timers fire from the loop (real mode) or from the vCPU between instructions (virtual mode), always
 * under the machine lock, never before their deadline, in deadline order; a callback may re-arm. Arming
 * and disarming is safe from any thread (a local APIC belongs to its vCPU and holds no lock), but a
 * disarm without the machine lock may meet a callback that has already started.
 */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include "base/types.h"

struct clock;

enum clock_mode { CLOCK_REAL, CLOCK_VIRTUAL, CLOCK_MANUAL };

#define TIMER_NEVER INT64_MAX

struct timer {
    struct clock *clock;
    const char *name;
    void (*fire)(void *opaque);
    void *opaque;
    int64_t deadline; /* VM ns; TIMER_NEVER: not armed */
    struct timer *next; /* sorted by deadline, ties in the order of arming */
};

struct clock *clock_new(enum clock_mode mode);
void clock_free(struct clock *clock);
enum clock_mode clock_mode(const struct clock *clock);

/* VM time in ns, >= 0, never goes back. Callable from any thread. */
int64_t clock_now(struct clock *clock);

/*
 * Host wall-clock time in ns since 1970 as the guest's real-time clock should see it. In virtual mode it
 * is `base + clock_now`, with the base fixed when the clock was made.
 */
int64_t clock_wall(struct clock *clock);
void clock_set_wall_base(struct clock *clock, int64_t ns_since_1970);

void clock_pause(struct clock *clock);
void clock_resume(struct clock *clock);

/* Manual mode: moves time forward by ns, firing what falls due in order. */
void clock_advance(struct clock *clock, int64_t ns);

/*
 * Virtual mode: the vCPU tells how many instructions it has retired in all; one instruction is one ns.
 * clock_warp skips idle time up to the next deadline (HLT); false if nothing is armed.
 */
void clock_set_icount(struct clock *clock, uint64_t icount);
bool clock_warp(struct clock *clock);

/* Sets VM time (loading a snapshot). */
void clock_set(struct clock *clock, int64_t ns);

void timer_init(struct timer *timer, struct clock *clock, const char *name,
                void (*fire)(void *opaque), void *opaque);
void timer_arm(struct timer *timer, int64_t deadline_ns);
void timer_disarm(struct timer *timer);
static inline bool timer_armed(const struct timer *timer)
{
    return timer->deadline != TIMER_NEVER;
}

/* Earliest armed deadline, or TIMER_NEVER. */
int64_t clock_next_deadline(struct clock *clock);
/* Fires every timer due now; the machine lock is held. Returns how many fired. */
unsigned clock_run_timers(struct clock *clock);
/* Called (machine lock held) when the earliest deadline changes, so that the loop re-arms its host timer. */
void clock_set_notify(struct clock *clock, void (*notify)(void *opaque), void *opaque);

#endif
