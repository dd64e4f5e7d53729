"""The write-back cache of one rank: stripes of which only some extents were written.

An entry keeps, for each collective call (`sequence`), which extents it wrote: so a whole stripe that another rank wrote in between takes
the place of the older extents and not of the newer ones.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..kernels import copy_extents

__all__ = ["CachedStripe", "PartialStripes", "StripeCache"]

Array = npt.NDArray[Any]
_NONE = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class PartialStripes:
    """Extents of partial stripes, flat.

    Attributes
    ----------
    offsets, lengths : numpy arrays of int64
        File offset and bytes of each extent; extents of one stripe do not overlap.
    data : numpy array of uint8
        The extents' bytes, joined.
    """

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]


@dataclasses.dataclass(slots=True)
class CachedStripe:
    """What is known of one stripe: its bytes where they were written, and where that is."""

    buffer: npt.NDArray[np.uint8]
    width: int
    layers: list[tuple[int, Array]] = dataclasses.field(
        default_factory=list
    )  # (sequence, (n, 2) array of [start, end))

    def add(self, sequence: int, extents: Array) -> None:
        """Note that extents, an (n, 2) array of [start, end) in the stripe, were written."""
        if self.layers and self.layers[-1][0] == sequence:
            extents = np.concatenate([self.layers.pop()[1], extents])
        self.layers.append((sequence, _union(extents)))

    @property
    def extents(self) -> Array:
        """All that was written, as sorted disjoint [start, end)."""
        if len(self.layers) == 1:
            return self.layers[0][1]
        return _union(np.concatenate([extents for _, extents in self.layers]))

    def covers(self, length: int) -> bool:
        """Whether the stripe's first `length` bytes are all there."""
        extents = self.extents
        return len(extents) == 1 and extents[0, 0] == 0 and extents[0, 1] >= length

    def copy_to(self, first: Array, counts: Array, out: Any, places: Array) -> None:
        """Copy what was written of pieces of the stripe, bytes [first, first + counts), to ``out[places[k]:]``; the rest of `out` stays."""
        starts, stops = self.extents[:, 0], self.extents[:, 1]
        lowest = np.searchsorted(stops, first, "right")
        each = np.maximum(np.searchsorted(starts, first + counts, "left") - lowest, 0)
        piece = np.repeat(np.arange(len(first)), each)
        extent = np.arange(len(piece)) - np.repeat(np.cumsum(each) - each, each) + lowest[piece]
        begin = np.maximum(starts[extent], first[piece])
        end = np.minimum(stops[extent], first[piece] + counts[piece])
        copy_extents(self.buffer, begin, out, places[piece] + begin - first[piece], end - begin)

    def drop_until(self, sequence: int) -> bool:
        """Forget what calls up to `sequence` wrote; return whether anything is left."""
        self.layers = [layer for layer in self.layers if layer[0] > sequence]
        return bool(self.layers)

    def truncate(self, length: int) -> bool:
        """Forget what lies behind the stripe's first `length` bytes; return whether anything is left."""
        layers = []
        for sequence, extents in self.layers:
            kept = np.minimum(extents[extents[:, 0] < length], length)
            if len(kept):
                layers.append((sequence, kept))
        self.layers = layers
        return bool(layers)


def _union(extents: Array) -> Array:
    """Sort [start, end) and join those that touch."""
    if len(extents) == 1:
        return extents
    extents = extents[np.argsort(extents[:, 0], kind="stable")]
    reach = np.maximum.accumulate(extents[:, 1])
    opens = np.ones(len(extents), bool)
    opens[1:] = extents[1:, 0] > reach[:-1]
    first = np.flatnonzero(opens)
    return np.stack([extents[first, 0], np.maximum.reduceat(extents[:, 1], first)], axis=1)


