/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MOVS CMPS STOS LODS SCAS INS OUTS with and without REP, and XLAT. SDM vol. 1 7.3.9, vol. 2 "REP".
 *
 * A repeated instruction goes by runs: as many elements as lie in one page of each operand, within
 * the address size and the segment, directly in RAM. A run is one host string instruction, which is
 * by definition what the guest's would have done to overlapping operands. Where no run is possible
 * it goes element by element through access_load and access_store. After each run the registers are
 * exact, so that a fault or an interrupt finds the instruction resumable; between runs
 * vcpu->pending is looked at. A host does long copies better than many short ones: runs of MOVS and
 * STOS go on into following pages that are known and that the host has in a row.
 */
#include "engine/interp/int.h"

#include "engine/interp/mode.h"
#include "engine/interp/tlb.h"

enum { STR_MOVS, STR_CMPS, STR_STOS, STR_LODS, STR_SCAS, STR_INS, STR_OUTS };

#define USES_SI(op) ((op) == STR_MOVS || (op) == STR_CMPS || (op) == STR_LODS || (op) == STR_OUTS)
#define USES_DI(op) ((op) != STR_LODS && (op) != STR_OUTS)

/* One operand of the next run. */
struct str_operand {
    gva_t lin;      /* of the first element */
    unsigned count; /* elements of a run; 0: the first one must be accessed alone */
    uint8_t *low;   /* host address of the lowest element of a run of `count` */
};

static unsigned str_op(const struct insn *i)
{
    return i->aux & 7;
}

/*
 * Checks the first element's segment and finds how many elements follow it without a page end, a
 * wrap or a limit between them, at most `max`.
 */
static void operand_find(struct interp *c, const struct insn *i, unsigned seg, uint64_t off,
                         enum access how, uint64_t max, struct str_operand *o)
{
    unsigned size = i->osize, in_page;
    uint64_t room;

    o->lin = seg_linear(c, seg, off, size, how);
    o->low = NULL;
    o->count = 0;
    in_page = o->lin & PAGE_MASK;
    if (in_page > PAGE_SIZE - size)
        return;
    if (c->s.rflags & RFLAGS_DF) {
        room = in_page / size + 1;
        room = min_u64(room, off / size + 1);
        /* Below an element of an expand-down segment there may be the limit. */
        if (!c->code64 && !(c->flat & (1u << seg)))
            room = c->s.seg[seg].attr & SEG_TYPE_EXPAND ? 1 : room;
    } else {
        room = (PAGE_SIZE - in_page) / size;
        room = min_u64(room, (mask_bytes(i->asize) - off) / size + 1);
        if (room > 1 && (mask_bytes(i->asize) - off) / size + 1 == room &&
            (mask_bytes(i->asize) - off + 1) % size)
            room--; /* the last one would wrap in its middle */
        if (!c->code64 && !(c->flat & (1u << seg))) {
            uint64_t limit = c->s.seg[seg].limit;

            if ((c->s.seg[seg].attr & (SEG_TYPE_EXPAND | SEG_TYPE_CODE)) == SEG_TYPE_EXPAND)
                room = 1;
            else if (limit >= off)
                room = min_u64(room, max_u64(1, (limit - off + 1) / size));
            else
                room = 1;
        }
    }
    o->count = (unsigned)min_u64(room, max);
}

/* The run's host address, or a count of 0. */
static void operand_host(struct interp *c, const struct insn *i, enum access how,
                         struct str_operand *o, unsigned count)
{
    gva_t low = o->lin;

    if ((c->s.rflags & RFLAGS_DF) && count > 1) {
        /* A fault is the first element's. */
        access_host(c, o->lin, i->osize, how, c->key);
        low -= (uint64_t)(count - 1) * i->osize;
    }
    o->count = count;
    o->low = access_host(c, low, count * i->osize, how, c->key);
    if (!o->low)
        o->count = 0;
}

/* Moves rSI or rDI by n elements. */
static void advance(struct interp *c, const struct insn *i, unsigned reg, uint64_t n)
{
    uint64_t by = n * i->osize, v = c->s.gpr[reg];

    v = c->s.rflags & RFLAGS_DF ? v - by : v + by;
    reg_set(c, reg, i->asize, v);
}

