/* SPDX-License-Identifier: Apache-2.0 */
/* The PVH loader: any bytes as an ELF file with notes, in a guest of any size, with modules. */
#include "tests/lib/bootfuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum boot_kind kinds[] = {BOOT_PVH};

    return bootfuzz(data, size, kinds, ARRAY_LEN(kinds), 1);
}
