/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random encodings and states for hostdiff. At the start every opcode of every map is decoded with
 * every prefix that matters; what Zydis makes of it and the model offers becomes a template of its
 * mnemonic. A case is a template with the free bits drawn: registers, addressing form, prefixes,
 * immediates. Then the registers are set so that memory operands fall where something can go wrong.
 *
 * Everything in a case follows from (seed, number).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/interp/decode.h"
#include "tests/cpu/hostdiff.h"

enum { ENC_LEGACY, ENC_VEX, ENC_EVEX };

struct template
{
    uint16_t mnemonic, width;
    uint8_t mode, enc, map, opcode;
    uint8_t pp; /* legacy: 0, 66, F2, F3; else 0..3 */
    uint8_t w, l, b;
    uint8_t mem;     /* ModRM.mod is not 3 */
    uint8_t reg, rm; /* rm 8: any */
};

struct hd_gen {
    const struct cpu_model *model;
    const uint8_t *pattern;
    ZydisDecoder decoder[HD_MODES];
    struct template *t;
    size_t n, cap;
    struct hd_group *groups;
    unsigned ngroups;
    unsigned *common, *branches; /* for runs: numbers of the groups that the caller has */
    unsigned ncommon, nbranches;
};

struct rng {
    uint64_t s;
};

static uint64_t rnd(struct rng *r)
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static unsigned below(struct rng *r, unsigned n)
{
    return (unsigned)(rnd(r) >> 33) % n;
}

static bool chance(struct rng *r, unsigned percent)
{
    return below(r, 100) < percent;
}

const char *gen_skip_reason(uint32_t mnemonic)
{
    static const struct {
        uint32_t mnemonic;
        const char *reason;
    } skip[] = {
#define SKIP(mnemonic, reason) {ZYDIS_MNEMONIC_##mnemonic, reason},
#include "tests/cpu/hostdiff_skip.def"
#undef SKIP
    };

    for (size_t k = 0; k < ARRAY_LEN(skip); k++)
        if (skip[k].mnemonic == mnemonic)
            return skip[k].reason;
    return NULL;
}

/* ---- templates
 * -------------------------------------------------------------------------------------- */

void gen_decoder(ZydisDecoder *z, unsigned mode)
{
    switch (mode) {
    case HD_64:
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        break;
    case HD_32:
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
        break;
    default:
        ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
        break;
    }
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
}

static void put(uint8_t *code, unsigned *n, unsigned byte)
{
    if (*n < 15)
        code[(*n)++] = (uint8_t)byte;
}

/* Free bits of an encoding; all zero gives the plainest one. */
struct bits {
    unsigned r, x, b, r2, v, vvvv, aaa, z, rex, mod, modrm_rm, sib, short_vex, seg, asize, lock;
};

