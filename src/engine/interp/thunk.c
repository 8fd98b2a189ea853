/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When and on what memory native thunks run. thunk_gen.c makes them.
 *
 * A memory operand that is RAM inside one page is used where it is. Any other (page-crossing, MMIO,
 * a page with decoded code, a watched page) is staged: checked, copied in, and copied out after the
 * thunk. Where part of it is inaccessible, the thunk runs on host pages of which the same part is,
 * and what the host does is what the guest gets (run_mirrored). With a mask only the selected
 * elements count.
 *
 * SDM vol. 1 chapters 8 to 15; vol. 2A section 2.4 "instruction exception specification".
 */
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

#define X87_UNMASKED_NO_STORE                                          \
    0x1b /* IE, DE, OE, UE: the destination keeps its value; PE stores \
          */

/* ---- faults of the host ---------------------------------------------------------------------- */

/* The fault of a guest instruction that the host met. */
_Noreturn __attribute__((noinline)) void thunk_raise_trap(struct interp *c, uint64_t trap)
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

/* ---- x87 and MMX ----------------------------------------------------------------------------- */

/*
 * With CR0.NE clear the exception goes to the FERR# pin, and the CPU stays at the instruction until
 * an interrupt comes; under IGNNE# the instruction runs (SDM vol. 1 section 8.7). The pin is let go
 * of here too: between two exceptions there is a waiting instruction that finds none. A machine
 * without the pin gets #MF, so that the exception is not lost.
 */
static __attribute__((noinline)) bool x87_exception(struct interp *c, bool waits)
{
    bool to_pin = !(c->s.cr0 & CR0_NE) && c->vm->ferr_sink, ignored = false;

    if (c->vm->ferr_sink && (c->ferr || to_pin))
        ignored = vcpu_ferr(c->vcpu, waits && to_pin);
    c->ferr = waits && to_pin;
    if (!waits)
        return true;
    if (!to_pin)
        interp_raise(c, VEC_MF);
    if (ignored)
        return true;
    c->s.rip = interp_rip(c);
    run_left_early(c); /* counted, so that a budget and virtual time go on */
    return false;
}

bool thunk_x87_wait(struct interp *c)
{
    bool waits = c->s.fpu.fsw & FSW_ES;

    return likely(!waits && !c->ferr) || x87_exception(c, waits);
}

/* The image a thunk's FXRSTOR64 takes; the pointers are a mark. */
static void fx_image(struct thunks *ts, const struct cpu_fpu *f, const struct thunk *t,
                     uint16_t fop)
{
    uint32_t mxcsr = f->mxcsr;

    if (!(t->flags & THUNK_MXCSR))
        __asm__("stmxcsr %0" : "=m"(mxcsr));
    put_le16(ts->fx + FX_FCW, f->fcw);
    put_le16(ts->fx + FX_FSW, f->fsw);
    put_le16(ts->fx + FX_FTW, f->ftw);
    put_le16(ts->fx + FX_FOP, fop);
    put_le64(ts->fx + FX_FIP, (uintptr_t)ts->fx);
    put_le64(ts->fx + FX_FDP, (uintptr_t)ts->fx);
    put_le32(ts->fx + FX_MXCSR, mxcsr);
    memcpy(ts->fx + FX_ST, f->st, sizeof(f->st));
}

/*
 * Runs a thunk on the guest's x87 state. The host's own pointers never come through: the image goes
 * in with values that the instruction cannot produce, and what has changed to the host's addresses
 * afterwards becomes the guest's. A fault may leave its mark too (MMX: TOP and tags).
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

    fx_image(ts, f, t, fop_mark);
    if (ignore) {
        put_le16(ts->fx + FX_FCW, fcw | 0x3f);
        put_le16(ts->fx + FX_FSW, f->fsw & ~(FSW_ES | FSW_B));
    }
    trap = hostcode_call(&ts->code, &t->fn, c, mem);
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
    return trap;
}

/* ---- running --------------------------------------------------------------------------------- */

static inline enum access access_kind(const struct thunk *t)
{
    return t->flags & THUNK_STORES ? ACCESS_WRITE : ACCESS_READ;
}

static inline uint64_t run(struct interp *c, const struct insn *i, const struct thunk *t, void *mem,
                           uint64_t ea)
{
    struct thunks *ts = c->thunks;

    if (t->flags & THUNK_X87)
        return x87_run(c, i, t, mem, ea);
    return hostcode_call(&ts->code, &t->fn, c, mem);
}

