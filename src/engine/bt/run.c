/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop of the translator. Cold code is run by the interpreter, block by block, each
 * counted; what is warm is translated. Everything between two instructions (interrupts, requests,
 * single steps) is interp_boundary's.
 *
 * A kick is never lost: `attention` is cleared before vcpu->pending is looked at, and who posts
 * sets pending first.
 */
#include "core/vm.h"
#include "engine/bt/look.h"
#include "engine/bt/translate.h"
#include "engine/engine.h"
#include "engine/interp/thunk_int.h"

/* Code of a page whose code has been written so often must run for longer to be worth translating.
 */
#define CHANGING      8
#define WARM_CHANGING 200
#define COLD_BYTES    (4u << 20) /* of decoded code: what is warm is translated */
#define HABIT         64
#define TABLE_FLUSHES 4
#define WARM          16 /* runs of cold code before it is translated */
#define SETTLE_TICKS  4
#define SETTLE_SHIFT  21 /* stacks of one process differ below */

/* ---- at the border --------------------------------------------------------------------------- */

/* Is the mode still that of the block? STAC and CLAC in it have changed the table. */
static bool same_mode(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s)
{
    return site_key(b, s) == bt_key(&v->c);
}

/* May translated code run in this mode at all? */
bool bt_mode_ok(const struct interp *c)
{
    uint64_t upper = 0;

    if ((c->mode & MODE_STEP) || (c->key & KEY_MODE) == KEY_USER_ALIGNED)
        return false;
    if (c->code64)
        return true;
    /* Its addresses are computed from whole registers; 32-bit code that begins so stays so. */
    for (unsigned r = 0; r < 8; r++)
        upper |= c->s.gpr[r];
    return !(upper >> 32);
}

static void leave_at_poll(struct bt_vcpu *v)
{
    for (unsigned n = 0; n < BT_NEEDS; n++)
        atomic_store(&v->attention[n], 1);
}

/* Is any vector register longer than SSE knows? */
static bool upper_in_use(const struct cpu_fpu *f)
{
    for (unsigned r = 0; r < 16; r++) {
        uint64_t part[6], any = 0;

        memcpy(part, f->zmm[r] + 16, sizeof(part));
        for (unsigned i = 0; i < ARRAY_LEN(part); i++)
            any |= part[i];
        if (any)
            return true;
    }
    return false;
}

/* The registers that a block needs are to be loaded before translated code goes on. */
static void want(struct bt_vcpu *v, unsigned needs)
{
    if (v->habit && !v->c.ferr) {
        needs |= v->habit;
        v->habit = --v->habit_left ? v->habit : 0;
    }
    needs &= ~(unsigned)v->live;
    if (!needs)
        return;
    if (needs & NEED_X87)
        bt_x87_in(v);
    if ((needs & NEED_VEC) && v->c.upper)
        v->c.upper = upper_in_use(&v->c.s.fpu);
    v->live |= (uint8_t)needs;
    v->wanted |= (uint8_t)needs;
    /* A kick in between must not be overwritten: exchange first, then look. */
    for (unsigned n = 1; n < BT_NEEDS; n++)
        if (!(n & ~(unsigned)v->live))
            atomic_exchange(&v->attention[n], 0);
    if (atomic_load(&v->attention[0]))
        leave_at_poll(v);
}

/* Translated code has been left: all of the guest's is to be in struct interp. */
static void take_back(struct bt_vcpu *v)
{
    (void)atomic_load_explicit(&v->bt->patches, memory_order_acquire);
    if (v->x87_saved)
        bt_x87_out(v);
}

/* The interpreter's block of one instruction at s.rip, found before perhaps. May raise. */
static struct block *single_block(struct bt_vcpu *v, const struct bt_block *b,
                                  const struct bt_site *s)
{
    struct interp *c = &v->c;
    const struct block_cache *bc = c->blocks;
    uint32_t n = (uint32_t)(s - v->bt->sites);
    uint64_t flushes = bc->flushes << 32 | (uint32_t)v->bt->flushes;
    struct block *found = v->single[n & (BT_SINGLES - 1)].block;

    if (found && v->single[n & (BT_SINGLES - 1)].site == n &&
        v->single[n & (BT_SINGLES - 1)].flushes == flushes &&
        found->mode == (c->mode | BLOCK_SINGLE) && found->phys == b->phys + s->off &&
        found->page2 == BLOCK_NO_PAGE &&
        found->gen ==
            atomic_load_explicit(&c->code_gen[found->phys >> PAGE_SHIFT], memory_order_acquire)) {
        c->block_rip = c->s.rip;
        return found;
    }
    found = block_find(c, true);
    v->single[n & (BT_SINGLES - 1)].site = n;
    v->single[n & (BT_SINGLES - 1)].block = found;
    v->single[n & (BT_SINGLES - 1)].flushes = bc->flushes << 32 | (uint32_t)v->bt->flushes;
    return found;
}

