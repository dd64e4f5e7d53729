"""Syncing: one round that brings linked directories and their buckets in step, both ways, as each link's policy says.

Of one link, in this order: what is new, changed or gone there is imported; what is new or was changed here, and has rested for a while, is
exported; what was removed here is removed there, unless a file under another name still needs it; files are released if the targets are full.
What one link's bucket refuses holds no other link up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat as stat_module
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from ..errors import ArgumentError, ConditionError, Error, NamespaceError, RemoteError
from ..options import Options
from ..store import namespace
from ..store.collect import collect
from ..store.inode_file import read_inode_at
from ..store.place import AnyPath, Place, locate
from ..store.state import FileState, set_flags, state_of
from ..store.store import Store, is_store
from .agent_lock import AgentLock
from .client import Client
from .conflicts import LocalState, Policy, RemoteState, decide
from .events import Events, Summary
from .export_plan import DEFAULT_DIRECTORY_MODE
from .exporting import export
from .importing import LOST_FOUND, import_objects
from .known import NOEXPORT, Known, forget_ended
from .landing import parents
from .links import Link, link_of, links
from .names import path_problem
from .objects import ObjectInfo
from .probe import capabilities_of
from .releasing import evict
from .sending import is_passing

__all__ = ["LinkSync", "Step", "links_at", "sync"]

_THREADS = 8
_TICK_NS = 2 * 10**9
_EXPORT_WINS = ("overwrite", "keep-both")


def sync(path: AnyPath, *, dry_run: bool = False, events: Events | None = None) -> Summary:
    """Do one round for the links of a store, for those below a directory, or for the one that a path lies in.

    Parameters
    ----------
    path : path
        A store's own directory, or one in it. Of a link always the whole is meant.
    dry_run : bool
        Tell what would be done.

    Returns
    -------
    Summary
        Exit code 3 where a name is in conflict: both sides stay as they are.

    Raises
    ------
    ArgumentError
        Nothing there is linked.
    ConflictError
        An agent, or another round, is at work in this store.
    """
    events = events or Events()
    place = locate(path)
    chosen = links_at(place.store, place.path)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(AgentLock(place.store))
            forget_ended(place.store)
        pending = {link.id: Known.read(link).pending_bytes for link in links(place.store)}
        for link in chosen:
            others = sum(size for id, size in pending.items() if id != link.id)
            step = LinkSync(link).round(events, dry_run=dry_run, pending_bytes=others)
            pending[link.id] = step.pending_bytes
    return events.finish()


def links_at(store: Store, path: str) -> list[Link]:
    """Return the links that a real absolute path stands for: the one that it lies in, else those that lie in it.

    Raises
    ------
    ArgumentError
        There is none.
    """
    above = link_of(store, path)
    if above is not None:
        return [above]
    inside = [one for one in links(store) if path == store.root or one.directory.startswith(f"{path}/")]
    if not inside:
        raise ArgumentError(f"{path} is not linked, nor is anything in it: `pinstripe link DIRECTORY s3://...`")
    return inside


@dataclasses.dataclass(slots=True)
class Step:
    """What a round did for one link.

    Attributes
    ----------
    deleted, imported, exported, released : int
        Objects deleted; names made, renewed and removed here; files uploaded; files released.
    exported_bytes, released_bytes : int
    conflicts, failed : int
    dirty_files, dirty_bytes : int
        What is not in the bucket yet when the round ends, and is to go there.
    pending_bytes : int
        Released, in this round and earlier ones, and not freed yet, for the grace time is not over.
    """

    deleted: int = 0
    imported: int = 0
    exported: int = 0
    released: int = 0
    exported_bytes: int = 0
    released_bytes: int = 0
    conflicts: int = 0
    failed: int = 0
    dirty_files: int = 0
    dirty_bytes: int = 0
    pending_bytes: int = 0

    def add(self, other: Step) -> None:
        """Add what was done for another link."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def did_something(self) -> bool:
        """Whether anything was done, or went wrong."""
        return any((self.deleted, self.imported, self.exported, self.released, self.conflicts, self.failed))


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """A name as the scan saw it.

    Attributes
    ----------
    kind : str
        ``file``, ``directory`` or ``symlink``.
    signature : tuple of int
        Differs when the name leads to something else, or to something that was changed.
    changed_ns : int
        When it was last changed.
    mark : int
        As `Known.marks` has it.
    needs_object : bool
        False: a directory that the keys below it imply.
    """

    kind: str
    signature: tuple[int, ...]
    changed_ns: int
    mark: int = 0
    needs_object: bool = True


