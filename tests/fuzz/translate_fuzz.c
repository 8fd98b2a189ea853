/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes as 64-bit code, or as 32- or 16-bit code of compatibility, protected, real and V86 mode in
 * segments of many kinds, decoded, translated at once and run by the translator, and by the
 * interpreter in a second VM: the final state and all of RAM must be the same. The guest has tables that
 * work: exceptions go on behind the first byte of what faulted, with the arithmetic flags cleared (those
 * that are dead at a fault are not kept), and HLT or INT 80h ends the run. What the interpreter does not
 * finish in its budget the translator runs for a moment, and nothing is compared.
 *
 * Nothing outside of RAM may change: the linear addresses that the guest uses are host addresses of a
 * region of its own here, which no engine knows of, so that an address that is not translated shows;
 * RAM and struct bt_vcpu lie between pages without access; and the translator's TLB holds no address
 * outside of RAM.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "tests/unit/engine/interp/rig.h"

#include "base/bytes.h"
#include "engine/bt/bt.h"

enum { HEADER = 24, BUDGET = 3000, FAULTS = 24, TICKS = 150 };

#define LOW_BYTES  0x200000u /* mapped 1:1 by 4 KiB pages, and once more by a large page at HIGH */
#define HIGH       0x600000u
#define IDT_AT     0x10000u
#define HANDLERS   0x11000u /* 32 bytes each */
#define TSS_AT     0x13000u
#define GDT_AT     0x14000u
#define COUNT_AT   0x15000u /* faults that are left */
#define SYSCALL_AT 0x15800u
#define IST_AT     0x18000u
#define PT_AT      (RIG_TABLES + 0x4000)
#define PDPT_AT    (RIG_TABLES + 0x6000) /* of PAE */

/* What header byte 23 chooses. */
enum kind { LONG64, COMPAT32, COMPAT16, LEGACY32, LEGACY16, REAL, V86 };

#define SEL_OF(seg) (0x38u + 8 * (seg)) /* in the GDT, of what the guest begins with */

#define CANARY_AT 0x10000u

struct pair {
    struct rig *interp, *bt;
    uint8_t *canary, *canary_copy; /* at CANARY_AT, up to LOW_BYTES */
    uint8_t *image;                /* of RAM, before a run */
};

static struct pair pair;

static void fail(const char *what)
{
    fprintf(stderr, "translate_fuzz: %s\n", what);
    abort();
}

/* ---- the guest ------------------------------------------------------------------------------- */

static enum kind kind_of(const uint8_t *h)
{
    static const enum kind kinds[8] = {LONG64,   LONG64, COMPAT32, COMPAT16,
                                       LEGACY32, LEGACY16, REAL,   V86};

    return kinds[h[23] >> 4 & 7];
}

static bool is_16(enum kind k)
{
    return k == COMPAT16 || k == LEGACY16 || k == REAL || k == V86;
}

static bool is_long(enum kind k)
{
    return k <= COMPAT16;
}

static bool has_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 ||
           vector == 29 || vector == 30;
}

struct bytes {
    const uint8_t *at;
    size_t n;
};
#define BYTES(array) ((struct bytes){(array), sizeof(array)})

/* A handler ends the case, or skips what faulted, without its error code. */
static void put_code(uint8_t *ram, unsigned vector, struct bytes skip, struct bytes pop,
                     struct bytes end)
{
    uint8_t *p = ram + HANDLERS + vector * 32;

    if (vector == 8 || vector == 0x80) {
        memcpy(p, end.at, end.n);
        return;
    }
    if (has_error(vector)) {
        memcpy(p, pop.at, pop.n);
        p += pop.n;
    }
    memcpy(p, skip.at, skip.n);
}

static void put_handler(uint8_t *ram, unsigned vector)
{
    static const uint8_t skip[] = {
        0x66, 0x81, 0x64, 0x24, 0x10, 0x2a, 0xf7, /* and word [rsp + 16], ~0x8d5 */
        0x48, 0xff, 0x04, 0x24,                   /* inc qword [rsp] */
        0xff, 0x0c, 0x25, 0x00, 0x50, 0x01, 0x00, /* dec dword [COUNT_AT] */
        0x74, 0x02, 0x48, 0xcf,                   /* jz hlt; iretq */
        0xf4,                                     /* hlt */
    };
    static const uint8_t pop[] = {0x48, 0x83, 0xc4, 0x08}; /* add rsp, 8 */
    static const uint8_t end[] = {0x66, 0x81, 0x64, 0x24, 0x18, 0x2a, 0xf7, 0xf4};
    uint8_t *gate = ram + IDT_AT + vector * 16;
    uint32_t at = HANDLERS + vector * 32;

    put_le16(gate, (uint16_t)at);
    put_le16(gate + 2, 8);
    gate[4] = 1; /* IST */
    gate[5] = 0xee;
    put_le16(gate + 6, (uint16_t)(at >> 16));
    put_code(ram, vector, BYTES(skip), BYTES(pop), BYTES(end));
}

/* 32-bit gates; the DS of who faulted may be anything. */
static void put_handler32(uint8_t *ram, unsigned vector)
{
    static const uint8_t skip[] = {
        0x66, 0x81, 0x64, 0x24, 0x08, 0x2a, 0xf7,       /* and word [esp + 8], ~0x8d5 */
        0xff, 0x04, 0x24,                               /* inc dword [esp] */
        0x1e, 0x6a, 0x10, 0x1f,                         /* push ds; push 10h; pop ds */
        0xff, 0x0d, 0x00, 0x50, 0x01, 0x00, 0x1f,       /* dec dword [COUNT_AT]; pop ds */
        0x74, 0x01, 0xcf, 0xf4,                         /* jz hlt; iretd; hlt */
    };
    static const uint8_t pop[] = {0x83, 0xc4, 0x04};
    static const uint8_t end[] = {0x66, 0x81, 0x64, 0x24, 0x0c, 0x2a, 0xf7, 0xf4};
    uint8_t *gate = ram + IDT_AT + vector * 8;

    put_le16(gate, (uint16_t)(HANDLERS + vector * 32));
    put_le16(gate + 2, 0x68);
    put_le32(gate + 4, (HANDLERS & 0xffff0000) | 0xee00);
    put_code(ram, vector, BYTES(skip), BYTES(pop), BYTES(end));
}

