"""Uploads under way: multipart uploads that survive their process, written down so that the next run resumes them, or a collector aborts them.

::

    STORE/.pinstripe/s3/uploads/KEY.TOKEN.json
    STORE/.pinstripe/s3/uploads/KEY.UPLOAD.RANK.parts

One ``json`` file an upload: KEY is a checksum of bucket and key, TOKEN random. It is there before the upload is (then without the service's id), and
goes when the upload is completed or aborted. Its writer is alive or dead as a transaction's is; whoever resumes a dead one's renames its file first.

``parts``: what each rank sent, a line a part, for services that list parts without their checksums. UPLOAD is a checksum of the service's id. A part
is taken for sent only if the service lists it with that very ETag, and the whole object's checksum is compared in the end all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RemoteError
from ..format.manifest import Writer
from ..format.remote import Endpoint
from ..kernels import crc64
from ..store.fresh import fsync_directory
from ..store.heartbeat import heartbeat
from ..store.store import Store, make_shard
from ..store.writer_identity import is_alive, this_writer
from .objects import Part

if TYPE_CHECKING:
    from .client import Client

__all__ = [
    "Left",
    "Record",
    "Upload",
    "abort",
    "begin",
    "gc_uploads",
    "note_part",
    "parts_there",
    "take_over",
    "uploads_of",
]

logger = logging.getLogger("pinstripe")
_SUFFIX = ".json"
_PARTS = ".parts"
_BYTES_MOST = 1 << 20
_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)
_CLOCK_SKEW_NS = 15 * 60 * 10**9  # a service refuses requests whose clock is further off
_SMALL_SKEW_NS = 60 * 10**9  # by which the clock of a host in order may differ from the service's


@dataclasses.dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload, and what it is of.

    Attributes
    ----------
    bucket, key : str
    endpoint : Endpoint
    path : str
        Of the file, relative to the store.
    tx : str
        Transaction of the generation that is uploaded, in hex; the file's id for generation 0.
    size : int
        Bytes of all.
    crc64 : int or None
        CRC-64/NVME of all, where it is known beforehand.
    part_bytes : int
        Bytes of each part but the last.
    id : str
        The service's; "" = it was about to be created.
    begun_ns : int
        Nanoseconds since 1970 by this host's clock.
    """

    bucket: str
    key: str
    endpoint: Endpoint
    path: str
    tx: str
    size: int
    crc64: int | None
    part_bytes: int
    id: str = ""
    begun_ns: int = 0

    @property
    def url(self) -> str:
        """``s3://bucket/key``, for people."""
        return f"s3://{self.bucket}/{self.key}"

    def is_same_content(self, other: Upload) -> bool:
        """Tell whether both bring the same bytes to the same key."""
        return all(getattr(self, name) == getattr(other, name) for name in ("bucket", "key", "tx", "size", "crc64"))


