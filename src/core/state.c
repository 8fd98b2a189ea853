/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State records: u8 name length, name, u8 kind, u32 count, u32 length of the payload, payload. A struct
 * field's payload is, per element, u32 number of records and the records. A whole table is u32 version,
 * u32 number of records, records. All little-endian; scalars have their own size in bytes.
 */
#include "core/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

void state_buf_fini(struct state_buf *buf)
{
    free(buf->data);
    memset(buf, 0, sizeof(*buf));
}

static uint8_t *buf_grow(struct state_buf *buf, size_t len)
{
    uint8_t *p;

    if (buf->failed)
        return NULL;
    if (buf->cap - buf->len < len) {
        size_t cap = buf->cap * 2 + len + 256;

        p = realloc(buf->data, cap);
        if (!p) {
            buf->failed = true;
            return NULL;
        }
        buf->data = p;
        buf->cap = cap;
    }
    p = buf->data + buf->len;
    buf->len += len;
    return p;
}

void state_buf_append(struct state_buf *buf, const void *data, size_t len)
{
    uint8_t *p = buf_grow(buf, len);

    if (p && len)
        memcpy(p, data, len);
}

static void buf_put32(struct state_buf *buf, uint32_t v)
{
    uint8_t b[4];

    put_le32(b, v);
    state_buf_append(buf, b, sizeof(b));
}

static bool buf_get(struct state_buf *buf, void *out, size_t len)
{
    if (!range_ok(buf->pos, len, buf->len))
        return false;
    memcpy(out, buf->data + buf->pos, len);
    buf->pos += len;
    return true;
}

static bool buf_get32(struct state_buf *buf, uint32_t *v)
{
    uint8_t b[4];

    if (!buf_get(buf, b, sizeof(b)))
        return false;
    *v = get_le32(b);
    return true;
}

static void save_fields(const struct state_field *fields, unsigned n, const uint8_t *base,
                        struct state_buf *out)
{
    for (unsigned i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];
        uint8_t name_len = (uint8_t)strlen(f->name);
        uint8_t kind = (uint8_t)f->kind;
        size_t len_at, start;

        state_buf_append(out, &name_len, 1);
        state_buf_append(out, f->name, name_len);
        state_buf_append(out, &kind, 1);
        buf_put32(out, f->count);
        len_at = out->len;
        buf_put32(out, 0);
        start = out->len;
        if (f->kind == STATE_KIND_STRUCT) {
            for (unsigned e = 0; e < f->count; e++) {
                buf_put32(out, f->nfields);
                save_fields(f->fields, f->nfields, base + f->offset + (size_t)e * f->size, out);
            }
        } else {
            state_buf_append(out, base + f->offset, (size_t)f->size * f->count);
        }
        if (!out->failed)
            put_le32(out->data + len_at, (uint32_t)(out->len - start));
    }
}

void state_save(const struct state *st, const void *obj, struct state_buf *out)
{
    buf_put32(out, st->version);
    buf_put32(out, st->nfields);
    save_fields(st->fields, st->nfields, (const uint8_t *)obj + st->offset, out);
}

static int64_t sign_extend(uint64_t v, unsigned size)
{
    unsigned shift = 64 - size * 8;

    return (int64_t)(v << shift) >> shift;
}

static bool scalar_ok(const struct state_field *f, const uint8_t *p)
{
    uint64_t v = get_le(p, f->size);

    if (f->kind == STATE_KIND_INT)
        return sign_extend(v, f->size) >= (int64_t)f->min &&
               sign_extend(v, f->size) <= (int64_t)f->max;
    return v >= f->min && v <= f->max;
}

static const struct state_field *find_field(const struct state_field *fields, unsigned n,
                                            const char *name)
{
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(fields[i].name, name))
            return &fields[i];
    return NULL;
}

