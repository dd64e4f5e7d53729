"""Pieces of stripes into a caller's buffer: look up the segments, read, verify, decode; one kernel call for all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DamageError, StaleError, TargetError
from ..format.segment import segment_name
from ..kernels import DAMAGE, decode_frames, decode_part, read_frame, read_frames
from ..targets.contract import Segment

if TYPE_CHECKING:
    from .store import Store

__all__ = ["FrameReader", "ReadCounters"]

Array = npt.NDArray[Any]
SEGMENTS_KEPT = 256
_LOOKS = 5  # how often a segment that is on no target is looked for again while its number is listed


@dataclasses.dataclass(slots=True)
class ReadCounters:
    """What one reader did."""

    bytes: int = 0
    pieces: int = 0
    read_ns: int = 0


_Key = tuple[bytes, bytes, int, int]  # target, transaction, stream, n


class _Opened:
    """An open segment. It is closed when nobody holds this any more: a read holds it until it is done."""

    __slots__ = ("_closed", "segment")

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._closed = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close it now."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):  # it was only read
                self.segment.close()


class FrameReader:
    """Reads frames of one file. Keeps segments open; thread-safe, and reads of several threads run side by side.

    Parameters
    ----------
    path : str
        The file's name, for errors.
    threads : int
        Decoder threads of one read.
    """

    def __init__(self, store: Store, file_id: bytes, path: str, *, threads: int = 1) -> None:
        self.store, self.file_id, self.path, self.threads = store, file_id, path, threads
        self.counters = ReadCounters()
        self._opened: dict[_Key, _Opened] = {}  # what was opened longest ago first
        self._keys: tuple[Array | None, dict[int, _Key]] = None, {}
        self._lock = threading.Lock()

    def read(
        self,
        records: Array,
        segments: Array,
        stripes: npt.NDArray[np.uint64],
        first: npt.NDArray[np.int64],
        count: npt.NDArray[np.int64],
        out: Any,
        out_offsets: npt.NDArray[np.int64],
        *,
        manifest: str = "",
    ) -> None:
        """Read bytes [first, first + count) of each stripe to ``out[out_offsets[k]:]``; holes and what lies behind a frame are zeros.

        Parameters
        ----------
        records, segments
            The stripes' records, and the table that their `segment` counts in.
        manifest : str
            Path of the generation that is read, "" for a transaction's own.

        Raises
        ------
        DamageError
            A frame does not verify; bytes that do not verify are never given.
        StaleError
            The generation was collected meanwhile.
        TargetError
            A target that holds a frame is missing.
        """
        begun = time.perf_counter_ns()
        pieces = len(stripes)
        status, seen = np.zeros(pieces, np.int32), np.zeros(pieces, np.uint64)
        slots = records["segment"].astype(np.int64)
        used = np.unique(slots[slots > 0]) if pieces > 1 else slots[slots > 0]
        keys = {slot: self._key_of(segments, slot) for slot in used.tolist()}
        opened = {slot: self._open(key, manifest) for slot, key in keys.items()}
        bad = self._decode(opened, records, segments, slots, stripes, first, count, out, out_offsets, status, seen)
        self.counters.read_ns += time.perf_counter_ns() - begun
        self.counters.pieces += pieces
        self.counters.bytes += int(count.sum())
        if bad:
            self._raise(records, segments, stripes, status, seen)

    def read_one(
        self, record: Array, segments: Array, stripe: int, first: int, out: npt.NDArray[np.uint8], *, manifest: str = ""
    ) -> None:
        """Read bytes [first, first + len(out)) of one stripe, as `read` does, with less work around a small piece.

        Parameters
        ----------
        record : numpy array of RECORD
            One.
        """
        slot = record["segment"].item()
        if not slot:
            out[:] = 0
            return
        begun = time.perf_counter_ns()
        key = self._key_of(segments, slot)
        opened = self._open(key, manifest)
        fd = opened.segment.fileno()
        if fd is None:
            stripes, start, count = np.array([stripe], np.uint64), np.array([first]), np.array([len(out)])
            self.read(record, segments, stripes, start, count, out, np.zeros(1, np.int64), manifest=manifest)
            return
        status, seen = read_frame(fd, record, stripe, first, out, self.file_id, key[1])
        counters = self.counters
        counters.read_ns += time.perf_counter_ns() - begun
        counters.pieces += 1
        counters.bytes += len(out)
        if status:
            self._raise(record, segments, np.array([stripe]), np.array([status]), np.array([seen], np.uint64))

    def _key_of(self, segments: Array, slot: int) -> _Key:
        """The key of a segment; those of the table that was asked for last are kept."""
        table, keys = self._keys
        if table is not segments:
            keys = {}
            self._keys = segments, keys
        key = keys.get(slot)
        if key is None:
            key = keys[slot] = _key(segments[slot - 1])
        return key

    def _decode(
        self,
        opened: dict[int, _Opened],
        records: Array,
        segments: Array,
        slots: Array,
        stripes: Array,
        first: Array,
        count: Array,
        out: Any,
        out_offsets: Array,
        status: Array,
        seen: Array,
    ) -> int:
        """Read and decode all pieces; return how many are bad, `status` and `seen` filled in."""
        pieces = len(stripes)
        fds = np.full(pieces, -1, np.int32)
        txs = np.zeros((pieces, 16), np.uint8)
        if opened:
            named = slots > 0
            txs[named] = segments["tx"][slots[named] - 1]
        plain = True
        for slot, each in opened.items():
            fd = each.segment.fileno()
            if fd is None:
                plain = False
            else:
                fds[slots == slot] = fd
        if plain:
            return read_frames(
                fds,
                records,
                stripes,
                first,
                count,
                out,
                out_offsets,
                self.file_id,
                txs,
                status,
                seen,
                threads=self.threads,
            )
        frames, errors = self._fetch(records, slots, opened)
        decode_frames(frames, records, stripes, first, count, out, out_offsets, self.file_id, txs, status, seen)
        status[errors != 0] = errors[errors != 0]
        return int(np.count_nonzero(status))

    def read_part(self, record: Any, segments: Array, stripe: int, out: Any) -> None:
        """Read a part, which no manifest names, and scatter its extents into `out`, a stripe.

        Raises
        ------
        DamageError
            It does not verify; `out` is as it was.
        """
        key = _key(segments[int(record["segment"]) - 1])
        frame = self._open(key, "").segment.read_at(int(record["offset"]), int(record["frame_bytes"]))
        status, found, _ = decode_part(frame, out, self.file_id, key[1])
        if status or found != stripe:
            one = np.array([record], record.dtype)
            self._raise(one, segments, np.array([stripe]), np.array([status or -3]), np.array([found]))

    def _fetch(
        self, records: Array, slots: Array, opened: dict[int, _Opened]
    ) -> tuple[list[bytes], npt.NDArray[np.int32]]:
        """Whole frames from targets that have no plain descriptor."""
        frames: list[bytes] = []
        errors = np.zeros(len(records), np.int32)
        for k in range(len(records)):
            data = b""
            if slots[k]:
                try:
                    segment = opened[int(slots[k])].segment
                    data = segment.read_at(int(records[k]["offset"]), int(records[k]["frame_bytes"]))
                except OSError as error:
                    errors[k] = error.errno or errno.EIO
            frames.append(data)
        return frames, errors

    def _raise(self, records: Array, segments: Array, stripes: Array, status: Array, seen: Array) -> None:
        k = int(np.flatnonzero(status)[0])
        record = records[k]
        entry = segments[int(record["segment"]) - 1]
        name = segment_name(bytes(entry["tx"]), int(entry["stream"]), int(entry["n"]))
        target = self._target_path(bytes(entry["target"]))
        place = f"stripe {int(stripes[k])}, target {target}, segment {name}, offset {int(record['offset'])}"
        more = int(np.count_nonzero(status)) - 1
        others = f", and {more} more" if more else ""
        if status[k] > 0:
            code = int(status[k])
            raise TargetError(
                f"cannot read {place}{others}: {os.strerror(code)}", path=self.path, code=code, target=target
            )
        raise DamageError(
            f"damaged: {DAMAGE.get(int(status[k]), 'unknown')} does not hold ({place}{others})",
            path=self.path,
            file=self.path,
            stripe=int(stripes[k]),
            target=target,
            segment=name,
            offset=int(record["offset"]),
            expected=f"{int(record['crc64']):016x}",
            found=f"{int(seen[k]):016x}",
        )

    def _target_path(self, target_id: bytes) -> str:
        try:
            return self.store.target(target_id).path
        except TargetError as error:
            return error.target or target_id.hex()

    def _open(self, key: _Key, manifest: str) -> _Opened:
        return self._opened.get(key) or self._open_now(key, manifest)

    def _open_now(self, key: _Key, manifest: str) -> _Opened:
        with self._lock:
            opened = self._opened.get(key)
            if opened is None:
                opened = _Opened(self._find(key, manifest))
                while len(self._opened) >= SEGMENTS_KEPT:
                    del self._opened[next(iter(self._opened))]
                self._opened[key] = opened
            return opened

    def _find(self, key: _Key, manifest: str) -> Segment:
        """Open a segment: where the manifest says, else on any target (it moved), while its number is still listed."""
        target_id, tx, stream, n = key
        name = segment_name(tx, stream, n)
        missing: OSError | None = None
        for _ in range(_LOOKS):
            try:
                return self.store.target(target_id).open_segment(self.file_id, name)
            except FileNotFoundError:
                pass
            except OSError as error:
                missing = error
            for target in self.store.targets:
                if target.id != target_id:
                    try:
                        return target.open_segment(self.file_id, name)
                    except OSError:  # not there, or no better
                        continue
            scope = next((e.scope for e in self.store.superblock.targets if e.id == target_id), "shared")
            if scope == "node":
                raise TargetError(
                    f"segment {name} lies on another node's {self._target_path(target_id)}: read it on the node that wrote it, "
                    "or copy the file to shared targets there with `pinstripe cp`",
                    path=self.path,
                    code=errno.EREMOTE,
                    target=self._target_path(target_id),
                )
            if manifest and not os.path.exists(manifest):
                raise StaleError("the generation that is being read was collected", path=self.path)
            if missing is not None:
                raise self._cannot_open(name, target_id, missing) from missing
            self.store.reload()
        raise DamageError(
            f"segment {name} is on no target",
            path=self.path,
            file=self.path,
            segment=name,
            target=self._target_path(target_id),
        )

    def _cannot_open(self, name: str, target_id: bytes, error: OSError) -> TargetError:
        target = self._target_path(target_id)
        return TargetError(
            f"segment {name} on target {target} cannot be opened: {error.strerror}",
            path=self.path,
            code=error.errno,
            target=target,
        )

    def close(self) -> None:
        """Close the segments."""
        while self._opened:
            self._opened.popitem()[1].close()


def _key(entry: Any) -> _Key:
    return bytes(entry["target"]), bytes(entry["tx"]), int(entry["stream"]), int(entry["n"])
