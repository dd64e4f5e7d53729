"""Generations, holes, full and failing targets, damaged heads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pinstripe
from pinstripe import Store
from pinstripe.testing.targets import FailingTarget, ObservedTarget, wrap

from .files import LARGE, STRIPE, read, segments_of, write


@pytest.fixture
def path(small: Store) -> str:
    return os.path.join(small.root, "file")


def test_a_forked_child_that_exits_in_the_usual_way_publishes_nothing(small: Store, path: str) -> None:
    program = f"""
import os, sys, pinstripe
file = pinstripe.open({path!r}, "wb")
file.write(b"x" * 300_000)
if not os.fork():
    sys.exit(0)          # collects, flushes, finalises
os.wait()
assert not pinstripe.exists({path!r})
file.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert read(path) == b"x" * 300_000


def test_holes_cost_nothing_and_read_as_zeros(small: Store, path: str) -> None:
    with pinstripe.open(path, "w+b") as file:
        file.write(b"start")
        file.seek(5 << 30)
        file.write(b"end")
        file.truncate(1 << 40)
    seen = pinstripe.stat(path)
    assert seen.st_size == 1 << 40
    assert seen.st_blocks * 512 < 3 * STRIPE
    with pinstripe.open(path, "rb", buffering=0) as file:
        assert file.pread(5, 0) == b"start"
        assert file.pread(5, (5 << 30) - 2) == b"\0\0end"
        assert file.pread(10, (1 << 40) - 4) == b"\0" * 4
        assert not any(file.pread(3 * STRIPE, 700 << 30))


def test_cutting_and_growing_shows_zeros_and_never_old_bytes(path: str) -> None:
    write(path, b"\xff" * (3 * STRIPE))
    with pinstripe.open(path, "r+b") as file:
        file.truncate(STRIPE + 100)
        file.truncate(3 * STRIPE)
    assert read(path) == b"\xff" * (STRIPE + 100) + bytes(2 * STRIPE - 100)


def test_older_generations_are_read_by_number(path: str) -> None:
    for k in range(1, 4):
        assert write(path, bytes([k]) * 3 * STRIPE) == k
    assert [read(path, generation=k)[:1] for k in (1, 2, 3)] == [b"\1", b"\2", b"\3"]
    with pytest.raises(FileNotFoundError, match="no generation 9"):
        pinstripe.open(path, "rb", generation=9)


def test_overwriting_for_ever_does_not_fill_the_targets(small: Store, path: str) -> None:
    held = []
    for _ in range(8):
        write(path, os.urandom(4 * STRIPE), grace_s=0.0)
        held.append(sum(os.path.getsize(name) for name in segments_of(small)))
        pinstripe.store.collect.collect_store(small)  # a later collector: LISTING_S has passed
    assert max(held) < 3 * held[0]


def test_removing_frees_what_it_removes(small: Store, path: str) -> None:
    write(path, LARGE)
    assert segments_of(small)
    pinstripe.remove(path)
    assert not segments_of(small)


def test_a_failing_target_is_passed_over(small: Store, path: str) -> None:
    wrap(small, {0: lambda inner: FailingTarget(inner, "write", 1, persistent=True)})
    with pinstripe.open(path, "wb") as file:
        file.write(LARGE)
    assert read(path) == LARGE
    assert small.targets[0].path in file.session.counters.left


def test_when_no_target_takes_the_data_the_error_names_them_and_nothing_is_published(small: Store, path: str) -> None:
    write(path, b"before" * STRIPE)
    wrap(small, {k: {"limit_bytes": 1000} for k in range(2)})
    with pytest.raises(pinstripe.TargetError, match="no target can take the data") as caught:
        write(path, os.urandom(4 * STRIPE))
    assert caught.value.errno == 28
    assert read(path) == b"before" * STRIPE


def test_a_segment_whose_sync_failed_is_written_elsewhere(small: Store, path: str) -> None:
    wrap(small, {0: lambda inner: FailingTarget(inner, "sync", 1)})
    write(path, LARGE)
    assert read(path) == LARGE


def test_a_durable_commit_syncs_what_an_earlier_one_left_unsynced(small: Store, path: str) -> None:
    write(path, LARGE, durability="none")
    observed: list[ObservedTarget] = []

    def observe(inner: object) -> ObservedTarget:
        observed.append(ObservedTarget(inner))  # type: ignore[arg-type]
        return observed[-1]

    with pinstripe.open(path, "rb") as file:
        assert not file.session.base.durable
    wrap(small, {0: observe, 1: observe})
    with pinstripe.open(path, "r+b") as file:
        file.write(b"x")
    with pinstripe.open(path, "rb") as file:
        assert file.session.base.durable
        assert file.session.base.header.durable
        live = file.session.base.segments[file.session.base.segments["live_frames"] > 0]
        assert (live["flags"] & 1).all()


def test_a_damaged_head_is_read_from_its_copy(small: Store, path: str) -> None:
    write(path, LARGE)
    with pinstripe.open(path, "rb") as file:
        manifest = file.session.base.path
    os.chmod(manifest, 0o644)
    with open(manifest, "r+b") as raw:
        raw.seek(100)
        raw.write(b"\xff" * 8)
    assert read(path) == LARGE


def test_a_damaged_head_without_a_copy_names_the_newest_durable_generation(small: Store, path: str) -> None:
    write(path, LARGE)
    write(path, b"new" * STRIPE, durability="none")
    with pinstripe.open(path, "rb") as file:
        manifest = file.session.base.path
    for target in small.targets:
        for copy in Path(target.path).rglob("*.manifest"):
            copy.unlink()
    os.chmod(manifest, 0o644)
    with open(manifest, "r+b") as raw:
        raw.truncate(50)
    with pytest.raises(pinstripe.DamageError, match="newest durable generation is 1"):
        pinstripe.open(path, "rb")
    assert read(path, generation="durable") == LARGE
    with pinstripe.open(path, "wb") as file:  # replacing what is damaged is the way out
        file.write(b"again")
    assert read(path) == b"again"
