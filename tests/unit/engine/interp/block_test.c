/* SPDX-License-Identifier: Apache-2.0 */
/* The block cache and the run loop: what is decoded is what is in memory, and what is counted is
 * exact. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/interp/block.h"
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

static const struct block_cache *cache(void)
{
    return ((struct interp *)rig->vcpu->engine)->blocks;
}

/* ---- self-modifying code ---- */

static void store_to_the_next_instruction_of_the_block_takes_effect_at_once(void **state)
{
    (void)state;
    /* mov byte [code+7],0x41; inc eax (becomes inc ecx); hlt */
    RIG_CODE_BYTES(rig, 0xc6, 0x05, 0x07, 0x10, 0x00, 0x00, 0x41, 0x40, 0xf4);
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = 0;
    rig_run(rig, 10);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_true(rig->cs.gpr[REG_RAX] == 0);
    assert_true(rig->cs.gpr[REG_RCX] == 1);
    assert_true(rig->cs.icount == 3);
}

static void locked_and_string_stores_to_code_take_effect_at_once(void **state)
{
    (void)state;
    /* lock add byte [code+7],1 (inc eax -> inc ecx); inc eax; hlt */
    RIG_CODE_BYTES(rig, 0xf0, 0x80, 0x05, 0x08, 0x10, 0x00, 0x00, 0x01, 0x40, 0xf4);
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = 0;
    rig_run(rig, 10);
    assert_true(rig->cs.gpr[REG_RCX] == 1);
    /* rep stosb over what follows it: inc eax becomes hlt */
    rig_protected(rig, true);
    RIG_CODE_BYTES(rig, 0xf3, 0xaa, 0x40, 0x40, 0x40, 0x40);
    rig->cs.gpr[REG_RAX] = 0xf4;
    rig->cs.gpr[REG_RCX] = 4;
    rig->cs.gpr[REG_RDI] = RIG_CODE + 2;
    rig_run(rig, 10);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_true(rig->cs.gpr[REG_RAX] == 0xf4);
    assert_true(rig->cs.rip == RIG_CODE + 3);
}

static void loop_that_patches_itself_runs_the_new_code_each_time(void **state)
{
    (void)state;
    /* l: mov ebx,0; add eax,ebx; inc dword [l+1]; dec ecx; jnz l; hlt */
    RIG_CODE_BYTES(rig, 0xbb, 0, 0, 0, 0, 0x01, 0xd8, 0xff, 0x05, 0x01, 0x10, 0, 0, 0x49, 0x75,
                   0xf0, 0xf4);
    rig->cs.gpr[REG_RAX] = 0;
    rig->cs.gpr[REG_RCX] = 100;
    rig_run(rig, 10000);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_true(rig->cs.gpr[REG_RAX] == 99 * 100 / 2);
    assert_true(rig->cs.icount == 501);
}

static void data_beside_code_does_not_make_the_code_stale(void **state)
{
    uint64_t decoded;

    (void)state;
    /* l: inc dword [code+0x800]; dec ecx; jnz l; hlt */
    RIG_CODE_BYTES(rig, 0xff, 0x05, 0x00, 0x18, 0x00, 0x00, 0x49, 0x75, 0xf7, 0xf4);
    rig->cs.gpr[REG_RCX] = 1000;
    rig_run(rig, 30);
    decoded = cache()->decoded;
    rig_run(rig, 100000);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_true(rig_get(rig, RIG_CODE + 0x800, 4) == 1000);
    assert_true(cache()->decoded <= decoded + 2);
}

static void code_written_by_others_is_decoded_again(void **state)
{
    static const uint8_t other[] = {0x41};

    (void)state;
    RIG_CODE_BYTES(rig, 0x40, 0xeb, 0xfd); /* inc eax; jmp */
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = 0;
    rig_run(rig, 20);
    assert_true(mem_write(&rig->vm, RIG_CODE, other, 1));
    rig_run(rig, 20);
    assert_true(rig->cs.gpr[REG_RAX] == 10);
    assert_true(rig->cs.gpr[REG_RCX] == 10);
}

static void page_overwritten_by_data_is_written_fast_again(void **state)
{
    (void)state;
    RIG_PUT(rig, RIG_DATA, 0xc3);
    /* call RIG_DATA; mov edi,RIG_DATA; mov ecx,1024; rep stosd; hlt */
    RIG_CODE_BYTES(rig, 0xe8, 0xfb, 0xef, 0x01, 0x00, 0xbf, 0x00, 0x00, 0x02, 0x00, 0xb9, 0x00,
                   0x04, 0x00, 0x00, 0xf3, 0xab, 0xf4);
    rig_run(rig, 100);
    assert_int_equal(rig->stop, VCPU_STOP_HALT);
    assert_int_equal(rig->vm.ram.page_flags[RIG_DATA >> PAGE_SHIFT], 0);
}