/* Interrupt vectors of real mode: CS is HANDLERS' paragraph. */
static void put_handler16(uint8_t *ram, unsigned vector)
{
    static const uint8_t skip[] = {
        0x55, 0x89, 0xe5, 0xff, 0x46, 0x02,     /* push bp; mov bp, sp; inc word [bp + 2] */
        0x81, 0x66, 0x06, 0x2a, 0xf7, 0x5d,     /* and word [bp + 6], ~0x8d5; pop bp */
        0x2e, 0xff, 0x0e, 0x00, 0x40,           /* dec word cs:[COUNT_AT - HANDLERS] */
        0x74, 0x01, 0xcf, 0xf4,                 /* jz hlt; iret; hlt */
    };
    uint8_t *p = ram + HANDLERS + vector * 32;

    put_le16(ram + vector * 4, (uint16_t)(vector * 32));
    put_le16(ram + vector * 4 + 2, HANDLERS >> 4);
    if (vector == 8 || vector == 0x80)
        memcpy(p, "\xf4", 1);
    else
        memcpy(p, skip, sizeof(skip));
}

static void put_tables(uint8_t *ram, bool user, bool global, bool aliases)
{
    uint64_t flags = 7; /* present, writable, user */

    put_le64(ram + RIG_TABLES, (RIG_TABLES + 0x1000) | flags);
    put_le64(ram + RIG_TABLES + 0x1000, (RIG_TABLES + 0x2000) | flags);
    put_le64(ram + RIG_TABLES + 0x2000, PT_AT | flags);
    put_le64(ram + RIG_TABLES + 0x2000 + 2 * 8, 0x400000 | 0x80 | flags); /* no RAM there */
    put_le64(ram + RIG_TABLES + 0x2000 + 3 * 8, aliases ? 0x80 | flags : 0);
    put_le64(ram + PDPT_AT, (RIG_TABLES + 0x2000) | 1);
    for (uint64_t i = 0; i < 512; i++) {
        uint64_t pte = i << PAGE_SHIFT | 3;

        if (i >= IDT_AT >> PAGE_SHIFT && i < (IST_AT >> PAGE_SHIFT) + 1)
            pte |= 0;
        else if (user || (i & 7) == 6)
            pte |= 4;
        if (global && (i & 3) == 1)
            pte |= BIT(8);
        switch (i) { /* among the data pages */
        case 0x22:
            pte &= ~2ull;
            break;
        case 0x24:
            pte &= ~1ull;
            break;
        case 0x26:
            pte |= BIT(63);
            break;
        case 0x28: /* the first page of code again */
            if (aliases)
                pte = RIG_CODE | (pte & PAGE_MASK);
            break;
        case 0x2a:
            pte = 0x500000 | (pte & PAGE_MASK);
            break;
        default:
            break;
        }
        put_le64(ram + PT_AT + i * 8, pte);
    }
}

static void put_descriptor(uint8_t *ram, unsigned sel, const struct cpu_seg *g)
{
    uint64_t limit = g->attr & SEG_ATTR_G ? g->limit >> 12 : g->limit;

    put_le64(ram + GDT_AT + sel, (limit & 0xffff) | (limit >> 16 & 15) << 48 |
                                     (g->base & 0xffffff) << 16 | (g->base >> 24 & 0xff) << 56 |
                                     (uint64_t)(g->attr & 0xf0ff) << 40);
}

static void put_system(uint8_t *ram, struct rig *r, enum kind kind)
{
    static const uint8_t sysret[] = {0x48, 0x0f, 0x07, 0xf4};
    static const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff,
                                   0x00affb000000ffff};

    for (unsigned v = 0; v < 256; v++) {
        if (is_long(kind))
            put_handler(ram, v);
        else if (kind == REAL)
            put_handler16(ram, v);
        else
            put_handler32(ram, v);
    }
    for (unsigned k = 0; k < ARRAY_LEN(gdt); k++)
        put_le64(ram + GDT_AT + k * 8, gdt[k]);
    put_le64(ram + GDT_AT + 0x28, 0x00008b0000000067ull | (uint64_t)TSS_AT << 16);
    put_le64(ram + TSS_AT + 4, IST_AT);
    put_le64(ram + TSS_AT + 0x24, IST_AT);
    put_le32(ram + COUNT_AT, FAULTS);
    memcpy(ram + SYSCALL_AT, sysret, sizeof(sysret));
    if (!is_long(kind))
        put_le32(ram + TSS_AT + 8, 0x10);
    if (kind != LONG64)
        for (unsigned i = 0; i < SEG_COUNT; i++)
            put_descriptor(ram, SEL_OF(i), &r->cs.seg[i]);
    put_le64(ram + GDT_AT + 0x68, 0x00cf9b000000ffff);
    r->cs.gdtr = (struct cpu_dtr){.base = GDT_AT, .limit = 0x6f};
    if (kind == REAL)
        r->cs.idtr = (struct cpu_dtr){.limit = 0x3ff};
    else
    r->cs.idtr = (struct cpu_dtr){.base = IDT_AT, .limit = 0xfff};
    r->cs.tr = rig_seg(0x28, 0x8b, TSS_AT, 0x67);
    r->cs.star = 0x08ull << 32 | 0x10ull << 48;
    r->cs.lstar = SYSCALL_AT;
    r->cs.sfmask = RFLAGS_TF | RFLAGS_IF;
    r->cs.efer |= EFER_SCE | EFER_NXE;
    r->cs.pdpte[0] = is_long(kind) || !(r->cs.cr0 & CR0_PG) ? 0 : (RIG_TABLES + 0x2000) | 1;
}

