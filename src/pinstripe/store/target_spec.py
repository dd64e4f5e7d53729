"""TargetSpec: a target as a person gives it, ``DIR[,scope=node][,pool=ssd]``."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from ..errors import ArgumentError

__all__ = ["TargetSpec"]

_SCOPES = ("shared", "node")


@dataclasses.dataclass(frozen=True, slots=True)
class TargetSpec:
    """A target that is to be.

    Attributes
    ----------
    path : str
        Absolute path of its directory.
    scope : str
        ``shared``: every node reaches it; ``node``: each node has its own directory of this path.
    pool : str or None
        The named set of targets that it belongs to.
    """

    path: str
    scope: str = "shared"
    pool: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ArgumentError("a target needs a directory: DIR[,scope=node][,pool=NAME]")
        if self.scope not in _SCOPES:
            raise ArgumentError(f"scope={self.scope!r} of target {self.path}: choose one of {', '.join(_SCOPES)}")
        if self.pool is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", self.pool):
            raise ArgumentError(f"pool={self.pool!r} of target {self.path}: 1 to 32 letters, digits, '_', '-' or '.'")

    @classmethod
    def parse(cls, given: str | os.PathLike[str] | Mapping[str, Any]) -> TargetSpec:
        """Read ``DIR[,scope=node][,pool=ssd]``, a path, or a mapping with ``path``, ``scope`` and ``pool``.

        Only a trailing ``,word=`` is an option, so a directory's own commas need no quoting.

        Raises
        ------
        ArgumentError
            An unknown option or value.
        """
        if isinstance(given, Mapping):
            options = dict(given)
            path = os.fspath(options.pop("path", ""))
        else:
            path, options = _split(os.fspath(given))
        unknown = sorted(set(options) - {"scope", "pool"})
        if unknown:
            raise ArgumentError(f"target {path}: unknown option {', '.join(unknown)}: the options are scope and pool")
        return cls(
            os.path.realpath(path) if path else "", options.get("scope") or "shared", options.get("pool") or None
        )


def _split(text: str) -> tuple[str, dict[str, Any]]:
    options: dict[str, Any] = {}
    while match := re.search(r",([a-z]+)=([^,=]*)$", text):
        if match[1] in options:
            raise ArgumentError(f"target {text}: {match[1]} is given twice")
        options[match[1]] = match[2]
        text = text[: match.start()]
    return text, options
