"""Promise 3: whatever byte of whatever structure changes, reading gives the right bytes or an error that says where; nothing is deleted for it."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import resource
import shutil
import signal
import stat
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pinstripe
from pinstripe.errors import DamageError, Error, NoStoreError, TargetError
from pinstripe.format.manifest import HEADER_BYTES, PAGE_ENTRY, RECORD, SEGMENT_ENTRY, Header
from pinstripe.kernels import crc64
from pinstripe.store.collect import collect, collect_store
from pinstripe.store.generation import Generation
from pinstripe.store.store import Store, read_superblock
from pinstripe.store.verify import verify

STRIPE = 1 << 16
MIB = 1 << 20


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


CONTENT = {
    "raw": noise(1, 3 * STRIPE + 5000),
    "text": b"".join(b"line %d of a text that compresses\n" % k for k in range(6000)),
    "numbers": np.cumsum(np.random.default_rng(3).normal(size=25_000)).tobytes(),
    "inline": noise(4, 700),
    "other": noise(5, 2 * STRIPE),
}


class World:
    """A store whose files have two generations each; the first is durable and kept."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.store = pinstripe.create(top / "store", [top / "a", top / "b"], stripe_bytes=STRIPE, block_bytes=1 << 14)
        for name, data in CONTENT.items():
            with pinstripe.open(self.path(name), "wb") as file:
                file.write(data if name in ("inline", "other") else b"before" + data[:100_000])
            if name not in ("inline", "other"):
                with pinstripe.open(self.path(name), "wb", grace_s=3600) as file:
                    file.write(data)

    def path(self, name: str) -> str:
        return str(self.top / "store" / name)

    def directory(self, name: str) -> Path:
        file_id = pinstripe.store.inode_file.read_inode(self.path(name))[0].file_id
        return Path(self.store.file_directory(file_id))

    def manifest(self, name: str, number: int = 2) -> Path:
        return self.directory(name) / str(number)

    def head(self, name: str) -> Generation:
        return Generation.from_path(bytes.fromhex(self.directory(name).name), str(self.manifest(name)), 2)

    def copies(self, name: str) -> list[Path]:
        """Copies of the head's manifest on targets."""
        head = self.head(name)
        with contextlib.closing(head):
            return [path for path in self.on_targets(name) if path.name == head.copies_name()]

    def on_targets(self, name: str) -> list[Path]:
        file_id = self.directory(name).name
        return sorted(path for target in "ab" for path in (self.top / target / file_id[:2] / file_id).glob("*"))

    def segments(self, name: str) -> list[Path]:
        """Segments that the head names, in the order of its table."""
        head = self.head(name)
        with contextlib.closing(head):
            names = [f"{bytes(e['tx']).hex()}.{e['stream']}.{e['n']}" for e in head.segments if e["live_frames"]]
        return [path for wanted in names for path in self.on_targets(name) if path.name == wanted]


@pytest.fixture
def world() -> Iterator[World]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pinstripe-damage-", dir=memory) as top:
        yield World(Path(top))


@pytest.fixture
def without_copies(world: World) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        for name in ("raw", "text", "numbers"):
            for copy in world.copies(name):
                stack.enter_context(gone(copy))
        yield world


def tree(top: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path.relative_to(top)): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_nlink)
        for path in top.rglob("*")
    }


@contextlib.contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    """A file with other bytes in the same inode."""
    mode, before = stat.S_IMODE(path.stat().st_mode), path.read_bytes()
    path.chmod(0o600)
    try:
        path.write_bytes(data)
        path.chmod(mode)
        yield
    finally:
        path.chmod(0o600)
        path.write_bytes(before)
        path.chmod(mode)


@contextlib.contextmanager
def gone(path: Path, place: Path | None = None) -> Iterator[None]:
    """A file that is missing, or that has something else in its place."""
    aside = path.parent.parent / f"aside-{path.name}"
    path.rename(aside)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        elif os.path.lexists(path):
            path.unlink()
        aside.rename(path)


def flipped(data: bytes, offset: int) -> bytes:
    out = bytearray(data)
    out[offset] ^= 1 << offset % 8
    return bytes(out)


