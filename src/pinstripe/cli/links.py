"""Commands for links: link, which also lists them, and unlink."""

from __future__ import annotations

import click

from ..format.remote import Endpoint
from ..s3.conflicts import CHOICES
from ..s3.known import conflicts_of
from ..s3.links import Link, LinkOptions, link, links, unlink
from ..s3.metadata import Defaults
from ..store.store import Store
from .endpoint_options import defaults_options, endpoint_options
from .output import echo, emit_json, print_table
from .words import DURATION, EVENT_WORDS, PERCENT, SIZE, json_option

__all__ = ["link_command", "unlink_command"]

_CONFLICTS_MOST = 5


@click.command("link")
@click.argument("directory", type=click.Path(), default=".")
@click.argument("url", required=False)
@click.option("--import", "import_", type=EVENT_WORDS, default=(), help="Of new,changed,deleted; all; none (none).")
@click.option("--export", type=EVENT_WORDS, default=(), help="The same, to the bucket (none).")
@endpoint_options
@defaults_options
@click.option("--high", type=PERCENT, default=0.0, help="Release files above this use of targets ...")
@click.option("--low", type=PERCENT, default=0.0, help="... down to this.")
@click.option("--quiet", "quiet_s", type=DURATION, default=30.0, help="Export what rested so long (30s).")
@click.option("--poll", "poll_s", type=DURATION, default=60.0, help="List the bucket so often (60s).")
@click.option("--max-dirty", type=SIZE, default=0, help="Hold writers back from here on (never).")
@click.option("--if-conflict", type=click.Choice(CHOICES), default="fail", metavar="WHAT", help="As in the reference.")
@click.option(
    "--if-deleted", type=click.Choice(("conflict", "recreate")), default="conflict", metavar="WHAT", help="The same."
)
@json_option
def link_command(
    directory: str,
    url: str | None,
    import_: tuple[str, ...],
    export: tuple[str, ...],
    endpoint: Endpoint,
    defaults: Defaults,
    high: float,
    low: float,
    quiet_s: float,
    poll_s: float,
    max_dirty: int,
    if_conflict: str,
    if_deleted: str,
    as_json: bool,
) -> None:
    """Tie a directory to s3://BUCKET/PREFIX; without URL, list a store's links.

    \b
    Examples:
      pinstripe link /scratch/store/in s3://lab/era5 --import all
      pinstripe link /scratch/store
    """
    if url is None:
        _list(Store.find(directory), as_json)
        return
    options = LinkOptions(
        high=high,
        low=low,
        uid=defaults.uid,
        gid=defaults.gid,
        file_mode=defaults.file_mode,
        directory_mode=defaults.directory_mode,
        quiet_s=quiet_s,
        poll_s=poll_s,
        max_dirty=max_dirty,
        if_conflict=if_conflict,
        if_deleted=if_deleted,
    )
    made = link(directory, url, import_=import_, export=export, endpoint=endpoint, options=options)
    if as_json:
        emit_json(made.to_values())
    else:
        names = f"; `pinstripe import {made.directory}` brings its names" if made.import_ else ""
        echo(f"linked {made.directory} to {made.url}{names}")


@click.command("unlink")
@click.argument("directory", type=click.Path())
@click.option("--delete-data", is_flag=True, help="Also remove, here, what the bucket holds unchanged.")
@json_option
def unlink_command(directory: str, delete_data: bool, as_json: bool) -> None:
    """End a directory's link. What is in it stays, and stubs can still be read.

    \b
    Example:
      pinstripe unlink /scratch/store/in
    """
    ended = unlink(directory, delete_data=delete_data)
    if as_json:
        emit_json(ended.to_values())
    else:
        echo(f"unlinked {ended.directory} from {ended.url}")


def _list(store: Store, as_json: bool) -> None:
    found = links(store)
    if as_json:
        emit_json([one.to_values() | {"conflicts": conflicts_of(one)} for one in found])
        return
    if not found:
        echo(f"{store.root} has no links")
        return
    print_table([["DIRECTORY", "BUCKET", "IMPORT", "EXPORT", "ENDPOINT"], *map(_row, found)])
    for one in found:
        names = conflicts_of(one)
        if names:
            more = ", ..." if len(names) > _CONFLICTS_MOST else ""
            echo(f"{one.directory}: {len(names)} in conflict: {', '.join(names[:_CONFLICTS_MOST])}{more}")


def _row(one: Link) -> list[str]:
    events = (",".join(words) or "-" for words in (one.import_, one.export))
    return [one.directory, one.url, *events, one.endpoint.url or "-"]
