/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native side of hostdiff: a child that lives inside its signal handler. Each case is entered
 * by sigreturn and comes back with the next signal, about three microseconds a case.
 *
 * The handler puts its own FS base back before it does anything that might use thread-local
 * storage, and sets the case's segments last.
 */
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/cpu/hostdiff.h"

/* glibc's names for these clash with cpu_state.h's. */
enum { G_EFL = 17, G_CSGSFS = 18, G_ERR = 19, G_TRAPNO = 20, G_CR2 = 22, G_RIP = 16 };
static const uint8_t greg_of[16] = {13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7};

#define XSTATE_ALL    0xe7ull
#define FLAGS_HANDLER 0x202ull

const struct hd_desc hd_ldt[LDT_COUNT] = {
    [LDT_CODE32] = {HD_CODE, 0x3fff, 1, 2, 0, 0, 0},
    [LDT_CODE16] = {HD_CODE, 0xffff, 0, 2, 0, 0, 0},
    [LDT_DATA32] = {HD_DATA, 0x5fff, 1, 0, 0, 0, 0},
    [LDT_DATA16] = {HD_DATA, 0x5fff, 0, 0, 0, 0, 0},
    [LDT_FLAT] = {0, 0xfffff, 1, 0, 0, 1, 0},
    [LDT_DOWN32] = {HD_DATA, 0x7ff, 1, 1, 0, 0, 0},
    [LDT_DOWN16] = {HD_DATA, 0x7ff, 0, 1, 0, 0, 0},
    [LDT_DATA_RO] = {HD_DATA, 0x5fff, 1, 0, 1, 0, 0},
    [LDT_CODE32_FLAT] = {0, 0xfffff, 1, 2, 0, 1, 0},
    [LDT_ABSENT] = {HD_DATA, 0x5fff, 1, 0, 0, 0, 1},
    [LDT_CODE_XO] = {HD_DATA, 0x5fff, 1, 2, 1, 0, 0},
    [LDT_DATA_ODD] = {HD_DATA + 5, 0x4fff, 1, 0, 0, 0, 0},
    [LDT_CONFORMING] = {HD_CODE, 0x3fff, 1, 3, 0, 0, 1},
    [LDT_END1] = {HD_DATA, 0x1002, 1, 0, 0, 0, 0},
    [LDT_END2] = {HD_DATA, 0x2001, 1, 0, 0, 0, 0},
    [LDT_END3] = {HD_DATA, 0x3003, 1, 0, 0, 0, 0},
    [LDT_END4] = {HD_DATA, 0x4002, 1, 0, 0, 0, 0},
};

/* The child's; the parent has its own copy and does not use most of it. */
static struct {
    struct hd_shared *shared;
    pid_t child;
    unsigned batch, index;
    bool running;
    uint64_t fs_base;
    uint64_t code_at;     /* offset of the last case's bytes */
    uint8_t *data, *code; /* writable views of what lies at HD_DATA and HD_CODE */
    uint32_t xoff[8];
} n;

static uint32_t xsave_offset(unsigned component)
{
    unsigned a, b, c, d;

    return __get_cpuid_count(0xd, component, &a, &b, &c, &d) ? b : 0;
}

/* ---- state ----------------------------------------------------------------------------------- */

static void fpu_to_area(const struct cpu_fpu *f, uint8_t *p)
{
    uint32_t features = get_le32(p + 464) == 0x46505853 ? get_le32(p + 472) : 3;
    uint64_t bv = get_le64(p + 512);

    put_le16(p, f->fcw);
    put_le16(p + 2, f->fsw);
    p[4] = f->ftw;
    p[5] = 0;
    put_le16(p + 6, f->fop);
    put_le64(p + 8, f->fip);
    put_le64(p + 16, f->fdp);
    put_le32(p + 24, f->mxcsr);
    memcpy(p + 32, f->st, 128);
    for (unsigned r = 0; r < 16; r++) {
        memcpy(p + 160 + r * 16, f->zmm[r], 16);
        if (n.xoff[2])
            memcpy(p + n.xoff[2] + r * 16, f->zmm[r] + 16, 16);
        if (n.xoff[6])
            memcpy(p + n.xoff[6] + r * 32, f->zmm[r] + 32, 32);
        if (n.xoff[7])
            memcpy(p + n.xoff[7] + r * 64, f->zmm[16 + r], 64);
    }
    if (n.xoff[5])
        memcpy(p + n.xoff[5], f->k, 64);
    put_le64(p + 512, (bv & ~XSTATE_ALL) | (XSTATE_ALL & features));
}

