/* SPDX-License-Identifier: Apache-2.0 */
#include "hw/intc/lapic.h"
#include "tests/lib/testvm.h"
#include "tests/lib/unit.h"

#define BASE 0xfee00000ull
#define CPUS 3

#define ID        0x20
#define VERSION   0x30
#define TPR       0x80
#define APR       0x90
#define PPR       0xa0
#define EOI       0xb0
#define LDR       0xd0
#define DFR       0xe0
#define SVR       0xf0
#define ISR       0x100
#define TMR       0x180
#define IRR       0x200
#define ESR       0x280
#define ICR       0x300
#define ICR_HIGH  0x310
#define LVT_TIMER 0x320
#define LVT_LINT0 0x350
#define LVT_LINT1 0x360
#define LVT_ERROR 0x370
#define INITIAL   0x380
#define CURRENT   0x390
#define DCR       0x3e0

#define MASKED   0x10000u
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u

#define MSR_BASE     0x1b
#define MSR_DEADLINE 0x6e0
#define X2(reg)      (0x800u + (reg) / 16)

struct fixture {
    struct testvm *tv;
    struct lapic_bus bus;
    struct vcpu *cpu[CPUS];
    struct device *apic[CPUS];
    int pic_vector;
    uint8_t eoi_vector;
    unsigned eois;
    uint64_t tsc_offset;
};

static uint64_t tsc_offset(struct vcpu *vcpu)
{
    struct lapic_bus *bus = vcpu->vm->msi_opaque;

    return container_of(bus, struct fixture, bus)->tsc_offset;
}

static int pic_ack(void *opaque)
{
    return ((struct fixture *)opaque)->pic_vector;
}

static void eoi_sink(void *opaque, uint8_t vector)
{
    struct fixture *f = opaque;

    f->eoi_vector = vector;
    f->eois++;
}

static struct fixture *made(bool virtual_wire)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->tv = testvm_new();
    f->tv->vm.msi_sink = lapic_msi;
    f->tv->vm.msi_opaque = &f->bus;
    f->tv->vm.eoi_sink = eoi_sink;
    f->tv->vm.eoi_opaque = f;
    for (unsigned i = 0; i < CPUS; i++) {
        char name[] = {'a', 'p', 'i', 'c', (char)('0' + i), 0};
        struct lapic_config config = {.bus = &f->bus,
                                      .id = i,
                                      .bsp = i == 0,
                                      .x2apic = true,
                                      .tsc_deadline = true,
                                      .virtual_wire = virtual_wire && i == 0,
                                      .tsc_offset = tsc_offset,
                                      .extint_ack = pic_ack,
                                      .extint_opaque = f};

        f->cpu[i] = vm_add_vcpu(&f->tv->vm, NULL, NULL);
        config.vcpu = f->cpu[i];
        f->apic[i] = testvm_add_named(f->tv, &lapic_type, name, &config);
        atomic_store(&f->cpu[i]->pending, 0);
    }
    return f;
}

static uint32_t rd(struct fixture *f, unsigned cpu, unsigned reg)
{
    uint32_t v = 0;

    vcpu_mmio(f->cpu[cpu], BASE + reg, &v, 4, false);
    return v;
}

static void wr(struct fixture *f, unsigned cpu, unsigned reg, uint32_t v)
{
    vcpu_mmio(f->cpu[cpu], BASE + reg, &v, 4, true);
}

static struct fixture *setup(void)
{
    struct fixture *f = made(false);

    for (unsigned i = 0; i < CPUS; i++)
        wr(f, i, SVR, 0x1ff);
    return f;
}

static struct fixture *setup_off(void)
{
    return made(false);
}

static struct fixture *setup_wired(void)
{
    return made(true);
}

static void teardown(struct fixture *f)
{
    testvm_free(f->tv);
    free(f);
}

static bool has(struct fixture *f, unsigned cpu)
{
    return f->cpu[cpu]->intc_ops->has_intr(f->cpu[cpu]->intc);
}

