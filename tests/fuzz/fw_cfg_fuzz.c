/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/fw_cfg.h"
#include "tests/lib/fuzzdev.h"

static void extra(struct fuzzdev *f, struct fuzz_in *in, unsigned op)
{
    uint8_t buf[64] = {0};

    if (op < 0xc0) {
        testvm_out(f->tv, 0x510, op & 0x80 ? fuzz_take(in, 2) : op & 0x3f, 2);
        bus_access_rep(&f->tv->vm.ports, (struct bus_from){.vcpu = -1}, 0x511, buf, 1, op & 0x3f,
                       false);
    } else if (op < 0xe0) {
        /* The machine's side, names and sizes of any kind. */
        char name[FW_CFG_NAME_SIZE + 8] = {0};

        for (unsigned i = 0; i < (op & 0x1f) * 2u + 1; i++)
            name[i] = (char)('a' + fuzz_take(in, 1) % 4);
        fw_cfg_add_file(f->dev, name, buf, fuzz_take(in, 1) & 0);
    } else {
        fw_cfg_add_item(f->dev, (uint16_t)fuzz_take(in, 1), "item", op & 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fuzzdev_ports ports[] = {{0x510, 2}, {0, 0}};
    struct fuzzdev f = {.tv = testvm_new(), .ports = ports, .extra = extra};

    f.dev =
        testvm_add(f.tv, &fw_cfg_type, &(struct fw_cfg_config){.ram_size = 1 << 20, .ncpus = 1});
    fuzzdev_run(&f, data, size);
    return 0;
}
