"""Commands for a store as a whole: create, destroy, adopt, gc."""

from __future__ import annotations

import dataclasses
import os

import click

from ..errors import NamespaceError
from ..options import Options
from ..s3.uploads import gc_uploads
from ..store.adopt import adopt, adopt_store
from ..store.collect import collect_store
from ..store.create import create
from ..store.destroy import destroy, doomed
from ..store.filesystem import is_volatile
from ..store.place import locate
from ..store.store import Store
from .failure import Failures
from .output import echo, emit_json, size_text
from .words import OCTAL, SIZE, count_or_default, json_option

__all__ = ["adopt_command", "create_command", "destroy_command", "gc_command"]


@click.command("create")
@click.argument("store", type=click.Path())
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="DIR[,scope=node][,pool=NAME]",
    help="Where data lies; repeat it. Made if its parent exists, else it must be empty.",
)
@click.option("-S", "--stripe-size", "stripe_bytes", type=SIZE, help="Bytes of a stripe (1M).")
@click.option("-c", "--stripe-count", type=int, help="Over how many targets a file goes; -1 = all (-1).")
@click.option("--block-size", "block_bytes", type=SIZE, help="Unit of compression and of small reads (64K).")
@click.option("--codec", type=click.Choice(["auto", "lz4", "raw"]), help="auto: the data decides (auto).")
@click.option("-p", "--pool", help="Pool that new files go to.")
@click.option("--mode", type=OCTAL, help="2775 for a group, 1777 for everybody (the directory's own, else 755).")
@json_option
def create_command(
    store: str,
    targets: tuple[str, ...],
    stripe_bytes: int | None,
    stripe_count: int | None,
    block_bytes: int | None,
    codec: str | None,
    pool: str | None,
    mode: int | None,
    as_json: bool,
) -> None:
    """Make a store: a directory of names, and targets where its data lies.

    \b
    Example:
      pinstripe create /scratch/store --target /nvme0/stripes --target /nvme1/stripes,pool=fast
    """
    made = create(
        store,
        targets,
        stripe_bytes=stripe_bytes,
        stripe_count=count_or_default(stripe_count),
        block_bytes=block_bytes,
        codec=codec,
        pool=pool,
        mode=mode,
    )
    volatile = [target.path for target in made.targets if is_volatile(target.path)]
    if as_json:
        paths = [target.path for target in made.targets]
        emit_json({"store": made.root, "id": made.id.hex(), "targets": paths, "volatile": volatile})
        return
    echo(f"store {made.root} on {len(made.targets)} target{'s' * (len(made.targets) != 1)}")
    for path in volatile:
        echo(f"note: {path} lies in memory: what is on it is gone after a power cut, whatever was synced")


@click.command("destroy")
@click.argument("store", type=click.Path(exists=True, file_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy_command(store: str, yes: bool) -> None:
    """Delete a store with all its data. Asks first, and names what goes.

    Other files in the store's directory, and on its targets, stay.

    \b
    Example:
      pinstripe destroy /scratch/store
    """
    opened = Store(store)
    plan = doomed(opened)
    echo(f"This deletes the store {opened.root}: {plan.files} file{'s' * (plan.files != 1)}, and their data on")
    for path in plan.targets:
        echo(f"  {path}")
    for path in plan.spared:
        echo(f"  (not on {path}, which is missing{' or the original store uses' if opened.is_copy else ''})")
    if not yes:
        click.confirm("Delete all this?", abort=True)
    left = destroy(opened)
    for path in left:
        echo(f"left, for it is not the store's: {path}")
    echo(f"destroyed {opened.root}")


@click.command("gc")
@click.argument("path", type=click.Path(), default=".")
@click.option("--grace", "grace_s", type=float, help="Keep generations that were replaced less than this ago (120 s).")
@click.option("--full", is_flag=True, help="As when a target is full: no grace, and kept conflicts go.")
@click.option("--uploads", is_flag=True, help="Instead: list multipart uploads, and abort those that killed runs left.")
@json_option
def gc_command(path: str, grace_s: float | None, full: bool, uploads: bool, as_json: bool) -> None:
    """Free what no file needs any more, in all of a store. Safe while it is used.

    Commit, replace and rm free what they replace by themselves; this is for what killed jobs left.

    \b
    Examples:
      pinstripe gc /scratch/store
      pinstripe gc /scratch/store --uploads
    """
    store = Store.find(path)
    store.check_writable()
    if uploads:
        _gc_uploads(store, as_json)
        return
    grace_s = Options.make().grace_s if grace_s is None else grace_s
    freed = collect_store(store, grace_s=grace_s, full=full)
    if as_json:
        emit_json(dataclasses.asdict(freed))
        return
    echo(
        f"freed {freed.segments} segments ({size_text(freed.bytes)}), {freed.generations} generations, "
        f"{freed.transactions} transactions of dead writers, {freed.files} removed files"
    )


def _gc_uploads(store: Store, as_json: bool) -> None:
    found = gc_uploads(store)
    if as_json:
        emit_json([one.to_values() for one in found])
    failures = Failures()
    for one in found:
        if one.problem:
            failures.add(f"{one.upload.url}: not aborted: {one.problem}")
        elif not as_json:
            echo(f"{'aborted' if one.aborted else 'under way'}: {one.upload.url} of {one.upload.path}")
    if not found and not as_json:
        echo(f"{store.root} left no uploads")
    failures.exit()


@click.command("adopt")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--yes", is_flag=True, help="Do not ask, when a whole store is adopted.")
@json_option
def adopt_command(paths: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Make names whole that were copied behind the store's back, or restored without their hard links.

    On a store's own directory: declare that a copied or restored store stands here now. The store that it was copied
    from must not be used any more.

    \b
    Examples:
      pinstripe adopt /scratch/store/copied-with-cp
      pinstripe adopt /scratch/restored-store
    """
    done: dict[str, str] = {}
    failures = Failures()
    for path in paths:
        with failures:
            place = locate(path)
            if not place.name:
                _adopt_whole(place.store, yes, done, failures)
            elif os.path.isdir(place.path):
                raise NamespaceError("a directory: name its files, or the whole store", path=place.path)
            else:
                done[path] = adopt(path)
    if as_json:
        emit_json(done)
    else:
        for path, what in done.items():
            echo(f"{what}: {path}")
    failures.exit()


def _adopt_whole(store: Store, yes: bool, done: dict[str, str], failures: Failures) -> None:
    if store.is_copy and not yes:
        click.confirm(
            f"From now on {store.root} changes its targets. The store that it was copied from must not be used any more. "
            "Go on?",
            abort=True,
        )
    for path, what in adopt_store(store, onerror=lambda error: failures.__exit__(type(error), error, None)):
        done[path] = what
