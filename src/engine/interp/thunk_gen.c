/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thunk is made of. From Zydis' operands (visible and hidden) follow the registers to load
 * and to store; the instruction itself is re-encoded for 64-bit mode with the registers it names,
 * except that rsp is replaced by a free register (the host's stack pointer stays the host's) and
 * the memory operand by [free register].
 *
 * A thunk is called as fn(c, mem). Inside, S points to struct interp and M to the memory operand;
 * both are registers that the instruction does not use:
 *
 *      push the callee-saved registers that the instruction uses
 *      host MXCSR and FCW to the stack; FXRSTOR64 or LDMXCSR of the guest's    (where they matter)
 *      vector and mask registers, arithmetic flags, general registers
 * at:  the instruction
 *      general registers, flags, mask and vector registers, MXCSR, FXSAVE64
 *      xor eax, eax
 * out: FNINIT, FLDCW, LDMXCSR, VZEROUPPER as needed; pop; ret
 * fault: (RAX = trap number + 1, see hostcode.h)
 *      STMXCSR to the guest's: #XM sets its flags; FXSAVE64; jmp out
 */
#include <string.h>

#include "base/bytes.h"
#include "cpu/model.h"
#include "engine/interp/mode.h"
#include "engine/interp/thunk_int.h"

#define R(n) (1u << (n))
#define RCX  1
#define RSP  REG_RSP
#define RDI  REG_RDI
#define RSI  REG_RSI

#define ACT_READ \
    (ZYDIS_OPERAND_ACTION_READ | ZYDIS_OPERAND_ACTION_CONDREAD | ZYDIS_OPERAND_ACTION_CONDWRITE)
#define ACT_WRITE (ZYDIS_OPERAND_ACTION_WRITE | ZYDIS_OPERAND_ACTION_CONDWRITE)

/* Everything the generator needs to know of an instruction. */
struct form {
    const ZydisDecodedInstruction *zi;
    const ZydisDecodedOperand *ops;
    const uint8_t *bytes; /* as fetched */
    int mem;              /* index of the memory operand, or -1 */
    bool ac;              /* with alignment checks */
    bool code64, wide;    /* wide: the host has AVX-512 */
    bool flags, mxcsr, x87, vex;
    uint32_t gpr_used, gpr_load, gpr_store;
    uint8_t vec_load[32]; /* bytes: 16, 32, 64 */
    uint32_t vec_store;
    bool upper; /* loads or writes parts of vector registers that SSE does not know */
    uint16_t k_load, k_store;
    uint8_t s, m; /* the two free registers */
    uint8_t rsp;  /* stands in for rsp; RSP if it is not used */
    uint8_t insn[20];
    unsigned insn_len;
};

/* ---- facts about instructions -----------------------------------------------------------------
 */

int thunk_mem_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    for (unsigned k = 0; k < zi->operand_count; k++)
        if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (ops[k].mem.type == ZYDIS_MEMOP_TYPE_MEM || ops[k].mem.type == ZYDIS_MEMOP_TYPE_VSIB))
            return (int)k;
    return -1;
}

static bool has_class(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
                      ZydisRegisterClass class)
{
    for (unsigned k = 0; k < zi->operand_count; k++)
        if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(ops[k].reg.value) == class)
            return true;
    return false;
}

static bool has_gpr(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return has_class(zi, ops, ZYDIS_REGCLASS_GPR32) || has_class(zi, ops, ZYDIS_REGCLASS_GPR64);
}

static bool has_vector(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return has_class(zi, ops, ZYDIS_REGCLASS_XMM) || has_class(zi, ops, ZYDIS_REGCLASS_YMM) ||
           has_class(zi, ops, ZYDIS_REGCLASS_ZMM);
}

static bool uses_mxcsr_register(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    for (unsigned k = 0; k < zi->operand_count; k++)
        if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[k].reg.value == ZYDIS_REGISTER_MXCSR)
            return true;
    return false;
}

static bool is_mmx(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return has_class(zi, ops, ZYDIS_REGCLASS_MMX) || zi->mnemonic == ZYDIS_MNEMONIC_EMMS;
}

static bool is_x87_proper(const ZydisDecodedInstruction *zi)
{
    /* FISETTTM and the like included; FISTTP is in SSE3X87. */
    return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
           zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xf8) == 0xd8;
}

bool thunk_is_x87(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    return is_x87_proper(zi) || is_mmx(zi, ops) || zi->mnemonic == ZYDIS_MNEMONIC_FWAIT;
}

bool thunk_uses_vectors(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
        return true;
    default:
        return has_vector(zi, ops) || has_class(zi, ops, ZYDIS_REGCLASS_MASK) ||
               zi->meta.isa_set == ZYDIS_ISA_SET_SSEMXCSR || uses_mxcsr_register(zi, ops);
    }
}

/* AMD: MXCSR.MM lets SSE operands be unaligned, so the host must see it. */
static bool misalign_matters(const struct cpu_model *m, const ZydisDecodedInstruction *zi)
{
    return cpu_has(m, FEAT_MISALIGNSSE) &&
           (zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
            zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE4);
}

