/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hostdiff: random instructions over every mnemonic that the host runs in ring 3, natively in a
 * child and on the interpreter or the translator, in 64-, 32- and 16-bit code; all registers, all
 * flags, vector and x87 state, memory and faults are compared. With --runs each case is 2 to 6
 * instructions with forward branches, a third of them in a loop.
 *
 *   hostdiff [--seed S] [--cases N | --per-mnemonic N | --seconds N] [--only MNEMONIC]
 *            [--engine interp|bt|bt,place=any] [--runs] [--mode 64|32|16] [--case NUMBER]
 *            [--max-reports N] [--table] [--verbose]
 *
 * Prints the seed; `--seed S --case NUMBER` (with the same --only and --mode) runs one case again.
 * Exit status: 0 equal, 1 differences or mnemonics missing, 2 cannot run.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/interp/decode.h"
#include "tests/cpu/hostdiff.h"

#define DEFAULT_PER_MNEMONIC 500

struct options {
    uint64_t seed, cases, per_mnemonic, seconds, one;
    bool have_one, table, verbose, runs, bt, anywhere;
    const char *only;
    int mode;
    unsigned max_reports;
};

struct run {
    struct options opt;
    struct hd_shared *shared;
    struct hd_vm *vm;
    struct hd_gen *gen;
    struct hd_group *groups;
    unsigned ngroups;
    uint64_t made, compared, differ;
    uint64_t next, total;
    double start;
    unsigned turn, nready;
    struct hd_case ready[HD_BATCH], bad[HD_BATCH];
    struct hd_result interp[HD_BATCH], host[HD_BATCH];
};

/* ---- comparison ------------------------------------------------------------------------------ */

/*
 * RF is part of what delivery pushes, not of the state at the fault. FCS and FDS do not show in the
 * host's 64-bit frames.
 */
#define RFLAGS_COMPARED (~(RFLAGS_RF | RFLAGS_IF))

static bool same_fpu(const struct cpu_fpu *a, const struct cpu_fpu *b)
{
    return !memcmp(a->zmm, b->zmm, sizeof(a->zmm)) && !memcmp(a->k, b->k, sizeof(a->k)) &&
           !memcmp(a->st, b->st, sizeof(a->st)) && a->fcw == b->fcw && a->fsw == b->fsw &&
           a->ftw == b->ftw && a->fop == b->fop && a->fip == b->fip && a->fdp == b->fdp &&
           a->mxcsr == b->mxcsr;
}

/*
 * Flags that the translator need not keep: those that the instruction that faulted and the
 * following ones write. What a fault in the middle of a run shows of them is not the processor's.
 */
static uint64_t dead_flags(const struct hd_case *tc, uint64_t rip)
{
    ZydisDecodedInstruction zi;
    ZydisDecoderContext ctx;
    ZydisDecoder z;
    uint64_t dead = 0;

    gen_decoder(&z, tc->mode);
    for (unsigned at = 0; at < tc->len; at += zi.length) {
        if (!ZYAN_SUCCESS(
                ZydisDecoderDecodeInstruction(&z, &ctx, tc->code + at, tc->len - at, &zi)))
            break;
        if (at >= rip - tc->regs.rip && zi.cpu_flags)
            dead |= zi.cpu_flags->modified | zi.cpu_flags->set_0 | zi.cpu_flags->set_1 |
                    zi.cpu_flags->undefined;
    }
    return dead & RFLAGS_ARITH;
}

static bool same(const struct run *r, const struct hd_case *tc, const struct hd_result *a,
                 const struct hd_result *b)
{
    uint64_t flags;

    if (a->vector != b->vector || a->error != b->error || a->addr != b->addr ||
        a->hash != b->hash || a->regs.rip != b->regs.rip)
        return false;
    flags = (a->regs.rflags ^ b->regs.rflags) & RFLAGS_COMPARED;
    if (flags && r->opt.bt && tc->insns > 1 && a->vector != HD_DONE)
        flags &= ~dead_flags(tc, a->regs.rip);
    if (flags)
        return false;
    if (memcmp(a->regs.gpr, b->regs.gpr, sizeof(a->regs.gpr)) ||
        memcmp(a->regs.seg, b->regs.seg, sizeof(a->regs.seg)))
        return false;
    if (tc->mode == HD_64 &&
        (a->regs.fs_base != b->regs.fs_base || a->regs.gs_base != b->regs.gs_base))
        return false;
    return same_fpu(&a->fpu, &b->fpu);
}

