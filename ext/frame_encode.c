/* Caller's bytes -> frames. A block goes through checksum, planes and LZ4 while it is in the cache; raw blocks are not copied. */
#include "frame.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crc64.h"
#include "lz4fn.h"
#include "planes.h"
#include "shuffle.h"

#define RUN_BYTES (4u << 20)  /* stripes that one thread does one after the other, learning as it goes */
#define PROBE_EVERY 64        /* blocks between two probes of compressible data */
#define BACKOFF_MAX 6         /* at most 2^6 blocks are stored raw without looking */
#define TELLING_BYTES 4096    /* a shorter block says nothing about its neighbours */

/* A result is kept if it saves a 32nd: less is not worth the decoding. */
static inline uint32_t worth(uint32_t raw) { return raw - raw / 32; }

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One a thread; the four areas follow, each aligned to 64. */
typedef struct {
    uint8_t *probe;
    uint8_t *state;
    uint8_t *joined;
    uint8_t *planes;
    uint64_t compress_ns;
    uint64_t checksum_ns;
} workspace;

static workspace workspace_in(uint8_t *memory, int block_log2)
{
    uint8_t *probe = memory;
    uint8_t *state = probe + ps_align(ps_probe_scratch_bytes());
    uint8_t *joined = state + ps_align((size_t)ps_lz4.state_bytes());
    uint8_t *planes = joined + ((size_t)1 << block_log2);
    return (workspace){probe, state, joined, planes, 0, 0};
}

size_t ps_encode_workspace_bytes(int block_log2)
{
    return ps_align(ps_probe_scratch_bytes()) + ps_align((size_t)ps_lz4.state_bytes()) + ((size_t)1 << block_log2) +
           PS_PLANES_SCRATCH((size_t)1 << block_log2);
}

/* Room for a frame's header and compressed blocks: these never exceed the raw bytes, and LZ4 runs fastest with its bound free ahead. */
static size_t frame_scratch_bytes(const ps_encoder *e, int64_t raw_bytes, size_t extent_count)
{
    size_t header = ps_header_bytes(ps_block_count((uint32_t)raw_bytes, e->block_log2), extent_count);
    if (e->codec == PS_ENCODE_RAW)
        return header;
    size_t block = (size_t)1 << e->block_log2;
    return header + ps_align((size_t)raw_bytes + (size_t)ps_lz4.bound((int)block) - block);
}

size_t ps_encode_scratch_bytes(const ps_encoder *e, const int64_t *raw_bytes, size_t n, size_t extent_count)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += frame_scratch_bytes(e, raw_bytes[i], extent_count);
    return total;
}

/* --- one block ------------------------------------------------------------------------------------------------------- */

/* Bytes of raw[0..n) as planes of `width`, or as LZ4 when that is no width, at dst; or 0 when that is not worth it. */
static uint32_t compress(const ps_encoder *e, workspace *w, ps_trials *trials, const uint8_t *raw, uint32_t n, int width, uint8_t *dst)
{
    size_t size;
    if (width > 1)
        size = ps_planes_compress(raw, n, width, trials, e->acceleration, w->state, w->planes, dst);
    else {
        int bytes = ps_lz4.compress(w->state, (const char *)raw, (char *)dst, (int)n, ps_lz4.bound((int)n), e->acceleration);
        size = bytes > 0 ? (size_t)bytes : n;
    }
    return size <= worth(n) ? (uint32_t)size : 0;
}

static void probe(ps_learnt *l, workspace *w, const uint8_t *raw, uint32_t n, int width)
{
    int before = l->choice.width;
    ps_probe(raw, n, width, &l->choice, w->probe);
    if (l->choice.width != before)
        l->trials = (ps_trials){0};
    memset(l->trials.wait, 0, sizeof l->trials.wait);
    l->permille = 0;
    l->left = PROBE_EVERY;
    if (l->choice.codec != PS_CODEC_RAW)
        return;
    l->left = 1u << l->backoff;
    if (l->backoff < BACKOFF_MAX)
        l->backoff++;
}

