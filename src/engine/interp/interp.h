/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter's own header: the reference engine. Nothing outside src/engine/interp and tests/cpu
 * includes it.
 *
 * How it runs. A block is a run of decoded instructions inside one guest page (an instruction that
 * crosses into the next page is a block of its own), cached per vCPU by physical page and mode. Each
 * decoded instruction names a handler; handlers call the next one as a tail call (NEXT), so a block runs
 * without a central loop, and the C stack is at most one block deep in builds that do not make tail
 * calls. Between blocks the run loop looks at vcpu->pending, the budget, and the block cache.
 *
 * Rules for handlers:
 *  - Commit last. Everything that can fault (every memory access) comes before the first change to the
 *    guest's state; push = check and store, then move rsp. Then an exception needs no undo.
 *  - A handler that can fault, or call anything that wants to know the current instruction, starts with
 *    BEGIN(c, i).
 *  - Exceptions are raised by interp_raise*(), which do not return: they leave by longjmp to the run
 *    loop, which sets s.rip to the faulting instruction (interp_rip) and delivers. No lock may be held.
 *  - A handler that changes control flow or anything the block depends on (mode, mapping, IF, ...) sets
 *    s.rip and returns (END) instead of NEXT; the decoder marks such rows so that the block ends there.
 *  - After a store that hit this block's own bytes the store path makes the following instruction of
 *    the block an exit (block_stale), so nobody needs to check.
 *  - s.rip is not kept up to date inside a block: use interp_rip / interp_next_rip.
 *
 * The arithmetic flags live in c->aflags in the layout of LAHF and SETO: AH = SF:ZF:0:AF:0:PF:1:CF,
 * AL = OF (0 or 1), so that the host's ALU computes them, undefined ones included. The other RFLAGS bits
 * are in s.rflags at all times; flags_get/flags_set join and split.
 */
#ifndef ENGINE_INTERP_INTERP_H
#define ENGINE_INTERP_INTERP_H

#include <setjmp.h>

#include "base/types.h"
#include "core/vm.h"
#include "cpu/cpu_state.h"
#include "cpu/paging.h"
#include "cpu/msr.h"

struct interp;
struct insn;
struct block;
struct thunk;

typedef void insn_fn(struct interp *c, const struct insn *i);

#define R_NONE 0xff
#define R_RIP 0xfe   /* as a base: relative to the next instruction */
#define R_HIGH 0x80  /* OR-ed to 0..3: AH CH DH BH */

#define INSN_LOCK BIT(0)
#define INSN_REP BIT(1)    /* F3 */
#define INSN_REPNE BIT(2)  /* F2 */
#define INSN_MEM BIT(3)    /* has a memory operand in ModRM form (base, index, disp valid) */
#define INSN_STORES BIT(4) /* the memory operand is written */
#define INSN_LOADS BIT(5)  /* ... is read */

/*
 * A decoded instruction. What op, reg, rm and imm mean belongs to the handler; the memory operand is
 * the same for all. Built by decode.c; 64 bytes.
 */
struct insn {
    insn_fn *fn;
    uint16_t off;    /* of this instruction from the start of its block, in bytes */
    uint8_t len;
    uint8_t osize;   /* operand size in bytes: 1, 2, 4, 8 */
    uint8_t asize;   /* address size in bytes: 2, 4, 8 */
    uint8_t seg;     /* effective segment of the memory operand */
    uint8_t base, index, scale; /* R_* or R_NONE; scale 0..3 */
    uint8_t reg, rm;            /* GPR operands, with R_HIGH; or as the handler defines */
    uint8_t msize;   /* bytes accessed at the memory operand, for flat accesses (up to 64) */
    uint16_t flags;  /* INSN_* */
    uint16_t mnemonic; /* ZydisMnemonic, for reports and tables */
    int64_t disp;
    uint64_t imm;
    const struct thunk *thunk; /* native thunk, for the instructions that run on the host CPU */
    uint8_t bytes[15];         /* as fetched, legacy prefixes included */
    uint8_t aux;               /* the handler's own */
};

/* ---- TLB (tlb.c) ---------------------------------------------------------------------------- */

