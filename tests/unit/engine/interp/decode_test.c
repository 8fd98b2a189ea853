/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/interp/decode.h"
#include "engine/interp/int.h"
#include "engine/interp/sys.h"
#include "tests/unit/engine/interp/rig.h"

static struct rig *rig;
static struct insn insn;

static int setup(void **state)
{
    (void)state;
    rig = rig_new();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_free(rig);
    return 0;
}

static void set_mode(void (*mode)(struct rig *))
{
    mode(rig);
    rig->vm.engine->set(rig->vcpu, &rig->cs);
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
static enum decode_result decode(const uint8_t *bytes, size_t len)
{
    uint8_t buf[15];

    memset(buf, 0x90, sizeof(buf));
    memcpy(buf, bytes, len);
    return decode_insn(rig->vcpu->engine, buf, sizeof(buf), &insn);
}

#define DECODE(...) decode((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void memory_operand_has_base_index_scale_and_displacement(void **state)
{
    (void)state;
    set_mode(rig_long);
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

static void rbp_and_rsp_bases_use_the_stack_segment(void **state)
{
    (void)state;
    set_mode(protected32);
    DECODE(0x8b, 0x45, 0x04);
    assert_int_equal(insn.seg, SEG_SS);
    DECODE(0x8b, 0x04, 0x24);
    assert_int_equal(insn.seg, SEG_SS);
    DECODE(0x2e, 0x8b, 0x45, 0x04);
    assert_int_equal(insn.seg, SEG_CS);
}

static void rip_relative_operand_has_rip_as_base(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x8b, 0x05, 0x10, 0x00, 0x00, 0x00);
    assert_int_equal(insn.base, R_RIP);
    assert_int_equal(insn.disp, 16);
}

static void sixteen_bit_addresses_have_two_registers(void **state)
{
    (void)state;
    set_mode(rig_real);
    DECODE(0x8b, 0x42, 0xfe); /* mov ax,[bp+si-2] */
    assert_int_equal(insn.asize, 2);
    assert_int_equal(insn.base, REG_RBP);
    assert_int_equal(insn.index, REG_RSI);
    assert_int_equal(insn.seg, SEG_SS);
    assert_int_equal(insn.disp, -2);
}

static void fs_override_survives_in_64_bit_code_and_ds_does_not(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x64, 0x8b, 0x00);
    assert_int_equal(insn.seg, SEG_FS);
    DECODE(0x3e, 0x8b, 0x00);
    assert_true(insn.seg < SEG_FS);
}

static void high_byte_registers_are_marked(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x88, 0xe0); /* mov al,ah */
    assert_int_equal(insn.rm, 0 | R_HIGH);
    DECODE(0x40, 0x88, 0xe0); /* mov al,spl */
    assert_int_equal(insn.rm, REG_RSP);
}

static void instruction_that_does_not_end_asks_for_more(void **state)
{
    static const uint8_t part[] = {0x48, 0xb8, 1, 2, 3};

    (void)state;
    set_mode(rig_long);
    assert_int_equal(decode_insn(rig->vcpu->engine, part, sizeof(part), &insn), DECODE_MORE);
}

static void more_than_15_bytes_raise_gp(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
           0x66);
    assert_ptr_equal(insn.fn, op_gp0);
}

static void lock_is_refused_on_registers_and_on_instructions_without_it(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0xf0, 0x01, 0xc0); /* lock add eax,eax */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0xf0, 0x8b, 0x00); /* lock mov eax,[rax] */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0xf0, 0x39, 0x00); /* lock cmp [rax],eax */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0xf0, 0x03, 0x00); /* lock add eax,[rax] */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0xf0, 0x01, 0x00);
    assert_ptr_not_equal(insn.fn, op_ud);
    assert_true(insn.flags & INSN_LOCK);
}

