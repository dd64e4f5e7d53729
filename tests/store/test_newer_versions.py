"""What a newer version wrote: read where that is safe, refused by name where not, never collected or lost by mistake."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest

import pinstripe
from pinstripe import Store, UnsupportedError
from pinstripe.format.manifest import HEADER_BYTES, Header, Section, decode_tables, encode_tables
from pinstripe.kernels import crc64
from pinstripe.store.collect import collect_store
from pinstripe.store.generation import Generation
from pinstripe.store.opening import open_session

from .files import LARGE, STRIPE, read, segments_of, write

TAGS = Section(9, b"tags", carry=True)
HINT = Section(8, b"hint")
PARITY = Section(7, b"parity", must_understand=True)


def manifest(store: Store) -> Path:
    """The file of the only generation in the store."""
    (found,) = (path for path in Path(store.meta).glob("files/*/*/*") if path.name.isdecimal())
    return found


def put_sections(store: Store, *sections: Section) -> None:
    """Give the only manifest of the store sections, as a newer version could have written them."""
    path = manifest(store)
    data = path.read_bytes()
    header = Header.decode(data)
    segments, directory, none = decode_tables(data[HEADER_BYTES:], header)
    assert none == ()
    longer = sum(len(section.encode()) for section in sections)
    directory = directory.copy()
    directory["offset"] += np.where(directory["offset"] != 0, longer, 0).astype("u8")
    tables = encode_tables(segments, directory, sections)
    header = dataclasses.replace(header, sections_bytes=longer, tables_crc=crc64(tables))
    pages = data[HEADER_BYTES + len(tables) - longer :]
    path.unlink()
    path.write_bytes(header.encode() + tables + pages)


def head(path: str) -> Generation:
    session = open_session(path, "r")
    session.close()
    return session.base


def test_sections_that_nobody_needs_to_understand_are_read_past_and_the_carried_ones_outlive_a_commit(
    small: Store, at: str
) -> None:
    write(at, LARGE)
    put_sections(small, TAGS, HINT)
    assert read(at) == LARGE
    assert head(at).sections == (TAGS, HINT)
    with pinstripe.open(at, "r+b") as file:
        file.seek(2 * STRIPE)
        file.write(b"changed")
    assert read(at) == LARGE[: 2 * STRIPE] + b"changed" + LARGE[2 * STRIPE + 7 :]
    assert head(at).sections == (TAGS,)


@pytest.mark.parametrize("mode", ["rb", "r+b", "ab"])
def test_a_section_that_must_be_understood_refuses_the_file_by_name(small: Store, at: str, mode: str) -> None:
    write(at, LARGE)
    put_sections(small, PARITY)
    with pytest.raises(UnsupportedError, match="section of kind 7") as caught:
        pinstripe.open(at, mode)
    assert caught.value.filename is not None
    assert os.path.dirname(caught.value.filename) in (os.path.dirname(at), str(manifest(small).parent))


def test_nothing_that_a_newer_manifest_may_name_is_collected(
    small: Store, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(at, LARGE)
    put_sections(small, PARITY)
    before = sorted(path for target in small.targets for path in Path(target.path).rglob("*"))
    collect_store(small, full=True)
    assert "nothing of" in caplog.text
    assert "section of kind 7" in caplog.text
    assert sorted(path for target in small.targets for path in Path(target.path).rglob("*")) == before


def test_a_store_with_a_feature_that_lets_read_only_is_read_and_not_written(small: Store, at: str) -> None:
    write(at, LARGE)
    small.revise(lambda block: dataclasses.replace(block, read_only_compatible=("quota",)))
    assert read(at) == LARGE
    for attempt in (
        lambda: write(at, b"new"),
        lambda: write(f"{at}-new", b"new"),
        lambda: pinstripe.rename(at, f"{at}-new"),
        lambda: pinstripe.remove(at),
    ):
        with pytest.raises(UnsupportedError, match="uses quota, which this pinstripe can only read") as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    os.unlink(at)  # behind our back: even so nothing is collected by who does not know how
    assert collect_store(small).files == 0
    assert len(segments_of(small)) > 0