/* The window of a stack of 16 bits is one of SS as it was. Whatever loads SS ends its block. */
static void stack_moved(struct bt_vcpu *v)
{
    if (unlikely(v->c.sp_mask == 0xffff) && v->window_base != v->c.s.seg[SEG_SS].base)
        v->window_none = UINT32_MAX;
}

/*
 * Is this the instruction that the block was made for? Another vCPU may have written another one,
 * and not have killed the block yet: what the block took for granted then was not of that one.
 */
static bool is_same(const struct bt_vm *bt, const struct bt_block *b, const struct bt_site *s,
                    const struct insn *in)
{
    return in->len == s->len && !memcmp(in->bytes, bt->bytes + b->bytes + s->off, s->len);
}

/* The interpreter runs one instruction of a block. True: its successor in the block is next. */
static bool run_one(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s)
{
    struct interp *c = &v->c;
    uint64_t rip = block_rip(v, b) + s->off;
    struct block *ran;
    bool same;

    v->n.slow++;
    v->n.slow_accesses += s->kind == SITE_ACCESS;
    c->s.rip = rip;
    ran = single_block(v, b, s);
    same = is_same(v->bt, b, s, &ran->insns[0]);
    interp_run_found(c, ran);
    stack_moved(v);
    v->n.slow_by[ran->insns[0].mnemonic & (BT_MNEMONICS - 1)]++;
    c->block = NULL;
    return same && s->resume != BT_NONE && c->s.rip == rip + s->len && !c->stop &&
           !__atomic_load_n(&b->dead, __ATOMIC_ACQUIRE) && !interp_boundary_due(c) &&
           same_mode(v, b, s) && bt_mode_ok(c);
}

/* What c->cur is while a page is looked up for translated code: a fault is at s.rip. */
static const struct insn access_insn = {.seg = SEG_DS, .base = R_NONE, .index = R_NONE};

/* The block that goes on at the site is one that does without what could not be had. */
static void do_without(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s,
                       uint64_t what)
{
    const uint64_t stack = BT_KEY_PAIR | BT_KEY_NO_WINDOW;

    v->without = (b->key & BT_KEY_WITHOUT & ~(what & stack ? stack : 0)) | what;
    v->without_site = (uint32_t)(s - v->bt->sites);
    v->anywhere = block_anywhere(b);
}

/*
 * The stack's page, if all that the block touches lies in it; else it runs without a window. A
 * block that should have had two pages, and has a window because one did when it was made, is no
 * other one with two pages.
 */
static uint64_t window(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s)
{
    gva_t addr = v->c.s.gpr[REG_RSP] + (uint64_t)(int64_t)s->moved;
    bool two;

    if (!bt_window_set(v, addr, s->span)) {
        two = v->c.code64 && !(b->key & BT_KEY_PAIR) && bt_pair_set(v, addr);
        do_without(v, b, s, two ? BT_KEY_PAIR : BT_KEY_NO_WINDOW);
        return 0;
    }
    want(v, b->needs);
    return (uint64_t)(uintptr_t)v->bt->code.rx + s->retry;
}

/* The stack's two pages; a block is made for one place of the border between them. */
static uint64_t pair(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s)
{
    gva_t addr = v->c.s.gpr[REG_RSP] + (uint64_t)(int64_t)s->moved;

    if ((addr & PAGE_MASK) != s->at || !bt_pair_set(v, addr)) {
        do_without(v, b, s, BT_KEY_NO_WINDOW);
        return 0;
    }
    want(v, b->needs);
    return (uint64_t)(uintptr_t)v->bt->code.rx + s->retry;
}

