/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration mechanism 1 and ECAM, BAR sizing and moving, the command register, MSI by hand. */
#include "rt/guest.h"

#define ECAM 0xb0000000ull

static uint32_t cfg_addr(unsigned dev, unsigned fn, unsigned reg)
{
    return 0x80000000u | dev << 11 | fn << 8 | (reg & 0xfc);
}
static uint32_t cfg_r(unsigned dev, unsigned fn, unsigned reg)
{
    out32(0xcf8, cfg_addr(dev, fn, reg));
    return in32(0xcfc);
}
static void cfg_w(unsigned dev, unsigned fn, unsigned reg, uint32_t v)
{
    out32(0xcf8, cfg_addr(dev, fn, reg));
    out32(0xcfc, v);
}
static volatile uint32_t *ecam(unsigned dev, unsigned fn, unsigned reg)
{
    return (volatile uint32_t *)(ECAM + (dev << 15) + (fn << 12) + reg);
}

CASE(host_bridge_is_there, "host bridge")
{
    CHECK_EQ(cfg_r(0, 0, 0), 0x29c08086);
    CHECK_EQ(cfg_r(0, 0, 8) >> 8, 0x060000);
}

CASE(isa_bridge_is_there, "ISA bridge")
{
    CHECK_EQ(cfg_r(31, 0, 0) & 0xffff, 0x8086);
    CHECK_EQ(cfg_r(31, 0, 8) >> 8, 0x060100);
}

CASE(absent_functions_read_ones, "absent functions")
{
    CHECK_EQ(cfg_r(30, 0, 0), 0xffffffff);
    CHECK_EQ(*ecam(30, 0, 0), 0xffffffff);
}

CASE(disabled_mechanism_does_not_answer, "mechanism 1 disabled")
{
    out32(0xcf8, 0);
    CHECK_EQ(in32(0xcfc), 0xffffffff);
}

CASE(narrow_accesses, "narrow accesses")
{
    out32(0xcf8, cfg_addr(0, 0, 0));
    CHECK_EQ(in16(0xcfc), 0x8086);
    CHECK_EQ(in16(0xcfe), 0x29c0);
    CHECK_EQ(in8(0xcff), 0x29);
    CHECK_EQ(in32(0xcf8), cfg_addr(0, 0, 0));
}

CASE(ecam_equals_mechanism_1, "ECAM equals mechanism 1")
{
    for (unsigned reg = 0; reg < 64; reg += 4)
        CHECK_EQ(*ecam(31, 0, reg), cfg_r(31, 0, reg));
}

/* ---- the NVMe function: BARs, interrupts, bus mastering ---- */

#define BAR              0xc1000000ull
#define COMMAND_IO       1u
#define COMMAND_MEM      2u
#define COMMAND_MASTER   4u
#define COMMAND_INTX_OFF 0x400u

static unsigned nvme;
static uint32_t *sq, *cq, *data;
static unsigned tail;
static volatile uint8_t *bar = (volatile uint8_t *)BAR;

static volatile uint32_t *reg(unsigned off)
{
    return (volatile uint32_t *)(bar + off);
}

/* Its slot; 0 if there is none. */
static unsigned nvme_find(void)
{
    for (unsigned dev = 1; dev < 32; dev++)
        if (cfg_r(dev, 0, 0) != 0xffffffff && cfg_r(dev, 0, 8) >> 8 == 0x010802)
            return dev;
    fail_at("the slot of the NVMe function", 0, 1);
    return 0;
}

static unsigned capability(uint8_t id)
{
    unsigned at = cfg_r(nvme, 0, 0x34) & 0xfc;

    for (unsigned n = 0; at && n < 48; n++, at = cfg_r(nvme, 0, at) >> 8 & 0xfc)
        if ((cfg_r(nvme, 0, at) & 0xff) == id)
            return at;
    return 0;
}

static bool until(volatile uint32_t *p, uint32_t mask, uint32_t want)
{
    for (uint64_t t = rdtsc(); rdtsc() - t < 2000000000;)
        if ((*p & mask) == want)
            return true;
    return false;
}

