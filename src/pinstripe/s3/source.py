"""Source: a stub's bytes, from the bucket where they lie."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..format.remote import Remote
from .client import Client
from .links import endpoint_for
from .objects import Signed

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["ObjectSource", "open_source"]


class ObjectSource:
    """Ranges of one version of one object; a `pinstripe.store.source.Source`. Thread-safe.

    Every request carries the version's ETag (``If-Match``), so no two versions are ever mixed: StaleError names bucket, key and
    both ETags.

    Attributes
    ----------
    remote : Remote
        With the endpoint by which it is reached now.
    signed : Signed or None
        By which it is read where there are no credentials.
    """

    def __init__(self, remote: Remote, client: Client, signed: Signed | None = None) -> None:
        self.remote, self.signed, self._client = remote, signed, client

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.remote.size

    def fetch_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the object's bytes from `offset` on.

        Raises
        ------
        StaleError
            The object is another version now, or gone.
        RemoteError
        """
        if len(buffer):
            self._client.get_range(self.remote, offset, buffer, signed=self.signed)


def open_source(remote: Remote, store: Store) -> ObjectSource:
    """Open the bytes of a remote, as a stub of `store` names it. Asks nothing of the bucket yet.

    A link that covers the object says how its bucket is reached; else the stub itself does.
    """
    endpoint = endpoint_for(store, remote)
    return ObjectSource(dataclasses.replace(remote, endpoint=endpoint), Client.of(endpoint))
