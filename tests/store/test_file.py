"""File objects: the rules of close, with, flush, sync, fork and threads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pinstripe
from pinstripe import Store
from pinstripe.testing.targets import FailingTarget, ObservedTarget, wrap

from .conftest import STRIPE

SMALL = b"small"
LARGE = bytes(range(256)) * (5 * STRIPE // 256) + b"tail"


def read(path: str, **options: object) -> bytes:
    with pinstripe.open(path, "rb", **options) as file:
        return bytes(file.read())


def write(path: str, data: bytes, mode: str = "wb", **options: object) -> int:
    with pinstripe.open(path, mode, **options) as file:
        file.write(data)
    return int(file.generation)


def write_and_fail(path: str, data: bytes, *, sync: bool = False) -> None:
    """Leave ``with`` by an exception, perhaps after a sync and more writing."""
    with pinstripe.open(path, "wb") as file:
        file.write(data)
        if sync:
            file.sync()
            file.write(b"more" * STRIPE)
        raise KeyError


@pytest.fixture(params=[SMALL, LARGE], ids=["inline", "frames"])
def data(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


@pytest.fixture
def path(small: Store) -> str:
    return os.path.join(small.root, "file")


def segments_of(store: Store) -> list[str]:
    """Every segment on the targets, copies of manifests left out."""
    places = [Path(target.path) for target in store.targets]
    return [str(found) for place in places for found in place.rglob("*.*.*")]


def test_nothing_is_seen_before_close_and_all_after(path: str, data: bytes) -> None:
    file = pinstripe.open(path, "wb")
    file.write(data)
    file.flush()
    assert not pinstripe.exists(path)
    file.close()
    assert read(path) == data


def test_leaving_with_by_an_exception_publishes_nothing(small: Store, path: str, data: bytes) -> None:
    with pytest.raises(KeyError):
        write_and_fail(path, data)
    assert not pinstripe.exists(path)
    assert not segments_of(small)


def test_leaving_by_an_exception_keeps_what_sync_published(path: str, data: bytes) -> None:
    with pytest.raises(KeyError):
        write_and_fail(path, data, sync=True)
    assert read(path) == data


def test_a_file_that_is_collected_unclosed_is_discarded_with_a_warning(path: str, data: bytes) -> None:
    files = [pinstripe.open(path, "wb")]
    files[0].write(data)
    with pytest.warns(ResourceWarning, match="was not closed"):
        files.clear()
    assert not pinstripe.exists(path)


def test_text_comes_back_as_text_with_its_line_ends(path: str) -> None:
    with pinstripe.open(path, "w", encoding="utf-8", newline="\r\n") as file:
        file.write("ä\nß\n")
    assert read(path) == "ä\r\nß\r\n".encode()
    with pinstripe.open(path, encoding="utf-8") as file:
        assert file.readlines() == ["ä\n", "ß\n"]


@pytest.mark.parametrize("mode", ["", "rw", "bt", "z", "rbt", "r++"])
def test_a_mode_that_cannot_be_is_refused(path: str, mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        pinstripe.open(path, mode)


def test_what_a_mode_forbids_is_refused(path: str, data: bytes) -> None:
    with pytest.raises(FileNotFoundError):
        pinstripe.open(path, "rb")
    write(path, data)
    with pytest.raises(FileExistsError):
        pinstripe.open(path, "xb")
    with pinstripe.open(path, "rb") as file, pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    with pinstripe.open(path, "ab") as file, pytest.raises(io.UnsupportedOperation):
        file.read()


def test_an_unknown_option_is_refused_and_the_known_ones_named(path: str) -> None:
    with pytest.raises(pinstripe.ArgumentError, match="durability"):
        pinstripe.open(path, "wb", durabilty="none")


def test_zip_and_tar_work_inside(path: str, data: bytes) -> None:
    with pinstripe.open(path, "w+b") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("member", data)
    with pinstripe.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("member") == data
    with pinstripe.open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("member")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    with pinstripe.open(path, "rb") as file, tarfile.open(fileobj=file) as tar:
        member = tar.extractfile("member")
        assert member is not None
        assert member.read() == data


def test_many_threads_read_one_file(path: str) -> None:
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 5, 20 * STRIPE, dtype=np.uint8).tobytes()
    write(path, whole)
    with pinstripe.open(path, "rb", buffering=0) as file, ThreadPoolExecutor(8) as pool:
        places = rng.integers(0, len(whole) - 50_000, 400).tolist()
        for place, got in zip(places, pool.map(lambda at: file.pread(50_000, at), places), strict=True):
            assert got == whole[place : place + 50_000]


def test_a_forked_child_can_neither_use_nor_publish_the_file(path: str, data: bytes) -> None:
    file = pinstripe.open(path, "wb")
    file.write(data)
    child = os.fork()
    if not child:
        code = 1
        try:
            file.write(b"child")
            file.flush()
        except pinstripe.ForkedError:
            file.close()
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not pinstripe.exists(path)
    file.write(b"parent")
    file.close()
    assert read(path) == data + b"parent"


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
