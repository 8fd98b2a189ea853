/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/engine/interp/rigtest.h"
#include "tests/unit/engine/interp/sysrig.h"

#define NONE 0xffff

struct load_case {
    uint8_t modrm; /* of 8E: MOV Sreg, AX */
    uint16_t sel;
    bool user;
    uint16_t vector, error;
};

#define TO_ES 0xc0
#define TO_SS 0xd0
#define TO_DS 0xd8

static const struct load_case load_cases[] = {
    {TO_DS, S_DATA, false, NONE, 0},
    {TO_DS, 0, false, NONE, 0},
    {TO_DS, 3, false, NONE, 0},
    {TO_DS, S_CODE32, false, NONE, 0},
    {TO_DS, S_RO, false, NONE, 0},
    {TO_DS, S_DATA_3, false, NONE, 0},
    {TO_DS, S_DATA | 3, false, VEC_GP, S_DATA},
    {TO_DS, S_XO, false, VEC_GP, S_XO},
    {TO_DS, S_TSS_SEL, false, VEC_GP, S_TSS_SEL},
    {TO_DS, S_DATA_NP, false, VEC_NP, S_DATA_NP},
    {TO_DS, S_LAST, false, VEC_GP, S_LAST},
    {TO_ES, 4, false, VEC_GP, 4}, /* no LDT */
    {TO_SS, S_DATA, false, NONE, 0},
    {TO_SS, 0, false, VEC_GP, 0},
    {TO_SS, S_RO, false, VEC_GP, S_RO},
    {TO_SS, S_CODE32, false, VEC_GP, S_CODE32},
    {TO_SS, S_DATA_3, false, VEC_GP, S_DATA_3 & ~3},
    {TO_SS, S_DATA | 3, false, VEC_GP, S_DATA},
    {TO_SS, S_DATA_NP, false, VEC_SS, S_DATA_NP},
    {TO_DS, S_DATA, true, VEC_GP, S_DATA},
    {TO_DS, S_CONFORMING, true, NONE, 0},
    {TO_DS, S_DATA_3, true, NONE, 0},
    {TO_SS, S_DATA_3, true, NONE, 0},
    {TO_SS, S_DATA, true, VEC_GP, S_DATA},
};

TEST(segment_loads_follow_the_table)
{
    for (unsigned n = 0; n < ARRAY_LEN(load_cases); n++) {
        const struct load_case *k = &load_cases[n];
        struct rig *r = s_protected();
        uint8_t code[] = {0x8e, k->modrm, 0x0f, 0x0b};
        unsigned vector;

        rig_write(r, RIG_CODE, code, sizeof(code));
        if (k->user)
            s_user(r);
        r->cs.gpr[REG_RAX] = k->sel;
        rig_run(r, 8);
        vector = s_vector(r);
        /* UD2 follows: the load has not faulted. */
        assert_int_equal(k->vector == NONE ? VEC_UD : k->vector, vector);
        assert_int_equal(k->vector == NONE ? RIG_CODE + 2 : k->error, s_frame(r, 0));
        rig_free(r);
    }
}

TEST_WITH(s_protected, null_data_segment_faults_when_used)
{
    RIG_RUN(r, 8, 0x8e, 0xd8, 0x8a, 0x03); /* mov ds,ax; mov al,[ebx] */
    TOOK(r, VEC_GP, 0, RIG_CODE + 2);
}

TEST_WITH(s_protected, load_sets_the_accessed_bit)
{
    s_gdt(r, S_DATA, s_desc(0, 0xfffff, 0xc092));
    r->cs.gpr[REG_RAX] = S_DATA;
    RIG_RUN(r, 2, 0x8e, 0xd8, 0xf4);
    assert_int_equal(rig_get(r, S_GDT + S_DATA + 5, 1), 0x93);
    assert_int_equal(r->cs.seg[SEG_DS].attr, 0xc093);
}

TEST_WITH(s_protected, ldt_selector_reads_the_ldt)
{
    r->cs.ldtr = rig_seg(S_LDT_SEL, 0x82, S_LDT, 0xf);
    rig_put64(r, S_LDT + 8, s_desc(0x12340, 0x10, 0x4093));
    r->cs.gpr[REG_RAX] = 0xc;
    RIG_RUN(r, 2, 0x8e, 0xd8, 0xf4);
    assert_int_equal(r->cs.seg[SEG_DS].base, 0x12340);
    assert_int_equal(r->cs.seg[SEG_DS].limit, 0x10);
}

