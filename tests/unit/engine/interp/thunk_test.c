/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "base/bytes.h"
#include "engine/interp/thunk.h"
#include "tests/unit/engine/interp/rigtest.h"

#define EDGE   0x40000000ull /* nothing is mapped from here on ... */
#define BEFORE 0x1ff000u     /* ... and this RAM page comes before it */
#define NONE   0xff

/* 64-bit code with everything enabled, and a RAM page that ends at EDGE. */
static struct rig *vector_rig(void)
{
    struct rig *r = rig_new();

    rig_long(r);
    rig_put64(r, RIG_TABLES + 0x2000 + 511 * 8, 0x87);
    r->cs.cr4 |= CR4_OSXSAVE | CR4_OSXMMEXCPT;
    r->cs.xcr0 = r->model.xcr0_mask;
    r->cs.fpu.mxcsr = 0x1f80;
    r->cs.fpu.fcw = 0x37f;
    return r;
}

static void need(const struct rig *r, enum cpu_feature f)
{
    if (!cpu_has(&r->model, f))
        skip();
}

static __attribute__((target("crc32"))) uint32_t crc8(uint32_t crc, uint8_t v)
{
    return __builtin_ia32_crc32qi(crc, v);
}

static __attribute__((target("crc32"))) uint64_t crc64(uint64_t crc, uint64_t v)
{
    return __builtin_ia32_crc32di(crc, v);
}

static uint64_t cr2(const struct rig *r)
{
    const struct interp *c = r->vcpu->engine;

    return c->last_exc[0].cr2;
}

/* ---- faults of the host ---- */

TEST_WITH(vector_rig, misaligned_sse_operand_is_gp)
{
    r->cs.gpr[REG_RAX] = RIG_DATA + 8;
    memset(r->cs.fpu.zmm[0], 0x5a, 16);
    RIG_RUN(r, 1, 0x0f, 0x28, 0x00); /* movaps xmm0, [rax] */
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_int_equal(r->cs.fpu.zmm[0][3], 0x5a);
}

TEST_WITH(vector_rig, misaligned_operand_in_an_absent_page_is_gp_as_well)
{
    r->cs.gpr[REG_RAX] = EDGE + 8;
    RIG_RUN(r, 1, 0x0f, 0x28, 0x00);
    assert_int_equal(rig_exception(r), VEC_GP);
}

TEST_WITH(vector_rig, simd_exception_keeps_mxcsr_flags_and_registers)
{
    r->cs.fpu.mxcsr = 0x1d80; /* ZM clear */
    put_le32(r->cs.fpu.zmm[0], 0x3f800000);
    RIG_RUN(r, 1, 0xf3, 0x0f, 0x5e, 0xc1); /* divss xmm0, xmm1 */
    assert_int_equal(rig_exception(r), VEC_XM);
    assert_int_equal(r->cs.fpu.mxcsr, 0x1d84);
    assert_int_equal(get_le32(r->cs.fpu.zmm[0]), 0x3f800000);
}

TEST_WITH(vector_rig, simd_exception_without_osxmmexcpt_is_ud)
{
    r->cs.cr4 &= ~CR4_OSXMMEXCPT;
    r->cs.fpu.mxcsr = 0x1d80;
    put_le32(r->cs.fpu.zmm[0], 0x3f800000);
    RIG_RUN(r, 1, 0xf3, 0x0f, 0x5e, 0xc1);
    assert_int_equal(rig_exception(r), VEC_UD);
}

TEST_WITH(vector_rig, page_fault_names_the_second_page)
{
    r->cs.gpr[REG_RAX] = EDGE - 4;
    RIG_RUN(r, 1, 0x0f, 0x10, 0x00); /* movups xmm0, [rax] */
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_int_equal(cr2(r), EDGE);
}

TEST_WITH(vector_rig, task_switched_makes_nm)
{
    r->cs.cr0 |= CR0_TS;
    RIG_RUN(r, 1, 0x0f, 0x58, 0xc1); /* addps */
    assert_int_equal(rig_exception(r), VEC_NM);
}

/* ---- x87 ---- */

TEST_WITH(vector_rig, x87_pointers_are_the_guests)
{
    RIG_CODE_BYTES(r, 0x90, 0xd9, 0x00, /* nop; fld dword [rax] */
                   0xd9, 0x33);         /* fnstenv [rbx] */
    r->cs.gpr[REG_RAX] = RIG_DATA;
    r->cs.gpr[REG_RBX] = RIG_DATA + 0x100;
    r->cs.fpu.fip = r->cs.fpu.fdp = 0x1234;
    rig_run(r, 3);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(r->cs.fpu.fip, RIG_CODE + 1);
    assert_in_range(r->cs.fpu.fdp, 0, RIG_DATA);
    assert_int_equal(rig_get(r, RIG_DATA + 0x100 + 12, 4), RIG_CODE + 1);
}