/*
 * The check of several accesses failed. The first one's page may be looked for, and its fault
 * raised; for the others' sake nothing may fault, so that the block runs without shared checks.
 */
static bool group(struct bt_vcpu *v, const struct bt_site *s)
{
    const struct bt_site first = {.how = s->first_how, .size = s->first_size};
    const struct bt_site other = {.how = s->how, .size = 1, .masked = true};
    gva_t addr = v->slow_addr, at = addr + (uint64_t)(int64_t)s->moved;

    return bt_tlb_fill(v, at, &first) && (addr & PAGE_MASK) <= PAGE_SIZE - s->size &&
           ((at ^ addr) & ~PAGE_MASK) == 0 &&
           (s->how == s->first_how || bt_tlb_fill(v, at, &other));
}

/* Is the page where an instruction goes on the one that it was translated from? Raises #PF. */
static bool crossing(struct bt_vcpu *v, const struct bt_block *b)
{
    struct interp *c = &v->c;
    gva_t next = ((block_anywhere(b) ? v->code_page : b->lin) | PAGE_MASK) + 1;

    c->cur = &block_fetch_insn;
    if (!access_host(c, next, 1, ACCESS_EXEC, c->key) ||
        c->tlb_ram_page[TLB_SLOT(next)] != b->page2)
        return false;
    bt_exec_fill(v, next, b->page2);
    return true;
}

static uint64_t slow(struct bt_vcpu *v, uint32_t site)
{
    struct bt_vm *bt = v->bt;
    const struct bt_site *s = &bt->sites[site];
    const struct bt_block *b = &bt->blocks[s->block];
    struct interp *c = &v->c;
    uint64_t drops = v->window_drops, flushes = bt->flushes;
    uint32_t to = BT_NONE;

    /* What is raised from here on is the instruction's, and whoever leaves comes back to it. */
    c->s.rip = c->block_rip = block_rip(v, b) + s->off;
    c->block = NULL;
    c->cur = &access_insn;
    if (s->kind == SITE_WINDOW)
        return window(v, b, s);
    if (s->kind == SITE_PAIR)
        return pair(v, b, s);
    if (s->kind == SITE_TSC) {
        interp_read_tsc(c);
        want(v, b->needs);
        return (uint64_t)(uintptr_t)bt->code.rx + s->resume;
    }
    if (s->kind == SITE_ACCESS && !(s->aligned && (v->slow_addr & (s->size - 1u))) &&
        bt_tlb_fill(v, v->slow_addr, s))
        to = s->retry;
    if (s->kind == SITE_CROSSING && crossing(v, b))
        to = s->retry;
    if (s->kind == SITE_GROUP) {
        if (!group(v, s)) {
            do_without(v, b, s, BT_KEY_NO_SHARE);
            return 0;
        }
        to = s->retry;
    }
    /* While it waits to be alone, or for others who are, all of the code may go. */
    if (to == BT_NONE && run_one(v, b, s) && flushes == bt->flushes) {
        to = s->resume;
        if (s->kind == SITE_ACCESS && bt_faults_first(s, v->slow_addr)) /* now that it has not */
            bt_tlb_fill(v, v->slow_addr, s);
    }
    if (to == BT_NONE || drops != v->window_drops) /* the block may count on its window */
        return 0;
    want(v, b->needs);
    return (uint64_t)(uintptr_t)bt->code.rx + to;
}

uint64_t bt_slow(struct bt_vcpu *v, uint32_t site)
{
    uint64_t to;

    take_back(v);
    v->slow_site = site;
    v->slow_icount = v->c.s.icount;
    bt_phase(v, BT_IN_SLOW);
    to = slow(v, site);
    bt_phase(v, BT_IN_CODE);
    return to;
}

enum bt_leave bt_enter(struct bt_vcpu *v, const struct bt_block *b)
{
    enum bt_leave why;
    struct bt_vm *bt = v->bt;
    enum bt_leave (*go)(void) = (enum bt_leave(*)(void))(uintptr_t)(bt->code.rx + bt->stubs.enter);

    want(v, b->needs);
    stack_moved(v);
    v->code_page = v->c.s.rip & ~PAGE_MASK;
    v->resume = (uint64_t)(uintptr_t)bt->code.rx + b->entry;
    v->n.enters++;
    bt_phase(v, BT_IN_CODE);
    why = go();
    take_back(v);
    bt_phase(v, BT_IN_LOOP);
    v->n.left[why]++;
    return why;
}

