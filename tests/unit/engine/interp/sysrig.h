/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What rig.h leaves out: descriptor tables, a TSS and 256 handlers that halt. An event then stops
 * the run, the handler's address tells the vector, and the frame lies at RSP.
 */
#ifndef TESTS_UNIT_ENGINE_INTERP_SYSRIG_H
#define TESTS_UNIT_ENGINE_INTERP_SYSRIG_H

#include "tests/unit/engine/interp/rig.h"

#define S_GDT      0x4000u
#define S_IDT      0x5000u
#define S_TSS      0x7000u
#define S_TSS2     0x7400u
#define S_LDT      0x7800u
#define S_HANDLERS 0x8000u /* 16 bytes each: HLT */
#define S_STACK0   0x18000u
#define S_STACK3   0x1c000u
#define S_IST1     0x1a008u /* not aligned on purpose */

enum {
    S_CODE32 = 0x08,
    S_DATA = 0x10,
    S_CODE32_3 = 0x1b,
    S_DATA_3 = 0x23,
    S_TSS_SEL = 0x28,
    S_CODE64 = 0x38,
    S_CODE64_3 = 0x43,
    S_CONFORMING = 0x48,
    S_XO = 0x50,
    S_RO = 0x58,
    S_DATA_NP = 0x60,
    S_CODE_NP = 0x68,
    S_EXPAND = 0x70,
    S_LDT_SEL = 0x78,
    S_CODE16 = 0x88,
    S_DATA16 = 0x90,
    S_TSS2_SEL = 0x98,
    S_TSS16_SEL = 0xa0,
    S_GATE = 0xa8,
    S_TASKGATE = 0xb8,
    S_DATA_1 = 0xc1,
    S_SYSRET32_3 = 0xcb,
    S_LAST = 0xd8,
};

static inline uint64_t s_desc(uint32_t base, uint32_t limit20, unsigned attr)
{
    return (limit20 & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit20 >> 16 & 0xf) << 48 | (uint64_t)(attr >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

static inline void s_gdt(struct rig *r, unsigned sel, uint64_t d)
{
    rig_put64(r, S_GDT + (sel & 0xfff8), d);
}

static inline uint64_t s_gate_desc(unsigned sel, uint32_t off, unsigned attr, unsigned count)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)count << 32 | (uint64_t)attr << 40 |
           (uint64_t)(off >> 16) << 48;
}

/* An IDT entry; attr 0x8e: interrupt gate, DPL 0. `ist` in 64-bit mode. */
static inline void s_idt(struct rig *r, unsigned vector, unsigned sel, uint32_t off, unsigned attr,
                         unsigned ist)
{
    unsigned size = r->cs.efer & EFER_LMA ? 16 : 8;

    rig_put64(r, S_IDT + vector * size, s_gate_desc(sel, off, attr, ist));
    rig_put64(r, S_IDT + vector * size + size - 8,
              size == 16 ? 0 : s_gate_desc(sel, off, attr, ist));
}

static inline uint32_t s_handler(unsigned vector)
{
    return S_HANDLERS + vector * 16;
}

