/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/engine/interp/rigtest.h"
#include "tests/unit/engine/interp/sysrig.h"

#define TARGET 0x2000u
#define NONE   0xffff

/* ---- JMP and CALL in protected mode ---- */

struct jump_case {
    uint16_t sel;
    bool user;
    uint16_t vector, error; /* or NONE and the new CS */
};

static const struct jump_case jump_cases[] = {
    {S_CODE32, false, NONE, S_CODE32},
    {S_CODE32 | 3, false, VEC_GP, S_CODE32},
    {S_CODE16, false, NONE, S_CODE16},
    {S_XO, false, NONE, S_XO},
    {0, false, VEC_GP, 0},
    {S_LAST, false, VEC_GP, S_LAST},
    {S_DATA, false, VEC_GP, S_DATA},
    {S_CODE_NP, false, VEC_NP, S_CODE_NP},
    {S_CODE32_3, false, VEC_GP, S_CODE32_3 & ~3},
    {S_LDT_SEL, false, VEC_GP, S_LDT_SEL},
    {S_TSS_SEL, false, VEC_GP, S_TSS_SEL}, /* busy */
    {S_CONFORMING, true, NONE, S_CONFORMING | 3},
    {S_CODE32_3, true, NONE, S_CODE32_3},
    {S_CODE32, true, VEC_GP, S_CODE32},
    {S_TSS2_SEL, true, VEC_GP, S_TSS2_SEL},
};

TEST(far_jumps_follow_the_table)
{
    for (unsigned n = 0; n < ARRAY_LEN(jump_cases); n++) {
        const struct jump_case *k = &jump_cases[n];
        struct rig *r = s_protected();
        uint8_t code[] = {0xea, 0, TARGET >> 8, 0, 0, (uint8_t)k->sel, (uint8_t)(k->sel >> 8)};

        rig_write(r, RIG_CODE, code, sizeof(code));
        RIG_PUT(r, TARGET, 0x0f, 0x0b);
        if (k->user)
            s_user(r);
        rig_run(r, 8);
        /* UD2 at the target: the frame's CS tells where it was. */
        assert_int_equal(s_vector(r), k->vector == NONE ? VEC_UD : k->vector);
        assert_int_equal(s_frame(r, k->vector == NONE ? 1 : 0), k->error);
        rig_free(r);
    }
}

TEST_WITH(s_protected, far_jump_beyond_the_limit_is_gp_0)
{
    s_gdt(r, S_CODE16, s_desc(0, 0x1fff, 0x009b));
    RIG_RUN(r, 8, 0xea, 0, TARGET >> 8, 0, 0, S_CODE16, 0);
    TOOK(r, VEC_GP, 0, RIG_CODE);
}

TEST_WITH(s_protected, far_call_and_return_balance)
{
    RIG_PUT(r, TARGET, 0xca, 8, 0); /* retf 8 */
    RIG_RUN(r, 1, 0x9a, 0, TARGET >> 8, 0, 0, S_CONFORMING, 0);
    assert_int_equal(r->cs.seg[SEG_CS].selector, S_CONFORMING);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 8);
    assert_int_equal(s_frame(r, 0), RIG_CODE + 7);
    assert_int_equal(s_frame(r, 1), S_CODE32);
    rig_run(r, 1);
    assert_int_equal(r->cs.seg[SEG_CS].selector, S_CODE32);
    assert_int_equal(r->cs.rip, RIG_CODE + 7);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK + 8);
}

/* ---- gates ---- */

TEST_WITH(s_protected, call_gate_switches_stacks_and_copies_parameters)
{
    s_user(r);
    s_gdt(r, S_GATE, s_gate_desc(S_CODE32, TARGET, 0xec, 2));
    rig_put64(r, S_STACK3, 0x2222222211111111);
    RIG_RUN(r, 1, 0x9a, 0, 0, 0, 0, S_GATE | 3, 0);
    assert_int_equal(r->cs.seg[SEG_CS].selector, S_CODE32);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 24);
    assert_int_equal(s_frame(r, 0), RIG_CODE + 7);
    assert_int_equal(s_frame(r, 1), S_CODE32_3);
    assert_int_equal(s_frame(r, 2), 0x11111111);
    assert_int_equal(s_frame(r, 3), 0x22222222);
    assert_int_equal(s_frame(r, 4), S_STACK3);
    assert_int_equal(s_frame(r, 5), S_DATA_3);
}

