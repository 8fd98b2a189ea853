/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System and string instructions that are worth writing out: those on the way into and out of a
 * kernel, and what it does around every lock. Each does what its handler in engine/interp/sys.c
 * does in the plain case, and leaves every other case to it: the conditions are looked at before
 * anything changes. SDM vol. 2.
 */
#include "engine/bt/translate.h"

#define IS(f, name) ((f)->zi.mnemonic == ZYDIS_MNEMONIC_##name)
#define RFLAGS_AT   rm_gs(GS(c.s.rflags))

/* What POPF and SYSRET may not change here: it would be another mode, or other string instructions.
 */
#define FLAGS_ODD                                                                          \
    (RFLAGS_TF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID | RFLAGS_RF | \
     RFLAGS_VM)

static bool kernel(const struct translation *t)
{
    return mode_cpl(t->key) == 0 && !(t->key & MODE_V86);
}

static bool is_rep(const struct form *f)
{
    return f->in.flags & (INSN_REP | INSN_REPNE);
}

/* STOS, MOVS and LODS (that not with REP) whose addresses are whole registers: bytes of an element,
 * or 0. */
static unsigned string_size(const struct translation *t, const struct form *f)
{
    if (t->code64 ? f->in.asize != 8 || f->in.seg >= SEG_FS
                  : f->in.asize != 4 || !seg_flat(t, f->in.seg) || !seg_flat(t, SEG_ES))
        return 0;
    switch (f->zi.mnemonic) {
    case ZYDIS_MNEMONIC_LODSB:
        return is_rep(f) ? 0 : 1;
    case ZYDIS_MNEMONIC_LODSW:
        return is_rep(f) ? 0 : 2;
    case ZYDIS_MNEMONIC_LODSD:
        return is_rep(f) ? 0 : 4;
    case ZYDIS_MNEMONIC_LODSQ:
        return is_rep(f) ? 0 : 8;
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_MOVSB:
        return 1;
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_MOVSW:
        return 2;
    case ZYDIS_MNEMONIC_STOSD:
        return 4;
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_MOVSQ:
        return 8;
    case ZYDIS_MNEMONIC_MOVSD:
        /* SSE has one too, which has no thunk while their buffer is full. */
        return f->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? 4 : 0;
    default:
        return 0;
    }
}

static bool is_lods(const struct form *f)
{
    return IS(f, LODSB) || IS(f, LODSW) || IS(f, LODSD) || IS(f, LODSQ);
}

static bool is_movs(const struct form *f)
{
    return IS(f, MOVSB) || IS(f, MOVSW) || IS(f, MOVSD) || IS(f, MOVSQ);
}

/* BT and its family with a bit number in a register. */
static bool bit_string(const struct translation *t, const struct form *f)
{
    return (IS(f, BT) || IS(f, BTS) || IS(f, BTR) || IS(f, BTC)) && (f->in.flags & INSN_MEM) &&
           f->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && f->in.osize >= 4 &&
           (t->code64 ? f->in.asize == 8 && f->in.seg < SEG_FS
                      : f->in.asize == 4 && seg_flat(t, f->in.seg));
}

/* The segment register that MOV, PUSH or POP names as operand n, or SEG_COUNT. */
static unsigned segment_operand(const struct form *f, unsigned n)
{
    ZydisRegister r = f->ops[n].reg.value;

    if (f->ops[n].type != ZYDIS_OPERAND_TYPE_REGISTER || r < ZYDIS_REGISTER_ES ||
        r > ZYDIS_REGISTER_GS)
        return SEG_COUNT;
    return (unsigned)(r - ZYDIS_REGISTER_ES);
}

/* Loading CS is nothing, and loading SS more than the others. */
static bool loads_paragraph(const struct translation *t, unsigned seg)
{
    return (t->key & (MODE_REAL | MODE_V86)) && seg != SEG_CS && seg != SEG_SS && seg < SEG_COUNT;
}

/* MOV, PUSH and POP of segment registers: reading always, loading where a selector is a paragraph.
 */
