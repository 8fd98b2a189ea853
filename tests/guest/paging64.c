/* SPDX-License-Identifier: Apache-2.0 */
/* Four-level paging, bit by bit and level by level: P, W, U, A, D, PS, G, NX, reserved, PCID,
 * INVPCID. */
#include "rt/guest.h"

#define VA   0x10000000000ull /* 1 TiB: a PML4 entry of its own */
#define PHYS 0x2000000ull     /* 32 MiB: spare RAM */

static uint32_t feature(uint32_t leaf, unsigned reg)
{
    uint32_t r[4] = {leaf, 0, 0, 0};

    __asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
    return r[reg];
}

static volatile uint64_t *map4k(uint64_t va, uint64_t pa, uint64_t bits)
{
    volatile uint64_t *e = pte(va, 1);

    *e = pa | bits;
    invlpg((void *)va);
    return e;
}

CASE(accessed_and_dirty_at_every_level, "A and D at every level")
{
    map4k(VA, PHYS, PTE_P | PTE_W);
    for (int level = 4; level >= 1; level--)
        *pte(VA, level) &= ~(PTE_A | PTE_D);
    write_cr3(read_cr3());
    (void)*(volatile uint32_t *)VA;
    for (int level = 4; level >= 1; level--) {
        CHECK_EQ(*pte(VA, level) & PTE_A, PTE_A);
        CHECK_EQ(*pte(VA, level) & PTE_D, 0);
    }
    *(volatile uint32_t *)VA = 1;
    CHECK_EQ(*pte(VA, 1) & PTE_D, PTE_D);
    CHECK_EQ(*pte(VA, 2) & PTE_D, 0);
}

CASE(write_through_a_clean_entry_sets_dirty_again, "D is set again")
{
    volatile uint64_t *e = map4k(VA, PHYS, PTE_P | PTE_W);

    *(volatile uint32_t *)VA = 1;
    *e &= ~PTE_D;
    invlpg((void *)VA);
    *(volatile uint32_t *)VA = 2;
    CHECK_EQ(*e & PTE_D, PTE_D);
}

CASE(a_faulting_write_sets_no_dirty_bit, "no D from a faulting write")
{
    volatile uint64_t *e = map4k(VA, PHYS, PTE_P);

    FAULTS(PF, 3, "mov %%eax, (%%rdx)", .d = VA);
    CHECK_EQ(*e & PTE_D, 0);
}

CASE(write_bit_counts_at_every_level, "W at every level")
{
    map4k(VA, PHYS, PTE_P | PTE_W);
    for (int level = 4; level >= 1; level--) {
        *pte(VA, level) &= ~PTE_W;
        write_cr3(read_cr3());
        FAULTS(PF, 3, "mov %%eax, (%%rdx)", .d = VA + 16);
        *pte(VA, level) |= PTE_W;
        write_cr3(read_cr3());
    }
    RUNS("mov %%eax, (%%rdx)", .d = VA + 16);
}

CASE(present_bit_counts_at_every_level, "P at every level")
{
    map4k(VA, PHYS, PTE_P | PTE_W);
    for (int level = 4; level >= 1; level--) {
        volatile uint64_t *e = pte(VA, level);

        *e &= ~PTE_P;
        write_cr3(read_cr3());
        FAULTS(PF, 0, "mov (%%rdx), %%eax", .d = VA + 32);
        CHECK_EQ(trap.cr2, VA + 32);
        *e |= PTE_P;
        write_cr3(read_cr3());
    }
}

CASE(nx_counts_at_every_level, "NX at every level")
{
    map4k(VA, PHYS, PTE_P | PTE_W);
    *(volatile uint8_t *)VA = 0xc3;
    for (int level = 4; level >= 1; level--) {
        *pte(VA, level) |= PTE_NX;
        write_cr3(read_cr3());
        RAISES(PF, 0x11, "mov (%%rdx), %%eax; call *%%rdx", .d = VA);
        CHECK_EQ(trap.cr2, VA);
        *pte(VA, level) &= ~PTE_NX;
        write_cr3(read_cr3());
    }
    RUNS("call *%%rdx", .d = VA);
}

CASE(nx_is_reserved_without_nxe, "NX without NXE")
{
    map4k(VA, PHYS, PTE_P | PTE_W | PTE_NX);
    wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
    TRAP("mov (%%rdx), %%eax", .d = VA);
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
    EXPECT_FAULT(PF, 9);
}

