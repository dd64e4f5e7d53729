"""The queue of work: each number once, to whoever asks; and what threads do with it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pinstripe.store.store import Store
from pinstripe.store.team import SERIAL, SerialTeam
from pinstripe.store.work_queue import WorkQueue, work_through


class Pair(SerialTeam):
    """One of two ranks, in threads of one process."""

    size = 2

    def __init__(self, rank: int, told: list[bytes], meet: threading.Barrier) -> None:
        self.rank, self._told, self._meet = rank, told, meet

    def agree(self, error: BaseException | None = None) -> None:
        self._meet.wait()
        super().agree(error)

    def broadcast(self, value: bytes | None, root: int = 0) -> bytes:
        if value is not None:
            self._told.append(value)
        self._meet.wait()
        return self._told[-1]

    def allgather(self, array: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
        self._meet.wait()
        return [array, array]


def in_pairs(store: Store | None, count: int, waits_s: tuple[float, float]) -> list[list[int]]:
    told: list[bytes] = []
    meet = threading.Barrier(2)
    done: list[list[int]] = [[], []]

    def run(rank: int) -> None:
        with WorkQueue(store, Pair(rank, told, meet), count) as queue:
            for number in queue:
                done[rank].append(number)
                time.sleep(waits_s[rank])

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_each_number_goes_to_one_rank_and_a_slow_one_gets_fewer(small: Store) -> None:
    done = in_pairs(small, 60, (0.02, 0.001))
    assert sorted(done[0] + done[1]) == list(range(60))
    assert len(done[0]) < len(done[1])
    assert not list(Path(small.meta).glob("files/*/*.queue"))


def test_without_a_store_each_rank_gets_every_second_number() -> None:
    assert in_pairs(None, 7, (0, 0)) == [[0, 2, 4, 6], [1, 3, 5]]


def test_alone_no_file_is_made(small: Store) -> None:
    with WorkQueue(small, SERIAL, 3) as queue:
        assert list(queue) == [0, 1, 2]
        assert queue.next() >= 3


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_share_the_numbers_and_the_first_error_ends_all(threads: int) -> None:
    done: list[int] = []
    with WorkQueue(None, SERIAL, 100) as queue:
        work_through(queue, done.append, threads)
    assert sorted(done) == list(range(100))

    def fail(number: int) -> None:
        done.append(number)
        raise ValueError(number)

    done.clear()
    with pytest.raises(ValueError, match="0"), WorkQueue(None, SERIAL, 100) as queue:
        work_through(queue, fail, threads)
    assert len(done) <= threads
