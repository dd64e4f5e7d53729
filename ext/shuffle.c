/* One algorithm for every vector: `width` vectors of 16 elements are taken apart in log2(width) steps, each of which separates
 * the even bytes of all vectors from the odd ones; the way back is the interleaving of bytes, as often. A vector's place after
 * the steps is its plane's number with the bits reversed. AVX2 works on two independent groups of 16 elements, one in each
 * lane. */
#include "shuffle.h"

#include <string.h>

static void shuffle_portable(const uint8_t *src, uint8_t *const *planes, size_t first, size_t count, int width)
{
    for (int plane = 0; plane < width; plane++)
        for (size_t i = first; i < count; i++)
            planes[plane][i] = src[i * (size_t)width + (size_t)plane];
}

static void unshuffle_portable(const uint8_t *const *planes, uint8_t *dst, size_t first, size_t count, int width)
{
    for (int plane = 0; plane < width; plane++)
        for (size_t i = first; i < count; i++)
            dst[i * (size_t)width + (size_t)plane] = planes[plane][i];
}

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PS_X86 1
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define TARGET_AVX2 __attribute__((target("avx2")))

INLINE int plane_of(int place, int width)
{
    const int reversed[8] = {0, 4, 2, 6, 1, 5, 3, 7};
    return reversed[place] * width / 8;
}

INLINE void separate128(__m128i *v, int width)
{
    const __m128i even = _mm_set1_epi16(0x00FF);
    __m128i next[8];
#pragma GCC unroll 4
    for (int group = width; group > 1; group /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < width / 2; i++) {
            int from = 2 * i, to = from / group * group + from % group / 2;
            next[to] = _mm_packus_epi16(_mm_and_si128(v[from], even), _mm_and_si128(v[from + 1], even));
            next[to + group / 2] = _mm_packus_epi16(_mm_srli_epi16(v[from], 8), _mm_srli_epi16(v[from + 1], 8));
        }
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = next[i];
    }
}

INLINE void interleave128(__m128i *v, int width)
{
    __m128i next[8];
#pragma GCC unroll 4
    for (int group = 2; group <= width; group *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < width / 2; i++) {
            int to = 2 * i, from = to / group * group + to % group / 2;
            next[to] = _mm_unpacklo_epi8(v[from], v[from + group / 2]);
            next[to + 1] = _mm_unpackhi_epi8(v[from], v[from + group / 2]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = next[i];
    }
}

INLINE size_t shuffle128(const uint8_t *src, uint8_t *const *planes, size_t count, int width)
{
    size_t first = 0;
    uint8_t *to[8]; /* by place */
#pragma GCC unroll 8
    for (int i = 0; i < width; i++)
        to[i] = planes[plane_of(i, width)];
    for (; first + 16 <= count; first += 16) {
        __m128i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = _mm_loadu_si128((const __m128i *)(src + first * (size_t)width + 16 * i));
        separate128(v, width);
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            _mm_storeu_si128((__m128i *)(to[i] + first), v[i]);
    }
    return first;
}

INLINE size_t unshuffle128(const uint8_t *const *planes, uint8_t *dst, size_t count, int width)
{
    size_t first = 0;
    const uint8_t *from[8]; /* by place */
#pragma GCC unroll 8
    for (int i = 0; i < width; i++)
        from[i] = planes[plane_of(i, width)];
    for (; first + 16 <= count; first += 16) {
        __m128i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = _mm_loadu_si128((const __m128i *)(from[i] + first));
        interleave128(v, width);
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            _mm_storeu_si128((__m128i *)(dst + first * (size_t)width + 16 * i), v[i]);
    }
    return first;
}

TARGET_AVX2 INLINE void separate256(__m256i *v, int width)
{
    const __m256i even = _mm256_set1_epi16(0x00FF);
    __m256i next[8];
#pragma GCC unroll 4
    for (int group = width; group > 1; group /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < width / 2; i++) {
            int from = 2 * i, to = from / group * group + from % group / 2;
            next[to] = _mm256_packus_epi16(_mm256_and_si256(v[from], even), _mm256_and_si256(v[from + 1], even));
            next[to + group / 2] = _mm256_packus_epi16(_mm256_srli_epi16(v[from], 8), _mm256_srli_epi16(v[from + 1], 8));
        }
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = next[i];
    }
}