static bool segment_move(const struct translation *t, struct form *f)
{
    switch (f->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (segment_operand(f, 1) < SEG_COUNT)
            return f->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && !is_stolen(f->in.rm);
        if (f->in.flags & INSN_MEM)
            f->mem_size = 2;
        return loads_paragraph(t, segment_operand(f, 0));
    case ZYDIS_MNEMONIC_PUSH:
        f->sreg_push = segment_operand(f, 0) < SEG_COUNT && (!t->code64 || f->in.osize == 8);
        return f->sreg_push;
    case ZYDIS_MNEMONIC_POP:
        f->sreg_pop = loads_paragraph(t, segment_operand(f, 0));
        return f->sreg_pop;
    default:
        return false;
    }
}

bool system_form(const struct translation *t, struct form *f)
{
    if (f->in.mnemonic == ZYDIS_MNEMONIC_INVALID)
        return false;
    if (f->class == FORM_SLOW && segment_move(t, f)) {
        f->flags_read = f->flags_may = f->flags_must = 0;
        return true;
    }
    f->mem_size = f->class == FORM_NATIVE ? f->mem_size : 0;
    if (string_size(t, f)) {
        f->flags_read = f->flags_may = f->flags_must = 0;
        return true;
    }
    if (f->class == FORM_SLOW && bit_string(t, f)) {
        f->flags_must = RFLAGS_CF;
        return true;
    }
    switch (f->zi.mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
        f->flags_read = f->flags_may = f->flags_must = 0;
        return mode_cpl(t->key) == 0 || !(t->key & MODE_TSD);
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
        f->flags_read = f->flags_may = f->flags_must = 0;
        return true;
    case ZYDIS_MNEMONIC_CLI:
        f->flags_read = f->flags_may = f->flags_must = 0;
        return kernel(t);
    case ZYDIS_MNEMONIC_STI:
        f->flags_read = f->flags_may = f->flags_must = 0;
        f->shadow = kernel(t);
        return kernel(t);
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        f->flags_read = f->flags_may = f->flags_must = 0;
        return kernel(t) && !(t->key & MODE_REAL) && (t->key & BT_KEY_SMAP);
    case ZYDIS_MNEMONIC_SWAPGS:
        f->flags_read = f->flags_may = f->flags_must = 0;
        return t->code64 && kernel(t);
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        f->flags_read = FLAGS_ALL;
        f->flags_may = f->flags_must = 0;
        return !(t->key & MODE_V86) && (!t->code64 || f->in.osize == 8);
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        f->flags_read = 0;
        f->flags_may = f->flags_must = FLAGS_ALL;
        f->poll_after = kernel(t) && (!t->code64 || f->in.osize == 8);
        return f->poll_after;
    case ZYDIS_MNEMONIC_SYSCALL:
        f->flags_read = f->flags_may = FLAGS_ALL;
        f->flags_must = 0;
        return t->code64 && (t->key & MODE_SCE) && mode_cpl(t->key) == 3 && !(t->key & MODE_IOPL);
    case ZYDIS_MNEMONIC_SYSRET:
        f->flags_read = f->flags_may = FLAGS_ALL;
        f->flags_must = 0;
        return t->code64 && (t->key & MODE_SCE) && kernel(t) && f->in.osize == 8 &&
               !(t->key & MODE_IOPL) && key_table(t->key) == KEY_SUPERVISOR;
    default:
        return false;
    }
}

/* An interrupt was held back while IF was 0: who sets IF must ask for it again. */
static void slow_if_masked(struct translation *t, uint32_t site)
{
    emit_op(&t->hot, false, 0x80, 7, rm_gs(GS(c.intr_masked)));
    emit8(&t->hot, 0);
    slow_if(t, CC_NE, site);
}

/* shl (4), shr (5) of T0 or T1 by n. */
static void emit_shift(struct emit *e, unsigned how, unsigned reg, unsigned n)
{
    emit_op(e, false, 0xc1, how, rm_reg(reg));
    emit8(e, n);
}

/* T0 = RFLAGS, from the slot. Destroys T1. */
static void emit_read_flags(struct emit *e)
{
    emit_op(e, false, OP_LOAD, T0, rm_gs(GS(c.aflags)));
    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_shift(e, 5, T0, 8);
    emit_dword(e, 4, rm_reg(T0), 0xd5);
    emit_dword(e, 4, rm_reg(T1), 1);
    emit_shift(e, 4, T1, 11);
    emit_op(e, false, 0x0b, T0, rm_reg(T1)); /* or r14d, r15d */
    emit_op(e, false, 0x0b, T0, RFLAGS_AT);
}