def look(
    world: World, name: str, *, needs: type[Error] | tuple[type[Error], ...] = DamageError
) -> BaseException | None:
    """Read a file: the right bytes, or an error of ours that names it. Returns the error."""
    path = world.path(name)
    try:
        with pinstripe.open(path, "rb", buffering=0) as file:
            data = file.read()
    except needs as raised:
        error = raised
    else:
        assert data == CONTENT[name], "wrong bytes were read"
        return None
    assert path in str(error), f"the error does not name the file: {error}"
    return error


def look_at_the_others(world: World, name: str) -> None:
    for other in CONTENT:
        if other != name:
            assert look(world, other) is None


def places(size: int, dense: int, sparse: int, seed: int = 0) -> list[int]:
    """Every byte of the first `dense`, the last eight, and `sparse` of those between."""
    chance = random.Random(seed)
    between = range(min(dense, size), size)
    return sorted(
        {*range(min(dense, size)), *range(max(0, size - 8), size), *chance.sample(between, min(sparse, len(between)))}
    )


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["raw", "text", "numbers"])
def test_a_flipped_bit_in_a_manifest_is_damage_that_names_file_and_durable_generation(
    without_copies: World, name: str
) -> None:
    manifest = without_copies.manifest(name)
    data = manifest.read_bytes()
    told = 0
    for offset in places(len(data), 300, 400) + list(range(HEADER_BYTES, len(data))):
        with changed(manifest, flipped(data, offset)):
            error = look(without_copies, name)
        assert error is not None, f"byte {offset} is not covered by a checksum"
        told += "generation=1" in str(error)
    assert told > 300  # where the header or the tables do not verify
    look_at_the_others(without_copies, name)


@pytest.mark.parametrize("name", ["raw", "text"])
def test_a_flipped_bit_in_a_manifest_is_mended_from_the_copy(world: World, name: str) -> None:
    manifest = world.manifest(name)
    data = manifest.read_bytes()
    for offset in [*places(HEADER_BYTES, 0, 30), *range(HEADER_BYTES, len(data), 7)]:
        with changed(manifest, flipped(data, offset)):
            assert look(world, name) is None, f"byte {offset} is not mended"


def test_a_flipped_bit_in_the_copy_is_no_matter(world: World) -> None:
    (copy,) = world.copies("raw")
    data = copy.read_bytes()
    for offset in range(0, len(data), 61):
        with changed(copy, flipped(data, offset)):
            assert look(world, "raw") is None


@pytest.mark.parametrize("name", ["raw", "text", "numbers"])
def test_a_flipped_bit_in_a_segment_is_damage_that_says_where(world: World, name: str) -> None:
    noticed = 0
    for segment in world.segments(name):
        data = segment.read_bytes()
        target = str(segment.parent.parent.parent)
        for offset in places(len(data), 64 + 128 + 16 * 8, 60, seed=2):
            with changed(segment, flipped(data, offset)):
                error = look(world, name)
            if error is None:
                continue
            noticed += 1
            assert isinstance(error, DamageError)
            assert (error.target, error.segment) == (target, segment.name)
            assert 0 <= error.stripe < 5
            assert 0 < error.offset <= offset
            assert f"stripe {error.stripe}" in str(error)
    assert noticed > 200
    look_at_the_others(world, name)


def test_every_flipped_bit_of_a_payload_is_noticed_or_beside_it(world: World) -> None:
    """What reading does not notice is padding and the segment's own header, which verify checks."""
    segment = world.segments("raw")[0]
    data = segment.read_bytes()
    with changed(segment, flipped(data, 20)):
        assert look(world, "raw") is None
        assert not verify(world.store, world.path("raw")).good
    for offset in random.Random(1).sample(range(8192, len(data)), 100):
        with changed(segment, flipped(data, offset)):
            error = look(world, "raw")
            good = verify(world.store, world.path("raw")).good
        assert (error is None) == good


@pytest.mark.parametrize("name", ["inline", "raw"])
def test_a_flipped_bit_in_an_inode_is_an_error_that_names_the_file(world: World, name: str) -> None:
    inode = Path(world.path(name))
    data = inode.read_bytes()
    for offset in places(len(data), 300, 60):
        with changed(inode, flipped(data, offset)):
            assert look(world, name, needs=Error) is not None
    look_at_the_others(world, name)


def test_a_flipped_bit_in_the_only_superblock_is_an_error(world: World) -> None:
    superblock = world.top / "store/.pinstripe/superblock/1"
    data = superblock.read_bytes()
    for offset in range(len(data)):
        with changed(superblock, flipped(data, offset)), pytest.raises(Error):
            read_superblock(str(superblock.parent.parent))


