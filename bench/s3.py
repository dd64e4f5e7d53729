"""Staging from and to a bucket, beside boto3 and other clients: ``python -m bench.s3 [--runs N] [--json]``.

Starts itself on two ranks, where no launcher did, and a real S3 server on loopback that keeps its data in memory where there is some. Client and
server share the machine, so seconds tell little; the client's processor seconds for each GB are the steadier figure. They are of all ranks;
other programs' are those of their processes. A peer that runs on one rank leaves the other asleep.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.collective import rank, size, start_job, world
from bench.harness import Case, Figures, Missing, Table, compare, main
from bench.inputs import noise

RANKS = 2
LARGE = 1 << 30
FILES, FILE = 5000, 10_000
KEYS = 10_000
FULL_RUNS = 3  # of what takes a minute each
LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_ID")
FSX_EXPORT, FSX_RESTORE, FSX_IMPORT = 213, 345, 2000  # files a second, published of FSx for Lustre; see bench/README.md


def quiet_barrier() -> None:
    """Wait for the other ranks asleep: a rank that spins takes a core and counts as work."""
    request = world().Ibarrier()
    while not request.Test():
        time.sleep(0.001)


def processor_seconds() -> float:
    """Of all ranks and of the programs that they ran and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return float(world().allreduce(sum(each.ru_utime + each.ru_stime for each in used)))


def together(case: Case) -> Case:
    """A run ends when the last rank has ended."""

    def run() -> None:
        case()
        quiet_barrier()

    return run


def alone(case: Case) -> Case:
    """What one process does; the other ranks sleep."""

    def run() -> None:
        if rank() == 0:
            case()
        quiet_barrier()

    return run


class Place:
    """A directory with a server, its bucket and a store; made and removed by the first rank."""

    def __init__(self) -> None:
        import pinstripe
        from pinstripe.testing.s3_server import S3Server

        parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.path = world().bcast(tempfile.mkdtemp(prefix="pinstripe-bench-", dir=parent) if rank() == 0 else None)
        self.store = f"{self.path}/store"
        self.server: S3Server | None = None
        if rank() == 0:
            self.server = S3Server(f"{self.path}/server")
            pinstripe.create(self.store, [f"{self.path}/target{k}" for k in range(2)])
        os.environ.update(world().bcast(self.server.environment() if self.server is not None else None))
        import boto3
        from boto3.s3.transfer import TransferConfig

        self.client: Any = boto3.client("s3")
        self.transfer = TransferConfig(preferred_transfer_client="classic")
        if rank() == 0:
            self.client.create_bucket(Bucket="bench")
        world().Barrier()

    def remove(self) -> None:
        world().Barrier()
        self.client.close()
        if self.server is not None:
            self.server.stop()
            shutil.rmtree(self.path)

    def clear(self, prefix: str = "out/") -> None:
        """Before a run: nothing of the last one, here or in the bucket."""
        import pinstripe

        world().Barrier()
        if rank() == 0:
            for name in ("in", "lazy"):
                for top, directories, files in pinstripe.walk(f"{self.store}/{name}", topdown=False):
                    for each in files:
                        pinstripe.remove(f"{top}/{each}")
                    for each in directories:
                        pinstripe.rmdir(f"{top}/{each}")
            shutil.rmtree(f"{self.path}/plain", ignore_errors=True)
            os.mkdir(f"{self.path}/plain")
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=prefix)
            for page in pages:
                keys = [{"Key": item["Key"]} for item in page.get("Contents", ())]
                if keys:
                    self.client.delete_objects(Bucket="bench", Delete={"Objects": keys})
        world().Barrier()


def team() -> Any:
    from pinstripe.mpi import world_team

    return world_team()


def check(summary: Any) -> None:
    if summary.exit_code:
        raise SystemExit(f"staging ended with {summary}")


def stage_in(place: Place, prefix: str) -> None:
    from pinstripe.s3 import stage_in

    check(stage_in(f"s3://bench/{prefix}", f"{place.store}/in", team=team()))


