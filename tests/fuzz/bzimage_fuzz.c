/* SPDX-License-Identifier: Apache-2.0 */
/* The Linux loaders: any bytes as bzImage or vmlinux, in a guest of any size, with and without
 * initrd. */
#include "tests/lib/bootfuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum boot_kind kinds[] = {BOOT_BZIMAGE, BOOT_VMLINUX};

    return bootfuzz(data, size, kinds, ARRAY_LEN(kinds), size > 7 && data[7] & 1 ? 2 : 0);
}
