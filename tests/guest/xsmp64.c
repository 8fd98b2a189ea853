/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several processors at the same code and data, in hot loops: locked counters of every kind, the
 * order of loads and stores, cross-modified code, TLB shootdown, pages that turn from data to code
 * and back. For as many processors as there are. SDM vol. 3A 8.1.3, 8.2, 4.10.5.
 */
#include "rt/smp.h"

#define VA   0x10000000000ull
#define PHYS 0x2000000ull

static void starts(void)
{
    smp_start();
    CHECK(cpus >= 2);
}

/* ---- locked counters ------------------------------------------------------------------------- */

static uint8_t area[8192] __attribute__((aligned(4096)));
static volatile uint64_t *cell;
static unsigned which, rounds;

#define ADDERS(X)                                                                                             \
    X(inc8, 1, "lock incb (%%rdi)")                                                                           \
    X(add16, 2, "lock addw $1, (%%rdi)")                                                                      \
    X(inc32, 4, "lock incl (%%rdi)")                                                                          \
    X(add64, 8, "lock addq $1, (%%rdi)")                                                                      \
    X(sub64, 8, "lock subq $-1, (%%rdi)")                                                                     \
    X(adc64, 8, "stc; lock adcq $0, (%%rdi)")                                                                 \
    X(xadd64, 8, "mov $1, %%eax; lock xadd %%rax, (%%rdi)")                                                   \
    X(xadd16, 2, "mov $1, %%eax; lock xadd %%ax, (%%rdi)")                                                    \
    X(cmpxchg64, 8,                                                                                           \
      "mov (%%rdi), %%rax; 1: lea 1(%%rax), %%rcx; lock cmpxchg %%rcx, (%%rdi); jne 1b")                      \
    X(cmpxchg32, 4,                                                                                           \
      "mov (%%rdi), %%eax; 1: lea 1(%%rax), %%ecx; lock cmpxchg %%ecx, (%%rdi); jne 1b")                      \
    X(cmpxchg8, 1,                                                                                            \
      "mov (%%rdi), %%al; 1: lea 1(%%rax), %%ecx; lock cmpxchg %%cl, (%%rdi); jne 1b")                        \
    X(cmpxchg8b, 8,                                                                                           \
      "mov (%%rdi), %%eax; mov 4(%%rdi), %%edx; 1: mov %%eax, %%ebx; mov %%edx, %%ecx; add $1, %%ebx;"        \
      "adc $0, %%ecx; lock cmpxchg8b (%%rdi); jne 1b")                                                        \
    X(bts_xchg, 8,                                                                                            \
      "1: lock btsq $63, (%%rdi); jc 1b; mov (%%rdi), %%rax; inc %%rax; btr $63, %%rax; xchg %%rax, (%%rdi)") \
    X(xchg_lock, 8,                                                                                           \
      "1: mov $1, %%eax; xchg %%eax, 16(%%rdi); test %%eax, %%eax; jnz 1b; mov (%%rdi), %%rax;"               \
      "inc %%rax; mov %%rax, (%%rdi); movl $0, 16(%%rdi)")

#define ADDER_CODE(id, size, code)                                                             \
    static void ad_##id(unsigned cpu)                                                          \
    {                                                                                          \
        (void)cpu;                                                                             \
        for (unsigned i = 0; i < rounds; i++)                                                  \
            __asm__ volatile(code : : "D"(cell) : "rax", "rbx", "rcx", "rdx", "memory", "cc"); \
    }
#define ADDER_ROW(id, size, code) {#id, ad_##id, size},
ADDERS(ADDER_CODE)
static const struct {
    const char *name;
    task_fn *run;
    unsigned size;
} adders[] = {ADDERS(ADDER_ROW)};

