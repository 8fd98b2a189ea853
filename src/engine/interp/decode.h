/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decoder: guest bytes to struct insn. insns.def says what each mnemonic is; decode.c asks
 * Zydis, checks that the guest's model and mode have the instruction, fills in the fields that mean
 * the same for all instructions, and lets the row's own function choose the handler.
 */
#ifndef ENGINE_INTERP_DECODE_H
#define ENGINE_INTERP_DECODE_H

#include <Zydis/Zydis.h>

#include "cpu/model.h"
#include "engine/interp/interp.h"

/* How the memory operand is reached (ENGINE.md, "what may be copied"). */
enum insn_shape {
    SHAPE_NONE,     /* memory is never touched: register forms, LEA, NOP, PREFETCH */
    SHAPE_FLAT,     /* msize bytes at the effective address */
    SHAPE_BITS,     /* BT and its family: the register operand moves the address */
    SHAPE_STRING,   /* rSI and rDI */
    SHAPE_VSIB,     /* gather and scatter: an address for each element */
    SHAPE_MASKED,   /* elements chosen by a mask: the others do not fault */
    SHAPE_IMPLICIT, /* XLAT, MASKMOV, ENTER, stack, descriptor tables */
    SHAPE_TWO,      /* PUSH m, POP m: the operand and the stack */
    SHAPE_STATE,    /* FSAVE, FXSAVE, XSAVE...: the size is the state's */
};

#define ROW_LOCK 1 /* LOCK is allowed (Zydis refuses it on register forms) */
#define ROW_END  2 /* ends its block */
#define ROW_PM   4 /* #UD in real and virtual-8086 mode */

/* Values of insn_row.feature beside FEAT_*. */
#define ROW_BASE 0xfe /* every model has it */
#define ROW_ISA  0xff /* as Zydis' ISA set of this encoding says */

struct decode;
/* Chooses out->fn. False: this form is #UD. */
typedef bool insn_prep(struct decode *d);

struct insn_row {
    insn_prep *prep; /* NULL: no such row */
    insn_fn *fn;     /* handler, where one serves all forms */
    uint8_t arg;     /* prep's own: which of a family */
    uint8_t feature, shape, attrs;
};

struct decode {
    struct interp *c;
    const ZydisDecodedInstruction *zi;
    const ZydisDecodedOperand *ops;
    const struct insn_row *row;
    struct insn *out;
};

enum decode_result {
    DECODE_NEXT, /* the block may go on after this instruction */
    DECODE_END,  /* the instruction ends its block */
    DECODE_MORE, /* more bytes are needed than the `have` given */
};

/*
 * Decodes the instruction at buf, of which `have` bytes (1 to 15) are there, for c's present mode.
 * What is no instruction becomes one whose handler raises #UD; longer than 15 bytes, #GP. `off` of
 * the result is the caller's.
 */
/* The same, with what Zydis found: `ops` has room for ZYDIS_MAX_OPERAND_COUNT. */
enum decode_result decode_insn_full(struct interp *c, const uint8_t *buf, unsigned have,
                                    struct insn *out, ZydisDecodedInstruction *zi,
                                    ZydisDecodedOperand *ops);
enum decode_result decode_insn(struct interp *c, const uint8_t *buf, unsigned have,
                               struct insn *out);

/* The row of a mnemonic; its prep is NULL if there is none. */
const struct insn_row *insn_row(unsigned mnemonic);
/* True if the model has every feature that this encoding needs. */
bool insn_available(const struct cpu_model *model, const struct insn_row *row,
                    const ZydisDecodedInstruction *zi);

/* A GPR operand's number with R_HIGH; R_RIP for the instruction pointers; R_NONE for anything else.
 */
uint8_t decode_gpr(ZydisRegister reg);

#endif
