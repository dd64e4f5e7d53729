"""An inline file is written again while others remove, replace, hard-link or read it.

State: two names, and the directory of the file
    name, name2     lead to inode I (the file), to J (another one), or to nothing; name2 is what somebody may ``ln``
    directory       is aa/ID there
    inode           what aa/ID/inode leads to
    intents         who has a ``TX.tx``
    numbers         (number, line of descent)
    segments        transactions that have segments
    acked, ever     whose commit has returned; was a number ever linked

Writer, and the system call of each step
    open                open(name)
    mkdir               mkdir aside, chmod, rename to aa/ID
    link_inode          linkat(/proc/self/fd/N, inode, AT_SYMLINK_FOLLOW): the opened inode; ENOENT: it has no link left
    create              open(TX.tx, O_CREAT | O_EXCL)
    check               stat(inode): still this inode, and named
    look                readdir(ID), then pwrite(header), as in `commit`
    segment             open(segment, O_CREAT | O_EXCL), pwrite, fsync, close
    link                pwrite(manifest), fsync, linkat(TX.tx, number)
    acknowledge         fsync(ID), and the call returns
    unname              unlink(TX.tx)
    discard             unlink(TX.tx)
    discard_segments    unlink(segment)
    rmdir               rmdir(ID)

Collector; a remover begins with the name
    unlink          unlink(name), or rename over it, and fsync of its directory
    count           stat(inode)
    transactions    readdir(ID)
    count_again     stat(inode)
    number          unlink(number), one after the other
    segments        unlink(segments)
    inode           unlink(inode)
    rmdir           rmdir(ID)

Reader
    resolve         open(name)
    look            readdir(ID)
    resolve_again   stat(name): without that, an empty listing proves nothing

Somebody with ``ln``
    resolve         linkat(name, name2) resolves ...
    link            ... and links

Invariants
----------
KEPT    While a name leads to the file, an acknowledged commit is in the line of descent of the head.
WHOLE   While a name leads to the file, every segment that the head names is there.
OWN     ``aa/ID/inode`` is the file's own inode.
LINEAR  A file that has, or had, a generation is never taken for one without.
FRESH   A reader gets what was acknowledged before it began, or newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to

Number = tuple[int, tuple[str, ...]]
NONE: Number = (0, ())


class Inline(NamedTuple):
    """What every process sees."""

    name: str | None = "I"
    name2: str | None = None
    directory: bool = False
    inode: str | None = None
    intents: frozenset[str] = frozenset()
    numbers: frozenset[Number] = frozenset()
    segments: frozenset[str] = frozenset()
    acked: frozenset[str] = frozenset()
    ever: bool = False

    def links(self) -> int:
        """Count the links of the file's inode."""
        return (self.name, self.name2, self.inode).count("I")

    def head(self) -> Number:
        """Return the highest number."""
        return max(self.numbers, default=NONE)

    def empty(self) -> bool:
        """Tell whether rmdir would succeed."""
        return not (self.inode or self.intents or self.numbers)


def check(s: Inline) -> Iterator[Breach]:
    """Yield what is broken in one state."""
    if s.inode == "J":
        yield Breach("OWN", "aa/ID/inode is another file's")
    if "I" in (s.name, s.name2):
        line = set(s.head()[1])
        if not s.acked <= line:
            yield Breach("KEPT", "an acknowledged commit is lost")
        if not line <= s.segments:
            yield Breach("WHOLE", "the head names a segment that is gone")


class Rewriting(NamedTuple):
    """What a writer remembers."""

    at: str = "open"
    base: Number = NONE
    looks: int = 0
    failed: str = ""


