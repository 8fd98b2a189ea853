/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ring 3 code of which the same pages run at several addresses, as libraries do: everything that
 * depends on the address is that of the place that runs, whoever ran there before. SDM vol. 1 3.5,
 * vol. 3A 4.10.4.
 */
#include "rt/hot.h"

#define PHYS   0x2000000ull /* code */
#define OTHER  0x2100000ull /* its pages once more, with other constants */
#define DATA   0x2200000ull /* a page per place */
#define PAGES  2u           /* of code; then one of data, and one that is absent */
#define ROUNDS 300u

/* Two pages of code that run anywhere; what they find and leave is in the data page behind them. */
__asm__(".pushsection .text\n"
        ".balign 4096\n"
        "image: lea image(%rip), %rax\n"
        "   mov %rax, i_data(%rip)\n"
        "   mov i_data+0x100(%rip), %rcx\n"
        "   mov %rcx, i_data+8(%rip)\n"
        "   xor %ebx, %ebx\n"
        "   mov $20, %ebp\n"
        "1: add i_step(%rip), %rbx\n"
        "   call i_near\n"
        "   call i_far\n"
        "   dec %ebp\n"
        "   jnz 1b\n"
        "   mov %rbx, i_data+16(%rip)\n"
        "   lea 2f(%rip), %rax\n"
        "   jmp *%rax\n"
        "   int3\n"
        "2: lea 3f(%rip), %rdx\n"
        "   push %rdx\n"
        "   ret\n"
        "   int3\n"
        "3: call *i_data+0x108(%rip)\n"
        "i_called: mov %rax, i_data+24(%rip)\n"
        "   syscall\n"
        "i_served: mov %rcx, i_data+32(%rip)\n"
        "   mov 1b(%rip), %eax\n" /* of the code page; it is thrown away */
        "   lea -1(%rip), %r13\n" /* a register that has no host register */
        "i_r13: mov %r13, i_data+40(%rip)\n"
        "   lea image(%eip), %rax\n"
        "   mov %rax, i_data+48(%rip)\n"
        "   stc\n"
        "   jc i_far_jump\n"
        "   int3\n"
        "i_back: jmp i_end\n"
        "i_near: add $0x10000, %rbx\n"
        "   ret\n"
        "i_patched: mov $0, %eax\n"
        "   ret\n"
        "   .balign 8\n"
        "i_step: .quad 3\n"
        "i_x87: xor %eax, %eax\n"
        "   jz 1f\n"
        "   int3\n"
        "1: fninit\n"
        "   fldpi\n"
        "   lea 1f(%rip), %rax\n"
        "   fnop\n"
        "1: fstp %st\n"
        "   mov $30, %ecx\n"
        "2: fld1\n"
        "i_last_x87: fstp %st\n"
        "   loop 2b\n"
        "   jmp i_x87_end\n"
        "   .org image + 0xff8, 0x90\n"
        "i_end: nop\n"
        "   .org image + 0xffc, 0x90\n"
        "   movabs $0x1122334455667788, %rax\n"
        "   mov %rax, i_data+56(%rip)\n"
        "   int $0x80\n"
        "i_far: mov (%rsp), %rax\n"
        "   add i_far_step(%rip), %rbx\n"
        "i_imm: add $0x1000000, %rbx\n"
        "   ret\n"
        "i_far_jump: jmp i_back\n"
        "i_x87_end: fnstenv i_data+0x200(%rip)\n"
        "   int $0x80\n"
        "i_fault: mov $7, %eax\n"
        "   push %rax\n"
        "   mov %rax, i_data+64(%rip)\n"
        "i_faults: addb $1, i_hole+5(%rip)\n"
        "   int $0x80\n"
        "i_write: mov i_data+0x110(%rip), %eax\n"
        "   mov %eax, i_patched+1(%rip)\n"
        "i_read: call i_patched\n"
        "   mov %rax, i_data+72(%rip)\n"
        "   int $0x80\n"
        "i_up: jmp i_hole+4096\n"
        "i_down: jmp image-4096\n"
        "   .balign 8\n"
        "i_far_step: .quad 100\n"
        "   .balign 4096\n"
        "i_data: .fill 4096\n"
        "i_hole:\n"
        ".popsection\n");
