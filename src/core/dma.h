/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DMA: how devices reach guest memory. RAM only: it can never call a handler, so no device can be made
 * to re-enter itself or another. The bus-master bit, and later the IOMMU and the dirty log, are checked
 * inside; so is decoded code on the pages written. Every transfer passes the trace point.
 */
#ifndef CORE_DMA_H
#define CORE_DMA_H

#include "base/types.h"

struct device;

/* False if any byte is not RAM, the range wraps, or the device may not master the bus. */
bool dma_read(struct device *dev, gpa_t gpa, void *buf, size_t len);
bool dma_write(struct device *dev, gpa_t gpa, const void *buf, size_t len);

#endif
