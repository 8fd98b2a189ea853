/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The software TLB: direct mapped, 4 KiB entries, tags that carry an address-space number (ASID)
 * and the privilege of the access. All flushes but INVLPG take a new ASID and leave the old entries
 * to be overwritten; when the numbers run out everything is wiped and they start again. With
 * CR4.PCIDE each PCID that the guest uses has an ASID of its own, so that a CR3 load that keeps
 * translations finds them. Global pages are filled once per ASID: dropping more than asked is
 * always allowed (SDM vol. 3A 4.10.4).
 *
 * Also here: what the control registers mean for the interpreter (interp_mode_changed), and the
 * protocol by which pages become code pages.
 */
#include "engine/interp/tlb.h"
#include "engine/interp/block.h"

#include <sched.h>
#include <string.h>

/* ---- entries -------------------------------------------------------------------------- */

static uint64_t tag_invalid(unsigned slot)
{
    return (uint64_t)(slot ^ 1) << PAGE_SHIFT | PAGE_MASK;
}

static void entry_drop(struct interp *c, unsigned slot)
{
    struct tlb_entry *e = &c->tlb[slot];

    e->tag[ACCESS_READ] = e->tag[ACCESS_WRITE] = e->tag[ACCESS_EXEC] = tag_invalid(slot);
}

/* Bit numbers in large_marks and huge_marks. */
static unsigned large_mark(gva_t addr)
{
    return (unsigned)((addr >> 22) * 0x9e3779b97f4a7c15ull >> 52);
}

static unsigned huge_mark(gva_t addr)
{
    return (unsigned)((addr >> 30) * 0x9e3779b97f4a7c15ull >> 56);
}

void tlb_drop_write(struct interp *c, unsigned slot)
{
    c->tlb[slot & (TLB_ENTRIES - 1)].tag[ACCESS_WRITE] = tag_invalid(slot & (TLB_ENTRIES - 1));
}

static void large_wipe(struct interp *c)
{
    for (unsigned i = 0; i < LARGE_ENTRIES; i++)
        memset(c->large[i].tag, 0xff, sizeof(c->large[i].tag));
}

static void wipe(struct interp *c)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        entry_drop(c, i);
    large_wipe(c);
    memset(c->large_marks, 0, sizeof(c->large_marks));
    memset(c->huge_marks, 0, sizeof(c->huge_marks));
    memset(c->pcid_asid, 0, sizeof(c->pcid_asid));
    c->pcid_used = false;
    c->asid_next = 1;
}

static void keys_update(struct interp *c)
{
    uint64_t asid = (uint64_t)c->asid << KEY_ASID_SHIFT;
    bool ac = c->s.rflags & RFLAGS_AC;

    c->key_sys = asid | KEY_SUPERVISOR;
    if (c->cpl == 3)
        c->key = asid | (ac && (c->s.cr0 & CR0_AM) ? KEY_USER_ALIGNED : KEY_USER);
    else
        c->key = asid | (ac && (c->s.cr4 & CR4_SMAP) ? KEY_SUPERVISOR_AC : KEY_SUPERVISOR);
}

/* A number that no live entry has, for the current PCID. */
static void asid_renew(struct interp *c)
{
    if (unlikely(c->asid_next == 0 || c->asid_next >= KEY_ASIDS))
        wipe(c);
    c->asid = (uint16_t)c->asid_next++;
    if (c->s.cr4 & CR4_PCIDE) {
        c->pcid_asid[c->s.cr3 & 0xfff] = c->asid;
        c->pcid_used = true;
    }
}

void tlb_flush(struct interp *c, bool globals)
{
    (void)globals; /* they go as well: see above */
    if (c->pcid_used) {
        memset(c->pcid_asid, 0, sizeof(c->pcid_asid));
        c->pcid_used = false;
    }
    asid_renew(c);
    keys_update(c);
    if (c->listener)
        c->listener->dropped(c);
}

void tlb_switch(struct interp *c, uint64_t cr3, bool keep)
{
    uint16_t known;

    c->s.cr3 = cr3 & ~BIT(63);
    known = keep && (c->s.cr4 & CR4_PCIDE) ? c->pcid_asid[cr3 & 0xfff] : 0;
    if (known)
        c->asid = known;
    else
        asid_renew(c);
    keys_update(c);
    if (c->listener)
        c->listener->switched(c);
}

