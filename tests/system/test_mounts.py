"""What needs root: a store on a read-only mount, and targets that are really full."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.collect import collect_store
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

MIB = 1 << 20
Mount = Callable[[str, str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Make tmpfs mounts by name and options; they are gone after the test."""
    made: list[Path] = []

    def make(name: str, options: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        made.append(place)
        return place

    yield make
    for place in reversed(made):
        subprocess.run(["umount", "-l", str(place)], check=True)


def entries(place: Path) -> dict[str, tuple[int, int, int]]:
    """Every name below, with what would show that it was touched."""
    seen = {}
    for path in sorted(place.rglob("*")):
        stat = path.lstat()
        seen[str(path)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return seen


def test_reading_works_on_a_read_only_mount_and_creates_nothing(mount: Mount) -> None:
    place = mount("disk", "size=64m")
    pinstripe.create(place / "store", [str(place / "t0"), str(place / "t1")])
    large, small = os.urandom(3 * MIB), b"small"
    for name, data in (("large", large), ("small", small)):
        with pinstripe.open(place / "store" / name, "wb") as file:
            file.write(data)
    pinstripe.mkdir(place / "store" / "directory")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    before = entries(place)
    for name, data in (("large", large), ("small", small)):
        with pinstripe.open(place / "store" / name, "rb") as file:
            assert file.read() == data
        assert pinstripe.stat(place / "store" / name).st_size == len(data)
    assert sorted(pinstripe.listdir(place / "store")) == ["directory", "large", "small"]
    for words in (["ls", "-lR"], ["verify"], ["getstripe"], ["df"]):
        subprocess.run(
            [sys.executable, "-m", "pinstripe", words[0], *words[1:], str(place / "store")], check=True, timeout=60
        )
    for mode in ("wb", "r+b", "ab", "xb"):
        name = "new" if mode == "xb" else "large"
        with pytest.raises(OSError, match="Read-only") as caught:
            pinstripe.open(place / "store" / name, mode).close()
        assert caught.value.errno == errno.EROFS
    assert entries(place) == before


def test_a_target_that_is_really_full_is_passed_over(mount: Mount, tmp_path: Path) -> None:
    full, roomy = mount("full", "size=3m"), mount("roomy", "size=64m")
    pinstripe.create(tmp_path / "store", [str(full / "t"), str(roomy / "t")])
    data = os.urandom(20 * MIB)
    with pinstripe.open(tmp_path / "store" / "file", "wb") as file:
        file.write(data)
    assert str(full / "t") in file.session.counters.left
    with pinstripe.open(tmp_path / "store" / "file", "rb") as file:
        assert file.read() == data


def test_when_all_are_full_the_former_generation_stays_and_room_comes_back(mount: Mount, tmp_path: Path) -> None:
    targets = [mount(f"disk{k}", "size=4m") for k in range(2)]
    store = pinstripe.create(tmp_path / "store", [str(target / "t") for target in targets])
    path = tmp_path / "store" / "file"
    data = os.urandom(2 * MIB)
    with pinstripe.open(path, "wb") as file:
        file.write(data)
    file = pinstripe.open(path, "wb", buffering=0)
    with pytest.raises(pinstripe.TargetError, match="no target can take the data") as caught:
        file.write(os.urandom(20 * MIB))
    with pytest.raises(OSError, match="nothing was published"):
        file.close()
    assert caught.value.errno == errno.ENOSPC
    with pinstripe.open(path, "rb") as file:
        assert file.read() == data
    collect_store(store)
    for step in range(6):  # twelve times what there is room for: each overwrite frees what it replaces
        data = bytes([step]) + os.urandom(2 * MIB)
        with pinstripe.open(path, "wb") as file:
            file.write(data)
    with pinstripe.open(path, "rb") as file:
        assert file.read() == data
    assert not verify(Store.find(path), path).findings


def test_a_namespace_without_inodes_left_gives_a_clear_error_and_loses_nothing(mount: Mount, tmp_path: Path) -> None:
    names = mount("names", "size=16m,nr_inodes=400")
    pinstripe.create(names / "store", [str(tmp_path / "t")])
    made: list[int] = []

    def make_until_full() -> None:
        for k in range(400):
            with pinstripe.open(names / "store" / f"f{k}", "wb") as file:
                file.write(b"x" * 100)
            made.append(k)

    with pytest.raises(OSError, match="No space") as caught:
        make_until_full()
    assert caught.value.errno == errno.ENOSPC
    assert made
    for k in made:
        with pinstripe.open(names / "store" / f"f{k}", "rb") as file:
            assert file.read() == b"x" * 100
    assert not pinstripe.exists(names / "store" / f"f{len(made)}")
