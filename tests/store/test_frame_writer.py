"""When a writer appends in threads: where targets make it wait, and only there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pinstripe.kernels import CODEC_RAW
from pinstripe.store import writer
from pinstripe.store.writer import FrameWriter
from pinstripe.targets.contract import Access

STRIPE = 1 << 16


class Slow:
    """A target that takes its time, in one way or another, and the segment on it."""

    id, path = bytes(16), "slow"

    def __init__(self, take_time: Callable[[], object]) -> None:
        self._take_time = take_time

    def create_segment(self, *_: Any) -> Slow:
        return self

    def write_at(self, data: Any, offset: int) -> None: ...

    def append(self, batch: Any, start: int, first: int, last: int) -> None:
        self._take_time()

    def close(self) -> None: ...


def threads_used(take_time: Callable[[], object]) -> bool:
    target: Any = Slow(take_time)
    frames = FrameWriter(
        bytes(16),
        bytes(16),
        0,
        [target],
        [],
        Access(0o644),
        block_bytes=STRIPE,
        codec=CODEC_RAW,
        batch_bytes=STRIPE,
        acceleration=1,
        threads=1,
    )
    data = np.zeros(10 * STRIPE, np.uint8)
    stripes = np.arange(10)
    frames.write(stripes.astype(np.uint64), data, stripes * STRIPE, np.full(10, STRIPE))
    used = frames._pool is not None
    frames.close()
    return used


def test_a_target_that_lets_the_writer_sleep_is_written_to_in_threads() -> None:
    assert threads_used(lambda: time.sleep(0.003))


def test_work_is_done_at_once_even_where_other_processes_take_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        until = time.perf_counter() + 0.003
        while time.perf_counter() < until:
            pass

    monkeypatch.setattr(writer.time, "thread_time_ns", lambda: 0)  # as if all of it had gone to others
    assert not threads_used(work)
