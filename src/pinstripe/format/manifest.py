"""Manifest: header, segment table, page directory, pages of records."""

from __future__ import annotations

import dataclasses
import enum
import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ArgumentError, DamageError, UnsupportedError
from ..kernels import RECORD, crc64
from .layout import CODECS, Layout
from .segment import SEGMENT_HEADER_BYTES, SEGMENT_LIMIT

__all__ = [
    "HEADER_BYTES",
    "PAGE_BYTES",
    "PAGE_ENTRY",
    "PAGE_RECORDS",
    "RECORD",
    "SECTION_ARCHIVED",
    "SECTION_STUB",
    "SEGMENTS_LIMIT",
    "SEGMENT_ENTRY",
    "SEGMENT_SYNCED",
    "STRIPES_LIMIT",
    "Header",
    "Section",
    "State",
    "Writer",
    "check_page",
    "check_records",
    "decode_tables",
    "encode_tables",
    "page_records",
]

HEADER_BYTES = 4096
PAGE_RECORDS = 4096
PAGE_BYTES = PAGE_RECORDS * 40
STRIPES_LIMIT = 1 << 40
"""Most stripes of a file."""
SEGMENTS_LIMIT = 1 << 24
"""Most segments of a manifest."""

SEGMENT_ENTRY = np.dtype(
    [
        ("tx", "u1", (16,)),
        ("target", "u1", (16,)),
        ("stream", "<u4"),
        ("n", "<u4"),
        ("length", "<u8"),
        ("flags", "<u4"),
        ("live_frames", "<u4"),
        ("live_bytes", "<u8"),
    ]
)
"""An entry of the segment table."""

SEGMENT_SYNCED = 1
"""Bit of an entry's flags: the segment was synced before the manifest was linked."""

SECTION_STUB = 1
"""Kind of the section that says: there are no records, the bytes are those of the archived section's remote. Must be understood."""
SECTION_ARCHIVED = 2
"""Kind of the section that holds a `Base`. Carried."""

PAGE_ENTRY = np.dtype([("offset", "<u8"), ("checksum", "<u8"), ("data_crc", "<u8"), ("stored_bytes", "<u8")])
"""An entry of the page directory."""

_MAGIC = b"PSMANI1\n"
# Up to the writer at 256; between, reserved bytes.
_FIELDS = struct.Struct("<8sII16s16sQQQQIIIi32sIIQQQQQIHHHH")
_SIZES = (HEADER_BYTES, SEGMENT_ENTRY.itemsize, PAGE_ENTRY.itemsize, RECORD.itemsize)
_SECTION = struct.Struct("<II")
_SECTIONS_MOST = 1 << 30
_MUST_UNDERSTAND, _CARRY = 1 << 31, 1 << 30
_KNOWN_SECTIONS = frozenset((SECTION_STUB, SECTION_ARCHIVED))
_WRITER_AT, _WRITER_BYTES = 256, 1024
_DURABLE, _KEPT = 1, 2
_CODEC_WORDS = {number: word for word, number in CODECS.items()}


