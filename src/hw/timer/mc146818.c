/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mc146818: the real-time clock of a PC and its CMOS RAM. Ports 70h (index, and the NMI mask in bit
 * 7) and 71h (data) reach 128 bytes; 72h and 73h the other 128. Interrupts go to IRQ 8.
 *
 * Motorola MC146818A data sheet, whose names are used; ports and extended RAM: Intel ICH9 data
 * sheet, 316972, section 13.6. CMOS bytes beyond the clock: IBM PC AT, and those SeaBIOS reads
 * (docs/specs.md).
 *
 * The time of day is the host's wall clock plus an offset, which setting the time changes. Nothing
 * ticks: what happened since the chip was last looked at is worked out when it is looked at, and
 * the one timer runs only for an enabled interrupt. Periodic interrupts that the guest was too late
 * for are owed: they come back at twice the rate once it reads register C, at most a second's
 * worth.
 *
 * Not emulated: daylight saving (DSE is kept and does nothing), the square wave pin. Writing a time
 * register without stopping the clock sets the time at once.
 *
 * A hostile guest reaches calendar arithmetic on any register contents, and one timer.
 */
#include "hw/timer/mc146818.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clockconv.h"
#include "core/vm.h"
#include "hw/region.h"

/* ---- Registers ------------------------------------------------------------------------------ */

#define RTC_PORT      0x70
#define RTC_INDEX     0
#define RTC_DATA      1
#define RTC_EXT_INDEX 2
#define RTC_EXT_DATA  3
#define INDEX_NMI_EN  0x80 /* of port 70h: set keeps NMI away */
#define INDEX_MASK    0x7f

#define REG_SECONDS       0x00
#define REG_SECONDS_ALARM 0x01
#define REG_MINUTES       0x02
#define REG_MINUTES_ALARM 0x03
#define REG_HOURS         0x04
#define REG_HOURS_ALARM   0x05
#define REG_DAY_OF_WEEK   0x06
#define REG_DAY_OF_MONTH  0x07
#define REG_MONTH         0x08
#define REG_YEAR          0x09
#define REG_A             0x0a
#define REG_B             0x0b
#define REG_C             0x0c
#define REG_D             0x0d
#define REG_CENTURY       0x32

#define A_RS       0x0f
#define A_DV       0x70
#define A_DV_32KHZ 0x20
#define A_DV_RESET 0x60 /* 11x: the divider chain is held in reset */
#define A_UIP      0x80
#define A_POWER_ON 0x26 /* 32.768 kHz, 1024 Hz */

#define B_24_12 0x02
#define B_DM    0x04
#define B_SQWE  0x08
#define B_UIE   0x10
#define B_AIE   0x20
#define B_PIE   0x40
#define B_SET   0x80

#define C_UF    0x10
#define C_AF    0x20
#define C_PF    0x40
#define C_IRQF  0x80
#define C_FLAGS (C_UF | C_AF | C_PF)

#define D_VRT 0x80

#define ALARM_ANY 0xc0 /* both top bits: matches everything */
#define HOURS_PM  0x80

/* What firmware and old systems look for in the RAM. */
#define CMOS_EQUIPMENT  0x14
#define EQUIPMENT_FPU   0x02
#define EQUIPMENT_MOUSE 0x04
#define CMOS_BASE_MEM   0x15 /* KiB below 640 K, 16 bits */
#define CMOS_EXT_MEM    0x17 /* KiB above 1 MiB, 16 bits */
#define CMOS_CHECKSUM   0x2e /* of 10h to 2Dh, high byte first */
#define CMOS_EXT_MEM2   0x30 /* the same, as found by the firmware */
#define CMOS_MEM_16M    0x34 /* 64 KiB above 16 MiB, 16 bits */
#define CMOS_BOOT_FLAG1 0x38
#define CMOS_BOOT_FLAG2 0x3d
#define CMOS_MEM_4G     0x5b /* 64 KiB above 4 GiB, 24 bits */
#define CMOS_SMP_COUNT  0x5f

#define CHAIN_HZ 32768u

