"""A file of a store does what a bytearray does, through every mode, buffer and commit; and nothing leaks."""

import contextlib
import io
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import pinstripe
from pinstripe.format.segment import parse_segment_name
from pinstripe.kernels import crc64
from pinstripe.store import collect as collect_module
from pinstripe.store.collect import collect_store
from pinstripe.store.generation import Generation, list_numbers
from pinstripe.store.inode_file import read_inode
from pinstripe.store.store import Store
from pinstripe.store.verify import verify

STRIPE = 64 << 10
MOST = 24 * STRIPE
NAMES = ("a", "b", "d/c")
MODES = ("r", "r+", "w", "w+", "x", "x+", "a", "a+")

sizes = st.one_of(
    st.integers(0, 300),
    st.integers(0, 3 * STRIPE),
    st.builds(lambda stripes, more: max(0, stripes * STRIPE + more), st.integers(0, 5), st.integers(-2, 2)),
)
places = st.one_of(
    st.integers(0, 300),
    st.integers(0, MOST),
    st.builds(lambda stripes, more: max(0, stripes * STRIPE + more), st.integers(0, 20), st.integers(-2, 2)),
)
seeds = st.integers(0, 1 << 30)


def content(size: int, seed: int) -> bytes:
    """Zeros, text or noise."""
    kind = seed % 3
    if kind == 0:
        return bytes(size)
    if kind == 1:
        return (f"line {seed} " * (size // 7 + 1)).encode()[:size]
    return random.Random(seed).randbytes(size)


class Kept:
    """What the model knows of one file: all its generations, the newest last."""

    def __init__(self) -> None:
        self.generations: dict[int, bytes] = {}
        self.newest = b""


class Handle:
    """An open file and what it should hold."""

    def __init__(self, file: Any, mode: str, name: str, raw: bool, kept: Kept | None) -> None:
        self.file, self.mode, self.name, self.raw = file, mode, name, raw
        self.kept = kept  # None: not there yet
        fresh = kept is None or mode[0] in "wx"
        self.content = bytearray() if fresh else bytearray(kept.newest)
        self.position = len(self.content) if mode[0] == "a" else 0

    @property
    def reads(self) -> bool:
        return self.mode[0] == "r" or "+" in self.mode

    @property
    def writes(self) -> bool:
        return self.mode != "r"


class FileMachine(RuleBasedStateMachine):
    """One writer, several readers, three names."""

    targets = 2

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        targets = [self.top / f"t{k}" for k in range(self.targets)]
        self.store = pinstripe.create(self.top / "s", targets, stripe_bytes=STRIPE, block_bytes=16 << 10)
        pinstripe.mkdir(self.path("d"))
        self.files: dict[str, Kept] = {}
        self.writer: Handle | None = None
        self.readers: list[Handle] = []

    def path(self, name: str) -> str:
        return f"{self.store.root}/{name}"

    def teardown(self) -> None:
        try:
            for handle in self.readers:
                handle.file.close()
            if self.writer is not None:
                self.close()
            self.nothing_leaks()
        finally:
            shutil.rmtree(self.top)

    def nothing_leaks(self) -> None:
        collect_store(self.store)
        found = verify(self.store, self.store.root)
        assert found.good, found.findings
        named, ids = set(), set()
        for name in self.files:
            inode, _ = read_inode(self.path(name))
            ids.add(inode.file_id)
            directory = self.store.file_directory(inode.file_id)
            if not os.path.isdir(directory):
                continue
            for number in list_numbers(directory):
                generation = Generation.from_path(inode.file_id, f"{directory}/{number}", number)
                named.add(generation.copies_name())
                for entry in generation.segments[generation.segments["live_frames"] > 0]:
                    named.add(f"{bytes(entry['tx']).hex()}.{entry['stream']}.{entry['n']}")
                generation.close()
            assert set(os.listdir(directory)) <= {"inode", *map(str, list_numbers(directory))}
        for target in self.store.targets:
            for file_id in target.list_files():
                assert file_id in ids, "a target keeps a file that was removed"
                names = target.list_segments(file_id)
                assert set(names) <= named, "a target keeps what no generation names"
                assert all(name.endswith(".manifest") or parse_segment_name(name) for name in names)
        kept = [name for shard in Path(self.store.meta, "files").iterdir() for name in os.listdir(shard)]
        assert {bytes.fromhex(name) for name in kept} <= ids

    # --- opening and closing ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer is None)
    @rule(
        name=st.sampled_from(NAMES),
        mode=st.sampled_from(MODES),
        buffering=st.sampled_from([0, -1, 100, 70_000]),
        inline=st.sampled_from([0, 1000, 16 << 10]),
        durability=st.sampled_from(["full", "none"]),
    )
    def open(self, name: str, mode: str, buffering: int, inline: int, durability: str) -> None:
        kept = self.files.get(name)
        options = dict(
            inline_bytes=inline, durability=durability, cache_bytes=1 << 20, batch_bytes=1 << 18, grace_s=3600
        )
        wrong = FileNotFoundError if kept is None and mode[0] == "r" else FileExistsError if mode[0] == "x" else None
        if wrong is not None and (kept is None) == (mode[0] == "r"):
            with pytest.raises(wrong):
                pinstripe.open(self.path(name), mode + "b", buffering)
            return
        file = pinstripe.open(self.path(name), mode + "b", buffering, **options)
        handle = Handle(file, mode, name, buffering == 0, kept)
        if handle.writes:
            self.writer = handle
        elif len(self.readers) < 3:
            self.readers.append(handle)
        else:
            file.close()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self) -> None:
        handle = self.take_writer()
        handle.file.close()
        self.published(handle, handle.file.generation)

    @precondition(lambda self: self.writer is not None)
    @rule(how=st.sampled_from(["discard", "with"]))
    def give_up(self, how: str) -> None:
        handle = self.take_writer()
        if how == "discard":
            handle.file.discard()
            handle.file.close()
        else:
            with contextlib.suppress(KeyError), handle.file:
                raise KeyError
        assert handle.file.closed
        assert pinstripe.exists(self.path(handle.name)) == (handle.name in self.files)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def sync(self) -> None:
        assert self.writer is not None
        number = self.writer.file.sync()
        assert number == self.writer.file.generation
        self.published(self.writer, number)

    def take_writer(self) -> Handle:
        handle, self.writer = self.writer, None
        assert handle is not None
        return handle

    def published(self, handle: Handle, number: int) -> None:
        if handle.kept is None:
            handle.kept = self.files[handle.name] = Kept()
        handle.kept.newest = bytes(handle.content)
        handle.kept.generations[number] = bytes(handle.content)

    # --- writing -----------------------------------------------------------------------------------------------------

    def put(self, handle: Handle, offset: int, data: bytes) -> None:
        if data:
            handle.content.extend(bytes(max(0, offset - len(handle.content))))
            handle.content[offset : offset + len(data)] = data

    @precondition(lambda self: self.writer is not None)
    @rule(size=sizes, seed=seeds)
    def write(self, size: int, seed: int) -> None:
        handle = self.writer
        assert handle is not None
        data = content(size, seed)
        offset = len(handle.content) if handle.mode[0] == "a" else handle.position
        assert handle.file.write(data) == size
        self.put(handle, offset, data)
        handle.position = offset + size
        if handle.mode[0] == "a":  # as the built-in one, a buffered a+ knows its position only after a seek
            handle.file.flush()
            handle.position = handle.file.seek(0, io.SEEK_END)
            assert handle.position == len(handle.content)

    @precondition(lambda self: self.writer is not None and self.writer.raw and self.writer.mode[0] != "a")
    @rule(offset=places, size=sizes, seed=seeds)
    def pwrite(self, offset: int, size: int, seed: int) -> None:
        assert self.writer is not None
        data = content(size, seed)
        assert self.writer.file.pwrite(data, offset) == size
        self.put(self.writer, offset, data)

    @precondition(lambda self: self.writer is not None and self.writer.raw and self.writer.mode[0] != "a")
    @rule(seed=seeds, pieces=st.integers(1, 40))
    def scatter(self, seed: int, pieces: int) -> None:
        """More partial stripes than the cache may hold."""
        assert self.writer is not None
        draw = random.Random(seed)
        for _ in range(pieces):
            offset, data = draw.randrange(MOST), draw.randbytes(draw.randrange(1, 50))
            self.writer.file.pwrite(data, offset)
            self.put(self.writer, offset, data)

    @precondition(lambda self: self.writer is not None)
    @rule(size=st.one_of(st.none(), places))
    def truncate(self, size: int | None) -> None:
        handle = self.writer
        assert handle is not None
        if size is None:
            size = handle.position
            assert handle.file.truncate() == size
        else:
            assert handle.file.truncate(size) == size
        del handle.content[size:]
        handle.content.extend(bytes(size - len(handle.content)))

    # --- reading -----------------------------------------------------------------------------------------------------

    def handles(self) -> list[Handle]:
        return self.readers + ([self.writer] if self.writer is not None else [])

    @precondition(lambda self: self.handles())
    @rule(which=st.integers(0, 9), offset=places, whence=st.sampled_from([0, 1, 2]))
    def seek(self, which: int, offset: int, whence: int) -> None:
        handle = self.handles()[which % len(self.handles())]
        base = (0, handle.position, len(handle.content))[whence]
        assert handle.file.seek(offset - base if whence else offset, whence) == offset
        handle.position = offset
        assert handle.file.tell() == offset

    @precondition(lambda self: self.handles())
    @rule(which=st.integers(0, 9), size=st.one_of(st.just(-1), sizes))
    def read(self, which: int, size: int) -> None:
        handle = self.handles()[which % len(self.handles())]
        if not handle.reads:
            with pytest.raises(io.UnsupportedOperation):
                handle.file.read(size)
            return
        end = len(handle.content) if size < 0 else handle.position + size
        got = handle.file.read(size)
        assert got == bytes(handle.content[handle.position : end])
        handle.position += len(got)

    @precondition(lambda self: any(handle.raw and handle.reads for handle in self.handles()))
    @rule(which=st.integers(0, 9), offset=places, size=sizes)
    def pread(self, which: int, offset: int, size: int) -> None:
        raw = [handle for handle in self.handles() if handle.raw and handle.reads]
        handle = raw[which % len(raw)]
        assert handle.file.pread(size, offset) == bytes(handle.content[offset : offset + size])

    @precondition(lambda self: self.readers)
    @rule(which=st.integers(0, 9))
    def close_reader(self, which: int) -> None:
        self.readers.pop(which % len(self.readers)).file.close()

    # --- names -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer is None)
    @rule(source=st.sampled_from(NAMES), destination=st.sampled_from(NAMES))
    def rename(self, source: str, destination: str) -> None:
        if source not in self.files:
            with pytest.raises(FileNotFoundError):
                pinstripe.rename(self.path(source), self.path(destination))
            return
        if source != destination:
            self.forget_readers(destination)
            replaces = destination in self.files
            pinstripe.replace(self.path(source), self.path(destination))
            self.files[destination] = self.files.pop(source)
            if replaces:  # was made durable first, perhaps by a generation of its own
                kept = self.files[destination]
                with pinstripe.open(self.path(destination), "rb") as file:
                    kept.generations[file.generation] = kept.newest

    @precondition(lambda self: self.writer is None)
    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if name not in self.files:
            with pytest.raises(FileNotFoundError):
                pinstripe.remove(self.path(name))
            return
        self.forget_readers(name)
        pinstripe.remove(self.path(name))
        del self.files[name]

    def forget_readers(self, name: str) -> None:
        """A removed file has no grace: its readers may be told that it is gone."""
        for handle in [h for h in self.readers if h.kept is self.files.get(name)]:
            self.readers.remove(handle)
            handle.file.close()

    @rule()
    def collect(self) -> None:
        collect_store(self.store, grace_s=3600.0)

    # --- what always holds -------------------------------------------------------------------------------------------

    @rule()
    def every_file_reads_as_it_was_published(self) -> None:
        for name, kept in self.files.items():
            path = self.path(name)
            with pinstripe.open(path, "rb") as file:
                assert file.read() == kept.newest
                base = file.session.base
                assert base.size == len(kept.newest) == pinstripe.stat(path).st_size
                if base.header is not None:
                    assert base.header.data_crc == crc64(kept.newest)
            for number, data in kept.generations.items():
                with pinstripe.open(path, "rb", generation=number) as file:
                    assert file.read() == data

    @invariant()
    def only_published_names_are_there(self) -> None:
        there = {*pinstripe.listdir(self.store.root)} - {"d"} | {
            f"d/{name}" for name in pinstripe.listdir(self.path("d"))
        }
        assert there == set(self.files)
        assert Store.find(self.store.root) is self.store or self.store.id

    @invariant()
    def the_size_is_right(self) -> None:
        for handle in self.handles():
            if handle.raw:
                assert handle.file.size == len(handle.content)


class ThreeTargets(FileMachine):
    targets = 3


@pytest.fixture(autouse=True)
def _listings_are_quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collect_module, "LISTING_S", 0.0)
    return None


@pytest.mark.parametrize("machine", [FileMachine, ThreeTargets])
def test_a_file_behaves_as_a_bytearray(machine: type[FileMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
