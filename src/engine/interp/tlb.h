/* SPDX-License-Identifier: Apache-2.0 */
/* Between tlb.c, which finds pages, and access.c, which moves bytes. */
#ifndef ENGINE_INTERP_TLB_H
#define ENGINE_INTERP_TLB_H

#include "engine/interp/interp.h"
#include "engine/interp/mode.h"

/* Where a linear address leads, for one kind of access that is allowed there. */
struct tlb_place {
    gpa_t gpa;
    uint8_t *host;     /* NULL: through vcpu_mmio */
    uint32_t ram_page; /* if host */
    bool has_code;     /* a write must be told to blocks_written */
    bool watched;      /* a data watchpoint for this kind of access is in the page */
};

/*
 * Walks, raises #PF if the access is not allowed, and fills the TLB if the page may have a tag.
 * addr is canonical, and 32 bits wide outside long mode.
 */
void tlb_find(struct interp *c, gva_t addr, enum access how, uint64_t key, struct tlb_place *out);

/*
 * The host address of a page, of explicit accesses, whose access cannot fault and has no other
 * effect than the bytes it moves, or NULL: as far as is known without a walk. addr is the page's.
 */
uint8_t *tlb_next_page(struct interp *c, gva_t addr, enum access how);

/* After an access: the watchpoints it hit go into s.pending_dbg. */
void tlb_watch_hit(struct interp *c, gva_t addr, size_t len, enum access how);

/* The slot's next write goes through tlb_find. */
void tlb_drop_write(struct interp *c, unsigned slot);

#endif
