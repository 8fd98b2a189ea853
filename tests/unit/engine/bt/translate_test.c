/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the translator once did differently from processors, found by hostdiff and translate_fuzz.
 * Each test runs code on the interpreter and, translated at once, on the translator.
 */
#define FIXTURE struct both *b
#include "tests/lib/unit.h"

#include "tests/unit/engine/interp/rig.h"

#include "base/bytes.h"
#include "engine/bt/bt.h"
#include "engine/interp/thunk_int.h"

#define ABSENT 0x400000u /* the end of RAM; not mapped */

struct both {
    struct rig *r[2];
};

static struct both *setup(void)
{
    struct both *b = calloc(1, sizeof(*b));

    for (unsigned k = 0; k < 2; k++) {
        b->r[k] = rig_new_engine("max", k ? &engine_bt : &engine_interp, CLOCK_MANUAL);
        rig_long(b->r[k]);
        rig_put64(b->r[k], RIG_TABLES + 0x2000 + 2 * 8, 0);
    }
    bt_of(interp_of(b->r[1]->vcpu))->bt->warm = 1;
    return b;
}

static void teardown(struct both *b)
{
    rig_free(b->r[0]);
    rig_free(b->r[1]);
    free(b);
}

static void set(struct both *b, unsigned reg, uint64_t value)
{
    b->r[0]->cs.gpr[reg] = b->r[1]->cs.gpr[reg] = value;
}

static void put64(struct both *b, gpa_t gpa, uint64_t value)
{
    rig_put64(b->r[0], gpa, value);
    rig_put64(b->r[1], gpa, value);
}

/* Runs the code, then HLT. Returns the vector of the first exception, 0xff: none; *addr: CR2. */
static unsigned run(struct both *b, const uint8_t *code, size_t len, uint64_t *addr)
{
    const struct interp *c;

    for (unsigned k = 0; k < 2; k++) {
        struct rig *r = b->r[k];
        gpa_t at = r->cs.rip & PAGE_MASK ? RIG_CODE + (r->cs.rip & PAGE_MASK) : r->cs.rip;

        rig_write(r, at, code, len);
        rig_write(r, at + len, "\xf4", 1);
        rig_run(r, UINT64_MAX);
    }
    assert_memory_equal(b->r[0]->cs.gpr, b->r[1]->cs.gpr, sizeof(b->r[0]->cs.gpr));
    assert_int_equal(b->r[0]->cs.rip, b->r[1]->cs.rip);
    assert_int_equal(b->r[0]->stop, b->r[1]->stop);
    assert_memory_equal(&b->r[0]->cs.fpu, &b->r[1]->cs.fpu, sizeof(struct cpu_fpu));
    assert_int_equal(rig_exception(b->r[0]), rig_exception(b->r[1]));
    c = b->r[1]->vcpu->engine;
    assert_int_equal(c->last_exc[0].rip, interp_of(b->r[0]->vcpu)->last_exc[0].rip);
    if (addr)
        *addr = c->last_exc[0].cr2;
    return rig_exception(b->r[1]);
}

#define RUN(addr, ...) \
    run(b, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), addr)

TEST_F(bit_operation_with_a_constant_touches_the_whole_operand)
{
    uint64_t addr;

    set(b, REG_RDX, ABSENT - 7);
    assert_int_equal(RUN(&addr, 0x48, 0x0f, 0xba, 0x3a, 0x8f), VEC_PF); /* btc qword [rdx], 143 */
    assert_int_equal(addr, ABSENT);
}

