"""What long work tells, and the summary that is left of it."""

from __future__ import annotations

import errno
import threading

import pytest

from pinstripe.errors import ConflictError, DamageError, TargetError
from pinstripe.s3.events import Events, Summary, guess_limit
from pinstripe.store.team import SERIAL


def test_what_is_counted_is_in_the_summary() -> None:
    events = Events()
    events.phase("list")
    events.advance(files=3, count=False)
    events.phase("fetch", 2, 100)
    assert (events.phase_name, events.expected_files, events.expected_bytes) == ("fetch", 2, 100)
    events.expect(1, 20)
    events.advance(1, 70)
    events.advance(bytes=30)
    events.retried()
    events.verified()
    events.skipped("x")
    assert (events.phase_files, events.phase_bytes, events.expected_files, events.expected_bytes) == (1, 100, 3, 120)
    summary = events.finish()
    assert (summary.files, summary.bytes, summary.retries, summary.verified, summary.skipped) == (1, 100, 1, 1, 1)
    assert summary.exit_code == 0
    assert summary.seconds > 0


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({}, 0),
        ({"skipped": 5, "retries": 5}, 0),
        ({"failed": 1}, 1),
        ({"failed": 9, "conflicts": 1}, 3),
        ({"failed": 9, "conflicts": 9, "damaged": 1}, 4),
        ({"damaged": 1, "incomplete": True}, 75),
    ],
)
def test_the_gravest_makes_the_exit_code(counts: dict[str, int], code: int) -> None:
    assert Summary(**counts).exit_code == code  # type: ignore[arg-type]
    assert Summary(**counts).to_values()["exit_code"] == code  # type: ignore[arg-type]


def test_errors_bring_their_exit_code_and_their_reports_code() -> None:
    events = Events()
    events.failed("a", TargetError("full", code=errno.ENOSPC))
    events.failed("b", DamageError("spoilt"))
    events.failed("c", ConflictError("both"))
    events.failed("d", "S3ObjectPathNotPosixCompliant: ..", error_code="S3ObjectPathNotPosixCompliant")
    events.conflict("e", "both changed")
    assert [(one.path, one.code, one.error_code) for one in events.failures] == [
        ("a", 1, "InternalError"),
        ("b", 4, "ChecksumMismatch"),
        ("c", 3, "Conflict"),
        ("d", 1, "S3ObjectPathNotPosixCompliant"),
        ("e", 3, "Conflict"),
    ]
    assert events.failures[0].text == "full"
    summary = events.finish()
    assert (summary.failed, summary.damaged, summary.conflicts) == (2, 1, 2)


def test_threads_lose_no_count() -> None:
    events = Events()

    def work() -> None:
        for _ in range(500):
            events.advance(1, 10)
            events.spent("cpu", 0.5)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    summary = events.finish()
    assert (summary.files, summary.bytes, summary.spent["cpu"]) == (2000, 20000, 1000.0)


@pytest.mark.parametrize(
    ("spent", "limit"),
    [
        ({}, ""),
        ({"network": 0.1}, ""),
        ({"network": 6.0, "cpu": 2.0}, "network"),
        ({"network": 2.0, "cpu": 6.0}, "cpu"),
        ({"network": 7.0, "throttling": 2.0}, "throttling"),
        ({"network": 70.0, "throttling": 2.0}, "network"),
        ({"listing": 5.0, "targets": 4.0}, "listing"),
        ({"targets": 5.0}, "targets"),
        ({"sleep": 50.0}, ""),
    ],
)
def test_the_limit_is_guessed_from_where_the_seconds_went(spent: dict[str, float], limit: str) -> None:
    assert guess_limit(spent, 10.0) == limit


def test_ranks_are_added_up() -> None:
    one = Summary(files=2, bytes=10, seconds=3.0, verified=1, spent={"network": 2.0})
    two = Summary(files=1, failed=1, seconds=5.0, incomplete=True, spent={"network": 3.0, "cpu": 1.0})
    both = Summary.joined([one, two])
    assert (both.files, both.bytes, both.failed, both.verified, both.seconds) == (3, 10, 1, 1, 5.0)
    assert both.incomplete
    assert both.spent == {"network": 5.0, "cpu": 1.0}
    assert both.limiting == "network"
    assert Summary.joined([]) == Summary()
    alone = one.of_all(SERIAL)
    assert (alone.files, alone.spent, alone.limiting) == (2, {"network": 2.0}, "network")


def test_spending_counts_the_blocks_seconds_also_when_it_fails() -> None:
    events = Events()
    with pytest.raises(ZeroDivisionError), events.spending("targets"):
        _ = 1 / 0
    assert events.finish().spent["targets"] > 0
