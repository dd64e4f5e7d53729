"""One frame in plain Python, written from docs/reference/format.md: the oracle of the tests of ``ext/frame*.c``.

Only the checksum is the kernels' own, which has an oracle of its own; LZ4 is the lz4 package's.
"""

import dataclasses
import struct
from collections.abc import Sequence
from typing import Any

import lz4.block
import numpy as np
import numpy.typing as npt

from pinstripe.kernels import RECORD, crc64, crc64_combine
from pinstripe.testing import oracle

RAW, LZ4, ZERO, PLANES = range(4)
PART = 1
HEADER = struct.Struct("<4sHBxIIIII4x16s16sQQ40xQ")
BLOCK = struct.Struct("<QIBBxx")
EXTENT = struct.Struct("<II")
CHECKED = 120  # bytes of the header under its checksum

MAGIC, HEADER_CHECKSUM, IDENTITY, LENGTHS, LZ4_DATA, BLOCK_CHECKSUM, END, UNKNOWN = range(-1, -9, -1)


class Damage(Exception):
    """What is wrong; `code` is a key of `pinstripe.kernels.DAMAGE`."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame, decoded and verified."""

    raw: bytes
    file_id: bytes
    tx: bytes
    stripe: int
    crc64: int
    header_bytes: int
    blocks: tuple[tuple[int, int], ...]  # codec and width
    extents: tuple[tuple[int, int], ...]


def seal(frame: bytes) -> bytes:
    """The frame with the header checksum that its header and tables, as they are, should have."""
    block_count, extent_count = struct.unpack_from("<II", frame, 20)
    tables = frame[HEADER.size : HEADER.size + 16 * block_count + 8 * extent_count]
    return frame[:CHECKED] + crc64(frame[:CHECKED] + tables).to_bytes(8, "little") + frame[HEADER.size :]


def encode_frame(
    raw: bytes,
    blocks: Sequence[tuple[int, int]],
    *,
    block_bytes: int,
    file_id: bytes,
    tx: bytes,
    stripe: int,
    extents: Sequence[tuple[int, int]] = (),
) -> tuple[bytes, npt.NDArray[Any]]:
    """The frame, and the record of it (one entry; segment 1, offset 0).

    Parameters
    ----------
    blocks
        Codec and width wished for each block, repeated as needed; a block that does not become smaller is stored raw.
    """
    table = payload = b""
    combined = 0
    record = np.zeros(1, RECORD)
    for number, start in enumerate(range(0, len(raw), block_bytes)):
        block = raw[start : start + block_bytes]
        codec, width = blocks[number % len(blocks)]
        stored = block
        if codec == ZERO and not any(block):
            stored = b""
        elif codec == LZ4:
            stored = lz4.block.compress(block, store_size=False)
        elif codec == PLANES:
            stored = oracle.planes_compress(block, width)
        if len(stored) >= len(block) or (codec == ZERO and stored):
            codec, stored = RAW, block
        width = width if codec == PLANES else 0
        checksum = crc64(block)
        combined = crc64_combine(combined, checksum, len(block))
        table += BLOCK.pack(checksum, len(stored), codec, width)
        payload += stored
        record[("raw_blocks", "lz4_blocks", "zero_blocks", "shuffled_blocks")[codec]] += 1
    count = len(table) // BLOCK.size
    table += b"".join(EXTENT.pack(*extent) for extent in extents)
    header_bytes = (HEADER.size + len(table) + 63) // 64 * 64
    header = HEADER.pack(
        b"PSF1",
        PART if extents else 0,
        block_bytes.bit_length() - 1,
        header_bytes,
        len(raw),
        len(payload),
        count,
        len(extents),
        file_id,
        tx,
        stripe,
        combined,
        0,
    )
    record["segment"], record["frame_bytes"], record["crc64"] = 1, header_bytes + len(payload), combined
    record["raw_bytes"], record["header64"] = len(raw), header_bytes // 64
    return seal((header + table).ljust(header_bytes, b"\0") + payload), record


def decode_frame(frame: bytes) -> Frame:
    """Decode and verify a whole frame.

    Raises
    ------
    Damage
    """
    if len(frame) < HEADER.size:
        raise Damage(END)
    (magic, flags, block_log2, header_bytes, raw_bytes, payload_bytes, block_count, extent_count, *rest) = (
        HEADER.unpack_from(frame)
    )
    file_id, tx, stripe, checksum, header_checksum = rest
    if magic != b"PSF1":
        raise Damage(MAGIC)
    tables_end = HEADER.size + 16 * block_count + 8 * extent_count
    if tables_end > len(frame) or crc64(frame[:CHECKED] + frame[HEADER.size : tables_end]) != header_checksum:
        raise Damage(HEADER_CHECKSUM)
    if flags & ~PART or not 14 <= block_log2 <= 20:
        raise Damage(UNKNOWN)
    block_bytes = 1 << block_log2
    if (
        not 0 < raw_bytes <= 64 << 20
        or block_count != -(-raw_bytes // block_bytes)
        or header_bytes % 64
        or header_bytes < tables_end
        or len(frame) != header_bytes + payload_bytes
    ):
        raise Damage(LENGTHS)
    extents = [EXTENT.unpack_from(frame, HEADER.size + 16 * block_count + 8 * i) for i in range(extent_count)]
    if bool(extents) != bool(flags & PART) or (extents and sum(length for _, length in extents) != raw_bytes):
        raise Damage(LENGTHS)

    raw, place, combined, blocks = bytearray(), header_bytes, 0, []
    for number in range(block_count):
        block_checksum, stored_bytes, codec, width = BLOCK.unpack_from(frame, HEADER.size + 16 * number)
        length = min(block_bytes, raw_bytes - len(raw))
        if codec > PLANES or width not in ((2, 4, 8) if codec == PLANES else (0,)):
            raise Damage(UNKNOWN)
        if not (stored_bytes == {RAW: length, ZERO: 0}[codec] if codec in (RAW, ZERO) else 0 < stored_bytes <= length):
            raise Damage(LENGTHS)
        stored = frame[place : place + stored_bytes]
        if len(stored) != stored_bytes:
            raise Damage(LENGTHS)
        place += stored_bytes
        block = stored if codec == RAW else bytes(length)
        if codec == LZ4:
            try:
                block = lz4.block.decompress(stored, uncompressed_size=length)
            except lz4.block.LZ4BlockError as error:
                raise Damage(LZ4_DATA) from error
            if len(block) != length:
                raise Damage(LZ4_DATA)
        elif codec == PLANES:
            try:
                block = oracle.planes_decompress(stored, length, width)
            except ValueError as error:
                raise Damage(LZ4_DATA) from error
        if crc64(block) != block_checksum:
            raise Damage(BLOCK_CHECKSUM)
        combined = crc64_combine(combined, block_checksum, length)
        raw += block
        blocks.append((codec, width))
    if place != len(frame):
        raise Damage(LENGTHS)
    if combined != checksum:
        raise Damage(HEADER_CHECKSUM)
    return Frame(bytes(raw), file_id, tx, stripe, checksum, header_bytes, tuple(blocks), tuple(extents))
