"""Collective files beside plain ones and MPI-IO: ``python -m bench.collective [--runs N] [--json]``.

Starts itself, on two ranks and then on four, where no launcher did. Every case runs in that one job, in turn; a run is
open, write or read, and close, on all ranks; files are removed, and the system's caches written out, before each. Memory
is touched before. In interleaved cases the very same calls are made on `MPI.File` and on `pinstripe.mpi.File`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Case, Missing, Table, compare, main
from bench.inputs import Bytes, noise, text
from pinstripe import kernels

JOBS = (2, 4)  # ranks
BYTES = 256 << 20  # a rank's, of two
RECORD = 47_008  # bytes, as IOR's hard case has it
RECORDS_BYTES = 512 << 20  # all ranks'
LATTICE, SITE = (32, 32, 32, 64), 24  # sites of 12 complex numbers; slowest dimension first
CALL = 8 << 20
BLOCK = 64 << 10
SLOW_BYTES, SLOW_RATE = 64 << 20, 200_000_000
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_ID")


def start_job(ranks: int, module: str = "bench.collective") -> int:
    """Run a module on so many ranks, with the settings of tests/mpi.env."""
    root = Path(__file__).resolve().parent.parent
    lines = (root / "tests" / "mpi.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    mpirun = Path(sys.prefix) / "bin" / "mpirun"
    command = [str(mpirun) if mpirun.exists() else "mpirun", "-n", str(ranks)]
    command += [sys.executable, "-m", "mpi4py", "-m", module, *sys.argv[1:]]
    return subprocess.run(command, cwd=root, env={**os.environ, **settings}, check=False).returncode


def in_pages(length: int, phase: int = 0) -> Bytes:
    """Touched memory at `phase` in a page; numpy's own is at 16."""
    room = np.ones(length + 2 * 4096, np.uint8)
    return room[(phase - room.ctypes.data) % 4096 :][:length]


class Place:
    """A directory with a store, plain files and an MPI-IO file, made and removed by the first rank."""

    def __init__(self, parent: str, **layout: Any) -> None:
        import pinstripe

        self.path = world().bcast(tempfile.mkdtemp(prefix="pinstripe-bench-", dir=parent) if rank() == 0 else None)
        self.store = f"{self.path}/store"
        self.targets = [f"{self.path}/target{k}" for k in range(2)]
        if rank() == 0:
            pinstripe.create(self.store, self.targets, **layout)
        world().Barrier()

    def remove(self) -> None:
        world().Barrier()
        if rank() == 0:
            shutil.rmtree(self.path)

    def clear(self) -> None:
        """Before a run that writes: no files, nothing left to be written out."""
        import pinstripe

        world().Barrier()
        if rank() == 0:
            for name in pinstripe.listdir(self.store):
                pinstripe.remove(f"{self.store}/{name}")
            for plain in Path(self.path).glob("plain*"):
                plain.unlink()
            os.sync()
        world().Barrier()

    def plain(self, k: int) -> str:
        return f"{self.path}/plain{k}"


def world() -> Any:
    from mpi4py import MPI

    return MPI.COMM_WORLD


def rank() -> int:
    return int(world().Get_rank())


def size() -> int:
    return int(world().Get_size())


def processor_seconds() -> float:
    """Of all ranks together."""
    return float(world().allreduce(time.process_time()))


def together(case: Case) -> Case:
    """A run ends when the last rank has ended."""

    def run() -> None:
        case()
        world().Barrier()

    return run


# --- cases that write ---------------------------------------------------------------------------------------------


def write_collective(place: Place, data: Bytes, **hints: Any) -> None:
    import pinstripe.mpi

    with pinstripe.mpi.open(world(), f"{place.store}/file", "w", **hints) as file:
        file.write_at_all(rank() * len(data), data)


