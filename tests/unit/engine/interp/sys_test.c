/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/engine/interp/rigtest.h"
#include "tests/unit/engine/interp/sysrig.h"

#define TARGET 0x2000u
#define NONE   0xffff

static void put_code(struct rig *r, const uint8_t *code, size_t len)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};

    rig_write(r, RIG_CODE, code, len);
    rig_write(r, RIG_CODE + len, ud2, sizeof(ud2));
}

/* ---- control registers ---- */

struct cr_case {
    uint8_t cr; /* ModRM of 0F 22: C0 CR0, D8 CR3, E0 CR4, C8 CR1 */
    bool is_long;
    uint64_t value;
    unsigned vector;
};

#define CR0_OF_LONG (CR0_PE | CR0_ET | CR0_NE | CR0_PG | CR0_WP)

static const struct cr_case cr_cases[] = {
    {0xc0, false, CR0_PE | CR0_TS, NONE},
    {0xc0, false, CR0_PG, VEC_GP},
    {0xc0, false, CR0_PE | CR0_NW, VEC_GP},
    {0xc0, false, CR0_PE | CR0_NW | CR0_CD, NONE},
    {0xc0, true, CR0_OF_LONG & ~CR0_PG, VEC_GP}, /* from 64-bit code */
    {0xc0, true, CR0_OF_LONG | BIT(32), VEC_GP},
    {0xc0, true, CR0_OF_LONG & ~CR0_WP, NONE},
    {0xc8, false, 0, VEC_UD},
    {0xd8, true, RIG_TABLES, NONE},
    {0xd8, true, RIG_TABLES | BIT(63), VEC_GP}, /* no PCIDs */
    {0xe0, false, CR4_VMXE, VEC_GP},
    {0xe0, false, CR4_PGE | CR4_DE, NONE},
    {0xe0, true, CR4_OSFXSR, VEC_GP}, /* no PAE */
    {0xe0, false, CR4_PCIDE, VEC_GP},
    {0xe0, true, BIT(40) | CR4_PAE, VEC_GP},
};

TEST(control_register_writes_follow_the_table)
{
    for (unsigned n = 0; n < ARRAY_LEN(cr_cases); n++) {
        const struct cr_case *k = &cr_cases[n];
        struct rig *r = k->is_long ? s_long() : s_protected();
        uint8_t code[] = {0x0f, 0x22, k->cr};

        put_code(r, code, sizeof(code));
        r->cs.gpr[REG_RAX] = k->value;
        rig_run(r, 8);
        assert_int_equal(s_vector(r), k->vector == NONE ? VEC_UD : k->vector);
        assert_int_equal(s_frame(r, k->vector == VEC_GP ? 1 : 0),
                         k->vector == NONE ? RIG_CODE + 3 : RIG_CODE);
        rig_free(r);
    }
}

TEST_WITH(s_protected, et_is_always_set_and_unknown_bits_never)
{
    r->cs.gpr[REG_RAX] = 0x1000ffc0 | CR0_PE;
    RIG_RUN(r, 2, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc1); /* mov cr0,eax; mov ecx,cr0 */
    assert_int_equal(r->cs.gpr[REG_RCX], CR0_PE | CR0_ET);
}

TEST_WITH(s_protected, lmsw_sets_pe_and_does_not_clear_it)
{
    r->cs.gpr[REG_RAX] = CR0_TS;
    RIG_RUN(r, 2, 0x0f, 0x01, 0xf0, 0x0f, 0x01, 0xe1); /* lmsw ax; smsw ecx */
    assert_int_equal(r->cs.gpr[REG_RCX] & 0xf, CR0_PE | CR0_TS);
}

struct user_case {
    uint8_t code[4];
    unsigned len, vector;
};

