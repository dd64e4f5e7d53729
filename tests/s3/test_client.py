"""The client against a real server and a faulty network: nothing is believed that was not checked, and nothing is done twice."""

import copy
import datetime
import logging
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pinstripe.errors import ArgumentError, ConditionError, RemoteError, StaleError, UnsupportedError
from pinstripe.format.remote import Endpoint, Remote
from pinstripe.kernels import crc64
from pinstripe.s3 import service as service_module
from pinstripe.s3.client import Client
from pinstripe.s3.objects import Capabilities
from pinstripe.s3.slots import Slots
from pinstripe.testing.s3_faults import Fault, FaultProxy
from pinstripe.testing.s3_server import S3Server

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short here."""
    monkeypatch.setattr(service_module, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(service_module, "_LONGEST_WAIT_S", 0.01)


@pytest.fixture
def ours(endpoint: Endpoint) -> Client:
    return Client.of(endpoint)


@pytest.fixture
def through(proxy: FaultProxy) -> Client:
    return Client.of(Endpoint(url=proxy.url, region="us-east-1"))


@pytest.fixture
def big(client: Any, bucket: str, ours: Client) -> tuple[bytes, Remote]:
    """An object of 3 MiB, and which one it is."""
    data = os.urandom(3 * MIB + 17)
    client.put_object(Bucket=bucket, Key="big", Body=data)
    return data, ours.head(bucket, "big").remote(bucket, ours.endpoint)


def read(client: Client, remote: Remote, offset: int = 0, count: int = -1) -> bytes:
    buffer = bytearray(remote.size - offset if count < 0 else count)
    client.get_range(remote, offset, memoryview(buffer))
    return bytes(buffer)


# --- plain use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 4096, 300_000])
def test_an_object_is_what_was_put(ours: Client, client: Any, bucket: str, count: int) -> None:
    data = os.urandom(count)
    metadata = {"file-permissions": "0100644", "file-mtime": "1595002920000000001ns"}
    etag, version = ours.put(bucket, "k", memoryview(data), metadata=metadata, content_type="text/x")
    assert version == ""
    theirs = client.get_object(Bucket=bucket, Key="k")
    assert (theirs["Body"].read(), theirs["ETag"].strip('"'), theirs["Metadata"]) == (data, etag, metadata)
    info = ours.head(bucket, "k")
    assert (info.key, info.size, info.etag, info.metadata, info.content_type) == ("k", count, etag, metadata, "text/x")
    assert info.crc64 == crc64(data)
    assert info.available
    assert info.storage_class == "STANDARD"
    assert info.modified_ns == int(theirs["LastModified"].timestamp()) * 10**9
    assert ours.get(bucket, "k", etag=etag) == (data, info)
    assert read(ours, info.remote(bucket, ours.endpoint)) == data


def test_ranges_fill_any_writable_memory(ours: Client, big: tuple[bytes, Remote]) -> None:
    data, remote = big
    array = np.zeros((2, 1000), np.uint16)
    ours.get_range(remote, 5, array)
    assert array.tobytes() == data[5:4005]
    assert read(ours, remote, remote.size - 1) == data[-1:]
    ours.get_range(remote, remote.size, memoryview(bytearray()))
    assert ours.counters.bytes_in == 4001
    for offset, count in ((-1, 1), (remote.size, 1), (0, remote.size + 1)):
        with pytest.raises(ArgumentError):
            read(ours, remote, offset, count)


def test_bytes_go_out_from_arrays_and_views(ours: Client, client: Any, bucket: str) -> None:
    array = np.arange(100_000, dtype=np.float32).reshape(100, 1000)
    ours.put(bucket, "k", array)
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == array.tobytes()
    ours.put(bucket, "k", np.zeros((0, 4)))
    assert client.head_object(Bucket=bucket, Key="k")["ContentLength"] == 0


@pytest.mark.parametrize("key", ["a b", "a+b", "100%", "%41", "ü/é", "~'()*!$&,:;=@?#[]", '<&>"', "日本", "tab\there"])
def test_odd_keys_are_themselves(ours: Client, client: Any, bucket: str, key: str) -> None:
    ours.put(bucket, key, b"x")
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    assert [info.key for page in ours.list_pages(bucket, "") for info in page.objects] == [key]
    assert ours.head(bucket, key).key == key
    assert ours.get(bucket, key)[0] == b"x"
    upload = ours.create_upload(bucket, key)
    assert [(name, id) for name, id, _ in ours.list_uploads(bucket)] == [(key, upload)]
    ours.abort_upload(bucket, key, upload)
    ours.abort_upload(bucket, key, upload)
    assert ours.list_uploads(bucket) == []
    assert ours.delete_many(bucket, [key]) == {}
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_keys_are_told_as_the_service_tells_them(ours: Client, bucket: str) -> None:
    for key in ("a//b", "c\\d"):  # this one keeps them as paths
        ours.put(bucket, key, b"x")
        assert ours.head(bucket, key).size == 1
    assert [info.key for page in ours.list_pages(bucket, "") for info in page.objects] == ["a/b", "c/d"]


def test_a_list_has_as_many_pages_as_it_needs(ours: Client, client: Any, bucket: str) -> None:
    keys = [f"d{number % 3}/{number:05}" for number in range(3000)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: ours.put(bucket, key, b""), keys))
    pages = list(ours.list_pages(bucket, ""))
    assert len(pages) >= 3
    found = [info.key for page in pages for info in page.objects]
    assert found == sorted(keys)
    assert [name for page in ours.list_pages(bucket, "", delimiter="/") for name in page.prefixes] == [
        "d0/",
        "d1/",
        "d2/",
    ]
    middle = [key for key in sorted(keys) if "d1/00100" < key <= "d1/02500"]
    cut = ours.list_pages(bucket, "d1/", start_after="d1/00100", stop_at="d1/02500")
    assert [info.key for page in cut for info in page.objects] == middle
    assert next(ours.list_pages(bucket, "nothing/")).objects == ()
    info = pages[0].objects[0]
    assert (info.size, info.etag, info.crc64) == (0, ours.head(bucket, info.key).etag, None)
    assert abs(info.modified_ns / 1e9 - time.time()) < 3600
    assert ours.delete_many(bucket, keys) == {}
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_a_multipart_upload_is_verified_whole(ours: Client, client: Any, bucket: str) -> None:
    data = memoryview(os.urandom(11 * MIB + 5))
    upload = ours.create_upload(bucket, "k", metadata={"a": "b"}, content_type="text/x")
    parts = [ours.upload_part(bucket, "k", upload, n, data[(n - 1) * 5 * MIB : n * 5 * MIB]) for n in (3, 1, 2)]
    listed = ours.list_parts(bucket, "k", upload)
    assert [(part.number, part.etag, part.size) for part in listed] == sorted((p.number, p.etag, p.size) for p in parts)
    with pytest.raises(RemoteError, match="BadDigest"):
        ours.complete_upload(bucket, "k", upload, parts, size=len(data), crc64=crc64(data) ^ 1)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    etag, version = ours.complete_upload(
        bucket, "k", upload, parts, size=len(data), crc64=crc64(data), if_none_match=True
    )
    info = ours.head(bucket, "k")
    assert (info.etag, info.version, info.crc64, info.checksum_type) == (etag, version, crc64(data), "FULL_OBJECT")
    assert info.metadata == {"a": "b"}
    theirs = client.get_object(Bucket=bucket, Key="k")
    assert theirs["Body"].read() == data
    assert ours.list_uploads(bucket) == []
    with pytest.raises(RemoteError) as caught:
        ours.list_parts(bucket, "k", upload)
    assert caught.value.errno == 2


@pytest.mark.parametrize("kind", ["crc32c", "none"])
def test_other_checksums_serve_where_crc64_is_not_known(server: S3Server, client: Any, bucket: str, kind: str) -> None:
    ours = Client.of(Endpoint(url=server.url, region="us-east-1", checksum=kind))
    assert ours.checksum == kind
    ours.put(bucket, "k", b"bytes")
    theirs = client.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert ("ChecksumCRC32C" in theirs) == (kind == "crc32c")
    data = memoryview(os.urandom(6 * MIB))
    upload = ours.create_upload(bucket, "m")
    parts = [ours.upload_part(bucket, "m", upload, n, data[(n - 1) * 5 * MIB : n * 5 * MIB]) for n in (1, 2)]
    ours.complete_upload(bucket, "m", upload, parts, size=len(data), crc64=crc64(data))
    assert client.get_object(Bucket=bucket, Key="m")["Body"].read() == data


def test_versions_are_told_and_read(ours: Client, client: Any, bucket: str) -> None:
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    etag, version = ours.put(bucket, "k", b"first")
    assert version
    old = ours.head(bucket, "k").remote(bucket, ours.endpoint)
    assert (old.etag, old.version) == (etag, version)
    ours.put(bucket, "k", b"second")
    assert read(ours, old) == b"first"
    assert ours.head(bucket, "k", version=version).size == 5
    ours.delete(bucket, "k")
    assert read(ours, old) == b"first"
    with pytest.raises(RemoteError, match="404"):
        ours.head(bucket, "k")


# --- conditions -----------------------------------------------------------------------------------------------------


def test_conditions_hold_or_nothing_happens(ours: Client, bucket: str) -> None:
    etag, _ = ours.put(bucket, "k", b"1", if_none_match=True)
    with pytest.raises(ConditionError) as caught:
        ours.put(bucket, "k", b"2", if_none_match=True)
    assert (caught.value.kind, caught.value.status, caught.value.key, caught.value.errno) == ("condition", 412, "k", 17)
    second, _ = ours.put(bucket, "k", b"2", if_match=etag)
    with pytest.raises(ConditionError):
        ours.put(bucket, "k", b"3", if_match=etag)
    with pytest.raises(ConditionError):
        ours.put(bucket, "missing", b"3", if_match=etag)
    upload = ours.create_upload(bucket, "k")
    parts = [ours.upload_part(bucket, "k", upload, 1, b"part")]
    for condition in ({"if_none_match": True}, {"if_match": etag}):
        with pytest.raises(ConditionError):
            ours.complete_upload(bucket, "k", upload, parts, size=4, crc64=crc64(b"part"), **condition)
    assert ours.get(bucket, "k")[0] == b"2"
    ours.complete_upload(bucket, "k", upload, parts, size=4, crc64=crc64(b"part"), if_match=second)
    assert ours.get(bucket, "k")[0] == b"part"
    with pytest.raises(ArgumentError):
        ours.put(bucket, "k", b"", if_match=etag, if_none_match=True)


def test_of_eight_that_create_one_object_one_wins(ours: Client, bucket: str) -> None:
    for number in range(2):  # more take long: this service looks at its locks once a second
        start = threading.Barrier(8)

        def create(thread: int, key: str = f"k{number}", start: threading.Barrier = start) -> bool:
            start.wait()
            try:
                ours.put(bucket, key, b"%d" % thread, if_none_match=True)
            except ConditionError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert sum(won) == 1
        assert ours.get(bucket, f"k{number}")[0] == b"%d" % won.index(True)


# --- the object changes ---------------------------------------------------------------------------------------------


def test_an_object_that_was_replaced_between_two_ranges_is_stale(
    ours: Client, client: Any, bucket: str, big: tuple[bytes, Remote]
) -> None:
    data, remote = big
    assert read(ours, remote, 0, 100) == data[:100]
    now = client.put_object(Bucket=bucket, Key="big", Body=os.urandom(len(data)))["ETag"].strip('"')
    with pytest.raises(StaleError) as caught:
        read(ours, remote, 100, 100)
    assert all(word in str(caught.value) for word in (f"s3://{bucket}/big", remote.etag, now))
    with pytest.raises(StaleError, match=now):
        ours.get(bucket, "big", etag=remote.etag)
    client.delete_object(Bucket=bucket, Key="big")
    with pytest.raises(StaleError, match="gone"):
        read(ours, remote, 0, 100)
    with pytest.raises(StaleError, match="gone"):
        ours.get(bucket, "big", etag=remote.etag)


def test_an_object_that_was_replaced_while_a_range_was_repeated_is_stale(
    through: Client, client: Any, bucket: str, big: tuple[bytes, Remote], proxy: FaultProxy
) -> None:
    data, remote = big
    proxy.add(Fault("GET", "/big", kind="reset", after_bytes=MIB), Fault("GET", "/big", kind="hold"))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, through, remote)
        while proxy.count("GET") < 2:
            time.sleep(0.002)
        client.put_object(Bucket=bucket, Key="big", Body=bytes(len(data)))
        proxy.release()
        with pytest.raises(StaleError):
            reading.result()


def test_a_service_that_ignores_if_match_is_seen_through(ours: Client, client: Any, bucket: str) -> None:
    """The ETag of each answer is compared, too."""
    client.put_object(Bucket=bucket, Key="k", Body=b"12345")
    service = ours._service
    exchange = service.exchange

    def without(request: Any, *rest: Any) -> Any:
        request.headers.pop("if-match", None)
        return exchange(request, *rest)

    service.exchange = without  # type: ignore[method-assign]
    with pytest.raises(StaleError, match="other"):
        read(ours, Remote(bucket, "k", 5, "other"))
    with pytest.raises(StaleError, match="other"):
        ours.get(bucket, "k", etag="other")
    with pytest.raises(StaleError, match="5 bytes now"):
        read(ours, Remote(bucket, "k", 6, ""))


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["500", "503", "slowdown", "lost", "error_body"])
def test_a_storm_passes(through: Client, bucket: str, proxy: FaultProxy, kind: str) -> None:
    proxy.add(*[Fault(method, kind=kind, times=4) for method in ("GET", "PUT", "POST", "DELETE")])
    if kind != "error_body":
        proxy.add(Fault("HEAD", kind=kind, times=4))
    data = os.urandom(200_000)
    if kind == "error_body":  # of a PUT, too, 200 is no proof
        through.put(bucket, "k", data)
        assert through.head(bucket, "k").size == len(data)
    else:
        through.put(bucket, "k", data, if_none_match=True)
    remote = through.head(bucket, "k").remote(bucket, through.endpoint)
    assert read(through, remote) == data
    assert through.get(bucket, "k")[0] == data
    assert [info.key for page in through.list_pages(bucket, "") for info in page.objects] == ["k"]
    upload = through.create_upload(bucket, "m")
    parts = [through.upload_part(bucket, "m", upload, 1, data)]
    through.complete_upload(bucket, "m", upload, parts, size=len(data), crc64=crc64(data), if_none_match=True)
    through.delete(bucket, "k")
    assert through.counters.retries >= 16
    if kind in ("503", "slowdown"):
        assert through.counters.throttled >= 16
        assert through.slots.limit < through.slots.most
    for _, id, _ in through.list_uploads(bucket):  # one whose answer was lost is an orphan
        through.abort_upload(bucket, "m", id)


def test_a_storm_that_does_not_pass_ends_as_an_error(through: Client, bucket: str, proxy: FaultProxy) -> None:
    proxy.add(Fault("HEAD", kind="503", times=1000))
    with pytest.raises(RemoteError, match="cannot look at it: 503") as caught:
        through.head(bucket, "k")
    assert (caught.value.status, caught.value.bucket, caught.value.key, caught.value.errno) == (503, bucket, "k", 5)
    assert proxy.count("HEAD") == service_module.ATTEMPTS


@pytest.mark.parametrize("kind", ["reset", "cut"])
def test_a_broken_download_goes_on_where_it_stopped(
    through: Client, big: tuple[bytes, Remote], proxy: FaultProxy, kind: str
) -> None:
    data, remote = big
    proxy.add(*[Fault("GET", "/big", kind=kind, after_bytes=MIB // 2) for _ in range(3)])
    assert read(through, remote, 7) == data[7:]
    starts = [int(entry.range.split("=")[1].split("-")[0]) for entry in proxy.entries("GET")]
    assert len(starts) == 4
    assert starts == sorted(set(starts))
    if kind == "cut":
        assert starts == [7 + k * MIB // 2 for k in range(4)]
        assert proxy.bytes_given("/big") == len(data) - 7
    assert through.counters.bytes_in == len(data) - 7
    assert through.counters.retries == 3


def test_more_breaks_than_attempts_do_not_matter_while_something_comes(
    through: Client, big: tuple[bytes, Remote], proxy: FaultProxy
) -> None:
    data, remote = big
    proxy.add(Fault("GET", "/big", kind="cut", after_bytes=150_000, times=2 * service_module.ATTEMPTS))
    assert read(through, remote) == data


def test_what_is_no_answer_is_no_data(through: Client, big: tuple[bytes, Remote], proxy: FaultProxy) -> None:
    data, remote = big
    proxy.add(
        Fault("GET", "/big", kind="error_body", times=2),
        Fault("GET", "/big", kind="truncate", after_bytes=1000, times=2),
        Fault("GET", "/big", kind="truncate", after_bytes=0),
    )
    assert read(through, remote) == data
    assert through.counters.bytes_in == len(data)
    proxy.add(Fault("GET", "/big", kind="cut", after_bytes=50))
    assert through.get(remote.bucket, "big")[0] == data
    through.put(remote.bucket, "small", data[:5000])
    proxy.add(Fault("GET", "/small", kind="corrupt", after_bytes=1000))
    assert through.get(remote.bucket, "small")[0] == data[:5000]
    proxy.add(Fault("GET", "/small", kind="corrupt", after_bytes=1000, times=1000))
    with pytest.raises(OSError, match="CRC-64"):
        through.get(remote.bucket, "small")


def test_bytes_damaged_on_their_way_are_refused(through: Client, client: Any, bucket: str, proxy: FaultProxy) -> None:
    proxy.add(Fault("PUT", kind="corrupt", after_bytes=10, times=2))
    with pytest.raises(RemoteError, match="BadDigest"):
        through.put(bucket, "k", bytes(100))
    upload = through.create_upload(bucket, "k")
    with pytest.raises(RemoteError, match="BadDigest"):
        through.upload_part(bucket, "k", upload, 1, bytes(100))
    through.abort_upload(bucket, "k", upload)
    with pytest.raises(RemoteError, match="BadDigest"):
        through.put(bucket, "k", bytes(100), crc64=1)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)


def test_a_broken_upload_is_sent_again(through: Client, client: Any, bucket: str, proxy: FaultProxy) -> None:
    data = os.urandom(5 * MIB)
    proxy.add(Fault("PUT", kind="reset", after_bytes=MIB, times=2))
    through.put(bucket, "k", data)
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == data
    assert proxy.count("PUT") == 3


def test_an_answer_that_was_lost_is_no_conflict_with_oneself(
    through: Client, ours: Client, bucket: str, proxy: FaultProxy
) -> None:
    proxy.add(Fault("PUT", "/k", kind="lost"), Fault("POST", "/m.*uploadId", kind="lost"))
    etag, _ = through.put(bucket, "k", b"ours", if_none_match=True, metadata={"a": "b"})
    assert etag == ours.head(bucket, "k").etag
    upload = through.create_upload(bucket, "m")
    part = through.upload_part(bucket, "m", upload, 1, b"ours")
    etag, _ = through.complete_upload(bucket, "m", upload, [part], size=4, crc64=crc64(b"ours"), if_none_match=True)
    assert etag == ours.head(bucket, "m").etag
    proxy.add(Fault("PUT", "/k", kind="500"))
    with pytest.raises(ConditionError):
        through.put(bucket, "k", b"theirs", if_none_match=True)
    proxy.add(Fault("PUT", "/k", kind="500"))
    with pytest.raises(ConditionError):  # the same bytes, but other attributes
        through.put(bucket, "k", b"ours", if_none_match=True)


def test_conditions_that_are_told_as_conflicts_or_as_missing(through: Client, bucket: str, proxy: FaultProxy) -> None:
    for kind in ("409", "404"):
        proxy.add(Fault("PUT", kind=kind))
        with pytest.raises(ConditionError, match=kind):
            through.put(bucket, "k", b"", if_match="e")


def test_slow_answers_are_waited_for_and_none_is_a_timeout(
    through: Client, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.add(Fault("PUT", kind="delay", seconds=0.2))
    through.put(bucket, "k", b"x")
    through.close()
    monkeypatch.setattr("pinstripe.s3.connections._ANSWER_S", 0.05)
    proxy.add(Fault("HEAD", kind="delay", seconds=0.3, times=1000))
    with pytest.raises(RemoteError, match="no answer in time") as caught:
        through.head(bucket, "k")
    assert (caught.value.code, caught.value.status) == ("Timeout", 0)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == 110


def test_nobody_there_is_an_error(proxy: FaultProxy) -> None:
    proxy.stop()
    with pytest.raises(RemoteError, match="refused") as caught:
        Client.of(Endpoint(url=proxy.url)).head("b", "k")
    assert caught.value.status == 0


def test_connections_are_kept_and_closed_ones_noticed(
    tmp_path: Path, server: S3Server, through: Client, bucket: str, proxy: FaultProxy
) -> None:
    opened = []
    connect = through._service.connections._connect
    through._service.connections._connect = lambda origin: opened.append(1) or connect(origin)  # type: ignore
    for number in range(10):
        through.put(bucket, f"k{number}", b"x")
        through.get(bucket, f"k{number}")
        list(through.list_pages(bucket, ""))
        with pytest.raises(RemoteError):
            through.head(bucket, "missing")
    assert len(opened) == 1
    through.close()
    through.head(bucket, "k0")
    assert len(opened) == 2


# --- slots ----------------------------------------------------------------------------------------------------------


def test_slots_halve_when_throttled_and_grow_again() -> None:
    slots = Slots(16)
    slots.throttled()
    slots.throttled()  # at the same moment: once
    assert slots.limit == 8
    for _ in range(200):
        slots.succeeded()
    assert slots.limit == 16


def test_slots_bound_the_requests_at_once_and_a_thread_may_enter_twice() -> None:
    slots, inside, most, lock = Slots(3), 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        with slots, slots:
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(60)))
    assert 1 < most <= 3


def test_threads_share_a_client(ours: Client, bucket: str, big: tuple[bytes, Remote]) -> None:
    data, remote = big

    def work(number: int) -> bool:
        ours.put(bucket, f"k{number}", data[:number])
        start = number * 1000
        return (
            ours.get(bucket, f"k{number}")[0] == data[:number]
            and read(ours, remote, start, 9999) == data[start : start + 9999]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))
    assert ours.counters.requests >= 300


# --- endpoints, credentials, secrets --------------------------------------------------------------------------------


def test_a_client_is_one_for_each_endpoint_and_made_anew_after_a_fork(
    ours: Client, bucket: str, endpoint: Endpoint
) -> None:
    assert Client.of(copy.deepcopy(endpoint)) is ours
    ours.put(bucket, "k", b"x")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = Client.of(endpoint).head(bucket, "k").size
            ours.put(bucket, "from-child", b"xy")
            os.write(writing, b"%d %d" % (found, ours.counters.requests))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 100) == b"1 2"
    os.close(reading)
    assert ours.head(bucket, "from-child").size == 2


def test_the_environment_says_where_and_who_as_for_boto3(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Client.of(Endpoint()).put(bucket, "k", b"x")  # AWS_ENDPOINT_URL
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    other = Client(Endpoint())
    assert other.head(bucket, "k").size == 1
    assert other._service.access.region == "eu-north-1"
    other.close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[mine]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    by_name = Client(Endpoint(profile="mine"))
    assert by_name.head(bucket, "k").size == 1
    by_name.close()
    monkeypatch.setenv("AWS_PROFILE", "mine")
    by_environment = Client(Endpoint())
    assert by_environment.head(bucket, "k").size == 1
    by_environment.close()
    with pytest.raises(ArgumentError, match="nobody"):
        Client(Endpoint(profile="nobody")).head(bucket, "k")
    with pytest.raises(ArgumentError, match="nonsense"):
        Client(Endpoint(url="nonsense")).head(bucket, "k")


def test_aws_is_reached_as_botocore_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    place = Client(Endpoint(region="eu-west-1"))._service.access.place("some-bucket")
    assert (place.origin.name, place.target("a b/~"), place.scope.region) == (
        "some-bucket.s3.eu-west-1.amazonaws.com",
        "/a%20b/~",
        "eu-west-1",
    )
    dotted = Client(Endpoint(region="eu-west-1"))._service.access.place("some.bucket")
    assert (dotted.origin.name, dotted.target("k")) == ("s3.eu-west-1.amazonaws.com", "/some.bucket/k")
    access = Client(Endpoint())._service.access
    assert access.place("some-bucket").scope.region == "us-east-1"
    assert access.moved("some-bucket", "ap-south-1")
    assert not access.moved("some-bucket", "ap-south-1")
    assert access.place("some-bucket").origin.name == "some-bucket.s3.ap-south-1.amazonaws.com"
    with pytest.raises(UnsupportedError, match="signed"):
        access.place("some-bucket--use1-az4--x-s3")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:word@proxy.example:3128")
    proxied = Client(Endpoint())._service.access.place("some-bucket").origin
    assert proxied.proxy == "http://user:word@proxy.example:3128"
    assert "word" not in repr(proxied)


def test_requests_go_through_a_proxy_of_the_environment(
    server: S3Server, bucket: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//user:word@"))
    other = Client(Endpoint(url=server.url))
    other.put(bucket, "k", b"x")
    other.close()
    assert proxy.log[0].path == f"{server.url}/{bucket}/k"
    assert proxy.log[0].headers["proxy-authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = Client(Endpoint(url=server.url))
    assert direct.head(bucket, "k").size == 1
    direct.close()
    assert len(proxy.log) == 1


def test_certificates_are_verified(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = Path(__file__).with_name("loopback.pem")
    with FaultProxy(server.url, certificate=pem) as proxy:
        assert proxy.url.startswith("https:")
        with pytest.raises(RemoteError, match="AWS_CA_BUNDLE"):
            Client(Endpoint(url=proxy.url)).head(bucket, "k")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
        trusting = Client(Endpoint(url=proxy.url))
        data = os.urandom(2 * MIB)
        trusting.put(bucket, "k", data)
        assert read(trusting, trusting.head(bucket, "k").remote(bucket, trusting.endpoint)) == data
        trusting.close()


def test_options_become_headers(bucket: str, proxy: FaultProxy) -> None:
    asking = Client(
        Endpoint(url=proxy.url, requester_pays=True, owner_acl=True, kms_key="arn:aws:kms:key", unsigned=True)
    )
    for method in ("PUT", "GET", "POST"):
        proxy.add(Fault(method, kind="403"))
    with pytest.raises(RemoteError, match="AccessDenied"):
        asking.put(bucket, "k", b"x")
    with pytest.raises(RemoteError, match="AccessDenied") as caught:
        asking.get(bucket, "k")
    assert caught.value.errno == 13
    with pytest.raises(RemoteError, match="AccessDenied"):
        asking.create_upload(bucket, "k")
    asking.close()
    put, got, created = (entry.headers for entry in proxy.log)
    for headers in (put, created):
        assert headers["x-amz-acl"] == "bucket-owner-full-control"
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "arn:aws:kms:key"
    for headers in (put, got, created):
        assert headers["x-amz-request-payer"] == "requester"
        assert "authorization" not in headers


def test_missing_and_wrong_credentials_are_told_apart(
    ours: Client, server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(RemoteError, match="the secret key is not the access key's") as caught:
        Client(Endpoint(url=server.url)).get(bucket, "k")
    assert caught.value.errno == 13
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    with pytest.raises(RemoteError, match="does not know the access key"):
        Client(Endpoint(url=server.url)).get(bucket, "k")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(RemoteError, match=r"AWS_ACCESS_KEY_ID.*--profile.*--unsigned") as caught:
        Client(Endpoint(url=server.url)).get(bucket, "k")
    assert (caught.value.code, caught.value.errno) == ("NoCredentials", 13)


def test_the_clock_of_the_service_counts(ours: Client, bucket: str) -> None:
    ours._service._clock_ahead_s = -3600.0
    ours.put(bucket, "k", b"x")
    assert abs(ours._service._clock_ahead_s) < 60


def test_signed_requests_need_no_credentials(
    ours: Client, server: S3Server, bucket: str, big: tuple[bytes, Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, remote = big
    reading = pickle.loads(pickle.dumps(ours.sign_get(remote)))
    upload = ours.create_upload(bucket, "m")
    writing = pickle.loads(pickle.dumps(ours.sign_part(bucket, "m", upload, 1, crc64(b"part"))))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    poor = Client(ours.endpoint)
    buffer = bytearray(1000)
    poor.get_range(remote, 500, buffer, signed=reading)
    assert buffer == data[500:1500]
    with pytest.raises(RemoteError, match="BadDigest"):
        poor.upload_part(bucket, "m", upload, 1, b"other", signed=writing)
    part = poor.upload_part(bucket, "m", upload, 1, b"part", signed=writing)
    poor.close()
    ours.complete_upload(bucket, "m", upload, [part], size=4, crc64=crc64(b"part"))
    assert ours.get(bucket, "m")[0] == b"part"


def test_nothing_that_is_said_holds_a_secret(
    server: S3Server,
    through: Client,
    bucket: str,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def failing(call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            said.extend([str(error), repr(error), "".join(traceback.format_exception(error)), repr(vars(error))])
            said.append(repr(pickle.loads(pickle.dumps(error))))
        else:
            raise AssertionError("it was to fail")

    remote = Remote(bucket, "k", 10, "e", endpoint=through.endpoint)
    signed = through.sign_get(remote)
    failing(lambda: through.get_range(remote, 0, bytearray(10), signed=signed))
    proxy.add(Fault("GET", kind="503", times=1000))
    failing(lambda: through.get_range(remote, 0, bytearray(10), signed=signed))
    failing(lambda: through.get(bucket, "k"))
    proxy.stop()
    failing(lambda: through.head(bucket, "k"))
    failing(lambda: through.get_range(remote, 0, bytearray(10), signed=signed))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-session-token")
    other = Client(through.endpoint)
    failing(lambda: other.put(bucket, "k", b"x"))
    access = through._service.access
    things = (through, signed, access, access.credentials(), access.place(bucket), through._service, through.endpoint)
    said.extend([*map(repr, things), caplog.text])
    for text in said:
        for secret in (server.secret_key, "Signature=", "the-session-token"):
            assert secret not in text, text


def test_errors_pickle_with_their_fields() -> None:
    for kind in (RemoteError, ConditionError):
        error = pickle.loads(pickle.dumps(kind("text", bucket="b", key="k", status=412, code="PreconditionFailed")))
        assert type(error) is kind
        assert (error.bucket, error.key, error.status, error.code, error.errno) == (
            "b",
            "k",
            412,
            "PreconditionFailed",
            17,
        )
        assert str(error).endswith("text")


def test_metadata_that_headers_cannot_carry_is_refused(ours: Client, bucket: str) -> None:
    for name, value in (("a", "ü"), ("a", "x\r\ny: z"), ("a:b", "c"), ("é", "c")):
        with pytest.raises(ArgumentError, match="printable ASCII"):
            ours.put(bucket, "k", b"", metadata={name: value})


def test_archived_objects_are_told() -> None:
    from pinstripe.s3.documents import object_info, parse, parse_page

    stamp = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    frozen = {"x-amz-storage-class": "GLACIER", "last-modified": "Sat, 31 Jan 2026 12:00:00 GMT"}
    assert not object_info("k", frozen, 1).available
    assert object_info("k", frozen, 1).modified_ns == int(stamp.timestamp()) * 10**9
    assert not object_info("k", {**frozen, "x-amz-restore": 'ongoing-request="true"'}, 1).available
    assert object_info("k", {**frozen, "x-amz-restore": 'ongoing-request="false", expiry-date="x"'}, 1).available
    assert not object_info("k", {"x-amz-archive-status": "ARCHIVE_ACCESS"}, 1).available
    page, token = parse_page(
        parse(
            b'<ListBucketResult xmlns="x"><IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>'
            b"<NextContinuationToken>t</NextContinuationToken><Contents><Key>a+b%2Bc</Key><Size>7</Size>"
            b"<StorageClass>DEEP_ARCHIVE</StorageClass><LastModified>2026-01-31T12:00:00.250Z</LastModified></Contents>"
            b"<CommonPrefixes><Prefix>d+e/</Prefix></CommonPrefixes></ListBucketResult>"
        )
    )
    assert (token, page.prefixes) == ("t", ("d e/",))
    info = page.objects[0]
    assert (info.key, info.size, info.available) == ("a b+c", 7, False)
    assert info.modified_ns == int(stamp.timestamp()) * 10**9 + 250_000_000


def test_capabilities_start_as_what_most_can_do(ours: Client) -> None:
    assert ours.capabilities == Capabilities()
    assert not ours.capabilities.known
