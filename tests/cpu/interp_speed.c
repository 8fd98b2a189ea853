/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest instructions per second of the interpreter on small loops in 64-bit mode: a figure to
 * compare before and after a change, not a test.
 */
#include <time.h>

#include "tests/unit/engine/interp/rig.h"

struct loop {
    const char *name;
    unsigned len;
    uint8_t code[96];
};

/* Each loops for ever; rsi and rdi point at data. */
static const struct loop loops[] = {
    /* add rax,rbx; xor rcx,rax; lea rdx,[rax+8]; sub r8,rdx; add r9,1; dec r10; jmp */
    {"register loop", 26, {0x48, 0x01, 0xd8, 0x48, 0x31, 0xc1, 0x48, 0x8d, 0x50,
                           0x08, 0x49, 0x29, 0xd0, 0x49, 0x83, 0xc1, 0x01, 0x49,
                           0xff, 0xca, 0xe9, 0xe7, 0xff, 0xff, 0xff, 0x90}},
    /* dec rax; jnz */
    {"two-instruction loop", 5, {0x48, 0xff, 0xc8, 0x75, 0xfb}},
    /* mov rax,[rsi]; add rax,[rsi+8]; mov [rdi],rax; add [rdi+16],rax; inc rcx; jmp */
    {"memory loop", 20, {0x48, 0x8b, 0x06, 0x48, 0x03, 0x46, 0x08, 0x48, 0x89, 0x07,
                         0x48, 0x01, 0x47, 0x10, 0x48, 0xff, 0xc1, 0xeb, 0xed, 0x90}},
    /* push rbx; call +2; jmp back; (f:) mov rax,[rsi+rcx*8]; ret: with pop */
    {"call loop", 20, {0x53, 0xe8, 0x03, 0x00, 0x00, 0x00, 0x5b, 0xeb, 0xf7, 0x48,
                       0x8b, 0x04, 0xce, 0x48, 0x85, 0xc0, 0x74, 0x00, 0xc3, 0x90}},
    /* mov ecx,512; mov rdi,rsi; rep stosq; jmp */
    {"rep stosq of 4 KiB",
     13,
     {0xb9, 0x00, 0x02, 0x00, 0x00, 0x48, 0x89, 0xf7, 0xf3, 0x48, 0xab, 0xeb, 0xf3}},
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

int main(void)
{
    struct rig *r = rig_new();

    for (unsigned n = 0; n < ARRAY_LEN(loops); n++) {
        uint64_t count = 100000000;
        double t;

        rig_long(r);
        rig_write(r, RIG_CODE, loops[n].code, loops[n].len);
        r->cs.gpr[REG_RAX] = 1ull << 62;
        r->cs.gpr[REG_RSI] = r->cs.gpr[REG_RDI] = RIG_DATA;
        if (n == 4)
            count /= 20;
        t = now();
        rig_run(r, count);
        t = now() - t;
        printf("%-24s %8.1f M instructions/s%s\n", loops[n].name, (double)count / t / 1e6,
               r->stop == VCPU_STOP_BUDGET ? "" : "  (stopped early)");
    }
    rig_free(r);
    return 0;
}
