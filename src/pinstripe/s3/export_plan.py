"""What an export is to look at: names below directories that belong to a prefix, found by walking. Asks no bucket, and looks into no file."""

from __future__ import annotations

import dataclasses
import os
import stat as stat_module
from collections.abc import Iterable
from typing import Any

from ..errors import ArgumentError
from ..format.remote import Endpoint
from ..store import namespace
from ..store.place import AnyPath, locate
from ..store.store import Store
from .links import link_of
from .names import path_problem, prefix_of, split_url

__all__ = ["DEFAULT_DIRECTORY_MODE", "Destination", "Name", "Plan", "plan_export", "plan_stage_out"]

DEFAULT_DIRECTORY_MODE = 0o755
"""A directory of this mode that is not empty needs no object: the keys below it say that it is there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """A directory and the prefix that it goes to.

    Attributes
    ----------
    directory : str
        Absolute.
    bucket, prefix : str
    endpoint : Endpoint
    if_conflict, if_deleted : str
        As `pinstripe.s3.conflicts.Policy` has them.
    is_link : bool
        Whether the directory is linked to the prefix: what is exported becomes the base of the file.
    """

    directory: str
    bucket: str
    prefix: str
    endpoint: Endpoint
    if_conflict: str = "fail"
    if_deleted: str = "conflict"
    is_link: bool = False

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, for people."""
        return f"s3://{self.bucket}/{self.prefix}"

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return dataclasses.asdict(self) | {"endpoint": self.endpoint.to_values()}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Destination:
        """Read what `to_values` gave."""
        return cls(**(values | {"endpoint": Endpoint.from_values(values["endpoint"])}))


@dataclasses.dataclass(slots=True)
class Name:
    """One name that is to be exported.

    Attributes
    ----------
    path : str
        Relative to the destination's directory.
    kind : str
        ``file``, ``directory`` or ``symlink``.
    destination : int
        Its number in the plan.
    needs_object : bool
        False: a directory that the keys below it imply.
    listed : str or None
        ETag of the object that a list of the prefix shows, "" where it shows none; None = there was no list.
    listed_bytes : int
        Its size.
    known : str
        ETag that the prefix's last completion object knows, or "".
    known_crc : str
        CRC-64/NVME of that version, or "".
    """

    path: str
    kind: str
    destination: int
    needs_object: bool = True
    listed: str | None = None
    listed_bytes: int = 0
    known: str = ""
    known_crc: str = ""


@dataclasses.dataclass(slots=True)
class Plan:
    """All that is to be looked at.

    Attributes
    ----------
    destinations : list of Destination
    names : list of Name
    problems : list of (str, str)
        Paths that cannot be keys, or could not be looked at, and why.
    """

    destinations: list[Destination] = dataclasses.field(default_factory=list)
    names: list[Name] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def to_values(self) -> dict[str, Any]:
        """Return destinations and names for JSON."""
        return {
            "destinations": [one.to_values() for one in self.destinations],
            "names": [dataclasses.astuple(one) for one in self.names],
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Plan:
        """Read what `to_values` gave."""
        return cls(
            [Destination.from_values(one) for one in values["destinations"]],
            [Name(*one) for one in values["names"]],
        )


def plan_stage_out(directory: AnyPath, url: str, endpoint: Endpoint, if_exists: str) -> Plan:
    """Walk a directory that goes to a prefix.

    Raises
    ------
    ArgumentError
        The address cannot be.
    NotADirectoryError, NoStoreError, OSError
        The directory is none of a store's.
    """
    bucket, key = split_url(url)
    place = locate(directory)
    plan = Plan()
    real = place.path.rstrip("/")
    plan.destinations.append(Destination(real, bucket, prefix_of(key), endpoint, if_exists, "recreate"))
    os.scandir(real).close()  # NotADirectoryError, PermissionError as the system gives them
    _walk(plan, 0, "")
    return plan


def plan_export(store: Store, paths: Iterable[AnyPath], if_exists: str | None) -> Plan:
    """Walk files and trees that lie below links.

    Raises
    ------
    ArgumentError
        A path lies below no link.
    FileNotFoundError, NoStoreError, OSError
        A path is not there, or in no store.
    """
    plan = Plan()
    numbers: dict[bytes, int] = {}
    seen: set[str] = set()
    for path in paths:
        place = locate(path, follow=False)
        mode = os.lstat(place.path).st_mode
        real = place.path.rstrip("/")
        link = link_of(store, real)
        if link is None:
            raise ArgumentError(
                f"{os.fspath(path)!r} lies below no link: say where it goes with `pinstripe stage-out`, or make a link"
            )
        if link.id not in numbers:
            numbers[link.id] = len(plan.destinations)
            plan.destinations.append(
                Destination(
                    link.directory,
                    link.bucket,
                    link.prefix,
                    link.endpoint,
                    if_exists or link.options.if_conflict,
                    link.options.if_deleted,
                    is_link=True,
                )
            )
        number = numbers[link.id]
        below = os.path.relpath(real, link.directory)
        below = "" if below == "." else below
        if stat_module.S_ISDIR(mode):
            if below:
                _add_directory(plan, number, below)
            _walk(plan, number, below)
        else:
            _add(plan, Name(below, "symlink" if stat_module.S_ISLNK(mode) else "file", number))
    unique = []
    for name in plan.names:
        whole = os.path.join(plan.destinations[name.destination].directory, name.path)
        if whole not in seen:
            seen.add(whole)
            unique.append(name)
    plan.names = unique
    return plan


def _walk(plan: Plan, number: int, below: str) -> None:
    pending = [below]
    while pending:
        below = pending.pop()
        try:
            with namespace.scandir(os.path.join(plan.destinations[number].directory, below)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    path = f"{below}/{entry.name}" if below else entry.name
                    if entry.is_symlink():
                        _add(plan, Name(path, "symlink", number))
                    elif entry.is_dir():
                        if _add_directory(plan, number, path):
                            pending.append(path)
                    else:
                        _add(plan, Name(path, "file", number))
        except OSError as error:
            plan.problems.append((below, error.strerror or str(error)))


def _add_directory(plan: Plan, number: int, path: str) -> bool:
    whole = os.path.join(plan.destinations[number].directory, path)
    try:
        mode = stat_module.S_IMODE(os.lstat(whole).st_mode)
        needs_object = mode != DEFAULT_DIRECTORY_MODE or not namespace.listdir(whole)
    except OSError as error:
        plan.problems.append((path, error.strerror or str(error)))
        return False
    return _add(plan, Name(path, "directory", number, needs_object))


def _add(plan: Plan, name: Name) -> bool:
    problem = path_problem(name.path, plan.destinations[name.destination].prefix, is_directory=name.kind == "directory")
    if problem is not None:
        plan.problems.append((name.path, problem))
        return False  # what lies below has the same problem
    plan.names.append(name)
    return True