/* As another vCPU may do between its store and the block's death: the engine is not told. */
TEST_F(block_is_left_where_another_instruction_has_been_written)
{
    /* push rax; pop rax; jmp 1f; 1: the same; test rdi, rdi; jz 2f; cpuid; push rbp; pop rbp; 2: */
    const uint8_t code[] = {0x50, 0x58, 0xeb, 0x00, 0x50, 0x58, 0x48, 0x85,
                            0xff, 0x74, 0x04, 0x0f, 0xa2, 0x55, 0x5d};
    const uint64_t rip = b->r[0]->cs.rip;

    set(b, REG_RDI, 0);
    assert_int_equal(run(b, code, sizeof(code), NULL), 0xff);
    for (unsigned k = 0; k < 2; k++) {
        uint8_t *page = mem_page(&b->r[k]->vm, RIG_CODE, true, NULL);

        memcpy(page + (rip & PAGE_MASK) + 11, "\x31\xe4", 2); /* xor esp, esp */
        b->r[k]->cs.rip = rip;
        b->r[k]->cs.activity = CPU_RUNNING;
        b->r[k]->cs.gpr[REG_RDI] = 1;
        rig_run(b->r[k], UINT64_MAX);
        assert_int_equal(rig_exception(b->r[k]), VEC_PF);
    }
    assert_memory_equal(b->r[0]->cs.gpr, b->r[1]->cs.gpr, sizeof(b->r[0]->cs.gpr));
}

TEST_F(bsf_of_nothing_keeps_its_register)
{
    for (unsigned reg = 12; reg < 16; reg++)
        set(b, reg, 0x1234567890 + reg);
    set(b, REG_RDI, 0);
    /* bsf r13, rdi; bsr r14, rdi; bsf r15, rdi; bsf r12, rdi */
    assert_int_equal(RUN(NULL, 0x4c, 0x0f, 0xbc, 0xef, 0x4c, 0x0f, 0xbd, 0xf7, 0x4c, 0x0f, 0xbc,
                         0xff, 0x4c, 0x0f, 0xbc, 0xe7),
                     0xff);
    for (unsigned reg = 12; reg < 16; reg++)
        assert_int_equal(b->r[1]->cs.gpr[reg], 0x1234567890 + reg);
}

TEST_F(conversion_of_memory_rounds_as_the_guest_says)
{
    b->r[0]->cs.fpu.mxcsr = b->r[1]->cs.fpu.mxcsr = 0x1f80 | 2 << 13; /* up */
    put64(b, RIG_DATA, 0x3ff4000000000000);                           /* 1.25 */
    set(b, REG_RBX, RIG_DATA);
    assert_int_equal(RUN(NULL, 0xf2, 0x48, 0x0f, 0x2d, 0x03), 0xff); /* cvtsd2si rax, [rbx] */
    assert_int_equal(b->r[1]->cs.gpr[REG_RAX], 2);
    assert_int_equal(b->r[1]->cs.fpu.mxcsr & 0x3f, 0x20);
}

TEST_F(misaligned_operand_faults_before_its_absent_page)
{
    set(b, REG_RBX, ABSENT + 8);
    assert_int_equal(RUN(NULL, 0x0f, 0x58, 0x03), VEC_GP); /* addps xmm0, [rbx] */
}

TEST_F(call_whose_return_address_overwrites_its_target_still_faults)
{
    set(b, REG_RSI, RIG_STACK);
    set(b, REG_RSP, RIG_STACK + 9);
    put64(b, RIG_STACK, BIT(63));
    assert_int_equal(RUN(NULL, 0xff, 0x16), VEC_GP); /* call [rsi] */
    assert_int_equal(b->r[1]->cs.gpr[REG_RSP], RIG_STACK + 9);
}

TEST_F(exact_flags_are_what_a_fault_shows)
{
    const uint64_t arithmetic =
        RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF;

    b->r[1]->vm.engine_options.exact_flags = true;
    set(b, REG_RBX, ABSENT);
    set(b, REG_RAX, 0x7fffffff);
    /* add eax, 1; mov ecx, [rbx]; xor edx, edx */
    assert_int_equal(RUN(NULL, 0x83, 0xc0, 0x01, 0x8b, 0x0b, 0x31, 0xd2), VEC_PF);
    assert_int_equal(b->r[1]->cs.rflags & arithmetic,
                     RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF);
    assert_int_equal(b->r[0]->cs.rflags & arithmetic, b->r[1]->cs.rflags & arithmetic);
}

