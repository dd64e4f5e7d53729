"""Ranks: whether a launcher started us, and the Team of those it started."""

from __future__ import annotations

import os
import sys

from ..errors import ArgumentError
from ..store.team import SERIAL, Team

__all__ = ["end_job", "is_launched", "make_team", "rank"]

_LAUNCHED = ("PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK")


def is_launched() -> bool:
    """Tell whether an MPI launcher started this process."""
    return any(name in os.environ for name in _LAUNCHED)


def rank() -> int:
    """Return this process's number as the launcher gave it; 0 without one. Needs no MPI."""
    for name in _RANKS:
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 0


def end_job(code: int) -> None:
    """End all ranks, if MPI was started: one that left alone would wait for the others in MPI's own end, for ever."""
    started = sys.modules.get("mpi4py.MPI")
    if started is not None and started.Is_initialized() and not started.Is_finalized():
        sys.stdout.flush()
        sys.stderr.flush()
        if started.COMM_WORLD.Get_size() > 1:
            started.COMM_WORLD.Abort(code)


def make_team() -> Team:
    """Return the Team of all ranks if a launcher started us, else the one of this process. Only then is mpi4py imported.

    Raises
    ------
    ArgumentError
        A launcher started us, and mpi4py is not installed.
    """
    if not is_launched():
        return SERIAL
    try:
        from ..mpi import world_team  # here, for it starts MPI
    except ImportError as error:
        raise ArgumentError(f"a launcher started this process, but MPI cannot be used: {error}") from error
    return world_team()