class Record:
    """The file of one upload.

    Attributes
    ----------
    path : str
        "" where the store cannot be written to: such an upload cannot be resumed.
    upload : Upload
    writer : Writer
    restart : int
        How often the batch system had restarted the writer's job; -1 = the writer left it to the next run.
    """

    def __init__(self, path: str, upload: Upload, writer: Writer, restart: int = 0) -> None:
        self.path, self.upload, self.writer, self.restart = path, upload, writer, restart
        self._is_over = False

    @property
    def is_alive(self) -> bool:
        """Whether its writer may still be at it. A job that the batch system has restarted is not."""
        same_job = bool(self.writer.job) and self.writer.job == os.environ.get("SLURM_JOB_ID", "")
        if self.restart < 0 or (same_job and self.restart < _restart()):
            return False
        return is_alive(self.writer, self.path)

    def note_id(self, id: str) -> None:
        """Write down, durably, the id that the service gave."""
        self.upload = dataclasses.replace(self.upload, id=id)
        if self.path:
            _write(self.path, self.upload)

    def remove(self) -> None:
        """Forget it: the upload is completed or aborted."""
        self._is_over = True
        if not self.path:
            return
        heartbeat.drop(self.path)
        for path in (*_parts_files(self.path, self.upload), self.path, f"{self.path}.seen"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def leave(self) -> None:
        """Leave it to the next run, if it was not removed."""
        if self._is_over or not self.path:
            return
        heartbeat.drop(self.path)
        with contextlib.suppress(OSError):  # then the next run waits until this process is dead
            _write(self.path, self.upload, restart=-1)


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """An upload that `gc_uploads` found.

    Attributes
    ----------
    upload : Upload
    is_alive : bool
        Whether somebody may still be at it: it was left alone.
    aborted : bool
    problem : str
        Why it could not be aborted; "" otherwise.
    """

    upload: Upload
    is_alive: bool = False
    aborted: bool = False
    problem: str = ""

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        upload = self.upload
        return {
            "bucket": upload.bucket,
            "key": upload.key,
            "upload": upload.id,
            "path": upload.path,
            "size": upload.size,
            "begun_ns": upload.begun_ns,
            "alive": self.is_alive,
            "aborted": self.aborted,
            "problem": self.problem,
        }


def begin(store: Store, upload: Upload) -> Record:
    """Write down, durably, that an upload is about to be created; this process is its writer until `Record.remove` or `Record.leave`."""
    upload = dataclasses.replace(upload, begun_ns=time.time_ns())
    try:
        meta = os.path.join(store.meta, "s3")
        make_shard(meta, store.shard_mode)
        directory = os.path.join(meta, "uploads")
        make_shard(directory, store.shard_mode)
        path = os.path.join(directory, _name(upload.bucket, upload.key))
        writer = _write(path, upload)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        return Record("", upload, this_writer(), _restart())
    heartbeat.add(path)
    return Record(path, upload, writer, _restart())


def uploads_of(store: Store, bucket: str = "", key: str = "") -> Iterator[Record]:
    """Yield the uploads that are written down, of all buckets or those to one key. What cannot be read is passed over."""
    return _records(os.path.join(store.meta, "s3", "uploads"), bucket, key)


def _records(directory: str, bucket: str, key: str) -> Iterator[Record]:
    prefix = f"{_hash(bucket, key)}." if bucket else ""
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = sorted(os.listdir(directory))
    for name in names:
        if not name.endswith(_SUFFIX) or not name.startswith(prefix):
            continue
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            yield _read(path)


def take_over(store: Store, bucket: str, key: str) -> Iterator[Record]:
    """Yield the uploads to a key that dead writers left, each now this process's."""
    for record in uploads_of(store, bucket, key):
        if record.is_alive:
            continue
        path = os.path.join(os.path.dirname(record.path), _name(bucket, key))
        try:
            os.rename(record.path, path)
        except FileNotFoundError:  # another was first
            continue
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{record.path}.seen")
        heartbeat.add(path)
        yield Record(path, record.upload, _write(path, record.upload), _restart())


def gc_uploads(
    store: Store, *, client_of: Callable[[Endpoint], Client] | None = None, dry_run: bool = False
) -> list[Left]:
    """List the multipart uploads of this store, and abort those that a killed run left.

    Parameters
    ----------
    client_of : callable, optional
        Who speaks to an endpoint; ``Client.of`` if None.
    dry_run : bool
        Abort nothing.
    """
    if client_of is None:
        from .client import Client  # here, for it imports boto3

        client_of = Client.of
    found: list[Left] = []
    for record in uploads_of(store):
        if record.is_alive or dry_run:
            found.append(Left(record.upload, is_alive=record.is_alive))
            continue
        for taken in take_over(store, record.upload.bucket, record.upload.key):
            notes: list[str] = []
            try:
                abort(client_of(taken.upload.endpoint), taken, note=notes.append)
            except RemoteError as error:
                taken.leave()
                notes.append(error.strerror or str(error))
            found.append(Left(taken.upload, aborted=not notes, problem="; ".join(notes)))
    return found


def abort(client: Client, record: Record, note: Callable[[str], None] = logger.warning) -> None:
    """End an upload and forget it.

    One whose id was never written down is looked for in the bucket, where others may upload to the same key. It has no parts, and began no
    sooner than its record did. Where that is not just one, all are left, and so is the record.

    Parameters
    ----------
    note : callable
        Is told what was left.

    Raises
    ------
    RemoteError
        The bucket cannot be asked, or refuses; the record stays.
    """
    upload = record.upload
    ids = [upload.id]
    if not upload.id:
        found = _nameless(client, record)
        if found is None:
            record.leave()
            note(
                f"{upload.url}: a run was killed as it began an upload, and which of those under way there is its own cannot be told: "
                "they are left. Abort the upload by hand if nobody else's it is, or run `pinstripe gc --uploads` when they are over"
            )
            return
        ids = found
    for id in ids:
        try:
            client.abort_upload(upload.bucket, upload.key, id)
        except RemoteError as error:
            if error.status != 404:  # it is gone already
                raise
    record.remove()


def _nameless(client: Client, record: Record) -> list[str] | None:
    """Find the upload whose id was not written down: none, or one; None: which one cannot be told."""
    upload = record.upload
    others = [
        one for one in _records(os.path.dirname(record.path), upload.bucket, upload.key) if one.path != record.path
    ]
    named = {one.upload.id for one in others if one.upload.id}
    found = [
        (id, initiated_ns)
        for key, id, initiated_ns in client.list_uploads(upload.bucket, upload.key)
        if key == upload.key
        and id not in named
        and abs(initiated_ns - upload.begun_ns) <= _CLOCK_SKEW_NS
        and _has_no_parts(client, upload, id)
    ]
    if not found:
        return []
    is_alone = len(found) == 1 and not any(one.is_alive for one in others if not one.upload.id)
    return [found[0][0]] if is_alone and found[0][1] >= upload.begun_ns - _SMALL_SKEW_NS else None


def _has_no_parts(client: Client, upload: Upload, id: str) -> bool:
    try:
        return not client.list_parts(upload.bucket, upload.key, id)
    except RemoteError as error:
        if error.status == 404:  # it is gone
            return False
        raise


def note_part(store: Store, bucket: str, key: str, id: str, rank: int, part: Part) -> None:
    """Write down that a rank sent a part. A hint, and not durable."""
    path = os.path.join(store.meta, "s3", "uploads", f"{_hash(bucket, key)}.{_hash(id)}.{rank}{_PARTS}")
    line = json.dumps(dataclasses.astuple(part), separators=(",", ":")).encode() + b"\n"
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def parts_there(client: Client, record: Record) -> dict[int, Part] | None:
    """List the parts that were sent, and of which the CRC-64 is known; None: the upload is gone.

    Raises
    ------
    RemoteError
    """
    upload = record.upload
    try:
        listed = client.list_parts(upload.bucket, upload.key, upload.id)
    except RemoteError as error:
        if error.status == 404:
            return None
        raise
    noted: dict[tuple[int, str, int], Part] = {}
    for path in _parts_files(record.path, upload):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):  # a torn line
                    part = Part(*json.loads(line))
                    noted[part.number, part.etag, part.size] = part
    found = {}
    for part in listed:
        known = part if part.crc64 is not None else noted.get((part.number, part.etag, part.size))
        length = min(upload.part_bytes, upload.size - (part.number - 1) * upload.part_bytes)
        if known is not None and known.crc64 is not None and part.size == length:
            found[part.number] = known
    return found


