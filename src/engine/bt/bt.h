/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The translator's own header. Guest code becomes host code of the same instruction set: most
 * instructions are copied, and only control flow, privileged instructions and memory operands are
 * rewritten. What is not worth translating, everything cold, and everything odd is run by the
 * interpreter, on whose struct interp this engine is built: it owns the state, the walker, the
 * exceptions and the events.
 *
 * Registers in translated code. The guest's general registers are in the host registers of the same
 * names, rsp included, so nothing may be pushed and every signal needs the alternate stack. r13 to
 * r15 (SD, T0, T1) are the translator's; the guest's are in struct interp, as everything else is,
 * reached through gs. The arithmetic flags are the host's, or in interp.aflags ("the slot"), or
 * dead; DF of the host is always 0. Vector registers, and x87 and MMX ones, are the guest's while
 * `live` says so: a block that needs them looks at a word of its own when it polls.
 *
 * A memory operand goes through an inline TLB: T0 is the linear address, xor-ed with the tag of its
 * slot, which leaves the offset in the page exactly if the page is the right one; one compare finds
 * misses and accesses that cross the page's end. A miss leaves to bt_slow, which fills the slot and
 * comes back to the check, or has the interpreter run the instruction (MMIO, page crossing, code
 * pages, faults) and goes on after it.
 *
 * Without paging a load needs no tag: RAM from 0 on and from 1 MiB on lies at one distance from the
 * host's addresses, and the operand's address is compared with the end of one of the two. Only what
 * is not inside comes to the check above (unpaged.c).
 *
 * The stack has a window besides: one page that the privilege in force may write, whose offset to
 * host addresses stays in SD. A block checks once that everything it touches by rsp lies in it, and
 * then needs no more than the instruction itself. While there is no window, window_none makes every
 * address fail. Where the stack's page ends in the middle of what a block touches, another form of
 * the block runs, made for just that place of the page's end, which has two pages (BT_KEY_PAIR);
 * and where that varies, one which has no window (BT_KEY_NO_WINDOW). In the same way accesses by
 * one base register that only constants are added to in between share one check of all their bytes,
 * and without it each has its own (BT_KEY_NO_SHARE).
 *
 * A block that is a loop has a second form, whose accesses need no check for as many turns as they
 * stay in their pages (loop.c).
 *
 * Code of 32 and 16 bits is translated as well, while the upper halves of its eight registers are
 * zero (32-bit code keeps them so; bt_mode_ok). In flat segments it needs no more than 64-bit code
 * does: what is added in 64 bits and should have been cut to 32 has no tag, and is the
 * interpreter's. In compatibility mode, where that may have one, addresses are computed of their
 * own. Other segments have limit and base looked at for each access (segment.c); the limit not for
 * 16-bit offsets in segments of 64 KiB or more (BT_KEY_64K). A stack of 16 bits has a window as
 * well, which makes offsets host addresses and is good while SS has the same base: 4 KiB of the
 * segment without its last byte, so that SP wraps nowhere in it (window16_set). A block is of one
 * RIP, CS base and limit.
 *
 * Behind the user's table there is a second, larger one, which a stub looks into before C is asked.
 *
 * A block lies in one page, but for an instruction at its end that runs on into the next: such a
 * block is in the lists of both, and looks before that instruction whether the next page is still
 * the one.
 *
 * A block has its RIP in it, and in its key. Where a page of 64-bit user code runs at several
 * addresses (libraries, position-independent programs), what is translated from then on runs at any
 * of them (BT_KEY_ANYWHERE): what depends on the address is relative to bt_vcpu.code_page, the
 * address of the page that runs. Whoever comes in from elsewhere sets it, after the page's address
 * has been compared with that of the exec table, and the RAM page with the block's: C, the entry of
 * indirect branches, the exit of a block of another page, the stub between a block that has its RIP
 * in it and one that has not. Inside a page such blocks are linked as others are, but among
 * themselves only. At the ends of the canonical addresses there are none: branches and operands are
 * canonical or not wherever their block runs. A process that stays gets blocks of its own after
 * all, which are faster (bt_vcpu.settled).
 *
 * Memory of translations is one buffer per VM. Nothing in it is ever written while it is reachable,
 * but for the displacement of a jump and the first bytes of a dead block (one aligned store each).
 * Blocks die one by one (stores to their bytes) or all together (the buffer is full); then every
 * vCPU is out of translated code (vcpu_exclusive_begin).
 */