static void op_thunk_reg(struct interp *c, const struct insn *i)
{
    struct thunks *ts = c->thunks;
    uint64_t trap;

    BEGIN(c, i);
    trap = hostcode_call(&ts->code, &i->thunk->fn, c, NULL);
    if (unlikely(trap))
        thunk_raise_trap(c, trap);
    NEXT(c, i);
}

/* ---- masks ----------------------------------------------------------------------------------- */

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

/* Does the mask choose which elements can fault? */
static bool suppresses(const struct thunk *t)
{
    return t->mask && !(t->flags & THUNK_NO_SUPPRESS);
}

/* Linear addresses are 32 bits wide outside 64-bit code. */
static gva_t linear_add(const struct interp *c, gva_t lin, uint64_t n)
{
    return c->code64 ? lin + n : (uint32_t)(lin + n);
}

/*
 * Segment limits are those of the elements that are touched. Their offsets wrap at 32 bits, also
 * with 16-bit addresses.
 */
static gva_t operand_linear(struct interp *c, const struct insn *i, uint64_t ea, unsigned span,
                            uint64_t bits)
{
    const struct thunk *t = i->thunk;

    if (!suppresses(t) || c->code64 || c->flat & (1u << i->seg))
        return seg_linear(c, i->seg, ea, span, access_kind(t));
    for (unsigned j = 0; bits; j++, bits >>= 1)
        if (bits & 1)
            seg_linear(c, i->seg, (uint32_t)(ea + j * t->esize), t->esize, access_kind(t));
    return (uint32_t)(c->s.seg[i->seg].base + ea);
}

/*
 * Copies what the instruction reads into `to`, or what it has written out of it: bytes [first, end)
 * of the operand, with a mask the selected elements in that range.
 */
static void copy_operand(struct interp *c, const struct thunk *t, gva_t lin, uint64_t bits,
                         uint8_t *to, unsigned first, unsigned end, enum access how)
{
    bool whole = !t->mask || (how == ACCESS_READ && (t->flags & THUNK_WHOLE));
    unsigned size = whole ? end - first : t->esize;

    for (unsigned at = whole ? first : 0; at < end; at += size) {
        unsigned from = at > first ? at : first, to_end = at + size < end ? at + size : end;

        if (to_end <= from || (!whole && !(bits >> (at / size) & 1)))
            continue;
        if (how == ACCESS_READ)
            access_copy_in(c, to + from, linear_add(c, lin, from), to_end - from, c->key);
        else
            access_copy_out(c, linear_add(c, lin, from), to + from, to_end - from, c->key);
    }
}

/* ---- memory operands that are not simply there ----------------------------------------------- */

/* RFLAGS.AC and CR0.AM at CPL 3: nothing of this vCPU's has a tag now, so every access comes here.
 */
static bool alignment_checked(const struct interp *c)
{
    return (c->key & KEY_MODE) == KEY_USER_ALIGNED;
}

/*
 * The form of i's thunk that runs under the host's own alignment checks: whether MOVUPS, FBSTP or
 * FXSAVE minds is for each processor to say. Rare enough to decode once more.
 */
static const struct thunk *thunk_with_ac(struct interp *c, const struct insn *i)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    const struct thunk *t = NULL;
    ZydisDecodedInstruction zi;
    ZydisDecoder z;

    if (c->code64)
        ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if ((c->mode & MODE_CODE) == MODE_CODE32)
        ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&z, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, i->bytes, i->len, &zi, ops)) ||
        !thunk_build(c, &zi, ops, i->bytes, true, &t) || !t)
        return i->thunk;
    return t;
}

/* Does the access fault? Nothing is raised; A and D bits may have been set. */
static bool accessible(struct interp *c, gva_t addr, unsigned len, enum access how)
{
    sigjmp_buf here, *outer = c->raise_to;
    volatile bool ok = false;

    c->raise_to = &here;
    if (!sigsetjmp(here, 0)) {
        access_probe(c, addr, len, how, c->key);
        ok = true;
    }
    c->raise_to = outer;
    return ok;
}

/*
 * What comes before paging and alignment: segment limits and canonical addresses of the first
 * `span` bytes, with a mask of the touched elements.
 */
