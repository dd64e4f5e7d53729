"""A loser rewrites its manifest in place for the next number, while answers of the network get lost.

State
    intent          the inode that ``TX.tx`` leads to: 1, or none
    base            what a's header pins
    numbers         number -> inode
    content         inode -> manifest: the number that it states, its transaction, is it whole
    wire            links that are still on their way
    seen, said      what each number was found to be; what a's caller was told

Writer a, and the system call of each step
    look            readdir(ID)
    half            pwrite(TX.tx), in place: half of the manifest ...
    whole           ... and the rest, fsync
    link            linkat(TX.tx, number). The answer is the first one's; or that of its repetition (EEXIST, by
                    ourselves); or there is none, and the link was made; or there is none, and it is on its way
    exists          EEXIST: open(number), pread(header)
    unclear         no answer: unlink(TX.tx) ...
    listed          ... then readdir(ID), open each number, pread(header)

Others
    commit          b: a whole commit ...
    commit_again    ... and one more
    deliver         network: a link that was on its way
    free            collector: unlink(number) below what is pinned

And, about inode numbers, which a file system uses again at once
    fence           b thinks a dead: unlink(TX.tx), whose inode number the next file gets

Invariants
----------
ONCE    A committed number never changes its content, and shows no half-written or foreign manifest.
TOLD    After "not committed" was said, it is never committed.
OURS    A generation is acknowledged only to who made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to


class Manifest(NamedTuple):
    """What an inode's first page says."""

    number: int
    by: str
    whole: bool = True


class Wire(NamedTuple):
    """What every process sees, and what is on its way."""

    intent: int | None = 1
    base: int = 0
    numbers: tuple[tuple[int, int], ...] = ((0, 10),)
    content: tuple[tuple[int, Manifest], ...] = ((10, Manifest(0, "o")),)
    wire: frozenset[int] = frozenset()
    seen: tuple[tuple[int, str], ...] = ()
    said: str = ""

    def top(self) -> int:
        """Return the highest number."""
        return self.numbers[-1][0]

    def manifest(self, n: int) -> Manifest | None:
        """Return what number `n` shows."""
        inode = dict(self.numbers).get(n)
        return None if inode is None else dict(self.content).get(inode)

    def written(self, inode: int, manifest: Manifest) -> Wire:
        """Return the state after `manifest` was written to `inode`, under whatever names it has."""
        return self._replace(content=tuple(sorted({**dict(self.content), inode: manifest}.items()))).noted()

    def linked(self, n: int) -> Wire:
        """Return the state after TX.tx was linked as `n`; unchanged where that is EEXIST or ENOENT."""
        if self.intent is None or n in dict(self.numbers):
            return self
        return self._replace(numbers=tuple(sorted((*self.numbers, (n, self.intent))))).noted()

    def noted(self) -> Wire:
        """Note what each number is seen to be."""
        seen = dict(self.seen)
        for n, inode in self.numbers:
            shown = dict(self.content)[inode]
            if shown.number == n and shown.whole:
                seen.setdefault(n, shown.by)
        return self._replace(seen=tuple(sorted(seen.items())))


def check(s: Wire) -> Iterator[Breach]:
    """Yield what is broken in one state."""
    seen = dict(s.seen)
    for n, inode in s.numbers:
        shown = dict(s.content)[inode]
        if shown.number == n and shown.whole:
            if seen[n] != shown.by:
                yield Breach("ONCE", "a number changed its content")
        elif n == s.top() or n in seen:
            yield Breach("ONCE", "a committed number shows a half-written or foreign manifest")
        if shown.by == "a" and s.said == "not committed":
            yield Breach("TOLD", "committed after 'not committed' was said")


class Trying(NamedTuple):
    """What a remembers."""

    at: str = "look"
    number: int = 0
    tries: int = 0


@dataclass(frozen=True)
class Loser(Process):
    """Commit, and try once more if another was first.

    `unclear_link`: "fence": its own name away, then look; controls: "again": the same link, until an answer is clear;
    "believe": EEXIST means lost, a time-out is settled by one look.
    """

    unclear_link: str = "fence"
    name: str = "a"
    ends: ClassVar[frozenset[str]] = frozenset({"committed", "not committed", "unknown", "fenced", "lost"})

    def start(self) -> Trying:
        return Trying()

    def look(self, s: Wire, me: Trying) -> Outcome:
        return s._replace(base=s.top()), Trying("half", s.top() + 1, me.tries + 1)

    def half(self, s: Wire, me: Trying) -> Outcome:
        return s.written(1, Manifest(me.number, "a", False)), to(me, "whole")

    def whole(self, s: Wire, me: Trying) -> Outcome:
        return s.written(1, Manifest(me.number, "a")), to(me, "link")

    def link(self, s: Wire, me: Trying) -> Outcome:
        if s.intent is None:
            return s, to(me, "fenced")
        after = s.linked(me.number)
        answered = (after, to(me, "committed" if after is not s else "exists"))
        repeated = (after, to(me, "exists"))
        timed_out = (after, to(me, "unclear"))
        lingers = (s._replace(wire=s.wire | {me.number}), to(me, "unclear"))
        return answered, repeated, timed_out, lingers

    def exists(self, s: Wire, me: Trying) -> Outcome:
        if self.unclear_link != "believe":
            there = s.manifest(me.number)
            if there is None:
                return s, to(me, "unclear")
            if there.by == "a":
                return s, to(me, "committed")
        return s, to(me, "look" if me.tries < 2 else "lost")

    def unclear(self, s: Wire, me: Trying) -> Outcome:
        if self.unclear_link == "again":
            return s, to(me, "link")
        if self.unclear_link == "believe":
            mine = dict(s.numbers).get(me.number) == 1
            return s, to(me, "committed" if mine else "look" if me.tries < 2 else "lost")
        return s._replace(intent=None), to(me, "listed")

    def listed(self, s: Wire, me: Trying) -> Outcome:
        manifests = dict(s.content)
        if any(manifests[inode].by == "a" for _, inode in s.numbers):
            return s, to(me, "committed")
        said = "unknown" if s.top() >= me.number else "not committed"  # ours may have been there, and freed since
        return s._replace(said=said), to(me, said)


