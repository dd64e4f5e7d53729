"""One thread a process that touches the transactions under way, so that observers on other hosts see that their writer lives."""

from __future__ import annotations

import os
import threading

__all__ = ["Heartbeat", "heartbeat"]


class Heartbeat:
    """Touches files by path, never making one. Starts its thread with the first file and ends it with the last."""

    def __init__(self, interval_s: float = 60.0) -> None:
        self.interval_s = interval_s
        self._lock = threading.Lock()
        self._paths: dict[str, bool] = {}  # path -> it is still there
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """A forked child owns no transaction."""
        self._lock = threading.Lock()
        self._paths = {}
        self._wake = threading.Event()
        self._thread = None

    def add(self, path: str) -> None:
        """Begin to touch `path`."""
        with self._lock:
            self._paths[path] = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat, args=(self._wake,), name="pinstripe-heartbeat", daemon=True
                )
                self._thread.start()

    def drop(self, path: str) -> None:
        """End to touch `path`."""
        with self._lock:
            self._paths.pop(path, None)
            if not self._paths:
                self._thread = None
                self._wake.set()
                self._wake = threading.Event()

    def is_there(self, path: str) -> bool:
        """Whether the last touch found it; a transaction whose file is gone was fenced."""
        with self._lock:
            return self._paths.get(path, False)

    def _beat(self, wake: threading.Event) -> None:
        while not wake.wait(self.interval_s):
            with self._lock:
                paths = list(self._paths)
            for path in paths:
                try:
                    os.utime(path)
                except FileNotFoundError:
                    with self._lock:
                        if path in self._paths:
                            self._paths[path] = False
                except OSError:  # a passing fault; the next beat tries again
                    continue


heartbeat = Heartbeat()
