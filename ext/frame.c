/* What a frame is: check it, find it, place it, write it. */
#include "frame.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc64.h"
#include "shuffle.h"

#define WRITE_MAX 0x7ffff000u /* Linux moves no more in one call */
#define VECTORS 1024          /* Linux's IOV_MAX */

/* --- check and find -------------------------------------------------------------------------------------------------- */

ps_block ps_frame_block(const uint8_t *bytes, uint32_t i)
{
    ps_block block;
    memcpy(&block, bytes + sizeof(ps_frame_header) + i * sizeof block, sizeof block);
    return block;
}

static int check_blocks(const uint8_t *bytes, const ps_frame_header *header)
{
    uint64_t stored = 0;
    for (uint32_t i = 0; i < header->block_count; i++) {
        ps_block block = ps_frame_block(bytes, i);
        uint32_t raw = 1u << header->block_log2;
        if (i == header->block_count - 1)
            raw = header->raw_bytes - (i << header->block_log2);
        if (block.codec > PS_CODEC_PLANES || !(block.codec == PS_CODEC_PLANES ? ps_shuffle_width_ok(block.width) : block.width == 0))
            return PS_DAMAGE_UNKNOWN;
        if (block.codec == PS_CODEC_RAW ? block.stored_bytes != raw
                                        : block.codec == PS_CODEC_ZERO ? block.stored_bytes != 0
                                                                       : block.stored_bytes == 0 || block.stored_bytes > raw)
            return PS_DAMAGE_LENGTHS;
        stored += block.stored_bytes;
    }
    return stored == header->payload_bytes ? 0 : PS_DAMAGE_LENGTHS;
}

static int check_extents(const uint8_t *bytes, const ps_frame_header *header)
{
    if ((header->flags & PS_FRAME_PART) == 0)
        return header->extent_count == 0 ? 0 : PS_DAMAGE_LENGTHS;
    const uint8_t *table = bytes + sizeof *header + header->block_count * sizeof(ps_block);
    uint64_t total = 0;
    for (uint32_t i = 0; i < header->extent_count; i++) {
        ps_extent extent;
        memcpy(&extent, table + i * sizeof extent, sizeof extent);
        if (extent.offset > PS_STRIPE_MAX || extent.length > PS_STRIPE_MAX - extent.offset)
            return PS_DAMAGE_LENGTHS;
        total += extent.length;
    }
    return total == header->raw_bytes ? 0 : PS_DAMAGE_LENGTHS;
}

int ps_frame_check(const uint8_t *bytes, size_t available, ps_frame_header *out, uint64_t *seen)
{
    *seen = 0;
    if (available < sizeof *out)
        return PS_DAMAGE_END;
    memcpy(out, bytes, sizeof *out);
    if (out->magic != PS_FRAME_MAGIC) {
        *seen = out->magic;
        return PS_DAMAGE_MAGIC;
    }
    /* Lengths that make the checksum impossible are taken for a bad checksum: one changed bit is enough for either. */
    if (out->block_count > PS_HEADER_MAX / sizeof(ps_block) || out->extent_count > PS_HEADER_MAX / sizeof(ps_extent))
        return PS_DAMAGE_HEADER;
    size_t tables = ps_tables_bytes(out->block_count, out->extent_count);
    if (tables > available - sizeof *out)
        return PS_DAMAGE_HEADER;
    *seen = ps_crc64(bytes + sizeof *out, tables, ps_crc64(bytes, PS_HEADER_CHECKED, 0));
    if (*seen != out->header_crc)
        return PS_DAMAGE_HEADER;
    *seen = 0;
    if ((out->flags & ~PS_FRAME_PART) != 0 || out->block_log2 < PS_BLOCK_LOG2_MIN || out->block_log2 > PS_BLOCK_LOG2_MAX) {
        *seen = (uint64_t)out->block_log2 << 16 | out->flags;
        return PS_DAMAGE_UNKNOWN;
    }
    if (out->raw_bytes == 0 || out->raw_bytes > PS_STRIPE_MAX || out->block_count != ps_block_count(out->raw_bytes, out->block_log2) ||
        out->header_bytes % PS_FRAME_ALIGN != 0 || out->header_bytes > PS_HEADER_MAX || out->header_bytes > available ||
        out->header_bytes < sizeof *out + tables) {
        *seen = out->header_bytes;
        return PS_DAMAGE_LENGTHS;
    }
    int bad = check_blocks(bytes, out);
    return bad != 0 ? bad : check_extents(bytes, out);
}

