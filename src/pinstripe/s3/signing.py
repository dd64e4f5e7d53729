"""Signature version 4, for headers and for URLs: what botocore computes, at a tenth of its cost. No I/O."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from urllib.parse import quote

__all__ = ["UNSIGNED", "Credentials", "Scope", "encode_query", "sign_headers", "sign_query"]

UNSIGNED = "UNSIGNED-PAYLOAD"
"""For the body's hash: the connection or our own checksum vouches for it."""

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """A key and its secret; not shown."""

    access_key: str = dataclasses.field(repr=False)
    secret_key: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """For what a signature holds: the service's name, ``s3``, and its region."""

    service: str
    region: str


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Encode a query in the order that signatures want."""
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join([f"{name}={value}" for name, value in encoded])


def sign_headers(
    credentials: Credentials,
    scope: Scope,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    payload: str,
    now: float,
) -> None:
    """Add the signature to `headers`, whose names are in small letters and among which ``host`` is.

    Parameters
    ----------
    path, query : str
        Encoded as they will be sent.
    payload : str
        SHA-256 of the body in hexadecimal, or `UNSIGNED`.
    now : float
        Seconds since 1970 by the service's clock.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers["x-amz-date"] = stamp
    headers["x-amz-content-sha256"] = payload
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names, text = _canonical(headers)
    place, signature = _sign(credentials, scope, stamp, f"{method}\n{path}\n{query}\n{text}\n{names}\n{payload}")
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{place}, SignedHeaders={names}, Signature={signature}"
    )


def sign_query(
    credentials: Credentials,
    scope: Scope,
    method: str,
    path: str,
    query: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    now: float,
    seconds: int,
) -> str:
    """Return the whole query of a request that holds for so many seconds; who sends it must send `headers` too."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    names, text = _canonical(headers)
    pairs = [
        *query,
        ("X-Amz-Algorithm", _ALGORITHM),
        ("X-Amz-Credential", f"{credentials.access_key}/{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"),
        ("X-Amz-Date", stamp),
        ("X-Amz-Expires", str(seconds)),
        ("X-Amz-SignedHeaders", names),
    ]
    if credentials.token:
        pairs.append(("X-Amz-Security-Token", credentials.token))
    encoded = encode_query(pairs)
    _, signature = _sign(credentials, scope, stamp, f"{method}\n{path}\n{encoded}\n{text}\n{names}\n{UNSIGNED}")
    return f"{encoded}&X-Amz-Signature={signature}"


def _canonical(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the names that are signed, and their lines."""
    names = sorted(name for name in headers if name.startswith("x-amz-") or name in ("host", "content-type"))
    return ";".join(names), "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])


def _sign(credentials: Credentials, scope: Scope, stamp: str, request: str) -> tuple[str, str]:
    place = f"{stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = _key(credentials.secret_key, stamp[:8], scope)
    return place, hmac.digest(key, f"{_ALGORITHM}\n{stamp}\n{place}\n{hashed}".encode(), "sha256").hex()


@functools.lru_cache(16)
def _key(secret: str, day: str, scope: Scope) -> bytes:
    key = b"AWS4" + secret.encode()
    for word in (day, scope.region, scope.service, "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
