/* SPDX-License-Identifier: Apache-2.0 */
#include "core/dma.h"

#include "core/vm.h"

static bool dma_allowed(struct device *dev, gpa_t gpa, size_t len, bool write)
{
    struct trace *trace = &dev->vm->trace;

    if (trace_on(trace))
        trace_emit(trace, (struct trace_rec){.kind = TRACE_DMA, .addr = gpa, .value = len,
                                             .device = dev->name, .name = "dma",
                                             .write = write, .vcpu = -1});
    if (dev->bus_master && !*dev->bus_master)
        return false;
    return len == 0 || gpa + (len - 1) >= gpa;
}

bool dma_read(struct device *dev, gpa_t gpa, void *buf, size_t len)
{
    return dma_allowed(dev, gpa, len, false) && mem_read(dev->vm, gpa, buf, len);
}

bool dma_write(struct device *dev, gpa_t gpa, const void *buf, size_t len)
{
    return dma_allowed(dev, gpa, len, true) && mem_write(dev->vm, gpa, buf, len);
}
