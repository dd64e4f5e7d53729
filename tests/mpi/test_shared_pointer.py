"""The shared pointer: one position for all ranks; mpi4py's on a plain file is the oracle for places, bytes and positions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.errors import ArgumentError, UnsupportedError
from pinstripe.mpi import File, MPIError
from pinstripe.store import shared_file
from pinstripe.store.collect import collect_store

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def leftovers(store: Path) -> list[str]:
    """Names of files that ranks shared and that are still there."""
    return [name for _, _, names in os.walk(store) for name in names if shared_file.is_shared_file(name)]


def ordered_steps(file: Any, ranks: Any) -> list[Any]:
    """Ordered calls, seeks and views; what each rank was told."""
    told: list[Any] = []
    status = MPI.Status()
    mine = np.full(3 + ranks.rank, ranks.rank + 1, np.int32)

    def note() -> None:
        ranks.comm.Barrier()  # the oracle's Get_position_shared races with the next call otherwise
        told.append(file.Get_position_shared())
        ranks.comm.Barrier()

    file.Set_size(0)
    file.Write_ordered(mine, status)
    told.append(status.Get_count(MPI.INT))
    note()
    file.Sync()
    ranks.comm.Barrier()
    file.Sync()
    file.Seek_shared(0, MPI.SEEK_END)
    note()
    file.Seek_shared(-2, MPI.SEEK_END)
    note()
    file.Set_view(8, MPI.INT)
    note()
    file.Seek_shared(5)
    note()
    file.Write_ordered(mine[: ranks.rank])  # nothing on the first rank
    file.Write_ordered(mine if ranks.rank == ranks.size - 1 else mine[:0])
    note()
    file.Seek_shared(-3, MPI.SEEK_CUR)
    note()
    file.Write_ordered(mine + 10)
    file.Sync()
    ranks.comm.Barrier()
    file.Sync()
    file.Seek_shared(1)
    out = np.zeros(4, np.int32)
    file.Read_ordered(out, status)
    told.append((out.tolist(), status.Get_count(MPI.INT)))
    note()
    filetype = MPI.INT.Create_vector(2, 1, 2).Commit()
    file.Set_view(4, MPI.INT, filetype)
    filetype.Free()
    file.Write_ordered(mine[:2] + 20)
    file.Sync()
    ranks.comm.Barrier()
    file.Sync()
    file.Seek_shared(0)
    out = np.zeros(2, np.int32)
    file.Read_ordered(out)
    told.append(out.tolist())
    note()
    return told


def test_ordered_calls_do_what_mpi_file_does(ranks: Any, store: Path, shared_path: Path) -> None:
    ours = File.Open(ranks.comm, store / "f", CREATE)
    got = ordered_steps(ours, ranks)
    ours.Close()
    theirs = MPI.File.Open(ranks.comm, str(shared_path / "plain"), CREATE)
    want = ordered_steps(theirs, ranks)
    theirs.Close()
    with ranks.agreed():
        assert got == want
        assert content(store / "f") == (shared_path / "plain").read_bytes()
        assert leftovers(store) == []


def test_the_end_is_counted_in_the_view(ranks: Any, store: Path) -> None:
    """Open MPI counts it from the file's beginning; MPI counts etypes of the view, as for the individual pointer."""
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_size(1000)
        filetype = MPI.INT.Create_vector(2, 1, 2).Commit()
        file.Set_view(200, MPI.INT, filetype)
        filetype.Free()
        file.Seek_shared(-1, MPI.SEEK_END)
        file.Seek(-1, MPI.SEEK_END)
        assert file.Get_position_shared() == file.Get_position() == 800 // 12 * 2 + 1 - 1
        ranks.comm.Barrier()


