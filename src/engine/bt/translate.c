/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From guest bytes to a block of host code. Three passes: decode until nobody knows what comes next
 * (a block goes on behind a conditional branch that is not taken); find the arithmetic flags that
 * are live before and after each instruction, looking a little way into the successors that lie in
 * the same page; write the code.
 *
 * A block:   indirect entry: is T0 this address, and is this page what the exec table has? (Behind
 *                            a CALL; else in the cold part.)
 *            entry:          poll, or the check of the stack's window, which polls as well; flags
 *                            from the slot if they are live
 *            instructions, exits
 * and in the cold part the exits' and misses' stubs, and the entry for flags in the host's. What is
 * executed is kept short in bytes: hot code that has more of them than the host's caches of
 * instructions runs the slower the longer it is, whatever the instructions do.
 *
 * Flags between instructions are in the host's flags, in the slot, in both or, when dead, in none
 * (`host`, `slot` below). A TLB check destroys the host's, so they are put into the slot before it
 * if they are live; they come back when an instruction wants them.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/bt/look.h"
#include "engine/bt/translate.h"

_Static_assert(BT_TARGETS == 65536, "emit_indirect takes 16 bits");

/* Bytes that one check may cover. */
#define SHARE_SPAN 248
/* More than any block needs, so that nothing checks for room while it is written. */
#define ROOM_HOT  (16u << 10)
#define ROOM_COLD (32u << 10)

int bt_translate_init(struct bt_vm *bt, struct err *err)
{
    bt->work = calloc(1, sizeof(*bt->work));
    if (bt->work)
        bt->work->era = 1; /* the empty entries are of another */
    return bt->work ? 0 : err_set(err, ENOMEM, "not enough memory for the translator");
}

void bt_translate_fini(struct bt_vm *bt)
{
    free(bt->work);
}

/* ---- decoding ------------------------------------------------------------------------------ */

gva_t branch_target(const struct form *f, gva_t va)
{
    return (va + f->in.len + (uint64_t)(int64_t)f->zi.raw.imm[0].value.s) & mask_bytes(f->in.osize);
}

static gva_t linear(const struct translation *t, gva_t rip)
{
    return t->code64 ? rip : (uint32_t)(t->cs_word + rip);
}

gva_t behind(const struct translation *t, const struct form *f)
{
    return (t->va + f->off + f->in.len) & t->rip_mask;
}

static bool is_relative(const struct form *f)
{
    return f->class == FORM_JCC || f->class == FORM_LOOP || f->class == FORM_JMP ||
           f->class == FORM_CALL;
}

static bool target_ok(const struct translation *t, gva_t target)
{
    return t->code64 ? canonical(target) : target <= t->limit;
}

/* What the translator makes of a decoded instruction. */
static void finish_form(struct translation *t, gva_t rip, struct form *f, enum decode_result r)
{
    form_classify(f, &t->v->c, r == DECODE_END);
    if (is_relative(f) && !target_ok(t, branch_target(f, rip)))
        form_is_end(f); /* the branch itself faults */
    f->crosses = f->shadow = f->poll_after = false;
    if (system_form(t, f))
        f->class = FORM_SYSTEM;
    segment_form(t, f);
}

/* The instruction at `rip`, `off` of the code page. False: it does not end in the page, or in CS.
 */
static bool decode_at(struct translation *t, gva_t rip, unsigned off, struct form *f)
{
    uint8_t buf[15];
    unsigned have = (unsigned)min_u64(sizeof(buf), PAGE_SIZE - off);
    enum decode_result r;

    if (rip > t->limit)
        return false;
    have = (unsigned)min_u64(have - 1, t->limit - rip) + 1;
    memcpy(buf, t->page + off, have);
    r = decode_insn_full(&t->v->c, buf, have, &f->in, &f->zi, f->ops);
    if (r == DECODE_MORE)
        return false;
    finish_form(t, rip, f, r);
    return true;
}

static void read_bytes(struct translation *t, unsigned off, unsigned bytes)
{
    t->granules |= block_granules(off, off + bytes - 1);
}

static bool ends(const struct form *f)
{
    switch (f->class) {
    case FORM_END:
    case FORM_JMP:
    case FORM_CALL:
    case FORM_JMP_INDIRECT:
    case FORM_CALL_INDIRECT:
    case FORM_RET:
        return true;
    case FORM_SYSTEM:
        return f->zi.mnemonic == ZYDIS_MNEMONIC_SYSCALL || f->zi.mnemonic == ZYDIS_MNEMONIC_SYSRET;
    default:
        return false;
    }
}

/*
 * An instruction that runs on into the next page, as that is now. If that page has code already,
 * the block has its bytes as well, and looks before it whether it is still that page. If not, the
 * interpreter runs what is there then, and the block goes on behind it if it is as long as this
 * one.
 */
static bool decode_crossing(struct translation *t, unsigned off, struct form *f)
{
    struct interp *c = &t->v->c;
    gva_t next = (t->lin | PAGE_MASK) + 1, rip = t->va + off - t->off;
    const struct tlb_entry *e = &c->tlb[TLB_SLOT(next)];
    unsigned room = PAGE_SIZE - off;
    enum decode_result r;
    uint8_t buf[15];

    if (e->tag[ACCESS_EXEC] != (next | c->key) || !canonical(next) || rip > t->limit ||
        t->limit - rip < sizeof(buf))
        return false;
    memcpy(buf, t->page + off, room);
    memcpy(buf + room, (const uint8_t *)(uintptr_t)(next + e->addend), sizeof(buf) - room);
    r = decode_insn_full(c, buf, sizeof(buf), &f->in, &f->zi, f->ops);
    if (r == DECODE_MORE || f->in.len <= room || (r == DECODE_END && t->page2 == BT_NONE))
        return false;
    finish_form(t, rip, f, r);
    if (t->page2 == BT_NONE) {
        form_is_slow(f);
        f->shadow = f->poll_after = f->simple = f->windowed = f->stack_windowed = false;
    } else {
        f->crosses = true;
        memcpy(t->bytes2, buf + room, f->in.len - room);
        t->nbytes2 = f->in.len - room;
        t->granules2 = block_granules(0, t->nbytes2 - 1);
    }
    f->off = (uint16_t)(off - t->off);
    read_bytes(t, off, room);
    return true;
}

/* Is the last instruction a branch to the first one? */
static bool loops(const struct translation *t)
{
    const struct form *f = &t->forms[t->n - 1];

    return (f->class == FORM_JCC || f->class == FORM_JMP) &&
           branch_target(f, t->va + f->off) == t->va;
}

static void decode_block(struct translation *t)
{
    unsigned at = t->off;

    t->open = true;
    t->loop = (struct loop){.on = false};
    for (t->n = 0; t->n < t->max && at < PAGE_SIZE;) {
        struct form *f = &t->forms[t->n];

        if (!decode_at(t, t->va + at - t->off, at, f)) {
            if (PAGE_SIZE - at < sizeof(f->in.bytes) && decode_crossing(t, at, f)) {
                t->n++;
                t->open = !ends(f);
            }
            break;
        }
        f->off = (uint16_t)(at - t->off);
        read_bytes(t, at, f->in.len);
        at += f->in.len;
        t->n++;
        t->open = !ends(f);
        if (loops(t) && loop_find(t))
            break;
        if (!t->open)
            break;
        /* One instruction after STI, none after POPF, and the next block polls. */
        if (f->poll_after || (t->n > 1 && f[-1].shadow))
            break;
    }
    /* The shadow of an STI that comes last would be lost. */
    if (t->n && t->forms[t->n - 1].shadow) {
        t->forms[t->n - 1].class = FORM_END;
        t->open = false;
    }
}

/* ---- flags ---------------------------------------------------------------------------------- */

bool in_page(const struct translation *t, gva_t target)
{
    return ((linear(t, target) ^ t->lin) & ~PAGE_MASK) == 0;
}

static uint16_t live_at(struct translation *t, gva_t target, unsigned depth);

/* What live_at does not know yet. */
static uint16_t look_ahead(struct translation *t, gva_t target, unsigned depth)
{
    uint16_t unknown = FLAGS_ALL, live = 0;
    struct form *f = &t->ahead;

    for (unsigned i = 0; i < LOOK_AHEAD && unknown; i++) {
        unsigned off = linear(t, target) & PAGE_MASK;

        if (!decode_at(t, target, off, f))
            return live | unknown;
        read_bytes(t, off, f->in.len);
        live |= f->flags_read & unknown;
        unknown &= (uint16_t)~f->flags_must;
        switch (f->class) {
        case FORM_JCC:
        case FORM_LOOP: {
            gva_t taken = branch_target(f, target), next = (target + f->in.len) & t->rip_mask;

            if (!unknown)
                return live;
            if (!depth)
                return live | unknown;
            live |= live_at(t, taken, depth - 1) & unknown;
            return live | (in_page(t, next) ? live_at(t, next, depth - 1) & unknown : unknown);
        }
        case FORM_JMP:
            target = branch_target(f, target);
            if (!in_page(t, target))
                return live | unknown;
            break;
        case FORM_CALL: /* the callee begins with a push; only a look tells */
            target = branch_target(f, target);
            if (!in_page(t, target))
                return live | unknown;
            break;
        default:
            if (ends(f))
                return live | unknown;
            target = (target + f->in.len) & t->rip_mask;
            if (!in_page(t, target))
                return live | unknown;
        }
    }
    return live | unknown;
}

/* The flags that the code at `target` may read before it writes them, as far as one cares to look.
 */
static uint16_t live_at(struct translation *t, gva_t target, unsigned depth)
{
    uint64_t phys = (uint64_t)t->page_number << PAGE_SHIFT | (target & PAGE_MASK), granules;
    struct known_live *k = &t->known[(phys ^ phys >> 13 ^ depth << 9) & (KNOWN_LIVE - 1)];
    uint16_t live;

    if (!in_page(t, target))
        return FLAGS_ALL;
    if (!t->code64)
        return look_ahead(t, target, depth);
    if (k->phys == phys && k->key == t->key && k->gen == t->gen && k->era == t->era &&
        k->depth == depth) {
        t->granules |= k->granules;
        return k->live;
    }
    granules = t->granules;
    t->granules = 0;
    live = look_ahead(t, target, depth);
    *k = (struct known_live){.key = t->key,
                             .phys = phys,
                             .granules = t->granules,
                             .gen = t->gen,
                             .era = t->era,
                             .live = live,
                             .depth = (uint8_t)depth};
    t->granules |= granules;
    return live;
}

static void find_live(struct translation *t)
{
    uint16_t live;
    struct form *last = &t->forms[t->n - 1];

    if (unlikely(t->bt->vm->engine_options.exact_flags)) {
        for (unsigned i = 0; i < t->n; i++)
            t->forms[i].live_in = t->forms[i].live_out = FLAGS_ALL;
        return;
    }
    if (t->open)
        live = live_at(t, behind(t, last), 2);
    else if (last->class == FORM_JMP || last->class == FORM_CALL)
        live = live_at(t, branch_target(last, t->va + last->off), 2);
    else
        live = FLAGS_ALL;
    if (unlikely(t->bt->plant == PLANT_LIVENESS))
        live = 0;
    for (unsigned i = t->n; i--;) {
        struct form *f = &t->forms[i];

        if (f->class == FORM_JCC || f->class == FORM_LOOP)
            live |= live_at(t, branch_target(f, t->va + f->off), 2);
        f->live_out = live;
        live = (live & (uint16_t)~f->flags_must) | f->flags_read;
        f->live_in = live;
    }
}

