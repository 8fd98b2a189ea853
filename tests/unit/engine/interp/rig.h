/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM of 4 MiB with one vCPU on the interpreter, for tests of the engine: code is put into RAM,
 * the CPU set to a mode, run for so many instructions, and looked at. Without an interrupt table
 * every exception ends in a shutdown; which one it was is in the engine's own record.
 */
#ifndef TESTS_UNIT_ENGINE_INTERP_RIG_H
#define TESTS_UNIT_ENGINE_INTERP_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "cpu/model.h"
#include "engine/interp/interp.h"

#define RIG_RAM    (4u << 20)
#define RIG_CODE   0x1000u
#define RIG_DATA   0x20000u
#define RIG_STACK  0x30000u
#define RIG_TABLES 0x3f0000u /* page tables of long mode: identity */

struct rig {
    struct vm vm;
    struct cpu_model model;
    struct region ram;
    struct vcpu *vcpu;
    struct cpu_state cs; /* set before a run, got after it */
    enum vcpu_stop stop;
};

static inline void rig_die(const char *what, const struct err *err)
{
    fprintf(stderr, "rig: %s: %s\n", what, err->text);
    abort();
}

static inline void rig_write(struct rig *r, gpa_t gpa, const void *data, size_t len)
{
    if (!mem_load(&r->vm, gpa, data, len))
        abort();
}

static inline void rig_read(struct rig *r, gpa_t gpa, void *data, size_t len)
{
    if (!mem_read(&r->vm, gpa, data, len))
        abort();
}

static inline void rig_put64(struct rig *r, gpa_t gpa, uint64_t v)
{
    rig_write(r, gpa, &v, sizeof(v));
}

static inline uint64_t rig_get(struct rig *r, gpa_t gpa, size_t len)
{
    uint64_t v = 0;

    rig_read(r, gpa, &v, len);
    return v;
}

static inline struct cpu_seg rig_seg(uint16_t selector, uint16_t attr, uint64_t base,
                                     uint32_t limit)
{
    return (struct cpu_seg){.selector = selector, .attr = attr, .base = base, .limit = limit};
}

/* Real mode at RIG_CODE, segments at 0; SP at RIG_STACK & 0xffff. */
static inline void rig_real(struct rig *r)
{
    cpu_state_reset(&r->cs, true, r->model.signature);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        r->cs.seg[i] = rig_seg(0, i == SEG_CS ? 0x9b : 0x93, 0, 0xffff);
    r->cs.rip = RIG_CODE;
    r->cs.gpr[REG_RSP] = 0xf000;
    r->cs.idtr.limit = 0;
}

/* Flat protected mode without paging; D and B set for 32-bit code, clear for 16-bit. */
static inline void rig_protected(struct rig *r, bool code32)
{
    uint16_t size = SEG_ATTR_G | (code32 ? SEG_ATTR_DB : 0);

    rig_real(r);
    r->cs.cr0 = CR0_PE | CR0_ET | CR0_NE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        r->cs.seg[i] = i == SEG_CS ? rig_seg(8, size | 0x9b, 0, UINT32_MAX)
                                   : rig_seg(16, size | 0x93, 0, UINT32_MAX);
    r->cs.gpr[REG_RSP] = code32 ? RIG_STACK : 0xf000;
}

/* 64-bit code, the first GiB mapped to itself by 2 MiB pages. */
static inline void rig_long(struct rig *r)
{
    rig_put64(r, RIG_TABLES, (RIG_TABLES + 0x1000) | 7);
    rig_put64(r, RIG_TABLES + 0x1000, (RIG_TABLES + 0x2000) | 7);
    for (unsigned i = 0; i < 512; i++)
        rig_put64(r, RIG_TABLES + 0x2000 + i * 8, (uint64_t)i << 21 | 0x87);
    rig_protected(r, true);
    r->cs.seg[SEG_CS].attr = SEG_ATTR_G | SEG_ATTR_L | 0x9b;
    r->cs.cr4 = CR4_PAE | CR4_OSFXSR;
    r->cs.cr3 = RIG_TABLES;
    r->cs.efer = EFER_LME | EFER_LMA;
    r->cs.cr0 |= CR0_PG | CR0_WP;
}

static inline struct rig *rig_new_without(const char *model, const struct engine *engine,
                                          enum clock_mode clock, uint32_t host_without)
{
    struct rig *r = calloc(1, sizeof(*r));
    struct err err = {{0}};
    struct vm_config config = {.name = "rig",
                               .ram_bytes = RIG_RAM,
                               .clock = clock,
                               .engine = engine,
                               .host_without = host_without};

    if (!r || vm_init(&r->vm, &config, &err))
        rig_die("vm_init", &err);
    r->ram = (struct region){.name = "ram", .kind = REGION_RAM, .size = RIG_RAM};
    if (ram_alloc(&r->vm.ram, RIG_RAM, &r->ram.ram_offset, &err))
        rig_die("ram_alloc", &err);
    vm_lock(&r->vm);
    bus_map(&r->vm.memory, &r->ram, 0);
    vm_unlock(&r->vm);
    r->vm.tsc_hz = 1000000000;
    if (cpu_model_init(&r->model, model, 1, r->vm.tsc_hz, r->vm.host, &err))
        rig_die("cpu_model_init", &err);
    r->vcpu = vm_add_vcpu(&r->vm, &r->model, &err);
    if (!r->vcpu)
        rig_die("vm_add_vcpu", &err);
    rig_protected(r, true);
    return r;
}

static inline struct rig *rig_new_engine(const char *model, const struct engine *engine,
                                         enum clock_mode clock)
{
    return rig_new_without(model, engine, clock, 0);
}

static inline struct rig *rig_new_model(const char *model)
{
    return rig_new_engine(model, &engine_interp, CLOCK_VIRTUAL);
}

static inline struct rig *rig_new(void)
{
    return rig_new_model("max");
}

static inline struct rig *rig_new_long(void)
{
    struct rig *r = rig_new();

    rig_long(r);
    return r;
}

static inline struct rig *rig_new_real(void)
{
    struct rig *r = rig_new();

    rig_real(r);
    return r;
}

static inline void rig_free(struct rig *r)
{
    vm_fini(&r->vm);
    free(r);
}

/* Sets r->cs, runs at most n instructions, gets r->cs. */
static inline void rig_run(struct rig *r, uint64_t n)
{
    r->vm.engine->set(r->vcpu, &r->cs);
    r->stop = r->vm.engine->run(r->vcpu, n);
    r->vm.engine->get(r->vcpu, &r->cs);
}

#define RIG_PUT(r, gpa, ...)                              \
    do {                                                  \
        static const uint8_t rig_bytes[] = {__VA_ARGS__}; \
        rig_write(r, gpa, rig_bytes, sizeof(rig_bytes));  \
    } while (0)

/* Puts the bytes at RIG_CODE. */
#define RIG_CODE_BYTES(r, ...) RIG_PUT(r, RIG_CODE, __VA_ARGS__)

/* The same, and runs at most n instructions. */
#define RIG_RUN(r, n, ...)              \
    do {                                \
        RIG_CODE_BYTES(r, __VA_ARGS__); \
        rig_run(r, n);                  \
    } while (0)

/* Vector and address of the first exception since the rig was made; 0xff if there was none. */
static inline unsigned rig_exception(const struct rig *r)
{
    const struct interp *c = r->vcpu->engine;

    return c->last_exc_n ? c->last_exc[0].vector : 0xff;
}

#endif
