"""A job in a container whose /dev/shm has 64 MiB: shared memory of ours is not there, so more than that is exchanged."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest

import pinstripe

RANKS, PIECE, PIECES = 4, 40_000, 1_000  # 160 MB in all, 40 MB a rank

PROGRAM = """
    import sys
    import numpy as np
    from mpi4py import MPI
    import pinstripe.mpi

    comm, (path, piece, pieces) = MPI.COMM_WORLD, sys.argv[1:]
    piece, pieces = int(piece), int(pieces)
    data = np.repeat(np.arange(pieces, dtype=np.uint32) * comm.size + comm.rank, piece // 4).view(np.uint8)
    row = MPI.BYTE.Create_contiguous(piece)
    view = comm.rank * piece, MPI.BYTE, row.Create_resized(0, comm.size * piece).Commit()
    info = MPI.Info.Create({"pinstripe_batch_bytes": "16M", "pinstripe_durability": "none"})
    file = pinstripe.mpi.File.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_RDWR, info)
    file.Set_view(*view)
    file.Write_all(data)
    out = np.zeros_like(data)
    file.Seek(0)
    file.Read_all(out)
    report = file.report()
    file.Close()
    assert (out == data).all()
    if comm.rank == 0:
        print("put", report.total.put_bytes)
"""


@pytest.mark.parametrize("environment", [".venv", ".venv-mpich"])
def test_an_interleaved_job_needs_no_large_dev_shm(tmp_path: Path, environment: str) -> None:
    python = Path(__file__).resolve().parents[2] / environment / "bin" / "python"
    if not python.exists():
        subprocess.run(["make", f"{environment}/.installed"], cwd=python.parents[2], check=True)
    pinstripe.create(tmp_path / "store", [tmp_path / "t0", tmp_path / "t1"])
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    job = [str(python.with_name("mpirun")), "-n", str(RANKS), str(python), "-m", "mpi4py", str(script)]
    job += [str(tmp_path / "store" / "file"), str(PIECE), str(PIECES)]
    inside = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside, "sh", *job], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (put,) = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("put "))
    assert put > 64 << 20
    with pinstripe.open(tmp_path / "store" / "file", "rb") as file:
        content = np.frombuffer(file.read(), np.uint32).reshape(PIECES * RANKS, PIECE // 4)
    assert (content == np.arange(PIECES * RANKS)[:, None]).all()
