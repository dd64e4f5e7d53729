/* Byte shuffle: byte 0 of every element goes to plane 0, byte 1 to plane 1, and so on. The planes may lie anywhere; one after the
 * other, they are what Blosc's shuffle makes.
 *
 * SSE2 or AVX2, chosen when the extension module is loaded, else portable. Thread-safe; no alignment is needed.
 */
#ifndef PINSTRIPE_SHUFFLE_H
#define PINSTRIPE_SHUFFLE_H

#include <stddef.h>
#include <stdint.h>

static inline int ps_shuffle_width_ok(int width) { return width == 2 || width == 4 || width == 8; }

/* Shuffle `count` elements of `width` bytes, 2, 4 or 8, into as many planes of `count` bytes each. Nothing overlaps. */
void ps_shuffle(const uint8_t *src, uint8_t *const *planes, size_t count, int width);

/* The inverse. */
void ps_unshuffle(const uint8_t *const *planes, uint8_t *dst, size_t count, int width);

/* The implementations this processor offers, slowest first ("portable", "sse2", "avx2"); the one in use; and the choice, for
 * tests, which is -1 when the processor does not offer it. */
#define PS_SHUFFLE_IMPLEMENTATIONS 3
size_t ps_shuffle_implementations(const char *names[PS_SHUFFLE_IMPLEMENTATIONS]);
const char *ps_shuffle_implementation(void);
int ps_shuffle_use(const char *name);

#endif
