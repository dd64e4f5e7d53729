"""Explore all cases and print a table: ``python -m tests.model [-t] [WORD ...]``.

``-t`` prints the shortest trace to each breach. Words choose the cases whose model or sentence contains one of them.
"""

from __future__ import annotations

import argparse
import sys
import time

from . import MODELS, cases_of
from .engine import Case, Report, explore


def verdict(case: Case, report: Report) -> tuple[bool, str]:
    """Tell whether `report` is what `case` asks for, and say so in a few words."""
    first = report.first()
    if first is None:
        return case.breaks is None, "holds" if case.breaks is None else f"holds, but must break {case.breaks}"
    said = f"{first.invariant}: {first.what}"
    if case.breaks is None:
        return False, said
    return first.invariant == case.breaks, f"breaks {said}"


def main() -> int:
    """Explore, print, and return 1 if a case is not as it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="explore the models of the commit")
    parser.add_argument("-t", "--traces", action="store_true", help="print the shortest trace to each breach")
    parser.add_argument("words", nargs="*", help="only cases whose model or sentence contains one of these words")
    chosen = parser.parse_args()
    began, states, wrong, count = time.perf_counter(), 0, 0, 0
    for model in MODELS:
        for case in cases_of(model):
            text = f"{model} {case.says}"
            if chosen.words and not any(word in text for word in chosen.words):
                continue
            start = time.perf_counter()
            report = explore(case)
            ok, said = verdict(case, report)
            seconds = time.perf_counter() - start
            print(
                f"{'ok  ' if ok else 'FAIL'} {model:9s} {case.says:100s} {report.states:9,d} {seconds:6.1f} s  {said}",
                flush=True,
            )
            count, states, wrong = count + 1, states + report.states, wrong + (not ok)
            if chosen.traces or not ok:
                for breach, trace in report.breaches.items():
                    print(f"       {breach.invariant} ({len(trace)} steps): {' '.join(trace)}")
    print(f"{count} cases, {states:,d} states, {time.perf_counter() - began:.0f} s, {wrong} not as they say")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
