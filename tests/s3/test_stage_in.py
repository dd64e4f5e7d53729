"""stage-in: trees of objects become files, whole, verified, with their attributes; killed, it goes on; over ranks, too."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pinstripe
from pinstripe.errors import ArgumentError, RemoteError
from pinstripe.format.remote import Endpoint
from pinstripe.s3 import restoring
from pinstripe.s3.client import Client
from pinstripe.s3.events import Events
from pinstripe.s3.metadata import Defaults
from pinstripe.s3.objects import ObjectInfo, Page
from pinstripe.s3.restoring import stage_in
from pinstripe.store.state import state_of
from pinstripe.store.store import Store
from pinstripe.store.verify import verify
from pinstripe.testing.s3_faults import Fault, FaultProxy

from .putting import FSX, put, put_in_parts

STRIPE = 64 << 10
RANDOM = random.Random(62)
MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture
def through(proxy: FaultProxy) -> Endpoint:
    """The way through the proxy."""
    return Endpoint(url=proxy.url, region="us-east-1")


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


def hidden(store: Store) -> list[Path]:
    return list(Path(store.root).rglob(".pinstripe-stage-*"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def keep_metadata_of_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server forgets what is said of keys with a slash at their end; S3 does not."""
    head = Client.head

    def remembering(self: Client, bucket: str, key: str, **more: Any) -> ObjectInfo:
        modes = {"in/": "0040755", "in/empty/": "0040750", "in/d/": "0100700"}
        found = head(self, bucket, key, **more)
        if key not in modes:
            return found
        return dataclasses.replace(found, metadata=FSX | {"file-permissions": modes[key]})

    monkeypatch.setattr(Client, "head", remembering)


class Notes(Events):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


SIZES = [
    0,
    1,
    100,
    (16 << 10) - 1,
    16 << 10,
    (16 << 10) + 1,
    STRIPE - 1,
    STRIPE,
    STRIPE + 1,
    300_000,
    9 << 20,
    33 << 20,
]