static unsigned encode(const struct template *t, const struct bits *f, const uint8_t *tail,
                       unsigned ntail, uint8_t code[16])
{
    static const uint8_t seg[] = {0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0, ext = t->mode == HD_64;

    if (f->lock)
        put(code, &n, 0xf0);
    if (f->seg)
        put(code, &n, seg[f->seg % 7]);
    if (f->asize)
        put(code, &n, 0x67);
    if (t->enc == ENC_LEGACY) {
        if (t->pp)
            put(code, &n, prefix[t->pp & 3]);
        if (ext && (t->w || f->rex))
            put(code, &n, 0x40u | t->w << 3 | f->r << 2 | f->x << 1 | f->b);
        if (t->map)
            put(code, &n, 0x0f);
        if (t->map == 2)
            put(code, &n, 0x38);
        if (t->map == 3)
            put(code, &n, 0x3a);
    } else if (t->enc == ENC_VEX) {
        unsigned r = ext ? f->r : 0, x = ext ? f->x : 0, b = ext ? f->b : 0;
        unsigned v = ext ? f->vvvv : f->vvvv & 7;

        if (f->short_vex && t->map == 1 && !t->w && !x && !b) {
            put(code, &n, 0xc5);
            put(code, &n, (r ^ 1) << 7 | (~v & 15) << 3 | (unsigned)t->l << 2 | t->pp);
        } else {
            put(code, &n, 0xc4);
            put(code, &n, (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | t->map);
            put(code, &n, (unsigned)t->w << 7 | (~v & 15) << 3 | (unsigned)t->l << 2 | t->pp);
        }
    } else {
        unsigned r = ext ? f->r : 0, x = ext ? f->x : 0, b = ext ? f->b : 0;
        unsigned v = ext ? f->vvvv : f->vvvv & 7, v2 = ext ? f->v : 0, r2 = ext ? f->r2 : 0;

        put(code, &n, 0x62);
        put(code, &n, (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | (r2 ^ 1) << 4 | t->map);
        put(code, &n, (unsigned)t->w << 7 | (~v & 15) << 3 | 4 | t->pp);
        put(code, &n,
            f->z << 7 | (unsigned)t->l << 5 | (unsigned)t->b << 4 | (v2 ^ 1) << 3 | f->aaa);
    }
    put(code, &n, t->opcode);
    put(code, &n,
        (t->mem ? f->mod % 3 : 3u) << 6 | (unsigned)t->reg << 3 |
            (t->rm < 8 ? t->rm : f->modrm_rm & 7));
    for (unsigned k = 0; k < ntail && n < 15; k++)
        put(code, &n, tail[k]);
    return n;
}

static bool available(const struct hd_gen *g, const ZydisDecodedInstruction *zi)
{
    static const struct insn_row any = {.feature = ROW_ISA};
    const struct insn_row *row = insn_row(zi->mnemonic);

    return insn_available(g->model, row->prep ? row : &any, zi);
}

/* The plainest encoding; or that of a gather or scatter, which wants three different registers. */
static bool decodes(const struct hd_gen *g, const struct template *t, bool vsib,
                    ZydisDecodedInstruction *zi)
{
    const uint8_t tail[12] = {vsib ? 0x10 : 0}; /* SIB: index 2 */
    struct bits f = {.vvvv = vsib && t->enc == ENC_VEX, .aaa = vsib};
    ZydisDecoderContext ctx;
    uint8_t code[16];
    unsigned n = encode(t, &f, tail, sizeof(tail), code);

    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&g->decoder[t->mode], &ctx, code, n, zi));
}

static void try_template(struct hd_gen *g, struct template *t)
{
    ZydisDecodedInstruction zi;

    if (!decodes(g, t, false, &zi)) {
        if (!t->mem || t->enc == ENC_LEGACY)
            return;
        t->rm = 4;
        if (!decodes(g, t, true, &zi))
            return;
    }
    if (t->enc == ENC_LEGACY && zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return;
    if (zi.opcode != t->opcode)
        return; /* it was a prefix */
    if (!(zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) && (t->reg || t->mem))
        return; /* once is enough */
    if (!available(g, &zi))
        return;
    t->mnemonic = (uint16_t)zi.mnemonic;
    t->width = t->enc == ENC_LEGACY ? zi.operand_width : zi.avx.vector_length;
    if (g->n == g->cap) {
        g->cap = g->cap ? g->cap * 2 : 65536;
        g->t = realloc(g->t, g->cap * sizeof(*g->t));
        if (!g->t)
            abort();
    }
    g->t[g->n++] = *t;
}

static bool rm_matters(const struct template *t)
{
    return t->enc == ENC_LEGACY && !t->mem &&
           ((!t->map && (t->opcode & 0xf8) == 0xd8) ||
            (t->map == 1 && (t->opcode == 0x01 || t->opcode == 0xae || t->opcode == 0xc7)));
}

static void try_modrms(struct hd_gen *g, struct template t)
{
    for (t.mem = 0; t.mem < 2; t.mem++)
        for (t.reg = 0; t.reg < 8; t.reg++) {
            if (!rm_matters(&t)) {
                t.rm = 8;
                try_template(g, &t);
                continue;
            }
            for (t.rm = 0; t.rm < 8; t.rm++)
                try_template(g, &t);
        }
}

static void enumerate(struct hd_gen *g, unsigned mode)
{
    struct template t = {.mode = (uint8_t)mode};
    unsigned nw = mode == HD_64 ? 2 : 1;

    for (unsigned map = 0; map < 4; map++)
        for (unsigned op = 0; op < 256; op++)
            for (unsigned pp = 0; pp < 4; pp++)
                for (unsigned w = 0; w < nw; w++) {
                    t.enc = ENC_LEGACY;
                    t.map = (uint8_t)map;
                    t.opcode = (uint8_t)op;
                    t.pp = (uint8_t)pp;
                    t.w = (uint8_t)w;
                    t.l = t.b = 0;
                    try_modrms(g, t);
                }
    for (unsigned map = 1; map < 4; map++)
        for (unsigned op = 0; op < 256; op++)
            for (unsigned pp = 0; pp < 4; pp++)
                for (unsigned w = 0; w < 2; w++)
                    for (unsigned lb = 0; lb < 6; lb++) {
                        t.map = (uint8_t)map;
                        t.opcode = (uint8_t)op;
                        t.pp = (uint8_t)pp;
                        t.w = (uint8_t)w;
                        t.l = (uint8_t)(lb % 3);
                        t.b = lb >= 3;
                        if (lb < 2) {
                            t.enc = ENC_VEX;
                            try_modrms(g, t);
                        }
                        t.enc = ENC_EVEX;
                        try_modrms(g, t);
                    }
}

static int by_group(const void *a, const void *b)
{
    const struct template *x = a, *y = b;

    if (x->mnemonic != y->mnemonic)
        return x->mnemonic < y->mnemonic ? -1 : 1;
    if (x->mode != y->mode)
        return x->mode < y->mode ? -1 : 1;
    return (x->width > y->width) - (x->width < y->width);
}

struct hd_gen *gen_new(const struct cpu_model *model, const uint8_t *pattern)
{
    struct hd_gen *g = calloc(1, sizeof(*g));

    if (!g)
        abort();
    g->model = model;
    g->pattern = pattern;
    for (unsigned mode = 0; mode < HD_MODES; mode++) {
        gen_decoder(&g->decoder[mode], mode);
        enumerate(g, mode);
    }
    qsort(g->t, g->n, sizeof(*g->t), by_group);
    g->groups = calloc(g->n, sizeof(*g->groups));
    if (!g->groups)
        abort();
    for (size_t k = 0; k < g->n; k++) {
        if (!k || by_group(&g->t[k - 1], &g->t[k]))
            g->groups[g->ngroups++] = (struct hd_group){.mnemonic = g->t[k].mnemonic,
                                                        .mode = g->t[k].mode,
                                                        .width = g->t[k].width,
                                                        .first = (uint32_t)k};
        g->groups[g->ngroups - 1].count++;
    }
    return g;
}

void gen_free(struct hd_gen *g)
{
    free(g->t);
    free(g->groups);
    free(g->common);
    free(g->branches);
    free(g);
}

struct hd_group *gen_groups(struct hd_gen *g, unsigned *n)
{
    *n = g->ngroups;
    return g->groups;
}

/* ---- values
 * ------------------------------------------------------------------------------------------- */

static uint64_t any_int(struct rng *r)
{
    switch (below(r, 8)) {
    case 0:
        return below(r, 64);
    case 1:
        return (uint64_t) - (int64_t)below(r, 64);
    case 2:
        return BIT(below(r, 64)) - below(r, 3);
    case 3:
        return rnd(r) & 0xffffffff;
    case 4:
        return rnd(r) & 0xffff;
    case 5:
        return 0x8000000080008080ull;
    default:
        return rnd(r);
    }
}

static uint32_t any_f32(struct rng *r)
{
    static const uint32_t special[] = {0,          0x80000000, 1,          0x807fffff, 0x00800000,
                                       0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
                                       0xffbfffff, 0x3f800000, 0xbf800000, 0x4f000000, 0x5f000000,
                                       0x3effffff, 0x4effffff, 0x33800000};

    switch (below(r, 4)) {
    case 0:
        return special[below(r, ARRAY_LEN(special))];
    case 1:
        return (uint32_t)rnd(r);
    default: /* near one another in size, so that sums round */
        return (uint32_t)((rnd(r) & 0x807fffff) | (uint64_t)(120 + below(r, 40)) << 23);
    }
}

static uint64_t any_f64(struct rng *r)
{
    static const uint64_t special[] = {
        0,
        0x8000000000000000,
        1,
        0x000fffffffffffff,
        0x0010000000000000,
        0x7fefffffffffffff,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        0xfff7ffffffffffff,
        0x3ff0000000000000,
        0x41dfffffffc00000,
        0x43e0000000000000,
        0x3690000000000000,
        0x47efffffe0000000,
    };

    switch (below(r, 4)) {
    case 0:
        return special[below(r, ARRAY_LEN(special))];
    case 1:
        return rnd(r);
    default:
        return (rnd(r) & 0x800fffffffffffff) | (uint64_t)(1000 + below(r, 80)) << 52;
    }
}

static void any_f80(struct rng *r, uint8_t out[10])
{
    static const uint16_t exps[] = {0, 1, 0x7fff, 0x3fff, 0x7ffe, 0x403e, 0x401e, 0x3f80, 0x3c00};
    uint64_t m = rnd(r);
    uint16_t e = (uint16_t)rnd(r);

    switch (below(r, 8)) {
    case 0:
        m = 0;
        e = chance(r, 50) ? 0 : 0x8000;
        break;
    case 1:
        m = BIT(63) | (chance(r, 50) ? 0 : below(r, 3));
        e = (uint16_t)(0x7fff | below(r, 2) << 15);
        break;
    case 2:
        e = (uint16_t)(exps[below(r, ARRAY_LEN(exps))] | below(r, 2) << 15);
        break;
    case 3:
        break; /* any bits: unsupported formats too */
    case 4:
        m |= BIT(63);
        m &= ~0ull << below(r, 64);
        e = (uint16_t)((0x3ff0 + below(r, 0x60)) | below(r, 2) << 15);
        break;
    default:
        m |= BIT(63);
        e = (uint16_t)((0x3ff8 + below(r, 16)) | below(r, 2) << 15);
        break;
    }
    put_le64(out, m);
    put_le16(out + 8, e);
}

static void fill_lanes(struct rng *r, uint8_t *p, size_t len)
{
    unsigned kind = below(r, 5);

    for (size_t k = 0; k + 8 <= len; k += 8) {
        uint64_t v;

        switch (kind) {
        case 0:
            v = any_f32(r) | (uint64_t)any_f32(r) << 32;
            break;
        case 1:
            v = any_f64(r);
            break;
        case 2:
            v = any_int(r);
            break;
        case 3:
            v = rnd(r) & rnd(r) & rnd(r);
            break;
        default:
            v = rnd(r);
            break;
        }
        put_le64(p + k, v);
    }
}

static void any_x87(struct rng *r, struct cpu_fpu *f)
{
    unsigned masks = chance(r, 70) ? 0x3f : below(r, 64), flags = chance(r, 50) ? below(r, 128) : 0;

    f->fcw = (uint16_t)(0x40 | masks | below(r, 4) << 8 | below(r, 4) << 10 | below(r, 2) << 12);
    if (chance(r, 90))
        flags &= masks | 0x40;
    f->fsw = (uint16_t)(flags | below(r, 8) << 11 | below(r, 8) << 8 | below(r, 2) << 14);
    if (flags & ~masks & 0x3f)
        f->fsw |= 0x8080;
    f->ftw = chance(r, 40) ? 0xff : chance(r, 30) ? 0 : (uint8_t)rnd(r);
    f->fop = (uint16_t)below(r, 0x800);
    f->fip = rnd(r) >> 17;
    f->fdp = rnd(r) >> 17;
    for (unsigned k = 0; k < 8; k++)
        any_f80(r, f->st[k]);
}

static void any_fpu(struct rng *r, struct cpu_fpu *f)
{
    memset(f, 0, sizeof(*f));
    any_x87(r, f);
    for (unsigned k = 0; k < 32; k++)
        fill_lanes(r, f->zmm[k], 64);
    for (unsigned k = 0; k < 8; k++)
        switch (below(r, 4)) {
        case 0:
            f->k[k] = UINT64_MAX;
            break;
        case 1:
            f->k[k] = rnd(r) & rnd(r) & rnd(r);
            break;
        case 2:
            f->k[k] = chance(r, 50) ? 0 : BIT(below(r, 16));
            break;
        default:
            f->k[k] = rnd(r);
            break;
        }
    f->mxcsr = (uint32_t)((chance(r, 75) ? 0x1f80 : below(r, 64) << 7) | below(r, 4) << 13 |
                          (chance(r, 25) ? 0x8000 : 0) | (chance(r, 25) ? 0x40 : 0) |
                          (chance(r, 50) ? below(r, 64) : 0));
}

static uint16_t any_selector(struct rng *r)
{
    static const uint16_t gdt[] = {0,    1,    2,    3,    0x23, 0x2b, 0x33,
                                   0x10, 0x18, 0x43, 0x53, 0x63, 0x80};

    switch (below(r, 8)) {
    case 0:
        return gdt[below(r, ARRAY_LEN(gdt))];
    case 1:
        return (uint16_t)(rnd(r) | 4);
    default:
        return (uint16_t)(LDT_SEL(below(r, LDT_COUNT)) & ~(chance(r, 10) ? below(r, 4) : 0));
    }
}

static void any_regs(struct rng *r, unsigned mode, struct hd_regs *s)
{
    static const uint16_t data[] = {
        LDT_SEL(LDT_DATA32),  LDT_SEL(LDT_DATA16),   LDT_SEL(LDT_FLAT), LDT_SEL(LDT_DOWN32),
        LDT_SEL(LDT_DATA_RO), LDT_SEL(LDT_DATA_ODD), LDT_SEL(LDT_END1), LDT_SEL(LDT_END2),
        LDT_SEL(LDT_END3),    LDT_SEL(LDT_END4)};

    for (unsigned k = 0; k < 16; k++)
        s->gpr[k] = mode == HD_64 ? any_int(r) : any_int(r) & UINT32_MAX;
    s->rflags = (rnd(r) & RFLAGS_ARITH) | RFLAGS_ONE;
    if (chance(r, 20))
        s->rflags |= RFLAGS_DF;
    if (chance(r, 4))
        s->rflags |= RFLAGS_AC;
    if (mode == HD_64) {
        s->seg[SEG_CS] = 0x33;
        s->seg[SEG_SS] = s->seg[SEG_DS] = s->seg[SEG_ES] = 0x2b;
        s->fs_base = HD_DATA - (rnd(r) & 0xffff);
        s->gs_base = chance(r, 50) ? HD_DATA + (rnd(r) & 0xfff) : rnd(r) >> 17;
        return;
    }
    for (unsigned k = 0; k < SEG_COUNT; k++)
        s->seg[k] = data[chance(r, 60) ? 0 : below(r, ARRAY_LEN(data))];
    if (mode == HD_16 && chance(r, 60))
        s->seg[SEG_SS] = LDT_SEL(LDT_DATA16);
    if (s->seg[SEG_SS] == LDT_SEL(LDT_DATA_RO))
        s->seg[SEG_SS] = LDT_SEL(LDT_DATA32);
    if (mode == HD_16)
        s->seg[SEG_CS] = LDT_SEL(LDT_CODE16);
    else
        s->seg[SEG_CS] = chance(r, 50) ? LDT_SEL(LDT_CODE32) : LDT_SEL(LDT_CODE32_FLAT);
}

static unsigned segment_number(ZydisRegister reg)
{
    return reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS ? reg - ZYDIS_REGISTER_ES : SEG_DS;
}

/* In 32- and 16-bit code; all of any_regs()'s are in the LDT. */
static const struct hd_desc *segment(const struct hd_regs *s, ZydisRegister reg)
{
    return &hd_ldt[(s->seg[segment_number(reg)] >> 3) % LDT_COUNT];
}

static uint64_t segment_base(const struct hd_regs *s, unsigned mode, ZydisRegister reg)
{
    unsigned k = segment_number(reg);

    if (mode == HD_64)
        return k == SEG_FS ? s->fs_base : k == SEG_GS ? s->gs_base : 0;
    return segment(s, reg)->base;
}

/* ---- where memory operands fall
 * ------------------------------------------------------------------ */

static uint64_t any_target(struct rng *r, unsigned size)
{
    static const uint16_t pages[] = {0, 0x1000, 0x3000};
    unsigned align = 1u << below(r, 7), where = below(r, 100), off;

    if (size > 512) { /* state areas */
        off = below(r, 0x1400) & ~(chance(r, 85) ? 63u : 0);
        return HD_DATA + (where < 85   ? off
                          : where < 92 ? 0x2000 - below(r, size) / 64 * 64
                                       : 0x3000 + (off & 0xfff) + 0x800);
    }
    if (where < 62) {
        off = below(r, PAGE_SIZE);
        off = chance(r, 70) ? off & ~(align - 1) : off;
        if (off + size > PAGE_SIZE)
            off = PAGE_SIZE - size;
        return HD_DATA + pages[below(r, 3)] + off;
    }
    off = size > 1 ? 1 + below(r, size - 1) : 0; /* bytes before the boundary */
    if (where < 77)
        return HD_DATA + 0x1000 - off;
    if (where < 81)
        return HD_DATA + 0x2000 - off;
    if (where < 84)
        return HD_DATA + 0x3000 - off;
    if (where < 87)
        return HD_DATA + 0x4000 - off;
    if (where < 89)
        return HD_DATA + 0x5000 - off;
    if (where < 92)
        return HD_DATA + 0x2000 + (below(r, 0xf00) & ~(align - 1));
    if (where < 96)
        return HD_DATA + 0x4000 + (below(r, 0xf00) & ~(align - 1));
    return HD_DATA + below(r, HD_DATA_BYTES);
}

/* Across, or next to, the end of the canonical addresses or of the operand's segment. */
static uint64_t any_edge(struct rng *r, const struct hd_case *tc, ZydisRegister reg, unsigned size)
{
    const struct hd_desc *d = segment(&tc->regs, reg);
    uint64_t end = d->base + ((uint64_t)d->limit + 1) * (d->in_pages ? PAGE_SIZE : 1);

    if (tc->mode == HD_64)
        end = chance(r, 50) ? BIT(47) : -BIT(47);
    return end - below(r, size + 2);
}

static int gpr_index(ZydisRegister reg)
{
    uint8_t k = decode_gpr(reg);

    return k < 16 ? k : -1;
}

static uint64_t asize_mask(const ZydisDecodedInstruction *zi)
{
    return mask_bytes(zi->address_width / 8u);
}

static void set_part(uint64_t *reg, uint64_t value, uint64_t mask)
{
    *reg = (*reg & ~mask) | (value & mask);
}

/* Puts the effective address of a plain operand at `ea`, if its registers allow. */
static void aim(struct hd_case *tc, const ZydisDecodedInstruction *zi,
                const ZydisDecodedOperand *op, uint64_t ea)
{
    uint64_t mask = asize_mask(zi), disp = (uint64_t)op->mem.disp.value;
    int base = gpr_index(op->mem.base), index = gpr_index(op->mem.index);
    uint64_t scale = op->mem.scale ? op->mem.scale : 1;
    /* Stack operands have the width of the stack segment. */
    if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN && base == REG_RSP)
        mask = tc->mode == HD_64 ? UINT64_MAX : UINT32_MAX;

    if (base >= 0 && base != index) {
        uint64_t at = index >= 0 ? tc->regs.gpr[index] * scale : 0;

        set_part(&tc->regs.gpr[base], ea - disp - at, mask);
    } else if (index >= 0 && base < 0 && !((ea - disp) % scale)) {
        set_part(&tc->regs.gpr[index], (ea - disp) / scale, mask);
    } else if (base < 0 && index < 0 && zi->raw.disp.size >= 16) {
        bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
        uint64_t v = rip ? ea - tc->regs.rip - tc->len : ea;

        memcpy(tc->code + zi->raw.disp.offset, &v, zi->raw.disp.size / 8u);
    }
}

static void aim_vsib(struct rng *r, struct hd_case *tc, const ZydisDecodedInstruction *zi,
                     const ZydisDecodedOperand *op, uint64_t seg_base)
{
    int base = gpr_index(op->mem.base);
    unsigned index = (uint8_t)ZydisRegisterGetId(op->mem.index) & 31;
    uint64_t scale = op->mem.scale ? op->mem.scale : 1, at;
    bool wild = chance(r, 15), qword;

    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPSCATTERQD:
    case ZYDIS_MNEMONIC_VPSCATTERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
        qword = true;
        break;
    default:
        qword = false;
        break;
    }
    if (base >= 0)
        set_part(&tc->regs.gpr[base], HD_DATA + below(r, PAGE_SIZE) - seg_base, asize_mask(zi));
    at = (base >= 0 ? tc->regs.gpr[base] : 0) + (uint64_t)op->mem.disp.value + seg_base;
    for (unsigned k = 0; k < 16; k++) {
        uint64_t target = HD_DATA + below(r, wild ? 0x6000 : 0x2000);
        uint64_t v = (target - at) / scale;

        if (qword)
            put_le64(tc->fpu.zmm[index] + (k & 7) * 8, v);
        else
            put_le32(tc->fpu.zmm[index] + k * 4, (uint32_t)v);
    }
}

