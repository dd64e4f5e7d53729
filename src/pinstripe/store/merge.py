"""What two writers changed, and whether both can stand. Pure but for reading index pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..format.manifest import PAGE_RECORDS
from .generation import Generation

__all__ = ["changed_stripes", "merge_bytes"]


def changed_stripes(base: Generation, head: Generation) -> npt.NDArray[np.uint64]:
    """Stripes whose bytes differ between two generations, ascending; told from the records, without reading data."""
    pages = max(len(base.directory), len(head.directory))
    found: list[npt.NDArray[np.uint64]] = []
    for number in range(pages):
        if number < min(len(base.directory), len(head.directory)):
            a, b = base.directory[number], head.directory[number]
            if bool(a["offset"]) == bool(b["offset"]) and a["checksum"] == b["checksum"]:
                continue
        old, new = base.page(number), head.page(number)
        differ = (
            (old["crc64"] != new["crc64"])
            | (old["raw_bytes"] != new["raw_bytes"])
            | ((old["segment"] == 0) != (new["segment"] == 0))
        )
        found.append(np.flatnonzero(differ).astype(np.uint64) + np.uint64(number * PAGE_RECORDS))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def merge_bytes(
    base: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8], ours: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], int]:
    """Merge one stripe that two writers changed; a byte that both changed differently is a conflict.

    Returns
    -------
    merged : numpy array of uint8
    conflict : int
        Offset of the first byte in conflict; -1 = none.
    """
    we = ours != base
    clash: Any = we & (theirs != base) & (ours != theirs)
    if clash.any():
        return ours, int(np.argmax(clash))
    return np.where(we, ours, theirs), -1