static uint64_t any_value(uint8_t v)
{
    static const uint64_t values[16] = {
        RIG_DATA,          RIG_DATA + 0x100,   RIG_DATA + 0x800, RIG_DATA + 0xff0,
        RIG_DATA + 0x1000, RIG_DATA + 0x1ff0,  RIG_CODE,         HIGH + RIG_DATA,
        0,                 1,                  0x80000000,       UINT32_MAX,
        UINT64_MAX,        BIT(47) - 0x10,     RIG_DATA + 0x9ff8, 0x400000};

    return values[v & 15] + (v >> 4) * 3;
}

/* An offset in a segment that begins at the data, or an address. */
static uint64_t any_offset(uint8_t v, bool based)
{
    static const uint32_t offsets[16] = {0,      0x100,  0x800,  0xff0,  0x1000, 0x1ff0, 0x8ff0, 0xfff0,
                                         0xfffe, 0xffff, 0x9000, 0x2000, 0x3ffc, 1,      2,      0x10000};

    return based ? offsets[v & 15] + (uint32_t)(v >> 4) * 3 : (uint32_t)any_value(v);
}

/* Does memory have two addresses? */
static bool aliases(const uint8_t *h)
{
    return h[2] & 0x80;
}

/* A data segment of four kinds; `odd` says which of the last one. */
static struct cpu_seg data_segment(unsigned kind, unsigned odd, unsigned attr)
{
    static const uint32_t bases[4] = {0, RIG_DATA, RIG_DATA + 0x120, RIG_DATA};

    switch (kind & 3) {
    case 0:
        return rig_seg(0, (uint16_t)(attr | SEG_ATTR_G), 0, UINT32_MAX);
    case 1:
    case 2:
        return rig_seg(0, (uint16_t)attr, bases[kind & 3], kind & 1 ? 0xffff : 0x8fff);
    default:
        break;
    }
    switch (odd & 3) {
    case 0: /* expands down */
        return rig_seg(0, (uint16_t)(attr | SEG_TYPE_EXPAND), RIG_DATA, 0xfff);
    case 1: /* read-only */
        return rig_seg(0, (uint16_t)(attr & ~(unsigned)SEG_TYPE_WRITE), RIG_DATA, 0xffff);
    case 2: /* all of memory, from elsewhere */
        return rig_seg(0, (uint16_t)(attr | SEG_ATTR_G), RIG_DATA, UINT32_MAX);
    default:
        return rig_seg(0, (uint16_t)(attr & ~(unsigned)SEG_ATTR_P), RIG_DATA, 0xffff);
    }
}

static void choose_segments(struct rig *r, const uint8_t *h, enum kind kind, unsigned dpl)
{
    static const uint8_t at[SEG_COUNT] = {2, 6, 4, 0, 8, 10}; /* ES CS SS DS FS GS */
    struct cpu_state *cs = &r->cs;
    unsigned bits = h[3] | (unsigned)h[4] << 8, attr = dpl << SEG_ATTR_DPL_SHIFT;

    for (unsigned i = 0; i < SEG_COUNT; i++) {
        unsigned how = bits >> at[i] & 3;
        struct cpu_seg *g = &cs->seg[i];

        if (kind == REAL || kind == V86) {
            *g = rig_seg(0, kind == V86 ? 0xf3 : 0x93, i == SEG_CS ? 0x800 : how * RIG_DATA / 2,
                         0xffff);
            if (kind == REAL && i != SEG_CS && how == 3 && (h[4] & 0x20))
                g->limit = UINT32_MAX; /* "unreal" */
            if (i == SEG_SS) /* dead flags that are pushed must not become code */
                g->base = RIG_DATA + how * 0x3800;
            g->selector = (uint16_t)(g->base >> 4);
            continue;
        }
        if (i == SEG_CS) {
            *g = data_segment(0, 0, attr | 0x9b | (is_16(kind) ? 0 : SEG_ATTR_DB));
            if (how == 1)
                *g = rig_seg(0, g->attr & ~SEG_ATTR_G, 0x800, 0xffff);
            else if (how == 2)
                *g = rig_seg(0, g->attr & ~SEG_ATTR_G, 0, RIG_CODE + 0x1004);
            else if (how == 3)
                *g = rig_seg(0, g->attr & ~SEG_ATTR_G, RIG_CODE, 0x1fff);
        } else {
            *g = data_segment(how, h[4] >> 5, attr | 0x93 | (h[4] & 0x10 ? SEG_ATTR_DB : 0));
            if (i == SEG_SS && !(g->attr & SEG_ATTR_P))
                g->attr |= SEG_ATTR_P;
        }
        g->selector = (uint16_t)(SEL_OF(i) | dpl);
    }
}

