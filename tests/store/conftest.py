"""Stores to test with: small stripes, no syncing where a test does not ask for it, on memory where there is some."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pinstripe
from pinstripe.store.store import Store

MakeStore = Callable[..., Store]


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, on tmpfs where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    made = tempfile.mkdtemp(dir="/dev/shm", prefix="pinstripe-test-")
    yield Path(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def make_store(quick: Path) -> MakeStore:
    """Make a store with stripes of 64 KiB and so many targets ``t0``, ``t1``, ... beside it."""

    def make(targets: int = 2, name: str = "s", **layout: Any) -> Store:
        layout = {"stripe_bytes": 64 << 10, "block_bytes": 16 << 10} | layout
        pinstripe.create(quick / name, [quick / f"{name}-t{k}" for k in range(targets)], **layout)
        return Store.find(quick / name)  # the one that `open` finds, too

    return make


@pytest.fixture
def small(make_store: MakeStore) -> Store:
    """A store with two targets."""
    return make_store()


@pytest.fixture
def at(small: Store) -> str:
    """Path of a file, not there yet, in `small`."""
    return f"{small.root}/f"
