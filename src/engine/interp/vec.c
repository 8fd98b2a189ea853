/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vector and x87 instructions that are no thunks: the state areas (FNSTENV to XRSTOR), whose layout
 * depends on the guest's mode and whose size on its XCR0; gathers and scatters, which touch memory
 * one element at a time; VZEROUPPER and VZEROALL.
 *
 * SDM vol. 1 sections 8.1.10 (x87 environment), 10.5 (FXSAVE), 13.4 to 13.8 (XSAVE); vol. 2C
 * "VGATHER", "VPSCATTER".
 */
#include <string.h>

#include "base/bytes.h"
#include "cpu/model.h"
#include "engine/interp/mode.h"
#include "engine/interp/thunk_int.h"

#define FCW_INIT   0x037f
#define FCW_ONE    0x0040 /* reads as 1 */
#define FCW_MASK   0x1f7f
#define FSW_IE_PE  0x3f
#define MXCSR_INIT 0x1f80
#define MXCSR_MASK 0xffffu /* DAZ is there on every host that runs this */

/* ---- x87 helpers
 * ------------------------------------------------------------------------------------ */

static unsigned top(const struct cpu_fpu *f)
{
    return f->fsw >> 11 & 7;
}

/* The exception summary follows from flags and masks whenever either is loaded. */
static void summarise(struct cpu_fpu *f)
{
    if (f->fsw & ~f->fcw & FSW_IE_PE)
        f->fsw |= FSW_ES | FSW_B;
    else
        f->fsw &= (uint16_t) ~(FSW_ES | FSW_B);
}

static void x87_init(struct cpu_fpu *f)
{
    f->fcw = FCW_INIT;
    f->fsw = 0;
    f->ftw = 0;
    f->fop = 0;
    f->fip = f->fdp = 0;
    f->fcs = f->fds = 0;
}

/* Two tag bits per physical register: valid 0, zero 1, special 2, empty 3. */
static uint16_t full_tags(const struct cpu_fpu *f)
{
    uint16_t tags = 0;

    for (unsigned r = 0; r < 8; r++) {
        const uint8_t *st = f->st[(r - top(f)) & 7];
        uint64_t mantissa = get_le64(st);
        unsigned exponent = get_le16(st + 8) & 0x7fff, tag;

        if (!(f->ftw >> r & 1))
            tag = 3;
        else if (!exponent && !mantissa)
            tag = 1;
        else if (!exponent || exponent == 0x7fff || !(mantissa >> 63))
            tag = 2;
        else
            tag = 0;
        tags |= (uint16_t)(tag << (r * 2));
    }
    return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    uint8_t ftw = 0;

    for (unsigned r = 0; r < 8; r++)
        if ((tags >> (r * 2) & 3) != 3)
            ftw |= (uint8_t)(1 << r);
    return ftw;
}

/* How many of the `size` bytes at the operand lie inside its segment (0: what else is wrong with
 * it). */
static unsigned inside(const struct interp *c, const struct insn *i, unsigned size)
{
    const struct cpu_seg *s = &c->s.seg[i->seg];
    uint64_t ea = insn_ea(c, i);

    if (c->code64 || c->flat & (1u << i->seg))
        return size;
    if ((s->attr & (SEG_TYPE_CODE | SEG_TYPE_EXPAND)) == SEG_TYPE_EXPAND)
        return size; /* it ends at 64 KiB or 4 GiB: the generic check tells */
    if (ea > s->limit)
        return 0;
    return (unsigned)min_u64(size, s->limit - ea + 1);
}

/*
 * The linear address of a state area, of which all can be accessed or that part which the
 * instruction touches. `align` 1: any. The order: of the segment's limit the first word; alignment;
 * the pages and the rest of the limit.
 */
static gva_t area(struct interp *c, const struct insn *i, unsigned size, unsigned align,
                  enum access how)
{
    bool ac = (c->key & KEY_MODE) == KEY_USER_ALIGNED;
    unsigned word = i->osize == 2 && align == 1 ? 2 : 4;
    gva_t lin;

