/* SPDX-License-Identifier: Apache-2.0 */
/* User-mode computation: what a translator is good or bad at, one kind each. */
#include "bench.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>

/* cpu-int: sort, hash and binary search; branches, loads, adds, multiplies. */

static void quicksort(uint32_t *v, int low, int high)
{
    while (low < high) {
        uint32_t pivot = v[(low + high) / 2];
        int i = low, j = high;

        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (j - low < high - i) {
            quicksort(v, low, j);
            low = i;
        } else {
            quicksort(v, i, high);
            high = j;
        }
    }
}

uint64_t cpu_int(struct cpu_int_space *space, uint64_t *checksum)
{
    uint32_t *keys = space->keys;
    const int count = sizeof(space->keys) / sizeof(*keys);
    uint64_t seed = 88172645463325252ull, hash = 0xcbf29ce484222325ull;

    for (int i = 0; i < count; i++)
        keys[i] = next_random(&seed) >> 20;
    quicksort(keys, 0, count - 1);
    for (size_t i = 0; i < sizeof(space->keys); i++)
        hash = mix(hash, ((unsigned char *)keys)[i]);
    for (int i = 0; i < count; i++) {
        uint32_t wanted = next_random(&seed) >> 20;
        int low = 0, high = count;

        while (low < high) {
            int middle = (low + high) / 2;
            if (keys[middle] < wanted)
                low = middle + 1;
            else
                high = middle;
        }
        hash = mix(hash, low);
    }
    *checksum = hash;
    return 1;
}

static uint64_t int_batch(uint64_t *checksum)
{
    static struct cpu_int_space space;
    uint64_t done = 0;

    for (int i = 0; i < 4; i++)
        done += cpu_int(&space, checksum);
    return done;
}

/* cpu-indirect: a bytecode interpreter whose every step is an indirect call. */

struct machine {
    uint64_t a, b, c;
    uint32_t pc;
};

static void op_add(struct machine *m)
{
    m->a += m->b;
}
static void op_xor(struct machine *m)
{
    m->b ^= m->a >> 3;
}
static void op_rot(struct machine *m)
{
    m->c = m->c << 7 | m->c >> 57;
}
static void op_mul(struct machine *m)
{
    m->b *= 0x9e3779b97f4a7c15ull;
}
static void op_mov(struct machine *m)
{
    m->a ^= m->c;
}
static void op_inc(struct machine *m)
{
    m->c += 1;
}
static void op_skip(struct machine *m)
{
    m->pc += m->a >> 63;
}
static void op_swap(struct machine *m)
{
    uint64_t t = m->a;
    m->a = m->b;
    m->b = t;
}

static void (*const operations[8])(struct machine *) = {
    op_add, op_xor, op_rot, op_mul, op_mov, op_inc, op_skip, op_swap,
};

static uint64_t indirect_batch(uint64_t *checksum)
{
    enum { STEPS = 200000 };
    struct machine m = {1, 2, 3, 0};
    uint8_t program[1024];
    uint64_t seed = 42;

    for (size_t i = 0; i < sizeof(program); i++)
        program[i] = next_random(&seed) >> 32 & 7;
    for (int i = 0; i < STEPS; i++)
        operations[program[m.pc++ % sizeof(program)]](&m);
    *checksum = m.a ^ m.b ^ m.c;
    return STEPS;
}

/* cpu-jit: code written, executed and overwritten, as a language runtime does. */

static uint8_t *code;

static int jit_setup(void)
{
    code =
        mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return code == MAP_FAILED;
}

static uint64_t jit_batch(uint64_t *checksum)
{
    enum { FUNCTIONS = 512 };
    uint64_t sum = 0;

    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        /* lea eax,[rdi+imm32]; ret */
        uint8_t *at = code + i * 64 % 65536;
        uint32_t immediate = i * 2654435761u;
        at[0] = 0x8d;
        at[1] = 0x87;
        memcpy(at + 2, &immediate, 4);
        at[6] = 0xc3;
        uint32_t (*function)(uint32_t) = (void *)at;
        for (int repeat = 0; repeat < 16; repeat++)
            sum = mix(sum, function(repeat));
    }
    *checksum = sum;
    return FUNCTIONS;
}

/* cpu-fp: scalar doubles: an n-body step, with division and square root. */

static uint64_t fp_batch(uint64_t *checksum)
{
    enum { BODIES = 5, STEPS = 400 };
    double p[BODIES][3], v[BODIES][3] = {{0}}, mass[BODIES];

    for (int i = 0; i < BODIES; i++) {
        mass[i] = 1.0 + i * 0.37;
        for (int k = 0; k < 3; k++)
            p[i][k] = (i + 1) * (k + 2) * 0.731 - i * i * 0.3;
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double d[3], r2 = 0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = p[i][k] - p[j][k];
                    r2 += d[k] * d[k];
                }
                double magnitude = 0.001 / (r2 * sqrt(r2));
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * mass[j] * magnitude;
                    v[j][k] += d[k] * mass[i] * magnitude;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++)
                p[i][k] += 0.001 * v[i][k];
    }
    memcpy(checksum, &p[3][1], sizeof(*checksum));
    return STEPS;
}

/* cpu-x87: 80-bit arithmetic, as old 32-bit systems compute. */

static uint64_t x87_batch(uint64_t *checksum)
{
    enum { STEPS = 20000 };
    long double x = 0.3L, sum = 0;

    for (int i = 1; i <= STEPS; i++) {
        x = 3.7L * x * (1 - x);
        sum += x / i;
    }
    double result = sum;
    memcpy(checksum, &result, sizeof(*checksum));
    return STEPS;
}