/* ---- report ---------------------------------------------------------------------------------- */

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
static const char *const mode_names[HD_MODES] = {"64", "32", "16"};

static void print_bytes(const char *what, const uint8_t *p, size_t len)
{
    printf(" %s", what);
    for (size_t k = len; k-- > 0;)
        printf("%02x%s", p[k], k && !(k & 7) ? "_" : "");
}

static void line3(const char *name, uint64_t in, uint64_t host, uint64_t interp)
{
    printf("  %-8s in %016" PRIx64 "  host %016" PRIx64 "  doppel %016" PRIx64 "%s\n", name, in,
           host, interp, host != interp ? "  <--" : "");
}

static void bytes3(const char *name, unsigned number, const uint8_t *in, const uint8_t *host,
                   const uint8_t *interp, size_t len)
{
    if (!memcmp(host, interp, len))
        return;
    printf("  %s%u\n   ", name, number);
    print_bytes("in     ", in, len);
    printf("\n   ");
    print_bytes("host   ", host, len);
    printf("\n   ");
    print_bytes("doppel ", interp, len);
    printf("\n");
}

static void print_insn(const struct hd_case *tc)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisDecodedInstruction zi;
    ZydisFormatter fmt;
    ZydisDecoder z;

    gen_decoder(&z, tc->mode);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    printf("DIFFERS case %" PRIu64 ", %s-bit code:\n", tc->number, mode_names[tc->mode]);
    for (unsigned at = 0; at < tc->len; at += zi.length) {
        char text[128] = "?";

        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, tc->code + at, tc->len - at, &zi, ops)))
            break;
        ZydisFormatterFormatInstruction(&fmt, &zi, ops, zi.operand_count_visible, text,
                                        sizeof(text), tc->regs.rip + at, NULL);
        printf("  %012" PRIx64 " %-40s", tc->regs.rip + at, text);
        for (unsigned k = 0; k < zi.length; k++)
            printf(" %02x", tc->code[at + k]);
        printf("\n");
    }
}

static void print_memory(const struct run *r, const struct hd_case *tc)
{
    const uint8_t *interp = hd_vm_data(r->vm), *host = r->shared->dump;
    static uint8_t before[HD_DATA_BYTES];
    unsigned shown = 0;

    hd_fill_data(before, r->shared->pattern, tc);
    for (unsigned k = 0; k < HD_DATA_BYTES && shown < 24; k++) {
        unsigned page = k / PAGE_SIZE;

        if (page == 2 || page == 5 || host[k] == interp[k])
            continue;
        printf("  [%08" PRIx64 "] in %02x host %02x doppel %02x\n", (uint64_t)HD_DATA + k,
               before[k], host[k], interp[k]);
        shown++;
    }
}

static void print_outcome(const char *who, const struct hd_result *res)
{
    if (res->vector == HD_DONE)
        printf("  %s no fault;", who);
    else
        printf("  %s vector %u error %x addr %" PRIx64 ";", who, res->vector, res->error,
               res->addr);
}

static void field(const struct run *r, const char *name, uint64_t in, uint64_t host,
                  uint64_t interp)
{
    if (r->opt.verbose || host != interp)
        line3(name, in, host, interp);
}