/* ---- runs: one host instruction each ---- */

/* low: of the lowest element. The host's direction flag is set for the length of the instruction
 * only. */
#define HOST_STRING(df, insn, ...)                                  \
    do {                                                            \
        if (df)                                                     \
            __asm__ volatile("std\n\t" insn "\n\tcld" __VA_ARGS__); \
        else                                                        \
            __asm__ volatile(insn __VA_ARGS__);                     \
    } while (0)

#define BY_SIZE(size, M, ...) \
    switch (size) {           \
    case 1:                   \
        M("b", __VA_ARGS__);  \
        break;                \
    case 2:                   \
        M("w", __VA_ARGS__);  \
        break;                \
    case 4:                   \
        M("l", __VA_ARGS__);  \
        break;                \
    default:                  \
        M("q", __VA_ARGS__);  \
        break;                \
    }

static uint8_t *run_start(uint8_t *low, bool df, unsigned size, unsigned count)
{
    return df ? low + (size_t)(count - 1) * size : low;
}

static void run_movs(bool df, unsigned size, unsigned count, uint8_t *d, uint8_t *s)
{
    uint64_t n = count;

    d = run_start(d, df, size, count);
    s = run_start(s, df, size, count);
#define M(z, unused) HOST_STRING(df, "rep movs" z, : "+D"(d), "+S"(s), "+c"(n) : : "memory", "cc")
    BY_SIZE(size, M, )
#undef M
}

static void run_stos(bool df, unsigned size, unsigned count, uint8_t *d, uint64_t v)
{
    uint64_t n = count;

    d = run_start(d, df, size, count);
#define M(z, unused) HOST_STRING(df, "rep stos" z, : "+D"(d), "+c"(n) : "a"(v) : "memory", "cc")
    BY_SIZE(size, M, )
#undef M
}

/* The number of elements looked at; the flags of the last comparison. */
static unsigned run_scas(bool df, bool ne, unsigned size, unsigned count, uint8_t *d, uint64_t v,
                         uint32_t *flags)
{
    uint64_t n = count, a = v;

    d = run_start(d, df, size, count);
#define M(z, pre) \
    HOST_STRING(df, pre " scas" z FLAGS_SAVE, : "+D"(d), "+c"(n), "+a"(a) : : "memory", "cc")
    if (ne) {
        BY_SIZE(size, M, "repne")
    } else {
        BY_SIZE(size, M, "repe")
    }
#undef M
    *flags = (uint32_t)a;
    return count - (unsigned)n;
}

static unsigned run_cmps(bool df, bool ne, unsigned size, unsigned count, uint8_t *d, uint8_t *s,
                         uint32_t *flags)
{
    uint64_t n = count;
    uint32_t a;

    d = run_start(d, df, size, count);
    s = run_start(s, df, size, count);
#define M(z, pre)                                     \
    HOST_STRING(df, pre " cmps" z FLAGS_SAVE,         \
                : "+D"(d), "+S"(s), "+c"(n), "=&a"(a) \
                :                                     \
                : "memory", "cc")
    if (ne) {
        BY_SIZE(size, M, "repne")
    } else {
        BY_SIZE(size, M, "repe")
    }
#undef M
    *flags = a;
    return count - (unsigned)n;
}

static void compare(unsigned size, uint64_t a, uint64_t b, uint32_t *flags)
{
    uint32_t f;

#define M(z, mod) \
    __asm__("cmp" z " %" mod "2,%" mod "1" FLAGS_SAVE : "=&a"(f) : "r"(a), "r"(b) : "cc")
    switch (size) {
    case 1:
        M("b", "b");
        break;
    case 2:
        M("w", "w");
        break;
    case 4:
        M("l", "k");
        break;
    default:
        M("q", "");
        break;
    }
#undef M
    *flags = f;
}

/* ---- one step: a run, or an element ---- */

#define LONG_RUN 65536 /* bytes: some microseconds */

/* How many bytes from an operand's first on are in a row, at most `most`; its page's at least. */
static size_t in_a_row(struct interp *c, const struct str_operand *o, enum access how, size_t most)
{
    size_t n = PAGE_SIZE - (o->lin & PAGE_MASK);

    while (n < most && tlb_next_page(c, o->lin + n, how) == o->low + n)
        n += PAGE_SIZE;
    return n;
}

