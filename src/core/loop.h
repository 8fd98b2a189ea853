/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The main loop: file descriptors, the clock's host timer, and work posted by other threads. Callbacks
 * run in the main thread with the machine lock held and must not block.
 */
#ifndef CORE_LOOP_H
#define CORE_LOOP_H

#include "base/err.h"
#include "base/types.h"

struct vm;
struct loop;

struct loop_work { /* embedded by the poster; may be posted again once it has run */
    void (*fn)(void *opaque);
    void *opaque;
    struct loop_work *next;
    bool queued;
};

struct loop *loop_new(struct vm *vm, struct err *err);
void loop_free(struct loop *loop);

#define LOOP_IN 1u
#define LOOP_OUT 2u

/* Calls fn when fd is ready for any of `events`; one registration per fd. */
int loop_add_fd(struct loop *loop, int fd, unsigned events, void (*fn)(void *opaque, unsigned ready),
                void *opaque);
void loop_mod_fd(struct loop *loop, int fd, unsigned events);
void loop_del_fd(struct loop *loop, int fd);

/* From any thread: run work->fn in the loop, soon. Posting queued work again does nothing. */
void loop_post(struct loop *loop, struct loop_work *work);
/* Takes it back if it has not run yet: before the memory it is in is freed. Machine lock held, or no loop running. */
void loop_cancel(struct loop *loop, struct loop_work *work);

/* Runs until loop_quit. */
void loop_run(struct loop *loop);
/* One turn, waiting at most timeout_ms (-1: until something happens). */
void loop_once(struct loop *loop, int timeout_ms);
void loop_quit(struct loop *loop);

#endif
