"""The store, one process: small reads, opening, committing, the index, memory: ``python -m bench.store [--runs N] [--json]``.

Files lie in the system's temporary directory (TMPDIR chooses another) and are read from the page cache; `durability` full
and every peer's fsync reach the disk. Text is the sources of Python's own library.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pinstripe
from bench.harness import Case, Figures, Missing, Table, compare, main
from bench.inputs import Bytes, field, text
from pinstripe import kernels
from pinstripe.format.manifest import RECORD
from pinstripe.store.generation import Generation
from pinstripe.store.index import CHANGE

GiB = 1 << 30
STRIPE = 1 << 20
BLOCK = 64 << 10
READS = 256  # of each run
SMALL = 10_000
STRIPES = (10_000, 100_000, 1_000_000)
SMALL_STRIPE = 64 << 10
WRITE_BYTES, CALL_BYTES = 8 << 30, 256 << 20


@contextmanager
def directory(parent: str | None = None) -> Iterator[Path]:
    """A new directory, removed in the end."""
    path = Path(tempfile.mkdtemp(prefix="pinstripe-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make_store(path: Path) -> Path:
    pinstripe.create(path / "store", [path / "target0", path / "target1"])
    return path / "store"


# --- reads at random ----------------------------------------------------------------------------------------------

Read = Callable[[int, int, memoryview], object]
"""(offset, length, out) on an object that was just opened."""


def _pinstripe(path: Path, data: Bytes, **options: Any) -> Callable[[], Read]:
    if not path.exists():
        with pinstripe.open(path, "wb", buffering=0, durability="none") as file:
            file.write(data)

    def fresh() -> Read:
        file = pinstripe.open(path, "rb", buffering=0, **options)
        return lambda offset, length, out: file.preadinto(out, offset)

    return fresh


def _plain(path: Path, data: Bytes) -> Callable[[], Read]:
    path.write_bytes(data.data)

    def fresh() -> Read:
        file = path.open("rb", buffering=0)
        return lambda offset, length, out: os.preadv(file.fileno(), [out], offset)

    return fresh


def _schunk(path: Path, data: Bytes, width: int, **options: Any) -> Callable[[], Read]:
    import blosc2

    blosc2.set_nthreads(1)
    if not path.exists():
        cparams = {
            "codec": blosc2.Codec.LZ4,
            "clevel": 9 if width > 1 else 5,
            "typesize": width,
            "blocksize": BLOCK,
            "filters": [blosc2.Filter.SHUFFLE if width > 1 else blosc2.Filter.NOFILTER],
            "nthreads": 1,
        }
        blosc2.SChunk(STRIPE, data, contiguous=True, urlpath=str(path), cparams=cparams, dparams={"nthreads": 1})

    def fresh() -> Read:
        chunks = blosc2.open(str(path), mode="r", **options)
        size = chunks.typesize
        return lambda offset, length, out: chunks.get_slice(offset // size, (offset + length) // size, out)

    return fresh


def _b2nd(path: Path, data: Bytes, width: int) -> Callable[[], Read]:
    import blosc2

    if not path.exists():
        cparams = {
            "codec": blosc2.Codec.LZ4,
            "clevel": 9 if width > 1 else 5,
            "filters": [blosc2.Filter.SHUFFLE if width > 1 else blosc2.Filter.NOFILTER],
            "nthreads": 1,
        }
        array = data.view(f"f{width}") if width > 1 else data
        chunks, blocks = (STRIPE // width,), (BLOCK // width,)
        blosc2.asarray(array, chunks=chunks, blocks=blocks, urlpath=str(path), contiguous=True, cparams=cparams)

    def fresh() -> Read:
        array = blosc2.open(str(path), mode="r")
        return lambda offset, length, out: array[offset // width : (offset + length) // width]

    return fresh


def _zarr(path: Path, data: Bytes, width: int) -> Callable[[], Read]:
    import zarr
    from zarr.codecs import BloscCodec

    if not path.exists():
        codec = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle" if width > 1 else "noshuffle")
        array = data.view(f"f{width}") if width > 1 else data
        zarr.create_array(str(path), data=array, chunks=(STRIPE // width,), compressors=codec)

    def fresh() -> Read:
        array = zarr.open_array(str(path), mode="r")
        return lambda offset, length, out: array[offset // width : (offset + length) // width]

    return fresh


def peer(module: str, make: Callable[..., Callable[[], Read]], *given: Any, **options: Any) -> Any:
    try:
        __import__(module)
    except ImportError:
        return Missing(f"pip install {module}")
    return make(*given, **options)


def random_reads(runs: int, kind: str, length: int, place: Path) -> Table:
    """Each run reads from an object that was opened just before, outside the time."""
    width = 8 if kind == "field" else 1
    data = field(GiB).view(np.uint8) if width > 1 else text(GiB)
    store = place / "store"
    if not store.exists():
        make_store(place)
    openers: dict[str, Any] = {
        "pinstripe": _pinstripe(store / kind, data, threads=1),
        "blosc2 SChunk": peer("blosc2", _schunk, place / f"{kind}.b2frame", data, width),
        "blosc2 SChunk, mapped": peer("blosc2", _schunk, place / f"{kind}.b2frame", data, width, mmap_mode="r"),
        "blosc2 NDArray": peer("blosc2", _b2nd, place / f"{kind}.b2nd", data, width),
        "zarr, chunks of 1 MiB": peer("zarr", _zarr, place / f"{kind}.zarr", data, width),
        "limit: pread, not compressed": _plain(place / f"{kind}.bin", data),
    }
    del data
    out = memoryview(bytearray(length))
    rng = np.random.default_rng(length)
    opened: dict[str, Read] = {}
    offsets: list[int] = []

    def open_all() -> None:
        opened.clear()
        opened.update({name: fresh() for name, fresh in openers.items() if not isinstance(fresh, Missing)})
        offsets[:] = (rng.integers(0, (GiB - length) // 4096, READS) * 4096).tolist()

    def reads(name: str) -> None:
        read = opened[name]
        for offset in offsets:
            read(offset, length, out)

    cases: dict[str, Case | Missing] = {
        name: fresh if isinstance(fresh, Missing) else partial(reads, name) for name, fresh in openers.items()
    }
    title = f"read {length >> 10} KiB at random from 1 GiB of {kind}, new object, one thread"
    return compare(cases, runs, title=title, items=READS, item="read", before=open_all)


# --- open, read a byte, close -------------------------------------------------------------------------------------


def _read_a_byte(fresh: Callable[[], Read]) -> None:
    fresh()(0, 1, memoryview(bytearray(1)))


def opening(runs: int, place: Path) -> Table:
    data = text(64 << 20)
    store = make_store(place)
    _pinstripe(store / "file", data)
    cases: dict[str, Case | Missing] = {}

    def ours() -> None:
        with pinstripe.open(store / "file", "rb", buffering=0) as file:
            file.read(1)

    def plain() -> None:
        with (place / "file").open("rb", buffering=0) as file:
            file.read(1)

    cases["pinstripe"] = ours
    for name, module, make, suffix in (
        ("blosc2 SChunk", "blosc2", _schunk, "b2frame"),
        ("zarr", "zarr", _zarr, "zarr"),
    ):
        fresh = peer(module, make, place / f"file.{suffix}", data, 1)
        cases[name] = fresh if isinstance(fresh, Missing) else partial(_read_a_byte, fresh)
    _plain(place / "file", data)
    cases["limit: plain file"] = plain
    return compare(cases, runs, title="open, read 1 byte, close (64 MiB of text)")


# --- create and commit --------------------------------------------------------------------------------------------


def committing(runs: int, where: str, place: Path, *, durable: bool) -> Table:
    store = make_store(place)
    data = text(SMALL).data
    numbers = itertools.count()
    count = 10  # of each run

    def ours(**options: Any) -> None:
        for _ in range(count):
            name = store / f"file{next(numbers)}"
            with pinstripe.open(name, "wb", buffering=0, durability="full" if durable else "none", **options) as file:
                file.write(data)

    def plain() -> None:
        for _ in range(count):
            name = place / f"plain{next(numbers)}"
            aside = name.with_suffix(".new")
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, data)
            if durable:
                os.fsync(fd)
            os.close(fd)
            os.rename(aside, name)
            if durable:
                fd = os.open(place, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)

    def clear() -> None:
        for name in pinstripe.listdir(store):
            pinstripe.remove(store / name)
        for path in place.glob("plain*"):
            path.unlink()
        os.sync()

    cases: dict[str, Case | Missing] = {
        "pinstripe (in its inode)": ours,
        "pinstripe, inline_bytes=0 (segment and manifest)": partial(ours, inline_bytes=0),
        "limit: plain open, write, fsync, rename, fsync" if durable else "limit: plain open, write, rename": plain,
    }
    title = f"create and commit 10 KB, durability={'full' if durable else 'none'}, {where}"
    return compare(cases, runs, title=title, items=count, item="file", before=clear)


# --- the index ----------------------------------------------------------------------------------------------------


def make_file(path: Path, stripes: int) -> None:
    """A file of so many stripes whose records are made up, but for the last one's, which is written."""
    with pinstripe.open(path, "wb", buffering=0, stripe_bytes=SMALL_STRIPE) as file:
        file.pwrite(os.urandom(SMALL_STRIPE), (stripes - 1) * SMALL_STRIPE)
        index = file.session.index
        real = index.record(stripes - 1)
        run = np.zeros(stripes - 1, CHANGE)
        run["stripe"], run["record"] = np.arange(stripes - 1), real
        run["record"]["crc64"] = np.random.default_rng(1).integers(0, 1 << 62, stripes - 1)
        index.add_run(run)