TEST_F(accesses_two_gigabytes_apart_are_checked_each)
{
    uint64_t addr;

    set(b, REG_RBX, RIG_DATA + 0x72b480b3);
    put64(b, RIG_DATA, 0x5555);
    /* mov eax, [rbx - 0x72b480b3]; mov ecx, [rbx + 0x62000000] */
    assert_int_equal(
        RUN(&addr, 0x8b, 0x83, 0x4d, 0x7f, 0x4b, 0x8d, 0x8b, 0x8b, 0x00, 0x00, 0x00, 0x62), VEC_PF);
    assert_int_equal(addr, RIG_DATA + 0x72b480b3ull + 0x62000000);
    assert_int_equal(b->r[1]->cs.gpr[REG_RAX], 0x5555);
}

TEST_F(stack_accesses_two_gigabytes_apart_are_checked_each)
{
    uint64_t addr;

    set(b, REG_RSP, RIG_STACK + 0x72b480b3);
    /* mov eax, [rsp - 0x72b480b3]; mov ecx, [rsp + 0x62000000] */
    assert_int_equal(RUN(&addr, 0x8b, 0x84, 0x24, 0x4d, 0x7f, 0x4b, 0x8d, 0x8b, 0x8c, 0x24, 0x00,
                         0x00, 0x00, 0x62),
                     VEC_PF);
    assert_int_equal(addr, RIG_STACK + 0x72b480b3ull + 0x62000000);
}

TEST_F(branch_out_of_the_canonical_addresses_faults_where_it_is)
{
    const gva_t top = BIT(47) - PAGE_SIZE;

    put64(b, RIG_TABLES + 255 * 8, (RIG_TABLES + 0x4000) | 7);
    put64(b, RIG_TABLES + 0x4000 + 511 * 8, (RIG_TABLES + 0x5000) | 7);
    put64(b, RIG_TABLES + 0x5000 + 511 * 8, (RIG_TABLES + 0x6000) | 7);
    put64(b, RIG_TABLES + 0x6000 + 511 * 8, RIG_CODE | 7);
    b->r[0]->cs.rip = b->r[1]->cs.rip = top + 0xff0;
    assert_int_equal(RUN(NULL, 0xe8, 0x7f, 0, 0, 0), VEC_GP); /* call +127 */
    assert_int_equal(interp_of(b->r[1]->vcpu)->last_exc[0].rip, top + 0xff0);
}

TEST_F(repeated_prefixes_do_not_make_an_instruction_too_long)
{
    set(b, REG_RAX, RIG_DATA);
    set(b, REG_RBX, 3);
    /* lock, 12 times; add [rax], rbx */
    assert_int_equal(RUN(NULL, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0, 0xf0,
                         0xf0, 0x48, 0x01, 0x18),
                     0xff);
    assert_int_equal(rig_get(b->r[1], RIG_DATA, 8), 3);
}

TEST_F(block_of_nothing_but_string_moves_fits)
{
    uint8_t code[96];

    for (size_t k = 0; k < sizeof(code); k += 2)
        put_le16(code + k, 0xa4f3);
    set(b, REG_RSI, RIG_DATA);
    set(b, REG_RDI, RIG_DATA + 0x800);
    set(b, REG_RCX, 16);
    assert_int_equal(run(b, code, sizeof(code), NULL), 0xff);
}

/* 16- or 32-bit compatibility code, in flat segments. */
static void compatibility(struct both *b, bool code32)
{
    for (unsigned k = 0; k < 2; k++)
        b->r[k]->cs.seg[SEG_CS].attr = SEG_ATTR_G | (code32 ? SEG_ATTR_DB : 0) | 0x9b;
}

