/* SPDX-License-Identifier: Apache-2.0 */
/* Code that doppel makes uses no instruction of a feature that the host is without. */
#define FIXTURE struct rig *r
#include "tests/lib/unit.h"

#include "tests/unit/engine/interp/rig.h"

#include <Zydis/Zydis.h>

#include "engine/bt/bt.h"
#include "engine/interp/thunk_int.h"

static void teardown(struct rig *r)
{
    rig_free(r);
}

/* A translator that has translated SSE and x87, and made the interpreter's functions for them. */
static struct rig *without(uint32_t features)
{
    /* divps xmm3, xmm2; mulps xmm9, [rbx]; fld1; faddp; hlt */
    static const uint8_t code[] = {0x0f, 0x5e, 0xda, 0x44, 0x0f, 0x59,
                                   0x0b, 0xd9, 0xe8, 0xde, 0xc1, 0xf4};
    struct rig *r = rig_new_without("max", &engine_bt, CLOCK_MANUAL, features);

    rig_long(r);
    r->cs.cr0 = (r->cs.cr0 & ~(CR0_EM | CR0_TS)) | CR0_NE | CR0_MP;
    bt_of(interp_of(r->vcpu))->bt->warm = 2;
    r->cs.gpr[REG_RBX] = RIG_DATA;
    rig_write(r, RIG_CODE, code, sizeof(code));
    for (unsigned i = 0; i < 3; i++) {
        r->cs.rip = RIG_CODE;
        r->cs.activity = CPU_RUNNING;
        rig_run(r, UINT64_MAX);
    }
    return r;
}

/* The instructions from here on whose feature CPUID has beside SSE4: AVX, AVX-512, BMI, XGETBV. */
static unsigned long_ones(const uint8_t *p, size_t n, bool evex_only)
{
    ZydisDecoder decoder;
    unsigned found = 0;
    size_t at = 0;

    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    while (at < n) {
        ZydisDecodedInstruction zi;

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, p + at, n - at, &zi))) {
            at++;
            continue;
        }
        if (zi.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
            (!evex_only && (zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ||
                            zi.mnemonic == ZYDIS_MNEMONIC_XGETBV)))
            found++;
        at += zi.length;
    }
    return found;
}

static unsigned in_all(const struct rig *r, bool evex_only)
{
    const struct bt_vm *bt = bt_of(interp_of(r->vcpu))->bt;
    const struct thunks *ts = interp_of(r->vcpu)->thunks;

    assert_int_not_equal(bt->translated, 0);
    assert_int_not_equal(ts->code.used, 0);
    return long_ones(bt->code.rx + 64, bt->hot - 64, evex_only) +
           long_ones(bt->code.rx + BT_COLD, bt->cold - BT_COLD, evex_only) +
           long_ones(ts->code.rx, ts->code.used, evex_only);
}

static struct rig *without_avx(void)
{
    return without(HOST_AVX | HOST_BMI2); /* RORX looks the same */
}

static struct rig *without_avx512(void)
{
    return without(HOST_AVX512);
}

TEST_WITH(without_avx, no_instruction_is_avx_without_it)
{
    assert_int_equal(in_all(r, false), 0);
}

TEST_WITH(without_avx512, no_instruction_is_avx512_without_it)
{
    assert_int_equal(in_all(r, true), 0);
    if (r->vm.host & HOST_AVX)
        assert_int_not_equal(in_all(r, false), 0);
}