CASE(reserved_bits_at_every_level, "reserved bits at every level")
{
    map4k(VA, PHYS, PTE_P | PTE_W);
    for (int level = 4; level >= 1; level--) {
        volatile uint64_t *e = pte(VA, level);

        *e |= 1ull << 51;
        write_cr3(read_cr3());
        FAULTS(PF, 9, "mov (%%rdx), %%eax", .d = VA);
        *e &= ~(1ull << 51);
        write_cr3(read_cr3());
    }
    *pte(VA, 4) |= PTE_PS; /* reserved in a PML4 entry */
    write_cr3(read_cr3());
    FAULTS(PF, 9, "mov (%%rdx), %%eax", .d = VA);
    *pte(VA, 4) &= ~PTE_PS;
    write_cr3(read_cr3());
}

CASE(two_megabyte_page, "2 MiB page")
{
    uint64_t va = VA + (1ull << 21);
    volatile uint64_t *e = pte(va, 2);

    *e = PHYS | PTE_P | PTE_W | PTE_PS;
    write_cr3(read_cr3());
    *(volatile uint32_t *)(PHYS + 0x123458) = 0x1357;
    CHECK_EQ(*(volatile uint32_t *)(va + 0x123458), 0x1357);
    *(volatile uint32_t *)(va + 0x1ffffc) = 0x2468;
    CHECK_EQ(*(volatile uint32_t *)(PHYS + 0x1ffffc), 0x2468);
    CHECK_EQ(*e & (PTE_A | PTE_D), PTE_A | PTE_D);
    *e |= 1ull << 13; /* reserved in a 2 MiB entry */
    write_cr3(read_cr3());
    FAULTS(PF, 9, "mov (%%rdx), %%eax", .d = va);
    *e = 0;
}

CASE(invlpg_drops_all_of_a_large_page, "INVLPG drops a large page")
{
    uint64_t va = VA + (2ull << 21);
    volatile uint64_t *e = pte(va, 2);

    *e = PHYS | PTE_P | PTE_W | PTE_PS;
    *(volatile uint32_t *)(PHYS + 0x5000) = 5;
    *(volatile uint32_t *)(PHYS + 0x205000) = 6;
    CHECK_EQ(*(volatile uint32_t *)(va + 0x5000), 5);
    *e = (PHYS + 0x200000) | PTE_P | PTE_W | PTE_PS;
    invlpg((void *)(va + 0x1ff000)); /* another part of the same page */
    CHECK_EQ(*(volatile uint32_t *)(va + 0x5000), 6);
    *e = 0;
    invlpg((void *)va);
}

/* ---- long string instructions ---- */

#define SPARE 0x2800000ull /* 40 MiB */

static volatile uint64_t *absent;
static uint64_t absent_entry;
static uintptr_t fault_cx, fault_di;

static bool comes_back(struct frame *f)
{
    if (f->vector != 14 || !absent_entry)
        return false;
    fault_cx = f->cx;
    fault_di = f->di;
    *absent = absent_entry;
    absent_entry = 0;
    return true;
}

