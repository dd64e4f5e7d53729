"""Importing: objects become stubs with their attributes, changes are followed, and nothing that was changed here is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pinstripe
from pinstripe.format.remote import Endpoint
from pinstripe.kernels import crc64
from pinstripe.s3.client import Client
from pinstripe.s3.conflicts import Policy
from pinstripe.s3.events import Events
from pinstripe.s3.filters import Filter
from pinstripe.s3.importing import import_link, import_objects, report_lines
from pinstripe.s3.links import Link, LinkOptions, link
from pinstripe.s3.listing import list_objects, midpoint
from pinstripe.s3.objects import ObjectInfo, Page
from pinstripe.s3.reports import parse
from pinstripe.store.state import set_flags, state_of
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import FaultProxy

from .putting import FSX, put

RANDOM = random.Random(64)
MPIRUN = Path(sys.executable).with_name("mpirun")
ALL = ("new", "changed", "deleted")


@pytest.fixture
def linked(store: Store, bucket: str, endpoint: Endpoint) -> Link:
    return link(f"{store.root}/in", f"s3://{bucket}/p", import_=ALL, endpoint=endpoint)


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    with pinstripe.open(path, "wb") as file:
        file.write(data)


def fill(client: Any, bucket: str, count: int) -> list[str]:
    keys = [f"p/d{number % 7}/f{number:04d}" for number in range(count)]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    return keys


# --- what becomes of objects ------------------------------------------------------------------------------------------


def test_objects_become_stubs_with_attributes_and_nothing_is_fetched(
    linked: Link, store: Store, client: Any, bucket: str
) -> None:
    body = RANDOM.randbytes(100_000)
    etag = put(client, bucket, "p/d/f", body, Metadata=FSX)
    summary = import_link(store, linked)
    assert (summary.files, summary.exit_code) == (1, 0)
    path = f"{store.root}/in/d/f"
    seen = pinstripe.stat(path)
    assert (seen.st_size, seen.st_mode & 0o7777, seen.st_mtime_ns) == (len(body), 0o640, 1595002920123456789)
    assert seen.st_atime_ns == 1595002920000000001
    if os.geteuid() == 0:
        assert (seen.st_uid, seen.st_gid) == (500, 501)
    state = state_of(path)
    assert (state.is_stub, state.resident_bytes) == (True, 0)
    assert state.base is not None
    assert state.base.remote.etag == etag
    assert state.base.remote.crc64 is not None
    assert read(path) == body


def test_without_attributes_the_list_is_enough(store: Store, client: Any, bucket: str, proxy: FaultProxy) -> None:
    put(client, bucket, "p/d/f", b"bytes", Metadata=FSX)
    through = Endpoint(url=proxy.url, region="us-east-1")
    summary = import_objects(f"s3://{bucket}/p", f"{store.root}/in", endpoint=through, attributes=False)
    assert summary.files == 1
    assert not [entry for entry in proxy.log if entry.method == "HEAD"]
    assert pinstripe.stat(f"{store.root}/in/d/f").st_mode & 0o777 == 0o644
    assert read(f"{store.root}/in/d/f") == b"bytes"


def test_a_second_import_asks_nothing_but_the_list(
    linked: Link, store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    put(client, bucket, "p/a", b"x", Metadata=FSX)
    import_link(store, linked)
    through = dataclasses.replace(linked.endpoint, url=proxy.url)
    summary = import_objects(linked, endpoint=through)
    assert (summary.files, summary.skipped) == (0, 1)
    assert {entry.method for entry in proxy.log} == {"GET"}
    assert all("list-type=2" in entry.path for entry in proxy.log)


def test_a_symlink_is_made_and_one_that_leaves_the_store_is_told(
    linked: Link, store: Store, client: Any, bucket: str
) -> None:
    link_ = FSX | {"file-permissions": "0120777"}
    put(client, bucket, "p/d/f", b"data", Metadata=FSX)
    put(client, bucket, "p/d/good", b"f", Metadata=link_)
    put(client, bucket, "p/d/bad", b"../../../../etc/passwd", Metadata=link_)
    put(client, bucket, "p/d/none", b"", Metadata=link_)
    events = Events()
    summary = import_link(store, linked, events=events)
    assert (summary.files, summary.failed, summary.exit_code) == (2, 2, 1)
    assert os.readlink(f"{store.root}/in/d/good") == "f"
    assert read(f"{store.root}/in/d/good") == b"data"
    assert not os.path.lexists(f"{store.root}/in/d/bad")
    assert import_link(store, linked).files == 0


# --- both sides change --------------------------------------------------------------------------------------------------


def test_a_clean_file_follows_its_object(linked: Link, store: Store, client: Any, bucket: str) -> None:
    put(client, bucket, "p/a", b"first", Metadata=FSX)
    put(client, bucket, "p/b", b"first", Metadata=FSX)
    import_link(store, linked)
    assert read(f"{store.root}/in/a") == b"first"
    for key in ("p/a", "p/b"):
        put(client, bucket, key, b"second, longer", Metadata=FSX | {"file-permissions": "0100600"})
    summary = import_link(store, linked)
    assert (summary.files, summary.exit_code) == (2, 0)
    for name in "ab":
        seen = pinstripe.stat(f"{store.root}/in/{name}")
        assert (seen.st_size, seen.st_mode & 0o777, seen.st_mtime_ns) == (14, 0o600, 1595002920123456789)
        assert read(f"{store.root}/in/{name}") == b"second, longer"


def test_a_dirty_file_is_kept_and_marked_when_its_object_changed(
    linked: Link, store: Store, client: Any, bucket: str
) -> None:
    put(client, bucket, "p/a", b"first")
    import_link(store, linked)
    write(f"{store.root}/in/a", b"ours")
    assert import_link(store, linked).exit_code == 0
    put(client, bucket, "p/a", b"theirs")
    summary = import_link(store, linked)
    assert (summary.conflicts, summary.files, summary.exit_code) == (1, 0, 3)
    assert read(f"{store.root}/in/a") == b"ours"
    assert state_of(f"{store.root}/in/a").conflict


def test_the_object_may_win_and_the_file_is_kept_aside(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    made = link(
        f"{store.root}/in",
        f"s3://{bucket}/p",
        import_=ALL,
        endpoint=endpoint,
        options=LinkOptions(if_conflict="take-remote"),
    )
    put(client, bucket, "p/a", b"theirs")
    write(f"{store.root}/in/a", b"ours")
    assert import_link(store, made).exit_code == 0
    assert read(f"{store.root}/in/a") == b"theirs"
    assert os.listdir(f"{store.meta}/lost+found") == ["a"]


def test_what_is_written_while_a_deletion_is_imported_stays(
    linked: Link, store: Store, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", b"old" * 50_000)
    put(client, bucket, "p/b", b"b")
    import_link(store, linked)
    client.delete_object(Bucket=bucket, Key="p/a")
    real = Client.head

    def head(self: Client, bucket: str, key: str, **more: Any) -> ObjectInfo:
        write(path, b"precious" * 50_000)
        return real(self, bucket, key, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "head", head)
        assert import_link(store, linked).exit_code == 3
    assert read(path) == b"precious" * 50_000


def test_a_file_that_is_open_for_writing_stays_when_its_object_is_deleted(
    linked: Link, store: Store, client: Any, bucket: str
) -> None:
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", b"old" * 50_000)
    put(client, bucket, "p/b", b"b")
    import_link(store, linked)
    with pinstripe.open(path, "r+b") as file:
        file.write(b"precious")
        client.delete_object(Bucket=bucket, Key="p/a")
        assert import_link(store, linked).exit_code != 0
    assert read(path).startswith(b"precious")


def test_a_file_that_is_written_while_a_symlink_takes_its_name_stays(
    linked: Link, store: Store, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", b"old" * 50_000)
    import_link(store, linked)
    put(client, bucket, "p/a", b"b", Metadata=FSX | {"file-permissions": "0120777"})
    real = Client.get

    def get(self: Client, *arguments: Any, **more: Any) -> Any:
        write(path, b"precious" * 50_000)
        return real(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "get", get)
        assert import_link(store, linked).exit_code == 3
    assert read(path) == b"precious" * 50_000


def test_a_symlink_that_is_refused_takes_no_file_along(linked: Link, store: Store, client: Any, bucket: str) -> None:
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", b"bytes" * 50_000)
    import_link(store, linked)
    assert read(path) == b"bytes" * 50_000
    put(client, bucket, "p/a", b"/etc/passwd", Metadata=FSX | {"file-permissions": "0120777"})
    assert import_link(store, linked).exit_code == 1
    assert read(path) == b"bytes" * 50_000
    put(client, bucket, "p/a", b"b", Metadata=FSX | {"file-permissions": "0120777"})
    assert import_link(store, linked).exit_code == 0
    assert os.readlink(path) == "b"


def test_a_stub_whose_object_is_written_again_reads_on(linked: Link, store: Store, client: Any, bucket: str) -> None:
    body = RANDOM.randbytes(6 << 20)
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", body)
    import_link(store, linked)
    upload = client.create_multipart_upload(
        Bucket=bucket, Key="p/a", ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    made = Client.of(linked.endpoint)
    cut = 5 << 20
    parts = [
        made.upload_part(bucket, "p/a", upload, number, data) for number, data in enumerate((body[:cut], body[cut:]), 1)
    ]
    etag, _ = made.complete_upload(bucket, "p/a", upload, parts, size=len(body), crc64=crc64(body))
    for _ in range(2):
        assert import_link(store, linked).exit_code == 0
    state = state_of(path)
    assert state.base is not None
    assert (state.base.remote.etag, state.is_stub) == (etag, True)
    assert read(path) == body


def test_a_killed_import_leaves_attributes_to_the_next(
    linked: Link, store: Store, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{store.root}/in/a"
    put(client, bucket, "p/a", b"old" * 50_000, Metadata=FSX)
    import_link(store, linked)
    put(
        client,
        bucket,
        "p/a",
        b"new" * 50_000,
        Metadata=FSX | {"file-permissions": "0100600", "file-mtime": "1500000000000000000ns"},
    )

    def die(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pinstripe.s3.importing.give_attributes", die)
        with pytest.raises(KeyboardInterrupt):
            import_link(store, linked)
    assert import_link(store, linked).files == 1
    seen = pinstripe.stat(path)
    assert (seen.st_mode & 0o777, seen.st_mtime_ns // 10**9) == (0o600, 1500000000)
    assert read(path) == b"new" * 50_000
    assert import_link(store, linked).files == 0


def test_a_file_with_the_objects_bytes_is_its_file(linked: Link, store: Store, client: Any, bucket: str) -> None:
    put(client, bucket, "p/a", b"the same")
    write(f"{store.root}/in/a", b"the same")
    assert import_link(store, linked).exit_code == 0
    assert state_of(f"{store.root}/in/a").archived
    assert not state_of(f"{store.root}/in/a").is_stub


def test_deleted_objects_take_clean_files_along_and_no_others(
    linked: Link, store: Store, client: Any, bucket: str
) -> None:
    for key in ("clean", "dirty", "d/only", "stays"):
        put(client, bucket, f"p/{key}", b"first")
    import_link(store, linked)
    write(f"{store.root}/in/dirty", b"ours")
    write(f"{store.root}/in/new", b"never exported")
    for key in ("clean", "dirty", "d/only", "d/"):  # the last is a leftover of this server's own
        client.delete_object(Bucket=bucket, Key=f"p/{key}")
    summary = import_link(store, linked)
    assert (summary.files, summary.conflicts, summary.exit_code) == (2, 1, 3)
    assert sorted(pinstripe.listdir(f"{store.root}/in")) == ["dirty", "new", "stays"]
    assert read(f"{store.root}/in/dirty") == b"ours"


def test_without_deleted_names_stay_and_say_what_became_of_them(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    made = link(f"{store.root}/in", f"s3://{bucket}/p", import_=("new", "changed"), endpoint=endpoint)
    for key in ("whole", "stub"):
        put(client, bucket, f"p/{key}", b"first")
    import_link(store, made)
    assert read(f"{store.root}/in/whole") == b"first"
    for key in ("whole", "stub"):
        client.delete_object(Bucket=bucket, Key=f"p/{key}")
    assert import_link(store, made).exit_code == 0
    assert read(f"{store.root}/in/whole") == b"first"
    assert state_of(f"{store.root}/in/whole").noexport
    assert state_of(f"{store.root}/in/stub").lost
    assert import_link(store, made).files == 0


def test_a_policy_without_new_makes_nothing(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    put(client, bucket, "p/a", b"x")
    made = link(f"{store.root}/in", f"s3://{bucket}/p", import_=("changed",), endpoint=endpoint)
    assert import_link(store, made).files == 0
    assert pinstripe.listdir(f"{store.root}/in") == []


def test_only_what_lies_below_a_path_is_imported(linked: Link, store: Store, client: Any, bucket: str) -> None:
    for key in ("a/1", "ab/2", "b/3"):
        put(client, bucket, f"p/{key}", b"x")
    assert import_objects(linked, below="a").files == 1
    assert pinstripe.listdir(f"{store.root}/in") == ["a"]


def test_objects_in_an_archive_are_told_and_not_hung_on(
    linked: Link, store: Store, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, bucket, "p/cold", b"x")
    put(client, bucket, "p/warm", b"x")
    head = Client.head

    def cold(self: Client, bucket: str, key: str, **more: Any) -> ObjectInfo:
        found = head(self, bucket, key, **more)
        return dataclasses.replace(found, storage_class="GLACIER", available=False) if key == "p/cold" else found

    monkeypatch.setattr(Client, "head", cold)
    events = Events()
    summary = import_link(store, linked, events=events)
    assert (summary.files, summary.failed, summary.exit_code) == (1, 1, 1)
    assert events.failures[0].error_code == "S3ObjectInUnsupportedTier"


def test_a_reserved_key_is_never_imported(linked: Link, store: Store, client: Any, bucket: str) -> None:
    put(client, bucket, "p/d/.pinstripe/superblock/1", b"x")
    put(client, bucket, "p/.pinstripe-stage-1", b"x")
    summary = import_link(store, linked)
    assert (summary.files, summary.exit_code) == (0, 0)
    assert pinstripe.listdir(f"{store.root}/in") == []


def test_a_directory_here_and_a_file_there_is_told(linked: Link, store: Store, client: Any, bucket: str) -> None:
    pinstripe.makedirs(f"{store.root}/in/a/b")
    write(f"{store.root}/in/f", b"file")
    put(client, bucket, "p/a", b"x")
    put(client, bucket, "p/f/g", b"x")
    events = Events()
    assert import_link(store, linked, events=events).failed == 2
    lines = report_lines(events, f"{store.root}/in")
    assert [(line.path, line.code) for line in lines] == [
        ("a", "S3ObjectTypeMismatch"),
        ("f/g", "S3ObjectTypeMismatch"),
    ]


def test_a_dry_run_tells_and_changes_nothing(linked: Link, store: Store, client: Any, bucket: str) -> None:
    for key in ("new", "changed", "gone"):
        put(client, bucket, f"p/{key}", b"1")
    import_link(store, linked)
    pinstripe.remove(f"{store.root}/in/new")
    put(client, bucket, "p/changed", b"22")
    client.delete_object(Bucket=bucket, Key="p/gone")

    class Planned(Events):
        def __init__(self) -> None:
            super().__init__()
            self.said: list[tuple[str, str]] = []

        def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
            self.said.append((verb, os.path.basename(path)))

    events = Planned()
    import_link(store, linked, events=events, dry_run=True)
    assert sorted(events.said) == [("make a stub", "new"), ("remove", "gone"), ("renew the stub", "changed")]
    assert sorted(pinstripe.listdir(f"{store.root}/in")) == ["changed", "gone"]
    assert pinstripe.stat(f"{store.root}/in/changed").st_size == 1


def test_a_pinned_file_of_a_link_keeps_its_flags(linked: Link, store: Store, client: Any, bucket: str) -> None:
    put(client, bucket, "p/a", b"x")
    import_link(store, linked)
    set_flags(f"{store.root}/in/a", add=["norelease"])
    put(client, bucket, "p/a", b"yy")
    assert import_link(store, linked).files == 1
    assert state_of(f"{store.root}/in/a").norelease


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_imports_all_links_and_writes_a_report(
    linked: Link, store: Store, client: Any, bucket: str, tmp_path: Path
) -> None:
    put(client, bucket, "p/a", b"x")
    put(client, bucket, "p/d", b"x")
    put(client, bucket, "p/d/e", b"x")
    report = tmp_path / "report.csv"
    command = [sys.executable, "-m", "pinstripe", "import", "--json", "--report", str(report), store.root]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["files"], found["failed"], done.returncode) == (2, 1, 1), done.stderr
    assert [(line.path, line.code) for line in parse(report.read_bytes())] == [("p/d", "S3ObjectTypeMismatch")]


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
def test_ranks_import_together(linked: Link, store: Store, client: Any, bucket: str) -> None:
    fill(client, bucket, 300)
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "pinstripe", "import", "--json", f"{store.root}/in"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["files"], found["failed"], done.returncode) == (300, 0, 0), done.stderr
    assert sum(len(names) for _, _, names in pinstripe.walk(f"{store.root}/in")) == 300


ONE_FAILS = """
import sys
from mpi4py import MPI
from pinstripe.format.remote import Endpoint
from pinstripe.mpi.team import world_team
from pinstripe.s3 import importing
url, endpoint, directory, rank, what = sys.argv[1:]