static unsigned operand_bytes(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return 2696;
    default:
        return op->size >= 8 ? op->size / 8u : 1;
    }
}

/*
 * Does a state area go on at address 0? Its parts then lie where nobody puts them, and which of
 * them faults first is past describing: such cases are left out.
 */
static bool area_wraps(const struct hd_case *tc, const ZydisDecodedInstruction *zi,
                       const ZydisDecodedOperand *ops)
{
    const ZydisDecodedOperandMem *m = &ops[0].mem;
    uint64_t mask = asize_mask(zi), ea = (uint64_t)m->disp.value;
    unsigned size = operand_bytes(zi, &ops[0]);

    if (ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        (size <= 64 && zi->mnemonic != ZYDIS_MNEMONIC_FNSTENV &&
         zi->mnemonic != ZYDIS_MNEMONIC_FLDENV))
        return false;
    if (gpr_index(m->base) < 0 && gpr_index(m->index) < 0 && zi->raw.disp.size >= 16) {
        ea = get_le(tc->code + zi->raw.disp.offset, zi->raw.disp.size / 8u); /* see aim() */
        ea = (uint64_t)(int64_t)(int32_t)ea;
        if (m->base != ZYDIS_REGISTER_NONE)
            ea += tc->regs.rip + tc->len;
    }
    if (gpr_index(m->base) >= 0)
        ea += tc->regs.gpr[gpr_index(m->base)];
    if (gpr_index(m->index) >= 0)
        ea += tc->regs.gpr[gpr_index(m->index)] * m->scale;
    return (ea & mask) + size - 1 > mask || (ea & mask) + size < size;
}