#ifndef ENGINE_BT_BT_H
#define ENGINE_BT_BT_H

#include <pthread.h>

#include "engine/interp/block.h"
#include "engine/interp/hostcode.h"
#include "engine/interp/interp.h"
#include "engine/interp/mode.h"

/* ---- per vCPU --------------------------------------------------------------------------- */

/*
 * An entry's tags are page addresses, or tag_none of the slot; `page` is the page's host address,
 * `addend` what makes an address of the page a host address. One table per KEY_MODE but
 * KEY_USER_ALIGNED, which never runs translated code.
 */
struct bt_entry {
    uint64_t tag[2]; /* ACCESS_READ, ACCESS_WRITE */
    uint64_t addend;
    uint64_t page;
};

#define BT_TABLES     3
#define BT_LOG        1024 /* filled slots that are remembered one by one */
#define BT_EXEC_BITS  14
#define BT_EXEC_SLOTS (1u << BT_EXEC_BITS)
#define BT_MODES      8   /* tables of indirect branches; the last one is shared by many modes */
#define BT_MODE_LIST  256 /* modes that have translations */
#define BT_TARGETS    65536
#define BT_RUNS       16384
#define BT_SINGLES    2048
#define BT_LOOPS       1024
#define BT_DELTAS      6
#define BT_LOOP_CREDIT 16

struct bt_table {
    struct bt_entry at[TLB_ENTRIES];
};

/* What the user's table has had, and its successor would have to ask C for. */
struct bt_second {
    uint64_t tag[2]; /* page addresses, or all ones */
    uint64_t addend;
    uint64_t generation; /* bt_vcpu.second_generation: it is good */
};
#define BT_SECOND_BITS 14
#define BT_SECONDS     (1u << BT_SECOND_BITS)
_Static_assert(sizeof(struct bt_second) == 32, "make_second shifts by 5");

/* Not those that contend for a slot of the table as well. */
static inline unsigned second_slot(gva_t addr)
{
    uint32_t page = (uint32_t)(addr >> PAGE_SHIFT);

    return (page ^ page >> BT_SECOND_BITS) & (BT_SECONDS - 1);
}

/* What was filled since the last wipe, so that a flush costs what the fills did. */
struct bt_log {
    unsigned n; /* more than BT_LOG: all of it */
    uint16_t slot[BT_LOG];
};

/* Addresses of RAM at bt_vm.distance from the host's: from 0 on, and from BT_RUN_HIGH on. */
enum bt_run { RUN_LOW, RUN_HIGH, BT_UNPAGED_RUNS };
#define BT_RUN_HIGH 0x100000u
#define BT_RUN_EDGE 256 /* no operand is longer */

/* Why translated code was left. */
enum bt_leave {
    BT_LEAVE_SITE,     /* at the instruction of a site: poll, stale block */
    BT_LEAVE_DIRECT,   /* a direct branch that is not linked: `id` is the exit */
    BT_LEAVE_INDIRECT, /* an indirect one whose target is not known: `target` */
    BT_LEAVE_SLOW,     /* bt_slow says so: s.rip is set */
};
#define BT_LEAVES 4

/* Where a vCPU's thread spends its time. */
enum bt_phase {
    BT_IN_LOOP,
    BT_IN_CODE,
    BT_IN_INTERP, /* cold blocks, and modes that are not translated */
    BT_IN_SLOW,   /* bt_slow: fills, and instructions that the interpreter runs */
    BT_IN_TRANSLATOR,
    BT_OUTSIDE, /* halted, paused */
    BT_PHASES,
};

#define BT_MNEMONICS 2048

