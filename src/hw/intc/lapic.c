/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APIC, one per vCPU: priorities, IPIs, local interrupts, timer; xAPIC registers in a page of
 * memory, x2APIC registers as MSRs 800h to 8FFh.
 *
 * Intel SDM vol. 3A chapter 10 (APIC), 10.4.7 (resets), 10.5.4 (timer), 10.6 (IPIs), 10.8
 * (interrupt handling), 10.11 (MSIs), 10.12 (x2APIC).
 *
 * Not emulated: the APIC bus and arbitration (every message arrives at once), focus processors,
 * remote read, CMCI, thermal and performance interrupts (their LVTs are storage), the writable APIC
 * id.
 *
 * Threads. An APIC belongs to its vCPU, whose handlers take no lock. Others (devices under the
 * machine lock, IPIs from other vCPUs, pins) only do atomic ORs into IRR, TMR, the ESR's collector
 * and the pin words, then post the vCPU; to choose destinations they read base, LDR, DFR, SVR, TPR,
 * ISR and the LVTs. All of those words are accessed with the __atomic builtins; the rest is the
 * vCPU's alone. The clock's timer fires in another thread and reads nothing: it raises `fired` and
 * posts; whether something is really due is worked out by the vCPU, so a callback that lost a race
 * with re-arming does no harm.
 *
 * A hostile guest reaches: vectors and destinations (bounded where decoded), and the timer, whose
 * host timer never repeats faster than LAPIC_TIMER_MIN_NS.
 */
#include "hw/intc/lapic.h"
#include "hw/region.h"

#include <errno.h>

/* ---- registers: number = MMIO offset / 16 = MSR - 800h (SDM table 10-1) ---------------------- */

#define APIC_ID            0x02
#define APIC_VERSION       0x03
#define APIC_TPR           0x08
#define APIC_APR           0x09
#define APIC_PPR           0x0a
#define APIC_EOI           0x0b
#define APIC_RRD           0x0c
#define APIC_LDR           0x0d
#define APIC_DFR           0x0e
#define APIC_SVR           0x0f
#define APIC_ISR           0x10 /* 8 of them, as of the next two */
#define APIC_TMR           0x18
#define APIC_IRR           0x20
#define APIC_ESR           0x28
#define APIC_ICR           0x30
#define APIC_ICR_HIGH      0x31 /* xAPIC only */
#define APIC_LVT           0x32 /* 6 of them */
#define APIC_LVT_LAST      0x37
#define APIC_INITIAL_COUNT 0x38
#define APIC_CURRENT_COUNT 0x39
#define APIC_DCR           0x3e
#define APIC_SELF_IPI      0x3f /* x2APIC only */

#define MSR_APIC_BASE    0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC       0x800
#define MSR_X2APIC_LAST  0x8ff

#define APIC_BASE_BSP  BIT(8)
#define APIC_BASE_EXTD BIT(10)
#define APIC_BASE_EN   BIT(11)
#define APIC_BASE_ADDR 0xfee00000ull

/* Integrated APIC, six LVT entries, EOI-broadcast suppression. */
#define VERSION_VALUE (0x14u | 5u << 16 | 1u << 24)

#define SVR_ENABLE       0x100u
#define SVR_FOCUS_OFF    0x200u
#define SVR_EOI_SUPPRESS 0x1000u
#define SVR_WRITABLE     (0xffu | SVR_ENABLE | SVR_FOCUS_OFF | SVR_EOI_SUPPRESS)
#define SVR_RESET        0xffu

#define DFR_FIXED 0x0fffffffu
#define DFR_FLAT  0xfu

#define ESR_SEND_ILLEGAL 0x20u
#define ESR_RECV_ILLEGAL 0x40u
#define ESR_ILLEGAL_REG  0x80u

#define ICR_LOGICAL      0x800u
#define ICR_LEVEL        0x4000u
#define ICR_TRIGGER      0x8000u
#define ICR_LOW_WRITABLE 0x000ccfffu

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

#define LVT_VECTOR      0xffu
#define LVT_MODE_SHIFT  8
#define LVT_REMOTE_IRR  0x4000u
#define LVT_TRIGGER     0x8000u
#define LVT_MASKED      0x10000u
#define LVT_TIMER_SHIFT 17

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE };

/* Delivery modes, in the LVTs, the ICR and messages alike. */
enum {
    MODE_FIXED,
    MODE_LOWEST,
    MODE_SMI,
    MODE_RESERVED,
    MODE_NMI,
    MODE_INIT,
    MODE_SIPI,
    MODE_EXTINT
};

enum { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

/* Message addresses and data (SDM vol. 3A, 10.11). */
#define MSI_ADDR_TAG     0xfeeull
#define MSI_ADDR_LOGICAL 0x4u
#define MSI_ADDR_HINT    0x8u

#define DEST_BROADCAST8  0xffu
#define DEST_BROADCAST32 0xffffffffu

#define LAPIC_OVERLAY 0
/* A tick of the timer before division is a nanosecond of VM time: the bus runs at 1 GHz. */
#define LAPIC_TIMER_MIN_NS 20000

static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x000300ff, /* TSC deadline is added where CPUID has it */
    [LVT_THERMAL] = 0x000107ff, [LVT_PERF] = 0x000107ff,  [LVT_LINT0] = 0x0001a7ff,
    [LVT_LINT1] = 0x0001a7ff,   [LVT_ERROR] = 0x000100ff,
};
#define LVT_TIMER_DEADLINE_BIT 0x00040000u

struct lapic_state {
    uint64_t base; /* IA32_APIC_BASE */
    uint64_t icr;
    uint64_t tsc_deadline; /* 0: not armed */
    int64_t timer_next;    /* VM ns at which the count reaches zero; TIMER_NEVER: stopped */
    uint32_t irr[8], isr[8], tmr[8];
    uint32_t lvt[LVT_COUNT];
    uint32_t tpr, ldr, dfr, svr;
    uint32_t esr, esr_next; /* as last written back, and what has gathered since */
    uint32_t dcr, initial;
    uint32_t lint;   /* levels of the two pins: they come from outside and outlast a reset */
    uint32_t extint; /* an ExtINT message waits */
};

struct lapic {
    struct device dev;

