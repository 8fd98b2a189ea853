/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* mremap, REG_RIP */
#include <asm/prctl.h>
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/bytes.h"
#include "engine/interp/hostcode.h"

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

#define TRAP_PF 14

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

/*
 * Signal dispositions belong to the process and "who runs here" to the thread, so these are the two
 * exceptions to the rule against file-scope state. Neither says anything about a VM.
 */
static struct {
    pthread_mutex_t lock;
    struct sigaction old[ARRAY_LEN(signals)]; /* what was there before */
} process = {.lock = PTHREAD_MUTEX_INITIALIZER};
static _Thread_local struct hostcode *current, *outside; /* outside: whose `trap` is asked */

#define GUARD_PAGES 6

/* Is this a fault that running code is expected to take? */
static bool expected(struct hostcode *h, const greg_t *g)
{
    uintptr_t addr = (uintptr_t)g[REG_CR2];

    if (g[REG_TRAPNO] != TRAP_PF)
        return true;
    h->fault_addr = addr;
    return addr - (uintptr_t)h->guard < GUARD_PAGES * PAGE_SIZE;
}

#define FLAGS_AC 0x40000

/*
 * Nothing but general registers matters here: sigreturn restores the vector state and MXCSR. Code
 * may run with alignment checks (AC), which are not for C.
 */
static void on_fault(int sig, siginfo_t *si, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    const struct hostcode_fn *fn;

    __asm__ volatile("pushq $2; popfq" : : : "memory", "cc");
    fn = current ? current->running : NULL;
    if (fn && (uintptr_t)g[REG_RIP] == (uintptr_t)fn->at && expected(current, g)) {
        g[REG_RAX] = g[REG_TRAPNO] + 1;
        g[REG_RIP] = (greg_t)(uintptr_t)fn->fault;
        g[REG_EFL] &= ~(greg_t)FLAGS_AC;
        return;
    }
    if (outside && outside->trap) {
        uint64_t to = outside->trap(outside->trap_opaque, (uint64_t)g[REG_RIP]);

        if (to) {
            g[REG_RIP] = (greg_t)to;
            g[REG_EFL] &= ~(greg_t)FLAGS_AC;
            return;
        }
    }
    /* Not ours. With the former action in place the instruction runs and faults again. */
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (signals[i] == sig)
            sigaction(sig, &process.old[i], NULL);
    if (si->si_code <= 0 || sig == SIGTRAP)
        raise(sig);
}

/* For each buffer anew: others (a test harness) may have put their own in the meantime. */
static void install_handlers(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}, now;

    sigemptyset(&sa.sa_mask);
    pthread_mutex_lock(&process.lock);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], NULL, &now);
        if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
            continue;
        process.old[i] = now;
        sigaction(signals[i], &sa, NULL);
    }
    pthread_mutex_unlock(&process.lock);
}

void *hostcode_room(size_t size)
{
    uint8_t *p =
        mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *at = (uint8_t *)align_up((uintptr_t)p, HUGE_PAGE);

    if (p == MAP_FAILED)
        return NULL;
    if (at != p)
        munmap(p, (size_t)(at - p));
    munmap(at + size, (size_t)(p + HUGE_PAGE - at));
    return at;
}

static bool map_twice(struct hostcode *h)
{
    void *rw = hostcode_room(h->size), *rx = hostcode_room(h->size);

    h->rw = h->rx = MAP_FAILED;
    /*
     * Shared memory without a name, of which mremap of 0 bytes makes a second mapping (mremap(2)):
     * perf looks for the names of code in a memfd in a file that does not exist.
     */
    if (rw && rx)
        h->rw = mmap(rw, h->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
                     -1, 0);
    if (h->rw != MAP_FAILED)
        h->rx = mremap(h->rw, 0, h->size, MREMAP_MAYMOVE | MREMAP_FIXED, rx);
    if (h->rx != MAP_FAILED && !mprotect(h->rx, h->size, PROT_READ | PROT_EXEC))
        return true;
    if (rw)
        munmap(rw, h->size);
    if (rx)
        munmap(rx, h->size);
    return false;
}

static bool map_toggled(struct hostcode *h)
{
    h->rw = mmap(NULL, h->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h->rw == MAP_FAILED)
        return false;
    h->rx = h->rw;
    h->toggled = true;
    if (!mprotect(h->rw, h->size, PROT_READ | PROT_EXEC))
        return true;
    munmap(h->rw, h->size);
    return false;
}