static void opcodes_gone_from_64_bit_mode_raise_ud(void **state)
{
    static const uint8_t gone[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                                   0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea};

    (void)state;
    for (unsigned n = 0; n < ARRAY_LEN(gone); n++) {
        set_mode(rig_long);
        DECODE(gone[n]);
        assert_ptr_equal(insn.fn, op_ud);
        set_mode(protected32);
        DECODE(gone[n]);
        assert_ptr_not_equal(insn.fn, op_ud);
    }
}

static void real_mode_refuses_vex_and_protected_mode_instructions(void **state)
{
    (void)state;
    set_mode(rig_real);
    DECODE(0xc5, 0xf8, 0x58, 0xc1); /* vaddps, or LDS with a register: neither exists */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x00, 0xc0); /* sldt ax */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x63, 0xc0); /* arpl ax,ax */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x01, 0x16, 0x00, 0x10); /* lgdt [0x1000] */
    assert_ptr_equal(insn.fn, op_lgdt);
}

static void real_mode_knows_32_bit_operands_and_addresses(void **state)
{
    (void)state;
    set_mode(rig_real);
    DECODE(0x66, 0x67, 0x8b, 0x44, 0x98, 0x04); /* mov eax,[eax+ebx*4+4] */
    assert_int_equal(insn.len, 6);
    assert_int_equal(insn.asize, 4);
    assert_int_equal(insn.msize, 4);
    assert_int_equal(insn.index, REG_RBX);
}

static void code_sizes_differ_in_what_the_same_bytes_mean(void **state)
{
    (void)state;
    set_mode(protected16);
    DECODE(0xb8, 0x34, 0x12, 0x90, 0x90);
    assert_int_equal(insn.len, 3);
    set_mode(protected32);
    DECODE(0xb8, 0x34, 0x12, 0x90, 0x90);
    assert_int_equal(insn.len, 5);
    set_mode(protected32);
    DECODE(0x40);
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_INC);
}

static void sreg_and_control_register_moves_go_to_the_system_handlers(void **state)
{
    (void)state;
    set_mode(protected32);
    assert_int_equal(DECODE(0x8e, 0xd0), DECODE_END); /* mov ss,ax */
    assert_ptr_equal(insn.fn, op_mov_to_sreg);
    assert_int_equal(insn.reg, SEG_SS);
    assert_int_equal(DECODE(0x8e, 0xd8), DECODE_NEXT);
    assert_int_equal(DECODE(0x0f, 0x22, 0xc3), DECODE_END); /* mov cr0,ebx */
    assert_ptr_equal(insn.fn, op_mov_to_cr);
    assert_int_equal(insn.reg, 0);
    assert_int_equal(insn.rm, REG_RBX);
    DECODE(0x0f, 0x21, 0xf8); /* mov eax,dr7 */
    assert_ptr_equal(insn.fn, op_mov_from_dr);
    assert_int_equal(insn.reg, 7);
    DECODE(0x8e, 0xc8); /* mov cs,ax */
    assert_ptr_equal(insn.fn, op_ud);
}

static void far_pointers_carry_selector_and_offset(void **state)
{
    (void)state;
    set_mode(protected32);
    assert_int_equal(DECODE(0xea, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00), DECODE_END);
    assert_ptr_equal(insn.fn, op_jmp_far_imm);
    assert_int_equal(insn.imm, 0x12345678);
    assert_int_equal(insn.disp, 8);
    assert_int_equal(insn.osize, 4);
    DECODE(0xff, 0x18); /* call far [eax] */
    assert_ptr_equal(insn.fn, op_call_far_mem);
    DECODE(0x66, 0xca, 0x06, 0x00); /* retf 6 */
    assert_ptr_equal(insn.fn, op_ret_far);
    assert_int_equal(insn.osize, 2);
    assert_int_equal(insn.imm, 6);
}

