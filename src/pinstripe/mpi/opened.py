"""OpenFile: the Pythonic face of a collective file. Bytes and byte offsets; ``with`` commits, or discards on an exception."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from ..errors import ArgumentError
from .agree import Operation
from .collective import CollectiveFile, Prepared
from .extents import Access, Typemap
from .hints import Hints
from .memory import Memory, memory_of
from .report import Report, gather_report

__all__ = ["OpenFile", "open_file"]

_MODES = {"r": (True, False), "r+": (True, True), "w": (False, True), "x": (False, True), "a": (False, True)}


class OpenFile:
    """A file opened by all ranks of a communicator.

    Methods whose name ends in ``_all``, and `sync`, `resize`, `close`, `report`, are collective: every rank calls them, in the
    same order; a rank with nothing to write or read passes an empty array. An error on one rank is raised on every rank.
    As a context manager it commits when the block ends; when an exception leaves the block on any rank, nothing is
    published and every rank gets that exception.
    """

    def __init__(self, shared: CollectiveFile, mode: str) -> None:
        self._shared = shared
        self.mode = mode

    @property
    def name(self) -> str:
        """Independent. The file's path."""
        return self._shared.session.path

    @property
    def size(self) -> int:
        """Independent. Size in bytes: what other ranks wrote alone since the last collective call does not count yet."""
        self._shared.check()
        return self._shared.size

    @property
    def generation(self) -> int:
        """Independent. Number of the generation that was opened or last published."""
        return self._shared.session.generation

    @property
    def closed(self) -> bool:
        """Independent. Whether it was closed."""
        return self._shared.closed

    def __repr__(self) -> str:
        return f"<pinstripe.mpi.OpenFile name={self.name!r} mode={self.mode!r}{' closed' * self.closed}>"

    # --- writing ---

    def write_at_all(self, offset: int, array: Any) -> None:
        """Collective. Write each rank's array at its own offset. An error on one rank is raised on all.

        Visible to others after `sync` or `close`; to this rank at once, where the mode is ``r+``.

        Parameters
        ----------
        offset : int
            In bytes.
        array : buffer
            Contiguous; an empty one, or None, writes nothing. Its element type steers the byte shuffle.

        Raises
        ------
        ArgumentError
            Two ranks write the same bytes (unless opened with ``overlap="higher"``).
        """

        def prepare() -> Prepared:
            memory = memory_of(array, write=False)
            return _run(offset, memory.nbytes), memory.packed(), memory.width

        self._shared.write_all(Operation.write_at_all, prepare)

    def write_at(self, offset: int, array: Any) -> None:
        """Independent. Write at an offset, in bytes. An error is raised here, and on all ranks at the next collective call."""
        memory = memory_of(array, write=False)
        self._shared.write(_run(offset, memory.nbytes), memory.packed(), memory.width)

    def write_array_all(
        self, array: npt.ArrayLike, global_shape: Sequence[int], starts: Sequence[int], *, offset: int = 0
    ) -> None:
        """Collective. Write each rank's block of one array in row-major order. An error on one rank is raised on all.

        Parameters
        ----------
        array : array
            This rank's block; may be empty. One that is not contiguous is copied.
        global_shape, starts : sequence of int
            Shape of the whole array, and where the block begins in it.
        offset : int
            Where in the file the whole array begins, in bytes.
        """

        def prepare() -> Prepared:
            block = np.ascontiguousarray(array)
            memory = memory_of(block, write=False)
            return _block(block, global_shape, starts, offset), memory.packed(), memory.width

        self._shared.write_all(Operation.write_all, prepare)

    # --- reading ---

    def read_at_all(self, offset: int, out: Any) -> int:
        """Collective. Fill each rank's buffer from its own offset. An error on one rank is raised on all.

        Parameters
        ----------
        offset : int
            In bytes.
        out : buffer
            Contiguous and writable; an empty one, or None, reads nothing.

        Returns
        -------
        int
            Bytes read on this rank; less than asked only at the end of the file.
        """
        landing: list[tuple[Memory, npt.NDArray[np.uint8]]] = []

        def prepare() -> tuple[Access, npt.NDArray[np.uint8]]:
            memory = memory_of(out, write=True)
            landing.append((memory, memory.landing()))
            return _run(offset, memory.nbytes), landing[0][1]

        count = self._shared.read_all(Operation.read_at_all, prepare)
        landing[0][0].unpack(landing[0][1], count)
        return count

    def read_at(self, offset: int, out: Any) -> int:
        """Independent. Fill a buffer from an offset, in bytes; return the bytes read. An error is raised here only."""
        memory = memory_of(out, write=True)
        landing = memory.landing()
        count = self._shared.read(_run(offset, memory.nbytes), landing)
        memory.unpack(landing, count)
        return count

    def read_array_all(
        self, out: npt.NDArray[Any], global_shape: Sequence[int], starts: Sequence[int], *, offset: int = 0
    ) -> int:
        """Collective. Fill each rank's block of one array in row-major order; the counterpart of `write_array_all`.

        Returns
        -------
        int
            Bytes read on this rank. An error on one rank is raised on all.
        """
        blocks: list[npt.NDArray[Any]] = []

        def prepare() -> tuple[Access, npt.NDArray[np.uint8]]:
            block = out if out.flags.c_contiguous else np.empty_like(out, order="C")
            blocks.append(block)
            return _block(block, global_shape, starts, offset), memory_of(block, write=True).landing()

        count = self._shared.read_all(Operation.read_all, prepare)
        if blocks[0] is not out:
            out[...] = blocks[0]
        return count

    # --- size, sync, end ---

    def resize(self, size: int) -> None:
        """Collective. Set the size in bytes, the same on all ranks: what lies beyond is cut off, what is new reads as zeros.

        An error on one rank is raised on all.
        """
        self._shared.resize(Operation.set_size, size)

    def sync(self) -> int:
        """Collective. Publish what all ranks wrote, atomically; return the generation's number.

        Publishes nothing when nothing changed. An error on one rank is raised on all, and nothing is published.
        """
        return self._shared.sync()

    def close(self) -> None:
        """Collective. Publish what all ranks wrote, atomically, and close. Nothing on a closed file.

        An error on one rank is raised on all; then nothing is published, and the file is closed.
        """
        self._shared.close()

    def discard(self) -> None:
        """Collective. Close and publish nothing of what was written since the last `sync`."""
        self._shared.leave(None)

    def report(self) -> Report:
        """Collective. Tell what was decided and what each stage cost, on each rank and in sum; also after `close`.

        An error on one rank is raised on all.
        """
        return gather_report(self._shared)

    def __enter__(self) -> Self:
        self._shared.check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._shared.leave(error)

    def __del__(self) -> None:
        shared = getattr(self, "_shared", None)
        if shared is None or shared.closed:
            return
        if shared.writable:
            warnings.warn(
                f"{self.name} was not closed: what was written is discarded", ResourceWarning, source=self, stacklevel=2
            )
        shared.forget()