static int ack(struct fixture *f, unsigned cpu)
{
    return f->cpu[cpu]->intc_ops->ack(f->cpu[cpu]->intc);
}

/* Takes an interrupt, which must be this one, and ends it. */
static void serve(struct fixture *f, unsigned cpu, int vector)
{
    assert_int_equal(ack(f, cpu), vector);
    wr(f, cpu, EOI, 0);
}

/* Undivided. */
static void start_timer(struct fixture *f, uint32_t lvt, uint32_t count)
{
    wr(f, 0, DCR, 0xb);
    wr(f, 0, LVT_TIMER, lvt);
    wr(f, 0, INITIAL, count);
}

static uint32_t posted(struct fixture *f, unsigned cpu)
{
    return atomic_exchange(&f->cpu[cpu]->pending, 0);
}

static void msi(struct fixture *f, unsigned dest, uint32_t data)
{
    lapic_msi(&f->bus, BASE | (uint64_t)dest << 12, data);
}

static void pin(struct fixture *f, unsigned cpu, unsigned lint, bool level)
{
    struct irq_pin p = lapic_lint_pin(f->apic[cpu], lint);

    p.set(p.chip, p.pin, level);
}

static uint64_t msr(struct fixture *f, unsigned cpu, uint32_t index)
{
    uint64_t v = 0;

    assert_true(vcpu_rdmsr(f->cpu[cpu], index, &v));
    return v;
}

/* As a write of the TSC does. */
static void jump(struct fixture *f, unsigned cpu, int64_t by)
{
    f->cpu[cpu]->intc_ops->tsc_jumps(f->cpu[cpu]->intc);
    f->tsc_offset += (uint64_t)by;
    f->cpu[cpu]->intc_ops->tsc_jumps(f->cpu[cpu]->intc);
}

static void to_x2(struct fixture *f, unsigned cpu)
{
    assert_true(vcpu_wrmsr(f->cpu[cpu], MSR_BASE, msr(f, cpu, MSR_BASE) | 0x400));
}

/* ---- interrupts ---- */

TEST_WITH(setup_off, reset_leaves_it_software_disabled_and_masked)
{
    assert_int_equal(rd(f, 1, SVR), 0xff);
    assert_int_equal(rd(f, 1, LVT_LINT0), MASKED);
    assert_int_equal(rd(f, 1, DFR), 0xffffffff);
    assert_int_equal(rd(f, 1, ID), 1u << 24);
    assert_int_equal(rd(f, 1, VERSION), 0x01050014);
    assert_int_equal(msr(f, 0, MSR_BASE), 0xfee00900);
    assert_int_equal(msr(f, 1, MSR_BASE), 0xfee00800);
    msi(f, 1, 0x40);
    assert_false(has(f, 1));
}

TEST_F(message_is_taken_and_ended)
{
    msi(f, 1, 0x41);
    assert_true(posted(f, 1) & PEND_INTR);
    assert_false(has(f, 0));
    assert_true(has(f, 1));
    assert_int_equal(rd(f, 1, IRR + 0x20), 2);
    assert_int_equal(ack(f, 1), 0x41);
    assert_int_equal(rd(f, 1, ISR + 0x20), 2);
    assert_int_equal(rd(f, 1, PPR), 0x40);
    assert_false(has(f, 1));
    assert_int_equal(ack(f, 1), -1);
    wr(f, 1, EOI, 0);
    assert_int_equal(rd(f, 1, ISR + 0x20), 0);
    assert_int_equal(f->eois, 0);
}

TEST_F(higher_class_nests_and_lower_waits)
{
    msi(f, 0, 0x41);
    assert_int_equal(ack(f, 0), 0x41);
    msi(f, 0, 0x4f);
    assert_false(has(f, 0));
    msi(f, 0, 0x51);
    assert_int_equal(ack(f, 0), 0x51);
    posted(f, 0);
    wr(f, 0, EOI, 0);
    assert_false(has(f, 0));
    wr(f, 0, EOI, 0);
    assert_true(posted(f, 0) & PEND_INTR);
    assert_int_equal(ack(f, 0), 0x4f);
}

