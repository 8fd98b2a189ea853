/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every register in every place of an operand: base, index, data, the bytes AH to BH and SPL to
 * DIL; displacements from RIP in front of immediates; FS and GS; the address size prefix. Each
 * instruction is run alone with all registers given, many times.
 */
#include "rt/regs.h"

#define W         0x10000000000ull
#define CODE      (W + 0x100000)
#define PHYS      0x2000000ull
#define SLOTS     1024u /* of 16 bytes of code */
#define LOW       0x3000000ull
#define HIGH_HALF 0xffffff8000000000

static struct test {
    uint16_t in[3], out[3]; /* registers, 16: none; of out: which change */
    uint64_t in_value[3], out_value[3];
    uint64_t addr, before, after; /* of memory; addr 0: none */
} tests[SLOTS];
static unsigned ntests;
static uint8_t *at;

static void start(void)
{
    for (unsigned i = 0; i < 4; i++)
        map4k(W + i * 4096, PHYS + i * 4096, PTE_P | PTE_W);
    for (unsigned i = 0; i < 8; i++)
        map4k(CODE + i * 4096, PHYS + 0x10000 + i * 4096, PTE_P | PTE_W);
    memset((void *)CODE, 0xcc, SLOTS * 16);
    memset(tests, 0, sizeof(tests));
    ntests = 0;
    regs_start(regs_hook);
}

static struct test *add(void)
{
    struct test *t = &tests[ntests];

    at = (uint8_t *)CODE + ntests++ * 16;
    for (unsigned i = 0; i < 3; i++)
        t->in[i] = t->out[i] = 16;
    return t;
}

static bool run_test(const char *name, unsigned n)
{
    const struct test *t = &tests[n];
    uint64_t want[16];

    for (unsigned i = 0; i < 16; i++)
        in_regs[i] = 0xf0e0d0c0b0a09080 + i;
    in_regs[RSP] = W + 0x3800;
    for (unsigned i = 0; i < 3; i++)
        if (t->in[i] < 16)
            in_regs[t->in[i]] = t->in_value[i];
    for (unsigned i = 0; i < 16; i++)
        want[i] = in_regs[i];
    for (unsigned i = 0; i < 3; i++)
        if (t->out[i] < 16)
            want[t->out[i]] = t->out_value[i];
    in_regs[RIP] = CODE + n * 16;
    in_regs[RFL] = 2;
    if (t->addr)
        *(volatile uint64_t *)t->addr = t->before;
    regs_run();
    if (!same_regs(name, out_regs, want, 16) ||
        (t->addr && !row_is(name, *(volatile uint64_t *)t->addr, t->after))) {
        fail_at("test", n, *(uint64_t *)(CODE + n * 16));
        return false;
    }
    return true;
}

/* All in turn, many times: the first time is cold. */
static void run_all(const char *name, unsigned times)
{
    for (unsigned round = 0; round < times; round++)
        for (unsigned n = 0; n < ntests; n++)
            if (!run_test(name, n))
                goto out;
out:
    regs_end();
}

/* ---- base and index -----------------------------------------------------------------------------
 */

static void emit_operand(uint8_t op, unsigned reg, unsigned base, unsigned index, unsigned scale,
                         unsigned mod, int32_t disp)
{
    *at++ = (uint8_t)(0x48 | (reg & 8) >> 1 | (index & 8) >> 2 | base >> 3);
    *at++ = op;
    *at++ = (uint8_t)(mod << 6 | (reg & 7) << 3 | 4);
    *at++ = (uint8_t)(scale << 6 | (index & 7) << 3 | (base & 7));
    if (mod == 1)
        *at++ = (uint8_t)disp;
    else if (mod == 2)
        at = emit32(at, (uint32_t)disp);
}