#define TLB_BITS 12
#define TLB_ENTRIES (1u << TLB_BITS)

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC };

/*
 * A tag is the page's linear address with c->key in its low 12 bits: key is the address-space number
 * (ASID, changed by CR3 writes and flushes, so that a flush is O(1)) and the privilege mode. The invalid
 * tag of slot i is (i ^ 1) << 12 | 0xfff, which no access of slot i can ask for. MMIO, watched, ROM
 * (write), clean (write) and code pages (write) never get the tag. Other threads never touch it: they
 * post PEND_TLB.
 */
struct tlb_entry {
    uint64_t tag[3];   /* by enum access */
    uint64_t addend;   /* host address = linear address + addend */
};

/*
 * What walks have found of large pages, 2 MiB by 2 MiB: the TLB's misses in one need no walk. Tags are
 * as the TLB's, of the first byte; UINT64_MAX matches nothing.
 */
#define LARGE_BITS    7
#define LARGE_ENTRIES (1u << LARGE_BITS)
struct tlb_large {
    uint64_t tag[3]; /* by enum access */
    gpa_t gpa;       /* of the first byte */
    uint8_t page_shift;
    bool global;
};

/*
 * An engine that keeps translations of its own beside this TLB (engine/bt) hears of everything that
 * makes them wrong. On the vCPU's thread.
 */
struct interp_listener {
    void (*dropped)(struct interp *c);  /* every translation */
    void (*switched)(struct interp *c); /* another address space: all but those of global pages */
    /* INVLPG; `wide`: large pages may be meant, so that more than this page is wrong. */
    void (*page_dropped)(struct interp *c, gva_t addr, bool wide);
    void (*write_dropped)(struct interp *c, uint32_t ram_page); /* the page has code now */
    /* May be NULL: `page` is about to be written by way of linear address addr. */
    void (*writing)(struct interp *c, gva_t addr, uint8_t *page, uint32_t ram_page);
    /* May be NULL: MMIO is about to be accessed. It need not return. */
    void (*device)(struct interp *c);
};

struct interp {
    struct cpu_state s; /* canonical, except the arithmetic flags (aflags) and rip inside a block */
    uint32_t aflags;
    const struct insn *cur; /* set by BEGIN */
    uint64_t block_rip;     /* RIP of the running block's first instruction */
    struct block *block;    /* the running block */
    unsigned chain;         /* how many blocks may follow without the run loop (block.h) */
    const _Atomic uint32_t *code_gen; /* ram->code_gen */
    struct vcpu *vcpu;
    struct vm *vm;

    /* Derived from s by interp_mode_changed(). */
    uint64_t key;        /* low 12 bits of data tags: ASID and mode of explicit accesses */
    uint64_t key_sys;    /* ... of implicit supervisor accesses (descriptor tables, TSS, stacks of gates) */
    uint64_t mode;       /* everything that changes what bytes mean: part of the block key */
    uint64_t rip_mask;   /* 0xffff, 0xffffffff or all ones */
    uint64_t sp_mask;    /* stack width: the same values */
    uint8_t cpl;
    uint8_t code64;      /* CS.L in long mode */
    uint8_t stack_bytes; /* of a push in this mode by default: not operand size; 2, 4, 8 = SS width */
    uint8_t flat;        /* bit per segment: base 0, limit 4 GiB, readable and writable: no checks */
    uint16_t asid;
    uint32_t asid_next;
    /*
     * The last stack access: stack_linear's, in 64-bit code. A non-canonical address that equals it
     * raises #SS(0); any other one #SS(0) or #GP(0) by c->cur->seg.
     */
    uint64_t stack_addr;
    /* As of the last interp_mode_changed (tlb.c): CR0, CR4, EFER, XCR0, and the mode bits they make. */
    uint64_t mode_regs[4], mode_system;
    /* Data watchpoints armed in DR7 (tlb.c). */
    struct { uint64_t addr; uint8_t len, dr, on_read; } watch[4];
    unsigned watches;
    uint64_t watch_dr[5]; /* DR0-3 and DR7 they were taken from */
    /* For other vCPUs that wait for this one to drop its translations: interp_mark_code. */
    _Atomic uint64_t tlb_drops; /* so many times */

