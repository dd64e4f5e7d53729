"""Extents: where the bytes of a datatype, and of one access through a view, lie. Pure arithmetic on arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError

__all__ = ["Access", "Typemap", "coalesced"]

Offsets = npt.NDArray[np.int64]


def coalesced(offsets: Offsets, lengths: Offsets) -> tuple[Offsets, Offsets]:
    """Join neighbours: an extent that begins where the one before it ends. Empty ones go. The order stays."""
    if (lengths == 0).any():
        keep = lengths != 0
        offsets, lengths = offsets[keep], lengths[keep]
    if offsets.size < 2:
        return offsets, lengths
    breaks = offsets[1:] != offsets[:-1] + lengths[:-1]
    if breaks.all():
        return offsets, lengths
    first = np.flatnonzero(np.concatenate(([True], breaks)))
    return offsets[first], np.add.reduceat(lengths, first)


@dataclasses.dataclass(frozen=True, slots=True)
class Typemap:
    """Bytes of one instance of a datatype, in the order of its type map.

    Attributes
    ----------
    offsets, lengths : int64 arrays
        Runs of bytes, relative to the instance's origin; neighbours joined.
    lower, extent : int
        MPI's lower bound and extent: instance i lies ``i * extent`` further.
    width : int
        Bytes of its basic element; 0 where elements differ.
    """

    offsets: Offsets
    lengths: Offsets
    lower: int
    extent: int
    width: int

    @classmethod
    def basic(cls, nbytes: int, width: int | None = None) -> Typemap:
        """Return the map of a predefined datatype."""
        runs = np.array([nbytes] if nbytes else [], np.int64)
        return cls(np.zeros(runs.size, np.int64), runs, 0, nbytes, nbytes if width is None else width)

    @property
    def size(self) -> int:
        """Bytes of data in one instance."""
        return int(self.lengths.sum())

    @property
    def solid(self) -> bool:
        """Whether consecutive instances form one run without holes."""
        return self.offsets.size == 1 and int(self.lengths[0]) == self.extent

    def resized(self, lower: int, extent: int) -> Typemap:
        """Return the same bytes with other bounds."""
        return dataclasses.replace(self, lower=lower, extent=extent)

    def placed(self, starts: npt.ArrayLike, counts: npt.ArrayLike = 1) -> Typemap:
        """Put ``counts[i]`` consecutive instances at byte ``starts[i]``; bounds are those of all of them."""
        begins, repeats = np.broadcast_arrays(np.asarray(starts, np.int64), np.asarray(counts, np.int64))
        keep = repeats > 0
        begins, repeats = begins[keep].reshape(-1), repeats[keep].reshape(-1)
        if not begins.size:
            return Typemap(_NONE, _NONE, 0, 0, self.width)
        ends = begins + (repeats - 1) * self.extent
        lower = int(np.minimum(begins, ends).min()) + self.lower
        upper = int(np.maximum(begins, ends).max()) + self.lower + self.extent
        if self.solid:
            offsets, lengths = begins + self.offsets[0], repeats * self.extent
        else:
            total = int(repeats.sum())
            each = np.arange(total) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            origins = np.repeat(begins, repeats) + each * self.extent
            offsets = (origins[:, None] + self.offsets).reshape(-1)
            lengths = np.broadcast_to(self.lengths, (total, self.lengths.size)).reshape(-1)
        offsets, lengths = coalesced(offsets, lengths)
        return Typemap(offsets, lengths, lower, upper - lower, self.width)

    @classmethod
    def joined(cls, parts: Sequence[Typemap]) -> Typemap:
        """Put several maps one behind the other (each already at its place), as a structure does."""
        filled = [part for part in parts if part.offsets.size]
        if not filled:
            return cls(_NONE, _NONE, 0, 0, 0)
        offsets, lengths = coalesced(
            np.concatenate([part.offsets for part in filled]), np.concatenate([part.lengths for part in filled])
        )
        lower = min(part.lower for part in filled)
        upper = max(part.lower + part.extent for part in filled)
        widths = {part.width for part in filled}
        return cls(offsets, lengths, lower, upper - lower, widths.pop() if len(widths) == 1 else 0)

    def subarray(
        self, sizes: Sequence[int], subsizes: Sequence[int], starts: Sequence[int], order: str = "C"
    ) -> Typemap:
        """Return a block of an array of `sizes` elements of this type; its extent is the whole array's.

        Raises
        ------
        ArgumentError
            The block does not lie in the array.
        """
        for size, part, start in zip(sizes, subsizes, starts, strict=True):
            if part < 0 or start < 0 or start + part > size:
                raise ArgumentError(
                    f"a block of {tuple(subsizes)} at {tuple(starts)} does not lie in an array of {tuple(sizes)}"
                )
        dims = list(zip(sizes, subsizes, starts, strict=True))
        if order == "C":
            dims.reverse()  # from the fastest dimension to the slowest
        block, step = self, self.extent
        for size, part, start in dims:
            block = block.resized(0, step).placed([start * step], [part])
            step *= size
        return block.resized(0, step)


_NONE = np.zeros(0, np.int64)


class Access:
    """What one rank wants in one call: bytes 0 to `nbytes` of its (packed) memory, and the file's bytes that they are.

    A pattern of extents, the tile, repeats; extents are made only for the range that is asked for, so that an access of
    a billion pieces costs no memory.

    Parameters
    ----------
    offsets, lengths : int64 arrays
        The tile: extents in file order of the view's bytes.
    base, extent : int
        Tile t lies at ``base + t * extent``.
    start, nbytes : int
        The access is bytes `start` to ``start + nbytes`` of the view.

    Attributes
    ----------
    nbytes, lo, hi : int
        Bytes; first byte in the file and one behind the last (both 0 when empty; exact where `ordered`).
    ordered : bool
        Whether the extents lie in file order and do not overlap: else the access can only be read.
    """

    __slots__ = (
        "_base",
        "_before",
        "_extent",
        "_joins",
        "_lengths",
        "_offsets",
        "_start",
        "hi",
        "lo",
        "nbytes",
        "ordered",
    )

    def __init__(self, offsets: Offsets, lengths: Offsets, base: int, extent: int, start: int, nbytes: int) -> None:
        offsets, lengths = coalesced(offsets, lengths)
        if nbytes and not offsets.size:
            raise ArgumentError(f"{nbytes} bytes through a file type that holds none")
        if offsets.size == 1 and (int(lengths[0]) == extent or start + nbytes <= int(lengths[0])):
            # Tiles without holes between them: one extent.
            offsets, lengths = offsets + (base + start), np.array([nbytes], np.int64)
            base, start, extent = 0, 0, nbytes
        self._offsets, self._lengths, self._base, self._extent = offsets, lengths, base, extent
        self._before = np.concatenate(([0], np.cumsum(lengths)))
        self._start, self.nbytes = start, nbytes
        self.lo = self.hi = 0
        self.ordered, self._joins = True, False
        if not nbytes:
            return
        size = int(self._before[-1])
        tiles = (start + nbytes - 1) // size - start // size + 1
        span = int(offsets[-1] + lengths[-1] - offsets[0])
        self.ordered = bool((offsets[1:] >= offsets[:-1] + lengths[:-1]).all()) and (tiles == 1 or span <= extent)
        if tiles == 1:  # the tile's extent does not matter then
            self._base, self._start, self._extent = base + start // size * extent, start % size, span
        self._joins = tiles > 1 and int(offsets[-1] + lengths[-1]) == int(offsets[0]) + extent
        ends = self.slice(0, min(nbytes, 1)), self.slice(nbytes - 1, nbytes)
        self.lo, self.hi = int(ends[0][0][0]), int(ends[1][0][-1]) + 1
        if not self.ordered:
            all_offsets, all_lengths = self.slice(0, nbytes)
            self.lo, self.hi = int(all_offsets.min()), int((all_offsets + all_lengths).max())

    @classmethod
    def contiguous(cls, offset: int, nbytes: int) -> Access:
        """Return the access of one run of bytes."""
        return cls(np.array([offset], np.int64), np.array([nbytes], np.int64), 0, nbytes, 0, nbytes)

    @classmethod
    def of_extents(cls, offsets: npt.ArrayLike, lengths: npt.ArrayLike) -> Access:
        """Return the access of given extents, in the order of memory."""
        at, size = np.asarray(offsets, np.int64), np.asarray(lengths, np.int64)
        total = int(size.sum())
        return cls(at, size, 0, total, 0, total)

    @classmethod
    def through(cls, tile: Typemap, base: int, start: int, nbytes: int) -> Access:
        """Return the access of view bytes `start` to ``start + nbytes``: `tile` repeated from byte `base` of the file."""
        return cls(tile.offsets, tile.lengths, base, tile.extent, start, nbytes)

    @property
    def extent_count(self) -> int:
        """How many extents there are, at most (neighbouring tiles may join)."""
        if not self.nbytes:
            return 0
        first, last = self._index(self._start), self._index(self._start + self.nbytes - 1)
        return last - first + 1

    @property
    def single(self) -> bool:
        """Whether it is one run of bytes."""
        return self.ordered and self.hi - self.lo == self.nbytes

    def head(self, nbytes: int) -> Access:
        """Return the access of the first `nbytes` only."""
        if nbytes >= self.nbytes:
            return self
        return Access(self._offsets, self._lengths, self._base, self._extent, self._start, nbytes)

    def slice(self, start: int, stop: int) -> tuple[Offsets, Offsets]:
        """Return file offsets and lengths of memory bytes `start` to `stop`, in the order of memory."""
        if stop <= start:
            return _NONE, _NONE
        start, stop = start + self._start, stop + self._start
        first, last = self._index(start), self._index(stop - 1)
        number = self._offsets.size
        if last - first + 1 == number and first % number == 0:
            offsets = self._offsets + (self._base + first // number * self._extent)
            lengths = self._lengths.copy()
        else:
            tile, index = np.divmod(np.arange(first, last + 1), number)
            offsets = self._base + tile * self._extent + self._offsets[index]
            lengths = self._lengths[index]
        size = int(self._before[-1])
        cut = start - (first // number * size + int(self._before[first % number]))
        offsets[0] += cut
        lengths[0] -= cut
        lengths[-1] -= last // number * size + int(self._before[last % number + 1]) - stop
        return coalesced(offsets, lengths) if self._joins else (offsets, lengths)

    def below(self, offsets: npt.ArrayLike) -> Offsets:
        """Return, for each file offset, how many bytes of memory belong below it. Only where `ordered`."""
        at = np.asarray(offsets, np.int64) - self._base
        if not self.nbytes:
            return np.zeros(at.shape, np.int64)
        tile = np.maximum((at - self._offsets[0]) // self._extent, 0)
        within = at - tile * self._extent
        index = np.maximum(np.searchsorted(self._offsets, within, "right") - 1, 0)
        inside = self._before[index] + np.clip(within - self._offsets[index], 0, self._lengths[index])
        return np.asarray(np.clip(tile * self._before[-1] + inside - self._start, 0, self.nbytes), np.int64)

    def readable(self, size: int) -> int:
        """Return how many bytes of memory a read fills when the file ends at `size`: those before the first one beyond."""
        if self.hi <= size:
            return self.nbytes
        if self.ordered:
            return int(self.below(size))
        offsets, lengths = self.slice(0, self.nbytes)
        beyond = int(np.argmax(offsets + lengths > size))
        return int(lengths[:beyond].sum()) + max(0, size - int(offsets[beyond]))

    def touched(self, block_bytes: int) -> int:
        """Estimate how many bytes of blocks a read of it decodes: a block counts once for each run of neighbours in it."""
        if self.single or not self.ordered:
            return self._rounded(np.array([self.lo]), np.array([self.hi - self.lo]), block_bytes)
        sample = min(self.nbytes, int(self._before[-1]) * max(1, _SAMPLE // self._offsets.size))
        offsets, lengths = self.slice(0, sample)
        return (
            self._rounded(offsets[:_SAMPLE], lengths[:_SAMPLE], block_bytes)
            * self.nbytes
            // max(1, int(lengths[:_SAMPLE].sum()))
        )

    @staticmethod
    def _rounded(offsets: Offsets, lengths: Offsets, block_bytes: int) -> int:
        first, last = offsets // block_bytes, (offsets + lengths - 1) // block_bytes
        again = np.count_nonzero(first[1:] == last[:-1])
        return (int((last - first + 1).sum()) - int(again)) * block_bytes

    def _index(self, position: int) -> int:
        """Return the number, over all tiles, of the extent that holds this byte of the view."""
        tile, within = divmod(position, int(self._before[-1]))
        return tile * self._offsets.size + int(np.searchsorted(self._before, within, "right")) - 1


_SAMPLE = 1 << 16