    if (ac && !c->code64) {
        /* FXSAVE looks at the segment's type last. */
        lin = insn_lin(c, i, word, align == 1 ? how : ACCESS_READ);
        if (lin & ((align == 1 ? word : align) - 1))
            thunk_area_misaligned(c, i, lin);
    }
    lin = insn_lin(c, i, word, how);
    thunk_area_fault(c, i, lin, size, inside(c, i, size), align, how);
    return insn_lin(c, i, size, how);
}

/* ---- FNSTENV, FNSAVE, FLDENV, FRSTOR
 * ------------------------------------------------------------- */

#define ENV_MAX  28
#define ST_BYTES 80

static unsigned env_bytes(const struct insn *i)
{
    return i->osize == 2 ? 14 : 28;
}

static bool env_is_real(const struct interp *c)
{
    return c->mode & (MODE_REAL | MODE_V86);
}

static void env_store(const struct interp *c, const struct insn *i, uint8_t *p)
{
    const struct cpu_fpu *f = &c->s.fpu;
    uint32_t ip = (uint32_t)f->fip, dp = (uint32_t)f->fdp;

    if (env_is_real(c)) {
        ip += (uint32_t)f->fcs << 4;
        dp += (uint32_t)f->fds << 4;
    }
    if (i->osize == 2) {
        put_le16(p, f->fcw);
        put_le16(p + 2, f->fsw);
        put_le16(p + 4, full_tags(f));
        put_le16(p + 6, (uint16_t)ip);
        put_le16(p + 10, (uint16_t)dp);
        if (env_is_real(c)) {
            put_le16(p + 8, (uint16_t)((ip >> 16 & 0xf) << 12 | (f->fop & 0x7ff)));
            put_le16(p + 12, (uint16_t)((dp >> 16 & 0xf) << 12));
        } else {
            put_le16(p + 8, f->fcs);
            put_le16(p + 12, f->fds);
        }
        return;
    }
    put_le32(p, 0xffff0000u | f->fcw);
    put_le32(p + 4, 0xffff0000u | f->fsw);
    put_le32(p + 8, 0xffff0000u | full_tags(f));
    if (env_is_real(c)) {
        put_le32(p + 12, 0xffff0000u | (ip & 0xffff));
        put_le32(p + 16, (ip >> 16) << 12 | (f->fop & 0x7ff));
        put_le32(p + 20, 0xffff0000u | (dp & 0xffff));
        put_le32(p + 24, (dp >> 16) << 12);
    } else {
        put_le32(p + 12, ip);
        put_le32(p + 16, f->fcs | (uint32_t)(f->fop & 0x7ff) << 16);
        put_le32(p + 20, dp);
        put_le32(p + 24, 0xffff0000u | f->fds);
    }
}

static void env_load(struct interp *c, const struct insn *i, const uint8_t *p)
{
    struct cpu_fpu *f = &c->s.fpu;
    bool no_fcs = ((struct thunks *)c->thunks)->no_fcs;

    f->fcs = f->fds = 0;
    if (i->osize == 2) {
        f->fcw = get_le16(p);
        f->fsw = get_le16(p + 2);
        f->ftw = abridged_tags(get_le16(p + 4));
        f->fip = get_le16(p + 6);
        f->fdp = get_le16(p + 10);
        if (env_is_real(c)) {
            f->fip |= (uint64_t)(get_le16(p + 8) >> 12) << 16;
            f->fdp |= (uint64_t)(get_le16(p + 12) >> 12) << 16;
            f->fop = get_le16(p + 8) & 0x7ff;
        } else {
            f->fcs = get_le16(p + 8);
            f->fds = get_le16(p + 12);
            f->fop = 0;
        }
    } else {
        f->fcw = get_le16(p);
        f->fsw = get_le16(p + 4);
        f->ftw = abridged_tags(get_le16(p + 8));
        if (env_is_real(c)) {
            f->fip = get_le16(p + 12) | (get_le32(p + 16) >> 12 & 0xffff) << 16;
            f->fdp = get_le16(p + 20) | (get_le32(p + 24) >> 12 & 0xffff) << 16;
            f->fop = get_le16(p + 16) & 0x7ff;
        } else {
            f->fip = get_le32(p + 12);
            f->fdp = get_le32(p + 20);
            f->fcs = get_le16(p + 16);
            f->fop = get_le16(p + 18) & 0x7ff;
            f->fds = get_le16(p + 24);
        }
    }
    if (no_fcs)
        f->fcs = f->fds = 0;
    f->fcw = (f->fcw & FCW_MASK) | FCW_ONE;
    summarise(f);
}

