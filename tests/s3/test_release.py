"""Release: what may go and what stays, by age and by how full the targets are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pinstripe
from pinstripe.cli import cli
from pinstripe.errors import ArgumentError
from pinstripe.format.remote import Endpoint
from pinstripe.s3 import releasing
from pinstripe.s3.client import close_clients
from pinstripe.s3.known import Known
from pinstripe.s3.releasing import evict, release, space_of
from pinstripe.s3.reports import Line, parse
from pinstripe.store.collect import collect_store
from pinstripe.store.state import set_flags
from pinstripe.store.store import Store

from .stepping import Pair, Telling

DAY_NS = 86400 * 10**9
SIZE = 200_000


def data_of(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def pair(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> Pair:
    made = Pair(store, client, bucket, endpoint)
    made.link()
    return made


def archived(pair: Pair, *names: str) -> list[str]:
    paths = [pair.write(name, data_of(number)) for number, name in enumerate(names)]
    pair.sync()
    return paths


def age(path: str, days: float) -> None:
    """Make a file one that was last accessed so long ago, as far as that can be set: all but the time of the last status change."""
    ns = time.time_ns() - int(days * DAY_NS)
    pinstripe.utime(path, ns=(ns, ns))


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last status change counts for nothing: no program can set it."""
    monkeypatch.setattr(releasing, "last_access_ns", lambda seen: max(seen.st_atime_ns, seen.st_mtime_ns))


