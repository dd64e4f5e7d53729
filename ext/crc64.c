/* CRC-64/NVME by carry-less multiplication (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ").
 *
 * Reflected throughout: bit i of a 64-bit value is the coefficient of x^(63 - i), bit i of a 128-bit one that of x^(127 - i).
 * The carry-less product of two 64-bit values a and b is then, as a 128-bit value, x * a * b: each product brings one x along.
 * So nothing here multiplies plainly: times(a, b) is x * a * b mod P everywhere, and shift(n) is x^(8 n - 1) mod P, so that
 * times(a, shift(n)) is a with n zero bytes appended. All constants of all implementations are values of shift. */
#include "crc64.h"

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PS_X86 1
#include <immintrin.h>
#endif

#define POLY 0x9A6C9329AC4BC9B5u /* P without x^64 */
#define POLY_TOP 0x34D926535897936Bu /* P without its last coefficient, divided by x; also 1 / x, the neutral element of times */
#define MU_TOP 0x27ECFA329AEF9F77u /* x^128 / P without its last coefficient, divided by x: Barrett's constant */

#define SLICES 16
#define WINDOWS 8

static uint64_t slice[SLICES][256];    /* slice[k][b]: the checksum register after byte b and k zero bytes */
static uint64_t window[WINDOWS][256];  /* window[i][j]: shift(j * 256^i) */

static uint64_t times_portable(uint64_t a, uint64_t b)
{
    uint64_t product = 0;
    for (int i = 63; i >= 0; i--) {
        b = (b >> 1) ^ (POLY & -(b & 1));
        product ^= b & -((a >> i) & 1);
    }
    return product;
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

static uint64_t update_bytes(uint64_t state, const uint8_t *p, size_t n)
{
    for (; n > 0; n--, p++)
        state = (state >> 8) ^ slice[0][(uint8_t)state ^ *p];
    return state;
}

static inline uint64_t slices_of(uint64_t word, int last)
{
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++)
        sum ^= slice[last - i][(word >> (8 * i)) & 0xFF];
    return sum;
}

static uint64_t update_portable(uint64_t state, const uint8_t *p, size_t n)
{
    for (; n >= 16; n -= 16, p += 16)
        state = slices_of(load64(p) ^ state, 15) ^ slices_of(load64(p + 8), 7);
    return update_bytes(state, p, n);
}

#ifdef PS_X86
/* Folding constants: for a distance of n bytes shift(n + 8) in the low and shift(n) in the high half. */
enum { BY16, BY32, BY64, BY128, BY256, BY512, DISTANCES };
static uint64_t distance[DISTANCES][2] __attribute__((aligned(16)));

/* The processor's own prefetching lags behind these loops, in memory that is in no cache: with this they are as fast there as
 * any loop that only reads, a fifth faster than without. Past the end it does nothing. */
#define AHEAD 1024
#define PREFETCH(p) _mm_prefetch((const char *)(p) + AHEAD, _MM_HINT_T0)

#define TARGET_128 __attribute__((target("pclmul,sse4.1")))
#define TARGET_256 __attribute__((target("pclmul,sse4.1,avx2,vpclmulqdq")))
#define TARGET_512 __attribute__((target("pclmul,sse4.1,avx2,avx512f,avx512vl,avx512bw,avx512dq,vpclmulqdq")))

/* A 128-bit value mod P. */
TARGET_128 static inline uint64_t reduce(__m128i value)
{
    const __m128i barrett = _mm_set_epi64x((long long)POLY_TOP, (long long)MU_TOP);
    __m128i quotient = _mm_clmulepi64_si128(value, barrett, 0x00);
    __m128i multiple = _mm_clmulepi64_si128(quotient, barrett, 0x10);
    return (uint64_t)_mm_extract_epi64(_mm_xor_si128(value, multiple), 1) ^ (uint64_t)_mm_cvtsi128_si64(quotient);
}

TARGET_128 static uint64_t times_pclmul(uint64_t a, uint64_t b)
{
    return reduce(_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)b), 0x00));
}

