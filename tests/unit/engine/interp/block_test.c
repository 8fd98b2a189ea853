/* SPDX-License-Identifier: Apache-2.0 */
/* The block cache and the run loop: what is decoded is what is in memory, and what is counted is
 * exact. */
#include "engine/interp/block.h"
#include "tests/unit/engine/interp/rigtest.h"

static const struct block_cache *cache(const struct rig *r)
{
    return ((struct interp *)r->vcpu->engine)->blocks;
}

/* ---- self-modifying code ---- */

TEST_WITH(rig_new, store_to_the_next_instruction_of_the_block_takes_effect_at_once)
{
    /* mov byte [code+7],0x41; inc eax (becomes inc ecx); hlt */
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = 0;
    RIG_RUN(r, 10, 0xc6, 0x05, 0x07, 0x10, 0x00, 0x00, 0x41, 0x40, 0xf4);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_true(r->cs.gpr[REG_RAX] == 0);
    assert_true(r->cs.gpr[REG_RCX] == 1);
    assert_true(r->cs.icount == 3);
}

TEST_WITH(rig_new, locked_and_string_stores_to_code_take_effect_at_once)
{
    /* lock add byte [code+7],1 (inc eax -> inc ecx); inc eax; hlt */
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = 0;
    RIG_RUN(r, 10, 0xf0, 0x80, 0x05, 0x08, 0x10, 0x00, 0x00, 0x01, 0x40, 0xf4);
    assert_true(r->cs.gpr[REG_RCX] == 1);
    /* rep stosb over what follows it: inc eax becomes hlt */
    rig_protected(r, true);
    r->cs.gpr[REG_RAX] = 0xf4;
    r->cs.gpr[REG_RCX] = 4;
    r->cs.gpr[REG_RDI] = RIG_CODE + 2;
    RIG_RUN(r, 10, 0xf3, 0xaa, 0x40, 0x40, 0x40, 0x40);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_true(r->cs.gpr[REG_RAX] == 0xf4);
    assert_true(r->cs.rip == RIG_CODE + 3);
}

TEST_WITH(rig_new, loop_that_patches_itself_runs_the_new_code_each_time)
{
    /* l: mov ebx,0; add eax,ebx; inc dword [l+1]; dec ecx; jnz l; hlt */
    r->cs.gpr[REG_RAX] = 0;
    r->cs.gpr[REG_RCX] = 100;
    RIG_RUN(r, 10000, 0xbb, 0, 0, 0, 0, 0x01, 0xd8, 0xff, 0x05, 0x01, 0x10, 0, 0, 0x49, 0x75, 0xf0,
            0xf4);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_true(r->cs.gpr[REG_RAX] == 99 * 100 / 2);
    assert_true(r->cs.icount == 501);
}

TEST_WITH(rig_new, data_beside_code_does_not_make_the_code_stale)
{
    uint64_t decoded;

    /* l: inc dword [code+0x800]; dec ecx; jnz l; hlt */
    r->cs.gpr[REG_RCX] = 1000;
    RIG_RUN(r, 30, 0xff, 0x05, 0x00, 0x18, 0x00, 0x00, 0x49, 0x75, 0xf7, 0xf4);
    decoded = cache(r)->decoded;
    rig_run(r, 100000);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_true(rig_get(r, RIG_CODE + 0x800, 4) == 1000);
    assert_true(cache(r)->decoded <= decoded + 2);
}

TEST_WITH(rig_new, code_written_by_others_is_decoded_again)
{
    static const uint8_t other[] = {0x41};

    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = 0;
    RIG_RUN(r, 20, 0x40, 0xeb, 0xfd); /* inc eax; jmp */
    assert_true(mem_write(&r->vm, RIG_CODE, other, 1));
    rig_run(r, 20);
    assert_true(r->cs.gpr[REG_RAX] == 10);
    assert_true(r->cs.gpr[REG_RCX] == 10);
}

