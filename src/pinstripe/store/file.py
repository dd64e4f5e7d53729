"""File objects: raw, buffered and text, as `open` gives them.

They are subclasses of our own because the standard ones commit half a file when an exception closes them. Here ``close()`` commits; leaving
``with`` by an exception discards back to the last `sync`; collected unclosed = discarded, with a ResourceWarning; ``flush()`` does not
publish, ``sync()`` does. After a write that failed nothing more is published: whoever caught that error meets it again at ``close()``.
In a forked child every call raises, and close and collection do nothing.
"""

from __future__ import annotations

import errno
import io
import os
import threading
import warnings
from types import TracebackType
from typing import Any, NoReturn, Self

from ..errors import ArgumentError, ForkedError, UnsupportedError
from ..options import Options
from .forked import release, watch
from .opening import open_session
from .session import Session

__all__ = ["BufferedFile", "RawFile", "TextFile", "open_file"]

LAYOUT_WORDS = ("stripe_bytes", "stripe_count", "block_bytes", "codec", "pool")
_BUFFER_BYTES = 1 << 18


class RawFile(io.RawIOBase):
    """One file of a store, unbuffered. Thread-safe: the position is locked; `pread` of a file opened for reading runs in parallel."""

    def __init__(self, session: Session, mode: str) -> None:
        super().__init__()
        self.session = session
        self.mode = mode
        self.name = session.path
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._position = session.size if session.mode == "a" else 0
        self._reads = session.mode not in ("w", "x", "a") or "+" in mode
        # What close() must know: whether to publish, and which error nobody was told of again.
        self._discarded = False
        self._failure: BaseException | None = None
        self._closing = False
        self._untold: BaseException | None = None
        watch(self)

    # --- what it is --------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<pinstripe.RawFile name={self.name!r} mode={self.mode!r}>"

    def readable(self) -> bool:
        """Whether it can be read; all but write-only modes can."""
        self._check()
        return self._reads

    def writable(self) -> bool:
        """Whether it can be written."""
        self._check()
        return self.session.mode != "r"

    def seekable(self) -> bool:
        """Always."""
        self._check()
        return True

    def fileno(self) -> int:
        """There is no descriptor."""
        raise io.UnsupportedOperation("a file of a store has no descriptor")

    @property
    def size(self) -> int:
        """Logical bytes."""
        return self.session.size

    @property
    def generation(self) -> int:
        """Number of the generation that was opened or last published."""
        return self.session.generation

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {type(self).__name__}: its transaction belongs to one object")

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(f"{self.name}: opened by process {self._pid}; open it anew in this one")
        self._check_open()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    @property
    def _given_up(self) -> bool:
        return self._discarded or self._failure is not None

    def _check_not_given_up(self) -> None:
        if self._discarded:
            raise UnsupportedError(
                "what was written was given up: open the file anew", path=self.name, code=errno.ECANCELED
            )
        if self._failure is not None:
            self._raise_again(self._failure)

    def _raise_again(self, failure: BaseException) -> NoReturn:
        code = failure.errno if isinstance(failure, OSError) and failure.errno else errno.ECANCELED
        raise OSError(code, f"nothing was published, because an earlier call failed: {failure}", self.name) from failure

    # --- reading and writing -----------------------------------------------------------------------------------------

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer from the position on."""
        with self._lock:
            if not self.readable():
                raise io.UnsupportedOperation("not readable")
            count = self.session.read_into(self._position, buffer)
            self._position += count
            return count

    def readall(self) -> bytes:
        """Read all that is left."""
        with self._lock:
            out = bytearray(max(0, self.session.size - self._position))
            count = self.readinto(out)
            return bytes(out[:count])

    def pread(self, count: int, offset: int) -> bytes:
        """Read at an offset, whatever the position."""
        out = bytearray(max(0, min(count, self.session.size - offset)))
        self.preadinto(out, offset)
        return bytes(out)

    def preadinto(self, buffer: Any, offset: int) -> int:
        """Read at an offset into a buffer; several threads at once where the file is open for reading only."""
        self._check_open()  # enough: in a forked child something else stands in this method's place
        if not self._reads:
            raise io.UnsupportedOperation("not readable")
        if self.session.writable:
            with self._lock:
                return self.session.read_into(offset, buffer)
        return self.session.read_into(offset, buffer)

    def write(self, data: Any) -> int:
        """Write at the position; in mode a at the end."""
        with self._lock:
            self._check()
            if self._closing and self._given_up:
                return memoryview(data).nbytes  # what a buffer still held
            position = self.session.size if self.session.mode == "a" else self._position
            count = self.pwrite(data, position)
            self._position = position + count
            return count

    def pwrite(self, data: Any, offset: int) -> int:
        """Write at an offset, whatever the position; not in mode a, which writes at the end only."""
        with self._lock:
            self._check()
            if not self.writable():
                raise io.UnsupportedOperation("not writable")
            if self.session.mode == "a" and offset != self.session.size:
                raise io.UnsupportedOperation("mode a writes at the end: open with r+ to write elsewhere")
            self._check_not_given_up()
            try:
                return self.session.write(offset, data)
            except ArgumentError:  # before anything was written
                raise
            except BaseException as error:
                self._failure = error
                raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; beyond the end too."""
        with self._lock:
            self._check()
            bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.session.size}
            if whence not in bases:
                raise ArgumentError(f"whence={whence}: must be 0, 1 or 2")
            position = bases[whence] + offset
            if position < 0:
                raise ArgumentError(f"seek to {position}: must be 0 or more")
            self._position = position
            return position

    def tell(self) -> int:
        """Give the position."""
        self._check()
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size, to the position if None; what is new reads as zeros and costs nothing."""
        with self._lock:
            self._check()
            if not self.writable():
                raise io.UnsupportedOperation("not writable")
            self._check_not_given_up()
            size = self._position if size is None else size
            try:
                self.session.resize(size)
            except ArgumentError:
                raise
            except BaseException as error:
                self._failure = error
                raise
            return size

    # --- ending ------------------------------------------------------------------------------------------------------

    def sync(self) -> int:
        """Publish what was written, durably if the options say so; return the generation's number."""
        with self._lock:
            self._check()
            if not self.writable():
                raise UnsupportedError("the file is open for reading only", path=self.name)
            self._check_not_given_up()
            try:
                return self.session.publish()
            except BaseException as error:
                self._failure = error
                raise

    def discard(self) -> None:
        """Give up what was written since the last `sync`; close() then publishes nothing, and nothing more can be written."""
        self._check()
        self._discarded = True

    def close(self) -> None:
        """Publish and close; after an exception in ``with`` discard and close, after a call that failed also say so."""
        self._begin_to_close()
        if self.closed:
            return
        with self._lock:
            try:
                if self.session.mode != "r":
                    self._publish_or_discard()
            finally:
                self.session.close()
                super().close()
        if self._untold is not None:
            self._raise_again(self._untold)

    def _begin_to_close(self) -> None:
        """Note, before buffers are flushed, which failure the caller perhaps forgot; in a forked child leave all to the parent."""
        if os.getpid() != self._pid:
            release(self)
            self._pid, self._lock = os.getpid(), threading.RLock()
            self._discarded = self._closing = True
            self.session.mode = "r"
        if not self._closing:
            self._closing = True
            self._untold = None if self._discarded else self._failure

    def _publish_or_discard(self) -> None:
        if self._given_up:
            self.session.discard()
            return
        try:
            self.session.publish(final=True)
        except BaseException:
            self.session.discard()
            raise

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discarded = True
        self.close()

    def __del__(self) -> None:
        _collected(self, getattr(self, "_pid", 0))


