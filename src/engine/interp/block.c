/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The block cache (block.h): finding, decoding, checking and dropping blocks.
 *
 * Decoding races with stores of other vCPUs and with DMA. The order here is: read the page's
 * generation, mark the page (from then on every store to it comes to blocks_written), read the
 * bytes, note the granules, compare the bytes once more. A store before the note is seen by the
 * comparison; one after it moves the generation on.
 */
#include "engine/interp/block.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/interp/decode.h"
#include "engine/interp/int.h"
#include "engine/interp/mode.h"

#define BLOCK_BYTES(n) (sizeof(struct block) + ((size_t)(n) + 1) * sizeof(struct insn))

/* What is "current" while an instruction is being fetched: faults are at s.rip, of the code
 * segment. */
const struct insn block_fetch_insn = {.seg = SEG_CS, .base = R_NONE, .index = R_NONE};

static struct block_cache *cache_of(const struct interp *c)
{
    return c->blocks;
}

int blocks_init(struct interp *c, size_t bytes, struct err *err)
{
    struct block_cache *bc;

    bc = mmap(NULL, sizeof(*bc), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bc == MAP_FAILED)
        return err_set(err, ENOMEM, "cannot get memory for the block cache: %s", strerror(errno));
    bc->size = bytes;
    bc->arena = mmap(NULL, bc->size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bc->arena == MAP_FAILED) {
        munmap(bc, sizeof(*bc));
        return err_set(err, ENOMEM, "cannot get memory for decoded code: %s", strerror(errno));
    }
    bc->scratch = (struct block *)bc->arena;
    c->blocks = bc;
    blocks_flush(c);
    return 0;
}

void blocks_fini(struct interp *c)
{
    struct block_cache *bc = cache_of(c);

    if (!bc)
        return;
    munmap(bc->arena, bc->size);
    munmap(bc, sizeof(*bc));
    c->blocks = NULL;
}

/* The running block ends after its current instruction and is never entered again. */
static void cut_running(struct interp *c)
{
    struct block *b = c->block;

    if (!b || c->cur < b->insns || c->cur >= b->insns + b->count)
        return;
    b->mode = BLOCK_DEAD;
    b->insns[c->cur - b->insns + 1].fn = block_exit;
}

/* The running block's memory stays as it is until the next one is decoded. */
void blocks_flush(struct interp *c)
{
    struct block_cache *bc = cache_of(c);

    cut_running(c);

    memset(bc->jump, 0, sizeof(bc->jump));
    memset(bc->hash, 0, sizeof(bc->hash));
    bc->used = BLOCK_BYTES(1); /* the scratch block stays */
    bc->flushes++;
}

/* ---- leaving ---- */

void block_exit(struct interp *c, const struct insn *i)
{
    const struct block *b = c->block;

    c->s.icount -= b->count - (uint64_t)(i - b->insns);
    chain_jump(c, (c->block_rip + i->off) & c->rip_mask);
}

/* ---- stores to code ---- */

uint64_t block_granules(unsigned first, unsigned last)
{
    unsigned a = first / 64 & 63, b = last / 64 & 63;

    return (UINT64_MAX >> (63 - b)) & (UINT64_MAX << a);
}

static bool running_overlaps(const struct block *b, uint32_t page, unsigned first, unsigned last)
{
    unsigned start = b->phys & PAGE_MASK, end = start + b->bytes;

    if (b->phys >> PAGE_SHIFT == page && last >= start && first < end)
        return true;
    return b->page2 == page && end > PAGE_SIZE && first < end - PAGE_SIZE;
}

static uint64_t running_granules(const struct block *b, uint32_t page)
{
    unsigned start = b->phys & PAGE_MASK, last = start + (b->bytes ? b->bytes - 1u : 0);
    uint64_t granules = 0;

    if (b->phys >> PAGE_SHIFT == page)
        granules |= block_granules(start, last < PAGE_SIZE ? last : PAGE_SIZE - 1);
    if (b->page2 == page && last >= PAGE_SIZE)
        granules |= block_granules(0, last - PAGE_SIZE);
    return granules;
}