    struct tlb_entry tlb[TLB_ENTRIES];
    uint32_t tlb_ram_page[TLB_ENTRIES]; /* index into ram->page_flags of a RAM page */
    uint8_t tlb_global[TLB_ENTRIES];    /* the entry is of a global page */
    struct tlb_large large[LARGE_ENTRIES];
    const struct interp_listener *listener; /* or NULL */
    struct walk_cache walk_cache;
    uint16_t pcid_asid[4096];  /* ASID of a guest's PCID, 0: none */
    bool pcid_used;            /* some pcid_asid is set */
    uint64_t large_marks[64];  /* by hash of the 4 MiB region: it has had entries of 2 or 4 MiB pages */
    uint64_t huge_marks[4];    /* by hash of the GiB: ... of 1 GiB pages */

    sigjmp_buf *raise_to; /* the run loop's; sigsetjmp without the signal mask */
    /* The exception being raised. */
    uint8_t exc_vector, exc_has_error, exc_soft;
    uint32_t exc_error;
    uint64_t exc_payload; /* CR2 for #PF, DR6 bits for #DB */

    uint64_t icount_limit; /* run() stops when s.icount reaches it */
    uint8_t stop;          /* a handler asks the run loop to leave: enum vcpu_stop + 1, or 0 */
    uint8_t exclusive;     /* inside vcpu_exclusive_begin/end: the run loop ends it if something is raised */

    uint8_t upper;         /* 0: bytes 16 to 63 of vector registers 0 to 15 are all 0 */
    uint8_t ferr;          /* FERR# was driven, or may have been: to be taken back (thunk.c) */

    /* Of event.c. */
    uint8_t intr_masked; /* PEND_INTR was taken off while IF was 0: IF 0 -> 1 posts it again */
    uint8_t exc_ext;     /* selector error codes get the EXT bit: an event is being delivered */
    uint8_t event_kind;  /* of the event in s.event_*, while it is delivered */
    uint8_t armed;       /* INTERP_ARMED_*: TF, RF, s.shadow were set when the instruction began ... */
    uint64_t armed_icount; /* ... that comes after this many */

    /* What a crash report shows: the last exceptions. */
    struct { uint64_t rip, cr2, icount; uint32_t error; uint8_t vector, has_error; } last_exc[16];
    unsigned last_exc_n;

    struct cpu_msrs msrs; /* what the handlers of the CPU's own MSRs work on */
    void *blocks; /* block.c's cache */
    void *thunks; /* thunk.c's code buffer and table */
};

static inline struct interp *interp_of(struct vcpu *vcpu)
{
    return vcpu->engine;
}

/* ---- handlers ------------------------------------------------------------------------------- */

/* For what is inside every handler that touches memory: outlined, it costs more than it does. */
#define hot_inline inline __attribute__((always_inline))

#define BEGIN(c, i) ((c)->cur = (i))
#define NEXT(c, i) return (i)[1].fn((c), (i) + 1)

static inline uint64_t interp_rip(const struct interp *c)
{
    return (c->block_rip + c->cur->off) & c->rip_mask;
}

static inline uint64_t interp_next_rip(const struct interp *c)
{
    return (c->block_rip + c->cur->off + c->cur->len) & c->rip_mask;
}

/* ---- registers and flags -------------------------------------------------------------------- */

/* aflags <-> RFLAGS arithmetic bits. */
static inline uint64_t aflags_to_rflags(uint32_t a)
{
    return ((a >> 8) & 0xd5) | ((a & 1) << 11);
}

static inline uint32_t rflags_to_aflags(uint64_t f)
{
    return (uint32_t)(((f & 0xd5) | 2) << 8 | ((f >> 11) & 1));
}

static inline uint64_t flags_get(const struct interp *c)
{
    return (c->s.rflags & ~RFLAGS_ARITH) | aflags_to_rflags(c->aflags);
}

