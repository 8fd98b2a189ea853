/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/acpi/ich9_pm.h"

#include "base/clockconv.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define BASE     0x600
#define PM1_STS  (BASE + 0x00)
#define PM1_EN   (BASE + 0x02)
#define PM1_CNT  (BASE + 0x04)
#define PM1_TMR  (BASE + 0x08)
#define GPE0_STS (BASE + 0x20)
#define GPE0_EN  (BASE + 0x28)
#define SMI_EN   (BASE + 0x30)
#define TCO1_CNT (BASE + 0x68)

#define TMROF      0x0001
#define PWRBTN     0x0100
#define WAK        0x8000
#define SLP_EN     0x2000
#define SLP_TYP(n) ((n) << 10)

struct fixture {
    struct testvm *tv;
    struct device *pm;
    struct testvm_irq sci;
};

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct ich9_pm_config config = {.base = BASE, .enabled = true, .map_cf9 = true};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->sci, 9);
    config.sci = testvm_irq_source(&f->sci);
    f->pm = testvm_add(f->tv, &ich9_pm_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static void acpi_mode(struct fixture *f)
{
    testvm_outb(f->tv, ICH9_APM_CNT_PORT, ICH9_ACPI_ENABLE);
}

static void press(struct fixture *f)
{
    TESTVM_LOCKED(f->tv, ich9_pm_power_button(f->pm));
}

static void gpe(struct fixture *f, unsigned n, bool level)
{
    TESTVM_LOCKED(f->tv, ich9_pm_gpe(f->pm, n, level));
}

TEST_F(apm_cnt_switches_acpi_on_and_off)
{
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 0);
    acpi_mode(f);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 1);
    assert_int_equal(testvm_inb(f->tv, ICH9_APM_CNT_PORT), ICH9_ACPI_ENABLE);
    testvm_outb(f->tv, ICH9_APM_CNT_PORT, ICH9_ACPI_DISABLE);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 0);
    testvm_outb(f->tv, 0xb3, 0x5a);
    assert_int_equal(testvm_inb(f->tv, 0xb3), 0x5a);
}

TEST_F(timer_counts_at_its_rate_without_drift)
{
    assert_int_equal(testvm_in(f->tv, PM1_TMR, 4), 0);
    testvm_advance(f->tv, 1000 * NS_PER_SEC);
    assert_int_equal(testvm_in(f->tv, PM1_TMR, 4), 3579545000u);
    testvm_advance(f->tv, 1000 * NS_PER_SEC);
    assert_int_equal(testvm_in(f->tv, PM1_TMR, 4), (uint32_t)7159090000ull);
    assert_int_equal(testvm_in(f->tv, PM1_TMR + 2, 2), (uint32_t)7159090000ull >> 16);
    assert_int_equal(testvm_inb(f->tv, PM1_TMR), 7159090000ull & 0xff);
    testvm_out(f->tv, PM1_TMR, 0, 4); /* read only */
    assert_int_equal(testvm_in(f->tv, PM1_TMR, 4), (uint32_t)7159090000ull);
}

TEST_F(timer_status_is_set_when_bit_31_toggles)
{
    int64_t toggle = ticks_to_ns(1ll << 31, ICH9_PM_TIMER_HZ);

    acpi_mode(f);
    testvm_out(f->tv, PM1_EN, TMROF, 2);
    testvm_advance(f->tv, toggle - 1);
    assert_int_equal(testvm_in(f->tv, PM1_STS, 2), 0);
    assert_false(f->sci.level);
    testvm_advance(f->tv, 1);
    assert_true(f->sci.level);
    assert_int_equal(testvm_in(f->tv, PM1_STS, 2), TMROF);
    testvm_out(f->tv, PM1_STS, TMROF, 2);
    assert_false(f->sci.level);
    testvm_advance(f->tv, toggle);
    assert_int_equal(f->sci.rises, 2);
}

TEST_F(power_button_raises_the_sci_when_enabled)
{
    press(f);
    assert_int_equal(testvm_in(f->tv, PM1_STS, 2), PWRBTN);
    assert_false(f->sci.level);
    testvm_out(f->tv, PM1_EN, PWRBTN, 2);
    assert_false(f->sci.level); /* not in ACPI mode */
    acpi_mode(f);
    assert_true(f->sci.level);
    testvm_out(f->tv, PM1_STS, 0, 2); /* zeros clear nothing */
    assert_true(f->sci.level);
    testvm_outb(f->tv, PM1_STS + 1, PWRBTN >> 8);
    assert_false(f->sci.level);
}

TEST_F(general_purpose_event_stays_while_its_wire_is_up)
{
    acpi_mode(f);
    testvm_out(f->tv, GPE0_EN + 4, 1u << 3, 4);
    gpe(f, 35, true);
    assert_true(f->sci.level);
    testvm_out(f->tv, GPE0_STS + 4, 1u << 3, 4);
    assert_true(f->sci.level);
    gpe(f, 35, false);
    assert_true(f->sci.level);
    testvm_out(f->tv, GPE0_STS + 4, 1u << 3, 4);
    assert_false(f->sci.level);
}