/* What is not 64-bit code, after what both have in common. */
static void choose_legacy(struct rig *r, const uint8_t *h, enum kind kind)
{
    /* Near BT_WINDOW_EDGE, and where the stack's window is. */
    static const uint32_t stacks[4] = {RIG_STACK, 0x180000, 0x100010, 0x180ff4};
    struct cpu_state *cs = &r->cs;
    uint32_t code = RIG_CODE + (h[22] & 3 ? 0 : PAGE_SIZE - 1 - (h[22] >> 2));

    if (!is_long(kind)) {
        cs->efer = 0;
        cs->cr3 = PDPT_AT;
        if (kind == REAL)
            cs->cr0 &= ~(CR0_PE | CR0_PG | CR0_WP);
        else if (h[0] & 0x40)
            cs->cr0 &= ~CR0_PG;
    }
    /* The 32-bit handlers do not work on a stack of 16 bits. */
    choose_segments(r, h, kind,
                    kind == V86 || (h[0] & 1) || (!is_long(kind) && !(h[4] & 0x10)) ? 3 : 0);
    if (kind == V86) {
        cs->rflags &= ~(RFLAGS_IOPL | RFLAGS_AC);
        cs->rflags |= RFLAGS_VM | (h[2] & 8 ? RFLAGS_IOPL : 0);
    }
    for (unsigned i = 0; i < 8; i++)
        cs->gpr[i] = any_offset(h[6 + i], cs->seg[SEG_DS].base != 0);
    if ((h[5] & 0x40) && is_16(kind)) /* in range of real segments */
        for (unsigned i = REG_RBX; i <= REG_RDI; i++)
            cs->gpr[i] &= 0x7fff;
    if (!(h[2] & 0x20))
        cs->gpr[REG_RSP] = cs->seg[SEG_SS].base || is_16(kind) ? 0xf000u - (h[15] & 1)
                                                                        : stacks[h[15] >> 1 & 3];
    if ((h[16] & 7) == 7) /* upper halves, left by 64-bit code */
        cs->gpr[h[16] >> 3 & 7] |= 0xabcd00000000;
    cs->rip = code - cs->seg[SEG_CS].base;
}

static void choose_state(struct rig *r, const uint8_t *h)
{
    struct cpu_state *cs = &r->cs;
    bool user = h[0] & 1;

    rig_protected(r, true);
    cs->cr0 |= CR0_PG | CR0_WP | (h[0] & 2 ? CR0_TS : 0) | (h[0] & 4 ? CR0_AM : 0) |
               (h[0] & 8 ? CR0_MP : 0) | ((h[0] & 0x30) == 0x30 ? CR0_EM : 0);
    /* The translator finds FDP by the page: any of its addresses. Without NE x87 is not translated. */
    if (aliases(h))
        cs->cr0 &= ~CR0_NE;
    cs->cr3 = RIG_TABLES;
    cs->cr4 = CR4_PAE | (h[1] & 1 ? 0 : CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT) |
              (h[1] & 2 ? CR4_FSGSBASE : 0) | (h[1] & 4 ? CR4_PGE : 0) |
              ((h[1] & 0x18) == 0x18 ? CR4_SMAP : 0) | ((h[1] & 0x60) == 0x60 ? CR4_UMIP : 0) |
              (h[1] & 0x80 ? CR4_TSD : 0);
    cs->xcr0 = h[2] & 1 ? 1 : r->model.xcr0_mask;
    cs->efer = EFER_LME | EFER_LMA;
    cs->seg[SEG_CS] = user ? rig_seg(0x23, SEG_ATTR_G | SEG_ATTR_L | 0xfb, 0, UINT32_MAX)
                           : rig_seg(8, SEG_ATTR_G | SEG_ATTR_L | 0x9b, 0, UINT32_MAX);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            cs->seg[i] = user ? rig_seg(0x1b, SEG_ATTR_G | SEG_ATTR_DB | 0xf3, 0, UINT32_MAX)
                              : rig_seg(0x10, SEG_ATTR_G | SEG_ATTR_DB | 0x93, 0, UINT32_MAX);
    cs->seg[SEG_FS].base = any_value(h[3]);
    cs->seg[SEG_GS].base = any_value(h[4]);
    cs->rflags = RFLAGS_ONE | (h[5] & 1 ? RFLAGS_CF : 0) | (h[5] & 2 ? RFLAGS_ZF : 0) |
                 (h[5] & 4 ? RFLAGS_OF | RFLAGS_SF : 0) | (h[5] & 8 ? RFLAGS_PF | RFLAGS_AF : 0) |
                 ((h[5] & 0x30) == 0x30 ? RFLAGS_DF : 0) | ((h[5] & 0xc0) == 0xc0 ? RFLAGS_AC : 0);
    if ((h[2] & 6) == 6)
        cs->rflags |= RFLAGS_TF;
    if ((h[2] & 0x18) == 0x18)
        cs->rflags |= RFLAGS_IOPL;
    for (unsigned i = 0; i < 16; i++)
        cs->gpr[i] = any_value(h[6 + i]);
    if (!(h[2] & 0x20))
        cs->gpr[REG_RSP] = RIG_STACK;
    for (unsigned i = 0; i < 32; i++)
        for (unsigned k = 0; k < 64; k++)
            cs->fpu.zmm[i][k] = (uint8_t)(h[k % HEADER] + i * 7);
    /* The code lies so that some inputs cross a page. */
    cs->rip = (aliases(h) && h[2] & 0x40 ? HIGH : 0) + RIG_CODE + (h[22] & 3 ? 0 : PAGE_SIZE - 1 - (h[22] >> 2));
    if (kind_of(h) != LONG64)
        choose_legacy(r, h, kind_of(h));
}

/* ---- code ---------------------------------------------------------------------------------------- */

struct builder {
    const uint8_t *in;
    size_t left;
    uint8_t *out;
    size_t n, max;
    enum kind kind;
    uint32_t rip; /* of the first byte */
};

static uint8_t next(struct builder *b)
{
    if (!b->left)
        return 0;
    b->left--;
    return *b->in++;
}

