#include "planes.h"

#include <string.h>

#include "copy.h"
#include "lz4fn.h"
#include "shuffle.h"

enum { PLANE_RAW = 0, PLANE_LZ4 = 1, PLANE_CONSTANT = 2 }; /* on disk, 2 bits each */

#define KINDS_BYTES 2  /* the kinds of all planes */
#define LENGTH_BYTES 4 /* before the bytes of an LZ4 plane */
#define BACKOFF_MAX 4  /* at most 2^4 - 1 blocks are left raw without a trial */

/* Planes in scratch lie a cache line more apart than they are long: at powers of two, all would share the same sets of the cache. */
static inline size_t stride(size_t count) { return (count + 63) / 64 * 64 + 64; }

static int is_constant(const uint8_t *plane, size_t count) { return count != 0 && memcmp(plane, plane + 1, count - 1) == 0; }

/* LZ4's bytes at dst, which are fewer than the plane's even with their length before them; or 0. */
static size_t compress_plane(const uint8_t *plane, size_t count, int acceleration, void *lz4_state, uint8_t *dst)
{
    if (count <= LENGTH_BYTES + 1)
        return 0;
    int room = (int)count - LENGTH_BYTES - 1;
    int size = ps_lz4.compress(lz4_state, (const char *)plane, (char *)dst + LENGTH_BYTES, (int)count, room, acceleration);
    if (size <= 0)
        return 0;
    uint32_t length = (uint32_t)size;
    memcpy(dst, &length, LENGTH_BYTES);
    return LENGTH_BYTES + (size_t)size;
}

size_t ps_planes_compress(const uint8_t *block, size_t n, int width, ps_trials *trials, int acceleration, void *lz4_state,
                          uint8_t *scratch, uint8_t *dst)
{
    size_t count = n / (size_t)width, tail = n % (size_t)width;
    uint8_t *out = dst + KINDS_BYTES;
    uint8_t *planes[PS_PLANES_MAX];
    int first = 0; /* before it are planes that will be raw, whose place is known: they need no copy */
    while (trials != NULL && first < width && trials->wait[first] != 0) {
        trials->wait[first]--;
        planes[first++] = out;
        out += count;
    }
    for (int i = first; i < width; i++)
        planes[i] = scratch + (size_t)i * stride(count);
    ps_shuffle(block, planes, count, width);

    uint32_t kinds = 0;
    for (int i = first; i < width; i++) {
        size_t size = 0;
        if (trials != NULL && trials->wait[i] != 0)
            trials->wait[i]--;
        else if (is_constant(planes[i], count)) {
            kinds |= PLANE_CONSTANT << 2 * i;
            *out++ = planes[i][0];
            continue;
        }
        else {
            size = compress_plane(planes[i], count, acceleration, lz4_state, out);
            if (trials != NULL) {
                trials->wait[i] = size != 0 ? 0 : (uint8_t)((1 << trials->backoff[i]) - 1);
                trials->backoff[i] = size != 0 ? 0 : trials->backoff[i] < BACKOFF_MAX ? trials->backoff[i] + 1 : BACKOFF_MAX;
            }
        }
        if (size != 0)
            kinds |= PLANE_LZ4 << 2 * i;
        else {
            ps_copy_bytes(out, planes[i], count);
            size = count;
        }
        out += size;
    }
    dst[0] = (uint8_t)kinds;
    dst[1] = (uint8_t)(kinds >> 8);
    memcpy(out, block + n - tail, tail);
    return (size_t)(out - dst) + tail;
}

int ps_planes_decompress(const uint8_t *stored, size_t stored_bytes, uint8_t *block, size_t n, int width, uint8_t *scratch)
{
    size_t count = n / (size_t)width, tail = n % (size_t)width;
    const uint8_t *at = stored, *const end = stored + stored_bytes;
    const uint8_t *planes[PS_PLANES_MAX];
    if (count == 0 || stored_bytes < KINDS_BYTES)
        return -1;
    uint32_t kinds = at[0] | (uint32_t)at[1] << 8;
    at += KINDS_BYTES;
    if (kinds >> 2 * width != 0)
        return -1;
    for (int i = 0; i < width; i++) {
        uint8_t *plane = scratch + (size_t)i * stride(count);
        size_t left = (size_t)(end - at);
        planes[i] = plane;
        switch (kinds >> 2 * i & 3) {
        case PLANE_RAW:
            if (left < count)
                return -1;
            planes[i] = at;
            at += count;
            break;
        case PLANE_CONSTANT:
            if (left < 1)
                return -1;
            memset(plane, *at++, count);
            break;
        case PLANE_LZ4: {
            uint32_t size;
            if (left < LENGTH_BYTES)
                return -1;
            memcpy(&size, at, LENGTH_BYTES);
            at += LENGTH_BYTES;
            if (size >= count || size > left - LENGTH_BYTES)
                return -1;
            if (ps_lz4.decompress((const char *)at, (char *)plane, (int)size, (int)count) != (int)count)
                return -1;
            at += size;
            break;
        }
        default:
            return -1;
        }
    }
    if ((size_t)(end - at) != tail)
        return -1;
    ps_unshuffle(planes, block, count, width);
    memcpy(block + n - tail, at, tail);
    return 0;
}
