/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop of the translator. Cold code is run by the interpreter, block by block, each counted;
 * what is warm is translated. Everything between two instructions (interrupts, requests, single steps)
 * is interp_boundary's.
 *
 * A kick is never lost: `attention` is cleared before vcpu->pending is looked at, and who posts sets
 * pending first.
 */
#include "core/vm.h"
#include "engine/bt/bt.h"
#include "engine/bt/look.h"
#include "engine/engine.h"

#define WARM 16 /* runs of cold code before it is translated */

/* ---- at the border ---------------------------------------------------------------------------- */

static bool same_mode(struct bt_vcpu *v)
{
    return v->mode_key == bt_key(&v->c);
}

/* May translated code run in this mode at all? */
static bool mode_ok(const struct interp *c)
{
    return (c->mode & MODE_CODE) == MODE_CODE64 && !(c->mode & MODE_STEP) &&
           (c->key & KEY_MODE) != KEY_USER_ALIGNED;
}

/* The vector registers are to be loaded before translated code goes on. */
static void want_vectors(struct bt_vcpu *v)
{
    if (v->vec_live)
        return;
    v->vec_live = 1;
    v->vec_wanted = 1;
    /* A kick in between must not be overwritten: exchange first, then look. */
    atomic_exchange(&v->attention_vec, 0);
    if (atomic_load(&v->attention))
        atomic_store(&v->attention_vec, 1);
}

/* The interpreter runs one instruction of a block. True: its successor in the block is next. */
static bool run_one(struct bt_vcpu *v, const struct bt_block *b, const struct bt_site *s)
{
    struct interp *c = &v->c;
    uint64_t rip = b->va + s->off;

    v->slow++;
    c->s.rip = rip;
    interp_run_block(c, true);
    c->block = NULL;
    return s->resume != BT_NONE && c->s.rip == rip + s->len && !c->stop && !b->dead &&
           !interp_boundary_due(c) && same_mode(v) && mode_ok(c);
}

/* What c->cur is while a page is looked up for translated code: a fault is at s.rip. */
static const struct insn access_insn = {.seg = SEG_DS, .base = R_NONE, .index = R_NONE};

uint64_t bt_slow(struct bt_vcpu *v, uint32_t site)
{
    struct bt_vm *bt = v->bt;
    const struct bt_site *s = &bt->sites[site];
    const struct bt_block *b = &bt->blocks[s->block];
    struct interp *c = &v->c;
    uint32_t to = BT_NONE;

    if (s->kind == SITE_ACCESS) {
        c->s.rip = c->block_rip = b->va + s->off;
        c->block = NULL;
        c->cur = &access_insn;
        if (!(s->aligned && (v->slow_addr & (s->size - 1u))) &&
            bt_tlb_fill(v, v->slow_addr, s))
            to = s->retry;
    }
    if (to == BT_NONE && run_one(v, b, s))
        to = s->resume;
    if (to == BT_NONE)
        return 0;
    if (b->vec)
        want_vectors(v);
    return (uint64_t)(uintptr_t)bt->code.rx + to;
}

static enum bt_leave enter(struct bt_vcpu *v, const struct bt_block *b)
{
    struct bt_vm *bt = v->bt;
    enum bt_leave (*go)(void) =
        (enum bt_leave(*)(void))(uintptr_t)(bt->code.rx + bt->stubs.enter);

    if (b->vec)
        want_vectors(v);
    v->resume = (uint64_t)(uintptr_t)bt->code.rx + b->entry;
    v->leaves++;
    return go();
}

/* ---- finding and making blocks ------------------------------------------------------------------ */

static void use_mode(struct bt_vcpu *v)
{
    struct bt_vm *bt = v->bt;
    uint64_t key = bt_key(&v->c);
    unsigned n;

    if (likely(v->mode_key == key))
        return;
    pthread_mutex_lock(&bt->lock);
    for (n = 0; n < bt->nmodes && bt->mode_keys[n] != key; n++)
        ;
    if (n == bt->nmodes && n < BT_MODES)
        bt->mode_keys[bt->nmodes++] = key;
    pthread_mutex_unlock(&bt->lock);
    if (n == BT_MODES) {
        bt_cache_flush(v);
        use_mode(v);
        return;
    }
    v->mode_key = key;
    v->mode_id = n;
    bt_targets_use(v, n);
}

/* The translation of what is at s.rip. Raises what the fetch raises. */
static struct bt_block *find(struct bt_vcpu *v)
{
    struct interp *c = &v->c;
    gva_t rip = c->s.rip;
    struct bt_block *b;
    uint32_t page;

    c->block = NULL;
    c->block_rip = rip;
    c->cur = &block_fetch_insn;
    if (!access_host(c, rip, 1, ACCESS_EXEC, c->key))
        return NULL;
    page = c->tlb_ram_page[TLB_SLOT(rip)];
    b = bt_cache_find(v->bt, rip, v->mode_key, (uint64_t)page << PAGE_SHIFT | (rip & PAGE_MASK));
    if (b)
        bt_exec_fill(v, rip, page);
    return b;
}

