"""Completion: the object that a stage-out writes last. It lists all that was staged out, and its being there says that all of it is.

Its key is ``PREFIX.pinstripe/manifest-JOB.json.gz``: a name of pinstripe's own, which no import takes for a file.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import RemoteError, StaleError
from ..kernels import crc64
from ..store.store import META

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Manifest", "Staged", "job_name", "read_last", "write"]

_VERSION = 1
_BYTES_MOST = 1 << 30
_CONTENT_TYPE = "application/gzip"


@dataclasses.dataclass(frozen=True, slots=True)
class Staged:
    """One name, and the object that holds it.

    Attributes
    ----------
    path : str
        Relative to the directory that was staged out.
    kind : str
        ``file``, ``directory`` or ``symlink``.
    key : str
        "" of a directory that needs no object.
    size : int
        Bytes.
    mode, uid, gid : int
        Permission bits, without set-user-id; owner.
    mtime_ns : int
        Nanoseconds since 1970.
    etag, version : str
    crc64nvme : str
        Of the content, 16 hex digits; "" where it is not known.
    target : str
        What a symlink holds.
    """

    path: str
    kind: str
    key: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    etag: str = ""
    version: str = ""
    crc64nvme: str = ""
    target: str = ""

    def to_values(self) -> dict[str, Any]:
        """Return what differs from the default, for JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What a completion object says.

    Attributes
    ----------
    objects : tuple of Staged
        In the order of their paths.
    key : str
        Of the completion object.
    job, host, store : str
        Who wrote it: the batch system's name of the job, or another that is as good; the store's id in hex.
    written_ns : int
        Nanoseconds since 1970.
    left : dict
        ETags, by their keys, of what earlier stage-outs brought, that is still there, and that the directory no longer has.
    """

    objects: tuple[Staged, ...]
    key: str = ""
    job: str = ""
    host: str = ""
    store: str = ""
    written_ns: int = 0
    left: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def etags(self) -> dict[str, str]:
        """ETag of each key that a stage-out brought."""
        return self.left | {one.key: one.etag for one in self.objects if one.key}

    def encode(self) -> bytes:
        """Return the object's bytes."""
        values = {
            "pinstripe_manifest": _VERSION,
            "job": self.job,
            "host": self.host,
            "store": self.store,
            "written_ns": self.written_ns,
            "objects": [one.to_values() for one in self.objects],
            "left": self.left,
        }
        return gzip.compress(json.dumps(values, separators=(",", ":")).encode(), 6, mtime=0)

    @classmethod
    def decode(cls, data: bytes, key: str = "") -> Manifest:
        """Read what `encode` gave; what this version does not know is ignored.

        Raises
        ------
        ValueError
            It is none, or one of another version.
        """
        try:
            values = json.loads(gzip.decompress(data))
            if values["pinstripe_manifest"] != _VERSION:
                raise ValueError(f"version {values['pinstripe_manifest']!r} of a manifest")
            names = {field.name for field in dataclasses.fields(Staged)}
            objects = tuple(
                Staged(**{name: value for name, value in one.items() if name in names}) for one in values["objects"]
            )
            texts = {name: str(values.get(name, "")) for name in ("job", "host", "store")}
            left = {str(name): str(etag) for name, etag in values.get("left", {}).items()}
            return cls(objects, key, written_ns=int(values.get("written_ns", 0)), left=left, **texts)
        except (OSError, EOFError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no manifest of a stage-out: {error!r}") from None


def job_name() -> str:
    """Return a name for this run: the batch system's, else one of time and process."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return job or f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"


def write(
    client: Client, bucket: str, prefix: str, objects: Iterable[Staged], *, left: dict[str, str], store_id: bytes
) -> Manifest:
    """Write the completion object.

    Raises
    ------
    RemoteError
    """
    job = job_name()
    manifest = Manifest(
        tuple(sorted(objects, key=lambda one: one.path)),
        f"{_start(prefix)}{job}.json.gz",
        job,
        socket.gethostname(),
        store_id.hex(),
        time.time_ns(),
        left,
    )
    data = manifest.encode()
    client.put(bucket, manifest.key, data, crc64=crc64(data), content_type=_CONTENT_TYPE)
    return manifest


def read_last(client: Client, bucket: str, prefix: str) -> Manifest | None:
    """Read the newest completion object below a prefix; None where there is none that can be read.

    Raises
    ------
    RemoteError
        The bucket cannot be asked.
    """
    found = [one for page in client.list_pages(bucket, _start(prefix)) for one in page.objects]
    for one in sorted(found, key=lambda info: (info.modified_ns, info.key), reverse=True):
        try:
            data, _ = client.get(bucket, one.key, etag=one.etag, most=_BYTES_MOST)
            return Manifest.decode(data, one.key)
        except (ValueError, StaleError):
            continue
        except RemoteError as error:
            if error.status not in (404, 412):  # replaced meanwhile
                raise
    return None


def _start(prefix: str) -> str:
    return f"{prefix}{META}/manifest-"
