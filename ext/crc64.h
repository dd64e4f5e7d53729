/* CRC-64/NVME, the checksum of every block, stripe and file (docs/reference/format.md).
 *
 * Reflected polynomial 0x9A6C9329AC4BC9B5, initial value and final exclusive-or all ones; of "123456789": 0xAE8B14860A799888.
 * Values passed in and out are finished checksums: 0 is the checksum of no bytes, and so the one to start with.
 * The tables and the choice of the implementation are made by a constructor when the extension module is loaded; there is
 * nothing to call first. All functions but ps_crc64_use are thread-safe, and none needs the GIL.
 */
#ifndef PINSTRIPE_CRC64_H
#define PINSTRIPE_CRC64_H

#include <stddef.h>
#include <stdint.h>

/* Checksum of the bytes behind `crc` followed by data[0..n). `data` needs no alignment and may be NULL when n is 0. */
uint64_t ps_crc64(const void *data, size_t n, uint64_t crc);

/* Checksum of A followed by B, from those of A and B and the length of B. O(log length_b), one multiplication per non-zero
 * byte of length_b: about 10 ns for a block or stripe size. */
uint64_t ps_crc64_combine(uint64_t crc_a, uint64_t crc_b, uint64_t length_b);

/* Checksum of the bytes behind `crc` followed by `length` zero bytes, as cheap as combine. */
uint64_t ps_crc64_zeros(uint64_t length, uint64_t crc);

/* Checksum of the bytes behind `crc` followed by n pieces, from their checksums and lengths (which must not be negative). */
uint64_t ps_crc64_fold(const uint64_t *crcs, const int64_t *lengths, size_t n, uint64_t crc);

/* The implementations this processor offers, slowest first; "portable" is always one. Returns their number. */
#define PS_CRC64_IMPLEMENTATIONS 4
size_t ps_crc64_implementations(const char *names[PS_CRC64_IMPLEMENTATIONS]);

/* The one in use: "portable", "pclmul", "vpclmul256" or "vpclmul512". */
const char *ps_crc64_implementation(void);

/* Use the named one from now on, in this extension module; for tests. -1 when the processor does not offer it. */
int ps_crc64_use(const char *name);

#endif
