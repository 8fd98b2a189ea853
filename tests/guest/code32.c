/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a translator of 32- and 16-bit code must not forget: code that is written over by what only
 * these modes have, segments whose bases, limits and sizes change under warm code, flags across far
 * transfers, stacks of 16 bits. SDM vol. 3A ch. 3 and 5.
 */
#include "rt/hot.h"

#define AREA 0x2000000u /* code and data; its first page is code */
#define FAR  0x2100000u
#define S0   SEL_FREE
#define S1   (SEL_FREE + 8)
#define S2   (SEL_FREE + 16)

struct far_ptr {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));

static void set_seg(uint16_t sel, uint32_t base, uint32_t limit, uint16_t attr)
{
    gdt[sel / 8] = (uint64_t)(attr & 0xf0ff) << 40 | (uint64_t)(base & 0xffffff) << 16 |
                   (uint64_t)(base >> 24) << 56 | (limit & 0xffff) |
                   (uint64_t)(limit >> 16 & 15) << 48;
}

#define CODE32 0xc09b /* 4 KiB granular, 32 bits */
#define CODE16 0x809b
#define DATA32 0xc093
#define DATA_B 0x4093 /* byte granular */
#define DATA16 0x0093

/* ---- stores into the block that runs
 * ------------------------------------------------------------- */

/* edi: value, edx: where to, in ES with a base of -AREA (so edx + AREA); rest as in code64. */
#define STORES(X)                                                                            \
    X(mov8, 0xff, "mov %edi, %eax; mov %al, (%edx)")                                         \
    X(mov16, 0xffff, "mov %di, (%edx)")                                                      \
    X(mov32, ~0u, "mov %edi, (%edx)")                                                        \
    X(segment, ~0u, "mov %edi, %es:0x2000000(%edx)")                                         \
    X(stosd, ~0u, "mov %edi, %eax; lea 0x2000000(%edx), %edi; stosl")                        \
    X(rep_stosb, 0xff, "mov %edi, %eax; lea 0x2000000(%edx), %edi; mov $1, %ecx; rep stosb") \
    X(xchg, ~0u, "xchg %edi, (%edx)")                                                        \
    X(cmpxchg, ~0u, "mov (%edx), %eax; lock cmpxchg %edi, (%edx)")                           \
    X(xadd, ~0u, "mov %edi, %ecx; sub (%edx), %ecx; lock xadd %ecx, (%edx)")                 \
    X(push, ~0u, "mov %esp, %esi; lea 4(%edx), %esp; push %edi; mov %esi, %esp")             \
    X(push16, 0xffff, "mov %esp, %esi; lea 2(%edx), %esp; pushw %di; mov %esi, %esp")        \
    X(pusha, ~0u,                                                                            \
      "mov %esp, %ebx; mov $0xc3c3c3c3, %esi; lea 32(%edx), %esp; pusha; mov %ebx, %esp")    \
    X(pop, ~0u, "push %edi; pop (%edx)")                                                     \
    X(enter, ~0u,                                                                            \
      "mov %esp, %esi; push %ebp; mov %edi, %ebp; lea 4(%edx), %esp; enter $0, $0;"          \
      "lea -4(%esi), %esp; pop %ebp")                                                        \
    X(fistp, ~0u, "push %edi; fildl (%esp); fistpl (%edx); pop %eax")                        \
    X(movd, ~0u, "movd %edi, %mm0; movd %mm0, (%edx); emms")

uint64_t save;
#define AS_CODE(id, mask, code)  __asm__("st_" #id ": " code "; st_" #id "_end:");
#define AS_NAMES(id, mask, code) extern uint8_t st_##id[], st_##id##_end[];
#define AS_ROW(id, mask, code)   {#id, st_##id, st_##id##_end, mask},
STORES(AS_CODE)
STORES(AS_NAMES)
static const struct {
    const char *name;
    const uint8_t *code, *end;
    uint32_t mask;
} stores[] = {STORES(AS_ROW)};

/* The code with a MOV to EAX behind it, whose immediate is at AREA + 180h. */
uint32_t call_store(uint32_t at, uint32_t value, uint32_t to, uint32_t es);
__asm__("call_store: push %ebx; push %esi; push %edi; push %ebp; push %es; mov 24(%esp), %eax;"
        "mov 28(%esp), %edi; mov 32(%esp), %edx; mov 36(%esp), %es; call *%eax; pop %es; pop %ebp;"
        "pop %edi; pop %esi; pop %ebx; ret");

