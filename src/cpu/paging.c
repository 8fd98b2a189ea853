/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page walker. SDM vol. 3A chapter 4: 4.3 (32-bit), 4.4 (PAE), 4.5 (4-level), 4.6 (access
 * rights), 4.7 (error codes), 4.8 (accessed and dirty). One loop serves all modes: a mode is a
 * first level and a number of index bits per level.
 *
 * A walk has two halves. The first reads the entries and decides; it changes nothing. The second
 * sets the accessed and dirty bits from the root down by compare-and-exchange against the values
 * that were read, and starts the walk again if another CPU was faster. So a walk that faults sets
 * no bit.
 *
 * A hostile guest may point the tables at anything: RAM, ROM (updates are dropped), devices (read
 * and written through vcpu_mmio, never in a look-only walk), or nothing at all (reads as ones).
 */
#include "cpu/paging.h"

#include "base/bytes.h"
#include "core/mem.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "cpu/model.h"

#define PTE_P    BIT(0)
#define PTE_W    BIT(1)
#define PTE_U    BIT(2)
#define PTE_A    BIT(5)
#define PTE_D    BIT(6)
#define PTE_PS   BIT(7)
#define PTE_G    BIT(8)
#define PTE_NX   BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull

#define PDPTE_RESERVED 0x1e6ull /* bits 2:1 and 8:5 of a PAE page-directory-pointer-table entry */

/* Table entries that lost a race before the walk gives up with a fault that the guest may retry. */
#define WALK_RESTARTS 1000

static gpa_t a20(struct vcpu *vcpu, gpa_t gpa)
{
    return gpa & atomic_load_explicit(&vcpu->vm->a20_mask, memory_order_relaxed);
}

/* Address bits from the guest's MAXPHYADDR up to 51: reserved in entries. */
static uint64_t reserved_addr(const struct cpu_model *model)
{
    return PTE_ADDR & ~((1ull << model->phys_bits) - 1);
}

/* The host address of a table entry, or NULL. */
static void *entry_host(struct vcpu *vcpu, gpa_t at, bool write, uint64_t *ram_page)
{
    uint8_t *page;

    if (unlikely(vcpu_in_overlay(vcpu, at)))
        return NULL;
    page = mem_page(vcpu->vm, at, write, ram_page);
    return page ? page + (at & PAGE_MASK) : NULL;
}

static uint64_t entry_get(const void *host, unsigned size)
{
    return size == 8 ? __atomic_load_n((const uint64_t *)host, __ATOMIC_RELAXED)
                     : __atomic_load_n((const uint32_t *)host, __ATOMIC_RELAXED);
}

static uint64_t entry_read(struct vcpu *vcpu, gpa_t at, unsigned size, bool look_only)
{
    const void *host = entry_host(vcpu, at, false, NULL);
    uint8_t buf[8] = {0};

    if (likely(host))
        return entry_get(host, size);
    if (!look_only)
        vcpu_mmio(vcpu, at, buf, size, false);
    return get_le(buf, size);
}

static uint64_t entry_read_cached(const struct walk_in *in, gpa_t at, unsigned size)
{
    gpa_t page = at & ~PAGE_MASK;
    unsigned slot = page >> PAGE_SHIFT & (WALK_CACHE - 1);
    const uint8_t *host;

    if (!in->cache)
        return entry_read(in->vcpu, at, size, in->no_update);
    if (unlikely(in->cache->at[slot].tag != (page | 1))) {
        host = entry_host(in->vcpu, page, false, NULL);
        if (!host)
            return entry_read(in->vcpu, at, size, in->no_update);
        in->cache->at[slot].tag = page | 1;
        in->cache->at[slot].host = host;
    }
    return entry_get(in->cache->at[slot].host + (at & PAGE_MASK), size);
}

