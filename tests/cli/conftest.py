"""Stores to work on, and a way to run a command line in this process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pinstripe.cli import cli
from pinstripe.store.create import create
from pinstripe.store.store import Store


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("PMIX_", "PMI_", "OMPI_COMM_WORLD", "PINSTRIPE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create("s", [f"{tmp_path}/t{number}" for number in range(3)])


class Run:
    """Run a command; check its exit code; give its output, or what its JSON says."""

    def __call__(self, *args: str, code: int = 0, input: str | None = None) -> str:
        result = self.result(*args, input=input)
        assert result.exit_code == code, result.output
        return result.output if code else result.stdout

    def json(self, *args: str, code: int = 0) -> Any:
        result = self.result(*args, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    def fails(self, *args: str, code: int = 1) -> str:
        """Run what must fail: with one line of error for each failure, and no traceback."""
        result = self.result(*args)
        assert result.exit_code == code, result.output
        lines = result.stderr.splitlines()
        assert lines
        assert all(line.startswith("pinstripe: ") for line in lines), result.stderr
        return result.stderr

    def result(self, *args: str, input: str | None = None) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args], input=input, prog_name="pinstripe")


@pytest.fixture
def run() -> Run:
    return Run()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Make a file that is no store's."""

    def write(path: str, data: bytes = b"hello\n", mode: int | None = None) -> Path:
        full = tmp_path / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(data)
        if mode is not None:
            full.chmod(mode)
        return full

    return write
