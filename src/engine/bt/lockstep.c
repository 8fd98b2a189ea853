/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/bt/lockstep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "core/device.h"
#include "core/vm.h"
#include "engine/bt/form.h"
#include "engine/engine.h"
#include "engine/interp/tlb.h"

#define TRIES 3

/* What sigsetjmp of struct lockstep's `jump` returns. */
#define JUMP_RAISED 1
#define JUMP_DEVICE 2

static uint32_t aflags_of(uint16_t flags)
{
    return (flags & 0xd5u) << 8 | (flags >> 11 & 1);
}

/* ---- what is written ---- */

static void on_writing(struct interp *c, gva_t addr, uint8_t *host, uint32_t ram_page)
{
    struct lockstep *l = bt_of(c)->bt->lockstep;
    unsigned slot = TLB_SLOT(addr);
    struct lockstep_page *p;

    if (!(l->has_slot[slot / 64] >> slot % 64 & 1)) {
        l->has_slot[slot / 64] |= BIT(slot % 64);
        l->slot[l->nslots++] = (uint16_t)slot;
    }
    if (l->phase == LOCKSTEP_ALONE)
        return;
    for (unsigned i = 0; i < l->npages; i++)
        if (l->page[i].ram_page == ram_page)
            return;
    if (l->npages == LOCKSTEP_PAGES) {
        l->overflow = true;
        siglongjmp(l->jump, JUMP_DEVICE);
    }
    p = &l->page[l->npages++];
    p->ram_page = ram_page;
    p->by_second = l->phase == LOCKSTEP_SECOND;
    p->host = host;
    memcpy(p->before, host, PAGE_SIZE);
}

static void on_device(struct interp *c)
{
    struct lockstep *l = bt_of(c)->bt->lockstep;

    if (l->phase != LOCKSTEP_ALONE)
        siglongjmp(l->jump, JUMP_DEVICE);
}

static void on_code_written(struct interp_vm *iv, uint32_t ram_page, uint64_t granules)
{
    container_of(iv, struct bt_vm, iv)->lockstep->code_written = true;
    bt_code_written(iv, ram_page, granules);
}

/* From here on the first store to each page is seen. */
static void drop_write_tags(struct lockstep *l)
{
    for (unsigned i = 0; i < l->nslots; i++) {
        unsigned slot = l->slot[i] & (TLB_ENTRIES - 1);

        tlb_drop_write(&l->v->c, slot);
        for (unsigned t = 0; t < BT_TABLES; t++)
            bt_tlb_drop_write(l->v, t, slot);
        l->has_slot[slot / 64] = 0;
    }
    l->nslots = 0;
    bt_window_drop(l->v);
}

static void pages_back(struct lockstep *l)
{
    for (unsigned i = 0; i < l->npages; i++)
        memcpy(l->page[i].host, l->page[i].before, PAGE_SIZE);
}

/* ---- state ---- */

static void save(struct lockstep *l)
{
    const struct interp *c = &l->v->c;

    l->s = c->s;
    l->aflags = c->aflags;
    l->mode = c->mode;
    l->key = c->key;
    l->armed = c->armed;
    l->armed_icount = c->armed_icount;
    l->intr_masked = c->intr_masked;
    l->ferr = c->ferr;
    l->exc_ext = c->exc_ext;
    l->event_kind = c->event_kind;
    l->npages = 0;
    l->overflow = l->code_written = false;
    drop_write_tags(l);
}

static void restore(struct lockstep *l)
{
    struct interp *c = &l->v->c;

    pages_back(l);
    c->s = l->s;
    c->aflags = l->aflags;
    c->armed = l->armed;
    c->armed_icount = l->armed_icount;
    c->intr_masked = l->intr_masked;
    c->ferr = l->ferr;
    c->exc_ext = l->exc_ext;
    c->event_kind = l->event_kind;
    c->block = NULL;
    if (c->mode != l->mode || (c->key ^ l->key) & KEY_MODE)
        interp_mode_changed(c);
}

static void note_end(struct lockstep *l, struct lockstep_end *e)
{
    struct interp *c = &l->v->c;

    if (e->raised) {
        c->s.rip = interp_rip(c);
        e->vector = c->exc_vector;
        e->has_error = c->exc_has_error;
        e->soft = c->exc_soft;
        e->error = c->exc_has_error ? c->exc_error : 0;
        e->payload = c->exc_vector == VEC_PF || c->exc_vector == VEC_DB ? c->exc_payload : 0;
    }
    if (c->exclusive) {
        c->exclusive = 0;
        vcpu_exclusive_end(c->vcpu);
    }
    e->s = c->s;
    e->aflags = c->aflags;
    e->mode = c->mode;
    e->key = c->key;
    e->cpl = c->cpl;
}

