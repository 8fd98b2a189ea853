/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, LOCKed or not: one host instruction on the guest's memory. They
 * write their memory operand in every case, so it must be writable in every case (SDM vol. 2 "CMPXCHG").
 */
#include "engine/interp/int.h"

/* ---- XADD --------------------------------------------------------------------------------------------- */

#define XADD_OP(z, unused)                                                                         \
    static void xadd_r_##z(struct interp *c, const struct insn *i)                                 \
    {                                                                                              \
        TYPE_##z a = GET_##z(i->rm), b = GET_##z(i->reg);                                          \
        uint32_t f;                                                                                \
                                                                                                   \
        __asm__("xadd" #z " %1,%0" FLAGS_SAVE : "+&r"(a), "+&r"(b), "=&a"(f) : : "cc");            \
        /* With one register as both operands the sum is what remains. */                          \
        SET_##z(i->reg, b);                                                                        \
        SET_##z(i->rm, a);                                                                         \
        c->aflags = f;                                                                             \
        NEXT(c, i);                                                                                \
    }                                                                                              \
    static __attribute__((noinline)) void xadd_mem_##z(struct interp *c, const struct insn *i)     \
    {                                                                                              \
        TYPE_##z b = GET_##z(i->reg);                                                              \
        bool lock = i->flags & INSN_LOCK;                                                          \
        struct rmw m;                                                                              \
        uint32_t f;                                                                                \
                                                                                                   \
        BEGIN(c, i);                                                                               \
        rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z, lock);                 \
        __asm__ volatile("lock xadd" #z " %0,%1" FLAGS_SAVE                                        \
                         : "+&r"(b), "+m"(*(TYPE_##z *)m.p), "=&a"(f)                              \
                         :                                                                         \
                         : "cc", "memory");                                                        \
        rmw_close(c, &m);                                                                          \
        SET_##z(i->reg, b);                                                                        \
        c->aflags = f;                                                                             \
    }                                                                                              \
    static void xadd_m_##z(struct interp *c, const struct insn *i)                                 \
    {                                                                                              \
        xadd_mem_##z(c, i);                                                                        \
        NEXT(c, i);                                                                                \
    }
EACH_SIZE(XADD_OP, )

static bool prep_two(struct decode *d, insn_fn *const r[4], insn_fn *const m[4])
{
    struct insn *out = d->out;
    unsigned z = size_index(d->ops[0].size / 8);

    out->reg = decode_gpr(d->ops[1].reg.value);
    if (out->flags & INSN_MEM) {
        out->fn = m[z];
    } else {
        out->rm = decode_gpr(d->ops[0].reg.value);
        out->fn = r[z];
    }
    return true;
}

bool prep_xadd(struct decode *d)
{
    static insn_fn *const r[4] = OF_SIZES(xadd_r), *const m[4] = OF_SIZES(xadd_m);

    return prep_two(d, r, m);
}

/* ---- CMPXCHG --------------------------------------------------------------------------------------------- */

/*
 * Equal: rm <- reg and the accumulator stays, whole. Else the accumulator <- rm. In the 32-bit register
 * form the destination is written, and so its upper half cleared, in both cases.
 */
#define CMPXCHG_OP(z, unused)                                                                      \
    static inline TYPE_##z cmpxchg_fn_##z(TYPE_##z acc, TYPE_##z *dst, TYPE_##z src,               \
                                          uint32_t *flags)                                         \
    {                                                                                              \
        uint64_t a = acc;                                                                          \
        TYPE_##z old;                                                                              \
                                                                                                   \
        __asm__ volatile("lock cmpxchg" #z " %[src],%[dst]\n\tmov %%rax,%q[old]" FLAGS_SAVE        \
                         : "+a"(a), [old] "=&r"(old), [dst] "+m"(*dst)                             \
                         : [src] "r"(src)                                                          \
                         : "cc", "memory");                                                        \
        *flags = (uint32_t)a;                                                                      \
        return old;                                                                                \
    }                                                                                              \
    static __attribute__((noinline)) void cmpxchg_##z(struct interp *c, const struct insn *i)      \
    {                                                                                              \
        TYPE_##z acc = GET_##z(REG_RAX), src = GET_##z(i->reg), old;                               \
        uint32_t f;                                                                                \
        struct rmw m;                                                                              \
        TYPE_##z v;                                                                                \
                                                                                                   \
        BEGIN(c, i);                                                                               \
        if (i->flags & INSN_MEM) {                                                                 \
            rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z,                    \
                     i->flags & INSN_LOCK);                                                        \
            old = cmpxchg_fn_##z(acc, m.p, src, &f);                                               \
            rmw_close(c, &m);                                                                      \
        } else {                                                                                   \
            v = GET_##z(i->rm);                                                                    \
            old = cmpxchg_fn_##z(acc, &v, src, &f);                                                \
            SET_##z(i->rm, v);                                                                     \
        }                                                                                          \
        if (!(f & AF_ZF))                                                                          \
            SET_##z(REG_RAX, old);                                                                 \
        c->aflags = f;                                                                             \
    }                                                                                              \
    static void op_cmpxchg_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                              \
        cmpxchg_##z(c, i);                                                                         \
        NEXT(c, i);                                                                                \
    }
EACH_SIZE(CMPXCHG_OP, )

bool prep_cmpxchg(struct decode *d)
{
    static insn_fn *const table[4] = OF_SIZES(op_cmpxchg);

    return prep_two(d, table, table);
}

/* ---- CMPXCHG8B, CMPXCHG16B -------------------------------------------------------------------------------- */

static __attribute__((noinline)) void cmpxchg_wide(struct interp *c, const struct insn *i)
{
    unsigned half = i->aux ? 8 : 4;
    uint64_t lo = reg_get(c, REG_RAX, half), hi = reg_get(c, REG_RDX, half);
    uint64_t new_lo = reg_get(c, REG_RBX, half), new_hi = reg_get(c, REG_RCX, half);
    struct rmw m;
    bool equal;
    gva_t a;

    BEGIN(c, i);
    a = insn_lin(c, i, 2 * half, ACCESS_WRITE);
    if (i->aux && (a & 15))
        interp_raise_err(c, VEC_GP, 0);
    rmw_open(c, &m, a, 2 * half, i->flags & INSN_LOCK);
    if (i->aux)
        __asm__ volatile("lock cmpxchg16b %1"
                         : "=@ccz"(equal), "+m"(*(char(*)[16])m.p), "+a"(lo), "+d"(hi)
                         : "b"(new_lo), "c"(new_hi)
                         : "memory");
    else
        __asm__ volatile("lock cmpxchg8b %1"
                         : "=@ccz"(equal), "+m"(*(char(*)[8])m.p), "+a"(lo), "+d"(hi)
                         : "b"(new_lo), "c"(new_hi)
                         : "memory");
    rmw_close(c, &m);
    if (equal) {
        c->aflags |= AF_ZF;
    } else {
        c->aflags &= ~AF_ZF;
        reg_set(c, REG_RAX, half, lo);
        reg_set(c, REG_RDX, half, hi);
    }
}

static void op_cmpxchg_wide(struct interp *c, const struct insn *i)
{
    cmpxchg_wide(c, i);
    NEXT(c, i);
}

bool prep_cmpxchg8b(struct decode *d)
{
    d->out->aux = d->row->arg;
    d->out->fn = op_cmpxchg_wide;
    return true;
}
