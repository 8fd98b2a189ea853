/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/interp/decode.h"
#include "engine/interp/int.h"
#include "engine/interp/sys.h"
#include "tests/unit/engine/interp/rigtest.h"

static struct insn insn;

static void set_mode(struct rig *r, void (*mode)(struct rig *))
{
    mode(r);
    r->vm.engine->set(r->vcpu, &r->cs);
}

static void protected32(struct rig *r)
{
    rig_protected(r, true);
}

static void protected16(struct rig *r)
{
    rig_protected(r, false);
}

/* As in memory, followed by NOPs. */
static enum decode_result decode(struct rig *r, const uint8_t *bytes, size_t len)
{
    uint8_t buf[15];

    memset(buf, 0x90, sizeof(buf));
    memcpy(buf, bytes, len);
    return decode_insn(r->vcpu->engine, buf, sizeof(buf), &insn);
}

#define DECODE(...) \
    decode(r, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* The function that does what these bytes say. */
#define IS(want, ...)      (DECODE(__VA_ARGS__), assert_ptr_equal(insn.fn, want))
#define IS_NOT(other, ...) (DECODE(__VA_ARGS__), assert_ptr_not_equal(insn.fn, other))

static struct rig *rig_486(void)
{
    return rig_new_model("486");
}

TEST_WITH(rig_new, memory_operand_has_base_index_scale_and_displacement)
{
    set_mode(r, rig_long);
    DECODE(0x49, 0x8b, 0x44, 0xd4, 0x10); /* mov rax,[r12+rdx*8+0x10] */
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_MOV);
    assert_int_equal(insn.len, 5);
    assert_int_equal(insn.reg, REG_RAX);
    assert_int_equal(insn.base, 12);
    assert_int_equal(insn.index, REG_RDX);
    assert_int_equal(insn.scale, 3);
    assert_int_equal(insn.disp, 16);
    assert_int_equal(insn.asize, 8);
    assert_int_equal(insn.msize, 8);
    assert_int_equal(insn.seg, SEG_DS);
    assert_int_equal(insn.flags, INSN_MEM | INSN_LOADS);
}

TEST_WITH(rig_new, rbp_and_rsp_bases_use_the_stack_segment)
{
    set_mode(r, protected32);
    DECODE(0x8b, 0x45, 0x04);
    assert_int_equal(insn.seg, SEG_SS);
    DECODE(0x8b, 0x04, 0x24);
    assert_int_equal(insn.seg, SEG_SS);
    DECODE(0x2e, 0x8b, 0x45, 0x04);
    assert_int_equal(insn.seg, SEG_CS);
}

TEST_WITH(rig_new, rip_relative_operand_has_rip_as_base)
{
    set_mode(r, rig_long);
    DECODE(0x8b, 0x05, 0x10, 0x00, 0x00, 0x00);
    assert_int_equal(insn.base, R_RIP);
    assert_int_equal(insn.disp, 16);
}

TEST_WITH(rig_new, sixteen_bit_addresses_have_two_registers)
{
    set_mode(r, rig_real);
    DECODE(0x8b, 0x42, 0xfe); /* mov ax,[bp+si-2] */
    assert_int_equal(insn.asize, 2);
    assert_int_equal(insn.base, REG_RBP);
    assert_int_equal(insn.index, REG_RSI);
    assert_int_equal(insn.seg, SEG_SS);
    assert_int_equal(insn.disp, -2);
}

TEST_WITH(rig_new, fs_override_survives_in_64_bit_code_and_ds_does_not)
{
    set_mode(r, rig_long);
    DECODE(0x64, 0x8b, 0x00);
    assert_int_equal(insn.seg, SEG_FS);
    DECODE(0x3e, 0x8b, 0x00);
    assert_true(insn.seg < SEG_FS);
}

TEST_WITH(rig_new, high_byte_registers_are_marked)
{
    set_mode(r, rig_long);
    DECODE(0x88, 0xe0); /* mov al,ah */
    assert_int_equal(insn.rm, 0 | R_HIGH);
    DECODE(0x40, 0x88, 0xe0); /* mov al,spl */
    assert_int_equal(insn.rm, REG_RSP);
}

TEST_WITH(rig_new, instruction_that_does_not_end_asks_for_more)
{
    static const uint8_t part[] = {0x48, 0xb8, 1, 2, 3};

    set_mode(r, rig_long);
    assert_int_equal(decode_insn(r->vcpu->engine, part, sizeof(part), &insn), DECODE_MORE);
}