/* Sets `bits` in an entry that still is `old`; false: it is not. */
static bool entry_update(struct vcpu *vcpu, gpa_t at, unsigned size, uint64_t old, uint64_t bits)
{
    uint64_t ram_page;
    void *host = entry_host(vcpu, at, true, &ram_page);
    uint32_t old32 = (uint32_t)old;
    uint64_t new = old | bits;
    bool ok;

    if (unlikely(!host)) {
        vcpu_mmio(vcpu, at, &new, size, true);
        return true;
    }
    if (size == 8)
        ok = __atomic_compare_exchange_n((uint64_t *)host, &old, new, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED);
    else
        ok = __atomic_compare_exchange_n((uint32_t *)host, &old32, (uint32_t) new, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    if (ok &&
        unlikely(atomic_load_explicit(&vcpu->vm->ram.page_flags[ram_page], memory_order_relaxed) &
                 RAM_HAS_CODE))
        ram_written(vcpu->vm, (ram_page << PAGE_SHIFT) + (at & PAGE_MASK), size);
    return ok;
}

enum walk_result { WALK_OK, WALK_FAULT, WALK_RESTART };

/* What the control registers make of a walk. */
struct walk_mode {
    unsigned levels;     /* 2, 3, 4; 3: PAE, whose top level is in registers */
    unsigned index_bits; /* per level */
    unsigned entry_size;
    bool nxe; /* bit 63 is NX, not reserved */
    bool wp, smep, smap_now;
};

static struct walk_mode walk_mode(const struct walk_in *in)
{
    const struct cpu_state *cs = in->cs;
    bool pae = cs->cr4 & CR4_PAE;

    return (struct walk_mode){
        .levels = cs->efer & EFER_LMA ? 4
                  : pae               ? 3
                                      : 2,
        .index_bits = pae ? 9 : 10,
        .entry_size = pae ? 8 : 4,
        .nxe = pae && (cs->efer & EFER_NXE),
        .wp = cs->cr0 & CR0_WP,
        .smep = cs->cr4 & CR4_SMEP,
        .smap_now = (cs->cr4 & CR4_SMAP) && (in->implicit || !(cs->rflags & RFLAGS_AC)),
    };
}

static bool fault(const struct walk_in *in, const struct walk_mode *m, uint32_t error,
                  struct walk_out *out)
{
    out->error = error | (in->write ? PF_W : 0) | (in->user ? PF_U : 0) |
                 (in->exec && (m->nxe || m->smep) ? PF_I : 0);
    return false;
}

/* Bits that must be clear in a present entry of `level` (1: page table). */
static uint64_t entry_reserved(const struct walk_in *in, const struct walk_mode *m, unsigned level,
                               uint64_t entry)
{
    const struct cpu_model *model = in->model;
    bool large = entry & PTE_PS;
    uint64_t bits;

    if (m->levels == 2) {
        if (level == 1 || !large || !(in->cs->cr4 & CR4_PSE))
            return 0;
        if (!cpu_has(model, FEAT_PSE36))
            return 0x003fe000;
        /* Bits 20:13 are address bits 39:32. */
        bits = model->phys_bits < 40 ? 0xffull << (model->phys_bits - 32) & 0xff : 0;
        return BIT(21) | bits << 13;
    }
    bits = reserved_addr(model) | (m->nxe ? 0 : PTE_NX);
    if (m->levels == 3)
        bits |= 0x7ff0000000000000ull;
    if (level == 4)
        return bits | PTE_PS;
    if (level == 3 && large)
        return bits | (cpu_has(model, FEAT_PDPE1GB) ? 0x3fffe000 : PTE_PS);
    if (level == 2 && large)
        return bits | 0x001fe000;
    return bits;
}

static bool is_leaf(const struct walk_in *in, const struct walk_mode *m, unsigned level,
                    uint64_t entry)
{
    if (level == 1)
        return true;
    return (entry & PTE_PS) && (m->levels > 2 || (in->cs->cr4 & CR4_PSE));
}

/* The page's address in a leaf. */
static gpa_t leaf_base(const struct walk_mode *m, unsigned shift, uint64_t entry)
{
    if (m->levels == 2 && shift == 22)
        return (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32;
    return entry & PTE_ADDR & ~((1ull << shift) - 1);
}

static bool allowed(const struct walk_in *in, const struct walk_mode *m, const struct walk_out *out,
                    bool w)
{
    if (in->user)
        return out->user && (!in->write || w) && !(in->exec && out->nx);
    if (in->exec)
        return !out->nx && !(m->smep && out->user);
    if (out->user && m->smap_now)
        return false;
    return !in->write || w || !m->wp;
}

static enum walk_result walk_once(const struct walk_in *in, const struct walk_mode *m, gva_t addr,
                                  struct walk_out *out)
{
    const struct cpu_state *cs = in->cs;
    struct vcpu *vcpu = in->vcpu;
    unsigned level = m->levels, shift = PAGE_SHIFT + m->index_bits * (m->levels - 1);
    gpa_t table = cs->cr3 & (m->levels == 4 ? PTE_ADDR : 0xfffff000ull);
    uint64_t rights = PTE_W | PTE_U, entry;
    bool nx = false, dirty;

    out->nlevels = 0;
    if (m->levels == 3) {
        unsigned i = addr >> 30 & 3;

        entry = cs->pdpte[i];
        out->level[out->nlevels].at = a20(vcpu, (cs->cr3 & 0xffffffe0ull) + i * 8);
        out->level[out->nlevels++].entry = entry;
        if (!(entry & PTE_P)) {
            fault(in, m, 0, out);
            return WALK_FAULT;
        }
        table = entry & PTE_ADDR;
        level--;
        shift -= m->index_bits;
    }
    for (;; level--, shift -= m->index_bits) {
        unsigned i = addr >> shift & ((1u << m->index_bits) - 1);
        gpa_t at = a20(vcpu, table + i * m->entry_size);

        entry = entry_read_cached(in, at, m->entry_size);
        out->level[out->nlevels].at = at;
        out->level[out->nlevels++].entry = entry;
        if (!(entry & PTE_P)) {
            fault(in, m, 0, out);
            return WALK_FAULT;
        }
        if (entry & entry_reserved(in, m, level, entry)) {
            fault(in, m, PF_P | PF_RSVD, out);
            return WALK_FAULT;
        }
        rights &= entry;
        nx |= m->nxe && (entry & PTE_NX);
        if (is_leaf(in, m, level, entry))
            break;
        table = entry & PTE_ADDR;
    }
    out->page_shift = shift;
    out->gpa = a20(vcpu, leaf_base(m, shift, entry) | (addr & ((1ull << shift) - 1)));
    out->user = rights & PTE_U;
    out->nx = nx;
    out->global = (entry & PTE_G) && (cs->cr4 & CR4_PGE);
    if (!allowed(in, m, out, rights & PTE_W)) {
        fault(in, m, PF_P, out);
        return WALK_FAULT;
    }
    dirty = (entry & PTE_D) || (in->write && !in->no_update);
    out->writable = ((rights & PTE_W) || (!in->user && !m->wp)) && dirty;
    if (in->no_update)
        return WALK_OK;
    for (unsigned n = m->levels == 3 ? 1 : 0; n < out->nlevels; n++) {
        uint64_t want = PTE_A | (in->write && n == out->nlevels - 1 ? PTE_D : 0);

        entry = out->level[n].entry;
        if ((entry & want) == want)
            continue;
        if (!entry_update(vcpu, out->level[n].at, m->entry_size, entry, want))
            return WALK_RESTART;
        out->level[n].entry |= want;
    }
    return WALK_OK;
}

bool paging_walk(const struct walk_in *in, gva_t addr, struct walk_out *out)
{
    struct walk_mode m;

    if (!(in->cs->cr0 & CR0_PG)) {
        *out = (struct walk_out){
            .gpa = a20(in->vcpu, addr & 0xffffffff),
            .page_shift = PAGE_SHIFT,
            .writable = true,
            .user = true,
        };
        return true;
    }
    *out = (struct walk_out){0};
    m = walk_mode(in);
    for (unsigned n = 0; n < WALK_RESTARTS; n++) {
        enum walk_result result = walk_once(in, &m, addr, out);

        if (likely(result != WALK_RESTART))
            return result == WALK_OK;
    }
    return fault(in, &m, 0, out);
}

bool paging_load_pdptes(struct vcpu *vcpu, const struct cpu_model *model, uint64_t cr3,
                        uint64_t pdpte[4])
{
    uint64_t reserved = PDPTE_RESERVED | reserved_addr(model) | 0xfff0000000000000ull;
    uint64_t got[4];

    for (unsigned i = 0; i < 4; i++) {
        got[i] = entry_read(vcpu, a20(vcpu, (cr3 & 0xffffffe0ull) + i * 8), 8, false);
        if ((got[i] & PTE_P) && (got[i] & reserved))
            return false;
    }
    for (unsigned i = 0; i < 4; i++)
        pdpte[i] = got[i];
    return true;
}
