/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "control/sandbox.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"

#define MAIN   BIT(VM_THREAD_MAIN)
#define VCPU   BIT(VM_THREAD_VCPU)
#define WORKER BIT(VM_THREAD_WORKER)
#define ALL    (MAIN | VCPU | WORKER)

#define GROUP_CALLS 24

/* Calls that are allowed whatever their arguments. */
struct group {
    unsigned kinds;
    const char *reason;
    int calls[GROUP_CALLS]; /* ends with -1 */
};

static const struct group groups[] = {
    {ALL,
     "locks, and the end of a thread or process",
     {SCMP_SYS(futex), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(sched_yield),
      SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(membarrier), -1}},
    {ALL,
     "signals: kicks, faults in thunks, abort",
     {SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction),
      SCMP_SYS(sigaltstack), SCMP_SYS(tgkill), SCMP_SYS(gettid), SCMP_SYS(getpid),
      SCMP_SYS(restart_syscall), -1}},
    {ALL,
     "malloc and thread stacks; making memory executable is ruled out below",
     {SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
      SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo), -1}},
    {ALL,
     "time",
     {SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep),
      SCMP_SYS(gettimeofday), -1}},
    {ALL, "random numbers for the guest and for malloc", {SCMP_SYS(getrandom), -1}},
    {ALL,
     "descriptors that are open already: serial output, trace, waking the loop",
     {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(close), SCMP_SYS(lseek),
      SCMP_SYS(fstat), -1}},
    {MAIN | VCPU,
     "a chip arms a timer; a serial line wants to hear of room",
     {SCMP_SYS(timerfd_settime), SCMP_SYS(epoll_ctl), -1}},
    {MAIN,
     "the loop",
     {SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(poll), SCMP_SYS(ppoll),
      SCMP_SYS(signalfd4), -1}},
    {MAIN,
     "clients of the control socket and of a serial socket",
     {SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(sendto), SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),
      -1}},
    {MAIN, "the end: waits for the janitor", {SCMP_SYS(wait4), -1}},
    {ALL, "a thread narrows its list to its own kind", {SCMP_SYS(seccomp), -1}},
    {ALL,
     "disk images: a worker's; with the virtual clock, whoever submits",
     {SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
      SCMP_SYS(fdatasync), SCMP_SYS(fsync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), -1}},
};

/* Calls that are allowed for some values of one argument. */
struct narrow {
    unsigned kinds;
    const char *reason;
    int call;
    unsigned arg;
    uint64_t mask, value; /* allowed if (argument & mask) == value */
};

static const struct narrow narrows[] = {
    {ALL, "memory that is not code", SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {ALL, "memory that is not code", SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    {ALL, "the status of an open file, which is how fstat arrives", SCMP_SYS(newfstatat), 3,
     AT_EMPTY_PATH, AT_EMPTY_PATH},
    {VCPU, "the GS base for translated code, where programs may not set it by themselves",
     SCMP_SYS(arch_prctl), 0, UINT32_MAX, ARCH_SET_GS},
    {ALL, "the name of a thread", SCMP_SYS(prctl), 0, UINT32_MAX, PR_SET_NAME},
    {MAIN, "threads, not processes", SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD},
    {ALL, "what a printer asks of its file", SCMP_SYS(ioctl), 1, UINT32_MAX, TCGETS},
    {MAIN, "terminal settings go back", SCMP_SYS(ioctl), 1, UINT32_MAX, TCSETSW},
};

/* Calls that fail instead of ending the process: the C library makes them and does without. */
static const struct {
    const char *reason;
    int call, error;
} refusals[] = {
    {"its flags cannot be seen; where it does not exist, threads are made by clone",
     SCMP_SYS(clone3), ENOSYS},
    {"free() looks into /proc before it shrinks a heap", SCMP_SYS(openat), EACCES},
};

/* ---- compiling ---- */

static int add_rules(scmp_filter_ctx ctx, unsigned kinds)
{
    size_t i;
    unsigned j;
    int r = 0;

    for (i = 0; i < ARRAY_LEN(groups) && !r; i++)
        for (j = 0; (groups[i].kinds & kinds) && j < GROUP_CALLS && groups[i].calls[j] != -1 && !r;
             j++)
            r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, groups[i].calls[j], 0);
    for (i = 0; i < ARRAY_LEN(narrows) && !r; i++)
        if (narrows[i].kinds & kinds)
            r = seccomp_rule_add(
                ctx, SCMP_ACT_ALLOW, narrows[i].call, 1,
                SCMP_CMP64(narrows[i].arg, SCMP_CMP_MASKED_EQ, narrows[i].mask, narrows[i].value));
    for (i = 0; i < ARRAY_LEN(refusals) && !r; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO((unsigned)refusals[i].error), refusals[i].call, 0);
    return r;
}

/* Reads back what libseccomp wrote: threads install it with one call and no library. */
static int compile(scmp_filter_ctx ctx, struct sock_filter **program, unsigned short *length)
{
    int fd = memfd_create("seccomp", MFD_CLOEXEC);
    struct stat st;
    int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);

    if (!r && fstat(fd, &st) < 0)
        r = -errno;
    if (!r) {
        *program = malloc((size_t)st.st_size);
        *length = (unsigned short)((size_t)st.st_size / 8); /* sizeof(struct sock_filter) */
        if (!*program || pread(fd, *program, (size_t)st.st_size, 0) != st.st_size)
            r = -ENOMEM;
    }
    if (fd >= 0)
        close(fd);
    return r;
}