TEST_F(jump_out_of_16_bit_code_is_not_fetched)
{
    uint64_t addr = 0;

    compatibility(b, false);
    assert_int_equal(RUN(&addr, 0x66, 0xe9, 0x16, 0x10, 0x0f, 0x88), VEC_GP);
    assert_int_equal(addr, 0);
}

TEST_F(vzeroupper_of_32_bit_code_leaves_half_of_the_registers_alone)
{
    compatibility(b, true);
    for (unsigned k = 0; k < 2; k++) {
        struct cpu_state *cs = &b->r[k]->cs;

        cs->cr4 |= CR4_OSXSAVE | CR4_OSXMMEXCPT;
        cs->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
        for (unsigned n = 0; n < 16; n++)
            memset(cs->fpu.zmm[n], 0x11 * (int)n, 32);
    }
    assert_int_equal(RUN(NULL, 0xc5, 0xf8, 0x77), 0xff);
    assert_int_equal(get_le64(b->r[1]->cs.fpu.zmm[7] + 16), 0);
    assert_int_equal(get_le64(b->r[1]->cs.fpu.zmm[8] + 16), 0x8888888888888888);
}

TEST_F(address_that_wraps_is_not_what_64_bit_code_sees_there)
{
    compatibility(b, true);
    set(b, REG_RBX, UINT32_MAX);
    put64(b, RIG_DATA, 0x1234);
    /* mov eax, [ebx + RIG_DATA + 1] */
    assert_int_equal(RUN(NULL, 0x8b, 0x83, 1, 0, 2, 0), 0xff);
    assert_int_equal(b->r[1]->cs.gpr[REG_RAX], 0x1234);
}

TEST_F(stack_wraps_at_4_gib)
{
    compatibility(b, true); /* push eax, at 0: 4 GiB - 4 is not mapped */
    set(b, REG_RSP, 0);
    assert_int_equal(RUN(NULL, 0x50), VEC_PF);
}

TEST_F(branch_in_one_mode_too_many_has_a_table)
{
    struct bt_vcpu *v = bt_of(interp_of(b->r[1]->vcpu));

    for (unsigned k = 0; k < 2; k++)
        b->r[k]->cs.cr4 |= CR4_SMAP;
    assert_int_equal(RUN(NULL, 0x90), 0xff);
    for (unsigned i = v->bt->nmodes; i < BT_MODE_LIST; i++)
        v->bt->modes[i].key = BIT(62) + i;
    v->bt->nmodes = BT_MODE_LIST;
    for (unsigned k = 0; k < 2; k++) {
        b->r[k]->cs.rip = RIG_CODE + 0x100;
        b->r[k]->cs.activity = CPU_RUNNING;
    }
    set(b, REG_RAX, RIG_CODE + 0x105);
    /* stac; jmp rax; rax: clac */
    assert_int_equal(RUN(NULL, 0x0f, 0x01, 0xcb, 0xff, 0xe0, 0x0f, 0x01, 0xca), 0xff);
    assert_true(v->bt->nmodes < BT_MODE_LIST);
}

TEST_F(flags_pushed_among_others_on_two_pages_stay_on_the_stack)
{
    set(b, REG_RSP, RIG_STACK + 0x18);
    set(b, REG_RAX, 0x1111);
    set(b, REG_RBX, 0x2222);
    set(b, REG_RCX, 0x3333);
    set(b, REG_RDX, RIG_STACK);
    /* mov [rdx], rax; mov [rdx - 8], rax; jmp; push rax; pushfq; push rbx; push rcx */
    assert_int_equal(
        RUN(NULL, 0x48, 0x89, 0x02, 0x48, 0x89, 0x42, 0xf8, 0xeb, 0x00, 0x50, 0x9c, 0x53, 0x51),
        0xff);
    for (unsigned at = 0; at < 0x20; at += 8)
        assert_int_equal(rig_get(b->r[1], RIG_STACK - 8 + at, 8),
                         rig_get(b->r[0], RIG_STACK - 8 + at, 8));
}