void blocks_written(struct interp *c, uint32_t ram_page, unsigned first, unsigned last)
{
    struct interp_vm *iv = c->vm->engine_data;
    struct block *b = c->block;
    uint64_t mask = block_granules(first, last), forget = mask, left;

    if (ram_page >= iv->pages)
        return;
    if (!(atomic_load(&iv->granules[ram_page]) & mask))
        return;
    if (b) /* its next store may hit it */
        forget &= ~running_granules(b, ram_page);
    atomic_fetch_add(&c->vm->ram.code_gen[ram_page], 1);
    left = atomic_fetch_and(&iv->granules[ram_page], ~forget) & ~forget;
    if (iv->code_written)
        iv->code_written(iv, ram_page, mask);
    if (!left) /* every piece of code in it is overwritten: perhaps it is data now */
        interp_unmark_code(c, ram_page);
    if (b && running_overlaps(b, ram_page, first, last))
        cut_running(c);
}

/* ---- finding ---- */

static unsigned hash_slot(uint64_t phys, uint64_t mode)
{
    uint64_t h = (phys ^ (mode << 7) ^ (mode >> 29)) * 0x9e3779b97f4a7c15ull;

    return (unsigned)(h >> (64 - HASH_BITS));
}

/* Where code of this linear address is: its page of the RAM file, and the host address; NULL: not
 * RAM. */
static const uint8_t *code_page(struct interp *c, gva_t lin, uint32_t *page)
{
    const uint8_t *host = access_host(c, lin, 1, ACCESS_EXEC, c->key);

    if (host)
        *page = c->tlb_ram_page[TLB_SLOT(lin)];
    return host;
}

static uint32_t gen_of(const struct interp *c, uint32_t page)
{
    return atomic_load_explicit(&c->vm->ram.code_gen[page], memory_order_acquire);
}

/* Marks the page and asks again where lin is: marking may have waited for other vCPUs. */
const uint8_t *block_code_page(struct interp *c, gva_t lin, uint32_t *page, uint32_t *gen)
{
    const uint8_t *host = code_page(c, lin, page);
    uint32_t before;

    while (host) {
        before = *page;
        *gen = gen_of(c, before);
        interp_mark_code(c, before);
        host = code_page(c, lin, page);
        if (*page == before)
            break;
    }
    return host;
}

/* Do the bytes that were decoded still stand in memory? host2: of the second page, or NULL. */
static bool same_bytes(const struct block *b, const uint8_t *host, const uint8_t *host2)
{
    unsigned off = b->phys & PAGE_MASK, room = PAGE_SIZE - off;

    for (unsigned n = 0; n < b->count; n++) {
        const struct insn *i = &b->insns[n];
        unsigned len = i->len, in_first = len;

        if (i->off + len > room)
            in_first = room > i->off ? room - i->off : 0;
        if (memcmp(host + i->off, i->bytes, in_first))
            return false;
        if (len > in_first && (!host2 || memcmp(host2, i->bytes + in_first, len - in_first)))
            return false;
    }
    return true;
}

void block_note(struct interp *c, uint32_t page, uint64_t granules)
{
    struct interp_vm *iv = c->vm->engine_data;

    atomic_fetch_or(&iv->granules[page], granules);
}

static void note_granules(struct interp *c, const struct block *b)
{
    unsigned off = b->phys & PAGE_MASK, last = off + (b->bytes ? b->bytes - 1u : 0);

    block_note(c, (uint32_t)(b->phys >> PAGE_SHIFT),
               block_granules(off, last < PAGE_SIZE ? last : PAGE_SIZE - 1));
    if (b->page2 != BLOCK_NO_PAGE)
        block_note(c, b->page2, block_granules(0, last & PAGE_MASK));
}

static uint64_t code_limit(const struct interp *c)
{
    return c->code64 ? UINT64_MAX : min_u64(c->s.seg[SEG_CS].limit, c->rip_mask);
}

/* How many bytes from rip on are inside CS. */
static uint64_t limit_room(const struct interp *c, uint64_t rip)
{
    uint64_t limit = code_limit(c);

    if (c->code64)
        return UINT64_MAX;
    return rip > limit ? 0 : limit - rip + 1;
}

