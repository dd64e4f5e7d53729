"""An independent look at promise 1: strace kills the process, or fails its call, and knows nothing of our code or of our preload library."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

# Calls that change what is on disk, and that an interpreter that starts does not make.
CALLS = ["link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"]
CALLS += ["pwrite64", "pwritev", "fsync", "ftruncate", "fchmod", "chmod"]
OLD, NEW = random.Random(1).randbytes(90_000), random.Random(2).randbytes(70_000)
PROGRAM = """
import sys, pinstripe
with pinstripe.open(sys.argv[1], "wb", buffering=0, grace_s=0) as file:
    file.write(open(sys.argv[2], "rb").read())
print("done", flush=True)
"""


@pytest.fixture
def top() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="pinstripe-strace-", dir=memory))
    (made / "new").write_bytes(NEW)
    yield made
    shutil.rmtree(made)


def one(top: Path, name: str, how: str, call: str, nth: int) -> bool:
    """Do it once to the n-th call; returns whether there was one."""
    place = top / f"{name}-{call}-{nth}"
    place.mkdir()
    pinstripe.create(place / "store", [place / "a"], stripe_bytes=1 << 16)
    path = place / "store/file"
    if name == "overwrite":
        with pinstripe.open(path, "wb") as file:
            file.write(OLD)
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(place / "log"),
        "-e",
        f"trace={call}",
        "-e",
        f"inject={call}:{how}:when={nth}",
    ]
    ended = subprocess.run(
        [*command, sys.executable, "-B", "-c", PROGRAM, str(path), str(top / "new")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    injected = (
        "(INJECTED)" in (place / "log").read_text()
        or ended.returncode == -9
        or "killed by SIGKILL" in (place / "log").read_text()
    )
    try:
        with pinstripe.open(path, "rb") as file:
            data: bytes | None = file.read()
    except FileNotFoundError:
        data = None
    old = OLD if name == "overwrite" else None
    if "done" in ended.stdout:
        assert data == NEW, f"{call} {nth}: it was acknowledged"
    else:
        assert injected, ended.stderr
        unknown = how == "signal=KILL" or "OutcomeUnknownError" in ended.stderr
        assert data in ((old, NEW) if unknown else (old,)), f"{call} {nth}: {ended.stderr[-500:]}"
    if data is not None:
        assert verify(Store.find(place / "store"), path).good, f"{call} {nth}"
    with pinstripe.open(path, "wb") as file:
        file.write(b"again")
    with pinstripe.open(path, "rb") as file:
        assert file.read() == b"again"
    shutil.rmtree(place)
    return injected


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "how", "every"), [("overwrite", "signal=KILL", 1), ("create", "error=EIO", 2)])
def test_a_process_killed_or_failed_by_strace_at_any_call_leaves_old_or_new(
    top: Path, name: str, how: str, every: int
) -> None:
    def sweep(call: str) -> int:
        nth = 1
        while one(top, name, how, call, nth):
            nth += every
            assert nth < 100
        return nth - 1

    with ThreadPoolExecutor(2) as pool:
        points = list(pool.map(sweep, CALLS))
    assert sum(points) > 25, dict(zip(CALLS, points, strict=True))