static bool locks(const ZydisDecodedInstruction *zi)
{
    return (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK) || zi->mnemonic == ZYDIS_MNEMONIC_XCHG;
}

static void aim_all(struct rng *r, struct hd_case *tc, const ZydisDecodedInstruction *zi,
                    const ZydisDecodedOperand *ops)
{
    for (unsigned k = 0; k < zi->operand_count; k++) {
        const ZydisDecodedOperand *op = &ops[k];
        uint64_t base, target;
        unsigned size;

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        if (operand_bytes(zi, op) <= 128 && chance(r, 3))
            continue; /* anywhere */
        base = segment_base(&tc->regs, tc->mode, op->mem.segment);
        if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
            aim_vsib(r, tc, zi, op, base);
            continue;
        }
        size = operand_bytes(zi, op);
        target = any_target(r, size);
        /* Half of XSAVE's RAX is set once more: up there it might meet the child's stack. */
        if (chance(r, 3) && (size <= 512 || tc->mode != HD_64))
            target = any_edge(r, tc, op->mem.segment, size);
        /* Linux lets a split lock wait ten milliseconds and more, so only few of them. */
        if (locks(zi) && size <= 16 && is_pow2(size) && (target & 63) + size > 64 && chance(r, 98))
            target &= ~(uint64_t)(size - 1);
        aim(tc, zi, op, target - base);
        tc->patch_at = (uint32_t)(target - HD_DATA);
    }
}

