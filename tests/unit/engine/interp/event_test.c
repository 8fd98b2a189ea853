/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/interp/thunk.h"
#include "tests/unit/engine/interp/rigtest.h"
#include "tests/unit/engine/interp/sysrig.h"

/* ---- an interrupt controller with one vector waiting, or none ---- */

struct pic {
    int vector; /* -1: none */
    unsigned acks;
};

static bool pic_has_intr(void *opaque)
{
    return ((struct pic *)opaque)->vector >= 0;
}

static int pic_ack(void *opaque)
{
    struct pic *p = opaque;
    int v = p->vector;

    p->vector = -1;
    p->acks++;
    return v;
}

static const struct vcpu_intc pic_ops = {.has_intr = pic_has_intr, .ack = pic_ack};

static void pic_raise(struct rig *r, struct pic *p, int vector)
{
    *p = (struct pic){.vector = vector};
    r->vcpu->intc_ops = &pic_ops;
    r->vcpu->intc = p;
    vcpu_post(r->vcpu, PEND_INTR);
}

/* ---- faults and traps ---- */

TEST_WITH(s_protected, fault_saves_its_own_address_and_sets_rf)
{
    RIG_RUN(r, 8, 0x90, 0x0f, 0x0b);
    TOOK(r, VEC_UD, RIG_CODE + 1, 8, RFLAGS_ONE | RFLAGS_RF);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 12);
    assert_false(r->cs.rflags & RFLAGS_RF);
}

TEST_WITH(s_protected, breakpoint_saves_the_next_address)
{
    RIG_RUN(r, 8, 0xcc);
    TOOK(r, VEC_BP, RIG_CODE + 1);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE);
}

TEST(interrupt_gate_clears_if_and_trap_gate_keeps_it)
{
    static const unsigned attrs[] = {0x8e, 0x8f};

    for (unsigned n = 0; n < ARRAY_LEN(attrs); n++) {
        struct rig *r = s_protected();

        s_idt(r, 0x30, S_CODE32, s_handler(0x30), attrs[n], 0);
        r->cs.rflags |= RFLAGS_IF | RFLAGS_NT;
        RIG_RUN(r, 8, 0xcd, 0x30);
        TOOK(r, 0x30, RIG_CODE + 2);
        assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_IF | RFLAGS_NT);
        assert_int_equal(r->cs.rflags & (RFLAGS_IF | RFLAGS_NT), n ? RFLAGS_IF : 0);
        rig_free(r);
    }
}

TEST_WITH(s_protected, sixteen_bit_gate_pushes_words)
{
    s_idt(r, VEC_GP, S_CODE32, s_handler(VEC_GP), 0x86, 0);
    r->cs.gpr[REG_RAX] = S_TSS_SEL;
    RIG_RUN(r, 8, 0x8e, 0xd8); /* mov ds,ax */
    assert_int_equal(s_vector(r), VEC_GP);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 8);
    assert_int_equal(rig_get(r, RIG_STACK - 8, 2), S_TSS_SEL);
    assert_int_equal(rig_get(r, RIG_STACK - 6, 2), RIG_CODE);
}

TEST_WITH(s_long, page_fault_sets_cr2_and_pushes_its_code)
{
    r->cs.gpr[REG_RBX] = 0x40001234;
    RIG_RUN(r, 8, 0x88, 0x03); /* mov [rbx],al */
    assert_int_equal(s_vector(r), VEC_PF);
    assert_int_equal(r->cs.cr2, 0x40001234);
    assert_int_equal(s_frame(r, 0), 2);
    assert_int_equal(s_frame(r, 1), RIG_CODE);
}

TEST_WITH(s_protected, inner_stack_comes_from_the_tss)
{
    s_user(r);
    RIG_RUN(r, 8, 0xf4); /* privileged */
    assert_int_equal(s_vector(r), VEC_GP);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 24);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA);
    assert_int_equal(s_frame(r, 0), 0);
    assert_int_equal(s_frame(r, 1), RIG_CODE);
    assert_int_equal(s_frame(r, 2), S_CODE32_3);
    assert_int_equal(s_frame(r, 4), S_STACK3);
    assert_int_equal(s_frame(r, 5), S_DATA_3);
}

