/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest bytes to struct insn (decode.h). Zydis decodes with the rules of the guest's mode and
 * vendor; insns.def says what exists; what is left for here is what neither says: the features of
 * an encoding, the forms that real mode refuses, and the operands in our own terms.
 */
#include "engine/interp/decode.h"

#include <string.h>

#include "engine/interp/int.h"
#include "engine/interp/mode.h"
#include "engine/interp/sys.h"
#include "engine/interp/thunk.h"

static const struct insn_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define INSN(mnemonic, prep, fn, arg, feature, shape, attrs) \
    [ZYDIS_MNEMONIC_##mnemonic] = {prep, fn, arg, feature, shape, attrs},
#include "engine/interp/insns.def"
#undef INSN
#undef THUNK
};

const struct insn_row *insn_row(unsigned mnemonic)
{
    return &rows[mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? mnemonic : 0];
}

/* ---- features ---- */

#define F1(a)       (FEAT_##a + 1)
#define F2(a, b)    (F1(a) | F1(b) << 8)
#define F3(a, b, c) (F2(a, b) | F1(c) << 16)
#define NEVER       UINT32_MAX

/* The features an ISA set stands for, one a byte plus 1; NEVER for what no model offers. */
static uint32_t isa_features(ZydisISASet set)
{
    switch (set) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_LONGMODE:
    case ZYDIS_ISA_SET_LAHF: /* in 64-bit mode LAHF_LM: see insn_available */
    case ZYDIS_ISA_SET_PAUSE:
        return 0;
    case ZYDIS_ISA_SET_PPRO: /* FCOMI and 0F 1F arrived with CMOV */
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_SSE_PREFETCH: /* 0F 18: a NOP before SSE */
    case ZYDIS_ISA_SET_CMOV:
        return F1(CMOV);
    case ZYDIS_ISA_SET_X87:
        return F1(FPU);
    case ZYDIS_ISA_SET_FCMOV:
        return F2(FPU, CMOV);
    case ZYDIS_ISA_SET_SSE3X87:
        return F2(FPU, SSE3);
    case ZYDIS_ISA_SET_PENTIUMMMX:
        return F1(MMX);
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSEMXCSR:
        return F1(SSE);
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
        return F1(SSE2);
    case ZYDIS_ISA_SET_SSE3:
        return F1(SSE3);
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
        return F1(SSSE3);
    case ZYDIS_ISA_SET_SSE4:
        return F1(SSE41);
    case ZYDIS_ISA_SET_SSE42:
        return F1(SSE42);
    case ZYDIS_ISA_SET_SSE4A:
        return F1(SSE4A);
    case ZYDIS_ISA_SET_MOVBE:
        return F1(MOVBE);
    case ZYDIS_ISA_SET_POPCNT:
        return F1(POPCNT);
    case ZYDIS_ISA_SET_LZCNT:
        return F1(LZCNT);
    case ZYDIS_ISA_SET_BMI1:
        return F1(BMI1);
    case ZYDIS_ISA_SET_BMI2:
        return F1(BMI2);
    case ZYDIS_ISA_SET_ADOX_ADCX:
        return F1(ADX);
    case ZYDIS_ISA_SET_AES:
        return F1(AES);
    case ZYDIS_ISA_SET_PCLMULQDQ:
        return F1(PCLMULQDQ);
    case ZYDIS_ISA_SET_SHA:
        return F1(SHA);
    case ZYDIS_ISA_SET_GFNI:
        return F1(GFNI);
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
        return F1(FXSR);
    case ZYDIS_ISA_SET_XSAVE:
        return F1(XSAVE);
    case ZYDIS_ISA_SET_AVX:
        return F1(AVX);
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER:
        return F1(AVX2);
    case ZYDIS_ISA_SET_F16C:
        return F2(AVX, F16C);
    case ZYDIS_ISA_SET_FMA:
        return F2(AVX, FMA);
    case ZYDIS_ISA_SET_AVXAES:
        return F2(AVX, AES);
    case ZYDIS_ISA_SET_AVX_GFNI:
        return F2(AVX, GFNI);
    case ZYDIS_ISA_SET_VAES:
        return F2(AVX, VAES);
    case ZYDIS_ISA_SET_VPCLMULQDQ:
        return F2(AVX, VPCLMULQDQ);
    case ZYDIS_ISA_SET_AVX512F_128N:
    case ZYDIS_ISA_SET_AVX512F_512:
    case ZYDIS_ISA_SET_AVX512F_KOP:
    case ZYDIS_ISA_SET_AVX512F_SCALAR:
        return F1(AVX512F);
    case ZYDIS_ISA_SET_AVX512F_128:
    case ZYDIS_ISA_SET_AVX512F_256:
        return F2(AVX512F, AVX512VL);
    case ZYDIS_ISA_SET_AVX512BW_128N:
    case ZYDIS_ISA_SET_AVX512BW_512:
    case ZYDIS_ISA_SET_AVX512BW_KOP:
        return F2(AVX512F, AVX512BW);
    case ZYDIS_ISA_SET_AVX512BW_128:
    case ZYDIS_ISA_SET_AVX512BW_256:
        return F3(AVX512F, AVX512VL, AVX512BW);
    case ZYDIS_ISA_SET_AVX512DQ_128N:
    case ZYDIS_ISA_SET_AVX512DQ_512:
    case ZYDIS_ISA_SET_AVX512DQ_KOP:
    case ZYDIS_ISA_SET_AVX512DQ_SCALAR:
        return F2(AVX512F, AVX512DQ);
    case ZYDIS_ISA_SET_AVX512DQ_128:
    case ZYDIS_ISA_SET_AVX512DQ_256:
        return F3(AVX512F, AVX512VL, AVX512DQ);
#define EVEX_SET(set, feat)                 \
    case ZYDIS_ISA_SET_AVX512##set##_128:   \
    case ZYDIS_ISA_SET_AVX512##set##_256:   \
        return F3(AVX512F, AVX512VL, feat); \
    case ZYDIS_ISA_SET_AVX512##set##_512:   \
        return F2(AVX512F, feat)
        EVEX_SET(CD, AVX512CD);
        EVEX_SET(_IFMA, AVX512IFMA);
        EVEX_SET(_VBMI, AVX512VBMI);
        EVEX_SET(_VBMI2, AVX512VBMI2);
        EVEX_SET(_VNNI, AVX512VNNI);
        EVEX_SET(_BITALG, AVX512BITALG);
        EVEX_SET(_VPOPCNTDQ, AVX512VPOPCNTDQ);
        EVEX_SET(_GFNI, GFNI);
        EVEX_SET(_VAES, VAES);
        EVEX_SET(_VPCLMULQDQ, VPCLMULQDQ);
#undef EVEX_SET
    default:
        return NEVER;
    }
}

