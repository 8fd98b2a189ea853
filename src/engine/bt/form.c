/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allow-list of what is copied (form_classify) and the copying (form_emit). An instruction is
 * copied only if its memory access is one run of bytes at its effective address; every mnemonic is
 * named here or is a native thunk of the interpreter's, which decided what the guest's model has.
 *
 * Encodings: SDM vol. 2A chapter 2.
 */
#include "engine/bt/form.h"

#include "engine/interp/int.h"
#include "engine/interp/mode.h"
#include "engine/interp/thunk_int.h"

#define M(name) case ZYDIS_MNEMONIC_##name

static uint8_t gpr_of(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return full >= ZYDIS_REGISTER_RAX && full <= ZYDIS_REGISTER_R15 ? full - ZYDIS_REGISTER_RAX
                                                                    : R_NONE;
}

static bool high_byte(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* ---- which -------------------------------------------------------------------------------- */

/* Integer instructions that are copied whatever their operands, if memory is reached flatly. */
static bool copied(ZydisMnemonic m)
{
    switch (m) {
    M(ADD) : M(OR) : M(ADC) : M(SBB) : M(AND) : M(SUB) : M(XOR) : M(CMP) : M(TEST) : M(INC) : M(DEC)
        : M(NEG) : M(NOT) : M(ROL) : M(ROR) : M(RCL) : M(RCR) : M(SHL) : M(SHR) : M(SAR) : M(SHLD)
        : M(SHRD) : M(MUL) : M(IMUL) : M(DIV) : M(IDIV) : M(CBW) : M(CWDE) : M(CDQE) : M(CWD)
        : M(CDQ) : M(CQO) : M(MOV) : M(MOVZX) : M(MOVSX) : M(MOVSXD) : M(MOVNTI) : M(BSWAP)
        : M(XCHG) : M(XADD) : M(CMPXCHG) : M(CMPXCHG8B) : M(CMPXCHG16B) : M(BT) : M(BTS) : M(BTR)
        : M(BTC) : M(BSF) : M(BSR) : M(TZCNT) : M(LZCNT) : M(POPCNT) : M(CLC) : M(STC) : M(CMC)
        : M(LAHF) : M(SAHF) : M(PAUSE) : M(LFENCE) : M(MFENCE) : M(SFENCE) : M(CMOVO) : M(CMOVNO)
        : M(CMOVB) : M(CMOVNB) : M(CMOVZ) : M(CMOVNZ) : M(CMOVBE) : M(CMOVNBE) : M(CMOVS)
        : M(CMOVNS) : M(CMOVP) : M(CMOVNP) : M(CMOVL) : M(CMOVNL) : M(CMOVLE) : M(CMOVNLE) : M(SETO)
        : M(SETNO) : M(SETB) : M(SETNB) : M(SETZ) : M(SETNZ) : M(SETBE) : M(SETNBE) : M(SETS)
        : M(SETNS) : M(SETP) : M(SETNP) : M(SETL) : M(SETNL) : M(SETLE) : M(SETNLE) : return true;
    default:
        return false;
    }
}

static bool may_trap(ZydisMnemonic m)
{
    switch (m) {
    M(DIV) : M(IDIV) : M(CMPXCHG16B) : return true;
    default:
        return false;
    }
}

/* Registers that only MOV and its like of privileged or segment kind name. */
static bool plain_registers(const struct form *f)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++) {
        const ZydisDecodedOperand *op = &f->ops[k];

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        switch (ZydisRegisterGetClass(op->reg.value)) {
        case ZYDIS_REGCLASS_SEGMENT:
        case ZYDIS_REGCLASS_CONTROL:
        case ZYDIS_REGCLASS_DEBUG:
            return false;
        default:
            break;
        }
    }
    return true;
}

static const ZydisDecodedOperand *mem_operand(const struct form *f)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (f->ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
            return &f->ops[k];
    return NULL;
}

static bool is_shift(ZydisMnemonic m)
{
    switch (m) {
    M(ROL) : M(ROR) : M(RCL) : M(RCR) : M(SHL) : M(SHR) : M(SAR) : M(SHLD) : M(SHRD) : return true;
    default:
        return false;
    }
}