TEST_WITH(s_long, long_mode_frame_is_aligned_and_has_the_stack)
{
    r->cs.gpr[REG_RSP] = RIG_STACK + 5;
    RIG_RUN(r, 8, 0x0f, 0x0b);
    assert_int_equal(s_vector(r), VEC_UD);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK - 40);
    assert_int_equal(s_frame(r, 3), RIG_STACK + 5);
    assert_int_equal(s_frame(r, 4), 16);
    assert_int_equal(r->cs.seg[SEG_SS].selector, 16);
}

TEST_WITH(s_long, ist_is_used_at_every_level)
{
    s_idt(r, VEC_UD, S_CODE64, s_handler(VEC_UD), 0x8e, 1);
    RIG_RUN(r, 8, 0x0f, 0x0b);
    assert_int_equal(s_vector(r), VEC_UD);
    assert_int_equal(r->cs.gpr[REG_RSP], (S_IST1 & ~15u) - 40);
}

TEST_WITH(s_long, from_user_to_64_bit_handler_loads_null_ss)
{
    s_user(r);
    RIG_RUN(r, 8, 0x0f, 0x0b);
    assert_int_equal(s_vector(r), VEC_UD);
    assert_int_equal(r->cs.seg[SEG_SS].selector, 0);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 40);
    assert_int_equal(s_frame(r, 4), S_DATA_3);
}

/* ---- error codes of what goes wrong in the IDT ---- */

TEST_WITH(s_protected, int_n_needs_a_gate_of_its_level)
{
    s_user(r);
    RIG_RUN(r, 8, 0xcd, 0x40);
    TOOK(r, VEC_GP, 0x40 * 8 + 2, RIG_CODE);
}

TEST_WITH(s_protected, int1_needs_no_gate_of_its_level)
{
    s_user(r);
    RIG_RUN(r, 8, 0xf1);
    TOOK(r, VEC_DB, RIG_CODE + 1);
}

TEST_WITH(s_protected, absent_gate_of_int_n_is_np_without_ext)
{
    s_idt(r, 0x40, S_CODE32, s_handler(0x40), 0x0e, 0);
    RIG_RUN(r, 8, 0xcd, 0x40);
    TOOK(r, VEC_NP, 0x40 * 8 + 2);
}

TEST_WITH(s_protected, absent_gate_of_a_fault_is_np_with_ext)
{
    s_idt(r, VEC_UD, S_CODE32, s_handler(VEC_UD), 0x0e, 0);
    RIG_RUN(r, 8, 0x0f, 0x0b);
    TOOK(r, VEC_NP, VEC_UD * 8 + 3);
}

TEST_WITH(s_protected, gate_outside_of_the_limit_is_gp)
{
    r->cs.idtr.limit = 0x3f * 8 + 7;
    RIG_RUN(r, 8, 0xcd, 0x40);
    TOOK(r, VEC_GP, 0x40 * 8 + 2);
}

TEST_WITH(s_protected, bad_code_selector_of_a_gate_is_gp_of_it)
{
    s_idt(r, VEC_UD, S_DATA, s_handler(VEC_UD), 0x8e, 0);
    RIG_RUN(r, 8, 0x0f, 0x0b);
    TOOK(r, VEC_GP, S_DATA | 1);
}

TEST_WITH(s_protected, bad_inner_stack_is_ts)
{
    s_user(r);
    rig_put64(r, S_TSS + 4, S_STACK0 | (uint64_t)S_RO << 32);
    s_idt(r, VEC_TS, 0, 0, 0x85, 0); /* #TS meets the same stack: a task gets it */
    rig_put64(r, S_IDT + VEC_TS * 8, s_gate_desc(S_TSS2_SEL, 0, 0x85, 0));
    rig_put64(r, S_TSS2 + 0x20, RIG_DATA);
    rig_put64(r, S_TSS2 + 0x38, S_STACK0);
    rig_put64(r, S_TSS2 + 0x48, 0);
    rig_put64(r, S_TSS2 + 0x4c, S_CODE32 | (uint64_t)S_DATA << 32);
    RIG_PUT(r, RIG_DATA, 0xf4);
    RIG_RUN(r, 8, 0x0f, 0x0b);
    assert_int_equal(r->cs.rip, RIG_DATA + 1);
    assert_int_equal(s_frame(r, 0), S_RO | 1);
    assert_int_equal(r->cs.tr.selector, S_TSS2_SEL);
}