    /* Wiring. */
    struct lapic_config cfg;
    struct vcpu *vcpu;
    struct region region;
    uint64_t base_valid; /* writable bits of IA32_APIC_BASE */

    /* Derived. */
    struct timer timer;
    bool fired; /* atomic: the timer has rung */

    struct lapic_state state;
};

static const struct state_field lapic_fields[] = {
    STATE_UINT(struct lapic_state, base, 0, UINT64_MAX),
    STATE_UINT(struct lapic_state, icr, 0, UINT64_MAX),
    STATE_UINT(struct lapic_state, tsc_deadline, 0, UINT64_MAX),
    STATE_INT(struct lapic_state, timer_next, 0, INT64_MAX),
    STATE_UINTS(struct lapic_state, irr, 0, UINT32_MAX),
    STATE_UINTS(struct lapic_state, isr, 0, UINT32_MAX),
    STATE_UINTS(struct lapic_state, tmr, 0, UINT32_MAX),
    STATE_UINTS(struct lapic_state, lvt, 0, UINT32_MAX),
    STATE_UINT(struct lapic_state, tpr, 0, 0xff),
    STATE_UINT(struct lapic_state, ldr, 0, UINT32_MAX),
    STATE_UINT(struct lapic_state, dfr, DFR_FIXED, UINT32_MAX),
    STATE_UINT(struct lapic_state, svr, 0, SVR_WRITABLE),
    STATE_UINT(struct lapic_state, esr, 0, 0xff),
    STATE_UINT(struct lapic_state, esr_next, 0, 0xff),
    STATE_UINT(struct lapic_state, dcr, 0, 0xb),
    STATE_UINT(struct lapic_state, initial, 0, UINT32_MAX),
    STATE_UINT(struct lapic_state, lint, 0, 3),
    STATE_UINT(struct lapic_state, extint, 0, 1),
};

/* ---- the words that other threads see ---- */

#define get(word)           __atomic_load_n(&(word), __ATOMIC_SEQ_CST)
#define set(word, v)        __atomic_store_n(&(word), (v), __ATOMIC_SEQ_CST)
#define set_bits(word, v)   __atomic_fetch_or(&(word), (v), __ATOMIC_SEQ_CST)
#define clear_bits(word, v) __atomic_fetch_and(&(word), ~(v), __ATOMIC_SEQ_CST)

static bool apic_on(const struct lapic *l)
{
    return get(l->state.base) & APIC_BASE_EN;
}

static bool apic_x2(const struct lapic *l)
{
    return get(l->state.base) & APIC_BASE_EXTD;
}

static bool apic_sw_on(const struct lapic *l)
{
    return get(l->state.svr) & SVR_ENABLE;
}

/* ---- pure helpers ---- */

/* The highest vector set, or -1. */
static int highest(const uint32_t *words)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t w = get(words[i]);

        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

/* PPR: the higher class of the task and of what is in service (10.8.3.1). */
static uint32_t apic_ppr(const struct lapic *l)
{
    uint32_t tpr = get(l->state.tpr);
    int isr = highest(l->state.isr);
    uint32_t isrv = isr < 0 ? 0 : (uint32_t)isr;

    return (tpr & 0xf0) >= (isrv & 0xf0) ? tpr : isrv & 0xf0;
}

/* APR (10.6.2.4), which lowest-priority delivery compares. */
static uint32_t apic_apr(const struct lapic *l)
{
    uint32_t tpr = get(l->state.tpr);
    int irr = highest(l->state.irr), isr = highest(l->state.isr);
    uint32_t irrv = irr < 0 ? 0 : (uint32_t)irr & 0xf0, isrv = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

    if ((tpr & 0xf0) >= irrv && (tpr & 0xf0) > isrv)
        return tpr;
    return max_u64(max_u64(tpr & 0xf0, isrv), irrv);
}

/* LDR as x2APIC derives it from the id (10.12.10.2). */
static uint32_t x2apic_ldr(const struct lapic *l)
{
    return (l->cfg.id >> 4) << 16 | 1u << (l->cfg.id & 0xf);
}

static unsigned timer_divide(const struct lapic_state *s)
{
    unsigned code = (s->dcr & 3) | (s->dcr >> 1 & 4);

    return code == 7 ? 1 : 2u << code;
}

static unsigned timer_mode(const struct lapic *l)
{
    return get(l->state.lvt[LVT_TIMER]) >> LVT_TIMER_SHIFT & 3;
}

static int64_t timer_period(const struct lapic_state *s)
{
    return (int64_t)s->initial * timer_divide(s);
}

static uint64_t guest_tsc(const struct lapic *l)
{
    uint64_t tsc = vm_tsc(l->dev.vm);

    return l->cfg.tsc_offset ? tsc + l->cfg.tsc_offset(l->vcpu) : tsc;
}

/* ---- arrivals: from any thread ---- */

static void apic_error(struct lapic *l, uint32_t bit);

/* False if the vector was already waiting. */
static bool accept_vector(struct lapic *l, uint8_t vector, bool level)
{
    uint32_t bit = 1u << (vector & 31);
    bool waiting;

    if (vector < 16) {
        apic_error(l, ESR_RECV_ILLEGAL);
        return true;
    }
    if (level)
        set_bits(l->state.tmr[vector >> 5], bit);
    else
        clear_bits(l->state.tmr[vector >> 5], bit);
    waiting = set_bits(l->state.irr[vector >> 5], bit) & bit;
    vcpu_post(l->vcpu, PEND_INTR);
    return !waiting;
}

static void apic_error(struct lapic *l, uint32_t bit)
{
    uint32_t lvt = get(l->state.lvt[LVT_ERROR]);

    set_bits(l->state.esr_next, bit);
    /* An error vector that is itself illegal must not report itself for ever. */
    if (!(lvt & LVT_MASKED) && (lvt & LVT_VECTOR) >= 16)
        accept_vector(l, (uint8_t)lvt, false);
}