TEST_WITH(s_protected, return_to_user_drops_inner_segments)
{
    rig_put64(r, RIG_STACK, TARGET | (uint64_t)S_CODE32_3 << 32);
    rig_put64(r, RIG_STACK + 12, S_STACK3 | (uint64_t)S_DATA_3 << 32);
    r->cs.seg[SEG_ES].selector = S_DATA_3;
    r->cs.seg[SEG_ES].attr |= SEG_ATTR_DPL;
    RIG_RUN(r, 1, 0xca, 4, 0);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK3 + 4);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA_3);
    assert_int_equal(r->cs.seg[SEG_ES].selector, S_DATA_3);
    assert_int_equal(r->cs.seg[SEG_DS].selector, 0);
    assert_false(r->cs.seg[SEG_DS].attr & SEG_ATTR_P);
}

TEST_WITH(s_protected, return_to_an_inner_level_is_gp)
{
    s_user(r);
    rig_put64(r, S_STACK3, TARGET | (uint64_t)S_CODE32 << 32);
    RIG_RUN(r, 8, 0xcb);
    TOOK(r, VEC_GP, S_CODE32);
}

TEST_WITH(s_long, long_mode_call_gate_pushes_the_old_stack)
{
    s_user(r);
    s_gdt(r, S_GATE, s_gate_desc(S_CODE64, TARGET, 0xec, 0));
    s_gdt(r, S_GATE + 8, 0);
    rig_put64(r, RIG_DATA, (uint64_t)(S_GATE | 3) << 32);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 1, 0xff, 0x1b); /* call far [rbx] */
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 32);
    assert_int_equal(r->cs.seg[SEG_SS].selector, 0);
    assert_int_equal(s_frame(r, 0), RIG_CODE + 2);
    assert_int_equal(s_frame(r, 1), S_CODE64_3);
    assert_int_equal(s_frame(r, 2), S_STACK3);
    assert_int_equal(s_frame(r, 3), S_DATA_3);
}

TEST_WITH(s_long, long_mode_gate_with_a_bad_upper_half_is_gp)
{
    s_gdt(r, S_GATE, s_gate_desc(S_CODE64, TARGET, 0xec, 0));
    s_gdt(r, S_GATE + 8, 0x89ull << 40);
    rig_put64(r, RIG_DATA, (uint64_t)S_GATE << 32);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 8, 0xff, 0x1b);
    TOOK(r, VEC_GP, S_GATE);
}

TEST_WITH(s_long, long_mode_refuses_tasks)
{
    rig_put64(r, RIG_DATA, (uint64_t)S_TSS2_SEL << 32);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 8, 0xff, 0x2b); /* jmp far [rbx] */
    TOOK(r, VEC_GP, S_TSS2_SEL);
}

/* ---- IRET ---- */

TEST_WITH(s_protected, iret_to_user_sets_flags_by_privilege)
{
    rig_put64(r, RIG_STACK, TARGET | (uint64_t)S_CODE32_3 << 32);
    rig_put64(r, RIG_STACK + 8,
              (RFLAGS_IF | RFLAGS_IOPL | RFLAGS_AC | 1) | (uint64_t)S_STACK3 << 32);
    rig_put64(r, RIG_STACK + 16, S_DATA_3);
    RIG_RUN(r, 1, 0xcf);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK3);
    assert_int_equal(r->cs.rflags, RFLAGS_ONE | RFLAGS_IF | RFLAGS_IOPL | RFLAGS_AC | 1);
}

TEST_WITH(s_protected, iret_in_user_mode_keeps_if_and_iopl)
{
    s_user(r);
    r->cs.rflags |= RFLAGS_IF;
    rig_put64(r, S_STACK3, TARGET | (uint64_t)S_CODE32_3 << 32);
    rig_put64(r, S_STACK3 + 8, RFLAGS_IOPL | RFLAGS_ID);
    RIG_RUN(r, 1, 0xcf);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK3 + 12);
    assert_int_equal(r->cs.rflags, RFLAGS_ONE | RFLAGS_IF | RFLAGS_ID);
}

TEST_WITH(s_protected, iret_to_v86_loads_all_segments)
{
    const uint32_t frame[] = {0x10, 0x200, (uint32_t)RFLAGS_VM | 0x3202, 0xfff0, 0x300, 1, 2, 3, 4};

    rig_write(r, RIG_STACK, frame, sizeof(frame));
    RIG_PUT(r, 0x2010, 0x8c, 0xd8, 0xb0, 0x55); /* mov ax,ds */
    RIG_RUN(r, 1, 0xcf);
    assert_int_equal(r->cs.seg[SEG_CS].base, 0x2000);
    assert_int_equal(r->cs.seg[SEG_SS].base, 0x3000);
    assert_int_equal(r->cs.seg[SEG_GS].base, 0x40);
    assert_int_equal(r->cs.seg[SEG_DS].attr, 0xf3);
    assert_int_equal(r->cs.gpr[REG_RSP], 0xfff0);
    assert_true(r->cs.rflags & RFLAGS_VM);
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RAX] & 0xffff, 2);
}