/* What `doppel inspect NAME jit` tells of a vCPU. Its own thread counts. */
struct bt_counts {
    uint64_t enters, left[BT_LEAVES];
    uint64_t lookups, found; /* of blocks */
    uint64_t cold;           /* blocks run by the interpreter */
    uint64_t fills, exec_fills, drops, switches, page_drops, write_drops;
    uint64_t slow, slow_accesses; /* instructions run from a site; ... because of their operand */
    uint64_t slow_by[BT_MNEMONICS];
    bool timed; /* the rest is counted as well: host TSC ticks */
    enum bt_phase phase;
    uint64_t since, ticks[BT_PHASES], devices; /* devices: those of c.vcpu up to `since` */
};

/* Registers of the guest's that a block finds loaded. */
#define NEED_VEC       1 /* vector and mask registers, MXCSR */
#define NEED_X87       2 /* x87 or MMX registers */
#define BT_NEEDS       4
#define BT_SHARES      4
#define BT_WINDOW_SPAN 512 /* bytes of the stack that one check covers */
/*
 * Outside of 64-bit code, addresses wrap at 4 GiB, but those made of rsp and SD do not: no window
 * so near to either end that a block could come there. A power of 2.
 */
#define BT_WINDOW_EDGE 20

struct bt_vcpu {
    struct interp c; /* first */

    /*
     * By what a block needs: leave translated code at its poll, or what it needs is not loaded.
     * The check of the stack's window reads two words at once: all ones if there is none, and
     * whether to leave, so that a block that begins with it has polled.
     */
    _Alignas(8) uint32_t window_none;
    _Atomic uint32_t attention[BT_NEEDS];
    uint32_t id;            /* of the exit or site that was left through */
    uint32_t indirect_from; /* site of the last indirect branch */
    uint32_t slow_site;     /* of the last bt_slow ... */
    uint64_t slow_icount;   /* ... and s.icount then */
    uint32_t mode_number;   /* of what runs, if its table of indirect branches is the shared one */
    uint64_t target;        /* of the last indirect branch */
    gva_t code_page;        /* of the block that runs, if it runs anywhere (BT_KEY_ANYWHERE) */
    uint64_t slow_addr;     /* linear address that missed */
    uint64_t host_rsp, resume, scratch;
    uint64_t shares[BT_SHARES]; /* what T1 was for a shared check, while something else needs it */
    uint64_t window, window_delta;           /* of the stack: minus its page, and SD */
    uint64_t pair, pair_none, pair_delta[2]; /* two pages of the stack, in the same way */
    uint64_t string_offset, string_left; /* of REP MOVS and STOS: in pages, and elements */
    uint64_t loop_limit;             /* loop.c: what its counter must not reach, ... */
    uint64_t loop_delta[BT_DELTAS];  /* ... and what makes host addresses */
    int32_t loop_credit[BT_LOOPS];   /* so often it may be left early */
    uint32_t window_base;  /* of SS, as the window was set, where a stack is of 16 bits */
    uint64_t window_limit; /* between a block and the stub that looks for the window, ... */
    uint64_t window_else;  /* ... and where to go on without */
    uint64_t run[BT_UNPAGED_RUNS]; /* so many bytes of each, that an operand may begin at */
    uint32_t host_mxcsr;
    uint8_t live;                 /* NEED_*: these registers are the guest's */
    uint8_t wanted;               /* load them before going on at `resume` */
    uint8_t x87_saved;            /* `fx` is what struct cpu_fpu is to become */
    _Alignas(16) uint8_t fx[512]; /* FXSAVE64 image of which the x87 half counts */

    uint64_t exec[2][BT_EXEC_SLOTS]; /* by user, supervisor: exec_word of the page fetched from */
    /* Its address, or exec_none; good as long as exec is. */
    gva_t exec_page[2][BT_EXEC_SLOTS];
    struct bt_table tlb[BT_TABLES];
    const uint8_t *targets[BT_MODES][BT_TARGETS]; /* by the low bits of a branch's target */

    uint64_t second_generation;
    struct bt_second second[BT_SECONDS]; /* by second_slot */