static void base_and_index(uint8_t op)
{
    static const int32_t disps[] = {0, -0x24, 0x340};

    start();
    for (unsigned base = 0; base < 16; base++)
        for (unsigned index = 0; index < 16; index++) {
            unsigned reg = (base * 5 + index) % 16, scale = (base + index) % 4,
                     mod = (base ^ index) % 3;
            struct test *t;
            uint64_t b = W + 0x800, x = index == RSP ? 0 : 0x30 - index;
            uint64_t v;

            if (reg == RSP || (base == index && base == RSP))
                reg = 1;
            if (base == index && index != RSP) {
                scale = 0;
                b = x = (W + 0x800) / 2;
            }
            if (mod == 0 && (base & 7) == RBP)
                mod = 1;
            t = add();
            emit_operand(op, reg, base, index, scale, mod, disps[mod]);
            t->in[0] = (uint16_t)base;
            t->in_value[0] = b;
            if (index != RSP) {
                t->in[1] = (uint16_t)index;
                t->in_value[1] = x;
            }
            t->addr = b + (x << scale) + (uint64_t)(int64_t)disps[mod];
            t->before = t->after = 0x1122334455667788 + t->addr;
            v = reg == base ? b : reg == index ? x : 0xf0e0d0c0b0a09080 + reg;
            switch (op) {
            case 0x8b: /* mov m, r */
                t->out[0] = (uint16_t)reg;
                t->out_value[0] = t->before;
                break;
            case 0x89: /* mov r, m */
                t->after = v;
                break;
            case 0x01: /* add r, m */
                t->after += v;
                break;
            case 0x87: /* xchg */
                t->out[0] = (uint16_t)reg;
                t->out_value[0] = t->before;
                t->after = v;
                break;
            case 0x8d: /* lea */
                t->out[0] = (uint16_t)reg;
                t->out_value[0] = t->addr;
                break;
            }
        }
    run_all("base and index", HOT / 20);
}

static void loads(void)
{
    base_and_index(0x8b);
}
static void stores(void)
{
    base_and_index(0x89);
}
static void adds(void)
{
    base_and_index(0x01);
}
static void exchanges(void)
{
    base_and_index(0x87);
}
static void addresses(void)
{
    base_and_index(0x8d);
}

/* PUSH, POP and CALL of every register, and of memory by it. */
static void stack_operands(void)
{
    uint64_t sp = W + 0x1800;

    start();
    for (unsigned r = 0; r < 16; r++) {
        struct test *t = add(); /* push r */
        uint64_t v = r == RSP ? sp : 0xf0e0d0c0b0a09080 + r;

        *at++ = (uint8_t)(0x40 | r >> 3);
        *at++ = (uint8_t)(0x50 | (r & 7));
        t->in[0] = t->out[0] = RSP;
        t->in_value[0] = sp;
        t->out_value[0] = sp - 8;
        t->addr = sp - 8;
        t->after = v;

        t = add(); /* pop r */
        *at++ = (uint8_t)(0x40 | r >> 3);
        *at++ = (uint8_t)(0x58 | (r & 7));
        t->in[0] = t->out[0] = RSP;
        t->in_value[0] = sp;
        t->out_value[0] = sp + 8;
        t->out[1] = (uint16_t)r;
        t->addr = sp;
        t->before = t->after = t->out_value[1] = 0x1234567812345678;

        t = add(); /* pop 0x40(r) */
        *at++ = (uint8_t)(0x40 | r >> 3);
        *at++ = 0x8f;
        *at++ = (uint8_t)(0x40 | (r & 7));
        if ((r & 7) == RSP)
            *at++ = 0x24;
        *at++ = 0x40;
        t->in[0] = (uint16_t)(r == RSP ? 16 : r);
        t->in_value[0] = W + 0x400;
        t->in[1] = t->out[0] = RSP;
        t->in_value[1] = sp;
        t->out_value[0] = sp + 8;
        t->addr = r == RSP ? sp + 0x48 : W + 0x440;               /* by the rsp behind the pop */
        t->after = *(volatile uint64_t *)sp = 0x1234567812345678; /* as the one before leaves it */

        t = add(); /* push 0x40(r) */
        *at++ = (uint8_t)(0x40 | r >> 3);
        *at++ = 0xff;
        *at++ = (uint8_t)(0x70 | (r & 7));
        if ((r & 7) == RSP)
            *at++ = 0x24;
        *at++ = 0x40;
        t->in[0] = (uint16_t)(r == RSP ? 16 : r);
        t->in_value[0] = W + 0x400;
        t->in[1] = t->out[0] = RSP;
        t->in_value[1] = sp;
        t->out_value[0] = sp - 8;
        t->addr = r == RSP ? sp + 0x40 : W + 0x440;
        t->before = t->after = 0x777777770000 + r;

        t = add(); /* call *r, to the INT3 of the slot's end */
        *at++ = (uint8_t)(0x40 | r >> 3);
        *at++ = 0xff;
        *at++ = (uint8_t)(0xd0 | (r & 7));
        t->in[0] = t->out[0] = RSP;
        t->in_value[0] = sp;
        t->out_value[0] = sp - 8;
        t->in[1] = (uint16_t)(r == RSP ? 16 : r);
        t->in_value[1] = CODE + ntests * 16 - 1;
        t->addr = sp - 8;
        t->after = (uintptr_t)at;
        if (r == RSP) { /* code on the stack */
            t->in_value[0] = CODE + ntests * 16 + 0x500;
            t->out_value[0] = t->in_value[0] - 8;
            t->addr = t->in_value[0] - 8;
            t->before = -1ull;
        }
    }
    run_all("stack operands", HOT / 4);
}