/* A message reaches one APIC. False if it was coalesced. */
static bool accept_message(struct lapic *l, unsigned mode, uint8_t vector, bool level)
{
    if (!apic_on(l))
        return true;
    switch (mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        return apic_sw_on(l) ? accept_vector(l, vector, level) : true;
    case MODE_SMI:
        vcpu_post(l->vcpu, PEND_SMI);
        break;
    case MODE_NMI:
        vcpu_post(l->vcpu, PEND_NMI);
        break;
    case MODE_INIT:
        vcpu_post(l->vcpu, PEND_INIT);
        break;
    case MODE_SIPI:
        atomic_store(&l->vcpu->sipi_vector, vector);
        vcpu_post(l->vcpu, PEND_SIPI);
        break;
    case MODE_EXTINT:
        set(l->state.extint, 1u);
        vcpu_post(l->vcpu, PEND_INTR);
        break;
    }
    return true;
}

struct message {
    uint32_t dest;
    bool logical;
    bool wide; /* dest has 32 bits: sent by an x2APIC */
    bool level;
    unsigned mode;
    uint8_t vector;
};

static bool logical_match(const struct lapic *l, uint32_t dest)
{
    uint32_t ldr = get(l->state.ldr) >> 24, model = get(l->state.dfr) >> 28;

    if (apic_x2(l))
        return x2apic_ldr(l) >> 16 == dest >> 16 && (x2apic_ldr(l) & dest & 0xffff);
    if (dest > 0xff)
        return false;
    if (model == DFR_FLAT)
        return ldr & dest;
    return (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && (ldr & dest & 0xf);
}

static bool message_matches(const struct lapic *l, const struct message *m)
{
    if (!apic_on(l))
        return false;
    if (m->dest == (m->wide ? DEST_BROADCAST32 : DEST_BROADCAST8))
        return true;
    return m->logical ? logical_match(l, m->dest) : l->cfg.id == m->dest;
}

static void deliver_lowest(struct lapic_bus *bus, const struct message *m)
{
    struct lapic *best = NULL;

    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *l = bus->apic[i];

        if (message_matches(l, m) && apic_sw_on(l) && (!best || apic_apr(l) < apic_apr(best)))
            best = l;
    }
    if (best)
        accept_message(best, MODE_FIXED, m->vector, m->level);
}

static void deliver(struct lapic_bus *bus, const struct message *m)
{
    if (m->mode == MODE_LOWEST) {
        deliver_lowest(bus, m);
        return;
    }
    for (unsigned i = 0; i < bus->count; i++)
        if (message_matches(bus->apic[i], m))
            accept_message(bus->apic[i], m->mode, m->vector, m->level);
}

/* False if it is not an interrupt message. */
static bool message_from_msi(struct message *m, uint64_t addr, uint32_t data)
{
    bool level = data & ICR_TRIGGER;

    if (addr >> 20 != MSI_ADDR_TAG || (level && !(data & ICR_LEVEL)))
        return false;
    *m = (struct message){
        .dest = addr >> 12 & 0xff,
        .logical = addr & MSI_ADDR_LOGICAL,
        .level = level,
        .mode = data >> LVT_MODE_SHIFT & 7,
        .vector = (uint8_t)data,
    };
    /* With the hint, a logical message goes to the one of its targets with the lowest priority. */
    if (m->mode == MODE_FIXED && m->logical && (addr & MSI_ADDR_HINT))
        m->mode = MODE_LOWEST;
    /* Start-up messages come from APICs only. */
    return m->mode != MODE_SIPI && m->mode != MODE_RESERVED;
}

void lapic_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct message m;

    if (message_from_msi(&m, addr, data))
        deliver(opaque, &m);
}

bool lapic_msi_pending(void *opaque, uint64_t addr, uint32_t data)
{
    struct lapic_bus *bus = opaque;
    struct message m;
    bool any = false;

    if (!message_from_msi(&m, addr, data) || m.mode > MODE_LOWEST)
        return false;
    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *l = bus->apic[i];

        if (!message_matches(l, &m))
            continue;
        if (!(get(l->state.irr[m.vector >> 5]) >> (m.vector & 31) & 1))
            return false;
        any = true;
    }
    return any;
}

/* A fixed-mode LINT pin that is up and may interrupt does; level-triggered ones wait for their EOI.
 */
static bool lint_fixed(struct lapic *l, unsigned n, uint32_t lvt)
{
    uint32_t *word = &l->state.lvt[n];

    if (!(lvt & LVT_TRIGGER))
        return accept_vector(l, (uint8_t)lvt, false);
    if (set_bits(*word, LVT_REMOTE_IRR) & LVT_REMOTE_IRR)
        return false;
    return accept_vector(l, (uint8_t)lvt, true);
}

static bool lint_set(void *chip, unsigned pin, bool level)
{
    struct lapic *l = chip;
    uint32_t bit = 1u << (pin & 1), lvt;
    unsigned n = LVT_LINT0 + (pin & 1);
    bool rises;

    rises = level && !(set_bits(l->state.lint, level ? bit : 0) & bit);
    if (!level)
        clear_bits(l->state.lint, bit);
    if (!rises)
        return true;
    if (!apic_on(l)) {
        /* The pins are the processor's INTR and NMI then (10.4.3). */
        vcpu_post(l->vcpu, pin & 1 ? PEND_NMI : PEND_INTR);
        return true;
    }
    lvt = get(l->state.lvt[n]);
    if (lvt & LVT_MASKED)
        return true;
    switch (lvt >> LVT_MODE_SHIFT & 7) {
    case MODE_FIXED:
        return lint_fixed(l, n, lvt);
    case MODE_EXTINT:
        vcpu_post(l->vcpu, PEND_INTR);
        break;
    case MODE_NMI:
    case MODE_SMI:
    case MODE_INIT:
        accept_message(l, lvt >> LVT_MODE_SHIFT & 7, 0, false);
        break;
    }
    return true;
}

/* ---- the timer: on the vCPU's thread ---- */

static void timer_rings(void *opaque)
{
    struct lapic *l = opaque;

    set(l->fired, true);
    vcpu_post(l->vcpu, PEND_INTR);
}

static void timer_expire(struct lapic *l)
{
    uint32_t lvt = get(l->state.lvt[LVT_TIMER]);

    if (!(lvt & LVT_MASKED))
        accept_vector(l, (uint8_t)lvt, false);
}

