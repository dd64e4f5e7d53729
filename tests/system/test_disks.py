"""Real file systems on loop devices: the power goes, the disk turns out to be full at the sync."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.collect import collect_store
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

MIB = 1 << 20
SHUTDOWN = 0x8004587D  # XFS_IOC_GOINGDOWN, which ext4 has too: _IOR('X', 125, __u32)
WITHOUT_LOG = 2  # nothing that is not on the disk gets there any more

# Commits versions until it is killed; says each before it is begun and after it returned.
WRITER = """
import random, sys, pinstripe
path, first = sys.argv[1], int(sys.argv[2])
for version in range(first, first + 10_000):
    chance = random.Random(version)
    word = "none" if version % 3 == 1 else "full"
    print("begun", version, word, flush=True)
    with pinstripe.open(path, "wb", durability=word, grace_s=0) as file:
        file.write(chance.randbytes(200_000 if version % 5 else 900))
    print("done", version, word, flush=True)
"""


def content(version: int) -> bytes:
    return random.Random(version).randbytes(200_000 if version % 5 else 900)


class Disk:
    """A file system in a file, mounted through a loop device."""

    def __init__(self, kind: str, image: Path, place: Path) -> None:
        self.image, self.place = image, place
        with open(image, "wb") as file:
            file.truncate(320 * MIB)
        make = ["mkfs.ext4", "-q", "-F"] if kind == "ext4" else ["mkfs.xfs", "-q"]
        subprocess.run([*make, str(image)], check=True)
        place.mkdir()
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.place)], check=True)

    def unmount(self) -> None:
        for _ in range(50):
            if subprocess.run(["umount", str(self.place)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(["umount", str(self.place)], check=True)

    def cut_power(self) -> None:
        """Stop every write to the disk, at once."""
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(fd)


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    made = Disk(request.param, tmp_path / "image", tmp_path / "disk")
    yield made
    made.unmount()


def run_until_cut(disk: Disk, path: str, first: int, after_s: float) -> list[tuple[str, int, str]]:
    """Let a writer commit for a while, cut the power, and give what it said."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, str(first)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert writer.stdout is not None
    said = [writer.stdout.readline(), writer.stdout.readline()]  # once it has begun in earnest
    time.sleep(after_s)
    disk.cut_power()
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    words = [line.split() for line in said if line.endswith("\n")]
    return [(word, int(version), durability) for word, version, durability in words]


@pytest.mark.timeout(300)
def test_durable_commits_are_there_after_the_power_went(disk: Disk) -> None:
    chance = random.Random(5)
    pinstripe.create(disk.place / "store", [disk.place / "a", disk.place / "b"], stripe_bytes=1 << 16)
    path = str(disk.place / "store/file")
    version = durable = 0
    acknowledged = 0
    for _ in range(6):
        said = run_until_cut(disk, path, version + 1, chance.uniform(0.05, 0.6))
        acknowledged += sum(word == "done" for word, _, _ in said)
        durable = max([v for word, v, how in said if word == "done" and how == "full"], default=durable)
        version = max(v for _, v, _ in said)
        disk.unmount()
        disk.mount()
        expected = {content(v): v for v in range(durable, version + 1)} if durable else {}
        said_so = "generation="
        try:
            with pinstripe.open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            assert not durable
            continue
        except pinstripe.DamageError as error:
            # The head was not durable: the newest durable one is named, and is there.
            said_so = str(error)
            with pinstripe.open(path, "rb", generation="durable") as file:
                data = file.read()
        else:
            assert verify(Store.find(disk.place / "store"), path).good
        assert "generation=" in said_so
        assert data in expected, f"neither version {durable} nor a later one"
        collect_store(Store.find(disk.place / "store"), grace_s=0.0)
    assert acknowledged > 20


@pytest.mark.timeout(300)
def test_a_renamed_and_a_removed_file_stay_so_after_the_power_went(disk: Disk) -> None:
    top = disk.place / "store"
    pinstripe.create(top, [disk.place / "a"], stripe_bytes=1 << 16)
    for name, version in (("one", 1), ("two", 2), ("three", 3), ("four", 4)):
        with pinstripe.open(top / name, "wb", durability="none") as file:
            file.write(content(version))
    pinstripe.mkdir(top / "below")
    pinstripe.rename(top / "one", top / "two")
    pinstripe.rename(top / "three", top / "below/three")
    pinstripe.remove(top / "four")
    disk.cut_power()
    disk.unmount()
    disk.mount()
    assert sorted(pinstripe.listdir(top)) == ["below", "two"]
    with pinstripe.open(top / "two", "rb") as file:
        assert file.read() == content(1)  # a file that replaces another is made durable first
    assert pinstripe.listdir(top / "below") == ["three"]


@contextlib.contextmanager
def thin_disk(tmp_path: Path, really: str) -> Iterator[Path]:
    """A disk of 256 MB on a disk that has less: what is written is taken, and found out to have no room at the sync."""
    small, place = tmp_path / "small", tmp_path / "thin"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={really}", "tmpfs", str(small)], check=True)
    try:
        disk = Disk("ext4", small / "image", place)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(disk.place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_disk_that_is_full_only_at_the_sync_is_left_and_its_frames_are_written_elsewhere(tmp_path: Path) -> None:
    with thin_disk(tmp_path, "24m") as thin:
        pinstripe.create(tmp_path / "store", [thin / "t", tmp_path / "good"])
        data = random.Random(1).randbytes(80 * MIB)
        path = tmp_path / "store/file"
        with pinstripe.open(path, "wb", buffering=0) as file:
            file.write(data)
            session = file.session
        left = session.counters.left
        assert list(left) == [str(thin / "t")], left
        with pinstripe.open(path, "rb") as file:
            assert file.read() == data
            used = {bytes(e["target"]) for e in file.session.base.segments if e["live_frames"]}
        store = Store.find(path)
        assert used == {store.targets[1].id}
        assert verify(store, path).good
