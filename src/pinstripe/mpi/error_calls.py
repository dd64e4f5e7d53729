"""What `File` does with an error: raise it, or end the job; and the handles that a file of a store cannot have."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

from mpi4py import MPI

from .calls import Calls
from .rank_error import MPIError, located

__all__ = ["ErrorCalls", "answering"]

_Class = TypeVar("_Class", bound=type)


class ErrorCalls(Calls):
    """Error handlers and handles. ``ERRORS_RETURN``, the default, raises; ``ERRORS_ARE_FATAL`` and ``ERRORS_ABORT`` end the job."""

    _default_errhandler: ClassVar[MPI.Errhandler] = MPI.ERRORS_RETURN

    def __init__(self) -> None:
        super().__init__()
        self._errhandler: MPI.Errhandler | None = None

    @classmethod
    def Create_errhandler(cls, errhandler_fn: Callable[..., None]) -> MPI.Errhandler:
        """Independent. Refused: errors are exceptions, with rank and host; catch them."""
        raise _refused("an error handler of your own cannot be called with a file of a store: catch MPI.Exception")

    def Get_errhandler(self) -> MPI.Errhandler:
        """Independent. Return the error handler; the null file's is what `Open` and `Delete` use and new files begin with."""
        return self._errhandler or type(self)._default_errhandler

    def Set_errhandler(self, errhandler: MPI.Errhandler) -> None:
        """Independent. Choose ``ERRORS_RETURN``, ``ERRORS_ARE_FATAL`` or ``ERRORS_ABORT``; others are refused. On the null file: for new ones."""
        if errhandler != MPI.ERRORS_RETURN and not _is_fatal(errhandler):
            raise _refused("an error handler is one of ERRORS_RETURN, ERRORS_ARE_FATAL, ERRORS_ABORT")
        if self:
            self._errhandler = errhandler
        else:
            type(self)._default_errhandler = errhandler

    def Call_errhandler(self, errorcode: int) -> None:
        """Independent. Do what the error handler does with an error of this class: nothing, or end the job."""
        if _is_fatal(self.Get_errhandler()):
            self._abort(MPI.Exception(errorcode))

    def _abort(self, error: MPI.Exception) -> None:
        comm = self._shared.channel.comm if self._shared is not None else MPI.COMM_WORLD
        _end_job(comm, error)

    # --- handles ---

    @property
    def handle(self) -> int:
        """Independent. MPI's handle of the null file; an open one has none, which is an error."""
        self._refuse_handle()
        return MPI.FILE_NULL.handle

    def toint(self) -> int:
        """Independent. As `handle`, as an integer."""
        self._refuse_handle()
        return MPI.FILE_NULL.toint()

    def py2f(self) -> int:
        """Independent. As `handle`, for Fortran."""
        self._refuse_handle()
        return MPI.FILE_NULL.py2f()

    @classmethod
    def fromhandle(cls, handle: int) -> Self:
        """Independent. Return the null file for its handle; others are refused."""
        return cls._null(handle == MPI.FILE_NULL.handle)

    @classmethod
    def fromint(cls, arg: int, /) -> Self:
        """Independent. As `fromhandle`."""
        return cls._null(arg == MPI.FILE_NULL.toint())

    @classmethod
    def f2py(cls, arg: int) -> Self:
        """Independent. As `fromhandle`."""
        return cls._null(arg == MPI.FILE_NULL.py2f())

    def _refuse_handle(self) -> None:
        if self:
            raise _refused("a file of a store is no file of the MPI library: it has no handle for C or Fortran")

    @classmethod
    def _null(cls, is_null: bool) -> Self:
        if not is_null:
            raise _refused("a handle of the MPI library is no file of a store: open it with File.Open")
        return cls()


def answering(cls: _Class) -> _Class:
    """Let every public method of a class do what the error handler says when it raises."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod):
            setattr(cls, name, classmethod(_answered(member.__func__)))
        elif inspect.isfunction(member):
            setattr(cls, name, _answered(member))
    return cls


def _answered(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(first: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(first, *args, **kwargs)
        except MPI.Exception as error:
            if isinstance(first, ErrorCalls):
                if _is_fatal(first.Get_errhandler()):
                    first._abort(error)
            elif _is_fatal(first._default_errhandler):
                _end_job(MPI.COMM_WORLD, error)
            raise

    return call


def _is_fatal(errhandler: MPI.Errhandler) -> bool:
    return errhandler in (MPI.ERRORS_ARE_FATAL, MPI.ERRORS_ABORT)


def _end_job(comm: MPI.Intracomm, error: MPI.Exception) -> None:
    text = error.Get_error_string()
    print(f"pinstripe: {text}; the file's error handler ends the job", file=sys.stderr, flush=True)
    comm.Abort(error.Get_error_class() or 1)


def _refused(text: str) -> Exception:
    error = MPIError(text, MPI.ERR_UNSUPPORTED_OPERATION)
    return located(error, MPI.COMM_WORLD.Get_rank(), MPI.Get_processor_name())
