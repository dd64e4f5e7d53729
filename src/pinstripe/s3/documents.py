"""The service's XML: lists, errors, and what completes an upload. Text to values and back, no I/O."""

from __future__ import annotations

import base64
import binascii
import calendar
import time
from collections.abc import Iterable, Mapping
from urllib.parse import unquote, unquote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from ..errors import DamageError
from .objects import FROZEN_CLASSES, ObjectInfo, Page, Part

__all__ = [
    "completion",
    "decode_crc64",
    "deletion",
    "encode_crc64",
    "object_info",
    "parse",
    "parse_error",
    "parse_page",
    "parse_parts",
    "parse_uploads",
    "text_of",
]


def encode_crc64(crc: int) -> str:
    """Write a CRC-64/NVME as headers have it."""
    return base64.b64encode(crc.to_bytes(8, "big")).decode()


def decode_crc64(text: str | None) -> int | None:
    """Read a CRC-64/NVME; None for what is none, such as that of parts (``...-N``)."""
    try:
        raw = base64.b64decode(text or "", validate=True)
    except binascii.Error:
        return None
    return int.from_bytes(raw, "big") if len(raw) == 8 else None


def parse(body: bytes) -> ElementTree.Element:
    """Read a document and take the namespaces off its tags.

    Raises
    ------
    DamageError
        It is none.
    """
    try:
        root = ElementTree.fromstring(body)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DamageError(f"the service's answer is no XML: {error}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text_of(element: ElementTree.Element, name: str) -> str:
    """Return the text of a child, "" where there is none."""
    return element.findtext(name) or ""


def parse_error(body: bytes) -> tuple[str, str]:
    """Return the code and the message of an error, both "" if it is none. Nothing else of it is looked at: it may repeat signatures."""
    if b"<Error" not in body[:400]:
        return "", ""
    try:
        root = parse(body)
    except DamageError:
        return "", ""
    if root.tag != "Error":
        return "", ""
    return text_of(root, "Code"), text_of(root, "Message")


def parse_time(text: str) -> int:
    """Read a time of a document, such as ``2026-01-31T12:00:00.250Z``, or of a header, as nanoseconds; 0 for what is neither."""
    try:
        if text.endswith("GMT"):
            return calendar.timegm(time.strptime(text, "%a, %d %b %Y %H:%M:%S GMT")) * 10**9
        whole, _, fraction = text.rstrip("Z").partition(".")
        seconds = calendar.timegm(
            (int(whole[:4]), int(whole[5:7]), int(whole[8:10]), int(whole[11:13]), int(whole[14:16]), int(whole[17:19]))
        )
        return seconds * 10**9 + (int(fraction[:9].ljust(9, "0")) if fraction else 0)
    except ValueError:
        return 0


def object_info(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """Read what the head of an answer says of an object."""
    kind = headers.get("x-amz-checksum-type", "")
    storage = headers.get("x-amz-storage-class", "STANDARD")
    restored = 'ongoing-request="false"' in headers.get("x-amz-restore", "")
    return ObjectInfo(
        key=key,
        size=size,
        etag=headers.get("etag", "").strip('"'),
        modified_ns=parse_time(headers.get("last-modified", "")),
        version=version_of(headers),
        crc64=None if kind == "COMPOSITE" else decode_crc64(headers.get("x-amz-checksum-crc64nvme")),
        checksum_type=kind,
        storage_class=storage,
        metadata={name[11:]: value for name, value in headers.items() if name.startswith("x-amz-meta-")},
        content_type=headers.get("content-type", ""),
        available=(storage not in FROZEN_CLASSES and "x-amz-archive-status" not in headers) or restored,
    )


def version_of(headers: Mapping[str, str]) -> str:
    """Return the version that an answer names; "" where there are none, which some services call ``null``."""
    version = headers.get("x-amz-version-id", "")
    return "" if version == "null" else version


def parse_page(root: ElementTree.Element) -> tuple[Page, str]:
    """Read a page of ``ListObjectsV2`` and where the next one starts; "" = there is none."""
    decode = unquote_plus if text_of(root, "EncodingType") == "url" else str
    objects = []
    for element in root.iterfind("Contents"):
        fields = {child.tag: child.text or "" for child in element}
        storage = fields.get("StorageClass") or "STANDARD"
        objects.append(
            ObjectInfo(
                key=decode(fields["Key"]),
                size=int(fields.get("Size") or 0),
                etag=fields.get("ETag", "").strip('"'),
                modified_ns=parse_time(fields.get("LastModified", "")),
                checksum_type=fields.get("ChecksumType", ""),
                storage_class=storage,
                available=storage not in FROZEN_CLASSES,
            )
        )
    prefixes = tuple(decode(text_of(element, "Prefix")) for element in root.iterfind("CommonPrefixes"))
    truncated = text_of(root, "IsTruncated") == "true"
    return Page(tuple(objects), prefixes), text_of(root, "NextContinuationToken") if truncated else ""


def parse_parts(root: ElementTree.Element) -> tuple[list[Part], str]:
    """Read a page of ``ListParts`` and where the next one starts; "" = there is none."""
    parts = [
        Part(
            number=int(text_of(element, "PartNumber")),
            etag=text_of(element, "ETag").strip('"'),
            size=int(text_of(element, "Size") or 0),
            crc64=decode_crc64(text_of(element, "ChecksumCRC64NVME")),
            crc32c=text_of(element, "ChecksumCRC32C"),
        )
        for element in root.iterfind("Part")
    ]
    return parts, text_of(root, "NextPartNumberMarker") if text_of(root, "IsTruncated") == "true" else ""


def parse_uploads(root: ElementTree.Element) -> tuple[list[tuple[str, str, int]], tuple[str, str]]:
    """Read a page of ``ListMultipartUploads`` (key, upload, when it began in nanoseconds) and where the next one starts."""
    decode = unquote if text_of(root, "EncodingType") == "url" else str
    uploads = [
        (decode(text_of(element, "Key")), text_of(element, "UploadId"), parse_time(text_of(element, "Initiated")))
        for element in root.iterfind("Upload")
    ]
    if text_of(root, "IsTruncated") != "true":
        return uploads, ("", "")
    return uploads, (decode(text_of(root, "NextKeyMarker")), text_of(root, "NextUploadIdMarker"))


def completion(parts: Iterable[Part]) -> bytes:
    """Write what completes an upload."""
    lines = [
        f"<Part><PartNumber>{part.number}</PartNumber><ETag>&quot;{escape(part.etag)}&quot;</ETag>"
        + (f"<ChecksumCRC32C>{escape(part.crc32c)}</ChecksumCRC32C>" if part.crc32c else "")
        + "</Part>"
        for part in parts
    ]
    return f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">{"".join(lines)}</CompleteMultipartUpload>'.encode()


def deletion(keys: Iterable[str]) -> bytes:
    """Write what deletes keys."""
    lines = "".join(f"<Object><Key>{_escape_key(key)}</Key></Object>" for key in keys)
    return f'<Delete xmlns="{_NAMESPACE}"><Quiet>true</Quiet>{lines}</Delete>'.encode()


def _escape_key(key: str) -> str:
    return escape(key, {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;"})


_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