/* ---- the interpreter's run ---- */

/* MOV to and from control and debug registers. */
static bool is_mov_control(const struct insn *i)
{
    const uint8_t *p = i->bytes;
    unsigned n = 0;

    while (n < i->len && (p[n] == 0x66 || p[n] == 0xf2 || p[n] == 0xf3 || (p[n] & 0xf0) == 0x40))
        n++;
    return n + 1 < i->len && p[n] == 0x0f && (p[n + 1] & 0xfc) == 0x20;
}

/* FERR# goes to a chip. */
static bool is_x87(const struct insn *i)
{
    const char *name = ZydisMnemonicGetString((ZydisMnemonic)i->mnemonic);

    return name && name[0] == 'f';
}

static bool is_conditional(unsigned mnemonic)
{
    return (mnemonic >= ZYDIS_MNEMONIC_JB && mnemonic <= ZYDIS_MNEMONIC_JZ) ||
           mnemonic == ZYDIS_MNEMONIC_LOOP || mnemonic == ZYDIS_MNEMONIC_LOOPE ||
           mnemonic == ZYDIS_MNEMONIC_LOOPNE;
}

static bool can_repeat(const struct interp *c, const struct insn *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_RSM:
        return false;
    case ZYDIS_MNEMONIC_MOV:
        return !is_mov_control(i);
    default:
        break;
    }
    if ((c->ferr || !(c->s.cr0 & CR0_NE)) && is_x87(i))
        return false;
    /* A conditional branch to its successor: taken or not, one can not tell. */
    return i->bytes[i->len - 1] != 0 || !is_conditional(i->mnemonic);
}

/* block_find for one instruction of 64-bit code, which is looked for all the time. */
static struct block *find_single(struct lockstep *l)
{
    struct interp *c = &l->v->c;
    const struct block_cache *bc = c->blocks;
    uint64_t rip = c->s.rip;
    unsigned slot = TLB_SLOT(rip);
    uint32_t page = c->tlb_ram_page[slot];
    struct lockstep_single *e = &l->single[(rip ^ rip >> PAGE_SHIFT) & (LOCKSTEP_SINGLES - 1)];
    struct block *b = e->block;

    if (likely(b && e->rip == rip && e->flushes == bc->flushes && c->code64 &&
               c->tlb[slot].tag[ACCESS_EXEC] == ((rip & ~PAGE_MASK) | c->key) &&
               b->phys == ((uint64_t)page << PAGE_SHIFT | (rip & PAGE_MASK)) &&
               b->mode == (c->mode | BLOCK_SINGLE) && b->page2 == BLOCK_NO_PAGE &&
               b->gen == atomic_load_explicit(&c->code_gen[page], memory_order_acquire))) {
        c->block_rip = rip;
        return b;
    }
    b = block_find(c, true);
    *e = (struct lockstep_single){.rip = rip, .flushes = bc->flushes, .block = b};
    return b;
}

/*
 * One instruction; false: a REP that is not finished. The shadow of an STI that came before it in
 * the same block ends with it; that of the last instruction stays for interp_boundary.
 */
static bool run_single(struct interp *c, struct block *b)
{
    uint64_t icount = c->s.icount;
    uint8_t shadow = c->s.shadow;
    bool whole;

    interp_run_found(c, b);
    c->block = NULL;
    whole = c->s.icount != icount;
    if (whole && shadow)
        c->s.shadow = 0;
    return whole;
}

/* Is the mode another one than when the block began? STAC and CLAC may change the table. */
static bool other_mode(const struct bt_vcpu *v)
{
    return (bt_key(&v->c) ^ v->mode_key) & ~(KEY_MODE << BT_KEY_TABLE_SHIFT);
}

/* Is there anything but its successor that may follow the instruction at rip? */
static bool goes_elsewhere(const struct interp *c, uint64_t rip, unsigned len)
{
    return c->s.rip != rip + len || c->stop || c->s.activity != CPU_RUNNING || c->s.event_pending ||
           c->s.pending_dbg || (c->s.rflags & (RFLAGS_TF | RFLAGS_RF)) || !bt_mode_ok(c);
}