static gva_t checked_linear(struct interp *c, const struct insn *i, uint64_t ea, unsigned span,
                            uint64_t bits)
{
    const struct thunk *t = i->thunk;
    gva_t lin = operand_linear(c, i, ea, span, bits), first = lin, last = lin + span - 1;

    if (suppresses(t) && bits) {
        first = lin + (unsigned)__builtin_ctzll(bits) * t->esize;
        last = lin + (64u - (unsigned)__builtin_clzll(bits)) * t->esize - 1;
    }
    if (c->code64 && !(canonical(first) && canonical(last)))
        access_probe(c, canonical(first) ? last : first, 1, access_kind(t), c->key);
    return lin;
}

/* The same without an exception; *lin is set if all is well. */
static bool linear_ok(struct interp *c, const struct insn *i, uint64_t ea, unsigned span,
                      uint64_t bits, gva_t *lin)
{
    sigjmp_buf here, *outer = c->raise_to;
    volatile bool ok = false;

    c->raise_to = &here;
    if (!sigsetjmp(here, 0)) {
        *lin = checked_linear(c, i, ea, span, bits);
        ok = true;
    }
    c->raise_to = outer;
    return ok;
}

/*
 * An address with lin's page offset in host pages of which the first, the second (of an operand
 * that crosses), both or none is present.
 */
static uint8_t *mirror(struct interp *c, gva_t lin, bool first_ok, bool second_ok)
{
    struct thunks *ts = c->thunks;
    unsigned page = first_ok    ? second_ok ? HOSTCODE_GUARD_BOTH : HOSTCODE_GUARD_PRESENT
                    : second_ok ? HOSTCODE_GUARD_ABSENT
                                : HOSTCODE_GUARD_NONE;

    return ts->code.guard + page * PAGE_SIZE + (lin & PAGE_MASK);
}

/*
 * Part of the operand, or all, cannot be accessed. What that does is the host's to say: the
 * instruction may not touch that part (a mask, an x87 store that an unmasked exception prevents),
 * may find the operand misaligned first, and may have done something before the fault (MXCSR flags,
 * MMX tags, half of FBSTP). So it runs on pages laid out like the guest's. Raises the fault, or
 * returns if there is none.
 */
static void run_mirrored(struct interp *c, const struct insn *i, const struct thunk *t, gva_t lin,
                         uint64_t ea, uint64_t bits, bool first_ok, bool second_ok)
{
    struct thunks *ts = c->thunks;
    uint8_t *mem = mirror(c, lin, first_ok, second_ok), before[64];
    unsigned left = PAGE_SIZE - (lin & PAGE_MASK), first = 0, end = 0;
    uint64_t trap;

    if (first_ok)
        end = min_u64(left, t->span);
    else if (second_ok)
        first = left, end = t->span;
    /* What is read, or written only in part: both begin as the guest's memory. */
    if (end > first) {
        access_copy_in(c, mem + first, linear_add(c, lin, first), end - first, c->key);
        memcpy(before, mem + first, end - first);
    }
    trap = run(c, i, t, mem, ea);
    if ((t->flags & THUNK_STORES) && end > first && memcmp(before, mem + first, end - first))
        copy_operand(c, t, lin, bits, mem, first, end, ACCESS_WRITE);
    if (trap == TRAP_PF) {
        uint64_t at = ts->code.fault_addr - (uintptr_t)mem;

        /* Touched in spite of its mask: then the segment matters after all. */
        seg_linear(c, i->seg, c->code64 ? ea + at : (uint32_t)(ea + at), 1, access_kind(t));
        access_probe(c, linear_add(c, lin, at), 1, access_kind(t), c->key);
    }
    if (trap && trap != TRAP_PF)
        thunk_raise_trap(c, trap);
    if (trap)
        access_probe(c, lin, t->span, access_kind(t), c->key);
}

/* XRSTOR must not reach state of the host that the guest has not. */
static uint64_t run_area(struct interp *c, const struct thunk *t, void *mem)
{
    struct thunks *ts = c->thunks;
    uint64_t rax = c->s.gpr[REG_RAX], rdx = c->s.gpr[REG_RDX], trap;

    fx_image(ts, &c->s.fpu, t, 0);
    c->s.gpr[REG_RAX] = (uint32_t)(rax & c->s.xcr0);
    c->s.gpr[REG_RDX] = 0;
    trap = hostcode_call(&ts->code, &t->fn, c, mem);
    c->s.gpr[REG_RAX] = rax;
    c->s.gpr[REG_RDX] = rdx;
    return trap;
}

