"""The main job, seen: four targets, mpirun, a field and a log; restart on another number of ranks; a killed rank; a full target; a bucket.

    python examples/demo.py [--size M] [--keep]

Runs on this machine alone, in a temporary directory, and removes it. The jobs are `mpirun` of examples/checkpoint.py; the bucket is
one of a real S3 server on loopback, looked at by plain boto3.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import pinstripe
from pinstripe.store.state import state_of
from pinstripe.testing.s3_server import S3Server

HERE = Path(__file__).resolve().parent
CONSOLE = Console(width=None if sys.stdout.isatty() else 110)
TARGETS = 4
SMALL_BYTES = 8 << 20  # what the size-limited target takes


def mpi_environment() -> dict[str, str]:
    """The environment of the jobs: this one, with the settings of tests/mpi.env."""
    lines = (HERE.parent / "tests" / "mpi.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**os.environ, **settings}


def run(ranks: int, *words: str, must_fail: bool = False) -> dict[str, Any]:
    """Run examples/checkpoint.py on so many ranks; return the JSON of its last line, and print what came before it."""
    mpirun = Path(sys.prefix) / "bin" / "mpirun"
    command = [str(mpirun) if mpirun.exists() else "mpirun", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
    command += [str(HERE / "checkpoint.py"), *words]
    done = subprocess.run(command, env=mpi_environment(), capture_output=True, text=True, timeout=600)
    if must_fail:
        return {"status": done.returncode}
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    *before, last = done.stdout.strip().splitlines()
    if before:
        CONSOLE.print("\n".join(before), highlight=False, markup=False)
    result: dict[str, Any] = json.loads(last)
    return result


def rate(result: dict[str, Any], key: str = "seconds") -> float:
    """GB/s of the field's raw bytes."""
    return float(result["raw_bytes"] / result[key] / 1e9)