def test_every_shared_write_gets_a_place_of_its_own(ranks: Any, store: Path) -> None:
    count, rounds = 100, 25
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_view(16, MPI.INT)
        for number in range(rounds):
            file.Write_shared(np.full(count, ranks.rank * rounds + number, np.int32))
        ranks.comm.Barrier()
        assert file.Get_position_shared() == count * rounds * ranks.size
    rows = np.frombuffer(content(store / "f")[16:], np.int32).reshape(-1, count)
    assert (rows == rows[:, :1]).all()
    assert sorted(rows[:, 0].tolist()) == list(range(rounds * ranks.size))
    for rank in range(ranks.size):  # each rank's own are in its order
        own = [row for row in rows[:, 0].tolist() if row // rounds == rank]
        assert own == sorted(own)


@pytest.mark.parametrize("nbytes", [100, 300_000], ids=["inline", "stripes"])
def test_shared_reads_divide_a_file(ranks: Any, store: Path, nbytes: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)

    def write() -> None:
        with pinstripe.open(store / "f", "wb") as file:
            file.write(data.tobytes())

    ranks.once(write)
    step = nbytes // 10
    with File.Open(ranks.comm, store / "f", MPI.MODE_RDONLY) as file:
        status = MPI.Status()
        got: list[bytes] = []
        out = np.zeros(step, np.uint8)
        while True:
            file.Read_shared(out, status)
            if not status.Get_count(MPI.BYTE):
                break
            got.append(out.tobytes())
        all_got = ranks.comm.allgather(got)
        # Also a call that finds nothing moves the pointer by what it asked for.
        assert file.Get_position_shared() == nbytes + step * ranks.size
        ranks.comm.Barrier()
        if ranks.size > 1:
            assert len(ranks.once(lambda: leftovers(store))) == 1
    assert sorted(b for some in all_got for b in some) == sorted(
        data[k : k + step].tobytes() for k in range(0, nbytes, step)
    )
    assert ranks.once(lambda: leftovers(store)) == []


def test_append_moves_both_pointers(ranks: Any, store: Path) -> None:
    for _ in range(2):
        with File.Open(ranks.comm, store / "f", CREATE | MPI.MODE_APPEND) as file:
            assert file.Get_position() == file.Get_position_shared() == file.Get_size()
            ranks.comm.Barrier()
            file.Write_ordered(bytes([ranks.rank]))
    assert content(store / "f") == bytes(range(ranks.size)) * 2


def test_a_sync_keeps_the_pointer(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for number in range(3):
            file.Write_ordered(bytes([number]) * 10)
            file.Sync()
            assert file.Get_position_shared() == 10 * ranks.size * (number + 1)
            ranks.once(lambda: collect_store(pinstripe.Store.find(store)) and None)  # takes it from nobody who lives
    assert content(store / "f") == b"".join(bytes([number]) * 10 * ranks.size for number in range(3))


def test_the_pointers_of_two_files_are_two(ranks: Any, store: Path) -> None:
    with (
        File.Open(ranks.comm, store / "f", CREATE) as one,
        File.Open(ranks.comm, store / "g", CREATE) as other,
    ):
        one.Write_ordered(b"12")
        other.Write_ordered(b"345")
        assert one.Get_position_shared() == 2 * ranks.size
        assert other.Get_position_shared() == 3 * ranks.size
    half = ranks.comm.Split(ranks.rank % 2)
    with File.Open(half, store / "f", MPI.MODE_RDONLY) as file:  # the same file, opened twice
        file.Read_ordered(bytearray(1))
        assert file.Get_position_shared() == half.size
        half.Barrier()
    half.Free()


def test_leaving_by_an_exception_leaves_no_pointer(ranks: Any, store: Path) -> None:
    with pytest.raises(KeyError), File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        file.Write_shared(b"x")
        raise KeyError("mine")
    ranks.comm.Barrier()
    assert ranks.once(lambda: leftovers(store)) == []
    assert content(store / "f") == b""


def test_arguments_that_cannot_be_move_nothing(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_view(0, MPI.INT)
        file.Seek_shared(7)
        for bad in (
            lambda: file.Write_shared(b"123"),
            lambda: file.Read_shared(b"1234"),
            lambda: file.Write_shared(object()),
        ):
            with pytest.raises((ArgumentError, MPIError)):
                bad()
        for calls in (file.Write_ordered, file.Read_ordered):
            with pytest.raises((ArgumentError, MPIError)) as caught:
                calls(bytearray(3 if ranks.rank == ranks.size - 1 else 4))
            assert len(set(ranks.comm.allgather(str(caught.value)))) == 1
        for arguments in ((-1,), (-8, MPI.SEEK_CUR), (0, 99), (-1, MPI.SEEK_END)):
            with pytest.raises(ArgumentError) as caught:
                file.Seek_shared(*arguments)
            assert len(set(ranks.comm.allgather(str(caught.value)))) == 1
        if ranks.size > 1:
            with pytest.raises(MPIError) as differing:
                file.Seek_shared(ranks.rank)
            assert differing.value.Get_error_class() == MPI.ERR_NOT_SAME
        assert file.Get_position_shared() == 7
        ranks.comm.Barrier()
    with File.Open(ranks.comm, store / "f", MPI.MODE_RDONLY) as file:
        for call in (file.Write_shared, file.Write_ordered):
            with pytest.raises(UnsupportedError, match="reading only"):
                call(b"1234")
        assert file.Get_position_shared() == 0


@pytest.mark.parametrize("what", ["open", "lock"])
def test_a_pointer_that_cannot_be_had_is_a_clear_error(
    ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if ranks.size == 1:
        pytest.skip("one rank has its pointer in memory")

    def refuse(*_: Any, **__: Any) -> Any:
        code = 30 if what == "open" else 38
        raise OSError(code, os.strerror(code))

    with File.Open(ranks.comm, store / "f", CREATE) as file:
        with monkeypatch.context() as patch:
            if what == "open":
                patch.setattr(shared_file.os, "open", refuse)
            else:
                patch.setattr(shared_file.fcntl, "fcntl", refuse)
            with pytest.raises(UnsupportedError, match="writable" if what == "open" else "-o flock") as caught:
                file.Write_ordered(b"x")
            assert len(set(ranks.comm.allgather(str(caught.value)))) == 1
            assert caught.value.Get_error_class() == MPI.ERR_UNSUPPORTED_OPERATION
            with pytest.raises(UnsupportedError, match="explicit offsets"):
                file.Get_position_shared()
        ranks.comm.Barrier()
        file.Write_ordered(b"x")  # nothing was harmed
    assert content(store / "f") == b"x" * ranks.size


def test_who_died_leaves_a_pointer_that_is_collected(ranks: Any, store: Path) -> None:
    def make() -> list[str]:
        opened = pinstripe.Store.find(store)
        with pinstripe.open(store / "f", "wb") as file:
            file.write(bytes(100_000))
        child = os.fork()
        if not child:
            for beside in (True, False):
                with opened_file(opened, beside).locked():
                    pass
            os._exit(0)
        os.waitpid(child, 0)
        for path in map(Path, (opened_file(opened, beside).path for beside in (True, False))):
            path.with_name(path.name.replace("ab", "cd") + ".seen").touch()  # of one that is gone
        there = leftovers(store)
        collect_store(opened)
        return [str(len(there)), *leftovers(store)]

    def opened_file(opened: Any, beside: bool) -> shared_file.SharedFile:
        file_id = pinstripe.store.inode_file.read_inode(str(store / "f"))[0].file_id
        return shared_file.SharedFile(opened, file_id, "ab" * 16, "pointer", beside_transaction=beside)

    assert ranks.once(make) == ["4"]