def test_an_archived_file_is_released_and_reads_the_same(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    before = os.stat(path)
    summary = release([path], grace_s=0.0)
    assert (summary.files, summary.exit_code) == (1, 0)
    assert summary.bytes > 0
    state = pair.state("a")
    assert state.is_stub
    assert not state.partial
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert pair.read("a") == data_of(0)


def test_the_bytes_are_gone_from_the_targets(pair: Pair, tmp_path: Path) -> None:
    archived(pair, "a", "b")

    def stored() -> int:
        return sum(one.stat().st_size for one in tmp_path.glob("t*/**/*.*") if one.is_file())

    before = stored()
    release([pair.directory], grace_s=0.0)
    deadline = time.monotonic() + 60
    while before - stored() < 2 * SIZE and time.monotonic() < deadline:
        collect_store(pair.store, full=True)
    assert before - stored() >= 2 * SIZE


def test_a_tree_is_released_but_for_what_may_not_be(pair: Pair) -> None:
    archived(pair, "x/clean", "x/changed", "x/pinned", "x/lost")
    pair.write("x/changed", data_of(9))
    pair.write("x/new", data_of(8))
    set_flags(pair.path("x/pinned"), add=["norelease"])
    set_flags(pair.path("x/lost"), add=["lost"])
    lines: list[Line] = []
    summary = release([pair.path("x")], report=lines.append)
    assert (summary.files, summary.skipped, summary.exit_code) == (1, 4, 0)
    assert {os.path.basename(line.path): line.status for line in lines} == {
        "clean": "succeeded",
        "changed": "failed",
        "pinned": "failed",
        "lost": "failed",
        "new": "failed",
    }
    assert [name for name in ("clean", "changed", "pinned", "lost", "new") if pair.state(f"x/{name}").is_stub] == [
        "clean"
    ]


@pytest.mark.parametrize(
    ("flag", "why"), [("norelease", "pinned"), ("conflict", "in conflict"), ("lost", "the bucket lost it")]
)
def test_what_was_named_and_may_not_be_released_is_a_failure(pair: Pair, flag: str, why: str) -> None:
    (path,) = archived(pair, "a")
    set_flags(path, add=[flag])
    events = Telling()
    assert release([path], events=events).exit_code == 1
    assert why in events.failures[0].text
    set_flags(path, remove=[flag])
    assert release([path]).exit_code == 0


def test_what_was_never_exported_stays(pair: Pair) -> None:
    path = pair.write("a", data_of(1))
    events = Telling()
    assert release([path], events=events).exit_code == 1
    assert "export it first" in events.failures[0].text
    assert not pair.state("a").is_stub


def test_what_is_released_already_is_no_failure(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    release([path])
    summary = release([path])
    assert (summary.files, summary.skipped, summary.exit_code) == (0, 1, 0)


def test_a_partly_loaded_stub_is_released(pair: Pair) -> None:
    pair.put("a", data_of(3))
    pair.sync()
    with pinstripe.open(pair.path("a"), "rb", buffering=0) as file:
        file.read(10)
    assert pair.state("a").partial
    assert release([pair.path("a")]).bytes == 64 << 10
    assert not pair.state("a").partial


def test_a_small_file_has_nothing_to_free(pair: Pair) -> None:
    path = pair.write("a", b"little")
    pair.sync()
    summary = release([path])
    assert (summary.files, summary.exit_code) == (0, 0)
    assert pair.read("a") == b"little"


@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_the_only_copy_is_never_freed(pair: Pair, change: str) -> None:
    (path,) = archived(pair, "a")
    pair.put("a", data_of(9)) if change == "replaced" else pair.delete("a")
    events = Telling()
    assert release([path], events=events).exit_code == 1
    assert "p/a" in events.failures[0].text
    assert pair.read("a") == data_of(0)


def test_a_service_that_refuses_to_say_frees_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = archived(pair, "a")
    close_clients()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert release([path]).exit_code == 1
    assert release([pair.directory]).exit_code == 1
    assert not pair.state("a").is_stub


def test_a_file_that_is_open_for_writing_stays(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    with pinstripe.open(path, "r+b") as file:
        file.write(b"x")
        file.flush()
        assert release([path]).exit_code == 1
    assert pair.read("a")[:1] == b"x"


@pytest.mark.usefixtures("aged")
def test_only_what_was_not_accessed_for_a_while(pair: Pair) -> None:
    old, young = archived(pair, "old", "young")
    age(old, 8)
    age(young, 6)
    lines: list[Line] = []
    summary = release([pair.directory], older_than_s=7 * 86400, report=lines.append)
    assert (summary.files, summary.exit_code) == (1, 0)
    assert (pair.state("old").is_stub, pair.state("young").is_stub) == (True, False)
    assert [line.path for line in lines] == [old]


def test_the_last_access_is_the_latest_of_all_three_times(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    age(path, 8)
    assert release([path], older_than_s=7 * 86400).files == 0
    seen = os.stat(path)
    assert releasing.last_access_ns(seen) == seen.st_ctime_ns > max(seen.st_atime_ns, seen.st_mtime_ns)


def test_a_dry_run_frees_nothing(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    events = Telling()
    summary = release([pair.directory], dry_run=True, events=events)
    assert events.plans == [("release", path)]
    assert summary.bytes > 0
    assert not pair.state("a").is_stub


def test_bad_arguments(pair: Pair) -> None:
    with pytest.raises(ArgumentError, match="older_than_s"):
        release([pair.directory], older_than_s=-1)
    with pytest.raises(FileNotFoundError):
        release([pair.path("nobody")])
    with pytest.raises(ArgumentError, match="low"):
        evict(pair.store, None, high=10, low=20)


def test_the_command_and_its_report(pair: Pair, tmp_path: Path) -> None:
    archived(pair, "x/a", "x/b", "@c")
    set_flags(pair.path("x/b"), add=["norelease"])
    out = tmp_path / "report.csv"
    done = CliRunner().invoke(cli, ["release", pair.directory, "--report", str(out)])
    assert done.exit_code == 0, done.output
    assert "released 2 files" in done.stdout
    assert out.read_bytes() == b'"""@c""",succeeded,\r\nx/a,succeeded,\r\nx/b,failed,ResourceBusy\r\n'
    assert [line.path for line in parse(out.read_bytes())] == ["@c", "x/a", "x/b"]
    assert CliRunner().invoke(cli, ["release", pair.path("x/b")]).exit_code == 1
    assert CliRunner().invoke(cli, ["release", pair.directory, "--older-than", "7w"]).exit_code == 2
    assert CliRunner().invoke(cli, ["release", pair.directory, "--older-than", "7d"]).exit_code == 0


@pytest.mark.usefixtures("aged")
def test_looking_at_a_file_is_no_access_and_reading_it_is_one(pair: Pair) -> None:
    (path,) = archived(pair, "a")
    age(path, 8)
    before = os.stat(path).st_atime_ns
    pair.sync()
    pair.state("a")
    pinstripe.stat(path)
    release([path], dry_run=True)
    assert os.stat(path).st_atime_ns == before
    pair.read("a")
    if not os.statvfs(path).f_flag & os.ST_NOATIME:
        assert os.stat(path).st_atime_ns > before


# --- by how full the targets are ------------------------------------------------------------------------------------


class Disks:
    """Targets of 100 blocks of 100 KiB, filled by what is not released."""

    def __init__(self, pair: Pair, other: int) -> None:
        self.pair, self.other = pair, other

    def __call__(self, path: Any) -> os.statvfs_result:
        kept = sum(1 for name in self.pair.here() if not self.pair.state(name).is_stub)
        free = 100 - self.other - 10 * kept
        return os.statvfs_result((4096, 20_000, 100, free, free, 1000, 1000, 1000, 0, 255))


@pytest.fixture
def five(pair: Pair, aged: None) -> Pair:
    """Five archived files, ``a`` the one that was accessed longest ago, each a tenth of the targets' space."""
    paths = archived(pair, *"abcde")
    for days, path in enumerate(reversed(paths)):
        age(path, days + 1)
    return pair


def stubs(pair: Pair) -> str:
    return "".join(name for name in "abcde" if pair.state(name).is_stub)


def test_space_counts_each_file_system_once(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    assert (space_of(five.store).total, space_of(five.store).per_cent) == (2_000_000, 80.0)


def test_nothing_is_evicted_below_the_high_mark(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    assert evict(five.store, None, high=80, low=10).files == 0
    assert stubs(five) == ""


def test_the_least_recently_used_go_first_until_the_low_mark(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    set_flags(five.path("b"), add=["norelease"])
    done = evict(five.store, five.link_now(), high=79, low=65)
    assert done.files == 2
    assert stubs(five) == "ac"
    assert len(done.file_ids) == 2


def test_what_was_released_and_is_not_collected_yet_counts_as_free(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    assert evict(five.store, None, high=79, low=65, pending_bytes=200_000).files == 0


def test_too_little_to_release_is_told(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=45))
    events = Telling()
    five.write("c", data_of(7))
    done = evict(five.store, None, high=50, low=10, events=events)
    assert (done.files, stubs(five)) == (4, "abde")
    assert "too little" in events.notes[0]


def test_an_eviction_gives_up_on_a_bucket_that_refuses(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    monkeypatch.setattr(releasing, "_FAILURES_MOST", 2)
    close_clients()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    events = Telling()
    assert evict(five.store, None, high=79, low=65, events=events).files == 0
    assert len(events.failures) == 2


def test_a_round_evicts_by_the_marks_of_its_link(five: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    five.link(high=79.0, low=65.0)
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    five.sync()
    assert stubs(five) == "ab"


def test_rounds_count_what_was_released_and_free_it_when_its_readers_had_their_time(
    five: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    five.link(high=79.0, low=65.0)
    full = os.statvfs_result((4096, 20_000, 100, 20, 20, 1000, 1000, 1000, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)  # nothing is freed yet
    five.sync()
    assert stubs(five) == "ab"
    known = Known.read(five.link_now())
    assert known.pending_bytes > 2 * SIZE
    five.sync()
    assert stubs(five) == "ab"
    known.released = {id: (at_ns - 3600 * 10**9, size) for id, (at_ns, size) in known.released.items()}
    known.write(five.link_now())
    collected: list[bytes] = []
    monkeypatch.setattr("pinstripe.s3.syncing.collect", lambda store, id, **options: collected.append(id))
    monkeypatch.setattr(os, "statvfs", Disks(five, other=30))
    five.sync()
    assert {id.hex() for id in collected} == set(known.released)
    assert Known.read(five.link_now()).released == {}
    assert stubs(five) == "ab"