static void area_to_fpu(const uint8_t *p, struct cpu_fpu *f)
{
    uint64_t bv = get_le64(p + 512);

    memset(f, 0, sizeof(*f));
    f->fcw = 0x37f;
    if (bv & 1) {
        f->fcw = get_le16(p);
        f->fsw = get_le16(p + 2);
        f->ftw = p[4];
        f->fop = get_le16(p + 6);
        f->fip = get_le64(p + 8);
        f->fdp = get_le64(p + 16);
        memcpy(f->st, p + 32, 128);
    }
    f->mxcsr = get_le32(p + 24);
    for (unsigned r = 0; r < 16; r++) {
        if (bv & 2)
            memcpy(f->zmm[r], p + 160 + r * 16, 16);
        if (bv & 4)
            memcpy(f->zmm[r] + 16, p + n.xoff[2] + r * 16, 16);
        if (bv & 0x40)
            memcpy(f->zmm[r] + 32, p + n.xoff[6] + r * 32, 32);
        if (bv & 0x80)
            memcpy(f->zmm[16 + r], p + n.xoff[7] + r * 64, 64);
    }
    if (bv & 0x20)
        memcpy(f->k, p + n.xoff[5], 64);
}

static void save_case(const struct hd_case *tc, struct hd_result *out, const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;

    for (unsigned r = 0; r < 16; r++)
        out->regs.gpr[r] = (uint64_t)g[greg_of[r]];
    out->regs.rip = (uint64_t)g[G_RIP];
    out->regs.rflags = (uint64_t)g[G_EFL];
    out->regs.seg[SEG_CS] = (uint16_t)g[G_CSGSFS];
    out->regs.seg[SEG_SS] = (uint16_t)((uint64_t)g[G_CSGSFS] >> 48);
    out->vector = (uint8_t)g[G_TRAPNO];
    out->error = (uint32_t)g[G_ERR];
    out->addr = out->vector == VEC_PF ? (uint64_t)g[G_CR2] : 0;
    if (out->vector == VEC_BP) { /* what follows the instruction, and fills the page */
        out->regs.rip--;
        out->vector = HD_DONE;
    } else if (tc->step && out->vector == VEC_DB) {
        out->vector = HD_DONE;
    } else if (out->vector == VEC_PF && out->regs.rip != tc->regs.rip && (out->error & 0x10)) {
        out->vector = HD_DONE; /* the next instruction is on an absent page */
    }
    if (out->vector == HD_DONE) {
        out->error = 0;
        out->addr = 0;
    }
    area_to_fpu((const uint8_t *)uc->uc_mcontext.fpregs, &out->fpu);
    out->hash = hd_hash_data(n.data);
    if (tc->dump)
        memcpy(n.shared->dump, n.data, HD_DATA_BYTES);
}

static void load_case(const struct hd_case *tc, ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    uint64_t at = hd_code_at(tc);

    hd_fill_data(n.data, n.shared->pattern, tc);
    memset(n.code + n.code_at, 0xcc, HD_CODE_MAX);
    memcpy(n.code + at, tc->code, tc->len);
    n.code_at = at;

    for (unsigned r = 0; r < 16; r++)
        g[greg_of[r]] = (greg_t)tc->regs.gpr[r];
    g[G_RIP] = (greg_t)tc->regs.rip;
    g[G_EFL] = (greg_t)(tc->regs.rflags | RFLAGS_IF | (tc->step ? RFLAGS_TF : 0));
    g[G_CSGSFS] = (greg_t)(tc->regs.seg[SEG_CS] | (uint64_t)tc->regs.seg[SEG_SS] << 48);
    fpu_to_area(&tc->fpu, (uint8_t *)uc->uc_mcontext.fpregs);
}

/* ---- the handler ----------------------------------------------------------------------------- */

