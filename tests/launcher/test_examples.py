"""The examples run with either class, on several numbers of ranks, and write the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pinstripe

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
LIMIT_S = 120

pytestmark = [
    pytest.mark.skipif(not MPIRUN.exists(), reason="no mpirun beside this Python"),
    pytest.mark.skipif("OMPI_COMM_WORLD_SIZE" in os.environ or "PMI_RANK" in os.environ, reason="already in a job"),
]


def run(name: str, ranks: int, *arguments: str, status: int = 0) -> str:
    command = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", "mpi4py", f"{ROOT}/examples/{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def store(tmp_path: Path) -> Path:
    pinstripe.create(tmp_path / "store", [tmp_path / "t0", tmp_path / "t1"], stripe_bytes="64K", block_bytes="16K")
    return tmp_path / "store"


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_a_block_decomposed_checkpoint(store: Path, tmp_path: Path, ranks: int) -> None:
    shape = ("--shape", "40", "41", "42", "--steps", "2")
    ours = run("block3d", ranks, f"{store}/run", "--io", "pinstripe", *shape)
    theirs = run("block3d", ranks, f"{tmp_path}/run", "--io", "mpi", *shape)
    assert ours.count("yes") == theirs.count("yes") == 2
    for step in range(2):
        with pinstripe.open(f"{store}/run-{step:04d}", "rb") as file:
            assert file.read() == (tmp_path / f"run-{step:04d}").read_bytes()


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_particles_in_uneven_numbers(store: Path, tmp_path: Path, ranks: int) -> None:
    run("particles", ranks, f"{store}/p", "--io", "pinstripe", "--most", "5000", "--steps", "4")
    run("particles", ranks, f"{tmp_path}/p", "--io", "mpi", "--most", "5000", "--steps", "4")
    with pinstripe.open(store / "p", "rb") as file:
        assert file.read() == (tmp_path / "p").read_bytes()
    told = run("particles", 5 - ranks, f"{store}/p", "--io", "pinstripe", "--read")
    assert told.count("yes") == 4


def test_examples_say_what_is_wrong(store: Path, tmp_path: Path) -> None:
    assert "numbers from 1 on" in run("block3d", 1, f"{store}/run", "--steps", "0", status=2)
    (tmp_path / "other").write_bytes(bytes(10_000))
    assert "no file that this program wrote" in run(
        "particles", 1, f"{tmp_path}/other", "--io", "mpi", "--read", status=1
    )
    assert "lies in no store" in run("block3d", 1, f"{tmp_path}/run", status=1)