static void stores_into_the_running_block(void)
{
    uint32_t target = AREA + 0x180;

    __asm__ volatile("fninit");
    set_seg(S0, -AREA, 0xfffff, DATA32);
    for (unsigned i = 0; i < COUNT(stores); i++) {
        size_t len = (size_t)(stores[i].end - stores[i].code);
        uint8_t *code = (uint8_t *)(target - 1 - len);
        uint32_t want = 0, value;

        memset((void *)AREA, 0xcc, 4096);
        memcpy(code, stores[i].code, len);
        emit_return((uint8_t *)target - 1, 0);
        for (unsigned round = 0; round < 8; round++) {
            for (unsigned n = 0; n < (round ? HOT / 2 : 0); n++)
                if (!row_is(stores[i].name,
                            call_store((uintptr_t)code, n, n & 1 ? AREA + 0x900 : FAR, S0), want))
                    return;
            value = 0x01020304 * (round + 1);
            want = value & stores[i].mask;
            if (!row_is(stores[i].name, call_store((uintptr_t)code, value, target, S0), want))
                break;
        }
    }
}

/* ---- code segments
 * ------------------------------------------------------------------------------- */

/* lcall *ptr with eax and ecx given; eax. */
static uint32_t far_call(uint16_t sel, uint32_t off, uint32_t ax)
{
    struct far_ptr p = {off, sel};

    __asm__ volatile("lcall *%1" : "+a"(ax) : "m"(p) : "ecx", "edx", "memory", "cc");
    return ax;
}

/* One page through segments of other bases, and of the other size. */
static void one_code_in_many_segments(void)
{
    uint8_t *p = (uint8_t *)AREA;

    memset(p, 0xcc, 4096);
    EMIT(p, 0xe8, 0, 0, 0, 0, 0x58, 0xcb); /* call; pop eax; lret: where it is in its segment */
    p = (uint8_t *)AREA + 0x40;
    /* 32 bits: mov eax, 0xcb660001... 16 bits: mov ax, 1; o32 lret. */
    EMIT(p, 0xb8, 0x01, 0x00, 0x66, 0xcb, 0xcb);
    p = (uint8_t *)AREA + 0x60;
    EMIT(p, 0xe9); /* a jump out of the page: where to depends on nothing but EIP */
    emit_rel32(p, AREA + 0x1000);
    p = (uint8_t *)AREA + 0x1000;
    EMIT(p, 0x8c, 0xc8, 0xcb); /* mov cs, eax; lret */
    set_seg(S0, AREA, 0xfffff, CODE32);
    set_seg(S1, AREA - 0x10000, 0xfffff, CODE32);
    set_seg(S2, AREA, 0xffff, CODE16);
    for (unsigned n = 0; n < 2 * HOT; n++) {
        unsigned k = n < HOT ? 0 : n % 3; /* warm in the one, then in turn */
        uint16_t sel = k == 2 ? SEL_CODE : k == 1 ? S1 : S0;
        uint32_t base = k == 2 ? 0 : k == 1 ? AREA - 0x10000 : AREA;

        if (!row_is("eip", far_call(sel, AREA - base, 0), AREA - base + 5) ||
            !row_is("32 bits", far_call(sel, AREA - base + 0x40, 0), 0xcb660001) ||
            !row_is("cs", far_call(sel, AREA - base + 0x60, 0), sel) ||
            !row_is("16 bits", far_call(S2, 0x40, 0x12345678), 0x12340001))
            return;
        if (n % 500 == 499) { /* the descriptor changes: so does where it is */
            set_seg(S0, AREA - 0x300 * (n / 500), 0xfffff, CODE32);
            if (!row_is("base moved", far_call(S0, 0x300 * (n / 500), 0), 0x300 * (n / 500) + 5))
                return;
            set_seg(S0, AREA, 0xfffff, CODE32);
        }
    }
}