static enum lockstep_cut first_insns(struct lockstep *l, unsigned most)
{
    struct interp *c = &l->v->c;

    while (l->a.insns < most) {
        uint64_t rip = c->s.rip;
        struct block *x = find_single(l);
        unsigned len = x->bytes;
        bool whole;

        if (!can_repeat(c, &x->insns[0]))
            return CUT_BEFORE;
        l->trace[l->a.insns] = rip;
        whole = run_single(c, x);
        l->a.insns += whole;
        if (!whole && !l->code_written) { /* for the loop: an interrupt may come in the middle */
            l->a.device = true;
            return CUT_NATURAL;
        }
        if (l->code_written)
            return CUT_ACCEPT;
        if (goes_elsewhere(c, rip, len) || other_mode(l->v))
            return CUT_NATURAL;
    }
    return CUT_NATURAL;
}

/* Up to `most` instructions. */
static void first(struct lockstep *l, unsigned most)
{
    struct interp *c = &l->v->c;

    l->a.raised = l->a.device = false;
    l->a.insns = 0;
    l->cut = CUT_NATURAL;
    l->phase = LOCKSTEP_FIRST;
    c->raise_to = &l->jump;
    switch (sigsetjmp(l->jump, 0)) {
    case 0:
        l->cut = first_insns(l, most);
        break;
    case JUMP_RAISED:
        l->a.raised = true;
        if (l->code_written)
            l->cut = CUT_ACCEPT;
        break;
    default:
        l->a.device = true;
        break;
    }
    c->raise_to = l->outer;
    l->phase = LOCKSTEP_ALONE;
    note_end(l, &l->a);
    for (unsigned i = 0; i < l->npages; i++)
        memcpy(l->page[i].after, l->page[i].host, PAGE_SIZE);
}

/* ---- the translator's run ---- */

/* A block of `cap` instructions (0: as many as it has), at phys. */
static struct bt_block *translate(struct bt_vcpu *v, unsigned cap, uint64_t phys)
{
    struct bt_block *b = NULL;
    bool full = false;

    v->cap = cap;
    if (cap)
        b = bt_find_at(v, phys, v->mode_key | v->without | (uint64_t)cap << BT_KEY_CAP_SHIFT);
    if (!b)
        b = bt_translate(v, &full);
    v->cap = 0;
    if (full)
        bt_cache_flush(v);
    return b;
}

/* How many instructions came before the one of the site. */
static unsigned insns_before(const struct lockstep *l, const struct bt_site *s)
{
    uint64_t rip = block_rip(l->v, &l->v->bt->blocks[s->block]) + s->off;
    unsigned n;

    for (n = 0; n < l->a.insns && l->trace[n] != rip; n++)
        ;
    return n;
}

/* Translated code has been left: s.rip, the instructions done, the flags that count. */
static void second_left(struct lockstep *l, enum bt_leave why)
{
    struct bt_vcpu *v = l->v;
    const struct bt_vm *bt = v->bt;
    const struct bt_site *s;
    struct interp *c = &v->c;

    l->b.insns = l->a.insns;
    switch (why) {
    case BT_LEAVE_DIRECT:
        c->s.rip = exit_target(v, &bt->exits[v->id]);
        l->live = bt->exits[v->id].live;
        break;
    case BT_LEAVE_INDIRECT:
        v->slow_site = v->indirect_from;
        l->live = FLAGS_ALL; /* whatever was left on the way */
        if (!bt_target_ok(c, v->target))
            bt_undo_indirect(v);
        c->s.rip = v->target;
        break;
    case BT_LEAVE_SITE:
        s = &bt->sites[v->id];
        c->s.rip = block_rip(v, &bt->blocks[s->block]) + s->off;
        l->live = site_flags_of(s->live_in);
        l->b.insns = insns_before(l, s);
        break;
    case BT_LEAVE_SLOW:
        s = &bt->sites[v->slow_site];
        l->b.insns = insns_before(l, s);
        if (c->s.icount != v->slow_icount) {
            l->b.insns++;
            l->live = site_flags_of(s->live_out);
        } else {
            l->live = site_flags_of(s->live_in);
        }
        break;
    }
}