TEST_F(task_priority_holds_back_and_lets_go)
{
    const struct vcpu_intc *ops = f->cpu[0]->intc_ops;

    wr(f, 0, TPR, 0x45);
    assert_int_equal(ops->get_cr8(f->cpu[0]->intc), 4);
    assert_int_equal(rd(f, 0, PPR), 0x45);
    assert_int_equal(rd(f, 0, APR), 0x45);
    msi(f, 0, 0x4f);
    assert_false(has(f, 0));
    assert_int_equal(rd(f, 0, APR), 0x45);
    posted(f, 0);
    ops->set_cr8(f->cpu[0]->intc, 3);
    assert_int_equal(rd(f, 0, TPR), 0x30);
    assert_true(posted(f, 0) & PEND_INTR);
    assert_true(has(f, 0));
    assert_int_equal(rd(f, 0, APR), 0x40);
    wr(f, 0, TPR, 0xff);
    assert_false(has(f, 0));
}

TEST_F(level_eoi_is_broadcast_and_can_be_suppressed)
{
    msi(f, 0, 0xc061);
    assert_int_equal(rd(f, 0, TMR + 0x30), 2);
    ack(f, 0);
    wr(f, 0, EOI, 0);
    assert_int_equal(f->eois, 1);
    assert_int_equal(f->eoi_vector, 0x61);
    wr(f, 0, SVR, 0x11ff);
    msi(f, 0, 0xc061);
    ack(f, 0);
    wr(f, 0, EOI, 0);
    assert_int_equal(f->eois, 1);
}

TEST_F(edge_after_level_clears_the_trigger_mode)
{
    msi(f, 0, 0xc061);
    msi(f, 0, 0x61);
    assert_int_equal(rd(f, 0, TMR + 0x30), 0);
}

TEST_F(level_deassert_and_foreign_writes_are_no_interrupts)
{
    msi(f, 0, 0x8061);
    lapic_msi(&f->bus, 0xfed00000, 0x61);
    msi(f, 0, 0x600);
    msi(f, 0, 0x300);
    assert_false(has(f, 0));
    assert_int_equal(posted(f, 0), 0);
}

TEST_F(pending_query_sees_a_waiting_vector)
{
    assert_false(lapic_msi_pending(&f->bus, BASE, 0x61));
    msi(f, 0, 0x61);
    assert_true(lapic_msi_pending(&f->bus, BASE, 0x61));
    assert_false(lapic_msi_pending(&f->bus, BASE | 1 << 12, 0x61));
    assert_false(lapic_msi_pending(&f->bus, BASE, 0x461));
    assert_false(lapic_msi_pending(&f->bus, BASE | 0x77 << 12, 0x61));
}

TEST_F(special_messages_post_events)
{
    msi(f, 1, 0x200);
    msi(f, 1, 0x400);
    msi(f, 1, 0x500);
    assert_int_equal(posted(f, 1), PEND_SMI | PEND_NMI | PEND_INIT);
    f->pic_vector = 0x70;
    msi(f, 1, 0x700);
    assert_true(has(f, 1));
    assert_int_equal(ack(f, 1), 0x70);
    assert_false(has(f, 1));
}

TEST_F(software_disabled_apic_takes_only_events)
{
    wr(f, 1, LVT_ERROR, 0x33);
    wr(f, 1, SVR, 0xff);
    assert_int_equal(rd(f, 1, LVT_ERROR), MASKED | 0x33);
    wr(f, 1, LVT_ERROR, 0x33);
    assert_int_equal(rd(f, 1, LVT_ERROR), MASKED | 0x33);
    msi(f, 1, 0x41);
    assert_false(has(f, 1));
    msi(f, 1, 0x400);
    assert_int_equal(posted(f, 1), PEND_NMI);
}

/* ---- destinations ---- */

