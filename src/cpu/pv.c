/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM CPUID leaves and kvm-clock. Linux, Documentation/virt/kvm/x86/{cpuid,msr}.rst and
 * arch/x86/include/asm/pvclock-abi.h.
 *
 * The guest names a page; it holds a point (TSC, nanoseconds) and a slope, from which the guest
 * computes time by itself. Our TSC is VM time times a constant, so one point serves for good: VM
 * time 0, where a vCPU's TSC is its offset. All vCPUs are on the same line, hence
 * PVCLOCK_TSC_STABLE_BIT, and a page need only be written when its MSR or the vCPU's TSC offset
 * changes.
 */
#include "cpu/pv.h"

#include "base/bytes.h"
#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "cpu/msr.h"

/* ---- CPUID ---------------------------------------------------------------------------- */

#define KVM_CPUID_SIGNATURE 0x40000000
#define KVM_CPUID_FEATURES  0x40000001
#define KVM_CPUID_TIMING    0x40000010 /* VMware's timing leaf, which KVM guests read as well */

#define KVM_FEATURE_CLOCKSOURCE            BIT(0)
#define KVM_FEATURE_NOP_IO_DELAY           BIT(1)
#define KVM_FEATURE_CLOCKSOURCE2           BIT(3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT BIT(24)

#define APIC_BUS_KHZ 1000000

struct cpuid_regs pv_cpuid(const struct cpu_model *m, uint32_t leaf)
{
    switch (leaf) {
    case KVM_CPUID_SIGNATURE: /* "KVMKVMKVM" */
        return (struct cpuid_regs){KVM_CPUID_TIMING, 0x4b4d564b, 0x564b4d56, 0x4d};
    case KVM_CPUID_FEATURES:
        return (struct cpuid_regs){KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY |
                                       KVM_FEATURE_CLOCKSOURCE2 |
                                       KVM_FEATURE_CLOCKSOURCE_STABLE_BIT,
                                   0, 0, 0};
    case KVM_CPUID_TIMING:
        return (struct cpuid_regs){(uint32_t)(m->tsc_hz / 1000), APIC_BUS_KHZ, 0, 0};
    default:
        return (struct cpuid_regs){0};
    }
}

/* ---- kvm-clock ------------------------------------------------------------------------ */

#define MSR_KVM_WALL_CLOCK      0x11
#define MSR_KVM_SYSTEM_TIME     0x12
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
/* Asynchronous page faults, steal time, EOI, polling, migration control: known and refused. */
#define MSR_KVM_REFUSED_FIRST 0x4b564d02
#define MSR_KVM_REFUSED_LAST  0x4b564dff

#define SYSTEM_TIME_ENABLE     1ull
#define PVCLOCK_TSC_STABLE_BIT 1

/* struct pvclock_vcpu_time_info */
#define TIME_VERSION       0
#define TIME_TSC_TIMESTAMP 8
#define TIME_SYSTEM_TIME   16
#define TIME_MUL           24
#define TIME_SHIFT         28
#define TIME_FLAGS         29
#define TIME_SIZE          32
/* struct pvclock_wall_clock */
#define WALL_SEC  4
#define WALL_NSEC 8
#define WALL_SIZE 12

void pv_clock_scale(uint64_t tsc_hz, uint32_t *mul, int8_t *shift)
{
    unsigned __int128 scaled = (unsigned __int128)NS_PER_SEC << 32;

    *shift = 0;
    *mul = 0;
    if (!tsc_hz)
        return;
    /* mul's top bit is set, for precision. */
    for (; scaled / tsc_hz > UINT32_MAX; ++*shift)
        scaled >>= 1;
    for (; scaled / tsc_hz <= INT32_MAX; --*shift)
        scaled <<= 1;
    *mul = (uint32_t)(scaled / tsc_hz);
}

/*
 * The version is odd while the rest is being written, and even and new after that. The guest chose
 * the address: where it is no RAM nothing happens.
 */
static void publish(struct vm *vm, gpa_t gpa, uint8_t *record, size_t size)
{
    uint8_t version[4];
    uint32_t next;

    if (!mem_read(vm, gpa, version, sizeof(version)))
        return;
    next = (get_le32(version) | 1) + 2;
    put_le32(version, next);
    mem_write(vm, gpa, version, sizeof(version));
    atomic_thread_fence(memory_order_seq_cst);
    mem_write(vm, gpa + sizeof(version), record + sizeof(version), size - sizeof(version));
    atomic_thread_fence(memory_order_seq_cst);
    put_le32(version, next + 1);
    mem_write(vm, gpa, version, sizeof(version));
}

void pv_clock_update(struct vcpu *vcpu, const struct cpu_state *cs)
{
    struct vm *vm = vcpu->vm;
    uint8_t record[TIME_SIZE] = {0};
    uint32_t mul;
    int8_t shift;

    if (!(cs->pv_system_time & SYSTEM_TIME_ENABLE))
        return;
    pv_clock_scale(vm->tsc_hz, &mul, &shift);
    put_le64(record + TIME_TSC_TIMESTAMP, cs->tsc_offset);
    put_le64(record + TIME_SYSTEM_TIME, 0);
    put_le32(record + TIME_MUL, mul);
    record[TIME_SHIFT] = (uint8_t)shift;
    record[TIME_FLAGS] = PVCLOCK_TSC_STABLE_BIT;
    publish(vm, cs->pv_system_time & ~3ull, record, sizeof(record));
}

/* The wall clock at VM time 0, where the system time that the guest adds to it is 0 as well. */
static void wall_clock_write(struct vcpu *vcpu, const struct cpu_state *cs)
{
    struct vm *vm = vcpu->vm;
    uint64_t now = gate_input(&vm->gate, GATE_WALL, cs->icount,
                              (uint64_t)(clock_wall(vm->clock) - clock_now(vm->clock)));
    uint8_t record[WALL_SIZE] = {0};

    put_le32(record + WALL_SEC, (uint32_t)(now / (uint64_t)NS_PER_SEC));
    put_le32(record + WALL_NSEC, (uint32_t)(now % (uint64_t)NS_PER_SEC));
    publish(vm, cs->pv_wall_clock & ~3ull, record, sizeof(record));
}

static bool pv_read(void *opaque, uint32_t index, uint64_t *value)
{
    const struct cpu_msrs *m = opaque;

    if (index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_WALL_CLOCK_NEW)
        *value = m->cs->pv_wall_clock;
    else
        *value = m->cs->pv_system_time;
    return true;
}

static bool pv_write(void *opaque, uint32_t index, uint64_t value)
{
    const struct cpu_msrs *m = opaque;

    if (index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_WALL_CLOCK_NEW) {
        m->cs->pv_wall_clock = value;
        wall_clock_write(m->vcpu, m->cs);
    } else {
        m->cs->pv_system_time = value;
        pv_clock_update(m->vcpu, m->cs);
    }
    return true;
}

const struct msr_range pv_msrs[] = {
    {MSR_KVM_WALL_CLOCK, MSR_KVM_WALL_CLOCK, "KVM_WALL_CLOCK", pv_read, pv_write},
    {MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME, "KVM_SYSTEM_TIME", pv_read, pv_write},
    {MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_WALL_CLOCK_NEW, "KVM_WALL_CLOCK_NEW", pv_read, pv_write},
    {MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_SYSTEM_TIME_NEW, "KVM_SYSTEM_TIME_NEW", pv_read, pv_write},
    {MSR_KVM_REFUSED_FIRST, MSR_KVM_REFUSED_LAST, "KVM_NOT_OFFERED", NULL, NULL},
    {0, 0, NULL, NULL, NULL},
};