def test_files_of_all_sizes_come_whole_verified_and_archived(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    data = {f"in/d{size % 3}/f{size}": RANDOM.randbytes(size) for size in SIZES}
    etags = {key: put(client, bucket, key, body, Metadata=FSX) for key, body in data.items()}
    events = Events()
    summary = stage_in(f"s3://{bucket}/in", f"{store.root}/x", endpoint=endpoint, events=events)
    assert not events.failures
    assert (summary.files, summary.verified, summary.exit_code) == (len(SIZES), len(SIZES), 0)
    assert summary.bytes == sum(SIZES)
    for key, body in data.items():
        path = f"{store.root}/x/{key.removeprefix('in/')}"
        assert read(path) == body
        seen = pinstripe.stat(path)
        assert (seen.st_mode & 0o7777, seen.st_mtime_ns) == (0o640, 1595002920123456789)
        if os.geteuid() == 0:
            assert (seen.st_uid, seen.st_gid) == (500, 501)
        state = state_of(path)
        assert (state.archived, state.is_stub) == (True, False)
        assert state.base is not None
        assert (state.base.remote.etag, state.base.proof) == (etags[key], "crc64nvme")
    assert not hidden(store)
    assert verify(store, store.root).good


def test_a_second_run_skips_what_is_there(
    store: Store, client: Any, bucket: str, through: Endpoint, proxy: FaultProxy
) -> None:
    for number in range(5):
        put(client, bucket, f"in/{number}", RANDOM.randbytes(10_000 * number), Metadata=FSX)
    assert stage_in(f"s3://{bucket}/in", store.root, endpoint=through).files == 5
    gets = [entry for entry in proxy.log if entry.method == "GET" and "list-type" not in entry.path]
    assert len(gets) == 5
    again = stage_in(f"s3://{bucket}/in", store.root, endpoint=through)
    assert (again.files, again.skipped, again.exit_code) == (0, 5, 0)
    assert len([entry for entry in proxy.log if entry.method == "GET" and "list-type" not in entry.path]) == 5


def test_files_that_others_may_write_come_too(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    put(client, bucket, "a", b"some bytes", Metadata={"file-permissions": "0100664"})
    assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint).verified == 1
    assert pinstripe.stat(f"{store.root}/a").st_mode & 0o777 == 0o664
    assert read(f"{store.root}/a") == b"some bytes"
    assert state_of(f"{store.root}/a").archived


def test_directories_and_symlinks_come_with_their_attributes(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_metadata_of_directories(monkeypatch)
    for key in ("in/", "in/empty/", "in/d/"):
        put(client, bucket, key)
    put(client, bucket, "in/d/f", b"x", Metadata=FSX)
    put(client, bucket, "in/d/link", b"../d/f", Metadata=FSX | {"file-permissions": "0120777"})
    put(client, bucket, "in/d/away", b"/etc/passwd", Metadata=FSX | {"file-permissions": "0120777"})
    put(client, bucket, "in/d/up", b"../../../../etc", Metadata=FSX | {"file-permissions": "0120777"})
    events = Events()
    summary = stage_in(f"s3://{bucket}/in/", f"{store.root}/x", endpoint=endpoint, events=events)
    assert (summary.files, summary.failed, summary.exit_code) == (4, 2, 1)
    assert sorted(failure.path for failure in events.failures) == [f"{store.root}/x/d/away", f"{store.root}/x/d/up"]
    for path, mode in (("empty", 0o750), ("d", 0o700)):
        seen = os.stat(f"{store.root}/x/{path}")
        assert (seen.st_mode & 0o7777, seen.st_mtime_ns) == (mode, 1595002920123456789)
    assert os.readlink(f"{store.root}/x/d/link") == "../d/f"
    assert os.lstat(f"{store.root}/x/d/link").st_mtime_ns == 1595002920123456789
    assert read(f"{store.root}/x/d/link") == b"x"
    again = stage_in(f"s3://{bucket}/in/", f"{store.root}/x", endpoint=endpoint)
    assert (again.files, again.failed) == (0, 2)


def test_one_object_is_brought_by_its_own_name(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    put(client, bucket, "data/deep/f.h5", b"x" * 100_000)
    put(client, bucket, "data/deep/f.h5x", b"y")
    assert stage_in(f"s3://{bucket}/data/deep/f.h5", store.root, endpoint=endpoint).files == 1
    assert pinstripe.listdir(store.root) == ["f.h5"]
    with pytest.raises(FileNotFoundError, match="nothing lies there"):
        stage_in(f"s3://{bucket}/data/nothing", store.root, endpoint=endpoint)


def test_patterns_choose(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    for key in ("a.nc", "d/b.nc", "d/b.txt", "tmp/c.nc"):
        put(client, bucket, key, b"x")
    events = Events()
    stage_in(f"s3://{bucket}", store.root, include=["*.nc"], exclude=["tmp/"], endpoint=endpoint, events=events)
    assert read(f"{store.root}/a.nc") == read(f"{store.root}/d/b.nc") == b"x"
    assert not pinstripe.exists(f"{store.root}/d/b.txt")
    assert not pinstripe.exists(f"{store.root}/tmp")


@pytest.mark.parametrize("size", [9 << 20, 33 << 20])
def test_what_does_not_verify_is_exit_code_4_and_leaves_nothing(
    store: Store, client: Any, bucket: str, through: Endpoint, proxy: FaultProxy, size: int
) -> None:
    put(client, bucket, "f", RANDOM.randbytes(size))
    proxy.add(Fault("GET", "/f$|/f[?]", kind="corrupt", times=1, after_bytes=50))
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=through)
    assert (summary.damaged, summary.files, summary.exit_code) == (1, 0, 4)
    assert pinstripe.listdir(store.root) == []
    assert not hidden(store)
    assert stage_in(f"s3://{bucket}", store.root, endpoint=through).verified == 1


def test_objects_without_a_checksum_of_the_whole_are_told_with_their_number(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    data = RANDOM.randbytes(11 << 20)
    put_in_parts(client, bucket, "parts", data)
    put(client, bucket, "whole", data)
    events = Notes()
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, events=events)
    assert (summary.files, summary.verified, summary.exit_code) == (2, 1, 0)
    assert "of 1 objects" in events.notes[0]
    base = state_of(f"{store.root}/parts").base
    assert base is not None
    assert base.proof == "etag"
    assert read(f"{store.root}/parts") == data


def test_a_file_that_is_another_is_kept_unless_it_may_be_replaced(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    put(client, bucket, "small", b"theirs")
    put(client, bucket, "large", RANDOM.randbytes(33 << 20))
    put(client, bucket, "same", b"the same bytes")
    for name, data in (("small", b"ours"), ("large", b"ours, too"), ("same", b"the same bytes")):
        with pinstripe.open(f"{store.root}/{name}", "wb") as file:
            file.write(data)
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint)
    assert (summary.conflicts, summary.skipped, summary.files, summary.exit_code) == (2, 1, 0, 3)
    assert read(f"{store.root}/small") == b"ours"
    assert state_of(f"{store.root}/same").archived
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, overwrite=True)
    assert (summary.files, summary.skipped, summary.exit_code) == (2, 1, 0)
    assert read(f"{store.root}/small") == b"theirs"
    assert pinstripe.stat(f"{store.root}/large").st_size == 33 << 20
    assert verify(store, store.root).good


def test_objects_that_cannot_be_files_are_told_and_the_rest_comes(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, bucket, "in/a", b"file")
    put(client, bucket, "in/a/b", b"in a directory")
    put(client, bucket, "in/.pinstripe/other", b"ours")
    put(client, bucket, "in/good", b"good")
    pages = Client.list_pages

    def with_odd_ones(self: Client, bucket: str, prefix: str, **more: Any) -> Iterator[Page]:
        odd = ["in/../x", "in//y", "in/" + "n" * 256, "in/a\0b", "in/\N{REPLACEMENT CHARACTER}", "in/./z"]
        odd = odd if prefix == "in/" else []
        for page in pages(self, bucket, prefix, **more):
            yield Page(page.objects + tuple(ObjectInfo(key, 1, "etag", 10**18) for key in odd), page.prefixes)
            odd = []

    monkeypatch.setattr(Client, "list_pages", with_odd_ones)  # this server takes none of those
    events = Events()
    summary = stage_in(f"s3://{bucket}/in", f"{store.root}/x", endpoint=endpoint, events=events)
    assert (summary.files, summary.failed, summary.exit_code) == (2, 7, 1)
    codes = [failure.error_code for failure in events.failures]
    assert codes.count("S3ObjectPathNotPosixCompliant") == 6
    assert codes.count("S3ObjectTypeMismatch") == 1
    assert sorted(pinstripe.listdir(f"{store.root}/x")) == ["a", "good"]
    assert pinstripe.listdir(store.root) == ["x"]


def test_lazy_makes_stubs_and_a_later_run_fetches_them(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    data = {f"f{size}": RANDOM.randbytes(size) for size in (0, 100, 200_000, 33 << 20)}
    for key, body in data.items():
        put(client, bucket, key, body, Metadata=FSX)
    summary = stage_in(f"s3://{bucket}", store.root, lazy=True, endpoint=endpoint)
    assert (summary.files, summary.bytes, summary.exit_code) == (4, 0, 0)
    assert all(state_of(f"{store.root}/{key}").is_stub for key in data)
    assert pinstripe.stat(f"{store.root}/f100").st_mtime_ns == 1595002920123456789
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint)
    assert (summary.files, summary.verified) == (4, 4)
    for key, body in data.items():
        assert not state_of(f"{store.root}/{key}").is_stub
        assert read(f"{store.root}/{key}") == body
        assert pinstripe.stat(f"{store.root}/{key}").st_mtime_ns == 1595002920123456789


def test_a_dry_run_does_nothing(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    put(client, bucket, "in/f", b"x" * 1000)
    for lazy in (False, True):
        summary = stage_in(f"s3://{bucket}/in", f"{store.root}/x", endpoint=endpoint, lazy=lazy, dry_run=True)
        assert (summary.files, summary.bytes) == (1, 1000)
    assert pinstripe.listdir(store.root) == []


def test_defaults_hold_for_what_states_nothing(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    put(client, bucket, "d/f", b"x")
    stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, defaults=Defaults(file_mode=0o600, directory_mode=0o700))
    assert os.stat(f"{store.root}/d").st_mode & 0o777 == 0o700
    assert pinstripe.stat(f"{store.root}/d/f").st_mode & 0o777 == 0o600
    modified = client.head_object(Bucket=bucket, Key="d/f")["LastModified"].timestamp()
    assert int(pinstripe.stat(f"{store.root}/d/f").st_mtime) == int(modified)


def test_a_word_that_is_none_and_a_bucket_that_is_not_there_are_refused(store: Store, endpoint: Endpoint) -> None:
    with pytest.raises(ArgumentError, match="verify"):
        stage_in("s3://b/x", store.root, verify="all", endpoint=endpoint)
    with pytest.raises(RemoteError):
        stage_in("s3://no-such-bucket-at-all/x", store.root, endpoint=endpoint)


def test_a_symlink_here_is_not_followed_out_of_the_directory(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    pinstripe.makedirs(f"{store.root}/x")
    pinstripe.makedirs(f"{store.root}/elsewhere")
    pinstripe.symlink("../elsewhere", f"{store.root}/x/d")
    put(client, bucket, "d/f", b"x")
    summary = stage_in(f"s3://{bucket}", f"{store.root}/x", endpoint=endpoint)
    assert (summary.files, summary.failed) == (0, 1)
    assert pinstripe.listdir(f"{store.root}/elsewhere") == []


def stage(*arguments: str, ranks: int = 1, **environment: str) -> subprocess.Popen[str]:
    launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "pinstripe", "stage-in", "--json", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ) | environment
    )


def summary_of(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = running.communicate(timeout=100)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert lines, error
    found = lines[-1]
    assert found["event"] == "summary"
    assert running.returncode == found["exit_code"]
    return dict(found)


def test_killed_in_a_large_object_it_goes_on_where_it_was(
    store: Store, client: Any, bucket: str, proxy: FaultProxy, through: Endpoint
) -> None:
    data = RANDOM.randbytes(70 << 20)
    put(client, bucket, "large", data)
    proxy.add(Fault("GET", "large", kind="hold", times=9, skip=3))
    running = stage(f"s3://{bucket}", store.root, "--endpoint-url", proxy.url)
    until(lambda: any(entry.fault == "hold" for entry in proxy.log) and bool(hidden(store)))
    until(lambda: any(Path(store.meta).glob("files/*/*/*.resident")))
    with_name = pinstripe.listdir(store.root)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    proxy.clear()
    proxy.release()
    assert with_name == []
    resident = sum(path.stat().st_size for path in Path(store.meta).glob("files/*/*/*.resident"))
    assert resident > 64
    before = len(proxy.log)
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=through)
    assert (summary.files, summary.verified, summary.exit_code) == (1, 1, 0)
    fetched = sum(entry.bytes_out for entry in proxy.log[before:] if entry.method == "GET" and entry.range)
    assert 0 < fetched < len(data)
    assert read(f"{store.root}/large") == data
    assert not hidden(store)
    assert verify(store, store.root).good


def test_a_killed_run_leaves_a_directory_that_can_be_removed(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, bucket, "large", RANDOM.randbytes(33 << 20))
    monkeypatch.setattr(restoring, "_load", lambda *arguments: (_ for _ in ()).throw(OSError("the network is gone")))
    stage_in(f"s3://{bucket}", f"{store.root}/x", endpoint=endpoint)
    assert len(hidden(store)) == 1
    pinstripe.rmdir(f"{store.root}/x")
    assert pinstripe.listdir(store.root) == []
    assert not list(Path(store.meta).glob("files/*/*/inode"))


def test_what_a_killed_run_left_of_an_older_version_goes(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, bucket, "large", RANDOM.randbytes(33 << 20))
    monkeypatch.setattr(restoring, "_load", lambda *arguments: (_ for _ in ()).throw(OSError("the network is gone")))
    assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint).exit_code == 1
    assert len(hidden(store)) == 1
    monkeypatch.undo()
    data = RANDOM.randbytes(34 << 20)
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)
    put(client, bucket, "large", data)
    assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint).files == 1
    assert not hidden(store)
    assert read(f"{store.root}/large") == data


