/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native thunks: x87, MMX, SSE to AVX-512, BMI, AES, SHA and the like run on the host CPU, which so
 * is the reference for everything IEEE 754 leaves open. For each form of an instruction (its bytes
 * without segment and address-size prefixes and with the memory operand replaced by one free
 * register) a small host function is generated once: it loads the guest registers the instruction
 * uses, runs the instruction's own bytes, and stores the results.
 *
 * The state-area instructions (FNSTENV .. XRSTOR), gathers, scatters and VZERO* are C handlers of
 * vec.c, reached through thunk_prepare as well.
 */
#ifndef ENGINE_INTERP_THUNK_H
#define ENGINE_INTERP_THUNK_H

#include <Zydis/Zydis.h>

#include "engine/interp/interp.h"

/*
 * decode.c calls this for every row of insns.def of class THUNK. The generic fields of *out (off,
 * len, osize, asize, seg, base, index, scale, disp, msize, flags, mnemonic, bytes) are filled; sets
 * fn, thunk, aux, reg, rm and imm. `ops` holds all operands, hidden ones included. False: #UD (no
 * such feature in the model, OSFXSR, OSXSAVE, XCR0, EM...); where the answer is #NM, fn raises it.
 * Depends on CR0, CR4, XCR0 and the code segment's size, which the block key must cover. Never
 * changes anything already decoded.
 */
bool thunk_prepare(struct interp *c, const ZydisDecodedInstruction *zi,
                   const ZydisDecodedOperand *ops, struct insn *out);

/* XINUSE: the state components that are not in their initial configuration (XGETBV with ECX = 1).
 */
uint64_t vec_xinuse(const struct interp *c);

#endif
