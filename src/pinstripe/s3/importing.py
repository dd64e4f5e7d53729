"""Importing: what lies in a bucket gets names in a store. Stubs, directories and symlinks; no data is fetched.

One pass over a prefix: list, compare each object with the name that it has here, do what `pinstripe.s3.conflicts` says. Nothing that was
changed here is ever replaced. The first rank lists and makes directories; objects are shared by all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import ArgumentError, ConflictError, Error, RemoteError
from ..format.remote import Endpoint, Remote
from ..store import namespace
from ..store.place import AnyPath, Place, check_symlink
from ..store.state import FileState, content_crc, record_base, set_flags, state_of
from ..store.store import META, Store
from ..store.stub import make_stub, remove_if, renew_stub
from ..store.team import SERIAL, Team
from ..store.telling import gather_json, tell_json
from ..store.work_queue import WorkQueue, work_through
from .client import Client
from .completion import Manifest, Staged, read_last
from .conflicts import Action, LocalState, Policy, RemoteState, decide
from .events import Events, Summary
from .filters import Filter
from .landing import Landing, give_attributes, parents
from .links import Link
from .listing import list_objects
from .metadata import Attributes, Defaults, Origin, from_metadata, symlink_problem
from .names import error_code, is_reserved, key_problem, path_of, prefix_of, shadowed, split_url
from .objects import ObjectInfo
from .probe import capabilities_of
from .reports import Line

__all__ = [
    "LOST_FOUND",
    "Here",
    "choose",
    "described",
    "finish_directories",
    "import_link",
    "import_objects",
    "is_described",
    "list_source",
    "look",
    "make_directories",
    "make_link",
    "origin_of",
    "report_lines",
    "values_of",
]

THREADS = 8
BATCH = 32
LOST_FOUND = "lost+found"
_SECOND_NS = 10**9
_NO_TIME = 1


def import_link(
    store: Store,
    link: Link,
    *,
    team: Team = SERIAL,
    events: Events | None = None,
    dry_run: bool = False,
    attributes: bool = True,
) -> Summary:
    """Collective. Import what a link's policy carries over; see `import_objects`."""
    return import_objects(
        link, team=team, events=events, dry_run=dry_run, attributes=attributes, policy=_import_policy(store, link)
    )


def _import_policy(store: Store, link: Link) -> Policy:
    return dataclasses.replace(link.policy, export=())


def import_objects(
    source: Link | str,
    directory: AnyPath = "",
    *,
    below: str = "",
    endpoint: Endpoint | None = None,
    policy: Policy | None = None,
    defaults: Defaults | None = None,
    attributes: bool = True,
    chosen: Filter | None = None,
    known: Mapping[str, str] | None = None,
    team: Team = SERIAL,
    events: Events | None = None,
    dry_run: bool = False,
) -> Summary:
    """Collective. Make names for objects, and bring those up to date that are there; fetch nothing.

    Parameters
    ----------
    source : Link or str
        A link, or ``s3://bucket/prefix``.
    directory : path
        Where the names go; made if it is missing. A link has its own.
    below : str
        Only what lies below this path, relative to the directory; "" = all.
    endpoint, defaults
        A link has its own.
    policy : Policy, optional
        What is carried over; else new and changed objects. A link's own, if it is None and `source` is a link.
    attributes : bool
        Ask each new or changed object for owner, mode and times: one request each. Without it they get the defaults, and symlinks are
        taken for files.
    chosen : Filter, optional
        Which relative paths are meant.
    known : mapping, optional
        Relative paths that were here once, directories with a slash behind, and the ETag of the object that each was then. What of them is gone
        now was removed here: it comes back only if its object is another, and changes are imported.

    Returns
    -------
    Summary
        Of all ranks. Exit code 3 where a file was changed here and its object there: the file is kept and marked.

    Raises
    ------
    RemoteError
        The bucket cannot be listed; nothing was done.
    """
    events = events or Events()
    error: BaseException | None = None
    run: _Import | None = None
    try:
        run = _Import(
            source, directory, below, endpoint, policy, defaults, attributes, chosen, known, team, events, dry_run
        )
    except BaseException as raised:  # an interrupt too: the others wait in agree
        error = raised
    team.agree(error)
    assert run is not None
    run.run()
    return events.finish().of_all(team)


