"""How many CPUs a rank may use for threads of its own."""

from __future__ import annotations

import os

__all__ = ["cpus_for_threads"]

_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE", "PMI_LOCAL_SIZE")
_MOST = 4


def cpus_for_threads(ranks: int) -> int:
    """Threads for one rank: the CPUs of its mask, shared with the ranks of its node; 1 where ranks fill the cores.

    Parameters
    ----------
    ranks : int
        Ranks of the job; how many of them are on this node is the launcher's to say, else all are.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = next((int(os.environ[name]) for name in _LOCAL_SIZES if os.environ.get(name, "").isdigit()), ranks)
    if len_mask := _bound_mask(cpus):
        return min(_MOST, len_mask)
    return max(1, min(_MOST, cpus // max(1, local)))


def _bound_mask(cpus: int) -> int:
    """CPUs of a mask that a launcher narrowed for this rank alone; 0 = the mask is the whole machine's."""
    total = os.cpu_count() or cpus
    return cpus if cpus < total and "SLURM_PROCID" in os.environ else 0
