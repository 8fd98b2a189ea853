/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bus.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "core/vm.h"

void space_init(struct space *space, struct vm *vm, const char *name, bool is_io, uint64_t last)
{
    *space = (struct space){.name = name, .vm = vm, .is_io = is_io, .last = last};
    atomic_store(&space->map, calloc(1, sizeof(struct map)));
    assert(atomic_load(&space->map));
}

void space_fini(struct space *space)
{
    free(atomic_load(&space->map));
    free(space->regions);
    *space = (struct space){0};
}

/* ---- building the map ----------------------------------------------------------------------- */

static uint64_t region_last(const struct space *space, const struct region *r)
{
    uint64_t last;

    if (!add_ok(r->base, r->size - 1, &last) || last > space->last)
        last = space->last;
    return last;
}

static bool region_visible(const struct space *space, const struct region *r)
{
    return !r->disabled && r->size && r->base <= space->last;
}

/* The region that wins at addr: the highest priority, then the one mapped last. */
static struct region *region_at(const struct space *space, uint64_t addr)
{
    struct region *best = NULL;

    for (unsigned i = 0; i < space->nregions; i++) {
        struct region *r = space->regions[i];

        if (!region_visible(space, r) || addr < r->base || addr > region_last(space, r))
            continue;
        if (!best || r->priority > best->priority ||
            (r->priority == best->priority && r->order > best->order))
            best = r;
    }
    return best;
}

static int cmp_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Every address at which the winner can change, sorted; edges has room for 2 * nregions. */
static unsigned map_edges(const struct space *space, uint64_t *edges)
{
    unsigned n = 0;

    for (unsigned i = 0; i < space->nregions; i++) {
        const struct region *r = space->regions[i];

        if (!region_visible(space, r))
            continue;
        edges[n++] = r->base;
        if (region_last(space, r) != space->last)
            edges[n++] = region_last(space, r) + 1;
    }
    qsort(edges, n, sizeof(*edges), cmp_u64);
    return n;
}

static struct map *map_build(const struct space *space)
{
    uint64_t *edges = calloc(2 * space->nregions + 1, sizeof(*edges));
    struct map *map;
    unsigned n;

    assert(edges);
    n = map_edges(space, edges);
    map = calloc(1, sizeof(*map) + n * sizeof(map->ranges[0]));
    assert(map);
    for (unsigned i = 0; i < n; i++) {
        uint64_t start = edges[i], last = i + 1 < n ? edges[i + 1] - 1 : space->last;
        struct region *r;
        struct map_range *prev = map->count ? &map->ranges[map->count - 1] : NULL;

        if (i + 1 < n && edges[i + 1] == start)
            continue;
        r = region_at(space, start);
        if (!r)
            continue;
        if (prev && prev->region == r && prev->last + 1 == start) {
            prev->last = last;
            continue;
        }
        map->ranges[map->count++] =
            (struct map_range){.start = start, .last = last, .offset = start - r->base, .region = r};
    }
    free(edges);
    return map;
}

static const struct map_range *next_direct(const struct map *map, unsigned *i)
{
    while (*i < map->count && map->ranges[*i].region->kind == REGION_IO)
        ++*i;
    return *i < map->count ? &map->ranges[(*i)++] : NULL;
}

/* True if both maps show the same RAM and ROM at the same places: handlers leave no trace in a TLB. */
static bool same_direct(const struct map *a, const struct map *b)
{
    unsigned i = 0, j = 0;

    for (;;) {
        const struct map_range *x = next_direct(a, &i), *y = next_direct(b, &j);

        if (!x || !y)
            return x == y;
        if (x->start != y->start || x->last != y->last || x->region->kind != y->region->kind ||
            x->region->ram_offset + x->offset != y->region->ram_offset + y->offset)
            return false;
    }
}

/* Frees the retired maps that no vCPU can still be reading. Machine lock held. */
static void map_reclaim(struct vm *vm)
{
    uint64_t seen = UINT64_MAX;
    struct map **p = &vm->retired;

    for (unsigned i = 0; i < vm->nvcpus; i++)
        seen = min_u64(seen, atomic_load(&vm->vcpus[i]->seen_epoch));
    while (*p) {
        struct map *map = *p;

        if (map->generation < seen) {
            *p = map->retired_next;
            free(map);
        } else {
            p = &map->retired_next;
        }
    }
}

static void space_rebuild(struct space *space)
{
    struct vm *vm = space->vm;
    struct map *old = atomic_load(&space->map), *map;
    bool changed;

    space->dirty = false;
    map = map_build(space);
    changed = !space->is_io && !same_direct(old, map);
    atomic_store(&space->map, map);
    old->generation = atomic_fetch_add(&vm->epoch, 1);
    old->retired_next = vm->retired;
    vm->retired = old;
    map_reclaim(vm);
    if (changed && vm->engine && vm->engine->slot_changed)
        vm->engine->slot_changed(vm, 0, UINT64_MAX);
}

