/* A sample of 4 KiB, in pieces spread over the block, is compressed as it is and as planes; the smallest wins. Two things keep
 * that cheap. Planes are tried only if some plane's bytes are distributed unevenly: where every value is as frequent as any
 * other in each of the 8 byte positions, there is nothing for it to gather. And LZ4 itself runs through data without matches at
 * several times its usual speed. */
#include "probe.h"

#include <string.h>

#include "lz4fn.h"
#include "planes.h"
#include "shuffle.h"

#define SAMPLE_BYTES 4096
#define BOUND(n) ((n) + (n) / 255 + 16) /* LZ4_COMPRESSBOUND: with less room it may give up on what would just fit */
#define PIECES 4
#define PIECE_BYTES (SAMPLE_BYTES / PIECES)

/* A choice must win by this much in the sample. LZ4: what saves less than a 20th is not worth the copy and the decoding. A wider
 * shuffle: a 64th, for two widths that do equally well differ by chance. */
#define WORTH(bytes) ((bytes) - (bytes) / 20)
#define CLEARLY(bytes) ((bytes) - (bytes) / 64)

typedef struct {
    uint8_t sample[SAMPLE_BYTES];
    uint8_t planes[PS_PLANES_SCRATCH(SAMPLE_BYTES)];
    uint8_t apart[SAMPLE_BYTES / 2]; /* the output half a page away from the inputs: see ps_copy_bytes, LZ4 uses memcpy */
    uint8_t compressed[BOUND(SAMPLE_BYTES)];
    uint32_t frequency[8][256];
    uint64_t state[]; /* LZ4's */
} workspace;

size_t ps_probe_scratch_bytes(void) { return sizeof(workspace) + (size_t)ps_lz4.state_bytes(); }

int ps_is_zero(const uint8_t *block, size_t n)
{
    for (; n >= 256; n -= 256, block += 256) {
        uint64_t any = 0;
        for (int i = 0; i < 32; i++) {
            uint64_t word;
            memcpy(&word, block + 8 * i, sizeof word);
            any |= word;
        }
        if (any != 0)
            return 0;
    }
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= block[i];
    return any == 0;
}

/* Pieces start at multiples of 8 bytes, so that each byte keeps its position in the element. */
static size_t take_sample(workspace *w, const uint8_t *block, size_t n)
{
    if (n <= SAMPLE_BYTES) {
        memcpy(w->sample, block, n);
        return n;
    }
    for (size_t i = 0; i < PIECES; i++) {
        size_t start = (n - PIECE_BYTES) / (PIECES - 1) * i / 8 * 8;
        memcpy(w->sample + i * PIECE_BYTES, block + start, PIECE_BYTES);
    }
    return SAMPLE_BYTES;
}

/* Is the distribution in one of the byte positions uneven? The sum of the squared frequencies is about c + c^2 / 256 for c even
 * ones, whose standard deviation is c / 11; twice the sum is 20 deviations away, and 6.4 bits a byte: more even than anything
 * that LZ4 makes smaller. */
static int is_uneven(workspace *w, size_t n)
{
    memset(w->frequency, 0, sizeof w->frequency);
    size_t count = 0; /* of each position: every second group of 8 bytes is enough */
    for (size_t i = 0; i + 8 <= n; i += 16, count++)
        for (int position = 0; position < 8; position++)
            w->frequency[position][w->sample[i + (size_t)position]]++;
    for (int position = 0; position < 8; position++) {
        uint32_t sum = 0;
        for (int value = 0; value < 256; value++)
            sum += w->frequency[position][value] * w->frequency[position][value];
        if (sum > 2 * (count + count * count / 256))
            return 1;
    }
    return 0;
}

static size_t compressed_bytes(workspace *w, const uint8_t *bytes, size_t n)
{
    int size = ps_lz4.compress(w->state, (const char *)bytes, (char *)w->compressed, (int)n, (int)sizeof w->compressed, 1);
    return size > 0 && (size_t)size < n ? (size_t)size : n;
}

int ps_probe(const uint8_t *block, size_t n, int width_hint, ps_choice *out, void *scratch)
{
    workspace *w = scratch;
    *out = (ps_choice){.codec = PS_CODEC_RAW, .width = 0, .permille = 1000};
    if (n > PS_LZ4_MAX_INPUT)
        return -1;
    if (ps_is_zero(block, n)) {
        *out = (ps_choice){.codec = PS_CODEC_ZERO, .width = 0, .permille = 0};
        return 0;
    }

    size_t sampled = take_sample(w, block, n);
    size_t best = compressed_bytes(w, w->sample, sampled);
    int best_width = 0;
    if (width_hint != 1 && is_uneven(w, sampled)) {
        int known = ps_shuffle_width_ok(width_hint);
        for (int width = known ? width_hint : 2; width <= (known ? width_hint : 8); width *= 2) {
            size_t size = ps_planes_compress(w->sample, sampled, width, NULL, 1, w->state, w->planes, w->compressed);
            if (size < CLEARLY(best)) {
                best = size;
                best_width = width;
            }
        }
    }
    if (best < WORTH(sampled))
        *out = (ps_choice){.codec = best_width != 0 ? PS_CODEC_PLANES : PS_CODEC_LZ4,
                           .width = (uint8_t)best_width,
                           .permille = (uint16_t)(best * 1000 / sampled)};
    return 0;
}
