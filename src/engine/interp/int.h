/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the integer instructions' files share: register and flag access for handlers that are made
 * per operand size, read-modify-write access, and the functions by which insns.def chooses a
 * handler.
 */
#ifndef ENGINE_INTERP_INT_H
#define ENGINE_INTERP_INT_H

#include <string.h>

#include "engine/interp/decode.h"
#include "engine/interp/interp.h"

/* A byte register by its number with R_HIGH. */
static inline uint8_t *reg8(struct interp *c, unsigned r)
{
    return (uint8_t *)c->s.gpr + (r & 15) * 8 + (r >> 7);
}

/*
 * 16-bit registers are written by merging in a whole register, so that a 64-bit read that follows
 * finds one store to forward from.
 */
static inline void reg16_set(struct interp *c, unsigned r, uint16_t v)
{
    c->s.gpr[r] = (c->s.gpr[r] & ~0xffffull) | v;
}

/* GET(r), SET(r, v) for the four size suffixes of the host's assembler. */
#define GET_b(r)    (*reg8(c, r))
#define GET_w(r)    ((uint16_t)c->s.gpr[r])
#define GET_l(r)    ((uint32_t)c->s.gpr[r])
#define GET_q(r)    (c->s.gpr[r])
#define SET_b(r, v) (*reg8(c, r) = (uint8_t)(v))
#define SET_w(r, v) reg16_set(c, r, (uint16_t)(v))
#define SET_l(r, v) (c->s.gpr[r] = (uint32_t)(v))
#define SET_q(r, v) (c->s.gpr[r] = (v))
#define BYTES_b     1
#define BYTES_w     2
#define BYTES_l     4
#define BYTES_q     8
#define TYPE_b      uint8_t
#define TYPE_w      uint16_t
#define TYPE_l      uint32_t
#define TYPE_q      uint64_t
#define STYPE_b     int8_t
#define STYPE_w     int16_t
#define STYPE_l     int32_t
#define STYPE_q     int64_t

#define EACH_SIZE(X, ...) X(b, __VA_ARGS__) X(w, __VA_ARGS__) X(l, __VA_ARGS__) X(q, __VA_ARGS__)
#define EACH_WLQ(X, ...)  X(w, __VA_ARGS__) X(l, __VA_ARGS__) X(q, __VA_ARGS__)
/* A table of the four (three) sizes of a handler. */
#define OF_SIZES(n)                \
    {                              \
        n##_b, n##_w, n##_l, n##_q \
    }
#define OF_WLQ(n)                 \
    {                             \
        NULL, n##_w, n##_l, n##_q \
    }

static inline unsigned size_index(unsigned bytes)
{
    return bytes >= 8 ? 3 : bytes >= 4 ? 2 : bytes >= 2 ? 1 : 0;
}

/*
 * Flags in assembly: the guest's arithmetic flags are in eax in aflags' layout. Loading: AL is 0 or
 * 1, and adding 127 to it overflows, and so sets OF, just for 1; SAHF loads the others.
 */
#define FLAGS_LOAD    "addb $127,%%al\n\tsahf\n\t"
#define FLAGS_LOAD_CF "btl $8,%%eax\n\t"
#define FLAGS_SAVE    "\n\tlahf\n\tseto %%al"

#define AF_CF 0x100u
#define AF_PF 0x400u
#define AF_AF 0x1000u
#define AF_ZF 0x4000u
#define AF_SF 0x8000u
#define AF_OF 1u

/* Condition code 0..15 of Jcc, SETcc and CMOVcc. */
static inline bool cond(uint32_t a, unsigned cc)
{
    bool v;

    switch (cc >> 1) {
    case 0:
        v = a & AF_OF;
        break;
    case 1:
        v = a & AF_CF;
        break;
    case 2:
        v = a & AF_ZF;
        break;
    case 3:
        v = a & (AF_CF | AF_ZF);
        break;
    case 4:
        v = a & AF_SF;
        break;
    case 5:
        v = a & AF_PF;
        break;
    case 6:
        v = (a ^ (a >> 15)) & 1;
        break;
    default:
        v = ((a ^ (a >> 15)) & 1) || (a & AF_ZF);
        break;
    }
    return v ^ (cc & 1);
}