@pytest.mark.parametrize("size", [300_000, 9 << 20, 33 << 20])
def test_stubs_that_were_made_after_a_killed_run_are_filled(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = RANDOM.randbytes(size)
    put(client, bucket, "f", data)
    with monkeypatch.context() as patch:
        fail = lambda *arguments, **more: (_ for _ in ()).throw(OSError("the network is gone"))  # noqa: E731
        patch.setattr(restoring, "_load", fail)
        patch.setattr(restoring._Stage, "_fill", fail)
        assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint).exit_code == 1
    assert len(hidden(store)) == 1
    assert stage_in(f"s3://{bucket}", store.root, lazy=True, endpoint=endpoint).files == 1
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint)
    assert (summary.files, summary.verified, summary.exit_code) == (1, 1, 0)
    assert read(f"{store.root}/f") == data
    assert not hidden(store)


def test_a_symlink_that_is_refused_leaves_the_file_whose_place_it_would_take(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    put(client, bucket, "f", b"/etc/passwd", Metadata=FSX | {"file-permissions": "0120777"})
    put(client, bucket, "g", b"f", Metadata=FSX | {"file-permissions": "0120777"})
    for name in "fg":
        with pinstripe.open(f"{store.root}/{name}", "wb") as file:
            file.write(b"mine")
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, overwrite=True)
    assert (summary.files, summary.failed) == (1, 1)
    assert not os.path.islink(f"{store.root}/f")
    assert read(f"{store.root}/f") == b"mine"
    assert os.readlink(f"{store.root}/g") == "f"
    assert not hidden(store)