TEST_WITH(rig_new, page_overwritten_by_data_is_written_fast_again)
{
    RIG_PUT(r, RIG_DATA, 0xc3);
    /* call RIG_DATA; mov edi,RIG_DATA; mov ecx,1024; rep stosd; hlt */
    RIG_RUN(r, 100, 0xe8, 0xfb, 0xef, 0x01, 0x00, 0xbf, 0x00, 0x00, 0x02, 0x00, 0xb9, 0x00, 0x04,
            0x00, 0x00, 0xf3, 0xab, 0xf4);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_int_equal(r->vm.ram.page_flags[RIG_DATA >> PAGE_SHIFT], 0);
}

/* ---- pages ---- */

TEST_WITH(rig_new, instruction_across_pages_sees_changes_in_either)
{
    /* jmp 1ffe; at 1ffe: mov eax,imm32; jmp 1ffe */
    RIG_PUT(r, 0x1ffe, 0xb8, 0x11, 0x22, 0x33, 0x44, 0xeb, 0xf9);
    r->cs.rip = 0x1ffe;
    rig_run(r, 4);
    assert_true(r->cs.gpr[REG_RAX] == 0x44332211);
    assert_true(mem_write(&r->vm, 0x2001, "\x99", 1));
    rig_run(r, 2);
    assert_true(r->cs.gpr[REG_RAX] == rig_get(r, 0x1fff, 4));
    assert_true(mem_write(&r->vm, 0x1fff, "\x77", 1));
    rig_run(r, 2);
    assert_true(r->cs.gpr[REG_RAX] == rig_get(r, 0x1fff, 4));
}

TEST_WITH(rig_new_long, second_page_is_fetched_only_if_the_instruction_needs_it)
{
    rig_put64(r, RIG_TABLES + 0x2000 + 8, 0); /* 2 to 4 MiB are absent, 4 KiB below are NOPs and: */
    RIG_PUT(r, 0x1ffffd, 0x90, 0xeb, 0xfd);   /* nop; jmp to it */
    r->cs.rip = 0x1ffffd;
    rig_run(r, 100);
    assert_int_equal(r->stop, VCPU_STOP_BUDGET);
    RIG_PUT(r, 0x1ffffd, 0x90, 0x48, 0xb8); /* mov rax,imm64 */
    rig_run(r, 100);
    assert_int_equal(r->stop, VCPU_STOP_SHUTDOWN);
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_true(r->cs.cr2 == 0x200000);
    assert_true(r->cs.rip == 0x1ffffe);
}

TEST_WITH(rig_new_long, remapped_page_runs_the_other_code)
{
    /* 40000000 is mapped to 0 or to 2 MiB by a second 1 GiB's table. */
    rig_put64(r, RIG_TABLES + 0x1008, (RIG_TABLES + 0x3000) | 7);
    rig_put64(r, RIG_TABLES + 0x3000, 0x87);
    RIG_PUT(r, 0x1000, 0x48, 0xff, 0xc0, 0xf4);   /* inc rax; hlt */
    RIG_PUT(r, 0x201000, 0x48, 0xff, 0xc1, 0xf4); /* inc rcx; hlt */
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = 0;
    r->cs.rip = 0x40001000;
    rig_run(r, 2);
    rig_put64(r, RIG_TABLES + 0x3000, 0x200087);
    /* invlpg [rbx]; jmp rbx */
    RIG_PUT(r, 0x5000, 0x0f, 0x01, 0x3b, 0xff, 0xe3);
    r->cs.gpr[REG_RBX] = 0x40001000;
    r->cs.rip = 0x5000;
    r->cs.activity = CPU_RUNNING;
    rig_run(r, 4);
    assert_true(r->cs.gpr[REG_RAX] == 1);
    assert_true(r->cs.gpr[REG_RCX] == 1);
}

/* ---- limits ---- */

TEST_WITH(rig_new, fetch_beyond_the_limit_raises_gp_at_the_instruction_that_crosses_it)
{
    r->cs.seg[SEG_CS].limit = RIG_CODE + 3;
    r->cs.seg[SEG_CS].attr &= (uint16_t)~SEG_ATTR_G;
    RIG_RUN(r, 5, 0x90, 0xb8, 1, 2, 3, 4);
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_true(r->cs.rip == RIG_CODE + 1);
    assert_true(r->cs.icount == 2);
}