/* Enabled, with admin queues of 16, and neither MSI nor MSI-X. */
static void nvme_start(uint32_t command)
{
    nvme = nvme_find();
    sq = page_alloc();
    cq = page_alloc();
    data = page_alloc();
    tail = 0;
    bar = (volatile uint8_t *)BAR;
    cfg_w(nvme, 0, 0x10, BAR);
    cfg_w(nvme, 0, 0x14, 0);
    cfg_w(nvme, 0, 4, command);
    cfg_w(nvme, 0, capability(0x11), cfg_r(nvme, 0, capability(0x11)) & 0x7fffffff);
    *reg(0x24) = 0x000f000f;
    *reg(0x28) = (uint32_t)(uintptr_t)sq;
    *reg(0x2c) = 0;
    *reg(0x30) = (uint32_t)(uintptr_t)cq;
    *reg(0x34) = 0;
    *reg(0x14) = 0x00460001;
    CHECK(until(reg(0x1c), 1, 1));
    *(volatile uint32_t *)0xfee000f0 = 0x1ff;
    *(volatile uint32_t *)0xfee00080 = 0;
}

static void nvme_stop(void)
{
    trap_hook = NULL;
    *reg(0x14) = 0;
    until(reg(0x1c), 1, 0);
    cfg_w(nvme, 0, 4, 0);
}

static void identify(void)
{
    uint32_t *e = sq + tail * 16;

    e[0] = 6 | (tail + 1) << 16;
    e[6] = (uint32_t)(uintptr_t)data;
    e[10] = 1;
    tail++;
    *reg(0x1000) = tail;
}

CASE(bar_sizes_and_moves, "BAR: size, move, decode")
{
    unsigned dev = nvme_find();
    uint32_t size;

    cfg_w(dev, 0, 4, 0);
    cfg_w(dev, 0, 0x10, 0xffffffff);
    size = cfg_r(dev, 0, 0x10);
    CHECK_EQ(size & 0xf, 4); /* 64-bit, not prefetchable */
    size = ~(size & ~0xfu) + 1;
    CHECK(size >= 0x4000);
    CHECK_EQ(size & (size - 1), 0);
    cfg_w(dev, 0, 0x10, 0xc1000000);
    cfg_w(dev, 0, 0x14, 0);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008, 0xffffffff); /* not decoded yet */
    cfg_w(dev, 0, 4, 2);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008 & 0xffff0000, 0x00010000); /* VS 1.x */
    cfg_w(dev, 0, 0x10, 0xc2000000);
    CHECK_EQ(*(volatile uint32_t *)0xc2000008 & 0xffff0000, 0x00010000);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008, 0xffffffff);
    cfg_w(dev, 0, 4, 0);
}

CASE(read_only_registers_stay, "read-only registers")
{
    cfg_w(0, 0, 0, 0);
    cfg_w(0, 0, 8, 0);
    CHECK_EQ(cfg_r(0, 0, 0), 0x29c08086);
    CHECK_EQ(cfg_r(0, 0, 8) >> 8, 0x060000);
}

CASE(capabilities_end, "capability list ends")
{
    unsigned dev = nvme_find(), at, n = 0;

    CHECK(cfg_r(dev, 0, 4) >> 16 & 0x10);
    for (at = cfg_r(dev, 0, 0x34) & 0xfc; at && n < 48; n++)
        at = cfg_r(dev, 0, at) >> 8 & 0xfc;
    CHECK(n > 0 && n < 48);
}

static volatile unsigned msis;
static bool msi_hook(struct frame *f)
{
    if (f->vector != 0x61)
        return false;
    msis++;
    *(volatile uint32_t *)0xfee000b0 = 0;
    return true;
}

/* A write of the CPU to the MSI window is no MSI; the device's own is tested through the admin
 * queue. */
