/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State tables. Everything a device saves stands in one nested struct, `state`, and is listed once in
 * a table of fields with their legal ranges. Save, load, `doppel inspect`, the round-trip test, the
 * struct audit (every byte of the struct is listed, so it has no padding) and the fuzzers all read the
 * same table; the table is the format: a record is field name, kind, count, bytes. Loading matches by
 * name: a field that is absent keeps the reset value, an unknown name or a value out of range is
 * refused.
 *
 *     struct i8254_state { struct i8254_channel ch[3]; uint8_t port61; ... };
 *     static const struct state_field channel_fields[] = {
 *         STATE_UINT(struct i8254_channel, mode, 0, 5),
 *         STATE_BOOL(struct i8254_channel, gate),
 *     };
 *     static const struct state_field fields[] = {
 *         STATE_STRUCTS(struct i8254_state, ch, channel_fields),
 *         STATE_UINT(struct i8254_state, port61, 0, 0xff),
 *     };
 *     const struct state i8254_state = STATE(struct i8254, state, 1, fields);
 *
 * An array's elements are shown as ch[0], ch[1]... A table that knows them by better names lists those
 * (the _NAMED forms): they are for people, and not part of the format.
 */
#ifndef CORE_STATE_H
#define CORE_STATE_H

#include "base/err.h"
#include "base/types.h"

enum state_kind {
    STATE_KIND_UINT,   /* unsigned, 1 to 8 bytes, range checked */
    STATE_KIND_INT,    /* signed, 1 to 8 bytes, range checked */
    STATE_KIND_BOOL,   /* bool: 0 or 1 */
    STATE_KIND_BYTES,  /* opaque bytes: memory contents, vector registers */
    STATE_KIND_STRUCT, /* nested struct(s) with a table of their own */
};

struct state_field {
    const char *name;
    enum state_kind kind;
    uint32_t offset; /* from the start of the enclosing struct */
    uint32_t size;   /* of one element */
    uint32_t count;  /* elements */
    uint64_t min, max; /* inclusive; as int64_t for STATE_KIND_INT */
    const struct state_field *fields; /* STATE_KIND_STRUCT */
    uint32_t nfields;
    const char *const *names; /* of the elements, `count` of them; NULL: name[0], name[1]... */
};

struct state {
    uint32_t version;
    uint32_t offset; /* of the state struct inside the device struct */
    uint32_t size;
    const struct state_field *fields;
    uint32_t nfields;
    const char *none; /* why there is nothing to save; then there are no fields */
};

#define STATE_ELEM_(type, m) sizeof(((type *)0)->m)
#define STATE_COUNT_(type, m) (STATE_ELEM_(type, m) / STATE_ELEM_(type, m[0]))
/* The list, which must have as many names as the array has elements. */
#define STATE_NAMES_(type, m, list)                                                                \
    ((list) + 0 * sizeof(char[ARRAY_LEN(list) == STATE_COUNT_(type, m) ? 1 : -1]))
#define STATE_FIELD_(type, m, k, sz, n, lo, hi, f, nf, nm)                                         \
    {                                                                                              \
        .name = #m, .kind = (k), .offset = offsetof(type, m), .size = (sz), .count = (n),          \
        .min = (uint64_t)(lo), .max = (uint64_t)(hi), .fields = (f), .nfields = (nf),              \
        .names = (nm)                                                                              \
    }

#define STATE_UINT(type, m, lo, hi)                                                                \
    STATE_FIELD_(type, m, STATE_KIND_UINT, STATE_ELEM_(type, m), 1, lo, hi, NULL, 0, NULL)
#define STATE_INT(type, m, lo, hi)                                                                 \
    STATE_FIELD_(type, m, STATE_KIND_INT, STATE_ELEM_(type, m), 1, (int64_t)(lo), (int64_t)(hi),   \
                 NULL, 0, NULL)
