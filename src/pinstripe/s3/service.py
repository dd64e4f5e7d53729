"""Service: one request at a time to one endpoint, repeated while that helps, and what went wrong as an error of ours. Thread-safe."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import urlsplit

from ..errors import ArgumentError, ConditionError, Error, RemoteError
from ..format.remote import Endpoint
from .access import Access
from .connections import Connections, Exchange, Origin
from .documents import parse_error, parse_time
from .objects import EXPIRED, Signed
from .signing import UNSIGNED, encode_query, sign_headers, sign_query
from .slots import Slots

__all__ = ["Answer", "Counters", "Failure", "Request", "Service"]

T = TypeVar("T")

ATTEMPTS = 10
"""So often is a request sent before its error is told; about half a minute in all."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 10.0
_SLOTS = 32
_PASSING = (429, 500, 502, 503, 504)
_PASSING_CODES = (
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "ThrottlingException",
    "Throttling",
    "TooManyRequests",
)
_THROTTLED_CODES = ("SlowDown", "ThrottlingException", "Throttling", "TooManyRequests", "RequestLimitExceeded")
_HINTS = {
    "AccessDenied": "the credentials do not allow it",
    "AllAccessDisabled": "the bucket is closed",
    "AuthorizationHeaderMalformed": "say its region (--region, AWS_DEFAULT_REGION)",
    "BadDigest": "the bytes were damaged on their way, or the checksum is another's",
    EXPIRED: "what the first rank signed for this one has expired, an hour after its wave began: run it again, and it goes on",
    "ExpiredToken": "the credentials have expired: get new ones",
    "InvalidAccessKeyId": "the service does not know the access key",
    "InvalidObjectState": "it lies in an archive: restore it there first",
    "NoSuchBucket": "there is no such bucket at this endpoint",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "SignatureDoesNotMatch": "the secret key is not the access key's",
}
_MOST_OF_AN_ERROR = 64 << 10
MOST_OF_A_DOCUMENT = 64 << 20


@dataclasses.dataclass(slots=True)
class Counters:
    """What was done since the start of the process.

    Attributes
    ----------
    requests : int
        Sent, repeated ones included.
    retries, throttled : int
        Repeated after a failure; refused because there were too many.
    bytes_in, bytes_out : int
        Of objects: received, sent.
    """

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes
    ----------
    verb : str
        For people: ``cannot VERB``.
    method, bucket, key : str
    query : tuple of pairs
    headers : dict
        Names in small letters.
    body : bytes or memoryview
    is_document : bool
        The body is XML: its hash is signed.
    signed : Signed or None
        Signed by somebody else.
    """

    verb: str
    method: str
    bucket: str
    key: str = ""
    query: tuple[tuple[str, str], ...] = ()
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes | memoryview = dataclasses.field(default=b"", repr=False)
    is_document: bool = False
    signed: Signed | None = None

    @property
    def is_conditional(self) -> bool:
        return "if-match" in self.headers or "if-none-match" in self.headers


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; the status is 2xx."""

    status: int
    headers: dict[str, str]
    body: bytes = dataclasses.field(repr=False)