/* 32-bit code without paging. */
static void unpaged(struct both *b)
{
    for (unsigned k = 0; k < 2; k++)
        rig_protected(b->r[k], true);
}

TEST_F(memory_at_another_distance_from_the_hosts_is_read_there)
{
    struct region moved[2];

    unpaged(b);
    put64(b, 0x40000, 0x1111);
    for (unsigned k = 0; k < 2; k++) {
        moved[k] = (struct region){.name = "moved",
                                   .kind = REGION_RAM,
                                   .size = 0x10000,
                                   .priority = REGION_PRIO_OVERLAY,
                                   .ram_offset = 0x300000};
        vm_lock(&b->r[k]->vm);
        bus_map(&b->r[k]->vm.memory, &moved[k], 0x40000);
        vm_unlock(&b->r[k]->vm);
    }
    put64(b, 0x3fff8, 0x5555555544444444);
    put64(b, 0x40000, 0x2222);
    set(b, REG_RBX, 0x3fff8);
    /* mov eax, [ebx]; mov ecx, [ebx + 8]; mov edx, [ebx + 6] */
    assert_int_equal(RUN(NULL, 0x8b, 0x03, 0x8b, 0x4b, 0x08, 0x8b, 0x53, 0x06), 0xff);
    assert_int_equal(b->r[1]->cs.gpr[REG_RAX], 0x44444444);
    assert_int_equal(b->r[1]->cs.gpr[REG_RCX], 0x2222);
    assert_int_equal(b->r[1]->cs.gpr[REG_RDX], 0x22225555);
    for (unsigned k = 0; k < 2; k++) {
        vm_lock(&b->r[k]->vm);
        bus_unmap(&moved[k]);
        vm_unlock(&b->r[k]->vm);
    }
}

/*
 * mov [rsp - 16], rcx; push rcx; mov rax, [rbx]; mov rdx, [rbx + 8]; pop rcx; pop rsi; hlt. First
 * all but the beginning of it in one page, then all but the beginning alone in two: the block of
 * the rest that was made for want of a shared check has a window, though it comes from one with two
 * pages.
 */
TEST_F(block_without_a_window_does_not_come_back_to_itself)
{
    static const uint8_t code[] = {0x48, 0x89, 0x4c, 0x24, 0xf0, 0x51, 0x48, 0x8b,
                                   0x03, 0x48, 0x8b, 0x53, 0x08, 0x59, 0x5e, 0xf4};
    /* mov [r8], rcx; mov [r9], rcx; jmp r10 */
    static const uint8_t before[] = {0x49, 0x89, 0x08, 0x49, 0x89, 0x09, 0x41, 0xff, 0xe2};
    static const struct {
        gva_t at, rsp;
    } runs[] = {{RIG_CODE, RIG_STACK + 8},
                {RIG_CODE, RIG_STACK + 8},
                {RIG_CODE + 6, RIG_STACK - 8},
                {RIG_CODE + 6, RIG_STACK - 8}};

    for (unsigned n = 0; n < ARRAY_LEN(runs); n++)
        for (unsigned k = 0; k < 2; k++) {
            struct rig *r = b->r[k];

            if (n == 0) {
                rig_write(r, RIG_CODE, code, sizeof(code));
                rig_write(r, RIG_CODE + 0x100, before, sizeof(before));
            }
            r->cs.rip = RIG_CODE + 0x100;
            r->cs.gpr[8] = RIG_STACK - 64;
            r->cs.gpr[9] = RIG_STACK + 64;
            r->cs.gpr[10] = runs[n].at;
            r->cs.activity = CPU_RUNNING;
            r->cs.gpr[REG_RBX] = RIG_DATA + PAGE_SIZE - 8;
            r->cs.gpr[REG_RSP] = runs[n].rsp;
            rig_run(r, UINT64_MAX);
            assert_int_equal(r->cs.rip, RIG_CODE + sizeof(code));
        }
    assert_memory_equal(b->r[0]->cs.gpr, b->r[1]->cs.gpr, sizeof(b->r[0]->cs.gpr));
}