/* The slot = arithmetic flags in T0, which is destroyed with T1. */
static void emit_write_arith(struct emit *e)
{
    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_dword(e, 4, rm_reg(T1), 0xd5);
    emit_dword(e, 1, rm_reg(T1), 2);
    emit_shift(e, 4, T1, 8);
    emit_shift(e, 5, T0, 11);
    emit_dword(e, 4, rm_reg(T0), 1);
    emit_op(e, false, 0x0b, T1, rm_reg(T0));
    emit_op(e, false, OP_STORE, T1, rm_gs(GS(c.aflags)));
}

/* A call out, but without the interpreter's doings around an instruction. */
static void emit_tsc(struct translation *t, const struct form *f)
{
    uint32_t site = add_site(t, f, SITE_TSC);

    emit_const(&t->hot, T0, site);
    emit_jump(&t->hot, CC_ALWAYS, t->bt->stubs.slow);
    resume_here(t, site);
}

static void emit_sti(struct translation *t, const struct form *f)
{
    uint32_t site = add_site(t, f, SITE_INSN);

    slow_if_masked(t, site);
    emit_dword(&t->hot, 1, RFLAGS_AT, RFLAGS_IF);
}

static void emit_ac(struct translation *t, bool set)
{
    bool was = key_table(t->key) == KEY_SUPERVISOR_AC;

    if (set == was)
        return;
    emit_dword(&t->hot, 6, RFLAGS_AT, RFLAGS_AC);
    emit_dword(&t->hot, 6, rm_gs(GS(c.key)), KEY_SUPERVISOR ^ KEY_SUPERVISOR_AC);
    t->key ^= (KEY_SUPERVISOR ^ KEY_SUPERVISOR_AC) << BT_KEY_TABLE_SHIFT;
    memset(t->share, 0, sizeof(t->share)); /* checks by the other table */
    emit_mode(t);
}

static void emit_swapgs(struct emit *e)
{
    emit_load(e, T0, SEG_AT(SEG_GS, base));
    emit_load(e, T1, rm_gs(GS(c.s.kernel_gs_base)));
    emit_store(e, T1, SEG_AT(SEG_GS, base));
    emit_store(e, T0, rm_gs(GS(c.s.kernel_gs_base)));
}

static void emit_pushf(struct translation *t, const struct form *f)
{
    struct place p;

    emit_read_flags(&t->hot);
    emit_store(&t->hot, T0, rm_gs(GS(scratch)));
    p = emit_stack(t, f, REG_RSP, -(int32_t)f->stack, ACCESS_WRITE);
    /* A miss comes back to the check; `scratch` is kept by the fill. */
    emit_load(&t->hot, T0, rm_gs(GS(scratch)));
    emit_sized(&t->hot, f->stack, OP_STORE, T0, p.rm);
    move_rsp(t, -(int32_t)f->stack);
    resume_here(t, p.site);
}

static void emit_popf(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    struct place p = emit_stack(t, f, REG_RSP, 0, ACCESS_READ);
    uint32_t site = add_site(t, f, SITE_INSN);

    emit_load_sized(e, f->stack, T0, p.rm);
    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_op(e, false, OP_XOR, T1, RFLAGS_AT);
    emit_op(e, false, 0xf7, 0, rm_reg(T1));
    emit32(e, FLAGS_ODD & ~(RFLAGS_RF | RFLAGS_VM) & (f->stack == 2 ? 0xffff : UINT32_MAX));
    slow_if(t, CC_NE, site);
    slow_if_masked(t, site);
    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_dword(e, 4, rm_reg(T1), RFLAGS_IF);
    emit_dword(e, 4, RFLAGS_AT, ~(uint32_t)RFLAGS_IF);
    emit_op(e, false, 0x09, T1, RFLAGS_AT); /* or [rflags], r15d */
    emit_write_arith(e);
    move_rsp(t, f->stack);
    t->slot = true;
}