#define EACH_COND(X, ...)                                                                          \
    X(0, __VA_ARGS__)                                                                              \
    X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__)      \
        X(6, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__) \
            X(11, __VA_ARGS__) X(12, __VA_ARGS__) X(13, __VA_ARGS__) X(14, __VA_ARGS__)            \
                X(15, __VA_ARGS__)

/* ---- read-modify-write (rmw.c) ----------------------------------------------------------------
 */

/*
 * Checks a write of `size` bytes at `lin` and gives the host address, or NULL where the access must
 * be made by access_load and access_store (which then do not fault).
 */
void *rmw_slow(struct interp *c, gva_t lin, unsigned size);

static hot_inline void *rmw_host(struct interp *c, gva_t lin, unsigned size)
{
    const struct tlb_entry *e = &c->tlb[TLB_SLOT(lin)];

    if (tlb_hit(c, e, lin, size, ACCESS_WRITE, c->key))
        return (void *)(uintptr_t)(lin + e->addend);
    return rmw_slow(c, lin, size);
}

/*
 * The same for one host instruction that works on memory, LOCKed or not: `p` is the guest's own
 * RAM, or `buf` holding a copy while no other vCPU runs (if `lock`).
 */
struct rmw {
    void *p;
    gva_t lin;
    unsigned size;
    bool exclusive;
    _Alignas(16) uint8_t buf[16];
};

void rmw_open(struct interp *c, struct rmw *m, gva_t lin, unsigned size, bool lock);
void rmw_close(struct interp *c, struct rmw *m);

/* ---- branches
 * ------------------------------------------------------------------------------------ */

/* Raises #GP(0) if a near branch may not go to `rip` (already cut to its operand size). */
void branch_check_slow(struct interp *c, uint64_t rip);

static inline void branch_check(struct interp *c, uint64_t rip)
{
    if (likely(c->code64)) {
        if (unlikely((rip + (1ull << 47)) >> 48))
            branch_check_slow(c, rip);
    } else if (unlikely(rip > c->s.seg[SEG_CS].limit)) {
        branch_check_slow(c, rip);
    }
}

/* ---- ports
 * ---------------------------------------------------------------------------------------- */

/* Raises #GP(0) unless CPL, IOPL and the TSS's bitmap let this code access the ports. */
void io_check(struct interp *c, uint16_t port, unsigned size);

/* ---- the rows' own functions -------------------------------------------------------------------
 */

insn_prep prep_fn;    /* the row's handler, as it stands */
insn_prep prep_thunk; /* thunk_prepare */
insn_prep prep_imm;   /* ... with imm = the immediate */
insn_prep prep_modrm; /* the row's handler, with reg = ModRM.reg (REX.R) and rm = GPR */

/* int.c */
insn_prep prep_alu, prep_test, prep_mov, prep_unary, prep_shift, prep_muldiv, prep_imul, prep_movx,
    prep_lea, prep_xchg, prep_setcc, prep_cmovcc, prep_convert, prep_nop, prep_movnti, prep_movbe,
    prep_bswap, prep_cacheline, prep_fence, prep_sysret, prep_sse_or_string;
/* bit.c */
insn_prep prep_bt, prep_scan, prep_shiftd;
/* atomic.c */
insn_prep prep_xadd, prep_cmpxchg, prep_cmpxchg8b;
/* stack.c */
insn_prep prep_push, prep_pop, prep_enter;
/* branch.c */
insn_prep prep_jcc, prep_jmp, prep_call, prep_ret, prep_loop;
/* string.c */
insn_prep prep_string, prep_xlat;
/* io.c */
insn_prep prep_in, prep_out;

insn_fn op_gp0; /* #GP(0) */
insn_fn op_nop;
insn_fn op_clc, op_stc, op_cmc, op_cld, op_std, op_lahf, op_sahf, op_salc;
insn_fn op_daa, op_das, op_aaa, op_aas, op_aam, op_aad, op_bound;
insn_fn op_pusha, op_popa, op_enter, op_leave;

#endif