/*
 * st[] is by distance from TOP, but FLDENV and FNSAVE leave the physical registers alone: when
 * TOP moves they turn.
 */
static void turn_stack(struct cpu_fpu *f, unsigned old_top)
{
    unsigned by = (top(f) - old_top) & 7;
    uint8_t st[8][16];

    if (!by)
        return;
    memcpy(st, f->st, sizeof(st));
    for (unsigned r = 0; r < 8; r++)
        memcpy(f->st[r], st[(r + by) & 7], sizeof(st[0]));
}

static void op_fnstenv(struct interp *c, const struct insn *i)
{
    uint8_t buf[ENV_MAX];
    gva_t lin;

    BEGIN(c, i);
    lin = area(c, i, env_bytes(i), 1, ACCESS_WRITE);
    env_store(c, i, buf);
    access_copy_out(c, lin, buf, env_bytes(i), c->key);
    c->s.fpu.fcw |= FSW_IE_PE;
    summarise(&c->s.fpu);
    NEXT(c, i);
}

static void op_fnsave(struct interp *c, const struct insn *i)
{
    uint8_t buf[ENV_MAX + ST_BYTES];
    unsigned env = env_bytes(i), old_top;
    gva_t lin;

    BEGIN(c, i);
    lin = area(c, i, env + ST_BYTES, 1, ACCESS_WRITE);
    env_store(c, i, buf);
    for (unsigned r = 0; r < 8; r++)
        memcpy(buf + env + r * 10, c->s.fpu.st[r], 10);
    access_copy_out(c, lin, buf, env + ST_BYTES, c->key);
    old_top = top(&c->s.fpu);
    x87_init(&c->s.fpu);
    turn_stack(&c->s.fpu, old_top);
    NEXT(c, i);
}

static void op_fldenv(struct interp *c, const struct insn *i)
{
    uint8_t buf[ENV_MAX];
    unsigned old_top;

    BEGIN(c, i);
    if (!thunk_x87_wait(c))
        return;
    access_copy_in(c, buf, area(c, i, env_bytes(i), 1, ACCESS_READ), env_bytes(i), c->key);
    old_top = top(&c->s.fpu);
    env_load(c, i, buf);
    turn_stack(&c->s.fpu, old_top);
    NEXT(c, i);
}

static void op_frstor(struct interp *c, const struct insn *i)
{
    uint8_t buf[ENV_MAX + ST_BYTES];
    unsigned env = env_bytes(i);

    BEGIN(c, i);
    if (!thunk_x87_wait(c))
        return;
    access_copy_in(c, buf, area(c, i, env + ST_BYTES, 1, ACCESS_READ), env + ST_BYTES, c->key);
    env_load(c, i, buf);
    for (unsigned r = 0; r < 8; r++) {
        memset(c->s.fpu.st[r], 0, sizeof(c->s.fpu.st[r]));
        memcpy(c->s.fpu.st[r], buf + env + r * 10, 10);
    }
    NEXT(c, i);
}

/* ---- the legacy region of FXSAVE and XSAVE
 * --------------------------------------------------------- */

#define FX_BYTES     512
#define FX_X87_BYTES 24 /* FCW to FDP */
#define FX_MXCSR     24
#define FX_ST        32
#define FX_XMM       160

static unsigned nregs(const struct interp *c)
{
    return c->code64 ? 16 : 8;
}