/* A shift whose count is not known to be other than 0 may leave the flags alone. */
static bool may_keep_flags(const struct form *f)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (f->ops[k].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
            return !(f->ops[k].imm.value.u & 31);
    /* D0 and D1 shift by 1, which Zydis shows as an operand too. */
    return true;
}

/* Flags that the manual leaves undefined, and processors leave alone: interp does as they do. */
static bool keeps_undefined(ZydisMnemonic m)
{
    switch (m) {
    M(BT) : M(BTS) : M(BTR) : M(BTC) : M(BSF) : M(BSR) : M(DIV) : M(IDIV) : M(ROL) : M(ROR) : M(RCL)
        : M(RCR) : return true;
    default:
        return false;
    }
}

static void find_flags(struct form *f)
{
    const ZydisAccessedFlags *a = f->zi.cpu_flags;

    f->flags_read = f->flags_must = f->flags_may = 0;
    if (f->class == FORM_END) {
        f->flags_read = FLAGS_ALL;
        f->flags_may = FLAGS_ALL;
        return;
    }
    if (!a)
        return;
    f->flags_read = a->tested & FLAGS_ALL;
    f->flags_may = (a->modified | a->set_0 | a->set_1 | a->undefined) & FLAGS_ALL;
    f->flags_must = f->flags_may;
    if (is_shift(f->zi.mnemonic) && may_keep_flags(f))
        f->flags_must = 0;
    if (keeps_undefined(f->zi.mnemonic))
        f->flags_must &= (uint16_t)~a->undefined;
    if (f->class == FORM_SLOW)
        f->flags_must = 0; /* a REP may run zero times; interp computes from what it finds */
}

static void find_registers(struct form *f)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++) {
        const ZydisDecodedOperand *op = &f->ops[k];
        uint8_t n;

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        n = gpr_of(op->reg.value);
        if (n == R_NONE || !is_stolen(n))
            continue;
        f->stolen |= 1u << n;
        if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
            f->stolen_written |= 1u << n;
        /* Partial and conditional writes keep something. */
        if ((op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) || op->size < 32 ||
            (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) ||
            f->zi.mnemonic == ZYDIS_MNEMONIC_BSF || f->zi.mnemonic == ZYDIS_MNEMONIC_BSR)
            f->stolen_read |= 1u << n;
    }
}

static enum form_class branch_class(struct form *f, const struct interp *c)
{
    const ZydisDecodedOperand *op = &f->ops[0];
    bool near = f->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
    bool wide = c->code64 ? f->in.osize == 8 : f->in.osize >= 2;
    bool relative = op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;

    if (!near)
        return FORM_END;
    switch (f->zi.mnemonic) {
        M(JMP) : return !wide ? FORM_END : relative ? FORM_JMP : FORM_JMP_INDIRECT;
        M(CALL) : return !wide ? FORM_END : relative ? FORM_CALL : FORM_CALL_INDIRECT;
        M(RET) : return wide ? FORM_RET : FORM_END;
        M(LOOP) : M(LOOPE) : M(LOOPNE) : M(JCXZ) : M(JECXZ)
            : M(JRCXZ) : return wide ? FORM_LOOP : FORM_END;
    default:
        break;
    }
    if (f->zi.mnemonic >= ZYDIS_MNEMONIC_JB && f->zi.mnemonic <= ZYDIS_MNEMONIC_JZ && wide &&
        (f->zi.opcode & 0xf0) == (f->zi.opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70)) {
        f->cc = f->zi.opcode & 15;
        return FORM_JCC;
    }
    return FORM_END;
}

static enum form_class stack_class(const struct form *f, const struct interp *c)
{
    const ZydisDecodedOperand *op = &f->ops[0];
    bool reg = op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(op->reg.value) != R_NONE;

    if (c->code64 && f->in.osize != 8)
        return FORM_SLOW;
    if (f->zi.mnemonic == ZYDIS_MNEMONIC_PUSH)
        return reg || op->type != ZYDIS_OPERAND_TYPE_REGISTER ? FORM_PUSH : FORM_SLOW;
    /* POP SP: what the two writes leave of ESP depends on the stack's width. */
    return reg && (f->in.osize > 2 || f->in.reg != REG_RSP) ? FORM_POP : FORM_SLOW;
}