TEST_F(physical_broadcast_reaches_all)
{
    msi(f, 0xff, 0x41);
    assert_true(has(f, 0) && has(f, 1) && has(f, 2));
}

TEST_F(flat_logical_ids_select_by_bit)
{
    wr(f, 0, LDR, 1u << 24);
    wr(f, 1, LDR, 2u << 24);
    wr(f, 2, LDR, 4u << 24);
    lapic_msi(&f->bus, BASE | 6 << 12 | 4, 0x41);
    assert_false(has(f, 0));
    assert_true(has(f, 1) && has(f, 2));
}

TEST_F(cluster_logical_ids_need_the_cluster)
{
    for (unsigned i = 0; i < CPUS; i++)
        wr(f, i, DFR, 0);
    wr(f, 0, LDR, 0x11u << 24);
    wr(f, 1, LDR, 0x12u << 24);
    wr(f, 2, LDR, 0x22u << 24);
    assert_int_equal(rd(f, 2, DFR), 0x0fffffff);
    assert_int_equal(rd(f, 2, LDR), 0x22000000);
    lapic_msi(&f->bus, BASE | 0x12 << 12 | 4, 0x41);
    assert_false(has(f, 0) || has(f, 2));
    assert_true(has(f, 1));
    lapic_msi(&f->bus, BASE | 0xf2 << 12 | 4, 0x42);
    assert_true(has(f, 2));
}

TEST_F(lowest_priority_picks_the_idlest)
{
    for (unsigned i = 0; i < CPUS; i++)
        wr(f, i, LDR, 1u << (24 + i));
    wr(f, 0, TPR, 0x30);
    wr(f, 1, TPR, 0x10);
    wr(f, 2, TPR, 0x20);
    lapic_msi(&f->bus, BASE | 7 << 12 | 4, 0x141);
    assert_true(has(f, 1));
    assert_false(has(f, 0) || has(f, 2));
    lapic_msi(&f->bus, BASE | 5 << 12 | 0xc, 0x42);
    assert_true(has(f, 2));
    lapic_msi(&f->bus, BASE | 0x40 << 12 | 0xc, 0x43);
}

/* ---- IPIs ---- */

TEST_F(icr_sends_by_destination_and_shorthand)
{
    wr(f, 0, ICR_HIGH, 2u << 24);
    wr(f, 0, ICR, 0x4041);
    assert_true(has(f, 2));
    assert_false(has(f, 1));
    assert_int_equal(rd(f, 0, ICR_HIGH), 2u << 24);
    assert_int_equal(rd(f, 0, ICR), 0x4041);
    wr(f, 0, ICR, 0x44042);
    assert_int_equal(ack(f, 0), 0x42);
    wr(f, 0, ICR, 0xc4043);
    assert_int_equal(ack(f, 1), 0x43);
    assert_false(has(f, 0));
    wr(f, 0, ICR, 0x84053);
    assert_int_equal(ack(f, 0), 0x53);
    assert_int_equal(ack(f, 1), 0x53);
}

TEST_F(init_and_startup_reach_the_other_processor)
{
    wr(f, 0, ICR_HIGH, 1u << 24);
    wr(f, 0, ICR, 0xc500);
    assert_int_equal(posted(f, 1), PEND_INIT);
    wr(f, 0, ICR, 0x8500);
    assert_int_equal(posted(f, 1), 0);
    wr(f, 0, ICR, 0x4698);
    assert_int_equal(posted(f, 1), PEND_SIPI);
    assert_int_equal(atomic_load(&f->cpu[1]->sipi_vector), 0x98);
    wr(f, 0, ICR, 0x4700);
    wr(f, 0, ICR, 0x4300);
    assert_int_equal(posted(f, 1), 0);
}

TEST_F(init_clears_all_but_identity)
{
    msi(f, 1, 0x41);
    wr(f, 1, LDR, 2u << 24);
    f->cpu[1]->intc_ops->init_reset(f->cpu[1]->intc);
    assert_false(has(f, 1));
    assert_int_equal(rd(f, 1, SVR), 0xff);
    assert_int_equal(rd(f, 1, LDR), 0);
    assert_int_equal(rd(f, 1, ID), 1u << 24);
    assert_int_equal(msr(f, 1, MSR_BASE), 0xfee00800);
}

