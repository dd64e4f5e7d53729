"""Restoring and staging in: a bucket's bytes become files, over all ranks, each of them seen only whole and verified.

Large objects are fetched in ranges of whole stripes, by whoever is free; small ones many at a time. What is fetched are resident stripes
of a stub, which are the journal: a run that was killed is started again and goes on. A staged file's stub has a hidden name beside the
file's own until all of it is there, the bucket's checksum holds, and it is renamed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import random
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from ..errors import ArgumentError, ConflictError, DamageError, Error, NamespaceError, StaleError
from ..format.inode import Inode
from ..format.manifest import SEGMENT_ENTRY
from ..format.remote import Endpoint, Remote
from ..kernels import crc64
from ..options import Options
from ..store import namespace
from ..store.newfile import write_inode
from ..store.place import STAGED, AnyPath, Place, locate
from ..store.residency import Residency
from ..store.state import content_crc, record_base, state_of
from ..store.store import Store
from ..store.stub import make_stub, promote
from ..store.team import SERIAL, Team
from ..store.telling import tell_json
from ..store.work_queue import WorkQueue, work_through
from .client import Client
from .conflicts import Policy
from .credentials import SIGNED_S, Holder, to_values, waves
from .events import Events, Summary
from .filters import Filter
from .importing import (
    choose,
    finish_directories,
    import_objects,
    is_described,
    list_source,
    look,
    make_directories,
    make_link,
    values_of,
)
from .landing import Landing, put_name
from .links import endpoint_for
from .metadata import Attributes, Defaults, from_metadata
from .names import path_of, split_url
from .objects import ObjectInfo, Signed
from .probe import capabilities_of
from .source import ObjectSource

__all__ = ["VERIFY", "restore", "stage_in"]

VERIFY = ("full", "size", "none")
"""What is compared: the checksum of the whole, where the bucket has one; the length; nothing more than what is always looked at."""

LARGE_BYTES = 32 << 20
"""Files from this size on are fetched by all ranks together."""

WHOLE_BYTES = 8 << 20
"""Objects up to this size are fetched with their attributes by one request."""

_Opener = Callable[[Remote, Store], ObjectSource]

THREADS = 8
BATCH = 64
_WAVE_FILES = 64
_UNIT_BYTES = (16 << 20, 64 << 20)
_UNITS_A_RANK = 8
_LOOKS = 20
_LOOKS_AGAIN = 8
_WAIT_S = 0.01, 0.1


def restore(
    paths: Iterable[AnyPath],
    *,
    verify: str = "full",
    team: Team = SERIAL,
    events: Events | None = None,
    options: Options | None = None,
    dry_run: bool = False,
    credentials: str = "all",
) -> Summary:
    """Collective. Fetch what is not here of files, and of those in directories, and make them ordinary files.

    Parameters
    ----------
    paths : iterable of path
        The same on all ranks. What is no stub is skipped.
    verify : str
        One of `VERIFY`. With ``full`` an object is asked for its checksum if the stub holds none.
    credentials : str
        ``root``: only the first rank has some. It does what needs them, and signs URLs by which the others fetch.

    Returns
    -------
    Summary
        Of all ranks. Exit code 4 where a checksum did not hold: nothing of that file is kept.
    """
    _check_verify(verify)
    events = events or Events()
    wanted = [os.fspath(path) for path in paths]
    run = _Run(team, events, options or Options.make(), verify, Holder(credentials, team))
    found: list[tuple[str, int]] = []

    def walk() -> None:
        for path in wanted:
            try:
                found.extend(_stubs(path, events))
            except (Error, OSError) as error:
                events.failed(path, error)

    run.first(walk)
    told = [(str(path), int(size)) for path, size in run.tell(found)]
    if dry_run:
        for path, size in told if team.rank == 0 else ():
            events.planned("restore", path, size)
        return run.finish()
    run.together(lambda: _check_access(told[0][0], run) if told else None)
    jobs = [_Restore(path, size, verify) for path, size in told]
    stores: list[Store] = []
    run.together(lambda: stores.append(Store.find(wanted[0])) if jobs else None)
    run.fetch(jobs, stores[0] if stores else None)
    return run.finish()


def stage_in(
    url: str,
    directory: AnyPath,
    *,
    lazy: bool = False,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    verify: str = "full",
    overwrite: bool = False,
    endpoint: Endpoint | None = None,
    defaults: Defaults | None = None,
    attributes: bool = True,
    team: Team = SERIAL,
    events: Events | None = None,
    options: Options | None = None,
    dry_run: bool = False,
    credentials: str = "all",
) -> Summary:
    """Collective. Bring the objects under ``s3://bucket/prefix``, or one object, into a directory of a store.

    Each file appears whole, verified, with its attributes, in one step. A file that is there and is the same version is skipped. Killed
    and started again it goes on where it was. All that is there when it returns is durable.

    Parameters
    ----------
    directory : path
        Made if it is missing.
    lazy : bool
        Make stubs and fetch nothing.
    include, exclude : iterable of str
        Patterns of `pinstripe.s3.filters.Filter`.
    verify : str
        One of `VERIFY`.
    overwrite : bool
        Replace files that are there and are other versions; else each of them is a conflict.
    defaults : Defaults, optional
        For objects that state no owner and mode.
    attributes : bool
        With ``lazy``: ask each object for owner, mode and times.
    credentials : str
        As for `restore`. With ``lazy`` the first rank does all of it then.

    Returns
    -------
    Summary
        Of all ranks.

    Raises
    ------
    RemoteError
        The bucket cannot be listed.
    """
    _check_verify(verify)
    chosen = Filter(include, exclude)
    endpoint, defaults, events = endpoint or Endpoint(), defaults or Defaults(), events or Events()
    holder = Holder(credentials, team)
    if lazy:
        policy = Policy(("new", "changed"), (), if_conflict="take-remote" if overwrite else "fail")

        def make_stubs(team: Team) -> Summary:
            return import_objects(
                url,
                directory,
                endpoint=endpoint,
                policy=policy,
                defaults=defaults,
                attributes=attributes,
                chosen=chosen,
                team=team,
                events=events,
                dry_run=dry_run,
            )

        return holder.on_first(make_stubs) if holder.signs else make_stubs(team)
    run = _Run(team, events, options or Options.make(), verify, holder)
    return _StageIn(run, url, directory, chosen, overwrite, endpoint, defaults).run(dry_run)


def _check_verify(verify: str) -> None:
    if verify not in VERIFY:
        raise ArgumentError(f"verify={verify!r}: choose one of {', '.join(VERIFY)}")


def _check_access(path: str, run: _Run) -> None:
    """See that this rank reaches what a stub is of, before others wait for it."""
    try:
        state = state_of(path)
    except (Error, OSError):
        return  # it is told when it is its turn
    if state.is_stub and state.base is not None:
        run.holder.check(endpoint_for(locate(path).store, state.base.remote))


def _stubs(path: str, events: Events) -> list[tuple[str, int]]:
    """Find the stubs at a path or below it."""
    place = locate(path)
    if not stat.S_ISDIR(os.lstat(place.path).st_mode):
        state = state_of(place)
        if not state.is_stub:
            events.skipped(place.path)
            return []
        return [(place.path, state.size)]
    found: list[tuple[str, int]] = []
    for top, _, names in namespace.walk(place.path):
        for name in names:
            full = os.path.join(top, name)
            if not os.path.islink(full):
                try:
                    found += _stubs(full, events)
                except (Error, OSError) as error:
                    events.failed(full, error)
    return found


# --- one file ---------------------------------------------------------------------------------------------------------


class _Job(Protocol):
    """One file that is to be fetched; the same on all ranks.

    Attributes
    ----------
    path : str
        Absolute.
    size : int
    """

    path: str
    size: int

    def place(self) -> Place:
        """Where the stub is that stripes are fetched of."""
        ...

    def prepare(self, run: _Run) -> int | None:
        """On one rank: see to it that the stub is there; return the checksum that the whole must have, -1 without one, None: nothing
        is to be done any more."""
        ...

    def complete(self, run: _Run, synced: Any, checksum: int, *, durable: bool) -> None:
        """On one rank: all is here; prove it, and give it its name."""
        ...

    def whole(self, run: _Run) -> None:
        """On one rank: do all of it."""
        ...

    def sign(self, run: _Run) -> list[Any] | None:
        """On the first rank: say what another needs to do `whole` without credentials; None: nothing is to be done."""
        ...

    def take(self, values: list[Any]) -> None:
        """On another: take it."""
        ...


@dataclasses.dataclass(slots=True)
class _Restore:
    """A stub that has its name."""

    path: str
    size: int
    verify: str
    signed: Signed | None = dataclasses.field(default=None, repr=False)
    checksum: int = -1

    def place(self) -> Place:
        return locate(self.path)

    def prepare(self, run: _Run) -> int | None:
        state = state_of(self.path)
        if not state.is_stub:
            run.events.skipped(self.path)
            return None
        assert state.base is not None
        remote = state.base.remote
        client = Client.of(endpoint_for(locate(self.path).store, remote))
        run.uses(client)
        if remote.crc64 is None and self.verify == "full":
            found = client.head(remote.bucket, remote.key)
            if found.etag == remote.etag:
                return _number(found.crc64)
        return _number(remote.crc64)

    def complete(self, run: _Run, synced: Any, checksum: int, *, durable: bool) -> None:
        _promote(self.place(), synced, checksum, durable=durable)
        run.done(self.size, checksum)

    def whole(self, run: _Run) -> None:
        if self.signed is not None:
            place = self.place()
            _load_all(place, run, self.signed)
            _promote(place, None, self.checksum, durable=False, opener=run.opener(self.signed))
            run.done(self.size, self.checksum)
            return
        checksum = self.prepare(run)
        if checksum is not None:
            _load_all(self.place(), run)
            self.complete(run, None, checksum, durable=False)

    def sign(self, run: _Run) -> list[Any] | None:
        checksum, signed = self.prepare(run), run.sign(self.place())
        return None if checksum is None or signed is None else [checksum, *to_values(signed)]

    def take(self, values: list[Any]) -> None:
        self.checksum, self.signed = values[0], Signed(*values[1:])


class _Stage:
    """An object that is to become a file."""

    def __init__(self, staging: _StageIn, info: ObjectInfo) -> None:
        self.staging, self.info = staging, info
        self.relative = path_of(info.key, staging.prefix)
        self.path, self.size = f"{staging.landing.root}/{self.relative}", info.size
        self._hidden = staging.landing.place(self.relative).beside(stage_name(staging.bucket, info))
        self._signed: Signed | None = None

    @property
    def _final(self) -> Place:
        return self.staging.landing.place(self.relative)

    def place(self) -> Place:
        return self._hidden if os.path.lexists(self._hidden.path) else self._final

    def prepare(self, run: _Run) -> int | None:
        if self._is_there(run):
            return None
        staging = self.staging
        if not is_described(self.info) or self.info.crc64 is None:
            info = staging.client.head(staging.bucket, self.info.key)
            if info.etag != self.info.etag:
                raise _changed(staging.bucket, self.info, info)
            self.info = info
        here = look(self._final)
        if here.state is not None and here.state.is_stub and here.holds(self._remote()):
            self._remove_hidden()
            return _number(here.state.base.remote.crc64 if here.state.base is not None else None)
        if not staging.overwrite and here.state is not None and not self._take_over(run):
            return None
        self._make_hidden()
        return _number(self._remote().crc64)

    def _is_there(self, run: _Run) -> bool:
        """Tell whether nothing is to be done; refuse what may not be replaced."""
        staging = self.staging
        staging.landing.directory(os.path.dirname(self.relative))
        if not self.info.available:
            text = f"s3://{staging.bucket}/{self.info.key} lies in {self.info.storage_class}: restore it there first"
            run.events.failed(self.path, text, error_code="S3ObjectInUnsupportedTier")
            return True
        here = look(self._final)
        if here.kind == "directory":
            raise IsADirectoryError(errno.EISDIR, "a directory has the name of an object", self.path)
        if here.state is not None and not here.state.is_stub and here.holds(self._remote()):
            self._remove_hidden()
            run.events.skipped(self.path)
            return True
        return False

    def _remote(self) -> Remote:
        remote = self.info.remote(self.staging.bucket, self.staging.endpoint)
        return remote if self.staging.verify == "full" else dataclasses.replace(remote, crc64=None)

    def _attributes(self) -> Attributes:
        info = self.info
        return from_metadata(info.metadata, info.key, self.staging.defaults, modified_ns=info.modified_ns)

    def _take_over(self, run: _Run, data: bytes | None = None) -> bool:
        """A file of the name is there, and is not known to be this version: it may have the same bytes. Else it is a conflict.

        Returns
        -------
        bool
            False: nothing is to be done.
        """
        self._remove_hidden()
        state = state_of(self._final)
        crc = self.info.crc64 if data is None else crc64(data)
        if crc is not None and state.size == self.info.size and content_crc(self._final)[1] == crc:
            record_base(self._final, self._remote(), state.tx, proof="crc64nvme", durable=False)
            run.events.skipped(self.path)
            return False
        run.events.conflict(self.path, "a file of this name is there, and is another; --overwrite would replace it")
        return False

    def _make_hidden(self, *, again: bool = False) -> None:
        remote, attributes = self._remote(), self._attributes()
        if os.path.lexists(self._hidden.path):
            with contextlib.suppress(Error, OSError):
                state = state_of(self._hidden)
                if (
                    state.archived
                    and state.base is not None
                    and state.base.remote.is_same_version(remote)
                    and not again
                ):
                    return
            namespace.remove(self._hidden)
        self._remove_older()
        make_stub(
            self._hidden,
            remote,
            layout=self.staging.landing.layout(os.path.dirname(self.relative)),
            mode=attributes.mode,
            uid=attributes.uid,
            gid=attributes.gid,
            atime_ns=attributes.atime_ns,
            mtime_ns=attributes.mtime_ns,
            durable=False,
        )

    def _remove_hidden(self) -> None:
        """Remove what a run that was killed left, if it did: the name itself is what is filled, or nothing is."""
        if os.path.lexists(self._hidden.path):
            with contextlib.suppress(FileNotFoundError):
                namespace.remove(self._hidden)

    def _remove_older(self) -> None:
        """Remove what a run that was killed left of another version of the object."""
        directory = self._hidden.directory
        same_key = self._hidden.name.rpartition("-")[0]
        for name in self.staging.left_in(directory):
            if name.startswith(same_key) and name != self._hidden.name:
                with contextlib.suppress(Error, OSError):
                    namespace.remove(self._hidden.beside(name))

    def complete(self, run: _Run, synced: Any, checksum: int, *, durable: bool) -> None:
        _looking_again(lambda: self._complete(synced, checksum, durable=durable))
        run.done(self.size, checksum)

    def _complete(self, synced: Any, checksum: int, *, durable: bool) -> None:
        place = self.place()
        is_hidden = place.name.startswith(STAGED)
        if not is_hidden:
            here = look(place)
            if here.kind == "absent":
                raise FileNotFoundError(errno.ENOENT, "what was fetched of it is gone", self.path)
            if not here.holds(self._remote()):
                raise ConflictError("a file of this name was made meanwhile", path=self.path)
        try:
            _promote(place, synced, checksum, durable=durable)
        except DamageError:
            if is_hidden:
                namespace.remove(place)
            raise
        if is_hidden:
            try:
                put_name(self._hidden, self._final, replace=self.staging.overwrite, durable=durable)
            except FileExistsError:  # another run made it, or somebody a file of the name
                self._remove_hidden()
                raise

    def whole(self, run: _Run) -> None:
        _looking_again(lambda: self._whole(run))

    def _whole(self, run: _Run) -> None:
        if self.size > WHOLE_BYTES:
            checksum = self.prepare(run)
            if checksum is not None:
                _load_all(self.place(), run)
                self.complete(run, None, checksum, durable=False)
            return
        if self._is_there(run):
            return
        staging = self.staging
        data, info = staging.client.get(
            staging.bucket, self.info.key, etag=self.info.etag, most=WHOLE_BYTES, signed=self._signed
        )
        self.info, self.size = info, len(data)
        run.events.advance(bytes=len(data))
        checksum = _number(self._remote().crc64)
        attributes = self._attributes()
        here = look(self._final)
        if attributes.kind == "symlink":
            self._link(run, make_link(data), here.kind)
        elif here.kind == "symlink" and not staging.overwrite:
            run.events.conflict(self.path, "a symlink of this name is there")
        elif here.state is not None and here.state.is_stub and here.holds(self._remote()):
            self._remove_hidden()
            self._fill(self._final, data)
            self.complete(run, None, checksum, durable=False)
        elif here.state is not None and not staging.overwrite:
            self._take_over(run, data)
        elif here.kind == "absent" and self._make_inline(data, attributes):
            run.done(self.size, checksum)
        else:
            self._make_hidden()
            self._fill(self._hidden, data)
            self.complete(run, None, checksum, durable=False)

    def sign(self, run: _Run) -> list[Any] | None:
        remote = Remote(self.staging.bucket, self.info.key, self.size, self.info.etag)  # `get` names no version
        return to_values(self.staging.client.sign_get(remote, whole=True, seconds=SIGNED_S))

    def take(self, values: list[Any]) -> None:
        self._signed = Signed(*values)

    def _link(self, run: _Run, target: str, kind: str) -> None:
        if kind == "symlink" and os.readlink(self.path) == target:
            return run.events.skipped(self.path)
        if kind != "absent" and not self.staging.overwrite:
            return run.events.conflict(self.path, "a file of this name is there, and is no such symlink")
        self.staging.landing.symlink(self.relative, target, replace=kind != "absent")
        attributes = self._attributes()
        with contextlib.suppress(PermissionError):
            os.chown(self.path, attributes.uid, attributes.gid, follow_symlinks=False)
        os.utime(self.path, ns=(attributes.atime_ns, attributes.mtime_ns), follow_symlinks=False)
        return run.done(len(target), -1)

    def _make_inline(self, data: bytes, attributes: Attributes) -> bool:
        """Make a file that lies in its inode, in one step; False where it may not."""
        if len(data) > self.staging.options.inline_bytes:
            return False
        landing = self.staging.landing
        layout = landing.layout(os.path.dirname(self.relative))
        inode = Inode(os.urandom(16), "inline", layout, data)

        def prepare(fd: int) -> None:
            if (attributes.uid, attributes.gid) != (-1, -1):
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, attributes.uid, attributes.gid)
            os.fchmod(fd, attributes.mode & 0o777)
            os.utime(fd, ns=(attributes.atime_ns, attributes.mtime_ns))

        made = write_inode(landing.store, inode, self.path, refuse_existing=True, sync=False, prepare=prepare)
        if made:
            remote = self._remote()
            proof = "etag" if remote.crc64 is None else "crc64nvme"
            record_base(self._final, remote, inode.file_id, proof=proof, durable=False)
        return made

    def _fill(self, place: Place, data: bytes) -> None:
        """Give a stub all its bytes."""
        try:
            with Residency.of(place, options=self.staging.options) as residency:
                residency.keep(0, np.frombuffer(data, np.uint8))
        except NamespaceError:  # it was killed between promotion and renaming
            if state_of(place).is_stub:
                raise


def stage_name(bucket: str, info: ObjectInfo) -> str:
    """Return the hidden name of an object while it is fetched: what two versions do not share, and two keys do not."""
    key = hashlib.blake2b(json.dumps([bucket, info.key]).encode(), digest_size=12).hexdigest()
    version = hashlib.blake2b(json.dumps([info.etag, info.size, info.version]).encode(), digest_size=12).hexdigest()
    return f"{STAGED}{key}-{version}"


def _number(crc: int | None) -> int:
    return -1 if crc is None else crc


def _changed(bucket: str, before: ObjectInfo, now: ObjectInfo) -> StaleError:
    return StaleError(
        f"s3://{bucket}/{before.key} changed since it was listed: its ETag was {before.etag} and is {now.etag}; run it again"
    )


def _load_all(place: Place, run: _Run, signed: Signed | None = None) -> None:
    """Fetch all stripes of a stub, on one rank."""
    try:
        residency = Residency.of(place, options=run.options, opener=run.opener(signed))
    except NamespaceError:
        if state_of(place).is_stub:
            raise
        return  # whole already
    with residency:
        _load(residency, 0, residency.stripes, run)


def _load(residency: Residency, first: int, last: int, run: _Run) -> None:
    before = residency.fetched_bytes
    residency.load(residency.missing(first, last))
    if not residency.keeps:
        if not os.path.lexists(residency.path):
            raise FileNotFoundError(errno.ENOENT, "another run removed or renamed it", residency.path)
        raise OSError(errno.ENOSPC, "what is fetched cannot be kept (no right to write, or no room)", residency.path)
    run.events.advance(bytes=residency.fetched_bytes - before)


def _promote(place: Place, synced: Any, checksum: int, *, durable: bool, opener: _Opener | None = None) -> None:
    for attempt in range(_LOOKS):
        try:
            if promote(place, durable=durable, synced=synced, crc64=None if checksum < 0 else checksum):
                return
            with Residency.of(place, opener=opener) as residency:
                residency.load(residency.missing())
            synced = None
        except BlockingIOError:  # a reader that promotes it, or another run: it is over in a moment
            if attempt == _LOOKS - 1:
                raise
            _wait(attempt)
        except NamespaceError:  # another made it whole
            if state_of(place).is_stub:
                raise
    raise BlockingIOError(errno.EBUSY, "the file changes all the time, or another process has it open", place.path)


def _looking_again(work: Callable[[], None]) -> None:
    """Do something with names that another run may take or make at any time; then look again."""
    for attempt in range(_LOOKS_AGAIN):
        try:
            return work()
        except (FileNotFoundError, FileExistsError):
            if attempt == _LOOKS_AGAIN - 1:
                raise
            _wait(attempt)
    return None


def _wait(attempt: int) -> None:
    least, most = _WAIT_S
    time.sleep(min(most, least * 2**attempt) * random.uniform(0.5, 1.0))


# --- all files --------------------------------------------------------------------------------------------------------


class _Run:
    """Fetches many files, on one rank of those that do it together."""

    def __init__(self, team: Team, events: Events, options: Options, verify: str, holder: Holder) -> None:
        self.team, self.events, self.options, self.verify, self.holder = team, events, options, verify, holder
        self._unproven = 0
        self._retries: dict[Client, int] = {}
        self._asked: set[tuple[Client, str]] = set()
        self._begun = time.monotonic(), time.process_time()

    # --- together -----------------------------------------------------------------------------------------------------

    def together(self, work: Callable[[], object]) -> None:
        """Collective. Do something on every rank; an error on one is the error of all."""
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        self.team.agree(error)

    def first(self, work: Callable[[], object]) -> None:
        """Collective. Do something on the first rank only."""
        self.together(work if self.team.rank == 0 else _nothing)

    def tell(self, value: Any) -> Any:
        """Collective. Give every rank what the first has."""
        return tell_json(self.team, value) if self.team.size > 1 else value

    def done(self, size: int, checksum: int) -> None:
        """Count a file."""
        self.events.advance(files=1)
        if checksum >= 0:
            self.events.verified()
        else:
            self._unproven += 1

    def uses(self, client: Client) -> None:
        """Count a client's retries from now on."""
        self._retries.setdefault(client, client.counters.retries)

    def finish(self) -> Summary:
        """Collective. Say what was not proven; return the summary of all ranks."""
        wall, cpu = time.monotonic() - self._begun[0], time.process_time() - self._begun[1]
        self.events.retried(sum(client.counters.retries - before for client, before in self._retries.items()))
        self.events.spent("cpu", min(cpu, wall))
        self.events.spent("network", max(0.0, wall - cpu))
        unproven = int(np.concatenate(self.team.allgather(np.array([self._unproven], np.int64))).sum())
        if unproven and self.team.rank == 0 and self.verify == "full":
            self.events.note(
                f"of {unproven} objects the bucket has no checksum of the whole (none, or one of the parts): "
                "each range was fetched under their ETag, and their length was compared"
            )
        return self.events.finish().of_all(self.team)

    # --- for ranks without credentials --------------------------------------------------------------------------------

    def sign(self, place: Place) -> Signed | None:
        """Sign fetching a stub's bytes; None: it is none any more."""
        state = state_of(place)
        if not state.is_stub or state.base is None:
            return None
        remote = state.base.remote
        client = Client.of(endpoint_for(place.store, remote))
        self.uses(client)
        if (client, remote.bucket) not in self._asked:  # in which region it is must be known before anything is signed
            client.head(remote.bucket, remote.key)
            self._asked.add((client, remote.bucket))
        return client.sign_get(remote, seconds=SIGNED_S)

    def opener(self, signed: Signed | None) -> _Opener | None:
        """Return what opens a stub's bytes by a signed URL; None: by credentials."""
        if signed is None:
            return None

        def open_signed(remote: Remote, store: Store) -> ObjectSource:
            client = self.holder.client(endpoint_for(store, remote))
            self.uses(client)
            return ObjectSource(remote, client, signed)

        return open_signed

    def _signed(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Collective. Let the first rank sign small files for the others; return those that are to be fetched."""
        told: list[list[Any] | None] = []

        def sign(job: _Job) -> list[Any] | None:
            try:
                return job.sign(self)
            except (Error, OSError) as error:
                self.events.failed(job.path, error)
                return None

        def sign_all() -> None:
            with ThreadPoolExecutor(THREADS, "pinstripe-sign") as pool:
                told.extend(pool.map(sign, jobs))

        self.first(sign_all)
        kept = [(job, values) for job, values in zip(jobs, self.tell(told), strict=True) if values is not None]
        for job, values in kept if self.holder.is_guest else ():
            job.take(values)
        return [job for job, _ in kept]

    # --- fetching -----------------------------------------------------------------------------------------------------

    def fetch(self, jobs: Sequence[_Job], store: Store | None) -> None:
        """Collective. Fetch all of them, durably in the end."""
        if not jobs or store is None:
            return
        size = self.team.size
        self.events.phase("fetch", files=-(-len(jobs) // size), bytes=sum(job.size for job in jobs) // size)
        # What is small needs one request, which can be signed.
        least = min(LARGE_BYTES, WHOLE_BYTES + 1) if self.holder.signs else LARGE_BYTES
        large = sorted((job for job in jobs if job.size >= least), key=lambda job: (-job.size, job.path))
        small = sorted((job for job in jobs if job.size < least), key=lambda job: (-job.size, job.path))
        for begin in range(0, len(large), _WAVE_FILES):
            _Wave(self, large[begin : begin + _WAVE_FILES], store).run()
        if self.holder.signs:
            for wave in waves(small, lambda job: job.size, size):
                self._share(self._signed(wave), store)
        else:
            self._share(small, store)
        if self.options.durable:
            self.together(lambda: _sync(store))

    def _share(self, small: Sequence[_Job], store: Store) -> None:
        """Collective. Fetch small files as ranks are free."""
        batch = max(1, min(BATCH, len(small) // (4 * self.team.size)))
        with WorkQueue(store, self.team, -(-len(small) // batch)) as queue:
            work_through(
                queue,
                lambda number: self._whole(small[number * batch : (number + 1) * batch]),
                min(THREADS, max(1, len(small))),
            )

    def _whole(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            try:
                job.whole(self)
            except (Error, OSError) as error:
                self.events.failed(job.path, error)


class _Wave:
    """Some large files that all ranks fetch together."""

    def __init__(self, run: _Run, jobs: Sequence[_Job], store: Store) -> None:
        self.run_, self.jobs, self.store, self.team = run, jobs, store, run.team
        self._open: dict[int, Residency | None] = {}
        self._errors: dict[int, BaseException] = {}
        self._signed: dict[int, Signed] = {}
        self._sources: dict[int, ObjectSource] = {}
        self._signs = run.holder.signs

    def run(self) -> None:
        """Collective."""
        checksums = self._prepare()
        try:
            units = self._units([number for number, (state, _) in enumerate(checksums) if state == _GO])
            for some in waves(units, lambda unit: unit[2] - unit[1], self.team.size) if self._signs else [units]:
                if self._signs:
                    self._sign(sorted({number for number, _, _ in some}))
                with WorkQueue(self.store, self.team, len(some)) as queue:
                    for unit in queue:
                        self._load(*some[unit])
            self._finish(checksums)
        finally:
            for residency in self._open.values():
                if residency is not None:
                    residency.close()

    def _prepare(self) -> list[tuple[int, int]]:
        """Collective. Each rank that has credentials prepares some; all know what is to be fetched and which checksum it must have."""
        mine = np.zeros(len(self.jobs), _PREPARED)
        error: BaseException | None = None

        def prepare(number: int) -> None:
            try:
                checksum = self._prepared(self.jobs[number])
                mine[number] = (_DONE, 0, 0) if checksum is None else (_GO, max(checksum, 0), checksum >= 0)
            except (Error, OSError) as failed:
                self.run_.events.failed(self.jobs[number].path, failed)
                mine[number] = (_DONE, 0, 0)

        holders = 1 if self._signs else self.team.size
        numbers = range(self.team.rank, len(self.jobs), holders) if self.team.rank < holders else range(0)
        try:
            if self._signs:
                with ThreadPoolExecutor(THREADS, "pinstripe-prepare") as pool:
                    list(pool.map(prepare, numbers))
            else:
                for number in numbers:
                    prepare(number)
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        self.team.agree(error)
        every = np.stack(self.team.allgather(mine))
        chosen = every[np.arange(len(self.jobs)) % holders, np.arange(len(self.jobs))]
        return [(int(one["state"]), int(one["crc"]) if one["known"] else -1) for one in chosen]

    def _prepared(self, job: _Job) -> int | None:
        found: list[int | None] = []
        _looking_again(lambda: found.append(job.prepare(self.run_)))
        return found[0]

    def _sign(self, numbers: list[int]) -> None:
        """Collective. Let the first rank sign fetching files anew; what it cannot sign fails there."""
        told: list[list[Any]] = []

        def sign() -> None:
            for number in numbers:
                try:
                    signed = self.run_.sign(self.jobs[number].place())
                    if signed is not None:
                        told.append([number, *to_values(signed)])
                except (Error, OSError) as error:
                    self._errors[number] = error

        self.run_.first(sign)
        self._signed = {number: Signed(*values) for number, *values in self.run_.tell(told)}
        for number, source in self._sources.items():
            source.signed = self._signed.get(number, source.signed)

    def _open_signed(self, number: int, remote: Remote, store: Store) -> ObjectSource:
        client = self.run_.holder.client(endpoint_for(store, remote))
        self.run_.uses(client)
        source = self._sources[number] = ObjectSource(remote, client, self._signed[number])
        return source

    def _units(self, numbers: list[int]) -> list[tuple[int, int, int]]:
        """Cut files in ranges of about as many bytes: file, first and last byte."""
        total = sum(self.jobs[number].size for number in numbers)
        least, most = _UNIT_BYTES
        unit = min(most, max(least, total // (_UNITS_A_RANK * self.team.size)))
        unit = 1 << (unit.bit_length() - 1)  # a power of two, as stripes are: no stripe is in two units
        return [
            (number, begin, min(begin + unit, self.jobs[number].size))
            for number in numbers
            for begin in range(0, self.jobs[number].size, unit)
        ]

    def _load(self, number: int, begin: int, end: int) -> None:
        if number in self._errors or (self._signs and number not in self._signed):
            return
        try:
            _looking_again(lambda: self._open_residency(number))
            residency = self._open[number]
            if residency is not None:
                stripe = residency.layout.stripe_bytes
                _load(residency, -(-begin // stripe), -(-end // stripe), self.run_)
        except FileNotFoundError:
            pass  # another run gave it its name, or did not: that is found out when it is to be completed
        except (Error, OSError) as error:
            self._errors[number] = error

    def _open_residency(self, number: int) -> None:
        """Open what this rank fetches of a file; None: it is whole already."""
        if number not in self._open:
            place = self.jobs[number].place()
            try:
                opener = functools.partial(self._open_signed, number) if self.run_.holder.is_guest else None
                self._open[number] = Residency.of(
                    place, options=self.run_.options, rank=self.team.rank, ranks=self.team.size, opener=opener
                )
            except NamespaceError:
                if state_of(place).is_stub:
                    raise
                self._open[number] = None

    def _finish(self, checksums: list[tuple[int, int]]) -> None:
        """Collective. Prove the files and give them their names, each by one rank."""
        durable = self.run_.options.durable
        synced: list[Any] = []

        def sync() -> None:
            for number in range(len(self.jobs)):
                residency, entries = self._open.get(number), np.zeros(0, SEGMENT_ENTRY)
                if residency is not None and number not in self._errors:
                    try:
                        entries = residency.sync() if durable else entries
                    except (Error, OSError) as error:
                        self._errors[number] = error
                synced.append(entries)

        self.run_.together(sync)
        failed = np.zeros(len(self.jobs), np.bool_)
        failed[list(self._errors)] = True
        every = np.stack(self.team.allgather(failed))
        error: BaseException | None = None
        for number, (job, (state, checksum)) in enumerate(zip(self.jobs, checksums, strict=True)):
            if state != _GO:
                continue
            if every[:, number].any():
                if int(np.argmax(every[:, number])) == self.team.rank:
                    self.run_.events.failed(job.path, self._errors[number])
                continue
            root = 0 if self._signs else number % self.team.size
            parts = self.team.gather(synced[number], root)
            if parts is None or error is not None:
                continue
            try:
                job.complete(self.run_, np.concatenate(parts), checksum, durable=durable)
            except (Error, OSError) as raised:
                self.run_.events.failed(job.path, raised)
            except BaseException as raised:  # an interrupt: the others wait in agree
                error = raised
        self.team.agree(error)


_GO, _DONE = 1, 2
_PREPARED = np.dtype([("state", "<i8"), ("crc", "<u8"), ("known", "<i8")])


class _StageIn:
    """One stage-in."""

    def __init__(
        self,
        run: _Run,
        url: str,
        directory: AnyPath,
        chosen: Filter,
        overwrite: bool,
        endpoint: Endpoint,
        defaults: Defaults,
    ) -> None:
        self.run_, self.overwrite, self.endpoint, self.defaults = run, overwrite, endpoint, defaults
        self.options, self.verify = run.options, run.verify
        self.bucket, self.key = split_url(url)
        self.prefix = ""
        self._directory, self._chosen = directory, chosen
        self.client: Client
        self.landing: Landing
        self._left: dict[str, list[str]] = {}

    def left_in(self, directory: str) -> list[str]:
        """Return the hidden names that earlier runs left in a directory."""
        if directory not in self._left:
            self._left[directory] = [name for name in os.listdir(directory) if name.startswith(STAGED)]
        return self._left[directory]

    def run(self, dry_run: bool) -> Summary:
        """Collective."""
        run, events, team = self.run_, self.run_.events, self.run_.team
        events.phase("list")
        listed: list[ObjectInfo] = []
        stores: list[Store] = []

        run.together(lambda: run.holder.check(self.endpoint))

        def begin() -> None:
            self.client = run.holder.client(self.endpoint)
            run.uses(self.client)
            store = Store.find(self._directory)
            store.check_writable()
            stores.append(store)
            if team.rank == 0:
                capabilities_of(self.client, self.bucket, may_write=False, store=store)

        def list_() -> None:
            if not run.holder.is_guest:
                lists = SERIAL if run.holder.signs else team
                found, self.prefix = list_source(
                    self.client, self.bucket, self.key, team=lists, store=stores[0], events=events
                )
                listed.extend(found)

        run.together(begin)  # all that can fail on one rank, before listing, which is collective itself
        run.together(list_)
        self.prefix = run.tell(self.prefix)
        objects: list[ObjectInfo] = []
        made: list[tuple[str, ObjectInfo]] = []

        def prepare() -> None:
            if not listed:
                raise FileNotFoundError(errno.ENOENT, "nothing lies there", f"s3://{self.bucket}/{self.key}")
            root = os.path.abspath(os.fsdecode(self._directory))
            found = choose(listed, self.prefix, root, self._chosen, events)
            objects.extend(one for one in found if not one.key.endswith("/"))
            markers = [one for one in found if one.key.endswith("/")]
            if dry_run:
                for one in objects:
                    events.planned("stage in", f"{root}/{path_of(one.key, self.prefix)}", one.size)
                return
            if not os.path.isdir(self._directory):
                namespace.makedirs(self._directory, exist_ok=True)
            self.landing = Landing(self._directory, self.defaults)
            made.extend(make_directories(self.landing, self.prefix, objects, markers, events))

        run.first(prepare)
        if dry_run:
            return run.finish()
        told = run.tell([values_of(one) for one in objects])

        def land() -> None:
            if team.rank:
                self.landing = Landing(self._directory, self.defaults)

        run.together(land)
        jobs = [_Stage(self, ObjectInfo(*values)) for values in told]
        run.fetch(jobs, self.landing.store)
        run.first(lambda: finish_directories(self.client, self.bucket, self.landing, made, self.defaults, events))
        return run.finish()


def _sync(store: Store) -> None:
    from ..store.filesystem import sync_filesystem

    paths = [store.root, *(target.path for target in store.targets)]
    for path in {os.stat(path).st_dev: path for path in paths}.values():
        sync_filesystem(path)


def _nothing() -> None:
    pass
