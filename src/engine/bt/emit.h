/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing host instructions (SDM vol. 2 chapter 2). An emitter is a cursor in the code buffer; the
 * caller has made sure that there is room.
 */
#ifndef ENGINE_BT_EMIT_H
#define ENGINE_BT_EMIT_H

#include <string.h>

#include "base/types.h"

#define T0 14
#define T1 15
#define SD 13 /* what makes an address of the stack window a host address */

static inline bool is_stolen(unsigned reg)
{
    return reg >= SD && reg <= T1;
}

struct emit {
    uint8_t *buf; /* the writable view of the code buffer */
    uint32_t at;
};

static inline void emit_bytes(struct emit *e, const void *bytes, unsigned n)
{
    memcpy(e->buf + e->at, bytes, n);
    e->at += n;
}

static inline void emit8(struct emit *e, unsigned v)
{
    e->buf[e->at++] = (uint8_t)v;
}

static inline void emit32(struct emit *e, uint32_t v)
{
    emit_bytes(e, &v, 4);
}

static inline void emit64(struct emit *e, uint64_t v)
{
    emit_bytes(e, &v, 8);
}

/* An r/m operand. */
enum rm_kind { RM_REG, RM_MEM, RM_GS };
struct rm {
    enum rm_kind kind;
    uint8_t reg;         /* RM_REG */
    uint8_t base, index; /* RM_MEM: NO_REG for none; with RM_GS only base */
    uint8_t scale;
    int32_t disp;
};
#define NO_REG 0xff

static inline struct rm rm_reg(unsigned reg)
{
    return (struct rm){.kind = RM_REG, .reg = (uint8_t)reg, .base = NO_REG, .index = NO_REG};
}

static inline struct rm rm_gs(int32_t disp)
{
    return (struct rm){.kind = RM_GS, .base = NO_REG, .index = NO_REG, .disp = disp};
}

static inline struct rm rm_mem(unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    return (struct rm){.kind = RM_MEM,
                       .base = (uint8_t)base,
                       .index = (uint8_t)index,
                       .scale = (uint8_t)scale,
                       .disp = disp};
}

/* REX.X and REX.B of an operand. */
static inline unsigned rm_rex(const struct rm *m)
{
    unsigned x = m->index != NO_REG && m->index & 8 ? 2 : 0;

    if (m->kind == RM_REG)
        return m->reg >> 3 & 1;
    return x | (m->base != NO_REG && m->base & 8 ? 1 : 0);
}

/* ModRM, SIB and displacement; `wide`: no 8-bit displacement (EVEX scales those). */
static inline void emit_modrm(struct emit *e, unsigned reg, const struct rm *m, bool wide)
{
    unsigned r = (reg & 7) << 3, mod;

    if (m->kind == RM_REG) {
        emit8(e, 0xc0 | r | (m->reg & 7));
        return;
    }
    if (m->base == NO_REG) { /* [index * scale + disp32], absolute if there is none */
        emit8(e, r | 4);
        emit8(e, (unsigned)m->scale << 6 | (m->index == NO_REG ? 4u : m->index & 7u) << 3 | 5);
        emit32(e, (uint32_t)m->disp);
        return;
    }
    mod = m->disp == 0 && (m->base & 7) != 5           ? 0
          : !wide && m->disp >= -128 && m->disp <= 127 ? 1
                                                       : 2;
    if (m->index == NO_REG && (m->base & 7) != 4) {
        emit8(e, mod << 6 | r | (m->base & 7));
    } else {
        emit8(e, mod << 6 | r | 4);
        emit8(e, (unsigned)m->scale << 6 | (m->index == NO_REG ? 4u : m->index & 7u) << 3 |
                     (m->base & 7));
    }
    if (mod == 1)
        emit8(e, (uint8_t)m->disp);
    else if (mod == 2)
        emit32(e, (uint32_t)m->disp);
}

/*
 * A plain instruction: opcodes above 0xff are in map 0F. W gives it 64 bits. Never 8-bit operands
 * of registers 4 to 7.
 */