/* ---- exceptions that meet ---- */

struct meet_case {
    uint8_t gates[3]; /* vectors whose gates are absent; 0xff: none */
    unsigned first;   /* INSN_* of how it begins */
    unsigned end;     /* vector, or 0xffff: shutdown */
};

#define BY_DE 0
#define BY_UD 1
#define BY_GP 2

static const struct meet_case meet_cases[] = {
    {{VEC_DE, 0xff, 0xff}, BY_DE, VEC_DF}, /* contributory, #NP */
    {{VEC_GP, 0xff, 0xff}, BY_GP, VEC_DF},
    {{VEC_UD, 0xff, 0xff}, BY_UD, VEC_NP},   /* benign first */
    {{VEC_UD, VEC_NP, 0xff}, BY_UD, VEC_DF}, /* then #NP meets #NP */
    {{VEC_GP, VEC_DF, 0xff}, BY_GP, 0xffff}, /* #DF meets #NP */
};

TEST(exceptions_meet_as_in_the_table)
{
    static const uint8_t code[][2] = {{0xf7, 0xf1}, {0x0f, 0x0b}, {0x8e, 0xd8}};

    for (unsigned n = 0; n < ARRAY_LEN(meet_cases); n++) {
        const struct meet_case *k = &meet_cases[n];
        struct rig *r = s_protected();

        for (unsigned g = 0; g < 3 && k->gates[g] != 0xff; g++)
            s_idt(r, k->gates[g], S_CODE32, 0, 0x0e, 0);
        rig_write(r, RIG_CODE, code[k->first], 2);
        r->cs.gpr[REG_RAX] = S_TSS_SEL;
        r->cs.gpr[REG_RCX] = 0;
        rig_run(r, 8);
        assert_int_equal(s_vector(r), k->end);
        assert_int_equal(r->stop, k->end == 0xffff ? VCPU_STOP_SHUTDOWN : VCPU_STOP_HALT);
        assert_int_equal(r->cs.activity, k->end == 0xffff ? CPU_SHUTDOWN : CPU_HALTED);
        rig_free(r);
    }
}

TEST_WITH(s_long, page_fault_on_the_handler_stack_is_a_double_fault_with_code_0)
{
    s_idt(r, VEC_DF, S_CODE64, s_handler(VEC_DF), 0x8e, 1);
    r->cs.gpr[REG_RSP] = 0x40001000;
    r->cs.gpr[REG_RBX] = 0x40005000;
    RIG_RUN(r, 8, 0x88, 0x03);
    TOOK(r, VEC_DF, 0, RIG_CODE);
    assert_int_equal(r->cs.cr2, 0x40000ff8);
}

TEST_WITH(s_protected, shutdown_keeps_the_faulting_address)
{
    r->cs.idtr.limit = 0;
    RIG_RUN(r, 8, 0x90, 0x0f, 0x0b);
    assert_int_equal(r->stop, VCPU_STOP_SHUTDOWN);
    assert_int_equal(r->cs.rip, RIG_CODE + 1);
    rig_run(r, 8);
    assert_int_equal(r->stop, VCPU_STOP_SHUTDOWN);
}

/* ---- real and V86 mode ---- */

