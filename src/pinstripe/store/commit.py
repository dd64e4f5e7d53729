"""The one commit point. What a loser does is in `rebase`.

States of a transaction, and the system call that leads on::

    REGISTERED ──pwrite──▶ BASED ──write, fsync──▶ WHOLE ──link(TX.tx, N)──▶ committed ──unlink(TX.tx)──▶ done
        │                    │                       │ EEXIST, another's: lost ──▶ compare with the head ──▶ WHOLE again, N + 1
        └────────────────────┴───────────────────────┴──unlink(TX.tx)──▶ discarded (for ever: what has no name cannot be linked)

Invariants (proved over all interleavings in tests/model; named where they act):

KEPT            an acknowledged commit is in the line of descent of the head
WHOLE           every segment that the head names is there
BASED           every segment that a live writer's recorded base names is there
LINEAR          nobody commits on a base that is not the newest content
FENCED          a transaction whose name TX.tx is gone never commits
NAMED           a name never leads to a file that was collected
DURABLE         after a power cut the newest generation that says "durable" is whole, and none that was acknowledged durable is gone
ONE-GENERATION  a reader gets bytes and size of one generation
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ConflictError, DamageError, Error, FencedError, OutcomeUnknownError
from ..format.layout import Layout
from ..format.manifest import PAGE_RECORDS, SECTION_STUB, SEGMENT_SYNCED, Header
from ..format.segment import segment_name
from ..options import Options
from ..targets.contract import Access, FileContent
from .fresh import fsync_directory
from .generation import Generation, list_numbers, read_header
from .index import CHANGE, Manifest, build_manifest
from .inode_file import read_inode_of
from .naming import naming
from .newfile import access_of
from .reader import FrameReader
from .rebase import Proposal, Rewrite, rebase
from .transaction import Transaction

if TYPE_CHECKING:
    from .store import Store

__all__ = ["commit", "make_durable", "sync_entry", "sync_segments"]

logger = logging.getLogger("pinstripe")
Array = npt.NDArray[Any]


class _Lost(Exception):
    """A clear EEXIST, and another's transaction read in that number."""


def commit(
    store: Store,
    tx: Transaction,
    base: Generation,
    proposal: Proposal,
    layout: Layout,
    options: Options,
    path: str,
    rewrite: Rewrite,
    *,
    check: Callable[[Header], None] | None = None,
) -> Generation:
    """Publish `proposal` as the next generation, or raise; then nothing of it is visible.

    Atomic. Durable when it returns, if `options` say so. Called on one rank, after every rank synced what it wrote.

    Parameters
    ----------
    base : Generation
        The one whose number `tx` recorded.
    rewrite : callable
        Writes frames of this transaction anew, for stripes that must be merged.
    check : callable, optional
        Looks at the header before anything is written; raises where it must not be published.

    Raises
    ------
    ConflictError
        Another changed the same bytes; our transaction is kept and named.
    FencedError
        Our transaction was removed.
    OutcomeUnknownError
        The link failed in a way that leaves it open.
    """
    onto = base.emptied() if proposal.replaces else base
    number = tx.next_number
    for _ in range(options.retries + 1):
        if options.durable:
            _sync_inode(tx.directory)
            _sync_foreign(store, onto, path)
        manifest = build_manifest(
            tx.header,
            onto,
            0 if proposal.replaces else proposal.cut,
            proposal.changes,
            proposal.segments,
            proposal.size,
            layout,
            durable=options.durable,
            sections=proposal.sections,
        )
        if check is not None:
            check(manifest.header)
        tx.write_manifest(dataclasses.replace(manifest.header, number=number), manifest.body, sync=options.durable)
        try:
            _link(tx, number)
        except _Lost:
            tx.reopen_for_retry()
            head, number = _newest(store, tx, path)
            if proposal.replaces or _is_released(head, onto):
                head.close()
                continue
            try:  # relative to what it was put on last: that was another's newest content, perhaps changed back since (LINEAR)
                proposal = rebase(store, tx, onto, head, proposal, layout, path, rewrite)
            except BaseException:
                head.close()
                raise
            finally:
                if onto is not base:
                    onto.close()
            onto = head
            continue
        if onto is not base:
            onto.close()
        return _committed(store, tx, number, manifest, options, path)
    if onto is not base:
        onto.close()
    raise ConflictError(
        f"lost to other writers {options.retries + 1} times in a row; the transaction is kept",
        path=path,
        transaction=_keep(tx),
    )


