/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block cache of one vCPU. A block is a run of decoded instructions in one guest page, found by
 * the physical page it was decoded from, its offset in it, and c->mode. So it serves every linear
 * address that maps the page, and survives address-space switches; what an address maps to is asked
 * of the exec TLB each time a block is entered.
 *
 * Staleness: a block remembers ram->code_gen of its page. When that has moved, the bytes of its
 * instructions are compared with the page before it runs again. So that data which shares a page
 * with code costs no more than the slow store path, the generation moves only when a store hits one
 * of the 64 granules of 64 bytes from which some vCPU has decoded (struct interp_vm).
 */
#ifndef ENGINE_INTERP_BLOCK_H
#define ENGINE_INTERP_BLOCK_H

#include "engine/interp/interp.h"

#define BLOCK_MAX_INSNS 64
#define BLOCK_NO_PAGE   UINT32_MAX
#define BLOCK_DEAD      UINT64_MAX /* mode of a block that must not be entered again */
#define BLOCK_SINGLE    BIT(63)    /* or-ed to mode: one instruction only */

struct block {
    uint64_t mode;
    uint64_t phys;  /* page of the RAM file << 12 | offset; what the fast path compares */
    uint32_t gen;   /* of the page when the bytes were read */
    uint32_t page2; /* the page an instruction runs on into, or BLOCK_NO_PAGE */
    uint32_t gen2;
    uint16_t count; /* instructions, without the closing one */
    uint16_t bytes;
    struct block *hash_next;
    struct block *succ[2]; /* of a direct branch, if in the same page: not taken, taken */
    uint64_t pad;          /* puts each instruction into a cache line of its own */
    struct insn insns[];   /* count + 1: the last one leaves the block */
};

/* The interpreter's data per VM (vm->engine_data), which may be the head of another engine's. */
struct interp_vm {
    /*
     * Bytes in these granules of a page were written while some vCPU had decoded from them: what was
     * made of them is dead. After the page's generation has moved; on any thread. May be NULL.
     */
    void (*code_written)(struct interp_vm *iv, uint32_t ram_page, uint64_t granules);
    _Atomic uint64_t
        *granules; /* per page of the RAM file, a bit per 64 bytes: decoded by some vCPU */
    uint64_t pages;
};

/* vm->engine_data of `size` bytes (0: no more than this), zeroed; fini frees it. */
int interp_vm_create(struct vm *vm, size_t size, struct err *err);
void interp_vm_fini(struct vm *vm);

/* Jump cache: linear address to block, verified on every use. */
#define JUMP_BITS 14
#define HASH_BITS 15

struct block_cache {
    struct block *jump[1u << JUMP_BITS];
    struct block *hash[1u << HASH_BITS];
    uint8_t *arena;
    size_t used, size;
    struct block
        *scratch; /* for one instruction that cannot be cached: fetched from MMIO, cut by a limit */
    uint64_t flushes, decoded; /* for tests and reports */
};

static inline unsigned jump_slot(gva_t lin)
{
    return (unsigned)(lin ^ (lin >> JUMP_BITS)) & ((1u << JUMP_BITS) - 1);
}

/* Linear address of rip in CS. */
static inline gva_t block_linear(const struct interp *c, uint64_t rip)
{
    return likely(c->code64) ? rip : (uint32_t)(c->s.seg[SEG_CS].base + rip);
}

/*
 * Going from block to block without the run loop. The run loop sets c->chain to how many blocks may
 * follow one another, so that builds without tail calls keep a bounded stack, and to 0 where each
 * instruction must be looked at. Only the ends of blocks that change nothing but s.rip chain: so of
 * all that interp_boundary_due asks, only vcpu->pending can have changed since the run loop looked.
 */
#define CHAIN_MAX 32

static hot_inline bool chain_possible(struct interp *c, const struct block *next)
{
    return atomic_load_explicit(&c->vcpu->pending, memory_order_relaxed) == 0 &&
           next->count <= c->icount_limit - c->s.icount;
}

static hot_inline void chain_enter(struct interp *c, struct block *next, uint64_t rip)
{
    c->chain--;
    c->block = next;
    c->block_rip = rip;
    next->insns[0].fn(c, next->insns);
}

/* A block by the jump cache: everything that could have changed since is compared. */
static hot_inline struct block *jump_cached(struct interp *c, uint64_t rip)
{
    struct block_cache *bc = c->blocks;
    gva_t lin = block_linear(c, rip);
    unsigned slot = TLB_SLOT(lin);
    uint32_t page = c->tlb_ram_page[slot];
    struct block *b = bc->jump[jump_slot(lin)];

    if (likely(b && c->tlb[slot].tag[ACCESS_EXEC] == ((lin & ~PAGE_MASK) | c->key) &&
               b->phys == ((uint64_t)page << PAGE_SHIFT | (lin & PAGE_MASK)) &&
               b->mode == c->mode &&
               b->gen == atomic_load_explicit(&c->code_gen[page], memory_order_acquire)))
        return b;
    return NULL;
}

/* The end of a block: go on at rip, which may be anywhere. Not with CS's limit to look at. */
static hot_inline void chain_jump(struct interp *c, uint64_t rip)
{
    struct block *next;

    c->s.rip = rip;
    if (likely(c->chain)) {
        c->s.icount += c->block->count;
        next = jump_cached(c, rip);
        if (likely(next && chain_possible(c, next))) {
            chain_enter(c, next, rip);
            return;
        }
        c->s.icount -= c->block->count;
    }
}

/*
 * The end of a block by a direct branch: the successor is remembered in the block. One in the same
 * page needs no look at the TLB: this block's own entry was checked, and nothing that flushes
 * chains.
 */
static hot_inline void chain_direct(struct interp *c, unsigned which, uint64_t rip)
{
    struct block *b = c->block, *next = b->succ[which];

    c->s.rip = rip;
    if (likely(c->chain)) {
        c->s.icount += b->count;
        if (likely(next)) {
            if (likely(next->gen == atomic_load_explicit(&c->code_gen[next->phys >> PAGE_SHIFT],
                                                         memory_order_acquire) &&
                       next->mode == c->mode && chain_possible(c, next))) {
                chain_enter(c, next, rip);
                return;
            }
        } else {
            next = jump_cached(c, rip);
            if (likely(next && chain_possible(c, next))) {
                if ((next->phys ^ b->phys) < PAGE_SIZE && (rip ^ c->block_rip) < PAGE_SIZE)
                    b->succ[which] = next;
                chain_enter(c, next, rip);
                return;
            }
        }
        c->s.icount -= b->count;
    }
}

/*
 * For who decodes on its own: where code of linear address lin is, its page marked as code; NULL: not
 * RAM. *gen is of before the bytes can be read. Afterwards the granules
 * decoded from are noted, and only then the bytes looked at once more. May raise, and may wait for
 * other vCPUs.
 */
const uint8_t *block_code_page(struct interp *c, gva_t lin, uint32_t *page, uint32_t *gen);
void block_note(struct interp *c, uint32_t page, uint64_t granules);
uint64_t block_granules(unsigned first, unsigned last);

/*
 * The block at s.rip, decoded if need be; with `single`, of one instruction. Raises what the fetch
 * raises. c->block_rip is set to s.rip.
 */
struct block *block_find(struct interp *c, bool single);

/* c->cur while an instruction is being fetched. */
extern const struct insn block_fetch_insn;

/* Ends a block: s.rip is the next instruction, the count of the instructions not run is taken back.
 */
insn_fn block_exit;

#endif
