"""Promises 1 and 5, under mpirun: a rank that dies or whose disk fails at any call; all ranks agree, and the file is the old or the new."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.store import Store
from pinstripe.store.verify import verify
from pinstripe.testing.faults import build

from .collective_job import EACH, PIECE

MPIRUN = Path(sys.executable).with_name("mpirun")
JOB = Path(__file__).with_name("collective_job.py")
RANKS = 2
EXHAUSTIVE = bool(os.environ.get("PINSTRIPE_TEST_EXHAUSTIVE"))

pytestmark = pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside this Python")


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("preload"))


@pytest.fixture
def top() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="pinstripe-collective-", dir=memory))
    yield made
    shutil.rmtree(made)


def job(preload: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "-n", str(RANKS), "env", f"LD_PRELOAD={preload}", sys.executable, "-m", "mpi4py", str(JOB)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("fault", "rank", "every"),
    [
        ("EIO", 0, 3),
        ("EIO", 1, 2),
        ("always-ENOSPC", 0, 5),
        ("always-ENOSPC", 1, 3),
        ("lost-answer", 0, 4),
        ("read-EIO", 0, 12),
    ],
)
def test_a_call_that_fails_on_one_rank_is_the_same_error_on_all_or_no_matter(
    preload: str, top: Path, fault: str, rank: int, every: int
) -> None:
    ended = job(preload, "sweep", top, fault, rank, 1, 1 if EXHAUSTIVE else every)
    assert ended.returncode == 0, ended.stderr[-3000:]
    swept = json.loads(ended.stdout.splitlines()[-1])
    assert swept["points"] >= 3
    assert not swept["failures"], "\n".join(swept["failures"][:10])


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_that_dies_at_any_call_leaves_the_old_or_the_new(preload: str, top: Path, rank: int) -> None:
    size = RANKS * (EACH + 20 * PIECE)
    old, new = (contents(version, size) for version in (0, 1))
    chance = random.Random(rank)
    killed = 0
    for nth in sorted(chance.sample(range(1, 45 if rank == 0 else 14), 60 if EXHAUSTIVE else 7)):
        here = top / str(nth)
        here.mkdir()
        pinstripe.create(here / "store", [here / "a", here / "b"], stripe_bytes=1 << 16)
        path = here / "store/file"
        with pinstripe.open(path, "wb") as file:
            file.write(old)
        ended = job(preload, "die", here, rank, nth)
        killed += ended.returncode != 0
        with pinstripe.open(path, "rb") as file:
            data = file.read()
        assert data in ((new,) if "done" in ended.stdout else (old, new)), nth
        assert verify(Store.find(path), path).good
        with pinstripe.open(path, "r+b") as file:
            file.write(b"again")
        with pinstripe.open(path, "rb") as file:
            assert file.read() == b"again" + data[5:]
    assert killed >= 3


def contents(version: int, size: int) -> bytes:
    import numpy as np

    return np.random.default_rng(version).integers(0, 256, size, np.uint8).tobytes()