/* Replaces all of RFLAGS. If TF, IF, AC, VM, IOPL may have changed the block must end and interp_mode_changed follow. */
static inline void flags_set(struct interp *c, uint64_t f)
{
    c->s.rflags = (f & ~RFLAGS_ARITH) | RFLAGS_ONE;
    c->aflags = rflags_to_aflags(f);
}

static inline uint64_t reg_get(const struct interp *c, unsigned r, unsigned size)
{
    if (size == 1)
        return r & R_HIGH ? (uint8_t)(c->s.gpr[r & 3] >> 8) : (uint8_t)c->s.gpr[r];
    return c->s.gpr[r] & mask_bytes(size);
}

/* 32-bit writes clear the upper half; 8- and 16-bit ones keep the rest. */
static inline void reg_set(struct interp *c, unsigned r, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        if (r & R_HIGH)
            ((uint8_t *)&c->s.gpr[r & 3])[1] = (uint8_t)v;
        else
            *(uint8_t *)&c->s.gpr[r] = (uint8_t)v;
        break;
    case 2:
        c->s.gpr[r] = (c->s.gpr[r] & ~0xffffull) | (uint16_t)v;
        break;
    case 4:
        c->s.gpr[r] = (uint32_t)v;
        break;
    default:
        c->s.gpr[r] = v;
        break;
    }
}

/* ---- exceptions (event.c) ------------------------------------------------------------------- */

_Noreturn void interp_raise(struct interp *c, unsigned vector);
_Noreturn void interp_raise_err(struct interp *c, unsigned vector, uint32_t error);
_Noreturn void interp_raise_pf(struct interp *c, gva_t addr, uint32_t error);
_Noreturn void interp_raise_db(struct interp *c, uint64_t dr6_bits); /* fault-class #DB */
/* Delivers what was raised (run loop only): s.rip is the faulting instruction. Handles #DF, shutdown. */
void interp_deliver_raised(struct interp *c);
/* Software interrupt: INT n, INT3, INTO, INT1. Sets s.rip. */
void interp_soft_int(struct interp *c, unsigned vector, bool is_int_n);
/* Takes an external interrupt or NMI at a boundary; s.rip is the next instruction. */
void interp_hw_int(struct interp *c, unsigned vector, bool nmi);
/*
 * Everything that happens between two instructions: requests of other threads, interrupts, traps,
 * breakpoints, the end of HLT. s.rip is the next instruction, s.icount is exact. The run loop calls it on
 * entry to run() and, whenever interp_boundary_due, before it goes on. True: leave run(), c->stop is set.
 * False: go on at s.rip (which may be a handler's now), with one single instruction while interp_step_due.
 * It does not raise.
 */
bool interp_boundary(struct interp *c);

#define INTERP_ARMED_TF 1
#define INTERP_ARMED_RF 2
#define INTERP_ARMED_SHADOW 4

static inline bool interp_step_due(const struct interp *c)
{
    return atomic_load_explicit(&c->vcpu->pending, memory_order_relaxed) | c->s.pending_dbg |
           (c->s.rflags & (RFLAGS_TF | RFLAGS_RF)) | (c->s.dr7 & 0xff);
}

static inline bool interp_boundary_due(const struct interp *c)
{
    return unlikely(interp_step_due(c) |
                    (c->s.shadow | c->s.event_pending | c->s.activity | c->armed));
}

/* A state was loaded (struct engine, set): what event.c remembers beside it is forgotten. */
void interp_events_loaded(struct interp *c);
/*
 * There is no current instruction: what is raised from here on (delivery of events, the second half of a
 * task switch) is raised at s.rip.
 */
void interp_between(struct interp *c);

/* ---- memory access (tlb.c, access.c) -------------------------------------------------------- */

/*
 * Recomputes every derived field after a change of CRs, EFER, segments, RFLAGS.VM/AC/IF/TF/IOPL, DRs,
 * ASID, XCR0. Drops translations by itself where paging bits (CR0.PG/WP, CR4, EFER.NXE) or watchpoints
 * changed. The bits of `mode` are in mode.h.
 */
