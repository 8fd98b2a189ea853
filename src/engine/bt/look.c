/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/bt/look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

_Static_assert(ZYDIS_MNEMONIC_MAX_VALUE < BT_MNEMONICS, "slow_by has a place for each");

/* ---- trace points ---------------------------------------------------------------------------- */

void bt_trace_emit(struct vm *vm, int vcpu, const char *name, uint64_t rip, uint64_t addr,
                   uint64_t value, uint64_t extra)
{
    trace_emit(&vm->trace, (struct trace_rec){.kind = TRACE_JIT,
                                              .device = "bt",
                                              .name = name,
                                              .rip = rip,
                                              .addr = addr,
                                              .value = value,
                                              .extra = extra,
                                              .vcpu = (int8_t)vcpu});
}

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t bt_host_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

void bt_look_init(struct bt_vm *bt)
{
    bt->start_ticks = __builtin_ia32_rdtsc();
    bt->start_ns = bt_host_ns();
}

void bt_look_vcpu(struct bt_vcpu *v)
{
    v->n.phase = BT_OUTSIDE;
    v->n.timed = v->c.vcpu->count_devices = v->c.vm->engine_options.times;
    v->n.since = v->bt->start_ticks;
}

/* What devices took is theirs, whoever called them. */
void bt_phase_ends(struct bt_vcpu *v)
{
    struct bt_counts *n = &v->n;
    uint64_t now = __builtin_ia32_rdtsc(), devices = v->c.vcpu->device_ticks;

    n->ticks[n->phase] += now - n->since - (devices - n->devices);
    n->since = now;
    n->devices = devices;
}

/* ---- doppel inspect NAME jit ----------------------------------------------------------------- */

#define TOP_SLOW 16

struct report {
    void (*counter)(void *opaque, const char *name, uint64_t value);
    void *opaque;
};

static void tell(const struct report *r, const char *name, uint64_t value)
{
    r->counter(r->opaque, name, value);
}

static void add_up(const struct vm *vm, struct bt_counts *sum, uint64_t *interpreted)
{
    for (unsigned i = 0; i < vm->nvcpus; i++) {
        struct bt_vcpu *v = bt_of(interp_of(vm->vcpus[i]));
        const struct bt_counts *n = &v->n;

        if (n->timed)
            bt_phase_ends(v);
        *interpreted += v->c.s.icount;
        sum->enters += n->enters;
        for (unsigned k = 0; k < BT_LEAVES; k++)
            sum->left[k] += n->left[k];
        sum->lookups += n->lookups;
        sum->found += n->found;
        sum->cold += n->cold;
        sum->fills += n->fills;
        sum->exec_fills += n->exec_fills;
        sum->drops += n->drops;
        sum->switches += n->switches;
        sum->page_drops += n->page_drops;
        sum->write_drops += n->write_drops;
        sum->slow += n->slow;
        sum->slow_accesses += n->slow_accesses;
        for (unsigned k = 0; k < BT_MNEMONICS; k++)
            sum->slow_by[k] += n->slow_by[k];
        sum->timed |= n->timed;
        for (unsigned k = 0; k < BT_PHASES; k++)
            sum->ticks[k] += n->ticks[k];
        sum->devices += n->devices;
    }
}

static void tell_code(const struct report *r, struct bt_vm *bt)
{
    uint64_t dead = 0, insns = 0, anywhere = 0;

    pthread_mutex_lock(&bt->lock);
    for (uint32_t i = 0; i < bt->nblocks; i++) {
        if (bt->blocks[i].dead) {
            dead++;
            continue;
        }
        insns += bt->blocks[i].insns;
        anywhere += block_anywhere(&bt->blocks[i]);
    }
    tell(r, "blocks", bt->nblocks - dead);
    tell(r, "blocks.dead", dead);
    tell(r, "blocks.anywhere", anywhere);
    tell(r, "instructions", insns);
    tell(r, "bytes.hot", bt->hot - bt->stubs_end);
    tell(r, "bytes.cold", bt->cold - BT_COLD);
    tell(r, "bytes.room", BT_CODE_BYTES);
    tell(r, "sites", bt->nsites);
    tell(r, "exits", bt->nexits);
    tell(r, "total.translated", bt->translated);
    tell(r, "total.linked", bt->linked);
    tell(r, "total.killed", bt->killed);
    tell(r, "total.flushes", bt->flushes);
    pthread_mutex_unlock(&bt->lock);
}

/* The mnemonics that are run most, each by its name. */
static void tell_slow(const struct report *r, struct bt_counts *n)
{
    tell(r, "slow", n->slow);
    tell(r, "slow.access", n->slow_accesses);
    for (unsigned i = 0; i < TOP_SLOW; i++) {
        unsigned top = 0;
        const char *text;
        char name[48];

        for (unsigned k = 1; k < BT_MNEMONICS; k++)
            if (n->slow_by[k] > n->slow_by[top])
                top = k;
        if (!n->slow_by[top])
            return;
        text = ZydisMnemonicGetString((ZydisMnemonic)top);
        snprintf(name, sizeof(name), "slow.by.%s", text ? text : "?");
        tell(r, name, n->slow_by[top]);
        n->slow_by[top] = 0;
    }
}