extern uint8_t image[], i_r13[], i_called[], i_served[], i_near[], i_far[], i_imm[], i_step[],
    i_far_step[], i_fault[], i_faults[], i_write[], i_read[], i_patched[], i_x87[], i_last_x87[],
    i_up[], i_down[], i_hole[];

#define AT(place, label) ((place) + (uintptr_t)((label)-image))
#define IN(pages, label) ((volatile uint64_t *)AT(pages, label))

void served(void);
__asm__("served: sysretq");

/* Some are alike in their low bits; the last two are where other addresses begin. */
static const uintptr_t places[] = {0x10000000000,     0x1000007b000,      0x7f3456789000,
                                   0x20000000000,     0xffff900000a00000, 0x7fffffffc000,
                                   0xffff800000000000};
#define NPLACES COUNT(places)

static volatile uint64_t *data_of(unsigned n)
{
    return (uint64_t *)(DATA + n * 4096);
}

static void map_code(unsigned n, unsigned page, uint64_t from, uint64_t bits)
{
    map4k(places[n] + page * 4096, from + page * 4096, PTE_P | PTE_W | bits);
}

static void start(void)
{
    wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
    wrmsr(0xc0000081, (uint64_t)(SEL_UDATA - 8) << 48 | (uint64_t)SEL_CODE << 32);
    wrmsr(0xc0000082, (uintptr_t)served);
    wrmsr(0xc0000084, 0);
    memcpy((void *)PHYS, image, PAGES * 4096);
    memcpy((void *)OTHER, image, PAGES * 4096);
    *IN(OTHER, i_step) = 5;
    *IN(OTHER, i_far_step) = 1000;
    *(volatile uint32_t *)(AT(OTHER, i_near) + 3) = 0x20000;
    *(volatile uint32_t *)(AT(OTHER, i_imm) + 3) = 0x2000000;
    for (unsigned n = 0; n < NPLACES; n++) {
        for (unsigned page = 0; page < PAGES; page++)
            map_code(n, page, PHYS, PTE_U);
        map4k(places[n] + PAGES * 4096, DATA + n * 4096, PTE_P | PTE_W | PTE_U);
        map4k(places[n] + (PAGES + 1) * 4096, 0, 0);
    }
}

static bool enter(unsigned n, const uint8_t *label)
{
    run_user((void (*)(void))AT(places[n], label));
    return row_is("place", n, n) && row_is("vector", trap.vector, 0x80);
}

/* What each page adds to the sum in one turn. */
#define FIRST(step)  ((step) + 0x10000)
#define SECOND(step) ((step) + 0x1000000)

/* All of it once, with pages that add so much. */
static bool runs(unsigned n, uint64_t first, uint64_t second)
{
    volatile uint64_t *d = data_of(n);
    uintptr_t place = places[n];

    memset((void *)d, 0xee, 128);
    d[0x100 / 8] = 0x1234567 * n;
    d[0x108 / 8] = AT(place, i_far);
    return enter(n, image) && row_is("its address", d[0], place) &&
           row_is("its data", d[1], 0x1234567 * n) &&
           row_is("its sum", d[2], 20 * (first + second)) &&
           row_is("return address", d[3], AT(place, i_called)) &&
           row_is("RCX of SYSCALL", d[4], AT(place, i_served)) &&
           row_is("R13", d[5], AT(place, i_r13) - 1) &&
           row_is("32-bit address", d[6], (uint32_t)place) &&
           row_is("across pages", d[7], 0x1122334455667788);
}

static bool all_run(unsigned rounds)
{
    for (unsigned k = 0; k < rounds; k++)
        if (!runs(k % NPLACES, FIRST(3), SECOND(100)))
            return false;
    return true;
}

