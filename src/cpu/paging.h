/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page walker: linear to guest-physical, for every paging mode, with accessed and dirty bits set by
 * compare-and-exchange. Engines, reports and the gdb stub share it. SDM vol. 3A chapter 4.
 */
#ifndef CPU_PAGING_H
#define CPU_PAGING_H

#include "base/types.h"

struct cpu_state;
struct cpu_model;
struct vcpu;

#define PF_P BIT(0)    /* protection violation, not absence */
#define PF_W BIT(1)
#define PF_U BIT(2)
#define PF_RSVD BIT(3)
#define PF_I BIT(4)    /* instruction fetch */

/*
 * Where pages of page tables are in host memory, for an engine that walks often. Zeroed when made and
 * whenever translations are dropped (struct engine, slot_changed).
 */
#define WALK_CACHE 64
struct walk_cache {
    struct { gpa_t tag; const uint8_t *host; } at[WALK_CACHE]; /* tag: the page's address, plus 1 */
};

struct walk_in {
    const struct cpu_state *cs;
    const struct cpu_model *model;
    struct vcpu *vcpu; /* for memory, A20 and page-table pages in MMIO space */
    bool write, exec, user; /* user: CPL 3 explicit access */
    bool implicit;     /* supervisor access by the CPU itself: SMAP ignores RFLAGS.AC */
    bool no_update;    /* look only: no A/D bits, for reports and gdb */
    struct walk_cache *cache; /* may be NULL */
};

struct walk_out {
    gpa_t gpa;          /* of the byte asked for, A20 applied */
    uint32_t error;     /* page-fault error code when walk() is false */
    unsigned page_shift; /* 12, 21, 22, 30 */
    bool writable;      /* a write by the same mode would succeed without touching the tables: W and D are set */
    bool user, global, nx;
    /* The entries read, from the root down, for reports. */
    unsigned nlevels;
    struct { gpa_t at; uint64_t entry; } level[5];
};

bool paging_walk(const struct walk_in *in, gva_t addr, struct walk_out *out);

/* Loads and checks the four PDPTEs of PAE paging at cr3; false: #GP. */
bool paging_load_pdptes(struct vcpu *vcpu, const struct cpu_model *model, uint64_t cr3,
                        uint64_t pdpte[4]);

#endif