/* lahf; seto al -> slot. T0 is free. */
static void put_flags(struct emit *e)
{
    emit_store(e, REG_RAX, rm_reg(T0)); /* mov r14, rax */
    emit8(e, 0x9f);
    emit_op(e, false, 0x190, 0, rm_reg(REG_RAX));
    emit_op(e, false, OP_STORE, REG_RAX, rm_gs(GS(c.aflags)));
    emit_store(e, T0, rm_reg(REG_RAX));
}

static void get_flags(struct emit *e)
{
    emit_store(e, REG_RAX, rm_reg(T0));
    emit_op(e, false, OP_LOAD, REG_RAX, rm_gs(GS(c.aflags)));
    emit8(e, 0x04);
    emit8(e, 0x7f);
    emit8(e, 0x9e);
    emit_store(e, T0, rm_reg(REG_RAX));
}

void t0_lost(struct translation *t)
{
    t->temp[0] = 0;
}

void t1_lost(struct translation *t)
{
    for (unsigned k = 0; k < BT_SHARES; k++)
        t->share[k].in_t1 = false;
    t->pair_t1 = 0;
    t->temp[1] = 0;
    t->loop.in_t1 = 0;
}

static bool t1_in_use(const struct translation *t)
{
    bool used = t->pair_t1 || t->temp[1] || t->loop.in_t1;

    for (unsigned k = 0; k < BT_SHARES; k++)
        used |= t->share[k].live && t->share[k].in_t1;
    return used;
}

/* The host's flags may be destroyed from here on. */
void flags_to_slot(struct translation *t, uint16_t live)
{
    if (live && t->host && !t->slot) {
        t0_lost(t);
        put_flags(&t->hot);
        t->slot = true;
    }
}

void flags_to_host(struct translation *t)
{
    if (!t->host && t->slot) {
        t0_lost(t);
        get_flags(&t->hot);
        t->host = true;
    }
}

/* ---- sites, exits, stubs --------------------------------------------------------------------- */

struct stub *add_stub(struct translation *t, enum stub_kind kind, uint32_t from, uint32_t index)
{
    struct stub *s = &t->stubs[t->nstubs];

    if (t->nstubs < MAX_STUBS - 1)
        t->nstubs++;
    else
        t->failed = true;
    *s = (struct stub){.kind = kind, .from = from, .from2 = BT_NONE, .index = index};
    return s;
}

uint32_t add_site(struct translation *t, const struct form *f, enum bt_site_kind kind)
{
    struct bt_site *s = &t->bt->sites[t->bt->nsites];

    *s = (struct bt_site){.block = (uint32_t)(t->b - t->bt->blocks),
                          .retry = BT_NONE,
                          .resume = BT_NONE,
                          .off = f->off,
                          .len = f->in.len,
                          .kind = (uint8_t)kind,
                          .other_ac = key_table(t->key) != key_table(t->b->key),
                          .live_in = site_flags(f->live_in),
                          .live_out = site_flags(f->live_out)};
    return t->bt->nsites++;
}

/* Straight to bt_slow, with the flags where it looks for them. */
static void emit_site(struct translation *t, struct emit *e, uint32_t site)
{
    emit_const(e, T0, site);
    emit_jump(e, CC_ALWAYS, t->bt->stubs.slow);
}

/*
 * The displacement of a jump that will be patched while it may run lies in one aligned 8 bytes:
 * `lead` bytes of opcode come before it.
 */
static void align_jump(struct emit *e, unsigned lead)
{
    unsigned at = (e->at + lead) & 7;

    if (at > 4)
        emit_nop(e, 8 - at);
}

uint32_t add_exit(struct translation *t, gva_t target, uint16_t live)
{
    struct bt_exit *x = &t->bt->exits[t->bt->nexits];

    target -= t->anywhere ? t->va & ~PAGE_MASK : 0;
    *x = (struct bt_exit){
        .target = target, .block = (uint32_t)(t->b - t->bt->blocks), .word = BT_NONE, .live = live};
    return t->bt->nexits++;
}

/* A short jump to be patched: jmp, jcc, or with E3 one if rcx or, after prefix 67, ecx is 0. */
static uint32_t emit_short(struct emit *e, unsigned opcode)
{
    emit8(e, opcode);
    emit8(e, 0);
    return e->at;
}

static void short_here(struct emit *e, uint32_t from)
{
    e->buf[from - 1] = (uint8_t)(e->at - from);
}

void emit_code_address(struct translation *t, struct emit *e, unsigned reg, gva_t addr)
{
    int64_t by = (int64_t)(addr - (t->va & ~PAGE_MASK));

    if (!t->anywhere) {
        emit_const(e, reg, addr);
        return;
    }
    emit_load(e, reg, rm_gs(GS(code_page)));
    while (by) {
        int32_t part = (int32_t)(by > INT32_MAX ? INT32_MAX : by < INT32_MIN ? INT32_MIN : by);

        emit_op(e, true, OP_LEA, reg, rm_mem(reg, NO_REG, 0, part));
        by -= part;
    }
}

/* T1 = place in a table of `slots` entries of 1 << `bits` bytes, by the page of T0. */
static void emit_page_slot(const struct translation *t, struct emit *e, unsigned slots,
                           unsigned bits)
{
    if (t->bt->vm->host & HOST_BMI2) {
        emit_bytes(e, "\xc4\x43\x7b\xf0\xfe", 5); /* rorx r15d, r14d, 12 - bits */
    } else {
        emit_op(e, false, OP_STORE, T0, rm_reg(T1)); /* mov r15d, r14d */
        emit_op(e, false, 0xc1, 5, rm_reg(T1));      /* shr r15d, 12 - bits */
    }
    emit8(e, PAGE_SHIFT - bits);
    emit_dword(e, 4, rm_reg(T1), (slots - 1) << bits);
}

/* The tables of the privilege in force are at `table`: T1 indexes them by the address in T0. */
static struct rm emit_exec_slot(struct translation *t, struct emit *e, int32_t table)
{
    emit_page_slot(t, e, BT_EXEC_SLOTS, 3);
    return (struct rm){.kind = RM_GS, .base = T1, .index = NO_REG, .disp = table};
}

#define EXEC_AT(t, member) \
    (GS(member) + (int32_t)(8 * BT_EXEC_SLOTS * (mode_cpl((t)->b->key) != 3)))

/*
 * NE unless code of the page at the address in T0 is fetched from the RAM page that exec_ram made
 * `ram` of. Returns where that is. Destroys T1.
 */
static uint32_t emit_page_check(struct translation *t, struct emit *e, uint32_t ram)
{
    struct rm at = emit_exec_slot(t, e, EXEC_AT(t, exec_page));
    uint32_t other, where;

    emit_op(e, true, OP_CMP, T0, at);
    other = emit_short(e, 0x75);
    at.disp = EXEC_AT(t, exec);
    emit_op(e, false, 0x81, 7, at);
    where = e->at;
    emit32(e, ram);
    short_here(e, other);
    return where;
}

/* The same from a block that runs anywhere: the page that comes next is as far from its own. */
static void emit_anywhere_exit(struct translation *t, struct emit *e, uint32_t exit)
{
    struct bt_exit *x = &t->bt->exits[exit];
    gva_t page = t->va & ~PAGE_MASK;
    uint32_t other;

    emit_code_address(t, e, T0, (page + x->target) & ~PAGE_MASK);
    x->word = emit_page_check(t, e, UINT32_MAX);
    other = emit_jump(e, CC_NE, e->at);
    add_stub(t, STUB_EXIT, other, exit);
    emit_store(e, T0, rm_gs(GS(code_page)));
    align_jump(e, 1);
    x->jump = emit_jump(e, CC_ALWAYS, e->at);
    add_stub(t, STUB_EXIT_BACK, x->jump, exit);
}

/* Into another page, flags in the slot or dead: only if that page is what it was when linked. */
static void emit_far_exit(struct translation *t, struct emit *e, uint32_t exit, bool save)
{
    struct bt_exit *x = &t->bt->exits[exit];
    unsigned which = mode_cpl(t->b->key) != 3;
    struct stub *s;

    if (t->anywhere) {
        emit_anywhere_exit(t, e, exit);
        return;
    }
    emit8(e, 0x49); /* mov r15, imm64 */
    emit8(e, 0xbf);
    x->word = e->at;
    emit64(e, UINT64_MAX);
    emit_op(
        e, true, OP_CMP, T1,
        rm_gs(GS(exec) + (int32_t)(8 * (which * BT_EXEC_SLOTS + exec_slot(linear(t, x->target))))));
    s = add_stub(t, STUB_EXIT, emit_jump(e, CC_NE, e->at), exit);
    align_jump(e, 1);
    s->from2 = x->jump = emit_jump(e, CC_ALWAYS, e->at);
    s->save = save;
}

/* The end of the block, at an address that is known. */
static void emit_exit(struct translation *t, gva_t target, uint16_t live)
{
    uint32_t exit = add_exit(t, target, live);
    struct stub *s;

    if (!in_page(t, target)) {
        flags_to_slot(t, live);
        emit_far_exit(t, &t->hot, exit, false);
        return;
    }
    if (live)
        flags_to_host(t);
    align_jump(&t->hot, 1);
    t->bt->exits[exit].jump = emit_jump(&t->hot, CC_ALWAYS, t->hot.at);
    s = add_stub(t, STUB_EXIT, t->bt->exits[exit].jump, exit);
    s->save = live && t->host && !t->slot;
}

static bool planted(const struct translation *t, enum bt_plant what)
{
    return unlikely(t->bt->plant == what);
}

/* Does the block go round here? */
static bool goes_round(const struct translation *t, const struct form *f)
{
    return t->loop.on && f == &t->forms[t->n - 1];
}

static void emit_jcc(struct translation *t, const struct form *f)
{
    gva_t target = branch_target(f, t->va + f->off);
    unsigned cc = f->cc ^ planted(t, PLANT_BRANCH);
    uint32_t exit, from;
    struct stub *s;

    flags_to_host(t);
    if (goes_round(t, f)) {
        if (!t->loop.second) {
            t->loop.from = emit_jump(&t->hot, f->cc, t->hot.at);
            return;
        }
        target = behind(t, f);
        cc ^= 1;
    }
    exit = add_exit(t, target, f->live_out);
    align_jump(&t->hot, 2);
    from = emit_jump(&t->hot, cc, t->hot.at);
    s = add_stub(t, in_page(t, target) ? STUB_EXIT : STUB_EXIT_FAR, from, exit);
    t->bt->exits[exit].jump = from;
    s->save = t->host && !t->slot;
}

/* Jumps if the counter is 0, and leaves all as it was. T0 keeps rcx from here to emit_counter_back.
 */
