/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/misc/coproc_err.h"

#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define PORT 0xf0

struct fixture {
    struct testvm *tv;
    struct device *dev;
    struct testvm_irq irq;
};

static struct fixture *setup(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct coproc_err_config config;

    f->tv = testvm_new();
    testvm_irq_init(f->tv, &f->irq, 13);
    config.irq = testvm_irq_source(&f->irq);
    f->dev = testvm_add(f->tv, &coproc_err_type, &config);
    return f;
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

TEST_F(ferr_raises_irq_13_until_the_port_is_written)
{
    assert_false(coproc_err_ferr(f->dev, 0, true));
    assert_true(f->irq.level);
    testvm_outb(f->tv, PORT, 0);
    assert_false(f->irq.level);
    assert_true(coproc_err_ferr(f->dev, 0, true)); /* IGNNE# */
    assert_int_equal(f->irq.rises, 1);
}

TEST_F(ignne_ends_with_ferr)
{
    coproc_err_ferr(f->dev, 0, true);
    testvm_outb(f->tv, PORT, 0);
    assert_false(coproc_err_ferr(f->dev, 0, false));
    assert_false(coproc_err_ferr(f->dev, 0, true));
    assert_int_equal(f->irq.rises, 2);
}

TEST_F(write_without_ferr_does_not_drive_ignne)
{
    testvm_outb(f->tv, PORT, 0);
    assert_false(coproc_err_ferr(f->dev, 0, true));
}

TEST_F(irq_13_stays_when_ferr_goes_before_the_write)
{
    coproc_err_ferr(f->dev, 0, true);
    coproc_err_ferr(f->dev, 0, false);
    assert_true(f->irq.level);
    testvm_outb(f->tv, PORT, 0);
    assert_false(f->irq.level);
}

TEST_F(pins_of_several_cpus_are_one_wire)
{
    coproc_err_ferr(f->dev, 0, true);
    testvm_outb(f->tv, PORT, 0);
    assert_true(coproc_err_ferr(f->dev, 63, true));
    assert_true(coproc_err_ferr(f->dev, 0, false));
    assert_false(coproc_err_ferr(f->dev, 63, false));
    assert_int_equal(f->irq.rises, 1);
}

TEST_F(state_survives)
{
    coproc_err_ferr(f->dev, 3, true);
    testvm_state_roundtrip(f->dev);
    assert_true(f->irq.level);
    testvm_outb(f->tv, PORT, 0);
    testvm_state_roundtrip(f->dev);
    assert_true(coproc_err_ferr(f->dev, 3, true));
    assert_false(testvm_load_with(f->dev, "ferr", 0, 0)); /* IGNNE# alone */
}

TEST_F(reset_forgets)
{
    coproc_err_ferr(f->dev, 0, true);
    vm_lock(&f->tv->vm);
    device_reset(f->dev, RESET_WARM);
    vm_unlock(&f->tv->vm);
    assert_false(f->irq.level);
    assert_int_equal(testvm_inb(f->tv, PORT), 0xff);
}
