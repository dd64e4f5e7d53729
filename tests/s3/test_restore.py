"""Restoring stubs: of one file, of trees, over ranks; verified, resumable, and told as it went."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import pinstripe
from pinstripe.errors import StaleError
from pinstripe.format.remote import Endpoint, Remote
from pinstripe.s3.client import Client
from pinstripe.s3.events import Events
from pinstripe.s3.links import link
from pinstripe.s3.restoring import restore, stage_in
from pinstripe.s3.source import open_source
from pinstripe.store.inode_file import read_inode_at
from pinstripe.store.newfile import give_directory
from pinstripe.store.place import locate
from pinstripe.store.registering import register
from pinstripe.store.residency import Residency
from pinstripe.store.state import state_of
from pinstripe.store.store import Store
from pinstripe.store.stub import make_stub
from pinstripe.store.verify import verify
from pinstripe.testing.s3_faults import Fault, FaultProxy

from .putting import put

STRIPE = 64 << 10
RANDOM = random.Random(63)
SIZES = [0, 1, STRIPE - 1, STRIPE, STRIPE + 1, 1_000_000, 40 << 20]
MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture
def data() -> dict[str, bytes]:
    return {f"d{size % 2}/f{size}": RANDOM.randbytes(size) for size in SIZES}


@pytest.fixture
def through(proxy: FaultProxy) -> Endpoint:
    """The way through the proxy."""
    return Endpoint(url=proxy.url, region="us-east-1")


@pytest.fixture
def tree(store: Store, client: Any, bucket: str, through: Endpoint, data: dict[str, bytes]) -> str:
    for key, body in data.items():
        put(client, bucket, key, body)
    assert stage_in(f"s3://{bucket}", f"{store.root}/x", lazy=True, endpoint=through).files == len(data)
    return f"{store.root}/x"


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


def gets(proxy: FaultProxy) -> int:
    return sum(entry.bytes_out for entry in proxy.log if entry.method == "GET" and entry.range)


def test_a_tree_is_restored_whole_and_verified(
    tree: str, store: Store, data: dict[str, bytes], proxy: FaultProxy
) -> None:
    summary = restore([tree])
    assert (summary.files, summary.verified, summary.bytes) == (len(data), len(data), sum(SIZES))
    assert summary.exit_code == 0
    assert gets(proxy) == sum(SIZES)
    for key, body in data.items():
        state = state_of(f"{tree}/{key}")
        assert (state.is_stub, state.archived) == (False, True)
        assert state.base is not None
        assert state.base.proof == "crc64nvme"
        assert read(f"{tree}/{key}") == body
    assert verify(store, tree).good
    again = restore([tree])
    assert (again.files, again.skipped) == (0, len(data))


def test_a_stub_without_a_checksum_gets_its_objects(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
    body = RANDOM.randbytes(200_000)
    etag = put(client, bucket, "f", body)
    for name in "ab":
        make_stub(f"{store.root}/{name}", Remote(bucket, "f", len(body), etag, endpoint=endpoint))
    assert restore([f"{store.root}/a"], verify="size").verified == 0
    assert restore([f"{store.root}/b"]).verified == 1
    bases = [state_of(f"{store.root}/{name}").base for name in "ab"]
    assert [base.proof for base in bases if base is not None] == ["etag", "crc64nvme"]


def test_what_is_resident_is_not_fetched_again(tree: str, proxy: FaultProxy) -> None:
    path = f"{tree}/d0/f{40 << 20}"
    with Residency.of(path) as residency:
        residency.load(residency.missing(0, 100))
    before = gets(proxy)
    assert restore([path]).files == 1
    assert gets(proxy) - before == (40 << 20) - 100 * STRIPE


@pytest.mark.parametrize("name", ["d0/f1000000", f"d0/f{40 << 20}"])
def test_bytes_that_are_not_the_checksums_are_exit_code_4_and_nothing_stays(
    tree: str, proxy: FaultProxy, name: str
) -> None:
    proxy.add(Fault("GET", name, kind="corrupt", times=1, after_bytes=1000))
    summary = restore([f"{tree}/{name}"])
    assert (summary.damaged, summary.files, summary.exit_code) == (1, 0, 4)
    state = state_of(f"{tree}/{name}")
    assert (state.is_stub, state.resident_bytes) == (True, 0)
    assert restore([f"{tree}/{name}"]).verified == 1


@pytest.mark.parametrize("name", ["d0/f1000000", f"d0/f{40 << 20}"])
def test_an_object_that_changed_fails_and_the_rest_is_restored(
    tree: str, client: Any, bucket: str, data: dict[str, bytes], name: str
) -> None:
    put(client, bucket, name, b"another")
    events = Events()
    summary = restore([tree], events=events)
    assert (summary.files, summary.failed, summary.exit_code) == (len(data) - 1, 1, 1)
    assert [(failure.path, failure.error_code) for failure in events.failures] == [(f"{tree}/{name}", "ObjectChanged")]
    assert state_of(f"{tree}/{name}").is_stub


def test_storms_of_slow_down_are_waited_out_and_counted(tree: str, proxy: FaultProxy, data: dict[str, bytes]) -> None:
    proxy.add(Fault("GET", "d0/", kind="slowdown", times=4), Fault("GET", "d1/", kind="503", times=2))
    summary = restore([tree])
    assert (summary.files, summary.exit_code) == (len(data), 0)
    assert summary.retries >= 1


def test_a_dry_run_lists_and_fetches_nothing(tree: str, proxy: FaultProxy, data: dict[str, bytes]) -> None:
    summary = restore([tree], dry_run=True)
    assert (summary.files, summary.bytes) == (len(data), sum(SIZES))
    assert gets(proxy) == 0
    assert all(state_of(f"{tree}/{key}").is_stub for key in data)


def test_a_path_that_is_not_there_fails_and_the_others_are_restored(tree: str) -> None:
    summary = restore([f"{tree}/nothing", f"{tree}/d1/f1"])
    assert (summary.files, summary.failed, summary.exit_code) == (1, 1, 1)


def test_a_file_that_is_open_for_writing_is_busy(tree: str) -> None:
    path = f"{tree}/d0/f1000000"
    with pinstripe.open(path, "wb") as file:
        file.write(b"new")
        file.flush()
        summary = restore([path])
        assert summary.exit_code == 1
    assert read(path) == b"new"


@pytest.mark.parametrize("size", [1_000_000, 40 << 20])
def test_a_reader_that_promotes_the_file_is_waited_for(tree: str, store: Store, size: int) -> None:
    path = f"{tree}/d0/f{size}"
    inode, seen = read_inode_at(locate(path))
    give_directory(store, inode, path, seen)
    promotes = register(store, inode, path, seen, 1)
    ends = threading.Timer(0.5, promotes.discard)
    ends.start()
    events = Events()
    summary = restore([path], events=events)
    ends.join()
    assert (summary.files, [failure.text for failure in events.failures]) == (1, [])
    assert not state_of(path).is_stub


def test_a_link_says_how_its_stubs_are_reached(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, proxy: FaultProxy, through: Endpoint
) -> None:
    etag = put(client, bucket, "in/f", b"x" * 1000)
    remote = Remote(bucket, "in/f", 1000, etag, endpoint=Endpoint(region="us-east-1"))
    pinstripe.makedirs(f"{store.root}/in")
    link(f"{store.root}/in", f"s3://{bucket}/in", endpoint=through)
    make_stub(f"{store.root}/in/f", remote)
    assert read(f"{store.root}/in/f") == b"x" * 1000
    assert gets(proxy) == 1000
    assert open_source(remote, store).remote.endpoint.url == proxy.url


def test_a_source_gives_ranges_of_one_version(client: Any, bucket: str, endpoint: Endpoint, store: Store) -> None:
    body = RANDOM.randbytes(100_000)
    put(client, bucket, "f", body)
    source = open_source(Client.of(endpoint).head(bucket, "f").remote(bucket, endpoint), store)
    out = bytearray(1000)
    source.fetch_into(99_000, memoryview(out))
    assert (source.size, bytes(out)) == (len(body), body[99_000:])
    source.fetch_into(100_000, memoryview(b""))
    put(client, bucket, "f", body[::-1])
    with pytest.raises(StaleError):
        source.fetch_into(0, memoryview(out))


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
def test_ranks_restore_a_tree_together(tree: str, data: dict[str, bytes], proxy: FaultProxy) -> None:
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "pinstripe", "restore", "--json", tree]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=dict(os.environ))
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["files"], found["verified"], done.returncode) == (len(data), len(data), 0), done.stderr
    assert gets(proxy) == sum(SIZES)
    for key, body in data.items():
        assert read(f"{tree}/{key}") == body