class State(enum.IntEnum):
    """How far the transaction is that the manifest belongs to; append-only numbers."""

    REGISTERED = 1
    BASED = 2
    WHOLE = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, or wrote.

    Attributes
    ----------
    host : str
        Host name.
    pid, start : int
        Process id, and its start time in clock ticks since boot (field 22 of ``/proc/pid/stat``).
    boot, pidns : str
        Boot id, and the process id namespace as ``/proc/self/ns/pid`` names it.
    job : str
        The launcher's or batch system's name of the job; may be empty.
    ranks : int
        Ranks of the job.
    """

    host: str
    pid: int
    start: int
    boot: str
    pidns: str
    job: str
    ranks: int

    def __post_init__(self) -> None:
        # A long name must not fail a commit: it is for people, and fits when cut.
        for field, most in (("host", 300), ("job", 300), ("boot", 100), ("pidns", 100)):
            text = getattr(self, field)
            while len(json.dumps(text)) > most:
                text = text[:-1]
            object.__setattr__(self, field, text)

    def encode(self) -> bytes:
        """Return the 1024 bytes of a header that say who writes."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":")).encode()
        if len(text) > _WRITER_BYTES:
            raise ArgumentError(f"writer: takes {len(text)} bytes of {_WRITER_BYTES}")
        return text.ljust(_WRITER_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Writer:
        """Read what `encode` wrote; fields that this version does not know are ignored.

        Raises
        ------
        DamageError
            The bytes are no writer.
        """
        try:
            values = json.loads(data.rstrip(b"\0"))
            writer = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            numbers = (writer.pid, writer.start, writer.ranks)
            if not all(isinstance(value, int) for value in numbers):
                raise TypeError("a number was expected")
            if not all(isinstance(text, str) for text in (writer.host, writer.boot, writer.pidns, writer.job)):
                raise TypeError("a text was expected")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamageError(f"a manifest whose writer is malformed: {error!r}") from None
        return writer


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """What a version of the format has to say of a file beside its records.

    Attributes
    ----------
    kind : int
        An append-only number, below 2**30.
    data : bytes
    must_understand : bool
        Who does not know the kind refuses the file.
    carry : bool
        Who does not know the kind takes it over into the file's next generation; else drops it there.
    """

    kind: int
    data: bytes
    must_understand: bool = False
    carry: bool = False

    def encode(self) -> bytes:
        """Return the section's head and data, padded to a multiple of 8 bytes."""
        word = self.kind | _MUST_UNDERSTAND * self.must_understand | _CARRY * self.carry
        return _SECTION.pack(word, len(self.data)) + self.data + bytes(-len(self.data) % 8)


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """The first block of a manifest.

    Attributes
    ----------
    state : State
        How far the transaction is.
    file_id, tx : bytes
        16 bytes each.
    layout : Layout
        The file's layout.
    writer : Writer
        Who writes.
    durable : bool
        Synced before linked.
    kept : bool
        A conflict: the transaction is kept.
    number : int
        The generation that it is to be (state WHOLE).
    base : int
        The head's number when it was recorded (states BASED and WHOLE).
    size : int
        Logical bytes of the file.
    data_crc : int
        Checksum of the whole file's bytes.
    segment_count : int
        Entries of the segment table.
    stored_bytes : int
        Sum of the frames that the records name.
    committed_ns, started_ns : int
        Time of the commit and of the registration, nanoseconds since 1970.
    tables_crc : int
        Checksum of segment table, page directory and sections.
    sections_bytes : int
        Bytes of the sections.
    """

    state: State
    file_id: bytes
    tx: bytes
    layout: Layout
    writer: Writer
    durable: bool = False
    kept: bool = False
    number: int = 0
    base: int = 0
    size: int = 0
    data_crc: int = 0
    segment_count: int = 0
    stored_bytes: int = 0
    committed_ns: int = 0
    tables_crc: int = 0
    started_ns: int = 0
    sections_bytes: int = 0

    @property
    def stripes(self) -> int:
        """Stripes of the file."""
        return self.layout.stripes(self.size)

    @property
    def page_count(self) -> int:
        """Pages of records, holes counted."""
        return -(-self.stripes // PAGE_RECORDS)

    @property
    def tables_bytes(self) -> int:
        """Bytes of segment table, page directory and sections; they lie directly behind the header."""
        entries = self.segment_count * SEGMENT_ENTRY.itemsize + self.page_count * PAGE_ENTRY.itemsize
        return entries + self.sections_bytes

    def encode(self) -> bytes:
        """Return the header's 4096 bytes."""
        if self.stripes > STRIPES_LIMIT or self.segment_count > SEGMENTS_LIMIT:
            raise ArgumentError(
                f"{self.stripes} stripes in {self.segment_count} segments: a file has at most {STRIPES_LIMIT} stripes "
                f"in {SEGMENTS_LIMIT} segments; choose a larger stripe_bytes"
            )
        data = bytearray(HEADER_BYTES)
        _FIELDS.pack_into(
            data,
            0,
            _MAGIC,
            self.state,
            _DURABLE * self.durable | _KEPT * self.kept,
            self.file_id,
            self.tx,
            self.number,
            self.base,
            self.size,
            self.data_crc,
            self.layout.stripe_bytes,
            self.layout.block_bytes,
            self.layout.codec_number,
            self.layout.stripe_count,
            (self.layout.pool or "").encode(),
            self.segment_count,
            self.page_count,
            self.stripes,
            self.stored_bytes,
            self.committed_ns,
            self.tables_crc,
            self.started_ns,
            self.sections_bytes,
            *_SIZES,
        )
        data[_WRITER_AT : _WRITER_AT + _WRITER_BYTES] = self.writer.encode()
        data[-8:] = crc64(data[:-8]).to_bytes(8, "little")
        return bytes(data)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header; whatever lies behind its 4096 bytes is ignored.

        Raises
        ------
        DamageError
            The bytes do not verify, contradict themselves or pass a limit of the format.
        UnsupportedError
            They verify, but have a state, flag or codec that this version does not know.
        """
        if len(data) < HEADER_BYTES:
            raise DamageError("a manifest that ends within its header", expected=HEADER_BYTES, found=len(data))
        data = bytes(data[:HEADER_BYTES])
        if data[:8] != _MAGIC:
            raise DamageError("a manifest that does not start as one", expected=repr(_MAGIC), found=repr(data[:8]))
        expected, found = int.from_bytes(data[-8:], "little"), crc64(data[:-8])
        if expected != found:
            raise DamageError(
                "a manifest whose header's checksum does not hold", expected=f"{expected:016x}", found=f"{found:016x}"
            )
        (
            _,
            state,
            flags,
            file_id,
            tx,
            number,
            base,
            size,
            data_crc,
            stripe_bytes,
            block_bytes,
            codec,
            stripe_count,
            pool,
            segment_count,
            page_count,
            stripes,
            stored_bytes,
            committed_ns,
            tables_crc,
            started_ns,
            sections_bytes,
            *sizes,
        ) = _FIELDS.unpack_from(data)
        if tuple(sizes) != _SIZES:
            raise UnsupportedError(
                f"a manifest whose header, segment, page and record entries take {sizes} bytes, "
                f"where this pinstripe knows {list(_SIZES)}: use a newer one"
            )
        if flags & ~(_DURABLE | _KEPT) or state not in set(State) or codec not in _CODEC_WORDS:
            raise UnsupportedError(
                f"a manifest with state {state}, flags {flags:#x}, codec {codec}: "
                "this pinstripe does not know all of them; use a newer one"
            )
        try:
            word = pool.rstrip(b"\0").decode() or None
            layout = Layout(stripe_bytes, stripe_count, block_bytes, _CODEC_WORDS[codec], word)
        except ValueError as error:
            raise DamageError(f"a manifest with a layout that cannot be: {error}", file=file_id.hex()) from None
        header = cls(
            state=State(state),
            file_id=file_id,
            tx=tx,
            layout=layout,
            writer=Writer.decode(data[_WRITER_AT : _WRITER_AT + _WRITER_BYTES]),
            durable=bool(flags & _DURABLE),
            kept=bool(flags & _KEPT),
            number=number,
            base=base,
            size=size,
            data_crc=data_crc,
            segment_count=segment_count,
            stored_bytes=stored_bytes,
            committed_ns=committed_ns,
            tables_crc=tables_crc,
            started_ns=started_ns,
            sections_bytes=sections_bytes,
        )
        for what, expect, have in (
            ("stripes", header.stripes, stripes),
            ("pages", header.page_count, page_count),
        ):
            if expect != have:
                raise DamageError(
                    f"a manifest whose {what} do not fit its size", file=file_id.hex(), expected=expect, found=have
                )
        for what, most, have in (
            ("stripes", STRIPES_LIMIT, stripes),
            ("segments", SEGMENTS_LIMIT, segment_count),
            ("bytes of sections", _SECTIONS_MOST, sections_bytes),
        ):
            if have > most:
                raise DamageError(
                    f"a manifest with more {what} than the format allows", file=file_id.hex(), expected=most, found=have
                )
        return header

    def check_file_bytes(self, file_bytes: int) -> None:
        """Check that a manifest of `file_bytes` bytes has room for its tables; call it before `tables_bytes` are read.

        Raises
        ------
        DamageError
            It has not.
        """
        if HEADER_BYTES + self.tables_bytes > file_bytes:
            raise DamageError(
                "a manifest that ends within its tables",
                file=self.file_id.hex(),
                expected=HEADER_BYTES + self.tables_bytes,
                found=file_bytes,
            )


def encode_tables(segments: npt.NDArray[Any], directory: npt.NDArray[Any], sections: Iterable[Section] = ()) -> bytes:
    """Return the bytes that stand behind the header: segment table (`SEGMENT_ENTRY`), page directory (`PAGE_ENTRY`), sections.

    The header's `tables_crc` is their `crc64`.
    """
    if segments.dtype != SEGMENT_ENTRY or directory.dtype != PAGE_ENTRY:
        raise ArgumentError(f"tables of {segments.dtype} and {directory.dtype}: give SEGMENT_ENTRY and PAGE_ENTRY")
    return segments.tobytes() + directory.tobytes() + b"".join(section.encode() for section in sections)


def decode_tables(data: bytes, header: Header) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[Section, ...]]:
    """Read what lies behind `header`; `data` may be longer.

    Returns
    -------
    segments, directory : ndarray
        Of `SEGMENT_ENTRY` and `PAGE_ENTRY`; views of `data`, read-only.
    sections : tuple of Section
        In their order.

    Raises
    ------
    DamageError
        The bytes are too few, do not verify, or name what cannot be.
    UnsupportedError
        An entry has a flag that this version does not know, or a section must be understood and is not.
    """
    header.check_file_bytes(HEADER_BYTES + len(data))
    tables = memoryview(data)[: header.tables_bytes].toreadonly()
    found = crc64(tables)
    file = header.file_id.hex()
    if found != header.tables_crc:
        raise DamageError(
            "a manifest whose tables' checksum does not hold",
            file=file,
            expected=f"{header.tables_crc:016x}",
            found=f"{found:016x}",
        )
    segments = np.frombuffer(tables, SEGMENT_ENTRY, header.segment_count)
    directory = np.frombuffer(tables, PAGE_ENTRY, header.page_count, header.segment_count * SEGMENT_ENTRY.itemsize)
    if (segments["flags"] & ~np.uint32(SEGMENT_SYNCED)).any():
        raise UnsupportedError("a manifest with segment flags unknown to this pinstripe: use a newer one")
    longest = int(segments["length"].max(initial=0))
    if longest > SEGMENT_LIMIT:
        raise DamageError("a segment longer than the format allows", file=file, expected=SEGMENT_LIMIT, found=longest)
    offsets = directory["offset"]
    lowest = int(offsets[offsets != 0].min(initial=np.iinfo(np.uint64).max))
    if lowest < HEADER_BYTES + header.tables_bytes:
        raise DamageError(
            "a page that lies within the tables", file=file, expected=HEADER_BYTES + header.tables_bytes, found=lowest
        )
    sections = tuple(_decode_sections(tables[header.tables_bytes - header.sections_bytes :], file))
    for section in sections:
        if section.must_understand and section.kind not in _KNOWN_SECTIONS:
            raise UnsupportedError(
                f"a manifest with a section of kind {section.kind}, which must be understood: use a newer pinstripe"
            )
    return segments, directory, sections


def _decode_sections(data: memoryview, file: str) -> Iterator[Section]:
    place = 0
    while place < len(data):
        if len(data) - place < _SECTION.size:
            raise DamageError("a manifest whose sections end early", file=file)
        word, length = _SECTION.unpack_from(data, place)
        begin = place + _SECTION.size
        place = begin + length + -length % 8
        if place > len(data):
            raise DamageError("a manifest whose sections end early", file=file, expected=place, found=len(data))
        kind = word & ~(_MUST_UNDERSTAND | _CARRY)
        yield Section(kind, bytes(data[begin : begin + length]), bool(word & _MUST_UNDERSTAND), bool(word & _CARRY))


def page_records(number: int, stripes: int) -> int:
    """Return how many records page `number` of a file of `stripes` stripes has; only the last may have fewer than `PAGE_RECORDS`."""
    return max(0, min(PAGE_RECORDS, stripes - number * PAGE_RECORDS))


def check_page(data: bytes, entry: Any, records: int = PAGE_RECORDS) -> npt.NDArray[Any]:
    """Check the bytes of a page of `records` records against its `PAGE_ENTRY` and return them, a read-only view.

    Raises
    ------
    DamageError
        The page ends early, or its checksum does not hold.
    """
    if len(data) != records * RECORD.itemsize:
        raise DamageError(
            "a page of records that ends early",
            offset=int(entry["offset"]),
            expected=records * RECORD.itemsize,
            found=len(data),
        )
    view = memoryview(data).toreadonly()
    expected, found = int(entry["checksum"]), crc64(view)
    if expected != found:
        raise DamageError(
            "a page of records whose checksum does not hold",
            offset=int(entry["offset"]),
            expected=f"{expected:016x}",
            found=f"{found:016x}",
        )
    return np.frombuffer(view, RECORD)


def check_records(records: npt.NDArray[Any], header: Header, segments: npt.NDArray[Any], first: int = 0) -> None:
    """Check that each record names a frame that can be: an existing segment, a place within it, lengths that fit.

    Parameters
    ----------
    records : ndarray of RECORD
        Records of the stripes from `first` on.
    header, segments
        Of their manifest.
    first : int
        Stripe of the first record, for the error.

    Raises
    ------
    DamageError
        The first record, in stripe order, that cannot be.
    """
    used = np.flatnonzero(records["segment"])
    if not used.size:
        return
    records = records[used]
    index = records["segment"].astype(np.int64) - 1
    known = index < len(segments)
    if len(segments):
        lengths = segments["length"][np.where(known, index, 0)].astype(np.int64)
    else:
        lengths = np.zeros(len(index), np.int64)
    frame = records["frame_bytes"].astype(np.int64)
    header_bytes = records["header64"].astype(np.int64) * 64
    # An offset with the top bits set must not wrap when it is added to.
    offset = np.minimum(records["offset"], np.uint64(SEGMENT_LIMIT)).astype(np.int64)
    good = (
        known
        & (offset >= SEGMENT_HEADER_BYTES)
        & (offset % 64 == 0)
        & (header_bytes >= 128)
        & (header_bytes <= frame)
        & (offset + frame <= lengths)
        & (records["raw_bytes"] > 0)
        & (records["raw_bytes"] <= header.layout.stripe_bytes)
    )
    if not good.all():
        bad = int(np.flatnonzero(~good)[0])
        raise DamageError(
            "a record that names a frame that cannot be",
            file=header.file_id.hex(),
            stripe=first + int(used[bad]),
            offset=int(records["offset"][bad]),
            found=str(records[bad]),
        )