CASE(nvme_completes_identify_by_msix, "NVMe: Identify by MSI-X")
{
    unsigned cap, table;

    nvme_start(COMMAND_MEM | COMMAND_MASTER);
    cap = capability(0x11);
    CHECK(cap != 0);
    table = cfg_r(nvme, 0, cap + 4);
    CHECK_EQ(table & 7, 0);
    *reg(table) = 0xfee00000;
    *reg(table + 4) = 0;
    *reg(table + 8) = 0x61;
    *reg(table + 12) = 0;
    cfg_w(nvme, 0, cap, cfg_r(nvme, 0, cap) | 0x80000000);
    trap_hook = msi_hook;
    identify();
    __asm__ volatile("sti");
    CHECK(until(&msis, ~0u, 1));
    __asm__ volatile("cli");
    CHECK_EQ(cq[3], 0x00010001); /* phase 1, success */
    CHECK(data[0] != 0);
    nvme_stop();
}

static volatile unsigned intx[16], pic5;
static bool intx_hook(struct frame *f)
{
    if (f->vector == 0x25) {
        pic5++;
        *reg(0x1004) = tail; /* the entry is taken: the line falls */
        out8(0x20, 0x20);
        return true;
    }
    if (f->vector < 0x70 || f->vector > 0x7f)
        return false;
    intx[f->vector & 15]++;
    if (intx[f->vector & 15] >= 2)
        *reg(0x1004) = tail;
    *(volatile uint32_t *)0xfee000b0 = 0;
    return true;
}

static void ioapic_w(unsigned r, uint32_t v)
{
    *(volatile uint32_t *)0xfec00000 = r;
    *(volatile uint32_t *)0xfec00010 = v;
}

static void interrupts(uint64_t ticks)
{
    __asm__ volatile("sti");
    for (uint64_t t = rdtsc(); rdtsc() - t < ticks;)
        ;
    __asm__ volatile("cli");
}

CASE(intx_reaches_the_io_apic, "INTx: I/O APIC, status, disable")
{
    unsigned pin = 0, fired = 0;

    nvme_start(COMMAND_MEM | COMMAND_MASTER);
    CHECK_EQ(cfg_r(nvme, 0, 0x3c) >> 8 & 0xff, 1); /* INTA */
    for (unsigned n = 16; n < 24; n++) {
        intx[n - 16] = 0;
        ioapic_w(0x10 + n * 2 + 1, 0);
        ioapic_w(0x10 + n * 2, 0xa070 + n - 16); /* level, active low */
    }
    trap_hook = intx_hook;
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 19 & 1, 0); /* interrupt status */
    identify();
    CHECK(until(&cq[3], 0xffff, 1));
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 19 & 1, 1);
    interrupts(20000000);
    for (unsigned n = 0; n < 8; n++)
        if (intx[n]) {
            pin = n;
            fired++;
        }
    CHECK_EQ(fired, 1);
    CHECK_EQ(intx[pin], 2); /* a second time, since the first EOI found the line still up */
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 19 & 1, 0);
    /* The command register can hold it back; the status bit shows it all the same. */
    cfg_w(nvme, 0, 4, COMMAND_MEM | COMMAND_MASTER | COMMAND_INTX_OFF);
    identify();
    CHECK(until(&cq[4 + 3], 0xffff, 2));
    interrupts(5000000);
    CHECK_EQ(intx[pin], 2);
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 19 & 1, 1);
    cfg_w(nvme, 0, 4, COMMAND_MEM | COMMAND_MASTER);
    interrupts(5000000);
    CHECK_EQ(intx[pin], 3);
    for (unsigned n = 16; n < 24; n++)
        ioapic_w(0x10 + n * 2, 0x10000);
    nvme_stop();
}

CASE(intx_reaches_the_pic, "INTx: PIRQ routing to the PIC")
{
    uint32_t a = cfg_r(31, 0, 0x60), e = cfg_r(31, 0, 0x68);

    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0xa1, 0xff);
    out8(0x21, 0xdf);
    out8(0x4d0, 0x20);
    *(volatile uint32_t *)0xfee00350 = 0x700;
    nvme_start(COMMAND_MEM | COMMAND_MASTER);
    trap_hook = intx_hook;
    cfg_w(31, 0, 0x60, 0x80808080); /* not routed */
    cfg_w(31, 0, 0x68, 0x80808080);
    pic5 = 0;
    identify();
    CHECK(until(&cq[3], 0xffff, 1));
    interrupts(5000000);
    CHECK_EQ(pic5, 0);
    cfg_w(31, 0, 0x60, 0x05050505);
    cfg_w(31, 0, 0x68, 0x05050505);
    interrupts(5000000);
    CHECK_EQ(pic5, 1);
    identify();
    interrupts(20000000);
    CHECK_EQ(pic5, 2);
    cfg_w(31, 0, 0x60, a);
    cfg_w(31, 0, 0x68, e);
    out8(0x21, 0xff);
    out8(0x4d0, 0);
    nvme_stop();
}

