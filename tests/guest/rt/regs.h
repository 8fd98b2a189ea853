/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs code with every general register given, to the first trap that the hook ends it at
 * (regs_leave). Gates that may be met then have an IST: rsp may be anything.
 */
#ifndef GUEST_REGS_H
#define GUEST_REGS_H

#include "hot.h"

/* rax rcx rdx rbx rsp rbp rsi rdi r8 to r15, rip, rflags. */
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, RIP = 16, RFL, NREGS };

uint64_t in_regs[NREGS], out_regs[NREGS], regs_sp;
void regs_run(void), regs_done(void);
__asm__("regs_run: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15;"
        "mov %rsp, regs_sp; pushq in_regs + 17 * 8; popf; mov in_regs, %rax;"
        "mov in_regs + 8, %rcx; mov in_regs + 16, %rdx; mov in_regs + 24, %rbx;"
        "mov in_regs + 32, %rsp; mov in_regs + 40, %rbp; mov in_regs + 48, %rsi;"
        "mov in_regs + 56, %rdi; mov in_regs + 64, %r8; mov in_regs + 72, %r9;"
        "mov in_regs + 80, %r10; mov in_regs + 88, %r11; mov in_regs + 96, %r12;"
        "mov in_regs + 104, %r13; mov in_regs + 112, %r14; mov in_regs + 120, %r15;"
        "jmp *in_regs + 128; regs_done: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx;"
        "ret");

static inline void frame_regs(const struct frame *f, uint64_t *r)
{
    const uint64_t v[NREGS] = {f->ax,  f->cx,  f->dx,  f->bx,  f->sp,  f->bp,
                               f->si,  f->di,  f->r8,  f->r9,  f->r10, f->r11,
                               f->r12, f->r13, f->r14, f->r15, f->ip,  f->flags};

    for (unsigned i = 0; i < NREGS; i++)
        r[i] = v[i];
}

/* In a hook: the run ends here. */
static inline void regs_leave(struct frame *f)
{
    frame_regs(f, out_regs);
    f->ip = (uintptr_t)regs_done;
    f->sp = regs_sp;
    f->cs = SEL_CODE;
    f->ss = SEL_DATA;
    f->flags = 2;
}

/* A hook that ends the run whatever comes. */
static inline bool regs_hook(struct frame *f)
{
    regs_leave(f);
    return true;
}

static inline void regs_start(bool (*hook)(struct frame *))
{
    for (unsigned v = 0; v < 256; v++)
        idt_set(v, idt_stub(v), SEL_CODE, 0xee, 1);
    if (!tss.ist[0])
        tss.ist[0] = (uintptr_t)page_alloc() + 4096;
    trap_hook = hook;
}

static inline void regs_end(void)
{
    trap_hook = NULL;
    for (unsigned v = 0; v < 256; v++)
        idt_set(v, idt_stub(v), SEL_CODE, v == 3 || v == 4 || v >= 0x80 ? 0xee : 0x8e, 0);
}

static inline bool same_regs(const char *name, const uint64_t *a, const uint64_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (!row_is(name, a[i], b[i])) {
            fail_at("register", i, NREGS);
            return false;
        }
    return true;
}

#endif
