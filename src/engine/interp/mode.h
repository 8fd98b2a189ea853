/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bits of interp.mode: everything outside the instruction bytes that decides what they mean or
 * whether a decoded handler is the right one. interp_mode_changed() computes them; the block cache
 * has them in its key; the decoder reads them. What a set bit says is stated as a fact about the
 * guest, so that a test of one bit is a decision: "MODE_AVX: AVX instructions do not raise #UD".
 */
#ifndef ENGINE_INTERP_MODE_H
#define ENGINE_INTERP_MODE_H

#include "base/types.h"
#include "cpu/cpu_state.h"

/* Code size: default operand and address size of CS. */
#define MODE_CODE   3ull
#define MODE_CODE16 0ull
#define MODE_CODE32 1ull
#define MODE_CODE64 2ull

#define MODE_SS32 BIT(2) /* SS.B: 32-bit stack pointer; clear in 64-bit code */
/* Bit MODE_FLAT_SHIFT + SEG_*: interp.flat; all clear in 64-bit code, which has no segment checks.
 */
#define MODE_FLAT_SHIFT 3
#define MODE_FLAT       (0x3full << MODE_FLAT_SHIFT)
#define MODE_CPL_SHIFT  9
#define MODE_CPL        (3ull << MODE_CPL_SHIFT)
#define MODE_REAL       BIT(11) /* CR0.PE clear */
#define MODE_V86        BIT(12)
#define MODE_LMA        BIT(13) /* EFER.LMA: with MODE_CODE16 or MODE_CODE32, compatibility mode */

#define MODE_TS         BIT(14) /* CR0 */
#define MODE_EM         BIT(15)
#define MODE_MP         BIT(16)
#define MODE_NE         BIT(17)
#define MODE_OSFXSR     BIT(18) /* CR4 */
#define MODE_OSXMMEXCPT BIT(19)
#define MODE_OSXSAVE    BIT(20)
#define MODE_AVX        BIT(21) /* OSXSAVE and XCR0 has SSE and AVX */
#define MODE_AVX512     BIT(22) /* MODE_AVX and XCR0 has the three AVX-512 components */
#define MODE_TSD        BIT(23)
#define MODE_UMIP       BIT(24)
#define MODE_FSGSBASE   BIT(25)
#define MODE_IOPL_SHIFT 26
#define MODE_IOPL       (3ull << MODE_IOPL_SHIFT)
/*
 * One instruction per block: TF is set, or DR7 arms a breakpoint (an instruction breakpoint is
 * looked for before each block; a data breakpoint hit stands in s.pending_dbg after it).
 */
#define MODE_TF          BIT(28)
#define MODE_BREAKPOINTS BIT(29)
#define MODE_STEP        (MODE_TF | MODE_BREAKPOINTS)
#define MODE_VME         BIT(30) /* CR4 */
#define MODE_PVI         BIT(31)
#define MODE_DE          BIT(32)
#define MODE_PCE         BIT(33)
#define MODE_SCE         BIT(34) /* EFER */
#define MODE_FFXSR       BIT(35)
/* CS is not base 0 with a 4 GiB limit: each block has its limit and linear address to look at. */
#define MODE_CS_SEGMENTED BIT(36)

#define MODE_BITS 37

static inline unsigned mode_cpl(uint64_t mode)
{
    return (mode & MODE_CPL) >> MODE_CPL_SHIFT;
}

static inline unsigned mode_iopl(uint64_t mode)
{
    return (mode & MODE_IOPL) >> MODE_IOPL_SHIFT;
}

/* Bytes of the default operand size before prefixes: 2, or 4 (64-bit code has 4 as well). */
static inline unsigned mode_osize(uint64_t mode)
{
    return (mode & MODE_CODE) == MODE_CODE16 ? 2 : 4;
}

static inline unsigned mode_asize(uint64_t mode)
{
    return 2u << (mode & MODE_CODE);
}

/*
 * Low 12 bits of a TLB tag: an address-space number above two bits of privilege. Numbers start at
 * 1, so that a zeroed TLB matches nothing. Implicit supervisor accesses (key_sys) never profit from
 * RFLAGS.AC, which makes them the same as explicit ones without AC: they share KEY_SUPERVISOR.
 */
#define KEY_MODE          3ull
#define KEY_USER          0ull
#define KEY_SUPERVISOR    1ull
#define KEY_SUPERVISOR_AC 2ull /* SMAP suspended by RFLAGS.AC */
#define KEY_USER_ALIGNED \
    3ull /* CPL 3 with AM and AC: data is never tagged, so that all is checked */
#define KEY_ASID_SHIFT 2
#define KEY_ASIDS      1024u

#endif