TEST_WITH(s_protected, iret_in_v86_without_iopl_is_gp)
{
    s_v86(r);
    RIG_RUN(r, 2, 0xcf);
    assert_int_equal(s_vector(r), VEC_GP);
}

TEST_WITH(s_long, iretq_pops_the_stack_at_the_same_level)
{
    rig_put64(r, RIG_STACK, TARGET);
    rig_put64(r, RIG_STACK + 8, S_CODE64);
    rig_put64(r, RIG_STACK + 16, RFLAGS_ONE | RFLAGS_RF);
    rig_put64(r, RIG_STACK + 24, 0x12345);
    rig_put64(r, RIG_STACK + 32, 0);
    RIG_RUN(r, 1, 0x48, 0xcf);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], 0x12345);
    assert_int_equal(r->cs.seg[SEG_SS].selector, 0);
    assert_true(r->cs.rflags & RFLAGS_RF);
}

TEST_WITH(s_long, iretq_to_a_non_canonical_address_is_gp_0)
{
    rig_put64(r, RIG_STACK, 0x800000000000);
    rig_put64(r, RIG_STACK + 8, S_CODE64);
    rig_put64(r, RIG_STACK + 16, RFLAGS_ONE);
    rig_put64(r, RIG_STACK + 24, RIG_STACK);
    rig_put64(r, RIG_STACK + 32, S_DATA);
    RIG_RUN(r, 8, 0x48, 0xcf);
    TOOK(r, VEC_GP, 0, RIG_CODE);
}

TEST_WITH(s_long, iretq_goes_to_compatibility_mode)
{
    RIG_PUT(r, TARGET, 0x40); /* inc eax there; a REX prefix in 64-bit code */
    rig_put64(r, RIG_STACK, TARGET);
    rig_put64(r, RIG_STACK + 8, S_CODE32_3);
    rig_put64(r, RIG_STACK + 16, RFLAGS_ONE);
    rig_put64(r, RIG_STACK + 24, S_STACK3);
    rig_put64(r, RIG_STACK + 32, S_DATA_3);
    r->cs.gpr[REG_RAX] = 0x100000001;
    RIG_RUN(r, 2, 0x48, 0xcf);
    assert_int_equal(r->cs.gpr[REG_RAX], 2);
}

TEST_WITH(rig_new_real, real_mode_far_call_and_iret)
{
    RIG_PUT(r, 0x2010, 0xcf);
    r->cs.gpr[REG_RSP] = 0xeffe;
    rig_put64(r, 0xeffe, 0x0ed7 | RFLAGS_IOPL);
    RIG_RUN(r, 1, 0x9a, 0x10, 0x00, 0x00, 0x02); /* call 0200:0010 */
    assert_int_equal(r->cs.seg[SEG_CS].base, 0x2000);
    assert_int_equal(r->cs.gpr[REG_RSP], 0xeffa);
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, RIG_CODE + 5);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0);
    assert_int_equal(r->cs.gpr[REG_RSP], 0xf000);
    assert_int_equal(r->cs.rflags, (0x0ed7 | RFLAGS_IOPL) & ~0x8028ull);
}

/* ---- tasks ---- */

static void put_tss32(struct rig *r, uint32_t eip, uint32_t esp)
{
    static const uint32_t zero[0x68 / 4];

    rig_write(r, S_TSS2, zero, sizeof(zero));
    rig_put64(r, S_TSS2 + 0x20, eip | (uint64_t)RFLAGS_ONE << 32);
    rig_put64(r, S_TSS2 + 0x28, 0xaaaaaaaa);
    rig_put64(r, S_TSS2 + 0x38, esp);
    rig_put64(r, S_TSS2 + 0x48, S_DATA);
    rig_put64(r, S_TSS2 + 0x4c, S_CODE32 | (uint64_t)S_DATA << 32);
    rig_put64(r, S_TSS2 + 0x54, S_DATA);
}

TEST_WITH(s_protected, jump_to_a_task_saves_and_loads)
{
    put_tss32(r, TARGET, S_STACK0);
    r->cs.gpr[REG_RDX] = 0x5555;
    r->cs.dr7 |= 0x3;
    RIG_RUN(r, 1, 0xea, 0, 0, 0, 0, S_TSS2_SEL, 0);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RAX], 0xaaaaaaaa);
    assert_int_equal(r->cs.gpr[REG_RDX], 0);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0);
    assert_int_equal(r->cs.seg[SEG_DS].selector, S_DATA);
    assert_int_equal(r->cs.seg[SEG_FS].selector, 0);
    assert_int_equal(r->cs.tr.selector, S_TSS2_SEL);
    assert_true(r->cs.cr0 & CR0_TS);
    assert_int_equal(r->cs.dr7 & 3, 2);
    assert_false(r->cs.rflags & RFLAGS_NT);
    assert_int_equal(rig_get(r, S_TSS + 0x20, 4), RIG_CODE + 7);
    assert_int_equal(rig_get(r, S_TSS + 0x30, 4), 0x5555);
    assert_int_equal(rig_get(r, S_TSS + 0x4c, 2), 8);
    assert_int_equal(rig_get(r, S_GDT + S_TSS_SEL + 5, 1), 0x89);
    assert_int_equal(rig_get(r, S_GDT + S_TSS2_SEL + 5, 1), 0x8b);
}

