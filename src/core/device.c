/* SPDX-License-Identifier: Apache-2.0 */
#include "core/device.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "core/vm.h"

/* ---- one device ------------------------------------------------------------------------------ */

struct device *device_find(struct vm *vm, const char *name)
{
    for (unsigned i = 0; i < vm->ndevices; i++)
        if (!strcmp(vm->devices[i]->name, name))
            return vm->devices[i];
    return NULL;
}

struct device *device_new(struct vm *vm, const struct dev_type *type, const char *name,
                          const void *config, struct err *err)
{
    struct device *dev;

    if (device_find(vm, name)) {
        err_set(err, EEXIST, "there are two devices named '%s': give one another place or id", name);
        return NULL;
    }
    if (vm->ndevices == VM_MAX_DEVICES) {
        err_set(err, ENOSPC, "a VM has at most %d devices: take some away", VM_MAX_DEVICES);
        return NULL;
    }
    dev = calloc(1, type->size);
    if (!dev) {
        err_set(err, ENOMEM, "out of memory making '%s'", name);
        return NULL;
    }
    dev->type = type;
    dev->vm = vm;
    dev->id = vm->ndevices;
    snprintf(dev->name, sizeof(dev->name), "%s", name);
    if (type->init(dev, config, err)) {
        err_prefix(err, "%s", name);
        free(dev);
        return NULL;
    }
    vm->devices[vm->ndevices++] = dev;
    return dev;
}

void device_attach(struct device *dev)
{
    if (dev->attached)
        return;
    if (dev->type->attach)
        dev->type->attach(dev);
    dev->attached = true;
}

void device_detach(struct device *dev)
{
    if (!dev->attached)
        return;
    if (dev->type->detach)
        dev->type->detach(dev);
    dev->attached = false;
}

void device_free(struct device *dev)
{
    struct vm *vm = dev->vm;

    device_detach(dev);
    for (unsigned i = 0; i < vm->ndevices; i++) {
        if (vm->devices[i] == dev) {
            memmove(&vm->devices[i], &vm->devices[i + 1],
                    (vm->ndevices - i - 1) * sizeof(vm->devices[0]));
            vm->ndevices--;
            break;
        }
    }
    if (dev->type->fini)
        dev->type->fini(dev);
    free(dev);
}

static void device_derive(struct device *dev)
{
    if (dev->type->derive)
        dev->type->derive(dev);
}

void device_reset(struct device *dev, enum reset_kind kind)
{
    if (dev->type->reset)
        dev->type->reset(dev, kind);
    device_derive(dev);
}

#define GUEST_ERR_LINES 8 /* per device; the count goes on silently */

void guest_err(struct device *dev, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    if (dev->guest_errs++ >= GUEST_ERR_LINES)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log_info(dev->name, "guest error: %s", text);
}

/* ---- all devices ------------------------------------------------------------------------------ */

void devices_attach(struct vm *vm)
{
    bus_begin(&vm->ports);
    bus_begin(&vm->memory);
    for (unsigned i = 0; i < vm->ndevices; i++)
        device_attach(vm->devices[i]);
    bus_commit(&vm->memory);
    bus_commit(&vm->ports);
}

static void derive_all(struct vm *vm)
{
    bus_begin(&vm->ports);
    bus_begin(&vm->memory);
    for (unsigned i = 0; i < vm->ndevices; i++)
        device_derive(vm->devices[i]);
    bus_commit(&vm->memory);
    bus_commit(&vm->ports);
}

void devices_reset(struct vm *vm, enum reset_kind kind)
{
    for (unsigned i = 0; i < vm->ndevices; i++)
        if (vm->devices[i]->type->reset)
            vm->devices[i]->type->reset(vm->devices[i], kind);
    derive_all(vm);
}

bool devices_quiesce(struct vm *vm)
{
    bool idle = true;

    for (unsigned i = 0; i < vm->ndevices; i++)
        if (vm->devices[i]->type->quiesce && !vm->devices[i]->type->quiesce(vm->devices[i]))
            idle = false;
    return idle;
}

/* The file of all devices: per device u8 name length, name, u32 length, state_save's records. */
void devices_save(struct vm *vm, struct state_buf *out)
{
    for (unsigned i = 0; i < vm->ndevices; i++) {
        struct device *dev = vm->devices[i];
        struct state_buf one = {0};
        uint8_t head[1 + sizeof(dev->name) + 4];
        size_t name_len = strlen(dev->name);

        if (dev->type->state->none)
            continue;
        state_save(dev->type->state, dev, &one);
        head[0] = (uint8_t)name_len;
        memcpy(head + 1, dev->name, name_len);
        put_le32(head + 1 + name_len, (uint32_t)one.len);
        state_buf_append(out, head, 1 + name_len + 4);
        state_buf_append(out, one.data, one.len);
        out->failed |= one.failed;
        state_buf_fini(&one);
    }
}

static int load_all(struct vm *vm, struct state_buf *in, struct err *err)
{
    while (in->pos < in->len) {
        const uint8_t *p = in->data + in->pos;
        size_t left = in->len - in->pos, name_len = p[0];
        char name[256];
        struct device *dev;
        struct state_buf one = {0};
        uint32_t len;
        int ret;

        if (left < 1 + name_len + 4)
            return err_set(err, EINVAL, "saved state is cut off");
        memcpy(name, p + 1, name_len);
        name[name_len] = 0;
        len = get_le32(p + 1 + name_len);
        if (len > left - (1 + name_len + 4))
            return err_set(err, EINVAL, "saved state is cut off");
        dev = device_find(vm, name);
        if (!dev || dev->type->state->none)
            return err_set(err, EINVAL,
                           "saved state has the device '%.32s', which this machine lacks: start it "
                           "with the same devices", name);
        one.data = in->data + in->pos + 1 + name_len + 4;
        one.len = len;
        ret = state_load(dev->type->state, dev, &one, err);
        if (ret) {
            err_prefix(err, "%s", dev->name);
            return ret;
        }
        in->pos += 1 + name_len + 4 + len;
    }
    return 0;
}

int devices_load(struct vm *vm, struct state_buf *in, struct err *err)
{
    int ret = load_all(vm, in, err);

    for (unsigned i = 0; !ret && i < vm->ndevices; i++) {
        struct device *dev = vm->devices[i];

        if (dev->type->check) {
            ret = dev->type->check(dev, err);
            if (ret)
                err_prefix(err, "%s", dev->name);
        }
    }
    if (ret) {
        devices_reset(vm, RESET_COLD);
        return ret;
    }
    derive_all(vm);
    return 0;
}

/* ---- what devices ask of the machine ---------------------------------------------------------- */

void msi_send(struct device *from, uint64_t addr, uint32_t data)
{
    struct vm *vm = from->vm;

    if (trace_on(&vm->trace))
        trace_emit(&vm->trace, (struct trace_rec){.kind = TRACE_MSI, .addr = addr, .value = data,
                                                  .extra = from->requester_id, .device = from->name,
                                                  .name = "msi", .size = 4, .write = 1, .vcpu = -1});
    if (from->bus_master && !*from->bus_master)
        return;
    if (vm->msi_sink)
        vm->msi_sink(vm->msi_opaque, addr, data);
}

void vm_request(struct vm *vm, enum vm_request what, uint32_t value)
{
    uint32_t none = VM_REQUEST_NONE;

    if (!atomic_compare_exchange_strong(&vm->request, &none, (uint32_t)what))
        return;
    atomic_store(&vm->request_value, value);
    vm_kick_all(vm, PEND_EXIT);
    if (vm->loop && vm->request_work.fn)
        loop_post(vm->loop, &vm->request_work);
}
