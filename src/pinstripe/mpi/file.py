"""File: MPI.File by name, argument, constant and meaning, over files of a store.

What is here: opening and closing, sizes, views, explicit offsets and individual pointers, Sync, Info. The other families of
calls stand in `nonblocking`, `shared_calls`, `split` and `error_calls`; what all have in common, in `calls`. Every method
says whether it is collective; an error of a collective call is raised on all ranks. Positions and offsets count
elementary types of the view.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Self

from mpi4py import MPI

from ..errors import ArgumentError
from ..kernels import crc64
from ..store.namespace import remove
from .agree import Operation, agree
from .channel import Channel
from .collective import CollectiveFile, SplitError
from .error_calls import ErrorCalls, answering
from .hints import Hints
from .nonblocking import NonblockingCalls
from .pointer import SharedPointer
from .rank_error import MPIError, located
from .report import Report, gather_report
from .split import SplitCalls
from .view import View

__all__ = ["File"]

_ACCESS = MPI.MODE_RDONLY | MPI.MODE_WRONLY | MPI.MODE_RDWR
_OVERLAP = "higher"  # undefined in MPI; like others, we let a rank win: the higher one, always


@answering
class File(NonblockingCalls, SplitCalls, ErrorCalls):
    """A file of a store, with the methods of `mpi4py.MPI.File`.

    ``File.Open`` makes one; ``File()`` is a null file, equal to `MPI.FILE_NULL`. `Sync` and `Close` publish a generation:
    until then nothing that was written is visible to others. As a context manager it closes, and publishes nothing when
    an exception leaves the block on any rank. It cannot be pickled.
    """

    def __init__(self, file: File | None = None) -> None:
        if file is not None and file != MPI.FILE_NULL:
            raise ArgumentError("an open file has one object: pass that on")
        super().__init__()
        self._datatypes: tuple[MPI.Datatype, MPI.Datatype] = (MPI.BYTE, MPI.BYTE)
        self._owns_datatypes = False
        self._amode = 0
        self._group = MPI.GROUP_NULL

    # --- what it is ---

    def __eq__(self, other: object) -> bool:
        if isinstance(other, File):
            return self._shared is other._shared
        if isinstance(other, MPI.File):
            return not self and other == MPI.FILE_NULL
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as mpi4py's

    def __reduce__(self) -> NoReturn:
        raise ValueError("cannot pickle an open file: pass its path, and open it where it is needed")

    def __repr__(self) -> str:
        if self._shared is None:
            return "<pinstripe.mpi.File null>"
        return f"<pinstripe.mpi.File {self._shared.session.path!r}>"

    def __enter__(self) -> Self:
        self._open().check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shared is None:
            return
        if error is None:
            try:
                self.Close()
            except SplitError as pending:
                self._leave(pending)
                raise
        else:
            self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        shared, self._shared = self._open(), None
        shared.leave(error)
        self._release()

    def __del__(self) -> None:
        shared = getattr(self, "_shared", None)
        if shared is None or shared.closed:
            return
        if shared.writable:
            warnings.warn(
                f"{shared.session.path} was not closed: what was written is discarded", ResourceWarning, stacklevel=2
            )
        shared.forget()
        if self._pointer is not None:
            self._pointer.close(remove=False)

    # --- opening, closing, deleting ---

    @classmethod
    def Open(
        cls,
        comm: MPI.Intracomm,
        filename: str | bytes | os.PathLike[Any],
        amode: int = MPI.MODE_RDONLY,
        info: MPI.Info = MPI.INFO_NULL,
    ) -> Self:
        """Collective. Open a file of a store on all ranks of `comm`. An error on one rank is raised on all.

        A new file's name is made here, empty, as MPI does; an existing file starts from its last generation.

        Parameters
        ----------
        filename : str, bytes or path
            The same on all ranks.
        amode : int
            One of ``MODE_RDONLY``, ``MODE_WRONLY``, ``MODE_RDWR``; with ``MODE_CREATE``, ``MODE_EXCL``, ``MODE_APPEND``,
            ``MODE_DELETE_ON_CLOSE``, ``MODE_UNIQUE_OPEN``.
        info : MPI.Info
            The table in docs/reference/hints.md; the same on all ranks.
        """
        mode = _session_mode(amode)

        def make_hints() -> Hints:
            if mode is None:
                raise MPIError(_why_not(amode), MPI.ERR_AMODE)
            return Hints.from_info(info, overlap=_OVERLAP)

        shared = CollectiveFile.open(
            comm,
            os.fsdecode(filename),
            mode or "r",
            make_hints,
            readable=not amode & MPI.MODE_WRONLY,
            writable=not amode & MPI.MODE_RDONLY,
            name_at_open=True,
        )
        file = cls()
        file._shared, file._amode, file._group = shared, amode, comm.Get_group()
        if amode & MPI.MODE_APPEND:
            file._position = shared.size
        pointer_file = shared.session.shared_file("pointer") if shared.channel.size > 1 else None
        file._pointer = SharedPointer(pointer_file, file._position)
        return file

    def Close(self) -> None:
        """Collective. Publish what was written and close; the object becomes null. An error on one rank is raised on all.

        With ``MODE_DELETE_ON_CLOSE`` nothing is published, and the name is removed.
        """
        shared, self._shared = self._open(), None
        try:
            if self._amode & MPI.MODE_DELETE_ON_CLOSE:
                shared.leave(None)
                _remove(shared.channel, Operation.delete, shared.session.path)
            else:
                shared.close()
        finally:
            if not shared.closed:  # another rank was elsewhere: it can be closed again
                self._shared = shared
            else:
                self._release()

    @classmethod
    def Delete(cls, filename: str | bytes | os.PathLike[Any], info: MPI.Info = MPI.INFO_NULL) -> None:
        """Independent. Remove a file's name. A job that has it open keeps what it opened. An error is raised here only."""
        try:
            remove(os.fsdecode(filename))
        except Exception as error:
            raise located(error, MPI.COMM_WORLD.Get_rank(), MPI.Get_processor_name()) from error

    def free(self) -> None:
        """Collective. Close, unless it is null."""
        if self:
            self.Close()

    def _release(self) -> None:
        if self._pointer is not None:
            self._pointer.close(remove=True)
        if self._group != MPI.GROUP_NULL:
            self._group.Free()
        self._free_datatypes()

    # --- sizes and attributes ---

    def Set_size(self, size: int) -> None:
        """Collective. Set the size in bytes, the same on all ranks. An error on one rank is raised on all."""
        self._open().resize(Operation.set_size, int(size))

    def Preallocate(self, size: int) -> None:
        """Collective. Grow to at least `size` bytes; what is new is a hole and takes no space. An error is raised on all ranks."""
        self._open().resize(Operation.preallocate, int(size), grow_only=True)

    def Get_size(self) -> int:
        """Independent. Return the size in bytes: what other ranks wrote alone since the last collective call does not count yet."""
        return self._open().newest_size()

    def Get_amode(self) -> int:
        """Independent. Return the mode it was opened with."""
        self._open().check()
        return self._amode

    def Get_group(self) -> MPI.Group:
        """Independent. Return the group of the communicator it was opened on; the caller frees it."""
        self._open().check()
        return MPI.Group.Union(self._group, MPI.GROUP_EMPTY)

    @property
    def size(self) -> int:
        """Independent. Size in bytes, as `Get_size`."""
        return self.Get_size()

    @property
    def amode(self) -> int:
        """Independent. Mode it was opened with."""
        return self.Get_amode()

    @property
    def group(self) -> MPI.Group:
        """Independent. Group of ranks that opened it, as `Get_group`."""
        return self.Get_group()

    @property
    def group_size(self) -> int:
        """Independent. Number of ranks that opened it."""
        return self._open().channel.size

    @property
    def group_rank(self) -> int:
        """Independent. This rank in the group."""
        return self._open().channel.rank

    @property
    def info(self) -> MPI.Info:
        """Independent. Hints in use; to assign them is collective, as `Set_info`."""
        return self.Get_info()

    @info.setter
    def info(self, info: MPI.Info) -> None:
        self.Set_info(info)

    def Set_info(self, info: MPI.Info) -> None:
        """Collective. Change hints that can change on an open file: how collective reads and writes are exchanged, and overlap.

        Others are ignored, as MPI allows; `Get_info` tells what is used. An error on one rank is raised on all.
        """
        self._open().set_hints(lambda present: present.changed(info))

    def Get_info(self) -> MPI.Info:
        """Independent. Return the hints in use, under our own, the standard's and ROMIO's names; the caller frees it."""
        shared = self._open()
        shared.check()
        return shared.hints.to_info(shared.session.layout)

    # --- views and positions ---

    def Set_view(
        self,
        disp: int = 0,
        etype: MPI.Datatype = MPI.BYTE,
        filetype: MPI.Datatype | None = None,
        datarep: str = "native",
        info: MPI.Info = MPI.INFO_NULL,
    ) -> None:
        """Collective. Set this rank's view, its position and the shared pointer to 0. An error on one rank is raised on all, and no view
        changes.

        Parameters
        ----------
        disp : int
            Where the view begins, in bytes; ``MPI.DISPLACEMENT_CURRENT`` belongs to sequential files, which are refused.
        etype : MPI.Datatype
            The unit of offsets and positions.
        filetype : MPI.Datatype
            Repeated from `disp` on; `etype` if None.
        datarep : str
            ``native``, and no other.
        info : MPI.Info
            As for `Set_info`.
        """
        filetype = etype if filetype is None else filetype
        made: list[View] = []
        shared = self._open()
        hints = shared.hints

        def prepare() -> None:
            if datarep != "native":
                raise MPIError(f"datarep={datarep!r}: only 'native' is supported", MPI.ERR_UNSUPPORTED_DATAREP)
            if etype == MPI.DATATYPE_NULL or filetype == MPI.DATATYPE_NULL:
                raise MPIError("the datatype is null", MPI.ERR_TYPE)
            made.append(View.of(int(disp), etype, filetype, writable=shared.writable))

        try:
            hints = shared.hints.changed(info)
        except ArgumentError as error:
            shared.agree_on(Operation.set_view, partial(_raise, error))
        shared.agree_on(Operation.set_view, prepare, same=crc64(repr(hints).encode()) >> 1)
        shared.hints = hints
        self._free_datatypes()
        self._view, self._position = made[0], 0
        if self._pointer is not None:
            self._pointer.reset()
        # The caller may free his datatypes; named ones cannot be freed and are not copied.
        self._datatypes = _kept(etype), _kept(filetype)
        self._owns_datatypes = True

    def Get_view(self) -> tuple[int, MPI.Datatype, MPI.Datatype, str]:
        """Independent. Return displacement, elementary type, file type and data representation; the caller frees derived types."""
        self._open().check()
        etype, filetype = self._datatypes
        return self._view.displacement, _kept(etype), _kept(filetype), "native"

    def _free_datatypes(self) -> None:
        for datatype in self._datatypes if self._owns_datatypes else ():
            if not datatype.is_predefined:
                datatype.Free()
        self._datatypes, self._owns_datatypes = (MPI.BYTE, MPI.BYTE), False

    def Get_type_extent(self, datatype: MPI.Datatype) -> int:
        """Independent. Return the extent of a datatype in the file: with ``native``, that in memory."""
        self._open().check()
        return datatype.Get_extent()[1]

    def Seek(self, offset: int, whence: int = MPI.SEEK_SET) -> None:
        """Independent. Move this rank's position, in etypes of the view."""
        shared = self._open()
        shared.check()
        if whence == MPI.SEEK_SET:
            position = offset
        elif whence == MPI.SEEK_CUR:
            position = self._position + offset
        elif whence == MPI.SEEK_END:
            position = self._view.etypes_below(shared.newest_size()) + offset
        else:
            raise self._wrong(f"whence={whence}: one of SEEK_SET, SEEK_CUR, SEEK_END")
        if position < 0:
            raise self._wrong(f"a seek to {position}: must be 0 or more")
        self._position = position

    def Get_position(self) -> int:
        """Independent. Return this rank's position, in etypes of the view."""
        self._open().check()
        return self._position

    def Get_byte_offset(self, offset: int) -> int:
        """Independent. Return the place in the file, in bytes, of an offset in etypes of the view."""
        self._open().check()
        if offset < 0:
            raise self._wrong(f"offset={offset}: must be 0 or more")
        return self._view.byte_offset(offset)

    # --- explicit offsets ---

    def Read_at(self, offset: int, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Read at an offset, in etypes. An error is raised here only."""
        self._read_alone(offset, buf, status)

    def Read_at_all(self, offset: int, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Read at an offset, in etypes. An error on one rank is raised on all."""
        self._read_together(Operation.read_at_all, offset, buf, status)

    def Write_at(self, offset: int, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Write at an offset, in etypes. An error is raised here, and on all ranks at the next collective call."""
        self._write_alone(offset, buf, status)

    def Write_at_all(self, offset: int, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Write at an offset, in etypes. An error on one rank is raised on all, and nothing more is published."""
        self._write_together(Operation.write_at_all, offset, buf, status)

    # --- individual pointers ---

    def Read(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Read at this rank's position and move it. An error is raised here only."""
        self._position += self._etypes(self._read_alone(self._position, buf, status))

    def Read_all(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Read at each rank's position and move it. An error on one rank is raised on all."""
        self._position += self._etypes(self._read_together(Operation.read_all, self._position, buf, status))

    def Write(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Independent. Write at this rank's position and move it. An error is raised here, and on all ranks at the next collective call."""
        self._position += self._etypes(self._write_alone(self._position, buf, status))

    def Write_all(self, buf: Any, status: MPI.Status | None = None) -> None:
        """Collective. Write at each rank's position and move it. An error on one rank is raised on all, and nothing more is published."""
        self._position += self._etypes(self._write_together(Operation.write_all, self._position, buf, status))

    # --- sync, atomicity, report ---

    def Sync(self) -> None:
        """Collective. Publish what all ranks wrote as a new generation; nothing when nothing changed.

        An error on one rank is raised on all, and nothing is published.
        """
        self._open().sync()

    def Set_atomicity(self, flag: bool) -> None:
        """Collective. Turn atomic mode on or off: in it, what one rank's independent write brought is there for every read that starts later,
        on any rank; slowly. Refused on all ranks with ``MPI.ERR_UNSUPPORTED_OPERATION`` where a target has not scope ``shared``."""
        self._open().set_atomic(bool(flag))

    def Get_atomicity(self) -> bool:
        """Independent. Return whether the file is in atomic mode."""
        shared = self._open()
        shared.check()
        return shared.atomic

    @property
    def atomicity(self) -> bool:
        """Independent. Whether the file is in atomic mode; to assign it is collective, as `Set_atomicity`."""
        return self.Get_atomicity()

    @atomicity.setter
    def atomicity(self, flag: bool) -> None:
        self.Set_atomicity(flag)

    def report(self) -> Report:
        """Collective. Tell what was decided and what each stage cost. An error on one rank is raised on all."""
        return gather_report(self._open())


def _raise(error: Exception) -> NoReturn:
    raise error


def _kept(datatype: MPI.Datatype) -> MPI.Datatype:
    return datatype if datatype.is_predefined else datatype.Dup()


def _session_mode(amode: int) -> str | None:
    """Return the session's mode for an access mode; None = one that cannot be."""
    access = amode & _ACCESS
    if access not in (MPI.MODE_RDONLY, MPI.MODE_WRONLY, MPI.MODE_RDWR) or amode & MPI.MODE_SEQUENTIAL:
        return None
    if access == MPI.MODE_RDONLY:
        return None if amode & (MPI.MODE_CREATE | MPI.MODE_EXCL) else "r"
    if amode & MPI.MODE_CREATE:
        return "x" if amode & MPI.MODE_EXCL else "c"
    return "r+"


def _why_not(amode: int) -> str:
    if amode & MPI.MODE_SEQUENTIAL:
        return "MODE_SEQUENTIAL is not supported: a file of a store is read and written anywhere"
    if amode & MPI.MODE_RDONLY and amode & (MPI.MODE_CREATE | MPI.MODE_EXCL):
        return "MODE_RDONLY goes with neither MODE_CREATE nor MODE_EXCL"
    return "the mode needs exactly one of MODE_RDONLY, MODE_WRONLY, MODE_RDWR"


def _remove(channel: Channel, operation: Operation, path: str) -> None:
    error: BaseException | None = None
    if channel.rank == 0:
        try:
            remove(path)
        except Exception as caught:
            error = caught
    agree(channel, operation, 0, error)
