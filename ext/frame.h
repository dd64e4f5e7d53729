/* Frames: a stripe as stored. The byte layout is docs/reference/format.md, "Frame" and "Record"; this is its one definition in code.
 *
 *   frame.c         what a frame is: check it, find it, place it, write it
 *   frame_encode.c  caller's bytes -> frames: checksum, probe, planes, LZ4
 *   frame_decode.c  files or memory -> caller's bytes: read, check, LZ4, planes
 *
 * Nothing here calls Python. Whatever comes from a disk, records included, is untrusted.
 */
#ifndef PINSTRIPE_FRAME_H
#define PINSTRIPE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "planes.h"
#include "probe.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structures below are the bytes on disk");

#define PS_FRAME_MAGIC 0x31465350u /* "PSF1" */
#define PS_FRAME_ALIGN 64          /* frames start at, and headers are, multiples of it */
#define PS_FRAME_PART 1            /* flags */
#define PS_STRIPE_MAX (64u << 20)
#define PS_BLOCK_LOG2_MIN 14
#define PS_BLOCK_LOG2_MAX 20
#define PS_HEADER_MAX (65535u * 64u) /* a record counts it in 64s, in 16 bits */

typedef struct {
    uint32_t magic;
    uint16_t flags;
    uint8_t block_log2;
    uint8_t reserved0;
    uint32_t header_bytes;
    uint32_t raw_bytes;
    uint32_t payload_bytes;
    uint32_t block_count;
    uint32_t extent_count;
    uint32_t reserved1;
    uint8_t file_id[16];
    uint8_t tx[16];
    uint64_t stripe;
    uint64_t crc;
    uint8_t reserved2[40];
    uint64_t header_crc; /* of all before it, then of the tables */
} ps_frame_header;
_Static_assert(sizeof(ps_frame_header) == 128, "format.md");
#define PS_HEADER_CHECKED offsetof(ps_frame_header, header_crc)

typedef struct {
    uint64_t crc;
    uint32_t stored_bytes;
    uint8_t codec; /* PS_CODEC_* */
    uint8_t width; /* of planes */
    uint16_t reserved;
} ps_block;
_Static_assert(sizeof(ps_block) == 16, "format.md");

typedef struct {
    uint32_t offset;
    uint32_t length;
} ps_extent;
_Static_assert(sizeof(ps_extent) == 8, "format.md");

typedef struct {
    uint32_t segment; /* 0 = hole */
    uint32_t frame_bytes;
    uint64_t offset;
    uint64_t crc;
    uint32_t raw_bytes;
    uint16_t header64;
    uint16_t raw_blocks;
    uint16_t lz4_blocks;
    uint16_t shuffled_blocks;
    uint16_t zero_blocks;
    uint16_t reserved;
} ps_record;
_Static_assert(sizeof(ps_record) == 40, "format.md");

/* What is wrong with a frame or piece; 0 = nothing, above 0 = an errno. */
enum {
    PS_DAMAGE_MAGIC = -1,
    PS_DAMAGE_HEADER = -2,   /* header checksum */
    PS_DAMAGE_IDENTITY = -3, /* file, transaction or stripe */
    PS_DAMAGE_LENGTHS = -4,  /* lengths that contradict each other or the record */
    PS_DAMAGE_LZ4 = -5, /* no LZ4 block, or planes, of the block's raw bytes */
    PS_DAMAGE_BLOCK = -6, /* block checksum */
    PS_DAMAGE_END = -7,   /* the file ends before the frame */
    PS_DAMAGE_UNKNOWN = -8, /* a flag, codec or width that this version does not know */
};

static inline size_t ps_align(size_t n) { return (n + PS_FRAME_ALIGN - 1) & ~(size_t)(PS_FRAME_ALIGN - 1); }
static inline uint32_t ps_block_count(uint32_t raw_bytes, int block_log2)
{
    return (uint32_t)(((uint64_t)raw_bytes + (1u << block_log2) - 1) >> block_log2);
}
static inline size_t ps_tables_bytes(size_t blocks, size_t extents) { return blocks * sizeof(ps_block) + extents * sizeof(ps_extent); }
static inline size_t ps_header_bytes(size_t blocks, size_t extents)
{
    return ps_align(sizeof(ps_frame_header) + ps_tables_bytes(blocks, extents));
}

/* --- frame.c: check and find ------------------------------------------------------------------------------------- */

/* Check what stands in bytes[0..available) as a whole header with its tables: magic, checksum, and that all lengths agree with each
 * other; the payload may lie elsewhere. Copies the header to `out`. Returns 0 or a damage; `seen` is then the value found. */
int ps_frame_check(const uint8_t *bytes, size_t available, ps_frame_header *out, uint64_t *seen);

/* Entry i of the block table; `bytes` was checked. */
ps_block ps_frame_block(const uint8_t *bytes, uint32_t i);

/* Offset of the first frame at or after `start` (a multiple of 64, or it is rounded up) whose header is whole and valid in
 * bytes[0..n), or n. */
size_t ps_frame_find(const uint8_t *bytes, size_t n, size_t start, ps_frame_header *out);

/* --- frame.c: encoded frames, placed and written --------------------------------------------------------------------- */