static bool touches_mxcsr(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E11:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return true;
    default:
        break;
    }
    if (zi->meta.category == ZYDIS_CATEGORY_CONVERT)
        return true;
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_RCPPS:
    case ZYDIS_MNEMONIC_RCPSS:
    case ZYDIS_MNEMONIC_RSQRTPS:
    case ZYDIS_MNEMONIC_RSQRTSS:
    case ZYDIS_MNEMONIC_VRCPPS:
    case ZYDIS_MNEMONIC_VRCPSS:
    case ZYDIS_MNEMONIC_VRSQRTPS:
    case ZYDIS_MNEMONIC_VRSQRTSS:
    case ZYDIS_MNEMONIC_VRCP14PD:
    case ZYDIS_MNEMONIC_VRCP14PS:
    case ZYDIS_MNEMONIC_VRCP14SD:
    case ZYDIS_MNEMONIC_VRCP14SS:
    case ZYDIS_MNEMONIC_VRSQRT14PD:
    case ZYDIS_MNEMONIC_VRSQRT14PS:
    case ZYDIS_MNEMONIC_VRSQRT14SD:
    case ZYDIS_MNEMONIC_VRSQRT14SS:
    case ZYDIS_MNEMONIC_VFPCLASSPD:
    case ZYDIS_MNEMONIC_VFPCLASSPS:
    case ZYDIS_MNEMONIC_VFPCLASSSD:
    case ZYDIS_MNEMONIC_VFPCLASSSS:
        return true; /* DAZ, FTZ */
    default:
        return false;
    }
}

static bool suppresses_faults(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) { /* E4NF in the manual, E4 in Zydis */
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
        return false;
    default:
        break;
    }
    switch (zi->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return false;
    default:
        return true;
    }
}

/* Is element n of the memory operand used for element n of the result alone? */
static bool moves_elements(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_EXPAND:
    case ZYDIS_CATEGORY_COMPRESS:
        return true;
    default:
        return false;
    }
}

bool thunk_is_area(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return true;
    default:
        return false;
    }
}

static bool waits_for_x87(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        return true;
    }
}

bool thunk_offered(const struct interp *c, const ZydisDecodedInstruction *zi,
                   const ZydisDecodedOperand *ops)
{
    uint64_t mode = c->mode;

    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        return (mode & MODE_AVX512) && !(mode & (MODE_REAL | MODE_V86));
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        if (mode & (MODE_REAL | MODE_V86))
            return false;
        if (has_class(zi, ops, ZYDIS_REGCLASS_MASK))
            return mode & MODE_AVX512;
        /* BMI: general registers only, and no state to enable. */
        if (!has_vector(zi, ops) && has_gpr(zi, ops))
            return true;
        return mode & MODE_AVX;
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        if (has_vector(zi, ops) || zi->meta.isa_set == ZYDIS_ISA_SET_SSEMXCSR)
            return (mode & MODE_OSFXSR) && !(mode & MODE_EM);
        return !is_mmx(zi, ops) || !(mode & MODE_EM);
    default:
        return false;
    }
}

/* ---- analysis ----------------------------------------------------------------------------------
 */

static uint8_t gpr_number(ZydisRegister reg)
{
    ZydisRegister full = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

    return full >= ZYDIS_REGISTER_RAX && full <= ZYDIS_REGISTER_R15 ? full - ZYDIS_REGISTER_RAX
                                                                    : R_NONE;
}

static bool analyse_register(struct form *f, const ZydisDecodedOperand *op)
{
    unsigned id = (uint8_t)ZydisRegisterGetId(op->reg.value);
    bool write = op->actions & ACT_WRITE, read = op->actions & ACT_READ;
    unsigned width = 16;
    uint8_t n;

    switch (ZydisRegisterGetClass(op->reg.value)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        n = gpr_number(op->reg.value);
        if (n == R_NONE)
            return false;
        f->gpr_used |= R(n);
        f->gpr_load |= R(n);
        if (write)
            f->gpr_store |= R(n);
        return true;
    case ZYDIS_REGCLASS_ZMM:
        width = 64;
        break;
    case ZYDIS_REGCLASS_YMM:
        width = 32;
        break;
    case ZYDIS_REGCLASS_XMM:
        break;
    case ZYDIS_REGCLASS_MASK:
        if (id > 7)
            return false;
        if (op->encoding == ZYDIS_OPERAND_ENCODING_MASK && !id)
            return true; /* k0 there: no mask */
        if (read)
            f->k_load |= R(id);
        if (write)
            f->k_store |= R(id);
        return true;
    case ZYDIS_REGCLASS_MMX:
    case ZYDIS_REGCLASS_X87:
    case ZYDIS_REGCLASS_FLAGS:
        return true;
    default: /* X87CONTROL, X87STATUS, MXCSR: in the images; anything else cannot be run */
        switch (op->reg.value) {
        case ZYDIS_REGISTER_X87CONTROL:
        case ZYDIS_REGISTER_X87STATUS:
        case ZYDIS_REGISTER_X87TAG:
        case ZYDIS_REGISTER_MXCSR:
        case ZYDIS_REGISTER_XCR0:
            return true;
        default:
            return false;
        }
    }
    if (id > 31)
        return false;
    f->upper |= f->vex;
    /* A legacy or merging destination keeps what it does not write. */
    if (read || !f->vex || f->zi->avx.mask.mode == ZYDIS_MASK_MODE_MERGING)
        f->vec_load[id] = f->vec_load[id] > width ? f->vec_load[id] : (uint8_t)width;
    if (write)
        f->vec_store |= 1u << id;
    return true;
}