@dataclasses.dataclass(slots=True)
class _Scan:
    """What a link's directory holds, by relative path; directories with a slash behind.

    Attributes
    ----------
    names : dict
    blind : list of str
        Directories that could not be looked into: nothing is known of what is below.
    """

    names: dict[str, _Seen] = dataclasses.field(default_factory=dict)
    blind: list[str] = dataclasses.field(default_factory=list)

    def is_gone(self, name: str) -> bool:
        """Tell whether a name that was there is, for certain, not there any more."""
        return name not in self.names and not any(name.startswith(above) for above in self.blind)

    def is_in_the_way(self, name: str) -> bool:
        """Tell whether a name that is gone, or one above it, is of another kind now."""
        bare = name.rstrip("/")
        parts = bare.split("/")
        return (
            f"{bare}/" in self.names
            or bare in self.names
            or any("/".join(parts[:count]) in self.names for count in range(1, len(parts)))
        )


@dataclasses.dataclass(slots=True)
class _Needs:
    """Which files need, or equal, objects of names that are gone.

    Attributes
    ----------
    bucket : str
    names : dict
        Names that are gone and were files, by key.
    files : dict
        By name: what is known of a file that was moved, and whether this link will give it an object of its own.
    sought : set of str
        Names whose files could only be found by looking everywhere.
    is_blind : bool
        Whether something could not be looked at.
    unknown : set of str
        Names of which it cannot be told whether a file needs their objects.
    """

    bucket: str
    names: dict[str, str]
    files: dict[str, list[tuple[FileState, bool]]] = dataclasses.field(default_factory=dict)
    sought: set[str] = dataclasses.field(default_factory=set)
    is_blind: bool = False
    unknown: set[str] = dataclasses.field(default_factory=set)

    def add(self, state: FileState, *, is_sent: bool = False) -> None:
        """Note a file, if it is one of these."""
        remote = state.base.remote if state.base is not None and state.archived else None
        if remote is None or remote.bucket != self.bucket:
            return
        name = self.names.get(remote.key)
        if name is not None:
            self.files.setdefault(name, []).append((state, is_sent))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Within, what is gone, or none of the store's files, is passed over; what cannot be looked at is noted."""
        try:
            yield
        except (FileNotFoundError, NamespaceError):
            pass
        except (Error, OSError):
            self.is_blind = True


@dataclasses.dataclass(frozen=True, slots=True)
class _FileIs:
    """What a file was found to be, and until when that holds: while the name and its directory of generations look the same."""

    id: str
    inode_bytes: int
    signature: tuple[int, ...]
    directory: str
    directory_ns: int
    state: FileState


@dataclasses.dataclass(slots=True)
class _Waiting:
    """What is to be exported.

    Attributes
    ----------
    due : set of str
        Relative names that rested long enough, or need not.
    files, bytes : int
        Files that are not in the bucket yet, due or not.
    """

    due: set[str] = dataclasses.field(default_factory=set)
    files: int = 0
    bytes: int = 0


