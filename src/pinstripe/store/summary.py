"""Summary: what a generation is made of, counted over its records."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from .generation import Generation

if TYPE_CHECKING:
    from .store import Store

__all__ = ["OnTarget", "Summary", "summarize"]

_COUNTS = ("raw_blocks", "lz4_blocks", "shuffled_blocks", "zero_blocks")


@dataclasses.dataclass(slots=True)
class OnTarget:
    """What one target holds of a generation.

    Attributes
    ----------
    id : str
        The target's id.
    index : int
        Its place in the store's list of targets; -1 = it is no longer in it.
    path : str
        Where it is, "" if that is unknown.
    segments, frames, bytes : int
        How many, and the frames' bytes.
    """

    id: str
    index: int
    path: str
    segments: int = 0
    frames: int = 0
    bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What a generation is made of.

    Attributes
    ----------
    stripes, holes : int
        Stripes of the file, and how many of them have no frame.
    blocks : dict
        How many blocks are stored in each way: raw, lz4, shuffled, zero.
    targets : list of OnTarget
        Those that hold something, in the store's order.
    first : int
        Index of the target that holds the first frame; -1 = there is none.
    """

    stripes: int
    holes: int
    blocks: dict[str, int]
    targets: list[OnTarget]
    first: int


def summarize(store: Store, generation: Generation) -> Summary:
    """Count over all records: reads every page of the manifest, and no data."""
    stripes = generation.header.stripes if generation.header is not None else 0
    counts = dict.fromkeys(_COUNTS, 0)
    frames, first = 0, -1
    for number in range(len(generation.directory)):
        if not generation.directory[number]["offset"]:
            continue
        page = generation.page(number)
        named = np.flatnonzero(page["segment"])
        frames += len(named)
        if len(named) and first < 0:
            first = int(page["segment"][named[0]]) - 1
        for name in _COUNTS:
            counts[name] += int(page[name].sum(dtype=np.int64))
    order = {entry.id: (index, store.target_path(entry)) for index, entry in enumerate(store.superblock.targets)}
    on: dict[bytes, OnTarget] = {}
    for entry in generation.segments[generation.segments["live_frames"] > 0]:
        target_id = bytes(entry["target"])
        index, path = order.get(target_id, (-1, ""))
        held = on.setdefault(target_id, OnTarget(target_id.hex(), index, path))
        held.segments += 1
        held.frames += int(entry["live_frames"])
        held.bytes += int(entry["live_bytes"])
    return Summary(
        stripes=stripes,
        holes=stripes - frames,
        blocks={name.removesuffix("_blocks"): count for name, count in counts.items()},
        targets=sorted(on.values(), key=lambda held: (held.index < 0, held.index)),
        first=order.get(bytes(generation.segments[first]["target"]), (-1, ""))[0] if first >= 0 else -1,
    )
