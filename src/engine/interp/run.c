/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop and the engine's table. Between blocks the loop looks at whatever may have happened
 * (interp_boundary), at the budget, and for the next block.
 *
 * Instructions are counted when a block has run: by its length, which handlers that leave early
 * correct (block_exit, run_incomplete, run_left_early). A faulting instruction counts as well.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "engine/interp/block.h"
#include "engine/interp/hostcode.h"
#include "engine/interp/int.h"
#include "engine/interp/interp.h"
#include "engine/interp/mode.h"

/* ---- counting ---- */

uint64_t interp_icount(const struct interp *c)
{
    const struct block *b = c->block;

    if (b && c->cur >= b->insns && c->cur < b->insns + b->count)
        return c->s.icount + (uint64_t)(c->cur - b->insns);
    return c->s.icount;
}

void interp_sync_clock(struct interp *c)
{
    if (clock_mode(c->vm->clock) == CLOCK_VIRTUAL)
        clock_set_icount(c->vm->clock, interp_icount(c));
}

void run_incomplete(struct interp *c)
{
    const struct block *b = c->block;

    c->s.icount -= b->count - (uint64_t)(c->cur - b->insns);
}

void run_left_early(struct interp *c)
{
    const struct block *b = c->block;

    c->s.icount -= b->count - (uint64_t)(c->cur - b->insns) - 1;
}

/* ---- the loop ---- */

static hot_inline struct block *next_block(struct interp *c)
{
    struct block_cache *bc = c->blocks;
    struct block *b = jump_cached(c, c->s.rip);

    if (likely(b != NULL) &&
        (likely(!(c->mode & MODE_CS_SEGMENTED)) ||
         c->s.rip + b->bytes - 1 <= min_u64(c->s.seg[SEG_CS].limit, c->rip_mask))) {
        c->block_rip = c->s.rip;
        return b;
    }
    b = block_find(c, false);
    if (b->page2 == BLOCK_NO_PAGE && b->mode != BLOCK_DEAD)
        bc->jump[jump_slot(block_linear(c, c->s.rip))] = b;
    return b;
}

static void run_blocks(struct interp *c)
{
    if (interp_boundary(c))
        return;
    for (;;) {
        bool single = false;
        struct block *b;

        if (interp_boundary_due(c)) {
            if (interp_boundary(c))
                return;
            single = interp_step_due(c);
        }
        if (unlikely(c->stop))
            return;
        if (unlikely(c->s.icount >= c->icount_limit)) {
            c->stop = VCPU_STOP_BUDGET + 1;
            return;
        }
        if (likely(!single)) {
            b = next_block(c);
            single = b->count > c->icount_limit - c->s.icount;
        }
        c->chain = CHAIN_MAX;
        if (unlikely(single))
            b = block_find(c, true);
        if (unlikely(single || (c->mode & MODE_CS_SEGMENTED)))
            c->chain = 0;
        c->block = b;
        b->insns[0].fn(c, b->insns);
        c->s.icount += c->block->count; /* the last of a chain */
    }
}

void interp_run_found(struct interp *c, struct block *b)
{
    c->chain = 0;
    c->block = b;
    b->insns[0].fn(c, b->insns);
    c->s.icount += b->count;
}

struct block *interp_run_block(struct interp *c, bool single)
{
    struct block *b = single ? block_find(c, true) : next_block(c);

    interp_run_found(c, b);
    return b;
}

/* What a handler or a fetch raised is delivered. */
void interp_raised(struct interp *c)
{
    const struct block *b = c->block;

    if (c->exclusive) {
        c->exclusive = 0;
        vcpu_exclusive_end(c->vcpu);
    }
    /* The faulting instruction counts, and one that could not be fetched. */
    if (c->cur == &block_fetch_insn)
        c->s.icount++;
    else if (b && c->cur >= b->insns && c->cur < b->insns + b->count)
        c->s.icount += (uint64_t)(c->cur - b->insns) + 1;
    c->s.rip = interp_rip(c);
    c->block = NULL;
    interp_deliver_raised(c);
}

void interp_run_begin(struct interp *c, uint64_t budget, sigjmp_buf *raise_to)
{
    vm_quiescent(c->vcpu);
    c->stop = 0;
    c->block = NULL;
    c->icount_limit = c->s.icount + min_u64(budget, UINT64_MAX - c->s.icount);
    c->raise_to = raise_to;
}

enum vcpu_stop interp_run_end(struct interp *c)
{
    c->block = NULL;
    c->raise_to = NULL;
    interp_sync_clock(c);
    return (enum vcpu_stop)(c->stop - 1);
}

static enum vcpu_stop interp_run(struct vcpu *vcpu, uint64_t budget)
{
    struct interp *const c = interp_of(vcpu);
    sigjmp_buf raise_to;

    interp_run_begin(c, budget, &raise_to);
    if (sigsetjmp(raise_to, 0))
        interp_raised(c);
    run_blocks(c);
    return interp_run_end(c);
}

static uint64_t interp_tsc_offset(struct vcpu *vcpu)
{
    return interp_of(vcpu)->s.tsc_offset;
}

#define BLOCK_BYTES_DEFAULT (64u << 20)

/* ---- the engine ---- */