static bool is_maskmov(const ZydisDecodedInstruction *zi)
{
    return zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || zi->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
           zi->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/* The first of the listed registers that is free, taken. Low registers first: they need no REX
 * prefix. */
static uint8_t take(uint32_t *used, const uint8_t *list, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (!(*used & R(list[k]))) {
            *used |= R(list[k]);
            return list[k];
        }
    return R_NONE;
}

static bool analyse(struct form *f)
{
    static const uint8_t for_s[] = {7, 11, 10, 9, 8};
    static const uint8_t for_m[] = {6, 1, 2, 3, 0, 7};
    static const uint8_t for_rsp[] = {1, 2, 3, 0, 6, 7};
    const ZydisDecodedInstruction *zi = f->zi;
    uint32_t used;

    f->mem = thunk_mem_operand(zi, f->ops);
    f->vex = zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    f->x87 = thunk_is_x87(zi, f->ops) || thunk_is_area(zi);
    f->upper = thunk_is_area(zi);
    f->mxcsr = touches_mxcsr(zi);
    if (zi->cpu_flags) {
        const ZydisAccessedFlags *a = zi->cpu_flags;

        f->flags = (a->tested | a->modified | a->set_0 | a->set_1 | a->undefined) & RFLAGS_ARITH;
    }
    for (unsigned k = 0; k < zi->operand_count; k++) {
        const ZydisDecodedOperand *op = &f->ops[k];

        switch (op->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (!analyse_register(f, op))
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if ((int)k != f->mem || op->mem.type != ZYDIS_MEMOP_TYPE_MEM)
                return false;
            /* Implicit memory cannot be moved to another register. */
            if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && !is_maskmov(zi))
                return false;
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            break;
        default:
            return false;
        }
    }

    used = f->gpr_used | R(RSP) | R(REG_RBP) | R(12) | R(13) | R(14) | R(15);
    f->m = R_NONE;
    if (is_maskmov(zi)) {
        f->m = RDI;
        used |= R(RDI);
        f->gpr_used |= R(RDI);
    } else if (f->mem >= 0) {
        f->m = take(&used, for_m, ARRAY_LEN(for_m));
        if (f->m == R_NONE)
            return false;
    }
    f->rsp = RSP;
    if (f->gpr_used & R(RSP)) {
        f->rsp = take(&used, for_rsp, ARRAY_LEN(for_rsp));
        if (f->rsp == R_NONE)
            return false;
    }
    f->s = take(&used, for_s, ARRAY_LEN(for_s));
    return f->s != R_NONE;
}

/* ---- the instruction, for 64-bit mode ----------------------------------------------------------
 */

static const ZydisDecodedOperand *operand_encoded(const struct form *f, ZydisOperandEncoding enc)
{
    for (unsigned k = 0; k < f->zi->operand_count; k++)
        if (f->ops[k].encoding == enc)
            return &f->ops[k];
    return NULL;
}

static bool is_rsp(const struct form *f, ZydisOperandEncoding enc)
{
    const ZydisDecodedOperand *op = operand_encoded(f, enc);

    return op && op->type == ZYDIS_OPERAND_TYPE_REGISTER && gpr_number(op->reg.value) == RSP;
}

static void put(struct form *f, unsigned byte)
{
    f->insn[f->insn_len++] = (uint8_t)byte;
}

