"""CollectiveFile: one file opened by all ranks of a communicator. Both faces, `File` and `OpenFile`, stand on it.

Invariants:

1. Every collective call begins with one agreement and, where it did something that can fail, ends with one. An agreed
   error ends the call on every rank.
2. Data that was given and did not reach the store makes the file *broken* on every rank: it is never published.
3. A rank that leaves a ``with`` block by an exception makes every file that any rank was then in *ended*: calls on it
   raise that error at once, on every rank, until it is closed; closing discards.
4. Before a collective write, a change of the size, Sync and Close, what independent calls left in the ranks' caches goes to
   the stripes' owners, in rank order; then comes the call's own data. So the later call wins.
5. The session is used by one thread at a time: by the backlog's until that is drained, which every call does first that needs the
   session. What fails there is raised by the request and, on all ranks, by the next collective call; the file is broken then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from ..errors import ArgumentError, ForkedError, UnsupportedError
from ..kernels import crc64
from ..store.opening import open_session
from ..store.session import Session
from ..store.team import SERIAL
from .agree import Agreement, Flag, Operation, Summaries, agree, announce
from .atomic import AtomicLog, why_not_atomic
from .backlog import Backlog
from .channel import Channel
from .deferred import Deferred
from .exchange import Bytes, Call, Rule
from .extents import Access
from .gather import gather
from .hints import Hints
from .plan import Ownership, Pattern, classify, edges, find_overlap, lies_in, shared_reads
from .rank_error import MPIError, RankError, located
from .scatter import scatter
from .stages import Stages
from .strips import send_strips
from .team import MPITeam

__all__ = ["CollectiveFile", "Prepared", "SplitError"]

Prepared = tuple[Access, Bytes, int]
"""What a write needs: where, the packed bytes, the element width."""

_NO_ACCESS = Access.contiguous(0, 0)
_NO_BYTES = np.zeros(0, np.uint8)
_EXTENTS_AT_ONCE = 1 << 18
_BATCHES_HELD = 4


class SplitError(MPIError):
    """A collective call while a split collective one is under way, or an end that does not belong to its beginning."""

    kind = "split"


class CollectiveFile:
    """One rank's side of a file that all ranks of a communicator opened.

    Attributes
    ----------
    channel : Channel
    session : Session
    hints : Hints
    stages : Stages
    readable, writable : bool
    serial : int
        Number of the file on its channel, the same on all ranks.
    pid : int
        The process that opened it.
    backlog : Backlog
        What nonblocking calls still have to write.
    atomic : bool
        Whether atomic mode is on; the same on all ranks.
    split : str
        Name of the split collective call that was begun and not ended; empty = none. The same on all ranks.
    """

    def __init__(
        self, channel: Channel, session: Session, hints: Hints, serial: int, *, readable: bool, writable: bool
    ) -> None:
        self.channel, self.session, self.hints, self.serial = channel, session, hints, serial
        self.readable, self.writable = readable, writable
        self.stages = Stages()
        self.ownership = Ownership.make(channel.size, hints.options.max_segments)
        self.closed = False
        self.pid = os.getpid()
        self._lock = threading.RLock()  # independent calls may come from several threads
        self._ended: RankError | None = None
        self._broken: RankError | None = None
        self._remembered: BaseException | None = None
        self._wrote_alone = False
        self._unsettled = False  # a nonblocking write was not told to the other ranks; the same on all ranks
        self.backlog = Backlog(_BATCHES_HELD * hints.options.batch_bytes)
        self.atomic = False
        self._log: AtomicLog | None = None  # of atomic mode, where other ranks may write
        self.split = ""
        channel.register(serial, self)

    @classmethod
    def open(
        cls,
        comm: MPI.Intracomm,
        path: str | os.PathLike[str],
        mode: str,
        make_hints: Callable[[], Hints],
        *,
        readable: bool,
        writable: bool,
        name_at_open: bool = False,
        exclusive: bool = False,
        generation: int | str | None = None,
    ) -> CollectiveFile:
        """Collective. Open a file on all ranks; the first rank looks and registers. An error on one rank is raised on all.

        Parameters
        ----------
        mode : str
            A session's: r, r+, w, x, a, c.
        make_hints : callable
            Makes the hints; what it raises on one rank is raised on all.
        """
        channel = Channel.of(comm)
        error: BaseException | None = None
        key = 0
        try:
            hints = make_hints()
            name = os.fspath(path)
            key = _key(name, mode, hints, exclusive, generation, readable)
        except BaseException as caught:
            error = caught
        agreement = announce(channel, Operation.open, error=error, same=key)
        if agreement.error is not None:
            _interrupt(error)
            raise agreement.error
        serial = channel.next_serial()
        team = MPITeam(channel)
        team.file = serial
        session: Session | None = None
        try:
            session = open_session(
                name,
                mode,
                team=team,
                options=hints.options,
                name_at_open=name_at_open,
                exclusive=exclusive,
                layout=hints.layout,
                generation=generation,
            )
        except RankError:
            raise
        except BaseException as caught:
            error = caught
        try:
            agree(channel, Operation.finish, serial, error)
        except RankError:
            if session is not None:
                session.team = SERIAL  # the others may have no session to discard
                with contextlib.suppress(Exception):
                    if session.writable:
                        session.discard()
                session.close()
            raise
        assert session is not None
        return cls(channel, session, hints, serial, readable=readable, writable=writable)

    # --- what every call begins and ends with ---

    def check(self) -> None:
        """Independent. Refuse a closed, ended or forked file, with the same error on all ranks but for the fork."""
        if os.getpid() != self.pid:
            raise located(
                ForkedError(f"{self.session.path}: opened by process {self.pid}; open it anew in this one"),
                self.rank,
                self.host,
            )
        if self.closed:
            raise located(MPIError("the file is closed", MPI.ERR_FILE), self.rank, self.host)
        if self._ended is not None:
            raise self._ended

    @property
    def rank(self) -> int:
        """This rank."""
        return self.channel.rank

    @property
    def host(self) -> str:
        """This rank's host."""
        return self.channel.hosts[self.rank]

    @property
    def size(self) -> int:
        """The file's size in bytes, as this rank knows it."""
        self.backlog.drain()
        return self.session.size

    def newest_size(self) -> int:
        """Independent. Return the size as `size`; in atomic mode what other ranks wrote counts. An error is raised here only."""
        self.check()
        try:
            with self._lock, self._reading():
                return self.size
        except Exception as error:
            raise located(error, self.rank, self.host) from error

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """In atomic mode: within, nobody writes, and all that was written is known here."""
        return self._log.reading() if self._log is not None else contextlib.nullcontext()

    def _enter(
        self, operation: Operation, error: BaseException | None = None, flags: Flag = Flag.none, **values: int
    ) -> Summaries:
        """Collective. Begin a call: raise, on all ranks, what is wrong on any. What was deferred is done then, and known to all ranks."""
        error = self._drained(error)
        agreement = self._begin(operation, error, flags, **values)
        if agreement.error is not None:
            _interrupt(error)
            raise agreement.error
        if self._unsettled:
            with self._losing():
                self._settle()
        if self._log is not None:
            self._catch_up(self._log.catch_up)
        return agreement.summaries

    def _catch_up(self, work: Callable[[], object]) -> None:
        """Collective. Do something with the log; to fail at it loses data."""
        failure: BaseException | None = None
        try:
            work()
        except BaseException as caught:
            failure = caught
        self._finish(failure)

    def _drained(self, error: BaseException | None) -> BaseException | None:
        """Wait for the backlog; an interrupt meanwhile is an error of the call that waits."""
        try:
            self.backlog.drain()
        except BaseException as caught:
            return error or caught
        return error

    def _begin(self, operation: Operation, error: BaseException | None, flags: Flag, **values: int) -> Agreement:
        if error is None and self.split and operation is not Operation.split_end:
            error = SplitError(f"{operation.name}: {self.split}_begin was called, and {self.split}_end must come first")
        self._remembered = self._remembered or self.backlog.take_error()
        if self._remembered is not None:
            error, self._remembered = self._remembered, None
            flags |= Flag.lost
        if self._wrote_alone:
            flags |= Flag.leftover
        return self._announce(operation, error, flags, size=self.session.size, **values)

    def _finish(self, error: BaseException | None) -> None:
        """Collective. End a call whose failure means that data is lost."""
        self._agree(Operation.finish, error, Flag.lost if error is not None else Flag.none)

    def _agree(self, operation: Operation, error: BaseException | None, flags: Flag, **values: int) -> Summaries:
        agreement = self._announce(operation, error, flags, **values)
        if agreement.error is not None:
            _interrupt(error)
            raise agreement.error
        return agreement.summaries

    def _announce(self, operation: Operation, error: BaseException | None, flags: Flag, **values: int) -> Agreement:
        began = time.perf_counter_ns()
        agreement = announce(self.channel, operation, self.serial, error, flags, **values)
        self.stages.agree_ns += time.perf_counter_ns() - began
        self.stages.agreements += 1
        if agreement.error is not None:
            if agreement.lost:
                self._broken = self._broken or agreement.error
            if agreement.leaving:
                self._end_all(agreement.summaries, agreement.error)
        return agreement

    def _end_all(self, summaries: Summaries, error: RankError) -> None:
        """Invariant 3: all ranks see the same summaries, so they end the same files."""
        for serial in np.unique(summaries["file"]).tolist():
            file = self.channel.file(serial)
            if file is not None:
                file._ended = file._ended or error

    @contextlib.contextmanager
    def _losing(self) -> Any:
        """An agreed error inside the store or the exchange means that data is lost, on every rank."""
        try:
            yield
        except RankError as error:
            self._broken = self._broken or error
            raise

    def _refuse_write(self) -> None:
        if not self.writable:
            raise UnsupportedError("the file is open for reading only", path=self.session.path)
        if self._broken is not None:
            raise self._broken

    # --- writing ---

    def write_all(self, operation: Operation, prepare: Callable[[], Prepared], *, deferred: bool = False) -> None:
        """Collective. Write what `prepare` gives on each rank; a rank may have nothing. An error on one rank is raised on all.

        Parameters
        ----------
        deferred : bool
            Return after the exchange: what the backlog holds then is written later, and the data stays untouched until that is done.

        Raises
        ------
        RankError
            With ``ArgumentError`` where ranks overlap and the hints forbid it, or where a rank's arguments are wrong: then
            nothing was written, unless the overlap was found only by a stripe's owner. Any other error leaves the file broken.
        """
        self.check()
        access, data, width = _NO_ACCESS, _NO_BYTES, 0
        error: BaseException | None = None
        try:
            self._refuse_write()
            access, data, width = prepare()
            if not access.ordered:
                raise ArgumentError("the extents of a write must be in file order and must not overlap each other")
        except BaseException as caught:
            error = caught
        deferred = deferred and not self.atomic
        begin = self._begin_deferred if deferred else self._enter
        summaries = begin(
            operation,
            error,
            Flag.none,
            lo=access.lo,
            hi=access.hi,
            nbytes=access.nbytes,
            extents=access.extent_count,
            width=width,
        )
        spans = summaries["lo"], summaries["hi"], summaries["nbytes"]
        if self.hints.options.overlap == "error":
            overlap = find_overlap(*spans)
            if overlap is not None:
                raise located(ArgumentError(str(overlap)), overlap.ranks[1], self.channel.hosts[overlap.ranks[1]])
        do: Callable[[Callable[[], object]], object] = self.backlog.put if deferred else _now
        if not summaries["nbytes"].any() and not (summaries["flags"] & Flag.leftover).any():
            do(partial(self._grow, summaries))
            return
        with self._losing():
            self._deliver_leftovers(summaries)
            do(self._count_call)
            failure: BaseException | None = None
            try:
                sink = Deferred(self.backlog, self.session, data) if deferred else self.session
                self._write(Call(self.channel, self._rule(summaries), summaries, access, self.stages), data, sink)
            except RankError:
                raise
            except BaseException as caught:
                failure = caught
            self._finish(failure)
            do(self._count_call)
            do(partial(self._grow, summaries))
            if deferred:
                self._unsettled = self.readable
            else:
                self._settle()

    def _begin_deferred(
        self, operation: Operation, error: BaseException | None, flags: Flag, **values: int
    ) -> Summaries:
        """Collective. As `_enter`, but wait for the backlog only where independent writes must be delivered first."""
        agreement = self._begin(operation, error, flags, **values)
        if agreement.error is not None:
            _interrupt(error)
            raise agreement.error
        if (agreement.summaries["flags"] & Flag.leftover).any():
            failure = self._drained(None)
            self._finish(failure or self.backlog.take_error())
        return agreement.summaries

    def _count_call(self) -> None:
        self.session.sequence += 1

    def _rule(self, summaries: Summaries, overlap: str | None = None) -> Rule:
        widths = np.unique(summaries["width"][summaries["nbytes"] > 0])
        layout, hints = self.session.layout, self.hints
        return Rule(
            layout.stripe_bytes,
            hints.options.batch_bytes,
            layout.block_bytes,
            self.ownership,
            overlap or hints.options.overlap,
            hints.options.exchange_write != "always" and overlap is None,
            int(widths[0]) if widths.size == 1 else 0,
            hints.options.shared_memory != "never",
        )

    def _write(self, call: Call, data: Bytes, session: Session | Deferred) -> None:
        """Write one call's data by its pattern."""
        pattern = classify(*call.spans)
        lo, sb = call.access.lo, call.rule.stripe_bytes
        if pattern is Pattern.empty:
            return
        if self.channel.size == 1 and call.access.single and call.rule.in_place:
            self.stages.contiguous += 1
            session.write(lo, data, call.rule.width)
            self.stages.stripes_in_place += max(0, call.access.hi // sb - -(-lo // sb))
            return
        if pattern is Pattern.contiguous and self.ownership.all_own and call.rule.in_place:
            self.stages.contiguous += 1
            plan = edges(*call.spans, sb, self.ownership, self.rank)
            whole = data[plan.start - lo : plan.stop - lo]
            # What this rank holds of stripes that others write whole is older than that, and must not meet what comes later.
            session.take_partial(lambda stripes: ~lies_in(stripes * sb, plan.whole_starts, plan.whole_stops))

            def write_whole() -> None:
                session.write(plan.start, whole, call.rule.width)
                self.stages.stripes_in_place += whole.size // sb

            send_strips(call, plan, data, session, write_whole)
            return
        self.stages.interleaved += 1
        scatter(call, data, session)

    def _deliver_leftovers(self, summaries: Summaries) -> None:
        """Collective. Invariant 4."""
        if not (summaries["flags"] & Flag.leftover).any():
            return
        # Stripes that a rank wrote whole, alone, take the place of older parts; their owners must know before parts meet.
        self.session.settle(everything=False)
        access, data = _NO_ACCESS, _NO_BYTES
        error: BaseException | None = None
        try:
            if self.channel.size > 1:
                partial = self.session.take_partial(lambda stripes: self.ownership.owner(stripes) == self.rank)
                access, data = Access.of_extents(partial.offsets, partial.lengths), partial.data
        except BaseException as caught:
            error = caught
        self._wrote_alone = False
        self.session.sequence += 1
        flags = Flag.lost if error is not None else Flag.none
        theirs = self._agree(
            Operation.transfer,
            error,
            flags,
            lo=access.lo,
            hi=access.hi,
            nbytes=access.nbytes,
            extents=access.extent_count,
        )
        if not theirs["nbytes"].any():
            self._settle()
            return
        self.stages.leftovers += 1
        failure: BaseException | None = None
        try:
            scatter(Call(self.channel, self._rule(theirs, "higher"), theirs, access, self.stages), data, self.session)
        except RankError:
            raise
        except BaseException as caught:
            failure = caught
        self._finish(failure)
        self._grow(summaries)
        self._settle()

    def _settle(self) -> None:
        """Collective. Where the file can be read, let every rank read what any rank wrote in this call, wherever it lies."""
        self._unsettled = False
        if self.readable or self._log is not None:
            self.session.settle()

    def _grow(self, summaries: Summaries) -> None:
        """Learn how far all ranks together have written."""
        busy = summaries["nbytes"] > 0
        reach = int(summaries["hi"][busy].max(initial=0))
        self.session.size = max(self.session.size, reach, int(summaries["size"].max()))

    def write(self, access: Access, data: Bytes, width: int, *, deferred: bool = False) -> None:
        """Independent. Write on this rank alone. An I/O error is raised here, and on all ranks at the next collective call.

        Parameters
        ----------
        deferred : bool
            Return at once: the backlog writes, and an I/O error comes out of it. The data stays untouched until then.
        """
        self.check()
        try:
            self._refuse_write()
            if not access.ordered:
                raise ArgumentError("the extents of a write must be in file order and must not overlap each other")
        except Exception as error:
            raise located(error, self.rank, self.host) from None
        if not access.nbytes:
            return
        try:
            with self._lock:
                if self._log is not None:
                    self._log.write(partial(self._write_alone, access, data, width))
                    return
                self._wrote_alone = self.channel.size > 1
                if deferred:
                    self.backlog.put(partial(self._write_alone, access, data, width))
                    return
                self.backlog.drain()
                self._write_alone(access, data, width)
        except Exception as error:
            self._remembered = self._remembered or error
            raise located(error, self.rank, self.host) from error

    def _write_alone(self, access: Access, data: Bytes, width: int) -> None:
        if access.single:
            self.session.write(access.lo, data, width)
            return
        for start, stop in _portions(access):
            offsets, lengths = access.slice(start, stop)
            places = start + np.cumsum(lengths) - lengths
            self.session.write_extents(offsets, data, places, lengths, width)

    # --- reading ---

    def read_all(self, operation: Operation, prepare: Callable[[], tuple[Access, Bytes]]) -> int:
        """Collective. Read what `prepare` asks for on each rank; a rank may want nothing. An error on one rank is raised on all.

        Returns
        -------
        int
            Bytes read on this rank; less than asked at the end of the file.
        """
        self.check()
        if self._log is not None:
            self._enter(operation)  # how much can be read is asked below, and must be what all ranks then read
        access, out = _NO_ACCESS, _NO_BYTES
        count = 0
        error: BaseException | None = None
        try:
            self._refuse_read()
            access, out = prepare()
            count = access.readable(self.size)
            access = access.head(count)
        except BaseException as caught:
            error = caught
        summaries = self._enter(
            operation,
            error,
            Flag.none if access.ordered else Flag.unordered,
            lo=access.lo,
            hi=access.hi,
            nbytes=access.nbytes,
            extents=access.extent_count,
            touched=access.touched(self.session.layout.block_bytes),
        )
        failure: BaseException | None = None
        try:
            if self._owners_read(summaries):
                self.stages.shared_reads += 1
                gather(Call(self.channel, self._rule(summaries), summaries, access, self.stages), out, self.session)
            else:
                self.stages.direct_reads += 1
                self._read(access, out)
        except RankError:
            raise
        except BaseException as caught:
            failure = caught
        self._agree(Operation.finish, failure, Flag.none)
        return count

    def _owners_read(self, summaries: Summaries) -> bool:
        """Choose how a collective read is done. What a rank wrote alone only it can read, so then it does."""
        flags = summaries["flags"]
        if self.channel.size == 1 or (flags & (Flag.unordered | Flag.leftover)).any():
            return False
        if self.hints.options.exchange_read != "auto":
            return self.hints.options.exchange_read == "always" and bool(summaries["nbytes"].any())
        return shared_reads(summaries["lo"], summaries["hi"], summaries["nbytes"], summaries["touched"])

    def _refuse_read(self) -> None:
        if not self.readable:
            raise UnsupportedError("the file is open for writing only", path=self.session.path)

    def _read(self, access: Access, out: Bytes) -> None:
        if not access.nbytes:
            return
        if access.single:
            self.session.read_into(access.lo, out[: access.nbytes])
            return
        for start, stop in _portions(access):
            offsets, lengths = access.slice(start, stop)
            self.session.read_pieces(offsets, lengths, out, start + np.cumsum(lengths) - lengths)

    def read(self, access: Access, out: Bytes) -> int:
        """Independent. Read on this rank alone; returns the bytes read. An error is raised here only: nothing is lost by it."""
        self.check()
        try:
            self._refuse_read()
            with self._lock, self._reading():
                count = access.readable(self.size)
                self._read(access.head(count), out)
        except Exception as error:
            raise located(error, self.rank, self.host) from error
        return count

    # --- size, sync, end ---

    def resize(self, operation: Operation, size: int, *, grow_only: bool = False) -> None:
        """Collective. Set the size, the same on all ranks; an error on one rank is raised on all and leaves the file broken."""
        self.check()
        error: BaseException | None = None
        try:
            self._refuse_write()
            if size < 0:
                raise ArgumentError(f"size={size}: must be 0 or more")
        except BaseException as caught:
            error = caught
        summaries = self._enter(operation, error, same=size)
        with self._losing():
            self._deliver_leftovers(summaries)
            self._grow(summaries)
            present = self.session.size
            if size == present or (grow_only and size < present):
                return
            if size < present:
                self.session.settle()  # who rewrites the last stripe must know its newest bytes
            self.session.sequence += 1
            failure: BaseException | None = None
            try:
                self.session.resize(size)
            except BaseException as caught:
                failure = caught
            self._finish(failure)
            self.session.sequence += 1
            if size < present:
                self._settle()

    def agree_on(self, operation: Operation, prepare: Callable[[], Any], **values: int) -> Summaries:
        """Collective. Do something local on every rank; an error on one is raised on all.

        Parameters
        ----------
        values : int
            Fields of the summary that every rank gets of every rank.
        """
        self.check()
        error: BaseException | None = None
        try:
            prepare()
        except BaseException as caught:
            error = caught
        return self._enter(operation, error, Flag.none, **values)

    def first_does(self, work: Callable[[], int]) -> int:
        """Collective. Do something on the first rank, inside a call; return its result on all. An error is raised on all, and loses no data."""
        error: BaseException | None = None
        result = 0
        if self.rank == 0:
            try:
                result = work()
            except BaseException as caught:
                error = caught
        return int(self._agree(Operation.finish, error, Flag.none, lo=result)["lo"][0])

    def set_atomic(self, flag: bool) -> None:
        """Collective. Turn atomic mode on or off, alike on all ranks; an error on one rank is raised on all, and nothing changes."""
        self.check()
        error: BaseException | None = None
        text = (
            why_not_atomic(self.session, self.channel.hosts) if flag and self.channel.size > 1 and self.writable else ""
        )
        if text:
            error = MPIError(text, MPI.ERR_UNSUPPORTED_OPERATION)
        summaries = self._enter(Operation.set_atomicity, error, same=int(flag))
        if flag == self.atomic:
            return
        if self._log is not None:
            self._log.close(remove=True)
            self._log = None
        elif flag and self.channel.size > 1 and self.writable:
            log = AtomicLog(self.session)
            failure: BaseException | None = None
            try:
                log.catch_up()
            except BaseException as caught:
                failure = caught
            self._agree(Operation.finish, failure, Flag.none)
            with self._losing():
                self._deliver_leftovers(summaries)
                self._grow(summaries)
                self.session.settle()
            self._log = log
        self.atomic = flag

    def set_hints(self, change: Callable[[Hints], Hints]) -> None:
        """Collective. Change the hints, alike on all ranks; an error on one rank is raised on all, and none changes."""
        self.check()
        error: BaseException | None = None
        made = self.hints
        try:
            made = change(self.hints)
        except BaseException as caught:
            error = caught
        self._enter(Operation.set_info, error, same=crc64(repr(made).encode()) >> 1)
        self.hints = made

    def sync(self) -> int:
        """Collective. Publish what all ranks wrote as a new generation; nothing changed = the present one.

        An error on one rank is raised on all; nothing is published then, and the file is broken.
        """
        self.check()
        error: BaseException | None = None
        try:
            if self._broken is not None:
                raise self._broken
        except BaseException as caught:
            error = caught
        summaries = self._enter(Operation.sync, error)
        if not self.writable:
            return self.session.generation
        with self._losing():
            self._deliver_leftovers(summaries)
            self._grow(summaries)
            if self._log is not None:
                self._catch_up(partial(self._log.empty, first=self.rank == 0))
            return self.session.publish()

    def close(self) -> None:
        """Collective. Publish and close. An error on one rank is raised on all; then nothing is published, and the file is closed.

        A broken or ended file is discarded, and its error raised again. A closed file stays closed; in a forked child
        nothing happens.
        """
        if self.closed or os.getpid() != self.pid:
            return
        if self._ended is not None:
            error = self._ended
            self.leave(None)
            raise error
        agreement = self._begin(Operation.close, self._drained(self._broken), Flag.none)
        if agreement.error is not None:
            if isinstance(agreement.error, SplitError):  # it can be ended, and closed then
                pass
            elif agreement.leaving:
                self.leave(None)
            elif agreement.matched:
                self._discard()
            raise agreement.error
        summaries = agreement.summaries
        if not self.writable:
            self._end()
            return
        try:
            with self._losing():
                self._deliver_leftovers(summaries)
                self._grow(summaries)
                self.session.publish(final=True)
        except RankError:
            self._discard()
            raise
        self._end()

    def leave(self, error: BaseException | None) -> None:
        """Collective. Discard and close. With an error, every rank that is in another call raises it there.

        Returns when all ranks are here. The error itself is not raised here.
        """
        if self.closed or os.getpid() != self.pid:
            return
        flags = Flag.leaving if error is not None else Flag.none
        while True:
            agreement = announce(self.channel, Operation.discard, self.serial, error, flags)
            if agreement.matched:
                break
            if agreement.error is not None:
                self._end_all(agreement.summaries, agreement.error)
            if (agreement.summaries["operation"] == Operation.discard).all():
                self._end()  # each leaves another file: they cannot be left together
                return
        self._discard()

    def _discard(self) -> None:
        self.backlog.finish()
        try:
            if self.writable:
                self.session.discard()
        finally:
            self._end()

    def _end(self, *, together: bool = True) -> None:
        self.backlog.finish()
        if self._log is not None:
            self._log.close(remove=together)
        self.closed = True
        self.session.close()

    def forget(self) -> None:
        """Independent. Give up an object that is collected unclosed: nothing is published, whatever the others do."""
        if self.closed or os.getpid() != self.pid:
            return
        self.backlog.finish()
        self.session.team = SERIAL
        with contextlib.suppress(Exception):
            if self.writable:
                self.session.discard()
        self._end(together=False)


def _now(call: Callable[[], object]) -> None:
    call()


def _portions(access: Access) -> list[tuple[int, int]]:
    """Cut an access into portions of a bounded number of extents."""
    count = max(1, -(-access.extent_count // _EXTENTS_AT_ONCE))
    step = -(-access.nbytes // count)
    return [(start, min(access.nbytes, start + step)) for start in range(0, access.nbytes, step)]


def _key(name: str, mode: str, hints: Hints, exclusive: bool, generation: int | str | None, readable: bool) -> int:
    text = repr((name, mode, hints, exclusive, generation, readable)).encode()
    return crc64(text) >> 1  # fits a signed integer


def _interrupt(error: BaseException | None) -> None:
    """An interrupt or exit stays itself on the rank where it arose; the others have been told by then."""
    if error is not None and not isinstance(error, Exception):
        raise error