void tlb_flush_pcid(struct interp *c, unsigned pcid)
{
    pcid &= 0xfff;
    if (pcid != (c->s.cr4 & CR4_PCIDE ? c->s.cr3 & 0xfff : 0)) {
        c->pcid_asid[pcid] = 0;
        return;
    }
    asid_renew(c);
    keys_update(c);
    if (c->listener)
        c->listener->switched(c);
}

void tlb_flush_page(struct interp *c, gva_t addr)
{
    unsigned mark;
    bool wide = false;

    if (!cpu_long_mode(&c->s))
        addr = (uint32_t)addr;
    entry_drop(c, TLB_SLOT(addr));
    mark = large_mark(addr);
    if (c->large_marks[mark / 64] >> (mark % 64) & 1) {
        unsigned first = TLB_SLOT(addr & ~(BIT(22) - 1));

        wide = true;

        for (unsigned i = first; i < first + 1024; i++)
            for (unsigned how = ACCESS_READ; how <= ACCESS_EXEC; how++)
                if (c->tlb[i].tag[how] >> 22 == addr >> 22)
                    c->tlb[i].tag[how] = tag_invalid(i);
    }
    mark = huge_mark(addr);
    if (c->huge_marks[mark / 64] >> (mark % 64) & 1) {
        wide = true;
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            for (unsigned how = ACCESS_READ; how <= ACCESS_EXEC; how++)
                if (c->tlb[i].tag[how] >> 30 == addr >> 30)
                    c->tlb[i].tag[how] = tag_invalid(i);
    }
    if (wide)
        large_wipe(c);
    if (c->listener)
        c->listener->page_dropped(c, addr, wide);
}

/* ---- watchpoints (SDM vol. 3B 18.2) --------------------------------------------------- */

#define DR7_ENABLED     0xffull
#define DR7_RW(dr7, n)  ((dr7) >> (16 + 4 * (n)) & 3)
#define DR7_LEN(dr7, n) ((dr7) >> (18 + 4 * (n)) & 3)
#define RW_WRITE        1
#define RW_READ_WRITE   3

/* True if what is watched has changed. */
static bool watches_update(struct interp *c)
{
    static const uint8_t lengths[4] = {1, 2, 8, 4};
    uint64_t now[5] = {c->s.dr[0], c->s.dr[1], c->s.dr[2], c->s.dr[3], c->s.dr7};
    unsigned before = c->watches;

    if (likely(!memcmp(now, c->watch_dr, sizeof(now))))
        return false;
    memcpy(c->watch_dr, now, sizeof(now));
    c->watches = 0;
    for (unsigned n = 0; n < 4; n++) {
        unsigned rw = DR7_RW(c->s.dr7, n), len = lengths[DR7_LEN(c->s.dr7, n)];

        if (!(c->s.dr7 >> (2 * n) & 3) || (rw != RW_WRITE && rw != RW_READ_WRITE))
            continue;
        c->watch[c->watches].addr = c->s.dr[n] & ~(uint64_t)(len - 1);
        c->watch[c->watches].len = (uint8_t)len;
        c->watch[c->watches].dr = (uint8_t)n;
        c->watch[c->watches].on_read = rw == RW_READ_WRITE;
        c->watches++;
    }
    return before || c->watches;
}

static bool page_watched(const struct interp *c, gva_t addr, enum access how)
{
    for (unsigned n = 0; n < c->watches; n++)
        if (c->watch[n].addr >> PAGE_SHIFT == addr >> PAGE_SHIFT &&
            (how == ACCESS_WRITE || c->watch[n].on_read))
            return true;
    return false;
}

void tlb_watch_hit(struct interp *c, gva_t addr, size_t len, enum access how)
{
    for (unsigned n = 0; n < c->watches; n++)
        if (c->watch[n].addr + c->watch[n].len > addr && c->watch[n].addr < addr + len &&
            (how == ACCESS_WRITE || c->watch[n].on_read))
            c->s.pending_dbg |= BIT(c->watch[n].dr);
}

/* ---- filling -------------------------------------------------------------------------- */