/* The limit comes down on warm code: in mid-block, in mid-instruction. */
static void code_beyond_its_limit(void)
{
    uint8_t *p = (uint8_t *)AREA;

    EMIT(p, 0x40, 0x40, 0x40, 0xb8, 7, 0, 0, 0, 0xcb); /* inc eax, 3 times; mov 7, eax; lret */
    set_seg(S0, AREA, 0xfffff, 0x409b);
    for (unsigned limit = 1; limit < 10; limit++) {
        set_seg(S0, AREA, 8, 0x409b);
        for (unsigned n = 0; n < HOT / 4; n++)
            if (!row_is("whole", far_call(S0, 0, 0), 7))
                return;
        set_seg(S0, AREA, limit - 1, 0x409b);
        if (limit == 9)
            break;
        {
            static struct far_ptr to = {0, S0};

            TRAP("lcall *(%%edx)", .d = (uintptr_t)&to);
        }
        if (!row_is("vector", trap.vector, GP) ||
            !row_is("ip", trap.ip,
                    limit < 3   ? limit
                    : limit < 8 ? 3
                                : 8) ||
            !row_is("cs", trap.cs & 0xffff, S0))
            return;
    }
}

/* ---- data segments and stacks
 * -------------------------------------------------------------------- */

/* A loop over a segment whose limit, base and presence change between two runs, and at last within.
 */
static void data_segment_changes(void)
{

    for (unsigned i = 0; i < 1024; i++)
        ((volatile uint32_t *)AREA)[i] = i;
    for (unsigned i = 0; i < 1024; i++)
        ((volatile uint32_t *)FAR)[i] = 5 * i;
    for (unsigned n = 0; n < 40; n++) {
        uint32_t limit = n % 4 == 3 ? 2000 + n : 4095, down = n % 8 == 7;

        set_seg(S0, n & 1 ? FAR : AREA, down ? 400 : limit, down ? 0x4097 : DATA_B);
        TRAP("mov %%edx, %%fs; mov $1020, %%ecx; xor %%eax, %%eax; 4: add %%fs:(%%ecx), %%eax;"
             "sub $4, %%ecx; jns 4b; mov %%eax, save; mov %%ecx, save + 4",
             .d = S0);
        /* Expand-down: up to its limit there is nothing. */
        if (!row_is("traps", trap.count, down) ||
            (!down && !row_is("sum", (uint32_t)save, (n & 1 ? 5 : 1) * (255 * 256 / 2))))
            break;
        /* Upwards, into the limit. */
        TRAP("mov %%edx, %%fs; xor %%ecx, %%ecx; 4: mov %%fs:(%%ecx), %%eax; mov %%ecx, save;"
             "add $4, %%ecx; cmp $8000, %%ecx; jb 4b",
             .d = S0);
        if (!down && (!row_is("beyond", trap.vector, GP) ||
                      !row_is("the last one inside", (uint32_t)save, ((limit + 1) / 4 - 1) * 4)))
            break;
    }
    __asm__ volatile("mov %0, %%fs" : : "r"(SEL_DATA));
}

/* A 16-bit stack segment under 32-bit code: SP wraps, the upper half of ESP stays. */
static void stack_of_16_bits(void)
{
    set_seg(S0, AREA, 0xffff, DATA16);
    for (unsigned n = 0; n < HOT; n++) {
        uint32_t sp, sum;
        uint32_t start = 0x12340000 | n % 6 * 4, top = start;

        __asm__ volatile("mov %%esp, %%esi; mov %%ss, %%edi; mov %3, %%ss; mov %2, %%esp;"
                         "push $1; push $2; call 3f; jmp 4f; 3: push $4; pop %%eax; mov $0, %%ecx;"
                         "add %%eax, %%ecx; ret; 4: pop %%eax; add %%eax, %%ecx; pop %%eax;"
                         "add %%eax, %%ecx; mov %%esp, %0; mov %%edi, %%ss; mov %%esi, %%esp"
                         : "=&d"(sp), "=&c"(sum), "+a"(top)
                         : "b"(S0)
                         : "esi", "edi", "memory", "cc");
        if (!row_is("esp", sp, start) || !row_is("sum", sum, 7))
            return;
    }
}