void interp_mode_changed(struct interp *c);
/* Drops all cached translations of this vCPU (new ASID; wipes when they run out). Keeps globals if !globals. */
void tlb_flush(struct interp *c, bool globals);
void tlb_flush_page(struct interp *c, gva_t addr); /* INVLPG: all ASIDs, large pages too */
/*
 * CR3 load; `keep`: PCID bit 63. Sets s.cr3 (without bit 63) and the keys. The caller has done all checks
 * and loaded s.pdpte.
 */
void tlb_switch(struct interp *c, uint64_t cr3, bool keep);
void tlb_flush_pcid(struct interp *c, unsigned pcid); /* INVPCID type 1; the other types are above */
/* PEND_TLB: clears the bit, drops every translation of every mode, and tells who waits for it. */
void tlb_remote_drop(struct interp *c);

/*
 * After every vcpu_in/out/pio_rep/mmio and MSR call of a handler that goes on in its block: the call may
 * have changed the memory map, also by this vCPU's own doing (A20, PAM, BARs).
 */
static inline void access_after_io(struct interp *c)
{
    if (unlikely(atomic_load_explicit(&c->vcpu->pending, memory_order_relaxed) & PEND_TLB))
        tlb_remote_drop(c);
}

/*
 * Code pages (tlb.c). mark: before bytes of a page are read for decoding; afterwards no vCPU can write to
 * the page without blocks_written. The order is: read ram->code_gen, mark, read the bytes. May wait for
 * other vCPUs, serving this one's PEND_TLB and PEND_EXCLUSIVE meanwhile; call at an instruction boundary.
 * A vCPU that is vcpu->sleeping is not waited for: the run loop serves PEND_TLB before anything else once
 * it is awake.
 * unmark: the page's decoded code is worthless (all of it overwritten, or written too often); moves its
 * generation on, so that every vCPU's blocks of it are stale.
 */
#define RAM_CODE_MARKING 2u /* in ram->page_flags, with RAM_HAS_CODE: not yet known to every vCPU */
void interp_mark_code(struct interp *c, uint32_t ram_page);
void interp_unmark_code(struct interp *c, uint32_t ram_page);
/* Of struct engine. */
void interp_slot_changed(struct vm *vm, gpa_t gpa, uint64_t len);
void interp_ram_written(struct vm *vm, uint64_t ram_offset, uint64_t len);

/*
 * One host access to RAM: never torn when it lies in an aligned 8 bytes. In assembly, so that neither
 * the compiler nor the sanitisers split or judge what the guest's CPUs do to each other's memory.
 */
static inline uint64_t host_load(const void *p, unsigned size)
{
    uint64_t v;

    switch (size) {
    case 1:
        __asm__ volatile("movzbl %1, %k0" : "=r"(v) : "m"(*(const char(*)[1])p));
        return v;
    case 2:
        __asm__ volatile("movzwl %1, %k0" : "=r"(v) : "m"(*(const char(*)[2])p));
        return v;
    case 4:
        __asm__ volatile("movl %1, %k0" : "=r"(v) : "m"(*(const char(*)[4])p));
        return v;
    default:
        __asm__ volatile("movq %1, %0" : "=r"(v) : "m"(*(const char(*)[8])p));
        return v;
    }
}

static inline void host_store(void *p, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        __asm__ volatile("movb %b1, %0" : "=m"(*(char(*)[1])p) : "q"(v));
        break;
    case 2:
        __asm__ volatile("movw %w1, %0" : "=m"(*(char(*)[2])p) : "r"(v));
        break;
    case 4:
        __asm__ volatile("movl %k1, %0" : "=m"(*(char(*)[4])p) : "r"(v));
        break;
    default:
        __asm__ volatile("movq %1, %0" : "=m"(*(char(*)[8])p) : "r"(v));
        break;
    }
}

/* Everything the tag compare does not cover: fills, faults, page crossing, MMIO, watchpoints, alignment (#AC), code pages. */
uint64_t access_load_slow(struct interp *c, gva_t addr, unsigned size, uint64_t key);
void access_store_slow(struct interp *c, gva_t addr, unsigned size, uint64_t v, uint64_t key);

