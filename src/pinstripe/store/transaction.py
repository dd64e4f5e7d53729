"""A transaction: one writer's attempt to make the next generation. Registration, heartbeat, discard.

Registered (the file TX.tx, made exclusively) before anything else is looked at: from then on its header pins what it may have to read
(invariant BASED). The recorded base never changes. *A file without a name cannot be linked any more*: removing the name TX.tx is the
fence (invariant FENCED), and `discard` is the one procedure for it, for abort, loser and collector alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import DamageError, FencedError
from ..format.layout import Layout
from ..format.manifest import HEADER_BYTES, Header, State, Writer
from ..format.segment import manifest_copy_name, parse_segment_name
from .generation import Generation, list_numbers, read_header
from .heartbeat import heartbeat
from .writer_identity import this_writer

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Copied", "Transaction", "discard", "remove_segments_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class Copied:
    """A range of another manifest that goes into this one as it is."""

    fd: int
    offset: int
    length: int


class Transaction:
    """A registered transaction of this process. Not thread-safe.

    Attributes
    ----------
    id : bytes
    directory : str
        ``files/aa/ID``.
    base : int
        The head's number when it was recorded.
    next_number : int
        The generation that it is to be, while nobody else is first.
    """

    def __init__(
        self, store: Store, file_id: bytes, layout: Layout, tx: bytes | None = None, *, ranks: int = 1
    ) -> None:
        self.store = store
        self.file_id = file_id
        self.id = tx or secrets.token_bytes(16)
        self.directory = store.file_directory(file_id)
        self.path = os.path.join(self.directory, f"{self.id.hex()}.tx")
        self.base = 0
        self.next_number = 1
        self.header = Header(
            state=State.REGISTERED,
            file_id=file_id,
            tx=self.id,
            layout=layout,
            started_ns=time.time_ns(),
            writer=this_writer(ranks),
        )
        self._registered = False

    @property
    def writer(self) -> Writer:
        """Who we are, as the header says."""
        return self.header.writer

    def register(self) -> None:
        """Make TX.tx, exclusively, saying that there is no base yet.

        Raises
        ------
        FileNotFoundError
            The id's directory is gone: the file was removed.
        """
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.fchmod(fd, 0o644)
                _write_all(fd, self.header.encode(), 0)
            finally:
                os.close(fd)
        except BaseException:
            with contextlib.suppress(OSError):  # it may be there, and would pin what is there while this process lives
                os.unlink(self.path)
            raise
        self._registered = True
        heartbeat.add(self.path)

    def record_base(self, number: int, highest: int) -> None:
        """Write the head's number into the header, once; `highest` is the highest number listed, generation or not."""
        self.base = number
        self.next_number = highest + 1
        self.header = dataclasses.replace(self.header, state=State.BASED, base=number)
        fd = self._open()
        try:
            _write_all(fd, self.header.encode(), 0)
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self.fenced() from None

    def fenced(self) -> FencedError:
        """Make the error that says what happened."""
        return FencedError(
            "this writer's transaction was removed by somebody who took it for dead, or the file was removed; nothing was published",
            path=self.path,
        )

    def write_manifest(self, header: Header, body: Iterable[bytes | memoryview | Copied], *, sync: bool) -> None:
        """Write a whole manifest into TX.tx: first what follows the header, then the header; closed before it returns.

        Parameters
        ----------
        body : iterable of bytes or Copied
            In order, from byte HEADER_BYTES on.
        """
        fd = self._open()
        try:
            position = HEADER_BYTES
            for piece in body:
                if isinstance(piece, Copied):
                    _copy_range(piece, fd, position)
                    position += piece.length
                else:
                    _write_all(fd, piece, position)
                    position += len(piece)
            os.ftruncate(fd, position)
            self.header = header
            _write_all(fd, header.encode(), 0)
            os.fchmod(
                fd, 0o444
            )  # whole: nobody changes it any more but a retry of ours, through a descriptor opened as owner
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def reopen_for_retry(self) -> None:
        """Let a loser write its manifest again."""
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.path, 0o644)

    def keep(self) -> None:
        """Mark a conflict: the transaction stays, pins its base, and is readable with ``generation="TX"``."""
        self.reopen_for_retry()
        fd = self._open()
        try:
            self.header = dataclasses.replace(self.header, kept=True)
            _write_all(fd, self.header.encode(), 0)
        finally:
            os.close(fd)
        self._registered = False
        heartbeat.drop(self.path)

    def link(self, number: int) -> None:
        """The commit point: give TX.tx the name `number`.

        Raises
        ------
        FileExistsError
            Another was first.
        FencedError
            The name TX.tx is gone.
        OSError
            Anything else: the outcome is unclear.
        """
        try:
            os.link(self.path, os.path.join(self.directory, str(number)))
        except FileNotFoundError:
            raise self.fenced() from None

    def unname(self) -> None:
        """Remove the name TX.tx: after a commit, tidying; before one, the fence."""
        if self._registered:
            self._registered = False
            heartbeat.drop(self.path)
        for name in (self.path, self.path.removesuffix(".tx") + ".seen"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def discard(self) -> None:
        """Abort: see `discard`. One that is kept after a conflict stays."""
        if self.header.kept:
            return
        if self._registered:
            self._registered = False
            heartbeat.drop(self.path)
        discard(self.store, self.file_id, self.id)


def discard(store: Store, file_id: bytes, tx: bytes) -> bool:
    """End a transaction: remove the name TX.tx, then list; its segments go only when no number carries or names it.

    Returns
    -------
    bool
        Whether it had been committed after all (then nothing of it was removed).
    """
    directory = store.file_directory(file_id)
    for suffix in (".tx", ".seen"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, tx.hex() + suffix))  # FENCED: from here on no link of it can succeed
    while (answer := _is_named(directory, file_id, tx)) is None:
        continue  # a number went while its manifest was read: list again (WHOLE)
    if answer:
        return True
    remove_segments_of(store, file_id, tx)
    return False


