"""Bytes on the network of four hosts, one rank each, beside the least possible and MPI-IO: ``python -m bench.hosts``. Needs root.

The hosts are network, UTS and IPC namespaces of this machine on a bridge of their own; files are on a file system that
all of them see. Counted is what leaves each host's interface, file data not being among it. Figures, not times: four
hosts here share the processors of one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import Figures, main

HOSTS = 4
NETWORK = "10.77.0"
RECORD, EACH = 47_008, 64 << 20
ROOT = Path(__file__).resolve().parent.parent

AGENT = """#!/bin/sh
# As ssh would: run a command on a host. Options are dropped.
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
exec nsenter -t $(cat {state}/$host.pid) -n -u -i -- /bin/sh -c "$*"
"""


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def virtual_hosts(state: Path) -> Iterator[list[str]]:
    """Make hosts named h1, h2, ... and end them."""
    names = [f"h{k + 1}" for k in range(HOSTS)]
    tag = f"psb{os.getpid()}"
    spaces: list[str] = []
    holders: list[subprocess.Popen[bytes]] = []
    try:
        run("ip", "netns", "add", tag)
        spaces.append(tag)
        run("ip", "-n", tag, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", tag, "link", "set", "br0", "up")
        for k, name in enumerate(names):
            space = f"{tag}{name}"
            run("ip", "netns", "add", space)
            spaces.append(space)
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", tag, "link", "add", f"v{k}", "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "-n", tag, "link", "set", f"v{k}", "master", "br0", "up")
            run("ip", "-n", space, "addr", "add", f"{NETWORK}.{k + 1}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            inner = f"hostname {name}; exec sleep infinity"
            command = ["nsenter", f"--net=/run/netns/{space}", "unshare", "-u", "-i", "sh", "-c", inner]
            holders.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
            (state / f"{name}.pid").write_text(str(holders[-1].pid))
        yield names
    finally:
        for holder in holders:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        for space in reversed(spaces):
            subprocess.run(["ip", "netns", "del", space], check=False)


def start_job(case: str, place: Path) -> dict[str, float]:
    """Run one case on all hosts; what it measured."""
    state = place / "hosts"
    state.mkdir(exist_ok=True)
    agent = state / "agent"
    agent.write_text(AGENT.format(state=state))
    agent.chmod(0o755)
    with virtual_hosts(state) as names:
        lines = (ROOT / "tests" / "mpi.env").read_text().splitlines()
        settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        settings |= {
            "PRTE_MCA_plm_ssh_agent": str(agent),
            "PRTE_MCA_prte_if_include": "eth0",
            "OMPI_MCA_btl": "self,tcp",
            "OMPI_MCA_btl_tcp_if_include": "eth0",
        }
        addresses = ",".join(f"{NETWORK}.{k + 1}:1" for k in range(HOSTS))
        for k, name in enumerate(names):
            shutil.copy(state / f"{name}.pid", state / f"{NETWORK}.{k + 1}.pid")
        mpirun = Path(sys.prefix) / "bin" / "mpirun"
        command = [str(mpirun), "--host", addresses, "--map-by", "node", "-n", str(HOSTS)]
        for name in settings:
            command += ["-x", name] if not name.startswith("PRTE") else []
        command += [sys.executable, "-m", "mpi4py", "-m", "bench.hosts", "--case", case, "--place", str(place)]
        first = [str(agent), names[0], "cd", str(ROOT), "&&", *command]
        done = subprocess.run(first, env={**os.environ, **settings}, check=True, stdout=subprocess.PIPE, timeout=600)
    told: dict[str, float] = json.loads(done.stdout.decode().splitlines()[-1])
    return told


# --- on the hosts -------------------------------------------------------------------------------------------------


def sent_bytes() -> int:
    """By this network namespace's interface: the tenth number of its line (proc_pid_net(5)), the name being the first."""
    (line,) = (line for line in Path("/proc/self/net/dev").read_text().splitlines() if line.strip().startswith("eth0:"))
    return int(line.split(":")[1].split()[8])


def measure(case: str, place: Path) -> None:
    """One rank's part of a case; rank 0 prints."""
    import numpy as np
    from mpi4py import MPI

    import pinstripe.mpi

    name, pattern, operation = case.split("-")
    comm = MPI.COMM_WORLD
    file_class: Any = pinstripe.mpi.File if name == "pinstripe" else MPI.File
    path = str(place / "store" / pattern) if name == "pinstripe" else str(place / f"plain-{pattern}")
    count = EACH // RECORD
    data = np.frombuffer(np.random.default_rng(comm.rank).bytes(count * RECORD), np.uint8)
    record = MPI.BYTE.Create_contiguous(RECORD)
    if pattern == "interleaved":
        disp, filetype = comm.rank * RECORD, record.Create_resized(0, comm.size * RECORD).Commit()
    else:
        disp, filetype = comm.rank * count * RECORD, record.Commit()
    comm.Barrier()
    before = sent_bytes()
    out = np.zeros_like(data)
    if operation == "write":
        file = file_class.Open(comm, path, MPI.MODE_CREATE | MPI.MODE_WRONLY)
        file.Set_view(disp, MPI.BYTE, filetype)
        file.Write_all(data)
    else:
        file = file_class.Open(comm, path, MPI.MODE_RDONLY)
        file.Set_view(disp, MPI.BYTE, filetype)
        file.Read_all(out)
    file.Close()
    sent = comm.reduce(sent_bytes() - before)
    if operation == "read" and not np.array_equal(out, data):
        raise AssertionError("what was read is not what was written")
    if comm.rank == 0:
        print(json.dumps({"sent": sent, "bytes": comm.size * len(data)}))


def traffic(pattern: str, operation: str) -> Figures:
    import pinstripe

    place = Path(tempfile.mkdtemp(prefix="pinstripe-hosts-"))
    try:
        pinstripe.create(place / "store", [place / "target0", place / "target1"])
        amounts: dict[str, float] = {}
        for name in ("pinstripe", "mpiio"):
            if operation == "read":
                start_job(f"{name}-{pattern}-write", place)
            told = start_job(f"{name}-{pattern}-{operation}", place)
            amounts[{"pinstripe": "pinstripe", "mpiio": "MPI.File"}[name]] = told["sent"] / 1e6
            amounts["data of all ranks"] = told["bytes"] / 1e6
        away = (HOSTS - 1) / HOSTS if (pattern, operation) == ("interleaved", "write") else 0.0
        amounts["least: what an owner on another host must get"] = amounts["data of all ranks"] * away
    finally:
        shutil.rmtree(place)
    return Figures(f"sent over the network, {operation}, {pattern}, {HOSTS} hosts x 1 rank", "MB", amounts)


def tables(runs: int) -> list[Callable[[], Figures]]:
    return [
        partial(traffic, pattern, operation)
        for pattern in ("contiguous", "interleaved")
        for operation in ("write", "read")
    ]


if __name__ == "__main__":
    if "--case" in sys.argv:
        measure(sys.argv[sys.argv.index("--case") + 1], Path(sys.argv[sys.argv.index("--place") + 1]))
    elif os.geteuid() != 0:
        print("bench.hosts makes network namespaces: run it as root")
    else:
        main(tables)
