"""Options: frozen, validated once, from keyword arguments over the environment over defaults. Table: docs/reference/hints.md."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from .errors import ArgumentError

__all__ = ["Options", "parse_size"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | int) -> int:
    """Read a size such as ``4096``, ``64K``, ``1M`` or ``2GiB`` in bytes. K, M, G, T are powers of 1024.

    Raises
    ------
    ArgumentError
        The text is no size.
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise ArgumentError(
            f"{text!r} is not a size: write a number of bytes, or one with K, M, G or T (powers of 1024)"
        )
    return int(match[1]) * _UNITS[match[2].upper()]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a file is written and read; not part of what is stored.

    Attributes
    ----------
    durability : str
        ``full``: when a commit returns, a power cut loses nothing. ``none``: the kernel syncs when it likes.
    batch_bytes : int
        Raw bytes encoded and written in one go.
    cache_bytes : int
        Bound of the write-back cache of partial stripes, a rank.
    threads : int
        Encoder and decoder threads; 0 = as many as the process's CPUs allow beside the other ranks.
    acceleration : int
        LZ4's acceleration, 1 to 65537.
    max_segments : int
        Most segments that one job keeps open in one file.
    grace_s : float
        How long a generation that was replaced stays, for its readers.
    retries : int
        How often a commit that lost is tried again.
    overlap : str
        What overlapping ranges within one collective write do: ``error`` or ``higher`` (the higher rank wins).
    inline_bytes : int
        New files up to this size are stored in their inode.
    exchange_write, exchange_read : str
        Whether interleaved pieces travel to the stripes' owners: ``auto`` (the pattern decides), ``always`` or ``never``.
    shared_memory : str
        Whether ranks of one host exchange through memory that they share: ``auto`` (where they can) or ``never``.
    """

    durability: str = "full"
    batch_bytes: int = 8 << 20
    cache_bytes: int = 64 << 20
    threads: int = 0
    acceleration: int = 1
    max_segments: int = 4096
    grace_s: float = 120.0
    retries: int = 8
    overlap: str = "error"
    inline_bytes: int = 16 << 10
    exchange_write: str = "auto"
    exchange_read: str = "auto"
    shared_memory: str = "auto"

    def __post_init__(self) -> None:
        for name, words in (
            ("durability", ("full", "none")),
            ("overlap", ("error", "higher")),
            ("exchange_write", ("auto", "always", "never")),
            ("exchange_read", ("auto", "always", "never")),
            ("shared_memory", ("auto", "never")),
        ):
            if getattr(self, name) not in words:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(words)}")
        for name, least in (
            ("batch_bytes", 1 << 16),
            ("cache_bytes", 1 << 20),
            ("threads", 0),
            ("acceleration", 1),
            ("max_segments", 1),
            ("grace_s", 0),
            ("retries", 0),
            ("inline_bytes", 0),
        ):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: must be at least {least}")

    @property
    def durable(self) -> bool:
        """Whether a commit syncs before it links."""
        return self.durability == "full"

    @classmethod
    def make(cls, given: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Options:
        """Take each option from `given`, else from ``PINSTRIPE_NAME`` in the environment, else its default.

        Raises
        ------
        ArgumentError
            A name that is no option, or a value that it cannot have.
        """
        given = dict(given or {})
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = given.pop(field.name, None)
            if value is None:
                value = environ.get(f"PINSTRIPE_{field.name.upper()}")
            if value is not None:
                values[field.name] = _converted(field.name, type(field.default), value)
        if given:
            known = ", ".join(field.name for field in dataclasses.fields(cls))
            raise ArgumentError(f"unknown option {', '.join(sorted(given))}: the options are {known}")
        return cls(**values)


def _converted(name: str, kind: type, value: Any) -> Any:
    try:
        if kind is int:
            return parse_size(value) if name.endswith("_bytes") else int(value)
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}={value!r}: {error}") from None
