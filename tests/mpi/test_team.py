"""MPITeam keeps the store's Team contract; the channel behind it is one for each communicator."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.mpi import MPIError, MPITeam, messages
from pinstripe.mpi.agree import SUMMARY, Flag, Operation, agree, announce, rank_list
from pinstripe.mpi.channel import Channel
from pinstripe.store.team import Team


@pytest.fixture
def team(ranks: Any) -> MPITeam:
    return MPITeam(Channel.of(ranks.comm))


@pytest.fixture(params=["whole", "cut"])
def message_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages as they are, and cut into small ones."""
    if request.param == "cut":
        monkeypatch.setattr(messages, "MESSAGE_BYTES", 1000)


RECORD = np.dtype([("a", "<u4"), ("b", "<i8"), ("c", "S3")])


def records(count: int, rank: int) -> np.ndarray:
    made = np.zeros(count, RECORD)
    made["a"], made["b"], made["c"] = rank, np.arange(count), b"xyz"
    return made


@pytest.mark.usefixtures("message_bytes")
def test_arrays_of_any_dtype_and_length_are_gathered(team: MPITeam) -> None:
    sizes = [(rank * 331) % 700 for rank in range(team.size)]
    for root in range(team.size):
        gathered = team.gather(records(sizes[team.rank], team.rank), root)
        assert (gathered is None) == (team.rank != root)
        for rank, array in enumerate(gathered or ()):
            assert array.dtype == RECORD
            assert (array == records(sizes[rank], rank)).all()
    for rank, array in enumerate(team.allgather(records(sizes[team.rank], team.rank))):
        assert (array == records(sizes[rank], rank)).all()


@pytest.mark.usefixtures("message_bytes")
def test_each_rank_gets_what_was_sent_to_it(team: MPITeam) -> None:
    def between(sender: int, receiver: int) -> np.ndarray:
        return np.arange((sender * 7 + receiver * 413) % 900, dtype=np.int64) + 1000 * sender + receiver

    received = team.exchange([between(team.rank, other) for other in range(team.size)])
    for rank, array in enumerate(received):
        assert (array == between(rank, team.rank)).all()


@pytest.mark.usefixtures("message_bytes")
def test_bytes_are_broadcast_from_any_root(team: MPITeam) -> None:
    for root in range(team.size):
        for value in (b"", b"short", b"x" * 1016, b"y" * 1017, b"z" * 12_345):
            assert team.broadcast(value if team.rank == root else None, root) == value


def test_it_is_a_team(team: MPITeam) -> None:
    kept: Team = team
    kept.agree(None)
    team.barrier()
    with pytest.raises(KeyError) as caught:
        kept.agree(KeyError("mine") if team.rank == team.size - 1 else None)
    assert caught.value.rank == team.size - 1


def test_the_lowest_failing_rank_speaks_and_the_others_are_noted(ranks: Any) -> None:
    if ranks.size < 2:
        pytest.skip("needs two ranks")
    channel = Channel.of(ranks.comm)
    with pytest.raises(ValueError, match="of rank 1") as caught:
        agree(channel, Operation.team, error=ValueError(f"of rank {ranks.rank}") if ranks.rank else None)
    assert caught.value.rank == 1
    assert getattr(caught.value, "__notes__", []) == (
        [] if ranks.size == 2 else [f"{rank_list(range(2, ranks.size))} failed as well"]
    )


def test_all_ranks_see_what_all_say(ranks: Any) -> None:
    told = announce(Channel.of(ranks.comm), Operation.report, 7, flags=Flag.leftover, lo=ranks.rank, hi=2 * ranks.rank)
    assert told.error is None
    assert told.matched
    assert told.summaries.dtype == SUMMARY
    assert told.summaries["lo"].tolist() == list(range(ranks.size))
    assert told.summaries["hi"].tolist() == [2 * rank for rank in range(ranks.size)]
    assert (told.summaries["file"] == 7).all()


@pytest.mark.parametrize(
    ("ranks_given", "text"), [([3], "rank 3"), ([0, 1, 2, 5], "ranks 0-2, 5"), ([4, 2], "ranks 2, 4")]
)
def test_ranks_are_written_as_people_do(ranks_given: list[int], text: str) -> None:
    assert rank_list(ranks_given) == text


def test_a_communicator_has_one_channel_for_its_life(ranks: Any) -> None:
    mine = ranks.comm.Dup()
    channel = Channel.of(mine)
    assert Channel.of(mine) is channel
    other = mine.Dup()
    assert Channel.of(other) is not channel
    assert MPI.Comm.Compare(channel.comm, mine) == MPI.CONGRUENT
    assert channel.hosts == [MPI.Get_processor_name()] * ranks.size
    private, gone = channel.comm, weakref.ref(channel)
    other.Free()
    mine.Free()
    assert private == MPI.COMM_NULL  # freed with its communicator
    del channel, private
    gc.collect()
    assert gone() is None


def test_what_is_no_intracommunicator_is_refused(ranks: Any, store: Path) -> None:
    for comm in (MPI.COMM_NULL, None, 5):
        with pytest.raises(MPIError) as caught:
            pinstripe.mpi.open(comm, store / "f", "w")  # type: ignore[arg-type]
        assert caught.value.Get_error_class() == MPI.ERR_COMM


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_ten_thousand_opens_take_one_context(ranks: Any, store: Path) -> None:
    with pinstripe.mpi.open(ranks.comm, store / "f", "w") as file:
        file.write_at_all(ranks.rank, b"x")
    channel = Channel.of(ranks.comm)
    kept = []
    turns = 10_000 if ranks.size <= len(os.sched_getaffinity(0)) else 2_500  # enough for the 2,048 contexts of MPICH
    for turn in range(turns):
        file = pinstripe.mpi.open(ranks.comm, store / "f")
        if turn % 500 == 0:
            kept.append(file)
        else:
            file.close()
    assert Channel.of(ranks.comm) is channel
    for file in kept:
        assert file.read_at_all(0, bytearray(1)) == 1
        file.close()
