/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware configuration interface that SeaBIOS, OVMF and Linux read from ports 510h and 511h.
 */
#ifndef HW_MISC_FW_CFG_H
#define HW_MISC_FW_CFG_H

#include "core/device.h"

/* Numbered items (docs/specs.md, "fw_cfg"). */
#define FW_CFG_SIGNATURE    0x0000
#define FW_CFG_ID           0x0001
#define FW_CFG_UUID         0x0002
#define FW_CFG_RAM_SIZE     0x0003
#define FW_CFG_NOGRAPHIC    0x0004
#define FW_CFG_NB_CPUS      0x0005
#define FW_CFG_KERNEL_ADDR  0x0007
#define FW_CFG_KERNEL_SIZE  0x0008
#define FW_CFG_INITRD_ADDR  0x000a
#define FW_CFG_INITRD_SIZE  0x000b
#define FW_CFG_BOOT_DEVICE  0x000c
#define FW_CFG_NUMA         0x000d
#define FW_CFG_BOOT_MENU    0x000e
#define FW_CFG_MAX_CPUS     0x000f
#define FW_CFG_KERNEL_ENTRY 0x0010
#define FW_CFG_KERNEL_DATA  0x0011
#define FW_CFG_INITRD_DATA  0x0012
#define FW_CFG_CMDLINE_ADDR 0x0013
#define FW_CFG_CMDLINE_SIZE 0x0014
#define FW_CFG_CMDLINE_DATA 0x0015
#define FW_CFG_SETUP_ADDR   0x0016
#define FW_CFG_SETUP_SIZE   0x0017
#define FW_CFG_SETUP_DATA   0x0018
#define FW_CFG_FILE_DIR     0x0019
#define FW_CFG_FILE_FIRST   0x0020

#define FW_CFG_MAX_FILES 64
#define FW_CFG_NAME_SIZE 56 /* with its NUL */

struct fw_cfg_config {
    uint64_t ram_size;
    uint16_t ncpus;
    uint16_t max_cpus; /* 0: ncpus */
    bool nographic;
};

extern const struct dev_type fw_cfg_type;

/* Before the VM starts. The data is copied. -EEXIST, -ENOSPC, -EINVAL, -ENOMEM. */
int fw_cfg_add_file(struct device *dev, const char *name, const void *data, size_t len);
/* A numbered item below FW_CFG_FILE_FIRST, replacing what it held. */
int fw_cfg_add_item(struct device *dev, uint16_t key, const void *data, size_t len);

#endif
