"""Superblock: what a store is; one revision of it."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from ..errors import ArgumentError, DamageError, UnsupportedError
from ..kernels import crc64
from .layout import Layout, check_pool
from .remote import Endpoint

__all__ = ["EVENTS", "FEATURES", "FORMAT", "SCOPES", "STATES", "LinkEntry", "Superblock", "TargetEntry"]

FORMAT = 1
"""The version of the format that this package reads and writes."""

_LINKS = "links"
FEATURES = frozenset((_LINKS,))
"""Features that this package knows, of all three kinds."""

SCOPES = ("shared", "node")
STATES = ("active", "drain")
EVENTS = ("new", "changed", "deleted")
"""What a link may carry over, in each direction."""
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
class LinkEntry:
    """What the superblock says of one link: a directory that is tied to a prefix of a bucket.

    Attributes
    ----------
    id : bytes
        16 bytes.
    directory : str
        Relative to the store, normalised; "" is the store's own directory.
    bucket : str
    prefix : str
        "" for the whole bucket, else ends in ``/``. The key of ``directory/name`` is ``prefix`` + ``name``.
    import_, export : tuple of str
        Of `EVENTS`, in that order: what is carried over from the bucket, and to it.
    endpoint : Endpoint
    options : dict
        Settings of this link, by name; text, numbers or truth values. Those that this version does not know are kept.
    """

    id: bytes
    directory: str
    bucket: str
    prefix: str = ""
    import_: tuple[str, ...] = ()
    export: tuple[str, ...] = ()
    endpoint: Endpoint = dataclasses.field(default_factory=Endpoint)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.id) != 16:
            raise ArgumentError(f"link id {self.id!r}: must be 16 bytes")
        texts: tuple[Any, ...] = (self.directory, self.bucket, self.prefix)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise ArgumentError(f"link {texts!r}: directory, bucket and prefix must be text without NUL")
        if not self.bucket:
            raise ArgumentError("a link without a bucket: write s3://BUCKET/PREFIX")
        if not _is_relative(self.directory) or any(name.startswith(".pinstripe") for name in self.directory.split("/")):
            raise ArgumentError(f"link directory {self.directory!r}: must be relative to the store, without . and ..")
        if self.prefix and (self.prefix[:-1] == "" or self.prefix[-1] != "/" or not _is_relative(self.prefix[:-1])):
            raise ArgumentError(
                f"link prefix {self.prefix!r}: must be names with / behind each, and none of them empty, . or .."
            )
        for name, words in (("import", self.import_), ("export", self.export)):
            if tuple(word for word in EVENTS if word in words) != words:
                raise ArgumentError(f"link {name}={words!r}: choose of {', '.join(EVENTS)}, each once, in that order")
        options: dict[Any, Any] = self.options
        if not all(isinstance(key, str) for key in options) or not all(
            isinstance(value, str | int | float) for value in options.values()
        ):
            raise ArgumentError(f"link options {self.options!r}: must be text, numbers or truth values by name")

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, for people."""
        return f"s3://{self.bucket}/{self.prefix}"

    def overlaps(self, other: LinkEntry) -> str:
        """Say in what the two meet: ``directory``, ``bucket``, or "" if they do not.

        The same bucket's name at two services is two buckets, if both links name their service.
        """
        if _nested(f"{self.directory}/".lstrip("/"), f"{other.directory}/".lstrip("/")):
            return "directory"
        services = {self.endpoint.url.rstrip("/"), other.endpoint.url.rstrip("/")}
        is_one_service = len(services) == 1 or "" in services
        return "bucket" * (self.bucket == other.bucket and is_one_service and _nested(self.prefix, other.prefix))

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "id": self.id.hex(),
            "directory": self.directory,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "import": list(self.import_),
            "export": list(self.export),
            "endpoint": self.endpoint.to_values(),
            "options": self.options,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> LinkEntry:
        """Read what `to_values` gave; KeyError, TypeError or ValueError where it is none."""
        return cls(
            _id(values["id"]),
            values["directory"],
            values["bucket"],
            values["prefix"],
            tuple(values["import"]),
            tuple(values["export"]),
            Endpoint.from_values(values["endpoint"]),
            dict(values["options"]),
        )


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
        reads it only, a compatible one ignores it. ``links`` is among the read-only compatible ones exactly while there
        are links, whatever was given.
    links : tuple of LinkEntry
        No two overlap.
    """

    store_id: bytes
    revision: int
    mode: int
    layout: Layout
    targets: tuple[TargetEntry, ...]
    incompatible: tuple[str, ...] = ()
    read_only_compatible: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()
    links: tuple[LinkEntry, ...] = ()

    def __post_init__(self) -> None:
        features = self.read_only_compatible
        if bool(self.links) != (_LINKS in features):
            others = tuple(word for word in features if word != _LINKS)
            object.__setattr__(self, "read_only_compatible", (*others, _LINKS) if self.links else others)
        for number, link in enumerate(self.links):
            for other in self.links[:number]:
                if link.id == other.id or link.overlaps(other):
                    raise ArgumentError(f"the links to {other.url} and to {link.url} overlap")
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
        if self.links:
            values["links"] = [link.to_values() for link in self.links]
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
        links = tuple(LinkEntry.from_values(entry) for entry in values.get("links", ()))
        if bool(links) != (_LINKS in features["read_only_compatible"]) or (not links and "links" in values):
            raise ValueError("links without their feature, or the feature without links")
        return cls(_id(values["store"]), revision, values["mode"], layout, targets, **features, links=links)


def _serialised(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _is_relative(path: str) -> bool:
    """Tell whether this is "" or names with single slashes between, none of them . or .. ."""
    return not path or not {"", ".", ".."} & set(path.split("/"))


def _nested(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _id(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise ValueError(f"{text!r} is no id")
    return bytes.fromhex(text)