struct limit_case {
    uint16_t attr;
    uint32_t limit, off;
    uint16_t vector;
};

/* mov eax,[ebx]: the last byte is off + 3. */
static const struct limit_case limit_cases[] = {
    {0x4093, 0xffff, 0xfffc, NONE},    {0x4093, 0xffff, 0xfffd, VEC_GP},
    {0x4093, 0xffff, 0x10000, VEC_GP}, {0x4093, 0xffff, 0xfffffffe, VEC_GP},
    {0x4097, 0xffff, 0x10000, NONE},   {0x4097, 0xffff, 0xffff, VEC_GP},
    {0x0097, 0x7fff, 0xfffc, NONE},    {0x0097, 0x7fff, 0xfffd, VEC_GP},
    {0x0097, 0x7fff, 0x10000, VEC_GP}, {0x4099, 0xffff, 0, VEC_GP}, /* execute only */
    {0x409b, 0xffff, 0, NONE},
};

TEST(limits_follow_the_table)
{
    for (unsigned n = 0; n < ARRAY_LEN(limit_cases); n++) {
        const struct limit_case *k = &limit_cases[n];
        struct rig *r = s_protected();

        r->cs.seg[SEG_DS] = rig_seg(S_DATA, k->attr, 0x100, k->limit);
        r->cs.gpr[REG_RBX] = k->off;
        RIG_RUN(r, 8, 0x8b, 0x03, 0x0f, 0x0b);
        assert_int_equal(s_vector(r), k->vector == NONE ? VEC_UD : k->vector);
        rig_free(r);
    }
}

TEST(write_to_code_or_read_only_faults)
{
    static const uint16_t attrs[] = {0xc091, 0xc09b};

    for (unsigned n = 0; n < ARRAY_LEN(attrs); n++) {
        struct rig *r = s_protected();

        r->cs.seg[SEG_DS].attr = attrs[n];
        r->cs.gpr[REG_RBX] = RIG_DATA;
        RIG_RUN(r, 8, 0x88, 0x03);
        assert_int_equal(s_vector(r), VEC_GP);
        rig_free(r);
    }
}

TEST_WITH(s_protected, stack_limit_violation_is_ss)
{
    r->cs.seg[SEG_SS].limit = 0x2ffff;
    r->cs.seg[SEG_SS].attr = 0x4093;
    r->cs.gpr[REG_RBP] = 0x30000;
    RIG_RUN(r, 8, 0x8b, 0x45, 0x00); /* mov eax,[ebp]: SS */
    TOOK(r, VEC_SS, 0);
}

TEST_WITH(rig_new_real, real_mode_load_is_a_paragraph_and_keeps_the_limit)
{
    r->cs.seg[SEG_DS].limit = UINT32_MAX;
    r->cs.gpr[REG_RAX] = 0x1234;
    r->cs.gpr[REG_RBX] = 0x100000;
    RIG_PUT(r, 0x112340, 0x5a);
    RIG_RUN(r, 2, 0x8e, 0xd8, 0x67, 0x8a, 0x03); /* mov ds,ax; mov al,[ebx] */
    assert_int_equal(r->cs.seg[SEG_DS].base, 0x12340);
    assert_int_equal(r->cs.gpr[REG_RAX], 0x125a);
}

struct look_case {
    uint16_t sel;
    bool user, lar, lsl, verr, verw;
    uint32_t rights, limit;
};

static const struct look_case look_cases[] = {
    {S_CODE32, false, true, true, true, false, 0xc09b00, 0xffffffff},
    {S_DATA, false, true, true, true, true, 0xc09300, 0xffffffff},
    {S_XO, false, true, true, false, false, 0xc09900, 0xffffffff},
    {S_RO, false, true, true, true, false, 0xc09100, 0xffffffff},
    {S_DATA_NP, false, true, true, true, true, 0xc01300, 0xffffffff},
    {S_TSS_SEL, false, true, true, false, false, 0x8b00, 0x67},
    {S_LDT_SEL, false, true, true, false, false, 0x8200, 0xff},
    {S_GATE, false, true, false, false, false, 0xec00, 0},
    {S_TASKGATE, false, true, false, false, false, 0xe500, 0},
    {S_DATA | 3, false, false, false, false, false, 0, 0},
    {0, false, false, false, false, false, 0, 0},
    {S_LAST, false, false, false, false, false, 0, 0},
    {S_DATA, true, false, false, false, false, 0, 0},
    {S_CONFORMING | 3, true, true, true, true, false, 0xc09f00, 0xffffffff},
    {S_DATA_3, true, true, true, true, true, 0xc0f300, 0xffffffff},
};