/* wide: FXSAVE64, XSAVE64: no selectors. */
static void fx_store_x87(const struct interp *c, bool wide, uint8_t *p)
{
    const struct cpu_fpu *f = &c->s.fpu;

    memset(p, 0, FX_X87_BYTES);
    put_le16(p, f->fcw);
    put_le16(p + 2, f->fsw);
    p[4] = f->ftw;
    put_le16(p + 6, f->fop & 0x7ff);
    if (wide) {
        put_le64(p + 8, f->fip);
        put_le64(p + 16, f->fdp);
    } else {
        put_le32(p + 8, (uint32_t)f->fip);
        put_le16(p + 12, f->fcs);
        put_le32(p + 16, (uint32_t)f->fdp);
        put_le16(p + 20, f->fds);
    }
    for (unsigned r = 0; r < 8; r++) {
        memset(p + FX_ST + r * 16, 0, 16);
        memcpy(p + FX_ST + r * 16, f->st[r], 10);
    }
}

static void fx_load_x87(struct interp *c, bool wide, const uint8_t *p)
{
    struct cpu_fpu *f = &c->s.fpu;
    bool no_fcs = ((struct thunks *)c->thunks)->no_fcs;

    f->fcw = (get_le16(p) & FCW_MASK) | FCW_ONE;
    f->fsw = get_le16(p + 2);
    f->ftw = p[4];
    f->fop = get_le16(p + 6) & 0x7ff;
    if (wide) {
        f->fip = get_le64(p + 8);
        f->fdp = get_le64(p + 16);
        f->fcs = f->fds = 0;
    } else {
        f->fip = get_le32(p + 8);
        f->fdp = get_le32(p + 16);
        f->fcs = no_fcs ? 0 : get_le16(p + 12);
        f->fds = no_fcs ? 0 : get_le16(p + 20);
    }
    for (unsigned r = 0; r < 8; r++) {
        memset(f->st[r], 0, sizeof(f->st[r]));
        memcpy(f->st[r], p + FX_ST + r * 16, 10);
    }
    summarise(f);
}

static bool is_wide(const struct interp *c, const struct insn *i)
{
    return c->code64 && i->osize == 8;
}

static void op_fxsave(struct interp *c, const struct insn *i)
{
    uint8_t buf[FX_BYTES];
    unsigned len = FX_XMM + nregs(c) * 16;
    gva_t lin;

    BEGIN(c, i);
    lin = area(c, i, FX_BYTES, 16, ACCESS_WRITE);
    fx_store_x87(c, is_wide(c, i), buf);
    put_le32(buf + FX_MXCSR, c->s.fpu.mxcsr);
    put_le32(buf + FX_MXCSR + 4, MXCSR_MASK);
    for (unsigned r = 0; r < nregs(c); r++)
        memcpy(buf + FX_XMM + r * 16, c->s.fpu.zmm[r], 16);
    /* AMD's fast FXSAVE (APM vol. 2 11.5.2). */
    if ((c->s.efer & EFER_FFXSR) && c->code64 && !c->cpl)
        len = FX_XMM;
    access_copy_out(c, lin, buf, len, c->key);
    NEXT(c, i);
}

static void op_fxrstor(struct interp *c, const struct insn *i)
{
    uint8_t buf[FX_BYTES];
    uint32_t mxcsr;

    BEGIN(c, i);
    access_copy_in(c, buf, area(c, i, FX_BYTES, 16, ACCESS_READ), FX_BYTES, c->key);
    mxcsr = get_le32(buf + FX_MXCSR);
    if (mxcsr & ~MXCSR_MASK)
        interp_raise_err(c, VEC_GP, 0);
    fx_load_x87(c, is_wide(c, i), buf);
    c->s.fpu.mxcsr = mxcsr;
    if (!((c->s.efer & EFER_FFXSR) && c->code64 && !c->cpl))
        for (unsigned r = 0; r < nregs(c); r++)
            memcpy(c->s.fpu.zmm[r], buf + FX_XMM + r * 16, 16);
    NEXT(c, i);
}

/* ---- XSAVE
 * -------------------------------------------------------------------------------------------- */

#define XSAVE_HEADER 64
#define XSAVE_MAX    4096
#define XCR0_KNOWN   (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

/* A component that is part of the vector registers: `n` pieces of `size` bytes at `from` of
 * registers. */
struct component {
    uint8_t number;
    uint8_t first, n, from, size;
};

static const struct component components[] = {
    {2, 0, 16, 16, 16}, /* upper halves of ymm0 .. */
    {6, 0, 16, 32, 32}, /* upper halves of zmm0 .. */
    {7, 16, 16, 0, 64}, /* zmm16 .. zmm31 */
};

