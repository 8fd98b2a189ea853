/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report: the last exceptions in words, the registers of every vCPU, how RIP and RSP translate
 * level by level, the code at RIP, and the last accesses to devices. It only looks: no accessed or
 * dirty bit is set, no handler is called.
 */
#include "machine/report.h"

#include <inttypes.h>
#include <string.h>

#include "cpu/cpu_state.h"
#include "cpu/paging.h"
#include "engine/engine.h"
#include "machine/internal.h"

#define EXCEPTIONS 8
#define ACCESSES   20
#define CODE_BYTES 16

/* SDM vol. 3A table 6-1. */
static const char *const vector_names[32] = {
    [VEC_DE] = "#DE divide error",
    [VEC_DB] = "#DB debug",
    [VEC_NMI] = "NMI",
    [VEC_BP] = "#BP breakpoint",
    [VEC_OF] = "#OF overflow",
    [VEC_BR] = "#BR bound range exceeded",
    [VEC_UD] = "#UD invalid opcode",
    [VEC_NM] = "#NM device not available",
    [VEC_DF] = "#DF double fault",
    [VEC_TS] = "#TS invalid TSS",
    [VEC_NP] = "#NP segment not present",
    [VEC_SS] = "#SS stack-segment fault",
    [VEC_GP] = "#GP general protection",
    [VEC_PF] = "#PF page fault",
    [VEC_MF] = "#MF x87 floating-point error",
    [VEC_AC] = "#AC alignment check",
    [VEC_MC] = "#MC machine check",
    [VEC_XM] = "#XM SIMD floating-point",
    [VEC_VE] = "#VE virtualization",
    [VEC_CP] = "#CP control protection",
};

static void page_fault_words(FILE *out, uint32_t error, uint64_t cr2)
{
    fprintf(out, ": %s %s at %#" PRIx64 ", %s%s",
            error & PF_I   ? "instruction fetch from"
            : error & PF_W ? "write to"
                           : "read of",
            error & PF_P ? "a page that forbids it" : "a page that is not present", cr2,
            error & PF_U ? "user mode" : "supervisor mode",
            error & PF_RSVD ? ", reserved bit set in a table" : "");
}

/* Error code of the segment exceptions: SDM vol. 3A 6.13. */
static void selector_words(FILE *out, uint32_t error)
{
    if ((error & 0xffff) == 0)
        fprintf(out, ": no selector");
    else
        fprintf(out, ": %s entry %#x%s",
                error & 2   ? "IDT"
                : error & 4 ? "LDT"
                            : "GDT",
                (error & 0xffff) >> 3, error & 1 ? ", external event" : "");
}

void report_exception(FILE *out, const struct cpu_exception *e)
{
    const char *name = e->vector < 32 ? vector_names[e->vector] : NULL;

    if (name)
        fprintf(out, "%s", name);
    else
        fprintf(out, "vector %u", e->vector);
    fprintf(out, " at rip %#" PRIx64, e->rip);
    if (e->has_error)
        fprintf(out, ", error code %#x", e->error);
    if (e->vector == VEC_PF)
        page_fault_words(out, e->error, e->cr2);
    else if (e->has_error && e->vector >= VEC_TS && e->vector <= VEC_GP)
        selector_words(out, e->error);
    fprintf(out, " (instruction %" PRIu64 ")\n", e->icount);
}

const char *report_mode(const struct cpu_state *cs)
{
    if (cpu_real_mode(cs))
        return "real mode";
    if (cpu_v86(cs))
        return "virtual-8086 mode";
    if (cpu_64bit(cs))
        return "64-bit mode";
    if (cpu_long_mode(cs))
        return cs->seg[SEG_CS].attr & SEG_ATTR_DB ? "compatibility mode, 32-bit code"
                                                  : "compatibility mode, 16-bit code";
    return cs->seg[SEG_CS].attr & SEG_ATTR_DB ? "protected mode, 32-bit code"
                                              : "protected mode, 16-bit code";
}

static void segment_line(FILE *out, const char *name, const struct cpu_seg *s)
{
    fprintf(out, "  %-4s %04x  base %016" PRIx64 "  limit %08x  attributes %04x%s\n", name,
            s->selector, s->base, s->limit, s->attr, s->attr & SEG_ATTR_P ? "" : "  (unusable)");
}

