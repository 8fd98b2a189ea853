/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The code between C and translations, made once per VM: entering, leaving, the call to bt_slow,
 * and the exchange of vector and x87 registers. What it keeps: the guest's general registers go to
 * struct interp before C runs and come from there; the host's callee-saved ones are on the host's
 * stack.
 */
#include "engine/bt/bt.h"
#include "engine/bt/emit.h"

#define GPR(n)     rm_gs(GS(c.s.gpr) + 8 * (n))
#define HOST_SAVED 6

static const uint8_t host_saved[HOST_SAVED] = {REG_RBX, REG_RBP, 12, 13, 14, 15};

static void push(struct emit *e, unsigned reg)
{
    if (reg & 8)
        emit8(e, 0x41);
    emit8(e, 0x50 | (reg & 7));
}

static void pop(struct emit *e, unsigned reg)
{
    if (reg & 8)
        emit8(e, 0x41);
    emit8(e, 0x58 | (reg & 7));
}

static void spill(struct emit *e)
{
    for (unsigned r = 0; r < 16; r++)
        if (!is_stolen(r))
            emit_store(e, r, GPR(r));
}

static bool has(const struct bt_vm *bt, uint32_t feature)
{
    return bt->vm->host & feature;
}

/* How much of a vector register is moved. */
enum vector_part { PART_XMM, PART_YMM, PART_ZMM };

/* movups, vmovups or vmovdqu64 between vector register n and its place; opcode 10/11 or 6f/7f. */
static void vector_move(struct emit *e, enum vector_part part, bool store, unsigned n)
{
    struct rm m = rm_gs(GS(c.s.fpu.zmm) + 64 * (int32_t)n);

    emit8(e, 0x65);
    if (part == PART_ZMM) {
        emit8(e, 0x62);
        emit8(e, (~n >> 3 & 1) << 7 | 0x60 | (~n >> 4 & 1) << 4 | 1);
        emit8(e, 0xfe);
        emit8(e, 0x48);
        emit8(e, store ? 0x7f : 0x6f);
    } else if (part == PART_YMM) {
        emit8(e, 0xc4);
        emit8(e, (~n >> 3 & 1) << 7 | 0x61);
        emit8(e, 0x7c);
        emit8(e, store ? 0x11 : 0x10);
    } else {
        if (n & 8)
            emit8(e, 0x44);
        emit8(e, 0x0f);
        emit8(e, store ? 0x11 : 0x10);
    }
    emit_modrm(e, n, &m, true);
}

static void mask_move(struct emit *e, bool store, unsigned n)
{
    struct rm m = rm_gs(GS(c.s.fpu.k) + 8 * (int32_t)n);

    emit8(e, 0x65);
    emit8(e, 0xc4);
    emit8(e, 0xe1);
    emit8(e, 0xf8);
    emit8(e, store ? 0x91 : 0x90);
    emit_modrm(e, n, &m, true);
}

/* LDMXCSR is /2, STMXCSR /3 of 0F AE. */
static void mxcsr_move(struct emit *e, bool store, int32_t at)
{
    emit_op(e, false, 0x1ae, store ? 3 : 2, rm_gs(at));
}

static void emit_vzeroupper(struct emit *e)
{
    emit8(e, 0xc5);
    emit8(e, 0xf8);
    emit8(e, 0x77);
}

/* Registers 0 to 15 up to what SSE knows, or all of them. */
static void low_move(struct bt_vm *bt, struct emit *e, bool whole, bool store)
{
    enum vector_part part = !whole || !has(bt, HOST_AVX) ? PART_XMM
                            : has(bt, HOST_AVX512)       ? PART_ZMM
                                                         : PART_YMM;

    for (unsigned n = 0; n < 16; n++)
        vector_move(e, part, store, n);
}

/* What only AVX-512 has. */
static void high_move(struct bt_vm *bt, struct emit *e, bool store)
{
    for (unsigned n = 16; has(bt, HOST_AVX512) && n < 32; n++)
        vector_move(e, PART_ZMM, store, n);
    for (unsigned n = 0; has(bt, HOST_AVX512) && n < 8; n++)
        mask_move(e, store, n);
}

static void byte_is_zero(struct emit *e, int32_t at)
{
    emit_op(e, false, 0x80, 7, rm_gs(at)); /* cmp byte gs:[at], 0 */
    emit8(e, 0);
}