/* AUTO: store as the last probe said; probe again after a while, when that does not compress, and when the ratio has changed much. */
static uint32_t compress_auto(const ps_encoder *e, ps_learnt *l, workspace *w, const uint8_t *raw, uint32_t n, int width, uint8_t *dst,
                              int *used)
{
    int probed = 0;
    if (l->left == 0) {
        probe(l, w, raw, n, width);
        probed = 1;
    }
    l->left--;
    while (l->choice.codec != PS_CODEC_RAW) {
        *used = l->choice.width;
        uint32_t size = compress(e, w, n < TELLING_BYTES ? NULL : &l->trials, raw, n, *used, dst);
        if (n < TELLING_BYTES)
            return size;
        if (size != 0) {
            uint32_t permille = (uint32_t)((uint64_t)size * 1000 / n);
            l->backoff = 0;
            if (l->permille == 0)
                l->permille = permille | 1;
            else if (permille * 2 > l->permille * 3 + 20 || permille * 3 + 20 < l->permille * 2)
                l->left = 0;
            return size;
        }
        if (!probed) {
            probe(l, w, raw, n, width);
            l->left--;
            probed = 1;
            if (l->choice.width != *used)
                continue;
        }
        l->choice.codec = PS_CODEC_RAW; /* the sample promised too much */
        l->left = (1u << l->backoff) - 1;
        if (l->backoff < BACKOFF_MAX)
            l->backoff++;
    }
    return 0;
}

/* --- a block in several pieces ---------------------------------------------------------------------------------------- */

/* Checksum of a block, and where it lies, if it does in one piece; else, if that is asked for, whether it is all zeros. */
static uint64_t look(const ps_source *source, int64_t at, uint32_t n, int ask_zero, const uint8_t **raw, int *zero)
{
    size_t got = ps_source_find(source, at, n, raw);
    uint64_t crc = ps_crc64(*raw, got, 0);
    if (got == n)
        return crc;
    const uint8_t *start = *raw;
    *raw = NULL;
    *zero = ask_zero && ps_is_zero(start, got);
    for (size_t done = got; done < n; done += got) {
        got = ps_source_find(source, at + (int64_t)done, n - done, &start);
        crc = ps_crc64(start, got, crc);
        *zero = *zero && ps_is_zero(start, got);
    }
    return crc;
}

static const uint8_t *join(const ps_source *source, int64_t at, uint32_t n, uint8_t *room)
{
    const uint8_t *start;
    for (size_t done = 0, got; done < n; done += got) {
        got = ps_source_find(source, at + (int64_t)done, n - done, &start);
        memcpy(room + done, start, got);
    }
    return room;
}

/* --- one stripe ------------------------------------------------------------------------------------------------------ */

static void encode_stripe(const ps_encoder *e, const ps_encode_batch *b, size_t k, ps_learnt *learnt, workspace *w, uint8_t *scratch)
{
    int64_t at = b->offsets[k];
    uint32_t raw_bytes = (uint32_t)b->raw_bytes[k];
    uint32_t count = ps_block_count(raw_bytes, e->block_log2);
    size_t tables = ps_tables_bytes(count, b->extent_count);
    ps_frame_header header = {
        .magic = PS_FRAME_MAGIC,
        .flags = b->extents != NULL ? PS_FRAME_PART : 0,
        .block_log2 = (uint8_t)e->block_log2,
        .header_bytes = (uint32_t)ps_header_bytes(count, b->extent_count),
        .raw_bytes = raw_bytes,
        .block_count = count,
        .extent_count = (uint32_t)b->extent_count,
        .stripe = b->stripes[k],
    };
    memcpy(header.file_id, e->file_id, 16);
    memcpy(header.tx, e->tx, 16);
    ps_record record = {.raw_bytes = raw_bytes, .header64 = (uint16_t)(header.header_bytes / PS_FRAME_ALIGN)};

    uint8_t *table = scratch + sizeof header;
    uint8_t *dst = scratch + header.header_bytes;
    int timed = e->codec != PS_ENCODE_RAW;
    uint64_t start = now_ns();
    for (uint32_t i = 0; i < count; i++) {
        uint32_t n = i == count - 1 ? raw_bytes - (i << e->block_log2) : 1u << e->block_log2;
        const uint8_t *raw; /* NULL = in several pieces */
        int zero = 0;
        ps_block block = {.crc = look(b->source, at, n, timed, &raw, &zero), .stored_bytes = n, .codec = PS_CODEC_RAW};
        header.crc = ps_crc64_combine(header.crc, block.crc, n);
        if (timed) {
            uint64_t between = now_ns();
            w->checksum_ns += between - start;
            int width = b->width;
            uint32_t size = 0;
            if (raw == NULL && !zero && (e->codec != PS_ENCODE_AUTO || learnt->left == 0 || learnt->choice.codec != PS_CODEC_RAW))
                raw = join(b->source, at, n, w->joined);
            if (raw == NULL ? zero : ps_is_zero(raw, n)) {
                block.codec = PS_CODEC_ZERO;
                block.stored_bytes = 0;
                record.zero_blocks++;
            }
            else if (e->codec == PS_ENCODE_AUTO)
                size = compress_auto(e, learnt, w, raw, n, b->width, dst, &width);
            else
                size = compress(e, w, NULL, raw, n, width, dst);
            if (size != 0) {
                block.codec = width > 1 ? PS_CODEC_PLANES : PS_CODEC_LZ4;
                block.stored_bytes = size;
                block.width = width > 1 ? (uint8_t)width : 0;
                dst += size;
                if (width > 1)
                    record.shuffled_blocks++;
                else
                    record.lz4_blocks++;
            }
            start = now_ns();
            w->compress_ns += start - between;
        }
        header.payload_bytes += block.stored_bytes;
        record.raw_blocks += block.codec == PS_CODEC_RAW;
        memcpy(table + i * sizeof block, &block, sizeof block);
        at += n;
    }
    if (b->extent_count != 0)
        memcpy(table + count * sizeof(ps_block), b->extents, b->extent_count * sizeof(ps_extent));
    memset(table + tables, 0, header.header_bytes - sizeof header - tables);
    header.header_crc = ps_crc64(table, tables, ps_crc64(&header, PS_HEADER_CHECKED, 0));
    memcpy(scratch, &header, sizeof header);

    record.crc = header.crc;
    record.frame_bytes = header.header_bytes + header.payload_bytes;
    b->records[k] = record;
    b->frames[k] = (ps_frame){
        .header = scratch,
        .source = b->source,
        .raw = b->offsets[k],
        .header_bytes = header.header_bytes,
        .payload_bytes = header.payload_bytes,
        .raw_bytes = raw_bytes,
        .block_count = count,
        .block_log2 = e->block_log2,
        .all_raw = record.raw_blocks == count,
    };
    if (!timed)
        w->checksum_ns += now_ns() - start;
}

