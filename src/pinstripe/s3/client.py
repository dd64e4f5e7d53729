"""Client: all requests of this process to one endpoint."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, ConditionError, DamageError, RemoteError, StaleError
from ..format.remote import Endpoint, Remote
from ..kernels import crc64 as crc64_of
from .connections import Exchange
from .documents import (
    completion,
    deletion,
    encode_crc64,
    object_info,
    parse,
    parse_page,
    parse_parts,
    parse_uploads,
    text_of,
    version_of,
)
from .objects import Capabilities, ObjectInfo, Page, Part, Signed
from .service import Answer, Counters, Failure, Request, Service, check_metadata, pairs
from .slots import Slots

__all__ = ["Client", "close_clients"]

_SIGNED_S = 7 * 86400  # the longest that services take
_PROGRESS_BYTES = 64 << 10
_COPIED_BYTES = 1 << 20

_clients: dict[Endpoint, Client] = {}
_lock = threading.Lock()


class Client:
    """Requests to one endpoint, for all threads of this process. Get it by `of`.

    What fails in passing (no answer, 5xx, throttling) is repeated here, about half a minute long; what is raised is final. All methods raise
    `RemoteError`: the service refused, failed or did not answer. No text and no repr holds a secret.

    Attributes
    ----------
    endpoint : Endpoint
    capabilities : Capabilities
        What the endpoint can do; `pinstripe.s3.probe` finds out.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.capabilities = Capabilities()
        self._service_of: tuple[int, Service] | None = None
        self._making = threading.Lock()

    @classmethod
    def of(cls, endpoint: Endpoint) -> Client:
        """Return this process's client of an endpoint. It starts nothing: the first request loads boto3's settings.

        After a fork it makes its connections anew.
        """
        with _lock:
            client = _clients.get(endpoint)
            if client is None:
                client = _clients[endpoint] = cls(endpoint)
            return client

    @property
    def _service(self) -> Service:
        held = self._service_of
        if held is None or held[0] != os.getpid():
            with self._making:
                held = self._service_of
                if held is None or held[0] != os.getpid():
                    held = self._service_of = (os.getpid(), Service(self.endpoint))
        return held[1]

    @property
    def counters(self) -> Counters:
        """What was done so far; thread-safe to read."""
        return self._service.counters

    @property
    def slots(self) -> Slots:
        """How many requests run at once; each takes one by itself, and who enters it first holds it over several."""
        return self._service.slots

    @property
    def url(self) -> str:
        """The service's URL, found as boto3 finds it."""
        return self._service.access.url

    def close(self) -> None:
        """Close idle connections; the next request opens others."""
        if self._service_of is not None and self._service_of[0] == os.getpid():
            self._service_of[1].connections.close()

    def __repr__(self) -> str:
        return f"Client({self.endpoint.url or 'AWS'!r})"

    # --- reading --------------------------------------------------------------------------------------------------

    def head(self, bucket: str, key: str, *, version: str = "") -> ObjectInfo:
        """Describe an object, with its checksum where one is kept.

        Raises
        ------
        RemoteError
            ENOENT: there is none.
        """
        request = Request(
            "look at it", "HEAD", bucket, key, pairs(versionId=version), {"x-amz-checksum-mode": "ENABLED"}
        )
        headers = self._service.ask(request).headers
        return object_info(key, headers, int(headers.get("content-length") or 0))

    def get_range(self, remote: Remote, offset: int, buffer: Any, *, signed: Signed | None = None) -> None:
        """Fill `buffer` (any writable buffer) with the object's bytes from `offset` on, straight from the socket.

        Where a connection breaks it goes on from there. What fills the buffer is of the remote's version: each answer says its ETag, its
        range and the object's size. The bytes themselves are not verified here.

        Parameters
        ----------
        signed : Signed or None
            What `sign_get` gave; then no credentials are needed.

        Raises
        ------
        StaleError
            The object is another version, or gone.
        """
        view = memoryview(buffer).cast("B")
        if offset < 0 or offset + len(view) > remote.size:
            raise ArgumentError(f"{remote.url}: {len(view)} bytes at {offset} of {remote.size}")
        if not len(view):
            return
        service, filled, before = self._service, 0, 0

        def attempt() -> None:
            nonlocal filled, before
            before = filled
            first, last = offset + filled, offset + len(view) - 1
            headers = {"range": f"bytes={first}-{last}"}
            if remote.etag:
                headers["if-match"] = f'"{remote.etag}"'
            request = Request(
                "read it", "GET", remote.bucket, remote.key, pairs(versionId=remote.version), headers, signed=signed
            )

            def read(exchange: Exchange) -> None:
                nonlocal filled
                _check_range(service, request, exchange, remote, first, last)
                start = filled
                try:
                    while filled < len(view):
                        count = exchange.readinto(view[filled:])
                        if count <= 0:
                            raise ConnectionError("the answer ended early")
                        filled += count
                finally:
                    service.count(bytes_in=filled - start)

            service.exchange(request, read)

        try:
            service.repeat(attempt, progressed=lambda: filled - before >= _PROGRESS_BYTES)
        except RemoteError as error:
            if error.status in (404, 412, 416) and error.code != "NoSuchBucket":
                raise self._stale(remote, error, signed) from None
            raise

    def get(
        self, bucket: str, key: str, *, etag: str = "", most: int = 1 << 26, signed: Signed | None = None
    ) -> tuple[bytes, ObjectInfo]:
        """Read a small object whole, with what describes it, by one request; compared with its CRC-64 where one is kept.

        Parameters
        ----------
        signed : Signed or None
            What `sign_get` gave for the whole; then no credentials are needed.

        Raises
        ------
        StaleError
            `etag` is given, and the object is another version or gone.
        ArgumentError
            It has more than `most` bytes.
        DamageError
            The bytes do not have the object's CRC-64.
        """
        service = self._service
        headers = {} if signed else {"x-amz-checksum-mode": "ENABLED"}
        if etag:
            headers["if-match"] = f'"{etag}"'
        request = Request("read it", "GET", bucket, key, (), headers, signed=signed)

        def read(exchange: Exchange) -> tuple[bytes, ObjectInfo]:
            found = exchange.headers
            if not found.get("etag") or exchange.length < 0 or exchange.status != 200:
                raise service.failure_of(request, exchange.status, found, exchange.read(1 << 16)) from None
            info = object_info(key, found, exchange.length)
            if etag and info.etag != etag:
                raise Failure(_changed(bucket, key, etag, info.etag))
            if info.size > most:
                raise Failure(ArgumentError(f"s3://{bucket}/{key} has {info.size} bytes, more than {most}"))
            data = exchange.read(info.size)
            service.count(bytes_in=len(data))
            if len(data) != info.size:
                raise ConnectionError("the answer ended early")
            if info.crc64 is not None and crc64_of(data) != info.crc64:
                text = f"s3://{bucket}/{key}: its bytes have another CRC-64 than the service says"
                raise Failure(DamageError(text, file=key, expected=info.crc64, found=crc64_of(data)), passes=True)
            return data, info

        def attempt() -> tuple[bytes, ObjectInfo]:
            try:
                return service.exchange(request, read)
            except Failure as failure:
                error = failure.error
                if isinstance(error, RemoteError) and error.status == 200:
                    failure.passes = True  # an error in the place of data
                raise

        try:
            return service.repeat(attempt)
        except RemoteError as error:
            if etag and error.status in (404, 412) and error.code != "NoSuchBucket":
                raise self._stale(Remote(bucket, key, 0, etag), error, signed) from None
            raise

    def list_pages(
        self, bucket: str, prefix: str, *, delimiter: str = "", start_after: str = "", stop_at: str = ""
    ) -> Iterator[Page]:
        """List a prefix.

        Parameters
        ----------
        delimiter : str
            ``/`` lists one directory: what lies deeper is told as prefixes.
        start_after, stop_at : str
            Keys after the first, up to and with the second, so that intervals of keys join; only where lists are ordered.
        """
        service, token = self._service, ""
        while True:
            query = pairs(
                list_type=2,
                encoding_type="url",
                prefix=prefix,
                delimiter=delimiter,
                start_after="" if token else start_after,
                continuation_token=token,
            )
            root = parse(service.ask(Request("list it", "GET", bucket, "", query)).body)
            page, token = parse_page(root)
            if stop_at:
                kept = tuple(info for info in page.objects if info.key <= stop_at)
                prefixes = tuple(name for name in page.prefixes if name <= stop_at)
                if len(kept) < len(page.objects) or len(prefixes) < len(page.prefixes):
                    token = ""
                page = Page(kept, prefixes)
            yield page
            if not token:
                return

    # --- writing --------------------------------------------------------------------------------------------------

    def put(
        self,
        bucket: str,
        key: str,
        data: Any,
        *,
        metadata: Mapping[str, str] = {},
        crc64: int | None = None,
        if_none_match: bool = False,
        if_match: str = "",
        content_type: str = "",
    ) -> tuple[str, str]:
        """Write an object by one request; return its ETag and its version.

        Parameters
        ----------
        data : buffer
            Sent from where it lies.
        crc64 : int or None
            CRC-64/NVME of it, which the service compares and keeps; computed here if None.
        if_none_match : bool
            Only if there is no such object.
        if_match : str
            Only if the object still has this ETag.

        Raises
        ------
        ConditionError
            The condition does not hold.
        """
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        headers = self._new_headers(metadata, content_type) | _condition(if_none_match, if_match)
        crc = crc64_of(view) if crc64 is None else crc64

        def is_ours(info: ObjectInfo) -> bool:
            if info.size != len(view) or info.metadata != {name.lower(): value for name, value in metadata.items()}:
                return False
            if info.crc64 is not None:
                return info.crc64 == crc
            return info.etag == hashlib.md5(view, usedforsecurity=False).hexdigest()

        request = Request("write it", "PUT", bucket, key, (), headers | self._checksum(view, crc), view)
        answer = self._once(request, is_ours)
        return (answer.etag, answer.version) if isinstance(answer, ObjectInfo) else _written(answer.headers)

    def create_upload(self, bucket: str, key: str, *, metadata: Mapping[str, str] = {}, content_type: str = "") -> str:
        """Begin a multipart upload; return its id. Its parts are kept, and cost, until it is completed or aborted."""
        headers = self._new_headers(metadata, content_type)
        kind = self.checksum
        if kind != "none":
            headers["x-amz-checksum-algorithm"] = kind.upper()
        if kind == "crc64nvme":
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        request = Request("begin an upload", "POST", bucket, key, (("uploads", ""),), headers)
        answer = self._service.ask(request)
        upload = text_of(parse(answer.body), "UploadId")
        if not upload:
            raise self._service.error(request, answer.status, "BadAnswer", "the answer names no upload")
        return upload

    def upload_part(
        self,
        bucket: str,
        key: str,
        upload: str,
        number: int,
        data: Any,
        *,
        crc64: int | None = None,
        signed: Signed | None = None,
    ) -> Part:
        """Send a part, from where it lies. A part that is sent again replaces the first.

        Parameters
        ----------
        number : int
            1 to 10,000.
        crc64 : int or None
            CRC-64/NVME of it; computed here if None.
        signed : Signed or None
            What `sign_part` gave; then no credentials are needed.
        """
        view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        crc = crc64_of(view) if crc64 is None else crc64
        headers = {} if signed else self._checksum(view, crc)
        query = pairs(partNumber=number, uploadId=upload)
        request = Request(f"send part {number}", "PUT", bucket, key, query, headers, view, signed=signed)
        answer = self._service.ask(request)
        crc32c = (signed.headers if signed else headers).get("x-amz-checksum-crc32c", "")
        return Part(number, answer.headers.get("etag", "").strip('"'), len(view), crc, crc32c)

    def list_parts(self, bucket: str, key: str, upload: str) -> list[Part]:
        """List the parts that an upload has.

        Raises
        ------
        RemoteError
            ENOENT: there is no such upload any more.
        """
        parts: list[Part] = []
        marker = ""
        while True:
            query = pairs(uploadId=upload, max_parts=1000, part_number_marker=marker)
            more, marker = parse_parts(
                parse(self._service.ask(Request("list its parts", "GET", bucket, key, query)).body)
            )
            parts += more
            if not marker or not more:
                return parts

    def complete_upload(
        self,
        bucket: str,
        key: str,
        upload: str,
        parts: Iterable[Part],
        *,
        size: int,
        crc64: int | None,
        if_none_match: bool = False,
        if_match: str = "",
    ) -> tuple[str, str]:
        """Make an object of an upload's parts; return its ETag and its version.

        Parameters
        ----------
        size : int
            Bytes of the object.
        crc64 : int or None
            CRC-64/NVME of the whole object, which the service compares and keeps where it can.

        Raises
        ------
        ConditionError
            The condition does not hold; the upload is still there, unless the service says NoSuchUpload.
        """
        parts = sorted(parts, key=lambda part: part.number)
        headers = _condition(if_none_match, if_match) | {"content-type": "application/xml"}
        if crc64 is not None and self.checksum == "crc64nvme" and self.capabilities.full_object:
            headers["x-amz-checksum-crc64nvme"] = encode_crc64(crc64)
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        headers["x-amz-mp-object-size"] = str(size)
        request = Request(
            "complete its upload",
            "POST",
            bucket,
            key,
            pairs(uploadId=upload),
            headers,
            completion(parts),
            is_document=True,
        )
        etag = _etag_of(parts)

        def is_ours(info: ObjectInfo) -> bool:
            if info.size != size:
                return False
            return info.etag == etag or (crc64 is not None and info.crc64 == crc64)

        answer = self._once(request, is_ours)
        if isinstance(answer, ObjectInfo):
            return answer.etag, answer.version
        return text_of(parse(answer.body), "ETag").strip('"'), version_of(answer.headers)

    def abort_upload(self, bucket: str, key: str, upload: str) -> None:
        """Throw an upload's parts away; it may be gone already."""
        try:
            self._service.ask(Request("abort an upload", "DELETE", bucket, key, pairs(uploadId=upload)))
        except RemoteError as error:
            if error.code != "NoSuchUpload" and error.status != 404:
                raise

    def list_uploads(self, bucket: str, prefix: str = "") -> list[tuple[str, str, int]]:
        """List uploads that are neither completed nor aborted: key, id, and when each began, in nanoseconds since 1970."""
        uploads: list[tuple[str, str, int]] = []
        key_marker = upload_marker = ""
        while True:
            # Without encoding-type: some services say that they encode here, and do not.
            query = (
                ("uploads", ""),
                *pairs(prefix=prefix, key_marker=key_marker, upload_id_marker=upload_marker, max_uploads=1000),
            )
            more, (key_marker, upload_marker) = parse_uploads(
                parse(self._service.ask(Request("list uploads", "GET", bucket, "", query)).body)
            )
            uploads += more
            if not key_marker or not more:
                return uploads

    def delete(self, bucket: str, key: str, *, if_match: str = "") -> None:
        """Delete an object; in a versioned bucket it is hidden. It may be gone already, unless `if_match` is given.

        Raises
        ------
        ConditionError
            `if_match` is given, and the object is another version or gone.
        """
        self._service.ask(Request("delete it", "DELETE", bucket, key, (), _condition(False, if_match)))

    def delete_many(self, bucket: str, keys: Iterable[str]) -> dict[str, str]:
        """Delete many objects, 1,000 by one request; return why some could not be, by key."""
        left, failed = list(keys), {}
        while left:
            now, left = left[:1000], left[1000:]
            if any(ord(letter) < 32 and letter not in "\t\r\n" for key in now for letter in key):
                for key in now:  # XML cannot name it
                    self.delete(bucket, key)
                continue
            body = deletion(now)
            md5 = b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
            headers = {"content-md5": md5, "content-type": "application/xml"}
            request = Request("delete objects", "POST", bucket, "", (("delete", ""),), headers, body, is_document=True)
            root = parse(self._service.ask(request).body)
            for element in root.iterfind("Error"):
                failed[text_of(element, "Key")] = f"{text_of(element, 'Code')}: {text_of(element, 'Message')}"
        return failed

    # --- for ranks without credentials ------------------------------------------------------------------------------

    def check_credentials(self) -> None:
        """See that there are credentials, if any are to be sent. Nothing is asked of the service.

        Raises
        ------
        RemoteError
            There are none.
        """
        if not self.endpoint.unsigned:
            self._service.access.credentials()

    def sign_get(self, remote: Remote, *, whole: bool = False, seconds: int = _SIGNED_S) -> Signed:
        """Sign reading any range of an object, for `get_range` where there are no credentials; or the whole of it, for `get`."""
        headers = {"x-amz-checksum-mode": "ENABLED"} if whole else {}
        request = Request("read it", "GET", remote.bucket, remote.key, pairs(versionId=remote.version), headers)
        return self._service.sign(request, seconds)

    def sign_part(
        self, bucket: str, key: str, upload: str, number: int, crc64: int | None, *, seconds: int = _SIGNED_S
    ) -> Signed:
        """Sign sending one part, for `upload_part` where there are no credentials; with a CRC-64 only those bytes are taken."""
        headers = {}
        if crc64 is not None and self.checksum == "crc64nvme":
            headers["x-amz-checksum-crc64nvme"] = encode_crc64(crc64)
        query = pairs(partNumber=number, uploadId=upload)
        return self._service.sign(Request("send a part", "PUT", bucket, key, query, headers), seconds)

    # --- what they share ------------------------------------------------------------------------------------------

    @property
    def checksum(self) -> str:
        """The checksum that goes with uploads: ``crc64nvme``, ``crc32c`` or ``none``."""
        chosen = self.capabilities.checksum if self.endpoint.checksum == "auto" else self.endpoint.checksum
        if chosen == "crc32c" and _crc32c() is None:
            _warn_once("crc32c")
            return "none"
        return chosen

    def _checksum(self, view: memoryview, crc64: int) -> dict[str, str]:
        kind = self.checksum
        if kind == "crc64nvme":
            return {"x-amz-checksum-crc64nvme": encode_crc64(crc64)}
        compute = _crc32c() if kind == "crc32c" else None
        return {"x-amz-checksum-crc32c": b64encode(compute(view).to_bytes(4, "big")).decode()} if compute else {}

    def _new_headers(self, metadata: Mapping[str, str], content_type: str) -> dict[str, str]:
        """Return the headers of a new object."""
        check_metadata(metadata.items())
        headers = {f"x-amz-meta-{name.lower()}": value for name, value in metadata.items()}
        headers["content-type"] = content_type or "application/octet-stream"
        if self.endpoint.owner_acl:
            headers["x-amz-acl"] = "bucket-owner-full-control"
        if self.endpoint.kms_key:
            headers["x-amz-server-side-encryption"] = "aws:kms"
            if self.endpoint.kms_key != "aws:kms":
                headers["x-amz-server-side-encryption-aws-kms-key-id"] = self.endpoint.kms_key
        return headers

    def _once(self, request: Request, is_ours: Callable[[ObjectInfo], bool]) -> Answer | ObjectInfo:
        """Ask for what must not be done twice: if an answer was lost and the next is a refusal, look whether the object is ours already."""
        service, lost = self._service, False

        def attempt() -> Answer:
            nonlocal lost
            try:
                return service.try_once(request)
            except Failure as failure:
                lost |= failure.is_lost
                raise

        try:
            return service.repeat(attempt)
        except RemoteError as error:
            if not lost or not (isinstance(error, ConditionError) or error.code == "NoSuchUpload"):
                raise
            try:
                info = self.head(request.bucket, request.key)
            except RemoteError:
                raise error from None
            if not is_ours(info):
                raise
            return info

    def _stale(self, remote: Remote, error: RemoteError, signed: Signed | None) -> StaleError | RemoteError:
        """Return the error of a version that is no more, with what is there instead."""
        try:
            if signed:
                look = Request(
                    "look at it", "GET", remote.bucket, remote.key, (), {"range": "bytes=0-0"}, signed=signed
                )
                found = self._service.ask(look).headers.get("etag", "").strip('"')
            else:
                found = self.head(remote.bucket, remote.key).etag
        except RemoteError as other:
            if other.status != 404:
                return error if error.status == 404 else _changed(remote.bucket, remote.key, remote.etag, "unknown")
            found = ""
        return _changed(remote.bucket, remote.key, remote.etag, found)


