"""Which rank takes which bytes of many files. Pure: a test needs neither MPI nor files."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Sequence

__all__ = ["Share", "cut", "deal"]


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Share:
    """Bytes [begin, end) of one file.

    Attributes
    ----------
    file : int
        Its number in the list that was dealt.
    """

    file: int
    begin: int
    end: int


def deal(sizes: Sequence[int], ranks: int, piece_bytes: int, overhead_bytes: int = 1 << 20) -> list[list[Share]]:
    """Deal files to ranks so that all are done at about the same time: largest piece first, to who has least.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each file.
    piece_bytes : int
        A file longer than this is cut at its multiples.
    overhead_bytes : int
        What a piece costs beside its bytes, as bytes: opening, looking up, committing.

    Returns
    -------
    list of list of Share
        For each rank its pieces, in the order of the files. Every byte is in exactly one; an empty file is one empty piece.
    """
    pieces = [
        Share(number, begin, min(begin + piece_bytes, size))
        for number, size in enumerate(sizes)
        for begin in range(0, max(size, 1), piece_bytes)
    ]
    pieces.sort(key=lambda piece: (piece.begin - piece.end, piece.file, piece.begin))
    dealt: list[list[Share]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for piece in pieces:
        load, rank = heapq.heappop(loads)
        dealt[rank].append(piece)
        heapq.heappush(loads, (load + piece.end - piece.begin + overhead_bytes, rank))
    return [sorted(pieces) for pieces in dealt]


def cut(size: int, ranks: int, grain_bytes: int) -> list[tuple[int, int]]:
    """Cut one file into a contiguous range for each rank, at multiples of `grain_bytes`; later ranks may get nothing."""
    grains = -(-size // grain_bytes)
    edges = [min(size, rank * grains // ranks * grain_bytes) for rank in range(ranks)] + [size]
    return list(itertools.pairwise(edges))
