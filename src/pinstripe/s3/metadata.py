"""POSIX attributes in the metadata of objects, exactly as FSx for Lustre and DataSync write them; both ways. Pure.

Keys are without ``x-amz-meta-``, as boto3 gives and takes them.

::

    file-permissions  st_mode in octal, seven digits: 0100664, 0040755, 0120777
    file-owner        uid in decimal
    file-group        gid in decimal
    file-atime        nanoseconds since 1970 and "ns"; without "ns" they are milliseconds
    file-mtime        the same
    user-agent        who wrote it; ignored
    pinstripe-origin  ours alone: which generation of which file this object is
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Mapping

from ..errors import ArgumentError

__all__ = ["KINDS", "Attributes", "Defaults", "Origin", "from_metadata", "symlink_problem", "to_metadata"]

KINDS = ("file", "directory", "symlink")
USER_AGENT = "pinstripe"

_TYPES = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_ID_MOST = 2**32 - 2  # 2^32 - 1 means "leave it" to chown
_TIME_MOST_NS = 2**63 - 1
_OCTAL = re.compile(r"[0-7]{1,7}")
_DECIMAL = re.compile(r"[0-9]{1,10}")
_TIME = re.compile(r"(-?[0-9]{1,20})(ns)?")
_TARGET_BYTES_MOST = 4095


@dataclasses.dataclass(frozen=True, slots=True)
class Defaults:
    """What an object gets that does not say.

    Attributes
    ----------
    uid, gid : int
        -1 = whoever imports.
    file_mode, directory_mode : int
        Permission bits.
    """

    uid: int = -1
    gid: int = -1
    file_mode: int = 0o644
    directory_mode: int = 0o755

    def __post_init__(self) -> None:
        for name in ("uid", "gid"):
            if not -1 <= getattr(self, name) <= _ID_MOST:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: choose a number from 0 to {_ID_MOST}, or -1")
        for name in ("file_mode", "directory_mode"):
            if not 0 <= getattr(self, name) <= 0o7777:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: choose permission bits such as 0o644")


@dataclasses.dataclass(frozen=True, slots=True)
class Attributes:
    """What a name gets that stands for an object.

    Attributes
    ----------
    mode : int
        Permission bits, without the type.
    uid, gid : int
        -1 = whoever imports.
    atime_ns, mtime_ns : int
        Nanoseconds since 1970.
    kind : str
        One of `KINDS`. A symlink's target is the object's body.
    ignored : tuple of str
        Keys that were there with a value that cannot be: the default was taken.
    """

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    kind: str
    ignored: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Which generation of which file of which store an object is: so that who exports knows its own work again.

    Attributes
    ----------
    store_id, file_id, tx : bytes
        16 bytes each; `tx` is the transaction of the generation, the file's id for generation 0.
    generation : int
    """

    store_id: bytes
    file_id: bytes
    generation: int
    tx: bytes

    def to_metadata(self) -> dict[str, str]:
        """Return the one key with its value."""
        return {"pinstripe-origin": f"{self.store_id.hex()}.{self.file_id.hex()}.{self.generation}.{self.tx.hex()}"}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Origin | None:
        """Read what `to_metadata` gave; None where it is not there or is none."""
        text = _lowered(metadata).get("pinstripe-origin", "")
        match = re.fullmatch(r"([0-9a-f]{32})\.([0-9a-f]{32})\.([0-9]{1,19})\.([0-9a-f]{32})", text)
        if match is None:
            return None
        store_id, file_id, tx = (bytes.fromhex(match[number]) for number in (1, 2, 4))
        return cls(store_id, file_id, int(match[3]), tx)

    def is_older_of(self, other: Origin) -> bool:
        """Tell whether this is an older generation, or the same, of the file that `other` is of."""
        same = (self.store_id, self.file_id) == (other.store_id, other.file_id)
        return same and (self.generation < other.generation or self == other)