/* ---- high bytes ---------------------------------------------------------------------------------
 */

static uint64_t byte_of(uint64_t v, unsigned shift)
{
    return v >> shift & 0xff;
}

static uint64_t with_byte(uint64_t v, unsigned shift, uint64_t b)
{
    return (v & ~(0xffull << shift)) | (b & 0xff) << shift;
}

/* Register operand 0 to 7 of a byte instruction: AH to BH without REX. */
static void byte_reg(unsigned code, bool rex, uint16_t *reg, unsigned *shift)
{
    *reg = (uint16_t)(rex || code < 4 ? code : code - 4);
    *shift = rex || code < 4 ? 0 : 8;
}

static void high_bytes(void)
{
    static const uint8_t ops[] = {0x88, 0x8a, 0x00, 0x02, 0x86, 0x30};
    static const uint8_t bases[] = {RAX, RCX, RDX, RBX, RSI, RDI};

    start();
    for (unsigned op = 0; op < COUNT(ops); op++)
        for (unsigned code = 0; code < 8; code++)
            for (unsigned k = 0; k < COUNT(bases) * 2; k++) {
                unsigned base = bases[k / 2], shift;
                bool rex = k & 1;
                struct test *t = add();
                uint64_t v, m = 0x55, r, w;
                uint16_t reg;

                if (rex)
                    *at++ = 0x40;
                *at++ = ops[op];
                *at++ = (uint8_t)(0x40 | code << 3 | base);
                *at++ = 0x10;
                byte_reg(code, rex, &reg, &shift);
                t->in[0] = (uint16_t)base;
                t->in_value[0] = W + 0x40 * (code + 1);
                t->addr = t->in_value[0] + 0x10;
                v = reg == base  ? t->in_value[0]
                    : reg == RSP ? W + 0x3800
                                 : 0xf0e0d0c0b0a09080 + reg;
                w = r = byte_of(v, shift);
                switch (ops[op]) {
                case 0x88:
                    m = w;
                    break;
                case 0x8a:
                    r = m;
                    break;
                case 0x00:
                    m += w;
                    break;
                case 0x02:
                    r += m;
                    break;
                case 0x86:
                    r = m;
                    m = w;
                    break;
                case 0x30:
                    m ^= w;
                    break;
                }
                t->before = 0x9999999999999955;
                t->after = with_byte(t->before, 0, m);
                t->out[0] = reg;
                t->out_value[0] = with_byte(v, shift, r);
            }
    run_all("high bytes", HOT / 20);
}

