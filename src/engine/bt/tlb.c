/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables that translated code looks into. They are filled from the interpreter's TLB, which
 * does the walks and decides what may have a tag at all, and follow it in everything it drops.
 */
#include <string.h>

#include "engine/bt/bt.h"
#include "engine/bt/look.h"
#include "engine/interp/tlb.h"

/* What the compare in translated code can never match: no access of slot i has this page. */
static uint64_t tag_none(unsigned slot)
{
    return (uint64_t)(slot ^ 1) << PAGE_SHIFT;
}

static void entry_drop(struct bt_table *t, unsigned slot)
{
    t->at[slot].tag[ACCESS_READ] = t->at[slot].tag[ACCESS_WRITE] = tag_none(slot);
}

/* Whose pages are good: those of this address space since the last time that all were dropped. */
static void second_switch(struct bt_vcpu *v)
{
    if (v->c.asid_next < v->asid_next) /* numbers of address spaces begin anew */
        v->second_drops++;
    v->asid_next = v->c.asid_next;
    v->second_generation = v->second_drops << 16 | v->c.asid;
}

static void second_drop(struct bt_vcpu *v)
{
    v->second_drops++;
    second_switch(v);
}

static struct bt_second *second_of(struct bt_vcpu *v, gva_t addr)
{
    return &v->second[second_slot(addr)];
}

void bt_tlb_drop_write(struct bt_vcpu *v, unsigned table, unsigned slot)
{
    second_drop(v);
    v->tlb[table].at[slot].tag[ACCESS_WRITE] = tag_none(slot);
}

static void log_add(struct bt_log *log, unsigned slot)
{
    if (log->n < BT_LOG)
        log->slot[log->n] = (uint16_t)slot;
    if (log->n <= BT_LOG)
        log->n++;
}

static void table_wipe(struct bt_table *t, struct bt_log *log)
{
    if (log->n <= BT_LOG) {
        for (unsigned i = 0; i < log->n; i++)
            entry_drop(t, log->slot[i] & (TLB_ENTRIES - 1));
    } else {
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            entry_drop(t, i);
    }
    log->n = 0;
}

static void exec_wipe(struct bt_vcpu *v, unsigned which)
{
    struct bt_log *log = &v->exec_log[which];

    if (log->n <= BT_LOG) {
        for (unsigned i = 0; i < log->n; i++)
            v->exec[which][log->slot[i] & (BT_EXEC_SLOTS - 1)] = 0;
    } else {
        memset(v->exec[which], 0, sizeof(v->exec[which]));
    }
    log->n = 0;
}

void bt_tlb_init(struct bt_vcpu *v)
{
    second_drop(v);
    for (unsigned t = 0; t < BT_TABLES; t++) {
        v->log[t].n = BT_LOG + 1;
        table_wipe(&v->tlb[t], &v->log[t]);
    }
}

/* ---- the stack's window -------------------------------------------------------------------- */

void bt_window_drop(struct bt_vcpu *v)
{
    v->window_none = UINT32_MAX;
    v->pair_none = UINT64_MAX;
    v->window_drops++;
}

/*
 * The entry of a page that may be written, which is looked for, or NULL. Always of a table without
 * AC: the window may outlive a CLAC.
 */
static const struct bt_entry *stack_entry(struct bt_vcpu *v, gva_t page)
{
    /* Without paging nothing faults, nor is marked as accessed. */
    const struct bt_site probe = {
        .how = ACCESS_WRITE, .size = 1, .masked = (v->c.s.cr0 & CR0_PG) != 0};
    unsigned table = v->c.cpl == 3 ? KEY_USER : KEY_SUPERVISOR;
    const struct bt_entry *e = &v->tlb[table].at[TLB_SLOT(page)];

    if (e->tag[ACCESS_WRITE] != page)
        bt_tlb_fill(v, page, &probe);
    return e->tag[ACCESS_WRITE] == page ? e : NULL;
}

/*
 * The same for an offset in a stack of 16 bits. No byte of the window is the last one of the
 * segment, or outside of it: then SP does not wrap as it goes from one to another. Where that
 * leaves a part of a page only, the window has another one's as well.
 */
