/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer instructions where a case needs naming. That all of them equal the host CPU on random
 * operands is the business of tests/cpu.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/engine/interp/rig.h"

static struct rig *rig;

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

static uint64_t flags(void)
{
    return rig->cs.rflags & RFLAGS_ARITH;
}

/* ---- arithmetic ---- */

static void adc_takes_the_carry_of_the_add_before(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x48, 0x01, 0xd8, 0x48, 0x11, 0xd1); /* add rax,rbx; adc rcx,rdx */
    rig->cs.gpr[REG_RAX] = UINT64_MAX;
    rig->cs.gpr[REG_RBX] = 1;
    rig->cs.gpr[REG_RDX] = 0;
    rig_run(rig, 2);
    assert_true(rig->cs.gpr[REG_RAX] == 0);
    assert_true(rig->cs.gpr[REG_RCX] == 1);
    assert_true(flags() == 0);
    assert_true(rig->cs.rip == RIG_CODE + 6);
}

static void thirty_two_bit_results_clear_the_upper_half_and_sixteen_bit_ones_do_not(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x01, 0xd8, 0x66, 0x01, 0xd9, 0x00,
                   0xdc); /* add eax,ebx; add cx,bx; add ah,bl */
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = 0x1111222233334444;
    rig->cs.gpr[REG_RBX] = 0x10001;
    rig_run(rig, 3);
    assert_true(rig->cs.gpr[REG_RAX] == 0x33344545);
    assert_true(rig->cs.gpr[REG_RCX] == 0x1111222233334445);
}

static void inc_keeps_carry(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xf9, 0x40); /* stc; inc eax */
    rig->cs.gpr[REG_RAX] = 0x7fffffff;
    rig_run(rig, 2);
    assert_true(flags() == (RFLAGS_CF | RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF));
}

static void shift_by_zero_keeps_every_flag(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xd3, 0xe0); /* shl eax,cl */
    rig->cs.gpr[REG_RCX] = 32;
    rig->cs.rflags |= RFLAGS_ARITH;
    rig_run(rig, 1);
    assert_true(flags() == RFLAGS_ARITH);
}

static void division_by_zero_raises_de_at_the_instruction(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x90, 0xf7, 0xf3); /* nop; div ebx */
    rig->cs.gpr[REG_RAX] = 5;
    rig_run(rig, 10);
    assert_int_equal(rig->stop, VCPU_STOP_SHUTDOWN);
    assert_int_equal(rig_exception(rig), VEC_DE);
    assert_true(rig->cs.rip == RIG_CODE + 1);
    assert_true(rig->cs.gpr[REG_RAX] == 5);
    assert_true(rig->cs.icount == 2);
}

static void idiv_of_the_most_negative_by_minus_one_raises_de(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x48, 0xf7, 0xfb); /* idiv rbx */
    rig->cs.gpr[REG_RAX] = 1ull << 63;
    rig->cs.gpr[REG_RDX] = UINT64_MAX;
    rig->cs.gpr[REG_RBX] = UINT64_MAX;
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_DE);
}

static void idiv_takes_a_128_bit_dividend(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x48, 0xf7, 0xfb);
    rig->cs.gpr[REG_RAX] = 0;
    rig->cs.gpr[REG_RDX] = (uint64_t)-1; /* -2^64 */
    rig->cs.gpr[REG_RBX] = 16;
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RAX] == (uint64_t) - (1ll << 60));
    assert_true(rig->cs.gpr[REG_RDX] == 0);
}

/* ---- bits ---- */

static void bts_with_a_negative_register_reaches_below_its_operand(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x0f, 0xab, 0x0b); /* bts [ebx],ecx */
    rig->cs.gpr[REG_RBX] = RIG_DATA;
    rig->cs.gpr[REG_RCX] = (uint32_t)-31;
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_DATA - 4, 4) == 2);
}

