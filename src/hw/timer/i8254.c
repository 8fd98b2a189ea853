/* SPDX-License-Identifier: Apache-2.0 */
/*
 * i8254: the 8254 programmable interval timer of a PC (ports 40h-43h) and port 61h beside it.
 * Counter 0 drives IRQ 0; counter 1 paced memory refresh and is seen as the toggling bit 4 of port
 * 61h; counter 2 has its GATE and its OUT in port 61h, and used to drive the speaker.
 *
 * Intel 8254 data sheet, order number 231164-005, whose names are used; port 61h: NMI Status and
 * Control Register, Intel ICH9 data sheet, 316972, section 13.7.1.
 *
 * Counts are never stepped: a counter is the tick at which it was loaded and the count it was
 * loaded with; all else is a function of these and of VM time, so nothing drifts.
 *
 * Lost ticks: OUT of counter 0 rises on time. In modes 2 and 3 rises that the host was late for, or
 * that the interrupt controller coalesced because the guest had not got to the last one yet, are
 * owed: they are repaid at twice the programmed rate, at most one second's worth of them, and
 * forgotten when the counter is programmed anew. Rises closer than MIN_GAP_NS are merged for good.
 *
 * Not emulated: sound. A data sheet's illegal count of 1 in modes 2 and 3 counts as 2.
 *
 * A hostile guest reaches the arithmetic on counts and the rate at which one timer fires.
 */
#include "hw/timer/i8254.h"

#include <errno.h>

#include "base/clockconv.h"
#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define PIT_PORT    0x40
#define CONTROL     3 /* offset of the control word register, write only */
#define NMI_SC_PORT 0x61

#define CW_BCD            0x01
#define CW_MODE_SHIFT     1
#define CW_MODE_MASK      7
#define CW_RW_SHIFT       4
#define CW_RW_MASK        3
#define CW_SC_SHIFT       6
#define CW_STORED         0x3f /* the part that the status byte gives back */
#define RW_LATCH          0
#define RW_LSB            1
#define RW_MSB            2
#define RW_BOTH           3
#define SC_READ_BACK      3
#define RB_NOT_COUNT      0x20
#define RB_NOT_STATUS     0x10
#define STATUS_OUT        0x80
#define STATUS_NULL_COUNT 0x40

#define SC_TIM_CNT2_EN  0x01 /* GATE of counter 2 */
#define SC_WRITABLE     0x0f
#define SC_REF_TOGGLE   0x10
#define SC_TMR2_OUT_STS 0x20

#define REFRESH_TICKS 18 /* counter 1 as every PC programs it: 15.1 us between refresh requests */

#define MIN_GAP_NS 20000ll
#define MAX_OWED   1000u

/* ---- The device ----------------------------------------------------------------------------- */

enum phase {
    NO_COUNT,     /* a control word, but no (complete) count since */
    WAIT_TRIGGER, /* modes 1 and 5: waiting for GATE to rise */
    RUN,
    HOLD, /* GATE is low in modes 0, 2, 3, 4 */
};

struct i8254_counter {
    int64_t base; /* RUN: the tick at which the count was loaded; HOLD: ticks counted since then */
    int64_t switch_at; /* tick at which `next` is loaded; TIMER_NEVER: by a trigger only */
    uint32_t load;     /* the count loaded, 1 to 65536 */
    uint32_t next;     /* a count written but not loaded yet; 0: none */
    uint16_t latch;
    uint8_t control; /* RW, mode, BCD as written */
    uint8_t phase;
    uint8_t low;    /* first byte of a count of two */
    uint8_t status; /* latched by read-back */
    bool write_msb; /* the second byte of a count is next */
    bool read_msb;
    bool latched;
    bool status_latched;
    bool gate;
    uint8_t zero[5]; /* keeps the struct free of padding */
};

struct i8254 {
    struct device dev;

    /* wiring */
    struct irq irq;
    struct region pit, port61;

    /* derived */
    struct timer timer;

    struct i8254_state {
        struct i8254_counter ch[3];
        int64_t seen;     /* tick up to which rises of counter 0 are accounted for */
        int64_t repay_at; /* ns: no owed rise before; 0: one is due on time */
        uint32_t owed;    /* rises of counter 0 not delivered yet */
        uint8_t port61;
        uint8_t zero[3];
    } state;
};

