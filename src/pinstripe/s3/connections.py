"""Connections: HTTP/1.1 connections of one process that are kept and used again; bodies go from and to the caller's memory.

Thread-safe. What fails raises `OSError` or `http.client.HTTPException`; trying again is the caller's business.
"""

from __future__ import annotations

import dataclasses
import http.client
import select
import socket
import ssl
import threading
import time
from base64 import b64encode
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import UnsupportedError

__all__ = ["Connections", "Exchange", "Origin"]

_IDLE_S = 20  # services close after some seconds more
_CONNECT_S = 10
_ANSWER_S = 60
_TOGETHER_BYTES = 16 << 10  # a body up to this is copied, to go out with its head in one packet


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection leads.

    Attributes
    ----------
    scheme : str
        ``http`` or ``https``.
    host : str
    port : int
    proxy : str
        URL of the proxy, "" without one. It may hold a password, and is not shown.
    """

    scheme: str
    host: str
    port: int
    proxy: str = dataclasses.field(default="", repr=False)

    @property
    def name(self) -> str:
        """What the header ``host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


class _Fields(dict[str, str]):
    """Headers by their names in small letters; `http.client` asks for some by its own spelling."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class _Response(http.client.HTTPResponse):
    """`http.client`'s response with a head that is read by us: its own parses an e-mail message."""

    def begin(self) -> None:
        while True:
            line = self.fp.readline(65537)
            if not line:
                raise http.client.RemoteDisconnected("the connection was closed without an answer")
            version, _, rest = line.partition(b" ")
            if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
                self.close()
                raise http.client.BadStatusLine("the answer is not HTTP/1.1")
            self.code = self.status = int(rest[:3])
            self.version = 10 if version.strip() == b"HTTP/1.0" else 11
            fields = self._read_fields()
            if self.status >= 200 or self.status == 101:
                break
        self.reason = ""
        self.headers = self.msg = fields  # type: ignore[assignment]
        self.chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        self.chunk_left = None
        said = fields.get("connection", "").lower()
        self.will_close = "close" in said or (self.version == 10 and "keep-alive" not in said)
        length = fields.get("content-length", "")
        self.length = int(length) if length.isdigit() and not self.chunked else None
        if self.status in (204, 304) or self._method == "HEAD":
            self.length = 0
        if self.length is None and not self.chunked:
            self.will_close = True

    def _read_fields(self) -> _Fields:
        fields = _Fields()
        for _ in range(1000):
            line = self.fp.readline(65537)
            if line in (b"\r\n", b"\n", b""):
                return fields
            name, _, value = line.decode("latin-1").partition(":")
            fields[name.strip().lower()] = value.strip()
        raise http.client.HTTPException("the answer has too many headers")

    _method: str