/* ---- the loop ------------------------------------------------------------------------------------- */

/* Where an indirect branch could not go: it raises its fault, with rsp as it was before. */
static void undo_indirect(struct bt_vcpu *v)
{
    const struct bt_site *s = &v->bt->sites[v->indirect_from];
    struct interp *c = &v->c;

    c->s.gpr[REG_RSP] -= (uint64_t)(int64_t)s->moved;
    c->s.rip = v->bt->blocks[s->block].va + s->off;
    interp_run_block(c, true);
}

static bool canonical(gva_t addr)
{
    return (addr + BIT(47)) >> 48 == 0;
}

static void left(struct bt_vcpu *v, enum bt_leave why)
{
    struct bt_vm *bt = v->bt;
    struct interp *c = &v->c;
    struct bt_exit *x;
    struct bt_block *b;

    switch (why) {
    case BT_LEAVE_SITE:
        c->s.rip = bt->blocks[bt->sites[v->id].block].va + bt->sites[v->id].off;
        return;
    case BT_LEAVE_DIRECT:
        x = &bt->exits[v->id];
        c->s.rip = x->target;
        if (unlikely(!canonical(x->target)))
            return; /* the fetch raises */
        b = find(v);
        if (!b)
            return;
        pthread_mutex_lock(&bt->lock);
        if (!b->dead && !bt->blocks[x->block].dead)
            bt_cache_link(bt, x, b);
        pthread_mutex_unlock(&bt->lock);
        return;
    case BT_LEAVE_INDIRECT:
        if (unlikely(!canonical(v->target))) {
            undo_indirect(v);
            return;
        }
        c->s.rip = v->target;
        b = find(v);
        if (b)
            v->targets[v->mode_id][v->target & (BT_TARGETS - 1)] = bt->code.rx + b->entry_indirect;
        return;
    case BT_LEAVE_SLOW:
        return;
    }
}

/* Has the code at s.rip been run often enough? */
static bool warm(struct bt_vcpu *v)
{
    uint8_t *runs = &v->runs[jump_slot(v->c.s.rip) & (BT_RUNS - 1)];

    if (++*runs < v->bt->warm)
        return false;
    *runs = 0;
    return true;
}

static bool translate_here(struct bt_vcpu *v)
{
    bool full;

    if (bt_translate(v, &full))
        return true;
    if (full)
        bt_cache_flush(v);
    return false;
}

void bt_run_some(struct bt_vcpu *v)
{
    struct interp *c = &v->c;
    struct bt_block *b;

    if (!mode_ok(c)) {
        interp_run_block(c, false);
        return;
    }
    use_mode(v);
    b = find(v);
    if (b)
        left(v, enter(v, b));
    else if (!warm(v) || !translate_here(v))
        interp_run_block(c, false);
}

static void run_loop(struct bt_vcpu *v)
{
    struct interp *c = &v->c;

    if (interp_boundary(c))
        return;
    for (;;) {
        if (unlikely(atomic_load_explicit(&v->attention, memory_order_relaxed))) {
            atomic_store(&v->attention, 0);
            atomic_store(&v->attention_vec, !v->vec_live);
        }
        if (interp_boundary_due(c)) {
            if (interp_boundary(c))
                return;
            if (interp_step_due(c)) {
                interp_run_block(c, true);
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

    /* A budget and virtual time need each instruction counted: that is the interpreter's. */
    if (budget != UINT64_MAX || clock_mode(c->vm->clock) == CLOCK_VIRTUAL)
        return engine_interp.run(vcpu, budget);
    hostcode_enter_thread(&v->bt->code);
    hostcode_set_gs(v);
    interp_run_begin(c, budget, &raise_to);
    if (sigsetjmp(raise_to, 0))
        interp_raised(c);
    run_loop(v);
    return interp_run_end(c);
}

/* ---- the engine ------------------------------------------------------------------------------------ */

static void bt_kick(struct vcpu *vcpu)
{
    struct bt_vcpu *v = bt_of(interp_of(vcpu));

    atomic_store(&v->attention, 1);
    atomic_store(&v->attention_vec, 1);
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
    bt->warm = vm->engine_warm ? vm->engine_warm : WARM;
    bt->iv.code_written = bt_code_written;
    bt->has_avx = __builtin_cpu_supports("avx");
    bt->has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    r = bt_cache_init(bt, err);
    if (r == 0)
        r = bt_translate_init(bt, err);
    if (r == 0 && vm->perf_map)
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
    int r = interp_create(vcpu, sizeof(*v), err);

    if (r < 0)
        return r;
    v = bt_of(interp_of(vcpu));
    v->self = v;
    v->bt = vcpu->vm->engine_data;
    v->host_mxcsr = 0x1f80;
    v->attention_vec = 1;
    v->mode_key = UINT64_MAX;
    bt_tlb_init(v);
    v->c.listener = &bt_listener;
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
};
