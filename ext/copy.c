#include "copy.h"

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define PS_X86 1
#include <immintrin.h>
#endif

#define PAGE 4096
#define LINE 64
#define REP_MOVSB_MIN 2048 /* glibc's least threshold */

static inline int leaves(size_t bytes, int64_t offset, int64_t length)
{
    return offset < 0 || (uint64_t)offset > bytes || (uint64_t)length > bytes - (uint64_t)offset;
}

int64_t ps_copy_check(size_t src_bytes, const int64_t *src_offsets, size_t dst_bytes, const int64_t *dst_offsets,
                      const int64_t *lengths, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (lengths[i] < 0 || leaves(src_bytes, src_offsets[i], lengths[i]) || leaves(dst_bytes, dst_offsets[i], lengths[i]))
            return (int64_t)i;
    return -1;
}

/* A constant length becomes one load and one store; two that may overlap cover the lengths between two powers of two. All loads
 * come before the stores, as in memmove. */
static inline void copy_small(uint8_t *dst, const uint8_t *src, size_t n)
{
#define PAIR(type)                                  \
    do {                                            \
        type head, tail;                            \
        memcpy(&head, src, sizeof head);            \
        memcpy(&tail, src + n - sizeof tail, sizeof tail); \
        memcpy(dst, &head, sizeof head);            \
        memcpy(dst + n - sizeof tail, &tail, sizeof tail); \
    } while (0)
    typedef struct { uint64_t low, high; } sixteen;
    if (n > 16)
        PAIR(sixteen);
    else if (n >= 8)
        PAIR(uint64_t);
    else if (n >= 4)
        PAIR(uint32_t);
    else if (n >= 2)
        PAIR(uint16_t);
    else if (n == 1)
        *dst = *src;
#undef PAIR
}

#ifdef PS_X86
static size_t copy_lines(uint8_t *dst, const uint8_t *src, size_t n)
{
    size_t done = 0;
    for (; done + LINE <= n; done += LINE) {
        const __m128i *from = (const __m128i *)(src + done);
        __m128i *to = (__m128i *)(dst + done);
        __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
        __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
        _mm_storeu_si128(to, a);
        _mm_storeu_si128(to + 1, b);
        _mm_storeu_si128(to + 2, c);
        _mm_storeu_si128(to + 3, d);
    }
    return done;
}
#endif

void ps_copy_bytes(uint8_t *dst, const uint8_t *src, size_t n)
{
#ifdef PS_X86
    size_t ahead = (size_t)((uintptr_t)dst - (uintptr_t)src);
    if (n >= REP_MOVSB_MIN && ahead >= n && ahead % PAGE - 1 < LINE) { /* ahead >= n: forwards is right where they overlap */
        size_t done = copy_lines(dst, src, n);
        dst += done, src += done, n -= done;
    }
#endif
    if (n > 0)
        memmove(dst, src, n);
}

int64_t ps_copy_extents(const uint8_t *src, const int64_t *src_offsets, uint8_t *dst, const int64_t *dst_offsets,
                        const int64_t *lengths, size_t n)
{
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        size_t length = (size_t)lengths[i];
        if (length <= 32)
            copy_small(dst + dst_offsets[i], src + src_offsets[i], length);
        else
            ps_copy_bytes(dst + dst_offsets[i], src + src_offsets[i], length);
        total += lengths[i];
    }
    return total;
}
