/* Files or memory -> caller's bytes. Nothing is believed before it is checked, and every block's checksum is made of the bytes as
 * they stand in the caller's memory. */
#include "frame.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc64.h"
#include "lz4fn.h"
#include "planes.h"

#define PAGE 4096u
#define SMALL_FRAME (128u << 10) /* read whole, whatever is wanted of it */
#define CHUNK (256u << 10)       /* read at once into the caller's memory, then verified from the cache */

/* --- memory ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint8_t *memory;
    size_t capacity;
} area;

/* At least n bytes, contents lost. */
static uint8_t *area_of(area *a, size_t n)
{
    if (a->capacity < n) {
        free(a->memory);
        a->memory = malloc(n);
        a->capacity = a->memory != NULL ? n : 0;
    }
    return a->memory;
}

/* n bytes whose address equals `offset` modulo the page: the kernel's copy is fastest so. */
static uint8_t *area_like(area *a, size_t n, uint64_t offset)
{
    uint8_t *memory = area_of(a, n + PAGE);
    return memory == NULL ? NULL : memory + ((uint32_t)offset - (uint32_t)(uintptr_t)memory) % PAGE;
}

/* --- reading --------------------------------------------------------------------------------------------------------- */

/* Fill all vectors (which it uses up) from the file. 0, an errno, or PS_DAMAGE_END with the bytes found in `seen`. */
static int read_all(int fd, struct iovec *v, int count, uint64_t offset, uint64_t *seen)
{
    uint64_t found = 0;
    for (;;) {
        while (count > 0 && v->iov_len == 0)
            v++, count--;
        if (count == 0)
            return 0;
        ssize_t n = preadv(fd, v, count, (off_t)(offset + found));
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (n == 0) {
            *seen = found;
            return PS_DAMAGE_END;
        }
        found += (uint64_t)n;
        for (size_t rest = (size_t)n; rest != 0;) {
            size_t here = rest < v->iov_len ? rest : v->iov_len;
            v->iov_base = (uint8_t *)v->iov_base + here;
            v->iov_len -= here;
            rest -= here;
            if (v->iov_len == 0 && rest != 0)
                v++, count--;
        }
    }
}

static int read_into(int fd, uint8_t *dst, size_t n, uint64_t offset, uint64_t *seen)
{
    struct iovec v = {dst, n};
    return read_all(fd, &v, 1, offset, seen);
}

/* Would the kernel's copy from the page cache be one of the slow ones? See frame.c, "place". */
static int aliases(const uint8_t *dst, uint64_t offset)
{
    uint32_t behind = ((uint32_t)(uintptr_t)dst - (uint32_t)offset) % PAGE;
    return behind >= 1 && behind < 32;
}

/* --- blocks ---------------------------------------------------------------------------------------------------------- */

/* One a thread. */
typedef struct {
    area header; /* of the frame named below, checked; or about to be */
    area frame;
    area block;
    int header_known;
    int header_fd;
    uint64_t header_offset;
    size_t header_bytes;
    ps_frame_header head; /* the header in use, parsed */
} worker;

/* Room for one block, and before it for the planes of one. */
static uint8_t *block_area(worker *w)
{
    size_t block = (size_t)1 << w->head.block_log2;
    return area_of(&w->block, PS_PLANES_SCRATCH(block) + block);
}

/* Decode one block to dst[0..raw_bytes) and verify it there. */
static int decode_block(worker *w, const ps_block *b, const uint8_t *stored, uint8_t *dst, uint32_t raw_bytes, uint64_t *seen)
{
    switch (b->codec) {
    case PS_CODEC_RAW:
        memcpy(dst, stored, raw_bytes);
        break;
    case PS_CODEC_ZERO:
        memset(dst, 0, raw_bytes);
        break;
    case PS_CODEC_LZ4: {
        int n = ps_lz4.decompress((const char *)stored, (char *)dst, (int)b->stored_bytes, (int)raw_bytes);
        if (n < 0 || (uint32_t)n != raw_bytes) {
            *seen = (uint64_t)(int64_t)n;
            return PS_DAMAGE_LZ4;
        }
        break;
    }
    default: { /* planes: the table was checked */
        uint8_t *scratch = block_area(w);
        if (scratch == NULL)
            return ENOMEM;
        if (ps_planes_decompress(stored, b->stored_bytes, dst, raw_bytes, b->width, scratch) != 0)
            return PS_DAMAGE_LZ4;
    }
    }
    uint64_t crc = ps_crc64(dst, raw_bytes, 0);
    if (crc != b->crc) {
        *seen = crc;
        return PS_DAMAGE_BLOCK;
    }
    return 0;
}

static inline uint32_t block_raw_bytes(const ps_frame_header *h, uint32_t i)
{
    return i == h->block_count - 1 ? h->raw_bytes - (i << h->block_log2) : 1u << h->block_log2;
}

