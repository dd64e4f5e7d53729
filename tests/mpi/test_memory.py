"""Buffers whose data lies on both sides of its origin."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from pinstripe.errors import ArgumentError
from pinstripe.mpi.memory import memory_of


def test_data_below_the_origin_is_reached_by_a_displacement() -> None:
    backwards = MPI.SHORT.Create_indexed([1, 1], [0, -1]).Commit()  # extent 4
    values = np.arange(8, dtype=np.int16)
    memory = memory_of([values, (2, 1), backwards], write=False)
    assert memory.packed().view(np.int16).tolist() == [2, 1, 4, 3]
    target = np.zeros(8, np.int16)
    into = memory_of([target, (2, 1), backwards], write=True)
    landing = into.landing()
    landing[:] = np.array([10, 11, 12, 13], np.int16).view(np.uint8)
    into.unpack(landing, 6)
    assert target.tolist() == [0, 11, 10, 0, 12, 0, 0, 0]
    with pytest.raises(ArgumentError, match="too small"):
        memory_of([values, (2, 0), backwards], write=False)
    backwards.Free()


def test_a_run_below_the_origin_is_the_callers_memory() -> None:
    before = MPI.SHORT.Create_indexed([2], [-2]).Commit()
    values = np.arange(8, dtype=np.int16)
    memory = memory_of([values, (2, 1), before], write=True)
    assert memory.direct
    assert memory.packed().view(np.int16).tolist() == [0, 1, 2, 3]
    memory.landing()[:] = 0
    assert values.tolist() == [0, 0, 0, 0, 4, 5, 6, 7]
    before.Free()