/* cpu-sse2, cpu-avx2: one pixel blend and one float kernel, 128 and 256 bits wide. */

enum { PIXELS = 32768 };
static uint8_t above[PIXELS] __attribute__((aligned(64)));
static uint8_t below[PIXELS] __attribute__((aligned(64)));
static uint8_t blended[PIXELS] __attribute__((aligned(64)));
static float wave[PIXELS / 4] __attribute__((aligned(64)));

static int simd_setup(void)
{
    for (int i = 0; i < PIXELS; i++) {
        above[i] = i * 7;
        below[i] = i * 13 >> 2;
    }
    return 0;
}

static int avx2_setup(void)
{
    simd_setup();
    return !__builtin_cpu_supports("avx2");
}

static uint64_t simd_checksum(void)
{
    uint64_t hash = 1;

    for (int i = 0; i < PIXELS; i += 997)
        hash = mix(hash, blended[i]);
    for (int i = 0; i < PIXELS / 4; i += 991)
        hash = mix(hash, (uint64_t)(wave[i] * 1000));
    return hash;
}

static uint64_t sse2_batch(uint64_t *checksum)
{
    const __m128i zero = _mm_setzero_si128(), round = _mm_set1_epi16(128);
    const __m128i alpha = _mm_set1_epi16(180), beta = _mm_set1_epi16(76);

    for (int i = 0; i < PIXELS; i += 16) {
        __m128i a = _mm_load_si128((__m128i *)(above + i));
        __m128i b = _mm_load_si128((__m128i *)(below + i));
        __m128i low = _mm_add_epi16(_mm_mullo_epi16(_mm_unpacklo_epi8(a, zero), alpha),
                                    _mm_mullo_epi16(_mm_unpacklo_epi8(b, zero), beta));
        __m128i high = _mm_add_epi16(_mm_mullo_epi16(_mm_unpackhi_epi8(a, zero), alpha),
                                     _mm_mullo_epi16(_mm_unpackhi_epi8(b, zero), beta));
        low = _mm_srli_epi16(_mm_adds_epu16(low, round), 8);
        high = _mm_srli_epi16(_mm_adds_epu16(high, round), 8);
        __m128i mixed = _mm_max_epu8(_mm_packus_epi16(low, high), _mm_avg_epu8(a, b));
        _mm_store_si128((__m128i *)(blended + i), mixed);
    }
    for (int i = 0; i < PIXELS / 4; i += 4) {
        __m128 x = _mm_cvtepi32_ps(_mm_load_si128((__m128i *)(above + i * 4)));
        x = _mm_mul_ps(x, _mm_set1_ps(1e-9f));
        __m128 y = _mm_add_ps(_mm_mul_ps(x, x), _mm_set1_ps(0.5f));
        y = _mm_div_ps(_mm_sub_ps(y, x), _mm_sqrt_ps(_mm_max_ps(y, _mm_set1_ps(0.1f))));
        _mm_store_ps(wave + i, y);
    }
    *checksum = simd_checksum();
    return PIXELS / 1024;
}

__attribute__((target("avx2"))) static uint64_t avx2_batch(uint64_t *checksum)
{
    const __m256i zero = _mm256_setzero_si256(), round = _mm256_set1_epi16(128);
    const __m256i alpha = _mm256_set1_epi16(180), beta = _mm256_set1_epi16(76);

    for (int i = 0; i < PIXELS; i += 32) {
        __m256i a = _mm256_load_si256((__m256i *)(above + i));
        __m256i b = _mm256_load_si256((__m256i *)(below + i));
        __m256i low = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_unpacklo_epi8(a, zero), alpha),
                                       _mm256_mullo_epi16(_mm256_unpacklo_epi8(b, zero), beta));
        __m256i high = _mm256_add_epi16(_mm256_mullo_epi16(_mm256_unpackhi_epi8(a, zero), alpha),
                                        _mm256_mullo_epi16(_mm256_unpackhi_epi8(b, zero), beta));
        low = _mm256_srli_epi16(_mm256_adds_epu16(low, round), 8);
        high = _mm256_srli_epi16(_mm256_adds_epu16(high, round), 8);
        __m256i mixed = _mm256_max_epu8(_mm256_packus_epi16(low, high), _mm256_avg_epu8(a, b));
        _mm256_store_si256((__m256i *)(blended + i), mixed);
    }
    for (int i = 0; i < PIXELS / 4; i += 8) {
        __m256 x = _mm256_cvtepi32_ps(_mm256_load_si256((__m256i *)(above + i * 4)));
        x = _mm256_mul_ps(x, _mm256_set1_ps(1e-9f));
        __m256 y = _mm256_add_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.5f));
        y = _mm256_div_ps(_mm256_sub_ps(y, x),
                          _mm256_sqrt_ps(_mm256_max_ps(y, _mm256_set1_ps(0.1f))));
        _mm256_store_ps(wave + i, y);
    }
    *checksum = simd_checksum();
    return PIXELS / 1024;
}

const struct workload cpu_workloads[] = {
    {"cpu-int", "round", NULL, int_batch, NULL},
    {"cpu-indirect", "call", NULL, indirect_batch, NULL},
    {"cpu-jit", "function", jit_setup, jit_batch, NULL},
    {"cpu-fp", "step", NULL, fp_batch, NULL},
    {"cpu-x87", "step", NULL, x87_batch, NULL},
    {"cpu-sse2", "KiB", simd_setup, sse2_batch, NULL},
    {"cpu-avx2", "KiB", avx2_setup, avx2_batch, NULL},
    {0},
};