/* The second page has no tag when FDP is asked for. */
TEST_F(x87_operand_that_needs_no_tag_has_an_address)
{
    unpaged(b);
    set(b, REG_RBX, 0x40010);
    put64(b, 0x41010, 0x7ff0000000000001); /* a signalling NaN */
    for (unsigned k = 0; k < 2; k++) {
        b->r[k]->cs.fpu.fcw = 0x37e;
        b->r[k]->cs.fpu.ftw = 0; /* empty, which reset does not make them */
    }
    /* fld qword [ebx]; fld qword [ebx + 1000h] */
    assert_int_equal(RUN(NULL, 0xdd, 0x03, 0xdd, 0x83, 0x00, 0x10, 0x00, 0x00), 0xff);
    assert_int_equal(b->r[1]->cs.fpu.fdp, 0x41010);
}

TEST_F(stack_of_16_bits_is_on_the_pages_that_it_is_mapped_to)
{
    unpaged(b);
    put64(b, RIG_TABLES, (RIG_TABLES + 0x1000) | 7);
    for (unsigned i = 0; i < 1024; i += 2)
        put64(b, RIG_TABLES + 0x1000 + i * 4,
              (i << 12 | 7) | (uint64_t)((i == 0x30 ? 0x51 : i + 1) << 12 | 7) << 32);
    for (unsigned k = 0; k < 2; k++) {
        b->r[k]->cs.cr3 = RIG_TABLES;
        b->r[k]->cs.cr0 |= CR0_PG;
        b->r[k]->cs.seg[SEG_SS] = rig_seg(16, 0x93, 0x30050, 0xffff);
    }
    set(b, REG_RAX, 0x1111);
    set(b, REG_RBX, 0x2222);
    set(b, REG_RSP, 0x80);
    set(b, REG_RCX, 0x30000);
    set(b, REG_RDX, 0x31004);
    /* mov [ecx], eax; mov [edx], eax; jmp; push eax; jmp; mov esp, 0fb4h; push ebx */
    assert_int_equal(RUN(NULL, 0x89, 0x01, 0x89, 0x02, 0xeb, 0x00, 0x50, 0xeb, 0x00, 0xbc, 0xb4,
                         0x0f, 0x00, 0x00, 0xeb, 0x00, 0x53),
                     0xff);
    for (unsigned k = 0; k < 2; k++) {
        assert_int_equal(rig_get(b->r[k], 0x300cc, 4), 0x1111);
        assert_int_equal(rig_get(b->r[k], 0x51000, 4), 0x2222);
        assert_int_equal(rig_get(b->r[k], 0x31000, 4), 0);
    }
}

TEST_F(movsd_of_a_vector_register_is_no_string_where_there_is_no_room_for_its_thunk)
{
    struct thunks *ts = interp_of(b->r[1]->vcpu)->thunks;

    ts->code.used = ts->code.size;
    set(b, REG_RBX, RIG_DATA);
    set(b, REG_RSI, ABSENT);
    put64(b, RIG_DATA, 0x1234);
    /* movsd xmm0, [rbx]; movsd [rbx + 8], xmm0 */
    assert_int_equal(RUN(NULL, 0xf2, 0x0f, 0x10, 0x03, 0xf2, 0x0f, 0x11, 0x43, 0x08), 0xff);
    assert_int_equal(rig_get(b->r[1], RIG_DATA + 8, 8), 0x1234);
}

/* ---- code that changes ----------------------------------------------------------------------- */