TEST_WITH(rig_new_real, real_mode_int_uses_the_vector_table)
{
    r->cs.idtr.limit = 0x3ff;
    rig_put64(r, 0x21 * 4, 0x02000010); /* 0200:0010 */
    RIG_PUT(r, 0x2010, 0xf4);
    r->cs.rflags |= RFLAGS_IF | RFLAGS_CF;
    RIG_RUN(r, 2, 0xcd, 0x21);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0x200);
    assert_int_equal(r->cs.rip, 0x11);
    assert_int_equal(r->cs.gpr[REG_RSP], 0xf000 - 6);
    assert_int_equal(s_frame(r, 0), RIG_CODE + 2);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_IF | RFLAGS_CF);
    assert_false(r->cs.rflags & RFLAGS_IF);
}

TEST_WITH(rig_new_real, real_mode_faults_push_no_error_code)
{
    r->cs.idtr.limit = 0x3ff;
    rig_put64(r, VEC_GP * 4, 0x2000);
    RIG_PUT(r, 0x2000, 0xf4);
    r->cs.gpr[REG_RBX] = 0xffff;
    RIG_RUN(r, 2, 0x8b, 0x07); /* mov ax,[bx] */
    assert_int_equal(r->cs.rip, 0x2001);
    assert_int_equal(r->cs.gpr[REG_RSP], 0xf000 - 6);
    assert_int_equal(s_frame(r, 0), RIG_CODE);
}

TEST_WITH(s_protected, v86_int_goes_to_level_0_with_all_segments)
{
    s_v86(r);
    r->cs.rflags |= RFLAGS_IOPL;
    r->cs.seg[SEG_GS].selector = 0x1111;
    r->cs.seg[SEG_ES].selector = 0x2222;
    s_idt(r, 0x21, S_CODE32, s_handler(0x21), 0xee, 0);
    RIG_RUN(r, 2, 0xcd, 0x21);
    assert_int_equal(s_vector(r), 0x21);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK0 - 36);
    assert_int_equal(s_frame(r, 0), RIG_CODE + 2);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_VM | RFLAGS_IOPL);
    assert_int_equal(s_frame(r, 3), 0xf000);
    assert_int_equal(s_frame(r, 5), 0x2222);
    assert_int_equal(s_frame(r, 8), 0x1111);
    assert_int_equal(r->cs.seg[SEG_GS].selector, 0);
    assert_false(r->cs.rflags & RFLAGS_VM);
}

TEST_WITH(s_protected, v86_int_without_iopl_is_gp)
{
    s_v86(r);
    RIG_RUN(r, 2, 0xcd, 0x21);
    TOOK(r, VEC_GP, 0, RIG_CODE);
}

TEST_WITH(s_protected, vme_redirects_to_the_program)
{
    s_v86(r);
    r->cs.cr4 |= CR4_VME;
    r->cs.rflags |= RFLAGS_VIF;
    r->cs.tr.limit = 0x200;
    rig_put64(r, S_TSS + 0x66, 0x88); /* the map at 68h, of zeroes */
    rig_put64(r, 0x21 * 4, 0x02000010);
    RIG_RUN(r, 1, 0xcd, 0x21);
    assert_int_equal(r->cs.seg[SEG_CS].base, 0x2000);
    assert_int_equal(r->cs.rip, 0x10);
    assert_int_equal(rig_get(r, 0xf000 - 2, 2), RFLAGS_ONE | RFLAGS_IOPL | RFLAGS_IF);
    assert_true(r->cs.rflags & RFLAGS_VM);
    assert_false(r->cs.rflags & RFLAGS_VIF);
}

/* ---- interrupts ---- */

TEST_WITH(s_protected, interrupt_comes_after_the_shadow_of_sti)
{
    struct pic p;

    r->vm.engine->set(r->vcpu, &r->cs);
    pic_raise(r, &p, 0x30);
    RIG_RUN(r, 20, 0xfb, 0x90, 0xfa, 0xf4); /* sti; nop; cli; hlt */
    TOOK(r, 0x30, RIG_CODE + 2);
}

/* A device that raises an interrupt when byte number `at` is written to its port. */
struct late {
    struct rig *r;
    struct pic pic;
    struct region region;
    unsigned at, count;
};

static uint64_t late_read(void *dev, uint64_t off, unsigned size)
{
    (void)dev;
    (void)off;
    (void)size;
    return 0;
}

