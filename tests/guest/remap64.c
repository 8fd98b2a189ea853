/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Warm code whose page changes: at two addresses at once, mapped elsewhere, without its
 * permissions; and instructions of which one half lies on such a page. SDM vol. 3A 4.10.4.
 */
#include "rt/hot.h"

#define VA     0x10000000000ull /* a window of 4 pages; 1 TiB: a PML4 entry of its own */
#define ALIAS  (VA + 0x100000)  /* its pages again */
#define PHYS   0x2000000ull
#define REMAP  (VA + 0x200000) /* a page, or 2 MiB, that changes places */
#define STUB   (REMAP - 4096)  /* the page before, from where it is entered */
#define PHYS_A 0x2400000ull
#define PHYS_B 0x2600000ull

/* Four pages at VA and at ALIAS, full of INT3. */
static void window(void)
{
    for (unsigned i = 0; i < 4; i++) {
        map4k(VA + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
        map4k(ALIAS + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
    }
    memset((void *)VA, 0xcc, 4 * 4096);
}

/* ---- one page at two addresses ------------------------------------------------------------------
 */

static void code_at_two_addresses(void)
{
    static const uint8_t here[] = {0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xc3}; /* lea, ret */
    static const uint8_t pushed[] = {0xe8, 0, 0, 0, 0, 0x58, 0xc3}; /* call, pop, ret */
    uint8_t *p;

    window();
    memcpy((void *)VA, here, sizeof(here));
    memcpy((void *)(VA + 0x20), pushed, sizeof(pushed));
    emit_return((uint8_t *)VA + 0x80, 1);
    /* The pages behind differ: a jump that leaves the page leads elsewhere. */
    p = (uint8_t *)VA + 0x40;
    EMIT(p, 0xe9);
    emit_rel32(p, VA + 0x1000);
    map4k(ALIAS + 0x1000, PHYS + 0x2000, PTE_P | PTE_W);
    emit_return((uint8_t *)VA + 0x1000, 0x11);
    emit_return((uint8_t *)VA + 0x2000, 0x22);
    for (unsigned i = 0; i < 4; i++)
        ((volatile uint8_t *)VA)[0xffc + i] = 0x90; /* and so does running into it */
    for (unsigned n = 0; n < 2 * HOT; n++) {
        uintptr_t at = n & 1 || n < HOT ? ALIAS : VA, other = at ^ VA ^ ALIAS;

        if (!row_is("lea", CALL(at), at) || !row_is("call", CALL(at + 0x20), at + 0x25) ||
            !row_is("jump out", CALL(at + 0x40), at == VA ? 0x11 : 0x22) ||
            !row_is("run out", CALL(at + 0xffc), at == VA ? 0x11 : 0x22))
            return;
        if (n % 100 == 0) {
            *(volatile uint32_t *)(other + 0x81) = n; /* written by the one, run by the other */
            if (!row_is("written by the other", CALL(at + 0x80), n))
                return;
        }
        if (!row_is("shared", CALL(other + 0x80), n - n % 100))
            return;
    }
}

/* ---- a page that is mapped elsewhere ------------------------------------------------------------
 */

static volatile uint64_t *small, *large; /* REMAP's page table, and the entry that leads to it */
static uint64_t roots[2];
static volatile uintptr_t stub_pointer;

static void to_small(uint64_t pa, uint64_t bits)
{
    small[0] = pa | bits | PTE_P | PTE_W;
    *large = (uintptr_t)small | PTE_P | PTE_W | PTE_U;
}

static void by_invlpg(unsigned which)
{
    to_small(which ? PHYS_B : PHYS_A, 0);
    invlpg((void *)REMAP);
}
static void by_cr3_reload(unsigned which)
{
    to_small(which ? PHYS_B : PHYS_A, 0);
    write_cr3(read_cr3());
}
static void by_cr3_switch(unsigned which)
{
    write_cr3(roots[which]);
}
static void by_pcid(unsigned which)
{
    write_cr3(roots[which] | (which + 1) | 1ull << 63);
}
static void by_global(unsigned which)
{
    to_small(which ? PHYS_B : PHYS_A, PTE_G);
    write_cr3(read_cr3()); /* need not do */
    invlpg((void *)REMAP);
}
static void by_pge(unsigned which)
{
    to_small(which ? PHYS_B : PHYS_A, PTE_G);
    write_cr4(read_cr4() & ~0x80ull);
    write_cr4(read_cr4() | 0x80);
}
static void by_large(unsigned which)
{
    bool was_large = *large & PTE_PS;

    *large = (which ? PHYS_B : PHYS_A) | PTE_P | PTE_W | PTE_PS;
    invlpg((void *)(REMAP + (was_large ? 0x1ff000 : 0))); /* any page of it */
}
static void by_split(unsigned which)
{
    if (which) {
        to_small(PHYS_A, 0);
        invlpg((void *)REMAP);
        for (unsigned n = 0; n < 10; n++)
            CALL(REMAP);
        by_invlpg(1);
    } else {
        by_large(0);
    }
}
static void by_read_only(unsigned which)
{
    to_small(which ? PHYS_B : PHYS_A, 0);
    *large &= ~PTE_W; /* the entry above changes as well */
    invlpg((void *)REMAP);
}

static const struct {
    const char *name;
    void (*to)(unsigned which);
} methods[] = {
    {"INVLPG", by_invlpg},    {"CR3 reload", by_cr3_reload}, {"CR3 switch", by_cr3_switch},
    {"PCID switch", by_pcid}, {"global page", by_global},    {"PGE", by_pge},
    {"large page", by_large}, {"split", by_split},           {"table entry", by_read_only},
};

/* Ways into REMAP from the page before; each returns what REMAP's code returns. */
static const struct {
    const char *name;
    uint16_t at;
    uint8_t code[20];
} ways[] = {
    {"runs in", 0xffe, {0x90, 0x90}},
    {"jmp", 0x100, {0xe9, 0xfb, 0x0e}},
    {"short jmp", 0xfc0, {0xeb, 0x3e}},
    {"jc", 0x120, {0xf9, 0x0f, 0x82, 0xd9, 0x0e}},
    {"jnc not taken", 0xff0, {0xf9, 0x73, 0x02, 0xeb, 0x0b, 0xcc}},
    {"loop", 0xfd0, {0xb9, 2, 0, 0, 0, 0xe2, 0x29}},
    {"call", 0x140, {0xe8, 0xbb, 0x0e, 0, 0, 0xc3}},
    {"jmp rax", 0x160, {0x48, 0x8d, 0x05, 0x99, 0x0e, 0, 0, 0xff, 0xe0}},
    {"call rax", 0x180, {0x48, 0x8d, 0x05, 0x79, 0x0e, 0, 0, 0xff, 0xd0, 0xc3}},
    {"jmp m", 0x1a0, {0xff, 0x25, 0x5a, 0, 0, 0}}, /* 200h */
    {"ret", 0x1c0, {0x48, 0x8d, 0x05, 0x39, 0x0e, 0, 0, 0x50, 0xc3}},
    {"iret", 0x1e0, {0x48, 0x8d, 0x05, 0x19, 0x0e, 0, 0, 0xff, 0x25, 0x23, 0, 0, 0}}, /* by 210h */
};

void iret_to_rax(void);
__asm__("iret_to_rax: mov %rsp, %rcx; mov %ss, %edx; push %rdx; push %rcx; pushf; mov %cs, %edx;"
        "push %rdx; push %rax; iretq");

/* Two roots that lead REMAP to PHYS_A and PHYS_B. */
static void remap_start(void)
{
    uint64_t root = read_cr3(), *copy;

    map4k(STUB, PHYS + 0x10000, PTE_P | PTE_W);
    memset((void *)STUB, 0xcc, 4096);
    for (unsigned i = 0; i < COUNT(ways); i++) {
        unsigned len = 0;

        for (unsigned k = 0; k < sizeof(ways[i].code); k++)
            len = ways[i].code[k] ? k + 1 : len;
        len +=
            ways[i].name[0] == 'j' || ways[i].name[0] == 'i' ? 4 : 0; /* a displacement's zeros */
        if (ways[i].at + len > 0x1000)
            len = 0x1000u - ways[i].at;
        memcpy((void *)(STUB + ways[i].at), ways[i].code, len);
    }
    *(volatile uint64_t *)(STUB + 0x200) = REMAP;
    *(volatile uint64_t *)(STUB + 0x210) = (uintptr_t)iret_to_rax;
    emit_return((uint8_t *)PHYS_A, 1);
    emit_return((uint8_t *)PHYS_B, 2);
    pte(REMAP, 1);
    large = pte(REMAP, 2);
    small = (volatile uint64_t *)(uintptr_t)(*large & ~0xfffull);
    for (unsigned i = 0; i < 512; i++)
        small[i] = (PHYS_A + i * 4096) | PTE_P | PTE_W;
    by_invlpg(0);
    if (!roots[1]) {
        copy = page_alloc();
        memcpy(copy, (void *)root, 4096);
        copy[VA >> 39 & 511] = 0;
        roots[0] = root;
        roots[1] = (uintptr_t)copy;
        write_cr3(roots[1]);
        map4k(STUB, PHYS + 0x10000, PTE_P | PTE_W);
        map4k(REMAP, PHYS_B, PTE_P | PTE_W);
        write_cr3(roots[0]);
    }
    write_cr4(read_cr4() | 0x80 | (cpuid_reg(1, 2) & 1u << 17)); /* PGE, PCIDE */
}

static void remap_end(void)
{
    by_invlpg(0);
    write_cr3(roots[0]);
    write_cr4(read_cr4() & ~0x20080ull);
}

static void code_remapped(void)
{
    remap_start();
    for (unsigned m = 0; m < COUNT(methods); m++) {
        if (methods[m].to == by_pcid && !(read_cr4() & 1u << 17))
            continue;
        for (unsigned w = 0; w < COUNT(ways); w++)
            for (unsigned round = 0; round < 6; round++) {
                methods[m].to(round & 1);
                /* The first two rounds are cold. */
                for (unsigned n = 0; n < (round < 2 ? 1 : HOT / 4); n++)
                    if (!row_is(ways[w].name, CALL(STUB + ways[w].at), (round & 1) + 1)) {
                        fail_at(methods[m].name, round, 0);
                        goto out;
                    }
            }
        methods[m].to(0);
        by_invlpg(0);
    }
out:
    remap_end();
}

/* The code maps its own page elsewhere: what comes next is the other page's. */
static void page_changes_under_its_code(void)
{
    static const uint8_t code[] = {0x48, 0x89, 0x0a, 0x0f, 0x01, 0x3e, 0xb8}; /* mov; invlpg; mov */
    uint8_t *p;

    remap_start();
    for (unsigned i = 0; i < 2; i++) {
        p = (uint8_t *)(i ? PHYS_B : PHYS_A) + 0x80;
        memcpy(p, code, sizeof(code));
        p = emit32(p + sizeof(code), i + 1);
        EMIT(p, 0xc3);
    }
    for (unsigned n = 0; n < 2 * HOT; n++) {
        unsigned to = n < HOT ? 0 : n & 1; /* warm without a change; then every time */
        uintptr_t got;

        __asm__ volatile("call *%1"
                         : "=&a"(got)
                         : "r"(REMAP + 0x80), "c"((to ? PHYS_B : PHYS_A) | PTE_P | PTE_W),
                           "d"(small), "S"(REMAP)
                         : "memory");
        if (!row_is("next instruction", got, to + 1))
            break;
    }
    remap_end();
}

/* ---- permissions --------------------------------------------------------------------------------
 */

static void permissions_go_while_warm(void)
{
    static const struct {
        const char *name;
        uint64_t set, clear, error;
    } kinds[] = {
        {"absent", 0, PTE_P, 0x10},
        {"no-execute", PTE_NX, 0, 0x11},
        {"reserved bit", 1ull << 51, 0, 0x19},
        {"user page under SMEP", PTE_U, 0, 0x11},
    };

    remap_start();
    *pte(0, 4) &= ~PTE_U; /* the guest itself */
    write_cr3(read_cr3());
    if (cpuid_reg(7, 1) >> 7 & 1)
        write_cr4(read_cr4() | 1u << 20);
    for (unsigned k = 0; k < COUNT(kinds); k++) {
        if (kinds[k].set == PTE_U && !(read_cr4() & 1u << 20))
            continue;
        for (unsigned w = 0; w < COUNT(ways); w++)
            for (unsigned round = 0; round < 3; round++) {
                by_invlpg(0);
                for (unsigned n = 0; n < (round ? HOT / 2 : 0); n++)
                    if (!row_is(ways[w].name, CALL(STUB + ways[w].at), 1))
                        goto out;
                small[0] = (small[0] & ~kinds[k].clear) | kinds[k].set;
                invlpg((void *)REMAP);
                TRAP("call *%%rdx", .d = STUB + ways[w].at);
                if (!row_is(kinds[k].name, trap.error, kinds[k].error) ||
                    !row_is(ways[w].name, trap.ip, REMAP) || !row_is("CR2", trap.cr2, REMAP))
                    goto out;
                by_invlpg(0);
                row_is("back again", CALL(STUB + ways[w].at), 1);
            }
    }
out:
    write_cr4(read_cr4() & ~(1ull << 20));
    *pte(0, 4) |= PTE_U;
    remap_end(); /* flushes as well */
}

/* Ring 3: a warm loop calls a page that becomes the supervisor's. */
static void user_page_is_taken_away(void)
{
    static const uint8_t loop[] = {0xb9, HOT & 0xff, HOT >> 8, 0,    0,    0xe8, 0xf6, 0xf,
                                   0,    0,          0xff,     0xc9, 0x75, 0xf7, 0xcd, 0x80};

    for (unsigned i = 0; i < 2; i++)
        map4k(VA + i * 4096, PHYS + i * 4096, PTE_P | PTE_W | PTE_U);
    memcpy((void *)VA, loop, sizeof(loop));
    emit_return((uint8_t *)VA + 0x1000, 7);
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned n = 0; n < 3 && round; n++) {
            run_user((void (*)(void))VA);
            CHECK_EQ(trap.vector, 0x80);
        }
        map4k(VA + 0x1000, PHYS + 0x1000, PTE_P);
        row_is("in ring 0", CALL(VA + 0x1000), 7);
        run_user((void (*)(void))VA);
        CHECK_EQ(trap.error, 0x15);
        CHECK_EQ(trap.ip, VA + 0x1000);
        map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_U);
    }
}

