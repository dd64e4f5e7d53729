"""Time things against each other on a noisy machine: interleaved, repeated, medians with their spread, and a control.

One round runs every case once, in an order that changes from round to round, so that a slow moment of the machine falls
on all of them alike. The first case runs twice in each round: the difference of the two (the A/A row) is what this
machine cannot tell apart; believe no smaller one.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time

RUN_SECONDS = 0.004  # a run repeats a short case until it lasts this long

Case = Callable[[], object]


@dataclass(frozen=True)
class Missing:
    """A peer that is not here, and how to get it."""

    install: str


@dataclass(frozen=True)
class Row:
    """One case: seconds of each run, a call; and seconds of processor time, of all threads together."""

    name: str
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...] = ()

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Figures:
    """What is no time: amounts, by name, with one unit."""

    title: str
    unit: str
    amounts: dict[str, float]

    def __str__(self) -> str:
        rows = (f"| {name} | {amount:.1f} |" for name, amount in self.amounts.items())
        return "\n".join([f"### {self.title}", "", f"| what | {self.unit} |", "|---|---:|", *rows]) + "\n"

    def as_json(self) -> dict[str, object]:
        return {"title": self.title, "unit": self.unit, "amounts": self.amounts}


@dataclass(frozen=True)
class Table:
    """The cases of one operation; the first one is what the others are compared with."""

    title: str
    rows: tuple[Row, ...]
    missing: dict[str, str] = field(default_factory=dict)
    moved_bytes: int = 0
    items: int = 0
    item: str = "call"

    def ratio(self, row: Row) -> float:
        """How many times as fast the first case is as `row`: the median over the rounds."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.rows[0].seconds, row.seconds, strict=True))

    def _unit(self) -> tuple[str, float]:
        """The unit of a time, chosen by the first row, and how many of it a second has."""
        each = self.rows[0].median / max(self.items, 1)
        return ("ns", 1e9) if each < 1e-5 else ("us", 1e6) if each < 1e-2 else ("ms", 1e3)

    def _rate(self, seconds: float) -> str:
        if self.moved_bytes:
            return f"{self.moved_bytes / seconds / 1e9:.2f}"
        return f"{seconds / max(self.items, 1) * self._unit()[1]:.1f}"

    def __str__(self) -> str:
        unit = "GB/s" if self.moved_bytes else f"{self._unit()[0]}/{self.item}"
        cpu = " CPU s/GB |" if self.moved_bytes else ""
        lines = [
            f"### {self.title}",
            "",
            f"| case | {unit} | p10 - p90 |{cpu} first is x times as fast |",
            f"|---|---:|---:|{'---:|' if cpu else ''}---:|",
        ]
        for row in self.rows:
            spread = sorted((row.percentile(10), row.percentile(90)), reverse=bool(self.moved_bytes))
            low, high = (self._rate(seconds) for seconds in spread)
            cpu = f" {self._cpu(row):.2f} |" if self.moved_bytes else ""
            lines.append(f"| {row.name} | {self._rate(row.median)} | {low} - {high} |{cpu} {self.ratio(row):.2f} |")
        lines += [f"| {name} | missing: {install} | | |" for name, install in self.missing.items()]
        return "\n".join(lines) + "\n"

    def _cpu(self, row: Row) -> float:
        """Processor seconds for each GB."""
        return statistics.median(row.cpu_seconds) / self.moved_bytes * 1e9

    def as_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "moved_bytes": self.moved_bytes,
            "items": self.items,
            "missing": self.missing,
            "rows": [
                {
                    "name": row.name,
                    "runs": len(row.seconds),
                    "median_s": row.median,
                    "p10_s": row.percentile(10),
                    "p90_s": row.percentile(90),
                    "cpu_s": statistics.median(row.cpu_seconds),
                    "first_times_as_fast": self.ratio(row),
                }
                for row in self.rows
            ],
        }


def compare(
    cases: dict[str, Case | Missing],
    runs: int = 15,
    *,
    title: str = "",
    moved_bytes: int = 0,
    items: int = 0,
    item: str = "call",
    control: bool = True,
    before: Case | None = None,
    cpu_clock: Callable[[], float] = process_time,
) -> Table:
    """Time the cases against each other.

    Parameters
    ----------
    cases
        What to call, by name; a `Missing` peer is only listed.
    runs
        Rounds: each case is run once in each.
    moved_bytes
        Bytes that one call works on: the table shows GB/s; else nanoseconds for each of the call's `items`.
    control
        Run the first case a second time in each round, as the A/A row.
    before
        Called before each run and not timed; a run is then one call.
    cpu_clock
        Processor seconds used so far.
    """
    present = {name: case for name, case in cases.items() if not isinstance(case, Missing)}
    first = next(iter(present))
    if control:
        present = {first: present[first], f"{first} (again: A/A)": present[first]} | present
    repeats = {name: _repeats(case) if before is None else _warm(case, before) for name, case in present.items()}
    seconds: dict[str, list[float]] = {name: [] for name in present}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in present}
    order = list(present)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_number in range(runs):
            turn = round_number % len(order)
            for name in (order[turn:] + order[:turn])[:: -1 if round_number % 2 else 1]:
                if before is not None:
                    before()
                cpu = cpu_clock()
                seconds[name].append(_time(present[name], repeats[name]))
                cpu_seconds[name].append((cpu_clock() - cpu) / repeats[name])
    finally:
        if collecting:
            gc.enable()
    return Table(
        title,
        tuple(Row(name, tuple(times), tuple(cpu_seconds[name])) for name, times in seconds.items()),
        {name: case.install for name, case in cases.items() if isinstance(case, Missing)},
        moved_bytes,
        items,
        item,
    )


def _time(case: Case, repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        case()
    return (perf_counter() - start) / repeats


def _repeats(case: Case) -> int:
    case()  # caches, pages and lazy imports
    return max(1, round(RUN_SECONDS / _time(case, 3)))


def _warm(case: Case, before: Case) -> int:
    before()
    case()
    return 1


def machine() -> dict[str, str | int]:
    """What was measured, and where: processor, cores, system, Python, commit."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(models) or 1,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    return commit.stdout.strip()


def main(
    tables: Callable[[int], Iterable[Callable[[], Table | Figures]]],
    about: dict[str, str] | None = None,
    *,
    speaks: bool = True,
) -> None:
    """Run a benchmark from the command line and print each table when it is done, or with ``--json`` all as one object.

    Parameters
    ----------
    tables
        Given the runs, the tables, still to be made.
    about
        More to say of the program under test.
    speaks
        Whether this process prints: of several ranks, one.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    facts = machine() | (about or {})
    if speaks and not options.json:
        print(", ".join(f"{key} {value}" for key, value in facts.items()), f"runs {options.runs}", sep=", ", end="\n\n")
    done = []
    for make in tables(options.runs):
        table = make()
        done.append(table)
        if speaks and not options.json:
            print(table, flush=True)
    if speaks and options.json:
        json.dump(
            {"machine": facts, "runs": options.runs, "tables": [table.as_json() for table in done]},
            sys.stdout,
            indent=1,
        )
        print()
