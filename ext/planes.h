/* Codec "planes" of the block table: a block shuffled by its elements' width, each byte plane stored in its own way: raw, as an LZ4
 * block, or as one byte that it repeats. The bytes are docs/reference/format.md, "Planes".
 *
 * A plane without matches costs only its copy, and LZ4, which skips faster and faster through such a plane, begins each other one
 * afresh. Needs `ps_lz4` to be bound.
 */
#ifndef PINSTRIPE_PLANES_H
#define PINSTRIPE_PLANES_H

#include <stddef.h>
#include <stdint.h>

#define PS_PLANES_MAX 8

/* What was learnt of each plane of the blocks before: one that LZ4 did not make smaller is left raw for 0, 1, 3, 7, 15, 15 ...
 * blocks, then tried again. All zeros to start. */
typedef struct {
    uint8_t wait[PS_PLANES_MAX];
    uint8_t backoff[PS_PLANES_MAX];
} ps_trials;

/* Bytes of scratch for a block of n bytes; it is best aligned to 64. */
#define PS_PLANES_SCRATCH(n) ((n) + PS_PLANES_MAX * 128)

/* Encode block[0..n) to dst, which has room for PS_PLANES_BOUND(n), and return the bytes used. `trials` may be NULL: every plane is
 * tried. `lz4_state` is as ps_lz4.compress wants it. */
#define PS_PLANES_BOUND(n) ((n) + 2)
size_t ps_planes_compress(const uint8_t *block, size_t n, int width, ps_trials *trials, int acceleration, void *lz4_state,
                          uint8_t *scratch, uint8_t *dst);

/* Decode stored[0..stored_bytes), which is untrusted, to exactly block[0..n). Returns 0, or -1 when it is no such block: then
 * block[0..n) is undefined. */
int ps_planes_decompress(const uint8_t *stored, size_t stored_bytes, uint8_t *block, size_t n, int width, uint8_t *scratch);

#endif