#define MAX_TICK (1ll << 53)

static const struct state_field counter_fields[] = {
    STATE_INT(struct i8254_counter, base, -(1 << 17), MAX_TICK),
    STATE_INT(struct i8254_counter, switch_at, 0, INT64_MAX),
    STATE_UINT(struct i8254_counter, load, 1, 0x10000),
    STATE_UINT(struct i8254_counter, next, 0, 0x10000),
    STATE_UINT(struct i8254_counter, latch, 0, 0xffff),
    STATE_UINT(struct i8254_counter, control, 0, CW_STORED),
    STATE_UINT(struct i8254_counter, phase, NO_COUNT, HOLD),
    STATE_UINT(struct i8254_counter, low, 0, 0xff),
    STATE_UINT(struct i8254_counter, status, 0, 0xff),
    STATE_BOOL(struct i8254_counter, write_msb),
    STATE_BOOL(struct i8254_counter, read_msb),
    STATE_BOOL(struct i8254_counter, latched),
    STATE_BOOL(struct i8254_counter, status_latched),
    STATE_BOOL(struct i8254_counter, gate),
    STATE_UINTS(struct i8254_counter, zero, 0, 0),
};

static const struct state_field fields[] = {
    STATE_STRUCTS(struct i8254_state, ch, counter_fields),
    STATE_INT(struct i8254_state, seen, 0, MAX_TICK),
    STATE_INT(struct i8254_state, repay_at, 0, INT64_MAX),
    STATE_UINT(struct i8254_state, owed, 0, MAX_OWED),
    STATE_UINT(struct i8254_state, port61, 0, SC_WRITABLE),
    STATE_UINTS(struct i8254_state, zero, 0, 0),
};

static const struct state state = STATE(struct i8254, state, 1, fields);

/* ---- Pure helpers --------------------------------------------------------------------------- */

static unsigned mode_of(const struct i8254_counter *c)
{
    unsigned mode = c->control >> CW_MODE_SHIFT & CW_MODE_MASK;

    return mode > 5 ? mode & 3 : mode; /* x10 is mode 2, x11 is mode 3 */
}

static unsigned rw_of(const struct i8254_counter *c)
{
    return c->control >> CW_RW_SHIFT & CW_RW_MASK;
}

static bool periodic(unsigned mode)
{
    return mode == 2 || mode == 3;
}

static int64_t period_of(const struct i8254_counter *c)
{
    return c->load < 2 ? 2 : c->load;
}

/* What a count register of 16 bits means: 0 is the largest count. */
static uint32_t count_decode(uint16_t raw, bool bcd)
{
    uint32_t v;

    if (!bcd)
        return raw ? raw : 0x10000;
    v = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
    v %= 10000;
    return v ? v : 10000;
}

static uint16_t count_encode(uint32_t v, bool bcd)
{
    if (!bcd)
        return (uint16_t)v;
    v %= 10000;
    return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
}

/* Ticks counted since the count was loaded; negative before the CLK pulse that loads it. */
static int64_t elapsed(const struct i8254_counter *c, int64_t now)
{
    return c->phase == HOLD ? c->base : now - c->base;
}

/* The counting element as the guest reads it. */
static uint16_t count_at(const struct i8254_counter *c, int64_t now)
{
    bool bcd = c->control & CW_BCD;
    int64_t wrap = bcd ? 10000 : 0x10000, n = c->load, t = elapsed(c, now);

    if (c->phase == NO_COUNT || c->phase == WAIT_TRIGGER || t < 0)
        return count_encode((uint32_t)n, bcd);
    switch (mode_of(c)) {
    case 2:
        n = period_of(c);
        return count_encode((uint32_t)(n - t % n), bcd);
    case 3:
        /* By twos; an odd count loads one less, and spends one tick more in the high half. */
        n = period_of(c);
        t %= n;
        if (t >= (n + 1) / 2)
            t -= (n + 1) / 2;
        return count_encode((uint32_t)((n & ~1ll) - 2 * t), bcd);
    default:
        /* Goes on after zero, from the top. */
        return count_encode((uint32_t)(t <= n ? n - t : wrap - 1 - (t - n - 1) % wrap), bcd);
    }
}

