"""A generation: one committed version of a file, its manifest read as far as it is needed.

The highest number in the id's directory is the file. A number is ours when its manifest carries our transaction; a manifest that states
another number than its own name is no generation. Committed manifests never change, so what was read of one is never looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DamageError, Error, StaleError
from ..format.inode import Inode
from ..format.layout import Layout
from ..format.manifest import (
    HEADER_BYTES,
    PAGE_ENTRY,
    PAGE_RECORDS,
    RECORD,
    SECTION_ARCHIVED,
    SECTION_STUB,
    SEGMENT_ENTRY,
    Header,
    Section,
    State,
    check_page,
    decode_tables,
    page_records,
)
from ..format.remote import Base, Remote
from ..format.segment import manifest_copy_name
from ..kernels import crc64
from .fresh import force_fresh
from .naming import naming

if TYPE_CHECKING:
    from .store import Store

__all__ = ["LISTING_S", "Generation", "list_directory", "list_numbers", "newest_durable", "read_header"]

PAGES_KEPT = 256  # 41 MiB: a million stripes
Array = npt.NDArray[Any]


LISTING_S = 0.5
"""A listing is not atomic: while numbers come and go a slow one may show none of them. One that took half of this is done again, and no number
is freed sooner than this after its collector saw a higher one (FRESH, WHOLE; measured in docs/design/0001-commit-model.md)."""


def list_directory(directory: str) -> list[str]:
    """List ``files/aa/ID``, forced fresh, and quickly enough to be believed.

    Raises
    ------
    FileNotFoundError
        There is no such directory.
    StaleError
        The directory could not be listed in time.
    """
    for _ in range(100):
        begun = time.clock_gettime(time.CLOCK_BOOTTIME)
        force_fresh(os.path.dirname(directory))
        force_fresh(directory)
        names = os.listdir(directory)
        if time.clock_gettime(time.CLOCK_BOOTTIME) - begun <= LISTING_S / 2:
            return names
    raise StaleError("the file's directory cannot be listed quickly enough to be believed", path=directory)


def list_numbers(directory: str) -> list[int]:
    """List the generation numbers in ``files/aa/ID``, ascending; see `list_directory`."""
    return sorted(int(name) for name in list_directory(directory) if name.isdecimal())


def read_header(path: str) -> Header:
    """Read a manifest's or a transaction's header.

    Raises
    ------
    FileNotFoundError, DamageError
    """
    fd = _open_manifest(path)
    try:
        return Header.decode(_exactly(fd, HEADER_BYTES, 0, path))
    finally:
        os.close(fd)


def _open_manifest(path: str) -> int:
    """Open a plain file; what else lies in its place is damage, neither followed nor waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise DamageError("a symlink in the place of a manifest", path=path) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DamageError("no plain file in the place of a manifest", path=path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _exactly(fd: int, length: int, offset: int, path: str) -> bytes:
    parts = []
    if offset >= 1 << 63:
        raise DamageError("the manifest ends too early", path=path)
    while length:
        with naming(path):
            part = os.pread(fd, min(length, 1 << 30), offset)
        if not part:
            raise DamageError("the manifest ends too early", path=path, offset=offset)
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)


class _NoGeneration(DamageError):
    """A manifest that verifies, but is not that number's: not linked as it now is, so it counts for nothing."""


