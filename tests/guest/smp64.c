/* SPDX-License-Identifier: Apache-2.0 */
/* Two processors: INIT and SIPI, atomics, IPIs, TLB shootdown, code written by the other one. */
#include "rt/guest.h"

#define LAPIC  0xfee00000ull
#define ROUNDS 20000u

static volatile uint32_t ap_alive, ap_done, ap_ipis, bsp_ipis;
static void (*volatile ap_task)(void); /* what the other CPU is to do; NULL: nothing */
static volatile uint64_t counter, plain, cell16[2] __attribute__((aligned(16)));
static volatile uint64_t *remote_va = (volatile uint64_t *)0x7e000000;
static volatile uint64_t remote_saw;
static volatile uint8_t *patch;
static volatile uint32_t code_result;
static uint8_t split[128] __attribute__((aligned(64)));

static volatile uint32_t ap_stop, ap_acks, ap_nmis, ap_beat, code_ready;
static uint64_t ap_cr3;

static void lapic_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(LAPIC + reg) = v;
}

static void ipi(uint32_t to, uint32_t icr)
{
    lapic_w(0x310, to << 24);
    lapic_w(0x300, icr);
    while (*(volatile uint32_t *)(LAPIC + 0x300) & 0x1000)
        ;
}

static bool hook(struct frame *f)
{
    if (f->vector == NMI) {
        ap_nmis++;
        return true;
    }
    if (f->vector == 0x72) { /* shootdown */
        invlpg((const volatile void *)remote_va);
        __asm__ volatile("lock incl %0" : "+m"(ap_acks));
        lapic_w(0xb0, 0);
        return true;
    }
    if (f->vector != 0x70 && f->vector != 0x71)
        return false;
    if (f->vector == 0x70)
        ap_ipis++;
    else
        bsp_ipis++;
    lapic_w(0xb0, 0);
    return true;
}

static void lock_add(volatile uint64_t *p)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        __asm__ volatile("lock addq $1, %0" : "+m"(*p));
}

static volatile uint32_t spin;
static void xchg_lock(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t v;

        do {
            v = 1;
            __asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(spin) : : "memory");
            if (v)
                __asm__ volatile("pause");
        } while (v);
        plain++;
        __asm__ volatile("movl $0, %0" : "=m"(spin) : : "memory");
    }
}

static void cmpxchg16(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t lo = cell16[0], hi = cell16[1];
        uint8_t ok;

        do {
            __asm__ volatile("lock cmpxchg16b %1; setz %0"
                             : "=q"(ok), "+m"(cell16), "+a"(lo), "+d"(hi)
                             : "b"(lo + 1), "c"(hi + 2)
                             : "memory");
        } while (!ok);
    }
}

/* Reads the page that the other CPU moves about; keeps the last value. */
static void watch(void)
{
    __asm__ volatile("sti");
    while (!ap_stop)
        remote_saw = *remote_va;
    __asm__ volatile("cli");
}

static void run_modified(void)
{
    for (uint32_t n = 1; n <= 50; n++) {
        uint32_t a = 0, b, c = 0, d;

        while (code_ready != n)
            __asm__ volatile("pause");
        __asm__ volatile("cpuid"
                         : "+a"(a), "=b"(b), "+c"(c), "=d"(d)
                         :
                         : "memory"); /* serialises */
        code_result = ((uint32_t(*)(void))(uintptr_t)patch)();
        code_ready = 0x80000000u | n;
    }
}

#define DIRTY_VA    0x7e200000ull
#define DIRTY_PAGES 16u

static void dirty_pages(void)
{
    for (unsigned i = 0; i < DIRTY_PAGES; i++) {
        invlpg((void *)(DIRTY_VA + i * 4096));
        *(volatile uint8_t *)(DIRTY_VA + i * 4096) = 1;
    }
}

/* PCID 1 means the table in ap_cr3 here, and another one on the BSP. */
static void own_pcid(void)
{
    uint64_t cr3 = read_cr3();

    write_cr4(read_cr4() | 1u << 17);
    write_cr3(ap_cr3 | 1);
    remote_saw = *remote_va;
    for (unsigned i = 0; i < 50; i++) {
        write_cr3(cr3 | 1ull << 63);
        write_cr3(ap_cr3 | 1 | 1ull << 63);
        if (*remote_va != remote_saw)
            remote_saw = 0;
    }
    write_cr3(cr3);
    write_cr4(read_cr4() & ~(1ull << 17));
}

