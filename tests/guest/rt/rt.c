/* SPDX-License-Identifier: Apache-2.0 */
#include "guest.h"

volatile struct trap_record trap;
volatile uintptr_t trap_resume, trap_sp, trap_label;
bool (*volatile trap_hook)(struct frame *);
volatile uintptr_t user_return, user_return_sp;
uint8_t idt[256 * 16] __attribute__((aligned(16)));

#ifdef __x86_64__
volatile struct tss64 tss;
#else
volatile struct tss32 tss;
#endif

static uint8_t pages[256][4096] __attribute__((aligned(4096)));
static unsigned pages_used;
static uint8_t user_stack[16384] __attribute__((aligned(4096)));
static uint8_t trap_stack[16384] __attribute__((aligned(16)));
static const char *case_name;
static unsigned case_failures;

extern uint8_t stubs[];
extern const struct guest_case guest_cases_begin[], guest_cases_end[];
_Noreturn void rt_resume(uintptr_t ip, uintptr_t sp);
void rt_enter_user(void (*fn)(void), void *stack);

void *memset(void *p, int c, size_t n)
{
    for (uint8_t *b = p; n--;)
        *b++ = (uint8_t)c;
    return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
    uint8_t *a = d;

    for (const uint8_t *b = s; n--;)
        *a++ = *b++;
    return d;
}

void put_char(char c)
{
    out8(0xe9, (uint8_t)c);
}

void put_str(const char *s)
{
    while (*s)
        put_char(*s++);
}

void put_hex(uint64_t v)
{
    put_str("0x");
    for (int shift = 60; shift >= 0; shift -= 4)
        if (v >> shift || !shift)
            put_char("0123456789abcdef"[v >> shift & 15]);
}

static _Noreturn void leave(uint8_t code)
{
    out8(EXIT_PORT, code);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void fail_at(const char *what, uint64_t got, uint64_t want)
{
    case_failures++;
    put_str("FAIL ");
    put_str(case_name);
    put_str(": ");
    put_str(what);
    put_str(" is ");
    put_hex(got);
    put_str(", want ");
    put_hex(want);
    put_char('\n');
}

void rt_trap(struct frame *f)
{
    bool from_user = f->cs & 3;

    if (trap_hook && trap_hook(f))
        return;
    trap.count++;
    trap.vector = (unsigned)f->vector;
    trap.error = f->error;
    trap.ip = f->ip;
    trap.cs = f->cs;
    trap.flags = f->flags;
    trap.cr2 = read_cr2();
#ifdef __x86_64__
    trap.sp = f->sp;
#else
    trap.sp = from_user ? f->sp : (uintptr_t)&f->sp;
#endif
    if (from_user)
        rt_resume(user_return, user_return_sp);
    if (trap_resume)
        rt_resume(trap_resume, trap_sp);
    put_str("FAIL ");
    put_str(case_name ? case_name : "start");
    put_str(": unexpected vector ");
    put_hex(f->vector);
    put_str(" error ");
    put_hex(f->error);
    put_str(" at ");
    put_hex(f->ip);
    put_str(" cr2 ");
    put_hex(read_cr2());
    put_char('\n');
    leave(EXIT_FAIL);
}

void run_user(void (*fn)(void))
{
    trap.count = 0;
    rt_enter_user(fn, user_stack + sizeof(user_stack) - 64);
}

uintptr_t idt_stub(unsigned vector)
{
    return (uintptr_t)stubs + vector * 16;
}

void idt_set(unsigned vector, uintptr_t handler, uint16_t selector, uint8_t type, uint8_t ist)
{
#ifdef __x86_64__
    uint32_t *e = (uint32_t *)(idt + vector * 16);

    e[2] = (uint32_t)(handler >> 32);
    e[3] = 0;
#else
    uint32_t *e = (uint32_t *)(idt + vector * 8);
#endif
    e[0] = (uint32_t)selector << 16 | (handler & 0xffff);
    e[1] = (handler & 0xffff0000) | (uint32_t)type << 8 | ist;
}

void *page_alloc(void)
{
    if (pages_used == sizeof(pages) / sizeof(pages[0])) {
        put_str("FAIL out of pages\n");
        leave(EXIT_FAIL);
    }
    return pages[pages_used++];
}

#ifdef __x86_64__
volatile uint64_t *pte(uintptr_t va, int level)
{
    volatile uint64_t *table = (volatile uint64_t *)(read_cr3() & ~0xfffull);

    for (int l = 4;; l--) {
        volatile uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];

        if (l == level)
            return e;
        if (!(*e & PTE_P)) {
            *e = (uintptr_t)page_alloc() | PTE_P | PTE_W | PTE_U;
        } else if (*e & PTE_PS) {
            volatile uint64_t *sub = page_alloc();
            uint64_t step = 1ull << (12 + 9 * (l - 2));

            for (unsigned i = 0; i < 512; i++)
                sub[i] = ((*e & ~(PTE_PS | PTE_A | PTE_D)) + i * step) | (l > 2 ? PTE_PS : 0);
            *e = (uintptr_t)sub | PTE_P | PTE_W | PTE_U;
            write_cr3(read_cr3());
        }
        table = (volatile uint64_t *)(uintptr_t)(*e & 0x000ffffffffff000ull);
    }
}
#endif

static unsigned run_cases(void)
{
    unsigned failed = 0;

    for (const struct guest_case *c = guest_cases_begin; c != guest_cases_end; c++) {
        case_name = c->name;
        case_failures = 0;
        trap.count = 0;
        c->run();
        if (case_failures)
            failed++;
        else {
            put_str("ok ");
            put_str(case_name);
            put_char('\n');
        }
    }
    return failed;
}

void rt_main(void)
{
    uintptr_t stack = (uintptr_t)trap_stack + sizeof(trap_stack);
    uint64_t base = (uintptr_t)&tss;
    struct {
        uint16_t limit;
        uintptr_t base;
    } __attribute__((packed)) idtr = {256 * 2 * sizeof(uintptr_t) - 1, (uintptr_t)idt};

    for (unsigned v = 0; v < 256; v++)
        idt_set(v, idt_stub(v), SEL_CODE, v == 3 || v == 4 || v >= 0x80 ? 0xee : 0x8e, 0);
    __asm__ volatile("lidt %0" : : "m"(idtr));
#ifdef __x86_64__
    tss.rsp[0] = stack;
#else
    tss.esp0 = stack;
    tss.ss0 = SEL_DATA;
#endif
    tss.iomap = sizeof(tss);
    gdt[SEL_TSS / 8] = (sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
                       (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    __asm__ volatile("ltr %w0; lldt %w1" : : "r"(SEL_TSS), "r"(0));
    leave(run_cases() ? EXIT_FAIL : EXIT_PASS);
}