/* VM time at which the TSC reaches the deadline. */
static int64_t deadline_ns(const struct lapic *l, int64_t now)
{
    uint64_t tsc = guest_tsc(l), deadline = l->state.tsc_deadline;
    uint64_t hz = l->dev.vm->tsc_hz;
    unsigned __int128 wait;

    if (deadline <= tsc)
        return now;
    wait = ((unsigned __int128)(deadline - tsc) * (uint64_t)NS_PER_SEC + hz - 1) / hz;
    if (wait >= (unsigned __int128)(TIMER_NEVER - 1 - now))
        return TIMER_NEVER - 1;
    return now + (int64_t)wait;
}

/* Arms the host timer for the next expiry that can interrupt. */
static void timer_derive(struct lapic *l)
{
    const struct lapic_state *s = &l->state;
    int64_t now = clock_now(l->dev.vm->clock), next = s->timer_next;

    if (get(s->lvt[LVT_TIMER]) & LVT_MASKED) {
        next = TIMER_NEVER;
    } else if (timer_mode(l) == TIMER_DEADLINE) {
        next = s->tsc_deadline ? deadline_ns(l, now) : TIMER_NEVER;
    } else if (timer_mode(l) == TIMER_PERIODIC && next != TIMER_NEVER &&
               timer_period(s) < LAPIC_TIMER_MIN_NS) {
        next = (int64_t)max_u64((uint64_t)next, (uint64_t)now + LAPIC_TIMER_MIN_NS);
    }
    if (next == TIMER_NEVER)
        timer_disarm(&l->timer);
    else
        timer_arm(&l->timer, next);
}

/*
 * Brings the timer up to now: expiries since the last call become one interrupt, as they would in a
 * real APIC whose IRR bit is still set.
 */
static void timer_sync(struct lapic *l)
{
    struct lapic_state *s = &l->state;
    int64_t now = clock_now(l->dev.vm->clock), period;

    if (timer_mode(l) == TIMER_DEADLINE) {
        if (!s->tsc_deadline || guest_tsc(l) < s->tsc_deadline)
            return;
        s->tsc_deadline = 0;
        timer_expire(l);
        return;
    }
    if (s->timer_next == TIMER_NEVER || now < s->timer_next)
        return;
    period = timer_period(s);
    if (timer_mode(l) == TIMER_PERIODIC && period)
        s->timer_next += ((now - s->timer_next) / period + 1) * period;
    else
        s->timer_next = TIMER_NEVER;
    timer_expire(l);
}

/* If the timer has rung: what is due happens, and it is armed again. */
static void timer_poll(struct lapic *l)
{
    if (likely(!get(l->fired)))
        return;
    set(l->fired, false);
    timer_sync(l);
    timer_derive(l);
}

static uint32_t timer_current(struct lapic *l)
{
    int64_t left, div = timer_divide(&l->state);

    timer_sync(l);
    if (timer_mode(l) == TIMER_DEADLINE || l->state.timer_next == TIMER_NEVER)
        return 0;
    left = l->state.timer_next - clock_now(l->dev.vm->clock);
    return left <= 0 ? 0 : (uint32_t)min_u64((uint64_t)((left + div - 1) / div), l->state.initial);
}

static void timer_start(struct lapic *l, uint32_t initial)
{
    struct lapic_state *s = &l->state;

    timer_sync(l);
    if (timer_mode(l) == TIMER_DEADLINE)
        return;
    s->initial = initial;
    s->timer_next = initial ? clock_now(l->dev.vm->clock) + timer_period(s) : TIMER_NEVER;
    timer_derive(l);
}

static void timer_set_divide(struct lapic *l, uint32_t dcr)
{
    struct lapic_state *s = &l->state;
    uint32_t left = timer_current(l);

    s->dcr = dcr & 0xb;
    if (s->timer_next != TIMER_NEVER)
        s->timer_next = clock_now(l->dev.vm->clock) + (int64_t)left * timer_divide(s);
    timer_derive(l);
}

/* ---- what the processor takes: on the vCPU's thread ---- */

/* An interrupt of the PIC waits, through LINT0 or by message. */
static bool extint_waits(const struct lapic *l)
{
    uint32_t lvt = get(l->state.lvt[LVT_LINT0]);
    bool up = get(l->state.lint) & 1;

    if (!apic_on(l))
        return up;
    if (get(l->state.extint))
        return true;
    return up && !(lvt & LVT_MASKED) && (lvt >> LVT_MODE_SHIFT & 7) == MODE_EXTINT;
}

static int ready_vector(const struct lapic *l)
{
    int irr = highest(l->state.irr);

    return irr >= 0 && ((uint32_t)irr & 0xf0) > (apic_ppr(l) & 0xf0) ? irr : -1;
}

static bool lapic_has_intr(void *intc)
{
    struct lapic *l = intc;

    timer_poll(l);
    return extint_waits(l) || (apic_on(l) && ready_vector(l) >= 0);
}

/* After anything that may have let an interrupt through. */
static void repost(struct lapic *l)
{
    if (lapic_has_intr(l))
        vcpu_post(l->vcpu, PEND_INTR);
}

static int extint_ack(struct lapic *l)
{
    int vector = -1;

    vm_lock(l->dev.vm);
    if (extint_waits(l)) {
        set(l->state.extint, 0u);
        if (l->cfg.extint_ack)
            vector = l->cfg.extint_ack(l->cfg.extint_opaque);
    }
    vm_unlock(l->dev.vm);
    return vector;
}

static int lapic_ack(void *intc)
{
    struct lapic *l = intc;
    int vector;

    timer_poll(l);
    if (extint_waits(l)) {
        vector = extint_ack(l);
    } else {
        vector = apic_on(l) ? ready_vector(l) : -1;
        if (vector >= 0) {
            clear_bits(l->state.irr[vector >> 5], 1u << (vector & 31));
            set_bits(l->state.isr[vector >> 5], 1u << (vector & 31));
        }
    }
    repost(l);
    return vector;
}

static uint64_t lapic_get_cr8(void *intc)
{
    struct lapic *l = intc;

    return get(l->state.tpr) >> 4;
}

static void lapic_set_cr8(void *intc, uint64_t cr8)
{
    struct lapic *l = intc;

    set(l->state.tpr, (uint32_t)(cr8 & 0xf) << 4);
    repost(l);
}

