/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code buffer and what is known of the blocks in it. Blocks, sites, exits and traps are arrays
 * that only grow until all of it is flushed at once, so that numbers of them stay good for as long
 * as code that contains them can run.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "engine/bt/emit.h"
#include "engine/bt/look.h"

/* Page by page: a host that gives huge pages unasked would round each array up by megabytes. */
static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_NOHUGEPAGE); /* fails where there are none */
    return p;
}

static void release(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

/* Of page_blocks and page_places. */
#define PAGE_WORDS_BYTES(bt) ((bt)->iv.pages * sizeof(uint32_t))

static void forget_all(struct bt_vm *bt)
{
    bt->hot = bt->stubs_end;
    bt->cold = BT_COLD;
    bt->nblocks = bt->nsites = bt->nexits = bt->nbytes = 0;
    bt->ntraps = 0;
    bt->nmodes = bt->nmode_tables = 0;
    for (unsigned i = 0; i < ARRAY_LEN(bt->hash); i++)
        bt->hash[i] = BT_NONE;
}

int bt_cache_init(struct bt_vm *bt, struct err *err)
{
    int r = hostcode_init(&bt->code, BT_CODE_BYTES, err);

    if (r < 0)
        return r;
    if (bt->code.toggled)
        return err_set(err, ENOTSUP,
                       "the host does not map generated code twice; use --engine interp");
    bt->blocks = reserve(BT_BLOCKS * sizeof(*bt->blocks));
    bt->sites = reserve(BT_SITES * sizeof(*bt->sites));
    bt->exits = reserve(BT_EXITS * sizeof(*bt->exits));
    bt->traps = reserve(BT_TRAPS * sizeof(*bt->traps));
    bt->bytes = reserve(BT_BYTES);
    bt->page_blocks = reserve(PAGE_WORDS_BYTES(bt));
    bt->page_places = reserve(PAGE_WORDS_BYTES(bt));
    bt->page_kills = reserve(bt->iv.pages);
    if (!bt->blocks || !bt->sites || !bt->exits || !bt->traps || !bt->bytes ||
        !bt->page_blocks || !bt->page_places || !bt->page_kills)
        return err_set(err, ENOMEM, "not enough address space for translated code");
    bt_stubs_make(bt);
    forget_all(bt);
    return 0;
}

void bt_cache_fini(struct bt_vm *bt)
{
    release(bt->blocks, BT_BLOCKS * sizeof(*bt->blocks));
    release(bt->sites, BT_SITES * sizeof(*bt->sites));
    release(bt->exits, BT_EXITS * sizeof(*bt->exits));
    release(bt->traps, BT_TRAPS * sizeof(*bt->traps));
    release(bt->bytes, BT_BYTES);
    release(bt->page_blocks, PAGE_WORDS_BYTES(bt));
    release(bt->page_places, PAGE_WORDS_BYTES(bt));
    release(bt->page_kills, bt->iv.pages);
    hostcode_fini(&bt->code);
}

/* ---- finding ------------------------------------------------------------------------------- */

/* Blocks that lie near one another are near one another here as well. */
static unsigned hash_of(gva_t va, uint64_t key, uint64_t cs_word, uint64_t phys)
{
    uint64_t at = key & BT_KEY_ANYWHERE ? phys : va;
    uint64_t page = at >> PAGE_SHIFT ^ key << 20 ^ cs_word << 8;

    return (unsigned)(page * 0x9e3779b97f4a7c15ull >> (64 - BT_HASH_BITS)) ^
           (unsigned)(at & PAGE_MASK) >> 2;
}

/* Without the lock: chains only grow at their head, and blocks are whole before they are there. */
struct bt_block *bt_cache_find(struct bt_vm *bt, gva_t va, uint64_t key, uint64_t cs_word,
                               uint64_t phys)
{
    uint32_t n =
        atomic_load_explicit(&bt->hash[hash_of(va, key, cs_word, phys)], memory_order_acquire);

    for (; n != BT_NONE; n = __atomic_load_n(&bt->blocks[n].hash_next, __ATOMIC_ACQUIRE)) {
        struct bt_block *b = &bt->blocks[n];

        if (b->va == va && b->phys == phys && b->key == key && b->cs_word == cs_word &&
            !__atomic_load_n(&b->dead, __ATOMIC_ACQUIRE))
            return b;
    }
    return NULL;
}

/* ---- changing code that may be running ------------------------------------------------------- */

/*
 * Four bytes that lie in one aligned eight, or eight aligned ones, are stored at once: whoever
 * fetches meanwhile sees the old or the new instruction (SDM vol. 3A 8.1.3, 9.1.3: the store itself
 * is seen in order).
 */
static void store32(struct bt_vm *bt, uint32_t at, uint32_t v)
{
    atomic_fetch_add_explicit(&bt->patches, 1, memory_order_release);
    __atomic_store_n((uint32_t *)(void *)(bt->code.rw + at), v, __ATOMIC_RELEASE);
}

static void store64(struct bt_vm *bt, uint32_t at, uint64_t v)
{
    atomic_fetch_add_explicit(&bt->patches, 1, memory_order_release);
    __atomic_store_n((uint64_t *)(void *)(bt->code.rw + at), v, __ATOMIC_RELEASE);
}

#define SET_PAGE_BYTES 32

/*
 * Where a block jumps to come to an entry of one for what is at `rip`: code of its own sets the
 * page if only the second runs anywhere. BT_NONE: no block that runs anywhere goes to one that does
 * not. T0 is nobody's, and the flags stay.
 */
static uint32_t way_to(struct bt_vm *bt, const struct bt_block *from, const struct bt_block *b,
                       uint32_t entry, gva_t rip)
{
    struct emit e = {.buf = bt->code.rw, .at = bt->cold};

    if (block_anywhere(from) == block_anywhere(b))
        return entry;
    if (block_anywhere(from) || !anywhere_at(rip) ||
        bt->cold + SET_PAGE_BYTES > BT_CODE_BYTES - PAGE_SIZE)
        return BT_NONE;
    emit_const(&e, T0, rip & ~PAGE_MASK);
    emit_store(&e, T0, rm_gs(GS(code_page)));
    emit_jump(&e, CC_ALWAYS, entry);
    entry = bt->cold;
    bt->cold = e.at;
    bt_cache_grown(bt);
    return entry;
}

/*
 * Does the guard of an exit let this page by from now on? Not if it has let another one by: between
 * the guard and the jump there may be somebody, who would come to the wrong one of the two.
 */
static bool guard(struct bt_vm *bt, const struct bt_exit *e, uint64_t word, unsigned size)
{
    uint64_t was = get_le(bt->code.rw + e->word, size);

    if (was != word && was != mask_bytes(size) && bt->vm->nvcpus > 1)
        return false;
    put_le(bt->code.rw + e->word, word, size);
    return true;
}

void bt_cache_link(struct bt_vm *bt, struct bt_exit *e, const struct bt_block *b)
{
    const struct bt_block *from = &bt->blocks[e->block];
    uint32_t ram_page = (uint32_t)(b->phys >> PAGE_SHIFT), to;
    bool far = e->word != BT_NONE;

    if (!far && ram_page != from->phys >> PAGE_SHIFT)
        return; /* the page has been mapped elsewhere meanwhile */
    to = way_to(bt, from, b, far ? b->entry : b->entry_host, e->target);
    if (to == BT_NONE)
        return;
    /* Not aligned, but a mixture of none and a page is no page, and leads to the stub. */
    if (far && block_anywhere(from)) {
        if (!guard(bt, e, exec_ram(ram_page), 4))
            return;
    } else if (far) {
        if (!guard(bt, e, exec_word(block_anywhere(b) ? e->target : b->lin, ram_page), 8))
            return;
    }
    store32(bt, e->jump, to - (e->jump + 4));
    bt->linked++;
}

#define PAIR_MISSES 32 /* of a pair's site: the stack is at many places there */

void bt_cache_link_without(struct bt_vm *bt, struct bt_site *s, const struct bt_block *b)
{
    static const uint64_t key[] = {[SITE_WINDOW] = BT_KEY_PAIR | BT_KEY_NO_WINDOW,
                                   [SITE_PAIR] = BT_KEY_NO_WINDOW,
                                   [SITE_GROUP] = BT_KEY_NO_SHARE};
    const struct bt_block *from = &bt->blocks[s->block];
    gva_t rip = from->va + s->off;
    uint32_t to;

    pthread_mutex_lock(&bt->lock);
    /* An interrupt may have come between the two. */
    if (!b->dead && !from->dead && b->phys == from->phys + s->off &&
        (b->va == rip || block_anywhere(b)) && b->cs_word == from->cs_word &&
        (b->key & ~(BT_KEY_WITHOUT | BT_KEY_ANYWHERE)) == site_key(from, s) &&
        (b->key & key[s->kind]) && ((b->key ^ from->key) & BT_KEY_WITHOUT) &&
        (s->kind != SITE_PAIR || ++s->misses >= PAIR_MISSES) &&
        (to = way_to(bt, from, b, b->entry, rip)) != BT_NONE)
        store32(bt, s->resume, to - (s->resume + 4));
    pthread_mutex_unlock(&bt->lock);
}

/* A jump over the instruction at `at`, which is aligned to 8 and at least 5 bytes long. */
static void store_jump(struct bt_vm *bt, uint32_t at, uint32_t to)
{
    uint32_t disp = to - (at + 5);
    uint8_t first[8];

    memcpy(first, bt->code.rw + at, sizeof(first));
    first[0] = 0xe9;
    memcpy(first + 1, &disp, 4);
    store64(bt, at, get_le64(first));
}

/*
 * Jumps to what was here before go on to this one; the dead leave the chain, which others may be
 * following: their own link stays.
 */
static void supersede(struct bt_vm *bt, const struct bt_block *b, unsigned h)
{
    uint32_t n = atomic_load(&bt->hash[h]), next;
    struct bt_block *before = NULL;

    for (; n != BT_NONE; n = next) {
        struct bt_block *d = &bt->blocks[n];

        next = d->hash_next;
        if (!d->dead || d->va != b->va || d->phys != b->phys || d->key != b->key ||
            d->cs_word != b->cs_word) {
            before = d;
            continue;
        }
        store_jump(bt, d->stale, b->entry);
        if (before)
            __atomic_store_n(&before->hash_next, next, __ATOMIC_RELEASE);
        else
            atomic_store(&bt->hash[h], next);
    }
}

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* asm-generic/mman-common.h */
#endif

/*
 * Huge pages of shared memory are made on demand only where the host is set up for it; asked for
 * one by one they are there (madvise(2), since 6.1), or it stays as it is.
 */
static void grow(struct bt_vm *bt, uint32_t at, uint32_t *huge)
{
    if (likely(at < *huge))
        return;
    *huge = at & ~(HUGE_PAGE - 1);
    bt->code.rw[*huge] = bt->code.rw[*huge]; /* there is something to be made one of */
    madvise(bt->code.rw + *huge, HUGE_PAGE, MADV_COLLAPSE);
    *huge += HUGE_PAGE;
}

void bt_cache_grown(struct bt_vm *bt)
{
    grow(bt, bt->hot, &bt->huge_hot);
    grow(bt, bt->cold, &bt->huge_cold);
}

bool bt_cache_publish(struct bt_vm *bt, struct bt_block *b, uint32_t gen, uint32_t gen2)
{
    uint32_t page = (uint32_t)(b->phys >> PAGE_SHIFT), n = (uint32_t)(b - bt->blocks);
    unsigned h = hash_of(b->va, b->key, b->cs_word, b->phys);

    if (atomic_load(&bt->vm->ram.code_gen[page]) != gen ||
        (b->page2 != BT_NONE && atomic_load(&bt->vm->ram.code_gen[b->page2]) != gen2))
        return false;
    atomic_fetch_add_explicit(&bt->patches, 1, memory_order_release);
    supersede(bt, b, h);
    b->page_next = bt->page_blocks[page];
    bt->page_blocks[page] = n + 1;
    if (b->page2 != BT_NONE) {
        b->page2_next = bt->page_blocks[b->page2];
        bt->page_blocks[b->page2] = (n + 1) | BT_SECOND;
    }
    b->hash_next = atomic_load(&bt->hash[h]);
    atomic_store_explicit(&bt->hash[h], n, memory_order_release);
    return true;
}

/* Whoever comes to the block from now on leaves to C; who is in it leaves at its end. */
static void kill_block(struct bt_vm *bt, struct bt_block *b)
{
    __atomic_store_n(&b->dead, 1, __ATOMIC_RELEASE);
    bt->killed++;
    store_jump(bt, b->entry, b->stale);
}

void bt_code_written(struct interp_vm *iv, uint32_t ram_page, uint64_t granules)
{
    struct bt_vm *bt = container_of(iv, struct bt_vm, iv);
    uint32_t *link;
    unsigned killed = 0;

    if (ram_page >= iv->pages)
        return;
    pthread_mutex_lock(&bt->lock);
    link = &bt->page_blocks[ram_page];
    while (*link) {
        struct bt_block *b = &bt->blocks[(*link & ~BT_SECOND) - 1];
        bool second = *link & BT_SECOND;
        uint32_t *next = second ? &b->page2_next : &b->page_next;

        if (!b->dead && ((second ? b->granules2 : b->granules) & granules)) {
            kill_block(bt, b);
            killed++;
        }
        if (b->dead) /* by way of the other page, perhaps */
            *link = *next;
        else
            link = next;
    }
    if (!bt->page_blocks[ram_page])
        atomic_store(&bt->page_places[ram_page], 0);
    if (killed && bt->page_kills[ram_page] < UINT8_MAX)
        bt->page_kills[ram_page]++;
    pthread_mutex_unlock(&bt->lock);
    if (killed && trace_on(&bt->vm->trace))
        bt_trace_emit(bt->vm, -1, "invalidate", 0, (uint64_t)ram_page << PAGE_SHIFT, killed,
                      granules);
}

/* Tables that are not used stay untouched memory. */
void bt_targets_use(struct bt_vcpu *v, unsigned table)
{
    const uint8_t *miss = v->bt->code.rx + v->bt->stubs.leave_indirect;

    if (v->targets[table][0])
        return;
    for (unsigned i = 0; i < BT_TARGETS; i++)
        v->targets[table][i] = miss;
}

static void drop_targets(struct bt_vcpu *v)
{
    for (unsigned m = 0; m < BT_MODES; m++)
        if (v->targets[m][0])
            memset(v->targets[m], 0, sizeof(v->targets[m]));
    v->mode_key = UINT64_MAX;
    v->without_site = BT_NONE;
}

/* On a vCPU's thread, in no block. */
void bt_cache_flush(struct bt_vcpu *v)
{
    struct bt_vm *bt = v->bt;

    vcpu_exclusive_begin(v->c.vcpu);
    pthread_mutex_lock(&bt->lock);
    bt_trace(v, "flush", v->c.s.rip, 0, bt->nblocks, bt->hot - bt->stubs_end + bt->cold - BT_COLD);
    bt->flushes++;
    memset(bt->page_blocks, 0, PAGE_WORDS_BYTES(bt));
    memset(bt->page_kills, 0, bt->iv.pages);
    memset((void *)bt->page_places, 0, PAGE_WORDS_BYTES(bt));
    forget_all(bt);
    for (unsigned i = 0; i < bt->vm->nvcpus; i++)
        if (bt->vm->vcpus[i]->engine)
            drop_targets(bt_of(interp_of(bt->vm->vcpus[i])));
    pthread_mutex_unlock(&bt->lock);
    vcpu_exclusive_end(v->c.vcpu);
}

#define REST_NS  ((uint64_t)NS_PER_SEC / 5)
#define REST_FEW 512

/*
 * The buffer's pages count twice while its writable view has them as well. When little is written,
 * that view lets go of them: the memory stays the executable view's, and the next store finds it
 * again.
 */
void bt_cache_rest(struct bt_vm *bt)
{
    uint32_t n = atomic_load_explicit(&bt->patches, memory_order_relaxed);
    uint64_t now;

    if (n == atomic_load_explicit(&bt->rested, memory_order_relaxed) ||
        pthread_mutex_trylock(&bt->lock))
        return;
    now = bt_host_ns();
    if (now - bt->rest_ns >= REST_NS) {
        if (n - bt->rest_seen < REST_FEW && !madvise(bt->code.rw, bt->code.size, MADV_DONTNEED))
            atomic_store_explicit(&bt->rested, n, memory_order_relaxed);
        bt->rest_seen = n;
        bt->rest_ns = now;
    }
    pthread_mutex_unlock(&bt->lock);
}

/* ---- faults ---------------------------------------------------------------------------------- */

const struct bt_trap *bt_trap_find(struct bt_vm *bt, uint64_t rip)
{
    uint64_t at = rip - (uint64_t)(uintptr_t)bt->code.rx;
    uint32_t low = 0, high = atomic_load(&bt->ntraps);

    if (at >= BT_CODE_BYTES)
        return NULL;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;

        if (bt->traps[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    if (low >= atomic_load(&bt->ntraps) || bt->traps[low].at != at)
        return NULL;
    return &bt->traps[low];
}

uint64_t bt_trap_target(void *opaque, uint64_t rip)
{
    struct bt_vm *bt = opaque;
    const struct bt_trap *t = bt_trap_find(bt, rip);

    return t ? (uint64_t)(uintptr_t)bt->code.rx + t->to : 0;
}
