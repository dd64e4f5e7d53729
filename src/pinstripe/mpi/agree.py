"""The agreement: one Allgather of one fixed shape with which every collective call begins and ends.

It tells each rank what all others are doing, so that an error, another call, or an exception that leaves a ``with`` block
on one rank is the same error on every rank, and nobody waits for ever. All ranks always send one `SUMMARY`, whatever they
are about to do; that is why a rank that is somewhere else is found out instead of hanging the job.

Rule: an agreed error ends the call on every rank. Nobody agrees again on a `RankError` that came out of an agreement.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from .channel import Channel
from .messages import bcast_bytes
from .rank_error import MPIError, RankError, from_bytes, located, to_bytes

__all__ = ["SUMMARY", "Agreement", "Flag", "Operation", "agree", "announce", "rank_list"]


class Operation(enum.IntEnum):
    """What a rank is doing when it agrees; the names appear in the error of a mismatched call."""

    open = 1
    close = 2
    discard = 3
    sync = 4
    set_size = 5
    write_at_all = 6
    read_at_all = 7
    write_all = 8
    read_all = 9
    set_view = 10
    report = 11
    set_info = 12
    get_size = 13
    transfer = 14  # the exchange inside a collective write or read
    finish = 15  # the end of any call
    team = 16  # inside the store
    delete = 17
    preallocate = 18
    write_ordered = 19
    read_ordered = 20
    seek_shared = 21
    split_end = 22
    set_atomicity = 23


class Flag(enum.IntFlag):
    """What else a rank says in its summary."""

    none = 0
    failed = 1  # `error_bytes` of error follow
    lost = 2  # with `failed`: data that the caller gave is not in the file, so it must not be published
    leaving = 4  # with `failed`: the caller's own exception is leaving a `with` block
    unordered = 8  # the extents overlap each other or are not in file order
    leftover = 16  # independent writes left partial stripes here


SUMMARY = np.dtype(
    [
        ("operation", "<u4"),
        ("flags", "<u4"),
        ("file", "<u8"),
        ("same", "<i8"),  # an argument that must be equal on all ranks
        ("error_bytes", "<i8"),
        ("lo", "<i8"),  # first byte in the file, and one behind the last
        ("hi", "<i8"),
        ("nbytes", "<i8"),
        ("extents", "<i8"),
        ("width", "<i8"),  # element width
        ("size", "<i8"),  # of the file, as this rank knows it
        ("touched", "<i8"),  # a read: raw bytes of all blocks that it touches
        ("reserved", "<i8", 6),
    ]
)
assert SUMMARY.itemsize == 136

Summaries = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """What all ranks said.

    Attributes
    ----------
    summaries : structured array
        One `SUMMARY` a rank.
    error : RankError or None
        The error that every rank is to raise.
    """

    summaries: Summaries
    error: RankError | None

    @property
    def matched(self) -> bool:
        """Whether all ranks are in the same call on the same file."""
        return not bool(_different(self.summaries).any())

    @property
    def lost(self) -> bool:
        """Whether a rank says that data was lost."""
        return bool((self.summaries["flags"] & Flag.lost).any())

    @property
    def leaving(self) -> bool:
        """Whether a rank is leaving a ``with`` block by an exception."""
        return bool((self.summaries["flags"] & Flag.leaving).any())


def announce(
    channel: Channel,
    operation: Operation,
    file: int = 0,
    error: BaseException | None = None,
    flags: Flag = Flag.none,
    **values: int,
) -> Agreement:
    """Collective. Tell all ranks what this one does, and learn what they do; raise nothing.

    Parameters
    ----------
    operation, file
        What is called, on which file (its number on this channel; 0 = none).
    error
        What went wrong here before the call; every rank's agreement then carries the lowest rank's.
    flags, values
        Fields of `SUMMARY`.
    """
    payload = b""
    if error is not None:
        flags |= Flag.failed
        payload = to_bytes(error)
    mine = np.zeros(1, SUMMARY)
    mine["operation"], mine["flags"], mine["file"], mine["error_bytes"] = operation, flags, file, len(payload)
    for name, value in values.items():
        mine[name] = value
    summaries = mine
    if channel.size > 1:
        summaries = np.empty(channel.size, SUMMARY)
        channel.comm.Allgather([mine, MPI.BYTE], [summaries, MPI.BYTE])
    channel.calls += 1
    return Agreement(summaries, _agreed_error(channel, summaries, error, payload))


def agree(
    channel: Channel,
    operation: Operation,
    file: int = 0,
    error: BaseException | None = None,
    flags: Flag = Flag.none,
    **values: int,
) -> Summaries:
    """Collective. As `announce`, but raise the agreed error, on every rank.

    Returns
    -------
    structured array
        One `SUMMARY` a rank.

    Raises
    ------
    RankError
        An error on any rank, or ranks in different calls or with different arguments where they must be equal.
    """
    agreement = announce(channel, operation, file, error, flags, **values)
    if agreement.error is not None:
        raise agreement.error
    return agreement.summaries


_MUST_BE_EQUAL = {
    Operation.open: "path, mode or hints",
    Operation.set_info: "hints",
    Operation.set_size: "the sizes",
    Operation.preallocate: "the sizes",
    Operation.set_view: "the hints",
    Operation.seek_shared: "offset or whence",
    Operation.set_atomicity: "the flags",
}
_SHOWN = (Operation.set_size, Operation.preallocate)


def _agreed_error(
    channel: Channel, summaries: Summaries, error: BaseException | None, payload: bytes
) -> RankError | None:
    failed = np.flatnonzero(summaries["flags"] & Flag.failed)
    if failed.size:
        root = int(failed[0])
        data = bcast_bytes(channel.comm, payload, int(summaries["error_bytes"][root]), root)
        # Also the rank where it arose raises what came out of the message: so all raise exactly the same.
        agreed = located(from_bytes(data), root, channel.hosts[root])
        if failed.size > 1:
            agreed.add_note(f"{rank_list(failed[1:])} failed as well")
        agreed.__cause__ = error if not isinstance(error, RankError) else error.__cause__
        return agreed
    if _different(summaries).any():
        other = int(np.flatnonzero(_different(summaries))[0])
        return located(MPIError(_mismatch(summaries), MPI.ERR_OTHER), other, channel.hosts[other])
    same = summaries["same"]
    if (same != same[0]).any():
        other = int(np.flatnonzero(same != same[0])[0])
        operation = Operation(int(summaries["operation"][0]))
        what = _MUST_BE_EQUAL.get(operation, "an argument")
        values = f" ({same[0]} and {same[other]})" if operation in _SHOWN else ""
        text = f"{operation.name}: {what} differ between rank 0 and rank {other}{values}"
        return located(MPIError(text, MPI.ERR_NOT_SAME), other, channel.hosts[other])
    return None


def _different(summaries: Summaries) -> npt.NDArray[np.bool_]:
    first = summaries[0]
    return np.asarray((summaries["operation"] != first["operation"]) | (summaries["file"] != first["file"]))


def _mismatch(summaries: Summaries) -> str:
    keys = list(zip(summaries["operation"].tolist(), summaries["file"].tolist(), strict=True))
    parts = []
    for key in dict.fromkeys(keys):
        ranks = np.array([rank for rank, other in enumerate(keys) if other == key])
        parts.append(f"{rank_list(ranks)} in {Operation(key[0]).name} of file {key[1]}")
    return f"ranks are in different collective calls: {'; '.join(parts)}"


def rank_list(ranks: npt.ArrayLike) -> str:
    """Write ranks as people do: ``rank 3``, ``ranks 0-2, 5``."""
    array = np.unique(np.asarray(ranks, dtype=np.int64))
    runs = np.split(array, np.flatnonzero(np.diff(array) != 1) + 1)
    parts = [str(run[0]) if run.size == 1 else f"{run[0]}-{run[-1]}" for run in runs if run.size]
    return ("rank " if array.size == 1 else "ranks ") + ", ".join(parts)