static void put(struct builder *b, unsigned byte)
{
    if (b->n < b->max)
        b->out[b->n++] = (uint8_t)byte;
}

/* ModRM and what follows it; memory mostly near where registers point. */
static void put_modrm(struct builder *b)
{
    uint8_t m = next(b), how = next(b);
    unsigned mod = m >> 6, rm = m & 7;

    if (is_16(b->kind) && !(how & 0x40)) { /* else as after prefix 67, or it is nonsense */
        if (mod != 3 && how & 0x80)
            m = (uint8_t)(0x40 | (m & 0x3f)), mod = 1;
        put(b, m);
        if (mod == 1)
            put(b, how & 8 ? next(b) : (next(b) & 0x78));
        if (mod == 2 || (mod == 0 && rm == 6)) {
            put(b, next(b) & 0xf8);
            put(b, how & 0x30);
        }
        return;
    }
    if (mod != 3 && how & 0x80) {
        static const uint8_t bases[] = {3, 4, 5, 6, 7, 1, 2, 0};

        m = (uint8_t)(0x40 | (m & 0x38) | bases[how >> 4 & 7]);
        mod = 1;
        rm = m & 7;
    }
    put(b, m);
    if (mod != 3 && rm == 4) {
        uint8_t sib = next(b);

        put(b, how & 0x80 ? 0x24 | (sib & 0xc0) : sib);
    }
    if (mod == 1) {
        put(b, how & 8 ? next(b) : (next(b) & 0x78));
    } else if (mod == 2 || (mod == 0 && rm == 5)) {
        put(b, next(b) & 0xf8);
        put(b, how & 3);
        put(b, mod == 0 ? 2 : 0); /* RIP-relative: among the data */
        put(b, 0);
    }
}

static void put_immediate(struct builder *b, unsigned bytes)
{
    for (unsigned k = 0; k < bytes; k++)
        put(b, next(b));
}

static void put_prefixes(struct builder *b)
{
    static const uint8_t old[16] = {0, 0, 0, 0x66, 0x66, 0xf0, 0xf3, 0xf2, 0x64, 0x65, 0x67, 0x26, 0x2e, 0x36, 0x3e, 0};
    static const uint8_t legacy[16] = {0, 0, 0, 0, 0x66, 0x66, 0x66, 0xf0, 0xf0, 0xf3, 0xf2, 0x64,
                                       0x65, 0x67, 0, 0};
    uint8_t p = next(b);

    if (b->kind != LONG64) {
        if (old[p & 15])
            put(b, old[p & 15]);
        return;
    }
    if (legacy[p & 15])
        put(b, legacy[p & 15]);
    if (p & 0x10)
        put(b, 0x40 | p >> 5 | (next(b) & 8));
}

/* A 16- or 32-bit constant. */
static void put_word(struct builder *b, uint32_t v)
{
    put(b, v);
    put(b, v >> 8);
    if (!is_16(b->kind)) {
        put(b, v >> 16);
        put(b, v >> 24);
    }
}

/* What 64-bit code does not have, or has in another way. False: nothing of that. */
static bool build_old(struct builder *b, uint8_t kind, uint8_t v)
{
    static const uint8_t one[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60,
                                  0x61, 0xce, 0xd6, 0xd7, 0x50, 0x51, 0x53, 0x54, 0x56, 0x58, 0x59, 0x5b,
                                  0x5c, 0x5e, 0x5f, 0x40, 0x41, 0x44, 0x48, 0x4c, 0x4f, 0x9c, 0x9d, 0xc9,
                                  0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xad, 0xc3, 0xcb, 0xfa, 0xfb, 0xfc, 0x98,
                                  0x99, 0x9f};
    unsigned dpl = 0;

    switch (kind & 15) {
    case 8:
        if (!(kind & 0x20))
            put(b, 0x0f);
        put(b, kind & 0x20 ? (kind & 0x10 ? 0xe8 : 0xe9) : 0x80 | (v & 15));
        put_word(b, (next(b) & 0x3fu) | (kind & 0x80 ? 0x1000 : 0));
        return true;
    case 9: /* to an address of code in a register */
        put(b, 0xb8 | (v & 3));
        put_word(b, b->rip + (uint32_t)b->n + 4 + (next(b) & 0x3f) + (kind & 0x80 ? 0x1000 : 0));
        if (kind & 0x40) {
            put(b, 0x50 | (v & 3));
            put(b, 0xc3 - (v >> 7)); /* RET n: the next two bytes */
            return true;
        }
        put(b, 0xff);
        put(b, (kind & 0x10 ? 0xd0 : 0xe0) | (v & 3));
        return true;
    case 12: /* LOOP, JCXZ */
        put_prefixes(b);
        put(b, 0xe0 | (v & 3));
        put(b, v & 0x80 ? v : v >> 2 & 0x1f);
        return true;
    case 13: /* absolute moves, and segment registers: a selector that is good, most of the time */
        if (kind & 0x10) {
            put_prefixes(b);
            put(b, 0xa0 | (v & 3));
            put_word(b, (next(b) & 0xf8u) | (b->kind == COMPAT32 ? RIG_DATA : 0));
            return true;
        }
        dpl = v & 0x40 ? 3 : 0;
        put(b, 0xb8);
        put_word(b, b->kind == REAL || b->kind == V86 ? (v & 0x3fu) << 8 : SEL_OF(v % SEG_COUNT) | dpl);
        put(b, 0x8e);
        put(b, 0xc0 | (kind >> 5 & 7) % SEG_COUNT << 3);
        return true;
    case 14:
        put_prefixes(b);
        put(b, one[v % sizeof(one)]);
        return true;
    case 15:
        put(b, 0xb8 | (v & 7));
        put_word(b, (uint32_t)any_offset(next(b), true));
        return true;
    default:
        return false;
    }
}