#define LARGE_SHIFT 21
#define LARGE_MASK  (BIT(LARGE_SHIFT) - 1)

static void mark(struct interp *c, gva_t addr, unsigned page_shift)
{
    if (page_shift >= 30)
        c->huge_marks[huge_mark(addr) / 64] |= BIT(huge_mark(addr) % 64);
    else if (page_shift > PAGE_SHIFT)
        c->large_marks[large_mark(addr) / 64] |= BIT(large_mark(addr) % 64);
}

static struct tlb_large *large_of(struct interp *c, gva_t addr)
{
    return &c->large[addr >> LARGE_SHIFT & (LARGE_ENTRIES - 1)];
}

static uint64_t large_tag(gva_t addr, uint64_t key)
{
    return (addr & ~LARGE_MASK) | key;
}

static void large_fill(struct interp *c, gva_t addr, enum access how, uint64_t key,
                       const struct walk_out *walk)
{
    struct tlb_large *l = large_of(c, addr);
    uint64_t tag = large_tag(addr, key);
    gpa_t gpa = walk->gpa & ~LARGE_MASK;

    /* Without A20 every other megabyte is somewhere else. */
    if (atomic_load_explicit(&c->vm->a20_mask, memory_order_relaxed) != UINT64_MAX)
        return;
    for (unsigned i = ACCESS_READ; i <= ACCESS_EXEC; i++)
        if (l->tag[i] != tag || l->gpa != gpa)
            l->tag[i] = UINT64_MAX;
    l->gpa = gpa;
    l->page_shift = (uint8_t)walk->page_shift;
    l->global = walk->global;
    l->tag[how] = tag;
    if (how == ACCESS_WRITE)
        l->tag[ACCESS_READ] = tag;
    mark(c, addr, walk->page_shift);
}

static void fill(struct interp *c, gva_t addr, enum access how, uint64_t key, uint8_t *page,
                 const struct tlb_place *place, unsigned page_shift, bool global)
{
    unsigned slot = TLB_SLOT(addr);
    struct tlb_entry *e = &c->tlb[slot];
    uint64_t tag = (addr & ~PAGE_MASK) | key;
    uint64_t addend = (uint64_t)(uintptr_t)page - (addr & ~PAGE_MASK);

    /* The three tags share one addend: what is not the same page leaves. */
    for (unsigned i = ACCESS_READ; i <= ACCESS_EXEC; i++)
        if (e->tag[i] != tag || e->addend != addend)
            e->tag[i] = tag_invalid(slot);
    e->addend = addend;
    e->tag[how] = tag;
    if (how == ACCESS_WRITE)
        e->tag[ACCESS_READ] = tag; /* not watched for writes is not watched at all */
    c->tlb_ram_page[slot] = place->ram_page;
    c->tlb_global[slot] = global;
    mark(c, addr, page_shift);
}

/* The page's place, as the tables have it. */
static void translate(struct interp *c, gva_t addr, const struct walk_in *in, enum access how,
                      uint64_t key, struct walk_out *walk)
{
    const struct tlb_large *l = large_of(c, addr);

    if (l->tag[how] == large_tag(addr, key)) {
        walk->gpa = l->gpa | (addr & LARGE_MASK);
        walk->page_shift = l->page_shift;
        walk->global = l->global;
        return;
    }
    if (unlikely(!paging_walk(in, addr, walk)))
        interp_raise_pf(c, addr, walk->error);
    if (walk->page_shift > PAGE_SHIFT)
        large_fill(c, addr, how, key, walk);
}