TEST_WITH(s_protected, call_of_a_task_gate_nests_and_iret_returns)
{
    put_tss32(r, TARGET, S_STACK0);
    RIG_PUT(r, TARGET, 0xcf);
    RIG_RUN(r, 1, 0x9a, 0, 0, 0, 0, S_TASKGATE, 0);
    assert_true(r->cs.rflags & RFLAGS_NT);
    assert_int_equal(rig_get(r, S_TSS2, 2), S_TSS_SEL);
    assert_int_equal(rig_get(r, S_GDT + S_TSS_SEL + 5, 1), 0x8b);
    rig_run(r, 1);
    assert_int_equal(r->cs.tr.selector, S_TSS_SEL);
    assert_int_equal(r->cs.rip, RIG_CODE + 7);
    assert_false(r->cs.rflags & RFLAGS_NT);
    assert_int_equal(rig_get(r, S_GDT + S_TSS2_SEL + 5, 1), 0x89);
    assert_int_equal(rig_get(r, S_TSS2 + 0x24, 4) & RFLAGS_NT, 0);
}

TEST_WITH(s_protected, fault_through_a_task_gate_pushes_its_code_there)
{
    put_tss32(r, TARGET, S_STACK0);
    RIG_PUT(r, TARGET, 0xf4);
    rig_put64(r, S_IDT + VEC_GP * 8, s_gate_desc(S_TSS2_SEL, 0, 0x85, 0));
    r->cs.gpr[REG_RAX] = S_TSS_SEL;
    RIG_RUN(r, 8, 0x8e, 0xd8);
    assert_int_equal(r->cs.rip, TARGET + 1);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 4);
    assert_int_equal(s_frame(r, 0), S_TSS_SEL);
    assert_int_equal(rig_get(r, S_TSS + 0x20, 4), RIG_CODE);
    assert_true(rig_get(r, S_TSS + 0x24, 4) & RFLAGS_RF);
}

TEST_WITH(s_protected, bad_segment_of_the_new_task_faults_there)
{
    put_tss32(r, TARGET, S_STACK0);
    rig_put64(r, S_TSS2 + 0x54, S_XO); /* DS */
    RIG_RUN(r, 8, 0xea, 0, 0, 0, 0, S_TSS2_SEL, 0);
    TOOK(r, VEC_TS, S_XO, TARGET);
    assert_int_equal(r->cs.tr.selector, S_TSS2_SEL);
}

TEST_WITH(s_protected, t_bit_traps_in_the_new_task)
{
    put_tss32(r, TARGET, S_STACK0);
    rig_put64(r, S_TSS2 + 0x64 - 4, (uint64_t)1 << 32);
    RIG_RUN(r, 8, 0xea, 0, 0, 0, 0, S_TSS2_SEL, 0);
    TOOK(r, VEC_DB, TARGET);
    assert_int_equal(r->cs.dr6, 0xffff8ff0);
}

TEST_WITH(s_protected, sixteen_bit_task_has_words)
{
    const uint16_t tss[] = {0, 0, 0,      0, 0, 0, 0,      TARGET,   2,        0x1111, 0x2222,
                            3, 4, 0xf000, 6, 7, 8, S_DATA, S_CODE16, S_DATA16, S_DATA, 0};

    rig_write(r, S_TSS2, tss, sizeof(tss));
    RIG_RUN(r, 1, 0xea, 0, 0, 0, 0, S_TSS16_SEL, 0);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RAX], 0x1111);
    assert_int_equal(r->cs.gpr[REG_RSP] & 0xffff, 0xf000);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA16);
    assert_int_equal(r->cs.seg[SEG_CS].selector, S_CODE16);
}

TEST_WITH(s_protected, iret_to_a_task_that_is_not_busy_is_ts)
{
    put_tss32(r, TARGET, S_STACK0);
    rig_put64(r, S_TSS, S_TSS2_SEL);
    r->cs.rflags |= RFLAGS_NT;
    rig_put64(r, S_TSS + 4, S_STACK0 | (uint64_t)S_DATA << 32);
    RIG_RUN(r, 8, 0xcf);
    TOOK(r, VEC_TS, S_TSS2_SEL);
}