def _collected(file: Any, pid: int) -> None:
    """A file that was not closed: discard it, and say so."""
    if pid != os.getpid():
        return
    try:
        if file.closed:
            return
    except (AttributeError, ValueError):  # half made
        return
    raw = _raw_of(file)
    raw.discard()
    file.close()
    if raw.mode not in ("r", "rb", "rt"):
        warnings.warn(
            f"{raw.name} was not closed: what was written is discarded", ResourceWarning, source=file, stacklevel=3
        )


def _raw_of(file: Any) -> RawFile:
    while not isinstance(file, RawFile):
        file = file.buffer if isinstance(file, TextFile) else file.raw
    return file


class _Wrapped:
    """What buffered and text files share: the rules of closing."""

    @property
    def _file(self) -> RawFile:
        return _raw_of(self)

    @property
    def session(self) -> Session:
        """The session beneath."""
        return self._file.session

    @property
    def generation(self) -> int:
        """Number of the generation that was opened or last published."""
        return self._file.generation

    @property
    def size(self) -> int:
        """Logical bytes, buffered writes not counted."""
        return self._file.size

    def sync(self) -> int:
        """Publish what was written; see `RawFile.sync`."""
        self.flush()  # type: ignore[attr-defined]
        return self._file.sync()

    def discard(self) -> None:
        """Give up what was written since the last `sync`; see `RawFile.discard`."""
        self._file.discard()

    def close(self) -> None:
        """Publish and close; in a forked child do nothing."""
        try:
            file = self._file
        except (AttributeError, ValueError):  # half made
            return
        if os.getpid() != file._pid:
            release(self)
            if isinstance(self, TextFile):
                release(self.buffer)
        file._begin_to_close()
        super().close()  # type: ignore[misc]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file._discarded = True
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"cannot pickle or copy {type(self).__name__}: its transaction belongs to one object")

    def __del__(self) -> None:
        try:
            pid = self._file._pid
        except (AttributeError, ValueError):
            return
        _collected(self, pid)


