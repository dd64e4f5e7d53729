"""The explorer finds what is to be found: on programs so small that the answer is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from .engine import Breach, Bystander, Case, Outcome, Process, explore, to


class Counter(NamedTuple):
    """A number in a file, and how many have added to it."""

    value: int = 0
    added: int = 0
    closed: bool = False


class Adding(NamedTuple):
    """What one who adds has read."""

    at: str = "load"
    value: int = 0


@dataclass(frozen=True)
class Adder(Process):
    """Adds 1: reads and writes, in two calls or in one."""

    name: str
    atomic: bool = False

    def start(self) -> Adding:
        return Adding()

    def load(self, s: Counter, me: Adding) -> Outcome:
        read = to(me, "store", value=s.value)
        return self.store(s, read) if self.atomic else (s, read)

    def store(self, s: Counter, me: Adding) -> Outcome:
        return s._replace(value=me.value + 1, added=s.added + 1), Adding("done")


@dataclass(frozen=True)
class Waiter(Process):
    """Waits until the file is closed."""

    name: str = "waiter"

    def start(self) -> Bystander:
        return Bystander("wait")

    def wait(self, s: Counter, me: Bystander) -> Outcome:
        return (s, to(me, "done")) if s.closed else None


@dataclass(frozen=True)
class Tosser(Process):
    """Throws a coin."""

    name: str = "tosser"
    ends = frozenset({"heads", "tails"})

    def start(self) -> Bystander:
        return Bystander("toss")

    def toss(self, s: Counter, me: Bystander) -> Outcome:
        return (s, to(me, "heads")), (s._replace(value=9), to(me, "tails"))


def nothing_is_lost(s: Counter) -> Iterator[Breach]:
    if s.value != s.added:
        yield Breach("SUM", "an addition was lost")


def nobody_waits(s: Counter) -> Iterator[Breach]:
    if not s.closed:
        yield Breach("STUCK", "nobody closes the file")


def test_a_lost_update_is_found_by_a_shortest_trace() -> None:
    report = explore(Case("", Counter(), (Adder("a"), Adder("b")), nothing_is_lost, breaks="SUM"))
    trace = report.breaches[Breach("SUM", "an addition was lost")]
    assert sorted(trace) == ["a.load", "a.store", "b.load", "b.store"]
    assert {step.split(".")[1] for step in trace[:2]} == {"load"}


def test_one_call_instead_of_two_loses_no_update() -> None:
    report = explore(Case("", Counter(), (Adder("a", True), Adder("b", True)), nothing_is_lost))
    assert not report.breaches
    assert report.states == 4


def test_each_state_is_counted_once() -> None:
    assert explore(Case("", Counter(), (Adder("a"),))).states == 3


def test_the_dead_take_no_further_step() -> None:
    report = explore(Case("", Counter(), (Adder("a"),), mortal=frozenset({0})))
    assert report.states == 3 + 1  # wherever it died, it is dead


def test_who_waits_for_ever_is_a_final_state() -> None:
    report = explore(Case("", Counter(), (Waiter(),), final=nobody_waits))
    assert list(report.breaches.values()) == [[]]
    assert not explore(Case("", Counter(closed=True), (Waiter(),), final=nobody_waits)).breaches


def test_an_outcome_that_is_not_ours_to_choose_is_tried_both_ways_and_named_in_the_trace() -> None:
    report = explore(Case("", Counter(), (Tosser(),), nothing_is_lost))
    assert report.states == 3
    assert list(report.breaches.values()) == [["tosser.toss>tails"]]


def test_a_step_that_does_not_exist_is_an_error() -> None:
    @dataclass(frozen=True)
    class Typo(Process):
        name: str = "typo"

        def start(self) -> Bystander:
            return Bystander("stroe")

    with pytest.raises(AttributeError):
        explore(Case("", Counter(), (Typo(),)))
