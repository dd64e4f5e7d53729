"""A conflict keeps what it read, while collectors list one directory slot after the other.

Generation 2 stands on generation 1; transaction a, on base 1, has lost to 2 and found a byte that both changed.

State
    file            the name of a's file: ``TX.tx``, or ``TX.conflict`` in a control, or none
    word            what its header says
    numbers         1 and 2, as long as they are there
    segments        s1 and s2 of the generations, a of the transaction

Loser, and the system call of its step
    keep            pwrite(TX.tx, header): the word "conflict" (control: rename(TX.tx, TX.conflict))

Collector, twice
    see_segments    readdir(targets)
    see_numbers     readdir(ID)
    see_conflict    a slot of readdir(ID), open, pread(header)
    see_intent      another slot of it
    see_again       readdir(ID)
    delete          unlink(segments)
    free            unlink(numbers)

Discarder, who thinks a dead
    guess           readdir(ID), heartbeat
    fence           unlink(TX.tx)
    look            readdir(ID): no number is a's
    delete          unlink(segments)

Invariants
----------
CONFLICT  What a kept conflict needs is there: its own segments, its base's, the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to


class Lost(NamedTuple):
    """What every process sees."""

    file: str | None = "TX.tx"
    word: str = "live"
    numbers: frozenset[int] = frozenset({1, 2})
    segments: frozenset[str] = frozenset({"s1", "s2", "a"})


def check(s: Lost) -> Iterator[Breach]:
    """Yield what is broken in one state."""
    if s.file and not {"s1", "s2", "a"} <= s.segments:
        yield Breach("CONFLICT", "a conflict's base or segments were collected")


@dataclass(frozen=True)
class Loser(Process):
    """Keep the conflict: by a word in the header, or (`renames`, control) by another name."""

    renames: bool = False
    name: str = "a"

    def start(self) -> Bystander:
        return Bystander("keep")

    def keep(self, s: Lost, me: Bystander) -> Outcome:
        if not s.file:
            return s, to(me, "done")
        return (s._replace(file="TX.conflict") if self.renames else s._replace(word="conflict")), to(me, "done")


class Collecting(NamedTuple):
    """What a collector remembers."""

    at: str = "see_segments"
    segments: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    old: frozenset[int] = frozenset()
    live: bool = False
    pinned: bool = False
    again: bool = False


@dataclass(frozen=True)
class Collector(Process):
    """Collect twice.

    `conflict`: what it makes of one: "pins": a transaction like any other; "names": a manifest that names segments,
    of which those count that either listing of numbers named; "names once" (control): only the second.
    """

    conflict: str = "pins"
    name: str = "gc"

    def start(self) -> Collecting:
        return Collecting()

    def see_segments(self, s: Lost, me: Collecting) -> Outcome:
        return s, Collecting("see_numbers", s.segments, again=me.again)

    def see_numbers(self, s: Lost, me: Collecting) -> Outcome:
        named = frozenset(f"s{n}" for n in s.numbers) if self.conflict == "names" else frozenset()
        return s, to(me, "see_conflict", named=named, old=s.numbers - {max(s.numbers)})

    def see_conflict(self, s: Lost, me: Collecting) -> Outcome:
        return s, to(self._see(s, me, "TX.conflict"), "see_intent")

    def see_intent(self, s: Lost, me: Collecting) -> Outcome:
        return s, to(self._see(s, me, "TX.tx"), "see_again")

    def _see(self, s: Lost, me: Collecting, slot: str) -> Collecting:
        if s.file != slot:
            return me
        if s.word == "live" or self.conflict == "pins":
            return me._replace(live=True, pinned=True)
        return me._replace(live=True, named=me.named | {"s1", "a"})

    def see_again(self, s: Lost, me: Collecting) -> Outcome:
        dead = me.segments - me.named - {f"s{n}" for n in s.numbers} - ({"a"} if me.live else set())
        return s, to(me, "delete", segments=dead, named=frozenset())

    def delete(self, s: Lost, me: Collecting) -> Outcome:
        return s._replace(segments=s.segments - me.segments), to(me, "free")

    def free(self, s: Lost, me: Collecting) -> Outcome:
        after = s if me.pinned else s._replace(numbers=s.numbers - me.old)
        return after, Collecting("done" if me.again else "see_segments", again=True)


@dataclass(frozen=True)
class Discarder(Process):
    """Thinks a dead, and discards it."""

    name: str = "gc"
    ends: ClassVar[frozenset[str]] = frozenset({"done", "nothing"})

    def start(self) -> Bystander:
        return Bystander("guess")

    def guess(self, s: Lost, me: Bystander) -> Outcome:
        return s, to(me, "fence" if s.file == "TX.tx" and s.word == "live" else "nothing")

    def fence(self, s: Lost, me: Bystander) -> Outcome:
        return (s._replace(file=None) if s.file == "TX.tx" else s), to(me, "look")

    def look(self, s: Lost, me: Bystander) -> Outcome:
        return s, to(me, "delete")  # no number is a's, and no manifest names its segments

    def delete(self, s: Lost, me: Bystander) -> Outcome:
        return s._replace(segments=s.segments - {"a"}), to(me, "done")


def two(conflict: str) -> tuple[Collector, Collector]:
    """Return two collectors."""
    return Collector(conflict), Collector(conflict, "gc2")


CASES = (
    Case(
        "a word in the header of TX.tx, which pins its base as before; two collectors",
        Lost(),
        (Loser(), *two("pins")),
        check,
    ),
    Case(
        "its manifest counts as one that names, collectors keep what either listing named",
        Lost(),
        (Loser(), *two("names")),
        check,
    ),
    Case("a word in the header, and somebody discards it, thinking it dead", Lost(), (Loser(), Discarder()), check),
    Case(
        "control: only what the second listing named is kept",
        Lost(),
        (Loser(), *two("names once")),
        check,
        breaks="CONFLICT",
    ),
    Case(
        "control: TX.tx is renamed while the directory is listed",
        Lost(),
        (Loser(renames=True), *two("pins")),
        check,
        breaks="CONFLICT",
    ),
    Case(
        "control: TX.tx is renamed, so ENOENT is no fence",
        Lost(),
        (Loser(renames=True), Discarder()),
        check,
        breaks="CONFLICT",
    ),
)
