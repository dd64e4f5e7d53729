"""The index of an open file: a base generation and the changes on top of it; and the next manifest made of both.

Changes are kept as sorted runs of numpy arrays, newest last, merged when they become many: nothing here is Python per stripe.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..format.layout import Layout
from ..format.manifest import (
    HEADER_BYTES,
    PAGE_ENTRY,
    PAGE_RECORDS,
    RECORD,
    SEGMENT_ENTRY,
    Header,
    Section,
    State,
    encode_tables,
    page_records,
)
from ..kernels import crc64, crc64_fold, crc64_zeros
from .generation import Generation
from .transaction import Copied

__all__ = ["CHANGE", "NO_STRIPE", "TOLD", "Index", "Manifest", "build_manifest", "page_data_crc", "segment_keys"]

Array = npt.NDArray[Any]
NO_STRIPE = 1 << 62
RUNS_KEPT = 32

CHANGE = np.dtype([("stripe", "<u8"), ("sequence", "<u4"), ("foreign", "<u4"), ("record", RECORD)])
"""One changed stripe: which collective call wrote it, and whether another rank will publish it (then it is known here only to be read)."""


TOLD = np.dtype([("change", CHANGE), ("segment", SEGMENT_ENTRY)])
"""A change as it is told to others, or kept for them: with the segment that its record names."""


def segment_keys(segments: Array) -> Array:
    """What tells one segment from another, as bytes (transaction, target, stream, n)."""
    raw = np.ascontiguousarray(segments).view(np.uint8).reshape(len(segments), SEGMENT_ENTRY.itemsize)
    return np.ascontiguousarray(raw[:, :40]).view("S40").reshape(-1)


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """Changes (CHANGE) sorted by stripe, without repeats; and their stripes, contiguous, to search in."""

    changes: Array
    stripes: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, changes: Array) -> _Run:
        return cls(changes, np.ascontiguousarray(changes["stripe"]))


class Index:
    """Which frame holds each stripe, as one rank sees it.

    Attributes
    ----------
    base : Generation
    segments : numpy array of SEGMENT_ENTRY
        The base's, then those of this transaction; a record's `segment` is an index in here, plus 1.
    cut : int
        Stripes of the base from here on are gone (a truncation); NO_STRIPE = none.
    """

    def __init__(self, base: Generation) -> None:
        self.base = base
        self.segments = base.segments.copy()
        self.cut = NO_STRIPE
        self._runs: list[_Run] = []  # a later one wins

    @property
    def base_segments(self) -> int:
        """How many of `segments` are the base's."""
        return len(self.base.segments)

    def add_segment(self, entry: Array) -> int:
        """Add a segment of this transaction; return what records put in `segment`."""
        self.segments = np.concatenate([self.segments, np.atleast_1d(entry)])
        return len(self.segments)

    def change(self, stripes: npt.NDArray[np.uint64], records: Array, sequence: int, *, foreign: bool = False) -> None:
        """Put new records in the place of old ones. Of one stripe given twice the later wins."""
        run = np.zeros(len(stripes), CHANGE)
        run["stripe"], run["sequence"], run["foreign"], run["record"] = stripes, sequence, foreign, records
        self.add_run(run)

    def add_run(self, run: Array) -> None:
        """Put changes, as another rank told them, on top."""
        if not len(run):
            return
        self._runs.append(_Run.of(_newest(run)))
        if len(self._runs) > RUNS_KEPT:
            first, count = len(self._runs) - 1, len(run)
            while first and len(self._runs[first - 1].stripes) <= 2 * count:  # so n changes are sorted log n times
                first -= 1
                count += len(self._runs[first].stripes)
            self._merge(first)

    def _merge(self, first: int) -> None:
        """Make one run of those from `first` on."""
        if first < len(self._runs) - 1:
            self._runs[first:] = [_Run.of(_newest(np.concatenate([run.changes for run in self._runs[first:]])))]

    def changes(self) -> Array:
        """All changes, sorted by stripe, without repeats (CHANGE)."""
        self._merge(0)
        return self._runs[0].changes if self._runs else np.zeros(0, CHANGE)

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return bool(self._runs) or self.cut != NO_STRIPE

    def truncate(self, stripes: int) -> None:
        """Drop everything from stripe number `stripes` on, the base's and our own."""
        self.cut = min(self.cut, stripes)
        self._runs = [_Run.of(kept) for run in self._runs if len(kept := run.changes[run.stripes < np.uint64(stripes)])]

    def records(self, stripes: npt.NDArray[np.uint64]) -> Array:
        """Look up records; a hole's is all zeros."""
        if self.cut == NO_STRIPE:
            out = self.base.records(stripes)
        else:
            out = np.zeros(len(stripes), RECORD)
            below = stripes < np.uint64(self.cut)
            out[below] = self.base.records(stripes[below])
        for run in self._runs:
            at = np.searchsorted(run.stripes, stripes)
            at[at == len(run.stripes)] = 0
            hit = run.stripes[at] == stripes
            if hit.any():
                out[hit] = run.changes["record"][at[hit]]
        return out

    def record(self, stripe: int) -> Array:
        """Look up one record, as an array of one, which is not to be changed; a hole's is all zeros."""
        if self._runs:
            wanted = np.uint64(stripe)
            for run in reversed(self._runs):
                at = int(run.stripes.searchsorted(wanted))
                if at < len(run.stripes) and run.stripes[at] == wanted:
                    return run.changes["record"][at : at + 1].copy()
        return self.base.record(stripe) if stripe < self.cut else np.zeros(1, RECORD)

    def found(self, stripes: npt.NDArray[np.uint64]) -> Array:
        """Which of `stripes` changed in this transaction, as CHANGE."""
        changes = self.changes()
        return changes[np.isin(changes["stripe"], stripes)]


