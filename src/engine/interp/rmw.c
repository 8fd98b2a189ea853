/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read-modify-write access to guest memory (int.h). A LOCKed one is a single LOCKed host
 * instruction on the guest's RAM where that is atomic; across a page or a cache line, on a page
 * with code or a watchpoint, and on MMIO the world stops instead (vcpu_exclusive_begin). A locked
 * access across cache lines would be atomic on the host as well, but hosts trap or delay it.
 */
#include "engine/interp/int.h"

void *rmw_slow(struct interp *c, gva_t lin, unsigned size)
{
    void *p = access_host(c, lin, size, ACCESS_WRITE, c->key);

    if (!p)
        access_probe(c, lin, size, ACCESS_WRITE, c->key);
    return p;
}

void rmw_open(struct interp *c, struct rmw *m, gva_t lin, unsigned size, bool lock)
{
    m->lin = lin;
    m->size = size;
    m->exclusive = false;
    m->p = rmw_host(c, lin, size);
    if (m->p && (lin & 63) + size <= 64)
        return;
    if (lock) {
        vcpu_exclusive_begin(c->vcpu);
        c->exclusive = 1;
        m->exclusive = true;
    }
    m->p = m->buf;
    if (size <= 8) {
        uint64_t v = access_load(c, lin, size, c->key);

        memcpy(m->buf, &v, sizeof(v));
    } else {
        access_copy_in(c, m->buf, lin, size, c->key);
    }
}

void rmw_close(struct interp *c, struct rmw *m)
{
    if (m->p != m->buf)
        return;
    if (m->size <= 8) {
        uint64_t v;

        memcpy(&v, m->buf, sizeof(v));
        access_store(c, m->lin, m->size, v & mask_bytes(m->size), c->key);
    } else {
        access_copy_out(c, m->lin, m->buf, m->size, c->key);
    }
    if (m->exclusive) {
        c->exclusive = 0;
        vcpu_exclusive_end(c->vcpu);
    }
}
