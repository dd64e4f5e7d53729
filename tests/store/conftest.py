"""A small store with small stripes, so that a few hundred kilobytes take every path."""

from __future__ import annotations

from pathlib import Path

import pytest

import pinstripe
from pinstripe import Store

STRIPE = 64 << 10


@pytest.fixture
def small(tmp_path: Path) -> Store:
    """A store of two targets whose files have 64 KiB stripes and 16 KiB blocks."""
    made = pinstripe.create(
        tmp_path / "small",
        [str(tmp_path / "small-0"), str(tmp_path / "small-1")],
        stripe_bytes=STRIPE,
        block_bytes=16 << 10,
    )
    return Store.find(made.root)  # the one that `pinstripe.open` uses: targets wrapped here are wrapped there