static void tell_times(const struct report *r, const struct bt_vm *bt, const struct bt_counts *n)
{
    static const char *const names[BT_PHASES] = {
        [BT_IN_LOOP] = "us.loop",
        [BT_IN_CODE] = "us.code",
        [BT_IN_INTERP] = "us.interpreter",
        [BT_IN_SLOW] = "us.slow",
        [BT_IN_TRANSLATOR] = "us.translator",
        [BT_OUTSIDE] = "us.halted",
    };
    uint64_t ticks = __builtin_ia32_rdtsc() - bt->start_ticks;
    double us = (double)(bt_host_ns() - bt->start_ns) / 1000.0 / (double)(ticks ? ticks : 1);

    for (unsigned i = 0; i < BT_PHASES; i++)
        tell(r, names[i], (uint64_t)((double)n->ticks[i] * us));
    tell(r, "us.devices", (uint64_t)((double)n->devices * us));
}

void bt_inspect(struct vm *vm, void (*counter)(void *opaque, const char *name, uint64_t value),
                void *opaque)
{
    const struct report r = {.counter = counter, .opaque = opaque};
    struct bt_counts *n = calloc(1, sizeof(*n));
    struct bt_vm *bt = vm->engine_data;
    uint64_t interpreted = 0;

    tell_code(&r, bt);
    if (!n)
        return;
    add_up(vm, n, &interpreted);
    tell(&r, "enters", n->enters);
    tell(&r, "left.site", n->left[BT_LEAVE_SITE]);
    tell(&r, "left.direct", n->left[BT_LEAVE_DIRECT]);
    tell(&r, "left.indirect", n->left[BT_LEAVE_INDIRECT]);
    tell(&r, "left.slow", n->left[BT_LEAVE_SLOW]);
    tell(&r, "lookups", n->lookups);
    tell(&r, "lookups.percent_found", n->lookups ? n->found * 100 / n->lookups : 0);
    tell(&r, "interpreted.blocks", n->cold);
    tell(&r, "interpreted.instructions", interpreted);
    tell(&r, "tlb.fills", n->fills);
    tell(&r, "tlb.exec_fills", n->exec_fills);
    tell(&r, "tlb.flushes", n->drops);
    tell(&r, "tlb.switches", n->switches);
    tell(&r, "tlb.page_flushes", n->page_drops);
    tell(&r, "tlb.write_drops", n->write_drops);
    tell_slow(&r, n);
    if (n->timed)
        tell_times(&r, bt, n);
    free(n);
}

/* ---- names for perf ------------------------------------------------------------------------- */

#define LINE_BYTES 96

static int add_line(const struct bt_vm *bt, char *line, uint32_t from, uint32_t to,
                    const char *name)
{
    return snprintf(line, LINE_BYTES, "%" PRIx64 " %x %s\n",
                    (uint64_t)(uintptr_t)bt->code.rx + from, to - from, name);
}

/* One write: whoever ends the process loses nothing. Best effort, it is only names. */
static void append(const struct bt_vm *bt, const char *lines, int n)
{
    if (n > 0 && write(bt->perf_map, lines, (size_t)n) < 0)
        return;
}

static void name_stubs(const struct bt_vm *bt)
{
    const struct bt_stubs *s = &bt->stubs;
    const struct {
        const char *name;
        uint32_t at;
    } stubs[] = {
        {"bt:enter", s->enter},
        {"bt:leave_site", s->leave_site},
        {"bt:leave_direct", s->leave_direct},
        {"bt:leave_indirect", s->leave_indirect},
        {"bt:slow", s->slow},
    };
    char line[LINE_BYTES];

    for (unsigned i = 0; i < ARRAY_LEN(stubs); i++) {
        uint32_t end = bt->stubs_end;

        for (unsigned j = 0; j < ARRAY_LEN(stubs); j++)
            if (stubs[j].at > stubs[i].at && stubs[j].at < end)
                end = stubs[j].at;
        append(bt, line, add_line(bt, line, stubs[i].at, end, stubs[i].name));
    }
}

/*
 * perf wants this name and that the file is the process owner's. /tmp is everybody's: what is there
 * already is taken away, not followed.
 */
int bt_perf_map_open(struct bt_vm *bt, struct err *err)
{
    char path[64];

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    unlink(path);
    bt->perf_map =
        open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (bt->perf_map < 0)
        return err_set(err, errno, "--perf-map: cannot write %s: %s.", path, strerror(errno));
    name_stubs(bt);
    return 0;
}

void bt_perf_map_close(struct bt_vm *bt)
{
    if (bt->perf_map >= 0)
        close(bt->perf_map);
    bt->perf_map = -1;
}

void bt_perf_map_block(struct bt_vm *bt, const struct bt_block *b, uint32_t hot_end, uint32_t cold,
                       uint32_t cold_end)
{
    char lines[2 * LINE_BYTES], name[64];
    int n;

    snprintf(name, sizeof(name), "bt:%" PRIx64 ":cpl%u:hot", b->lin, mode_cpl(b->key));
    n = add_line(bt, lines, (uint32_t)min_u64(b->entry_indirect, b->entry), hot_end, name);
    snprintf(name, sizeof(name), "bt:%" PRIx64 ":cpl%u:cold", b->lin, mode_cpl(b->key));
    append(bt, lines, n + add_line(bt, lines + n, cold, cold_end, name));
}
