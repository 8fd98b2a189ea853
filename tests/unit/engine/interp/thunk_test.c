/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "engine/interp/thunk.h"
#include "tests/unit/engine/interp/rig.h"

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

static void misaligned_sse_operand_is_gp(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0x0f, 0x28, 0x00); /* movaps xmm0, [rax] */
    r->cs.gpr[REG_RAX] = RIG_DATA + 8;
    memset(r->cs.fpu.zmm[0], 0x5a, 16);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_GP);
    assert_int_equal(r->cs.fpu.zmm[0][3], 0x5a);
    rig_free(r);
}

static void misaligned_operand_in_an_absent_page_is_gp_as_well(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0x0f, 0x28, 0x00);
    r->cs.gpr[REG_RAX] = EDGE + 8;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_GP);
    rig_free(r);
}

static void simd_exception_keeps_mxcsr_flags_and_registers(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0xf3, 0x0f, 0x5e, 0xc1); /* divss xmm0, xmm1 */
    r->cs.fpu.mxcsr = 0x1d80;                  /* ZM clear */
    put_le32(r->cs.fpu.zmm[0], 0x3f800000);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_XM);
    assert_int_equal(r->cs.fpu.mxcsr, 0x1d84);
    assert_int_equal(get_le32(r->cs.fpu.zmm[0]), 0x3f800000);
    rig_free(r);
}

static void simd_exception_without_osxmmexcpt_is_ud(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0xf3, 0x0f, 0x5e, 0xc1);
    r->cs.cr4 &= ~CR4_OSXMMEXCPT;
    r->cs.fpu.mxcsr = 0x1d80;
    put_le32(r->cs.fpu.zmm[0], 0x3f800000);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_UD);
    rig_free(r);
}

static void page_fault_names_the_second_page(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0x0f, 0x10, 0x00); /* movups xmm0, [rax] */
    r->cs.gpr[REG_RAX] = EDGE - 4;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_int_equal(cr2(r), EDGE);
    rig_free(r);
}

static void task_switched_makes_nm(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0x0f, 0x58, 0xc1); /* addps */
    r->cs.cr0 |= CR0_TS;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_NM);
    rig_free(r);
}

/* ---- x87 ---- */

static void x87_pointers_are_the_guests(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
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
    rig_free(r);
}

static void control_instructions_leave_x87_pointers_alone(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0xd9, 0x38, 0xd9, 0x28); /* fnstcw [rax]; fldcw [rax] */
    r->cs.gpr[REG_RAX] = RIG_DATA;
    r->cs.fpu.fip = 0x1234;
    r->cs.fpu.fdp = 0x5678;
    rig_run(r, 2);
    assert_int_equal(r->cs.fpu.fip, 0x1234);
    assert_int_equal(r->cs.fpu.fdp, 0x5678);
    rig_free(r);
}

static void unmasked_x87_exception_comes_with_the_next_instruction(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0xde, 0xf9, 0x90, 0x9b); /* fdivp; nop; fwait */
    r->cs.fpu.fcw = 0x37b;                     /* ZM clear */
    r->cs.fpu.ftw = 0x03;
    put_le64(r->cs.fpu.st[1], 1ull << 63);
    put_le16(r->cs.fpu.st[1] + 8, 0x3fff);
    rig_run(r, 2);
    assert_int_equal(rig_exception(r), NONE);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_MF);
    rig_free(r);
}

struct ferr {
    unsigned calls;
    bool ignne;
};

static bool assert_ferr(void *opaque)
{
    struct ferr *f = opaque;

    f->calls++;
    return f->ignne;
}

static void without_ne_the_exception_goes_to_the_pin_and_the_cpu_waits(void **state)
{
    struct rig *r = vector_rig();
    struct ferr f = {0};

    (void)state;
    RIG_CODE_BYTES(r, 0xd9, 0xe8, 0x90); /* fld1; nop */
    r->cs.cr0 &= ~CR0_NE;
    r->cs.fpu.fcw = 0x37b;
    r->cs.fpu.fsw = 0x8084;
    r->cs.fpu.ftw = 0;
    thunk_set_ferr(r->vcpu->engine, assert_ferr, &f);
    rig_run(r, 3);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(f.calls, 3);
    assert_int_equal(r->cs.rip, RIG_CODE);
    f.ignne = true;
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, RIG_CODE + 2);
    assert_int_equal(get_le16(r->cs.fpu.st[0] + 8), 0x3fff);
    rig_free(r);
}