static bool mandatory_prefix(const struct form *f, uint8_t value)
{
    for (unsigned k = 0; k < f->zi->raw.prefix_count && k < 15; k++)
        if (f->zi->raw.prefixes[k].value == value &&
            f->zi->raw.prefixes[k].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            return true;
    return false;
}

/* Does the prefix 66 choose a 16-bit operand here (as in code whose default is 32)? */
static bool wants_16bit(const struct form *f)
{
    if (thunk_is_area(f->zi))
        return f->zi->operand_width == 16 && is_x87_proper(f->zi);
    if (f->vex || f->x87)
        return false;
    if (f->zi->mnemonic == ZYDIS_MNEMONIC_CRC32)
        return f->ops[1].size == 16;
    return has_class(f->zi, f->ops, ZYDIS_REGCLASS_GPR16);
}

static unsigned modrm_byte(const struct form *f)
{
    unsigned mod = f->zi->raw.modrm.mod, reg = f->zi->raw.modrm.reg, rm = f->zi->raw.modrm.rm;

    if (is_rsp(f, ZYDIS_OPERAND_ENCODING_MODRM_REG))
        reg = f->rsp;
    if (is_rsp(f, ZYDIS_OPERAND_ENCODING_MODRM_RM))
        rm = f->rsp;
    if (f->mem >= 0 && !is_maskmov(f->zi)) {
        mod = 0;
        rm = f->m;
    }
    return mod << 6 | (reg & 7) << 3 | (rm & 7);
}

static void encode_legacy(struct form *f)
{
    const ZydisDecodedInstruction *zi = f->zi;
    bool has_rex = f->code64 && (zi->attributes & ZYDIS_ATTRIB_HAS_REX);
    unsigned opcode = zi->opcode, rex = 0;

    if (mandatory_prefix(f, 0x66) || wants_16bit(f))
        put(f, 0x66);
    if (mandatory_prefix(f, 0xf2))
        put(f, 0xf2);
    if (mandatory_prefix(f, 0xf3))
        put(f, 0xf3);
    if (has_rex) {
        rex = 0x40 | zi->raw.rex.W << 3 | zi->raw.rex.R << 2 | zi->raw.rex.B;
        if (f->mem >= 0 && !is_maskmov(zi))
            rex &= ~1u; /* M is a low register */
    }
    if (is_rsp(f, ZYDIS_OPERAND_ENCODING_OPCODE))
        opcode = (opcode & ~7u) | f->rsp;
    if (has_rex)
        put(f, rex);
    switch (zi->opcode_map) {
    case ZYDIS_OPCODE_MAP_0F:
        put(f, 0x0f);
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        put(f, 0x0f);
        put(f, 0x38);
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        put(f, 0x0f);
        put(f, 0x3a);
        break;
    default:
        break;
    }
    put(f, opcode);
    if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        put(f, modrm_byte(f));
}

/* Outside 64-bit mode W does not make a general register or its memory operand 64 bits wide. */
static bool w_is_ignored(const struct form *f)
{
    if (f->code64)
        return false;
    if (has_gpr(f->zi, f->ops))
        return true;
    switch (f->zi->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTUSI2SD:
    case ZYDIS_MNEMONIC_VCVTUSI2SS:
        return true;
    default:
        return false;
    }
}

/* Always with the three-byte prefix. Register bits are inverted. */
static void encode_vex(struct form *f)
{
    const uint8_t *p = f->bytes + f->zi->raw.vex.offset;
    bool two = p[0] == 0xc5;
    unsigned rxb = two ? (p[1] & 0x80) | 0x61 : p[1];
    unsigned wvlp = two ? p[1] & 0x7fu : p[2];

    if (!f->code64) {
        rxb |= 0xe0;
        wvlp |= 0x40;
    }
    if (w_is_ignored(f))
        wvlp &= ~0x80u;
    if (f->mem >= 0 && !is_maskmov(f->zi))
        rxb |= 0x60;
    if (is_rsp(f, ZYDIS_OPERAND_ENCODING_NDSNDD))
        wvlp = (wvlp & ~0x78u) | (~(unsigned)f->rsp & 15) << 3;
    put(f, 0xc4);
    put(f, rxb);
    put(f, wvlp);
    put(f, f->zi->opcode);
    if (f->zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        put(f, modrm_byte(f));
}

static void encode_evex(struct form *f)
{
    const uint8_t *p = f->bytes + f->zi->raw.evex.offset;
    unsigned p0 = p[1], p1 = p[2], p2 = p[3];

    if (!f->code64) {
        p0 |= 0xf0;
        p1 |= 0x40;
        p2 |= 0x08;
    }
    if (w_is_ignored(f))
        p1 &= ~0x80u;
    if (f->mem >= 0)
        p0 |= 0x60;
    if (is_rsp(f, ZYDIS_OPERAND_ENCODING_NDSNDD))
        p1 = (p1 & ~0x78u) | (~(unsigned)f->rsp & 15) << 3;
    put(f, 0x62);
    put(f, p0);
    put(f, p1);
    put(f, p2);
    put(f, f->zi->opcode);
    put(f, modrm_byte(f));
}

static bool encode(struct form *f)
{
    const ZydisDecodedInstruction *zi = f->zi;

    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        encode_legacy(f);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        encode_vex(f);
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        encode_evex(f);
        break;
    default:
        return false;
    }
    for (unsigned k = 0; k < 2; k++) {
        unsigned n = zi->raw.imm[k].size / 8, off = zi->raw.imm[k].offset;

        if (!n)
            continue;
        if (zi->raw.imm[k].is_relative || off + n > zi->length || f->insn_len + n > 15)
            return false;
        memcpy(f->insn + f->insn_len, f->bytes + off, n);
        f->insn_len += n;
    }
    /* Bit 7 of a register in an immediate does not count outside 64-bit mode. */
    if (!f->code64 && operand_encoded(f, ZYDIS_OPERAND_ENCODING_IS4))
        f->insn[f->insn_len - 1] &= 0x7f;
    return f->insn_len <= 15;
}

/* ---- emission -----------------------------------------------------------------------------------
 */

struct code {
    uint8_t b[4096];
    unsigned n;
};

static void emit(struct code *o, unsigned count, uint64_t bytes)
{
    memcpy(o->b + o->n, &bytes, count);
    o->n += count;
}

/* ModRM for [base + disp32]; base is none of rsp, r12. */
static void emit_mem(struct code *o, unsigned reg, unsigned base, size_t disp)
{
    emit(o, 1, 0x80 | (reg & 7) << 3 | (base & 7));
    emit(o, 4, disp);
}

static unsigned rex(unsigned w, unsigned reg, unsigned base)
{
    return 0x40 | w << 3 | (reg >> 3) << 2 | base >> 3;
}

/* 64-bit mov: opcode 8b loads, 89 stores. */
static void emit_mov(struct code *o, unsigned opcode, unsigned reg, unsigned base, size_t disp)
{
    emit(o, 1, rex(1, reg, base));
    emit(o, 1, opcode);
    emit_mem(o, reg, base, disp);
}

static void emit_mov_rr(struct code *o, unsigned dst, unsigned src)
{
    emit(o, 1, rex(1, src, dst));
    emit(o, 1, 0x89);
    emit(o, 1, 0xc0 | (src & 7) << 3 | (dst & 7));
}

/* 0F AE /op [base + disp]: ldmxcsr 2, stmxcsr 3, fxsave 0, fxrstor 1. */
static void emit_0fae(struct code *o, unsigned op, unsigned w, unsigned base, size_t disp)
{
    emit(o, 1, rex(w, 0, base));
    emit(o, 2, 0xae0f);
    emit_mem(o, op, base, disp);
}

/* The host's MXCSR and FCW are kept at [rsp] and [rsp+4]. */
#define HOST_STMXCSR 0x241cae0full
#define HOST_LDMXCSR 0x2414ae0full
#define HOST_FNSTCW  0x04247cd9ull
#define HOST_FLDCW   0x04246cd9ull

/* movups / vmovups of `width` bytes; opcode 10 loads, 11 stores. */
static void emit_vector(struct code *o, const struct form *f, unsigned opcode, unsigned reg,
                        unsigned width)
{
    size_t disp = offsetof(struct interp, s.fpu.zmm) + reg * 64u;

    if (!f->vex) {
        emit(o, 1, rex(0, reg, f->s));
        emit(o, 1, 0x0f);
    } else if (f->wide) {
        unsigned ll = width == 64 ? 2 : width == 32 ? 1 : 0;

        emit(o, 1, 0x62);
        emit(o, 1,
             (~reg >> 3 & 1) << 7 | 0x40 | (~(unsigned)f->s >> 3 & 1) << 5 | (~reg >> 4 & 1) << 4 |
                 1);
        emit(o, 2, 0x087c | ll << 13);
    } else {
        emit(o, 1, 0xc4);
        emit(o, 1, (~reg >> 3 & 1) << 7 | 0x40 | (~(unsigned)f->s >> 3 & 1) << 5 | 1);
        emit(o, 1, width == 16 ? 0x78 : 0x7c);
    }
    emit(o, 1, opcode);
    emit_mem(o, reg, f->s, disp);
}

/* kmovq; opcode 90 loads, 91 stores. */
static void emit_kmov(struct code *o, const struct form *f, unsigned opcode, unsigned reg)
{
    emit(o, 1, 0xc4);
    emit(o, 1, 0xc1 | (~(unsigned)f->s >> 3 & 1) << 5);
    emit(o, 1, 0xf8);
    emit(o, 1, opcode);
    emit_mem(o, reg, f->s, offsetof(struct interp, s.fpu.k) + reg * 8);
}

static const uint8_t callee_saved[] = {REG_RBX, REG_RBP, 12, 13, 14, 15};

static void emit_enter(struct code *o, const struct form *f)
{
    for (unsigned k = 0; k < ARRAY_LEN(callee_saved); k++)
        if (f->gpr_used & R(callee_saved[k])) {
            if (callee_saved[k] >= 8)
                emit(o, 1, 0x41);
            emit(o, 1, 0x50 | (callee_saved[k] & 7));
        }
    if (f->rsp == REG_RBX || f->m == REG_RBX || f->s == REG_RBX)
        emit(o, 1, 0x53);
    if (f->s != RDI)
        emit_mov_rr(o, f->s, RDI);
    if (f->mxcsr || f->x87) {
        emit(o, 4, 0x10ec8348); /* sub rsp, 16 */
        emit(o, 4, HOST_STMXCSR);
    }
    if (f->x87) {
        emit(o, 4, HOST_FNSTCW);
        emit_mov(o, 0x8b, REG_RAX, f->s, offsetof(struct interp, thunks));
        emit_0fae(o, 1, 1, REG_RAX, offsetof(struct thunks, fx)); /* MXCSR included */
    } else if (f->mxcsr) {
        emit(o, 3, 0x24048b); /* mov eax, [rsp] */
        emit(o, 1, rex(0, 0, f->s));
        emit(o, 1, 0x3b); /* cmp eax, guest's */
        emit_mem(o, REG_RAX, f->s, offsetof(struct interp, s.fpu.mxcsr));
        emit(o, 2, 0x0874); /* je over LDMXCSR, which is 8 bytes */
        emit_0fae(o, 2, 0, f->s, offsetof(struct interp, s.fpu.mxcsr));
    }
}

static void emit_load(struct code *o, const struct form *f)
{
    for (unsigned r = 0; r < 32; r++)
        if (f->vec_load[r])
            emit_vector(o, f, 0x10, r, f->vec_load[r]);
    for (unsigned r = 0; r < 8; r++)
        if (f->k_load & R(r))
            emit_kmov(o, f, 0x90, r);
    if (f->flags) {
        emit(o, 1, rex(0, 0, f->s));
        emit(o, 2, 0xb70f); /* movzx eax, word [aflags] */
        emit_mem(o, REG_RAX, f->s, offsetof(struct interp, aflags));
        emit(o, 3, 0x9e7f04); /* add al, 7fh: OF; sahf */
    }
    if (f->m != R_NONE && f->m != RSI)
        emit_mov_rr(o, f->m, RSI);
    for (unsigned r = 0; r < 16; r++)
        if (f->gpr_load & R(r))
            emit_mov(o, 0x8b, r == RSP ? f->rsp : r, f->s, offsetof(struct interp, s.gpr) + r * 8);
}

static void emit_store(struct code *o, const struct form *f)
{
    for (unsigned r = 0; r < 16; r++)
        if (f->gpr_store & R(r))
            emit_mov(o, 0x89, r == RSP ? f->rsp : r, f->s, offsetof(struct interp, s.gpr) + r * 8);
    if (f->flags) {
        emit(o, 4, 0xc0900f9f); /* lahf; seto al */
        emit(o, 1, 0x66);
        emit(o, 1, rex(0, 0, f->s));
        emit(o, 1, 0x89); /* mov [aflags], ax */
        emit_mem(o, REG_RAX, f->s, offsetof(struct interp, aflags));
    }
    for (unsigned r = 0; r < 8; r++)
        if (f->k_store & R(r))
            emit_kmov(o, f, 0x91, r);
    /* VEX and EVEX clear the rest of the register. */
    for (unsigned r = 0; r < 32; r++)
        if (f->vec_store >> r & 1)
            emit_vector(o, f, 0x11, r, !f->vex ? 16 : f->wide ? 64 : 32);
    if (f->mxcsr)
        emit_0fae(o, 3, 0, f->s, offsetof(struct interp, s.fpu.mxcsr));
    if (f->x87) {
        emit_mov(o, 0x8b, REG_RAX, f->s, offsetof(struct interp, thunks));
        emit_0fae(o, 0, 1, REG_RAX, offsetof(struct thunks, fx));
    }
}

/* With an x87 image: is its MXCSR the guest's? Else it is what the host has (x87_run). */
static bool changes_mxcsr(const struct form *f)
{
    return f->mxcsr || thunk_is_area(f->zi);
}

/*
 * Changing MXCSR costs a hundred cycles and more, reading it nothing. So the host's is not touched
 * where the guest's says the same; and its exception flags, which no C code looks at, stay as the
 * guest left them, so that they say the same the next time.
 */
static void emit_leave(struct code *o, const struct form *f)
{
    if (f->x87) {
        emit(o, 2, 0xe3db); /* fninit */
        emit(o, 4, HOST_FLDCW);
    }
    if (f->x87 && changes_mxcsr(f)) {
        emit(o, 4, HOST_LDMXCSR);
    } else if (f->mxcsr) {
        emit(o, 1, rex(0, RCX, f->s));
        emit(o, 1, 0x8b); /* mov ecx, guest's */
        emit_mem(o, RCX, f->s, offsetof(struct interp, s.fpu.mxcsr));
        emit(o, 3, 0x240c33); /* xor ecx, [rsp] */
        emit(o, 3, 0xc0e183); /* and ecx, ~3fh */
        emit(o, 2, 0x0474);   /* jz over LDMXCSR */
        emit(o, 4, HOST_LDMXCSR);
    }
    if (f->mxcsr || f->x87)
        emit(o, 4, 0x10c48348); /* add rsp, 16 */
    if (f->upper) {
        emit(o, 1, rex(0, 0, f->s));
        emit(o, 1, 0xc6); /* mov byte [upper], 1 */
        emit_mem(o, 0, f->s, offsetof(struct interp, upper));
        emit(o, 1, 1);
        emit(o, 3, 0x77f8c5); /* vzeroupper */
    }
    if (f->rsp == REG_RBX || f->m == REG_RBX || f->s == REG_RBX)
        emit(o, 1, 0x5b);
    for (unsigned k = ARRAY_LEN(callee_saved); k-- > 0;)
        if (f->gpr_used & R(callee_saved[k])) {
            if (callee_saved[k] >= 8)
                emit(o, 1, 0x41);
            emit(o, 1, 0x58 | (callee_saved[k] & 7));
        }
    emit(o, 1, 0xc3);
}

/* ---- the memory operand -------------------------------------------------------------------------
 */

static unsigned broadcast_count(ZydisBroadcastMode mode)
{
    switch (mode) {
    case ZYDIS_BROADCAST_MODE_1_TO_2:
        return 2;
    case ZYDIS_BROADCAST_MODE_1_TO_4:
        return 4;
    case ZYDIS_BROADCAST_MODE_1_TO_8:
        return 8;
    case ZYDIS_BROADCAST_MODE_1_TO_16:
        return 16;
    case ZYDIS_BROADCAST_MODE_1_TO_32:
        return 32;
    case ZYDIS_BROADCAST_MODE_1_TO_64:
        return 64;
    default:
        return 0;
    }
}

static void describe_evex_mask(const struct form *f, struct thunk *t)
{
    const ZydisDecodedInstruction *zi = f->zi;
    const ZydisDecodedOperand *mem = &f->ops[f->mem], *dst = &f->ops[0];
    unsigned es = mem->element_size / 8u;

    /* Where both sides are as long, the wider element is the one that is masked (VPDPBUSD,
     * VPMULDQ). */
    if (dst->type == ZYDIS_OPERAND_TYPE_REGISTER && dst->size == mem->size &&
        dst->element_size / 8u > es)
        es = dst->element_size / 8u;
    if (!es || t->span % es || t->span / es > 64)
        es = t->span;
    t->mask = MASK_K;
    t->mask_reg = (uint8_t)(zi->avx.mask.reg - ZYDIS_REGISTER_K0) & 7;
    t->esize = (uint8_t)es;
    t->mem_n = (uint8_t)(t->span / es);
    t->mask_n = t->mem_n;
    if (zi->avx.broadcast.mode)
        t->mask_n = (uint8_t)(zi->avx.broadcast.is_static || dst->size == zi->avx.vector_length
                                  ? dst->element_count
                                  : broadcast_count(zi->avx.broadcast.mode));
    if (zi->meta.category == ZYDIS_CATEGORY_COMPRESS || zi->meta.category == ZYDIS_CATEGORY_EXPAND)
        t->mask = MASK_K_PACK;
    if (!suppresses_faults(zi) || !moves_elements(zi))
        t->flags |= THUNK_WHOLE;
    if (!suppresses_faults(zi))
        t->flags |= THUNK_NO_SUPPRESS;
}

static bool describe_memory(const struct form *f, struct thunk *t)
{
    const ZydisDecodedInstruction *zi = f->zi;
    const ZydisDecodedOperand *mem = &f->ops[f->mem];
    unsigned span = mem->size / 8u;

    if (thunk_is_area(zi)) {
        t->flags |= THUNK_AREA;
        return true;
    }
    if (!span || span > 64)
        return false;
    t->span = (uint8_t)span;
    if (mem->actions & ACT_READ)
        t->flags |= THUNK_LOADS;
    if (mem->actions & ACT_WRITE)
        t->flags |= THUNK_STORES;
    if (is_maskmov(zi)) {
        t->mask = MASK_BYTES;
        t->mask_reg = (uint8_t)ZydisRegisterGetId(f->ops[1].reg.value) & 31;
        t->esize = 1;
        t->mem_n = t->mask_n = t->span;
        t->flags &= (uint16_t)~THUNK_LOADS;
        t->flags |= THUNK_NO_SUPPRESS;
        return true;
    }
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        t->mask = MASK_VSIGN;
        t->mask_reg = (uint8_t)ZydisRegisterGetId(f->ops[1].reg.value) & 31;
        t->esize =
            zi->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || zi->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD
                ? 4
                : 8;
        t->mem_n = t->mask_n = (uint8_t)(span / t->esize);
        if (t->flags & THUNK_STORES)
            t->flags &= ~THUNK_LOADS;
        return true;
    default:
        break;
    }
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && zi->avx.mask.reg > ZYDIS_REGISTER_K0 &&
        zi->avx.mask.reg <= ZYDIS_REGISTER_K7) {
        describe_evex_mask(f, t);
        if (t->flags & THUNK_STORES)
            t->flags &= ~THUNK_LOADS;
    }
    return true;
}

