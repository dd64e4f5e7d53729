"""Two laboratories, that share the points of a sweep."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pinstripe.testing.faults import Laboratory, Swept, build

SCENARIOS = Path(__file__).with_name("scenarios.py")
EXHAUSTIVE = bool(os.environ.get("PINSTRIPE_TEST_EXHAUSTIVE"))
"""Set: every call is met with every fault, which takes half an hour. Else the rarer faults meet a part of them, always the same."""

Sweep = Callable[..., Swept]


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """Sweep a scenario, at every `every`-th point, in two processes."""
    made = build(tmp_path_factory.mktemp("preload"))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # several times quicker
    top = Path(tempfile.mkdtemp(prefix="pinstripe-faults-", dir=memory))
    laboratories = []
    for name in ("one", "two"):
        (top / name).mkdir()
        laboratories.append(Laboratory(made, SCENARIOS, top / name))

    def swept(scenario: str, fault: str, every: int = 1, enough: int = 20) -> Swept:
        every = 1 if EXHAUSTIVE else every

        def part(k: int) -> Swept:
            return laboratories[k].sweep(scenario, fault, first=1 + k * every, step=2 * every, enough=enough)

        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(part, range(2)))
        outcomes: Counter[str] = Counter()
        for one in parts:
            outcomes.update(one.outcomes)
        return Swept(
            sum(one.points for one in parts),
            [failure for one in parts for failure in one.failures],
            dict(outcomes),
            max(one.seconds for one in parts),
        )

    yield swept
    for laboratory in laboratories:
        laboratory.close()
    shutil.rmtree(top)
