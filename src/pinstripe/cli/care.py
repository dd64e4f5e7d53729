"""Command for care: verify."""

from __future__ import annotations

import dataclasses
import time

import click

from ..store.place import locate
from ..store.verify import Finding, verify
from .failure import VERIFICATION_FAILED, tell
from .output import echo, emit_json, size_text
from .progress import Progress
from .ranks import make_team
from .words import json_option

__all__ = ["verify_command"]


@click.command("verify")
@click.argument("path", type=click.Path(), default=".")
@click.option("--quick", is_flag=True, help="Structure only: no data is read.")
@click.option("--generation", type=int, help="An older generation of one file.")
@json_option
def verify_command(path: str, quick: bool, generation: int | None, as_json: bool) -> None:
    """Check a file, or all files below a directory: structure, then every block. Changes nothing.

    Under mpirun all ranks share the work. Exit code 4: data that does not verify, or is missing.

    \b
    Example:
      mpirun -n 8 pinstripe verify /scratch/store
    """
    team = make_team()
    begun = time.monotonic()
    error: BaseException | None = None
    try:
        store = locate(path).store
    except BaseException as raised:  # an interrupt too: the others wait in agree
        error = raised
    team.agree(error)
    with Progress("verified", None, enabled=team.rank == 0 and not as_json) as progress:
        result = verify(store, path, quick, team, generation=generation, onprogress=progress.advance)
    if team.rank == 0:
        if as_json:
            emit_json({"good": result.good, "quick": quick} | dataclasses.asdict(result))
        else:
            for finding in result.findings:
                tell(_line(finding))
            seconds = max(time.monotonic() - begun, 1e-9)
            read = "" if quick else f", {result.frames} frames, {size_text(result.bytes)} in {seconds:.1f} s"
            verdict = "good" if result.good else "NOT GOOD"
            echo(f"{verdict}: {result.files} file{'s' * (result.files != 1)}{read}")
    if not result.good:
        raise click.exceptions.Exit(VERIFICATION_FAILED)


def _line(finding: Finding) -> str:
    return " ".join(f"{finding.path}: {finding.kind}: {finding.text}".split())