/* ---- RIP-relative, in front of immediates; absolute ---------------------------------------------
 */

static void relative_to_rip(void)
{
    static const struct {
        uint8_t len, imm, code[4];
        uint64_t before, after, ax;
    } forms[] = {
        {3, 0, {0x48, 0x8b, 0x05}, 0x123, 0x123, 0x123},                       /* mov m, rax */
        {3, 0, {0x48, 0x01, 0x05}, 5, 0xf0e0d0c0b0a09085, 0xf0e0d0c0b0a09080}, /* add rax, m */
        {3, 1, {0x48, 0x83, 0x05}, 5, 0x16, 0xf0e0d0c0b0a09080},               /* add imm8, m */
        {3, 4, {0x48, 0x81, 0x05}, 5, 0x11111116, 0xf0e0d0c0b0a09080},
        {3, 4, {0x48, 0xc7, 0x05}, 5, 0x11111111, 0xf0e0d0c0b0a09080}, /* mov imm32, m */
        {3, 2, {0x66, 0xc7, 0x05}, 0x50005, 0x51111, 0xf0e0d0c0b0a09080},
        {3, 4, {0x48, 0x69, 0x05}, 2, 2, 0x22222222},                     /* imul imm32, m, rax */
        {3, 1, {0x48, 0xc1, 0x25}, 1, 0x20000, 0xf0e0d0c0b0a09080},       /* shl imm8, m */
        {4, 1, {0x48, 0x0f, 0xba, 0x3d}, 0, 0x20000, 0xf0e0d0c0b0a09080}, /* btc imm8, m */
        {3, 0, {0x48, 0x8d, 0x05}, 7, 7, W + 0x900},                      /* lea */
        {3, 0, {0x48, 0xff, 0x05}, 7, 8, 0xf0e0d0c0b0a09080},             /* inc */
    };

    start();
    for (unsigned pass = 0; pass < 20; pass++)
        for (unsigned i = 0; i < COUNT(forms); i++) {
            struct test *t = add();

            memcpy(at, forms[i].code, forms[i].len);
            at += forms[i].len;
            at = emit32(at, (uint32_t)(W + 0x900 - (uintptr_t)at - 4 - forms[i].imm));
            for (unsigned k = 0; k < forms[i].imm; k++)
                *at++ = 0x11;
            t->addr = W + 0x900;
            t->before = forms[i].before;
            t->after = forms[i].after;
            t->out[0] = RAX;
            t->out_value[0] = forms[i].ax;
        }
    run_all("relative to rip", HOT / 10);
}

/* ---- segments and the address size
 * --------------------------------------------------------------- */

/* The code ends with an INT3. rax is what stands there; rcx, rdx, and the bases of FS and GS are
 * given. */