static void close_block(struct block *b)
{
    struct insn *last = &b->insns[b->count];

    memset(last, 0, sizeof(*last));
    last->fn = block_exit;
    last->off = b->bytes;
    last->base = last->index = R_NONE;
}

/*
 * One instruction into the scratch block, byte by byte of what is there: from MMIO, or with a
 * segment limit or the end of the address space in it.
 */
static struct block *decode_uncached(struct interp *c, uint64_t rip)
{
    struct block *b = cache_of(c)->scratch;
    uint8_t buf[15];
    unsigned have = 0, want = (unsigned)min_u64(sizeof(buf), limit_room(c, rip));
    enum decode_result r = DECODE_MORE;

    while (r == DECODE_MORE) {
        gva_t lin = block_linear(c, rip + have);
        unsigned n = (unsigned)min_u64(want - have, PAGE_SIZE - (lin & PAGE_MASK));
        const uint8_t *host;

        if (n == 0) /* the rest lies beyond the limit */
            interp_raise_err(c, VEC_GP, 0);
        host = access_host(c, lin, 1, ACCESS_EXEC, c->key);
        if (host)
            memcpy(buf + have, host, n);
        else
            access_copy_in(c, buf + have, lin, n, c->key);
        have += n;
        r = decode_insn(c, buf, have, &b->insns[0]);
    }
    b->mode = BLOCK_DEAD;
    b->phys = UINT64_MAX;
    b->gen = b->gen2 = 0;
    b->page2 = BLOCK_NO_PAGE;
    b->count = 1;
    b->bytes = b->insns[0].len;
    b->hash_next = NULL;
    b->succ[0] = b->succ[1] = NULL;
    close_block(b);
    return b;
}

/* Room for one block of any size at the end of the arena. */
static struct block *arena_block(struct interp *c)
{
    struct block_cache *bc = cache_of(c);

    if (bc->size - bc->used < BLOCK_BYTES(BLOCK_MAX_INSNS))
        blocks_flush(c);
    return (struct block *)(bc->arena + bc->used);
}

/* An instruction that runs on into the next page, as a block of its own. False: not both in RAM. */
static bool decode_crossing(struct interp *c, struct block *b, gva_t lin, const uint8_t **host,
                            const uint8_t **host2)
{
    unsigned off = lin & PAGE_MASK, room = PAGE_SIZE - off;
    gva_t lin2 = block_linear(c, c->s.rip + room);
    uint8_t buf[15];
    uint32_t page;

    *host2 = block_code_page(c, lin2, &b->page2, &b->gen2);
    *host = code_page(c, lin, &page);
    if (!*host || !*host2 || page != b->phys >> PAGE_SHIFT)
        return false;
    memcpy(buf, *host, room);
    memcpy(buf + room, *host2, sizeof(buf) - room);
    decode_insn(c, buf, sizeof(buf), &b->insns[0]);
    b->count = 1;
    b->bytes = b->insns[0].len;
    if (b->bytes <= room)
        return false; /* the bytes changed meanwhile */
    return true;
}

static struct block *decode_block(struct interp *c, gva_t lin, uint64_t mode)
{
    struct block_cache *bc = cache_of(c);
    uint64_t room = limit_room(c, c->s.rip);
    unsigned max = mode & BLOCK_SINGLE ? 1 : BLOCK_MAX_INSNS;
    unsigned off = lin & PAGE_MASK, pos, slot;
    const uint8_t *host, *host2 = NULL;
    struct block *b = arena_block(c);
    uint32_t page;

