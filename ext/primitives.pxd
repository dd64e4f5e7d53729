# The C primitives, declared once; what they do stands in the headers.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

cdef extern from "crc64.h" nogil:
    enum: PS_CRC64_IMPLEMENTATIONS
    uint64_t ps_crc64(const void *data, size_t n, uint64_t crc)
    uint64_t ps_crc64_combine(uint64_t crc_a, uint64_t crc_b, uint64_t length_b)
    uint64_t ps_crc64_zeros(uint64_t length, uint64_t crc)
    uint64_t ps_crc64_fold(const uint64_t *crcs, const int64_t *lengths, size_t n, uint64_t crc)
    size_t ps_crc64_implementations(const char **names)
    const char *ps_crc64_implementation()
    int ps_crc64_use(const char *name)

cdef extern from "lz4fn.h" nogil:
    enum: PS_LZ4_SYSTEM
    enum: PS_LZ4_MAX_INPUT
    ctypedef struct ps_lz4_functions:
        const char *(*version)() noexcept nogil
        int (*bound)(int length) noexcept nogil
        int (*state_bytes)() noexcept nogil
        int (*compress)(
            void *state, const char *src, char *dst, int src_bytes, int dst_bytes, int acceleration
        ) noexcept nogil
        int (*decompress)(const char *src, char *dst, int src_bytes, int dst_bytes) noexcept nogil
    ps_lz4_functions ps_lz4
    int ps_lz4_bind(const char *path, char *error, size_t n)

cdef extern from "shuffle.h" nogil:
    enum: PS_SHUFFLE_IMPLEMENTATIONS
    bint ps_shuffle_width_ok(int width)
    void ps_shuffle(const uint8_t *src, uint8_t **planes, size_t count, int width)
    void ps_unshuffle(const uint8_t **planes, uint8_t *dst, size_t count, int width)
    size_t ps_shuffle_implementations(const char **names)
    const char *ps_shuffle_implementation()
    int ps_shuffle_use(const char *name)

cdef extern from "planes.h" nogil:
    enum: PS_PLANES_MAX
    size_t PS_PLANES_BOUND(size_t n)
    size_t PS_PLANES_SCRATCH(size_t n)
    ctypedef struct ps_trials:
        pass
    size_t ps_planes_compress(const uint8_t *block, size_t n, int width, ps_trials *trials, int acceleration,
                              void *lz4_state, uint8_t *scratch, uint8_t *dst)
    int ps_planes_decompress(const uint8_t *stored, size_t stored_bytes, uint8_t *block, size_t n, int width,
                             uint8_t *scratch)

cdef extern from "probe.h" nogil:
    ctypedef struct ps_choice:
        uint8_t codec
        uint8_t width
        uint16_t permille
    bint ps_is_zero(const uint8_t *block, size_t n)
    size_t ps_probe_scratch_bytes()
    int ps_probe(const uint8_t *block, size_t n, int width_hint, ps_choice *out, void *scratch)

cdef extern from "copy.h" nogil:
    void ps_copy_bytes(uint8_t *dst, const uint8_t *src, size_t n)
    int64_t ps_copy_check(size_t src_bytes, const int64_t *src_offsets, size_t dst_bytes, const int64_t *dst_offsets,
                          const int64_t *lengths, size_t n)
    int64_t ps_copy_extents(const uint8_t *src, const int64_t *src_offsets, uint8_t *dst, const int64_t *dst_offsets,
                            const int64_t *lengths, size_t n)
