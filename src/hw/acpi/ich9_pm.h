/* SPDX-License-Identifier: Apache-2.0 */
/* The ICH9's ACPI power management block, APM ports B2h and B3h, and the reset register CF9h. */
#ifndef HW_ACPI_ICH9_PM_H
#define HW_ACPI_ICH9_PM_H

#include "core/device.h"

#define ICH9_PM_TIMER_HZ 3579545u

#define ICH9_PM_SIZE 0x80 /* bytes at the base */
/* Offsets that the FADT names. */
#define ICH9_PM1_STS  0x00
#define ICH9_PM1_CNT  0x04
#define ICH9_PM1_TMR  0x08
#define ICH9_GPE0_STS 0x20 /* 16 bytes: eight of status, eight of enable */
#define ICH9_GPE0_LEN 16
#define ICH9_PM2_CNT  0x50

#define ICH9_APM_CNT_PORT  0xb2
#define ICH9_ACPI_ENABLE   0x02 /* written to APM_CNT */
#define ICH9_ACPI_DISABLE  0x03
#define ICH9_RST_CNT_PORT  0xcf9
#define ICH9_RST_CNT_RESET 0x06 /* what a system writes to reset: FADT RESET_VALUE */
#define ICH9_SLP_TYP_S5    0x07 /* SLP_TYP of S5: the _S5 package */

struct ich9_pm_config {
    struct irq sci; /* level */
    uint16_t base;  /* where PMBASE points after a reset; moved with ich9_pm_map */
    bool enabled;   /* whether it decodes there after a reset */
    /*
     * True: maps RST_CNT at CF9h itself, as a region of one byte above CONFIG_ADDRESS. False: the
     * host bridge owns CF8h-CFBh and hands byte accesses to CF9h over with ich9_pm_cf9_*.
     */
    bool map_cf9;
};

extern const struct dev_type ich9_pm_type;

/* The LPC bridge's PMBASE and ACPI_EN changed. Machine lock held. */
void ich9_pm_map(struct device *dev, uint16_t base, bool enabled);

uint8_t ich9_pm_cf9_read(struct device *dev);
void ich9_pm_cf9_write(struct device *dev, uint8_t value);

/* The power button was pressed. Machine lock held. */
void ich9_pm_power_button(struct device *dev);
/* General purpose event n (0 to 63) became active or inactive. */
void ich9_pm_gpe(struct device *dev, unsigned n, bool level);

#endif