size_t ps_frame_find(const uint8_t *bytes, size_t n, size_t start, ps_frame_header *out)
{
    uint64_t seen;
    if (start > n)
        return n;
    for (size_t at = ps_align(start); at < n; at += PS_FRAME_ALIGN) {
        uint32_t magic;
        if (n - at < sizeof *out)
            break;
        memcpy(&magic, bytes + at, sizeof magic);
        if (magic == PS_FRAME_MAGIC && ps_frame_check(bytes + at, n - at, out, &seen) == 0)
            return at;
    }
    return n;
}

/* --- place ----------------------------------------------------------------------------------------------------------- */

/* The kernel's copy between page cache and user memory takes 2 to 4 times as long when the destination's address is 1 to 31 above the
 * source's, modulo 4096. Buffers begin at 0 there, or at 16 (numpy), so a big raw payload keeps 128 bytes away from page borders. */
#define PAGE 4096u
#define AWAY 128u
#define BIG (64u << 10)

uint64_t ps_frame_place(const ps_frame *frame, uint64_t at)
{
    at = (at + PS_FRAME_ALIGN - 1) & ~(uint64_t)(PS_FRAME_ALIGN - 1);
    if (frame->all_raw && frame->payload_bytes >= BIG) {
        uint32_t phase = (uint32_t)(at + frame->header_bytes) % PAGE;
        if (phase < AWAY)
            at += AWAY - phase;
        else if (phase > PAGE - AWAY)
            at += PAGE + AWAY - phase;
    }
    return at;
}

uint64_t ps_frames_place(const ps_frame *frames, size_t n, uint64_t start, uint64_t *offsets)
{
    for (size_t i = 0; i < n; i++) {
        start = ps_frame_place(&frames[i], start);
        if (offsets != NULL)
            offsets[i] = start;
        start += (uint64_t)frames[i].header_bytes + frames[i].payload_bytes;
    }
    return start;
}

/* --- source ---------------------------------------------------------------------------------------------------------- */

