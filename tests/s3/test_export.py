"""Export and stage-out: what is in the bucket afterwards, read by boto3 alone; and what is never overwritten."""

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pinstripe
from pinstripe.cli import cli
from pinstripe.errors import ArgumentError
from pinstripe.format.remote import Endpoint
from pinstripe.kernels import crc64
from pinstripe.s3 import probe, sending, uploads
from pinstripe.s3.events import Events, Summary
from pinstripe.s3.exporting import export, stage_out
from pinstripe.s3.links import LinkOptions, link
from pinstripe.s3.objects import Capabilities
from pinstripe.s3.sending import part_bytes_of
from pinstripe.store.collect import collect_store
from pinstripe.store.state import set_flags, state_of
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import Fault, FaultProxy

MIB = 1 << 20
PART = 5 * MIB
"""Smallest part that the service takes."""


def data_of(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def write(store: Store, name: str, data: bytes) -> str:
    path = Path(store.root, name)
    pinstripe.makedirs(path.parent, exist_ok=True)
    with pinstripe.open(path, "wb") as file:
        file.write(data)
    return str(path)


def objects(client: Any, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """All objects but completion objects, whole."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            if ".pinstripe/" not in entry["Key"]:
                found[entry["Key"]] = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
    return found


def manifests(client: Any, bucket: str) -> list[dict[str, Any]]:
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return [
        json.loads(gzip.decompress(client.get_object(Bucket=bucket, Key=key)["Body"].read()))
        for key in keys
        if ".pinstripe/manifest-" in key
    ]


def unfinished(client: Any, bucket: str) -> list[str]:
    return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def records(store: Store) -> list[uploads.Record]:
    return list(uploads.uploads_of(store))


class Telling(Events):
    """Events that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.plans: list[tuple[str, str, int]] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_planned(self, verb: str, path: str, size: int, reason: str) -> None:
        self.plans.append((verb, path, size))


class Out:
    """The directory ``out`` of a store, and the prefix that it is staged out to."""

    def __init__(self, store: Store, client: Any, bucket: str, endpoint: Endpoint) -> None:
        self.store, self.client, self.bucket, self.endpoint = store, client, bucket, endpoint
        self.path = os.path.join(store.root, "out")
        pinstripe.mkdir(self.path)

    def write(self, name: str, data: bytes) -> str:
        return write(self.store, f"out/{name}", data)

    def stage(self, code: int = 0, **options: Any) -> Summary:
        options = {"endpoint": self.endpoint, "part_bytes_least": PART} | options
        summary = stage_out(self.path, f"s3://{self.bucket}/p", **options)
        assert summary.exit_code == code, summary
        return summary

    def objects(self) -> dict[str, bytes]:
        return {key.removeprefix("p/"): data for key, data in objects(self.client, self.bucket, "p/").items()}


@pytest.fixture
def out(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> Out:
    return Out(store, client, bucket, endpoint)


@pytest.fixture
def linked(store: Store, bucket: str, endpoint: Endpoint) -> str:
    return link(
        os.path.join(store.root, "in"), f"s3://{bucket}/l", endpoint=endpoint, export=("new", "changed")
    ).directory


# --- what is in the bucket -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART + 12345])
def test_the_object_is_the_file(out: Out, size: int) -> None:
    data = data_of(size)
    path = out.write("x", data)
    summary = out.stage()
    assert (summary.files, summary.bytes, summary.verified) == (1, size, 1)
    assert out.objects() == {"x": data}
    head = out.client.head_object(Bucket=out.bucket, Key="p/x", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"]
    state = state_of(path)
    assert state.archived
    assert not state.unproven
    assert state.base is not None
    assert state.base.remote.etag == head["ETag"].strip('"')
    assert state.base.remote.crc64 == crc64(data)
    assert unfinished(out.client, out.bucket) == []
    assert records(out.store) == []
    assert out.stage().skipped == 1


def test_attributes_go_with_it(out: Out, proxy: FaultProxy) -> None:
    path = out.write("x", b"hello")
    pinstripe.chmod(path, 0o4751)
    pinstripe.utime(path, ns=(1_700_000_000_123_456_789, 1_600_000_000_987_654_321))
    pinstripe.mkdir(f"{out.path}/empty")
    pinstripe.mkdir(f"{out.path}/private")
    pinstripe.chmod(f"{out.path}/private", 0o2750)
    out.write("private/y", b"y")
    out.write("plain/z", b"z")
    pinstripe.symlink("private/y", f"{out.path}/to-y")
    summary = out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert out.objects() == {
        "x": b"hello",
        "empty/": b"",
        "private/": b"",
        "private/y": b"y",
        "plain/z": b"z",
        "to-y": b"private/y",
    }
    assert summary.files == 6
    found = {key: out.client.head_object(Bucket=out.bucket, Key=f"p/{key}")["Metadata"] for key in out.objects()}
    assert found["x"]["file-permissions"] == "0100751"
    assert found["x"]["file-atime"] == "1700000000123456789ns"
    assert found["x"]["file-mtime"] == "1600000000987654321ns"
    assert (found["x"]["file-owner"], found["x"]["file-group"]) == (str(os.getuid()), str(os.getgid()))
    # This server forgets the metadata of directories.
    sent = {entry.path.rpartition("/p/")[2]: entry.headers for entry in proxy.entries("PUT", "/p/")}
    assert sent["private/"]["x-amz-meta-file-permissions"] == "0042750"
    assert sent["empty/"]["x-amz-meta-file-permissions"] == "0040755"
    assert found["to-y"]["file-permissions"] == "0120777"
    assert all(sum(len(name) + len(value) for name, value in one.items()) < 1024 for one in found.values())
    again = out.stage()
    assert (again.files, again.skipped) == (0, 6)


def test_the_list_comes_last_and_has_everything(out: Out) -> None:
    out.write("a/x", b"hello")
    pinstripe.utime(f"{out.path}/a/x", ns=(5, 1_600_000_000_000_000_001))
    pinstripe.symlink("a/x", f"{out.path}/l")
    out.stage()
    (found,) = manifests(out.client, out.bucket)
    entries = {entry["path"]: entry for entry in found["objects"]}
    assert list(entries) == ["a", "a/x", "l"]
    head = out.client.head_object(Bucket=out.bucket, Key="p/a/x")
    expected = {
        "path": "a/x",
        "kind": "file",
        "key": "p/a/x",
        "size": 5,
        "mode": 0o644,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "mtime_ns": 1_600_000_000_000_000_001,
        "etag": head["ETag"].strip('"'),
        "crc64nvme": f"{crc64(b'hello'):016x}",
    }
    assert {name: value for name, value in entries["a/x"].items() if name != "version"} == expected
    assert (entries["a"]["kind"], entries["l"]["target"]) == ("directory", "a/x")


def test_odd_names(out: Out) -> None:
    names = ["with space", "plus+and%percent", "ümläut/ﬀ", "new\nline", "a" * 255, "quo'te\"s", "~", "&<>"]
    for number, name in enumerate(names):
        out.write(name, str(number).encode())
    out.stage()
    assert out.objects() == {name: str(number).encode() for number, name in enumerate(names)}


def test_names_that_cannot_be_keys_are_told_and_the_rest_goes(out: Out, client: Any) -> None:
    out.write("good", b"good")
    long = "/".join(["d" * 250] * 4 + ["x" * 100])
    out.write(long, b"long")
    with pinstripe.open(os.path.join(out.path, os.fsdecode(b"bad\xff")), "wb") as file:
        file.write(b"bad")
    events = Events()
    summary = out.stage(code=1, events=events)
    assert summary.failed == 2
    assert {failure.error_code for failure in events.failures} == {"PathSizeTooLong", "S3ObjectPathNotPosixCompliant"}
    assert out.objects() == {"good": b"good"}
    assert manifests(client, out.bucket) == []


def test_many_small_files(out: Out) -> None:
    expected = {f"d{number % 7}/f{number}": data_of(number * 37, number) for number in range(150)}
    for name, data in expected.items():
        out.write(name, data)
    assert out.stage().files == 150
    assert out.objects() == expected


def test_a_stub_is_staged_out_through_its_bucket(out: Out, linked: str) -> None:
    data = data_of(300_000)
    path = write(out.store, "in/x", data)
    assert export([path]).files == 1
    assert pinstripe_release(path) > 0
    pinstripe.rename(path, f"{out.path}/x")
    out.stage()
    assert out.objects() == {"x": data}


def pinstripe_release(path: str) -> int:
    from pinstripe.store.stub import release

    return release(path)


# --- again, and changed ----------------------------------------------------------------------------------------------


def test_what_changed_is_replaced_and_nothing_else_moves(out: Out, proxy: FaultProxy) -> None:
    through = Endpoint(url=proxy.url, region="us-east-1")
    for name in ("same", "changed", "other"):
        out.write(name, name.encode())
    out.stage(endpoint=through)
    proxy.clear()
    out.write("changed", b"more")
    summary = out.stage(endpoint=through)
    assert (summary.files, summary.skipped) == (1, 2)
    assert out.objects() == {"same": b"same", "changed": b"more", "other": b"other"}
    puts = [entry.path for entry in proxy.entries("PUT")]
    assert [path for path in puts if "manifest" not in path] == ["/" + out.bucket + "/p/changed"]
    assert proxy.count("HEAD") == 0


def test_a_lost_object_is_sent_again(out: Out) -> None:
    out.write("x", b"x")
    out.stage()
    out.client.delete_object(Bucket=out.bucket, Key="p/x")
    assert out.stage().files == 1
    assert out.objects() == {"x": b"x"}


def test_a_run_that_died_before_it_wrote_down_the_etag_finds_its_own_work(
    out: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = out.write("x", b"x")

    def dies(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sending, "record_base", dies)
        with pytest.raises(KeyboardInterrupt):
            stage_out(out.path, f"s3://{out.bucket}/p", endpoint=out.endpoint)
    assert state_of(path).base is None
    assert out.objects() == {"x": b"x"}
    assert out.stage().files == 0
    assert state_of(path).archived
    with monkeypatch.context() as patch:
        patch.setattr(sending, "record_base", dies)
        out.write("x", b"xx")
        with pytest.raises(KeyboardInterrupt):
            stage_out(out.path, f"s3://{out.bucket}/p", endpoint=out.endpoint)
    out.write("x", b"xxx")  # the bucket has an older generation of ours than the one that is known
    out.stage()
    assert out.objects() == {"x": b"xxx"}


def test_a_stage_out_elsewhere_leaves_what_the_link_knows(out: Out, linked: str) -> None:
    path = write(out.store, "in/x", b"x")
    export([path])
    known = state_of(path).base
    stage_out(linked, f"s3://{out.bucket}/p", endpoint=out.endpoint)
    assert state_of(path).base == known
    write(out.store, "in/x", b"xx")
    assert export([path]).files == 1
    assert objects(out.client, out.bucket, "l/") == {"l/x": b"xx"}


def test_a_file_that_is_written_meanwhile_is_exported_as_it_was_and_is_dirty(
    store: Store, linked: str, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(2 * PART + 5)
    path = write(store, "in/x", data)
    begin = uploads.begin

    def changes(*args: Any) -> uploads.Record:
        with pinstripe.open(path, "r+b") as file:
            file.write(b"changed")
        return begin(*args)

    monkeypatch.setattr(uploads, "begin", changes)
    assert export([path], part_bytes_least=PART).files == 1
    assert objects(client, bucket) == {"l/x": data}
    assert state_of(path).dirty
    monkeypatch.undo()


def test_a_file_that_is_replaced_and_collected_before_it_is_read_is_exported_as_it_is_then(
    store: Store, linked: str, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(store, "in/x", data_of(2 * PART + 5))
    data = data_of(2 * PART, 3)
    begin = uploads.begin
    replaced = []

    def replaces(*args: Any) -> uploads.Record:
        if not replaced:
            replaced.append(write(store, "in/x", data))
            collect_store(store, grace_s=0.0, full=True)
        return begin(*args)

    monkeypatch.setattr(uploads, "begin", replaces)
    assert export([path], part_bytes_least=PART).files == 1
    assert objects(client, bucket) == {"l/x": data}
    assert state_of(path).archived
    assert unfinished(client, bucket) == []
    assert records(store) == []


def test_a_file_that_is_removed_meanwhile_fails_and_leaves_nothing(
    store: Store, linked: str, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(store, "in/x", data_of(2 * PART + 5))
    begin = uploads.begin

    def removes(*args: Any) -> uploads.Record:
        pinstripe.remove(path)
        return begin(*args)

    monkeypatch.setattr(uploads, "begin", removes)
    assert export([path], part_bytes_least=PART).exit_code == 1
    assert objects(client, bucket) == {}
    assert unfinished(client, bucket) == []
    assert records(store) == []


# --- what services cannot do -----------------------------------------------------------------------------------------


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that knows neither conditions nor checksums."""
    less = Capabilities(False, False, "none", False, known=True)

    def capabilities_of(client: Any, *args: Any, **options: Any) -> Capabilities:
        client.capabilities = less
        return less

    monkeypatch.setattr(probe, "capabilities_of", capabilities_of)


def test_without_conditions_the_object_is_looked_at_first(out: Out, poor: None) -> None:
    for size, name in ((5, "x"), (PART + 1, "big")):
        out.write(name, data_of(size))
        out.client.put_object(Bucket=out.bucket, Key=f"p/{name}", Body=b"theirs")
    out.write("y", b"y")
    events = Telling()
    out.stage(code=3, events=events)
    assert out.objects() == {"x": b"theirs", "big": b"theirs", "y": b"y"}
    assert any("no conditions" in note for note in events.notes)
    assert any("no checksums" in note for note in events.notes)
    state = state_of(f"{out.path}/y")
    assert (state.archived, state.unproven) == (True, True)
    out.stage(if_exists="overwrite")
    assert out.objects() == {"x": data_of(5), "big": data_of(PART + 1), "y": b"y"}
    assert unfinished(out.client, out.bucket) == []


@pytest.mark.parametrize("checksum", ["crc32c", "none"])
def test_another_checksum_is_said_and_proves_less(out: Out, checksum: str) -> None:
    expected = {"x": data_of(5), "big": data_of(PART + 1)}
    for name, data in expected.items():
        out.write(name, data)
    summary = out.stage(endpoint=Endpoint(url=out.endpoint.url, region="us-east-1", checksum=checksum))
    assert out.objects() == expected
    assert (summary.files, summary.verified) == (2, 0)
    for name in expected:
        base = state_of(f"{out.path}/{name}").base
        assert base is not None
        assert base.proof == {"crc32c": "etag", "none": "size"}[checksum]


def test_a_store_that_cannot_be_written_to_is_staged_out(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"x": data_of(5), "big": data_of(PART + 1)}
    for name, data in expected.items():
        out.write(name, data)

    def refuses(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(uploads, "_write", refuses)
    monkeypatch.setattr(sending, "record_base", refuses)
    events = Telling()
    out.stage(events=events)
    assert out.objects() == expected
    assert any("cannot be written" in note for note in events.notes)
    assert out.stage().files == 0


def test_parts_are_whole_stripes_and_at_most_10_000() -> None:
    assert part_bytes_of(17 * MIB, MIB) == 16 * MIB
    assert part_bytes_of(17 * MIB, 64 * MIB) == 64 * MIB
    for size in (1 << 30, 1 << 40, 48 << 40):
        part = part_bytes_of(size, 4 * MIB)
        assert part % (4 * MIB) == 0
        assert -(-size // part) <= 10_000
        assert part <= 5 << 30


# --- conflicts -------------------------------------------------------------------------------------------------------


def in_the_way(out: Out, size: int = 5) -> bytes:
    """A file, and somebody else's object where it is to go."""
    data = data_of(size)
    out.write("x", data)
    out.write("y", b"y")
    out.client.put_object(Bucket=out.bucket, Key="p/x", Body=b"somebody else's")
    return data


@pytest.mark.parametrize("size", [5, PART + 1])
def test_fail_leaves_the_object_and_marks_the_file(out: Out, size: int) -> None:
    in_the_way(out, size)
    summary = out.stage(code=3)
    assert (summary.files, summary.conflicts) == (1, 1)
    assert out.objects() == {"x": b"somebody else's", "y": b"y"}
    assert state_of(f"{out.path}/x").conflict
    assert manifests(out.client, out.bucket) == []
    assert unfinished(out.client, out.bucket) == []


@pytest.mark.parametrize("size", [5, PART + 1])
def test_skip_leaves_the_object_and_is_no_failure(out: Out, size: int) -> None:
    in_the_way(out, size)
    summary = out.stage(if_exists="skip")
    assert (summary.files, summary.skipped) == (1, 1)
    assert out.objects() == {"x": b"somebody else's", "y": b"y"}
    (found,) = manifests(out.client, out.bucket)
    assert [entry["path"] for entry in found["objects"]] == ["y"]


@pytest.mark.parametrize("size", [5, PART + 1])
def test_overwrite_replaces_it(out: Out, size: int) -> None:
    data = in_the_way(out, size)
    out.stage(code=3)
    out.stage(if_exists="overwrite")
    assert out.objects() == {"x": data, "y": b"y"}
    state = state_of(f"{out.path}/x")
    assert (state.archived, state.conflict) == (True, False)


@pytest.mark.parametrize("size", [5, PART + 1])
def test_keep_both_puts_the_file_beside_it(out: Out, size: int) -> None:
    data = in_the_way(out, size)
    out.stage(if_exists="keep-both")
    found = out.objects()
    assert (found.pop("x"), found.pop("y")) == (b"somebody else's", b"y")
    ((beside, kept),) = found.items()
    assert beside.startswith("x.conflict-")
    assert kept == data
    assert state_of(f"{out.path}/x").conflict
    assert not state_of(f"{out.path}/x").exists


def test_an_object_that_is_the_same_is_no_conflict(out: Out) -> None:
    data = data_of(1000)
    path = out.write("x", data)
    out.client.put_object(Bucket=out.bucket, Key="p/x", Body=data, ChecksumAlgorithm="CRC64NVME")
    summary = out.stage()
    assert (summary.files, summary.skipped) == (0, 1)
    assert state_of(path).archived


def test_a_changed_file_whose_object_was_changed_is_a_conflict(
    linked: str, store: Store, client: Any, bucket: str
) -> None:
    path = write(store, "in/x", b"x")
    assert export([path]).exit_code == 0
    client.put_object(Bucket=bucket, Key="l/x", Body=b"theirs")
    assert export([path]).skipped == 1  # a clean file is not exported
    write(store, "in/x", b"ours")
    summary = export([path])
    assert (summary.exit_code, summary.files) == (3, 0)
    assert objects(client, bucket) == {"l/x": b"theirs"}
    assert state_of(path).conflict
    assert export([path], if_exists="overwrite").exit_code == 0
    assert objects(client, bucket) == {"l/x": b"ours"}
    assert not state_of(path).conflict


def test_a_changed_file_whose_object_is_gone_is_a_conflict_unless_the_link_makes_it_anew(
    linked: str, store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    path = write(store, "in/x", b"x")
    export([path])
    client.delete_object(Bucket=bucket, Key="l/x")
    write(store, "in/x", b"ours")
    assert export([path]).exit_code == 3
    assert objects(client, bucket) == {}
    link(linked, f"s3://{bucket}/l", endpoint=endpoint, options=LinkOptions(if_deleted="recreate"))
    assert export([path]).exit_code == 0
    assert objects(client, bucket) == {"l/x": b"ours"}


def test_a_name_that_was_replaced_below_a_link_replaces_its_object(
    linked: str, store: Store, client: Any, bucket: str
) -> None:
    path = write(store, "in/x", b"x")
    export([path])
    pinstripe.rename(write(store, "in/x.tmp", b"new"), path)
    assert export([path]).exit_code == 0
    assert objects(client, bucket) == {"l/x": b"new"}


def test_a_symlink_that_changed_is_replaced(linked: str, store: Store, client: Any, bucket: str) -> None:
    path = os.path.join(linked, "s")
    pinstripe.symlink("a", path)
    assert export([linked]).files == 1
    assert export([linked]).files == 0
    pinstripe.remove(path)
    pinstripe.symlink("bb", path)
    assert export([linked]).files == 1
    assert objects(client, bucket) == {"l/s": b"bb"}


def test_two_exporters_at_once_both_succeed(out: Out) -> None:
    expected = {"x": data_of(3 * PART + 7)} | {f"f{number}": data_of(number, number) for number in range(20)}
    for name, data in expected.items():
        out.write(name, data)
    summaries: list[Summary] = []

    def run() -> None:
        summaries.append(stage_out(out.path, f"s3://{out.bucket}/p", endpoint=out.endpoint, part_bytes_least=PART))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.exit_code for summary in summaries] == [0, 0]
    assert out.objects() == expected
    assert unfinished(out.client, out.bucket) == []
    assert records(out.store) == []
    assert all(state_of(f"{out.path}/{name}").archived for name in expected)


def test_noexport_stays_here(linked: str, store: Store, client: Any, bucket: str) -> None:
    path = write(store, "in/x", b"x")
    set_flags(path, add=["noexport"])
    assert export([linked]).skipped == 1
    assert objects(client, bucket) == {}


# --- delete, dry run, refusals ---------------------------------------------------------------------------------------


def test_delete_takes_what_was_ours_and_nothing_else(out: Out) -> None:
    for name in ("keep", "gone", "gone-but-replaced", "d/gone"):
        out.write(name, name.encode())
    pinstripe.mkdir(f"{out.path}/empty")
    out.stage()
    out.client.put_object(Bucket=out.bucket, Key="p/foreign", Body=b"foreign")
    out.client.put_object(Bucket=out.bucket, Key="p/gone-but-replaced", Body=b"theirs")
    for name in ("gone", "gone-but-replaced", "d/gone"):
        pinstripe.remove(f"{out.path}/{name}")
    pinstripe.rmdir(f"{out.path}/empty")
    pinstripe.rmdir(f"{out.path}/d")
    before = out.objects()
    events = Telling()
    out.stage(delete=True, dry_run=True, events=events)
    assert sorted(path.rpartition("/p/")[2] for verb, path, _ in events.plans if verb == "delete") == [
        "d/gone",
        "empty/",
        "gone",
    ]
    assert out.objects() == before
    out.stage()
    assert out.objects() == before
    events = Telling()
    out.stage(delete=True, events=events)
    assert out.objects() == {"keep": b"keep", "foreign": b"foreign", "gone-but-replaced": b"theirs"}
    assert any("stay" in note for note in events.notes)


def test_a_dry_run_changes_nothing(out: Out, linked: str, proxy: FaultProxy) -> None:
    through = Endpoint(url=proxy.url, region="us-east-1")
    in_the_way(out, 5)
    out.write("large", data_of(2 * PART))
    events = Telling()
    summary = out.stage(code=3, dry_run=True, endpoint=through, events=events)
    assert (summary.conflicts, summary.files) == (1, 2)
    assert sorted((verb, os.path.basename(path), size) for verb, path, size in events.plans) == [
        ("upload", "large", 2 * PART),
        ("upload", "y", 1),
    ]
    assert not state_of(f"{out.path}/x").conflict
    assert out.objects() == {"x": b"somebody else's"}
    path = write(out.store, "in/z", b"z")
    assert export([linked], dry_run=True).files == 1
    assert not state_of(path).exists
    assert {entry.method for entry in proxy.log} <= {"GET", "HEAD"}
    assert records(out.store) == []


def test_what_cannot_be_meant_is_refused(out: Out, linked: str) -> None:
    path = out.write("x", b"x")
    with pytest.raises(ArgumentError, match="below no link"):
        export([path])
    with pytest.raises(ArgumentError, match="if_exists"):
        stage_out(out.path, f"s3://{out.bucket}/p", if_exists="perhaps")
    with pytest.raises(ArgumentError, match="address"):
        stage_out(out.path, "/p")
    with pytest.raises(NotADirectoryError):
        stage_out(path, f"s3://{out.bucket}/p", endpoint=out.endpoint)
    with pytest.raises(FileNotFoundError):
        export([f"{linked}/none"])


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_503_is_ridden_out(out: Out, proxy: FaultProxy) -> None:
    expected = {"x": data_of(3 * PART)} | {f"f{number}": data_of(100 + number) for number in range(20)}
    for name, data in expected.items():
        out.write(name, data)
    proxy.add(Fault("PUT", "/p/", kind="503", times=8), Fault("PUT", "/p/", kind="slowdown", times=8))
    proxy.add(
        Fault("POST", "/p/x", kind="500", times=1), Fault("PUT", "/p/x[?]partNumber=2", kind="reset", after_bytes=MIB)
    )
    summary = out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert summary.files == 21
    assert out.objects() == expected
    assert unfinished(out.client, out.bucket) == []


def test_bytes_that_change_on_the_way_are_refused_by_the_bucket(out: Out, proxy: FaultProxy) -> None:
    data = data_of(2 * PART + 1)
    out.write("x", data)
    out.write("s", b"small file")
    proxy.add(Fault("PUT", "/p/x[?]partNumber=1", kind="corrupt", after_bytes=MIB, times=1))
    proxy.add(Fault("PUT", "/p/s", kind="corrupt", after_bytes=3, times=1))
    out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert out.objects() == {"x": data, "s": b"small file"}


def test_a_lost_answer_to_complete_is_no_conflict(out: Out, proxy: FaultProxy) -> None:
    data = data_of(2 * PART + 1)
    path = out.write("x", data)
    proxy.add(Fault("POST", "/p/x[?]uploadId=", kind="lost", times=1))
    out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert out.objects() == {"x": data}
    assert state_of(path).archived
    assert unfinished(out.client, out.bucket) == []
    assert records(out.store) == []


def test_a_409_sends_the_file_again(out: Out, proxy: FaultProxy) -> None:
    data = data_of(2 * PART + 1)
    out.write("x", data)
    out.write("s", b"s")
    proxy.add(Fault("POST", "/p/x[?]uploadId=", kind="409", times=1), Fault("PUT", "/p/s", kind="409", times=1))
    out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert out.objects() == {"x": data, "s": b"s"}
    assert proxy.count("POST", r"/p/x\?uploads") == 2
    assert unfinished(out.client, out.bucket) == []


def test_an_error_in_a_200_is_no_success(out: Out, proxy: FaultProxy) -> None:
    data = data_of(PART + 1)
    out.write("x", data)
    proxy.add(Fault("POST", "/p/x[?]uploadId=", kind="error_body", times=2))
    out.stage(endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert out.objects() == {"x": data}


def test_a_refusal_leaves_no_upload(out: Out, proxy: FaultProxy) -> None:
    out.write("x", data_of(3 * PART))
    out.write("s", b"s")
    proxy.add(Fault("PUT", "/p/x[?]partNumber=2", kind="403", times=99))
    summary = out.stage(code=1, endpoint=Endpoint(url=proxy.url, region="us-east-1"))
    assert (summary.failed, summary.files) == (1, 1)
    assert out.objects() == {"s": b"s"}
    assert unfinished(out.client, out.bucket) == []
    assert records(out.store) == []
    assert manifests(out.client, out.bucket) == []


def test_damage_in_the_store_is_never_uploaded(out: Out) -> None:
    out.write("small", data_of(100_000))
    out.write("large", data_of(2 * PART + 1))
    for target in out.store.targets:
        for segment in Path(target.path).glob("*/*/*.*.*"):
            segment.chmod(0o644)
            segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    summary = out.stage(code=4)
    assert summary.damaged == 2
    assert out.objects() == {}
    assert unfinished(out.client, out.bucket) == []


# --- jobs ------------------------------------------------------------------------------------------------------------

MPIRUN = Path(sys.executable).with_name("mpirun")


def job(ranks: int, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", "pinstripe", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_all_ranks_share_the_work(out: Out) -> None:
    expected = {"x": data_of(50 * MIB + 7), "y": data_of(17 * MIB, 2)}
    expected |= {f"d/f{number}": data_of(number * 100, number) for number in range(40)}
    for name, data in expected.items():
        out.write(name, data)
    done = job(2, "stage-out", "--json", out.path, f"s3://{out.bucket}/p")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["files"], summary["verified"]) == (42, 42)
    assert out.objects() == expected
    (found,) = manifests(out.client, out.bucket)
    assert len(found["objects"]) == 43
    assert unfinished(out.client, out.bucket) == []


def test_a_conflict_of_any_rank_is_the_jobs(out: Out) -> None:
    in_the_way(out)
    done = job(2, "stage-out", out.path, f"s3://{out.bucket}/p")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("pinstripe: ") == 1


# --- commands --------------------------------------------------------------------------------------------------------


def command(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, list(args), prog_name="pinstripe")
    assert result.exit_code == code, result.output
    return result


def test_the_command_says_what_it_did_and_what_it_would_do(out: Out) -> None:
    in_the_way(out)
    url = f"s3://{out.bucket}/p"
    dry = command("stage-out", out.path, url, "--dry-run", "--if-exists", "overwrite")
    assert [line.split(" (")[0] for line in sorted(dry.stdout.splitlines())[-2:]] == [
        f"would upload {out.path}/x",
        f"would upload {out.path}/y",
    ]
    done = command("stage-out", out.path, url, code=3)
    assert done.stdout.startswith("staged out 1 file")
    assert "1 in conflict" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("pinstripe: ")] == [
        f"pinstripe: {out.path}/x: there is an object already, and the file is not known to be one of it "
        f"(s3://{out.bucket}/p/x); nothing was uploaded"
    ]
    done = command("stage-out", out.path, url, "--if-exists", "overwrite", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "summary"
    assert (events[-1]["files"], events[-1]["exit_code"]) == (1, 0)


def test_export_by_command(linked: str, store: Store, client: Any, bucket: str) -> None:
    path = write(store, "in/x", b"x")
    assert command("export", path).stdout.startswith("exported 1 file, 1 in ")
    assert objects(client, bucket) == {"l/x": b"x"}
    assert "1 skipped" in command("export", linked).stdout
    assert "below no link" in command("export", store.root, code=2).stderr
    assert command("export", path, "--if-exists", "what", code=2).exit_code == 2
