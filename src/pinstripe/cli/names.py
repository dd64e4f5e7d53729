"""Commands for names: ls, rm, mv, mkdir, chmod."""

from __future__ import annotations

import grp
import os
import pwd
import stat as stat_module
from typing import Any

import click

from ..errors import Error
from ..store import namespace
from ..store.listing import DirEntry
from ..store.place import Place, locate
from .failure import Failures
from .output import echo, emit_json, print_table, size_text, time_text
from .words import OCTAL, human_option, json_option, parse_mode

__all__ = ["chmod_command", "ls_command", "mkdir_command", "mv_command", "rm_command"]

_TYPES = {stat_module.S_IFDIR: "directory", stat_module.S_IFREG: "file", stat_module.S_IFLNK: "symlink"}


@click.command("ls")
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("-l", "long", is_flag=True, help="Mode, owner, group, size, stored size, time.")
@click.option("-R", "recursive", is_flag=True, help="Directories too, with all that is in them.")
@click.option("-d", "as_names", is_flag=True, help="Directories themselves, not what is in them.")
@human_option
@json_option
def ls_command(paths: tuple[str, ...], long: bool, recursive: bool, as_names: bool, human: bool, as_json: bool) -> None:
    """List names of a store.

    \b
    Example:
      pinstripe ls -l /scratch/store/run-1
    """
    failures = Failures()
    listing = _Listing(long or as_json, human, as_json, failures)
    for path in paths or (".",):
        with failures:
            if namespace.isdir(path) and not as_names:
                listing.directory(path, recursive, len(paths) > 1 or recursive)
            else:
                listing.name(path)
    listing.end()
    failures.exit()


class _Listing:
    """What ls prints, collected for JSON."""

    def __init__(self, long: bool, human: bool, as_json: bool, failures: Failures) -> None:
        self.long, self.human, self.as_json, self.failures = long, human, as_json, failures
        self.found: list[dict[str, Any]] = []
        self.rows: list[list[str]] = []
        self.begun = False

    def name(self, path: str) -> None:
        self._add(path, path)
        self._print()

    def directory(self, path: str, recursive: bool, titled: bool) -> None:
        with namespace.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if titled and not self.as_json:
            echo(f"{chr(10) * self.begun}{path}:")
        for entry in found:
            with self.failures:
                self._add(entry.path, entry.name, entry)
        self._print()
        if recursive:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    with self.failures:
                        self.directory(entry.path, recursive, titled)

    def _add(self, path: str, shown: str, entry: DirEntry | None = None) -> None:
        if not self.long:
            if not namespace.lexists(path):
                os.lstat(locate(path, follow=False).path)  # raises what is to be told
            self.rows.append([shown])
            return
        seen: os.stat_result | None = None
        kind = os.lstat(locate(path, follow=False).path).st_mode
        try:
            seen = entry.stat(follow_symlinks=False) if entry is not None else namespace.lstat(path)
        except (Error, OSError):
            self.rows.append([stat_module.filemode(kind), "?", "?", "?", "?", "?", shown])
            raise
        link = namespace.readlink(path) if stat_module.S_ISLNK(seen.st_mode) else None
        if self.as_json:
            self.found.append(describe_name(path, seen, link))
        else:
            self.rows.append(self._row(shown, seen, link))

    def _row(self, shown: str, seen: os.stat_result, link: str | None) -> list[str]:
        is_file = stat_module.S_ISREG(seen.st_mode)
        return [
            stat_module.filemode(seen.st_mode),
            user_name(seen.st_uid),
            group_name(seen.st_gid),
            size_text(seen.st_size, self.human) if is_file else "-",
            size_text(seen.st_blocks * 512, self.human) if is_file else "-",
            time_text(seen.st_mtime_ns),
            shown if link is None else f"{shown} -> {link}",
        ]

    def _print(self) -> None:
        print_table(self.rows, "lllrrl" if self.long else "")
        self.begun = True
        self.rows = []

    def end(self) -> None:
        if self.as_json:
            emit_json(self.found)