/* The jump that is taken if the bits are clear in the byte. */
static uint32_t unless(struct emit *e, int32_t at, unsigned bits)
{
    emit_op(e, false, 0xf6, 0, rm_gs(at)); /* test byte gs:[at], bits */
    emit8(e, bits);
    return emit_jump(e, CC_E, e->at);
}

static void byte_set(struct emit *e, int32_t at, unsigned v)
{
    emit_op(e, false, 0xc6, 0, rm_gs(at));
    emit8(e, v);
}

#define FX_FCW 0
#define FX_FSW 2

/*
 * To the image. C code wants an empty stack, all exceptions masked and none pending: EMMS is a
 * tenth of FNINIT, and enough for a guest that has the same control word.
 */
static void x87_out(struct emit *e)
{
    uint32_t all, pending, done;

    emit_op(e, true, 0x1ae, 0, rm_gs(GS(fx))); /* fxsave64 */
    byte_set(e, GS(x87_saved), 1);
    emit8(e, 0x66);
    emit_op(e, false, 0x81, 7, rm_gs(GS(fx) + FX_FCW)); /* cmp word gs:[fx.fcw], 37fh */
    emit8(e, 0x7f);
    emit8(e, 0x03);
    all = emit_jump(e, CC_NE, e->at);
    emit_op(e, false, 0xf6, 0, rm_gs(GS(fx) + FX_FSW)); /* test byte gs:[fx.fsw], ES */
    emit8(e, 0x80);
    pending = emit_jump(e, CC_NE, e->at);
    emit8(e, 0x0f); /* emms */
    emit8(e, 0x77);
    done = emit_jump(e, CC_ALWAYS, e->at);
    emit_patch(e, all, e->at);
    emit_patch(e, pending, e->at);
    emit8(e, 0xdb); /* fninit */
    emit8(e, 0xe3);
    emit_patch(e, done, e->at);
}

#define UPPER_IN_USE (XCR0_AVX | XCR0_ZMM_HI256)

/*
 * An SSE instruction while the upper half of some register is not 0 costs hundreds of cycles, once
 * (Intel's optimization manual, "Mixing AVX code with SSE code"). Most code never uses them: then
 * they are neither stored nor loaded, and stay clean.
 */
static void vectors_out(struct bt_vm *bt, struct emit *e)
{
    uint32_t used, were_used, done;

    mxcsr_move(e, true, GS(c.s.fpu.mxcsr));
    mxcsr_move(e, false, GS(host_mxcsr));
    high_move(bt, e, true);
    if (!has(bt, HOST_XINUSE)) {
        low_move(bt, e, true, true);
        if (has(bt, HOST_AVX))
            emit_vzeroupper(e);
        return;
    }
    emit_const(e, REG_RCX, 1);
    emit_bytes(e, "\x0f\x01\xd0", 3); /* xgetbv */
    emit8(e, 0xa8);                   /* test al, imm8 */
    emit8(e, UPPER_IN_USE);
    used = emit_jump(e, CC_NE, e->at);
    byte_is_zero(e, GS(c.upper)); /* loaded whole: it is stored whole */
    were_used = emit_jump(e, CC_NE, e->at);
    low_move(bt, e, false, true);
    done = emit_jump(e, CC_ALWAYS, e->at);
    emit_patch(e, used, e->at);
    emit_patch(e, were_used, e->at);
    low_move(bt, e, true, true);
    emit8(e, 0xa8);
    emit8(e, UPPER_IN_USE);
    emit_op(e, false, 0x195, 0, rm_gs(GS(c.upper))); /* setne */
    emit_vzeroupper(e);
    emit_patch(e, done, e->at);
}

static void vectors_in(struct bt_vm *bt, struct emit *e)
{
    uint32_t used, done;

    high_move(bt, e, false);
    mxcsr_move(e, false, GS(c.s.fpu.mxcsr));
    if (!has(bt, HOST_XINUSE)) {
        low_move(bt, e, true, false);
        return;
    }
    byte_is_zero(e, GS(c.upper));
    used = emit_jump(e, CC_NE, e->at);
    emit_vzeroupper(e);
    low_move(bt, e, false, false);
    done = emit_jump(e, CC_ALWAYS, e->at);
    emit_patch(e, used, e->at);
    low_move(bt, e, true, false);
    emit_patch(e, done, e->at);
}

