"""Every error that pinstripe raises by its own name.

::

    Error                         kind
    ├── ArgumentError             "argument"    ValueError          an argument that cannot be meant
    ├── NoStoreError              "no-store"    FileNotFoundError   the path lies in no store
    ├── UnsupportedError          "unsupported" OSError(ENOTSUP)    a newer format, or what this file system cannot do
    ├── NamespaceError            "namespace"   OSError             a name that is refused, or was copied behind our back
    ├── DamageError               "damage"      OSError(EIO)        bytes on disk that do not verify
    ├── TargetError               "target"      OSError             a target is missing, full or failing
    ├── ConflictError             "conflict"    OSError(EBUSY)      two writers changed the same bytes
    ├── FencedError               "fenced"      OSError(ECANCELED)  somebody took this writer for dead, or removed the file
    ├── StaleError                "stale"       OSError(ESTALE)     the generation that was being read is gone
    ├── OutcomeUnknownError       "unknown"     OSError(EIO)        the commit may or may not have happened
    ├── RemoteError               "remote"      OSError             a bucket's service refused, failed or did not answer
    │   └── ConditionError        "condition"   OSError(EEXIST)     the object is not what the request was made conditional on
    └── ForkedError               "forked"      RuntimeError        a file object used in another process than its own

Each is also the built-in that it refines, has a stable `kind`, and pickles with its fields: MPI carries it to the other ranks.
"""

from __future__ import annotations

import errno
import os
from typing import Any

__all__ = [
    "ArgumentError",
    "ConditionError",
    "ConflictError",
    "DamageError",
    "Error",
    "FencedError",
    "ForkedError",
    "NamespaceError",
    "NoStoreError",
    "OutcomeUnknownError",
    "RemoteError",
    "StaleError",
    "TargetError",
    "UnsupportedError",
]


def _rebuild(cls: type[Error], args: tuple[Any, ...], fields: dict[str, Any]) -> Error:
    error = cls.__new__(cls, *args)
    error.args = args
    if isinstance(error, OSError):
        OSError.__init__(error, *args)
    error.__dict__.update(fields)
    return error


class Error(Exception):
    """Root of the tree.

    Attributes
    ----------
    kind : str
        Stable word for the class, for programs and `--json`.
    """

    kind = "error"

    def __reduce__(self) -> tuple[Any, ...]:
        args = self.args
        if isinstance(self, OSError) and self.filename is not None:
            args = (self.errno, self.strerror, self.filename)
        return _rebuild, (type(self), args, dict(self.__dict__))


class ArgumentError(Error, ValueError):
    """An argument that cannot be meant; the text names it and what would do."""

    kind = "argument"


class _SystemError(Error, OSError):
    """An error with an errno. `message` is a sentence; `path`, where given, is appended by `OSError` itself."""

    default_errno = errno.EIO

    def __init__(self, message: str, *, path: str | os.PathLike[str] | None = None, code: int | None = None) -> None:
        super().__init__(*self._args(message, path, code))

    def __new__(cls, *args: Any, **kwargs: Any) -> _SystemError:
        if args and isinstance(args[0], int):  # unpickled: errno first
            return OSError.__new__(cls, *args)
        return OSError.__new__(cls, *cls._args(args[0], kwargs.get("path"), kwargs.get("code")))

    @classmethod
    def _args(cls, message: str, path: str | os.PathLike[str] | None, code: int | None) -> tuple[Any, ...]:
        number = cls.default_errno if code is None else code
        return (number, message) if path is None else (number, message, os.fspath(path))


class NoStoreError(_SystemError, FileNotFoundError):
    """The path lies in no store."""

    kind = "no-store"
    default_errno = errno.ENOENT


class UnsupportedError(_SystemError):
    """A newer format or an unknown required feature, or something that the file system below cannot do."""

    kind = "unsupported"
    default_errno = errno.ENOTSUP


class NamespaceError(_SystemError):
    """A name that is refused (reserved, leaving the store), or an inode that was copied behind our back."""

    kind = "namespace"
    default_errno = errno.EINVAL