static int build(unsigned kinds, bool debug, struct sock_filter **program, unsigned short *length)
{
    scmp_filter_ctx ctx = seccomp_init(debug ? SCMP_ACT_TRAP : SCMP_ACT_KILL_PROCESS);
    int r;

    if (!ctx)
        return -ENOMEM;
    r = add_rules(ctx, kinds);
    if (!r)
        r = compile(ctx, program, length);
    seccomp_release(ctx);
    return r;
}

/* ---- entering ---- */

struct program { /* struct sock_fprog; linux/filter.h does not go with every libc header */
    unsigned short length;
    struct sock_filter *filter;
};

/*
 * Kernels before 5.16 switch a thread's speculation past stores off as soon as it has a filter
 * (Documentation/admin-guide/hw-vuln/spectre.rst): translated code, whose guest registers are in
 * memory, would pay for that at every turn, and what it could learn is its own VM's.
 */
static int install(struct sock_filter *filter, unsigned short length, unsigned flags)
{
    struct program program = {length, filter};

    flags |= SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) ? -errno : 0;
}

/* --sandbox debug: names the call. The process ends here, so looking the name up is worth the risk.
 */
static void refused(int signal, siginfo_t *info, void *context)
{
    char *name = seccomp_syscall_resolve_num_arch(info->si_arch, info->si_syscall);
    char line[128];
    int n = snprintf(line, sizeof(line), "doppel: the sandbox refuses the system call %s (%d).\n",
                     name ? name : "?", info->si_syscall);

    (void)signal, (void)context;
    if (write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(128 + SIGSYS);
    _exit(128 + SIGSYS);
}

static bool sanitised(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

int sandbox_enter(struct sandbox *sandbox, enum sandbox_mode mode, struct err *err)
{
    bool debug = mode == SANDBOX_DEBUG;
    struct sock_filter *whole = NULL;
    unsigned short length;
    unsigned kind;
    int r;

    memset(sandbox, 0, sizeof(*sandbox));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_set(err, errno, "this host can not take privileges away: %s.", strerror(errno));
    if (mode == SANDBOX_OFF)
        return 0;
    if (sanitised()) {
        log_info("sandbox", "this build has a sanitiser and runs without system call lists.");
        return 0;
    }
    if (debug)
        sigaction(SIGSYS, &(struct sigaction){.sa_sigaction = refused, .sa_flags = SA_SIGINFO},
                  NULL);
    r = build(ALL, debug, &whole, &length);
    for (kind = 0; kind < SANDBOX_KINDS && !r; kind++)
        r = build((unsigned)BIT(kind), debug, &sandbox->program[kind], &sandbox->length[kind]);
    /* All threads that exist, and so all that will. */
    if (!r)
        r = install(whole, length, SECCOMP_FILTER_FLAG_TSYNC);
    free(whole);
    if (r) {
        sandbox_fini(sandbox);
        return err_set(err, -r,
                       "this host gives no seccomp sandbox (%s); --sandbox off runs without it.",
                       strerror(-r));
    }
    sandbox->on = true;
    return 0;
}

void sandbox_thread(void *opaque, enum vm_thread kind)
{
    struct sandbox *sandbox = opaque;

    if (!sandbox->on || (unsigned)kind >= SANDBOX_KINDS)
        return;
    /* The kernel took the wider list: that it refuses this one is not expected, and not survivable.
     */
    if (install(sandbox->program[kind], sandbox->length[kind], 0))
        abort();
}

void sandbox_fini(struct sandbox *sandbox)
{
    unsigned kind;

    for (kind = 0; kind < SANDBOX_KINDS; kind++) {
        free(sandbox->program[kind]);
        sandbox->program[kind] = NULL;
    }
    sandbox->on = false;
}