static void add(void)
{
    lock_add(&counter);
}

static void add_split(void)
{
    lock_add((volatile uint64_t *)(split + 60));
}

static void read_remote(void)
{
    remote_saw = *remote_va;
}

static void call_patch(void)
{
    code_result = ((uint32_t(*)(void))(uintptr_t)patch)();
}

static void beat(void)
{
    for (;;)
        ap_beat++;
}

static void halt(void)
{
    ap_beat = 0x1000;
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void sleep_until_100_ipis(void)
{
    __asm__ volatile("sti");
    while (ap_ipis < 100)
        __asm__ volatile("hlt");
    __asm__ volatile("cli");
}

void ap_main(void)
{
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    ap_alive = *(volatile uint32_t *)(LAPIC + 0x20) >> 24;
    for (;;) {
        if (!ap_task) {
            __asm__ volatile("pause");
            continue;
        }
        ap_task();
        ap_task = NULL;
        __asm__ volatile("lock incl %0" : "+m"(ap_done));
    }
}

static void on_ap(void (*task)(void))
{
    ap_done = 0;
    ap_task = task;
}
static void join(void)
{
    while (!ap_done)
        __asm__ volatile("pause");
}

/* The AP's way from real mode: copied to 8000h. */
extern char tramp[], tramp_end[];
extern uint8_t ap_stack_top[];
__asm__(
    ".pushsection .text; .code16; .globl tramp; tramp: cli; xor %ax, %ax; mov %ax, %ds;"
    "lgdtl 0x8000 + (tramp_gdt - tramp); mov %cr4, %eax; or $0x620, %eax; mov %eax, %cr4;"
    "mov 0x8000 + (tramp_cr3 - tramp), %eax; mov %eax, %cr3; mov $0xc0000080, %ecx; rdmsr;"
    "or $0x901, %eax; wrmsr; mov $0x80010023, %eax; mov %eax, %cr0;"
    "ljmpl $8, $ap_entry; .globl tramp_cr3; tramp_cr3: .long 0; tramp_gdt: .word 255; .long gdt;"
    ".globl tramp_end; tramp_end: .code64; ap_entry: mov $0x10, %eax; mov %eax, %ds;"
    "mov %eax, %es; mov %eax, %ss; mov $ap_stack_top, %rsp; lidt bsp_idtr(%rip); call ap_main;"
    ".popsection; .pushsection .bss; .balign 16; .skip 16384; .globl ap_stack_top;"
    "ap_stack_top: .popsection; .pushsection .data; .globl bsp_idtr; bsp_idtr: .skip 10; .popsection");

CASE(init_and_sipi, "INIT and SIPI")
{
    extern uint32_t tramp_cr3;
    extern uint8_t bsp_idtr[];
    uint8_t *to = (uint8_t *)0x8000;
    uint64_t t;

    __asm__ volatile("sidt %0" : "=m"(*(uint8_t(*)[10])bsp_idtr));
    for (unsigned i = 0; i < (unsigned)(tramp_end - tramp); i++)
        to[i] = (uint8_t)tramp[i];
    *(volatile uint32_t *)(to + ((char *)&tramp_cr3 - tramp)) = (uint32_t)read_cr3();
    lapic_w(0xf0, 0x1ff);
    lapic_w(0x80, 0);
    ipi(1, 0x4500);
    ipi(1, 0x4608);
    ipi(1, 0x4608);
    for (t = rdtsc(); ap_alive != 1 && rdtsc() - t < 5000000000;)
        __asm__ volatile("pause");
    CHECK_EQ(ap_alive, 1);
}

CASE(lock_prefix_is_atomic, "LOCK is atomic")
{
    on_ap(add);
    lock_add(&counter);
    join();
    CHECK_EQ(counter, 2 * ROUNDS);
}

CASE(xchg_makes_a_spin_lock, "XCHG makes a spin lock")
{
    on_ap(xchg_lock);
    xchg_lock();
    join();
    CHECK_EQ(plain, 2 * ROUNDS);
}

CASE(cmpxchg16b_is_atomic, "CMPXCHG16B is atomic")
{
    on_ap(cmpxchg16);
    cmpxchg16();
    join();
    CHECK_EQ(cell16[0], 2 * ROUNDS);
    CHECK_EQ(cell16[1], 4 * ROUNDS);
}

CASE(split_lock_is_atomic, "split lock is atomic")
{
    on_ap(add_split);
    lock_add((volatile uint64_t *)(split + 60));
    join();
    CHECK_EQ(*(volatile uint64_t *)(split + 60), 2 * ROUNDS);
}

CASE(page_crossing_lock_is_atomic, "page-crossing lock")
{
    uint8_t *two = page_alloc();
    volatile uint64_t *p;

    page_alloc();
    p = (volatile uint64_t *)(two + 4092);
    *p = 0;
    for (unsigned i = 0; i < 100; i++)
        __asm__ volatile("lock addq $1, %0" : "+m"(*p));
    CHECK_EQ(*p, 100);
}

CASE(ipis_wake_the_other_from_hlt, "IPIs wake from HLT")
{
    trap_hook = hook;
    on_ap(sleep_until_100_ipis);
    while (!ap_done) {
        uint32_t before = ap_ipis;

        ipi(1, 0x4070);
        while (ap_ipis == before && !ap_done)
            __asm__ volatile("pause");
    }
    trap_hook = NULL;
    CHECK(ap_ipis >= 100);
}

static bool until_equal(const volatile uint64_t *p, uint64_t v)
{
    for (uint64_t t = rdtsc(); rdtsc() - t < 20000000000;) {
        if (*p == v)
            return true;
        __asm__ volatile("pause");
    }
    return false;
}

CASE(shootdown, "TLB shootdown")
{
    volatile uint64_t *pages[2] = {page_alloc(), page_alloc()}, *e = pte((uintptr_t)remote_va, 1);

    *pages[0] = 1111;
    *pages[1] = 2222;
    *e = (uintptr_t)pages[0] | PTE_P | PTE_W;
    trap_hook = hook;
    ap_stop = 0;
    on_ap(watch);
    for (uint32_t i = 1; i <= 50; i++) {
        CHECK(until_equal(&remote_saw, *pages[(i + 1) & 1]));
        *e = (uintptr_t)pages[i & 1] | PTE_P | PTE_W;
        ipi(1, 0x4072);
        while (ap_acks != i)
            __asm__ volatile("pause");
        /* From the acknowledgement on nothing is seen, nor written, through the old mapping. */
        *pages[(i + 1) & 1] = 5000 + i;
        CHECK(until_equal(&remote_saw, *pages[i & 1]));
    }
    ap_stop = 1;
    join();
    trap_hook = NULL;
}

CASE(nmi_to_the_other, "NMI to the other CPU")
{
    trap_hook = hook;
    ap_stop = 0;
    ap_nmis = 0;
    on_ap(read_remote);
    join();
    for (uint32_t i = 1; i <= 20; i++) {
        ipi(1, 0x4400); /* it runs with IF = 0 */
        while (ap_nmis != i)
            __asm__ volatile("pause");
    }
    trap_hook = NULL;
    CHECK_EQ(ap_nmis, 20);
}

static void restart_ap(void)
{
    uint32_t before;
    uint64_t t;

    ipi(1, 0x4500);
    for (t = rdtsc(); rdtsc() - t < 20000000;)
        ;
    before = ap_beat;
    for (t = rdtsc(); rdtsc() - t < 20000000;)
        ;
    CHECK_EQ(ap_beat, before); /* it waits for a SIPI, and nothing else wakes it */
    ap_task = NULL;
    ap_alive = 0xff;
    ipi(1, 0x4070);
    for (t = rdtsc(); rdtsc() - t < 20000000;)
        ;
    CHECK_EQ(ap_alive, 0xff);
    ipi(1, 0x4608);
    for (t = rdtsc(); ap_alive != 1 && rdtsc() - t < 20000000000;)
        __asm__ volatile("pause");
    CHECK_EQ(ap_alive, 1);
}

CASE(init_stops_a_running_cpu, "INIT of a running CPU")
{
    ap_beat = 0;
    on_ap(beat);
    while (!ap_beat)
        __asm__ volatile("pause");
    restart_ap();
    on_ap(read_remote);
    join();
}

CASE(init_reaches_a_halted_cpu, "INIT of a halted CPU")
{
    ap_beat = 0;
    on_ap(halt);
    while (!ap_beat)
        __asm__ volatile("pause");
    restart_ap();
    counter = 0;
    on_ap(add);
    lock_add(&counter);
    join();
    CHECK_EQ(counter, 2 * ROUNDS);
}

CASE(code_modified_across_cpus, "cross-modified code")
{
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0x05, 0, 0, 0, 0, 0xc3}; /* mov, add, ret */

    patch = page_alloc();
    for (unsigned i = 0; i < sizeof(code); i++)
        patch[i] = code[i];
    code_ready = 0;
    on_ap(run_modified);
    for (uint32_t n = 1; n <= 50; n++) {
        patch[1] = (uint8_t)n;
        patch[6] = (uint8_t)(2 * n);
        code_ready = n;
        while (code_ready != (0x80000000u | n))
            __asm__ volatile("pause");
        CHECK_EQ(code_result, 3 * n);
    }
    join();
}