static void late_write(void *dev, uint64_t off, uint64_t value, unsigned size)
{
    struct late *l = dev;

    (void)off;
    (void)value;
    (void)size;
    if (++l->count == l->at)
        pic_raise(l->r, &l->pic, 0x30);
}

static const struct io_ops late_ops = {.read = late_read, .write = late_write, .sizes = 1};

/* REP OUTSB of 4096 bytes, which takes several runs. */
static void rep_outsb_with_interrupt(struct rig *r, unsigned at)
{
    struct late l = {.r = r, .at = at};

    l.region =
        (struct region){.name = "late", .kind = REGION_IO, .size = 1, .ops = &late_ops, .dev = &l};
    vm_lock(&r->vm);
    bus_map(&r->vm.ports, &l.region, 0x60);
    vm_unlock(&r->vm);
    r->cs.gpr[REG_RSI] = RIG_DATA;
    r->cs.gpr[REG_RCX] = 4096;
    r->cs.gpr[REG_RDX] = 0x60;
    r->cs.rflags |= RFLAGS_IF;
    RIG_RUN(r, 3, 0xf3, 0x6e, 0xf4); /* rep outsb; hlt */
    vm_lock(&r->vm);
    bus_unmap(&l.region);
    vm_unlock(&r->vm);
}

TEST_WITH(s_protected, interrupt_in_the_middle_of_rep_saves_rf)
{
    rep_outsb_with_interrupt(r, 1);
    TOOK(r, 0x30, RIG_CODE);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_IF | RFLAGS_RF);
    assert_in_range(r->cs.gpr[REG_RCX], 1, 4095);
    assert_false(r->cs.rflags & RFLAGS_RF);
}

TEST_WITH(s_protected, interrupt_after_the_last_element_of_rep_saves_no_rf)
{
    rep_outsb_with_interrupt(r, 4096);
    TOOK(r, 0x30, RIG_CODE + 2);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_IF);
}

TEST_WITH(s_protected, rep_that_was_looked_at_leaves_no_rf)
{
    r->cs.gpr[REG_RDI] = RIG_DATA;
    r->cs.gpr[REG_RCX] = 2 * PAGE_SIZE;
    r->cs.dr7 |= 1; /* between the pages there might be a breakpoint */
    RIG_RUN(r, 1, 0xf3, 0xaa, 0x90);
    assert_int_equal(r->cs.gpr[REG_RCX], 0);
    assert_false(r->cs.rflags & RFLAGS_RF);
}

static bool ferr_that_holds_the_cpu(void *vcpu, unsigned index, bool level)
{
    assert_int_equal(index, 0);
    assert_true(level);
    vcpu_post(vcpu, PEND_EXIT);
    return false;
}

TEST_WITH(s_protected, x87_instruction_that_waits_for_ferr_is_resumed_and_uses_the_budget)
{
    r->cs.cr0 &= ~CR0_NE;
    r->cs.fpu.fsw = 0x8081; /* an invalid operation, unmasked */
    r->cs.fpu.fcw = 0x37e;
    r->vm.ferr_sink = ferr_that_holds_the_cpu;
    r->vm.ferr_opaque = r->vcpu;
    RIG_RUN(r, 20, 0x90, 0x9b, 0xf4); /* nop; fwait; hlt */
    assert_int_equal(r->stop, VCPU_STOP_KICK);
    assert_int_equal(r->cs.rip, RIG_CODE + 1);
    assert_int_equal(r->cs.icount, 2);
}

TEST_WITH(s_protected, sti_cli_lets_nothing_in)
{
    struct pic p;

    pic_raise(r, &p, 0x30);
    RIG_RUN(r, 20, 0xfb, 0xfa, 0xf4);
    assert_int_equal(r->cs.rip, RIG_CODE + 3);
    assert_int_equal(p.acks, 0);
}

TEST_WITH(s_protected, shadow_survives_the_end_of_the_budget)
{
    struct pic p;

    pic_raise(r, &p, 0x30);
    RIG_RUN(r, 1, 0xfb, 0x90, 0xfa, 0xf4);
    assert_int_equal(r->cs.rip, RIG_CODE + 1);
    rig_run(r, 1);
    rig_run(r, 8);
    TOOK(r, 0x30, RIG_CODE + 2);
}

