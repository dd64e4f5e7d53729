"""Progress and summaries of work with a bucket: lines for people, JSON for programs."""

from __future__ import annotations

import errno
import io
import json
import re
import sys

import pytest

from pinstripe.cli.s3_progress import TellingEvents, make_events, phase_text, summary_text, tell_summary
from pinstripe.errors import TargetError
from pinstripe.s3.events import LIMITS, Events, Summary


def test_json_is_one_event_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    events = make_events(True)
    events.phase("fetch", 2, 100)
    events.advance(1, 50)
    events.planned("fetch", "x", 7, "new")
    events.skipped("same")
    events.skipped("y", "already there")
    events.failed("bad\udcff", TargetError("full", code=errno.ENOSPC))
    events.note("no checksums here")
    tell_summary(events.finish(), True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "phase",
        "planned",
        "skipped",
        "failed",
        "note",
        "phase-end",
        "summary",
    ]
    by_event = {line["event"]: line for line in lines}
    assert by_event["phase"]["expected_bytes"] == 100
    assert by_event["phase-end"]["bytes"] == 50
    assert by_event["failed"] | {"path": "bad"} == {
        "event": "failed",
        "path": "bad",
        "error": "full",
        "exit_code": 1,
        "error_code": "InternalError",
        "rank": 0,
    }
    assert (by_event["summary"]["files"], by_event["summary"]["exit_code"]) == (2, 1)


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    events = make_events(False)
    assert isinstance(events, TellingEvents)
    events.phase("fetch", 2, 2 << 20)
    events.advance(2, 2 << 20)
    events.failed("bad\udcff", "no such key")
    events.planned("fetch", "x", 1024, "new")
    events.note("said once")
    tell_summary(events.finish(), False, "fetched")
    out, err = capsys.readouterr()
    assert err.splitlines()[:2] == ["pinstripe: bad\N{REPLACEMENT CHARACTER}: no such key", "note: said once"]
    assert err.splitlines()[2].startswith("fetch: 2 of 2 files, 2.0M of 2.0M, ")
    assert err.splitlines()[2].endswith("1 FAILED")
    assert out.splitlines()[0] == "would fetch x (1.0K; new)"
    assert out.splitlines()[1].startswith("fetched 3 files, 2.0M in ")
    assert out.splitlines()[1].endswith(", 1 failed")


def test_other_ranks_tell_only_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        events = make_events(as_json, rank=1)
        events.phase("fetch", 1, 1)
        events.advance(1, 1)
        events.note("said once")
        events.failed("x", "no")
        events.finish()
    out, err = capsys.readouterr()
    assert err == "pinstripe: x: no\n"
    (line,) = out.splitlines()
    assert json.loads(line)["rank"] == 1


def test_a_phase_says_how_far_it_is() -> None:
    events = Events()
    events.phase("fetch", 10, 4_000_000_000)
    events.advance(3, 1_000_000_000)
    events.retried(2)
    events.verified(3)
    text = phase_text(events, 2.0)
    assert text == "fetch: 3 of 10 files, 954M of 3.7G, 0.50 GB/s, 6 s left, 2 retries, 3 verified"
    events.phase("list")
    events.advance(files=70)
    assert phase_text(events, 2.0).startswith("list: 70 files")
    events.phase("stub", 1000)
    events.advance(files=1)
    assert "33 min left" in phase_text(events, 2.0)
    assert "5 h 33 min left" in phase_text(events, 20.0)


def test_a_summary_says_what_limited_it() -> None:
    for limit in LIMITS:
        text = summary_text(Summary(files=1, bytes=2_000_000_000, seconds=2.0, limiting=limit), "fetched")
        first, second = text.splitlines()
        assert first == "fetched 1 file, 1.9G in 2.0 s, 1.00 GB/s"
        assert second.startswith("limited by ")
    assert "run it again" in summary_text(Summary(incomplete=True), "fetched")


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_each_phase_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "60"), ("LINES", "20")):
        monkeypatch.setenv(name, value)
    events = make_events(False)
    events.phase("list")
    events.advance(files=7, count=False)
    events.phase("fetch", 2, 2 << 20)
    events.advance(1, 1 << 20)
    events.failed("[b]bad\udcff", "no\nsuch key")
    events.note("said once")
    events.advance(1, 1 << 20)
    events.verified(2)
    events.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    lines = [re.split("\r", line)[-1].strip() for line in shown.splitlines()]
    assert "pinstripe: [b]bad\N{REPLACEMENT CHARACTER}: no such key" in lines
    assert "note: said once" in lines
    finals = [line for line in lines if "fetch: 2 of 2 files" in line]
    assert len(finals) == 1
    assert len(finals[0]) <= 60
    assert any("list: 7 files" in line for line in lines)