/* CS and SS as SYSCALL and SYSRET make them; T0 is the selector of CS. */
static void emit_segments(struct emit *e, unsigned cpl)
{
    unsigned attr = SEG_ATTR_P | SEG_ATTR_S | SEG_ATTR_G | SEG_TYPE_ACCESSED | SEG_TYPE_WRITE |
                    cpl << SEG_ATTR_DPL_SHIFT;
    const struct {
        unsigned seg, attr;
    } two[] = {{SEG_CS, attr | SEG_TYPE_CODE | SEG_ATTR_L}, {SEG_SS, attr | SEG_ATTR_DB}};

    for (unsigned i = 0; i < 2; i++) {
        emit_op(e, false, 0x1b7, T0, rm_reg(T0)); /* movzx r14d, r14w */
        /* selector and attr are one dword */
        emit_op(e, false, 0x81, 1, rm_reg(T0)); /* or r14d, attr << 16 */
        emit32(e, two[i].attr << 16);
        emit_op(e, false, OP_STORE, T0, SEG_AT(two[i].seg, selector));
        emit_op(e, true, 0xc7, 0, SEG_AT(two[i].seg, base));
        emit32(e, 0);
        emit_op(e, false, 0xc7, 0, SEG_AT(two[i].seg, limit));
        emit32(e, UINT32_MAX);
        emit_dword(e, 0, rm_reg(T0), cpl ? (uint32_t)-8 : 8);
    }
}

_Static_assert(offsetof(struct cpu_seg, attr) == offsetof(struct cpu_seg, selector) + 2,
               "emit_segments stores both at once");

/* The window was looked at with the other privilege's eyes. */
static void emit_window_drop(struct emit *e)
{
    emit_op(e, false, 0xc7, 0, rm_gs(GS(window_none)));
    emit32(e, UINT32_MAX);
    emit_op(e, true, 0xc7, 0, rm_gs(GS(pair_none)));
    emit32(e, UINT32_MAX); /* sign-extended */
}

/* Everything interp_mode_changed derives from the new privilege. */
static void emit_privilege(struct translation *t, unsigned cpl)
{
    struct emit *e = &t->hot;
    uint64_t key = t->key & ~(MODE_CPL | KEY_MODE << BT_KEY_TABLE_SHIFT);

    t->key = key | (uint64_t)cpl << MODE_CPL_SHIFT |
             (cpl ? KEY_USER : KEY_SUPERVISOR) << BT_KEY_TABLE_SHIFT;
    emit_window_drop(e);
    emit_op(e, false, 0xc6, 0, rm_gs(GS(c.cpl)));
    emit8(e, cpl);
    emit_const(e, T0, t->key & (BIT(MODE_BITS) - 1));
    emit_store(e, T0, rm_gs(GS(c.mode)));
    emit_load(e, T0, rm_gs(GS(c.key_sys)));
    if (cpl) {
        emit_op(e, true, 0x83, 6, rm_reg(T0)); /* xor r14, SUPERVISOR ^ USER */
        emit8(e, KEY_SUPERVISOR ^ KEY_USER);
    }
    emit_store(e, T0, rm_gs(GS(c.key)));
    emit_mode(t);
}

static void emit_syscall(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    uint32_t site = add_site(t, f, SITE_INSN);

    /* T0 = the new flags, if they are no other mode. */
    emit_read_flags(e);
    emit_store(e, T0, rm_gs(GS(scratch)));
    emit_load(e, T1, rm_gs(GS(c.s.sfmask)));
    emit_op(e, true, 0xf7, 2, rm_reg(T1));  /* not r15 */
    emit_op(e, true, 0x23, T0, rm_reg(T1)); /* and r14, r15 */
    emit_op(e, false, 0xf7, 0, rm_reg(T0));
    emit32(e, (RFLAGS_TF | RFLAGS_AC | RFLAGS_IOPL | RFLAGS_RF | RFLAGS_VM));
    slow_if(t, CC_NE, site);
    emit_load(e, 11, rm_gs(GS(scratch)));
    emit_code_address(t, e, REG_RCX, t->va + f->off + f->in.len);
    emit_op(e, false, OP_STORE, T0, rm_reg(T1));
    emit_dword(e, 4, rm_reg(T1), ~(uint32_t)FLAGS_ALL);
    emit_dword(e, 1, rm_reg(T1), RFLAGS_ONE);
    emit_store(e, T1, RFLAGS_AT);
    emit_write_arith(e);
    emit_op(e, false, OP_LOAD, T0, rm_gs(GS(c.s.star) + 4));
    emit_dword(e, 4, rm_reg(T0), 0xfffc);
    emit_segments(e, 0);
    emit_privilege(t, 0);
    emit_load(e, T0, rm_gs(GS(c.s.lstar)));
    t->slot = true;
    emit_indirect(t, site);
}