/* Decode bytes [lo, hi) of the frame to out; `stored` is where the first block needed lies. */
static int decode_range(worker *w, const uint8_t *header, const uint8_t *stored, uint32_t lo, uint32_t hi, uint8_t *out, uint64_t *seen)
{
    int log2 = w->head.block_log2;
    for (uint32_t i = lo >> log2; i <= (hi - 1) >> log2; i++) {
        ps_block block = ps_frame_block(header, i);
        uint32_t start = i << log2, n = block_raw_bytes(&w->head, i);
        uint32_t from = lo > start ? lo - start : 0, to = hi - start < n ? hi - start : n;
        int bad;
        if (from == 0 && to == n)
            bad = decode_block(w, &block, stored, out, n, seen);
        else {
            uint8_t *whole = block_area(w);
            if (whole == NULL)
                return ENOMEM;
            whole += PS_PLANES_SCRATCH((size_t)1 << log2);
            bad = decode_block(w, &block, stored, whole, n, seen);
            if (bad == 0)
                memcpy(out, whole + from, to - from);
        }
        if (bad != 0)
            return bad;
        out += to - from;
        stored += block.stored_bytes;
    }
    return 0;
}

/* --- raw blocks, read straight into the caller's memory -------------------------------------------------------------- */

/* Bytes [lo, hi) of blocks that are all raw, from `offset`, where byte 0 of the first one is stored. The ends of the first and last block that are
 * not wanted go to scratch, and into the checksum. */
static int read_raw(worker *w, int fd, const uint8_t *header, uint32_t lo, uint32_t hi, uint64_t offset, uint8_t *out, uint64_t *seen)
{
    int log2 = w->head.block_log2;
    uint32_t first = lo >> log2, last = (hi - 1) >> log2;
    uint32_t lead = lo - (first << log2);
    uint32_t trail = (last << log2) + block_raw_bytes(&w->head, last) - hi;
    uint8_t *ends = NULL;
    if (lead + trail != 0 && (ends = area_of(&w->block, (size_t)2 << log2)) == NULL)
        return ENOMEM;

    uint32_t step = CHUNK >> log2; /* blocks */
    if (step == 0)
        step = 1;
    for (uint32_t i = first; i <= last;) {
        uint32_t end = last - i < step ? last + 1 : i + step;
        uint32_t from = i == first ? lo : i << log2;
        uint32_t to = end == last + 1 ? hi : end << log2;
        uint32_t before = i == first ? lead : 0, after = end == last + 1 ? trail : 0;
        struct iovec v[3] = {{ends, before}, {out, to - from}, {ends + before, after}};
        int bad = read_all(fd, v, 3, offset, seen);
        if (bad != 0)
            return bad;
        offset += before + (to - from) + after;
        for (; i < end; i++) {
            uint32_t start = i << log2, stop = start + block_raw_bytes(&w->head, i);
            uint64_t crc = 0;
            if (i == first && lead != 0)
                crc = ps_crc64(ends, lead, 0);
            uint32_t here = (stop < hi ? stop : hi) - (start > lo ? start : lo);
            crc = ps_crc64(out, here, crc);
            out += here;
            if (stop > hi)
                crc = ps_crc64(ends + before, trail, crc);
            if (crc != ps_frame_block(header, i).crc) {
                *seen = crc;
                return PS_DAMAGE_BLOCK;
            }
        }
    }
    return 0;
}

/* --- one piece ------------------------------------------------------------------------------------------------------- */

/* Does the checked header belong to this record, stripe, file and transaction? */
static int match(const ps_frame_header *h, const uint8_t *header, const ps_record *r, uint64_t stripe, const uint8_t *file_id,
                 const uint8_t *tx, uint64_t *seen)
{
    if (h->stripe != stripe) {
        *seen = h->stripe;
        return PS_DAMAGE_IDENTITY;
    }
    if (memcmp(h->file_id, file_id, 16) != 0 || memcmp(h->tx, tx, 16) != 0) {
        memcpy(seen, memcmp(h->file_id, file_id, 16) != 0 ? h->file_id : h->tx, sizeof *seen);
        return PS_DAMAGE_IDENTITY;
    }
    if (h->flags & PS_FRAME_PART) {
        *seen = h->flags;
        return PS_DAMAGE_IDENTITY; /* no record names a part */
    }
    if (h->crc != r->crc) {
        *seen = h->crc;
        return PS_DAMAGE_HEADER; /* a whole header, but not the one that the manifest was made with */
    }
    if (h->header_bytes != r->header64 * PS_FRAME_ALIGN || h->payload_bytes != r->frame_bytes - h->header_bytes ||
        h->raw_bytes != r->raw_bytes) {
        *seen = h->raw_bytes;
        return PS_DAMAGE_LENGTHS;
    }
    uint32_t raw = 0, zero = 0, shuffled = 0;
    for (uint32_t i = 0; i < h->block_count; i++) {
        ps_block block = ps_frame_block(header, i);
        raw += block.codec == PS_CODEC_RAW;
        zero += block.codec == PS_CODEC_ZERO;
        shuffled += block.codec == PS_CODEC_PLANES;
    }
    if (raw != r->raw_blocks || zero != r->zero_blocks || shuffled != r->shuffled_blocks ||
        h->block_count - raw - zero - shuffled != r->lz4_blocks) {
        *seen = h->block_count;
        return PS_DAMAGE_LENGTHS;
    }
    return 0;
}