def _is_released(head: Generation, onto: Generation) -> bool:
    """Whether a stub took the place of the very content that we stand on: our base pins it, so it is there still (BASED)."""
    return any(
        section.kind == SECTION_STUB and section.data and section.data == onto.transaction for section in head.sections
    )


def _sync_inode(directory: str) -> None:
    """NAMED: before a name may lead there. Its writer may have been another, that did not sync."""
    fd = os.open(os.path.join(directory, "inode"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with naming(directory):
            os.fsync(fd)
    finally:
        os.close(fd)


def _keep(tx: Transaction) -> str:
    tx.keep()
    return tx.id.hex()


def _link(tx: Transaction, number: int) -> None:
    """LINEAR and FENCED: one link, whose outcome is told by whose transaction the number carries, never by inode numbers."""
    try:
        tx.link(number)
    except FencedError:
        if _carried(tx, number):  # a reply was lost, and the file's name tidied away by a collector
            return
        raise
    except FileExistsError as error:
        try:
            if _carried(tx, number):
                return
            os.lstat(os.path.join(tx.directory, str(number)))
        except FileNotFoundError:
            raise OutcomeUnknownError("the generation that was first is gone again", path=tx.path) from None
        except OSError:  # whose it is cannot be read
            _end_unclear(tx, number, error)
            return
        raise _Lost from None
    except OSError as error:
        _end_unclear(tx, number, error)


def _end_unclear(tx: Transaction, number: int, error: OSError) -> None:
    """End a transaction whose link failed in a way that leaves it open; return if it was committed, else raise."""
    try:
        tx.unname()  # FENCED: whatever is still under way cannot succeed any more
        numbers = list_numbers(tx.directory)
        carried = any(_carried(tx, n) for n in numbers)
    except OSError as again:
        raise OutcomeUnknownError(
            f"the commit's link failed ({error.strerror}), and what came of it cannot be seen ({again.strerror})",
            path=tx.path,
        ) from error
    if carried:
        return
    if any(n >= number for n in numbers):
        raise OutcomeUnknownError(
            f"the commit's link failed ({error.strerror}), and another generation stands there: look before you repeat it",
            path=tx.path,
        ) from error
    raise error


def _carried(tx: Transaction, number: int) -> bool:
    try:
        return read_header(os.path.join(tx.directory, str(number))).tx == tx.id
    except (FileNotFoundError, DamageError):
        return False


def _newest(store: Store, tx: Transaction, path: str) -> tuple[Generation, int]:
    """LINEAR: the newest content and the number right after it, of one listing."""
    for _ in range(100):
        numbers = list_numbers(tx.directory)
        found = Generation.newest(store, tx.file_id, tx.directory, numbers, path)
        if found is not None:
            return found, max(numbers) + 1
    raise DamageError("no generation of the file can be read", path=path)


def _committed(
    store: Store, tx: Transaction, number: int, manifest: Manifest, options: Options, path: str
) -> Generation:
    """After the link: sync the directory, make the copy. The name TX.tx is removed by the caller, after a new file's name is in place."""
    if options.durable:
        try:
            _sync_directories(tx.directory)
        except OSError as error:
            raise OutcomeUnknownError(
                f"the commit was linked, but its directory could not be synced ({error.strerror})", path=path
            ) from error
    header, tables = dataclasses.replace(manifest.header, number=number), manifest.body[0]
    assert isinstance(tables, bytes)
    committed = Generation(  # from memory: nothing that fails from here on makes the commit undone
        tx.file_id,
        header.layout,
        number=number,
        header=header,
        tables=tables,
        path=os.path.join(tx.directory, str(number)),
    )
    try:
        _copy_manifest(store, tx, committed, access_of(os.stat(os.path.join(tx.directory, "inode"))))
    except (Error, OSError) as error:
        logger.info("no copy of the manifest of %s: %s", path, error)
    return committed


def sync_entry(directory: str) -> None:
    """Make ``files/aa/ID`` durable as it is: its inode, its names, and the directories above."""
    _sync_inode(directory)
    _sync_directories(directory)


def _sync_directories(directory: str) -> None:
    """DURABLE: all three, always: who made them may have been another writer, that did not sync, or died before it could."""
    fsync_directory(directory)
    fsync_directory(os.path.dirname(directory))
    fsync_directory(os.path.dirname(os.path.dirname(directory)))


COPY_MOST_BYTES = 64 << 20


def _copy_manifest(store: Store, tx: Transaction, generation: Generation, access: Access) -> None:
    """Put a copy on a second place: the first target that takes it. Losing it costs nothing but that safety."""
    fd = generation.descriptor()
    size = os.fstat(fd).st_size
    if size > COPY_MOST_BYTES:
        return
    for target in store.targets:
        if target.scope != "shared":
            continue
        try:
            target.write_manifest_copy(tx.file_id, tx.id, FileContent(fd, size), access, durable=generation.durable)
        except OSError as error:
            logger.info("no copy of the manifest on %s: %s", target.path, error)
            continue
        return


# --- durability of what others wrote ----------------------------------------------------------------------------------


def _sync_foreign(store: Store, onto: Generation, path: str) -> None:
    """DURABLE: sync every unsynced segment that the base names, then verify it: the page cache can hide a write that was lost."""
    unsynced = (onto.segments["live_frames"] > 0) & ((onto.segments["flags"] & SEGMENT_SYNCED) == 0)
    if not unsynced.any():
        return
    segments = onto.segments.copy()
    sync_segments(store, onto, np.flatnonzero(unsynced), path)
    segments["flags"][unsynced] |= SEGMENT_SYNCED
    onto.segments = segments


def sync_segments(store: Store, generation: Generation, slots: Array, path: str) -> None:
    """Make some segments of a generation durable and verify every frame that it names in them.

    Raises
    ------
    DamageError, TargetError
        A frame does not verify, or a segment cannot be reached.
    """
    wanted = set((slots + 1).tolist())
    touched: set[bytes] = set()
    for slot in slots:
        entry = generation.segments[slot]
        target = store.target(bytes(entry["target"]))
        name = segment_name(bytes(entry["tx"]), int(entry["stream"]), int(entry["n"]))
        segment = target.open_segment(generation.file_id, name)
        try:
            segment.sync()
        finally:
            segment.close()
        touched.add(target.id)
    for target_id in touched:
        store.target(target_id).sync_directory(generation.file_id)
    reader = FrameReader(store, generation.file_id, path)
    try:
        for number in range(len(generation.directory)):
            page = generation.page(number)
            hit = np.flatnonzero(np.isin(page["segment"], list(wanted)))
            for begin in range(0, len(hit), 16):
                chosen = hit[begin : begin + 16]
                records = page[chosen]
                raw = records["raw_bytes"].astype(np.int64)
                places = np.concatenate([[0], np.cumsum(raw)[:-1]]).astype(np.int64)
                reader.read(
                    records,
                    generation.segments,
                    (chosen + number * PAGE_RECORDS).astype(np.uint64),
                    np.zeros(len(chosen), np.int64),
                    raw,
                    np.empty(int(raw.sum()), np.uint8),
                    places,
                )
    finally:
        reader.close()


def make_durable(store: Store, file_id: bytes) -> None:
    """Make the head of a file durable before a name is moved over another file (a replace, whatever the durability).

    A head that is not durable yet is published again by a link of its own, with everything synced. Generation 0 needs nothing.
    """
    directory = store.file_directory(file_id)
    try:
        numbers = list_numbers(directory)
    except FileNotFoundError:
        return
    if not numbers:
        return
    inode = read_inode_of(directory)
    head = Generation.head(store, inode, directory)
    try:
        if head.durable:
            sync_entry(directory)
            return
        tx = Transaction(store, file_id, head.layout)
        with naming(directory):
            tx.register()
            tx.record_base(head.number, max(numbers))
        try:
            empty = np.zeros(0, CHANGE)
            proposal = Proposal(empty, head.segments[:0], head.size)
            with naming(directory):
                commit(store, tx, head, proposal, head.layout, Options(), directory, _no_rewrite).close()
        except BaseException:
            tx.discard()
            raise
        tx.unname()
    finally:
        head.close()


def _no_rewrite(stripes: Array, data: Array, offsets: Array, raw: Array) -> tuple[Array, Array]:
    raise DamageError("nothing was changed, so nothing can be merged")