static void second_insns(struct lockstep *l, const struct bt_block *b)
{
    struct bt_vcpu *v = l->v;
    struct interp *c = &v->c;

    for (unsigned done = 0, rest;;) {
        v->slow_site = BT_NONE;
        for (unsigned n = 0; n < BT_NEEDS; n++)
            v->attention[n] = n & ~(unsigned)v->live ? 1 : 0;
        second_left(l, bt_enter(v, b));
        if (!v->without)
            break;
        /* What is left of the block does without the stack's window. */
        rest = b->insns - (l->b.insns - done);
        done = l->b.insns;
        bt_use_mode(v);
        b = translate(v, rest, (b->phys & ~PAGE_MASK) | (c->s.rip & PAGE_MASK));
        v->without = 0;
        v->anywhere = false;
        if (!b)
            break;
    }
    l->compared += l->b.insns;
    v->slow_site = BT_NONE;
    /* Something is pending, so that a slow instruction left early. */
    for (unsigned n = l->b.insns; n < l->a.insns; n++) {
        l->alone++;
        while (!run_single(c, find_single(l)))
            ;
    }
}

static gva_t stack_at(const struct interp *c, int64_t off)
{
    uint64_t sp = (c->s.gpr[REG_RSP] + (uint64_t)off) & c->sp_mask;

    return c->code64 ? sp : (uint32_t)(c->s.seg[SEG_SS].base + sp);
}

/*
 * The stack's page gets its write tag, if that needs no more than the table: the window depends on
 * it, and the interpreter may have read only.
 */
static void open_stack(struct lockstep *l, gva_t addr)
{
    struct interp *c = &l->v->c;
    struct walk_in in = {
        .cs = &c->s,
        .model = c->vcpu->model,
        .vcpu = c->vcpu,
        .write = true,
        .user = c->cpl == 3,
        .no_update = true,
    };
    struct tlb_place place;
    struct walk_out out;

    if (!canonical(addr) || l->npages == LOCKSTEP_PAGES ||
        c->tlb[TLB_SLOT(addr)].tag[ACCESS_WRITE] == ((addr & ~PAGE_MASK) | c->key))
        return;
    if (paging_walk(&in, addr, &out) && out.writable)
        tlb_find(c, addr, ACCESS_WRITE, c->key, &place);
}

/*
 * Flags that were dead before the block and that neither has changed stay dead, whatever the end of
 * the block says: who cuts a block short knows less of what follows.
 */
static uint16_t still_dead(const struct lockstep *l)
{
    uint32_t kept = ~(l->a.aflags ^ l->aflags), inverted = l->b.aflags ^ l->aflags;

    return l->dead & (uint16_t)aflags_to_rflags(kept & inverted);
}

static void second(struct lockstep *l, const struct bt_block *b)
{
    struct interp *c = &l->v->c;

    l->b.raised = l->b.device = false;
    l->b.insns = 0;
    l->live = FLAGS_ALL;
    c->aflags ^= aflags_of(l->dead);
    l->phase = LOCKSTEP_SECOND;
    c->raise_to = &l->jump;
    switch (sigsetjmp(l->jump, 0)) {
    case 0:
        open_stack(l, stack_at(c, -8));
        open_stack(l, stack_at(c, 0));
        second_insns(l, b);
        break;
    case JUMP_RAISED:
        l->b.raised = true;
        if (l->v->slow_site != BT_NONE)
            l->live = site_flags_of(l->v->bt->sites[l->v->slow_site].live_in);
        break;
    default:
        l->b.device = true;
        break;
    }
    c->raise_to = l->outer;
    l->phase = LOCKSTEP_ALONE;
    note_end(l, &l->b);
    l->b.s.icount = l->a.s.icount;
    l->live &= (uint16_t)~still_dead(l);
}

/* ---- comparing ---- */

#define PTE_AD 0x60ull

/* Words that differ in accessed and dirty bits alone become the same. */
static bool page_same(const struct lockstep *l, struct lockstep_page *p)
{
    if (p->by_second)
        memcpy(p->after, p->before, PAGE_SIZE);
    if (likely(!memcmp(p->after, p->host, PAGE_SIZE)))
        return true;
    for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
        uint64_t a, b;

        memcpy(&a, p->after + at, 8);
        memcpy(&b, p->host + at, 8);
        if (a == b)
            continue;
        if (((a ^ b) & ~PTE_AD) || !(a & 1) || (l->s.seg[SEG_SS].attr & SEG_ATTR_DPL))
            return false;
        a |= b;
        memcpy(p->host + at, &a, 8);
    }
    return true;
}