/* ---- the cache of forms -------------------------------------------------------------------------
 */

static uint32_t hash_key(const uint8_t *key, unsigned len)
{
    uint32_t h = 2166136261u;

    for (unsigned k = 0; k < len; k++)
        h = (h ^ key[k]) * 16777619u;
    return h % THUNKS_HASH;
}

/*
 * The re-encoded bytes and what stands for rsp say everything but this: in 32- and 16-bit code the
 * same bytes come from one original only, as in 64-bit code, since normalisation keeps the meaning.
 */
static unsigned make_key(const struct form *f, uint8_t key[18])
{
    memcpy(key, f->insn, f->insn_len);
    key[f->insn_len] = f->rsp;
    key[f->insn_len + 1] = (uint8_t)((f->mem >= 0) | f->ac << 1);
    return f->insn_len + 2;
}

/* Sets or clears RFLAGS.AC; all other flags stay. */
static void emit_ac(struct code *o, bool on)
{
    emit(o, 1, 0x9c); /* pushfq */
    if (on)
        emit(o, 7, 0x00040000240c81); /* or dword [rsp], AC */
    else
        emit(o, 7, 0xfffbffff242481); /* and dword [rsp], ~AC */
    emit(o, 1, 0x9d);                 /* popfq */
}

static bool has_key(const struct thunk *t, const uint8_t *key, unsigned len)
{
    return t->key_len == len && !memcmp(t->key, key, len);
}