void tlb_find(struct interp *c, gva_t addr, enum access how, uint64_t key, struct tlb_place *out)
{
    unsigned key_mode = key & KEY_MODE;
    struct walk_in in = {
        .cs = &c->s,
        .model = c->vcpu->model,
        .vcpu = c->vcpu,
        .write = how == ACCESS_WRITE,
        .exec = how == ACCESS_EXEC,
        .user = key_mode == KEY_USER || key_mode == KEY_USER_ALIGNED,
        .implicit = key_mode == KEY_SUPERVISOR,
        .cache = &c->walk_cache,
    };
    struct walk_out walk;
    uint64_t ram_page;
    uint8_t *page = NULL;

    /* The caller's key may be from before a flush that a device caused within its instruction. */
    key = (uint64_t)c->asid << KEY_ASID_SHIFT | key_mode;
    translate(c, addr, &in, how, key, &walk);
    *out = (struct tlb_place){.gpa = walk.gpa};
    if (likely(!vcpu_in_overlay(c->vcpu, walk.gpa)))
        page = mem_page(c->vm, walk.gpa, in.write, &ram_page);
    if (!page)
        return;
    out->host = page + (walk.gpa & PAGE_MASK);
    out->ram_page = (uint32_t)ram_page;
    out->watched = how != ACCESS_EXEC && unlikely(c->watches) && page_watched(c, addr, how);
    if (unlikely(in.write && c->listener && c->listener->writing))
        c->listener->writing(c, addr, page, out->ram_page);
    /* Looked at before the tag is set: interp_mark_code relies on the order. */
    out->has_code = in.write && (atomic_load(&c->vm->ram.page_flags[ram_page]) & RAM_HAS_CODE);
    if (out->watched || out->has_code || (key_mode == KEY_USER_ALIGNED && how != ACCESS_EXEC))
        return;
    fill(c, addr, how, (uint64_t)c->asid << KEY_ASID_SHIFT | key_mode, page, out, walk.page_shift,
         walk.global);
}

uint8_t *tlb_next_page(struct interp *c, gva_t addr, enum access how)
{
    const struct tlb_entry *e = &c->tlb[TLB_SLOT(addr)];
    struct tlb_place place;

    if (e->tag[how] == (addr | c->key))
        return (uint8_t *)(uintptr_t)(addr + e->addend);
    if (large_of(c, addr)->tag[how] != large_tag(addr, c->key))
        return NULL;
    tlb_find(c, addr, how, c->key, &place);
    return place.has_code || place.watched ? NULL : place.host;
}

/* ---- mode ----------------------------------------------------------------------------- */

static uint8_t flat_segments(const struct cpu_state *s)
{
    bool by_type = !cpu_real_mode(s) && !cpu_v86(s);
    uint8_t flat = 0;

    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct cpu_seg *seg = &s->seg[i];
        const uint16_t want = SEG_ATTR_P | SEG_ATTR_S | SEG_TYPE_WRITE;
        const uint16_t care = want | SEG_TYPE_CODE | SEG_TYPE_EXPAND;

        if (seg->base == 0 && seg->limit == UINT32_MAX && (!by_type || (seg->attr & care) == want))
            flat |= (uint8_t)(1u << i);
    }
    return flat;
}

static uint64_t mode_bit(bool on, uint64_t bit)
{
    return on ? bit : 0;
}

/* What CR0, CR4, EFER and XCR0 say. */
static uint64_t mode_of_system(const struct cpu_state *s)
{
    bool avx = (s->cr4 & CR4_OSXSAVE) && (s->xcr0 & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);

    return mode_bit(cpu_real_mode(s), MODE_REAL) | mode_bit(cpu_long_mode(s), MODE_LMA) |
           mode_bit(s->cr0 & CR0_TS, MODE_TS) | mode_bit(s->cr0 & CR0_EM, MODE_EM) |
           mode_bit(s->cr0 & CR0_MP, MODE_MP) | mode_bit(s->cr0 & CR0_NE, MODE_NE) |
           mode_bit(s->cr4 & CR4_OSFXSR, MODE_OSFXSR) |
           mode_bit(s->cr4 & CR4_OSXMMEXCPT, MODE_OSXMMEXCPT) |
           mode_bit(s->cr4 & CR4_OSXSAVE, MODE_OSXSAVE) | mode_bit(avx, MODE_AVX) |
           mode_bit(avx && (s->xcr0 & XCR0_AVX512) == XCR0_AVX512, MODE_AVX512) |
           mode_bit(s->cr4 & CR4_TSD, MODE_TSD) | mode_bit(s->cr4 & CR4_UMIP, MODE_UMIP) |
           mode_bit(s->cr4 & CR4_FSGSBASE, MODE_FSGSBASE) | mode_bit(s->cr4 & CR4_VME, MODE_VME) |
           mode_bit(s->cr4 & CR4_PVI, MODE_PVI) | mode_bit(s->cr4 & CR4_DE, MODE_DE) |
           mode_bit(s->cr4 & CR4_PCE, MODE_PCE) | mode_bit(s->efer & EFER_SCE, MODE_SCE) |
           mode_bit(s->efer & EFER_FFXSR, MODE_FFXSR);
}