/*
 * The host address of [addr, addr+size) if it lies in one page that may be accessed directly (filling
 * the TLB if need be), else NULL: then use access_copy_*. Raises #PF where the access is not allowed.
 * For ACCESS_WRITE on a page with code, NULL.
 */
void *access_host(struct interp *c, gva_t addr, unsigned size, enum access how, uint64_t key);
/* Byte runs of any length and alignment, MMIO included; all pages are checked before the first byte moves. */
void access_copy_in(struct interp *c, void *buf, gva_t addr, size_t len, uint64_t key);
void access_copy_out(struct interp *c, gva_t addr, const void *buf, size_t len, uint64_t key);
/*
 * Instruction bytes from where access_host(ACCESS_EXEC) gives NULL (MMIO, overlays); inside one page.
 * Where it gives a pointer, c->tlb_ram_page[TLB_SLOT(addr)] is the RAM page.
 */
void access_fetch(struct interp *c, void *buf, gva_t addr, unsigned len);
/* Raises what an access would raise; changes nothing but A/D bits and the TLB. */
void access_probe(struct interp *c, gva_t addr, size_t len, enum access how, uint64_t key);

#define TLB_SLOT(addr) (((addr) >> PAGE_SHIFT) & (TLB_ENTRIES - 1))

static hot_inline bool tlb_hit(const struct interp *c, const struct tlb_entry *e, gva_t addr,
                           unsigned size, enum access how, uint64_t key)
{
    (void)c;
    return likely(e->tag[how] == ((addr & ~PAGE_MASK) | key)) &&
           likely((addr & PAGE_MASK) <= PAGE_SIZE - size);
}

/* size 1, 2, 4 or 8. addr is linear: segmentation is done. */
static hot_inline uint64_t access_load(struct interp *c, gva_t addr, unsigned size, uint64_t key)
{
    const struct tlb_entry *e = &c->tlb[TLB_SLOT(addr)];

    if (tlb_hit(c, e, addr, size, ACCESS_READ, key))
        return host_load((const void *)(uintptr_t)(addr + e->addend), size);
    return access_load_slow(c, addr, size, key);
}

static hot_inline void access_store(struct interp *c, gva_t addr, unsigned size, uint64_t v,
                                uint64_t key)
{
    struct tlb_entry *e = &c->tlb[TLB_SLOT(addr)];

    if (tlb_hit(c, e, addr, size, ACCESS_WRITE, key))
        host_store((void *)(uintptr_t)(addr + e->addend), size, v);
    else
        access_store_slow(c, addr, size, v, key);
}

/* Segment checks of a data access that is not flat: limits, types, null. Raises #GP or #SS. Returns linear. */
gva_t seg_linear_slow(struct interp *c, unsigned seg, uint64_t off, unsigned size, enum access how);

/*
 * Linear address of an explicit access to seg:off, `off` already cut to the address size. In 64-bit mode
 * only FS and GS have a base; a non-canonical address has no TLB tag, so the slow path raises #GP or
 * #SS (by c->cur->seg).
 */
static hot_inline gva_t seg_linear(struct interp *c, unsigned seg, uint64_t off, unsigned size,
                               enum access how)
{
    if (likely(c->code64))
        return seg >= SEG_FS ? c->s.seg[seg].base + off : off;
    if (likely(c->flat & (1u << seg)))
        return (uint32_t)off;
    return seg_linear_slow(c, seg, off, size, how);
}

