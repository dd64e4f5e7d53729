"""State: what of a file lies here and what in a bucket; in Lustre's words."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator

import numpy as np

from ..errors import ArgumentError, DamageError
from ..format.remote import Base, Remote
from .fresh import fsync_directory
from .generation import Generation
from .inode_file import read_inode_at
from .naming import naming
from .newfile import MovedError, give_directory
from .place import AnyPath, Place, locate
from .residency import trusted_tails

__all__ = ["FLAGS", "FileState", "content_crc", "record_base", "set_flags", "state_of"]

FLAGS = ("norelease", "noexport", "lost", "conflict")
"""Words that are set, not found out."""

_ARCHIVE = "archive"
_ARCHIVE_BYTES_MOST = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class FileState:
    """What is known of a file and its object.

    Attributes
    ----------
    path : str
    size : int
        Bytes of the file.
    tx : bytes
        The head's transaction; the file's id where the head is generation 0.
    generation : int
        The head's number.
    base : Base or None
        What the file was last known to equal.
    is_stub : bool
        Whether the bytes are the base's remote's.
    resident_bytes : int
        Of a stub: bytes that are here; else `size`.
    flags : frozenset of str
        Of `FLAGS`.
    """

    path: str
    size: int
    tx: bytes
    generation: int
    base: Base | None
    is_stub: bool
    resident_bytes: int
    flags: frozenset[str] = frozenset()

    @property
    def exists(self) -> bool:
        """Whether the bucket holds, or held, a version of it."""
        return self.base is not None

    @property
    def archived(self) -> bool:
        """Whether the bucket holds just these bytes."""
        return self.base is not None and (self.is_stub or self.base.tx == self.tx)

    @property
    def dirty(self) -> bool:
        """Whether it changed since the bucket's version."""
        return self.exists and not self.archived

    @property
    def released(self) -> bool:
        """Whether the bytes are not here; some may be, see `partial`."""
        return self.is_stub

    @property
    def partial(self) -> bool:
        """Whether some of a stub's bytes are here."""
        return self.is_stub and self.resident_bytes > 0

    @property
    def unproven(self) -> bool:
        """Whether bytes are here whose whole was not compared with a checksum of the bucket's."""
        return self.partial or (
            self.archived and not self.is_stub and self.base is not None and self.base.proof != "crc64nvme"
        )

    @property
    def lost(self) -> bool:
        """Whether the object is gone, or another, and the bytes are not here."""
        return "lost" in self.flags

    @property
    def norelease(self) -> bool:
        """Whether it is pinned here."""
        return "norelease" in self.flags

    @property
    def noexport(self) -> bool:
        """Whether it stays out of the bucket."""
        return "noexport" in self.flags

    @property
    def conflict(self) -> bool:
        """Whether file and object both changed."""
        return "conflict" in self.flags

    @property
    def why_not_released(self) -> str:
        """Why it may not be released; empty if it may."""
        if self.base is None:
            return "no bucket holds it; export it first"
        if self.dirty:
            return f"it changed since {self.base.remote.url} was written; export it first"
        if self.base.proof == "size" and not self.is_stub:
            return f"{self.base.remote.url} was never compared by a checksum"
        for word, why in (
            ("norelease", "it is pinned"),
            ("lost", "the bucket lost it"),
            ("conflict", "it is in conflict"),
        ):
            if word in self.flags:
                return f"{why} ({word})"
        return ""


def state_of(path: AnyPath) -> FileState:
    """Find out a file's state; nothing is asked of a bucket.

    Raises
    ------
    OSError
        As `read_inode`.
    """
    place = locate(path)
    inode, seen = read_inode_at(place)
    with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
        tx = head.transaction or inode.file_id
        directory = place.store.file_directory(inode.file_id)
        base, flags = _read_archive(directory)
        said = [base, head.archived]
        if inode.remote is not None:
            said.append(Base(inode.remote, inode.file_id, "etag"))
        known = [one for one in said if one is not None]
        right = [one for one in known if one.tx == tx] or known
        resident = head.size
        if head.remote is not None:
            changes, _ = trusted_tails(directory, head.remote, head.layout.stripe_bytes, seen.st_uid)
            resident = int(changes["record"]["raw_bytes"].sum(dtype=np.int64))
        return FileState(
            path=place.path,
            size=head.size,
            tx=tx,
            generation=head.number,
            base=right[0] if right else None,
            is_stub=head.remote is not None,
            resident_bytes=resident,
            flags=flags,
        )


def content_crc(path: AnyPath) -> tuple[int, int | None, bytes]:
    """Return a file's size, the CRC-64/NVME of its content (None: a stub whose bucket keeps none) and the head's transaction; reads no data."""
    place = locate(path)
    inode, _ = read_inode_at(place)
    with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
        return head.size, head.content_crc, head.transaction or inode.file_id


def record_base(path: AnyPath, remote: Remote, tx: bytes, *, proof: str = "crc64nvme", durable: bool = True) -> None:
    """Write down that the content of a transaction is what the bucket holds. The flags ``conflict`` and ``lost`` end with it.

    Parameters
    ----------
    tx : bytes
        The transaction whose content was exported; the file's id for generation 0. It need not be the head's any more.
    proof : str
        One of `pinstripe.format.remote.PROOFS`.
    durable : bool
        Whether it outlives a power cut once this returns.
    """
    with _changing(locate(path)) as directory:
        _, flags = _read_archive(directory)
        _write_archive(directory, Base(remote, tx, proof), flags - {"conflict", "lost"}, durable=durable)


def set_flags(path: AnyPath, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
    """Set and clear words of `FLAGS`.

    Raises
    ------
    ArgumentError
        Another word.
    """
    add, remove = set(add), set(remove)
    unknown = (add | remove) - set(FLAGS)
    if unknown:
        raise ArgumentError(f"flag {', '.join(sorted(unknown))}: choose of {', '.join(FLAGS)}")
    with _changing(locate(path)) as directory:
        base, flags = _read_archive(directory)
        _write_archive(directory, base, (flags | add) - remove)


@contextlib.contextmanager
def _changing(place: Place) -> Iterator[str]:
    """Give a file its directory, and hold it against others who change what is known of its base, as far as the file system can."""
    for _ in range(100):
        inode, seen = read_inode_at(place)
        with contextlib.suppress(MovedError):
            give_directory(place.store, inode, place.path, seen)
            break
    directory = place.store.file_directory(inode.file_id)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield directory
    finally:
        with contextlib.suppress(OSError):  # said, not left to close: a forked child holds the description, too
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _read_archive(directory: str) -> tuple[Base | None, frozenset[str]]:
    path = os.path.join(directory, _ARCHIVE)
    try:
        with naming(path), open(path, "rb") as file:
            values = json.loads(file.read(_ARCHIVE_BYTES_MOST))
        base = values["base"]
        return Base.from_values(base) if base is not None else None, frozenset(map(str, values["flags"]))
    except FileNotFoundError:
        return None, frozenset()
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(f"the record of what was exported is malformed: {error!r}", path=path) from None


def _write_archive(directory: str, base: Base | None, flags: Iterable[str], *, durable: bool = True) -> None:
    values = {"base": base.to_values() if base is not None else None, "flags": sorted(flags)}
    aside = os.path.join(directory, f"{_ARCHIVE}-{secrets.token_hex(8)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(json.dumps(values, sort_keys=True).encode() + b"\n")
            file.flush()
            if durable:
                os.fsync(fd)
        os.rename(aside, os.path.join(directory, _ARCHIVE))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    if durable:
        fsync_directory(directory)