/* T1 = T0 sign-extended from bit 47; NE if that is not T0. */
static void emit_canonical(struct emit *e)
{
    emit_store(e, T0, rm_reg(T1));
    emit_op(e, true, 0xc1, 4, rm_reg(T1));
    emit8(e, 16);
    emit_op(e, true, 0xc1, 7, rm_reg(T1));
    emit8(e, 16);
    emit_op(e, true, OP_CMP, T1, rm_reg(T0));
}

static void emit_sysret(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    uint32_t site = add_site(t, f, SITE_INSN);

    slow_if_masked(t, site);
    emit_store(e, REG_RCX, rm_reg(T0));
    emit_canonical(e);
    slow_if(t, CC_NE, site);
    emit_op(e, false, 0xf7, 0, rm_reg(11)); /* test r11d */
    emit32(e,
           RFLAGS_TF | RFLAGS_AC | RFLAGS_IOPL | RFLAGS_RF | RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP);
    slow_if(t, CC_NE, site);
    emit_store(e, 11, rm_reg(T0));
    emit_dword(e, 4, rm_reg(T0), 0x3c7fd7 & ~(uint32_t)FLAGS_ALL);
    emit_dword(e, 1, rm_reg(T0), RFLAGS_ONE);
    emit_store(e, T0, RFLAGS_AT);
    emit_store(e, 11, rm_reg(T0));
    emit_write_arith(e);
    emit_op(e, false, OP_LOAD, T0, rm_gs(GS(c.s.star) + 4));
    emit_shift(e, 5, T0, 16);
    emit_dword(e, 0, rm_reg(T0), 16);
    emit_dword(e, 1, rm_reg(T0), 3);
    emit_segments(e, 3);
    emit_privilege(t, 3);
    emit_store(e, REG_RCX, rm_reg(T0));
    t->slot = true;
    emit_indirect(t, site);
}

/* ---- strings and bit strings ----------------------------------------------------------------- */

/* add (3) or sub (2b) of a temporary to a register. */
static void emit_move_by(struct emit *e, bool back, unsigned reg, unsigned by)
{
    emit_op(e, true, back ? 0x2b : 0x03, reg, rm_reg(by));
}

static uint32_t check_string(struct translation *t, const struct form *f, unsigned reg,
                             unsigned size, enum access how)
{
    uint32_t site = add_site(t, f, SITE_ACCESS);

    t->bt->sites[site].retry = t->hot.at;
    emit_store(&t->hot, reg, rm_reg(T0));
    emit_check(t, site, size, how, offsetof(struct bt_entry, addend));
    return site;
}

/* rsi or rdi goes on to the next element. */
static void emit_next_element(struct translation *t, unsigned reg, unsigned size)
{
    emit_op(&t->hot, t->code64, OP_LEA, reg, rm_mem(reg, NO_REG, 0, (int32_t)size));
}

/* al, ax, eax or rax: opcode 8a or 88 for bytes, with bit 0 set for the others. */
static void emit_accumulator(struct emit *e, unsigned size, unsigned opcode, unsigned reg,
                             struct rm m)
{
    emit_sized(e, size, size > 1 ? opcode | 1 : opcode, reg, m);
}

/* LODS, STOS and MOVS without a prefix, upwards. */
static void emit_element(struct translation *t, const struct form *f, unsigned size)
{
    struct emit *e = &t->hot;
    bool lods = is_lods(f), movs = is_movs(f);
    uint32_t site, first = BT_NONE, second = BT_NONE;

    flags_to_slot(t, f->live_in);
    t->host = false;
    site = add_site(t, f, SITE_INSN);
    emit_op(e, false, 0xf7, 0, RFLAGS_AT);
    emit32(e, RFLAGS_DF);
    slow_if(t, CC_NE, site);
    if (lods || movs) {
        first = check_string(t, f, REG_RSI, size, ACCESS_READ);
        emit_accumulator(e, size, 0x8a, lods ? REG_RAX : T0, rm_mem(REG_RSI, T1, 0, 0));
    }
    if (movs)
        emit_store(e, T0, rm_gs(GS(scratch)));
    if (!lods) {
        second = check_string(t, f, REG_RDI, size, ACCESS_WRITE);
        if (movs)
            emit_load(e, T0, rm_gs(GS(scratch)));
        emit_accumulator(e, size, 0x88, movs ? T0 : REG_RAX, rm_mem(REG_RDI, T1, 0, 0));
        emit_next_element(t, REG_RDI, size);
    }
    if (lods || movs)
        emit_next_element(t, REG_RSI, size);
    resume_here(t, site);
    resume_here(t, first);
    resume_here(t, second);
}

