/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#define FIXTURE struct vm *vm
#include "core/vm.h"
#include "tests/lib/unit.h"

static struct vm *setup(void)
{
    struct vm_config config = {.ram_bytes = 1 << 16, .clock = CLOCK_REAL, .with_loop = true};
    struct vm *vm = calloc(1, sizeof(*vm));

    assert_int_equal(vm_init(vm, &config, NULL), 0);
    assert_non_null(vm_add_vcpu(vm, NULL, NULL));
    assert_non_null(vm_add_vcpu(vm, NULL, NULL));
    return vm;
}

static void teardown(struct vm *vm)
{
    vm_fini(vm);
    free(vm);
}

TEST_F(a_post_before_the_wait_is_not_lost)
{
    struct vcpu *v = vm->vcpus[0];

    vcpu_post(v, PEND_INTR);
    vcpu_wait(v);
    assert_int_equal(v->pending, PEND_INTR);
}

static void *wait_thread(void *opaque)
{
    vcpu_wait(opaque);
    return NULL;
}

TEST_F(a_post_wakes_a_waiting_vcpu)
{
    struct vcpu *v = vm->vcpus[0];
    pthread_t t;

    pthread_create(&t, NULL, wait_thread, v);
    usleep(1000);
    vcpu_post(v, PEND_NMI);
    pthread_join(t, NULL);
    assert_int_equal(v->pending, PEND_NMI);
}

#define ROUNDS 2000
static unsigned shared; /* plain: only the stopped world makes it safe */

/* Runs "instructions", stopping the world for each increment, and parks when asked. */
static void *exclusive_thread(void *opaque)
{
    struct vcpu *v = opaque;

    vcpu_set_running(v, true);
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (atomic_load(&v->pending) & PEND_EXCLUSIVE)
            vcpu_exclusive_park(v);
        vcpu_exclusive_begin(v);
        shared++;
        vcpu_exclusive_end(v);
    }
    vcpu_set_running(v, false);
    return NULL;
}

TEST_F(exclusive_sections_exclude_each_other)
{
    pthread_t a, b;

    shared = 0;
    pthread_create(&a, NULL, exclusive_thread, vm->vcpus[0]);
    pthread_create(&b, NULL, exclusive_thread, vm->vcpus[1]);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    assert_int_equal(shared, 2 * ROUNDS);
}

static bool msr_read(void *opaque, uint32_t index, uint64_t *value)
{
    *value = index + *(uint64_t *)opaque;
    return true;
}

TEST_F(msr_tables_dispatch_and_unknown_ones_are_refused)
{
    static const struct msr_range ranges[] = {
        {.first = 0x10, .last = 0x1f, .name = "r", .read = msr_read}, {0}};
    uint64_t bias = 1000, v = 0;

    vcpu_add_msrs(vm->vcpus[0], ranges, &bias);
    assert_true(vcpu_rdmsr(vm->vcpus[0], 0x1f, &v));
    assert_int_equal(v, 1000 + 0x1f);
    assert_false(vcpu_wrmsr(vm->vcpus[0], 0x1f, 0));
    assert_int_equal(vm->trace.unknown, 0);
    assert_false(vcpu_rdmsr(vm->vcpus[0], 0x20, &v));
    assert_int_equal(vm->trace.unknown, 1);
}

static uint64_t overlay_read(void *opaque, uint64_t off, unsigned size)
{
    (void)size;
    return *(unsigned *)opaque + off;
}

TEST_F(overlays_belong_to_one_vcpu_and_come_first)
{
    static const struct io_ops ops = {.read = overlay_read, .sizes = IO_4, .lockless = true};
    unsigned tag = 0x100;
    struct region r = {.name = "apic", .size = 0x1000, .ops = &ops, .dev = &tag};
    struct region ram = {.name = "ram", .kind = REGION_RAM, .size = 0x10000};
    uint32_t v = 1;

    bus_map(&vm->memory, &ram, 0);
    vcpu_set_overlay(vm->vcpus[0], 0, &r, 0x2000);
    vcpu_mmio(vm->vcpus[0], 0x2010, &v, 4, false);
    assert_int_equal(v, 0x110);
    assert_true(vcpu_in_overlay(vm->vcpus[0], 0x2fff));
    assert_false(vcpu_in_overlay(vm->vcpus[1], 0x2000));
    vcpu_mmio(vm->vcpus[1], 0x2010, &v, 4, false);
    assert_int_equal(v, 0);
    vcpu_set_overlay(vm->vcpus[0], 0, NULL, 0);
    assert_false(vcpu_in_overlay(vm->vcpus[0], 0x2000));
}

static void fired(void *opaque)
{
    ++*(unsigned *)opaque;
}

TEST_F(loop_runs_timers_and_posted_work)
{
    unsigned timers = 0, works = 0;
    struct timer t;
    struct loop_work w = {.fn = fired, .opaque = &works};

    timer_init(&t, vm->clock, "t", fired, &timers);
    timer_arm(&t, clock_now(vm->clock) + 1000000);
    loop_post(vm->loop, &w);
    loop_post(vm->loop, &w);
    for (unsigned i = 0; i < 20 && !(timers && works); i++)
        loop_once(vm->loop, 100);
    assert_int_equal(timers, 1);
    assert_int_equal(works, 1);
    timer_disarm(&t);
}

struct racer {
    struct clock *clock;
    struct timer late, soon;
    _Atomic unsigned fired;
    _Atomic bool lost, done;
};

static void soon_fired(void *opaque)
{
    atomic_fetch_add(&((struct racer *)opaque)->fired, 1);
}

/* As a local APIC does: arms without the machine lock, again and again. */
static void *arm_thread(void *opaque)
{
    struct racer *r = opaque;

    for (unsigned i = 0; i < 3000 && !atomic_load(&r->lost); i++) {
        int64_t start = clock_now(r->clock);

        timer_disarm(&r->late); /* nothing else will put it right */
        timer_arm(&r->late, start + 15000);
        timer_arm(&r->soon, start + 15000 + i % 8000);
        while (atomic_load(&r->fired) == i)
            if (clock_now(r->clock) - start > NS_PER_SEC)
                atomic_store(&r->lost, true), atomic_store(&r->fired, i + 1);
    }
    atomic_store(&r->done, true);
    return NULL;
}

static void late_once(void *opaque)
{
    (void)opaque;
}

TEST_F(a_deadline_armed_while_the_loop_rearms_is_not_lost)
{
    static struct racer r;
    pthread_t t;

    r.clock = vm->clock;
    timer_init(&r.late, vm->clock, "late", late_once, &r);
    timer_init(&r.soon, vm->clock, "soon", soon_fired, &r);
    pthread_create(&t, NULL, arm_thread, &r);
    while (!atomic_load(&r.done))
        loop_once(vm->loop, 1);
    pthread_join(t, NULL);
    timer_disarm(&r.late);
    timer_disarm(&r.soon);
    assert_false(r.lost);
}

static void fd_ready(void *opaque, unsigned ready)
{
    *(unsigned *)opaque |= ready;
}

TEST_F(loop_reports_ready_descriptors_until_deleted)
{
    unsigned ready = 0;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(loop_add_fd(vm->loop, fds[0], LOOP_IN, fd_ready, &ready), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    loop_once(vm->loop, 1000);
    assert_int_equal(ready, LOOP_IN);
    ready = 0;
    loop_del_fd(vm->loop, fds[0]);
    loop_once(vm->loop, 0);
    assert_int_equal(ready, 0);
    close(fds[0]);
    close(fds[1]);
}
