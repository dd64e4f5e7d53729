"""A listing takes time: a directory larger than one ``getdents64`` is not read at one instant.

Measured on ext4, 1,500 entries: while one process linked n + 1 and then unlinked n, over and over, 21 of another's
1,249 listings showed no number at all, though there always was one. POSIX promises no more than that an entry which is
there all the time is listed. The registration protects a writer's listing, for no collector frees then what the writer
may miss. A reader and a collector register nothing. Hence a rule of time:

    A listing that took longer than D is thrown away and done again. A collector frees a number no sooner than D
    after it saw a higher one. D is never waived, also where the grace time is.

Each measures on its own clock (CLOCK_BOOTTIME), so clocks need not agree. Why it is enough: what a listing misses
was freed while it ran; who freed it had seen a higher number more than D before, so before the listing began; that one
is listed, or the same holds of it. The model has no clock: a `Freer` waits for each listing that had begun when it
looked.

State
    numbers         n is made by transaction n, and names the segments of 1 to n
    segments        transactions that have segments
    intent          a writer's ``TX.tx``: its base, or "new"
    listing         who is listing

Listers: readers, collectors, writers
    begin           the first getdents64(ID)
    slot            the next entry; the highest number comes first, the order that misses most
    delete          a discarder, or a collector's second look: unlink of the segment that no listed manifest names
    choose          a writer: open(TX.tx, O_CREAT | O_EXCL), then the listing
    record          pwrite(TX.tx, header)
    link            linkat(TX.tx, base + 1)

Others
    commit          a whole commit
    see_numbers     a collector: readdir(ID), at one instant
    see_intents     readdir(ID), open(TX.tx), pread(header)
    wait            time passes, at least D
    free            unlink(number)

Invariants
----------
FRESH   A reader gets the head of the time when it began, or a newer one; never "no generation" of a file that has one.
WHOLE   Every segment that the head names is there.
LINEAR  A number is linked on the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .engine import Breach, Bystander, Case, Outcome, Process, to

TOP = 6
"""The highest number that a case can reach."""


class Store(NamedTuple):
    """What every process sees."""

    numbers: frozenset[int]
    segments: frozenset[int]
    intent: int | str | None = None
    listing: frozenset[str] = frozenset()

    def head(self) -> int:
        """Return the highest number."""
        return max(self.numbers)


def check(s: Store) -> Iterator[Breach]:
    """Yield what is broken in one state."""
    if not set(range(1, s.head() + 1)) <= s.segments:
        yield Breach("WHOLE", "the head names a segment that is gone")


@dataclass(frozen=True)
class Committer(Process):
    """Others who commit, up to number `up_to`: each commit is one step here."""

    up_to: int
    name: str = "others"

    def start(self) -> Bystander:
        return Bystander("commit")

    def commit(self, s: Store, me: Bystander) -> Outcome:
        n = s.head() + 1
        after = s._replace(numbers=s.numbers | {n}, segments=s.segments | {n})
        return after, to(me, "done" if n >= self.up_to else "commit")


class Freeing(NamedTuple):
    """What a freer remembers."""

    at: str = "see_numbers"
    old: tuple[int, ...] = ()
    wait: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Freer(Process):
    """A collector's half that frees numbers, again and again; `keeps` the newest durable one. `waits`: the rule D."""

    waits: bool
    keeps: frozenset[int] = frozenset()
    name: str = "freer"

    def start(self) -> Freeing:
        return Freeing()

    def see_numbers(self, s: Store, me: Freeing) -> Outcome:
        old = tuple(sorted(s.numbers - {s.head()} - self.keeps))
        return (s, to(me, "see_intents", old=old, wait=s.listing if self.waits else frozenset())) if old else None

    def see_intents(self, s: Store, me: Freeing) -> Outcome:
        old = tuple(n for n in me.old if s.intent is None or (isinstance(s.intent, int) and n < s.intent))
        return s, to(me, "wait" if old else "see_numbers", old=old)

    def wait(self, s: Store, me: Freeing) -> Outcome:
        return None if me.wait & s.listing else self.free(s, me._replace(wait=frozenset()))

    def free(self, s: Store, me: Freeing) -> Outcome:
        return s._replace(numbers=s.numbers - {me.old[0]}), to(
            me, "free" if me.old[1:] else "see_numbers", old=me.old[1:]
        )