void thunk_area_misaligned(struct interp *c, const struct insn *i, gva_t lin)
{
    uint64_t trap = run_area(c, thunk_with_ac(c, i), mirror(c, lin, true, true));

    if (trap && trap != TRAP_PF)
        thunk_raise_trap(c, trap);
}

/*
 * Runs the instruction on an area of which the pages are present or not. Where its first page fault
 * is; beyond the end if there is none. `first` bytes are in the first page.
 */
static uint64_t area_meets(struct interp *c, const struct thunk *t, gva_t lin, unsigned len,
                           unsigned first, bool first_ok, bool second_ok)
{
    uint8_t *mem = mirror(c, lin, first_ok, second_ok);
    struct thunks *ts = c->thunks;
    uint64_t trap;

    if (first_ok)
        access_copy_in(c, mem, lin, first, c->key);
    if (second_ok && first < len)
        access_copy_in(c, mem + first, linear_add(c, lin, first), len - first, c->key);
    trap = run_area(c, t, mem);
    if (trap && trap != TRAP_PF)
        thunk_raise_trap(c, trap);
    return trap ? ts->code.fault_addr - (uintptr_t)mem : len;
}

void thunk_area_fault(struct interp *c, const struct insn *i, gva_t lin, unsigned len,
                      unsigned inside, unsigned align, enum access how)
{
    bool ac = alignment_checked(c);
    const struct thunk *t = ac ? thunk_with_ac(c, i) : i->thunk;
    unsigned left = PAGE_SIZE - (lin & PAGE_MASK), first = left < len ? left : len;
    bool first_ok = accessible(c, lin, first, how);
    bool second_ok =
        first == len ? first_ok : accessible(c, linear_add(c, lin, first), len - first, how);
    uint64_t at;

    if (first_ok && second_ok && inside >= len && !ac && !(lin & (align - 1)))
        return;
    if (c->code64 && !canonical(lin)) /* before alignment */
        access_probe(c, lin, 1, how, c->key);
    at = lin + (i->osize == 2 ? 1 : 3); /* the first word of an environment */
    if (c->code64 && !ac && align == 1 && !canonical(at))
        access_probe(c, at, 1, how, c->key);
    /* With nothing present where the segment ends: does it go past that end before all else? */
    if (inside < len &&
        area_meets(c, t, lin, len, first, first_ok && first <= inside, false) >= inside)
        return;
    at = area_meets(c, t, lin, len, first, first_ok, second_ok);
    if (at < inside) {
        access_probe(c, linear_add(c, lin, at), 1, how, c->key);
        access_probe(c, lin, len, how, c->key);
    }
}

/* All of the operand is accessible, but not by a host pointer. */
static void run_staged(struct interp *c, const struct insn *i, const struct thunk *t, gva_t lin,
                       uint64_t ea, uint64_t bits)
{
    struct thunks *ts = c->thunks;
    uint8_t *staging = ts->staging + (lin & 63);
    uint64_t trap;

    if (t->flags & THUNK_LOADS)
        copy_operand(c, t, lin, bits, staging, 0, t->span, ACCESS_READ);
    trap = run(c, i, t, staging, ea);
    if (trap)
        thunk_raise_trap(c, trap);
    if (!(t->flags & THUNK_STORES))
        return;
    if ((t->flags & THUNK_X87_STORE) && (t->flags & THUNK_WAITS) &&
        c->s.fpu.fsw & ~c->s.fpu.fcw & X87_UNMASKED_NO_STORE)
        return;
    copy_operand(c, t, lin, bits, staging, 0, t->span, ACCESS_WRITE);
}

/*
 * MASKMOVDQU is two accesses of eight bytes, the upper one first, each of which wraps at the
 * address size and is checked whole, whatever the mask says.
 */