size_t ps_source_find(const ps_source *source, int64_t at, size_t n, const uint8_t **start)
{
    size_t low = 0, high = source->n; /* extents before `low` begin at or before `at`, those from `high` on behind it */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (source->places[middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    *start = source->data + at;
    if (low > 0) {
        int64_t within = at - source->places[low - 1];
        size_t left = (size_t)source->lengths[low - 1];
        if ((size_t)within < left) {
            *start = source->other + source->offsets[low - 1] + within;
            left -= (size_t)within;
            return left < n ? left : n;
        }
    }
    if (low < source->n && source->places[low] - at < (int64_t)n)
        n = (size_t)(source->places[low] - at);
    return n;
}

/* --- write ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *start;
    size_t n;
} piece;

/* Goes through a run of frames, piece by piece: gap, header, stretches of compressed or of raw blocks. */
typedef struct {
    const ps_frame *frame;
    const ps_frame *last;
    uint64_t at;        /* of the next byte in the file */
    uint32_t block;     /* next block of `frame` */
    const uint8_t *ours; /* its place in our memory, if it is compressed; NULL = header not given yet */
    const ps_source *source; /* raw blocks still to be given: where they are, and how many bytes */
    int64_t raw;
    size_t raw_left;
} cursor;

static int next_piece(cursor *c, piece *out)
{
    static const uint8_t zeros[PAGE];
    for (;;) {
        if (c->raw_left != 0) {
            out->n = ps_source_find(c->source, c->raw, c->raw_left, &out->start);
            c->raw += (int64_t)out->n;
            c->raw_left -= out->n;
            c->at += out->n;
            return 1;
        }
        if (c->frame == c->last)
            return 0;
        const ps_frame *frame = c->frame;
        if (c->ours == NULL) {
            uint64_t place = ps_frame_place(frame, c->at);
            if (place > c->at) {
                *out = (piece){zeros, place - c->at};
                c->at = place;
                return 1;
            }
        }
        *out = (piece){c->ours, 0};
        if (c->ours == NULL) {
            *out = (piece){frame->header, frame->header_bytes};
            c->ours = frame->header + frame->header_bytes;
            c->block = 0;
        }
        /* As many blocks as lie side by side; the first raw one ends what is ours, the first compressed one what is the caller's. */
        for (; c->block < frame->block_count; c->block++) {
            ps_block block = ps_frame_block(frame->header, c->block);
            if (block.stored_bytes == 0)
                continue;
            int64_t at = frame->raw + ((int64_t)c->block << frame->block_log2);
            if (block.codec == PS_CODEC_RAW) {
                if (out->n != 0 || (c->raw_left != 0 && c->raw + (int64_t)c->raw_left != at))
                    break; /* what is ours comes first; or a zero block is in between */
                if (c->raw_left == 0)
                    c->raw = at;
                c->raw_left += block.stored_bytes;
            }
            else {
                if (c->raw_left != 0)
                    break;
                c->ours += block.stored_bytes;
                out->n += block.stored_bytes;
            }
        }
        c->source = frame->source;
        if (c->block == frame->block_count) {
            c->frame++;
            c->ours = NULL;
        }
        c->at += out->n;
        if (out->n != 0)
            return 1;
    }
}

static cursor cursor_at(const ps_frame *frames, size_t n, uint64_t at)
{
    return (cursor){.frame = frames, .last = frames + n, .at = at, .block = 0, .ours = NULL, .raw_left = 0};
}

int ps_frames_write(int fd, const ps_frame *frames, size_t n, uint64_t start)
{
    if (n == 0)
        return 0;
    struct iovec vectors[VECTORS];
    start = ps_frame_place(&frames[0], start); /* the gap before the first stays absent */
    cursor c = cursor_at(frames, n, start);
    piece next = {NULL, 0};
    size_t done = 0, filled = 0, bytes = 0; /* vectors[done..filled) are to be written, `bytes` in all */
    for (;;) {
        if (done == filled) {
            done = filled = bytes = 0;
            while (filled < VECTORS && (next.n != 0 || next_piece(&c, &next)) && next.n <= WRITE_MAX - bytes) {
                vectors[filled++] = (struct iovec){(void *)(uintptr_t)next.start, next.n};
                bytes += next.n;
                next.n = 0;
            }
            if (filled == 0)
                return 0;
        }
        if (start > INT64_MAX - (uint64_t)WRITE_MAX)
            return EFBIG;
        ssize_t written = pwritev(fd, vectors + done, (int)(filled - done), (off_t)start);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (written == 0)
            return ENOSPC;
        start += (uint64_t)written;
        bytes -= (size_t)written;
        for (size_t rest = (size_t)written; rest != 0;) {
            struct iovec *v = &vectors[done];
            if (rest < v->iov_len) {
                v->iov_base = (uint8_t *)v->iov_base + rest;
                v->iov_len -= rest;
                break;
            }
            rest -= v->iov_len;
            done++;
        }
    }
}

void ps_frames_copy(uint8_t *dst, const ps_frame *frames, size_t n, uint64_t start)
{
    cursor c = cursor_at(frames, n, start);
    for (piece next; next_piece(&c, &next); dst += next.n)
        memcpy(dst, next.start, next.n);
}