def _is_named(directory: str, file_id: bytes, tx: bytes) -> bool | None:
    """Whether a number carries the transaction or names a segment of it; None = a number vanished meanwhile."""
    try:
        numbers = list_numbers(directory)
    except FileNotFoundError:
        return False
    for number in numbers:
        path = os.path.join(directory, str(number))
        try:
            if read_header(path).tx == tx:
                return True
            generation = Generation.from_path(file_id, path, number)
        except FileNotFoundError:
            return None
        except DamageError:
            return True  # unreadable: it may name anything, so nothing is deleted
        generation.close()
        live = generation.segments[generation.segments["live_frames"] > 0]
        if any(bytes(entry) == tx for entry in live["tx"]):
            return True
    return False


def remove_segments_of(store: Store, file_id: bytes, tx: bytes) -> None:
    """Delete what a transaction that no number names left on the targets."""
    for target in store.targets:
        for name in target.list_segments(file_id):
            parsed = parse_segment_name(name)
            if (parsed is not None and parsed[0] == tx) or name.startswith(manifest_copy_name(tx)):
                target.remove_segment(file_id, name)


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(fd, view[: 1 << 30], offset)
        view = view[written:]
        offset += written


def _copy_range(piece: Copied, fd: int, position: int) -> None:
    """Copy a range of another file, in the kernel where it can; see copy_file_range(2)."""
    offset, left = piece.offset, piece.length
    while left:
        try:
            done = os.copy_file_range(piece.fd, fd, min(left, 1 << 30), offset, position)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            data = os.pread(piece.fd, min(left, 8 << 20), offset)
            _write_all(fd, data, position)
            done = len(data)
        if not done:
            raise DamageError("the manifest to copy from ends too early", offset=offset)
        offset, position, left = offset + done, position + done, left - done