class LinkSync:
    """Keeps one link in step. Remembers between rounds what files were, so that a round looks into those only that changed.

    Parameters
    ----------
    link : Link
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._files: dict[str, _FileIs] = {}
        self._said: set[str] = set()

    def round(self, events: Events, *, dry_run: bool = False, lists: bool = True, pending_bytes: int = 0) -> Step:
        """Do one round. What fails is told, and the rest goes on.

        Parameters
        ----------
        lists : bool
            Whether the bucket is looked at; else only what changed here is carried over.
        pending_bytes : int
            What was released of other links, and is not freed yet.
        """
        step = Step()
        if not os.path.isdir(self.link.directory):  # it must not be taken for one of which all was removed
            events.failed(
                self.link.directory, "the linked directory is gone: nothing is done; make it again, or unlink"
            )
            step.failed = 1
            return step
        known = Known.read(self.link)
        before = len(events.failures)
        try:
            self._round(known, events, step, dry_run=dry_run, lists=lists, pending_bytes=pending_bytes)
        except (Error, OSError) as error:
            if is_passing(error):
                events.interrupted()
            events.failed(self.link.directory, error)
        finally:  # an interrupt too: what was done is known
            failures = events.failures[before:]
            in_conflict = {one.path for one in failures if one.code == 3}
            step.conflicts = len(in_conflict)
            step.failed = len([one for one in failures if one.code != 3])
            if not dry_run:
                known.conflicts = sorted({*known.conflicts, *(self._relative(path) for path in in_conflict)})
                known.write(self.link)
        return step

    def _round(
        self, known: Known, events: Events, step: Step, *, dry_run: bool, lists: bool, pending_bytes: int
    ) -> None:
        link = self.link
        before = len(events.failures)
        if known.released and not dry_run:
            self._collect(known)
        step.pending_bytes = known.pending_bytes
        if "deleted" in link.export:
            with _counting(events) as count:
                self._delete(known, self._scan(), events, dry_run=dry_run, only_in_the_way=True)
            step.deleted = count()[0]
        if link.import_ and lists:
            with _counting(events) as count:
                import_objects(link, policy=self._import_policy(), known=known.names, events=events, dry_run=dry_run)
            step.imported = count()[0]
        scan = self._scan()
        waiting = self._waiting(known, scan, events)
        due = {self._path(name): name for name in waiting.due}
        for failure in events.failures[before:]:
            due.pop(failure.path, None)
        if due:
            before = len(events.failures)
            with _counting(events) as count:
                export([link.directory], is_meant=due.__contains__, events=events, dry_run=dry_run)
            step.exported, step.exported_bytes = count()
            for failure in events.failures[before:]:
                due.pop(failure.path, None)
            scan = self._scan()
            waiting = self._waiting(known, scan, events)
        step.dirty_files, step.dirty_bytes = waiting.files, waiting.bytes
        if not dry_run:
            self._note(known, scan, set(due.values()))
        if "deleted" in link.export:
            with _counting(events) as count:
                self._delete(known, scan, events, dry_run=dry_run)
            step.deleted += count()[0]
        options = link.options
        if options.high:
            done = evict(
                link.store,
                link,
                high=options.high,
                low=options.low,
                pending_bytes=pending_bytes + known.pending_bytes,
                dry_run=dry_run,
                events=events,
            )
            step.released, step.released_bytes = done.files, done.freed_bytes
            if done.file_ids:
                each = done.freed_bytes // len(done.file_ids)
                known.released |= {id.hex(): (time.time_ns(), each) for id in done.file_ids}
                step.pending_bytes = known.pending_bytes

    def _collect(self, known: Known) -> None:
        """Free what was released, where its readers have had their time."""
        grace_s = Options.make().grace_s
        limit_ns = time.time_ns() - int((grace_s + 1) * 1e9)
        ripe = [id for id, (at_ns, _) in known.released.items() if at_ns <= limit_ns or at_ns > time.time_ns()]
        for wait in (False, True):  # a collector must have seen all for a moment, before it frees
            for id in ripe:
                with contextlib.suppress(Error, OSError):  # a collector of the whole store frees it later
                    collect(self.link.store, bytes.fromhex(id), grace_s=grace_s, wait=wait)
        for id in ripe:
            del known.released[id]

    def _import_policy(self) -> Policy:
        """What the import does: nothing about names of which the export takes care."""
        policy = self.link.policy
        leaves = policy.export and policy.if_conflict in _EXPORT_WINS
        return dataclasses.replace(policy, export=(), if_conflict="skip" if leaves else policy.if_conflict)

    def _relative(self, path: str) -> str:
        return path.removeprefix(f"{self.link.directory}/")

    def _path(self, name: str) -> str:
        return os.path.join(self.link.directory, name.rstrip("/"))

    # --- what is here ------------------------------------------------------------------------------------------------

    def _scan(self) -> _Scan:
        scan = _Scan()
        pending = [""]
        while pending:
            above = pending.pop()
            directory = os.path.join(self.link.directory, above)
            try:
                with namespace.scandir(directory) as entries:
                    names = [entry.name for entry in entries]
            except FileNotFoundError:
                if not above:
                    raise
                continue
            except OSError:
                scan.blind.append(above)
                continue
            if above:
                self._see_directory(scan, above, directory, is_empty=not names)
            for name in names:
                relative = above + name
                try:
                    seen = os.lstat(os.path.join(directory, name))
                except FileNotFoundError:
                    continue
                if stat_module.S_ISDIR(seen.st_mode):
                    if not is_store(os.path.join(directory, name)):
                        pending.append(f"{relative}/")
                    continue
                kind = "symlink" if stat_module.S_ISLNK(seen.st_mode) else "file"
                changed_ns = max(seen.st_mtime_ns, seen.st_ctime_ns)
                signature = (seen.st_ino, seen.st_ctime_ns, seen.st_mtime_ns)
                scan.names[relative] = _Seen(kind, signature, changed_ns, seen.st_mtime_ns)
        return scan

    @staticmethod
    def _see_directory(scan: _Scan, name: str, path: str, *, is_empty: bool) -> None:
        try:
            seen = os.lstat(path)
        except FileNotFoundError:
            return
        mode = stat_module.S_IMODE(seen.st_mode)
        changed_ns = max(seen.st_mtime_ns, seen.st_ctime_ns)
        needs = is_empty or mode != DEFAULT_DIRECTORY_MODE
        scan.names[name] = _Seen("directory", (seen.st_ino,), changed_ns, mode << 1 | is_empty, needs)

    def _state(self, name: str, seen: _Seen) -> FileState:
        return self._is(name, seen).state

    def _is(self, name: str, seen: _Seen) -> _FileIs:
        """Find out what a file is, or remember it."""
        was = self._files.get(name)
        if was is not None and was.signature == seen.signature and _time_of(was.directory) == was.directory_ns:
            return was
        place = self._place(name)
        inode, found = read_inode_at(place)
        directory = self.link.store.file_directory(inode.file_id)
        directory_ns = _time_of(directory)  # before it is looked into
        inode_bytes = 0 if directory_ns else found.st_size
        now = _FileIs(inode.file_id.hex(), inode_bytes, seen.signature, directory, directory_ns, state_of(place))
        if time.time_ns() - max(directory_ns, seen.changed_ns) < _TICK_NS:
            self._files.pop(name, None)  # a change within the clock's next tick would not show
        else:
            self._files[name] = now
        return now

    def _place(self, name: str) -> Place:
        path = self._path(name)
        return Place(self.link.store, path, os.path.dirname(path), os.path.basename(path))

    def _is_base(self, state: FileState, name: str) -> bool:
        """Tell whether what a file is known to have equalled is the object that this link ties it to."""
        base = state.base
        return base is not None and (base.remote.bucket, base.remote.key) == (
            self.link.bucket,
            self.link.prefix + name,
        )

    # --- what is to be exported --------------------------------------------------------------------------------------

    def _waiting(self, known: Known, scan: _Scan, events: Events) -> _Waiting:
        """Say what is to be exported, and what of it now."""
        export_ = self.link.export
        waiting = _Waiting()
        if not {"new", "changed"} & set(export_):
            return waiting
        options = self.link.options
        rested_ns = time.time_ns() - int(options.quiet_s * 1e9)
        quiet: set[str] = set()
        young: set[str] = set()
        for name, seen in scan.names.items():
            is_wanted = self._is_file_wanted(name, seen, known, waiting) if seen.kind == "file" else False
            if seen.kind != "file" and seen.needs_object:
                is_wanted = known.marks.get(name) != seen.mark and _event_of(known, name) in export_
            if is_wanted:
                (quiet if seen.changed_ns <= rested_ns else young).add(name)
        waiting.due = quiet
        if options.max_dirty and waiting.bytes > options.max_dirty:
            waiting.due |= young
        return waiting

    def _is_file_wanted(self, name: str, seen: _Seen, known: Known, waiting: _Waiting) -> bool:
        try:
            state = self._state(name, seen)
        except (
            Error,
            OSError,
        ):  # gone, or not to be read: the export of the rest goes on, and an export by hand tells why
            return False
        is_known = self._is_base(state, name)
        if (is_known and state.archived) or state.noexport:
            return False
        if ("changed" if is_known else "new") not in self.link.export:
            return False
        if path_problem(name, self.link.prefix) is not None:
            return True  # the export tells it
        if not state.conflict:  # which nobody can wait for
            waiting.files, waiting.bytes = waiting.files + 1, waiting.bytes + state.size
        return not (state.conflict and known.kept.get(name) == state.tx.hex())

    # --- what was removed here ---------------------------------------------------------------------------------------

    def _delete(
        self, known: Known, scan: _Scan, events: Events, *, dry_run: bool, only_in_the_way: bool = False
    ) -> None:
        """Delete the objects of names that were removed here, unless they are others by now, or a file still needs them.

        Parameters
        ----------
        only_in_the_way : bool
            Only those whose name, or one above it, is of another kind now: the rest comes when all else is done.
        """
        gone = [
            name for name in known.names if scan.is_gone(name) and (not only_in_the_way or scan.is_in_the_way(name))
        ]
        if not gone:
            return
        scan = self._scan()  # a file that was moved while the first was made may be in neither of its directories there
        gone = [name for name in gone if scan.is_gone(name)]
        needs = self._needs(known, gone, scan)
        events.phase("delete", len(gone))
        client = Client.of(self.link.endpoint)
        client.capabilities = capabilities_of(
            client, self.link.bucket, may_write=not dry_run, store=self.link.store, prefix=self.link.prefix
        )

        def one(name: str) -> None:
            try:
                if self._delete_one(client, known, name, needs, events, dry_run=dry_run):
                    known.forget(name)
            except (Error, OSError) as error:
                if is_passing(error):  # it would be the same for all others
                    raise
                events.failed(self._path(name), error)

        for is_directory in (False, True):
            chosen = [name for name in gone if name.endswith("/") == is_directory]
            if is_directory:  # one stays as long as a file that lay in it
                above = set(parents(name for name in known.names if not name.endswith("/")))
                chosen = [name for name in chosen if name[:-1] not in above]
            with ThreadPoolExecutor(_THREADS, "pinstripe-delete") as pool:
                try:
                    list(pool.map(one, chosen))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise

    def _delete_one(
        self, client: Client, known: Known, name: str, needs: _Needs, events: Events, *, dry_run: bool
    ) -> bool:
        """See to one name that was removed; return whether it can be forgotten."""
        link, path = self.link, self._path(name)
        key = link.prefix + name
        found = _look(client, link.bucket, key)
        local = LocalState("removed", noexport=known.marks.get(name) == NOEXPORT)
        action = decide(local, RemoteState(_state_there(name, known.names[name], found)), link.policy)
        if action.verb == "conflict":
            events.conflict(path, f"{action.reason} (s3://{link.bucket}/{key})")
            return False
        if action.verb != "delete-remote" or found is None:
            return action.verb == "forget"
        if not self._may_delete(name, key, needs, events, dry_run=dry_run):
            return False
        if dry_run:
            events.planned("delete", f"s3://{link.bucket}/{key}", found.size, action.reason)
            return False
        if namespace.lexists(place := self._place(name)) and os.path.isdir(place) == name.endswith("/"):
            return False  # it is there again
        try:
            # No condition for a bare directory: services make such objects, and their ETags, as they like.
            client.delete(link.bucket, key, if_match="" if name.endswith("/") else found.etag)
        except ConditionError:
            if _look(client, link.bucket, key) is not None:
                events.conflict(path, f"the file was removed, but its object changes (s3://{link.bucket}/{key})")
                return False
        except RemoteError as error:
            if error.status != 501:  # it knows no conditions; the object was just looked at
                raise
            client.delete(link.bucket, key)
        events.advance(files=1)
        return True

    def _may_delete(self, name: str, key: str, needs: _Needs, events: Events, *, dry_run: bool) -> bool:
        """Tell whether no file needs the object of a name that is gone; pin those that hold its bytes, which the bucket will not."""
        url, meta = f"s3://{self.link.bucket}/{key}", f"{self.link.store.meta}/files/"
        if name in needs.unknown:
            self._say(
                events, f"{url} is not deleted: it cannot be told whether {self._path(name)} was removed or moved"
            )
            return False
        for state, is_sent in needs.files.get(name, ()):
            if state.is_stub or is_sent:
                what = "a file that was moved" if state.path.startswith(meta) else state.path
                why = "its bytes are nowhere else" if state.is_stub else "it has no other object yet"
                self._say(events, f"{url} is not deleted: {what} is a file of it, and {why}")
                return False
        if not dry_run:
            for state, _ in needs.files.get(name, ()):
                place = Place(self.link.store, state.path, *os.path.split(state.path))
                set_flags(place, add=["norelease"])
                now = state_of(place)
                if now.is_stub and now.base == state.base:  # it was released meanwhile
                    return False
                what = "a file that was moved" if state.path.startswith(meta) else state.path
                events.note(f"{what}: pinned, for {url}, which holds its bytes too, is deleted")
        return True

    def _say(self, events: Events, text: str) -> None:
        """Tell what holds for many rounds once."""
        if text not in self._said:
            self._said.add(text)
            events.note(text)

    # --- files that were moved ---------------------------------------------------------------------------------------

    def _needs(self, known: Known, gone: list[str], scan: _Scan) -> _Needs:
        """Find files that were moved, and are, or equal, an object of a name that is gone."""
        needs = _Needs(self.link.bucket, {self.link.prefix + name: name for name in gone if _is_file(known, name)})
        if not needs.names:
            return needs
        sends = "new" in self.link.export
        for name, seen in scan.names.items():
            if seen.kind == "file":
                with needs.looking():
                    state = self._state(name, seen)
                    needs.add(state, is_sent=sends and not state.noexport)
        needs.is_blind = needs.is_blind or bool(scan.blind)
        sizes: set[int] = set()
        for name in needs.names.values():
            id, size = known.files.get(name, ("", -1))
            if (not id or not self._is_found_by_id(id, name, needs)) and size:
                sizes.add(size)
                needs.sought.add(name)
        if sizes:
            self._seek(sizes, needs)
        if needs.is_blind:
            needs.unknown |= needs.sought
        return needs

    def _is_found_by_id(self, id: str, name: str, needs: _Needs) -> bool:
        """Look at the file of an id, which its directory of generations holds under all its names; return whether there is one."""
        directory = self.link.store.file_directory(bytes.fromhex(id))
        place = Place(self.link.store, os.path.join(directory, "inode"), directory, "inode")
        try:
            if os.lstat(place.path).st_nlink > 1:
                needs.add(state_of(place))
        except FileNotFoundError:
            return False
        except (Error, OSError):
            needs.unknown.add(name)
        return True

    def _seek(self, sizes: set[int], needs: _Needs) -> None:
        """Look for files by the length of their inodes, in the whole store: a stub that nobody read is known by its name only."""
        store = self.link.store

        def blind(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                needs.is_blind = True

        def walk() -> Iterator[tuple[str, list[str]]]:
            for top, directories, names in namespace.walk(store.root, onerror=blind):
                directories[:] = [one for one in directories if os.path.join(top, one) != self.link.directory]
                if top != self.link.directory:
                    yield top, names
            aside = os.path.join(store.meta, LOST_FOUND)
            if os.path.isdir(aside):
                yield aside, os.listdir(aside)

        for top, names in walk():
            for name in names:
                place = Place(store, os.path.join(top, name), top, name)
                with needs.looking():
                    seen = os.lstat(place.path)
                    if stat_module.S_ISREG(seen.st_mode) and (-1 in sizes or seen.st_size in sizes):
                        needs.add(state_of(place))

    # --- what is written down ----------------------------------------------------------------------------------------

    def _note(self, known: Known, scan: _Scan, sent: set[str]) -> None:
        """Bring the record up to what was seen; `sent` are the names that were exported in this round."""
        known.conflicts = []
        to_look_at: list[str] = []
        for name, seen in scan.names.items():
            if seen.kind == "file":
                self._note_file(known, name, seen, is_sent=name in sent)
                continue
            is_done = name in sent or not seen.needs_object or _event_of(known, name) not in self.link.export
            if seen.kind == "directory":
                known.names[name] = ""
                if is_done:
                    known.marks[name] = seen.mark
            elif is_done and known.marks.get(name) != seen.mark:
                to_look_at.append(name)
        self._files = {name: one for name, one in self._files.items() if name in scan.names}
        if not to_look_at:
            return
        client = Client.of(self.link.endpoint)
        with ThreadPoolExecutor(_THREADS, "pinstripe-head") as pool:
            keys = [self.link.prefix + name for name in to_look_at]
            found = list(pool.map(lambda key: _look(client, self.link.bucket, key), keys))
        for name, info in zip(to_look_at, found, strict=True):
            known.marks[name] = scan.names[name].mark
            if info is not None:
                known.names[name] = info.etag

    def _note_file(self, known: Known, name: str, seen: _Seen, *, is_sent: bool) -> None:
        try:
            now = self._is(name, seen)
        except (Error, OSError):  # gone by now, or unreadable: what was known stays
            return
        state = now.state
        known.marks.pop(name, None)
        if self._is_base(state, name) and state.base is not None:
            known.names[name] = state.base.remote.etag
            known.files[name] = now.id, now.inode_bytes
            if state.noexport:
                known.marks[name] = NOEXPORT
        was_kept = known.kept.pop(name, "")
        if state.conflict:
            known.conflicts.append(name)
            if was_kept == state.tx.hex() or (is_sent and self.link.options.if_conflict == "keep-both"):
                known.kept[name] = state.tx.hex()


def _is_file(known: Known, name: str) -> bool:
    """Tell whether a name that is known was a file: no directory, and no symlink, which has a mark of its own."""
    return not name.endswith("/") and known.marks.get(name, NOEXPORT) == NOEXPORT


def _event_of(known: Known, name: str) -> str:
    """Say what it is for an export that a directory or symlink is not as it was noted."""
    return "changed" if name in known.marks else "new"


def _look(client: Client, bucket: str, key: str) -> ObjectInfo | None:
    try:
        return client.head(bucket, key)
    except RemoteError as error:
        if error.status != 404:
            raise
    return None


def _state_there(name: str, etag: str, found: ObjectInfo | None) -> str:
    if found is None:
        return "absent"
    if name.endswith("/"):  # an object without bytes has nothing that could be lost
        return "same" if not found.size else "changed"
    return "same" if found.etag == etag else "changed"


def _time_of(directory: str) -> int:
    try:
        return os.stat(directory).st_mtime_ns
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _counting(events: Events) -> Iterator[Callable[[], tuple[int, int]]]:
    """Give a function that says how many files and bytes were done since."""
    before = events.summary
    yield lambda: (events.summary.files - before.files, events.summary.bytes - before.bytes)