int hostcode_init(struct hostcode *h, size_t size, struct err *err)
{
    unsigned long min = getauxval(AT_MINSIGSTKSZ);

    memset(h, 0, sizeof(*h));
    h->size = size;
    if (!map_twice(h) && !map_toggled(h))
        return err_set(err, errno, "the host does not let doppel run code that it generates");
    h->stack_size = align_up((min ? min : 4096) + 32768, PAGE_SIZE);
    h->stack =
        mmap(NULL, h->stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h->stack == MAP_FAILED) {
        h->stack = NULL;
        hostcode_fini(h);
        return err_set(err, ENOMEM, "out of memory for a signal stack");
    }
    h->guard =
        mmap(NULL, (size_t)GUARD_PAGES * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (h->guard == MAP_FAILED ||
        mprotect(h->guard + PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE) ||
        mprotect(h->guard + 4 * PAGE_SIZE, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE)) {
        h->guard = h->guard == MAP_FAILED ? NULL : h->guard;
        hostcode_fini(h);
        return err_set(err, ENOMEM, "out of memory for guard pages");
    }
    install_handlers();
    return 0;
}

void hostcode_fini(struct hostcode *h)
{
    stack_t ss;

    if (!h->rw)
        return;
    if (current == h)
        current = NULL;
    if (outside == h)
        outside = NULL;
    if (h->stack && !sigaltstack(NULL, &ss) && ss.ss_sp == h->stack) {
        ss = (stack_t){.ss_flags = SS_DISABLE};
        sigaltstack(&ss, NULL);
    }
    munmap(h->rw, h->size);
    if (h->rx != h->rw)
        munmap(h->rx, h->size);
    if (h->guard)
        munmap(h->guard, (size_t)GUARD_PAGES * PAGE_SIZE);
    if (h->stack)
        munmap(h->stack, h->stack_size);
    memset(h, 0, sizeof(*h));
}

#define SCRATCH PAGE_SIZE /* at the end of the buffer */

static const uint8_t *write_code(struct hostcode *h, size_t at, const uint8_t *code, size_t len)
{
    if (h->toggled && mprotect(h->rw, h->size, PROT_READ | PROT_WRITE))
        return NULL;
    memcpy(h->rw + at, code, len);
    if (h->toggled && mprotect(h->rw, h->size, PROT_READ | PROT_EXEC))
        return NULL;
    return h->rx + at;
}

/*
 * Code that was run is about to change under another linear address: SDM vol. 3A section 8.1.3
 * wants a serialising instruction before it runs.
 */
static void serialise(void)
{
    unsigned a, b, c, d;

    __cpuid(0, a, b, c, d);
}

const uint8_t *hostcode_add(struct hostcode *h, const uint8_t *code, size_t len)
{
    const uint8_t *at;

    if (!range_ok(h->used, len, h->size - SCRATCH))
        return NULL;
    at = write_code(h, h->used, code, len);
    h->used = align_up(h->used + len, 16);
    return at;
}

const uint8_t *hostcode_scratch(struct hostcode *h, const uint8_t *code, size_t len)
{
    const uint8_t *at = len <= SCRATCH ? write_code(h, h->size - SCRATCH, code, len) : NULL;

    serialise();
    return at;
}

void hostcode_reset(struct hostcode *h)
{
    h->used = 0;
    serialise();
}

/* The first call on a thread. An alternate stack that is there already (a sanitiser's) serves as
 * well. */
static __attribute__((noinline)) void enter_thread(struct hostcode *h)
{
    stack_t ss;

    if (!sigaltstack(NULL, &ss) && (ss.ss_flags & SS_DISABLE)) {
        ss = (stack_t){.ss_sp = h->stack, .ss_size = h->stack_size, .ss_flags = (int)SS_AUTODISARM};
        sigaltstack(&ss, NULL);
    }
    current = h;
}

void hostcode_enter_thread(struct hostcode *h, struct hostcode *own)
{
    if (unlikely(outside != h))
        enter_thread(own);
    outside = h;
}

void hostcode_set_gs(void *base, bool fsgsbase)
{
    if (fsgsbase)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

uint64_t hostcode_call(struct hostcode *h, const struct hostcode_fn *fn, void *a, void *b)
{
    if (unlikely(current != h))
        enter_thread(h);
    h->running = fn;
    return fn->entry(a, b);
}
