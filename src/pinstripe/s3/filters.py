"""Filters: which paths are meant, by patterns as the shell has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["Filter"]


class Filter:
    """Paths that match some of `include`, or all where it is empty, and none of `exclude`.

    A pattern without a slash is matched with the last name of a path, one with a slash with the whole path. ``*`` and ``?`` stay
    within a name, ``**`` does not; ``[...]`` is a set of characters; ``dir/`` is all that lies below ``dir``.

    Examples
    --------
    >>> chosen = Filter(["*.nc", "maps/**"], ["tmp/"])
    >>> chosen("a/b.nc"), chosen("maps/x/y"), chosen("tmp/c.nc")
    (True, True, False)
    """

    def __init__(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
        self._include = [_compile(pattern) for pattern in include]
        self._exclude = [_compile(pattern) for pattern in exclude]

    def __bool__(self) -> bool:
        return bool(self._include or self._exclude)

    def __call__(self, path: str) -> bool:
        """Tell whether a relative path is meant."""
        if self._include and not any(pattern.fullmatch(path) for pattern in self._include):
            return False
        return not any(pattern.fullmatch(path) for pattern in self._exclude)


def _compile(pattern: str) -> re.Pattern[str]:
    text = pattern.removeprefix("/")
    if text.endswith("/"):
        text += "**"
    out = "" if "/" in pattern.removesuffix("/") or text.endswith("**") else r"(?:.*/)?"
    position = 0
    while position < len(text):
        letter = text[position]
        if text.startswith("**/", position):
            out += r"(?:.*/)?"
            position += 3
            continue
        if text.startswith("**", position):
            out += ".*"
            position += 2
            continue
        end = text.find("]", position + 2) if letter == "[" else -1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif end > 0:
            inside = text[position + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            out += f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
            position = end
        else:
            out += re.escape(letter)
        position += 1
    return re.compile(out, re.DOTALL)
