/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer instructions where a case needs naming. That all of them equal the host CPU on random
 * operands is the business of tests/cpu.
 */
#include "tests/unit/engine/interp/rigtest.h"

static uint64_t flags(const struct rig *r)
{
    return r->cs.rflags & RFLAGS_ARITH;
}

/* ---- arithmetic ---- */

TEST_WITH(rig_new_long, adc_takes_the_carry_of_the_add_before)
{
    r->cs.gpr[REG_RAX] = UINT64_MAX;
    r->cs.gpr[REG_RBX] = 1;
    r->cs.gpr[REG_RDX] = 0;
    RIG_RUN(r, 2, 0x48, 0x01, 0xd8, 0x48, 0x11, 0xd1); /* add rax,rbx; adc rcx,rdx */
    assert_true(r->cs.gpr[REG_RAX] == 0);
    assert_true(r->cs.gpr[REG_RCX] == 1);
    assert_true(flags(r) == 0);
    assert_true(r->cs.rip == RIG_CODE + 6);
}

TEST_WITH(rig_new_long, thirty_two_bit_results_clear_the_upper_half_and_sixteen_bit_ones_do_not)
{
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = 0x1111222233334444;
    r->cs.gpr[REG_RBX] = 0x10001;
    RIG_RUN(r, 3, 0x01, 0xd8, 0x66, 0x01, 0xd9, 0x00, 0xdc); /* add eax,ebx; add cx,bx; add ah,bl */
    assert_true(r->cs.gpr[REG_RAX] == 0x33344545);
    assert_true(r->cs.gpr[REG_RCX] == 0x1111222233334445);
}

TEST_WITH(rig_new, inc_keeps_carry)
{
    r->cs.gpr[REG_RAX] = 0x7fffffff;
    RIG_RUN(r, 2, 0xf9, 0x40); /* stc; inc eax */
    assert_true(flags(r) == (RFLAGS_CF | RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF));
}

TEST_WITH(rig_new, shift_by_zero_keeps_every_flag)
{
    r->cs.gpr[REG_RCX] = 32;
    r->cs.rflags |= RFLAGS_ARITH;
    RIG_RUN(r, 1, 0xd3, 0xe0); /* shl eax,cl */
    assert_true(flags(r) == RFLAGS_ARITH);
}

TEST_WITH(rig_new, division_by_zero_raises_de_at_the_instruction)
{
    r->cs.gpr[REG_RAX] = 5;
    RIG_RUN(r, 10, 0x90, 0xf7, 0xf3); /* nop; div ebx */
    assert_int_equal(r->stop, VCPU_STOP_SHUTDOWN);
    assert_int_equal(rig_exception(r), VEC_DE);
    assert_true(r->cs.rip == RIG_CODE + 1);
    assert_true(r->cs.gpr[REG_RAX] == 5);
    assert_true(r->cs.icount == 2);
}

TEST_WITH(rig_new_long, idiv_of_the_most_negative_by_minus_one_raises_de)
{
    r->cs.gpr[REG_RAX] = 1ull << 63;
    r->cs.gpr[REG_RDX] = UINT64_MAX;
    r->cs.gpr[REG_RBX] = UINT64_MAX;
    RIG_RUN(r, 1, 0x48, 0xf7, 0xfb); /* idiv rbx */
    assert_int_equal(rig_exception(r), VEC_DE);
}

TEST_WITH(rig_new_long, idiv_takes_a_128_bit_dividend)
{
    r->cs.gpr[REG_RAX] = 0;
    r->cs.gpr[REG_RDX] = (uint64_t)-1; /* -2^64 */
    r->cs.gpr[REG_RBX] = 16;
    RIG_RUN(r, 1, 0x48, 0xf7, 0xfb);
    assert_true(r->cs.gpr[REG_RAX] == (uint64_t) - (1ll << 60));
    assert_true(r->cs.gpr[REG_RDX] == 0);
}

/* ---- bits ---- */

TEST_WITH(rig_new, bts_with_a_negative_register_reaches_below_its_operand)
{
    r->cs.gpr[REG_RBX] = RIG_DATA;
    r->cs.gpr[REG_RCX] = (uint32_t)-31;
    RIG_RUN(r, 1, 0x0f, 0xab, 0x0b); /* bts [ebx],ecx */
    assert_true(rig_get(r, RIG_DATA - 4, 4) == 2);
}

TEST_WITH(rig_new_long, bsf_of_zero_leaves_its_destination)
{
    r->cs.gpr[REG_RAX] = 1234;
    RIG_RUN(r, 1, 0x48, 0x0f, 0xbc, 0xc3); /* bsf rax,rbx */
    assert_true(r->cs.gpr[REG_RAX] == 1234);
    assert_true(flags(r) & RFLAGS_ZF);
}

