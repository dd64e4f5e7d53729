"""Words of the command line: kinds of arguments, and options that several commands share."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import ArgumentError
from ..format.superblock import EVENTS
from ..options import parse_size

__all__ = [
    "DURATION",
    "EVENT_WORDS",
    "GENERATION",
    "OCTAL",
    "OWNER",
    "PERCENT",
    "SIZE",
    "count_or_default",
    "human_option",
    "json_option",
    "parse_mode",
]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
human_option = click.option("-h", "--human", is_flag=True, help="Sizes with K, M, G, T (powers of 1024).")


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(value)
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


class _Octal(click.ParamType[int]):
    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch("[0-7]{1,5}", value) or int(value, 8) > 0o7777:
            self.fail(f"{value!r} is not a mode: write it in octal, such as 2775", param, ctx)
        return int(value, 8)


class _Generation(click.ParamType[int | str]):
    name = "generation"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int):
            return value
        text = str(value)
        if text == "durable" or re.fullmatch("[0-9a-f]{32}", text):
            return text
        if not text.isdecimal():
            self.fail(f"{text!r} is neither a number, 'durable', nor the id of a kept transaction", param, ctx)
        return int(text)


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if not match:
            self.fail(f"{value!r} is not a time: write seconds, or a number with s, m, h or d", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


class _Percent(click.ParamType[float]):
    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", value)
        if not match or float(match[1]) > 100:
            self.fail(f"{value!r} is no share: write per cents, such as 90%", param, ctx)
        return float(match[1])


class _Owner(click.ParamType[tuple[int, int]]):
    name = "owner"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        user, colon, group = str(value).partition(":")
        if not user or (colon and not group):
            self.fail(f"{value!r} is no owner: write USER or USER:GROUP, names or numbers", param, ctx)
        try:
            uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
            if not colon:
                return uid, -1
            return uid, int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            self.fail(f"{value!r}: there is no such user or group here; numbers will do, too", param, ctx)


class _Events(click.ParamType[tuple[str, ...]]):
    name = "events"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = {"all": set(EVENTS), "none": set()}.get(value, set(value.split(",")))
        if not words <= set(EVENTS):
            self.fail(f"{value!r}: choose of {', '.join(EVENTS)}, with commas between; or all, or none", param, ctx)
        return tuple(word for word in EVENTS if word in words)


SIZE = _Size()
DURATION = _Duration()
PERCENT = _Percent()
OWNER = _Owner()
EVENT_WORDS = _Events()
OCTAL = _Octal()
GENERATION = _Generation()


def count_or_default(value: int | None) -> int | None:
    """Read a stripe count as Lustre's users write it: 0 is the default."""
    return None if value == 0 else value


_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}


def parse_mode(text: str, present: int, is_directory: bool) -> int:
    """Apply a mode as chmod(1) takes it, octal or such as ``u+rw,go-w``, to the present one.

    Raises
    ------
    ArgumentError
        It is neither.
    """
    if re.fullmatch("[0-7]{1,5}", text) and int(text, 8) <= 0o7777:
        return int(text, 8)
    mode = present
    for clause in text.split(","):
        match = re.fullmatch("([ugoa]*)([-+=])([rwxXst]*)", clause)
        if not match:
            raise ArgumentError(f"{text!r} is not a mode: write it in octal, or such as u+rw,go-w")
        who = 0
        for letter in match[1] or "a":
            who |= _WHO[letter]
        bits = 0
        for letter in match[3]:
            bits |= {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0, "s": 0o6000, "t": 0o1000}[letter]
            if letter == "X" and (is_directory or present & 0o111):
                bits |= 0o111
        bits &= who
        if match[2] == "+":
            mode |= bits
        elif match[2] == "-":
            mode &= ~bits
        else:
            mode = mode & ~(who & 0o777) | bits
    return mode
