/* Copies of many extents between two flat buffers: scatter, gather, or both at once. */
#ifndef PINSTRIPE_COPY_H
#define PINSTRIPE_COPY_H

#include <stddef.h>
#include <stdint.h>

/* memmove, without the trap in it: from some KiB on glibc copies with `rep movsb`, which falls to a tenth of its speed on AMD's
 * Zen when dst is a few bytes ahead of src modulo the page (measured on Zen 3, glibc 2.36: 2.8 instead of 26 GB/s). */
void ps_copy_bytes(uint8_t *dst, const uint8_t *src, size_t n);

/* Index of the first extent that is negative or leaves its buffer, or -1 when all n are good. Overflow-safe. */
int64_t ps_copy_check(size_t src_bytes, const int64_t *src_offsets, size_t dst_bytes, const int64_t *dst_offsets,
                      const int64_t *lengths, size_t n);

/* Copy extent by extent, in order, each as memmove does; so of extents that overlap in dst the last one wins. Checks nothing:
 * call ps_copy_check first. Returns the bytes copied. */
int64_t ps_copy_extents(const uint8_t *src, const int64_t *src_offsets, uint8_t *dst, const int64_t *dst_offsets,
                        const int64_t *lengths, size_t n);

#endif