    host = block_code_page(c, lin, &page, &b->gen);
    if (!host)
        return decode_uncached(c, c->s.rip);
    b->mode = mode;
    b->phys = (uint64_t)page << PAGE_SHIFT | off;
    b->page2 = BLOCK_NO_PAGE;
    b->gen2 = 0;
    b->count = 0;
    b->succ[0] = b->succ[1] = NULL;
    room = min_u64(room, PAGE_SIZE - off);
    for (pos = 0; b->count < max && pos < room;) {
        struct insn *i = &b->insns[b->count];
        uint8_t buf[15];
        unsigned have = (unsigned)min_u64(sizeof(buf), room - pos);
        enum decode_result r;

        memcpy(buf, host + pos, have);
        r = decode_insn(c, buf, have, i);
        if (r == DECODE_MORE)
            break;
        i->off = (uint16_t)pos;
        pos += i->len;
        b->count++;
        if (r == DECODE_END)
            break;
    }
    b->bytes = (uint16_t)pos;
    if (!b->count) {
        /* The first instruction does not end in this page, or within the limit. */
        if (room < PAGE_SIZE - off || limit_room(c, c->s.rip) < sizeof(((struct insn *)0)->bytes) ||
            !decode_crossing(c, b, lin, &host, &host2))
            return decode_uncached(c, c->s.rip);
    }
    close_block(b);
    note_granules(c, b);
    if (!same_bytes(b, host, host2))
        return decode_uncached(c, c->s.rip);
    bc->used += BLOCK_BYTES(b->count);
    bc->decoded++;
    slot = hash_slot(b->phys, mode);
    b->hash_next = bc->hash[slot];
    bc->hash[slot] = b;
    return b;
}

/* Is this block what stands at lin now? Moves its generation on if the bytes are the same. */
static bool block_fresh(struct interp *c, struct block *b, gva_t lin)
{
    uint32_t page = (uint32_t)(b->phys >> PAGE_SHIFT), page2 = BLOCK_NO_PAGE, gen, gen2 = 0, now;
    const uint8_t *host, *host2 = NULL;

    if (b->page2 != BLOCK_NO_PAGE) {
        gva_t lin2 = block_linear(c, c->s.rip + PAGE_SIZE - (lin & PAGE_MASK));

        /* If it no longer runs on into the second page, that one need not be there. */
        if (gen_of(c, page) != b->gen) {
            host = code_page(c, lin, &now);
            if (!host || memcmp(host, b->insns[0].bytes, PAGE_SIZE - (lin & PAGE_MASK))) {
                b->mode = BLOCK_DEAD;
                return false;
            }
        }
        if (!code_page(c, lin2, &page2) || page2 != b->page2)
            return false;
        gen2 = gen_of(c, page2);
    }
    gen = gen_of(c, page);
    if (gen == b->gen && gen2 == b->gen2)
        return true;
    /* Mark both first, then look at both: a mark may wait, and what was found before is void. */
    interp_mark_code(c, page);
    if (page2 != BLOCK_NO_PAGE) {
        gva_t lin2 = block_linear(c, c->s.rip + PAGE_SIZE - (lin & PAGE_MASK));

        interp_mark_code(c, page2);
        host2 = code_page(c, lin2, &now);
        if (!host2 || now != page2)
            return false;
    }
    host = code_page(c, lin, &now);
    if (!host || now != page)
        return false;
    note_granules(c, b);
    if (!same_bytes(b, host, host2)) {
        b->mode = BLOCK_DEAD;
        return false;
    }
    b->gen = gen;
    b->gen2 = gen2;
    return true;
}

struct block *block_find(struct interp *c, bool single)
{
    struct block_cache *bc = cache_of(c);
    uint64_t mode = c->mode | (single ? BLOCK_SINGLE : 0);
    uint64_t rip = c->s.rip, room = limit_room(c, rip), phys;
    gva_t lin = block_linear(c, rip);
    struct block *b;
    uint32_t page;

    c->block = NULL;
    c->block_rip = rip;
    c->cur = &block_fetch_insn;
    if (!room)
        interp_raise_err(c, VEC_GP, 0);
    if (!code_page(c, lin, &page))
        return decode_uncached(c, rip);
    phys = (uint64_t)page << PAGE_SHIFT | (lin & PAGE_MASK);
    for (b = bc->hash[hash_slot(phys, mode)]; b; b = b->hash_next)
        if (b->phys == phys && b->mode == mode && block_fresh(c, b, lin))
            return b->bytes <= room ? b : decode_uncached(c, rip);
    return decode_block(c, lin, mode);
}