/* The same code in both rings: CLI and a store to a supervisor's page. */
static void same_code_in_both_rings(void)
{
    static const uint8_t code[] = {0xfa, 0xc3}, store[] = {0xff, 0x04, 0x25, 0, 0, 0x80, 0, 0xc3};

    map4k(VA, PHYS, PTE_P | PTE_W | PTE_U);
    memcpy((void *)VA, code, sizeof(code));
    memcpy((void *)(VA + 0x10), store, sizeof(store)); /* incl 0x800000 */
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned n = 0; n < (round ? HOT : 0); n++) {
            CALL(VA);
            CALL(VA + 0x10);
        }
        run_user((void (*)(void))VA);
        CHECK_EQ(trap.vector, GP);
        CHECK_EQ(trap.ip, VA);
        *pte(0x800000, 1) &= ~PTE_U;
        invlpg((void *)0x800000);
        run_user((void (*)(void))(VA + 0x10));
        CHECK_EQ(trap.vector, PF);
        CHECK_EQ(trap.error, 7);
        CHECK_EQ(trap.ip, VA + 0x10);
    }
}

/* ---- instructions across two pages --------------------------------------------------------------
 */

/* Each returns 5 if the last byte of the instruction that crosses is as given, else something else.
 */
static const struct crossing {
    const char *name;
    uint8_t lead, len; /* bytes before the instruction, and of it */
    uint8_t flip;      /* the byte of it that is changed on the second page... */
    uint8_t delta;     /* ... by this much, and what then comes back */
    uint32_t then;
    uint8_t code[40];
} crossings[] = {
    {"movabs", 0, 10, 9, 1, 5, {0x48, 0xb8, 5, 0, 0, 0, 0, 0, 0, 0, 0xc3}},
    {"mov imm32", 0, 5, 4, 1, 0x01000005, {0xb8, 5, 0, 0, 0, 0xc3}},
    {"add with prefixes", 2, 7, 6, 2, 7, {0x31, 0xc0, 0x3e, 0x26, 0x2e, 0x36, 0x83, 0xc0, 5, 0xc3}},
    {"jmp rel32",
     0,
     5,
     1,
     6,
     6,
     {0xe9, 0, 0, 0, 0, 0xb8, 5, 0, 0, 0, 0xc3, 0xb8, 6, 0, 0, 0, 0xc3}},
    {"jcc rel32",
     1,
     6,
     2,
     6,
     6,
     {0xf8, 0x0f, 0x83, 0, 0, 0, 0, 0xb8, 5, 0, 0, 0, 0xc3, 0xb8, 6, 0, 0, 0, 0xc3}},
    {"call rel32",
     0,
     5,
     1,
     7,
     6,
     {0xe8, 1, 0, 0, 0, 0xc3, 0xb8, 5, 0, 0, 0, 0xc3, 0xcc, 0xb8, 6, 0, 0, 0, 0xc3}},
    {"jmp rel8", 0, 2, 1, 6, 6, {0xeb, 0, 0xb8, 5, 0, 0, 0, 0xc3, 0xb8, 6, 0, 0, 0, 0xc3}},
    {"lea rip",
     0,
     7,
     3,
     0,
     0,
     {0x48, 0x8d, 0x05, 0xfa, 0xff, 0xff, 0xff, 0x25, 0, 0, 0, 0, 0x83, 0xc0, 5, 0xc3}},
    {"inc eax", 5, 2, 1, 8, 3, {0xb8, 4, 0, 0, 0, 0xff, 0xc0, 0xc3}}, /* dec */
};