/* As a device writes: the engine is told. Runs from there to HLT. */
static void run_written(struct both *b, gpa_t at, const uint8_t *code, size_t len)
{
    for (unsigned k = 0; k < 2; k++) {
        assert_true(mem_write(&b->r[k]->vm, at, code, len));
        b->r[k]->cs.rip = at;
        b->r[k]->cs.activity = CPU_RUNNING;
        rig_run(b->r[k], UINT64_MAX);
    }
    assert_memory_equal(b->r[0]->cs.gpr, b->r[1]->cs.gpr, sizeof(b->r[0]->cs.gpr));
    assert_int_equal(b->r[0]->cs.rip, b->r[1]->cs.rip);
    assert_int_equal(b->r[0]->stop, b->r[1]->stop);
}

/* What a translation has found out about the code that it goes to is not kept for too long. */
TEST_F(flags_that_changed_code_reads_are_kept)
{
    const gpa_t target = RIG_CODE + 0x100;
    /* cmp eax, ebx; mov [rdi], ecx; jmp target; hlt */
    uint8_t code[] = {0x39, 0xd8, 0x89, 0x0f, 0xe9, 0, 0, 0, 0, 0xf4};

    set(b, REG_RDI, RIG_DATA);
    set(b, REG_RAX, 1);
    set(b, REG_RBX, 2);
    for (unsigned k = 0; k < 40; k++) { /* xor edx, edx; hlt, or sbb */
        const uint8_t *to = (const uint8_t *)(k % 2 ? "\x19\xd2\xf4" : "\x31\xd2\xf4");
        gpa_t at = RIG_CODE + 0x40 + 2 * k;

        for (unsigned n = 0; n < 2; n++)
            assert_true(mem_write(&b->r[n]->vm, target, to, 3));
        code[5] = (uint8_t)(target - at - 9);
        run_written(b, at, code, sizeof(code));
        assert_int_equal(b->r[1]->cs.gpr[REG_RDX], k % 2 ? UINT32_MAX : 0);
    }
}

#define SECOND (RIG_CODE + PAGE_SIZE)

TEST_F(instructions_that_cross_a_page_change_with_either_half)
{
    const struct bt_vm *bt = bt_of(interp_of(b->r[1]->vcpu))->bt;
    unsigned crossing = 0;

    run_written(b, SECOND + 64, (const uint8_t[]){0x90, 0xf4}, 2); /* it has code */
    for (unsigned turn = 0; turn < 40; turn++) {
        /* mov ecx, 5; jmp over 0 or 1 of the next two, half of it behind the border; inc eax; inc
         * eax; dec ecx; jnz */
        const uint8_t jmp[] = {0xb9, 5,    0,    0,    0,    0xe9, turn / 10 % 2 ? 2 : 0,
                               0,    0,    0,    0xff, 0xc0, 0xff, 0xc0,
                               0xff, 0xc9, 0x75, 0xf3, 0xf4};
        /* mov ecx, 5; add eax, imm32, likewise; dec ecx; jnz */
        const uint8_t add[] = {0xb9, 5,    0,    0,    0,    0x05, 1, 0, (uint8_t)(turn / 10),
                               0,    0xff, 0xc9, 0x75, 0xf7, 0xf4};

        set(b, REG_RAX, 0);
        run_written(b, SECOND - 8, jmp, sizeof(jmp));
        assert_int_equal(b->r[1]->cs.gpr[REG_RAX], turn / 10 % 2 ? 5 : 10);
        set(b, REG_RAX, 0);
        run_written(b, SECOND + PAGE_SIZE - 8, add, sizeof(add));
        assert_int_equal(b->r[1]->cs.gpr[REG_RAX], 5 * (1 | turn / 10 << 16));
    }
    for (unsigned n = 0; n < bt->nblocks; n++)
        crossing += bt->blocks[n].page2 != BT_NONE;
    assert_true(crossing);
}

/* Where the stack's page ends in the middle of what a block touches, it goes on in another form of
 * it. */
