"""A block-decomposed 3-D field and a text log, written by all ranks into shared files, and read back on any number of ranks.

    mpirun -n 4 python -m mpi4py examples/checkpoint.py write   STORE/field STORE/log
    mpirun -n 3 python -m mpi4py examples/checkpoint.py restart STORE/field STORE/log
    mpirun -n 4 python -m mpi4py examples/checkpoint.py mpiio   PLAIN/field PLAIN/log      # the same by MPI.File, to compare

`restart` checks every value, so it tells whether what was read is what some number of ranks wrote. The last line that rank 0 prints is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import pinstripe.mpi

Field = npt.NDArray[np.float64]
LINES = 40_000  # of the log, a rank


def block(comm: MPI.Comm, shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give this rank its block of the field: starts and shape. Blocks differ in size where the ranks do not divide the field."""
    grid = MPI.Compute_dims(comm.size, 3)
    where = np.unravel_index(comm.rank, grid)
    edges = [np.linspace(0, n, g + 1).astype(int) for n, g in zip(shape, grid, strict=True)]
    starts = tuple(int(edge[k]) for edge, k in zip(edges, where, strict=True))
    ends = tuple(int(edge[k + 1]) for edge, k in zip(edges, where, strict=True))
    return starts, tuple(b - a for a, b in zip(starts, ends, strict=True))


def values(starts: tuple[int, ...], counts: tuple[int, ...], step: int) -> Field:
    """Make the block's values: smooth waves and a little noise, a function of place and step alone, so that any rank can check them."""
    x, y, z = (np.arange(a, a + n, dtype=np.float64) for a, n in zip(starts, counts, strict=True))
    smooth = np.sin(0.02 * x + step)[:, None, None] + np.cos(0.03 * y)[None, :, None] * np.sin(0.01 * z)[None, None, :]
    place = (x[:, None, None] * 7919 + y[None, :, None] * 104729 + z[None, None, :] * 1299709) % 1021
    return np.ascontiguousarray(smooth + np.round(place) * 2.0**-30)


def log_text(rank: int, step: int) -> bytes:
    """Make one rank's part of the log; lines differ in length, so parts of different ranks share stripes."""
    return "".join(
        f"step {step} rank {rank:5d} line {k:6d} residual {1 / (k + 1):.6e} ok\n" for k in range(LINES)
    ).encode()


def kill_soon(after_s: float) -> None:
    """Kill this rank in the middle of what it does next."""
    threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def limit_target(path: str, limit: str) -> None:
    """Let one target of the store take no more than so many bytes, as a small disk would (a test double counts them)."""
    from pinstripe.testing.targets import wrap

    target, _, most = limit.rpartition("=")
    wrap(pinstripe.Store.find(path), {target: {"limit_bytes": int(most)}})


def write(comm: MPI.Comm, args: argparse.Namespace) -> dict[str, object]:
    """Write field and log with pinstripe; collective, atomic."""
    shape = tuple(args.shape)
    starts, counts = block(comm, shape)
    mine, text = values(starts, counts, args.step), log_text(comm.rank, args.step)
    before = comm.exscan(len(text)) or 0
    if args.limit:
        limit_target(args.field, args.limit)
    if args.kill is not None and comm.rank == args.kill:
        kill_soon(args.kill_after)
    comm.Barrier()
    begun = time.perf_counter()
    with pinstripe.mpi.open(comm, args.field, "w", durability=args.durability) as file:
        file.write_array_all(mine, shape, starts)
        if args.kill is not None:  # written, not committed: whoever is killed now must not be seen
            time.sleep(2 * args.kill_after)
        report = file.report()
    field_s = time.perf_counter() - begun
    with pinstripe.mpi.open(comm, args.log, "w", durability=args.durability) as file:
        file.write_at_all(before, text)
    if comm.rank == 0 and args.report:
        print(report)
    raw = 8 * shape[0] * shape[1] * shape[2]
    return {"seconds": field_s, "raw_bytes": raw, "stored_bytes": pinstripe.stat(args.field).st_blocks * 512}


def restart(comm: MPI.Comm, args: argparse.Namespace) -> dict[str, object]:
    """Read both back on this number of ranks and check every value."""
    shape = tuple(args.shape)
    starts, counts = block(comm, shape)
    out = np.empty(counts, np.float64)
    comm.Barrier()
    begun = time.perf_counter()
    with pinstripe.mpi.open(comm, args.field, "r") as file:
        file.read_array_all(out, shape, starts)
        generation = file.generation
    seconds = time.perf_counter() - begun
    wrong = int(np.count_nonzero(out != values(starts, counts, args.step)))
    with pinstripe.mpi.open(comm, args.log, "r") as file:
        share = np.linspace(0, file.size, comm.size + 1).astype(int)
        part = np.empty(share[comm.rank + 1] - share[comm.rank], np.uint8)
        file.read_at_all(int(share[comm.rank]), part)
    whole = comm.gather(part.tobytes())
    if whole is not None:
        expected = b"".join(log_text(rank, args.step) for rank in range(args.writers))
        wrong += b"".join(whole) != expected
    wrong = comm.allreduce(wrong)
    return {"seconds": seconds, "wrong": wrong, "generation": generation, "raw_bytes": 8 * int(np.prod(shape))}


def mpiio(comm: MPI.Comm, args: argparse.Namespace) -> dict[str, object]:
    """Write and read the same field with MPI.File and a subarray view."""
    shape = tuple(args.shape)
    starts, counts = block(comm, shape)
    mine, out = values(starts, counts, args.step), np.empty(counts, np.float64)
    subarray = MPI.DOUBLE.Create_subarray(shape, counts, starts).Commit()
    comm.Barrier()
    begun = time.perf_counter()
    file = MPI.File.Open(comm, args.field, MPI.MODE_CREATE | MPI.MODE_WRONLY)
    file.Set_view(0, MPI.DOUBLE, subarray)
    file.Write_all(mine)
    if args.durability == "full":
        file.Sync()
    file.Close()
    write_s = time.perf_counter() - begun
    comm.Barrier()
    begun = time.perf_counter()
    file = MPI.File.Open(comm, args.field, MPI.MODE_RDONLY)
    file.Set_view(0, MPI.DOUBLE, subarray)
    file.Read_all(out)
    file.Close()
    read_s = time.perf_counter() - begun
    subarray.Free()
    wrong = comm.allreduce(int(np.count_nonzero(out != mine)))
    return {"seconds": write_s, "read_seconds": read_s, "wrong": wrong, "raw_bytes": 8 * int(np.prod(shape))}


def main() -> None:
    """Do what the command line says; the slowest rank's time is the job's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "restart", "mpiio"))
    parser.add_argument("field")
    parser.add_argument("log")
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 256, 256))
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--writers", type=int, default=4, help="ranks that wrote the log (restart)")
    parser.add_argument("--durability", choices=("full", "none"), default="full")
    parser.add_argument("--kill", type=int, help="this rank is killed in mid-write")
    parser.add_argument("--kill-after", type=float, default=0.5)
    parser.add_argument("--limit", metavar="TARGET=BYTES", help="a target that is full after so many bytes")
    parser.add_argument("--report", action="store_true", help="print what was decided and where the time went")
    args = parser.parse_args()
    comm = MPI.COMM_WORLD
    result = {"write": write, "restart": restart, "mpiio": mpiio}[args.what](comm, args)
    for key in ("seconds", "read_seconds"):
        if key in result:
            result[key] = comm.allreduce(result[key], MPI.MAX)
    if comm.rank == 0:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
