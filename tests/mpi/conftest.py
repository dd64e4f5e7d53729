"""Tests that every rank of a job runs alike.

A phase of a test (set-up, call, tear-down) ends with all ranks telling each other how it went: a failure on one rank is a
failure on all, with its traceback. A rank that failed while others wait for it in some collective call, and ranks that
all wait, end as tracebacks: each rank prints where it stands, then the job is aborted. Only rank 0 prints reports.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import sys
import time
import traceback
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from mpi4py import MPI

import pinstripe

HANG_S = 60.0  # a phase that takes longer hangs; a slow test has four times as much
WAIT_S = 20.0  # how long the others may take longer than the first rank to end a phase
_TEXT_BYTES = 1 << 14

_world = MPI.COMM_WORLD.Dup()

settings.register_profile(
    "mpi",
    deadline=None,
    derandomize=True,  # all ranks draw the same examples
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate],  # what a failure leads to must not depend on the rank
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mpi")


class OtherRankFailed(AssertionError):
    """A test failed on another rank; the text is its traceback."""


def _tell(text: str, wait_s: float) -> list[str]:
    """Tell all ranks how it went here. Not all there in time = the job ends."""
    mine = np.zeros(_TEXT_BYTES, np.uint8)
    data = text.encode()[-_TEXT_BYTES + 1 :]
    mine[: len(data)] = np.frombuffer(data, np.uint8)
    told = np.empty((_world.size, _TEXT_BYTES), np.uint8)
    request = _world.Iallgather(mine, told)
    until = time.monotonic() + wait_s
    while not request.Test():
        if time.monotonic() > until:
            print(f"rank {_world.rank}: the others do not come", text, sep="\n", file=sys.__stderr__, flush=True)
            _world.Abort(70)
        time.sleep(0 if time.monotonic() + wait_s - until < 0.01 else 0.0005)
    return [bytes(row[row != 0]).decode(errors="replace") for row in told]


def _agree(error: BaseException | None, wait_s: float = WAIT_S) -> None:
    """Raise this rank's error; else, if another rank has one, that."""
    kind = ""
    if isinstance(error, pytest.skip.Exception):
        kind = "skipped"
    elif error is not None:
        kind = "".join(traceback.format_exception(error))
    told = _tell(kind, wait_s)
    if error is not None and kind != "skipped":
        raise error
    bad = [f"on rank {rank}:\n{text}" for rank, text in enumerate(told) if text and text != "skipped"]
    if bad:
        raise OtherRankFailed("\n".join(bad))
    if len(set(told)) > 1:
        raise OtherRankFailed("skipped on some ranks, not on all")
    if error is not None:
        raise error


def _phase(item: pytest.Item) -> Generator[None, Any, Any]:
    limit = HANG_S * (4 if item.get_closest_marker("slow") else 1)
    faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__)
    error: BaseException | None = None
    result = None
    try:
        result = yield
    except BaseException as caught:
        error = caught
    # Some rank may be stuck where this one should have been: it shows where before this one gives up on it.
    faulthandler.dump_traceback_later(WAIT_S / 2, file=sys.__stderr__)
    try:
        _agree(error, limit if error is None else WAIT_S)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if _world.rank and reporter is not None:
        reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115  # lives as long as the process


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Wait for rank 0 to print: the first rank that exits with a failure ends the job."""
    request, until = _world.Ibarrier(), time.monotonic() + WAIT_S
    while not request.Test() and time.monotonic() < until:
        time.sleep(0.001)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    told = _tell("\n".join(item.nodeid for item in items)[-8000:] or "none", HANG_S)
    if len(set(told)) > 1:
        print(f"rank {_world.rank} collected other tests than the others", file=sys.__stderr__, flush=True)
        _world.Abort(71)


class Ranks:
    """What a test knows of its job.

    Attributes
    ----------
    comm : MPI.Intracomm
        All ranks.
    rank, size : int
    """

    def __init__(self) -> None:
        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """End a part of a test, such as one example, alike on all ranks."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as caught:
            error = caught
        _agree(error)

    def once(self, work: Any) -> Any:
        """Do something on rank 0 only; every rank gets what it returns, and its failure."""
        value, error = None, None
        if self.rank == 0:
            try:
                value = work()
            except BaseException as caught:
                error = caught
        _agree(error)
        return self.comm.bcast(value)


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    return Ranks()


@pytest.fixture
def shared_path(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that is new, and the same on all ranks."""
    path = ranks.once(lambda: tmp_path_factory.mktemp("shared"))
    yield path
    ranks.comm.Barrier()
    if ranks.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store(ranks: Ranks, shared_path: Path) -> Path:
    """The directory of a store with three targets and small stripes."""
    root = shared_path / "store"
    targets = [shared_path / f"target{number}" for number in range(3)]
    ranks.once(lambda: pinstripe.create(root, targets, stripe_bytes="64K", block_bytes="16K") and None)
    return root