/* ---- errors ---- */

TEST_F(illegal_vectors_are_collected_and_reported)
{
    wr(f, 0, LVT_ERROR, 0x33);
    wr(f, 0, ICR, 0x4405);
    wr(f, 0, ICR, 0x4005);
    msi(f, 0, 0x07);
    assert_int_equal(rd(f, 0, ESR), 0);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0x60);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0);
    assert_int_equal(ack(f, 0), 0x33);
}

TEST_F(unknown_registers_set_the_error_bit)
{
    wr(f, 0, 0x40, 0);
    assert_int_equal(rd(f, 0, 0x3f0), 0);
    wr(f, 0, ESR, 0);
    assert_int_equal(rd(f, 0, ESR), 0x80);
    assert_int_equal(f->apic[0]->bad_accesses, 2);
}

TEST_F(illegal_error_vector_does_not_report_itself)
{
    wr(f, 0, LVT_ERROR, 0x05);
    msi(f, 0, 0x07);
    assert_false(has(f, 0));
}

TEST_F(odd_accesses_are_tame)
{
    uint64_t wide = UINT64_MAX;
    uint8_t byte = 0x20;

    wr(f, 0, TPR, 0x30);
    vcpu_mmio(f->cpu[0], BASE + TPR, &byte, 1, true);
    assert_int_equal(rd(f, 0, TPR), 0x30);
    vcpu_mmio(f->cpu[0], BASE + TPR + 4, &byte, 1, true);
    vcpu_mmio(f->cpu[0], BASE + TPR, &byte, 1, false);
    assert_int_equal(byte, 0x30);
    vcpu_mmio(f->cpu[0], BASE + TPR, &wide, 8, false);
    assert_int_equal(wide, 0x30);
    wr(f, 0, ID, 0xffffffff);
    assert_int_equal(rd(f, 0, ID), 0);
    assert_int_equal(rd(f, 0, EOI), 0);
    wr(f, 0, EOI, 0);
}

/* ---- LINT pins ---- */

TEST_WITH(setup_wired, virtual_wire_lets_the_pic_through)
{
    f->pic_vector = 0x08;
    pin(f, 0, 0, true);
    assert_true(posted(f, 0) & PEND_INTR);
    assert_true(has(f, 0));
    assert_int_equal(ack(f, 0), 0x08);
    pin(f, 0, 0, false);
    assert_false(has(f, 0));
    pin(f, 0, 1, true);
    assert_true(posted(f, 0) & PEND_NMI);
}

TEST_F(masked_pin_waits_until_opened)
{
    f->pic_vector = 0x20;
    pin(f, 0, 0, true);
    assert_false(has(f, 0));
    posted(f, 0);
    wr(f, 0, LVT_LINT0, 0x700);
    assert_true(posted(f, 0) & PEND_INTR);
    assert_int_equal(ack(f, 0), 0x20);
}

TEST_F(fixed_edge_pin_interrupts_once)
{
    wr(f, 0, LVT_LINT0, 0x45);
    pin(f, 0, 0, true);
    pin(f, 0, 0, true);
    serve(f, 0, 0x45);
    assert_false(has(f, 0));
}

TEST_F(fixed_level_pin_repeats_after_its_eoi)
{
    wr(f, 0, LVT_LINT1, 0x8046);
    pin(f, 0, 1, true);
    assert_int_equal(rd(f, 0, LVT_LINT1), 0xc046);
    serve(f, 0, 0x46);
    assert_int_equal(ack(f, 0), 0x46);
    pin(f, 0, 1, false);
    wr(f, 0, EOI, 0);
    assert_false(has(f, 0));
    assert_int_equal(rd(f, 0, LVT_LINT1), 0x8046);
    wr(f, 0, LVT_LINT1, 0x8046 | MASKED);
    pin(f, 0, 1, true);
    wr(f, 0, LVT_LINT1, 0x8046);
    assert_int_equal(ack(f, 0), 0x46);
}