/* ---- masks ---- */

static void masked_store_touches_nothing_else(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    need(r, FEAT_AVX2);
    /* vpmaskmovd [rax], xmm1, xmm2: elements 0 and 1 before EDGE, 2 and 3 after it */
    RIG_CODE_BYTES(r, 0xc4, 0xe2, 0x71, 0x8e, 0x10);
    rig_put64(r, BEFORE + 0xff8, 0x1111111111111111);
    r->cs.gpr[REG_RAX] = EDGE - 8;
    put_le32(r->cs.fpu.zmm[1] + 4, 0x80000000);
    memset(r->cs.fpu.zmm[2], 0x22, 16);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(rig_get(r, BEFORE + 0xff8, 8), 0x2222222211111111);
    rig_free(r);
}

static void selected_element_in_an_absent_page_stores_nothing(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    need(r, FEAT_AVX2);
    RIG_CODE_BYTES(r, 0xc4, 0xe2, 0x71, 0x8e, 0x10);
    rig_put64(r, BEFORE + 0xff8, 0x1111111111111111);
    r->cs.gpr[REG_RAX] = EDGE - 8;
    memset(r->cs.fpu.zmm[1], 0xff, 16);
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_PF);
    assert_int_equal(cr2(r) & ~0xfffull, EDGE);
    assert_int_equal(rig_get(r, BEFORE + 0xff8, 8), 0x1111111111111111);
    rig_free(r);
}

static void gather_goes_on_where_it_faulted(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    need(r, FEAT_AVX2);
    RIG_CODE_BYTES(r, 0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08); /* vpgatherdd xmm0, [rax+xmm1], xmm2 */
    rig_put64(r, BEFORE + 0xff0, 0x2222222211111111);
    r->cs.gpr[REG_RAX] = EDGE - 16;
    put_le32(r->cs.fpu.zmm[1] + 4, 4);
    put_le32(r->cs.fpu.zmm[1] + 8, 16);
    memset(r->cs.fpu.zmm[2], 0xff, 16);
    put_le32(r->cs.fpu.zmm[2] + 12, 0);
    rig_run(r, 1);
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
    rig_free(r);
}

/* ---- where operands lie ---- */

static void operand_in_mmio_space_goes_through_the_bus(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    RIG_CODE_BYTES(r, 0x0f, 0x10, 0x00); /* movups xmm0, [rax]: no RAM there */
    r->cs.gpr[REG_RAX] = 0x1000000;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), NONE);
    assert_int_equal(get_le64(r->cs.fpu.zmm[0] + 8), UINT64_MAX);
    rig_free(r);
}

static void store_into_the_running_block_is_seen(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    /* movsd [rip+0], xmm0 over what follows: inc eax becomes inc ebx */
    RIG_CODE_BYTES(r, 0xf2, 0x0f, 0x11, 0x05, 0, 0, 0, 0, 0xff, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x90,
                   0x90);
    put_le64(r->cs.fpu.zmm[0], 0x909090909090c3ff);
    rig_run(r, 2);
    assert_int_equal(r->cs.gpr[REG_RAX], 0);
    assert_int_equal(r->cs.gpr[REG_RBX], 1);
    rig_free(r);
}

/* ---- general registers ---- */

static void stack_pointer_and_high_bytes_are_operands_like_others(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    need(r, FEAT_SSE42);
    RIG_CODE_BYTES(r, 0xf2, 0x0f, 0x38, 0xf0, 0xc7,                 /* crc32 eax, bh */
                   0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xe4,              /* crc32 rsp, rsp */
                   0xf2, 0x48, 0x0f, 0x38, 0xf1, 0x4c, 0x24, 0x08); /* crc32 rcx, [rsp+8] */
    r->cs.gpr[REG_RBX] = 0x4100;
    r->cs.gpr[REG_RSP] = RIG_DATA;
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RAX], crc8(0, 0x41));
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RSP], crc64(RIG_DATA, RIG_DATA));
    r->cs.gpr[REG_RSP] = RIG_DATA;
    rig_put64(r, RIG_DATA + 8, 0x1234567890);
    rig_run(r, 1);
    assert_int_equal(r->cs.gpr[REG_RCX], crc64(0, 0x1234567890));
    rig_free(r);
}

