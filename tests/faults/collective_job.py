"""What `test_collective` starts on each rank, with the preload library: a collective commit that one rank spoils.

``collective_job.py sweep DIR FAULT RANK FIRST EVERY`` meets call after call, and prints what was wrong as JSON;
``collective_job.py die DIR RANK NTH`` commits once, and says "done" if it comes so far.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from typing import Any

import numpy as np
from mpi4py import MPI

import pinstripe
import pinstripe.mpi
from pinstripe.errors import Error, OutcomeUnknownError
from pinstripe.store import collect
from pinstripe.store.collect import collect_store
from pinstripe.store.store import Store
from pinstripe.store.verify import verify
from pinstripe.testing.faults import FAULTS, Library

COMM = MPI.COMM_WORLD
STRIPE = 1 << 16
EACH = 90_000  # a stripe and a bit: the ranks share stripes
PIECE = 1_000
collect.LISTING_S = 0.0


def content(version: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(version).integers(0, 256, COMM.size * (EACH + 20 * PIECE), np.uint8)


def make(top: str) -> None:
    """On one rank: a store with a file in it."""
    pinstripe.create(f"{top}/store", [f"{top}/a", f"{top}/b"], stripe_bytes=STRIPE)
    with pinstripe.open(f"{top}/store/file", "wb") as file:
        file.write(content(0).tobytes())


def commit(top: str) -> None:
    """Collective: write version 1, contiguous pieces and interleaved ones."""
    data = content(1)
    with pinstripe.mpi.open(COMM, f"{top}/store/file", "w", grace_s=0) as file:
        begin = COMM.rank * EACH
        file.write_at_all(begin, data[begin : begin + EACH])
        shared = data[COMM.size * EACH :]
        places = np.arange(COMM.rank * PIECE, len(shared), COMM.size * PIECE)
        for place in places[:2]:
            file.write_at_all(COMM.size * EACH + int(place), shared[place : place + PIECE])
        rest = places[2:]
        for place in rest[:-1]:
            file.write_at(COMM.size * EACH + int(place), shared[place : place + PIECE])
        file.write_at_all(COMM.size * EACH + int(rest[-1]), shared[rest[-1] : rest[-1] + PIECE])


def judge(top: str, fault: Any, hit: Any, errors: list[tuple[str, Any, bool, str] | None]) -> list[str]:
    """On one rank, afterwards: what is wrong."""
    problems = []
    kinds = {error[:3] if error else None for error in errors}
    if len(kinds) > 1:
        problems.append(f"the ranks disagree: {errors}")
    path = f"{top}/store/file"
    with pinstripe.open(path, "rb") as file:
        data = file.read()
    old, new = content(0).tobytes(), content(1).tobytes()
    first = errors[0]
    if first is None:
        if data != new:
            problems.append("it was acknowledged, and is not there")
    else:
        if data != old and not (first[2] and data == new):
            problems.append(f"it was refused, and something is there: {first}")
        if first[1] not in (fault.error, 5):
            problems.append(f"another errno: {first}")
        if "rank " not in first[3]:
            problems.append(f"the error names no rank: {first}")
        unclear = hit.is_directory or hit.operation in ("link", "rename", "open")
        if first[2] and not unclear and not fault.persistent:
            problems.append(f"the outcome is not unclear: {first}")
    if not verify(Store.find(path), path).good:
        problems.append("verify finds damage")
    for _ in range(2):
        collect_store(Store.find(path), grace_s=0.0)
    left = [name for _, _, names in os.walk(f"{top}/store/.pinstripe/files") for name in names if name.endswith(".tx")]
    if left and not fault.persistent and hit is not None and hit.operation != "unlink":
        problems.append(f"left: {left}")
    return problems


def sweep(top: str, name: str, rank: int, first: int, every: int) -> None:
    library, fault = Library(), FAULTS[name]
    failures: list[str] = []
    points, outcomes = 0, {}
    for nth in range(first, 2000, every):
        here = f"{top}/{nth}"
        if COMM.rank == 0:
            os.mkdir(here)
            library.arm(here, fault, 0)  # syncs do nothing
            make(here)
        COMM.Barrier()
        library.reset()
        library.arm(here, fault, nth if COMM.rank == rank else 0)
        error = None
        try:
            commit(here)
        except (OSError, Error) as raised:
            error = (type(raised).__name__, raised.errno, isinstance(raised, OutcomeUnknownError), str(raised))  # type: ignore[union-attr]
        except Exception as raised:
            error = (type(raised).__name__, 0, False, repr(raised))
        library.arm(here, fault, 0)
        gc.collect()
        hit = COMM.bcast(library.hit, rank)
        errors = COMM.gather(error)
        if COMM.rank == 0:
            assert errors is not None
            problems = judge(here, fault, hit, errors)
            outcomes[errors[0][0] if errors[0] else "done"] = outcomes.get(errors[0][0] if errors[0] else "done", 0) + 1
            if problems:
                failures.append(f"call {nth} ({hit}): {'; '.join(problems)}".replace(here, "TOP"))
            library.disarm()
            shutil.rmtree(here)
        if hit is None:
            break
        points += 1
    if COMM.rank == 0:
        print(json.dumps({"points": points, "failures": failures, "outcomes": outcomes}), flush=True)


def die(top: str, rank: int, nth: int) -> None:
    library = Library()
    library.arm(top, FAULTS["kill"], nth if COMM.rank == rank else 0)
    commit(top)
    library.disarm()
    if COMM.rank == 0:
        print("done", flush=True)


if __name__ == "__main__":
    word, top, *rest = sys.argv[1:]
    if word == "sweep":
        sweep(top, rest[0], *map(int, rest[1:]))
    else:
        die(top, *map(int, rest))