static bool window16_set(struct bt_vcpu *v, uint64_t off, unsigned span)
{
    const uint32_t base = (uint32_t)v->c.s.seg[SEG_SS].base;
    const uint64_t addr = base + off;
    uint64_t from = addr & ~PAGE_MASK, addend;
    const struct bt_entry *e;

    v->window_none = UINT32_MAX;
    from = min_u64(from > base ? from : base, base + 0xffffull - PAGE_SIZE);
    if (off > 0xffff || addr < from || addr + span > from + PAGE_SIZE ||
        from + PAGE_SIZE > BIT(32) || !(e = stack_entry(v, from & ~PAGE_MASK)))
        return false;
    addend = e->addend;
    if ((from & PAGE_MASK) &&
        (!(e = stack_entry(v, (from & ~PAGE_MASK) + PAGE_SIZE)) || e->addend != addend))
        return false;
    v->window = base - from;
    v->window_delta = addend + base;
    v->window_base = base;
    v->window_none = 0;
    return true;
}

bool bt_window_set(struct bt_vcpu *v, gva_t addr, unsigned span)
{
    const bool low = !v->c.code64 && (addr - BIT(BT_WINDOW_EDGE)) >> BT_WINDOW_EDGE >=
                                         (BIT(32) >> BT_WINDOW_EDGE) - 2;
    const struct bt_entry *e;

    if (bt_key_stack16(v->mode_key))
        return window16_set(v, addr, span);
    v->window_none = UINT32_MAX;
    if (low || (addr & PAGE_MASK) > PAGE_SIZE - span || !(e = stack_entry(v, addr & ~PAGE_MASK)))
        return false;
    v->window = -(addr & ~PAGE_MASK);
    v->window_delta = e->addend;
    v->window_none = 0;
    return true;
}

bool bt_pair_set(struct bt_vcpu *v, gva_t addr)
{
    v->pair_none = UINT64_MAX;
    v->pair = addr & ~PAGE_MASK;
    for (unsigned i = 0; i < 2; i++) {
        const struct bt_entry *e = stack_entry(v, v->pair + i * PAGE_SIZE);

        if (!e)
            return false;
        v->pair_delta[i] = e->addend;
    }
    v->pair_none = 0;
    return true;
}

/* ---- what the interpreter's TLB drops ------------------------------------------------------ */

static void drop_all(struct bt_vcpu *v)
{
    bt_window_drop(v);
    bt_runs_drop(v);
    second_drop(v);
    for (unsigned t = 0; t < BT_TABLES; t++)
        table_wipe(&v->tlb[t], &v->log[t]);
    v->local_log.n = 0;
    exec_wipe(v, 0);
    exec_wipe(v, 1);
    v->exec_local = false;
}

static void on_dropped(struct interp *c)
{
    struct bt_vcpu *v = bt_of(c);

    v->n.drops++;
    bt_trace(v, "tlb_flush", c->s.rip, 0, 0, 0);
    drop_all(v);
}

/* Only the supervisor's table outlives a change of the address space, and of it the global pages.
 */
static void on_switched(struct interp *c)
{
    struct bt_vcpu *v = bt_of(c);

    v->n.switches++;
    bt_trace(v, "tlb_switch", c->s.rip, c->s.cr3, 0, 0);
    if (!(c->s.cr4 & CR4_PGE)) {
        drop_all(v);
        return;
    }
    bt_window_drop(v);
    second_switch(v);
    table_wipe(&v->tlb[KEY_USER], &v->log[KEY_USER]);
    table_wipe(&v->tlb[KEY_SUPERVISOR_AC], &v->log[KEY_SUPERVISOR_AC]);
    if (v->local_log.n > BT_LOG)
        v->log[KEY_SUPERVISOR].n = BT_LOG + 1;
    if (v->local_log.n > BT_LOG)
        table_wipe(&v->tlb[KEY_SUPERVISOR], &v->log[KEY_SUPERVISOR]);
    else
        for (unsigned i = 0; i < v->local_log.n; i++)
            entry_drop(&v->tlb[KEY_SUPERVISOR], v->local_log.slot[i]);
    v->local_log.n = 0;
    exec_wipe(v, 0);
    if (v->exec_local)
        exec_wipe(v, 1);
    v->exec_local = false;
}