@pytest.mark.parametrize(
    ("name", "size"),
    [("write_inode", 100)]
    + [(name, size) for name in ("make_stub", "promote", "put_name") for size in (300_000, 33 << 20)]
    + [("_load", size) for size in (9 << 20, 33 << 20)],
)
def test_another_run_that_is_faster_is_no_failure(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, name: str, size: int
) -> None:
    data = RANDOM.randbytes(size)
    put(client, bucket, "f", data)
    real = getattr(restoring, name)

    def second(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(restoring, name, real)
        assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint).files == 1
        return real(*arguments, **more)

    monkeypatch.setattr(restoring, name, second)
    events = Events()
    summary = stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, events=events)
    assert (summary.exit_code, [failure.text for failure in events.failures]) == (0, [])
    assert summary.files + summary.skipped == 1
    assert getattr(restoring, name) is real
    assert read(f"{store.root}/f") == data
    assert state_of(f"{store.root}/f").archived
    assert not hidden(store)
    assert verify(store, store.root).good


def test_two_runs_at_once_bring_all_of_it(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    sizes = [10, 1000] * 20 + [200_000] * 40 + [9 << 20] * 4 + [33 << 20]
    data = {f"f{number}": RANDOM.randbytes(size) for number, size in enumerate(sizes)}
    for key, body in data.items():
        put(client, bucket, key, body)
    running = [stage(f"s3://{bucket}", store.root, "--endpoint-url", endpoint.url) for _ in range(2)]
    for found in [summary_of(each) for each in running]:
        assert (found["exit_code"], found["failed"], found["files"] + found["skipped"]) == (0, 0, len(data))
    for key, body in data.items():
        assert read(f"{store.root}/{key}") == body
    assert not hidden(store)
    assert verify(store, store.root).good


_BEFORE_LISTING = """
import sys
from mpi4py import MPI
from pinstripe.format.remote import Endpoint
from pinstripe.mpi.team import world_team
from pinstripe.s3 import restoring
where, failing, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rank = MPI.COMM_WORLD.rank
def fail(*arguments, **more):
    raise OSError(5, "this node only")
if rank == failing:
    {"store": lambda: setattr(restoring.Store, "find", fail),
     "capabilities": lambda: setattr(restoring, "capabilities_of", fail),
     "check": lambda: setattr(restoring.Holder, "check", fail)}[where]()
nowhere = Endpoint(url="http://127.0.0.1:9", region="us-east-1", unsigned=True)
try:
    if sys.argv[4] == "restore":
        restoring.restore([root], team=world_team())
    else:
        restoring.stage_in("s3://nothing/p", root, endpoint=nowhere, team=world_team())
except Exception as error:
    print(f"rank {rank}: {error}", flush=True)
"""


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
@pytest.mark.parametrize(
    ("where", "failing", "verb"),
    [("capabilities", 0, "stage-in"), ("store", 1, "stage-in"), ("store", 1, "restore"), ("check", 0, "stage-in")],
)
def test_an_error_of_one_rank_before_the_listing_is_the_error_of_all(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, tmp_path: Path, where: str, failing: int, verb: str
) -> None:
    put(client, bucket, "f", b"x" * 100_000)
    assert stage_in(f"s3://{bucket}", store.root, lazy=True, endpoint=endpoint).files == 1
    program = tmp_path / "ranks.py"
    program.write_text(_BEFORE_LISTING)
    command = [str(MPIRUN), "-n", "2", sys.executable, str(program), where, str(failing), store.root, verb]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = sorted(done.stdout.splitlines())
    assert [line[:7] for line in lines] == ["rank 0:", "rank 1:"], done.stderr
    assert all("this node only" in line for line in lines)


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_work_and_fetch_each_byte_once(
    store: Store, client: Any, bucket: str, proxy: FaultProxy, ranks: int
) -> None:
    data = {f"d{number % 4}/f{number}": RANDOM.randbytes(1000 * number) for number in range(100)}
    data |= {
        "large1": RANDOM.randbytes(70 << 20),
        "large2": RANDOM.randbytes(33 << 20),
        "middle": RANDOM.randbytes(9 << 20),
    }
    for key, body in data.items():
        put(client, bucket, key, body, Metadata=FSX)
    found = summary_of(stage(f"s3://{bucket}", f"{store.root}/x", "--endpoint-url", proxy.url, ranks=ranks))
    assert (found["files"], found["verified"], found["exit_code"]) == (103, 103, 0)
    assert found["bytes"] == sum(map(len, data.values()))
    gets = [entry for entry in proxy.log if entry.method == "GET" and "list-type" not in entry.path]
    assert sum(entry.bytes_out for entry in gets) == sum(map(len, data.values()))
    for key, body in data.items():
        assert read(f"{store.root}/x/{key}") == body
        assert state_of(f"{store.root}/x/{key}").archived
    assert not hidden(store)
    assert verify(store, store.root).good
    found = summary_of(stage(f"s3://{bucket}", f"{store.root}/x", "--endpoint-url", proxy.url, ranks=ranks))
    assert (found["files"], found["skipped"]) == (0, 103)


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
def test_a_failure_on_some_rank_is_told_once_and_the_rest_comes(
    store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    put(client, bucket, "bad", RANDOM.randbytes(70 << 20))
    put(client, bucket, "good", RANDOM.randbytes(40 << 20))
    proxy.add(Fault("GET", "bad", kind="403", times=100))
    running = stage(f"s3://{bucket}", store.root, "--endpoint-url", proxy.url, ranks=2)
    found = summary_of(running)
    assert (found["files"], found["failed"], found["exit_code"]) == (1, 1, 1)
    assert pinstripe.listdir(store.root) == ["good"]
