"""What a loser does: put its changes on top of the generation that was first, or raise the conflict and keep the transaction."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import ConflictError
from ..format.layout import Layout
from ..format.manifest import Section
from .generation import Generation
from .index import CHANGE, NO_STRIPE
from .merge import changed_stripes, merge_bytes
from .reader import FrameReader
from .transaction import Transaction

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Proposal", "Rewrite", "rebase"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Rewrite = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""(stripes, data, offsets, raw_bytes) -> (records, segment entries): writes frames anew, synced; segments count from 1 in what is returned."""

_BATCH_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Proposal:
    """What a transaction wants the next generation to be, all ranks together.

    Attributes
    ----------
    changes, segments
        Records by stripe (CHANGE), and the table that their `segment` counts in, from 1.
    size : int
        The file's bytes.
    cut : int
        Stripes of the base from here on are dropped first; NO_STRIPE = none.
    truncated : bool
        The size was set, not only grown: then it conflicts with anything that another changed beyond it.
    replaces : bool
        Whatever is there is replaced (mode w); nothing is compared.
    appends_at : int
        Mode a: the base's size, where our bytes begin; they move if the file grew. -1 = not appending.
    sections : tuple of Section, optional
        Instead of those that the base carries on.
    """

    changes: Array
    segments: Array
    size: int
    cut: int = NO_STRIPE
    truncated: bool = False
    replaces: bool = False
    appends_at: int = -1
    sections: tuple[Section, ...] | None = None


def rebase(
    store: Store,
    tx: Transaction,
    base: Generation,
    head: Generation,
    proposal: Proposal,
    layout: Layout,
    path: str,
    rewrite: Rewrite,
) -> Proposal:
    """Put what we changed since `base` on top of `head`, or raise the conflict; `proposal` is then relative to `head`.

    Stripes that we alone changed stay as they are; stripes that both changed are compared bytewise and written anew.

    Raises
    ------
    ConflictError
        A byte was changed by both, differently; the transaction is kept.
    """
    with contextlib.closing(FrameReader(store, tx.file_id, path)) as reader:
        try:
            return _Rebase(reader, base, head, proposal, layout.stripe_bytes, rewrite).run()
        except _Clash as clash:
            _raise_conflict(tx, head, path, clash.what)