def to_metadata(seen: os.stat_result, kind: str, origin: Origin | None = None) -> dict[str, str]:
    """Return the metadata of the object that stands for a name. The set-user-id bit is left out, as FSx leaves it out."""
    return {
        "file-permissions": f"{_TYPES[kind] | seen.st_mode & 0o7777 & ~stat.S_ISUID:07o}",
        "file-owner": str(seen.st_uid),
        "file-group": str(seen.st_gid),
        "file-atime": f"{seen.st_atime_ns}ns",
        "file-mtime": f"{seen.st_mtime_ns}ns",
        "user-agent": USER_AGENT,
    } | (origin.to_metadata() if origin is not None else {})


def from_metadata(
    metadata: Mapping[str, str], key: str, defaults: Defaults | None = None, *, modified_ns: int = 0
) -> Attributes:
    """Read the attributes of the name that `key` stands for.

    The kind is a directory's by the key's trailing slash alone, else a symlink's by the type bits, else a file's: AWS's own
    examples put a file's type bits on directories. The permissions are the low bits; set-user-id is dropped, and set-group-id
    but on directories: a bucket makes no privileged programs. Keys may be written in any case.

    Parameters
    ----------
    metadata : mapping
        The object's, without ``x-amz-meta-``.
    key : str
    defaults : Defaults or None
        For each attribute that is missing or cannot be.
    modified_ns : int
        When the object was made: the time of what states none.
    """
    values = _lowered(metadata)
    defaults = defaults or Defaults()
    ignored: list[str] = []

    def number(name: str, pattern: re.Pattern[str], base: int, most: int) -> int | None:
        text = values.get(name)
        if text is None:
            return None
        if pattern.fullmatch(text) and int(text, base) <= most:
            return int(text, base)
        ignored.append(name)
        return None

    def time(name: str) -> int | None:
        text = values.get(name)
        if text is None:
            return None
        match = _TIME.fullmatch(text)
        if match is not None:
            ns = int(match[1]) if match[2] else int(match[1]) * 10**6
            if abs(ns) <= _TIME_MOST_NS:
                return ns
        ignored.append(name)
        return None

    full = number("file-permissions", _OCTAL, 8, 0o177777)
    if key.endswith("/"):
        kind, mode = "directory", defaults.directory_mode
    elif full is not None and stat.S_IFMT(full) == stat.S_IFLNK:
        kind, mode = "symlink", 0o777
    else:
        kind, mode = "file", defaults.file_mode
    if full is not None:
        mode = full & 0o7777
    mode &= ~stat.S_ISUID if kind == "directory" else ~(stat.S_ISUID | stat.S_ISGID)
    uid, gid = (number(name, _DECIMAL, 10, _ID_MOST) for name in ("file-owner", "file-group"))
    atime_ns, mtime_ns = time("file-atime"), time("file-mtime")
    if mtime_ns is None:
        mtime_ns = modified_ns
    return Attributes(
        mode=mode,
        uid=defaults.uid if uid is None else uid,
        gid=defaults.gid if gid is None else gid,
        atime_ns=mtime_ns if atime_ns is None else atime_ns,
        mtime_ns=mtime_ns,
        kind=kind,
        ignored=tuple(ignored),
    )


def symlink_problem(body: bytes) -> str | None:
    """Say why a symlink object's body cannot be a symlink's target, as `key_problem` does; None if it can."""
    not_posix = "S3ObjectPathNotPosixCompliant"
    if not body:
        return f"{not_posix}: a symlink without a target"
    if b"\0" in body:
        return f"{not_posix}: the symlink's target holds a NUL"
    if len(body) > _TARGET_BYTES_MOST:
        return f"{not_posix}: the symlink's target has more than {_TARGET_BYTES_MOST} bytes"
    return None


def _lowered(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name.lower().removeprefix("x-amz-meta-"): value.strip() for name, value in metadata.items()}
