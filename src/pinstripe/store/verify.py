"""Verify: structure, then data, of every file below a path. Changes nothing.

What is looked at, in this order, so that one bad byte is told once and where it lies:

1. the store: its superblock's revisions, its targets;
2. of each file the name, the inode, who may use what holds its data;
3. of its newest generation the manifest: header, tables, pages, records, and that all checksums combine to the file's own;
4. each segment: there, long enough, its header;
5. unless `quick`: every block of every frame.
"""

from __future__ import annotations

import dataclasses
import os
import stat as stat_module
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import DamageError, Error, NamespaceError, TargetError
from ..format.inode import Inode
from ..format.manifest import PAGE_RECORDS, check_records
from ..format.segment import SEGMENT_HEADER_BYTES, check_header, segment_name
from ..format.superblock import Superblock
from ..kernels import crc64_fold
from ..targets.contract import Access
from ..targets.posix import PosixTarget
from .generation import Generation, list_numbers
from .index import page_data_crc
from .inode_file import is_named, read_any_inode, read_inode_at
from .listing import scandir
from .place import AnyPath, Place, locate
from .reader import FrameReader
from .shares import deal
from .store import Store
from .team import SERIAL, Team
from .telling import gather_json, tell_json

__all__ = ["Finding", "Verified", "verify"]

_PIECE_STRIPES = 256
_BATCH_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    kind : str
        ``damage``: bytes that do not verify. ``missing``: what is needed is not there. ``copy``, ``foreign``: a name that is
        none of the store's. ``access``: what holds the data may be used by others than the name says. ``error``: could not
        be looked at.
    path : str
        The file.
    text : str
        A sentence.
    stripe, offset : int
        -1 where they do not apply.
    target, segment : str
        Empty where they do not apply.
    """

    kind: str
    path: str
    text: str
    stripe: int = -1
    target: str = ""
    segment: str = ""
    offset: int = -1

    @property
    def is_fatal(self) -> bool:
        """Whether data of the store is concerned, so that verification failed."""
        return self.kind in ("damage", "missing", "error")


@dataclasses.dataclass(slots=True)
class Verified:
    """What was looked at, and what was found.

    Attributes
    ----------
    files, frames, bytes : int
        Bytes count what was read and verified, uncompressed.
    findings : list of Finding
    """

    files: int = 0
    frames: int = 0
    bytes: int = 0
    findings: list[Finding] = dataclasses.field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether no data is concerned by what was found."""
        return not any(finding.is_fatal for finding in self.findings)


def verify(
    store: Store,
    path: AnyPath,
    quick: bool = False,
    team: Team = SERIAL,
    *,
    generation: int | None = None,
    onprogress: Callable[[int], object] | None = None,
) -> Verified:
    """Collective. Verify a file, or every file below a directory, ranks sharing the work; the same result on every rank.

    What is found does not raise. If a rank fails otherwise, every rank raises that.

    Parameters
    ----------
    quick : bool
        Structure only, no data.
    generation : int, optional
        An older generation of one file instead of its newest.
    onprogress : callable, optional
        Called on each rank with the bytes that it verified since the last call.

    Raises
    ------
    FileNotFoundError
        There is no such name.
    """
    mine = Verified()
    error: BaseException | None = None
    files: list[tuple[str, int]] = []
    if team.rank == 0:
        try:
            place = locate(path)
            os.lstat(place.path)
            if place.path == store.root:
                mine.findings += _store_findings(store)
            files = [(file, _stripes_at(store, file, generation)) for file in _files(place, mine.findings)]
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
    team.agree(error)
    files = tell_json(team, files)
    try:
        shares = deal([stripes for _, stripes in files], team.size, _PIECE_STRIPES, overhead_bytes=4)[team.rank]
        for share in shares:
            _verify_share(store, files[share.file][0], share.begin, share.end, quick, generation, mine, onprogress)
    except BaseException as raised:  # an interrupt too: the others wait in agree
        error = raised
    team.agree(error)
    return _joined(team, mine)


def _joined(team: Team, mine: Verified) -> Verified:
    gathered = gather_json(team, dataclasses.asdict(mine))
    whole = None
    if gathered is not None:
        findings = sorted((f for one in gathered for f in one["findings"]), key=lambda f: (f["path"], f["stripe"]))
        whole = {name: sum(one[name] for one in gathered) for name in ("files", "frames", "bytes")} | {
            "findings": findings
        }
    told = tell_json(team, whole)
    return Verified(told["files"], told["frames"], told["bytes"], [Finding(**finding) for finding in told["findings"]])


def _store_findings(store: Store) -> Iterator[Finding]:
    directory = os.path.join(store.meta, "superblock")
    for name in sorted(os.listdir(directory)):
        if not (name.isascii() and name.isdigit()):
            continue
        try:
            with open(os.path.join(directory, name), "rb") as file:
                Superblock.decode(file.read(), int(name))
        except (Error, OSError) as error:
            yield Finding("damage", os.path.join(directory, name), _text(error))
    for entry in store.missing:
        yield Finding(
            "missing", store.target_path(entry), _text(store.missing_error(entry)), target=store.target_path(entry)
        )
    if store.is_copy:
        yield Finding("copy", store.root, "the store was copied or restored: it is read-only until `pinstripe adopt`")


