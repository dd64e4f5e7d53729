"""Reading one piece; and the segments that a reader keeps open: not more than it may, and none is closed under a read."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import pinstripe
from pinstripe.store import reader
from pinstripe.store.store import Store

from .conftest import MakeStore
from .files import STRIPE, segments_of, write

STRIPES = 8
DATA = np.random.default_rng(1).bytes(STRIPES * STRIPE)


@pytest.fixture
def at(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in as many segments as targets, read by readers that keep one open."""
    monkeypatch.setattr(reader, "SEGMENTS_KEPT", 1)
    path = f"{make_store(4).root}/f"
    write(path, DATA)
    return path


def open_segments(at: str) -> int:
    """How many descriptors of this process lead to a target."""
    places = tuple(target.path for target in Store.find(at).targets)
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sum(link.startswith(places) for link in links)


@pytest.mark.parametrize("kernel", ["read_frame", "read_frames"])
def test_a_segment_that_is_given_up_for_another_stays_open_while_it_is_read(
    at: str, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    count = 100 if kernel == "read_frame" else 2 * STRIPE
    with pinstripe.open(at, "rb", 0) as file:

        def read_after_others(*args: Any, **options: Any) -> Any:
            monkeypatch.setattr(reader, kernel, real)
            for stripe in range(STRIPES):
                assert file.pread(10, stripe * STRIPE) == DATA[stripe * STRIPE :][:10]
            return real(*args, **options)

        real = getattr(reader, kernel)
        monkeypatch.setattr(reader, kernel, read_after_others)
        assert file.pread(count, STRIPE) == DATA[STRIPE:][:count]
        assert open_segments(at) == 1
    assert open_segments(at) == 0


def test_threads_that_take_turns_at_segments_all_read_right(at: str) -> None:
    with pinstripe.open(at, "rb", 0) as file, ThreadPoolExecutor(8) as pool:

        def check(seed: int) -> bool:
            draw = np.random.default_rng(seed)
            for _ in range(200):
                offset, count = int(draw.integers(0, len(DATA))), int(draw.integers(1, 2 * STRIPE))
                if file.pread(count, offset) != DATA[offset : offset + count]:
                    return False
            return True

        assert all(pool.map(check, range(8)))
        assert open_segments(at) == 1
    assert open_segments(at) == 0


@pytest.mark.parametrize("size", [100, STRIPES * STRIPE])
@pytest.mark.parametrize("offset", [-1, -20, -STRIPE])
def test_a_read_from_before_the_start_is_refused(small: Store, size: int, offset: int) -> None:
    path = f"{small.root}/f"
    write(path, DATA[:size])
    with pinstripe.open(path, "rb", 0) as file, pytest.raises(pinstripe.ArgumentError, match="0 or more"):
        file.pread(10, offset)


def test_closing_closes_a_segment_that_an_errors_traceback_still_holds(at: str) -> None:
    for segment in segments_of(Store.find(at)):
        os.truncate(segment, 100)
    with pinstripe.open(at, "rb", 0) as file, pytest.raises(pinstripe.DamageError) as damage:
        file.pread(10, 0)
    assert open_segments(at) == 0
    assert damage.value.__traceback__ is not None