/* Times of the update cycle with a 32.768 kHz time base: UIP warns tBUC before it and lasts tUC. */
#define T_BUC_NS 244000
#define T_UC_NS  1984000

#define SECS_PER_DAY       86400
#define DAYS_PER_400_YEARS 146097

/* ---- The device ----------------------------------------------------------------------------- */

struct mc146818 {
    struct device dev;

    /* wiring */
    struct irq irq;
    struct region region;
    struct mc146818_config config;

    /* derived */
    struct timer timer;

    struct mc146818_state {
        int64_t offset_s;   /* clock minus host wall clock, seconds ... */
        int64_t offset_ns;  /* ... and nanoseconds, below one second */
        int64_t seen_s;     /* second up to which updates and alarms are accounted for */
        int64_t chain_base; /* tick of 32768 Hz at which the divider chain started */
        int64_t seen_tick;  /* tick up to which periodic events are accounted for */
        int64_t repay_at;   /* VM ns: no owed periodic event before */
        uint32_t owed;
        uint8_t index;
        uint8_t ext_index;
        uint8_t weekday_shift; /* how far the guest's day of the week is from the calendar's */
        bool nmi_masked;
        uint8_t cmos[256]; /* the time in 0-9 and 32h counts while the clock is stopped only */
    } state;
};

#define MAX_SECONDS (1ll << 40)

static const struct state_field fields[] = {
    STATE_INT(struct mc146818_state, offset_s, -MAX_SECONDS, MAX_SECONDS),
    STATE_INT(struct mc146818_state, offset_ns, 0, NS_PER_SEC - 1),
    STATE_INT(struct mc146818_state, seen_s, -2 * MAX_SECONDS, 2 * MAX_SECONDS),
    STATE_INT(struct mc146818_state, chain_base, 0, 1ll << 50),
    STATE_INT(struct mc146818_state, seen_tick, 0, 1ll << 50),
    STATE_INT(struct mc146818_state, repay_at, 0, INT64_MAX),
    STATE_UINT(struct mc146818_state, owed, 0, CHAIN_HZ),
    STATE_UINT(struct mc146818_state, index, 0, INDEX_MASK),
    STATE_UINT(struct mc146818_state, ext_index, 0, INDEX_MASK),
    STATE_UINT(struct mc146818_state, weekday_shift, 0, 6),
    STATE_BOOL(struct mc146818_state, nmi_masked),
    STATE_BYTES(struct mc146818_state, cmos),
};

static const struct state state = STATE(struct mc146818, state, 1, fields);

/* ---- Pure helpers: calendar ----------------------------------------------------------------- */

struct instant {
    int64_t s; /* seconds since 1970 */
    int64_t ns;
};

struct civil {
    int64_t year;
    int month, day; /* from 1 */
    int hour, minute, second;
    int weekday; /* 0: Sunday */
};

/* Days since 1970-01-01 of a day of the Gregorian calendar; day may be beyond the month's end. */
static int64_t days_of(int64_t year, int month, int day)
{
    /* Years are counted from March, so that the leap day comes last; 400 more keep them positive.
     */
    int64_t y = (month <= 2 ? year - 1 : year) + 400;
    int64_t m = month <= 2 ? month + 9 : month - 3;
    int64_t leaps = y / 4 - y / 100 + y / 400;

    /* (153 m + 2) / 5 are the days before month m; 719468 days lie between 0000-03-01 and 1970. */
    return 365 * y + leaps + (153 * m + 2) / 5 + (day - 1) - 719468 - DAYS_PER_400_YEARS;
}

static struct civil civil_of(int64_t s)
{
    int64_t days = s / SECS_PER_DAY, rest = s % SECS_PER_DAY, z, era, doe, yoe, doy, m;
    struct civil c;

