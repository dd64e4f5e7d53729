"""Readers register nothing: they list, open, read, and notice what was collected or moved under them.

State
    numbers         what is listed
    at              (generation, segment) -> the target where it is; a generation has two segments, a and b

Reader, and the system call of each step
    look            readdir(ID)
    open            open(number); ENOENT: list again. From here on the manifest is in memory
    size            the caller is given the size
    a1              open(segment a on target 1), pread, and the caller is given bytes
    a2              ENOENT: the same on target 2
    b1              open(segment b on target 1), pread
    b2              ENOENT: the same on target 2
    missed          ENOENT on all targets: stat(number)

Others
    commit          a whole commit, which replaces everything
    look            collector: readdir(ID)
    number          unlink(number)
    segment_a       unlink(segment a)
    segment_b       unlink(segment b)
    move            mover: copy, fsync, link, unlink

Invariants
----------
ONE-GENERATION  All bytes and sizes that one open gives are of one generation.
FRESH           And that is not older than the head when the open began.
NO-FALSE-ALARM  Damage is not reported of a file that is whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to


class Places(NamedTuple):
    """What every process sees: numbers, and (generation, segment) -> target."""

    numbers: frozenset[int] = frozenset({1})
    at: tuple[tuple[tuple[int, str], int], ...] = (((1, "a"), 1), ((1, "b"), 1))

    def without(self, generation: int, segment: str) -> Places:
        """Return it with one segment less."""
        return self._replace(at=tuple(x for x in self.at if x[0] != (generation, segment)))

    def having(self, generation: int, segment: str, target: int) -> Places:
        """Return it with the segment on `target`."""
        return self._replace(at=tuple(sorted({**dict(self.at), (generation, segment): target}.items())))


@dataclass(frozen=True)
class Committer(Process):
    """Commits twice."""

    name: str = "writer"

    def start(self) -> Bystander:
        return Bystander("commit")

    def commit(self, s: Places, me: Bystander) -> Outcome:
        n = max(s.numbers) + 1
        after = s._replace(numbers=s.numbers | {n}).having(n, "a", 1).having(n, "b", 1)
        return after, to(me, "commit" if n < 3 else "done")


class Collecting(NamedTuple):
    """What a collector remembers."""

    at: str = "look"
    old: tuple[int, ...] = ()


@dataclass(frozen=True)
class Collector(Process):
    """Frees old numbers, then their segments, whenever there are any."""

    name: str = "gc"

    def start(self) -> Collecting:
        return Collecting()

    def look(self, s: Places, me: Collecting) -> Outcome:
        old = tuple(sorted(s.numbers))[:-1]
        return (s, Collecting("number", old)) if old else None

    def number(self, s: Places, me: Collecting) -> Outcome:
        return s._replace(numbers=s.numbers - {me.old[0]}), to(me, "segment_a")

    def segment_a(self, s: Places, me: Collecting) -> Outcome:
        return s.without(me.old[0], "a"), to(me, "segment_b")

    def segment_b(self, s: Places, me: Collecting) -> Outcome:
        return s.without(me.old[0], "b"), Collecting("number" if me.old[1:] else "look", me.old[1:])


class Moving(NamedTuple):
    """What a mover remembers."""

    at: str = "move"
    left: int = 2


@dataclass(frozen=True)
class Mover(Process):
    """Moves segment a of generation 1 to the other target, and back."""

    name: str = "mover"

    def start(self) -> Moving:
        return Moving()

    def move(self, s: Places, me: Moving) -> Outcome:
        target = dict(s.at).get((1, "a"))
        after = s if target is None else s.having(1, "a", 3 - target)
        return after, Moving("move" if me.left > 1 else "done", me.left - 1)


class Reading(NamedTuple):
    """What a reader remembers."""

    at: str = "look"
    number: int = 0
    least: int = 0
    given: frozenset[int] = frozenset()
    back: str = ""
    misses: int = 0


@dataclass(frozen=True)
class Reader(Process):
    """Open the file, give its size, read both segments.

    Controls: `starts_over` begins again though something was given; `looks_again` False takes a segment that is on no
    target for damage at once.
    """

    name: str = "reader"
    starts_over: bool = False
    looks_again: bool = True
    ends: ClassVar[frozenset[str]] = frozenset({"done", "ESTALE", "damage"})

    def start(self) -> Reading:
        return Reading()

    def look(self, s: Places, me: Reading) -> Outcome:
        n = max(s.numbers)
        return s, to(me, "open", number=n, least=me.least or n)

    def open(self, s: Places, me: Reading) -> Outcome:
        return s, to(me, "size" if me.number in s.numbers else "look")

    def size(self, s: Places, me: Reading) -> Outcome:
        return self._give(s, me, "a1")

    def a1(self, s: Places, me: Reading) -> Outcome:
        return self._find(s, me, "a", 1, found="b1", missing="a2")

    def a2(self, s: Places, me: Reading) -> Outcome:
        return self._find(s, me, "a", 2, found="b1", missing="missed")

    def b1(self, s: Places, me: Reading) -> Outcome:
        return self._find(s, me, "b", 1, found="done", missing="b2")

    def b2(self, s: Places, me: Reading) -> Outcome:
        return self._find(s, me, "b", 2, found="done", missing="missed")

    def missed(self, s: Places, me: Reading) -> Outcome:
        if me.number in s.numbers:
            if not self.looks_again or me.misses == 3:
                return Breach("NO-FALSE-ALARM", "damage was reported of a whole file")
            return s, to(me, me.back, misses=me.misses + 1)
        return s, to(me, "look" if self.starts_over or not me.given else "ESTALE")

    def _find(self, s: Places, me: Reading, segment: str, target: int, found: str, missing: str) -> Outcome:
        if dict(s.at).get((me.number, segment)) == target:
            return self._give(s, me._replace(misses=0), found)
        return s, to(me, missing, back=f"{segment}1")

    def _give(self, s: Places, me: Reading, at: str) -> Outcome:
        given = me.given | {me.number}
        if len(given) > 1:
            return Breach("ONE-GENERATION", "bytes or sizes of two generations in one open")
        if me.number < me.least:
            return Breach("FRESH", "older than the head when the open began")
        return s, to(me, at, given=given)


CASES = (
    Case(
        "a reader that lists, opens, gives the size, reads; commits, a collector, a mover",
        Places(),
        (Reader(), Committer(), Collector(), Mover()),
    ),
    Case(
        "two readers, two collectors",
        Places(),
        (Reader(), Reader("reader2"), Committer(), Collector(), Collector("gc2")),
    ),
    Case(
        "control: a reader starts over after something was given",
        Places(),
        (Reader(starts_over=True), Committer(), Collector()),
        breaks="ONE-GENERATION",
    ),
    Case(
        "control: a segment on no target is damage though its number is still there",
        Places(),
        (Reader(looks_again=False), Mover()),
        breaks="NO-FALSE-ALARM",
    ),
)
