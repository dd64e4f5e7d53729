"""Superblock: what a store is; one revision of it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from ..errors import ArgumentError, DamageError, UnsupportedError
from ..kernels import crc64
from .layout import Layout, check_pool

__all__ = ["FEATURES", "FORMAT", "SCOPES", "STATES", "Superblock", "TargetEntry"]

FORMAT = 1
"""The version of the format that this package reads and writes."""

FEATURES: frozenset[str] = frozenset()
"""Features that this package knows, of all three kinds."""

SCOPES = ("shared", "node")
STATES = ("active", "drain")
_KINDS = ("incompatible", "read_only_compatible", "compatible")


@dataclasses.dataclass(frozen=True, slots=True)
class TargetEntry:
    """What the superblock says of one target.

    Attributes
    ----------
    id : bytes
        16 bytes, as in the target's identity file.
    path : str
        Absolute, or relative to the store.
    scope : str
        ``shared`` (every node reaches it) or ``node`` (one such directory on each node).
    pool : str or None
        Name of its pool.
    state : str
        ``active``, or ``drain``: takes no new frames.
    """

    id: bytes
    path: str
    scope: str = "shared"
    pool: str | None = None
    state: str = "active"

    def __post_init__(self) -> None:
        if len(self.id) != 16:
            raise ArgumentError(f"target id {self.id!r}: must be 16 bytes")
        path: Any = self.path
        if not isinstance(path, str) or not path or "\0" in path:
            raise ArgumentError(f"target path {self.path!r}: must be the path of a directory")
        for name, words in (("scope", SCOPES), ("state", STATES)):
            if getattr(self, name) not in words:
                raise ArgumentError(f"target {name}={getattr(self, name)!r}: choose one of {', '.join(words)}")
        check_pool(self.pool)


@dataclasses.dataclass(frozen=True, slots=True)
class Superblock:
    """One revision of what a store is.

    Attributes
    ----------
    store_id : bytes
        16 bytes.
    revision : int
        From 1; the name of its file.
    mode : int
        Permission bits of the ``aa`` directories before they lose read permission for others.
    layout : Layout
        The default layout.
    targets : tuple of TargetEntry
        In the order in which stripes go round.
    incompatible, read_only_compatible, compatible : tuple of str
        Features that the store uses. Who does not know an incompatible one refuses the store, a read-only compatible one
        reads it only, a compatible one ignores it.
    """

    store_id: bytes
    revision: int
    mode: int
    layout: Layout
    targets: tuple[TargetEntry, ...]
    incompatible: tuple[str, ...] = ()
    read_only_compatible: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.store_id) != 16:
            raise ArgumentError(f"store id {self.store_id!r}: must be 16 bytes")
        if self.revision < 1:
            raise ArgumentError(f"revision={self.revision}: must be at least 1")
        if not 0 <= self.mode <= 0o7777:
            raise ArgumentError(f"mode={self.mode!r}: choose permission bits such as 0o2775")
        if len({target.id for target in self.targets}) != len(self.targets):
            raise ArgumentError("two targets with the same id: each target stands once in a store")

    @property
    def not_writable_here(self) -> tuple[str, ...]:
        """Features unknown to this package that let it read, and not write."""
        return tuple(sorted(set(self.read_only_compatible) - FEATURES))

    def encode(self) -> bytes:
        """Return the bytes of the superblock's file."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "store": self.store_id.hex(),
            "features": {kind: list(getattr(self, kind)) for kind in _KINDS},
            "revision": self.revision,
            "mode": self.mode,
            "layout": dataclasses.asdict(self.layout),
            "targets": [dataclasses.asdict(target) | {"id": target.id.hex()} for target in self.targets],
        }
        values["crc64nvme"] = f"{crc64(_serialised(values)):016x}"
        return _serialised(values) + b"\n"

    @classmethod
    def decode(cls, data: bytes, revision: int) -> Superblock:
        """Read the file of superblock `revision`.

        Raises
        ------
        DamageError
            The bytes do not verify, or state another revision.
        UnsupportedError
            They verify, but are of a newer format, or require a feature that this version does not know.
        """
        try:
            values = json.loads(data)
            if not isinstance(values, dict):
                raise ValueError("not an object")
            # The bytes must be the ones that we would write: the checksum covers neither white space nor repeated keys.
            canonical = _serialised(values) + b"\n"
        except (ValueError, RecursionError) as error:
            raise DamageError(f"superblock {revision} is not JSON: {error}") from None
        found = values.pop("crc64nvme", None)
        expected = f"{crc64(_serialised(values)):016x}"
        if canonical != data or found != expected:
            raise DamageError(f"superblock {revision}: its checksum does not hold", expected=expected, found=str(found))
        if values.get("format") != FORMAT:
            raise UnsupportedError(
                f"the store has format {values.get('format')!r}, this pinstripe reads format {FORMAT}: use a newer one"
            )
        try:
            return cls._from_values(values, revision)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamageError(f"superblock {revision} is malformed: {error!r}") from None

    @classmethod
    def _from_values(cls, values: dict[str, Any], revision: int) -> Superblock:
        features = {kind: tuple(map(str, values["features"][kind])) for kind in _KINDS}
        unknown = sorted(set(features["incompatible"]) - FEATURES)
        if unknown:
            raise UnsupportedError(
                f"the store requires {', '.join(unknown)}, unknown to this pinstripe: use a newer one"
            )
        if values["revision"] != revision:
            raise DamageError(
                f"superblock {revision} states another revision", expected=revision, found=str(values["revision"])
            )
        targets = tuple(
            TargetEntry(_id(entry["id"]), entry["path"], entry["scope"], entry["pool"], entry["state"])
            for entry in values["targets"]
        )
        layout = Layout.from_values(values["layout"])
        return cls(_id(values["store"]), revision, values["mode"], layout, targets, **features)


def _serialised(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _id(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise ValueError(f"{text!r} is no id")
    return bytes.fromhex(text)
