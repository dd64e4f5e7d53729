"""A small file that lies in its inode, opened for writing by several ranks: nobody's old bytes take the place of another's new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import File

OLD = b"old bytes" * 10
STRIPE = 65_536


@pytest.fixture
def small(ranks: Any, store: Path) -> Path:
    def write() -> None:
        with pinstripe.open(store / "f", "wb") as file:
            file.write(OLD)

    ranks.once(write)
    return store / "f"


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


@pytest.mark.parametrize("amode", [MPI.MODE_RDWR, MPI.MODE_WRONLY])
@pytest.mark.parametrize("second", ["together", "alone", "alone elsewhere"])
def test_what_one_rank_wrote_stays_whatever_another_writes(ranks: Any, small: Path, amode: int, second: str) -> None:
    last = ranks.size - 1
    with File.Open(ranks.comm, small, amode) as file:
        places = {rank: STRIPE * rank + 10 if second == "together" else 10 for rank in range(ranks.size)}
        file.Write_at_all(places[ranks.rank], b"NEW" if second == "together" or ranks.rank == 0 else b"")
        if amode == MPI.MODE_RDWR:
            out = bytearray(20)
            file.Read_at(0, out)
            assert out == OLD[:10] + b"NEW" + OLD[13:20]
        if second != "together" and ranks.rank == last:
            file.Write_at(30 if second == "alone" else 3 * STRIPE, b"LATER")
    want = bytearray(OLD)
    want[10:13] = b"NEW"
    if second == "alone":
        want[30:35] = b"LATER"
    assert content(small)[: len(OLD)] == want


def test_to_open_it_and_write_nothing_publishes_nothing(ranks: Any, small: Path) -> None:
    before = pinstripe.stat(small).st_ino
    with pinstripe.mpi.open(ranks.comm, small, "r+") as file:
        assert file.sync() == 0
        assert file.sync() == 0
        out = bytearray(5)
        file.read_at(0, out)
        assert out == OLD[:5]
    assert file.generation == 0
    assert pinstripe.stat(small).st_ino == before
    with pinstripe.mpi.open(ranks.comm, small, "r+") as file:
        file.write_at_all(len(OLD) + ranks.rank, b"x")
        assert file.sync() == 1
        assert file.sync() == 1
    assert content(small) == OLD + b"x" * ranks.size


def test_it_can_be_cut(ranks: Any, small: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, small, "r+") as file:
        file.resize(7)
        file.resize(12)
    assert content(small) == OLD[:7] + bytes(5)
