"""Split collective calls: both halves together do what the whole call does, and what does not belong together is refused alike."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import File
from pinstripe.mpi.collective import SplitError
from pinstripe.testing.targets import FailingTarget, wrap

CREATE = MPI.MODE_CREATE | MPI.MODE_RDWR
FAMILIES = ["at_all", "all", "ordered"]
BLOCK = 50_000


def content(path: Path) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def begin(file: Any, direction: str, family: str, offset: int, buf: Any) -> None:
    method = getattr(file, f"{direction}_{family}_begin")
    method(*((offset, buf) if family == "at_all" else (buf,)))


def end(file: Any, direction: str, family: str, buf: Any, status: MPI.Status | None = None) -> None:
    getattr(file, f"{direction}_{family}_end")(buf, status)


@pytest.mark.parametrize("family", FAMILIES)
def test_split_calls_do_what_mpi_file_does(ranks: Any, store: Path, shared_path: Path, family: str) -> None:
    def run(file: Any) -> list[Any]:
        told: list[Any] = []
        status = MPI.Status()
        filetype = MPI.INT.Create_vector(2, 100, 100 * ranks.size).Create_resized(0, 800 * ranks.size).Commit()
        file.Set_view(0, MPI.INT)
        file.Seek(ranks.rank * BLOCK)
        for number in range(2):
            mine = np.random.default_rng(10 * number + ranks.rank).integers(0, 99, BLOCK, np.int32)
            begin(file, "Write", family, (number * ranks.size + ranks.rank) * BLOCK, mine)
            told.append(file.Get_position())
            end(file, "Write", family, mine, status)
            told.append((file.Get_position(), status.Get_count(MPI.INT)))
            if family == "all" and not number:
                file.Set_view(4 * BLOCK * ranks.size + 400 * ranks.rank, MPI.INT, filetype)
            elif not number:
                file.Set_view(4 if family == "at_all" else 4 * BLOCK * ranks.size, MPI.INT)
        filetype.Free()
        file.Sync()
        ranks.comm.Barrier()
        file.Sync()
        file.Seek(5)
        if family == "ordered":
            file.Seek_shared(7)
        out = np.zeros(BLOCK // 2, np.int32)
        begin(file, "Read", family, 3 + ranks.rank, out)
        end(file, "Read", family, out, status)
        told += [out.tobytes(), status.Get_count(MPI.INT), file.Get_position()]
        ranks.comm.Barrier()
        told.append(file.Get_position_shared() if family == "ordered" else 0)
        ranks.comm.Barrier()
        return told

    with ranks.agreed():
        ours = File.Open(ranks.comm, store / "f", CREATE)
        got = run(ours)
        ours.Close()
    with ranks.agreed():
        theirs = MPI.File.Open(ranks.comm, str(shared_path / "plain"), CREATE)
        want = run(theirs)
        theirs.Close()
    with ranks.agreed():
        assert got == want
        assert content(store / "f") == (shared_path / "plain").read_bytes()


def refused(ranks: Any, call: Callable[[], object], text: str) -> None:
    """A call raises the same error on all ranks."""
    with pytest.raises(SplitError, match=text) as caught:
        call()
    assert caught.value.Get_error_class() == MPI.ERR_OTHER
    assert len(set(ranks.comm.allgather(str(caught.value)))) == 1


@pytest.mark.parametrize("direction", ["Read", "Write"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_belong_together_is_refused_and_harms_nothing(
    ranks: Any, store: Path, direction: str, family: str
) -> None:
    mine, other = bytearray(b"xyz"), bytearray(b"xyz")
    name, place = f"{direction}_{family}", 3 * ranks.rank
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Write_at_all(place, b"xyz")
        file.Seek(place)
        refused(ranks, lambda: end(file, direction, family, mine), f"{name}_end: no {name}_begin")
        begin(file, direction, family, place, mine)
        pending = f"{name}_begin was called, and {name}_end must come first"
        for again in FAMILIES:
            refused(ranks, lambda again=again: begin(file, "Write", again, 0, other), pending)
            refused(ranks, lambda again=again: begin(file, "Read", again, 0, other), pending)
        for call in (
            lambda: file.Write_at_all(0, other),
            lambda: file.Read_all(other),
            lambda: file.Iwrite_all(other),
            lambda: file.Write_ordered(other),
            lambda: file.Seek_shared(3),
            lambda: file.Set_view(0, MPI.INT),
            lambda: file.Set_size(2),
            lambda: file.Preallocate(2000),
            lambda: file.Set_info(MPI.INFO_NULL),
            lambda: file.Set_atomicity(False),
            file.Sync,
            file.Close,
        ):
            refused(ranks, call, pending)
        for wrong in FAMILIES:
            for towards in ("Read", "Write"):
                if (towards, wrong) != (direction, family):
                    refused(ranks, lambda towards=towards, wrong=wrong: end(file, towards, wrong, mine), pending)
        refused(ranks, lambda: end(file, direction, family, other), "another buffer")
        refused(ranks, lambda: end(file, direction, family, mine if ranks.rank else other), "another buffer")
        file.Write_at(place, b"xyz")  # what is not collective goes on
        file.Read_at(place, other)
        end(file, direction, family, mine)
        refused(ranks, lambda: end(file, direction, family, mine), "no .* was called")
        begin(file, direction, family, place, mine)
        end(file, direction, family, mine)
    assert content(store / "f")[: 3 * ranks.size] == b"xyz" * ranks.size


def test_leaving_with_one_pending_is_an_error_and_publishes_nothing(ranks: Any, store: Path) -> None:
    mine = bytearray(3)
    with pytest.raises(SplitError), File.Open(ranks.comm, store / "f", CREATE) as file:
        file.Write_at_all_begin(3 * ranks.rank, mine)
    assert not file
    assert content(store / "f") == b""
    with pytest.raises(KeyError), File.Open(ranks.comm, store / "f", CREATE) as file:  # noqa: PT012
        file.Write_at_all_begin(3 * ranks.rank, mine)
        raise KeyError("mine")
    assert not file
    assert content(store / "f") == b""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_failing_write_is_the_same_error_on_all_at_its_end(ranks: Any, store: Path, family: str) -> None:
    culprit = ranks.size - 1
    if ranks.rank == culprit:
        rules = dict.fromkeys(
            range(3), lambda inner: FailingTarget(inner, "write", persistent=True, error=errno.ENOSPC)
        )
        wrap(pinstripe.Store.find(store), rules)
    mine = np.random.default_rng(ranks.rank).integers(0, 256, 200_000, np.uint8)
    file = File.Open(ranks.comm, store / "f", CREATE)
    file.Seek(mine.size * ranks.rank)
    begin(file, "Write", family, mine.size * ranks.rank, mine)
    with pytest.raises(OSError) as caught:
        end(file, "Write", family, mine)
    assert caught.value.Get_error_class() == MPI.ERR_NO_SPACE
    assert caught.value.rank == culprit
    assert len(set(ranks.comm.allgather(str(caught.value)))) == 1
    with pytest.raises(OSError):
        file.Close()
    assert not file
    assert content(store / "f") == b""


def test_an_argument_that_cannot_be_begins_nothing(ranks: Any, store: Path) -> None:
    with File.Open(ranks.comm, store / "f", CREATE) as file:
        for call in (file.Write_at_all_begin, file.Read_at_all_begin):
            with pytest.raises(pinstripe.ArgumentError) as caught:
                call(-1 if ranks.rank == 0 else 0, bytearray(3))
            assert caught.value.rank == 0
        file.Write_at_all(ranks.rank, b"x")
    assert content(store / "f") == b"x" * ranks.size
