"""Collecting: freeing what no generation names, of one id or of a whole store.

A collector looks in the order segments, numbers, transactions, numbers again (writers make them in the order transaction, segments, number),
and syncs the directory between listing and deleting (invariants WHOLE and DURABLE). It frees no number at or above a live transaction's base and
none while a live one has no base or an unreadable header (BASED); never the head nor the newest durable one; nothing while a number's
manifest cannot be read. It deletes segments that no live transaction made and no manifest names. Readers register nothing: a generation
that was replaced stays for a grace time, which is waived when a target is full and does not apply to removed files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import DamageError, Error
from ..format.manifest import Header
from ..format.remote import Remote
from ..format.segment import manifest_copy_name, parse_segment_name
from ..targets.contract import Target
from .fresh import fsync_directory, is_there
from .generation import LISTING_S, Generation, list_directory, list_numbers, read_header
from .inode_file import read_inode_of
from .naming import naming
from .residency import SUFFIX, is_resident_of
from .shared_file import collect_shared, is_shared_file
from .transaction import discard
from .writer_identity import is_alive

if TYPE_CHECKING:
    from .store import Store

__all__ = ["KEPT_S", "Collected", "collect", "collect_removed", "collect_store"]

logger = logging.getLogger("pinstripe")
KEPT_S = 7 * 86400.0
"""How long the transaction of a conflict is kept."""


@dataclasses.dataclass(slots=True)
class Collected:
    """What was freed."""

    files: int = 0
    generations: int = 0
    transactions: int = 0
    segments: int = 0
    bytes: int = 0
    waiting: int = 0  # generations that may go in a moment: see `LISTING_S`

    def add(self, other: Collected) -> None:
        """Add another's counts to these."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclasses.dataclass(frozen=True, slots=True)
class _Live:
    """A transaction that may still commit; base None = it pins everything."""

    tx: bytes | None
    base: int | None


def collect(
    store: Store,
    file_id: bytes,
    *,
    grace_s: float,
    full: bool = False,
    wait: bool = False,
    pins: frozenset[int] = frozenset(),
) -> Collected:
    """Collect one id. Safe beside writers, readers and other collectors.

    Parameters
    ----------
    grace_s : float
        How long a replaced generation stays.
    full : bool
        A target is full: the grace time is waived and kept conflicts go.
    wait : bool
        Wait for what may be freed in a moment; else the next collector frees it.
    pins : frozenset of int
        Numbers that a snapshot holds.
    """
    freed = Collected()
    if store.is_read_only:
        return freed
    with naming(store.file_directory(file_id)):
        for _ in range(3):  # segments that only freed numbers named go in the next round
            numbers = _collect_once(store, file_id, 0.0 if full else grace_s, full, wait or full, pins, freed)
            if not numbers:
                break
    return freed


def _collect_once(
    store: Store, file_id: bytes, grace_s: float, full: bool, wait: bool, pins: frozenset[int], freed: Collected
) -> int:
    directory = store.file_directory(file_id)
    segments = [(target, name) for target in store.targets for name in target.list_segments(file_id)]
    try:
        numbers = list_numbers(directory)
        named_once = _links(directory)
        lists = _resident_lists(
            directory
        )  # before the transactions: a promotion drops them after its link, within its transaction
        live = list(_transactions(store, file_id, directory, full, freed))
        unreferenced = not live and named_once == 1 == _links(directory)  # count, look, count again (NAMED)
        again = list_numbers(directory)
    except FileNotFoundError:
        return _remove_leftovers(store, file_id, freed) if segments else 0
    if named_once == 0:  # a directory being made, or what a writer that died while making it left
        if not live and not again:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return 0
    headers: dict[int, Header] = {}
    named: set[bytes] = set()
    for number in again:
        path = os.path.join(directory, str(number))
        try:
            header = read_header(path)
            if (
                header.number != number
            ):  # verifies, but is not that number's: it counts for nothing, and may name anything
                return 0
            generation = Generation.from_path(file_id, path, number)
        except FileNotFoundError:
            return 0  # somebody else is collecting
        except (Error, OSError) as error:
            logger.warning("nothing of %s is collected: %s", file_id.hex(), error)
            return 0
        headers[number] = generation.header or header
        used = generation.segments[generation.segments["live_frames"] > 0]
        named.update(f"{bytes(e['tx']).hex()}.{int(e['stream'])}.{int(e['n'])}".encode() for e in used)
        named.add(manifest_copy_name(header.tx).encode())
        generation.close()

    if unreferenced:
        return _remove_file(store, file_id, directory, again, freed)

    live_transactions = {item.tx for item in live}
    if lists or live:
        try:
            remote = _remote_of_head(directory, again)
        except (Error, OSError) as error:  # after a power cut, say: it tells nothing, so no list goes
            logger.warning("what is resident of %s stays: %s", file_id.hex(), error)
            remote, lists = None, []
            live_transactions |= set(_owners(directory))
        live_transactions |= set(_fetchers(directory, lists, remote))
        if live and remote is not None:  # it may be a promotion, which names what fetchers wrote
            live_transactions.add(None)
    dead_segments = []
    for target, name in segments:
        parsed = parse_segment_name(name)
        owner = parsed[0] if parsed is not None else _copy_owner(name)
        if (
            owner is not None
            and name.encode() not in named
            and owner not in live_transactions
            and None not in live_transactions
        ):
            dead_segments.append((target, name))
    free = _freeable(numbers, again, headers, live, grace_s, pins)
    ready = _seen_long_enough(directory, again, free, wait=wait)
    freed.waiting, free = len(free) - len(ready), ready
    if dead_segments or free:
        fsync_directory(directory)  # DURABLE: what makes these superfluous must itself survive a power cut
    for target, name in dead_segments:
        _remove_segment(target, file_id, name, freed)
    for number in free:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, str(number)))
            freed.generations += 1
    return len(free)


