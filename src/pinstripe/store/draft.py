"""A draft: what one rank has of an open file, a base generation and its own uncommitted writes on top of it.

The way of a write: whole stripes are encoded from the caller's memory and written at once; the rest waits in the write-back cache. The way of a
read: records from the index, frames straight into the caller's memory, then what the cache holds on top. Nothing here is collective.
"""

from __future__ import annotations

import abc
import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, DamageError, UnsupportedError
from ..format.layout import Layout
from ..format.manifest import STRIPES_LIMIT
from ..kernels import Elsewhere
from ..options import Options
from .cache import PartialStripes, StripeCache
from .generation import Generation
from .index import CHANGE, Index
from .reader import FrameReader
from .residency import Residency
from .writer import FrameWriter

__all__ = ["Array", "Bytes", "Draft"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


class Draft(abc.ABC):
    """A base generation and one rank's writes on top of it. Not thread-safe while it is written.

    Attributes
    ----------
    base : Generation
    index : Index
        Records of the base and of this transaction.
    cache : StripeCache
        Partial stripes.
    size : int
        Logical bytes, as this rank knows them. May be assigned upwards: the file grows as by writing.
    sequence : int
        The collective layer counts its calls here; of two writes of one stripe the one with the higher sequence wins.
    """

    def __init__(
        self,
        base: Generation,
        layout: Layout,
        path: str,
        options: Options,
        reader: FrameReader,
        *,
        rank: int,
        ranks: int,
        writable: bool,
    ) -> None:
        self.layout, self.path, self.options = layout, path, options
        self.writable = writable
        self.sequence = 0
        self._rank, self._ranks = rank, ranks
        self._reader = reader
        self._writer: FrameWriter | None = None
        self._adopt(base, replaces=False)

    def _adopt(self, base: Generation, *, replaces: bool) -> None:
        """Begin anew on top of a generation, or, to replace it, of nothing."""
        self.base = base
        self.index = Index(Generation(base.file_id, self.layout) if replaces else base)
        self.cache = StripeCache(self.layout.stripe_bytes)
        self.size_at_base = 0 if replaces else base.size
        self._size = self.size_at_base
        self._truncated = False
        self._inline_pending = base.inline is not None and not replaces
        self._remote = None if replaces else base.remote  # a stub's bytes, which are fetched as they are read
        self._slots: list[int] = []  # writer's segment slot -> its number in the index
        self._untold: list[Array] = []  # changes that the other ranks were not told of
        self._parts: dict[int, list[tuple[Array, Array, int]]] = {}  # stripe -> spilled (record, extents, sequence)

    @abc.abstractmethod
    def residency(self) -> Residency:
        """Independent. What of a stub is here; it is opened with the first read."""

    @abc.abstractmethod
    def learn(self, told: Array) -> None:
        """Independent. Know records that somebody else wrote (TOLD)."""

    @abc.abstractmethod
    def _frame_writer(self) -> FrameWriter:
        """The writer of this transaction; it is made with the first frame."""

    # --- size --------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Logical bytes, as this rank knows them."""
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        if value < self._size:
            raise ArgumentError(f"size={value} is less than {self._size}: use resize")
        self._size = value

    @property
    def generation(self) -> int:
        """Number of the generation that is read."""
        return self.base.number

    @property
    def partial_bytes(self) -> int:
        """Memory held by partial stripes."""
        return self.cache.held_bytes

    def resize(self, size: int) -> None:
        """Set the size, the same on every rank: what lies beyond is cut off, what is new reads as zeros."""
        self._check_writable()
        self._check_end("size", size, size)
        sb = self.layout.stripe_bytes
        self._load_inline()
        if size < self._size:
            stripe, within = divmod(size, sb)
            keep: Bytes | None = None
            held = stripe in self.cache and self.cache[stripe].covers(within)
            if within and not held and self._rank == stripe % self._ranks:
                keep = np.zeros(within, np.uint8)
                self.read_into(stripe * sb, keep)
            self.cache.truncate(size)
            for spilled in [s for s in self._parts if s * sb >= size]:
                del self._parts[spilled]
            self.index.truncate(stripe)
            self._truncated = True
            self._size = size
            if keep is not None:  # the last stripe is written anew, so that no frame reaches beyond the size
                self._cache_extents(
                    stripe, np.zeros(1, np.int64), keep, np.zeros(1, np.int64), np.array([within], np.int64), 0
                )
        elif size > self._size:
            self._truncated = self._truncated or size > self.size_at_base
            self._size = size

    # --- reading -----------------------------------------------------------------------------------------------------

    def read_into(self, offset: int, buffer: Any) -> int:
        """Independent. Read from `offset` on; short at the end of the file. Own writes are seen.

        Raises
        ------
        DamageError, TargetError, StaleError
            Bytes that do not verify are never given.
        """
        if offset < 0:
            raise ArgumentError(f"offset={offset}: must be 0 or more")
        out = _flat(buffer)
        left = self._size - offset
        if left < len(out):
            out = out[: max(left, 0)]
        count = len(out)
        if not count:
            return 0
        if self._inline_pending:
            inline = np.frombuffer(self.base.inline or b"", np.uint8)[offset : offset + count]
            out[: len(inline)] = inline
            out[len(inline) :] = 0
            return count
        if self._remote is not None:
            self._read_stub(offset, out)
            return count
        sb = self.layout.stripe_bytes
        first_stripe, last_stripe = offset // sb, (offset + count - 1) // sb
        if first_stripe == last_stripe:
            within = offset - first_stripe * sb
            index = self.index
            try:
                record = index.record(first_stripe)
                self._reader.read_one(record, index.segments, first_stripe, within, out, manifest=self.base.path)
            except DamageError as damage:
                self._advise(damage)
                raise
        else:
            self._read_run(first_stripe, last_stripe, offset, out)
        if self._parts:
            for stripe in [s for s in self._parts if first_stripe <= s <= last_stripe]:
                self._unspill(stripe)
        self.cache.overlay(offset, out)
        return count

    def _read_stub(self, offset: int, out: Bytes) -> None:
        """Read from a stub: what is not here is fetched first, and stays where it may."""
        sb, residency = self.layout.stripe_bytes, self.residency()
        first, last = offset // sb, (offset + len(out) - 1) // sb
        for _ in range(2):
            if not residency.load_for_read(first, last):
                break
            self.learn(residency.take_news())
            try:
                return self._read_run(first, last, offset, out)
            except DamageError:  # a power cut, or a collector, took what was kept
                residency.forget()
        return residency.fetch_into(offset, out.data)

    def _read_run(self, first_stripe: int, last_stripe: int, offset: int, out: Bytes) -> None:
        """Read consecutive stripes, the first and the last perhaps in part."""
        sb = self.layout.stripe_bytes
        stripes = np.arange(first_stripe, last_stripe + 1, dtype=np.uint64)
        first = np.zeros(len(stripes), np.int64)
        first[0] = offset - first_stripe * sb
        counts = np.full(len(stripes), sb, np.int64)
        counts[0] -= first[0]
        counts[-1] -= (last_stripe + 1) * sb - (offset + len(out))
        places = np.zeros(len(stripes), np.int64)
        np.cumsum(counts[:-1], out=places[1:])
        self._read(stripes, first, counts, out, places)

    def read_pieces(self, offsets: Array, lengths: Array, out: Any, out_offsets: Array) -> None:
        """Independent. Read many extents, each to ``out[out_offsets[k]:]``; what lies beyond the size is zeros."""
        flat = _flat(out)
        offsets, lengths, out_offsets = (np.asarray(a, np.int64) for a in (offsets, lengths, out_offsets))
        some = lengths > 0
        offsets, lengths, out_offsets = offsets[some], lengths[some], out_offsets[some]
        if not len(offsets):
            return
        if len(flat) < int((out_offsets + lengths).max()):
            raise ArgumentError("the buffer is shorter than the pieces that are to be read into it")
        inside = np.clip(self._size - offsets, 0, lengths)
        for k in np.flatnonzero(inside < lengths).tolist():
            flat[out_offsets[k] + inside[k] : out_offsets[k] + lengths[k]] = 0
        some = inside > 0
        offsets, lengths, out_offsets = offsets[some], inside[some], out_offsets[some]
        if not len(offsets):
            return
        if self._inline_pending:
            for k in range(len(offsets)):
                self.read_into(int(offsets[k]), flat[out_offsets[k] : out_offsets[k] + lengths[k]])
            return
        stripes, first, counts, places = _cut_at_stripes(offsets, lengths, out_offsets, self.layout.stripe_bytes)
        if self._remote is not None and not self._have(np.unique(stripes)):
            for k in range(len(offsets)):
                self._read_stub(int(offsets[k]), flat[out_offsets[k] : out_offsets[k] + lengths[k]])
            return
        self._read(stripes, first, counts, flat, places)
        if self._parts:
            for stripe in [s for s in self._parts if (stripes == s).any()]:
                self._unspill(stripe)
        self.cache.overlay_pieces(stripes, first, counts, flat, places)

    def _read(self, stripes: Array, first: Array, counts: Array, out: Bytes, places: Array) -> None:
        try:
            self._reader.read(
                self.index.records(stripes),
                self.index.segments,
                stripes,
                first,
                counts,
                out,
                places,
                manifest=self.base.path,
            )
        except DamageError as damage:
            self._advise(damage)
            raise

    def _have(self, stripes: Array) -> bool:
        """Fetch what is not here of a stub's stripes; False = it cannot be kept."""
        kept = self.residency().load(stripes)
        self.learn(self.residency().take_news())
        return kept

    def _advise(self, damage: DamageError) -> None:
        damage.filename = self.path
        self.base.advise(damage, self._reader.store.file_directory(self.base.file_id))

    def records(self, stripes: Array) -> Array:
        """Independent. The records of stripes, own changes first; for reports and for `verify`."""
        return self.index.records(stripes)

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, offset: int, data: Any, width: int = 0) -> int:
        """Independent. Write bytes; whole stripes go out at once from the caller's memory, which is the caller's again on return.

        Parameters
        ----------
        width : int
            Bytes of an element (2, 4, 8: worth a byte shuffle; 1: bytes; 0: unknown).
        """
        self._check_writable()
        flat = _flat(data, writable=False)
        count = len(flat)
        if not count:
            return 0
        self._check_end("offset", offset, offset + count)
        self._load_inline()
        sb = self.layout.stripe_bytes
        end = offset + count
        whole_from, whole_to = -(-offset // sb), end // sb
        if whole_from >= whole_to:
            self._write_around(offset, flat, 0, count, width)
        else:
            self._write_around(offset, flat, 0, whole_from * sb - offset, width)
            stripes = np.arange(whole_from, whole_to, dtype=np.uint64)
            starts = np.arange(whole_from * sb - offset, whole_to * sb - offset, sb, dtype=np.int64)
            self._size = max(self._size, whole_to * sb)
            self.write_stripes(stripes, flat, starts, np.full(len(stripes), sb, np.int64), width)
            self._write_around(offset, flat, whole_to * sb - offset, count, width)
        self._size = max(self._size, end)
        self._bound_cache()
        return count

    def _write_around(self, offset: int, flat: Bytes, begin: int, end: int, width: int) -> None:
        sb = self.layout.stripe_bytes
        while begin < end:
            stripe, within = divmod(offset + begin, sb)
            take = min(end - begin, sb - within)
            self._size = max(self._size, offset + begin + take)
            self._cache_extents(
                stripe,
                np.array([within], np.int64),
                flat,
                np.array([begin], np.int64),
                np.array([take], np.int64),
                width,
            )
            begin += take

    def write_stripes(
        self,
        stripes: Array,
        data: Any,
        data_offsets: Array,
        raw_bytes: Array,
        width: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Independent. Write stripes that are whole (or the file's last, from its start): stripe k is ``data[data_offsets[k]:][:raw_bytes[k]]``,
        but for what lies elsewhere.

        Raises
        ------
        TargetError
            No target could take a frame.
        """
        self._check_writable()
        if not len(stripes):
            return
        self._load_inline()
        writer = self._frame_writer()
        records = writer.write(
            np.asarray(stripes, np.uint64),
            data,
            np.asarray(data_offsets, np.int64),
            np.asarray(raw_bytes, np.int64),
            width,
            elsewhere,
        )
        self._changed(stripes, records)
        self._size = max(self._size, int((np.asarray(stripes, np.int64) * self.layout.stripe_bytes + raw_bytes).max()))
        if len(self.cache) or self._parts:
            for stripe in np.asarray(stripes).tolist():
                self.cache.pop(stripe)
                self._parts.pop(stripe, None)

    def _changed(self, stripes: Array, records: Array, sequences: Array | None = None) -> None:
        writer = self._writer
        assert writer is not None
        while len(self._slots) < len(writer.segments):
            self._slots.append(self.index.add_segment(writer.segments[len(self._slots)]))
        slots = np.array([0, *self._slots], np.uint32)
        records["segment"] = slots[records["segment"]]
        run = np.zeros(len(stripes), CHANGE)
        run["stripe"], run["record"] = stripes, records
        run["sequence"] = self.sequence if sequences is None else sequences
        self.index.add_run(run)
        if self._ranks > 1:
            self._untold.append(run)

    def write_extents(self, offsets: Array, data: Any, data_offsets: Array, lengths: Array, width: int = 0) -> None:
        """Independent. Put many extents into the cache; stripes that became whole go out in batches."""
        self._check_writable()
        flat = _flat(data, writable=False)
        offsets, data_offsets, lengths = (np.asarray(a, np.int64) for a in (offsets, data_offsets, lengths))
        if not len(offsets):
            return
        self._load_inline()
        self._size = max(self._size, int((offsets + lengths).max()))
        stripes, first, counts, places = _cut_at_stripes(offsets, lengths, data_offsets, self.layout.stripe_bytes)
        order = np.argsort(stripes, kind="stable")
        stripes, first, counts, places = stripes[order], first[order], counts[order], places[order]
        edges = np.flatnonzero(np.diff(stripes)) + 1
        whole: list[int] = []
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(stripes)], strict=True):
            stripe = int(stripes[a])
            entry = self.cache.write(stripe, first[a:b], flat, places[a:b], counts[a:b], self.sequence, width)
            if entry.covers(self.layout.stripe_bytes):
                whole.append(stripe)
                if len(whole) * self.layout.stripe_bytes >= self.options.batch_bytes:
                    self._write_cached(whole)
                    whole = []
        self._write_cached(whole)
        self._bound_cache()

    def _cache_extents(self, stripe: int, first: Array, data: Any, places: Array, counts: Array, width: int) -> None:
        entry = self.cache.write(stripe, first, data, places, counts, self.sequence, width)
        if entry.covers(self.layout.stripe_bytes):
            self._write_cached([stripe])

    def _write_cached(self, whole: list[int]) -> None:
        """Write stripes that the cache holds whole, and take them out of it."""
        if not whole:
            return
        sb = self.layout.stripe_bytes
        raw = np.array([min(sb, self._size - s * sb) for s in whole], np.int64)
        entries = [self.cache[s] for s in whole]
        if len(whole) == 1:
            data, places = entries[0].buffer, np.zeros(1, np.int64)
        else:
            data = np.concatenate([entry.buffer for entry in entries])
            places = np.arange(len(whole), dtype=np.int64) * sb
        sequences = np.array([entry.layers[-1][0] for entry in entries], np.uint32)
        writer = self._frame_writer()
        stripes = np.array(whole, np.uint64)
        records = writer.write(stripes, data, places, raw, entries[0].width)
        self._changed(stripes, records, sequences)
        for stripe in whole:
            self.cache.pop(stripe)
            self._parts.pop(stripe, None)

    def take_partial(self, keep: Callable[[Array], Array] | None = None) -> PartialStripes:
        """Independent. Take out of the cache what is to be sent to the stripes' owners.

        Parameters
        ----------
        keep : callable, optional
            From stripe numbers (int64) to which of them stay here (bool).
        """
        self._unspill_all()
        numbers = self.cache.numbers().astype(np.int64)
        if keep is None:
            return self.cache.take()
        stay = np.asarray(keep(numbers), bool) if len(numbers) else np.zeros(0, bool)
        kept = {int(s): self.cache.pop(int(s)) for s in numbers[stay]}
        taken = self.cache.take()
        for stripe, entry in kept.items():
            assert entry is not None
            self.cache.put(stripe, entry)
        return taken

    def _bound_cache(self) -> None:
        """Keep the cache within its bound: alone, partial stripes are made whole and written; among ranks they are spilled as parts."""
        while self.cache.held_bytes > self.options.cache_bytes:
            batch = max(1, self.options.batch_bytes // self.layout.stripe_bytes)
            oldest = list(self.cache)[:batch]
            if self._ranks == 1:
                self._flush(oldest)
            else:
                for stripe in oldest:
                    self._spill(stripe)

    def _spill(self, stripe: int) -> None:
        entry = self.cache.pop(stripe)
        assert entry is not None
        extents = entry.extents
        pieces = np.concatenate([entry.buffer[a:b] for a, b in extents.tolist()])
        table = np.stack([extents[:, 0], extents[:, 1] - extents[:, 0]], axis=1).astype(np.uint32)
        writer = self._frame_writer()
        record = writer.write_part(stripe, pieces, table, entry.width)
        while len(self._slots) < len(writer.segments):
            self._slots.append(self.index.add_segment(writer.segments[len(self._slots)]))
        record["segment"] = self._slots[int(record["segment"][0]) - 1]
        self._parts.setdefault(stripe, []).append((record, extents, entry.layers[-1][0]))

    def _unspill(self, stripe: int) -> None:
        """Bring a spilled stripe back into the cache, under what was written since."""
        newer = self.cache.pop(stripe)
        for record, extents, sequence in self._parts.pop(stripe):
            whole = np.zeros(self.layout.stripe_bytes, np.uint8)
            self._reader.read_part(record[0], self.index.segments, stripe, whole)
            starts, lengths = extents[:, 0].copy(), extents[:, 1] - extents[:, 0]
            self.cache.write(stripe, starts, whole, starts, lengths, sequence)
        if newer is not None:
            for sequence, extents in newer.layers:
                starts, lengths = extents[:, 0].copy(), extents[:, 1] - extents[:, 0]
                self.cache.write(stripe, starts, newer.buffer, starts, lengths, sequence, newer.width)

    def _unspill_all(self) -> None:
        for stripe in list(self._parts):
            self._unspill(stripe)

    def _load_inline(self) -> None:
        """Before the first write over an inline file: its data become part of the transaction."""
        if self._inline_pending:
            self._inline_pending = False
            data = np.frombuffer(self.base.inline or b"", np.uint8)
            if len(data):
                self._write_around(0, data, 0, len(data), 0)

    def flush(self) -> None:
        """Independent. Write every partial stripe as a frame: what it lacks is read from its newest frame in this transaction, else from the base."""
        self._unspill_all()
        numbers = self.cache.numbers().tolist()
        step = max(1, self.options.batch_bytes // self.layout.stripe_bytes)
        for begin in range(0, len(numbers), step):
            self._flush(numbers[begin : begin + step])

    def _flush(self, stripes: list[int]) -> None:
        sb = self.layout.stripe_bytes
        lacking = [s for s in stripes if not self.cache[s].covers(min(sb, self._size - s * sb))]
        if lacking:
            numbers = np.array(lacking, np.uint64)
            known = self.index.records(numbers)
            based = np.flatnonzero(known["segment"] > 0)
            if len(based):
                arena = np.zeros(len(based) * sb, np.uint8)
                places = np.arange(len(based), dtype=np.int64) * sb
                counts = known["raw_bytes"][based].astype(np.int64)
                self._read(numbers[based], np.zeros(len(based), np.int64), counts, arena, places)
                for k, which in enumerate(based.tolist()):
                    entry = self.cache[lacking[which]]
                    under = arena[k * sb : (k + 1) * sb]
                    for a, b in entry.extents.tolist():
                        under[a:b] = entry.buffer[a:b]
                    entry.buffer[:] = under
        self._write_cached(stripes)

    def _check_end(self, word: str, value: int, end: int) -> None:
        most = min(STRIPES_LIMIT * self.layout.stripe_bytes, (1 << 63) - 1)
        if value < 0 or end > most:
            raise ArgumentError(f"{word}={value}: must be 0 or more, and this file ends at {most} bytes at the latest")

    def _check_writable(self) -> None:
        if not self.writable:
            raise UnsupportedError("the file is open for reading only", path=self.path, code=errno.EBADF)


def _flat(buffer: Any, *, writable: bool = True) -> Bytes:
    """See any contiguous buffer as bytes, without a copy."""
    view = memoryview(buffer)
    if writable and view.readonly:
        raise ArgumentError("the buffer to read into is read-only")
    if not view.c_contiguous:
        raise ArgumentError("the buffer is not contiguous: pass np.ascontiguousarray(...) of it")
    if view.nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.frombuffer(view, np.uint8)


def _cut_at_stripes(
    offsets: Array, lengths: Array, places: Array, stripe_bytes: int
) -> tuple[Array, Array, Array, Array]:
    """Cut extents at stripe bounds: stripe numbers, offsets within, lengths, places; vectorised."""
    first, last = offsets // stripe_bytes, (offsets + lengths - 1) // stripe_bytes
    pieces = last - first + 1
    if (pieces == 1).all():
        return first.astype(np.uint64), offsets - first * stripe_bytes, lengths.copy(), places.copy()
    which = np.repeat(np.arange(len(offsets)), pieces)
    step = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    stripes = first[which] + step
    begin = np.maximum(offsets[which], stripes * stripe_bytes)
    end = np.minimum((offsets + lengths)[which], (stripes + 1) * stripe_bytes)
    return (
        stripes.astype(np.uint64),
        begin - stripes * stripe_bytes,
        end - begin,
        places[which] + (begin - offsets[which]),
    )