void bus_begin(struct space *space)
{
    space->batch++;
}

void bus_commit(struct space *space)
{
    assert(space->batch);
    if (--space->batch == 0 && space->dirty)
        space_rebuild(space);
}

static void space_changed(struct space *space)
{
    space->dirty = true;
    if (!space->batch)
        space_rebuild(space);
}

void bus_map(struct space *space, struct region *region, uint64_t base)
{
    assert(!region->space && region->size);
    if (space->nregions == space->cap) {
        space->cap = space->cap * 2 + 16;
        space->regions = realloc(space->regions, space->cap * sizeof(struct region *));
        assert(space->regions);
    }
    region->space = space;
    region->base = base;
    region->order = space->next_order++;
    space->regions[space->nregions++] = region;
    space_changed(space);
}

void bus_unmap(struct region *region)
{
    struct space *space = region->space;

    if (!space)
        return;
    for (unsigned i = 0; i < space->nregions; i++)
        if (space->regions[i] == region)
            space->regions[i] = space->regions[--space->nregions];
    region->space = NULL;
    space_changed(space);
}

void bus_move(struct space *space, struct region *region, uint64_t base)
{
    if (!region->space) {
        bus_map(space, region, base);
        return;
    }
    if (region->base == base)
        return;
    region->base = base;
    space_changed(space);
}

void bus_set_enabled(struct region *region, bool enabled)
{
    if (region->disabled == !enabled)
        return;
    region->disabled = !enabled;
    if (region->space)
        space_changed(region->space);
}

/* ---- lookup and dispatch --------------------------------------------------------------------- */

const struct map_range *bus_lookup(struct space *space, uint64_t addr)
{
    const struct map *map = atomic_load_explicit(&space->map, memory_order_acquire);
    unsigned lo = 0, hi = map->count;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (map->ranges[mid].last < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < map->count && map->ranges[lo].start <= addr)
        return &map->ranges[lo];
    return NULL;
}

static const char *reg_name(const struct io_ops *ops, uint64_t off)
{
    for (const struct io_reg *r = ops->regs; r && r->name; r++)
        if (off >= r->offset && off - r->offset < r->width)
            return r->name;
    return NULL;
}

static void unknown_access(struct vm *vm, struct trace_rec rec)
{
    atomic_fetch_add(&vm->trace.unknown, 1);
    rec.kind = TRACE_UNKNOWN;
    if (trace_on(&vm->trace))
        trace_emit(&vm->trace, rec);
}

static struct trace_rec access_rec(struct space *space, struct bus_from from, uint64_t addr,
                                   const struct region *region, uint64_t off, uint64_t value,
                                   unsigned size, bool write)
{
    return (struct trace_rec){
        .kind = space->is_io ? TRACE_PIO : TRACE_MMIO,
        .rip = from.rip,
        .addr = addr,
        .value = value,
        .device = region ? (region->owner ? region->owner->name : region->name) : "bus",
        .name = region ? reg_name(region->ops, off) : NULL,
        .size = (uint8_t)size,
        .write = write,
        .vcpu = (int8_t)from.vcpu,
    };
}

/* One access of a width the handlers take. The value is traced here and nowhere else. */
static void io_one(struct space *space, struct bus_from from, uint64_t addr, struct region *region,
                   uint64_t off, uint8_t *data, unsigned size, bool write)
{
    struct vm *vm = space->vm;
    struct device *dev = region->owner;
    bool locked = !region->ops->lockless;
    uint64_t value = write ? get_le(data, size) : 0;

    /* A device never re-enters itself: DMA reaches RAM only, so this takes a wiring mistake. */
    if (locked && dev) {
        if (dev->engaged) {
            if (!write)
                memset(data, 0xff, size);
            return;
        }
        dev->engaged = true;
    }
    if (write) {
        region->ops->write(region->dev, off, value, size);
    } else {
        value = region->ops->read(region->dev, off, size) & mask_bytes(size);
        put_le(data, value, size);
    }
    if (locked && dev)
        dev->engaged = false;
    if (locked || trace_on(&vm->trace)) {
        struct trace_rec rec = access_rec(space, from, addr, region, off, value, size, write);

        if (locked) {
            rec.ns = clock_now(vm->clock);
            vm->trace.last[vm->trace.last_n++ % TRACE_LAST] = rec;
        }
        if (trace_on(&vm->trace))
            trace_emit(&vm->trace, rec);
    }
}

static unsigned sizes_max(unsigned sizes)
{
    return sizes & IO_8 ? 8 : sizes & IO_4 ? 4 : sizes & IO_2 ? 2 : 1;
}

