/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that changes while it is warm: written by every kind of store, through other addresses, by
 * events, by the page walk and by DMA. SDM vol. 3A 9.1.3.
 */
#include "rt/hot.h"

#define VA      0x10000000000ull /* a window of 4 pages; 1 TiB: a PML4 entry of its own */
#define ALIAS   (VA + 0x100000)  /* its pages again */
#define SCRATCH (VA + 0x8000)
#define WALKED  (VA + 0x200000)
#define PHYS    0x2000000ull

/* Four pages at VA and at ALIAS, full of INT3, and one for data. */
static void window(void)
{
    for (unsigned i = 0; i < 4; i++) {
        map4k(VA + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
        map4k(ALIAS + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
    }
    map4k(SCRATCH, PHYS + 0x8000, PTE_P | PTE_W);
    memset((void *)VA, 0xcc, 4 * 4096);
}

/* ---- every kind of store ------------------------------------------------------------------------
 */

/* edi: a value; rsi: 64 bytes that start with it; rdx: where to. The store may be wider than 4
 * bytes. */
#define ALL 0xffffffffull
#define STORES(X)                                                                                \
    X(mov8, 0xff, HAS_SSE, 1, "mov %dil, (%rdx)")                                                \
    X(mov8_high, 0xff, HAS_SSE, 1, "mov %edi, %ecx; mov %cl, %ch; mov %ch, (%rdx)")              \
    X(mov16, 0xffff, HAS_SSE, 1, "mov %di, (%rdx)")                                              \
    X(mov32, ALL, HAS_SSE, 1, "mov %edi, (%rdx)")                                                \
    X(mov32_indexed, ALL, HAS_SSE, 1, "mov $-4, %rcx; mov %edi, 32(%rdx,%rcx,8)")                \
    X(mov64, ALL, HAS_SSE, 1, "mov (%rsi), %rax; mov %rax, (%rdx)")                              \
    X(movnti, ALL, HAS_SSE, 1, "movnti %edi, (%rdx)")                                            \
    X(xchg8, 0xff, HAS_SSE, 1, "mov %edi, %eax; xchg %al, (%rdx)")                               \
    X(xchg64, ALL, HAS_SSE, 1, "mov (%rsi), %rax; xchg %rax, (%rdx)")                            \
    X(cmpxchg, ALL, HAS_SSE, 1, "mov (%rdx), %eax; lock cmpxchg %edi, (%rdx)")                   \
    X(cmpxchg16b, ALL, HAS_SSE, 16,                                                              \
      "push %rbx; mov %rdx, %r8; mov (%r8), %rax; mov 8(%r8), %rdx; mov (%rsi), %rbx;"           \
      "mov 8(%rsi), %rcx; lock cmpxchg16b (%r8); pop %rbx")                                      \
    X(xadd, ALL, HAS_SSE, 1, "mov %edi, %ecx; sub (%rdx), %ecx; lock xadd %ecx, (%rdx)")         \
    X(add, ALL, HAS_SSE, 1, "mov %edi, %ecx; sub (%rdx), %ecx; add %ecx, (%rdx)")                \
    X(lock_xor, ALL, HAS_SSE, 1, "mov %edi, %ecx; xor (%rdx), %ecx; lock xor %ecx, (%rdx)")      \
    X(btc, 1, HAS_SSE, 1,                                                                        \
      "mov %edi, %ecx; xor (%rdx), %ecx; test $1, %cl; jz 9f; btcl $0, (%rdx); 9:")              \
    X(btc_far, 1, HAS_SSE, 1,                                                                    \
      "mov %edi, %ecx; xor (%rdx), %ecx; test $1, %cl; jz 9f; mov $0x100000, %eax;"              \
      "lea -0x20000(%rdx), %rcx; lock btc %rax, (%rcx); 9:")                                     \
    X(setcc, 1, HAS_SSE, 1, "test $1, %dil; setnz (%rdx)")                                       \
    X(stosb, 0xff, HAS_SSE, 1, "mov %edi, %eax; mov %rdx, %rdi; stosb")                          \
    X(stosq, ALL, HAS_SSE, 1, "mov (%rsi), %rax; mov %rdx, %rdi; stosq")                         \
    X(rep_stosb, 0xff, HAS_SSE, 1, "mov %edi, %eax; mov %rdx, %rdi; mov $1, %ecx; rep stosb")    \
    X(rep_stosd, ALL, HAS_SSE, 1, "mov %edi, %eax; mov %rdx, %rdi; mov $1, %ecx; rep stosl")     \
    X(movsb, 0xff, HAS_SSE, 1, "mov %rdx, %rdi; movsb")                                          \
    X(movsq, ALL, HAS_SSE, 1, "mov %rdx, %rdi; movsq")                                           \
    X(rep_movsb, ALL, HAS_SSE, 1, "mov %rdx, %rdi; mov $64, %ecx; rep movsb")                    \
    X(rep_movsq, ALL, HAS_SSE, 1, "mov %rdx, %rdi; mov $8, %ecx; rep movsq")                     \
    X(rep_movsb_down, ALL, HAS_SSE, 1,                                                           \
      "lea 63(%rdx), %rdi; add $63, %rsi; mov $64, %ecx; std; rep movsb; cld")                   \
    /* Through the mask register of a PIC. */                                                    \
    X(insb, 0xff, HAS_SSE, 1,                                                                    \
      "mov %edi, %eax; out %al, $0x21; mov %rdx, %rdi; mov $0x21, %edx; insb")                   \
    X(rep_insb, 0xff, HAS_SSE, 1,                                                                \
      "mov %edi, %eax; out %al, $0x21; mov %rdx, %rdi; mov $0x21, %edx; mov $1, %ecx; rep insb") \
    X(push, ALL, HAS_SSE, 1, "mov %rsp, %r8; lea 8(%rdx), %rsp; push (%rsi); mov %r8, %rsp")     \
    X(pop, ALL, HAS_SSE, 1, "push (%rsi); pop (%rdx)")                                           \
    X(enter, ALL, HAS_SSE, 1,                                                                    \
      "mov %rsp, %r8; mov %rbp, %r9; mov (%rsi), %rbp; lea 8(%rdx), %rsp; enter $0, $0;"         \
      "mov %r8, %rsp; mov %r9, %rbp")                                                            \
    X(fistp, ALL, HAS_SSE, 1, "fildl (%rsi); fistpl (%rdx)")                                     \
    X(movq_mmx, ALL, HAS_SSE, 1, "movq (%rsi), %mm0; movq %mm0, (%rdx); emms")                   \
    X(movlps, ALL, HAS_SSE, 1, "movups (%rsi), %xmm0; movlps %xmm0, (%rdx)")                     \
    X(movups, ALL, HAS_SSE, 1, "movups (%rsi), %xmm0; movups %xmm0, (%rdx)")                     \
    X(movaps, ALL, HAS_SSE, 16, "movups (%rsi), %xmm0; movaps %xmm0, (%rdx)")                    \
    X(maskmovdqu, ALL, HAS_SSE, 1,                                                               \
      "movups (%rsi), %xmm0; pcmpeqd %xmm1, %xmm1; mov %rdx, %rdi; maskmovdqu %xmm1, %xmm0")     \
    X(pextrd, ALL, HAS_AVX, 1, "movups (%rsi), %xmm0; pextrd $0, %xmm0, (%rdx)")                 \
    X(vmovups32, ALL, HAS_AVX, 1, "vmovups (%rsi), %ymm0; vmovups %ymm0, (%rdx); vzeroupper")    \
    X(vmaskmovps, ALL, HAS_AVX, 1,                                                               \
      "vmovups (%rsi), %ymm0; vpcmpeqd %ymm1, %ymm1, %ymm1; vmaskmovps %ymm0, %ymm1, (%rdx)")    \
    X(vmovups64, ALL, HAS_AVX512, 1, "vmovups (%rsi), %zmm0; vmovups %zmm0, (%rdx)")             \
    X(vmovaps64, ALL, HAS_AVX512, 64, "vmovups (%rsi), %zmm0; vmovaps %zmm0, (%rdx)")            \
    X(masked64, ALL, HAS_AVX512, 1,                                                              \
      "vmovups (%rsi), %zmm0; mov $1, %eax; kmovw %eax, %k1; vmovups %zmm0, (%rdx){%k1}")        \
    X(scatter, ALL, HAS_AVX512, 1,                                                               \
      "vmovups (%rsi), %zmm0; vpxord %zmm1, %zmm1, %zmm1; mov $1, %eax; kmovw %eax, %k1;"        \
      "vpscatterdd %zmm0, (%rdx,%zmm1,4){%k1}")                                                  \
    /* The return address is the value: the last instruction is 3 bytes long. */                 \
    X(call, 0, HAS_SSE, 1, "mov %rsp, %r8; lea 8(%rdx), %rsp; call 9f; 9: mov %r8, %rsp")

#define AS_CODE(id, mask, need, align, code) \
    __asm__(".globl st_" #id ", st_" #id "_end; st_" #id ": " code "; st_" #id "_end:");
#define AS_NAMES(id, mask, need, align, code) extern uint8_t st_##id[], st_##id##_end[];
#define AS_ROW(id, mask, need, align, code)   {#id, st_##id, st_##id##_end, mask, need, align},
STORES(AS_CODE)
STORES(AS_NAMES)
static const struct store {
    const char *name;
    const uint8_t *code, *end;
    uint64_t mask; /* of the value that comes through; 0: the address behind the CALL */
    int need;
    unsigned align;
} stores[] = {STORES(AS_ROW)};

typedef uintptr_t store_fn(uint32_t v, const void *data, void *to);

/*
 * The store, and what it changes: the immediate of a MOV to RAX. The block first stores to data,
 * next to the code and elsewhere, until it is warm.
 */
static const struct place {
    const char *name;
    uintptr_t code; /* if 0, right before the target, in its block */
    uintptr_t target;
    uintptr_t shift; /* from the target's address to the one used for the store */
    bool crossing;
} places[] = {
    {"same block", 0, VA + 0x140, 0, false},
    {"same page", VA + 0x400, VA + 0x140, 0, false},
    {"other page", VA + 0x2400, VA + 0x140, 0, false},
    {"same block by an alias", 0, VA + 0x140, ALIAS - VA, false},
    {"other page by an alias", VA + 0x2400, VA + 0x140, ALIAS - VA, false},
    {"crossing", 0, VA + 0xffe, 0, true},
    {"crossing, by an alias", VA + 0x2400, VA + 0xffe, ALIAS - VA, true},
};

static void store_row(const struct store *s, const struct place *p)
{
    struct {
        uint32_t v, zero;
        uint8_t ret, rest[55];
    } __attribute__((packed)) data = {0};
    size_t len = (size_t)(s->end - s->code);
    uint8_t *code = (uint8_t *)(p->code ? p->code : p->target - 2 - len);
    uint8_t *target = (uint8_t *)p->target - 2;
    uint64_t want = s->mask ? 0 : (uintptr_t)code + len - 3;

    if (p->crossing && s->align > 1)
        return;
    window();
    memset(data.rest, 0xcc, sizeof(data.rest));
    data.ret = 0xc3;
    memcpy(code, s->code, len);
    if (p->code)
        code[len] = 0xc3;
    EMIT(target, 0x48, 0xb8);
    emit64(target, 0);
    target[8] = 0xc3;
    target -= 2;
    for (unsigned round = 0; round < 6; round++) {
        uintptr_t near = VA + (p->crossing ? 0xe00 : 0x800), got;

        /* Round 0 is cold. */
        for (unsigned n = 0; n < (round ? HOT / 2 : 0); n++) {
            data.v = n;
            got = ((store_fn *)(uintptr_t)code)(n, &data, (void *)(n & 1 ? near : SCRATCH));
            got = p->code ? CALL(target) : got;
            if (!row_is(s->name, got, s->mask ? want & s->mask : want)) {
                fail_at(p->name, round, 1);
                return;
            }
        }
        data.v = 0x0b0a0907 * (round + 1);
        if (s->mask)
            want = data.v;
        got = ((store_fn *)(uintptr_t)code)(data.v, &data, (void *)(p->target + p->shift));
        got = p->code ? CALL(target) : got;
        if (!row_is(s->name, got, s->mask ? want & s->mask : want)) {
            fail_at(p->name, round, 0);
            return;
        }
    }
}

static void stores_into_code(void)
{
    int vectors = vectors_on();

    for (unsigned i = 0; i < COUNT(stores); i++)
        for (unsigned p = 0; p < COUNT(places) && stores[i].need <= vectors; p++)
            store_row(&stores[i], &places[p]);
}

/* ---- other writers ------------------------------------------------------------------------------
 */

static void rewritten_each_time(void)
{
    window();
    for (uint32_t n = 0; n < 3 * HOT; n++) {
        uint8_t *p = (uint8_t *)VA + 0x10 * (n % 7);

        emit_return(p, n);
        for (unsigned again = 0; again < n % 5; again++)
            CALL(p);
        if (!row_is("result", CALL(p), n))
            return;
    }
}

/* A sum by a loop with a branch forward and one back; then its constant is the one of the place. */
extern uint8_t movable[], movable_end[];
__asm__(".globl movable, movable_end; movable: mov $100, %ecx; xor %eax, %eax; 1: test $1, %cl;"
        "jz 2f; add $0x11223344, %eax; 2: dec %ecx; jnz 1b; ret; movable_end:");

static void copied_to_many_places(void)
{
    size_t len = (size_t)(movable_end - movable);

    window();
    for (unsigned n = 0; n < HOT; n++) {
        uint8_t *p = (uint8_t *)VA + n * 7; /* overlapping all earlier ones, at last over a page */

        memcpy(p, movable, len);
        memcpy(p + 13, &n, 4);
        if (!row_is("a copy", CALL(p), 50 * n))
            return;
    }
    for (unsigned n = 0; n < 200; n++) {
        uint8_t *p = (uint8_t *)VA + n * 64;

        memcpy(p, movable, len);
        memcpy(p + 13, &n, 4);
    }
    for (unsigned round = 0; round < 20; round++)
        for (unsigned n = 0; n < 200; n++)
            if (!row_is("copies side by side", CALL(VA + n * 64), 50 * n))
                return;
}

/* Two instruction streams in the same bytes: one starts in the other's immediate. */
static void entered_in_mid_instruction(void)
{
    static const uint8_t code[] = {0xb8, 0xb8, 0x02, 0, 0, 0xc3, 0xc3};

    window();
    memcpy((void *)VA, code, sizeof(code));
    for (unsigned n = 0; n < HOT; n++) {
        if (!row_is("from the start", CALL(VA), 0x2b8) ||
            !row_is("from the middle", CALL(VA + 1), 0xc3000002))
            return;
    }
    *(volatile uint8_t *)(VA + 2) = 3;
    CHECK_EQ(CALL(VA), 0x3b8);
    CHECK_EQ(CALL(VA + 1), 0xc3000003);
}

/* Counters in the code's own page, before and behind it and in between. */
static void data_among_code(void)
{
    volatile uint64_t *before = (volatile uint64_t *)VA, *behind = (volatile uint64_t *)(VA + 0x60);
    uint8_t *p = (uint8_t *)VA + 0x20;

    window();
    *before = *behind = 0;
    EMIT(p, 0x48, 0xff, 0x05); /* incq before(%rip) */
    p = emit_rel32(p, VA);
    EMIT(p, 0x48, 0x83, 0x05); /* addq $2, behind(%rip) */
    p = emit32(p, (uint32_t)((uintptr_t)behind - (uintptr_t)p - 5));
    EMIT(p, 2);
    EMIT(p, 0x48, 0x8b, 0x05); /* mov before(%rip), %rax */
    p = emit_rel32(p, VA);
    EMIT(p, 0xc3);
    for (unsigned n = 1; n <= 5 * HOT; n++)
        if (!row_is("counter", CALL(VA + 0x20), n) || !row_is("the other", *behind, 2 * n))
            return;
}

/*
 * The CPU's own stores. The frame of an interrupt lands on a short jump; its first bytes are those
 * of the return address, EBh 2Eh: another short jump.
 */
static void event_frame_in_code(void)
{
    extern uint8_t bare_iret[];
    uintptr_t entry = VA + 0x2eeb - 2, slot = VA + 0x2f08;
    uint8_t *p = (uint8_t *)entry;

    window();
    idt_set(0x90, (uintptr_t)bare_iret, SEL_CODE, 0x8e, 3);
    EMIT(p, 0xcd, 0x90, 0xe9); /* int $0x90; jmp slot */
    emit_rel32(p, slot);
    emit_return((uint8_t *)slot + 0x52, 1);
    emit_return((uint8_t *)slot + 0x30, 2);
    for (unsigned round = 0; round < 6; round++) {
        p = (uint8_t *)slot;
        EMIT(p, 0xeb, 0x50);
        tss.ist[2] = SCRATCH + 0x800;
        for (unsigned n = 0; n < (round ? HOT : 0); n++)
            if (!row_is("before", CALL(entry), 1))
                return;
        tss.ist[2] = slot + 40;
        row_is("behind", CALL(entry), 2);
    }
    idt_set(0x90, idt_stub(0x90), SEL_CODE, 0xee, 0);
}
__asm__("bare_iret: iretq");

/* A page table that is also code: an entry is an immediate, and the walk sets its A and D bits. */
static void page_walk_in_code(void)
{
    uint8_t *table, *p;
    volatile uint64_t *e, *used = (volatile uint64_t *)(WALKED + 0x1000);

    map4k(WALKED, (PHYS + 0x400000), PTE_P | PTE_W);
    table = (uint8_t *)(uintptr_t)(*pte(WALKED, 2) & ~0xfffull);
    memset(table, 0, 4096);
    p = table + 6;
    EMIT(p, 0x48, 0xb8); /* the immediate is the entry of the second page of the region */
    table[16] = 0xc3;
    e = (volatile uint64_t *)(table + 8);
    for (unsigned round = 0; round < 6; round++) {
        *e = (PHYS + 0x400000) | PTE_P | PTE_W;
        invlpg((void *)used);
        for (unsigned n = 0; n < (round ? HOT : 1); n++)
            if (!row_is("before", CALL(table + 6), (PHYS + 0x400000) | PTE_P | PTE_W))
                return;
        (void)*used;
        row_is("A", CALL(table + 6), (PHYS + 0x400000) | PTE_P | PTE_W | PTE_A);
        *used = 1;
        row_is("D", CALL(table + 6), (PHYS + 0x400000) | PTE_P | PTE_W | PTE_A | PTE_D);
    }
    *pte(WALKED, 2) = 0;
    write_cr3(read_cr3());
}

/* ---- a device's DMA: the NVMe controller answers Identify ---------------------------------------
 */

#define NVME 0xc1000000ull

static volatile uint32_t *nvme_sq, *nvme_cq, nvme_tail;

static uint32_t nvme_r(unsigned reg)
{
    return *(volatile uint32_t *)(NVME + reg);
}
static void nvme_w(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)(NVME + reg) = v;
}

static bool nvme_start(void)
{
    uint32_t at;

    for (unsigned dev = 0; dev < 32; dev++) {
        at = 0x80000000 | dev << 11;
        out32(0xcf8, at | 8);
        if (in32(0xcfc) >> 8 != 0x010802)
            continue;
        out32(0xcf8, at | 0x10);
        out32(0xcfc, NVME);
        out32(0xcf8, at | 0x14);
        out32(0xcfc, 0);
        out32(0xcf8, at | 4);
        out32(0xcfc, 6);
        nvme_sq = page_alloc();
        nvme_cq = page_alloc();
        nvme_w(0x14, 0);
        while (nvme_r(0x1c) & 1)
            ;
        nvme_w(0x24, 0x000f000f);
        nvme_w(0x28, (uint32_t)(uintptr_t)nvme_sq);
        nvme_w(0x2c, 0);
        nvme_w(0x30, (uint32_t)(uintptr_t)nvme_cq);
        nvme_w(0x34, 0);
        nvme_w(0x14, 0x00460001);
        while (!(nvme_r(0x1c) & 1))
            ;
        return true;
    }
    return false;
}

static void nvme_identify(uint64_t first, uint64_t second)
{
    uint32_t slot = nvme_tail % 16, phase = ~nvme_tail / 16 & 1;
    volatile uint32_t *sqe = nvme_sq + slot * 16;

    for (unsigned i = 0; i < 16; i++)
        sqe[i] = 0;
    sqe[0] = 6 | nvme_tail << 16;
    sqe[6] = (uint32_t)first;
    sqe[8] = (uint32_t)second;
    sqe[10] = 1;
    nvme_tail++;
    nvme_w(0x1000, nvme_tail % 16);
    while ((nvme_cq[slot * 4 + 3] >> 16 & 1) != phase)
        ;
    nvme_w(0x1004, nvme_tail % 16);
}

static void dma_into_code(void)
{
    uint32_t id;

    window();
    CHECK(nvme_start());
    if (!nvme_sq)
        return;
    nvme_identify(PHYS + 0x2000, 0);
    id = *(volatile uint32_t *)(VA + 0x2000); /* vendor and subsystem vendor */
    for (unsigned round = 0; round < 40; round++) {
        /* The data begin with the immediate, which ends the page; the rest goes elsewhere. */
        emit_return((uint8_t *)VA + 0xffb, round);
        for (unsigned n = 0; n < (round ? HOT : 1); n++)
            if (!row_is("before", CALL(VA + 0xffb), round))
                return;
        nvme_identify(PHYS + 0xffc, PHYS + 0x3000);
        row_is("behind", CALL(VA + 0xffb), id);
    }
}

const struct guest_case guest_cases[] = {
    {"every store into code", stores_into_code},
    {"rewritten each time", rewritten_each_time},
    {"copied to many places", copied_to_many_places},
    {"entered in mid-instruction", entered_in_mid_instruction},
    {"data among code", data_among_code},
    {"an interrupt's frame in code", event_frame_in_code},
    {"the page walk's bits in code", page_walk_in_code},
    {"DMA into code", dma_into_code},
};
const unsigned guest_ncases = COUNT(guest_cases);
