"""Several users on one store: what a name's mode hides, stays hidden. Root plays them all."""

import codecs
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store import namespace as ns
from pinstripe.store.collect import collect_store
from pinstripe.store.create import create
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

from .users import as_user

codecs.lookup("ascii")  # the interpreter's own files may be root's alone: what a child needs is loaded before

ALICE, BOB, TEAM = 41001, 41002, 41900


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user reaches; pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="pinstripe-users-"))
    path.chmod(0o755)
    monkeypatch.chdir(path)
    yield path
    monkeypatch.undo()
    shutil.rmtree(path)


def shared(mode: int) -> Store:
    os.mkdir("s")
    if mode & 0o2000:
        os.chown("s", -1, TEAM)
    os.chmod("s", mode)
    return create("s", [f"{os.getcwd()}/t0", f"{os.getcwd()}/t1"])


def put(path: str, data: bytes, mode: int | None = None) -> Callable[[], None]:
    def act() -> None:
        with pinstripe.open(path, "wb", inline_bytes=0) as file:
            file.write(data)
        if mode is not None:
            ns.chmod(path, mode)

    return act


def get(path: str, wanted: bytes) -> Callable[[], None]:
    def act() -> None:
        with pinstripe.open(path, "rb") as file:
            assert file.read() == wanted

    return act


def denied(act: Callable[[], object]) -> Callable[[], None]:
    def check() -> None:
        with pytest.raises(PermissionError):
            act()

    return check


def where(store: Store, path: str) -> list[str]:
    name = ns.read_inode(path)[0].file_id.hex()
    parents = [f"{store.meta}/files", *(target.path for target in store.targets)]
    return [f"{parent}/{name[:2]}/{name}" for parent in parents if os.path.exists(f"{parent}/{name[:2]}/{name}")]


def test_what_one_user_makes_others_read_if_its_mode_says_so(top: Path) -> None:
    store = shared(0o1777)
    as_user(ALICE, put("s/file", b"x" * 100_000))
    as_user(BOB, get("s/file", b"x" * 100_000))
    as_user(BOB, denied(put("s/file", b"y")))
    as_user(ALICE, get("s/file", b"x" * 100_000))
    for path in where(store, "s/file"):
        assert os.stat(path).st_uid == ALICE


def test_a_private_file_is_hidden_on_targets_too(top: Path) -> None:
    store = shared(0o1777)
    as_user(ALICE, put("s/file", b"x" * 100_000, 0o600))
    as_user(BOB, denied(get("s/file", b"")))
    held = where(store, "s/file")
    assert len(held) >= 2
    for path in held:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700

        def look(path: str = path) -> None:
            os.listdir(path)

        as_user(BOB, denied(look))


def test_ids_cannot_be_listed_by_others(top: Path) -> None:
    store = shared(0o1777)
    as_user(ALICE, put("s/file", b"x" * 100_000))
    for path in where(store, "s/file"):

        def look(path: str = os.path.dirname(path)) -> None:
            os.listdir(path)

        as_user(BOB, denied(look))
        as_user(ALICE, denied(look))


def test_in_a_sticky_directory_only_the_owner_removes(top: Path) -> None:
    store = shared(0o1777)
    as_user(ALICE, put("s/file", b"x" * 100_000))
    held = where(store, "s/file")
    as_user(BOB, denied(lambda: ns.remove("s/file")))
    as_user(BOB, put("s/bobs", b"y" * 100_000))
    as_user(BOB, denied(lambda: ns.replace("s/bobs", "s/file")))
    as_user(ALICE, get("s/file", b"x" * 100_000))
    as_user(ALICE, lambda: ns.remove("s/file"))
    assert not any(map(os.path.exists, held))


def test_a_group_shares_a_store(top: Path) -> None:
    store = shared(0o2775)
    as_user(ALICE, put("s/file", b"x" * 100_000, 0o664), (TEAM,))
    assert os.stat("s/file").st_gid == TEAM
    as_user(BOB, put("s/file", b"y" * 50_000), (TEAM,))
    as_user(ALICE, get("s/file", b"y" * 50_000), (TEAM,))
    as_user(41003, denied(put("s/file", b"z")))
    as_user(41003, denied(put("s/other", b"z")))
    for path in where(store, "s/file"):
        seen = os.stat(path)
        assert (stat.S_IMODE(seen.st_mode), seen.st_gid) == (0o775, TEAM)


def test_who_may_not_collect_leaves_it_to_the_owner(top: Path) -> None:
    store = shared(0o1777)
    os.mkdir("s/open")
    os.chmod("s/open", 0o777)  # not sticky: others may remove names
    as_user(ALICE, put("s/open/file", b"x" * 100_000))
    held = where(store, "s/open/file")
    as_user(BOB, lambda: ns.remove("s/open/file"))
    assert any(map(os.path.exists, held))
    collect_store(store)
    assert not any(map(os.path.exists, held))


def test_only_the_owner_changes_a_mode(top: Path) -> None:
    shared(0o1777)
    as_user(ALICE, put("s/file", b"x" * 100_000))
    as_user(BOB, denied(lambda: ns.chmod("s/file", 0o666)))
    assert stat.S_IMODE(os.stat("s/file").st_mode) == 0o644
    as_user(ALICE, lambda: ns.chmod("s/file", 0o640))


def test_a_read_only_user_looks_and_verifies(top: Path) -> None:
    store = shared(0o755)
    put("s/file", b"x" * 100_000)()

    def look() -> None:
        assert ns.stat("s/file").st_size == 100_000
        assert verify(store, "s").good

    as_user(BOB, look)
    as_user(BOB, denied(put("s/other", b"")))
