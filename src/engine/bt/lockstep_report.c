/* SPDX-License-Identifier: Apache-2.0 */
/* What lockstep.c prints when the engines disagree. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "core/state.h"
#include "core/vm.h"
#include "engine/bt/form.h"
#include "engine/bt/lockstep.h"

#define WORDS_SHOWN 32 /* of RAM */

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void hex(FILE *out, const uint8_t *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        fprintf(out, "%02x", p[i]);
}

/* ---- code ---- */

static void code(FILE *out, const uint8_t *p, unsigned n, uint64_t at, unsigned most, uint64_t mode)
{
    ZydisFormatter formatter;
    ZydisDecoder decoder;

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (mode == MODE_CODE64)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (mode == MODE_CODE32)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    for (unsigned done = 0, len; n && done < most; p += len, at += len, n -= len, done++) {
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        ZydisDecodedInstruction zi;
        char text[128] = "?";

        len = 1;
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, p, n, &zi, ops))) {
            len = zi.length;
            ZydisFormatterFormatInstruction(&formatter, &zi, ops, zi.operand_count_visible, text,
                                            sizeof(text), at, NULL);
        }
        fprintf(out, "  %016" PRIx64 "  ", at);
        hex(out, p, len);
        fprintf(out, "%*s  %s\n", (int)(15 - len) * 2, "", text);
    }
}

static void guest_code(FILE *out, const struct lockstep *l, const struct bt_block *b)
{
    const struct ram *ram = &l->v->c.vm->ram;
    unsigned off = b->phys & PAGE_MASK;

    fprintf(out, "guest code:\n");
    if (b->phys < ram->size)
        code(out, ram->host + b->phys, PAGE_SIZE - off, l->s.rip, b->insns, b->key & MODE_CODE);
}

static void host_code(FILE *out, const struct bt_vm *bt, const struct bt_block *b)
{
    const uint8_t *rx = bt->code.rx, *rw = bt->code.rw;

    fprintf(out,
            "host code (enter at %" PRIx64 ", the guest's registers at gs:%#x, flags at gs:%#x):\n",
            (uint64_t)(uintptr_t)rx + b->entry, GS(c.s.gpr), GS(c.aflags));
    code(out, rw + b->entry, b->hot_end - b->entry, (uintptr_t)rx + b->entry, UINT32_MAX,
         MODE_CODE64);
    fprintf(out, "its cold part:\n");
    code(out, rw + b->cold, b->cold_end - b->cold, (uintptr_t)rx + b->cold, UINT32_MAX,
         MODE_CODE64);
}

/* ---- state ---- */

static uint64_t value(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p, size < 8 ? size : 8);
    return v;
}

/* Every field of struct cpu_state that differs, by the table that snapshots use. */
static void fields(FILE *out, const char *prefix, const struct state_field *f, unsigned n,
                   const uint8_t *before, const uint8_t *a, const uint8_t *b)
{
    for (; n--; f++) {
        for (unsigned i = 0; i < f->count; i++) {
            unsigned at = f->offset + i * f->size;
            char name[96];

            if (!memcmp(a + at, b + at, f->size))
                continue;
            if (f->names)
                snprintf(name, sizeof(name), "%s%s", prefix, f->names[i]);
            else if (f->count > 1)
                snprintf(name, sizeof(name), "%s%s[%u]", prefix, f->name, i);
            else
                snprintf(name, sizeof(name), "%s%s", prefix, f->name);
            if (f->kind == STATE_KIND_STRUCT) {
                strncat(name, ".", sizeof(name) - strlen(name) - 1);
                fields(out, name, f->fields, f->nfields, before + at, a + at, b + at);
            } else if (f->size <= 8) {
                fprintf(out,
                        "  %s: before %" PRIx64 ", interpreter %" PRIx64 ", translator %" PRIx64
                        "\n",
                        name, value(before + at, f->size), value(a + at, f->size),
                        value(b + at, f->size));
            } else {
                fprintf(out, "  %s:\n    before      ", name);
                hex(out, before + at, f->size);
                fprintf(out, "\n    interpreter ");
                hex(out, a + at, f->size);
                fprintf(out, "\n    translator  ");
                hex(out, b + at, f->size);
                fprintf(out, "\n");
            }
        }
    }
}