def report_lines(events: Events, root: str, team: Team = SERIAL) -> list[Line]:
    """Collective. Return what failed on any rank as lines of a report, paths relative to `root`; the first rank gets them."""
    mine = [
        Line(failure.path.removeprefix(f"{root}/"), "failed", failure.error_code or "InternalError")
        for failure in events.failures
    ]
    told = gather_json(team, [dataclasses.astuple(line) for line in mine])
    return (
        [] if told is None else [Line(*values) for values in sorted(tuple(values) for part in told for values in part)]
    )


# --- what is here ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Here:
    """What a name is now.

    Attributes
    ----------
    kind : str
        ``absent``, ``file``, ``directory`` or ``symlink``.
    state : FileState or None
        Of a file.
    """

    kind: str
    state: FileState | None = None

    def local(self, bucket: str, key: str) -> LocalState:
        """Return it as the table of conflicts has it, for the object that it is tied to: another's file, moved or linked here, is new."""
        state = self.state
        if state is None:
            return LocalState("absent" if self.kind == "absent" else "new")
        if state.base is None or (state.base.remote.bucket, state.base.remote.key) != (bucket, key):
            return LocalState("new", noexport=state.noexport)
        flags = {"noexport": state.noexport, "norelease": state.norelease}
        if not state.archived:
            return LocalState("dirty", **flags)
        proven = not state.is_stub and state.base.proof != "size"
        return LocalState("clean", resident=not state.is_stub, archived=proven, **flags)

    def holds(self, remote: Remote) -> bool:
        """Tell whether it is a file whose content is known to be just this version."""
        state = self.state
        return (
            state is not None
            and state.archived
            and state.base is not None
            and state.base.remote.is_same_version(remote)
        )


def look(place: Place) -> Here:
    """Find out what a name is.

    Raises
    ------
    NamespaceError
        A file that is none of the store's.
    DamageError
    """
    try:
        mode = os.lstat(place.path).st_mode
    except FileNotFoundError:
        return Here("absent")
    if stat.S_ISDIR(mode):
        return Here("directory")
    if stat.S_ISLNK(mode):
        return Here("symlink")
    return Here("file", state_of(place))


def origin_of(store: Store, place: Place, state: FileState) -> Origin:
    """Return which generation of which file this is."""
    from ..store.inode_file import read_inode_at

    return Origin(store.id, read_inode_at(place)[0].file_id, state.generation, state.tx)


# --- one import -----------------------------------------------------------------------------------------------------


