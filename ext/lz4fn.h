/* The LZ4 block functions, found at import in the `lz4` package's own extension module, or linked (PINSTRIPE_LZ4_SYSTEM).
 *
 * Each extension module has its own copy of `ps_lz4` and binds it once at import, under the GIL; afterwards it never changes.
 */
#ifndef PINSTRIPE_LZ4FN_H
#define PINSTRIPE_LZ4FN_H

#include <stddef.h>
#include <stdint.h>

#define PS_LZ4_MAX_INPUT 0x7E000000 /* LZ4_MAX_INPUT_SIZE */

#ifdef PINSTRIPE_LZ4_SYSTEM
#define PS_LZ4_SYSTEM 1
#else
#define PS_LZ4_SYSTEM 0
#endif

typedef struct {
    /* LZ4_versionString */
    const char *(*version)(void);
    /* LZ4_compressBound: 0 when the length is negative or above PS_LZ4_MAX_INPUT */
    int (*bound)(int length);
    /* LZ4_sizeofState: bytes of a state (about 16 KiB), aligned to 8: the caller's, one a thread, reused without clearing */
    int (*state_bytes)(void);
    /* LZ4_compress_fast_extState: bytes written, or 0 when the result does not fit into dst_bytes */
    int (*compress)(void *state, const char *src, char *dst, int src_bytes, int dst_bytes, int acceleration);
    /* LZ4_decompress_safe: bytes written, at most dst_bytes, or negative when src is no LZ4 block or does not fit. Untrusted
     * src is safe. */
    int (*decompress)(const char *src, char *dst, int src_bytes, int dst_bytes);
} ps_lz4_functions;

extern ps_lz4_functions ps_lz4;

/* Fill `ps_lz4`. `path` is the shared object that exports the functions (`lz4.block._block.__file__`), NULL and ignored when
 * PS_LZ4_SYSTEM. Returns 0, or -1 with a message of at most n bytes, NUL included, in `error`: raise it as ImportError.
 * A second call is harmless. */
int ps_lz4_bind(const char *path, char *error, size_t n);

#endif