static bool same(struct lockstep *l)
{
    const struct lockstep_end *a = &l->a, *b = &l->b;
    bool ok = !l->overflow && !b->device && a->raised == b->raised &&
              !memcmp(&a->s, &b->s, sizeof(a->s)) && a->mode == b->mode &&
              !((a->key ^ b->key) & KEY_MODE) && a->cpl == b->cpl &&
              !((a->aflags ^ b->aflags) & aflags_of(l->live));

    if (ok && a->raised)
        ok = a->vector == b->vector && a->has_error == b->has_error && a->soft == b->soft &&
             a->error == b->error && a->payload == b->payload;
    for (unsigned i = 0; ok && i < l->npages; i++)
        ok = page_same(l, &l->page[i]);
    return ok;
}

/* ---- a block ---- */

/* Both have run and agree: the interpreter's flags are all right, the translator's only where live.
 */
static void agreed(struct lockstep *l)
{
    struct interp *c = &l->v->c;

    l->blocks++;
    l->dead = FLAGS_ALL & (uint16_t)~l->live;
    c->aflags = l->a.aflags;
    c->s.icount = l->a.s.icount;
    c->block = NULL;
    if (!l->a.raised)
        return;
    l->faults++;
    l->compared++;
    l->dead = 0;
    c->s.icount++;
}

static void differ(struct lockstep *l, const struct bt_block *b)
{
    struct vm *vm = l->v->c.vm;

    lockstep_report(l, b);
    l->over = true;
    vm_request(vm, VM_REQUEST_DIFFERENCE, 0);
}

/*
 * The block at s.rip, of which `most` instructions may be run, by both. False: its first
 * instruction is the interpreter's alone, and has not been run. What was raised (a.raised) is still
 * to be delivered.
 */
static bool both(struct lockstep *l, const struct bt_block *b, unsigned most)
{
    for (unsigned try = 1;; try++) {
        save(l);
        for (;;) {
            first(l, most);
            if (!l->a.device)
                break;
            /* Again, up to the instruction before. */
            restore(l);
            most = l->a.insns;
            l->overflow = false;
            if (!most)
                return false;
        }
        if (l->cut == CUT_ACCEPT) {
            l->alone += l->a.insns;
            l->dead = 0;
            if (l->a.raised)
                interp_raised(&l->v->c);
            return true;
        }
        restore(l);
        if (l->cut == CUT_BEFORE)
            most = l->a.insns;
        if (!most)
            return false;
        if (most < b->insns && !l->a.raised && l->a.insns == most) {
            b = translate(l->v, most, b->phys);
            if (!b)
                return false;
        }
        second(l, b);
        if (likely(same(l)))
            break;
        if (try == TRIES) {
            differ(l, b);
            return true;
        }
        l->unstable++;
        restore(l);
    }
    agreed(l);
    return true;
}

/* ---- the loop ---- */

static uint64_t budget(const struct interp *c)
{
    return c->icount_limit - c->s.icount;
}

static void alone(struct lockstep *l, bool single)
{
    struct interp *c = &l->v->c;
    uint64_t icount = c->s.icount;

    l->dead = 0;
    interp_run_block(c, single || budget(c) < BLOCK_MAX_INSNS);
    if (single)
        l->alone += c->s.icount - icount;
    else
        l->untranslated += c->s.icount - icount;
}

static void run_some(struct lockstep *l)
{
    struct bt_vcpu *v = l->v;
    struct interp *c = &v->c;
    struct bt_block *b;
    bool done;

    if (!bt_mode_ok(c)) {
        alone(l, false);
        return;
    }
    bt_use_mode(v);
    b = bt_find(v);
    if (!b)
        b = translate(v, 0, 0);
    if (!b || budget(c) < b->insns) {
        alone(l, true);
        return;
    }
    vm_lock(c->vm);
    l->locked = true;
    done = both(l, b, b->insns);
    l->locked = false;
    vm_unlock(c->vm);
    if (!done)
        alone(l, true);
    else if (l->a.raised && !l->over)
        interp_raised(c);
}

static void run_loop(struct lockstep *l)
{
    struct interp *c = &l->v->c;

    if (interp_boundary(c))
        return;
    for (;;) {
        if (interp_boundary_due(c)) {
            l->dead = 0; /* an event may come in between */
            if (interp_boundary(c))
                return;
        }
        if (unlikely(c->stop))
            return;
        if (unlikely(c->s.icount >= c->icount_limit)) {
            c->stop = VCPU_STOP_BUDGET + 1;
            return;
        }
        if (interp_boundary_due(c))
            alone(l, true);
        else
            run_some(l);
        if (unlikely(l->over)) {
            c->stop = VCPU_STOP_HALT + 1;
            return;
        }
    }
}