TARGET_AVX2 INLINE void interleave256(__m256i *v, int width)
{
    __m256i next[8];
#pragma GCC unroll 4
    for (int group = 2; group <= width; group *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < width / 2; i++) {
            int to = 2 * i, from = to / group * group + to % group / 2;
            next[to] = _mm256_unpacklo_epi8(v[from], v[from + group / 2]);
            next[to + 1] = _mm256_unpackhi_epi8(v[from], v[from + group / 2]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = next[i];
    }
}

TARGET_AVX2 INLINE size_t shuffle256(const uint8_t *src, uint8_t *const *planes, size_t count, int width)
{
    size_t first = 0;
    uint8_t *to[8]; /* by place */
#pragma GCC unroll 8
    for (int i = 0; i < width; i++)
        to[i] = planes[plane_of(i, width)];
    for (; first + 32 <= count; first += 32) {
        const uint8_t *low = src + first * (size_t)width, *high = low + 16 * width;
        __m256i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = _mm256_loadu2_m128i((const __m128i *)(high + 16 * i), (const __m128i *)(low + 16 * i));
        separate256(v, width);
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            _mm256_storeu_si256((__m256i *)(to[i] + first), v[i]);
    }
    return first;
}

TARGET_AVX2 INLINE size_t unshuffle256(const uint8_t *const *planes, uint8_t *dst, size_t count, int width)
{
    size_t first = 0;
    const uint8_t *from[8]; /* by place */
#pragma GCC unroll 8
    for (int i = 0; i < width; i++)
        from[i] = planes[plane_of(i, width)];
    for (; first + 32 <= count; first += 32) {
        uint8_t *low = dst + first * (size_t)width, *high = low + 16 * width;
        __m256i v[8];
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            v[i] = _mm256_loadu_si256((const __m256i *)(from[i] + first));
        interleave256(v, width);
#pragma GCC unroll 8
        for (int i = 0; i < width; i++)
            _mm256_storeu2_m128i((__m128i *)(high + 16 * i), (__m128i *)(low + 16 * i), v[i]);
    }
    return first;
}

/* The width is a constant in each call, so that the loops above become straight code. */
static void shuffle_sse2(const uint8_t *src, uint8_t *const *planes, size_t first, size_t count, int width)
{
    first = width == 2   ? shuffle128(src, planes, count, 2)
            : width == 4 ? shuffle128(src, planes, count, 4)
                         : shuffle128(src, planes, count, 8);
    shuffle_portable(src, planes, first, count, width);
}

static void unshuffle_sse2(const uint8_t *const *planes, uint8_t *dst, size_t first, size_t count, int width)
{
    first = width == 2   ? unshuffle128(planes, dst, count, 2)
            : width == 4 ? unshuffle128(planes, dst, count, 4)
                         : unshuffle128(planes, dst, count, 8);
    unshuffle_portable(planes, dst, first, count, width);
}

TARGET_AVX2 static void shuffle_avx2(const uint8_t *src, uint8_t *const *planes, size_t first, size_t count, int width)
{
    first = width == 2   ? shuffle256(src, planes, count, 2)
            : width == 4 ? shuffle256(src, planes, count, 4)
                         : shuffle256(src, planes, count, 8);
    shuffle_portable(src, planes, first, count, width);
}

TARGET_AVX2 static void unshuffle_avx2(const uint8_t *const *planes, uint8_t *dst, size_t first, size_t count, int width)
{
    first = width == 2   ? unshuffle256(planes, dst, count, 2)
            : width == 4 ? unshuffle256(planes, dst, count, 4)
                         : unshuffle256(planes, dst, count, 8);
    unshuffle_portable(planes, dst, first, count, width);
}
#endif

typedef struct {
    const char *name;
    void (*shuffle)(const uint8_t *src, uint8_t *const *planes, size_t first, size_t count, int width);
    void (*unshuffle)(const uint8_t *const *planes, uint8_t *dst, size_t first, size_t count, int width);
} implementation;

static implementation offered[PS_SHUFFLE_IMPLEMENTATIONS] = {{"portable", shuffle_portable, unshuffle_portable}};
static size_t offered_count = 1;
static implementation used;

__attribute__((constructor)) static void choose(void)
{
#ifdef PS_X86
    offered[offered_count++] = (implementation){"sse2", shuffle_sse2, unshuffle_sse2};
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        offered[offered_count++] = (implementation){"avx2", shuffle_avx2, unshuffle_avx2};
#endif
    used = offered[offered_count - 1];
}

void ps_shuffle(const uint8_t *src, uint8_t *const *planes, size_t count, int width) { used.shuffle(src, planes, 0, count, width); }

void ps_unshuffle(const uint8_t *const *planes, uint8_t *dst, size_t count, int width) { used.unshuffle(planes, dst, 0, count, width); }

size_t ps_shuffle_implementations(const char *names[PS_SHUFFLE_IMPLEMENTATIONS])
{
    for (size_t i = 0; i < offered_count; i++)
        names[i] = offered[i].name;
    return offered_count;
}

const char *ps_shuffle_implementation(void) { return used.name; }

int ps_shuffle_use(const char *name)
{
    for (size_t i = 0; i < offered_count; i++)
        if (strcmp(offered[i].name, name) == 0) {
            used = offered[i];
            return 0;
        }
    return -1;
}
