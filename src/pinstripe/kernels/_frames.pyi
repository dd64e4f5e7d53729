"""Frames in batches: encode, write, read, decode."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt

_Buffer = Any  # PEP 3118, C-contiguous

RECORD: np.dtype[Any]  # the manifest's record, 40 bytes

CODEC_AUTO: int  # 0
CODEC_LZ4: int  # 1
CODEC_RAW: int  # 2

DAMAGE: dict[int, str]  # what a negative status means, -1 to -8

@final
class Elsewhere:
    def __new__(
        cls,
        data: _Buffer,
        places: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> Elsewhere: ...
    @property
    def data(self) -> _Buffer: ...
    @property
    def places(self) -> npt.NDArray[np.int64]: ...
    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...
    @property
    def lengths(self) -> npt.NDArray[np.int64]: ...

@final
class FrameBatch:
    @property
    def records(self) -> npt.NDArray[Any]: ...  # RECORD, one a frame; segment is 0
    @property
    def raw_bytes(self) -> int: ...
    @property
    def stored_bytes(self) -> int: ...
    @property
    def compress_ns(self) -> int: ...
    @property
    def checksum_ns(self) -> int: ...
    def __len__(self) -> int: ...
    def place(self, first: int, last: int, start: int) -> npt.NDArray[np.uint64]: ...
    def placed_bytes(self, first: int, last: int, start: int) -> int: ...
    def write(self, fd: int, start: int, first: int, last: int) -> None: ...
    def tobytes(self, start: int, first: int, last: int) -> bytes: ...
    def release(self) -> None: ...

@final
class Encoder:
    def __init__(
        self,
        file_id: bytes,
        tx: bytes,
        block_bytes: int,
        codec: int = 0,
        *,
        acceleration: int = 1,
        threads: int = 1,
        batches: int = 2,
    ) -> None: ...
    def encode(
        self,
        data: _Buffer,
        offsets: npt.NDArray[np.int64],
        raw_bytes: npt.NDArray[np.int64],
        stripes: npt.NDArray[np.uint64],
        width: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> FrameBatch: ...
    def encode_part(
        self, data: _Buffer, stripe: int, extents: npt.NDArray[np.uint32], width: int = 0
    ) -> FrameBatch: ...

def read_frames(
    fds: npt.NDArray[np.int32],
    records: npt.NDArray[Any],
    stripes: npt.NDArray[np.uint64],
    first: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    out: _Buffer,
    out_offsets: npt.NDArray[np.int64],
    file_id: bytes,
    txs: npt.NDArray[np.uint8],
    status: npt.NDArray[np.int32],
    seen: npt.NDArray[np.uint64],
    *,
    threads: int = 1,
) -> int: ...
def read_frame(
    fd: int, record: npt.NDArray[Any], stripe: int, first: int, out: _Buffer, file_id: bytes, tx: bytes
) -> tuple[int, int]: ...
def decode_frames(
    frames: Sequence[_Buffer],
    records: npt.NDArray[Any],
    stripes: npt.NDArray[np.uint64],
    first: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    out: _Buffer,
    out_offsets: npt.NDArray[np.int64],
    file_id: bytes,
    txs: npt.NDArray[np.uint8],
    status: npt.NDArray[np.int32],
    seen: npt.NDArray[np.uint64],
) -> int: ...
def decode_part(frame: _Buffer, out: _Buffer, file_id: bytes, tx: bytes) -> tuple[int, int, npt.NDArray[np.uint32]]: ...
def scan_frames(data: _Buffer, start: int = 0) -> list[tuple[int, int, int, int, bytes, bytes]]: ...
