/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The x87 and MMX registers on their way into the host's and out again. stubs.c moves them by
 * FXSAVE64 and FXRSTOR64, which is the fastest there is; in between they are in an image of the
 * vCPU's, which is made from struct cpu_fpu and read back here.
 *
 * Instructions leave their own address and that of their operand behind (FIP, FDP), and parts of
 * their encoding (FOP): the host's, which must never reach the guest. The image goes in with values
 * that no instruction produces; what has changed when it comes out is the host's, and becomes the
 * guest's: FIP by the table of traps, as each x87 instruction may trap, FDP by a look through the
 * TLB for the page. Neither is needed often: an instruction without an exception that is not masked
 * changes FIP alone. Of a page that is mapped twice FDP may be the other address, and it is 0 if
 * the TLB has let go of the page.
 *
 * SDM vol. 1 sections 8.1.8, 8.1.9 (pointers, opcode), 10.5.1 (FXSAVE area).
 */
#include <string.h>

#include "base/bytes.h"
#include "core/vm.h"
#include "engine/bt/bt.h"
#include "engine/interp/thunk_int.h"

#define FX_FCW   0
#define FX_FSW   2
#define FX_FTW   4
#define FX_FOP   6
#define FX_FIP   8
#define FX_FDP   16
#define FX_MXCSR 24
#define FX_ST    32

#define FOP_MARK 0x108 /* D9 /1 with a memory operand, which is no instruction */

static uint64_t pointer_mark(const struct bt_vcpu *v)
{
    return (uintptr_t)v->fx;
}

void bt_x87_in(struct bt_vcpu *v)
{
    struct interp *c = &v->c;
    const struct cpu_fpu *f = &c->s.fpu;
    uint32_t mxcsr;

    /* FERR# of the days when CR0.NE was clear: a waiting instruction lets go of it. */
    if (unlikely(c->ferr) && !(f->fsw & FSW_ES))
        thunk_x87_wait(c);
    /* If the vector registers are not loaded as well, MXCSR stays what it is. */
    __asm__("stmxcsr %0" : "=m"(mxcsr));
    put_le16(v->fx + FX_FCW, f->fcw);
    put_le16(v->fx + FX_FSW, f->fsw);
    put_le16(v->fx + FX_FTW, f->ftw);
    put_le16(v->fx + FX_FOP, FOP_MARK);
    put_le64(v->fx + FX_FIP, pointer_mark(v));
    put_le64(v->fx + FX_FDP, pointer_mark(v));
    put_le32(v->fx + FX_MXCSR, mxcsr);
    memcpy(v->fx + FX_ST, f->st, sizeof(f->st));
}

/* The linear address of what is at a host address, by this vCPU's TLB: false if it is gone. */
static bool linear_of(const struct bt_vcpu *v, uint64_t host, gva_t *lin)
{
    unsigned n = v->c.key & KEY_MODE;
    uint64_t page = (host & ~PAGE_MASK) - atomic_load(&v->bt->distance);

    if (n >= BT_TABLES)
        return false;
    /* Loads without paging need no tag. */
    if (!(v->c.s.cr0 & CR0_PG) && page < BIT(32) &&
        (uintptr_t)mem_page(v->c.vm, page, false, NULL) == (host & ~PAGE_MASK)) {
        *lin = page | (host & PAGE_MASK);
        return true;
    }
    for (unsigned slot = 0; slot < TLB_ENTRIES; slot++) {
        const struct bt_entry *e = &v->tlb[n].at[slot];

        for (unsigned i = ACCESS_READ; i <= ACCESS_WRITE; i++)
            if (e->page == (host & ~PAGE_MASK) && TLB_SLOT(e->tag[i]) == slot) {
                *lin = e->tag[i] | (host & PAGE_MASK);
                return true;
            }
    }
    return false;
}

/* FOP of an instruction as the translator has written it down. */
static unsigned host_fop(const uint8_t *p)
{
    while (*p == 0x66 || (*p & 0xf0) == 0x40) /* and REX */
        p++;
    return (p[0] & 7u) << 8 | p[1];
}

/* FDP is the host's; `s` is the last instruction, if it is known. */
static void take_fdp(struct bt_vcpu *v, uint64_t fdp, const struct bt_site *s)
{
    struct interp *c = &v->c;
    const struct thunks *ts = c->thunks;
    struct cpu_fpu *f = &c->s.fpu;
    gva_t lin;

    f->fdp = 0;
    f->fds = 0;
    if (!fdp || !s || !linear_of(v, fdp, &lin))
        return;
    if (!c->code64)
        f->fdp = (uint32_t)(lin - c->s.seg[s->seg < SEG_COUNT ? s->seg : SEG_DS].base);
    else
        f->fdp = s->seg == SEG_FS || s->seg == SEG_GS ? lin - c->s.seg[s->seg].base : lin;
    if (!ts->no_fcs)
        f->fds = c->s.seg[s->seg < SEG_COUNT ? s->seg : SEG_DS].selector;
}

void bt_x87_out(struct bt_vcpu *v)
{
    struct bt_vm *bt = v->bt;
    struct interp *c = &v->c;
    const struct thunks *ts = c->thunks;
    struct cpu_fpu *f = &c->s.fpu;
    uint64_t fip = get_le64(v->fx + FX_FIP), fdp = get_le64(v->fx + FX_FDP);
    uint16_t fop = get_le16(v->fx + FX_FOP) & 0x7ff;
    const struct bt_site *s = NULL;

    v->x87_saved = 0;
    f->fcw = get_le16(v->fx + FX_FCW);
    f->fsw = get_le16(v->fx + FX_FSW);
    f->ftw = v->fx[FX_FTW];
    memcpy(f->st, v->fx + FX_ST, sizeof(f->st));
    if (fip != pointer_mark(v)) {
        const struct bt_trap *t = bt_trap_find(bt, fip);

        f->fip = 0; /* FNINIT, or not to be told */
        f->fcs = 0;
        if (t) {
            s = &bt->sites[t->site];
            f->fip = bt->blocks[s->block].va + s->off;
            if (!ts->no_fcs)
                f->fcs = c->s.seg[SEG_CS].selector;
        }
    }
    if (fdp != pointer_mark(v))
        take_fdp(v, fdp, s);
    /* Register numbers of a memory operand differ; otherwise it is the guest's own. */
    if (fop != FOP_MARK)
        f->fop = s && fop == host_fop((const uint8_t *)(uintptr_t)fip) ? s->fop : fop;
}