static long raw_syscall(long nr, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long ret;

    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

static void futex_wait(_Atomic uint32_t *p, uint32_t value)
{
    struct timespec ts = {.tv_sec = 0, .tv_nsec = 50000000};

    raw_syscall(SYS_futex, (long)p, FUTEX_WAIT, value, (long)&ts);
}

static void futex_wake(_Atomic uint32_t *p)
{
    raw_syscall(SYS_futex, (long)p, FUTEX_WAKE, 1, 0);
}

static void next_batch(void)
{
    struct hd_batch *b = &n.shared->batch[n.batch];

    if (n.running) {
        atomic_store(&b->state, 0);
        futex_wake(&b->state);
        n.batch ^= 1;
        b = &n.shared->batch[n.batch];
    }
    for (unsigned spin = 0; !atomic_load(&b->state); spin++)
        if (spin > 200)
            futex_wait(&b->state, 0);
    n.index = 0;
}

static void on_signal(int sig, siginfo_t *si, void *context)
{
    ucontext_t *uc = context;
    struct hd_batch *b;
    const struct hd_case *tc;
    struct hd_result *out;
    uint16_t ds, es, fs, gs;
    uint64_t fs_base, gs_base;

    (void)sig;
    (void)si;
    __asm__ volatile("pushq %0; popfq" : : "i"((int)FLAGS_HANDLER) : "memory", "cc");
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3"
                     : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
    __asm__ volatile("rdfsbase %0; rdgsbase %1" : "=r"(fs_base), "=r"(gs_base));
    __asm__ volatile("wrfsbase %0" : : "r"(n.fs_base) : "memory");

    b = &n.shared->batch[n.batch];
    if (n.running) {
        tc = &b->cases[n.index];
        out = &b->results[n.index];
        out->regs.seg[SEG_DS] = ds;
        out->regs.seg[SEG_ES] = es;
        out->regs.seg[SEG_FS] = fs;
        out->regs.seg[SEG_GS] = gs;
        out->regs.fs_base = fs_base;
        out->regs.gs_base = gs_base;
        save_case(tc, out, uc);
        n.index++;
    }
    if (!n.running || n.index == b->count) {
        next_batch();
        n.running = true;
        b = &n.shared->batch[n.batch];
    }
    tc = &b->cases[n.index];
    atomic_store_explicit(&b->at, n.index, memory_order_relaxed);
    load_case(tc, uc);

    __asm__ volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs; mov %3, %%gs"
                     :
                     : "r"(tc->regs.seg[SEG_DS]), "r"(tc->regs.seg[SEG_ES]),
                       "r"(tc->regs.seg[SEG_FS]), "r"(tc->regs.seg[SEG_GS])
                     : "memory");
    if (tc->mode == HD_64)
        __asm__ volatile("wrgsbase %1; wrfsbase %0"
                         :
                         : "r"(tc->regs.fs_base), "r"(tc->regs.gs_base)
                         : "memory");
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static void die(const char *what)
{
    perror(what);
    _exit(3);
}

struct ldt_entry { /* struct user_desc of asm/ldt.h */
    uint32_t number, base, limit;
    uint32_t big : 1, contents : 2, read_exec_only : 1, in_pages : 1, absent : 1, useable : 1,
        lm : 1;
};

static void write_ldt(void)
{
    for (unsigned k = 0; k < LDT_COUNT; k++) {
        const struct hd_desc *d = &hd_ldt[k];
        struct ldt_entry e = {.number = k,
                              .base = d->base,
                              .limit = d->limit,
                              .big = d->big,
                              .contents = d->contents,
                              .read_exec_only = d->read_exec_only,
                              .in_pages = d->in_pages,
                              .absent = d->absent};

        if (syscall(SYS_modify_ldt, 0x11, &e, sizeof(e)))
            die("hostdiff: modify_ldt");
    }
}

static void map_pages(void)
{
    static const uint8_t kind[HD_DATA_PAGES] = HD_DATA_MAP;
    int data = (int)syscall(SYS_memfd_create, "data", 0);
    int code = (int)syscall(SYS_memfd_create, "code", 0);
    size_t code_bytes = (HD_CODE_PAGES + 1) * PAGE_SIZE;

    if (data < 0 || code < 0 || ftruncate(data, HD_DATA_BYTES) ||
        ftruncate(code, (off_t)code_bytes))
        die("hostdiff: memfd");
    n.data = mmap(NULL, HD_DATA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, data, 0);
    n.code = mmap(NULL, code_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    for (unsigned high = 0; high < 2; high++) {
        uint64_t base = high ? HD_HIGH : 0;

        for (unsigned k = 0; k < HD_DATA_PAGES; k++)
            if (kind[k] && mmap((void *)(base + HD_DATA + k * PAGE_SIZE), PAGE_SIZE,
                                kind[k] == 2 ? PROT_READ | PROT_WRITE : PROT_READ,
                                MAP_SHARED | MAP_FIXED | MAP_POPULATE, data,
                                (off_t)k * PAGE_SIZE) == MAP_FAILED)
                die("hostdiff: mmap");
        if (mmap((void *)(base + HD_CODE), (size_t)HD_CODE_PAGES * PAGE_SIZE, PROT_READ | PROT_EXEC,
                 MAP_SHARED | MAP_FIXED | MAP_POPULATE, code, 0) == MAP_FAILED)
            die("hostdiff: mmap");
    }
    memset(n.code, 0xcc, code_bytes);
}

/* On one CPU for good: LSL of Linux's segment 78h gives the number of the CPU it runs on. */
static void stay_here(void)
{
    unsigned long mask[16] = {0};
    unsigned cpu = 0;

    syscall(SYS_getcpu, &cpu, NULL, NULL);
    mask[cpu / 64 % ARRAY_LEN(mask)] = 1ul << cpu % 64;
    syscall(SYS_sched_setaffinity, 0, sizeof(mask), mask);
}

static void child_main(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGUSR1};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t ss = {.ss_size = 1 << 20};
    uint32_t limit = UINT32_MAX;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stay_here();
    map_pages();
    write_ldt();
    n.xoff[2] = xsave_offset(2);
    for (unsigned k = 5; k < 8; k++)
        n.xoff[k] = xsave_offset(k);
    __asm__ volatile("lsl %1, %0" : "+r"(limit) : "r"(0x7b) : "cc");
    n.shared->cpunode_limit = limit;
    ss.ss_sp = mmap(NULL, ss.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
        die("hostdiff: sigaltstack");
    sigfillset(&sa.sa_mask);
    for (size_t k = 0; k < ARRAY_LEN(signals); k++)
        sigdelset(&sa.sa_mask, signals[k]);
    for (size_t k = 0; k < ARRAY_LEN(signals); k++)
        sigaction(signals[k], &sa, NULL);
    __asm__ volatile("rdfsbase %0" : "=r"(n.fs_base));
    atomic_store(&n.shared->ready, 1);
    raise(SIGUSR1);
    _exit(4);
}

bool native_start(struct hd_shared *shared)
{
    if (!(getauxval(AT_HWCAP2) & 2)) {
        fprintf(stderr, "hostdiff: needs a host whose kernel offers FSGSBASE\n");
        return false;
    }
    memset(&n, 0, sizeof(n));
    n.shared = shared;
    atomic_store(&shared->ready, 0);
    for (unsigned k = 0; k < 2; k++)
        atomic_store(&shared->batch[k].state, 0);
    n.child = fork();
    if (n.child < 0)
        return false;
    if (!n.child)
        child_main();
    while (!atomic_load(&shared->ready)) {
        if (waitpid(n.child, NULL, WNOHANG) == n.child)
            return false;
        usleep(1000);
    }
    return true;
}

static bool of_a_case(uint64_t addr)
{
    addr &= ~HD_HIGH;
    return addr - HD_DATA < HD_DATA_BYTES || addr - HD_CODE < (uint64_t)HD_CODE_PAGES * PAGE_SIZE;
}

bool native_has(uint64_t addr)
{
    char path[32], line[256];
    bool found = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)n.child);
    f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof(line), f)) {
        unsigned long from, to;

        found = sscanf(line, "%lx-%lx", &from, &to) == 2 && addr >= from && addr < to;
    }
    if (f)
        fclose(f);
    return found && !of_a_case(addr);
}

void native_stop(void)
{
    kill(n.child, SIGKILL);
    waitpid(n.child, NULL, 0);
}

void native_submit(unsigned batch)
{
    struct hd_batch *b = &n.shared->batch[batch];

    atomic_store(&b->state, 1);
    futex_wake(&b->state);
}

bool native_wait(unsigned batch)
{
    struct hd_batch *b = &n.shared->batch[batch];
    int status;

    for (unsigned spin = 0; atomic_load(&b->state); spin++) {
        if (spin < 200)
            continue;
        futex_wait(&b->state, 1);
        if (waitpid(n.child, &status, WNOHANG) == n.child) {
            printf("hostdiff: the child ended: status %x\n", (unsigned)status);
            return false;
        }
        if (spin > 200 + 20 * 60)
            return false; /* a minute: it hangs */
    }
    return true;
}