static uint64_t rflags(const struct cpu_state *s, uint32_t aflags)
{
    return (s->rflags & ~RFLAGS_ARITH) | aflags_to_rflags(aflags);
}

static void registers(FILE *out, const char *who, const struct cpu_state *s, uint32_t aflags)
{
    fprintf(out, "%s: rip %016" PRIx64 " rflags %06" PRIx64, who, s->rip, rflags(s, aflags));
    for (unsigned i = 0; i < 16; i++)
        fprintf(out, "%s%-3s %016" PRIx64, i % 4 ? " " : "\n  ", gpr_names[i], s->gpr[i]);
    fprintf(out, "\n");
}

static void end(FILE *out, const char *who, const struct lockstep_end *e)
{
    if (e->device)
        fprintf(out, "  %s: touches a device or too many pages\n", who);
    else if (e->raised)
        fprintf(out, "  %s: vector %u, error code %#x, payload %#" PRIx64 ", rip %#" PRIx64 "\n",
                who, e->vector, e->error, e->payload, e->s.rip);
    else
        fprintf(out, "  %s: no exception\n", who);
}

static void memory(FILE *out, const struct lockstep *l)
{
    unsigned shown = 0;

    for (unsigned i = 0; i < l->npages; i++) {
        const struct lockstep_page *p = &l->page[i];

        for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
            if (!memcmp(p->after + at, p->host + at, 8))
                continue;
            if (shown++ == WORDS_SHOWN) {
                fprintf(out, "  and more\n");
                return;
            }
            fprintf(out,
                    "  RAM page %x + %03x: before %016" PRIx64 ", interpreter %016" PRIx64
                    ", translator %016" PRIx64 "\n",
                    p->ram_page, at, value(p->before + at, 8), value(p->after + at, 8),
                    value(p->host + at, 8));
        }
    }
}

void lockstep_report(struct lockstep *l, const struct bt_block *b)
{
    const struct lockstep_end *x = &l->a, *y = &l->b;
    uint64_t fx = aflags_to_rflags(x->aflags), fy = aflags_to_rflags(y->aflags);
    FILE *out = stderr;

    fprintf(
        out,
        "doppel: lockstep: the translator differs from the interpreter in the block at %#" PRIx64
        " (%u instructions, %u run; %" PRIu64 " blocks before it were the same)\n",
        l->s.rip, b->insns, x->insns, l->blocks);
    fprintf(out, "differences:\n");
    if (x->raised != y->raised || y->device || x->vector != y->vector || x->error != y->error ||
        x->payload != y->payload) {
        end(out, "interpreter", x);
        end(out, "translator", y);
    }
    fields(out, "", cpu_state_table.fields, cpu_state_table.nfields, (const uint8_t *)&l->s,
           (const uint8_t *)&x->s, (const uint8_t *)&y->s);
    if ((fx ^ fy) & l->live)
        fprintf(out,
                "  arithmetic flags: interpreter %03" PRIx64 ", translator %03" PRIx64
                ", live %03x\n",
                fx, fy, l->live);
    if (l->dead)
        fprintf(out, "  (flags %03x were dead before the block, and inverted for the translator)\n",
                l->dead);
    if (x->mode != y->mode || x->key != y->key || x->cpl != y->cpl)
        fprintf(out,
                "  mode: interpreter %#" PRIx64 " key %#" PRIx64 " cpl %u, translator %#" PRIx64
                " key %#" PRIx64 " cpl %u\n",
                x->mode, x->key, x->cpl, y->mode, y->key, y->cpl);
    memory(out, l);
    registers(out, "before", &l->s, l->aflags);
    registers(out, "interpreter", &x->s, x->aflags);
    registers(out, "translator", &y->s, y->aflags);
    guest_code(out, l, b);
    host_code(out, l->v->bt, b);
    fflush(out);
}