/* T0 = the offset in its page of what a register points to. */
static void emit_page_offset(struct emit *e, unsigned reg)
{
    emit_op(e, false, OP_STORE, reg, rm_reg(T0));
    emit_dword(e, 4, rm_reg(T0), PAGE_MASK);
}

/*
 * REP MOVS and STOS upwards: one host instruction for as much as lies in one page of each operand,
 * until all is done. The registers are exact in between: whatever is odd, and a pending interrupt,
 * is left to the interpreter.
 */
static void emit_string(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    unsigned size = string_size(t, f);
    bool movs = is_movs(f);
    uint32_t site, first = BT_NONE, second, done[2], again;

    flags_to_slot(t, f->live_in);
    t->host = false;
    /* Nothing to do: nothing is touched. */
    emit_op(e, true, 0x85, REG_RCX, rm_reg(REG_RCX));
    done[0] = emit_jump(e, CC_E, e->at);
    site = add_site(t, f, SITE_INSN);
    emit_op(e, false, 0xf7, 0, RFLAGS_AT);
    emit32(e, RFLAGS_DF);
    slow_if(t, CC_NE, site);
    again = e->at;
    if (movs) {
        first = check_string(t, f, REG_RSI, size, ACCESS_READ);
        emit_store(e, T1, rm_gs(GS(scratch)));
    }
    second = check_string(t, f, REG_RDI, size, ACCESS_WRITE);
    if (movs) {
        emit_page_offset(e, REG_RSI);
        emit_op(e, false, OP_STORE, T0, rm_gs(GS(string_offset)));
    }
    emit_page_offset(e, REG_RDI);
    if (movs) { /* the larger one ends first */
        emit_op(e, false, OP_CMP, T0, rm_gs(GS(string_offset)));
        emit_op(e, false, 0x142, T0, rm_gs(GS(string_offset))); /* cmovb */
    }
    emit_op(e, false, 0xf7, 3, rm_reg(T0)); /* neg r14d */
    emit_dword(e, 0, rm_reg(T0), PAGE_SIZE);
    if (size > 1)
        emit_shift(e, 5, T0, (unsigned)__builtin_ctz(size));
    emit_op(e, true, OP_CMP, T0, rm_reg(REG_RCX));
    emit_op(e, true, 0x147, T0, rm_reg(REG_RCX)); /* cmova: no more than there are */
    emit_op(e, true, 0x2b, REG_RCX, rm_reg(T0));
    emit_store(e, REG_RCX, rm_gs(GS(string_left)));
    emit_store(e, T0, rm_reg(REG_RCX));
    if (movs) {
        emit_load(e, T0, rm_gs(GS(scratch)));
        emit_move_by(e, false, REG_RSI, T0);
    }
    emit_move_by(e, false, REG_RDI, T1);
    emit8(e, 0xf3);
    if (size == 2)
        emit8(e, 0x66);
    if (size == 8)
        emit8(e, 0x48);
    emit8(e, (movs ? 0xa4 : 0xaa) | (size > 1));
    emit_move_by(e, true, REG_RDI, T1);
    if (movs)
        emit_move_by(e, true, REG_RSI, T0);
    if (!t->code64) { /* behind the last byte of all */
        emit_op(e, false, OP_STORE, REG_RDI, rm_reg(REG_RDI));
        if (movs)
            emit_op(e, false, OP_STORE, REG_RSI, rm_reg(REG_RSI));
    }
    emit_load(e, REG_RCX, rm_gs(GS(string_left)));
    emit_op(e, true, 0x85, REG_RCX, rm_reg(REG_RCX));
    done[1] = emit_jump(e, CC_E, e->at);
    emit_op(e, false, 0x83, 7, rm_gs(GS(attention) + 4 * (int32_t)t->b->needs));
    emit8(e, 0);
    slow_if(t, CC_NE, site);
    emit_jump(e, CC_ALWAYS, again);
    for (unsigned i = 0; i < 2; i++)
        emit_patch(e, done[i], e->at);
    resume_here(t, site);
    resume_here(t, second);
    if (movs)
        resume_here(t, first);
}

