/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When and on what memory native thunks run. thunk_gen.c makes them.
 *
 * A memory operand that is RAM inside one page is used where it is. Any other (page-crossing, MMIO, a page
 * with decoded code, a watched page) is staged: checked, copied in, and copied out after the thunk, so
 * that nothing has changed when the guest gets a fault. With a mask only the elements it selects are
 * checked and copied; the host does the same for the direct case.
 *
 * SDM vol. 1 chapters 8 to 15; vol. 2A section 2.4 "instruction exception specification".
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cpu/model.h"
#include "engine/interp/block.h"
#include "engine/interp/mode.h"
#include "engine/interp/thunk_int.h"

#define CODE_BYTES (2u << 20)

/* FXSAVE64 image (SDM vol. 1 table 10-2). */
#define FX_FCW        0
#define FX_FSW        2
#define FX_FTW        4
#define FX_FOP        6
#define FX_FIP        8
#define FX_FDP        16
#define FX_MXCSR      24
#define FX_MXCSR_MASK 28
#define FX_ST         32

#define X87_UNMASKED_NO_STORE 0x1b /* IE, DE, OE, UE: the destination keeps its value; PE stores */

/* ---- running and faults ------------------------------------------------------------------------ */

/* The fault of a guest instruction that the host met. Nothing but MXCSR flags has changed. */
static _Noreturn __attribute__((noinline)) void raise_trap(struct interp *c, uint64_t trap)
{
    unsigned vector = (unsigned)trap - 1;

    switch (vector) {
    case VEC_GP:
        interp_raise_err(c, VEC_GP, 0);
    case VEC_XM:
        interp_raise(c, c->s.cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
    case VEC_AC:
        interp_raise_err(c, VEC_AC, 0);
    case VEC_DE:
    case VEC_MF:
        interp_raise(c, vector);
    default:
        interp_raise(c, VEC_UD);
    }
}

static inline void run(struct interp *c, const struct thunk *t, void *mem)
{
    struct thunks *ts = c->thunks;
    uint64_t trap = hostcode_call(&ts->code, &t->fn, c, mem);

    if (unlikely(trap))
        raise_trap(c, trap);
}

static inline enum access access_kind(const struct thunk *t)
{
    return t->flags & THUNK_STORES ? ACCESS_WRITE : ACCESS_READ;
}

/* ---- whole operands ----------------------------------------------------------------------------- */

static void op_thunk_reg(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    run(c, i->thunk, NULL);
    NEXT(c, i);
}

static __attribute__((noinline)) void run_staged(struct interp *c, const struct thunk *t, gva_t lin)
{
    struct thunks *ts = c->thunks;
    uint8_t *staging = ts->staging + (lin & 63);

    if (t->flags & THUNK_STORES)
        access_probe(c, lin, t->span, ACCESS_WRITE, c->key);
    if (t->flags & THUNK_LOADS)
        access_copy_in(c, staging, lin, t->span, c->key);
    run(c, t, staging);
    if (t->flags & THUNK_STORES)
        access_copy_out(c, lin, staging, t->span, c->key);
}

static void op_thunk_mem(struct interp *c, const struct insn *i)
{
    const struct thunk *t = i->thunk;
    gva_t lin;
    void *p;

    BEGIN(c, i);
    lin = insn_lin(c, i, t->span, access_kind(t));
    if (unlikely(t->align && lin & (t->align - 1u)))
        interp_raise_err(c, VEC_GP, 0);
    p = access_host(c, lin, t->span, access_kind(t), c->key);
    if (likely(p))
        run(c, t, p);
    else
        run_staged(c, t, lin);
    NEXT(c, i);
}

/* ---- masked operands ------------------------------------------------------------------------------ */

/* A bit for each element of the memory operand that is touched. */
static uint64_t touched(const struct interp *c, const struct thunk *t)
{
    uint64_t k = c->s.fpu.k[t->mask_reg & 7], bits = 0;
    unsigned n = t->mem_n & 127;
    const uint8_t *v;

    if (t->mask_n < 64)
        k &= BIT(t->mask_n) - 1;
    switch ((enum thunk_mask)t->mask) {
    case MASK_K:
        if (t->mask_n == n)
            return k;
        for (unsigned j = 0; j < t->mask_n; j++)
            if (k >> (j & 63) & 1)
                bits |= BIT(j % n);
        return bits;
    case MASK_K_PACK:
        n = (unsigned)__builtin_popcountll(k);
        return n < 64 ? BIT(n) - 1 : UINT64_MAX;
    case MASK_VSIGN:
    case MASK_BYTES:
        /* MMX registers are physical ones, st[] is relative to TOP. */
        v = t->flags & THUNK_X87 ? c->s.fpu.st[(t->mask_reg - (c->s.fpu.fsw >> 11)) & 7]
                                 : c->s.fpu.zmm[t->mask_reg & 31];
        for (unsigned j = 0; j < n; j++)
            if (v[(j * t->esize + t->esize - 1u) & 63] & 0x80)
                bits |= BIT(j);
        return bits;
    default:
        return UINT64_MAX;
    }
}

/* Element by element: each is checked before the first one moves. */
static void masked_elements(struct interp *c, const struct thunk *t, gva_t lin, uint64_t bits,
                            uint8_t *staging, enum access how, bool move)
{
    for (unsigned j = 0; bits; j++, bits >>= 1) {
        gva_t at = lin + j * t->esize;

        if (!(bits & 1))
            continue;
        if (!c->code64)
            at = (uint32_t)at;
        if (!move)
            access_probe(c, at, t->esize, how, c->key);
        else if (how == ACCESS_READ)
            access_copy_in(c, staging + j * t->esize, at, t->esize, c->key);
        else
            access_copy_out(c, at, staging + j * t->esize, t->esize, c->key);
    }
}

static void run_masked(struct interp *c, const struct thunk *t, gva_t lin, uint64_t bits)
{
    struct thunks *ts = c->thunks;
    uint8_t *staging = ts->staging + (lin & 63);
    enum access how = access_kind(t);
    unsigned first, last;
    uint8_t *p;

    if (!bits) {
        run(c, t, staging);
        return;
    }
    first = (unsigned)__builtin_ctzll(bits) * t->esize;
    last = (63u - (unsigned)__builtin_clzll(bits)) * t->esize + t->esize;
    if (((lin + first) & PAGE_MASK) + (last - first) <= PAGE_SIZE) {
        p = access_host(c, lin + first, last - first, how, c->key);
        /* The elements before `first` are outside the page perhaps, but the host will not touch them. */
        if (p) {
            run(c, t, p - first);
            return;
        }
    }
    masked_elements(c, t, lin, bits, staging, how, false);
    if (how == ACCESS_READ)
        masked_elements(c, t, lin, bits, staging, how, true);
    run(c, t, staging);
    if (how == ACCESS_WRITE)
        masked_elements(c, t, lin, bits, staging, how, true);
}

/* The operand's linear address; segment limits are those of the touched elements. */
static gva_t masked_linear(struct interp *c, const struct insn *i, uint64_t ea, uint64_t bits)
{
    const struct thunk *t = i->thunk;

    if (c->code64 || c->flat & (1u << i->seg))
        return seg_linear(c, i->seg, ea, t->span, access_kind(t));
    for (unsigned j = 0; bits; j++, bits >>= 1)
        if (bits & 1)
            seg_linear(c, i->seg, ea + j * t->esize, t->esize, access_kind(t));
    return (uint32_t)(c->s.seg[i->seg].base + ea);
}

static void op_thunk_masked(struct interp *c, const struct insn *i)
{
    const struct thunk *t = i->thunk;
    uint64_t bits, all = t->mem_n < 64 ? BIT(t->mem_n) - 1 : UINT64_MAX;
    gva_t lin;

    BEGIN(c, i);
    bits = touched(c, t);
    lin = masked_linear(c, i, insn_ea(c, i), t->flags & THUNK_NO_SUPPRESS ? all : bits);
    if (t->align && lin & (t->align - 1u))
        interp_raise_err(c, VEC_GP, 0);
    if (t->flags & THUNK_NO_SUPPRESS) {
        access_probe(c, lin, t->span, access_kind(t), c->key);
        if (!(t->flags & THUNK_STORES))
            bits = all;
    }
    run_masked(c, t, lin, bits);
    NEXT(c, i);
}

/* ---- x87 and MMX ------------------------------------------------------------------------------------ */

bool thunk_x87_wait(struct interp *c)
{
    struct thunks *ts = c->thunks;

    if (likely(!(c->s.fpu.fsw & FSW_ES)))
        return true;
    if ((c->s.cr0 & CR0_NE) || !ts->ferr)
        interp_raise(c, VEC_MF);
    if (ts->ferr(ts->ferr_opaque))
        return true;
    c->s.rip = interp_rip(c);
    run_left_early(c); /* counted, so that a budget and virtual time go on */
    return false;
}

/*
 * Runs a thunk on the guest's x87 state. The host's own pointers never come through: the image goes in with
 * values that the instruction cannot produce, and what has changed to the host's addresses afterwards
 * becomes the guest's.
 */
static uint64_t x87_run(struct interp *c, const struct insn *i, const struct thunk *t, void *mem,
                        uint64_t ea)
{
    struct thunks *ts = c->thunks;
    struct cpu_fpu *f = &c->s.fpu;
    uint64_t mark = (uintptr_t)ts->fx, fip, fdp, trap;
    uint16_t fop_mark = t->fop ^ 0x7ff, fop;
    bool ignore = unlikely(f->fsw & FSW_ES) && (t->flags & THUNK_WAITS);
    uint16_t fcw = f->fcw;

    put_le16(ts->fx + FX_FCW, ignore ? fcw | 0x3f : fcw);
    put_le16(ts->fx + FX_FSW, ignore ? f->fsw & ~(FSW_ES | FSW_B) : f->fsw);
    put_le16(ts->fx + FX_FTW, f->ftw);
    put_le16(ts->fx + FX_FOP, fop_mark);
    put_le64(ts->fx + FX_FIP, mark);
    put_le64(ts->fx + FX_FDP, mark);
    put_le32(ts->fx + FX_MXCSR, f->mxcsr);
    memcpy(ts->fx + FX_ST, f->st, sizeof(f->st));
    trap = hostcode_call(&ts->code, &t->fn, c, mem);
    if (unlikely(trap))
        return trap;
    f->fcw = get_le16(ts->fx + FX_FCW);
    f->fsw = get_le16(ts->fx + FX_FSW);
    f->ftw = ts->fx[FX_FTW];
    memcpy(f->st, ts->fx + FX_ST, sizeof(f->st));
    if (unlikely(ignore)) {
        f->fcw = f->fcw == (fcw | 0x3f) ? fcw : f->fcw;
        f->fsw |= FSW_ES | FSW_B;
    }
    fip = get_le64(ts->fx + FX_FIP);
    fdp = get_le64(ts->fx + FX_FDP);
    fop = get_le16(ts->fx + FX_FOP) & 0x7ff;
    if (fip != mark) {
        bool ours = fip == (uintptr_t)t->fn.at;

        f->fip = ours ? interp_rip(c) : fip;
        f->fcs = ours && !ts->no_fcs ? c->s.seg[SEG_CS].selector : 0;
    }
    if (fdp != mark) {
        bool ours = mem && fdp == (uintptr_t)mem;

        f->fdp = ours ? ea : fdp;
        f->fds = ours && !ts->no_fcs ? c->s.seg[i->seg < SEG_COUNT ? i->seg : SEG_DS].selector : 0;
    }
    if (fop != (fop_mark & 0x7ff))
        f->fop = fop == (t->fop & 0x7ff) ? i->imm & 0x7ff : fop;
    return 0;
}

static void x87_run_staged(struct interp *c, const struct insn *i, gva_t lin, uint64_t ea)
{
    const struct thunk *t = i->thunk;
    struct thunks *ts = c->thunks;
    uint8_t *staging = ts->staging + (lin & 63);
    uint64_t trap;

    if (t->flags & THUNK_STORES)
        access_probe(c, lin, t->span, ACCESS_WRITE, c->key);
    if (t->flags & THUNK_LOADS)
        access_copy_in(c, staging, lin, t->span, c->key);
    trap = x87_run(c, i, t, staging, ea);
    if (trap)
        raise_trap(c, trap);
    if (!(t->flags & THUNK_STORES))
        return;
    if ((t->flags & THUNK_X87_STORE) && (t->flags & THUNK_WAITS) &&
        c->s.fpu.fsw & ~c->s.fpu.fcw & X87_UNMASKED_NO_STORE)
        return;
    access_copy_out(c, lin, staging, t->span, c->key);
}

static void op_thunk_x87(struct interp *c, const struct insn *i)
{
    const struct thunk *t = i->thunk;
    uint64_t ea = 0, trap;
    void *p = NULL;
    gva_t lin;

    BEGIN(c, i);
    if ((t->flags & THUNK_WAITS) && !thunk_x87_wait(c))
        return;
    if (t->span) {
        ea = insn_ea(c, i);
        lin = seg_linear(c, i->seg, ea, t->span, access_kind(t));
        if (unlikely(t->align && lin & (t->align - 1u)))
            interp_raise_err(c, VEC_GP, 0);
        p = access_host(c, lin, t->span, access_kind(t), c->key);
        if (unlikely(!p)) {
            x87_run_staged(c, i, lin, ea);
            NEXT(c, i);
        }
    }
    trap = x87_run(c, i, t, p, ea);
    if (unlikely(trap))
        raise_trap(c, trap);
    NEXT(c, i);
}

/* MASKMOVQ. */
static void op_thunk_x87_masked(struct interp *c, const struct insn *i)
{
    const struct thunk *t = i->thunk;
    struct thunks *ts = c->thunks;
    uint64_t bits, ea, trap;
    uint8_t *staging;
    gva_t lin;

    BEGIN(c, i);
    if (!thunk_x87_wait(c))
        return;
    bits = touched(c, t);
    ea = insn_ea(c, i);
    lin = masked_linear(c, i, ea, bits);
    staging = ts->staging + (lin & 63);
    masked_elements(c, t, lin, bits, staging, ACCESS_WRITE, false);
    trap = x87_run(c, i, t, staging, ea);
    if (trap)
        raise_trap(c, trap);
    masked_elements(c, t, lin, bits, staging, ACCESS_WRITE, true);
    NEXT(c, i);
}

static void op_fwait(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    if (!thunk_x87_wait(c))
        return;
    NEXT(c, i);
}

/* ---- choice of the handler ------------------------------------------------------------------------- */

static void op_nm(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_raise(c, VEC_NM);
}

/*
 * The buffer was full when this was decoded. Forgets all thunks and all blocks that name them, and comes
 * back to the same instruction. Ends its block whatever the decoder thinks: nothing of it is left.
 */
static void op_thunks_full(struct interp *c, const struct insn *i)
{
    struct thunks *ts = c->thunks;

    BEGIN(c, i);
    c->s.rip = interp_rip(c);
    run_incomplete(c);
    hostcode_reset(&ts->code);
    ts->count = 0;
    memset(ts->hash, 0, sizeof(ts->hash));
    blocks_flush(c);
}

/* CR0.TS and EM: x87 and MMX answer with #NM (SDM vol. 3A 2.5, table 2-2). */
static bool is_nm(const struct interp *c, const ZydisDecodedInstruction *zi,
                  const ZydisDecodedOperand *ops)
{
    uint64_t mode = c->mode;

    if (zi->mnemonic == ZYDIS_MNEMONIC_FWAIT)
        return (mode & MODE_TS) && (mode & MODE_MP);
    if (thunk_uses_vectors(zi, ops))
        return mode & MODE_TS;
    return thunk_is_x87(zi, ops) && (mode & (MODE_TS | MODE_EM));
}

/* The x87 opcode register: the low bits of the first opcode byte, and ModRM. */
static uint64_t guest_fop(const ZydisDecodedInstruction *zi, const struct insn *out)
{
    unsigned at = zi->raw.modrm.offset;

    return at && at < sizeof(out->bytes) ? (out->bytes[at - 1] & 7u) << 8 | out->bytes[at] : 0;
}

static uint8_t segment_number(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? reg - ZYDIS_REGISTER_ES : SEG_DS;
}

bool thunk_prepare(struct interp *c, const ZydisDecodedInstruction *zi,
                   const ZydisDecodedOperand *ops, struct insn *out)
{
    int mem = thunk_mem_operand(zi, ops);
    const struct thunk *t;
    bool ok = false;

    if (!thunk_offered(c, zi, ops))
        return false;
    if (is_nm(c, zi, ops)) {
        out->fn = op_nm;
        return true;
    }
    if (zi->mnemonic == ZYDIS_MNEMONIC_FWAIT) {
        out->fn = op_fwait;
        return true;
    }
    if (vec_prepare(c, zi, ops, out, &ok))
        return ok;
    if (!thunk_build(c, zi, ops, out->bytes, &t))
        return false;
    if (!t) {
        out->fn = op_thunks_full;
        return true;
    }
    out->thunk = t;
    if (mem >= 0) {
        out->disp = ops[mem].mem.disp.value;
        if (t->mask == MASK_BYTES) {
            /* [seg:rDI], which is no ModRM operand. */
            out->base = REG_RDI;
            out->index = R_NONE;
            out->scale = 0;
            out->disp = 0;
            out->seg = segment_number(ops[mem].mem.segment);
        }
    }
    if (t->flags & THUNK_X87) {
        out->imm = guest_fop(zi, out);
        out->fn = t->mask ? op_thunk_x87_masked : op_thunk_x87;
    } else if (!t->span) {
        out->fn = op_thunk_reg;
    } else if (t->mask) {
        out->fn = op_thunk_masked;
    } else {
        out->fn = op_thunk_mem;
    }
    return true;
}

void thunk_set_ferr(struct interp *c, bool (*ferr)(void *opaque), void *opaque)
{
    struct thunks *ts = c->thunks;

    ts->ferr = ferr;
    ts->ferr_opaque = opaque;
}

/* ---- life ------------------------------------------------------------------------------------------- */

int thunks_init(struct interp *c, struct err *err)
{
    struct thunks *ts = aligned_alloc(64, align_up(sizeof(*ts), 64));
    unsigned a, b, cx, d;
    int ret;

    if (!ts)
        return err_set(err, ENOMEM, "out of memory for native thunks");
    memset(ts, 0, sizeof(*ts));
    ret = hostcode_init(&ts->code, CODE_BYTES, err);
    if (ret) {
        free(ts);
        return ret;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &cx, &d)) {
        ts->no_fcs = b & BIT(13);
        /* The model has AVX-512 only where host and its kernel have it. */
        ts->wide = (b & bit_AVX512F) && __builtin_cpu_supports("avx512f");
        ts->k64 = ts->wide && (b & bit_AVX512BW);
    }
    c->thunks = ts;
    return 0;
}

void thunks_fini(struct interp *c)
{
    struct thunks *ts = c->thunks;

    if (!ts)
        return;
    hostcode_fini(&ts->code);
    free(ts);
    c->thunks = NULL;
}