def _files(place: Place, findings: list[Finding]) -> Iterator[str]:
    if not os.path.isdir(place.path):
        yield place.path
        return
    try:
        with scandir(place.path) as entries:
            found = sorted((entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError as error:
        findings.append(Finding("error", place.path, _text(error)))
        return
    for name, is_link, is_directory in found:
        below = f"{place.path}/{name}"
        if is_directory:
            yield from _files(Place(place.store, below, place.path, name), findings)
        elif not is_link:
            yield below


def _stripes_at(store: Store, path: str, generation: int | None) -> int:
    """How much work a file is; what cannot be read is found out by who verifies it."""
    try:
        inode, _ = read_inode_at(_place(store, path))
        head = _open(store, path, inode, generation)
    except (Error, OSError):
        return 0
    head.close()
    return head.header.stripes if head.header is not None else 0


def _place(store: Store, path: str) -> Place:
    return Place(store, path, os.path.dirname(path), os.path.basename(path))


def _open(store: Store, path: str, inode: Inode, generation: int | None) -> Generation:
    if generation is None:
        head = Generation.head(store, inode, path)
        head.store = None  # a page that does not verify is to be told, not mended
        return head
    return Generation.from_path(
        inode.file_id, os.path.join(store.file_directory(inode.file_id), str(generation)), generation
    )


def _verify_share(
    store: Store,
    path: str,
    begin: int,
    end: int,
    quick: bool,
    generation: int | None,
    result: Verified,
    onprogress: Callable[[int], object] | None,
) -> None:
    """Verify some stripes of a file; who has its first ones verifies its structure too."""
    place = _place(store, path)
    found: list[Finding] = []
    try:
        inode, seen = read_inode_at(place)
        try:
            opened = _open(store, path, inode, generation)
        except FileNotFoundError:
            if is_named(place, seen) and generation is not None:
                raise
            return  # removed or replaced meanwhile
        try:
            if begin == 0:
                result.files += 1
                found += _access_findings(store, place, inode, seen)
                if generation is None:
                    found += _manifest_findings(store, path, opened)
                found += _structure_findings(store, path, opened)
            if not quick and not any(finding.kind == "damage" and not finding.segment for finding in found):
                _verify_data(store, path, opened, begin, end, result, found, onprogress)
        finally:
            opened.close()
    except FileNotFoundError as error:
        if os.path.lexists(path):
            found.append(Finding("missing", path, _text(error)))
    except NamespaceError as error:
        found.append(Finding("foreign" if read_any_inode(place) is None else "copy", path, _text(error)))
    except (Error, OSError) as error:
        found.append(_finding(path, error))
    result.findings += found


def _access_findings(store: Store, place: Place, inode: Inode, seen: os.stat_result) -> Iterator[Finding]:
    access = Access(stat_module.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
    name = inode.file_id.hex()
    directories = [(store.file_directory(inode.file_id), "")]
    directories += [(f"{t.path}/{name[:2]}/{name}", t.path) for t in store.targets if isinstance(t, PosixTarget)]
    for directory, target in directories:
        try:
            held = os.lstat(directory)
        except OSError:
            continue
        wider = stat_module.S_IMODE(held.st_mode) & 0o777 & ~access.directory_mode
        other_group = held.st_gid != seen.st_gid and held.st_mode & 0o070
        if wider or other_group or held.st_uid not in (0, seen.st_uid):
            yield Finding(
                "access",
                place.path,
                f"what holds its data has mode {stat_module.S_IMODE(held.st_mode):o}, owner {held.st_uid} and group "
                f"{held.st_gid}, the name {access.mode:o}, {seen.st_uid} and {seen.st_gid}: `pinstripe chmod` sets both",
                target=target,
            )


def _structure_findings(store: Store, path: str, generation: Generation) -> Iterator[Finding]:
    header = generation.header
    if header is None:
        return
    live_frames = np.zeros(len(generation.segments) + 1, np.int64)
    live_bytes = np.zeros(len(generation.segments) + 1, np.int64)
    crcs = generation.directory["data_crc"].astype(np.uint64)
    for number in range(len(generation.directory)):
        try:
            page = generation.page(number)
            check_records(page, header, generation.segments, number * PAGE_RECORDS)
        except DamageError as error:
            yield _finding(path, error)
            return
        named = page[page["segment"] > 0]
        np.add.at(live_frames, named["segment"].astype(np.int64), 1)
        np.add.at(live_bytes, named["segment"].astype(np.int64), named["frame_bytes"].astype(np.int64))
        if page_data_crc(page, number, header.size, header.layout.stripe_bytes) != int(crcs[number]):
            yield Finding("damage", path, f"the checksum of page {number} is not that of its records")
            return
    span = PAGE_RECORDS * header.layout.stripe_bytes
    spans = np.full(len(crcs), span, np.int64)
    if len(spans):
        spans[-1] = header.size - (len(spans) - 1) * span
    if crc64_fold(np.ascontiguousarray(crcs), spans) != header.data_crc:
        yield Finding("damage", path, "the file's checksum is not that of its pages")
    wrong = (live_frames[1:] != generation.segments["live_frames"]) | (
        live_bytes[1:] != generation.segments["live_bytes"]
    )
    if wrong.any() or int(live_bytes.sum()) != header.stored_bytes:
        yield Finding("damage", path, "the manifest counts other frames than its records name")
    yield from _segment_findings(store, path, generation)


def _manifest_findings(store: Store, path: str, generation: Generation) -> Iterator[Finding]:
    """The highest number that is no generation: its copy was read instead, or the one before it."""
    if generation.header is None:
        return
    directory = store.file_directory(generation.file_id)
    for number in reversed(list_numbers(directory)):
        if number < generation.number:
            break
        try:
            Generation.from_path(generation.file_id, os.path.join(directory, str(number)), number).close()
        except FileNotFoundError:
            continue
        except DamageError as error:
            yield Finding(
                "damage", path, f"generation {number}: {error.strerror}; its copy on a target was read instead"
            )


def _segment_findings(store: Store, path: str, generation: Generation) -> Iterator[Finding]:
    for entry in generation.segments[generation.segments["live_frames"] > 0]:
        tx, stream, n = bytes(entry["tx"]), int(entry["stream"]), int(entry["n"])
        name = segment_name(tx, stream, n)
        where = ""
        try:
            target = store.target(bytes(entry["target"]))
            where = target.path
            with target.open_segment(generation.file_id, name) as segment:
                if segment.size() < int(entry["length"]):
                    raise DamageError("the segment is shorter than the manifest says")
                check_header(segment.read_at(0, SEGMENT_HEADER_BYTES), generation.file_id, tx, stream, n)
        except FileNotFoundError:
            if not _is_elsewhere(store, generation.file_id, name):
                yield Finding("missing", path, f"the segment {name} is on no target", target=where, segment=name)
        except TargetError as error:
            yield Finding("missing", path, _text(error), target=error.target, segment=name)
        except (Error, OSError) as error:
            yield Finding("damage", path, _text(error), target=where, segment=name)


def _is_elsewhere(store: Store, file_id: bytes, name: str) -> bool:
    return any(name in target.list_segments(file_id) for target in store.targets)


def _verify_data(
    store: Store,
    path: str,
    generation: Generation,
    begin: int,
    end: int,
    result: Verified,
    found: list[Finding],
    onprogress: Callable[[int], object] | None,
) -> None:
    if generation.header is None:
        result.bytes += generation.size
        return
    stripe_bytes = generation.layout.stripe_bytes
    batch = max(1, _BATCH_BYTES // stripe_bytes)
    out = np.empty(batch * stripe_bytes, np.uint8)
    reader = FrameReader(store, generation.file_id, path)
    try:
        for first in range(begin, end, batch):
            stripes = np.arange(first, min(first + batch, end), dtype=np.uint64)
            records = generation.records(stripes)
            named = records["segment"] > 0
            stripes, records = stripes[named], records[named]
            if not len(stripes):
                continue
            if not _verify_frames(reader, generation, stripes, records, out, None):
                # One by one, so that every damaged stripe is named.
                for k in range(len(stripes)):
                    _verify_frames(reader, generation, stripes[k : k + 1], records[k : k + 1], out, found)
            result.frames += len(stripes)
            result.bytes += int(records["raw_bytes"].sum(dtype=np.int64))
            if onprogress is not None:
                onprogress(int(records["raw_bytes"].sum(dtype=np.int64)))
    finally:
        reader.close()


def _verify_frames(
    reader: FrameReader, generation: Generation, stripes: Any, records: Any, out: Any, found: list[Finding] | None
) -> bool:
    counts = records["raw_bytes"].astype(np.int64)
    places = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    zeros = np.zeros(len(stripes), np.int64)
    try:
        reader.read(records, generation.segments, stripes, zeros, counts, out, places, manifest=generation.path)
    except (DamageError, TargetError) as error:
        if found is not None:
            found.append(_finding(reader.path, error, int(stripes[0])))
        return False
    return True


def _finding(path: str, error: BaseException, stripe: int = -1) -> Finding:
    kind = {DamageError: "damage", TargetError: "missing"}.get(type(error), "error")
    return Finding(
        kind,
        path,
        _text(error),
        stripe=getattr(error, "stripe", stripe) if getattr(error, "stripe", -1) >= 0 else stripe,
        target=getattr(error, "target", ""),
        segment=getattr(error, "segment", ""),
        offset=getattr(error, "offset", -1),
    )


def _text(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