def open_and_close(path: Path) -> None:
    pinstripe.open(path, "rb", buffering=0).close()


def load(path: Path) -> Generation:
    """Every page read and verified."""
    file = pinstripe.open(path, "rb", buffering=0)
    base: Generation = file.session.base
    for number in range(len(base.directory)):
        base.page(number)
    file.close()
    return base


def loading(runs: int, place: Path) -> Table:
    store = make_store(place)
    cases: dict[str, Case | Missing] = {}
    for stripes in reversed(STRIPES):
        path = store / f"{stripes}"
        make_file(path, stripes)
        cases[f"open, close: {stripes:,} stripes"] = partial(open_and_close, path)
        cases[f"open, load all, close: {stripes:,} stripes"] = partial(load, path)
    manifest = Path(pinstripe.Store.find(store).file_directory(load(store / f"{STRIPES[-1]}").file_id)) / "1"
    cases["limit: read the manifest of 1,000,000, and crc64"] = lambda: kernels.crc64(manifest.read_bytes())
    title = f"load an index (manifest of 1,000,000 stripes: {manifest.stat().st_size / (1 << 20):.1f} MiB)"
    return compare(cases, runs, title=title)


def looking_up(runs: int, place: Path) -> Table:
    """Records of stripes at random, a thousand a run, one by one, from pages that were read before."""
    store = make_store(place)
    rng = np.random.default_rng(1)
    cases: dict[str, Case | Missing] = {}

    def look(record: Callable[[int], object], stripes: list[int]) -> None:
        for stripe in stripes:
            record(stripe)

    for stripes in STRIPES:
        make_file(store / f"{stripes}", stripes)
        file = pinstripe.open(store / f"{stripes}", "rb", buffering=0)
        some = rng.integers(0, stripes, 1000).tolist()
        cases[f"{stripes:,} stripes"] = partial(look, file.session.index.record, some)
        look(file.session.index.record, list(range(0, stripes, 4096)))
    table = np.zeros(STRIPES[-1], RECORD)
    cases["limit: an array in memory"] = partial(look, lambda stripe: table[stripe : stripe + 1], some)
    return compare(cases, runs, title="look up one stripe's record", items=1000, item="look-up")


