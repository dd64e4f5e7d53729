"""Collective files: `open` for Python, `File` for programs that speak MPI-IO. The one part of pinstripe that imports mpi4py.

Every call is collective (all ranks of the communicator make it) or independent (any rank does), and says so. An error on
one rank of a collective call is the same error on all; see docs/reference/semantics.md.
"""

from .abort import abort_on_exception
from .file import File
from .opened import OpenFile
from .opened import open_file as open
from .rank_error import MPIError, RankError
from .report import Decisions, RankCost, Report
from .request import Request
from .team import MPITeam, world_team

__all__ = [
    "Decisions",
    "File",
    "MPIError",
    "MPITeam",
    "OpenFile",
    "RankCost",
    "RankError",
    "Report",
    "Request",
    "abort_on_exception",
    "open",
    "world_team",
]