static void report(struct run *r, const struct hd_case *tc, const struct hd_result *host,
                   const struct hd_result *interp)
{
    char name[8];

    print_insn(tc);
    print_outcome("host", host);
    print_outcome("doppel", interp);
    for (unsigned k = 0; k < 16; k++)
        printf("%s%-3s %016" PRIx64, k & 3 ? "  " : "\n  ", gpr_names[k], tc->regs.gpr[k]);
    printf("\n  rip %016" PRIx64 "  rflags %08" PRIx64 "  fcw %04x fsw %04x ftw %02x mxcsr %04x  ",
           tc->regs.rip, tc->regs.rflags, tc->fpu.fcw, tc->fpu.fsw, tc->fpu.ftw, tc->fpu.mxcsr);
    if (tc->mode == HD_64)
        printf("fs %" PRIx64 " gs %" PRIx64 "\n", tc->regs.fs_base, tc->regs.gs_base);
    else
        for (unsigned k = 0; k < SEG_COUNT; k++)
            printf("%s %02x%s", seg_names[k], tc->regs.seg[k], k == SEG_COUNT - 1 ? "\n" : " ");
    for (unsigned k = 0; k < 16; k++)
        field(r, gpr_names[k], tc->regs.gpr[k], host->regs.gpr[k], interp->regs.gpr[k]);
    field(r, "rip", tc->regs.rip, host->regs.rip, interp->regs.rip);
    field(r, "rflags", tc->regs.rflags, host->regs.rflags & RFLAGS_COMPARED,
          interp->regs.rflags & RFLAGS_COMPARED);
    for (unsigned k = 0; k < SEG_COUNT; k++)
        field(r, seg_names[k], tc->regs.seg[k], host->regs.seg[k], interp->regs.seg[k]);
    if (tc->mode == HD_64) {
        field(r, "fs base", tc->regs.fs_base, host->regs.fs_base, interp->regs.fs_base);
        field(r, "gs base", tc->regs.gs_base, host->regs.gs_base, interp->regs.gs_base);
    }
    field(r, "fcw", tc->fpu.fcw, host->fpu.fcw, interp->fpu.fcw);
    field(r, "fsw", tc->fpu.fsw, host->fpu.fsw, interp->fpu.fsw);
    field(r, "ftw", tc->fpu.ftw, host->fpu.ftw, interp->fpu.ftw);
    field(r, "fop", tc->fpu.fop, host->fpu.fop, interp->fpu.fop);
    field(r, "fip", tc->fpu.fip, host->fpu.fip, interp->fpu.fip);
    field(r, "fdp", tc->fpu.fdp, host->fpu.fdp, interp->fpu.fdp);
    field(r, "mxcsr", tc->fpu.mxcsr, host->fpu.mxcsr, interp->fpu.mxcsr);
    for (unsigned k = 0; k < 8; k++) {
        snprintf(name, sizeof(name), "k%u", k);
        field(r, name, tc->fpu.k[k], host->fpu.k[k], interp->fpu.k[k]);
    }
    for (unsigned k = 0; k < 8; k++)
        bytes3("st", k, tc->fpu.st[k], host->fpu.st[k], interp->fpu.st[k], 16);
    for (unsigned k = 0; k < 32; k++)
        bytes3("zmm", k, tc->fpu.zmm[k], host->fpu.zmm[k], interp->fpu.zmm[k], 64);
    if (host->hash != interp->hash)
        print_memory(r, tc);
    fflush(stdout);
}

/* ---- running --------------------------------------------------------------------------------- */

static void child_died(const struct hd_batch *b)
{
    unsigned at = atomic_load(&b->at);

    printf("hostdiff: the child died or hangs in this case:\n");
    print_insn(&b->cases[at < HD_BATCH ? at : 0]);
    exit(2);
}

/* The group a case number belongs to: round robin, so that any prefix of a run covers all of them.
 */
static struct hd_group *group_of(struct run *r, uint64_t number)
{
    return &r->groups[number % r->ngroups];
}

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool next_case(struct run *r, struct hd_case *out)
{
    while (r->next < r->total) {
        uint64_t number = r->opt.have_one ? r->opt.one : r->next;
        struct hd_group *g = group_of(r, number);

        r->next++;
        if (r->opt.runs ? gen_run(r->gen, r->groups, r->ngroups, r->opt.seed, number, out)
                        : gen_case(r->gen, g, r->opt.seed, number, out)) {
            g->done += !r->opt.runs;
            r->made++;
            return true;
        }
        g->failed_to_make += !r->opt.runs;
    }
    return false;
}

static void make_ready(struct run *r)
{
    r->nready = 0;
    if (r->opt.seconds && seconds() - r->start >= (double)r->opt.seconds)
        return;
    while (r->nready < HD_BATCH && next_case(r, &r->ready[r->nready]))
        r->nready++;
}

/* Hands cases to the child, which takes the two batches strictly in turn. */
static struct hd_batch *submit(struct run *r, const struct hd_case *cases, unsigned count)
{
    struct hd_batch *b = &r->shared->batch[r->turn];

    b->count = count;
    memcpy(b->cases, cases, count * sizeof(*cases));
    native_submit(r->turn);
    r->turn ^= 1;
    return b;
}

static void wait_for(struct run *r, struct hd_batch *b)
{
    if (!native_wait((unsigned)(b - r->shared->batch)))
        child_died(b);
}