def _newest(run: Array) -> Array:
    """Sort by stripe and keep the last of each: of equal stripes the highest sequence, then the latest given."""
    order = np.lexsort((np.arange(len(run)), run["sequence"], run["stripe"]))
    run = run[order]
    last = np.ones(len(run), bool)
    last[:-1] = run["stripe"][1:] != run["stripe"][:-1]
    return run[last]


def page_data_crc(page: Array, number: int, size: int, stripe_bytes: int) -> int:
    """Checksum of the file's bytes behind one page: its records' checksums, folded, holes and short frames extended by zeros."""
    start = number * PAGE_RECORDS * stripe_bytes
    length = min(PAGE_RECORDS * stripe_bytes, size - start)
    if length <= 0:
        return 0
    if not page["segment"].any():
        return crc64_zeros(length)
    stripes = -(-length // stripe_bytes)
    page = page[:stripes]
    raw = page["raw_bytes"].astype(np.int64)
    wanted = np.full(stripes, stripe_bytes, np.int64)
    wanted[-1] = length - (stripes - 1) * stripe_bytes
    pad = wanted - raw
    if not pad.any():
        return crc64_fold(np.ascontiguousarray(page["crc64"]), raw)
    crcs = np.zeros(2 * stripes, np.uint64)
    lengths = np.zeros(2 * stripes, np.int64)
    crcs[::2], lengths[::2] = page["crc64"], raw
    lengths[1::2] = pad
    for zeros in np.unique(pad[pad > 0]):
        crcs[1::2][pad == zeros] = crc64_zeros(int(zeros))
    present = lengths > 0
    return crc64_fold(np.ascontiguousarray(crcs[present]), np.ascontiguousarray(lengths[present]))


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest ready to be written: a header that lacks only its number, and what follows it."""

    header: Header
    body: list[bytes | memoryview | Copied]
    segments: Array
    directory: Array


def build_manifest(
    tx_header: Header,
    base: Generation,
    cut: int,
    changes: Array,
    segments: Array,
    size: int,
    layout: Layout,
    *,
    durable: bool,
    sections: Sequence[Section] | None = None,
) -> Manifest:
    """Make the manifest of `base` with `changes` on top.

    Parameters
    ----------
    tx_header : Header
        The transaction's, whose identity and base go into the new one.
    cut : int
        Stripes of the base from here on are dropped first.
    changes : numpy array of CHANGE
        Sorted by stripe, without repeats; a record's `segment` counts in `segments`, from 1.
    segments : numpy array of SEGMENT_ENTRY
        The segments that the changes name.
    size : int
        The file's bytes.
    durable : bool
        Whether everything that it names is synced.
    sections : sequence of Section, optional
        Instead of those that the base carries on.

    Notes
    -----
    Pages that do not change are copied from the base as they are: segment slots never move. Cost: the changed pages, and one copy of the rest.
    """
    stripe_bytes = layout.stripe_bytes
    total = layout.stripes(size)
    cut = min(cut, total)
    pages_total = -(-total // PAGE_RECORDS)
    table, slot_of = _merge_segments(base.segments, segments)
    old_pages = len(base.directory)
    directory = np.zeros(pages_total, PAGE_ENTRY)
    directory[: min(old_pages, pages_total)] = base.directory[: min(old_pages, pages_total)]

    page_of_change = (changes["stripe"] // np.uint64(PAGE_RECORDS)).astype(np.int64)
    touched = np.zeros(max(pages_total, old_pages), bool)
    touched[page_of_change] = True
    touched[cut // PAGE_RECORDS :] |= cut < base.layout.stripes(base.size)
    if size != base.size or old_pages < pages_total:  # the checksum of a page that was or becomes the last one
        for last in (old_pages, pages_total):
            if 0 < last <= pages_total:
                touched[last - 1] = True
        touched[old_pages:pages_total] = True

    delta_frames = np.zeros(len(table) + 1, np.int64)
    delta_bytes = np.zeros(len(table) + 1, np.int64)

    def count(records: Array, sign: int) -> None:
        named = records[records["segment"] > 0]
        if len(named):
            slots = named["segment"].astype(np.int64)
            np.add.at(delta_frames, slots, sign)
            np.add.at(delta_bytes, slots, sign * named["frame_bytes"].astype(np.int64))

    new_pages: dict[int, bytes] = {}
    starts = np.searchsorted(page_of_change, np.arange(len(touched) + 1))
    for number in np.flatnonzero(touched).tolist():
        old = base.page(number) if number < old_pages else np.zeros(PAGE_RECORDS, RECORD)
        page = old.copy()
        if cut < (number + 1) * PAGE_RECORDS:
            page[max(0, cut - number * PAGE_RECORDS) :] = np.zeros((), RECORD)
        mine = changes[starts[number] : starts[number + 1]]
        if len(mine):
            records = mine["record"].copy()
            records["segment"] = slot_of[records["segment"]]
            page[(mine["stripe"] % np.uint64(PAGE_RECORDS)).astype(np.int64)] = records
        count(old, -1)
        count(page, +1)
        if number >= pages_total:
            continue
        entry = directory[number]
        entry["data_crc"] = page_data_crc(page, number, size, stripe_bytes)
        entry["stored_bytes"] = int(page["frame_bytes"].sum(dtype=np.int64))
        if page["segment"].any():
            data = page[: page_records(number, total)].tobytes()
            entry["checksum"], entry["offset"] = crc64(data), 1  # the place comes below
            new_pages[number] = data
        else:
            entry["checksum"], entry["offset"] = 0, 0

    table["live_frames"] = table["live_frames"].astype(np.int64) + delta_frames[1:]
    table["live_bytes"] = table["live_bytes"].astype(np.int64) + delta_bytes[1:]
    dead = table["live_frames"] == 0
    table[dead] = np.zeros((), SEGMENT_ENTRY)

    body: list[bytes | memoryview | Copied] = [b""]
    sections = base.carried if sections is None else sections
    place = HEADER_BYTES + len(encode_tables(table, directory, sections))
    source = base.descriptor() if base.header is not None else -1
    for number in np.flatnonzero(directory["offset"]).tolist():
        length = page_records(number, total) * RECORD.itemsize
        if number in new_pages:
            body.append(new_pages[number])
        elif source < 0:
            body.append(base.page(number)[: page_records(number, total)].tobytes())
        else:
            offset, behind = int(directory[number]["offset"]), body[-1]
            if isinstance(behind, Copied) and behind.offset + behind.length == offset:
                body[-1] = dataclasses.replace(behind, length=behind.length + length)
            else:
                body.append(Copied(source, offset, length))
        directory[number]["offset"] = place
        place += length

    tables = encode_tables(table, directory, sections)
    body[0] = tables
    spans = np.full(pages_total, PAGE_RECORDS * stripe_bytes, np.int64)
    if pages_total:
        spans[-1] = size - (pages_total - 1) * PAGE_RECORDS * stripe_bytes
    header = dataclasses.replace(
        tx_header,
        state=State.WHOLE,
        durable=durable,
        size=size,
        data_crc=crc64_fold(np.ascontiguousarray(directory["data_crc"]), spans),
        layout=layout,
        segment_count=len(table),
        stored_bytes=int(directory["stored_bytes"].sum(dtype=np.int64)),
        committed_ns=time.time_ns(),
        tables_crc=crc64(tables),
        sections_bytes=len(tables) - table.nbytes - directory.nbytes,
    )
    return Manifest(header, body, table, directory)


def _merge_segments(old: Array, new: Array) -> tuple[Array, npt.NDArray[np.uint32]]:
    """Give each new segment a slot: a free one, else behind the last. Returns the table and, for each index from 1, its slot from 1."""
    free: Iterator[int] = iter(np.flatnonzero(old["live_frames"] == 0).tolist())
    slot_of = np.zeros(len(new) + 1, np.uint32)
    table = np.concatenate([old, np.zeros(len(new), SEGMENT_ENTRY)])
    end = len(old)
    for k in range(len(new)):
        slot = next(free, end)
        end += slot == end
        table[slot] = new[k]
        table[slot]["live_frames"] = table[slot]["live_bytes"] = 0
        slot_of[k + 1] = slot + 1
    return table[:end], slot_of