static void locked_counters(void)
{
    static const unsigned places[] = {0, 1, 60, 61, 4092, 4093};

    for (which = 0; which < COUNT(adders); which++)
        for (unsigned p = 0; p < COUNT(places); p++) {
            unsigned size = adders[which].size, at = places[p];
            uint64_t mask = size == 8 ? -1ull : (1ull << size * 8) - 1;

            /* Across lines and pages it stops the world. */
            rounds = (at & 63) + size > 64 ? 300 : 10 * HOT;
            cell = (volatile uint64_t *)(area + at);
            memset(area, 0, sizeof(area));
            if (!everywhere(adders[which].run) ||
                !row_is(adders[which].name, *cell & mask, (uint64_t)cpus * rounds & mask)) {
                fail_at("at", at, size);
                return;
            }
        }
}

static volatile uint64_t cell16[2] __attribute__((aligned(16)));
static void add16b(unsigned cpu)
{
    (void)cpu;
    for (unsigned i = 0; i < 10 * HOT; i++)
        __asm__ volatile("mov %0, %%rax; mov 8+%0, %%rdx; 1: mov %%rax, %%rbx; mov %%rdx, %%rcx;"
                         "add $-1, %%rbx; adc $2, %%rcx; lock cmpxchg16b %0; jne 1b"
                         : "+m"(cell16[0])
                         :
                         : "rax", "rbx", "rcx", "rdx", "memory", "cc");
}

static void locked_16_bytes(void)
{
    everywhere(add16b);
    CHECK_EQ(cell16[0], -(uint64_t)cpus * 10 * HOT);
    CHECK_EQ(cell16[1], (uint64_t)cpus * 10 * HOT * 3 - 1);
}

/* ---- the order of loads and stores ----------------------------------------------------------- */

/*
 * Each round uses cells of its own, so that nothing is reset: x[i], y[i]. Processors 0 and 1 play;
 * the others, if any, load the machine.
 */
#define LITMUS 20000u
static volatile uint32_t litmus_x[LITMUS], litmus_y[LITMUS], saw[2][LITMUS], litmus_over[2];

static void litmus_sync(unsigned cpu, unsigned i)
{
    /* Side by side, but not for long: the other may not be running. */
    litmus_over[cpu] = i;
    for (unsigned n = 0; n < 200 && litmus_over[!cpu] < i; n++)
        ;
}

static void store_buffering(unsigned cpu)
{
    if (cpu > 1)
        return;
    for (unsigned i = 0; i < LITMUS; i++) {
        litmus_sync(cpu, i);
        if (cpu)
            __asm__ volatile("movl $1, %1; mfence; mov %2, %%eax; mov %%eax, %0"
                             : "=m"(saw[1][i]), "=m"(litmus_y[i])
                             : "m"(litmus_x[i])
                             : "rax", "memory");
        else
            __asm__ volatile("mov $1, %%eax; xchg %%eax, %1; mov %2, %%eax; mov %%eax, %0"
                             : "=m"(saw[0][i]), "+m"(litmus_x[i])
                             : "m"(litmus_y[i])
                             : "rax", "memory");
    }
}

static void load_buffering(unsigned cpu)
{
    if (cpu > 1)
        return;
    for (unsigned i = 0; i < LITMUS; i++) {
        litmus_sync(cpu, i);
        if (cpu)
            __asm__ volatile("mov %1, %%eax; movl $1, %2; mov %%eax, %0"
                             : "=m"(saw[1][i])
                             : "m"(litmus_x[i]), "m"(litmus_y[i])
                             : "rax", "memory");
        else
            __asm__ volatile("mov %1, %%eax; movl $1, %2; mov %%eax, %0"
                             : "=m"(saw[0][i])
                             : "m"(litmus_y[i]), "m"(litmus_x[i])
                             : "rax", "memory");
    }
}

/* The writer goes through the cells, x first; the reader looks at y first. */
static void message_passing(unsigned cpu)
{
    if (cpu == 1) {
        for (unsigned i = 0; i < LITMUS; i++)
            __asm__ volatile("movl $1, %0; movl $1, %1"
                             : "=m"(litmus_x[i]), "=m"(litmus_y[i])
                             :
                             : "memory");
    } else if (cpu == 0) {
        for (unsigned i = 0; i < LITMUS; i++) {
            for (unsigned n = 0; n < 1000 && !litmus_y[i]; n++)
                ;
            __asm__ volatile("mov %2, %%eax; mov %3, %%ecx; mov %%eax, %0; mov %%ecx, %1"
                             : "=m"(saw[0][i]), "=m"(saw[1][i])
                             : "m"(litmus_y[i]), "m"(litmus_x[i])
                             : "rax", "rcx", "memory");
        }
    }
}