/* --- a batch --------------------------------------------------------------------------------------------------------- */

/* Runs are cut by bytes alone, and each begins with what was known before the batch: so threads do not change what is made. */
typedef struct {
    size_t first;
    size_t last;
    size_t scratch;
} run;

typedef struct {
    const ps_encoder *encoder;
    const ps_encode_batch *batch;
    const run *runs;
    size_t run_count;
    ps_learnt learnt; /* by the last run */
    atomic_size_t next;
    atomic_uint_least64_t compress_ns;
    atomic_uint_least64_t checksum_ns;
} job;

static void encode_runs(void *context, int thread)
{
    job *j = context;
    const ps_encoder *e = j->encoder;
    workspace w = workspace_in(e->workspaces[thread], e->block_log2);
    for (size_t i; (i = atomic_fetch_add(&j->next, 1)) < j->run_count;) {
        ps_learnt learnt = e->learnt;
        learnt.left = 0; /* a look at the first block of each run, whatever came before */
        size_t scratch = j->runs[i].scratch;
        for (size_t k = j->runs[i].first; k < j->runs[i].last; k++) {
            encode_stripe(e, j->batch, k, &learnt, &w, j->batch->scratch + scratch);
            scratch += frame_scratch_bytes(e, j->batch->raw_bytes[k], j->batch->extent_count);
        }
        if (i == j->run_count - 1)
            j->learnt = learnt;
    }
    atomic_fetch_add(&j->compress_ns, w.compress_ns);
    atomic_fetch_add(&j->checksum_ns, w.checksum_ns);
}

int ps_encode(ps_encoder *e, ps_encode_batch *b)
{
    b->compress_ns = b->checksum_ns = 0;
    if (b->n == 0)
        return 0;
    run *runs = malloc(b->n * sizeof *runs);
    if (runs == NULL)
        return ENOMEM;
    size_t count = 0, scratch = 0;
    for (size_t k = 0; k < b->n;) {
        runs[count].first = k;
        runs[count].scratch = scratch;
        for (int64_t bytes = 0; k < b->n && bytes < RUN_BYTES; k++) {
            bytes += b->raw_bytes[k];
            scratch += frame_scratch_bytes(e, b->raw_bytes[k], b->extent_count);
        }
        runs[count++].last = k;
    }
    if (b->width == 16)
        b->width = 8; /* a pair: complex128 */
    else if (b->width != 1 && !ps_shuffle_width_ok(b->width))
        b->width = 0;
    if (e->learnt.width != b->width)
        e->learnt = (ps_learnt){.width = b->width};
    job j = {.encoder = e, .batch = b, .runs = runs, .run_count = count};
    ps_in_threads((size_t)e->threads < count ? e->threads : (int)count, encode_runs, &j);
    e->learnt = j.learnt;
    b->compress_ns = j.compress_ns;
    b->checksum_ns = j.checksum_ns;
    free(runs);
    return 0;
}
