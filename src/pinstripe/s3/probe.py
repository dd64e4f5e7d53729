"""Probe: what an endpoint can do, asked once with a handful of tiny objects and kept beside the store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConditionError, RemoteError
from ..kernels import crc64
from ..store.store import Store
from .client import Client
from .objects import Capabilities, Part

__all__ = ["capabilities_of", "probe"]

_DATA = b"pinstripe asks what this endpoint can do; you may remove this object"
_REFUSED = (400, 403, 405, 409, 411, 412, 500, 501)  # what services say to a request that they do not know


def capabilities_of(
    client: Client, bucket: str, *, may_write: bool, store: Store | None, prefix: str = ""
) -> Capabilities:
    """Say what an endpoint can do; `client.capabilities` says it from then on.

    Found in the client, else in the store, else by `probe`, which the store then keeps. AWS is known without asking.

    Parameters
    ----------
    may_write : bool
        False: nothing is written anywhere, and what nobody knows yet is taken to be what most can do.
    prefix : str
        Below which objects may be written.
    """
    if client.capabilities.known:
        return client.capabilities
    found = _of_aws(client, bucket) or _read(client, store)
    if found is None:
        if not may_write:
            return client.capabilities
        found = probe(client, bucket, prefix)
        _keep(client, store, found)
    client.capabilities = found
    return found


def probe(client: Client, bucket: str, prefix: str = "") -> Capabilities:
    """Write some tiny objects below a prefix, see what happens, and remove them.

    Raises
    ------
    RemoteError
        Plain objects cannot be written there.
    """
    asking = _Asking(client, bucket, f"{prefix}.pinstripe-probe-{secrets.token_hex(8)}/")
    try:
        kind = asking.checksum()
        before = client.capabilities
        client.capabilities = dataclasses.replace(before, checksum=kind)
        with _putting_back(client, before):
            return Capabilities(
                conditional_put=asking.obeys_conditions(),
                checksum=kind,
                ordered_list=asking.lists_in_order(),
                known=True,
                **asking.completes(),
            )
    finally:
        asking.clean()


class _Asking:
    """One probe's objects."""

    def __init__(self, client: Client, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix
        self.keys: set[str] = set()

    def put(self, name: str, **conditions: Any) -> str:
        key = self.prefix + name
        self.keys.add(key)
        return self.client.put(self.bucket, key, _DATA, **conditions)[0]

    def checksum(self) -> str:
        """Find a checksum that is taken when right, refused when wrong and told afterwards."""
        before = self.client.capabilities
        for kind in ("crc64nvme", "crc32c"):
            self.client.capabilities = dataclasses.replace(before, checksum=kind)
            with _putting_back(self.client, before):
                if self.client.checksum == kind and self._keeps(kind):
                    return kind
        self.client.capabilities = dataclasses.replace(before, checksum="none")
        with _putting_back(self.client, before):
            if self.client.endpoint.checksum == "auto":
                self.put("plain")
        return "none"

    def _keeps(self, kind: str) -> bool:
        try:
            self.put("sum")
        except RemoteError as error:
            if error.status in _REFUSED and error.code not in ("AccessDenied", "NoSuchBucket", "SignatureDoesNotMatch"):
                return False
            raise
        if kind == "crc32c":
            return True  # what our own code computes cannot be made wrong here
        if self.client.head(self.bucket, self.prefix + "sum").crc64 != crc64(_DATA):
            return False
        try:
            self.put("wrong", crc64=crc64(_DATA) ^ 1)
        except RemoteError:
            return True
        return False

    def obeys_conditions(self) -> bool:
        """Tell whether a second create and a replacement of another version are refused."""
        etag = self.put("condition")
        if not self._is_refused("condition", if_none_match=True) or not self._is_refused(
            "condition", if_match="0" * 32
        ):
            return False
        return not self._is_refused("condition", if_match=etag)

    def _is_refused(self, name: str, **condition: Any) -> bool:
        try:
            self.put(name, **condition)
        except ConditionError:
            return True
        except RemoteError as error:
            if error.status not in _REFUSED:
                raise
            return False  # it does not know conditions at all
        return False

    def completes(self) -> dict[str, bool]:
        """Ask whether completing an upload obeys conditions, and compares the whole object's checksum."""
        said = {"conditional_complete": False, "full_object": False}
        name = self.prefix + "parts"
        self.keys.add(name)
        try:
            with self._uploading(name) as (upload, part):
                with contextlib.suppress(RemoteError):
                    self.client.complete_upload(
                        self.bucket, name, upload, [part], size=len(_DATA), crc64=crc64(_DATA) ^ 1
                    )
                    raise _Accepted
                said["full_object"] = self.client.checksum == "crc64nvme"
        except _Accepted:
            pass
        self.put("parts")
        before = self.client.capabilities
        self.client.capabilities = dataclasses.replace(before, full_object=said["full_object"])
        with _putting_back(self.client, before):
            try:
                with self._uploading(name) as (upload, part):
                    self.client.complete_upload(
                        self.bucket, name, upload, [part], size=len(_DATA), crc64=crc64(_DATA), if_none_match=True
                    )
            except ConditionError:
                said["conditional_complete"] = True
            except RemoteError:
                pass
        return said

    @contextlib.contextmanager
    def _uploading(self, key: str) -> Iterator[tuple[str, Part]]:
        upload = self.client.create_upload(self.bucket, key)
        try:
            yield upload, self.client.upload_part(self.bucket, key, upload, 1, _DATA)
        finally:
            self.client.abort_upload(self.bucket, key, upload)

    def lists_in_order(self) -> bool:
        """Tell whether lists are in the order of bytes and start after any key."""
        names = ["order/B", "order/a", "order/a!", "order/a/b", "order/b", "order/\u00fc"]
        for name in reversed(names):
            self.put(name)
        keys = [self.prefix + name for name in names]
        after = self.prefix + "order/a!"
        return self._list("order/") == keys and self._list("order/", start_after=after) == keys[3:]

    def _list(self, name: str, **bounds: str) -> list[str]:
        pages = self.client.list_pages(self.bucket, self.prefix + name, **bounds)
        return [info.key for page in pages for info in page.objects]

    def clean(self) -> None:
        for key in self.keys:
            with contextlib.suppress(RemoteError):
                self.client.delete(self.bucket, key)


class _Accepted(Exception):
    """What had to be refused was accepted."""


@contextlib.contextmanager
def _putting_back(client: Client, capabilities: Capabilities) -> Iterator[None]:
    try:
        yield
    finally:
        client.capabilities = capabilities


def _of_aws(client: Client, bucket: str) -> Capabilities | None:
    """Return what AWS can do if this is AWS."""
    host = urlsplit(client.url).hostname or ""
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return Capabilities(ordered_list=not bucket.endswith("--x-s3"), known=True)
    return None


def _path(client: Client, store: Store) -> Path:
    name = f"{crc64(f'{client.url} {client.endpoint.region}'.encode()):016x}.json"
    return Path(store.root) / ".pinstripe" / "s3" / name


def _read(client: Client, store: Store | None) -> Capabilities | None:
    """Return what a store keeps; None if that is nothing, or not to be understood."""
    if store is None:
        return None
    try:
        values = json.loads(_path(client, store).read_bytes())
        fields = {field.name: values[field.name] for field in dataclasses.fields(Capabilities)}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if values.get("url") != client.url or fields["checksum"] not in ("crc64nvme", "crc32c", "none"):
        return None
    return Capabilities(**fields)


def _keep(client: Client, store: Store | None, capabilities: Capabilities) -> None:
    """Write it beside the store; who may not write there asks again next time."""
    if store is None:
        return
    path = _path(client, store)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(exist_ok=True)
        draft.write_text(json.dumps({"url": client.url, **dataclasses.asdict(capabilities)}, indent=1) + "\n")
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
