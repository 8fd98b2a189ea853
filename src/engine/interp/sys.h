/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handlers of segment, far-transfer, interrupt and system instructions (seg.c, far.c, event.c,
 * sys.c), for the decoder's table.
 *
 * Conventions. `reg` is ModRM.reg (of Sreg, CR, DR operands: their number, REX.R included), `rm`
 * the ModRM.rm GPR when INSN_MEM is clear. "r/m16" means: the memory operand if INSN_MEM, else rm.
 * osize is the real operand size of this mode: 8 where 64-bit mode defaults to 64 bits (PUSHF,
 * POPF, PUSH and POP of FS and GS) or REX.W was given (IRET, RETF, far pointers in memory, SYSRET,
 * SYSEXIT); elsewhere the handler looks at c->code64 itself (MOV CR/DR, LGDT, INVPCID ...). The
 * handlers check CPL, CPUID features, LOCK excepted: LOCK and encodings that do not exist are the
 * decoder's #UD (op_ud).
 *
 * "ends": the handler sets s.rip and returns: the block must end there. "may end": it goes on with
 * NEXT, or sets s.rip, calls run_left_early and returns, where the mode has changed. All others use
 * NEXT. Every handler does BEGIN.
 */
#ifndef ENGINE_INTERP_SYS_H
#define ENGINE_INTERP_SYS_H

#include "engine/interp/interp.h"

/* ---- segment registers (seg.c) ---- */
insn_fn op_mov_from_sreg; /* 8C: reg = Sreg; memory: 16 bits, else rm with osize */
insn_fn op_mov_to_sreg;   /* 8E: reg = Sreg (CS: #UD here); r/m16. May end; ends for SS */
insn_fn op_push_sreg;     /* reg = Sreg, osize */
insn_fn op_pop_sreg;      /* reg = Sreg, osize. May end; ends for SS */
insn_fn op_lds, op_les, op_lss, op_lfs, op_lgs; /* reg = GPR; memory m16:osize. May end; LSS ends */
insn_fn op_lar, op_lsl;                         /* reg = destination with osize; r/m16 */
insn_fn op_verr, op_verw;                       /* r/m16 */
insn_fn op_arpl;                                /* reg = 16-bit source; r/m16 is the destination */

/* ---- far transfers (far.c). All end ---- */
insn_fn op_jmp_far_imm, op_call_far_imm; /* EA, 9A: imm = offset, disp = selector, osize 2 or 4 */
insn_fn op_jmp_far_mem, op_call_far_mem; /* FF /5, /3: memory m16:osize, osize 2, 4, 8 */
insn_fn op_ret_far;                      /* CB, CA: imm = bytes to pop (0 for CB), osize 2, 4, 8 */
insn_fn op_iret;                         /* CF: osize 2, 4, 8 */

/* ---- software interrupts. All end ---- */
insn_fn op_int;  /* CD: imm = vector */
insn_fn op_int3; /* CC */
insn_fn op_into; /* CE. Ends, or NEXT if OF is clear */
insn_fn op_int1; /* F1 */
insn_fn op_ud; /* UD0, UD1, UD2, RSM outside SMM, and whatever else is #UD; no operands looked at */

/* ---- flags ---- */
insn_fn op_cli, op_sti;    /* end */
insn_fn op_pushf, op_popf; /* osize 2, 4, 8. POPF ends */
insn_fn op_clac, op_stac;  /* end */

/* ---- system registers ---- */
insn_fn op_clts;                  /* ends */
insn_fn op_lgdt, op_lidt;         /* memory; osize 2 cuts the base to 24 bits. End */
insn_fn op_sgdt, op_sidt;         /* memory, 6 or 10 bytes */
insn_fn op_lldt, op_ltr;          /* r/m16. End */
insn_fn op_sldt, op_str;          /* memory: 16 bits, else rm with osize */
insn_fn op_smsw;                  /* memory: 16 bits, else rm with osize */
insn_fn op_lmsw;                  /* r/m16. Ends */
insn_fn op_mov_from_cr;           /* reg = CR, rm = GPR; ModRM.mod ignored */
insn_fn op_mov_to_cr;             /* same. Ends */
insn_fn op_mov_from_dr;           /* reg = DR, rm = GPR */
insn_fn op_mov_to_dr;             /* same. Ends */
insn_fn op_rdmsr;                 /* no operands */
insn_fn op_wrmsr;                 /* no operands. Ends */
insn_fn op_xgetbv;                /* no operands */
insn_fn op_xsetbv;                /* no operands. Ends */
insn_fn op_swapgs;                /* no operands. Ends */
insn_fn op_rdfsbase, op_rdgsbase; /* rm = GPR, osize 4 or 8 */
insn_fn op_wrfsbase, op_wrgsbase; /* rm = GPR, osize 4 or 8 */

/* ---- TLB and caches ---- */
insn_fn op_invlpg;          /* memory: only its address. Ends */
insn_fn op_invpcid;         /* reg = type; memory m128. Ends */
insn_fn op_invd, op_wbinvd; /* no operands */

/* ---- the rest ---- */
insn_fn op_hlt;                  /* ends, s.activity = CPU_HALTED */
insn_fn op_cpuid;                /* no operands */
insn_fn op_rdtsc, op_rdtscp;     /* no operands */
insn_fn op_rdpmc;                /* no operands */
insn_fn op_rdpid;                /* rm = GPR (written with 8 bytes in 64-bit mode, else 4) */
insn_fn op_rdrand, op_rdseed;    /* rm = GPR, osize */
insn_fn op_syscall, op_sysenter; /* no operands. End */
insn_fn op_sysret, op_sysexit;   /* osize 8: to 64-bit code, else 4. End */
insn_fn op_vmcall, op_vmmcall;   /* no operands */
insn_fn op_monitor, op_mwait;    /* #UD: no model has them */
insn_fn op_rsm;                  /* #UD: there is no SMM */

#endif