/* ---- state areas ---- */

static void xsave_and_xrstor_carry_the_whole_state(void **state)
{
    struct rig *r = vector_rig();
    struct cpu_fpu before;

    (void)state;
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
    rig_free(r);
}

static void xrstor_refuses_a_compacted_header(void **state)
{
    struct rig *r = vector_rig();

    (void)state;
    need(r, FEAT_XSAVE);
    RIG_CODE_BYTES(r, 0x0f, 0xae, 0x29);
    rig_put64(r, RIG_DATA + 520, 1ull << 63);
    r->cs.gpr[REG_RAX] = 7;
    r->cs.gpr[REG_RCX] = RIG_DATA;
    rig_run(r, 1);
    assert_int_equal(rig_exception(r), VEC_GP);
    rig_free(r);
}

static void real_mode_environment_has_linear_pointers(void **state)
{
    struct rig *r = rig_new();

    (void)state;
    rig_real(r);
    RIG_CODE_BYTES(r, 0xd9, 0x37); /* fnstenv [bx], 14 bytes */
    r->cs.gpr[REG_RBX] = 0x3000;
    r->cs.fpu.fip = 0x54321;
    r->cs.fpu.fop = 0x123;
    rig_run(r, 1);
    assert_int_equal(rig_get(r, 0x3006, 2), 0x4321);
    assert_int_equal(rig_get(r, 0x3008, 2), 0x5123);
    rig_free(r);
}

/* ---- the buffer ---- */

static void more_forms_than_the_buffer_holds_still_run(void **state)
{
    struct rig *r = vector_rig();
    uint32_t at = 0x100000;

    (void)state;
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
    rig_free(r);
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

static void two_machines_fault_side_by_side(void **state)
{
    struct rig *a = adder(3), *b = adder(5);
    pthread_t ta, tb;

    (void)state;
    assert_int_equal(pthread_create(&ta, NULL, add_and_fault, a), 0);
    assert_int_equal(pthread_create(&tb, NULL, add_and_fault, b), 0);
    pthread_join(ta, NULL);
    pthread_join(tb, NULL);
    assert_int_equal(get_le32(a->cs.fpu.st[0]), 3000);
    assert_int_equal(get_le32(b->cs.fpu.st[0]), 5000);
    rig_free(a);
    rig_free(b);
}

static void two_machines_take_turns_on_one_thread(void **state)
{
    struct rig *a = adder(3), *b = adder(5);

    (void)state;
    add_and_fault(a);
    add_and_fault(b);
    rig_free(a);
    add_and_fault(b);
    assert_int_equal(get_le32(b->cs.fpu.st[0]), 10000);
    rig_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misaligned_sse_operand_is_gp),
        cmocka_unit_test(misaligned_operand_in_an_absent_page_is_gp_as_well),
        cmocka_unit_test(simd_exception_keeps_mxcsr_flags_and_registers),
        cmocka_unit_test(simd_exception_without_osxmmexcpt_is_ud),
        cmocka_unit_test(page_fault_names_the_second_page),
        cmocka_unit_test(task_switched_makes_nm),
        cmocka_unit_test(x87_pointers_are_the_guests),
        cmocka_unit_test(control_instructions_leave_x87_pointers_alone),
        cmocka_unit_test(unmasked_x87_exception_comes_with_the_next_instruction),
        cmocka_unit_test(without_ne_the_exception_goes_to_the_pin_and_the_cpu_waits),
        cmocka_unit_test(masked_store_touches_nothing_else),
        cmocka_unit_test(selected_element_in_an_absent_page_stores_nothing),
        cmocka_unit_test(gather_goes_on_where_it_faulted),
        cmocka_unit_test(operand_in_mmio_space_goes_through_the_bus),
        cmocka_unit_test(store_into_the_running_block_is_seen),
        cmocka_unit_test(stack_pointer_and_high_bytes_are_operands_like_others),
        cmocka_unit_test(xsave_and_xrstor_carry_the_whole_state),
        cmocka_unit_test(xrstor_refuses_a_compacted_header),
        cmocka_unit_test(real_mode_environment_has_linear_pointers),
        cmocka_unit_test(more_forms_than_the_buffer_holds_still_run),
        cmocka_unit_test(two_machines_fault_side_by_side),
        cmocka_unit_test(two_machines_take_turns_on_one_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
