"""Who writes, and whether he still lives."""

from __future__ import annotations

import functools
import json
import os
import socket
import time

from ..format.manifest import Writer

__all__ = ["OTHER_HOST_SILENCE_S", "is_alive", "this_writer"]

OTHER_HOST_SILENCE_S = 3600.0
"""A writer on another host or in another container is dead when its heartbeat stood still this long by the observer's own clock."""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


@functools.cache
def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Ticks after boot at which the process started (field 22 of its stat; see proc(5)); None = there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X"):  # dead, and only not yet waited for
        return None
    return int(fields[19])


def this_writer(ranks: int = 1) -> Writer:
    """Describe this process as a transaction's header does."""
    return Writer(
        host=socket.gethostname(),
        pid=os.getpid(),
        start=_start_time(os.getpid()) or 0,
        boot=_boot(),
        pidns=_pid_namespace(),
        job=os.environ.get("SLURM_JOB_ID", ""),
        ranks=ranks,
    )


def is_alive(writer: Writer | None, tx_path: str, *, silence_s: float = OTHER_HOST_SILENCE_S) -> bool:
    """Judge whether the writer of a transaction may still commit. Unsure means yes.

    Parameters
    ----------
    writer : Writer or None
        As its header says; None when the header proves nothing, which counts as another host's.
    tx_path : str
        The transaction's file. Its times are the heartbeat; ``TX.seen`` beside it keeps, between short runs on one boot, what was seen.
    """
    if writer is not None and writer.boot and writer.boot == _boot() and writer.pidns == _pid_namespace():
        try:
            start = _start_time(writer.pid)
        except OSError:  # hidden from us, so it is there
            return True
        return start is not None and start == writer.start
    return not _silent(tx_path, silence_s)


def _silent(tx_path: str, silence_s: float) -> bool:
    seen_path = tx_path.removesuffix(".tx") + ".seen"
    try:
        beat = os.stat(tx_path).st_mtime_ns
    except FileNotFoundError:
        return True
    now = time.monotonic()
    try:
        seen = json.loads(_read(seen_path) or "{}")
    except ValueError:
        seen = {}
    if seen.get("boot") == _boot() and seen.get("beat") == beat and isinstance(seen.get("monotonic"), float):
        return bool(now - seen["monotonic"] >= silence_s)
    try:
        draft = f"{seen_path}.{os.getpid()}"
        with open(draft, "w", encoding="ascii") as file:
            json.dump({"boot": _boot(), "beat": beat, "monotonic": now}, file)
        os.replace(draft, seen_path)
    except OSError:  # a read-only look remembers nothing
        pass
    return False
