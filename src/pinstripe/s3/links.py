"""Links: directories that are tied to a prefix of a bucket. Making, ending, listing and finding them.

A link is an entry of the superblock, so making one is atomic, durable, and seen by every process that opens the store next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import ArgumentError, NamespaceError
from ..format.remote import Endpoint, Remote
from ..format.superblock import EVENTS, LinkEntry, Superblock
from ..store import namespace
from ..store.place import AnyPath, locate
from ..store.state import state_of
from ..store.store import META, Store
from .client import Client
from .conflicts import CHOICES, Policy
from .metadata import Defaults
from .names import is_reserved, key_of, path_of, prefix_of, split_url

__all__ = ["Link", "LinkOptions", "endpoint_for", "link", "link_of", "links", "unlink"]

_STORE_SIGN = f"{META}/superblock/"


@dataclasses.dataclass(frozen=True, slots=True)
class LinkOptions:
    """Settings of one link.

    Attributes
    ----------
    high, low : float
        Per cent of the targets' space: above `high`, files of this link are released, oldest access first, until `low` is
        reached. 0 = never.
    uid, gid : int
        Owner of what comes from objects that state none; -1 = whoever imports.
    file_mode, directory_mode : int
        Permissions likewise.
    quiet_s : float
        How long a file must stay unchanged before the agent exports it.
    poll_s : float
        How often the agent lists the bucket.
    max_dirty : int
        Bytes that wait for export before writers are held back; 0 = no bound.
    if_conflict : str
        What is done where file and object both changed: one of `pinstripe.s3.conflicts.CHOICES`.
    if_deleted : str
        What is done about a changed file whose object is gone: ``conflict`` or ``recreate``.
    """

    high: float = 0.0
    low: float = 0.0
    uid: int = -1
    gid: int = -1
    file_mode: int = 0o644
    directory_mode: int = 0o755
    quiet_s: float = 30.0
    poll_s: float = 60.0
    max_dirty: int = 0
    if_conflict: str = "fail"
    if_deleted: str = "conflict"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 100:
            raise ArgumentError(
                f"high={self.high}, low={self.low}: choose per cents, the low one not above the high one"
            )
        if self.high and not self.low:
            raise ArgumentError(f"high={self.high} without low: say down to where files are released")
        for name in ("quiet_s", "poll_s", "max_dirty"):
            if getattr(self, name) < 0:
                raise ArgumentError(f"{name}={getattr(self, name)!r}: must be at least 0")
        if self.if_conflict not in CHOICES:
            raise ArgumentError(f"if_conflict={self.if_conflict!r}: choose one of {', '.join(CHOICES)}")
        Policy(if_deleted=self.if_deleted)
        _ = self.defaults

    @property
    def defaults(self) -> Defaults:
        """What objects get that state no attributes."""
        return Defaults(self.uid, self.gid, self.file_mode, self.directory_mode)

    def to_values(self) -> dict[str, Any]:
        """Return what differs from the default, for the superblock."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields if getattr(self, field.name) != field.default}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> LinkOptions:
        """Read what `to_values` gave; what this version does not know is ignored.

        Raises
        ------
        ArgumentError
            A value is of another kind, or cannot be.
        """
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        for name, value in known.items():
            wanted = type(getattr(cls(), name))
            if type(value) is not wanted and not (wanted is float and type(value) is int):
                raise ArgumentError(f"link option {name}={value!r} is of the wrong kind")
        return cls(**known)


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A link of an opened store.

    Attributes
    ----------
    store : Store
    entry : LinkEntry
        What the superblock says.
    """

    store: Store
    entry: LinkEntry

    @property
    def id(self) -> bytes:
        """16 bytes; stays when the link's settings are changed."""
        return self.entry.id

    @property
    def directory(self) -> str:
        """Absolute path."""
        return os.path.join(self.store.root, self.entry.directory).rstrip("/")

    @property
    def bucket(self) -> str:
        """The bucket's name, or an access point's ARN."""
        return self.entry.bucket

    @property
    def prefix(self) -> str:
        """ "" or with a slash at its end."""
        return self.entry.prefix

    @property
    def url(self) -> str:
        """``s3://bucket/prefix``, for people."""
        return self.entry.url

    @property
    def import_(self) -> tuple[str, ...]:
        """What is carried over from the bucket."""
        return self.entry.import_

    @property
    def export(self) -> tuple[str, ...]:
        """What is carried over to the bucket."""
        return self.entry.export

    @property
    def endpoint(self) -> Endpoint:
        """Where the bucket lies."""
        return self.entry.endpoint

    @property
    def options(self) -> LinkOptions:
        """The settings."""
        return LinkOptions.from_values(self.entry.options)

    @property
    def defaults(self) -> Defaults:
        """What objects get that state no attributes."""
        return self.options.defaults

    @property
    def policy(self) -> Policy:
        """What `pinstripe.s3.conflicts.decide` needs."""
        options = self.options
        return Policy(self.import_, self.export, options.if_conflict, options.if_deleted)

    def key_of(self, path: str, *, is_directory: bool = False) -> str:
        """Return the key of an absolute path in the linked directory."""
        below = _below(self.directory, path)
        if below is None:
            raise ArgumentError(f"{path} does not lie in {self.directory}")
        return key_of(below, self.prefix, is_directory=is_directory)

    def path_of(self, key: str) -> str:
        """Return the absolute path that a key stands for; errors as those of `pinstripe.s3.names.path_of`."""
        return os.path.join(self.directory, path_of(key, self.prefix)).rstrip("/")

    def to_values(self) -> dict[str, Any]:
        """Return what ``pinstripe link --json`` says."""
        endpoint = {field.name: getattr(self.endpoint, field.name) for field in dataclasses.fields(Endpoint)}
        return {
            "id": self.id.hex(),
            "directory": self.directory,
            "url": self.url,
            "bucket": self.bucket,
            "prefix": self.prefix,
            "import": list(self.import_),
            "export": list(self.export),
            "endpoint": endpoint,
            "options": dataclasses.asdict(self.options),
        }