/*
 * x87 and MMX run as they are where a pending exception is #MF: with CR0.NE clear it goes to a pin.
 * CR0.TS and EM have been looked at (thunk_prepare).
 */
static bool x87_as_is(const struct interp *c)
{
    return c->mode & MODE_NE;
}

static enum form_class thunk_class(struct form *f, const struct interp *c)
{
    const struct thunk *t = f->in.thunk;
    const ZydisDecodedOperand *mem = mem_operand(f);

    if (f->zi.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || f->zi.mnemonic == ZYDIS_MNEMONIC_VZEROALL) {
        /* Of the others' sixteen registers it leaves half alone. */
        if (!c->code64 || !(c->mode & MODE_AVX) || (c->mode & MODE_TS))
            return FORM_SLOW;
        f->vec = true;
        return FORM_NATIVE;
    }
    if (f->zi.mnemonic == ZYDIS_MNEMONIC_FWAIT) {
        if (!x87_as_is(c) || ((c->mode & MODE_TS) && (c->mode & MODE_MP)))
            return FORM_SLOW;
        f->x87 = f->traps = true;
        return FORM_NATIVE;
    }
    if (!t || t->mask == MASK_BYTES || (t->flags & THUNK_AREA) ||
        ((t->flags & THUNK_X87) && !x87_as_is(c)))
        return FORM_SLOW;
    if (mem) {
        if (!t->span || mem->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT ||
            mem->mem.type != ZYDIS_MEMOP_TYPE_MEM)
            return FORM_SLOW;
        f->mem_size = t->span;
        /* MXCSR has its flags before the store of VCVTPS2PH faults. */
        f->masked = t->mask || f->zi.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH;
        f->mem_write = t->flags & THUNK_STORES;
    }
    /* CVTTSD2SI of memory names no vector register, but MXCSR is part of them. */
    f->vec = thunk_uses_vectors(&f->zi, f->ops) || (t->flags & THUNK_MXCSR) ||
             f->zi.meta.category == ZYDIS_CATEGORY_CONVERT;
    f->x87 = t->flags & THUNK_X87;
    f->traps = f->vec || f->x87;
    return FORM_NATIVE;
}

static enum form_class integer_class(struct form *f)
{
    const ZydisDecodedOperand *mem = mem_operand(f);