/* What the segments say; nothing of their size and flatness matters to 64-bit code. */
static uint64_t mode_of_segments(const struct interp *c)
{
    const struct cpu_seg *cs = &c->s.seg[SEG_CS];

    if (c->code64)
        return MODE_CODE64;
    return (cs->attr & SEG_ATTR_DB ? MODE_CODE32 : MODE_CODE16) |
           mode_bit(c->s.seg[SEG_SS].attr & SEG_ATTR_DB, MODE_SS32) |
           (uint64_t)c->flat << MODE_FLAT_SHIFT |
           mode_bit(cs->base || cs->limit != UINT32_MAX, MODE_CS_SEGMENTED);
}

/* What a translation depends on besides CR3. */
static uint64_t paging_bits(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & (CR0_PG | CR0_WP)) | (efer & (EFER_LMA | EFER_NXE)) |
           (cr4 & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE)) << 32;
}

/* True if the change made translations wrong. */
static bool system_update(struct interp *c)
{
    const struct cpu_state *s = &c->s;
    uint64_t now[4] = {s->cr0, s->cr4, s->efer, s->xcr0};
    const uint64_t *old = c->mode_regs;
    bool paging;

    if (likely(!memcmp(now, old, sizeof(now))))
        return false;
    paging = paging_bits(now[0], now[1], now[2]) != paging_bits(old[0], old[1], old[2]);
    memcpy(c->mode_regs, now, sizeof(now));
    c->mode_system = mode_of_system(s);
    return paging;
}

void interp_mode_changed(struct interp *c)
{
    const struct cpu_state *s = &c->s;
    bool system = system_update(c), watches = watches_update(c);

    c->code64 = cpu_64bit(s);
    c->cpl = cpu_real_mode(s) ? 0 : cpu_v86(s) ? 3 : (uint8_t)cpu_cpl(s);
    if (likely(c->code64)) {
        c->rip_mask = c->sp_mask = UINT64_MAX;
        c->stack_bytes = 8;
        c->flat = 0;
    } else {
        bool ss32 = s->seg[SEG_SS].attr & SEG_ATTR_DB;

        c->rip_mask = s->seg[SEG_CS].attr & SEG_ATTR_DB ? UINT32_MAX : UINT16_MAX;
        c->sp_mask = ss32 ? UINT32_MAX : UINT16_MAX;
        c->stack_bytes = ss32 ? 4 : 2;
        c->flat = flat_segments(s);
    }
    c->mode = c->mode_system | mode_of_segments(c) | (uint64_t)c->cpl << MODE_CPL_SHIFT |
              mode_bit(cpu_v86(s), MODE_V86) | mode_bit(s->rflags & RFLAGS_TF, MODE_TF) |
              (s->rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT << MODE_IOPL_SHIFT |
              mode_bit(s->dr7 & DR7_ENABLED, MODE_BREAKPOINTS);
    if (unlikely(system || watches || !c->asid))
        tlb_flush(c, true);
    else
        keys_update(c);
}

/* ---- other writers and other vCPUs ---------------------------------------------------- */

void tlb_remote_drop(struct interp *c)
{
    /* The bit first: a request that comes after this is served again. */
    atomic_fetch_and(&c->vcpu->pending, ~(uint32_t)PEND_TLB);
    tlb_flush(c, true);
    memset(&c->walk_cache, 0, sizeof(c->walk_cache));
    atomic_fetch_add(&c->tlb_drops, 1);
}

static void drop_write_tags(struct interp *c, uint32_t ram_page)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        if (c->tlb_ram_page[i] == ram_page)
            c->tlb[i].tag[ACCESS_WRITE] = tag_invalid(i);
    if (c->listener)
        c->listener->write_dropped(c, ram_page);
}