bool insn_available(const struct cpu_model *model, const struct insn_row *row,
                    const ZydisDecodedInstruction *zi)
{
    uint32_t need;

    if (row->feature != ROW_ISA) {
        /* KNC has VEX forms of some of these. */
        if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
            return false;
        return row->feature == ROW_BASE || cpu_has(model, row->feature);
    }
    need = isa_features(zi->meta.isa_set);
    if (need == NEVER)
        return false;
    if (zi->meta.isa_set == ZYDIS_ISA_SET_LAHF && zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
        return cpu_has(model, FEAT_LAHF_LM);
    /* The 128-bit VEX form is the plain instruction with AVX. */
    if (zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ && zi->meta.isa_set == ZYDIS_ISA_SET_AVX)
        need = F2(AVX, PCLMULQDQ);
    for (; need; need >>= 8)
        if (!cpu_has(model, (need & 0xff) - 1))
            return false;
    return true;
}

/* ---- operands ---- */

uint8_t decode_gpr(ZydisRegister reg)
{
    if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
        return (uint8_t)(reg - ZYDIS_REGISTER_RAX);
    if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
        return (uint8_t)(reg - ZYDIS_REGISTER_EAX);
    if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
        return (uint8_t)(reg - ZYDIS_REGISTER_AX);
    if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL)
        return (uint8_t)(reg - ZYDIS_REGISTER_AL);
    if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
        return (uint8_t)(reg - ZYDIS_REGISTER_AH) | R_HIGH;
    if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B)
        return (uint8_t)(reg - ZYDIS_REGISTER_SPL + 4);
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP || reg == ZYDIS_REGISTER_IP)
        return R_RIP;
    return R_NONE;
}

static uint8_t decode_seg(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES:
        return SEG_ES;
    case ZYDIS_REGISTER_CS:
        return SEG_CS;
    case ZYDIS_REGISTER_SS:
        return SEG_SS;
    case ZYDIS_REGISTER_FS:
        return SEG_FS;
    case ZYDIS_REGISTER_GS:
        return SEG_GS;
    default:
        return SEG_DS;
    }
}

static void decode_mem(const ZydisDecodedOperand *op, struct insn *out)
{
    const ZydisDecodedOperandMem *m = &op->mem;

    out->flags |= INSN_MEM;
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
        out->flags |= INSN_LOADS;
    if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
        out->flags |= INSN_STORES;
    out->seg = decode_seg(m->segment);
    out->base = m->base == ZYDIS_REGISTER_NONE ? R_NONE : decode_gpr(m->base);
    out->index = m->index == ZYDIS_REGISTER_NONE ? R_NONE : decode_gpr(m->index);
    if (out->index == R_NONE)
        out->scale = 0;
    else
        out->scale = m->scale >= 8 ? 3 : m->scale >= 4 ? 2 : m->scale >= 2 ? 1 : 0;
    out->disp = m->disp.has_displacement ? m->disp.value : 0;
    out->msize = (uint8_t)(op->size / 8 <= 64 ? op->size / 8 : 0);
}

/*
 * Zydis 4.0 takes SIB.base 5 of ModRM.mod 0 (no base, a 32-bit displacement) for R13D where REX.B
 * is set and the address size is 32 bits.
 */
