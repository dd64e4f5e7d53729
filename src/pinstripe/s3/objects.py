"""What a bucket's service tells and is told: values, nothing else."""

from __future__ import annotations

import dataclasses

from ..format.remote import Endpoint, Remote

__all__ = ["EXPIRED", "Capabilities", "ObjectInfo", "Page", "Part", "Signed"]

EXPIRED = "ExpiredSignature"
"""Our own code of a refused request that somebody else signed, too long ago."""

FROZEN_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes whose objects must be restored, by hours, before they can be read."""


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the service describes it.

    Attributes
    ----------
    key : str
    size : int
        Bytes.
    etag : str
        Without quotes.
    modified_ns : int
        Nanoseconds since 1970; services keep seconds or milliseconds.
    version : str
        "" in a bucket without versions.
    crc64 : int or None
        CRC-64/NVME of the whole object, where the service told one. A list tells none.
    checksum_type : str
        ``FULL_OBJECT``, ``COMPOSITE`` or "".
    storage_class : str
    metadata : dict
        The user's, names in small letters without ``x-amz-meta-``. A list tells none.
    content_type : str
        "" in a list.
    available : bool
        False: it lies in an archive and was not restored.
    """

    key: str
    size: int
    etag: str
    modified_ns: int
    version: str = ""
    crc64: int | None = None
    checksum_type: str = ""
    storage_class: str = "STANDARD"
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    content_type: str = ""
    available: bool = True

    def remote(self, bucket: str, endpoint: Endpoint) -> Remote:
        """Return which version of which object this is."""
        return Remote(bucket, self.key, self.size, self.etag, self.version, self.crc64, self.modified_ns, endpoint)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Some of a list, in the service's order."""

    objects: tuple[ObjectInfo, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart upload.

    Attributes
    ----------
    number : int
        From 1.
    etag : str
        Without quotes.
    size : int
        Bytes.
    crc64 : int or None
        CRC-64/NVME of it, where the service knows it.
    crc32c : str
        CRC-32C as the service writes it, base64; "" without one.
    """

    number: int
    etag: str
    size: int
    crc64: int | None = None
    crc32c: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Capabilities:
    """What an endpoint can do.

    Attributes
    ----------
    conditional_put, conditional_complete : bool
        If-None-Match and If-Match are obeyed.
    checksum : str
        ``crc64nvme`` or ``crc32c``: kept, told, and a wrong one refused; ``none``.
    full_object : bool
        A checksum of the whole object is kept and compared for multipart uploads.
    ordered_list : bool
        Lists are in the order of UTF-8 bytes, and may start after any key.
    known : bool
        Somebody asked the endpoint; False: this is what most can do.
    """

    conditional_put: bool = True
    conditional_complete: bool = True
    checksum: str = "crc64nvme"
    full_object: bool = True
    ordered_list: bool = True
    known: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Signed:
    """A request that was signed for somebody without credentials. All of it is a secret, and is not shown.

    Attributes
    ----------
    url : str
    headers : dict
        To be sent as they are.
    """

    url: str = dataclasses.field(repr=False)
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