/* ---- finding and making blocks --------------------------------------------------------------- */

/* All vCPUs get the new mode's table: translated code goes from one mode to another by itself. */
unsigned bt_mode_id(struct bt_vm *bt, uint64_t key, uint64_t cs_word)
{
    bool own = (key & MODE_CODE) == MODE_CODE64 && bt->nmode_tables < BT_MODES - 1;
    unsigned n, table;

    for (n = 0; n < bt->nmodes; n++)
        if (bt->modes[n].key == key && bt->modes[n].cs_word == cs_word)
            return n;
    if (n == BT_MODE_LIST)
        return n;
    table = own ? bt->nmode_tables++ : BT_MODES - 1;
    for (unsigned i = 0; i < bt->vm->nvcpus; i++)
        if (bt->vm->vcpus[i]->engine)
            bt_targets_use(bt_of(interp_of(bt->vm->vcpus[i])), table);
    bt->modes[n].key = key;
    bt->modes[n].cs_word = cs_word;
    bt->modes[n].table = table;
    bt->nmodes++;
    return n;
}

void bt_use_mode(struct bt_vcpu *v)
{
    struct bt_vm *bt = v->bt;
    uint64_t key = bt_key(&v->c), cs_word = bt_cs_word(&v->c);
    unsigned n;

    if (likely(v->mode_key == key && v->mode_cs == cs_word)) {
        v->mode_number = v->mode_id; /* translated code may have been in another one */
        return;
    }
    pthread_mutex_lock(&bt->lock);
    n = bt_mode_id(bt, key, cs_word);
    if (n < BT_MODE_LIST)
        v->mode_table = bt->modes[n].table;
    pthread_mutex_unlock(&bt->lock);
    /* Modes of the early boot hold the tables: a few times, all begin anew. */
    if (n == BT_MODE_LIST || (v->c.code64 && v->mode_table == BT_MODES - 1 &&
                              atomic_fetch_add(&bt->table_flushes, 1) < TABLE_FLUSHES)) {
        bt_cache_flush(v);
        bt_use_mode(v);
        return;
    }
    if (v->mode_key != key)
        bt_window_drop(v);
    v->mode_key = key;
    v->mode_cs = cs_word;
    v->mode_id = v->mode_number = n;
}

/* May what is at s.rip be run by a block that runs anywhere? */
static bool may_run_anywhere(const struct bt_vcpu *v, uint64_t phys)
{
    const struct interp *c = &v->c;
    const struct bt_vm *bt = v->bt;

    if (!c->code64 || !anywhere_at(c->s.rip))
        return false;
    return bt->anywhere ||
           (c->cpl == 3 && phys >> PAGE_SHIFT < bt->iv.pages &&
            atomic_load_explicit(&bt->page_places[phys >> PAGE_SHIFT], memory_order_relaxed));
}

static uint64_t process(const struct bt_vcpu *v)
{
    return (v->c.s.gpr[REG_RSP] >> SETTLE_SHIFT) + 1;
}

/*
 * A block that runs anywhere has been left because something is pending. If it is the same process
 * several times it stays: where its indirect branches go is looked for again, to find or make its
 * own blocks.
 */
static void tick(struct bt_vcpu *v)
{
    const uint8_t *miss = v->bt->code.rx + v->bt->stubs.leave_indirect;
    uint64_t is = process(v);

    v->ticks = is == v->seen ? v->ticks + 1 : 1;
    v->seen = is;
    if (v->ticks < SETTLE_TICKS || is == v->settled || v->bt->anywhere)
        return;
    v->settled = is;
    bt_use_mode(v);
    for (unsigned i = 0; i < BT_TARGETS; i++)
        v->targets[v->mode_table][i] = miss;
}

struct bt_block *bt_find_at(struct bt_vcpu *v, uint64_t phys, uint64_t key)
{
    struct bt_vm *bt = v->bt;
    gva_t rip = v->c.s.rip;
    bool may = may_run_anywhere(v, phys);
    struct bt_block *own = NULL, *b = NULL;

