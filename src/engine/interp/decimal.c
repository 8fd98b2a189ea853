/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What 64-bit code cannot run and so the host's ALU cannot do for us: decimal adjustment and BOUND.
 * SDM vol. 2. The flags that the manual leaves undefined are as on Intel processors (tried
 * exhaustively in 32-bit code).
 */
#include "engine/interp/int.h"

#include "engine/interp/mode.h"

/* SF, ZF and PF of an 8-bit value; every other arithmetic flag clear. */
static uint32_t flags_of(uint8_t v)
{
    return (v & 0x80 ? AF_SF : 0) | (v ? 0 : AF_ZF) | (__builtin_parity(v) ? 0 : AF_PF) | 0x200;
}

/* DAA and DAS: the same adjustment upwards and downwards. */
static void adjust_packed(struct interp *c, bool sub)
{
    uint8_t al = (uint8_t)c->s.gpr[REG_RAX], old = al;
    bool cf = c->aflags & AF_CF, af = c->aflags & AF_AF, carry = cf;
    uint32_t f = 0;

    cf = false;
    if ((al & 15) > 9 || af) {
        cf = carry || (sub ? al < 6 : al > 0xf9);
        al = (uint8_t)(sub ? al - 6 : al + 6);
        f |= AF_AF;
    }
    if (old > 0x99 || carry) {
        al = (uint8_t)(sub ? al - 0x60 : al + 0x60);
        cf = true;
    }
    SET_b(REG_RAX, al);
    c->aflags = f | flags_of(al) | (cf ? AF_CF : 0);
}

void op_daa(struct interp *c, const struct insn *i)
{
    adjust_packed(c, false);
    NEXT(c, i);
}

void op_das(struct interp *c, const struct insn *i)
{
    adjust_packed(c, true);
    NEXT(c, i);
}

static void adjust_ascii(struct interp *c, bool sub)
{
    uint16_t ax = (uint16_t)c->s.gpr[REG_RAX];
    uint32_t f = 0;

    if ((ax & 15) > 9 || (c->aflags & AF_AF)) {
        ax = (uint16_t)(sub ? ax - 0x106 : ax + 0x106);
        f = AF_AF | AF_CF;
    }
    ax &= 0xff0f;
    SET_w(REG_RAX, ax);
    c->aflags = f | flags_of((uint8_t)ax);
}

void op_aaa(struct interp *c, const struct insn *i)
{
    adjust_ascii(c, false);
    NEXT(c, i);
}

void op_aas(struct interp *c, const struct insn *i)
{
    adjust_ascii(c, true);
    NEXT(c, i);
}

void op_aam(struct interp *c, const struct insn *i)
{
    uint8_t al = (uint8_t)c->s.gpr[REG_RAX], base = (uint8_t)i->imm;

    BEGIN(c, i);
    if (!base)
        interp_raise(c, VEC_DE);
    SET_w(REG_RAX, (al / base) << 8 | al % base);
    c->aflags = flags_of(al % base);
    NEXT(c, i);
}

/* Its flags are all those of the byte addition at its end. */
void op_aad(struct interp *c, const struct insn *i)
{
    uint16_t ax = (uint16_t)c->s.gpr[REG_RAX];
    uint8_t al = (uint8_t)ax, tens = (uint8_t)((ax >> 8) * i->imm);
    uint32_t f;

    __asm__("addb %2,%0" FLAGS_SAVE : "+r"(al), "=&a"(f) : "r"(tens) : "cc");
    SET_w(REG_RAX, al);
    c->aflags = f;
    NEXT(c, i);
}

/* Two bounds in memory, both signed, both inclusive. */
void op_bound(struct interp *c, const struct insn *i)
{
    unsigned size = i->osize, shift = 64 - size * 8;
    int64_t lower, upper, index;
    uint64_t ea;

    BEGIN(c, i);
    ea = insn_ea(c, i);
    index = (int64_t)(c->s.gpr[i->reg] << shift) >> shift;
    lower = (int64_t)(access_load(c, seg_linear(c, i->seg, ea, size, ACCESS_READ), size, c->key)
                      << shift) >>
            shift;
    if (index < lower) /* before the upper bound is read */
        interp_raise(c, VEC_BR);
    upper = (int64_t)(access_load(c, seg_linear(c, i->seg, (uint32_t)(ea + size), size, ACCESS_READ),
                                  size, c->key)
                      << shift) >>
            shift;
    if (index > upper)
        interp_raise(c, VEC_BR);
    NEXT(c, i);
}