TEST_WITH(vector_rig, control_instructions_leave_x87_pointers_alone)
{
    r->cs.gpr[REG_RAX] = RIG_DATA;
    r->cs.fpu.fip = 0x1234;
    r->cs.fpu.fdp = 0x5678;
    RIG_RUN(r, 2, 0xd9, 0x38, 0xd9, 0x28); /* fnstcw [rax]; fldcw [rax] */
    assert_int_equal(r->cs.fpu.fip, 0x1234);
    assert_int_equal(r->cs.fpu.fdp, 0x5678);
}

TEST_WITH(vector_rig, unmasked_x87_exception_comes_with_the_next_instruction)
{
    r->cs.fpu.fcw = 0x37b; /* ZM clear */
    r->cs.fpu.ftw = 0x03;
    put_le64(r->cs.fpu.st[1], 1ull << 63);
    put_le16(r->cs.fpu.st[1] + 8, 0x3fff);
    RIG_RUN(r, 2, 0xde, 0xf9, 0x90, 0x9b); /* fdivp; nop; fwait */
    assert_int_equal(rig_exception(r), NONE);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_MF);
}

struct ferr {
    unsigned calls;
    bool level, ignne;
};

static bool set_ferr(void *opaque, unsigned vcpu, bool level)
{
    struct ferr *f = opaque;

    assert_int_equal(vcpu, 0);
    f->calls++;
    f->level = level;
    return f->ignne;
}

TEST_WITH(vector_rig, without_ne_the_exception_goes_to_the_pin_and_the_cpu_waits)
{
    struct ferr f = {0};

    r->cs.cr0 &= ~CR0_NE;
    r->cs.fpu.fcw = 0x37b;
    r->cs.fpu.fsw = 0x8084;
    r->cs.fpu.ftw = 0;
    r->vm.ferr_sink = set_ferr;
    r->vm.ferr_opaque = &f;
    RIG_RUN(r, 3, 0xd9, 0xe8, 0x90); /* fld1; nop */
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(f.calls, 3);
    assert_true(f.level);
    assert_int_equal(r->cs.rip, RIG_CODE);
    f.ignne = true;
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, RIG_CODE + 2);
    assert_int_equal(get_le16(r->cs.fpu.st[0] + 8), 0x3fff);
}

TEST_WITH(vector_rig, pin_is_let_go_when_the_exception_is_cleared)
{
    struct ferr f = {.ignne = true};

    r->cs.cr0 &= ~CR0_NE;
    r->cs.fpu.fcw = 0x37b;
    r->cs.fpu.fsw = 0x8084;
    r->vm.ferr_sink = set_ferr;
    r->vm.ferr_opaque = &f;
    RIG_RUN(r, 1, 0x9b, 0xdb, 0xe2, 0x9b, 0x9b); /* fwait; fnclex; fwait; fwait */
    assert_true(f.level);
    rig_run(r, 2);
    assert_false(f.level);
    assert_int_equal(rig_exception(r), NONE);
}

TEST_WITH(vector_rig, with_ne_the_pin_stays_quiet)
{
    struct ferr f = {.level = true};

    r->cs.cr0 |= CR0_NE;
    r->cs.fpu.fcw = 0x37b;
    r->cs.fpu.fsw = 0x8084;
    r->vm.ferr_sink = set_ferr;
    r->vm.ferr_opaque = &f;
    RIG_RUN(r, 1, 0x9b);
    assert_int_equal(rig_exception(r), VEC_MF);
    assert_false(f.level);
}

TEST_WITH(vector_rig, without_a_pin_the_exception_is_mf)
{
    r->cs.cr0 &= ~CR0_NE;
    r->cs.fpu.fcw = 0x37b;
    r->cs.fpu.fsw = 0x8084;
    RIG_RUN(r, 1, 0x9b);
    assert_int_equal(rig_exception(r), VEC_MF);
}

/* ---- masks ---- */

TEST_WITH(vector_rig, masked_store_touches_nothing_else)
{
    need(r, FEAT_AVX2);
    /* vpmaskmovd [rax], xmm1, xmm2: elements 0 and 1 before EDGE, 2 and 3 after it */
    rig_put64(r, BEFORE + 0xff8, 0x1111111111111111);
    r->cs.gpr[REG_RAX] = EDGE - 8;
    put_le32(r->cs.fpu.zmm[1] + 4, 0x80000000);
    memset(r->cs.fpu.zmm[2], 0x22, 16);
    RIG_RUN(r, 1, 0xc4, 0xe2, 0x71, 0x8e, 0x10);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(rig_get(r, BEFORE + 0xff8, 8), 0x2222222211111111);
}

