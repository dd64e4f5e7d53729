"""Particles, of which each rank has another number in each step, by plain MPI.File code that runs with either class.

    mpirun -n 4 python -m mpi4py examples/particles.py STORE/particles --io pinstripe
    mpirun -n 3 python -m mpi4py examples/particles.py STORE/particles --io pinstripe --read
    mpirun -n 4 python -m mpi4py examples/particles.py PLAIN/particles --io mpi --most 200000 --steps 5

One file holds all steps: a header that says how many particles each step has, then the particles, those of rank 0 first.
`--read` reads it on any number of ranks, deals the particles out evenly, and checks them. Rank 0 prints a table.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

import pinstripe.mpi

PARTICLE = np.dtype([("id", "i8"), ("position", "f8", 3), ("velocity", "f4", 3), ("kind", "i4")])
MAGIC = 0x7061727469636C65
HEADER = 1024  # numbers: the magic, how many steps, how many particles each

Particles = npt.NDArray[Any]


def particles(first: int, count: int, step: int) -> Particles:
    """Make particles `first` to ``first + count`` of a step: each a function of its number and the step alone."""
    made = np.zeros(count, PARTICLE)
    number = np.arange(first, first + count)
    made["id"], made["kind"] = number, number % 7
    made["position"] = np.sin(0.001 * number[:, None] + np.arange(3) + step)
    made["velocity"] = (number[:, None] % 1000) * 0.5 + step
    return made


def particle_type() -> MPI.Datatype:
    """Describe one particle, as it lies in memory and in the file."""
    basic = {"i8": MPI.INT64_T, "f8": MPI.DOUBLE, "f4": MPI.FLOAT, "i4": MPI.INT32_T}
    assert PARTICLE.fields is not None
    counts, places, types = [], [], []
    for name in PARTICLE.names or ():
        field, offset = PARTICLE.fields[name][:2]
        counts.append(int(np.prod(field.shape, dtype=int)))
        places.append(offset)
        types.append(basic[field.base.str[1:]])
    made = MPI.Datatype.Create_struct(counts, places, types)
    return made.Create_resized(0, PARTICLE.itemsize).Commit()


def write(comm: MPI.Comm, file_class: Any, path: str, steps: int, most: int) -> None:
    kind = particle_type()
    file = file_class.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_WRONLY)
    file.Set_size(0)
    header = np.zeros(HEADER, np.int64)
    header[:2] = MAGIC, steps
    place = header.nbytes
    for step in range(steps):
        count = most * (comm.rank + step) // (comm.size + steps)  # rank 0 has none in step 0
        before = comm.exscan(count) or 0
        total = comm.allreduce(count)
        mine = particles(before, count, step)
        comm.Barrier()
        began = time.perf_counter()
        file.Set_view(place, kind, kind)
        file.Write_at_all(before, (mine, count, kind))
        spent = time.perf_counter() - began
        header[2 + step] = total
        place += total * PARTICLE.itemsize
        told(comm, step, total, spent)
    file.Set_view(0, MPI.INT64_T, MPI.INT64_T)
    file.Write_at_all(0, header if comm.rank == 0 else (header, 0, MPI.INT64_T))
    file.Close()


def read(comm: MPI.Comm, file_class: Any, path: str) -> None:
    kind = particle_type()
    file = file_class.Open(comm, path, MPI.MODE_RDONLY)
    header = np.zeros(HEADER, np.int64)
    file.Read_at_all(0, header)
    if header[0] != MAGIC:
        raise SystemExit(f"{path}: no file that this program wrote")
    place = header.nbytes
    for step in range(int(header[1])):
        total = int(header[2 + step])
        first, last = (total * (comm.rank + k) // comm.size for k in (0, 1))
        mine = np.zeros(last - first, PARTICLE)
        comm.Barrier()
        began = time.perf_counter()
        file.Set_view(place, kind, kind)
        file.Read_at_all(first, (mine, last - first, kind))
        spent = time.perf_counter() - began
        good = comm.allreduce(np.array_equal(mine, particles(first, last - first, step)), MPI.LAND)
        told(comm, step, total, spent, "yes" if good else "NO")
        if not good:
            raise SystemExit(f"step {step}: what was read is not what was written")
        place += total * PARTICLE.itemsize
    file.Close()


def told(comm: MPI.Comm, step: int, count: int, spent: float, verified: str = "") -> None:
    spent = comm.reduce(spent, MPI.MAX)
    if comm.rank == 0:
        print(f"{step:>4} {count:>12} {count * PARTICLE.itemsize / spent / 1e9:>8.2f}  {verified}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="the file; in a store for --io pinstripe")
    parser.add_argument("--io", choices=("mpi", "pinstripe"), default="pinstripe")
    parser.add_argument("--read", action="store_true", help="read and check what is there")
    parser.add_argument("--most", type=int, default=100_000, help="particles that a rank has at most")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    if options.most < 1 or not 1 <= options.steps <= HEADER - 2:
        parser.error(f"--most takes numbers from 1 on, --steps from 1 to {HEADER - 2}")

    comm = MPI.COMM_WORLD
    file_class = MPI.File if options.io == "mpi" else pinstripe.mpi.File  # the only difference
    if comm.rank == 0:
        print(f"{options.io}, {comm.size} ranks\n{'step':>4} {'particles':>12} {'GB/s':>8}  ")
    if options.read:
        read(comm, file_class, options.path)
    else:
        write(comm, file_class, options.path, options.steps, options.most)


if __name__ == "__main__":
    main()
