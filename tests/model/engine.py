"""Explore every interleaving of a few processes, and find the shortest way to a broken invariant.

A *shared state* is an immutable value: what every process can see (a directory, some targets). A *process* is an object
whose methods are its steps, one system call each, and whose *local state* is a named tuple with a field ``at``: the
name of the method that comes next, or a word of `Process.ends`. A step takes both states and returns

- ``(shared, local)``: what the call made of them,
- a tuple of such pairs, when the outcome is not ours to choose (an answer that got lost, a torn page),
- `Breach`: the step itself has met what must never be met,
- ``None``: it cannot happen now (a message that was not sent), try again when something has changed.

Any process of `Case.mortal` may die between two steps. The search is breadth first, so the first trace found of a
breach is a shortest one. It is quick because every value is stored once and named by a small number: a state is a
tuple of small numbers, and what a step makes of one pair (shared, local) is computed once, however the other
processes stand. Nothing is sampled or bounded: a case that holds, holds in each state that it can reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

State: TypeAlias = tuple[int, ...]
"""Number of the shared state, then the number of each process's local state."""


class Breach(NamedTuple):
    """A broken invariant.

    Attributes
    ----------
    invariant
        Its name, in capitals, as the code cites it.
    what
        What happened, in a few words.
    """

    invariant: str
    what: str


class Dead(NamedTuple):
    """Local state of a process that was killed: it takes no further step."""

    at: str = "dead"


Move: TypeAlias = tuple[Any, Any]
Outcome: TypeAlias = Move | tuple[Move, ...] | Breach | None


class Process:
    """What takes steps. A subclass has a method for each step."""

    ends: ClassVar[frozenset[str]] = frozenset({"done"})
    name: str

    def start(self) -> Any:
        """Return the first local state."""
        raise NotImplementedError

    def step(self, shared: Any, local: Any) -> Outcome:
        """Take the step that `local` stands at."""
        outcome: Outcome = getattr(self, local.at)(shared, local)
        return outcome


class Bystander(NamedTuple):
    """Local state of a process that remembers nothing but its next step."""

    at: str


def to(local: Any, at: str, **changes: Any) -> Any:
    """Return `local` with the next step `at`, and `changes`."""
    return local._replace(at=at, **changes)


def nothing_to_check(_: Any) -> Iterable[Breach]:
    """Hold always: for models whose steps find the breaches themselves."""
    return ()


@dataclass(frozen=True)
class Case:
    """A question to a model.

    Attributes
    ----------
    says
        What holds, as a sentence; of a control, which rule is left out.
    shared
        The first shared state.
    processes
        Who takes steps.
    check
        Breaches of a shared state; asked once for each.
    mortal
        Indices of processes that may die at any step.
    final
        Breaches of a state in which nobody can move any more.
    breaks
        Of a control: the invariant that breaks without the rule. Else None, and all must hold.
    slow
        It takes more than about ten seconds.
    """

    says: str
    shared: Any
    processes: Sequence[Process]
    check: Callable[[Any], Iterable[Breach]] = nothing_to_check
    mortal: frozenset[int] = frozenset()
    final: Callable[[Any], Iterable[Breach]] = nothing_to_check
    breaks: str | None = None
    slow: bool = False


@dataclass
class Report:
    """What `explore` found: how many states, and the shortest trace to each breach."""

    states: int = 0
    breaches: dict[Breach, list[str]] = field(default_factory=dict)

    def first(self) -> Breach | None:
        """Return the breach with the shortest trace."""
        return min(self.breaches, key=lambda breach: len(self.breaches[breach]), default=None)


class _Values:
    """Values, each stored once and named by a small number."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.values: list[Any] = []

    def number(self, value: Any) -> int:
        known = self.numbers.get(value)
        if known is None:
            known = self.numbers[value] = len(self.values)
            self.values.append(value)
        return known


class _Explorer:
    """One exploration: the values, the moves computed so far, and who led to whom."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.shared = _Values()
        self.locals = [_Values() for _ in case.processes]
        self.moves: list[dict[tuple[int, int], tuple[tuple[int, int], ...] | Breach]] = [{} for _ in case.processes]
        self.before: dict[State, State | None] = {}

    def moves_of(self, i: int, shared: int, local: int) -> tuple[tuple[int, int], ...] | Breach:
        """Compute what process `i` can do: numbers of (shared, local) after each of its moves."""
        process, here, me = self.case.processes[i], self.shared.values[shared], self.locals[i].values[local]
        if me.at == "dead" or me.at in process.ends:
            return ()
        outcome = process.step(here, me)
        if isinstance(outcome, Breach):
            return outcome
        found: tuple[Any, ...] = () if outcome is None else outcome
        if len(found) == 2 and hasattr(found[1], "at"):
            found = (found,)
        moves = [(self.shared.number(s), self.locals[i].number(m)) for s, m in found]
        if i in self.case.mortal:
            moves.append((shared, self.locals[i].number(Dead())))
        return tuple(moves)

    def trace(self, state: State) -> list[str]:
        """Return the steps that led to `state`: ``process.step``, with ``>next`` where there was a choice."""
        steps: list[str] = []
        while (before := self.before[state]) is not None:
            for i, values in enumerate(self.locals):
                after = (state[0], state[i + 1])
                others = before[1 : i + 1] + before[i + 2 :] == state[1 : i + 1] + state[i + 2 :]
                moves = self.moves[i].get((before[0], before[i + 1]), ())
                if others and not isinstance(moves, Breach) and after in moves:
                    at, to_ = values.values[before[i + 1]].at, values.values[after[1]].at
                    chosen = len(moves) - (i in self.case.mortal) > 1
                    step = "dies" if to_ == "dead" else f"{at}>{to_}" if chosen else at
                    steps.append(f"{self.case.processes[i].name}.{step}")
                    break
            state = before
        return steps[::-1]

    def run(self) -> Report:
        """Visit every state; of a control, stop at the first breach."""
        case, report, before = self.case, Report(), self.before

        locals_ = (values.number(p.start()) for values, p in zip(self.locals, case.processes, strict=True))
        start: State = (self.shared.number(case.shared), *locals_)
        before[start] = None
        todo, checked, stop = deque([start]), -1, case.breaks is not None
        everyone = list(enumerate(self.moves))
        while todo:
            state = todo.popleft()
            shared, breaches = state[0], list[Breach]()
            if shared > checked:  # breadth first: numbers of shared states come up in their own order
                breaches += case.check(self.shared.values[shared])
                checked = shared
            can_move = False
            for i, known in everyone:
                pair = (shared, state[i + 1])
                moves = known.get(pair)
                if moves is None:
                    moves = known[pair] = self.moves_of(i, *pair)
                if isinstance(moves, Breach):
                    breaches.append(moves)
                    continue
                for new_shared, new_local in moves:
                    can_move = True
                    after = (new_shared, *state[1 : i + 1], new_local, *state[i + 2 :])
                    if after not in before:
                        before[after] = state
                        todo.append(after)
            if not can_move:
                breaches += case.final(self.shared.values[shared])
            for breach in breaches:
                if breach not in report.breaches:
                    report.breaches[breach] = self.trace(state)
            if stop and report.breaches:
                break
        report.states = len(before)
        return report


def explore(case: Case) -> Report:
    """Visit every state that `case` can reach and report what broke.

    A control stops at its first breach, whose trace is a shortest one.
    """
    return _Explorer(case).run()
