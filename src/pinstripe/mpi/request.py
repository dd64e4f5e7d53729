"""Request: what a nonblocking call returns, with the methods of mpi4py's. To wait for it is local: no other rank takes part."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, TypeVar

from mpi4py import MPI

from ..errors import ArgumentError, ForkedError
from .collective import CollectiveFile
from .rank_error import MPIError, located

__all__ = ["Request"]

_T = TypeVar("_T")
_POLL_S = 0.0002


class Request:
    """A nonblocking call under way, with the methods of `mpi4py.MPI.Request`.

    Complete when the caller may change the buffer; what was written is visible to others after the next publication. ``Request()`` is
    null, equal to `MPI.REQUEST_NULL`, as each is after it was waited for. Methods on several requests take null ones, and MPI's own,
    among ours; MPI's own class methods do not take ours. It cannot be pickled.
    """

    def __init__(self, request: Request | None = None) -> None:
        if request is not None and request != MPI.REQUEST_NULL:
            raise ArgumentError("a request has one object: pass that on")
        self._file: CollectiveFile | None = None
        self._number = 0
        self._nbytes = 0

    @classmethod
    def _of(cls, file: CollectiveFile, number: int, nbytes: int) -> Request:
        """Make the request of a call in a file's backlog; number 0 is complete."""
        request = cls()
        request._file, request._number, request._nbytes = file, number, nbytes
        return request

    # --- what it is ---

    def __bool__(self) -> bool:
        return self._file is not None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Request):
            return self is other or not (self or other)
        if isinstance(other, MPI.Request):
            return not self and other == MPI.REQUEST_NULL
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as mpi4py's

    def __reduce__(self) -> NoReturn:
        raise ValueError("cannot pickle a request: it belongs to this process")

    def __repr__(self) -> str:
        return f"<pinstripe.mpi.Request {'null' if self._file is None else self._file.session.path!r}>"

    # --- one ---

    def Wait(self, status: MPI.Status | None = None) -> Literal[True]:
        """Independent. Wait until the call is complete; then it is null. An error of the call is raised here, and on all ranks at the next
        collective call on the file."""
        file, nbytes = self._file, self._nbytes
        if file is not None:
            _refuse_fork(file)
            try:
                file.backlog.wait(self._number)
            except Exception as error:
                self._file = None
                raise located(error, file.rank, file.host) from error
            self._file = None
        _tell(status, nbytes if file is not None else 0)
        return True

    def Test(self, status: MPI.Status | None = None) -> bool:
        """Independent. Tell whether the call is complete; if so, as `Wait`."""
        return self.Wait(status) if self._is_over() else False

    def Get_status(self, status: MPI.Status | None = None) -> bool:
        """Independent. Tell whether the call is complete; it stays active. Raises nothing."""
        if not self._is_over():
            return False
        _tell(status, self._nbytes if self else 0)
        return True

    def Cancel(self) -> None:
        """Independent. Refused: what was begun is written. Leave the ``with`` block by an exception to publish nothing."""
        raise _refused("a call on a file cannot be cancelled: wait for it", self._file)

    def Free(self) -> None:
        """Independent. Let go of an active request; the call goes on, and its error is raised by the next collective call."""
        if self._file is None:
            raise _refused("the request is null", None, MPI.ERR_REQUEST)
        self._file = None

    def free(self) -> None:
        """Independent. As `Free`; nothing on a null request."""
        if self:
            self.Free()

    def wait(self, status: MPI.Status | None = None) -> Any:
        """Independent. As `Wait`; return None, for no object comes of it."""
        self.Wait(status)

    def test(self, status: MPI.Status | None = None) -> tuple[bool, Any | None]:
        """Independent. As `Test`; return whether, and None."""
        return self.Test(status), None

    def get_status(self, status: MPI.Status | None = None) -> bool:
        """Independent. As `Get_status`."""
        return self.Get_status(status)

    def cancel(self) -> None:
        """Independent. As `Cancel`: refused."""
        self.Cancel()

    def _is_over(self) -> bool:
        if self._file is None:
            return True
        _refuse_fork(self._file)
        return self._file.backlog.is_done(self._number)

    # --- several ---

    @classmethod
    def Waitall(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> Literal[True]:
        """Independent. Wait for all; the first error is raised when all are complete."""
        _finish(requests, range(len(requests)), statuses)
        return True

    @classmethod
    def Testall(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> bool:
        """Independent. Tell whether all are complete; if so, as `Waitall`."""
        return all(_is_over(request) for request in requests) and cls.Waitall(requests, statuses)

    @classmethod
    def Waitany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> int:
        """Independent. Wait for one; return its index, or `MPI.UNDEFINED` if none is active."""
        return _poll(lambda: _one(requests, status))[0]

    @classmethod
    def Testany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, bool]:
        """Independent. Return the index of one that is complete and whether there is one; `MPI.UNDEFINED` and True if none is active."""
        found = _one(requests, status)
        return found if found is not None else (MPI.UNDEFINED, False)

    @classmethod
    def Waitsome(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> list[int] | None:
        """Independent. Wait for at least one; return the indices of all that are complete, or None if none is active."""
        return _poll(lambda: _some(requests, statuses) or None if _active(requests) else _NONE) or None

    @classmethod
    def Testsome(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> list[int] | None:
        """Independent. Return the indices of those that are complete, perhaps none; None if none is active."""
        return _some(requests, statuses) if _active(requests) else None

    @classmethod
    def Get_status_all(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> bool:
        """Independent. Tell whether all are complete; they stay active."""
        if not all(_is_over(request) for request in requests):
            return False
        for number, request in enumerate(requests):
            request.Get_status(_status(statuses, number))
        return True

    @classmethod
    def Get_status_any(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, bool]:
        """Independent. As `Testany`; they stay active."""
        if not _active(requests):
            _tell(status, 0)
            return MPI.UNDEFINED, True
        for number, request in enumerate(requests):
            if request and _is_over(request):
                request.Get_status(status)
                return number, True
        return MPI.UNDEFINED, False

    @classmethod
    def Get_status_some(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> list[int] | None:
        """Independent. As `Testsome`; they stay active."""
        if not _active(requests):
            return None
        over = [number for number, request in enumerate(requests) if request and _is_over(request)]
        for place, number in enumerate(over):
            requests[number].Get_status(_status(statuses, place))
        return over

    @classmethod
    def waitall(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> list[Any]:
        """Independent. As `Waitall`; return a list of None."""
        cls.Waitall(requests, statuses)
        return [None] * len(requests)

    @classmethod
    def testall(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> tuple[bool, list[Any] | None]:
        """Independent. As `Testall`; return also a list of None, or None."""
        return (True, [None] * len(requests)) if cls.Testall(requests, statuses) else (False, None)

    @classmethod
    def waitany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, Any]:
        """Independent. As `Waitany`; return also None."""
        return cls.Waitany(requests, status), None

    @classmethod
    def testany(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, bool, Any | None]:
        """Independent. As `Testany`; return also None."""
        return (*cls.Testany(requests, status), None)

    @classmethod
    def waitsome(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> tuple[list[int] | None, list[Any] | None]:
        """Independent. As `Waitsome`; return also a list of None, or None."""
        done = cls.Waitsome(requests, statuses)
        return done, None if done is None else [None] * len(done)

    @classmethod
    def testsome(
        cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None
    ) -> tuple[list[int] | None, list[Any] | None]:
        """Independent. As `Testsome`; return also a list of None, or None."""
        done = cls.Testsome(requests, statuses)
        return done, None if done is None else [None] * len(done)

    @classmethod
    def get_status_all(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> bool:
        """Independent. As `Get_status_all`."""
        return cls.Get_status_all(requests, statuses)

    @classmethod
    def get_status_any(cls, requests: Sequence[Any], status: MPI.Status | None = None) -> tuple[int, bool]:
        """Independent. As `Get_status_any`."""
        return cls.Get_status_any(requests, status)

    @classmethod
    def get_status_some(cls, requests: Sequence[Any], statuses: list[MPI.Status] | None = None) -> list[int] | None:
        """Independent. As `Get_status_some`."""
        return cls.Get_status_some(requests, statuses)

    # --- handles ---

    @property
    def handle(self) -> int:
        """Independent. MPI's handle of the null request; an active one has none, which is an error."""
        self._refuse_handle()
        return MPI.REQUEST_NULL.handle

    def toint(self) -> int:
        """Independent. As `handle`, as an integer."""
        self._refuse_handle()
        return MPI.REQUEST_NULL.toint()

    def py2f(self) -> int:
        """Independent. As `handle`, for Fortran."""
        self._refuse_handle()
        return MPI.REQUEST_NULL.py2f()

    @classmethod
    def fromhandle(cls, handle: int) -> Request:
        """Independent. Return the null request for its handle; others are refused."""
        return cls._null(handle == MPI.REQUEST_NULL.handle)

    @classmethod
    def fromint(cls, arg: int, /) -> Request:
        """Independent. As `fromhandle`."""
        return cls._null(arg == MPI.REQUEST_NULL.toint())

    @classmethod
    def f2py(cls, arg: int) -> Request:
        """Independent. As `fromhandle`."""
        return cls._null(arg == MPI.REQUEST_NULL.py2f())

    def _refuse_handle(self) -> None:
        if self:
            raise _refused(
                "a request on a file of a store is no request of the MPI library: it has no handle", self._file
            )

    @classmethod
    def _null(cls, is_null: bool) -> Request:
        if not is_null:
            raise _refused("a handle of the MPI library is no request on a file of a store", None)
        return cls()


_NONE: list[int] = []


def _refused(text: str, file: CollectiveFile | None, mpi_class: int = MPI.ERR_UNSUPPORTED_OPERATION) -> Exception:
    rank, host = (file.rank, file.host) if file is not None else (0, MPI.Get_processor_name())
    return located(MPIError(text, mpi_class), rank, host)


def _refuse_fork(file: CollectiveFile) -> None:
    if file.pid != os.getpid():
        error = ForkedError(f"{file.session.path}: the request belongs to process {file.pid}")
        raise located(error, file.rank, file.host)


def _tell(status: MPI.Status | None, nbytes: int) -> None:
    if status is not None:
        status.Set_elements(MPI.BYTE, nbytes)
        status.Set_cancelled(False)


def _active(requests: Sequence[Any]) -> bool:
    return any(map(bool, requests))


def _is_over(request: Any) -> bool:
    return bool(request._is_over() if isinstance(request, Request) else request.Get_status())


def _one(requests: Sequence[Any], status: MPI.Status | None) -> tuple[int, bool] | None:
    """Complete one; None = none is complete."""
    if not _active(requests):
        _tell(status, 0)
        return MPI.UNDEFINED, True
    for number, request in enumerate(requests):
        if request and request.Test(status):
            return number, True
    return None


def _some(requests: Sequence[Any], statuses: list[MPI.Status] | None) -> list[int]:
    over = [number for number, request in enumerate(requests) if request and _is_over(request)]
    _finish(requests, over, statuses)
    return over


def _finish(requests: Sequence[Any], numbers: Sequence[int], statuses: list[MPI.Status] | None) -> None:
    """Complete these, whatever fails; then raise the first error."""
    first: Exception | None = None
    for place, number in enumerate(numbers):
        try:
            requests[number].Wait(_status(statuses, place))
        except MPI.Exception as error:
            first = first or error
    if first is not None:
        raise first


def _status(statuses: list[MPI.Status] | None, place: int) -> MPI.Status | None:
    """Return the status at a place of the caller's list, which grows as mpi4py lets it grow."""
    if statuses is None:
        return None
    while len(statuses) <= place:
        statuses.append(MPI.Status())
    return statuses[place]


def _poll(look: Callable[[], _T | None]) -> _T:
    while (found := look()) is None:
        time.sleep(_POLL_S)
    return found