static void litmus(const char *name, task_fn *fn, uint32_t bad0, uint32_t bad1)
{
    memset((void *)litmus_x, 0, sizeof(litmus_x));
    memset((void *)litmus_y, 0, sizeof(litmus_y));
    litmus_over[0] = litmus_over[1] = 0;
    everywhere(fn);
    for (unsigned i = 0; i < LITMUS; i++) {
        if (saw[0][i] == bad0 && saw[1][i] == bad1) {
            fail_at(name, i, LITMUS);
            return;
        }
    }
}

static void order_of_loads_and_stores(void)
{
    litmus("store buffering", store_buffering, 0, 0);
    litmus("load buffering", load_buffering, 1, 1);
    litmus("message passing", message_passing, 1, 0);
}

/* A ring: plain stores of data, then of an index. */
static volatile uint64_t ring[16], ring_head, ring_tail, ring_bad;
static void ring_task(unsigned cpu)
{
    if (cpu == 1)
        for (uint64_t i = 0; i < 10 * HOT; i++) {
            while (i - ring_tail >= 16)
                relax();
            ring[i % 16] = i * 0x0101010101010101;
            ring_head = i + 1;
        }
    else if (cpu == 0)
        for (uint64_t i = 0; i < 10 * HOT; i++) {
            while (ring_head == i)
                relax();
            if (ring[i % 16] != i * 0x0101010101010101)
                ring_bad++;
            ring_tail = i + 1;
        }
}

static void producer_and_consumer(void)
{
    everywhere(ring_task);
    CHECK_EQ(ring_bad, 0);
}

/* An aligned word is stored and loaded in one piece; so are 8 bytes inside a line. */
static volatile uint64_t whole[8] __attribute__((aligned(64))), torn;
static void whole_task(unsigned cpu)
{
    for (unsigned i = 0; i < 20 * HOT; i++) {
        if (cpu & 1) {
            whole[1] = i & 1 ? -1ull : 0;
            *(volatile uint64_t *)((uint8_t *)whole + 35) = i & 1 ? -1ull : 0;
        } else {
            uint64_t a = whole[1], b = *(volatile uint64_t *)((uint8_t *)whole + 35);

            if (a + 1 > 1 || b + 1 > 1)
                torn = a + 1 > 1 ? a : b;
        }
    }
}

static void words_in_one_piece(void)
{
    everywhere(whole_task);
    CHECK_EQ(torn, 0);
}

/* ---- code ------------------------------------------------------------------------------------ */

static volatile uint32_t code_round, code_wrong, code_ready;
static volatile uint8_t *code;