/* ---- cases --------------------------------------------------------------------------------------
 */

static void each_in_turn(void)
{
    start();
    for (unsigned n = 0; n < NPLACES; n++) /* one after the other, as processes come and go */
        for (unsigned k = 0; k < ROUNDS / 2; k++)
            if (!runs(n, FIRST(3), SECOND(100)) ||
                (n && k % 8 == 0 && !runs(n - 1, FIRST(3), SECOND(100))))
                return;
    all_run(ROUNDS);
}

static void faults_are_where_they_happen(void)
{
    start();
    for (unsigned k = 0; k < ROUNDS; k++) {
        unsigned n = k < ROUNDS / 4 ? 0 : k % NPLACES;

        data_of(n)[8] = 0;
        run_user((void (*)(void))AT(places[n], i_fault));
        if (!row_is("vector", trap.vector, PF) || !row_is("error", trap.error, 6) ||
            !row_is("RIP", trap.ip, AT(places[n], i_faults)) ||
            !row_is("CR2", trap.cr2, AT(places[n], i_hole) + 5) ||
            !row_is("store", data_of(n)[8], 7))
            return;
    }
}

static void code_written_at_one_place(void)
{
    start();
    for (unsigned k = 0; k < 2 * ROUNDS; k++) {
        unsigned n = k % NPLACES, m = k / NPLACES % NPLACES;

        if (k % 50 == 0) { /* by one of them, or by ring 0 */
            data_of(n)[0x110 / 8] = k;
            if (k % 100 == 0 && !enter(n, i_write))
                return;
            *(volatile uint32_t *)(AT(PHYS, i_patched) + 1) = k;
        }
        if (!enter(m, i_read) || !row_is("patched", data_of(m)[9], k - k % 50))
            return;
    }
    for (unsigned k = 0; k < 4 * ROUNDS; k++) {
        uint64_t step = k / 40;

        *IN(PHYS, i_step) = step;
        if (!runs(k % NPLACES, FIRST(step), SECOND(100)))
            return;
    }
}

static void places_change_their_pages(void)
{
    start();
    if (!all_run(ROUNDS))
        return;
    for (unsigned k = 0; k < 40; k++) {
        unsigned n = k % NPLACES, which = k / 2 % 3 + 1; /* one page, the other, both */

        for (unsigned page = 0; page < PAGES; page++)
            map_code(n, page, which >> page & 1 ? OTHER : PHYS, PTE_U);
        for (unsigned i = 0; i < 60; i++) {
            unsigned m = i % 3 ? n : i % NPLACES;
            unsigned other = m == n ? which : 0;

            if (!runs(m, other & 1 ? FIRST(5) + 0x10000 : FIRST(3),
                      other & 2 ? SECOND(1000) + 0x1000000 : SECOND(100)))
                return;
        }
        for (unsigned page = 0; page < PAGES; page++)
            map_code(n, page, PHYS, PTE_U);
        if (!runs(n, FIRST(3), SECOND(100)))
            return;
    }
}

static void pages_are_taken_away(void)
{
    start();
    if (!all_run(ROUNDS))
        return;
    for (unsigned k = 0; k < 60; k++) {
        unsigned n = k % NPLACES, page = k / 7 & 1;

        map_code(n, page, PHYS, 0); /* the supervisor's */
        for (unsigned m = 0; m < NPLACES; m++) /* in the same slots of any table */
            if (m != n && !runs(m, FIRST(3), SECOND(100)))
                return;
        run_user((void (*)(void))places[n]);
        if (!row_is("vector", trap.vector, PF) || !row_is("error", trap.error, 0x15) ||
            !row_is("RIP", trap.ip, page ? AT(places[n], i_far) : places[n]))
            return;
        map_code(n, page, PHYS, PTE_U);
        if (!all_run(2 * NPLACES))
            return;
    }
}