static bool out_at(const struct i8254_counter *c, int64_t now)
{
    unsigned mode = mode_of(c);
    int64_t t = elapsed(c, now);

    if (c->phase == NO_COUNT)
        return mode != 0;
    if (c->phase == WAIT_TRIGGER)
        return true;
    if (t < 0)
        return mode != 0;
    switch (mode) {
    case 0:
    case 1:
        return t >= c->load;
    case 2:
        return c->phase == HOLD || t % period_of(c) != period_of(c) - 1;
    case 3:
        return c->phase == HOLD || t % period_of(c) < (period_of(c) + 1) / 2;
    default:
        return t != c->load;
    }
}

/* Rises of OUT at ticks in (from, to], while nothing is programmed. */
static int64_t rises_between(const struct i8254_counter *c, int64_t from, int64_t to)
{
    unsigned mode = mode_of(c);
    int64_t a = from - c->base, b = to - c->base, at;

    if (c->phase != RUN || b < 0)
        return 0;
    if (a < 0)
        a = 0;
    if (periodic(mode))
        return b / period_of(c) - a / period_of(c);
    at = mode < 2 ? c->load : (int64_t)c->load + 1;
    return a < at && at <= b;
}

/* The tick of the first rise after now, or TIMER_NEVER. */
static int64_t next_rise(const struct i8254_counter *c, int64_t now)
{
    unsigned mode = mode_of(c);
    int64_t t = now - c->base, at;

    if (c->phase != RUN)
        return TIMER_NEVER;
    if (periodic(mode)) {
        at = t < 0 ? period_of(c) : (t / period_of(c) + 1) * period_of(c);
        /* A new count may shorten the period from there on. */
        return c->next && c->switch_at < c->base + at ? c->switch_at : c->base + at;
    }
    at = mode < 2 ? c->load : (int64_t)c->load + 1;
    return t < at ? c->base + at : TIMER_NEVER;
}

/* The tick at which a count written now is loaded: the end of the period, or in mode 3 of its half.
 */
static int64_t switch_tick(const struct i8254_counter *c, int64_t now)
{
    int64_t n = period_of(c), t = now - c->base, start;

    if (t < 0)
        return c->base;
    start = c->base + t / n * n;
    if (mode_of(c) == 3 && t % n < (n + 1) / 2)
        return start + (n + 1) / 2;
    return start + n;
}

static uint8_t status_at(const struct i8254_counter *c, int64_t now)
{
    bool null = c->phase == NO_COUNT || c->next || (c->phase == RUN && now < c->base);

    return (uint8_t)((out_at(c, now) ? STATUS_OUT : 0) | (null ? STATUS_NULL_COUNT : 0) |
                     c->control);
}

static int64_t half_period_ns(const struct i8254_counter *c)
{
    int64_t ns = ticks_to_ns(period_of(c), I8254_HZ) / 2;

    return ns < MIN_GAP_NS ? MIN_GAP_NS : ns;
}

/* ---- Time passes ---------------------------------------------------------------------------- */

/* Loads a waiting count whose tick has come. */
static void settle(struct i8254_counter *c, int64_t now)
{
    bool half;

    if (!c->next || c->phase != RUN || now < c->switch_at)
        return;
    half = mode_of(c) == 3 && (c->switch_at - c->base) % period_of(c) != 0;
    c->load = c->next;
    c->next = 0;
    c->base = c->switch_at - (half ? (period_of(c) + 1) / 2 : 0);
    c->switch_at = TIMER_NEVER;
}