class Exchange:
    """One answer, whose body is still to be read; a context manager. If it was read to its end, its connection is used again.

    Attributes
    ----------
    status : int
    headers : dict
        Names in small letters.
    """

    def __init__(self, pool: Connections, origin: Origin, connection: http.client.HTTPConnection, method: str) -> None:
        self._pool, self._origin, self._connection = pool, origin, connection
        self._response = _Response(connection.sock, method=method)
        try:
            self._response.begin()
        except BaseException:
            self._response.close()
            raise
        self.status = self._response.status
        self.headers: dict[str, str] = self._response.headers  # type: ignore[assignment]

    @property
    def length(self) -> int:
        """Bytes of the body that are still to come, -1 where that was not told."""
        length = self._response.length
        return -1 if length is None else length

    def read(self, most: int) -> bytes:
        """Read the rest of the body, at most so many bytes."""
        return (
            self._response.read(most) if self._response.length is None else self._response.read(min(most, self.length))
        )

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of `buffer`, by what one look at the socket gives; 0 = the body ended, or the connection did."""
        response = self._response
        if response.length is None:
            return response.readinto(buffer)
        if response.length == 0:
            return 0
        # Not response.readinto: if the connection breaks, it forgets how much it has read already.
        count: int = response.fp.readinto1(buffer[: response.length])
        response.length -= count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        response = self._response
        if error is None and not response.will_close and (response.isclosed() or response.length == 0):
            response.close()
            self._pool._give_back(self._origin, self._connection)
        else:
            response.close()
            self._connection.close()


class Connections:
    """The connections of one process.

    Parameters
    ----------
    verify : bool or str
        Whether certificates are verified; a path of those that are trusted.
    certificate : str or tuple or None
        The client's own, as botocore gives it.
    """

    def __init__(self, verify: bool | str, certificate: Any = None) -> None:
        self._verify, self._certificate = verify, certificate
        self._context: ssl.SSLContext | None = None
        self._idle: dict[Origin, list[tuple[float, http.client.HTTPConnection]]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for kept in idle.values():
            for _, connection in kept:
                connection.close()

    def __del__(self) -> None:
        self.close()

    def forget(self) -> None:
        """After a fork: let go of the parent's connections without a word to the service."""
        self._lock = threading.Lock()
        self.close()

    def exchange(
        self, origin: Origin, method: str, target: str, headers: dict[str, str], body: memoryview | bytes
    ) -> Exchange:
        """Send a request and return when the head of its answer is there.

        Raises
        ------
        OSError, http.client.HTTPException
        """
        connection = self._take(origin)
        try:
            if origin.proxy and origin.scheme == "http":
                target = f"http://{origin.name}{target}"
                headers = {**headers, **_proxy_headers(origin.proxy)}
            body = memoryview(body).cast("B")
            lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
            if len(body) or method in ("PUT", "POST"):
                lines.append(f"content-length: {len(body)}")
            if any("\r" in line or "\n" in line for line in lines):
                raise http.client.HTTPException("a header of more than one line")
            head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
            try:
                if len(body) <= _TOGETHER_BYTES:
                    connection.sock.sendall(head + body)
                else:
                    connection.sock.sendall(head)
                    connection.sock.sendall(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the service may have refused before it read all, and said why; else reading fails, too
            return Exchange(self, origin, connection, method)
        except BaseException:
            connection.close()
            raise

    def _take(self, origin: Origin) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                kept = self._idle.get(origin)
                since, connection = kept.pop() if kept else (0.0, None)
            if connection is None:
                return self._connect(origin)
            if time.monotonic() - since < _IDLE_S and not _is_dropped(connection):
                return connection
            connection.close()

    def _give_back(self, origin: Origin, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._idle.setdefault(origin, []).append((time.monotonic(), connection))

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        host, port = origin.host, origin.port
        if origin.proxy:
            parts = _proxy_parts(origin.proxy)
            host, port = parts.hostname or "", parts.port or 80
        connection: http.client.HTTPConnection
        if origin.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=_CONNECT_S, context=self._tls())
            if origin.proxy:
                connection.set_tunnel(origin.host, origin.port, headers=_proxy_headers(origin.proxy))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
        connection.connect()
        connection.sock.settimeout(_ANSWER_S)
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _tls(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                context = ssl.create_default_context(cafile=self._verify if isinstance(self._verify, str) else None)
                if self._verify is False:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                if self._certificate:
                    files = self._certificate if isinstance(self._certificate, tuple) else (self._certificate,)
                    context.load_cert_chain(*files)
                self._context = context
            return self._context


def _proxy_parts(proxy: str) -> SplitResult:
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise UnsupportedError(f"a proxy of kind {parts.scheme!r} for S3: only http:// proxies are known")
    return parts


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = _proxy_parts(proxy)
    if parts.username is None:
        return {}
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"proxy-authorization": "Basic " + b64encode(secret.encode()).decode()}


def _is_dropped(connection: http.client.HTTPConnection) -> bool:
    """Tell whether the other side closed an idle connection, or spoke unasked."""
    if connection.sock is None:
        return True
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return bool(waiting.poll(0))