/* What user mode may not. */
static const struct user_case user_cases[] = {
    {{0xf4}, 1, VEC_GP},
    {{0xfa}, 1, VEC_GP},
    {{0xfb}, 1, VEC_GP},
    {{0x0f, 0x06}, 2, VEC_GP},
    {{0x0f, 0x08}, 2, VEC_GP},
    {{0x0f, 0x09}, 2, VEC_GP},
    {{0x0f, 0x30}, 2, VEC_GP},
    {{0x0f, 0x32}, 2, VEC_GP},
    {{0x0f, 0x33}, 2, VEC_GP},
    {{0x0f, 0x20, 0xc0}, 3, VEC_GP},
    {{0x0f, 0x22, 0xc0}, 3, VEC_GP},
    {{0x0f, 0x21, 0xc0}, 3, VEC_GP},
    {{0x0f, 0x01, 0x13}, 3, VEC_GP},
    {{0x0f, 0x01, 0x3b}, 3, VEC_GP},
    {{0x0f, 0x01, 0xf0}, 3, VEC_GP},
    {{0x0f, 0x00, 0xd0}, 3, VEC_GP},
    {{0x0f, 0x00, 0xd8}, 3, VEC_GP},
    {{0x0f, 0x35}, 2, VEC_GP},
    {{0x0f, 0xaa}, 2, VEC_UD},
    {{0x0f, 0x0b}, 2, VEC_UD},
    {{0x0f, 0x01, 0xca}, 3, VEC_UD}, /* CLAC */
};

TEST(user_mode_is_refused)
{
    for (unsigned n = 0; n < ARRAY_LEN(user_cases); n++) {
        struct rig *r = s_protected();

        s_user(r);
        put_code(r, user_cases[n].code, user_cases[n].len);
        rig_run(r, 8);
        assert_int_equal(s_vector(r), user_cases[n].vector);
        rig_free(r);
    }
}

TEST_WITH(s_protected, umip_refuses_user_mode_only)
{
    r->cs.cr4 |= CR4_UMIP;
    RIG_RUN(r, 1, 0x0f, 0x00, 0xc8); /* str eax */
    assert_int_equal(r->cs.gpr[REG_RAX], S_TSS_SEL);
    s_user(r);
    r->cs.rip = RIG_CODE;
    rig_run(r, 8);
    assert_int_equal(s_vector(r), VEC_GP);
}

/* ---- mode switches ---- */

TEST_WITH(rig_new_real, real_mode_enters_protected_mode_and_returns)
{
    s_tables(r, S_CODE32);
    /* lgdt would need a copy in memory: the register is there already */
    RIG_PUT(r, TARGET, 0xb8, 0x10, 0, 0, 0, /* mov eax,10h */
            0x8e, 0xd8,                     /* mov ds,ax */
            0x88, 0x1d, 0, 0, 0x20, 0,      /* mov [200000h],bl */
            0x0f, 0x22, 0xc0,               /* mov cr0,eax: PE off */
            0xea, 0, 0x21, 0, 0, 0, 0);     /* jmp 0:2100h */
    RIG_PUT(r, 0x2100, 0x8a, 0x0e);         /* mov cl,[esi]: D and the limit stay */
    r->cs.gpr[REG_RBX] = 0x77;
    r->cs.gpr[REG_RSI] = 0x200000;
    RIG_RUN(r, 9, 0x66, 0xb8, 0x11, 0, 0, 0, /* mov eax,11h */ 0x0f, 0x22, 0xc0,
            /* mov cr0,eax */ 0x66, 0xea, 0, TARGET >> 8, 0, 0, S_CODE32, 0); /* jmp far */
    assert_int_equal(rig_get(r, 0x200000, 1), 0x77);
    assert_int_equal(r->cs.cr0 & CR0_PE, 0);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0);
    assert_int_equal(r->cs.rip, 0x2102);
    assert_int_equal(r->cs.gpr[REG_RCX] & 0xff, 0x77);
    assert_int_equal(r->cs.seg[SEG_DS].limit, UINT32_MAX);
}

TEST_WITH(s_long, long_mode_begins_with_paging_and_a_64_bit_segment)
{
    r->cs.cr0 = CR0_PE | CR0_ET;
    r->cs.efer = EFER_LME;
    r->cs.seg[SEG_CS] = rig_seg(S_CODE32, 0xc09b, 0, UINT32_MAX);
    RIG_PUT(r, TARGET, 0x48, 0xff, 0xc0); /* inc rax */
    r->cs.gpr[REG_RAX] = CR0_PE | CR0_PG;
    RIG_RUN(r, 1, 0x0f, 0x22, 0xc0, 0xea, 0, TARGET >> 8, 0, 0, S_CODE64, 0);
    assert_int_equal(r->cs.efer, EFER_LME | EFER_LMA);
    r->cs.gpr[REG_RAX] = UINT32_MAX;
    rig_run(r, 2);
    assert_int_equal(r->cs.gpr[REG_RAX], 0x100000000);
}

