"""Batches of stripes to segments on targets, over targets that may be full or fail.

A writer has one open segment for each target that it writes to, and leaves a stripe's home only when that target fails or is full. A segment
whose append failed is not appended to again: what stands behind its last whole frame is nobody's.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import logging
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import TargetError
from ..format.manifest import SEGMENT_ENTRY, SEGMENT_SYNCED
from ..format.segment import SEGMENT_HEADER_BYTES, SEGMENT_LIMIT, encode_header, segment_name
from ..kernels import RECORD, Elsewhere, Encoder, FrameBatch
from ..targets.contract import Access, Segment, Target
from .placement import homes

__all__ = ["FULL", "FrameWriter", "WriteCounters"]

logger = logging.getLogger("pinstripe")
Array = npt.NDArray[Any]
FULL = (errno.ENOSPC, errno.EDQUOT)
SETTLED_NS = 5_000_000
"""Appends must have taken this long before it is judged whether they wait or work. Copying into a page cache is work: then a thread beside the
encoder only takes its core from another rank (measured: 2 ranks on 2 cores, 0.80 of plain files with threads, 0.89 without). So is an append
that another process was let run before: only a thread that went to sleep has waited."""
_BATCHES = 3  # one encoded, one written, one waiting for the slowest target


@dataclasses.dataclass(slots=True)
class WriteCounters:
    """What one writer did: bytes, and nanoseconds of each stage."""

    raw_bytes: int = 0
    stored_bytes: int = 0
    frames: int = 0
    encode_ns: int = 0
    compress_ns: int = 0
    checksum_ns: int = 0
    write_ns: int = 0
    wait_ns: int = 0
    sync_ns: int = 0
    raw_blocks: int = 0
    lz4_blocks: int = 0
    shuffled_blocks: int = 0
    zero_blocks: int = 0
    left: dict[str, str] = dataclasses.field(default_factory=dict)  # target's path -> why it was left


@dataclasses.dataclass(slots=True)
class _Open:
    """A segment being written."""

    slot: int  # its place in the writer's table
    segment: Segment
    target: int  # index in the writer's targets
    end: int = SEGMENT_HEADER_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """A run of a batch's frames on its way to one segment."""

    batch: FrameBatch
    first: int
    last: int
    into: _Open
    start: int
    done: Future[int]


def _end(batch: FrameBatch, first: int, last: int, start: int) -> int:
    """Where frames [first, last) end when they go into a segment that ends at `start`."""
    return int(batch.place(first, last, start)[-1]) + int(batch.records["frame_bytes"][last - 1])