def _resident_lists(directory: str) -> list[str]:
    """The lists of what is resident of a stub, of whatever version."""
    return [name for name in os.listdir(directory) if name.endswith(SUFFIX)]


def _owners(directory: str) -> Iterator[bytes]:
    """Who wrote the lists that there are."""
    for name in _resident_lists(directory):
        with contextlib.suppress(ValueError):
            yield bytes.fromhex(name.removesuffix(SUFFIX))


def _remote_of_head(directory: str, numbers: list[int]) -> Remote | None:
    """What the head is a stub of, if it is one."""
    inode = read_inode_of(directory)
    if not numbers:
        return inode.remote
    head = Generation.from_path(inode.file_id, os.path.join(directory, str(max(numbers))), max(numbers))
    head.close()
    return head.remote


def _fetchers(directory: str, lists: list[str], remote: Remote | None) -> Iterator[bytes]:
    """Whose segments hold stripes that are resident of this remote; the lists of others go."""
    for name in lists:
        path = os.path.join(directory, name)
        found = is_resident_of(path)
        if found is None or (remote is not None and found[0] == remote.identity):  # being made, or gone in this moment
            with contextlib.suppress(ValueError):
                yield bytes.fromhex(name.removesuffix(SUFFIX))
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _copy_owner(name: str) -> bytes | None:
    try:
        stem = name.removesuffix(".new")
        return bytes.fromhex(stem.removesuffix(".manifest")) if stem.endswith(".manifest") else None
    except ValueError:
        return None


def _freeable(
    seen: list[int], now: list[int], headers: dict[int, Header], live: list[_Live], grace_s: float, pins: frozenset[int]
) -> list[int]:
    """Which numbers may go, of those seen before the transactions were looked at."""
    if not now or any(item.base is None for item in live):
        return []
    head = max(now)
    durable = max((number for number in now if headers[number].durable), default=0)
    least_base = min((item.base for item in live if item.base is not None), default=head)
    limit = time.time_ns() - int(grace_s * 1e9)
    free = []
    for number in seen:
        if (
            number not in headers
            or number >= min(head, least_base)
            or number == durable
            or number > durable
            or number in pins
        ):
            continue
        successor = min(n for n in now if n > number)
        if headers[successor].committed_ns <= limit or headers[successor].committed_ns > time.time_ns() + 3600 * 10**9:
            free.append(number)
    return free


_first_seen: dict[
    tuple[str, int], float
] = {}  # (directory, number) -> when this process first saw it, on CLOCK_BOOTTIME


def _seen_long_enough(directory: str, now: list[int], free: list[int], *, wait: bool) -> list[int]:
    """Of the numbers that may go, those of which a higher one was seen at least LISTING_S ago: a slow listing must not miss both."""
    clock = time.clock_gettime(time.CLOCK_BOOTTIME)
    for key in [k for k, at in _first_seen.items() if clock - at > 3600.0]:
        del _first_seen[key]
    for number in now:
        _first_seen.setdefault((directory, number), clock)
    if not free:
        return free

    def ready(number: int, clock: float) -> bool:
        return any(n > number and clock - _first_seen.get((directory, n), clock) >= LISTING_S for n in now)

    if wait and not all(ready(number, clock) for number in free):
        time.sleep(LISTING_S)
        clock += LISTING_S
    return [number for number in free if ready(number, clock)]