static void bsf_of_zero_leaves_its_destination(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x48, 0x0f, 0xbc, 0xc3); /* bsf rax,rbx */
    rig->cs.gpr[REG_RAX] = 1234;
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RAX] == 1234);
    assert_true(flags() & RFLAGS_ZF);
}

/* ---- atomic ---- */

static void failed_cmpxchg_loads_the_accumulator(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0xf0, 0x48, 0x0f, 0xb1, 0x0b); /* lock cmpxchg [rbx],rcx */
    rig_put64(rig, RIG_DATA, 77);
    rig->cs.gpr[REG_RBX] = RIG_DATA;
    rig->cs.gpr[REG_RAX] = 76;
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RAX] == 77);
    assert_false(flags() & RFLAGS_ZF);
}

static void locked_add_across_pages_adds(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xf0, 0x01, 0x03); /* lock add [ebx],eax */
    rig_put64(rig, RIG_DATA + 0xffe, 0x0001ffff);
    rig->cs.gpr[REG_RBX] = RIG_DATA + 0xffe;
    rig->cs.gpr[REG_RAX] = 1;
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_DATA + 0xffe, 4) == 0x20000);
}

static void misaligned_cmpxchg16b_raises_gp(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x48, 0x0f, 0xc7, 0x0b);
    rig->cs.gpr[REG_RBX] = RIG_DATA + 8;
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_GP);
}

/* ---- strings ---- */

static void rep_movsb_onto_itself_plus_one_fills(void **state)
{
    uint8_t out[300];

    (void)state;
    RIG_CODE_BYTES(rig, 0xf3, 0xa4);
    rig_put64(rig, RIG_DATA, 0x5a);
    rig->cs.gpr[REG_RSI] = RIG_DATA;
    rig->cs.gpr[REG_RDI] = RIG_DATA + 1;
    rig->cs.gpr[REG_RCX] = 299;
    rig_run(rig, 1);
    rig_read(rig, RIG_DATA, out, sizeof(out));
    for (unsigned n = 0; n < sizeof(out); n++)
        assert_int_equal(out[n], 0x5a);
    assert_true(rig->cs.gpr[REG_RCX] == 0);
    assert_true(rig->cs.icount == 1);
    assert_true(rig->cs.rip == RIG_CODE + 2);
}

static void rep_movs_backwards_across_pages_moves(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xfd, 0xf3, 0xa5); /* std; rep movsd */
    for (unsigned n = 0; n < 2048; n++)
        rig_write(rig, RIG_DATA + n * 4, &n, 4);
    rig->cs.gpr[REG_RSI] = RIG_DATA + 2047 * 4;
    rig->cs.gpr[REG_RDI] = RIG_DATA + 2050 * 4 + 2;
    rig->cs.gpr[REG_RCX] = 2048;
    rig_run(rig, 2);
    assert_true(rig->cs.gpr[REG_RSI] == RIG_DATA - 4);
    for (unsigned n = 0; n < 2048; n += 97)
        assert_true(rig_get(rig, RIG_DATA + 14 + n * 4, 4) == n);
}

static void rep_stos_stops_exactly_at_a_missing_page(void **state)
{
    (void)state;
    rig_long(rig);
    rig_put64(rig, RIG_TABLES + 0x2000 + 8, 0); /* 2 to 4 MiB */
    RIG_CODE_BYTES(rig, 0xf3, 0x48, 0xab);      /* rep stosq */
    rig->cs.gpr[REG_RDI] = (2u << 20) - 0x2004;
    rig->cs.gpr[REG_RCX] = 0x1000;
    rig->cs.gpr[REG_RAX] = UINT64_MAX;
    rig_run(rig, 5);
    assert_int_equal(rig_exception(rig), VEC_PF);
    assert_true(rig->cs.gpr[REG_RDI] == (2u << 20) - 4);
    assert_true(rig->cs.gpr[REG_RCX] == 0x1000 - 0x400);
    assert_true(rig->cs.cr2 == 2u << 20);
    assert_true(rig->cs.rip == RIG_CODE);
}