void report_registers(FILE *out, const struct cpu_state *cs)
{
    static const char *const gpr[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    static const struct {
        uint64_t bit;
        const char *name;
    } flag[] = {{RFLAGS_CF, " CF"}, {RFLAGS_PF, " PF"}, {RFLAGS_AF, " AF"}, {RFLAGS_ZF, " ZF"},
                {RFLAGS_SF, " SF"}, {RFLAGS_TF, " TF"}, {RFLAGS_IF, " IF"}, {RFLAGS_DF, " DF"},
                {RFLAGS_OF, " OF"}, {RFLAGS_NT, " NT"}, {RFLAGS_RF, " RF"}, {RFLAGS_VM, " VM"},
                {RFLAGS_AC, " AC"}};

    for (unsigned i = 0; i < 16; i++)
        fprintf(out, "  %-3s %016" PRIx64 "%s", gpr[i], cs->gpr[i], i % 4 == 3 ? "\n" : "");
    fprintf(out, "  rip %016" PRIx64 "  rflags %06" PRIx64, cs->rip, cs->rflags);
    for (unsigned i = 0; i < ARRAY_LEN(flag); i++)
        if (cs->rflags & flag[i].bit)
            fputs(flag[i].name, out);
    fputc('\n', out);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        segment_line(out, seg[i], &cs->seg[i]);
    segment_line(out, "ldtr", &cs->ldtr);
    segment_line(out, "tr", &cs->tr);
    fprintf(out, "  gdtr base %016" PRIx64 " limit %04x  idtr base %016" PRIx64 " limit %04x\n",
            cs->gdtr.base, cs->gdtr.limit, cs->idtr.base, cs->idtr.limit);
    fprintf(out,
            "  cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64
            "  efer %04" PRIx64 "\n",
            cs->cr0, cs->cr2, cs->cr3, cs->cr4, cs->efer);
}

static void walk_lines(struct vcpu *vcpu, FILE *out, const struct cpu_state *cs, const char *what,
                       gva_t addr, bool exec, gpa_t *gpa)
{
    /* From the root down; a walk of fewer levels leaves the first names out. */
    static const char *const names[] = {"PML5E", "PML4E", "PDPTE", "PDE", "PTE"};
    struct walk_in in = {.cs = cs,
                         .model = vcpu->model,
                         .vcpu = vcpu,
                         .exec = exec,
                         .user = cpu_cpl(cs) == 3,
                         .no_update = true};
    struct walk_out w = {0};
    unsigned root;
    bool ok;

    *gpa = UINT64_MAX;
    fprintf(out, "  %s %#" PRIx64 ": ", what, addr);
    if (!(cs->cr0 & CR0_PG)) {
        *gpa = addr;
        fprintf(out, "paging is off\n");
        return;
    }
    ok = paging_walk(&in, addr, &w);
    root = cs->cr4 & CR4_LA57 && cpu_long_mode(cs) ? 0
           : cpu_long_mode(cs)                     ? 1
           : cs->cr4 & CR4_PAE                     ? 2
                                                   : 3;
    for (unsigned i = 0; i < w.nlevels && i < ARRAY_LEN(w.level); i++)
        fprintf(out, "%s %016" PRIx64 " at %" PRIx64 "; ",
                root + i < ARRAY_LEN(names) ? names[root + i] : "entry", w.level[i].entry,
                w.level[i].at);
    if (ok) {
        *gpa = w.gpa;
        fprintf(out, "physical %" PRIx64 ", page of %u KiB, %s%s%s\n", w.gpa,
                1u << (w.page_shift - 10), w.user ? "user" : "supervisor",
                w.writable ? ", writable" : "", w.nx ? ", no-execute" : "");
    } else {
        fprintf(out, "fails: %s%s\n", w.error & PF_P ? "protection" : "not present",
                w.error & PF_RSVD ? ", reserved bit set" : "");
    }
}

static void code_line(struct machine *m, FILE *out, gpa_t gpa)
{
    uint8_t code[CODE_BYTES];
    size_t len = min_u64(CODE_BYTES, PAGE_SIZE - (gpa & PAGE_MASK));
    bool ok;

    if (gpa == UINT64_MAX)
        return;
    vm_lock(&m->vm);
    ok = mem_read(&m->vm, gpa, code, len);
    vm_unlock(&m->vm);
    fprintf(out, "  code at rip:");
    for (size_t i = 0; ok && i < len; i++)
        fprintf(out, " %02x", code[i]);
    fprintf(out, ok ? "\n" : " not in memory\n");
}

/* Outside 64-bit code addresses wrap at 4 GiB: GNU Mach starts with segments based at 40000000h. */
static gva_t linear(const struct cpu_state *cs, unsigned seg, uint64_t off)
{
    return cpu_64bit(cs) ? off : (uint32_t)(cs->seg[seg].base + off);
}

static void report_vcpu(struct machine *m, FILE *out, struct vcpu *vcpu)
{
    static const char *const activity[] = {"running", "halted (HLT)", "waiting for SIPI",
                                           "shut down (triple fault)"};
    const struct engine *engine = m->vm.engine;
    struct cpu_exception e[EXCEPTIONS];
    struct cpu_state cs;
    unsigned n = 0;
    gpa_t gpa;

    engine->get(vcpu, &cs);
    fprintf(out, "CPU %u: %s, %s, ring %u, %" PRIu64 " instructions\n", vcpu->index,
            cs.activity < ARRAY_LEN(activity) ? activity[cs.activity] : "?", report_mode(&cs),
            cpu_cpl(&cs), cs.icount);
    if (cs.activity == CPU_WAIT_FOR_SIPI)
        return;
    if (engine->last_exceptions)
        n = engine->last_exceptions(vcpu, e, EXCEPTIONS);
    if (n)
        fprintf(out, " last exceptions, the latest first:\n");
    for (unsigned i = 0; i < n && i < EXCEPTIONS; i++) {
        fputs("  ", out);
        report_exception(out, &e[i]);
    }
    fprintf(out, " registers:\n");
    report_registers(out, &cs);
    fprintf(out, " translation:\n");
    walk_lines(vcpu, out, &cs, "rsp", linear(&cs, SEG_SS, cs.gpr[REG_RSP]), false, &gpa);
    walk_lines(vcpu, out, &cs, "rip", linear(&cs, SEG_CS, cs.rip), true, &gpa);
    code_line(m, out, gpa);
}

static void report_accesses(struct machine *m, FILE *out)
{
    struct trace *trace = &m->vm.trace;
    unsigned have = trace->last_n < TRACE_LAST ? trace->last_n : TRACE_LAST;
    unsigned n = have < ACCESSES ? have : ACCESSES;
    char line[256];

    vm_lock(&m->vm);
    fprintf(out, n ? "Last device accesses, the latest last:\n" : "No device was accessed.\n");
    for (unsigned i = trace->last_n - n; i != trace->last_n; i++) {
        const struct trace_rec *rec = &trace->last[i % TRACE_LAST];

        /* They are kept without the time, which would cost more than keeping them. */
        trace_format(rec, line, sizeof(line));
        fprintf(out, "  %s\n", rec->ns ? line : line + strspn(line, " 0"));
    }
    if (atomic_load(&trace->unknown))
        fprintf(out, "Accesses to unknown registers so far: %" PRIu64 "\n",
                (uint64_t)atomic_load(&trace->unknown));
    vm_unlock(&m->vm);
}

void report_write(struct machine *m, FILE *out, const char *why, int culprit)
{
    struct vm *vm = &m->vm;

    fprintf(out, "\n---- doppel: report on the guest '%s': %s ----\n", vm->name, why);
    fprintf(out, "VM time %.6f s\n", (double)clock_now(vm->clock) / (double)NS_PER_SEC);
    if (culprit >= 0 && (unsigned)culprit < vm->nvcpus)
        report_vcpu(m, out, vm->vcpus[culprit]);
    for (unsigned i = 0; i < vm->nvcpus; i++)
        if ((int)i != culprit)
            report_vcpu(m, out, vm->vcpus[i]);
    report_accesses(m, out);
    fprintf(out, "---- end of report ----\n");
    fflush(out);
}
