"""stat and cat."""

import os

import pytest

import pinstripe
from pinstripe.kernels import crc64
from pinstripe.store.store import Store

from .conftest import Run, Write


def test_stat_tells_all_that_is_known_of_a_file(run: Run, store: Store, write: Write) -> None:
    data = os.urandom(3 << 20) + b"text " * 400_000
    run("cp", str(write("data", data)), "s/file")
    with pinstripe.open("s/file", "r+b") as file:
        file.truncate(9 << 20)
    data = data.ljust(9 << 20, b"\0")
    found = run.json("stat", "s/file")
    assert found["size"] == len(data)
    assert found["generation"] == 2
    assert found["crc64nvme"] == f"{crc64(data):016x}"
    assert found["stripes"] == 9
    assert found["holes"] == 4
    assert set(found["codecs"]) == {"raw", "lz4", "shuffled", "zero"}
    assert found["codecs"]["raw"] >= 48
    assert found["layout"]["stripe_bytes"] == 1 << 20
    assert sum(held["frames"] for held in found["targets"]) == 5
    assert sum(held["bytes"] for held in found["targets"]) == found["stored_bytes"]
    text = run("stat", "s/file")
    assert found["crc64nvme"] in text
    assert "Ratio: " in text


def test_stat_of_an_inline_and_of_an_empty_file(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", b"hello")), "s/small")
    found = run.json("stat", "s/small")
    assert (found["inline"], found["generation"], found["stripes"]) == (True, 0, 0)
    assert found["crc64nvme"] == f"{crc64(b'hello'):016x}"
    run("setstripe", "s/empty")
    assert run.json("stat", "s/empty")["size"] == 0


def test_stat_of_directories_links_and_several(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "s/a")
    pinstripe.symlink("a", "s/link")
    found = run.json("stat", "s/a", "s/link")
    assert [item["type"] for item in found] == ["directory", "symlink"]
    assert found[0]["layout"]["codec"] == "auto"
    assert "s/link -> a" in run("stat", "s/link")
    assert "No such file" in run.fails("stat", "s/missing")


@pytest.mark.parametrize("size", [0, 5, 100_000, 20 << 20])
def test_cat_gives_the_bytes(run: Run, store: Store, write: Write, size: int) -> None:
    data = os.urandom(size)
    run("cp", str(write("data", data)), "s/file")
    assert run.result("cat", "s/file", "s/file").stdout_bytes == data * 2


def test_cat_gives_an_older_generation(run: Run, store: Store) -> None:
    for word in (b"first", b"second"):
        with pinstripe.open("s/file", "wb", inline_bytes=0) as file:
            file.write(word)
    assert run("cat", "s/file") == "second"
    assert run("cat", "--generation", "1", "s/file") == "first"
    assert run("cat", "--generation", "durable", "s/file") == "second"
    assert "7" in run.fails("cat", "--generation", "7", "s/file")
    run.fails("cat", "--generation", "x", "s/file", code=2)
