"""More than 2 GiB in one call, and pieces whose plan would not fit in memory."""

from __future__ import annotations

import mmap
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import messages

GIB = 1 << 30


def zeros(nbytes: int) -> np.ndarray:
    """Memory that reads as zeros and takes none: pages of a file with one hole."""
    fd = os.memfd_create("zeros")
    os.ftruncate(fd, nbytes)
    made = np.frombuffer(mmap.mmap(fd, nbytes, access=mmap.ACCESS_READ), np.uint8)
    os.close(fd)
    return made


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_one_call_takes_more_than_two_gib(ranks: Any, store: Path) -> None:
    """One rank gives 3 GiB, not at a stripe's start; the others little."""
    length = 3 * GIB + 12_345
    mine = zeros(length) if ranks.rank == ranks.size - 1 else np.full(1000, 1, np.uint8)
    at = 100_000 if ranks.rank == ranks.size - 1 else 1000 * ranks.rank
    with pinstripe.mpi.open(
        ranks.comm, store / "big", "w", stripe_bytes="4M", block_bytes="1M", durability="none"
    ) as file:
        file.write_at_all(at, mine)
        file.write_at_all(100_000 + length, b"end" if ranks.rank == 0 else None)
    out = np.full(1000, 5, np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "big") as file:
        assert file.size == 100_000 + length + 3
        assert file.read_at_all(100_000 + length - 997, out) == 1000
        assert bytes(out[-3:]) == b"end"
        assert not out[:-3].any()
        if ranks.rank == 0:
            landing = np.frombuffer(mmap.mmap(-1, length), np.uint8)
            assert file.read_at(100_000, landing) == length
            assert not landing[:: 1 << 16].any()


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.usefixtures("cut_messages")
def test_an_interleaved_call_takes_more_than_two_gib(ranks: Any, store: Path) -> None:
    """Every byte travels; memory stays bounded by rounds, whatever the call."""
    row, width = 1 << 20, 2600
    block = np.lib.stride_tricks.as_strided(zeros(row * width), (width, row), (row, 1))
    block = block[:, : row // ranks.size].copy() if ranks.size > 1 else block
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pinstripe.mpi.open(
        ranks.comm, store / "wide", "w", stripe_bytes="1M", block_bytes="1M", durability="none", exchange_write="always"
    ) as file:
        part = block.shape[1]
        file.write_array_all(block, (width, part * ranks.size), (0, part * ranks.rank))
        report = file.report()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 256 << 20
    assert report.total.raw_bytes == block.nbytes * ranks.size
    assert report.decisions.rounds > 10
    if ranks.size > 1:
        assert report.total.exchange_bytes > 2 * GIB * (ranks.size - 1) // ranks.size


@pytest.fixture
def cut_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 1 << 20)


def test_a_strip_longer_than_a_message_is_cut(ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 999)
    each = 3 * 65536 + 7777
    mine = np.random.default_rng(ranks.rank).integers(0, 255, each, np.uint8)
    with pinstripe.mpi.open(ranks.comm, store / "strips", "w") as file:
        file.write_at_all(ranks.rank * each, mine)
    out = np.zeros_like(mine)
    with pinstripe.mpi.open(ranks.comm, store / "strips", exchange_read="always") as file:
        file.read_at_all(ranks.rank * each, out)
    assert (out == mine).all()


@pytest.mark.slow
def test_a_million_pieces_are_written_and_read(ranks: Any, store: Path) -> None:
    """More pieces than are kept as one plan; numbers of 8 bytes, dealt in turn."""
    count = 1_200_000
    whole = np.arange(count * ranks.size, dtype=np.int64).reshape(count, ranks.size)
    mine = whole[:, ranks.rank : ranks.rank + 1]
    with pinstripe.mpi.open(ranks.comm, store / "dealt", "w", durability="none") as file:
        file.write_array_all(mine, whole.shape, (0, ranks.rank))
    out = np.zeros_like(mine, order="C")
    for exchange in ("auto", "never"):
        out[:] = 0
        with pinstripe.mpi.open(ranks.comm, store / "dealt", exchange_read=exchange) as file:
            file.read_array_all(out, whole.shape, (0, ranks.rank))
        assert (out == mine).all()
    with pinstripe.open(store / "dealt", "rb") as file:
        assert file.read() == whole.tobytes()


def test_far_apart_pieces_cost_their_bytes_and_not_their_distance(ranks: Any, store: Path) -> None:
    """8 bytes in every GiB of 1 TiB: a hole costs nothing, and there are few rounds."""
    from pinstripe.mpi.agree import Operation
    from pinstripe.mpi.extents import Access

    count = 1024
    access = Access.of_extents(np.arange(count) * GIB + 8 * ranks.rank, np.full(count, 8))
    values = np.arange(count, dtype=np.int64) * 10 + ranks.rank
    with pinstripe.mpi.open(ranks.comm, store / "far", "w", durability="none", cache_bytes="1G") as file:
        file._shared.write_all(Operation.write_all, lambda: (access, values.view(np.uint8), 8))
        assert file.report().decisions.rounds < 100
    out = np.zeros_like(values)
    with pinstripe.mpi.open(ranks.comm, store / "far") as file:
        assert file.size == (count - 1) * GIB + 8 * ranks.size
        file._shared.read_all(Operation.read_all, lambda: (access, out.view(np.uint8)))
    assert (out == values).all()