    v->known = v->passing = false;
    if (!(may && v->anywhere))
        own = bt_cache_find(bt, rip, key, v->mode_cs, phys);
    if (own || !may)
        return own;
    b = bt_cache_find(bt, rip & PAGE_MASK, key | BT_KEY_ANYWHERE, v->mode_cs, phys);
    v->passing = b && !v->anywhere && v->c.cpl == 3 && process(v) == v->settled;
    if (b || !v->anywhere)
        return b;
    own = bt_cache_find(bt, rip, key, v->mode_cs, phys);
    v->known = own;
    return own && own->fixed ? own : NULL;
}

/* The translation of what is at s.rip. Raises what the fetch raises. */
struct bt_block *bt_find(struct bt_vcpu *v)
{
    struct interp *c = &v->c;
    gva_t rip = c->s.rip, lin = block_linear(c, rip);
    struct bt_block *b;
    uint32_t page;

    c->block = NULL;
    c->block_rip = rip;
    c->cur = &block_fetch_insn;
    if (rip > bt_code_limit(c))
        return NULL;
    if (!access_host(c, lin, 1, ACCESS_EXEC, c->key))
        return NULL;
    page = c->tlb_ram_page[TLB_SLOT(lin)];
    b = bt_find_at(v, (uint64_t)page << PAGE_SHIFT | (lin & PAGE_MASK), v->mode_key | v->without);
    v->n.lookups++;
    if (b) {
        v->n.found++;
        bt_exec_fill(v, lin, page);
    }
    return b;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/*
 * Where an indirect branch could not go: it raises its fault, with rsp as it was before. A return
 * address stays in memory, as processors leave it; it may have overwritten the target, so the
 * branch is not run again.
 */
void bt_undo_indirect(struct bt_vcpu *v)
{
    const struct bt_site *s = &v->bt->sites[v->indirect_from];
    struct interp *c = &v->c;

    if (c->code64)
        c->s.gpr[REG_RSP] -= (uint64_t)(int64_t)s->moved;
    else
        set_sp(c, c->s.gpr[REG_RSP] - (uint64_t)(int64_t)s->moved);
    c->s.rip = c->block_rip = block_rip(v, &v->bt->blocks[s->block]) + s->off;
    c->block = NULL;
    c->cur = &access_insn;
    interp_raise_err(c, VEC_GP, 0);
}

bool bt_target_ok(const struct interp *c, uint64_t target)
{
    return c->code64 ? canonical(target) : target <= c->s.seg[SEG_CS].limit;
}

static void left(struct bt_vcpu *v, enum bt_leave why)
{
    struct bt_vm *bt = v->bt;
    struct interp *c = &v->c;
    uint64_t flushes = bt->flushes;
    const uint8_t **target;
    struct bt_exit *x;
    struct bt_block *b;

    switch (why) {
    case BT_LEAVE_SITE:
        b = &bt->blocks[bt->sites[v->id].block];
        c->s.rip = block_rip(v, b) + bt->sites[v->id].off;
        if (b->needs && !atomic_load_explicit(&v->attention[0], memory_order_relaxed)) {
            v->habit |= b->needs;
            v->habit_left = HABIT;
        }
        /* Who goes to a dead block because of what cannot be had would come back to it for ever. */
        if (__atomic_load_n(&b->dead, __ATOMIC_ACQUIRE)) {
            v->without = b->key & BT_KEY_WITHOUT;
            v->without_site = BT_NONE;
            v->anywhere = block_anywhere(b);
            target = &v->targets[v->mode_table][c->s.rip & (BT_TARGETS - 1)];
            if (*target == bt->code.rx + b->entry_indirect)
                *target = bt->code.rx + bt->stubs.leave_indirect;
        } else if (block_anywhere(b) && c->cpl == 3 &&
                   atomic_load_explicit(&v->attention[0], memory_order_relaxed)) {
            tick(v);
        }
        return;
    case BT_LEAVE_DIRECT:
        x = &bt->exits[v->id];
        c->s.rip = exit_target(v, x);
        if (unlikely(!canonical(c->s.rip)))
            return; /* the fetch raises */
        v->anywhere = block_anywhere(&bt->blocks[x->block]);
        bt_use_mode(v);
        if (flushes != bt->flushes)
            return; /* the exit is no more */
        b = bt_find(v);
        bt_trace(v, b ? "link" : "exit", c->s.rip, block_rip(v, &bt->blocks[x->block]), v->id, 0);
        if (!b || v->passing)
            return;
        pthread_mutex_lock(&bt->lock);
        if (!b->dead && !bt->blocks[x->block].dead)
            bt_cache_link(bt, x, b);
        pthread_mutex_unlock(&bt->lock);
        return;
    case BT_LEAVE_INDIRECT:
        if (unlikely(!bt_target_ok(c, v->target))) {
            bt_undo_indirect(v);
            return;
        }
        c->s.rip = v->target;
        bt_use_mode(v);
        if (flushes != bt->flushes)
            return;
        b = bt_find(v);
        bt_trace(v, "exit_indirect", c->s.rip,
                 block_rip(v, &bt->blocks[bt->sites[v->indirect_from].block]), b != NULL, 0);
        if (b && !v->passing)
            v->targets[v->mode_table][v->target & (BT_TARGETS - 1)] =
                bt->code.rx + b->entry_indirect;
        return;
    case BT_LEAVE_SLOW:
        return;
    }
}

/* Has the code at s.rip been run often enough? */
static bool warm(struct bt_vcpu *v)
{
    gva_t lin = block_linear(&v->c, v->c.s.rip);
    uint8_t *runs = &v->runs[jump_slot(lin) & (BT_RUNS - 1)];
    uint32_t page = v->c.tlb_ram_page[TLB_SLOT(lin)];
    bool changing =
        v->bt->warm > 1 && page < v->bt->iv.pages && v->bt->page_kills[page] >= CHANGING;

    if (++*runs < (changing ? WARM_CHANGING : v->bt->warm))
        return false;
    *runs = 0;
    return true;
}

static bool translate_here(struct bt_vcpu *v)
{
    struct bt_block *b;
    bool full;

    bt_phase(v, BT_IN_TRANSLATOR);
    b = bt_translate(v, &full);
    bt_phase(v, BT_IN_LOOP);
    if (b)
        return true;
    if (full)
        bt_cache_flush(v);
    return false;
}

static void run_cold(struct bt_vcpu *v, bool single)
{
    v->n.cold++;
    bt_phase(v, BT_IN_INTERP);
    interp_run_block(&v->c, single);
    bt_phase(v, BT_IN_LOOP);
}

void bt_run_some(struct bt_vcpu *v)
{
    struct interp *c = &v->c;
    struct bt_block *b;

    if (!bt_mode_ok(c)) {
        run_cold(v, false);
        return;
    }
    bt_use_mode(v);
    b = bt_find(v);
    if (b && v->passing && warm(v)) {
        v->settle = true;
        translate_here(v);
        v->settle = false;
        return;
    }
    if (b) {
        if (v->without && v->without_site != BT_NONE && !v->passing)
            bt_cache_link_without(v->bt, &v->bt->sites[v->without_site], b);
        v->without = 0;
        v->anywhere = false;
        left(v, bt_enter(v, b));
    } else if (!(v->without || v->known || warm(v)) || !translate_here(v)) {
        v->without = 0;
        v->anywhere = false;
        run_cold(v, false);
    }
}

void bt_enter_thread(struct bt_vcpu *v)
{
    hostcode_enter_thread(&v->bt->code, &((struct thunks *)v->c.thunks)->code);
    hostcode_set_gs(&v->tlb[KEY_USER], v->bt->vm->host & HOST_FSGSBASE);
}

static void run_loop(struct bt_vcpu *v)
{
    struct interp *c = &v->c;

    if (interp_boundary(c))
        return;
    for (;;) {
        if (unlikely(atomic_load_explicit(&v->attention[0], memory_order_relaxed)))
            atomic_store(&v->attention[0], 0); /* the others stay: nothing is loaded */
        if (interp_boundary_due(c)) {
            if (interp_boundary(c))
                return;
            if (interp_step_due(c)) {
                run_cold(v, true);
                if (c->stop)
                    return;
                continue;
            }
        }
        if (unlikely(c->stop))
            return;
        bt_run_some(v);
    }
}

static enum vcpu_stop bt_run(struct vcpu *vcpu, uint64_t budget)
{
    struct bt_vcpu *const v = bt_of(interp_of(vcpu));
    struct interp *const c = &v->c;
    sigjmp_buf raise_to;
    enum vcpu_stop why;