def close_clients() -> None:
    """Close and forget all clients of this process."""
    with _lock:
        clients = list(_clients.values())
        _clients.clear()
    for client in clients:
        client.close()


def _after_fork() -> None:
    """In the child: locks may be held by threads that are not here, and connections are the parent's."""
    global _lock
    _lock = threading.Lock()
    for client in _clients.values():
        client._making = threading.Lock()
        held, client._service_of = client._service_of, None
        if held is not None:
            held[1].connections.forget()


os.register_at_fork(after_in_child=_after_fork)


def _check_range(service: Service, request: Request, exchange: Exchange, remote: Remote, first: int, last: int) -> None:
    """See that an answer is what was asked for, before a byte of it is taken.

    Raises
    ------
    Failure
    """
    headers = exchange.headers
    etag = headers.get("etag", "").strip('"')
    if not etag:  # an error in the place of data
        failure = service.failure_of(request, exchange.status, headers, exchange.read(1 << 16))
        failure.passes = True
        raise failure
    if remote.etag and etag != remote.etag:
        raise Failure(_changed(remote.bucket, remote.key, remote.etag, etag))
    told = headers.get("content-range", "")
    if exchange.status == 200 and first == 0 and exchange.length == last + 1 == remote.size:
        return
    place, _, size = told.removeprefix("bytes ").partition("/")
    if size not in ("*", str(remote.size)) and size:
        text = f"{remote.url} has {size} bytes now, and had {remote.size}: it was replaced"
        raise Failure(StaleError(text))
    if exchange.status != 206 or place != f"{first}-{last}" or exchange.length not in (-1, last + 1 - first):
        text = f"asked for bytes {first}-{last}, and got {told or 'no range'} of {exchange.length} bytes"
        raise Failure(service.error(request, exchange.status, "BadAnswer", text), passes=True)