static void rep_movsq(uint64_t to, uint64_t from, uint64_t n)
{
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void rep_movsb(uint64_t to, uint64_t from, uint64_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

CASE(strings_of_many_pages, "string instructions over many pages")
{
    uint64_t va = VA + (4ull << 21), n = 0x20000, di = va + 0x3f0000;
    volatile uint64_t *e[3] = {pte(va, 2), pte(va + (1ull << 21), 2), pte(va + (2ull << 21), 2)};

    /* Two large pages that lie the other way round in memory, and a third. */
    *e[0] = (PHYS + 0x200000) | PTE_P | PTE_W | PTE_PS;
    *e[1] = PHYS | PTE_P | PTE_W | PTE_PS;
    *e[2] = (PHYS + 0x400000) | PTE_P | PTE_W | PTE_PS;
    for (uint64_t i = 0; i < 0x600000 / 8; i++)
        ((volatile uint64_t *)PHYS)[i] = i;
    rep_movsq(SPARE + 4, va + 0x1f0000 + 4, 0x40000 / 8);
    CHECK_EQ(*(volatile uint64_t *)(SPARE + 8), (0x3f0000 + 8) / 8);
    CHECK_EQ(*(volatile uint64_t *)(SPARE + 0xfff8), (0x3ffff8) / 8);
    CHECK_EQ(*(volatile uint64_t *)(SPARE + 0x10000), 0);
    CHECK_EQ(*(volatile uint64_t *)(SPARE + 0x3fff8), 0x2fff8 / 8);

    /* Each byte is the one before it. */
    *(volatile uint8_t *)(va + 0x100) = 0x5a;
    rep_movsb(va + 0x101, va + 0x100, 0x30000);
    CHECK_EQ(*(volatile uint8_t *)(va + 0x100 + 0x30000), 0x5a);
    CHECK_EQ(*(volatile uint8_t *)(va + 0x15678), 0x5a);
    CHECK(*(volatile uint8_t *)(va + 0x101 + 0x30000) != 0x5a);

    /* A fault far behind the first element finds all before it done. */
    absent = e[2];
    absent_entry = *e[2];
    *e[2] = 0;
    invlpg((void *)(va + (2ull << 21)));
    trap_hook = comes_back;
    __asm__ volatile("rep stosq" : "+D"(di), "+c"(n) : "a"(0x77ull) : "memory");
    trap_hook = NULL;
    CHECK_EQ(fault_di, va + 0x400000);
    CHECK_EQ(fault_cx, 0x20000 - 0x10000 / 8);
    CHECK_EQ(di, va + 0x4f0000);
    CHECK_EQ(n, 0);
    CHECK_EQ(*(volatile uint64_t *)(PHYS + 0x1f0000), 0x77);
    CHECK_EQ(*(volatile uint64_t *)(PHYS + 0x1efff8), 0x1efff8 / 8);
    CHECK_EQ(*(volatile uint64_t *)(PHYS + 0x4efff8), 0x77);
    CHECK_EQ(*(volatile uint64_t *)(PHYS + 0x4f0000), 0x4f0000 / 8);
    for (unsigned i = 0; i < 3; i++)
        *e[i] = 0;
    write_cr3(read_cr3());
}

/* ---- loops over pages ---- */

/* 32-bit words of [from, from + 4 n), plus one each, to [to, to + 4 n); twice, so that it is warm.
 */
static void add_one(uint64_t to, uint64_t from, uint64_t n)
{
    __asm__ volatile("1: mov (%1), %%eax; add $1, %%eax; mov %%eax, (%0); add $4, %1; add $4, %0;"
                     "sub $1, %2; jnz 1b"
                     : "+D"(to), "+S"(from), "+c"(n)
                     :
                     : "rax", "memory");
}

/* The same from the end, by one register, and by way of a table. */
static void add_one_down(uint64_t to, uint64_t from, uint64_t n, const uint32_t *table)
{
    __asm__ volatile("1: mov -4(%1,%2,4), %%eax; mov %%eax, %%r8d; and $7, %%r8d;"
                     "mov (%3,%%r8,4), %%r8d; add %%r8d, %%eax; mov %%eax, -4(%0,%2,4);"
                     "sub $1, %2; jnz 1b"
                     : "+D"(to), "+S"(from), "+c"(n)
                     : "d"(table)
                     : "rax", "r8", "memory");
}

CASE(loops_over_pages, "loops over pages")
{
    static const uint32_t ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    uint64_t n = 4 * 1024;

    /* Pages whose order in memory is another one, and that are not all there. */
    for (unsigned i = 0; i < 4; i++) {
        map4k(VA + i * 4096, PHYS + (i ^ 1) * 4096, PTE_P | PTE_W);
        map4k(VA + 0x10000 + i * 4096, PHYS + 0x10000 + (i ^ 3) * 4096, PTE_P | PTE_W);
    }
    map4k(VA + 0x14000, PHYS, 0);
    for (unsigned round = 0; round < 6; round++) {
        for (uint64_t i = 0; i < n; i++)
            ((volatile uint32_t *)VA)[i] = (uint32_t)i * 3 + round;
        for (unsigned k = 0; k < 3; k++)
            if (round % 2)
                add_one(VA + 0x10000 + k, VA + k, n - 1);
            else
                add_one_down(VA + 0x10000 + k, VA + k, n - 1, ones);
        CHECK_EQ(*(volatile uint32_t *)(VA + 0x10000 + 2 + 4 * 1500),
                 *(volatile uint32_t *)(VA + 2 + 4 * 1500) + 1);
        CHECK_EQ(*(volatile uint32_t *)(VA + 0x10000 + 2 + 4 * 2047),
                 *(volatile uint32_t *)(VA + 2 + 4 * 2047) + 1);
        CHECK_EQ(*(volatile uint32_t *)(VA + 0x10000 + 2 + 4 * (n - 2)),
                 *(volatile uint32_t *)(VA + 2 + 4 * (n - 2)) + 1);
    }

    /* A page that is missing, far behind the beginning. */
    absent = pte(VA + 0x12000, 1);
    absent_entry = *absent;
    *absent = 0;
    invlpg((void *)(VA + 0x12000));
    trap_hook = comes_back;
    add_one(VA + 0x10000, VA, n);
    trap_hook = NULL;
    CHECK_EQ(fault_di, VA + 0x12000);
    CHECK_EQ(fault_cx, n - 2048);
    CHECK_EQ(*(volatile uint32_t *)(VA + 0x13ffc), *(volatile uint32_t *)(VA + 0x3ffc) + 1);

    /* One that is another one from some turn on: INVLPG comes between two loops. */
    map4k(VA + 0x11000, PHYS + 0x20000, PTE_P | PTE_W);
    add_one(VA + 0x10000, VA, n);
    CHECK_EQ(*(volatile uint32_t *)(PHYS + 0x20000 + 0x800),
             *(volatile uint32_t *)(VA + 0x1800) + 1);
}

CASE(one_gigabyte_page, "1 GiB page")
{
    uint64_t va = 0x10040000000ull;
    volatile uint64_t *e;

    CHECK(feature(0x80000001, 3) & (1u << 26));
    e = pte(va, 3);
    *e = 0 | PTE_P | PTE_W | PTE_PS;
    *(volatile uint32_t *)(PHYS + 0x777000) = 0x777;
    CHECK_EQ(*(volatile uint32_t *)(va + PHYS + 0x777000), 0x777);
    *e |= 1ull << 20; /* reserved in a 1 GiB entry */
    write_cr3(read_cr3());
    FAULTS(PF, 9, "mov (%%rdx), %%eax", .d = va);
    *e = 0;
    write_cr3(read_cr3());
}

CASE(stale_translation_lives_until_invlpg, "INVLPG")
{
    volatile uint64_t *e = map4k(VA, PHYS, PTE_P | PTE_W);

    *(volatile uint32_t *)PHYS = 1;
    *(volatile uint32_t *)(PHYS + 4096) = 2;
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    *e = (PHYS + 4096) | PTE_P | PTE_W;
    invlpg((void *)VA);
    CHECK_EQ(*(volatile uint32_t *)VA, 2);
}

CASE(cr3_load_flushes, "CR3 load flushes")
{
    volatile uint64_t *e = map4k(VA, PHYS, PTE_P | PTE_W);

    *(volatile uint32_t *)PHYS = 1;
    *(volatile uint32_t *)(PHYS + 4096) = 2;
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    *e = (PHYS + 4096) | PTE_P | PTE_W;
    write_cr3(read_cr3());
    CHECK_EQ(*(volatile uint32_t *)VA, 2);
}

CASE(global_page_flushes_with_pge, "global pages flush with PGE")
{
    volatile uint64_t *e;

    write_cr4(read_cr4() | 0x80);
    e = map4k(VA, PHYS, PTE_P | PTE_W | PTE_G);
    *(volatile uint32_t *)PHYS = 1;
    *(volatile uint32_t *)(PHYS + 4096) = 2;
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    *e = (PHYS + 4096) | PTE_P | PTE_W | PTE_G;
    write_cr4(read_cr4() & ~0x80ull);
    CHECK_EQ(*(volatile uint32_t *)VA, 2);
}

CASE(code_on_a_remapped_page, "code on a remapped page")
{
    static const uint8_t ret[2][6] = {{0xb8, 1, 0, 0, 0, 0xc3}, {0xb8, 2, 0, 0, 0, 0xc3}};
    volatile uint64_t *e = map4k(VA, PHYS, PTE_P | PTE_W);

    for (unsigned i = 0; i < 6; i++) {
        *(volatile uint8_t *)(PHYS + 0x800 + i) = ret[0][i];
        *(volatile uint8_t *)(PHYS + 0x1800 + i) = ret[1][i];
    }
    CHECK_EQ(((uint32_t(*)(void))(VA + 0x800))(), 1);
    *e = (PHYS + 4096) | PTE_P | PTE_W;
    invlpg((void *)VA);
    CHECK_EQ(((uint32_t(*)(void))(VA + 0x800))(), 2);
    *e = PHYS | PTE_P | PTE_W;
    write_cr3(read_cr3());
    CHECK_EQ(((uint32_t(*)(void))(VA + 0x800))(), 1);
}

CASE(code_across_two_pages_when_the_second_changes, "code across two pages")
{
    /* mov eax, imm32 with its immediate on the second page */
    volatile uint8_t *at = (volatile uint8_t *)(VA + 0xffd);

    map4k(VA, PHYS, PTE_P | PTE_W);
    map4k(VA + 4096, PHYS + 4096, PTE_P | PTE_W);
    at[0] = 0x90;
    at[1] = 0x90;
    at[2] = 0xb8;
    *(volatile uint32_t *)(VA + 4096) = 0x1111;
    at[7] = 0xc3;
    CHECK_EQ(((uint32_t(*)(void))(VA + 0xffd))(), 0x1111);
    *(volatile uint32_t *)(VA + 4096) = 0x2222;
    CHECK_EQ(((uint32_t(*)(void))(VA + 0xffd))(), 0x2222);
    *(volatile uint32_t *)(PHYS + 8192) = 0x3333;
    *(volatile uint8_t *)(PHYS + 8192 + 4) = 0xc3;
    map4k(VA + 4096, PHYS + 8192, PTE_P | PTE_W);
    CHECK_EQ(((uint32_t(*)(void))(VA + 0xffd))(), 0x3333);
    map4k(VA + 4096, 0, 0);
    TRAP("call *%%rdx", .d = VA + 0xffd);
    CHECK_EQ(trap.vector, PF);
    CHECK_EQ(trap.cr2, VA + 4096);
    CHECK_EQ(trap.error, 0x10);
    CHECK_EQ(trap.ip, VA + 0xfff);
}

CASE(pcid_keeps_spaces_apart, "PCID and INVPCID")
{
    uint64_t cr3 = read_cr3(), other;
    volatile uint64_t *copy, *from = (volatile uint64_t *)cr3;

    CHECK(feature(1, 2) & (1u << 17));
    map4k(VA, PHYS, PTE_P | PTE_W);
    *(volatile uint32_t *)PHYS = 1;
    *(volatile uint32_t *)(PHYS + 4096) = 2;
    copy = page_alloc();
    for (unsigned i = 0; i < 512; i++)
        copy[i] = from[i];
    other = (uintptr_t)copy;
    copy[VA >> 39 & 511] = 0;
    write_cr4(read_cr4() | 1u << 17);
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    write_cr3(other | 1); /* PCID 1 */
    map4k(VA, PHYS + 4096, PTE_P | PTE_W);
    CHECK_EQ(*(volatile uint32_t *)VA, 2);
    write_cr3(cr3 | 1ull << 63);
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    write_cr3(other | 1 | 1ull << 63);
    CHECK_EQ(*(volatile uint32_t *)VA, 2);
    FAULTS(GP, 0, "mov %%rdx, %%cr4", .d = read_cr4() & ~0x20ull);
    write_cr3(cr3);
    CHECK_EQ(*(volatile uint32_t *)VA, 1);
    if (feature(7, 1) & (1u << 10)) {
        struct {
            uint64_t pcid, addr;
        } desc = {1, VA};

        __asm__ volatile("invpcid %0, %1" : : "m"(desc), "r"(0ull) : "memory");
        __asm__ volatile("invpcid %0, %1" : : "m"(desc), "r"(2ull) : "memory");
        TRAP("mov $9, %%eax; invpcid (%%rdx), %%rax", .d = (uintptr_t)&desc);
        CHECK_EQ(trap.vector, GP);
    }
    write_cr4(read_cr4() & ~(1u << 17));
}

CASE(self_modifying_within_a_block, "store into the running block")
{
    uint32_t got;

    __asm__ volatile("movl $1, %%eax; lea 3f(%%rip), %%rdx; movb $2, 1(%%rdx); 3: movl $9, %%eax"
                     : "=&a"(got)
                     :
                     : "rdx", "memory");
    CHECK_EQ(got, 2);
}

CASE(jit_rewrites_the_same_place, "code rewritten in place")
{
    volatile uint8_t *at = (volatile uint8_t *)VA;

    map4k(VA, PHYS, PTE_P | PTE_W);
    at[0] = 0xb8;
    at[2] = at[3] = at[4] = 0;
    at[5] = 0xc3;
    for (uint32_t i = 0; i < 100; i++) {
        at[1] = (uint8_t)i;
        CHECK_EQ(((uint32_t(*)(void))VA)(), i);
    }
}
