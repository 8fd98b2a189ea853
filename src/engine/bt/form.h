/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the translator must know of one guest instruction, and how it is written down again with
 * other registers and another memory operand.
 */
#ifndef ENGINE_BT_FORM_H
#define ENGINE_BT_FORM_H

#include <Zydis/Zydis.h>

#include "engine/bt/emit.h"
#include "engine/interp/decode.h"

enum form_class {
    FORM_SLOW,    /* the interpreter runs it; the block goes on */
    FORM_END,     /* the same, but nobody knows where it goes */
    FORM_NATIVE,  /* copied */
    FORM_NOTHING, /* NOP, PREFETCH */
    FORM_LEA,
    FORM_PUSH,
    FORM_POP,
    FORM_LEAVE,
    FORM_JCC,
    FORM_LOOP, /* LOOP and its family, JCXZ and its */
    FORM_JMP,
    FORM_CALL,
    FORM_JMP_INDIRECT,
    FORM_CALL_INDIRECT,
    FORM_RET,
    FORM_SYSTEM, /* system.c's */
};

struct form {
    struct insn in; /* the interpreter's view: its memory operand and register numbers */
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    enum form_class class;
    uint8_t mem_size; /* bytes of the memory operand of a copied instruction; 0: none */
    uint8_t stack;    /* bytes that PUSH, POP, CALL, RET, LEAVE, PUSHF, POPF move */
    /* Of the memory operand: its address is a register's value and a displacement, nothing else ...
     */
    bool simple;
    bool sreg_push, sreg_pop; /* PUSH and POP of a segment register */
    bool windowed;            /* ... that of rsp, and near */
    bool stack_windowed;      /* of what PUSH and its like do */
    bool mem_write;
    uint8_t high;    /* AH to DH beside memory: the register that has it, else R_NONE */
    bool masked;     /* some elements of the operand only: the others do not fault */
    bool vec;        /* works on vector registers */
    bool x87;        /* works on x87 or MMX registers */
    bool traps;      /* may fault by itself: #DE, #XM, #MF, a misaligned operand */
    uint8_t cc;      /* FORM_JCC */
    bool crosses;    /* into the next page: the last of its block */
    bool shadow;     /* no interrupt before the next instruction has run */
    bool poll_after; /* an interrupt may be due behind it */
    uint16_t off;    /* from the block's start */
    uint16_t stolen; /* guest registers that have no host register, among the data operands */
    uint16_t stolen_written, stolen_read;
    /* Arithmetic flags in RFLAGS positions. */
    uint16_t flags_read, flags_must, flags_may;
    uint16_t live_in, live_out;
};

#define FLAGS_ALL 0x8d5

/* Fills everything but `in`, `zi`, `ops` and `off` in. `end`: the interpreter's decoder ends here.
 */
void form_classify(struct form *f, const struct interp *c, bool end);

/* What form_classify said is not to be: the interpreter runs it (and the block ends). */
void form_is_slow(struct form *f);
void form_is_end(struct form *f);

/*
 * The instruction with the stolen registers named in `map` (by guest register number 14 and 15)
 * replaced, and its memory operand by `mem` (NULL: there is none). False: it cannot be encoded.
 */
bool form_emit(struct emit *e, const struct form *f, const uint8_t map[16], const struct rm *mem);

#endif
