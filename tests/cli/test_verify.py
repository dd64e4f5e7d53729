"""verify: what is good, and what is not, and where."""

import dataclasses
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

from .conftest import Run, Write


@pytest.fixture
def file(run: Run, store: Store, write: Write) -> str:
    run("cp", str(write("data", os.urandom(6 << 20))), "s/file")
    return "s/file"


def change(path: Path, edit: Callable[[bytearray], object]) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    edit(data)
    path.write_bytes(data)


def segments() -> list[Path]:
    return sorted(path for path in Path().glob("t*/*/*/*") if not path.name.endswith(".manifest"))


def manifest(run: Run, path: str) -> Path:
    found = run.json("stat", path)
    return Path(f"s/.pinstripe/files/{found['id'][:2]}/{found['id']}/{found['generation']}")


def marks(top: str = ".") -> list[tuple[str, int, int]]:
    return sorted((str(p), os.lstat(p).st_mtime_ns, os.lstat(p).st_ino) for p in Path(top).rglob("*"))


def test_a_good_store_is_good_and_unchanged(run: Run, store: Store, file: str, write: Write) -> None:
    run("mkdir", "s/a")
    run("cp", str(write("small", b"x")), "s/a/")
    before = marks()
    assert run("verify", "s").startswith("good: 2 files, 6 frames, 6.0M")
    assert run("verify", "--quick", "s") == "good: 2 files\n"
    found = run.json("verify", "s/file")
    assert (found["good"], found["files"], found["frames"], found["bytes"]) == (True, 1, 6, 6 << 20)
    assert marks() == before


def test_every_damaged_stripe_is_named_with_its_place(run: Run, store: Store, file: str) -> None:
    for segment in segments():
        change(segment, lambda data: data.__setitem__(-10, data[-10] ^ 1))
    result = run.result("verify", "s")
    assert result.exit_code == 4
    assert "NOT GOOD" in result.stdout
    found = run.json("verify", "s", code=4)["findings"]
    assert len(found) == len(segments()) == 3
    for finding in found:
        assert finding["kind"] == "damage"
        assert finding["path"].endswith("s/file")
        assert finding["stripe"] >= 0
        assert finding["offset"] >= 0
        assert finding["segment"] in {segment.name for segment in segments()}
        assert finding["target"] in {target.path for target in store.targets}
    assert run("verify", "--quick", "s").startswith("good")


@pytest.mark.parametrize("offset", [0, 100, 4090, 4096, 4300, -1])
def test_a_damaged_manifest_is_told_even_where_its_copy_is_read(run: Run, store: Store, file: str, offset: int) -> None:
    change(manifest(run, file), lambda data: data.__setitem__(offset, data[offset] ^ 1))
    found = run.json("verify", "--quick", "s", code=4)["findings"]
    assert [finding["kind"] for finding in found][:1] == ["damage"]


def test_a_missing_segment_is_told(run: Run, store: Store, file: str) -> None:
    gone = segments()[0]
    gone.unlink()
    found = run.json("verify", "--quick", "s", code=4)["findings"]
    assert [(finding["kind"], finding["segment"]) for finding in found] == [("missing", gone.name)]


def test_a_segment_cut_short_is_told(run: Run, store: Store, file: str) -> None:
    change(segments()[0], lambda data: data.__delitem__(slice(-100, None)))
    found = run.json("verify", "--quick", "s", code=4)["findings"]
    assert [(finding["kind"], finding["segment"]) for finding in found] == [("damage", segments()[0].name)]


def test_a_missing_target_is_told_for_the_store_and_its_files(run: Run, store: Store, file: str) -> None:
    os.rename("t1", "away")
    Store.find("s").reload()
    found = run.json("verify", "--quick", "s", code=4)["findings"]
    assert {finding["kind"] for finding in found} == {"missing"}
    assert any(finding["path"].endswith("t1") for finding in found)
    assert any(finding["path"].endswith("s/file") for finding in found)


def test_a_damaged_inode_is_told(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("small", b"hello")), "s/small")
    change(Path("s/small"), lambda data: data.__setitem__(-1, 0))
    found = run.json("verify", "s", code=4)["findings"]
    assert [finding["kind"] for finding in found] == ["damage"]


def test_copies_and_foreign_files_are_told_but_harm_no_data(run: Run, store: Store, file: str) -> None:
    Path("s/copy").write_bytes(Path("s/file").read_bytes())
    Path("s/foreign").write_text("hello")
    found = run.json("verify", "s")["findings"]
    assert [finding["kind"] for finding in found] == ["copy", "foreign"]


def test_data_wider_open_than_its_name_is_told(run: Run, store: Store, file: str) -> None:
    os.chmod("s/file", 0o600)  # not `pinstripe chmod`
    found = run.json("verify", "--quick", "s")["findings"]
    assert {finding["kind"] for finding in found} == {"access"}
    run("chmod", "600", "s/file")
    assert run.json("verify", "--quick", "s")["findings"] == []


def test_a_damaged_superblock_is_told(run: Run, store: Store) -> None:
    store.revise(lambda block: dataclasses.replace(block, compatible=("x",)))
    change(Path("s/.pinstripe/superblock/2"), lambda data: data.__setitem__(5, 0))
    Store.find("s").reload()
    found = run.json("verify", "s", code=4)["findings"]
    assert [finding["path"] for finding in found] == [f"{store.root}/.pinstripe/superblock/2"]


def test_an_older_generation_can_be_verified(run: Run, store: Store, file: str) -> None:
    with pinstripe.open(file, "r+b") as opened:
        opened.write(b"changed")
    assert run("verify", "--generation", "1", file).startswith("good: 1 file, 6 frames")
    assert run("verify", file).startswith("good: 1 file, 6 frames")
    for segment in segments():
        if os.stat(segment).st_size < 1 << 20:
            continue
        change(segment, lambda data: data.__setitem__(-10, data[-10] ^ 1))
    run.json("verify", "--generation", "1", file, code=4)


def test_verify_tells_what_it_has_done(run: Run, store: Store, file: str) -> None:
    told: list[int] = []
    result = verify(store, "s", onprogress=told.append)
    assert sum(told) == result.bytes == 6 << 20


def test_a_missing_path_is_an_error(run: Run, store: Store) -> None:
    assert "No such file" in run.fails("verify", "s/missing")


def test_a_file_without_read_permission_is_an_error_to_who_is_not_root(run: Run, store: Store, file: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    os.chmod(file, stat.S_IWUSR)
    assert run.json("verify", "s", code=4)["findings"][0]["kind"] == "error"