TEST_WITH(s_protected, long_mode_without_pae_is_gp)
{
    r->cs.efer = EFER_LME;
    r->cs.gpr[REG_RAX] = CR0_PE | CR0_PG;
    RIG_RUN(r, 8, 0x0f, 0x22, 0xc0);
    assert_int_equal(s_vector(r), VEC_GP);
    assert_int_equal(r->cs.efer, EFER_LME);
}

TEST(pae_paging_checks_its_top_entries)
{
    static const uint64_t entries[] = {RIG_DATA | 1, RIG_DATA | 3};

    for (unsigned n = 0; n < ARRAY_LEN(entries); n++) {
        struct rig *r = s_protected();

        rig_put64(r, RIG_TABLES, (RIG_TABLES + 0x1000) | 1);
        rig_put64(r, RIG_TABLES + 0x1000, 0x83);
        rig_put64(r, RIG_TABLES + 24, entries[n]);
        r->cs.cr4 = CR4_PAE;
        r->cs.cr3 = RIG_TABLES;
        r->cs.gpr[REG_RAX] = CR0_PE | CR0_PG;
        RIG_RUN(r, 8, 0x0f, 0x22, 0xc0, 0x0f, 0x0b);
        assert_int_equal(s_vector(r), n ? VEC_GP : VEC_UD);
        assert_int_equal(!!(r->cs.cr0 & CR0_PG), !n);
        rig_free(r);
    }
}

/* ---- SYSCALL and its kin ---- */

TEST_WITH(s_long, syscall_sets_the_registers_of_the_manual)
{
    s_user(r);
    r->cs.efer |= EFER_SCE;
    r->cs.star = 0x0038ull << 32;
    r->cs.lstar = TARGET;
    r->cs.sfmask = RFLAGS_IF | RFLAGS_DF;
    r->cs.rflags |= RFLAGS_IF | RFLAGS_DF | RFLAGS_CF;
    RIG_RUN(r, 1, 0x0f, 0x05);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RCX], RIG_CODE + 2);
    assert_int_equal(r->cs.gpr[11], RFLAGS_ONE | RFLAGS_IF | RFLAGS_DF | RFLAGS_CF);
    assert_int_equal(r->cs.rflags, RFLAGS_ONE | RFLAGS_CF);
    assert_int_equal(r->cs.seg[SEG_CS].selector, 0x38);
    assert_int_equal(r->cs.seg[SEG_CS].attr, 0xa09b);
    assert_int_equal(r->cs.seg[SEG_SS].selector, 0x40);
    assert_int_equal(r->cs.seg[SEG_SS].attr, 0xc093);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK3);
}

TEST_WITH(s_long, syscall_without_sce_is_undefined)
{
    RIG_RUN(r, 8, 0x0f, 0x05);
    assert_int_equal(s_vector(r), VEC_UD);
}

TEST(sysret_returns_to_64_and_32_bit_code)
{
    static const uint8_t code[][3] = {{0x48, 0x0f, 0x07}, {0x0f, 0x07, 0x90}};
    static const uint16_t cs[] = {0x3b, 0x2b}, attr[] = {0xa0fb, 0xc0fb};

    for (unsigned n = 0; n < 2; n++) {
        struct rig *r = s_long();

        r->cs.efer |= EFER_SCE;
        r->cs.star = 0x002bull << 48;
        r->cs.gpr[REG_RCX] = TARGET;
        r->cs.gpr[REG_RSP] = 0x1234567800000000 | S_STACK3;
        r->cs.gpr[11] = 0xffffffffffffffff;
        rig_write(r, RIG_CODE, code[n], 3);
        r->cs.rflags &= ~RFLAGS_TF;
        r->cs.gpr[11] &= ~RFLAGS_TF;
        rig_run(r, 1);
        assert_int_equal(r->cs.rip, TARGET);
        assert_int_equal(r->cs.rflags, (0x3c7fd7 & ~RFLAGS_TF) | RFLAGS_ONE);
        assert_int_equal(r->cs.seg[SEG_CS].selector, cs[n]);
        assert_int_equal(r->cs.seg[SEG_CS].attr, attr[n]);
        assert_int_equal(r->cs.seg[SEG_SS].selector, 0x33);
        assert_int_equal(r->cs.seg[SEG_SS].attr, 0xc0f3);
        /* The stack is the program's to change. */
        assert_int_equal(r->cs.gpr[REG_RSP], 0x1234567800000000 | S_STACK3);
        rig_free(r);
    }
}

