"""Somebody else's directories: what another user made to read along, or to take a file over, is not used."""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.inode_file import read_inode
from pinstripe.store.store import Store

from .users import as_user

codecs.lookup("ascii")  # the interpreter's own files may be root's alone: what a child needs is loaded before

ALICE, BOB, TEAM = 41001, 41002, 41900
LARGE = os.urandom(300_000)


@pytest.fixture
def top() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pinstripe-foreign-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def store(top: Path) -> Store:
    """One where everybody may make files, as in /tmp."""
    return pinstripe.create(top / "s", [top / "a", top / "b"], stripe_bytes=1 << 16, mode=0o1777)


def write(path: str, data: bytes, mode: int | None = None) -> Callable[[], None]:
    def act() -> None:
        with pinstripe.open(path, "wb", buffering=0) as file:
            file.write(data)
        if mode is not None:
            pinstripe.chmod(path, mode)

    return act


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return bytes(file.read())


def made_by(uid: int, directory: str, mode: int) -> None:
    """Make a directory, and those above it, as their finder would see them."""
    parent = os.path.dirname(directory)
    if not os.path.isdir(parent):
        os.mkdir(parent)
        os.chmod(parent, 0o1733)
    os.mkdir(directory)
    os.chmod(directory, mode)
    os.chown(directory, uid, uid)


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_a_generations_directory_that_another_user_made_is_refused(store: Store, mode: int) -> None:
    path = f"{store.root}/file"
    as_user(ALICE, write(path, b"small and inline"))
    directory = store.file_directory(read_inode(path)[0].file_id)
    made_by(BOB, directory, mode)

    def act() -> None:
        with pytest.raises(OSError, match=r"not used|Permission denied") as raised:
            write(path, LARGE)()
        assert raised.value.errno in (1, 13)

    as_user(ALICE, act)
    assert os.listdir(directory) == []
    os.rmdir(directory)
    as_user(ALICE, write(path, LARGE))
    assert read(path) == LARGE


@pytest.mark.parametrize("both", [False, True])
def test_a_targets_directory_that_another_user_made_is_passed_over_or_refused(
    top: Path, store: Store, both: bool
) -> None:
    path = f"{store.root}/file"
    as_user(ALICE, write(path, b"small and inline"))
    name = read_inode(path)[0].file_id.hex()
    foreign = [f"{top}/{target}/{name[:2]}/{name}" for target in (("a", "b") if both else ("a",))]
    for directory in foreign:
        made_by(BOB, directory, 0o777)

    def refused() -> None:
        with pytest.raises(pinstripe.TargetError, match="no target can take the data"):
            write(path, LARGE)()

    as_user(ALICE, refused if both else write(path, LARGE))
    assert read(path) == (b"small and inline" if both else LARGE)
    assert not any(os.listdir(directory) for directory in foreign)


def test_a_private_file_is_read_by_nobody_else_in_any_of_its_places(top: Path, store: Store) -> None:
    path = f"{store.root}/file"
    as_user(ALICE, write(path, LARGE, 0o600))
    name = read_inode(path)[0].file_id.hex()
    places = [path, store.file_directory(bytes.fromhex(name)), *(f"{top}/{t}/{name[:2]}/{name}" for t in "ab")]

    def act() -> None:
        for place in places:
            with pytest.raises(PermissionError):
                os.listdir(place) if os.path.isdir(place) else read(place)
            for inside in ("1", "inode"):
                with pytest.raises((PermissionError, NotADirectoryError)):
                    open(f"{place}/{inside}", "rb").close()
        with pytest.raises(PermissionError):
            pinstripe.open(path, "r+b")
        with pytest.raises(PermissionError):
            pinstripe.remove(path)
        for parent in {os.path.dirname(place) for place in places[1:]}:
            with pytest.raises(PermissionError):
                os.listdir(parent)

    as_user(BOB, act)
    assert read(path) == LARGE


def test_a_group_writable_file_is_written_by_turns(top: Path) -> None:
    shared = top / "shared"
    shared.mkdir()
    os.chown(shared, -1, TEAM)
    shared.chmod(0o2775)
    store = pinstripe.create(shared / "s", [shared / "a", shared / "b"], stripe_bytes=1 << 16, mode=0o2775)
    path = f"{store.root}/file"
    as_user(ALICE, write(path, LARGE, 0o664), (TEAM,))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o664
    for k, user in enumerate((BOB, ALICE, BOB)):

        def change(k: int = k) -> None:
            with pinstripe.open(path, "r+b", buffering=0) as file:
                file.pwrite(b"turn %d" % k, 100_000 * k)

        as_user(user, change, (TEAM,))
    expected = bytearray(LARGE)
    for k in range(3):
        expected[100_000 * k : 100_000 * k + 6] = b"turn %d" % k
    assert read(path) == bytes(expected)

    def refused() -> None:
        with pytest.raises(PermissionError):
            pinstripe.open(path, "r+b")

    as_user(41003, refused)