/* Outside 64-bit mode there are eight registers, and zmm16 and up are out of reach. */
static unsigned component_regs(const struct interp *c, const struct component *m)
{
    return c->code64 ? m->n : m->first ? 0 : 8;
}

static bool is_zero(const void *p, size_t len)
{
    const uint8_t *b = p;

    return !len || (!b[0] && !memcmp(b, b + 1, len - 1));
}

uint64_t vec_xinuse(const struct interp *c)
{
    const struct cpu_fpu *f = &c->s.fpu;
    uint64_t used = 0;

    if (f->fcw != FCW_INIT || f->fsw || f->ftw || f->fop || f->fip || f->fdp || f->fcs || f->fds ||
        !is_zero(f->st, sizeof(f->st)))
        used |= XCR0_X87;
    for (unsigned r = 0; r < nregs(c); r++)
        if (!is_zero(f->zmm[r], 16))
            used |= XCR0_SSE;
    if (f->mxcsr != MXCSR_INIT)
        used |= XCR0_SSE;
    for (size_t k = 0; k < ARRAY_LEN(components); k++)
        for (unsigned r = 0; r < component_regs(c, &components[k]); r++)
            if (!is_zero(f->zmm[components[k].first + r] + components[k].from, components[k].size))
                used |= BIT(components[k].number);
    if (!is_zero(f->k, sizeof(f->k)))
        used |= XCR0_OPMASK;
    return used;
}

static uint64_t requested(const struct interp *c)
{
    uint64_t mask = (uint32_t)c->s.gpr[REG_RAX] | c->s.gpr[REG_RDX] << 32;

    return mask & c->s.xcr0 & XCR0_KNOWN;
}

/* Bytes from the start of the area to the end of the last of these components. */
static unsigned area_bytes(uint64_t bits)
{
    unsigned end = FX_BYTES + XSAVE_HEADER;

    for (unsigned n = 2; n < 8; n++)
        if (bits >> n & 1)
            end = (unsigned)max_u64(end, xsave_component_offset(n) + xsave_component_size(n));
    return (unsigned)min_u64(end, XSAVE_MAX);
}

static void op_xsave(struct interp *c, const struct insn *i)
{
    uint64_t rfbm, bv;
    uint8_t buf[FX_BYTES], piece[16 * 64];
    gva_t lin;

    BEGIN(c, i);
    rfbm = requested(c);
    lin = area(c, i, area_bytes(rfbm), 64, ACCESS_WRITE);
    access_copy_in(c, &bv, lin + FX_BYTES, sizeof(bv), c->key);
    if (rfbm & XCR0_X87) {
        fx_store_x87(c, is_wide(c, i), buf);
        access_copy_out(c, lin, buf, FX_X87_BYTES, c->key);
        access_copy_out(c, lin + FX_ST, buf + FX_ST, 128, c->key);
    }
    if (rfbm & (XCR0_SSE | XCR0_AVX)) {
        put_le32(buf, c->s.fpu.mxcsr);
        put_le32(buf + 4, MXCSR_MASK);
        access_copy_out(c, lin + FX_MXCSR, buf, 8, c->key);
    }
    if (rfbm & XCR0_SSE) {
        for (unsigned r = 0; r < nregs(c); r++)
            memcpy(buf + r * 16, c->s.fpu.zmm[r], 16);
        access_copy_out(c, lin + FX_XMM, buf, nregs(c) * 16, c->key);
    }
    for (size_t k = 0; k < ARRAY_LEN(components); k++) {
        const struct component *m = &components[k];
        unsigned n = component_regs(c, m);

        if (!(rfbm >> m->number & 1) || !n)
            continue;
        for (unsigned r = 0; r < n; r++)
            memcpy(piece + r * m->size, c->s.fpu.zmm[m->first + r] + m->from, m->size);
        access_copy_out(c, lin + xsave_component_offset(m->number), piece, (size_t)n * m->size,
                        c->key);
    }
    if (rfbm & XCR0_OPMASK)
        access_copy_out(c, lin + xsave_component_offset(5), c->s.fpu.k, sizeof(c->s.fpu.k), c->key);
    bv = (bv & ~rfbm) | (vec_xinuse(c) & rfbm);
    access_copy_out(c, lin + FX_BYTES, &bv, sizeof(bv), c->key);
    NEXT(c, i);
}