def describe_name(path: str, seen: os.stat_result, link: str | None) -> dict[str, Any]:
    """Say what ``ls --json`` says of one name."""
    kind = _TYPES.get(stat_module.S_IFMT(seen.st_mode), "other")
    described: dict[str, Any] = {
        "path": path,
        "type": kind,
        "mode": f"{stat_module.S_IMODE(seen.st_mode):04o}",
        "uid": seen.st_uid,
        "gid": seen.st_gid,
        "mtime_ns": seen.st_mtime_ns,
    }
    if kind == "file":
        described |= {"size": seen.st_size, "stored_bytes": seen.st_blocks * 512}
    if link is not None:
        described["link"] = link
    return described


def user_name(uid: int) -> str:
    """Return a user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, or the number where there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@click.command("rm")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("-r", "-R", "recursive", is_flag=True, help="Directories too, with all that is in them.")
@click.option("-f", "force", is_flag=True, help="What is not there is no error.")
@click.option("-v", "verbose", is_flag=True, help="Name what is removed.")
def rm_command(paths: tuple[str, ...], recursive: bool, force: bool, verbose: bool) -> None:
    """Remove files, and free what they take, at once.

    \b
    Example:
      pinstripe rm -r /scratch/store/run-1
    """
    failures = Failures()
    told = (lambda path: echo(f"removed {path}")) if verbose else None
    for path in paths:
        with failures:
            place = locate(path, follow=False)
            if force and not os.path.lexists(place.path):
                continue
            if not place.name:
                failures.add(f"{path}: the store itself: `pinstripe destroy` removes a store")
            elif not os.path.isdir(place.path) or os.path.islink(place.path):
                namespace.remove(path)
                if told:
                    told(path)
            elif recursive:
                namespace.removetree(path, onremove=told)
            else:
                failures.add(f"{path}: is a directory: -r removes it with all that is in it")
    failures.exit()


@click.command("mv")
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.argument("destination", type=click.Path())
@click.option("-n", "keep", is_flag=True, help="Replace nothing.")
def mv_command(sources: tuple[str, ...], destination: str, keep: bool) -> None:
    """Rename within a store; a file that is there already is replaced, in one step.

    \b
    Example:
      pinstripe mv /scratch/store/new /scratch/store/result
    """
    failures = Failures()
    into = namespace.isdir(destination)
    if len(sources) > 1 and not into:
        raise click.UsageError(f"{destination} is no directory, and there are {len(sources)} sources")
    for source in sources:
        to = os.path.join(destination, os.path.basename(source.rstrip("/"))) if into else destination
        with failures:
            if keep and namespace.lexists(to):
                failures.add(f"{to}: is there already")
                continue
            namespace.rename(source, to)
    failures.exit()


@click.command("mkdir")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("-p", "parents", is_flag=True, help="What is missing above too; no error if it is there.")
@click.option("-m", "--mode", type=OCTAL, help="Permissions, in octal.")
def mkdir_command(paths: tuple[str, ...], parents: bool, mode: int | None) -> None:
    """Make directories.

    \b
    Example:
      pinstripe mkdir -p /scratch/store/a/b
    """
    failures = Failures()
    for path in paths:
        with failures:
            if parents:
                namespace.makedirs(path, exist_ok=True)
            else:
                namespace.mkdir(path)
            if mode is not None:
                namespace.chmod(path, mode)
    failures.exit()


@click.command("chmod", context_settings={"ignore_unknown_options": True})
@click.argument("mode")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("-R", "recursive", is_flag=True, help="Directories with all that is in them.")
def chmod_command(mode: str, paths: tuple[str, ...], recursive: bool) -> None:
    """Change permissions, in octal or such as u+rw,go-w: of the name, and of what holds its data.

    \b
    Example:
      pinstripe chmod -R go-rwx /scratch/store/private
    """
    parse_mode(mode, 0, False)
    failures = Failures()
    for path in paths:
        with failures:
            _chmod(locate(path), mode, recursive, failures)
    failures.exit()


def _chmod(place: Place, mode: str, recursive: bool, failures: Failures) -> None:
    seen = os.lstat(place.path)
    is_directory = stat_module.S_ISDIR(seen.st_mode)
    if is_directory and recursive:
        with namespace.scandir(place.path) as entries:
            below = sorted((entry.path, entry.name) for entry in entries if not entry.is_symlink())
        for path, name in below:
            with failures:
                _chmod(Place(place.store, path, place.path, name), mode, recursive, failures)
    namespace.chmod(place.path, parse_mode(mode, stat_module.S_IMODE(seen.st_mode), is_directory))
