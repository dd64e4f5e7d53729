"""A session: one rank's side of one open file.

Serial and collective files are the same thing, a session with a Team. Only `open`, `settle`, `publish` and `discard` are collective; they leave on
all ranks or raise on all ranks.

The way of a write: whole stripes are encoded from the caller's memory and written at once; the rest waits in the write-back cache. The way of a
read: records from the index, frames straight into the caller's memory, then what the cache holds on top.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, DamageError, Error, FencedError, StaleError, UnsupportedError
from ..format.inode import Inode
from ..format.layout import Layout
from ..format.manifest import SEGMENT_ENTRY
from ..options import Options
from ..targets.contract import Access, Target
from .cache import PartialStripes, StripeCache
from .collect import collect, collect_removed
from .commit import Proposal, commit
from .cpus import cpus_for_threads
from .generation import Generation, list_numbers, newest_durable, read_header
from .index import CHANGE, NO_STRIPE, Index
from .directory_layout import layout_of
from .inode_file import read_inode
from .newfile import NewFile, access_of, link_opened_inode, write_inline
from .place import Place, locate
from .placement import spread, striped_targets
from .reader import FrameReader
from .store import Store
from .team import SERIAL, Team
from .transaction import Transaction
from .writer import FrameWriter, WriteCounters
from .writer_identity import is_alive

__all__ = ["MODES", "Counters", "Session"]

logger = logging.getLogger("pinstripe")
Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

MODES = ("r", "r+", "w", "x", "a", "c")
"""As `open`'s; ``c`` is ``r+`` of a file that is made when it is not there."""

_TOLD = np.dtype([("change", CHANGE), ("segment", SEGMENT_ENTRY)])
"""A change as one rank tells it to the others: with the segment that its record names."""

_SCOPE = np.dtype([("size", "<i8"), ("cut", "<u8"), ("flags", "<u8")])
_TRUNCATED, _CHANGED = 1, 2


@dataclasses.dataclass(slots=True)
class Counters(WriteCounters):
    """What a session did on this rank; see `WriteCounters`. Times in nanoseconds."""

    read_ns: int = 0
    read_bytes: int = 0
    index_ns: int = 0
    commit_ns: int = 0
    merged_ns: int = 0
    target_bytes: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """What the first rank found or made; told to the others as JSON."""

    file_id: str
    path: str
    tx: str
    layout: str
    manifest: str
    access: tuple[int, int, int]
    kind: str


