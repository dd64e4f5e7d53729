"""Commands export and stage-out. Alone or with all ranks of a job."""

from __future__ import annotations

from collections.abc import Callable

import click

from ..format.remote import Endpoint
from ..s3.events import Events, Summary
from ..s3.exporting import IF_EXISTS, export, stage_out
from ..store.team import Team
from .endpoint_options import credentials_option, endpoint_options
from .failure import RESUMABLE, tell
from .ranks import make_team
from .s3_progress import make_events, tell_summary
from .words import json_option

__all__ = ["export_command", "stage_out_command"]

_if_exists = click.option(
    "--if-exists",
    type=click.Choice(IF_EXISTS),
    help="What to do where an object is not the version that was known (fail; export: as the link says).",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


@click.command("export")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_if_exists
@credentials_option
@_dry_run
@json_option
def export_command(
    paths: tuple[str, ...], if_exists: str | None, credentials: str, dry_run: bool, as_json: bool
) -> None:
    """Bring files and trees below a link to its bucket: what is new or changed.

    Never over an object that somebody else wrote: that is a conflict, exit code 3. Under mpirun all ranks share the work.
    An export that was killed goes on where it was when it is run again.

    \b
    Examples:
      pinstripe export /scratch/store/out
      mpirun -n 8 pinstripe export /scratch/store/out/run-1 --if-exists keep-both
    """
    _run(
        lambda team, events: export(
            paths, team=team, if_exists=if_exists, dry_run=dry_run, events=events, credentials=credentials
        ),
        "looked at" if dry_run else "exported",
        as_json,
    )


@click.command("stage-out")
@click.argument("directory", type=click.Path())
@click.argument("url")
@_if_exists
@click.option("--delete", is_flag=True, help="Delete what an earlier stage-out brought and the directory has no more.")
@_dry_run
@endpoint_options
@credentials_option
@json_option
def stage_out_command(
    directory: str,
    url: str,
    if_exists: str | None,
    delete: bool,
    dry_run: bool,
    endpoint: Endpoint,
    credentials: str,
    as_json: bool,
) -> None:
    """Make s3://BUCKET/PREFIX hold all that a directory holds.

    Plain objects, with mode, owner and times in their metadata; last comes a list of them all, PREFIX/.pinstripe/manifest-JOB.json.gz: where it is,
    all is there. What the prefix has already is not sent again. Under mpirun all ranks share the work.

    \b
    Examples:
      pinstripe stage-out /scratch/store/out s3://lab/results/run-1
      mpirun -n 8 pinstripe stage-out /scratch/store/out s3://lab/results --delete --dry-run
    """

    def work(team: Team, events: Events) -> Summary:
        return stage_out(
            directory,
            url,
            endpoint=endpoint,
            if_exists=if_exists or "fail",
            delete=delete,
            dry_run=dry_run,
            team=team,
            events=events,
            credentials=credentials,
        )

    _run(work, "looked at" if dry_run else "staged out", as_json)


def _run(work: Callable[[Team, Events], Summary], verb: str, as_json: bool) -> None:
    team = make_team()
    try:
        summary = work(team, make_events(as_json, rank=team.rank))
    except KeyboardInterrupt:
        tell("interrupted: what was exported is whole; run it again for the rest")
        raise click.exceptions.Exit(RESUMABLE) from None
    if team.rank == 0:
        tell_summary(summary, as_json, verb)
    if summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)
