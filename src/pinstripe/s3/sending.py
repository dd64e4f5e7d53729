"""Sending: one name of a store made one object, under a condition, and never over what somebody else put there.

Small files go whole, here. Of a large one only the beginning and the end are here; its parts are everybody's (`pinstripe.s3.exporting`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import socket
import stat as stat_module
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import ConditionError, ConflictError, DamageError, Error, RemoteError, StaleError
from ..format.remote import Base, Remote
from ..kernels import crc64
from ..options import Options
from ..store.opening import open_session
from ..store.session import Session
from ..store.state import FileState, record_base, set_flags, state_of
from ..store.store import Store
from ..store.stub import renew_stub
from .completion import Staged
from .conflicts import Action, LocalState, Policy, RemoteState, conflict_name, decide
from .events import Events
from .export_plan import Destination, Name, Plan
from .links import link_of
from .metadata import Origin, from_metadata, to_metadata
from .names import key_of
from .objects import EXPIRED, ObjectInfo

if TYPE_CHECKING:
    from .client import Client

__all__ = [
    "PART_BYTES_LEAST",
    "Candidate",
    "Choice",
    "Sender",
    "again_if_damaged",
    "attributes_text",
    "is_passing",
    "part_bytes_of",
]

T = TypeVar("T")

PART_BYTES_LEAST = 16 << 20
_PARTS_MOST = 10_000
_TRIES = 8
_SENDS_DAMAGED = 3
_SYMLINK_ID = b"symlink\0"
_EXPORT = ("new", "changed", "deleted")

Bytes = npt.NDArray[np.uint8]


def part_bytes_of(size: int, stripe_bytes: int, least: int = PART_BYTES_LEAST) -> int:
    """Return how long the parts of a file are: whole stripes, and at most 10,000 of them."""
    wanted = max(least, -(-size // _PARTS_MOST))
    return -(-wanted // stripe_bytes) * stripe_bytes


def is_passing(error: BaseException) -> bool:
    """Tell whether the same request may well succeed later: no answer, an overloaded service, a broken connection."""
    return isinstance(error, RemoteError) and (
        (error.status in (0, 408, 429) and error.code != "NoCredentials")
        or error.status >= 500
        or error.code == EXPIRED
    )


def again_if_damaged(send: Callable[[], T]) -> T:
    """Send verified bytes; once more if the service says that they do not have their checksum: they were damaged on their way."""
    for left in reversed(range(_SENDS_DAMAGED)):
        try:
            return send()
        except RemoteError as error:
            if error.code != "BadDigest" or not left:
                raise
    raise AssertionError


def attributes_text(staged: Staged) -> str:
    """Write down a directory's attributes, to be compared."""
    return f"{staged.mode:o}.{staged.uid}.{staged.gid}.{staged.mtime_ns}"


