/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loops of one block: it ends with a branch to its own beginning, and addresses that it touches
 * move by constants from turn to turn. Such a block is written twice. The first form is that of any
 * block. Where it would go round, it looks up the page of each such access once, finds for how many
 * turns they all stay in their pages, and goes on to the second form, which has no checks of them.
 * After so many turns it looks again, and polls; where an access leaves its page, or has none, the
 * first form makes a turn, and knows what to do.
 *
 * If all accesses are of this kind, and all registers are the host's, the loop is pure: what makes
 * host addresses stays in registers throughout (SD as well: the stack's window is given up for the
 * time), flags are the host's, and whatever leaves the second form (a branch out of the loop, a
 * fault) goes to another block and never comes back. Else the second form is written as the first
 * is, but that these accesses find in memory what makes host addresses, as those under a shared
 * check do.
 *
 * Looking up costs as much as two turns or three. A loop that is left again and again before it has
 * paid goes round in the first form only: bt_vcpu.loop_credit.
 */
#include "engine/bt/translate.h"

#define TURNS      2048 /* without a poll */
#define FIRST      4    /* turns until a loop has paid */
#define MAX_STRIDE 512
#define MAX_SPAN   1024
#define MAX_DISP   (1 << 30) /* what is added to it is far less */

static const uint8_t identity[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* ---- what kind of loop is it? ---------------------------------------------------------------- */

/*
 * Does the register move by constants only? By `before` up to form n, by `stride` in a turn.
 */
static bool is_linear(const struct translation *t, unsigned n, unsigned reg, int32_t *before,
                      int32_t *stride)
{
    int32_t by;

    *before = *stride = 0;
    if (reg == R_NONE)
        return true;
    for (unsigned i = 0; i < t->n; i++) {
        if (!reg_moves(&t->forms[i], reg, 8, &by) || !near(*stride + by))
            return false;
        *before += i < n ? by : 0;
        *stride += by;
    }
    return true;
}

/* Is it never written at all? */
static bool is_fixed(const struct translation *t, unsigned reg)
{
    int32_t by;

    for (unsigned i = 0; i < t->n; i++)
        if (!reg_moves(&t->forms[i], reg, 8, &by) || by)
            return false;
    return true;
}

/* An operand's address that no register decides. */
static int64_t constant_address(const struct translation *t, const struct form *f)
{
    return f->in.disp + (f->in.base == R_RIP ? (int64_t)behind(t, f) : 0);
}

/* The access of form n as a group of its own. */
static bool find_access(const struct translation *t, unsigned n, struct loop_group *g)
{
    const struct form *f = &t->forms[n];
    const struct insn *in = &f->in;
    int32_t base_before, index_before, base_stride, index_stride;
    int64_t at;

    if (in->asize != 8 || in->seg >= SEG_FS || f->masked || f->x87 ||
        (f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK) || f->zi.mnemonic == ZYDIS_MNEMONIC_XCHG)
        return false;
    if (f->high != R_NONE && (in->base == f->high || in->index == f->high))
        return false; /* its bytes are exchanged meanwhile */
    *g = (struct loop_group){.base = in->base,
                             .index = in->index,
                             .scale = in->scale,
                             .how = f->mem_write ? ACCESS_WRITE : ACCESS_READ};
    if (in->base == R_RIP || (in->base == R_NONE && in->index == R_NONE)) {
        g->base = R_NONE;
        g->constant = true;
        g->relative = in->base == R_RIP;
        g->low = constant_address(t, f);
        if (!canonical((uint64_t)g->low) || !canonical((uint64_t)g->low + MAX_SPAN))
            return false;
        g->high = g->low + f->mem_size;
        return true;
    }
    if ((in->index != R_NONE && is_stolen(in->index)) || in->disp >= MAX_DISP ||
        in->disp <= -MAX_DISP || !is_linear(t, n, in->base, &base_before, &base_stride) ||
        !is_linear(t, n, in->index, &index_before, &index_stride))
        return false;
    if (in->base != R_NONE && is_stolen(in->base)) {
        g->fold = FOLD_BASE; /* it is in memory */
        if (!is_fixed(t, in->base))
            return false;
    } else if (in->base != R_NONE && in->index != R_NONE) {
        g->fold = is_fixed(t, in->base)    ? FOLD_BASE
                  : is_fixed(t, in->index) ? FOLD_INDEX
                                           : FOLD_NONE;
        if (g->fold == FOLD_NONE)
            return false;
    }
    at = in->disp + base_before + (int64_t)index_before * (1 << in->scale);
    g->stride = base_stride + (int64_t)index_stride * (1 << in->scale);
    g->low = at;
    g->high = at + f->mem_size;
    return g->stride <= MAX_STRIDE && g->stride >= -MAX_STRIDE;
}

/* Puts it to one that has the same registers and lies near. */
static bool add_access(struct loop *l, unsigned n, const struct loop_group *a)
{
    struct loop_group *g;
    unsigned k;

    for (k = 0; k < l->ngroups; k++) {
        int64_t low, high;

        g = &l->group[k];
        low = a->low < g->low ? a->low : g->low;
        high = a->high > g->high ? a->high : g->high;
        if (a->base == g->base && a->index == g->index && a->scale == g->scale &&
            a->constant == g->constant && a->relative == g->relative && high - low <= MAX_SPAN) {
            g->low = low;
            g->high = high;
            g->how = a->how > g->how ? a->how : g->how;
            break;
        }
    }
    if (k == LOOP_GROUPS)
        return false;
    if (k == l->ngroups)
        l->group[l->ngroups++] = *a;
    l->of[n] = (uint8_t)k;
    return true;
}

/* May the form be in the second form of a loop that is not pure? */
static bool may_be_in_loop(const struct translation *t, unsigned n)
{
    switch (t->forms[n].class) {
    case FORM_NATIVE:
    case FORM_LEA:
    case FORM_NOTHING:
    case FORM_JCC:
        return true;
    case FORM_JMP:
        return n == t->n - 1;
    default:
        return false;
    }
}

static bool is_pure(const struct translation *t, unsigned n)
{
    const struct form *f = &t->forms[n];
    const struct insn *in = &f->in;

    switch (f->class) {
    case FORM_NATIVE:
        return !f->stolen && f->high == R_NONE && !f->x87;
    case FORM_LEA:
        return !is_stolen(decode_gpr(f->ops[0].reg.value)) && f->ops[0].size >= 32 &&
               in->asize == 8 && in->base != R_RIP && (in->base != R_NONE || in->index != R_NONE) &&
               (in->base == R_NONE || !is_stolen(in->base)) &&
               (in->index == R_NONE || !is_stolen(in->index));
    default:
        return true;
    }
}

/* A register that counts turns. */
static bool find_counter(const struct translation *t, struct loop *l)
{
    int32_t before;

    for (unsigned r = 0; r < SD; r++)
        if (r != REG_RSP && is_linear(t, 0, r, &before, &l->counter_stride) && l->counter_stride) {
            l->counter = (uint8_t)r;
            return true;
        }
    return false;
}

bool loop_find(struct translation *t)
{
    struct loop *l = &t->loop;

    *l = (struct loop){.pure = true};
    if (!t->code64 || t->bt->lockstep || t->v->cap || t->forms[t->n - 1].crosses)
        return false;
    for (unsigned n = 0; n < t->n; n++) {
        struct loop_group g;

        if (!may_be_in_loop(t, n))
            return false;
        l->of[n] = UINT8_MAX;
        l->pure &= is_pure(t, n);
        if (t->forms[n].class == FORM_NATIVE && t->forms[n].mem_size &&
            (!find_access(t, n, &g) || !add_access(l, n, &g)))
            l->pure = false;
    }
    l->on = l->ngroups && find_counter(t, l);
    return l->on;
}

/* ---- the second form ------------------------------------------------------------------------- */

static const uint8_t temps[] = {T1, SD, T0};

/* The first have a register each; if there are too many, the others share the last one. */
static unsigned temp_of(const struct translation *t, unsigned k)
{
    if (t->loop.ngroups > ARRAY_LEN(temps) && k >= ARRAY_LEN(temps) - 1)
        return T0;
    return temps[k];
}

static bool has_own_temp(const struct translation *t, unsigned k)
{
    return t->loop.ngroups <= ARRAY_LEN(temps) || k < ARRAY_LEN(temps) - 1;
}

static struct rm delta_rm(unsigned k)
{
    return rm_gs(GS(loop_delta) + 8 * (int32_t)k);
}

/* The operand of form n, if the temporary is what its group's loop_delta is. */
static struct rm group_rm(const struct translation *t, unsigned n, unsigned temp)
{
    const struct insn *in = &t->forms[n].in;
    const struct loop_group *g = &t->loop.group[t->loop.of[n]];

    if (g->constant) /* the temporary is the host address of the lowest byte */
        return rm_mem(temp, NO_REG, 0, (int32_t)(constant_address(t, &t->forms[n]) - g->low));
    if (g->fold == FOLD_BASE || g->base == R_NONE)
        return rm_mem(temp, in->index == R_NONE ? NO_REG : in->index, in->scale, (int32_t)in->disp);
    return rm_mem(in->base, temp, 0, (int32_t)in->disp);
}

static struct rm operand(struct translation *t, unsigned n)
{
    unsigned k = t->loop.of[n];

    if (!has_own_temp(t, k))
        emit_load(&t->hot, T0, delta_rm(k));
    return group_rm(t, n, temp_of(t, k));
}

bool loop_operand(struct translation *t, const struct form *f, struct rm *m)
{
    unsigned n = (unsigned)(f - t->forms), k;

    if (!t->loop.second || t->loop.of[n] == UINT8_MAX)
        return false;
    k = t->loop.of[n];
    if (t->loop.in_t1 != k + 1) {
        t1_lost(t);
        emit_load(&t->hot, T1, delta_rm(k));
        t->loop.in_t1 = (uint8_t)(k + 1);
    }
    *m = group_rm(t, n, T1);
    return true;
}

static void emit_loop_exit(struct translation *t, unsigned cc, gva_t target, uint16_t live)
{
    uint32_t exit = add_exit(t, target, live);
    struct stub *s = add_stub(t, STUB_LOOP_EXIT, emit_jump(&t->hot, cc, t->hot.at), exit);

    s->save = live;
    s->far = !in_page(t, target);
}

static void emit_turn(struct translation *t, unsigned n)
{
    const struct form *f = &t->forms[n];
    struct emit *e = &t->hot;
    struct rm m;

    switch (f->class) {
    case FORM_NATIVE:
        if (f->mem_size)
            m = operand(t, n);
        if (f->traps)
            add_trap(t, e->at, add_site(t, f, SITE_INSN), f->live_in);
        form_emit(e, f, identity, f->mem_size ? &m : NULL);
        break;
    case FORM_LEA:
        emit_lea(t, f); /* needs no temporary: is_pure */
        break;
    case FORM_JCC:
        if (n == t->n - 1)
            emit_loop_exit(t, f->cc ^ 1u, behind(t, f), f->live_out);
        else
            emit_loop_exit(t, f->cc, branch_target(f, t->va + f->off), f->live_out);
        break;
    default: /* FORM_NOTHING, and the JMP at the end */
        break;
    }
}

/* ---- between the two ------------------------------------------------------------------------- */

/* T1 = turns until the access that is at offset T0 leaves its page; SD = the least. */
static void emit_room(struct emit *e, const struct loop_group *g)
{
    uint32_t stride = (uint32_t)(g->stride < 0 ? -g->stride : g->stride);

    if (!stride)
        return;
    if (g->stride > 0) {
        emit_const(e, T1, PAGE_SIZE - (uint64_t)(g->high - g->low));
        emit_op(e, false, 0x2b, T1, rm_reg(T0)); /* sub r15d, r14d */
    } else {
        emit_op(e, false, OP_LOAD, T1, rm_reg(T0));
    }
    if (is_pow2(stride)) {
        emit_op(e, false, 0xc1, 5, rm_reg(T1)); /* shr */
        emit8(e, (unsigned)__builtin_ctz(stride));
    } else { /* a quotient that is never too large */
        emit_op(e, false, 0x69, T1, rm_reg(T1));
        emit32(e, 65536 / stride);
        emit_op(e, false, 0xc1, 5, rm_reg(T1));
        emit8(e, 16);
    }
    emit_op(e, false, 0x83, 0, rm_reg(T1)); /* and this turn */
    emit8(e, 1);
    emit_op(e, false, OP_CMP, T1, rm_reg(SD));
    emit_op(e, false, 0x142, SD, rm_reg(T1)); /* cmovb */
}

/* Finds the page of a group, or goes to what `fail` lists. */
static void emit_group(struct translation *t, unsigned k, uint32_t *fail)
{
    const struct loop_group *g = &t->loop.group[k];
    struct emit *e = &t->cold;
    int32_t table = GS(tlb) + (int32_t)(key_table(t->key) * sizeof(struct bt_table));
    int32_t tag = table + (int32_t)(offsetof(struct bt_entry, tag) + 8 * g->how);
    unsigned base = g->base == R_NONE ? NO_REG : is_stolen(g->base) ? T0 : g->base;

    if (g->base != R_NONE && is_stolen(g->base))
        emit_load(e, T0, GPR(g->base));
    if (g->relative)
        emit_code_address(t, e, T0, (uint64_t)g->low);
    else if (g->constant)
        emit_const(e, T0, (uint64_t)g->low);
    else
        emit_op(e, true, OP_LEA, T0,
                rm_mem(base, g->index == R_NONE ? NO_REG : g->index, g->scale, (int32_t)g->low));
    *fail = emit_tag_check(t, e, tag, (unsigned)(g->high - g->low));
    emit_load(
        e, T1,
        (struct rm){.kind = RM_GS,
                    .base = T1,
                    .index = NO_REG,
                    .disp = table + (int32_t)(g->constant ? offsetof(struct bt_entry, page)
                                                          : offsetof(struct bt_entry, addend))});
    if (g->constant)
        emit_op(e, true, OP_ADD, T1, rm_reg(T0));
    else if (g->fold == FOLD_BASE)
        emit_op(e, true, OP_ADD, T1, is_stolen(g->base) ? GPR(g->base) : rm_reg(g->base));
    else if (g->fold == FOLD_INDEX)
        emit_op(e, true, OP_LEA, T1, rm_mem(T1, g->index, g->scale, 0));
    emit_store(e, T1, delta_rm(k));
    emit_room(e, g);
}

static void emit_multiply(struct emit *e, unsigned reg, int32_t by)
{
    emit_op(e, true, 0x69, reg, rm_reg(reg));
    emit32(e, (uint32_t)by);
}

/* In the cold part: where the first form goes round, and where the second has used up its turns. */
static void emit_between(struct translation *t, uint32_t turn, uint32_t again)
{
    struct loop *l = &t->loop;
    struct emit *e = &t->cold;
    int32_t credit = GS(loop_credit) + 4 * (int32_t)(t->bt->nloops++ % BT_LOOPS);
    uint32_t fail[LOOP_GROUPS + 2], nfail = 0, look, had;

    emit_patch(&t->hot, l->from, e->at);
    emit_op(e, false, 0xff, 1, rm_gs(credit)); /* dec */
    fail[nfail++] = emit_jump(e, 8, e->at);    /* js */
    emit_const(e, SD, FIRST);
    emit_op(e, false, 0x83, 7, rm_gs(credit));
    emit8(e, BT_LOOP_CREDIT - 1); /* the last time it has paid */
    look = emit_jump(e, CC_NE, e->at);
    had = emit_jump(e, CC_ALWAYS, e->at);
    emit_patch(&t->hot, again, e->at);
    emit_op(e, false, 0xc7, 0, rm_gs(credit));
    emit32(e, BT_LOOP_CREDIT);
    emit_patch(e, had, e->at);
    emit_const(e, SD, TURNS);
    emit_patch(e, look, e->at);
    emit_op(e, false, 0x83, 7, rm_gs(GS(attention) + 4 * (int32_t)t->b->needs));
    emit8(e, 0);
    fail[nfail++] = emit_jump(e, CC_NE, e->at);
    for (unsigned k = 0; k < l->ngroups; k++)
        emit_group(t, k, &fail[nfail++]);
    emit_multiply(e, SD, l->counter_stride);
    emit_op(e, true, OP_ADD, SD, rm_reg(l->counter));
    emit_store(e, SD, rm_gs(GS(loop_limit)));
    if (!l->pure)
        emit_load(e, SD, rm_gs(GS(window_delta)));
    for (unsigned k = 0; l->pure && k < l->ngroups; k++)
        if (has_own_temp(t, k))
            emit_load(e, temp_of(t, k), delta_rm(k));
    emit_jump(e, CC_ALWAYS, turn);
    for (unsigned i = 0; i < nfail; i++)
        emit_patch(e, fail[i], e->at);
    emit_load(e, SD, rm_gs(GS(window_delta)));
    emit_jump(e, CC_ALWAYS, t->b->entry);
}

void emit_loop_form(struct translation *t)
{
    struct emit *e = &t->hot;
    uint32_t turn, again;

    emit_nop(e, (0u - e->at) & 15);
    turn = e->at;
    if (t->loop.pure)
        for (unsigned n = 0; n < t->n; n++)
            emit_turn(t, n);
    else
        emit_as_first(t);
    emit_op(e, true, OP_CMP, t->loop.counter, rm_gs(GS(loop_limit)));
    emit_jump(e, CC_NE, turn);
    again = emit_jump(e, CC_ALWAYS, e->at);
    emit_between(t, turn, again);
}