/* What drops translations: CR3 as it is, or one page. */
static void put_flush(struct builder *b, uint8_t v)
{
    static const uint8_t reload[] = {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}; /* by rax */

    if (v & 1) {
        for (unsigned k = 0; k < sizeof(reload); k++)
            put(b, reload[k]);
        return;
    }
    put(b, 0x0f); /* invlpg [register + disp8] */
    put(b, 0x01);
    put(b, 0x78 | (v >> 1 & 3) | (v & 0x10 ? 4 | 2 : 0));
    put(b, v & 0x60);
}

static void build_one(struct builder *b)
{
    static const uint8_t one[] = {0x50, 0x51, 0x53, 0x54, 0x56, 0x57, 0x58, 0x59, 0x5b, 0x5c, 0x5e, 0x5f,
                                  0x90, 0x98, 0x99, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa4, 0xa5, 0xaa, 0xab,
                                  0xa6, 0xac, 0xc9, 0xc3, 0xf5, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xf4};
    static const uint8_t map0[] = {0x01, 0x03, 0x09, 0x0b, 0x11, 0x13, 0x19, 0x1b, 0x21, 0x23, 0x29, 0x2b,
                                   0x31, 0x33, 0x39, 0x3b, 0x63, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a,
                                   0x8b, 0x8d, 0x8f, 0xd0, 0xd1, 0xd2, 0xd3, 0xf6, 0xf7, 0xfe, 0xff, 0x8c,
                                   0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0x8e, 0x00, 0x38};
    static const uint8_t map0_imm8[] = {0x80, 0x83, 0xc0, 0xc1, 0xc6, 0x6b};
    uint8_t kind = next(b), v = next(b);

    if (b->kind != LONG64 && build_old(b, kind, v))
        return;
    switch (kind & 15) {
    case 0:
        put(b, v);
        return;
    case 1:
    case 2:
        put_prefixes(b);
        put(b, map0[v % sizeof(map0)]);
        put_modrm(b);
        return;
    case 3:
        put_prefixes(b);
        put(b, map0_imm8[v % sizeof(map0_imm8)]);
        put_modrm(b);
        put(b, next(b));
        return;
    case 4: /* map 0F: anything */
    case 5:
        put_prefixes(b);
        put(b, 0x0f);
        put(b, v);
        put_modrm(b);
        if (v == 0xba || v == 0xa4 || v == 0xac || (v & 0xf8) == 0x70 || v == 0xc2 || v == 0xc6)
            put(b, next(b));
        return;
    case 6: /* 0F 38, 0F 3A */
        if (kind & 0x10)
            put(b, 0x66);
        put(b, 0x0f);
        put(b, kind & 0x20 ? 0x3a : 0x38);
        put(b, v);
        put_modrm(b);
        if (kind & 0x20)
            put(b, next(b));
        return;
    case 7: /* branches within the page, forward mostly */
        put(b, kind & 0x10 ? 0xeb : 0x70 | (kind >> 4));
        put(b, v & 0x80 ? v : v & 0x1f);
        return;
    case 8:
        if (!(kind & 0x20))
            put(b, 0x0f);
        put(b, kind & 0x20 ? (kind & 0x10 ? 0xe8 : 0xe9) : 0x80 | (v & 15));
        put(b, next(b) & 0x3f);
        put(b, kind & 0x80 ? 0x10 : 0);
        put(b, 0);
        put(b, 0);
        return;
    case 9: /* indirect branches: to a register that LEA made an address of code */
        put(b, 0x48);
        put(b, 0x8d);
        put(b, 0x05 | (v & 3) << 3);
        put(b, next(b) & 0x3f);
        put(b, kind & 0x80 ? 0x10 : 0);
        put(b, 0);
        put(b, 0);
        if (kind & 0x40) {
            put(b, 0x50 | (v & 3));
            put(b, 0xc3);
            return;
        }
        put(b, 0xff);
        put(b, (kind & 0x10 ? 0xd0 : 0xe0) | (v & 3));
        return;
    case 10: /* VEX */
    case 11:
        put(b, 0xc4);
        put(b, (next(b) & 0xe0) | (1 + (kind >> 4) % 3));
        put(b, next(b));
        put(b, v);
        put_modrm(b);
        if ((kind >> 4) % 3 == 2)
            put(b, next(b));
        return;
    case 12: /* EVEX */
    case 13:
        put(b, 0x62);
        put(b, (next(b) & 0xf0) | (1 + (kind >> 4) % 3));
        put(b, next(b) | 4);
        put(b, next(b));
        put(b, v);
        put_modrm(b);
        if ((kind >> 4) % 3 == 2)
            put(b, next(b));
        return;
    case 14:
        if ((kind & 0xc0) == 0xc0) {
            put_flush(b, v);
            return;
        }
        put_prefixes(b);
        put(b, one[v % sizeof(one)]);
        return;
    default: /* constants */
        put(b, 0x48 | (kind >> 4 & 1));
        put(b, 0xb8 | (v & 7));
        put_immediate(b, 2);
        put(b, kind & 0x20 ? 2 : 0);
        for (unsigned k = 0; k < 5; k++)
            put(b, 0);
        return;
    }
}

/* The input as it is, or as a recipe for instructions. */
static size_t make_code(uint8_t *out, size_t max, const uint8_t *data, size_t size, uint64_t rip)
{
    struct builder b = {.in = data + HEADER,
                        .left = size - HEADER,
                        .out = out,
                        .max = max,
                        .kind = kind_of(data),
                        .rip = (uint32_t)rip};

    if (data[23] & 8) {
        size_t len = size - HEADER < max ? size - HEADER : max;

        memcpy(out, data + HEADER, len);
        return len;
    }
    while (b.left && b.n < max)
        build_one(&b);
    return b.n;
}

