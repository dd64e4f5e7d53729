"""Commands that bring in what lies in a bucket: import, restore, stage-in. Alone or with all ranks of a job."""

from __future__ import annotations

from collections.abc import Callable

import click

from ..errors import ArgumentError
from ..format.remote import Endpoint
from ..s3.events import Summary
from ..s3.importing import import_objects, report_lines
from ..s3.links import Link, link_of, links
from ..s3.metadata import Defaults
from ..s3.reports import report
from ..s3.restoring import VERIFY, restore, stage_in
from ..store.place import locate
from ..store.store import Store
from ..store.team import Team
from .endpoint_options import credentials_option, defaults_options, endpoint_options
from .failure import RESUMABLE, tell
from .ranks import make_team
from .s3_progress import make_events, tell_summary
from .words import json_option

__all__ = ["import_command", "restore_command", "stage_in_command"]

_dry_run = click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
_verify = click.option("--verify", type=click.Choice(VERIFY), default="full", help="What is compared (full).")


@click.command("import")
@click.argument("path", type=click.Path(), default=".")
@click.option("--no-attributes", is_flag=True, help="Ask no object for owner, mode, times: lists alone.")
@click.option("--report", "report_path", type=click.Path(dir_okay=False), help="Write what failed, as FSx's reports.")
@_dry_run
@json_option
def import_command(path: str, no_attributes: bool, report_path: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring a linked directory up to date with its bucket; in a store's own directory, all links.

    New objects become stubs, changed ones are followed where the file here is unchanged; no data is fetched. What is carried
    over is the link's --import. A file that changed on both sides is kept and marked: exit code 3.

    \b
    Examples:
      pinstripe import /scratch/store/in
      mpirun -n 8 pinstripe import /scratch/store --report report.csv
    """
    team = make_team()
    events = make_events(as_json, rank=team.rank)
    place = locate(path)
    chosen = _links(place.store, place.path)
    summaries = []
    for link, below in chosen:
        summaries.append(
            _run(
                lambda link=link, below=below: import_objects(  # type: ignore[misc]
                    link, below=below, attributes=not no_attributes, team=team, events=events, dry_run=dry_run
                )
            )
        )
    if report_path is not None:
        lines = report_lines(events, chosen[0][0].directory if len(chosen) == 1 else place.store.root, team)
        if team.rank == 0:
            with open(report_path, "wb") as file:
                file.write(report(lines))
    _end(team, summaries[-1], as_json, "imported")


def _links(store: Store, path: str) -> list[tuple[Link, str]]:
    """Return the links that are meant, each with the path below its directory that is."""
    above = link_of(store, path)
    if above is not None:
        return [(above, path[len(above.directory) + 1 :])]
    inside = [one for one in links(store) if path == store.root or one.directory.startswith(f"{path}/")]
    if not inside:
        raise ArgumentError(f"{path} is not linked, nor is anything in it: `pinstripe link DIRECTORY s3://...`")
    return [(one, "") for one in inside]


@click.command("restore")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_verify
@credentials_option
@_dry_run
@json_option
def restore_command(paths: tuple[str, ...], verify: str, credentials: str, dry_run: bool, as_json: bool) -> None:
    """Fetch all of stubs, and of those in directories, and verify it; they are ordinary files then.

    \b
    Examples:
      pinstripe restore /scratch/store/in/era5.nc
      mpirun -n 8 pinstripe restore /scratch/store/in
    """
    team = make_team()
    events = make_events(as_json, rank=team.rank)
    summary = _run(
        lambda: restore(paths, verify=verify, team=team, events=events, dry_run=dry_run, credentials=credentials)
    )
    _end(team, summary, as_json, "restored")


@click.command("stage-in")
@click.argument("url", metavar="s3://BUCKET/PREFIX")
@click.argument("directory", type=click.Path())
@click.option("--lazy", is_flag=True, help="Make stubs; reading fetches.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these; repeat it.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Not these; repeat it.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there and are others.")
@_verify
@endpoint_options
@credentials_option
@defaults_options
@_dry_run
@json_option
def stage_in_command(
    url: str,
    directory: str,
    lazy: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    overwrite: bool,
    verify: str,
    endpoint: Endpoint,
    credentials: str,
    defaults: Defaults,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring objects into a directory, whole and verified; under mpirun all ranks share the work.

    Interrupted and run again it goes on where it was; files that are there already are skipped.

    \b
    Examples:
      pinstripe stage-in s3://lab/era5/2025 /scratch/store/era5 --include '*.nc'
      mpirun -n 8 pinstripe stage-in s3://lab/run-1 /scratch/store/run-1
    """
    team = make_team()
    events = make_events(as_json, rank=team.rank)
    summary = _run(
        lambda: stage_in(
            url,
            directory,
            lazy=lazy,
            include=include,
            exclude=exclude,
            verify=verify,
            overwrite=overwrite,
            endpoint=endpoint,
            defaults=defaults,
            team=team,
            events=events,
            dry_run=dry_run,
            credentials=credentials,
        )
    )
    _end(team, summary, as_json, "staged")


def _run(work: Callable[[], Summary]) -> Summary:
    try:
        return work()
    except KeyboardInterrupt:
        tell("interrupted: what is there is whole; run it again for the rest")
        raise click.exceptions.Exit(RESUMABLE) from None


def _end(team: Team, summary: Summary, as_json: bool, verb: str) -> None:
    if team.rank == 0:
        tell_summary(summary, as_json, verb)
    if summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)
