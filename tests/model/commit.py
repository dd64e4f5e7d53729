"""The commit of one file: writers, losers, collectors, and wrong guesses about who is dead.

State: the directory ``files/aa/ID``, and the segments on the targets
    numbers         number -> generation: who made it, its line of descent, whose segments its manifest names;
                    of a damaged one nothing can be read
    intents         ``TX.tx`` -> the base in its header: NEW (the page is not written, or says "no base yet"),
                    TORN (a reader gets a page whose checksum is wrong), or a number
    segments        transactions that have segments
    acked           whose commit has returned to its caller

Writer, and the system call of each step
    create          open(TX.tx, O_CREAT | O_EXCL)
    look            readdir(ID)
    record          pwrite(TX.tx, header): where it may tear, its first half ...
    recorded        ... and its second
    segment         open(segment, O_CREAT | O_EXCL), pwrite, fsync, close
    compare         a loser: open(old base), open(new base), read
    body            copy_file_range(base -> TX.tx), pwrite, fsync, close
    link            linkat(TX.tx, number)
    exists          EEXIST: open(number), pread(header)
    acknowledge     fsync(ID), and the call returns
    unname          unlink(TX.tx)

Discard: one procedure for abort, loser and collector
    meet            a collector: readdir(ID), and its heartbeat seems dead
    fence           unlink(TX.tx)
    fence_list      readdir(ID)
    fence_read      open(number), read its manifest; ENOENT: list again
    fence_delete    unlink(segment)

Collector
    see_segments    readdir(targets)
    see_numbers     readdir(ID)
    see_intents     readdir(ID)
    read_intent     open(TX.tx), pread(header)
    see_again       readdir(ID)
    read_number     open(number), read its manifest; ENOENT: list again
    delete          unlink(segment)
    free            unlink(number)

A listing is one step for each kind of thing (`listing` takes it apart). The look at ID/inode after ``create`` is in
`inline`, fsync of directories in `cuts`, unclear answers in `retry`.

Invariants
----------
KEPT    An acknowledged commit is in the line of descent of the head.
WHOLE   Every segment that the head names is there.
BASED   What a live writer's recorded base is and names stays: the writer may have to read it.
LINEAR  A commit stands on the newest content: the head at the moment when its number was linked.
FENCED  A transaction whose name ``TX.tx`` is gone never becomes a number. (Here by construction: linkat says ENOENT.
        `retry` asks it of a network, as TOLD.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from .engine import Breach, Case, Outcome, Process, to

NEW, TORN = "no base yet", "torn"


class Generation(NamedTuple):
    """A number and the manifest behind it."""

    number: int
    by: str
    line: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    whole: bool = True


class Intent(NamedTuple):
    """A ``TX.tx`` that has a name, and the base that its header says."""

    by: str
    base: int | str


class Store(NamedTuple):
    """What every process sees."""

    numbers: tuple[Generation, ...]
    intents: frozenset[Intent] = frozenset()
    segments: frozenset[str] = frozenset()
    acked: frozenset[str] = frozenset()

    def head(self) -> Generation:
        """Return the newest generation that can be read."""
        return next(g for g in reversed(self.numbers) if g.whole)

    def number(self, n: int) -> Generation | None:
        """Return what number `n` leads to."""
        return next((g for g in self.numbers if g.number == n), None)

    def intent(self, by: str) -> Intent | None:
        """Return the intent of `by`, if its name is there."""
        return next((i for i in self.intents if i.by == by), None)

    def has(self, g: Generation) -> bool:
        """Tell whether all segments that `g` names are there."""
        return g.names <= self.segments


def check(s: Store) -> Iterator[Breach]:
    """Yield what is broken in one state."""
    head = s.head()
    if not s.acked <= set(head.line):
        yield Breach("KEPT", "an acknowledged commit is lost")
    if not s.has(head):
        yield Breach("WHOLE", "the head names a segment that is gone")
    for intent in s.intents:
        if isinstance(intent.base, int):
            base = s.number(intent.base)
            if base is None:
                yield Breach("BASED", "a live writer's base was freed")
            elif not s.has(base):
                yield Breach("BASED", "a segment of a live writer's base is gone")


class Writing(NamedTuple):
    """What a writer remembers."""

    at: str = "create"
    seen: tuple[int, ...] = ()  # fence: numbers yet to be read
    mine: bool = False  # fence: a number carries or names the transaction
    was: int = 0  # the base that it recorded, for ever
    base: int = 0  # what the manifest stands on
    next: int = 0  # the number that it wants
    wrote: bool = False
    tries: int = 0
    manifest: Generation | None = None


@dataclass(frozen=True)
class Writer(Process):
    """One transaction, from its registration to its end.

    `part`: keeps stripes of its base (else it replaces all). `retries`: how often a loser tries again. `torn`: the
    header page is written in two halves. `keeps_base` False (control): a loser records the newer base before it has
    compared the two.
    """

    name: str
    part: bool = True
    retries: int = 1
    torn: bool = False
    keeps_base: bool = True

    ends: ClassVar[frozenset[str]] = frozenset({"done", "lost"})

    def start(self) -> Writing:
        return Writing()

    def create(self, s: Store, me: Writing) -> Outcome:
        return s._replace(intents=s.intents | {Intent(self.name, NEW)}), to(me, "look")

    def look(self, s: Store, me: Writing) -> Outcome:
        base, again = s.head().number, me.wrote
        at = "compare" if again and self.keeps_base else "record"
        return s, to(me, at, base=base, next=s.numbers[-1].number + 1, was=me.was if again else base)

    def record(self, s: Store, me: Writing) -> Outcome:
        if s.intent(self.name) is None:
            return s, to(me, "fence")
        return self._with_base(s, TORN if self.torn else me.base), to(me, "recorded" if self.torn else self._next(me))

    def recorded(self, s: Store, me: Writing) -> Outcome:
        return self._with_base(s, me.base), to(me, self._next(me))

    def _next(self, me: Writing) -> str:
        return "compare" if me.wrote else "segment"

    def _with_base(self, s: Store, base: int | str) -> Store:
        mine = s.intent(self.name)
        return s if mine is None else s._replace(intents=s.intents - {mine} | {Intent(self.name, base)})

    def compare(self, s: Store, me: Writing) -> Outcome:
        if s.intent(self.name) is None:
            return s, to(me, "fence")
        for n in (me.was, me.base):
            g = s.number(n)
            if self.part and (g is None or not s.has(g)):
                return Breach("BASED", "a base was freed before the loser had compared it")
        return s, to(me, "body")

    def segment(self, s: Store, me: Writing) -> Outcome:
        return s._replace(segments=s.segments | {self.name}), to(me, "body", wrote=True)

    def body(self, s: Store, me: Writing) -> Outcome:
        if s.intent(self.name) is None:
            return s, to(me, "fence")
        base = s.number(me.base)
        if base is None or not base.whole:
            return Breach("BASED", "the base was freed before its pages were copied")
        names = (base.names if self.part else frozenset()) | {self.name}
        manifest = Generation(me.next, self.name, (*base.line, self.name), names)
        return s, to(me, "link", manifest=manifest)

    def link(self, s: Store, me: Writing) -> Outcome:
        assert me.manifest is not None
        if s.intent(self.name) is None:
            return s, to(me, "fence")
        if s.number(me.manifest.number) is not None:
            return s, to(me, "exists")
        if s.numbers[-1].number > me.manifest.number or s.head().number != me.base:
            return Breach("LINEAR", "a number was linked that does not stand on the head")
        return s._replace(numbers=(*s.numbers, me.manifest)), to(me, "acknowledge")

    def exists(self, s: Store, me: Writing) -> Outcome:
        assert me.manifest is not None
        there = s.number(me.manifest.number)
        if there is None or me.tries == self.retries:  # not to be read: no clear answer
            return s, to(me, "fence")
        return s, to(me, "look", tries=me.tries + 1, manifest=None)

    def acknowledge(self, s: Store, me: Writing) -> Outcome:
        return s._replace(acked=s.acked | {self.name}), to(me, "unname")

    def unname(self, s: Store, me: Writing) -> Outcome:
        return without_intent(s, self.name), Writing("done")

    def fence(self, s: Store, me: Writing) -> Outcome:
        return without_intent(s, self.name), Writing("fence_list")

    def fence_list(self, s: Store, me: Writing) -> Outcome:
        return s, to(me, "fence_read", seen=tuple(g.number for g in s.numbers), mine=False)

    def fence_read(self, s: Store, me: Writing) -> Outcome:
        return fence_read(s, me, self.name)

    def fence_delete(self, s: Store, me: Writing) -> Outcome:
        return (s if me.mine else s._replace(segments=s.segments - {self.name})), Writing("lost")


def without_intent(s: Store, by: str) -> Store:
    """Remove the name ``TX.tx`` of `by`: from here on no link of it can succeed."""
    return s._replace(intents=frozenset(i for i in s.intents if i.by != by))


def fence_read(s: Store, me: Any, victim: str) -> Outcome:
    """Read the next listed manifest: does it carry or name the victim? ENOENT says nothing: list again."""
    if not me.seen:
        return s, to(me, "fence_delete")
    g = s.number(me.seen[-1])
    if g is None:
        return s, to(me, "fence_list", seen=())
    mine = me.mine or g.by == victim or victim in g.names
    return s, to(me, "fence_delete" if mine or len(me.seen) == 1 else "fence_read", seen=me.seen[:-1], mine=mine)


class Collecting(NamedTuple):
    """What a collector remembers."""

    at: str
    victims: tuple[str, ...] = ()
    seen: tuple[int, ...] = ()  # numbers yet to be read
    mine: bool = False
    segments: frozenset[str] = frozenset()
    old: tuple[int, ...] = ()  # numbers below the top, to be freed
    intents: tuple[str, ...] = ()  # to be read
    live: frozenset[str] = frozenset()
    pinned: int | None = None  # lowest base; 0 where one proves nothing
    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Collector(Process):
    """Discard each victim, then free what nobody needs.

    `victims`: transactions that it believes dead, perhaps wrongly. `collects` False: only discards. `order`: what it
    looks at, in this order. Controls: `pins` False ignores recorded bases; `torn_pins` False ignores headers that prove
    nothing; `enoent` "skip" takes a number that is gone for one that names nothing.
    """

    name: str = "gc"
    victims: tuple[str, ...] = ()
    collects: bool = True
    order: tuple[str, ...] = ("see_segments", "see_numbers", "see_intents", "see_again")
    pins: bool = True
    torn_pins: bool = True
    enoent: str = "again"

    def start(self) -> Collecting:
        return Collecting("meet" if self.victims else self.order[0], self.victims)

    def meet(self, s: Store, me: Collecting) -> Outcome:
        if s.intent(me.victims[0]) is None:
            return s, self._next_victim(me)
        return s, to(me, "fence")

    def _next_victim(self, me: Collecting) -> Collecting:
        rest = me.victims[1:]
        return Collecting("meet" if rest else self.order[0] if self.collects else "done", rest)

    def fence(self, s: Store, me: Collecting) -> Outcome:
        return without_intent(s, me.victims[0]), to(me, "fence_list")

    def fence_list(self, s: Store, me: Collecting) -> Outcome:
        return s, to(me, "fence_read", seen=tuple(g.number for g in s.numbers), mine=False)

    def fence_read(self, s: Store, me: Collecting) -> Outcome:
        if self.enoent == "skip" and me.seen and s.number(me.seen[-1]) is None:
            return s, to(me, "fence_read", seen=me.seen[:-1])
        return fence_read(s, me, me.victims[0])

    def fence_delete(self, s: Store, me: Collecting) -> Outcome:
        kept = s if me.mine else s._replace(segments=s.segments - {me.victims[0]})
        return kept, self._next_victim(me)

    def _after(self, look: str) -> str:
        following = self.order[self.order.index(look) + 1 :]
        return following[0] if following else "delete"

    def see_segments(self, s: Store, me: Collecting) -> Outcome:
        return s, self._decide(to(me, self._after("see_segments"), segments=s.segments))

    def see_numbers(self, s: Store, me: Collecting) -> Outcome:
        if any(not g.whole for g in s.numbers):  # what it may name is not known: nothing is deleted
            return s, Collecting("done")
        return s, self._decide(to(me, self._after("see_numbers"), old=tuple(g.number for g in s.numbers[:-1])))

    def see_intents(self, s: Store, me: Collecting) -> Outcome:
        intents = tuple(sorted(i.by for i in s.intents))
        at = "read_intent" if intents else self._after("see_intents")
        return s, self._decide(to(me, at, intents=intents, live=frozenset(intents)))

    def read_intent(self, s: Store, me: Collecting) -> Outcome:
        intent, rest, pinned = s.intent(me.intents[0]), me.intents[1:], me.pinned
        if intent is not None and self.pins and (intent.base != TORN or self.torn_pins):
            base = intent.base if isinstance(intent.base, int) else 0
            pinned = base if pinned is None else min(pinned, base)
        at = "read_intent" if rest else self._after("see_intents")
        return s, self._decide(to(me, at, intents=rest, pinned=pinned))

    def see_again(self, s: Store, me: Collecting) -> Outcome:
        return s, to(me, "read_number", seen=tuple(g.number for g in s.numbers), named=frozenset())

    def read_number(self, s: Store, me: Collecting) -> Outcome:
        g = s.number(me.seen[-1])
        if g is None and self.enoent == "again":
            return s, to(me, "see_again", seen=())
        if g is not None and not g.whole:
            return s, Collecting("done")
        rest, named = me.seen[:-1], me.named | (g.names if g else frozenset())
        if rest:
            return s, to(me, "read_number", seen=rest, named=named)
        return s, self._decide(to(me, self._after("see_again"), seen=(), named=named))

    def _decide(self, me: Collecting) -> Collecting:
        """After the last look, reduce what was seen to what goes."""
        if me.at != "delete":
            return me
        old = tuple(n for n in me.old if me.pinned is None or n < me.pinned)
        dead = me.segments - me.live - me.named
        return Collecting("delete" if dead else "free" if old else "done", segments=dead, old=old)

    def delete(self, s: Store, me: Collecting) -> Outcome:
        gone = min(me.segments)
        rest = me.segments - {gone}
        at = "delete" if rest else "free" if me.old else "done"
        return s._replace(segments=s.segments - {gone}), to(me, at, segments=rest)

    def free(self, s: Store, me: Collecting) -> Outcome:
        numbers = tuple(g for g in s.numbers if g.number != me.old[0])
        return s._replace(numbers=numbers), to(me, "free" if me.old[1:] else "done", old=me.old[1:])


def store(*generations: Generation, acked: Iterable[str] = ()) -> Store:
    """Return a directory with these generations, whole ones with their segments."""
    segments = frozenset().union(*(g.names for g in generations if g.whole))
    return Store(generations, segments=segments, acked=frozenset(acked))


FRESH = store(Generation(0, "init"))
O1 = Generation(1, "o1", ("o1",), frozenset({"o1"}))
O2 = Generation(2, "o2", ("o1", "o2"), frozenset({"o1", "o2"}))
OLD = store(Generation(0, "init"), O1, O2)
DAMAGED = store(Generation(0, "init"), O1, O2, Generation(3, "x", whole=False))
ONE_DEAD, BOTH_DEAD = frozenset({0}), frozenset({0, 1})
A, B, C = Writer("a"), Writer("b"), Writer("c")
A_ONCE, B_ONCE, C_ONCE = (Writer(name, retries=0) for name in "abc")
B_ALL, C_ALL = Writer("b", part=False), Writer("c", part=False)
GC, GC2 = Collector(), Collector("gc2")

CASES = (
    Case("a loser keeps its recorded base, then compares", OLD, (A, B_ALL, GC), check),
    Case(
        "a header that proves nothing pins everything; its writer may die",
        OLD,
        (Writer("a", torn=True), B_ALL, GC),
        check,
        ONE_DEAD,
    ),
    Case("two writers, either may die", FRESH, (A, B), check, BOTH_DEAD),
    Case(
        "two writers replace all over a damaged head, one may die",
        DAMAGED,
        (Writer("a", part=False), B_ALL),
        check,
        ONE_DEAD,
    ),
    Case(
        "over a damaged head a collector deletes nothing",
        DAMAGED,
        (Writer("a", part=False), B_ALL, GC),
        check,
        ONE_DEAD,
    ),
    Case("three writers, one replaces all", FRESH, (A, B_ALL, C), check),
    Case("a writer and a collector, either may die", OLD, (A, GC), check, BOTH_DEAD),
    Case("two writers and a collector, the writers may die", OLD, (A, B_ALL, GC), check, BOTH_DEAD),
    Case("two collectors and a writer", OLD, (A, GC, Collector("gc2")), check, ONE_DEAD),
    Case("a live writer is taken for dead and fenced", OLD, (A, B, Collector(victims=("a",))), check),
    Case(
        "a dead writer is fenced by two collectors while another writes",
        OLD,
        (A_ONCE, B_ONCE, Collector(victims=("a",), collects=False), Collector("gc2", ("a",))),
        check,
        ONE_DEAD,
    ),
    Case(
        "three writers and a collector", OLD, (A_ONCE, Writer("b", part=False, retries=0), C_ONCE, GC), check, slow=True
    ),
    Case(
        "control: a loser records the newer base, then compares",
        OLD,
        (Writer("a", keeps_base=False), B_ALL, GC),
        check,
        breaks="BASED",
    ),
    Case(
        "control: a torn header is passed over",
        OLD,
        (Writer("a", torn=True), B_ALL, Collector(torn_pins=False)),
        check,
        breaks="BASED",
    ),
    Case(
        "control: a collector passes over recorded bases",
        OLD,
        (A, B_ALL, C_ALL, Collector(pins=False)),
        check,
        breaks="BASED",
    ),
    Case(
        "control: a collector looks at transactions before the top",
        FRESH,
        (A, B_ALL, C_ALL, Collector(order=("see_segments", "see_intents", "see_numbers", "see_again"))),
        check,
        breaks="BASED",
    ),
    Case(
        "control: a collector looks at numbers before segments",
        OLD,
        (A, B, Collector(order=("see_again", "see_numbers", "see_segments", "see_intents"))),
        check,
        breaks="WHOLE",
    ),
    Case(
        "control: a number that is gone counts as one that names nothing, when collecting",
        OLD,
        (A, GC2, Collector(enoent="skip")),
        check,
        breaks="WHOLE",
    ),
    Case(
        "control: a number that is gone counts as one that names nothing, when discarding",
        OLD,
        (A, B, GC2, Collector(victims=("a",), collects=False, enoent="skip")),
        check,
        breaks="WHOLE",
    ),
)