static uint32_t emit_if_zero(struct emit *e, unsigned asize)
{
    if (asize == 2) {
        emit_store(e, REG_RCX, rm_reg(T0));
        emit_op(e, false, 0x1b7, REG_RCX, rm_reg(REG_RCX));
    } else if (asize == 4) {
        emit8(e, 0x67);
    }
    return emit_short(e, 0xe3);
}

static void emit_counter_back(struct emit *e, unsigned asize)
{
    if (asize == 2)
        emit_load(e, REG_RCX, rm_reg(T0));
}

/* LOOP and JCXZ, with the counter's moves in instructions that leave the flags alone. */
static void emit_loop(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    gva_t target = branch_target(f, t->va + f->off);
    uint32_t exit = add_exit(t, target, f->live_out), zero, flags = 0, around = 0, from;
    bool loop = f->zi.mnemonic == ZYDIS_MNEMONIC_LOOP, jcxz = !loop;
    unsigned asize = f->in.asize;
    struct stub *s;

    if (f->zi.mnemonic == ZYDIS_MNEMONIC_LOOPE || f->zi.mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        jcxz = false;
    flags_to_host(t);
    if (!jcxz)
        emit_sized(e, asize, OP_LEA, REG_RCX, rm_mem(REG_RCX, NO_REG, 0, -1));
    zero = emit_if_zero(e, asize);
    emit_counter_back(e, asize);
    if (jcxz) {
        around = emit_short(e, 0xeb);
        short_here(e, zero);
        emit_counter_back(e, asize);
    } else if (!loop) {
        flags = emit_short(e, f->zi.mnemonic == ZYDIS_MNEMONIC_LOOPE ? 0x75 : 0x74);
    }
    align_jump(e, 1);
    from = emit_jump(e, CC_ALWAYS, e->at);
    if (jcxz) {
        short_here(e, around);
    } else {
        short_here(e, zero);
        emit_counter_back(e, asize);
        if (!loop)
            short_here(e, flags);
    }
    s = add_stub(t, in_page(t, target) ? STUB_EXIT : STUB_EXIT_FAR, from, exit);
    t->bt->exits[exit].jump = from;
    s->save = t->host && !t->slot;
}

/* T0: where to. Flags in the slot or dead. */
void emit_indirect(struct translation *t, uint32_t site)
{
    struct emit *e = &t->hot;
    unsigned mode = bt_mode_id(t->bt, t->key, t->cs_word);
    int32_t table;

    if (mode == BT_MODE_LIST) {
        t->failed = true;
        return;
    }
    table = GS(targets) + (int32_t)(t->bt->modes[mode].table * BT_TARGETS * 8);
    emit_op(e, false, 0xc7, 0, rm_gs(GS(indirect_from)));
    emit32(e, site);
    emit_op(e, false, 0x1b7, T1, rm_reg(T0)); /* movzx r15d, r14w */
    emit_op(e, false, 0xff, 4,
            (struct rm){.kind = RM_GS, .base = NO_REG, .index = T1, .scale = 3, .disp = table});
}

/* To the block that does without, once there is one; until then to what follows. */
static void emit_jump_without(struct translation *t, struct emit *e, uint32_t site)
{
    align_jump(e, 1);
    t->bt->sites[site].resume = emit_jump(e, CC_ALWAYS, e->at);
    emit_patch(e, e->at - 4, e->at);
}

void emit_mode(struct translation *t)
{
    unsigned mode = bt_mode_id(t->bt, t->key, t->cs_word);

    if (mode == BT_MODE_LIST) {
        t->failed = true;
    } else if (t->bt->modes[mode].table == BT_MODES - 1) {
        emit_op(&t->hot, false, 0xc7, 0, rm_gs(GS(mode_number)));
        emit32(&t->hot, mode);
    }
}

/*
 * The table of pages knows nothing of where 32-bit addresses wrap: no window near there
 * (BT_WINDOW_EDGE). T0 is the lowest address; destroys T1. Returns the jump to be patched.
 */
static uint32_t emit_window_edge(struct emit *e)
{
    emit_op(e, true, OP_LEA, T1, rm_mem(T0, NO_REG, 0, -(1 << BT_WINDOW_EDGE)));
    emit_op(e, true, 0xc1, 5, rm_reg(T1)); /* shr r15, edge */
    emit8(e, BT_WINDOW_EDGE);
    emit_op(e, true, 0x81, 7, rm_reg(T1));
    emit32(e, (uint32_t)(BIT(32) >> BT_WINDOW_EDGE) - 2);
    return emit_jump(e, CC_AE, e->at);
}

/*
 * In a stack of 16 bits: T0, an offset, becomes an address if its page is one that window16_set
 * would take as it is. Destroys T1. Returns the jump to be patched.
 */
static uint32_t emit_window16(struct emit *e)
{
    uint32_t from;

    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_op(e, false, OP_ADD, T1, SEG_AT(SEG_SS, base));
    emit_dword(e, 4, rm_reg(T1), PAGE_MASK);
    emit_op(e, true, 0xf7, 3, rm_reg(T1)); /* neg r15 */
    emit_op(e, true, OP_ADD, T1, rm_reg(T0));
    emit_op(e, true, 0x81, 7, rm_reg(T1));
    emit32(e, 0xffff - PAGE_SIZE);
    from = emit_jump(e, CC_A, e->at);
    emit_op(e, false, OP_LOAD, T1, SEG_AT(SEG_SS, base)); /* nothing beyond 4 GiB has a tag */
    emit_op(e, true, OP_ADD, T0, rm_reg(T1));
    return from;
}

static void emit_stub(struct translation *t, const struct stub *s)
{
    struct emit *e = &t->cold;
    const struct bt_site *site = &t->bt->sites[s->index]; /* if it is one */
    uint32_t els, edge = BT_NONE;
    const bool narrow = bt_key_stack16(t->b->key);
    const unsigned which = mode_cpl(t->b->key) != 3;

    if (s->kind == STUB_TRAP)
        t->bt->traps[s->from].to = e->at;
    else if (s->kind != STUB_RESUME)
        emit_patch(e, s->from, e->at);
    if (s->from2 != BT_NONE)
        emit_patch(e, s->from2, e->at);
    switch (s->kind) {
    case STUB_UNPAGED:
        els = emit_tag_check(t, e, s->tag, s->span);
        emit_load(e, T1,
                  (struct rm){.kind = RM_GS, .base = T1, .index = NO_REG, .disp = s->member});
        emit_jump(e, CC_ALWAYS, s->back);
        emit_patch(e, els, e->at);
        /* fall through */
    case STUB_MISS: /* T0 ^= tag gives the address back */
        emit_op(e, true, OP_XOR, T0,
                (struct rm){.kind = RM_GS, .base = T1, .index = NO_REG, .disp = s->tag});
        if (key_table(t->bt->blocks[site->block].key) == KEY_USER && !site->aligned) {
            emit_const(e, T1, s->index);
            emit_jump(e, CC_ALWAYS, t->bt->stubs.second[site->how]);
            if (site->kind != SITE_GROUP)
                break; /* else the stub comes back here */
        } else {
            emit_store(e, T0, rm_gs(GS(slow_addr)));
        }
        if (site->kind == SITE_GROUP)
            emit_jump_without(t, e, s->index);
        emit_site(t, e, s->index);
        break;
    case STUB_PAIR:
        emit_jump_without(t, e, s->index);
        emit_site(t, e, s->index);
        break;
    case STUB_RESUME:
        if (s->save)
            t->bt->sites[s->index].retry = e->at;
        else
            t->bt->sites[s->index].resume = e->at;
        for (unsigned k = 0; k < 2; k++)
            if (s->temp[k])
                emit_load(e, T0 + k, GPR(s->temp[k]));
        emit_jump(e, CC_ALWAYS, s->back);
        break;
    case STUB_MISS_CONSTANT:
        emit_const(e, T0, s->addr);
        emit_store(e, T0, rm_gs(GS(slow_addr)));
        emit_site(t, e, s->index);
        break;
    case STUB_TRAP:
        if (s->save)
            put_flags(e);
        emit_site(t, e, s->index);
        break;
    case STUB_WINDOW: /* the stub of all looks into the table */
        emit_sum(e, T0, REG_RSP, s->tag);
        if (narrow)
            edge = emit_window16(e);
        else if (!t->code64)
            edge = emit_window_edge(e);
        emit8(e, 0x4c); /* lea r15, [rip + back] */
        emit8(e, 0x8d);
        emit8(e, 0x3d);
        emit32(e, s->back - (e->at + 4));
        emit_store(e, T1, rm_gs(GS(resume)));
        emit_op(e, false, 0xc7, 0, rm_gs(GS(id)));
        emit32(e, s->index);
        emit_op(e, true, 0xc7, 0, rm_gs(GS(window_limit)));
        emit32(e, PAGE_SIZE - s->span);
        emit8(e, 0x4c); /* lea r15, [rip + what follows the jump] */
        emit8(e, 0x8d);
        emit8(e, 0x3d);
        els = e->at;
        emit32(e, 0);
        emit_store(e, T1, rm_gs(GS(window_else)));
        emit_jump(e, CC_ALWAYS, narrow ? t->bt->stubs.window16[which] : t->bt->stubs.window[which]);
        emit_patch(e, els, e->at);
        if (edge != BT_NONE)
            emit_patch(e, edge, e->at);
        emit_jump_without(t, e, s->index);
        emit_site(t, e, s->index);
        break;
    case STUB_LIMIT: /* an address that nobody has a tag for */
        emit_const(e, T0, BIT(62));
        emit_store(e, T0, rm_gs(GS(slow_addr)));
        emit_site(t, e, s->index);
        break;
    case STUB_SLOW:
        emit_site(t, e, s->index);
        break;
    case STUB_SITE:
        emit_const(e, T0, s->index);
        emit_jump(e, CC_ALWAYS, t->bt->stubs.leave_site);
        break;
    case STUB_EXIT_FAR: /* the jump stays; what is linked is in here */
        if (s->save)
            put_flags(e);
        emit_far_exit(t, e, s->index, false);
        break;
    case STUB_LOOP_EXIT:
        emit_load(e, SD, rm_gs(GS(window_delta)));
        if (s->far) {
            if (s->save)
                put_flags(e);
            emit_far_exit(t, e, s->index, false);
            break;
        }
        align_jump(e, 1);
        t->bt->exits[s->index].jump = emit_jump(e, CC_ALWAYS, e->at);
        add_stub(t, STUB_EXIT, t->bt->exits[s->index].jump, s->index)->save = s->save;
        break;
    case STUB_EXIT_BACK:
        emit_code_address(
            t, e, T0,
            2 * (t->va & ~PAGE_MASK) -
                (((t->va & ~PAGE_MASK) + t->bt->exits[s->index].target) & ~PAGE_MASK));
        emit_store(e, T0, rm_gs(GS(code_page)));
        /* fallthrough */
    case STUB_EXIT:
        if (s->save)
            put_flags(e);
        emit_const(e, T0, s->index);
        emit_jump(e, CC_ALWAYS, t->bt->stubs.leave_direct);
        break;
    }
}

void slow_if(struct translation *t, unsigned cc, uint32_t site)
{
    add_stub(t, STUB_SLOW, emit_jump(&t->hot, cc, t->hot.at), site);
}

/* ---- memory operands ------------------------------------------------------------------------- */

/* The temporary that holds a guest's register, or 0. */
static unsigned holds(const struct translation *t, unsigned reg)
{
    return t->temp[0] == reg ? T0 : t->temp[1] == reg ? T1 : 0;
}

/* It has another value now. */
static void forget_held(struct translation *t, unsigned reg)
{
    for (unsigned k = 0; k < 2; k++)
        if (t->temp[k] == reg)
            t->temp[k] = 0;
}

/* T0 = the operand's linear address. Destroys T1, and the flags for FS and GS. */
void emit_address(struct translation *t, const struct form *f, bool segment)
{
    struct emit *e = &t->hot;
    const struct insn *in = &f->in;
    bool wide = in->asize == 8;
    unsigned base = in->base, index = in->index;

    if (base == R_RIP) {
        uint64_t at = t->va + f->off + in->len + (uint64_t)in->disp;

        emit_code_address(t, e, T0, wide || t->anywhere ? at : (uint32_t)at);
        if (!wide)
            emit_op(e, false, OP_STORE, T0, rm_reg(T0)); /* mov r14d, r14d */
    } else if (base == R_NONE && index == R_NONE) {
        emit_const(e, T0, wide ? (uint64_t)in->disp : (uint32_t)in->disp);
    } else {
        if (base != R_NONE && is_stolen(base)) {
            unsigned held = holds(t, base);

            if (!held && index != R_NONE && holds(t, index) == T0)
                t0_lost(t);
            if (!held)
                emit_load(e, T0, GPR(base));
            base = held ? held : T0;
        }
        if (index != R_NONE && is_stolen(index)) {
            unsigned held = holds(t, index);

            if (!held && base == T1) {
                emit_store(e, T1, rm_reg(T0));
                base = T0;
            }
            if (!held) {
                t1_lost(t);
                emit_load(e, T1, GPR(index));
            }
            index = held ? held : T1;
        }
        emit_op(e, wide, OP_LEA, T0,
                rm_mem(base == R_NONE ? NO_REG : base, index == R_NONE ? NO_REG : index, in->scale,
                       (int32_t)in->disp));
    }
    t0_lost(t);
    if (in->asize == 2)
        emit_op(e, false, 0x1b7, T0, rm_reg(T0)); /* movzx r14d, r14w */
    if (segment && in->seg >= SEG_FS)
        emit_op(e, true, OP_ADD, T0,
                rm_gs(GS(c.s.seg) + (int32_t)(in->seg * sizeof(struct cpu_seg) +
                                              offsetof(struct cpu_seg, base))));
}

uint32_t emit_tag_check(const struct translation *t, struct emit *e, int32_t tag, unsigned size)
{
    emit_page_slot(t, e, TLB_ENTRIES, 5);
    emit_op(e, true, OP_XOR, T0,
            (struct rm){.kind = RM_GS, .base = T1, .index = NO_REG, .disp = tag});
    emit_op(e, true, 0x81, 7, rm_reg(T0)); /* cmp r14, last */
    emit32(e, PAGE_SIZE - size);
    return emit_jump(e, CC_A, e->at);
}

/*
 * The check of `size` bytes at the address in T0. Afterwards T0 is the offset in the page and T1
 * the entry's `member`: the page's host address, or the addend. Without paging they may be the
 * address and the addend, which make the same.
 */
void emit_check(struct translation *t, uint32_t site, unsigned size, enum access how, size_t member)
{
    struct emit *e = &t->hot;
    int32_t table = GS(tlb) + (int32_t)(key_table(t->key) * sizeof(struct bt_table));
    int32_t tag = table + (int32_t)(offsetof(struct bt_entry, tag) + 8 * how);
    struct rm entry = {.kind = RM_GS, .base = T1, .index = NO_REG, .disp = tag};
    struct stub *s;

    t0_lost(t);
    t1_lost(t);
    if (how == ACCESS_READ && (t->key & BT_KEY_UNPAGED) && !t->bt->sites[site].aligned &&
        size <= BT_RUN_EDGE && atomic_load(&t->bt->distance)) {
        t->bt->sites[site].size = (uint8_t)size;
        t->bt->sites[site].how = (uint8_t)how;
        s = emit_run_check(t, site);
        s->tag = tag;
        s->member = table + (int32_t)member;
        s->span = (uint16_t)size;
        t->host = false;
        return;
    }
    s = add_stub(t, STUB_MISS, emit_tag_check(t, e, tag, size), site);
    s->tag = tag;
    if (t->bt->sites[site].aligned) {
        emit_op(e, false, 0xf7, 0, rm_reg(T0)); /* test r14d, size - 1 */
        emit32(e, size - 1);
        s = add_stub(t, STUB_MISS, emit_jump(e, CC_NE, e->at), site);
        s->tag = tag;
    }
    t->bt->sites[site].size = (uint8_t)size;
    t->bt->sites[site].how = (uint8_t)how;
    entry.disp = table + (int32_t)member;
    emit_load(e, T1, entry);
    t->host = false;
}

_Static_assert(sizeof(struct bt_entry) == 32, "emit_check shifts by 5");

/* ---- the stack's window ---------------------------------------------------------------------- */

/* What an instruction touches by rsp as it is before it: bytes [*low, *high). False: nothing. */
static bool stack_bytes(const struct form *f, int32_t *low, int32_t *high)
{
    const struct insn *in = &f->in;

    if (f->class == FORM_NATIVE ? !f->windowed : !f->stack_windowed)
        return false;
    switch (f->class) {
    case FORM_PUSH:
    case FORM_CALL:
    case FORM_CALL_INDIRECT:
        *low = -(int32_t)f->stack;
        break;
    case FORM_POP:
    case FORM_RET:
        *low = 0;
        break;
    case FORM_SYSTEM:
        *low = is_pushf(f) || f->sreg_push ? -(int32_t)f->stack : 0;
        if (!is_pushf(f) && !is_popf(f) && !f->sreg_push && !f->sreg_pop)
            return false;
        break;
    case FORM_NATIVE:
        if (!f->mem_size || f->masked || f->x87 || (f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK))
            return false;
        *low = (int32_t)in->disp;
        *high = *low + f->mem_size;
        return true;
    default:
        return false;
    }
    *high = *low + f->stack;
    return true;
}

static bool is_reg(const ZydisDecodedOperand *op, unsigned reg)
{
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && (decode_gpr(op->reg.value) & ~R_HIGH) == reg;
}

static bool writes_register(const struct form *f, unsigned reg)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (is_reg(&f->ops[k], reg) && (f->ops[k].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return true;
    return false;
}

bool reg_moves(const struct form *f, unsigned reg, unsigned width, int32_t *by)
{
    const struct insn *in = &f->in;
    int64_t add;

    *by = 0;
    if (!writes_register(f, reg))
        return true;
    if (f->ops[0].size != 8 * width || !is_reg(&f->ops[0], reg))
        return false;
    if (f->class == FORM_LEA) {
        add = in->disp;
        if (in->base != reg || in->index != R_NONE || in->asize != width)
            return false;
    } else if (f->class != FORM_NATIVE) {
        return false;
    } else if (f->zi.mnemonic == ZYDIS_MNEMONIC_INC || f->zi.mnemonic == ZYDIS_MNEMONIC_DEC) {
        add = f->zi.mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1;
    } else if (f->zi.mnemonic == ZYDIS_MNEMONIC_ADD || f->zi.mnemonic == ZYDIS_MNEMONIC_SUB) {
        if (f->ops[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !near(f->ops[1].imm.value.s))
            return false;
        add = f->ops[1].imm.value.s;
        add = f->zi.mnemonic == ZYDIS_MNEMONIC_SUB ? -add : add;
    } else {
        return false;
    }
    *by = (int32_t)add;
    return near(add);
}

/* How far an instruction moves rsp. False: nobody knows. */
static bool rsp_moves(const struct translation *t, const struct form *f, int32_t *by)
{
    switch (f->class) {
    case FORM_PUSH:
        *by = -(int32_t)f->stack;
        return true;
    case FORM_POP:
        *by = f->stack;
        return f->in.reg != REG_RSP;
    case FORM_SYSTEM:
        *by = is_pushf(f) || f->sreg_push ? -(int32_t)f->stack
              : is_popf(f) || f->sreg_pop ? (int32_t)f->stack
                                          : 0;
        return *by || !writes_register(f, REG_RSP);
    default:
        return reg_moves(f, REG_RSP, t->code64 ? 8 : 4, by);
    }
}

/* What is touched from form n on, relative to rsp before it; as much as fits the largest room. */
static bool window_extent(const struct translation *t, unsigned n, int32_t *low, int32_t *high)
{
    int32_t off = 0, by, l, h;
    bool any = false;

    for (; n < t->n; n++) {
        if (stack_bytes(&t->forms[n], &l, &h)) {
            l = off + l;
            h = off + h;
            if (any) {
                l = l < *low ? l : *low;
                h = h > *high ? h : *high;
            }
            if (h - l <= BT_WINDOW_SPAN) {
                *low = l;
                *high = h;
                any = true;
            }
        }
        if (!rsp_moves(t, &t->forms[n], &by))
            break;
        off += by;
    }
    return any;
}

/*
 * The same in two pages. False: they all lie in one, as far as one can tell, or rsp has become
 * something else since the translation began.
 */
static bool emit_pair(struct translation *t, const struct form *f, int32_t low, int32_t high)
{
    struct emit *e = &t->hot;
    unsigned span = (unsigned)(high - low), at;
    struct bt_site *s;
    uint32_t site;

    at = (t->v->c.s.gpr[REG_RSP] + (uint64_t)(int64_t)(t->rsp_off + low)) & PAGE_MASK;
    if (!t->rsp_known || at + span <= PAGE_SIZE)
        return false;
    flags_to_slot(t, f->live_in);
    site = add_site(t, f, SITE_PAIR);
    s = &t->bt->sites[site];
    s->retry = e->at;
    s->moved = low;
    s->at = (uint16_t)at;
    t0_lost(t);
    t->pair_t1 = 0;
    emit_sum(e, T0, REG_RSP, low);
    emit_op(e, true, 0x2b, T0, rm_gs(GS(pair)));
    emit_op(e, true, 0x0b, T0, rm_gs(GS(pair_none)));
    emit_op(e, true, 0x81, 7, rm_reg(T0));
    emit32(e, at);
    add_stub(t, STUB_PAIR, emit_jump(e, CC_NE, e->at), site);
    t->host = false;
    t->window = t->pair = true;
    t->window_off = 0;
    t->window_low = low;
    t->window_high = high;
    t->window_split = low + (int32_t)(PAGE_SIZE - at);
    return true;
}

/* The check that bytes [low, high) of rsp now, and SD, are in the window. It polls as well. */
static void emit_window(struct translation *t, const struct form *f, int32_t low, int32_t high)
{
    struct emit *e = &t->hot;
    unsigned span = (unsigned)(high - low);
    uint32_t site;
    struct stub *s;

    if ((t->v->without & BT_KEY_PAIR) && emit_pair(t, f, low, high))
        return;
    site = add_site(t, f, SITE_WINDOW);
    flags_to_slot(t, f->live_in);
    t0_lost(t);
    t1_lost(t);
    t->bt->sites[site].retry = e->at;
    t->bt->sites[site].moved = low;
    t->bt->sites[site].span = (uint16_t)span;
    emit_load(e, T0, rm_gs(GS(window)));
    emit_op(e, true, OP_LEA, T0, rm_mem(REG_RSP, T0, 0, low));
    emit_op(e, true, 0x0b, T0, rm_gs(GS(window_none)));
    emit_op(e, true, 0x81, 7, rm_reg(T0));
    emit32(e, PAGE_SIZE - span);
    s = add_stub(t, STUB_WINDOW, emit_jump(e, CC_A, e->at), site);
    s->tag = low;
    s->span = (uint16_t)span;
    s->back = e->at;
    t->host = false;
    t->window = true;
    t->pair = false;
    t->window_off = 0;
    t->window_low = low;
    t->window_high = high;
}

/* Neither of the two pages alone has them? */
static bool split(const struct translation *t, int32_t low, int32_t high)
{
    return t->pair && t->window_off + low < t->window_split &&
           t->window_off + high > t->window_split;
}

/* Have they been checked? */
static bool checked(const struct translation *t, int32_t low, int32_t high)
{
    return t->window && t->window_off + low >= t->window_low &&
           t->window_off + high <= t->window_high;
}

/* Are bytes [low, high) of rsp as it is before f in the window, after a check perhaps? */
static bool use_window(struct translation *t, const struct form *f, int32_t low, int32_t high)
{
    int32_t from, to;

    if (!t->windows)
        return false;
    if (checked(t, low, high))
        return !split(t, low, high);
    if (!window_extent(t, (unsigned)(f - t->forms), &from, &to) || low < from || high > to)
        return false;
    emit_window(t, f, from, to);
    return !split(t, low, high);
}

/* Where that is. */
static struct rm window_rm(struct translation *t, int32_t disp)
{
    unsigned page = t->window_off + disp >= t->window_split;

    disp += t->rsp_behind;
    if (!t->pair)
        return rm_mem(REG_RSP, SD, 0, disp);
    if (t->pair_t1 != page + 1) {
        t1_lost(t);
        emit_load(&t->hot, T1, rm_gs(GS(pair_delta) + 8 * (int32_t)page));
        t->pair_t1 = (uint8_t)(page + 1);
    }
    return rm_mem(REG_RSP, T1, 0, disp);
}

static void track_rsp(struct translation *t, const struct form *f)
{
    int32_t by;

    if (rsp_moves(t, f, &by) && near(t->rsp_off + by)) {
        t->window_off += by;
        t->rsp_off += by;
    } else {
        t->window = t->rsp_known = false;
    }
}

static unsigned count_bits(unsigned v)
{
    return (unsigned)__builtin_popcount(v);
}

/* ---- shared checks --------------------------------------------------------------------------- */

/* An access that may be one of several under one check. */
static bool sharable(const struct form *f)
{
    const struct insn *in = &f->in;

    return f->class == FORM_NATIVE && f->mem_size && f->simple && in->base != REG_RSP &&
           near(in->disp) && !f->masked && !f->x87 && count_bits(f->stolen) <= 1 &&
           !(f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK) && f->zi.mnemonic != ZYDIS_MNEMONIC_XCHG;
}

/* Does T1 outlive an instruction that is none of the group? */
static bool leaves_share(const struct form *f)
{
    switch (f->class) {
    case FORM_NATIVE:
        return count_bits(f->stolen) <= 1 && (!f->mem_size || f->windowed);
    case FORM_NOTHING:
    case FORM_JCC:
    case FORM_PUSH:
    case FORM_POP:
        return !(f->in.flags & INSN_MEM);
    case FORM_LEA:
        return f->in.index == R_NONE || !is_stolen(f->in.index);
    default:
        return false;
    }
}

/* Does what a check has shown hold no longer after this? */
static bool ends_shares(const struct form *f)
{
    return f->class == FORM_SLOW || f->class == FORM_END ||
           (f->class == FORM_SYSTEM && !(f->in.flags & (INSN_REP | INSN_REPNE | INSN_MEM)));
}

/* 32-bit registers wrap as they move; the sums that make host addresses do not. */
#define SHARE_WIDTH(t) ((t)->code64 ? 8 : UINT8_MAX)

static void track_shares(struct translation *t, const struct form *f)
{
    int32_t by;

    if (!sharable(f) && !leaves_share(f))
        t1_lost(t);
    for (unsigned k = 0; k < BT_SHARES; k++) {
        struct share *s = &t->share[k];

        if (ends_shares(f) || !reg_moves(f, s->base, SHARE_WIDTH(t), &by) || !near(s->moved + by))
            s->live = false;
        else
            s->moved += by;
    }
}

/*
 * How many accesses from form n on are by its base, their extent, and whether T1 is needed for
 * something else in between.
 */
static unsigned share_extent(const struct translation *t, unsigned n, struct share *s)
{
    unsigned base = t->forms[n].in.base, count = 0;
    int32_t off = 0, by;
    bool lost = false;

    *s = (struct share){.live = true, .in_t1 = true, .base = (uint8_t)base, .how = ACCESS_READ};
    for (; n < t->n; n++) {
        const struct form *f = &t->forms[n];
        bool ours = sharable(f) && f->in.base == base;

        if (ours) {
            int32_t l = off + (int32_t)f->in.disp, h = l + f->mem_size;

            l = count && s->low < l ? s->low : l;
            h = count && s->high > h ? s->high : h;
            if (h - l <= SHARE_SPAN) {
                s->low = l;
                s->high = h;
                s->how = f->mem_write ? ACCESS_WRITE : s->how;
                s->kept |= lost;
                count++;
            }
        }
        lost |= !ours &&
                (!leaves_share(f) || ((t->v->without & BT_KEY_PAIR) && stack_bytes(f, &by, &by)));
        if (ends_shares(f) || !reg_moves(f, base, SHARE_WIDTH(t), &by) || !near(off + by))
            break;
        off += by;
    }
    return count;
}

static bool covers(const struct share *s, const struct form *f, enum access how)
{
    int32_t at = s->moved + (int32_t)f->in.disp;

    return s->live && (s->in_t1 || s->kept) && s->base == f->in.base && at >= s->low &&
           at + f->mem_size <= s->high && how <= (enum access)s->how;
}

/* Is the operand under a shared check, after emitting it perhaps? Then T1 makes it a host address.
 */
static bool use_share(struct translation *t, const struct form *f, enum access how)
{
    struct share s;
    struct bt_site *site;
    unsigned k;
    uint32_t n;

    if (!t->shares || !sharable(f))
        return false;
    for (k = 0; k < BT_SHARES; k++)
        if (covers(&t->share[k], f, how)) {
            if (!t->share[k].in_t1) {
                t1_lost(t);
                emit_load(&t->hot, T1, rm_gs(GS(shares) + 8 * (int32_t)k));
            }
            t->share[k].in_t1 = true;
            return true;
        }
    if (share_extent(t, (unsigned)(f - t->forms), &s) < 2)
        return false;
    n = add_site(t, f, SITE_GROUP);
    site = &t->bt->sites[n];
    flags_to_slot(t, f->live_in);
    site->retry = t->hot.at;
    site->moved = (int32_t)f->in.disp - s.low;
    site->first_how = (uint8_t)how;
    site->first_size = f->mem_size;
    emit_sum(&t->hot, T0, f->in.base, s.low);
    emit_check(t, n, (unsigned)(s.high - s.low), s.how, offsetof(struct bt_entry, addend));
    k = t->next_share++ % BT_SHARES;
    t->share[k] = s;
    if (s.kept)
        emit_store(&t->hot, T1, rm_gs(GS(shares) + 8 * (int32_t)k));
    return true;
}

/* An address that is known needs no more than a look whether its page is there: T0 is the page. */
static bool use_constant(struct translation *t, const struct form *f, unsigned size,
                         enum access how, struct place *p)
{
    struct emit *e = &t->hot;
    const struct insn *in = &f->in;
    bool relative = in->base == R_RIP;
    gva_t addr = (uint64_t)in->disp + (relative ? t->va + f->off + in->len : 0);
    int32_t entry = GS(tlb) + (int32_t)(key_table(t->key) * sizeof(struct bt_table) +
                                        TLB_SLOT(addr) * sizeof(struct bt_entry));
    gva_t page = addr & ~PAGE_MASK;
    struct rm tag = rm_gs(entry + (int32_t)(offsetof(struct bt_entry, tag) + 8 * how));
    struct bt_site *s = &t->bt->sites[p->site];

    if ((relative ? t->anywhere : in->base != R_NONE) || in->index != R_NONE || in->asize != 8 ||
        in->seg >= SEG_FS || (addr & PAGE_MASK) > PAGE_SIZE - size || !canonical(addr) ||
        (s->aligned && (addr & (size - 1))))
        return false;
    s->size = (uint8_t)size;
    s->how = (uint8_t)how;
    t0_lost(t);
    if ((int64_t)page == (int32_t)page) {
        emit_op(e, true, 0x81, 7, tag);
        emit32(e, (uint32_t)page);
    } else {
        t1_lost(t);
        emit_const(e, T1, page);
        emit_op(e, true, OP_CMP, T1, tag);
    }
    add_stub(t, STUB_MISS_CONSTANT, emit_jump(e, CC_NE, e->at), p->site)->addr = addr;
    emit_load(e, T0, rm_gs(entry + (int32_t)offsetof(struct bt_entry, page)));
    t->host = false;
    p->rm = rm_mem(T0, NO_REG, 0, (int32_t)(addr & PAGE_MASK));
    return true;
}

/* Where the temporaries hold registers of the guest's, those come first. */
static void come_back_here(struct translation *t, uint32_t site, bool retry)
{
    struct stub *s;

    if (!t->temp[0] && !t->temp[1])
        return;
    s = add_stub(t, STUB_RESUME, BT_NONE, site);
    memcpy(s->temp, t->temp, sizeof(s->temp));
    s->back = t->hot.at;
    s->save = retry;
}

/* Address and check of the operand that `f` has; T0 is free afterwards if the place does not use
 * it. */
struct place emit_operand(struct translation *t, const struct form *f, unsigned size,
                          enum access how)
{
    const struct insn *in = &f->in;
    bool simple = f->simple;
    bool aligned = size > 1 && ((f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK) ||
                                f->zi.mnemonic == ZYDIS_MNEMONIC_XCHG);
    struct place p = {.site = BT_NONE};

    if (loop_operand(t, f, &p.rm))
        return p;
    if (f->windowed && !aligned && !f->masked && !f->x87 &&
        use_window(t, f, (int32_t)in->disp, (int32_t)in->disp + (int32_t)size)) {
        p.rm = window_rm(t, (int32_t)in->disp);
        return p;
    }
    if (simple && use_share(t, f, how)) {
        p.rm = rm_mem(in->base, T1, 0, (int32_t)in->disp);
        return p;
    }
    p.site = add_site(t, f, SITE_ACCESS);
    flags_to_slot(t, f->live_in);
    t->bt->sites[p.site].retry = t->hot.at;
    /* A pending #MF comes before any fault of the operand, and may keep a store from its own. */
    t->bt->sites[p.site].masked = f->masked || f->x87;
    t->bt->sites[p.site].aligned = aligned;
    if (use_constant(t, f, size, how, &p))
        return p;
    if (simple) {
        emit_sum(&t->hot, T0, in->base, (int32_t)in->disp);
        emit_check(t, p.site, size, how, offsetof(struct bt_entry, addend));
        p.rm = rm_mem(in->base, T1, 0, (int32_t)in->disp);
    } else {
        come_back_here(t, p.site, true);
        emit_address(t, f, t->code64);
        if (!t->code64)
            emit_segment(t, in->seg, in->asize, size, p.site);
        emit_check(t, p.site, size, how, offsetof(struct bt_entry, page));
        p.rm = rm_mem(T0, T1, 0, 0);
    }
    return p;
}

/* f->stack bytes at base + disp. The place does not use T0. */
struct place emit_stack(struct translation *t, const struct form *f, unsigned base, int32_t disp,
                        enum access how)
{
    struct place p = {.site = BT_NONE};

    if (base == REG_RSP && f->stack_windowed && use_window(t, f, disp, disp + f->stack)) {
        p.rm = window_rm(t, disp);
        return p;
    }
    p.site = add_site(t, f, SITE_ACCESS);
    flags_to_slot(t, f->live_in);
    t->bt->sites[p.site].retry = t->hot.at;
    if (t->code64 || (f->stack_windowed && !(t->key & MODE_LMA) && !bt_key_stack16(t->key))) {
        emit_sum(&t->hot, T0, base, disp);
        emit_check(t, p.site, f->stack, how, offsetof(struct bt_entry, addend));
        p.rm = rm_mem(base, T1, 0, disp);
    } else {
        emit_stack_address(t, f, base, disp, p.site);
        emit_check(t, p.site, f->stack, how, offsetof(struct bt_entry, page));
        emit_op(&t->hot, true, OP_LEA, T1, rm_mem(T0, T1, 0, 0));
        p.rm = rm_mem(T1, NO_REG, 0, 0);
    }
    return p;
}

void resume_here(struct translation *t, uint32_t site)
{
    uint8_t held = t->temp[1];

    if (site == BT_NONE)
        return;

    t->bt->sites[site].resume = t->hot.at;
    come_back_here(t, site, false);
    t1_lost(t); /* who comes here has other temporaries */
    t->temp[1] = held;
}

/* rsp = base + by, of the stack's width. */
static void emit_rsp(struct translation *t, unsigned base, int32_t by)
{
    unsigned width = t->code64 ? 8 : t->key & MODE_SS32 ? 4 : 2;

    emit_sized(&t->hot, width, OP_LEA, REG_RSP, rm_mem(base, NO_REG, 0, by));
}

void move_rsp(struct translation *t, int32_t by)
{
    by += t->rsp_behind;
    t->rsp_behind = 0;
    if (by)
        emit_rsp(t, REG_RSP, by);
}

/*
 * Can the instruction, whose bytes of the stack have been checked, do with an rsp that is behind?
 * Nothing of it can fault or leave.
 */
static bool takes_behind(const struct translation *t, const struct form *f)
{
    int32_t low, high;

    switch (f->class) {
    case FORM_PUSH:
    case FORM_POP:
        if ((f->in.flags & INSN_MEM) || f->in.reg == REG_RSP)
            return false;
        break;
    case FORM_CALL:
    case FORM_RET:
        break;
    default:
        return false;
    }
    return !f->crosses && stack_bytes(f, &low, &high) && checked(t, low, high) &&
           !split(t, low, high);
}

/* ---- instructions ---------------------------------------------------------------------------- */

static void emit_slow(struct translation *t, const struct form *f)
{
    uint32_t site;

    flags_to_slot(t, f->live_in | f->live_out);
    site = add_site(t, f, SITE_INSN);
    emit_site(t, &t->hot, site);
    t->host = t->slot = true;
    if (f->class != FORM_END)
        resume_here(t, site);
}

void add_trap(struct translation *t, uint32_t at, uint32_t site, bool save)
{
    uint32_t n = atomic_load(&t->bt->ntraps);

    t->bt->traps[n].at = at;
    t->bt->traps[n].site = site;
    add_stub(t, STUB_TRAP, n, site)->save = save;
    atomic_store(&t->bt->ntraps, n + 1);
}

/* xchg al, ah and so on. */
static void emit_swap_bytes(struct emit *e, unsigned reg)
{
    emit8(e, 0x86);
    emit8(e, 0xc0 | reg << 3 | (reg + 4));
}

/*
 * Gives each of the guest's registers that have no host register a temporary, out of the set
 * `spare`: the one that holds it already, or one that holds nothing.
 */
static void place_stolen(struct translation *t, const struct form *f, uint8_t map[16],
                         unsigned spare)
{
    unsigned todo = f->stolen, k;

    for (unsigned r = SD; r <= T1; r++) {
        k = holds(t, r) - T0;
        if ((todo >> r & 1) && k < 2 && (spare >> k & 1)) {
            map[r] = (uint8_t)(T0 + k);
            spare &= ~BIT(k);
            todo &= ~BIT(r);
        }
    }
    for (unsigned r = SD; r <= T1; r++) {
        if (!(todo >> r & 1))
            continue;
        k = !(spare & BIT(0)) || ((spare & BIT(1)) && t->temp[0] && !t1_in_use(t));
        spare &= ~BIT(k);
        map[r] = (uint8_t)(T0 + k);
        if (k)
            t1_lost(t);
        else
            t0_lost(t);
        if (f->stolen_read >> r & 1)
            emit_load(&t->hot, map[r], GPR(r));
    }
}

/* False: not possible like this, nothing has been written. */
static bool emit_native(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    uint8_t map[16];
    unsigned regs = count_bits(f->stolen), spare = BIT(0); /* of the temporaries */
    struct place p = {.site = BT_NONE};
    struct rm *mem = NULL;
    uint32_t trap = BT_NONE;
    bool wants = f->flags_read || (f->flags_may && (f->live_out & ~f->flags_must));

    for (unsigned r = 0; r < 16; r++)
        map[r] = (uint8_t)r;
    if (regs > 2 || (f->mem_size && regs > 1))
        return false;
    if (f->mem_size) {
        p = emit_operand(t, f, f->mem_size, f->mem_write ? ACCESS_WRITE : ACCESS_READ);
        mem = &p.rm;
        if (regs && p.rm.base == T0) {
            if (p.rm.index == T1) { /* both temporaries hold the address */
                emit_op(e, true, OP_LEA, T0, rm_mem(T0, T1, 0, 0));
                p.rm = rm_mem(T0, NO_REG, 0, 0);
            }
            t1_lost(t);
            spare = BIT(1);
        } else if (p.rm.index != T1 && p.rm.base != T1) {
            spare |= BIT(1);
        }
    }
    if (wants && !t->host) { /* get_flags needs T0 for a moment */
        if (mem && mem->base == T0) {
            if (mem->index == T1) {
                emit_op(e, true, OP_LEA, T1, rm_mem(T0, T1, 0, 0));
                p.rm = rm_mem(T1, NO_REG, 0, 0);
                spare = BIT(0);
            } else {
                emit_store(e, T0, rm_reg(T1));
                p.rm = rm_mem(T1, NO_REG, 0, p.rm.disp);
                t1_lost(t);
                spare = BIT(0);
            }
        }
        flags_to_host(t);
    }
    place_stolen(t, f, map, f->mem_size ? spare : BIT(0) | BIT(1));
    if (f->traps) {
        trap = add_site(t, f, SITE_INSN);
        if (f->x87) {
            t->bt->sites[trap].seg = f->in.seg;
            t->bt->sites[trap].fop = f->in.imm & 0x7ff;
        }
        add_trap(t, e->at, trap, f->live_in && t->host && !t->slot);
    }
    if (f->high != R_NONE)
        emit_swap_bytes(e, f->high);
    form_emit(e, f, map, mem);
    if (f->high != R_NONE)
        emit_swap_bytes(e, f->high);
    for (unsigned r = SD; r <= T1; r++) {
        if (f->stolen_written >> r & 1)
            emit_store(e, map[r], GPR(r));
        if (f->stolen >> r & 1) {
            forget_held(t, r);
            t->temp[map[r] - T0] = (uint8_t)r;
        }
    }
    if (mem)
        resume_here(t, p.site);
    if (f->flags_may) {
        t->host = true;
        t->slot = false;
    }
    return true;
}

void emit_lea(struct translation *t, const struct form *f)
{
    const struct insn *in = &f->in;
    unsigned reg = decode_gpr(f->ops[0].reg.value), size = f->ops[0].size / 8, dst;

    dst = is_stolen(reg) || size == 2 ? T0 : reg;
    if (size == 2)
        t1_lost(t); /* T1 is needed */
    if (in->base == R_RIP || (in->base == R_NONE && in->index == R_NONE) || is_stolen(in->base) ||
        is_stolen(in->index) || dst == T0 || in->asize == 2) {
        emit_address(t, f, false);
        if (size == 2 && is_stolen(reg))
            emit_store(&t->hot, T0, rm_reg(T1));
        if (size == 2 && is_stolen(reg)) {
            emit8(&t->hot, 0x65); /* mov gs:[reg], r15w: prefix 66 after the segment's */
            emit8(&t->hot, 0x66);
            emit8(&t->hot, 0x44);
            emit8(&t->hot, OP_STORE);
            emit_modrm(
                &t->hot, T1,
                &(struct rm){.kind = RM_GS, .base = NO_REG, .index = NO_REG, .disp = GPR(reg).disp},
                false);
            forget_held(t, reg);
            return;
        }
        if (size == 2) {
            emit8(&t->hot, 0x66);
            emit_op(&t->hot, false, OP_STORE, T0, rm_reg(reg));
            return;
        }
        if (size == 4)
            emit_op(&t->hot, false, OP_STORE, T0, rm_reg(T0)); /* cut to 32 bits */
        emit_store(&t->hot, T0, is_stolen(reg) ? GPR(reg) : rm_reg(reg));
        if (is_stolen(reg)) {
            forget_held(t, reg);
            t->temp[0] = (uint8_t)reg;
        }
        return;
    }
    emit_op(&t->hot, size == 8 && in->asize == 8, OP_LEA, reg,
            rm_mem(in->base == R_NONE ? NO_REG : in->base, in->index == R_NONE ? NO_REG : in->index,
                   in->scale, (int32_t)in->disp));
}

static void emit_push(struct translation *t, const struct form *f)
{
    bool memory = f->in.flags & INSN_MEM;
    uint32_t resume = BT_NONE;
    struct place p;

    if (memory) {
        p = emit_operand(t, f, f->stack, ACCESS_READ);
        emit_load_sized(&t->hot, f->stack, T0, p.rm);
        emit_store(&t->hot, T0, rm_gs(GS(scratch)));
        resume = p.site;
    }
    p = emit_stack(t, f, REG_RSP, -(int32_t)f->stack, ACCESS_WRITE);
    if (memory) {
        emit_load(&t->hot, T0, rm_gs(GS(scratch)));
        emit_sized(&t->hot, f->stack, OP_STORE, T0, p.rm);
    } else if (f->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        emit_store_constant(&t->hot, f->stack, p.rm, (uint32_t)f->in.imm);
    } else if (is_stolen(f->in.reg)) {
        emit_load(&t->hot, T0, GPR(f->in.reg));
        emit_store(&t->hot, T0, p.rm);
    } else {
        emit_sized(&t->hot, f->stack, OP_STORE, f->in.reg, p.rm);
    }
    if (unlikely(t->bt->plant == PLANT_MEMORY))
        emit_op(&t->hot, false, 0xf6, 2, p.rm); /* not byte */
    t->rsp_behind -= (int32_t)f->stack;
    if (p.site != BT_NONE || memory)
        move_rsp(t, 0);
    resume_here(t, p.site);
    resume_here(t, resume);
}

static void emit_pop(struct translation *t, const struct form *f)
{
    struct place p = emit_stack(t, f, REG_RSP, 0, ACCESS_READ);
    unsigned reg = f->in.reg;

    emit_sized(&t->hot, f->stack, OP_LOAD, is_stolen(reg) ? T0 : reg, p.rm);
    if (reg != REG_RSP)
        t->rsp_behind += f->stack;
    if (p.site != BT_NONE)
        move_rsp(t, 0);
    if (is_stolen(reg))
        emit_store(&t->hot, T0, GPR(reg));
    resume_here(t, p.site);
}

static void emit_leave_insn(struct translation *t, const struct form *f)
{
    struct place p = emit_stack(t, f, REG_RBP, 0, ACCESS_READ);

    emit_load_sized(&t->hot, f->stack, T0, p.rm);
    emit_rsp(t, REG_RBP, f->stack);
    emit_sized(&t->hot, f->stack, OP_STORE, T0, rm_reg(REG_RBP));
    resume_here(t, p.site);
}

static void emit_return_address(struct translation *t, const struct form *f)
{
    gva_t next = behind(t, f);
    struct place p = emit_stack(t, f, REG_RSP, -(int32_t)f->stack, ACCESS_WRITE);

    if (!t->anywhere && (f->stack < 8 || (int64_t)next == (int32_t)next)) {
        emit_store_constant(&t->hot, f->stack, p.rm, (uint32_t)next);
    } else {
        emit_code_address(t, &t->hot, T0, next);
        emit_store(&t->hot, T0, p.rm);
    }
    move_rsp(t, -(int32_t)f->stack);
}

static void emit_ret(struct translation *t, const struct form *f)
{
    struct place p = emit_stack(t, f, REG_RSP, 0, ACCESS_READ);
    int32_t by = f->stack + (int32_t)(f->in.imm & 0xffff);
    uint32_t site;

    flags_to_slot(t, FLAGS_ALL);
    emit_load_sized(&t->hot, f->stack, T0, p.rm);
    move_rsp(t, by);
    site = add_site(t, f, SITE_INSN);
    t->bt->sites[site].moved = by;
    emit_indirect(t, site);
}

/* T0 = target of an indirect JMP or CALL. */
static void emit_target(struct translation *t, const struct form *f)
{
    if (f->in.flags & INSN_MEM) {
        struct place p = emit_operand(t, f, f->stack, ACCESS_READ);

        emit_load_sized(&t->hot, f->stack, T0, p.rm);
    } else if (is_stolen(f->in.rm)) {
        emit_load(&t->hot, T0, GPR(f->in.rm));
    } else {
        emit_load_sized(&t->hot, f->stack, T0, rm_reg(f->in.rm));
    }
}

static void emit_indirect_branch(struct translation *t, const struct form *f)
{
    bool call = f->class == FORM_CALL_INDIRECT;
    uint32_t site;

    flags_to_slot(t, FLAGS_ALL);
    emit_target(t, f);
    if (call) {
        emit_store(&t->hot, T0, rm_gs(GS(target)));
        emit_return_address(t, f);
        emit_load(&t->hot, T0, rm_gs(GS(target)));
    }
    site = add_site(t, f, SITE_INSN);
    t->bt->sites[site].moved = call ? -(int32_t)f->stack : 0;
    emit_indirect(t, site);
}

/* After an instruction: the mistakes of enum bt_plant that can be made there. */
static void plant(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    ZydisMnemonic m = f->zi.mnemonic;
    bool native = f->class == FORM_NATIVE;

    if (planted(t, PLANT_REGISTER) && native && m == ZYDIS_MNEMONIC_ADD && f->in.osize == 8 &&
        f->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && !f->stolen) {
        unsigned reg = decode_gpr(f->ops[0].reg.value);

        emit_op(e, true, OP_LEA, reg, rm_mem(reg, NO_REG, 0, 1));
    }
    if (planted(t, PLANT_FLAGS) && native && m == ZYDIS_MNEMONIC_CMP && t->host)
        emit8(e, 0xf5);
    if (planted(t, PLANT_VECTOR) && native && m == ZYDIS_MNEMONIC_PXOR && !f->mem_size)
        emit_bytes(e, "\x66\x0f\x76\xc0", 4); /* pcmpeqd xmm0, xmm0 */
}

/* Is the next page still that of the instruction's second part? */
static void emit_crossing(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    gva_t next = (t->lin | PAGE_MASK) + 1;
    unsigned which = mode_cpl(t->b->key) != 3;
    uint32_t site;

    flags_to_slot(t, f->live_in);
    site = add_site(t, f, SITE_CROSSING);
    t->bt->sites[site].retry = e->at;
    t0_lost(t);
    t1_lost(t);
    if (t->anywhere) {
        emit_code_address(t, e, T0, next);
        emit_page_check(t, e, exec_ram(t->page2));
    } else {
        emit8(e, 0x49); /* mov r15, imm64 */
        emit8(e, 0xbf);
        emit64(e, exec_word(next, t->page2));
        emit_op(e, true, OP_CMP, T1,
                rm_gs(GS(exec) + (int32_t)(8 * (which * BT_EXEC_SLOTS + exec_slot(next)))));
    }
    t->host = false;
    slow_if(t, CC_NE, site);
}

static void emit_form(struct translation *t, const struct form *f)
{
    gva_t va = t->va + f->off;
    bool holds_on = f->class == FORM_NATIVE || f->class == FORM_JCC || f->class == FORM_NOTHING ||
                    f->class == FORM_LEA;

    t->now = f;
    if (!holds_on)
        t->temp[0] = t->temp[1] = 0;
    if (f->crosses && f->class != FORM_SLOW && f->class != FORM_END)
        emit_crossing(t, f);
    switch (f->class) {
    case FORM_NATIVE:
        if (!emit_native(t, f))
            emit_slow(t, f);
        break;
    case FORM_NOTHING:
        break;
    case FORM_LEA:
        emit_lea(t, f);
        break;
    case FORM_PUSH:
        emit_push(t, f);
        break;
    case FORM_POP:
        emit_pop(t, f);
        break;
    case FORM_LEAVE:
        emit_leave_insn(t, f);
        break;
    case FORM_JCC:
        emit_jcc(t, f);
        break;
    case FORM_LOOP:
        emit_loop(t, f);
        break;
    case FORM_JMP:
        if (goes_round(t, f) && t->loop.second)
            break;
        if (goes_round(t, f))
            t->loop.from = emit_jump(&t->hot, CC_ALWAYS, t->hot.at);
        else
            emit_exit(t, branch_target(f, va), f->live_out);
        break;
    case FORM_CALL:
        emit_return_address(t, f);
        emit_exit(t, branch_target(f, va), f->live_out);
        break;
    case FORM_RET:
        emit_ret(t, f);
        break;
    case FORM_JMP_INDIRECT:
    case FORM_CALL_INDIRECT:
        emit_indirect_branch(t, f);
        break;
    case FORM_SYSTEM:
        emit_system(t, f);
        break;
    case FORM_SLOW:
    case FORM_END:
        emit_slow(t, f);
        break;
    }
    if (!holds_on)
        t->temp[0] = t->temp[1] = 0;
    track_rsp(t, f);
    track_shares(t, f);
    if (t->rsp_behind && (f + 1 == t->forms + t->n || !takes_behind(t, f + 1)))
        move_rsp(t, 0);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* Does whoever enters the block come to something that touches the stack? */
static bool stack_is_used(const struct translation *t)
{
    int32_t low, high;

    for (unsigned n = 0; n < t->n && t->forms[n].class != FORM_JCC; n++)
        if (stack_bytes(&t->forms[n], &low, &high))
            return true;
    return false;
}

/* Is the block behind a near CALL? Then it is a RET that comes to it. */
static bool follows_call(const struct translation *t)
{
    return t->off >= 5 && t->page[t->off - 5] == 0xe8;
}

static void emit_mode_check(struct translation *t, struct emit *e)
{
    if (t->bt->modes[t->mode].table == BT_MODES - 1) {
        emit_dword(e, 7, rm_gs(GS(mode_number)), t->mode);
        emit_jump(e, CC_NE, t->bt->stubs.leave_indirect);
    }
}

/* T0: where to. If that is this place in a page, and in this RAM page, that is the code's page. */
static void emit_anywhere_entry(struct translation *t, struct emit *e)
{
    unsigned which = mode_cpl(t->b->key) != 3;
    struct rm page, word;

    emit_mode_check(t, e);
    page = word = emit_exec_slot(t, e, EXEC_AT(t, exec_page));
    word.disp = EXEC_AT(t, exec);
    emit_op(e, true, OP_XOR, T0, page);
    emit_op(e, true, 0x81, 7, rm_reg(T0)); /* cmp r14, offset */
    emit32(e, t->off);
    emit_jump(e, CC_NE, t->bt->stubs.other_page[which]);
    emit_op(e, false, 0x81, 7, word);
    emit32(e, exec_ram(t->page_number));
    emit_jump(e, CC_NE, t->bt->stubs.other_page[which]);
    emit_load(e, T0, page);
    emit_store(e, T0, rm_gs(GS(code_page)));
}

/* T0: where to. If that is this block's address and this is its page, on to what follows. */
static void emit_indirect_entry(struct translation *t, struct emit *e)
{
    uint64_t word = exec_word(t->lin, (uint32_t)(t->b->phys >> PAGE_SHIFT));
    unsigned which = mode_cpl(t->b->key) != 3;

    t->b->entry_indirect = e->at;
    if (t->anywhere) {
        emit_anywhere_entry(t, e);
        return;
    }
    if ((int64_t)t->va == (int32_t)t->va) {
        emit_op(e, true, 0x81, 7, rm_reg(T0));
        emit32(e, (uint32_t)t->va);
    } else {
        emit_const(e, T1, t->va);
        emit_op(e, true, OP_CMP, T0, rm_reg(T1));
    }
    emit_jump(e, CC_NE, t->bt->stubs.leave_indirect);
    emit_mode_check(t, e);
    emit8(e, 0x49); /* mov r15, imm64 */
    emit8(e, 0xbf);
    emit64(e, word);
    emit_op(e, true, OP_CMP, T1,
            rm_gs(GS(exec) + (int32_t)(8 * (which * BT_EXEC_SLOTS + exec_slot(t->lin)))));
    emit_jump(e, CC_NE, t->bt->stubs.leave_indirect);
}

static void emit_entries(struct translation *t)
{
    struct bt_block *b = t->b;
    struct emit *e = &t->hot;
    uint16_t live = t->forms[0].live_in;
    int32_t low = 0, high = 0;
    bool window = t->windows && stack_is_used(t) && window_extent(t, 0, &low, &high);
    bool polls = b->needs || !window || (t->v->without & BT_KEY_PAIR);

    if (follows_call(t))
        emit_indirect_entry(t, e);
    emit_nop(e, (0u - e->at) & 7);
    b->entry = e->at;
    if (polls) {
        emit_op(e, false, 0x83, 7, rm_gs(GS(attention) + 4 * (int32_t)b->needs));
        emit8(e, 0);
        add_stub(t, STUB_SITE, emit_jump(e, CC_NE, e->at), add_site(t, &t->forms[0], SITE_INSN));
    }
    t->host = false;
    t->slot = live;
    t->window = t->pair = false;
    t->rsp_known = true;
    t->rsp_off = t->rsp_behind = 0;
    t->pair_t1 = t->temp[0] = t->temp[1] = 0;
    memset(t->share, 0, sizeof(t->share));
    if (window)
        emit_window(t, &t->forms[0], low, high); /* before flags are made */
    if (live)
        flags_to_host(t);
}

/* As emit_entries leaves it, but for what the first form may have checked: rsp may have moved. */
void emit_as_first(struct translation *t)
{
    t->host = t->slot = false;
    t->window = t->pair = t->rsp_known = false;
    t->pair_t1 = t->temp[0] = t->temp[1] = 0;
    memset(t->share, 0, sizeof(t->share));
    t->loop.second = true;
    t->loop.in_t1 = 0;
    for (unsigned i = 0; i < t->n; i++)
        emit_form(t, &t->forms[i]);
}

static void emit_cold_entries(struct translation *t)
{
    struct bt_block *b = t->b;
    struct emit *e = &t->cold;

    if (!follows_call(t)) { /* rarely used: what is used lies closer together without it */
        emit_indirect_entry(t, e);
        emit_jump(e, CC_ALWAYS, b->entry);
    }
    b->entry_host = b->entry;
    if (t->forms[0].live_in) {
        b->entry_host = e->at;
        put_flags(e);
        emit_jump(e, CC_ALWAYS, b->entry);
    }
    emit_nop(e, (0u - e->at) & 7); /* where a successor's jump will be put */
    b->stale = e->at;
    emit_const(e, T0, add_site(t, &t->forms[0], SITE_INSN));
    emit_jump(e, CC_ALWAYS, t->bt->stubs.leave_site);
}

static bool room(const struct bt_vm *bt)
{
    return bt->hot + ROOM_HOT <= BT_COLD && bt->cold + ROOM_COLD <= BT_CODE_BYTES - PAGE_SIZE &&
           bt->nblocks < BT_BLOCKS && bt->nsites + 8 * MAX_FORMS < BT_SITES &&
           bt->nexits + 3 * MAX_FORMS < BT_EXITS && bt->ntraps + 2 * MAX_FORMS < BT_TRAPS &&
           bt->nbytes + 16 * MAX_FORMS < BT_BYTES;
}

/* Now that stores to them are noticed: are the bytes in the page still those that were decoded? */
static bool same_bytes(const struct translation *t)
{
    if (t->granules2 && memcmp(t->live_page2, t->bytes2, t->nbytes2))
        return false;
    for (unsigned i = 0; i < 64; i++)
        if (t->granules >> i & 1 && memcmp(t->live_page + i * 64, t->page + i * 64, 64))
            return false;
    return true;
}

/* x87 instructions leave their address behind; branches of 16 bits go to the first page or so. */
static bool runs_anywhere(const struct translation *t)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->forms[i].x87 || (is_relative(&t->forms[i]) && t->forms[i].in.osize != 8))
            return false;
    return true;
}

/*
 * Is the block to run anywhere? It will be run at another address too, if its page is; and what
 * leads to it may go to no other.
 */
static bool choose_place(struct translation *t)
{
    struct bt_vm *bt = t->bt;
    _Atomic uint32_t *place = &bt->page_places[t->page_number];
    uint32_t was = atomic_load(place), is = page_place(t->va);

    if (!t->code64 || !anywhere_at(t->va))
        return false;
    if (bt->anywhere)
        return true;
    if (t->v->c.cpl != 3 || t->v->settle)
        return false;
    if (t->v->anywhere || (was && was != is))
        is = PLACE_MANY;
    atomic_store(place, is);
    return is == PLACE_MANY;
}

static struct bt_block *translate(struct translation *t)
{
    struct bt_vm *bt = t->bt;
    struct interp *c = &t->v->c;
    struct bt_block *b = &bt->blocks[bt->nblocks];
    uint32_t ntraps = atomic_load(&bt->ntraps);
    bool fixed;

    decode_block(t);
    if (!t->n)
        return NULL;
    find_live(t);
    t->loop.on &= !t->forms[0].live_in;
    fixed = !t->code64 || !runs_anywhere(t);
    t->anywhere = !fixed && choose_place(t);
    *b = (struct bt_block){.va = t->anywhere ? t->off : t->va,
                           .lin = t->lin,
                           .cs_word = t->cs_word,
                           .key = t->key | t->v->without | (uint64_t)t->v->cap << BT_KEY_CAP_SHIFT |
                                  (t->anywhere ? BT_KEY_ANYWHERE : 0),
                           .phys = (uint64_t)t->page_number << PAGE_SHIFT | t->off,
                           .insns = (uint16_t)t->n,
                           .fixed = fixed};
    for (unsigned i = 0; i < t->n; i++)
        b->needs |= (t->forms[i].vec ? NEED_VEC : 0) | (t->forms[i].x87 ? NEED_X87 : 0);
    t->b = b;
    t->nstubs = 0;
    t->hot = (struct emit){.buf = bt->code.rw, .at = bt->hot};
    t->cold = (struct emit){.buf = bt->code.rw, .at = bt->cold};
    emit_entries(t);
    for (unsigned i = 0; i < t->n; i++) {
        emit_form(t, &t->forms[i]);
        if (unlikely(bt->plant))
            plant(t, &t->forms[i]);
    }
    if (t->open) {
        const struct form *last = &t->forms[t->n - 1];

        emit_exit(t, behind(t, last), last->live_out);
    }
    if (t->loop.on)
        emit_loop_form(t);
    emit_cold_entries(t);
    for (unsigned i = 0; i < t->nstubs; i++)
        emit_stub(t, &t->stubs[i]);
    b->bytes = bt->nbytes;
    for (unsigned i = 0; i < t->n; i++) {
        memcpy(bt->bytes + bt->nbytes, t->forms[i].in.bytes, t->forms[i].in.len);
        bt->nbytes += t->forms[i].in.len;
    }
    b->granules = t->granules;
    b->granules2 = t->granules2;
    b->page2 = t->granules2 ? t->page2 : BT_NONE;
    block_note(c, t->page_number, t->granules);
    if (t->granules2)
        block_note(c, t->page2, t->granules2);
    if (t->failed || !same_bytes(t) || !bt_cache_publish(bt, b, t->gen, t->gen2)) {
        atomic_store(&bt->ntraps, ntraps); /* ascending, so that they are found */
        t->era++;
        return NULL;
    }
    if (unlikely(bt->perf_map >= 0))
        bt_perf_map_block(bt, b, t->hot.at, bt->cold, t->cold.at);
    bt_trace(t->v, "translate", t->va, b->phys, t->n, t->hot.at - bt->hot + t->cold.at - bt->cold);
    b->hot_end = bt->hot = t->hot.at;
    b->cold = bt->cold;
    b->cold_end = bt->cold = t->cold.at;
    bt->nblocks++;
    bt->translated++;
    bt_cache_grown(bt);
    return b;
}

/* Only a page that is known to have code: whoever stores to it is noticed. */
static void find_page2(struct translation *t)
{
    struct interp *c = &t->v->c;
    gva_t next = (t->lin | PAGE_MASK) + 1;
    unsigned slot = TLB_SLOT(next);
    const struct ram *ram = &c->vm->ram;

    t->page2 = BT_NONE;
    if (c->tlb[slot].tag[ACCESS_EXEC] != (next | c->key))
        return;
    t->gen2 = atomic_load(&ram->code_gen[c->tlb_ram_page[slot]]);
    if (atomic_load(&ram->page_flags[c->tlb_ram_page[slot]]) != RAM_HAS_CODE)
        return;
    t->page2 = c->tlb_ram_page[slot];
    t->live_page2 = (const uint8_t *)(uintptr_t)(next + c->tlb[slot].addend);
}

struct bt_block *bt_translate(struct bt_vcpu *v, bool *full)
{
    struct bt_vm *bt = v->bt;
    struct translation *t = bt->work;
    struct bt_block *b = NULL;
    const uint8_t *host;
    gva_t lin = block_linear(&v->c, v->c.s.rip);
    uint32_t page, gen;

    *full = false;
    if (v->c.s.rip > bt_code_limit(&v->c))
        return NULL;
    host = block_code_page(&v->c, lin, &page, &gen);
    if (!host)
        return NULL;
    pthread_mutex_lock(&bt->lock);
    if (room(bt)) {
        t->bt = bt;
        t->v = v;
        t->key = bt_key(&v->c);
        if (t->key & BT_KEY_UNPAGED)
            bt_distance_find(bt);
        t->windows = !(v->without & BT_KEY_NO_WINDOW);
        t->shares = !(v->without & BT_KEY_NO_SHARE);
        t->cs_word = bt_cs_word(&v->c);
        t->mode = bt_mode_id(bt, t->key, t->cs_word);
        t->code64 = v->c.code64;
        t->limit = bt_code_limit(&v->c);
        t->rip_mask = v->c.rip_mask;
        t->va = v->c.s.rip;
        t->lin = lin;
        t->off = lin & PAGE_MASK;
        t->live_page = host - t->off;
        t->page_number = page;
        t->gen = gen;
        memcpy(t->page, t->live_page, PAGE_SIZE);
        t->granules = t->granules2 = 0;
        find_page2(t);
        t->failed = t->mode == BT_MODE_LIST;
        t->max = v->cap ? (unsigned)min_u64(v->cap, MAX_FORMS) : MAX_FORMS;
        if (!t->failed)
            b = translate(t);
        *full = t->failed;
    } else {
        *full = true;
    }
    pthread_mutex_unlock(&bt->lock);
    return b;
}