static int load_fields(const struct state_field *fields, unsigned n, uint8_t *base,
                       uint32_t records, struct state_buf *in, struct err *err)
{
    /* More records than fields means a name twice: refused, so that a small file cannot cost much. */
    if (records > n)
        return err_set(err, EINVAL, "saved state has %u fields where %u are known", records, n);
    for (uint32_t r = 0; r < records; r++) {
        const struct state_field *f;
        uint8_t name_len, kind;
        uint32_t count, len;
        char name[256];

        if (!buf_get(in, &name_len, 1) || !buf_get(in, name, name_len) || !buf_get(in, &kind, 1) ||
            !buf_get32(in, &count) || !buf_get32(in, &len) || !range_ok(in->pos, len, in->len))
            return err_set(err, EINVAL, "saved state is cut off");
        name[name_len] = 0;
        f = find_field(fields, n, name);
        if (!f)
            return err_set(err, EINVAL, "saved state has the unknown field '%.64s'", name);
        if (kind != f->kind || count != f->count)
            return err_set(err, EINVAL, "saved field '%s' has another shape than this version's",
                           f->name);
        if (f->kind == STATE_KIND_STRUCT) {
            size_t end = in->pos + len;

            for (unsigned e = 0; e < f->count; e++) {
                uint32_t sub;
                int ret;

                if (!buf_get32(in, &sub))
                    return err_set(err, EINVAL, "saved state is cut off");
                ret = load_fields(f->fields, f->nfields, base + f->offset + (size_t)e * f->size,
                                  sub, in, err);
                if (ret)
                    return ret;
            }
            if (in->pos != end)
                return err_set(err, EINVAL, "saved field '%s' has the wrong length", f->name);
            continue;
        }
        if (len != (uint64_t)f->size * f->count)
            return err_set(err, EINVAL, "saved field '%s' has the wrong length", f->name);
        if (f->kind != STATE_KIND_BYTES)
            for (unsigned e = 0; e < f->count; e++)
                if (!scalar_ok(f, in->data + in->pos + (size_t)e * f->size))
                    return err_set(err, EINVAL, "saved field '%s' is out of range", f->name);
        memcpy(base + f->offset, in->data + in->pos, len);
        in->pos += len;
    }
    return 0;
}

int state_load(const struct state *st, void *obj, struct state_buf *in, struct err *err)
{
    uint32_t version, records;

    if (!buf_get32(in, &version) || !buf_get32(in, &records))
        return err_set(err, EINVAL, "saved state is cut off");
    if (version > st->version)
        return err_set(err, EINVAL, "saved state has version %u, this build knows up to %u", version,
                       st->version);
    return load_fields(st->fields, st->nfields, (uint8_t *)obj + st->offset, records, in, err);
}

/* Marks what `fields` cover in map; false at the first byte out of bounds or covered twice. */
static bool audit_fields(const struct state_field *fields, unsigned n, uint8_t *map, uint32_t base,
                         uint32_t size, uint32_t *where)
{
    for (unsigned i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];

        for (uint32_t e = 0; e < f->count; e++) {
            uint32_t start = base + f->offset + e * f->size;

            *where = start;
            if (!range_ok(start, f->size, size))
                return false;
            if (f->kind == STATE_KIND_STRUCT) {
                uint8_t *sub = calloc(1, f->size);
                bool ok = sub && audit_fields(f->fields, f->nfields, sub, 0, f->size, where);

                for (uint32_t b = 0; ok && b < f->size; b++) {
                    ok = sub[b];
                    *where = b;
                }
                free(sub);
                if (!ok) {
                    *where += start;
                    return false;
                }
            }
            for (uint32_t b = start; b < start + f->size; b++) {
                *where = b;
                if (map[b]++)
                    return false;
            }
        }
    }
    return true;
}

bool state_audit(const struct state *st, uint32_t *where)
{
    uint8_t *map;
    bool ok;

    *where = 0;
    if (st->none)
        return true;
    map = calloc(1, st->size + 1);
    ok = map && audit_fields(st->fields, st->nfields, map, 0, st->size, where);
    for (uint32_t b = 0; ok && b < st->size; b++) {
        ok = map[b];
        *where = b;
    }
    free(map);
    return ok;
}

static void visit_fields(const struct state_field *fields, unsigned n, const uint8_t *base,
                         const char *prefix, state_visit_fn *cb, void *opaque)
{
    char path[256];

    for (unsigned i = 0; i < n; i++) {
        const struct state_field *f = &fields[i];

        for (unsigned e = 0; e < f->count; e++) {
            const uint8_t *p = base + f->offset + (size_t)e * f->size;

            if (f->names)
                snprintf(path, sizeof(path), "%s%s", prefix, f->names[e]);
            else if (f->count > 1)
                snprintf(path, sizeof(path), "%s%s[%u]", prefix, f->name, e);
            else
                snprintf(path, sizeof(path), "%s%s", prefix, f->name);
            if (f->kind == STATE_KIND_STRUCT) {
                size_t len = strlen(path);

                snprintf(path + len, sizeof(path) - len, ".");
                visit_fields(f->fields, f->nfields, p, path, cb, opaque);
            } else {
                cb(opaque, path, f, p);
            }
        }
    }
}

void state_visit(const struct state *st, const void *obj, state_visit_fn *cb, void *opaque)
{
    visit_fields(st->fields, st->nfields, (const uint8_t *)obj + st->offset, "", cb, opaque);
}