/* Whatever is live beside the general registers goes to memory; C may have the registers. */
static void live_out(struct bt_vm *bt, struct emit *e)
{
    uint32_t none, skip;

    byte_is_zero(e, GS(live));
    none = emit_jump(e, CC_E, e->at);
    skip = unless(e, GS(live), NEED_VEC);
    vectors_out(bt, e);
    emit_patch(e, skip, e->at);
    skip = unless(e, GS(live), NEED_X87);
    x87_out(e);
    emit_patch(e, skip, e->at);
    byte_set(e, GS(live), 0);
    for (unsigned n = 1; n < BT_NEEDS; n++) {
        emit_op(e, false, 0xc7, 0, rm_gs(GS(attention) + 4 * (int32_t)n));
        emit32(e, 1);
    }
    emit_patch(e, none, e->at);
}

/* And what is wanted comes from there: x87 first, as its image has XMM registers that are none. */
static void wanted_in(struct bt_vm *bt, struct emit *e)
{
    uint32_t none, skip;

    byte_is_zero(e, GS(wanted));
    none = emit_jump(e, CC_E, e->at);
    skip = unless(e, GS(wanted), NEED_X87);
    emit_op(e, true, 0x1ae, 1, rm_gs(GS(fx))); /* fxrstor64 */
    emit_patch(e, skip, e->at);
    skip = unless(e, GS(wanted), NEED_VEC);
    vectors_in(bt, e);
    emit_patch(e, skip, e->at);
    byte_set(e, GS(wanted), 0);
    emit_patch(e, none, e->at);
}

static void align(struct emit *e, unsigned to)
{
    emit_nop(e, (0u - e->at) & (to - 1));
}

/* Everything of the guest's from memory, then on at `resume`. Flags come from the slot. */
static void go_on(struct bt_vm *bt, struct emit *e)
{
    wanted_in(bt, e);
    for (unsigned r = 1; r < 16; r++)
        if (!is_stolen(r))
            emit_load(e, r, GPR(r));
    emit_load(e, SD, rm_gs(GS(window_delta)));
    emit_op(e, false, OP_LOAD, REG_RAX, rm_gs(GS(c.aflags)));
    emit8(e, 0x04); /* add al, 0x7f: OF */
    emit8(e, 0x7f);
    emit8(e, 0x9e); /* sahf */
    emit_load(e, REG_RAX, GPR(REG_RAX));
    emit_op(e, false, 0xff, 4, rm_gs(GS(resume))); /* jmp */
}

/* Back to who called enter, with EAX = why. */
static void return_to_c(struct emit *e, enum bt_leave why)
{
    emit_const(e, REG_RAX, why);
    emit_op(e, true, 0x83, 0, rm_reg(REG_RSP)); /* add rsp, 8 */
    emit8(e, 8);
    for (unsigned i = HOST_SAVED; i--;)
        pop(e, host_saved[i]);
    emit8(e, 0xc3);
}

/* Leaves for good; T0 is an id, or the target of an indirect branch. */
static uint32_t make_leave(struct bt_vm *bt, struct emit *e, enum bt_leave why)
{
    uint32_t at;

    align(e, 16);
    at = e->at;
    if (why == BT_LEAVE_INDIRECT)
        emit_store(e, T0, rm_gs(GS(target)));
    else
        emit_op(e, false, OP_STORE, T0, rm_gs(GS(id)));
    spill(e);
    emit_load(e, REG_RSP, rm_gs(GS(host_rsp)));
    live_out(bt, e);
    return_to_c(e, why);
    return at;
}

/* reg = offset in a table of the slot that the address in T0 has. */
static void emit_slot(struct emit *e, unsigned reg)
{
    emit_op(e, false, OP_STORE, T0, rm_reg(reg));
    emit_op(e, false, 0xc1, 5, rm_reg(reg));
    emit8(e, PAGE_SHIFT - 5);
    emit_dword(e, 4, rm_reg(reg), (TLB_ENTRIES - 1) << 5);
}

/*
 * What bt_window_set does, where the table has the page: T0 is the lowest address, `id` the site,
 * `window_limit` the highest offset that will do; on success the block goes on at `resume`. Or the
 * check failed because translated code is to be left.
 */
