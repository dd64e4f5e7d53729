# Frames in C, declared once; what they do stands in frame.h.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "frame.h" nogil:
    enum:
        PS_FRAME_PART
        PS_STRIPE_MAX
        PS_BLOCK_LOG2_MIN
        PS_BLOCK_LOG2_MAX
        PS_HEADER_MAX
        PS_DAMAGE_MAGIC
        PS_DAMAGE_HEADER
        PS_DAMAGE_IDENTITY
        PS_DAMAGE_LENGTHS
        PS_DAMAGE_LZ4
        PS_DAMAGE_BLOCK
        PS_DAMAGE_END
        PS_DAMAGE_UNKNOWN
        PS_ENCODE_AUTO
        PS_ENCODE_LZ4
        PS_ENCODE_RAW

    ctypedef struct ps_frame_header:
        uint16_t flags
        uint32_t header_bytes
        uint32_t raw_bytes
        uint32_t payload_bytes
        uint32_t block_count
        uint32_t extent_count
        uint8_t file_id[16]
        uint8_t tx[16]
        uint64_t stripe
    ctypedef struct ps_extent:
        uint32_t offset
        uint32_t length
    ctypedef struct ps_record:
        uint32_t frame_bytes
        uint64_t offset
    size_t ps_header_bytes(size_t blocks, size_t extents)
    uint32_t ps_block_count(uint32_t raw_bytes, int block_log2)
    size_t ps_tables_bytes(size_t blocks, size_t extents)
    size_t ps_frame_find(const uint8_t *data, size_t n, size_t start, ps_frame_header *out)

    ctypedef struct ps_frame:
        pass
    uint64_t ps_frames_place(const ps_frame *frames, size_t n, uint64_t start, uint64_t *offsets)
    int ps_frames_write(int fd, const ps_frame *frames, size_t n, uint64_t start)
    void ps_frames_copy(uint8_t *dst, const ps_frame *frames, size_t n, uint64_t start)

    ctypedef struct ps_encoder:
        uint8_t file_id[16]
        uint8_t tx[16]
        int block_log2
        int codec
        int acceleration
        int threads
        uint8_t **workspaces
    ctypedef struct ps_source:
        const uint8_t *data
        const uint8_t *other
        const int64_t *places
        const int64_t *offsets
        const int64_t *lengths
        size_t n
    ctypedef struct ps_encode_batch:
        const ps_source *source
        const int64_t *offsets
        const int64_t *raw_bytes
        const uint64_t *stripes
        size_t n
        const ps_extent *extents
        size_t extent_count
        int width
        uint8_t *scratch
        ps_frame *frames
        ps_record *records
        uint64_t compress_ns
        uint64_t checksum_ns
    size_t ps_encode_workspace_bytes(int block_log2)
    size_t ps_encode_scratch_bytes(const ps_encoder *encoder, const int64_t *raw_bytes, size_t n, size_t extent_count)
    int ps_encode(ps_encoder *encoder, ps_encode_batch *batch)

    ctypedef struct ps_pieces:
        size_t n
        const int32_t *fds
        const uint8_t **frames
        const size_t *frame_bytes
        const uint8_t *records
        const uint64_t *stripes
        const int64_t *first
        const int64_t *count
        uint8_t *out
        const int64_t *out_offsets
        const uint8_t *file_id
        const uint8_t *txs
        int32_t *status
        uint64_t *seen
    size_t ps_read_pieces(const ps_pieces *pieces, int threads)
    int ps_decode_part(const uint8_t *frame, size_t n, const uint8_t *file_id, const uint8_t *tx, uint8_t *stripe,
                       size_t stripe_bytes, ps_frame_header *header)
