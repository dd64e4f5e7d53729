"""Multipart uploads that survive their process: resumed, or aborted, and never left for nobody to find."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pinstripe
from pinstripe.cli import cli
from pinstripe.errors import RemoteError
from pinstripe.format.remote import Endpoint
from pinstripe.s3 import service, uploads
from pinstripe.s3.events import Events
from pinstripe.s3.exporting import stage_out
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import Fault, FaultProxy

MIB = 1 << 20
PART = 5 * MIB
MPIRUN = Path(sys.executable).with_name("mpirun")


def data_of(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def unfinished(client: Any, bucket: str) -> list[str]:
    return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def read(client: Any, bucket: str, key: str) -> bytes:
    return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


@pytest.fixture
def out(store: Store) -> Path:
    pinstripe.mkdir(f"{store.root}/out")
    return Path(store.root, "out")


def write(path: Path, data: bytes) -> None:
    with pinstripe.open(path, "wb") as file:
        file.write(data)


def upload_of(bucket: str, endpoint: Endpoint) -> uploads.Upload:
    return uploads.Upload(bucket, "p/x", endpoint, "x", "00" * 16, 10 * PART, 5, PART)


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_record_is_there_until_it_is_removed(store: Store, endpoint: Endpoint) -> None:
    record = uploads.begin(store, upload_of("b", endpoint))
    record.note_id("id")
    (found,) = uploads.uploads_of(store, "b", "p/x")
    assert found.upload == record.upload
    assert found.upload.endpoint == endpoint
    assert found.is_alive
    assert list(uploads.uploads_of(store, "b", "p/y")) == []
    assert list(uploads.take_over(store, "b", "p/x")) == []
    record.remove()
    record.leave()
    assert list(uploads.uploads_of(store)) == []


def test_what_was_left_is_taken_over_once(store: Store, endpoint: Endpoint) -> None:
    uploads.begin(store, upload_of("b", endpoint)).leave()
    (taken,) = uploads.take_over(store, "b", "p/x")
    assert taken.is_alive
    assert list(uploads.take_over(store, "b", "p/x")) == []
    taken.remove()


def test_a_restarted_job_takes_over_what_its_first_run_left(
    store: Store, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    record = uploads.begin(store, upload_of("b", endpoint))
    assert list(uploads.take_over(store, "b", "p/x")) == []
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    (taken,) = uploads.take_over(store, "b", "p/x")
    taken.remove()
    record.remove()


def test_a_torn_record_is_passed_over(store: Store, endpoint: Endpoint) -> None:
    record = uploads.begin(store, upload_of("b", endpoint))
    Path(record.path).write_bytes(b'{"bucket": ')
    assert list(uploads.uploads_of(store)) == []
    record.remove()


# --- resumed ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon."""
    monkeypatch.setattr(service, "ATTEMPTS", 3)


def stopped_midway(out: Path, bucket: str, proxy: FaultProxy, data: bytes, sent: int) -> None:
    """An export whose service is gone for good after so many parts."""
    write(out / "x", data)
    proxy.add(Fault("PUT", "/p/x[?]partNumber=", kind="503", skip=sent, times=10_000))
    summary = stage_out(
        out, f"s3://{bucket}/p", endpoint=Endpoint(url=proxy.url, region="us-east-1"), part_bytes_least=PART
    )
    assert summary.exit_code == 75
    proxy.clear()


