"""A power cut at any moment: what of the directories and the contents is left.

A directory is what is in it now, what is on the disk, and what was done since its last fsync, in order. A cut keeps, of
each directory on its own, any first part of what was done since; content that was not synced is lost, whatever its
name. (Journalling file systems order directories among each other. Nothing here relies on that.)

State
    aa              has the entry ID
    id              has the numbers; of a new file ``inode`` and ``TX.name``, too
    parent          on a target, has the entry ID
    target          on that target, has the segments
    namespace       of a new file: what the name leads to
    manifests       what each number says
    synced          whose content is on disk
    acked, intents  durable commits that returned; who has a ``TX.tx``

Writer, and the system call of each step
    mkdir           mkdir(aa/ID), mkdir(target/aa/ID), open(TX.tx, O_CREAT | O_EXCL)
    segment         open(segment, O_CREAT | O_EXCL), pwrite
    look            readdir(ID)
    sync_segments   fsync of each unsynced segment that the manifest will name, the base's, too
    sync_targets    fsync(target/aa/ID), fsync(target/aa)
    sync_parents    fsync(aa)
    body            pwrite(TX.tx), and fsync where the commit is durable
    link            linkat(TX.tx, number)
    sync_id         fsync(ID), and the call returns
    unname          unlink(TX.tx)

A new file that replaces another: these, and
    entries         open(TX.tx), linkat(inode), linkat(TX.name)
    sync_segment    fsync(segment)
    sync_target     fsync(target/aa/ID)
    sync_aa         fsync(aa)
    rename          renameat(TX.name, name)
    sync_namespace  fsync(directory of the name)
    acknowledge     the call returns
    collect         unlink(what the name led to)

Collector, twice
    look            readdir(targets), readdir(ID)
    sync            fsync(ID)
    delete          unlink(segment)
    free            unlink(number)

Invariants
----------
DURABLE  After a cut, an acknowledged durable commit is in the line of descent of the newest whole number, and each
         number that says "synced before linked" is whole.
NAMED    After a cut, the name of a durable file leads to a whole one: the old or the new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .engine import Breach, Case, Outcome, Process, to


class Directory(NamedTuple):
    """Entries now and on disk, and what was done since the last fsync."""

    now: frozenset[str] = frozenset()
    disk: frozenset[str] = frozenset()
    since: tuple[tuple[str, str], ...] = ()

    def add(self, entry: str) -> Directory:
        """Return it with `entry`."""
        return self if entry in self.now else Directory(self.now | {entry}, self.disk, (*self.since, ("+", entry)))

    def drop(self, entry: str) -> Directory:
        """Return it without `entry`."""
        return Directory(self.now - {entry}, self.disk, (*self.since, ("-", entry))) if entry in self.now else self

    def replace(self, entry: str) -> Directory:
        """Return it with `entry` in the place of everything: one name, renamed over."""
        return Directory(frozenset({entry}), self.disk, (*self.since, ("=", entry)))

    def fsync(self) -> Directory:
        """Return it with all on disk."""
        return Directory(self.now, self.now)

    def after_a_cut(self) -> Iterator[frozenset[str]]:
        """Yield what a cut may leave."""
        left = self.disk
        yield left
        for done, entry in self.since:
            left = {"+": left | {entry}, "-": left - {entry}, "=": frozenset({entry})}[done]
            yield left


def holding(*entries: str) -> Directory:
    """Return a directory that has these entries on disk."""
    return Directory(frozenset(entries), frozenset(entries))


class Manifest(NamedTuple):
    """What a number says."""

    number: int
    names: frozenset[str]
    says_synced: bool
    line: tuple[str, ...]


class Disk(NamedTuple):
    """What every process sees, and what a cut would leave of it."""

    aa: Directory = Directory()
    id: Directory = Directory()
    parent: Directory = Directory()
    target: Directory = Directory()
    manifests: tuple[Manifest, ...] = ()
    synced: frozenset[str] = frozenset()
    acked: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()

    def numbers(self) -> list[Manifest]:
        """Return the numbers that are there, lowest first."""
        return [m for m in self.manifests if str(m.number) in self.id.now]

    def head(self) -> Manifest:
        """Return the highest number, or number 0."""
        return max(self.numbers(), default=Manifest(0, frozenset(), True, ()))


def check(s: Disk) -> Iterator[Breach]:
    """Cut the power: yield what is broken in what is left."""
    left = {
        (aa and number, parent and target)
        for aa in s.aa.after_a_cut()
        for number in s.id.after_a_cut()
        for parent in s.parent.after_a_cut()
        for target in s.target.after_a_cut()
    }
    for numbers, target in left:
        there = [m for m in s.manifests if str(m.number) in numbers]
        whole = [m for m in there if f"manifest of {m.line[-1]}" in s.synced and m.names <= target & s.synced]
        newest = max(whole, default=None)
        if not s.acked <= set(newest.line if newest else ()):
            yield Breach("DURABLE", "an acknowledged durable commit is gone")
            return
        if any(m.says_synced and m not in whole for m in there):
            yield Breach("DURABLE", "a number that says it was synced before it was linked is not whole")
            return


class Writing(NamedTuple):
    """What a writer remembers."""

    at: str = "mkdir"
    base: Manifest | None = None
    made: bool = False


@dataclass(frozen=True)
class Writer(Process):
    """Commit, durably if `full`; `part` keeps the base's segments.

    Controls: `syncs_base` False leaves the base's unsynced segments; `syncs_found` False takes a directory that it
    found for old; `syncs_targets_first` False syncs the target's directories after the link; `syncs_manifest` False
    links an unsynced manifest.
    """

    name: str
    full: bool = True
    part: bool = False
    syncs_base: bool = True
    syncs_found: bool = True
    syncs_targets_first: bool = True
    syncs_manifest: bool = True

    def start(self) -> Writing:
        return Writing()

    def mkdir(self, s: Disk, me: Writing) -> Outcome:
        made = "ID" not in s.aa.now
        after = s._replace(aa=s.aa.add("ID"), parent=s.parent.add("ID"), intents=s.intents | {self.name})
        return after, to(me, "segment", made=made)

    def segment(self, s: Disk, me: Writing) -> Outcome:
        return s._replace(target=s.target.add(self.name)), to(me, "look")

    def look(self, s: Disk, me: Writing) -> Outcome:
        return s, to(me, "sync_segments" if self.full else "body", base=s.head())

    def sync_segments(self, s: Disk, me: Writing) -> Outcome:
        assert me.base is not None
        base = me.base.names if self.part and self.syncs_base else frozenset()
        synced = s.synced | {self.name} | (base & s.target.now)
        return s._replace(synced=synced), to(me, "sync_targets" if self.syncs_targets_first else "sync_parents")

    def sync_targets(self, s: Disk, me: Writing) -> Outcome:
        after = s._replace(target=s.target.fsync(), parent=s.parent.fsync())
        return after, to(me, "sync_parents" if self.syncs_targets_first else "sync_id")

    def sync_parents(self, s: Disk, me: Writing) -> Outcome:
        return (s._replace(aa=s.aa.fsync()) if me.made or self.syncs_found else s), to(me, "body")

    def body(self, s: Disk, me: Writing) -> Outcome:
        synced = s.synced | {f"manifest of {self.name}"} if self.full and self.syncs_manifest else s.synced
        return s._replace(synced=synced), to(me, "link")

    def link(self, s: Disk, me: Writing) -> Outcome:
        assert me.base is not None
        n = me.base.number + 1
        if str(n) in s.id.now:
            return s, to(me, "look")
        names = (me.base.names if self.part else frozenset()) | {self.name}
        manifest = Manifest(n, names, self.full, (*me.base.line, self.name))
        after = s._replace(id=s.id.add(str(n)), manifests=tuple(sorted((*s.manifests, manifest))))
        if not self.full:
            return after, Writing("unname")
        return after, Writing("sync_id" if self.syncs_targets_first else "sync_targets")

    def sync_id(self, s: Disk, me: Writing) -> Outcome:
        return s._replace(id=s.id.fsync(), acked=s.acked | {self.name}), Writing("unname")

    def unname(self, s: Disk, me: Writing) -> Outcome:
        return s._replace(intents=s.intents - {self.name}), Writing("done")


class Collecting(NamedTuple):
    """What a collector remembers."""

    at: str = "look"
    dead: frozenset[str] = frozenset()
    old: tuple[int, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Collector(Process):
    """Collect twice: what the first freed, the second deletes.

    Controls: `syncs` False does not sync the directory between listing and deleting; `keeps_durable` False keeps only
    the head.
    """

    syncs: bool = True
    keeps_durable: bool = True
    name: str = "gc"

    def start(self) -> Collecting:
        return Collecting()

    def look(self, s: Disk, me: Collecting) -> Outcome:
        numbers = s.numbers()
        if not numbers:
            return s, to(me, "done")
        durable = max((m.number for m in numbers if m.says_synced), default=0) if self.keeps_durable else 0
        old = tuple(m.number for m in numbers[:-1] if m.number != durable)
        dead = s.target.now - s.intents - frozenset().union(*(m.names for m in numbers))
        if not (old or dead):
            return None
        seen = Collecting("sync", dead, old, me.again)
        return s, seen if self.syncs else self._next(seen)

    def _next(self, me: Collecting) -> Collecting:
        if me.dead or me.old:
            return me._replace(at="delete" if me.dead else "free")
        return Collecting("done" if me.again else "look", again=True)

    def sync(self, s: Disk, me: Collecting) -> Outcome:
        return s._replace(id=s.id.fsync()), self._next(me)

    def delete(self, s: Disk, me: Collecting) -> Outcome:
        gone = min(me.dead)
        return s._replace(target=s.target.drop(gone)), self._next(me._replace(dead=me.dead - {gone}))

    def free(self, s: Disk, me: Collecting) -> Outcome:
        return s._replace(id=s.id.drop(str(me.old[0]))), self._next(me._replace(old=me.old[1:]))


class Names(NamedTuple):
    """A new file and the one that its name leads to: directories, and what is synced."""

    namespace: Directory
    aa: Directory = Directory()
    id: Directory = Directory()
    target: Directory = Directory()
    synced: frozenset[str] = frozenset({"old"})
    acked: bool = False


def check_name(s: Names) -> Iterator[Breach]:
    """Cut the power: yield what is broken of the name."""
    for name in s.namespace.after_a_cut():
        for aa in s.aa.after_a_cut():
            for number in s.id.after_a_cut():
                for target in s.target.after_a_cut():
                    new = (
                        "ID" in aa and {"inode", "1"} <= number and "new" in target and {"new", "manifest"} <= s.synced
                    )
                    whole = {"old": "old" in target, "new": new}
                    if not all(whole[leads] for leads in name):
                        yield Breach("NAMED", "the name leads to nothing whole")
                        return
                    if s.acked and "new" not in name:
                        yield Breach("DURABLE", "an acknowledged new file has no name")
                        return


class Replacing(NamedTuple):
    """What a replacing writer remembers."""

    at: str = "mkdir"


@dataclass(frozen=True)
class Replacer(Process):
    """Make a new file and rename it over an old one; `order` is what it does, one call after the other."""

    order: tuple[str, ...] = (
        "mkdir", "entries", "segment", "sync_segment", "sync_target", "sync_aa", "body", "link", "sync_id", "rename",
        "sync_namespace", "acknowledge", "collect", "done",
    )  # fmt: skip
    name: str = "a"

    def start(self) -> Replacing:
        return Replacing()

    def step(self, s: Names, me: Replacing) -> Outcome:
        at, following = me.at, Replacing(self.order[self.order.index(me.at) + 1])
        after = {
            "mkdir": lambda: s._replace(aa=s.aa.add("ID")),
            "entries": lambda: s._replace(id=s.id.add("TX.tx").add("inode").add("TX.name")),
            "segment": lambda: s._replace(target=s.target.add("new")),
            "sync_segment": lambda: s._replace(synced=s.synced | {"new"}),
            "sync_target": lambda: s._replace(target=s.target.fsync()),
            "sync_aa": lambda: s._replace(aa=s.aa.fsync()),
            "body": lambda: s._replace(synced=s.synced | {"manifest"}),
            "link": lambda: s._replace(id=s.id.add("1")),
            "sync_id": lambda: s._replace(id=s.id.fsync()),
            "rename": lambda: s._replace(id=s.id.drop("TX.name"), namespace=s.namespace.replace("new")),
            "sync_namespace": lambda: s._replace(namespace=s.namespace.fsync()),
            "acknowledge": lambda: s._replace(acked=True),
            "collect": lambda: s._replace(target=s.target.drop("old")),
        }[at]()
        return after, following


RIGHT = Replacer().order


def without(*steps: str) -> Replacer:
    """Return a replacer that leaves `steps` out."""
    return Replacer(tuple(step for step in RIGHT if step not in steps))


OLD = Disk(
    aa=holding("ID"), id=holding("1"), parent=holding("ID"), target=holding("o"),
    manifests=(Manifest(1, frozenset({"o"}), True, ("o",)),),
    synced=frozenset({"o", "manifest of o"}), acked=frozenset({"o"}),
)  # fmt: skip
NEW = Disk()
NEW_TARGET = OLD._replace(parent=Directory(), target=Directory(), manifests=(Manifest(1, frozenset(), True, ("o",)),))
NAME = Names(holding("old"), target=holding("old"))
NO_NAME = Names(Directory(), target=holding("old"))


def case(says: str, first: Disk, *processes: Process, mortal: Iterable[int] = (), breaks: str | None = None) -> Case:
    """Return a case of one file."""
    return Case(says, first, processes, check, frozenset(mortal), breaks=breaks)


def naming(says: str, process: Process, breaks: str | None = None, first: Names = NAME) -> Case:
    """Return a case of one name."""
    return Case(says, first, (process,), check_name, breaks=breaks)


CASES = (
    case(
        "a durable writer, and a collector that syncs the directory before it deletes",
        OLD,
        Writer("a"),
        Collector(),
        mortal=(0, 1),
    ),
    case(
        "none, none, then full on top; a collector keeps the head and the newest synced before linked",
        OLD,
        Writer("a", False, True),
        Writer("b", False),
        Writer("c", True, True),
        Collector(),
    ),
    case("two durable writers make the same new directories, each syncs their parents", NEW, Writer("a"), Writer("b")),
    case(
        "a durable writer's first segment on a target, and a collector",
        NEW_TARGET,
        Writer("a"),
        Collector(),
        mortal=(0,),
    ),
    naming("replace makes the new file durable, renames, syncs, and only then collects", Replacer()),
    naming("a new file's name comes after all that it leads to", Replacer(), first=NO_NAME),
    case(
        "control: a collector deletes without syncing the directory",
        OLD,
        Writer("a"),
        Collector(syncs=False),
        breaks="DURABLE",
    ),
    case(
        "control: a collector keeps only the head",
        OLD,
        Writer("a", False),
        Collector(keeps_durable=False),
        breaks="DURABLE",
    ),
    case(
        "control: the base's unsynced segments are not synced",
        OLD,
        Writer("a", False, True),
        Writer("c", True, True, syncs_base=False),
        breaks="DURABLE",
    ),
    case(
        "control: a directory that another has just made counts as old",
        NEW,
        Writer("a", syncs_found=False),
        Writer("b", syncs_found=False),
        breaks="DURABLE",
    ),
    case(
        "control: a target's directories are synced after the link",
        NEW_TARGET,
        Writer("a", syncs_targets_first=False),
        Collector(),
        breaks="DURABLE",
    ),
    case(
        "control: the manifest is linked before it is synced",
        OLD,
        Writer("a", syncs_manifest=False),
        Collector(),
        breaks="DURABLE",
    ),
    naming(
        "control: replace collects before the name's directory is synced",
        without("sync_namespace", "acknowledge"),
        "NAMED",
    ),
    naming(
        "control: durability none, and replace does not first make the new file durable",
        without("sync_segment", "sync_target", "sync_aa", "body", "sync_id", "acknowledge"),
        "NAMED",
    ),
    naming("control: ID is not synced between the link and the rename", without("sync_id"), "NAMED"),
)