    if (!copied(f->zi.mnemonic) || !plain_registers(f))
        return FORM_SLOW;
    if (mem) {
        if (mem->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
            mem->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            return FORM_SLOW;
        /* A register's bit number reaches beyond the operand. */
        if (insn_row(f->zi.mnemonic)->shape == SHAPE_BITS &&
            f->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
            return FORM_SLOW;
        f->mem_size = (uint8_t)(mem->size / 8); /* in.msize is each handler's own */
        f->mem_write = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
        if (!f->mem_size)
            return FORM_SLOW;
    }
    f->traps = may_trap(f->zi.mnemonic);
    return FORM_NATIVE;
}

/*
 * Is an instruction of 32- or 16-bit code that is no integer one the same in 64-bit code? There, W
 * widens general registers and what has their size, and operands are 32 bits wide by default.
 */
static bool same_encoding(const struct form *f, const struct interp *c)
{
    bool vector =
        thunk_uses_vectors(&f->zi, f->ops) || (f->in.thunk && (f->in.thunk->flags & THUNK_X87));

    switch (f->zi.encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        return (c->mode & MODE_CODE) == MODE_CODE32 || vector || !f->in.thunk;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        if (!f->zi.raw.vex.W)
            return true;
        break;
    default:
        return false;
    }
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (f->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_of(f->ops[k].reg.value) != R_NONE)
            return false;
    switch (f->zi.mnemonic) {
    M(VMOVD) : M(VMOVQ) : M(VPINSRD) : M(VPINSRQ) : M(VPEXTRD) : M(VPEXTRQ) : M(VCVTSI2SS)
        : M(VCVTSI2SD) : return false;
    default:
        return true;
    }
}

static enum form_class classify(struct form *f, const struct interp *c, bool end)
{
    const struct insn_row *row = insn_row(f->zi.mnemonic);

    if (f->in.mnemonic == ZYDIS_MNEMONIC_INVALID)
        return FORM_END;
    switch (f->zi.mnemonic) {
        M(NOP) : M(PREFETCHT0) : M(PREFETCHT1) : M(PREFETCHT2) : M(PREFETCHNTA) : M(PREFETCHW)
            : M(ENDBR64) : M(ENDBR32) : return FORM_NOTHING;
        M(LEA) : return FORM_LEA;
        M(PUSH) : M(POP) : return end ? FORM_END : stack_class(f, c);
        M(LEAVE) : return c->code64 && f->in.osize == 2 ? FORM_SLOW : FORM_LEAVE;
    default:
        break;
    }
    if (end)
        return branch_class(f, c);
    if (row->prep == prep_thunk || f->in.thunk) /* MOVSD and CMPSD are strings too */
        return c->code64 || same_encoding(f, c) ? thunk_class(f, c) : FORM_SLOW;
    return integer_class(f);
}

/*
 * AH to DH beside registers that need a REX prefix cannot be written down: who writes them
 * exchanges low and high.
 */
static uint8_t find_high(const struct form *f)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (f->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && high_byte(f->ops[k].reg.value) &&
            f->ops[k].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && f->mem_size)
            return gpr_of(f->ops[k].reg.value);
    return R_NONE;
}

void form_classify(struct form *f, const struct interp *c, bool end)
{
    f->mem_size = 0;
    f->simple = f->windowed = f->stack_windowed = f->sreg_push = f->sreg_pop = false;
    f->stack = c->code64 ? 8 : f->in.osize;
    f->mem_write = f->masked = f->vec = f->x87 = f->traps = false;
    f->stolen = f->stolen_read = f->stolen_written = 0;
    f->class = classify(f, c, end);
    find_registers(f);
    f->high = f->class == FORM_NATIVE ? find_high(f) : R_NONE;
    if (f->class == FORM_NATIVE &&
        (f->in.len > 15 || (f->high != R_NONE && f->zi.mnemonic == ZYDIS_MNEMONIC_CMPXCHG)))
        f->class = FORM_SLOW;
    find_flags(f);
}

void form_is_slow(struct form *f)
{
    f->class = FORM_SLOW;
    f->vec = f->x87 = f->traps = false;
    find_flags(f);
}

void form_is_end(struct form *f)
{
    f->class = FORM_END;
    find_flags(f);
}

/* ---- writing it down ------------------------------------------------------------------------ */

static const ZydisDecodedOperand *encoded(const struct form *f, ZydisOperandEncoding enc)
{
    for (unsigned k = 0; k < f->zi.operand_count; k++)
        if (f->ops[k].encoding == enc && f->ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER)
            return &f->ops[k];
    return NULL;
}

/* The number that goes into a field: the operand's if it is a general register, mapped, else `raw`.
 */
static unsigned field(const struct form *f, ZydisOperandEncoding enc, const uint8_t *map,
                      unsigned raw)
{
    const ZydisDecodedOperand *op = encoded(f, enc);
    uint8_t n = op ? gpr_of(op->reg.value) : R_NONE;

    if (n == R_NONE || (high_byte(op->reg.value) && f->high == R_NONE))
        return raw;
    return map[n];
}

/* In 16-bit code: does prefix 66 make it 64-bit code's instruction of 16-bit operands? */
static bool operands_of_16(const struct form *f)
{
    if (f->vec || f->x87 || f->zi.operand_width != 16)
        return false;
    switch (f->zi.mnemonic) {
    M(CMPXCHG8B) : M(MOVNTI) : M(LFENCE) : M(MFENCE) : M(SFENCE) : M(PAUSE) : M(CLC) : M(STC)
        : M(CMC) : M(LAHF) : M(SAHF) : return false;
    default:
        return true;
    }
}

/* One-byte opcodes that 64-bit code does not have, or that name no register or memory there. */
static bool other_opcode(const struct form *f, const uint8_t *map, unsigned *opcode, unsigned *reg,
                         struct rm *m)
{
    static const uint8_t moves[4] = {0x8a, 0x8b, 0x88, 0x89};
    bool wide = f->zi.machine_mode == ZYDIS_MACHINE_MODE_LONG_64;

