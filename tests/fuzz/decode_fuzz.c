/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random bytes as code: through the decoder, and run for some instructions, in a mode that the
 * input chooses, on a VM of 4 MiB with nothing but RAM. The guest's tables are random bytes as
 * well, so faults go wherever they lead; the run is bounded by its budget.
 */
#include <signal.h>
#include <sys/time.h>

#include "tests/unit/engine/interp/rig.h"

#include "engine/interp/decode.h"

enum { HEADER = 12, BUDGET = 2000 };

static uint64_t spread(uint8_t v)
{
    static const uint64_t values[8] = {0,          1,          0x7f,     0x8000,
                                       UINT32_MAX, 1ull << 63, RIG_DATA, RIG_CODE};

    return values[v & 7] + (v >> 3);
}

static void choose_mode(struct rig *r, const uint8_t *h)
{
    switch (h[0] & 7) {
    case 0:
        rig_real(r);
        break;
    case 1: /* virtual-8086 */
        rig_real(r);
        r->cs.cr0 |= CR0_PE;
        r->cs.rflags |= RFLAGS_VM | (h[1] & 1 ? RFLAGS_IOPL : 0);
        for (unsigned i = 0; i < SEG_COUNT; i++)
            r->cs.seg[i].attr = 0xf3;
        break;
    case 2:
        rig_protected(r, false);
        break;
    case 3:
    case 4:
        rig_protected(r, true);
        break;
    default:
        rig_long(r);
        break;
    }
    if ((h[0] & 8) && (h[0] & 7) > 1) { /* CPL 3 */
        for (unsigned i = 0; i < SEG_COUNT; i++) {
            r->cs.seg[i].attr |= SEG_ATTR_DPL;
            r->cs.seg[i].selector |= 3;
        }
    }
    if (h[0] & 16)
        r->cs.seg[SEG_DS].limit = RIG_DATA + 0x1000;
    if (h[0] & 32)
        r->cs.seg[SEG_CS].limit = RIG_CODE + 0x80;
    if (h[1] & 2)
        r->cs.rflags |= RFLAGS_DF;
    if (h[1] & 4)
        r->cs.rflags |= RFLAGS_TF;
    if (h[1] & 8)
        r->cs.rflags |= RFLAGS_AC;
    if (h[1] & 16)
        r->cs.cr0 |= CR0_AM;
    if (h[1] & 32)
        r->cs.cr4 |= CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT;
    if (h[1] & 64)
        r->cs.xcr0 = r->model.xcr0_mask;
    if (h[1] & 128)
        r->cs.idtr.limit = 0x3ff;
}

/*
 * A REP with a huge count over addresses where nothing is never ends and never faults: after 100 ms
 * of CPU time the vCPU is asked to leave, as a machine's main thread would.
 */
static struct vcpu *volatile running;

static void on_timer(int sig)
{
    (void)sig;
    if (running)
        atomic_fetch_or(&running->pending, PEND_EXIT);
}

static void run_bounded(struct rig *r)
{
    struct itimerval in = {.it_value.tv_usec = 100000, .it_interval.tv_usec = 100000}, off = {0};

    signal(SIGVTALRM, on_timer);
    running = r->vcpu;
    setitimer(ITIMER_VIRTUAL, &in, NULL);
    rig_run(r, BUDGET);
    setitimer(ITIMER_VIRTUAL, &off, NULL);
    running = NULL;
}

/*
 * Random bytes seldom make an EVEX or VEX prefix that means something: this puts one in front, with
 * its fixed bits right and the rest from the input, and the three-byte opcode maps of SSE.
 */
static void decode_prefixed(struct interp *c, const uint8_t *in)
{
    /* Opcodes of the small extensions, which chance seldom meets. */
    static const uint8_t rare[] = {0x13, 0x44, 0x45, 0xc4, 0xc8, 0xcf, 0xce, 0xb4, 0xb5,
                                   0x8d, 0x75, 0x63, 0x70, 0x71, 0x50, 0x52, 0x8f, 0x54,
                                   0x55, 0xdc, 0xde, 0xf0, 0xf1, 0xf2, 0xf3, 0xf5, 0xf6,
                                   0xf7, 0xb8, 0xbc, 0xbd, 0x1d, 0x41, 0x90, 0x92, 0x2a};
    uint8_t evex[15] = {0x62, (uint8_t)((in[0] & 0xf3) | (in[3] % 3 + 1)), in[1] | 4, in[2]};
    uint8_t vex[15] = {0xc4, (uint8_t)((in[0] & 0xe0) | (in[3] % 3 + 1)), in[1]};
    uint8_t sse[15] = {(const uint8_t[]){0x66, 0xf2, 0xf3, 0x90}[in[0] & 3], 0x0f,
                       in[0] & 4   ? 0x38
                       : in[0] & 8 ? 0x3a
                                   : in[1]};
    struct insn insn;

    evex[1] &= 0xf3;
    memcpy(evex + 4, in + 4, sizeof(evex) - 4);
    memcpy(vex + 3, in + 4, sizeof(vex) - 4);
    memcpy(sse + 3, in + 4, sizeof(sse) - 4);
    if (in[3] & 0x80)
        evex[4] = vex[3] = rare[in[4] % sizeof(rare)];
    if (in[3] & 0x80)
        sse[in[0] & 12 ? 3 : 2] = rare[in[4] % sizeof(rare)];
    decode_insn(c, evex, sizeof(evex), &insn);
    decode_insn(c, vex, sizeof(vex), &insn);
    decode_insn(c, sse, sizeof(sse), &insn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rig *r;
    struct insn insn;
    size_t len;

    if (size < HEADER + 1)
        return 0;
    r = rig_new_model((const char *[]){"max", "486", "pentium3", "max"}[data[11] & 3]);
    choose_mode(r, data);
    for (unsigned i = 0; i < 9; i++)
        r->cs.gpr[i == REG_RSP ? 15 : i] = spread(data[2 + i]);
    len = size - HEADER < 3 * PAGE_SIZE ? size - HEADER : 3 * PAGE_SIZE;
    /* The code lies so that some inputs cross a page. */
    r->cs.rip = RIG_CODE + (data[11] & 4 ? PAGE_SIZE - 8 : 0);
    rig_write(r, r->cs.seg[SEG_CS].base + r->cs.rip, data + HEADER, len);
    rig_write(r, 0, data + HEADER, len < 0x400 ? len : 0x400);
    rig_write(r, RIG_DATA, data + HEADER, len);
    r->vm.engine->set(r->vcpu, &r->cs);
    for (size_t n = 0; n < len && n < 256; n++) {
        uint8_t buf[15] = {0};
        size_t have = len - n < sizeof(buf) ? len - n : sizeof(buf);

        memcpy(buf, data + HEADER + n, have);
        decode_insn(r->vcpu->engine, buf, (unsigned)have, &insn);
        decode_prefixed(r->vcpu->engine, buf);
    }
    run_bounded(r);
    rig_free(r);
    return 0;
}