class Failure(Exception):
    """One attempt failed.

    Attributes
    ----------
    error : Error
        What is told if no other attempt follows.
    passes : bool
        Another attempt may succeed.
    is_throttled : bool
    is_lost : bool
        The service may have done it.
    headers : dict
        Of the answer.
    """

    def __init__(
        self,
        error: Error,
        *,
        passes: bool = False,
        is_throttled: bool = False,
        is_lost: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error, self.passes, self.is_throttled, self.is_lost = error, passes, is_throttled, is_lost
        self.headers = headers or {}


class Service:
    """Requests to one endpoint.

    Attributes
    ----------
    counters : Counters
    slots : Slots
        Every request takes one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.access = Access(endpoint)
        self.connections = Connections(self.access.verify)
        self.slots = Slots(_SLOTS)
        self.counters = Counters()
        self._lock = threading.Lock()
        self._clock_ahead_s = 0.0

    def count(self, **more: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)

    def ask(self, request: Request) -> Answer:
        """Ask until there is an answer.

        Raises
        ------
        RemoteError
        """
        return self.repeat(lambda: self.try_once(request))

    def try_once(self, request: Request) -> Answer:
        """Ask once, and read the answer whole; an error that comes with 200 is an error.

        Raises
        ------
        Failure
        """

        def read(exchange: Exchange) -> Answer:
            body = exchange.read(MOST_OF_A_DOCUMENT)
            if exchange.length > 0:
                raise http.client.IncompleteRead(b"", exchange.length)
            return Answer(exchange.status, exchange.headers, body)

        answer = self.exchange(request, read)
        if answer.body and parse_error(answer.body)[0]:
            failure = self.failure_of(request, answer.status, answer.headers, answer.body)
            failure.is_lost |= failure.passes
            raise failure
        return answer

    def exchange(self, request: Request, read: Callable[[Exchange], T]) -> T:
        """Ask once; `read` takes the answer if it is good.

        Raises
        ------
        Failure
        """
        with self.slots:
            self.count(requests=1, bytes_out=0 if request.is_document else memoryview(request.body).nbytes)
            try:
                origin, target, headers = self._prepared(request)
                with self.connections.exchange(origin, request.method, target, headers, request.body) as exchange:
                    if 200 <= exchange.status < 300:
                        value = read(exchange)
                        self.slots.succeeded()
                        return value
                    body = exchange.read(_MOST_OF_AN_ERROR)
                raise self._refused(request, exchange.status, exchange.headers, body)
            except ssl.SSLCertVerificationError as error:
                text = f"{error.verify_message}; name the authority's certificates in AWS_CA_BUNDLE"
                raise Failure(self.error(request, 0, "NoAnswer", text)) from None
            except TimeoutError:
                raise Failure(
                    self.error(request, 0, "Timeout", "no answer in time"), passes=True, is_lost=True
                ) from None
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, Error):
                    raise Failure(error) from None
                what = f"the connection failed: {str(error) or type(error).__name__}"
                raise Failure(self.error(request, 0, "NoAnswer", what), passes=True, is_lost=True) from None

    def repeat(self, attempt: Callable[[], T], *, progressed: Callable[[], bool] = lambda: False) -> T:
        """Repeat an attempt while that may help, with waits that grow.

        Parameters
        ----------
        progressed : callable
            Tells whether the last attempt got something done: then the count starts again.

        Raises
        ------
        Error
            Of the last attempt.
        """
        tried = 0
        while True:
            try:
                return attempt()
            except Failure as failure:
                if failure.is_throttled:
                    self.slots.throttled()
                    self.count(throttled=1)
                tried = 1 if progressed() else tried + 1
                if not failure.passes or tried >= ATTEMPTS:
                    raise failure.error from None
            self.count(retries=1)
            time.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (tried - 1)) * random.uniform(0.5, 1.0))

    def sign(self, request: Request, seconds: int) -> Signed:
        """Sign a request for somebody without credentials; it holds for so many seconds, or as long as the credentials.

        Raises
        ------
        RemoteError
            There are no credentials.
        """
        place = self.access.place(request.bucket)
        headers = {**place.headers, **request.headers}
        target = place.target(request.key)
        if self.endpoint.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        query = encode_query(request.query)
        if not self.endpoint.unsigned:
            signed = {"host": place.origin.name, **headers}
            query = sign_query(
                self.access.credentials(),
                place.scope,
                request.method,
                target,
                request.query,
                signed,
                self._now(),
                seconds,
            )
        return Signed(f"{place.origin.scheme}://{place.origin.name}{target}{'?' if query else ''}{query}", headers)

    def error(self, request: Request, status: int, code: str, message: str) -> RemoteError:
        """Make the error of a request."""
        place = (
            f"s3://{request.bucket}/{request.key}".rstrip("/")
            if not request.key
            else f"s3://{request.bucket}/{request.key}"
        )
        said = " ".join(word for word in (str(status or ""), code if status else "") if word)
        hint = _HINTS.get(code, "")
        text = f"{place}: cannot {request.verb}: {': '.join(part for part in (said, message) if part)}{'; ' if hint else ''}{hint}"
        conditional = (
            status == 412 or (status == 409 and code != "OperationAborted") or (status == 404 and code == "NoSuchKey")
        )
        writes = request.method in ("PUT", "POST", "DELETE") and request.is_conditional
        kind = ConditionError if writes and conditional else RemoteError
        return kind(text, bucket=request.bucket, key=request.key, status=status, code=code)

    def failure_of(self, request: Request, status: int, headers: dict[str, str], body: bytes) -> Failure:
        """Say what an answer that is an error means for the next attempt."""
        code, message = parse_error(body)
        if not code:
            code = {
                403: "AccessDenied",
                404: "NoSuchKey" if request.key else "NoSuchBucket",
                412: "PreconditionFailed",
            }.get(status, "")
            message = message or http.client.responses.get(status, "")
        code = code or "BadAnswer"
        if request.signed:
            if status == 403 and "expired" in message.lower():
                code = EXPIRED
            if "x-amz-" in message.lower() or "signature=" in message.lower():
                message = "refused"  # it quotes what was signed
        return Failure(
            self.error(request, status, code, message),
            passes=status in _PASSING or code in _PASSING_CODES,
            is_throttled=status == 429
            or code in _THROTTLED_CODES
            or (status == 503 and code in ("ServiceUnavailable", "BadAnswer")),
            is_lost=status >= 500 and code not in _THROTTLED_CODES,
            headers=headers,
        )

    def _refused(self, request: Request, status: int, headers: dict[str, str], body: bytes) -> Failure:
        failure = self.failure_of(request, status, headers, body)
        code = failure.error.code if isinstance(failure.error, RemoteError) else ""
        if code == "RequestTimeTooSkewed":
            ahead = parse_time(headers.get("date", "")) / 1e9 - time.time()
            failure.passes = abs(ahead - self._clock_ahead_s) > 60 and "date" in headers
            self._clock_ahead_s = ahead
        elif status in (301, 307, 400) and not request.signed:
            failure.passes |= self.access.moved(request.bucket, headers.get("x-amz-bucket-region", ""))
        return failure

    def _now(self) -> float:
        return time.time() + self._clock_ahead_s

    def _prepared(self, request: Request) -> tuple[Origin, str, dict[str, str]]:
        """Return where a request goes and all of its headers."""
        if request.signed:
            parts = urlsplit(request.signed.url)
            place = self.access.place(request.bucket)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            origin = Origin(parts.scheme, parts.hostname or "", port, place.origin.proxy)
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            return origin, target, {"host": origin.name, **request.headers, **request.signed.headers}
        place = self.access.place(request.bucket)
        target, query = place.target(request.key), encode_query(request.query)
        headers = {"host": place.origin.name, **place.headers, **request.headers}
        if self.endpoint.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        if not self.endpoint.unsigned:
            payload = hashlib.sha256(request.body).hexdigest() if request.is_document else UNSIGNED
            sign_headers(
                self.access.credentials(), place.scope, request.method, target, query, headers, payload, self._now()
            )
        return place.origin, f"{target}?{query}" if query else target, headers


def pairs(**values: str | int) -> tuple[tuple[str, str], ...]:
    """Return a query of what is not ""; ``_`` in a name stands for ``-``."""
    return tuple((name.strip("_").replace("_", "-"), str(value)) for name, value in values.items() if value != "")


def check_metadata(metadata: Iterable[tuple[str, str]]) -> None:
    """Refuse what headers cannot carry.

    Raises
    ------
    ArgumentError
    """
    for name, value in metadata:
        if not (name.isascii() and value.isascii() and name.isprintable() and value.isprintable()) or ":" in name:
            raise ArgumentError(f"metadata {name!r}: {value!r} is not printable ASCII")