/* MOVS and STOS upwards by whole addresses: as many elements as there are in a row. */
static unsigned long_run(struct interp *c, unsigned size, uint64_t max, const struct str_operand *s,
                         const struct str_operand *d)
{
    size_t n = (size_t)min_u64(max, LONG_RUN / size) * size;

    if (s->low)
        n = min_u64(n, in_a_row(c, s, ACCESS_READ, n));
    return (unsigned)(min_u64(n, in_a_row(c, d, ACCESS_WRITE, n)) / size);
}

/*
 * A run of up to `max` elements; 0: not possible here. Segments and pages are looked at in the
 * order of the first element's accesses, so that of two faults the right one is raised: a segment
 * is checked after the operand before it was read, and CMPS begins with ES:rDI. Commits memory and
 * RAX.
 */
static unsigned step_run(struct interp *c, const struct insn *i, uint64_t max, uint32_t *flags)
{
    unsigned op = str_op(i), size = i->osize, count = (unsigned)min_u64(max, PAGE_SIZE);
    bool df = c->s.rflags & RFLAGS_DF, ne = i->flags & INSN_REPNE;
    bool si = USES_SI(op), di = USES_DI(op);
    struct str_operand s = {0}, d = {0};
    enum access dhow = op == STR_CMPS || op == STR_SCAS ? ACCESS_READ : ACCESS_WRITE;

    if (op == STR_CMPS) {
        operand_find(c, i, SEG_ES, reg_get(c, REG_RDI, i->asize), dhow, count, &d);
        if (!d.count)
            return 0;
        access_host(c, d.lin, size, dhow, c->key);
    }
    if (si) {
        operand_find(c, i, i->seg, reg_get(c, REG_RSI, i->asize), ACCESS_READ, count, &s);
        if (!s.count)
            return 0;
        access_host(c, s.lin, size, ACCESS_READ, c->key);
        count = (unsigned)min_u64(count, s.count);
    }
    if (di && op != STR_CMPS) {
        operand_find(c, i, SEG_ES, reg_get(c, REG_RDI, i->asize), dhow, count, &d);
        access_host(c, d.lin, size, dhow, c->key);
    }
    if (di)
        count = (unsigned)min_u64(count, d.count);
    if (!count)
        return 0;
    if (si)
        operand_host(c, i, ACCESS_READ, &s, count);
    if (di)
        operand_host(c, i, dhow, &d, count);
    if ((si && !s.low) || (di && !d.low))
        return 0;
    if (max > count && (op == STR_MOVS || op == STR_STOS) && !df && c->code64 && i->asize == 8)
        count = long_run(c, size, max, &s, &d);
    switch (op) {
    case STR_MOVS:
        run_movs(df, size, count, d.low, s.low);
        return count;
    case STR_STOS:
        run_stos(df, size, count, d.low, c->s.gpr[REG_RAX]);
        return count;
    case STR_LODS:
        reg_set(c, REG_RAX, size, host_load(df ? s.low : s.low + (size_t)(count - 1) * size, size));
        return count;
    case STR_SCAS:
        return run_scas(df, ne, size, count, d.low, c->s.gpr[REG_RAX], flags);
    default:
        return run_cmps(df, ne, size, count, d.low, s.low, flags);
    }
}

static gva_t si_linear(struct interp *c, const struct insn *i)
{
    return seg_linear(c, i->seg, reg_get(c, REG_RSI, i->asize), i->osize, ACCESS_READ);
}

static gva_t di_linear(struct interp *c, const struct insn *i, enum access how)
{
    return seg_linear(c, SEG_ES, reg_get(c, REG_RDI, i->asize), i->osize, how);
}