def test_a_flipped_bit_in_an_identity_makes_the_target_missing_and_nothing_else(world: World) -> None:
    identity = world.top / "a/pinstripe-target"
    data = identity.read_bytes()
    for offset in range(len(data)):
        with changed(identity, flipped(data, offset)):
            try:
                store = Store(str(world.top / "store"))
            except Error as error:
                pytest.fail(f"byte {offset}: {error}")
            if store.missing:
                with pytest.raises(TargetError):
                    store.target(store.missing[0].id)
            error = look(world, "raw", needs=(TargetError, DamageError))
            assert (error is not None) == bool(store.missing)


def test_a_flipped_bit_in_a_layout_file_is_an_error_that_names_it_or_another_layout(
    world: World, tmp_path: Path
) -> None:
    directory = world.top / "store/directory"
    pinstripe.mkdir(directory)
    try:
        pinstripe.store.namespace.set_layout(directory, pinstripe.Layout(stripe_bytes=STRIPE, block_bytes=1 << 14))
        layout = directory / ".pinstripe-layout"
        data = layout.read_bytes()
        for offset in range(len(data)):
            with changed(layout, flipped(data, offset)):
                said = str(layout)
                try:
                    pinstripe.store.namespace.layout_of(str(directory))
                except Error as error:
                    said = str(error)
                assert str(layout) in said
    finally:
        shutil.rmtree(directory)


# --- lengths, swaps, other things in their place ----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["manifest", "segment", "inode", "copy"])
def test_a_file_cut_short_is_damage(world: World, what: str) -> None:
    path = {
        "manifest": world.manifest("raw"),
        "segment": world.segments("raw")[0],
        "inode": Path(world.path("raw")),
        "copy": world.copies("raw")[0],
    }[what]
    data = path.read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 1):
        with changed(path, data[:length]):
            error = look(world, "raw", needs=Error)
            # The copy stands in for the manifest.
            assert (error is None) == (what in ("manifest", "copy")), length
            look_at_the_others(world, "raw")


def test_a_missing_segment_is_damage_that_says_which(world: World) -> None:
    for segment in world.segments("raw"):
        with gone(segment):
            error = look(world, "raw")
            assert isinstance(error, DamageError)
            assert error.segment == segment.name
            look_at_the_others(world, "raw")
            assert not verify(world.store, world.path("raw")).good


def test_two_segments_swapped_are_damage(world: World) -> None:
    one, two = world.segments("raw")
    first, second = one.read_bytes(), two.read_bytes()
    with changed(one, second), changed(two, first):
        assert look(world, "raw") is not None
        look_at_the_others(world, "raw")


def test_another_files_segment_is_damage(world: World) -> None:
    with changed(world.segments("raw")[0], world.segments("numbers")[0].read_bytes()):
        assert look(world, "raw") is not None


def test_frames_of_an_older_generation_are_damage(world: World) -> None:
    newer = world.segments("raw")[0]
    older = next(
        p for p in world.on_targets("raw") if p not in world.segments("raw") and p.name[-2:] == newer.name[-2:]
    )
    with changed(newer, older.read_bytes().ljust(newer.stat().st_size, b"\0")):
        assert look(world, "raw") is not None


@pytest.mark.parametrize("source", ["older", "other"])
def test_another_manifest_under_a_number_is_no_generation(without_copies: World, source: str) -> None:
    world = without_copies
    other = world.manifest("raw", 1) if source == "older" else world.manifest("numbers")
    with changed(world.manifest("raw"), other.read_bytes()):
        if source == "older":  # a number whose manifest states another counts for nothing: the one before is the file
            with pinstripe.open(world.path("raw"), "rb", buffering=0) as file:
                assert file.read() == b"before" + CONTENT["raw"][:100_000]
        else:
            look(world, "raw")
        before = tree(world.top)
        collect(world.store, bytes.fromhex(world.directory("raw").name), grace_s=0.0, full=True)
        assert tree(world.top) == before


def test_another_number_than_the_newest_is_not_read_from_the_copy_of_the_newest(world: World) -> None:
    with changed(world.manifest("raw", 1), b"damaged"), pytest.raises(DamageError):
        pinstripe.open(world.path("raw"), "rb", generation=1)
    assert look(world, "raw") is None


