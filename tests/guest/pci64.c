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

static void host_bridge_is_there(void)
{
    CHECK_EQ(cfg_r(0, 0, 0), 0x29c08086);
    CHECK_EQ(cfg_r(0, 0, 8) >> 8, 0x060000);
}

static void isa_bridge_is_there(void)
{
    CHECK_EQ(cfg_r(31, 0, 0) & 0xffff, 0x8086);
    CHECK_EQ(cfg_r(31, 0, 8) >> 8, 0x060100);
}

static void absent_functions_read_ones(void)
{
    CHECK_EQ(cfg_r(30, 0, 0), 0xffffffff);
    CHECK_EQ(*ecam(30, 0, 0), 0xffffffff);
}

static void disabled_mechanism_does_not_answer(void)
{
    out32(0xcf8, 0);
    CHECK_EQ(in32(0xcfc), 0xffffffff);
}

static void narrow_accesses(void)
{
    out32(0xcf8, cfg_addr(0, 0, 0));
    CHECK_EQ(in16(0xcfc), 0x8086);
    CHECK_EQ(in16(0xcfe), 0x29c0);
    CHECK_EQ(in8(0xcff), 0x29);
    CHECK_EQ(in32(0xcf8), cfg_addr(0, 0, 0));
}

static void ecam_equals_mechanism_1(void)
{
    for (unsigned reg = 0; reg < 64; reg += 4)
        CHECK_EQ(*ecam(31, 0, reg), cfg_r(31, 0, reg));
}

/* The first function with class code c, or -1. */
static int find_class(uint32_t c)
{
    for (unsigned dev = 0; dev < 32; dev++)
        if (cfg_r(dev, 0, 0) != 0xffffffff && cfg_r(dev, 0, 8) >> 8 == c)
            return (int)dev;
    return -1;
}

static void bar_sizes_and_moves(void)
{
    int dev = find_class(0x010802);
    uint32_t size;

    CHECK(dev > 0);
    if (dev < 0)
        return;
    cfg_w((unsigned)dev, 0, 4, 0);
    cfg_w((unsigned)dev, 0, 0x10, 0xffffffff);
    size = cfg_r((unsigned)dev, 0, 0x10);
    CHECK_EQ(size & 0xf, 4); /* 64-bit, not prefetchable */
    size = ~(size & ~0xfu) + 1;
    CHECK(size >= 0x4000);
    CHECK_EQ(size & (size - 1), 0);
    cfg_w((unsigned)dev, 0, 0x10, 0xc1000000);
    cfg_w((unsigned)dev, 0, 0x14, 0);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008, 0xffffffff); /* not decoded yet */
    cfg_w((unsigned)dev, 0, 4, 2);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008 & 0xffff0000, 0x00010000); /* VS 1.x */
    cfg_w((unsigned)dev, 0, 0x10, 0xc2000000);
    CHECK_EQ(*(volatile uint32_t *)0xc2000008 & 0xffff0000, 0x00010000);
    CHECK_EQ(*(volatile uint32_t *)0xc1000008, 0xffffffff);
    cfg_w((unsigned)dev, 0, 4, 0);
}

static void read_only_registers_stay(void)
{
    cfg_w(0, 0, 0, 0);
    cfg_w(0, 0, 8, 0);
    CHECK_EQ(cfg_r(0, 0, 0), 0x29c08086);
    CHECK_EQ(cfg_r(0, 0, 8) >> 8, 0x060000);
}