/* Every input begins with the same RAM, but for what it says itself. */
static void load(struct rig *r, uint8_t *ram, const uint8_t *data, size_t size)
{
    static const uint8_t end[] = {0xcd, 0x80, 0xf4};
    size_t len;
    uint64_t at;

    choose_state(r, data);
    put_system(ram, r, kind_of(data));
    put_tables(ram, data[0] & 1, data[1] & 4, aliases(data));
    at = (r->cs.rip + (kind_of(data) == LONG64 ? 0 : r->cs.seg[SEG_CS].base)) & (LOW_BYTES - 1);
    memset(ram + RIG_CODE, 0xf4, 0x4000);
    len = make_code(ram + at, 0x2000, data, size, r->cs.rip);
    memcpy(ram + at + len, end, sizeof(end));
    for (size_t k = 0; k < 0x10000; k++)
        ram[RIG_DATA + k] = (uint8_t)(data[k % size] + k / size);
}

/* ---- running ------------------------------------------------------------------------------------ */

static struct vcpu *volatile running;
static volatile unsigned ticks, last_tick;

/* A run that does not end is asked to, as a machine's main thread would. */
static void on_timer(int sig)
{
    (void)sig;
    if (running && ++ticks >= last_tick) {
        atomic_fetch_or(&running->pending, PEND_EXIT);
        running->vm->engine->kick(running);
    }
}

/* Guest code has the guest's stack pointer: no handler may run on it, libFuzzer's neither. */
static void move_handlers(void)
{
    struct sigaction sa;

    for (int sig = 1; sig < 32; sig++)
        if (!sigaction(sig, NULL, &sa) && sa.sa_handler != SIG_DFL && sa.sa_handler != SIG_IGN &&
            !(sa.sa_flags & SA_ONSTACK)) {
            sa.sa_flags |= SA_ONSTACK;
            sigaction(sig, &sa, NULL);
        }
}

static void run(struct rig *r, uint64_t budget, unsigned after)
{
    struct itimerval in = {.it_value.tv_usec = 10000, .it_interval.tv_usec = 10000}, off = {0};
    struct sigaction sa = {.sa_handler = on_timer, .sa_flags = SA_ONSTACK | SA_RESTART};

    sigaction(SIGVTALRM, &sa, NULL);
    move_handlers();
    ticks = 0;
    last_tick = after;
    running = r->vcpu;
    setitimer(ITIMER_VIRTUAL, &in, NULL);
    r->vm.engine->kick(r->vcpu); /* one poll that finds nothing */
    rig_run(r, budget);
    setitimer(ITIMER_VIRTUAL, &off, NULL);
    running = NULL;
    atomic_fetch_and(&r->vcpu->pending, ~PEND_EXIT);
}

/* ---- what must hold ------------------------------------------------------------------------------ */

