"""Atomic mode: a write that returned is there for every read that starts later, on any rank, and never in part."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import File, MPIError
from pinstripe.store import shared_file
from pinstripe.testing.targets import FailingTarget, wrap

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR
STRIPE = 65_536
TOKEN = 77


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def in_turn(ranks: Any, rank: int, work: Any) -> None:
    """One rank does something; when it returned, the others are told, by MPI and not by us."""
    if ranks.rank == rank:
        work()
    ranks.comm.Barrier()


def test_it_is_off_and_turned_on_and_off_alike(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        assert file.atomicity is file.Get_atomicity() is False
        file.Set_atomicity(False)
        file.atomicity = True
        assert file.atomicity is True
        file.Set_atomicity(True)
        if ranks.size > 1:
            with pytest.raises(MPIError) as caught:
                file.Set_atomicity(ranks.rank == 0)
            assert caught.value.Get_error_class() == MPI.ERR_NOT_SAME
        assert file.Get_atomicity() is True
        file.Set_atomicity(False)
        assert file.Get_atomicity() is False
    with pytest.raises(MPI.Exception):
        file.Get_atomicity()
    with File.Open(ranks.comm, store / "f", MPI.MODE_RDONLY) as file:
        file.Set_atomicity(True)
        assert file.Get_atomicity() is True


@pytest.mark.parametrize("amode", [MPI.MODE_RDWR, MPI.MODE_WRONLY])
@pytest.mark.parametrize("small", [True, False], ids=["inline", "stripes"])
def test_what_one_rank_wrote_every_rank_reads_and_writes_upon(ranks: Any, store: Path, amode: int, small: bool) -> None:
    size = 500 if small else 3 * STRIPE
    model = np.random.default_rng(0).integers(0, 256, size, np.uint8)

    def make() -> None:
        with pinstripe.open(store / "f", "wb") as file:
            file.write(model.tobytes())

    ranks.once(make)
    draw = np.random.default_rng(1)
    with File.Open(ranks.comm, store / "f", amode) as file:
        file.Write_at(ranks.rank, bytes([ranks.rank]))  # before it is on
        model[: ranks.size] = range(ranks.size)
        file.Set_atomicity(True)
        for turn in range(3 * ranks.size):
            start, length = int(draw.integers(0, model.size)), int(draw.integers(1, size))
            data = draw.integers(0, 256, length, np.uint8)
            grown = np.zeros(max(model.size, start + length), np.uint8)
            grown[: model.size] = model
            grown[start : start + length] = data
            model = grown
            in_turn(ranks, turn % ranks.size, lambda start=start, data=data: file.Write_at(start, data))
            assert file.Get_size() == model.size
            if amode == MPI.MODE_RDWR:
                out = np.zeros(model.size, np.uint8)
                file.Read_at(0, out)
                assert (out == model).all()
            ranks.comm.Barrier()
            if turn == ranks.size:  # a collective write between
                mine = np.full(100, 7, np.uint8)
                file.Write_at_all(100 * ranks.rank, mine)
                model = np.concatenate([model, np.zeros(max(0, 100 * ranks.size - model.size), np.uint8)])
                model[: 100 * ranks.size] = 7
            if turn == ranks.size + 1:
                file.Sync()
            if turn == ranks.size + 2:
                file.Set_size(model.size // 2 + 1)
                model = model[: model.size // 2 + 1]
            if turn == 2 * ranks.size + 1 and amode == MPI.MODE_RDWR:
                out = np.zeros(model.size + 5, np.uint8)
                status = MPI.Status()
                file.Read_at_all(0, out, status)
                assert status.Get_count(MPI.BYTE) == model.size
                assert (out[: model.size] == model).all()
    assert content(store / "f") == model.tobytes()
    assert not any(shared_file.is_shared_file(path.name) for path in store.rglob("*"))


def test_a_read_sees_a_write_whole_or_not(ranks: Any, store: Path) -> None:
    """One rank writes the same bytes over and over, across stripes and with a strided view; the others read until it ends."""
    block = 3 * STRIPE + 1000
    rounds = 12
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Write_at_all(0, np.zeros(3 * block if ranks.rank == 0 else 0, np.uint8))
        filetype = MPI.BYTE.Create_vector(3, 1000, 1500).Create_resized(0, 4500).Commit()
        file.Set_view(0, MPI.BYTE, filetype)
        filetype.Free()
        file.Set_atomicity(True)
        if ranks.rank == 0:
            for number in range(1, rounds + 1):
                file.Write_at(0, np.full(block, number, np.uint8))
                if number % 2:
                    time.sleep(0.01)
        else:
            last = 0
            until = time.monotonic() + 30
            while last < rounds and time.monotonic() < until:
                out = np.zeros(block, np.uint8)
                file.Read_at(0, out)
                assert (out == out[0]).all()
                assert out[0] >= last
                last = int(out[0])
            assert last == rounds
        ranks.comm.Barrier()


def test_no_write_over_a_neighbours_bytes_is_lost(ranks: Any, store: Path) -> None:
    """All ranks write bytes of their own into the same stripes at once: the stripe is read, changed and written under the lock."""
    count = 20
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_atomicity(True)
        for number in range(count):
            file.Write_at(number * 5000 + ranks.rank * 11, bytes([1 + ranks.rank]) * 11)
        request = file.Iwrite_at(count * 5000 + ranks.rank, b"x")
        request.Wait()
    got = content(store / "f")
    for number in range(count):
        for rank in range(ranks.size):
            assert got[number * 5000 + rank * 11 :][:11] == bytes([1 + rank]) * 11
    assert got[count * 5000 :] == b"x" * ranks.size


@pytest.mark.parametrize("end", ["off", "Sync", "Close"])
def test_the_later_atomic_write_is_what_is_published(ranks: Any, store: Path, end: str) -> None:
    """Also where a rank that wrote the same stripes before has not read the log since."""
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Set_atomicity(True)
        for rank in reversed(range(ranks.size)):  # so that the lowest rank is last
            in_turn(ranks, rank, lambda rank=rank: file.Write_at(0, bytes([10 + rank]) * 2 * STRIPE))
        if end == "off":
            file.Set_atomicity(False)
        elif end == "Sync":
            file.Sync()
    assert content(store / "f") == bytes([10]) * 2 * STRIPE


def test_targets_of_one_node_are_refused(ranks: Any, shared_path: Path) -> None:
    if ranks.size == 1:
        pytest.skip("one rank is atomic by itself")
    root = shared_path / "nodes"
    ranks.once(lambda: pinstripe.create(root, [f"{shared_path / 'local'},scope=node"]) and None)
    with File.Open(ranks.comm, root / "f", CREATE) as file:
        with pytest.raises(MPIError, match="scope=node") as caught:
            file.Set_atomicity(True)
        assert caught.value.Get_error_class() == MPI.ERR_UNSUPPORTED_OPERATION
        assert len(set(ranks.comm.allgather(str(caught.value)))) == 1
        assert file.Get_atomicity() is False
        file.Write_at_all(ranks.rank, b"x")
    assert content(root / "f") == b"x" * ranks.size


def test_a_failing_atomic_write_publishes_nothing(ranks: Any, store: Path) -> None:
    culprit = ranks.size - 1
    if ranks.rank == culprit:
        rules = dict.fromkeys(range(3), lambda inner: FailingTarget(inner, "write", persistent=True))
        wrap(pinstripe.Store.find(store), rules)
    with pytest.raises(OSError), File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        file.Set_atomicity(True)
        if ranks.rank == culprit:
            with pytest.raises(OSError):
                file.Write_at(0, bytes(2 * STRIPE) + b"x")
        file.Sync()
    assert content(store / "f") == b""