    struct bt_vcpu *self;

    /* Not for translated code. */
    struct bt_vm *bt;
    struct bt_log log[BT_TABLES], local_log; /* local: not global, of the supervisor's table */
    struct bt_log exec_log[2];
    bool exec_local;            /* a page that is not global is in exec[1] */
    uint64_t mode_key, mode_cs; /* bt_key and bt_cs_word as of bt_use_mode */
    uint64_t window_drops;
    uint64_t second_drops; /* of all of `second`; asid_next: of the interpreter, then */
    uint32_t asid_next;
    struct {
        uint32_t site;
        struct block *block;
        uint64_t flushes; /* of the interpreter's blocks and the code buffer, when it was found */
    } single[BT_SINGLES]; /* what run_one found, by site */
    uint64_t without;     /* BT_KEY_NO_*: the next block has to do without, and comes from ... */
    uint32_t without_site;
    bool anywhere; /* the next block comes from one that runs anywhere: it should be such a one, */
    bool known;    /* ... and is no cold code, as there is one of its own RIP */
    /* Of processes, by where their stacks are: the one that is there for long, and has blocks of
     * its own made, and the one that has been there at the last `ticks` interruptions. 0: none. */
    uint64_t settled, seen;
    unsigned ticks;
    bool passing; /* the block was found for want of one of its own, ... */
    bool settle;  /* ... which is what the next one is to be */
    uint8_t habit, habit_left; /* NEED_* that was missing lately; loaded so many more times without
                                  being asked */
    unsigned mode_id, mode_table; /* number, and table of indirect branches */
    unsigned cap;          /* lockstep: a translation has no more instructions than this; 0: any */
    uint8_t runs[BT_RUNS]; /* of cold code, by a hash of its address */
    struct bt_counts n;
};

static inline struct bt_vcpu *bt_of(struct interp *c)
{
    return container_of(c, struct bt_vcpu, c);
}

/*
 * GS points at the user's table, so that its entries have short displacements: code is read faster
 * the fewer bytes it has.
 */
#define GS(member) \
    ((int32_t)offsetof(struct bt_vcpu, member) - (int32_t)offsetof(struct bt_vcpu, tlb[KEY_USER]))

/* 32 bits for the RAM page that code is in; 0 and ~0 are none. */
static inline uint32_t exec_ram(uint32_t ram_page)
{
    return ram_page + 1;
}

/* A page of code and where it is: above exec_ram what the slot does not tell. Never 0 or ~0. */
static inline uint64_t exec_word(gva_t addr, uint32_t ram_page)
{
    return addr >> (PAGE_SHIFT + BT_EXEC_BITS) << 32 | exec_ram(ram_page);
}

static inline unsigned exec_slot(gva_t addr)
{
    return addr >> PAGE_SHIFT & (BT_EXEC_SLOTS - 1);
}

/* What nobody looks for in the slot. */
static inline gva_t exec_none(unsigned slot)
{
    return (gva_t)(slot ^ 1) << PAGE_SHIFT;
}

/* May blocks that run anywhere run there? All that they lead to or touch is as far on or back. */
static inline bool anywhere_at(gva_t addr)
{
    return canonical(addr - BIT(32)) && canonical(addr + BIT(32));
}

/* ---- translations ------------------------------------------------------------------------- */

#define BT_NONE UINT32_MAX

/* All offsets are into the code buffer. */
struct bt_block {
    gva_t va;         /* RIP of its first instruction (BT_KEY_ANYWHERE: from the page's on), ... */
    gva_t lin;        /* ... and its linear address (when it was made) */
    uint64_t key;     /* bt_key */
    uint64_t cs_word; /* bt_cs_word */
    uint64_t phys;    /* RAM page << 12 | offset */
    uint64_t granules;
    /* Its last instruction runs on into another page, BT_NONE: it does not; links as in
     * page_blocks. */
    uint32_t page2, page2_next;
    uint64_t granules2;
    uint32_t entry;          /* flags in the slot if live; polls */
    uint32_t entry_host;     /* flags in the host's */
    uint32_t entry_indirect; /* T0 is the target: checks it and the page */
    uint32_t stale;          /* where who comes to the entry goes when the block is dead */
    uint32_t page_next, hash_next;
    uint32_t hot_end, cold, cold_end;
    uint32_t bytes; /* what it was translated from, in bt_vm.bytes */
    uint16_t insns;
    uint8_t needs; /* NEED_* */
    uint8_t dead;
    bool fixed; /* it cannot be one that runs anywhere */
};

