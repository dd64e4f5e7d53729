"""The command line as a whole: help, version, errors, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pinstripe.cli import cli
from pinstripe.cli.failure import Failures, exit_code, in_one_line
from pinstripe.errors import ArgumentError, ConflictError, DamageError, TargetError
from pinstripe.store.store import Store

from .conftest import Run


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in sorted(cli.commands.items()):
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, below) for below in sorted(command.commands)]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_a_short_help_with_an_example(run: Run, command: tuple[str, ...]) -> None:
    text = run(*command, "--help")
    assert len(text.splitlines()) < 40
    if command != ("target",):
        assert "Example" in text
        assert f"pinstripe {' '.join(command)}" in text.split("Example")[1]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_reference_names_every_command_and_option(command: tuple[str, ...]) -> None:
    page = Path(__file__).parents[2] / "docs/reference/cli.md"
    text = page.read_text()
    assert f"pinstripe {' '.join(command)}" in text
    found: click.Command = cli
    for name in command:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    section = text.split(f"## {' '.join(command)}\n")[1].split("\n## ")[0] if command != ("target",) else text
    for parameter in found.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert any(f"`{name}" in section for name in parameter.opts), parameter.opts


def test_the_version_tells_which_checksum_and_lz4_code_is_in_use(run: Run) -> None:
    lines = run("--version").splitlines()
    assert lines[0].startswith("pinstripe ")
    assert lines[1].startswith("CRC-64/NVME: ")
    assert lines[2].startswith("LZ4: ")


def test_usage_errors_are_one_line_and_exit_2(run: Run) -> None:
    for args in (
        ["nope"],
        ["ls", "--nope"],
        ["create", "s"],
        ["cp", "one"],
        ["create", "s", "--target", "t", "-S", "x"],
    ):
        assert len(run.fails(*args, code=2).splitlines()) == 1


def test_a_path_in_no_store_names_create(run: Run, tmp_path: Path) -> None:
    assert "pinstripe create" in run.fails("ls", str(tmp_path))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ArgumentError("x"), 2),
        (ConflictError("x"), 3),
        (DamageError("x"), 4),
        (TargetError("x"), 1),
        (FileNotFoundError(2, "x"), 1),
    ],
)
def test_exit_codes_follow_the_kind_of_error(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_is_one_line_with_its_path_first() -> None:
    assert in_one_line(DamageError("a\nb", path="/p")) == "/p: a b"
    assert in_one_line(OSError(18, "no", "/a", None, "/b")) == "/a -> /b: no"
    error = TargetError("full")
    error.add_note("on node3")
    assert in_one_line(error) == "full (on node3)"


def test_the_gravest_failure_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    failures = Failures()
    for error in (FileNotFoundError(2, "missing", "a"), DamageError("bad", path="b"), TargetError("gone")):
        with failures:
            raise error
    with pytest.raises(click.exceptions.Exit) as caught:
        failures.exit()
    assert caught.value.exit_code == 4
    assert capsys.readouterr().err.splitlines() == ["pinstripe: a: missing", "pinstripe: b: bad", "pinstripe: gone"]


def test_a_bug_is_not_taken_for_a_failure() -> None:
    with pytest.raises(AttributeError), Failures():
        raise AttributeError("x")


def python(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    names = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
    env = {name: os.environ[name] for name in names if name in os.environ} | environ
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=env, timeout=60, check=False)


def test_the_module_runs_as_the_command_does(store: Store) -> None:
    done = python("-m", "pinstripe", "df", store.root)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Mounted on" in done.stdout


def test_an_error_shows_no_traceback_unless_it_is_asked_for(tmp_path: Path) -> None:
    quiet = python("-m", "pinstripe", "stat", str(tmp_path / "x"))
    assert quiet.returncode == 1
    assert len(quiet.stderr.splitlines()) == 1
    loud = python("-m", "pinstripe", "stat", str(tmp_path / "x"), PINSTRIPE_DEBUG="1")
    assert loud.returncode == 1
    assert "Traceback" in loud.stderr


def test_a_reader_that_goes_away_is_no_error(store: Store) -> None:
    script = f"{sys.executable} -m pinstripe ls {store.root} --help | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""


def test_without_a_launcher_mpi_is_not_imported(store: Store) -> None:
    code = "import sys, pinstripe.cli as c\ntry: c.cli.main(['verify', %r])\nexcept SystemExit: pass\n"
    code += "assert 'mpi4py' not in sys.modules\n"
    done = python("-c", code % store.root)
    assert done.returncode == 0, done.stderr


def test_only_the_first_rank_does_what_is_not_shared(store: Store) -> None:
    first = python("-m", "pinstripe", "df", store.root, PMIX_RANK="0")
    second = python("-m", "pinstripe", "df", store.root, PMIX_RANK="1")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "Mounted on" in first.stdout
    assert second.stdout == ""