TEST_WITH(vector_rig, selected_element_in_an_absent_page_stores_nothing)
{
    need(r, FEAT_AVX2);
    rig_put64(r, BEFORE + 0xff8, 0x1111111111111111);
    r->cs.gpr[REG_RAX] = EDGE - 8;
    memset(r->cs.fpu.zmm[1], 0xff, 16);
    RIG_RUN(r, 1, 0xc4, 0xe2, 0x71, 0x8e, 0x10);
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_int_equal(cr2(r) & ~0xfffull, EDGE);
    assert_int_equal(rig_get(r, BEFORE + 0xff8, 8), 0x1111111111111111);
}

TEST_WITH(vector_rig, gather_goes_on_where_it_faulted)
{
    need(r, FEAT_AVX2);
    rig_put64(r, BEFORE + 0xff0, 0x2222222211111111);
    r->cs.gpr[REG_RAX] = EDGE - 16;
    put_le32(r->cs.fpu.zmm[1] + 4, 4);
    put_le32(r->cs.fpu.zmm[1] + 8, 16);
    memset(r->cs.fpu.zmm[2], 0xff, 16);
    put_le32(r->cs.fpu.zmm[2] + 12, 0);
    RIG_RUN(r, 1, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08); /* vpgatherdd xmm0, [rax+xmm1], xmm2 */
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_int_equal(cr2(r), EDGE);
    assert_int_equal(get_le64(r->cs.fpu.zmm[0]), 0x2222222211111111);
    assert_int_equal(get_le64(r->cs.fpu.zmm[2]), 0);
    assert_int_equal(get_le32(r->cs.fpu.zmm[2] + 8), 0xffffffff);

    /* Map the page and clear the shutdown: only the third element is left. */
    rig_put64(r, RIG_TABLES + 0x1000 + 8, (RIG_TABLES + 0x2000) | 7);
    r->cs.activity = CPU_RUNNING;
    r->cs.event_pending = 0;
    r->cs.rip = RIG_CODE;
    rig_put64(r, 0, 0x33333333);
    rig_run(r, 1);
    assert_int_equal(get_le32(r->cs.fpu.zmm[0] + 8), 0x33333333);
    assert_int_equal(get_le64(r->cs.fpu.zmm[2] + 8), 0);
}

/* ---- where operands lie ---- */

TEST_WITH(vector_rig, operand_in_mmio_space_goes_through_the_bus)
{
    r->cs.gpr[REG_RAX] = 0x1000000;
    RIG_RUN(r, 1, 0x0f, 0x10, 0x00); /* movups xmm0, [rax]: no RAM there */
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(get_le64(r->cs.fpu.zmm[0] + 8), UINT64_MAX);
}

TEST_WITH(vector_rig, store_into_the_running_block_is_seen)
{
    /* movsd [rip+0], xmm0 over what follows: inc eax becomes inc ebx */
    put_le64(r->cs.fpu.zmm[0], 0x909090909090c3ff);
    RIG_RUN(r, 2, 0xf2, 0x0f, 0x11, 0x05, 0, 0, 0, 0, 0xff, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x90,
            0x90);
    assert_int_equal(r->cs.gpr[REG_RAX], 0);
    assert_int_equal(r->cs.gpr[REG_RBX], 1);
}

/* ---- general registers ---- */

TEST_WITH(vector_rig, stack_pointer_and_high_bytes_are_operands_like_others)
{
    need(r, FEAT_SSE42);
    r->cs.gpr[REG_RBX] = 0x4100;
    r->cs.gpr[REG_RSP] = RIG_DATA;
    RIG_RUN(r, 1, 0xf2, 0x0f, 0x38, 0xf0, 0xc7, /* crc32 eax, bh */ 0xf2, 0x48, 0x0f, 0x38, 0xf1,
            0xe4, /* crc32 rsp, rsp */ 0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x4c, 0x24,
            0x08); /* crc32 rcx, [rsp+8] */
    assert_int_equal(r->cs.gpr[REG_RAX], crc8(0, 0x41));
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RSP], crc64(RIG_DATA, RIG_DATA));
    r->cs.gpr[REG_RSP] = RIG_DATA;
    rig_put64(r, RIG_DATA + 8, 0x1234567890);
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RCX], crc64(0, 0x1234567890));
}

/* ---- state areas ---- */