/* ---- what particular instructions want in memory and registers
 * ------------------------------------ */

static void patch_area(struct rng *r, struct hd_case *tc, bool xsave)
{
    uint8_t *p = tc->patch;
    struct cpu_fpu f;
    uint64_t bv = 0xe7 & rnd(r);

    any_fpu(r, &f);
    put_le16(p, chance(r, 80) ? f.fcw : (uint16_t)rnd(r));
    put_le16(p + 2, chance(r, 80) ? f.fsw : (uint16_t)rnd(r));
    p[4] = f.ftw;
    put_le16(p + 6, chance(r, 80) ? f.fop : (uint16_t)rnd(r));
    put_le64(p + 8, f.fip);
    put_le64(p + 16, f.fdp);
    put_le32(p + 24, chance(r, 85) ? f.mxcsr : (uint32_t)rnd(r));
    memcpy(p + 32, f.st, 128);
    tc->patch_len = 512;
    if (!xsave)
        return;
    memset(p + 512, 0, 64);
    if (chance(r, 5))
        bv |= BIT(8 + (chance(r, 50) ? 54 : 12) + below(r, 2)); /* in no XCR0 */
    put_le64(p + 512, bv);
    if (chance(r, 5))
        p[528 + below(r, 8)] = 1; /* the reserved part that is checked */
    if (chance(r, 5))
        put_le64(p + 536, rnd(r)); /* the part that is not */
    tc->patch_len = 576;
}

static void patch_words(struct rng *r, struct hd_case *tc, unsigned count, unsigned size,
                        bool selectors)
{
    for (unsigned k = 0; k < count; k++)
        put_le(tc->patch + k * size,
               selectors && k == 1       ? any_selector(r)
               : chance(r, 70) || k == 3 ? HD_CODE * (tc->mode == HD_64) + below(r, 0x2000)
                                         : any_int(r),
               size);
    tc->patch_len = count * size;
}

static void set_special(struct rng *r, struct hd_case *tc, const ZydisDecodedInstruction *zi,
                        const ZydisDecodedOperand *ops)
{
    unsigned osize = zi->operand_width / 8u;
    uint64_t rfbm;

    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        patch_area(r, tc, true);
        /* Components that the child has and the VM has not (PKRU, AMX) stay out of it. */
        rfbm = chance(r, 50) ? 0xe7 : rnd(r) & (BIT(63) | BIT(62) | 0xe7);
        tc->regs.gpr[REG_RAX] = (tc->regs.gpr[REG_RAX] & ~0xffffffffull) | (uint32_t)rfbm;
        tc->regs.gpr[REG_RDX] = rfbm >> 32;
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        patch_area(r, tc, false);
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        put_le32(tc->patch, (uint32_t)rnd(r) & (chance(r, 75) ? 0xffff : 0x1ffff));
        tc->patch_len = 4;
        break;
    case ZYDIS_MNEMONIC_FBLD:
        for (unsigned k = 0; k < 10; k++)
            tc->patch[k] = (uint8_t)(chance(r, 90) ? below(r, 10) << 4 | below(r, 10) : rnd(r));
        tc->patch_len = 10;
        break;
    case ZYDIS_MNEMONIC_FLD:
        any_f80(r, tc->patch);
        if (ops[0].size == 80)
            tc->patch_len = 10;
        break;
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        patch_words(r, tc, 5, osize ? osize : 4, true);
        if (zi->mnemonic != ZYDIS_MNEMONIC_RET) {
            uint64_t flags = rnd(r) & ~(RFLAGS_TF | RFLAGS_VM);

            /*
             * With AC in the image of a misaligned frame the host raises #AC in the middle of IRET,
             * with AC clear, and Linux takes that for a split lock and tries again for ever.
             */
            if (tc->patch_at & (osize - 1))
                flags &= ~RFLAGS_AC;
            if (get_le(tc->patch, osize) == tc->regs.rip) /* it would run twice */
                tc->patch[0] ^= 0x80;
            put_le(tc->patch + 2 * osize, flags, osize);
            put_le(tc->patch + 4 * osize, any_selector(r), osize);
        }
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        put_le64(tc->patch, rnd(r) & ~RFLAGS_TF);
        tc->patch_len = 8;
        break;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
        /* A far call to 64-bit code pushes below 0 then, and Linux retries a write up there for
         * ever. */
        if (tc->mode != HD_64 && tc->regs.gpr[REG_RSP] < 16)
            tc->regs.gpr[REG_RSP] = 16;
        if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR && tc->patch_at) {
            put_le(tc->patch, below(r, 0x2000) + HD_CODE * chance(r, 50), osize);
            put_le16(tc->patch + osize, any_selector(r));
            tc->patch_len = osize + 2;
        } else {
            put_le64(tc->patch, HD_CODE * (tc->mode == HD_64) + below(r, 0x2000));
            tc->patch_len = chance(r, 70) ? 8 : 0;
        }
        if (ops[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
            unsigned at = zi->raw.imm[0].offset, n = zi->raw.imm[0].size / 8u;

            put_le(tc->code + at, below(r, 0x2000) + HD_CODE * chance(r, 50), n);
            put_le16(tc->code + at + n, any_selector(r));
        }
        break;
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
        put_le64(tc->patch, rnd(r));
        put_le16(tc->patch + osize, any_selector(r));
        tc->patch_len = osize + 2;
        break;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_ARPL:
        if (zi->mnemonic != ZYDIS_MNEMONIC_MOV ||
            (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && ops[0].reg.value >= ZYDIS_REGISTER_ES &&
             ops[0].reg.value <= ZYDIS_REGISTER_GS)) {
            put_le16(tc->patch, any_selector(r));
            tc->patch_len = 2;
            for (unsigned k = 0; k < 2; k++)
                if (ops[k].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                    gpr_index(ops[k].reg.value) >= 0 && chance(r, 80))
                    set_part(&tc->regs.gpr[gpr_index(ops[k].reg.value)], any_selector(r), 0xffff);
        }
        break;
    default:
        if (zi->attributes &
            (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
            if (chance(r, 85))
                tc->regs.gpr[REG_RCX] = below(r, 40);
        if (chance(r, 80)) {
            tc->patch_len = 64;
            fill_lanes(r, tc->patch, 64);
        }
        break;
    }
}

/*
 * Does the native side single-step? Not IRET, which loads TF itself: where it lands there is an
 * INT3 or nothing.
 */
static bool steps(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return false;
    default:
        break;
    }
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        return zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
    }
}