@dataclass(frozen=True)
class Rewriter(Process):
    """Write the file again, and once more if another was first.

    Controls: `by_path` links the name's inode, not the opened one; `checks` False does not look whether the file still
    has a name after registering.
    """

    name: str
    by_path: bool = False
    checks: bool = True
    ends: ClassVar[frozenset[str]] = frozenset({"done", "error"})

    def start(self) -> Rewriting:
        return Rewriting()

    def open(self, s: Inline, me: Rewriting) -> Outcome:
        return s, to(me, "mkdir" if s.name == "I" else "error")

    def mkdir(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(directory=True), to(me, "link_inode")

    def link_inode(self, s: Inline, me: Rewriting) -> Outcome:
        if not s.directory:
            return s, to(me, "mkdir" if s.links() else "error")
        if s.inode:
            return s, to(me, "create")
        inode = s.name if self.by_path else "I" if s.links() else None
        return s._replace(inode=inode), to(me, "create" if inode else "rmdir")

    def create(self, s: Inline, me: Rewriting) -> Outcome:
        if not s.directory:
            return s, to(me, "error")
        return s._replace(intents=s.intents | {self.name}), to(me, "check")

    def check(self, s: Inline, me: Rewriting) -> Outcome:
        named = s.inode == "I" and s.links() >= 2
        return s, to(me, "look" if named or not self.checks else "discard")

    def look(self, s: Inline, me: Rewriting) -> Outcome:
        return s, to(me, "segment", base=s.head(), looks=me.looks + 1)

    def segment(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(segments=s.segments | {self.name}), to(me, "link")

    def link(self, s: Inline, me: Rewriting) -> Outcome:
        n, line = me.base
        if self.name not in s.intents:
            return s, to(me, "discard")
        if n + 1 in dict(s.numbers):
            return s, to(me, "look" if me.looks < 2 else "discard")
        if n == 0 and s.ever:
            return Breach("LINEAR", "a removed file was taken for one without generations")
        return s._replace(numbers=s.numbers | {(n + 1, (*line, self.name))}, ever=True), to(me, "acknowledge")

    def acknowledge(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(acked=s.acked | {self.name}), to(me, "unname")

    def unname(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(intents=s.intents - {self.name}), Rewriting("done")

    def discard(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(intents=s.intents - {self.name}), Rewriting("discard_segments")

    def discard_segments(self, s: Inline, me: Rewriting) -> Outcome:
        return s._replace(segments=s.segments - {self.name}), Rewriting("rmdir")

    def rmdir(self, s: Inline, me: Rewriting) -> Outcome:
        return rmdir(s), Rewriting("error")


def rmdir(s: Inline) -> Inline:
    """Remove the directory, which fails if there is anything in it."""
    return s._replace(directory=False) if s.directory and s.empty() else s


@dataclass(frozen=True)
class IdCollector(Process):
    """Collect the id if nothing refers to it; its `first` step is ``unlink`` where it removes the name.

    `becomes`: what the name leads to afterwards.
    """

    name: str = "gc"
    becomes: str | None = None
    first: str = "count"
    ends: ClassVar[frozenset[str]] = frozenset({"nothing", "waits", "referenced", "removed"})

    def start(self) -> Bystander:
        return Bystander(self.first)

    def unlink(self, s: Inline, me: Bystander) -> Outcome:
        return (s._replace(name=self.becomes), to(me, "count")) if s.name == "I" else (s, to(me, "nothing"))

    def count(self, s: Inline, me: Bystander) -> Outcome:
        return s, to(me, "transactions" if s.inode == "I" and s.links() == 1 else "referenced")

    def transactions(self, s: Inline, me: Bystander) -> Outcome:
        return s, to(me, "waits" if s.intents else "count_again")

    def count_again(self, s: Inline, me: Bystander) -> Outcome:
        return s, to(me, "number" if s.inode == "I" and s.links() == 1 else "referenced")

    def number(self, s: Inline, me: Bystander) -> Outcome:
        if not s.numbers:
            return self.segments(s, me)
        return s._replace(numbers=s.numbers - {min(s.numbers)}), to(me, "number")

    def segments(self, s: Inline, me: Bystander) -> Outcome:
        return s._replace(segments=s.segments & s.intents), to(me, "inode")

    def inode(self, s: Inline, me: Bystander) -> Outcome:
        return s._replace(inode=None), to(me, "rmdir")

    def rmdir(self, s: Inline, me: Bystander) -> Outcome:
        return rmdir(s), to(me, "removed")


def remover(becomes: str | None = None, name: str = "rm") -> IdCollector:
    """Return who removes the name, or renames another file over it, and collects."""
    return IdCollector(name, becomes, "unlink")


@dataclass(frozen=True)
class Linker(Process):
    """Somebody who calls ``ln name name2`` by hand: the kernel resolves first, then links."""

    name: str = "ln"

    def start(self) -> Bystander:
        return Bystander("resolve")

    def resolve(self, s: Inline, me: Bystander) -> Outcome:
        return s, to(me, "link" if s.name == "I" else "done")

    def link(self, s: Inline, me: Bystander) -> Outcome:
        return (s._replace(name2="I") if s.links() else s), to(me, "done")


class Reading(NamedTuple):
    """What a reader remembers."""

    at: str = "resolve"
    must: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reader(Process):
    """Read the file; `looks_again` False (control): believes an empty listing."""

    looks_again: bool = True
    name: str = "reader"
    ends: ClassVar[frozenset[str]] = frozenset({"done", "no such file"})

    def start(self) -> Reading:
        return Reading()

    def resolve(self, s: Inline, me: Reading) -> Outcome:
        return s, (Reading("look", s.acked) if s.name == "I" else Reading("no such file"))

    def look(self, s: Inline, me: Reading) -> Outcome:
        if s.numbers:
            return self._got(s, me, s.head()[1])
        return (s, to(me, "resolve_again")) if self.looks_again else self._got(s, me, ())

    def resolve_again(self, s: Inline, me: Reading) -> Outcome:
        return self._got(s, me, ()) if s.name == "I" else (s, Reading())

    def _got(self, s: Inline, me: Reading, line: tuple[str, ...]) -> Outcome:
        if not me.must <= set(line):
            return Breach("FRESH", "the inline data was read though a generation had been acknowledged before")
        return s, Reading("done")


INLINE = Inline()
WRITTEN = Inline(
    directory=True,
    inode="I",
    numbers=frozenset({(1, ("o",))}),
    segments=frozenset({"o"}),
    acked=frozenset({"o"}),
    ever=True,
)
A, B = Rewriter("a"), Rewriter("b")


def case(says: str, first: Inline, *processes: Process, mortal: Any = (), breaks: str | None = None) -> Case:
    """Return a case of one inline file."""
    return Case(says, first, processes, check, frozenset(mortal), breaks=breaks)


CASES = (
    case("written again by two at once, a reader; the writers may die", INLINE, A, B, Reader(), mortal=(0, 1)),
    case(
        "written again by two, removed by one who collects, a reader; all may die",
        INLINE,
        A,
        B,
        remover(),
        Reader(),
        mortal=(0, 2),
    ),
    case(
        "written again by two, replaced by another file, a collector",
        INLINE,
        A,
        B,
        remover("J"),
        IdCollector(),
        mortal=(0, 2),
    ),
    case(
        "with a generation: a writer, one who removes and collects, a collector, a reader",
        WRITTEN,
        A,
        remover(),
        IdCollector(),
        Reader(),
        mortal=(0, 1),
    ),
    case(
        "control: the name's inode is linked by its path, and the name was replaced",
        INLINE,
        Rewriter("a", by_path=True),
        remover("J"),
        breaks="OWN",
    ),
    case(
        "control: a writer does not look for the name after it registered",
        WRITTEN,
        Rewriter("a", checks=False),
        remover(),
        breaks="LINEAR",
    ),
    case(
        "control: a reader believes an empty listing without looking at the name again",
        WRITTEN,
        remover(),
        Reader(looks_again=False),
        breaks="FRESH",
    ),
    case("control, a known limit: ln of a name that is being removed", WRITTEN, remover(), Linker(), breaks="KEPT"),
)