static inline void s_tables(struct rig *r, unsigned code)
{
    s_gdt(r, 0, 0);
    s_gdt(r, S_CODE32, s_desc(0, 0xfffff, 0xc09b));
    s_gdt(r, S_DATA, s_desc(0, 0xfffff, 0xc093));
    s_gdt(r, S_CODE32_3, s_desc(0, 0xfffff, 0xc0fb));
    s_gdt(r, S_DATA_3, s_desc(0, 0xfffff, 0xc0f3));
    s_gdt(r, S_TSS_SEL, s_desc(S_TSS, 0x67, 0x8b));
    s_gdt(r, S_TSS_SEL + 8, 0);
    s_gdt(r, S_CODE64, s_desc(0, 0xfffff, 0xa09b));
    s_gdt(r, S_CODE64_3, s_desc(0, 0xfffff, 0xa0fb));
    s_gdt(r, S_CONFORMING, s_desc(0, 0xfffff, 0xc09f));
    s_gdt(r, S_XO, s_desc(0, 0xfffff, 0xc099));
    s_gdt(r, S_RO, s_desc(0, 0xfffff, 0xc091));
    s_gdt(r, S_DATA_NP, s_desc(0, 0xfffff, 0xc013));
    s_gdt(r, S_CODE_NP, s_desc(0, 0xfffff, 0xc01b));
    s_gdt(r, S_EXPAND, s_desc(0, 0x1f, 0xc097)); /* valid from 0x20000 */
    s_gdt(r, S_LDT_SEL, s_desc(S_LDT, 0xff, 0x82));
    s_gdt(r, S_LDT_SEL + 8, 0);
    s_gdt(r, S_CODE16, s_desc(0, 0xffff, 0x009b));
    s_gdt(r, S_DATA16, s_desc(0, 0xffff, 0x0093));
    s_gdt(r, S_TSS2_SEL, s_desc(S_TSS2, 0x67, 0x89));
    s_gdt(r, S_TSS16_SEL, s_desc(S_TSS2, 0x2b, 0x81));
    s_gdt(r, S_GATE, s_gate_desc(S_CODE32, s_handler(0), 0xec, 2));
    s_gdt(r, S_GATE + 8, 0);
    s_gdt(r, S_TASKGATE, s_gate_desc(S_TSS2_SEL, 0, 0xe5, 0));
    s_gdt(r, S_DATA_1, s_desc(0, 0xfffff, 0xc0b3));
    s_gdt(r, S_SYSRET32_3, s_desc(0, 0xfffff, 0xc0fb));
    r->cs.gdtr.base = S_GDT;
    r->cs.gdtr.limit = S_LAST - 1;
    r->cs.idtr.base = S_IDT;
    r->cs.idtr.limit = r->cs.efer & EFER_LMA ? 0xfff : 0x7ff;
    for (unsigned v = 0; v < 256; v++) {
        RIG_PUT(r, s_handler(v), 0xf4);
        s_idt(r, v, code, s_handler(v), 0x8e, 0);
    }
    r->cs.tr = rig_seg(S_TSS_SEL, 0x8b, S_TSS, 0x67);
}

static inline struct rig *s_protected(void)
{
    struct rig *r = rig_new();

    rig_protected(r, true);
    s_tables(r, S_CODE32);
    rig_put64(r, S_TSS + 4, S_STACK0 | (uint64_t)S_DATA << 32);
    return r;
}

static inline struct rig *s_long(void)
{
    struct rig *r = rig_new();

    rig_long(r);
    s_tables(r, S_CODE64);
    r->cs.seg[SEG_CS].selector = S_CODE64;
    rig_put64(r, S_TSS + 4, S_STACK0);
    rig_put64(r, S_TSS + 36, S_IST1);
    return r;
}

/* The same tables, but at CPL 3. */
static inline void s_user(struct rig *r)
{
    bool is64 = r->cs.efer & EFER_LMA;

    r->cs.seg[SEG_CS].selector = is64 ? S_CODE64_3 : S_CODE32_3;
    r->cs.seg[SEG_CS].attr |= SEG_ATTR_DPL;
    for (unsigned n = 0; n < SEG_COUNT; n++) {
        if (n == SEG_CS)
            continue;
        r->cs.seg[n].selector = S_DATA_3;
        r->cs.seg[n].attr |= SEG_ATTR_DPL;
    }
    r->cs.gpr[REG_RSP] = S_STACK3;
}

static inline void s_v86(struct rig *r)
{
    r->cs.rflags |= RFLAGS_VM;
    for (unsigned n = 0; n < SEG_COUNT; n++)
        r->cs.seg[n] = rig_seg(0, 0xf3, 0, 0xffff);
    r->cs.gpr[REG_RSP] = 0xf000;
}

/* The vector whose handler has halted; 0xffff if none has. */
static inline unsigned s_vector(const struct rig *r)
{
    uint64_t at = r->cs.rip - S_HANDLERS;

    return r->cs.activity == CPU_HALTED && at < 0x1000 && at % 16 == 1 ? (unsigned)(at / 16)
                                                                       : 0xffff;
}

/* The nth item of the frame at RSP. */
static inline uint64_t s_frame(struct rig *r, unsigned n)
{
    unsigned size = r->cs.efer & EFER_LMA ? 8 : r->cs.cr0 & CR0_PE ? 4 : 2;

    return rig_get(r, r->cs.seg[SEG_SS].base + r->cs.gpr[REG_RSP] + n * size, size);
}

/* An event was taken with this vector; its frame begins with these items. */
#define TOOK(r, vector, ...)                                \
    do {                                                    \
        const uint64_t frame_[] = {__VA_ARGS__};            \
        assert_int_equal(s_vector(r), vector);              \
        for (unsigned n_ = 0; n_ < ARRAY_LEN(frame_); n_++) \
            assert_int_equal(s_frame(r, n_), frame_[n_]);   \
    } while (0)

#endif