static void op_xrstor(struct interp *c, const struct insn *i)
{
    static const uint8_t zero[16 * 64];
    uint8_t buf[FX_BYTES + XSAVE_HEADER], piece[ARRAY_LEN(components)][16 * 64], k[64];
    uint64_t rfbm, bv;
    uint32_t mxcsr;
    gva_t lin;

    BEGIN(c, i);
    rfbm = requested(c);
    lin = area(c, i, area_bytes(rfbm), 64, ACCESS_READ);
    access_copy_in(c, buf, lin, sizeof(buf), c->key);
    bv = get_le64(buf + FX_BYTES);
    mxcsr = get_le32(buf + FX_MXCSR);
    /* No model has XSAVEC, so bit 63 of XCOMP_BV is reserved like the rest of it. */
    if ((bv & ~c->s.xcr0) || get_le64(buf + FX_BYTES + 8) || get_le64(buf + FX_BYTES + 16))
        interp_raise_err(c, VEC_GP, 0);
    if ((rfbm & (XCR0_SSE | XCR0_AVX)) && (mxcsr & ~MXCSR_MASK))
        interp_raise_err(c, VEC_GP, 0);
    for (size_t n = 0; n < ARRAY_LEN(components); n++)
        if (rfbm & bv & BIT(components[n].number))
            access_copy_in(c, piece[n], lin + xsave_component_offset(components[n].number),
                           (size_t)component_regs(c, &components[n]) * components[n].size, c->key);
    if (rfbm & bv & XCR0_OPMASK)
        access_copy_in(c, k, lin + xsave_component_offset(5), sizeof(k), c->key);

    if (rfbm & XCR0_X87) {
        if (bv & XCR0_X87) {
            fx_load_x87(c, is_wide(c, i), buf);
        } else {
            x87_init(&c->s.fpu);
            memset(c->s.fpu.st, 0, sizeof(c->s.fpu.st));
        }
    }
    if (rfbm & (XCR0_SSE | XCR0_AVX))
        c->s.fpu.mxcsr = mxcsr;
    if (rfbm & XCR0_SSE)
        for (unsigned r = 0; r < nregs(c); r++)
            memcpy(c->s.fpu.zmm[r], bv & XCR0_SSE ? buf + FX_XMM + r * 16 : zero, 16);
    c->upper |= (rfbm & bv & (XCR0_AVX | XCR0_ZMM_HI256)) != 0;
    for (size_t n = 0; n < ARRAY_LEN(components); n++) {
        const struct component *m = &components[n];

        if (!(rfbm >> m->number & 1))
            continue;
        for (unsigned r = 0; r < component_regs(c, m); r++)
            memcpy(c->s.fpu.zmm[m->first + r] + m->from,
                   bv >> m->number & 1 ? piece[n] + r * m->size : zero, m->size);
    }
    if (rfbm & XCR0_OPMASK)
        memcpy(c->s.fpu.k, bv & XCR0_OPMASK ? k : zero, sizeof(c->s.fpu.k));
    NEXT(c, i);
}

/* ---- gather and scatter
 * ------------------------------------------------------------------------------- */

/* struct insn: reg = data register, rm = index register, aux = mask register, imm = these fields.
 */
#define VSIB_DATA(imm)  ((unsigned)(imm)&15)        /* bytes of an element: 4, 8 */
#define VSIB_INDEX(imm) ((unsigned)(imm) >> 4 & 15) /* bytes of an index: 4, 8 */
#define VSIB_COUNT(imm) ((unsigned)(imm) >> 8 & 31) /* elements, at most 16 */