static void on_page_dropped(struct interp *c, gva_t addr, bool wide)
{
    struct bt_vcpu *v = bt_of(c);

    v->n.page_drops++;
    bt_trace(v, "tlb_page", c->s.rip, addr, wide, 0);
    if (wide) {
        drop_all(v);
        return;
    }
    bt_window_drop(v);
    second_of(v, addr)->generation = 0;
    for (unsigned t = 0; t < BT_TABLES; t++)
        entry_drop(&v->tlb[t], TLB_SLOT(addr));
    v->exec[0][exec_slot(addr)] = v->exec[1][exec_slot(addr)] = 0;
}

static void on_write_dropped(struct interp *c, uint32_t ram_page)
{
    struct bt_vcpu *v = bt_of(c);

    /* The pages of entries are not kept by RAM page; this is rare and the refill cheap. */
    bt_window_drop(v);
    second_drop(v);
    v->n.write_drops++;
    bt_trace(v, "tlb_write_drop", c->s.rip, (uint64_t)ram_page << PAGE_SHIFT, 0, 0);
    for (unsigned t = 0; t < BT_TABLES; t++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            v->tlb[t].at[i].tag[ACCESS_WRITE] = tag_none(i);
}

const struct interp_listener bt_listener = {
    .dropped = on_dropped,
    .switched = on_switched,
    .page_dropped = on_page_dropped,
    .write_dropped = on_write_dropped,
};

/* ---- filling ------------------------------------------------------------------------------- */

bool bt_tlb_fill(struct bt_vcpu *v, gva_t addr, const struct bt_site *s)
{
    const enum access how = s->how;
    struct interp *c = &v->c;
    const unsigned slot = TLB_SLOT(addr), table = c->key & KEY_MODE;
    const struct tlb_entry *from = &c->tlb[slot];
    const uint64_t page = addr & ~PAGE_MASK, want = page | c->key;
    struct bt_entry *e;
    struct tlb_place place;

    if (unlikely(table >= BT_TABLES || !canonical(addr) || (!c->code64 && addr >> 32) ||
                 (addr & PAGE_MASK) > PAGE_SIZE - s->size))
        return false;
    if (from->tag[how] != want) {
        if (bt_faults_first(s, addr))
            return false;
        tlb_find(c, addr, how, c->key, &place);
        /* The walk may have flushed (the page tables are a device's memory). */
        if (from->tag[how] != (page | c->key))
            return false;
    }
    e = &v->tlb[table].at[slot];
    if (e->tag[ACCESS_READ] == tag_none(slot) && e->tag[ACCESS_WRITE] == tag_none(slot))
        log_add(&v->log[table], slot);
    if (table == KEY_SUPERVISOR && !c->tlb_global[slot])
        log_add(&v->local_log, slot);
    if (e->tag[ACCESS_READ] != page || e->page != page + from->addend)
        entry_drop(&v->tlb[table], slot);
    e->addend = from->addend;
    e->page = page + from->addend;
    for (unsigned i = ACCESS_READ; i <= ACCESS_WRITE; i++)
        if (from->tag[i] == want)
            e->tag[i] = page;
    if (table == KEY_USER) {
        struct bt_second *second = second_of(v, addr);

        for (unsigned i = ACCESS_READ; i <= ACCESS_WRITE; i++)
            second->tag[i] = from->tag[i] == want ? page : UINT64_MAX;
        second->addend = from->addend;
        second->generation = v->second_generation;
    }
    if (unlikely(!(c->s.cr0 & CR0_PG)) && !v->run[RUN_LOW])
        bt_runs_find(v);
    v->n.fills++;
    return true;
}

void bt_exec_fill(struct bt_vcpu *v, gva_t addr, uint32_t ram_page)
{
    unsigned which = v->c.cpl != 3, slot = exec_slot(addr);

    v->n.exec_fills++;
    if (!v->exec[which][slot])
        log_add(&v->exec_log[which], slot);
    v->exec[which][slot] = exec_word(addr, ram_page);
    v->exec_page[which][slot] = anywhere_at(addr) ? addr & ~PAGE_MASK : exec_none(slot);
    if (which && !v->c.tlb_global[TLB_SLOT(addr)])
        v->exec_local = true;
}
