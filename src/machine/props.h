/* SPDX-License-Identifier: Apache-2.0 */
/* Options of devices: text of the command line into a chip's configuration, by its property table.
 */
#ifndef MACHINE_PROPS_H
#define MACHINE_PROPS_H

#include "core/device.h"

/*
 * Field types by kind: PROP_BOOL is a bool, PROP_UINT and PROP_SIZE are uint64_t, PROP_STRING is a
 * const char * that borrows `value`. props may be NULL. Unknown names and bad values: -EINVAL and a
 * sentence.
 */
int props_set(const struct prop *props, void *config, const char *name, const char *value,
              struct err *err);

#endif