static void correct_base(const ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
    if ((zi->attributes & ZYDIS_ATTRIB_HAS_SIB) && zi->raw.modrm.mod == 0 &&
        zi->raw.sib.base == 5 && op->mem.base != ZYDIS_REGISTER_NONE) {
        op->mem.base = ZYDIS_REGISTER_NONE;
        op->mem.disp.has_displacement = ZYAN_TRUE;
        op->mem.disp.value = zi->raw.disp.value;
        if (op->mem.segment == ZYDIS_REGISTER_SS && zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
            op->mem.segment = ZYDIS_REGISTER_DS;
    }
}

static enum decode_result invalid(struct insn *out, insn_fn *fn)
{
    out->fn = fn;
    out->mnemonic = ZYDIS_MNEMONIC_INVALID;
    return DECODE_END;
}

bool prep_thunk(struct decode *d)
{
    return thunk_prepare(d->c, d->zi, d->ops, d->out);
}

/* ---- decoding ---- */

static void decoder_init(ZydisDecoder *z, const struct interp *c, const struct cpu_model *model)
{
    uint64_t code = c->mode & MODE_CODE;
    bool real = c->mode & (MODE_REAL | MODE_V86);

    if (code == MODE_CODE64)
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (code == MODE_CODE32) /* real mode too, with CS.D left over from protected mode */
        ZydisDecoderInit(z,
                         c->mode & MODE_LMA ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                                            : ZYDIS_MACHINE_MODE_LEGACY_32,
                         c->mode & MODE_SS32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
    else
        ZydisDecoderInit(z,
                         c->mode & MODE_LMA ? ZYDIS_MACHINE_MODE_LONG_COMPAT_16
                         : real             ? ZYDIS_MACHINE_MODE_REAL_16
                                            : ZYDIS_MACHINE_MODE_LEGACY_16,
                         c->mode & MODE_SS32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16);
    /* Encodings that are wide NOPs or plain instructions where the feature is absent. */
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    if (!cpu_has(model, FEAT_LZCNT))
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, ZYAN_FALSE);
    if (!cpu_has(model, FEAT_BMI1))
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, ZYAN_FALSE);
    if (model->vendor == CPU_AMD)
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
}

enum decode_result decode_insn(struct interp *c, const uint8_t *buf, unsigned have,
                               struct insn *out)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction zi;

    return decode_insn_full(c, buf, have, out, &zi, ops);
}

enum decode_result decode_insn_full(struct interp *c, const uint8_t *buf, unsigned have,
                                    struct insn *out, ZydisDecodedInstruction *zi,
                                    ZydisDecodedOperand *ops)
{
    const struct cpu_model *model = c->vcpu->model;
    ZydisDecoder z;
    struct decode d = {c, zi, ops, NULL, out};
    ZyanStatus status;

    memset(out, 0, sizeof(*out));
    out->base = out->index = R_NONE;
    out->len = (uint8_t)have;
    memcpy(out->bytes, buf, have);

    decoder_init(&z, c, model);
    status = ZydisDecoderDecodeFull(&z, buf, have, zi, ops);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && have < ZYDIS_MAX_INSTRUCTION_LENGTH)
        return DECODE_MORE;
    if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return invalid(out, op_gp0);
    if (!ZYAN_SUCCESS(status))
        return invalid(out, op_ud);

    d.row = insn_row(zi->mnemonic);
    out->len = zi->length;
    if (!d.row->prep || !insn_available(model, d.row, zi))
        return invalid(out, op_ud);
    if ((c->mode & (MODE_REAL | MODE_V86)) &&
        ((d.row->attrs & ROW_PM) || zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY))
        return invalid(out, op_ud);
    if ((zi->attributes & ZYDIS_ATTRIB_HAS_LOCK) &&
        (!(d.row->attrs & ROW_LOCK) || ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY))
        return invalid(out, op_ud);

    out->mnemonic = (uint16_t)zi->mnemonic;
    out->osize = (uint8_t)(zi->operand_width / 8);
    out->asize = (uint8_t)(zi->address_width / 8);
    out->seg = SEG_DS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        out->flags |= INSN_LOCK;
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        out->flags |= INSN_REP;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        out->flags |= INSN_REPNE;
    for (unsigned n = 0; n < zi->operand_count; n++) {
        if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            ops[n].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
            correct_base(zi, &ops[n]);
            decode_mem(&ops[n], out);
            break;
        }
    }
    if (!d.row->prep(&d))
        return invalid(out, op_ud);
    if (d.row->attrs & ROW_END)
        return DECODE_END;
    /* Forms of mixed rows that end their block. */
    if (out->fn == op_mov_to_cr || out->fn == op_mov_to_dr || out->fn == op_ud ||
        ((out->fn == op_mov_to_sreg || out->fn == op_pop_sreg) && out->reg == SEG_SS))
        return DECODE_END;
    return DECODE_NEXT;
}