def _transactions(store: Store, file_id: bytes, directory: str, full: bool, freed: Collected) -> Iterator[_Live]:
    """The live ones; dead ones are fenced and discarded on the way."""
    for name in sorted(list_directory(directory)):
        path = os.path.join(directory, name)
        if name.startswith(".nfs"):  # a name removed on another client that still holds it open: alive until it is gone
            if is_alive(None, path):
                yield _Live(None, None)
            continue
        if name.endswith(".name") and not is_there(path.removesuffix(".name") + ".tx"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # NAMED: whose transaction is gone gets no name any more
            continue
        if is_shared_file(name):
            collect_shared(path)
        if not name.endswith(".tx"):
            continue
        tx = bytes.fromhex(name.removesuffix(".tx"))
        try:
            header = read_header(path)
        except FileNotFoundError:
            continue
        except DamageError:
            header = None  # torn while it was rewritten, or damaged: proves nothing
        if header is not None and header.kept:
            age_s = time.time() - os.stat(path).st_mtime
            alive = not full and age_s < KEPT_S
        else:
            alive = is_alive(header.writer if header is not None else None, path)
        if alive:
            yield _Live(tx, header.base if header is not None and header.state >= 2 else None)
        else:
            logger.info("the writer of %s of %s is dead: discarded", tx.hex(), file_id.hex())
            discard(store, file_id, tx)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.removesuffix(".tx") + ".name")
            freed.transactions += 1


def _links(directory: str) -> int:
    """How many names the file's inode has, ``inode`` and TX.name counted; 0 = it is not there."""
    try:
        seen = os.lstat(os.path.join(directory, "inode"))
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(seen.st_mode):
        raise DamageError("something else lies in the place of the inode: nothing is collected", path=directory)
    return seen.st_nlink


def _remove_file(store: Store, file_id: bytes, directory: str, numbers: list[int], freed: Collected) -> int:
    """Numbers, segments, inode, directory: in that order."""
    for number in numbers:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, str(number)))
            freed.generations += 1
    _remove_leftovers(store, file_id, freed)
    for name in os.listdir(directory):
        if not name.endswith(".tx"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
    with contextlib.suppress(OSError):  # a writer registered meanwhile: it will learn that the file was removed
        os.rmdir(directory)
        freed.files += 1
    return 0


def _remove_leftovers(store: Store, file_id: bytes, freed: Collected) -> int:
    for target in store.targets:
        with naming(target.path):
            for name in target.list_segments(file_id):
                _remove_segment(target, file_id, name, freed)
            target.remove_directory(file_id)
    return 0


def _remove_segment(target: Target, file_id: bytes, name: str, freed: Collected) -> None:
    with contextlib.suppress(FileNotFoundError):
        with target.open_segment(file_id, name) as segment:
            freed.bytes += segment.size()
        target.remove_segment(file_id, name)
        freed.segments += 1


def collect_removed(store: Store, file_id: bytes) -> Collected:
    """Collect an id whose name was just removed or replaced, its directory having been synced; nothing where it has another name."""
    try:
        return collect(store, file_id, grace_s=0.0)
    except OSError as error:
        logger.warning("%s is not collected now: %s; `pinstripe gc` will", file_id.hex(), error)
        return Collected()


def collect_store(store: Store, *, grace_s: float = 0.0, full: bool = False) -> Collected:
    """Collect every id of a store, and what targets hold of ids that the store does not know."""
    freed = Collected()
    known = _known_ids(store)
    waiting = []
    for file_id in known:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by another who collects
            one = collect(store, file_id, grace_s=grace_s, full=full)
            if one.waiting:
                waiting.append(file_id)
            freed.add(one)
    if waiting:
        time.sleep(LISTING_S)
    for file_id in waiting:
        freed.add(collect(store, file_id, grace_s=grace_s, full=full))
    freed.waiting = 0
    for target in store.targets:
        for file_id in list(target.list_files()):
            if file_id not in known and not is_there(store.file_directory(file_id)):
                before = freed.segments
                _remove_leftovers(store, file_id, freed)
                freed.files += freed.segments > before
    return freed


def _known_ids(store: Store) -> set[bytes]:
    files = os.path.join(store.meta, "files")
    known: set[bytes] = set()
    for shard in os.listdir(files):
        for name in os.listdir(os.path.join(files, shard)):
            if is_shared_file(name):
                collect_shared(os.path.join(files, shard, name))
                continue
            with contextlib.suppress(ValueError):  # a directory that is being made
                known.add(bytes.fromhex(name))
    return known