class Session:
    """One rank's side of one open file. Not thread-safe; `pinstripe.store.file` locks.

    Attributes
    ----------
    size : int
        Logical bytes, as this rank knows them. May be assigned upwards: the file grows as by writing.
    sequence : int
        The collective layer counts its calls here; of two writes of one stripe the one with the higher sequence wins.
    generation : int
        The generation that is read, 0 before the first commit.
    """

    def __init__(
        self, store: Store, path: str, inode: Inode, mode: str, team: Team, options: Options, base: Generation
    ) -> None:
        self.store, self.path, self.inode, self.mode, self.team, self.options = store, path, inode, mode, team, options
        self.file_id = inode.file_id
        self.layout = base.layout if base.header is not None else inode.layout
        self.writable = mode != "r"
        self.sequence = 0
        self.counters = Counters()
        self.access = Access(0o600)
        self._threads = options.threads or cpus_for_threads(team.size)
        self._new: NewFile | None = None
        self._unborn = False  # a new file without even an id's directory: it may become inline
        self._replaces = mode == "w"
        self._tx: Transaction | None = None  # on rank 0 only
        self._tx_id = b""
        self._writer: FrameWriter | None = None
        self._writers = 0
        self._slots: list[int] = []  # writer's segment slot -> its number in the index
        self._foreign: dict[bytes, int] = {}  # another rank's segment -> its number in the index
        self._untold: list[Array] = []
        self._parts: dict[int, list[tuple[Array, Array, int]]] = {}  # stripe -> spilled (record, extents, sequence)
        self._reader = FrameReader(store, self.file_id, path, threads=self._threads)
        self._adopt(base)

    def _adopt(self, base: Generation) -> None:
        """Begin anew on top of a generation."""
        self.base = base
        self.index = Index(base)
        self.cache = StripeCache(self.layout.stripe_bytes)
        self.size_at_base = 0 if self._replaces else base.size
        self._size = self.size_at_base
        self._truncated = False
        self._inline_pending = base.inline is not None and not self._replaces
        if self._replaces:
            self.index.base = Generation(self.file_id, self.layout)
            self.index.segments = self.index.base.segments.copy()
        self._slots, self._foreign, self._untold, self._parts = [], {}, [], {}

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: str,
        *,
        team: Team = SERIAL,
        options: Options | None = None,
        name_at_open: bool = False,
        exclusive: bool = False,
        layout: dict[str, Any] | None = None,
        generation: int | str | None = None,
    ) -> Session:
        """Collective. Open a file; the first rank looks and registers, the others are told.

        Parameters
        ----------
        mode : str
            One of `MODES`.
        name_at_open : bool
            Make a new file's name now, empty, as MPI and POSIX do; else it appears with the first commit.
        exclusive : bool
            Refuse to open for writing beside a live writer.
        layout : dict, optional
            Changes to the layout that a new file inherits from its directory.
        generation : int or str, optional
            Read an older one: its number, ``"durable"``, or the id of a kept transaction.

        Raises
        ------
        OSError
            As `open`; BlockingIOError for `exclusive`. The same on every rank.
        """
        options = options or Options.make()
        error: BaseException | None = None
        session: Session | None = None
        if team.rank == 0:
            try:
                session = cls._open_first(path, mode, team, options, name_at_open, exclusive, layout, generation)
            except Exception as raised:
                error = raised
        team.agree(error)
        if team.size == 1:
            assert session is not None
            return session
        return cls._share(session, mode, team, options)

    @classmethod
    def _share(cls, session: Session | None, mode: str, team: Team, options: Options) -> Session:
        """Tell the other ranks what the first opened."""
        inode_bytes = team.broadcast(session.inode.encode() if session is not None else None)
        told = team.broadcast(json.dumps(dataclasses.asdict(session._describe())).encode() if session is not None else None)
        head = team.broadcast(session.base.head_bytes() if session is not None else None)
        if session is not None:
            return session
        opened = _Opened(**json.loads(told))
        inode = Inode.decode(inode_bytes)
        store = Store.find(os.path.dirname(opened.path))
        inline = inode.data if opened.kind == "inline" else None
        base = Generation.from_head_bytes(inode.file_id, inode.layout, head, opened.manifest, inline)
        made = cls(store, opened.path, inode, mode, team, options, base)
        made.access = Access(*opened.access)
        made._tx_id = bytes.fromhex(opened.tx)
        return made

    def _describe(self) -> _Opened:
        return _Opened(
            file_id=self.file_id.hex(),
            path=self.path,
            tx=self._tx_id.hex(),
            layout=self.layout.to_json(),
            manifest=self.base.path,
            access=(self.access.mode, self.access.uid or 0, self.access.gid or 0),
            kind="inline" if self.base.inline is not None else "generations",
        )

    @classmethod
    def _open_first(
        cls,
        path: str | os.PathLike[str],
        mode: str,
        team: Team,
        options: Options,
        name_at_open: bool,
        exclusive: bool,
        layout: dict[str, Any] | None,
        generation: int | str | None,
    ) -> Session:
        if mode not in MODES:
            raise ArgumentError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
        if generation is not None and mode != "r":
            raise ArgumentError("an older generation can only be read: mode='r'")
        place = locate(path)
        if mode != "r":
            place.store.check_writable()
        try:
            inode, seen = read_inode(place.path)
        except FileNotFoundError:
            if mode in ("r", "r+") or not place.name:
                raise
            return cls._open_new(place, mode, team, options, name_at_open, layout)
        if mode == "x":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.path)
        return cls._open_existing(place, inode, seen, mode, team, options, exclusive, generation)

    @classmethod
    def _open_existing(
        cls,
        place: Place,
        inode: Inode,
        seen: os.stat_result,
        mode: str,
        team: Team,
        options: Options,
        exclusive: bool,
        generation: int | str | None,
    ) -> Session:
        store = place.store

        def still_named() -> bool:
            try:
                now = os.lstat(place.path)
            except OSError:
                return False
            return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)

        if mode == "r":
            base = _generation(store, inode, place.path, generation, still_named)
            session = cls(store, place.path, inode, mode, team, options, base)
            session.access = access_of(seen)
            return session
        if not os.access(place.path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place.path)
        tx = _register(store, inode, place.path, seen, team.size)
        try:
            if exclusive:
                _refuse_others(tx, place.path)
            try:
                base, highest = _base(store, inode, place.path, still_named)
            except DamageError:
                if mode != "w":
                    raise
                numbers = list_numbers(tx.directory)  # whatever is there is replaced, damaged or not
                base, highest = Generation(inode.file_id, inode.layout), max(numbers, default=0)
                base.number = highest
            tx.record_base(base.number, highest)
            session = cls(store, place.path, inode, mode, team, options, base)
        except BaseException:
            tx.discard()
            raise
        session.access = access_of(seen)
        session._tx, session._tx_id = tx, tx.id
        return session

    @classmethod
    def _open_new(
        cls, place: Place, mode: str, team: Team, options: Options, name_at_open: bool, layout: dict[str, Any] | None
    ) -> Session:
        os.stat(place.directory)  # ENOENT, ENOTDIR as the system says
        if not os.access(place.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place.path)
        file_layout = Layout.make(layout_of(place.directory), **(layout or {}))
        inode = Inode(secrets.token_bytes(16), "generations", file_layout)
        base = Generation(inode.file_id, file_layout)
        session = cls(place.store, place.path, inode, mode, team, options, base)
        session._replaces = False
        session._unborn = True
        if team.size > 1 or name_at_open:
            session._be_born()
            if name_at_open:
                assert session._new is not None
                try:
                    session._new.put_name(sync=options.durable)
                except OSError:
                    session._abandon()
                    raise
                session._new = None
        return session

    def _be_born(self) -> None:
        """Make the new file's directory, transaction, inode and name-to-be."""
        tx = Transaction(self.store, self.file_id, self.layout, ranks=self.team.size)
        new = NewFile(self.store, self.inode, self.path, self.mode in ("x", "c", "a"))
        try:
            new.make(tx)
        except BaseException:
            tx.discard()
            new.unmake()
            collect_removed(self.store, self.file_id)
            raise
        self._tx, self._tx_id, self._new, self.access = tx, tx.id, new, new.access
        self._unborn = False

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
        if size < 0:
            raise ArgumentError(f"size={size}: must be 0 or more")
        sb = self.layout.stripe_bytes
        self._load_inline()
        if size < self._size:
            stripe, within = divmod(size, sb)
            keep: Bytes | None = None
            held = stripe in self.cache and self.cache[stripe].covers(within)
            if within and not held and self.team.rank == stripe % self.team.size:
                keep = np.zeros(within, np.uint8)
                self.read_into(stripe * sb, keep)
            self.cache.truncate(size)
            for spilled in [s for s in self._parts if s * sb >= size]:
                del self._parts[spilled]
            self.index.truncate(stripe)
            self._truncated = True
            self._size = size
            if keep is not None:  # the last stripe is written anew, so that no frame reaches beyond the size
                self._cache_extents(stripe, np.zeros(1, np.int64), keep, np.zeros(1, np.int64), np.array([within], np.int64), 0)
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
        out = _flat(buffer)
        count = min(len(out), max(0, self._size - offset))
        if count <= 0:
            return 0
        out = out[:count]
        if self._inline_pending:
            inline = np.frombuffer(self.base.inline or b"", np.uint8)[offset : offset + count]
            out[: len(inline)] = inline
            out[len(inline) :] = 0
            return count
        sb = self.layout.stripe_bytes
        first_stripe, last_stripe = offset // sb, (offset + count - 1) // sb
        stripes = np.arange(first_stripe, last_stripe + 1, dtype=np.uint64)
        first = np.zeros(len(stripes), np.int64)
        first[0] = offset - first_stripe * sb
        counts = np.full(len(stripes), sb, np.int64)
        counts[0] -= first[0]
        counts[-1] -= (last_stripe + 1) * sb - (offset + count)
        places = np.zeros(len(stripes), np.int64)
        np.cumsum(counts[:-1], out=places[1:])
        self._read(stripes, first, counts, out, places)
        for stripe in self._spilled(first_stripe, last_stripe):
            self._unspill(stripe)
        self.cache.overlay(offset, out)
        return count

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
        self._read(stripes, first, counts, flat, places)
        if self._parts:
            for stripe in [s for s in self._parts if (stripes == s).any()]:
                self._unspill(stripe)
        if len(self.cache):
            for k in np.flatnonzero(np.isin(stripes, self.cache.numbers())).tolist():
                start = int(stripes[k]) * self.layout.stripe_bytes + int(first[k])
                self.cache.overlay(start, flat[places[k] : places[k] + counts[k]])

    def _read(self, stripes: Array, first: Array, counts: Array, out: Bytes, places: Array) -> None:
        self._reader.read(
            self.index.records(stripes), self.index.segments, stripes, first, counts, out, places, manifest=self.base.path
        )

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
        if offset < 0:
            raise ArgumentError(f"offset={offset}: must be 0 or more")
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
                stripe, np.array([within], np.int64), flat, np.array([begin], np.int64), np.array([take], np.int64), width
            )
            begin += take

    def write_stripes(self, stripes: Array, data: Any, data_offsets: Array, raw_bytes: Array, width: int = 0) -> None:
        """Independent. Write stripes that are whole (or the file's last, from its start): stripe k is ``data[data_offsets[k]:][:raw_bytes[k]]``.

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
            np.asarray(stripes, np.uint64), data, np.asarray(data_offsets, np.int64), np.asarray(raw_bytes, np.int64), width
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
        if self.team.size > 1:
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
        for stripe in list(self._parts):
            self._unspill(stripe)
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
            if self.team.size == 1:
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

    def _spilled(self, first: int, last: int) -> list[int]:
        return [s for s in self._parts if first <= s <= last] if self._parts else []

    def _unspill(self, stripe: int) -> None:
        """Bring a spilled stripe back into the cache, under what was written since."""
        newer = self.cache.pop(stripe)
        for record, extents, sequence in self._parts.pop(stripe):
            lengths = extents[:, 1] - extents[:, 0]
            data = np.empty(int(lengths.sum()), np.uint8)
            one = np.array([stripe], np.uint64)
            self._reader.read(
                record, self.index.segments, one, np.zeros(1, np.int64), np.array([len(data)], np.int64), data, np.zeros(1, np.int64)
            )
            places = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
            self.cache.write(stripe, extents[:, 0].copy(), data, places, lengths, sequence)
        if newer is not None:
            for sequence, extents in newer.layers:
                starts, lengths = extents[:, 0].copy(), extents[:, 1] - extents[:, 0]
                self.cache.write(stripe, starts, newer.buffer, starts, lengths, sequence, newer.width)

    def _load_inline(self) -> None:
        """Before the first write over an inline file: its data become part of the transaction."""
        if self._inline_pending:
            self._inline_pending = False
            data = np.frombuffer(self.base.inline or b"", np.uint8)
            if len(data):
                self._write_around(0, data, 0, len(data), 0)

    def flush(self) -> None:
        """Independent. Write every partial stripe as a frame: what it lacks is read from its newest frame in this transaction, else from the base."""
        for stripe in list(self._parts):
            self._unspill(stripe)
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

    # --- transaction and writer --------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if not self.writable:
            raise UnsupportedError("the file is open for reading only", path=self.path, code=errno.EBADF)

    def _frame_writer(self) -> FrameWriter:
        if self._writer is None:
            if self._unborn:
                self._be_born()
            elif not self._tx_id:
                raise FencedError("this session has no transaction: its last commit failed", path=self.path)
            self._writer = self._make_writer(self.team.rank + self._writers * self.team.size)
        return self._writer

    def _make_writer(self, stream: int) -> FrameWriter:
        usable = self._usable_targets()
        first = int.from_bytes(self.file_id[:4], "little")
        chosen = striped_targets(len(usable), self.layout.stripe_count, first)
        mine = spread(chosen, self.team.rank, self.team.size, self.options.max_segments)
        spares = [k for k in [*chosen, *range(len(usable))] if k not in mine]
        return FrameWriter(
            self.file_id,
            self._tx_id,
            stream,
            [usable[k] for k in mine],
            [usable[k] for k in dict.fromkeys(spares)],
            self.access,
            block_bytes=self.layout.block_bytes,
            codec=self.layout.codec_number,
            batch_bytes=self.options.batch_bytes,
            acceleration=self.options.acceleration,
            threads=self._threads,
            make_room=self._make_room,
        )

    def _usable_targets(self) -> list[Target]:
        states = {entry.id: entry.state for entry in self.store.superblock.targets}
        active = [t for t in self.store.targets if states.get(t.id) != "drain"]
        return [t for t in active if self.layout.pool is None or t.pool == self.layout.pool]

    def _make_room(self, target: Target) -> bool:
        """A full target: collect what may go of this file, its grace time waived."""
        try:
            return collect(self.store, self.file_id, grace_s=0.0, full=True).segments > 0
        except (Error, OSError) as error:
            logger.warning("nothing could be collected on %s: %s", target.path, error)
            return False

    # --- collective --------------------------------------------------------------------------------------------------

    def settle(self, *, everything: bool = True) -> None:
        """Collective. Make every rank know what the others wrote in this transaction.

        Parameters
        ----------
        everything : bool
            Also write the partial stripes that ranks hold, and tell all records: afterwards every rank reads what any rank wrote. Else only
            the stripes that some rank holds in part are settled: the holder learns the newest frame of each, and forgets what is older.
        """
        if self.team.size == 1:
            return
        self._settle_held()
        if not everything:
            return
        self._together(self.flush)
        told = self.team.allgather(self._tell(np.concatenate(self._untold) if self._untold else np.zeros(0, CHANGE)))
        self._untold = []
        for rank, array in enumerate(told):
            if rank != self.team.rank:
                self._learn(array)
        sizes = self.team.allgather(np.array([self._size], np.int64))
        self._size = int(np.concatenate(sizes).max())

    def _settle_held(self) -> None:
        self._together(lambda: [self._unspill(stripe) for stripe in list(self._parts)])
        held = self.team.allgather(self.cache.numbers())
        wanted = np.unique(np.concatenate(held))
        if not len(wanted):
            return
        mine = self.index.found(wanted)
        told = self.team.allgather(self._tell(mine[mine["foreign"] == 0]))
        for rank, array in enumerate(told):
            if rank != self.team.rank:
                self._learn(array[np.isin(array["change"]["stripe"], self.cache.numbers())])
        for change in self.index.found(self.cache.numbers()):
            stripe, sequence = int(change["stripe"]), int(change["sequence"])
            if change["foreign"] and not self.cache[stripe].drop_until(sequence - 1):
                self.cache.pop(stripe)

    def _tell(self, changes: Array) -> Array:
        out = np.zeros(len(changes), _TOLD)
        out["change"] = changes
        if len(changes):
            out["segment"] = self.index.segments[changes["record"]["segment"].astype(np.int64) - 1]
        return out

    def _learn(self, told: Array) -> None:
        if not len(told):
            return
        changes = told["change"].copy()
        keys, first, which = np.unique(_segment_keys(told["segment"]), return_index=True, return_inverse=True)
        numbers = np.zeros(len(keys), np.uint32)
        for k, key in enumerate(keys.tolist()):
            number = self._foreign.get(key)
            if number is None:
                number = self._foreign[key] = self.index.add_segment(told["segment"][first[k]])
            numbers[k] = number
        changes["record"]["segment"] = numbers[which]
        changes["foreign"] = 1
        self.index.add_run(changes)

    def _together(self, work: Callable[[], Any]) -> None:
        """Do something on every rank; an error on one is the error of all."""
        error: BaseException | None = None
        try:
            work()
        except Exception as raised:
            error = raised
        self.team.agree(error)

    def publish(self, *, final: bool = False) -> int:
        """Collective. Publish what all ranks wrote as the next generation; nothing changed = the present one.

        Parameters
        ----------
        final : bool
            The session ends: no new transaction is begun.

        Returns
        -------
        int
            The generation's number; 0 for an inline file and one that was never written.

        Raises
        ------
        ConflictError, FencedError, OutcomeUnknownError, TargetError, DamageError
            The same on every rank; nothing was published, but perhaps for OutcomeUnknownError.
        """
        self._check_writable()
        if self.team.size == 1 and self._unborn and self._publish_inline(final):
            return 0
        if self.team.size > 1:
            self._settle_held()
        elif self._unborn:
            self._be_born()
        self._together(self._finish_writing)
        proposal = self._propose()
        result: bytes | None = None
        error: BaseException | None = None
        if self.team.rank == 0:
            begun = time.perf_counter_ns()
            try:
                if proposal is not None:
                    self._commit(proposal)
                if not final:
                    self._begin_again()
                elif self._tx is not None:
                    self._end_transaction(committed=proposal is not None)
                result = self._tx_id + json.dumps([self.base.path, self._size]).encode()
            except Exception as raised:
                error = raised
            self.counters.commit_ns += time.perf_counter_ns() - begun
        self.team.agree(error)
        if self.team.size > 1:
            self._hear(result, final)
        return self.base.number

    def _finish_writing(self) -> None:
        """Flush, sync, close: on a network file system too, everything is there before the link."""
        self.flush()
        if self._writer is not None:
            if self.options.durable:
                self._writer.sync(self._recover)
            self._writer.close()

    def _recover(self, slot: int) -> None:
        """A segment's sync failed: read it back, verify each frame, write it elsewhere; what does not verify is the error."""
        number = self._slots[slot]
        changes = self.index.changes()
        lost = changes[(changes["record"]["segment"] == number) & (changes["foreign"] == 0)]
        self._reader.close()
        step = max(1, self.options.batch_bytes // self.layout.stripe_bytes)
        for begin in range(0, len(lost), step):
            some = lost[begin : begin + step]
            raw = some["record"]["raw_bytes"].astype(np.int64)
            places = np.concatenate([[0], np.cumsum(raw)[:-1]]).astype(np.int64)
            data = np.empty(int(raw.sum()), np.uint8)
            stripes = some["stripe"].copy()
            self._reader.read(
                some["record"].copy(), self.index.segments, stripes, np.zeros(len(some), np.int64), raw, data, places
            )
            assert self._writer is not None
            self._changed(stripes, self._writer.write(stripes, data, places, raw), some["sequence"].copy())

    def _propose(self) -> Proposal | None:
        """Bring the changes of all ranks together on the first; None = nothing changed, or not the first rank."""
        begun = time.perf_counter_ns()
        changes = self.index.changes()
        changes = changes[changes["foreign"] == 0]
        segments = self._writer.segments if self._writer is not None else np.zeros(0, SEGMENT_ENTRY)
        own = np.zeros(len(self.index.segments) + 1, np.uint32)
        own[self._slots] = np.arange(1, len(self._slots) + 1)
        changes["record"]["segment"] = own[changes["record"]["segment"]]
        flags = _TRUNCATED * self._truncated | _CHANGED * (
            self.index.changed or self._size != self.size_at_base or self._truncated
        )
        scope = np.array([(self._size, self.index.cut, flags)], _SCOPE)
        if self._writer is not None:
            self._account(self._writer)
        all_changes, all_segments, all_scopes = (
            self.team.gather(changes),
            self.team.gather(segments),
            self.team.gather(scope),
        )
        if all_changes is None or all_segments is None or all_scopes is None:
            return None
        scopes = np.concatenate(all_scopes)
        first_commit = self._new is not None or (self._replaces and self.base.size > 0) or self._replaces
        if not (scopes["flags"] & _CHANGED).any() and not first_commit:
            return None
        count = 0
        for array, table in zip(all_changes, all_segments, strict=True):
            array["record"]["segment"] += np.uint32(count)
            count += len(table)
        index = Index(Generation(self.file_id, self.layout))  # only to merge the ranks' runs
        merged = np.concatenate(all_changes)
        index.add_run(merged)
        self.counters.index_ns += time.perf_counter_ns() - begun
        return Proposal(
            changes=index.changes(),
            segments=np.concatenate(all_segments),
            size=int(scopes["size"].max()),
            cut=int(scopes["cut"].min()),
            truncated=bool((scopes["flags"] & _TRUNCATED).any()),
            replaces=self._replaces,
            appends_at=self.size_at_base if self.mode == "a" and self._new is None else -1,
        )

    def _account(self, writer: FrameWriter) -> None:
        for field in dataclasses.fields(WriteCounters):
            if field.name == "left":
                self.counters.left.update(writer.counters.left)
            else:
                setattr(self.counters, field.name, getattr(self.counters, field.name) + getattr(writer.counters, field.name))
        paths = {target.id: target.path for target in writer.targets}
        for entry in writer.segments:
            path = paths[bytes(entry["target"])]
            self.counters.target_bytes[path] = self.counters.target_bytes.get(path, 0) + int(entry["length"])
        writer.counters = WriteCounters()

    def _commit(self, proposal: Proposal) -> None:
        """On the first rank: the commit, a new file's name, tidying."""
        tx = self._tx
        if tx is None:
            raise FencedError("this session has no transaction: its last commit failed", path=self.path)
        if self._new is None and not _is_named(tx.directory):
            raise FileNotFoundError(errno.ENOENT, "the file was removed while it was open; nothing was published", self.path)
        generation = commit(
            self.store, tx, self.base, proposal, self.layout, self.options, self.path, self._rewrite
        )
        if self._new is not None:
            try:
                self._new.put_name(sync=self.options.durable)
            except FileExistsError:
                generation.close()
                self._abandon()
                raise
            except FileNotFoundError:
                generation.close()
                self._abandon()
                raise tx.fenced() from None
            self._new = None
        with contextlib.suppress(OSError):
            os.utime(os.path.join(tx.directory, "inode"))
        self._end_transaction(committed=True)
        self.base.close()
        self._replaces = False
        self.base = generation
        try:
            collect(self.store, self.file_id, grace_s=self.options.grace_s)
        except (Error, OSError) as error:
            logger.warning("%s: nothing was collected: %s", self.path, error)

    def _rewrite(self, stripes: Array, data: Array, offsets: Array, raw_bytes: Array) -> tuple[Array, Array]:
        """Write merged stripes, under a stream of their own, synced."""
        self._writers += 1
        writer = self._make_writer(self.team.size * (1 << 16) + self._writers)
        try:
            records = writer.write(stripes, data, offsets, raw_bytes)
            if self.options.durable:
                writer.sync(_cannot_recover)
            return records, writer.segments
        finally:
            writer.close()

    def _end_transaction(self, *, committed: bool) -> None:
        tx, self._tx, self._tx_id = self._tx, None, b""
        if tx is not None:
            if committed:
                tx.unname()
            else:
                tx.discard()

    def _begin_again(self) -> None:
        """After a commit that does not end the session: a new transaction, on what is now the head."""
        if self._tx is not None:  # nothing was published: the old transaction goes on
            self._adopt(self.base)
            return
        inode, seen = read_inode(self.path)
        if inode.file_id != self.file_id:
            raise StaleError("the name leads to another file now; nothing more can be written through this one", path=self.path)
        tx = _register(self.store, inode, self.path, seen, self.team.size)
        try:
            head, highest = _base(self.store, inode, self.path, lambda: True)
            tx.record_base(head.number, highest)
        except BaseException:
            tx.discard()
            raise
        if head.number == self.base.number:
            head.close()
        else:
            self.base.close()
            self.base = head
        self._tx, self._tx_id = tx, tx.id
        self._writer = None
        self._adopt(self.base)

    def _hear(self, result: bytes | None, final: bool) -> None:
        """On every rank: what the first one committed becomes the base."""
        head = self.team.broadcast(self.base.head_bytes() if self.team.rank == 0 else None)
        heard = self.team.broadcast(result)
        tx_bytes = 0 if final else 16
        self._tx_id = heard[:tx_bytes]
        path, _ = json.loads(heard[tx_bytes:])
        self._writer = None
        if self.team.rank != 0:
            self.base.close()
            self._replaces = False
            self.base = Generation.from_head_bytes(self.file_id, self.layout, head, path, self.base.inline if not head else None)
        self._adopt(self.base)

    def _publish_inline(self, final: bool) -> bool:
        """A small new file in one step; False = it is not small, or not the owner's alone."""
        if self._size > self.options.inline_bytes or self._writer is not None:
            return False
        data = np.zeros(self._size, np.uint8)
        self.cache.overlay(0, data)
        inode = Inode(self.file_id, "inline", self.layout, data.tobytes())
        replaced = _id_at(self.path) if self.mode == "w" else None
        if not write_inline(
            self.store, inode, self.path, refuse_existing=self.mode != "w", sync=self.options.durable
        ):
            return False
        if replaced is not None:
            collect_removed(self.store, replaced)
        self.inode, self._unborn = inode, False
        self.base = Generation(self.file_id, self.layout, inline=inode.data)
        self._replaces = False
        if not final:
            self._begin_again()
        return True

    def discard(self) -> None:
        """Collective. Give up what was not published; a new file that was never published leaves nothing behind."""
        error: BaseException | None = None
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as raised:
            logger.info("%s: %s", self.path, raised)
        self._writer = None
        self.cache.clear()
        self.team.agree(None)  # nobody writes any more
        if self.team.rank == 0:
            try:
                self._abandon()
            except Exception as raised:
                error = raised
        self._tx_id = b""
        self.team.agree(error)

    def _abandon(self) -> None:
        tx, new = self._tx, self._new
        self._tx, self._new, self._tx_id = None, None, b""
        if tx is not None:
            tx.discard()
        if new is not None:
            new.unmake()
            collect_removed(self.store, self.file_id)

    def close(self) -> None:
        """Independent. Give descriptors back. What was not published is not published; `discard` it first."""
        self._reader.close()
        self.base.close()
        self.writable = False


# --- opening: what the first rank does --------------------------------------------------------------------------------


def _register(store: Store, inode: Inode, path: str, seen: os.stat_result, ranks: int) -> Transaction:
    """Register a transaction on a file that has a name; then check that ``inode`` is still this inode and is named."""
    tx = Transaction(store, inode.file_id, inode.layout, ranks=ranks)
    if inode.kind == "inline" and not os.path.isdir(tx.directory):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
                raise FileNotFoundError(errno.ENOENT, "the file was replaced while it was opened", path)
            link_opened_inode(store, inode.file_id, path, fd)
        finally:
            os.close(fd)
    try:
        tx.register()
    except FileNotFoundError:
        raise DamageError(f"the file's directory {tx.directory} is missing", path=path) from None
    try:
        kept = os.stat(os.path.join(tx.directory, "inode"))
        if (kept.st_dev, kept.st_ino) != (seen.st_dev, seen.st_ino) or kept.st_nlink < 2:
            raise FileNotFoundError(errno.ENOENT, "the file was removed or replaced while it was opened", path)
    except BaseException:
        tx.discard()
        raise
    return tx


def _base(store: Store, inode: Inode, path: str, still_named: Callable[[], bool]) -> tuple[Generation, int]:
    """The head, and the highest number listed beside it."""
    base = Generation.head(store, inode, path, named=still_named)
    numbers = list_numbers(store.file_directory(inode.file_id))
    highest = max([n for n in numbers if n <= base.number] or [base.number])
    above = [n for n in numbers if n > base.number]
    for number in sorted(above):  # another committed meanwhile: then it is simply first; a number that is none is stepped over
        try:
            if read_header(os.path.join(store.file_directory(inode.file_id), str(number))).number == number:
                break
        except (Error, OSError):
            break
        highest = number
    return base, highest


def _generation(
    store: Store, inode: Inode, path: str, which: int | str | None, still_named: Callable[[], bool]
) -> Generation:
    if which is None:
        return Generation.head(store, inode, path, named=still_named)
    directory = store.file_directory(inode.file_id)
    if which == "durable":
        which = newest_durable(directory, inode.file_id)
    if isinstance(which, str) and not which.isdecimal():
        try:
            return Generation.from_path(inode.file_id, os.path.join(directory, f"{which}.tx"), None)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"the file keeps no transaction {which}", path) from None
    number = int(which)
    if number == 0 and inode.kind == "inline":
        return Generation(inode.file_id, inode.layout, inline=inode.data)
    try:
        return Generation.from_path(inode.file_id, os.path.join(directory, str(number)), number)
    except FileNotFoundError:
        with contextlib.suppress(FileNotFoundError):
            have = ", ".join(map(str, list_numbers(directory))) or "none"
            raise FileNotFoundError(errno.ENOENT, f"the file has no generation {number} (it has {have})", path) from None
        raise