static gva_t vsib_linear(struct interp *c, const struct insn *i, unsigned j, enum access how)
{
    const uint8_t *index = c->s.fpu.zmm[i->rm & 31];
    uint64_t ea = (uint64_t)i->disp, v;

    if (i->base < 16)
        ea += c->s.gpr[i->base];
    if (VSIB_INDEX(i->imm) == 4)
        v = (uint64_t)(int64_t)(int32_t)get_le32(index + (j & 15) * 4);
    else
        v = get_le64(index + (j & 7) * 8);
    ea += v << i->scale;
    if (i->asize == 4)
        ea = (uint32_t)ea;
    return seg_linear(c, i->seg, ea, VSIB_DATA(i->imm), how);
}

/* Gathers and scatters never check alignment (SDM vol. 2C "VGATHERDPS"). */
static uint64_t vsib_key(const struct interp *c)
{
    return (c->key & KEY_MODE) == KEY_USER_ALIGNED ? (c->key & ~KEY_MODE) | KEY_USER : c->key;
}

/* Bytes of the instruction's vectors; where indexes are wider, the data are shorter than that. */
static unsigned vsib_vector(const struct insn *i)
{
    return VSIB_COUNT(i->imm) * (unsigned)max_u64(VSIB_DATA(i->imm), VSIB_INDEX(i->imm));
}

/* One element arrives; what is above the vector goes with the first. */
static void gather_element(struct interp *c, const struct insn *i, unsigned j, uint8_t *dst)
{
    unsigned size = VSIB_DATA(i->imm), end = vsib_vector(i);

    put_le(dst + j * size, access_load(c, vsib_linear(c, i, j, ACCESS_READ), size, vsib_key(c)),
           size);
    memset(dst + end, 0, 64 - end);
}

/* AVX2: the mask is the sign bits of a vector register, which is cleared as the elements arrive. */
static void op_gather_vex(struct interp *c, const struct insn *i)
{
    unsigned size = VSIB_DATA(i->imm), count = VSIB_COUNT(i->imm), end = vsib_vector(i);
    uint8_t *dst, *mask;

    BEGIN(c, i);
    c->upper = 1;
    dst = c->s.fpu.zmm[i->reg & 15];
    mask = c->s.fpu.zmm[i->aux & 15];
    for (unsigned at = 0; at < end; at += size)
        memset(mask + at, mask[at + size - 1] & 0x80 ? 0xff : 0, size);
    memset(mask + end, 0, 64 - end);
    for (unsigned j = 0; j < count; j++) {
        if (mask[j * size]) {
            gather_element(c, i, j, dst);
            memset(mask + j * size, 0, size);
        }
    }
    memset(dst + count * size, 0, 64 - count * size);
    memset(mask, 0, 64);
    NEXT(c, i);
}

static void op_gather_evex(struct interp *c, const struct insn *i)
{
    unsigned size = VSIB_DATA(i->imm), count = VSIB_COUNT(i->imm);
    uint64_t *mask;
    uint8_t *dst;

    BEGIN(c, i);
    c->upper = 1;
    dst = c->s.fpu.zmm[i->reg & 31];
    mask = &c->s.fpu.k[i->aux & 7];
    for (unsigned j = 0; j < count; j++) {
        if (*mask >> j & 1) {
            gather_element(c, i, j, dst);
            *mask &= ~BIT(j);
        }
    }
    memset(dst + count * size, 0, 64 - count * size);
    *mask = 0;
    NEXT(c, i);
}

static void op_scatter(struct interp *c, const struct insn *i)
{
    unsigned size = VSIB_DATA(i->imm), count = VSIB_COUNT(i->imm);
    uint64_t *mask;

    BEGIN(c, i);
    mask = &c->s.fpu.k[i->aux & 7];
    for (unsigned j = 0; j < count; j++) {
        if (*mask >> j & 1) {
            access_store(c, vsib_linear(c, i, j, ACCESS_WRITE), size,
                         get_le(c->s.fpu.zmm[i->reg & 31] + j * size, size), vsib_key(c));
            *mask &= ~BIT(j);
        }
    }
    *mask = 0;
    NEXT(c, i);
}

static bool vsib_prepare(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
                         struct insn *out, unsigned index, unsigned data, bool scatter)
{
    int m = thunk_mem_operand(zi, ops);
    unsigned vl = zi->avx.vector_length / 8u;
    bool evex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
    const ZydisDecodedOperand *reg = &ops[scatter ? 2 : 0];
    const ZydisDecodedOperand *mask = &ops[evex ? 1 : 2];