/* BT, BTS, BTR, BTC m, r: the word that has the bit, and the bit's number in it. */
static void emit_bit_string(struct translation *t, const struct form *f)
{
    struct emit *e = &t->hot;
    const struct insn *in = &f->in;
    bool wide = in->osize == 8, write = !IS(f, BT);
    unsigned reg = decode_gpr(f->ops[1].reg.value), shift = wide ? 6 : 5;
    uint32_t site = add_site(t, f, SITE_ACCESS);
    unsigned opcode = IS(f, BT) ? 0x1a3 : IS(f, BTS) ? 0x1ab : IS(f, BTR) ? 0x1b3 : 0x1bb;

    flags_to_slot(t, f->live_in | f->live_out);
    t->bt->sites[site].retry = e->at;
    t->bt->sites[site].aligned = f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK;
    /* T1 = the signed distance in bytes; T0 = the address. */
    if (wide)
        emit_load(e, T1, is_stolen(reg) ? GPR(reg) : rm_reg(reg));
    else
        emit_op(e, true, 0x63, T1, is_stolen(reg) ? GPR(reg) : rm_reg(reg)); /* movsxd */
    emit_op(e, true, 0xc1, 7, rm_reg(T1));
    emit8(e, shift);
    emit_store(e, T1, rm_gs(GS(scratch)));
    emit_address(t, f, false);
    emit_load(e, T1, rm_gs(GS(scratch)));
    emit_op(e, t->code64, OP_LEA, T0, rm_mem(T0, T1, wide ? 3 : 2, 0));
    emit_check(t, site, in->osize, write ? ACCESS_WRITE : ACCESS_READ,
               offsetof(struct bt_entry, page));
    emit_op(e, true, OP_LEA, T0, rm_mem(T0, T1, 0, 0));
    emit_op(e, wide, OP_LOAD, T1, is_stolen(reg) ? GPR(reg) : rm_reg(reg));
    emit_dword(e, 4, rm_reg(T1), wide ? 63 : 31);
    if (f->live_out & (uint16_t)~RFLAGS_CF) {
        /* The others stay: they are in the slot, and come back around the temporaries. */
        emit_store(e, REG_RAX, rm_gs(GS(scratch)));
        emit_op(e, false, OP_LOAD, REG_RAX, rm_gs(GS(c.aflags)));
        emit8(e, 0x04);
        emit8(e, 0x7f);
        emit8(e, 0x9e);
        emit_load(e, REG_RAX, rm_gs(GS(scratch)));
    }
    if (f->zi.attributes & ZYDIS_ATTRIB_HAS_LOCK)
        emit8(e, 0xf0);
    emit_op(e, wide, opcode, T1, rm_mem(T0, NO_REG, 0, 0));
    t->host = true;
    t->slot = false;
    resume_here(t, site);
}

/* ---- segment registers ----------------------------------------------------------------------- */

static void emit_selector(struct emit *e, unsigned seg)
{
    emit_op(e, false, 0x1b7, T0, SEG_AT(seg, selector)); /* movzx r14d, word */
}

static void emit_push_segment(struct translation *t, const struct form *f)
{
    struct place p = emit_stack(t, f, REG_RSP, -(int32_t)f->stack, ACCESS_WRITE);
    bool narrow = f->stack == 4 && t->v->c.vcpu->model->vendor == CPU_INTEL; /* op_push_sreg */

    emit_selector(&t->hot, segment_operand(f, 0));
    emit_sized(&t->hot, narrow ? 2 : f->stack, OP_STORE, T0, p.rm);
    move_rsp(t, -(int32_t)f->stack);
    resume_here(t, p.site);
}

/*
 * The segment of paragraph T0, if the register is as in all code that has never been in protected
 * mode: limit and type stay, and with them the mode. Destroys T0.
 */
