/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter's side of hostdiff: a VM with the child's address layout, Linux's GDT as far as
 * ring 3 sees it, and the same LDT. A case is one instruction; an exception is looked at as it is
 * raised, before delivery would change the state.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hostcpu.h"
#include "core/vm.h"
#include "cpu/model.h"
#include "engine/bt/bt.h"
#include "engine/interp/block.h"
#include "engine/interp/interp.h"
#include "tests/cpu/hostdiff.h"

#define RAM_BYTES (4u << 20)
#define GPA_PML4  0x1000u
#define GPA_PDPT  0x2000u
#define GPA_PD    0x3000u
#define GPA_PT    0x4000u /* code, data, tables: a page each */
#define GPA_CODE  0x10000u
#define GPA_DATA  0x20000u
#define GPA_TABLE 0x30000u
#define GPA_HIGH  0x7000u               /* PDPT and PD of the upper half */
#define TABLE     0xffffff8000000000ull /* linear; supervisor only */
#define LDT_AT    0x200
#define GDT_BYTES 128

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_A 0x20u
#define PTE_D 0x40u

#define REP_ROUNDS 100000

struct hd_vm {
    struct vm vm;
    struct region ram;
    struct cpu_model model;
    struct interp *c;
    struct bt_vcpu *bt; /* NULL: the interpreter alone */
    struct hd_shared *shared;
    uint8_t *data, *code;
    uint64_t code_at;      /* offset of the last case's bytes */
    struct cpu_state base; /* what all cases have in common */
    uint64_t ldt[LDT_COUNT], gdt[GDT_BYTES / 8];
};

static void die(const char *what)
{
    fprintf(stderr, "hostdiff: %s\n", what);
    exit(2);
}

static void put64(struct hd_vm *v, gpa_t gpa, uint64_t value)
{
    if (!mem_load(&v->vm, gpa, &value, sizeof(value)))
        die("no RAM there");
}

static void map_page(struct hd_vm *v, uint64_t lin, gpa_t table, gpa_t gpa, unsigned flags)
{
    put64(v, GPA_PD + (lin >> 21 & 511) * 8, table | PTE_P | PTE_W | PTE_U | PTE_A);
    put64(v, table + (lin >> 12 & 511) * 8, gpa | PTE_P | PTE_A | PTE_D | flags);
}