#define STATE_BOOL(type, m) STATE_FIELD_(type, m, STATE_KIND_BOOL, 1, 1, 0, 1, NULL, 0, NULL)
#define STATE_BYTES(type, m)                                                                       \
    STATE_FIELD_(type, m, STATE_KIND_BYTES, STATE_ELEM_(type, m), 1, 0, 0, NULL, 0, NULL)
#define STATE_STRUCT(type, m, table)                                                               \
    STATE_FIELD_(type, m, STATE_KIND_STRUCT, STATE_ELEM_(type, m), 1, 0, 0, table,                 \
                 ARRAY_LEN(table), NULL)

#define STATE_UINTS_(type, m, lo, hi, nm)                                                          \
    STATE_FIELD_(type, m, STATE_KIND_UINT, STATE_ELEM_(type, m[0]), STATE_COUNT_(type, m), lo, hi, \
                 NULL, 0, nm)
#define STATE_STRUCTS_(type, m, table, nm)                                                         \
    STATE_FIELD_(type, m, STATE_KIND_STRUCT, STATE_ELEM_(type, m[0]), STATE_COUNT_(type, m), 0, 0, \
                 table, ARRAY_LEN(table), nm)
#define STATE_UINTS(type, m, lo, hi) STATE_UINTS_(type, m, lo, hi, NULL)
#define STATE_UINTS_NAMED(type, m, lo, hi, list)                                                   \
    STATE_UINTS_(type, m, lo, hi, STATE_NAMES_(type, m, list))
#define STATE_BOOLS(type, m)                                                                       \
    STATE_FIELD_(type, m, STATE_KIND_BOOL, 1, STATE_ELEM_(type, m), 0, 1, NULL, 0, NULL)
#define STATE_STRUCTS(type, m, table) STATE_STRUCTS_(type, m, table, NULL)
#define STATE_STRUCTS_NAMED(type, m, table, list)                                                  \
    STATE_STRUCTS_(type, m, table, STATE_NAMES_(type, m, list))
/* An array of opaque things of m[0]'s size: vector registers. */
#define STATE_ROWS_NAMED(type, m, list)                                                            \
    STATE_FIELD_(type, m, STATE_KIND_BYTES, STATE_ELEM_(type, m[0]), STATE_COUNT_(type, m), 0, 0,  \
                 NULL, 0, STATE_NAMES_(type, m, list))

#define STATE(dev, member, ver, table)                                                             \
    {                                                                                              \
        .version = (ver), .offset = offsetof(dev, member), .size = STATE_ELEM_(dev, member),       \
        .fields = (table), .nfields = ARRAY_LEN(table)                                             \
    }
#define STATE_NONE(why)                                                                            \
    {                                                                                              \
        .none = (why)                                                                              \
    }

/* A growing byte buffer (save) or a bounded one being read (load). */
struct state_buf {
    uint8_t *data;
    size_t len, cap, pos;
    bool failed; /* out of memory while saving */
};

void state_buf_fini(struct state_buf *buf);
void state_buf_append(struct state_buf *buf, const void *data, size_t len);

/* Appends the records of `obj` (the device, or whatever struct the table's offset counts from). */
void state_save(const struct state *st, const void *obj, struct state_buf *out);

/*
 * Reads records written by state_save into obj. The input is hostile: every length, name, count and
 * range is checked before use. On error obj may be half loaded: the caller resets it.
 */
int state_load(const struct state *st, void *obj, struct state_buf *in, struct err *err);

/*
 * The struct audit: true if every byte of the state struct is listed exactly once. Otherwise *where is
 * the first offset that is not (or is listed twice).
 */
bool state_audit(const struct state *st, uint32_t *where);

/* Walks every scalar for printing: cb gets a dotted path such as "ch[1].mode", or "cs.base" where elements have names. */
typedef void state_visit_fn(void *opaque, const char *path, const struct state_field *field,
                            const void *value);
void state_visit(const struct state *st, const void *obj, state_visit_fn *cb, void *opaque);

#endif
