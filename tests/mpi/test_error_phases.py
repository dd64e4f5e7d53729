"""A failure of each phase of a collective call, on each rank alone: one error for all, nothing published, the file as it was."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
from pinstripe.mpi import File
from pinstripe.store.session import Session
from pinstripe.testing.targets import ObservedTarget, wrap

PIECE = 1_000
SIZE = MPI.COMM_WORLD.size
EACH = 340 * PIECE  # of a rank, more than five stripes: every rank owns some, and the last is not whole
EACH_RANK = pytest.mark.parametrize("where", range(SIZE))
FAILED = r"made to fail|Input/output error"
SHARED_MEMORY = pytest.mark.parametrize("shared_memory", ["auto", "never"])


class Spoiled(ObservedTarget):
    """Fails at an operation as long as it is told to."""

    def __init__(self, inner: Any, operation: str, spoiling: list[bool]) -> None:
        super().__init__(inner)
        self.operation, self.spoiling = operation, spoiling

    def called(self, operation: str) -> None:
        if self.spoiling and operation == self.operation:
            raise OSError(errno.EIO, "made to fail", self.path)


@pytest.fixture
def former(ranks: Any, store: Path) -> bytes:
    """What the first generation of the file holds."""
    data = np.random.default_rng(1).integers(0, 256, EACH * SIZE, np.uint8).tobytes()

    def write() -> None:
        with pinstripe.open(store / "f", "wb") as file:
            file.write(data)

    ranks.once(write)
    return data


@pytest.fixture
def opened(ranks: Any, store: Path, former: bytes, shared_memory: str) -> Iterator[Any]:
    """Open it with interleaved views: each rank has one piece in each period, which has one of each rank if nothing is said."""
    info = MPI.Info.Create({"pinstripe_shared_memory": shared_memory, "pinstripe_batch_bytes": "128K"})
    piece = MPI.BYTE.Create_contiguous(PIECE)

    def make(amode: int = MPI.MODE_RDWR, period: int = SIZE, **hints: str) -> File:
        for key, value in hints.items():
            info.Set(key, value)
        file = File.Open(ranks.comm, store / "f", amode, info)
        tile = piece.Create_resized(0, PIECE * period).Commit()
        file.Set_view(PIECE * ranks.rank, MPI.BYTE, tile)
        tile.Free()
        return file

    yield make
    piece.Free()
    info.Free()


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def fail(*_: Any, **__: Any) -> Any:
    raise MemoryError("made to fail")


def plan(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr("pinstripe.mpi.exchange.route", fail)


def pack(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr("pinstripe.mpi.scatter.copy_extents", fail)


def reply(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr("pinstripe.mpi.gather.copy_extents", fail)


def assemble(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr(Session, "write_stripes", fail)


def cache(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr(Session, "write_extents", fail)


def commit(patch: pytest.MonkeyPatch, store: Path) -> None:
    patch.setattr("pinstripe.store.session.commit", fail)


def on_targets(operation: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def spoil(patch: pytest.MonkeyPatch, store: Path) -> None:
        spoiling: list[bool] = []
        wrap(pinstripe.Store.find(store), {k: lambda inner: Spoiled(inner, operation, spoiling) for k in range(3)})
        # Undone with the other changes: as a change of a list that is not there for MonkeyPatch, by an item of a mapping.
        patch.setitem(_Switch(spoiling), 0, True)

    spoil.__name__ = operation
    return spoil


class _Switch(dict[int, bool]):
    """A mapping whose one item, while it is set, makes a list not empty."""

    def __init__(self, spoiling: list[bool]) -> None:
        super().__init__()
        self.spoiling = spoiling

    def __setitem__(self, key: int, value: bool) -> None:
        super().__setitem__(key, value)
        self.spoiling.append(value)

    def __delitem__(self, key: int) -> None:
        super().__delitem__(key)
        self.spoiling.clear()


def one_error(ranks: Any, error: BaseException, where: int) -> None:
    assert isinstance(error, MPI.Exception)
    told = ranks.comm.allgather((type(error).__name__, str(error), error.Get_error_class()))
    assert len(set(told)) == 1, told
    assert error.rank == where


WRITING = [plan, pack, assemble, cache, *map(on_targets, ("create_segment", "write", "sync")), commit]


@SHARED_MEMORY
@EACH_RANK
@pytest.mark.parametrize("phase", WRITING, ids=lambda phase: phase.__name__)
def test_a_write_that_fails_on_one_rank_leaves_the_former_generation(
    ranks: Any, store: Path, former: bytes, opened: Any, phase: Any, where: int
) -> None:
    if phase is commit and where:
        pytest.skip("only the first rank commits")
    if phase is pack and SIZE == 1:
        pytest.skip("nothing travels")
    mine = np.full(EACH, 7, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        # With one piece in each period that nobody writes, no stripe is whole.
        file = opened(period=SIZE + (phase is cache), pinstripe_exchange_write="always")
        if ranks.rank == where:
            phase(patch, store)
        with pytest.raises((MemoryError, OSError), match=FAILED) as caught:  # noqa: PT012
            file.Write_all(mine)
            file.Close()
        one_error(ranks, caught.value, where)
        if file:
            with pytest.raises((MemoryError, OSError)) as again:
                file.Close()
            assert str(again.value) == str(caught.value)
        assert not file
        ranks.comm.Barrier()
    assert content(store / "f") == former
    with opened() as file:  # the communicator and the store still work
        file.Write_all(mine)
    assert content(store / "f") == bytes([7]) * (EACH * SIZE)


READING = [plan, reply, on_targets("read")]


@SHARED_MEMORY
@EACH_RANK
@pytest.mark.parametrize("exchange", ["always", "never"])
@pytest.mark.parametrize("phase", READING, ids=lambda phase: phase.__name__)
def test_a_read_that_fails_on_one_rank_fails_on_all_and_works_when_repeated(
    ranks: Any,
    store: Path,
    former: bytes,
    opened: Any,
    phase: Any,
    where: int,
    exchange: str,
    shared_memory: str,
) -> None:
    if phase is not READING[-1] and (exchange == "never" or SIZE == 1):
        pytest.skip("nothing travels")
    out = np.zeros(EACH, np.uint8)
    with opened(MPI.MODE_RDONLY, pinstripe_exchange_read=exchange) as file:
        with pytest.MonkeyPatch.context() as patch:
            if ranks.rank == where:
                phase(patch, store)
            with pytest.raises((MemoryError, OSError), match=FAILED) as caught:
                file.Read_all(out)
            one_error(ranks, caught.value, where)
            assert file.Get_position() == 0
        file.Read_all(out)
    want = np.frombuffer(former, np.uint8).reshape(-1, SIZE, PIECE)[:, ranks.rank].reshape(-1)
    assert (out == want).all()


@SHARED_MEMORY
@EACH_RANK
def test_a_wrong_argument_on_one_rank_moves_nothing(
    ranks: Any, store: Path, former: bytes, opened: Any, where: int
) -> None:
    here = ranks.rank == where
    with opened() as file:
        for call, buffer in (
            (file.Write_all, object()),
            (file.Write_all, [np.zeros(3, np.uint8), 4, MPI.BYTE]),
            (file.Read_all, b"constant"),
        ):
            with pytest.raises(pinstripe.ArgumentError) as caught:
                call(buffer if here else np.full(EACH, 7, np.uint8))
            one_error(ranks, caught.value, where)
            assert file.Get_position() == 0
        file.Write_all(np.full(PIECE, 8, np.uint8))
    assert content(store / "f") == bytes([8]) * (PIECE * SIZE) + former[PIECE * SIZE :]