/* Once more, alone, with the memory kept for the report. */
static void look_closely(struct run *r, const struct hd_case *bad, const struct hd_result *host,
                         const struct hd_result *former)
{
    struct hd_case tc = *bad;
    struct hd_result interp;
    struct hd_batch *b;

    tc.dump = 1;
    b = submit(r, &tc, 1);
    hd_vm_run(r->vm, &tc, &interp);
    wait_for(r, b);
    if (same(r, &tc, &b->results[0], &interp)) {
        printf("(case %" PRIu64 " was equal when run alone; memory as then)\n", tc.number);
        report(r, &tc, host, former);
    } else {
        report(r, &tc, &b->results[0], &interp);
    }
}

/* A random address may be one where nothing is, but for the child's own stack and program. */
static bool hits_the_child(const struct hd_case *tc, const struct hd_result *interp)
{
    bool hits = interp->vector == VEC_PF && native_has(interp->addr);

    if (hits)
        printf("(case %" PRIu64 " is not compared: %" PRIx64 " is the child's own)\n", tc->number,
               interp->addr);
    return hits;
}

static void run_interpreter_alone(struct run *r)
{
    for (make_ready(r); r->nready; make_ready(r)) {
        for (unsigned k = 0; k < r->nready; k++)
            hd_vm_run(r->vm, &r->ready[k], &r->interp[k]);
        r->compared += r->nready;
    }
}

/* While the child runs a batch, the interpreter runs the same and the next one is made. */
static void run_all(struct run *r)
{
    if (!HD_NATIVE) {
        printf("hostdiff: built with a sanitiser: the interpreter alone, nothing is compared\n");
        run_interpreter_alone(r);
        return;
    }
    make_ready(r);
    while (r->nready) {
        unsigned count = r->nready, nbad = 0;
        struct hd_batch *b = submit(r, r->ready, count);

        for (unsigned k = 0; k < count; k++)
            hd_vm_run(r->vm, &r->ready[k], &r->interp[k]);
        make_ready(r);
        wait_for(r, b);
        for (unsigned k = 0; k < count; k++)
            if (!same(r, &b->cases[k], &b->results[k], &r->interp[k]) &&
                !hits_the_child(&b->cases[k], &r->interp[k])) {
                r->host[nbad] = b->results[k];
                r->interp[nbad] = r->interp[k];
                r->bad[nbad++] = b->cases[k];
            }
        r->compared += count;
        r->differ += nbad;
        for (unsigned k = 0; k < nbad && r->opt.max_reports; k++, r->opt.max_reports--)
            look_closely(r, &r->bad[k], &r->host[k], &r->interp[k]);
    }
}

/* ---- coverage
 * -----------------------------------------------------------------------------------------------
 */

static int coverage(struct run *r)
{
    unsigned covered = 0, skipped = 0, missing = 0, last = UINT32_MAX;
    int status = 0;

    for (unsigned k = 0; k < r->ngroups; k++) {
        const struct hd_group *g = &r->groups[k];
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)g->mnemonic);

        if (!g->done && !r->opt.runs) {
            printf("MISSING %s (%s-bit, width %u): no case could be made\n", name,
                   mode_names[g->mode], g->width);
            missing++;
        }
        if (g->mnemonic != last && g->done) {
            covered++;
            last = g->mnemonic;
        }
        if (r->opt.table)
            printf("%-20s %s-bit width %3u: %" PRIu64 "\n", name, mode_names[g->mode], g->width,
                   g->done);
    }
    for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (gen_skip_reason(m)) {
            skipped++;
            if (r->opt.table)
                printf("%-20s skipped: %s\n", ZydisMnemonicGetString((ZydisMnemonic)m),
                       gen_skip_reason(m));
        }
    if (missing)
        status = 1;
    printf("hostdiff: %u mnemonics covered in %u mnemonic/mode/width groups, %u skipped with a "
           "reason, %u groups missing\n",
           covered, r->ngroups, skipped, missing);
    return status;
}

/* Drops groups that are skipped or not asked for. */
static void choose_groups(struct run *r)
{
    unsigned n = 0;

    for (unsigned k = 0; k < r->ngroups; k++) {
        const struct hd_group *g = &r->groups[k];
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)g->mnemonic);

        if (gen_skip_reason(g->mnemonic) || (r->opt.only && strcasecmp(r->opt.only, name)) ||
            (r->opt.mode >= 0 && g->mode != r->opt.mode))
            continue;
        r->groups[n++] = *g;
    }
    r->ngroups = n;
}