class _Reader(_Wrapped, io.BufferedReader):
    pass


class _Writer(_Wrapped, io.BufferedWriter):
    pass


class _Random(_Wrapped, io.BufferedRandom):
    pass


BufferedFile = _Reader | _Writer | _Random


class TextFile(_Wrapped, io.TextIOWrapper):
    """A file of a store as text."""

    mode = "r"


def open_file(
    path: str | os.PathLike[str],
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    generation: int | str | None = None,
    exclusive: bool = False,
    **options: Any,
) -> Any:
    """Open a file of a store, as the built-in `open` does. The store is found from the path.

    Parameters
    ----------
    path : path
        Of the file; any path in a store.
    mode : str
        r, r+, w, x, a, each with b or t, w+, x+ and a+ too. `w` replaces at the commit, not before.
    buffering : int
        0 = raw (binary only), -1 = a good buffer, else its bytes.
    generation : int or str, optional
        Read an older generation: its number, ``"durable"``, or the id of a kept transaction.
    exclusive : bool
        Refuse to open for writing beside a live writer.
    **options
        See docs/reference/hints.md.

    Returns
    -------
    RawFile, a buffered file or TextFile
        Atomic: what is written appears at ``close()`` or ``sync()``, whole; leaving ``with`` by an exception discards it.

    Raises
    ------
    OSError
        As `open`; `NoStoreError` where the path lies in no store.
    """
    letters = set(mode)
    action = mode.replace("b", "").replace("t", "").replace("+", "")
    if (
        letters - set("rwxabt+")
        or len(mode) != len(letters)
        or action not in ("r", "w", "x", "a")
        or {"b", "t"} <= letters
    ):
        raise ArgumentError(f"mode={mode!r}: one of r, w, x, a, with b or t, perhaps with +")
    binary = "b" in letters
    if binary and (encoding is not None or errors is not None or newline is not None):
        raise ArgumentError("a binary file takes no encoding, errors or newline")
    if not binary and buffering == 0:
        raise ArgumentError("a text file cannot be unbuffered")
    layout = {word: options.pop(word) for word in LAYOUT_WORDS if options.get(word) is not None}
    for word in LAYOUT_WORDS:
        options.pop(word, None)
    session_mode = "r+" if action == "r" and "+" in letters else action
    session = open_session(
        path, session_mode, options=Options.make(options), generation=generation, exclusive=exclusive, layout=layout
    )
    raw = RawFile(session, mode)
    if buffering == 0:
        return raw
    try:
        size = _BUFFER_BYTES if buffering in (-1, 1) else buffering
        updating = "+" in letters
        buffered = (_Random if updating else _Reader if action == "r" else _Writer)(raw, size)
        watch(buffered)
        if binary:
            return buffered
        text = TextFile(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
        text.mode = mode
        watch(text)
        return text
    except BaseException:  # an encoding that nobody knows, say
        raw.discard()
        raw.close()
        raise