def _refuse_others(tx: Transaction, path: str) -> None:
    for name in os.listdir(tx.directory):
        if name.endswith(".tx") and name != os.path.basename(tx.path):
            other = os.path.join(tx.directory, name)
            try:
                writer = read_header(other).writer
            except (Error, OSError):
                continue
            if is_alive(writer, other):
                raise BlockingIOError(
                    errno.EBUSY, f"process {writer.pid} on {writer.host} has the file open for writing", path
                )


def _is_named(directory: str) -> bool:
    try:
        return os.stat(os.path.join(directory, "inode")).st_nlink > 1
    except FileNotFoundError:
        return False


def _id_at(path: str) -> bytes | None:
    try:
        return read_inode(path)[0].file_id
    except (Error, OSError):
        return None


def _cannot_recover(slot: int) -> None:
    raise DamageError("a merged stripe could not be synced")


def _flat(buffer: Any, *, writable: bool = True) -> Bytes:
    """See any contiguous buffer as bytes, without a copy."""
    view = memoryview(buffer)
    if writable and view.readonly:
        raise ArgumentError("the buffer to read into is read-only")
    if not view.contiguous:
        raise ArgumentError("the buffer is not contiguous: pass np.ascontiguousarray(...) of it")
    if view.nbytes == 0:
        return np.zeros(0, np.uint8)
    return np.frombuffer(view.cast("B") if view.format != "B" or view.ndim != 1 else view, np.uint8)


def _cut_at_stripes(offsets: Array, lengths: Array, places: Array, stripe_bytes: int) -> tuple[Array, Array, Array, Array]:
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


def _segment_keys(segments: Array) -> Array:
    """What tells one segment from another, as bytes (transaction, target, stream, n)."""
    raw = np.ascontiguousarray(segments).view(np.uint8).reshape(len(segments), SEGMENT_ENTRY.itemsize)
    return np.ascontiguousarray(raw[:, :40]).view("S40").reshape(-1)