@dataclasses.dataclass(slots=True)
class Candidate:
    """A name that was looked at, and what its object would be.

    Attributes
    ----------
    name : Name
    destination : Destination
    key : str
    size : int
        Bytes.
    crc : int or None
        CRC-64/NVME of the content, where it is known without reading it.
    metadata : dict
    staged : Staged
        As the completion object will say, but for the ETag.
    local : LocalState
    known : str
        ETag that the object is expected to have, "" where none is known of.
    generation : int
    tx : bytes
        Of the generation that is read; 16 bytes.
    origin : Origin
    stripe_bytes : int
    attempts : int
        How often it was begun.
    session : Session or None
        While it is open.
    """

    name: Name
    destination: Destination
    key: str
    size: int
    crc: int | None
    metadata: dict[str, str]
    staged: Staged
    local: LocalState
    known: str
    generation: int
    tx: bytes
    origin: Origin
    stripe_bytes: int = 0
    attempts: int = 0
    session: Session | None = None

    @property
    def path(self) -> str:
        """Absolute path."""
        return os.path.join(self.destination.directory, self.name.path)


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done about a candidate now.

    Attributes
    ----------
    action : Action
    key : str
        Where to; beside the object where both are kept.
    if_none_match : bool
    if_match : str
        The conditions of the upload.
    seen : ObjectInfo or None
        The object that was looked at.
    """

    action: Action
    key: str
    if_none_match: bool = False
    if_match: str = ""
    seen: ObjectInfo | None = None

    @property
    def uploads(self) -> bool:
        """Whether bytes are to be sent."""
        return self.action.verb in ("export", "keep-both")


class Sender:
    """One rank's side of an export. Thread-safe.

    Parameters
    ----------
    store : Store
    plan : Plan
    events : Events
    client_of : callable
        Gives the client for a destination.
    dry_run : bool
        Look, tell, and change nothing.
    part_bytes_least : int
        Files that are longer are left to all ranks.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        events: Events,
        client_of: Callable[[Destination], Client],
        *,
        dry_run: bool = False,
        part_bytes_least: int = PART_BYTES_LEAST,
    ) -> None:
        self.store, self.plan, self.events = store, plan, events
        self.client_of, self.dry_run, self.part_bytes_least = client_of, dry_run, part_bytes_least
        self.staged: list[Staged] = []
        self._room = threading.local()
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._options = Options.make({"threads": 1})

    # --- one name ----------------------------------------------------------------------------------------------------

    def send(self, name: Name) -> Candidate | None:
        """Export one name; a file that all ranks are to send is returned. What fails is told."""
        destination = self.plan.destinations[name.destination]
        path = os.path.join(destination.directory, name.path)
        try:
            if name.kind == "directory":
                self._send_directory(name, destination, path)
            elif name.kind == "symlink":
                self._send_symlink(name, destination, path)
            else:
                return self._send_file(name, destination, path)
        except (Error, OSError) as error:
            self.fail(path, error)
        return None

    def fail(self, path: str, error: BaseException) -> None:
        """Tell a failure; one that may pass leaves the export incomplete."""
        if is_passing(error):
            self.events.interrupted()
        self.events.failed(path, error)

    def _send_file(self, name: Name, destination: Destination, path: str) -> Candidate | None:
        for left in reversed(range(_TRIES)):
            seen = os.lstat(path)  # before it is read, which may change its access time
            with contextlib.ExitStack() as stack:
                candidate = self.look_at(name, destination, path, seen, state_of(path), stack)
                if candidate is None:
                    return None
                if candidate.size > part_bytes_of(candidate.size, candidate.stripe_bytes, self.part_bytes_least):
                    candidate.session = None
                    return candidate
                try:
                    self._send_whole(candidate)
                    return None
                except StaleError:  # replaced and collected while it was read
                    if not left:
                        raise
        return None

    def look_at(
        self,
        name: Name,
        destination: Destination,
        path: str,
        seen: os.stat_result,
        state: FileState,
        stack: contextlib.ExitStack,
    ) -> Candidate | None:
        """Say what a file's object would be; None = nothing is to be done, which is told. The stack closes the candidate's session."""
        key = key_of(name.path, destination.prefix)
        base = state.base if state.base is not None and is_base_of(state.base, destination, key) else None
        is_clean = base is not None and state.archived
        if state.noexport:
            self.events.skipped(path, "marked noexport")
            return None
        if base is not None and is_clean and name.listed in (None, base.remote.etag):
            staged = self._staged(name, key, seen, state.size, base.remote.crc64)
            self.done(dataclasses.replace(staged, etag=base.remote.etag, version=base.remote.version))
            self.events.skipped(path)
            return None
        session = stack.enter_context(contextlib.closing(open_session(path, "r", options=self._options)))
        return self._candidate(name, destination, key, seen, session, base, is_clean)

    def _candidate(
        self,
        name: Name,
        destination: Destination,
        key: str,
        seen: os.stat_result,
        session: Session,
        base: Base | None,
        is_clean: bool,
    ) -> Candidate:
        generation = session.base
        tx = generation.transaction or session.file_id
        known = base.remote.etag if base is not None else name.known
        if known and not (is_clean and name.listed == ""):
            local = LocalState("dirty")
        else:  # also one whose object is gone, of a directory that is staged out again
            local, known = LocalState("new"), ""
        origin = Origin(self.store.id, session.file_id, generation.number, tx)
        return Candidate(
            name=name,
            destination=destination,
            key=key,
            size=session.size,
            crc=generation.content_crc,
            metadata=to_metadata(seen, "file", origin),
            staged=self._staged(name, key, seen, session.size, generation.content_crc),
            local=local,
            known=known,
            generation=generation.number,
            tx=tx,
            origin=origin,
            stripe_bytes=session.layout.stripe_bytes,
            session=session,
        )

    @staticmethod
    def open_generation(path: str, generation: int, tx: bytes, *, threads: int = 1) -> Session:
        """Open the generation of a file that a candidate is of.

        Raises
        ------
        StaleError
            It is gone.
        """
        gone = StaleError("the file was replaced while it was exported", path=path)
        try:
            session = open_session(path, "r", options=Options.make({"threads": threads}), generation=generation)
        except FileNotFoundError:
            raise gone from None
        if (session.base.transaction or session.file_id) != tx:
            session.close()
            raise gone
        return session

    def _send_whole(self, one: Candidate) -> None:
        data: Bytes | None = None

        def put(choice: Choice) -> tuple[str, str]:
            nonlocal data
            if data is None:
                data = self._read_whole(one)
            return self._put(one, choice, data.data)

        self._settle(one, put)

    def _read_whole(self, one: Candidate) -> Bytes:
        room: Bytes | None = getattr(self._room, "buffer", None)
        if room is None or len(room) < one.size:
            room = self._room.buffer = np.empty(max(one.size, 1 << 16), np.uint8)
        data = room[: one.size]
        assert one.session is not None
        with self.events.spending("targets"):
            if one.session.read_into(0, data) != one.size:
                raise DamageError("the file is shorter than its generation says", path=one.path)
        found = crc64(data)
        if one.crc is not None and found != one.crc:
            raise DamageError(
                "the file's bytes are not what its generation's checksum says; nothing was uploaded",
                path=one.path,
                expected=f"{one.crc:016x}",
                found=f"{found:016x}",
            )
        one.crc = found
        one.staged = dataclasses.replace(one.staged, crc64nvme=f"{found:016x}")
        return data

    # --- what is to be done ------------------------------------------------------------------------------------------

    def first_choice(self, one: Candidate, *, look: bool = False) -> Choice | None:
        """Decide before anything was sent; None = nothing is to be sent, which is told.

        Parameters
        ----------
        look : bool
            Ask the bucket, even if a condition would find out as well: what is to be sent is large.
        """
        name = one.name
        if name.listed is None:
            if look or self.dry_run:
                return self.choose(one, self.look(one), looked=True)
            return self.choose(one, None, looked=False)
        seen: ObjectInfo | None = None
        if name.listed and name.listed in (one.known, name.known):
            crc = int(name.known_crc, 16) if name.known_crc and name.listed == name.known else None
            seen = ObjectInfo(one.key, name.listed_bytes, name.listed, 0, crc64=crc)
        elif name.listed:
            seen = self.look(one)
        return self.choose(one, seen, looked=True)

    def choose(self, one: Candidate, seen: ObjectInfo | None, *, looked: bool) -> Choice | None:
        """Decide about a candidate; do what needs no upload, and return None then.

        Parameters
        ----------
        seen : ObjectInfo or None
            The object, None where there is none.
        looked : bool
            Whether the bucket was asked; else the object is taken to be what is known of it.
        """
        # An empty object of a directory has nothing that could be lost: whoever made it, it gets this directory's attributes.
        is_bare = one.name.kind == "directory" and seen is not None and not seen.size
        if_conflict = "overwrite" if is_bare else one.destination.if_conflict
        policy = Policy((), _EXPORT, if_conflict, one.destination.if_deleted)
        state = ("same" if one.known else "absent") if not looked else self._compare(one, seen)
        is_equal = looked and seen is not None and self.is_equal(one, seen)
        if is_equal and one.name.kind != "file" and seen is not None:
            self._left(one, seen.etag, seen.version)
            return None
        remote = RemoteState("changed" if is_equal else state, is_equal, self._is_older(one, seen))
        action = decide(one.local, remote, policy)
        if action.verb == "record" and seen is not None:
            if self.dry_run:
                self.events.skipped(one.path, action.reason)
            else:
                self._record(one, seen.etag, seen.version, one.crc)
                self._left(one, seen.etag, seen.version)
            return None
        if action.verb not in ("export", "keep-both"):
            self._give_up(one, action)
            return None
        if self.dry_run:
            self.events.planned("upload" if action.verb == "export" else action.verb, one.path, one.size, action.reason)
            return None
        if action.verb == "keep-both":
            beside = conflict_name(one.key, os.environ.get("SLURM_JOB_ID") or str(os.getpid()), socket.gethostname())
            return Choice(action, beside, if_none_match=True, seen=seen)
        if is_bare:  # no condition: services make such objects, and their ETags, as they like
            return Choice(action, one.key, seen=seen)
        etag = "" if action.condition == "if-none-match" else seen.etag if seen is not None else one.known
        return Choice(action, one.key, if_none_match=not etag, if_match=etag, seen=seen)

    def _compare(self, one: Candidate, seen: ObjectInfo | None) -> str:
        if seen is None:
            return "absent"
        return "same" if seen.etag == one.known else "changed"

    def is_equal(self, one: Candidate, seen: ObjectInfo) -> bool:
        """Tell whether an object is, for certain, what would be uploaded."""
        if seen.size != one.size:
            return False
        if one.name.kind == "directory":
            there = from_metadata(seen.metadata, one.key, modified_ns=seen.modified_ns)
            mine = from_metadata(one.metadata, one.key)
            return bool(seen.metadata) and dataclasses.replace(there, atime_ns=0) == dataclasses.replace(
                mine, atime_ns=0
            )
        if seen.crc64 is not None and one.crc is not None:
            is_same = seen.crc64 == one.crc
        else:
            is_same = Origin.from_metadata(seen.metadata) == one.origin
        if one.name.kind == "symlink" and is_same and seen.metadata:
            return from_metadata(seen.metadata, one.key).kind == "symlink"
        return is_same

    def _is_older(self, one: Candidate, seen: ObjectInfo | None) -> bool:
        if seen is None:
            return False
        there = Origin.from_metadata(seen.metadata)
        if there is None:
            return False
        if there.is_older_of(one.origin):
            return True
        # Below a link a key is this path alone. Its object came from a file that is no more: the name was replaced here.
        gone = there.store_id == self.store.id and not os.path.lexists(self.store.file_directory(there.file_id))
        return one.destination.is_link and gone and there.file_id != one.origin.file_id

    def look(self, one: Candidate, key: str = "") -> ObjectInfo | None:
        """Ask the bucket for the object; None where there is none."""
        try:
            return self.client_of(one.destination).head(one.destination.bucket, key or one.key)
        except RemoteError as error:
            if error.status == 404:
                return None
            raise

    def _put(self, one: Candidate, choice: Choice, data: bytes | memoryview) -> tuple[str, str]:
        client = self.client_of(one.destination)
        with self.events.spending("network"):
            return again_if_damaged(
                lambda: client.put(
                    one.destination.bucket,
                    choice.key,
                    data,
                    metadata=one.metadata,
                    crc64=one.crc,
                    if_none_match=choice.if_none_match,
                    if_match=choice.if_match,
                )
            )

    def _settle(self, one: Candidate, put: Callable[[Choice], tuple[str, str]]) -> None:
        """Decide and upload until both fit; write down what was made."""
        is_conditional = self.client_of(one.destination).capabilities.conditional_put
        if not is_conditional:
            self._note("the endpoint knows no conditions: each object is looked at right before it is written")
        next_choice = self.first_choice(one)
        for attempt in range(_TRIES):
            if next_choice is not None and not is_conditional:
                next_choice = self.look_again(one, next_choice)
            if next_choice is None:
                return
            choice = next_choice
            try:
                etag, version = put(
                    choice if is_conditional else dataclasses.replace(choice, if_none_match=False, if_match="")
                )
            except RemoteError as error:
                if not isinstance(error, ConditionError) and not (error.status == 404 and choice.if_match):
                    raise
                if error.status == 409:  # somebody is at the same key
                    time.sleep(random.uniform(0, 0.05 * 2**attempt))
                next_choice = self.look_again(one, choice)
            else:
                self.finish(one, choice, etag, version)
                self.events.advance(files=1, bytes=one.size)
                return
        raise ConflictError("the object changes faster than it can be looked at", path=one.path)

    def look_again(self, one: Candidate, choice: Choice) -> Choice | None:
        """Decide anew after a condition did not hold."""
        if choice.action.verb != "keep-both":
            return self.choose(one, self.look(one), looked=True)
        beside = self.look(one, choice.key)
        if beside is None:
            return choice
        if not self.is_equal(one, beside):
            raise ConflictError(f"both {one.key} and {choice.key} are there, and neither is the file", path=one.path)
        self.finish(one, choice, beside.etag, beside.version)
        return None

    def _give_up(self, one: Candidate, action: Action) -> None:
        if action.verb in ("nothing", "skip"):
            self.events.skipped(one.path, action.reason)
            return
        if not self.dry_run and one.name.kind == "file":
            set_flags(one.path, add=["conflict"])
        url = f"s3://{one.destination.bucket}/{one.key}"
        self.events.conflict(one.path, f"{action.reason} ({url}); nothing was uploaded")

    # --- what was done -----------------------------------------------------------------------------------------------

    def finish(self, one: Candidate, choice: Choice, etag: str, version: str) -> None:
        """Write down what an upload made; before anything else depends on it. An upload without a checksum is looked at first.

        Raises
        ------
        DamageError
            The object is not as long as the file.
        """
        if one.name.kind == "file":
            if choice.action.verb == "keep-both":
                set_flags(one.path, add=["conflict"])
                self.events.note(f"{one.path}: in conflict; uploaded beside the object as {choice.key}")
                one.staged = dataclasses.replace(
                    one.staged, key=choice.key, path=one.staged.path + choice.key.removeprefix(one.key)
                )
            else:
                self._record(one, etag, version, one.crc, uploaded=True)
        self.done(dataclasses.replace(one.staged, etag=etag, version=version))

    def _record(self, one: Candidate, etag: str, version: str, crc: int | None, *, uploaded: bool = False) -> None:
        proof = self._proof(one) if uploaded else "crc64nvme"
        if proof == "size":
            seen = self.look(one)
            if seen is None or (seen.etag == etag and seen.size != one.size):
                raise DamageError(
                    f"s3://{one.destination.bucket}/{one.key} is not as long as the file that was uploaded",
                    path=one.path,
                    expected=one.size,
                    found=seen.size if seen is not None else "nothing",
                )
            self._note("the endpoint keeps no checksums: what was uploaded is compared by its size alone")
        elif proof == "etag":
            self._note(
                "the endpoint keeps no CRC-64 of whole objects: each request was checked by a checksum of its own"
            )
        else:
            self.events.verified()
        if self._is_to_be_base(one):
            remote = Remote(one.destination.bucket, one.key, one.size, etag, version, crc, 0, one.destination.endpoint)
            try:
                self._tie(one, remote, proof)
            except OSError as error:
                if one.destination.is_link or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                self._note("the store cannot be written to: it will not know that its files are in the bucket")

    @staticmethod
    def _tie(one: Candidate, remote: Remote, proof: str) -> None:
        """Make the object the file's base. A stub becomes one of it: it reads what it stands for, not what its record says."""
        state = state_of(one.path)
        if not state.is_stub or state.tx != one.tx:
            record_base(one.path, remote, one.tx, proof=proof)
        elif state.base is None or not state.base.remote.is_same_version(remote):
            renew_stub(one.path, remote, state)

    def _proof(self, one: Candidate) -> str:
        client = self.client_of(one.destination)
        kind = client.checksum
        is_cut = one.size > part_bytes_of(one.size, max(1, one.stripe_bytes), self.part_bytes_least)
        if kind == "none":
            return "size"
        return "crc64nvme" if kind == "crc64nvme" and (client.capabilities.full_object or not is_cut) else "etag"

    def _is_to_be_base(self, one: Candidate) -> bool:
        """A stage-out elsewhere does not take the place of what the file's own link knows."""
        if one.destination.is_link:
            return True
        link = link_of(self.store, one.path)
        return link is None or (link.bucket == one.destination.bucket and link.key_of(one.path) == one.key)

    def _left(self, one: Candidate, etag: str, version: str) -> None:
        """Tell that the object is already what the name is."""
        if not self.dry_run:
            self.done(dataclasses.replace(one.staged, etag=etag, version=version))
        self.events.skipped(one.path)

    def done(self, staged: Staged) -> None:
        """Note what the completion object is to list."""
        with self._lock:
            self.staged.append(staged)

    def _note(self, text: str) -> None:
        with self._lock:
            if text in self._said:
                return
            self._said.add(text)
        self.events.note(text)

    def _staged(
        self, name: Name, key: str, seen: os.stat_result, size: int, crc: int | None, target: str = ""
    ) -> Staged:
        return Staged(
            path=name.path,
            kind=name.kind,
            key=key,
            size=size,
            mode=stat_module.S_IMODE(seen.st_mode) & ~stat_module.S_ISUID,
            uid=seen.st_uid,
            gid=seen.st_gid,
            mtime_ns=seen.st_mtime_ns,
            crc64nvme="" if crc is None else f"{crc:016x}",
            target=target,
        )

    # --- directories and symlinks ------------------------------------------------------------------------------------

    def _send_directory(self, name: Name, destination: Destination, path: str) -> None:
        seen = os.lstat(path)
        key = key_of(name.path, destination.prefix, is_directory=True) if name.needs_object else ""
        staged = self._staged(name, key, seen, 0, None)
        if not name.needs_object:
            self.done(staged)
            return
        if name.listed and name.listed == name.known and name.known_crc == attributes_text(staged):
            self.done(dataclasses.replace(staged, etag=name.listed))
            self.events.skipped(path)
            return
        one = self._small(name, destination, key, b"", to_metadata(seen, "directory"), staged, seen)
        self._send_small(one, b"")

    def _send_symlink(self, name: Name, destination: Destination, path: str) -> None:
        seen = os.lstat(path)
        target = os.readlink(path)
        key = key_of(name.path, destination.prefix)
        data = os.fsencode(target)
        readable = data.decode(errors="replace")
        staged = self._staged(name, key, seen, len(data), crc64(data), readable)
        one = self._small(name, destination, key, data, {}, staged, seen)
        one.metadata = to_metadata(seen, "symlink", one.origin)
        self._send_small(one, data)

    def _small(
        self,
        name: Name,
        destination: Destination,
        key: str,
        data: bytes,
        metadata: dict[str, str],
        staged: Staged,
        seen: os.stat_result,
    ) -> Candidate:
        # Neither has an id of its own: the place in the store is one, and the time its generation.
        place = os.path.relpath(os.path.join(destination.directory, name.path), self.store.root)
        id = crc64(_SYMLINK_ID + os.fsencode(place)).to_bytes(16, "little")
        origin = Origin(self.store.id, id, max(0, seen.st_mtime_ns), bytes(16))
        local = LocalState("dirty" if name.known else "new")
        return Candidate(
            name, destination, key, len(data), crc64(data), metadata, staged, local, name.known, 0, bytes(16), origin
        )

    def _send_small(self, one: Candidate, data: bytes) -> None:
        def put(choice: Choice) -> tuple[str, str]:
            return self._put(one, choice, data)

        self._settle(one, put)


def is_base_of(base: Base, destination: Destination, key: str) -> bool:
    """Tell whether a base is the object of this key there."""
    urls = {base.remote.endpoint.url.rstrip("/"), destination.endpoint.url.rstrip("/")}
    return (base.remote.bucket, base.remote.key) == (destination.bucket, key) and (len(urls) == 1 or "" in urls)