def small_change(runs: int, place: Path, *, durable: bool) -> Table:
    store = make_store(place)
    numbers = itertools.count(7)
    data = os.urandom(SMALL_STRIPE)
    files = {stripes: store / f"{stripes}" for stripes in STRIPES}
    for stripes, path in files.items():
        make_file(path, stripes)
    (place / "61").write_bytes(bytes(61 << 20))
    (place / "38").write_bytes(bytes(40 * STRIPES[-1]))

    def ours(stripes: int) -> None:
        options: dict[str, Any] = {"durability": "full" if durable else "none", "grace_s": 0}
        with pinstripe.open(files[stripes], "r+b", buffering=0, **options) as file:
            file.pwrite(data, next(numbers) * 997 % stripes * SMALL_STRIPE)

    def copy(size: str) -> None:
        shutil.copyfile(place / size, place / "copy")
        if durable:
            fd = os.open(place / "copy", os.O_RDWR)
            os.fsync(fd)
            os.close(fd)
        os.unlink(place / "copy")

    cases: dict[str, Case | Missing] = {
        f"pinstripe: {stripes:,} stripes": partial(ours, stripes) for stripes in reversed(STRIPES)
    }
    synced = ", fsync" if durable else ""
    cases[f"copy 61 MiB{synced}"] = partial(copy, "61")
    cases[f"copy 38 MiB, the manifest's size{synced}"] = partial(copy, "38")
    title = f"open r+, write one stripe of 64 KiB, commit, durability={'full' if durable else 'none'}"
    return compare(cases, runs, title=title, before=os.sync)


