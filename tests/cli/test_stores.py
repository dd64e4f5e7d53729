"""create, destroy, gc, adopt."""

import os
import shutil
from pathlib import Path

import pytest

import pinstripe
from pinstripe.store.store import Store

from .conftest import Run, Write


def test_create_makes_a_store_with_the_options_given(run: Run, tmp_path: Path) -> None:
    done = run.json(
        "create", "s", "--target", "t0,pool=ssd", "--target", "t1,scope=node", "-S", "4M", "-c", "1", "--block-size", "128K",
        "--codec", "lz4", "-p", "ssd", "--mode", "2775",
    )  # fmt: skip
    assert done["store"] == str(tmp_path / "s")
    store = Store("s")
    assert store.id.hex() == done["id"]
    layout = store.layout
    assert (layout.stripe_bytes, layout.stripe_count, layout.block_bytes) == (4 << 20, 1, 128 << 10)
    assert (layout.codec, layout.pool) == ("lz4", "ssd")
    assert [(target.pool, target.scope) for target in store.targets] == [("ssd", "shared"), (None, "node")]
    assert os.stat("s").st_mode & 0o7777 == 0o2775


def test_create_says_when_a_target_is_volatile(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinstripe.store.filesystem.filesystem_type", lambda path: "tmpfs")
    assert "gone after a power cut" in run("create", str(tmp_path / "s"), "--target", str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("args", "match", "code"),
    [
        (["s", "--target", "t9"], "is a store already", 1),
        (["s/inner", "--target", "t9"], "do not nest", 1),
        (["s2", "--target", "t0"], "belongs to a store already", 1),
        (["s2", "--target", "a/b/c"], "parent directory does not exist", 1),
        (["s2", "--target", "t9,scope=rack"], "choose one of shared, node", 2),
        (["s2", "--target", "t9", "--mode", "9"], "is not a mode", 2),
        (["s2", "--target", "t9", "-S", "3M"], "power of two", 2),
    ],
)
def test_create_refuses_with_the_reason(run: Run, store: Store, args: list[str], match: str, code: int) -> None:
    assert match in run.fails("create", *args, code=code)
    assert not os.path.exists("t9")
    assert not os.path.exists("s2")


def test_destroy_asks_and_names_what_goes(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", os.urandom(100_000))), "s/")
    result = run.result("destroy", "s", input="n\n")
    assert result.exit_code != 0
    for target in store.targets:
        assert target.path in result.output
    assert "1 file," in result.output
    assert Path("s/data").exists()


def test_destroy_deletes_a_store_and_leaves_what_is_not_the_stores(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "-p", "s/a/b")
    run("cp", str(write("data", os.urandom(100_000))), "s/a/b/")
    run("setstripe", "-c", "1", "s/a")
    write("s/a/notes.txt")
    write("t0/notes.txt")
    out = run("destroy", "s", "--yes")
    assert "s/a/notes.txt" in out
    assert "t0/notes.txt" in out
    assert sorted(str(path) for path in Path().rglob("*")) == [
        "data",
        "s",
        "s/a",
        "s/a/notes.txt",
        "t0",
        "t0/notes.txt",
    ]


def test_a_destroyed_store_can_be_made_again_on_the_same_targets(run: Run, store: Store) -> None:
    run("destroy", "s", "--yes")
    assert sorted(os.listdir()) == []
    run("create", "s", "--target", "t0", "--target", "t1")


def test_destroying_a_copy_leaves_the_originals_data(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", os.urandom(100_000))), "s/")
    shutil.copytree("s", "copy")
    assert "which is missing or the original store uses" in run("destroy", "copy", "--yes")
    assert run("verify", "s").startswith("good: 1 file")


def test_gc_tells_what_it_freed(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", os.urandom(100_000))), "s/x")
    with pinstripe.open("s/x", "wb") as file:
        file.write(os.urandom(100_000))
    assert run.json("gc", "s", "--grace", "0")["generations"] == 1
    assert run("gc", "s", "--grace", "0").startswith("freed 0 segments")
    # A name that was removed behind the store's back.
    os.unlink("s/x")
    assert run.json("gc", "s")["files"] == 1


class TestAdopt:
    def test_a_whole_name_stays_as_it_is(self, run: Run, store: Store, write: Write) -> None:
        run("cp", str(write("data", os.urandom(100_000))), "s/x")
        assert run("adopt", "s/x") == "whole: s/x\n"

    def test_a_copy_beside_its_original_becomes_a_file_of_its_own(self, run: Run, store: Store, write: Write) -> None:
        data = os.urandom(3_000_000)
        run("cp", str(write("data", data)), "s/x")
        shutil.copy2("s/x", "s/y")
        os.chmod("s/y", 0o640)
        assert "pinstripe adopt" in run.fails("stat", "s/y")
        assert run("adopt", "s/y") == "copied: s/y\n"
        with pinstripe.open("s/y", "rb") as file:
            assert file.read() == data
        assert pinstripe.stat("s/y").st_mode & 0o777 == 0o640
        assert run.json("stat", "s/y")["id"] != run.json("stat", "s/x")["id"]
        assert sorted(pinstripe.listdir("s")) == ["x", "y"]
        assert run("verify", "s").startswith("good: 2 files")

    def test_a_copy_whose_original_is_gone_is_linked(self, run: Run, store: Store, write: Write) -> None:
        data = os.urandom(100_000)
        run("cp", str(write("data", data)), "s/x")
        shutil.copy2("s/x", "s/y")
        os.unlink("s/x")
        assert run("adopt", "s/y") == "linked: s/y\n"
        with pinstripe.open("s/y", "rb") as file:
            assert file.read() == data
        run("gc", "s")
        assert run("verify", "s").startswith("good: 1 file")

    def test_a_copied_store_is_adopted_whole(self, run: Run, store: Store, write: Write, tmp_path: Path) -> None:
        contents = {"a": os.urandom(100_000), "b": b"small", "dir/c": os.urandom(2_000_000)}
        run("mkdir", "s/dir")
        for name, data in contents.items():
            run("cp", str(write("data", data)), f"s/{name}")
        shutil.copytree("s", "copy", symlinks=True)
        os.rename("s", "gone")  # it must not be used any more
        assert "read-only until" in run.fails("rm", "copy/b")
        run("adopt", "copy", "--yes")
        for name, data in contents.items():
            with pinstripe.open(f"copy/{name}", "rb") as file:
                assert file.read() == data
        run("gc", "copy", "--grace", "0")
        assert run("verify", "copy").startswith("good: 3 files")
        run("rm", "copy/b")

    def test_a_file_whose_generations_are_elsewhere_is_damage(self, run: Run, store: Store, write: Write) -> None:
        run("cp", str(write("data", os.urandom(100_000))), "s/x")
        run("create", "other", "--target", "t9")
        shutil.copy2("s/x", "other/x")
        assert "generations are not in this store" in run.fails("adopt", "other/x", code=4)