    if (m < 0 || ops[m].mem.type != ZYDIS_MEMOP_TYPE_VSIB || vl < 16 || vl > 64 || out->asize == 2)
        return false;
    out->reg = (uint8_t)ZydisRegisterGetId(reg->reg.value);
    out->aux = (uint8_t)ZydisRegisterGetId(mask->reg.value);
    out->rm = (uint8_t)ZydisRegisterGetId(ops[m].mem.index);
    out->index = R_NONE;
    out->scale = (uint8_t)(ops[m].mem.scale ? __builtin_ctz(ops[m].mem.scale) & 3 : 0);
    out->disp = ops[m].mem.disp.value;
    out->imm = data | index << 4 | vl / (index > data ? index : data) << 8;
    out->fn = scatter ? op_scatter : evex ? op_gather_evex : op_gather_vex;
    return true;
}

/* ---- VZEROUPPER, VZEROALL
 * ---------------------------------------------------------------------------- */

static void op_vzeroupper(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    for (unsigned r = 0; r < nregs(c); r++)
        memset(c->s.fpu.zmm[r] + 16, 0, 48);
    NEXT(c, i);
}

static void op_vzeroall(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    for (unsigned r = 0; r < nregs(c); r++)
        memset(c->s.fpu.zmm[r], 0, 64);
    NEXT(c, i);
}

/* ---- choice
 * ------------------------------------------------------------------------------------------- */

/* FXSAVE and XSAVE: #NM with CR0.TS; FXSAVE also with EM. */
static bool area_prepare(struct interp *c, struct insn *out, insn_fn *fn, bool xsave)
{
    if (xsave && !(c->mode & MODE_OSXSAVE))
        return false;
    out->fn = (c->mode & MODE_TS) || (!xsave && (c->mode & MODE_EM)) ? op_thunk_nm : fn;
    return true;
}

bool vec_prepare(struct interp *c, const ZydisDecodedInstruction *zi,
                 const ZydisDecodedOperand *ops, struct insn *out, bool *ok)
{
    *ok = true;
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
        out->fn = op_fnstenv;
        return true;
    case ZYDIS_MNEMONIC_FNSAVE:
        out->fn = op_fnsave;
        return true;
    case ZYDIS_MNEMONIC_FLDENV:
        out->fn = op_fldenv;
        return true;
    case ZYDIS_MNEMONIC_FRSTOR:
        out->fn = op_frstor;
        return true;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        *ok = area_prepare(c, out, op_fxsave, false);
        return true;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        *ok = area_prepare(c, out, op_fxrstor, false);
        return true;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        *ok = area_prepare(c, out, op_xsave, true);
        return true;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        *ok = area_prepare(c, out, op_xrstor, true);
        return true;
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VGATHERDPS:
        *ok = vsib_prepare(zi, ops, out, 4, 4, false);
        return true;
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VGATHERDPD:
        *ok = vsib_prepare(zi, ops, out, 4, 8, false);
        return true;
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
        *ok = vsib_prepare(zi, ops, out, 8, 4, false);
        return true;
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VGATHERQPD:
        *ok = vsib_prepare(zi, ops, out, 8, 8, false);
        return true;
    case ZYDIS_MNEMONIC_VPSCATTERDD:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
        *ok = vsib_prepare(zi, ops, out, 4, 4, true);
        return true;
    case ZYDIS_MNEMONIC_VPSCATTERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
        *ok = vsib_prepare(zi, ops, out, 4, 8, true);
        return true;
    case ZYDIS_MNEMONIC_VPSCATTERQD:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
        *ok = vsib_prepare(zi, ops, out, 8, 4, true);
        return true;
    case ZYDIS_MNEMONIC_VPSCATTERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
        *ok = vsib_prepare(zi, ops, out, 8, 8, true);
        return true;
    case ZYDIS_MNEMONIC_VZEROUPPER:
        out->fn = op_vzeroupper;
        return true;
    case ZYDIS_MNEMONIC_VZEROALL:
        out->fn = op_vzeroall;
        return true;
    default:
        return false;
    }
}