TEST_F(s5_and_s4_power_off)
{
    testvm_out(f->tv, PM1_CNT, SLP_TYP(ICH9_SLP_TYP_S5), 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    testvm_out(f->tv, PM1_CNT, SLP_TYP(ICH9_SLP_TYP_S5) | SLP_EN, 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_POWEROFF);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & SLP_EN, 0); /* write only */
    testvm_out(f->tv, PM1_CNT, SLP_TYP(6) | SLP_EN, 4);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_POWEROFF);
}

TEST_F(other_sleep_types_wake_at_once)
{
    testvm_out(f->tv, PM1_CNT, SLP_TYP(5) | SLP_EN, 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    assert_int_equal(testvm_in(f->tv, PM1_STS, 2), WAK);
}

TEST_F(cf9_resets_when_rst_cpu_rises)
{
    testvm_outb(f->tv, ICH9_RST_CNT_PORT, 0x02);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    assert_int_equal(testvm_inb(f->tv, ICH9_RST_CNT_PORT), 0x02);
    testvm_outb(f->tv, ICH9_RST_CNT_PORT, ICH9_RST_CNT_RESET);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
    testvm_outb(f->tv, ICH9_RST_CNT_PORT, 0x0e);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    ich9_pm_cf9_write(f->pm, 0);
    ich9_pm_cf9_write(f->pm, 0x0e);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_RESET);
}

TEST_F(block_moves_and_disappears)
{
    TESTVM_LOCKED(f->tv, ich9_pm_map(f->pm, 0x4000, true));
    assert_int_equal(testvm_in(f->tv, BASE + 4, 4), 0xffffffff);
    assert_int_equal(testvm_in(f->tv, 0x4004, 4), 0);
    TESTVM_LOCKED(f->tv, ich9_pm_map(f->pm, 0x4000, false));
    assert_int_equal(testvm_in(f->tv, 0x4004, 4), 0xffffffff);
    TESTVM_LOCKED(f->tv, device_reset(f->pm, RESET_WARM));
    assert_int_equal(testvm_in(f->tv, BASE + 4, 4), 0);
}

TEST_F(registers_keep_only_the_bits_they_have)
{
    testvm_out(f->tv, PM1_EN, 0xffff, 2);
    assert_int_equal(testvm_in(f->tv, PM1_EN, 2), 0x4521);
    testvm_out(f->tv, SMI_EN, 0x12345678, 4);
    assert_int_equal(testvm_in(f->tv, SMI_EN, 4), 0x12345678);
    testvm_out(f->tv, PM1_STS, 0x4521ffff, 4); /* status and enable in one access */
    assert_int_equal(testvm_in(f->tv, PM1_STS, 4), 0x45210000);
}

TEST_F(watchdog_says_that_it_is_halted)
{
    testvm_out(f->tv, TCO1_CNT, 0, 2);
    assert_int_equal(testvm_in(f->tv, TCO1_CNT, 2), 0x0800);
}

TEST_F(holes_are_no_registers)
{
    assert_int_equal(testvm_inb(f->tv, BASE + 0x5c), 0xff);
    testvm_outb(f->tv, BASE + 0x5c, 1);
    assert_int_equal(f->pm->bad_accesses, 2);
    assert_int_equal(testvm_in(f->tv, BASE + 0x14, 4), 0); /* part of it is one */
    assert_int_equal(f->pm->bad_accesses, 2);
}

TEST_F(state_survives)
{
    acpi_mode(f);
    testvm_out(f->tv, PM1_EN, TMROF | PWRBTN, 2);
    press(f);
    gpe(f, 5, true);
    testvm_outb(f->tv, ICH9_RST_CNT_PORT, 0x02);
    testvm_advance(f->tv, 700 * NS_PER_SEC);
    testvm_state_roundtrip(f->pm);
    assert_true(f->sci.level);
}

TEST_F(state_moves_to_another_vm)
{
    struct testvm *other = testvm_new();
    struct testvm_irq sci;
    struct device *pm;

    testvm_irq_init(other, &sci, 9);
    pm = testvm_add(other, &ich9_pm_type, &(struct ich9_pm_config){.sci = testvm_irq_source(&sci)});
    acpi_mode(f);
    testvm_out(f->tv, PM1_EN, PWRBTN, 2);
    press(f);
    testvm_transfer(f->pm, pm);
    assert_true(sci.level);
    assert_int_equal(testvm_in(other, PM1_STS, 2), PWRBTN); /* the block moved with it */
    testvm_free(other);
}

TEST_F(impossible_state_is_refused)
{
    assert_false(testvm_load_with(f->pm, "rst_cnt", 0, 0x10));
    assert_false(testvm_load_with(f->pm, "regs", 0, 0x02));
    assert_false(testvm_load_with(f->pm, "enabled", 0, 2));
    assert_true(testvm_load_with(f->pm, "seen_tick", 0, INT64_MAX));
}