/* At the ends of the canonical addresses a jump faults where it is, elsewhere where it leads. */
static void jumps_to_where_nothing_is(void)
{
    start();
    for (unsigned k = 0; k < ROUNDS; k++) {
        unsigned n = k < ROUNDS / 4 ? k % 3 : k % NPLACES;
        bool up = k / NPLACES % 2;
        uintptr_t from = AT(places[n], up ? i_up : i_down);
        uintptr_t to = AT(places[n], up ? i_hole : image) + (up ? 4096 : -4096ull);
        bool canonical = (to + (1ull << 47)) >> 48 == 0;

        run_user((void (*)(void))from);
        if (!row_is("vector", trap.vector, canonical ? PF : GP) ||
            !row_is("error", trap.error, canonical ? 0x14 : 0) ||
            !row_is("RIP", trap.ip, canonical ? to : from))
            return;
    }
}

/* The address of the last x87 instruction: FNSTENV's image has 32 bits of it. */
static void x87_pointer(void)
{
    start();
    for (unsigned k = 0; k < ROUNDS; k++) {
        unsigned n = k < ROUNDS / 4 ? 0 : k % NPLACES;
        volatile uint32_t *env = (uint32_t *)data_of(n) + 0x200 / 4;

        env[3] = 0;
        if (!enter(n, i_x87) || !row_is("FIP", env[3], (uint32_t)AT(places[n], i_last_x87)))
            return;
    }
}

/*
 * A block that ends with SYSCALL, on a page that becomes the supervisor's and runs in ring 0: ring
 * 3 does not get there, by a jump that has led there often.
 */
static void page_of_a_system_call_is_taken_away(void)
{
    static const uint8_t call[] = {0x31, 0xc0, 0xff, 0xe3}; /* xor eax, eax; jmp rbx */
    const uintptr_t va = 0x30000000000, to = va + 0x1100;
    uint8_t *p = (uint8_t *)PHYS;

    start();
    for (unsigned i = 0; i < 2; i++)
        map4k(va + i * 4096, PHYS + i * 4096, PTE_P | PTE_W | PTE_U);
    EMIT(p, 0x48, 0xbb); /* mov rbx, to; mov eax, 1; jmp rbx */
    p = emit64(p, to);
    EMIT(p, 0xb8, 1, 0, 0, 0, 0xff, 0xe3);
    memcpy((void *)(PHYS + 0x80), call, sizeof(call));
    p = (uint8_t *)PHYS + 0x1100;
    /* test eax, eax; jz; syscall; int 80h; ret */
    EMIT(p, 0x85, 0xc0, 0x74, 4, 0x0f, 0x05, 0xcd, 0x80, 0xc3);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned k = 0; k < ROUNDS; k++) {
            run_user((void (*)(void))va);
            if (!row_is("vector", trap.vector, 0x80))
                return;
        }
        map4k(va + 4096, PHYS + 4096, PTE_P | PTE_W);
        for (unsigned k = 0; k < 3; k++)
            __asm__ volatile("call *%0" : : "r"(to), "a"(0) : "memory", "cc");
        run_user((void (*)(void))va);
        if (!row_is("vector", trap.vector, PF) || !row_is("error", trap.error, 0x15) ||
            !row_is("RIP", trap.ip, to))
            return;
        map4k(va + 4096, PHYS + 4096, PTE_P | PTE_W | PTE_U);
    }
}

const struct guest_case guest_cases[] = {
    {"each place in turn", each_in_turn},
    {"faults are where they happen", faults_are_where_they_happen},
    {"code written at one place", code_written_at_one_place},
    {"places change their pages", places_change_their_pages},
    {"pages are taken away", pages_are_taken_away},
    {"jumps to where nothing is", jumps_to_where_nothing_is},
    {"x87 pointer", x87_pointer},
    {"page of a system call is taken away", page_of_a_system_call_is_taken_away},
};
const unsigned guest_ncases = COUNT(guest_cases);
