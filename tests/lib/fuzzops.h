/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What fuzz targets of chips share: bytes of the input as operations, and state that was saved,
 * changed in a few places and loaded again.
 */
#ifndef TESTS_LIB_FUZZOPS_H
#define TESTS_LIB_FUZZOPS_H

#include <string.h>

#include "tests/lib/testvm.h"

/* What a target defines: libFuzzer and fuzzmain.c call it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_in {
    const uint8_t *data;
    size_t size;
};

static inline uint64_t fuzz_take(struct fuzz_in *in, unsigned bytes)
{
    uint64_t v = 0;
    size_t n = in->size < bytes ? in->size : bytes;

    memcpy(&v, in->data, n);
    in->data += n;
    in->size -= n;
    return v;
}

/* 1, 2, 4 or 8. */
static inline unsigned fuzz_width(struct fuzz_in *in)
{
    return 1u << (fuzz_take(in, 1) & 3);
}

/* Mostly small steps, now and then a long one. */
static inline void fuzz_time(struct fuzz_in *in, struct testvm *tv)
{
    uint64_t n = fuzz_take(in, 2);

    testvm_advance(tv, n & 0x8000 ? (int64_t)(n & 0x7fff) * 1000 : (int64_t)(n & 0xfff));
}

/* Either raw bytes or the device's own state with up to 8 bytes changed. */
static inline void fuzz_load(struct fuzz_in *in, struct device *dev)
{
    struct state_buf buf = {0};
    unsigned changes = (unsigned)fuzz_take(in, 1) & 7;

    state_save(dev->type->state, dev, &buf);
    for (unsigned i = 0; buf.len && i < changes; i++) {
        size_t at = (size_t)fuzz_take(in, 2) * 7 % buf.len;

        buf.data[at] = (uint8_t)fuzz_take(in, 1);
    }
    testvm_load(dev, buf.data, buf.len);
    state_buf_fini(&buf);
}

static inline void fuzz_reset(struct fuzz_in *in, struct device *dev)
{
    vm_lock(dev->vm);
    device_reset(dev, (enum reset_kind)(fuzz_take(in, 1) & 3));
    vm_unlock(dev->vm);
}

#endif
