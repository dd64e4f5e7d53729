"""FaultProxy: an HTTP proxy in front of an S3 server, which does to chosen requests what networks and services do; and logs all of them.

::

    with FaultProxy(server.url) as proxy:
        proxy.add(Fault("GET", "big", kind="reset", times=2, after_bytes=100_000))
        ...
        assert [entry.status for entry in proxy.log] == [206, 206, 206]

Signatures stay right: the proxy changes nothing of a request, and the server takes its name from the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["KINDS", "Entry", "Fault", "FaultProxy"]

KINDS = (
    "500", "503", "slowdown", "403", "404", "409", "412",  # answered without asking the server
    "error_body",  # 200 (206 to a range) with an error's XML, without asking the server
    "reset",       # the connection breaks after so many bytes of the answer's body; of the request's, if it has one
    "lost",        # the server does it, and the connection breaks before the answer
    "truncate",    # the answer's body ends early, and its head says so
    "cut",         # the answer's body ends early, against what its head says
    "corrupt",     # one byte of the answer's body is another; of the request's, if it has one
    "delay",       # wait so many seconds first
    "hold",        # wait until `FaultProxy.release`
)  # fmt: skip

_ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "slowdown": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "404": (404, "NoSuchKey"),
    "409": (409, "ConditionalRequestConflict"),
    "412": (412, "PreconditionFailed"),
    "error_body": (200, "InternalError"),
}
_CHUNK = 1 << 18
_HEAD_LIMIT = 1 << 20


@dataclasses.dataclass(slots=True)
class Fault:
    """What is done to which requests.

    Attributes
    ----------
    method : str
        "" means any.
    path : str
        A regular expression, searched in the request's target: the path, encoded, and the query.
    kind : str
        One of `KINDS`.
    times : int
        So many requests meet it.
    skip : int
        So many that would are let through first.
    after_bytes : int
        Where in the body.
    seconds : float
        Of a delay.
    """

    method: str = ""
    path: str = ""
    kind: str = "503"
    times: int = 1
    skip: int = 0
    after_bytes: int = 0
    seconds: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: choose one of {', '.join(KINDS)}")


@dataclasses.dataclass(slots=True)
class Entry:
    """A request that was seen.

    Attributes
    ----------
    method, path : str
        The path as it was sent, with the query.
    range : str
        The header, "" without one.
    status : int
        Of the answer; 0 = none was given.
    bytes_in, bytes_out : int
        Of the request's body as it came, and of the answer's as it was given.
    fault : str
        The kind of what it met, "" for nothing.
    headers : dict
        Of the request, with names in small letters. Signatures are among them.
    """

    method: str
    path: str
    range: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    fault: str = ""
    headers: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)


class _Broken(Exception):
    """This connection is to be broken off now."""


@dataclasses.dataclass(slots=True)
class _Head:
    lines: list[bytes]
    fields: dict[str, str]

    def encoded(self) -> bytes:
        return b"\r\n".join(self.lines) + b"\r\n\r\n"

    def with_length(self, length: int) -> _Head:
        kept = [line for line in self.lines if not line.lower().startswith(b"content-length:")]
        return _Head([*kept, b"Content-Length: %d" % length], {**self.fields, "content-length": str(length)})


class FaultProxy:
    """A proxy on loopback, serving from a thread of its own; a context manager. All methods may be called from any thread.

    Parameters
    ----------
    upstream : str
        URL of the server.
    certificate : path or None
        A PEM file of a certificate and its key: the proxy then speaks TLS to its clients.

    Attributes
    ----------
    url : str
        ``http://127.0.0.1:PORT``, or ``https:``.
    log : list of Entry
        In the order in which requests came.
    """

    def __init__(self, upstream: str, certificate: str | os.PathLike[str] | None = None) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.log: list[Entry] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(certificate)
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="s3-fault-proxy", daemon=True)
        self._thread.start()

    # --- what tests say and ask -----------------------------------------------------------------------------------

    def add(self, *faults: Fault) -> None:
        """Add rules. A request meets the first that fits and is not used up."""
        with self._lock:
            self._faults.extend(faults)

    def clear(self) -> None:
        """Forget all rules and the log, and let go what is held."""
        self.release()
        with self._lock:
            self._faults.clear()
            self.log.clear()

    def release(self) -> None:
        """Let go what is held now, and hold no more until the next `add` of a hold."""
        self._released.set()

    def count(self, method: str = "", path: str = "") -> int:
        """Count the requests of a method whose target a regular expression finds."""
        return len(self.entries(method, path))

    def entries(self, method: str = "", path: str = "") -> list[Entry]:
        """Return the requests of a method whose target a regular expression finds."""
        with self._lock:
            return [
                entry for entry in self.log if (not method or entry.method == method) and re.search(path, entry.path)
            ]

    def bytes_given(self, path: str = "") -> int:
        """Count the bytes of answers to GET of such targets."""
        return sum(entry.bytes_out for entry in self.entries("GET", path))

    def stop(self) -> None:
        """Break all connections and end the thread."""
        if self._thread.is_alive():
            self._released.set()
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- serving --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=_HEAD_LIMIT, ssl=self._tls)
        await self._stopping.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(self, reader, writer, self._upstream)
        try:
            await connection.serve()
        except (OSError, EOFError, _Broken, asyncio.CancelledError):
            pass  # the client sees its connection broken, which is all that can be said
        finally:
            connection.close()
            self._tasks.discard(task)

    def _seen(self, method: str, path: str, fields: dict[str, str]) -> tuple[Entry, Fault | None]:
        """Log a request and find what it meets."""
        entry = Entry(method, path, fields.get("range", ""), headers=fields)
        with self._lock:
            self.log.append(entry)
            for fault in self._faults:
                if fault.times > 0 and fault.method in ("", method) and re.search(fault.path, path):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    entry.fault = fault.kind
                    if fault.kind == "hold" and self._released.is_set():
                        self._released = threading.Event()
                    return entry, fault
        return entry, None


class _Connection:
    """One client's connection and ours to the server."""

    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[str, int],
    ) -> None:
        self.proxy, self.reader, self.writer, self.upstream = proxy, reader, writer, upstream
        self.server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        for writer in [self.writer, *([self.server[1]] if self.server else [])]:
            with contextlib.suppress(Exception):
                writer.close()

    async def serve(self) -> None:
        while (head := await _read_head(self.reader)) is not None:
            method, path, _ = head.lines[0].decode("latin-1").split(" ", 2)
            entry, fault = self.proxy._seen(method, path, head.fields)
            kind = fault.kind if fault else ""
            if fault and kind == "delay":
                await asyncio.sleep(fault.seconds)
            elif kind == "hold":
                await asyncio.get_running_loop().run_in_executor(None, self.proxy._released.wait)
            if kind in _ERRORS:
                await self._answer(head, entry, kind)
            else:
                await self._forward(head, entry, fault)

    async def _answer(self, head: _Head, entry: Entry, kind: str) -> None:
        """Give an error without asking the server."""
        status, code = _ERRORS[kind]
        if "expect" not in head.fields:  # else the client sends its body only if it is asked to
            async for piece in _read_body(self.reader, head.fields, has_body=_sends_body(head)):
                entry.bytes_in += len(piece)
        body = b""
        if entry.method != "HEAD":
            body = (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>told by the proxy'
                f"</Message><RequestId>0</RequestId></Error>"
            ).encode()
        extra = ""
        if kind == "error_body" and entry.range:
            status = 206
            first = int(re.findall(r"\d+", entry.range)[0])
            extra = f"Content-Range: bytes {first}-{first + len(body) - 1}/*\r\n"
        entry.status, entry.bytes_out = status, len(body)
        close = "Connection: close\r\n" if "expect" in head.fields else ""
        text = f"HTTP/1.1 {status} Told\r\nContent-Type: application/xml\r\n{extra}{close}Content-Length: {len(body)}\r\n\r\n"
        self.writer.write(text.encode() + body)
        await self.writer.drain()
        if close:
            raise _Broken

    async def _forward(self, head: _Head, entry: Entry, fault: Fault | None) -> None:
        """Ask the server, and do to the bodies what the fault says."""
        if self.server is None:
            self.server = await asyncio.open_connection(*self.upstream, limit=_HEAD_LIMIT)
        reader, writer = self.server
        writer.write(head.encoded())
        sends = _sends_body(head)
        sending = asyncio.ensure_future(self._send(head, entry, fault if sends else None, writer, sends))
        try:
            while True:
                waiting = asyncio.ensure_future(_read_head(reader))
                await asyncio.wait({waiting, sending}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done() and sending.exception() is not None:
                    waiting.cancel()
                    await sending
                answer = await waiting
                if answer is None:
                    raise _Broken
                status = int(answer.lines[0].split()[1])
                if status != 100:
                    break
                self.writer.write(answer.encoded())
            if status < 400:
                await sending  # a server may refuse before it has read everything, but not accept
            if sends and fault and fault.kind in ("reset", "corrupt"):
                fault = None  # it was done to the request's body
            await self._give(entry, fault, answer, status)
            if not sending.done():
                raise _Broken
        finally:
            sending.cancel()
            with contextlib.suppress(BaseException):
                await sending

    async def _send(
        self, head: _Head, entry: Entry, fault: Fault | None, writer: asyncio.StreamWriter, sends: bool
    ) -> None:
        """Pass the request's body on."""
        async for piece in _read_body(self.reader, head.fields, has_body=sends):
            position = entry.bytes_in
            entry.bytes_in += len(piece)
            if fault and fault.kind == "reset" and position + len(piece) > fault.after_bytes:
                writer.transport.abort()
                self._reset()
            if fault and fault.kind == "corrupt":
                piece = _corrupted(piece, fault.after_bytes - position)
            writer.write(piece)
            await writer.drain()
        await writer.drain()

    async def _give(self, entry: Entry, fault: Fault | None, answer: _Head, status: int) -> None:
        """Pass the answer on."""
        kind = fault.kind if fault else ""
        end = fault.after_bytes if fault else 0
        if kind == "lost":
            self._reset()
        reader = self.server[0] if self.server else self.reader
        has_body = entry.method != "HEAD" and status not in (204, 304)
        if kind == "truncate":
            answer = answer.with_length(min(end, int(answer.fields.get("content-length", end))))
        entry.status = status
        self.writer.write(answer.encoded())
        fields = answer.fields if kind != "truncate" else {"content-length": "0"}
        if kind == "truncate":
            pieces = _take(reader, int(answer.fields["content-length"]))
        else:
            pieces = _read_body(reader, fields, has_body=has_body)
        async for piece in pieces:
            if kind in ("reset", "cut") and entry.bytes_out + len(piece) >= end:
                piece = piece[: end - entry.bytes_out]
                entry.bytes_out = end
                self.writer.write(piece)
                await self.writer.drain()
                if kind == "reset":
                    await asyncio.sleep(0.02)  # a reset overtakes what lies in the client's socket
                    self._reset()
                raise _Broken
            if kind == "corrupt":
                piece = _corrupted(piece, end - entry.bytes_out)
            entry.bytes_out += len(piece)  # first: who has the bytes may look at once
            self.writer.write(piece)
            await self.writer.drain()
        if kind == "truncate":
            assert self.server is not None
            self.server[1].close()  # the rest of the body is in it
            self.server = None
        if "close" in answer.fields.get("connection", "").lower():
            raise _Broken

    def _reset(self) -> None:
        """Break the connection so that the client gets ECONNRESET."""
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise _Broken


def _sends_body(head: _Head) -> bool:
    return "transfer-encoding" in head.fields or int(head.fields.get("content-length", "0")) > 0


def _corrupted(piece: bytes, position: int) -> bytes:
    if not 0 <= position < len(piece):
        return piece
    return piece[:position] + bytes([piece[position] ^ 1]) + piece[position + 1 :]


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    """Read to the empty line; None at the end of the connection."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    lines = raw[:-4].split(b"\r\n")
    fields = {}
    for line in lines[1:]:
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.strip().lower()] = value.strip()
    return _Head(lines, fields)


async def _take(reader: asyncio.StreamReader, count: int) -> AsyncIterator[bytes]:
    while count > 0:
        piece = await reader.read(min(count, _CHUNK))
        if not piece:
            raise _Broken
        count -= len(piece)
        yield piece


async def _read_body(reader: asyncio.StreamReader, fields: dict[str, str], *, has_body: bool) -> AsyncIterator[bytes]:
    """Give a body as it came, chunks' headers included."""
    if not has_body:
        return
    if "chunked" in fields.get("transfer-encoding", "").lower():
        while True:
            line = await reader.readuntil(b"\r\n")
            yield line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            async for piece in _take(reader, size + 2):
                yield piece
        while True:  # trailers
            line = await reader.readuntil(b"\r\n")
            yield line
            if line == b"\r\n":
                return
    if "content-length" in fields:
        async for piece in _take(reader, int(fields["content-length"])):
            yield piece
        return
    while piece := await reader.read(_CHUNK):
        yield piece