def stage_out(place: Place, name: str) -> None:
    from pinstripe.s3 import stage_out

    check(stage_out(f"{place.store}/{name}", "s3://bench/out/", team=team()))


def program(name: str, install: str, *words: str) -> Case | Missing:
    """Another client's program, where it is on the path."""
    found = shutil.which(name)
    if found is None:
        return Missing(install)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return alone(partial(subprocess.run, [found, *words], check=True, **quiet))


def large(runs: int, place: Place, direction: str) -> Table:
    """One object of 1 GiB that does not compress."""
    import pinstripe

    data = noise(LARGE) if rank() == 0 else np.zeros(0, np.uint8)
    plain = f"{place.path}/plain/large"
    url = os.environ["AWS_ENDPOINT_URL"]
    if rank() == 0 and direction == "in":
        with open(f"{place.path}/source", "wb") as file:
            file.write(data.data)
        place.client.upload_file(f"{place.path}/source", "bench", "large/one", Config=place.transfer)
        os.unlink(f"{place.path}/source")
    if rank() == 0 and direction == "out":
        pinstripe.makedirs(f"{place.store}/large", exist_ok=True)
        with pinstripe.open(f"{place.store}/large/one", "wb", buffering=0) as held:
            held.write(data)
        with open(f"{place.path}/source", "wb") as file:
            file.write(data.data)
    del data
    peer: Callable[[], object]
    if direction == "in":
        ours = partial(stage_in, place, "large/")
        peer = partial(place.client.download_file, "bench", "large/one", plain, Config=place.transfer)
        s5cmd = program("s5cmd", "s5cmd, a program in Go", "--endpoint-url", url, "cp", "s3://bench/large/one", plain)
    else:
        ours = partial(stage_out, place, "large")
        peer = partial(place.client.upload_file, f"{place.path}/source", "bench", "out/plain", Config=place.transfer)
        s5cmd = program(
            "s5cmd", "s5cmd, a program in Go", "--endpoint-url", url, "cp", f"{place.path}/source", "s3://bench/out/5"
        )
    word = {"in": "download_file", "out": "upload_file"}[direction]
    return compare(
        {f"pinstripe stage-{direction}, {size()} ranks": together(ours), f"boto3 {word}": alone(peer), "s5cmd": s5cmd},
        runs,
        title=f"stage {direction} 1 GiB of noise: compressed, checksummed and proven, beside a plain copy",
        moved_bytes=LARGE,
        before=place.clear,
        cpu_clock=processor_seconds,
    )


def small(runs: int, place: Place, direction: str) -> Table:
    """Many small objects."""
    import pinstripe

    if rank() == 0:
        os.makedirs(f"{place.path}/many", exist_ok=True)
        pinstripe.makedirs(f"{place.store}/many", exist_ok=True)
        data = noise(FILE * FILES)
        for k in range(FILES):
            part = data[k * FILE : (k + 1) * FILE]
            Path(f"{place.path}/many/{k:05}").write_bytes(part.data)
            if direction == "out":
                with pinstripe.open(f"{place.store}/many/{k:05}", "wb", buffering=0, durability="none") as file:
                    file.write(part)
    world().Barrier()
    if direction == "in":
        _put_many(place, FILES)
        ours = partial(stage_in, place, "many/")
        words = ("s3://bench/many/", f"{place.path}/plain/")
    else:
        ours = partial(stage_out, place, "many")
        words = (f"{place.path}/many/", "s3://bench/out/aws/")
    aws = program(
        "aws",
        "pip install awscli, in an environment of its own",
        "s3",
        "cp",
        "--recursive",
        "--only-show-errors",
        *words,
    )
    fsx = {"in": FSX_RESTORE, "out": FSX_EXPORT}[direction]
    return compare(
        {f"pinstripe stage-{direction}, {size()} ranks": together(ours), "aws s3 cp --recursive": aws},
        min(runs, FULL_RUNS),
        title=f"stage {direction} {FILES} objects of {FILE} bytes (FSx for Lustre, published: {fsx} files a second)",
        items=FILES,
        item="object",
        before=place.clear,
        cpu_clock=processor_seconds,
    )


