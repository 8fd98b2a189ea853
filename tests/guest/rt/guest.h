/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a tiny guest is written in. A guest is a list of cases in one mode of the CPU; it prints a line
 * per case on port E9h ("ok name", or "FAIL name: ..."), and leaves by isa-debug-exit (port 501h): 10h
 * if all passed, 11h if not, so the VMM's exit status is 33 or 35.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXIT_PORT 0x501
#define EXIT_PASS 0x10
#define EXIT_FAIL 0x11

static inline void out8(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out16(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void out32(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t in8(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint16_t in16(uint16_t port)
{
    uint16_t v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint32_t in32(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "a"((uint32_t)v), "d"((uint32_t)(v >> 32)), "c"(msr) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

#define READ_REG(name, reg)                                                                        \
    static inline uintptr_t read_##name(void)                                                      \
    {                                                                                              \
        uintptr_t v;                                                                               \
        __asm__ volatile("mov %%" reg ", %0" : "=r"(v) : : "memory");                              \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_##name(uintptr_t v)                                                   \
    {                                                                                              \
        __asm__ volatile("mov %0, %%" reg : : "r"(v) : "memory");                                  \
    }
READ_REG(cr0, "cr0")
READ_REG(cr2, "cr2")
READ_REG(cr3, "cr3")
READ_REG(cr4, "cr4")
READ_REG(dr0, "dr0")
READ_REG(dr6, "dr6")
READ_REG(dr7, "dr7")

static inline uintptr_t read_flags(void)
{
    uintptr_t v;
    __asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
    return v;
}

static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}

void *memset(void *p, int c, size_t n);
void *memcpy(void *d, const void *s, size_t n);
void put_char(char c);
void put_str(const char *s);
void put_hex(uint64_t v);

struct guest_case {
    const char *name;
    void (*run)(void);
};

/* A case; link.ld collects them, sorted by their lines. */
#define CASE(fn, title)                                                                            \
    static void fn(void);                                                                          \
    static const struct guest_case fn##_case                                                       \
        __attribute__((used, section("cases." STRING(__LINE__)))) = {title, fn};                   \
    static void fn(void)
#define STRING(x) STRING_(x)
#define STRING_(x) #x
/* Or a guest lists them itself, in an array of this name. */
extern const struct guest_case guest_cases[] __attribute__((section("cases.0")));

/* Set by a failing check; the runner prints the case's name. */
void fail_at(const char *what, uint64_t got, uint64_t want);

#define CHECK_EQ(got, want)                                                                        \
    do {                                                                                           \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);                                 \
        if (got_ != want_)                                                                         \
            fail_at(#got, got_, want_);                                                            \
    } while (0)
#define CHECK(cond) CHECK_EQ(!!(cond), 1)

extern const unsigned guest_ncases;

/* ---- traps ------------------------------------------------------------------------------------ */

/* What the entry stubs push; the CPU pushes from error (or rip) on. */
struct frame {
#ifdef __x86_64__
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    uintptr_t di, si, bp, bx, dx, cx, ax;
    uintptr_t vector, error, ip, cs, flags, sp, ss; /* sp, ss: 32-bit only after a change of ring */
};

struct trap_record {
    unsigned count;   /* traps since trap_arm */
    unsigned vector;
    uintptr_t error, ip, cs, flags, sp, cr2;
};
extern volatile struct trap_record trap;
/* Where a trap resumes; 0: the guest fails with a dump. In ring 0 with the kernel's stack. */
extern volatile uintptr_t trap_resume, trap_sp;
/* If set, called for every trap instead; returns true if it has dealt with it (frame edited). */
extern bool (*volatile trap_hook)(struct frame *);
extern volatile uintptr_t trap_label;

/*
 * Runs `code` expecting a trap; goes on behind it. Label 1 is the first instruction: trap_label is its
 * address, so a fault's saved IP equals trap_label.
 */
#ifdef __x86_64__
#define TRAP_SETUP                                                                                 \
    "lea 2f(%%rip), %%r11; mov %%r11, trap_resume(%%rip)\n\t"                                      \
    "lea 1f(%%rip), %%r11; mov %%r11, trap_label(%%rip)\n\t"                                       \
    "push %%rbp; push %%rbx; push %%rsi; push %%rdi; mov %%rsp, trap_sp(%%rip)\n"
#define TRAP_END "pop %%rdi; pop %%rsi; pop %%rbx; pop %%rbp"
#define TRAP_CLOBBER "memory", "r8", "r9", "r10", "r11", "cc"
#else
#define TRAP_SETUP                                                                                 \
    "movl $2f, trap_resume; movl $1f, trap_label\n\t"                                              \
    "push %%ebp; push %%ebx; push %%esi; push %%edi; mov %%esp, trap_sp\n"
#define TRAP_END "pop %%edi; pop %%esi; pop %%ebx; pop %%ebp"
#define TRAP_CLOBBER "memory", "cc"
#endif
struct trap_regs {
    uintptr_t a, c, d;
};
/* TRAP("code"), with registers TRAP("code", .a = ..., .c = ..., .d = ...). */
#define TRAP(code, ...)                                                                            \
    do {                                                                                           \
        struct trap_regs regs_ = {__VA_ARGS__};                                                    \
        trap.count = 0;                                                                            \
        __asm__ volatile(TRAP_SETUP "1: " code "\n2: " TRAP_END                     \
                         : "+a"(regs_.a), "+c"(regs_.c), "+d"(regs_.d)                             \
                         :                                                                         \
                         : TRAP_CLOBBER);                                                          \
        trap_resume = 0;                                                                           \
    } while (0)

/* A fault (saved IP at the instruction) with this vector and error code. */
#define EXPECT_FAULT(vec, err)                                                                     \
    do {                                                                                           \
        CHECK_EQ(trap.count, 1);                                                                   \
        CHECK_EQ(trap.vector, (vec));                                                              \
        CHECK_EQ(trap.error, (err));                                                               \
        CHECK_EQ(trap.ip, trap_label);                                                             \
    } while (0)
/* A trap that is reported `len` bytes behind the instruction's start. */
#define EXPECT_TRAP(vec, len)                                                                      \
    do {                                                                                           \
        CHECK_EQ(trap.count, 1);                                                                   \
        CHECK_EQ(trap.vector, (vec));                                                              \
        CHECK_EQ(trap.ip, trap_label + (len));                                                     \
    } while (0)

#define EXPECT_VECTOR(vec, err)                                                                    \
    do {                                                                                           \
        CHECK_EQ(trap.vector, (vec));                                                              \
        CHECK_EQ(trap.error, (err));                                                               \
    } while (0)

/* TRAP with what comes of it: a fault at the first instruction, at any, or nothing at all. */
#define FAULTS(vec, err, ...)                                                                      \
    do {                                                                                           \
        TRAP(__VA_ARGS__);                                                                         \
        EXPECT_FAULT(vec, err);                                                                    \
    } while (0)
#define RAISES(vec, err, ...)                                                                      \
    do {                                                                                           \
        TRAP(__VA_ARGS__);                                                                         \
        EXPECT_VECTOR(vec, err);                                                                   \
    } while (0)
#define RUNS(...)                                                                                  \
    do {                                                                                           \
        TRAP(__VA_ARGS__);                                                                         \
        CHECK_EQ(trap.count, 0);                                                                   \
    } while (0)

enum {
    DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11,
    SS = 12, GP = 13, PF = 14, MF = 16, AC = 17, XM = 19,
};

#define FLAG_CF 0x1u
#define FLAG_TF 0x100u
#define FLAG_IF 0x200u
#define FLAG_RF 0x10000u
#define FLAG_AC 0x40000u

/* Selectors of the runtime's GDT (rt/boot.S); slots from SEL_FREE on are the guest's. */
#define SEL_CODE 0x08   /* ring 0 code of the guest's width */
#define SEL_DATA 0x10
#define SEL_CODE32 0x18 /* ring 0, 32-bit */
#define SEL_UDATA 0x23  /* ring 3 data */
#define SEL_UCODE 0x2b  /* ring 3 code of the guest's width */
#define SEL_UCODE32 0x33
#define SEL_TSS 0x38    /* two slots in long mode */
#define SEL_FREE 0x48
#define GDT_SLOTS 32
extern volatile uint64_t gdt[GDT_SLOTS];
extern uint8_t idt[];

struct tss64 {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
} __attribute__((packed));
struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
};
#ifdef __x86_64__
extern volatile struct tss64 tss;
#else
extern volatile struct tss32 tss;
#endif

/* Gate `vector` goes to handler with this type byte (8Eh, 8Fh, EEh...), selector and IST. */
void idt_set(unsigned vector, uintptr_t handler, uint16_t selector, uint8_t type, uint8_t ist);
uintptr_t idt_stub(unsigned vector);

/* Runs fn(arg) in ring 3 on a stack of its own; back when it returns or traps. */
void run_user(void (*fn)(void));
/* Code for it, which must not return: INT 80h is the way back. */
#define USER_CODE(name, code)                                                                      \
    static void name(void)                                                                         \
    {                                                                                              \
        __asm__ volatile(code);                                                                    \
    }
#define USER_FAULTS(vec, err, fn)                                                                  \
    do {                                                                                           \
        run_user(fn);                                                                              \
        EXPECT_VECTOR(vec, err);                                                                   \
    } while (0)
#define USER_RUNS(fn)                                                                              \
    do {                                                                                           \
        run_user(fn);                                                                              \
        CHECK_EQ(trap.vector, 0x80);                                                               \
    } while (0)

/* 4 KiB-aligned pages for page tables and data, zeroed; they never come back. */
void *page_alloc(void);

#ifdef __x86_64__
/* The entry of level 1 to 4 that maps va, splitting large pages and making tables as needed. */
volatile uint64_t *pte(uintptr_t va, int level);
#endif

#define PTE_P 0x1ull
#define PTE_W 0x2ull
#define PTE_U 0x4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

#endif
