/* SPDX-License-Identifier: Apache-2.0 */
/* A translation in progress: shared by translate.c and the files that write kinds of instructions.
 */
#ifndef ENGINE_BT_TRANSLATE_H
#define ENGINE_BT_TRANSLATE_H

#include "engine/bt/bt.h"
#include "engine/bt/emit.h"
#include "engine/bt/form.h"

#define MAX_FORMS  48
#define LOOK_AHEAD 10
#define MAX_STUBS  (MAX_FORMS * 10)
/* A cold piece of code to be written after the hot ones: where the jump to it is to be patched. */
enum stub_kind {
    STUB_UNPAGED, /* no run has the address: a tag may */
    STUB_MISS,    /* of a TLB check */
    STUB_MISS_CONSTANT,
    STUB_PAIR,
    STUB_RESUME,   /* what the temporaries are to hold for who comes back from bt_slow */
    STUB_WINDOW,   /* the stack's window is not here */
    STUB_LIMIT,    /* of a segment: the interpreter's */
    STUB_SLOW,     /* a condition the interpreter deals with: to bt_slow */
    STUB_SITE,     /* leave at the instruction */
    STUB_EXIT,     /* leave by an exit */
    STUB_EXIT_FAR, /* a guarded exit */
    STUB_LOOP_EXIT, /* an exit of a loop's second form */
    STUB_EXIT_BACK, /* leave by an exit that has set the page already */
    STUB_TRAP,     /* after a host fault */
};
struct stub {
    enum stub_kind kind;
    uint32_t from;   /* displacement to patch; STUB_TRAP: number of the trap */
    uint32_t from2;  /* another one, or BT_NONE */
    uint32_t index;  /* site or exit */
    /* STUB_MISS, STUB_UNPAGED: the tags' place; STUB_WINDOW: the lowest offset from rsp. */
    int32_t tag;
    int32_t member;  /* STUB_UNPAGED: where what T1 is to be is in the entry of the first slot */
    uint16_t span;   /* STUB_WINDOW, STUB_UNPAGED: bytes, and ... */
    uint32_t back;   /* ... where the block goes on */
    gva_t addr;      /* STUB_MISS_CONSTANT */
    uint8_t temp[2]; /* STUB_RESUME */
    bool far;        /* STUB_LOOP_EXIT: into another page */
    bool save;       /* flags: from the host's to the slot; STUB_RESUME: to the check */
};

/*
 * One check of several accesses: bytes [low, high) of what the base register was when it was made.
 * It has `moved` by so much since.
 */
struct share {
    bool live;
    bool in_t1; /* T1 makes host addresses of them ... */
    bool kept;  /* ... and so does bt_vcpu.shares */
    uint8_t base, how;
    int32_t low, high, moved;
};

/* Accesses of a loop that one look at the page is for (loop.c). */
#define LOOP_GROUPS BT_DELTAS
enum loop_fold { FOLD_NONE, FOLD_BASE, FOLD_INDEX };
struct loop_group {
    uint8_t base, index, scale, how;
    bool constant;       /* low and high are addresses, ... */
    bool relative;       /* ... of where the code is now */
    enum loop_fold fold; /* of two registers, this one is the same in all turns */
    int64_t low, high;   /* bytes relative to the registers as they are when a turn begins */
    int64_t stride;      /* bytes that they move by in a turn */
};

struct loop {
    bool on, pure;
    bool second;   /* this form is being written, ... */
    uint8_t in_t1; /* ... and T1 is the loop_delta of this group, plus 1; 0: of none */
    unsigned ngroups;
    uint32_t from; /* the first form's jump to itself */
    uint8_t of[MAX_FORMS];
    uint8_t counter; /* a register that moves in each turn by ... */
    int32_t counter_stride;
    struct loop_group group[LOOP_GROUPS];
};

/*
 * What live_at found: the blocks before a place ask for it, and every process that has a library at
 * an address of its own. Of 64-bit code, where it depends on the page's bytes alone.
 */