static uint32_t make_window(struct bt_vm *bt, struct emit *e, unsigned table, bool narrow)
{
    int32_t at = GS(tlb) + (int32_t)(table * sizeof(struct bt_table));
    struct rm entry = {.kind = RM_GS, .base = T1, .index = NO_REG};
    uint32_t begin, miss, leave, had;

    align(e, 16);
    begin = e->at;
    emit_op(e, false, 0x83, 7, rm_gs(GS(attention)));
    emit8(e, 0);
    leave = emit_jump(e, CC_NE, e->at);
    emit_store(e, T0, rm_gs(GS(slow_addr)));
    emit_slot(e, T1);
    entry.disp = at + (int32_t)(offsetof(struct bt_entry, tag) + 8 * ACCESS_WRITE);
    emit_op(e, true, OP_XOR, T0, entry);
    emit_op(e, true, OP_CMP, T0, rm_gs(GS(window_limit)));
    miss = emit_jump(e, CC_A, e->at);
    entry.disp = at + (int32_t)offsetof(struct bt_entry, addend);
    emit_load(e, SD, entry);
    if (narrow) {
        emit_op(e, false, OP_LOAD, T1, rm_gs(GS(c.s.seg[SEG_SS].base)));
        emit_op(e, false, OP_STORE, T1, rm_gs(GS(window_base)));
        emit_op(e, true, OP_ADD, SD, rm_reg(T1));
    }
    emit_store(e, SD, rm_gs(GS(window_delta)));
    emit_load(e, T0, rm_gs(GS(slow_addr)));
    emit_op(e, true, 0x81, 4, rm_reg(T0));
    emit32(e, ~(uint32_t)PAGE_MASK);
    emit_op(e, true, 0xf7, 3, rm_reg(T0)); /* neg r14 */
    if (narrow)
        emit_op(e, true, OP_ADD, T0, rm_reg(T1));
    emit_store(e, T0, rm_gs(GS(window)));
    /* Checks read two words here, which has to wait for a store to one: none without need. */
    emit_op(e, false, 0x83, 7, rm_gs(GS(window_none)));
    emit8(e, 0);
    had = emit_jump(e, CC_E, e->at);
    emit_op(e, false, 0xc7, 0, rm_gs(GS(window_none)));
    emit32(e, 0);
    emit_patch(e, had, e->at);
    emit_op(e, false, 0xff, 4, rm_gs(GS(resume)));
    emit_patch(e, leave, e->at);
    emit_op(e, false, OP_LOAD, T0, rm_gs(GS(id)));
    emit_jump(e, CC_ALWAYS, bt->stubs.leave_site);
    emit_patch(e, miss, e->at);
    emit_op(e, false, 0xff, 4, rm_gs(GS(window_else)));
    return begin;
}

#define SITE(member) (int32_t) offsetof(struct bt_site, member)

static const uint8_t spare[] = {REG_RAX, REG_RCX, REG_RDX, REG_RSI};

static void spare_move(struct emit *e, bool store)
{
    for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
        if (store)
            emit_store(e, spare[i], GPR(spare[i]));
        else
            emit_load(e, spare[i], GPR(spare[i]));
}

/* To code `before` the offset in the buffer that the site has at `at`. rsi: the site. */
static void jump_of_site(struct bt_vm *bt, struct emit *e, int32_t at, unsigned before)
{
    emit_op(e, false, OP_LOAD, T1, rm_mem(REG_RSI, NO_REG, 0, at));
    emit_const(e, T0, (uint64_t)(uintptr_t)bt->code.rx - before);
    emit_op(e, true, OP_ADD, T1, rm_reg(T0));
    spare_move(e, false);
    emit_op(e, false, 0xff, 4, rm_reg(T1));
}

/*
 * The user's table does not have a page: `second` may. T1 is the site, T0 the address. Does what
 * bt_tlb_fill does.
 */