/* A level-triggered LINT pin that the EOI finds still up interrupts again. */
static void lint_eoi(struct lapic *l, uint8_t vector)
{
    for (unsigned n = LVT_LINT0; n <= LVT_LINT1; n++) {
        uint32_t lvt = get(l->state.lvt[n]);

        if (!(lvt & LVT_REMOTE_IRR) || (lvt & LVT_VECTOR) != vector)
            continue;
        clear_bits(l->state.lvt[n], LVT_REMOTE_IRR);
        if (!(lvt & LVT_MASKED) && (get(l->state.lint) >> (n - LVT_LINT0) & 1))
            lint_fixed(l, n, lvt);
    }
}

static void apic_eoi(struct lapic *l)
{
    int vector = highest(l->state.isr);

    if (vector < 0)
        return;
    clear_bits(l->state.isr[vector >> 5], 1u << (vector & 31));
    if (get(l->state.tmr[vector >> 5]) >> (vector & 31) & 1) {
        lint_eoi(l, (uint8_t)vector);
        if (!(get(l->state.svr) & SVR_EOI_SUPPRESS))
            vcpu_eoi_broadcast(l->vcpu, (uint8_t)vector);
    }
    repost(l);
}

/* ---- IPIs ---- */

static void send_ipi(struct lapic *l, uint64_t icr)
{
    struct lapic_bus *bus = l->cfg.bus;
    unsigned shorthand = icr >> 18 & 3;
    struct message m = {
        .dest = apic_x2(l) ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56),
        .wide = apic_x2(l),
        .logical = icr & ICR_LOGICAL,
        .mode = icr >> LVT_MODE_SHIFT & 7,
        .vector = (uint8_t)icr,
    };

    if (m.mode == MODE_RESERVED || m.mode == MODE_EXTINT)
        return;
    /* INIT level de-assert only synchronised arbitration ids (10.6.1). */
    if (m.mode == MODE_INIT && (icr & ICR_TRIGGER) && !(icr & ICR_LEVEL))
        return;
    if (m.mode <= MODE_LOWEST && m.vector < 16) {
        apic_error(l, ESR_SEND_ILLEGAL);
        return;
    }
    if (shorthand == SHORT_NONE) {
        deliver(bus, &m);
        return;
    }
    for (unsigned i = 0; i < bus->count; i++) {
        bool self = bus->apic[i] == l;

        if (shorthand == SHORT_ALL || self == (shorthand == SHORT_SELF))
            accept_message(bus->apic[i], m.mode, m.vector, false);
    }
}

/* ---- state transitions ---- */

/* What power-up, INIT and a global disable leave (10.4.7); the id, IA32_APIC_BASE and the pins
 * stay. */
static void apic_clear(struct lapic *l)
{
    struct lapic_state *s = &l->state;

    for (unsigned i = 0; i < ARRAY_LEN(s->irr); i++) {
        set(s->irr[i], 0u);
        set(s->isr[i], 0u);
        set(s->tmr[i], 0u);
    }
    for (unsigned i = 0; i < LVT_COUNT; i++)
        set(s->lvt[i], LVT_MASKED);
    set(s->tpr, 0u);
    set(s->ldr, 0u);
    set(s->dfr, UINT32_MAX);
    set(s->svr, SVR_RESET);
    set(s->esr_next, 0u);
    set(s->extint, 0u);
    s->esr = 0;
    s->icr = 0;
    s->dcr = 0;
    s->initial = 0;
    s->timer_next = TIMER_NEVER;
    s->tsc_deadline = 0;
}

static void lapic_derive(struct device *dev)
{
    struct lapic *l = (struct lapic *)dev;
    bool mmio = apic_on(l) && !apic_x2(l);

    timer_derive(l);
    vcpu_set_overlay(l->vcpu, LAPIC_OVERLAY, mmio ? &l->region : NULL,
                     align_down(l->state.base, PAGE_SIZE));
    vcpu_post(l->vcpu, PEND_INTR);
}

static void lapic_init_reset(void *intc)
{
    struct lapic *l = intc;

    apic_clear(l);
    lapic_derive(&l->dev);
}

/* The TSC deadline is compared with the vCPU's own TSC, whoever moves that (10.5.4.1). */
static void lapic_tsc_jumps(void *intc)
{
    struct lapic *l = intc;

    timer_sync(l);
    timer_derive(l);
}

