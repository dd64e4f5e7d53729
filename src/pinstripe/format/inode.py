"""Inode: the bytes of a name; written once, never changed."""

from __future__ import annotations

import dataclasses
import re

from ..errors import ArgumentError, DamageError, NamespaceError, UnsupportedError
from ..kernels import crc64
from .layout import Layout
from .remote import Remote

__all__ = ["KINDS", "PREFIX", "Inode"]

PREFIX = b"pinstripe "
"""What every inode starts with, in each version of the format."""

KINDS = ("generations", "inline", "stub")
_WITH_DATA = ("inline", "stub")

_LINE = re.compile(rb"pinstripe 1 ([0-9a-f]{32}) ([a-z]+) (0|[1-9][0-9]{0,18}) ([0-9a-f]{16})")


@dataclasses.dataclass(frozen=True, slots=True)
class Inode:
    """What a name holds.

    Attributes
    ----------
    file_id : bytes
        16 bytes.
    kind : str
        ``generations``: empty until generation 1. ``inline``: `data` until generation 1. ``stub``: until generation 1 the bytes
        of the object that `remote` names.
    layout : Layout
        The file's layout.
    data : bytes
        The data of an inline file; the JSON of a stub's `Remote`.
    """

    file_id: bytes
    kind: str
    layout: Layout
    data: bytes = b""

    def __post_init__(self) -> None:
        if len(self.file_id) != 16:
            raise ArgumentError(f"file id {self.file_id!r}: must be 16 bytes")
        if self.kind not in KINDS:
            raise ArgumentError(f"kind={self.kind!r}: choose one of {', '.join(KINDS)}")
        if self.data and self.kind not in _WITH_DATA:
            raise ArgumentError(f"an inode of kind {self.kind} holds no data: choose kind='inline'")

    @property
    def remote(self) -> Remote | None:
        """What a stub stands for; None for the other kinds.

        Raises
        ------
        DamageError
            It is malformed.
        """
        return Remote.from_json(self.data) if self.kind == "stub" else None

    def encode(self) -> bytes:
        """Return the bytes of the inode."""
        start = f"pinstripe 1 {self.file_id.hex()} {self.kind} {len(self.data)} ".encode()
        rest = f"\n{self.layout.to_json()}\n".encode() + self.data
        return start + f"{crc64(rest, crc64(start)):016x}".encode() + rest

    @classmethod
    def decode(cls, data: bytes) -> Inode:
        """Read a whole inode.

        Raises
        ------
        NamespaceError
            The bytes do not start as an inode does: a foreign file.
        DamageError
            They do, but do not verify.
        UnsupportedError
            They are of a newer format, or of a kind that this version does not know.
        """
        if not data.startswith(PREFIX):
            raise NamespaceError("not a file of this store: it was put here behind its back; use `pinstripe cp`")
        line, newline, rest = data.partition(b"\n")
        match = _LINE.fullmatch(line)
        if not match:
            newer = re.match(rb"pinstripe ([0-9]{1,9}) ", data)
            if newer and int(newer[1]) > 1:
                raise UnsupportedError(
                    f"an inode of format {int(newer[1])}, this pinstripe reads format 1: use a newer one"
                )
            raise DamageError("an inode whose first line is malformed")
        file_id, kind = bytes.fromhex(match[1].decode()), match[2].decode()
        expected, found = int(match[4], 16), crc64(newline + rest, crc64(line[:-16]))
        if expected != found:
            raise DamageError(
                "an inode whose checksum does not hold",
                file=file_id.hex(),
                expected=f"{expected:016x}",
                found=f"{found:016x}",
            )
        if kind not in KINDS:
            raise UnsupportedError(f"an inode of kind {kind}, unknown to this pinstripe: use a newer one")
        text, newline, content = rest.partition(b"\n")
        if not newline or len(content) != int(match[3]) or (content and kind not in _WITH_DATA):
            raise DamageError(
                "an inode of another length than it states",
                file=file_id.hex(),
                expected=int(match[3]),
                found=len(content),
            )
        return cls(file_id, kind, Layout.from_json(text), content)
