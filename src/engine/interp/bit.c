/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, SHLD SHRD. Run by the host on whole 64-bit registers,
 * so that what the manual leaves undefined (flags, the destination of BSF of zero, a count beyond
 * the operand size) is what this host does.
 */
#include "engine/interp/int.h"

/* ---- BT and its family ---- */

#define BT_ONE(z, name, mnem)                                                               \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, TYPE_##z n, uint32_t *flags)           \
    {                                                                                       \
        uint32_t f = *flags;                                                                \
        __asm__(FLAGS_LOAD mnem #z " %2,%0" FLAGS_SAVE : "+r"(a), "+a"(f) : "r"(n) : "cc"); \
        *flags = f;                                                                         \
        return a;                                                                           \
    }                                                                                       \
    static inline void name##_lock_##z(void *p, TYPE_##z n, uint32_t *flags)                \
    {                                                                                       \
        uint32_t f = *flags;                                                                \
        __asm__ volatile(FLAGS_LOAD "lock " mnem #z " %2,%0" FLAGS_SAVE                     \
                         : "+m"(*(TYPE_##z *)p), "+a"(f)                                    \
                         : "r"((TYPE_##z)(n & (BYTES_##z * 8 - 1)))                         \
                         : "cc", "memory");                                                 \
        *flags = f;                                                                         \
    }                                                                                       \
    static void name##_r_##z(struct interp *c, const struct insn *i)                        \
    {                                                                                       \
        TYPE_##z n = i->aux ? (TYPE_##z)i->imm : GET_##z(i->reg);                           \
                                                                                            \
        SET_##z(i->rm, name##_fn_##z(GET_##z(i->rm), n, &c->aflags));                       \
        NEXT(c, i);                                                                         \
    }

#define BT_OP(z, unused)                                                                      \
    static inline void bt_fn_##z(TYPE_##z a, TYPE_##z n, uint32_t *flags)                     \
    {                                                                                         \
        uint32_t f = *flags;                                                                  \
        __asm__(FLAGS_LOAD "bt" #z " %2,%1" FLAGS_SAVE : "+a"(f) : "r"(a), "r"(n) : "cc");    \
        *flags = f;                                                                           \
    }                                                                                         \
    static void bt_r_##z(struct interp *c, const struct insn *i)                              \
    {                                                                                         \
        bt_fn_##z(GET_##z(i->rm), i->aux ? (TYPE_##z)i->imm : GET_##z(i->reg), &c->aflags);   \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    BT_ONE(z, bts, "bts")                                                                     \
    BT_ONE(z, btr, "btr")                                                                     \
    BT_ONE(z, btc, "btc")                                                                     \
    static __attribute__((noinline)) void bit_mem_##z(struct interp *c, const struct insn *i) \
    {                                                                                         \
        uint64_t n = i->aux ? i->imm : (uint64_t)(STYPE_##z)GET_##z(i->reg);                  \
        bool write = i->msize != 0;                                                           \
        uint32_t f = c->aflags;                                                               \
        struct rmw m;                                                                         \
        uint64_t ea;                                                                          \
        gva_t a;                                                                              \
                                                                                              \
        BEGIN(c, i);                                                                          \
        ea = insn_ea(c, i);                                                                   \
        /* A register's bit number is signed and reaches any word from the operand on. */     \
        if (!i->aux)                                                                          \
            ea += (uint64_t)((int64_t)n >> (3 + __builtin_ctz(BYTES_##z))) * BYTES_##z;       \
        ea &= mask_bytes(i->asize);                                                           \
        a = seg_linear(c, i->seg, ea, BYTES_##z, write ? ACCESS_WRITE : ACCESS_READ);         \
        n &= BYTES_##z * 8 - 1;                                                               \
        if (!write) {                                                                         \
            bt_fn_##z((TYPE_##z)access_load(c, a, BYTES_##z, c->key), (TYPE_##z)n, &f);       \
        } else {                                                                              \
            rmw_open(c, &m, a, BYTES_##z, i->flags &INSN_LOCK);                               \
            if (i->msize == 1)                                                                \
                bts_lock_##z(m.p, (TYPE_##z)n, &f);                                           \
            else if (i->msize == 2)                                                           \
                btr_lock_##z(m.p, (TYPE_##z)n, &f);                                           \
            else                                                                              \
                btc_lock_##z(m.p, (TYPE_##z)n, &f);                                           \
            rmw_close(c, &m);                                                                 \
        }                                                                                     \
        c->aflags = f;                                                                        \
    }                                                                                         \
    static void bit_m_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                         \
        bit_mem_##z(c, i);                                                                    \
        NEXT(c, i);                                                                           \
    }
EACH_WLQ(BT_OP, )

/* aux: the bit number is an immediate. msize of the memory form: which operation. */
bool prep_bt(struct decode *d)
{
    static insn_fn *const r[4][4] = {OF_WLQ(bt_r), OF_WLQ(bts_r), OF_WLQ(btr_r), OF_WLQ(btc_r)},
                          *const m[4] = OF_WLQ(bit_m);
    struct insn *out = d->out;
    unsigned z = size_index(d->zi->operand_width / 8);

    out->aux = d->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (out->aux)
        out->imm = d->ops[1].imm.value.u & 0xff;
    else
        out->reg = decode_gpr(d->ops[1].reg.value);
    if (out->flags & INSN_MEM) {
        out->msize = d->row->arg;
        out->fn = m[z];
    } else {
        out->rm = decode_gpr(d->ops[0].reg.value);
        out->fn = r[d->row->arg][z];
    }
    return out->fn != NULL;
}

/* ---- BSF BSR TZCNT LZCNT POPCNT ---- */

#define SCAN_CASE(n, mnem, z)                                             \
    case n * 4 + size_##z:                                                \
        __asm__(FLAGS_LOAD mnem " %" MOD_##z "2,%" MOD_##z "0" FLAGS_SAVE \
                : "+&r"(dst), "+&a"(f)                                    \
                : "r"(src)                                                \
                : "cc");                                                  \
        break
#define SCAN_CASES(n, mnem)    \
    SCAN_CASE(n, mnem "w", w); \
    SCAN_CASE(n, mnem "l", l); \
    SCAN_CASE(n, mnem "q", q)
#define MOD_w "w"
#define MOD_l "k"
#define MOD_q ""
enum { size_w = 1, size_l = 2, size_q = 3 };

/* aux: which * 4 + size. The whole destination register goes in and comes out. */
static __attribute__((noinline)) void scan(struct interp *c, const struct insn *i)
{
    uint64_t dst = c->s.gpr[i->reg], src;
    uint32_t f = c->aflags;

    BEGIN(c, i);
    if (i->flags & INSN_MEM)
        src = access_load(c, insn_lin(c, i, i->osize, ACCESS_READ), i->osize, c->key);
    else
        src = c->s.gpr[i->rm];
    switch (i->aux) {
        SCAN_CASES(0, "bsf");
        SCAN_CASES(1, "bsr");
        SCAN_CASES(2, "tzcnt");
        SCAN_CASES(3, "lzcnt");
        SCAN_CASES(4, "popcnt");
    }
    c->s.gpr[i->reg] = dst;
    c->aflags = f;
}

static void op_scan(struct interp *c, const struct insn *i)
{
    scan(c, i);
    NEXT(c, i);
}

bool prep_scan(struct decode *d)
{
    struct insn *out = d->out;

    out->osize = (uint8_t)(d->ops[0].size / 8);
    out->reg = decode_gpr(d->ops[0].reg.value);
    if (!(out->flags & INSN_MEM))
        out->rm = decode_gpr(d->ops[1].reg.value);
    out->aux = (uint8_t)(d->row->arg * 4 + size_index(out->osize));
    out->fn = op_scan;
    return true;
}

/* ---- SHLD, SHRD ---- */

#define SHIFTD_CASE(n, mnem, z)                                                \
    case n * 4 + size_##z:                                                     \
        __asm__(FLAGS_LOAD mnem " %%cl,%" MOD_##z "2,%" MOD_##z "0" FLAGS_SAVE \
                : "+&r"(v), "+&a"(f)                                           \
                : "r"(src), "c"(n_)                                            \
                : "cc");                                                       \
        break
#define SHIFTD_CASES(n, mnem)    \
    SHIFTD_CASE(n, mnem "w", w); \
    SHIFTD_CASE(n, mnem "l", l); \
    SHIFTD_CASE(n, mnem "q", q)

/* aux: which * 4 + size. imm: the count, or 256 for CL. */
static __attribute__((noinline)) void shiftd(struct interp *c, const struct insn *i)
{
    uint8_t n_ = i->imm < 256 ? (uint8_t)i->imm : GET_b(REG_RCX);
    uint64_t src = c->s.gpr[i->reg], v;
    uint32_t f = c->aflags;
    void *p = NULL;
    gva_t a = 0;

    BEGIN(c, i);
    if (i->flags & INSN_MEM) {
        a = insn_lin(c, i, i->osize, ACCESS_WRITE);
        p = rmw_host(c, a, i->osize);
        v = p ? host_load(p, i->osize) : access_load(c, a, i->osize, c->key);
    } else {
        v = c->s.gpr[i->rm];
    }
    switch (i->aux) {
        SHIFTD_CASES(0, "shld");
        SHIFTD_CASES(1, "shrd");
    }
    if (p)
        host_store(p, i->osize, v);
    else if (i->flags & INSN_MEM)
        access_store(c, a, i->osize, v & mask_bytes(i->osize), c->key);
    else
        c->s.gpr[i->rm] = v;
    c->aflags = f;
}

static void op_shiftd(struct interp *c, const struct insn *i)
{
    shiftd(c, i);
    NEXT(c, i);
}

bool prep_shiftd(struct decode *d)
{
    struct insn *out = d->out;

    out->osize = (uint8_t)(d->ops[0].size / 8);
    out->reg = decode_gpr(d->ops[1].reg.value);
    if (!(out->flags & INSN_MEM))
        out->rm = decode_gpr(d->ops[0].reg.value);
    out->imm = d->ops[2].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? d->ops[2].imm.value.u & 0xff : 256;
    out->aux = (uint8_t)(d->row->arg * 4 + size_index(out->osize));
    out->fn = op_shiftd;
    return true;
}
