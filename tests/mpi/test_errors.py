"""An error on one rank is the same error on all, nothing is published, and nobody waits."""

from __future__ import annotations

import errno
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.errors import ArgumentError, DamageError, TargetError
from pinstripe.mpi import messages
from pinstripe.mpi.rank_error import ForeignError, MPIError, RankError, located
from pinstripe.testing.targets import FailingTarget, wrap


def same_on_all(ranks: Any, error: BaseException) -> None:
    """All ranks have an equal error: class, text, fields."""
    assert isinstance(error, MPI.Exception)
    told = ranks.comm.allgather((type(error).__name__, str(error), error.Get_error_class(), error.rank, error.host))
    assert len(set(told)) == 1, told


def last(ranks: Any) -> int:
    return int(ranks.size - 1)


@pytest.fixture
def spoiled(store: Path) -> Any:
    """Make every target of this rank fail at an operation; undone at the end."""
    opened = pinstripe.Store.find(store)

    def spoil(operation: str, **options: Any) -> None:
        rules = {k: lambda inner: FailingTarget(inner, operation, persistent=True, **options) for k in range(3)}  # type: ignore[arg-type]
        wrap(opened, rules)

    return spoil


def missing_or(path: Path, content: bytes | None) -> bool:
    if content is None:
        return not pinstripe.exists(path)
    with pinstripe.open(path, "rb") as file:
        return bool(file.read() == content)


# --- the classes ---

CASES = [
    (OSError(errno.ENOSPC, "full", "f"), MPI.ERR_NO_SPACE),
    (OSError(errno.EDQUOT, "full"), MPI.ERR_NO_SPACE),
    (FileNotFoundError(errno.ENOENT, "none", "f"), MPI.ERR_NO_SUCH_FILE),
    (FileExistsError(errno.EEXIST, "there"), MPI.ERR_FILE_EXISTS),
    (PermissionError(errno.EPERM, "no"), MPI.ERR_ACCESS),
    (OSError(errno.EROFS, "ro"), MPI.ERR_READ_ONLY),
    (OSError(errno.EIO, "bad"), MPI.ERR_IO),
    (TargetError("full", path="/f", code=errno.ENOSPC, target="/t"), MPI.ERR_NO_SPACE),
    (DamageError("bad", stripe=3, target="/t"), MPI.ERR_IO),
    (ArgumentError("cannot be meant"), MPI.ERR_ARG),
    (MPIError("mode", MPI.ERR_AMODE), MPI.ERR_AMODE),
    (MPI.Exception(MPI.ERR_COMM), MPI.ERR_COMM),
    (MemoryError(), MPI.ERR_NO_MEM),
    (KeyError("k"), MPI.ERR_OTHER),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), MPI.ERR_ARG),
    (ExceptionGroup("several", [ValueError("one")]), MPI.ERR_OTHER),
]


@pytest.mark.parametrize(("error", "mpi_class"), CASES, ids=lambda case: type(case).__name__)
def test_an_error_is_its_own_class_and_mpis_at_once(error: Exception, mpi_class: int) -> None:
    made = located(error, 3, "node3")
    assert isinstance(made, type(error))
    assert isinstance(made, RankError)
    assert isinstance(made, MPI.Exception)
    assert made.Get_error_class() == made.Get_error_code() == made.error_class == int(made) == mpi_class
    assert made == mpi_class
    assert made.Get_error_string() == str(made)
    assert "[rank 3 on node3]" in str(made)
    assert located(made, 1, "elsewhere") is made
    for attribute in ("errno", "strerror", "filename", "target", "stripe", "kind"):
        assert getattr(made, attribute, None) == getattr(error, attribute, None)
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), again.rank, again.host) == (type(made), str(made), 3, "node3")
    assert again.Get_error_class() == mpi_class


def test_what_is_no_error_or_cannot_travel_becomes_its_text() -> None:
    for original in (KeyboardInterrupt(), SystemExit(3)):
        made = located(original, 0, "h")
        assert isinstance(made, ForeignError)
        assert isinstance(made, RuntimeError)
        assert type(original).__name__ in str(made)

    class Unpicklable(ValueError):
        def __reduce__(self) -> Any:
            raise TypeError("no")

    from pinstripe.mpi.rank_error import from_bytes, to_bytes

    read = from_bytes(to_bytes(Unpicklable("text")))
    assert isinstance(read, ForeignError)
    assert "Unpicklable: text" in str(read)
    assert read.mpi_class == MPI.ERR_ARG


