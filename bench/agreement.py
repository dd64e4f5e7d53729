"""What a collective call costs when there is nothing to do, on 1 to 32 ranks: ``python -m bench.agreement [--runs N] [--json]``.

An empty `write_at_all` is one agreement: one Allgather of fixed size, so MPI's own algorithm decides how many messages
a rank sends (recursive doubling or Bruck: about log2 of the ranks). Beside it, in the same job, one bare Allreduce of 8 bytes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.harness import Figures, main

RANKS = (1, 2, 4, 8, 16, 32)
CALLS = 50  # of each, in a run
ROOT = Path(__file__).resolve().parent.parent


def job(ranks: int, runs: int) -> dict[str, float]:
    lines = (ROOT / "tests" / "mpi.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    mpirun = Path(sys.prefix) / "bin" / "mpirun"
    command = [str(mpirun) if mpirun.exists() else "mpirun", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    command += ["-m", "bench.agreement", "--measure", str(runs)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, stdout=subprocess.PIPE)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def measure(runs: int) -> None:
    """One rank's part; rank 0 prints medians in microseconds."""
    import numpy as np
    from mpi4py import MPI

    import pinstripe
    import pinstripe.mpi

    comm = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as directory:
        place = Path(comm.bcast(directory))
        if comm.rank == 0:
            pinstripe.create(place / "store", [place / "target"])
        comm.Barrier()
        word = np.zeros(1)
        with pinstripe.mpi.open(comm, place / "store" / "file", "w", durability="none") as file:
            before = file.report().total.messages, file._shared.stages.agreements
            cases: list[Callable[[], object]] = [
                lambda: file.write_at_all(0, None),
                lambda: comm.Allreduce(MPI.IN_PLACE, word),
            ]
            spent: list[list[float]] = [[], []]
            for _ in range(runs):
                for case, seconds in zip(cases, spent, strict=True):
                    comm.Barrier()
                    began = time.perf_counter()
                    for _ in range(CALLS):
                        case()
                    seconds.append((time.perf_counter() - began) / CALLS * 1e6)
            agreements = file._shared.stages.agreements - before[1]
            messages = file.report().total.messages - before[0]
        comm.Barrier()
    if comm.rank == 0:
        empty, bare = map(statistics.median, spent)
        each = runs * CALLS
        print(json.dumps({"empty": empty, "bare": bare, "agreements": agreements / each, "messages": messages / each}))


def table(runs: int) -> Figures:
    amounts: dict[str, float] = {}
    for ranks in RANKS:
        told = job(ranks, runs)
        amounts[f"{ranks} ranks: empty write_at_all"] = told["empty"]
        amounts[f"{ranks} ranks: bare Allreduce of 8 bytes"] = told["bare"]
        amounts[f"{ranks} ranks: agreements a call"] = told["agreements"]
        amounts[f"{ranks} ranks: other messages a call"] = told["messages"]
    return Figures(f"an empty collective write, on {os.cpu_count()} processors", "us, or number", amounts)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(int(sys.argv[sys.argv.index("--measure") + 1]))
    else:
        main(lambda runs: [partial(table, runs)])
