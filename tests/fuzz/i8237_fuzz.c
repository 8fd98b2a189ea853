/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/i8237.h"
#include "tests/lib/fuzzdev.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x00, 16}, {0x80, 16}, {0xc0, 32}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports};

    f.dev = testvm_add(f.tv, &i8237_type, &(struct i8237_config){0});
    fuzzdev_run(&f, data, size);
    return 0;
}