enum bt_site_kind {
    SITE_ACCESS,
    SITE_INSN,
    SITE_WINDOW,
    SITE_PAIR,
    SITE_GROUP,
    SITE_TSC,
    SITE_CROSSING
};

/* An instruction that may have to leave its block. There are many: kept small. */
struct bt_site {
    uint32_t block;
    uint32_t retry; /* SITE_ACCESS: the check */
    /*
     * Behind the instruction; BT_NONE: nowhere. SITE_WINDOW, SITE_PAIR, SITE_GROUP: the jump to the
     * block without.
     */
    uint32_t resume;
    union {
        int32_t moved;    /* an indirect branch has already moved rsp by this much */
        struct {          /* SITE_INSN of x87: */
            uint16_t fop; /* what FOP is after it */
            uint8_t seg;  /* of the operand */
        };
    };
    uint16_t off : 12, len : 4; /* of the instruction, from the block's start */
    union {
        uint16_t span; /* SITE_WINDOW: bytes from rsp + `moved` on */
        uint16_t at;   /* SITE_PAIR: where in its page they must begin */
        struct {
            uint8_t size;
            uint8_t first_size; /* SITE_GROUP: of the first access, `moved` above the lowest */
        };
    };
    uint8_t live_in, live_out; /* arithmetic flags before and after it, by site_flags */
    uint8_t kind;
    uint8_t how : 1, first_how : 1;
    uint8_t masked : 1;   /* no fault but the interpreter's */
    uint8_t aligned : 1;  /* misaligned it is the interpreter's: the host may punish split locks */
    uint8_t other_ac : 1; /* STAC or CLAC came before it in its block */
    uint8_t misses;       /* SITE_PAIR: how often they have begun elsewhere */
};

/* Arithmetic flags in a byte: OF in the place of bit 1. */
static inline uint8_t site_flags(uint16_t flags)
{
    return (uint8_t)((flags & 0xd5) | (flags >> 10 & 2));
}

static inline uint16_t site_flags_of(uint8_t packed)
{
    return (uint16_t)((packed & 0xd5) | (packed & 2) << 10);
}

#define BT_SECOND BIT(31)

/* A direct branch to somewhere. */
struct bt_exit {
    gva_t target; /* as bt_block.va */
    uint32_t block;
    uint32_t jump; /* of the jump's displacement */
    uint32_t word; /* of the guard's immediate; BT_NONE: same page, no guard */
    uint16_t live; /* arithmetic flags */
};

/* An instruction that may fault on the host, in ascending order of `at`. */
struct bt_trap {
    uint32_t at, to, site;
};

#define BT_CODE_BYTES (64u << 20)
#define BT_COLD       (36u << 20) /* where the cold part begins */
#define BT_BLOCKS     (1u << 19)
#define BT_SITES      (1u << 21)
#define BT_EXITS      (1u << 20)
#define BT_TRAPS      (1u << 20)
#define BT_HASH_BITS  18
#define BT_BYTES      (8u << 20)

struct bt_stubs {
    uint32_t enter, slow, leave_site, leave_direct, leave_indirect;
    uint32_t window[2], window16[2]; /* by user, supervisor; of stacks of 16 bits */
    uint32_t second[2]; /* ACCESS_READ, ACCESS_WRITE */
    uint32_t other_page[2]; /* by user, supervisor: leave_indirect, T0 has been xor-ed */
};

