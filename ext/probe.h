/* The probe: how should this block be stored? It reads a few KiB of it and needs `ps_lz4` to be bound.
 *
 * The answer is a guess, good for the block and for its neighbours in the same array: an encoder asks for the first block of
 * a run, uses the answer for the next ones, and asks again after a few. What it must still do for each block itself:
 * `ps_is_zero`, and to store raw what LZ4 did not make smaller.
 */
#ifndef PINSTRIPE_PROBE_H
#define PINSTRIPE_PROBE_H

#include <stddef.h>
#include <stdint.h>

/* The block table's codec numbers (docs/reference/format.md), append-only. */
enum { PS_CODEC_RAW = 0, PS_CODEC_LZ4 = 1, PS_CODEC_ZERO = 2, PS_CODEC_PLANES = 3 };

typedef struct {
    uint8_t codec;     /* PS_CODEC_* */
    uint8_t width;     /* of planes: 2, 4 or 8; 0 for the other codecs */
    uint16_t permille; /* stored bytes expected of 1000 raw bytes, by the sample: 1000 for raw, 0 for zero */
} ps_choice;

/* Are all n bytes zero? Exact; returns at the first piece that has another byte, so it costs nothing on other data. */
int ps_is_zero(const uint8_t *block, size_t n);

/* Bytes of scratch that ps_probe needs, aligned as malloc does, one a thread, needs no clearing. Ask after ps_lz4_bind. */
size_t ps_probe_scratch_bytes(void);

/* Choose for block[0..n). width_hint: 0 = the element's width is unknown: all widths are tried; 1 = bytes, never planes;
 * 2, 4 or 8 = planes of this width, or plain. Any other is as 0. Returns 0; -1 when n is above PS_LZ4_MAX_INPUT. */
int ps_probe(const uint8_t *block, size_t n, int width_hint, ps_choice *out, void *scratch);

#endif