TEST_WITH(vector_rig, xsave_and_xrstor_carry_the_whole_state)
{
    struct cpu_fpu before;

    need(r, FEAT_XSAVE);
    RIG_CODE_BYTES(r, 0x0f, 0xae, 0x21, 0x0f, 0xae, 0x29); /* xsave [rcx]; xrstor [rcx] */
    for (unsigned n = 0; n < 16; n++)
        memset(r->cs.fpu.zmm[n], (int)(n + 1), cpu_has(&r->model, FEAT_AVX512F) ? 64 : 16);
    r->cs.fpu.ftw = 0x81;
    r->cs.fpu.st[1][4] = 9;
    r->cs.gpr[REG_RAX] = r->cs.gpr[REG_RDX] = UINT32_MAX;
    r->cs.gpr[REG_RCX] = RIG_DATA;
    before = r->cs.fpu;
    rig_run(r, 1);
    memset(r->cs.fpu.zmm, 0, sizeof(r->cs.fpu.zmm));
    memset(r->cs.fpu.st, 0, sizeof(r->cs.fpu.st));
    r->cs.fpu.ftw = 0;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), NONE);
    assert_memory_equal(&r->cs.fpu, &before, sizeof(before));
}

TEST_WITH(vector_rig, xrstor_refuses_a_compacted_header)
{
    need(r, FEAT_XSAVE);
    rig_put64(r, RIG_DATA + 520, 1ull << 63);
    r->cs.gpr[REG_RAX] = 7;
    r->cs.gpr[REG_RCX] = RIG_DATA;
    RIG_RUN(r, 1, 0x0f, 0xae, 0x29);
    assert_int_equal(rig_exception(r), VEC_GP);
}

TEST_WITH(rig_new_real, real_mode_environment_has_linear_pointers)
{
    r->cs.gpr[REG_RBX] = 0x3000;
    r->cs.fpu.fip = 0x54321;
    r->cs.fpu.fop = 0x123;
    RIG_RUN(r, 1, 0xd9, 0x37); /* fnstenv [bx], 14 bytes */
    assert_int_equal(rig_get(r, 0x3006, 2), 0x4321);
    assert_int_equal(rig_get(r, 0x3008, 2), 0x5123);
}

/* ---- the buffer ---- */

TEST_WITH(vector_rig, more_forms_than_the_buffer_holds_still_run)
{
    uint32_t at = 0x100000;

    /* pshufd xmm1..xmm7, xmm1..xmm7, imm8: 12544 forms; then movd eax, xmm0 */
    for (unsigned dst = 1; dst < 8; dst++)
        for (unsigned src = 1; src < 8; src++)
            for (unsigned imm = 0; imm < 256; imm++, at += 5) {
                const uint8_t code[] = {0x66, 0x0f, 0x70, (uint8_t)(0xc0 | dst << 3 | src),
                                        (uint8_t)imm};

                rig_write(r, at, code, sizeof(code));
            }
    RIG_PUT(r, at, 0x66, 0x0f, 0x7e, 0xc0);
    r->cs.rip = 0x100000;
    put_le32(r->cs.fpu.zmm[0], 0xfeedf00d);
    put_le32(r->cs.fpu.zmm[1], 0x12345678);
    for (unsigned n = 2; n < 8; n++)
        put_le32(r->cs.fpu.zmm[n], 0x12345678);
    rig_run(r, 7 * 7 * 256 + 1);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(r->cs.rip, at + 4);
    assert_int_equal(r->cs.gpr[REG_RAX], 0xfeedf00d);
}

/* ---- two machines ---- */

/* Adds a number 1000 times, each time with an alignment fault that the run starts over from. */
static void *add_and_fault(void *opaque)
{
    struct rig *r = opaque;

    for (unsigned n = 0; n < 1000; n++) {
        r->cs.rip = RIG_CODE;
        r->cs.activity = CPU_RUNNING;
        r->cs.event_pending = 0;
        rig_run(r, 2);
    }
    return NULL;
}

static struct rig *adder(uint32_t step)
{
    struct rig *r = vector_rig();

    RIG_CODE_BYTES(r, 0x0f, 0xfe, 0xc1, 0x0f, 0x28, 0x08); /* paddd mm0, mm1; movaps xmm1, [rax] */
    r->cs.gpr[REG_RAX] = RIG_DATA + 1;
    put_le32(r->cs.fpu.st[1], step);
    return r;
}

TEST(two_machines_fault_side_by_side)
{
    struct rig *a = adder(3), *b = adder(5);
    pthread_t ta, tb;

    assert_int_equal(pthread_create(&ta, NULL, add_and_fault, a), 0);
    assert_int_equal(pthread_create(&tb, NULL, add_and_fault, b), 0);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    assert_int_equal(get_le32(a->cs.fpu.st[0]), 3000);
    assert_int_equal(get_le32(b->cs.fpu.st[0]), 5000);
    rig_free(a);
    rig_free(b);
}

TEST(two_machines_take_turns_on_one_thread)
{
    struct rig *a = adder(3), *b = adder(5);

    add_and_fault(a);
    add_and_fault(b);
    rig_free(a);
    add_and_fault(b);
    assert_int_equal(get_le32(b->cs.fpu.st[0]), 10000);
    rig_free(b);
}