TEST(sysret_to_a_non_canonical_address_follows_the_vendor)
{
    static const enum cpu_vendor vendors[] = {CPU_INTEL, CPU_AMD};

    for (unsigned n = 0; n < ARRAY_LEN(vendors); n++) {
        struct rig *r = s_long();

        r->model.vendor = vendors[n];
        r->cs.efer |= EFER_SCE;
        r->cs.star = 0x002bull << 48;
        r->cs.gpr[REG_RCX] = 0x800000000000;
        r->cs.gpr[11] = 2;
        RIG_RUN(r, 8, 0x48, 0x0f, 0x07);
        assert_int_equal(s_vector(r), VEC_GP);
        assert_int_equal(s_frame(r, 1), n ? 0x800000000000 : RIG_CODE);
        assert_int_equal(s_frame(r, 2), n ? 0x3b : S_CODE64);
        rig_free(r);
    }
}

TEST_WITH(s_protected, sysenter_and_sysexit_use_their_msrs)
{
    s_user(r);
    r->cs.sysenter_cs = S_CODE32;
    r->cs.sysenter_esp = RIG_STACK;
    r->cs.sysenter_eip = TARGET;
    r->cs.rflags |= RFLAGS_IF;
    RIG_PUT(r, TARGET, 0x0f, 0x35);
    RIG_RUN(r, 1, 0x0f, 0x34);
    assert_int_equal(r->cs.rip, TARGET);
    assert_int_equal(r->cs.gpr[REG_RSP], RIG_STACK);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA);
    assert_int_equal(r->cs.rflags & RFLAGS_IF, 0);
    r->cs.gpr[REG_RCX] = S_STACK3;
    r->cs.gpr[REG_RDX] = RIG_CODE + 2;
    rig_run(r, 1);
    assert_int_equal(r->cs.rip, RIG_CODE + 2);
    assert_int_equal(r->cs.gpr[REG_RSP], S_STACK3);
    assert_int_equal(r->cs.seg[SEG_CS].selector, S_CODE32_3);
    assert_int_equal(r->cs.seg[SEG_SS].selector, S_DATA_3);
}

TEST_WITH(s_protected, sysenter_without_its_msr_is_gp)
{
    RIG_RUN(r, 8, 0x0f, 0x34);
    assert_int_equal(s_vector(r), VEC_GP);
}

TEST_WITH(s_long, swapgs_exchanges_the_bases)
{
    r->cs.seg[SEG_GS].base = 1;
    r->cs.kernel_gs_base = 2;
    RIG_RUN(r, 1, 0x0f, 0x01, 0xf8);
    assert_int_equal(r->cs.seg[SEG_GS].base, 2);
    assert_int_equal(r->cs.kernel_gs_base, 1);
}

/* ---- descriptor tables ---- */

TEST_WITH(s_protected, lgdt_of_16_bits_cuts_the_base)
{
    rig_put64(r, RIG_DATA, 0x123456780123);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 2, 0x66, 0x0f, 0x01, 0x13, 0x0f, 0x01, 0x03); /* o16 lgdt [ebx]; sgdt [ebx] */
    assert_int_equal(r->cs.gdtr.base, 0x345678);
    assert_int_equal(r->cs.gdtr.limit, 0x123);
    assert_int_equal(rig_get(r, RIG_DATA, 8), 0x003456780123);
}

TEST_WITH(s_long, lgdt_of_a_non_canonical_base_is_gp)
{
    rig_put64(r, RIG_DATA, 0x123);
    rig_put64(r, RIG_DATA + 2, 0x800000000000);
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 8, 0x0f, 0x01, 0x13);
    assert_int_equal(s_vector(r), VEC_GP);
}