CASE(accessed_and_dirty_by_both, "A and D set by both")
{
    volatile uint64_t *e = pte(DIRTY_VA, 1);
    uint8_t *pages[DIRTY_PAGES];

    for (unsigned i = 0; i < DIRTY_PAGES; i++)
        pages[i] = page_alloc();
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < DIRTY_PAGES; i++)
            e[i] = (uintptr_t)pages[i] | PTE_P | PTE_W;
        on_ap(dirty_pages);
        /* Software's bits change in the same entries meanwhile: neither update may be lost. */
        for (unsigned i = 0; i < DIRTY_PAGES; i++) {
            for (unsigned n = 0; n < 21; n++)
                __asm__ volatile("lock btcq $9, %0" : "+m"(e[i]));
            invlpg((void *)(DIRTY_VA + i * 4096));
            (void)*(volatile uint8_t *)(DIRTY_VA + i * 4096);
        }
        join();
        for (unsigned i = 0; i < DIRTY_PAGES; i++)
            CHECK_EQ(e[i], (uintptr_t)pages[i] | PTE_P | PTE_W | PTE_A | PTE_D | 1u << 9);
    }
}

CASE(pcids_are_each_cpus_own, "PCIDs are each CPU's own")
{
    volatile uint64_t *a = page_alloc(), *b = page_alloc();
    uint64_t cr3 = read_cr3(), mine, saw = 0, index = (uintptr_t)remote_va >> 21 & 511;
    volatile uint64_t *tables[2][4];

    /* Two spaces that differ in this one page. */
    *pte((uintptr_t)remote_va, 1) = (uintptr_t)a | PTE_P | PTE_W;
    *a = 0xa;
    *b = 0xb;
    for (unsigned t = 0; t < 2; t++) {
        for (unsigned level = 0; level < 4; level++) {
            uintptr_t from = level == 0
                                 ? cr3 & ~0xfffull
                                 : *pte((uintptr_t)remote_va, 5 - (int)level) & 0xffffffffff000ull;

            tables[t][level] = page_alloc();
            for (unsigned i = 0; i < 512; i++)
                tables[t][level][i] = ((volatile uint64_t *)from)[i];
        }
        tables[t][0][0] = (uintptr_t)tables[t][1] | 7;
        tables[t][1][(uintptr_t)remote_va >> 30 & 511] = (uintptr_t)tables[t][2] | 7;
        tables[t][2][index] = (uintptr_t)tables[t][3] | 7;
        tables[t][3][(uintptr_t)remote_va >> 12 & 511] = (uintptr_t)(t ? b : a) | PTE_P | PTE_W;
    }
    ap_cr3 = (uintptr_t)tables[1][0];
    mine = (uintptr_t)tables[0][0];
    on_ap(own_pcid);
    write_cr4(read_cr4() | 1u << 17);
    for (unsigned i = 0; i < 50; i++) {
        write_cr3(mine | 1 | (i ? 1ull << 63 : 0));
        saw = *remote_va;
        CHECK_EQ(saw, 0xa);
        write_cr3(cr3 | 1ull << 63);
    }
    join();
    write_cr3(cr3);
    write_cr4(read_cr4() & ~(1ull << 17));
    CHECK_EQ(remote_saw, 0xb);
}

CASE(code_written_by_the_other_cpu, "code written by the other CPU")
{
    static const uint8_t ret1[] = {0xb8, 1, 0, 0, 0, 0xc3};

    patch = page_alloc();
    for (unsigned i = 0; i < sizeof(ret1); i++)
        patch[i] = ret1[i];
    for (uint32_t n = 1; n < 200; n++) {
        patch[1] = (uint8_t)n;
        on_ap(call_patch);
        join();
        CHECK_EQ(code_result, n);
    }
}