int interp_vm_create(struct vm *vm, size_t size, struct err *err)
{
    struct interp_vm *iv;

    if (!(vm->host & HOST_LAHF))
        return err_set(err, ENOTSUP, "this host's CPU has no LAHF in 64-bit programs");
    iv = calloc(1, max_u64(size, sizeof(*iv)));
    if (iv) {
        iv->pages = vm->ram.size >> PAGE_SHIFT;
        iv->granules = calloc(iv->pages + 1, sizeof(*iv->granules));
    }
    if (!iv || !iv->granules) {
        free(iv);
        return err_set(err, ENOMEM, "not enough memory for the interpreter's page marks");
    }
    vm->engine_data = iv;
    return 0;
}

static int interp_vm_init(struct vm *vm, struct err *err)
{
    return interp_vm_create(vm, 0, err);
}

void interp_vm_fini(struct vm *vm)
{
    struct interp_vm *iv = vm->engine_data;

    if (iv)
        free(iv->granules);
    free(iv);
    vm->engine_data = NULL;
}

static size_t vcpu_bytes(size_t size)
{
    return align_up(max_u64(size, sizeof(struct interp)), PAGE_SIZE);
}

void interp_destroy(struct vcpu *vcpu, size_t size)
{
    struct interp *c = vcpu->engine;

    if (!c)
        return;
    thunks_fini(c);
    blocks_fini(c);
    munmap(c, vcpu_bytes(size));
    vcpu->engine = NULL;
}

static void interp_vcpu_fini(struct vcpu *vcpu)
{
    interp_destroy(vcpu, 0);
}

static void interp_msr_changed(void *opaque)
{
    interp_mode_changed(opaque);
}

/* Zeroed memory, of huge pages if the host likes: tables all over it are in use. NULL: none. */
static void *map_huge(size_t size)
{
    void *p = hostcode_room(size);

    if (!p || mprotect(p, size, PROT_READ | PROT_WRITE))
        return NULL;
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

int interp_create(struct vcpu *vcpu, size_t size, size_t block_bytes, struct err *err)
{
    struct interp *c;
    int r;

    size = vcpu_bytes(size);
    c = map_huge(size);
    if (!c)
        return err_set(err, ENOMEM, "cannot get memory for a vCPU: %s", strerror(errno));
    c->vcpu = vcpu;
    c->vm = vcpu->vm;
    c->code_gen = c->vm->ram.code_gen;
    vcpu->engine = c;
    r = blocks_init(c, block_bytes, err);
    if (r == 0)
        r = thunks_init(c, err);
    if (r < 0) {
        interp_destroy(vcpu, size);
        return r;
    }
    tlb_flush(c, true);
    cpu_state_reset(&c->s, vcpu->index == 0, vcpu->model->signature);
    c->aflags = rflags_to_aflags(c->s.rflags);
    interp_mode_changed(c);
    c->msrs =
        (struct cpu_msrs){.vcpu = vcpu, .cs = &c->s, .changed = interp_msr_changed, .opaque = c};
    cpu_msrs_attach(&c->msrs);
    return 0;
}

static int interp_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    return interp_create(vcpu, 0, BLOCK_BYTES_DEFAULT, err);
}

/* vcpu->pending is looked at before every block; a vCPU that sleeps is woken by whoever posts. */
static void interp_kick(struct vcpu *vcpu)
{
    (void)vcpu;
}

static void interp_get(struct vcpu *vcpu, struct cpu_state *cs)
{
    const struct interp *c = interp_of(vcpu);

    *cs = c->s;
    cs->rflags = flags_get(c);
}

static void interp_set(struct vcpu *vcpu, const struct cpu_state *cs)
{
    struct interp *c = interp_of(vcpu);

    c->s = *cs;
    c->ferr = c->upper = 1;
    flags_set(c, cs->rflags);
    tlb_flush(c, true);
    interp_mode_changed(c);
    interp_events_loaded(c);
}

static unsigned interp_last_exceptions(struct vcpu *vcpu, struct cpu_exception *out, unsigned max)
{
    const struct interp *c = interp_of(vcpu);
    unsigned kept = ARRAY_LEN(c->last_exc), have = c->last_exc_n < kept ? c->last_exc_n : kept;
    unsigned n = have < max ? have : max;

    for (unsigned i = 0; i < n; i++) {
        unsigned at = (c->last_exc_n - 1 - i) % kept;

        out[i] = (struct cpu_exception){.rip = c->last_exc[at].rip,
                                        .cr2 = c->last_exc[at].cr2,
                                        .icount = c->last_exc[at].icount,
                                        .error = c->last_exc[at].error,
                                        .vector = c->last_exc[at].vector,
                                        .has_error = c->last_exc[at].has_error};
    }
    return n;
}

const struct engine engine_interp = {
    .name = "interp",
    .vm_init = interp_vm_init,
    .vm_fini = interp_vm_fini,
    .vcpu_init = interp_vcpu_init,
    .vcpu_fini = interp_vcpu_fini,
    .run = interp_run,
    .kick = interp_kick,
    .get = interp_get,
    .set = interp_set,
    .tsc_offset = interp_tsc_offset,
    .slot_changed = interp_slot_changed,
    .ram_written = interp_ram_written,
    .last_exceptions = interp_last_exceptions,
};