class Demo:
    """The steps, each of which proves what it says or ends the demo."""

    def __init__(self, place: Path, shape: list[str]) -> None:
        self.place = place
        self.shape = ["--shape", *shape]
        self.targets = [place / f"target{k}" for k in range(TARGETS)]
        self.store = place / "store"
        self.field, self.log = str(self.store / "field"), str(self.store / "log")
        self.rows: list[tuple[str, str, str]] = []

    def note(self, what: str, seen: str, proof: str) -> None:
        """Remember a row of the closing table, and say it now."""
        self.rows.append((what, seen, proof))
        CONSOLE.print(f"[green]✓[/] {what}: {seen} [dim]({proof})[/]", highlight=False)

    def check(self, good: bool, what: str) -> None:
        """End the demo where something is not as it must be."""
        if not good:
            raise SystemExit(f"the demo failed: {what}")

    def create(self) -> None:
        """Make a store of four targets."""
        pinstripe.create(self.store, [str(target) for target in self.targets])
        self.note("create", f"a store on {TARGETS} targets", "directories of this machine, no server, no root")

    def write(self, repeats: int = 3) -> None:
        """Write field and log on 4 ranks, beside MPI-IO's for the same data on the same file system."""
        plain = self.place / "plain"
        plain.mkdir()
        ours, theirs = [], []
        for k in range(repeats):
            ours.append(run(4, "write", self.field, self.log, *self.shape, *(["--report"] if k == 0 else [])))
            theirs.append(run(4, "mpiio", str(plain / "field"), str(plain / "log"), *self.shape))
            (plain / "field").unlink()
        last = ours[-1]
        ratio = last["raw_bytes"] / last["stored_bytes"]
        mine, peer = (statistics.median(map(rate, results)) for results in (ours, theirs))
        self.peer_read = statistics.median(rate(result, "read_seconds") for result in theirs)
        self.note(
            "write, 4 ranks",
            f"{last['raw_bytes'] / 1e6:.0f} MB as {last['stored_bytes'] / 1e6:.0f} MB, ratio {ratio:.2f}; "
            f"{mine:.2f} GB/s beside MPI-IO's {peer:.2f}",
            f"interleaved blocks, checksummed, atomic, synced; median of {repeats}",
        )

    def restart(self) -> None:
        """Read on 3 ranks what 4 wrote."""
        result = run(3, "restart", self.field, self.log, *self.shape)
        self.check(result["wrong"] == 0, f"{result['wrong']} values are wrong after a restart on 3 ranks")
        self.note(
            "restart, 3 ranks",
            f"every value right; {rate(result):.2f} GB/s beside MPI-IO's {self.peer_read:.2f} on 4",
            "each block verified against its CRC-64",
        )

    def kill(self) -> None:
        """Kill a rank in mid-write; the former generation must be there, whole."""
        before = run(3, "restart", self.field, self.log, *self.shape)["generation"]
        killed = run(4, "write", self.field, self.log, *self.shape, "--step", "2", "--kill", "2", must_fail=True)
        self.check(killed["status"] != 0, "the job with the killed rank ended well")
        result = run(3, "restart", self.field, self.log, *self.shape)
        self.check(result["wrong"] == 0 and result["generation"] == before, "the former generation is not whole")
        self.note(
            "rank 2 killed in mid-write",
            f"mpirun ended with {killed['status']}; generation {result['generation']} read and verified",
            "nothing of the dead job is visible",
        )

    def fill(self) -> None:
        """Fill one target; the job must end well on the others."""
        limit = ["--limit", f"{self.targets[0]}={SMALL_BYTES}"]
        run(4, "write", self.field, self.log, *self.shape, "--step", "3", *limit)
        result = run(3, "restart", self.field, self.log, *self.shape, "--step", "3")
        self.check(result["wrong"] == 0, "what was written around the full target is wrong")
        self.note(
            "one target full",
            f"the job ended well; generation {result['generation']} verified",
            f"target0 took {SMALL_BYTES >> 20} MiB and no more; its frames went elsewhere",
        )

    def commands(self) -> None:
        """Show what an analyst sees after the job."""
        for words in (["ls", "-l", str(self.store)], ["getstripe", self.field], ["verify", str(self.store)]):
            self.command(*words)
        self.note("verify", "structure and every block of the store", "pinstripe verify")

    def command(self, *words: str, code: int = 0) -> None:
        """Run `pinstripe` with these words and show both."""
        CONSOLE.print(f"[bold]$ pinstripe {' '.join(words)}[/]", highlight=False)
        done = subprocess.run([sys.executable, "-m", "pinstripe", *words], capture_output=True, text=True, timeout=300)
        CONSOLE.print((done.stdout + done.stderr).rstrip(), highlight=False, markup=False)
        self.check(done.returncode == code, f"pinstripe {words[0]} ended with {done.returncode}: {done.stderr}")

    def bucket(self) -> None:
        """Begin and end a job's data in a bucket, which plain boto3 fills, reads and changes behind our back."""
        with S3Server(self.place / "s3") as server:
            os.environ.update(server.environment())
            import boto3

            client = boto3.client("s3")
            try:
                self._bucket(client)
            finally:
                client.close()

    def _bucket(self, client: Any) -> None:
        big = random.Random(1).randbytes(64 << 20)
        client.create_bucket(Bucket="lab")
        client.put_object(Bucket="lab", Key="in/observed.bin", Body=big)
        client.put_object(Bucket="lab", Key="in/readme.txt", Body=b"what the bucket says\n")
        data, out = str(self.store / "data"), str(self.store / "data" / "result")
        self.command("link", data, "s3://lab/in", "--import", "new,changed,deleted", "--export", "new,changed")
        self.command("import", data)
        self.command("ls", "-l", data)
        observed = f"{data}/observed.bin"
        self.check(pinstripe.stat(observed).st_size == len(big), "the object is no stub of its size")
        with pinstripe.open(observed, "rb", buffering=0) as file:
            self.check(file.pread(4096, 40 << 20) == big[40 << 20 :][:4096], "the bytes read lazily are wrong")
        fetched = state_of(observed).resident_bytes
        self.command("state", observed)
        self.note(
            "lazy read", f"{fetched:,} of {len(big):,} bytes fetched", "the stripes touched, each once, with If-Match"
        )
        run(4, "write", out, f"{data}/log", *self.shape)
        self.command("export", out, f"{data}/log")
        result = client.get_object(Bucket="lab", Key="in/result")["Body"].read()
        with pinstripe.open(out, "rb") as file:
            self.check(file.read() == result, "what boto3 reads is not what the job wrote")
        self.note(
            "export",
            f"{len(result):,} bytes of 4 ranks read back by plain boto3",
            "the object's CRC-64 is the file's own",
        )
        client.put_object(Bucket="lab", Key="in/observed.bin", Body=big[::-1])
        try:
            with pinstripe.open(observed, "rb", buffering=0) as file:
                file.pread(4096, 10 << 20)
            self.check(False, "an object that changed was read as if it had not")
        except pinstripe.StaleError as error:
            self.note("object changed behind our back", "ESTALE, no byte of it", str(error.strerror))
        self.command("import", data)
        with pinstripe.open(observed, "rb", buffering=0) as file:
            self.check(file.pread(4096, 10 << 20) == big[::-1][10 << 20 :][:4096], "the new version reads wrong")
        self.note("import again", "the new version reads right", "nothing of the old one is left")

    def table(self) -> Table:
        """What was seen, for a person."""
        table = Table(title="pinstripe: what this machine just did", title_justify="left")
        for heading in ("step", "seen", "how"):
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


def work_place(needed: int) -> str | None:
    """A directory with room: memory where there is enough of it, else the usual temporary one."""
    for path in ("/dev/shm", tempfile.gettempdir()):
        if os.path.isdir(path) and shutil.disk_usage(path).free > needed:
            return path
    return None


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, default=["192", "256", "256"], help="of the field, in values")
    parser.add_argument("--keep", action="store_true", help="do not remove the store")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pinstripe-demo-", dir=work_place(4 << 30)))
    demo = Demo(place, args.shape)
    CONSOLE.print(f"In {place}; each step runs real jobs with mpirun.", highlight=False)
    try:
        for step in (demo.create, demo.write, demo.restart, demo.kill, demo.fill, demo.commands, demo.bucket):
            step()
        CONSOLE.print(demo.table())
    finally:
        if args.keep:
            CONSOLE.print(f"Kept in {place}", highlight=False)
        else:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