/* ---- command line ---------------------------------------------------------------------------- */

static void usage(void)
{
    fprintf(stderr,
            "usage: hostdiff [--seed S] [--cases N | --per-mnemonic N | --seconds N]\n"
            "                [--engine interp|bt|bt,place=any] [--runs] [--only MNEMONIC]\n"
            "                [--mode 64|32|16] [--case NUMBER] [--max-reports N] [--table]\n"
            "                [--verbose]\n");
    exit(2);
}

static void parse(struct options *o, int argc, char **argv)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    *o = (struct options){.seed = (uint64_t)ts.tv_nsec ^ (uint64_t)ts.tv_sec << 30,
                          .per_mnemonic = DEFAULT_PER_MNEMONIC,
                          .mode = -1,
                          .max_reports = 20};
    for (int k = 1; k < argc; k++) {
        const char *a = argv[k], *v = k + 1 < argc ? argv[k + 1] : NULL;

        if (!strcmp(a, "--table") || !strcmp(a, "--verbose") || !strcmp(a, "--runs")) {
            o->runs |= !strcmp(a, "--runs");
            o->table |= !strcmp(a, "--table");
            o->verbose |= !strcmp(a, "--verbose");
            continue;
        }
        if (!v)
            usage();
        k++;
        if (!strcmp(a, "--seed"))
            o->seed = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--cases"))
            o->cases = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--per-mnemonic"))
            o->per_mnemonic = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--seconds"))
            o->seconds = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--engine") && (!strncmp(v, "bt", 2) || !strcmp(v, "interp")))
            o->bt = *v == 'b', o->anywhere = !strcmp(v, "bt,place=any");
        else if (!strcmp(a, "--only"))
            o->only = v;
        else if (!strcmp(a, "--max-reports"))
            o->max_reports = (unsigned)strtoul(v, NULL, 0);
        else if (!strcmp(a, "--mode"))
            o->mode = !strcmp(v, "64") ? HD_64 : !strcmp(v, "32") ? HD_32 : HD_16;
        else if (!strcmp(a, "--case"))
            o->one = strtoull(v, NULL, 0), o->have_one = true;
        else
            usage();
    }
    if (o->runs)
        o->mode = HD_64;
}

int main(int argc, char **argv)
{
    static struct run r;
    uint64_t x = 88172645463325252ull;
    int status;

    parse(&r.opt, argc, argv);
    r.shared =
        mmap(NULL, sizeof(*r.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r.shared == MAP_FAILED)
        return 2;
    for (size_t k = 0; k < HD_DATA_BYTES; k++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        r.shared->pattern[k] = (uint8_t)x;
    }
    r.shared->cpunode_limit = UINT32_MAX;
    if (HD_NATIVE && !native_start(r.shared)) {
        fprintf(stderr, "hostdiff: the native side does not start\n");
        return 2;
    }
    r.vm = hd_vm_new(r.shared, r.opt.bt, r.opt.anywhere);
    r.gen = gen_new(hd_vm_model(r.vm), r.shared->pattern);
    r.groups = gen_groups(r.gen, &r.ngroups);
    choose_groups(&r);
    if (!r.ngroups) {
        fprintf(stderr, "hostdiff: nothing to do\n");
        return 2;
    }
    r.total = r.opt.have_one  ? 1
              : r.opt.cases   ? r.opt.cases
              : r.opt.seconds ? UINT64_MAX
                              : r.opt.per_mnemonic * r.ngroups;
    printf("hostdiff: seed %" PRIu64 "\n", r.opt.seed);
    fflush(stdout);
    r.start = seconds();
    run_all(&r);
    printf("hostdiff: %" PRIu64 " cases, %" PRIu64 " differ, %.0f a second\n", r.compared, r.differ,
           (double)r.compared / (seconds() - r.start));
    status = r.opt.have_one || (r.opt.cases && !r.opt.table) ? 0 : coverage(&r);
    if (HD_NATIVE)
        native_stop();
    hd_vm_free(r.vm);
    gen_free(r.gen);
    munmap(r.shared, sizeof(*r.shared));
    return r.differ || status ? 1 : 0;
}