class DamageError(_SystemError):
    """Bytes on disk that do not verify.

    Attributes
    ----------
    file, target, segment : str
        Path or id of the file; target; segment name. Empty where it does not apply.
    stripe, offset : int
        Stripe number and the frame's offset in its segment; -1 where it does not apply.
    expected, found : int | str
        What should have been there and what was.
    """

    kind = "damage"

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        code: int | None = None,
        file: str = "",
        stripe: int = -1,
        target: str = "",
        segment: str = "",
        offset: int = -1,
        expected: int | str = "",
        found: int | str = "",
    ) -> None:
        super().__init__(message, path=path, code=code)
        self.file, self.stripe, self.target, self.segment, self.offset = file, stripe, target, segment, offset
        self.expected, self.found = expected, found


class TargetError(_SystemError):
    """A target is missing, full or failing, and no other could take its place.

    Attributes
    ----------
    target : str
        The target's path.
    """

    kind = "target"

    def __init__(
        self, message: str, *, path: str | os.PathLike[str] | None = None, code: int | None = None, target: str = ""
    ) -> None:
        super().__init__(message, path=path, code=code)
        self.target = target


class ConflictError(_SystemError):
    """Two writers changed the same bytes differently. Nothing is lost: the loser's transaction is kept.

    Attributes
    ----------
    transaction : str
        Id of the kept transaction; readable with ``generation=transaction``.
    """

    kind = "conflict"
    default_errno = errno.EBUSY

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        code: int | None = None,
        transaction: str = "",
    ) -> None:
        super().__init__(message, path=path, code=code)
        self.transaction = transaction


class FencedError(_SystemError):
    """This writer's transaction was ended by somebody else: taken for dead, or its file was removed. Nothing was published."""

    kind = "fenced"
    default_errno = errno.ECANCELED


class StaleError(_SystemError):
    """The generation that was being read is gone, and bytes of it were already given."""

    kind = "stale"
    default_errno = errno.ESTALE


class OutcomeUnknownError(_SystemError):
    """The commit may or may not have happened; look at the file before you repeat it."""

    kind = "unknown"


class RemoteError(_SystemError):
    """A bucket's service refused, failed or did not answer. The text names the object, what was tried and what helps; it holds no secret.

    The errno: ENOENT for what is not there, EACCES for what is not allowed, EEXIST for a condition that did not hold, ETIMEDOUT, else EIO.

    Attributes
    ----------
    bucket, key : str
        "" where it does not apply.
    status : int
        Of HTTP; 0 = there was no answer.
    code : str
        The service's word, such as ``NoSuchKey``; ours are ``NoAnswer``, ``Timeout``, ``NoCredentials`` and ``BadAnswer``.
    """

    kind = "remote"

    def __new__(cls, *args: Any, **kwargs: Any) -> RemoteError:
        if args and isinstance(args[0], int):  # unpickled: errno first
            return OSError.__new__(cls, *args)
        return OSError.__new__(cls, _remote_errno(kwargs.get("status", 0), kwargs.get("code", "")), args[0])

    def __init__(self, message: str, *, bucket: str = "", key: str = "", status: int = 0, code: str = "") -> None:
        super().__init__(message, code=_remote_errno(status, code))
        self.bucket, self.key, self.status, self.code = bucket, key, status, code


def _remote_errno(status: int, code: str) -> int:
    if code in ("NoCredentials", "AccessDenied") or status in (401, 403):
        return errno.EACCES
    if code == "Timeout":
        return errno.ETIMEDOUT
    return {404: errno.ENOENT, 409: errno.EEXIST, 412: errno.EEXIST}.get(status, errno.EIO)


class ConditionError(RemoteError):
    """The object is not what the request was made conditional on: it exists, is gone, or is another version. Nothing was changed."""

    kind = "condition"


class ForkedError(Error, RuntimeError):
    """A file object was used in another process than the one that opened it."""

    kind = "forked"