/* The caller's bytes. Where n is not 0, some lie elsewhere: those at places[i]..+lengths[i], rising and disjoint, are other[offsets[i]]... */
typedef struct {
    const uint8_t *data;
    const uint8_t *other;
    const int64_t *places;
    const int64_t *offsets;
    const int64_t *lengths;
    size_t n;
} ps_source;

/* Where the byte at `at` lies; returns how many of n bytes from there lie side by side, at least 1. */
size_t ps_source_find(const ps_source *source, int64_t at, size_t n, const uint8_t **start);

/* A frame as encoded: header, tables and compressed blocks one after the other in our memory, raw blocks in the caller's. */
typedef struct {
    const uint8_t *header;
    const ps_source *source;
    int64_t raw; /* where the stripe begins in it */
    uint32_t header_bytes;
    uint32_t payload_bytes;
    uint32_t raw_bytes;
    uint32_t block_count;
    int block_log2;
    int all_raw;
} ps_frame;

/* Where this frame may start at or after `at`: docs/design/0002-frame-placement.md. */
uint64_t ps_frame_place(const ps_frame *frame, uint64_t at);

/* Place n frames as one run from `start`; returns its end. `offsets` may be NULL. */
uint64_t ps_frames_place(const ps_frame *frames, size_t n, uint64_t start, uint64_t *offsets);

/* Write n frames as one run. Returns 0 or an errno; loops over short writes, EINTR and IOV_MAX. */
int ps_frames_write(int fd, const ps_frame *frames, size_t n, uint64_t start);

/* Copy the same bytes to dst, which has room for the run from `start` to its end; gaps are zeroed. */
void ps_frames_copy(uint8_t *dst, const ps_frame *frames, size_t n, uint64_t start);

/* --- frame_encode.c ---------------------------------------------------------------------------------------------- */

enum { PS_ENCODE_AUTO = 0, PS_ENCODE_LZ4 = 1, PS_ENCODE_RAW = 2 };

/* What AUTO has learnt so far and goes on with. All zeros to start. */
typedef struct {
    ps_choice choice;
    ps_trials trials;  /* of planes of that width */
    uint32_t left;     /* blocks until the next probe */
    uint32_t backoff;  /* log2 of the raw blocks after the next probe that finds nothing */
    uint32_t permille; /* of the first block after the probe; 0 = none yet */
    int width;         /* the caller's, that it was learnt with */
} ps_learnt;

typedef struct {
    uint8_t file_id[16];
    uint8_t tx[16];
    int block_log2;
    int codec; /* PS_ENCODE_* */
    int acceleration;
    int threads;
    uint8_t **workspaces; /* one a thread, aligned to 64, ps_encode_workspace_bytes each */
    ps_learnt learnt;
} ps_encoder;

typedef struct {
    const ps_source *source;
    const int64_t *offsets; /* stripe k is source[offsets[k]..+raw_bytes[k]), checked by the caller */
    const int64_t *raw_bytes;
    const uint64_t *stripes;
    size_t n;
    const ps_extent *extents; /* a part: then n is 1 */
    size_t extent_count;
    int width;
    uint8_t *scratch; /* ps_encode_scratch_bytes, aligned to 64 */
    ps_frame *frames; /* out, n each */
    ps_record *records;
    uint64_t compress_ns; /* out */
    uint64_t checksum_ns;
} ps_encode_batch;

size_t ps_encode_workspace_bytes(int block_log2);
size_t ps_encode_scratch_bytes(const ps_encoder *encoder, const int64_t *raw_bytes, size_t n, size_t extent_count);

/* Encode the batch. The bytes made do not depend on the number of threads. Returns 0 or an errno (no memory). */
int ps_encode(ps_encoder *encoder, ps_encode_batch *batch);

/* --- frame_decode.c ---------------------------------------------------------------------------------------------- */

/* Piece k: bytes [first, first + count) of a stripe, from fds[k] or, when fds is NULL, from frames[k]. The caller has checked that
 * first, count and out_offsets are not negative and stay inside `out`. */
typedef struct {
    size_t n;
    const int32_t *fds;
    const uint8_t *const *frames;
    const size_t *frame_bytes;
    const uint8_t *records; /* ps_record each, at any alignment */
    const uint64_t *stripes;
    const int64_t *first;
    const int64_t *count;
    uint8_t *out;
    const int64_t *out_offsets;
    const uint8_t *file_id;
    const uint8_t *txs; /* 16 bytes a piece */
    int32_t *status;
    uint64_t *seen;
} ps_pieces;

/* Returns the number of bad pieces, whose bytes in `out` are zeroed. */
size_t ps_read_pieces(const ps_pieces *pieces, int threads);

/* Decode one whole part frame, scattering its extents into stripe[0..stripe_bytes). Returns 0, an errno or a damage; the stripe is
 * touched only on 0. `header` is the frame's, checked, when it is 0. */
int ps_decode_part(const uint8_t *frame, size_t n, const uint8_t *file_id, const uint8_t *tx, uint8_t *stripe, size_t stripe_bytes,
                   ps_frame_header *header);

/* --- threads ----------------------------------------------------------------------------------------------------- */

/* Call work(context, 0 .. threads-1), the last here, the others in threads of their own, and wait for all. Where a thread cannot be
 * made there are fewer: `work` shares its tasks by a counter. Signals stay with the caller's threads. */
void ps_in_threads(int threads, void (*work)(void *context, int thread), void *context);

#endif