#define KNOWN_LIVE 8192
struct known_live {
    uint64_t key, phys; /* phys: of the place */
    uint64_t granules;  /* of the page, that were looked at */
    uint32_t gen;       /* of the page: stores to what has been translated from move it */
    uint32_t era;       /* translation.era */
    uint16_t live;
    uint8_t depth;
};

struct translation {
    struct bt_vm *bt;
    struct bt_vcpu *v;
    struct bt_block *b;
    uint64_t key; /* of the code being written: STAC and CLAC change it */
    uint64_t cs_word;
    unsigned mode; /* bt_mode_id of the block */
    bool code64;
    uint64_t limit;           /* RIP of code is no more */
    uint64_t rip_mask;        /* of what follows an instruction */
    gva_t va, lin;            /* RIP, and linear address */
    bool anywhere;            /* the block is to run at any address: va is where it is now */
    const uint8_t *live_page; /* host address of the code page */
    uint8_t page[PAGE_SIZE];  /* what was in it */
    unsigned off;             /* of the block in it */
    uint64_t granules;
    uint32_t page_number, gen; /* its number in RAM, and generation */
    /* The next page, if it is known to have code; else BT_NONE. */
    uint32_t page2, gen2;
    const uint8_t *live_page2;
    uint64_t granules2; /* of it, that the block has, ... */
    uint8_t bytes2[15]; /* ... and these bytes */
    unsigned nbytes2;
    unsigned n, max;
    bool failed; /* too many modes or stubs */
    bool open;   /* the last instruction is followed by the next bytes */
    struct emit hot, cold;
    bool host, slot; /* where the flags are */
    bool windows;    /* this block may use the stack's window */
    bool window;     /* checked: rsp has moved by window_off since, and these offsets are good */
    int32_t window_off, window_low, window_high;
    bool pair; /* ... in two pages, the second of which begins at ... */
    int32_t window_split;
    uint8_t pair_t1;    /* T1 makes host addresses of the first (1) or second (2) of them */
    int32_t rsp_behind; /* rsp has yet to move by so much: a run of PUSH and POP does it once */
    bool rsp_known;     /* rsp is what it was when the translation began, ... */
    int32_t rsp_off;    /* ... and so much */
    uint8_t temp[2];    /* T0, T1: the guest's register that they hold; 0: none */
    bool shares;        /* this block may share checks */
    unsigned next_share;
    struct share share[BT_SHARES];
    struct loop loop;
    unsigned nstubs;
    struct stub stubs[MAX_STUBS];
    struct form forms[MAX_FORMS];
    const struct form *now; /* the one that is being written */
    struct form ahead;
    /* Of the entries that are good: a translation that failed may have left some that are not. */
    uint32_t era;
    struct known_live known[KNOWN_LIVE];
};

#define GPR(n) rm_gs(GS(c.s.gpr) + 8 * (int32_t)(n))
#define SEG_AT(n, member) \
    rm_gs(GS(c.s.seg) + (int32_t)((n) * sizeof(struct cpu_seg) + offsetof(struct cpu_seg, member)))

/* Small enough that neither the sum of all displacements of a block nor their differences overflow.
 */
static inline bool near(int64_t disp)
{
    return disp > -(1 << 20) && disp < 1 << 20;
}

/* The host's flags may be destroyed from here on; those in `live` are kept in the slot. */
void flags_to_slot(struct translation *t, uint16_t live);
void flags_to_host(struct translation *t);
uint32_t add_site(struct translation *t, const struct form *f, enum bt_site_kind kind);
struct stub *add_stub(struct translation *t, enum stub_kind kind, uint32_t from, uint32_t index);
/* If the condition holds, the interpreter runs the instruction; flags are in the slot or dead. */
void slow_if(struct translation *t, unsigned cc, uint32_t site);

struct place {
    struct rm rm;
    uint32_t site;
};
/* reg = an address of, or relative to, the code. The flags stay. */
void emit_code_address(struct translation *t, struct emit *e, unsigned reg, gva_t addr);
/* T0 = the operand's linear address. Destroys T1, and the flags for FS and GS. */
void emit_address(struct translation *t, const struct form *f, bool segment);
/* f->stack bytes at base + disp. The place does not use T0. */
struct place emit_stack(struct translation *t, const struct form *f, unsigned base, int32_t disp,
                        enum access how);