class _Clash(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def _raise_conflict(tx: Transaction, head: Generation, path: str, what: str) -> NoReturn:
    tx.keep()
    other = head.header.writer if head.header is not None else None
    them = f"process {other.pid} on {other.host}" if other is not None else "another writer"
    us = f"process {tx.writer.pid} on {tx.writer.host}"
    raise ConflictError(
        f"{them} committed generation {head.number} first, and {what}; what {us} wrote is kept for a week: "
        f"read it with generation={tx.id.hex()!r}",
        path=path,
        transaction=tx.id.hex(),
    ) from None


@dataclasses.dataclass(frozen=True, slots=True)
class _Rebase:
    reader: FrameReader
    base: Generation
    head: Generation
    ours: Proposal
    stripe_bytes: int
    rewrite: Rewrite

    def run(self) -> Proposal:
        ours, base, head = self.ours, self.base, self.head
        if head.remote is not None:
            raise _Clash(f"the file is now a stub of {head.remote.url}")
        if ours.appends_at >= 0 and head.size != ours.appends_at:
            return self._appended()
        theirs = changed_stripes(base, head)
        if ours.truncated:
            self._check_our_cut(theirs)
        if head.size < base.size:
            self._check_their_cut()
        size = ours.size
        if not ours.truncated:
            size = head.size if ours.size <= base.size else max(ours.size, head.size)
        both = np.intersect1d(theirs, ours.changes["stripe"]).tolist()
        return self._rewritten(self._merged(both, size), size)

    def _check_our_cut(self, theirs: Array) -> None:
        """The size was set: nothing that the other changed may lie beyond."""
        ours, head, sb = self.ours, self.head, self.stripe_bytes
        what = f"it changed what lies beyond the {ours.size} bytes to which this one cut the file"
        edge = min(ours.cut, ours.size // sb)
        if head.size > max(self.base.size, ours.size) or (theirs > np.uint64(edge)).any():
            raise _Clash(what)
        if edge < ours.cut or not (theirs == np.uint64(edge)).any():
            return  # only grown, and what they changed lies below
        if edge not in ours.changes["stripe"]:
            raise _Clash(what)
        kept = min(sb, ours.size - edge * sb)  # below, bytes are compared when the stripe is merged
        if not np.array_equal(self._read(self.base, edge, sb)[kept:], self._read(head, edge, sb)[kept:]):
            raise _Clash(what)

    def _check_their_cut(self) -> None:
        """They cut the file: nothing that we changed may lie beyond."""
        ours, sb = self.ours, self.stripe_bytes
        edge, kept = divmod(self.head.size, sb)
        beyond = ours.changes["stripe"][ours.changes["stripe"] >= edge]
        for stripe in beyond[:2].tolist():
            if stripe == edge and kept:
                before, now = self._read(self.base, edge, sb), self._read_ours(edge, sb)
                if np.array_equal(before[kept:], now[kept:]):
                    continue
            raise _Clash(f"it cut the file to {self.head.size} bytes, and this one wrote beyond")

    def _merged(self, stripes: Iterable[int], size: int) -> Iterator[tuple[int, Bytes]]:
        """The stripes that both changed, merged bytewise."""
        sb = self.stripe_bytes
        for stripe in stripes:
            length = min(sb, size - stripe * sb)
            before, theirs = self._read(self.base, stripe, length), self._read(self.head, stripe, length)
            merged, clash = merge_bytes(before, theirs, self._read_ours(stripe, length))
            if clash >= 0:
                raise _Clash(f"both changed byte {stripe * sb + clash}")
            yield stripe, merged

    def _rewritten(self, stripes: Iterable[tuple[int, Bytes]], size: int) -> Proposal:
        """Our proposal with some stripes written anew, a batch at a time."""
        changes, segments = [self.ours.changes], [self.ours.segments]
        count = len(self.ours.segments)
        for batch in _batches(stripes):
            raw = np.array([len(data) for _, data in batch], np.int64)
            numbers = np.array([stripe for stripe, _ in batch], np.uint64)
            joined = np.concatenate([data for _, data in batch])
            records, made = self.rewrite(numbers, joined, np.cumsum(raw) - raw, raw)
            records["segment"] += count
            count += len(made)
            new = np.zeros(len(batch), CHANGE)
            new["stripe"], new["record"] = numbers, records
            changes.append(new)
            segments.append(made)
        joined_changes = np.concatenate(changes)
        numbers, first = np.unique(joined_changes["stripe"][::-1], return_index=True)  # of two the later one
        return dataclasses.replace(
            self.ours,
            changes=joined_changes[::-1][first],
            segments=np.concatenate(segments),
            size=size,
        )

    def _appended(self) -> Proposal:
        """Mode a, and the end is elsewhere now: our bytes move there, stripe by stripe."""
        begin, end = self.ours.appends_at, self.head.size
        size = end + self.ours.size - begin
        moved = self._rewritten(self._moved(begin, end, size), size)
        first = end // self.stripe_bytes  # what we wrote elsewhere was written for the old end
        changes = moved.changes[
            (moved.changes["stripe"] >= first) & (moved.changes["stripe"] * self.stripe_bytes < size)
        ]
        return dataclasses.replace(moved, changes=changes, appends_at=end)

    def _moved(self, begin: int, end: int, size: int) -> Iterator[tuple[int, Bytes]]:
        sb = self.stripe_bytes
        for stripe in range(end // sb, -(-size // sb)):
            first, last = max(end, stripe * sb), min(size, (stripe + 1) * sb)
            data = np.zeros(last - stripe * sb, np.uint8)
            data[: first - stripe * sb] = self._read(self.head, stripe, first - stripe * sb)
            while first < last:
                source, within = divmod(begin + first - end, sb)
                take = min(last - first, sb - within)
                data[first - stripe * sb :][:take] = self._read_ours(source, within + take)[within:]
                first += take
            yield stripe, data

    def _read(self, generation: Generation, stripe: int, length: int) -> Bytes:
        """The first bytes of a stripe of a generation; zeros beyond its end."""
        if generation.inline is not None:
            out = np.zeros(length, np.uint8)
            data = np.frombuffer(generation.inline, np.uint8)[stripe * self.stripe_bytes :][:length]
            out[: len(data)] = data
            return out
        records = generation.records(np.array([stripe], np.uint64))
        return self._read_record(records, generation.segments, stripe, length, generation.path)

    def _read_ours(self, stripe: int, length: int) -> Bytes:
        changes = self.ours.changes
        at = int(np.searchsorted(changes["stripe"], stripe))
        if at == len(changes) or changes["stripe"][at] != stripe:
            return np.zeros(length, np.uint8)
        return self._read_record(changes["record"][at : at + 1].copy(), self.ours.segments, stripe, length, "")

    def _read_record(self, records: Array, segments: Array, stripe: int, length: int, manifest: str) -> Bytes:
        out = np.zeros(length, np.uint8)
        zero = np.zeros(1, np.int64)
        if length:
            self.reader.read(
                records,
                segments,
                np.array([stripe], np.uint64),
                zero,
                np.array([length], np.int64),
                out,
                zero,
                manifest=manifest,
            )
        return out


def _batches(stripes: Iterable[tuple[int, Bytes]]) -> Iterator[list[tuple[int, Bytes]]]:
    batch: list[tuple[int, Bytes]] = []
    held = 0
    for stripe, data in stripes:
        batch.append((stripe, data))
        held += len(data)
        if held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