/* ES:EDX of every size that there is, up to the last byte of the segment, one less, and one more. */
#define ACCESSES(X)                                        \
    X(load8, 1, "mov %es:(%edx), %al")                     \
    X(load_high, 1, "mov %es:(%edx), %bh")                 \
    X(load16, 2, "mov %es:(%edx), %ax")                    \
    X(load32, 4, "mov %es:(%edx), %eax")                   \
    X(store8, 1, "mov %ch, %es:(%edx)")                    \
    X(store16, 2, "mov %cx, %es:(%edx)")                   \
    X(store32, 4, "mov %ecx, %es:(%edx)")                  \
    X(add, 4, "addl $0, %es:(%edx)")                       \
    X(locked, 4, "lock addl $0, %es:(%edx)")               \
    X(push, 4, "push %es:(%edx); pop %eax")                \
    X(pop, 4, "push $5; pop %es:(%edx)")                   \
    X(bits, 1, "btsl $0, %es:-3(%edx)")                    \
    X(selector, 2, "mov %ds, %es:(%edx)")                  \
    X(fld, 8, "fldl %es:(%edx); fstp %st")                 \
    X(fstp, 10, "fldz; fstpt %es:(%edx)")                  \
    X(movq, 8, "movq %mm0, %es:(%edx); emms")              \
    X(stos, 4, "mov %edx, %edi; stosl")                    \
    X(movs, 2, "mov %edx, %edi; mov $save, %esi; movsw")   \
    X(xchg8b, 8, "lock cmpxchg8b %es:(%edx)")
#define ACCESS_CODE(id, size, code)  __asm__("ac_" #id ": " code "; ret");
#define ACCESS_NAMES(id, size, code) extern uint8_t ac_##id[];
#define ACCESS_ROW(id, size, code)   {#id, (uintptr_t)ac_##id, size},
ACCESSES(ACCESS_CODE)
ACCESSES(ACCESS_NAMES)

static void limits_by_size(void)
{
    static const struct {
        const char *name;
        uint32_t at, size;
    } rows[] = {ACCESSES(ACCESS_ROW)};
    static const struct {
        uint32_t base, limit;
        uint16_t attr;
        uint32_t last; /* byte that may be accessed */
    } segments[] = {
        {AREA + 8, 0x7ff, DATA_B, 0x7ff},    {AREA, 0xfff, DATA_B, 0xfff},
        {AREA + 0xffc, 0x1fff, DATA_B, 0x1fff}, {AREA, 0x7ff, DATA16 | 4, 0xffff},
        {AREA + 1, 0, DATA32, 0xfff},
    };

    __asm__ volatile("fninit");
    for (unsigned s = 0; s < COUNT(segments); s++) {
        set_seg(S0, segments[s].base, segments[s].limit, segments[s].attr);
        for (unsigned i = 0; i < COUNT(rows); i++)
            for (unsigned n = 0; n < HOT / 8; n++) {
                uint32_t size = rows[i].size, last = segments[s].last;
                bool beyond = n % 32 == 31;
                uint32_t at = last - size + 1 + (beyond ? 1 : -(n % 3));

                TRAP("push %%es; mov %%ecx, %%es; call *%%eax; pop %%es", .a = rows[i].at, .c = S0,
                     .d = at);
                if (beyond) /* the handler came by with another ES */
                    __asm__ volatile("mov %0, %%es" : : "r"(SEL_DATA));
                if (!row_is(rows[i].name, trap.count, beyond) ||
                    (beyond && !row_is(rows[i].name, trap.vector, GP)))
                    break;
            }
    }
}

/* A stack segment of both sizes whose pages and end are crossed in the middle of what is pushed. */
static void stacks_across_pages(void)
{
    for (unsigned n = 0; n < HOT; n++) {
        uint32_t base = AREA + n % 4 * 0x123, start = (n & 1 ? 0x1000 : 0x2000) - n % 16 - base % 0x1000;
        uint32_t sum = 0, sp;

        set_seg(S0, base, 0xffff, n & 4 ? DATA16 : DATA_B);
        __asm__ volatile("mov %%esp, %%esi; mov %%ss, %%edi; mov %3, %%ss; mov %%edx, %%esp;"
                         "push $1; pushw $2; push $3; call 3f; jmp 4f; 3: push %%ebp; mov %%esp, %%ebp;"
                         "sub $32, %%esp; movl $7, -8(%%ebp); mov -8(%%ebp), %%ecx; leave; ret;"
                         "4: pop %%eax; add %%eax, %%ecx; popw %%ax; add %%eax, %%ecx; pop %%eax;"
                         "add %%eax, %%ecx; mov %%esp, %0; mov %%edi, %%ss; mov %%esi, %%esp"
                         : "=&a"(sp), "+c"(sum), "+d"(start)
                         : "b"(S0)
                         : "esi", "edi", "memory", "cc");
        if (!row_is("esp", sp, start) || !row_is("sum", sum, 7 + 3 + 2 + 1))
            return;
    }
}