def write_plain(place: Place, data: Bytes, *, checksum: bool, sync: bool) -> None:
    fd = os.open(place.plain(rank()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    view = data.data
    for at in range(0, len(data), CALL):
        if checksum:
            for start in range(at, at + CALL, BLOCK):
                kernels.crc64(view[start : start + BLOCK])
        os.pwrite(fd, view[at : at + CALL], at)
    if sync:
        os.fsync(fd)
    os.close(fd)


def write_mpiio(place: Place, data: Bytes, *, sync: bool) -> None:
    from mpi4py import MPI

    file = MPI.File.Open(world(), place.plain(9), MPI.MODE_WRONLY | MPI.MODE_CREATE)
    file.Write_at_all(rank() * len(data), data)
    if sync:
        file.Sync()
    file.Close()


# --- cases that read ----------------------------------------------------------------------------------------------


def read_collective(place: Place, out: Bytes) -> None:
    import pinstripe.mpi

    with pinstripe.mpi.open(world(), f"{place.store}/file", "r") as file:
        file.read_at_all((size() - 1 - rank()) * len(out), out)


def read_plain(place: Place, out: Bytes, *, checksum: bool = False) -> None:
    fd = os.open(place.plain(size() - 1 - rank()), os.O_RDONLY)
    view = out.data
    for at in range(0, len(out), CALL):
        os.preadv(fd, [view[at : at + CALL]], at)
        if checksum:
            for start in range(at, at + CALL, BLOCK):
                kernels.crc64(view[start : start + BLOCK])
    os.close(fd)


def read_mpiio(place: Place, out: Bytes) -> None:
    from mpi4py import MPI

    file = MPI.File.Open(world(), place.plain(9), MPI.MODE_RDONLY)
    file.Read_at_all((size() - 1 - rank()) * len(out), out)
    file.Close()


# --- interleaved: one program, two classes -------------------------------------------------------------------------


class Pattern:
    """A view and the bytes that one rank has in it."""

    def __init__(self, title: str, filetype: Any, disp: int, data: Bytes) -> None:
        self.title, self.filetype, self.disp, self.data = title, filetype.Commit(), disp, data
        self.out = np.zeros_like(data)

    @classmethod
    def records(cls) -> "Pattern":
        """Records of 47,008 bytes, dealt out in turn."""
        from mpi4py import MPI

        record = MPI.BYTE.Create_contiguous(RECORD)
        filetype = record.Create_resized(0, size() * RECORD)
        each = RECORDS_BYTES // size() // RECORD * RECORD
        return cls(f"records of {RECORD} bytes", filetype, rank() * RECORD, noise(each, seed=rank() + 1))

    @classmethod
    def lattice(cls) -> "Pattern":
        """A four-dimensional lattice in lexicographic order, the two fastest dimensions cut in two each."""
        from mpi4py import MPI

        site = MPI.DOUBLE.Create_contiguous(SITE)
        cuts = (1, 1, 2, size() // 2)
        block = [n // c for n, c in zip(LATTICE, cuts, strict=True)]
        here = np.unravel_index(rank(), cuts)
        starts = [int(k) * n for k, n in zip(here, block, strict=True)]
        filetype = site.Create_subarray(LATTICE, block, starts)
        title = f"lattice {' x '.join(map(str, LATTICE))} of {SITE * 8} bytes, runs of {block[-1] * SITE * 8}"
        return cls(title, filetype, 0, noise(int(np.prod(block)) * SITE * 8, seed=rank() + 1))


def write_view(file_class: Any, path: str, pattern: Pattern, info: Any = None) -> None:
    from mpi4py import MPI

    file = file_class.Open(world(), path, MPI.MODE_WRONLY | MPI.MODE_CREATE, info or MPI.INFO_NULL)
    file.Set_view(pattern.disp, MPI.BYTE, pattern.filetype)
    file.Write_all(pattern.data)
    file.Close()


def read_view(file_class: Any, path: str, pattern: Pattern) -> None:
    from mpi4py import MPI

    file = file_class.Open(world(), path, MPI.MODE_RDONLY)
    file.Set_view(pattern.disp, MPI.BYTE, pattern.filetype)
    file.Read_all(pattern.out)
    file.Close()


def interleaved_write(runs: int, where: str, parent: str, make: Callable[[], Pattern]) -> Table:
    from mpi4py import MPI

    import pinstripe.mpi

    place, pattern = Place(parent), make()
    info = MPI.Info.Create({"pinstripe_durability": "none"})
    cases: dict[str, Case] = {
        "pinstripe Write_all, durability=none": partial(
            write_view, pinstripe.mpi.File, f"{place.store}/file", pattern, info
        ),
        "own plain files, 8 MiB pwrite, and crc64": partial(
            write_plain, place, pattern.data, checksum=True, sync=False
        ),
        "MPI.File Write_all": partial(write_view, MPI.File, place.plain(9), pattern),
    }
    title = f"write, {pattern.title}, {size()} ranks, {where}"
    table = timed(cases, runs, place.clear, title, size() * len(pattern.data))
    place.remove()
    return table


def interleaved_read(runs: int, where: str, parent: str, make: Callable[[], Pattern]) -> Table:
    from mpi4py import MPI

    import pinstripe.mpi

    place, pattern = Place(parent), make()
    write_view(pinstripe.mpi.File, f"{place.store}/file", pattern)
    write_view(MPI.File, place.plain(9), pattern)
    cases: dict[str, Case] = {
        "pinstripe Read_all, verified": partial(read_view, pinstripe.mpi.File, f"{place.store}/file", pattern),
        "MPI.File Read_all": partial(read_view, MPI.File, place.plain(9), pattern),
    }
    title = f"read, {pattern.title}, {size()} ranks, {where}, from the page cache"
    table = timed(cases, runs, world().Barrier, title, size() * len(pattern.data))
    if not np.array_equal(pattern.out, pattern.data):
        raise AssertionError("what was read is not what was written")
    place.remove()
    return table


# --- tables -------------------------------------------------------------------------------------------------------


def timed(cases: dict[str, Case], runs: int, before: Case, title: str, moved_bytes: int) -> Table:
    collective: dict[str, Case | Missing] = {name: together(case) for name, case in cases.items()}
    return compare(collective, runs, title=title, moved_bytes=moved_bytes, before=before, cpu_clock=processor_seconds)


def contiguous_write(runs: int, where: str, parent: str, *, sync: bool) -> Table:
    place, data = Place(parent), noise(BYTES, seed=rank() + 1)
    durability = "full" if sync else "none"
    cases: dict[str, Case] = {
        f"write_at_all, durability={durability}": partial(write_collective, place, data, durability=durability),
        "own plain files, 8 MiB pwrite, and crc64": partial(write_plain, place, data, checksum=True, sync=sync),
        "own plain files, 8 MiB pwrite": partial(write_plain, place, data, checksum=False, sync=sync),
        "MPI.File.Write_at_all": partial(write_mpiio, place, data, sync=sync),
    }
    if not sync:
        cases["write_at_all, durability=full"] = partial(write_collective, place, data, durability="full")
    title = f"write, contiguous, random bytes, {size()} ranks x {BYTES >> 20} MiB, {where}"
    table = timed(cases, runs, place.clear, title, size() * BYTES)
    place.remove()
    return table


def contiguous_read(runs: int, where: str, parent: str) -> Table:
    place, data = Place(parent), noise(BYTES, seed=rank() + 1)
    write_collective(place, data, durability="none")
    write_plain(place, data, checksum=False, sync=False)
    write_mpiio(place, data, sync=False)
    like_numpy, on_page = in_pages(BYTES, 16), in_pages(BYTES)
    cases: dict[str, Case] = {
        "read_at_all, into memory as numpy gives it": partial(read_collective, place, like_numpy),
        "read_at_all, into pages": partial(read_collective, place, on_page),
        "8 MiB preadv, into memory as numpy gives it": partial(read_plain, place, like_numpy),
        "8 MiB preadv, into pages": partial(read_plain, place, on_page),
        "8 MiB preadv, into pages, and crc64": partial(read_plain, place, on_page, checksum=True),
        "MPI.File.Read_at_all, into memory as numpy gives it": partial(read_mpiio, place, like_numpy),
        "MPI.File.Read_at_all, into pages": partial(read_mpiio, place, on_page),
    }
    title = f"read on the other rank, random bytes, {size()} ranks x {BYTES >> 20} MiB, {where}, from the page cache"
    table = timed(cases, runs, world().Barrier, title, size() * BYTES)
    place.remove()
    return table


def slow_targets(runs: int, parent: str) -> Table:
    import pinstripe
    from pinstripe.testing.targets import wrap

    place, data = Place(parent), text(SLOW_BYTES)
    store = pinstripe.Store.find(place.store)
    wrap(store, {target: {"bytes_per_s": SLOW_RATE} for target in place.targets})
    cases: dict[str, Case] = {
        "codec=auto": partial(write_collective, place, data, durability="none"),
        "codec=raw": partial(write_collective, place, data, durability="none", codec="raw"),
    }
    title = f"write, text, {size()} ranks x {SLOW_BYTES >> 20} MiB, two targets of {SLOW_RATE // 10**6} MB/s each"
    table = timed(cases, runs, place.clear, title, size() * SLOW_BYTES)
    place.remove()
    return table


def tables(runs: int) -> list[Callable[[], Table]]:
    disk = tempfile.gettempdir()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else disk
    interleaved = [
        partial(table, runs, "tmpfs", memory, make)
        for make in (Pattern.records, Pattern.lattice)
        for table in (interleaved_write, interleaved_read)
    ]
    if size() > min(JOBS):
        return list(interleaved)
    return [
        partial(contiguous_write, runs, "tmpfs", memory, sync=False),
        partial(contiguous_read, runs, "tmpfs", memory),
        partial(contiguous_write, runs, "disk, synced", disk, sync=True),
        partial(contiguous_read, runs, "disk", disk),
        partial(slow_targets, runs, memory),
        *interleaved,
    ]


if __name__ == "__main__":
    if not any(name in os.environ for name in LAUNCHERS):
        sys.exit(max(start_job(ranks) for ranks in JOBS))
    from mpi4py import MPI

    about = {"mpi": MPI.Get_library_version().split(",")[0].strip(), "crc64": kernels.crc64_implementation()}
    main(tables, about | {"lz4": kernels.lz4_library()}, speaks=rank() == 0)
