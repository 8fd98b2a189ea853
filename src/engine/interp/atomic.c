/* SPDX-License-Identifier: Apache-2.0 */
/*
 * XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, LOCKed or not: one host instruction on the guest's memory.
 * They write their memory operand in every case, so it must be writable in every case (SDM vol. 2
 * "CMPXCHG").
 */
#include "engine/interp/int.h"

/* ---- XADD ---- */

#define XADD_OP(z, unused)                                                                     \
    static void xadd_r_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                          \
        TYPE_##z a = GET_##z(i->rm), b = GET_##z(i->reg);                                      \
        uint32_t f;                                                                            \
                                                                                               \
        __asm__("xadd" #z " %1,%0" FLAGS_SAVE : "+&r"(a), "+&r"(b), "=&a"(f) : : "cc");        \
        /* With one register as both operands the sum is what remains. */                      \
        SET_##z(i->reg, b);                                                                    \
        SET_##z(i->rm, a);                                                                     \
        c->aflags = f;                                                                         \
        NEXT(c, i);                                                                            \
    }                                                                                          \
    static __attribute__((noinline)) void xadd_mem_##z(struct interp *c, const struct insn *i) \
    {                                                                                          \
        TYPE_##z b = GET_##z(i->reg);                                                          \
        bool lock = i->flags & INSN_LOCK;                                                      \
        struct rmw m;                                                                          \
        uint32_t f;                                                                            \
                                                                                               \
        BEGIN(c, i);                                                                           \
        rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z, lock);             \
        __asm__ volatile("lock xadd" #z " %0,%1" FLAGS_SAVE                                    \
                         : "+&r"(b), "+m"(*(TYPE_##z *)m.p), "=&a"(f)                          \
                         :                                                                     \
                         : "cc", "memory");                                                    \
        rmw_close(c, &m);                                                                      \
        SET_##z(i->reg, b);                                                                    \
        c->aflags = f;                                                                         \
    }                                                                                          \
    static void xadd_m_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                          \
        xadd_mem_##z(c, i);                                                                    \
        NEXT(c, i);                                                                            \
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

/* ---- CMPXCHG ---- */

/*
 * The accumulator goes in and comes out as a whole register, and so does a destination register:
 * which upper halves a 32-bit form clears depends on the outcome, and on the host. With the
 * accumulator as its destination it compares equal and stores the source.
 */
#define CMPXCHG_OP(z, mod)                                                                     \
    static __attribute__((noinline)) void cmpxchg_##z(struct interp *c, const struct insn *i)  \
    {                                                                                          \
        uint64_t acc = c->s.gpr[REG_RAX], src = c->s.gpr[i->reg], dst;                         \
        uint32_t f;                                                                            \
        struct rmw m;                                                                          \
                                                                                               \
        BEGIN(c, i);                                                                           \
        if (i->flags & INSN_MEM) {                                                             \
            rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z,                \
                     i->flags &INSN_LOCK);                                                     \
            __asm__ volatile("mov %[acc],%%rax\n\tlock cmpxchg" #z " %" mod "[src],%[dst]\n\t" \
                             "mov %%rax,%[acc]" FLAGS_SAVE                                     \
                             : "=&a"(f), [acc] "+&r"(acc), [dst] "+m"(*(TYPE_##z *)m.p)        \
                             : [src] "r"(src)                                                  \
                             : "cc", "memory");                                                \
            rmw_close(c, &m);                                                                  \
        } else {                                                                               \
            dst = c->s.gpr[i->rm];                                                             \
            __asm__("mov %[acc],%%rax\n\tcmpxchg" #z " %" mod "[src],%" mod "[dst]\n\t"        \
                    "mov %%rax,%[acc]" FLAGS_SAVE                                              \
                    : "=&a"(f), [acc] "+&r"(acc), [dst] "+&r"(dst)                             \
                    : [src] "r"(src)                                                           \
                    : "cc");                                                                   \
            if (i->rm == REG_RAX)                                                              \
                acc = dst;                                                                     \
            c->s.gpr[i->rm] = dst;                                                             \
        }                                                                                      \
        c->s.gpr[REG_RAX] = acc;                                                               \
        c->aflags = f;                                                                         \
    }
CMPXCHG_OP(w, "w")
CMPXCHG_OP(l, "k")
CMPXCHG_OP(q, "q")

static __attribute__((noinline)) void cmpxchg_b(struct interp *c, const struct insn *i)
{
    uint8_t acc = GET_b(REG_RAX), src = GET_b(i->reg), v = 0, *dst = &v;
    uint32_t f;
    struct rmw m;

    BEGIN(c, i);
    if (i->flags & INSN_MEM) {
        rmw_open(c, &m, insn_lin(c, i, 1, ACCESS_WRITE), 1, i->flags & INSN_LOCK);
        dst = m.p;
    } else {
        v = GET_b(i->rm);
    }
    __asm__ volatile(
        "movb %[acc],%%al\n\tlock cmpxchgb %[src],%[dst]\n\tmovb %%al,%[acc]" FLAGS_SAVE
        : "=&a"(f), [acc] "+&r"(acc), [dst] "+m"(*dst)
        : [src] "r"(src)
        : "cc", "memory");
    if (i->flags & INSN_MEM)
        rmw_close(c, &m);
    SET_b(REG_RAX, acc);
    if (!(i->flags & INSN_MEM))
        SET_b(i->rm, v);
    c->aflags = f;
}

#define CMPXCHG_HANDLER(z, unused)                                     \
    static void op_cmpxchg_##z(struct interp *c, const struct insn *i) \
    {                                                                  \
        cmpxchg_##z(c, i);                                             \
        NEXT(c, i);                                                    \
    }
EACH_SIZE(CMPXCHG_HANDLER, )

bool prep_cmpxchg(struct decode *d)
{
    static insn_fn *const table[4] = OF_SIZES(op_cmpxchg);

    return prep_two(d, table, table);
}

/* ---- CMPXCHG8B, CMPXCHG16B ---- */

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
