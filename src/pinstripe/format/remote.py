"""Remote: which version of which object a file's bytes are; and the endpoint where the object lies. Values and their JSON, nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ..errors import ArgumentError, DamageError
from ..kernels import crc64

__all__ = ["CHECKSUMS", "PROOFS", "Base", "Endpoint", "Remote"]

CHECKSUMS = ("auto", "crc64nvme", "crc32c", "none")
"""Checksums that may go with an upload; ``auto`` takes the first that the endpoint knows."""

PROOFS = ("crc64nvme", "etag", "size")
"""How it is known that a file and a remote are the same bytes: the checksum of the whole; every byte came from that ETag, or
the service took them under a checksum of their own; only the length was compared."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where buckets lie and how to speak to them; no secret is in it.

    Attributes
    ----------
    url : str
        Of the service, such as ``https://s3.example.org``, without user and password; "" takes what boto3 would.
    region, profile : str
        As boto3's; "" takes what boto3 would.
    unsigned : bool
        Send no credentials: public buckets.
    requester_pays : bool
        Accept to pay for requests.
    owner_acl : bool
        Give the bucket's owner full control of what is uploaded (``bucket-owner-full-control``).
    kms_key : str
        Encrypt uploads by this KMS key; ``aws:kms`` takes the bucket's own.
    checksum : str
        One of `CHECKSUMS`.
    """

    url: str = ""
    region: str = ""
    profile: str = ""
    unsigned: bool = False
    requester_pays: bool = False
    owner_acl: bool = False
    kms_key: str = ""
    checksum: str = "auto"

    def __post_init__(self) -> None:
        if self.checksum not in CHECKSUMS:
            raise ArgumentError(f"checksum={self.checksum!r}: choose one of {', '.join(CHECKSUMS)}")
        if "@" in self.url:
            raise ArgumentError(
                "the URL of an endpoint holds a user or a password, which would be written down and shown: "
                "give credentials by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or by a profile"
            )

    def to_values(self) -> dict[str, Any]:
        """Return what differs from the default, for JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Endpoint:
        """Read what `to_values` gave; what this version does not know is ignored.

        Raises
        ------
        ArgumentError
            A value is of another kind.
        """
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        for name, value in known.items():
            if type(value) is not type(getattr(cls(), name)):
                raise ArgumentError(f"endpoint: {name}={value!r} is of the wrong kind")
        return cls(**known)


@dataclasses.dataclass(frozen=True, slots=True)
class Remote:
    """One version of one object.

    Attributes
    ----------
    bucket, key : str
    size : int
        Bytes.
    etag : str
        As the service gives it, without quotes.
    version : str
        Version id, "" in a bucket without versions.
    crc64 : int or None
        CRC-64/NVME of the whole object, where the service keeps one.
    modified_ns : int
        When it was made, nanoseconds since 1970, as the service says.
    endpoint : Endpoint
    """

    bucket: str
    key: str
    size: int
    etag: str
    version: str = ""
    crc64: int | None = None
    modified_ns: int = 0
    endpoint: Endpoint = Endpoint()

    @property
    def url(self) -> str:
        """``s3://bucket/key``, for people."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def identity(self) -> int:
        """A number that two versions do not share: what is resident of one is not taken for the other."""
        words = [self.bucket, self.key, self.size, self.etag, self.version, self.endpoint.url]
        return crc64(json.dumps(words).encode())

    def is_same_version(self, other: Remote) -> bool:
        """Tell whether both are the same bytes of the same object: the endpoint may be reached by another way."""
        return (self.bucket, self.key, self.size, self.etag) == (other.bucket, other.key, other.size, other.etag)

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        values: dict[str, Any] = {"bucket": self.bucket, "key": self.key, "size": self.size, "etag": self.etag}
        if self.version:
            values["version"] = self.version
        if self.crc64 is not None:
            values["crc64nvme"] = f"{self.crc64:016x}"
        if self.modified_ns:
            values["modified_ns"] = self.modified_ns
        if self.endpoint != Endpoint():
            values["endpoint"] = self.endpoint.to_values()
        return values

    @classmethod
    def from_values(cls, values: Any) -> Remote:
        """Read what `to_values` gave; what this version does not know is ignored.

        Raises
        ------
        DamageError
            They are no remote's.
        """
        try:
            remote = cls(
                bucket=values["bucket"],
                key=values["key"],
                size=values["size"],
                etag=values["etag"],
                version=values.get("version", ""),
                crc64=int(values["crc64nvme"], 16) if "crc64nvme" in values else None,
                modified_ns=values.get("modified_ns", 0),
                endpoint=Endpoint.from_values(values.get("endpoint", {})),
            )
            if not all(isinstance(text, str) for text in (remote.bucket, remote.key, remote.etag, remote.version)):
                raise TypeError("a text was expected")
            numbers: list[Any] = [remote.size, remote.modified_ns]
            if not all(isinstance(number, int) for number in numbers) or remote.size < 0:
                raise TypeError("a number was expected")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamageError(f"a remote object that is malformed: {error!r}") from None
        return remote

    def to_json(self) -> bytes:
        """Return it as one line of JSON."""
        return _line(self.to_values())

    @classmethod
    def from_json(cls, data: bytes) -> Remote:
        """Read what `to_json` gave.

        Raises
        ------
        DamageError
            It is none.
        """
        return cls.from_values(_parsed(data, "a remote object"))


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """A remote that a file's content was last known to equal.

    Attributes
    ----------
    remote : Remote
    tx : bytes
        Transaction of the generation that equals it; the file's id where that is generation 0. 16 bytes.
    proof : str
        One of `PROOFS`.
    """

    remote: Remote
    tx: bytes
    proof: str = "crc64nvme"

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {"remote": self.remote.to_values(), "tx": self.tx.hex(), "proof": self.proof}

    @classmethod
    def from_values(cls, values: Any) -> Base:
        """Read what `to_values` gave.

        Raises
        ------
        DamageError
            It is none.
        """
        try:
            base = cls(Remote.from_values(values["remote"]), bytes.fromhex(values["tx"]), values["proof"])
            if len(base.tx) != 16 or base.proof not in PROOFS:
                raise ValueError("a transaction or a proof that cannot be")
        except (KeyError, TypeError, ValueError) as error:
            raise DamageError(f"a base that is malformed: {error!r}") from None
        return base

    def to_json(self) -> bytes:
        """Return it as one line of JSON."""
        return _line(self.to_values())

    @classmethod
    def from_json(cls, data: bytes) -> Base:
        """Read what `to_json` gave.

        Raises
        ------
        DamageError
            It is none.
        """
        return cls.from_values(_parsed(data, "a base"))


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _parsed(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{what} that is not JSON: {error}") from None
