"""Reading stubs of a real bucket: what is fetched, what stays, and what happens when the object changes or the process dies."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pinstripe
from pinstripe.errors import DamageError, StaleError
from pinstripe.format.remote import Endpoint, Remote
from pinstripe.s3.client import Client
from pinstripe.store.residency import Residency
from pinstripe.store.state import state_of
from pinstripe.store.store import Store
from pinstripe.store.stub import make_stub, restore
from pinstripe.store.verify import verify
from pinstripe.testing.s3_faults import Fault, FaultProxy

from .putting import put

STRIPE = 64 << 10
DATA = random.Random(61).randbytes(40 * STRIPE + 777)
MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture
def through(proxy: FaultProxy) -> Endpoint:
    """The way through the proxy."""
    return Endpoint(url=proxy.url, region="us-east-1")


@pytest.fixture
def stub(store: Store, client: Any, bucket: str, through: Endpoint) -> str:
    put(client, bucket, "key", DATA)
    path = f"{store.root}/f"
    make_stub(path, Client.of(through).head(bucket, "key").remote(bucket, through), mode=0o640)
    return path


def pread(path: str, count: int, offset: int) -> bytes:
    with pinstripe.open(path, "rb", buffering=0) as file:
        return bytes(file.pread(count, offset))


def ranges(proxy: FaultProxy) -> list[str]:
    return [entry.range for entry in proxy.log if entry.method == "GET"]


def fetched(proxy: FaultProxy) -> int:
    return sum(entry.bytes_out for entry in proxy.log if entry.method == "GET" and entry.status == 206)


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(text), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_the_stripes_touched_are_fetched_and_a_second_read_fetches_nothing(stub: str, proxy: FaultProxy) -> None:
    assert pread(stub, 100, 7 * STRIPE + 10) == DATA[7 * STRIPE + 10 :][:100]
    assert ranges(proxy) == [f"bytes={7 * STRIPE}-{8 * STRIPE - 1}"]
    assert fetched(proxy) == STRIPE
    assert pread(stub, STRIPE, 7 * STRIPE) == DATA[7 * STRIPE : 8 * STRIPE]
    assert len(ranges(proxy)) == 1
    assert all('"' in entry.headers["if-match"] for entry in proxy.log if entry.method == "GET")
    assert state_of(stub).resident_bytes == STRIPE


def test_sequential_reading_takes_few_requests_and_makes_it_an_ordinary_file(
    stub: str, store: Store, proxy: FaultProxy
) -> None:
    with pinstripe.open(stub, "rb", buffering=0) as file:
        got = b"".join(iter(lambda: file.read(STRIPE // 2), b""))
    assert got == DATA
    assert fetched(proxy) == len(DATA)
    assert len(ranges(proxy)) < 12
    state = state_of(stub)
    assert (state.is_stub, state.archived) == (False, True)
    assert verify(store, stub).good


def test_a_fully_read_file_equals_a_restored_one(stub: str, store: Store) -> None:
    state = state_of(stub)
    assert state.base is not None
    make_stub(f"{store.root}/g", state.base.remote, mode=0o640)
    assert pread(stub, len(DATA), 0) == DATA
    restore(f"{store.root}/g")
    one, other = state_of(stub), state_of(f"{store.root}/g")
    assert (one.size, one.archived, one.is_stub) == (other.size, other.archived, other.is_stub)
    assert one.base is not None
    assert other.base is not None
    assert (
        (one.base.remote, one.base.proof) == (other.base.remote, other.base.proof) == (state.base.remote, "crc64nvme")
    )
    assert pinstripe.stat(stub).st_blocks == pinstripe.stat(f"{store.root}/g").st_blocks


def test_an_object_replaced_between_two_reads_is_stale_and_never_mixed(stub: str, client: Any, bucket: str) -> None:
    before = state_of(stub).base
    assert before is not None
    assert pread(stub, STRIPE, 0) == DATA[:STRIPE]
    now = client.put_object(Bucket=bucket, Key="key", Body=DATA[::-1])["ETag"].strip('"')
    with pytest.raises(StaleError) as caught:
        pread(stub, STRIPE, 5 * STRIPE)
    text = str(caught.value)
    assert caught.value.errno == errno.ESTALE
    assert all(word in text for word in (bucket, "key", before.remote.etag, now))
    assert pread(stub, STRIPE, 0) == DATA[:STRIPE]
    client.delete_object(Bucket=bucket, Key="key")
    with pytest.raises(StaleError):
        pread(stub, STRIPE, 5 * STRIPE)


@pytest.mark.parametrize("kind", ["503", "slowdown", "reset", "cut", "truncate", "error_body"])
def test_what_networks_do_is_no_error_and_no_wrong_byte(stub: str, proxy: FaultProxy, kind: str) -> None:
    proxy.add(Fault("GET", "key", kind=kind, times=2, after_bytes=100_000))
    assert pread(stub, len(DATA), 0) == DATA


def test_a_wrong_checksum_in_the_bucket_is_found_and_nothing_stays(
    store: Store, client: Any, bucket: str, endpoint: Endpoint
) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=DATA)
    info = Client.of(endpoint).head(bucket, "key")
    path = f"{store.root}/f"
    make_stub(path, Remote(bucket, "key", info.size, info.etag, crc64=1234, endpoint=endpoint))
    with pytest.raises(DamageError, match="CRC64NVME"):
        restore(path)
    assert state_of(path).is_stub
    assert state_of(path).resident_bytes == 0


def test_a_reset_that_gave_wrong_bytes_is_found_at_restore(stub: str, proxy: FaultProxy) -> None:
    proxy.add(Fault("GET", "key", kind="corrupt", times=1, after_bytes=1000))
    with pytest.raises(DamageError):
        restore(stub)
    assert state_of(stub).resident_bytes == 0
    restore(stub)
    assert pread(stub, len(DATA), 0) == DATA


def test_changing_a_stub_restores_it_and_replacing_it_fetches_nothing(stub: str, proxy: FaultProxy) -> None:
    with pinstripe.open(stub, "wb") as file:
        file.write(b"new")
    assert not ranges(proxy)
    assert state_of(stub).dirty


def test_a_stub_that_is_changed_is_fetched_first(stub: str, proxy: FaultProxy) -> None:
    with pinstripe.open(stub, "r+b") as file:
        file.seek(10)
        file.write(b"new")
    assert fetched(proxy) == len(DATA)
    assert pread(stub, len(DATA), 0) == DATA[:10] + b"new" + DATA[13:]
    assert state_of(stub).dirty


READ = """
    import sys, pinstripe
    with pinstripe.open(sys.argv[1], "rb", buffering=0) as file:
        sys.stdout.write(str(len(file.read(int(sys.argv[2])))))
