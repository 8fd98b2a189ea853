/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded buffer of generated host code, and calls into it that survive the faults they expect.
 * Knows nothing of guests.
 *
 * W^X: the buffer is shared memory mapped twice, once writable and once executable; where the host
 * refuses that, one mapping is switched between the two by mprotect. Only the owner's thread runs
 * its code.
 */
#ifndef ENGINE_INTERP_HOSTCODE_H
#define ENGINE_INTERP_HOSTCODE_H

#include "base/err.h"
#include "base/types.h"

/*
 * A function in the buffer. If the instruction at `at` faults, the host goes on at `fault` with the
 * same registers, but RAX = trap number + 1. The code there returns that.
 */
struct hostcode_fn {
    uint64_t (*entry)(void *a, void *b);
    const uint8_t *at, *fault;
};

struct hostcode {
    uint8_t *rw, *rx;
    size_t size, used;
    bool toggled; /* rw == rx, switched by mprotect */
    const struct hostcode_fn *volatile running;
    /*
     * Six pages: absent, present, absent, absent, present, present. Code that is given an address
     * here may take a page fault (trap 14); fault_addr says where.
     */
    uint8_t *guard;
    volatile uintptr_t fault_addr;
    /*
     * For code that is not called by hostcode_call: given the host address of an instruction that
     * faulted, where to go on with the same registers, or 0. Runs in the signal handler.
     */
    uint64_t (*trap)(void *opaque, uint64_t rip);
    void *trap_opaque;
    void *stack; /* alternate signal stack of the thread that runs the code */
    size_t stack_size;
};

/* Address space without access for `size` bytes, whole huge pages if the host likes; or NULL. */
void *hostcode_room(size_t size);
int hostcode_init(struct hostcode *h, size_t size, struct err *err);
void hostcode_fini(struct hostcode *h);

/* Appends code, aligned to 16; its executable address, or NULL when it does not fit (nothing
 * changes). */
const uint8_t *hostcode_add(struct hostcode *h, const uint8_t *code, size_t len);
/* A place of its own for one function that the next call overwrites; NULL if the code is too long.
 */
const uint8_t *hostcode_scratch(struct hostcode *h, const uint8_t *code, size_t len);
/* Forgets everything; nothing may point into the buffer any more. */
void hostcode_reset(struct hostcode *h);

#define HOSTCODE_GUARD_ABSENT  0 /* page numbers: an absent page before the present one ... */
#define HOSTCODE_GUARD_PRESENT 1 /* ... which comes before an absent one */
#define HOSTCODE_GUARD_NONE    2 /* two absent pages */
#define HOSTCODE_GUARD_BOTH    4 /* two present pages */

/*
 * Before this thread runs code of the buffer by other means than hostcode_call. Signals come on the
 * stack of `own`, which no other thread may use.
 */
void hostcode_enter_thread(struct hostcode *h, struct hostcode *own);

/* The host's GS base of this thread, which nothing in C uses. fsgsbase: without a system call. */
void hostcode_set_gs(void *base, bool fsgsbase);

/* 0, or the trap number + 1. */
uint64_t hostcode_call(struct hostcode *h, const struct hostcode_fn *fn, void *a, void *b);

#endif