/* Brings every counter up to now. Rises of counter 0 since the last time become owed. */
static void account(struct i8254 *pit, int64_t now)
{
    struct i8254_state *s = &pit->state;
    struct i8254_counter *c = &s->ch[0];
    uint64_t limit, rises = 0;

    if (s->seen > now) /* a snapshot of later than the clock says */
        s->seen = now;
    if (c->next && c->phase == RUN && now >= c->switch_at && s->seen < c->switch_at) {
        rises = (uint64_t)rises_between(c, s->seen, c->switch_at);
        s->seen = c->switch_at;
    }
    for (unsigned i = 0; i < 3; i++)
        settle(&s->ch[i], now);
    rises += (uint64_t)rises_between(c, s->seen, now);
    s->seen = now;
    limit = min_u64(I8254_HZ / (uint64_t)period_of(c), MAX_OWED);
    /* One at a time where nothing can be owed: one-shot modes, and rates beyond reason. */
    if (!periodic(mode_of(c)) || half_period_ns(c) == MIN_GAP_NS || limit == 0)
        limit = 1;
    s->owed = (uint32_t)min_u64(s->owed + rises, limit);
    /* Rises on time are never held back by a repayment. */
    if (rises && half_period_ns(c) > MIN_GAP_NS)
        s->repay_at = 0;
}

/* ---- Derive --------------------------------------------------------------------------------- */

static void derive(struct device *dev)
{
    struct i8254 *pit = (struct i8254 *)dev;
    struct i8254_state *s = &pit->state;
    struct i8254_counter *c = &s->ch[0];
    int64_t now_ns = clock_now(dev->vm->clock), now = ns_to_ticks(now_ns, I8254_HZ);
    int64_t rise, deadline;

    account(pit, now);
    if (s->owed && now_ns >= s->repay_at) {
        bool on_time = s->repay_at == 0, taken;

        irq_set(pit->irq, false);
        taken = irq_set(pit->irq, true);
        /* A one-shot that is coalesced has been delivered: the earlier request stands for it. */
        if (taken || !periodic(mode_of(c)))
            s->owed--;
        /* One repayment in the middle of each period. */
        s->repay_at =
            on_time || half_period_ns(c) == MIN_GAP_NS ? now_ns + half_period_ns(c) : TIMER_NEVER;
    }
    /* Low only where it stays low for long: the short lows of modes 2 to 5 are the pulses above. */
    irq_set(pit->irq, mode_of(c) >= 2 || out_at(c, now));

    rise = next_rise(c, now);
    deadline = rise == TIMER_NEVER ? TIMER_NEVER : ticks_to_ns(rise, I8254_HZ);
    if (half_period_ns(c) == MIN_GAP_NS && deadline < s->repay_at)
        deadline = s->repay_at;
    if (s->owed && s->repay_at < deadline)
        deadline = s->repay_at;
    if (deadline == TIMER_NEVER)
        timer_disarm(&pit->timer);
    else
        timer_arm(&pit->timer, deadline);
}

static void fire(void *opaque)
{
    derive(opaque);
}

/* ---- Writes --------------------------------------------------------------------------------- */

static void latch_count(struct i8254_counter *c, int64_t now)
{
    if (c->latched)
        return;
    c->latch = count_at(c, now);
    c->latched = true;
    c->read_msb = rw_of(c) == RW_MSB;
}

static void write_control(struct i8254 *pit, uint8_t val, int64_t now)
{
    unsigned sc = val >> CW_SC_SHIFT;

    if (sc == SC_READ_BACK) {
        for (unsigned i = 0; i < 3; i++) {
            struct i8254_counter *c = &pit->state.ch[i];

            if (!(val >> 1 & BIT(i)))
                continue;
            if (!(val & RB_NOT_COUNT))
                latch_count(c, now);
            if (!(val & RB_NOT_STATUS) && !c->status_latched) {
                c->status = status_at(c, now);
                c->status_latched = true;
            }
        }
        return;
    }
    if ((val >> CW_RW_SHIFT & CW_RW_MASK) == RW_LATCH) {
        latch_count(&pit->state.ch[sc], now);
        return;
    }
    pit->state.ch[sc] = (struct i8254_counter){
        .control = val & CW_STORED,
        .phase = NO_COUNT,
        .load = pit->state.ch[sc].load,
        .switch_at = TIMER_NEVER,
        .gate = pit->state.ch[sc].gate,
        .read_msb = (val >> CW_RW_SHIFT & CW_RW_MASK) == RW_MSB,
    };
    if (sc == 0)
        pit->state.owed = 0;
}

static void drop_next(struct i8254_counter *c)
{
    c->next = 0;
    c->switch_at = TIMER_NEVER;
}