class _Import:
    """One pass over one prefix, on one rank."""

    def __init__(
        self,
        source: Link | str,
        directory: AnyPath,
        below: str,
        endpoint: Endpoint | None,
        policy: Policy | None,
        defaults: Defaults | None,
        attributes: bool,
        chosen: Filter | None,
        known: Mapping[str, str] | None,
        team: Team,
        events: Events,
        dry_run: bool,
    ) -> None:
        self.known = known or {}
        self.team, self.events, self.dry_run, self.attributes = team, events, dry_run, attributes
        self.chosen = chosen or Filter()
        if isinstance(source, Link):
            self.bucket, self.key, directory = source.bucket, source.prefix, source.directory
            endpoint, defaults = endpoint or source.endpoint, defaults or source.defaults
            policy = policy or dataclasses.replace(source.policy, export=())
        else:
            self.bucket, self.key = split_url(source)
        self.prefix = prefix_of(self.key)
        if not os.fspath(directory):
            raise ArgumentError("say into which directory the objects' names go")
        self.policy = policy or Policy(("new", "changed"), ())
        self.defaults = defaults or Defaults()
        self.endpoint = endpoint or Endpoint()
        self.below = below.strip("/")
        self.client = Client.of(self.endpoint)
        if team.rank == 0 and not dry_run and not os.path.isdir(directory):
            namespace.makedirs(directory, exist_ok=True)
        self._directory = directory
        self.is_whole = not self.below and not self.chosen
        self.landing: Landing | None = None

    def run(self) -> None:
        """Collective."""
        self.events.phase("list")
        before = self.client.counters.retries
        stores: list[Store] = []
        self._together(lambda: stores.append(Store.find(self._directory)))
        store = stores[0]
        listed, self.prefix = list_source(
            self.client, self.bucket, self.key, team=self.team, store=store, events=self.events, below=self.below
        )
        self.prefix = self.team.broadcast(self.prefix.encode()).decode()
        objects: list[ObjectInfo] = []
        directories: list[ObjectInfo] = []
        paths: set[str] = set()

        def prepare() -> None:
            self._open()
            found = choose(listed, self.prefix, self._root(), self.chosen, self.events)
            paths.update(path_of(one.key, self.prefix) for one in found)
            found = [one for one in found if not self._stays_removed(one)]
            objects.extend(one for one in found if not one.key.endswith("/"))
            directories.extend(one for one in found if one.key.endswith("/"))

        self._first(prepare)
        made: list[tuple[str, ObjectInfo]] = []
        if not self.dry_run and "new" in self.policy.import_:
            self._first(
                lambda: made.extend(make_directories(self._landed(), self.prefix, objects, directories, self.events))
            )
        self._together(self._open)
        told = tell_json(self.team, [values_of(one) for one in objects]) if self.team.size > 1 else None
        objects = [ObjectInfo(*values) for values in told] if told is not None else objects
        self.events.phase("import", files=-(-len(objects) // self.team.size))
        with WorkQueue(store, self.team, -(-len(objects) // BATCH)) as queue:
            work_through(
                queue,
                lambda number: self._batch(objects[number * BATCH : (number + 1) * BATCH]),
                self._threads(objects),
            )
        if self.is_whole:
            self._first(lambda: self._delete(paths))
        if made and self.attributes:
            finish_directories(self.client, self.bucket, self._landed(), made, self.defaults, self.events)
        if not self.dry_run:
            self._together(self._sync)
        self.events.retried(self.client.counters.retries - before)

    def _threads(self, objects: list[ObjectInfo]) -> int:
        return THREADS if self.attributes and len(objects) > 1 else 1

    def _first(self, work: Callable[[], object]) -> None:
        """Collective. Do something on the first rank only."""
        self._together(work if self.team.rank == 0 else _nothing)

    def _together(self, work: Callable[[], object]) -> None:
        _agreed(self.team, work)

    def _root(self) -> str:
        return self.landing.root if self.landing is not None else os.path.abspath(os.fsdecode(self._directory))

    def _open(self) -> None:
        if self.landing is None and (not self.dry_run or os.path.isdir(self._directory)):
            self.landing = Landing(self._directory, self.defaults)

    def _landed(self) -> Landing:
        assert self.landing is not None
        return self.landing

    def _sync(self) -> None:
        if self.landing is not None:
            self.landing.sync()

    # --- objects ------------------------------------------------------------------------------------------------------

    def _batch(self, objects: list[ObjectInfo]) -> None:
        for info in objects:
            path = path_of(info.key, self.prefix)
            with self._failing(f"{self._root()}/{path}"):
                self._one(path, info)

    @contextlib.contextmanager
    def _failing(self, path: str) -> Iterator[None]:
        try:
            yield
        except (Error, OSError) as error:
            self.events.failed(path, error)

    def _one(self, path: str, info: ObjectInfo) -> None:
        if self.landing is None or not self.landing.directory(os.path.dirname(path), make=not self.dry_run):
            return self._planned_new(path, info)
        place = self.landing.place(path)
        here = look(place)
        remote = info.remote(self.bucket, self.endpoint)
        if here.kind == "directory":
            self.events.failed(place.path, "a directory has the name", error_code="S3ObjectTypeMismatch")
            return None
        if here.holds(remote):
            return self._same(place, here, info)
        local, was = here.local(self.bucket, info.key), self.known.get(path)
        if here.kind == "symlink" and was is not None:
            if was == info.etag:
                return self.events.skipped(place.path)
            local = _link_state(place, was)
        elif here.kind == "absent" and was is not None:
            local = LocalState("removed")
        elif here.kind == "absent" and "new" not in self.policy.import_:
            return self.events.skipped(place.path)
        attributes, body = self._attributes(info), b""
        if self.attributes or here.kind == "symlink" or here.kind != "absent":
            info = info if is_described(info) else self.client.head(self.bucket, info.key)
            remote = info.remote(self.bucket, self.endpoint)
            attributes = self._attributes(info)
            if attributes.kind == "symlink":
                body = self.client.get(self.bucket, info.key, etag=info.etag)[0]
        action = decide(local, self._remote_state(place, here, info, remote, attributes, body), self.policy)
        return self._act(action, place, path, here, info, remote, attributes, body)

    def _stays_removed(self, info: ObjectInfo) -> bool:
        """Tell whether a name was here, was removed, and does not come back."""
        was = self.known.get(info.key[len(self.prefix) :])
        if was is None or os.path.lexists(f"{self._root()}/{path_of(info.key, self.prefix)}"):
            return False
        return info.key.endswith("/") or was == info.etag or "changed" not in self.policy.import_

    def _planned_new(self, path: str, info: ObjectInfo) -> None:
        """A dry run, and not even the directory is there."""
        if "new" in self.policy.import_:
            self.events.planned("make a stub", f"{self._root()}/{path}", info.size, "a new object")

    def _attributes(self, info: ObjectInfo) -> Attributes:
        return from_metadata(info.metadata, info.key, self.defaults, modified_ns=info.modified_ns)

    def _remote_state(
        self, place: Place, here: Here, info: ObjectInfo, remote: Remote, attributes: Attributes, body: bytes
    ) -> RemoteState:
        if here.kind == "symlink":
            return RemoteState(
                "changed", is_equal=attributes.kind == "symlink" and os.readlink(place.path).encode() == body
            )
        state = here.state
        if state is None:
            return RemoteState("changed")
        if state.base is not None and state.base.remote.is_same_version(remote):
            return RemoteState("same")
        equal = False
        if attributes.kind == "file" and state.size == info.size and info.crc64 is not None:
            equal = content_crc(place)[1] == info.crc64
        origin = Origin.from_metadata(info.metadata)
        older = origin is not None and origin.is_older_of(origin_of(place.store, place, state))
        return RemoteState("changed", is_equal=equal, is_older_of_ours=older)

    def _same(self, place: Place, here: Here, info: ObjectInfo) -> None:
        """The same bytes; but their object may have been written again, with other attributes."""
        base = here.state.base if here.state is not None else None
        assert here.state is not None
        assert base is not None
        known = base.remote.modified_ns
        is_known = not known or known // _SECOND_NS == info.modified_ns // _SECOND_NS
        if not self.attributes or "changed" not in self.policy.import_ or is_known or self.dry_run:
            return self.events.skipped(place.path)
        found = info if is_described(info) else self.client.head(self.bucket, info.key)
        attributes = self._attributes(found)
        if found.etag == info.etag and attributes.kind == "file":
            give_attributes(place, attributes)
            _note_time(place, found.remote(self.bucket, self.endpoint))
            self.events.advance(files=1)
        return None

    def _act(
        self,
        action: Action,
        place: Place,
        path: str,
        here: Here,
        info: ObjectInfo,
        remote: Remote,
        attributes: Attributes,
        body: bytes,
    ) -> None:
        verb = action.verb
        if verb in ("nothing", "skip", "stale") or (verb == "record" and here.state is None):
            return self.events.skipped(place.path, action.reason)
        if verb == "conflict":
            if here.state is not None and not self.dry_run:
                set_flags(place, add=["conflict"])
            return self.events.conflict(place.path, action.reason)
        if not info.available:
            code = "S3SymlinkInUnsupportedTier" if attributes.kind == "symlink" else "S3ObjectInUnsupportedTier"
            text = f"{remote.url} lies in {info.storage_class}: restore it there first"
            return self.events.failed(place.path, text, error_code=code)
        if self.dry_run:
            words = {"stub": "make a stub", "renew": "renew the stub", "record": "note as archived"}
            return self.events.planned(words.get(verb, verb), place.path, info.size, action.reason)
        if verb == "record" and here.state is not None:
            if here.state.is_stub:  # it reads the version that it stands for, not that of its record
                renew_stub(place, remote, here.state, durable=False)
            else:
                record_base(place, remote, here.state.tx)
        elif attributes.kind == "symlink":
            self._link(place, path, here, verb, make_link(body))
            give_attributes(place, attributes)
        elif verb == "renew" and here.state is not None:
            self._renew(place, here.state, remote, attributes)
        else:
            if here.kind != "absent":
                self._set_aside(place) if verb == "take-remote" else self._remove(place, here)
            self._stub(place, path, remote, attributes)
        return self.events.advance(files=1)

    def _stub(self, place: Place, path: str, remote: Remote, attributes: Attributes) -> None:
        assert self.landing is not None
        try:
            make_stub(
                place,
                remote,
                layout=self.landing.layout(os.path.dirname(path)),
                mode=attributes.mode,
                uid=attributes.uid,
                gid=attributes.gid,
                atime_ns=attributes.atime_ns,
                mtime_ns=attributes.mtime_ns,
                durable=False,
            )
        except FileExistsError as error:
            raise ConflictError("a file of this name was made meanwhile", path=place.path) from error

    @staticmethod
    def _renew(place: Place, state: FileState, remote: Remote, attributes: Attributes) -> None:
        """Make a file a stub of another version. Until it has that one's attributes its time is one that no object has: then they are
        given by the next import."""
        renew_stub(place, dataclasses.replace(remote, modified_ns=_NO_TIME), state, durable=False)
        give_attributes(place, attributes)
        _note_time(place, remote)

    def _link(self, place: Place, path: str, here: Here, verb: str, target: str) -> None:
        """Make a symlink in place of what is there; one that may not be made takes nothing along."""
        check_symlink(Place(place.store, place.directory, "", ""), target)
        is_replaced = False
        if here.kind != "absent" and verb == "take-remote":
            self._set_aside(place)
        elif here.kind == "file":
            self._remove(place, here)
        else:
            is_replaced = here.kind == "symlink"
        self._landed().symlink(path, target, replace=is_replaced)

    def _remove(self, place: Place, here: Here) -> None:
        """Remove a name, if it is still what was looked at: what is written meanwhile stays."""
        if here.state is None:
            namespace.remove(place)
        elif not remove_if(place, here.state):
            raise ConflictError("the file changed meanwhile: it stays", path=place.path)

    def _set_aside(self, place: Place) -> None:
        directory = os.path.join(place.store.meta, LOST_FOUND)
        for number in range(1000):
            name = f"{place.name}.{number}" if number else place.name
            aside = Place(place.store, os.path.join(directory, name), directory, name)
            if not os.path.lexists(aside.path):
                namespace.rename(place, aside)
                return
        raise ConflictError(f"too many files of this name in {META}/{LOST_FOUND}", path=place.path)

    # --- what is gone -------------------------------------------------------------------------------------------------

    def _delete(self, paths: set[str]) -> None:
        """See to names whose objects are gone."""
        landing = self.landing
        if landing is None:
            return
        for top, _, names in namespace.walk(landing.root, topdown=False):
            removed = False
            for name in names:
                full = os.path.join(top, name)
                path = full[len(landing.root) + 1 :]
                if path not in paths and is_reserved(path) is False:
                    with self._failing(full):
                        removed |= self._gone(landing.place(path))
            if removed and top != landing.root and top[len(landing.root) + 1 :] not in paths:
                with contextlib.suppress(OSError):  # something else is in it
                    namespace.rmdir(top)

    def _gone(self, place: Place) -> bool:
        """See to one name that was not listed; return whether it was removed."""
        here = look(place)
        if here.kind == "symlink":
            return self._gone_link(place)
        base = here.state.base if here.state is not None else None
        key = self.prefix + place.path[len(self._root()) + 1 :]
        if here.state is None or base is None or (base.remote.bucket, base.remote.key) != (self.bucket, key):
            return False
        action = decide(here.local(self.bucket, key), RemoteState("absent"), self.policy)
        known = here.state.flags
        if action.verb == "nothing" or (action.verb == "lose" and "lost" in known):
            return False
        if action.verb == "detach" and "noexport" in known:
            return False
        try:  # it may have been made after it was listed
            self.client.head(self.bucket, key)
            return False
        except RemoteError as error:
            if error.status != 404:
                raise
        if action.verb == "conflict":
            if not self.dry_run:
                set_flags(place, add=["conflict"])
            self.events.conflict(place.path, action.reason)
            return False
        if self.dry_run:
            self.events.planned(action.verb, place.path, 0, action.reason)
            return False
        if action.verb == "remove":
            self._remove(place, here)
        elif action.verb in ("lose", "detach"):
            set_flags(place, add=["lost" if action.verb == "lose" else "noexport"])
            self.events.note(f"{place.path}: {action.reason}")
        self.events.advance(files=1)
        return action.verb == "remove"

    def _gone_link(self, place: Place) -> bool:
        """See to a symlink that was not listed; only what a caller knows of it tells that there was an object."""
        path = place.path[len(self._root()) + 1 :]
        was = self.known.get(path)
        if was is None:
            return False
        action = decide(_link_state(place, was), RemoteState("absent"), self.policy)
        if action.verb == "conflict":
            self.events.conflict(place.path, action.reason)
        if action.verb != "remove":
            return False
        if self.dry_run:
            self.events.planned(action.verb, place.path, 0, action.reason)
            return False
        namespace.remove(place)
        self.events.advance(files=1)
        return True


def choose(listed: list[ObjectInfo], prefix: str, root: str, chosen: Filter, events: Events) -> list[ObjectInfo]:
    """Leave out of a sorted list what cannot be a path, which is told, and what is not meant; pinstripe's own keys are not told."""
    problems = shadowed((one.key for one in listed), prefix)
    root_bytes = len(os.fsencode(root))
    kept: list[ObjectInfo] = []
    for one in listed:
        rest = one.key[len(prefix) :]
        if not rest or is_reserved(rest):
            continue
        problem = problems.get(one.key) or key_problem(one.key, prefix, root_bytes=root_bytes)
        if problem is not None:
            events.failed(one.key, problem, error_code=error_code(problem))
        elif chosen(rest.removesuffix("/")):
            kept.append(one)
    return kept


def make_directories(
    landing: Landing, prefix: str, objects: list[ObjectInfo], markers: list[ObjectInfo], events: Events
) -> list[tuple[str, ObjectInfo]]:
    """Make the directories that objects need, or that have an object of their own; return those of the latter that were not there."""
    of = {path_of(one.key, prefix): one for one in markers}
    made: list[tuple[str, ObjectInfo]] = []
    for path in parents([path_of(one.key, prefix) for one in objects] + [f"{path}/" for path in of if path]):
        try:
            was_there = os.path.isdir(landing.place(path).path)
            landing.directory(path)
        except (Error, OSError) as error:
            if path in of:
                events.failed(of[path].key, error)
            continue
        if not was_there and path in of:
            made.append((path, of[path]))
            events.advance(files=1)
    return made


def finish_directories(
    client: Client,
    bucket: str,
    landing: Landing,
    made: list[tuple[str, ObjectInfo]],
    defaults: Defaults,
    events: Events,
) -> None:
    """Give directories what their objects state, when all is in them that comes into them."""

    def ask(one: tuple[str, ObjectInfo]) -> tuple[str, Attributes] | None:
        path, info = one
        try:
            found = info if is_described(info) else client.head(bucket, info.key)
            return path, from_metadata(found.metadata, info.key, defaults, modified_ns=found.modified_ns)
        except (Error, OSError) as error:
            events.failed(f"{landing.root}/{path}", error)
            return None

    with ThreadPoolExecutor(THREADS, "pinstripe-head") as pool:
        known = [found for found in pool.map(ask, made) if found is not None]
    for path, attributes in sorted(known, key=lambda one: one[0], reverse=True):
        try:
            give_attributes(landing.place(path), attributes)
        except (Error, OSError) as error:
            events.failed(f"{landing.root}/{path}", error)


def list_source(
    client: Client, bucket: str, key: str, *, team: Team, store: Store | None, events: Events, below: str = ""
) -> tuple[list[ObjectInfo], str]:
    """Collective. List what lies under a key, or, if nothing does, find the one object that it is.

    Returns
    -------
    list of ObjectInfo
        On the first rank; empty on others.
    str
        The prefix that becomes the directory.
    """
    prefix = prefix_of(key)
    _agreed(
        team,
        lambda: capabilities_of(client, bucket, may_write=False, store=store) if team.rank == 0 else None,
    )
    with events.spending("listing"):  # collective itself: an error before it must be every rank's
        listed = list_objects(
            client, bucket, prefix + (f"{below}/" if below else ""), team=team, store=store, events=events
        )
    found = [(listed, prefix)]

    def look_closer() -> None:
        if team.rank:
            return
        if any(one.key.startswith(f"{prefix}{META}/") for one in listed):
            with events.spending("listing"):
                found[0] = described(listed, prefix, read_last(client, bucket, prefix)), prefix
        if found[0][0] or below or not key or key.endswith("/"):
            return
        try:
            found[0] = [client.head(bucket, key)], key[: key.rfind("/") + 1]
        except RemoteError as error:
            if error.status != 404:
                raise

    _agreed(team, look_closer)
    return found[0]


def described(listed: list[ObjectInfo], prefix: str, manifest: Manifest | None) -> list[ObjectInfo]:
    """Give objects what the manifest of a stage-out says of that very version: then no object need be asked. Pure.

    Directories that have no object of their own come in addition, with their attributes.
    """
    if manifest is None:
        return listed
    known = {one.key: one for one in manifest.objects if one.key}
    out: list[ObjectInfo] = []
    for info in listed:
        said = known.get(info.key)
        if said is not None and (said.etag in ("", info.etag) if said.kind == "directory" else said.etag == info.etag):
            crc = int(said.crc64nvme, 16) if said.crc64nvme and said.kind == "file" else None
            info = dataclasses.replace(info, metadata=_metadata(said), crc64=crc)
        out.append(info)
    keys = {info.key for info in listed}
    for said in manifest.objects:
        key = f"{prefix}{said.path}/"
        if said.kind == "directory" and not said.key and said.path and key not in keys:
            out.append(ObjectInfo(key, 0, "", said.mtime_ns, metadata=_metadata(said)))
    return sorted(out, key=lambda info: info.key)


def is_described(info: ObjectInfo) -> bool:
    """Tell whether the object's attributes are known without asking it."""
    return "file-permissions" in info.metadata


def _metadata(said: Staged) -> dict[str, str]:
    kind = {"directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}.get(said.kind, stat.S_IFREG)
    return {
        "file-permissions": f"{kind | said.mode:07o}",
        "file-owner": str(said.uid),
        "file-group": str(said.gid),
        "file-mtime": f"{said.mtime_ns}ns",
    }


def _link_state(place: Place, etag: str) -> LocalState:
    """Tell whether a symlink still leads where the object of this ETag says; its body is so short that the ETag is its MD5."""
    target = os.fsencode(os.readlink(place.path))
    is_same = hashlib.md5(target, usedforsecurity=False).hexdigest() == etag
    return LocalState("clean" if is_same else "dirty")


def make_link(body: bytes) -> str:
    """Return the target that a symlink's object holds.

    Raises
    ------
    ArgumentError
        It can be none.
    """
    problem = symlink_problem(body)
    if problem is not None:
        raise ArgumentError(problem)
    return os.fsdecode(body)


def values_of(info: ObjectInfo) -> list[Any]:
    """Return an object's description for JSON; ``ObjectInfo(*values)`` is it again."""
    storage: tuple[Any, ...] = (info.storage_class, info.metadata, info.content_type, info.available)
    return [info.key, info.size, info.etag, info.modified_ns, info.version, info.crc64, info.checksum_type, *storage]


def _note_time(place: Place, remote: Remote) -> None:
    """Write down that a file has the attributes of its object as it is now; in the stub itself, whose remote a promotion keeps."""
    state = state_of(place)
    if state.base is None or not state.archived or not state.base.remote.is_same_version(remote):
        return  # it changed meanwhile
    if state.is_stub and state.base.remote.modified_ns == _NO_TIME:
        with contextlib.suppress(ConflictError, BlockingIOError):  # it is being read: the next import does it
            renew_stub(place, remote, state, durable=False)
        return
    record_base(place, remote, state.tx, proof=state.base.proof, durable=False)


def _agreed(team: Team, work: Callable[[], object]) -> None:
    """Collective. Do this rank's work, in which there is nothing collective; an error of one rank is raised on all."""
    error: BaseException | None = None
    try:
        work()
    except BaseException as raised:  # an interrupt too: the others wait in agree
        error = raised
    team.agree(error)


def _nothing() -> None:
    pass
