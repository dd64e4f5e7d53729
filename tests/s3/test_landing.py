"""Landing: what takes the place of something does so in one step, and is durable before."""

from __future__ import annotations

import os
from typing import Any

import pytest

import pinstripe
from pinstripe.errors import NamespaceError
from pinstripe.format.remote import Endpoint
from pinstripe.s3 import landing
from pinstripe.s3.landing import Landing
from pinstripe.s3.metadata import Defaults
from pinstripe.s3.restoring import stage_in
from pinstripe.store.store import Store

from .putting import put


def write(path: str, data: bytes) -> None:
    with pinstripe.open(path, "wb") as file:
        file.write(data)


def read(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("size", [100, 300_000])
def test_what_replaces_a_file_is_durable_before_what_it_held_is_freed(
    store: Store, client: Any, bucket: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    write(f"{store.root}/f", b"old" * 100_000)
    put(client, bucket, "f", b"n" * size)
    put(client, bucket, "new", b"n" * size)
    done: list[str] = []

    def follow(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            done.append(name)
            return real(*arguments, **more)

        monkeypatch.setattr(module, name, call)

    for name in ("sync_filesystem", "fsync_directory", "collect_removed"):
        follow(landing, name)
    rename = os.rename

    def rename_over(source: Any, destination: Any, **more: Any) -> None:
        if os.fspath(destination) == f"{store.root}/f":
            done.append("rename")
        rename(source, destination, **more)

    monkeypatch.setattr(os, "rename", rename_over)
    assert stage_in(f"s3://{bucket}", store.root, endpoint=endpoint, overwrite=True).files == 2
    assert done == ["sync_filesystem", "rename", "fsync_directory", "collect_removed"]
    assert read(f"{store.root}/f") == b"n" * size


def test_a_symlink_takes_the_place_of_a_file_or_leaves_it(store: Store) -> None:
    write(f"{store.root}/f", b"mine")
    landed = Landing(store.root, Defaults())
    for content in ("/etc/passwd", "../../x"):
        with pytest.raises(NamespaceError):
            landed.symlink("f", content, replace=True)
        assert read(f"{store.root}/f") == b"mine"
    with pytest.raises(FileExistsError):
        landed.symlink("f", "g")
    for content in ("g", "h"):
        landed.symlink("f", content, replace=True)
        assert os.readlink(f"{store.root}/f") == content
    os.unlink(f"{store.root}/f")
    os.mkdir(f"{store.root}/f")
    with pytest.raises(IsADirectoryError):
        landed.symlink("f", "g", replace=True)
    assert sorted(name for name in os.listdir(store.root) if name != ".pinstripe") == ["f"]