CASE(msi, "MSI")
{
    unsigned cap;

    nvme_start(COMMAND_MEM | COMMAND_MASTER);
    cap = capability(5);
    CHECK(cap != 0);
    if (!cap)
        return;
    CHECK_EQ(cfg_r(nvme, 0, cap) >> 23 & 1, 1); /* 64-bit addresses */
    cfg_w(nvme, 0, cap + 4, 0xfee00000);
    cfg_w(nvme, 0, cap + 8, 0);
    cfg_w(nvme, 0, cap + 12, 0x7a);
    cfg_w(nvme, 0, cap, 1u << 16);
    CHECK_EQ(cfg_r(nvme, 0, cap) >> 16 & 1, 1);
    intx[10] = 0;
    trap_hook = intx_hook;
    identify();
    CHECK(until(&cq[3], 0xffff, 1));
    interrupts(5000000);
    CHECK_EQ(intx[10], 1); /* an edge: once */
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 19 & 1, 0);
    cfg_w(nvme, 0, 4, COMMAND_MEM | COMMAND_MASTER | COMMAND_INTX_OFF); /* does not concern MSIs */
    identify();
    CHECK(until(&cq[4 + 3], 0xffff, 2));
    interrupts(5000000);
    CHECK_EQ(intx[10], 2);
    cfg_w(nvme, 0, cap, 0);
    nvme_stop();
}

CASE(bus_mastering_off_stops_dma, "bus mastering")
{
    nvme_start(COMMAND_MEM | COMMAND_MASTER);
    identify();
    CHECK(until(&cq[3], 0xffff, 1));
    CHECK(data[0] != 0);
    cfg_w(nvme, 0, 4, COMMAND_MEM);
    data[0] = 0;
    identify();
    interrupts(10000000);
    CHECK_EQ(data[0], 0);
    CHECK_EQ(cq[4 + 3], 0);
    nvme_stop();
}

CASE(bar_above_4_gib, "BAR above 4 GiB")
{
    uint64_t at = 0x8000000000ull - 0x100000;
    volatile uint64_t *e = pte(0x7d000000, 1);

    nvme = nvme_find();
    *e = at | PTE_P | PTE_W | 0x10;
    invlpg((void *)0x7d000000);
    cfg_w(nvme, 0, 4, 0);
    cfg_w(nvme, 0, 0x10, (uint32_t)at);
    cfg_w(nvme, 0, 0x14, (uint32_t)(at >> 32));
    CHECK_EQ(cfg_r(nvme, 0, 0x14), at >> 32);
    cfg_w(nvme, 0, 4, COMMAND_MEM);
    CHECK_EQ(*(volatile uint32_t *)0x7d000008 & 0xffff0000, 0x00010000);
    cfg_w(nvme, 0, 0x14, 0xffffffff);
    CHECK_EQ(cfg_r(nvme, 0, 0x14), 0xffffffff);
    cfg_w(nvme, 0, 4, 0);
    cfg_w(nvme, 0, 0x14, 0);
    cfg_w(nvme, 0, 0x10, BAR);
    CHECK_EQ(*(volatile uint32_t *)0x7d000008, 0xffffffff);
}

