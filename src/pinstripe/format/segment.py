"""Segment: its header and its names on a target."""

from __future__ import annotations

import re
import struct

from ..errors import DamageError
from ..kernels import crc64

__all__ = [
    "SEGMENT_HEADER_BYTES",
    "SEGMENT_LIMIT",
    "check_header",
    "encode_header",
    "manifest_copy_name",
    "parse_segment_name",
    "segment_name",
]

SEGMENT_HEADER_BYTES = 64
SEGMENT_LIMIT = 256 << 20
"""Most bytes of a segment."""

_MAGIC = b"PSSEGM1\n"
_HEADER = struct.Struct("<8s16s16sII8xQ")
_NAME = re.compile(r"([0-9a-f]{32})\.(0|[1-9][0-9]{0,9})\.(0|[1-9][0-9]{0,9})")


def encode_header(file_id: bytes, tx: bytes, stream: int, n: int) -> bytes:
    """Return the 64 bytes that a segment starts with."""
    body = _HEADER.pack(_MAGIC, file_id, tx, stream, n, 0)[:-8]
    return body + crc64(body).to_bytes(8, "little")


def check_header(data: bytes, file_id: bytes, tx: bytes, stream: int, n: int) -> None:
    """Check that a segment starts with its header and is the one that was meant.

    Parameters
    ----------
    data : bytes
        The segment's first 64 bytes.
    file_id, tx, stream, n
        Who it should be.

    Raises
    ------
    DamageError
        The header does not verify, or is that of another segment.
    """
    name = segment_name(tx, stream, n)
    if len(data) < SEGMENT_HEADER_BYTES:
        raise DamageError(
            "a segment that ends within its header",
            file=file_id.hex(),
            segment=name,
            offset=0,
            expected=SEGMENT_HEADER_BYTES,
            found=len(data),
        )
    magic, file_found, tx_found, stream_found, n_found, crc = _HEADER.unpack_from(data)
    found = crc64(data[: SEGMENT_HEADER_BYTES - 8])
    if magic != _MAGIC or crc != found:
        raise DamageError(
            "a segment whose header does not verify",
            file=file_id.hex(),
            segment=name,
            offset=0,
            expected=f"{crc:016x}",
            found=f"{found:016x}",
        )
    expected_name = f"{file_id.hex()}/{name}"
    found_name = f"{file_found.hex()}/{segment_name(tx_found, stream_found, n_found)}"
    if expected_name != found_name:
        raise DamageError(
            "a segment that is another one",
            file=file_id.hex(),
            segment=name,
            offset=0,
            expected=expected_name,
            found=found_name,
        )


def segment_name(tx: bytes, stream: int, n: int) -> str:
    """Return the name of segment `n` of stream `stream` of transaction `tx`."""
    return f"{tx.hex()}.{stream}.{n}"


def parse_segment_name(name: str) -> tuple[bytes, int, int] | None:
    """Return (transaction, stream, n) of a segment's name; None for any other name."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    stream, n = int(match[2]), int(match[3])
    return (bytes.fromhex(match[1]), stream, n) if max(stream, n) < 1 << 32 else None


def manifest_copy_name(tx: bytes) -> str:
    """Return the name of the copy of the manifest of transaction `tx`."""
    return f"{tx.hex()}.manifest"
