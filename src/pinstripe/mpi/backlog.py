"""Backlog: work on one file that a thread does in order while its owner goes on. The thread calls no MPI."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..errors import FencedError

__all__ = ["Backlog"]


class Backlog:
    """A queue of calls on one file's session, and the thread that makes them.

    The thread starts with the first call and ends with `finish`. After the first error nothing more of the queue is done.

    Parameters
    ----------
    most_bytes : int
        How many bytes of its own the queue may hold; who would exceed it waits.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._calls: deque[tuple[Callable[[], object], int]] = deque()
        self._held = 0
        self._given = self._done = 0  # how many calls ever
        self._busy = False  # whether one is being made
        self._failed = 0  # number of the first that failed; 0 = none did
        self._error: BaseException | None = None
        self._untold: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    def put(self, call: Callable[[], object], nbytes: int = 0) -> int:
        """Let `call` be made after all that was put before; return its number. Waits while the queue holds too much.

        Parameters
        ----------
        nbytes : int
            Memory that the queue holds for it until then.
        """
        with self._changed:
            while self._held and self._held + nbytes > self._most_bytes:
                self._changed.wait()
            self._calls.append((call, nbytes))
            self._held += nbytes
            self._given += 1
            if self._thread is None:
                self._ending = False
                self._thread = threading.Thread(target=self._work, name="pinstripe-backlog", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return self._given

    @property
    def last(self) -> int:
        """Number of the call that was put last; 0 = none ever."""
        return self._given

    def is_done(self, number: int) -> bool:
        """Whether the call with this number, and all before it, are over."""
        with self._changed:
            return self._done >= number

    def wait(self, number: int) -> None:
        """Wait until the call with this number is over; raise the error that it, or one before it, ended with."""
        with self._changed:
            while self._done < number:
                self._changed.wait()
            if self._failed and self._failed <= number:
                assert self._error is not None
                raise self._error

    def drain(self) -> None:
        """Wait until the queue is empty. Its error stays in `take_error`."""
        if self._done == self._given:  # as always where nothing is put off; only the owner gives
            return
        with self._changed:
            while self._done < self._given:
                self._changed.wait()

    def take_error(self) -> BaseException | None:
        """Return the first error, once."""
        with self._changed:
            error, self._untold = self._untold, None
            return error

    def finish(self) -> None:
        """Drop what was not begun, wait for what was, end the thread."""
        with self._changed:
            if self._calls:
                self._fail(self._done + self._busy + 1, FencedError("the file was discarded before this was written"))
                self._calls.clear()
            self._ending = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            self._thread, self._done, self._held = None, self._given, 0
            self._changed.notify_all()

    def _fail(self, number: int, error: BaseException) -> None:
        if not self._failed or number < self._failed:
            self._failed, self._error, self._untold = number, error, error

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._calls and not self._ending:
                    self._changed.wait()
                if not self._calls:
                    return
                call, nbytes = self._calls.popleft()
                skip, self._busy = bool(self._failed), True
            error: BaseException | None = None
            try:
                if not skip:
                    call()
            except BaseException as caught:
                error = caught
            del call  # with the memory that it held
            with self._changed:
                self._held -= nbytes
                self._done += 1
                self._busy = False
                if error is not None:
                    self._fail(self._done, error)
                self._changed.notify_all()
