"""One rank with 3 GiB and the others with little, interleaved: one collective write, one collective read."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from pinstripe.mpi import File

MIB = 1 << 20
SMALL, ROWS = 1_000, 384
LARGE = 8 * MIB + 4_096  # of a row; no row begins with a stripe


def memory(nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Zeros that take no memory until they are written."""
    return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_one_rank_gives_and_takes_three_gib_between_the_pieces_of_others(ranks: Any, store: Path) -> None:
    large = ranks.rank == ranks.size - 1
    piece = LARGE if large else SMALL
    row = SMALL * (ranks.size - 1) + LARGE
    tile = MPI.BYTE.Create_contiguous(piece).Create_resized(0, row).Commit()
    mine = memory(piece * ROWS)
    assert not large or mine.size > 3 << 30
    rows = mine.reshape(ROWS, piece)
    rows[:, 0], rows[:, -1] = np.arange(ROWS) % 250 + 1, ranks.rank + 1
    info = MPI.Info.Create({"striping_unit": str(MIB), "pinstripe_block_bytes": "1M", "pinstripe_durability": "none"})
    status = MPI.Status()
    with File.Open(ranks.comm, store / "f", MPI.MODE_CREATE | MPI.MODE_RDWR, info) as file:
        file.Set_view(SMALL * ranks.rank, MPI.BYTE, tile)
        file.Write_at_all(0, [mine, mine.size, MPI.BYTE], status)
        assert status.Get_elements(MPI.BYTE) == mine.size
        assert file.Get_size() == row * ROWS
    back = memory(mine.size)
    with File.Open(ranks.comm, store / "f", MPI.MODE_RDONLY) as file:
        file.Set_view(SMALL * ranks.rank, MPI.BYTE, tile)
        file.Read_at_all(0, [back, back.size, MPI.BYTE], status)
        assert status.Get_elements(MPI.BYTE) == back.size
    for start in range(0, ROWS, 32):  # not in one go: the comparison's memory would be as large again
        assert np.array_equal(back.reshape(ROWS, piece)[start : start + 32], rows[start : start + 32])
    tile.Free()
    info.Free()
