"""getstripe and setstripe, as Lustre's users know them."""

import os

import pytest

import pinstripe
from pinstripe.store.store import Store

from .conftest import Run, Write


def test_new_files_inherit_what_was_set_on_their_directory(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "s/a")
    run("setstripe", "-S", "4M", "-c", "2", "--codec", "raw", "s/a")
    run("cp", str(write("data", os.urandom(9 << 20))), "s/a/file")
    described = run.json("stat", "s/a/file")
    assert described["layout"] == {
        "stripe_bytes": 4 << 20, "stripe_count": 2, "block_bytes": 65536, "codec": "raw", "pool": None
    }  # fmt: skip
    assert len(described["targets"]) == 2


def test_options_not_given_are_inherited(run: Run, store: Store) -> None:
    run("mkdir", "-p", "s/a/b")
    run("setstripe", "-S", "4M", "s/a")
    run("setstripe", "-c", "2", "s/a/b")
    assert pinstripe.open  # the package is whole
    found = run.json("getstripe", "-d", "s/a/b")[0]
    assert (found["stripe_size"], found["stripe_count"]) == (4 << 20, 2)
    run("setstripe", "-d", "s/a/b")
    assert run.json("getstripe", "-d", "s/a/b")[0]["stripe_count"] == -1


def test_a_new_file_is_made_empty_with_its_layout(run: Run, store: Store) -> None:
    run("setstripe", "-S", "2M", "-c", "1", "s/file")
    described = run.json("stat", "s/file")
    assert (described["size"], described["layout"]["stripe_bytes"]) == (0, 2 << 20)
    with pinstripe.open("s/file", "r+b") as file:
        file.write(os.urandom(5 << 20))
    described = run.json("stat", "s/file")
    assert described["stripes"] == 3
    assert len(described["targets"]) == 1


def test_an_existing_files_layout_is_fixed(run: Run, store: Store) -> None:
    run("setstripe", "s/file")
    assert "copy the file" in run.fails("setstripe", "-c", "1", "s/file")


def test_a_pool_must_have_a_target(run: Run, store: Store) -> None:
    assert "no target of the store" in run.fails("setstripe", "-p", "ssd", "s", code=2)
    assert "no target of the store" in run.fails("setstripe", "-p", "ssd", "s/file", code=2)
    run("setstripe", "-p", "none", "s")


def test_a_file_is_shown_as_lustre_shows_it(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", os.urandom(3 << 20))), "s/file")
    lines = run("getstripe", "s/file").splitlines()
    assert lines[0] == "s/file"
    assert "lmm_stripe_count:  3" in lines
    assert "lmm_stripe_size:   1048576" in lines
    assert "lmm_layout_gen:    1" in lines
    assert any(line.split()[:1] == ["obdidx"] for line in lines)
    assert run("getstripe", "-c", "s/file") == "3\n"
    assert run("getstripe", "-S", "s/file") == "1048576\n"
    assert run("getstripe", "-i", "s/file").strip() in ("0", "1", "2")


def test_a_directory_is_shown_on_one_line_before_its_files(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "-p", "s/a/b")
    run("cp", str(write("data")), "s/a/b/small")
    lines = run("getstripe", "s").splitlines()
    assert lines[1] == "stripe_count:  -1 stripe_size:   1048576 pattern:       raid0,compress stripe_offset: -1"
    assert [item["path"] for item in run.json("getstripe", "s")] == ["s", "s/a"]
    assert [item["path"] for item in run.json("getstripe", "-r", "s")] == ["s", "s/a", "s/a/b", "s/a/b/small"]
    assert [item["path"] for item in run.json("getstripe", "-d", "s")] == ["s"]
    assert run.json("getstripe", "s/a/b/small")[0]["pattern"] == "inline"


@pytest.mark.parametrize("args", [["-d", "-c", "1", "s"], ["-d", "s/new"], ["-S", "100", "s"], ["-c", "-2", "s"]])
def test_what_cannot_be_meant_is_refused(run: Run, store: Store, args: list[str]) -> None:
    run.fails("setstripe", *args, code=2)
    assert os.listdir("s") == [".pinstripe"]