# --- memory -------------------------------------------------------------------------------------------------------


def memory_of_a_writer(place: Path) -> Figures:
    """What a process needs at most while it writes 8 GiB, in one of its own."""
    text(CALL_BYTES).tofile(place / "text")  # made here: it takes memory besides what it returns
    command = [sys.executable, "-m", "bench.store", "--write", str(place / "text"), str(make_store(place) / "file")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    buffer, before, after = (float(word) for word in done.stdout.split())
    amounts = {
        "beyond the caller's buffer, at most": after - buffer,
        "of it before the file is opened: the interpreter and imports": before - buffer,
        "the caller's buffer": buffer,
    }
    return Figures("memory of a process that writes 8 GiB of text, 256 MiB a call", "MiB", amounts)


def write_much(source: str, path: str) -> None:
    data = np.fromfile(source, np.uint8)
    before = peak_memory()
    with pinstripe.open(path, "wb", buffering=0, durability="none") as file:
        for _ in range(WRITE_BYTES // CALL_BYTES):
            file.write(data)
    print(data.nbytes / (1 << 20), before, peak_memory())


def peak_memory() -> float:
    """The most MiB that this program had resident. Not `getrusage`: its figure starts with what the parent had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


# --- all ----------------------------------------------------------------------------------------------------------


def tables(runs: int) -> Iterator[Callable[[], Table | Figures]]:
    tmpfs = "/dev/shm" if os.path.isdir("/dev/shm") else None
    for kind in ("text", "field"):
        with directory() as place:
            for length in (4 << 10, 256 << 10):
                yield partial(random_reads, runs, kind, length, place)
    with directory() as place:
        yield partial(opening, runs, place)
    for durable in (False, True):
        for where, parent in (("tmpfs", tmpfs), ("disk", None)):
            if where == "disk" or tmpfs:
                with directory(parent) as place:
                    yield partial(committing, runs, where, place, durable=durable)
    for table in (loading, looking_up):
        with directory() as place:
            yield partial(table, runs, place)
    for durable in (False, True):
        with directory() as place:
            yield partial(small_change, runs, place, durable=durable)
    with directory(tmpfs) as place:
        yield partial(memory_of_a_writer, place)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_much(*sys.argv[2:])
    else:
        main(tables, {"crc64": kernels.crc64_implementation(), "lz4": kernels.lz4_library()})