@pytest.mark.parametrize("what", ["manifest", "segment", "inode"])
@pytest.mark.parametrize("instead", ["directory", "symlink", "dangling", "fifo"])
def test_something_else_in_a_files_place_is_an_error_and_never_waited_for(
    without_copies: World, what: str, instead: str, tmp_path: Path
) -> None:
    world = without_copies
    path = {
        "manifest": world.manifest("raw"),
        "segment": world.segments("raw")[0],
        "inode": world.directory("raw") / "inode",
    }[what]
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    file_id = bytes.fromhex(world.directory("raw").name)
    with gone(path):
        if instead == "directory":
            path.mkdir()
        elif instead == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(copy if instead == "symlink" else tmp_path / "nowhere")
        signal.alarm(20)
        try:
            assert look(world, "raw", needs=Error) is not None
            look_at_the_others(world, "raw")
            found = verify(world.store, world.path("raw"))
            before = tree(world.top)
            with contextlib.suppress(DamageError):
                collect(world.store, file_id, grace_s=0.0)
            if what != "segment":
                assert tree(world.top) == before
        finally:
            signal.alarm(0)
        assert found.findings


# --- nothing is deleted because of damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 60, 4090, 4100, 4200, "page"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_collector_deletes_nothing_while_a_manifest_is_damaged(
    without_copies: World, offset: int | str, number: int
) -> None:
    world = without_copies
    manifest = world.manifest("raw", number)
    data = manifest.read_bytes()
    place = len(data) - 20 if offset == "page" else int(offset)
    with changed(manifest, flipped(data, place)):
        before = tree(world.top)
        if offset != "page":  # what a page names is not needed to know which segments are named
            collect(world.store, bytes.fromhex(world.directory("raw").name), grace_s=0.0, full=True)
        assert tree(world.top) == before


def test_a_collector_deletes_nothing_that_a_damaged_inode_leads_to(world: World) -> None:
    inode = Path(world.path("other"))
    with changed(inode, flipped(inode.read_bytes(), 60)):
        before = tree(world.top)
        collect_store(world.store, grace_s=3600.0)
        assert tree(world.top) == before


# --- lengths that cannot be -------------------------------------------------------------------------------------------


def sealed(data: bytes, **values: int) -> bytes:
    """A manifest whose header has other values and a checksum that holds."""
    places = {"size": (64, "<Q"), "segment_count": (128, "<I"), "page_count": (132, "<I"), "stripes": (136, "<Q"),
              "stripe_bytes": (80, "<I"), "tables_crc": (160, "<Q"), "block_bytes": (84, "<I")}  # fmt: skip
    out = bytearray(data)
    for name, value in values.items():
        offset, code = places[name]
        struct.pack_into(code, out, offset, value)
    out[HEADER_BYTES - 8 : HEADER_BYTES] = crc64(bytes(out[: HEADER_BYTES - 8])).to_bytes(8, "little")
    return bytes(out)


def with_tables(data: bytes, change: object) -> bytes:
    """A manifest with other tables or pages, all checksums made anew; `change` gets (segments, directory, page)."""
    header = Header.decode(data[:HEADER_BYTES])
    end = HEADER_BYTES + header.tables_bytes
    segments = np.frombuffer(data, SEGMENT_ENTRY, header.segment_count, HEADER_BYTES).copy()
    directory = np.frombuffer(data, PAGE_ENTRY, header.page_count, HEADER_BYTES + segments.nbytes).copy()
    page = np.frombuffer(data, RECORD, header.stripes, end).copy()
    change(segments, directory, page)  # type: ignore[operator]
    directory["checksum"] = crc64(page.tobytes())
    tables = segments.tobytes() + directory.tobytes()
    return sealed(data[:HEADER_BYTES] + tables + page.tobytes(), tables_crc=crc64(tables))


def setter(which: int, field: str, value: int) -> object:
    def change(*arrays: np.ndarray) -> None:
        arrays[which][field][0] = value

    return change