/* Mistakes that --engine lockstep,plant=N makes, so that a test sees them found. */
enum bt_plant {
    PLANT_NONE,
    PLANT_REGISTER, /* ADD to a register adds one more */
    PLANT_FLAGS,    /* CMP complements CF */
    PLANT_MEMORY,   /* PUSH stores another low byte */
    PLANT_BRANCH,   /* Jcc has the opposite condition */
    PLANT_VECTOR,   /* PXOR of registers sets XMM0 to ones */
    PLANT_LIVENESS, /* flags are dead where blocks end */
    PLANT_LAST = PLANT_LIVENESS,
};

struct bt_vm {
    struct interp_vm iv; /* first: vm->engine_data */
    struct vm *vm;
    pthread_mutex_t lock;         /* leaf: translations are made, linked and killed under it */
    uint32_t huge_hot, huge_cold; /* where the hot and the cold part are no huge pages yet */
    struct hostcode code;
    struct bt_stubs stubs;
    uint32_t stubs_end; /* the hot part begins here */
    uint32_t hot, cold;
    struct bt_block *blocks;
    struct bt_site *sites;
    struct bt_exit *exits;
    struct bt_trap *traps;
    uint8_t *bytes; /* of the guest's code */
    uint32_t nblocks, nsites, nexits, nloops, nbytes;
    _Atomic uint32_t ntraps;
    /* By RAM page: number + 1 of the first block that has bytes in it, BT_SECOND: it is its second
     * page. */
    uint32_t *page_blocks;
    /* By RAM page: at what address its user code runs, by page_place. Written under the lock. */
    _Atomic uint32_t *page_places;
    /* By RAM page: how often stores have killed blocks of it. Written under the lock. */
    _Atomic uint8_t *page_kills;
    /*
     * Counts new blocks and stores to jumps. What such a jump leads to was written before; the
     * processor needs no more, but whoever leaves translated code reads it, so that C's rules hold
     * as well.
     */
    _Atomic uint32_t patches;
    _Atomic uint32_t rested; /* patches when bt_cache_rest last dropped the view, ... */
    uint32_t rest_seen;      /* ... and when it looked, ... */
    uint64_t rest_ns;        /* ... which was then */
    _Atomic uint32_t hash[1u << BT_HASH_BITS];
    struct {
        uint64_t key, cs_word;
        unsigned table;
    } modes[BT_MODE_LIST];
    unsigned nmodes, nmode_tables;  /* tables: those of one mode only */
    _Atomic unsigned table_flushes; /* for want of one */
    _Atomic uint64_t distance;      /* of RAM at 0 from the host's address; 0: not known */
    unsigned warm;                  /* runs of cold code before it is translated */
    bool anywhere;                  /* all 64-bit code is translated so that it runs anywhere */
    struct translation *work;       /* the translator's scratch memory */
    struct lockstep *lockstep;      /* NULL: this is the engine bt */
    enum bt_plant plant;
    uint64_t translated, flushes, killed, linked;
    uint64_t start_ticks, start_ns; /* host TSC and clock when the VM was made */
    int perf_map;                   /* descriptor; -1: none */
};

static inline struct bt_vm *bt_vm_of(struct bt_vcpu *v)
{
    return v->bt;
}

/* Everything that decides what translated code of some bytes does. */
#define BT_KEY_TABLE_SHIFT MODE_BITS
#define BT_KEY_SMAP        BIT(MODE_BITS + 2)
#define BT_KEY_UNPAGED     BIT(MODE_BITS + 3) /* loads may do without tags */
/* Of a block, not of a mode: lockstep made it shorter than it would be; what it has to do without.
 */
#define BT_KEY_CAP_SHIFT (MODE_BITS + 17)
#define BT_KEY_ANYWHERE  BIT(60) /* it runs at any address */
#define BT_KEY_PAIR      BIT(61) /* instead of a window */
#define BT_KEY_NO_WINDOW BIT(62)
#define BT_KEY_NO_SHARE  BIT(63)
#define BT_KEY_WITHOUT   (BT_KEY_PAIR | BT_KEY_NO_WINDOW | BT_KEY_NO_SHARE)
/* A bit per segment, outside of 64-bit code: only limit and base stand between an offset and
 * memory. */