static void emit_load_paragraph(struct translation *t, unsigned seg, uint32_t site)
{
    unsigned attr = SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_WRITE | SEG_TYPE_ACCESSED |
                    (t->key & MODE_V86 ? SEG_ATTR_DPL : 0);
    struct emit *e = &t->hot;

    emit_dword(e, 7, SEG_AT(seg, limit), 0xffff);
    slow_if(t, CC_NE, site);
    emit8(e, 0x66);
    emit_op(e, false, 0x81, 7, SEG_AT(seg, attr)); /* cmp word */
    emit_bytes(e, (const uint8_t[]){(uint8_t)attr, (uint8_t)(attr >> 8)}, 2);
    slow_if(t, CC_NE, site);
    emit_sized(e, 2, OP_STORE, T0, SEG_AT(seg, selector));
    emit_shift(e, 4, T0, 4);
    emit_store(e, T0, SEG_AT(seg, base));
}

static void emit_segment_move(struct translation *t, const struct form *f)
{
    unsigned from = segment_operand(f, 1), to = segment_operand(f, 0);
    struct place p = {.site = BT_NONE};
    uint32_t site;

    if (from < SEG_COUNT) {
        emit_selector(&t->hot, from);
        emit_sized(&t->hot, f->in.osize == 2 ? 2 : 4, OP_STORE, T0, rm_reg(f->in.rm));
        return;
    }
    flags_to_slot(t, f->live_in); /* by way of T0 */
    if (f->sreg_pop) {
        p = emit_stack(t, f, REG_RSP, 0, ACCESS_READ);
        emit_load_sized(&t->hot, 2, T0, p.rm);
    } else if (f->in.flags & INSN_MEM) {
        p = emit_operand(t, f, 2, ACCESS_READ);
        emit_load_sized(&t->hot, 2, T0, p.rm);
    } else {
        emit_load_sized(&t->hot, 2, T0, rm_reg(f->in.rm));
    }
    site = add_site(t, f, SITE_INSN);
    emit_load_paragraph(t, to, site);
    t->host = false;
    if (f->sreg_pop)
        move_rsp(t, f->stack);
    resume_here(t, site);
    resume_here(t, p.site);
}

void emit_system(struct translation *t, const struct form *f)
{
    t0_lost(t); /* whatever it is, it works with the temporaries */
    t1_lost(t);
    if (f->sreg_push) {
        emit_push_segment(t, f);
        return;
    }
    if (f->sreg_pop || IS(f, MOV)) {
        emit_segment_move(t, f);
        return;
    }
    if (string_size(t, f) && !is_rep(f)) {
        emit_element(t, f, string_size(t, f));
        return;
    }
    if (string_size(t, f)) {
        emit_string(t, f);
        return;
    }
    if (bit_string(t, f)) {
        emit_bit_string(t, f);
        return;
    }
    if (IS(f, SWAPGS)) {
        emit_swapgs(&t->hot);
        return;
    }
    flags_to_slot(t, f->live_in);
    t->host = false;
    switch (f->zi.mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
        emit_tsc(t, f);
        break;
    case ZYDIS_MNEMONIC_RDTSCP:
        emit_tsc(t, f);
        emit_op(&t->hot, false, OP_LOAD, REG_RCX, rm_gs(GS(c.s.tsc_aux)));
        break;
    case ZYDIS_MNEMONIC_CLD:
        emit_dword(&t->hot, 4, RFLAGS_AT, ~(uint32_t)RFLAGS_DF);
        break;
    case ZYDIS_MNEMONIC_STD:
        emit_dword(&t->hot, 1, RFLAGS_AT, RFLAGS_DF);
        break;
    case ZYDIS_MNEMONIC_CLI:
        emit_dword(&t->hot, 4, RFLAGS_AT, ~(uint32_t)RFLAGS_IF);
        break;
    case ZYDIS_MNEMONIC_STI:
        emit_sti(t, f);
        break;
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
        emit_ac(t, IS(f, STAC));
        break;
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        emit_pushf(t, f);
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        emit_popf(t, f);
        break;
    case ZYDIS_MNEMONIC_SYSCALL:
        emit_syscall(t, f);
        break;
    default:
        emit_sysret(t, f);
        break;
    }
}