/* ---- atomic ---- */

TEST_WITH(rig_new_long, failed_cmpxchg_loads_the_accumulator)
{
    rig_put64(r, RIG_DATA, 77);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    r->cs.gpr[REG_RAX] = 76;
    RIG_RUN(r, 1, 0xf0, 0x48, 0x0f, 0xb1, 0x0b); /* lock cmpxchg [rbx],rcx */
    assert_true(r->cs.gpr[REG_RAX] == 77);
    assert_false(flags(r) & RFLAGS_ZF);
}

TEST_WITH(rig_new, locked_add_across_pages_adds)
{
    rig_put64(r, RIG_DATA + 0xffe, 0x0001ffff);
    r->cs.gpr[REG_RBX] = RIG_DATA + 0xffe;
    r->cs.gpr[REG_RAX] = 1;
    RIG_RUN(r, 1, 0xf0, 0x01, 0x03); /* lock add [ebx],eax */
    assert_true(rig_get(r, RIG_DATA + 0xffe, 4) == 0x20000);
}

TEST_WITH(rig_new_long, misaligned_cmpxchg16b_raises_gp)
{
    r->cs.gpr[REG_RBX] = RIG_DATA + 8;
    RIG_RUN(r, 1, 0x48, 0x0f, 0xc7, 0x0b);
    assert_int_equal(rig_exception(r), VEC_GP);
}

/* ---- strings ---- */

TEST_WITH(rig_new, rep_movsb_onto_itself_plus_one_fills)
{
    uint8_t out[300];

    rig_put64(r, RIG_DATA, 0x5a);
    r->cs.gpr[REG_RSI] = RIG_DATA;
    r->cs.gpr[REG_RDI] = RIG_DATA + 1;
    r->cs.gpr[REG_RCX] = 299;
    RIG_RUN(r, 1, 0xf3, 0xa4);
    rig_read(r, RIG_DATA, out, sizeof(out));
    for (unsigned n = 0; n < sizeof(out); n++)
        assert_int_equal(out[n], 0x5a);
    assert_true(r->cs.gpr[REG_RCX] == 0);
    assert_true(r->cs.icount == 1);
    assert_true(r->cs.rip == RIG_CODE + 2);
}

TEST_WITH(rig_new, rep_movs_backwards_across_pages_moves)
{
    RIG_CODE_BYTES(r, 0xfd, 0xf3, 0xa5); /* std; rep movsd */
    for (unsigned n = 0; n < 2048; n++)
        rig_write(r, RIG_DATA + n * 4, &n, 4);
    r->cs.gpr[REG_RSI] = RIG_DATA + 2047 * 4;
    r->cs.gpr[REG_RDI] = RIG_DATA + 2050 * 4 + 2;
    r->cs.gpr[REG_RCX] = 2048;
    rig_run(r, 2);
    assert_true(r->cs.gpr[REG_RSI] == RIG_DATA - 4);
    for (unsigned n = 0; n < 2048; n += 97)
        assert_true(rig_get(r, RIG_DATA + 14 + n * 4, 4) == n);
}

TEST_WITH(rig_new_long, rep_stos_stops_exactly_at_a_missing_page)
{
    rig_put64(r, RIG_TABLES + 0x2000 + 8, 0); /* 2 to 4 MiB */
    r->cs.gpr[REG_RDI] = (2u << 20) - 0x2004;
    r->cs.gpr[REG_RCX] = 0x1000;
    r->cs.gpr[REG_RAX] = UINT64_MAX;
    RIG_RUN(r, 5, 0xf3, 0x48, 0xab); /* rep stosq */
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_true(r->cs.gpr[REG_RDI] == (2u << 20) - 4);
    assert_true(r->cs.gpr[REG_RCX] == 0x1000 - 0x400);
    assert_true(r->cs.cr2 == 2u << 20);
    assert_true(r->cs.rip == RIG_CODE);
}

TEST_WITH(rig_new, repne_scasb_finds_and_stops_behind)
{
    rig_put64(r, RIG_DATA + 0x1005, 0x7700);
    r->cs.gpr[REG_RDI] = RIG_DATA;
    r->cs.gpr[REG_RCX] = UINT32_MAX;
    r->cs.gpr[REG_RAX] = 0x77;
    RIG_RUN(r, 1, 0xf2, 0xae);
    assert_true(r->cs.gpr[REG_RDI] == RIG_DATA + 0x1007);
    assert_true(flags(r) & RFLAGS_ZF);
}

TEST_WITH(rig_new, rep_with_a_zero_count_touches_nothing)
{
    r->cs.gpr[REG_RSI] = r->cs.gpr[REG_RDI] = 0xfffffff0;
    r->cs.rflags |= RFLAGS_ARITH;
    RIG_RUN(r, 1, 0xf3, 0xa6);
    assert_int_equal(r->stop, VCPU_STOP_BUDGET);
    assert_true(flags(r) == RFLAGS_ARITH);
}