TEST_F(disabled_apic_leaves_the_pins_to_the_processor)
{
    uint32_t v;

    assert_true(lapic_enabled(f->apic[0]));
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00100));
    assert_false(lapic_enabled(f->apic[0]));
    vcpu_mmio(f->cpu[0], BASE + ID, &v, 4, false);
    assert_int_equal(v, 0xffffffff);
    f->pic_vector = 0x21;
    pin(f, 0, 0, true);
    assert_int_equal(ack(f, 0), 0x21);
    posted(f, 0);
    pin(f, 0, 1, true);
    assert_int_equal(posted(f, 0), PEND_NMI);
    msi(f, 0, 0x41);
    pin(f, 0, 0, false);
    assert_false(has(f, 0));
    assert_int_equal(ack(f, 0), -1);
}

/* ---- timer ---- */

TEST_F(one_shot_counts_down_and_interrupts_once)
{
    start_timer(f, 0x60, 1000);
    testvm_advance(f->tv, 400);
    assert_int_equal(rd(f, 0, CURRENT), 600);
    assert_int_equal(rd(f, 0, INITIAL), 1000);
    assert_false(has(f, 0));
    testvm_advance(f->tv, 600);
    assert_true(posted(f, 0) & PEND_INTR);
    assert_int_equal(ack(f, 0), 0x60);
    assert_int_equal(rd(f, 0, CURRENT), 0);
    testvm_advance(f->tv, 5000);
    assert_false(has(f, 0));
}

TEST_F(divider_stretches_the_count)
{
    wr(f, 0, DCR, 0x3); /* 16 */
    wr(f, 0, LVT_TIMER, 0x60);
    wr(f, 0, INITIAL, 100);
    testvm_advance(f->tv, 800);
    assert_int_equal(rd(f, 0, CURRENT), 50);
    wr(f, 0, DCR, 0x0); /* 2: what is left goes on faster */
    assert_int_equal(rd(f, 0, DCR), 0);
    assert_int_equal(rd(f, 0, CURRENT), 50);
    testvm_advance(f->tv, 100);
    assert_true(has(f, 0));
}

TEST_F(periodic_goes_on_and_merges_what_was_missed)
{
    start_timer(f, 0x60 | PERIODIC, 100000);
    testvm_advance(f->tv, 100000);
    serve(f, 0, 0x60);
    testvm_advance(f->tv, 350000);
    serve(f, 0, 0x60);
    assert_false(has(f, 0));
    assert_int_equal(rd(f, 0, CURRENT), 50000);
    testvm_advance(f->tv, 50000);
    assert_true(has(f, 0));
}

TEST_F(tiny_period_does_not_storm)
{
    unsigned rings = 0;

    start_timer(f, 0x60 | PERIODIC, 1);
    for (unsigned i = 0; i < 1000; i++) {
        testvm_advance(f->tv, 1000);
        rings += posted(f, 0) & PEND_INTR;
        has(f, 0);
        posted(f, 0);
    }
    assert_in_range(rings, 40, 60);
}

TEST_F(masked_timer_counts_silently)
{
    start_timer(f, 0x60 | MASKED, 1000);
    testvm_advance(f->tv, 2000);
    assert_int_equal(rd(f, 0, CURRENT), 0);
    wr(f, 0, LVT_TIMER, 0x60);
    assert_false(has(f, 0));
    assert_int_equal(posted(f, 0), 0);
}

TEST_F(zero_count_stops_the_timer)
{
    wr(f, 0, LVT_TIMER, 0x60);
    wr(f, 0, INITIAL, 1000);
    wr(f, 0, INITIAL, 0);
    testvm_advance(f->tv, 1000000);
    assert_false(has(f, 0));
    assert_int_equal(rd(f, 0, CURRENT), 0);
}

