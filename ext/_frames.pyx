# cython: auto_pickle=False
"""Frames in batches: encode, write, read, decode. The frame is defined in docs/reference/format.md and in frame.h.

Why not Python: one call takes a batch of stripes through checksum, planes, LZ4 and the kernel's copies, without the
GIL and without a Python object for a stripe or block. The plain-Python twin is pinstripe.testing.frame_oracle.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from frames cimport (
    PS_BLOCK_LOG2_MAX,
    PS_BLOCK_LOG2_MIN,
    PS_DAMAGE_BLOCK,
    PS_DAMAGE_END,
    PS_DAMAGE_HEADER,
    PS_DAMAGE_IDENTITY,
    PS_DAMAGE_LENGTHS,
    PS_DAMAGE_LZ4,
    PS_DAMAGE_MAGIC,
    PS_DAMAGE_UNKNOWN,
    PS_ENCODE_AUTO,
    PS_ENCODE_LZ4,
    PS_ENCODE_RAW,
    PS_FRAME_PART,
    PS_HEADER_MAX,
    PS_STRIPE_MAX,
    ps_block_count,
    ps_decode_part,
    ps_encode,
    ps_encode_batch,
    ps_encode_scratch_bytes,
    ps_encode_workspace_bytes,
    ps_encoder,
    ps_extent,
    ps_frame,
    ps_frame_find,
    ps_frame_header,
    ps_frames_copy,
    ps_frames_place,
    ps_frames_write,
    ps_header_bytes,
    ps_pieces,
    ps_read_pieces,
    ps_record,
    ps_source,
    ps_tables_bytes,
)
from libc.errno cimport ENOMEM
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.stdlib cimport posix_memalign
from primitives cimport PS_LZ4_SYSTEM, ps_lz4_bind

import os

import numpy as np

RECORD = np.dtype(
    [
        ("segment", "<u4"),
        ("frame_bytes", "<u4"),
        ("offset", "<u8"),
        ("crc64", "<u8"),
        ("raw_bytes", "<u4"),
        ("header64", "<u2"),
        ("raw_blocks", "<u2"),
        ("lz4_blocks", "<u2"),
        ("shuffled_blocks", "<u2"),
        ("zero_blocks", "<u2"),
        ("reserved", "<u2"),
    ]
)

CODEC_AUTO = PS_ENCODE_AUTO
CODEC_LZ4 = PS_ENCODE_LZ4
CODEC_RAW = PS_ENCODE_RAW

DAMAGE = {
    PS_DAMAGE_MAGIC: "frame magic",
    PS_DAMAGE_HEADER: "frame header checksum",
    PS_DAMAGE_IDENTITY: "identity (file, transaction or stripe)",
    PS_DAMAGE_LENGTHS: "lengths",
    PS_DAMAGE_LZ4: "LZ4 or plane data",
    PS_DAMAGE_BLOCK: "block checksum",
    PS_DAMAGE_END: "end of file",
    PS_DAMAGE_UNKNOWN: "unknown flag, codec or width",
}


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


cdef class _Scratch:
    """Memory of one batch, kept by the encoder from batch to batch."""

    cdef uint8_t *memory
    cdef size_t capacity

    def __dealloc__(self):
        free(self.memory)

    cdef int hold(self, size_t n) except -1:
        """Have at least n bytes, aligned to 64; the contents are lost."""
        if self.capacity >= n:
            return 0
        free(self.memory)
        self.memory = NULL
        self.capacity = 0
        if posix_memalign(<void **> &self.memory, 64, n) != 0:
            self.memory = NULL
            raise MemoryError
        self.capacity = n
        return 0


cdef object _sixteen(value, str name):
    if not isinstance(value, bytes) or len(value) != 16:
        raise ValueError(f"{name} is 16 bytes, not {value!r}")
    return value


cdef bint is_inside(int64_t offset, int64_t length, size_t n) noexcept:
    """Is [offset, offset + length) inside [0, n)? `length` is not negative."""
    return 0 <= offset and <uint64_t> offset <= n and <uint64_t> length <= n - <uint64_t> offset


@cython.final
cdef class Elsewhere:
    """Bytes of a buffer that lie in another one.

    Parameters
    ----------
    data : buffer
        The other one.
    places, offsets, lengths : arrays of int64
        Extent i, at ``places[i]`` of the buffer, is ``data[offsets[i]:offsets[i] + lengths[i]]``; none is empty,
        places rise, and extents do not overlap there.

    Raises
    ------
    ValueError
        An extent leaves `data`, or begins before the one before ends.
    """

    cdef readonly object data
    cdef readonly object places
    cdef readonly object offsets
    cdef readonly object lengths
    cdef _Bytes held
    cdef const int64_t[::1] all_places
    cdef const int64_t[::1] all_offsets
    cdef const int64_t[::1] all_lengths

    def __cinit__(self, data, places, offsets, lengths):
        self.data = data
        self.held = _Bytes(data)
        # Copies: what was checked stays as it was.
        self.places, self.offsets, self.lengths = (np.array(some, np.int64) for some in (places, offsets, lengths))
        self.all_places, self.all_offsets, self.all_lengths = self.places, self.offsets, self.lengths
        cdef const int64_t[::1] at = self.all_places
        cdef Py_ssize_t i, n = at.shape[0]
        cdef int64_t offset, length, end = 0
        if self.all_offsets.shape[0] != n or self.all_lengths.shape[0] != n:
            raise ValueError(f"{n} places, {len(self.offsets)} offsets and {len(self.lengths)} lengths")
        for i in range(n):
            offset, length = self.all_offsets[i], self.all_lengths[i]
            if length < 1 or not is_inside(offset, length, self.held.n):
                raise ValueError(f"extent {i}, {length} bytes at {offset}, leaves the buffer of {self.held.n}")
            if at[i] < end or at[i] > INT64_MAX - length:
                raise ValueError(f"extent {i}, at {at[i]}, begins before the one before ends, at {end}")
            end = at[i] + length


@cython.final
cdef class FrameBatch:
    """Encoded frames: our headers and compressed blocks, the caller's raw blocks. Made by `Encoder`.

    It keeps the caller's buffer alive until `release`; until then the caller leaves the bytes alone, for their
    checksums are made. After `release` every use but `len` and the attributes raises.
    Several threads may write different frames at once.

    Attributes
    ----------
    records : numpy array of RECORD
        One a frame. `segment` is 0; `offset` holds if all are written as one run from offset 0. The caller's to change.
    raw_bytes, stored_bytes : int
        Sums over the frames.
    compress_ns, checksum_ns : int
        Time in probe, planes and LZ4, and in the checksum, summed over threads.
    """

    cdef readonly object records
    cdef readonly uint64_t raw_bytes
    cdef readonly uint64_t stored_bytes
    cdef readonly uint64_t compress_ns
    cdef readonly uint64_t checksum_ns
    cdef _Bytes data
    cdef Elsewhere elsewhere
    cdef ps_source source
    cdef _Scratch scratch
    cdef list pool
    cdef ps_frame *frames
    cdef Py_ssize_t n
    cdef int users

    def __dealloc__(self):
        free(self.frames)

    def __del__(self):
        self.release()

    def __len__(self):
        return self.n

    cdef int check(self, Py_ssize_t first, Py_ssize_t last, int64_t start) except -1:
        if self.scratch is None:
            raise ValueError("the batch was released")
        if not 0 <= first <= last <= self.n:
            raise IndexError(f"frames {first} to {last} of {self.n}")
        if start < 0:
            raise ValueError(f"start is negative: {start}")
        return 0

    def place(self, Py_ssize_t first, Py_ssize_t last, int64_t start):
        """Return the offsets of frames [first, last) written as one run into a segment that ends at `start`.

        The rule is docs/design/0002-frame-placement.md: multiples of 64, and a small gap where a payload would be read
        slowly.
        """
        self.check(first, last, start)
        offsets = np.empty(last - first, np.uint64)
        cdef uint64_t[::1] view = offsets
        if last > first:
            ps_frames_place(self.frames + first, <size_t> (last - first), <uint64_t> start, &view[0])
        return offsets

    def placed_bytes(self, Py_ssize_t first, Py_ssize_t last, int64_t start):
        """Return the bytes from `start` to the end of frames [first, last), gaps included."""
        self.check(first, last, start)
        return ps_frames_place(self.frames + first, <size_t> (last - first), <uint64_t> start, NULL) - <uint64_t> start

    def write(self, int fd, int64_t start, Py_ssize_t first, Py_ssize_t last):
        """Write frames [first, last) as one run, each where `place` says. All of it, or an error.

        Raises
        ------
        OSError
            With the errno of ``pwritev``, ENOSPC where it wrote nothing; a part of the run may stand in the file then.
        """
        cdef int error
        self.check(first, last, start)
        self.users += 1
        with nogil:
            error = ps_frames_write(fd, self.frames + first, <size_t> (last - first), <uint64_t> start)
        self.users -= 1
        if error != 0:
            raise OSError(error, os.strerror(error))

    def tobytes(self, int64_t start, Py_ssize_t first, Py_ssize_t last):
        """Return what `write` would put behind `start`, from there on, `placed_bytes` in all; gaps are zeros."""
        cdef object out = PyBytes_FromStringAndSize(NULL, self.placed_bytes(first, last, start))
        cdef uint8_t *dst = <uint8_t *> PyBytes_AS_STRING(out)
        self.users += 1
        with nogil:
            ps_frames_copy(dst, self.frames + first, <size_t> (last - first), <uint64_t> start)
        self.users -= 1
        return out

    def release(self):
        """Give the memory back to the encoder and let go of the caller's buffer. A second call does nothing.

        Raises
        ------
        RuntimeError
            Another thread is writing the batch.
        """
        if self.users:
            raise RuntimeError("the batch is being written")
        if self.scratch is not None:
            self.pool.append(self.scratch)
            self.scratch = None
            self.data = None
            self.elsewhere = None


@cython.final
cdef class Encoder:
    """Encodes batches of stripes of one file in one transaction.

    It holds no GIL while it works. One thread calls it at a time; others may write and release batches meanwhile.

    Parameters
    ----------
    file_id, tx : bytes
        16 each.
    block_bytes : int
        A power of two from 16 KiB to 1 MiB.
    codec : int
        CODEC_AUTO: each block as the data asks for. CODEC_LZ4: LZ4 wherever it saves a 32nd. CODEC_RAW: no compression,
        and zeros are bytes like others.
    acceleration : int
        LZ4's: from 1; higher is faster and compresses less.
    threads : int
        That work on a batch at once. They do not change what is made.
    batches : int
        That may be encoded and not yet released.
    """

    cdef ps_encoder encoder
    cdef list pool
    cdef bint busy

    def __init__(
        self,
        file_id,
        tx,
        int64_t block_bytes,
        int codec=PS_ENCODE_AUTO,
        *,
        int acceleration=1,
        int threads=1,
        int batches=2,
    ):
        cdef int i
        cdef size_t workspace_bytes
        if self.encoder.workspaces != NULL:
            raise RuntimeError("the encoder is made already")
        if block_bytes.bit_count() != 1 or not 1 << PS_BLOCK_LOG2_MIN <= block_bytes <= 1 << PS_BLOCK_LOG2_MAX:
            raise ValueError(f"block_bytes is a power of two from 16 KiB to 1 MiB, not {block_bytes}")
        if codec not in (PS_ENCODE_AUTO, PS_ENCODE_LZ4, PS_ENCODE_RAW):
            raise ValueError(f"no codec {codec}")
        if acceleration < 1 or not 1 <= threads <= 64 or batches < 1:
            raise ValueError(f"acceleration {acceleration}, threads {threads} (to 64) and batches {batches} are from 1")
        memcpy(self.encoder.file_id, PyBytes_AS_STRING(_sixteen(file_id, "file_id")), 16)
        memcpy(self.encoder.tx, PyBytes_AS_STRING(_sixteen(tx, "tx")), 16)
        self.encoder.block_log2 = (<object> block_bytes).bit_length() - 1
        self.encoder.codec = codec
        self.encoder.acceleration = acceleration
        self.encoder.workspaces = <uint8_t **> calloc(<size_t> threads, sizeof(uint8_t *))
        if self.encoder.workspaces == NULL:
            raise MemoryError
        workspace_bytes = ps_encode_workspace_bytes(self.encoder.block_log2)
        for i in range(threads):
            self.encoder.threads = i + 1
            if posix_memalign(<void **> &self.encoder.workspaces[i], 64, workspace_bytes) != 0:
                self.encoder.workspaces[i] = NULL
                raise MemoryError
        self.pool = [_Scratch() for _ in range(batches)]

    def __dealloc__(self):
        cdef int i
        if self.encoder.workspaces != NULL:
            for i in range(self.encoder.threads):
                free(self.encoder.workspaces[i])
            free(self.encoder.workspaces)

    def encode(
        self,
        data,
        const int64_t[::1] offsets,
        const int64_t[::1] raw_bytes,
        const uint64_t[::1] stripes,
        int width=0,
        Elsewhere elsewhere=None,
    ):
        """Encode stripes of one buffer.

        Parameters
        ----------
        data : buffer
        offsets, raw_bytes : arrays of int64
            Stripe k is ``data[offsets[k]:offsets[k] + raw_bytes[k]]``, 1 byte to 64 MiB.
        stripes : array of uint64
            Their numbers.
        width : int
            Bytes of an element: 2, 4 or 8; 1 = bytes, never planes; 16 = 8 twice; 0, or any other = unknown.
        elsewhere : Elsewhere, optional
            What lies in another buffer; the batch keeps that, too, until it is released.

        Raises
        ------
        ValueError
            A stripe leaves the buffer, or has a length that no stripe has.
        RuntimeError
            All batches are in use: `release` one first.
        """
        cdef Py_ssize_t k, n = offsets.shape[0]
        cdef _Bytes held = _Bytes(data)
        if raw_bytes.shape[0] != n or stripes.shape[0] != n:
            raise ValueError(f"{n} offsets, {raw_bytes.shape[0]} lengths and {stripes.shape[0]} stripe numbers")
        for k in range(n):
            if not 1 <= raw_bytes[k] <= <int64_t> PS_STRIPE_MAX:
                raise ValueError(f"stripe {k} has {raw_bytes[k]} bytes; it has 1 to {PS_STRIPE_MAX}")
            if not is_inside(offsets[k], raw_bytes[k], held.n):
                raise ValueError(f"stripe {k}, {raw_bytes[k]} bytes at {offsets[k]}, leaves the buffer of {held.n}")
        cdef ps_encode_batch batch
        batch.n = <size_t> n
        batch.extents = NULL
        batch.extent_count = 0
        batch.width = width
        batch.offsets = &offsets[0] if n else NULL
        batch.raw_bytes = &raw_bytes[0] if n else NULL
        batch.stripes = &stripes[0] if n else NULL
        return self.run(held, elsewhere, &batch)

    def encode_part(self, data, uint64_t stripe, const uint32_t[:, ::1] extents, int width=0):
        """Encode extents of one stripe as a part.

        Parameters
        ----------
        data : buffer
            The extents' bytes, joined.
        stripe : int
        extents : array of uint32, shape (n, 2)
            Offset in the stripe and length of each.
        width : int
            As for `encode`.

        Raises
        ------
        ValueError
            An extent leaves any stripe, they have not the bytes of `data`, or they are too many.
        RuntimeError
            All batches are in use.
        """
        cdef _Bytes held = _Bytes(data)
        cdef Py_ssize_t i, n = extents.shape[0]
        cdef uint64_t total = 0
        cdef int64_t offset = 0, raw_bytes = 0
        if extents.shape[1] != 2:
            raise ValueError(f"extents have 2 columns, not {extents.shape[1]}")
        for i in range(n):
            if extents[i, 0] > PS_STRIPE_MAX or extents[i, 1] > PS_STRIPE_MAX - extents[i, 0]:
                raise ValueError(f"extent {i}, {extents[i, 1]} bytes at {extents[i, 0]}, leaves the stripe")
            total += extents[i, 1]
        if total != held.n or not 1 <= total <= PS_STRIPE_MAX:
            raise ValueError(f"extents of {total} bytes for data of {held.n}")
        if ps_header_bytes(ps_block_count(<uint32_t> total, self.encoder.block_log2), <size_t> n) > PS_HEADER_MAX:
            raise ValueError(f"{n} extents are too many for one part")
        raw_bytes = <int64_t> total
        cdef ps_encode_batch batch
        batch.n = 1
        batch.extents = <const ps_extent *> &extents[0, 0]
        batch.extent_count = <size_t> n
        batch.width = width
        batch.offsets = &offset
        batch.raw_bytes = &raw_bytes
        batch.stripes = &stripe
        return self.run(held, None, &batch)

    cdef FrameBatch run(self, _Bytes held, Elsewhere elsewhere, ps_encode_batch *batch):
        cdef FrameBatch made = FrameBatch.__new__(FrameBatch)
        cdef int error
        cdef size_t k
        if self.busy:
            raise RuntimeError("another thread is encoding")
        if not self.pool:
            raise RuntimeError("all batches are in use: release one first")
        made.records = np.zeros(batch.n, RECORD)
        cdef _Bytes records = _Bytes(made.records, writable=True)
        made.frames = <ps_frame *> malloc((batch.n + 1) * sizeof(ps_frame))
        if made.frames == NULL:
            raise MemoryError
        made.pool = self.pool
        made.scratch = self.pool.pop()
        made.scratch.hold(ps_encode_scratch_bytes(&self.encoder, batch.raw_bytes, batch.n, batch.extent_count))
        made.data = held
        made.n = <Py_ssize_t> batch.n
        made.source.data = held.start
        if elsewhere is not None and elsewhere.all_places.shape[0]:
            made.elsewhere = elsewhere
            made.source.other = elsewhere.held.start
            made.source.places = &elsewhere.all_places[0]
            made.source.offsets = &elsewhere.all_offsets[0]
            made.source.lengths = &elsewhere.all_lengths[0]
            made.source.n = <size_t> elsewhere.all_places.shape[0]
        batch.source = &made.source
        batch.scratch = made.scratch.memory
        batch.frames = made.frames
        batch.records = <ps_record *> records.start
        self.busy = True
        with nogil:
            error = ps_encode(&self.encoder, batch)
        self.busy = False
        if error == ENOMEM:
            raise MemoryError
        made.compress_ns = batch.compress_ns
        made.checksum_ns = batch.checksum_ns
        cdef uint64_t at = 0
        for k in range(batch.n):
            made.raw_bytes += <uint64_t> batch.raw_bytes[k]
            made.stored_bytes += batch.records[k].frame_bytes
            ps_frames_place(&made.frames[k], 1, at, &batch.records[k].offset)
            at = batch.records[k].offset + batch.records[k].frame_bytes
        return made


cdef _Bytes record_bytes(records):
    """An array of RECORD, with its entries one behind the other."""
    if not isinstance(records, np.ndarray) or records.dtype != RECORD:
        raise TypeError("records is an array of RECORD")
    return _Bytes(np.ascontiguousarray(records))


cdef int check_piece(Py_ssize_t k, int64_t first, int64_t count) except -1:
    if first < 0 or count < 0 or first > INT64_MAX - count:
        raise ValueError(f"piece {k}: {count} bytes from {first} of the stripe")
    return 0


cdef class _Pieces:
    """The arguments that read_frames and decode_frames share, checked and held."""

    cdef ps_pieces pieces
    cdef list held

    def __init__(
        self,
        records,
        const uint64_t[::1] stripes,
        const int64_t[::1] first,
        const int64_t[::1] count,
        out,
        const int64_t[::1] out_offsets,
        file_id,
        const uint8_t[:, ::1] txs,
        int32_t[::1] status,
        uint64_t[::1] seen,
    ):
        cdef Py_ssize_t k, n = stripes.shape[0]
        cdef _Bytes table = record_bytes(records)
        cdef _Bytes target = _Bytes(out, True)
        if not (
            len(records) == n
            and first.shape[0] == n
            and count.shape[0] == n
            and out_offsets.shape[0] == n
            and txs.shape[0] == n
            and status.shape[0] == n
            and seen.shape[0] == n
        ):
            raise ValueError(f"{n} stripes, but another argument has not as many entries")
        if txs.shape[1] != 16:
            raise ValueError(f"a transaction id has 16 bytes, not {txs.shape[1]}")
        for k in range(n):
            check_piece(k, first[k], count[k])
            if not is_inside(out_offsets[k], count[k], target.n):
                raise ValueError(f"piece {k}: {count[k]} bytes at {out_offsets[k]} leave the buffer of {target.n}")
        self.held = [table, target, _sixteen(file_id, "file_id"), stripes, first, count, out_offsets, txs, status, seen]
        self.pieces.n = <size_t> n
        if n == 0:
            return
        self.pieces.records = table.start
        self.pieces.stripes = &stripes[0]
        self.pieces.first = &first[0]
        self.pieces.count = &count[0]
        self.pieces.out = target.start
        self.pieces.out_offsets = &out_offsets[0]
        self.pieces.file_id = <const uint8_t *> PyBytes_AS_STRING(file_id)
        self.pieces.txs = &txs[0, 0]
        self.pieces.status = &status[0]
        self.pieces.seen = &seen[0]

    cdef size_t run(self, int threads):
        cdef size_t bad
        with nogil:
            bad = ps_read_pieces(&self.pieces, threads)
        return bad


def read_frames(
    const int32_t[::1] fds,
    records,
    stripes,
    first,
    count,
    out,
    out_offsets,
    file_id,
    txs,
    status,
    seen,
    *,
    int threads=1,
):
    """Read pieces of stripes from their frames, verify them, and put them into `out`.

    One bad piece does not stop the others.

    Parameters
    ----------
    fds : array of int32
        Piece k's segment, open for reading. Ignored where ``records["segment"][k]`` is 0, a hole, which reads as zeros.
    records : array of RECORD
        Piece k's stripe; untrusted.
    stripes : array of uint64
    first, count : arrays of int64
        Piece k is bytes [first, first + count) of the stripe; what lies beyond the record's raw_bytes reads as zeros.
    out : writable buffer
    out_offsets : array of int64
        Where piece k goes. Pieces do not overlap in `out`.
    file_id : bytes
    txs : array of uint8, shape (n, 16)
        The transaction that wrote piece k's segment.
    status : array of int32, written
        0 = good, above 0 an errno, below 0 a key of DAMAGE. In `out`, a piece that is not good is zeros.
    seen : array of uint64, written
        What was found instead: the block's or header's checksum, the stripe number, a length.
    threads : int
        That read at once (1 to 64): the depth of the queue.

    Returns
    -------
    int
        The number of pieces that are not good.

    Raises
    ------
    ValueError
        Arrays differ in length, or a piece leaves `out`; nothing was read.
    """
    cdef _Pieces pieces = _Pieces(records, stripes, first, count, out, out_offsets, file_id, txs, status, seen)
    if fds.shape[0] != <Py_ssize_t> pieces.pieces.n:
        raise ValueError(f"{pieces.pieces.n} stripes, but {fds.shape[0]} descriptors")
    if not 1 <= threads <= 64:
        raise ValueError(f"threads is 1 to 64, not {threads}")
    if fds.shape[0] == 0:
        return 0
    pieces.pieces.fds = &fds[0]
    return pieces.run(threads)


def read_frame(int32_t fd, record, uint64_t stripe, int64_t first, out, file_id, tx):
    """Read one piece as `read_frames` does, without arrays around it: they cost a small piece some microseconds.

    Parameters
    ----------
    fd : int
        The segment, open for reading. Ignored where the record is a hole's.
    record : array of one RECORD
    stripe : int
    first : int
        The piece is bytes [first, first + len(out)) of the stripe.
    out : writable buffer
        All of it is the piece.
    file_id, tx : bytes
        16 each.

    Returns
    -------
    status, seen : int
        As `read_frames` writes them.

    Raises
    ------
    ValueError
        More or less than one record, or a piece that no stripe can have; nothing was read.
    """
    cdef _Bytes table = record_bytes(record)
    cdef _Bytes target = _Bytes(out, True)
    cdef ps_pieces pieces
    cdef int64_t count = <int64_t> target.n, out_offset = 0
    cdef int32_t status = 0
    cdef uint64_t seen = 0
    if len(record) != 1:
        raise ValueError(f"one record, not {len(record)}")
    check_piece(0, first, count)
    pieces.n = 1
    pieces.fds = &fd
    pieces.records = table.start
    pieces.stripes = &stripe
    pieces.first = &first
    pieces.count = &count
    pieces.out = target.start
    pieces.out_offsets = &out_offset
    pieces.file_id = <const uint8_t *> PyBytes_AS_STRING(_sixteen(file_id, "file_id"))
    pieces.txs = <const uint8_t *> PyBytes_AS_STRING(_sixteen(tx, "tx"))
    pieces.status = &status
    pieces.seen = &seen
    with nogil:
        ps_read_pieces(&pieces, 1)
    return status, seen


def decode_frames(frames, records, stripes, first, count, out, out_offsets, file_id, txs, status, seen):
    """Do as `read_frames`, from whole frames in memory: ``frames[k]`` is piece k's, header and payload, any buffer.

    Raises
    ------
    ValueError
        As `read_frames`.
    """
    cdef _Pieces pieces = _Pieces(records, stripes, first, count, out, out_offsets, file_id, txs, status, seen)
    cdef size_t k, n = pieces.pieces.n
    cdef _Bytes frame
    if <size_t> len(frames) != n:
        raise ValueError(f"{n} stripes, but {len(frames)} frames")
    if n == 0:
        return 0
    cdef list held = [_Bytes(each) for each in frames]
    cdef const uint8_t **starts = <const uint8_t **> malloc(n * sizeof(uint8_t *))
    cdef size_t *lengths = <size_t *> malloc(n * sizeof(size_t))
    try:
        if starts == NULL or lengths == NULL:
            raise MemoryError
        for k in range(n):
            frame = held[k]
            starts[k] = frame.start
            lengths[k] = frame.n
        pieces.pieces.frames = starts
        pieces.pieces.frame_bytes = lengths
        return pieces.run(1)
    finally:
        free(starts)
        free(lengths)


def decode_part(frame, out, file_id, tx):
    """Decode one whole part and scatter its extents into a stripe.

    Parameters
    ----------
    frame : buffer
        Header and payload.
    out : writable buffer
        The stripe. Touched only when all of the part is good.
    file_id, tx : bytes

    Returns
    -------
    status : int
        0, an errno, or a key of DAMAGE (lengths: also when an extent leaves `out`).
    stripe : int
        Its number; 0 when the part is not good.
    extents : array of uint32, shape (n, 2)
        Offset in the stripe and length of each; none when the part is not good.
    """
    cdef _Bytes source = _Bytes(frame)
    cdef _Bytes target = _Bytes(out, writable=True)
    cdef const uint8_t *file_bytes = <const uint8_t *> PyBytes_AS_STRING(_sixteen(file_id, "file_id"))
    cdef const uint8_t *tx_bytes = <const uint8_t *> PyBytes_AS_STRING(_sixteen(tx, "tx"))
    cdef ps_frame_header header
    cdef int bad
    with nogil:
        bad = ps_decode_part(source.start, source.n, file_bytes, tx_bytes, target.start, target.n, &header)
    if bad != 0:
        return bad, 0, np.zeros((0, 2), np.uint32)
    cdef size_t table = sizeof(ps_frame_header) + ps_tables_bytes(header.block_count, 0)
    extents = np.frombuffer(frame, np.uint8)[table : table + ps_tables_bytes(0, header.extent_count)].copy()
    return 0, header.stripe, extents.view(np.uint32).reshape(-1, 2)


def scan_frames(data, Py_ssize_t start=0):
    """Find self-describing frames in a segment's bytes, by their headers; parts are passed over.

    Parameters
    ----------
    data : buffer
    start : int
        Where to begin; frames lie at multiples of 64.

    Returns
    -------
    list of (offset, frame_bytes, stripe, raw_bytes, file_id, tx)
        Each header is whole and valid. The payload is not verified, and the last one's may not be whole.
    """
    cdef _Bytes source = _Bytes(data)
    cdef ps_frame_header header
    cdef size_t at
    found = []
    if start < 0:
        raise ValueError(f"start is negative: {start}")
    at = <size_t> start
    while True:
        with nogil:
            at = ps_frame_find(source.start, source.n, at, &header)
        if at >= source.n:
            return found
        if not header.flags & PS_FRAME_PART:
            found.append(
                (
                    at,
                    header.header_bytes + header.payload_bytes,
                    header.stripe,
                    header.raw_bytes,
                    PyBytes_FromStringAndSize(<char *> header.file_id, 16),
                    PyBytes_FromStringAndSize(<char *> header.tx, 16),
                )
            )
        at += header.header_bytes + header.payload_bytes


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
