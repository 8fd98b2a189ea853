/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory accesses that the tag compare in interp.h did not settle. The order of checks is the
 * CPU's: canonical address (#GP, #SS), alignment (#AC), translation (#PF) of every page, and only
 * then does the first byte move; watchpoints are looked at last (#DB follows the instruction).
 */
#include "engine/interp/tlb.h"

#include <string.h>

#include "base/bytes.h"

#define MMIO_MAX 64 /* bytes that vcpu_mmio takes at once */

/* Linear addresses are 32 bits wide outside long mode. */
static gva_t linear(const struct interp *c, gva_t addr)
{
    return cpu_long_mode(&c->s) ? addr : (uint32_t)addr;
}

/* The first byte of the next page. */
static gva_t next_page(const struct interp *c, gva_t addr)
{
    gva_t next = (addr | PAGE_MASK) + 1;

    return c->code64 || addr > UINT32_MAX ? next : (uint32_t)next;
}

static size_t left_in_page(gva_t addr)
{
    return PAGE_SIZE - (addr & PAGE_MASK);
}

_Noreturn static void raise_noncanonical(struct interp *c, gva_t addr, enum access how)
{
    bool stack = how != ACCESS_EXEC &&
                 ((c->code64 && addr == c->stack_addr) || (c->cur && c->cur->seg == SEG_SS));

    c->stack_addr = 0;
    interp_raise_err(c, stack ? VEC_SS : VEC_GP, 0);
}

/* addr is the first byte of the access: `at` the one that is looked at. */
static void check_canonical(struct interp *c, gva_t addr, gva_t at, enum access how)
{
    if (unlikely(!canonical(at)) && cpu_long_mode(&c->s))
        raise_noncanonical(c, addr, how);
}

static void check_aligned(struct interp *c, gva_t addr, unsigned size, uint64_t key)
{
    if (unlikely((key & KEY_MODE) == KEY_USER_ALIGNED) && (addr & (size - 1)))
        interp_raise_err(c, VEC_AC, 0);
}

/* ---- one piece inside one page -------------------------------------------------------- */

/*
 * Copies to and from guest RAM in host accesses that the compiler and the sanitisers leave alone,
 * whole aligned words where the guest's side has them.
 */
static void copy_from_ram(uint8_t *to, const uint8_t *from, size_t len)
{
    while (len) {
        unsigned n = len >= 8 && !((uintptr_t)from & 7) ? 8 : 1;

        put_le(to, host_load(from, n), n);
        to += n;
        from += n;
        len -= n;
    }
}

static void copy_to_ram(uint8_t *to, const uint8_t *from, size_t len)
{
    while (len) {
        unsigned n = len >= 8 && !((uintptr_t)to & 7) ? 8 : 1;

        host_store(to, n, get_le(from, n));
        to += n;
        from += n;
        len -= n;
    }
}

static void mmio(struct interp *c, gpa_t gpa, uint8_t *buf, size_t len, bool write)
{
    if (unlikely(c->listener && c->listener->device))
        c->listener->device(c);
    c->vcpu->access_rip = c->cur ? interp_rip(c) : c->s.rip;
    interp_sync_clock(c);
    while (len) {
        unsigned n = (unsigned)min_u64(len, MMIO_MAX);

        vcpu_mmio(c->vcpu, gpa, buf, n, write);
        gpa += n;
        buf += n;
        len -= n;
    }
    access_after_io(c);
}

static void piece_read(struct interp *c, const struct tlb_place *place, uint8_t *buf, size_t len)
{
    if (likely(place->host))
        copy_from_ram(buf, place->host, len);
    else
        mmio(c, place->gpa, buf, len, false);
}

static void stored(struct interp *c, const struct tlb_place *place, size_t len)
{
    unsigned first = place->gpa & PAGE_MASK;

    if (unlikely(place->has_code))
        blocks_written(c, place->ram_page, first, first + (unsigned)len - 1);
}

static void piece_write(struct interp *c, const struct tlb_place *place, const uint8_t *buf,
                        size_t len)
{
    uint8_t copy[MMIO_MAX];

    if (likely(place->host)) {
        copy_to_ram(place->host, buf, len);
        stored(c, place, len);
        return;
    }
    for (size_t done = 0; done < len; done += sizeof(copy)) {
        size_t n = min_u64(len - done, sizeof(copy));

        memcpy(copy, buf + done, n);
        mmio(c, place->gpa + done, copy, n, true);
    }
}

/* The two pages of an access that crosses from one into the next. */
static void find_two(struct interp *c, gva_t addr, enum access how, uint64_t key,
                     struct tlb_place place[2])
{
    gva_t second = next_page(c, addr);

    check_canonical(c, addr, second, how);
    tlb_find(c, addr, how, key, &place[0]);
    tlb_find(c, second, how, key, &place[1]);
}

/* ---- words ---------------------------------------------------------------------------- */

uint64_t access_load_slow(struct interp *c, gva_t addr, unsigned size, uint64_t key)
{
    struct tlb_place place[2];
    uint8_t buf[8] = {0};
    size_t first;
    uint64_t v;

    addr = linear(c, addr);
    first = min_u64(size, left_in_page(addr));
    check_canonical(c, addr, addr, ACCESS_READ);
    check_aligned(c, addr, size, key);
    if (likely(first == size)) {
        tlb_find(c, addr, ACCESS_READ, key, &place[0]);
        if (likely(place[0].host)) {
            v = host_load(place[0].host, size);
        } else {
            mmio(c, place[0].gpa, buf, size, false);
            v = get_le64(buf);
        }
    } else {
        find_two(c, addr, ACCESS_READ, key, place);
        piece_read(c, &place[0], buf, first);
        piece_read(c, &place[1], buf + first, size - first);
        v = get_le64(buf);
    }
    if (unlikely(c->watches))
        tlb_watch_hit(c, addr, size, ACCESS_READ);
    return v;
}

void access_store_slow(struct interp *c, gva_t addr, unsigned size, uint64_t v, uint64_t key)
{
    struct tlb_place place[2];
    uint8_t buf[8];
    size_t first;

    addr = linear(c, addr);
    first = min_u64(size, left_in_page(addr));
    check_canonical(c, addr, addr, ACCESS_WRITE);
    check_aligned(c, addr, size, key);
    put_le64(buf, v);
    if (likely(first == size)) {
        tlb_find(c, addr, ACCESS_WRITE, key, &place[0]);
        if (likely(place[0].host)) {
            host_store(place[0].host, size, v);
            stored(c, &place[0], size);
        } else {
            mmio(c, place[0].gpa, buf, size, true);
        }
    } else {
        find_two(c, addr, ACCESS_WRITE, key, place);
        piece_write(c, &place[0], buf, first);
        piece_write(c, &place[1], buf + first, size - first);
    }
    if (unlikely(c->watches))
        tlb_watch_hit(c, addr, size, ACCESS_WRITE);
}

/* ---- runs ----------------------------------------------------------------------------- */

void *access_host(struct interp *c, gva_t addr, unsigned size, enum access how, uint64_t key)
{
    const struct tlb_entry *e = &c->tlb[TLB_SLOT(addr)];
    struct tlb_place place;

    if (tlb_hit(c, e, addr, size, how, key))
        return (void *)(uintptr_t)(addr + e->addend);
    addr = linear(c, addr);
    check_canonical(c, addr, addr, how);
    if (how != ACCESS_EXEC && size <= 8 && is_pow2(size))
        check_aligned(c, addr, size, key);
    if (size > left_in_page(addr))
        return NULL;
    tlb_find(c, addr, how, key, &place);
    return place.has_code || place.watched ? NULL : place.host;
}

void access_probe(struct interp *c, gva_t addr, size_t len, enum access how, uint64_t key)
{
    struct tlb_place place;
    gva_t first = linear(c, addr);

    if (c->code64 && len)
        check_canonical(c, first, first + len - 1, how);
    for (gva_t at = first; len;) {
        size_t n = min_u64(len, left_in_page(at));

        check_canonical(c, first, at, how);
        tlb_find(c, at, how, key, &place);
        at = next_page(c, at);
        len -= n;
    }
}

/*
 * Copies where at most two pages are concerned hold on to what they checked; longer ones look
 * twice.
 */
static void copy_run(struct interp *c, uint8_t *in, const uint8_t *out, gva_t addr, size_t len,
                     enum access how, uint64_t key)
{
    struct tlb_place place[2];
    gva_t first = linear(c, addr), at = first;
    size_t n = min_u64(len, left_in_page(at)), done = 0;
    bool two = len > n && len - n <= PAGE_SIZE;

    if (!len)
        return;
    check_canonical(c, first, first, how);
    if (two)
        find_two(c, first, how, key, place);
    else if (len > n)
        access_probe(c, first, len, how, key);
    for (unsigned i = 0; done < len; i++) {
        const struct tlb_place *p = &place[i & 1];

        if (!two)
            tlb_find(c, at, how, key, &place[i & 1]);
        if (in)
            piece_read(c, p, in + done, n);
        else
            piece_write(c, p, out + done, n);
        at = next_page(c, at);
        done += n;
        n = min_u64(len - done, PAGE_SIZE);
    }
    if (unlikely(c->watches) && how != ACCESS_EXEC)
        tlb_watch_hit(c, first, len, how);
}

void access_copy_in(struct interp *c, void *buf, gva_t addr, size_t len, uint64_t key)
{
    copy_run(c, buf, NULL, addr, len, ACCESS_READ, key);
}

void access_copy_out(struct interp *c, gva_t addr, const void *buf, size_t len, uint64_t key)
{
    copy_run(c, NULL, buf, addr, len, ACCESS_WRITE, key);
}

void access_fetch(struct interp *c, void *buf, gva_t addr, unsigned len)
{
    copy_run(c, buf, NULL, addr, len, ACCESS_EXEC, c->key);
}
