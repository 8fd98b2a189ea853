/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/acpi/ich9_pm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clockconv.h"
#include "tests/lib/testvm.h"

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

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    struct ich9_pm_config config = {.base = BASE, .enabled = true, .map_cf9 = true};

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->sci, 9);
    config.sci = testvm_irq_source(&f->sci);
    f->pm = testvm_add(f->tv, &ich9_pm_type, &config);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testvm_free(f->tv);
    test_free(f);
    return 0;
}

static void acpi_mode(struct fixture *f)
{
    testvm_outb(f->tv, ICH9_APM_CNT_PORT, ICH9_ACPI_ENABLE);
}

static void press(struct fixture *f)
{
    vm_lock(&f->tv->vm);
    ich9_pm_power_button(f->pm);
    vm_unlock(&f->tv->vm);
}

static void gpe(struct fixture *f, unsigned n, bool level)
{
    vm_lock(&f->tv->vm);
    ich9_pm_gpe(f->pm, n, level);
    vm_unlock(&f->tv->vm);
}

static void apm_cnt_switches_acpi_on_and_off(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 0);
    acpi_mode(f);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 1);
    assert_int_equal(testvm_inb(f->tv, ICH9_APM_CNT_PORT), ICH9_ACPI_ENABLE);
    testvm_outb(f->tv, ICH9_APM_CNT_PORT, ICH9_ACPI_DISABLE);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & 1, 0);
    testvm_outb(f->tv, 0xb3, 0x5a);
    assert_int_equal(testvm_inb(f->tv, 0xb3), 0x5a);
}

static void timer_counts_at_its_rate_without_drift(void **state)
{
    struct fixture *f = *state;

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

static void timer_status_is_set_when_bit_31_toggles(void **state)
{
    struct fixture *f = *state;
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

static void power_button_raises_the_sci_when_enabled(void **state)
{
    struct fixture *f = *state;

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

static void general_purpose_event_stays_while_its_wire_is_up(void **state)
{
    struct fixture *f = *state;

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

static void s5_and_s4_power_off(void **state)
{
    struct fixture *f = *state;

    testvm_out(f->tv, PM1_CNT, SLP_TYP(ICH9_SLP_TYP_S5), 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    testvm_out(f->tv, PM1_CNT, SLP_TYP(ICH9_SLP_TYP_S5) | SLP_EN, 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_POWEROFF);
    assert_int_equal(testvm_in(f->tv, PM1_CNT, 2) & SLP_EN, 0); /* write only */
    testvm_out(f->tv, PM1_CNT, SLP_TYP(6) | SLP_EN, 4);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_POWEROFF);
}

static void other_sleep_types_wake_at_once(void **state)
{
    struct fixture *f = *state;

    testvm_out(f->tv, PM1_CNT, SLP_TYP(5) | SLP_EN, 2);
    assert_int_equal(testvm_take_request(f->tv, NULL), VM_REQUEST_NONE);
    assert_int_equal(testvm_in(f->tv, PM1_STS, 2), WAK);
}

static void cf9_resets_when_rst_cpu_rises(void **state)
{
    struct fixture *f = *state;

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

static void block_moves_and_disappears(void **state)
{
    struct fixture *f = *state;

    vm_lock(&f->tv->vm);
    ich9_pm_map(f->pm, 0x4000, true);
    vm_unlock(&f->tv->vm);
    assert_int_equal(testvm_in(f->tv, BASE + 4, 4), 0xffffffff);
    assert_int_equal(testvm_in(f->tv, 0x4004, 4), 0);
    vm_lock(&f->tv->vm);
    ich9_pm_map(f->pm, 0x4000, false);
    vm_unlock(&f->tv->vm);
    assert_int_equal(testvm_in(f->tv, 0x4004, 4), 0xffffffff);
    vm_lock(&f->tv->vm);
    device_reset(f->pm, RESET_WARM);
    vm_unlock(&f->tv->vm);
    assert_int_equal(testvm_in(f->tv, BASE + 4, 4), 0);
}

static void registers_keep_only_the_bits_they_have(void **state)
{
    struct fixture *f = *state;

    testvm_out(f->tv, PM1_EN, 0xffff, 2);
    assert_int_equal(testvm_in(f->tv, PM1_EN, 2), 0x4521);
    testvm_out(f->tv, SMI_EN, 0x12345678, 4);
    assert_int_equal(testvm_in(f->tv, SMI_EN, 4), 0x12345678);
    testvm_out(f->tv, PM1_STS, 0x4521ffff, 4); /* status and enable in one access */
    assert_int_equal(testvm_in(f->tv, PM1_STS, 4), 0x45210000);
}

static void watchdog_says_that_it_is_halted(void **state)
{
    struct fixture *f = *state;

    testvm_out(f->tv, TCO1_CNT, 0, 2);
    assert_int_equal(testvm_in(f->tv, TCO1_CNT, 2), 0x0800);
}

static void holes_are_no_registers(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(testvm_inb(f->tv, BASE + 0x5c), 0xff);
    testvm_outb(f->tv, BASE + 0x5c, 1);
    assert_int_equal(f->pm->bad_accesses, 2);
    assert_int_equal(testvm_in(f->tv, BASE + 0x14, 4), 0); /* part of it is one */
    assert_int_equal(f->pm->bad_accesses, 2);
}

static void state_survives(void **state)
{
    struct fixture *f = *state;

    acpi_mode(f);
    testvm_out(f->tv, PM1_EN, TMROF | PWRBTN, 2);
    press(f);
    gpe(f, 5, true);
    testvm_outb(f->tv, ICH9_RST_CNT_PORT, 0x02);
    testvm_advance(f->tv, 700 * NS_PER_SEC);
    testvm_state_roundtrip(f->pm);
    assert_true(f->sci.level);
}

static void state_moves_to_another_vm(void **state)
{
    struct fixture *f = *state;
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

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_false(testvm_load_with(f->pm, "rst_cnt", 0, 0x10));
    assert_false(testvm_load_with(f->pm, "regs", 0, 0x02));
    assert_false(testvm_load_with(f->pm, "enabled", 0, 2));
    assert_true(testvm_load_with(f->pm, "seen_tick", 0, INT64_MAX));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(apm_cnt_switches_acpi_on_and_off),
        T(timer_counts_at_its_rate_without_drift),
        T(timer_status_is_set_when_bit_31_toggles),
        T(power_button_raises_the_sci_when_enabled),
        T(general_purpose_event_stays_while_its_wire_is_up),
        T(s5_and_s4_power_off),
        T(other_sleep_types_wake_at_once),
        T(cf9_resets_when_rst_cpu_rises),
        T(block_moves_and_disappears),
        T(registers_keep_only_the_bits_they_have),
        T(watchdog_says_that_it_is_halted),
        T(holes_are_no_registers),
        T(state_survives),
        T(state_moves_to_another_vm),
        T(impossible_state_is_refused),
    };

    return cmocka_run_group_tests_name("ich9_pm", tests, NULL, NULL);
}