static void repne_scasb_finds_and_stops_behind(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xf2, 0xae);
    rig_put64(rig, RIG_DATA + 0x1005, 0x7700);
    rig->cs.gpr[REG_RDI] = RIG_DATA;
    rig->cs.gpr[REG_RCX] = UINT32_MAX;
    rig->cs.gpr[REG_RAX] = 0x77;
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RDI] == RIG_DATA + 0x1007);
    assert_true(flags() & RFLAGS_ZF);
}

static void rep_with_a_zero_count_touches_nothing(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xf3, 0xa6);
    rig->cs.gpr[REG_RSI] = rig->cs.gpr[REG_RDI] = 0xfffffff0;
    rig->cs.rflags |= RFLAGS_ARITH;
    rig_run(rig, 1);
    assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
    assert_true(flags() == RFLAGS_ARITH);
}

static void sixteen_bit_string_addresses_wrap(void **state)
{
    (void)state;
    rig_real(rig);
    RIG_CODE_BYTES(rig, 0xf3, 0xaa);
    rig->cs.seg[SEG_ES] = rig_seg(0x2000, 0x93, RIG_DATA, 0xffff);
    rig->cs.gpr[REG_RDI] = 0xabcdfffe;
    rig->cs.gpr[REG_RCX] = 4;
    rig->cs.gpr[REG_RAX] = 0x11;
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_DATA, 4) == 0x1111);
    assert_true(rig_get(rig, RIG_DATA + 0xfffe, 4) == 0x1111);
    assert_true(rig->cs.gpr[REG_RDI] == 0xabcd0002);
}

/* ---- stack ---- */

static void pop_to_memory_based_on_esp_uses_the_moved_esp(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x8f, 0x04, 0x24); /* pop dword [esp] */
    rig_put64(rig, RIG_STACK, 0x1234);
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_STACK + 4, 4) == 0x1234);
    assert_true(rig->cs.gpr[REG_RSP] == RIG_STACK + 4);
}

static void push_and_pop_of_rsp_itself(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x54, 0x5c); /* push rsp; pop rsp */
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_STACK - 8, 8) == RIG_STACK);
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RSP] == RIG_STACK);
}

static void enter_copies_the_frames_of_its_nesting_level(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xc8, 0x10, 0x00, 0x02); /* enter 16,2 */
    rig->cs.gpr[REG_RBP] = RIG_STACK + 0x100;
    rig_put64(rig, RIG_STACK + 0xfc, 0xdead);
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_STACK - 4, 4) == RIG_STACK + 0x100);
    assert_true(rig_get(rig, RIG_STACK - 8, 4) == 0xdead);
    assert_true(rig_get(rig, RIG_STACK - 12, 4) == RIG_STACK - 4);
    assert_true(rig->cs.gpr[REG_RBP] == RIG_STACK - 4);
    assert_true(rig->cs.gpr[REG_RSP] == RIG_STACK - 12 - 16);
}

static void pusha_and_popa_skip_the_stack_pointer(void **state)
{
    (void)state;
    rig_real(rig);
    RIG_CODE_BYTES(rig, 0x60, 0x61);
    for (unsigned n = 0; n < 8; n++)
        rig->cs.gpr[n] = n == REG_RSP ? 0xf000 : 0x1000 + n;
    rig_run(rig, 1);
    assert_true(rig_get(rig, 0xf000 - 2, 2) == 0x1000);
    assert_true(rig_get(rig, 0xf000 - 10, 2) == 0xf000);
    assert_true(rig->cs.gpr[REG_RSP] == 0xf000 - 16);
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RSP] == 0xf000);
    assert_true(rig->cs.gpr[REG_RDI] == 0x1007);
}

/* ---- branches ---- */

