"""Homes of stripes: which target a writer tries first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["homes", "spread", "striped_targets"]


def striped_targets(count: int, stripe_count: int, first: int) -> list[int]:
    """Choose the targets of one file: `stripe_count` (-1: all) of `count`, beginning with number ``first mod count``.

    Returns
    -------
    list of int
        Indices in the store's list of targets, in the order in which stripes go round.
    """
    wanted = count if stripe_count < 0 else min(stripe_count, count)
    return [(first + k) % count for k in range(wanted)] if count else []


def spread(targets: Sequence[int], rank: int, ranks: int, max_segments: int) -> list[int]:
    """Choose which of a file's targets one rank writes to, so that the job keeps at most `max_segments` open.

    A rank spreads over ``clamp(max_segments / ranks, 1, all)`` targets: over all of them in the file's order, so that every rank gives a stripe
    the same home; or, where it may have only some, over the next ones in turn.
    """
    if not targets:
        return []
    width = max(1, min(len(targets), max_segments // max(ranks, 1)))
    if width == len(targets):
        return list(targets)
    return [targets[(rank * width + k) % len(targets)] for k in range(width)]


def homes(stripes: npt.NDArray[np.uint64], targets: Sequence[int]) -> npt.NDArray[np.int64]:
    """Give each stripe its home among `targets`: stripe i goes to ``targets[i mod len(targets)]``."""
    return np.asarray(targets, dtype=np.int64)[(stripes % np.uint64(len(targets))).astype(np.int64)]