TARGET_128 static inline __m128i fold128(__m128i sum, __m128i by, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(sum, by, 0x00);
    __m128i high = _mm_clmulepi64_si128(sum, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

TARGET_128 static inline __m128i load128(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

TARGET_128 static inline __m128i by128(int which) { return _mm_load_si128((const __m128i *)distance[which]); }

/* The end of every folding loop: `sum` stands for all bytes before p. */
TARGET_128 static inline uint64_t finish(__m128i sum, const uint8_t *p, size_t n)
{
    for (; n >= 16; n -= 16, p += 16)
        sum = fold128(sum, by128(BY16), load128(p));
    __m128i appended = _mm_clmulepi64_si128(sum, by128(BY16), 0x10); /* low half, times shift(16) */
    return update_bytes(reduce(_mm_xor_si128(appended, _mm_srli_si128(sum, 8))), p, n);
}

TARGET_128 static uint64_t update_pclmul(uint64_t state, const uint8_t *p, size_t n)
{
    if (n < 16)
        return update_bytes(state, p, n);
    __m128i start = _mm_cvtsi64_si128((long long)state);
    if (n < 128)
        return finish(_mm_xor_si128(load128(p), start), p + 16, n - 16);
    __m128i sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = load128(p + 16 * i);
    sum[0] = _mm_xor_si128(sum[0], start);
    p += 128, n -= 128;
    const __m128i by = by128(BY128);
    for (; n >= 128; n -= 128, p += 128)
        for (int i = 0; i < 8; i++) {
            if (i % 4 == 0)
                PREFETCH(p + 16 * i);
            sum[i] = fold128(sum[i], by, load128(p + 16 * i));
        }
    for (int i = 0; i < 4; i++)
        sum[4 + i] = fold128(sum[i], by128(BY64), sum[4 + i]);
    for (int i = 4; i < 6; i++)
        sum[2 + i] = fold128(sum[i], by128(BY32), sum[2 + i]);
    return finish(fold128(sum[6], by128(BY16), sum[7]), p, n);
}

TARGET_256 static inline __m256i fold256(__m256i sum, __m256i by, __m256i next)
{
    __m256i low = _mm256_clmulepi64_epi128(sum, by, 0x00);
    __m256i high = _mm256_clmulepi64_epi128(sum, by, 0x11);
    return _mm256_xor_si256(_mm256_xor_si256(low, high), next);
}

TARGET_256 static inline __m256i load256(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }

TARGET_256 static inline __m256i by256(int which) { return _mm256_broadcastsi128_si256(by128(which)); }

TARGET_256 static inline uint64_t finish256(__m256i sum, const uint8_t *p, size_t n)
{
    for (; n >= 32; n -= 32, p += 32)
        sum = fold256(sum, by256(BY32), load256(p));
    return finish(fold128(_mm256_castsi256_si128(sum), by128(BY16), _mm256_extracti128_si256(sum, 1)), p, n);
}

TARGET_256 static uint64_t update_vpclmul256(uint64_t state, const uint8_t *p, size_t n)
{
    if (n < 32)
        return update_pclmul(state, p, n);
    __m256i start = _mm256_zextsi128_si256(_mm_cvtsi64_si128((long long)state));
    if (n < 256)
        return finish256(_mm256_xor_si256(load256(p), start), p + 32, n - 32);
    __m256i sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = load256(p + 32 * i);
    sum[0] = _mm256_xor_si256(sum[0], start);
    p += 256, n -= 256;
    const __m256i by = by256(BY256);
    for (; n >= 256; n -= 256, p += 256)
        for (int i = 0; i < 8; i++) {
            if (i % 2 == 0)
                PREFETCH(p + 32 * i);
            sum[i] = fold256(sum[i], by, load256(p + 32 * i));
        }
    for (int i = 0; i < 4; i++)
        sum[4 + i] = fold256(sum[i], by256(BY128), sum[4 + i]);
    for (int i = 4; i < 6; i++)
        sum[2 + i] = fold256(sum[i], by256(BY64), sum[2 + i]);
    return finish256(fold256(sum[6], by256(BY32), sum[7]), p, n);
}

TARGET_512 static inline __m512i fold512(__m512i sum, __m512i by, __m512i next)
{
    __m512i low = _mm512_clmulepi64_epi128(sum, by, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(sum, by, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* exclusive or of three */
}

TARGET_512 static inline __m512i load512(const uint8_t *p) { return _mm512_loadu_si512(p); }

TARGET_512 static inline __m512i by512(int which) { return _mm512_broadcast_i32x4(by128(which)); }

TARGET_512 static inline uint64_t finish512(__m512i sum, const uint8_t *p, size_t n)
{
    for (; n >= 64; n -= 64, p += 64)
        sum = fold512(sum, by512(BY64), load512(p));
    return finish256(fold256(_mm512_castsi512_si256(sum), by256(BY32), _mm512_extracti64x4_epi64(sum, 1)), p, n);
}

TARGET_512 static uint64_t update_vpclmul512(uint64_t state, const uint8_t *p, size_t n)
{
    if (n < 64)
        return update_vpclmul256(state, p, n);
    __m512i start = _mm512_zextsi128_si512(_mm_cvtsi64_si128((long long)state));
    if (n < 512)
        return finish512(_mm512_xor_si512(load512(p), start), p + 64, n - 64);
    __m512i sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = load512(p + 64 * i);
    sum[0] = _mm512_xor_si512(sum[0], start);
    p += 512, n -= 512;
    const __m512i by = by512(BY512);
    for (; n >= 512; n -= 512, p += 512)
        for (int i = 0; i < 8; i++) {
            PREFETCH(p + 64 * i);
            sum[i] = fold512(sum[i], by, load512(p + 64 * i));
        }
    for (int i = 0; i < 4; i++)
        sum[4 + i] = fold512(sum[i], by512(BY256), sum[4 + i]);
    for (int i = 4; i < 6; i++)
        sum[2 + i] = fold512(sum[i], by512(BY128), sum[2 + i]);
    return finish512(fold512(sum[6], by512(BY64), sum[7]), p, n);
}
#endif

typedef struct {
    const char *name;
    uint64_t (*update)(uint64_t state, const uint8_t *p, size_t n);
    uint64_t (*times)(uint64_t a, uint64_t b);
} implementation;

static implementation offered[PS_CRC64_IMPLEMENTATIONS] = {{"portable", update_portable, times_portable}};
static size_t offered_count = 1;
static implementation used;

static uint64_t shift(uint64_t bytes)
{
    uint64_t power = POLY_TOP;
    for (int i = 0; bytes > 0; i++, bytes >>= 8)
        if (bytes & 0xFF)
            power = power == POLY_TOP ? window[i][bytes & 0xFF] : used.times(power, window[i][bytes & 0xFF]);
    return power;
}

__attribute__((constructor)) static void fill_tables_and_choose(void)
{
    for (int b = 0; b < 256; b++) {
        uint64_t state = (uint64_t)b;
        for (int bit = 0; bit < 8; bit++)
            state = (state >> 1) ^ (POLY & -(state & 1));
        slice[0][b] = state;
    }
    for (int k = 1; k < SLICES; k++)
        for (int b = 0; b < 256; b++)
            slice[k][b] = (slice[k - 1][b] >> 8) ^ slice[0][(uint8_t)slice[k - 1][b]];

    uint64_t base = (uint64_t)1 << 56; /* x^7 = shift(1) */
    for (int i = 0; i < WINDOWS; i++) {
        window[i][0] = POLY_TOP;
        for (int j = 1; j < 256; j++)
            window[i][j] = times_portable(window[i][j - 1], base);
        base = times_portable(window[i][255], base);
    }
    used = offered[0];

#ifdef PS_X86
    for (int i = 0; i < DISTANCES; i++) {
        distance[i][0] = shift(((uint64_t)16 << i) + 8);
        distance[i][1] = shift((uint64_t)16 << i);
    }
    __builtin_cpu_init();
    if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
        offered[offered_count++] = (implementation){"pclmul", update_pclmul, times_pclmul};
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq")) {
            offered[offered_count++] = (implementation){"vpclmul256", update_vpclmul256, times_pclmul};
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
                offered[offered_count++] = (implementation){"vpclmul512", update_vpclmul512, times_pclmul};
        }
    }
    used = offered[offered_count - 1];
#endif
}

uint64_t ps_crc64(const void *data, size_t n, uint64_t crc) { return ~used.update(~crc, data, n); }

/* crc(A B) = register of A, moved on over B, exclusive or what B adds from a zero register. Written with the checksums of A and
 * of B instead, which have the all-ones of start and end in them, each of these occurs twice and cancels out. */
uint64_t ps_crc64_combine(uint64_t crc_a, uint64_t crc_b, uint64_t length_b)
{
    return used.times(crc_a, shift(length_b)) ^ crc_b;
}

uint64_t ps_crc64_zeros(uint64_t length, uint64_t crc) { return ~used.times(~crc, shift(length)); }

uint64_t ps_crc64_fold(const uint64_t *crcs, const int64_t *lengths, size_t n, uint64_t crc)
{
    int64_t length = 0; /* most pieces are as long as the one before */
    uint64_t power = POLY_TOP;
    for (size_t i = 0; i < n; i++) {
        if (lengths[i] != length) {
            length = lengths[i];
            power = shift((uint64_t)length);
        }
        crc = used.times(crc, power) ^ crcs[i];
    }
    return crc;
}

size_t ps_crc64_implementations(const char *names[PS_CRC64_IMPLEMENTATIONS])
{
    for (size_t i = 0; i < offered_count; i++)
        names[i] = offered[i].name;
    return offered_count;
}

const char *ps_crc64_implementation(void) { return used.name; }

int ps_crc64_use(const char *name)
{
    for (size_t i = 0; i < offered_count; i++)
        if (strcmp(offered[i].name, name) == 0) {
            used = offered[i];
            return 0;
        }
    return -1;
}