static void call_and_ret_come_back_behind_the_call(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0xe8, 0x01, 0x00, 0x00, 0x00, 0xf4, 0xc3); /* call 1006; hlt; ret */
    rig_run(rig, 10);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_true(rig->cs.rip == RIG_CODE + 6);
    assert_true(rig->cs.gpr[REG_RSP] == RIG_STACK);
    assert_true(rig->cs.icount == 3);
}

static void jump_beyond_the_code_limit_raises_gp_at_the_jump(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xe9, 0x00, 0x00, 0x01, 0x00);
    rig->cs.seg[SEG_CS].limit = 0xffff;
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_GP);
    assert_true(rig->cs.rip == RIG_CODE);
}

static void jump_to_a_non_canonical_address_raises_gp_at_the_jump(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0xff, 0xe0); /* jmp rax */
    rig->cs.gpr[REG_RAX] = 1ull << 47;
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_GP);
    assert_true(rig->cs.rip == RIG_CODE);
}

static void operand_size_cuts_a_branch_to_16_bits_in_32_bit_code(void **state)
{
    (void)state;
    rig_write(rig, 0x11000, (const uint8_t[]){0x66, 0xeb, 0x0e}, 3);
    rig->cs.rip = 0x11000;
    rig_run(rig, 1);
    assert_true(rig->cs.rip == 0x1011);
}

static void loop_counts_in_the_address_size(void **state)
{
    (void)state;
    rig_long(rig);
    RIG_CODE_BYTES(rig, 0x67, 0xe2, 0xfd); /* loop with ecx */
    rig->cs.gpr[REG_RCX] = 0x500000003;
    rig_run(rig, 3);
    assert_true(rig->cs.gpr[REG_RCX] == 0);
    assert_true(rig->cs.rip == RIG_CODE + 3);
}

/* ---- decimal, BOUND ---- */

static void daa_and_das_adjust(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x27, 0x2f); /* daa; das */
    rig->cs.gpr[REG_RAX] = 0x9b;
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RAX] == 0x01);
    assert_true((flags() & (RFLAGS_CF | RFLAGS_AF)) == (RFLAGS_CF | RFLAGS_AF));
    rig_run(rig, 1);
    assert_true(rig->cs.gpr[REG_RAX] == 0x9b);
}

static void aam_by_zero_raises_de(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xd4, 0x00);
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_DE);
}

static void bound_outside_raises_br(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x62, 0x03, 0x62, 0x03);  /* bound eax,[ebx], twice */
    rig_put64(rig, RIG_DATA, 0x00000005fffffffe); /* -2 to 5 */
    rig->cs.gpr[REG_RBX] = RIG_DATA;
    rig->cs.gpr[REG_RAX] = UINT32_MAX;
    rig_run(rig, 1);
    assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
    rig->cs.gpr[REG_RAX] = 6;
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_BR);
}

/* ---- ports ---- */

static uint64_t port_read(void *dev, uint64_t off, unsigned size)
{
    (void)size;
    return *(uint8_t *)dev + off;
}

static void port_write(void *dev, uint64_t off, uint64_t value, unsigned size)
{
    (void)off;
    (void)size;
    *(uint8_t *)dev = (uint8_t)value;
}

static const struct io_ops port_ops = {.read = port_read, .write = port_write, .sizes = 1};

static struct region *map_port(uint8_t *dev)
{
    struct region *region = calloc(1, sizeof(*region));

    *region =
        (struct region){.name = "port", .kind = REGION_IO, .size = 4, .ops = &port_ops, .dev = dev};
    vm_lock(&rig->vm);
    bus_map(&rig->vm.ports, region, 0x60);
    vm_unlock(&rig->vm);
    return region;
}

static void in_and_out_reach_the_device(void **state)
{
    uint8_t dev = 7;
    struct region *region = map_port(&dev);

    (void)state;
    RIG_CODE_BYTES(rig, 0xe4, 0x61, 0xe6, 0x60); /* in al,61h; out 60h,al */
    rig->cs.gpr[REG_RAX] = 0x1100;
    rig_run(rig, 2);
    assert_true(rig->cs.gpr[REG_RAX] == 0x1108);
    assert_int_equal(dev, 8);
    vm_lock(&rig->vm);
    bus_unmap(region);
    vm_unlock(&rig->vm);
    free(region);
}