def _parts_files(path: str, upload: Upload) -> list[str]:
    directory = os.path.dirname(path)
    prefix = f"{_hash(upload.bucket, upload.key)}.{_hash(upload.id)}."
    with contextlib.suppress(FileNotFoundError):
        return [
            os.path.join(directory, name)
            for name in os.listdir(directory)
            if name.startswith(prefix) and name.endswith(_PARTS)
        ]
    return []


def _restart() -> int:
    text = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(text) if text.isdecimal() else 0


def _hash(*texts: str) -> str:
    return f"{crc64(json.dumps(texts).encode()):016x}"


def _name(bucket: str, key: str) -> str:
    return f"{_hash(bucket, key)}.{secrets.token_hex(8)}{_SUFFIX}"


def _write(path: str, upload: Upload, restart: int | None = None) -> Writer:
    writer = this_writer()
    values = dataclasses.asdict(upload) | {"endpoint": upload.endpoint.to_values()}
    values |= {"writer": dataclasses.asdict(writer), "restart": _restart() if restart is None else restart}
    aside = f"{path}.{secrets.token_hex(4)}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(json.dumps(values, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(fd)
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise
    fsync_directory(os.path.dirname(path))
    return writer


def _read(path: str) -> Record:
    with open(path, "rb") as file:
        values = json.loads(file.read(_BYTES_MOST))
    writer, restart = Writer(**values.pop("writer")), int(values.pop("restart", 0))
    endpoint = Endpoint.from_values(values.pop("endpoint"))
    names = {field.name for field in dataclasses.fields(Upload)}
    known = {name: value for name, value in values.items() if name in names}
    return Record(path, Upload(endpoint=endpoint, **known), writer, restart)