def _put_many(place: Place, count: int) -> None:
    """Put what was not put yet, all ranks together."""
    from concurrent.futures import ThreadPoolExecutor

    from pinstripe.format.remote import Endpoint
    from pinstripe.s3.client import Client

    client = Client.of(Endpoint())
    with ThreadPoolExecutor(8) as pool:
        body = noise(FILE).tobytes()
        mine = range(rank(), count, size())
        list(pool.map(lambda k: client.put("bench", f"many/{k:05}", body, crc64=None), mine))
    world().Barrier()


def listing(runs: int, place: Place) -> Table:
    """Listing and stubbing."""
    from pinstripe.s3 import stage_in

    _put_many(place, KEYS)

    def lazily() -> None:
        summary = stage_in("s3://bench/many/", f"{place.store}/lazy", lazy=True, attributes=False, team=team())
        check(summary)

    def list_only() -> None:
        for _ in place.client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix="many/"):
            pass

    return compare(
        {f"stage-in --lazy, {size()} ranks": together(lazily), "boto3, listing alone": alone(list_only)},
        min(runs, FULL_RUNS),
        title=f"{KEYS} keys listed and made stubs (FSx for Lustre, published: about {FSX_IMPORT} objects a second)",
        items=KEYS,
        item="object",
        before=place.clear,
        cpu_clock=processor_seconds,
    )


def cold_open(place: Place) -> Figures:
    """One small dataset of a large HDF5 object, through the lazy path."""
    import h5py

    import pinstripe
    from pinstripe.s3 import stage_in
    from pinstripe.store.state import state_of

    place.clear()
    amounts: dict[str, float] = {}
    if rank() == 0:
        source = f"{place.path}/cold.h5"
        with h5py.File(source, "w") as file:
            file["large"] = noise(LARGE).view("f8")
            file["small"] = np.arange(100.0)
        place.client.upload_file(source, "bench", "cold/cold.h5", Config=place.transfer)
        os.unlink(source)
        check(stage_in("s3://bench/cold/", f"{place.store}/lazy", lazy=True))
        path = f"{place.store}/lazy/cold.h5"
        began = time.perf_counter()
        with pinstripe.open(path, "rb") as opened, h5py.File(opened, "r") as file:
            if file["small"][99] != 99.0:
                raise SystemExit("the dataset reads wrong")
        lazy_s = time.perf_counter() - began
        amounts["bytes fetched, per cent of the object"] = (
            100 * state_of(path).resident_bytes / pinstripe.stat(path).st_size
        )
        began = time.perf_counter()
        place.client.download_file("bench", "cold/cold.h5", f"{place.path}/plain/cold.h5", Config=place.transfer)
        whole_s = time.perf_counter() - began
        amounts["time, per cent of boto3 download_file's"] = 100 * lazy_s / whole_s
    world().Barrier()
    return Figures("one small dataset of a cold 1 GiB HDF5 object", "per cent", amounts)


def tables(runs: int) -> Iterator[Callable[[], Table | Figures]]:
    place = Place()
    try:
        runs = min(runs, 5) if runs > 5 else runs  # a round of 1 GiB takes most of a minute
        yield partial(large, runs, place, "in")
        yield partial(large, runs, place, "out")
        yield partial(small, runs, place, "in")
        yield partial(small, runs, place, "out")
        yield partial(listing, runs, place)
        yield partial(cold_open, place)
    finally:
        place.remove()


if __name__ == "__main__":
    if any(name in os.environ for name in LAUNCHERS):
        main(tables, speaks=rank() == 0)
    else:
        sys.exit(start_job(RANKS, "bench.s3"))