class Generation:
    """One version of one file. Immutable and thread-safe.

    Attributes
    ----------
    number : int
        0: nothing was committed yet (an empty file, or the inode's inline data).
    header : Header or None
        None for generation 0.
    segments, directory : numpy arrays of SEGMENT_ENTRY and PAGE_ENTRY
    sections : tuple of Section
    inline : bytes or None
        The whole content, where the inode holds it.
    remote : Remote or None
        The object whose bytes are the content, of a stub; it has no records then.
    archived : Base or None
        What the manifest says of its base.
    store : Store or None
        Whose targets may hold a copy of the manifest, for a page that does not verify.
    """

    def __init__(
        self,
        file_id: bytes,
        layout: Layout,
        *,
        number: int = 0,
        header: Header | None = None,
        tables: bytes = b"",
        path: str = "",
        fd: int = -1,
        inline: bytes | None = None,
        remote: Remote | None = None,
    ) -> None:
        self.file_id = file_id
        self.layout = header.layout if header is not None else layout
        self.number = number
        self.header = header
        self.path = path
        self.inline = inline
        self._fd = fd
        self._tables = tables
        self.segments, self.directory = np.zeros(0, SEGMENT_ENTRY), np.zeros(0, PAGE_ENTRY)
        self.sections: tuple[Section, ...] = ()
        if header is not None:
            self.segments, self.directory, self.sections = decode_tables(tables, header)
        kinds = {section.kind: section.data for section in self.sections}
        self.archived = Base.from_json(kinds[SECTION_ARCHIVED]) if SECTION_ARCHIVED in kinds else None
        self.remote = remote
        if SECTION_STUB in kinds:
            if self.archived is None:
                raise DamageError("a stub's manifest that does not say of what", path=path, file=file_id.hex())
            self.remote = self.archived.remote
        self.store: Store | None = None
        self._pages: dict[int, Array] = {}  # what was read longest ago first
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Logical bytes."""
        if self.header is not None:
            return self.header.size
        if self.remote is not None:
            return self.remote.size
        return len(self.inline) if self.inline is not None else 0

    @property
    def content_crc(self) -> int | None:
        """CRC-64/NVME of the content; None of a stub whose bucket keeps none."""
        if self.remote is not None:
            return self.remote.crc64
        return self.header.data_crc if self.header is not None else crc64(self.inline or b"")

    @property
    def carried(self) -> tuple[Section, ...]:
        """Sections that the next generation has, too."""
        return tuple(section for section in self.sections if section.carry)

    def emptied(self) -> Generation:
        """What a replace stands on: no content, and what else is carried on."""
        empty = Generation(self.file_id, self.layout)
        empty.sections = tuple(section for section in self.carried if section.kind != SECTION_STUB)
        return empty

    @property
    def stored_bytes(self) -> int:
        """Bytes of the frames that it names, or of its inline data."""
        if self.header is not None:
            return self.header.stored_bytes
        return len(self.inline) if self.inline is not None else 0

    @property
    def durable(self) -> bool:
        """Whether all that it names was synced before it was linked; generation 0 always was."""
        return self.header is None or self.header.durable

    @property
    def transaction(self) -> bytes:
        """Id of the transaction that made it; empty for generation 0."""
        return self.header.tx if self.header is not None else b""

    # --- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    def zero(cls, inode: Inode) -> Generation:
        """Make generation 0: nothing, or what the inode itself holds."""
        inline = inode.data if inode.kind == "inline" else None
        return cls(inode.file_id, inode.layout, inline=inline, remote=inode.remote)

    @classmethod
    def from_path(cls, file_id: bytes, path: str, number: int | None) -> Generation:
        """Open one manifest. `number` None takes a transaction that is whole (kept after a conflict).

        Raises
        ------
        FileNotFoundError
            It was collected meanwhile.
        DamageError
            It does not verify, or states another number.
        """
        fd = _open_manifest(path)
        try:
            header = Header.decode(_exactly(fd, HEADER_BYTES, 0, path))
            if header.file_id != file_id:
                raise DamageError(
                    "this is another file's manifest", path=path, expected=file_id.hex(), found=header.file_id.hex()
                )
            if header.state != State.WHOLE:  # only a whole one is linked: what was written last is lost
                raise DamageError("the manifest is not whole", path=path, expected=State.WHOLE, found=header.state)
            if number not in (None, header.number):
                raise _NoGeneration(
                    "this is not the manifest of that generation", path=path, expected=str(number), found=header.number
                )
            with naming(path):
                header.check_file_bytes(os.fstat(fd).st_size)
            tables = _exactly(fd, header.tables_bytes, HEADER_BYTES, path)
            return cls(
                file_id,
                header.layout,
                number=header.number if number is None else number,
                header=header,
                tables=tables,
                path=path,
                fd=fd,
            )
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def head(cls, store: Store, inode: Inode, path: str, *, named: Any = None) -> Generation:
        """Open the newest generation of the file that `inode` names.

        Parameters
        ----------
        named : callable, optional
            Tells whether the name still leads to this inode; asked where a listing shows no number (such a listing proves nothing).

        Raises
        ------
        DamageError
            The newest number does not verify and has no good copy; names the newest durable generation.
        FileNotFoundError
            The file was removed meanwhile.
        """
        directory = store.file_directory(inode.file_id)
        for _ in range(100):
            try:
                numbers = list_numbers(directory)
            except FileNotFoundError:
                numbers = None
            if not numbers:
                if named is not None and not named():
                    raise FileNotFoundError(2, os.strerror(2), path)
                if numbers is None and inode.kind == "generations":
                    raise DamageError(
                        f"the file's directory {directory} is missing, though its name says that it has generations",
                        path=path,
                    )
                return cls.zero(inode)
            found = cls.newest(store, inode.file_id, directory, numbers, path)
            if found is not None:
                return found
        raise StaleError("the file is replaced faster than it can be opened", path=path)

    @classmethod
    def newest(cls, store: Store, file_id: bytes, directory: str, numbers: list[int], path: str) -> Generation | None:
        """The highest number that is a generation; None = a number vanished, list again."""
        for number in reversed(numbers):
            manifest = os.path.join(directory, str(number))
            try:
                found = cls.from_path(file_id, manifest, number)
                found.store = store
                return found
            except FileNotFoundError:
                return None
            except _NoGeneration:
                continue
            except DamageError as damage:
                copy = cls._from_copy(store, file_id, number)
                if copy is not None:
                    return copy
                durable = newest_durable(directory, file_id)
                raise DamageError(
                    f"generation {number} of the file is damaged ({damage.strerror}); "
                    + (
                        f"the newest durable generation is {durable}: read it with generation={durable}"
                        if durable
                        else "no older generation is there"
                    ),
                    path=path,
                    file=file_id.hex(),
                ) from damage
        return None

    @classmethod
    def _from_copy(cls, store: Store, file_id: bytes, number: int) -> Generation | None:
        for target in store.targets:
            for name in target.list_segments(file_id):
                if not re.fullmatch(r"[0-9a-f]{32}\.manifest", name):
                    continue
                tx = bytes.fromhex(name.removesuffix(".manifest"))
                try:
                    data = target.read_manifest_copy(file_id, tx)
                    return cls.from_bytes(file_id, data, number)
                except (Error, OSError):
                    continue
        return None

    @classmethod
    def from_bytes(cls, file_id: bytes, data: bytes, number: int) -> Generation:
        """Take a whole manifest from memory (a copy on a target)."""
        header = Header.decode(data[:HEADER_BYTES])
        if header.state != State.WHOLE or header.file_id != file_id or header.number != number:
            raise DamageError("this copy is of another generation", expected=number, found=header.number)
        end = HEADER_BYTES + header.tables_bytes
        generation = cls(file_id, header.layout, number=number, header=header, tables=data[HEADER_BYTES:end])
        for page in range(header.page_count):
            offset, records = int(generation.directory[page]["offset"]), page_records(page, header.stripes)
            generation._pages[page] = _padded(
                _known_segments(
                    check_page(data[offset : offset + records * RECORD.itemsize], generation.directory[page], records),
                    generation.segments,
                )
                if offset
                else np.zeros(0, RECORD)
            )
        return generation

    def head_bytes(self) -> bytes:
        """Header and tables, for other ranks to make the same generation from (see `from_head_bytes`)."""
        return self.header.encode() + self._tables if self.header is not None else b""

    @classmethod
    def from_head_bytes(
        cls,
        file_id: bytes,
        layout: Layout,
        data: bytes,
        path: str,
        inline: bytes | None,
        remote: Remote | None = None,
    ) -> Generation:
        """Make the generation that another rank opened; pages are read from `path` when they are needed."""
        if not data:
            return cls(file_id, layout, inline=inline, remote=remote)
        header = Header.decode(data[:HEADER_BYTES])
        return cls(file_id, layout, number=header.number, header=header, tables=data[HEADER_BYTES:], path=path)

    # --- records -----------------------------------------------------------------------------------------------------

    def page(self, number: int) -> Array:
        """Give one page of records (PAGE_RECORDS of RECORD), verified; not to be changed.

        Raises
        ------
        DamageError
            The page does not verify.
        StaleError
            The manifest was collected before this page was read.
        """
        page = self._pages.get(number)
        if page is None:
            with self._lock:
                page = self._read_page(number)
        return page

    def _read_page(self, number: int) -> Array:
        page = self._pages.get(number)
        if page is not None:  # another thread was quicker
            return page
        if number >= len(self.directory) or not self.directory[number]["offset"]:
            page = np.zeros(PAGE_RECORDS, RECORD)
        else:
            assert self.header is not None
            entry, records = self.directory[number], page_records(number, self.header.stripes)
            try:
                data = _exactly(self._descriptor(), records * RECORD.itemsize, int(entry["offset"]), self.path)
                page = _padded(_known_segments(check_page(data, entry, records), self.segments))
            except DamageError as damage:
                copy = self._from_copy(self.store, self.file_id, self.number) if self.store is not None else None
                if copy is None or copy.transaction != self.transaction:
                    damage.filename = damage.filename or self.path
                    raise
                page = copy.page(number)
        if self._fd >= 0 or self.path:  # one from memory keeps all its pages
            while len(self._pages) >= PAGES_KEPT:
                del self._pages[next(iter(self._pages))]
        self._pages[number] = page
        return page

    def _descriptor(self) -> int:
        if self._fd < 0:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise StaleError(f"generation {self.number} was collected while it was read", path=self.path) from None
        return self._fd

    def descriptor(self) -> int:
        """The manifest's open file, to copy unchanged pages from; -1 where it is in memory only."""
        return self._descriptor() if self.path else -1

    def records(self, stripes: npt.NDArray[np.uint64]) -> Array:
        """Look up the records of many stripes; a hole's is all zeros. Cost: one page for each 4096 stripes touched."""
        out = np.zeros(len(stripes), RECORD)
        if not len(stripes) or not len(self.directory):
            return out
        pages = stripes // np.uint64(PAGE_RECORDS)
        slots = (stripes % np.uint64(PAGE_RECORDS)).astype(np.int64)
        first, last = int(pages.min()), int(pages.max())
        if first == last:
            if first < len(self.directory) and self.directory[first]["offset"]:
                out[:] = self.page(first)[slots]
            return out
        for number in np.unique(pages[pages < len(self.directory)]):
            if self.directory[int(number)]["offset"]:
                chosen = pages == number
                out[chosen] = self.page(int(number))[slots[chosen]]
        return out

    def record(self, stripe: int) -> Array:
        """Look up one record, as an array of one, which is not to be changed; a hole's is all zeros."""
        number, slot = divmod(stripe, PAGE_RECORDS)
        return self.page(number)[slot : slot + 1] if number < len(self.directory) else np.zeros(1, RECORD)

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # it was only read
                os.close(fd)

    def advise(self, damage: DamageError, directory: str) -> None:
        """Say in an error of reading this generation which one is durable, where this one is not: a power cut may have damaged it."""
        if self.durable:
            return
        durable = 0
        with contextlib.suppress(OSError):
            durable = newest_durable(directory, self.file_id)
        if durable:
            damage.strerror = (
                f"{damage.strerror}; generation {self.number} was not made durable, the newest durable generation is {durable}: "
                f"read it with generation={durable}"
            )

    def copies_name(self) -> str:
        """Name under which a second target holds this manifest."""
        return manifest_copy_name(self.transaction)


def _known_segments(page: Array, segments: Array) -> Array:
    """Check that records name segments that there are; what else a record says is checked where it is used."""
    highest = int(page["segment"].max(initial=0))
    if highest > len(segments):
        raise DamageError("a record that names a segment beyond the table", expected=len(segments), found=highest)
    return page


def _padded(page: Array) -> Array:
    """A page with the records that a short last one lacks, as holes."""
    if len(page) == PAGE_RECORDS:
        return page
    full = np.zeros(PAGE_RECORDS, RECORD)
    full[: len(page)] = page
    return full


def newest_durable(directory: str, file_id: bytes) -> int:
    """Find the newest number whose manifest verifies and says "synced before linked"; 0 = none."""
    for number in reversed(list_numbers(directory)):
        try:
            generation = Generation.from_path(file_id, os.path.join(directory, str(number)), number)
        except (Error, OSError):
            continue
        generation.close()
        if generation.durable:
            return number
    return 0