static bool maskmovdqu_wraps(struct interp *c, const struct insn *i, const struct thunk *t,
                             uint64_t ea, uint64_t bits, bool ac)
{
    struct thunks *ts = c->thunks;
    uint64_t wrap = mask_bytes(i->asize), trap;
    gva_t lin = seg_linear(c, i->seg, (ea + 8) & wrap, 8, ACCESS_WRITE);

    if (ac && hostcode_call(&ts->code, &t->fn, c, mirror(c, lin & 63, true, true)) == VEC_AC + 1)
        interp_raise_err(c, VEC_AC, 0);
    seg_linear(c, i->seg, ea, 8, ACCESS_WRITE);
    if (ea + 15 <= wrap)
        return false;
    access_probe(c, lin, 8, ACCESS_WRITE, c->key);
    access_probe(c, seg_linear(c, i->seg, ea, 8, ACCESS_WRITE), 8, ACCESS_WRITE, c->key);
    trap = hostcode_call(&ts->code, &i->thunk->fn, c, ts->staging);
    if (trap)
        thunk_raise_trap(c, trap);
    for (unsigned j = 0; j < 16; j++)
        if (bits >> j & 1)
            access_copy_out(c, seg_linear(c, i->seg, (ea + j) & wrap, 1, ACCESS_WRITE),
                            ts->staging + j, 1, c->key);
    return true;
}

/*
 * Part of the operand, or all, is outside of its segment or of the canonical addresses. Whether the
 * instruction touches it at all, and whether it is aligned first, is the host's to say. SSE's own
 * alignment comes before segment limits, AC's after them. An operand that runs out of the canonical
 * addresses is checked for AC first; not so one that begins there, nor masked elements, except the
 * only one of a store.
 *
 * Two kinds are accessed in pieces, of which the first is checked, and stored, before the limit of
 * the other: of 80 bits the first eight bytes, of MASKMOVDQU the last eight.
 */
static void run_outside(struct interp *c, const struct insn *i, const struct thunk *t, uint64_t ea,
                        uint64_t bits)
{
    struct thunks *ts = c->thunks;
    uint8_t *mem = ts->code.guard + (HOSTCODE_GUARD_PRESENT + 1) * PAGE_SIZE - 8, before[8];
    unsigned piece = t->mask == MASK_BYTES ? t->span - 8 : 0;
    bool masked = suppresses(t) && !(t->mask_n == 1 && (t->flags & THUNK_STORES)), piece_ok, ac;
    gva_t lin = c->s.seg[i->seg].base + ea, at = 0;
    uint64_t trap;

    if (c->code64)
        lin = seg_linear(c, i->seg, ea, 1, access_kind(t));
    piece_ok = (t->span == 10 || piece) && linear_ok(c, i, ea + piece, 8, bits, &at);
    ac = piece_ok || (c->code64 && canonical(lin + piece) && !masked);
    trap = run(c, i, ac ? t : i->thunk, mirror(c, lin, false, false), ea);
    if (trap && trap != TRAP_PF)
        thunk_raise_trap(c, trap);
    if (trap && piece_ok) {
        access_probe(c, at, 8, access_kind(t), c->key);
        access_copy_in(c, mem, at, 8, c->key);
        memcpy(before, mem, 8);
        run(c, i, i->thunk, mem, ea);
        if ((t->flags & THUNK_STORES) && memcmp(before, mem, 8))
            access_copy_out(c, at, mem, 8, c->key);
    }
    if (trap || t->mask == MASK_BYTES)
        checked_linear(c, i, ea, t->span, bits);
}

static __attribute__((noinline)) void run_slow(struct interp *c, const struct insn *i, uint64_t ea)
{
    bool ac = alignment_checked(c);
    const struct thunk *t = ac ? thunk_with_ac(c, i) : i->thunk;
    uint64_t bits = t->mask ? touched(c, t) : 0, trap;
    unsigned left, first;
    bool first_ok, second_ok;
    void *p = NULL;
    gva_t lin;

    if (t->mask == MASK_BYTES && t->span == 16 && i->asize < 8 &&
        maskmovdqu_wraps(c, i, t, ea, bits, ac))
        return;
    if (!linear_ok(c, i, ea, t->span, bits, &lin)) {
        run_outside(c, i, t, ea, bits);
        return;
    }
    left = PAGE_SIZE - (lin & PAGE_MASK);
    first = left < t->span ? left : t->span;
    first_ok = accessible(c, lin, first, access_kind(t));
    second_ok = first == t->span
                    ? first_ok
                    : accessible(c, linear_add(c, lin, first), t->span - first, access_kind(t));
    if (!first_ok || !second_ok) {
        run_mirrored(c, i, t, lin, ea, bits, first_ok, second_ok && first < t->span);
        return;
    }
    if (first == t->span && !ac)
        p = access_host(c, lin, t->span, access_kind(t), c->key);
    if (!p) {
        run_staged(c, i, t, lin, ea, bits);
        return;
    }
    trap = run(c, i, t, p, ea);
    if (trap)
        thunk_raise_trap(c, trap);
}