TEST_WITH(rig_new, block_decoded_under_a_wide_limit_obeys_a_narrow_one)
{
    r->cs.gpr[REG_RAX] = 0;
    r->cs.seg[SEG_CS].limit = 0xffff;
    RIG_RUN(r, 8, 0x40, 0x40, 0x40, 0xeb, 0xfb);
    assert_true(r->cs.gpr[REG_RAX] == 6);
    r->cs.seg[SEG_CS].limit = RIG_CODE + 1;
    r->cs.rip = RIG_CODE;
    rig_run(r, 8);
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_true(r->cs.gpr[REG_RAX] == 8);
}

TEST_WITH(rig_new, code_is_fetched_from_where_no_ram_is)
{
    /* Nothing answers there: all ones, FF FF is no instruction. */
    r->cs.rip = 0x10000000;
    rig_run(r, 5);
    assert_int_equal(rig_exception(r), VEC_UD);
}

/* ---- counting ---- */

TEST_WITH(rig_new, run_stops_exactly_within_its_budget)
{
    RIG_CODE_BYTES(r, 0x40, 0x41, 0x42, 0x43, 0x45, 0xeb, 0xf9);
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RCX] = r->cs.gpr[REG_RDX] = 0;
    for (unsigned n = 1; n <= 20; n++) {
        uint64_t before = r->cs.icount;

        rig_run(r, n);
        assert_int_equal(r->stop, VCPU_STOP_BUDGET);
        assert_true(r->cs.icount == before + n);
    }
    assert_true(r->cs.icount == 210);
    assert_true(r->cs.gpr[REG_RAX] == 35);
    assert_true(r->cs.rip == RIG_CODE);
}

TEST_WITH(rig_new, budget_of_zero_runs_nothing)
{
    r->cs.gpr[REG_RAX] = 0;
    RIG_RUN(r, 0, 0x40);
    assert_int_equal(r->stop, VCPU_STOP_BUDGET);
    assert_true(r->cs.gpr[REG_RAX] == 0);
}

TEST_WITH(rig_new, virtual_clock_follows_the_count)
{
    RIG_RUN(r, 12345, 0x90, 0xeb, 0xfd);
    assert_true(clock_now(r->vm.clock) == 12345);
}

TEST_WITH(rig_new, kick_leaves_an_endless_loop)
{
    RIG_CODE_BYTES(r, 0xeb, 0xfe);
    vcpu_post(r->vcpu, PEND_EXIT);
    rig_run(r, UINT64_MAX);
    assert_int_equal(r->stop, VCPU_STOP_KICK);
}

/* ---- stepping ---- */

TEST_WITH(rig_new, breakpoint_in_the_middle_of_a_block_stops_before_its_instruction)
{
    r->cs.gpr[REG_RAX] = 0;
    RIG_RUN(r, 4, 0x40, 0x40, 0x40, 0xeb, 0xfb);
    r->cs.dr[0] = RIG_CODE + 2;
    r->cs.dr7 = 0x401;
    rig_run(r, 100);
    assert_int_equal(rig_exception(r), VEC_DB);
    assert_true(r->cs.gpr[REG_RAX] == 5);
    assert_true(r->cs.dr6 & 1);
}

TEST_WITH(rig_new, full_cache_is_flushed_and_goes_on)
{
    uint64_t flushes = cache(r)->flushes;
    uint8_t page[PAGE_SIZE];

    /* Blocks of 64 NOPs; each page's bytes are changed so that all is decoded anew. */
    for (unsigned round = 0; round < 8; round++) {
        for (unsigned n = 0; n < sizeof(page); n++)
            page[n] = (n + round) % 9 ? 0x90 : 0x40;
        for (gpa_t at = 0x10000; at < 0x300000; at += PAGE_SIZE)
            assert_true(mem_write(&r->vm, at, page, sizeof(page)));
        r->cs.rip = 0x10000;
        rig_run(r, 0x2f0000);
        assert_int_equal(r->stop, VCPU_STOP_BUDGET);
    }
    assert_true(cache(r)->flushes > flushes);
}