TEST_WITH(rig_new, more_than_15_bytes_raise_gp)
{
    set_mode(r, rig_long);
    IS(op_gp0, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
       0x66);
}

TEST_WITH(rig_new, lock_is_refused_on_registers_and_on_instructions_without_it)
{
    set_mode(r, rig_long);
    IS(op_ud, 0xf0, 0x01, 0xc0); /* lock add eax,eax */
    IS(op_ud, 0xf0, 0x8b, 0x00); /* lock mov eax,[rax] */
    IS(op_ud, 0xf0, 0x39, 0x00); /* lock cmp [rax],eax */
    IS(op_ud, 0xf0, 0x03, 0x00); /* lock add eax,[rax] */
    IS_NOT(op_ud, 0xf0, 0x01, 0x00);
    assert_true(insn.flags & INSN_LOCK);
}

TEST_WITH(rig_new, opcodes_gone_from_64_bit_mode_raise_ud)
{
    static const uint8_t gone[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                                   0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea};

    for (unsigned n = 0; n < ARRAY_LEN(gone); n++) {
        set_mode(r, rig_long);
        DECODE(gone[n]);
        assert_ptr_equal(insn.fn, op_ud);
        set_mode(r, protected32);
        DECODE(gone[n]);
        assert_ptr_not_equal(insn.fn, op_ud);
    }
}

TEST_WITH(rig_new, real_mode_refuses_vex_and_protected_mode_instructions)
{
    set_mode(r, rig_real);
    IS(op_ud, 0xc5, 0xf8, 0x58, 0xc1);         /* vaddps, or LDS with a register: neither exists */
    IS(op_ud, 0x0f, 0x00, 0xc0);               /* sldt ax */
    IS(op_ud, 0x63, 0xc0);                     /* arpl ax,ax */
    IS(op_lgdt, 0x0f, 0x01, 0x16, 0x00, 0x10); /* lgdt [0x1000] */
}

TEST_WITH(rig_new, real_mode_knows_32_bit_operands_and_addresses)
{
    set_mode(r, rig_real);
    DECODE(0x66, 0x67, 0x8b, 0x44, 0x98, 0x04); /* mov eax,[eax+ebx*4+4] */
    assert_int_equal(insn.len, 6);
    assert_int_equal(insn.asize, 4);
    assert_int_equal(insn.msize, 4);
    assert_int_equal(insn.index, REG_RBX);
}

TEST_WITH(rig_new, code_sizes_differ_in_what_the_same_bytes_mean)
{
    set_mode(r, protected16);
    DECODE(0xb8, 0x34, 0x12, 0x90, 0x90);
    assert_int_equal(insn.len, 3);
    set_mode(r, protected32);
    DECODE(0xb8, 0x34, 0x12, 0x90, 0x90);
    assert_int_equal(insn.len, 5);
    set_mode(r, protected32);
    DECODE(0x40);
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_INC);
}

TEST_WITH(rig_new, sreg_and_control_register_moves_go_to_the_system_handlers)
{
    set_mode(r, protected32);
    assert_int_equal(DECODE(0x8e, 0xd0), DECODE_END); /* mov ss,ax */
    assert_ptr_equal(insn.fn, op_mov_to_sreg);
    assert_int_equal(insn.reg, SEG_SS);
    assert_int_equal(DECODE(0x8e, 0xd8), DECODE_NEXT);
    assert_int_equal(DECODE(0x0f, 0x22, 0xc3), DECODE_END); /* mov cr0,ebx */
    assert_ptr_equal(insn.fn, op_mov_to_cr);
    assert_int_equal(insn.reg, 0);
    assert_int_equal(insn.rm, REG_RBX);
    IS(op_mov_from_dr, 0x0f, 0x21, 0xf8); /* mov eax,dr7 */
    assert_int_equal(insn.reg, 7);
    IS(op_ud, 0x8e, 0xc8); /* mov cs,ax */
}

TEST_WITH(rig_new, far_pointers_carry_selector_and_offset)
{
    set_mode(r, protected32);
    assert_int_equal(DECODE(0xea, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00), DECODE_END);
    assert_ptr_equal(insn.fn, op_jmp_far_imm);
    assert_int_equal(insn.imm, 0x12345678);
    assert_int_equal(insn.disp, 8);
    assert_int_equal(insn.osize, 4);
    IS(op_call_far_mem, 0xff, 0x18);        /* call far [eax] */
    IS(op_ret_far, 0x66, 0xca, 0x06, 0x00); /* retf 6 */
    assert_int_equal(insn.osize, 2);
    assert_int_equal(insn.imm, 6);
}