def open_file(
    comm: MPI.Intracomm,
    path: str | os.PathLike[str],
    mode: str = "r",
    *,
    generation: int | str | None = None,
    exclusive: bool = False,
    **hints: Any,
) -> OpenFile:
    """Collective. Open a file of a store on all ranks of a communicator. An error on one rank is raised on all.

    Parameters
    ----------
    comm : MPI.Intracomm
        Any; its first use duplicates it once, whatever is opened on it later.
    path : path
        The same on all ranks.
    mode : str
        ``r``; ``r+`` (read and write an existing file); ``w`` (replace, at the commit); ``x`` (must not exist);
        ``a`` (begin at the end: `OpenFile.size`).
    generation : int or str
        Read an older generation: its number, or ``"durable"``.
    exclusive : bool
        Refuse to open for writing beside a live writer.
    **hints
        The table in docs/reference/hints.md; the same on all ranks.

    Returns
    -------
    OpenFile

    Raises
    ------
    OSError
        As the built-in `open`; always an `MPI.Exception` too, which names rank and host.
    """

    def make_hints() -> Hints:
        if mode not in _MODES:
            raise ArgumentError(f"mode={mode!r}: choose one of {', '.join(_MODES)}")
        return Hints.make(hints)

    readable, writable = _MODES.get(mode, (False, False))
    shared = CollectiveFile.open(
        comm,
        path,
        mode,
        make_hints,
        readable=readable,
        writable=writable,
        exclusive=exclusive,
        generation=generation,
    )
    return OpenFile(shared, mode)


def _run(offset: int, nbytes: int) -> Access:
    if offset < 0:
        raise ArgumentError(f"offset={offset}: must be 0 or more")
    return Access.contiguous(int(offset), nbytes)


def _block(block: npt.NDArray[Any], global_shape: Sequence[int], starts: Sequence[int], offset: int) -> Access:
    if offset < 0:
        raise ArgumentError(f"offset={offset}: must be 0 or more")
    if not len(global_shape) == len(starts) == block.ndim:
        raise ArgumentError(
            f"an array of {block.ndim} dimensions, a global shape of {len(global_shape)}, starts of {len(starts)}: must be as many"
        )
    element = Typemap.basic(block.dtype.itemsize)
    tile = element.subarray(list(global_shape), list(block.shape), list(starts))
    return Access.through(tile, offset, 0, block.nbytes)
