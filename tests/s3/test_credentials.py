"""--credentials root: only the first rank of a job has credentials; the others move bytes by URLs that it signs, and nothing shows them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pinstripe
from pinstripe.errors import ArgumentError, RemoteError, StaleError
from pinstripe.format.remote import Endpoint
from pinstripe.s3.client import Client
from pinstripe.s3.credentials import Holder, to_values, waves
from pinstripe.s3.exporting import export, stage_out
from pinstripe.s3.links import link
from pinstripe.s3.objects import Signed
from pinstripe.s3.restoring import restore, stage_in
from pinstripe.s3.sending import is_passing
from pinstripe.store.state import state_of
from pinstripe.store.store import Store
from pinstripe.store.team import SERIAL
from pinstripe.store.verify import verify
from pinstripe.testing.s3_faults import Entry, Fault, FaultProxy
from pinstripe.testing.s3_server import S3Server

from .putting import FSX, put

MIB = 1 << 20
RANDOM = random.Random(7)
MPIRUN = Path(sys.executable).with_name("mpirun")
needs_mpi = pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")

# A rank of a job. All but the first have nothing of AWS, and note when they look for credentials all the same. In each queue that ranks share
# the others draw first. All logs go to stderr.
RANK = """
import logging, os, sys, time

rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
notes = sys.argv.pop(1)
logging.basicConfig(level=logging.DEBUG)
if rank:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {"HOME": notes, "AWS_EC2_METADATA_DISABLED": "true"}
    if "root" in sys.argv:
        os.environ["AWS_PROFILE"] = "of-another-host"
    import botocore.session

    def refuse(session):
        open(f"{notes}/asked", "w").close()

    botocore.session.Session.get_credentials = refuse

from pinstripe.s3 import credentials, exporting, restoring
from pinstripe.store import work_queue

restoring.LARGE_BYTES = restoring.WHOLE_BYTES = MIB = 1 << 20
restoring._UNIT_BYTES = MIB, MIB
credentials._WAVE_BYTES, credentials._WAVE_REQUESTS = 5 * MIB, 16
for function in (exporting.export, exporting.stage_out):
    function.__kwdefaults__["part_bytes_least"] = 5 * MIB
queues = []
make, following = work_queue.WorkQueue.__init__, work_queue.WorkQueue.next


def make_numbered(queue, store, team, count):
    queue.number = len(queues) if team.size > 1 else -1
    queues.extend([queue] if team.size > 1 else [])
    make(queue, store, team, count)


def next_after_others(queue):
    drawn = f"{notes}/drawn-{queue.number}"
    deadline = time.monotonic() + 60
    while not rank and queue.number >= 0 and not os.path.exists(drawn):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    number = following(queue)
    if rank:
        open(drawn, "w").close()
    return number


work_queue.WorkQueue.__init__, work_queue.WorkQueue.next = make_numbered, next_after_others
from pinstripe.cli import main