static int check_combination(const ps_frame_header *h, const uint8_t *header, uint64_t *seen)
{
    uint64_t crc = 0;
    for (uint32_t i = 0; i < h->block_count; i++)
        crc = ps_crc64_combine(crc, ps_frame_block(header, i).crc, block_raw_bytes(h, i));
    if (crc == h->crc)
        return 0;
    *seen = crc;
    return PS_DAMAGE_HEADER;
}

static int read_piece(worker *w, const ps_pieces *p, size_t k, uint64_t *seen)
{
    ps_record r;
    memcpy(&r, p->records + k * sizeof r, sizeof r);
    uint8_t *out = p->out + p->out_offsets[k];
    uint64_t first = (uint64_t)p->first[k], count = (uint64_t)p->count[k];
    if (r.segment == 0 || first >= r.raw_bytes || count == 0) {
        memset(out, 0, count);
        return 0;
    }
    uint32_t header_bytes = r.header64 * PS_FRAME_ALIGN;
    *seen = r.raw_bytes;
    if (r.raw_bytes > PS_STRIPE_MAX || header_bytes < sizeof(ps_frame_header) || header_bytes > r.frame_bytes)
        return PS_DAMAGE_LENGTHS;
    uint32_t payload_bytes = r.frame_bytes - header_bytes;
    *seen = r.frame_bytes;
    if (payload_bytes > r.raw_bytes)
        return PS_DAMAGE_LENGTHS;
    *seen = r.offset;
    if (r.offset > INT64_MAX - (uint64_t)r.frame_bytes)
        return PS_DAMAGE_LENGTHS;
    *seen = 0;

    uint32_t lo = (uint32_t)first, hi = count > r.raw_bytes - lo ? r.raw_bytes : lo + (uint32_t)count;
    uint64_t payload_offset = r.offset + header_bytes;
    int fd = -1;
    const uint8_t *header = NULL, *payload = NULL; /* as far as they are in memory */
    int checked = 0, bad;

    if (p->fds == NULL) {
        header = p->frames[k];
        payload = header + header_bytes;
        if (p->frame_bytes[k] != r.frame_bytes) {
            *seen = p->frame_bytes[k];
            return p->frame_bytes[k] < r.frame_bytes ? PS_DAMAGE_END : PS_DAMAGE_LENGTHS;
        }
    }
    else {
        fd = p->fds[k];
        int raw_only = payload_bytes == r.raw_bytes && (r.lz4_blocks | r.shuffled_blocks | r.zero_blocks) == 0;
        int direct = raw_only && !aliases(out, payload_offset + lo);
        if (w->header_known && w->header_fd == fd && w->header_offset == r.offset && w->header_bytes == header_bytes) {
            header = w->header.memory;
            checked = 1;
        }
        else if (r.frame_bytes <= SMALL_FRAME ? !direct || lo != 0 || hi != r.raw_bytes : !direct && (hi - lo) >= r.raw_bytes / 2) {
            uint8_t *frame = area_like(&w->frame, r.frame_bytes, r.offset);
            if (frame == NULL)
                return ENOMEM;
            if ((bad = read_into(fd, frame, r.frame_bytes, r.offset, seen)) != 0)
                return bad;
            header = frame;
            payload = frame + header_bytes;
        }
        else {
            w->header_known = 0;
            uint8_t *memory = area_of(&w->header, header_bytes);
            if (memory == NULL)
                return ENOMEM;
            if ((bad = read_into(fd, memory, header_bytes, r.offset, seen)) != 0)
                return bad;
            header = memory;
        }
    }

    if (!checked && (bad = ps_frame_check(header, header_bytes, &w->head, seen)) != 0)
        return bad;
    if (!checked && header == w->header.memory) {
        w->header_known = 1;
        w->header_fd = fd;
        w->header_offset = r.offset;
        w->header_bytes = header_bytes;
    }
    else if (checked)
        memcpy(&w->head, header, sizeof w->head);
    if ((bad = match(&w->head, header, &r, p->stripes[k], p->file_id, p->txs + 16 * k, seen)) != 0)
        return bad;

    /* What S3 and the whole file's checksum are compared with must be of these blocks: so says a read that sees them all. */
    if (lo == 0 && hi == r.raw_bytes && (bad = check_combination(&w->head, header, seen)) != 0)
        return bad;

    uint64_t skip = 0, need = 0; /* stored bytes before, and of, the blocks needed */
    uint32_t from = lo >> w->head.block_log2, to = (hi - 1) >> w->head.block_log2;
    int all_raw = 1;
    for (uint32_t i = 0; i <= to; i++) {
        ps_block block = ps_frame_block(header, i);
        if (i < from)
            skip += block.stored_bytes;
        else {
            need += block.stored_bytes;
            all_raw &= block.codec == PS_CODEC_RAW;
        }
    }
    if (payload != NULL)
        bad = decode_range(w, header, payload + skip, lo, hi, out, seen);
    else if (all_raw && !aliases(out, payload_offset + skip + (lo - (from << w->head.block_log2))))
        bad = read_raw(w, fd, header, lo, hi, payload_offset + skip, out, seen);
    else {
        uint8_t *stored = area_like(&w->frame, need, payload_offset + skip);
        if (stored == NULL)
            return ENOMEM;
        bad = read_into(fd, stored, need, payload_offset + skip, seen);
        if (bad == 0)
            bad = decode_range(w, header, stored, lo, hi, out, seen);
    }
    if (bad == 0)
        memset(out + (hi - lo), 0, count - (hi - lo));
    return bad;
}

