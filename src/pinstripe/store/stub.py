"""Stubs: files whose bytes lie in a bucket. Made, renewed, loaded, made whole, and made of files that the bucket holds too.

All of these are automatic commits: they change where bytes lie, not which bytes they are. So they leave times as they are, never publish beside an
open transaction, and give way to whoever commits first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConflictError, DamageError, Error, NamespaceError, UnsupportedError
from ..format.inode import Inode
from ..format.layout import Layout
from ..format.manifest import SECTION_ARCHIVED, SECTION_STUB, SEGMENT_SYNCED, Header, Section
from ..format.remote import Base, Remote
from ..format.segment import segment_name
from ..options import Options
from .collect import collect, collect_removed
from .commit import commit
from .directory_layout import layout_of
from .fresh import fsync_directory
from .generation import Generation
from .index import CHANGE, segment_keys
from .inode_file import is_named, read_inode_at
from .naming import naming
from .newfile import MovedError, write_inode
from .place import AnyPath, Place, locate
from .reader import FrameReader
from .rebase import Proposal
from .registering import base_of, refuse_others, register
from .residency import Residency, drop_resident, trusted_tails
from .state import FileState, state_of
from .transaction import Transaction, discard

__all__ = ["make_stub", "promote", "promote_quietly", "release", "remove_if", "renew_stub", "restore"]

logger = logging.getLogger("pinstripe")
Array = npt.NDArray[Any]
_LOAD_BYTES = 64 << 20
_LOOKS = 100


def make_stub(
    path: AnyPath,
    remote: Remote,
    *,
    layout: Layout | None = None,
    mode: int = 0o644,
    uid: int = -1,
    gid: int = -1,
    atime_ns: int = 0,
    mtime_ns: int = 0,
    durable: bool = True,
    replace: bool = False,
) -> None:
    """Make a file that stands for a remote: one link, no data.

    Parameters
    ----------
    layout : Layout, optional
        Else the directory's.
    uid, gid : int
        -1: as the file system gives them. Others can be set by root only; then a right that lacks is no error.
    atime_ns, mtime_ns : int
        Nanoseconds since 1970; 0: the remote's own.
    replace : bool
        Take the place of a file that has the name.

    Raises
    ------
    FileExistsError
        The name is taken, and `replace` is not given.
    """
    place = locate(path, follow=False)
    place.store.check_writable()
    inode = Inode(secrets.token_bytes(16), "stub", layout or layout_of(place.directory), remote.to_json())
    mtime_ns = mtime_ns or remote.modified_ns

    def prepare(fd: int) -> None:
        if (uid, gid) != (-1, -1):
            with contextlib.suppress(PermissionError):
                os.fchown(fd, uid, gid)
        os.fchmod(fd, mode & 0o777)
        if mtime_ns:
            os.utime(fd, ns=(atime_ns or mtime_ns, mtime_ns))

    replaced = None
    if replace:
        with contextlib.suppress(Error, OSError):
            replaced = read_inode_at(place)[0].file_id
    with naming(place.path):
        write_inode(
            place.store,
            inode,
            place.path,
            refuse_existing=not replace,
            sync=durable or replaced is not None,
            prepare=prepare,
        )
    if replaced is not None:
        collect_removed(place.store, replaced)


def restore(path: AnyPath, *, durable: bool = True, options: Options | None = None) -> None:
    """Fetch all of a stub that is not here, prove it and make it an ordinary file; nothing to do for others.

    Raises
    ------
    StaleError
        The object has changed.
    DamageError
        What came is not what the bucket's checksum says.
    BlockingIOError
        Another process has the file open for writing.
    TargetError
        The targets cannot take it.
    """
    for _ in range(_LOOKS):
        place = locate(path)
        inode, seen = read_inode_at(place)
        with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
            remote, layout = head.remote, head.layout
        if remote is None:
            return
        with Residency(place.store, inode, place.path, remote, layout, seen, options=options) as residency:
            step = max(1, _LOAD_BYTES // layout.stripe_bytes)
            for begin in range(0, residency.stripes, step):
                residency.load(residency.missing(begin, begin + step))
            if not residency.complete:
                raise UnsupportedError(
                    "the file cannot be restored: what is fetched cannot be kept (no right to write, or no room)",
                    path=place.path,
                    code=errno.EROFS,
                )
            synced = residency.sync() if durable else None
            if promote(place, durable=durable, synced=synced):
                return
    raise BlockingIOError(errno.EBUSY, "the file changes all the time, or another process has it open", os.fspath(path))


def promote(path: AnyPath, *, durable: bool = True, synced: Array | None = None, crc64: int | None = None) -> bool:
    """Make a stub whose stripes are all here an ordinary generation on the same frames.

    Parameters
    ----------
    crc64 : int, optional
        The object's CRC-64/NVME, where the stub holds none and the caller asked for it since.
    synced : numpy array of SEGMENT_ENTRY, optional
        Segments that this job's ranks wrote and synced: those of others are synced and verified first.

    Returns
    -------
    bool
        False: not all of it is here and good, or it changed.

    Raises
    ------
    DamageError
        The checksum of the whole is not the bucket's: all that was resident is dropped.
    BlockingIOError
        Another process has the file open for writing.
    """
    place = locate(path)
    inode, seen = read_inode_at(place)
    with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
        remote, layout = head.remote, head.layout
    if remote is None:
        return True
    if remote.crc64 is None and crc64 is not None:
        remote = dataclasses.replace(remote, crc64=crc64)
    directory = place.store.file_directory(inode.file_id)
    if not _is_complete(directory, remote, layout, seen):
        return False
    proof = "etag" if remote.crc64 is None else "crc64nvme"

    def check(header: Header) -> None:
        if remote.crc64 not in (None, header.data_crc):
            raise DamageError(
                f"{remote.url} is not what the bucket's checksum says (CRC64NVME): all that was fetched is dropped",
                path=place.path,
                expected=f"{remote.crc64:016x}",
                found=f"{header.data_crc:016x}",
            )

    def propose(tx: Transaction) -> Proposal | None:
        # Within the transaction: from here on no collector frees what fetchers wrote.
        changes, segments = trusted_tails(directory, remote, layout.stripe_bytes, seen.st_uid)
        if len(changes) != layout.stripes(remote.size):
            return None
        try:
            proven = _prove(place, inode.file_id, changes, segments, synced) if durable else segments
        except DamageError as error:  # a power cut, most likely
            logger.warning("%s: all that was fetched is dropped: %s", place.path, error)
            drop_resident(directory, remote)
            return None
        archived = Section(SECTION_ARCHIVED, Base(remote, tx.id, proof).to_json(), carry=True)
        return Proposal(changes, proven, remote.size, replaces=True, sections=(archived,))

    try:
        return _publish(
            place,
            inode,
            seen,
            remote,
            propose,
            durable=durable,
            check=check,
            afterwards=lambda: drop_resident(directory, remote),
        )
    except DamageError:
        drop_resident(directory, remote)
        collect_removed(place.store, inode.file_id)
        raise


def _is_complete(directory: str, remote: Remote, layout: Layout, seen: os.stat_result) -> bool:
    changes, _ = trusted_tails(directory, remote, layout.stripe_bytes, seen.st_uid)
    return len(changes) == layout.stripes(remote.size)


def promote_quietly(path: str, options: Options) -> None:
    """Promote after reading, as far as it can be done: a failure is no error of the reading."""
    try:
        promote(path, durable=options.durable)
    except (Error, OSError) as error:
        logger.warning("%s: %s", path, error)


def release(path: AnyPath, *, durable: bool = True, grace_s: float | None = None) -> int:
    """Free the local data of a file that the bucket holds, proven; it is a stub then.

    Parameters
    ----------
    grace_s : float, optional
        How long its readers may go on; else as of any generation that is replaced.

    Returns
    -------
    int
        Stored bytes that are freed, now or after the grace time; 0 for one that has none here.

    Raises
    ------
    UnsupportedError
        The file may not be released; says why.
    BlockingIOError
        Another process has the file open for writing.
    """
    place = locate(path)
    state = state_of(place)
    why = state.why_not_released
    if why:
        raise UnsupportedError(f"not released: {why}", path=place.path, code=errno.EBUSY)
    assert state.base is not None
    inode, seen = read_inode_at(place)
    if state.is_stub:
        directory, remote = place.store.file_directory(inode.file_id), state.base.remote
        if os.path.isdir(directory):  # else nothing was ever fetched
            with _alone(place, inode, seen, state.tx):  # no promotion is under way
                drop_resident(directory, remote)
            collect(place.store, inode.file_id, grace_s=0.0)
        return state.resident_bytes
    base = state.base
    with contextlib.closing(Generation.head(place.store, inode, place.path)) as head:
        stored = head.stored_bytes
        if head.inline is not None:
            return 0
    _become_stub(place, inode, seen, state, base.remote, base.proof, same_bytes=True, durable=durable)
    collect(place.store, inode.file_id, grace_s=Options.make().grace_s if grace_s is None else grace_s)
    return stored


def renew_stub(path: AnyPath, remote: Remote, expected: FileState, *, durable: bool = True) -> None:
    """Make a clean file a stub of another version of its object. Mode, owner and times are the caller's to set.

    Raises
    ------
    ConflictError
        The file is no longer what `expected` says.
    BlockingIOError
        Another process has the file open for writing.
    """
    place = locate(path)
    inode, seen = read_inode_at(place)
    _become_stub(place, inode, seen, expected, remote, "etag", same_bytes=False, durable=durable)
    collect(place.store, inode.file_id, grace_s=Options.make().grace_s)


def remove_if(path: AnyPath, expected: FileState) -> bool:
    """Remove a file's name, if its content is still what `expected` says and nobody is writing it; durable.

    Returns
    -------
    bool
        False: it changed, or the name leads elsewhere. Nothing was done.

    Raises
    ------
    FileNotFoundError
        There is no such name.
    BlockingIOError
        Another process has the file open for writing.
    """
    place = locate(path, follow=False)
    inode, seen = read_inode_at(place)
    with _alone(place, inode, seen, expected.tx) as held:
        if held is None or not is_named(place, seen):
            return False
        with naming(place.path):
            os.unlink(place.path)
            fsync_directory(place.directory)
    collect_removed(place.store, inode.file_id)
    return True


def _become_stub(
    place: Place,
    inode: Inode,
    seen: os.stat_result,
    state: FileState,
    remote: Remote,
    proof: str,
    *,
    same_bytes: bool,
    durable: bool,
) -> None:
    def propose(tx: Transaction) -> Proposal:
        return Proposal(
            np.zeros(0, CHANGE),
            Generation(inode.file_id, inode.layout).segments,
            remote.size,
            replaces=True,
            sections=(
                Section(SECTION_STUB, state.tx if same_bytes else b"", must_understand=True, carry=True),
                Section(SECTION_ARCHIVED, Base(remote, tx.id, proof).to_json(), carry=True),
            ),
        )

    if not _publish(place, inode, seen, state.tx, propose, durable=durable):
        raise ConflictError("the file changed meanwhile", path=place.path)


def _publish(
    place: Place,
    inode: Inode,
    seen: os.stat_result,
    onto: Remote | bytes,
    propose: Callable[[Transaction], Proposal | None],
    *,
    durable: bool,
    check: Callable[[Header], None] | None = None,
    afterwards: Callable[[], None] | None = None,
) -> bool:
    """Commit, if the head is still `onto` and nobody else is at it; else False, as where there is nothing to propose.

    Parameters
    ----------
    afterwards : callable, optional
        Called after the commit, while the transaction still keeps collectors away.
    """
    options = Options.make({"durability": "full" if durable else "none", "retries": 0})
    with _alone(place, inode, seen, onto) as held:
        if held is None:
            return False
        tx, base = held
        proposal = propose(tx)
        if proposal is None:
            return False
        times = os.stat(os.path.join(tx.directory, "inode"))
        try:
            commit(place.store, tx, base, proposal, base.layout, options, place.path, _no_rewrite, check=check).close()
        except ConflictError:  # it would be kept for a week
            discard(place.store, inode.file_id, tx.id)
            return False
        with contextlib.suppress(OSError):
            os.utime(os.path.join(tx.directory, "inode"), ns=(times.st_atime_ns, times.st_mtime_ns))
        if afterwards is not None:
            afterwards()
    return True


@contextlib.contextmanager
def _alone(
    place: Place, inode: Inode, seen: os.stat_result, onto: Remote | bytes
) -> Iterator[tuple[Transaction, Generation] | None]:
    """Hold a registered transaction beside which nobody else is open; None where the head is not `onto` (a stub of that remote, or that
    transaction's). It ends with the block: committed, if it was linked, else discarded.

    Raises
    ------
    BlockingIOError
        Another process has the file open for writing.
    """
    store = place.store
    store.check_writable()
    try:
        tx = register(store, inode, place.path, seen, 1)
    except MovedError:
        yield None
        return
    try:
        refuse_others(tx, place.path)
        base, highest = base_of(store, inode, place.path, lambda: is_named(place, seen))
        with contextlib.closing(base):
            same = (base.transaction or inode.file_id) == onto
            if isinstance(onto, Remote):
                same = base.remote is not None and base.remote.identity == onto.identity
            if not same:
                yield None
                return
            tx.record_base(base.number, highest)
            yield tx, base
    finally:
        tx.discard()  # which lists first, and removes nothing of one that was committed


def _no_rewrite(stripes: Array, data: Array, offsets: Array, raw: Array) -> tuple[Array, Array]:
    raise NamespaceError("an automatic commit merges nothing")


def _prove(place: Place, file_id: bytes, changes: Array, segments: Array, synced: Array | None) -> Array:
    """Sync the segments that are not known to be; verify every frame in those; return the table, which says so."""
    segments = segments.copy()
    known = np.zeros(len(segments), np.bool_)
    if synced is not None and len(synced):
        flagged = synced[(synced["flags"] & SEGMENT_SYNCED) != 0]
        known = np.isin(segment_keys(segments), segment_keys(flagged))
    touched = set()
    for slot in np.flatnonzero(~known).tolist():
        entry = segments[slot]
        target = place.store.target(bytes(entry["target"]))
        name = segment_name(bytes(entry["tx"]), int(entry["stream"]), int(entry["n"]))
        try:
            segment = target.open_segment(file_id, name)
        except FileNotFoundError:
            raise DamageError(f"segment {name} is gone", path=place.path, segment=name, target=target.path) from None
        with segment:
            segment.sync()
        touched.add(target)
    for target in touched:
        target.sync_directory(file_id)
    others = changes[~known[changes["record"]["segment"].astype(np.int64) - 1]]
    with contextlib.closing(FrameReader(place.store, file_id, place.path)) as reader:
        for begin in range(0, len(others), 16):
            some = others[begin : begin + 16]
            raw = some["record"]["raw_bytes"].astype(np.int64)
            places = np.cumsum(raw) - raw
            room = np.empty(int(raw.sum()), np.uint8)
            stripes = some["stripe"].copy()
            reader.read(some["record"].copy(), segments, stripes, np.zeros(len(some), np.int64), raw, room, places)
    segments["flags"] |= SEGMENT_SYNCED
    return segments
