/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "core/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "core/vm.h"

#define RAM_GUARD (64 * 1024) /* without access, behind the last byte */

int ram_init(struct ram *ram, uint64_t size, struct err *err)
{
    uint64_t pages;
    uint8_t *map;

    *ram = (struct ram){0};
    size = align_up(size, PAGE_SIZE);
    pages = size >> PAGE_SHIFT;
    map = mmap(NULL, size + HUGE_PAGE + RAM_GUARD, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        goto no_memory;
    ram->map = map;
    ram->size = size;
    ram->host = (uint8_t *)align_up((uintptr_t)map, HUGE_PAGE);
    if (mmap(ram->host, size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        goto no_memory;
    /* Hosts give huge pages to private memory where they give none to files; it is only a wish. */
    madvise(ram->host, size, MADV_HUGEPAGE);
    ram->page_flags = calloc(pages, sizeof(*ram->page_flags));
    ram->code_gen = calloc(pages, sizeof(*ram->code_gen));
    if (!ram->page_flags || !ram->code_gen)
        goto no_memory;
    return 0;

no_memory:
    ram_fini(ram);
    return err_set(err, ENOMEM,
                   "cannot get %llu MiB for guest RAM: give the guest less with --memory",
                   (unsigned long long)(size >> 20));
}

void ram_fini(struct ram *ram)
{
    if (ram->map)
        munmap(ram->map, ram->size + HUGE_PAGE + RAM_GUARD);
    free((void *)ram->page_flags);
    free((void *)ram->code_gen);
    *ram = (struct ram){0};
}

int ram_alloc(struct ram *ram, uint64_t size, uint64_t *offset, struct err *err)
{
    size = align_up(size, PAGE_SIZE);
    if (!range_ok(ram->used, size, ram->size))
        return err_set(err, ENOMEM, "the RAM file is too small for %llu more bytes",
                       (unsigned long long)size);
    *offset = ram->used;
    ram->used += size;
    return 0;
}

/* Host bytes at range offset `at`; the caller has checked the range. */
static uint8_t *range_host(struct vm *vm, const struct map_range *range, uint64_t gpa)
{
    return vm->ram.host + range->region->ram_offset + range->offset + (gpa - range->start);
}

static bool range_direct(const struct map_range *range, bool write)
{
    return range->region->kind == REGION_RAM || (!write && range->region->kind != REGION_IO);
}

/* The host's address of gpa's page, and the range that it is in. */
static inline uint8_t *direct_page(struct vm *vm, gpa_t gpa, bool write,
                                   const struct map_range **range)
{
    gpa_t page = gpa & ~PAGE_MASK;
    const struct map_range *r = bus_lookup(&vm->memory, page);
    uint8_t *host;

    /* A page of which only a part is RAM is served byte by byte, by the bus. */
    if (!r || !range_direct(r, write) || r->last - page < PAGE_MASK)
        return NULL;
    host = range_host(vm, r, page);
    *range = r;
    return (uintptr_t)(host - vm->ram.host) & PAGE_MASK ? NULL : host;
}

uint8_t *mem_page(struct vm *vm, gpa_t gpa, bool write, uint64_t *ram_page)
{
    const struct map_range *range;
    uint8_t *host = direct_page(vm, gpa, write, &range);

    if (host && ram_page)
        *ram_page = (uint64_t)(host - vm->ram.host) >> PAGE_SHIFT;
    return host;
}

uint8_t *mem_pages(struct vm *vm, gpa_t gpa, gpa_t *end)
{
    const struct map_range *range;
    uint8_t *host = direct_page(vm, gpa, false, &range);

    if (host)
        *end = ((range->last - PAGE_MASK) & ~PAGE_MASK) + PAGE_SIZE;
    return host;
}

/*
 * The run of direct memory at gpa, at most len bytes: its host address, and its length in *run.
 * `load` lets writes reach ROM.
 */
static uint8_t *mem_run(struct vm *vm, gpa_t gpa, size_t len, bool write, bool load, size_t *run)
{
    const struct map_range *range = bus_lookup(&vm->memory, gpa);

    if (!range || !range_direct(range, write && !load))
        return NULL;
    *run = (size_t)min_u64(len - 1, range->last - gpa) + 1;
    return range_host(vm, range, gpa);
}

bool mem_read(struct vm *vm, gpa_t gpa, void *buf, size_t len)
{
    uint8_t *out = buf;

    while (len) {
        size_t run;
        const uint8_t *host = mem_run(vm, gpa, len, false, false, &run);

        if (!host)
            return false;
        memcpy(out, host, run);
        out += run;
        gpa += run;
        len -= run;
    }
    return true;
}

static bool write_run(struct vm *vm, gpa_t gpa, const void *buf, size_t len, bool load)
{
    const uint8_t *in = buf;

    while (len) {
        size_t run;
        uint8_t *host = mem_run(vm, gpa, len, true, load, &run);

        if (!host)
            return false;
        memcpy(host, in, run);
        ram_written(vm, (uint64_t)(host - vm->ram.host), run);
        in += run;
        gpa += run;
        len -= run;
    }
    return true;
}

bool mem_write(struct vm *vm, gpa_t gpa, const void *buf, size_t len)
{
    return write_run(vm, gpa, buf, len, false);
}

bool mem_load(struct vm *vm, gpa_t gpa, const void *buf, size_t len)
{
    return write_run(vm, gpa, buf, len, true);
}

void ram_written(struct vm *vm, uint64_t ram_offset, uint64_t len)
{
    if (vm->engine && vm->engine->ram_written)
        vm->engine->ram_written(vm, ram_offset, len);
}
