"""Stubs: read lazily, kept, proven, restored, released. The bucket is a dictionary here; tests/s3 has a real one."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pinstripe
from pinstripe import ConflictError, DamageError, StaleError, Store, UnsupportedError
from pinstripe.format.remote import Base, Endpoint, Remote
from pinstripe.kernels import crc64
from pinstripe.store import collect as collect_module
from pinstripe.store import residency
from pinstripe.store import state as state_module
from pinstripe.store import stub as stub_module
from pinstripe.store.collect import collect_store
from pinstripe.store.residency import RANGE_BYTES, Residency
from pinstripe.store.state import record_base, set_flags, state_of
from pinstripe.store.stub import make_stub, promote, release, remove_if, renew_stub, restore
from pinstripe.store.verify import verify
from pinstripe.testing.bucket import Bucket

from .files import STRIPE, read, segments_of, write

DATA = random.Random(6).randbytes(20 * STRIPE + 1234)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()
    monkeypatch.setattr(residency, "open_source", made.open_source)
    return made


@pytest.fixture
def stub(small: Store, at: str, bucket: Bucket) -> str:
    make_stub(at, bucket.put("key", DATA), mode=0o640, mtime_ns=1_234_567_890_123_456_789)
    return at


def words(path: str) -> set[str]:
    names = ("exists", "archived", "dirty", "released", "partial", "unproven", "norelease", "lost", "conflict")
    state = state_of(path)
    return {name for name in names if getattr(state, name)}


def pread(path: str, count: int, offset: int) -> bytes:
    with pinstripe.open(path, "rb", buffering=0) as file:
        return bytes(file.pread(count, offset))


def lists(store: Store) -> list[Path]:
    return list(Path(store.meta).glob("files/*/*/*.resident"))


def test_a_stub_is_one_file_and_tells_size_mode_and_time_without_a_byte_fetched(
    stub: str, small: Store, bucket: Bucket
) -> None:
    seen = pinstripe.stat(stub)
    assert (seen.st_size, seen.st_mode & 0o777, seen.st_mtime_ns) == (len(DATA), 0o640, 1_234_567_890_123_456_789)
    assert seen.st_blocks == 0
    assert words(stub) == {"exists", "archived", "released"}
    assert not list(Path(small.meta).glob("files/*/*"))
    assert not bucket.fetched


def test_reading_fetches_the_stripes_touched_and_each_once(stub: str, bucket: Bucket) -> None:
    assert pread(stub, 100, 7 * STRIPE + 10) == DATA[7 * STRIPE + 10 :][:100]
    assert pread(stub, 10, 7 * STRIPE - 5) == DATA[7 * STRIPE - 5 :][:10]
    assert bucket.fetched == [("key", 7 * STRIPE, STRIPE), ("key", 6 * STRIPE, STRIPE)]
    assert pread(stub, 100, 7 * STRIPE + 10) == DATA[7 * STRIPE + 10 :][:100]
    assert len(bucket.fetched) == 2
    assert words(stub) == {"exists", "archived", "released", "partial", "unproven"}
    assert state_of(stub).resident_bytes == 2 * STRIPE


def test_sequential_reading_fetches_ahead_in_few_requests(stub: str, bucket: Bucket) -> None:
    with pinstripe.open(stub, "rb", buffering=0) as file:
        got = b"".join(iter(lambda: file.read(STRIPE // 2), b""))
    assert got == DATA
    assert len(bucket.fetched) < 8
    assert bucket.fetched_bytes == len(DATA)


def test_reading_all_of_it_makes_it_an_ordinary_file_with_its_times(stub: str, small: Store, bucket: Bucket) -> None:
    assert read(stub) == DATA
    assert words(stub) == {"exists", "archived"}
    assert pinstripe.stat(stub).st_mtime_ns == 1_234_567_890_123_456_789
    assert not lists(small)
    bucket.objects.clear()
    assert read(stub) == DATA
    assert verify(small, stub).good
    assert state_of(stub).base == Base(bucket.put("key", DATA), state_of(stub).tx)


def test_a_fully_read_file_equals_a_restored_one(small: Store, bucket: Bucket) -> None:
    paths = [f"{small.root}/{name}" for name in "ab"]
    for path in paths:
        make_stub(path, bucket.put("key", DATA))
    read(paths[0])
    restore(paths[1])
    stripes = [pinstripe.stat(path).st_blocks for path in paths]
    assert stripes[0] == stripes[1] > 0
    assert [words(path) for path in paths] == [{"exists", "archived"}] * 2
    assert read(paths[0]) == read(paths[1]) == DATA


def test_an_interrupted_restore_goes_on_where_it_was(
    stub: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "RANGE_BYTES", 2 * STRIPE)
    monkeypatch.setattr(residency, "RANGES_AT_ONCE", 1)

    def fail(offset: int) -> None:
        if offset >= 10 * STRIPE:
            raise OSError(errno.EIO, "the network is gone")

    bucket.before_fetch = fail
    with pytest.raises(OSError, match="network is gone"):
        restore(stub)
    done = bucket.fetched_bytes
    assert done >= 8 * STRIPE
    bucket.before_fetch = lambda offset: None
    restore(stub)
    assert bucket.fetched_bytes == len(DATA)
    assert read(stub) == DATA


def test_an_object_that_changed_is_stale_and_never_mixed(stub: str, bucket: Bucket) -> None:
    assert pread(stub, STRIPE, 0) == DATA[:STRIPE]
    bucket.put("key", DATA[::-1])
    assert pread(stub, STRIPE, 0) == DATA[:STRIPE]  # what is here is of the old version, and of it alone
    with pytest.raises(StaleError) as caught:
        pread(stub, STRIPE, 5 * STRIPE)
    assert caught.value.errno == errno.ESTALE
    with pytest.raises(StaleError):
        restore(stub)
    assert words(stub) >= {"released", "partial"}


def test_a_checksum_that_is_not_the_buckets_drops_everything(small: Store, at: str, bucket: Bucket) -> None:
    remote = bucket.put("key", DATA)
    make_stub(at, Remote(**{**_values(remote), "crc64": 12345}))
    with pytest.raises(DamageError, match="CRC64NVME"):
        restore(at)
    assert not lists(small)
    assert words(at) == {"exists", "archived", "released"}
    collect_store(small)
    assert not segments_of(small)
    assert not list(Path(small.meta).glob("files/*/*/*.tx"))


def _values(remote: Remote) -> dict[str, object]:
    return {
        name: getattr(remote, name) for name in ("bucket", "key", "size", "etag", "version", "modified_ns", "endpoint")
    }


def test_without_a_checksum_in_the_bucket_it_is_whole_and_unproven(small: Store, at: str, bucket: Bucket) -> None:
    make_stub(at, bucket.put("key", DATA, checksum=False))
    restore(at)
    assert read(at) == DATA
    assert words(at) == {"exists", "archived", "unproven"}


def test_a_torn_list_and_a_lost_frame_are_fetched_again(stub: str, small: Store, bucket: Bucket) -> None:
    pread(stub, 3 * STRIPE, 0)
    (made,) = lists(small)
    with open(made, "ab") as file:
        file.write(b"\x05" + bytes(7) + b"torn")
    for path in segments_of(small):
        with open(path, "r+b") as file:
            file.truncate(4096)
    before = bucket.fetched_bytes
    assert pread(stub, 3 * STRIPE, 0) == DATA[: 3 * STRIPE]
    assert bucket.fetched_bytes - before == 3 * STRIPE
    restore(stub)
    assert read(stub) == DATA
    assert verify(small, stub).good


def test_lists_of_others_are_not_believed(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread(stub, STRIPE, 0)
    uid = os.geteuid()
    tails = residency._Tails(str(lists(small)[0].parent), bucket.put("key", DATA).identity, STRIPE, uid)
    tails._trusted = {uid + 1}
    assert list(tails.read()) == []
    tails = residency._Tails(str(lists(small)[0].parent), bucket.put("key", DATA).identity, STRIPE, uid)
    assert len(list(tails.read())) == 1


def test_where_nothing_can_be_kept_reading_goes_past_the_store(stub: str, small: Store, bucket: Bucket) -> None:
    for target in small.targets:  # full, or not ours: a frame finds no place
        os.chmod(target.path, 0o500)
        os.rename(f"{target.path}/pinstripe-target", f"{target.path}/away")
    try:
        small.reload()
        assert pread(stub, 3 * STRIPE, STRIPE + 7) == DATA[STRIPE + 7 :][: 3 * STRIPE]
    finally:
        for target in Store(small.root).superblock.targets:
            path = small.target_path(target)
            os.chmod(path, 0o700)
            os.rename(f"{path}/away", f"{path}/pinstripe-target")
        small.reload()
    assert not segments_of(small)
    assert read(stub) == DATA


def test_changing_a_stub_restores_it_first_and_replacing_it_fetches_nothing(small: Store, bucket: Bucket) -> None:
    paths = [f"{small.root}/{name}" for name in "abc"]
    for path in paths:
        make_stub(path, bucket.put("key", DATA))
    with pinstripe.open(paths[0], "wb") as file:
        file.write(b"new")
    assert bucket.fetched == []
    assert read(paths[0]) == b"new"
    assert words(paths[0]) == {"exists", "dirty"}
    assert state_of(paths[0]).base.remote == bucket.put("key", DATA)
    with pinstripe.open(paths[1], "r+b") as file:
        file.seek(STRIPE)
        file.write(b"patch")
    assert read(paths[1]) == DATA[:STRIPE] + b"patch" + DATA[STRIPE + 5 :]
    with pinstripe.open(paths[2], "ab") as file:
        file.write(b"more")
    assert read(paths[2]) == DATA + b"more"
    assert words(paths[1]) == words(paths[2]) == {"exists", "dirty"}


def test_released_data_goes_and_comes_back(stub: str, small: Store, bucket: Bucket) -> None:
    restore(stub)
    before = bucket.fetched_bytes
    assert release(stub, grace_s=0) > 0
    assert pinstripe.stat(stub).st_mtime_ns == 1_234_567_890_123_456_789
    assert words(stub) == {"exists", "archived", "released"}
    collect_store(small)
    assert not segments_of(small)
    assert read(stub) == DATA
    assert bucket.fetched_bytes == before + len(DATA)
    assert words(stub) == {"exists", "archived"}


def test_only_what_the_bucket_holds_proven_is_released(small: Store, at: str, bucket: Bucket) -> None:
    write(at, DATA)
    with pytest.raises(UnsupportedError, match="no bucket holds it"):
        release(at)
    tx = state_of(at).tx
    record_base(at, bucket.put("key", DATA), tx, proof="size")
    with pytest.raises(UnsupportedError, match="never compared"):
        release(at)
    record_base(at, bucket.put("key", DATA), tx)
    set_flags(at, add=["norelease"])
    with pytest.raises(UnsupportedError, match="pinned"):
        release(at)
    set_flags(at, remove=["norelease"])
    with pinstripe.open(at, "r+b") as file:
        with pytest.raises(BlockingIOError, match="open for writing"):
            release(at)
        file.write(b"x")
    assert words(at) == {"exists", "dirty"}
    with pytest.raises(UnsupportedError, match="changed since"):
        release(at)
    assert read(at) == b"x" + DATA[1:]


def test_a_writer_that_began_before_a_release_keeps_its_bytes(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(stub)
    monkeypatch.setattr(stub_module, "refuse_others", lambda tx, path: None)  # it registered after we looked
    with pinstripe.open(stub, "r+b") as file:
        file.write(b"patch")
        release(stub, grace_s=0)
        assert words(stub) == {"exists", "archived", "released"}
    assert read(stub) == b"patch" + DATA[5:]
    assert words(stub) == {"exists", "dirty"}
    assert verify(small, stub).good


def test_a_writer_whose_file_became_another_version_is_in_conflict(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(stub)
    monkeypatch.setattr(stub_module, "refuse_others", lambda tx, path: None)
    file = pinstripe.open(stub, "r+b")
    file.write(b"patch")
    renew_stub(stub, bucket.put("key", DATA[::-1]), state_of(stub))
    with pytest.raises(ConflictError, match="stub of s3://bucket/key"):
        file.close()
    assert read(stub) == DATA[::-1]


def test_a_renewed_stub_is_the_new_version_and_nothing_of_the_old(stub: str, small: Store, bucket: Bucket) -> None:
    pread(stub, 2 * STRIPE, 0)
    state = state_of(stub)
    renew_stub(stub, bucket.put("key", DATA[::-1] + b"longer"), state)
    assert pinstripe.stat(stub).st_size == len(DATA) + 6
    assert words(stub) == {"exists", "archived", "released"}
    assert read(stub) == DATA[::-1] + b"longer"
    collect_store(small)
    assert verify(small, stub).good
    with pytest.raises(ConflictError, match="changed meanwhile"):
        renew_stub(stub, bucket.put("key", DATA), state)


def test_collecting_keeps_what_is_resident_and_frees_what_is_nobodys(stub: str, small: Store, bucket: Bucket) -> None:
    pread(stub, 2 * STRIPE, 0)
    collect_store(small)
    before = bucket.fetched_bytes
    assert pread(stub, 2 * STRIPE, 0) == DATA[: 2 * STRIPE]
    assert bucket.fetched_bytes == before
    os.unlink(lists(small)[0])
    collect_store(small)
    assert not segments_of(small)
    assert pread(stub, 2 * STRIPE, 0) == DATA[: 2 * STRIPE]


def test_removing_a_stub_removes_what_was_resident(stub: str, small: Store) -> None:
    pread(stub, 2 * STRIPE, 0)
    pinstripe.remove(stub)
    assert not segments_of(small)
    assert not list(Path(small.meta).glob("files/*/*"))


def test_two_fetchers_share_what_they_have(stub: str, bucket: Bucket) -> None:
    with Residency.of(stub) as one, Residency.of(stub) as two:
        one.load(one.missing(0, 10))
        two.load(two.missing(0, 15))
        assert bucket.fetched_bytes == 15 * STRIPE
        one.load(one.missing())
        assert bucket.fetched_bytes == len(DATA)
        assert one.complete
        two.refresh()
        assert two.complete
        assert two.resident_bytes == len(DATA)
        synced = one.sync()
    assert promote(stub, synced=synced)
    assert read(stub) == DATA
    assert words(stub) == {"exists", "archived"}


def test_nothing_is_promoted_while_something_lacks_or_somebody_writes(
    stub: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread(stub, STRIPE, 0)
    assert not promote(stub)
    with Residency.of(stub) as residency:
        residency.load(residency.missing())
    writer = pinstripe.open(stub, "wb", buffering=0)
    writer.write(DATA)
    with pytest.raises(BlockingIOError):
        promote(stub)
    writer.discard()
    writer.close()
    assert promote(stub)


@pytest.mark.parametrize("size", [0, 1, STRIPE - 1, STRIPE, STRIPE + 1, 3 * STRIPE])
def test_every_size(small: Store, at: str, bucket: Bucket, size: int) -> None:
    make_stub(at, bucket.put("key", DATA[:size]))
    assert read(at) == DATA[:size]
    restore(at)
    assert words(at) == {"exists", "archived"}
    assert read(at) == DATA[:size]
    release(at, grace_s=0)
    assert read(at) == DATA[:size]


def test_a_small_and_inline_file_is_exported_and_its_release_frees_nothing(
    small: Store, at: str, bucket: Bucket
) -> None:
    write(at, b"small")
    state = state_of(at)
    assert words(at) == set()
    record_base(at, bucket.put("key", b"small"), state.tx)
    assert words(at) == {"exists", "archived"}
    assert release(at) == 0
    assert read(at) == b"small"
    write(at, b"other", "r+b")
    assert words(at) == {"exists", "dirty"}


def test_making_a_stub_over_a_name(stub: str, bucket: Bucket) -> None:
    other = bucket.put("other", b"other" * 1000)
    with pytest.raises(FileExistsError):
        make_stub(stub, other)
    make_stub(stub, other, replace=True)
    assert read(stub) == b"other" * 1000


def test_a_large_object_is_fetched_in_bounded_ranges(make_store: object, bucket: Bucket) -> None:
    store = make_store(stripe_bytes=1 << 20)  # type: ignore[operator]
    data = random.Random(7).randbytes(1 << 20) * 40
    path = f"{store.root}/large"
    make_stub(path, bucket.put("key", data))
    restore(path)
    assert max(length for _, _, length in bucket.fetched) == RANGE_BYTES
    assert crc64(read(path)) == crc64(data)


def test_remotes_and_bases_are_json_and_what_is_none_is_damage() -> None:
    remote = Remote("b", "k/ü", 7, "e", "v", 1, 2, Endpoint(url="http://127.0.0.1:1", unsigned=True))
    assert Remote.from_json(remote.to_json()) == remote
    base = Base(remote, b"t" * 16, "size")
    assert Base.from_json(base.to_json()) == base
    for bad in (
        b"",
        b"[]",
        b"{}",
        b'{"bucket":1,"key":"k","size":1,"etag":"e"}',
        b'{"bucket":"b","key":"k","size":-1,"etag":"e"}',
    ):
        with pytest.raises(DamageError):
            Remote.from_json(bad)
        with pytest.raises(DamageError):
            Base.from_json(bad)


def test_a_promotion_that_falls_between_a_collectors_looks_keeps_its_segments(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Residency.of(stub) as residency:
        residency.load(residency.missing())
    real, done = collect_module._remote_of_head, []

    def promote_first(directory: str, numbers: list[int]) -> Remote | None:
        if not done:
            done.append(promote(stub))
        return real(directory, numbers)

    monkeypatch.setattr(collect_module, "_remote_of_head", promote_first)
    collect_store(small)
    assert done == [True]
    bucket.objects.clear()
    assert read(stub) == DATA
    assert verify(small, stub).good


def test_what_is_resident_is_not_released_under_a_promotion(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Residency.of(stub) as residency:
        residency.load(residency.missing())
    real = stub_module._prove

    def release_first(*arguments: Any) -> Any:
        proven = real(*arguments)
        with pytest.raises(BlockingIOError):
            release(stub)
        collect_store(small)
        return proven

    monkeypatch.setattr(stub_module, "_prove", release_first)
    assert promote(stub)
    bucket.objects.clear()
    assert read(stub) == DATA


def test_forgotten_lists_do_not_take_the_segments_of_a_promotion_under_way(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Residency.of(stub) as residency:
        residency.load(residency.missing())
    real = stub_module._prove

    def forget_first(*arguments: Any) -> Any:
        proven = real(*arguments)
        with Residency.of(stub) as other:
            other.forget()
        collect_store(small)
        return proven

    monkeypatch.setattr(stub_module, "_prove", forget_first)
    assert promote(stub)
    bucket.objects.clear()
    assert read(stub) == DATA


def test_a_child_forked_while_stripes_are_fetched_holds_nobody_up(stub: str, bucket: Bucket) -> None:
    end, begin = os.pipe()
    children: list[int] = []

    def fork(offset: int) -> None:
        if not children:
            child = os.fork()
            if not child:
                os.close(begin)
                os.read(end, 1)
                os._exit(0)
            children.append(child)

    bucket.before_fetch = fork
    pread(stub, STRIPE, 0)
    for path in (stub, stub):
        with Residency.of(path) as other:
            other.forget()
            other.load(np.arange(2, dtype=np.uint64))
    assert os.waitpid(children[0], os.WNOHANG) == (0, 0)  # it lives on, and lets others fetch
    os.close(begin)
    os.close(end)
    os.waitpid(children[0], 0)


def test_a_pin_and_an_export_at_once_are_both_remembered(
    small: Store, at: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(at, DATA)
    remote = bucket.put("key", DATA)
    real, threads = state_module._write_archive, []

    def write_later(*arguments: Any, **more: Any) -> None:
        if not threads:
            threads.append(threading.Thread(target=set_flags, args=(at, ["norelease"])))
            threads[0].start()
            threads[0].join(0.2)  # long enough to read what is there, if nothing held it
        real(*arguments, **more)

    monkeypatch.setattr(state_module, "_write_archive", write_later)
    record_base(at, remote, state_of(at).tx)
    threads[0].join()
    assert words(at) == {"exists", "archived", "norelease"}


def test_a_name_is_removed_only_if_its_content_is_what_was_seen(stub: str, at: str, small: Store) -> None:
    seen = state_of(stub)
    with pinstripe.open(stub, "wb", buffering=0) as file:
        file.write(b"new")
        with pytest.raises(BlockingIOError):
            remove_if(stub, seen)
    assert not remove_if(stub, seen)
    assert read(stub) == b"new"
    assert remove_if(stub, state_of(stub))
    assert not pinstripe.exists(stub)
    with pytest.raises(FileNotFoundError):
        remove_if(stub, seen)
    collect_store(small)
    assert not list(Path(small.meta).glob("files/*/*"))


def test_an_inode_that_cannot_be_read_frees_nothing_that_is_resident(
    stub: str, small: Store, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread(stub, 2 * STRIPE, 0)

    def torn(directory: str, numbers: list[int]) -> Remote | None:
        raise DamageError("torn", path=directory)

    monkeypatch.setattr(collect_module, "_remote_of_head", torn)
    collect_store(small)
    before = bucket.fetched_bytes
    assert pread(stub, 2 * STRIPE, 0) == DATA[: 2 * STRIPE]
    assert bucket.fetched_bytes == before
    assert len(lists(small)) == 1
