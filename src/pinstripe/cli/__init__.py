"""The command line: `pinstripe COMMAND`. One file for each family of commands; docs/reference/cli.md lists them."""

from __future__ import annotations

import click

from .. import __version__
from ..kernels import crc64_implementation, lz4_library
from .care import verify_command
from .contents import cat_command, stat_command
from .copy import cp_command
from .exporting import export_command, stage_out_command
from .group import Commands
from .layouts import getstripe_command, setstripe_command
from .links import link_command, unlink_command
from .names import chmod_command, ls_command, mkdir_command, mv_command, rm_command
from .space import df_command, du_command, target_group
from .staging import import_command, restore_command, stage_in_command
from .state import state_command
from .stores import adopt_command, create_command, destroy_command, gc_command
from .tending import agent_command, release_command, sync_command

__all__ = ["cli", "main"]


class _Pinstripe(Commands):
    parallel = frozenset({"cp", "verify", "target", "import", "restore", "stage-in", "export", "stage-out"})


def _tell_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"pinstripe {__version__}")
        click.echo(f"CRC-64/NVME: {crc64_implementation()}")
        click.echo(f"LZ4: {lz4_library()}")
        context.exit()


@click.group("pinstripe", cls=_Pinstripe)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_tell_version,
    help="Tell the version, and which checksum and LZ4 code are in use.",
)
def cli() -> None:
    """A parallel striped file store: look at it, copy in and out, care for it.

    \b
    Start with:
      pinstripe create /scratch/store --target /nvme0/stripes --target /nvme1/stripes
      pinstripe cp -r results /scratch/store/
      pinstripe ls -l /scratch/store

    Exit codes: 0 good, 1 some failed, 2 usage, 3 conflict, 4 verification failed, 75 incomplete, run it again.
    """


for _command in (
    create_command,
    ls_command,
    stat_command,
    cp_command,
    cat_command,
    rm_command,
    mv_command,
    mkdir_command,
    chmod_command,
    du_command,
    df_command,
    getstripe_command,
    setstripe_command,
    verify_command,
    link_command,
    unlink_command,
    state_command,
    import_command,
    restore_command,
    stage_in_command,
    export_command,
    stage_out_command,
    release_command,
    sync_command,
    agent_command,
    gc_command,
    adopt_command,
    target_group,
    destroy_command,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; the entry point of the `pinstripe` command."""
    cli.main(prog_name="pinstripe")
