"""A session: one rank's side of one open file, a draft with a Team.

Serial and collective files are the same thing. `settle`, `publish` and `discard` are collective: they leave on all ranks or raise on all ranks.
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

from ..errors import DamageError, Error, FencedError, OutcomeUnknownError, StaleError
from ..format.inode import Inode
from ..format.manifest import SEGMENT_ENTRY
from ..options import Options
from ..targets.contract import Access, Target
from .collect import collect, collect_removed
from .commit import commit, make_durable
from .cpus import cpus_for_threads
from .draft import Array, Draft
from .fresh import fsync_directory
from .generation import Generation
from .index import CHANGE, TOLD, Index, segment_keys
from .inode_file import read_inode
from .naming import naming
from .newfile import NewFile, write_inode
from .reader import FrameReader
from .rebase import Proposal
from .registering import base_of, register
from .residency import Residency
from .shared_file import SharedFile
from .store import Store
from .stub import promote_quietly
from .team import Team
from .transaction import Transaction
from .writer import FrameWriter, WriteCounters
from .writing import open_writer

__all__ = ["Counters", "Session"]

logger = logging.getLogger("pinstripe")

_SCOPE = np.dtype([("size", "<i8"), ("cut", "<u8"), ("flags", "<u8")])
_TRUNCATED, _CHANGED = 1, 2
_NO_TX = bytes(16)


@dataclasses.dataclass(slots=True)
class Counters(WriteCounters):
    """What a session did on this rank; see `WriteCounters`. Times in nanoseconds."""

    read_ns: int = 0
    read_bytes: int = 0
    index_ns: int = 0
    commit_ns: int = 0
    target_bytes: dict[str, int] = dataclasses.field(default_factory=dict)


class Session(Draft):
    """One rank's side of one open file. Not thread-safe; `pinstripe.store.file` locks.

    Attributes
    ----------
    generation : int
        The generation that is read, 0 before the first commit.
    replaces : bool
        Mode w before its first commit: what is there goes.
    token : str
        Random, the same on all ranks: names the files that they share while it is open.
    """

    def __init__(
        self, store: Store, path: str, inode: Inode, mode: str, team: Team, options: Options, base: Generation
    ) -> None:
        self.store, self.inode, self.mode, self.team = store, inode, mode, team
        self.file_id = inode.file_id
        self.counters = Counters()
        self.access = Access(0o600)
        self.transaction: Transaction | None = None  # on the first rank only
        self.tx_id = b""
        self.token = secrets.token_hex(16)
        self.new_file: NewFile | None = None
        self.unborn = False  # a new file without even an id's directory: it may become inline
        self.replaces = mode == "w"
        self._threads = options.threads or cpus_for_threads(team.size)
        self._writers = 0
        self._residency: Residency | None = None
        self._ended: OSError | None = None  # why there is no transaction after a commit
        super().__init__(
            base,
            base.layout if base.header is not None else inode.layout,
            path,
            options,
            FrameReader(store, self.file_id, path, threads=self._threads),
            rank=team.rank,
            ranks=team.size,
            writable=mode != "r",
        )
        self._first_change = 0
        self._begin_on(base)

    def _begin_on(self, base: Generation) -> None:
        self._adopt(base, replaces=self.replaces)
        self._foreign: dict[bytes, int] = {}  # another rank's segment -> its number in the index

    def be_born(self) -> None:
        """Make the new file's directory, transaction, inode and name-to-be."""
        tx = Transaction(self.store, self.file_id, self.layout, ranks=self.team.size)
        new = NewFile(self.store, self.inode, self.path, self.mode in ("x", "c", "a"))
        try:
            with naming(self.path):
                new.make(tx)
        except BaseException:
            tx.discard()
            new.unmake()
            collect_removed(self.store, self.file_id)
            raise
        self.transaction, self.tx_id, self.new_file, self.access = tx, tx.id, new, new.access
        self.unborn = False

    @property
    def generation(self) -> int:
        """Number of the generation that is read."""
        return self.base.number

    def _frame_writer(self) -> FrameWriter:
        if self._writer is None:
            if self.unborn:
                self.be_born()
            elif not self.tx_id:
                raise self._without_transaction()
            self._writer = self._make_writer(self.team.rank + self._writers * self.team.size)
        return self._writer

    def residency(self) -> Residency:
        """Independent. What of a stub is here; it is opened with the first read."""
        if self._residency is None:
            assert self.base.remote is not None
            self._residency = Residency(
                self.store,
                self.inode,
                self.path,
                self.base.remote,
                self.layout,
                self._seen(),
                options=self.options,
                rank=self.team.rank,
                ranks=self.team.size,
                threads=self._threads,
            )
        return self._residency

    def _seen(self) -> os.stat_result:
        """Attributes of the inode, wherever its name is by now."""
        try:
            return os.stat(os.path.join(self.store.file_directory(self.file_id), "inode"))
        except FileNotFoundError:
            return os.lstat(self.path)

    def _without_transaction(self) -> FencedError:
        return FencedError(
            f"this session has no transaction any more ({self._ended or 'its last commit failed'}): open the file anew",
            path=self.path,
            code=self._ended.errno if self._ended is not None else None,
        )

    def _make_writer(self, stream: int) -> FrameWriter:
        return open_writer(
            self.store,
            self.file_id,
            self.tx_id,
            stream,
            self.layout,
            self.access,
            self.options,
            rank=self.team.rank,
            ranks=self.team.size,
            threads=self._threads,
            make_room=self._make_room,
        )

    def _make_room(self, target: Target) -> bool:
        """A full target: collect what may go of this file, its grace time waived."""
        try:
            return collect(self.store, self.file_id, grace_s=0.0, full=True).segments > 0
        except (Error, OSError) as error:
            logger.warning("nothing could be collected on %s: %s", target.path, error)
            return False

    # --- collective --------------------------------------------------------------------------------------------------

    def spread_inline(self) -> None:
        """Collective. Before any of several ranks writes over an inline file: the first brings its data into the transaction, the others learn
        of it. Each rank for itself would put the old bytes over what another wrote meanwhile. By itself this is no change to publish."""
        if self.team.size == 1 or not self.writable or not self._inline_pending:
            return
        if self.team.rank == 0:
            self._together(self._write_inline)
        else:
            self._inline_pending = False
            self._together(_nothing)
        self._tell_all()
        self.sequence += 1
        self._first_change = self.sequence

    def _write_inline(self) -> None:
        self._load_inline()
        self.flush()

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
        self._tell_all()
        sizes = self.team.allgather(np.array([self._size], np.int64))
        self._size = int(np.concatenate(sizes).max())

    def _tell_all(self) -> None:
        """Tell all ranks the changes that they were not told of."""
        told = self.team.allgather(self._new())
        for rank, array in enumerate(told):
            if rank != self.team.rank:
                self.learn(array)

    def tell(self) -> Array:
        """Independent. Write the partial stripes; return what the others have to `learn` of all changes that they were not told of (`TOLD`)."""
        self.flush()
        return self._new()

    def _new(self) -> Array:
        changes = np.concatenate(self._untold) if self._untold else np.zeros(0, CHANGE)
        self._untold = []
        return self._tell(changes)

    def _settle_held(self) -> None:
        self._together(self._unspill_all)
        held = self.team.allgather(self.cache.numbers())
        wanted = np.unique(np.concatenate(held))
        if not len(wanted):
            return
        mine = self.index.found(wanted)
        told = self.team.allgather(self._tell(mine[mine["foreign"] == 0]))
        for rank, array in enumerate(told):
            if rank != self.team.rank:
                self.learn(array[np.isin(array["change"]["stripe"], self.cache.numbers())])
        for change in self.index.found(self.cache.numbers()):
            stripe, sequence = int(change["stripe"]), int(change["sequence"])
            if change["foreign"] and not self.cache[stripe].drop_until(sequence - 1):
                self.cache.pop(stripe)

    def _tell(self, changes: Array) -> Array:
        out = np.zeros(len(changes), TOLD)
        out["change"] = changes
        if len(changes):
            out["segment"] = self.index.segments[changes["record"]["segment"].astype(np.int64) - 1]
        return out

    def learn(self, told: Array) -> None:
        """Independent. Know what another rank told, over what was known before; this rank will not publish it."""
        if not len(told):
            return
        changes = told["change"].copy()
        keys, first, which = np.unique(segment_keys(told["segment"]), return_index=True, return_inverse=True)
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
        except BaseException as raised:  # an interrupt too: the others wait here
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
        if self.team.size == 1 and self.unborn and self._publish_inline(final):
            return 0
        if self.team.size > 1:
            self._settle_held()
        elif self.unborn:
            self.be_born()
        self._together(self._finish_writing)
        proposal = self._propose()
        result: bytes | None = None
        error: BaseException | None = None
        if self.team.rank == 0:
            begun = time.perf_counter_ns()
            try:
                if proposal is not None:
                    with naming(self.path):
                        self._commit(proposal)
                if not final:
                    self._begin_again()
                elif self.transaction is not None:
                    self._end_transaction(committed=False)
                result = (self.tx_id or _NO_TX) + json.dumps([self.base.path, self._size]).encode()
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
            self.counters.commit_ns += time.perf_counter_ns() - begun
        self.team.agree(error)
        if self.team.size > 1:
            self._hear(result, final)
        return self.base.number

    def _finish_writing(self) -> None:
        """Flush, sync, close: on a network file system too, everything is there before the link."""
        with naming(self.path):
            self.flush()
            again = self._writer is not None
            while again:
                assert self._writer is not None
                if self.options.durable:
                    self._writer.sync(self._recover)
                again = self._writer.close(self._recover)

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
            bool((changes["sequence"] >= self._first_change).any())
            or self._size != self.size_at_base
            or self._truncated
        )
        scope = np.array([(self._size, self.index.cut, flags)], _SCOPE)
        if self._writer is not None:
            _add(self.counters, self._writer)
            self._writer = None  # closed; what it wrote is in the proposal
        all_changes, all_segments, all_scopes = (
            self.team.gather(changes),
            self.team.gather(segments),
            self.team.gather(scope),
        )
        if all_changes is None or all_segments is None or all_scopes is None:
            return None
        scopes = np.concatenate(all_scopes)
        first_commit = self.new_file is not None or self.replaces
        if not (scopes["flags"] & _CHANGED).any() and not first_commit:
            return None
        count = 0
        for array, table in zip(all_changes, all_segments, strict=True):
            array["record"]["segment"] += np.uint32(count)
            count += len(table)
        index = Index(Generation(self.file_id, self.layout))  # only to merge the ranks' runs
        merged = np.concatenate(all_changes)
        index.add_run(merged)
        truncated = bool((scopes["flags"] & _TRUNCATED).any())
        self.counters.index_ns += time.perf_counter_ns() - begun
        return Proposal(
            changes=index.changes(),
            segments=np.concatenate(all_segments),
            size=int(scopes["size"].max()),
            cut=int(scopes["cut"].min()),
            truncated=truncated,
            replaces=self.replaces,
            appends_at=self.size_at_base if self.mode == "a" and self.new_file is None and not truncated else -1,
        )

    def shared_file(self, kind: str) -> SharedFile:
        """Independent. Return the file of this kind that all ranks of this open share; it is made at its first use."""
        return SharedFile(self.store, self.file_id, self.token, kind, beside_transaction=self.mode != "r")

    def totals(self) -> Counters:
        """Independent. What this rank did so far, in this transaction and the ones before."""
        total = dataclasses.replace(
            self.counters, left=dict(self.counters.left), target_bytes=dict(self.counters.target_bytes)
        )
        if self._writer is not None:
            _add(total, self._writer)
        total.read_ns, total.read_bytes = self._reader.counters.read_ns, self._reader.counters.bytes
        return total

    def _commit(self, proposal: Proposal) -> None:
        """On the first rank: the commit, a new file's name, tidying."""
        tx = self.transaction
        if tx is None:
            raise self._without_transaction()
        if self.new_file is None and not _is_named(tx.directory):
            raise FileNotFoundError(
                errno.ENOENT, "the file was removed while it was open; nothing was published", self.path
            )
        generation = commit(self.store, tx, self.base, proposal, self.layout, self.options, self.path, self._rewrite)
        if self.new_file is not None:
            replaced = _id_at(self.path) if self.mode == "w" else None
            try:
                if replaced is not None and not self.options.durable:  # somebody made the name meanwhile
                    make_durable(self.store, self.file_id)
                self.new_file.put_name(sync=self.options.durable or replaced is not None)
            except OSError:
                generation.close()
                self._abandon_quietly()
                raise
            self.new_file = None
            if replaced is not None:
                collect_removed(self.store, replaced)
        elif self.options.durable:
            self._sync_name()
        with contextlib.suppress(OSError):
            os.utime(os.path.join(tx.directory, "inode"))
        self._end_transaction(committed=True)
        self.base.close()
        self.replaces = False
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
        tx, self.transaction, self.tx_id = self.transaction, None, b""
        if tx is None:
            return
        try:
            if committed:
                tx.unname()
            else:
                tx.discard()
                self._collect_if_removed(tx)
        except (Error, OSError) as error:  # what was published is published; a collector does it when this process ends
            logger.warning("%s: the transaction's end was not tidied: %s", self.path, error)

    def _collect_if_removed(self, tx: Transaction) -> None:
        """Who removed the file left to us what our transaction held."""
        if not tx.header.kept and not _is_named(tx.directory):
            collect_removed(self.store, self.file_id)

    def _sync_name(self) -> None:
        """The name may have been made by another writer, that did not sync it."""
        try:
            fsync_directory(os.path.dirname(self.path))
        except FileNotFoundError:
            return  # moved, by a rename that syncs
        except OSError as error:
            raise OutcomeUnknownError(
                f"the commit was linked, but the directory of its name could not be synced ({error.strerror})",
                path=self.path,
            ) from error

    def _begin_again(self) -> None:
        """After a commit that does not end the session: a new transaction, on what is now the head; if none can be had, writing ends here."""
        if self.transaction is not None:  # nothing was published: the old transaction goes on
            self._begin_on(self.base)
            return
        try:
            with naming(self.path):
                self._register_again()
        except OSError as error:  # the commit stands all the same
            self._ended = error
            logger.warning("%s: nothing more can be written through this one: %s", self.path, error)
            self._begin_on(self.base)

    def _register_again(self) -> None:
        inode = self.inode
        try:  # by the id: its name may be another by now
            seen = os.stat(os.path.join(self.store.file_directory(self.file_id), "inode"))
        except FileNotFoundError:  # just made inline
            inode, seen = read_inode(self.path)
            if inode.file_id != self.file_id:
                raise StaleError(
                    "the name leads to another file now; nothing more can be written through this one", path=self.path
                ) from None
        tx = register(self.store, inode, self.path, seen, self.team.size)
        try:
            head, highest = base_of(self.store, inode, self.path, lambda: True)
            tx.record_base(head.number, highest)
        except BaseException:
            tx.discard()
            raise
        if head.number == self.base.number:
            head.close()
        else:
            self.base.close()
            self.base = head
        self.transaction, self.tx_id = tx, tx.id
        self._writer = None
        self._begin_on(self.base)

    def _hear(self, result: bytes | None, final: bool) -> None:
        """On every rank: what the first one committed becomes the base."""
        head = self.team.broadcast(self.base.head_bytes() if self.team.rank == 0 else None)
        heard = self.team.broadcast(result)
        self.tx_id = heard[:16] if heard[:16] != _NO_TX else b""
        path, _ = json.loads(heard[16:])
        self._writer = None
        if self.team.rank != 0:
            self.base.close()
            self.replaces = False
            self.base = Generation.from_head_bytes(
                self.file_id,
                self.layout,
                head,
                path,
                self.base.inline if not head else None,
                self.base.remote if not head else None,
            )
        self._begin_on(self.base)
        if not final:
            self.spread_inline()

    def _publish_inline(self, final: bool) -> bool:
        """A small new file in one step; False = it is not small, or not the owner's alone."""
        if self._size > self.options.inline_bytes or self._writer is not None:
            return False
        data = np.zeros(self._size, np.uint8)
        self.cache.overlay(0, data)
        inode = Inode(self.file_id, "inline", self.layout, data.tobytes())
        replaced = _id_at(self.path) if self.mode == "w" else None
        durable = self.options.durable or replaced is not None  # a replace makes the new file durable first
        with naming(self.path):
            if not write_inode(self.store, inode, self.path, refuse_existing=self.mode != "w", sync=durable):
                return False
        if replaced is not None:
            collect_removed(self.store, replaced)
        self.inode, self.unborn = inode, False
        self.base = Generation(self.file_id, self.layout, inline=inode.data)
        self.replaces = False
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
                self._abandon_quietly()
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
        self.tx_id = b""
        self.team.agree(error)

    def _abandon_quietly(self) -> None:
        try:
            self.abandon()
        except OSError as error:  # a collector does what is left, when this process ends
            logger.warning("%s: what was discarded was not tidied: %s", self.path, error)

    def abandon(self) -> None:
        tx, new = self.transaction, self.new_file
        self.transaction, self.new_file, self.tx_id = None, None, b""
        if tx is not None:
            tx.discard()
        if new is not None:
            new.unmake()
            collect_removed(self.store, self.file_id)
        elif tx is not None:
            self._collect_if_removed(tx)

    def close(self) -> None:
        """Independent. Give descriptors back. What was not published is not published; `discard` it first."""
        self._reader.close()
        self.base.close()
        self.writable = False
        if self._residency is not None:
            residency, self._residency = self._residency, None
            residency.refresh()
            whole = residency.complete and residency.keeps
            residency.close()
            if whole and self.team.rank == 0:
                promote_quietly(self.path, self.options)


# --- opening: what the first rank does --------------------------------------------------------------------------------


def _add(total: Counters, writer: FrameWriter) -> None:
    """Add what a writer did."""
    for field in dataclasses.fields(WriteCounters):
        if field.name == "left":
            total.left.update(writer.counters.left)
        else:
            setattr(total, field.name, getattr(total, field.name) + getattr(writer.counters, field.name))
    paths = {target.id: target.path for target in writer.targets}
    for entry in writer.segments:
        path = paths[bytes(entry["target"])]
        total.target_bytes[path] = total.target_bytes.get(path, 0) + int(entry["length"])


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


def _nothing() -> None:
    pass


def _cannot_recover(slot: int) -> None:
    raise DamageError("a merged stripe could not be synced")