/* False: #GP. The modes and the ways between them: figure 10-27. */
static bool write_base(struct lapic *l, uint64_t value)
{
    uint64_t old = l->state.base;
    bool was_on = old & APIC_BASE_EN, was_x2 = old & APIC_BASE_EXTD;
    bool on = value & APIC_BASE_EN, x2 = value & APIC_BASE_EXTD;

    if (value & ~l->base_valid)
        return false;
    if ((x2 && !on) || (was_x2 && on && !x2) || (!was_on && x2))
        return false;
    value = (value & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
    if (was_on && !on)
        apic_clear(l);
    set(l->state.base, value);
    lapic_derive(&l->dev);
    return true;
}

static void write_svr(struct lapic *l, uint32_t value)
{
    set(l->state.svr, value & SVR_WRITABLE);
    if (!(value & SVR_ENABLE)) {
        for (unsigned i = 0; i < LVT_COUNT; i++)
            set_bits(l->state.lvt[i], LVT_MASKED);
        timer_derive(l);
    }
}

static uint32_t lvt_mask(const struct lapic *l, unsigned n)
{
    return lvt_writable[n] | (n == LVT_TIMER && l->cfg.tsc_deadline ? LVT_TIMER_DEADLINE_BIT : 0);
}

/* A LINT pin that is up while its entry is opened is served now, if it is level-sensitive. */
static void lint_opened(struct lapic *l, unsigned n, uint32_t lvt)
{
    if ((lvt & LVT_MASKED) || !(get(l->state.lint) >> (n - LVT_LINT0) & 1))
        return;
    if ((lvt >> LVT_MODE_SHIFT & 7) == MODE_EXTINT)
        vcpu_post(l->vcpu, PEND_INTR);
    else if ((lvt >> LVT_MODE_SHIFT & 7) == MODE_FIXED && (lvt & LVT_TRIGGER))
        lint_fixed(l, n, lvt);
}

static void write_lvt(struct lapic *l, unsigned n, uint32_t value)
{
    uint32_t *word = &l->state.lvt[n], old, lvt;

    if (n == LVT_TIMER)
        timer_sync(l);
    value &= lvt_mask(l, n);
    if (!apic_sw_on(l))
        value |= LVT_MASKED;
    old = get(*word);
    do {
        /* Remote IRR is the pin's; it means nothing once the entry is edge-triggered. */
        lvt = value | (value & LVT_TRIGGER ? old & LVT_REMOTE_IRR : 0);
    } while (
        !__atomic_compare_exchange_n(word, &old, lvt, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    if (n == LVT_LINT0 || n == LVT_LINT1)
        lint_opened(l, n, lvt);
    if (n != LVT_TIMER)
        return;
    /* Into and out of deadline mode the timer is disarmed (10.5.4.1). */
    if (((old ^ lvt) & LVT_TIMER_DEADLINE_BIT) != 0) {
        l->state.tsc_deadline = 0;
        l->state.timer_next = TIMER_NEVER;
    }
    timer_derive(l);
}

/* ---- registers ---- */

/* Registers whose meaning is the same in both modes. */
static bool reg_write(struct lapic *l, unsigned reg, uint32_t value)
{
    switch (reg) {
    case APIC_TPR:
        set(l->state.tpr, value & 0xff);
        repost(l);
        return true;
    case APIC_EOI:
        apic_eoi(l);
        return true;
    case APIC_SVR:
        write_svr(l, value);
        return true;
    case APIC_ESR:
        l->state.esr = __atomic_exchange_n(&l->state.esr_next, 0, __ATOMIC_SEQ_CST);
        return true;
    case APIC_LVT ... APIC_LVT_LAST:
        write_lvt(l, reg - APIC_LVT, value);
        return true;
    case APIC_INITIAL_COUNT:
        timer_start(l, value);
        return true;
    case APIC_DCR:
        timer_set_divide(l, value);
        return true;
    }
    return false;
}

static bool reg_read(struct lapic *l, unsigned reg, uint32_t *value)
{
    const struct lapic_state *s = &l->state;

    timer_poll(l);
    switch (reg) {
    case APIC_VERSION:
        *value = VERSION_VALUE;
        return true;
    case APIC_TPR:
        *value = get(s->tpr);
        return true;
    case APIC_PPR:
        *value = apic_ppr(l);
        return true;
    case APIC_SVR:
        *value = get(s->svr);
        return true;
    case APIC_ISR ... APIC_ISR + 7:
        *value = get(s->isr[reg & 7]);
        return true;
    case APIC_TMR ... APIC_TMR + 7:
        *value = get(s->tmr[reg & 7]);
        return true;
    case APIC_IRR ... APIC_IRR + 7:
        *value = get(s->irr[reg & 7]);
        return true;
    case APIC_ESR:
        *value = s->esr;
        return true;
    case APIC_LVT ... APIC_LVT_LAST:
        *value = get(s->lvt[reg - APIC_LVT]);
        return true;
    case APIC_INITIAL_COUNT:
        *value = s->initial;
        return true;
    case APIC_CURRENT_COUNT:
        *value = timer_current(l);
        return true;
    case APIC_DCR:
        *value = s->dcr;
        return true;
    }
    return false;
}

/* ---- xAPIC: the page ---- */

static void mmio_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct lapic *l = opaque;
    unsigned reg = off >> 4 & 0xff;
    uint32_t value = (uint32_t)val;

    /* Registers are written as aligned 32-bit words; anything else is undefined (10.4.1): dropped.
     */
    if ((off & 0xf) || size != 4)
        return;
    switch (reg) {
    case APIC_LDR:
        set(l->state.ldr, value & 0xff000000);
        return;
    case APIC_DFR:
        set(l->state.dfr, value | DFR_FIXED);
        return;
    case APIC_ICR:
        l->state.icr = (l->state.icr & ~0xffffffffull) | (value & ICR_LOW_WRITABLE);
        send_ipi(l, l->state.icr);
        return;
    case APIC_ICR_HIGH:
        l->state.icr = (uint64_t)(value & 0xff000000) << 32 | (uint32_t)l->state.icr;
        return;
    case APIC_ID: /* read-only here, as the SDM allows (10.4.6) */
    case APIC_VERSION:
    case APIC_APR:
    case APIC_PPR:
    case APIC_RRD:
    case APIC_ISR ... APIC_IRR + 7:
    case APIC_CURRENT_COUNT:
        return;
    }
    if (reg_write(l, reg, value))
        return;
    apic_error(l, ESR_ILLEGAL_REG);
    io_bad_write(&l->dev, off, val, size);
}

static uint64_t mmio_read(void *opaque, uint64_t off, unsigned size)
{
    struct lapic *l = opaque;
    unsigned reg = off >> 4 & 0xff;
    uint32_t value = 0;

    if ((off & 0xf) >= 4)
        return 0; /* the other twelve bytes of a register's slot */
    switch (reg) {
    case APIC_ID:
        value = l->cfg.id << 24;
        break;
    case APIC_APR:
        value = apic_apr(l);
        break;
    case APIC_EOI: /* write-only */
    case APIC_RRD:
        break;
    case APIC_LDR:
        value = get(l->state.ldr);
        break;
    case APIC_DFR:
        value = get(l->state.dfr);
        break;
    case APIC_ICR:
        value = (uint32_t)l->state.icr;
        break;
    case APIC_ICR_HIGH:
        value = (uint32_t)(l->state.icr >> 32);
        break;
    default:
        if (!reg_read(l, reg, &value)) {
            apic_error(l, ESR_ILLEGAL_REG);
            io_bad_read(&l->dev, off, size);
            return 0;
        }
    }
    return value >> (off & 3) * 8;
}

#define REG(n, text)       \
    {                      \
        (n) << 4, 16, text \
    }
#define REG8(n, text)                                                                         \
    REG(n, text "0"), REG((n) + 1, text "1"), REG((n) + 2, text "2"), REG((n) + 3, text "3"), \
        REG((n) + 4, text "4"), REG((n) + 5, text "5"), REG((n) + 6, text "6"),               \
        REG((n) + 7, text "7")

static const struct io_reg mmio_regs[] = {
    REG(APIC_ID, "ID"),
    REG(APIC_VERSION, "VERSION"),
    REG(APIC_TPR, "TPR"),
    REG(APIC_APR, "APR"),
    REG(APIC_PPR, "PPR"),
    REG(APIC_EOI, "EOI"),
    REG(APIC_RRD, "RRD"),
    REG(APIC_LDR, "LDR"),
    REG(APIC_DFR, "DFR"),
    REG(APIC_SVR, "SVR"),
    REG8(APIC_ISR, "ISR"),
    REG8(APIC_TMR, "TMR"),
    REG8(APIC_IRR, "IRR"),
    REG(APIC_ESR, "ESR"),
    REG(APIC_ICR, "ICR"),
    REG(APIC_ICR_HIGH, "ICR_HIGH"),
    REG(APIC_LVT + LVT_TIMER, "LVT_TIMER"),
    REG(APIC_LVT + LVT_THERMAL, "LVT_THERMAL"),
    REG(APIC_LVT + LVT_PERF, "LVT_PERF"),
    REG(APIC_LVT + LVT_LINT0, "LVT_LINT0"),
    REG(APIC_LVT + LVT_LINT1, "LVT_LINT1"),
    REG(APIC_LVT + LVT_ERROR, "LVT_ERROR"),
    REG(APIC_INITIAL_COUNT, "INITIAL_COUNT"),
    REG(APIC_CURRENT_COUNT, "CURRENT_COUNT"),
    REG(APIC_DCR, "DCR"),
    {0},
};

static const struct io_ops mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .sizes = IO_1 | IO_2 | IO_4,
    .regs = mmio_regs,
    .lockless = true,
};

/* ---- MSRs ---- */

static bool base_msr_read(void *opaque, uint32_t index, uint64_t *value)
{
    struct lapic *l = opaque;

    (void)index;
    *value = l->state.base;
    return true;
}

static bool base_msr_write(void *opaque, uint32_t index, uint64_t value)
{
    (void)index;
    return write_base(opaque, value);
}

static bool deadline_read(void *opaque, uint32_t index, uint64_t *value)
{
    struct lapic *l = opaque;

    (void)index;
    if (!l->cfg.tsc_deadline)
        return false;
    timer_poll(l);
    timer_sync(l);
    *value = l->state.tsc_deadline;
    return true;
}

static bool deadline_write(void *opaque, uint32_t index, uint64_t value)
{
    struct lapic *l = opaque;

    (void)index;
    if (!l->cfg.tsc_deadline)
        return false;
    if (timer_mode(l) != TIMER_DEADLINE)
        return true; /* ignored in the other modes (10.5.4.1) */
    timer_sync(l);
    l->state.tsc_deadline = value;
    timer_sync(l);
    timer_derive(l);
    return true;
}

static bool x2apic_read(void *opaque, uint32_t index, uint64_t *value)
{
    struct lapic *l = opaque;
    unsigned reg = index - MSR_X2APIC;
    uint32_t word;

    if (!apic_x2(l))
        return false;
    switch (reg) {
    case APIC_ID:
        *value = l->cfg.id;
        return true;
    case APIC_LDR:
        *value = x2apic_ldr(l);
        return true;
    case APIC_ICR:
        *value = l->state.icr;
        return true;
    }
    if (!reg_read(l, reg, &word))
        return false;
    *value = word;
    return true;
}

/* Bits that may be set in a write (10.12.1.2: reserved ones raise #GP). */
static uint64_t x2apic_writable(const struct lapic *l, unsigned reg)
{
    switch (reg) {
    case APIC_TPR:
    case APIC_SELF_IPI:
        return 0xff;
    case APIC_SVR:
        return SVR_WRITABLE;
    case APIC_ICR:
        return 0xffffffff00000000ull | ICR_LOW_WRITABLE;
    case APIC_LVT ... APIC_LVT_LAST:
        return lvt_mask(l, reg - APIC_LVT) | 0x1000 | LVT_REMOTE_IRR; /* read-only ones pass */
    case APIC_INITIAL_COUNT:
        return UINT32_MAX;
    case APIC_DCR:
        return 0xb;
    }
    return 0; /* EOI and ESR take only zero; the rest is refused below */
}

static bool x2apic_write(void *opaque, uint32_t index, uint64_t value)
{
    struct lapic *l = opaque;
    unsigned reg = index - MSR_X2APIC;

    if (!apic_x2(l) || (value & ~x2apic_writable(l, reg)))
        return false;
    switch (reg) {
    case APIC_ICR:
        l->state.icr = value;
        send_ipi(l, value);
        return true;
    case APIC_SELF_IPI:
        accept_message(l, MODE_FIXED, (uint8_t)value, false);
        return true;
    }
    return reg_write(l, reg, (uint32_t)value);
}

#define X2REG(n, text)                                                      \
    {                                                                       \
        MSR_X2APIC + (n), MSR_X2APIC + (n), text, x2apic_read, x2apic_write \
    }

static const struct msr_range lapic_msrs[] = {
    {MSR_APIC_BASE, MSR_APIC_BASE, "IA32_APIC_BASE", base_msr_read, base_msr_write},
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE, "IA32_TSC_DEADLINE", deadline_read, deadline_write},
    X2REG(APIC_EOI, "X2APIC_EOI"),
    X2REG(APIC_ICR, "X2APIC_ICR"),
    X2REG(APIC_SELF_IPI, "X2APIC_SELF_IPI"),
    X2REG(APIC_ID, "X2APIC_ID"),
    X2REG(APIC_VERSION, "X2APIC_VERSION"),
    X2REG(APIC_TPR, "X2APIC_TPR"),
    X2REG(APIC_PPR, "X2APIC_PPR"),
    X2REG(APIC_LDR, "X2APIC_LDR"),
    X2REG(APIC_SVR, "X2APIC_SVR"),
    {MSR_X2APIC + APIC_ISR, MSR_X2APIC + APIC_ISR + 7, "X2APIC_ISR", x2apic_read, x2apic_write},
    {MSR_X2APIC + APIC_TMR, MSR_X2APIC + APIC_TMR + 7, "X2APIC_TMR", x2apic_read, x2apic_write},
    {MSR_X2APIC + APIC_IRR, MSR_X2APIC + APIC_IRR + 7, "X2APIC_IRR", x2apic_read, x2apic_write},
    X2REG(APIC_ESR, "X2APIC_ESR"),
    X2REG(APIC_LVT + LVT_TIMER, "X2APIC_LVT_TIMER"),
    X2REG(APIC_LVT + LVT_THERMAL, "X2APIC_LVT_THERMAL"),
    X2REG(APIC_LVT + LVT_PERF, "X2APIC_LVT_PERF"),
    X2REG(APIC_LVT + LVT_LINT0, "X2APIC_LVT_LINT0"),
    X2REG(APIC_LVT + LVT_LINT1, "X2APIC_LVT_LINT1"),
    X2REG(APIC_LVT + LVT_ERROR, "X2APIC_LVT_ERROR"),
    X2REG(APIC_INITIAL_COUNT, "X2APIC_INITIAL_COUNT"),
    X2REG(APIC_CURRENT_COUNT, "X2APIC_CURRENT_COUNT"),
    X2REG(APIC_DCR, "X2APIC_DCR"),
    {MSR_X2APIC, MSR_X2APIC_LAST, "X2APIC_RESERVED", x2apic_read, x2apic_write},
    {0},
};

