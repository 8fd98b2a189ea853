/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Integer arithmetic, moves and conversions. SDM vol. 2.
 *
 * The host's ALU computes results and flags, so that what the manual leaves undefined is what this
 * host does. Handlers are made by macros for each operation, operand size and form: rr register
 * from register, ri register from immediate, rm register from memory, mr memory from register, mi
 * memory from immediate. In all of them `reg` is the register that is written (or, in mr, the
 * source) and `rm` the other one.
 */
#include "engine/interp/int.h"

#include "engine/interp/sys.h"

/* ---- ADD OR ADC SBB AND SUB XOR CMP TEST ---- */

#define ALU_FN(z, name, insn, pre)                                                   \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, TYPE_##z b, uint32_t *flags)    \
    {                                                                                \
        uint32_t f = *flags;                                                         \
        __asm__(pre insn #z " %2,%0" FLAGS_SAVE : "+r"(a), "+a"(f) : "r"(b) : "cc"); \
        *flags = f;                                                                  \
        return a;                                                                    \
    }                                                                                \
    static inline void name##_lock_##z(void *p, TYPE_##z b, uint32_t *flags)         \
    {                                                                                \
        uint32_t f = *flags;                                                         \
        __asm__ volatile(pre "lock " insn #z " %2,%0" FLAGS_SAVE                     \
                         : "+m"(*(TYPE_##z *)p), "+a"(f)                             \
                         : "r"(b)                                                    \
                         : "cc", "memory");                                          \
        *flags = f;                                                                  \
    }
/* CMP and TEST write nothing but flags. */
#define ALU_TEST_FN(z, name, insn, pre)                                         \
    static inline void name##_fn_##z(TYPE_##z a, TYPE_##z b, uint32_t *flags)   \
    {                                                                           \
        uint32_t f;                                                             \
        __asm__(insn #z " %2,%1" FLAGS_SAVE : "=a"(f) : "r"(a), "r"(b) : "cc"); \
        *flags = f;                                                             \
    }

/* Full-width results of ADD and its like leave no old flag: no dependency on them. */
#define ALU_FN_FRESH(z, name, insn, pre)                                          \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, TYPE_##z b, uint32_t *flags) \
    {                                                                             \
        uint32_t f;                                                               \
        __asm__(insn #z " %2,%0" FLAGS_SAVE : "+r"(a), "=a"(f) : "r"(b) : "cc");  \
        *flags = f;                                                               \
        return a;                                                                 \
    }                                                                             \
    static inline void name##_lock_##z(void *p, TYPE_##z b, uint32_t *flags)      \
    {                                                                             \
        uint32_t f;                                                               \
        __asm__ volatile("lock " insn #z " %2,%0" FLAGS_SAVE                      \
                         : "+m"(*(TYPE_##z *)p), "=a"(f)                          \
                         : "r"(b)                                                 \
                         : "cc", "memory");                                       \
        *flags = f;                                                               \
    }

#define ALU_WRITES(z, name)                                                                   \
    static void name##_rr_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        SET_##z(i->reg, name##_fn_##z(GET_##z(i->reg), GET_##z(i->rm), &c->aflags));          \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static void name##_ri_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        SET_##z(i->reg, name##_fn_##z(GET_##z(i->reg), (TYPE_##z)i->imm, &c->aflags));        \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static void name##_rm_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        gva_t a;                                                                              \
        TYPE_##z v;                                                                           \
                                                                                              \
        BEGIN(c, i);                                                                          \
        a = insn_lin(c, i, BYTES_##z, ACCESS_READ);                                           \
        v = (TYPE_##z)access_load(c, a, BYTES_##z, c->key);                                   \
        SET_##z(i->reg, name##_fn_##z(GET_##z(i->reg), v, &c->aflags));                       \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static inline void name##_mem_##z(struct interp *c, const struct insn *i, TYPE_##z b)     \
    {                                                                                         \
        uint32_t f = c->aflags;                                                               \
        gva_t a;                                                                              \
        TYPE_##z v;                                                                           \
        void *p;                                                                              \
                                                                                              \
        BEGIN(c, i);                                                                          \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                          \
        p = rmw_host(c, a, BYTES_##z);                                                        \
        if (likely(p != NULL)) {                                                              \
            v = name##_fn_##z((TYPE_##z)host_load(p, BYTES_##z), b, &f);                      \
            host_store(p, BYTES_##z, v);                                                      \
        } else {                                                                              \
            v = name##_fn_##z((TYPE_##z)access_load(c, a, BYTES_##z, c->key), b, &f);         \
            access_store(c, a, BYTES_##z, v, c->key);                                         \
        }                                                                                     \
        c->aflags = f;                                                                        \
    }                                                                                         \
    static void name##_mr_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        name##_mem_##z(c, i, GET_##z(i->reg));                                                \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static void name##_mi_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        name##_mem_##z(c, i, (TYPE_##z)i->imm);                                               \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static __attribute__((noinline)) void name##_locked_##z(struct interp *c,                 \
                                                            const struct insn *i, TYPE_##z b) \
    {                                                                                         \
        uint32_t f = c->aflags;                                                               \
        struct rmw m;                                                                         \
                                                                                              \
        BEGIN(c, i);                                                                          \
        rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z, true);            \
        name##_lock_##z(m.p, b, &f);                                                          \
        rmw_close(c, &m);                                                                     \
        c->aflags = f;                                                                        \
    }                                                                                         \
    static void name##_lmr_##z(struct interp *c, const struct insn *i)                        \
    {                                                                                         \
        name##_locked_##z(c, i, GET_##z(i->reg));                                             \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static void name##_lmi_##z(struct interp *c, const struct insn *i)                        \
    {                                                                                         \
        name##_locked_##z(c, i, (TYPE_##z)i->imm);                                            \
        NEXT(c, i);                                                                           \
    }

#define ALU_TESTS(z, name)                                                              \
    static void name##_rr_##z(struct interp *c, const struct insn *i)                   \
    {                                                                                   \
        name##_fn_##z(GET_##z(i->reg), GET_##z(i->rm), &c->aflags);                     \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void name##_ri_##z(struct interp *c, const struct insn *i)                   \
    {                                                                                   \
        name##_fn_##z(GET_##z(i->reg), (TYPE_##z)i->imm, &c->aflags);                   \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void name##_rm_##z(struct interp *c, const struct insn *i)                   \
    {                                                                                   \
        gva_t a;                                                                        \
                                                                                        \
        BEGIN(c, i);                                                                    \
        a = insn_lin(c, i, BYTES_##z, ACCESS_READ);                                     \
        name##_fn_##z(GET_##z(i->reg), (TYPE_##z)access_load(c, a, BYTES_##z, c->key),  \
                      &c->aflags);                                                      \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void name##_mr_##z(struct interp *c, const struct insn *i)                   \
    {                                                                                   \
        gva_t a;                                                                        \
                                                                                        \
        BEGIN(c, i);                                                                    \
        a = insn_lin(c, i, BYTES_##z, ACCESS_READ);                                     \
        name##_fn_##z((TYPE_##z)access_load(c, a, BYTES_##z, c->key), GET_##z(i->reg),  \
                      &c->aflags);                                                      \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void name##_mi_##z(struct interp *c, const struct insn *i)                   \
    {                                                                                   \
        gva_t a;                                                                        \
                                                                                        \
        BEGIN(c, i);                                                                    \
        a = insn_lin(c, i, BYTES_##z, ACCESS_READ);                                     \
        name##_fn_##z((TYPE_##z)access_load(c, a, BYTES_##z, c->key), (TYPE_##z)i->imm, \
                      &c->aflags);                                                      \
        NEXT(c, i);                                                                     \
    }

#define ALU_OP(z, name, insn)       ALU_FN_FRESH(z, name, insn, "") ALU_WRITES(z, name)
#define ALU_CARRY_OP(z, name, insn) ALU_FN(z, name, insn, FLAGS_LOAD_CF) ALU_WRITES(z, name)
#define ALU_TEST_OP(z, name, insn)  ALU_TEST_FN(z, name, insn, "") ALU_TESTS(z, name)

EACH_SIZE(ALU_OP, add, "add")
EACH_SIZE(ALU_OP, or, "or")
EACH_SIZE(ALU_CARRY_OP, adc, "adc")
EACH_SIZE(ALU_CARRY_OP, sbb, "sbb")
EACH_SIZE(ALU_OP, and, "and")
EACH_SIZE(ALU_OP, sub, "sub")
EACH_SIZE(ALU_OP, xor, "xor")
EACH_SIZE(ALU_TEST_OP, cmp, "cmp")
EACH_SIZE(ALU_TEST_OP, test, "test")

enum { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_LMR, FORM_LMI, FORMS };

#define ALU_ROW(n)                                                                                \
    {                                                                                             \
        OF_SIZES(n##_rr), OF_SIZES(n##_ri), OF_SIZES(n##_rm), OF_SIZES(n##_mr), OF_SIZES(n##_mi), \
            OF_SIZES(n##_lmr), OF_SIZES(n##_lmi)                                                  \
    }
#define ALU_TEST_ROW(n)                                                                           \
    {                                                                                             \
        OF_SIZES(n##_rr), OF_SIZES(n##_ri), OF_SIZES(n##_rm), OF_SIZES(n##_mr), OF_SIZES(n##_mi), \
            {NULL},                                                                               \
        {                                                                                         \
            NULL                                                                                  \
        }                                                                                         \
    }

static insn_fn *const alu_table[9][FORMS][4] = {
    ALU_ROW(add), ALU_ROW(or),  ALU_ROW(adc),      ALU_ROW(sbb),       ALU_ROW(and),
    ALU_ROW(sub), ALU_ROW(xor), ALU_TEST_ROW(cmp), ALU_TEST_ROW(test),
};

bool prep_alu(struct decode *d)
{
    const ZydisDecodedOperand *dst = &d->ops[0], *src = &d->ops[1];
    struct insn *out = d->out;
    bool lock = out->flags & INSN_LOCK;
    unsigned form, size = dst->size / 8;

    if (dst->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            form = lock ? FORM_LMI : FORM_MI;
            out->imm = src->imm.value.u;
        } else {
            form = lock ? FORM_LMR : FORM_MR;
            out->reg = decode_gpr(src->reg.value);
        }
    } else {
        out->reg = decode_gpr(dst->reg.value);
        if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            form = FORM_RI;
            out->imm = src->imm.value.u;
        } else if (src->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            form = FORM_RM;
        } else {
            form = FORM_RR;
            out->rm = decode_gpr(src->reg.value);
        }
    }
    out->fn = alu_table[d->row->arg][form][size_index(size)];
    return out->fn != NULL;
}

/* ---- INC DEC NEG NOT ---- */

#define UNARY_FN(z, name, insn)                                                      \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, uint32_t *flags)                \
    {                                                                                \
        uint32_t f = *flags;                                                         \
        __asm__(FLAGS_LOAD_CF insn #z " %0" FLAGS_SAVE : "+r"(a), "+a"(f) : : "cc"); \
        *flags = f;                                                                  \
        return a;                                                                    \
    }                                                                                \
    static inline void name##_lock_##z(void *p, uint32_t *flags)                     \
    {                                                                                \
        uint32_t f = *flags;                                                         \
        __asm__ volatile(FLAGS_LOAD_CF "lock " insn #z " %0" FLAGS_SAVE              \
                         : "+m"(*(TYPE_##z *)p), "+a"(f)                             \
                         :                                                           \
                         : "cc", "memory");                                          \
        *flags = f;                                                                  \
    }

#define NOT_FN(z, name)                                                            \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, uint32_t *flags)              \
    {                                                                              \
        (void)flags;                                                               \
        return (TYPE_##z) ~a;                                                      \
    }                                                                              \
    static inline void name##_lock_##z(void *p, uint32_t *flags)                   \
    {                                                                              \
        (void)flags;                                                               \
        __asm__ volatile("lock not" #z " %0" : "+m"(*(TYPE_##z *)p) : : "memory"); \
    }

#define UNARY_FORMS(z, name)                                                                     \
    static void name##_r_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                            \
        SET_##z(i->reg, name##_fn_##z(GET_##z(i->reg), &c->aflags));                             \
        NEXT(c, i);                                                                              \
    }                                                                                            \
    static void name##_m_##z(struct interp *c, const struct insn *i)                             \
    {                                                                                            \
        uint32_t f = c->aflags;                                                                  \
        gva_t a;                                                                                 \
        void *p;                                                                                 \
                                                                                                 \
        BEGIN(c, i);                                                                             \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                             \
        p = rmw_host(c, a, BYTES_##z);                                                           \
        if (likely(p != NULL))                                                                   \
            host_store(p, BYTES_##z, name##_fn_##z((TYPE_##z)host_load(p, BYTES_##z), &f));      \
        else                                                                                     \
            access_store(c, a, BYTES_##z,                                                        \
                         name##_fn_##z((TYPE_##z)access_load(c, a, BYTES_##z, c->key), &f),      \
                         c->key);                                                                \
        c->aflags = f;                                                                           \
        NEXT(c, i);                                                                              \
    }                                                                                            \
    static                                                                                       \
        __attribute__((noinline)) void name##_locked_##z(struct interp *c, const struct insn *i) \
    {                                                                                            \
        uint32_t f = c->aflags;                                                                  \
        struct rmw m;                                                                            \
                                                                                                 \
        BEGIN(c, i);                                                                             \
        rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z, true);               \
        name##_lock_##z(m.p, &f);                                                                \
        rmw_close(c, &m);                                                                        \
        c->aflags = f;                                                                           \
    }                                                                                            \
    static void name##_lm_##z(struct interp *c, const struct insn *i)                            \
    {                                                                                            \
        name##_locked_##z(c, i);                                                                 \
        NEXT(c, i);                                                                              \
    }

#define UNARY_OP(z, name, insn) UNARY_FN(z, name, insn) UNARY_FORMS(z, name)
#define NOT_OP(z, name)         NOT_FN(z, name) UNARY_FORMS(z, name)

EACH_SIZE(UNARY_OP, inc, "inc")
EACH_SIZE(UNARY_OP, dec, "dec")
EACH_SIZE(UNARY_OP, neg, "neg")
EACH_SIZE(NOT_OP, not )

#define UNARY_ROW(n)                                       \
    {                                                      \
        OF_SIZES(n##_r), OF_SIZES(n##_m), OF_SIZES(n##_lm) \
    }
static insn_fn *const unary_table[4][3][4] = {
    UNARY_ROW(inc),
    UNARY_ROW(dec),
    UNARY_ROW(neg),
    UNARY_ROW(not ),
};

bool prep_unary(struct decode *d)
{
    struct insn *out = d->out;
    unsigned form = 0;

    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        form = out->flags & INSN_LOCK ? 2 : 1;
    else
        out->reg = decode_gpr(d->ops[0].reg.value);
    out->fn = unary_table[d->row->arg][form][size_index(d->ops[0].size / 8)];
    return true;
}

/* ---- ROL ROR RCL RCR SHL SHR SAR ---- */

/*
 * By CL or by an immediate, of a register or of memory: these are different instructions to the
 * host, and differ in the flags that are undefined for counts above 1. So there is a stub for each
 * operation, size and immediate that does it to rdi, and one that does it to [rdi].
 */
extern const uint8_t int_shift_stubs[7][2][4][64][8];

#define SHIFT_STUBS(ext, prefix, opcode, modrm)                                                \
    ".set n, 0\n"                                                                              \
    ".rept 64\n"                                                                               \
    ".balign 8\n"                                                                              \
    ".byte " prefix opcode ", " modrm " | " ext " << 3, n, 0xc3\n" /* C0 or C1 /ext, n; RET */ \
    ".set n, n + 1\n"                                                                          \
    ".endr\n"
#define SHIFT_STUBS_AT(ext, modrm)            \
    SHIFT_STUBS(ext, "0x40, ", "0xc0", modrm) \
    SHIFT_STUBS(ext, "0x66, ", "0xc1", modrm) \
    SHIFT_STUBS(ext, "", "0xc1", modrm)       \
    SHIFT_STUBS(ext, "0x48, ", "0xc1", modrm)
#define SHIFT_STUBS_OF(ext) SHIFT_STUBS_AT(ext, "0xc7") SHIFT_STUBS_AT(ext, "0x07")
__asm__(".pushsection .text\n.balign 64\n"
        ".globl int_shift_stubs\n.hidden int_shift_stubs\nint_shift_stubs:\n" SHIFT_STUBS_OF("0")
            SHIFT_STUBS_OF("1") SHIFT_STUBS_OF("2") SHIFT_STUBS_OF("3") SHIFT_STUBS_OF("4")
                SHIFT_STUBS_OF("5") SHIFT_STUBS_OF("7") ".balign 8\n.popsection");

/* The stub is called below the red zone. LEA changes no flag. */
#define SHIFT_CALL \
    "lea -128(%%rsp),%%rsp\n\t" FLAGS_LOAD "call *%2\n\tlea 128(%%rsp),%%rsp" FLAGS_SAVE

/* imm: the stub. */
#define SHIFT_BY_IMM(z, unused)                                                            \
    static void shift_ri_##z(struct interp *c, const struct insn *i)                       \
    {                                                                                      \
        uint64_t v = GET_##z(i->reg);                                                      \
        uint32_t f = c->aflags;                                                            \
                                                                                           \
        __asm__(SHIFT_CALL : "+&D"(v), "+&a"(f) : "r"(i->imm) : "cc");                     \
        SET_##z(i->reg, (TYPE_##z)v);                                                      \
        c->aflags = f;                                                                     \
        NEXT(c, i);                                                                        \
    }                                                                                      \
    static inline void shift_at_##z(void *p, uint64_t stub, uint32_t *flags)               \
    {                                                                                      \
        uint32_t f = *flags;                                                               \
                                                                                           \
        __asm__ volatile(SHIFT_CALL : "+&D"(p), "+&a"(f) : "r"(stub) : "cc", "memory");    \
        *flags = f;                                                                        \
    }                                                                                      \
    static __attribute__((noinline)) void shift_mi_slow_##z(struct interp *c,              \
                                                            const struct insn *i, gva_t a) \
    {                                                                                      \
        TYPE_##z v = (TYPE_##z)access_load(c, a, BYTES_##z, c->key);                       \
        uint32_t f = c->aflags;                                                            \
                                                                                           \
        shift_at_##z(&v, i->imm, &f);                                                      \
        access_store(c, a, BYTES_##z, v, c->key);                                          \
        c->aflags = f;                                                                     \
    }                                                                                      \
    static void shift_mi_##z(struct interp *c, const struct insn *i)                       \
    {                                                                                      \
        gva_t a;                                                                           \
        void *p;                                                                           \
                                                                                           \
        BEGIN(c, i);                                                                       \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                       \
        p = rmw_host(c, a, BYTES_##z);                                                     \
        if (likely(p != NULL))                                                             \
            shift_at_##z(p, i->imm, &c->aflags);                                           \
        else                                                                               \
            shift_mi_slow_##z(c, i, a);                                                    \
        NEXT(c, i);                                                                        \
    }
EACH_SIZE(SHIFT_BY_IMM, )

/* By CL. */
#define SHIFT_OP(z, name, mnem)                                                               \
    static inline TYPE_##z name##_fn_##z(TYPE_##z a, uint8_t n, uint32_t *flags)              \
    {                                                                                         \
        uint32_t f = *flags;                                                                  \
        __asm__(FLAGS_LOAD mnem #z " %%cl,%0" FLAGS_SAVE : "+r"(a), "+a"(f) : "c"(n) : "cc"); \
        *flags = f;                                                                           \
        return a;                                                                             \
    }                                                                                         \
    static inline void name##_at_##z(TYPE_##z *p, uint8_t n, uint32_t *flags)                 \
    {                                                                                         \
        uint32_t f = *flags;                                                                  \
        __asm__ volatile(FLAGS_LOAD mnem #z " %%cl,%0" FLAGS_SAVE                             \
                         : "+m"(*p), "+a"(f)                                                  \
                         : "c"(n)                                                             \
                         : "cc");                                                             \
        *flags = f;                                                                           \
    }                                                                                         \
    static void name##_rc_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        SET_##z(i->reg, name##_fn_##z(GET_##z(i->reg), GET_b(REG_RCX), &c->aflags));          \
        NEXT(c, i);                                                                           \
    }                                                                                         \
    static __attribute__((noinline)) void name##_mc_slow_##z(struct interp *c, gva_t a)       \
    {                                                                                         \
        TYPE_##z v = (TYPE_##z)access_load(c, a, BYTES_##z, c->key);                          \
        uint32_t f = c->aflags;                                                               \
                                                                                              \
        name##_at_##z(&v, GET_b(REG_RCX), &f);                                                \
        access_store(c, a, BYTES_##z, v, c->key);                                             \
        c->aflags = f;                                                                        \
    }                                                                                         \
    static void name##_mc_##z(struct interp *c, const struct insn *i)                         \
    {                                                                                         \
        gva_t a;                                                                              \
        void *p;                                                                              \
                                                                                              \
        BEGIN(c, i);                                                                          \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                          \
        p = rmw_host(c, a, BYTES_##z);                                                        \
        if (likely(p != NULL))                                                                \
            name##_at_##z(p, GET_b(REG_RCX), &c->aflags);                                     \
        else                                                                                  \
            name##_mc_slow_##z(c, a);                                                         \
        NEXT(c, i);                                                                           \
    }

EACH_SIZE(SHIFT_OP, rol, "rol")
EACH_SIZE(SHIFT_OP, ror, "ror")
EACH_SIZE(SHIFT_OP, rcl, "rcl")
EACH_SIZE(SHIFT_OP, rcr, "rcr")
EACH_SIZE(SHIFT_OP, shl, "shl")
EACH_SIZE(SHIFT_OP, shr, "shr")
EACH_SIZE(SHIFT_OP, sar, "sar")

#define SHIFT_ROW(n)                       \
    {                                      \
        OF_SIZES(n##_rc), OF_SIZES(n##_mc) \
    }
static insn_fn *const shift_table[7][2][4] = {
    SHIFT_ROW(rol), SHIFT_ROW(ror), SHIFT_ROW(rcl), SHIFT_ROW(rcr),
    SHIFT_ROW(shl), SHIFT_ROW(shr), SHIFT_ROW(sar),
};
static insn_fn *const shift_imm_table[2][4] = {OF_SIZES(shift_ri), OF_SIZES(shift_mi)};

bool prep_shift(struct decode *d)
{
    struct insn *out = d->out;
    unsigned z = size_index(d->ops[0].size / 8), mem = 0;

    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
        mem = 1;
    else
        out->reg = decode_gpr(d->ops[0].reg.value);
    if (d->ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = (uintptr_t)int_shift_stubs[d->row->arg][mem][z][d->ops[1].imm.value.u & 63];
        out->fn = shift_imm_table[mem][z];
    } else {
        out->fn = shift_table[d->row->arg][mem][z];
    }
    return true;
}

/* ---- MUL IMUL DIV IDIV of the accumulator ---- */

static uint64_t operand_load(struct interp *c, const struct insn *i, unsigned size)
{
    if (i->flags & INSN_MEM)
        return access_load(c, insn_lin(c, i, size, ACCESS_READ), size, c->key);
    return reg_get(c, i->rm, size);
}

/* rdx:rax of the operand size <- the host's one-operand instruction; `acc` names its accumulator.
 */
#define WIDE_FN(z, acc, name, insn)                                                           \
    static inline void name##_fn_##z(TYPE_##z b, TYPE_##z *lo, TYPE_##z *hi, uint32_t *flags) \
    {                                                                                         \
        uint32_t f = *flags;                                                                  \
        TYPE_##z l = *lo, h = *hi;                                                            \
        __asm__(FLAGS_LOAD "mov %[l],%%" acc "\n\t" insn #z " %[b]\n\tmov %%" acc             \
                           ",%[l]" FLAGS_SAVE                                                 \
                : [l] "+&r"(l), "+&d"(h), "+&a"(f)                                            \
                : [b] "r"(b)                                                                  \
                : "cc");                                                                      \
        *lo = l;                                                                              \
        *hi = h;                                                                              \
        *flags = f;                                                                           \
    }

static inline void wide_byte(unsigned which, uint8_t b, uint16_t *ax, uint32_t *flags)
{
    uint32_t f = *flags;
    uint16_t v = *ax;

#define WIDE_BYTE(insn)                                                             \
    __asm__(FLAGS_LOAD "mov %[v],%%ax\n\t" insn " %[b]\n\tmov %%ax,%[v]" FLAGS_SAVE \
            : [v] "+&r"(v), "+&a"(f)                                                \
            : [b] "r"(b)                                                            \
            : "cc")
    switch (which) {
    case 0:
        WIDE_BYTE("mulb");
        break;
    case 1:
        WIDE_BYTE("imulb");
        break;
    case 2:
        WIDE_BYTE("divb");
        break;
    default:
        WIDE_BYTE("idivb");
        break;
    }
#undef WIDE_BYTE
    *ax = v;
    *flags = f;
}

#define WIDE_SIZES(name, insn) \
    WIDE_FN(w, "ax", name, insn) WIDE_FN(l, "eax", name, insn) WIDE_FN(q, "rax", name, insn)
WIDE_SIZES(mul, "mul")
WIDE_SIZES(imul, "imul")
WIDE_SIZES(div, "div")
WIDE_SIZES(idiv, "idiv")

/* May a signed division go ahead? The quotient must fit; n is hi:lo. */
static bool idiv_fits(unsigned size, uint64_t lo, uint64_t hi, uint64_t b)
{
    unsigned bits = size * 8;
    __int128 n, d, q;

    if (size == 8) {
        n = (__int128)(((unsigned __int128)hi << 64) | lo);
        d = (int64_t)b;
    } else {
        n = (int64_t)(((hi << bits) | lo) << (64 - 2 * bits)) >> (64 - 2 * bits);
        d = (int64_t)(b << (64 - bits)) >> (64 - bits);
    }
    if (d == 0)
        return false;
    if (d == -1) /* -n, without the overflow of the most negative n */
        return n > -((__int128)1 << (bits - 1)) && n <= (__int128)1 << (bits - 1);
    q = n / d;
    return q >= -((__int128)1 << (bits - 1)) && q < (__int128)1 << (bits - 1);
}

/* aux: 0 MUL, 1 IMUL, 2 DIV, 3 IDIV. */
static void muldiv_b(struct interp *c, const struct insn *i)
{
    uint16_t ax = (uint16_t)c->s.gpr[REG_RAX];
    uint8_t b;

    BEGIN(c, i);
    b = (uint8_t)operand_load(c, i, 1);
    if (i->aux == 2 && ax >> 8 >= b)
        interp_raise(c, VEC_DE);
    if (i->aux == 3 && !idiv_fits(1, (uint8_t)ax, ax >> 8, b))
        interp_raise(c, VEC_DE);
    wide_byte(i->aux, b, &ax, &c->aflags);
    reg16_set(c, REG_RAX, ax);
}

#define MULDIV(z, unused)                                          \
    static void muldiv_##z(struct interp *c, const struct insn *i) \
    {                                                              \
        TYPE_##z lo = GET_##z(REG_RAX), hi = GET_##z(REG_RDX), b;  \
                                                                   \
        BEGIN(c, i);                                               \
        b = (TYPE_##z)operand_load(c, i, BYTES_##z);               \
        switch (i->aux) {                                          \
        case 0:                                                    \
            mul_fn_##z(b, &lo, &hi, &c->aflags);                   \
            break;                                                 \
        case 1:                                                    \
            imul_fn_##z(b, &lo, &hi, &c->aflags);                  \
            break;                                                 \
        case 2:                                                    \
            if (hi >= b)                                           \
                interp_raise(c, VEC_DE);                           \
            div_fn_##z(b, &lo, &hi, &c->aflags);                   \
            break;                                                 \
        default:                                                   \
            if (!idiv_fits(BYTES_##z, lo, hi, b))                  \
                interp_raise(c, VEC_DE);                           \
            idiv_fn_##z(b, &lo, &hi, &c->aflags);                  \
            break;                                                 \
        }                                                          \
        SET_##z(REG_RAX, lo);                                      \
        SET_##z(REG_RDX, hi);                                      \
    }
EACH_WLQ(MULDIV, )

#define MULDIV_OP(z, unused)                                          \
    static void op_muldiv_##z(struct interp *c, const struct insn *i) \
    {                                                                 \
        muldiv_##z(c, i);                                             \
        NEXT(c, i);                                                   \
    }
EACH_SIZE(MULDIV_OP, )

bool prep_muldiv(struct decode *d)
{
    static insn_fn *const table[4] = OF_SIZES(op_muldiv);

    if (d->ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
        d->out->rm = decode_gpr(d->ops[0].reg.value);
    d->out->aux = d->row->arg;
    d->out->fn = table[size_index(d->ops[0].size / 8)];
    return true;
}

/* ---- IMUL with two and three operands ---- */

#define IMUL_OP(z, unused)                                                                         \
    static inline TYPE_##z imul2_fn_##z(TYPE_##z a, TYPE_##z b, uint32_t *flags)                   \
    {                                                                                              \
        uint32_t f = *flags;                                                                       \
        __asm__(FLAGS_LOAD "imul" #z " %2,%0" FLAGS_SAVE : "+&r"(a), "+&a"(f) : "r"(b) : "cc");    \
        *flags = f;                                                                                \
        return a;                                                                                  \
    }                                                                                              \
    static void imul_rr_##z(struct interp *c, const struct insn *i)                                \
    {                                                                                              \
        SET_##z(i->reg, imul2_fn_##z(GET_##z(i->reg), GET_##z(i->rm), &c->aflags));                \
        NEXT(c, i);                                                                                \
    }                                                                                              \
    static void imul_rri_##z(struct interp *c, const struct insn *i)                               \
    {                                                                                              \
        SET_##z(i->reg, imul2_fn_##z(GET_##z(i->rm), (TYPE_##z)i->imm, &c->aflags));               \
        NEXT(c, i);                                                                                \
    }                                                                                              \
    static void imul_m_##z(struct interp *c, const struct insn *i)                                 \
    {                                                                                              \
        TYPE_##z v;                                                                                \
                                                                                                   \
        BEGIN(c, i);                                                                               \
        v = (TYPE_##z)access_load(c, insn_lin(c, i, BYTES_##z, ACCESS_READ), BYTES_##z, c->key);   \
        SET_##z(i->reg, imul2_fn_##z(i->aux ? (TYPE_##z)i->imm : GET_##z(i->reg), v, &c->aflags)); \
        NEXT(c, i);                                                                                \
    }
EACH_WLQ(IMUL_OP, )

bool prep_imul(struct decode *d)
{
    static insn_fn *const rr[4] = OF_WLQ(imul_rr), *const rri[4] = OF_WLQ(imul_rri),
                          *const m[4] = OF_WLQ(imul_m);
    struct insn *out = d->out;
    unsigned z = size_index(d->ops[0].size / 8);

    if (d->zi->operand_count_visible == 1)
        return prep_muldiv(d);
    out->reg = decode_gpr(d->ops[0].reg.value);
    out->aux = d->zi->operand_count_visible == 3;
    if (out->aux)
        out->imm = d->ops[2].imm.value.u;
    if (d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        out->fn = m[z];
    } else {
        out->rm = decode_gpr(d->ops[1].reg.value);
        out->fn = out->aux ? rri[z] : rr[z];
    }
    return out->fn != NULL;
}

/* ---- MOV, LEA ---- */

/*
 * The commonest memory operand by far: 64-bit code, 64-bit addresses, a base, no FS or GS. Its own
 * load and store handlers look at nothing else.
 */
static inline gva_t base_disp(const struct interp *c, const struct insn *i)
{
    return c->s.gpr[i->base] + (uint64_t)i->disp;
}

static bool is_base_disp(const struct decode *d)
{
    const struct insn *out = d->out;

    return d->c->code64 && out->asize == 8 && out->seg < SEG_FS && out->base < 16 &&
           out->index == R_NONE;
}

#define MOV_OP(z, unused)                                                              \
    static void mov_rr_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        SET_##z(i->reg, GET_##z(i->rm));                                               \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_ri_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        SET_##z(i->reg, (TYPE_##z)i->imm);                                             \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_rm_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        gva_t a;                                                                       \
                                                                                       \
        BEGIN(c, i);                                                                   \
        a = insn_lin(c, i, BYTES_##z, ACCESS_READ);                                    \
        SET_##z(i->reg, (TYPE_##z)access_load(c, a, BYTES_##z, c->key));               \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_rb_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        BEGIN(c, i);                                                                   \
        SET_##z(i->reg, (TYPE_##z)access_load(c, base_disp(c, i), BYTES_##z, c->key)); \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_mr_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        gva_t a;                                                                       \
                                                                                       \
        BEGIN(c, i);                                                                   \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                   \
        access_store(c, a, BYTES_##z, GET_##z(i->reg), c->key);                        \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_br_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        BEGIN(c, i);                                                                   \
        access_store(c, base_disp(c, i), BYTES_##z, GET_##z(i->reg), c->key);          \
        NEXT(c, i);                                                                    \
    }                                                                                  \
    static void mov_mi_##z(struct interp *c, const struct insn *i)                     \
    {                                                                                  \
        gva_t a;                                                                       \
                                                                                       \
        BEGIN(c, i);                                                                   \
        a = insn_lin(c, i, BYTES_##z, ACCESS_WRITE);                                   \
        access_store(c, a, BYTES_##z, (TYPE_##z)i->imm, c->key);                       \
        NEXT(c, i);                                                                    \
    }
EACH_SIZE(MOV_OP, )

static bool prep_mov_reg_mem(struct decode *d, bool store)
{
    static insn_fn *const rm[4] = OF_SIZES(mov_rm), *const rb[4] = OF_SIZES(mov_rb),
                          *const mr[4] = OF_SIZES(mov_mr), *const br[4] = OF_SIZES(mov_br);
    unsigned z = size_index(d->ops[store ? 0 : 1].size / 8);

    if (is_base_disp(d))
        d->out->fn = store ? br[z] : rb[z];
    else
        d->out->fn = store ? mr[z] : rm[z];
    return true;
}

bool prep_mov(struct decode *d)
{
    static insn_fn *const rr[4] = OF_SIZES(mov_rr), *const ri[4] = OF_SIZES(mov_ri),
                          *const mi[4] = OF_SIZES(mov_mi);
    const ZydisDecodedOperand *dst = &d->ops[0], *src = &d->ops[1];
    struct insn *out = d->out;
    unsigned op = d->zi->opcode;

    if (d->zi->opcode_map == ZYDIS_OPCODE_MAP_0F) {
        /* 0F 20 to 23: CR and DR. LOCK MOV CR0 is CR8 where the vendor has it; no model offers it.
         */
        out->reg = d->zi->raw.modrm.reg | (unsigned)d->zi->raw.rex.R << 3;
        out->rm = d->zi->raw.modrm.rm | (unsigned)d->zi->raw.rex.B << 3;
        out->fn = op == 0x20   ? op_mov_from_cr
                  : op == 0x21 ? op_mov_from_dr
                  : op == 0x22 ? op_mov_to_cr
                               : op_mov_to_dr;
        return true;
    }
    if (op == 0x8c || op == 0x8e) {
        out->reg = d->zi->raw.modrm.reg;
        out->rm = d->zi->raw.modrm.rm | (unsigned)d->zi->raw.rex.B << 3;
        out->osize = (uint8_t)(d->zi->operand_width / 8);
        out->fn = op == 0x8c ? op_mov_from_sreg : op_mov_to_sreg;
        return out->reg < SEG_COUNT;
    }
    if (dst->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            out->imm = src->imm.value.u;
            out->fn = mi[size_index(dst->size / 8)];
            return true;
        }
        out->reg = decode_gpr(src->reg.value);
        return prep_mov_reg_mem(d, true);
    }
    out->reg = decode_gpr(dst->reg.value);
    if (src->type == ZYDIS_OPERAND_TYPE_MEMORY)
        return prep_mov_reg_mem(d, false);
    if (src->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = src->imm.value.u;
        out->fn = ri[size_index(dst->size / 8)];
    } else {
        out->rm = decode_gpr(src->reg.value);
        out->fn = rr[size_index(dst->size / 8)];
    }
    return true;
}

bool prep_movnti(struct decode *d)
{
    d->out->reg = decode_gpr(d->ops[1].reg.value);
    return prep_mov_reg_mem(d, true);
}

#define LEA_OP(z, unused)                                       \
    static void lea_##z(struct interp *c, const struct insn *i) \
    {                                                           \
        SET_##z(i->reg, (TYPE_##z)insn_ea(c, i));               \
        NEXT(c, i);                                             \
    }
EACH_WLQ(LEA_OP, )

static void lea_base_q(struct interp *c, const struct insn *i)
{
    c->s.gpr[i->reg] = c->s.gpr[i->base] + (uint64_t)i->disp;
    NEXT(c, i);
}

bool prep_lea(struct decode *d)
{
    static insn_fn *const table[4] = OF_WLQ(lea);
    struct insn *out = d->out;

    out->reg = decode_gpr(d->ops[0].reg.value);
    out->fn = table[size_index(d->ops[0].size / 8)];
    if (d->ops[0].size == 64 && out->asize == 8 && out->base < 16 && out->index == R_NONE)
        out->fn = lea_base_q;
    return out->fn != NULL;
}

/* ---- MOVZX, MOVSX, MOVSXD ---- */

#define MOVX_OP(dz, sz)                                                                 \
    static void movzx_r_##sz##dz(struct interp *c, const struct insn *i)                \
    {                                                                                   \
        SET_##dz(i->reg, (TYPE_##dz)GET_##sz(i->rm));                                   \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void movzx_m_##sz##dz(struct interp *c, const struct insn *i)                \
    {                                                                                   \
        gva_t a;                                                                        \
                                                                                        \
        BEGIN(c, i);                                                                    \
        a = insn_lin(c, i, BYTES_##sz, ACCESS_READ);                                    \
        SET_##dz(i->reg, (TYPE_##dz)(TYPE_##sz)access_load(c, a, BYTES_##sz, c->key));  \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void movsx_r_##sz##dz(struct interp *c, const struct insn *i)                \
    {                                                                                   \
        SET_##dz(i->reg, (TYPE_##dz)(STYPE_##sz)GET_##sz(i->rm));                       \
        NEXT(c, i);                                                                     \
    }                                                                                   \
    static void movsx_m_##sz##dz(struct interp *c, const struct insn *i)                \
    {                                                                                   \
        gva_t a;                                                                        \
                                                                                        \
        BEGIN(c, i);                                                                    \
        a = insn_lin(c, i, BYTES_##sz, ACCESS_READ);                                    \
        SET_##dz(i->reg, (TYPE_##dz)(STYPE_##sz)access_load(c, a, BYTES_##sz, c->key)); \
        NEXT(c, i);                                                                     \
    }
EACH_WLQ(MOVX_OP, b)
EACH_WLQ(MOVX_OP, w)
EACH_WLQ(MOVX_OP, l)

#define MOVX_ROW(n)                                                     \
    {                                                                   \
        {NULL, n##_bw, n##_bl, n##_bq}, {NULL, n##_ww, n##_wl, n##_wq}, \
        {                                                               \
            NULL, n##_lw, n##_ll, n##_lq                                \
        }                                                               \
    }

bool prep_movx(struct decode *d)
{
    static insn_fn *const table[2][2][3][4] = {
        {MOVX_ROW(movzx_r), MOVX_ROW(movzx_m)},
        {MOVX_ROW(movsx_r), MOVX_ROW(movsx_m)},
    };
    struct insn *out = d->out;
    unsigned from = size_index(d->ops[1].size / 8), mem = 0;

    if (from > 2)
        return false;
    /* MOVSXD with a 16-bit destination reads 16 bits. */
    if (d->ops[0].size == 16 && from == 2)
        from = 1;
    out->reg = decode_gpr(d->ops[0].reg.value);
    if (d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY)
        mem = 1;
    else
        out->rm = decode_gpr(d->ops[1].reg.value);
    out->fn = table[d->row->arg][mem][from][size_index(d->ops[0].size / 8)];
    return out->fn != NULL;
}

/* ---- XCHG: with memory it is always locked ---- */

#define XCHG_OP(z, unused)                                                                        \
    static void xchg_rr_##z(struct interp *c, const struct insn *i)                               \
    {                                                                                             \
        TYPE_##z t = GET_##z(i->reg);                                                             \
                                                                                                  \
        SET_##z(i->reg, GET_##z(i->rm));                                                          \
        SET_##z(i->rm, t);                                                                        \
        NEXT(c, i);                                                                               \
    }                                                                                             \
    static __attribute__((noinline)) void xchg_locked_##z(struct interp *c, const struct insn *i) \
    {                                                                                             \
        TYPE_##z v = GET_##z(i->reg);                                                             \
        struct rmw m;                                                                             \
                                                                                                  \
        BEGIN(c, i);                                                                              \
        rmw_open(c, &m, insn_lin(c, i, BYTES_##z, ACCESS_WRITE), BYTES_##z, true);                \
        __asm__ volatile("xchg" #z " %0,%1" : "+r"(v), "+m"(*(TYPE_##z *)m.p) : : "memory");      \
        rmw_close(c, &m);                                                                         \
        SET_##z(i->reg, v);                                                                       \
    }                                                                                             \
    static void xchg_mr_##z(struct interp *c, const struct insn *i)                               \
    {                                                                                             \
        xchg_locked_##z(c, i);                                                                    \
        NEXT(c, i);                                                                               \
    }
EACH_SIZE(XCHG_OP, )

bool prep_xchg(struct decode *d)
{
    static insn_fn *const rr[4] = OF_SIZES(xchg_rr), *const mr[4] = OF_SIZES(xchg_mr);
    struct insn *out = d->out;
    unsigned z = size_index(d->ops[0].size / 8);

    if (out->flags & INSN_MEM) {
        out->reg = decode_gpr(d->ops[d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY].reg.value);
        out->fn = mr[z];
    } else {
        out->reg = decode_gpr(d->ops[0].reg.value);
        out->rm = decode_gpr(d->ops[1].reg.value);
        out->fn = rr[z];
    }
    return true;
}

/* ---- SETcc, CMOVcc ---- */

#define SETCC_OP(cc, unused)                                                         \
    static void setcc_r_##cc(struct interp *c, const struct insn *i)                 \
    {                                                                                \
        SET_b(i->reg, cond(c->aflags, cc));                                          \
        NEXT(c, i);                                                                  \
    }                                                                                \
    static void cmov_l_##cc(struct interp *c, const struct insn *i)                  \
    {                                                                                \
        c->s.gpr[i->reg] = (uint32_t)c->s.gpr[cond(c->aflags, cc) ? i->rm : i->reg]; \
        NEXT(c, i);                                                                  \
    }                                                                                \
    static void cmov_q_##cc(struct interp *c, const struct insn *i)                  \
    {                                                                                \
        c->s.gpr[i->reg] = c->s.gpr[cond(c->aflags, cc) ? i->rm : i->reg];           \
        NEXT(c, i);                                                                  \
    }
EACH_COND(SETCC_OP, )
#define CC_NAME(cc, n) n##_##cc,

static void setcc_m(struct interp *c, const struct insn *i)
{
    gva_t a;

    BEGIN(c, i);
    a = insn_lin(c, i, 1, ACCESS_WRITE);
    access_store(c, a, 1, cond(c->aflags, i->aux), c->key);
    NEXT(c, i);
}

bool prep_setcc(struct decode *d)
{
    static insn_fn *const r[16] = {EACH_COND(CC_NAME, setcc_r)};
    struct insn *out = d->out;

    out->aux = d->row->arg;
    if (out->flags & INSN_MEM) {
        out->fn = setcc_m;
    } else {
        out->reg = decode_gpr(d->ops[0].reg.value);
        out->fn = r[d->row->arg];
    }
    return true;
}

/* The memory form reads, and faults, whatever the condition; 32 bits clear the upper half anyway.
 */
static void cmov_m(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    v = access_load(c, insn_lin(c, i, i->osize, ACCESS_READ), i->osize, c->key);
    if (!cond(c->aflags, i->aux))
        v = c->s.gpr[i->reg];
    reg_set(c, i->reg, i->osize, v);
    NEXT(c, i);
}

static void cmov_w(struct interp *c, const struct insn *i)
{
    if (cond(c->aflags, i->aux))
        SET_w(i->reg, GET_w(i->rm));
    NEXT(c, i);
}

bool prep_cmovcc(struct decode *d)
{
    static insn_fn *const l[16] = {EACH_COND(CC_NAME, cmov_l)}, *const q[16] = {
                                                                    EACH_COND(CC_NAME, cmov_q)};
    struct insn *out = d->out;

    out->aux = d->row->arg;
    out->osize = (uint8_t)(d->ops[0].size / 8);
    out->reg = decode_gpr(d->ops[0].reg.value);
    if (out->flags & INSN_MEM) {
        out->fn = cmov_m;
        return true;
    }
    out->rm = decode_gpr(d->ops[1].reg.value);
    out->fn = out->osize == 8 ? q[out->aux] : out->osize == 4 ? l[out->aux] : cmov_w;
    return true;
}

/* ---- CBW CWDE CDQE, CWD CDQ CQO ---- */

static void op_cbw(struct interp *c, const struct insn *i)
{
    SET_w(REG_RAX, (int8_t)c->s.gpr[REG_RAX]);
    NEXT(c, i);
}

static void op_cwde(struct interp *c, const struct insn *i)
{
    SET_l(REG_RAX, (int16_t)c->s.gpr[REG_RAX]);
    NEXT(c, i);
}

static void op_cdqe(struct interp *c, const struct insn *i)
{
    SET_q(REG_RAX, (uint64_t)(int32_t)c->s.gpr[REG_RAX]);
    NEXT(c, i);
}

static void op_cwd(struct interp *c, const struct insn *i)
{
    SET_w(REG_RDX, (int16_t)c->s.gpr[REG_RAX] >> 15);
    NEXT(c, i);
}

static void op_cdq(struct interp *c, const struct insn *i)
{
    SET_l(REG_RDX, (int32_t)c->s.gpr[REG_RAX] >> 31);
    NEXT(c, i);
}

static void op_cqo(struct interp *c, const struct insn *i)
{
    SET_q(REG_RDX, (uint64_t)((int64_t)c->s.gpr[REG_RAX] >> 63));
    NEXT(c, i);
}

bool prep_convert(struct decode *d)
{
    static insn_fn *const table[6] = {op_cbw, op_cwde, op_cdqe, op_cwd, op_cdq, op_cqo};

    d->out->fn = table[d->row->arg];
    return true;
}

/* ---- MOVBE, BSWAP ---- */

static inline uint64_t swap_bytes(uint64_t v, unsigned size)
{
    return __builtin_bswap64(v) >> (64 - size * 8);
}

static void movbe_load(struct interp *c, const struct insn *i)
{
    uint64_t v;

    BEGIN(c, i);
    v = access_load(c, insn_lin(c, i, i->msize, ACCESS_READ), i->msize, c->key);
    reg_set(c, i->reg, i->msize, swap_bytes(v, i->msize));
    NEXT(c, i);
}

static void movbe_store(struct interp *c, const struct insn *i)
{
    gva_t a;

    BEGIN(c, i);
    a = insn_lin(c, i, i->msize, ACCESS_WRITE);
    access_store(c, a, i->msize, swap_bytes(reg_get(c, i->reg, i->msize), i->msize), c->key);
    NEXT(c, i);
}

bool prep_movbe(struct decode *d)
{
    bool store = d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;

    d->out->reg = decode_gpr(d->ops[store ? 1 : 0].reg.value);
    d->out->fn = store ? movbe_store : movbe_load;
    return true;
}

static void bswap_l(struct interp *c, const struct insn *i)
{
    SET_l(i->reg, __builtin_bswap32(GET_l(i->reg)));
    NEXT(c, i);
}

static void bswap_q(struct interp *c, const struct insn *i)
{
    SET_q(i->reg, __builtin_bswap64(GET_q(i->reg)));
    NEXT(c, i);
}

/* 66 0F C8 is undefined: whatever the host makes of it. */
static void bswap_w(struct interp *c, const struct insn *i)
{
    uint64_t v = GET_q(i->reg);

    __asm__(".byte 0x66,0x0f,0xc8" : "+a"(v));
    SET_q(i->reg, v);
    NEXT(c, i);
}

bool prep_bswap(struct decode *d)
{
    d->out->reg = decode_gpr(d->ops[0].reg.value);
    d->out->fn = d->zi->operand_width == 64   ? bswap_q
                 : d->zi->operand_width == 32 ? bswap_l
                                              : bswap_w;
    return true;
}

/* ---- flags ---- */

void op_clc(struct interp *c, const struct insn *i)
{
    c->aflags &= ~AF_CF;
    NEXT(c, i);
}

void op_stc(struct interp *c, const struct insn *i)
{
    c->aflags |= AF_CF;
    NEXT(c, i);
}

void op_cmc(struct interp *c, const struct insn *i)
{
    c->aflags ^= AF_CF;
    NEXT(c, i);
}

void op_cld(struct interp *c, const struct insn *i)
{
    c->s.rflags &= ~RFLAGS_DF;
    NEXT(c, i);
}

void op_std(struct interp *c, const struct insn *i)
{
    c->s.rflags |= RFLAGS_DF;
    NEXT(c, i);
}

void op_lahf(struct interp *c, const struct insn *i)
{
    c->s.gpr[REG_RAX] = (c->s.gpr[REG_RAX] & ~0xff00ull) | (c->aflags & 0xd500) | 0x200;
    NEXT(c, i);
}

void op_sahf(struct interp *c, const struct insn *i)
{
    c->aflags = (c->aflags & AF_OF) | (c->s.gpr[REG_RAX] & 0xd500) | 0x200;
    NEXT(c, i);
}

/* D6, not in the manual: AL = CF ? FFh : 0. */
void op_salc(struct interp *c, const struct insn *i)
{
    SET_b(REG_RAX, c->aflags & AF_CF ? 0xff : 0);
    NEXT(c, i);
}

/* ---- NOP, PREFETCH, cache lines ---- */

void op_nop(struct interp *c, const struct insn *i)
{
    NEXT(c, i);
}

void op_gp0(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    interp_raise_err(c, VEC_GP, 0);
}

bool prep_nop(struct decode *d)
{
    d->out->fn = op_nop;
    return true;
}

static void op_fence(struct interp *c, const struct insn *i)
{
    (void)c;
    if (i->aux == 0)
        __asm__ volatile("lfence" : : : "memory");
    else if (i->aux == 1)
        __asm__ volatile("mfence" : : : "memory");
    else
        __asm__ volatile("sfence" : : : "memory");
    NEXT(c, i);
}

bool prep_fence(struct decode *d)
{
    d->out->aux = d->row->arg;
    d->out->fn = op_fence;
    return true;
}

/* CLFLUSH and its like check their address as a one-byte load does. */
static void op_cacheline(struct interp *c, const struct insn *i)
{
    BEGIN(c, i);
    access_probe(c, insn_lin(c, i, 1, ACCESS_READ), 1, ACCESS_READ, c->key);
    NEXT(c, i);
}

bool prep_cacheline(struct decode *d)
{
    d->out->fn = op_cacheline;
    return true;
}

/* ---- rows whose handler serves every form ---- */

bool prep_fn(struct decode *d)
{
    d->out->fn = d->row->fn;
    return true;
}

bool prep_imm(struct decode *d)
{
    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
        d->out->imm = d->ops[0].imm.value.u;
    d->out->fn = d->row->fn;
    return true;
}

/* SYSRET and SYSEXIT: REX.W says where to. */
bool prep_sysret(struct decode *d)
{
    d->out->osize = d->zi->raw.rex.W ? 8 : 4;
    d->out->fn = d->row->fn;
    return true;
}

bool prep_modrm(struct decode *d)
{
    const ZydisDecodedInstruction *zi = d->zi;

    d->out->reg = zi->raw.modrm.reg | (unsigned)zi->raw.rex.R << 3;
    d->out->rm = zi->raw.modrm.rm | (unsigned)zi->raw.rex.B << 3;
    d->out->fn = d->row->fn;
    return true;
}

/* MOVSD and CMPSD are string instructions and SSE2 ones. */
bool prep_sse_or_string(struct decode *d)
{
    if (d->zi->meta.category == ZYDIS_CATEGORY_STRINGOP)
        return prep_string(d);
    return prep_thunk(d);
}