/* ---- a case
 * --------------------------------------------------------------------------------------------- */

static void any_bits(struct rng *r, const struct template *t, struct bits *f)
{
    uint64_t v = rnd(r);

    *f = (struct bits){.r = v & 1,
                       .x = v >> 1 & 1,
                       .b = v >> 2 & 1,
                       .r2 = v >> 3 & 1,
                       .v = v >> 4 & 1,
                       .vvvv = v >> 5 & 15,
                       .aaa = v >> 9 & 7,
                       .z = v >> 12 & 1,
                       .mod = v >> 13 & 255,
                       .modrm_rm = v >> 21 & 7,
                       .short_vex = v >> 24 & 1};
    f->rex = chance(r, 60);
    if (chance(r, 40))
        f->vvvv = f->v = 0;
    if (chance(r, 40))
        f->aaa = 0;
    if (!f->aaa || chance(r, 50))
        f->z = 0;
    if (chance(r, 15))
        f->seg = 1 + below(r, 6);
    if (chance(r, 8))
        f->asize = 1;
    if (t->mem && chance(r, 5))
        f->lock = 1;
}

bool gen_case(struct hd_gen *g, const struct hd_group *group, uint64_t seed, uint64_t number,
              struct hd_case *out)
{
    struct rng r = {.s = seed ^ number * 0xd1342543de82ef95ull};
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction zi;
    uint64_t at;

    rnd(&r);
    for (unsigned attempt = 0;; attempt++) {
        const struct template *t = &g->t[group->first + below(&r, group->count)];
        struct bits f = {0};
        uint8_t tail[12];
        unsigned n;

        if (attempt == 60)
            return false;
        for (unsigned k = 0; k < sizeof(tail); k++)
            tail[k] = (uint8_t)rnd(&r);
        any_bits(&r, t, &f);
        memset(out->code, 0, sizeof(out->code));
        n = encode(t, &f, tail, sizeof(tail), out->code);
        if (ZYAN_SUCCESS(
                ZydisDecoderDecodeFull(&g->decoder[group->mode], out->code, n, &zi, ops)) &&
            zi.mnemonic == group->mnemonic && available(g, &zi))
            break;
    }
    out->number = number;
    out->mnemonic = group->mnemonic;
    out->mode = group->mode;
    out->insns = 1;
    out->len = zi.length;
    out->dump = 0;
    out->step = steps(&zi);
    out->patch_at = out->patch_len = 0;
    any_regs(&r, group->mode, &out->regs);
    any_fpu(&r, &out->fpu);

    at = chance(&r, 5)   ? PAGE_SIZE - 1 - below(&r, 14)
         : chance(&r, 4) ? HD_CODE_PAGES * PAGE_SIZE - 1 - below(&r, 14)
                         : below(&r, HD_CODE_PAGES * PAGE_SIZE - 64);
    if (group->mode == HD_64 || out->regs.seg[SEG_CS] == LDT_SEL(LDT_CODE32_FLAT))
        at += HD_CODE;
    if (group->mode == HD_64 && chance(&r, 25))
        at += HD_HIGH;
    out->regs.rip = at;
    aim_all(&r, out, &zi, ops);
    set_special(&r, out, &zi, ops);
    if (!range_ok(out->patch_at, out->patch_len, HD_DATA_BYTES))
        out->patch_len = 0;
    return !area_wraps(out, &zi, ops);
}

/* ---- runs
 * --------------------------------------------------------------------------------------------- */

#define RUN_MAX 6

/* What compilers emit, and the translator writes itself. */
static bool common(const ZydisDecodedInstruction *zi)
{
    static const char names[] =
        " add or adc sbb and sub xor cmp test inc dec neg not rol ror rcl rcr shl shr sar shld shrd"
        " mul imul div idiv cbw cwde cdqe cwd cdq cqo mov movzx movsx movsxd movnti bswap xchg xadd"
        " cmpxchg cmpxchg8b cmpxchg16b bt bts btr btc bsf bsr tzcnt lzcnt popcnt clc stc cmc lahf sahf"
        " lea push pop leave pushfq pushf cld std nop mulx andn blsr pdep rorx shlx adcx adox crc32"
        " movbe movsb movsq stosb stosd lodsb scasb cmpsb movaps movups movdqu movdqa movq movd"
        " movss addsd ucomisd comiss cvtsi2sd cvttsd2si movmskpd pxor pand pcmpeqb pmovmskb vmovdqu"
        " vptest vmovups vpxor vzeroupper vmovd vmovq kmovd kmovq kortestw fld fstp ";
    char name[32];

    snprintf(name, sizeof(name), " %s ", ZydisMnemonicGetString(zi->mnemonic));
    return strstr(names, name) || !strncmp(name, " cmov", 5) || !strncmp(name, " set", 4);
}

/* A branch that says itself where to, in a form that a run may have anywhere. */
static bool relative(const ZydisDecodedInstruction *zi)
{
    return zi->raw.imm[0].is_relative && zi->mnemonic != ZYDIS_MNEMONIC_XBEGIN;
}

/*
 * What cannot be in a run: what needs its memory or registers set, wherever it may go (far transfers,
 * TF from POPF and IRET), state areas.
 */
static bool fits_run(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops, bool last)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
        return false;
    case ZYDIS_MNEMONIC_JMP: /* to the return address of a call before it, for ever */
        if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[0].mem.base == ZYDIS_REGISTER_RSP)
            return false;
        break;
    default:
        break;
    }
    if (relative(zi))
        return true;
    if (steps(zi) || zi->meta.category == ZYDIS_CATEGORY_RET ||
        zi->mnemonic == ZYDIS_MNEMONIC_IRET || zi->mnemonic == ZYDIS_MNEMONIC_IRETD ||
        zi->mnemonic == ZYDIS_MNEMONIC_IRETQ)
        return last && zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
    for (unsigned k = 0; k < zi->operand_count; k++) {
        const ZydisDecodedOperand *op = &ops[k];

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_ES &&
            op->reg.value <= ZYDIS_REGISTER_GS && (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return false;
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB || op->size > 1024))
            return false;
    }
    return true;
}