TEST_WITH(rig_new, stack_instructions_default_to_64_bits_in_64_bit_code)
{
    set_mode(r, rig_long);
    DECODE(0x50);
    assert_int_equal(insn.osize, 8);
    DECODE(0x66, 0x50);
    assert_int_equal(insn.osize, 2);
    DECODE(0x6a, 0xff);
    assert_int_equal(insn.osize, 8);
    assert_true(insn.imm == UINT64_MAX);
    DECODE(0x9c);
    assert_int_equal(insn.osize, 8);
    DECODE(0x0f, 0xa0); /* push fs */
    assert_int_equal(insn.osize, 8);
    assert_int_equal(insn.reg, SEG_FS);
    DECODE(0x48, 0xcf); /* iretq */
    assert_int_equal(insn.osize, 8);
    DECODE(0xcf);
    assert_int_equal(insn.osize, 4);
}

TEST_WITH(rig_new, string_instructions_take_the_source_override)
{
    set_mode(r, protected32);
    DECODE(0x26, 0xa4); /* movsb with es: */
    assert_int_equal(insn.seg, SEG_ES);
    DECODE(0xa4);
    assert_int_equal(insn.seg, SEG_DS);
    DECODE(0xf3, 0x66, 0xa5);
    assert_int_equal(insn.osize, 2);
    assert_true(insn.flags & INSN_REP);
    DECODE(0xf2, 0xae);
    assert_true(insn.flags & INSN_REPNE);
    DECODE(0xf2, 0xa4); /* REPNE MOVS repeats like REP */
    assert_true(insn.flags & (INSN_REP | INSN_REPNE));
}

TEST_WITH(rig_new, endbr_and_wide_nops_do_nothing)
{
    set_mode(r, rig_long);
    IS(op_nop, 0xf3, 0x0f, 0x1e, 0xfa);
    IS(op_nop, 0x0f, 0x1f, 0x44, 0x00, 0x00);
    IS(op_nop, 0x0f, 0x1a, 0xc0); /* BNDMOV's place */
}

TEST_WITH(rig_486, features_the_model_lacks_raise_ud)
{
    set_mode(r, protected32);
    IS(op_ud, 0x0f, 0x44, 0xc1);     /* cmovz */
    IS(op_ud, 0x0f, 0x31);           /* rdtsc */
    IS(op_ud, 0x0f, 0x58, 0xc1);     /* addps */
    IS(op_ud, 0x0f, 0xc7, 0x08);     /* cmpxchg8b */
    IS_NOT(op_ud, 0x0f, 0xb1, 0x08); /* cmpxchg */
    DECODE(0xf3, 0x0f, 0xbd, 0xc1);  /* lzcnt: BSR with a useless prefix */
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_BSR);
    DECODE(0xf3, 0x0f, 0xbc, 0xc1);
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_BSF);
}

TEST_WITH(rig_new, sib_without_a_base_has_none_with_rex_b_and_32_bit_addresses)
{
    set_mode(r, rig_long);
    DECODE(0x67, 0x4b, 0x8d, 0x2c, 0x25, 0x5b, 0x15, 0xcb, 0x6d); /* lea rbp,[r12d+0x6dcb155b] */
    assert_int_equal(insn.base, R_NONE);
    assert_int_equal(insn.index, 12);
    assert_int_equal(insn.disp, 0x6dcb155b);
}

TEST_WITH(rig_new, knights_corner_vex_forms_raise_ud)
{
    set_mode(r, rig_long);
    IS(op_ud, 0xc4, 0xe1, 0xfa, 0xb8, 0xea); /* popcnt */
}

TEST_WITH(rig_new, instructions_without_a_row_raise_ud)
{
    set_mode(r, rig_long);
    IS(op_ud, 0x0f, 0x01, 0xee);       /* rdpkru */
    IS(op_ud, 0x0f, 0x01, 0xfc);       /* clzero */
    IS(op_ud, 0x0f, 0xc7, 0x20);       /* xsavec */
    IS(op_ud, 0xf3, 0x0f, 0xae, 0x30); /* clrssbsy and its like */
    IS(op_ud, 0x0f, 0x04);
}