static void make_tables(struct hd_vm *v)
{
    static const uint8_t kind[HD_DATA_PAGES] = HD_DATA_MAP;

    put64(v, GPA_PML4, GPA_PDPT | PTE_P | PTE_W | PTE_U | PTE_A);
    put64(v, GPA_PML4 + (HD_HIGH >> 39) * 8, GPA_PDPT | PTE_P | PTE_W | PTE_U | PTE_A);
    put64(v, GPA_PDPT, GPA_PD | PTE_P | PTE_W | PTE_U | PTE_A);
    for (unsigned k = 0; k < HD_CODE_PAGES; k++)
        map_page(v, HD_CODE + k * PAGE_SIZE, GPA_PT, GPA_CODE + k * PAGE_SIZE, PTE_U);
    for (unsigned k = 0; k < HD_DATA_PAGES; k++)
        if (kind[k])
            map_page(v, HD_DATA + k * PAGE_SIZE, GPA_PT + PAGE_SIZE, GPA_DATA + k * PAGE_SIZE,
                     PTE_U | (kind[k] == 2 ? PTE_W : 0));
    /* Data is not executable in the child either. */
    for (unsigned k = 0; k < HD_DATA_PAGES; k++)
        if (kind[k])
            put64(v, GPA_PT + PAGE_SIZE + k * 8,
                  BIT(63) | (GPA_DATA + k * PAGE_SIZE) | PTE_P | PTE_A | PTE_D | PTE_U |
                      (kind[k] == 2 ? PTE_W : 0));
    /* The TSS's I/O map lies past its limit: every port is #GP. */
    put64(v, GPA_TABLE + 0x800 + 0x60, 0xffffull << 48);
    put64(v, GPA_PML4 + 511 * 8, GPA_HIGH | PTE_P | PTE_W | PTE_A);
    put64(v, GPA_HIGH, (GPA_HIGH + PAGE_SIZE) | PTE_P | PTE_W | PTE_A);
    put64(v, GPA_HIGH + PAGE_SIZE, (GPA_PT + 2 * PAGE_SIZE) | PTE_P | PTE_W | PTE_A);
    put64(v, GPA_PT + 2 * PAGE_SIZE, GPA_TABLE | PTE_P | PTE_W | PTE_A | PTE_D);
}

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(attr >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

/* As modify_ldt makes them: DPL 3, accessed. */
static uint64_t ldt_descriptor(const struct hd_desc *d)
{
    unsigned type = 1 | (d->contents << 2 & 0xc) | (d->read_exec_only ? 0 : 2);

    return descriptor(d->base, d->limit,
                      type | SEG_ATTR_S | SEG_ATTR_DPL | (d->absent ? 0 : SEG_ATTR_P) |
                          (d->big ? SEG_ATTR_DB : 0) | (d->in_pages ? SEG_ATTR_G : 0));
}

static void make_descriptors(struct hd_vm *v)
{
    /* Linux, arch/x86/include/asm/segment.h. */
    v->gdt[1] = descriptor(0, 0xfffff, 0xc09b);
    v->gdt[2] = descriptor(0, 0xfffff, 0xa09b);
    v->gdt[3] = descriptor(0, 0xfffff, 0xc093);
    v->gdt[4] = descriptor(0, 0xfffff, 0xc0fb);
    v->gdt[5] = descriptor(0, 0xfffff, 0xc0f3);
    v->gdt[6] = descriptor(0, 0xfffff, 0xa0fb);
    v->gdt[8] = descriptor(0, 0x206f, 0x008b);
    v->gdt[10] = descriptor(0, LDT_COUNT * 8 - 1, 0x0082);
    if (v->shared->cpunode_limit != UINT32_MAX)
        v->gdt[15] = descriptor(0, v->shared->cpunode_limit, 0x40f5);
    for (unsigned k = 0; k < LDT_COUNT; k++)
        v->ldt[k] = ldt_descriptor(&hd_ldt[k]);
    for (unsigned k = 0; k < GDT_BYTES / 8; k++)
        put64(v, GPA_TABLE + k * 8, v->gdt[k]);
    for (unsigned k = 0; k < LDT_COUNT; k++)
        put64(v, GPA_TABLE + LDT_AT + k * 8, v->ldt[k]);
}

static struct cpu_seg hidden(const struct hd_vm *v, uint16_t sel)
{
    struct cpu_seg s = {.selector = sel};
    unsigned index = sel >> 3;
    uint64_t d = 0;

    if (sel & 4)
        d = index < LDT_COUNT ? v->ldt[index] : 0;
    else
        d = index < GDT_BYTES / 8 ? v->gdt[index] : 0;
    if (!(sel & ~3))
        return s;
    s.base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
    s.limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    s.attr = (uint16_t)((d >> 40 & 0xff) | (d >> 52 & 0xf) << 12);
    if (s.attr & SEG_ATTR_G)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

static void make_base(struct hd_vm *v)
{
    struct cpu_state *s = &v->base;

    *s = v->c->s;
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = GPA_PML4;
    s->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE | CR4_DE | CR4_PGE |
             CR4_MCE | CR4_UMIP;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->xcr0 = v->model.xcr0_mask;
    s->gdtr = (struct cpu_dtr){.base = TABLE, .limit = GDT_BYTES - 1};
    s->idtr = (struct cpu_dtr){.base = TABLE, .limit = 0};
    s->ldtr = (struct cpu_seg){.base = TABLE + LDT_AT,
                               .limit = LDT_COUNT * 8 - 1,
                               .selector = 10 << 3,
                               .attr = SEG_ATTR_P | 2};
    s->tr = (struct cpu_seg){
        .base = TABLE + 0x800, .limit = 0x67, .selector = 8 << 3, .attr = SEG_ATTR_P | 0xb};
    s->activity = CPU_RUNNING;
}

struct hd_vm *hd_vm_new(struct hd_shared *shared, bool translate, bool anywhere)
{
    const struct vm_config config = {.name = "hostdiff",
                                     .ram_bytes = RAM_BYTES,
                                     .clock = CLOCK_MANUAL,
                                     .engine = translate ? &engine_bt : &engine_interp};
    struct hd_vm *v = calloc(1, sizeof(*v));
    struct err err = {0};
    struct vcpu *vcpu;

    if (!v || cpu_model_init(&v->model, "max", 1, 1000000000, hostcpu_probe(), &err) ||
        vm_init(&v->vm, &config, &err))
        die(err.text);
    v->shared = shared;
    v->ram = (struct region){.name = "ram", .kind = REGION_RAM, .size = RAM_BYTES};
    if (ram_alloc(&v->vm.ram, RAM_BYTES, &v->ram.ram_offset, &err))
        die(err.text);
    vm_lock(&v->vm);
    bus_map(&v->vm.memory, &v->ram, 0);
    vm_unlock(&v->vm);
    vcpu = vm_add_vcpu(&v->vm, &v->model, &err);
    if (!vcpu)
        die(err.text);
    v->c = interp_of(vcpu);
    if (translate) {
        v->bt = bt_of(v->c);
        v->bt->bt->warm = 1;
        v->bt->bt->anywhere = anywhere;
        bt_enter_thread(v->bt);
    }
    make_tables(v);
    make_descriptors(v);
    make_base(v);
    v->data = mem_page(&v->vm, GPA_DATA, true, NULL);
    v->code = mem_page(&v->vm, GPA_CODE, true, NULL);
    memset(v->code, 0xcc, (size_t)(HD_CODE_PAGES + 1) * PAGE_SIZE);
    v->c->s = v->base;
    tlb_flush(v->c, true);
    return v;
}

void hd_vm_free(struct hd_vm *v)
{
    vm_fini(&v->vm);
    free(v);
}

const struct cpu_model *hd_vm_model(const struct hd_vm *v)
{
    return &v->model;
}

const uint8_t *hd_vm_data(const struct hd_vm *v)
{
    return v->data;
}

static void load_code(struct hd_vm *v, const struct hd_case *tc)
{
    uint64_t at = hd_code_at(tc);

    memset(v->code + v->code_at, 0xcc, HD_CODE_MAX);
    memcpy(v->code + at, tc->code, tc->len);
    ram_written(&v->vm, v->ram.ram_offset + GPA_CODE + v->code_at, HD_CODE_MAX);
    ram_written(&v->vm, v->ram.ram_offset + GPA_CODE + at, HD_CODE_MAX);
    v->code_at = at;
}

static void load_state(struct hd_vm *v, const struct hd_case *tc)
{
    struct interp *c = v->c;

    hd_fill_data(v->data, v->shared->pattern, tc);
    c->s = v->base;
    c->upper = 1;
    memcpy(c->s.gpr, tc->regs.gpr, sizeof(c->s.gpr));
    c->s.rip = tc->regs.rip;
    flags_set(c, tc->regs.rflags | RFLAGS_IF | (tc->step ? RFLAGS_TF : 0));
    for (unsigned k = 0; k < SEG_COUNT; k++)
        c->s.seg[k] = hidden(v, tc->regs.seg[k]);
    if (tc->mode == HD_64) {
        c->s.seg[SEG_FS].base = tc->regs.fs_base;
        c->s.seg[SEG_GS].base = tc->regs.gs_base;
    }
    c->s.fpu = tc->fpu;
    c->upper = 1;
    interp_mode_changed(c);
}

/*
 * Until the instruction is complete: a REP may take several rounds, and a full code buffer one
 * more. Only branches (which are stepped) stay where they are. Leaves by longjmp on an exception.
 */
static void run_instruction(struct interp *c, uint64_t rip, bool branch)
{
    for (unsigned round = 0; round < REP_ROUNDS; round++) {
        struct block *b = block_find(c, true);

        c->block = b;
        b->insns[0].fn(c, b->insns);
        if (c->s.rip != rip || branch)
            return;
    }
}

/*
 * Until it is left. A run has forward branches only, but for that of a loop that ends, and what
 * lies behind the case is INT3, which ends it with an exception if nothing else does.
 */
static void run_translated(struct hd_vm *v, const struct hd_case *tc)
{
    struct interp *c = v->c;

    for (unsigned round = 0; round < REP_ROUNDS; round++) {
        uint64_t visits = v->bt->n.enters, count = c->s.icount;

        atomic_store(&v->bt->attention[0], 0);
        bt_run_some(v->bt);
        if (c->s.rip - tc->regs.rip >= tc->len ||
            (tc->step && (v->bt->n.enters != visits || c->s.icount != count)))
            return;
    }
}

static void run_blocks(struct interp *c, const struct hd_case *tc)
{
    for (unsigned round = 0; round < REP_ROUNDS && c->s.rip - tc->regs.rip < tc->len; round++)
        interp_run_block(c, false);
}

static bool run_caught(struct hd_vm *v, const struct hd_case *tc)
{
    struct interp *c = v->c;
    sigjmp_buf raise_to;

    c->raise_to = &raise_to;
    if (sigsetjmp(raise_to, 0))
        return false;
    if (v->bt)
        run_translated(v, tc);
    else if (tc->insns > 1)
        run_blocks(c, tc);
    else
        run_instruction(c, tc->regs.rip, tc->step);
    return true;
}

/* The INT3 behind a case, or the fetch of what comes after it on an absent page. */
static bool is_end(const struct interp *c, const struct hd_case *tc)
{
    if (c->exc_vector == VEC_GP)
        return c->exc_error == (VEC_BP << 3 | 2) && c->cur->mnemonic == ZYDIS_MNEMONIC_INT3;
    return c->exc_vector == VEC_PF && (c->exc_error & 0x10) && c->s.rip != tc->regs.rip;
}

static void run_once(struct hd_vm *v, const struct hd_case *tc, struct hd_result *out)
{
    struct interp *c = v->c;

    load_state(v, tc);
    memset(out, 0, sizeof(*out));
    out->vector = HD_DONE;
    if (!run_caught(v, tc)) {
        c->s.rip = interp_rip(c);
        if (!is_end(c, tc)) {
            out->vector = c->exc_vector;
            out->error = c->exc_has_error ? c->exc_error : 0;
            out->addr = c->exc_vector == VEC_PF ? c->exc_payload : 0;
            /* Linux does not tell ring 3 which kernel pages there are: sanitize_error_code(). */
            if (out->vector == VEC_PF && out->addr >= BIT(47) - PAGE_SIZE)
                out->error |= 1;
        }
    }
    c->raise_to = NULL;
    c->block = NULL;
    memcpy(out->regs.gpr, c->s.gpr, sizeof(c->s.gpr));
    out->regs.rip = c->s.rip;
    out->regs.rflags = flags_get(c);
    /* An interrupt of compatibility-mode code pushes no more than that. */
    if (!(c->s.seg[SEG_CS].attr & SEG_ATTR_L))
        out->regs.gpr[REG_RSP] &= UINT32_MAX;
    /* The IRET into the handler clears the RPL of null selectors. */
    for (unsigned k = 0; k < SEG_COUNT; k++)
        out->regs.seg[k] = c->s.seg[k].selector & ~3 ? c->s.seg[k].selector : 0;
    out->regs.fs_base = c->s.seg[SEG_FS].base;
    out->regs.gs_base = c->s.seg[SEG_GS].base;
    out->fpu = c->s.fpu;
    out->hash = hd_hash_data(v->data);
}

/* Twice by the translator: the second time branches are linked and the TLB is warm. */
void hd_vm_run(struct hd_vm *v, const struct hd_case *tc, struct hd_result *out)
{
    load_code(v, tc);
    run_once(v, tc, out);
    if (v->bt && (tc->number & 1))
        run_once(v, tc, out);
}