/* Does it leave the registers alone that point to memory? RSP moves by itself, the counter never. */
static bool keeps(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops,
                  unsigned pointers, bool all)
{
    for (unsigned k = 0; k < zi->operand_count; k++) {
        const ZydisDecodedOperand *op = &ops[k];
        int n;

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        n = decode_gpr(op->reg.value);
        n = n & R_HIGH && n < R_RIP ? n & 3 : n;
        if (n < 16 && pointers >> n & 1 &&
            (all || op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT))
            return false;
    }
    return true;
}

static void find_common(struct hd_gen *g, const struct hd_group *groups, unsigned n)
{
    g->common = calloc(n, sizeof(*g->common));
    g->branches = calloc(n, sizeof(*g->branches));
    if (!g->common || !g->branches)
        abort();
    for (unsigned k = 0; k < n; k++) {
        ZydisDecodedInstruction zi;

        if (!decodes(g, &g->t[groups[k].first], false, &zi))
            continue;
        if (common(&zi))
            g->common[g->ncommon++] = k;
        if (zi.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT ||
            zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR)
            g->branches[g->nbranches++] = k;
    }
}

/* Where memory operands of a run point: seldom where they fault, so that runs go on to their ends. */
static uint64_t run_target(struct rng *r)
{
    unsigned where = below(r, 100);

    if (where < 75)
        return HD_DATA + 0x100 + (below(r, 0x1e00) & ~63u);
    if (where < 85)
        return HD_DATA + 0x1000 - below(r, 24);
    if (where < 90)
        return HD_DATA + 0x3000 + 0x200 + below(r, 0xc00);
    if (where < 94)
        return HD_DATA + 0x2000 - below(r, 72);
    return any_target(r, 8);
}

/* Its memory operand by one of the registers that point somewhere. */
static void aim_bits(struct rng *r, struct bits *f, uint8_t *sib, unsigned pointers, unsigned small)
{
    unsigned p = below(r, 16), index = below(r, 16);

    while (!(pointers >> p & 1))
        p = (p + 1) & 15;
    f->b = p >> 3;
    f->modrm_rm = p & 7;
    f->x = 0;
    *sib = (uint8_t)(below(r, 256) & 0xc0) | 0x20 | (p & 7);
    if (chance(r, 25)) {
        while (!(small >> index & 1))
            index = (index + 1) & 15;
        f->modrm_rm = 4;
        f->x = index >> 3;
        *sib = (uint8_t)((*sib & 0xc0) | (index & 7) << 3 | (p & 7));
        if (index == 4)
            *sib |= 0x20;
    }
}

/* Displacements that stay near; those without a base lead to the data. */
static void fix_disp(struct rng *r, const struct hd_case *tc, uint8_t *code,
                     const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    for (unsigned k = 0; k < zi->operand_count; k++) {
        const ZydisDecodedOperandMem *m = &ops[k].mem;
        uint8_t *p = code + zi->raw.disp.offset;
        bool aligned = locks(zi) || chance(r, 50);

        if (ops[k].type != ZYDIS_OPERAND_TYPE_MEMORY || !zi->raw.disp.size)
            continue;
        if (zi->raw.disp.size == 8) {
            if (aligned && zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
                *p &= 0xc0;
        } else if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
            put_le32(p, (uint32_t)((run_target(r) & ~(aligned ? 63ull : 0)) -
                                   (tc->regs.rip + tc->len + zi->length)));
        } else if (m->base == ZYDIS_REGISTER_NONE) {
            put_le(p, run_target(r) & ~(aligned ? 63ull : 0), zi->raw.disp.size / 8u);
        } else if (zi->raw.disp.size == 32) {
            put_le32(p, (below(r, 0x400) - 0x200) & ~(aligned ? 63u : 0));
        }
    }
}

static bool add_to_run(struct hd_gen *g, struct rng *r, struct hd_group *group, bool last,
                       unsigned pointers, unsigned small, unsigned counter, struct hd_case *out,
                       bool *branch)
{
    const struct template *t = &g->t[group->first + below(r, group->count)];
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction zi;
    struct bits f = {0};
    uint8_t tail[12], code[16] = {0};
    unsigned n;

    for (unsigned k = 0; k < sizeof(tail); k++)
        tail[k] = (uint8_t)rnd(r);
    any_bits(r, t, &f);
    if (t->mem && chance(r, 90))
        aim_bits(r, &f, &tail[0], pointers, small);
    n = encode(t, &f, tail, sizeof(tail), code);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder[HD_64], code, n, &zi, ops)) ||
        zi.mnemonic != group->mnemonic || !available(g, &zi) || !fits_run(&zi, ops, last) ||
        (!keeps(&zi, ops, pointers, false) && chance(r, 85)) || !keeps(&zi, ops, counter, true) ||
        out->len + zi.length > HD_CODE_MAX - 16)
        return false;
    if (counter && (zi.mnemonic == ZYDIS_MNEMONIC_CALL ||
                    (zi.mnemonic == ZYDIS_MNEMONIC_JMP && !relative(&zi))))
        return false; /* a loop ends when its counter says so */
    /* One that finds a return address, and leaves it where it is, would go back for ever. */
    if (out->calls && zi.mnemonic == ZYDIS_MNEMONIC_JMP && !relative(&zi))
        return false;
    out->calls |= zi.mnemonic == ZYDIS_MNEMONIC_CALL;
    fix_disp(r, out, code, &zi, ops);
    memcpy(out->code + out->len, code, zi.length);
    out->len += zi.length;
    *branch = relative(&zi);
    group->done++;
    return true;
}

static bool inside(const struct hd_case *tc, uint64_t at)
{
    return ((at ^ tc->regs.rip) & ~HD_HIGH) < BIT(32) &&
           (at & ~HD_HIGH) - (tc->regs.rip & ~HD_HIGH) < tc->len;
}

/* Branches go forward in the run, or out of it; never back, so that a run ends. */
static void aim_branches(struct rng *r, struct hd_case *tc, const uint8_t *starts, unsigned n,
                         unsigned branches)
{
    for (unsigned k = 0; k < n; k++) {
        unsigned next = starts[k + 1], size = 1, to = starts[k + 1 + below(r, n - k)];
        ZydisDecodedInstruction zi;
        ZydisDecoderContext ctx;
        ZydisDecoder z;
        int64_t disp;

        if (!(branches >> k & 1))
            continue;
        gen_decoder(&z, HD_64);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&z, &ctx, tc->code + starts[k],
                                                        next - starts[k], &zi)))
            continue;
        size = zi.raw.imm[0].size / 8u;
        disp = (int64_t)to - (int64_t)next;
        if (chance(r, 35))
            disp = size == 1 ? (int8_t)rnd(r)
                             : (int64_t)(HD_CODE + below(r, 0x2000) -
                                         (tc->regs.rip & ~HD_HIGH) - next);
        if (size > 1 && chance(r, 5))
            disp = (int32_t)rnd(r);
        if (disp != (int64_t)to - (int64_t)next &&
            inside(tc, tc->regs.rip + next + (uint64_t)disp))
            disp = 0; /* not into the middle of an instruction */
        put_le(tc->code + zi.raw.imm[0].offset + starts[k], (uint64_t)disp, size);
    }
}

