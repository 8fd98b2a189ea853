/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/testvm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

static void fail(const char *fmt, ...) PRINTF_LIKE(1, 2);

static void fail(const char *fmt, ...)
{
    va_list ap;

    fputs("testvm: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

static void record_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct testvm *tv = opaque;

    if (tv->nmsis < TESTVM_MSIS)
        tv->msis[tv->nmsis] = (struct testvm_msi){.addr = addr, .data = data};
    tv->nmsis++;
}

struct testvm *testvm_new(void)
{
    static const struct vm_config config = {
        .name = "test",
        .ram_bytes = TESTVM_RAM_BYTES,
        .clock = CLOCK_MANUAL,
    };
    struct testvm *tv = calloc(1, sizeof(*tv));
    struct err err = {0};

    if (!tv || vm_init(&tv->vm, &config, &err))
        fail("vm_init: %s", err.text);
    clock_set_wall_base(tv->vm.clock, TESTVM_WALL);
    tv->vm.msi_sink = record_msi;
    tv->vm.msi_opaque = tv;
    tv->ram = (struct region){
        .name = "ram",
        .kind = REGION_RAM,
        .size = TESTVM_RAM_BYTES,
    };
    if (ram_alloc(&tv->vm.ram, TESTVM_RAM_BYTES, &tv->ram.ram_offset, &err))
        fail("ram_alloc: %s", err.text);
    vm_lock(&tv->vm);
    bus_map(&tv->vm.memory, &tv->ram, 0);
    vm_unlock(&tv->vm);
    return tv;
}

void testvm_free(struct testvm *tv)
{
    vm_fini(&tv->vm);
    free(tv);
}

struct device *testvm_add_named(struct testvm *tv, const struct dev_type *type, const char *name,
                                const void *config)
{
    struct err err = {0};
    struct device *dev;

    vm_lock(&tv->vm);
    dev = device_new(&tv->vm, type, name, config, &err);
    if (!dev)
        fail("%s: %s", name, err.text);
    device_attach(dev);
    device_reset(dev, RESET_COLD);
    vm_unlock(&tv->vm);
    return dev;
}

struct device *testvm_add(struct testvm *tv, const struct dev_type *type, const void *config)
{
    return testvm_add_named(tv, type, type->name, config);
}

void testvm_advance(struct testvm *tv, int64_t ns)
{
    vm_lock(&tv->vm);
    clock_advance(tv->vm.clock, ns);
    vm_unlock(&tv->vm);
}

static uint64_t access_read(struct space *space, uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    bus_access(space, (struct bus_from){.vcpu = -1}, addr, &value, size, false);
    return value;
}

static void access_write(struct space *space, uint64_t addr, uint64_t value, unsigned size)
{
    bus_access(space, (struct bus_from){.vcpu = -1}, addr, &value, size, true);
}

uint64_t testvm_in(struct testvm *tv, uint16_t port, unsigned size)
{
    return access_read(&tv->vm.ports, port, size);
}

void testvm_out(struct testvm *tv, uint16_t port, uint64_t value, unsigned size)
{
    access_write(&tv->vm.ports, port, value, size);
}

uint64_t testvm_read(struct testvm *tv, gpa_t gpa, unsigned size)
{
    return access_read(&tv->vm.memory, gpa, size);
}

void testvm_write(struct testvm *tv, gpa_t gpa, uint64_t value, unsigned size)
{
    access_write(&tv->vm.memory, gpa, value, size);
}

enum vm_request testvm_take_request(struct testvm *tv, uint32_t *value)
{
    enum vm_request what = (enum vm_request)atomic_exchange(&tv->vm.request, VM_REQUEST_NONE);

    if (value)
        *value = atomic_load(&tv->vm.request_value);
    return what;
}

/* ---- Recording interrupt sink ---- */

static bool record_irq(void *chip, unsigned pin, bool level)
{
    struct testvm_irq *sink = chip;
    bool rose = level && !sink->level;

    (void)pin;
    sink->rises += rose;
    sink->falls += !level && sink->level;
    sink->level = level;
    return !(rose && sink->busy);
}

void testvm_irq_init(struct testvm *tv, struct testvm_irq *sink, unsigned number)
{
    memset(sink, 0, sizeof(*sink));
    irq_line_init(&sink->line, "test", number, &tv->vm.trace);
    irq_line_add_pin(&sink->line, (struct irq_pin){.set = record_irq, .chip = sink});
}

struct irq testvm_irq_source(struct testvm_irq *sink)
{
    return irq_line_source(&sink->line);
}

/* ---- State ---- */

void testvm_audit(struct device *dev)
{
    uint32_t where = 0;

    if (!dev->type->state)
        fail("%s has no state table", dev->name);
    if (!dev->type->state->none && !state_audit(dev->type->state, &where))
        fail("%s: byte %u of its state is not listed exactly once", dev->name, where);
}

static void load(struct device *dev, struct state_buf *buf)
{
    struct err err = {0};

    buf->pos = 0;
    if (state_load(dev->type->state, dev, buf, &err))
        fail("%s refuses its own state: %s", dev->name, err.text);
    if (dev->type->check && dev->type->check(dev, &err))
        fail("%s finds its own state impossible: %s", dev->name, err.text);
}

static void compare(struct device *dev, const struct state_buf *want)
{
    struct state_buf got = {0};

    state_save(dev->type->state, dev, &got);
    if (got.failed || got.len != want->len || memcmp(got.data, want->data, got.len))
        fail("%s: its state did not survive saving and loading", dev->name);
    state_buf_fini(&got);
}

void testvm_transfer(struct device *dev, struct device *fresh)
{
    struct state_buf buf = {0};

    state_save(dev->type->state, dev, &buf);
    load(fresh, &buf);
    compare(fresh, &buf);
    vm_lock(fresh->vm);
    fresh->type->derive(fresh);
    vm_unlock(fresh->vm);
    state_buf_fini(&buf);
}

void testvm_state_roundtrip(struct device *dev)
{
    struct state_buf buf = {0};

    testvm_audit(dev);
    if (dev->type->state->none)
        return;
    vm_lock(dev->vm);
    /* Brings what is a function of time up to date, so that derive below finds nothing to change.
     */
    dev->type->derive(dev);
    state_save(dev->type->state, dev, &buf);
    dev->type->reset(dev, RESET_COLD);
    load(dev, &buf);
    compare(dev, &buf);
    dev->type->derive(dev);
    compare(dev, &buf);
    vm_unlock(dev->vm);
    state_buf_fini(&buf);
}

bool testvm_load(struct device *dev, const void *data, size_t len)
{
    struct state_buf buf = {.len = len, .cap = len};
    struct err err = {0};
    bool ok;

    /* A copy of its exact size, so that a sanitiser sees reads past the end. */
    buf.data = malloc(len ? len : 1);
    if (!buf.data)
        fail("out of memory");
    memcpy(buf.data, data, len);
    vm_lock(dev->vm);
    ok = !state_load(dev->type->state, dev, &buf, &err) &&
         (!dev->type->check || !dev->type->check(dev, &err));
    if (!ok)
        dev->type->reset(dev, RESET_COLD);
    dev->type->derive(dev);
    vm_unlock(dev->vm);
    free(buf.data);
    return ok;
}

bool testvm_load_with(struct device *dev, const char *field, unsigned index, uint64_t value)
{
    struct state_buf buf = {0};
    size_t n = strlen(field), at = 0;
    bool ok;

    state_save(dev->type->state, dev, &buf);
    /* A record is u8 name length, name, u8 kind, u32 count, u32 length, payload. */
    for (;; at++) {
        uint32_t count, len;

        if (at + n + 10 >= buf.len)
            fail("%s has no element %u of a field '%s'", dev->name, index, field);
        if (buf.data[at] != n || memcmp(buf.data + at + 1, field, n))
            continue;
        count = get_le32(buf.data + at + 1 + n + 1);
        len = get_le32(buf.data + at + 1 + n + 5);
        if (index < count) {
            put_le(buf.data + at + 1 + n + 9 + index * (len / count), value, len / count);
            break;
        }
        index -= count;
    }
    ok = testvm_load(dev, buf.data, buf.len);
    state_buf_fini(&buf);
    return ok;
}