/* ---- pages ---- */

static void instruction_across_pages_sees_changes_in_either(void **state)
{
    (void)state;
    /* jmp 1ffe; at 1ffe: mov eax,imm32; jmp 1ffe */
    RIG_PUT(rig, 0x1ffe, 0xb8, 0x11, 0x22, 0x33, 0x44, 0xeb, 0xf9);
    rig->cs.rip = 0x1ffe;
    rig_run(rig, 4);
    assert_true(rig->cs.gpr[REG_RAX] == 0x44332211);
    assert_true(mem_write(&rig->vm, 0x2001, "\x99", 1));
    rig_run(rig, 2);
    assert_true(rig->cs.gpr[REG_RAX] == rig_get(rig, 0x1fff, 4));
    assert_true(mem_write(&rig->vm, 0x1fff, "\x77", 1));
    rig_run(rig, 2);
    assert_true(rig->cs.gpr[REG_RAX] == rig_get(rig, 0x1fff, 4));
}

static void second_page_is_fetched_only_if_the_instruction_needs_it(void **state)
{
    (void)state;
    rig_long(rig);
    rig_put64(rig, RIG_TABLES + 0x2000 + 8,
              0);                             /* 2 to 4 MiB are absent, 4 KiB below are NOPs and: */
    RIG_PUT(rig, 0x1ffffd, 0x90, 0xeb, 0xfd); /* nop; jmp to it */
    rig->cs.rip = 0x1ffffd;
    rig_run(rig, 100);
    assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
    RIG_PUT(rig, 0x1ffffd, 0x90, 0x48, 0xb8); /* mov rax,imm64 */
    rig_run(rig, 100);
    assert_int_equal(rig->stop, VCPU_STOP_SHUTDOWN);
    assert_int_equal(rig_exception(rig), VEC_PF);
    assert_true(rig->cs.cr2 == 0x200000);
    assert_true(rig->cs.rip == 0x1ffffe);
}

static void remapped_page_runs_the_other_code(void **state)
{
    (void)state;
    rig_long(rig);
    /* 40000000 is mapped to 0 or to 2 MiB by a second 1 GiB's table. */
    rig_put64(rig, RIG_TABLES + 0x1008, (RIG_TABLES + 0x3000) | 7);
    rig_put64(rig, RIG_TABLES + 0x3000, 0x87);
    RIG_PUT(rig, 0x1000, 0x48, 0xff, 0xc0, 0xf4);   /* inc rax; hlt */
    RIG_PUT(rig, 0x201000, 0x48, 0xff, 0xc1, 0xf4); /* inc rcx; hlt */
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = 0;
    rig->cs.rip = 0x40001000;
    rig_run(rig, 2);
    rig_put64(rig, RIG_TABLES + 0x3000, 0x200087);
    /* invlpg [rbx]; jmp rbx */
    RIG_PUT(rig, 0x5000, 0x0f, 0x01, 0x3b, 0xff, 0xe3);
    rig->cs.gpr[REG_RBX] = 0x40001000;
    rig->cs.rip = 0x5000;
    rig->cs.activity = CPU_RUNNING;
    rig_run(rig, 4);
    assert_true(rig->cs.gpr[REG_RAX] == 1);
    assert_true(rig->cs.gpr[REG_RCX] == 1);
}

/* ---- limits ---- */

static void fetch_beyond_the_limit_raises_gp_at_the_instruction_that_crosses_it(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x90, 0xb8, 1, 2, 3, 4);
    rig->cs.seg[SEG_CS].limit = RIG_CODE + 3;
    rig->cs.seg[SEG_CS].attr &= (uint16_t)~SEG_ATTR_G;
    rig_run(rig, 5);
    assert_int_equal(rig_exception(rig), VEC_GP);
    assert_true(rig->cs.rip == RIG_CODE + 1);
    assert_true(rig->cs.icount == 2);
}

static void block_decoded_under_a_wide_limit_obeys_a_narrow_one(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x40, 0x40, 0x40, 0xeb, 0xfb);
    rig->cs.gpr[REG_RAX] = 0;
    rig->cs.seg[SEG_CS].limit = 0xffff;
    rig_run(rig, 8);
    assert_true(rig->cs.gpr[REG_RAX] == 6);
    rig->cs.seg[SEG_CS].limit = RIG_CODE + 1;
    rig->cs.rip = RIG_CODE;
    rig_run(rig, 8);
    assert_int_equal(rig_exception(rig), VEC_GP);
    assert_true(rig->cs.gpr[REG_RAX] == 8);
}