/* One element. */
static void step_one(struct interp *c, const struct insn *i, uint32_t *flags)
{
    unsigned size = i->osize;
    uint64_t v;

    switch (str_op(i)) {
    case STR_MOVS:
        v = access_load(c, si_linear(c, i), size, c->key);
        access_store(c, di_linear(c, i, ACCESS_WRITE), size, v, c->key);
        break;
    case STR_STOS:
        access_store(c, di_linear(c, i, ACCESS_WRITE), size, c->s.gpr[REG_RAX] & mask_bytes(size),
                     c->key);
        break;
    case STR_LODS:
        reg_set(c, REG_RAX, size, access_load(c, si_linear(c, i), size, c->key));
        break;
    case STR_SCAS:
        compare(size, c->s.gpr[REG_RAX], access_load(c, di_linear(c, i, ACCESS_READ), size, c->key),
                flags);
        break;
    default:
        v = access_load(c, di_linear(c, i, ACCESS_READ), size, c->key);
        compare(size, access_load(c, si_linear(c, i), size, c->key), v, flags);
        break;
    }
}

/* Up to `max` elements; how many were done. */
static unsigned step(struct interp *c, const struct insn *i, uint64_t max, uint32_t *flags)
{
    unsigned n = 0;

    /* Where alignment is checked, each element has its own check. */
    if (max > 1 && (c->key & KEY_MODE) != KEY_USER_ALIGNED)
        n = step_run(c, i, max, flags);
    if (!n) {
        step_one(c, i, flags);
        n = 1;
    }
    return n;
}

/* ---- INS, OUTS ---- */

#define IO_RUN 512 /* bytes */

/* INS checks that its element can be stored before the port is read. */
static unsigned step_io(struct interp *c, const struct insn *i, uint64_t max)
{
    bool in = str_op(i) == STR_INS;
    unsigned size = i->osize, count;
    uint16_t port = (uint16_t)c->s.gpr[REG_RDX];
    enum access how = in ? ACCESS_WRITE : ACCESS_READ;
    struct str_operand o;
    uint8_t buf[IO_RUN];
    uint64_t v = 0;

    if (in)
        operand_find(c, i, SEG_ES, reg_get(c, REG_RDI, i->asize), how, min_u64(max, IO_RUN / size),
                     &o);
    else
        operand_find(c, i, i->seg, reg_get(c, REG_RSI, i->asize), how, min_u64(max, IO_RUN / size),
                     &o);
    count = o.count;
    if (c->s.rflags & RFLAGS_DF)
        count = (unsigned)min_u64(count, 1);
    if (count)
        operand_host(c, i, how, &o, count);
    c->vcpu->access_rip = interp_rip(c);
    interp_sync_clock(c);
    if (count && o.low) {
        uint8_t *from = buf, *to = o.low;
        uint64_t n = (uint64_t)count * size;

        if (!in) {
            run_movs(false, 1, (unsigned)n, buf, o.low);
            vcpu_pio_rep(c->vcpu, port, size, count, buf, true);
            return count;
        }
        vcpu_pio_rep(c->vcpu, port, size, count, buf, false);
        /* The device may have changed the map: the page is asked for once more. */
        access_after_io(c);
        to = access_host(c, o.lin, (unsigned)n, ACCESS_WRITE, c->key);
        if (to)
            run_movs(false, 1, (unsigned)n, to, from);
        else
            access_copy_out(c, o.lin, buf, n, c->key);
        return count;
    }
    if (in) {
        access_probe(c, o.lin, size, ACCESS_WRITE, c->key);
        v = vcpu_in(c->vcpu, port, size);
        access_after_io(c);
        access_store(c, o.lin, size, v, c->key);
    } else {
        v = access_load(c, o.lin, size, c->key);
        vcpu_out(c->vcpu, port, size, (uint32_t)v);
    }
    return 1;
}

/* ---- the handlers ---- */