main()
"""


class Job:
    """Runs pinstripe on two ranks, the second of which has no credentials, through a proxy."""

    def __init__(self, directory: Path, server: S3Server, proxy: FaultProxy) -> None:
        self.directory, self.server, self.proxy = directory, server, proxy
        self.runs = 0

    def run(self, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str, list[Entry]]:
        """Return the summary, all that was written, and what was asked by signed URLs."""
        self.runs += 1
        notes = self.directory / f"notes-{self.runs}"
        notes.mkdir()
        command = [str(MPIRUN), "-n", "2", sys.executable, "-c", RANK, str(notes), *arguments]
        environment = dict(os.environ) | {"AWS_ENDPOINT_URL": self.proxy.url}
        before = len(self.proxy.entries())
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
        said = done.stdout + done.stderr
        assert done.returncode == code, said[-5000:]
        entries = self.proxy.entries()[before:]
        self.asked = (notes / "asked").exists()
        for secret in (self.server.secret_key, "X-Amz-Signature", "X-Amz-Credential"):
            assert secret not in said
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return lines[-1] if lines else {}, said, [entry for entry in entries if "X-Amz-Signature=" in entry.path]


@pytest.fixture
def job(tmp_path: Path, server: S3Server, proxy: FaultProxy) -> Job:
    return Job(tmp_path, server, proxy)


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    pinstripe.makedirs(os.path.dirname(path), exist_ok=True)
    with pinstripe.open(path, "wb") as file:
        file.write(data)


def some_data() -> dict[str, bytes]:
    data = {f"d{number % 3}/f{number}": RANDOM.randbytes(1000 * number) for number in range(40)}
    return data | {"large": RANDOM.randbytes(27 * MIB + 5), "middle": RANDOM.randbytes(2 * MIB)}


@needs_mpi
def test_a_rank_without_credentials_stages_in_large_and_small(
    job: Job, store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    data = some_data()
    for key, body in data.items():
        put(client, bucket, f"in/{key}", body, Metadata=FSX)
    arguments = ("stage-in", "--json", "--credentials", "root", f"s3://{bucket}/in", f"{store.root}/x")
    found, _, signed = job.run(*arguments)
    assert (found["files"], found["verified"], found["failed"]) == (len(data), len(data), 0)
    assert found["bytes"] == sum(map(len, data.values()))
    assert not job.asked
    for key, body in data.items():
        path = f"{store.root}/x/{key}"
        assert read(path) == body
        assert state_of(path).archived
        assert pinstripe.stat(path).st_mtime_ns == 1595002920123456789
    assert verify(store, store.root).good
    assert {entry.method for entry in signed} == {"GET"}
    large = {entry.path for entry in signed if "/large?" in entry.path}
    assert len(large) == len({entry.path for entry in signed if "/large?" in entry.path and entry.status == 206}) >= 1
    assert (
        sum(entry.bytes_out for entry in signed if "/large?" in entry.path) >= 3 * MIB
    )  # one range in each of three waves
    assert any("/f" in entry.path and entry.status == 200 for entry in signed)
    gets = [entry for entry in proxy.log if entry.method == "GET" and "list-type" not in entry.path]
    assert sum(entry.bytes_out for entry in gets) == sum(map(len, data.values()))
    again, _, _ = job.run(*arguments)
    assert (again["files"], again["skipped"]) == (0, len(data))


@needs_mpi
def test_a_rank_without_credentials_stages_out_parts(
    job: Job, store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    data = some_data()
    for name, body in data.items():
        write(f"{store.root}/out/{name}", body)
    found, _, signed = job.run("stage-out", "--json", "--credentials", "root", f"{store.root}/out", f"s3://{bucket}/p")
    assert (found["files"], found["verified"], found["failed"]) == (len(data), len(data), 0)
    assert not job.asked
    for name, body in data.items():
        assert client.get_object(Bucket=bucket, Key=f"p/{name}")["Body"].read() == body
    assert {entry.method for entry in signed} == {"PUT"}
    assert len(signed) >= 3
    assert all("partNumber=" in entry.path and entry.status == 200 for entry in signed)
    assert proxy.count("PUT", "/p/large.*partNumber=") == 6
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert state_of(f"{store.root}/out/large").archived


@needs_mpi
def test_below_a_link_export_lazy_stubs_and_restore(
    job: Job, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = job.directory / "profile"
    keys = f"aws_access_key_id = {job.server.access_key}\naws_secret_access_key = {job.server.secret_key}\n"
    profile.write_text(f"[of-this-host]\n{keys}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_ENDPOINT_URL", job.proxy.url)
    root = f"{store.root}/l"
    pinstripe.mkdir(root)
    link(root, f"s3://{bucket}/l", export=("new", "changed"), endpoint=Endpoint(profile="of-this-host"))
    data = some_data()
    for name, body in data.items():
        write(f"{root}/{name}", body)
    found, _, signed = job.run("export", "--json", "--credentials", "root", root)
    assert not job.asked
    assert (found["files"], found["exit_code"]) == (len(data), 0)
    assert len(signed) >= 3
    stage = ("stage-in", "--json", "--lazy", "--credentials", "root", f"s3://{bucket}/l", f"{store.root}/x")
    assert job.run(*stage)[0]["files"] == len(data)
    assert state_of(f"{store.root}/x/large").is_stub
    found, _, signed = job.run("restore", "--json", "--credentials", "root", f"{store.root}/x")
    assert not job.asked
    stubs = [body for body in data.values() if body]
    assert (found["failed"], found["exit_code"]) == (0, 0)
    assert found["bytes"] == sum(map(len, stubs))
    assert sum(entry.bytes_out for entry in signed) > 3 * MIB
    assert {name: read(f"{store.root}/x/{name}") for name in data} == data


@needs_mpi
def test_damage_on_the_way_of_a_signed_part_shows_and_is_sent_again(
    job: Job, store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    data = RANDOM.randbytes(12 * MIB)
    write(f"{store.root}/out/large", data)
    proxy.add(Fault("PUT", "/p/large.*X-Amz-Signature", kind="corrupt", after_bytes=1000, times=1))
    found, _, signed = job.run("stage-out", "--json", "--credentials", "root", f"{store.root}/out", f"s3://{bucket}/p")
    assert [entry.fault for entry in signed].count("corrupt") == 1
    assert (found["files"], found["exit_code"]) == (1, 0)
    assert proxy.count("POST", "/p/large.*uploads") == 2
    assert client.get_object(Bucket=bucket, Key="p/large")["Body"].read() == data
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@needs_mpi
def test_plans_links_directories_and_parts_that_nobody_may_send(
    job: Job, store: Store, client: Any, bucket: str
) -> None:
    data = RANDOM.randbytes(12 * MIB)
    write(f"{store.root}/out/large", data)
    pinstripe.mkdir(f"{store.root}/out/empty")
    pinstripe.symlink("large", f"{store.root}/out/name")
    out = ("--json", "--credentials", "root", f"{store.root}/out", f"s3://{bucket}/p")
    found, said, signed = job.run("stage-out", "--dry-run", *out)
    assert (found["files"], said.count('"planned"'), signed) == (3, 3, [])
    assert client.list_objects_v2(Bucket=bucket).get("KeyCount") == 0
    found, _, signed = job.run("stage-out", "--checksum", "crc32c", *out)
    assert (found["files"], found["exit_code"], signed) == (3, 0, [])  # each part has a checksum, so the first sent all
    assert client.get_object(Bucket=bucket, Key="p/large")["Body"].read() == data
    into = ("--json", "--credentials", "root", f"s3://{bucket}/p", f"{store.root}/x")
    found, said, signed = job.run("stage-in", "--dry-run", *into)
    assert (found["files"], said.count('"planned"'), signed) == (2, 2, [])
    found, _, signed = job.run("stage-in", *into)
    assert (found["failed"], found["exit_code"]) == (0, 0)
    assert read(f"{store.root}/x/large") == data
    assert os.readlink(f"{store.root}/x/name") == "large"
    assert pinstripe.listdir(f"{store.root}/x/empty") == []
    assert not job.asked


@needs_mpi
@pytest.mark.parametrize("command", ["stage-in", "restore", "stage-out", "export"])
def test_all_says_what_helps_where_a_rank_has_none(
    job: Job, store: Store, client: Any, bucket: str, endpoint: Endpoint, command: str
) -> None:
    put(client, bucket, "f", b"data")
    write(f"{store.root}/out/f", b"data")
    arguments = {
        "stage-in": [f"s3://{bucket}", f"{store.root}/x"],
        "restore": [f"{store.root}/lazy"],
        "stage-out": [f"{store.root}/out", f"s3://{bucket}/p"],
        "export": [f"{store.root}/out"],
    }
    if command == "restore":
        stage_in(f"s3://{bucket}", f"{store.root}/lazy", lazy=True, endpoint=endpoint)
    if command == "export":
        link(f"{store.root}/out", f"s3://{bucket}/p", export=("new",), endpoint=Endpoint())
    _, said, _ = job.run(command, *arguments[command], code=1)
    assert job.asked
    (told,) = [line for line in said.splitlines() if line.startswith("pinstripe: ")]
    assert "no credentials" in told
    assert "--credentials root" in told


@needs_mpi
def test_what_a_signed_request_is_refused_shows_no_url(
    job: Job, store: Store, client: Any, bucket: str, proxy: FaultProxy
) -> None:
    put(client, bucket, "large", RANDOM.randbytes(20 * MIB))
    put(client, bucket, "small", b"data")
    proxy.add(Fault("GET", "X-Amz-Signature", kind="403", times=1000))
    found, said, _ = job.run("stage-in", "--json", "--credentials", "root", f"s3://{bucket}", store.root, code=1)
    assert found["failed"] >= 1
    assert f"s3://{bucket}/large: cannot read it: 403" in said
    proxy.clear()
    write(f"{store.root}/out/large", RANDOM.randbytes(20 * MIB))
    proxy.add(Fault("PUT", "X-Amz-Signature", kind="403", times=1000))
    found, said, _ = job.run(
        "stage-out", "--json", "--credentials", "root", f"{store.root}/out", f"s3://{bucket}/p", code=1
    )
    assert f"s3://{bucket}/p/large: cannot send part" in said
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


# --- one process -----------------------------------------------------------------------------------------------------


class Two:
    """The second of two ranks, as far as a Holder asks."""

    rank, size = 1, 2


def guest(endpoint: Endpoint) -> Client:
    return Holder("root", Two()).client(dataclasses.replace(endpoint, profile="of-another-host"))  # type: ignore[arg-type]


def test_what_has_expired_says_so_and_may_be_run_again(
    client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, bucket, "f", b"0123456789")
    rich, poor = Client.of(endpoint), guest(endpoint)
    remote = rich.head(bucket, "f").remote(bucket, endpoint)
    upload = rich.create_upload(bucket, "m")
    monkeypatch.setattr(rich._service, "_clock_ahead_s", -7200.0)
    reading, writing = rich.sign_get(remote, seconds=3600), rich.sign_part(bucket, "m", upload, 1, None, seconds=3600)
    monkeypatch.undo()
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for work in (
        lambda: poor.get_range(remote, 0, bytearray(10), signed=reading),
        lambda: poor.upload_part(bucket, "m", upload, 1, b"part", signed=writing),
    ):
        with pytest.raises(RemoteError, match=r"has expired, an hour after .* run it again") as caught:
            work()
        assert (caught.value.status, caught.value.code) == (403, "ExpiredSignature")
        assert is_passing(caught.value)
        assert "X-Amz" not in f"{caught.value!r} {caught.value}"
    rich.abort_upload(bucket, "m", upload)


def test_a_guest_reads_whole_objects_and_sees_what_was_replaced(
    client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = put(client, bucket, "f", b"0123456789", Metadata=FSX)
    rich = Client.of(endpoint)
    remote = rich.head(bucket, "f").remote(bucket, endpoint)
    whole, ranges = rich.sign_get(remote, whole=True), rich.sign_get(remote)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)

    def refuse(session: object) -> None:
        raise AssertionError("credentials were looked for")

    monkeypatch.setattr("botocore.session.Session.get_credentials", refuse)
    poor = guest(endpoint)
    data, info = poor.get(bucket, "f", etag=old, signed=whole)
    assert data == b"0123456789"
    assert info.crc64 == remote.crc64 is not None
    assert info.metadata == FSX
    new = put(client, bucket, "f", b"9876543210")
    for work in (
        lambda: poor.get(bucket, "f", etag=old, signed=whole),
        lambda: poor.get_range(remote, 0, bytearray(10), signed=ranges),
    ):
        with pytest.raises(StaleError, match=rf"{old} was wanted.* {new} now"):
            work()
    assert "X-Amz" not in repr(whole)
    assert Signed(*to_values(whole)) == whole


def test_waves_end_in_time_and_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinstripe.s3.credentials._WAVE_BYTES", 5)
    monkeypatch.setattr("pinstripe.s3.credentials._WAVE_REQUESTS", 4)
    work = [3, 3, 4, 1, 30, 1, 0, 0, 0, 0, 10]
    cut = [list(wave) for wave in waves(work, lambda length: length, 2)]
    assert cut == [[3, 3, 4], [1], [30], [1, 0, 0, 0], [0, 10]]
    assert list(waves([], len, 2)) == []


@pytest.mark.parametrize("work", [export, stage_out, restore, stage_in])
def test_only_two_words_are_known(store: Store, work: Any) -> None:
    first = [store.root] if work in (export, restore) else "s3://bucket" if work is stage_in else store.root
    second = {export: (), restore: (), stage_in: (store.root,), stage_out: ("s3://bucket",)}[work]
    with pytest.raises(ArgumentError, match="choose one of all, root"):
        work(first, *second, credentials="some")


def test_alone_a_process_signs_nothing(endpoint: Endpoint) -> None:
    holder = Holder("root", SERIAL)
    assert (holder.signs, holder.is_guest) == (False, False)
    assert holder.client(endpoint) is Client.of(endpoint)