def _changed(bucket: str, key: str, expected: str, found: str) -> StaleError:
    now = f"its ETag is {found} now" if found else "it is gone"
    return StaleError(f"s3://{bucket}/{key} was replaced: the version with ETag {expected} was wanted, and {now}")


def _condition(if_none_match: bool, if_match: str) -> dict[str, str]:
    if if_none_match and if_match:
        raise ArgumentError("if_none_match and if_match exclude each other")
    if if_none_match:
        return {"if-none-match": "*"}
    return {"if-match": f'"{if_match}"'} if if_match else {}


def _written(headers: Mapping[str, str]) -> tuple[str, str]:
    return headers.get("etag", "").strip('"'), version_of(headers)


def _etag_of(parts: Iterable[Part]) -> str:
    """Return the ETag that services commonly give an object of these parts."""
    parts = list(parts)
    try:
        joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    except ValueError:
        return ""
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


_warned: set[str] = set()


def _warn_once(word: str) -> None:
    if word not in _warned:
        _warned.add(word)
        warnings.warn(
            "the S3 endpoint wants CRC-32C: pip install google-crc32c; until then uploads carry no checksum",
            RuntimeWarning,
            stacklevel=4,
        )


def _crc32c() -> Callable[[memoryview], int] | None:
    """Return what computes a CRC-32C; None where nothing is installed that does."""
    try:
        from awscrt import checksums
    except ImportError:
        pass
    else:
        return lambda view: int(checksums.crc32c(view))
    try:
        import google_crc32c
    except ImportError:
        return None

    def compute(view: memoryview) -> int:
        crc = 0
        for start in range(0, len(view), _COPIED_BYTES):  # it takes nothing but bytes
            crc = google_crc32c.extend(crc, bytes(view[start : start + _COPIED_BYTES]))
        return crc

    return compute