/* Runs the instruction; false: left before it was complete. */
static __attribute__((noinline)) bool run_string(struct interp *c, const struct insn *i)
{
    unsigned op = str_op(i);
    bool rep = i->flags & (INSN_REP | INSN_REPNE), io = op >= STR_INS;
    uint64_t left = rep ? reg_get(c, REG_RCX, i->asize) : 1;
    uint32_t flags = c->aflags; /* committed when all is done: a fault shows the old ones */

    BEGIN(c, i);
    if (io) /* for no element too */
        io_check(c, (uint16_t)c->s.gpr[REG_RDX], i->osize);
    if (rep && c->code64 && i->asize == 4) {
        /* As on Intel processors: even no element, or a fault at the first, leaves them cut. */
        if (op == STR_MOVS)
            advance(c, i, REG_RSI, 0);
        if (op == STR_MOVS || op == STR_STOS)
            advance(c, i, REG_RDI, 0);
        reg_set(c, REG_RCX, 4, left);
    }
    if (!left)
        return true;
    for (;;) {
        /* Single-stepped, it traps after each element. */
        uint64_t max = c->s.rflags & RFLAGS_TF ? 1 : left;
        unsigned n = io ? step_io(c, i, max) : step(c, i, max, &flags);

        if (USES_SI(op))
            advance(c, i, REG_RSI, n);
        if (USES_DI(op))
            advance(c, i, REG_RDI, n);
        if (rep) {
            left -= n;
            reg_set(c, REG_RCX, i->asize, left);
        }
        if (!rep || !left ||
            ((op == STR_CMPS || op == STR_SCAS) && !(flags & AF_ZF) != !!(i->flags & INSN_REPNE))) {
            c->aflags = flags;
            return true;
        }
        if (interp_boundary_due(c)) {
            c->aflags = flags;
            /* In the frame of what comes now, and until it is complete: vol. 3B section 18.3.1.1.
             */
            c->s.rflags |= RFLAGS_RF;
            if ((c->s.rflags & RFLAGS_TF) && !(c->s.shadow & CPU_SHADOW_MOV_SS))
                c->s.pending_dbg |= BIT(14); /* DR6.BS */
            c->s.shadow = 0; /* it covered the first element, not all of them */
            return false;
        }
    }
}

static void op_string(struct interp *c, const struct insn *i)
{
    if (unlikely(!run_string(c, i))) {
        c->s.rip = interp_rip(c);
        run_incomplete(c);
        return;
    }
    NEXT(c, i);
}

/* MOVS and STOS of one element, the common case without REP, need none of the above. */
static void op_movs_one(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    v = access_load(c, si_linear(c, i), i->osize, c->key);
    access_store(c, di_linear(c, i, ACCESS_WRITE), i->osize, v, c->key);
    advance(c, i, REG_RSI, 1);
    advance(c, i, REG_RDI, 1);
    NEXT(c, i);
}

static void op_stos_one(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    access_store(c, di_linear(c, i, ACCESS_WRITE), i->osize,
                 c->s.gpr[REG_RAX] & mask_bytes(i->osize), c->key);
    advance(c, i, REG_RDI, 1);
    NEXT(c, i);
}

bool prep_string(struct decode *d)
{
    struct insn *out = d->out;
    bool rep = out->flags & (INSN_REP | INSN_REPNE);

    out->aux = d->row->arg;
    /* The source's segment, which may be overridden; ES:rDI may not. */
    for (unsigned n = 0; n < d->zi->operand_count; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];

        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        out->osize = (uint8_t)(op->size / 8);
        if (decode_gpr(op->mem.base) == REG_RSI) {
            out->seg =
                op->mem.segment == ZYDIS_REGISTER_DS || op->mem.segment == ZYDIS_REGISTER_NONE
                    ? SEG_DS
                    : (uint8_t)(op->mem.segment - ZYDIS_REGISTER_ES);
        }
    }
    out->fn = !rep && out->aux == STR_MOVS   ? op_movs_one
              : !rep && out->aux == STR_STOS ? op_stos_one
                                             : op_string;
    return out->seg < SEG_COUNT;
}

/* ---- XLAT ---- */

static void op_xlat(struct interp *c, const struct insn *i)
{
    uint64_t off;
    gva_t a;

    BEGIN(c, i);
    off = (c->s.gpr[REG_RBX] + (uint8_t)c->s.gpr[REG_RAX]) & mask_bytes(i->asize);
    a = seg_linear(c, i->seg, off, 1, ACCESS_READ);
    SET_b(REG_RAX, access_load(c, a, 1, c->key));
    NEXT(c, i);
}

bool prep_xlat(struct decode *d)
{
    for (unsigned n = 0; n < d->zi->operand_count; n++)
        if (d->ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            d->ops[n].mem.segment >= ZYDIS_REGISTER_ES &&
            d->ops[n].mem.segment <= ZYDIS_REGISTER_GS)
            d->out->seg = (uint8_t)(d->ops[n].mem.segment - ZYDIS_REGISTER_ES);
    d->out->fn = op_xlat;
    return true;
}