    if (f->zi.opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        return false;
    if (*opcode == 0x82 && !wide)
        *opcode = 0x80;
    if (*opcode >= 0xa0 && *opcode <= 0xa3) { /* MOV of an absolute address */
        *opcode = moves[*opcode & 3];
        *reg = map[REG_RAX];
        return true;
    }
    if ((*opcode & 0xf0) == 0x40 && !wide) { /* INC, DEC */
        *m = rm_reg(map[*opcode & 7]);
        *reg = *opcode >> 3 & 1;
        *opcode = 0xff;
        return true;
    }
    return false;
}

static bool emit_legacy(struct emit *e, const struct form *f, const uint8_t *map, struct rm m)
{
    const ZydisDecodedInstruction *zi = &f->zi;
    bool has_modrm = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    bool had_rex = zi->attributes & ZYDIS_ATTRIB_HAS_REX;
    bool code16 = zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_COMPAT_16 ||
                  zi->machine_mode == ZYDIS_MACHINE_MODE_LEGACY_16 ||
                  zi->machine_mode == ZYDIS_MACHINE_MODE_REAL_16;
    unsigned reg = 0, rex = had_rex && zi->raw.rex.W ? 8 : 0, opcode = zi->opcode;
    bool other = other_opcode(f, map, &opcode, &reg, &m);

    for (unsigned k = 0; k < zi->raw.prefix_count; k++) {
        uint8_t p = zi->raw.prefixes[k].value;
        bool again = false;

        /* Once is enough: with REX and SIB it would become longer than an instruction may be. */
        for (unsigned i = 0; i < k; i++)
            again |= zi->raw.prefixes[i].value == p &&
                     zi->raw.prefixes[i].type == zi->raw.prefixes[k].type;
        if (again)
            continue;
        /* A repeat prefix that is no part of the opcode is a hint, or nothing. */
        if ((p == 0x66 && (!code16 || zi->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)) ||
            p == 0xf0 ||
            ((p == 0xf2 || p == 0xf3) && (zi->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY ||
                                          zi->mnemonic == ZYDIS_MNEMONIC_PAUSE)))
            emit8(e, p);
    }
    if (code16 && operands_of_16(f))
        emit8(e, 0x66);
    if (m.kind == RM_GS)
        emit8(e, 0x65);
    if (other) {
        rex |= (reg >> 3 & 1) << 2 | rm_rex(&m);
    } else if (has_modrm) {
        reg = field(f, ZYDIS_OPERAND_ENCODING_MODRM_REG, map,
                    zi->raw.modrm.reg | (had_rex ? zi->raw.rex.R << 3 : 0));
        rex |= (reg >> 3 & 1) << 2 | rm_rex(&m);
    } else {
        unsigned n = field(f, ZYDIS_OPERAND_ENCODING_OPCODE, map,
                           (opcode & 7) | (had_rex ? zi->raw.rex.B << 3 : 0));

        if (encoded(f, ZYDIS_OPERAND_ENCODING_OPCODE)) {
            opcode = (opcode & ~7u) | (n & 7);
            rex |= n >> 3;
        }
    }
    if (rex || had_rex)
        emit8(e, 0x40 | rex);
    switch (zi->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F:
        emit8(e, 0x0f);
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        emit8(e, 0x0f);
        emit8(e, 0x38);
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        emit8(e, 0x0f);
        emit8(e, 0x3a);
        break;
    case ZYDIS_OPCODE_MAP_DEFAULT:
        break;
    default:
        return false;
    }
    emit8(e, opcode);
    if (has_modrm || other)
        emit_modrm(e, reg, &m, false);
    return true;
}

/* Register bits are inverted in VEX and EVEX. */
static bool emit_vex(struct emit *e, const struct form *f, const uint8_t *map, struct rm m)
{
    const uint8_t *p = f->in.bytes + f->zi.raw.vex.offset;
    bool two = p[0] == 0xc5;
    unsigned mmmmm = two ? 1 : p[1] & 0x1f, wvlp = two ? p[1] & 0x7fu : p[2];
    unsigned r = two ? ~p[1] >> 7 & 1 : ~p[1] >> 7 & 1;
    unsigned reg = field(f, ZYDIS_OPERAND_ENCODING_MODRM_REG, map, f->zi.raw.modrm.reg | r << 3);
    unsigned v = field(f, ZYDIS_OPERAND_ENCODING_NDSNDD, map, ~wvlp >> 3 & 15), rxb;

    if (f->zi.machine_mode != ZYDIS_MACHINE_MODE_LONG_64) /* eight registers only */
        v &= 7;
    wvlp = (wvlp & ~0x78u) | (~v & 15) << 3;
    rxb = (reg >> 3 & 1) << 2 | rm_rex(&m);
    if (m.kind == RM_GS)
        emit8(e, 0x65);
    emit8(e, 0xc4);
    emit8(e, (~rxb & 7) << 5 | mmmmm);
    emit8(e, wvlp);
    emit8(e, f->zi.opcode);
    if (f->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM)
        emit_modrm(e, reg, &m, false);
    return true;
}

static bool emit_evex(struct emit *e, const struct form *f, const uint8_t *map, struct rm m)
{
    const uint8_t *p = f->in.bytes + f->zi.raw.evex.offset;
    unsigned p0 = p[1], p1 = p[2], p2 = p[3];
    unsigned reg =
        field(f, ZYDIS_OPERAND_ENCODING_MODRM_REG, map, f->zi.raw.modrm.reg | (~p0 >> 7 & 1) << 3);
    unsigned v = field(f, ZYDIS_OPERAND_ENCODING_NDSNDD, map, ~p1 >> 3 & 15);

    p1 = (p1 & ~0x78u) | (~v & 15) << 3;
    p0 = (p0 & ~0x80u) | (~reg >> 3 & 1) << 7;
    if (m.kind != RM_REG) {
        p0 = (p0 & ~0x60u) | (~rm_rex(&m) & 3) << 5;
    } else {
        const ZydisDecodedOperand *op = encoded(f, ZYDIS_OPERAND_ENCODING_MODRM_RM);

        if (op && gpr_of(op->reg.value) != R_NONE)
            p0 = (p0 & ~0x60u) | 0x40 | (~(unsigned)m.reg >> 3 & 1) << 5;
    }
    if (m.kind == RM_GS)
        emit8(e, 0x65);
    emit8(e, 0x62);
    emit8(e, p0);
    emit8(e, p1);
    emit8(e, p2);
    emit8(e, f->zi.opcode);
    emit_modrm(e, reg, &m, true);
    return true;
}

bool form_emit(struct emit *e, const struct form *f, const uint8_t map[16], const struct rm *mem)
{
    const ZydisDecodedInstruction *zi = &f->zi;
    unsigned b = (zi->attributes & ZYDIS_ATTRIB_HAS_REX) ? zi->raw.rex.B : 0;
    struct rm m = rm_reg(0);
    bool ok;

    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        const uint8_t *p = f->in.bytes + zi->raw.vex.offset;

        b = p[0] == 0xc4 && zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 ? ~p[1] >> 5 & 1 : 0;
    } else if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX) {
        b = ~f->in.bytes[zi->raw.evex.offset + 1] >> 5 & 1;
    }
    if (mem)
        m = *mem;
    else if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        m = rm_reg(field(f, ZYDIS_OPERAND_ENCODING_MODRM_RM, map, zi->raw.modrm.rm | b << 3));
    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        ok = emit_legacy(e, f, map, m);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        ok = emit_vex(e, f, map, m);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        ok = emit_evex(e, f, map, m);
        break;
    default:
        return false;
    }
    for (unsigned k = 0; ok && k < 2; k++) {
        if (!zi->raw.imm[k].size)
            continue;
        emit_bytes(e, f->in.bytes + zi->raw.imm[k].offset, zi->raw.imm[k].size / 8);
        if (zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 &&
            encoded(f, ZYDIS_OPERAND_ENCODING_IS4))
            e->buf[e->at - 1] &= 0x7f; /* a register of eight */
    }
    return ok;
}