static uint32_t make_second(struct bt_vm *bt, struct emit *e, enum access how)
{
    int32_t table = GS(tlb) + (int32_t)(KEY_USER * sizeof(struct bt_table));
    struct rm to = {.kind = RM_GS, .base = REG_RCX, .index = NO_REG};
    struct rm from = {.kind = RM_GS, .base = REG_RAX, .index = NO_REG};
    uint32_t begin, slow[3], both, full, last;

    align(e, 16);
    begin = e->at;
    emit_op(e, false, OP_STORE, T1, rm_gs(GS(id)));
    emit_store(e, T0, rm_gs(GS(slow_addr)));
    spare_move(e, true);
    emit_op(e, true, 0x69, T1, rm_reg(T1)); /* imul r15, r15, size */
    emit32(e, sizeof(struct bt_site));
    emit_const(e, REG_RSI, (uint64_t)(uintptr_t)bt->sites);
    emit_op(e, true, OP_ADD, REG_RSI, rm_reg(T1));
    /* Is it all in one page? */
    emit_op(e, false, OP_STORE, T0, rm_reg(REG_RDX));
    emit_dword(e, 4, rm_reg(REG_RDX), PAGE_MASK);
    emit_op(e, false, 0x1b6, REG_RCX, rm_mem(REG_RSI, NO_REG, 0, SITE(size)));
    emit_op(e, false, OP_ADD, REG_RDX, rm_reg(REG_RCX));
    emit_dword(e, 7, rm_reg(REG_RDX), PAGE_SIZE);
    slow[0] = emit_jump(e, CC_A, e->at);
    emit_store(e, T0, rm_reg(REG_RAX));
    emit_op(e, true, 0xc1, 5, rm_reg(REG_RAX)); /* second_slot */
    emit8(e, PAGE_SHIFT);
    emit_op(e, false, OP_STORE, REG_RAX, rm_reg(REG_RDX));
    emit_op(e, false, 0xc1, 5, rm_reg(REG_RDX));
    emit8(e, BT_SECOND_BITS);
    emit_op(e, false, OP_XOR, REG_RAX, rm_reg(REG_RDX));
    emit_dword(e, 4, rm_reg(REG_RAX), BT_SECONDS - 1);
    emit_op(e, false, 0xc1, 4, rm_reg(REG_RAX));
    emit8(e, 5);
    from.disp = GS(second) + (int32_t)offsetof(struct bt_second, generation);
    emit_load(e, REG_RCX, from);
    emit_op(e, true, OP_CMP, REG_RCX, rm_gs(GS(second_generation)));
    slow[1] = emit_jump(e, CC_NE, e->at);
    emit_store(e, T0, rm_reg(REG_RDX));
    emit_op(e, true, 0x81, 4, rm_reg(REG_RDX)); /* and rdx, ~fffh: the page */
    emit32(e, ~(uint32_t)PAGE_MASK);
    from.disp = GS(second) + (int32_t)(offsetof(struct bt_second, tag) + 8 * how);
    emit_op(e, true, OP_CMP, REG_RDX, from);
    slow[2] = emit_jump(e, CC_NE, e->at);

    emit_slot(e, REG_RCX);
    to.disp = table + (int32_t)(offsetof(struct bt_entry, tag) + 8 * how);
    emit_store(e, REG_RDX, to);
    from.disp = GS(second) + (int32_t)offsetof(struct bt_second, addend);
    emit_load(e, T0, from);
    to.disp = table + (int32_t)offsetof(struct bt_entry, addend);
    emit_store(e, T0, to);
    emit_op(e, true, OP_ADD, T0, rm_reg(REG_RDX));
    to.disp = table + (int32_t)offsetof(struct bt_entry, page);
    emit_store(e, T0, to);
    from.disp = GS(second) + (int32_t)(offsetof(struct bt_second, tag) + 8 * (1 - how));
    emit_load(e, T0, from);
    emit_op(e, true, OP_CMP, T0, rm_reg(REG_RDX));
    both = emit_jump(e, CC_E, e->at);
    emit_op(e, false, OP_STORE, REG_RCX, rm_reg(T0)); /* tag_none */
    emit_dword(e, 6, rm_reg(T0), 1 << 5);
    emit_op(e, true, 0xc1, 4, rm_reg(T0));
    emit8(e, PAGE_SHIFT - 5);
    emit_patch(e, both, e->at);
    to.disp = table + (int32_t)(offsetof(struct bt_entry, tag) + 8 * (1 - how));
    emit_store(e, T0, to);
    /* log_add */
    emit_op(e, false, 0xc1, 5, rm_reg(REG_RCX));
    emit8(e, 5);
    emit_op(e, false, OP_LOAD, REG_RDX, rm_gs(GS(log[KEY_USER].n)));
    emit_dword(e, 7, rm_reg(REG_RDX), BT_LOG);
    full = emit_jump(e, CC_A, e->at);
    last = emit_jump(e, CC_E, e->at);
    emit8(e, 0x66); /* mov gs:[slot + rdx * 2], cx */
    emit_op(e, false, OP_STORE, REG_RCX,
            (struct rm){.kind = RM_GS,
                        .base = NO_REG,
                        .index = REG_RDX,
                        .scale = 1,
                        .disp = GS(log[KEY_USER].slot)});
    emit_patch(e, last, e->at);
    emit_op(e, false, 0xff, 0, rm_gs(GS(log[KEY_USER].n)));
    emit_patch(e, full, e->at);
    jump_of_site(bt, e, SITE(retry), 0);

    for (unsigned i = 0; i < ARRAY_LEN(slow); i++)
        emit_patch(e, slow[i], e->at);
    emit_op(e, false, 0x80, 7, rm_mem(REG_RSI, NO_REG, 0, SITE(kind)));
    emit8(e, SITE_GROUP);
    both = emit_jump(e, CC_NE, e->at);
    jump_of_site(bt, e, SITE(resume), 1); /* of a displacement */
    emit_patch(e, both, e->at);
    spare_move(e, false);
    emit_op(e, false, OP_LOAD, T0, rm_gs(GS(id)));
    emit_jump(e, CC_ALWAYS, bt->stubs.slow);
    return begin;
}