/*
 * The host address of the operand if it is in one page that the TLB has and no segment is to be
 * checked, else NULL.
 */
static hot_inline void *operand_host(struct interp *c, const struct insn *i, uint64_t ea)
{
    const struct thunk *t = i->thunk;
    enum access how = access_kind(t);
    const struct tlb_entry *e;
    gva_t lin;

    if (unlikely(!c->code64 && !(c->flat & (1u << i->seg))))
        return NULL;
    lin = seg_linear(c, i->seg, ea, t->span, how);
    e = &c->tlb[TLB_SLOT(lin)];
    if (likely(tlb_hit(c, e, lin, t->span, how, c->key)))
        return (void *)(uintptr_t)(lin + e->addend);
    return NULL;
}

static void op_thunk_mem(struct interp *c, const struct insn *i)
{
    struct thunks *ts = c->thunks;
    uint64_t ea, trap;
    void *p;

    BEGIN(c, i);
    ea = insn_ea(c, i);
    p = operand_host(c, i, ea);
    if (likely(p)) {
        trap = hostcode_call(&ts->code, &i->thunk->fn, c, p);
        if (unlikely(trap))
            thunk_raise_trap(c, trap);
    } else {
        run_slow(c, i, ea);
    }
    NEXT(c, i);
}

static void op_thunk_x87(struct interp *c, const struct insn *i)
{
    const struct thunk *t = i->thunk;
    uint64_t ea = 0, trap;
    void *p = NULL;

    BEGIN(c, i);
    if ((t->flags & THUNK_WAITS) && !thunk_x87_wait(c))
        return;
    if (t->span) {
        ea = insn_ea(c, i);
        p = operand_host(c, i, ea);
        if (unlikely(!p)) {
            run_slow(c, i, ea);
            NEXT(c, i);
        }
    }
    trap = x87_run(c, i, t, p, ea);
    if (unlikely(trap))
        thunk_raise_trap(c, trap);
    NEXT(c, i);
}

static void op_fwait(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    if (!thunk_x87_wait(c))
        return;
    NEXT(c, i);
}

/* ---- choice of the handler ------------------------------------------------------------------- */

void op_thunk_nm(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_raise(c, VEC_NM);
}

/*
 * The buffer was full when this was decoded. Forgets all thunks and all blocks that name them, and
 * comes back to the same instruction. Ends its block whatever the decoder thinks: nothing of it is
 * left.
 */
void op_thunks_full(struct interp *c, const struct insn *i)
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
        out->fn = op_thunk_nm;
        return true;
    }
    if (zi->mnemonic == ZYDIS_MNEMONIC_FWAIT) {
        out->fn = op_fwait;
        return true;
    }
    if (vec_prepare(c, zi, ops, out, &ok) && (!ok || !thunk_is_area(zi)))
        return ok;
    if (!thunk_build(c, zi, ops, out->bytes, false, &t))
        return false;
    if (!t) {
        out->fn = op_thunks_full;
        return true;
    }
    out->thunk = t;
    if (t->flags & THUNK_AREA)
        return true; /* fn is vec.c's */
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
        out->fn = op_thunk_x87;
    } else {
        out->fn = t->span ? op_thunk_mem : op_thunk_reg;
    }
    return true;
}

/* ---- life ------------------------------------------------------------------------------------ */

int thunks_init(struct interp *c, struct err *err)
{
    struct thunks *ts = aligned_alloc(64, align_up(sizeof(*ts), 64));
    int ret;

    if (!ts)
        return err_set(err, ENOMEM, "out of memory for native thunks");
    memset(ts, 0, sizeof(*ts));
    ret = hostcode_init(&ts->code, CODE_BYTES, err);
    if (ret) {
        free(ts);
        return ret;
    }
    ts->no_fcs = !(c->vm->host & HOST_X87_SELECTORS);
    ts->wide = c->vm->host & HOST_AVX512;
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