    if (rest < 0) {
        rest += SECS_PER_DAY;
        days--;
    }
    c.hour = (int)(rest / 3600);
    c.minute = (int)(rest / 60 % 60);
    c.second = (int)(rest % 60);
    c.weekday = (int)(((days + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
    z = days + 719468;
    era = (z >= 0 ? z : z - (DAYS_PER_400_YEARS - 1)) / DAYS_PER_400_YEARS;
    doe = z - era * DAYS_PER_400_YEARS;
    yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    m = (5 * doy + 2) / 153;
    c.day = (int)(doy - (153 * m + 2) / 5 + 1);
    c.month = (int)(m < 10 ? m + 3 : m - 9);
    c.year = era * 400 + yoe + (c.month <= 2);
    return c;
}

static uint8_t encode(int v, uint8_t b)
{
    return (uint8_t)(b & B_DM ? v : v / 10 << 4 | v % 10);
}

static int decode(uint8_t v, uint8_t b)
{
    return b & B_DM ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(int hour, uint8_t b)
{
    if (b & B_24_12)
        return encode(hour, b);
    return (uint8_t)(encode(hour % 12 ? hour % 12 : 12, b) | (hour >= 12 ? HOURS_PM : 0));
}

static int decode_hour(uint8_t v, uint8_t b)
{
    if (b & B_24_12)
        return decode(v, b) % 24;
    return decode(v & (uint8_t)~HOURS_PM, b) % 12 + (v & HOURS_PM ? 12 : 0);
}

static int clamp(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* The time registers of cmos, as the instant they mean. */
static int64_t instant_of_regs(const uint8_t *cmos, int *weekday)
{
    uint8_t b = cmos[REG_B];
    int64_t year = decode(cmos[REG_CENTURY], b) % 100 * 100 + decode(cmos[REG_YEAR], b) % 100;
    int64_t days = days_of(year, clamp(decode(cmos[REG_MONTH], b), 1, 12),
                           clamp(decode(cmos[REG_DAY_OF_MONTH], b), 1, 31));

    *weekday = clamp(decode(cmos[REG_DAY_OF_WEEK], b), 1, 7) - 1;
    return days * SECS_PER_DAY + decode_hour(cmos[REG_HOURS], b) * 3600 +
           decode(cmos[REG_MINUTES], b) % 60 * 60 + decode(cmos[REG_SECONDS], b) % 60;
}

static void regs_of_instant(uint8_t *cmos, int64_t s, unsigned weekday_shift)
{
    struct civil c = civil_of(s);
    uint8_t b = cmos[REG_B];
    int year = (int)((c.year % 10000 + 10000) % 10000);

    cmos[REG_SECONDS] = encode(c.second, b);
    cmos[REG_MINUTES] = encode(c.minute, b);
    cmos[REG_HOURS] = encode_hour(c.hour, b);
    cmos[REG_DAY_OF_WEEK] = encode((c.weekday + (int)weekday_shift) % 7 + 1, b);
    cmos[REG_DAY_OF_MONTH] = encode(c.day, b);
    cmos[REG_MONTH] = encode(c.month, b);
    cmos[REG_YEAR] = encode(year % 100, b);
    cmos[REG_CENTURY] = encode(year / 100, b);
}

static bool alarm_field(uint8_t alarm, int want, int value)
{
    return (alarm & ALARM_ANY) == ALARM_ANY || want == value;
}

/* The first second after `after` at which the alarm registers match, or INT64_MAX. */
static int64_t next_alarm(const uint8_t *cmos, int64_t after)
{
    uint8_t b = cmos[REG_B];
    int hour = decode_hour(cmos[REG_HOURS_ALARM], b);
    int minute = decode(cmos[REG_MINUTES_ALARM], b);
    int second = decode(cmos[REG_SECONDS_ALARM], b);
    int64_t s = after + 1, end = after + 1 + SECS_PER_DAY;

    /* At most 24 hours, 60 minutes and 60 seconds are stepped over. */
    while (s < end) {
        int64_t rest = (s % SECS_PER_DAY + SECS_PER_DAY) % SECS_PER_DAY;

        if (!alarm_field(cmos[REG_HOURS_ALARM], hour, (int)(rest / 3600)))
            s += 3600 - rest % 3600;
        else if (!alarm_field(cmos[REG_MINUTES_ALARM], minute, (int)(rest / 60 % 60)))
            s += 60 - rest % 60;
        else if (!alarm_field(cmos[REG_SECONDS_ALARM], second, (int)(rest % 60)))
            s++;
        else
            return s;
    }
    return INT64_MAX;
}

/* ---- Pure helpers: the divider chain --------------------------------------------------------- */

static bool chain_runs(const struct mc146818_state *s)
{
    return (s->cmos[REG_A] & A_DV) == A_DV_32KHZ;
}

/* Time registers are not updated: the guest is setting them. */
static bool stopped(const struct mc146818_state *s)
{
    return (s->cmos[REG_B] & B_SET) || !chain_runs(s);
}

/* log2 of the periodic interval in ticks of 32768 Hz, or -1 for none (data sheet, table 5). */
static int rate_shift(const struct mc146818_state *s)
{
    int rs = s->cmos[REG_A] & A_RS;

    if (!rs || !chain_runs(s))
        return -1;
    return rs <= 2 ? rs + 6 : rs - 1;
}

/* ---- Time passes ---------------------------------------------------------------------------- */

static struct instant wall(struct mc146818 *rtc)
{
    int64_t ns = clock_wall(rtc->dev.vm->clock);
    struct instant t = {ns / NS_PER_SEC, ns % NS_PER_SEC};

    if (t.ns < 0) {
        t.ns += NS_PER_SEC;
        t.s--;
    }
    return t;
}

static struct instant rtc_now(struct mc146818 *rtc)
{
    struct instant t = wall(rtc);

    t.s += rtc->state.offset_s;
    t.ns += rtc->state.offset_ns;
    if (t.ns >= NS_PER_SEC) {
        t.ns -= NS_PER_SEC;
        t.s++;
    }
    return t;
}

static void set_now(struct mc146818 *rtc, struct instant t)
{
    struct instant w = wall(rtc);

    rtc->state.offset_s = t.s - w.s;
    rtc->state.offset_ns = t.ns - w.ns;
    if (rtc->state.offset_ns < 0) {
        rtc->state.offset_ns += NS_PER_SEC;
        rtc->state.offset_s--;
    }
    rtc->state.seen_s = t.s;
}

static int64_t chain_tick(struct mc146818 *rtc)
{
    return ns_to_ticks(clock_now(rtc->dev.vm->clock), CHAIN_HZ);
}

static void account_periodic(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->state;
    int64_t now = chain_tick(rtc), a, b;
    int shift = rate_shift(s);
    uint64_t n;

    if (s->chain_base > now)
        s->chain_base = now;
    if (s->seen_tick > now || s->seen_tick < s->chain_base)
        s->seen_tick = now;
    a = s->seen_tick - s->chain_base;
    b = now - s->chain_base;
    s->seen_tick = now;
    if (shift < 0)
        return;
    n = (uint64_t)((b >> shift) - (a >> shift));
    if (!n)
        return;
    if (s->cmos[REG_B] & B_PIE) {
        n += s->owed;
        if (!(s->cmos[REG_C] & C_PF))
            n--; /* the one that is raised now */
        s->owed = (uint32_t)min_u64(n, CHAIN_HZ >> shift);
    }
    s->cmos[REG_C] |= C_PF;
}

static void account_updates(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->state;
    struct instant t = rtc_now(rtc);

    if (t.s == s->seen_s)
        return;
    /* The host's clock may have been set back: that is an update as well, but no alarm. */
    if (!stopped(s)) {
        s->cmos[REG_C] |= C_UF;
        if (t.s > s->seen_s && next_alarm(s->cmos, s->seen_s) <= t.s)
            s->cmos[REG_C] |= C_AF;
    }
    s->seen_s = t.s;
}

static void account(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->state;

    account_periodic(rtc);
    account_updates(rtc);
    if (s->owed && !(s->cmos[REG_C] & C_PF) && clock_now(rtc->dev.vm->clock) >= s->repay_at) {
        s->owed--;
        s->cmos[REG_C] |= C_PF;
    }
}

/* ---- Derive --------------------------------------------------------------------------------- */

static int64_t next_event(struct mc146818 *rtc)
{
    const struct mc146818_state *s = &rtc->state;
    uint8_t wanted = s->cmos[REG_B] & (uint8_t)~s->cmos[REG_C];
    int64_t now = clock_now(rtc->dev.vm->clock), next = TIMER_NEVER, at;
    struct instant t = rtc_now(rtc);
    int shift = rate_shift(s);

    if (!stopped(s) && (wanted & B_UIE))
        next = now + (NS_PER_SEC - t.ns);
    if (!stopped(s) && (wanted & B_AIE)) {
        int64_t alarm = next_alarm(s->cmos, t.s);

        if (alarm != INT64_MAX) {
            at = now + (alarm - t.s) * NS_PER_SEC - t.ns;
            next = at < next ? at : next;
        }
    }
    if (shift >= 0 && (wanted & B_PIE)) {
        int64_t n = ((s->seen_tick - s->chain_base) >> shift) + 1;

        at = ticks_to_ns(s->chain_base + (n << shift), CHAIN_HZ);
        next = at < next ? at : next;
        if (s->owed && s->repay_at < next)
            next = s->repay_at;
    }
    return next;
}

static void derive(struct device *dev)
{
    struct mc146818 *rtc = (struct mc146818 *)dev;
    int64_t next;

    account(rtc);
    irq_set(rtc->irq, rtc->state.cmos[REG_B] & rtc->state.cmos[REG_C] & C_FLAGS);
    next = next_event(rtc);
    if (next == TIMER_NEVER)
        timer_disarm(&rtc->timer);
    else
        timer_arm(&rtc->timer, next);
}

static void fire(void *opaque)
{
    derive(opaque);
}

/* ---- Writes --------------------------------------------------------------------------------- */

/* Takes the time registers over as the time; ns is how far into the second it is. */
static void set_from_regs(struct mc146818 *rtc, int64_t ns)
{
    struct mc146818_state *s = &rtc->state;
    int weekday;
    int64_t sec = instant_of_regs(s->cmos, &weekday);

    s->weekday_shift = (uint8_t)((weekday - civil_of(sec).weekday + 7) % 7);
    set_now(rtc, (struct instant){sec, ns});
}

/* Registers A and B can stop the clock and let it go again. */
static void write_ab(struct mc146818 *rtc, unsigned reg, uint8_t val)
{
    struct mc146818_state *s = &rtc->state;
    bool was_stopped = stopped(s), chain_ran = chain_runs(s);
    uint8_t old_format = s->cmos[REG_B] & (B_DM | B_24_12);
    int64_t ns = rtc_now(rtc).ns;

    if (!was_stopped)
        regs_of_instant(s->cmos, rtc_now(rtc).s, s->weekday_shift);
    if (reg == REG_A) {
        s->cmos[REG_A] = val & (A_DV | A_RS);
        s->owed = 0;
    } else {
        if ((val & B_SET) && !(s->cmos[REG_B] & B_SET))
            val &= (uint8_t)~B_UIE;
        if (!(val & B_PIE))
            s->owed = 0;
        s->cmos[REG_B] = val;
    }
    if (!chain_ran && chain_runs(s)) {
        s->chain_base = s->seen_tick = chain_tick(rtc);
        ns = NS_PER_SEC / 2; /* "the first update cycle begins one half second later" */
    }
    if (was_stopped && !stopped(s))
        set_from_regs(rtc, ns);
    else if (!stopped(s) && old_format != (s->cmos[REG_B] & (B_DM | B_24_12)))
        regs_of_instant(s->cmos, rtc_now(rtc).s, s->weekday_shift);
}

static bool is_time(unsigned reg)
{
    return reg == REG_SECONDS || reg == REG_MINUTES || reg == REG_HOURS ||
           (reg >= REG_DAY_OF_WEEK && reg <= REG_YEAR) || reg == REG_CENTURY;
}

static void write_reg(struct mc146818 *rtc, unsigned reg, uint8_t val)
{
    struct mc146818_state *s = &rtc->state;

    if (reg == REG_A || reg == REG_B) {
        write_ab(rtc, reg, val);
    } else if (reg == REG_C || reg == REG_D) {
        /* read only */
    } else if (is_time(reg) && !stopped(s)) {
        struct instant t = rtc_now(rtc);

        regs_of_instant(s->cmos, t.s, s->weekday_shift);
        s->cmos[reg] = val;
        set_from_regs(rtc, t.ns);
    } else {
        s->cmos[reg] = val;
    }
}

static void rtc_write(void *dev, uint64_t off, uint64_t val, unsigned size)
{
    struct mc146818 *rtc = dev;
    struct mc146818_state *s = &rtc->state;

    (void)size;
    account(rtc);
    switch (off) {
    case RTC_INDEX:
        s->index = val & INDEX_MASK;
        s->nmi_masked = val & INDEX_NMI_EN;
        break;
    case RTC_DATA:
        write_reg(rtc, s->index & INDEX_MASK, (uint8_t)val);
        break;
    case RTC_EXT_INDEX:
        s->ext_index = val & INDEX_MASK;
        break;
    case RTC_EXT_DATA:
        s->cmos[128 + (s->ext_index & INDEX_MASK)] = (uint8_t)val;
        break;
    }
    derive(&rtc->dev);
}

/* ---- Reads ---------------------------------------------------------------------------------- */

static uint8_t read_c(struct mc146818 *rtc)
{
    struct mc146818_state *s = &rtc->state;
    uint8_t c = s->cmos[REG_C] & C_FLAGS;
    int shift = rate_shift(s);

    if (s->cmos[REG_B] & c)
        c |= C_IRQF;
    s->cmos[REG_C] = 0;
    if (s->owed && shift >= 0)
        s->repay_at = clock_now(rtc->dev.vm->clock) + ticks_to_ns(1ll << shift, CHAIN_HZ) / 2;
    derive(&rtc->dev);
    return c;
}

static uint8_t read_reg(struct mc146818 *rtc, unsigned reg)
{
    struct mc146818_state *s = &rtc->state;
    struct instant t = rtc_now(rtc);

    if (is_time(reg)) {
        if (!stopped(s))
            regs_of_instant(s->cmos, t.s, s->weekday_shift);
        return s->cmos[reg];
    }
    switch (reg) {
    case REG_A:
        return s->cmos[REG_A] |
               (!stopped(s) && t.ns >= NS_PER_SEC - T_BUC_NS - T_UC_NS ? A_UIP : 0);
    case REG_C:
        return read_c(rtc);
    case REG_D:
        return D_VRT;
    default:
        return s->cmos[reg];
    }
}

static uint64_t rtc_read(void *dev, uint64_t off, unsigned size)
{
    struct mc146818 *rtc = dev;
    struct mc146818_state *s = &rtc->state;

    (void)size;
    account(rtc);
    switch (off) {
    case RTC_DATA:
        return read_reg(rtc, s->index & INDEX_MASK);
    case RTC_EXT_INDEX:
        return s->ext_index;
    case RTC_EXT_DATA:
        return s->cmos[128 + (s->ext_index & INDEX_MASK)];
    default:
        return 0xff; /* port 70h is write only */
    }
}

bool mc146818_nmi_masked(struct device *dev)
{
    return ((struct mc146818 *)dev)->state.nmi_masked;
}

/* ---- Life ----------------------------------------------------------------------------------- */

/* Units of `unit` bytes by which `size` exceeds `above`, at most max. */
static uint32_t excess(uint64_t size, uint64_t above, uint64_t unit, uint32_t max)
{
    return size <= above ? 0 : (uint32_t)min_u64((size - above) / unit, max);
}

static void fill_cmos(uint8_t *cmos, const struct mc146818_config *cfg)
{
    uint32_t high = excess(cfg->ram_above, 0, 64 << 10, 0xffffff);
    unsigned sum = 0;

    cmos[REG_A] = A_POWER_ON;
    cmos[REG_B] = B_24_12;
    cmos[REG_D] = D_VRT;
    cmos[CMOS_EQUIPMENT] = EQUIPMENT_FPU | EQUIPMENT_MOUSE;
    put_le16(cmos + CMOS_BASE_MEM, (uint16_t)min_u64(cfg->ram_below >> 10, 640));
    put_le16(cmos + CMOS_EXT_MEM, (uint16_t)excess(cfg->ram_below, 1 << 20, 1 << 10, 0xffff));
    put_le16(cmos + CMOS_EXT_MEM2, get_le16(cmos + CMOS_EXT_MEM));
    put_le16(cmos + CMOS_MEM_16M, (uint16_t)excess(cfg->ram_below, 16 << 20, 64 << 10, 0xffff));
    cmos[CMOS_MEM_4G] = (uint8_t)high;
    cmos[CMOS_MEM_4G + 1] = (uint8_t)(high >> 8);
    cmos[CMOS_MEM_4G + 2] = (uint8_t)(high >> 16);
    cmos[CMOS_BOOT_FLAG1] = cfg->boot_order2;
    cmos[CMOS_BOOT_FLAG2] = cfg->boot_order;
    cmos[CMOS_SMP_COUNT] = cfg->ncpus ? cfg->ncpus - 1 : 0;
    for (unsigned i = 0x10; i < CMOS_CHECKSUM; i++)
        sum += cmos[i];
    cmos[CMOS_CHECKSUM] = (uint8_t)(sum >> 8);
    cmos[CMOS_CHECKSUM + 1] = (uint8_t)sum;
}

static void reset(struct device *dev, enum reset_kind kind)
{
    struct mc146818 *rtc = (struct mc146818 *)dev;
    struct mc146818_state *s = &rtc->state;

    if (kind == RESET_COLD) {
        memset(s, 0, sizeof(*s));
        fill_cmos(s->cmos, &rtc->config);
        s->seen_s = rtc_now(rtc).s;
        s->chain_base = s->seen_tick = chain_tick(rtc);
        regs_of_instant(s->cmos, s->seen_s, 0);
    }
    /* The RESET pin ("RESET"): interrupts off, time and RAM untouched. */
    s->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    s->cmos[REG_C] = 0;
    s->owed = 0;
    s->index = 0;
    s->ext_index = 0;
    s->nmi_masked = false;
}

static int check(struct device *dev, struct err *err)
{
    const struct mc146818_state *s = &((struct mc146818 *)dev)->state;

    if ((s->cmos[REG_A] & A_UIP) || (s->cmos[REG_C] & ~C_FLAGS) || s->cmos[REG_D] != D_VRT)
        return err_set(err, EINVAL, "the clock's registers have bits set that are never stored");
    return 0;
}

static const struct io_reg regs[] = {
    {RTC_INDEX, 1, "RTC_INDEX"},
    {RTC_DATA, 1, "RTC_DATA"},
    {RTC_EXT_INDEX, 1, "RTC_EXT_INDEX"},
    {RTC_EXT_DATA, 1, "RTC_EXT_DATA"},
    {0, 0, NULL},
};
static const struct io_ops ops = {rtc_read, rtc_write, IO_1, regs, false};

static int init(struct device *dev, const void *config, struct err *err)
{
    struct mc146818 *rtc = (struct mc146818 *)dev;

    (void)err;
    rtc->config = *(const struct mc146818_config *)config;
    rtc->irq = rtc->config.irq;
    timer_init(&rtc->timer, dev->vm->clock, "mc146818", fire, rtc);
    rtc->region = region_io(dev, "mc146818", 4, &ops);
    return 0;
}

static void attach(struct device *dev)
{
    bus_map(&dev->vm->ports, &((struct mc146818 *)dev)->region, RTC_PORT);
}

static void detach(struct device *dev)
{
    struct mc146818 *rtc = (struct mc146818 *)dev;

    bus_unmap(&rtc->region);
    timer_disarm(&rtc->timer);
}

const struct dev_type mc146818_type = {
    .name = "mc146818",
    .desc = "MC146818A real-time clock with 256 bytes of CMOS RAM",
    .size = sizeof(struct mc146818),
    .init = init,
    .attach = attach,
    .detach = detach,
    .reset = reset,
    .check = check,
    .derive = derive,
    .state = &state,
};
