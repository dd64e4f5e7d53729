"""Compiled leaves: checksum, LZ4, byte shuffle, planes, probe, copies of many extents. Buffers in, numbers out, no GIL.

Why not Python: each touches every byte it is given, at the speed of memory, while other threads run. The work is done
by the C files beside this one; here arguments are checked, and nothing is decided. The plain-Python twins are in
pinstripe.testing.oracle.

Every function takes any C-contiguous buffer (PEP 3118), read-only where it only reads, of any item type, and sees its
bytes.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from primitives cimport (
    PS_CRC64_IMPLEMENTATIONS,
    PS_LZ4_MAX_INPUT,
    PS_LZ4_SYSTEM,
    PS_PLANES_BOUND,
    PS_PLANES_MAX,
    PS_PLANES_SCRATCH,
    PS_SHUFFLE_IMPLEMENTATIONS,
    ps_choice,
    ps_copy_check,
    ps_copy_extents,
    ps_crc64,
    ps_crc64_combine,
    ps_crc64_fold,
    ps_crc64_implementation,
    ps_crc64_implementations,
    ps_crc64_use,
    ps_crc64_zeros,
    ps_lz4,
    ps_lz4_bind,
    ps_planes_compress,
    ps_planes_decompress,
    ps_probe,
    ps_probe_scratch_bytes,
    ps_shuffle,
    ps_shuffle_implementation,
    ps_shuffle_implementations,
    ps_shuffle_use,
    ps_shuffle_width_ok,
    ps_unshuffle,
)

import os


@cython.final
@cython.freelist(4)
@cython.auto_pickle(False)
cdef class _Bytes:
    """The bytes of a Python object, held while this lives."""

    cdef Py_buffer view
    cdef uint8_t *start
    cdef size_t n

    def __cinit__(self, data, bint writable=False):
        PyObject_GetBuffer(data, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.start = <uint8_t *> self.view.buf
        self.n = <size_t> self.view.len

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef int refuse_overlap(self, _Bytes other) except -1:
        if self.n and other.n and self.start < other.start + other.n and other.start < self.start + self.n:
            raise ValueError("src and dst overlap")
        return 0


def crc64(data, uint64_t crc=0):
    """Checksum `data`: its CRC-64/NVME.

    Parameters
    ----------
    data : buffer
    crc : int
        Checksum of the bytes that come before, to go on from.
    """
    cdef Py_buffer view  # no _Bytes: nothing can fail until it is released, and a short block is not worth an object
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    with nogil:
        crc = ps_crc64(view.buf, <size_t> view.len, crc)
    PyBuffer_Release(&view)
    return crc


def crc64_combine(uint64_t crc_a, uint64_t crc_b, uint64_t len_b):
    """Return the checksum of A followed by B from the checksums of both and the bytes of B, without reading them."""
    return ps_crc64_combine(crc_a, crc_b, len_b)


def crc64_zeros(uint64_t length, uint64_t crc=0):
    """Return the checksum of the bytes behind `crc` followed by `length` zero bytes, without making them."""
    return ps_crc64_zeros(length, crc)


def crc64_fold(const uint64_t[::1] crcs, const int64_t[::1] lengths, uint64_t crc=0):
    """Combine the checksums of many pieces, in order, into that of the whole, behind the bytes of `crc`.

    Raises
    ------
    ValueError
        The arrays differ in length, or a length is negative.
    """
    cdef Py_ssize_t i, n = crcs.shape[0], negative = -1
    if lengths.shape[0] != n:
        raise ValueError(f"{n} checksums but {lengths.shape[0]} lengths")
    if n == 0:
        return crc
    with nogil:
        for i in range(n):
            if lengths[i] < 0:
                negative = i
                break
        if negative < 0:
            crc = ps_crc64_fold(&crcs[0], &lengths[0], <size_t> n, crc)
    if negative >= 0:
        raise ValueError(f"length {negative} is negative: {lengths[negative]}")
    return crc


def crc64_implementation():
    """Name the implementation in use: ``"vpclmul512"``, ``"vpclmul256"``, ``"pclmul"`` or ``"portable"``."""
    return ps_crc64_implementation().decode("ascii")


def crc64_implementations():
    """List the implementations that this processor offers, slowest first; the last one is taken at import."""
    cdef const char *names[PS_CRC64_IMPLEMENTATIONS]
    cdef size_t i, n = ps_crc64_implementations(names)
    return [names[i].decode("ascii") for i in range(n)]


def crc64_use(str name):
    """Use the named implementation from now on, in this module only, and return the one used before; for tests.

    Raises
    ------
    ValueError
        The processor does not offer it.
    """
    before = crc64_implementation()
    if ps_crc64_use(name.encode()) != 0:
        raise ValueError(f"no implementation {name!r} on this processor, but {', '.join(crc64_implementations())}")
    return before


def lz4_bound(Py_ssize_t length):
    """Return the bytes that an LZ4 block of `length` raw bytes takes at most.

    Raises
    ------
    ValueError
        `length` is negative, or more than LZ4 takes.
    """
    if length < 0 or length > PS_LZ4_MAX_INPUT:
        raise ValueError(f"LZ4 takes 0 to {PS_LZ4_MAX_INPUT} bytes, not {length}")
    return ps_lz4.bound(<int> length)


def lz4_compress(src, dst, int acceleration=1):
    """Compress `src` into `dst` as one LZ4 block and return its bytes, or 0 when it does not fit.

    Parameters
    ----------
    src : buffer
        At most ``0x7E000000`` bytes.
    dst : writable buffer
        Of any size; `lz4_bound` always fits.
    acceleration : int
        From 1; higher is faster and compresses less.

    Raises
    ------
    ValueError
        `src` is too long, or overlaps `dst`.
    """
    cdef _Bytes raw = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    cdef size_t room = min(out.n, <size_t> 0x7FFFFFFF)
    cdef int written
    cdef void *state
    lz4_bound(<Py_ssize_t> raw.n)
    raw.refuse_overlap(out)
    if room == 0:
        return 0
    with nogil:
        state = malloc(<size_t> ps_lz4.state_bytes())
        if state != NULL:
            written = ps_lz4.compress(
                state, <const char *> raw.start, <char *> out.start, <int> raw.n, <int> room, acceleration
            )
            free(state)
    if state == NULL:
        raise MemoryError
    return written


def lz4_decompress(src, dst):
    """Decompress the LZ4 block `src` into `dst` and return the raw bytes. Untrusted `src` is safe.

    Raises
    ------
    ValueError
        `src` is no LZ4 block, holds more than `dst` takes, or overlaps it; what `dst` holds then is undefined.
    """
    cdef _Bytes block = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    cdef size_t room = min(out.n, <size_t> 0x7FFFFFFF)
    cdef char nothing = 0
    cdef char *start = <char *> out.start if out.n else &nothing
    cdef int written = -1
    if 0 < block.n <= 0x7FFFFFFF:
        block.refuse_overlap(out)
        with nogil:
            written = ps_lz4.decompress(<const char *> block.start, start, <int> block.n, <int> room)
    if written < 0:
        raise ValueError(f"the {block.n} bytes are no LZ4 block of at most {out.n} raw bytes")
    return written


def lz4_library():
    """Tell which LZ4 is in use: its version, and whether the lz4 package or the system has it."""
    return f"lz4 {ps_lz4.version().decode('ascii')} ({'system' if PS_LZ4_SYSTEM else 'lz4 package'})"


cdef int check_width(int width) except -1:
    if not ps_shuffle_width_ok(width):
        raise ValueError(f"the width is 2, 4 or 8, not {width}")
    return 0


cdef int check_shuffle(_Bytes src, _Bytes dst, int width) except -1:
    check_width(width)
    if src.n != dst.n:
        raise ValueError(f"src has {src.n} bytes, dst {dst.n}")
    src.refuse_overlap(dst)
    return 0


def shuffle(src, dst, int width):
    """Shuffle the bytes of elements of `width` 2, 4 or 8: all first bytes, then all second ones, and so on.

    A tail that is no whole element stays in place.

    Raises
    ------
    ValueError
        Another width, or `src` and `dst` differ in length or overlap.
    """
    cdef _Bytes raw = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    check_shuffle(raw, out, width)
    cdef size_t i, count = raw.n // <size_t> width, whole = count * <size_t> width
    cdef uint8_t *planes[PS_PLANES_MAX]
    if raw.n == 0:
        return
    for i in range(<size_t> width):
        planes[i] = out.start + i * count
    with nogil:
        ps_shuffle(raw.start, planes, count, width)
        memcpy(out.start + whole, raw.start + whole, raw.n - whole)


def unshuffle(src, dst, int width):
    """Put back what `shuffle` did; its inverse, with the same arguments and errors."""
    cdef _Bytes shuffled = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    check_shuffle(shuffled, out, width)
    cdef size_t i, count = shuffled.n // <size_t> width, whole = count * <size_t> width
    cdef const uint8_t *planes[PS_PLANES_MAX]
    if shuffled.n == 0:
        return
    for i in range(<size_t> width):
        planes[i] = shuffled.start + i * count
    with nogil:
        ps_unshuffle(planes, out.start, count, width)
        memcpy(out.start + whole, shuffled.start + whole, shuffled.n - whole)


def shuffle_implementation():
    """Name the implementation of the byte shuffle in use: ``"avx2"``, ``"sse2"`` or ``"portable"``."""
    return ps_shuffle_implementation().decode("ascii")


def shuffle_implementations():
    """List the implementations that this processor offers, slowest first; the last one is taken at import."""
    cdef const char *names[PS_SHUFFLE_IMPLEMENTATIONS]
    cdef size_t i, n = ps_shuffle_implementations(names)
    return [names[i].decode("ascii") for i in range(n)]


def shuffle_use(str name):
    """Use the named implementation from now on, in this module only, and return the one used before; for tests.

    Raises
    ------
    ValueError
        The processor does not offer it.
    """
    before = shuffle_implementation()
    if ps_shuffle_use(name.encode()) != 0:
        raise ValueError(f"no implementation {name!r} on this processor, but {', '.join(shuffle_implementations())}")
    return before


def planes_bound(Py_ssize_t length):
    """Return the bytes that a block of `length` raw bytes takes at most as planes.

    Raises
    ------
    ValueError
        `length` is negative, or more than LZ4 takes.
    """
    lz4_bound(length)
    return PS_PLANES_BOUND(<size_t> length)


def planes_compress(src, dst, int width, int acceleration=1):
    """Compress `src` into `dst` as byte planes, each raw, LZ4 or constant, and return the bytes used.

    Parameters
    ----------
    src : buffer
        The block.
    dst : writable buffer
        Of at least `planes_bound` bytes.
    width : int
        Bytes of an element: 2, 4 or 8.
    acceleration : int
        LZ4's.

    Raises
    ------
    ValueError
        Another width, `dst` is too small, or the buffers overlap.
    """
    cdef _Bytes raw = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    cdef size_t written = 0, state_bytes = <size_t> ps_lz4.state_bytes()
    cdef uint8_t *state
    check_width(width)
    if out.n < <size_t> planes_bound(<Py_ssize_t> raw.n):
        raise ValueError(f"dst has {out.n} bytes; {raw.n} raw bytes may take {planes_bound(<Py_ssize_t> raw.n)}")
    raw.refuse_overlap(out)
    with nogil:
        state = <uint8_t *> malloc(state_bytes + PS_PLANES_SCRATCH(raw.n))
        if state != NULL:
            written = ps_planes_compress(
                raw.start, raw.n, width, NULL, acceleration, state, state + state_bytes, out.start
            )
            free(state)
    if state == NULL:
        raise MemoryError
    return written


def planes_decompress(src, dst, int width):
    """Fill `dst` from the planes `src`. Untrusted `src` is safe.

    Raises
    ------
    ValueError
        Another width, `src` is not the planes of exactly as many bytes, or overlaps `dst`; what `dst` holds then is
        undefined.
    """
    cdef _Bytes stored = _Bytes(src)
    cdef _Bytes out = _Bytes(dst, writable=True)
    cdef int bad = -1
    cdef uint8_t *scratch
    check_width(width)
    lz4_bound(<Py_ssize_t> out.n)
    stored.refuse_overlap(out)
    with nogil:
        scratch = <uint8_t *> malloc(PS_PLANES_SCRATCH(out.n))
        if scratch != NULL:
            bad = ps_planes_decompress(stored.start, stored.n, out.start, out.n, width, scratch)
            free(scratch)
    if scratch == NULL:
        raise MemoryError
    if bad:
        raise ValueError(f"the {stored.n} bytes are no planes of {out.n} raw bytes of width {width}")


def probe(data, int width=0):
    """Guess from a sample how a block is best stored.

    Parameters
    ----------
    data : buffer
        The block.
    width : int
        Bytes of an element: 2, 4 or 8; 1 = never planes; 0 = unknown, all widths are tried.

    Returns
    -------
    codec : int
        0 raw, 1 LZ4, 2 zero (exact: every byte is zero), 3 planes, as in the block table.
    width : int
        The planes' width, else 0.
    """
    cdef _Bytes block = _Bytes(data)
    cdef ps_choice choice
    cdef void *scratch
    lz4_bound(<Py_ssize_t> block.n)
    with nogil:
        scratch = malloc(ps_probe_scratch_bytes())
        if scratch != NULL:
            ps_probe(block.start, block.n, width, &choice, scratch)
            free(scratch)
    if scratch == NULL:
        raise MemoryError
    return choice.codec, choice.width


def copy_extents(
    src, const int64_t[::1] src_offsets, dst, const int64_t[::1] dst_offsets, const int64_t[::1] lengths
):
    """Copy many extents from one buffer to another, in order, and return the bytes copied.

    The i-th copies ``lengths[i]`` bytes at ``src_offsets[i]`` to ``dst_offsets[i]``, as memmove does; of extents that
    overlap in `dst` the last one wins. Every extent is checked before the first byte is copied.

    Raises
    ------
    ValueError
        The arrays differ in length.
    IndexError
        An extent is negative, or leaves its buffer; nothing was copied.
    """
    cdef _Bytes source = _Bytes(src)
    cdef _Bytes target = _Bytes(dst, writable=True)
    cdef Py_ssize_t n = lengths.shape[0]
    cdef int64_t bad, copied = 0
    if src_offsets.shape[0] != n or dst_offsets.shape[0] != n:
        raise ValueError(f"{src_offsets.shape[0]} and {dst_offsets.shape[0]} offsets, but {n} lengths")
    if n == 0:
        return 0
    with nogil:
        bad = ps_copy_check(source.n, &src_offsets[0], target.n, &dst_offsets[0], &lengths[0], <size_t> n)
        if bad < 0:
            copied = ps_copy_extents(
                source.start, &src_offsets[0], target.start, &dst_offsets[0], &lengths[0], <size_t> n
            )
    if bad >= 0:
        raise IndexError(
            f"extent {bad}: {lengths[bad]} bytes at {src_offsets[bad]} of {source.n}"
            f" to {dst_offsets[bad]} of {target.n}"
        )
    return copied


cdef int bind_lz4() except -1:
    cdef char error[512]
    path = b""
    if not PS_LZ4_SYSTEM:
        try:
            from lz4.block import _block
        except ImportError as missing:
            raise ImportError("pinstripe takes LZ4 from the lz4 package: pip install lz4") from missing
        path = os.fsencode(_block.__file__)
    if ps_lz4_bind(path, error, sizeof(error)) != 0:
        raise ImportError((<bytes> error).decode("utf-8", "replace"))
    return 0


bind_lz4()
