"""Two writers of one file, readers beside a writer, and writers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import pinstripe
from pinstripe import Store
from pinstripe.store.collect import collect_store

from .files import STRIPE, read, segments_of, write

BASE = bytes(6 * STRIPE)


@pytest.fixture
def path(small: Store) -> str:
    name = os.path.join(small.root, "file")
    write(name, BASE)
    return name


def both(path: str, mode: str = "r+b") -> tuple[pinstripe.store.file.RawFile, pinstripe.store.file.RawFile]:
    return pinstripe.open(path, mode, buffering=0), pinstripe.open(path, mode, buffering=0)


def test_disjoint_stripes_both_land(path: str) -> None:
    first, second = both(path)
    first.pwrite(b"a" * STRIPE, 0)
    second.pwrite(b"b" * STRIPE, 4 * STRIPE)
    first.close()
    second.close()
    assert read(path) == b"a" * STRIPE + bytes(3 * STRIPE) + b"b" * STRIPE + bytes(STRIPE)


def test_different_bytes_of_one_stripe_both_land(path: str) -> None:
    first, second = both(path)
    first.pwrite(b"a" * 10, 5)
    second.pwrite(b"b" * 10, 500)
    first.close()
    second.close()
    expected = bytearray(BASE)
    expected[5:15], expected[500:510] = b"a" * 10, b"b" * 10
    assert read(path) == expected


def test_the_same_byte_is_a_conflict_that_loses_nothing(path: str) -> None:
    first, second = both(path)
    first.pwrite(b"a" * 10, 5)
    second.pwrite(b"b" * 10, 10)
    first.close()
    with pytest.raises(pinstripe.ConflictError, match="both changed byte 10") as caught:
        second.close()
    assert f"process {os.getpid()}" in str(caught.value)
    assert read(path)[:20] == bytes(5) + b"a" * 10 + bytes(5)
    assert read(path, generation=caught.value.transaction)[:20] == bytes(10) + b"b" * 10
    collect_store(pinstripe.Store.find(path))
    assert read(path, generation=caught.value.transaction)[10:20] == b"b" * 10


def test_the_same_bytes_written_twice_are_no_conflict(path: str) -> None:
    first, second = both(path)
    for file in (first, second):
        file.pwrite(b"same", 7)
    first.close()
    second.close()
    assert read(path)[7:11] == b"same"


def test_two_that_append_are_both_there(path: str) -> None:
    first, second = both(path, "ab")
    first.write(b"1" * (STRIPE + 3))
    second.write(b"2" * 100)
    first.close()
    second.close()
    assert read(path) == BASE + b"1" * (STRIPE + 3) + b"2" * 100


def test_a_cut_conflicts_with_what_was_written_beyond_it(path: str) -> None:
    first, second = both(path)
    first.pwrite(b"beyond", 5 * STRIPE)
    second.truncate(STRIPE)
    first.close()
    with pytest.raises(pinstripe.ConflictError, match="beyond"):
        second.close()
    assert read(path)[5 * STRIPE :][:6] == b"beyond"


def test_w_replaces_whatever_is_there(path: str) -> None:
    first = pinstripe.open(path, "wb")
    write(path, b"meanwhile" * STRIPE)
    first.write(b"last")
    first.close()
    assert read(path) == b"last"


def test_exclusive_refuses_to_open_beside_a_live_writer(path: str) -> None:
    with pinstripe.open(path, "r+b"), pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
        pinstripe.open(path, "r+b", exclusive=True)
    with pinstripe.open(path, "r+b", exclusive=True) as file:
        file.write(b"alone")
    assert read(path)[:5] == b"alone"


def test_a_file_that_was_removed_meanwhile_is_not_made_again(small: Store, path: str) -> None:
    file = pinstripe.open(path, "r+b", buffering=0)
    file.pwrite(b"x" * STRIPE, 0)
    pinstripe.remove(path)
    with pytest.raises(OSError, match="removed"):
        file.close()
    assert not pinstripe.exists(path)
    collect_store(small)
    assert not segments_of(small)


def test_a_file_that_was_renamed_meanwhile_is_written_under_its_new_name(path: str) -> None:
    file = pinstripe.open(path, "r+b", buffering=0)
    file.pwrite(b"moved", 0)
    pinstripe.rename(path, path + "-new")
    file.close()
    assert read(path + "-new")[:5] == b"moved"
    assert not pinstripe.exists(path)


def test_four_processes_write_their_own_ranges(path: str) -> None:
    program = """
import sys, pinstripe
path, k, stripe = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for step in range(3):
    with pinstripe.open(path, "r+b", buffering=0, retries=50, durability="none") as file:
        file.pwrite(bytes([16 * k + step]) * (stripe // 2), k * stripe + 1000)
"""
    jobs = [subprocess.Popen([sys.executable, "-c", program, path, str(k), str(STRIPE)]) for k in range(4)]
    assert [job.wait(60) for job in jobs] == [0] * 4
    whole = read(path)
    for k in range(4):
        assert whole[k * STRIPE + 1000 :][: STRIPE // 2] == bytes([16 * k + 2]) * (STRIPE // 2)


def test_readers_beside_a_writer_see_one_generation_each(small: Store) -> None:
    path = os.path.join(small.root, "numbers")
    write(path, np.zeros(3 * STRIPE // 8, np.int64).tobytes())
    program = """
import sys, time, numpy as np, pinstripe
path, seen, until = sys.argv[1], [], time.monotonic() + 4
while time.monotonic() < until:
    with pinstripe.open(path, "rb", buffering=0) as file:
        values = np.unique(np.frombuffer(file.read(), np.int64))
    assert len(values) == 1, values
    seen.append(int(values[0]))
assert seen == sorted(seen), "an older generation after a newer one"
assert seen[-1] > seen[0]
"""
    readers = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(2)]
    number = 0
    while any(reader.poll() is None for reader in readers):
        number += 1
        with pinstripe.open(path, "wb", durability="none", grace_s=0.0) as file:
            file.write(np.full(3 * STRIPE // 8, number, np.int64))
    assert [reader.returncode for reader in readers] == [0, 0]


@pytest.mark.parametrize("mode", ["wb", "xb", "r+b"])
def test_what_a_killed_writer_left_is_collected_and_a_live_ones_is_not(small: Store, path: str, mode: str) -> None:
    name = path if mode == "r+b" else path + "-new"
    before = set(segments_of(small))
    program = """
import sys, time, os, pinstripe
file = pinstripe.open(sys.argv[1], sys.argv[2], buffering=0)
file.write(os.urandom(400_000))
print("written", flush=True)
time.sleep(60)
"""
    job = subprocess.Popen([sys.executable, "-c", program, name, mode], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "written\n"
    during = set(segments_of(small))
    assert during > before
    collect_store(small)
    assert set(segments_of(small)) == during
    job.send_signal(signal.SIGKILL)
    job.wait()
    job.stdout.close()
    time.sleep(0.05)
    collect_store(small)
    assert set(segments_of(small)) == before
    assert read(path) == BASE
    assert pinstripe.exists(path + "-new") is False
