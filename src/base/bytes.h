/* SPDX-License-Identifier: Apache-2.0 */
/* Little- and big-endian fields in byte buffers, at any alignment; and checked sizes. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <string.h>

#include "base/types.h"

#define BYTES_ACCESSOR(bits)                                                                       \
    static inline uint##bits##_t get_le##bits(const void *p)                                       \
    {                                                                                              \
        uint##bits##_t v;                                                                          \
        memcpy(&v, p, sizeof(v));                                                                  \
        return v;                                                                                  \
    }                                                                                              \
    static inline void put_le##bits(void *p, uint##bits##_t v)                                     \
    {                                                                                              \
        memcpy(p, &v, sizeof(v));                                                                  \
    }

BYTES_ACCESSOR(16)
BYTES_ACCESSOR(32)
BYTES_ACCESSOR(64)

/* The low `size` (1 to 8) bytes at p, little-endian. */
static inline uint64_t get_le(const void *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size > 8 ? 8 : size);
    return v;
}

static inline void put_le(void *p, uint64_t v, unsigned size)
{
    memcpy(p, &v, size > 8 ? 8 : size);
}

/* True if [off, off + len) lies inside [0, size), without wrapping. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t size)
{
    return off <= size && len <= size - off;
}

/* False on overflow, *out untouched then. */
static inline bool add_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;

    if (__builtin_add_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

static inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    uint64_t r;

    if (__builtin_mul_overflow(a, b, &r))
        return false;
    *out = r;
    return true;
}

#endif