/* LOOP, LOOPE, LOOPNE, JCXZ by ECX and by CX: what they leave, and where they go. */
#define COUNTERS(X)                              \
    X(loop, 4, 2, "loop 8f")                     \
    X(loope, 4, 1, "loope 8f")                   \
    X(loopne, 4, 0, "loopne 8f")                 \
    X(jecxz, 4, 3, "jecxz 8f")                   \
    X(loop16, 2, 2, "addr16 loop 8f")            \
    X(loope16, 2, 1, "addr16 loope 8f")          \
    X(loopne16, 2, 0, "addr16 loopne 8f")        \
    X(jcxz, 2, 3, "jcxz 8f")
/* ecx, edx (compared with 0): eax = taken, and edx the flags behind it. */
#define COUNTER_CODE(id, size, how, code) \
    __asm__("co_" #id ": xor %eax, %eax; cmp $0, %edx; " code "; jmp 9f; 8: mov $1, %eax; 9: pushf; pop %edx; ret");
#define COUNTER_NAMES(id, size, how, code) extern uint8_t co_##id[];
#define COUNTER_ROW(id, size, how, code)   {#id, (uintptr_t)co_##id, size, how},
COUNTERS(COUNTER_CODE)
COUNTERS(COUNTER_NAMES)

static void counters(void)
{
    static const struct {
        const char *name;
        uint32_t at, size, how;
    } rows[] = {COUNTERS(COUNTER_ROW)};
    static const uint32_t values[] = {0, 1, 2, 0x10000, 0x10001, 0xffff, 0x12340000, ~0u, 0x80000000};

    for (unsigned i = 0; i < COUNT(rows); i++)
        for (unsigned n = 0; n < HOT; n++) {
            uint32_t cx = values[n % COUNT(values)], dx = n & 1, ax = rows[i].at, flags = dx;
            uint32_t mask = rows[i].size == 2 ? 0xffff : ~0u, want = cx, taken;

            if (rows[i].how == 3) {
                taken = !(cx & mask);
            } else {
                want = (cx & ~mask) | ((cx - 1) & mask);
                taken = (want & mask) && (rows[i].how == 2 || (dx == 0) == rows[i].how);
            }
            __asm__ volatile("call *%0" : "+a"(ax), "+c"(cx), "+d"(flags) : : "memory", "cc");
            if (!row_is(rows[i].name, ax, taken) || !row_is(rows[i].name, cx, want) ||
                !row_is(rows[i].name, flags & 0x8d5, dx ? 0 : 0x44))
                return;
        }
}

/* Near 0 and 4 GiB addresses wrap; there is RAM at the one end only. */
static void addresses_wrap(void)
{
    static volatile uint32_t word;

    for (unsigned n = 0; n < HOT; n++) {
        uint32_t got, at = (uint32_t)(uintptr_t)&word, far = 0xfffff000 + n % 512 * 8;

        word = n;
        __asm__ volatile("lea (%1, %2), %0; mov (%1, %2), %0"
                         : "=&r"(got)
                         : "r"(at - far), "r"(far)
                         : "memory");
        if (!row_is("base and index", got, n))
            return;
        __asm__ volatile("mov 0x7ffffff0(%1), %0" : "=r"(got) : "r"(at - 0x7ffffff0) : "memory");
        if (!row_is("displacement", got, n))
            return;
        __asm__ volatile("mov 0x20(%1), %0" : "=r"(got) : "r"(at - 0x20) : "memory");
        if (!row_is("near", got, n))
            return;
    }
    set_seg(S0, 0x1000, 0xfffff, DATA32); /* to 4 GiB, and around */
    for (unsigned n = 0; n < HOT; n++) {
        uint32_t got;

        word = n;
        __asm__ volatile("mov %2, %%fs; mov %%fs:-0x1000(%1), %0"
                         : "=r"(got)
                         : "r"(&word), "r"(S0)
                         : "memory");
        if (!row_is("segment", got, n))
            break;
    }
    __asm__ volatile("mov %0, %%fs" : : "r"(SEL_DATA));
}

/* ---- flags
 * ---------------------------------------------------------------------------------------- */

uint32_t flag_mix(uint32_t gap);
/* gap: the address of code that leaves the flags alone. */
__asm__(
    "flag_mix: push %ebx; push %esi; push %edi; mov 16(%esp), %ebx; mov $0x99, %eax; add $0x78, %al;"
    "call *%ebx; pushf; pop %eax; pop %edi; pop %esi; pop %ebx; ret");
#define GAPS(X)                                                                                 \
    X(ret, "nop")                                                                               \
    X(pusha, "pusha; popa")                                                                     \
    X(lcall, "lcall $8, $8f; jmp 9f; 8: lret; 9:")                                              \
    X(ljmp, "ljmp $8, $8f; 8:")                                                                 \
    X(segments, "push %es; push %ds; pop %es; pop %es; mov %ds, %eax; mov %eax, %fs")           \
    X(lds, "push %ds; push $0; lds (%esp), %eax; lea 8(%esp), %esp")                            \
    X(iret, "pushf; push %cs; push $8f; iret; 8:")                                              \
    X(interrupt, "int $0x90")                                                                   \
    X(loop, "mov $3, %ecx; 8: loop 8b; jecxz 8f; int3; 8:")                                     \
    X(loop16, "mov $0x10003, %ecx; 8: addr16 loop 8b; jcxz 8f; int3; 8:")                       \
    X(strings, "lea save, %esi; mov %esi, %edi; movsb; mov $0, %ecx; repe cmpsb")               \
    X(xlat, "lea save, %ebx; xlat; lahf; sahf")                                                 \
    X(bound, "push $0x7fffffff; push $0; mov $5, %eax; bound %eax, (%esp); pop %eax; pop %eax") \
    X(enter, "enter $8, $0; leave")
#define GAP_CODE(id, code)  __asm__("gap_" #id ": " code "; ret");
#define GAP_NAMES(id, code) extern uint8_t gap_##id[];
#define GAP_ROW(id, code)   {#id, (uintptr_t)gap_##id},
GAPS(GAP_CODE)
GAPS(GAP_NAMES)

static bool flag_hook(struct frame *f)
{
    return f->vector == 0x90;
}

static void flags_across_gaps(void)
{
    static const struct {
        const char *name;
        uint32_t at;
    } gaps[] = {GAPS(GAP_ROW)};

    trap_hook = flag_hook;
    for (unsigned i = 0; i < COUNT(gaps); i++)
        for (unsigned n = 0; n < HOT; n++) /* 99h + 78h: CF, AF, no OF, 11h */
            if (!row_is(gaps[i].name, flag_mix(gaps[i].at) & 0x8d5, 0x15))
                break;
    trap_hook = NULL;
}

/* Decimal instructions take AF and CF from far away, and give them on. */
static void decimal_chain(void)
{
    for (unsigned n = 0; n < HOT; n++) {
        uint32_t a = n % 100, b = n / 7 % 100, bcd_a = a / 10 << 4 | a % 10,
                 bcd_b = b / 10 << 4 | b % 10;
        uint32_t sum = bcd_a, diff = bcd_a, carry, borrow;

        __asm__ volatile(
            "add %b2, %b0; call 3f; jmp 4f; 3: ret; 4: daa; mov $0, %1; jmp 5f; 5: adc $0, %1"
            : "+a"(sum), "=&d"(carry)
            : "c"(bcd_b)
            : "cc");
        __asm__ volatile("sub %b2, %b0; pushf; popf; das; mov $0, %1; adc $0, %1"
                         : "+a"(diff), "=&d"(borrow)
                         : "c"(bcd_b)
                         : "cc");
        if (!row_is("sum", (sum >> 4 & 15) * 10 + (sum & 15) + 100 * carry, a + b) ||
            !row_is("difference", (diff >> 4 & 15) * 10 + (diff & 15), (a + 100 - b) % 100) ||
            !row_is("borrow", borrow, a < b))
            return;
    }
}

const struct guest_case guest_cases[] = {
    {"stores into the running block", stores_into_the_running_block},
    {"one code in many segments", one_code_in_many_segments},
    {"code beyond its limit", code_beyond_its_limit},
    {"data segment changes", data_segment_changes},
    {"stack of 16 bits", stack_of_16_bits},
    {"limits by size", limits_by_size},
    {"stacks across pages", stacks_across_pages},
    {"counters", counters},
    {"addresses wrap", addresses_wrap},
    {"flags across gaps", flags_across_gaps},
    {"decimal chain", decimal_chain},
};
const unsigned guest_ncases = COUNT(guest_cases);