TEST_F(deadline_fires_at_its_tsc_and_clears)
{
    uint64_t tsc;

    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    tsc = vm_tsc(&f->tv->vm);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, tsc + 5000));
    testvm_advance(f->tv, 4999);
    assert_false(has(f, 0));
    assert_int_equal(msr(f, 0, MSR_DEADLINE), tsc + 5000);
    testvm_advance(f->tv, 1);
    assert_int_equal(ack(f, 0), 0x61);
    assert_int_equal(msr(f, 0, MSR_DEADLINE), 0);
    wr(f, 0, INITIAL, 100);
    assert_int_equal(rd(f, 0, CURRENT), 0);
}

TEST_F(deadline_in_the_past_fires_at_once)
{
    testvm_advance(f->tv, 1000);
    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, 1));
    assert_true(has(f, 0));
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, UINT64_MAX));
    testvm_advance(f->tv, 1000000);
    assert_int_equal(msr(f, 0, MSR_DEADLINE), UINT64_MAX);
}

TEST_F(deadline_is_ignored_in_other_modes)
{
    wr(f, 0, LVT_TIMER, 0x61);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, 5));
    assert_int_equal(msr(f, 0, MSR_DEADLINE), 0);
    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, 1000000));
    wr(f, 0, LVT_TIMER, 0x61);
    assert_int_equal(msr(f, 0, MSR_DEADLINE), 0);
    f->cpu[0]->intc_ops->tsc_jumps(f->cpu[0]->intc);
    assert_false(has(f, 0));
}

TEST_F(deadline_moves_with_the_tsc)
{
    uint64_t hz = f->tv->vm.tsc_hz;

    f->tsc_offset = hz;
    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, 2 * hz)); /* in a second */
    testvm_advance(f->tv, NS_PER_SEC / 2);
    jump(f, 0, -(int64_t)hz); /* in one and a half */
    testvm_advance(f->tv, NS_PER_SEC);
    assert_false(has(f, 0));
    jump(f, 0, (int64_t)(hz / 4)); /* in a quarter */
    testvm_advance(f->tv, NS_PER_SEC / 4);
    assert_int_equal(ack(f, 0), 0x61);
    assert_int_equal(msr(f, 0, MSR_DEADLINE), 0);
}

TEST_F(deadline_that_the_tsc_jumps_over_is_reached)
{
    uint64_t hz = f->tv->vm.tsc_hz;

    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, hz));
    posted(f, 0);
    jump(f, 0, (int64_t)(2 * hz));
    assert_int_equal(posted(f, 0) & PEND_INTR, PEND_INTR);
    assert_int_equal(ack(f, 0), 0x61);
}

TEST_F(deadline_reached_before_the_jump_stays_reached)
{
    uint64_t hz = f->tv->vm.tsc_hz;

    wr(f, 0, LVT_TIMER, 0x61 | DEADLINE);
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_DEADLINE, hz));
    testvm_advance(f->tv, NS_PER_SEC);
    jump(f, 0, -(int64_t)hz);
    assert_int_equal(ack(f, 0), 0x61);
}

/* ---- x2APIC ---- */

TEST_F(x2apic_replaces_the_page_by_msrs)
{
    uint64_t v;

    assert_false(vcpu_rdmsr(f->cpu[1], X2(ID), &v));
    assert_false(vcpu_wrmsr(f->cpu[1], X2(TPR), 0));
    to_x2(f, 1);
    assert_false(vcpu_in_overlay(f->cpu[1], BASE));
    assert_int_equal(msr(f, 1, X2(ID)), 1);
    assert_int_equal(msr(f, 1, X2(LDR)), 2);
    assert_int_equal(msr(f, 1, X2(VERSION)), 0x01050014);
    assert_true(vcpu_wrmsr(f->cpu[1], X2(TPR), 0x20));
    assert_int_equal(msr(f, 1, X2(PPR)), 0x20);
    assert_int_equal(msr(f, 1, X2(SVR)), 0x1ff);
    assert_false(vcpu_rdmsr(f->cpu[1], X2(DFR), &v));
    assert_false(vcpu_rdmsr(f->cpu[1], X2(EOI), &v));
    assert_false(vcpu_rdmsr(f->cpu[1], 0x8ff, &v));
}

