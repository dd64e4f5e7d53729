"""The server and the proxy that the other tests stand on."""

import glob
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ResponseStreamingError

from pinstripe.testing.s3_faults import KINDS, Fault, FaultProxy
from pinstripe.testing.s3_server import S3Server


@pytest.fixture
def through(proxy: FaultProxy, server: S3Server) -> Any:
    made = boto3.Session().client(
        "s3", endpoint_url=proxy.url, config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    )
    yield made
    made.close()


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_it_refuses_what_is_not_signed_with_its_secret(server: S3Server, bucket: str) -> None:
    other = boto3.Session().client(
        "s3", endpoint_url=server.url, aws_access_key_id=server.access_key, aws_secret_access_key="wrong"
    )
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        other.list_objects_v2(Bucket=bucket)
    other.close()


def test_it_listens_on_loopback_only(server: S3Server) -> None:
    inodes = {
        os.readlink(path)[8:-1]
        for path in glob.glob(f"/proc/{server.pid}/fd/*")
        if os.path.exists(path) and os.readlink(path).startswith("socket:")
    }
    listening = [
        fields[1]
        for name in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(name).read_text().splitlines()[1:])
        if fields[9] in inodes and fields[3] == "0A"
    ]
    assert len(listening) >= 5
    assert {entry.split(":")[0] for entry in listening} == {"0100007F"}


def test_a_stopped_server_serves_its_objects_again_and_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    with S3Server(tmp_path / "d") as server:
        pid = server.pid
        user = boto3.Session().client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            # It answers before it has found its volumes again: until then with InternalError.
            config=Config(retries={"mode": "standard", "total_max_attempts": 10}),
        )
        user.create_bucket(Bucket="kept")
        user.put_object(Bucket="kept", Key="k", Body=b"bytes")
        url = server.url
        server.stop()
        assert not is_running(pid)
        server.start()
        assert server.url == url
        answer = user.get_object(Bucket="kept", Key="k")
        assert answer["Body"].read() == b"bytes"
        user.close()
        ports = [10_000 + int(url.rpartition(":")[2]) + k for k in (-13, -6, -2, 0, 4)]
    assert not [path for port in ports for path in glob.glob(f"/tmp/seaweedfs-*-{port}.sock")]


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pinstripe.testing.s3_server import S3Server; "
        "s = S3Server(sys.argv[1]); print(s.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "d"], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


def test_what_meets_no_fault_passes_unchanged_and_is_logged(through: Any, bucket: str, proxy: FaultProxy) -> None:
    data = os.urandom(300_000)
    through.put_object(Bucket=bucket, Key="a b+c", Body=data)
    got = through.get_object(Bucket=bucket, Key="a b+c", Range="bytes=10-99")
    assert got["Body"].read() == data[10:100]
    through.head_object(Bucket=bucket, Key="a b+c")
    through.delete_object(Bucket=bucket, Key="a b+c")
    assert [(entry.method, entry.status, entry.bytes_in, entry.bytes_out) for entry in proxy.log] == [
        ("PUT", 200, 300_000, 0),
        ("GET", 206, 0, 90),
        ("HEAD", 200, 0, 0),
        ("DELETE", 204, 0, 0),
    ]
    assert proxy.log[1].range == "bytes=10-99"
    assert proxy.count("GET", "a%20b") == 1
    assert proxy.bytes_given("a%20b") == 90


@pytest.mark.parametrize(
    ("kind", "code"), [("503", "ServiceUnavailable"), ("slowdown", "SlowDown"), ("403", "AccessDenied")]
)
def test_errors_are_told_as_often_as_was_asked(
    through: Any, bucket: str, proxy: FaultProxy, kind: str, code: str
) -> None:
    proxy.add(Fault("PUT", "/k", kind=kind, times=2))
    for _ in range(2):
        with pytest.raises(ClientError, match=code):
            through.put_object(Bucket=bucket, Key="k", Body=bytes(2 << 20))
    through.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert [entry.fault for entry in proxy.log] == [kind, kind, ""]


def test_an_answer_can_break_in_its_middle(through: Any, bucket: str, proxy: FaultProxy) -> None:
    through.put_object(Bucket=bucket, Key="k", Body=bytes(1 << 20))
    for kind in ("reset", "cut"):
        proxy.add(Fault("GET", "/k", kind=kind, after_bytes=500_000))
        with pytest.raises((ResponseStreamingError, HTTPClientError)):
            through.get_object(Bucket=bucket, Key="k")["Body"].read()
        assert proxy.log[-1].bytes_out == 500_000
    proxy.add(Fault("GET", "/k", kind="truncate", after_bytes=500_000))
    assert len(through.get_object(Bucket=bucket, Key="k", Range="bytes=0-999999")["Body"].read()) == 500_000
    proxy.add(Fault("GET", "/k", kind="corrupt", after_bytes=7))
    assert through.get_object(Bucket=bucket, Key="k", Range="bytes=0-15")["Body"].read() == bytes(7) + b"\1" + bytes(8)
    assert through.get_object(Bucket=bucket, Key="k")["Body"].read() == bytes(1 << 20)


def test_a_request_can_break_in_its_middle_or_lose_its_answer(
    through: Any, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    proxy.add(Fault("PUT", "/k", kind="reset", after_bytes=500_000))
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        through.put_object(Bucket=bucket, Key="k", Body=bytes(1 << 20))
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    proxy.add(Fault("PUT", "/k", kind="lost"))
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        through.put_object(Bucket=bucket, Key="k", Body=bytes(1 << 20))
    assert client.head_object(Bucket=bucket, Key="k")["ContentLength"] == 1 << 20
    proxy.add(Fault("PUT", "/k", kind="corrupt", after_bytes=5))
    with pytest.raises(ClientError, match="BadDigest"):
        through.put_object(Bucket=bucket, Key="k", Body=bytes(1000), ChecksumAlgorithm="CRC32")


def test_an_error_comes_with_200_and_206(through: Any, bucket: str, proxy: FaultProxy) -> None:
    through.put_object(Bucket=bucket, Key="k", Body=bytes(1000))
    proxy.add(Fault("GET", "/k", kind="error_body", times=2))
    assert b"<Error>" in through.get_object(Bucket=bucket, Key="k")["Body"].read()  # to boto3 it is data
    answer = through.get_object(Bucket=bucket, Key="k", Range="bytes=0-99")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert b"<Error>" in answer["Body"].read()


def test_a_held_request_waits_for_its_release(through: Any, bucket: str, proxy: FaultProxy) -> None:
    from concurrent.futures import ThreadPoolExecutor

    proxy.add(Fault("PUT", "/k", kind="hold"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(through.put_object, Bucket=bucket, Key="k", Body=b"x")
        while not proxy.count("PUT"):
            time.sleep(0.005)
        assert not waiting.done()
        proxy.release()
        waiting.result()


def test_unknown_kinds_are_refused_and_a_stopped_proxy_listens_no_more(server: S3Server) -> None:
    assert "hold" in KINDS
    with pytest.raises(ValueError, match="kind='storm'"):
        Fault(kind="storm")
    with FaultProxy(server.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