FORGED_HEADERS = {
    "size": dict(size=2**63, stripes=2**47, page_count=2**35 % 2**32),
    "many stripes": dict(size=2**56, stripes=2**40, page_count=2**28),
    "a large file": dict(size=2**46, stripes=2**30, page_count=2**18),
    "segments": dict(segment_count=2**24),
    "too many segments": dict(segment_count=2**32 - 1),
    "pages": dict(page_count=2**32 - 1),
    "stripe size": dict(stripe_bytes=2**31),
    "block size": dict(block_bytes=2**31),
}
FORGED_TABLES = {
    "frame": setter(2, "frame_bytes", 2**32 - 1),
    "raw": setter(2, "raw_bytes", 2**32 - 1),
    "offset": setter(2, "offset", 2**64 - 64),
    "segment": setter(2, "segment", 2**32 - 1),
    "header": setter(2, "header64", 2**16 - 1),
    "page place": setter(1, "offset", 2**63),
    "page before": setter(1, "offset", 64),
    "length": setter(0, "length", 2**63),
}


def within_limits(work: object) -> None:
    """Do something in a child that may take 100 MB more and a second; raises what went wrong there."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 100 * MIB
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(10)
            begun = time.process_time()
            work()  # type: ignore[operator]
            took = time.process_time() - begun
            assert took < 1, f"it took {took:.1f} s"
            code = 0
        except BaseException:
            os.write(write_end, traceback.format_exc().encode()[-4000:])
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"{status}: {said}"


@pytest.mark.parametrize("case", [*FORGED_HEADERS, *FORGED_TABLES])
def test_a_manifest_with_lengths_that_cannot_be_fails_at_once(without_copies: World, case: str) -> None:
    world = without_copies
    manifest = world.manifest("raw")
    data = manifest.read_bytes()
    forged = sealed(data, **FORGED_HEADERS[case]) if case in FORGED_HEADERS else with_tables(data, FORGED_TABLES[case])

    def work() -> None:
        path = world.path("raw")
        with pytest.raises(Error) as raised, pinstripe.open(path, "rb", buffering=0) as file:
            file.pread(len(CONTENT["raw"]), 0)
        assert path in str(raised.value), raised.value
        assert not verify(world.store, path).good

    with changed(manifest, forged):
        within_limits(work)


def grown(path: Path) -> contextlib.AbstractContextManager[None]:
    """A file that a hole of a gigabyte follows."""

    @contextlib.contextmanager
    def longer() -> Iterator[None]:
        mode, size = stat.S_IMODE(path.stat().st_mode), path.stat().st_size
        path.chmod(0o600)
        try:
            os.truncate(path, 1 << 30)
            path.chmod(mode)
            yield
        finally:
            path.chmod(0o600)
            os.truncate(path, size)
            path.chmod(mode)

    return longer()


@pytest.mark.parametrize("what", ["superblock", "place", "identity", "inode", "manifest", "copy", "layout", "segment"])
def test_a_file_that_is_far_too_long_takes_neither_time_nor_memory(world: World, what: str) -> None:
    layout = world.top / "store/.pinstripe-layout"
    layout.write_text("{}")
    path = {
        "superblock": world.top / "store/.pinstripe/superblock/1",
        "place": world.top / "store/.pinstripe/place",
        "identity": world.top / "a/pinstripe-target",
        "inode": Path(world.path("raw")),
        "manifest": world.manifest("raw"),
        "copy": world.copies("raw")[0],
        "segment": world.segments("raw")[0],
        "layout": layout,
    }[what]
    manifest = world.manifest("raw")

    def work() -> None:
        with contextlib.suppress(Error):
            Store(str(world.top / "store")).check_writable()
        with contextlib.suppress(Error):
            read_superblock(str(world.top / "store/.pinstripe"))
        look(world, "raw", needs=Error)
        with contextlib.suppress(Error):
            pinstripe.store.namespace.layout_of(str(world.top / "store"))
        with contextlib.suppress(Error):
            verify(Store(str(world.top / "store")), world.path("raw"))

    try:
        with contextlib.ExitStack() as stack:
            if what == "copy":
                stack.enter_context(changed(manifest, b"damaged"))
            stack.enter_context(grown(path))
            within_limits(work)
    finally:
        layout.unlink()


def test_a_directory_that_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / ".pinstripe").mkdir()
    with pytest.raises(NoStoreError):
        pinstripe.open(tmp_path / "file", "rb")


def test_damage_errors_pickle_with_what_they_say() -> None:
    error = DamageError(
        "damaged", path="/f", file="/f", stripe=3, target="/t", segment="s", offset=64, expected=1, found=2
    )
    again = pickle.loads(pickle.dumps(error))
    assert (again.stripe, again.target, again.segment, again.offset, again.filename) == (3, "/t", "s", 64, "/f")