TEST_WITH(rig_new_real, sixteen_bit_string_addresses_wrap)
{
    r->cs.seg[SEG_ES] = rig_seg(0x2000, 0x93, RIG_DATA, 0xffff);
    r->cs.gpr[REG_RDI] = 0xabcdfffe;
    r->cs.gpr[REG_RCX] = 4;
    r->cs.gpr[REG_RAX] = 0x11;
    RIG_RUN(r, 1, 0xf3, 0xaa);
    assert_true(rig_get(r, RIG_DATA, 4) == 0x1111);
    assert_true(rig_get(r, RIG_DATA + 0xfffe, 4) == 0x1111);
    assert_true(r->cs.gpr[REG_RDI] == 0xabcd0002);
}

/* ---- stack ---- */

TEST_WITH(rig_new, pop_to_memory_based_on_esp_uses_the_moved_esp)
{
    rig_put64(r, RIG_STACK, 0x1234);
    RIG_RUN(r, 1, 0x8f, 0x04, 0x24); /* pop dword [esp] */
    assert_true(rig_get(r, RIG_STACK + 4, 4) == 0x1234);
    assert_true(r->cs.gpr[REG_RSP] == RIG_STACK + 4);
}

TEST_WITH(rig_new_long, push_and_pop_of_rsp_itself)
{
    RIG_RUN(r, 1, 0x54, 0x5c); /* push rsp; pop rsp */
    assert_true(rig_get(r, RIG_STACK - 8, 8) == RIG_STACK);
    rig_run(r, 1);
    assert_true(r->cs.gpr[REG_RSP] == RIG_STACK);
}

TEST_WITH(rig_new, enter_copies_the_frames_of_its_nesting_level)
{
    r->cs.gpr[REG_RBP] = RIG_STACK + 0x100;
    rig_put64(r, RIG_STACK + 0xfc, 0xdead);
    RIG_RUN(r, 1, 0xc8, 0x10, 0x00, 0x02); /* enter 16,2 */
    assert_true(rig_get(r, RIG_STACK - 4, 4) == RIG_STACK + 0x100);
    assert_true(rig_get(r, RIG_STACK - 8, 4) == 0xdead);
    assert_true(rig_get(r, RIG_STACK - 12, 4) == RIG_STACK - 4);
    assert_true(r->cs.gpr[REG_RBP] == RIG_STACK - 4);
    assert_true(r->cs.gpr[REG_RSP] == RIG_STACK - 12 - 16);
}

TEST_WITH(rig_new_real, pusha_and_popa_skip_the_stack_pointer)
{
    RIG_CODE_BYTES(r, 0x60, 0x61);
    for (unsigned n = 0; n < 8; n++)
        r->cs.gpr[n] = n == REG_RSP ? 0xf000 : 0x1000 + n;
    rig_run(r, 1);
    assert_true(rig_get(r, 0xf000 - 2, 2) == 0x1000);
    assert_true(rig_get(r, 0xf000 - 10, 2) == 0xf000);
    assert_true(r->cs.gpr[REG_RSP] == 0xf000 - 16);
    rig_run(r, 1);
    assert_true(r->cs.gpr[REG_RSP] == 0xf000);
    assert_true(r->cs.gpr[REG_RDI] == 0x1007);
}

/* ---- branches ---- */

TEST_WITH(rig_new_long, call_and_ret_come_back_behind_the_call)
{
    RIG_RUN(r, 10, 0xe8, 0x01, 0x00, 0x00, 0x00, 0xf4, 0xc3); /* call 1006; hlt; ret */
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_true(r->cs.rip == RIG_CODE + 6);
    assert_true(r->cs.gpr[REG_RSP] == RIG_STACK);
    assert_true(r->cs.icount == 3);
}

TEST_WITH(rig_new, jump_beyond_the_code_limit_raises_gp_at_the_jump)
{
    r->cs.seg[SEG_CS].limit = 0xffff;
    RIG_RUN(r, 1, 0xe9, 0x00, 0x00, 0x01, 0x00);
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_true(r->cs.rip == RIG_CODE);
}

TEST_WITH(rig_new_long, jump_to_a_non_canonical_address_raises_gp_at_the_jump)
{
    r->cs.gpr[REG_RAX] = 1ull << 47;
    RIG_RUN(r, 1, 0xff, 0xe0); /* jmp rax */
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_true(r->cs.rip == RIG_CODE);
}