static void describe_x87(const struct form *f, struct thunk *t)
{
    if (!f->x87)
        return;
    t->flags |= THUNK_X87;
    if (changes_mxcsr(f))
        t->flags |= THUNK_MXCSR;
    if (waits_for_x87(f->zi))
        t->flags |= THUNK_WAITS;
    if (!is_x87_proper(f->zi))
        return;
    t->flags |= THUNK_POINTERS;
    if (t->flags & THUNK_STORES)
        t->flags |= THUNK_X87_STORE;
    t->fop = (uint16_t)((f->zi->opcode & 7u) << 8 | modrm_byte(f));
}

static void generate(struct form *f, struct code *o, unsigned *at, unsigned *fault)
{
    unsigned out, jump;

    emit_enter(o, f);
    emit_load(o, f);
    if (f->ac)
        emit_ac(o, true);
    *at = o->n;
    memcpy(o->b + o->n, f->insn, f->insn_len);
    o->n += f->insn_len;
    if (f->ac)
        emit_ac(o, false);
    emit_store(o, f);
    emit(o, 2, 0xc031); /* xor eax, eax */
    out = o->n;
    emit_leave(o, f);
    *fault = o->n;
    if (f->mxcsr)
        emit_0fae(o, 3, 0, f->s, offsetof(struct interp, s.fpu.mxcsr));
    if (f->x87) { /* MMX instructions change TOP and tags before they fault */
        emit_mov(o, 0x8b, RCX, f->s, offsetof(struct interp, thunks));
        emit_0fae(o, 0, 1, RCX, offsetof(struct thunks, fx));
    }
    jump = out - (o->n + 5);
    emit(o, 1, 0xe9);
    emit(o, 4, jump);
}

