"""The main job, seen: four targets, mpirun, a field and a log; restart on another number of ranks; a killed rank; a full target.

    python examples/demo.py [--size M] [--keep]

Runs on this machine alone, in a temporary directory, and removes it. The jobs are `mpirun` of examples/checkpoint.py.
"""

from __future__ import annotations

import argparse
import json
import os
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
            CONSOLE.print(f"[bold]$ pinstripe {' '.join(words)}[/]", highlight=False)
            done = subprocess.run(
                [sys.executable, "-m", "pinstripe", *words], capture_output=True, text=True, timeout=300
            )
            CONSOLE.print(done.stdout.rstrip(), highlight=False, markup=False)
            self.check(done.returncode == 0, f"pinstripe {words[0]} ended with {done.returncode}: {done.stderr}")
        self.note("verify", "structure and every block of the store", "pinstripe verify")

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
        for step in (demo.create, demo.write, demo.restart, demo.kill, demo.fill, demo.commands):
            step()
        CONSOLE.print(demo.table())
    finally:
        if args.keep:
            CONSOLE.print(f"Kept in {place}", highlight=False)
        else:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