/* A complete count ("Write Operations", and under each mode "Writing a new count"). */
static void load_count(struct i8254_counter *c, uint32_t count, int64_t now)
{
    unsigned mode = mode_of(c);

    if (mode == 1 || mode == 5) {
        c->next = count;
        c->switch_at = TIMER_NEVER;
        if (c->phase == NO_COUNT)
            c->phase = WAIT_TRIGGER;
    } else if (periodic(mode) && c->phase == RUN) {
        c->switch_at = switch_tick(c, now);
        c->next = count;
    } else {
        c->load = count;
        drop_next(c);
        c->phase = c->gate ? RUN : HOLD;
        c->base = c->gate ? now + 1 : 0; /* loaded by the next CLK pulse */
    }
}

static void write_count(struct i8254_counter *c, uint8_t val, int64_t now)
{
    bool bcd = c->control & CW_BCD;

    switch (rw_of(c)) {
    case RW_LSB:
        load_count(c, count_decode(val, bcd), now);
        break;
    case RW_MSB:
        load_count(c, count_decode((uint16_t)(val << 8), bcd), now);
        break;
    case RW_BOTH:
        if (!c->write_msb) {
            c->low = val;
            c->write_msb = true;
            /* Mode 0: the first byte stops the counting and lowers OUT. */
            if (mode_of(c) == 0)
                c->phase = NO_COUNT;
            break;
        }
        c->write_msb = false;
        load_count(c, count_decode((uint16_t)(val << 8 | c->low), bcd), now);
        break;
    }
}

/* "Operation Common to All Modes: GATE". */
static void set_gate(struct i8254_counter *c, bool gate, int64_t now)
{
    unsigned mode = mode_of(c);

    if (gate == c->gate)
        return;
    c->gate = gate;
    if (c->phase == NO_COUNT)
        return;
    if (mode == 1 || mode == 5) {
        if (!gate)
            return;
        if (c->next)
            c->load = c->next;
        drop_next(c);
        c->phase = RUN;
        c->base = now + 1;
    } else if (!gate) {
        c->switch_at = TIMER_NEVER; /* a count that waits is loaded by the trigger */
        c->base = now < c->base ? 0 : now - c->base;
        c->phase = HOLD;
    } else if (periodic(mode)) {
        if (c->next)
            c->load = c->next;
        drop_next(c);
        c->phase = RUN;
        c->base = now + 1;
    } else {
        c->base = now < c->base ? 0 : now - c->base; /* <: a snapshot of later than the clock says */
        c->phase = RUN;
    }
}

static int64_t now_tick(struct i8254 *pit)
{
    return ns_to_ticks(clock_now(pit->dev.vm->clock), I8254_HZ);
}

static void pit_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8254 *pit = dev;
    struct i8254_counter *c0 = &pit->state.ch[0];
    int64_t now = now_tick(pit);
    bool was_out;

    (void)size;
    account(pit, now);
    was_out = out_at(c0, now);
    if (off == CONTROL) {
        write_control(pit, (uint8_t)val, now);
    } else {
        if (off == 0)
            pit->state.owed = 0;
        write_count(&pit->state.ch[off % 3], (uint8_t)val, now);
    }
    /* A control word can raise OUT by itself. */
    if (!was_out && out_at(c0, now)) {
        pit->state.owed = 1;
        pit->state.repay_at = 0;
    }
    derive(&pit->dev);
}

static void port61_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct i8254 *pit = dev;
    int64_t now = now_tick(pit);

    (void)off;
    (void)size;
    account(pit, now);
    pit->state.port61 = val & SC_WRITABLE;
    set_gate(&pit->state.ch[2], val & SC_TIM_CNT2_EN, now);
    derive(&pit->dev);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint64_t pit_read(void *dev, uint64_t off, unsigned size)
{
    struct i8254 *pit = dev;
    struct i8254_counter *c = &pit->state.ch[off % 3];
    int64_t now = now_tick(pit);
    uint16_t count;
    bool msb;

    (void)size;
    if (off == CONTROL)
        return 0xff; /* "no-operation": nobody drives the bus */
    account(pit, now);
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    count = c->latched ? c->latch : count_at(c, now);
    msb = rw_of(c) == RW_MSB || c->read_msb;
    if (rw_of(c) == RW_BOTH) {
        c->read_msb = !c->read_msb;
        if (msb)
            c->latched = false;
    } else {
        c->latched = false;
    }
    return msb ? count >> 8 : count & 0xff;
}

