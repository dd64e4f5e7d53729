"""What ends the whole job when one rank's program dies of an exception."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from types import TracebackType
from typing import NoReturn

from mpi4py import MPI

__all__ = ["abort_on_exception"]

_installed = False
_at_exit = False


def abort_on_exception() -> None:
    """Independent. End the job on all ranks when an exception or a non-zero `sys.exit` ends this rank's program, or an exception a thread.

    Without it, or ``python -m mpi4py``, a rank that dies waits in MPI's finalisation for ranks that wait for it. Call it
    once, early, on every rank. It does nothing more when called again. A `sys.exit` that somebody catches ends nothing.

    Notes
    -----
    It replaces `sys.excepthook`, `threading.excepthook` (both still print what they printed) and `sys.exit`. ``raise
    SystemExit(1)`` without `sys.exit` is not seen; a signal or `os._exit` is for the launcher to notice, and it does.
    """
    global _installed
    if _installed:
        return
    _installed = True
    print_error, print_thread_error = sys.excepthook, threading.excepthook

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            print_error(kind, error, trace)
        finally:
            _abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    def end_of_thread(args: threading.ExceptHookArgs) -> None:
        try:
            print_thread_error(args)
        finally:
            if not issubclass(args.exc_type, SystemExit):
                _abort(1)

    sys.excepthook, threading.excepthook, sys.exit = end, end_of_thread, _exit
    atexit.register(_note_exit)


class _Exit(SystemExit):
    """What our `sys.exit` raises: it notices whether the interpreter or a program took it."""

    def __del__(self) -> None:
        status = self.code if isinstance(self.code, int) else int(self.code is not None)
        # Caught by a program, it is freed under a frame of that program; the interpreter frees it under none, then exits.
        if status and not _at_exit and threading.current_thread() is threading.main_thread() and _is_outermost():
            if not isinstance(self.code, int):
                print(self.code, file=sys.stderr)  # as the interpreter is about to do
            _abort(status)


def _exit(status: object = None, /) -> NoReturn:
    raise _Exit(status)


def _is_outermost() -> bool:
    try:
        sys._getframe(2)
    except ValueError:
        return True
    return False


def _note_exit() -> None:
    global _at_exit
    _at_exit = True


def _abort(status: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    status = status & 0xFF or 1
    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(status)
    os._exit(status)