/* --- a batch --------------------------------------------------------------------------------------------------------- */

typedef struct {
    const ps_pieces *pieces;
    atomic_size_t next;
    atomic_size_t bad;
} job;

static void read_pieces(void *context, int thread)
{
    (void)thread;
    job *j = context;
    const ps_pieces *p = j->pieces;
    worker w = {0};
    for (size_t k; (k = atomic_fetch_add(&j->next, 1)) < p->n;) {
        uint64_t seen = 0;
        int bad = read_piece(&w, p, k, &seen);
        p->status[k] = bad;
        p->seen[k] = bad != 0 ? seen : 0;
        if (bad != 0) {
            memset(p->out + p->out_offsets[k], 0, (size_t)p->count[k]);
            atomic_fetch_add(&j->bad, 1);
        }
    }
    free(w.header.memory);
    free(w.frame.memory);
    free(w.block.memory);
}

size_t ps_read_pieces(const ps_pieces *pieces, int threads)
{
    job j = {.pieces = pieces};
    ps_in_threads((size_t)threads < pieces->n ? threads : (int)pieces->n, read_pieces, &j);
    return j.bad;
}

/* --- a part ---------------------------------------------------------------------------------------------------------- */

int ps_decode_part(const uint8_t *frame, size_t n, const uint8_t *file_id, const uint8_t *tx, uint8_t *stripe, size_t stripe_bytes,
                   ps_frame_header *header)
{
    uint64_t seen;
    worker w = {0};
    int bad = ps_frame_check(frame, n, &w.head, &seen);
    if (bad != 0)
        return bad;
    *header = w.head;
    if ((w.head.flags & PS_FRAME_PART) == 0 || memcmp(w.head.file_id, file_id, 16) != 0 || memcmp(w.head.tx, tx, 16) != 0)
        return PS_DAMAGE_IDENTITY;
    if (n - w.head.header_bytes != w.head.payload_bytes)
        return n - w.head.header_bytes < w.head.payload_bytes ? PS_DAMAGE_END : PS_DAMAGE_LENGTHS;
    const uint8_t *extents = frame + sizeof w.head + w.head.block_count * sizeof(ps_block);
    for (uint32_t i = 0; i < w.head.extent_count; i++) {
        ps_extent e;
        memcpy(&e, extents + i * sizeof e, sizeof e);
        if (e.offset > stripe_bytes || e.length > stripe_bytes - e.offset)
            return PS_DAMAGE_LENGTHS;
    }
    if ((bad = check_combination(&w.head, frame, &seen)) != 0)
        return bad;
    uint8_t *joined = malloc(w.head.raw_bytes);
    if (joined == NULL)
        return ENOMEM;
    bad = decode_range(&w, frame, frame + w.head.header_bytes, 0, w.head.raw_bytes, joined, &seen);
    const uint8_t *from = joined;
    for (uint32_t i = 0; bad == 0 && i < w.head.extent_count; i++) {
        ps_extent e;
        memcpy(&e, extents + i * sizeof e, sizeof e);
        memcpy(stripe + e.offset, from, e.length);
        from += e.length;
    }
    free(joined);
    free(w.block.memory);
    return bad;
}