static uint64_t port61_read(void *dev, uint64_t off, unsigned size)
{
    struct i8254 *pit = dev;
    int64_t now = now_tick(pit);

    (void)off;
    (void)size;
    account(pit, now);
    return pit->state.port61 | (now / REFRESH_TICKS & 1 ? SC_REF_TOGGLE : 0u) |
           (out_at(&pit->state.ch[2], now) ? SC_TMR2_OUT_STS : 0u);
}

/* ---- Life ----------------------------------------------------------------------------------- */

/*
 * The data sheet leaves the counters undefined after power-on. They come up as every PC's firmware
 * leaves them, mode 3 with the largest count, for systems that are started without firmware.
 */
static void reset(struct device *dev, enum reset_kind kind)
{
    struct i8254 *pit = (struct i8254 *)dev;
    int64_t now = now_tick(pit);

    (void)kind;
    pit->state = (struct i8254_state){.seen = now};
    for (unsigned i = 0; i < 3; i++)
        pit->state.ch[i] = (struct i8254_counter){
            .control = RW_BOTH << CW_RW_SHIFT | 3 << CW_MODE_SHIFT,
            .load = 0x10000,
            .switch_at = TIMER_NEVER,
            .gate = i != 2,
            .phase = i != 2 ? RUN : HOLD,
            .base = i != 2 ? now : 0,
        };
}

static int check(struct device *dev, struct err *err)
{
    const struct i8254_state *s = &((struct i8254 *)dev)->state;

    for (unsigned i = 0; i < 3; i++) {
        const struct i8254_counter *c = &s->ch[i];

        if (rw_of(c) == RW_LATCH)
            return err_set(err, EINVAL, "8254 counter %u has no read/write mode", i);
        if (c->switch_at != TIMER_NEVER && (c->switch_at > MAX_TICK || c->switch_at < c->base))
            return err_set(err, EINVAL, "8254 counter %u is loaded at an impossible time", i);
        if (c->phase == HOLD && c->base < 0)
            return err_set(err, EINVAL, "8254 counter %u has counted backwards", i);
    }
    if (s->ch[2].gate != (s->port61 & SC_TIM_CNT2_EN) || !s->ch[0].gate || !s->ch[1].gate)
        return err_set(err, EINVAL, "8254 gates are not as port 61h says");
    return 0;
}

static const struct io_reg pit_regs[] = {
    {0, 1, "COUNTER0"}, {1, 1, "COUNTER1"}, {2, 1, "COUNTER2"}, {3, 1, "CONTROL"}, {0, 0, NULL},
};
static const struct io_reg port61_regs[] = {
    {0, 1, "NMI_SC"},
    {0, 0, NULL},
};
static const struct io_ops pit_ops = {pit_read, pit_write, IO_1, pit_regs, false};
static const struct io_ops port61_ops = {port61_read, port61_write, IO_1, port61_regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    const struct i8254_config *cfg = config;
    struct i8254 *pit = (struct i8254 *)dev;

    (void)err;
    pit->irq = cfg->irq;
    timer_init(&pit->timer, dev->vm->clock, "i8254", fire, pit);
    pit->pit = region_io(dev, "i8254", 4, &pit_ops);
    pit->port61 = region_io(dev, "port61", 1, &port61_ops);
    return 0;
}

static void attach(struct device *dev)
{
    struct i8254 *pit = (struct i8254 *)dev;

    bus_map(&dev->vm->ports, &pit->pit, PIT_PORT);
    bus_map(&dev->vm->ports, &pit->port61, NMI_SC_PORT);
}

static void detach(struct device *dev)
{
    struct i8254 *pit = (struct i8254 *)dev;

    bus_unmap(&pit->pit);
    bus_unmap(&pit->port61);
    timer_disarm(&pit->timer);
}

const struct dev_type i8254_type = {
    .name = "i8254",
    .desc = "8254 interval timer and port 61h",
    .size = sizeof(struct i8254),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