static void segments_and_address_size(void)
{
    static const struct {
        uint64_t cx, dx, fs, gs, addr;
        uint8_t code[12];
    } rows[] = {
        {0, 0x800, W, 0, W + 0x800, {0x64, 0x48, 0x8b, 0x02, 0xcc}}, /* fs:(rdx) */
        {0, 0x800, 0, W, W + 0x800, {0x65, 0x48, 0x8b, 0x02, 0xcc}}, /* gs:(rdx) */
        {0x10,
         0x7f0,
         0,
         W,
         W + 0x810,
         {0x65, 0x48, 0x8b, 0x44, 0x4a, 0x00, 0xcc}}, /* gs:0(rdx,rcx,2)
                                                       */
        {0, -0x800ull, W + 0x1000, 0, W + 0x800, {0x64, 0x48, 0x8b, 0x02, 0xcc}},
        {0, W + 0x1000, -0x800ull, 0, W + 0x800, {0x64, 0x48, 0x8b, 0x02, 0xcc}}, /* wraps to there
                                                                                   */
        {0, HIGH_HALF, W - HIGH_HALF + 0x800, 0, W + 0x800, {0x64, 0x48, 0x8b, 0x02, 0xcc}},
        {0, 0, W + 0x900, 0, W + 0x800, {0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0xff, 0xff, 0xff, 0xcc}},
        {0, 0, 0, W, W + 0x888, {0x65, 0x48, 0x8b, 0x04, 0x25, 0x88, 0x08, 0, 0, 0xcc}},
        {0, 0, 0, W, W + 0x888, {0x65, 0x48, 0xa1, 0x88, 0x08, 0, 0, 0, 0, 0, 0, 0xcc}}, /* moffs */
        {0, LOW | 5ull << 32, 0, 0, LOW, {0x67, 0x48, 0x8b, 0x02, 0xcc}},                /* (edx) */
        {0x20, 0xfffffff0, 0, 0, 0x10, {0x67, 0x48, 0x8b, 0x04, 0x0a, 0xcc}}, /* (edx,ecx): wraps */
        {-2ull, LOW + 8, 0, 0, LOW, {0x67, 0x48, 0x8b, 0x04, 0x8a, 0xcc}},    /* (edx,ecx,4) */
        {0, 0xffffff00, 0, 0, 0x10, {0x67, 0x48, 0x8b, 0x82, 0x10, 0x01, 0, 0, 0xcc}}, /* 0x110(edx)
                                                                                        */
        {0, 0xffffff00, W, 0, W + 0x10, {0x64, 0x67, 0x48, 0x8b, 0x82, 0x10, 0x01, 0, 0, 0xcc}},
        {0x820,
         0xfffffff0,
         0,
         W,
         W + 0x810,
         {0x65, 0x67, 0x48, 0x8b, 0x04, 0x0a, 0xcc}},                    /* wraps, then base */
        {0, 0, 0, 0, LOW, {0x67, 0x48, 0xa1, 0, 0, 0, LOW >> 24, 0xcc}}, /* moffs of 32 bits */
        {0, 0x800, W, W + 0x1000, W + 0x1800, {0x64, 0x65, 0x48, 0x8b, 0x02, 0xcc}}, /* the last one
                                                                                        counts */
        {0, W + 0x810, 0, 0, W + 0x810, {0x2e, 0x3e, 0x26, 0x36, 0x48, 0x8b, 0x02, 0xcc}},
    };

    for (unsigned warm = 0; warm < 2; warm++)
        for (unsigned i = 0; i < COUNT(rows); i++) {
            struct test *t;

            start();
            t = add();
            memcpy(at, rows[i].code, sizeof(rows[i].code));
            wrmsr(0xc0000100, rows[i].fs);
            wrmsr(0xc0000101, rows[i].gs);
            t->in[0] = RCX;
            t->in_value[0] = rows[i].cx;
            t->in[1] = RDX;
            t->in_value[1] = rows[i].dx;
            t->addr = rows[i].addr;
            t->before = t->after = 0x5a5a0000 + rows[i].addr;
            t->out[0] = RAX;
            t->out_value[0] = t->before;
            run_all("segments and address size", warm ? HOT : 1);
        }
    wrmsr(0xc0000100, 0);
    wrmsr(0xc0000101, 0);
}

const struct guest_case guest_cases[] = {
    {"loads by every base and index", loads},
    {"stores by every base and index", stores},
    {"additions by every base and index", adds},
    {"exchanges by every base and index", exchanges},
    {"addresses by every base and index", addresses},
    {"stack operands", stack_operands},
    {"high bytes", high_bytes},
    {"relative to rip", relative_to_rip},
    {"segments and address size", segments_and_address_size},
};
const unsigned guest_ncases = COUNT(guest_cases);