    /* A budget and virtual time need each instruction counted: that is the interpreter's. */
    if (budget != UINT64_MAX || clock_mode(c->vm->clock) == CLOCK_VIRTUAL)
        return engine_interp.run(vcpu, budget);
    bt_enter_thread(v);
    interp_run_begin(c, budget, &raise_to);
    bt_phase(v, BT_IN_LOOP);
    if (sigsetjmp(raise_to, 0)) {
        bt_phase(v, BT_IN_LOOP);
        interp_raised(c);
    }
    run_loop(v);
    why = interp_run_end(c);
    if (why == VCPU_STOP_HALT)
        bt_cache_rest(v->bt);
    bt_phase(v, BT_OUTSIDE);
    return why;
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void bt_kick(struct vcpu *vcpu)
{
    struct bt_vcpu *v = bt_of(interp_of(vcpu));

    leave_at_poll(v);
}

static void bt_vm_fini(struct vm *vm)
{
    struct bt_vm *bt = vm->engine_data;

    if (!bt)
        return;
    bt_perf_map_close(bt);
    bt_translate_fini(bt);
    bt_cache_fini(bt);
    pthread_mutex_destroy(&bt->lock);
    interp_vm_fini(vm);
}

static int bt_vm_init(struct vm *vm, struct err *err)
{
    int r = interp_vm_create(vm, sizeof(struct bt_vm), err);
    struct bt_vm *bt = vm->engine_data;

    if (r < 0)
        return r;
    pthread_mutex_init(&bt->lock, NULL);
    bt->vm = vm;
    bt->perf_map = -1;
    bt_look_init(bt);
    bt->warm = vm->engine_options.warm ? vm->engine_options.warm : WARM;
    bt->anywhere = vm->engine_options.anywhere;
    bt->iv.code_written = bt_code_written;
    r = bt_cache_init(bt, err);
    if (r == 0)
        r = bt_translate_init(bt, err);
    if (r == 0 && vm->engine_options.perf_map)
        r = bt_perf_map_open(bt, err);
    if (r < 0) {
        bt_vm_fini(vm);
        return r;
    }
    bt->code.trap = bt_trap_target;
    bt->code.trap_opaque = bt;
    return 0;
}

static int bt_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct bt_vcpu *v;
    int r = interp_create(vcpu, sizeof(*v), COLD_BYTES, err);