TEST_F(code_with_its_stack_on_two_pages_changes)
{
    /* push rcx; push rax; nops; mov edx, n; pop rax; pop rcx; hlt */
    uint8_t code[80] = {0x51, 0x50};

    memset(code + 2, 0x90, sizeof(code) - 2);
    memcpy(code + 66, "\xba\0\0\0\0\x58\x59\xf4", 8);
    for (unsigned turn = 0; turn < 60; turn++) {
        set(b, REG_RSP, RIG_STACK + 8);
        code[67] = (uint8_t)(turn / 20);
        run_written(b, RIG_CODE, code, sizeof(code));
        assert_int_equal(b->r[1]->cs.gpr[REG_RDX], turn / 20);
    }
}

/* ---- code at several addresses --------------------------------------------------------------- */

#define ALIAS(n) (0x800000u + ((n) << 21)) /* RAM once more */

static void user(struct cpu_state *cs, uint64_t rip)
{
    cs->seg[SEG_CS].attr |= SEG_ATTR_DPL;
    cs->seg[SEG_SS].attr |= SEG_ATTR_DPL;
    cs->seg[SEG_CS].selector |= 3;
    cs->seg[SEG_SS].selector |= 3;
    cs->activity = CPU_RUNNING;
    cs->rip = rip;
}

/* What is translated for the second one runs anywhere. */
TEST_F(user_code_at_several_addresses_is_translated_for_two)
{
    /* mov ecx, 5; dec ecx; jnz; lea rax, [rip]; ud2 */
    static const uint8_t code[] = {0xb9, 5,    0,    0,    0, 0xff, 0xc9, 0x75, 0xfc,
                                   0x48, 0x8d, 0x05, 0,    0, 0,    0,    0x0f, 0x0b};
    const struct bt_vm *bt = bt_of(interp_of(b->r[1]->vcpu))->bt;
    uint64_t made[4];

    for (unsigned n = 0; n < 4; n++)
        put64(b, RIG_TABLES + 0x2000 + (4 + n) * 8, 0x87);
    for (unsigned n = 0; n < 4; n++) {
        for (unsigned k = 0; k < 2; k++) {
            user(&b->r[k]->cs, ALIAS(n) + RIG_CODE);
            if (n == 0)
                rig_write(b->r[k], RIG_CODE, code, sizeof(code));
            rig_run(b->r[k], UINT64_MAX);
            assert_int_equal(rig_exception(b->r[k]), VEC_UD);
            assert_int_equal(b->r[k]->cs.gpr[REG_RAX], ALIAS(n) + RIG_CODE + 16);
        }
        made[n] = bt->translated;
    }
    assert_true(made[1] > made[0]);
    assert_int_equal(made[3], made[1]);
}

/* A process that is there for long has blocks of its own all the same. */
TEST_F(user_code_of_a_process_that_stays_is_its_own)
{
    /* mov ecx, 5; dec ecx; jnz; ud2 */
    static const uint8_t code[] = {0xb9, 5, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x0b};
    struct bt_vcpu *v = bt_of(interp_of(b->r[1]->vcpu));
    uint64_t made = 0;

    for (unsigned n = 0; n < 3; n++)
        put64(b, RIG_TABLES + 0x2000 + (4 + n) * 8, 0x87);
    rig_write(b->r[1], RIG_CODE, code, sizeof(code));
    for (unsigned n = 0; n < 6; n++) {
        user(&b->r[1]->cs, ALIAS(n % 3) + RIG_CODE);
        if (n == 5) {
            made = v->bt->translated;
            v->settled = (b->r[1]->cs.gpr[REG_RSP] >> 21) + 1;
        }
        rig_run(b->r[1], UINT64_MAX);
    }
    assert_true(v->bt->translated > made);
    assert_false(block_anywhere(&v->bt->blocks[v->bt->nblocks - 1]));
}