static void rep_outsb_and_insb_move_every_byte(void **state)
{
    uint8_t dev = 0;
    struct region *region = map_port(&dev);

    (void)state;
    RIG_CODE_BYTES(rig, 0xf3, 0x6e, 0xf3, 0x6c); /* rep outsb; rep insb */
    for (unsigned n = 0; n < 700; n++)
        rig_write(rig, RIG_DATA + n, &(uint8_t){(uint8_t)n}, 1);
    rig->cs.gpr[REG_RDX] = 0x60;
    rig->cs.gpr[REG_RSI] = RIG_DATA;
    rig->cs.gpr[REG_RCX] = 700;
    rig_run(rig, 1);
    assert_int_equal(dev, 699 & 0xff);
    assert_true(rig->cs.gpr[REG_RSI] == RIG_DATA + 700);
    rig->cs.gpr[REG_RDI] = RIG_DATA + 1;
    rig->cs.gpr[REG_RCX] = 700;
    rig_run(rig, 1);
    assert_true(rig_get(rig, RIG_DATA + 700, 2) == (699 & 0xff));
    assert_true(rig->cs.icount == 2);
    vm_lock(&rig->vm);
    bus_unmap(region);
    vm_unlock(&rig->vm);
    free(region);
}

static void ports_are_refused_to_user_code_without_a_bitmap(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xe4, 0x60);
    for (unsigned n = 0; n < SEG_COUNT; n++) {
        rig->cs.seg[n].attr |= SEG_ATTR_DPL;
        rig->cs.seg[n].selector |= 3;
    }
    rig->cs.tr.limit = 0x67;
    rig_put64(rig, 102, 0x68); /* the bitmap would begin behind the limit */
    rig_run(rig, 1);
    assert_int_equal(rig_exception(rig), VEC_GP);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(adc_takes_the_carry_of_the_add_before),
        T(thirty_two_bit_results_clear_the_upper_half_and_sixteen_bit_ones_do_not),
        T(inc_keeps_carry),
        T(shift_by_zero_keeps_every_flag),
        T(division_by_zero_raises_de_at_the_instruction),
        T(idiv_of_the_most_negative_by_minus_one_raises_de),
        T(idiv_takes_a_128_bit_dividend),
        T(bts_with_a_negative_register_reaches_below_its_operand),
        T(bsf_of_zero_leaves_its_destination),
        T(failed_cmpxchg_loads_the_accumulator),
        T(locked_add_across_pages_adds),
        T(misaligned_cmpxchg16b_raises_gp),
        T(rep_movsb_onto_itself_plus_one_fills),
        T(rep_movs_backwards_across_pages_moves),
        T(rep_stos_stops_exactly_at_a_missing_page),
        T(repne_scasb_finds_and_stops_behind),
        T(rep_with_a_zero_count_touches_nothing),
        T(sixteen_bit_string_addresses_wrap),
        T(pop_to_memory_based_on_esp_uses_the_moved_esp),
        T(push_and_pop_of_rsp_itself),
        T(enter_copies_the_frames_of_its_nesting_level),
        T(pusha_and_popa_skip_the_stack_pointer),
        T(call_and_ret_come_back_behind_the_call),
        T(jump_beyond_the_code_limit_raises_gp_at_the_jump),
        T(jump_to_a_non_canonical_address_raises_gp_at_the_jump),
        T(operand_size_cuts_a_branch_to_16_bits_in_32_bit_code),
        T(loop_counts_in_the_address_size),
        T(daa_and_das_adjust),
        T(aam_by_zero_raises_de),
        T(bound_outside_raises_br),
        T(in_and_out_reach_the_device),
        T(rep_outsb_and_insb_move_every_byte),
        T(ports_are_refused_to_user_code_without_a_bitmap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