"""


def test_two_processes_that_read_the_same_fetch_it_once(stub: str, proxy: FaultProxy) -> None:
    proxy.add(Fault("GET", "key", kind="delay", times=1, seconds=1.0))
    running = [program(READ, stub, str(8 * STRIPE)) for _ in range(2)]
    for one in running:
        out, error = one.communicate(timeout=60)
        assert (out, error, one.returncode) == (str(8 * STRIPE), "", 0)
    assert fetched(proxy) == 8 * STRIPE


def test_who_is_killed_in_mid_fetch_loses_nothing_that_was_kept(stub: str, proxy: FaultProxy) -> None:
    with Residency.of(stub) as residency:
        residency.load(residency.missing(0, 10))
    proxy.add(Fault("GET", "key", kind="hold", times=1))
    running = program(READ, stub, str(len(DATA)))
    until(lambda: any(entry.fault == "hold" for entry in proxy.log))
    running.send_signal(signal.SIGKILL)
    running.communicate()
    proxy.release()
    assert state_of(stub).resident_bytes >= 10 * STRIPE
    before = len(proxy.log)
    assert pread(stub, len(DATA), 0) == DATA
    assert sum(entry.bytes_out for entry in proxy.log[before:]) == len(DATA) - 10 * STRIPE
    assert not state_of(stub).is_stub


AS_ANOTHER = """
    import os, sys, pinstripe
    from pinstripe.store.source import open_source
    from pinstripe.store.state import state_of
    from pinstripe.store.store import Store
    state = state_of(sys.argv[1])
    open_source(state.base.remote, Store.find(sys.argv[1])).fetch_into(0, memoryview(bytearray(1)))  # imports what it needs
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    with pinstripe.open(sys.argv[1], "rb", buffering=0) as file:
        sys.stdout.write(str(len(file.read(int(sys.argv[2])))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_may_not_write_reads_and_keeps_nothing(stub: str, proxy: FaultProxy, tmp_path: Path) -> None:
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0:
            os.chmod(above, above.stat().st_mode | 0o055)
    pinstripe.chmod(stub, 0o644)
    done = program(AS_ANOTHER, stub, str(3 * STRIPE))
    out, error = done.communicate(timeout=60)
    assert (out, done.returncode) == (str(3 * STRIPE), 0), error
    assert state_of(stub).resident_bytes == 0
    assert fetched(proxy) >= 3 * STRIPE


RANKS = """
    import sys
    import numpy as np
    from mpi4py import MPI
    import pinstripe.mpi
    size = int(sys.argv[2])
    data = np.empty(size, np.uint8)
    with pinstripe.mpi.open(MPI.COMM_WORLD, sys.argv[1], "r") as file:
        file.read_at_all(0, data)
    sys.stdout.write(f"{data.astype(np.int64).sum()} ")
"""


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")
def test_ranks_that_read_together_fetch_each_stripe_once(stub: str, proxy: FaultProxy, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(RANKS))
    command = [str(MPIRUN), "-n", "2", sys.executable, "-m", "mpi4py", str(script), stub, str(len(DATA))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(sum(DATA))] * 2
    assert fetched(proxy) == len(DATA)
