"""Frozen files of format version 1 decode for ever, and what they hold can be worked on with today's version."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import pinstripe
from pinstripe import NamespaceError, Store
from pinstripe.cli import cli
from pinstripe.format.inode import Inode
from pinstripe.format.manifest import (
    HEADER_BYTES,
    PAGE_RECORDS,
    RECORD,
    Header,
    State,
    check_page,
    decode_tables,
    encode_tables,
    page_records,
)
from pinstripe.format.segment import encode_header, parse_segment_name
from pinstripe.format.superblock import Superblock
from pinstripe.kernels import crc64, decode_part, scan_frames
from pinstripe.store.adopt import adopt_store
from pinstripe.store.collect import collect_store
from pinstripe.store.verify import verify
from pinstripe.testing import frame_oracle

from .contents import (
    BASE,
    BLOCK,
    CHANGED,
    FILES,
    KEPT,
    LOG,
    MODES,
    PART,
    PART_EXTENTS,
    PART_STRIPE,
    SPARSE,
    SPARSE_SIZE,
    STRIPE,
    SYMLINKS,
    noise,
    patched,
)

ARCHIVE = Path(__file__).with_name("version-1.tar.xz")
SHA256 = "2d8b623744362899eaaa32e8bacf5c1d221a4bb3a425aa432caeb82e577003cb"
GENERATIONS = {"changed": 3, "cut": 2, "kept": 2, "empty": 0, "inline": 0}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked; for tests that only read."""
    return unpack(tmp_path_factory.mktemp("frozen"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The same, adopted, so that it can be written."""
    opened = Store(unpack(tmp_path) / "store")
    assert list(adopt_store(opened)) == []  # tar keeps hard links, so every name is whole
    return opened


def unpack(directory: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="tar")
    return directory


def read(path: Path | str, **options: object) -> bytes:
    with pinstripe.open(str(path), "rb", **options) as file:
        return bytes(file.read())


def told_of(path: Path | str) -> dict[str, Any]:
    """What ``pinstripe stat --json`` says."""
    result = CliRunner().invoke(cli, ["stat", "--json", str(path)])
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def manifests(top: Path) -> list[Path]:
    return sorted(path for path in top.glob("store/.pinstripe/files/*/*/*") if path.name.isdecimal())


def segments(top: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(top.glob("target*/??/*/*.*.*")):
        yield path, path.read_bytes()


# --- the whole ----------------------------------------------------------------------------------------------------


def test_the_archive_was_never_made_again() -> None:
    assert hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("name", FILES)
def test_every_file_reads_as_it_was_written(frozen: Path, name: str) -> None:
    assert read(frozen / "store" / name) == FILES[name]


@pytest.mark.parametrize("name", FILES)
def test_what_is_told_of_every_file(frozen: Path, name: str) -> None:
    told = told_of(str(frozen / "store" / name))
    assert told["size"] == len(FILES[name])
    assert told["generation"] == GENERATIONS.get(name, 1)
    assert told["crc64nvme"] == f"{crc64(FILES[name]):016x}"


def test_holes_of_a_file_with_several_pages(frozen: Path) -> None:
    with pinstripe.open(str(frozen / "store/sparse"), "rb", 0) as file:
        assert pinstripe.stat(frozen / "store/sparse").st_size == SPARSE_SIZE > PAGE_RECORDS * STRIPE
        for offset, piece in SPARSE.items():
            assert file.pread(len(piece), offset) == piece
        assert not any(file.pread(STRIPE, 200 << 20))


def test_names_modes_and_symlinks(frozen: Path) -> None:
    root = frozen / "store"
    found = {
        str(Path(directory, name).relative_to(root))
        for directory, _, names in pinstripe.walk(str(root))
        for name in names
    }
    assert found == {*FILES, *SYMLINKS, "sparse"}
    for name, content in SYMLINKS.items():
        assert pinstripe.readlink(root / name) == content
    for name, mode in MODES.items():
        assert pinstripe.stat(root / name).st_mode & 0o777 == mode
    assert read(root / "numbers/up") == CHANGED


def test_older_generations_that_are_still_there(frozen: Path) -> None:
    path = frozen / "store/changed"
    assert read(path, generation=1) == LOG
    assert read(path, generation=2) == patched(LOG, 70_000, CHANGED[70_000:80_000])


def test_the_transaction_that_a_conflict_kept(frozen: Path) -> None:
    kept = json.loads((frozen / "kept.json").read_text())["transaction"]
    assert read(frozen / "store/kept", generation=kept) == KEPT


def test_everything_verifies(frozen: Path) -> None:
    found = verify(Store(frozen / "store"), frozen / "store")
    assert [finding for finding in found.findings if finding.is_fatal] == []
    assert found.files == len(FILES) + 1
    assert found.bytes > 500_000


def test_a_copy_is_not_written_before_it_is_adopted(frozen: Path) -> None:
    with pytest.raises(NamespaceError, match="adopt"):
        pinstripe.open(str(frozen / "store/log"), "wb")


# --- each structure, byte for byte --------------------------------------------------------------------------------


def test_the_superblock_encodes_to_the_same_bytes(frozen: Path) -> None:
    data = (frozen / "store/.pinstripe/superblock/1").read_bytes()
    superblock = Superblock.decode(data, 1)
    assert superblock.encode() == data
    assert [target.pool for target in superblock.targets] == [None, "wide", "wide"]


def test_inodes_encode_to_the_same_bytes(frozen: Path) -> None:
    kinds = set()
    for name in FILES:
        data = (frozen / "store" / name).read_bytes()
        inode = Inode.decode(data)
        kinds.add(inode.kind)
        assert inode.encode() == data
    assert kinds == {"inline", "generations"}


def test_manifests_encode_to_the_same_bytes(frozen: Path) -> None:
    pages = 0
    assert len(manifests(frozen)) > len(FILES)
    for path in manifests(frozen):
        data = path.read_bytes()
        header = Header.decode(data)
        assert header.state == State.WHOLE
        assert header.number == int(path.name)
        table, directory, sections = decode_tables(data[HEADER_BYTES:], header)
        assert sections == ()
        assert header.encode() + encode_tables(table, directory) == data[: HEADER_BYTES + header.tables_bytes]
        for number, entry in enumerate(directory):
            if entry["offset"]:
                count = page_records(number, header.stripes)
                check_page(data[int(entry["offset"]) :][: count * RECORD.itemsize], entry, count)
                pages += 1
    assert pages > len(FILES)


def test_segment_headers_encode_to_the_same_bytes(frozen: Path) -> None:
    count = 0
    for path, data in segments(frozen):
        assert data[:64] == encode_header(bytes.fromhex(path.parent.name), *parse_segment_name(path.name))
        count += 1
    assert count > 20


def test_every_codec_and_width_is_among_the_frames_and_plain_python_decodes_them(frozen: Path) -> None:
    blocks: set[tuple[int, int]] = set()
    raw_bytes = 0
    for path, data in segments(frozen):
        for offset, frame_bytes, *_ in scan_frames(data, 64):
            frame = frame_oracle.decode_frame(data[offset : offset + frame_bytes])
            assert frame.file_id == bytes.fromhex(path.parent.name)
            blocks.update(frame.blocks)
            raw_bytes += len(frame.raw)
    assert {codec for codec, _ in blocks} == {
        frame_oracle.RAW,
        frame_oracle.LZ4,
        frame_oracle.ZERO,
        frame_oracle.PLANES,
    }
    assert {width for codec, width in blocks if codec == frame_oracle.PLANES} == {2, 4, 8}
    assert raw_bytes > 1_000_000


def test_a_part_of_a_stripe(frozen: Path) -> None:
    data = (frozen / "part.frame").read_bytes()
    assert frame_oracle.decode_frame(data).raw == PART
    out = np.full(STRIPE, 0xEE, np.uint8)
    status, stripe, extents = decode_part(data, out, bytes(range(16)), bytes(range(16, 32)))
    assert (status, stripe) == (0, PART_STRIPE)
    assert extents.tolist() == [list(extent) for extent in PART_EXTENTS]
    wanted = np.full(STRIPE, 0xEE, np.uint8)
    place = 0
    for offset, length in PART_EXTENTS:
        wanted[offset : offset + length] = np.frombuffer(PART[place : place + length], np.uint8)
        place += length
    assert out.tobytes() == wanted.tobytes()


# --- and goes on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["inline", "empty", "log", "changed", "numbers/f8", "cut", "unfinished"])
def test_a_frozen_file_is_changed_by_todays_version(store: Store, name: str) -> None:
    path = f"{store.root}/{name}"
    with pinstripe.open(path, "r+b") as file:
        file.seek(10)
        file.write(noise(BLOCK + 1, b"new"))
    wanted = patched(FILES[name].ljust(10, b"\0"), 10, noise(BLOCK + 1, b"new"))
    assert read(path) == wanted
    assert told_of(path)["crc64nvme"] == f"{crc64(wanted):016x}"


def test_collecting_keeps_every_file_and_removing_all_frees_all(store: Store) -> None:
    collect_store(store)
    for name, data in FILES.items():
        assert read(f"{store.root}/{name}") == data
    for name in ("kept", "unfinished"):  # hold transactions of writers who may still live, for all that is known
        with pinstripe.open(f"{store.root}/{name}", "wb") as file:
            file.write(BASE)
        assert read(f"{store.root}/{name}") == BASE
    for name in [name for name in FILES if name not in ("kept", "unfinished")] + ["sparse"]:
        pinstripe.remove(f"{store.root}/{name}")
    collect_store(store)
    left = {path.parent.name for target in store.targets for path in Path(target.path).glob("??/*/*.*.*")}
    assert len(left) == 3  # and the file that never got a name


def test_new_files_follow_the_frozen_directorys_layout(store: Store) -> None:
    path = f"{store.root}/layout/wide/new"
    with pinstripe.open(path, "xb") as file:
        file.write(BASE)
    told = told_of(path)
    assert told["layout"] == told_of(f"{store.root}/layout/wide/raw")["layout"]
    assert told["layout"]["stripe_bytes"] == 2 * STRIPE
    assert told["layout"]["codec"] == "raw"
