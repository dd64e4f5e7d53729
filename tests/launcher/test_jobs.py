"""Whole jobs: one rank's program dies, and the job ends, soon and with its status. Not under a launcher: it starts one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

MPIRUN = Path(sys.executable).with_name("mpirun")
LIMIT_S = 60

pytestmark = [
    pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside this Python"),
    pytest.mark.skipif("OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_RANK" in os.environ, reason="already in a job"),
]


def run(tmp_path: Path, program: str, *arguments: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, *arguments, str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


HOOKED = """
    import sys, threading
    from mpi4py import MPI
    import pinstripe.mpi
    pinstripe.mpi.abort_on_exception()
    pinstripe.mpi.abort_on_exception()
    comm = MPI.COMM_WORLD
"""


@pytest.mark.parametrize(
    ("death", "status", "text"),
    [
        ("raise ValueError('of the user')", 1, "ValueError: of the user"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('a reason')", 1, "a reason"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); comm.Barrier()", 1, "ZeroDivisionError"),
    ],
)
def test_a_rank_that_dies_ends_the_job(tmp_path: Path, death: str, status: int, text: str) -> None:
    began = time.monotonic()
    done = run(
        tmp_path, HOOKED + f"\n    if comm.rank == 1:\n        {death}\n    comm.Barrier()\n    comm.Barrier()\n"
    )
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert time.monotonic() - began < LIMIT_S / 2


def test_an_exit_that_is_caught_or_is_none_ends_nothing(tmp_path: Path) -> None:
    program = (
        HOOKED
        + """
    try:
        sys.exit(3)
    except SystemExit as error:
        assert error.code == 3
    thread = threading.Thread(target=sys.exit, args=(4,))
    thread.start()
    thread.join()
    comm.Barrier()
    print("still here", flush=True)
    sys.exit(0 if comm.rank else None)
    """
    )
    done = run(tmp_path, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("still here") == 2


def test_without_a_hook_the_error_still_reaches_all_ranks_inside_with(tmp_path: Path) -> None:
    program = f"""
    import pinstripe, pinstripe.mpi
    from mpi4py import MPI
    comm = MPI.COMM_WORLD
    if comm.rank == 0:
        pinstripe.create({str(tmp_path / "store")!r}, [{str(tmp_path / "target")!r}])
    comm.Barrier()
    with pinstripe.mpi.open(comm, {str(tmp_path / "store" / "f")!r}, "w") as file:
        if comm.rank == 1:
            raise ValueError("of the user")
        file.write_at_all(0, b"x")
    """
    done = run(tmp_path, program)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: of the user") == 2
    assert "[rank 1 on" in done.stderr
    assert sorted(os.listdir(tmp_path / "store")) == [".pinstripe"]


SUITE = """
import pytest
from mpi4py import MPI

def test_good(ranks):
    pass

def test_fails_on_one_rank(ranks):
    assert ranks.rank != 1, "only here"

def test_good_again(ranks):
    pass
"""

HANGING = """
from mpi4py import MPI

def test_leaves_the_others_waiting(ranks):
    assert ranks.rank != 1, "gone"
    ranks.comm.Barrier()
"""


def suite(tmp_path: Path, tests: str) -> subprocess.CompletedProcess[str]:
    source = (Path(__file__).parents[1] / "mpi" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(source.replace("WAIT_S = 20.0", "WAIT_S = 4.0"))
    (tmp_path / "test_it.py").write_text(tests)
    command = [
        str(MPIRUN),
        "-n",
        "2",
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--color=no",
    ]
    return subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path
    )


def test_a_failure_on_one_rank_fails_the_test_on_all_and_the_next_one_runs(tmp_path: Path) -> None:
    done = suite(tmp_path, SUITE)
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "on rank 1:" in done.stdout
    assert "only here" in done.stdout
    assert done.stdout.count("1 failed") == 1  # only rank 0 prints


def test_a_hang_ends_as_tracebacks(tmp_path: Path) -> None:
    done = suite(tmp_path, HANGING)
    assert done.returncode != 0
    assert "the others do not come" in done.stderr
    assert "AssertionError: gone" in done.stderr
    assert "test_leaves_the_others_waiting" in done.stderr  # where rank 0 stands