/* Splits an access that lies inside one region into widths its handlers take. */
static void io_split(struct space *space, struct bus_from from, uint64_t addr, struct region *region,
                     uint64_t off, uint8_t *data, unsigned size, bool write)
{
    unsigned sizes = region->ops->sizes;

    while (size) {
        unsigned piece = sizes_max(sizes);

        while (piece > 1 && (piece > size || (piece != size && off % piece) || !(sizes & piece)))
            piece /= 2;
        if (!(sizes & piece)) {
            if (!write)
                memset(data, 0xff, size);
            unknown_access(space->vm, access_rec(space, from, addr, region, off,
                                                 get_le(data, size), size, write));
            return;
        }
        io_one(space, from, addr, region, off, data, piece, write);
        addr += piece;
        off += piece;
        data += piece;
        size -= piece;
    }
}

/* What lies in one run of the map (or in a hole: range NULL). */
static void access_run(struct space *space, struct bus_from from, const struct map_range *range,
                       uint64_t addr, uint8_t *data, unsigned size, bool write)
{
    struct vm *vm = space->vm;
    struct region *region = range ? range->region : NULL;
    uint64_t off = range ? range->offset + (addr - range->start) : 0;
    uint8_t *host;

    if (!region) {
        if (!write)
            memset(data, 0xff, size);
        unknown_access(vm, access_rec(space, from, addr, NULL, 0, get_le(data, size), size, write));
        return;
    }
    if (region->kind == REGION_IO || (region->kind == REGION_ROMD && write)) {
        io_split(space, from, addr, region, off, data, size, write);
        return;
    }
    host = vm->ram.host + region->ram_offset + off;
    if (!write) {
        memcpy(data, host, size);
    } else if (region->kind == REGION_RAM) {
        memcpy(host, data, size);
        ram_written(vm, (uint64_t)(host - vm->ram.host), size);
    }
}

static void access_locked(struct space *space, struct bus_from from, uint64_t addr, uint8_t *data,
                          unsigned size, bool write)
{
    while (size) {
        const struct map_range *range = bus_lookup(space, addr);
        unsigned run = 1;

        if (range) {
            run = (unsigned)min_u64(size - 1, range->last - addr) + 1;
        } else {
            while (run < size && addr + run <= space->last && !bus_lookup(space, addr + run))
                run++;
        }
        access_run(space, from, range, addr, data, run, write);
        if (run < size && addr + run - 1 >= space->last) {
            /* Past the end of the space: nothing answers. */
            if (!write)
                memset(data + run, 0xff, size - run);
            return;
        }
        addr += run;
        data += run;
        size -= run;
    }
}

void bus_access(struct space *space, struct bus_from from, uint64_t addr, void *data, unsigned size,
                bool write)
{
    vm_lock(space->vm);
    access_locked(space, from, addr, data, size, write);
    vm_unlock(space->vm);
}

void bus_access_rep(struct space *space, struct bus_from from, uint64_t addr, void *data,
                    unsigned size, unsigned count, bool write)
{
    vm_lock(space->vm);
    for (unsigned i = 0; i < count; i++)
        access_locked(space, from, addr, (uint8_t *)data + (size_t)i * size, size, write);
    vm_unlock(space->vm);
}

void bus_access_region(struct space *space, struct bus_from from, struct region *region,
                       uint64_t base, uint64_t off, void *data, unsigned size, bool write)
{
    if (!region->ops->lockless)
        vm_lock(space->vm);
    io_split(space, from, base + off, region, off, data, size, write);
    if (!region->ops->lockless)
        vm_unlock(space->vm);
}

/* ---- accesses to what is not there ----------------------------------------------------------- */

static void io_bad(struct device *dev, uint64_t off, uint64_t val, unsigned size, bool write)
{
    struct trace_rec rec = {.kind = TRACE_UNKNOWN, .addr = off, .value = val, .device = dev->name,
                            .size = (uint8_t)size, .write = write, .vcpu = -1};

    atomic_fetch_add(&dev->vm->trace.unknown, 1);
    if (dev->bad_accesses++ == 0)
        log_debug(dev->name, "the guest %s offset %#llx, which is no register of it",
                  write ? "wrote" : "read", (unsigned long long)off);
    if (trace_on(&dev->vm->trace))
        trace_emit(&dev->vm->trace, rec);
}

uint64_t io_bad_read(struct device *dev, uint64_t off, unsigned size)
{
    io_bad(dev, off, 0, size, false);
    return UINT64_MAX;
}

void io_bad_write(struct device *dev, uint64_t off, uint64_t val, unsigned size)
{
    io_bad(dev, off, val, size, true);
}