def link(
    directory: AnyPath,
    url: str,
    *,
    import_: Iterable[str] = (),
    export: Iterable[str] = (),
    endpoint: Endpoint | None = None,
    options: LinkOptions | None = None,
    client: Client | None = None,
) -> Link:
    """Tie a directory of a store to ``s3://bucket/prefix``. Imports nothing yet.

    Atomic and durable. The bucket is asked first, so that a wrong name or a missing right is told now; nothing is written to
    it. The directory is made if it is missing. The same directory with the same address again changes the link's settings.
    A link leads to where it led when it was made: without a URL of its own it takes the one of the environment
    (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``) along.

    Parameters
    ----------
    directory : path
        In a store; its own directory for the whole of it.
    url : str
    import_, export : iterable of str
        Of ``new``, ``changed`` and ``deleted``.
    endpoint : Endpoint or None
    options : LinkOptions or None
    client : Client or None
        Who asks the bucket; the endpoint's own if None.

    Raises
    ------
    ArgumentError
        The address cannot be, or the link overlaps another: their directories, or their prefixes, are nested.
    NamespaceError
        The prefix is a store's own, or lies in one.
    RemoteError
        The bucket is not there or may not be listed.
    NotADirectoryError, PermissionError, OSError
        As the directory's making and the superblock's revision give them.
    """
    bucket, key = split_url(url)
    endpoint = _with_url(endpoint or Endpoint())
    import_, export = _events("import", import_), _events("export", export)
    if endpoint.unsigned and export:
        raise ArgumentError("a link that exports needs credentials: leave out --unsigned or --export")
    store = Store.find(directory)
    store.check_writable()
    entry = LinkEntry(
        id=secrets.token_bytes(16),
        directory=_relative(store, os.path.realpath(os.fsdecode(directory))),
        bucket=bucket,
        prefix=prefix_of(key),
        import_=import_,
        export=export,
        endpoint=endpoint,
        options=(options or LinkOptions()).to_values(),
    )
    _with_link(store.superblock, entry)
    _ask(client or _client(endpoint), entry)
    with _made(directory):
        place = locate(directory)
        if not os.path.isdir(place.path) or _relative(store, place.path) != entry.directory:
            raise NamespaceError("not the directory that it was a moment ago: try again", path=place.path)
        made = store.revise(lambda present: _with_link(present, entry))
    (entry,) = (known for known in made.links if _is_same_place(known, entry))
    return Link(store, entry)


def unlink(directory: AnyPath, *, delete_data: bool = False) -> Link:
    """End the link of a directory; atomic and durable. What is in the directory stays, and stubs can still be read.

    Parameters
    ----------
    directory : path
        The linked directory itself.
    delete_data : bool
        Also remove from the store what the bucket holds: files that are archived and unchanged since, and directories that are
        empty then. Whatever else is there stays.

    Returns
    -------
    Link
        The one that was.

    Raises
    ------
    ArgumentError
        The directory is not a linked one.
    """
    place = locate(directory)
    store = place.store
    store.check_writable()
    relative = _relative(store, place.path)
    found = next((known for known in links(store) if known.entry.directory == relative), None)
    if found is None:
        above = link_of(store, place.path)
        hint = f": the linked directory is {above.directory}" if above is not None else ""
        raise ArgumentError(f"{place.path} is not linked{hint}")
    ended = found.id
    store.revise(
        lambda present: dataclasses.replace(present, links=tuple(one for one in present.links if one.id != ended))
    )
    if delete_data:
        _remove_archived(found)
    return found


def links(store: Store) -> list[Link]:
    """Return the links of a store, by directory."""
    return [Link(store, entry) for entry in sorted(store.superblock.links, key=lambda entry: entry.directory)]


def link_of(store: Store, path: str) -> Link | None:
    """Return the link that a path lies in: of the directory itself, or one above it.

    Parameters
    ----------
    store : Store
    path : str
        Absolute and real, as `Place.path` is.
    """
    return next((known for known in links(store) if _below(known.directory, path) is not None), None)