/*
 * The check of `size` bytes at the address in T0, which is at `retry`. Afterwards T0 is the offset
 * in the page and T1 the entry's `member`: the page's host address, or the addend.
 */
void emit_check(struct translation *t, uint32_t site, unsigned size, enum access how,
                size_t member);
/*
 * Its first part: T1 becomes the entry's place, T0 the offset in the page. The jump that is taken
 * if the tag at `tag` in the table is another one.
 */
uint32_t emit_tag_check(const struct translation *t, struct emit *e, int32_t tag, unsigned size);
/*
 * unpaged.c: emit_check of code without paging that only reads. Is it inside of a run? Else the tag
 * is looked at.
 */
struct stub *emit_run_check(struct translation *t, uint32_t site);
/* T0, T1 are something else from here on. */
void t0_lost(struct translation *t);
void t1_lost(struct translation *t);
void move_rsp(struct translation *t, int32_t by);
void resume_here(struct translation *t, uint32_t site);
/* T0: where to, in the mode of t->key. Flags in the slot or dead. */
void emit_indirect(struct translation *t, uint32_t site);
/* The number of a mode; BT_MODE_LIST if there are too many. Under the lock. */
unsigned bt_mode_id(struct bt_vm *bt, uint64_t key, uint64_t cs_word);
/* Indirect branches from here on are in the mode of t->key. */
void emit_mode(struct translation *t);
/* Address and check of the operand that `f` has; T0 is free afterwards if the place does not use
 * it. */
struct place emit_operand(struct translation *t, const struct form *f, unsigned size,
                          enum access how);

/* What loop.c has of translate.c. */
gva_t branch_target(const struct form *f, gva_t va);
bool in_page(const struct translation *t, gva_t target);
/* How far an instruction moves a register that it does nothing else to. False: nobody knows. */
bool reg_moves(const struct form *f, unsigned reg, unsigned width, int32_t *by);
/* RIP behind an instruction of the block. */
gva_t behind(const struct translation *t, const struct form *f);
void emit_lea(struct translation *t, const struct form *f);
uint32_t add_exit(struct translation *t, gva_t target, uint16_t live);
void add_trap(struct translation *t, uint32_t at, uint32_t site, bool save);

/* All of a block that is not pure but the branch at its end, from the beginning. */
void emit_as_first(struct translation *t);

/* loop.c. Is the block, whose last form is a branch to its beginning, a loop of this kind? */
bool loop_find(struct translation *t);
/* In the second form: is the operand one of those that need no check? Loads T1. */
bool loop_operand(struct translation *t, const struct form *f, struct rm *m);
/* Behind the first form, whose jump to itself is patched. */
void emit_loop_form(struct translation *t);

/* segment.c. Call segment_form when all else of the form is known: it may become a slow one. */
void segment_form(const struct translation *t, struct form *f);
bool seg_flat(const struct translation *t, unsigned seg);
bool is_pushf(const struct form *f);
bool is_popf(const struct form *f);
/*
 * T0, the offset of `size` bytes, of `asize` itself, becomes a linear address; the site's if it is
 * beyond the limit.
 */
void emit_segment(struct translation *t, unsigned seg, unsigned asize, unsigned size,
                  uint32_t site);
/* T0 = linear address of f->stack bytes at base + disp, in a stack that is not flat or of 16 bits.
 */
void emit_stack_address(struct translation *t, const struct form *f, unsigned base, int32_t disp,
                        uint32_t site);
/* Of 2, 4 or 8 bytes: a load zero-extends. */
void emit_load_sized(struct emit *e, unsigned size, unsigned reg, struct rm m);
void emit_sized(struct emit *e, unsigned size, unsigned opcode, unsigned reg, struct rm m);
void emit_store_constant(struct emit *e, unsigned size, struct rm m, uint32_t v);

/* system.c: what FORM_SYSTEM is. Call system_form when a block is decoded, to know. */
bool system_form(const struct translation *t, struct form *f);
void emit_system(struct translation *t, const struct form *f);

#endif