CASE(byte_and_word_writes, "byte and word writes")
{
    nvme = nvme_find();
    out32(0xcf8, cfg_addr(nvme, 0, 0x3c));
    out8(0xcfc, 0x5a); /* interrupt line */
    CHECK_EQ(cfg_r(nvme, 0, 0x3c) & 0xffff, 0x015a);
    out32(0xcf8, cfg_addr(nvme, 0, 0x3c));
    out16(0xcfc, 0xff33); /* the pin is read-only */
    CHECK_EQ(cfg_r(nvme, 0, 0x3c) & 0xffff, 0x0133);
    out32(0xcf8, cfg_addr(nvme, 0, 4));
    out16(0xcfc, COMMAND_MASTER);
    CHECK_EQ(in16(0xcfc), COMMAND_MASTER);
    out8(0xcfd, 4); /* the command register's upper byte */
    CHECK_EQ(in16(0xcfc), COMMAND_MASTER | COMMAND_INTX_OFF);
    out16(0xcfc, 0);
    out32(0xcf8, cfg_addr(nvme, 0, 0x10));
    out8(0xcff, 0xc3);
    CHECK_EQ(in32(0xcfc), 0xc3000004 | (BAR & 0x00ffc000));
    out8(0xcff, 0xc1);
    *(volatile uint8_t *)ecam(nvme, 0, 0x3c) = 0x77;
    CHECK_EQ(*(volatile uint8_t *)ecam(nvme, 0, 0x3c), 0x77);
    CHECK_EQ(cfg_r(nvme, 0, 0x3c) & 0xff, 0x77);
}

CASE(status_bits_stay_when_zeros_are_written, "status register")
{
    uint32_t before, ids;

    nvme = nvme_find();
    before = cfg_r(nvme, 0, 4) >> 16;
    ids = cfg_r(nvme, 0, 0x2c);
    CHECK_EQ(before & 0x10, 0x10);
    cfg_w(nvme, 0, 4, 0xffff0000); /* RW1C and read-only bits */
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 16, before & 0x06ff);
    cfg_w(nvme, 0, 4, 0);
    CHECK_EQ(cfg_r(nvme, 0, 4) >> 16, before & 0x06ff);
    cfg_w(nvme, 0, 0x2c, ~ids);
    CHECK_EQ(cfg_r(nvme, 0, 0x2c), ids);
    cfg_w(nvme, 0, 0x34, 0);
    CHECK(cfg_r(nvme, 0, 0x34) != 0);
}

static void pam_byte(unsigned r, uint8_t v)
{
    *(volatile uint8_t *)ecam(0, 0, r) = v;
}

CASE(pam_steers_each_segment, "PAM")
{
    /* 91h to 96h: two segments of 16 KiB each, C0000h to EFFFFh; 90h: F0000h. */
    for (unsigned n = 0; n < 13; n++) {
        unsigned r = n == 12 ? 0x90 : 0x91 + n / 2, shift = n == 12 || (n & 1) ? 4 : 0;
        volatile uint32_t *p =
            (volatile uint32_t *)(n == 12 ? 0xf0000ull : 0xc0000ull + n * 0x4000);
        uint8_t old = *(volatile uint8_t *)ecam(0, 0, r), rest = old & (uint8_t) ~(3 << shift);
        uint32_t saved, rom;

        pam_byte(r, rest);
        rom = *p;
        *p = ~rom;
        CHECK_EQ(*p, rom); /* DRAM is off */
        pam_byte(r, rest | (uint8_t)(3 << shift));
        saved = *p;
        *p = 0x12340000 + n;
        CHECK_EQ(*p, 0x12340000 + n);
        pam_byte(r, rest | (uint8_t)(1 << shift)); /* read only */
        *p = 0;
        CHECK_EQ(*p, 0x12340000 + n);
        pam_byte(r, rest | (uint8_t)(2 << shift)); /* write only: the way to shadow a ROM */
        *p = 0x56780000 + n;
        CHECK_EQ(*p, rom);
        pam_byte(r, rest | (uint8_t)(3 << shift));
        CHECK_EQ(*p, 0x56780000 + n);
        *p = saved;
        pam_byte(r, old);
    }
}

CASE(reset_control_register_is_there, "reset control")
{
    out8(0xcf9, 2);
    CHECK_EQ(in8(0xcf9) & 6, 2);
    out8(0xcf9, 0);
}
