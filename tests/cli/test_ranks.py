"""Commands that all ranks of a job share, run by the launcher of this environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pinstripe.store.store import Store

from .conftest import Run, Write

MPIRUN = Path(sys.executable).with_name("mpirun")

pytestmark = pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI library is installed beside this Python")


def job(ranks: int, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", "pinstripe", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=dict(os.environ))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_copy_a_tree_in_and_out_together(run: Run, store: Store, write: Write, ranks: int) -> None:
    for number in range(20):
        write(f"src/small{number}", os.urandom(1000 * number))
    write("src/large", os.urandom(65 << 20))
    write("src/text", b"some text, " * (6 << 20))
    with open("src/sparse", "wb") as file:
        file.write(b"begin")
        file.truncate(100 << 20)
    done = job(ranks, "cp", "-rp", "src", "s/")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("copied 23 files")
    assert run.json("stat", "s/src/sparse")["holes"] == 99
    done = job(ranks, "verify", "--json", "s")
    found = json.loads(done.stdout)
    assert (found["good"], found["files"]) == (True, 23)
    done = job(ranks, "cp", "-r", "s/src", "out")
    assert done.returncode == 0
    assert subprocess.run(["diff", "-r", "src", "out"], capture_output=True, text=True, check=False).stdout == ""


def test_an_error_that_all_ranks_raise_is_told_once(run: Run, store: Store, write: Write) -> None:
    write("large", os.urandom(65 << 20))
    done = job(2, "cp", "large", "s/missing/large")
    assert done.returncode == 1
    assert done.stderr.count("pinstripe: ") == 1


def test_a_failure_on_one_rank_fails_the_job_and_leaves_the_rest_copied(run: Run, store: Store, write: Write) -> None:
    for number in range(6):
        write(f"src/x{number}", os.urandom(100_000))
    os.mkfifo("src/pipe")
    done = job(2, "cp", "-r", "src", "s/")
    assert done.returncode == 1
    assert "src/pipe" in done.stderr
    assert len(run("ls", "s/src").split()) == 6


def test_damage_found_by_any_rank_is_everybodys(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("x", os.urandom(3 << 20))), "s/")
    for segment in Path().glob("t*/*/*/*.*.*"):
        segment.chmod(0o644)
        segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    done = job(2, "verify", "s")
    assert done.returncode == 4
    assert len([line for line in done.stderr.splitlines() if line.startswith("pinstripe: ")]) == 3


def test_what_is_not_shared_is_done_once(run: Run, store: Store) -> None:
    done = job(2, "df", "s")
    assert done.returncode == 0
    assert done.stdout.count("filesystem_summary") == 1