TEST_WITH(s_protected, popf_that_sets_if_lets_a_waiting_interrupt_in)
{
    struct pic p;

    rig_put64(r, RIG_STACK, RFLAGS_IF);
    pic_raise(r, &p, 0x30);
    RIG_RUN(r, 20, 0x90, 0x9d, 0x90, 0x90); /* nop; popf; nop */
    TOOK(r, 0x30, RIG_CODE + 2);
}

TEST_WITH(s_protected, interrupt_wakes_a_halted_cpu)
{
    struct pic p;

    r->cs.rflags |= RFLAGS_IF;
    RIG_RUN(r, 20, 0xf4, 0x90);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_int_equal(atomic_load(&r->vcpu->pending), 0);
    pic_raise(r, &p, 0x31);
    rig_run(r, 20);
    TOOK(r, 0x31, RIG_CODE + 1);
}

TEST_WITH(s_protected, halted_with_if_clear_sleeps_on_with_nothing_pending)
{
    struct pic p;

    pic_raise(r, &p, 0x31);
    RIG_RUN(r, 20, 0xf4);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_int_equal(atomic_load(&r->vcpu->pending), 0);
}

TEST_WITH(s_protected, nmi_is_blocked_until_iret)
{
    RIG_PUT(r, s_handler(2), 0xcf); /* iret */
    RIG_CODE_BYTES(r, 0x90, 0x90, 0x90, 0xf4);
    vcpu_post(r->vcpu, PEND_NMI);
    rig_run(r, 0);
    assert_int_equal(r->cs.rip, s_handler(2));
    assert_int_equal(r->cs.nmi_blocked, 1);
    vcpu_post(r->vcpu, PEND_NMI);
    rig_run(r, 0);
    assert_int_equal(r->cs.rip, s_handler(2));
    assert_int_equal(r->cs.nmi_pending, 1);
    assert_int_equal(atomic_load(&r->vcpu->pending) & PEND_NMI, 0);
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, s_handler(2)); /* the second one */
    assert_int_equal(r->cs.nmi_pending, 0);
    assert_int_equal(s_frame(r, 0), RIG_CODE);
}

TEST_WITH(s_protected, exit_request_leaves_before_anything_else)
{
    RIG_CODE_BYTES(r, 0x90, 0xf4);
    vcpu_post(r->vcpu, PEND_EXIT | PEND_NMI);
    rig_run(r, 20);
    assert_int_equal(r->stop, VCPU_STOP_KICK);
    assert_int_equal(r->cs.rip, RIG_CODE);
}

TEST_WITH(s_protected, init_and_sipi_start_at_the_page)
{
    r->vcpu->index = 1;
    r->cs.activity = CPU_WAIT_FOR_SIPI;
    rig_run(r, 20);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    atomic_store(&r->vcpu->sipi_vector, 0x9a);
    vcpu_post(r->vcpu, PEND_INIT | PEND_SIPI);
    rig_run(r, 0);
    assert_int_equal(r->cs.activity, CPU_RUNNING);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(r->cs.seg[SEG_CS].base, 0x9a000);
    assert_int_equal(r->cs.rip, 0);
    assert_int_equal(r->cs.cr0 & CR0_PE, 0);
}

TEST_WITH(s_protected, nmi_waits_for_the_sipi)
{
    r->vcpu->index = 1;
    r->cs.activity = CPU_WAIT_FOR_SIPI;
    vcpu_post(r->vcpu, PEND_NMI);
    rig_run(r, 20);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_int_equal(r->cs.activity, CPU_WAIT_FOR_SIPI);
    assert_int_equal(r->cs.nmi_pending, 1);
    rig_put64(r, 2 * 4, 0x20000000); /* the vector of real mode: 2000h:0 */
    atomic_store(&r->vcpu->sipi_vector, 0x9a);
    vcpu_post(r->vcpu, PEND_SIPI);
    r->cs.idtr = (struct cpu_dtr){.limit = 0xffff};
    r->cs.cr0 &= ~CR0_PE;
    rig_run(r, 0);
    assert_int_equal(r->cs.nmi_pending, 0);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0x2000);
}