static void serialise(void)
{
    uint32_t a = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

/* The runners leave the code alone from a round's end to the next one's start. */
#define CODE_ROUNDS 60u
static void run_and_wait(unsigned cpu)
{
    (void)cpu;
    for (uint32_t n = 1; n <= CODE_ROUNDS; n++) {
        while (code_round != n)
            relax();
        serialise();
        for (unsigned i = 0; i < HOT; i++)
            if (CALL(code) != 3 * n)
                code_wrong = n;
        __asm__ volatile("lock incl %0" : "+m"(code_ready));
    }
}

static void cross_modified_code(void)
{
    static const uint8_t bytes[] = {0xb8, 0, 0, 0, 0, 0xeb, 0x79, 0x90}; /* mov; jmp to 80h */

    map4k(VA, PHYS, PTE_P | PTE_W);
    code = (uint8_t *)VA;
    memcpy((void *)VA, bytes, sizeof(bytes));
    memcpy((void *)(VA + 0x80), "\x05\0\0\0\0\xc3", 6); /* add, ret */
    code_round = code_ready = code_wrong = 0;
    on_others(run_and_wait);
    for (uint32_t n = 1; n <= CODE_ROUNDS; n++) {
        *(volatile uint32_t *)(VA + 1) = n;
        *(volatile uint32_t *)(VA + 0x81) = 2 * n;
        code_ready = 0;
        code_round = n;
        if (!until(&code_ready, cpus - 1))
            return;
    }
    join();
    CHECK_EQ(code_wrong, 0);
}

/* Code that is changed while it is run, as SDM vol. 3A 9.1.3 does not forbid: one aligned byte. */
static volatile uint32_t live_stop, live_bad, live_last[MAX_CPUS];
static void run_live(unsigned cpu)
{
    while (!live_stop) {
        uint32_t v = (uint32_t)CALL(code);

        if (v > 200)
            live_bad = v;
    }
    serialise();
    live_last[cpu] = (uint32_t)CALL(code);
}

static void code_changed_while_it_runs(void)
{
    emit_return((uint8_t *)VA, 0);
    live_stop = live_bad = 0;
    on_others(run_live);
    for (uint32_t n = 1; n <= 200; n++) {
        *(volatile uint8_t *)(VA + 1) = (uint8_t)n;
        for (unsigned i = 0; i < HOT; i++)
            relax();
        if (!row_is("its own", CALL(VA), n))
            break;
    }
    live_stop = 1;
    join();
    CHECK_EQ(live_bad, 0);
    for (unsigned i = 1; i < cpus; i++)
        CHECK_EQ(live_last[i], 200);
}

/* INT3 is put over the first byte, the rest is changed, the first byte put back; as Linux does it.
 */
static volatile uint32_t poked_traps;
static bool poke_hook(struct frame *f)
{
    if (f->vector == 0x71) {
        __asm__ volatile("lock incl %0" : "+m"(code_ready));
        serialise();
        lapic_w(0xb0, 0);
        return true;
    }
    if (f->vector != BP)
        return false;
    __asm__ volatile("lock incl %0" : "+m"(poked_traps));
    f->ip -= 1; /* tries again */
    return true;
}

static void run_poked(unsigned cpu)
{
    (void)cpu;
    __asm__ volatile("sti");
    while (!live_stop) {
        uint32_t v = (uint32_t)CALL(code);

        if (v % 0x01010101) /* one half old, one new */
            live_bad = v;
    }
    __asm__ volatile("cli");
}

static bool sync_others(void)
{
    code_ready = 0;
    ipi(0xc4071, 0);
    return until(&code_ready, cpus - 1);
}

static void code_poked_by_int3(void)
{
    uint8_t *at = (uint8_t *)VA + 0xffd; /* across two pages */

    map4k(VA + 0x1000, PHYS + 0x1000, PTE_P | PTE_W);
    emit_return(at, 0);
    code = at;
    live_stop = live_bad = 0;
    trap_hook = poke_hook;
    on_others(run_poked);
    for (uint32_t n = 1; n <= 40; n++) {
        *(volatile uint8_t *)at = 0xcc;
        if (!sync_others())
            break;
        for (unsigned i = 1; i < 5; i++)
            ((volatile uint8_t *)at)[i] = (uint8_t)n;
        if (!sync_others())
            break;
        *(volatile uint8_t *)at = 0xb8;
        if (!sync_others())
            break;
        row_is("its own", CALL(at), 0x01010101 * n);
    }
    live_stop = 1;
    join();
    trap_hook = NULL;
    CHECK_EQ(live_bad, 0);
}

/* Others write to the page all the time, next to the code that comes and goes in it. */
static void write_next_to_code(unsigned cpu)
{
    volatile uint64_t *p = (volatile uint64_t *)(VA + 0x800 + 8 * cpu);

    while (!live_stop)
        ++*p;
    live_last[cpu] = (uint32_t)*p;
}

static void page_turns_from_data_to_code_and_back(void)
{
    uint32_t before[MAX_CPUS];

    live_stop = 0;
    on_others(write_next_to_code);
    for (uint32_t n = 1; n <= 150; n++) {
        emit_return((uint8_t *)VA + 0x100, n);
        for (unsigned i = 0; i < 100; i++)
            if (!row_is("code", CALL(VA + 0x100), n))
                n = 1000;
        for (unsigned i = 0; i < 4096; i += 8) /* data again, all of it but the counters */
            if (i < 0x800 || i >= 0x840)
                *(volatile uint64_t *)(VA + i) = n;
        for (unsigned i = 1; i < cpus; i++) {
            uint32_t now = (uint32_t) * (volatile uint64_t *)(VA + 0x800 + 8 * i);

            if (n > 1 && now < before[i])
                row_is("a store was lost", now, before[i]);
            before[i] = now;
        }
    }
    live_stop = 1;
    join();
    for (unsigned i = 1; i < cpus; i++)
        CHECK_EQ(*(volatile uint64_t *)(VA + 0x800 + 8 * i), live_last[i]);
}

/* ---- mappings -------------------------------------------------------------------------------- */

#define MAPPED    (VA + 0x10000)   /* not in anybody's TLB yet */
#define DATA_PAGE (PHYS + 0x10000) /* and the one behind it */
#define CODE_PAGE (PHYS + 0x20000)
#define POISON    0xdeadull

static volatile uint32_t map_acks, map_faults;
static volatile uint64_t map_bad;

static bool map_hook(struct frame *f)
{
    if (f->vector == PF) { /* the page comes back */
        __asm__ volatile("lock incl %0" : "+m"(map_faults));
        relax();
        return true;
    }
    if (f->vector != 0x72)
        return false;
    invlpg((void *)MAPPED);
    invlpg((void *)(MAPPED + 0x1000));
    __asm__ volatile("lock incl %0" : "+m"(map_acks));
    lapic_w(0xb0, 0);
    return true;
}

/* Loads, stores and code by mappings that the first processor changes. */
static void use_mappings(unsigned cpu)
{
    __asm__ volatile("sti");
    while (!live_stop) {
        uint64_t v = *(volatile uint64_t *)MAPPED, c;

        __asm__ volatile("incq %0" : "+m"(*(volatile uint64_t *)(MAPPED + 64 * cpu)));
        c = CALL(MAPPED + 0x1000);
        if (v - 1 > 1 || c - 1 > 1)
            map_bad = v << 32 | c;
    }
    __asm__ volatile("cli");
}

static bool shoot(uint64_t data, uint64_t code_bits)
{
    *pte(MAPPED, 1) = data;
    *pte(MAPPED + 0x1000, 1) = code_bits;
    map_acks = 0;
    invlpg((void *)MAPPED);
    invlpg((void *)(MAPPED + 0x1000));
    ipi(0xc4072, 0);
    return until(&map_acks, cpus - 1);
}

static void mappings_shot_down(void)
{
    for (unsigned i = 0; i < 2; i++) {
        memset((void *)(DATA_PAGE + i * 4096), 0, 4096);
        *(volatile uint64_t *)(DATA_PAGE + i * 4096) = i + 1;
        emit_return((uint8_t *)CODE_PAGE + i * 4096, i + 1);
    }
    map4k(MAPPED, DATA_PAGE, PTE_P | PTE_W);
    map4k(MAPPED + 0x1000, CODE_PAGE, PTE_P);
    live_stop = map_faults = 0;
    map_bad = 0;
    trap_hook = map_hook;
    on_others(use_mappings);
    for (unsigned n = 1; n <= 200; n++) {
        uint64_t now = (n & 1) * 4096, old = 4096 - now, slots[MAX_CPUS];
        bool good = true;

        /* Straight to the other pages; or with a time without any, or without writing or executing.
         */
        if (n % 4 == 1)
            good = shoot(0, 0);
        else if (n % 4 == 2)
            good = shoot((DATA_PAGE + old) | PTE_P, (CODE_PAGE + old) | PTE_P | PTE_NX);
        if (!good || !shoot((DATA_PAGE + now) | PTE_P | PTE_W, (CODE_PAGE + now) | PTE_P))
            break;
        for (unsigned i = 1; i < cpus; i++)
            slots[i] = *(volatile uint64_t *)(DATA_PAGE + old + 64 * i);
        *(volatile uint64_t *)(DATA_PAGE + old) = POISON;
        *(volatile uint32_t *)(CODE_PAGE + old + 1) = POISON;
        for (unsigned i = 0; i < HOT; i++)
            relax();
        for (unsigned i = 1; i < cpus; i++)
            row_is("a store to the old page", *(volatile uint64_t *)(DATA_PAGE + old + 64 * i),
                   slots[i]);
        *(volatile uint64_t *)(DATA_PAGE + old) = old / 4096 + 1;
        *(volatile uint32_t *)(CODE_PAGE + old + 1) = (uint32_t)(old / 4096 + 1);
        if (!row_is("an old mapping", map_bad, 0))
            break;
    }
    live_stop = 1;
    join();
    trap_hook = NULL;
    CHECK(map_faults > 0);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static volatile uint32_t got[MAX_CPUS];
static bool ring_hook(struct frame *f)
{
    if (f->vector != 0x73)
        return false;
    got[*(volatile uint32_t *)(LAPIC + 0x20) >> 24 & (MAX_CPUS - 1)]++;
    lapic_w(0xb0, 0);
    return true;
}

static void ipi_ring(unsigned cpu)
{
    unsigned next = (cpu + 1) % cpus;

    __asm__ volatile("sti");
    for (uint32_t n = 1; n <= 300; n++) {
        ipi(0x4073, next);
        while (got[next] != n) /* a loop without a call, a hot one */
            __asm__ volatile("" : : : "memory");
    }
    for (;;) {
        __asm__ volatile("cli");
        if (got[cpu] == 300)
            break;
        __asm__ volatile("sti; hlt");
    }
}

static void everybody_interrupts_the_next(void)
{
    trap_hook = ring_hook;
    everywhere(ipi_ring);
    trap_hook = NULL;
    for (unsigned i = 0; i < cpus; i++)
        CHECK_EQ(got[i], 300);
}

/* ---- faults ------------------------------------------------------------------------------------- */

static bool skip_division(struct frame *f)
{
    if (f->vector != 0)
        return false;
    f->ip += 2;
    return true;
}

/* A fault that the host's processor may take as well: nobody gets another one's registers. */
static void divide_by_zero(unsigned cpu)
{
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t a = (cpu + 1) * 0x100000 + i, d = ~a, x = 3 * a, y = 5 * a, z = 7 * a;

        __asm__ volatile("div %%ecx" : "+a"(a), "+d"(d), "+r"(x), "+r"(y), "+r"(z) : "c"(0) : "cc");
        if (a != (cpu + 1) * 0x100000 + i || d != ~a || x != 3 * a || y != 5 * a || z != 7 * a)
            __asm__ volatile("lock incl %0" : "+m"(live_bad));
    }
}

static void everybody_divides_by_zero(void)
{
    rounds = 5000;
    live_bad = 0;
    trap_hook = skip_division;
    everywhere(divide_by_zero);
    trap_hook = NULL;
    CHECK_EQ(live_bad, 0);
}

const struct guest_case guest_cases[] = {
    {"processors start", starts},
    {"locked counters", locked_counters},
    {"locked 16 bytes", locked_16_bytes},
    {"order of loads and stores", order_of_loads_and_stores},
    {"producer and consumer", producer_and_consumer},
    {"words in one piece", words_in_one_piece},
    {"cross-modified code", cross_modified_code},
    {"code changed while it runs", code_changed_while_it_runs},
    {"code poked by INT3", code_poked_by_int3},
    {"a page turns from data to code and back", page_turns_from_data_to_code_and_back},
    {"mappings shot down", mappings_shot_down},
    {"everybody interrupts the next", everybody_interrupts_the_next},
    {"everybody divides by zero", everybody_divides_by_zero},
};
const unsigned guest_ncases = COUNT(guest_cases);
