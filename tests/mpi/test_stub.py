"""A stub read by several ranks: whatever the pattern, each stripe is fetched once, and all ranks get the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe import StaleError
from pinstripe.mpi import File
from pinstripe.store import residency
from pinstripe.store.state import state_of
from pinstripe.store.stub import make_stub
from pinstripe.testing.bucket import Bucket

STRIPE = 65_536
DATA = np.frombuffer(random.Random(1).randbytes(37 * STRIPE + 777), np.uint8)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    made.put("key", DATA.tobytes())
    monkeypatch.setattr(residency, "open_source", made.open_source)
    return made


@pytest.fixture
def stub(ranks: Any, store: Path, bucket: Bucket) -> Iterator[Path]:
    ranks.once(lambda: make_stub(store / "f", bucket.put("key", DATA.tobytes())))
    return store / "f"


def fetched(ranks: Any, bucket: Bucket) -> int:
    return int(ranks.comm.allreduce(bucket.fetched_bytes))


@pytest.mark.parametrize("pattern", ["contiguous", "interleaved", "everybody everything"])
def test_each_stripe_is_fetched_once(ranks: Any, stub: Path, bucket: Bucket, pattern: str) -> None:
    rank, size = ranks.rank, ranks.size
    with File.Open(ranks.comm, stub, MPI.MODE_RDONLY) as file:
        if pattern == "contiguous":
            begin, end = len(DATA) * rank // size, len(DATA) * (rank + 1) // size
            out, want = np.zeros(end - begin, np.uint8), DATA[begin:end]
            file.Read_at_all(begin, out)
        elif pattern == "interleaved":
            piece = 1000
            kind = MPI.BYTE.Create_vector(1, piece, piece * size).Create_resized(0, piece * size)
            kind.Commit()
            file.Set_view(rank * piece, MPI.BYTE, kind)
            count = len(DATA) // (piece * size)
            out = np.zeros(count * piece, np.uint8)
            file.Read_all(out)
            want = DATA[: count * piece * size].reshape(count, size, piece)[:, rank].reshape(-1)
            kind.Free()
        else:
            out, want = np.zeros(len(DATA), np.uint8), DATA
            file.Read_at_all(0, out)
        assert np.array_equal(out, want)
        again = fetched(ranks, bucket)
        assert again <= len(DATA)
        file.Set_view(0, MPI.BYTE, MPI.BYTE)
        some = np.zeros(3 * STRIPE, np.uint8)
        file.Read_at(STRIPE, some)
        assert np.array_equal(some, DATA[STRIPE : 4 * STRIPE])
        assert fetched(ranks, bucket) == again
    ranks.comm.Barrier()


def test_ranks_that_read_on_their_own_share_what_is_here(ranks: Any, stub: Path, bucket: Bucket) -> None:
    with pinstripe.mpi.open(ranks.comm, stub, "r") as file:
        out = np.zeros(len(DATA), np.uint8)
        file.read_at(0, out)
        assert np.array_equal(out, DATA)
        assert fetched(ranks, bucket) == len(DATA)
    ranks.comm.Barrier()
    if ranks.rank == 0:
        assert state_of(stub).archived
        assert not state_of(stub).released


def test_writing_into_a_stub_restores_it_first(ranks: Any, stub: Path, bucket: Bucket) -> None:
    with File.Open(ranks.comm, stub, MPI.MODE_RDWR) as file:
        file.Write_at_all(STRIPE * ranks.rank, b"new")
    want = DATA.copy()
    for rank in range(ranks.size):
        want[STRIPE * rank : STRIPE * rank + 3] = np.frombuffer(b"new", np.uint8)
    with pinstripe.open(stub, "rb") as file:
        assert file.read() == want.tobytes()
    assert fetched(ranks, bucket) == len(DATA)


def test_an_object_that_changed_is_the_same_error_on_every_rank(ranks: Any, stub: Path, bucket: Bucket) -> None:
    if ranks.rank == ranks.size - 1:
        bucket.put("key", DATA[::-1].tobytes())
    with File.Open(ranks.comm, stub, MPI.MODE_RDONLY) as file:
        out = np.zeros(len(DATA) // ranks.size, np.uint8)
        with pytest.raises(StaleError, match=f"rank {ranks.size - 1}"):
            file.Read_at_all(ranks.rank * len(out), out)
    ranks.comm.Barrier()