TEST_WITH(s_protected, init_forgets_an_nmi_that_came_before)
{
    r->vcpu->index = 1;
    vcpu_post(r->vcpu, PEND_NMI | PEND_INIT);
    rig_run(r, 20);
    assert_int_equal(r->stop, VCPU_STOP_HALT);
    assert_int_equal(r->cs.activity, CPU_WAIT_FOR_SIPI);
    assert_int_equal(r->cs.nmi_pending, 0);
}

/* ---- debug exceptions ---- */

TEST_WITH(s_protected, single_step_traps_after_the_instruction)
{
    r->cs.rflags |= RFLAGS_TF;
    RIG_RUN(r, 8, 0x90, 0x90);
    TOOK(r, VEC_DB, RIG_CODE + 1);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE | RFLAGS_TF);
    assert_int_equal(r->cs.dr6, 0xffff4ff0);
}

TEST_WITH(s_protected, popf_that_sets_tf_traps_one_instruction_later)
{
    rig_put64(r, RIG_STACK, RFLAGS_TF);
    RIG_RUN(r, 8, 0x9d, 0x90, 0x90);
    TOOK(r, VEC_DB, RIG_CODE + 2);
}

TEST_WITH(s_protected, popf_that_clears_tf_still_traps)
{
    r->cs.rflags |= RFLAGS_TF;
    RIG_RUN(r, 8, 0x9d, 0x90, 0x90);
    TOOK(r, VEC_DB, RIG_CODE + 1);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE);
}

TEST_WITH(s_protected, mov_ss_holds_the_trap_back)
{
    r->cs.gpr[REG_RAX] = S_DATA;
    r->cs.rflags |= RFLAGS_TF;
    RIG_RUN(r, 8, 0x8e, 0xd0, 0x90, 0x90); /* mov ss,ax; nop */
    TOOK(r, VEC_DB, RIG_CODE + 3);
}

TEST_WITH(s_protected, int_n_with_tf_does_not_trap)
{
    r->cs.rflags |= RFLAGS_TF;
    RIG_RUN(r, 8, 0xcd, 0x40);
    assert_int_equal(s_vector(r), 0x40);
    assert_int_equal(r->cs.dr6, 0xffff0ff0);
}

TEST_WITH(s_protected, code_breakpoint_comes_first_and_does_not_set_rf)
{
    r->cs.dr[1] = RIG_CODE + 1;
    r->cs.dr7 |= 4;
    RIG_RUN(r, 8, 0x90, 0x90, 0xf4);
    TOOK(r, VEC_DB, RIG_CODE + 1);
    assert_int_equal(s_frame(r, 2), RFLAGS_ONE);
    assert_int_equal(r->cs.dr6, 0xffff0ff2);
}

TEST_WITH(s_protected, rf_passes_one_code_breakpoint)
{
    r->cs.dr[0] = RIG_CODE;
    r->cs.dr7 |= 1;
    r->cs.rflags |= RFLAGS_RF;
    RIG_RUN(r, 1, 0x90, 0xeb, 0xfd); /* 1: nop; jmp 1b */
    assert_int_equal(r->cs.rip, RIG_CODE + 1);
    assert_false(r->cs.rflags & RFLAGS_RF);
    rig_run(r, 8);
    TOOK(r, VEC_DB, RIG_CODE);
}

TEST_WITH(s_protected, data_breakpoint_traps_after_the_store)
{
    r->cs.gpr[REG_RBX] = RIG_DATA;
    r->cs.dr[0] = RIG_DATA;
    r->cs.dr7 |= 1 | 1 << 16;
    RIG_RUN(r, 8, 0x88, 0x03, 0x90, 0x90);
    TOOK(r, VEC_DB, RIG_CODE + 2);
    assert_int_equal(r->cs.dr6, 0xffff0ff1);
}
