"""A block-decomposed 3-D checkpoint by plain MPI.File code, which runs unchanged with either class.

    mpirun -n 4 python -m mpi4py examples/block3d.py STORE/run --io pinstripe
    mpirun -n 4 python -m mpi4py examples/block3d.py PLAIN/run --io mpi --shape 256 256 256 --steps 5

Every step is written to its own file (PATH-0000, ...), then read back in slabs, another decomposition, and checked.
Rank 0 prints a table.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import pinstripe
import pinstripe.mpi

Field = npt.NDArray[np.float64]


def decompose(comm: MPI.Comm, shape: list[int], grid: list[int]) -> tuple[list[int], list[int]]:
    """Give this rank its block of an array cut along a grid of ranks: starts and lengths."""
    where = np.unravel_index(comm.rank, grid)
    edges = [np.linspace(0, n, parts + 1).astype(int) for n, parts in zip(shape, grid, strict=True)]
    starts = [int(edge[k]) for edge, k in zip(edges, where, strict=True)]
    lengths = [int(edge[k + 1]) - start for edge, k, start in zip(edges, where, starts, strict=True)]
    return starts, lengths


def values(starts: list[int], lengths: list[int], step: int) -> Field:
    """Make a block's values: a function of place and step alone, so that any rank can check them."""
    x, y, z = (np.arange(start, start + n, dtype=np.float64) for start, n in zip(starts, lengths, strict=True))
    return np.ascontiguousarray(
        np.sin(0.02 * x + step)[:, None, None] + np.cos(0.03 * y)[None, :, None] * np.sin(0.01 * z)[None, None, :]
    )


def block_type(shape: list[int], starts: list[int], lengths: list[int]) -> MPI.Datatype:
    """Describe a block of the array in the file; a rank without elements gets an empty type."""
    if 0 in lengths:
        return MPI.DOUBLE.Create_contiguous(0).Commit()
    return MPI.DOUBLE.Create_subarray(shape, lengths, starts).Commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="begin of the files' names; in a store for --io pinstripe")
    parser.add_argument("--io", choices=("mpi", "pinstripe"), default="pinstripe")
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 128, 128], metavar="N")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    if min(options.shape) < 1 or options.steps < 1:
        parser.error("--shape and --steps take numbers from 1 on")

    comm = MPI.COMM_WORLD
    File = MPI.File if options.io == "mpi" else pinstripe.mpi.File  # the only difference
    shape = options.shape
    starts, lengths = decompose(comm, shape, MPI.Compute_dims(comm.size, 3))
    slab_starts, slab_lengths = decompose(comm, shape, [comm.size, 1, 1])
    written, slab = block_type(shape, starts, lengths), block_type(shape, slab_starts, slab_lengths)
    nbytes = int(np.prod(shape)) * 8
    if comm.rank == 0:
        print(f"{options.io}: {' x '.join(map(str, shape))} float64, {nbytes / 1e6:.1f} MB a step, {comm.size} ranks")
        print(f"{'step':>4} {'write GB/s':>11} {'read GB/s':>10} {'stored/raw':>11}  verified")

    for step in range(options.steps):
        name = f"{options.path}-{step:04d}"
        data = values(starts, lengths, step)
        comm.Barrier()
        began = time.perf_counter()
        file = File.Open(comm, name, MPI.MODE_CREATE | MPI.MODE_WRONLY)
        file.Set_size(0)
        file.Set_view(0, MPI.DOUBLE, written)
        file.Write_all(data)
        file.Close()
        comm.Barrier()
        wrote = time.perf_counter() - began

        back = np.zeros(slab_lengths)
        began = time.perf_counter()
        file = File.Open(comm, name, MPI.MODE_RDONLY)
        file.Set_view(0, MPI.DOUBLE, slab)
        file.Read_all(back)
        file.Close()
        comm.Barrier()
        read = time.perf_counter() - began

        good = comm.allreduce(np.array_equal(back, values(slab_starts, slab_lengths, step)), MPI.LAND)
        if comm.rank == 0:
            stored = pinstripe.stat(name).st_blocks * 512 if options.io == "pinstripe" else nbytes
            rates = f"{nbytes / wrote / 1e9:>11.2f} {nbytes / read / 1e9:>10.2f} {stored / nbytes:>11.3f}"
            print(f"{step:>4} {rates}  {'yes' if good else 'NO'}", flush=True)
        if not good:
            raise SystemExit(f"step {step}: what was read is not what was written")


if __name__ == "__main__":
    main()
