"""Words of the command line: kinds of arguments, and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import ArgumentError
from ..options import parse_size

__all__ = ["GENERATION", "OCTAL", "SIZE", "count_or_default", "human_option", "json_option", "parse_mode"]

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


SIZE = _Size()
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
