"""Slots: how many requests of this process run at once. A throttled one halves the number, each that succeeds makes it grow a little."""

from __future__ import annotations

import threading
import time
from types import TracebackType

__all__ = ["Slots"]

_CALM_S = 0.2  # requests that were throttled together count once


class Slots:
    """A context manager that waits for a free slot. A thread that has one may enter again.

    Parameters
    ----------
    most : int
        Requests at once at the best of times.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = float(most)
        self._used = 0
        self._halved = 0.0
        self._condition = threading.Condition()
        self._mine = threading.local()

    @property
    def limit(self) -> int:
        """Requests at once for now."""
        return max(1, int(self._limit))

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        if depth == 0:
            with self._condition:
                while self._used >= self.limit:
                    self._condition.wait()
                self._used += 1
        self._mine.depth = depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mine.depth -= 1
        if self._mine.depth == 0:
            with self._condition:
                self._used -= 1
                self._condition.notify()

    def throttled(self) -> None:
        """Halve the number."""
        with self._condition:
            now = time.monotonic()
            if now - self._halved >= _CALM_S:
                self._halved = now
                self._limit = max(1.0, self._limit / 2)

    def succeeded(self) -> None:
        """Let the number grow: by one when as many requests as fit have succeeded."""
        if self._limit < self.most:
            with self._condition:
                self._limit = min(float(self.most), self._limit + 1 / self._limit)
                self._condition.notify()