# --- agreement ---


def test_opening_what_is_not_there_names_the_file(ranks: Any, store: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        pinstripe.mpi.open(ranks.comm, store / "none")
    same_on_all(ranks, caught.value)
    assert caught.value.errno == errno.ENOENT
    assert str(store / "none") in str(caught.value)


def test_a_path_in_no_store_is_told_alike(ranks: Any, shared_path: Path) -> None:
    with pytest.raises(pinstripe.NoStoreError) as caught:
        pinstripe.mpi.open(ranks.comm, shared_path / "none", "w")
    same_on_all(ranks, caught.value)
    assert caught.value.Get_error_class() == MPI.ERR_NO_SUCH_FILE


def test_arguments_that_must_be_equal_are_compared(ranks: Any, store: Path) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    with pytest.raises(MPIError) as caught:
        pinstripe.mpi.open(ranks.comm, store / f"by{ranks.rank}", "w")
    same_on_all(ranks, caught.value)
    assert "path, mode or hints" in str(caught.value)
    with pytest.raises(MPIError):
        pinstripe.mpi.open(ranks.comm, store / "f", "w", batch_bytes=(1 + ranks.rank) << 20)
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        with pytest.raises(MPIError) as caught:
            file.resize(ranks.rank)
        same_on_all(ranks, caught.value)
        file.resize(7)  # nothing was harmed
    assert missing_or(store / "f", bytes(7))


def test_a_bad_argument_on_one_rank_is_raised_on_all_and_harms_nothing(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        with pytest.raises(ArgumentError) as caught:
            file.write_at_all(-5 if ranks.rank == last(ranks) else 0, b"abc")
        same_on_all(ranks, caught.value)
        assert caught.value.rank == last(ranks)
        with pytest.raises(ArgumentError):
            file.write_at_all(0, object() if ranks.rank == 0 else b"abc")
        file.write_at_all(ranks.rank * 3, b"abc")
    assert missing_or(store / "f", b"abc" * ranks.size)


def test_a_mismatched_call_is_found_out(ranks: Any, store: Path) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        with pytest.raises(MPIError) as caught:
            file.write_at_all(0, None) if ranks.rank == 0 else file.sync()
        same_on_all(ranks, caught.value)
        assert "rank 0 in write_at_all" in str(caught.value)
        assert f"{'rank 1' if ranks.size == 2 else f'ranks 1-{last(ranks)}'} in sync" in str(caught.value)
        file.write_at_all(ranks.rank, b"x")
    assert missing_or(store / "f", b"x" * ranks.size)


def test_ranks_in_the_same_call_on_other_files_are_found_out(ranks: Any, store: Path) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    with pinstripe.mpi.open(ranks.comm, store / "a", "w") as a, pinstripe.mpi.open(ranks.comm, store / "b", "w") as b:
        with pytest.raises(MPIError) as caught:
            (a if ranks.rank == 0 else b).write_at_all(0, None)
        same_on_all(ranks, caught.value)


# --- overlap ---


@pytest.mark.parametrize("pieces", ["contiguous", "interleaved", "whole stripe"])
def test_overlapping_ranks_are_named_with_the_bytes(ranks: Any, store: Path, pieces: str) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    from pinstripe.mpi.agree import Operation
    from pinstripe.mpi.extents import Access

    mine = {
        "contiguous": [(100 * ranks.rank, 101)],
        "interleaved": [(ranks.rank * 100, 50), (10_000 + 100 * ranks.rank, 101)],
    }
    mine["whole stripe"] = [(0, 65_536 * 3)] if ranks.rank == 0 else [(65_536 + ranks.rank, 1), (10**6 + ranks.rank, 1)]
    offsets, lengths = np.array(mine[pieces]).T
    access = Access.of_extents(offsets, lengths)
    with (  # noqa: PT012
        pytest.raises(ArgumentError) as caught,
        pinstripe.mpi.open(ranks.comm, store / "f", "w") as file,
    ):
        data = np.full(access.nbytes, ranks.rank, np.uint8)
        file._shared.write_all(Operation.write_all, lambda: (access, data, 0))
    same_on_all(ranks, caught.value)
    text = {
        "contiguous": "bytes 100 to 101",
        "interleaved": "bytes 10100 to 10101",
        "whole stripe": "bytes 65537 to 65538",
    }
    assert f"ranks 0 and 1 both write {text[pieces]}" in str(caught.value)
    assert not pinstripe.exists(store / "f")


def test_the_higher_rank_wins_where_that_is_asked_for(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w", overlap="higher") as file:
        file.write_at_all(ranks.rank * 50_000, np.full(100_000, ranks.rank + 1, np.uint8))
        report = file.report()
    want = np.zeros(50_000 * (ranks.size + 1), np.uint8)
    for rank in range(ranks.size):
        want[rank * 50_000 : rank * 50_000 + 100_000] = rank + 1
    assert missing_or(store / "f", want.tobytes())
    assert (report.decisions.overlaps > 0) == (ranks.size > 1)


# --- I/O errors ---


@pytest.mark.parametrize("pattern", ["contiguous", "interleaved"])
@pytest.mark.parametrize("operation", ["write", "create_segment"])
def test_a_failing_disk_on_one_rank_ends_the_call_on_all(
    ranks: Any, store: Path, spoiled: Callable[..., None], pattern: str, operation: str
) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        file.write_at_all(ranks.rank * 3, b"old")
    if ranks.rank == last(ranks):
        spoiled(operation, error=errno.ENOSPC)
    block = np.random.default_rng(ranks.rank).integers(0, 255, (300, 5_000), np.uint8)
    with pytest.raises(TargetError) as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:  # noqa: PT012
        if pattern == "contiguous":
            file.write_at_all(ranks.rank * block.nbytes, block)
        else:
            file.write_array_all(block, (300, 5_000 * ranks.size), (0, 5_000 * ranks.rank))
    same_on_all(ranks, caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.Get_error_class() == MPI.ERR_NO_SPACE
    assert caught.value.rank == last(ranks)
    assert caught.value.target
    assert missing_or(store / "f", b"old" * ranks.size)


def test_a_file_that_lost_data_is_never_published(ranks: Any, store: Path, spoiled: Callable[..., None]) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    if ranks.rank == last(ranks):
        spoiled("write")
    with pytest.raises(TargetError) as first:
        file.write_at_all(ranks.rank * 131_072, np.ones(131_072, np.uint8))
    for call in (lambda: file.write_at_all(0, b"x" if ranks.rank == 0 else None), file.sync, file.close):
        with pytest.raises(TargetError) as again:
            call()  # type: ignore[no-untyped-call]
        same_on_all(ranks, again.value)
        assert str(again.value) == str(first.value)
    assert file.closed
    assert not pinstripe.exists(store / "f")
    file.close()


@pytest.mark.parametrize("operation", ["sync", "sync_directory", "close"])
def test_an_error_at_the_sync_is_the_same_everywhere(
    ranks: Any, store: Path, spoiled: Callable[..., None], operation: str
) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    if ranks.rank == last(ranks):
        spoiled(operation)
    file.write_at_all(ranks.rank * 131_072, np.ones(131_072, np.uint8))
    with pytest.raises(OSError, match=f"rank {last(ranks)} on") as caught:
        file.close()
    same_on_all(ranks, caught.value)
    assert file.closed
    assert not pinstripe.exists(store / "f")


def test_an_independent_write_fails_here_and_then_everywhere(
    ranks: Any, store: Path, spoiled: Callable[..., None]
) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    where = last(ranks)
    if ranks.rank == where:
        spoiled("write")
        with pytest.raises(TargetError):
            file.write_at(0, np.ones(200_000, np.uint8))
    ranks.comm.Barrier()
    with pytest.raises(TargetError) as caught:
        file.write_at_all(0, b"x" if ranks.rank == 0 else None)
    same_on_all(ranks, caught.value)
    assert caught.value.rank == where
    with pytest.raises(TargetError):
        file.close()
    assert not pinstripe.exists(store / "f")


@pytest.mark.parametrize("exchange", ["always", "never"])
def test_damage_seen_by_one_rank_is_told_to_all(ranks: Any, store: Path, exchange: str) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w", codec="raw") as file:
        file.write_at_all(0, np.arange(400_000, dtype=np.uint8) if ranks.rank == 0 else None)

    def damage() -> None:
        for segment in store.parent.glob("target*/??/*/*.0.0"):
            data = bytearray(segment.read_bytes())
            if len(data) > 70_000:
                data[-1] ^= 1  # in the last stripe of that segment
                segment.chmod(0o644)
                segment.write_bytes(data)

    ranks.once(damage)
    out = np.zeros(400_000, np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "f", exchange_read=exchange) as file:
        with pytest.raises(DamageError) as caught:
            file.read_at_all(0, out if ranks.rank == 0 or exchange == "always" else None)
        same_on_all(ranks, caught.value)
        assert caught.value.stripe >= 0
        assert file.read_at_all(0, out[:10]) == 10  # the file can still be read


def test_bytes_that_change_between_ranks_are_found(ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    send = messages.isend

    def flip(comm: Any, data: Any, rank: int, tag: int) -> Any:
        if ranks.rank == 0:
            data = data.copy()
            data[-9] ^= 1
            kept.append(data)
        return send(comm, data, rank, tag)

    kept: list[Any] = []
    for module in ("strips", "scatter"):
        monkeypatch.setattr(f"pinstripe.mpi.{module}.isend", flip)
    for pattern in ("strips", "scatter"):
        with pytest.raises(DamageError) as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:  # noqa: PT012
            if pattern == "strips":
                file.write_at_all(ranks.rank * 100_000, np.full(100_000, 1, np.uint8))
            else:
                file.write_array_all(np.ones((90, 1000)), (90, 1000 * ranks.size), (0, 1000 * ranks.rank))
        same_on_all(ranks, caught.value)
        assert "bytes from rank 0 changed" in str(caught.value)
        assert not pinstripe.exists(store / "f")


# --- with ---


def test_an_exception_in_with_on_one_rank_reaches_all(ranks: Any, store: Path) -> None:
    class Mine(RuntimeError):
        pass

    expected = Mine if ranks.rank == last(ranks) else RuntimeError
    with pytest.raises(expected) as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:  # noqa: PT012
        file.write_at_all(ranks.rank * 5, b"12345")
        if ranks.rank == last(ranks):
            raise Mine("of the user")
        file.write_at_all(ranks.rank * 5, b"67890")
    assert "of the user" in str(caught.value)
    if ranks.rank != last(ranks):
        assert caught.value.rank == last(ranks)
        assert isinstance(caught.value, MPI.Exception)
    else:
        assert type(caught.value) is Mine
    assert not pinstripe.exists(store / "f")


def test_an_exception_in_with_meets_ranks_that_are_closing(ranks: Any, store: Path) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    with pytest.raises(KeyError) as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:  # noqa: PT012
        file.write_at_all(ranks.rank * 5, b"12345")
        if ranks.rank == 0:
            raise KeyError("late")
    assert ranks.rank == 0 or caught.value.rank == 0
    assert not pinstripe.exists(store / "f")


def test_the_same_exception_on_all_ranks_stays_itself(ranks: Any, store: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w"):
        1 / 0  # noqa: B018
    assert not isinstance(caught.value, MPI.Exception)
    assert not pinstripe.exists(store / "f")


def test_exceptions_leave_nested_files_and_a_communicator_that_works(ranks: Any, store: Path) -> None:
    for inner_first in (True, False):
        with (  # noqa: PT012
            pytest.raises(ValueError, match="here"),
            pinstripe.mpi.open(ranks.comm, store / "a", "w") as a,
            pinstripe.mpi.open(ranks.comm, store / "b", "w") as b,
        ):
            if ranks.rank == last(ranks):
                raise ValueError("here")
            (b if inner_first else a).write_at_all(0, None)
    assert not pinstripe.exists(store / "a")
    assert not pinstripe.exists(store / "b")
    with pinstripe.mpi.open(ranks.comm, store / "a", "w") as a:
        a.write_at_all(ranks.rank, b"y")
    assert missing_or(store / "a", b"y" * ranks.size)


def test_who_swallows_the_error_of_a_rank_that_left_meets_it_again(ranks: Any, store: Path) -> None:
    if ranks.size == 1:
        pytest.skip("needs two ranks")
    with pytest.raises(ValueError, match="gone") as caught, pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:  # noqa: PT012
        if ranks.rank == 0:
            raise ValueError("gone")
        seen = []
        for call in (lambda: file.write_at_all(0, None), file.sync, lambda: file.read_at(0, None)):
            with pytest.raises(ValueError, match="gone") as again:
                call()  # type: ignore[no-untyped-call]
            seen.append(again.value)
        assert seen[0] is seen[1] is seen[2]  # at once, without asking the others
    assert ranks.rank == 0 or caught.value.rank == 0
    assert not pinstripe.exists(store / "f")


def test_an_interrupt_on_one_rank_stays_an_interrupt_there(ranks: Any, store: Path) -> None:
    def arrive() -> Any:
        if ranks.rank == 0:
            raise KeyboardInterrupt
        return b"x"

    class Interrupting:
        @property
        def __array_interface__(self) -> Any:
            raise KeyboardInterrupt

    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    with pytest.raises(KeyboardInterrupt if ranks.rank == 0 else RuntimeError):
        file._shared.write_all(pinstripe.mpi.collective.Operation.write_all, lambda: arrive())
    with pytest.raises(KeyboardInterrupt if ranks.rank == 0 else RuntimeError), file:  # noqa: PT012
        arrive()
        file.sync()
    assert not pinstripe.exists(store / "f")


def test_a_discarded_file_leaves_nothing(ranks: Any, store: Path) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    file.write_at_all(ranks.rank * 100_000, np.ones(100_000, np.uint8))
    file.discard()
    assert file.closed
    ranks.comm.Barrier()
    assert not list(store.parent.glob("target*/??/*"))
    assert not list((store / ".pinstripe" / "files").glob("??/*"))


def test_a_closed_file_refuses_alike(ranks: Any, store: Path) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    file.close()
    file.close()
    for call in (
        lambda: file.write_at_all(0, b""),
        lambda: file.read_at(0, bytearray(1)),
        lambda: file.size,
        file.sync,
    ):
        with pytest.raises(MPIError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.Get_error_class() == MPI.ERR_FILE


def test_writing_a_file_opened_for_reading_is_refused(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        with pytest.raises(OSError, match="writing only"):
            file.read_at_all(0, bytearray(3))
        with pytest.raises(OSError, match="writing only"):
            file.read_at(0, bytearray(3))
    with pinstripe.mpi.open(ranks.comm, store / "f") as file:
        with pytest.raises(OSError, match="reading only"):
            file.write_at_all(0, b"x")
        with pytest.raises(OSError, match="reading only"):
            file.write_at(0, b"x")
        with pytest.raises(OSError, match="reading only"):
            file.resize(4)
        assert file.sync() == 1 or file.generation == 0


def test_a_file_that_is_forgotten_is_discarded_with_a_warning(ranks: Any, store: Path) -> None:
    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    file.write_at_all(0, b"x" if ranks.rank == 0 else None)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del file
    ranks.comm.Barrier()
    assert not pinstripe.exists(store / "f")
    reading = pinstripe.open(store / "g", "wb")
    reading.discard()
    reading.close()


def test_independent_calls_of_several_threads_do_not_mix(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        base = ranks.rank * 8 * 30_000
        threads = [
            threading.Thread(target=file.write_at, args=(base + k * 30_000, np.full(30_000, k + 1, np.uint8)))
            for k in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert missing_or(store / "f", b"".join(bytes([k + 1]) * 30_000 for k in range(8)) * ranks.size)


def test_an_interrupt_of_the_committing_rank_reaches_the_others(
    ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    file = pinstripe.mpi.open(ranks.comm, store / "f", "w")
    file.write_at_all(ranks.rank * 100_000, np.full(100_000, 1, np.uint8))
    monkeypatch.setattr("pinstripe.store.session.commit", interrupted)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        file.close()
    monkeypatch.undo()
    ranks.comm.Barrier()
    assert not pinstripe.exists(store / "f")