def endpoint_for(store: Store, remote: Remote) -> Endpoint:
    """Return how to reach a remote's bucket: as the link says whose prefix it lies under, else as it was made.

    So a link that is given another profile or another way to the same service holds for stubs that were made before.
    """
    inside = [entry for entry in store.superblock.links if _holds(entry, remote)]
    same = [entry for entry in inside if entry.endpoint.url.rstrip("/") == remote.endpoint.url.rstrip("/")]
    return (same or inside)[0].endpoint if inside else remote.endpoint


def _holds(entry: LinkEntry, remote: Remote) -> bool:
    urls = {entry.endpoint.url.rstrip("/"), remote.endpoint.url.rstrip("/")}
    is_one_service = len(urls) == 1 or "" in urls
    return entry.bucket == remote.bucket and remote.key.startswith(entry.prefix) and is_one_service


def _with_link(present: Superblock, entry: LinkEntry) -> Superblock:
    """Return the superblock with this link; one of the same place is replaced and keeps its id."""
    kept: list[LinkEntry] = []
    for known in present.links:
        if _is_same_place(known, entry):
            entry = dataclasses.replace(entry, id=known.id)
            continue
        where = known.overlaps(entry)
        if where:
            what = {"directory": "its directory", "bucket": "its part of the bucket"}[where]
            name = known.directory or "the store's own directory"
            raise ArgumentError(
                f"overlaps the link of {name} to {known.url} ({what} is the same, or one lies in the other): "
                "unlink that one first, or choose a place beside it"
            )
        kept.append(known)
    return dataclasses.replace(present, links=(*kept, entry))


def _is_same_place(one: LinkEntry, other: LinkEntry) -> bool:
    return (one.directory, one.bucket, one.prefix) == (other.directory, other.bucket, other.prefix)


def _ask(client: Client, entry: LinkEntry) -> None:
    """Ask the bucket once for a page of the prefix, and whether the prefix is a store's."""
    if is_reserved(entry.prefix):
        raise NamespaceError(f"{entry.url} holds {META}: what lies there is a store's own, and no plain objects")
    next(iter(client.list_pages(entry.bucket, entry.prefix, delimiter="/")), None)
    # A store's names are inodes, not data: neither its own prefix nor one below it is imported.
    deepest = entry.prefix.count("/")
    for depth in range(deepest, -1, -1):
        above = "".join(f"{name}/" for name in entry.prefix.split("/")[:depth])
        try:
            page = next(iter(client.list_pages(entry.bucket, f"{above}{_STORE_SIGN}", delimiter="/")), None)
        except OSError as error:
            if depth == deepest or error.errno != errno.EACCES:
                raise
            return  # who may list this prefix alone need not be able to look above it
        if page is not None and page.objects:
            raise NamespaceError(
                f"s3://{entry.bucket}/{above} is a store itself ({_STORE_SIGN} lies there): its names are not plain objects, "
                f"so {entry.url} cannot be linked"
            )


def _client(endpoint: Endpoint) -> Client:
    return Client.of(endpoint)


@contextlib.contextmanager
def _made(directory: AnyPath) -> Iterator[None]:
    """Make the directory, if it is missing; take it away again if the block fails."""
    was_there = os.path.lexists(directory)
    if not os.path.isdir(directory):  # the store's own directory is there, and lies in no store
        namespace.makedirs(directory, exist_ok=True)
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                place = locate(directory)
                if link_of(place.store, place.path) is None:  # another may have linked it meanwhile
                    namespace.rmdir(directory)
        raise


def _remove_archived(ended: Link) -> None:
    for top, directories, names in namespace.walk(ended.directory, topdown=False):
        for name in names:
            path = os.path.join(top, name)
            if namespace.isfile(path) and not os.path.islink(path):
                state = state_of(path)
                if state.archived and not state.lost:
                    namespace.remove(path)
        for name in directories:
            with contextlib.suppress(OSError):  # not empty
                namespace.rmdir(os.path.join(top, name))


def _with_url(endpoint: Endpoint) -> Endpoint:
    ignored = os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    given = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return endpoint if endpoint.url or ignored else dataclasses.replace(endpoint, url=given)


def _events(name: str, words: Iterable[str]) -> tuple[str, ...]:
    given = set(words)
    if not given <= set(EVENTS):
        raise ArgumentError(f"{name}={','.join(sorted(given))}: choose of {', '.join(EVENTS)}")
    return tuple(word for word in EVENTS if word in given)


def _relative(store: Store, path: str) -> str:
    below = _below(store.root, path)
    if below is None:
        raise ArgumentError(f"{path} does not lie in the store {store.root}")
    return below


def _below(directory: str, path: str) -> str | None:
    """Return `path` relative to `directory`; "" for itself, None if it does not lie there."""
    if path == directory:
        return ""
    return path[len(directory) + 1 :] if path.startswith(f"{directory}/") else None