#define BT_KEY_READ_SHIFT  (MODE_BITS + 4)
#define BT_KEY_WRITE_SHIFT (MODE_BITS + 10)
/* All that have one of these bits reach to FFFFh at least: 16-bit offsets need no look at a limit.
 */
#define BT_KEY_64K BIT(MODE_BITS + 16)

/* The segments' part of bt_key. */
uint64_t bt_key_segments(const struct interp *c);

_Static_assert(BT_KEY_CAP_SHIFT + 6 <= 60, "a block has less than 64 instructions");

static inline uint64_t bt_key(const struct interp *c)
{
    return c->mode | (c->key & KEY_MODE) << BT_KEY_TABLE_SHIFT |
           (c->s.cr4 & CR4_SMAP ? BT_KEY_SMAP : 0) | (c->s.cr0 & CR0_PG ? 0 : BT_KEY_UNPAGED) |
           (c->code64 ? 0 : bt_key_segments(c));
}

/* A stack of 16 bits that may have a window: all of its offsets are below the limit of SS. */
static inline bool bt_key_stack16(uint64_t key)
{
    return (key & MODE_CODE) != MODE_CODE64 && !(key & (MODE_SS32 | MODE_LMA)) &&
           (key & BT_KEY_64K);
}

/* At several addresses; at one: its number, never 0. */
#define PLACE_MANY UINT32_MAX
static inline uint32_t page_place(gva_t addr)
{
    return ((uint32_t)(addr >> PAGE_SHIFT) & INT32_MAX) + 1;
}

static inline bool block_anywhere(const struct bt_block *b)
{
    return b->key & BT_KEY_ANYWHERE;
}

/* RIP of a block that runs, or has been left last; an exit's target. */
static inline gva_t block_rip(const struct bt_vcpu *v, const struct bt_block *b)
{
    return (block_anywhere(b) ? v->code_page : 0) + b->va;
}

static inline gva_t exit_target(const struct bt_vcpu *v, const struct bt_exit *x)
{
    return (block_anywhere(&v->bt->blocks[x->block]) ? v->code_page : 0) + x->target;
}

/* Base and limit of CS, if code depends on them. */
static inline uint64_t bt_cs_word(const struct interp *c)
{
    const struct cpu_seg *cs = &c->s.seg[SEG_CS];

    return c->mode & MODE_CS_SEGMENTED ? (uint32_t)cs->base | (uint64_t)cs->limit << 32 : 0;
}

/* RIP of code is no more. */
static inline uint64_t bt_code_limit(const struct interp *c)
{
    return c->code64 ? UINT64_MAX : min_u64(c->s.seg[SEG_CS].limit, c->rip_mask);
}

/* bt_key before the instruction of a site. */
static inline uint64_t site_key(const struct bt_block *b, const struct bt_site *s)
{
    return (b->key & (BIT(BT_KEY_CAP_SHIFT) - 1)) ^
           (s->other_ac ? (KEY_SUPERVISOR ^ KEY_SUPERVISOR_AC) << BT_KEY_TABLE_SHIFT : 0);
}

static inline unsigned key_table(uint64_t key)
{
    return key >> BT_KEY_TABLE_SHIFT & KEY_MODE;
}

/* tlb.c */
void bt_tlb_init(struct bt_vcpu *v);
/*
 * May the instruction have a fault that comes before that of its operand's page, or none at all?
 * #GP of a misaligned operand does. Then only the interpreter knows.
 */
static inline bool bt_faults_first(const struct bt_site *s, gva_t addr)
{
    return s->masked || (s->size >= 16 && (addr & (s->size - 1u)));
}

/*
 * Makes the access to addr hit, if it may: false if it must not have a tag. Raises #PF.
 * The table is that of c->key.
 */
bool bt_tlb_fill(struct bt_vcpu *v, gva_t addr, const struct bt_site *s);
/*
 * No window until the next bt_window_set, which makes addr's page it; false: it cannot be. May fill
 * the table.
 */