    if (r < 0)
        return r;
    v = bt_of(interp_of(vcpu));
    v->self = v;
    v->bt = vcpu->vm->engine_data;
    v->host_mxcsr = 0x1f80;
    for (unsigned i = 0; i < BT_LOOPS; i++)
        v->loop_credit[i] = BT_LOOP_CREDIT;
    leave_at_poll(v);
    v->mode_key = UINT64_MAX;
    bt_tlb_init(v);
    bt_window_drop(v);
    v->c.listener = &bt_listener;
    bt_look_vcpu(v);
    return 0;
}

static void bt_vcpu_fini(struct vcpu *vcpu)
{
    interp_destroy(vcpu, sizeof(struct bt_vcpu));
}

static void bt_set(struct vcpu *vcpu, const struct cpu_state *cs)
{
    engine_interp.set(vcpu, cs);
}

static void bt_get(struct vcpu *vcpu, struct cpu_state *cs)
{
    engine_interp.get(vcpu, cs);
}

static uint64_t bt_tsc_offset(struct vcpu *vcpu)
{
    return engine_interp.tsc_offset(vcpu);
}

static unsigned bt_last_exceptions(struct vcpu *vcpu, struct cpu_exception *out, unsigned max)
{
    return engine_interp.last_exceptions(vcpu, out, max);
}

const struct engine engine_bt = {
    .name = "bt",
    .vm_init = bt_vm_init,
    .vm_fini = bt_vm_fini,
    .vcpu_init = bt_vcpu_init,
    .vcpu_fini = bt_vcpu_fini,
    .run = bt_run,
    .kick = bt_kick,
    .get = bt_get,
    .set = bt_set,
    .tsc_offset = bt_tsc_offset,
    .slot_changed = interp_slot_changed,
    .ram_written = interp_ram_written,
    .last_exceptions = bt_last_exceptions,
    .inspect = bt_inspect,
};