static void capabilities_end(void)
{
    int dev = find_class(0x010802);
    unsigned at, n = 0;

    CHECK(dev > 0);
    if (dev < 0)
        return;
    CHECK(cfg_r((unsigned)dev, 0, 4) >> 16 & 0x10);
    for (at = cfg_r((unsigned)dev, 0, 0x34) & 0xfc; at && n < 48; n++)
        at = cfg_r((unsigned)dev, 0, at) >> 8 & 0xfc;
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

/* A write of the CPU to the MSI window is no MSI; the device's own is tested through the admin queue. */
static void nvme_completes_identify_by_msix(void)
{
    int dev = find_class(0x010802);
    uint32_t *sq, *cq;
    volatile uint8_t *bar = (volatile uint8_t *)0xc1000000;
    unsigned cap, table, n = 0;
    uint32_t *data;
    uint64_t t;

    CHECK(dev > 0);
    if (dev < 0)
        return;
    sq = page_alloc();
    cq = page_alloc();
    data = page_alloc();
    cfg_w((unsigned)dev, 0, 0x10, 0xc1000000);
    cfg_w((unsigned)dev, 0, 0x14, 0);
    cfg_w((unsigned)dev, 0, 4, 6);
    for (cap = cfg_r((unsigned)dev, 0, 0x34) & 0xfc; cap && (cfg_r((unsigned)dev, 0, cap) & 0xff) != 0x11 && n < 48; n++)
        cap = cfg_r((unsigned)dev, 0, cap) >> 8 & 0xfc;
    CHECK(cap != 0);
    table = cfg_r((unsigned)dev, 0, cap + 4) & ~7u;
    CHECK_EQ(cfg_r((unsigned)dev, 0, cap + 4) & 7, 0);
    cfg_w((unsigned)dev, 0, cap, cfg_r((unsigned)dev, 0, cap) | 0x80000000);
    *(volatile uint32_t *)(bar + table) = 0xfee00000;
    *(volatile uint32_t *)(bar + table + 4) = 0;
    *(volatile uint32_t *)(bar + table + 8) = 0x61;
    *(volatile uint32_t *)(bar + table + 12) = 0;
    *(volatile uint32_t *)0xfee000f0 = 0x1ff;
    *(volatile uint32_t *)0xfee00080 = 0;
    *(volatile uint32_t *)(bar + 0x24) = 0x000f000f;
    *(volatile uint32_t *)(bar + 0x28) = (uintptr_t)sq;
    *(volatile uint32_t *)(bar + 0x2c) = 0;
    *(volatile uint32_t *)(bar + 0x30) = (uintptr_t)cq;
    *(volatile uint32_t *)(bar + 0x34) = 0;
    *(volatile uint32_t *)(bar + 0x14) = 0x00460001;
    for (t = rdtsc(); !(*(volatile uint32_t *)(bar + 0x1c) & 1) && rdtsc() - t < 1000000000;)
        ;
    CHECK_EQ(*(volatile uint32_t *)(bar + 0x1c) & 1, 1);
    sq[0] = 6 | 0x12340000;
    sq[6] = (uintptr_t)data;
    sq[10] = 1;
    trap_hook = msi_hook;
    *(volatile uint32_t *)(bar + 0x1000) = 1;
    __asm__ volatile("sti");
    for (t = rdtsc(); !msis && rdtsc() - t < 1000000000;)
        ;
    __asm__ volatile("cli");
    trap_hook = NULL;
    CHECK_EQ(msis, 1);
    CHECK_EQ(cq[3], 0x00011234); /* phase 1, success */
    CHECK(data[0] != 0);
    *(volatile uint32_t *)(bar + 0x14) = 0;
    cfg_w((unsigned)dev, 0, 4, 0);
}

static void reset_control_register_is_there(void)
{
    out8(0xcf9, 2);
    CHECK_EQ(in8(0xcf9) & 6, 2);
    out8(0xcf9, 0);
}

const struct guest_case guest_cases[] = {
    {"host bridge", host_bridge_is_there},
    {"ISA bridge", isa_bridge_is_there},
    {"absent functions", absent_functions_read_ones},
    {"mechanism 1 disabled", disabled_mechanism_does_not_answer},
    {"narrow accesses", narrow_accesses},
    {"ECAM equals mechanism 1", ecam_equals_mechanism_1},
    {"read-only registers", read_only_registers_stay},
    {"BAR: size, move, decode", bar_sizes_and_moves},
    {"capability list ends", capabilities_end},
    {"NVMe: Identify by MSI-X", nvme_completes_identify_by_msix},
    {"reset control", reset_control_register_is_there},
};
const unsigned guest_ncases = sizeof(guest_cases) / sizeof(guest_cases[0]);
