"""A new file gets its name last, and a collector may think its writer dead at any moment.

State: one name, and the directories of the new files that want it
    name            which file's inode it leads to
    files           of each: is aa/ID there; its entries ``TX.tx``, ``inode``, ``TX.name``, ``1``; its segments
    acked, refused  what its writer's caller was told
The link count of an inode is counted: ``inode``, ``TX.name`` and the name.

Writer, and the system call of each step
    mkdir           mkdir aside, chmod, rename to aa/ID
    create          open(TX.tx, O_CREAT | O_EXCL); ENOENT: the empty directory was collected, make it again
    inode           linkat(descriptor of O_TMPFILE, inode), or rename of the hidden name to it
    find_inode      linkat(inode, TX.name): the kernel resolves first ...
    pend            ... and links afterwards, if the inode still has a link
    segment         open(segment, O_CREAT | O_EXCL), pwrite, fsync, close
    number          linkat(TX.tx, 1), fsync(ID)
    rename          renameat2(TX.name, name, RENAME_NOREPLACE for x)
    look_name       any answer but "done" and EEXIST: stat(name): is it ours?
    look_fence      it is not: stat(TX.tx)
    find_pending    without NOREPLACE (NFS): linkat(TX.name, name) resolves ...
    make            ... and links
    confirm         unlink(TX.name): who did that has named the file; ENOENT: unlink the name again
    acknowledge     fsync(directory of the name), and the call returns
    unname          unlink(TX.tx)
    end             unlink(TX.tx), and the caller is told "not committed"

Collector
    guess           readdir(ID), heartbeats
    fence           unlink(TX.tx)
    see_pending     readdir(ID): is there a TX.name?
    see_its_intent  then, stat(TX.tx)
    unpend          unlink(TX.name)
    count           stat(inode)
    transactions    readdir(ID)
    count_again     stat(inode)
    numbers         unlink(1)
    segments        unlink(segment)
    inode           unlink(inode)
    rmdir           rmdir(ID), which refuses what is not empty
    put_aside       in controls: rename(ID, aside)
    put_back        in controls: rename(aside, ID)

The links are counted twice, around the look at the transactions. A new file has one link only while it has a
transaction; an ``inode`` at the first count proves that its ``TX.tx`` was made before; if that is gone at the look, the
file is named or will never be, and the second count tells which. A directory without ``inode`` may be a new one: no
number in it is touched, only rmdir is tried. ``TX.name`` is seen before its ``TX.tx`` is looked for, as they are made
the other way round.

Invariants
----------
NAMED   A name leads to a file that is all there: directory, number, segments. (Where a name is made by link, this
        holds of acknowledged ones.)
OLD     What a name led to is replaced by a whole file, or stays.
ALIVE   A writer that nobody took for dead is not collected.
TOLD    Who was told "not committed" has no name, and gets none.
TIDY    When all have ended, nothing lies about that the next collector would not take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to


class File(NamedTuple):
    """One new file: ``aa/ID`` and what lies on the targets."""

    directory: str | None = None
    entries: frozenset[str] = frozenset()
    segment: bool = False

    @property
    def here(self) -> bool:
        """Tell whether aa/ID leads to the directory."""
        return self.directory == "ID"


class Names(NamedTuple):
    """What every process sees."""

    files: tuple[tuple[str, File], ...]
    name: str | None = None
    acked: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def file(self, i: str) -> File:
        """Return file `i`."""
        return dict(self.files)[i]

    def having(self, i: str, file: File) -> Names:
        """Return the state with `file` as file `i`."""
        return self._replace(files=tuple((j, file if j == i else f) for j, f in self.files))

    def links(self, i: str) -> int:
        """Count the links of the inode of `i`."""
        return len(self.file(i).entries & {"inode", "TX.name"}) + (self.name == i)


def add(f: File, entry: str) -> File:
    """Return `f` with one entry more."""
    return f._replace(entries=f.entries | {entry})


def drop(f: File, entry: str) -> File:
    """Return `f` with one entry less."""
    return f._replace(entries=f.entries - {entry})


class Naming(NamedTuple):
    """What the writer remembers."""

    at: str = "mkdir"


@dataclass(frozen=True)
class Namer(Process):
    """Make file `name` (its id), and name it.

    `by`: "rename"; "look": link, then unlink TX.name (NFS); controls: "link" links the name from ``inode``, "one step"
    is that with a linkat that does not resolve first. `replies_lost`: rename and its repetition, which says ENOENT.
    `believes_enoent` (control): takes that for fenced. `inode_first` (control): makes ``inode``, then ``TX.tx``.
    """

    name: str
    mode: str = "x"
    by: str = "rename"
    inode_first: bool = False
    replies_lost: bool = False
    believes_enoent: bool = False
    ends: ClassVar[frozenset[str]] = frozenset({"done", "error", "unknown"})

    def start(self) -> Naming:
        return Naming()

    def mkdir(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        return s.having(self.name, f if f.here else File("ID")), to(me, "inode" if self.inode_first else "create")

    def create(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here:
            return s, to(me, "mkdir")
        return s.having(self.name, add(f, "TX.tx")), to(me, "find_inode" if self.inode_first else "inode")

    def inode(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here:
            return s, to(me, "end")
        return s.having(self.name, add(f, "inode")), to(me, "create" if self.inode_first else "find_inode")

    def find_inode(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here or "inode" not in f.entries:
            if self.inode_first:
                return Breach("ALIVE", "a live writer's new file was collected")
            return s, to(me, "end")
        return s, to(me, "pend" if self.by in ("rename", "look") else "segment")

    def pend(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here or not s.links(self.name):
            return s, to(me, "end")
        return s.having(self.name, add(f, "TX.name")), to(me, "segment")

    def segment(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        return s.having(self.name, f._replace(segment=True)), to(me, "number")

    def number(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here or "TX.tx" not in f.entries:
            return s, to(me, "end")
        return s.having(self.name, add(f, "1")), to(me, "rename" if self.by == "rename" else "find_pending")

    def rename(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here or "TX.name" not in f.entries:
            return s, to(me, "end" if self.believes_enoent else "look_name")
        if self.mode == "x" and s.name is not None:
            return s, to(me, "end")
        named = s.having(self.name, drop(f, "TX.name"))._replace(name=self.name)
        if self.replies_lost:
            return (named, to(me, "acknowledge")), (named, to(me, "end" if self.believes_enoent else "look_name"))
        return named, to(me, "acknowledge")

    def look_name(self, s: Names, me: Naming) -> Outcome:
        if s.name == self.name:
            return s, to(me, "acknowledge")
        # no collector removes TX.name while TX.tx is there: if it is, it was our rename, and another replaced us since
        return s, to(me, "look_fence")

    def look_fence(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        return s, to(me, "acknowledge" if f.here and "TX.tx" in f.entries else "unknown")

    def find_pending(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if not f.here or ("TX.name" if self.by == "look" else "inode") not in f.entries:
            return s, to(me, "end")
        return self.make(s, me) if self.by == "one step" else (s, to(me, "make"))

    def make(self, s: Names, me: Naming) -> Outcome:
        if not s.links(self.name) or (self.mode == "x" and s.name is not None):
            return s, to(me, "end")
        return s._replace(name=self.name), to(me, "confirm" if self.by == "look" else "acknowledge")

    def confirm(self, s: Names, me: Naming) -> Outcome:
        f = s.file(self.name)
        if f.here and "TX.name" in f.entries:
            return s.having(self.name, drop(f, "TX.name")), to(me, "acknowledge")
        return (s._replace(name=None) if s.name == self.name else s), to(me, "end")

    def end(self, s: Names, me: Naming) -> Outcome:
        return self._without_intent(s)._replace(refused=s.refused | {self.name}), to(me, "error")

    def acknowledge(self, s: Names, me: Naming) -> Outcome:
        return s._replace(acked=s.acked | {self.name}), to(me, "unname")

    def unname(self, s: Names, me: Naming) -> Outcome:
        return self._without_intent(s), to(me, "done")

    def _without_intent(self, s: Names) -> Names:
        f = s.file(self.name)
        return s.having(self.name, drop(f, "TX.tx")) if f.here else s


@dataclass(frozen=True)
class NameCollector(Process):
    """Collect file `id`, if nothing refers to it.

    `guesses`: takes its writer for dead at any time; else it leaves files with a transaction alone. Controls: `aside`
    does not know TX.name: it renames the directory aside, counts again, and renames it back where it was wrong;
    `counts_again` False counts only before it looks at the transactions, `counts_first` False only after.
    """

    id: str
    name: str
    guesses: bool = True
    aside: bool = False
    counts_again: bool = True
    counts_first: bool = True
    ends: ClassVar[frozenset[str]] = frozenset({"nothing", "lives", "referenced", "removed", "put back"})

    def start(self) -> Bystander:
        return Bystander("guess")

    def guess(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        if not f.here:
            return s, to(me, "nothing")
        if "TX.tx" in f.entries:
            return s, to(me, "fence" if self.guesses else "lives")
        return s, to(me, "count" if self.aside else "see_pending")

    def fence(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, drop(f, "TX.tx")), to(me, "count" if self.aside else "see_pending")

    def see_pending(self, s: Names, me: Bystander) -> Outcome:
        return s, to(me, "see_its_intent" if "TX.name" in s.file(self.id).entries else "count")

    def see_its_intent(self, s: Names, me: Bystander) -> Outcome:
        return s, to(me, "lives" if "TX.tx" in s.file(self.id).entries else "unpend")

    def unpend(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, drop(f, "TX.name")), to(me, "count")

    def count(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        if not f.here:
            return s, to(me, "nothing")
        if not self.counts_first:
            return s, to(me, "transactions")
        if "inode" not in f.entries:
            return s, to(me, "rmdir")
        return s, to(me, "transactions" if s.links(self.id) == 1 else "referenced")

    def transactions(self, s: Names, me: Bystander) -> Outcome:
        if "TX.tx" in s.file(self.id).entries:
            return s, to(me, "lives")
        return s, to(me, "put_aside" if self.aside else "count_again" if self.counts_again else "numbers")

    def put_aside(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        if not f.here:
            return s, to(me, "nothing")
        return s.having(self.id, f._replace(directory=f"aside by {self.name}")), to(me, "count_again")

    def count_again(self, s: Names, me: Bystander) -> Outcome:
        return s, to(me, "numbers" if s.links(self.id) == 1 else "put_back" if self.aside else "referenced")

    def put_back(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, f._replace(directory="ID")), to(me, "put back")

    def numbers(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, drop(f, "1")), to(me, "segments")

    def segments(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, f._replace(segment=False)), to(me, "inode")

    def inode(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return s.having(self.id, drop(f, "inode")), to(me, "rmdir")

    def rmdir(self, s: Names, me: Bystander) -> Outcome:
        f = s.file(self.id)
        return (s if f.entries else s.having(self.id, f._replace(directory=None))), to(me, "removed")


def check_names(acked_only: bool = False, replaced: bool = False) -> Callable[[Names], Iterable[Breach]]:
    """Return the check; `acked_only`: a name whose maker was not acknowledged may lead to nothing."""

    def check(s: Names) -> Iterator[Breach]:
        ids = dict(s.files)
        if s.name in ids and (s.name in s.acked or not acked_only):
            f = s.file(s.name)
            if not (f.directory and f.segment and "1" in f.entries):
                yield Breach("OLD" if replaced else "NAMED", "a name leads to a file that was collected")
        if s.name in s.refused and not acked_only:
            yield Breach("TOLD", "a name leads to a file whose writer was told that it is not committed")

    return check


def final(s: Names) -> Iterator[Breach]:
    """Yield what would lie about for ever."""
    for i, f in s.files:
        if f.directory is not None and not f.here:
            yield Breach(
                "TIDY", f"the directory of {i} is left aside" + (", and a name leads to it" if s.name == i else "")
            )


def case(
    says: str,
    *processes: Process,
    mortal: Iterable[int] = (),
    old: str | None = None,
    nfs: bool = False,
    breaks: str | None = None,
) -> Case:
    """Return a case of the files that `processes` make, over a name that leads to `old`."""
    ids = tuple(p.name for p in processes if isinstance(p, Namer))
    first = Names(tuple((i, File()) for i in ids), old)
    return Case(says, first, processes, check_names(nfs, bool(old)), frozenset(mortal), final, breaks)


def two(guesses: bool = True, aside: bool = False) -> tuple[NameCollector, NameCollector]:
    """Return two collectors of file a."""
    return NameCollector("a", "gc", guesses, aside), NameCollector("a", "gc2", guesses, aside)


CASES = (
    case(
        "by rename: w over an old file, two collectors take its writer for dead, all may die",
        Namer("a", "w"),
        *two(),
        mortal=(0, 1, 2),
        old="old",
    ),
    case("by rename: x, two collectors, all may die", Namer("a"), *two(), mortal=(0, 1, 2)),
    case(
        "by rename: x and w of one name, a collector of each, writers may die",
        Namer("a"),
        Namer("b", "w"),
        NameCollector("a", "gc"),
        NameCollector("b", "gc2"),
        mortal=(0, 1),
    ),
    case(
        "by rename, the answer is lost: the name and TX.tx tell",
        Namer("a", "w", replies_lost=True),
        Namer("b", "w"),
        NameCollector("a", "gc"),
        mortal=(0,),
    ),
    case(
        "by link, then unlink TX.name (x on NFS): only a name that was not acknowledged may lead to nothing",
        Namer("a", by="look"),
        *two(),
        mortal=(0, 1, 2),
        nfs=True,
    ),
    case(
        "TX.tx before inode: a collector that guesses nothing takes no live file",
        Namer("a"),
        *two(guesses=False),
        mortal=(0,),
    ),
    case("by link, were linkat one step, and nobody dies", Namer("a", by="one step"), *two(aside=True)),
    case(
        "control: the links are counted once, before the transactions; nobody guesses",
        Namer("a"),
        NameCollector("a", "gc", guesses=False, counts_again=False),
        breaks="NAMED",
    ),
    case(
        "control: the links are counted once, after the transactions; nobody guesses",
        Namer("a"),
        NameCollector("a", "gc", guesses=False, counts_first=False),
        breaks="NAMED",
    ),
    case(
        "control: by link, the directory is renamed aside and counted again",
        Namer("a", by="link"),
        NameCollector("a", "gc", aside=True),
        breaks="NAMED",
    ),
    case(
        "control: the same with w over an old file",
        Namer("a", "w", "link"),
        NameCollector("a", "gc", aside=True),
        old="old",
        breaks="OLD",
    ),
    case(
        "control: were linkat one step, a collector dies after renaming aside",
        Namer("a", by="one step"),
        NameCollector("a", "gc", aside=True),
        mortal=(1,),
        breaks="TIDY",
    ),
    case(
        "control: inode before TX.tx, a collector that guesses nothing",
        Namer("a", inode_first=True),
        NameCollector("a", "gc", guesses=False),
        breaks="ALIVE",
    ),
    case(
        "control: the answer to rename is lost, and ENOENT is taken for fenced",
        Namer("a", "w", replies_lost=True, believes_enoent=True),
        breaks="TOLD",
    ),
)
