"""Exchange through memory that ranks of one host share: same bytes, same errors, and messages where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import scatter, slots
from pinstripe.mpi.channel import Channel
from pinstripe.mpi.report import Report
from pinstripe.testing.samples import sample
from pinstripe.testing.targets import wrap

ROW = 3_001


@pytest.fixture(autouse=True, params=["own pieces copied", "own pieces lent"])
def lent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter, "_LENT", 1 if request.param == "own pieces lent" else 1 << 40)


def content(path: Path) -> np.ndarray:
    with pinstripe.open(path, "rb") as file:
        return np.frombuffer(file.read(), np.uint8)


def dealt(ranks: Any, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a whole, and those that this rank has: every `size`-th."""
    whole = np.random.default_rng(seed).integers(0, 256, (rows * ranks.size, ROW), np.uint8)
    return whole, np.ascontiguousarray(whole[ranks.rank :: ranks.size])


def view(comm: MPI.Intracomm) -> tuple[int, MPI.Datatype, MPI.Datatype]:
    row = MPI.BYTE.Create_contiguous(ROW)
    return comm.rank * ROW, MPI.BYTE, row.Create_resized(0, comm.size * ROW).Commit()


def write(comm: MPI.Intracomm, path: Path, mine: np.ndarray, **hints: str) -> Report:
    info = MPI.Info.Create({f"pinstripe_{name}": value for name, value in hints.items()})
    with pinstripe.mpi.File.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_RDWR, info) as file:
        file.Set_view(*view(comm))
        file.Write_all(mine)
        return file.report()


def read(comm: MPI.Intracomm, path: Path, out: np.ndarray, **hints: str) -> Report:
    info = MPI.Info.Create({f"pinstripe_{name}": value for name, value in hints.items()})
    with pinstripe.mpi.File.Open(comm, path, MPI.MODE_RDONLY, info) as file:
        file.Set_view(*view(comm))
        file.Read_all(out)
        return file.report()


@pytest.mark.parametrize("shared", ["auto", "never"])
@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_interleaved_rows_in_many_rounds(ranks: Any, store: Path, shared: str, codec: str) -> None:
    whole, mine = dealt(ranks, 400)
    report = write(ranks.comm, store / "f", mine, batch_bytes="128K", shared_memory=shared, codec=codec)
    assert np.array_equal(content(store / "f").reshape(whole.shape), whole)
    out = np.zeros_like(mine)
    reading = read(ranks.comm, store / "f", out, batch_bytes="128K", shared_memory=shared, exchange_read="always")
    assert np.array_equal(out, mine)
    if ranks.size > 1:
        assert report.decisions.rounds > 3
        travelled = mine.nbytes * (ranks.size - 1)
        for told in (report, reading):
            assert told.total.put_bytes == (0 if shared == "never" else pytest.approx(travelled, rel=0.1))
            assert told.total.exchange_bytes >= told.total.put_bytes