def test_what_was_sent_is_not_sent_again(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    data = data_of(6 * PART + 3)
    stopped_midway(out, bucket, proxy, data, 4)
    assert unfinished(client, bucket) == ["p/x"]
    through = Endpoint(url=proxy.url, region="us-east-1")
    summary = stage_out(out, f"s3://{bucket}/p", endpoint=through, part_bytes_least=PART)
    assert (summary.exit_code, summary.files) == (0, 1)
    assert read(client, bucket, "p/x") == data
    assert proxy.count("PUT", "/p/x[?]partNumber=") == 3
    assert proxy.count("POST", "/p/x[?]uploads") == 0
    assert unfinished(client, bucket) == []
    assert list(uploads.uploads_of(store)) == []


def test_the_upload_of_another_content_is_aborted(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    stopped_midway(out, bucket, proxy, data_of(3 * PART), 2)
    data = data_of(3 * PART, 2)
    write(out / "x", data)
    through = Endpoint(url=proxy.url, region="us-east-1")
    assert stage_out(out, f"s3://{bucket}/p", endpoint=through, part_bytes_least=PART).exit_code == 0
    assert read(client, bucket, "p/x") == data
    assert proxy.count("PUT", "/p/x[?]partNumber=") == 3
    assert unfinished(client, bucket) == []
    assert list(uploads.uploads_of(store)) == []


def test_parts_that_somebody_replaced_are_sent_again(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    data = data_of(3 * PART)
    stopped_midway(out, bucket, proxy, data, 2)
    (record,) = uploads.uploads_of(store)
    client.upload_part(
        Bucket=bucket,
        Key="p/x",
        UploadId=record.upload.id,
        PartNumber=1,
        Body=bytes(PART),
        ChecksumAlgorithm="CRC64NVME",
    )
    through = Endpoint(url=proxy.url, region="us-east-1")
    assert stage_out(out, f"s3://{bucket}/p", endpoint=through, part_bytes_least=PART).exit_code == 0
    assert read(client, bucket, "p/x") == data
    assert unfinished(client, bucket) == []


def test_torn_notes_of_parts_are_passed_over(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    data = data_of(3 * PART)
    stopped_midway(out, bucket, proxy, data, 2)
    (notes,) = Path(store.meta, "s3", "uploads").glob("*.parts")
    notes.write_bytes(notes.read_bytes().splitlines(keepends=True)[0] + b'[2,"abc')
    through = Endpoint(url=proxy.url, region="us-east-1")
    assert stage_out(out, f"s3://{bucket}/p", endpoint=through, part_bytes_least=PART).exit_code == 0
    assert read(client, bucket, "p/x") == data
    assert proxy.count("PUT", "/p/x[?]partNumber=") == 2
    assert os.listdir(Path(store.meta, "s3", "uploads")) == []


def test_an_upload_that_is_gone_begins_anew(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy
) -> None:
    data = data_of(3 * PART)
    stopped_midway(out, bucket, proxy, data, 1)
    (record,) = uploads.uploads_of(store)
    client.abort_multipart_upload(Bucket=bucket, Key="p/x", UploadId=record.upload.id)
    through = Endpoint(url=proxy.url, region="us-east-1")
    assert stage_out(out, f"s3://{bucket}/p", endpoint=through, part_bytes_least=PART).exit_code == 0
    assert read(client, bucket, "p/x") == data
    assert list(uploads.uploads_of(store)) == []


# --- collected -------------------------------------------------------------------------------------------------------


def gc(store: Store) -> Any:
    done = CliRunner().invoke(cli, ["gc", "--uploads", "--json", store.root], prog_name="pinstripe")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_gc_aborts_what_was_left_and_leaves_what_is_under_way(
    store: Store, hasty: None, out: Path, bucket: str, client: Any, proxy: FaultProxy, endpoint: Endpoint
) -> None:
    stopped_midway(out, bucket, proxy, data_of(3 * PART), 1)
    foreign = client.create_multipart_upload(Bucket=bucket, Key="p/foreign")["UploadId"]
    mine = client.create_multipart_upload(Bucket=bucket, Key="p/x")["UploadId"]
    alive = uploads.begin(store, upload_of(bucket, endpoint))
    alive.note_id(mine)
    found = sorted(gc(store), key=lambda one: bool(one["alive"]))
    assert [(one["alive"], one["aborted"], one["key"]) for one in found] == [(False, True, "p/x"), (True, False, "p/x")]
    assert sorted(unfinished(client, bucket)) == ["p/foreign", "p/x"]
    alive.leave()
    assert [one["upload"] for one in gc(store)] == [mine]
    assert unfinished(client, bucket) == ["p/foreign"]
    assert gc(store) == []
    client.abort_multipart_upload(Bucket=bucket, Key="p/foreign", UploadId=foreign)


def test_an_upload_whose_id_was_never_written_down_is_found(
    store: Store, bucket: str, client: Any, endpoint: Endpoint
) -> None:
    record = uploads.begin(store, upload_of(bucket, endpoint))
    client.create_multipart_upload(Bucket=bucket, Key="p/x")
    other = client.create_multipart_upload(Bucket=bucket, Key="p/xy")["UploadId"]
    record.leave()
    assert [one["aborted"] for one in gc(store)] == [True]
    assert unfinished(client, bucket) == ["p/xy"]
    client.abort_multipart_upload(Bucket=bucket, Key="p/xy", UploadId=other)


def test_uploads_of_others_to_a_key_go_on_where_an_id_was_never_written_down(
    store: Store, bucket: str, client: Any, endpoint: Endpoint
) -> None:
    uploads.begin(store, upload_of(bucket, endpoint)).leave()
    theirs = client.create_multipart_upload(Bucket=bucket, Key="p/x")["UploadId"]
    client.upload_part(Bucket=bucket, Key="p/x", UploadId=theirs, PartNumber=1, Body=b"theirs")
    assert [one["aborted"] for one in gc(store)] == [True]  # it was never begun
    assert unfinished(client, bucket) == ["p/x"]
    assert list(uploads.uploads_of(store)) == []
    client.abort_multipart_upload(Bucket=bucket, Key="p/x", UploadId=theirs)


def test_which_of_two_uploads_it_was_is_not_guessed(store: Store, bucket: str, client: Any, endpoint: Endpoint) -> None:
    uploads.begin(store, upload_of(bucket, endpoint)).leave()
    ids = [client.create_multipart_upload(Bucket=bucket, Key="p/x")["UploadId"] for _ in range(2)]
    (found,) = uploads.gc_uploads(store)
    assert not found.aborted
    assert "cannot be told" in found.problem
    assert unfinished(client, bucket) == ["p/x", "p/x"]
    ours = uploads.begin(store, upload_of(bucket, endpoint))
    ours.note_id(ids[0])  # now it is known whose one of them is
    assert [one.aborted for one in uploads.gc_uploads(store) if not one.is_alive] == [True]
    assert [one["UploadId"] for one in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ids[:1]
    ours.leave()
    assert [one.aborted for one in uploads.gc_uploads(store)] == [True]


def test_an_export_tells_what_it_leaves_and_goes_on(
    store: Store, out: Path, bucket: str, client: Any, endpoint: Endpoint
) -> None:
    told: list[str] = []

    class Notes(Events):
        def on_note(self, text: str) -> None:
            told.append(text)

    data = data_of(33 * MIB)
    write(out / "x", data)
    uploads.begin(store, upload_of(bucket, endpoint)).leave()
    ids = [client.create_multipart_upload(Bucket=bucket, Key="p/x")["UploadId"] for _ in range(2)]
    assert stage_out(out, f"s3://{bucket}/p", endpoint=endpoint, events=Notes()).exit_code == 0
    assert read(client, bucket, "p/x") == data
    assert len([text for text in told if "cannot be told" in text]) == 1
    assert unfinished(client, bucket) == ["p/x", "p/x"]
    for id in ids:
        client.abort_multipart_upload(Bucket=bucket, Key="p/x", UploadId=id)
    assert [one.aborted for one in uploads.gc_uploads(store)] == [True]


def test_an_upload_older_than_the_record_is_not_its(
    store: Store, bucket: str, client: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = client.create_multipart_upload(Bucket=bucket, Key="p/x")["UploadId"]
    later = time.time_ns() + 5 * 60 * 10**9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: later)
        uploads.begin(store, upload_of(bucket, endpoint)).leave()
    (found,) = uploads.gc_uploads(store)
    assert (found.aborted, unfinished(client, bucket)) == (False, ["p/x"])
    client.abort_multipart_upload(Bucket=bucket, Key="p/x", UploadId=id)
    assert [one.aborted for one in uploads.gc_uploads(store)] == [True]
    assert list(uploads.uploads_of(store)) == []


def test_gc_that_cannot_reach_the_bucket_keeps_the_record(store: Store, bucket: str, endpoint: Endpoint) -> None:
    record = uploads.begin(store, upload_of(bucket, endpoint))
    record.note_id("id")
    record.leave()

    class Refusing:
        def abort_upload(self, bucket: str, key: str, id: str) -> None:
            raise RemoteError("refused", bucket=bucket, key=key, status=403, code="AccessDenied")

    (found,) = uploads.gc_uploads(store, client_of=lambda endpoint: Refusing())  # type: ignore[arg-type,return-value]
    assert (found.aborted, found.problem) == (False, "refused")
    (record,) = uploads.uploads_of(store)
    assert not record.is_alive
    record.remove()


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [0, 1])
def test_a_job_whose_rank_is_killed_in_mid_upload_is_resumed(
    store: Store, out: Path, bucket: str, client: Any, proxy: FaultProxy, killed: int, tmp_path: Path
) -> None:
    data = data_of(5 * 16 * MIB + 4321)
    write(out / "x", data)
    write(out / "small", b"small")
    proxy.add(Fault("PUT", "/p/x[?]partNumber=", kind="hold", skip=2, times=100))
    program = tmp_path / "ranks.py"
    program.write_text(
        "import os, sys\n"
        "from mpi4py import MPI\n"
        f"open({str(tmp_path)!r} + f'/pid-{{MPI.COMM_WORLD.rank}}', 'w').write(str(os.getpid()))\n"
        "sys.argv[0] = 'pinstripe'\n"
        "from pinstripe.cli import main\n"
        "main()\n"
    )
    arguments = ["stage-out", str(out), f"s3://{bucket}/p", "--endpoint-url", proxy.url]
    command = [str(MPIRUN), "-n", "2", sys.executable, str(program), *arguments]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    notes = Path(store.meta, "s3", "uploads")
    while sum(path.read_bytes().count(b"\n") for path in notes.glob("*.parts")) < 2:
        assert time.monotonic() < deadline
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(int((tmp_path / f"pid-{killed}").read_text()), signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode != 0
    proxy.clear()
    assert unfinished(client, bucket) == ["p/x"]
    (record,) = uploads.uploads_of(store)
    assert not record.is_alive
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert read(client, bucket, "p/x") == data
    assert read(client, bucket, "p/small") == b"small"
    assert proxy.count("PUT", "/p/x[?]partNumber=") == 4
    assert proxy.count("POST", "/p/x[?]uploads") == 0
    assert unfinished(client, bucket) == []
    assert list(uploads.uploads_of(store)) == []