/* ---- life ---- */

static void lapic_reset(struct device *dev, enum reset_kind kind)
{
    struct lapic *l = (struct lapic *)dev;

    (void)kind;
    apic_clear(l);
    set(l->state.base, APIC_BASE_ADDR | APIC_BASE_EN | (l->cfg.bsp ? APIC_BASE_BSP : 0));
    if (l->cfg.virtual_wire) {
        set(l->state.svr, SVR_RESET | SVR_ENABLE);
        set(l->state.lvt[LVT_LINT0], (uint32_t)MODE_EXTINT << LVT_MODE_SHIFT);
        set(l->state.lvt[LVT_LINT1], (uint32_t)MODE_NMI << LVT_MODE_SHIFT);
    }
}

static int lapic_check(struct device *dev, struct err *err)
{
    struct lapic *l = (struct lapic *)dev;
    const struct lapic_state *s = &l->state;
    bool on = s->base & APIC_BASE_EN, x2 = s->base & APIC_BASE_EXTD;

    if ((s->base & ~l->base_valid) || (x2 && !on) || !(s->base & APIC_BASE_BSP) != !l->cfg.bsp)
        return err_set(err, EINVAL, "saved IA32_APIC_BASE %#llx is not possible on this CPU",
                       (unsigned long long)s->base);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        if (s->lvt[i] & ~(lvt_mask(l, i) | LVT_REMOTE_IRR))
            return err_set(err, EINVAL, "saved LVT entry %u has reserved bits set", i);
    if ((s->irr[0] | s->isr[0] | s->tmr[0]) & 0xffff)
        return err_set(err, EINVAL, "saved interrupt requests name vectors below 16");
    if ((s->ldr & 0xffffff) || (s->dcr & 4))
        return err_set(err, EINVAL, "saved LDR or DCR has reserved bits set");
    return 0;
}

