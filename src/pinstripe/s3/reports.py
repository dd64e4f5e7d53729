"""Reports of tasks over many paths, as FSx for Lustre writes them: REPORT_CSV_20191124. Pure.

Three fields a line, no header: path, status, error code. RFC 4180 quoting, and a path that a spreadsheet would take for a
formula (``@ + - =`` in front) is put in quotes that belong to the value: ``@a`` becomes three quotes, ``@a``, three quotes.
That is what FSx's examples show; its prose says single quotes.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import io
from collections.abc import Iterable, Iterator

from ..errors import ConditionError, ConflictError, DamageError, RemoteError, StaleError

__all__ = ["ERROR_CODES", "STATUSES", "Line", "code_of", "parse", "report", "report_name"]

STATUSES = ("succeeded", "succeeded with warning", "failed")

ERROR_CODES = (
    "PathSizeTooLong",
    "FileSizeTooLarge",
    "S3AccessDenied",
    "S3Error",
    "S3ObjectPathNotPosixCompliant",
    "S3ObjectTypeMismatch",
    "S3FileDeleted",
    "S3ObjectNotFound",
    "S3ObjectInUnsupportedTier",
    "S3SymlinkInUnsupportedTier",
    "ResourceBusy",
    "InternalError",
)
"""FSx's codes. Ours beside them: ``Conflict``, ``ChecksumMismatch``, ``ObjectChanged``."""

OUR_CODES = ("Conflict", "ChecksumMismatch", "ObjectChanged")

_FORMULA = ("@", "+", "-", "=")
_WORDS = {"InvalidObjectState": "S3ObjectInUnsupportedTier", "EntityTooLarge": "FileSizeTooLarge"}
_NAMES = {"export": "failures.csv", "import": "report.csv", "release": "report.csv"}


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """What became of one path.

    Attributes
    ----------
    path : str
        Relative to the linked directory.
    status : str
        One of `STATUSES`.
    code : str
        One of `ERROR_CODES` or `OUR_CODES`; "" where it succeeded.
    """

    path: str
    status: str = "failed"
    code: str = ""

    def encode(self) -> str:
        """Return the line, without its end."""
        path = f'"{self.path}"' if self.path.startswith(_FORMULA) else self.path
        return ",".join(_quoted(field) for field in (path, self.status, self.code))


def report(lines: Iterable[Line], *, failed_only: bool = False) -> bytes:
    """Return the report's bytes: CRLF behind each line; names that are no UTF-8 as their own bytes.

    Parameters
    ----------
    lines : iterable of Line
    failed_only : bool
        As the scope FAILED_FILES_ONLY: leave out what succeeded.
    """
    chosen = (line for line in lines if not failed_only or line.status == "failed")
    return "".join(f"{line.encode()}\r\n" for line in chosen).encode(errors="surrogateescape")


def parse(data: bytes) -> Iterator[Line]:
    """Read a report, ours or FSx's, with any ends of lines."""
    text = io.StringIO(data.decode(errors="surrogateescape"), newline="")
    for fields in csv.reader(text, strict=True):
        if not fields:
            continue
        path, status, code = fields
        if len(path) > 2 and path[0] == path[-1] == '"' and path[1] in _FORMULA:
            path = path[1:-1]
        yield Line(path, status, code)


def report_name(task: str) -> str:
    """Return the file's name for a task: ``export``, ``import`` or ``release``."""
    return _NAMES[task]


def code_of(error: BaseException) -> str:
    """Return the code that goes with an error."""
    if isinstance(error, ConflictError):
        return "ResourceBusy" if error.transaction else "Conflict"
    if isinstance(error, DamageError):
        return "ChecksumMismatch"
    if isinstance(error, StaleError):
        return "ObjectChanged"
    if isinstance(error, ConditionError):
        return "Conflict"
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, RemoteError):
        if error.code in _WORDS:
            return _WORDS[error.code]
        return {errno.EACCES: "S3AccessDenied", errno.ENOENT: "S3ObjectNotFound"}.get(number or 0, "S3Error")
    if number == errno.ENAMETOOLONG:
        return "PathSizeTooLong"
    if number in (errno.EBUSY, errno.EAGAIN, errno.ETXTBSY):
        return "ResourceBusy"
    if number in (errno.ENOTDIR, errno.EISDIR):
        return "S3ObjectTypeMismatch"
    return "InternalError"


def _quoted(field: str) -> str:
    if any(letter in field for letter in '",\r\n'):
        return '"' + field.replace('"', '""') + '"'
    return field