/* Runs 0F op modrm and tells ZF. */
static bool look(const struct look_case *k, uint8_t op, uint8_t modrm, uint64_t *ecx)
{
    struct rig *r = s_protected();
    uint8_t code[] = {0x0f, op, modrm};
    bool zf;

    rig_write(r, RIG_CODE, code, sizeof(code));
    if (k->user)
        s_user(r);
    r->cs.gpr[REG_RAX] = k->sel;
    r->cs.gpr[REG_RCX] = 0;
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, RIG_CODE + 3);
    zf = r->cs.rflags & RFLAGS_ZF;
    *ecx = r->cs.gpr[REG_RCX];
    rig_free(r);
    return zf;
}

TEST(lar_lsl_verr_verw_follow_the_table)
{
    for (unsigned n = 0; n < ARRAY_LEN(look_cases); n++) {
        const struct look_case *k = &look_cases[n];
        uint64_t v;

        assert_int_equal(look(k, 0x02, 0xc8, &v), k->lar); /* lar ecx,eax */
        /* Bits 16-19 are undefined; hostdiff compares them with the host's. */
        assert_int_equal(v & ~0xf0000ull, k->lar ? k->rights : 0);
        assert_int_equal(look(k, 0x03, 0xc8, &v), k->lsl);
        assert_int_equal(v, k->lsl ? k->limit : 0);
        assert_int_equal(look(k, 0x00, 0xe0, &v), k->verr);
        assert_int_equal(look(k, 0x00, 0xe8, &v), k->verw);
    }
}

TEST_WITH(s_long, long_mode_lar_refuses_16_bit_system_types)
{
    r->cs.gpr[REG_RAX] = S_TASKGATE;
    r->cs.rflags |= RFLAGS_ZF;
    RIG_RUN(r, 1, 0x0f, 0x02, 0xc8);
    assert_false(r->cs.rflags & RFLAGS_ZF);
}

TEST_WITH(s_protected, arpl_raises_the_rpl)
{
    r->cs.gpr[REG_RAX] = 0x10;
    r->cs.gpr[REG_RCX] = 0x23;
    r->cs.gpr[REG_RDX] = 0x13;
    RIG_RUN(r, 1, 0x63, 0xc8, 0x63, 0xca); /* arpl ax,cx; arpl dx,cx */
    assert_int_equal(r->cs.gpr[REG_RAX], 0x13);
    assert_true(r->cs.rflags & RFLAGS_ZF);
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RDX], 0x13);
    assert_false(r->cs.rflags & RFLAGS_ZF);
}

TEST_WITH(s_protected, pop_ss_moves_the_old_stack_pointer)
{
    rig_put64(r, RIG_STACK, S_DATA16);
    RIG_RUN(r, 1, 0x17); /* pop ss */
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA16);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK + 4);
    assert_int_equal(r->cs.shadow, CPU_SHADOW_MOV_SS);
}

TEST_WITH(s_protected, pop_ss_that_faults_leaves_the_stack_pointer)
{
    rig_put64(r, RIG_STACK, 0);
    RIG_RUN(r, 8, 0x17);
    assert_int_equal(s_vector(r), VEC_GP);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 16);
}

TEST_WITH(s_protected, lss_loads_both)
{
    r->cs.gpr[REG_RBX] = RIG_DATA;
    rig_put64(r, RIG_DATA, 0x25000 | (uint64_t)S_DATA << 32);
    r->cs.seg[SEG_SS].selector = 0x77;
    RIG_RUN(r, 1, 0x0f, 0xb2, 0x23); /* lss esp,[ebx] */
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA);
    assert_int_equal(r->cs.gpr[REG_RSP], 0x25000);
}

TEST_WITH(s_long, long_mode_takes_a_null_ss_outside_of_user_mode)
{
    r->cs.gpr[REG_RAX] = 0;
    RIG_RUN(r, 2, 0x8e, 0xd0, 0x50); /* mov ss,eax; push rax */
    assert_int_equal(r->cs.seg[SEG_SS].selector, 0);
    assert_false(r->cs.seg[SEG_SS].attr & SEG_ATTR_P);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 8);
}

TEST_WITH(s_protected, mov_to_cs_is_undefined)
{
    RIG_RUN(r, 8, 0x8e, 0xc8);
    assert_int_equal(s_vector(r), VEC_UD);
}
