"""Output: JSON for programs, sizes and tables for people."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["echo", "emit_json", "print_table", "size_text", "time_text"]


def echo(text: str) -> None:
    """Print a line; names whose bytes are no text are printed as their bytes."""
    click.echo(text.encode(errors="surrogateescape") if not text.isascii() else text)


def emit_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    click.echo(json.dumps(value, indent=2))


def size_text(size: int, human: bool = True) -> str:
    """Write a size in bytes, for people with one of K, M, G, T (powers of 1024), as `ls -h` does."""
    if not human or size < 1024:
        return str(size)
    value, units = size / 1024, "KMGTPE"
    while value >= 1023.5 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f}{units[0]}" if value < 9.95 else f"{value:.0f}{units[0]}"


def time_text(ns: int) -> str:
    """Write a time since 1970, local, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))


def print_table(rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Print rows in columns; `right` has an r for each column that is set to the right. The last column is not padded."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if right[column : column + 1] == "r" else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo(" ".join(cells).rstrip())