TEST_WITH(s_protected, ltr_marks_the_task_busy)
{
    r->cs.gpr[REG_RAX] = S_TSS2_SEL;
    RIG_RUN(r, 1, 0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xd8);
    assert_int_equal(r->cs.tr.base, S_TSS2);
    assert_int_equal(r->cs.tr.attr, 0x8b);
    assert_int_equal(rig_get(r, S_GDT + S_TSS2_SEL + 5, 1), 0x8b);
    rig_run(r, 8);
    TOOK(r, VEC_GP, S_TSS2_SEL);
}

TEST_WITH(s_long, long_mode_lldt_takes_16_bytes)
{
    s_gdt(r, S_LDT_SEL + 8, 0xffff8000);
    r->cs.gpr[REG_RAX] = S_LDT_SEL;
    RIG_RUN(r, 1, 0x0f, 0x00, 0xd0);
    assert_int_equal(r->cs.ldtr.base, 0xffff800000000000 | S_LDT);
}

TEST_WITH(rig_new_real, lldt_in_real_mode_is_undefined)
{
    RIG_RUN(r, 1, 0x0f, 0x00, 0xd0);
    assert_int_equal(rig_exception(r), VEC_UD);
}

/* ---- debug registers ---- */

TEST_WITH(s_protected, dr4_is_dr6_unless_de_is_set)
{
    RIG_RUN(r, 1, 0x0f, 0x21, 0xe0, 0x0f, 0x21, 0xe0); /* mov eax,dr4 */
    assert_int_equal(r->cs.gpr[REG_RAX], 0xffff0ff0);
    r->cs.cr4 |= CR4_DE;
    rig_run(r, 8);
    assert_int_equal(s_vector(r), VEC_UD);
}

TEST_WITH(s_protected, general_detect_faults_and_is_cleared)
{
    r->cs.dr7 |= BIT(13);
    RIG_RUN(r, 8, 0x0f, 0x21, 0xf8); /* mov eax,dr7 */
    TOOK(r, VEC_DB, RIG_CODE);
    assert_true(s_frame(r, 2) & RFLAGS_RF);
    assert_int_equal(r->cs.dr6, 0xffff2ff0);
    assert_int_equal(r->cs.dr7, 0x400);
}

/* ---- flags ---- */

TEST(popf_changes_what_the_privilege_allows)
{
    struct rig *r = s_protected();

    rig_put64(r, RIG_STACK, 0xffffffff & ~(RFLAGS_TF | RFLAGS_NT));
    RIG_RUN(r, 2, 0x9d, 0x9c); /* popf; pushf */
    assert_int_equal(s_frame(r, 0), RFLAGS_ARITH | RFLAGS_ONE | RFLAGS_IF | RFLAGS_DF |
                                        RFLAGS_IOPL | RFLAGS_AC | RFLAGS_ID);
    rig_free(r);

    r = s_protected();
    s_user(r);
    rig_put64(r, S_STACK3, 0xffffffff & ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_AC));
    RIG_RUN(r, 2, 0x9d, 0x9c);
    assert_int_equal(s_frame(r, 0), RFLAGS_ARITH | RFLAGS_ONE | RFLAGS_DF | RFLAGS_ID);
    rig_free(r);
}

TEST_WITH(s_protected, vme_shows_vif_as_if)
{
    s_v86(r);
    r->cs.cr4 |= CR4_VME;
    RIG_RUN(r, 2, 0xfb, 0x9c, 0xfa); /* sti; pushf; cli */
    assert_true(r->cs.rflags & RFLAGS_VIF);
    assert_false(r->cs.rflags & RFLAGS_IF);
    assert_int_equal(rig_get(r, 0xf000 - 2, 2), RFLAGS_ONE | RFLAGS_IF | RFLAGS_IOPL);
    rig_run(r, 1);
    assert_false(r->cs.rflags & RFLAGS_VIF);
}

TEST_WITH(s_protected, sti_with_vip_is_gp)
{
    s_v86(r);
    r->cs.cr4 |= CR4_VME;
    r->cs.rflags |= RFLAGS_VIP;
    RIG_RUN(r, 8, 0xfb);
    assert_int_equal(s_vector(r), VEC_GP);
}

/* ---- the rest ---- */