void bt_stubs_make(struct bt_vm *bt)
{
    struct emit e = {.buf = bt->code.rw, .at = 64};
    uint32_t leave;

    /* enter(v, address): the address is in v->resume. */
    bt->stubs.enter = e.at;
    for (unsigned i = 0; i < HOST_SAVED; i++)
        push(&e, host_saved[i]);
    emit_op(&e, true, 0x83, 5, rm_reg(REG_RSP)); /* sub rsp, 8 */
    emit8(&e, 8);
    emit_store(&e, REG_RSP, rm_gs(GS(host_rsp)));
    go_on(bt, &e);

    bt->stubs.leave_site = make_leave(bt, &e, BT_LEAVE_SITE);
    bt->stubs.leave_direct = make_leave(bt, &e, BT_LEAVE_DIRECT);
    bt->stubs.leave_indirect = make_leave(bt, &e, BT_LEAVE_INDIRECT);
    for (unsigned which = 0; which < 2; which++) {
        align(&e, 16);
        bt->stubs.other_page[which] = e.at;
        emit_op(&e, true, OP_XOR, T0,
                (struct rm){.kind = RM_GS,
                            .base = T1,
                            .index = NO_REG,
                            .disp = GS(exec_page) + (int32_t)(8 * BT_EXEC_SLOTS * which)});
        emit_jump(&e, CC_ALWAYS, bt->stubs.leave_indirect);
    }

    /* T0: the site. */
    align(&e, 16);
    bt->stubs.slow = e.at;
    spill(&e);
    emit_load(&e, REG_RSP, rm_gs(GS(host_rsp)));
    live_out(bt, &e);
    emit_op(&e, false, OP_STORE, T0, rm_reg(REG_RSI)); /* mov esi, r14d */
    emit_load(&e, REG_RDI, rm_gs(GS(self)));
    emit_const(&e, REG_RAX, (uint64_t)(uintptr_t)bt_slow);
    emit8(&e, 0xff); /* call rax */
    emit8(&e, 0xd0);
    emit_op(&e, true, 0x85, REG_RAX, rm_reg(REG_RAX)); /* test rax, rax */
    leave = emit_jump(&e, CC_E, e.at);
    emit_store(&e, REG_RAX, rm_gs(GS(resume)));
    go_on(bt, &e);
    emit_patch(&e, leave, e.at);
    return_to_c(&e, BT_LEAVE_SLOW);

    bt->stubs.window[0] = make_window(bt, &e, KEY_USER, false);
    bt->stubs.window[1] = make_window(bt, &e, KEY_SUPERVISOR, false);
    bt->stubs.window16[0] = make_window(bt, &e, KEY_USER, true);
    bt->stubs.window16[1] = make_window(bt, &e, KEY_SUPERVISOR, true);
    bt->stubs.second[ACCESS_READ] = make_second(bt, &e, ACCESS_READ);
    bt->stubs.second[ACCESS_WRITE] = make_second(bt, &e, ACCESS_WRITE);
    align(&e, 64);
    bt->stubs_end = e.at;
}
