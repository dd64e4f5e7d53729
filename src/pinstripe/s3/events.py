"""Events: what long work tells while it runs, and the summary that is left of it. No clock but the monotonic one, no output."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..store.team import Team
from .reports import code_of

__all__ = ["LIMITS", "Events", "Failure", "Summary", "guess_limit"]

LIMITS = ("network", "throttling", "listing", "cpu", "targets")
"""What work may wait for: the bucket's answers; the service's "slow down"; lists of keys; checksums, compression and TLS; the
store's own targets."""

_THROTTLED_SHARE = 0.2
_IDLE_SHARE = 0.05
_FAILED, _CONFLICT, _UNVERIFIED, _RESUMABLE = 1, 3, 4, 75


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """One path that failed.

    Attributes
    ----------
    path : str
    text : str
        Why.
    code : int
        The exit code that goes with it: 1, 3 (conflict) or 4 (does not verify).
    error_code : str
        As a report has it, such as ``S3AccessDenied``; "" where it was not said.
    """

    path: str
    text: str
    code: int = _FAILED
    error_code: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What was done, by one rank or by all.

    Attributes
    ----------
    files, bytes : int
        Done.
    skipped : int
        Left as they are, because nothing was to be done or that was asked for.
    failed, conflicts, damaged : int
        Failures of exit codes 1, 3 and 4.
    verified : int
        Files whose checksum was compared, of the whole, with the bucket's.
    seconds : float
        From the start to `Events.finish`; the longest of all ranks.
    retries : int
        Requests that were made again.
    incomplete : bool
        Whether it ended before all was tried: run it again.
    limiting : str
        One of `LIMITS`, or "" where nothing stands out.
    spent : dict
        Seconds by what they were spent on, summed over threads and ranks.
    """

    files: int = 0
    bytes: int = 0
    skipped: int = 0
    failed: int = 0
    conflicts: int = 0
    damaged: int = 0
    verified: int = 0
    seconds: float = 0.0
    retries: int = 0
    incomplete: bool = False
    limiting: str = ""
    spent: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or that of the gravest: 1 some failed, 3 conflict, 4 verification failed, 75 incomplete."""
        return max(
            _RESUMABLE * self.incomplete,
            _UNVERIFIED * bool(self.damaged),
            _CONFLICT * bool(self.conflicts),
            _FAILED * bool(self.failed),
        )

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON, the exit code among them."""
        values = dataclasses.asdict(self) | {"exit_code": self.exit_code}
        values["seconds"] = round(self.seconds, 3)
        values["spent"] = {name: round(seconds, 3) for name, seconds in self.spent.items()}
        return values

    @classmethod
    def joined(cls, summaries: Iterable[Summary]) -> Summary:
        """Add up what several ranks, or several steps at the same time, did."""
        every = list(summaries)
        spent: dict[str, float] = {}
        for one in every:
            for name, seconds in one.spent.items():
                spent[name] = spent.get(name, 0.0) + seconds
        counts = ("files", "bytes", "skipped", "failed", "conflicts", "damaged", "verified", "retries")
        sums: dict[str, Any] = {name: sum(getattr(one, name) for one in every) for name in counts}
        seconds = max((one.seconds for one in every), default=0.0)
        return cls(
            **sums,
            seconds=seconds,
            incomplete=any(one.incomplete for one in every),
            limiting=guess_limit(spent, seconds * max(1, len(every))),
            spent=spent,
        )

    def of_all(self, team: Team) -> Summary:
        """Collective. Add up those of all ranks; every rank gets the sum."""
        mine = json.dumps(dataclasses.asdict(self)).encode()
        every = team.allgather(np.frombuffer(mine, np.uint8))
        return Summary.joined(Summary(**json.loads(array.tobytes())) for array in every)


def guess_limit(spent: Mapping[str, float], seconds: float) -> str:
    """Guess what the work waited for most.

    Parameters
    ----------
    spent : mapping
        Seconds by `LIMITS`, summed over threads; other names count for nothing.
    seconds : float
        How long the work took, summed over ranks.

    Returns
    -------
    str
        ``throttling`` as soon as it is a fifth of all waiting: the other waits are longer because of it. Else the longest. ""
        where even that is next to nothing.
    """
    known = {name: spent.get(name, 0.0) for name in LIMITS}
    total = sum(known.values())
    if total <= 0 or total < _IDLE_SHARE * seconds:
        return ""
    if known["throttling"] >= _THROTTLED_SHARE * total:
        return "throttling"
    return max(LIMITS, key=lambda name: known[name])


class Events:
    """What long work tells: to nobody, here; a face makes a subclass and overrides what it wants to show.

    Counts all, so `finish` has a summary. Thread-safe: the methods that start with a letter may be called by any thread; the
    hooks (``on_...``) are called with the lock held, one at a time, and must not call back.

    Attributes
    ----------
    phase_name : str
        Of the phase under way.
    phase_files, phase_bytes : int
        Done in it.
    expected_files, expected_bytes : int or None
        To do in it, as far as it is known.
    failures : list of Failure
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._begun = time.monotonic()
        self._done = Summary()
        self._spent: dict[str, float] = {}
        self.phase_name = ""
        self.phase_files, self.phase_bytes = 0, 0
        self.expected_files: int | None = None
        self.expected_bytes: int | None = None
        self.failures: list[Failure] = []

    def phase(self, name: str, files: int | None = None, bytes: int | None = None) -> None:
        """Begin a phase, such as ``list``, ``fetch`` or ``upload``, of so many files and bytes; None = not known yet."""
        with self._lock:
            if self.phase_name:
                self.on_phase_end()
            self.phase_name = name
            self.phase_files = self.phase_bytes = 0
            self.expected_files, self.expected_bytes = files, bytes
            self.on_phase()

    def expect(self, files: int = 0, bytes: int = 0) -> None:
        """Say that so many more are to be done in this phase."""
        with self._lock:
            self.expected_files = (self.expected_files or 0) + files
            self.expected_bytes = (self.expected_bytes or 0) + bytes
            self.on_advance()

    def advance(self, files: int = 0, bytes: int = 0, *, count: bool = True) -> None:
        """Count what is done; with ``count=False`` in this phase only, and not in the summary."""
        with self._lock:
            self.phase_files += files
            self.phase_bytes += bytes
            if count:
                self._add(files=files, bytes=bytes)
            self.on_advance()

    def skipped(self, path: str, reason: str = "") -> None:
        """Tell a path that is left as it is."""
        with self._lock:
            self._add(skipped=1)
            self.on_skipped(path, reason)

    def failed(self, path: str, error: BaseException | str, *, code: int = 0, error_code: str = "") -> None:
        """Tell a path that failed.

        Parameters
        ----------
        path : str
        error : exception or str
            What happened; an error of ours brings its exit code along.
        code : int
            1, 3 or 4, where `error` does not say.
        error_code : str
            As a report has it, where `error` does not say.
        """
        kind = getattr(error, "kind", "")
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        if isinstance(error, BaseException) and not error_code:
            error_code = code_of(error)
        if not code:
            is_conflict = kind == "conflict" or error_code == "Conflict"
            code = _CONFLICT if is_conflict else _UNVERIFIED if error_code == "ChecksumMismatch" else _FAILED
        failure = Failure(path, text, code, error_code)
        with self._lock:
            self.failures.append(failure)
            self._add(**{{_CONFLICT: "conflicts", _UNVERIFIED: "damaged"}.get(code, "failed"): 1})
            self.on_failed(failure)

    def conflict(self, path: str, reason: str) -> None:
        """Tell a path that both sides changed: nothing was done about it."""
        self.failed(path, reason, code=_CONFLICT, error_code="Conflict")

    def retried(self, count: int = 1) -> None:
        """Count requests that were made again."""
        with self._lock:
            self._add(retries=count)
            self.on_advance()

    def verified(self, files: int = 1) -> None:
        """Count files whose checksum was compared with the bucket's and is the same."""
        with self._lock:
            self._add(verified=files)
            self.on_advance()

    def planned(self, verb: str, path: str, size: int = 0, reason: str = "") -> None:
        """Tell what would be done, in a dry run. Counts as done."""
        with self._lock:
            self._add(files=1, bytes=size)
            self.on_planned(verb, path, size, reason)

    def note(self, text: str) -> None:
        """Tell something that is said once, such as that the endpoint keeps no checksum of whole objects."""
        with self._lock:
            self.on_note(text)

    def spent(self, limit: str, seconds: float) -> None:
        """Count seconds that a thread spent on one of `LIMITS`."""
        with self._lock:
            self._spent[limit] = self._spent.get(limit, 0.0) + seconds

    @contextmanager
    def spending(self, limit: str) -> Iterator[None]:
        """Count the seconds of the block."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent(limit, time.monotonic() - begun)

    def interrupted(self) -> None:
        """Say that it ends before all was tried."""
        with self._lock:
            self._done = dataclasses.replace(self._done, incomplete=True)

    def finish(self) -> Summary:
        """End the last phase; return the summary of this rank."""
        with self._lock:
            if self.phase_name:
                self.on_phase_end()
                self.phase_name = ""
            seconds = time.monotonic() - self._begun
            limiting = guess_limit(self._spent, seconds)
            return dataclasses.replace(self._done, seconds=seconds, limiting=limiting, spent=dict(self._spent))

    @property
    def summary(self) -> Summary:
        """What was counted so far, without times."""
        with self._lock:
            return self._done

    def on_phase(self) -> None:
        """A phase began."""

    def on_phase_end(self) -> None:
        """The phase under way ends."""

    def on_advance(self) -> None:
        """Some number changed."""

    def on_skipped(self, path: str, reason: str) -> None:
        """A path is left as it is."""

    def on_failed(self, failure: Failure) -> None:
        """A path failed."""

    def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
        """A dry run found something to do."""

    def on_note(self, text: str) -> None:
        """Something is to be said once."""

    def _add(self, **counts: int) -> None:
        changes: dict[str, Any] = {name: getattr(self._done, name) + count for name, count in counts.items()}
        self._done = dataclasses.replace(self._done, **changes)