/* While waiting for others: what others wait for from this one. */
static void serve(struct interp *c)
{
    uint32_t pending = atomic_load(&c->vcpu->pending);

    if (pending & PEND_TLB)
        tlb_remote_drop(c);
    if (pending & PEND_EXCLUSIVE)
        vcpu_exclusive_park(c->vcpu);
    sched_yield();
}

/*
 * Returns when each other vCPU has dropped its translations once, or sleeps (it then finds PEND_TLB
 * when it wakes). Two vCPUs may wait for each other, and one may stop the world meanwhile.
 */
static void drop_everywhere(struct interp *c)
{
    struct vm *vm = c->vm;
    uint64_t before[VM_MAX_VCPUS];
    unsigned n = vm->nvcpus;

    for (unsigned i = 0; i < n; i++) {
        struct interp *other = interp_of(vm->vcpus[i]);

        if (other == c || !other)
            continue;
        before[i] = atomic_load(&other->tlb_drops);
        vcpu_post(vm->vcpus[i], PEND_TLB);
    }
    for (unsigned i = 0; i < n; i++) {
        struct interp *other = interp_of(vm->vcpus[i]);

        if (other == c || !other)
            continue;
        while (atomic_load(&other->tlb_drops) == before[i] && !atomic_load(&vm->vcpus[i]->sleeping))
            serve(c);
    }
}

/*
 * A page's flags go 0 -> RAM_HAS_CODE | RAM_CODE_MARKING -> RAM_HAS_CODE -> 0. Fills look at
 * RAM_HAS_CODE; only one vCPU marks a page at a time, the others wait for it, so that nobody reads
 * bytes which a third one can still write unseen.
 */
void interp_mark_code(struct interp *c, uint32_t ram_page)
{
    _Atomic uint8_t *flags = &c->vm->ram.page_flags[ram_page];

    for (;;) {
        uint8_t now = atomic_load(flags);

        if (likely(now == RAM_HAS_CODE))
            return;
        if (!now && atomic_compare_exchange_strong(flags, &now, RAM_HAS_CODE | RAM_CODE_MARKING))
            break;
        serve(c);
    }
    drop_write_tags(c, ram_page);
    if (c->vm->nvcpus > 1)
        drop_everywhere(c);
    atomic_store(flags, RAM_HAS_CODE);
}

void interp_unmark_code(struct interp *c, uint32_t ram_page)
{
    struct ram *ram = &c->vm->ram;
    uint8_t marked = RAM_HAS_CODE;

    /*
     * The generation moves before and after: a decoder that saw the page still marked has read a
     * generation that is old by now. A page that someone is marking stays as it is.
     */
    atomic_fetch_add(&ram->code_gen[ram_page], 1);
    if (atomic_compare_exchange_strong(&ram->page_flags[ram_page], &marked, 0))
        atomic_fetch_add(&ram->code_gen[ram_page], 1);
}

void interp_slot_changed(struct vm *vm, gpa_t gpa, uint64_t len)
{
    (void)gpa;
    (void)len;
    /*
     * The caller may hold the machine lock that vCPUs wait for, so nobody is waited for here: each
     * drops at its next instruction boundary or after its next device access (access_after_io), the
     * calling vCPU included. What a vCPU still does in between counts as done before the change.
     */
    for (unsigned i = 0; i < vm->nvcpus; i++)
        vcpu_post(vm->vcpus[i], PEND_TLB);
}

void interp_ram_written(struct vm *vm, uint64_t ram_offset, uint64_t len)
{
    struct interp_vm *iv = vm->engine_data;
    struct ram *ram = &vm->ram;
    uint64_t last;

    if (!len || ram_offset >= ram->size)
        return;
    /* The bytes before the flag: interp_mark_code sets the flag before anyone reads the bytes. */
    atomic_thread_fence(memory_order_seq_cst);
    last = (ram_offset + min_u64(len, ram->size - ram_offset) - 1) >> PAGE_SHIFT;
    for (uint64_t page = ram_offset >> PAGE_SHIFT; page <= last; page++)
        if (atomic_load_explicit(&ram->page_flags[page], memory_order_acquire) & RAM_HAS_CODE) {
            atomic_fetch_add(&ram->code_gen[page], 1);
            if (iv->code_written)
                iv->code_written(iv, (uint32_t)page, UINT64_MAX);
        }
}
