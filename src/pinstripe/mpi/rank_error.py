"""The errors of this floor: each is its own class and `MPI.Exception` at once, and says on which rank and host it arose."""

from __future__ import annotations

import errno
import pickle
import weakref
from typing import Any

from mpi4py import MPI

from ..errors import ArgumentError, Error, UnsupportedError

__all__ = ["ForeignError", "MPIError", "RankError", "error_class", "from_bytes", "located", "to_bytes"]

_CLASSES = {
    errno.EACCES: MPI.ERR_ACCESS,
    errno.EPERM: MPI.ERR_ACCESS,
    errno.EROFS: MPI.ERR_READ_ONLY,
    errno.ENOENT: MPI.ERR_NO_SUCH_FILE,
    errno.ESTALE: MPI.ERR_NO_SUCH_FILE,
    errno.EEXIST: MPI.ERR_FILE_EXISTS,
    errno.ENOSPC: MPI.ERR_NO_SPACE,
    errno.EDQUOT: MPI.ERR_NO_SPACE,
    errno.EBUSY: MPI.ERR_FILE_IN_USE,
    errno.EBADF: MPI.ERR_FILE,
    errno.EISDIR: MPI.ERR_BAD_FILE,
    errno.ENOTDIR: MPI.ERR_BAD_FILE,
    errno.ENAMETOOLONG: MPI.ERR_BAD_FILE,
    errno.ELOOP: MPI.ERR_BAD_FILE,
    errno.EINVAL: MPI.ERR_ARG,
    errno.ENOTSUP: MPI.ERR_UNSUPPORTED_OPERATION,
    errno.EOPNOTSUPP: MPI.ERR_UNSUPPORTED_OPERATION,
    errno.ENOMEM: MPI.ERR_NO_MEM,
}
"""errno to MPI error class; every other errno is MPI.ERR_IO."""


class MPIError(Error):
    """An error of the MPI interface that has no errno: it carries its MPI error class.

    Attributes
    ----------
    mpi_class : int
        Such as ``MPI.ERR_AMODE``. `MPI.Exception.Get_error_class` gives it.
    """

    kind = "mpi"

    def __init__(self, message: str, mpi_class: int = MPI.ERR_OTHER) -> None:
        super().__init__(message)
        self.mpi_class = mpi_class


def error_class(error: BaseException) -> int:
    """Return the MPI error class that `error` stands for."""
    given = getattr(error, "mpi_class", None)
    if isinstance(given, int):
        return given
    if isinstance(error, OSError) and error.errno is not None:
        return _CLASSES.get(error.errno, MPI.ERR_IO)
    if isinstance(error, MPI.Exception):
        return error.Get_error_class()
    if isinstance(error, UnsupportedError | NotImplementedError):
        return MPI.ERR_UNSUPPORTED_OPERATION
    if isinstance(error, MemoryError):
        return MPI.ERR_NO_MEM
    if isinstance(error, ArgumentError | ValueError | TypeError):
        return MPI.ERR_ARG
    return MPI.ERR_OTHER


class RankError(MPI.Exception):
    """What every call of this floor raises: always together with the class of the original error.

    ``except OSError``, ``except pinstripe.TargetError`` and ``except MPI.Exception`` all catch a full target; after a
    collective call every rank raises an equal one. The text is the original's, with rank and host behind it.

    Attributes
    ----------
    rank : int
        The rank of the file's communicator on which it arose.
    host : str
        That rank's host.
    original : BaseException
        The error as it arose.
    """

    rank: int
    host: str
    original: BaseException

    def __reduce__(self) -> tuple[Any, ...]:
        return located, (self.original, self.rank, self.host)

    def __str__(self) -> str:
        return f"{_text(self.original)} [rank {self.rank} on {self.host}]"

    def __repr__(self) -> str:
        return f"{self.original!r} [rank {self.rank} on {self.host}]"

    def Get_error_class(self) -> int:
        """Return the MPI error class, such as ``MPI.ERR_NO_SPACE``."""
        return error_class(self.original)

    def Get_error_code(self) -> int:
        """Return the MPI error class: we make no codes of our own."""
        return error_class(self.original)

    def Get_error_string(self) -> str:
        """Return the text."""
        return str(self)

    error_class = property(Get_error_class)
    error_code = property(Get_error_code)
    error_string = property(Get_error_string)

    def __int__(self) -> int:
        return self.Get_error_class()

    def __bool__(self) -> bool:
        return True

    # MPI.Exception compares codes; these errors are also what they were, so only a number is compared by class.
    def __eq__(self, other: object) -> bool:
        return self.Get_error_class() == other if isinstance(other, int) else self is other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return id(self)