static inline void emit_op(struct emit *e, bool w, unsigned opcode, unsigned reg, struct rm m)
{
    unsigned rex = (w ? 8u : 0) | (reg >> 3 & 1) << 2 | rm_rex(&m);

    if (m.kind == RM_GS)
        emit8(e, 0x65);
    if (rex)
        emit8(e, 0x40 | rex);
    if (opcode > 0xff)
        emit8(e, 0x0f);
    emit8(e, opcode & 0xff);
    emit_modrm(e, reg, &m, false);
}

#define OP_STORE 0x89
#define OP_LOAD  0x8b
#define OP_LEA   0x8d
#define OP_XOR   0x33 /* reg ^= r/m */
#define OP_ADD   0x03
#define OP_CMP   0x3b /* reg with r/m */

static inline void emit_load(struct emit *e, unsigned reg, struct rm m)
{
    emit_op(e, true, OP_LOAD, reg, m);
}

static inline void emit_store(struct emit *e, unsigned reg, struct rm m)
{
    emit_op(e, true, OP_STORE, reg, m);
}

/* reg = base + disp, in as few bytes as it takes. */
static inline void emit_sum(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
    if (disp)
        emit_op(e, true, OP_LEA, reg, rm_mem(base, NO_REG, 0, disp));
    else
        emit_store(e, base, rm_reg(reg));
}

/* The shortest mov of a constant that leaves the flags alone. */
static inline void emit_const(struct emit *e, unsigned reg, uint64_t v)
{
    if (v <= UINT32_MAX) {
        if (reg & 8)
            emit8(e, 0x41);
        emit8(e, 0xb8 | (reg & 7));
        emit32(e, (uint32_t)v);
    } else if ((int64_t)v == (int32_t)v) {
        emit_op(e, true, 0xc7, 0, rm_reg(reg));
        emit32(e, (uint32_t)v);
    } else {
        emit8(e, 0x48 | reg >> 3);
        emit8(e, 0xb8 | (reg & 7));
        emit64(e, v);
    }
}

/* op dword r/m, imm32 with /n of opcode 81: 0 add, 1 or, 4 and, 6 xor, 7 cmp. */
static inline void emit_dword(struct emit *e, unsigned n, struct rm m, uint32_t imm)
{
    emit_op(e, false, 0x81, n, m);
    emit32(e, imm);
}

/* Jumps with a 32-bit displacement; returns where the displacement is. */
#define CC_ALWAYS 16
static inline uint32_t emit_jump(struct emit *e, unsigned cc, uint32_t to)
{
    if (cc == CC_ALWAYS) {
        emit8(e, 0xe9);
    } else {
        emit8(e, 0x0f);
        emit8(e, 0x80 | cc);
    }
    emit32(e, to - (e->at + 4));
    return e->at - 4;
}

static inline void emit_patch(struct emit *e, uint32_t at, uint32_t to)
{
    uint32_t disp = to - (at + 4);

    memcpy(e->buf + at, &disp, 4);
}

/* n bytes that do nothing, in as few instructions as there are (SDM vol. 2B, NOP). */
static inline void emit_nop(struct emit *e, unsigned n)
{
    static const uint8_t nops[9][9] = {{0x90},
                                       {0x66, 0x90},
                                       {0x0f, 0x1f},
                                       {0x0f, 0x1f, 0x40},
                                       {0x0f, 0x1f, 0x44},
                                       {0x66, 0x0f, 0x1f, 0x44},
                                       {0x0f, 0x1f, 0x80},
                                       {0x0f, 0x1f, 0x84},
                                       {0x66, 0x0f, 0x1f, 0x84}};

    while (n) {
        unsigned k = n < 9 ? n : 9;

        emit_bytes(e, nops[k - 1], k);
        n -= k;
    }
}

#define CC_B  2
#define CC_AE 3
#define CC_E  4
#define CC_NE 5
#define CC_A  7

#endif