class StripeCache:
    """Entries by stripe number, the one touched longest ago first. Not thread-safe.

    Attributes
    ----------
    stripe_bytes : int
    """

    def __init__(self, stripe_bytes: int) -> None:
        self.stripe_bytes = stripe_bytes
        self._entries: OrderedDict[int, CachedStripe] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stripe: int) -> bool:
        return stripe in self._entries

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._entries))

    def __getitem__(self, stripe: int) -> CachedStripe:
        return self._entries[stripe]

    @property
    def held_bytes(self) -> int:
        """Memory that it holds."""
        return len(self._entries) * self.stripe_bytes

    def numbers(self) -> npt.NDArray[np.uint64]:
        """Stripe numbers that it holds, sorted."""
        return np.sort(np.fromiter(self._entries, np.uint64, len(self._entries)))

    def write(
        self, stripe: int, offsets: Array, data: Any, data_offsets: Array, lengths: Array, sequence: int, width: int = 0
    ) -> CachedStripe:
        """Copy extents (at `offsets` within the stripe) into the stripe's entry; the later of overlapping ones wins."""
        entry = self._entries.get(stripe)
        if entry is None:
            entry = self._entries[stripe] = CachedStripe(np.zeros(self.stripe_bytes, np.uint8), width)
        else:
            self._entries.move_to_end(stripe)
            entry.width = entry.width or width
        copy_extents(data, data_offsets, entry.buffer, offsets, lengths)
        entry.add(sequence, np.stack([offsets, offsets + lengths], axis=1))
        return entry

    def oldest(self) -> int:
        """The stripe that was touched longest ago."""
        return next(iter(self._entries))

    def pop(self, stripe: int) -> CachedStripe | None:
        """Take an entry out."""
        return self._entries.pop(stripe, None)

    def put(self, stripe: int, entry: CachedStripe) -> None:
        """Put an entry back."""
        self._entries[stripe] = entry

    def truncate(self, size: int) -> None:
        """Forget what lies beyond `size` bytes of the file."""
        for stripe in list(self._entries):
            length = size - stripe * self.stripe_bytes
            if length <= 0 or not self._entries[stripe].truncate(length):
                del self._entries[stripe]
            elif length < self.stripe_bytes:
                self._entries[stripe].buffer[length:] = 0

    def overlay(self, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Copy what it holds of the file's bytes from `offset` on over `out`."""
        if not self._entries:
            return
        end = offset + len(out)
        first, last = offset // self.stripe_bytes, (end - 1) // self.stripe_bytes
        wanted = self._entries if len(self._entries) <= last - first else range(first, last + 1)
        for stripe in wanted:
            if first <= stripe <= last and stripe in self._entries:
                start = stripe * self.stripe_bytes
                begin, stop = max(offset, start), min(end, start + self.stripe_bytes)
                within, count, place = np.array([[begin - start], [stop - begin], [begin - offset]])
                self._entries[stripe].copy_to(within, count, out, place)

    def overlay_pieces(self, stripes: Array, first: Array, counts: Array, out: Any, places: Array) -> None:
        """Copy what it holds of pieces of stripes, bytes [first, first + counts) of each, over ``out[places[k]:]``."""
        held = np.flatnonzero(np.isin(stripes, self.numbers())) if self._entries else _NONE
        if not len(held):
            return
        held = held[np.argsort(stripes[held], kind="stable")]
        for some in np.split(held, np.flatnonzero(np.diff(stripes[held])) + 1):
            self._entries[int(stripes[some[0]])].copy_to(first[some], counts[some], out, places[some])

    def take(self) -> PartialStripes:
        """Take everything out, as flat arrays, to be sent to the stripes' owners."""
        offsets: list[Array] = []
        lengths: list[Array] = []
        pieces: list[Array] = []
        for stripe, entry in sorted(self._entries.items()):
            extents = entry.extents
            offsets.append(extents[:, 0] + stripe * self.stripe_bytes)
            lengths.append(extents[:, 1] - extents[:, 0])
            pieces.extend(entry.buffer[a:b] for a, b in extents.tolist())
        self._entries.clear()
        return PartialStripes(
            np.concatenate(offsets).astype(np.int64) if offsets else np.zeros(0, np.int64),
            np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, np.int64),
            np.concatenate(pieces) if pieces else np.zeros(0, np.uint8),
        )

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