static void stack_instructions_default_to_64_bits_in_64_bit_code(void **state)
{
    (void)state;
    set_mode(rig_long);
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

static void string_instructions_take_the_source_override(void **state)
{
    (void)state;
    set_mode(protected32);
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

static void endbr_and_wide_nops_do_nothing(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0xf3, 0x0f, 0x1e, 0xfa);
    assert_ptr_equal(insn.fn, op_nop);
    DECODE(0x0f, 0x1f, 0x44, 0x00, 0x00);
    assert_ptr_equal(insn.fn, op_nop);
    DECODE(0x0f, 0x1a, 0xc0); /* BNDMOV's place */
    assert_ptr_equal(insn.fn, op_nop);
}

static void features_the_model_lacks_raise_ud(void **state)
{
    (void)state;
    rig_free(rig);
    rig = rig_new_model("486");
    set_mode(protected32);
    DECODE(0x0f, 0x44, 0xc1); /* cmovz */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x31); /* rdtsc */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x58, 0xc1); /* addps */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0xc7, 0x08); /* cmpxchg8b */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0xb1, 0x08); /* cmpxchg */
    assert_ptr_not_equal(insn.fn, op_ud);
    DECODE(0xf3, 0x0f, 0xbd, 0xc1); /* lzcnt: BSR with a useless prefix */
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_BSR);
    DECODE(0xf3, 0x0f, 0xbc, 0xc1);
    assert_int_equal(insn.mnemonic, ZYDIS_MNEMONIC_BSF);
}

static void sib_without_a_base_has_none_with_rex_b_and_32_bit_addresses(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x67, 0x4b, 0x8d, 0x2c, 0x25, 0x5b, 0x15, 0xcb, 0x6d); /* lea rbp,[r12d+0x6dcb155b] */
    assert_int_equal(insn.base, R_NONE);
    assert_int_equal(insn.index, 12);
    assert_int_equal(insn.disp, 0x6dcb155b);
}

static void knights_corner_vex_forms_raise_ud(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0xc4, 0xe1, 0xfa, 0xb8, 0xea); /* popcnt */
    assert_ptr_equal(insn.fn, op_ud);
}

static void instructions_without_a_row_raise_ud(void **state)
{
    (void)state;
    set_mode(rig_long);
    DECODE(0x0f, 0x01, 0xee); /* rdpkru */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x01, 0xfc); /* clzero */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0xc7, 0x20); /* xsavec */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0xf3, 0x0f, 0xae, 0x30); /* clrssbsy and its like */
    assert_ptr_equal(insn.fn, op_ud);
    DECODE(0x0f, 0x04);
    assert_ptr_equal(insn.fn, op_ud);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(memory_operand_has_base_index_scale_and_displacement),
        T(rbp_and_rsp_bases_use_the_stack_segment),
        T(rip_relative_operand_has_rip_as_base),
        T(sixteen_bit_addresses_have_two_registers),
        T(fs_override_survives_in_64_bit_code_and_ds_does_not),
        T(high_byte_registers_are_marked),
        T(instruction_that_does_not_end_asks_for_more),
        T(more_than_15_bytes_raise_gp),
        T(lock_is_refused_on_registers_and_on_instructions_without_it),
        T(opcodes_gone_from_64_bit_mode_raise_ud),
        T(real_mode_refuses_vex_and_protected_mode_instructions),
        T(real_mode_knows_32_bit_operands_and_addresses),
        T(code_sizes_differ_in_what_the_same_bytes_mean),
        T(sreg_and_control_register_moves_go_to_the_system_handlers),
        T(far_pointers_carry_selector_and_offset),
        T(stack_instructions_default_to_64_bits_in_64_bit_code),
        T(string_instructions_take_the_source_override),
        T(endbr_and_wide_nops_do_nothing),
        T(features_the_model_lacks_raise_ud),
        T(sib_without_a_base_has_none_with_rex_b_and_32_bit_addresses),
        T(knights_corner_vex_forms_raise_ud),
        T(instructions_without_a_row_raise_ud),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
