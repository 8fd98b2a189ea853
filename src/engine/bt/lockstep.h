/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine `lockstep`: interpreter and translator run the same code of one vCPU, block by block,
 * and the first difference ends the VM with a report on standard error (MACHINE_EXIT_DIFFERENCE).
 *
 * A block is translated at once and is never linked, so that it comes back here at its first exit.
 * First the interpreter runs it, one instruction at a time, until the block's last instruction, a
 * branch that is taken, or an exception; then everything it changed is taken back, the translation
 * runs, and both results are compared: every byte of struct cpu_state, the arithmetic flags that
 * the translator says are live, the exception, and RAM.
 *
 * RAM. No page has a write tag when either of them starts, so that the first store to a page is
 * seen (interp_listener.writing) and the page copied. After the interpreter's run the written pages
 * are copied once more and put back.
 *
 * What can not be done twice (devices, time, random numbers, the MSRs and control registers behind
 * which there is more than struct cpu_state) is run by the interpreter alone; the block is cut
 * there, and the translator makes a shorter one (bt_vcpu.cap). So is code that is not translated,
 * an instruction across two pages, and what writes to code.
 *
 * Dead flags go into the translator's next block inverted: who reads them differs.
 *
 * The machine lock is held in between, so that devices do not write to RAM; what their back ends
 * write without it may look like a difference, so that one counts only if it is there three times
 * in a row. Accessed and dirty bits of page tables come and go with the TLB, which both share:
 * words that differ in these bits alone are the same, in supervisor mode.
 */
#ifndef ENGINE_BT_LOCKSTEP_H
#define ENGINE_BT_LOCKSTEP_H

#include "engine/bt/bt.h"

#define LOCKSTEP_PAGES 64 /* written by one block; more: it is not compared */
#define LOCKSTEP_INSNS 64

struct lockstep_page {
    uint32_t ram_page;
    bool by_second; /* the translator alone has written to it */
    uint8_t *host;
    uint8_t before[PAGE_SIZE], after[PAGE_SIZE];
};

/* How a run ended. */
struct lockstep_end {
    struct cpu_state s;
    uint32_t aflags;
    uint64_t mode, key;
    uint8_t cpl;
    bool raised, device; /* device: it was about to touch one, and has not */
    uint8_t vector, has_error, soft;
    uint32_t error;
    uint64_t payload;
    unsigned insns; /* complete ones */
};

enum lockstep_cut {
    CUT_NATURAL, /* the block's end, a taken branch, an exception */
    CUT_BEFORE,  /* at an instruction that can not be done twice */
    CUT_ACCEPT,  /* what it did can not be taken back */
};

/* Where a block of one instruction was last found. */
struct lockstep_single {
    uint64_t rip, flushes; /* flushes: of the interpreter's cache, then */
    struct block *block;
};

#define LOCKSTEP_SINGLES 65536

struct lockstep {
    struct bt_vcpu *v;
    struct interp_listener listener;
    enum { LOCKSTEP_ALONE, LOCKSTEP_FIRST, LOCKSTEP_SECOND } phase;
    sigjmp_buf jump;
    sigjmp_buf *outer;
    bool locked; /* this thread has the machine lock */
    bool over;   /* a difference was found */

    /* Before the block. */
    struct cpu_state s;
    uint32_t aflags;
    uint64_t mode, key, armed_icount;
    uint8_t armed, intr_masked, ferr, exc_ext, event_kind;

    struct lockstep_end a, b; /* of the interpreter, of the translator */
    enum lockstep_cut cut;
    uint64_t trace[LOCKSTEP_INSNS]; /* addresses of the instructions */
    uint16_t live;                  /* the translator's flags that count at its end */
    uint16_t dead;                  /* flags that the translator left behind dead */
    bool overflow, code_written;
    unsigned npages;
    struct lockstep_page page[LOCKSTEP_PAGES];
    unsigned nslots; /* of the TLB, that may have a write tag */
    uint16_t slot[TLB_ENTRIES];
    uint64_t has_slot[TLB_ENTRIES / 64];

    struct lockstep_single single[LOCKSTEP_SINGLES];

    uint64_t blocks, compared, faults, alone, untranslated, unstable;
};

/* Everything there is to say about a difference. Writes to standard error. */
void lockstep_report(struct lockstep *l, const struct bt_block *b);

#endif