def _sleeps() -> int:
    """How often this thread gave up its CPU to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class FrameWriter:
    """Writes frames of one file in one transaction, for one rank. Not thread-safe.

    Parameters
    ----------
    targets : sequence of Target
        Those that this writer spreads over, in the order of placement; then `spares`, taken when one fails.
    stream : int
        The writer's number within the transaction (its rank).
    make_room : callable, optional
        Called with a full target's index before it is left: collects what it may, and says whether to try once more.
    """

    def __init__(
        self,
        file_id: bytes,
        tx: bytes,
        stream: int,
        targets: Sequence[Target],
        spares: Sequence[Target],
        access: Access,
        *,
        block_bytes: int,
        codec: int,
        batch_bytes: int,
        acceleration: int,
        threads: int,
        make_room: Callable[[Target], bool] | None = None,
    ) -> None:
        self.file_id, self.tx, self.stream, self.access = file_id, tx, stream, access
        self.targets = [*targets, *spares]
        self._homes = list(range(len(targets)))
        self._spares = list(range(len(targets), len(self.targets)))
        self.batch_bytes = batch_bytes
        self.counters = WriteCounters()
        self.segments = np.zeros(0, SEGMENT_ENTRY)
        self._make_room = make_room
        self._encoder = Encoder(
            file_id, tx, block_bytes, codec, acceleration=acceleration, threads=threads, batches=_BATCHES
        )
        self._open: dict[int, _Open] = {}
        self._closed: list[_Open] = []  # full or failed, still to be synced
        self._unsynced: set[int] = set()
        self._unnamed: set[int] = set()  # targets whose directory has names that were not synced
        self._pool: ThreadPoolExecutor | None = None
        self._failed: dict[int, OSError] = {}
        self._n = 0
        self._append_ns = self._idle_ns = 0  # wall time of appends so far, and how much of it they slept
        self._waits = False

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(
        self,
        stripes: npt.NDArray[np.uint64],
        data: Any,
        offsets: npt.NDArray[np.int64],
        raw_bytes: npt.NDArray[np.int64],
        width: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> Array:
        """Encode and write whole stripes; stripe k is ``data[offsets[k]:offsets[k] + raw_bytes[k]]``, but for what lies elsewhere.

        Encoding of one batch and writing of the one before overlap; when it returns, `data` is the caller's again.

        Returns
        -------
        numpy array of RECORD
            One a stripe, in the order given; `segment` counts in `segments`, from 1.

        Raises
        ------
        TargetError
            No target could take a frame.
        """
        count = len(stripes)
        out = np.zeros(count, RECORD)
        if not count:
            return out
        per_batch = max(1, self.batch_bytes // max(1, int(raw_bytes.max())))
        pending: list[tuple[Array, FrameBatch, list[_Job]]] = []
        try:
            for begin in range(0, count, per_batch):
                chosen = np.arange(begin, min(begin + per_batch, count))
                where = self._home_of(stripes[chosen])
                order = np.argsort(where, kind="stable")  # frames for one target stand together
                chosen, where = chosen[order], where[order]
                while len(pending) >= _BATCHES - 1:
                    self._finish(*pending.pop(0), out)
                begun = time.perf_counter_ns()
                batch = self._encoder.encode(
                    data, offsets[chosen], raw_bytes[chosen], stripes[chosen], width, elsewhere
                )
                self.counters.encode_ns += time.perf_counter_ns() - begun
                pending.append((chosen, batch, self._submit(batch, where)))
            while pending:
                self._finish(*pending.pop(0), out)
        finally:
            for _, batch, jobs in pending:  # after an error: let go of the caller's memory
                for job in jobs:
                    job.done.exception()
                batch.release()
        return out

    def write_part(self, stripe: int, data: Any, extents: npt.NDArray[np.uint32], width: int = 0) -> Array:
        """Spill extents of a stripe as a part; no manifest will name it. Returns its record."""
        out = np.zeros(1, RECORD)
        batch = self._encoder.encode_part(data, stripe, extents, width)
        where = self._home_of(np.array([stripe], np.uint64))
        self._finish(np.zeros(1, np.int64), batch, self._submit(batch, where), out)
        return out

    def _home_of(self, stripes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        if not self._homes:
            self._raise_no_target()
        return homes(stripes, self._homes)

    def _submit(self, batch: FrameBatch, where: npt.NDArray[np.int64]) -> list[_Job]:
        jobs: list[_Job] = []
        edges = [0, *(np.flatnonzero(np.diff(where)) + 1).tolist(), len(where)]
        for first, last in itertools.pairwise(edges):
            try:
                self._place(batch, first, last, int(where[first]), jobs)
            except OSError as error:  # the segment could not be made
                self._leave(int(where[first]), error)
                self._submit_elsewhere(batch, first, last, jobs)
        return jobs

    def _place(self, batch: FrameBatch, first: int, last: int, target: int, jobs: list[_Job]) -> None:
        """Give frames [first, last) places in the target's segment, going on to the next segment where one is full."""
        while first < last:
            into = self._segment(target)
            upto = last
            while upto > first + 1 and _end(batch, first, upto, into.end) > SEGMENT_LIMIT:
                upto = first + (upto - first) // 2
            if into.end > SEGMENT_HEADER_BYTES and _end(batch, first, upto, into.end) > SEGMENT_LIMIT:
                self._closed.append(self._open.pop(target))
                continue
            start, into.end = into.end, _end(batch, first, upto, into.end)
            self._unsynced.add(into.slot)
            jobs.append(_Job(batch, first, upto, into, start, self._run(into.segment, batch, start, first, upto)))
            first = upto

    def _run(self, segment: Segment, batch: FrameBatch, start: int, first: int, last: int) -> Future[int]:
        """Append here and now, or, where targets make a writer wait, in a thread beside the next batch's encoding."""

        def append() -> int:
            begun = time.perf_counter_ns()
            segment.append(batch, start, first, last)
            return time.perf_counter_ns() - begun

        if self._waits:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max(1, min(8, len(self._homes))), thread_name_prefix="pinstripe-write")
            return self._pool.submit(append)
        done: Future[int] = Future()
        busy, sleeps = time.thread_time_ns(), _sleeps()
        try:
            taken = append()
        except OSError as error:
            done.set_exception(error)
            return done
        if _sleeps() != sleeps:
            self._idle_ns += taken - (time.thread_time_ns() - busy)
        self._append_ns += taken
        self._waits = self._append_ns > SETTLED_NS and self._idle_ns > self._append_ns // 3
        done.set_result(taken)
        return done

    def _finish(self, chosen: Array, batch: FrameBatch, jobs: list[_Job], out: Array) -> None:
        """Wait for a batch; what a target did not take goes elsewhere; fill in the records."""
        try:
            records = batch.records.copy()
            queue = list(jobs)
            while queue:
                job = queue.pop(0)
                begun = time.perf_counter_ns()
                try:
                    self.counters.write_ns += job.done.result()
                except OSError as error:
                    self._append_failed(job, error)
                    again: list[_Job] = []
                    self._submit_elsewhere(batch, job.first, job.last, again)
                    queue = again + queue
                    continue
                finally:
                    self.counters.wait_ns += time.perf_counter_ns() - begun
                entry = self.segments[job.into.slot]
                entry["length"] = max(int(entry["length"]), _end(batch, job.first, job.last, job.start))
                span = slice(job.first, job.last)
                records["offset"][span] = batch.place(job.first, job.last, job.start)
                records["segment"][span] = job.into.slot + 1
            self._count(batch, records)
            out[chosen] = records
        finally:
            for job in jobs:
                job.done.exception()
            batch.release()

    def _count(self, batch: FrameBatch, records: Array) -> None:
        counters = self.counters
        counters.raw_bytes += batch.raw_bytes
        counters.stored_bytes += batch.stored_bytes
        counters.frames += len(records)
        counters.compress_ns += batch.compress_ns
        counters.checksum_ns += batch.checksum_ns
        for name in ("raw_blocks", "lz4_blocks", "shuffled_blocks", "zero_blocks"):
            setattr(counters, name, getattr(counters, name) + int(records[name].sum(dtype=np.int64)))

    # --- segments ----------------------------------------------------------------------------------------------------

    def _segment(self, target: int) -> _Open:
        found = self._open.get(target)
        if found is None:
            chosen = self.targets[target]
            segment = chosen.create_segment(self.file_id, segment_name(self.tx, self.stream, self._n), self.access)
            entry = np.zeros(1, SEGMENT_ENTRY)
            entry["tx"], entry["target"] = np.frombuffer(self.tx, "u1"), np.frombuffer(chosen.id, "u1")
            entry["stream"], entry["n"], entry["length"] = self.stream, self._n, SEGMENT_HEADER_BYTES
            found = _Open(len(self.segments), segment, target)
            self.segments = np.concatenate([self.segments, entry])
            self._open[target] = found
            self._unnamed.add(target)
            self._n += 1
            segment.write_at(encode_header(self.file_id, self.tx, self.stream, self._n - 1), 0)
        return found

    def _append_failed(self, job: _Job, error: OSError) -> None:
        target = job.into.target
        if self._open.get(target) is job.into:
            self._closed.append(self._open.pop(target))
        if target in self._failed:
            return
        room = self._make_room
        if error.errno in FULL and room is not None and room(self.targets[target]):
            self._make_room = None  # once is enough: room that is used up again is no room
            return
        self._leave(target, error)

    def _leave(self, target: int, error: OSError) -> None:
        self._failed[target] = error
        path = self.targets[target].path
        logger.warning("target %s is left by stream %d: %s", path, self.stream, error)
        self.counters.left[path] = str(error)
        if target in self._open:
            self._closed.append(self._open.pop(target))
        if target in self._homes:
            self._homes.remove(target)
        self._spares = [spare for spare in self._spares if spare != target]
        if not self._homes and self._spares:
            self._homes.append(self._spares.pop(0))

    def _submit_elsewhere(self, batch: FrameBatch, first: int, last: int, jobs: list[_Job]) -> None:
        while self._homes:
            target = self._homes[(self._n + first) % len(self._homes)]
            try:
                return self._place(batch, first, last, target, jobs)
            except OSError as error:
                self._leave(target, error)
        self._raise_no_target()
        return None

    def _raise_no_target(self) -> None:
        if not self._failed:
            raise TargetError(
                "there is no target to write to: add one with `pinstripe target add`, or mount what is missing"
            )
        target, error = next(reversed(self._failed.items()))
        paths = ", ".join(self.targets[index].path for index in self._failed)
        raise TargetError(
            f"no target can take the data (tried {paths}; the last said: {error.strerror or error})",
            code=error.errno,
            target=self.targets[target].path,
        ) from error

    def names(self) -> list[str]:
        """Names of all segments made so far."""
        return [segment_name(self.tx, int(entry["stream"]), int(entry["n"])) for entry in self.segments]

    # --- ending ------------------------------------------------------------------------------------------------------

    def sync(self, recover: Callable[[int], None]) -> None:
        """Make everything written durable; the segments' entries say so afterwards.

        An error first seen here is never answered by another fsync on the same descriptor: `recover` gets the segment's slot, and must
        prove every frame in it and write it elsewhere, else raise.
        """
        begun = time.perf_counter_ns()
        while self._unsynced or self._unnamed:
            for opened in [o for o in [*self._closed, *self._open.values()] if o.slot in self._unsynced]:
                self._unsynced.discard(opened.slot)
                try:
                    opened.segment.sync()
                except OSError as error:
                    self._leave(opened.target, error)
                    recover(opened.slot)
                    continue
                self.segments[opened.slot]["flags"] |= SEGMENT_SYNCED
            for target in sorted(self._unnamed):
                self._unnamed.discard(target)
                try:
                    self.targets[target].sync_directory(self.file_id)
                except OSError as error:
                    self._leave(target, error)
                    for opened in [o for o in [*self._closed, *self._open.values()] if o.target == target]:
                        self.segments[opened.slot]["flags"] &= ~np.uint32(SEGMENT_SYNCED)
                        recover(opened.slot)
        self.counters.sync_ns += time.perf_counter_ns() - begun

    def close(self, recover: Callable[[int], None] | None = None) -> bool:
        """Close every segment. A close that fails is answered as a sync that fails, see there; without `recover` it is raised, after all are closed.

        Returns
        -------
        bool
            Whether frames were written anew: then there is something to sync and close again.
        """
        failed: list[tuple[_Open, OSError]] = []
        for opened in [*self._closed, *self._open.values()]:
            try:
                opened.segment.close()
            except OSError as error:
                failed.append((opened, error))
        self._closed, self._open = [], {}
        if failed and recover is not None:
            for opened, why in failed:
                self._leave(opened.target, why)
            for opened, _ in failed:
                recover(opened.slot)
            return True
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if failed:
            raise failed[0][1]
        return False