TEST_WITH(s_protected, unknown_msr_is_gp_0)
{
    r->cs.gpr[REG_RCX] = 0xdeadbeef;
    RIG_RUN(r, 8, 0x0f, 0x32);
    TOOK(r, VEC_GP, 0);
}

TEST(xsetbv_refuses_impossible_sets)
{
    static const uint32_t bad[] = {0, 2, 5, 0x80000001};

    for (unsigned n = 0; n < ARRAY_LEN(bad); n++) {
        struct rig *r = s_protected();

        r->cs.cr4 |= CR4_OSXSAVE;
        r->cs.gpr[REG_RAX] = bad[n];
        r->cs.gpr[REG_RCX] = 0;
        r->cs.gpr[REG_RDX] = 0;
        RIG_RUN(r, 8, 0x0f, 0x01, 0xd1);
        assert_int_equal(s_vector(r), VEC_GP);
        rig_free(r);
    }
}

TEST_WITH(s_long, hypercall_is_answered_with_enosys)
{
    RIG_RUN(r, 1, 0x0f, 0x01, 0xc1);
    assert_int_equal(r->cs.gpr[REG_RAX], (uint64_t)-1000);
}

TEST(rdrand_repeats_with_a_virtual_clock)
{
    uint64_t v[2];

    for (unsigned n = 0; n < 2; n++) {
        struct rig *r = s_long();

        RIG_RUN(r, 1, 0x48, 0x0f, 0xc7, 0xf0);
        assert_int_equal(r->cs.rflags & RFLAGS_ARITH, RFLAGS_CF);
        v[n] = r->cs.gpr[REG_RAX];
        rig_free(r);
    }
    assert_int_equal(v[0], v[1]);
}

TEST_WITH(s_protected, rdtsc_in_user_mode_obeys_tsd)
{
    s_user(r);
    r->cs.tsc_offset = 0x500000000;
    RIG_RUN(r, 1, 0x0f, 0x31, 0x0f, 0x31);
    assert_int_equal(r->cs.gpr[REG_RDX], 5);
    r->cs.cr4 |= CR4_TSD;
    rig_run(r, 8);
    assert_int_equal(s_vector(r), VEC_GP);
}

TEST_WITH(s_long, invlpg_of_a_non_canonical_address_does_nothing)
{
    r->cs.gpr[REG_RBX] = 0x800000000000;
    RIG_RUN(r, 1, 0x0f, 0x01, 0x3b);
    assert_int_equal(r->cs.rip, RIG_CODE + 3);
}

TEST(invlpg_on_a_32_bit_cpu_drops_a_high_page)
{
    struct rig *r = rig_new_model("pentium3");
    const uint32_t dir = RIG_TABLES, table = RIG_TABLES + PAGE_SIZE, high = 0xffc00000;

    rig_put64(r, dir, 0x83); /* 4 MiB, to itself */
    rig_put64(r, dir + 0x3ff * 4 - 4, (uint64_t)(table | 3) << 32);
    rig_put64(r, table, RIG_DATA | 3);
    rig_put64(r, RIG_DATA, 1);
    rig_put64(r, RIG_DATA + PAGE_SIZE, 2);
    r->cs.cr3 = dir;
    r->cs.cr4 = CR4_PSE;
    r->cs.cr0 |= CR0_PG;
    /* mov eax,[ebx]; mov [esi],edi; invlpg [ebx]; mov ecx,[ebx] */
    r->cs.gpr[REG_RBX] = high;
    r->cs.gpr[REG_RSI] = table;
    r->cs.gpr[REG_RDI] = (RIG_DATA + PAGE_SIZE) | 3;
    RIG_RUN(r, 4, 0x8b, 0x03, 0x89, 0x3e, 0x0f, 0x01, 0x3b, 0x8b, 0x0b);
    assert_int_equal(r->cs.gpr[REG_RAX], 1);
    assert_int_equal(r->cs.gpr[REG_RCX], 2);
    rig_free(r);
}

TEST_WITH(s_long, invpcid_of_an_unknown_type_is_gp)
{
    r->cs.gpr[REG_RAX] = 4;
    r->cs.gpr[REG_RBX] = RIG_DATA;
    RIG_RUN(r, 8, 0x66, 0x0f, 0x38, 0x82, 0x03); /* invpcid rax,[rbx] */
    assert_int_equal(s_vector(r), VEC_GP);
}