static void code_is_fetched_from_where_no_ram_is(void **state)
{
    (void)state;
    /* Nothing answers there: all ones, FF FF is no instruction. */
    rig->cs.rip = 0x10000000;
    rig_run(rig, 5);
    assert_int_equal(rig_exception(rig), VEC_UD);
}

/* ---- counting ---- */

static void run_stops_exactly_within_its_budget(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x40, 0x41, 0x42, 0x43, 0x45, 0xeb, 0xf9);
    rig->cs.gpr[REG_RAX] = rig->cs.gpr[REG_RCX] = rig->cs.gpr[REG_RDX] = 0;
    for (unsigned n = 1; n <= 20; n++) {
        uint64_t before = rig->cs.icount;

        rig_run(rig, n);
        assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
        assert_true(rig->cs.icount == before + n);
    }
    assert_true(rig->cs.icount == 210);
    assert_true(rig->cs.gpr[REG_RAX] == 35);
    assert_true(rig->cs.rip == RIG_CODE);
}

static void budget_of_zero_runs_nothing(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x40);
    rig->cs.gpr[REG_RAX] = 0;
    rig_run(rig, 0);
    assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
    assert_true(rig->cs.gpr[REG_RAX] == 0);
}

static void virtual_clock_follows_the_count(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x90, 0xeb, 0xfd);
    rig_run(rig, 12345);
    assert_true(clock_now(rig->vm.clock) == 12345);
}

static void kick_leaves_an_endless_loop(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0xeb, 0xfe);
    vcpu_post(rig->vcpu, PEND_EXIT);
    rig_run(rig, UINT64_MAX);
    assert_int_equal(rig->stop, VCPU_STOP_KICK);
}

/* ---- stepping ---- */

static void breakpoint_in_the_middle_of_a_block_stops_before_its_instruction(void **state)
{
    (void)state;
    RIG_CODE_BYTES(rig, 0x40, 0x40, 0x40, 0xeb, 0xfb);
    rig->cs.gpr[REG_RAX] = 0;
    rig_run(rig, 4);
    rig->cs.dr[0] = RIG_CODE + 2;
    rig->cs.dr7 = 0x401;
    rig_run(rig, 100);
    assert_int_equal(rig_exception(rig), VEC_DB);
    assert_true(rig->cs.gpr[REG_RAX] == 5);
    assert_true(rig->cs.dr6 & 1);
}

static void full_cache_is_flushed_and_goes_on(void **state)
{
    uint64_t flushes = cache()->flushes;
    uint8_t page[PAGE_SIZE];

    (void)state;
    /* Blocks of 64 NOPs; each page's bytes are changed so that all is decoded anew. */
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned n = 0; n < sizeof(page); n++)
            page[n] = (n + round) % 9 ? 0x90 : 0x40;
        for (gpa_t at = 0x10000; at < 0x300000; at += PAGE_SIZE)
            assert_true(mem_write(&rig->vm, at, page, sizeof(page)));
        rig->cs.rip = 0x10000;
        rig_run(rig, 0x2f0000);
        assert_int_equal(rig->stop, VCPU_STOP_BUDGET);
    }
    assert_true(cache()->flushes > flushes);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(store_to_the_next_instruction_of_the_block_takes_effect_at_once),
        T(locked_and_string_stores_to_code_take_effect_at_once),
        T(loop_that_patches_itself_runs_the_new_code_each_time),
        T(data_beside_code_does_not_make_the_code_stale),
        T(code_written_by_others_is_decoded_again),
        T(page_overwritten_by_data_is_written_fast_again),
        T(instruction_across_pages_sees_changes_in_either),
        T(second_page_is_fetched_only_if_the_instruction_needs_it),
        T(remapped_page_runs_the_other_code),
        T(fetch_beyond_the_limit_raises_gp_at_the_instruction_that_crosses_it),
        T(block_decoded_under_a_wide_limit_obeys_a_narrow_one),
        T(code_is_fetched_from_where_no_ram_is),
        T(run_stops_exactly_within_its_budget),
        T(budget_of_zero_runs_nothing),
        T(virtual_clock_follows_the_count),
        T(kick_leaves_an_endless_loop),
        T(breakpoint_in_the_middle_of_a_block_stops_before_its_instruction),
        T(full_cache_is_flushed_and_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