class ForeignError(MPIError, RuntimeError):
    """Stands for an error that cannot travel: its class cannot be pickled, or cannot be mixed with MPI.Exception."""

    kind = "foreign"


_OVERRIDES = {
    name: member
    for name, member in vars(RankError).items()
    if name not in ("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__")
}


_made: weakref.WeakKeyDictionary[type[BaseException], type[RankError]] = weakref.WeakKeyDictionary()


def _mixed(original: type[BaseException]) -> type[RankError]:
    """Return the class that is both `original` and `RankError`; made once for each class.

    `original` stands first, for its C layout decides how an instance is made; what `RankError` says is put over it.
    """
    bases = (RankError,) if issubclass(RankError, original) else (original, RankError)
    made = _made.get(original)
    if made is None:
        made = _made[original] = type(original.__name__, bases, {"__module__": original.__module__, **_OVERRIDES})
    return made


def located(original: BaseException, rank: int, host: str) -> RankError:
    """Make the error that all ranks raise of the one that arose on `rank`; a `RankError` stays what it is.

    What is no `Exception` (an interrupt, an exit) and what cannot be mixed becomes a `RuntimeError` with its text.
    """
    if isinstance(original, RankError):
        return original
    try:
        if not isinstance(original, Exception):
            raise TypeError("only errors are raised elsewhere")
        error = _bare(_mixed(type(original)), original)
    except Exception:
        original = _foreign(original)
        error = _bare(_mixed(ForeignError), original)
    error.__dict__.update(original.__dict__)
    error.rank, error.host, error.original = rank, host, original
    return error


def _foreign(original: BaseException) -> ForeignError:
    text = _text(original)
    name = type(original).__name__
    return ForeignError(text if text == name else f"{name}: {text}", error_class(original))


def _bare(cls: type[RankError], original: BaseException) -> RankError:
    """Make an instance without the original's `__init__`, whose arguments nobody knows here."""
    if isinstance(original, OSError):
        args = tuple(original.args)
        if original.filename is not None and len(args) == 2:
            args = (*args, original.filename)
            if original.filename2 is not None:
                args = (*args, None, original.filename2)
        error: RankError = OSError.__new__(cls, *args)
        OSError.__init__(error, *args)
    else:
        error = cls.__new__(cls, *original.args)
        error.args = original.args
    return error


def _text(error: BaseException) -> str:
    if isinstance(error, MPI.Exception) and not isinstance(error, RankError):
        return f"{error.Get_error_string()}"
    return str(error) or type(error).__name__


def to_bytes(error: BaseException) -> bytes:
    """Pickle an error for its way to the other ranks; one that cannot be pickled and read back becomes its text."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(_foreign(error))
    return data


def from_bytes(data: bytes) -> BaseException:
    """Read what `to_bytes` made on another rank of this job."""
    try:
        error = pickle.loads(data)
    except Exception as reason:  # a class that only the other rank has
        return ForeignError(f"an error on another rank that cannot be read here ({reason})", MPI.ERR_OTHER)
    return error if isinstance(error, BaseException) else ForeignError(repr(error), MPI.ERR_OTHER)