bool thunk_build(struct interp *c, const ZydisDecodedInstruction *zi,
                 const ZydisDecodedOperand *ops, const uint8_t *bytes, bool ac,
                 const struct thunk **out)
{
    struct thunks *ts = c->thunks;
    struct form f = {.zi = zi, .ops = ops, .bytes = bytes, .ac = ac};
    struct code o = {.n = 0};
    struct thunk *t;
    const uint8_t *base;
    uint8_t key[18] = {0};
    unsigned key_len, at, fault;
    uint32_t slot;

    f.code64 = zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
    f.wide = ts->wide;
    if (!analyse(&f) || !encode(&f))
        return false;
    f.mxcsr |= f.mem >= 0 && misalign_matters(c->vcpu->model, zi);
    key_len = make_key(&f, key);
    slot = hash_key(key, key_len);
    for (uint32_t n = ac ? 0 : ts->hash[slot]; n; n = ts->table[n - 1].next)
        if (has_key(&ts->table[n - 1], key, key_len)) {
            *out = &ts->table[n - 1];
            return true;
        }
    if (ac && has_key(&ts->ac, key, key_len)) {
        *out = &ts->ac;
        return true;
    }
    *out = NULL;
    if (!ac && ts->count == THUNKS_MAX)
        return true;
    t = ac ? &ts->ac : &ts->table[ts->count];
    memset(t, 0, sizeof(*t));
    if (f.mem >= 0 && !describe_memory(&f, t))
        return false;
    generate(&f, &o, &at, &fault);
    base = ac ? hostcode_scratch(&ts->code, o.b, o.n) : hostcode_add(&ts->code, o.b, o.n);
    if (!base)
        return true;
    t->fn.entry = (uint64_t(*)(void *, void *))(uintptr_t)base;
    t->fn.at = base + at;
    t->fn.fault = base + fault;
    memcpy(t->key, key, key_len);
    t->key_len = (uint8_t)key_len;
    describe_x87(&f, t);
    *out = t;
    if (ac)
        return true;
    t->next = ts->hash[slot];
    ts->hash[slot] = ++ts->count;
    return true;
}
