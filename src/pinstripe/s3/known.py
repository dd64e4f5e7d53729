"""Known: what the last round of a link knew of both sides. It is how a name that was removed is told from one that never was.

::

    STORE/.pinstripe/s3/LINK.known      JSON; replaced by rename

A record that is lost, or malformed, costs that removals since are not noticed: the bucket's objects then come back as stubs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from typing import Any

from ..store.store import Store
from .agent_lock import s3_directory
from .links import Link, links

__all__ = ["NOEXPORT", "Known", "conflicts_of", "forget_ended"]

_SUFFIX = ".known"

NOEXPORT = -1
"""The mark of a file that stays out of the bucket: its removal is not carried over."""


@dataclasses.dataclass(slots=True)
class Known:
    """What is known of the names of a link. Names are relative paths, directories with a slash behind.

    Attributes
    ----------
    names : dict
        ETag of the object that a file or symlink was last known to equal; "" for directories.
    marks : dict
        Of symlinks the time, in nanoseconds, of directories what their object depends on; `NOEXPORT` of such files.
    kept : dict
        Transaction, in hex, of files in conflict that were uploaded beside their object.
    conflicts : list of str
        Names that were in conflict at the last round.
    released : dict
        Files, by id in hex, whose bytes a collector may free when the grace time is over: when they were released, in nanoseconds since
        1970, and how many bytes that frees.
    files : dict
        Of each file the id, in hex; and the length of its inode, 0 where it has a directory of generations: by these it is found where it
        lies under another name now.
    """

    names: dict[str, str] = dataclasses.field(default_factory=dict)
    marks: dict[str, int] = dataclasses.field(default_factory=dict)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    conflicts: list[str] = dataclasses.field(default_factory=list)
    released: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    files: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)

    @property
    def pending_bytes(self) -> int:
        """What was released and is not freed yet."""
        return sum(size for _, size in self.released.values())

    @classmethod
    def read(cls, link: Link) -> Known:
        """Read a link's record; an empty one where there is none, or none that can be understood."""
        try:
            with open(_path(link), "rb") as file:
                values: dict[str, Any] = json.load(file)
            known = cls(
                {str(name): str(etag) for name, etag in values["names"].items()},
                {str(name): int(mark) for name, mark in values["marks"].items()},
                {str(name): str(tx) for name, tx in values["kept"].items()},
                [str(name) for name in values["conflicts"]],
                {str(id): (int(at_ns), int(size)) for id, (at_ns, size) in values["released"].items()},
                {str(name): (str(id), int(size)) for name, (id, size) in values.get("files", {}).items()},
            )
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()
        return known

    def forget(self, name: str) -> None:
        """Drop all that is known of a name."""
        for kept in (self.names, self.marks, self.kept, self.files):
            kept.pop(name, None)

    def write(self, link: Link) -> None:
        """Replace the link's record, in one step."""
        s3_directory(link.store)
        path = _path(link)
        draft = f"{path}-{secrets.token_hex(8)}"
        try:
            with open(draft, "x", encoding="ascii") as file:
                json.dump(dataclasses.asdict(self), file, separators=(",", ":"))
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            raise


def forget_ended(store: Store) -> None:
    """Remove the records of links that are no more."""
    present = {f"{link.id.hex()}{_SUFFIX}" for link in links(store)}
    directory = s3_directory(store)
    for name in os.listdir(directory):
        if name.endswith(_SUFFIX) and name not in present:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))


def conflicts_of(link: Link) -> list[str]:
    """Return the names that were in conflict when the link was last brought in step."""
    return Known.read(link).conflicts


def _path(link: Link) -> str:
    return os.path.join(link.store.meta, "s3", f"{link.id.hex()}{_SUFFIX}")
