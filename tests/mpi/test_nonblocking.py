"""Nonblocking calls: what they write is what the blocking ones write, the writing overlaps, and no error is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.errors import FencedError, ForkedError
from pinstripe.mpi import File, MPIError, RankError, Request
from pinstripe.mpi.backlog import Backlog
from pinstripe.testing.targets import FailingTarget, ObservedTarget, wrap

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR
STRIPE = 65_536


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def backlog_threads() -> int:
    return sum(thread.name == "pinstripe-backlog" for thread in threading.enumerate())


class GatedTarget(ObservedTarget):
    """Lets no write pass before the gate is open."""

    gate: threading.Event

    def called(self, operation: str) -> None:  # type: ignore[override]
        if operation == "write":
            assert self.gate.wait(20)


@pytest.fixture
def gate(store: Path) -> Iterator[threading.Event]:
    """Of all targets, as this rank sees them; closed."""
    opened = threading.Event()

    def gated(inner: Any) -> Any:
        target = GatedTarget(inner)
        target.gate = opened
        return target

    wrap_all(store, gated)
    yield opened
    opened.set()


def wrap_all(store: Path, make: Callable[[Any], Any]) -> None:
    """Put a wrapper around each target, on this rank."""
    wrap(pinstripe.Store.find(store), dict.fromkeys(range(3), make))


# --- what is written ---


@settings(max_examples=25)
@given(data=st.data())
def test_nonblocking_calls_write_and_read_what_mpi_file_does(
    ranks: Any, store: Path, shared_path: Path, data: st.DataObject
) -> None:
    """A list of calls, drawn alike on all ranks; each rank's requests are waited for in a drawn order.

    Those of the oracle at once, for MPI wants no view set while one is pending.
    """
    block = data.draw(st.sampled_from([7, 4096, 40_000]))
    kinds = data.draw(st.lists(st.sampled_from(["at", "at_all", "own", "own_all", "strided"]), min_size=1, max_size=6))
    order = data.draw(st.permutations(range(len(kinds))))

    def run(file: Any, request_class: Any) -> list[Any]:
        told: list[Any] = []
        requests, kept = [], []
        statuses = [MPI.Status() for _ in kinds]
        place = 0
        for number, kind in enumerate(kinds):
            mine = np.random.default_rng(1000 * number + ranks.rank).integers(0, 256, block * 3, np.uint8)
            kept.append(mine)
            offset = place + ranks.rank * mine.size
            file.Set_view(0, MPI.BYTE)
            if kind == "at":
                requests.append(file.Iwrite_at(offset, mine))
            elif kind == "at_all":
                requests.append(file.Iwrite_at_all(offset, mine))
            elif kind == "strided":
                filetype = MPI.BYTE.Create_vector(3, block, block * ranks.size).Commit()
                file.Set_view(place + ranks.rank * block, MPI.BYTE, filetype)
                filetype.Free()
                requests.append(file.Iwrite_all(mine))
            else:
                file.Seek(offset)
                requests.append(file.Iwrite_all(mine) if kind == "own_all" else file.Iwrite(mine))
            if file is not ours:
                requests[number].Wait(statuses[number])
            told.append(file.Get_position())
            place += ranks.size * mine.size
        for number in order if file is ours else ():
            assert requests[number].Wait(statuses[number]) is True
        told.append([status.Get_count(MPI.BYTE) for status in statuses])
        assert all(request == MPI.REQUEST_NULL for request in requests)
        file.Set_view(0, MPI.BYTE)
        file.Sync()
        ranks.comm.Barrier()
        file.Sync()
        for read in (file.Iread_at_all, file.Iread_at):
            out, status = np.zeros(place // ranks.size, np.uint8), MPI.Status()
            read(ranks.rank * out.size, out).Wait(status)
            told.append((out.tobytes(), status.Get_count(MPI.BYTE)))
        file.Seek(ranks.rank)
        first, second = np.zeros(5, np.uint8), np.zeros(5, np.uint8)
        request_class.Waitall([file.Iread(first), file.Iread_all(second)])
        told += [first.tobytes(), second.tobytes(), file.Get_position()]
        return told

    info = MPI.Info.Create({"pinstripe_durability": "none", "pinstripe_batch_bytes": "65536"})
    for path in (store / "f", shared_path / "plain"):
        ranks.once(lambda path=path: path.unlink(missing_ok=True))
    with ranks.agreed():
        ours = File.Open(ranks.comm, store / "f", CREATE, info)
        got = run(ours, Request)
        ours.Close()
    with ranks.agreed():
        theirs = MPI.File.Open(ranks.comm, str(shared_path / "plain"), CREATE)
        want = run(theirs, MPI.Request)
        theirs.Close()
    with ranks.agreed():
        assert got == want
        assert content(store / "f") == (shared_path / "plain").read_bytes()
    info.Free()


def test_the_later_call_wins(ranks: Any, store: Path) -> None:
    size = 3 * STRIPE + 100
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        buffers = [np.full(size, value + ranks.rank * 10, np.uint8) for value in range(4)]
        requests = [
            file.Iwrite_at(ranks.rank * size, buffers[0]),
            file.Iwrite_at_all(ranks.rank * size, buffers[1]),
            file.Iwrite_at_all((ranks.size - 1 - ranks.rank) * size, buffers[2]),
        ]
        file.Write_at_all(ranks.rank * size + 50, buffers[3][: size - 100])
        Request.Waitall(requests)
    got = np.frombuffer(content(store / "f"), np.uint8).reshape(ranks.size, size)
    for rank in range(ranks.size):
        assert (got[rank, 50:-50] == 3 + rank * 10).all()
        assert (got[rank, :50] == 2 + (ranks.size - 1 - rank) * 10).all()
        assert (got[rank, -50:] == 2 + (ranks.size - 1 - rank) * 10).all()


def test_every_other_call_sees_what_was_begun(ranks: Any, store: Path) -> None:
    size = 2 * STRIPE
    mine = np.full(size, ranks.rank + 1, np.uint8)
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        request = file.Iwrite_at_all(ranks.rank * size, mine)
        assert file.Get_size() == size * ranks.size
        out = np.zeros(size, np.uint8)
        file.Read_at(ranks.rank * size, out)
        assert (out == mine).all()
        other = (ranks.rank + 1) % ranks.size
        file.Read_at_all(other * size, out)  # collective: what the others wrote is known now
        assert (out == other + 1).all()
        file.Read_at(other * size, out)
        assert (out == other + 1).all()
        again = file.Iwrite_at_all(ranks.rank * size, mine + 100)
        file.Set_size(size * ranks.size + 5)
        file.Read_at(other * size, out)
        assert (out == other + 101).all()
        assert file.report().total.raw_bytes > 0
        Request.Waitall([request, again])
    assert content(store / "f") == b"".join(bytes([r + 101]) * size for r in range(ranks.size)) + bytes(5)


# --- overlap and memory ---


@pytest.mark.parametrize("pattern", ["contiguous", "interleaved", "alone"])
def test_compressing_and_writing_go_on_behind_the_call(
    ranks: Any, store: Path, gate: threading.Event, pattern: str
) -> None:
    size = 4 * STRIPE
    mine = np.random.default_rng(ranks.rank).integers(0, 256, size, np.uint8)
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        if pattern == "interleaved":
            filetype = MPI.BYTE.Create_vector(size // 1024, 1024, 1024 * ranks.size).Commit()
            file.Set_view(1024 * ranks.rank, MPI.BYTE, filetype)
            filetype.Free()
        begin = {"contiguous": file.Iwrite_at_all, "interleaved": file.Iwrite_at_all, "alone": file.Iwrite_at}[pattern]
        requests = [begin(0 if pattern == "interleaved" else ranks.rank * size, mine) for _ in range(2)]
        assert not requests[1].Test()
        assert not requests[1].Get_status()
        assert not Request.Testall(requests)
        assert Request.Testany(requests[1:]) == (MPI.UNDEFINED, False)
        assert Request.Testsome(requests[1:]) == []
        assert requests[1]
        ranks.comm.Barrier()  # all of this before anything was written, on any rank
        gate.set()
        Request.Waitall(requests)
        assert backlog_threads() == 1
    assert backlog_threads() == 0
    got = np.frombuffer(content(store / "f"), np.uint8)
    if pattern == "interleaved":
        got = got.reshape(-1, ranks.size, 1024).transpose(1, 0, 2)
    assert (got.reshape(ranks.size, size)[ranks.rank] == mine).all()


def test_what_waits_is_bounded(ranks: Any, store: Path, gate: threading.Event) -> None:
    info = MPI.Info.Create({"pinstripe_batch_bytes": "131072"})
    block = 16 * 1024
    size = 64 * block
    all_data = [np.random.default_rng(rank).integers(0, 256, 4 * size, np.uint8) for rank in range(ranks.size)]
    mine = all_data[ranks.rank]
    filetype = MPI.BYTE.Create_contiguous(block).Create_resized(0, block * ranks.size).Commit()
    with File.Open(ranks.comm, store / "f", CREATE, info) as file:
        file.Set_view(block * ranks.rank, MPI.BYTE, filetype)
        backlog = file._shared.backlog  # type: ignore[union-attr]
        most = [0]
        put = backlog.put

        def watched(*args: Any) -> int:
            number = put(*args)
            most[0] = max(most[0], backlog._held)
            return number

        backlog.put = watched  # type: ignore[method-assign]
        opener = threading.Timer(0.3, gate.set)
        opener.start()
        requests = [file.Iwrite_at_all(number * size, mine[number * size : (number + 1) * size]) for number in range(4)]
        Request.Waitall(requests)
        opener.join()
        if ranks.size > 1:
            assert 0 < most[0] <= 4 * 131_072 + 2 * STRIPE
    filetype.Free()
    # What an exchange assembled is right though its buffers were used again before it was written.
    want = np.stack([data.reshape(-1, block) for data in all_data], axis=1)
    assert content(store / "f") == want.tobytes()


def test_a_backlog_keeps_its_bound_and_its_order() -> None:
    backlog, done, gate = Backlog(100), [], threading.Event()
    backlog.put(lambda: gate.wait(10), 60)
    threading.Timer(0.2, gate.set).start()
    began = time.monotonic()
    for number in range(5):
        backlog.put(lambda number=number: done.append(number), 60)  # waits for the gate
    assert time.monotonic() - began > 0.15
    backlog.wait(backlog.last)
    assert done == [0, 1, 2, 3, 4]
    assert backlog.is_done(backlog.last)
    backlog.put(lambda: done.append(5), 1000)  # more than the bound alone is let through
    backlog.finish()
    backlog.finish()
    assert backlog_threads() == 0


def test_what_a_finished_backlog_dropped_is_an_error() -> None:
    for first_is_running in (True, False):
        backlog, gate, began = Backlog(100), threading.Event(), threading.Event()

        def first(gate: threading.Event = gate, began: threading.Event = began) -> None:
            began.set()
            gate.wait(10)

        one = backlog.put(first)
        if first_is_running:
            began.wait(10)
        two = backlog.put(lambda: None)
        threading.Timer(0.1, gate.set).start()
        backlog.finish()
        if first_is_running:
            backlog.wait(one)
        with pytest.raises(FencedError):
            backlog.wait(two)


# --- errors ---


@pytest.mark.parametrize("how", ["Sync", "Close", "Write_at_all", "Iwrite_at_all", "Set_size"])
@pytest.mark.parametrize("begin", ["Iwrite_at_all", "Iwrite_at"])
def test_an_error_behind_the_call_is_raised_by_wait_there_and_by_the_next_call_everywhere(
    ranks: Any, store: Path, begin: str, how: str
) -> None:
    culprit = ranks.size - 1
    if ranks.rank == culprit:
        wrap_all(store, lambda inner: FailingTarget(inner, "write", persistent=True, error=errno.ENOSPC))
    mine = np.random.default_rng(ranks.rank).integers(0, 256, 3 * STRIPE, np.uint8)
    file = File.Open(ranks.comm, store / "f", CREATE)
    request = getattr(file, begin)(ranks.rank * mine.size, mine)
    if ranks.rank == culprit:
        with pytest.raises(OSError, match="rank") as caught:
            request.Wait()
        assert isinstance(caught.value, RankError)
        assert caught.value.Get_error_class() == MPI.ERR_NO_SPACE
        assert caught.value.rank == culprit
    else:
        request.Wait()
    assert request == MPI.REQUEST_NULL
    ranks.comm.Barrier()
    arguments = {"Sync": (), "Close": (), "Set_size": (10,)}.get(how, (0, None))
    with pytest.raises(OSError) as everywhere:
        getattr(file, how)(*arguments)
    assert everywhere.value.rank == culprit
    assert len(set(ranks.comm.allgather(str(everywhere.value)))) == 1
    if how != "Close":
        with pytest.raises(OSError):  # it stays broken
            file.Sync()
        with pytest.raises(OSError):
            file.Close()
    assert not file
    assert backlog_threads() == 0
    assert content(store / "f") == b""


def test_an_error_that_nobody_waited_for_is_raised_by_close(ranks: Any, store: Path) -> None:
    if ranks.rank == 0:
        wrap_all(store, lambda inner: FailingTarget(inner, "write", persistent=True))
    mine = np.random.default_rng(ranks.rank).integers(0, 256, 3 * STRIPE, np.uint8)
    with pytest.raises(OSError) as caught, File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        request = file.Iwrite_at_all(ranks.rank * mine.size, mine)
        freed = file.Iwrite_at_all((ranks.size + ranks.rank) * mine.size, mine)
        freed.Free()
    assert caught.value.rank == 0
    assert not file
    if ranks.rank == 0:
        with pytest.raises(OSError):
            request.Wait()
    else:
        request.Wait()
    assert content(store / "f") == b""


def test_an_error_in_the_call_is_raised_by_it_and_harms_nothing(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for bad in (file.Iwrite_at_all, file.Iread_at_all):
            with pytest.raises(pinstripe.ArgumentError) as caught:
                bad(-1 if ranks.rank == 0 else 0, bytearray(3))
            assert caught.value.rank == 0
        with pytest.raises(pinstripe.ArgumentError):
            file.Iwrite_at(-1, b"x")
        file.Iwrite_at_all(ranks.rank, b"x").Wait()
    assert content(store / "f") == b"x" * ranks.size


def test_close_waits_for_what_was_begun(ranks: Any, store: Path, gate: threading.Event) -> None:
    mine = np.full(3 * STRIPE, ranks.rank, np.uint8)
    file = File.Open(ranks.comm, store / "f", CREATE)
    request = file.Iwrite_at_all(ranks.rank * mine.size, mine)
    assert not request.Test()
    threading.Timer(0.2, gate.set).start()
    file.Close()
    assert request.Test()
    assert request == MPI.REQUEST_NULL
    assert content(store / "f") == b"".join(bytes([r]) * mine.size for r in range(ranks.size))


def test_an_exception_with_requests_pending_publishes_nothing(ranks: Any, store: Path, gate: threading.Event) -> None:
    mine = np.full(3 * STRIPE, ranks.rank, np.uint8)
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(KeyError), File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        requests = [file.Iwrite_at_all(ranks.rank * mine.size, mine) for _ in range(3)]
        if ranks.rank == 0:
            raise KeyError("mine")
        file.Sync()
    assert not file
    assert backlog_threads() == 0
    with contextlib.suppress(FencedError):  # or it was written before
        requests[-1].Wait()
    assert content(store / "f") == b""


def test_an_interrupt_of_wait_leaves_the_request(ranks: Any, store: Path, gate: threading.Event) -> None:
    mine = np.full(2 * STRIPE, ranks.rank, np.uint8)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with File.Open(ranks.comm, store / "f", CREATE) as file:
        request = file.Iwrite_at_all(ranks.rank * mine.size, mine)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(KeyboardInterrupt):
                request.Wait()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert request
        gate.set()
        request.Wait()
    assert content(store / "f") == b"".join(bytes([r]) * mine.size for r in range(ranks.size))


def test_an_interrupt_while_a_call_waits_for_the_backlog_reaches_all(
    ranks: Any, store: Path, gate: threading.Event
) -> None:
    mine = np.full(2 * STRIPE, ranks.rank, np.uint8)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt if ranks.rank == 0 else RuntimeError),
        File.Open(ranks.comm, store / "f", CREATE) as file,
    ):
        request = file.Iwrite_at_all(ranks.rank * mine.size, mine)
        if ranks.rank == 0:
            before = signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        else:
            gate.set()
        try:
            file.Sync()
        finally:
            gate.set()
            if ranks.rank == 0:
                signal.signal(signal.SIGALRM, before)
    assert not file
    with contextlib.suppress(RankError):
        request.Wait()
    assert content(store / "f") == b""


def test_a_forked_child_is_refused(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        request = file.Iwrite_at_all(ranks.rank, b"x")
        if ranks.rank == 0:
            read, write = os.pipe()
            child = os.fork()
            if not child:
                try:
                    for call in (request.Wait, request.Test, request.Get_status, lambda: file.Iwrite_at(0, b"y")):
                        with pytest.raises(ForkedError):
                            call()
                    os.write(write, b"refused")
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert os.read(read, 100) == b"refused"
            os.close(read)
            os.close(write)
        request.Wait()
    assert content(store / "f") == b"x" * ranks.size


# --- requests ---

NULL_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "Wait": lambda cls, null: null.Wait(),
    "Test": lambda cls, null: null.Test(),
    "wait": lambda cls, null: null.wait(),
    "test": lambda cls, null: null.test(),
    "Get_status": lambda cls, null: null.Get_status(),
    "Waitany": lambda cls, null: cls.Waitany([null, null]),
    "Testany": lambda cls, null: cls.Testany([null]),
    "Waitsome": lambda cls, null: cls.Waitsome([null]),
    "Testsome": lambda cls, null: cls.Testsome([null]),
    "Testall": lambda cls, null: cls.Testall([null]),
    "Waitall": lambda cls, null: cls.Waitall([]),
    "waitany": lambda cls, null: cls.waitany([null]),
    "testany": lambda cls, null: cls.testany([null]),
    "waitsome": lambda cls, null: cls.waitsome([null]),
    "testsome": lambda cls, null: cls.testsome([null]),
    "testall": lambda cls, null: cls.testall([null]),
    "waitall": lambda cls, null: cls.waitall([null, null]),
}


@pytest.mark.parametrize("call", NULL_CALLS)
def test_null_requests_are_as_mpi4pys(call: str) -> None:
    assert NULL_CALLS[call](Request, Request()) == NULL_CALLS[call](MPI.Request, MPI.Request())


def test_requests_are_as_mpi4pys(ranks: Any, store: Path, gate: threading.Event) -> None:
    null = Request()
    assert null == MPI.REQUEST_NULL == null
    assert not null
    assert Request(MPI.REQUEST_NULL) == null  # type: ignore[arg-type]
    with pytest.raises(MPI.Exception) as caught:
        null.Free()
    assert caught.value.Get_error_class() == MPI.ERR_REQUEST
    null.free()
    mine = np.ones(2 * STRIPE, np.uint8)
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        request = file.Iwrite_at_all(ranks.rank * mine.size, mine)
        assert request
        assert request != MPI.REQUEST_NULL
        assert request != null
        assert request == request
        for cancel in (request.Cancel, request.cancel):
            with pytest.raises(MPIError) as refused:
                cancel()
            assert refused.value.Get_error_class() == MPI.ERR_UNSUPPORTED_OPERATION
        with pytest.raises(ValueError, match="pickle"):
            request.__reduce__()
        with pytest.raises(MPIError, match="handle"):
            request.py2f()
        with pytest.raises(TypeError):
            MPI.Request.Waitall([request])  # not silently taken for something that is over
        gate.set()
        status = MPI.Status()
        foreign = ranks.comm.Ibarrier()
        assert Request.waitall([request, foreign, MPI.REQUEST_NULL, null]) == [None] * 4
        assert foreign == MPI.REQUEST_NULL
        requests = [file.Iwrite_at(ranks.rank * mine.size + k, mine[: k + 1]) for k in range(4)]
        index = Request.Waitany(requests, status)
        assert status.Get_count(MPI.BYTE) == index + 1
        assert [bool(request) for request in requests] == [k != index for k in range(4)]
        statuses: list[MPI.Status] = []
        while (some := Request.Waitsome(requests, statuses)) is not None:
            assert [one.Get_count(MPI.BYTE) for one in statuses[: len(some)]] == [k + 1 for k in some]
        last = file.Iwrite_at(ranks.rank * mine.size, mine[:9])
        while not Request.Get_status_all([last]):
            time.sleep(0.001)
        assert last  # still active
        assert Request.Get_status_any([null, last], status) == (1, True)
        assert Request.Get_status_some([null, last]) == [1]
        assert Request.testsome([null, last]) == ([1], [None])
        assert Request.Get_status_any([last]) == (MPI.UNDEFINED, True)
        assert last.test() == (True, None)
