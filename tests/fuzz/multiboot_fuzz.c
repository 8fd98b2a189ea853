/* SPDX-License-Identifier: Apache-2.0 */
/* The Multiboot loader: any bytes as an image, in a guest of any size, with modules. */
#include "tests/lib/bootfuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum boot_kind kinds[] = {BOOT_MULTIBOOT};

    return bootfuzz(data, size, kinds, ARRAY_LEN(kinds), size > 7 ? 2 + (data[7] & 1) : 2);
}
