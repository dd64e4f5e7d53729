"""df, du, target list, target prepare."""

import os
from pathlib import Path

import pytest

from pinstripe.store.store import Store

from .conftest import Run, Write


def test_df_looks_as_lustres(run: Run, store: Store) -> None:
    lines = run("df", "s").splitlines()
    assert lines[0].split() == ["UUID", "1K-blocks", "Used", "Available", "Use%", "Mounted", "on"]
    for index, target in enumerate(store.targets):
        fields = lines[1 + index].split()
        assert fields[0] == f"s-T{index:04d}"
        assert fields[5] == f"{target.path}[T:{index}]"
        seen = os.statvfs(target.path)
        assert int(fields[1]) == seen.f_blocks * seen.f_frsize // 1024
    assert lines[-1].startswith("filesystem_summary:")


def test_a_file_system_that_targets_share_counts_once(run: Run, store: Store) -> None:
    lines = run("df", "s").splitlines()
    assert lines[-1].split()[1] == lines[1].split()[1]


def test_df_counts_inodes_and_sizes_for_people(run: Run, store: Store) -> None:
    assert run("df", "-i", "s").split()[:5] == ["UUID", "Inodes", "IUsed", "IFree", "IUse%"]
    assert "bytes" in run("df", "-h", "s").splitlines()[0]


def test_df_shows_a_pool_alone(run: Run, tmp_path: Path) -> None:
    run("create", "s", "--target", "a,pool=ssd", "--target", "b")
    assert [item["pool"] for item in run.json("df", "-p", "ssd", "s")["targets"]] == ["ssd"]


def test_a_missing_target_is_inactive(run: Run, store: Store) -> None:
    os.rename("t1", "away")
    Store.find("s").reload()
    assert "s-T0001              : inactive target" in run("df", "s")
    found = run.json("target", "list", "s")
    assert [bool(item["missing"]) for item in found] == [False, True, False]
    assert "missing" in run("target", "list", "s")


def test_a_target_in_memory_is_marked(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinstripe.cli.space.is_volatile", lambda path: path.endswith("t2"))
    lines = run("df", "s").splitlines()
    assert [line.endswith(" V") for line in lines[1:4]] == [False, False, True]


def test_du_sums_stored_and_logical_bytes(run: Run, store: Store, write: Write) -> None:
    run("mkdir", "-p", "s/a/b")
    run("cp", str(write("data", b"text " * 200_000)), "s/a/b/text")
    run("cp", str(write("data", os.urandom(100_000))), "s/a/random")
    found = {item["path"]: item for item in run.json("du", "s")}
    assert found["s"]["size"] == found["s/a"]["size"] == 1_100_000
    assert found["s/a/b"]["size"] == 1_000_000
    assert found["s/a/b"]["stored_bytes"] < 100_000
    assert found["s"]["files"] == 2
    assert [item["path"] for item in run.json("du", "-s", "s/a", "s/a/random")] == ["s/a", "s/a/random"]
    assert run("du", "-sh", "s").split()[:4] == ["STORED", "SIZE", "RATIO", "PATH"]


def test_targets_are_listed(run: Run, store: Store) -> None:
    found = run.json("target", "list", "s")
    assert [item["path"] for item in found] == [target.path for target in store.targets]
    assert {"id", "scope", "pool", "state", "total", "free", "filesystem"} <= set(found[0])
    assert run("target", "list", "s").splitlines()[0].split() == ["T", "ID", "SCOPE", "POOL", "STATE", "FREE", "PATH"]


def test_prepare_makes_a_nodes_own_directory_and_no_other(run: Run, tmp_path: Path) -> None:
    run("create", "s", "--target", "local,scope=node", "--target", "shared")
    store = Store("s")
    # What another node sees: its own disk is empty.
    os.rename("local", "first-nodes")
    os.rename("shared", "away")
    Store.find("s").reload()
    assert f"made {tmp_path}/local" in run("target", "prepare", "s")
    store.reload()
    assert [entry.path for entry in store.missing] == ["../shared"]
    assert store.targets[0].id == store.superblock.targets[0].id
    assert run("target", "prepare", "s") == ""