static enum vcpu_stop lockstep_run(struct vcpu *vcpu, uint64_t budget)
{
    struct bt_vcpu *const v = bt_of(interp_of(vcpu));
    struct lockstep *const l = v->bt->lockstep;
    struct interp *const c = &v->c;
    sigjmp_buf raise_to;

    if (l->over)
        return VCPU_STOP_HALT;
    bt_enter_thread(v);
    interp_run_begin(c, budget, &raise_to);
    l->outer = &raise_to;
    if (sigsetjmp(raise_to, 0)) {
        l->dead = 0;
        interp_raised(c);
        if (l->locked)
            vm_unlock(c->vm);
        l->locked = false;
    }
    run_loop(l);
    return interp_run_end(c);
}

/* ---- the engine ---- */

static void lockstep_vm_fini(struct vm *vm)
{
    struct bt_vm *bt = vm->engine_data;
    struct lockstep *l = bt ? bt->lockstep : NULL;

    if (l && l->v)
        fprintf(stderr,
                "doppel: lockstep: %" PRIu64 " blocks, %" PRIu64 " instructions and %" PRIu64
                " exceptions compared; by the interpreter alone: %" PRIu64
                " instructions, and %" PRIu64 " of code that is not translated; %" PRIu64
                " repeats; %s\n",
                l->blocks, l->compared, l->faults, l->alone, l->untranslated, l->unstable,
                l->over ? "a difference" : "no difference");
    engine_bt.vm_fini(vm);
    free(l);
}

static int lockstep_vm_init(struct vm *vm, struct err *err)
{
    struct bt_vm *bt;
    int r = engine_bt.vm_init(vm, err);

    if (r < 0)
        return r;
    bt = vm->engine_data;
    bt->lockstep = calloc(1, sizeof(*bt->lockstep));
    if (!bt->lockstep) {
        engine_bt.vm_fini(vm);
        return err_set(err, ENOMEM, "not enough memory for two engines");
    }
    bt->plant = vm->engine_options.plant;
    bt->iv.code_written = on_code_written;
    return 0;
}

static int lockstep_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct lockstep *l;
    struct bt_vcpu *v;
    int r;

    if (vcpu->index)
        return err_set(err, EINVAL, "--engine lockstep runs one CPU only: leave --cpus out.");
    r = engine_bt.vcpu_init(vcpu, err);
    if (r < 0)
        return r;
    v = bt_of(interp_of(vcpu));
    l = v->bt->lockstep;
    l->v = v;
    l->listener = bt_listener;
    l->listener.writing = on_writing;
    l->listener.device = on_device;
    v->c.listener = &l->listener;
    return 0;
}

static void lockstep_vcpu_fini(struct vcpu *vcpu)
{
    engine_bt.vcpu_fini(vcpu);
}

/* Every block comes back to the loop, which looks at vcpu->pending. */
static void lockstep_kick(struct vcpu *vcpu)
{
    (void)vcpu;
}

static void lockstep_get(struct vcpu *vcpu, struct cpu_state *cs)
{
    engine_interp.get(vcpu, cs);
}

static void lockstep_set(struct vcpu *vcpu, const struct cpu_state *cs)
{
    engine_interp.set(vcpu, cs);
}

static uint64_t lockstep_tsc_offset(struct vcpu *vcpu)
{
    return engine_interp.tsc_offset(vcpu);
}

static unsigned lockstep_last_exceptions(struct vcpu *vcpu, struct cpu_exception *out, unsigned max)
{
    return engine_interp.last_exceptions(vcpu, out, max);
}

const struct engine engine_lockstep = {
    .name = "lockstep",
    .vm_init = lockstep_vm_init,
    .vm_fini = lockstep_vm_fini,
    .vcpu_init = lockstep_vcpu_init,
    .vcpu_fini = lockstep_vcpu_fini,
    .run = lockstep_run,
    .kick = lockstep_kick,
    .get = lockstep_get,
    .set = lockstep_set,
    .tsc_offset = lockstep_tsc_offset,
    .slot_changed = interp_slot_changed,
    .ram_written = interp_ram_written,
    .last_exceptions = lockstep_last_exceptions,
};