def fail(*arguments, **more):
    raise OSError(5, "only here")

if MPI.COMM_WORLD.rank == int(rank):
    if what == "store":
        importing.Store.find = fail
    else:
        setattr(importing, what, fail)
try:
    importing.import_objects(
        url, directory, endpoint=Endpoint(url=endpoint, region="us-east-1"), team=world_team()
    )
except Exception as error:
    print(f"rank {MPI.COMM_WORLD.rank}: {error}\\n", end="", flush=True)
"""


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
@pytest.mark.parametrize(("rank", "what"), [(1, "store"), (0, "capabilities_of"), (0, "read_last")])
def test_an_error_of_one_rank_before_the_list_is_every_ranks(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, rank: int, what: str
) -> None:
    client.put_object(Bucket=bucket, Key="p/.pinstripe/manifest-1.json.gz", Body=b"x")
    pinstripe.mkdir(f"{store.root}/in")
    command = [str(MPIRUN), "-n", "2", sys.executable, "-c", ONE_FAILS]
    command += [f"s3://{bucket}/p", endpoint.url, f"{store.root}/in", str(rank), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert sorted(line[:6] for line in done.stdout.splitlines() if "only here" in line) == ["rank 0", "rank 1"], done


# --- listing ------------------------------------------------------------------------------------------------------------


class Keys:
    """A client that lists keys, a few a page, in order."""

    def __init__(self, keys: list[str], page: int) -> None:
        self.keys, self.page, self.asked = sorted(keys), page, 0
        self.capabilities = Client(Endpoint()).capabilities

    def list_pages(
        self, bucket: str, prefix: str, *, delimiter: str = "", start_after: str = "", stop_at: str = ""
    ) -> Iterator[Page]:
        found: list[tuple[str, bool]] = []
        for key in self.keys:
            if key.startswith(prefix) and key > start_after:
                rest = key[len(prefix) :]
                if delimiter and "/" in rest:
                    entry = (prefix + rest[: rest.index("/") + 1], True)
                    if not found or found[-1] != entry:
                        found.append(entry)
                else:
                    found.append((key, False))
        for begin in range(0, max(1, len(found)), self.page):
            self.asked += 1
            part = found[begin : begin + self.page]
            yield Page(
                tuple(ObjectInfo(name, 1, "e", 0) for name, is_prefix in part if not is_prefix),
                tuple(name for name, is_prefix in part if is_prefix),
            )


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["p/a"],
        [f"p/{number:06d}" for number in range(3000)],
        [f"p/d{number % 13}/e{number % 3}/{number}" for number in range(2000)],
        [f"p/x/{RANDOM.randbytes(6).hex()}" for _ in range(2000)]
        + ["p/x", "p/x/", "p/x0", "p/\N{GREEK SMALL LETTER PI}"],
        [f"p/{'deep/' * depth}f{number}" for depth in range(12) for number in range(5)],
    ],
    ids=["none", "one", "flat", "tree", "random", "deep"],
)
def test_a_list_has_each_key_once(keys: list[str]) -> None:
    client: Any = Keys([*keys, "o", "q/other"], 10)
    assert [one.key for one in list_objects(client, "b", "p/")] == sorted(set(keys))


def test_a_real_list_of_many_pages_is_whole(client: Any, bucket: str, endpoint: Endpoint) -> None:
    keys = fill(client, bucket, 2300)
    assert [one.key for one in list_objects(Client.of(endpoint), bucket, "p/")] == sorted(keys)


@given(st.text(max_size=12), st.text(max_size=12), st.sets(st.characters(), min_size=2, max_size=20))
def test_a_midpoint_lies_between(one: str, other: str, characters: set[str]) -> None:
    low, high = sorted((one, other))
    found = midpoint(low, high, "".join(sorted(characters)))
    assert found == "" or low < found < high


def test_a_midpoint_is_about_in_the_middle() -> None:
    assert "p/4" < midpoint("p/0000", "p/9999", "0123456789") < "p/6"
    assert midpoint("a", "a", "ab") == ""


# --- filters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "exclude", "path", "meant"),
    [
        ([], [], "a", True),
        (["*.nc"], [], "d/e/a.nc", True),
        (["*.nc"], [], "d/a.ncx", False),
        (["d/*.nc"], [], "d/a.nc", True),
        (["d/*.nc"], [], "d/e/a.nc", False),
        (["d/**/a.nc"], [], "d/e/f/a.nc", True),
        (["d/**/a.nc"], [], "d/a.nc", True),
        ([], ["tmp/"], "tmp/x/y", False),
        ([], ["tmp/"], "d/tmp/x", True),
        ([], ["[a-c]?"], "d/b1", False),
        ([], ["[!a-c]?"], "b1", True),
        (["*"], ["*.txt"], "a.txt", False),
        (["a.b"], [], "axb", False),
    ],
)
def test_patterns(include: list[str], exclude: list[str], path: str, meant: bool) -> None:
    assert Filter(include, exclude)(path) is meant


def test_an_import_of_an_address_has_a_policy_of_its_own(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    put(client, bucket, "p/a", b"x")
    policy = Policy(("changed",), ())
    assert import_objects(f"s3://{bucket}/p", store.root, endpoint=endpoint, policy=policy).files == 0
    assert import_objects(f"s3://{bucket}/p", store.root, endpoint=endpoint).files == 1