static const struct vcpu_intc lapic_intc = {
    .has_intr = lapic_has_intr,
    .ack = lapic_ack,
    .get_cr8 = lapic_get_cr8,
    .set_cr8 = lapic_set_cr8,
    .init_reset = lapic_init_reset,
    .tsc_jumps = lapic_tsc_jumps,
};

static int lapic_init(struct device *dev, const void *config, struct err *err)
{
    struct lapic *l = (struct lapic *)dev;
    struct lapic_bus *bus;
    unsigned phys_bits;

    l->cfg = *(const struct lapic_config *)config;
    l->vcpu = l->cfg.vcpu;
    bus = l->cfg.bus;
    if (bus->count == VM_MAX_VCPUS)
        return err_set(err, ENOSPC, "there are more local APICs than CPUs");
    phys_bits = l->cfg.phys_bits ? l->cfg.phys_bits : 36;
    l->base_valid = (BIT(phys_bits) - 1) & ~PAGE_MASK;
    l->base_valid |= APIC_BASE_BSP | APIC_BASE_EN | (l->cfg.x2apic ? APIC_BASE_EXTD : 0);
    l->region = region_io(dev, "lapic", PAGE_SIZE, &mmio_ops);
    timer_init(&l->timer, dev->vm->clock, "lapic", timer_rings, l);
    vcpu_add_msrs(l->vcpu, lapic_msrs, l);
    l->vcpu->intc_ops = &lapic_intc;
    l->vcpu->intc = l;
    bus->apic[bus->count++] = l;
    lapic_reset(dev, RESET_COLD);
    return 0;
}

/* The processor stays, without its APIC; only a machine that is being taken down does this. */
static void lapic_fini(struct device *dev)
{
    struct lapic *l = (struct lapic *)dev;
    struct lapic_bus *bus = l->cfg.bus;

    timer_disarm(&l->timer);
    for (unsigned i = 0; i < bus->count; i++)
        if (bus->apic[i] == l)
            bus->apic[i] = bus->apic[--bus->count];
}

static void lapic_detach(struct device *dev)
{
    struct lapic *l = (struct lapic *)dev;

    timer_disarm(&l->timer);
    vcpu_set_overlay(l->vcpu, LAPIC_OVERLAY, NULL, 0);
}

struct irq_pin lapic_lint_pin(struct device *lapic, unsigned lint)
{
    return (struct irq_pin){.set = lint_set, .chip = lapic, .pin = lint & 1};
}

bool lapic_enabled(const struct device *lapic)
{
    return apic_on((const struct lapic *)lapic);
}

static const struct state lapic_state_table = STATE(struct lapic, state, 1, lapic_fields);

const struct dev_type lapic_type = {
    .name = "lapic",
    .desc = "local APIC of a CPU (xAPIC and x2APIC)",
    .size = sizeof(struct lapic),
    .init = lapic_init,
    .detach = lapic_detach,
    .reset = lapic_reset,
    .check = lapic_check,
    .derive = lapic_derive,
    .fini = lapic_fini,
    .state = &lapic_state_table,
};