/* Effective address of the memory operand, cut to the address size; no segment. */
static hot_inline uint64_t insn_ea(const struct interp *c, const struct insn *i)
{
    uint64_t ea = (uint64_t)i->disp;

    if (i->base < 16)
        ea += c->s.gpr[i->base];
    else if (i->base == R_RIP)
        ea += c->block_rip + i->off + i->len;
    if (i->index != R_NONE)
        ea += c->s.gpr[i->index] << i->scale;
    if (likely(i->asize == 8))
        return ea;
    return i->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static hot_inline gva_t insn_lin(struct interp *c, const struct insn *i, unsigned size, enum access how)
{
    return seg_linear(c, i->seg, insn_ea(c, i), size, how);
}

/* ---- segments and control transfers (seg.c, far.c, task.c) ----------------------------------- */

/* MOV Sreg, POP Sreg, LES...: all checks of SDM vol. 2 "MOV"; raises #GP #SS #NP. Loads the hidden part. */
void seg_load(struct interp *c, unsigned seg, uint16_t selector);
/* Real mode and V86: base = selector << 4. */
void seg_load_real(struct interp *c, unsigned seg, uint16_t selector);
/* Far transfers. They push, load, change privilege or task as the descriptor says, and set s.rip. */
void far_jmp(struct interp *c, uint16_t selector, uint64_t off, unsigned osize);
void far_call(struct interp *c, uint16_t selector, uint64_t off, unsigned osize);
void far_ret(struct interp *c, unsigned osize, unsigned pop_bytes);
void far_iret(struct interp *c, unsigned osize);
enum task_cause { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };
void task_switch(struct interp *c, uint16_t selector, enum task_cause cause, bool has_error,
                 uint32_t error);

/* Stack accesses with SS and the stack width; raise #SS, #PF. They do not move rsp: the handler commits. */
static hot_inline gva_t stack_linear(struct interp *c, uint64_t sp, unsigned size, enum access how)
{
    if (likely(c->code64))
        return c->stack_addr = sp;
    return seg_linear(c, SEG_SS, sp & c->sp_mask, size, how);
}

static inline void set_sp(struct interp *c, uint64_t sp)
{
    if (c->sp_mask == 0xffff)
        c->s.gpr[REG_RSP] = (c->s.gpr[REG_RSP] & ~0xffffull) | (uint16_t)sp;
    else
        c->s.gpr[REG_RSP] = sp & c->sp_mask;
}

/* ---- blocks (block.c, run.c) ------------------------------------------------------------------ */

/*
 * For engines built on this one. A vCPU whose struct interp is the head of something of `size` bytes
 * (0: no more than itself), zeroed, with room for decoded code of `block_bytes`; interp_destroy takes it apart.
 */
int interp_create(struct vcpu *vcpu, size_t size, size_t block_bytes, struct err *err);
void interp_destroy(struct vcpu *vcpu, size_t size);
/* RDTSC: EDX:EAX. Raises #GP where CR4.TSD says so. */
void interp_read_tsc(struct interp *c);
/* Around run loops: budget and stop reason are set up; what was raised is delivered. */
void interp_run_begin(struct interp *c, uint64_t budget, sigjmp_buf *raise_to);
enum vcpu_stop interp_run_end(struct interp *c);
void interp_raised(struct interp *c);
/* Runs the block at s.rip (`single`: one instruction) and nothing after it; the block. May raise. */
struct block *interp_run_block(struct interp *c, bool single);
/* The same for a block that block_find has just found. */
void interp_run_found(struct interp *c, struct block *b);

int blocks_init(struct interp *c, size_t bytes, struct err *err);
void blocks_fini(struct interp *c);
/* Everything decoded may be wrong (mode tables changed, slot_changed). */
void blocks_flush(struct interp *c);
/*
 * A store by this vCPU hit a page that has code (page index in the RAM file): called after the store.
 * Moves the generation on if decoded bytes overlap, and ends the running block if it is stale.
 */
void blocks_written(struct interp *c, uint32_t ram_page, unsigned first, unsigned last);

/*
 * Counting (run.c). A handler that leaves in the middle of its block, rather than at its end, having set
 * s.rip: run_left_early if its instruction is complete, run_incomplete if it is to be resumed (a REP
 * between two runs). Then it returns.
 */
void run_left_early(struct interp *c);
void run_incomplete(struct interp *c);
/* Instructions retired before the current one, exact in the middle of a block too. */
uint64_t interp_icount(const struct interp *c);
/* Virtual mode: tells the clock interp_icount. Before anything that may look at the time: ports, MMIO, TSC. */
void interp_sync_clock(struct interp *c);

/* ---- native thunks (thunk.c) ------------------------------------------------------------------ */

int thunks_init(struct interp *c, struct err *err);
void thunks_fini(struct interp *c);

#endif