static void put_code(struct hd_case *out, const uint8_t *code, unsigned n)
{
    memcpy(out->code + out->len, code, n);
    out->len = (uint8_t)(out->len + n);
}

/* A register moves by a constant: ADD, or LEA, which leaves the flags alone. */
static void put_step(struct rng *r, struct hd_case *out, unsigned reg, int step)
{
    uint8_t rex = (uint8_t)(0x48 | reg >> 3), low = reg & 7;

    if (low == 4 || chance(r, 50))
        put_code(out, (const uint8_t[]){rex, 0x83, (uint8_t)(0xc0 | low), (uint8_t)step}, 4);
    else
        put_code(out,
                 (const uint8_t[]){(uint8_t)(rex | reg >> 3 << 2), 0x8d,
                                   (uint8_t)(0x40 | low << 3 | low), (uint8_t)step},
                 4);
}

/* The end of a loop: its counter goes down, and to the beginning if it is not 0. */
static void put_loop_end(struct rng *r, struct hd_case *out, unsigned counter)
{
    uint8_t rex = (uint8_t)(0x48 | counter >> 3), low = counter & 7;

    if (chance(r, 50))
        put_code(out, (const uint8_t[]){rex, 0xff, (uint8_t)(0xc8 | low)}, 3);
    else
        put_code(out, (const uint8_t[]){rex, 0x83, (uint8_t)(0xe8 | low), 1}, 4);
    put_code(out, (const uint8_t[]){0x75, (uint8_t)-(out->len + 2)}, 2);
}

bool gen_run(struct hd_gen *g, struct hd_group *groups, unsigned ngroups, uint64_t seed,
             uint64_t number, struct hd_case *out)
{
    struct rng r = {.s = seed ^ number * 0xd1342543de82ef95ull};
    static const int8_t steps_by[] = {8, 16, 4, 1, -8, -1, 64, 3, 24, -16, 12, -3};
    unsigned n, pointers = 0, small = 0, branches = 0, counter = 0;
    uint8_t starts[RUN_MAX + 1] = {0};
    bool loop;

    if (!g->common)
        find_common(g, groups, ngroups);
    rnd(&r);
    any_regs(&r, HD_64, &out->regs);
    any_fpu(&r, &out->fpu);
    out->number = number;
    out->mnemonic = 0;
    out->mode = HD_64;
    out->len = out->dump = out->step = 0;
    out->calls = false;
    memset(out->code, 0, sizeof(out->code));
    out->regs.rip = HD_CODE + (chance(&r, 30) ? HD_HIGH : 0) +
                    (chance(&r, 6)   ? PAGE_SIZE - 1 - below(&r, 60)
                     : chance(&r, 3) ? HD_CODE_PAGES * PAGE_SIZE - 1 - below(&r, 60)
                                     : below(&r, HD_CODE_PAGES * PAGE_SIZE - HD_CODE_MAX));
    /* Some registers point to memory, some are small; RSP points more often than not. */
    for (unsigned k = 0; k < 4; k++)
        pointers |= 1u << below(&r, 16);
    if (chance(&r, 85))
        pointers |= 1u << REG_RSP;
    if (chance(&r, 30))
        pointers |= 1u << REG_RBP;
    if (chance(&r, 30))
        pointers |= 1u << REG_RSI | 1u << REG_RDI;
    for (unsigned k = 0; k < 4; k++)
        small |= 1u << below(&r, 16) & ~pointers;
    if (chance(&r, 60))
        small |= 1u << REG_RCX & ~pointers;
    for (unsigned k = 0; k < 16; k++) {
        if (pointers >> k & 1)
            out->regs.gpr[k] = run_target(&r);
        else if (small >> k & 1)
            out->regs.gpr[k] = below(&r, 40);
    }
    loop = chance(&r, 30);
    if (loop) {
        counter = below(&r, 16);
        while (pointers >> counter & 1 || counter == REG_RSP)
            counter = (counter + 1) & 15;
        out->regs.gpr[counter] = 1 + below(&r, chance(&r, 60) ? 40 : 700);
        if (chance(&r, 50))
            small |= 1u << counter;
    }
    if (!small)
        small = 1u << REG_RSP; /* as an index that is none */
    out->patch_at = (uint32_t)(out->regs.gpr[REG_RSP] - HD_DATA);
    out->patch_len = 0;
    if (chance(&r, 60) && range_ok(out->patch_at, 64, HD_DATA_BYTES)) { /* where RET goes */
        for (unsigned k = 0; k < 8; k++)
            put_le64(out->patch + k * 8, HD_CODE + below(&r, 0x2000) + (chance(&r, 30) ? HD_HIGH : 0));
        out->patch_len = 64;
    }

    out->insns = (uint8_t)(2 + below(&r, RUN_MAX - 1));
    for (n = 0; n < out->insns; n++) {
        bool last = n + 1u == out->insns && !loop, made = false, branch = false;
        unsigned kind = below(&r, 100);

        if (loop && chance(&r, 30)) {
            unsigned reg = below(&r, 16);

            while (!(pointers >> reg & 1))
                reg = (reg + 1) & 15;
            put_step(&r, out, reg, steps_by[below(&r, sizeof(steps_by))]);
            made = true;
        }
        for (unsigned attempt = 0; attempt < 60 && !made; attempt++) {
            unsigned at = kind < (last ? 40u : 15u) && g->nbranches
                              ? g->branches[below(&r, g->nbranches)]
                          : kind < 75 && g->ncommon ? g->common[below(&r, g->ncommon)]
                                                    : below(&r, ngroups);

            made = add_to_run(g, &r, &groups[at], last, pointers, small,
                              loop ? 1u << counter : 0, out, &branch);
        }
        if (!made)
            break;
        branches |= (unsigned)branch << n;
        starts[n + 1] = out->len;
    }
    if (n < 2)
        return false;
    out->insns = (uint8_t)n;
    if (loop)
        put_loop_end(&r, out, counter);
    aim_branches(&r, out, starts, n, branches);
    for (unsigned k = 0; k < out->patch_len; k += 8)
        if (inside(out, get_le64(out->patch + k)))
            put_le64(out->patch + k, HD_DATA);
    return true;
}