class Listing(NamedTuple):
    """What a lister remembers."""

    at: str
    slot: int = TOP
    seen: tuple[int, ...] = ()
    least: int = 0
    before: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Lister(Process):
    """Look at all slots of the directory; a subclass says what it does with what it saw."""

    name: str = "lister"

    def start(self) -> Listing:
        return Listing("begin")

    def begin(self, s: Store, me: Listing) -> Outcome:
        least = me.least or s.head()
        return s._replace(listing=s.listing | {self.name}), to(me, "slot", slot=TOP, seen=(), least=least)

    def slot(self, s: Store, me: Listing) -> Outcome:
        seen = (*me.seen, me.slot) if me.slot in s.numbers else me.seen
        if me.slot > 1:
            return s, to(me, "slot", slot=me.slot - 1, seen=seen)
        return self.listed(s._replace(listing=s.listing - {self.name}), to(me, "listed", seen=seen))

    def listed(self, s: Store, me: Listing) -> Outcome:
        """Go on with what was seen."""
        raise NotImplementedError


@dataclass(frozen=True)
class Reader(Lister):
    """Opens the file. `twice` (control): believes a listing that is the same as the one before."""

    twice: bool = False

    def listed(self, s: Store, me: Listing) -> Outcome:
        if self.twice and me.before != me.seen:
            return s, to(me, "begin", before=me.seen, seen=())
        if not me.seen:
            return Breach("FRESH", "a file that has a generation was taken for one without")
        if me.seen[0] < me.least:
            return Breach("FRESH", "an older generation than the head when the reader began")
        return s, Listing("done")


@dataclass(frozen=True)
class Discarder(Lister):
    """Has removed TX.tx of transaction `victim`, now looks whether a number carries it or names its segments.

    Stands for a collector's second look at the numbers, too: it deletes what no listed manifest names.
    """

    victim: int = 2

    def listed(self, s: Store, me: Listing) -> Outcome:
        named = bool(me.seen) and me.seen[0] >= self.victim
        return s, Listing("done" if named else "delete")

    def delete(self, s: Store, me: Listing) -> Outcome:
        return s._replace(segments=s.segments - {self.victim}), Listing("done")


@dataclass(frozen=True)
class Writer(Lister):
    """Registers, lists, records its base and links. `registers_first` False (control): lists, then registers."""

    registers_first: bool = True

    def start(self) -> Listing:
        return Listing("choose")

    def choose(self, s: Store, me: Listing) -> Outcome:
        return (s._replace(intent="new") if self.registers_first else s), to(me, "begin")

    def listed(self, s: Store, me: Listing) -> Outcome:
        return s, Listing("record", seen=me.seen[:1])

    def record(self, s: Store, me: Listing) -> Outcome:
        return s._replace(intent=me.seen[0] if me.seen else 0), to(me, "link")

    def link(self, s: Store, me: Listing) -> Outcome:
        base = me.seen[0] if me.seen else 0
        if base + 1 in s.numbers:
            return s, Listing("done")
        if base != s.head():
            return Breach("LINEAR", "a number below the head was linked")
        return s._replace(numbers=s.numbers | {base + 1}, segments=s.segments | {base + 1}, intent=None), Listing(
            "done"
        )


ONE = Store(frozenset({2}), frozenset({1, 2}))
DURABLE_BELOW = Store(frozenset({1, 2}), frozenset({1, 2}))
KEEP = frozenset({1})

CASES = (
    Case(
        "a reader: a number is freed only D after a higher one was seen",
        ONE,
        (Reader(), Committer(5), Freer(True)),
        check,
    ),
    Case(
        "a reader, an older durable generation is kept",
        DURABLE_BELOW,
        (Reader(), Committer(5), Freer(True, KEEP)),
        check,
    ),
    Case(
        "a discarder, an older durable generation is kept",
        DURABLE_BELOW,
        (Discarder(), Committer(5), Freer(True, KEEP)),
        check,
    ),
    Case(
        "a reader and a discarder, two who free",
        DURABLE_BELOW,
        (Reader("reader"), Discarder(), Committer(5), Freer(True, KEEP), Freer(True, KEEP, "freer2")),
        check,
    ),
    Case("a registered writer needs no D", DURABLE_BELOW, (Writer(), Committer(5), Freer(False, KEEP)), check),
    Case(
        "control: without D a reader finds no number",
        ONE,
        (Reader(), Committer(5), Freer(False)),
        check,
        breaks="FRESH",
    ),
    Case(
        "control: without D a reader finds an older number",
        DURABLE_BELOW,
        (Reader(), Committer(5), Freer(False, KEEP)),
        check,
        breaks="FRESH",
    ),
    Case(
        "control: without D, two equal listings prove nothing",
        DURABLE_BELOW,
        (Reader(twice=True), Committer(6), Freer(False, KEEP)),
        check,
        breaks="FRESH",
    ),
    Case(
        "control: without D a discarder deletes what the head names",
        DURABLE_BELOW,
        (Discarder(), Committer(5), Freer(False, KEEP)),
        check,
        breaks="WHOLE",
    ),
    Case(
        "control: a writer lists before it registers",
        DURABLE_BELOW,
        (Writer(registers_first=False), Committer(5), Freer(False, KEEP)),
        check,
        breaks="LINEAR",
    ),
)
