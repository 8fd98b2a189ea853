/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Code that runs without paging: real mode, and protected mode while CR0.PG is 0. A linear address
 * is a physical one there, and guest RAM is one mapping of the host's, so that nearly all that such
 * code touches lies in one of two runs of addresses at one distance from the host's: from 0 up to
 * the VGA's memory, and from 1 MiB up to the top of RAM. A load compares its address with a run's
 * end; what is not inside has its tag looked at, as with paging: devices, ROM, the other run, the
 * last bytes of each.
 *
 * Stores always have tags: those say that the page has no code, and who marks it as code waits
 * until they are dropped.
 *
 * The runs are found with the first tag that is filled and dropped with all tags, so that the
 * memory map, A20 and the local APIC's page may change as they do with tags. Where they end is in
 * memory, per vCPU: no code has to die when that changes.
 */
#include "engine/bt/translate.h"

#include "core/vm.h"

#define VGA        0xa0000u
#define MAX_PIECES 32

/* ---- the runs -------------------------------------------------------------------------------- */

/* Once for all: what lies at another distance is in no run. */
void bt_distance_find(struct bt_vm *bt)
{
    uint64_t none = 0;
    gpa_t end;
    const uint8_t *host;

    if (likely(atomic_load(&bt->distance)))
        return;
    host = mem_pages(bt->vm, 0, &end);
    atomic_compare_exchange_strong(&bt->distance, &none, (uint64_t)(uintptr_t)host);
}

/* Where the run that begins at `start` ends. */
static gpa_t find_end(struct bt_vcpu *v, gpa_t start)
{
    const uint64_t distance = atomic_load(&v->bt->distance);
    const struct vcpu *vcpu = v->c.vcpu;
    struct vm *vm = v->c.vm;
    gpa_t end = start, next;

    for (unsigned n = 0; n < MAX_PIECES && end < BIT(32); n++) {
        const uint8_t *host = mem_pages(vm, end, &next);

        if (!host || (uint64_t)(uintptr_t)host - end != distance)
            break;
        end = min_u64(next, BIT(32));
    }
    for (unsigned i = 0; i < VCPU_OVERLAYS; i++) {
        const gpa_t base = vcpu->overlay_base[i] & ~PAGE_MASK;

        if (vcpu->overlay[i] && base + vcpu->overlay[i]->size > start)
            end = min_u64(end, base);
    }
    if (atomic_load(&vm->a20_mask) != UINT64_MAX) /* every odd megabyte is another one */
        end = min_u64(end, BT_RUN_HIGH);
    return end;
}

void bt_runs_find(struct bt_vcpu *v)
{
    if (!atomic_load(&v->bt->distance))
        return;
    for (unsigned i = 0; i < BT_UNPAGED_RUNS; i++) {
        gpa_t start = i == RUN_LOW ? 0 : BT_RUN_HIGH, end = find_end(v, start);

        v->run[i] = end > start + BT_RUN_EDGE ? end - start - BT_RUN_EDGE : 0;
    }
}

void bt_runs_drop(struct bt_vcpu *v)
{
    v->run[RUN_LOW] = v->run[RUN_HIGH] = 0;
}

/* ---- code ------------------------------------------------------------------------------------ */

/* Where the instruction would read if it ran now: a guess which of the runs it is for. */
static gva_t guess(const struct translation *t)
{
    const struct cpu_state *s = &t->v->c.s;
    const struct form *f = t->now;
    const struct insn *in = &f->in;
    uint64_t at = (uint64_t)in->disp;

    if (f->class == FORM_SYSTEM && !(in->flags & INSN_MEM) && !is_popf(f) && !f->sreg_pop)
        return (uint32_t)s->gpr[REG_RSI]; /* strings are inline in flat segments only */
    if (!(in->flags & INSN_MEM) || in->seg >= SEG_COUNT)
        return (uint32_t)(s->seg[SEG_SS].base + (s->gpr[REG_RSP] & t->v->c.sp_mask));
    if (in->base < 16)
        at += s->gpr[in->base];
    if (in->index < 16)
        at += s->gpr[in->index] << in->scale;
    return (uint32_t)(s->seg[in->seg].base + (at & mask_bytes(in->asize)));
}

/* T0 stays the address, T1 becomes the distance. The caller says where the tag is. */
struct stub *emit_run_check(struct translation *t, uint32_t site)
{
    const bool low = guess(t) < VGA;
    struct emit *e = &t->hot;
    struct stub *s;

    if (!low)
        emit_op(e, true, OP_LEA, T1, rm_mem(T0, NO_REG, 0, -(int32_t)BT_RUN_HIGH));
    emit_op(e, true, OP_CMP, low ? T0 : T1,
            rm_gs(GS(run) + 8 * (int32_t)(low ? RUN_LOW : RUN_HIGH)));
    s = add_stub(t, STUB_UNPAGED, emit_jump(e, CC_AE, e->at), site);
    emit_const(e, T1, atomic_load(&t->bt->distance));
    s->back = e->at;
    return s;
}
