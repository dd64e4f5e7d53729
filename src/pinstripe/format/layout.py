"""Layout: how a file is laid out in stripes and blocks."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from ..errors import ArgumentError, DamageError, UnsupportedError
from ..options import parse_size

__all__ = ["CODECS", "Layout"]

CODECS = {"auto": 0, "lz4": 1, "raw": 2}
"""Numbers on disk of the codecs of a layout; append-only."""

_STRIPE_BYTES = (1 << 16, 1 << 26)
_BLOCK_BYTES = (1 << 14, 1 << 20)
_STRIPE_COUNT_MOST = (1 << 31) - 1


def check_pool(pool: object) -> None:
    """Refuse what cannot be a pool's name.

    Raises
    ------
    ArgumentError
        `pool` is neither None nor 1 to 32 letters, digits, ``_``, ``-`` or ``.``.
    """
    if pool is None:
        return
    if not isinstance(pool, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", pool):
        raise ArgumentError(f"pool={pool!r}: a pool's name is 1 to 32 letters, digits, '_', '-' or '.'")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out; fixed when the file is made, inherited from its directory.

    Attributes
    ----------
    stripe_bytes : int
        Size of a stripe: a power of two from 64 KiB to 64 MiB.
    stripe_count : int
        Over how many targets of the pool the stripes go; -1 = all.
    block_bytes : int
        Size of a block: a power of two from 16 KiB to 1 MiB, at most `stripe_bytes`.
    codec : str
        ``auto`` (the data decides), ``lz4`` or ``raw``.
    pool : str or None
        Name of the pool; None = every target.

    Raises
    ------
    ArgumentError
        A value that a layout cannot have; the text names it and what would do.
    """

    stripe_bytes: int = 1 << 20
    stripe_count: int = -1
    block_bytes: int = 1 << 16
    codec: str = "auto"
    pool: str | None = None

    def __post_init__(self) -> None:
        for name, (least, most) in (("stripe_bytes", _STRIPE_BYTES), ("block_bytes", _BLOCK_BYTES)):
            value: Any = getattr(self, name)
            if not _is_int(value) or not least <= value <= most or value & (value - 1):
                raise ArgumentError(
                    f"{name}={value!r}: choose a power of two from {_size(least)} to {_size(most)}, such as 1M"
                )
        if self.block_bytes > self.stripe_bytes:
            raise ArgumentError(
                f"block_bytes={_size(self.block_bytes)} is more than stripe_bytes={_size(self.stripe_bytes)}: "
                "choose smaller blocks or larger stripes"
            )
        count: Any = self.stripe_count
        if not _is_int(count) or not (count == -1 or 1 <= count <= _STRIPE_COUNT_MOST):
            raise ArgumentError(f"stripe_count={count!r}: choose -1 (all targets of the pool) or a number from 1")
        if self.codec not in CODECS:
            raise ArgumentError(f"codec={self.codec!r}: choose one of {', '.join(CODECS)}")
        check_pool(self.pool)

    @classmethod
    def make(cls, base: Layout | None = None, **changes: int | str | None) -> Layout:
        """Change `base` (the default layout if None) by what is given; None leaves a value as it is.

        Parameters
        ----------
        base : Layout or None
            Where the values come from that are not given.
        **changes
            Fields of a layout. Sizes may be text such as ``1M``; ``stripe_count`` may be ``all``; ``pool=""``: none.

        Raises
        ------
        ArgumentError
            A name that is no field, or a value that it cannot have.
        """
        values: dict[str, Any] = dataclasses.asdict(base or cls())
        unknown = sorted(changes.keys() - values.keys())
        if unknown:
            raise ArgumentError(f"unknown layout field {', '.join(unknown)}: the fields are {', '.join(values)}")
        for name, value in changes.items():
            if value is None:
                continue
            if name == "pool":
                values[name] = value or None
            elif name == "codec":
                values[name] = value
            elif name == "stripe_count" and value == "all":
                values[name] = -1
            else:
                values[name] = _number(name, value)
        return cls(**values)

    def to_json(self) -> str:
        """Return the one line of JSON, without newline, that inodes and directories hold."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """Read what `to_json` wrote.

        Raises
        ------
        DamageError
            The text is no layout.
        UnsupportedError
            The layout has a field that this version does not know.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamageError(f"a layout that is not JSON: {error}") from None
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: object) -> Layout:
        """Make a layout of the object that its JSON stands for; errors as those of `from_json`."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not names <= values.keys():
            raise DamageError(f"a layout without all of {', '.join(sorted(names))}")
        if values.keys() - names:
            unknown = ", ".join(sorted(values.keys() - names))
            raise UnsupportedError(f"a layout with {unknown}: written by a newer pinstripe, which this one cannot read")
        try:
            return cls(**values)
        except (ArgumentError, TypeError) as error:
            raise DamageError(f"a layout that cannot be: {error}") from None

    @property
    def codec_number(self) -> int:
        """The codec's number on disk."""
        return CODECS[self.codec]

    def stripes(self, size: int) -> int:
        """Return how many stripes `size` bytes take."""
        return -(-size // self.stripe_bytes)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: int | str) -> int:
    try:
        return parse_size(value) if name.endswith("_bytes") else int(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}={value!r}: {error}") from None


def _size(value: int) -> str:
    return f"{value >> 20}M" if value % (1 << 20) == 0 else f"{value >> 10}K"