@pytest.mark.parametrize("call", ["Write_all", "Iwrite_all"])
@pytest.mark.parametrize("kind", ["noise", "text", "zeros"])
def test_pieces_gaps_and_stripes_in_part_come_back(ranks: Any, store: Path, kind: str, call: str) -> None:
    """Noise, so that blocks stay where they are; text and zeros, so that they do not; a gap in each third row."""
    rows, row = 41, 20_011
    whole = np.frombuffer(sample(kind, rows * ranks.size * row, seed=1), np.uint8).reshape(rows, ranks.size, row).copy()
    whole[::3, :, row // 2 :] = 0
    mine = whole[:, ranks.rank]
    datatype = MPI.BYTE.Create_hindexed(
        [row // 2 if number % 3 == 0 else row for number in range(rows)],
        [(number * ranks.size + ranks.rank) * row for number in range(rows)],
    ).Commit()
    packed = np.concatenate([line[: row // 2] if number % 3 == 0 else line for number, line in enumerate(mine)])
    info = MPI.Info.Create({"pinstripe_batch_bytes": "128K", "pinstripe_codec": "auto"})
    with pinstripe.mpi.File.Open(ranks.comm, store / "f", MPI.MODE_CREATE | MPI.MODE_RDWR, info) as file:
        file.Set_view(0, MPI.BYTE, datatype)
        request = getattr(file, call)(packed)
        if request is not None:
            request.Wait()
        out = np.zeros_like(packed)
        file.Read_at_all(0, out)
        assert np.array_equal(out, packed)
    assert np.array_equal(content(store / "f"), whole.reshape(-1))


@pytest.mark.parametrize("failing", [0, -1])
def test_frames_that_a_full_target_does_not_take_go_elsewhere(ranks: Any, store: Path, failing: int) -> None:
    whole, mine = dealt(ranks, 400)
    if ranks.rank == failing % ranks.size:
        wrap(pinstripe.Store.find(store), {0: {"limit_bytes": 150_000}})
    write(ranks.comm, store / "f", mine, batch_bytes="128K", codec="raw")
    assert np.array_equal(content(store / "f").reshape(whole.shape), whole)


@pytest.mark.parametrize("shared", ["auto", "never"])
def test_where_ranks_overlap_the_higher_wins_in_every_round(ranks: Any, store: Path, shared: str) -> None:
    length = 40 * 65536
    want = np.zeros(length + 1, np.uint8)
    all_pieces = []
    for rank in range(ranks.size):
        rng = np.random.default_rng(rank)
        starts = np.sort(rng.choice(length // 512, 300, replace=False)) * 512
        lengths = np.minimum(rng.integers(1, 3_000, 300), np.append(np.diff(starts), 512))
        all_pieces.append((starts, lengths))
        for start, count in zip(starts.tolist(), lengths.tolist(), strict=True):
            want[start : start + count] = rank + 1
    starts, lengths = all_pieces[ranks.rank]
    datatype = MPI.BYTE.Create_hindexed(lengths.tolist(), starts.tolist()).Commit()
    info = MPI.Info.Create({"pinstripe_batch_bytes": "128K", "pinstripe_shared_memory": shared})
    with pinstripe.mpi.File.Open(ranks.comm, store / "f", MPI.MODE_CREATE | MPI.MODE_RDWR, info) as file:
        file.Set_view(0, MPI.BYTE, datatype)
        file.Write_all(np.full(int(lengths.sum()), ranks.rank + 1, np.uint8))
        report = file.report()
    got = content(store / "f")
    assert np.array_equal(got, want[: got.size])
    assert not want[got.size :].any()
    assert (report.decisions.overlaps > 0) == (ranks.size > 1)


def test_overlap_that_is_forbidden_is_the_same_error_on_all(ranks: Any, store: Path) -> None:
    with (
        pytest.raises(pinstripe.ArgumentError, match="both write bytes") if ranks.size > 1 else _nothing(),
        pinstripe.mpi.File.Open(
            ranks.comm,
            store / "f",
            MPI.MODE_CREATE | MPI.MODE_RDWR,
            MPI.Info.Create({"pinstripe_overlap": "error"}),
        ) as file,
    ):
        disp, etype, filetype = view(ranks.comm)
        file.Set_view(disp - ranks.rank, etype, filetype)
        file.Write_all(np.zeros(50 * ROW, np.uint8))


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def test_larger_rounds_make_larger_slots_and_smaller_ones_keep_them(ranks: Any, store: Path) -> None:
    comm = ranks.comm.Dup()
    channel = Channel.of(comm)
    whole, mine = dealt(ranks, 200)
    sizes = []
    for number, batch in enumerate(("128K", "1M", "256K")):
        write(comm, store / f"f{number}", mine, batch_bytes=batch)
        assert np.array_equal(content(store / f"f{number}").reshape(whole.shape), whole)
        sizes.append(channel.slots.nbytes if channel.slots is not None else 0)
    assert sizes == ([256 << 10, 2 << 20, 2 << 20] if ranks.size > 1 else [0, 0, 0])  # two batches
    comm.Free()


def _no_memory(*arguments: Any) -> int:
    raise OSError(1, "Operation not permitted")


@pytest.mark.parametrize("failing", [0, -1])
@pytest.mark.parametrize("what", ["make", "map"])
def test_one_rank_that_cannot_share_lets_all_use_messages(
    ranks: Any, store: Path, monkeypatch: pytest.MonkeyPatch, failing: int, what: str
) -> None:
    comm = ranks.comm.Dup()
    if ranks.rank == failing % ranks.size:
        if what == "make":
            monkeypatch.setattr(os, "memfd_create", _no_memory)
        else:
            monkeypatch.setattr(slots, "_mapped", _no_memory)
    whole, mine = dealt(ranks, 100)
    report = write(comm, store / "f", mine)
    assert np.array_equal(content(store / "f").reshape(whole.shape), whole)
    assert report.total.put_bytes == 0
    assert Channel.of(comm).cannot_share == (ranks.size > 1)
    comm.Free()


def test_memory_of_another_process_is_not_taken_for_a_ranks() -> None:
    fd = os.memfd_create("other")
    os.ftruncate(fd, 8192)
    with pytest.raises(ValueError, match="another file"):
        slots._mapped(np.array([1, os.getpid(), fd, 4711], np.int64), 8192)
    os.close(fd)


def test_steps_on_one_communicator_share_one_memory(ranks: Any, store: Path) -> None:
    comm = ranks.comm.Dup()
    for step in range(5):
        whole, mine = dealt(ranks, 60, seed=step)
        write(comm, store / "f", mine)
        if step == 0:
            first = Channel.of(comm).slots
        assert Channel.of(comm).slots is first
        assert np.array_equal(content(store / "f").reshape(whole.shape), whole)
    comm.Free()