TEST_F(x2apic_reserved_bits_and_registers_fault)
{
    to_x2(f, 0);
    assert_false(vcpu_wrmsr(f->cpu[0], X2(TPR), 0x100));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(EOI), 1));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(ESR), 1));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(ID), 0));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(SVR), 0x2000));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(INITIAL), 1ull << 32));
    assert_false(vcpu_wrmsr(f->cpu[0], X2(LVT_TIMER), 0x80000));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(LVT_TIMER), MASKED));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(DCR), 0xb));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(INITIAL), 5));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(EOI), 0));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(ESR), 0));
}

TEST_F(x2apic_icr_addresses_clusters_and_self)
{
    to_x2(f, 0);
    to_x2(f, 1);
    assert_true(vcpu_wrmsr(f->cpu[0], X2(ICR), 2ull << 32 | 0x841));
    assert_int_equal(ack(f, 1), 0x41);
    assert_int_equal(msr(f, 0, X2(ICR)), 2ull << 32 | 0x841);
    assert_true(vcpu_wrmsr(f->cpu[0], X2(ICR), 0x10002ull << 32 | 0x842));
    assert_false(has(f, 1));
    assert_true(vcpu_wrmsr(f->cpu[0], X2(ICR), 0xffffffffull << 32 | 0x63));
    assert_true(has(f, 0) && has(f, 1) && has(f, 2));
    assert_int_equal(ack(f, 0), 0x63);
    assert_true(vcpu_wrmsr(f->cpu[0], X2(0x3f0), 0x77));
    assert_int_equal(ack(f, 0), 0x77);
    assert_true(vcpu_wrmsr(f->cpu[0], X2(ICR), 0x1ffull << 32 | 0x844));
}

TEST_F(base_transitions_that_the_manual_forbids_fault)
{
    assert_false(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00500));
    assert_false(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00901));
    assert_false(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0x1000fee00900ull));
    to_x2(f, 0);
    assert_false(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00900));
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00000));
    assert_int_equal(msr(f, 0, MSR_BASE), 0xfee00100);
    assert_false(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00d00));
    assert_true(vcpu_wrmsr(f->cpu[0], MSR_BASE, 0xfee00900));
    assert_int_equal(rd(f, 0, SVR), 0xff);
}

TEST_F(moved_base_moves_the_page)
{
    assert_true(vcpu_wrmsr(f->cpu[1], MSR_BASE, 0xfed00800));
    assert_true(vcpu_in_overlay(f->cpu[1], 0xfed00020));
    assert_false(vcpu_in_overlay(f->cpu[1], BASE));
}

/* ---- state ---- */

TEST_F(state_round_trips)
{
    msi(f, 0, 0xc041);
    msi(f, 0, 0x93);
    ack(f, 0);
    pin(f, 0, 1, true);
    wr(f, 0, LVT_TIMER, 0x60 | PERIODIC);
    wr(f, 0, INITIAL, 100000);
    testvm_state_roundtrip(f->apic[0]);
    wr(f, 0, EOI, 0);
    assert_int_equal(ack(f, 0), 0x41);
    testvm_advance(f->tv, 200000);
    assert_int_equal(ack(f, 0), 0x60);
}

TEST_F(timer_goes_on_in_the_vm_it_is_loaded_into)
{
    struct fixture *g = made(false);

    start_timer(f, 0x60, 1000);
    testvm_transfer(f->apic[0], g->apic[0]);
    testvm_advance(g->tv, 1000);
    assert_int_equal(ack(g, 0), 0x60);
    testvm_free(g->tv);
    free(g);
}

TEST_F(detached_apic_is_gone_from_its_page)
{
    TESTVM_LOCKED(f->tv, device_detach(f->apic[2]));
    assert_false(vcpu_in_overlay(f->cpu[2], BASE));
}