static void check_host(const struct pair *p)
{
    const struct bt_vcpu *v = bt_of(interp_of(p->bt->vcpu));
    uint64_t ram = (uint64_t)(uintptr_t)p->bt->vm.ram.host;

    if (memcmp(p->canary, p->canary_copy, LOW_BYTES - CANARY_AT))
        fail("host memory has changed at an address of the guest's");
    for (unsigned t = 0; t < BT_TABLES; t++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            for (unsigned how = 0; how < 2; how++) {
                const struct bt_entry *e = &v->tlb[t].at[i];

                if (TLB_SLOT(e->tag[how]) == i &&
                    (e->page - ram >= RIG_RAM || (e->page & PAGE_MASK) ||
                     e->tag[how] + e->addend != e->page))
                    fail("a TLB entry leads out of RAM");
            }
}

/* Accessed and dirty bits of page tables come and go with the TLB. */
static void mask_tables(uint8_t *ram)
{
    for (unsigned k = RIG_TABLES; k < RIG_TABLES + 0x5000; k += 8)
        ram[k] &= (uint8_t)~0x60;
}

static void mask_state(struct cpu_state *cs)
{
    cs->icount = 0;
    if (cs->activity == CPU_SHUTDOWN) /* of an exception: dead ones */
        cs->rflags &= ~RFLAGS_ARITH;
}

/*
 * Without a stack of its own, an exception whose delivery faults leaves flags behind, dead ones too.
 * It ends as #DF, or worse.
 */
static bool pushed_in_vain(const struct rig *r)
{
    const struct interp *c = interp_of(r->vcpu);

    return r->stop == VCPU_STOP_SHUTDOWN ||
           (c->last_exc_n && c->last_exc[(c->last_exc_n - 1) % ARRAY_LEN(c->last_exc)].vector == 8);
}

static void compare(struct pair *p, enum kind kind)
{
    struct cpu_state *a = &p->interp->cs, *b = &p->bt->cs;
    static const struct {
        const char *name;
        size_t at, len;
    } parts[] = {
#define PART(m) {#m, offsetof(struct cpu_state, m), sizeof(((struct cpu_state *)0)->m)}
        PART(gpr), PART(rip),      PART(rflags), PART(seg), PART(cr0), PART(cr2),
        PART(cr3), PART(fpu), PART(activity),
#undef PART
    };

    if (p->interp->stop != p->bt->stop)
        fail(p->bt->stop == VCPU_STOP_KICK ? "the translator does not end" : "stops differ");
    mask_state(a);
    mask_state(b);
    for (size_t k = 0; k < ARRAY_LEN(parts); k++)
        if (memcmp((const char *)a + parts[k].at, (const char *)b + parts[k].at, parts[k].len)) {
            fprintf(stderr, "rip %llx and %llx, rflags %llx and %llx\n", (unsigned long long)a->rip,
                    (unsigned long long)b->rip, (unsigned long long)a->rflags,
                    (unsigned long long)b->rflags);
            for (unsigned i = 0; i < SEG_COUNT; i++)
                if (memcmp(&a->seg[i], &b->seg[i], sizeof(a->seg[i])))
                    fprintf(stderr, "segment %u: %x and %x\n", i, a->seg[i].selector,
                            b->seg[i].selector);
            for (unsigned i = 0; i < 16; i++)
                if (a->gpr[i] != b->gpr[i])
                    fprintf(stderr, "gpr %u: %llx and %llx\n", i, (unsigned long long)a->gpr[i],
                            (unsigned long long)b->gpr[i]);
            fail(parts[k].name);
        }
    if (memcmp(a, b, sizeof(*a)))
        fail("other state differs");
    if (!is_long(kind) && pushed_in_vain(p->interp))
        return;
    mask_tables(p->interp->vm.ram.host);
    mask_tables(p->bt->vm.ram.host);
    for (unsigned k = 0; k < RIG_RAM; k += PAGE_SIZE)
        if (memcmp(p->interp->vm.ram.host + k, p->bt->vm.ram.host + k, PAGE_SIZE)) {
            while (p->interp->vm.ram.host[k] == p->bt->vm.ram.host[k])
                k++;
            fprintf(stderr, "RAM at %x: %02x and %02x\n", k, p->interp->vm.ram.host[k],
                    p->bt->vm.ram.host[k]);
            fail("RAM differs");
        }
}

/* ---- set-up ----------------------------------------------------------------------------------------- */

/* Pages without access on both sides, if nothing is there yet. */
static void fence(const void *at, size_t len)
{
    const uint8_t *p = at;

    mmap((void *)(uintptr_t)(p - PAGE_SIZE), PAGE_SIZE, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    mmap((void *)(uintptr_t)(p + align_up(len, PAGE_SIZE)), PAGE_SIZE, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

/* What a leak checker would miss. */
static void free_pair(void)
{
    rig_free(pair.interp);
    rig_free(pair.bt);
    free(pair.image);
    free(pair.canary_copy);
}

static void make_pair(struct pair *p)
{
    p->interp = rig_new_engine("max", &engine_interp, CLOCK_MANUAL);
    p->bt = rig_new_engine("max", &engine_bt, CLOCK_MANUAL);
    /* Random numbers are nobody's equal. */
    p->interp->model.features[FEAT_RDRAND / 64] &= ~BIT(FEAT_RDRAND % 64);
    p->interp->model.features[FEAT_RDSEED / 64] &= ~BIT(FEAT_RDSEED % 64);
    memcpy(p->bt->model.features, p->interp->model.features, sizeof(p->bt->model.features));
    p->image = calloc(1, RIG_RAM);
    p->canary_copy = malloc(LOW_BYTES - CANARY_AT);
    p->canary = mmap((void *)(uintptr_t)CANARY_AT, LOW_BYTES - CANARY_AT, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (p->canary == MAP_FAILED || !p->image || !p->canary_copy)
        fail("cannot get memory");
    for (size_t k = 0; k < LOW_BYTES - CANARY_AT; k++)
        p->canary[k] = p->canary_copy[k] = (uint8_t)(k * 7 + k / 251);
    atexit(free_pair);
    fence(p->bt->vm.ram.host, RIG_RAM);
    fence(p->bt->vcpu->engine, sizeof(struct bt_vcpu));
}

/* As if the VM were new. */
static void start(struct rig *r, const uint8_t *image)
{
    struct interp *c = interp_of(r->vcpu);

    for (unsigned k = 0; k < RIG_RAM; k += PAGE_SIZE)
        if (memcmp(r->vm.ram.host + k, image + k, PAGE_SIZE))
            memcpy(r->vm.ram.host + k, image + k, PAGE_SIZE);
    ram_written(&r->vm, 0, RIG_RAM);
    blocks_flush(c);
    c->last_exc_n = 0;
    atomic_store(&r->vcpu->pending, 0);
}

static void start_bt(struct rig *r, const uint8_t *h)
{
    struct bt_vcpu *v = bt_of(interp_of(r->vcpu));

    v->bt->warm = 1 + (h[23] >> 2 & 1);
    v->bt->anywhere = h[0] & 0x80;
    bt_cache_flush(v);
    memset(v->runs, 0, sizeof(v->runs));
    if ((h[23] & 3) == 3) /* full soon */
        v->bt->hot = BT_COLD - (20u << 10);
    if (h[23] & 0x10) { /* more has been filled than is remembered */
        for (unsigned t = 0; t < BT_TABLES; t++)
            v->log[t].n = BT_LOG + 1;
        v->local_log.n = v->exec_log[0].n = v->exec_log[1].n = BT_LOG + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool ends;

    if (size < HEADER + 1)
        return 0;
    if (!pair.bt)
        make_pair(&pair);
    load(pair.interp, pair.image, data, size);
    pair.bt->cs = pair.interp->cs;
    start(pair.interp, pair.image);
    start(pair.bt, pair.image);
    start_bt(pair.bt, data);
    run(pair.interp, BUDGET, TICKS);
    ends = pair.interp->stop == VCPU_STOP_HALT || pair.interp->stop == VCPU_STOP_SHUTDOWN;
    run(pair.bt, UINT64_MAX, ends ? TICKS : 1);
    check_host(&pair);
    if (ends)
        compare(&pair, kind_of(data));
    return 0;
}
