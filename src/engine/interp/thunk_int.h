/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by thunk.c (when and on what thunks run), thunk_gen.c (what they are) and vec.c. */
#ifndef ENGINE_INTERP_THUNK_INT_H
#define ENGINE_INTERP_THUNK_INT_H

#include "engine/interp/hostcode.h"
#include "engine/interp/thunk.h"

/* Which elements of the memory operand an instruction touches. */
enum thunk_mask {
    MASK_NONE,   /* all of it */
    MASK_K,      /* element j % mem_n for each set bit j < mask_n of k[mask_reg] */
    MASK_K_PACK, /* as many as there are set bits: compress and expand */
    MASK_VSIGN,  /* sign bits of the elements of a vector register: VMASKMOV, VPMASKMOV */
    MASK_BYTES,  /* sign bits of bytes: MASKMOVQ (of an MMX register), MASKMOVDQU */
};

#define THUNK_X87         BIT(0) /* runs on the x87 or MMX state */
#define THUNK_WAITS       BIT(1) /* raises a pending x87 exception first */
#define THUNK_POINTERS    BIT(2) /* an x87 instruction proper: FIP, FDP, FOP may change */
#define THUNK_X87_STORE   BIT(3) /* an unmasked exception keeps the memory operand as it was */
#define THUNK_LOADS       BIT(4)
#define THUNK_STORES      BIT(5)
#define THUNK_WHOLE       BIT(6) /* the mask chooses what is written, but all of the operand is read */
#define THUNK_NO_SUPPRESS BIT(7) /* the mask keeps elements, but not faults */
#define THUNK_MXCSR       BIT(9) /* with THUNK_X87: the image's MXCSR is the guest's */
#define THUNK_AREA        BIT(8) /* a state area: run only to find out about faults */

/* A form's host function and what its caller must know. */
struct thunk {
    struct hostcode_fn fn;
    uint32_t next; /* in the hash chain: index + 1 */
    uint8_t key[18];
    uint8_t key_len;
    uint16_t flags;
    uint8_t span; /* bytes of the whole memory operand; 0: none */
    uint8_t mask; /* enum thunk_mask */
    uint8_t mask_reg, mask_n, mem_n, esize;
    uint16_t fop; /* x87: what the host's FOP is after the instruction */
};

#define THUNKS_MAX  8192
#define THUNKS_HASH 4096

struct thunks {
    /* FXSAVE64 image that x87 and MMX thunks run on; the vector half is scratch. */
    _Alignas(64) uint8_t fx[512];
    /* Stand-in for a memory operand that cannot be accessed directly: same address modulo 64. */
    _Alignas(64) uint8_t staging[192];
    struct hostcode code;
    /* The host has AVX-512; FCS and FDS are always 0. */
    bool wide, no_fcs;
    uint32_t count;
    uint32_t hash[THUNKS_HASH]; /* index + 1 */
    struct thunk ac;            /* the last one with alignment checks */
    struct thunk table[THUNKS_MAX];
};

/*
 * The thunk of this form, generated if need be. False: no host function can be made of it (#UD).
 * *out is NULL when the buffer is full. With `ac` the instruction runs under the host's alignment
 * checks; such a thunk is good until the next one is asked for.
 */
bool thunk_build(struct interp *c, const ZydisDecodedInstruction *zi,
                 const ZydisDecodedOperand *ops, const uint8_t *bytes, bool ac,
                 const struct thunk **out);
/* out->fn when the buffer was full: makes room and comes back to the same instruction. */
insn_fn op_thunks_full;
insn_fn op_thunk_nm; /* #NM */
/* Is the state that the instruction works on enabled? (The feature is decode.c's to check.) */
bool thunk_offered(const struct interp *c, const ZydisDecodedInstruction *zi,
                   const ZydisDecodedOperand *ops);
/* Uses vector or mask registers or MXCSR: #NM with CR0.TS alone. */
bool thunk_uses_vectors(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);
bool thunk_is_x87(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);
/* FNSTENV to XRSTOR: the memory operand is a state area (vec.c). */
bool thunk_is_area(const ZydisDecodedInstruction *zi);
/* Index of the ModRM or implicit memory operand, or -1. */
int thunk_mem_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);

/* vec.c: takes the instruction if it is one of its own. *ok: false is #UD. */
bool vec_prepare(struct interp *c, const ZydisDecodedInstruction *zi,
                 const ZydisDecodedOperand *ops, struct insn *out, bool *ok);

/*
 * Before a waiting instruction: raises the pending x87 exception, if any. False: FERR# is asserted
 * and the block has been left at this instruction, so return.
 */
bool thunk_x87_wait(struct interp *c);

_Noreturn void thunk_raise_trap(struct interp *c, uint64_t trap);
/*
 * A state area at lin that is misaligned, or of which part is inaccessible or outside of its
 * segment (from `inside` on): finds out from the host, with the same part of its own pages missing,
 * what that does, and raises it. Returns if all is well, if the instruction does not touch that
 * part, or if what it meets first is the end of the segment.
 */
void thunk_area_fault(struct interp *c, const struct insn *i, gva_t lin, unsigned len,
                      unsigned inside, unsigned align, enum access how);

/* With RFLAGS.AC: which of #AC and #GP it is. */
void thunk_area_misaligned(struct interp *c, const struct insn *i, gva_t lin);

#define TRAP_PF (VEC_PF + 1)

#define FSW_ES 0x0080
#define FSW_B  0x8000

#endif
