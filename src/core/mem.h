/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: one private mapping per VM (a file, once somebody is to share it). Regions of kind RAM, ROM and ROMD name an offset in it. A host address
 * comes from mem_page and nothing else. The mapping ends in 64 KiB without access.
 *
 * mem_* is for the core, the loaders and the engines; devices use dma_* (core/dma.h).
 */
#ifndef CORE_MEM_H
#define CORE_MEM_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"

struct vm;

#define RAM_HAS_CODE 1u /* some vCPU holds decoded or translated code from this page */

struct ram {
    void *map; /* with what aligns `host` to a huge page, and a guard behind */
    uint8_t *host; /* private to core/mem.c and the engines' TLB fill, by way of mem_page */
    uint64_t size; /* bytes, a multiple of the page size */
    uint64_t used; /* handed out by ram_alloc */
    /*
     * Per page: bit 0 RAM_HAS_CODE, and a generation that every write seen to the page's code moves on.
     * A block remembers the generation it was decoded at and is stale once it differs.
     */
    _Atomic uint8_t *page_flags;
    _Atomic uint32_t *code_gen;
};

int ram_init(struct ram *ram, uint64_t size, struct err *err);
void ram_fini(struct ram *ram);
/* A run of `size` bytes (rounded up to pages) of the RAM file; -ENOMEM when it is used up. */
int ram_alloc(struct ram *ram, uint64_t size, uint64_t *offset, struct err *err);

/*
 * The host address of the 4 KiB page that holds gpa, for reading, or for writing if `write`. NULL if
 * there is no RAM there, or it is ROM and write is set (ROMD: readable only). Valid until the caller is
 * next quiescent (vm_quiescent) or slot_changed is called. *ram_page gets the page's index in the RAM
 * file (for ram->page_flags, ram->code_gen); may be NULL.
 */
uint8_t *mem_page(struct vm *vm, gpa_t gpa, bool write, uint64_t *ram_page);

/*
 * The same for reading, and for the pages behind it that the map has in one piece with it, as far as *end:
 * all at the same distance from the host's.
 */
uint8_t *mem_pages(struct vm *vm, gpa_t gpa, gpa_t *end);

/*
 * Copies that only ever touch RAM and ROM; false, with nothing or part of it copied, if some byte is
 * not. mem_write tells the engines (ram_written).
 */
bool mem_read(struct vm *vm, gpa_t gpa, void *buf, size_t len);
bool mem_write(struct vm *vm, gpa_t gpa, const void *buf, size_t len);
/* Loaders: also writes ROM. */
bool mem_load(struct vm *vm, gpa_t gpa, const void *buf, size_t len);

/* RAM bytes [offset, offset+len) of the RAM file were written by someone who is not a vCPU's own store. */
void ram_written(struct vm *vm, uint64_t ram_offset, uint64_t len);

#endif