static void across_pages(const struct crossing *c, unsigned split)
{
    uint8_t *start = (uint8_t *)VA + 0x1000 - split - c->lead;
    uint8_t *flip = (uint8_t *)ALIAS + 0x1000 - split + c->flip;
    bool second = c->flip >= split;

    window();
    map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
    memcpy(start, c->code, sizeof(c->code));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned n = 0; n < (round ? HOT / 4 : 1); n++)
            if (!row_is(c->name, CALL(start), 5))
                return;
        if (c->delta) {
            *(volatile uint8_t *)flip += c->delta; /* by the other address of the page */
            row_is(c->name, (uint32_t)CALL(start), c->then);
            *(volatile uint8_t *)flip -= c->delta;
            row_is(c->name, CALL(start), 5);
        }
        if (c->delta && second) { /* the second page becomes another one */
            memcpy((void *)(VA + 0x3000), (void *)(VA + 0x1000), 4096);
            *(volatile uint8_t *)(flip + 0x2000) += c->delta;
            map4k(VA + 0x1000, PHYS + 0x3000, PTE_P);
            for (unsigned n = 0; n < (round ? HOT / 4 : 1); n++)
                if (!row_is(c->name, (uint32_t)CALL(start), c->then))
                    return;
            map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
            row_is(c->name, CALL(start), 5);
        }
        for (unsigned kind = 0; kind < 2; kind++) { /* and goes away, or may not be executed */
            map4k(VA + 0x1000, PHYS + 0x1000, kind ? PTE_P | PTE_NX : 0);
            TRAP("call *%%rdx", .d = (uintptr_t)start);
            row_is("vector", trap.vector, PF);
            row_is("error", trap.error, kind ? 0x11 : 0x10);
            row_is("CR2", trap.cr2, VA + 0x1000);
            row_is("IP", trap.ip, (uintptr_t)start + c->lead);
            map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
            row_is("back", CALL(start), 5);
        }
    }
}