void bt_window_drop(struct bt_vcpu *v);
bool bt_window_set(struct bt_vcpu *v, gva_t addr, unsigned span);
/* The same for addr's page and the next one. */
bool bt_pair_set(struct bt_vcpu *v, gva_t addr);
void bt_exec_fill(struct bt_vcpu *v, gva_t addr, uint32_t ram_page);
/* unpaged.c: before code without paging is translated. */
void bt_distance_find(struct bt_vm *bt);
/* The runs of the memory map as it is; none until they are looked for again. */
void bt_runs_find(struct bt_vcpu *v);
void bt_runs_drop(struct bt_vcpu *v);
void bt_tlb_drop_write(struct bt_vcpu *v, unsigned table, unsigned slot);
extern const struct interp_listener bt_listener;

/* stubs.c: the code between C and translations. */
void bt_stubs_make(struct bt_vm *bt);

/* translate.c: a block for s.rip, or NULL if there is none to be had (or the buffer is full:
 * *full). */
struct bt_block *bt_translate(struct bt_vcpu *v, bool *full);
int bt_translate_init(struct bt_vm *bt, struct err *err);
void bt_translate_fini(struct bt_vm *bt);

/* cache.c */
int bt_cache_init(struct bt_vm *bt, struct err *err);
void bt_cache_fini(struct bt_vm *bt);
/* va: as in struct bt_block. */
struct bt_block *bt_cache_find(struct bt_vm *bt, gva_t va, uint64_t key, uint64_t cs_word,
                               uint64_t phys);
/* Under the lock. False: its bytes have changed since `gen` and, in the second page, `gen2`. */
bool bt_cache_publish(struct bt_vm *bt, struct bt_block *b, uint32_t gen, uint32_t gen2);
/* After hot and cold have moved: what they have come to is asked for as a huge page. */
void bt_cache_grown(struct bt_vm *bt);
/* The jump of an exit goes to the block from now on, if it may. */
void bt_cache_link(struct bt_vm *bt, struct bt_exit *e, const struct bt_block *b);
void bt_cache_flush(struct bt_vcpu *v);
/* The site of a window or a shared check goes to this block when that fails. */
void bt_cache_link_without(struct bt_vm *bt, struct bt_site *s, const struct bt_block *b);
/* Whenever a vCPU halts: gives memory back that only writing code needs. */
void bt_cache_rest(struct bt_vm *bt);
/* Before translated code of a mode with this table of indirect branches runs on the vCPU. */
void bt_targets_use(struct bt_vcpu *v, unsigned table);
void bt_code_written(struct interp_vm *iv, uint32_t ram_page, uint64_t granules);
uint64_t bt_trap_target(void *opaque, uint64_t rip);
const struct bt_trap *bt_trap_find(struct bt_vm *bt, uint64_t rip); /* or NULL */

/* x87.c: `fx` is made from struct cpu_fpu; and the other way round. */
void bt_x87_in(struct bt_vcpu *v);
void bt_x87_out(struct bt_vcpu *v);

/* run.c: before translated code of the vCPU runs on this thread. */
void bt_enter_thread(struct bt_vcpu *v);
/* From translated code. The address to go on at, or 0 to leave. */
uint64_t bt_slow(struct bt_vcpu *v, uint32_t site);
/*
 * What the loop does between two looks at what may have happened: runs the translation of what is
 * at s.rip until it is left, or makes it, or has the interpreter run a block. May raise.
 */
void bt_run_some(struct bt_vcpu *v);
/* Its parts, for lockstep.c. */
bool bt_mode_ok(const struct interp *c);
void bt_use_mode(struct bt_vcpu *v);
struct bt_block *bt_find(struct bt_vcpu *v);
/* The block of what is at s.rip, of these bytes and this key: its own or one that runs anywhere. */
struct bt_block *bt_find_at(struct bt_vcpu *v, uint64_t phys, uint64_t key);
enum bt_leave bt_enter(struct bt_vcpu *v, const struct bt_block *b);
void bt_undo_indirect(struct bt_vcpu *v);
/* May an indirect near branch go there? */
bool bt_target_ok(const struct interp *c, uint64_t target);

#endif