TEST_WITH(rig_new, operand_size_cuts_a_branch_to_16_bits_in_32_bit_code)
{
    rig_write(r, 0x11000, (const uint8_t[]){0x66, 0xeb, 0x0e}, 3);
    r->cs.rip = 0x11000;
    rig_run(r, 1);
    assert_true(r->cs.rip == 0x1011);
}

TEST_WITH(rig_new_long, loop_counts_in_the_address_size)
{
    r->cs.gpr[REG_RCX] = 0x500000003;
    RIG_RUN(r, 3, 0x67, 0xe2, 0xfd); /* loop with ecx */
    assert_true(r->cs.gpr[REG_RCX] == 0);
    assert_true(r->cs.rip == RIG_CODE + 3);
}

/* ---- decimal, BOUND ---- */

TEST_WITH(rig_new, daa_and_das_adjust)
{
    r->cs.gpr[REG_RAX] = 0x9b;
    RIG_RUN(r, 1, 0x27, 0x2f); /* daa; das */
    assert_true(r->cs.gpr[REG_RAX] == 0x01);
    assert_true((flags(r) & (RFLAGS_CF | RFLAGS_AF)) == (RFLAGS_CF | RFLAGS_AF));
    rig_run(r, 1);
    assert_true(r->cs.gpr[REG_RAX] == 0x9b);
}

TEST_WITH(rig_new, aam_by_zero_raises_de)
{
    RIG_RUN(r, 1, 0xd4, 0x00);
    assert_int_equal(rig_exception(r), VEC_DE);
}

TEST_WITH(rig_new, bound_outside_raises_br)
{
    rig_put64(r, RIG_DATA, 0x00000005fffffffe); /* -2 to 5 */
    r->cs.gpr[REG_RBX] = RIG_DATA;
    r->cs.gpr[REG_RAX] = UINT32_MAX;
    RIG_RUN(r, 1, 0x62, 0x03, 0x62, 0x03); /* bound eax,[ebx], twice */
    assert_int_equal(r->stop, VCPU_STOP_BUDGET);
    r->cs.gpr[REG_RAX] = 6;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_BR);
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

static struct region *map_port(struct rig *r, uint8_t *dev)
{
    struct region *region = calloc(1, sizeof(*region));

    *region =
        (struct region){.name = "port", .kind = REGION_IO, .size = 4, .ops = &port_ops, .dev = dev};
    vm_lock(&r->vm);
    bus_map(&r->vm.ports, region, 0x60);
    vm_unlock(&r->vm);
    return region;
}

TEST_WITH(rig_new, in_and_out_reach_the_device)
{
    uint8_t dev = 7;
    struct region *region = map_port(r, &dev);

    r->cs.gpr[REG_RAX] = 0x1100;
    RIG_RUN(r, 2, 0xe4, 0x61, 0xe6, 0x60); /* in al,61h; out 60h,al */
    assert_true(r->cs.gpr[REG_RAX] == 0x1108);
    assert_int_equal(dev, 8);
    vm_lock(&r->vm);
    bus_unmap(region);
    vm_unlock(&r->vm);
    free(region);
}

TEST_WITH(rig_new, rep_outsb_and_insb_move_every_byte)
{
    uint8_t dev = 0;
    struct region *region = map_port(r, &dev);

    RIG_CODE_BYTES(r, 0xf3, 0x6e, 0xf3, 0x6c); /* rep outsb; rep insb */
    for (unsigned n = 0; n < 700; n++)
        rig_write(r, RIG_DATA + n, &(uint8_t){(uint8_t)n}, 1);
    r->cs.gpr[REG_RDX] = 0x60;
    r->cs.gpr[REG_RSI] = RIG_DATA;
    r->cs.gpr[REG_RCX] = 700;
    rig_run(r, 1);
    assert_int_equal(dev, 699 & 0xff);
    assert_true(r->cs.gpr[REG_RSI] == RIG_DATA + 700);
    r->cs.gpr[REG_RDI] = RIG_DATA + 1;
    r->cs.gpr[REG_RCX] = 700;
    rig_run(r, 1);
    assert_true(rig_get(r, RIG_DATA + 700, 2) == (699 & 0xff));
    assert_true(r->cs.icount == 2);
    vm_lock(&r->vm);
    bus_unmap(region);
    vm_unlock(&r->vm);
    free(region);
}

TEST_WITH(rig_new, ports_are_refused_to_user_code_without_a_bitmap)
{
    RIG_CODE_BYTES(r, 0xe4, 0x60);
    for (unsigned n = 0; n < SEG_COUNT; n++) {
        r->cs.seg[n].attr |= SEG_ATTR_DPL;
        r->cs.seg[n].selector |= 3;
    }
    r->cs.tr.limit = 0x67;
    rig_put64(r, 102, 0x68); /* the bitmap would begin behind the limit */
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_GP);
}