static void instructions_across_pages(void)
{
    for (unsigned i = 0; i < COUNT(crossings); i++)
        for (unsigned split = 1; split < crossings[i].len; split++)
            across_pages(&crossings[i], split);
}

/* A jump and a RET that end with the page do not look at the next one. */
static void nothing_is_fetched_beyond_a_jump(void)
{
    window();
    map4k(VA + 0x1000, 0, 0);
    emit_return((uint8_t *)VA + 0xffa, 9);
    *(volatile uint16_t *)(VA + 0xfd0) = 0x28eb; /* jmp 0xffa */
    for (unsigned n = 0; n < HOT; n++)
        if (!row_is("ret", CALL(VA + 0xffa), 9) || !row_is("jmp", CALL(VA + 0xfd0), 9))
            return;
    *(volatile uint16_t *)(VA + 0xffe) = 0xd0eb; /* jmp 0xfd0 */
    emit_return((uint8_t *)VA + 0xfd0, 3);
    for (unsigned n = 0; n < HOT; n++)
        if (!row_is("jmp at the end", CALL(VA + 0xffe), 3))
            return;
    map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
}

const struct guest_case guest_cases[] = {
    {"code at two addresses", code_at_two_addresses},
    {"code remapped", code_remapped},
    {"a page changes under its code", page_changes_under_its_code},
    {"permissions go while warm", permissions_go_while_warm},
    {"a user page is taken away", user_page_is_taken_away},
    {"same code in both rings", same_code_in_both_rings},
    {"instructions across pages", instructions_across_pages},
    {"nothing fetched beyond a jump", nothing_is_fetched_beyond_a_jump},
};
const unsigned guest_ncases = COUNT(guest_cases);