@dataclass(frozen=True)
class Other(Process):
    """Another writer, who commits twice."""

    name: str = "b"

    def start(self) -> Bystander:
        return Bystander("commit")

    def commit(self, s: Wire, me: Bystander) -> Outcome:
        return self._commit(s, 11), to(me, "commit_again")

    def commit_again(self, s: Wire, me: Bystander) -> Outcome:
        return self._commit(s, 12), to(me, "done")

    def _commit(self, s: Wire, inode: int) -> Wire:
        n = s.top() + 1
        return s._replace(numbers=(*s.numbers, (n, inode))).written(inode, Manifest(n, "b"))


@dataclass(frozen=True)
class Network(Process):
    """Delivers links that had timed out."""

    name: str = "network"

    def start(self) -> Bystander:
        return Bystander("deliver")

    def deliver(self, s: Wire, me: Bystander) -> Outcome:
        if not s.wire:
            return None
        n = min(s.wire)
        return s._replace(wire=s.wire - {n}).linked(n), me


@dataclass(frozen=True)
class Freer(Process):
    """A collector, which frees what no base pins."""

    name: str = "gc"

    def start(self) -> Bystander:
        return Bystander("free")

    def free(self, s: Wire, me: Bystander) -> Outcome:
        old = [n for n, _ in s.numbers[:-1] if s.intent is None or n < s.base]
        return (s._replace(numbers=tuple(x for x in s.numbers if x[0] != old[0])), me) if old else None


class Reuse(NamedTuple):
    """TX.tx of a is removed; its inode number goes to a file of b, which takes the number that a wanted."""

    intent: bool = True
    number: int | None = None  # inode number of number 1
    by: str = ""


@dataclass(frozen=True)
class Fencer(Process):
    """Thinks a dead, removes its TX.tx, then commits itself."""

    name: str = "b"

    def start(self) -> Bystander:
        return Bystander("fence")

    def fence(self, s: Reuse, me: Bystander) -> Outcome:
        return s._replace(intent=False), to(me, "commit")

    def commit(self, s: Reuse, me: Bystander) -> Outcome:
        return (s if s.number else s._replace(number=1, by="b")), to(me, "done")


@dataclass(frozen=True)
class Asker(Process):
    """Links, and where the number is there, asks whose it is: by transaction, or (control) by inode number."""

    by_inode: bool = False
    name: str = "a"
    ends: ClassVar[frozenset[str]] = frozenset({"committed", "lost", "fenced"})

    def start(self) -> Bystander:
        return Bystander("link")

    def link(self, s: Reuse, me: Bystander) -> Outcome:
        if s.number:
            return s, to(me, "exists")
        if not s.intent:
            return s, to(me, "fenced")
        return s._replace(number=1, by="a"), to(me, "committed")

    def exists(self, s: Reuse, me: Bystander) -> Outcome:
        ours = s.number == 1 if self.by_inode else s.by == "a"
        if ours and s.by != "a":
            return Breach("OURS", "another's generation was acknowledged as mine")
        return s, to(me, "committed" if ours else "lost")


FIRST = frozenset({0})


def case(says: str, unclear_link: str, breaks: str | None = None) -> Case:
    """Return a case of one loser, another writer, a network and a collector."""
    return Case(says, Wire().noted(), (Loser(unclear_link), Other(), Network(), Freer()), check, FIRST, breaks=breaks)


CASES = (
    case("in place: the number is read back first; an unclear link ends it: own name away, then look", "fence"),
    Case("'is the number mine?' is answered by the transaction", Reuse(), (Asker(), Fencer())),
    case("control: an unclear link is repeated, then the manifest is rewritten", "again", "ONCE"),
    case("control: EEXIST is taken for lost, a time-out is settled by a look", "believe", "ONCE"),
    Case(
        "control: 'is the number mine?' is answered by the inode number",
        Reuse(),
        (Asker(by_inode=True), Fencer()),
        breaks="OURS",
    ),
)
