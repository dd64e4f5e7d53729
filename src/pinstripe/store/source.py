"""Source: the contract by which a stub's bytes come from elsewhere; and the one place that knows who keeps it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from ..errors import UnsupportedError
from ..format.remote import Remote

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """Ranges of one remote object, all of one version of it. Thread-safe.

    Attributes
    ----------
    size : int
        Bytes of the object.
    """

    @property
    def size(self) -> int: ...

    def fetch_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the object's bytes from `offset` on.

        Raises
        ------
        StaleError
            The object is no longer the version that this source stands for; no mixed bytes are ever given.
        RemoteError
            The bucket cannot be asked, or refuses.
        """


def open_source(remote: Remote, store: Store) -> Source:
    """Open the bytes of a stub. Here, and only here, reading a file imports `pinstripe.s3`: a program that reads no stub needs no boto3.

    Raises
    ------
    UnsupportedError
        boto3 is not installed.
    """
    try:
        found = importlib.import_module("pinstripe.s3.source")
    except ImportError as error:
        raise UnsupportedError(
            f"the file's bytes lie in {remote.url}, and reading from there needs boto3 ({error}): "
            "install it with `pip install 'pinstripe[s3]'`"
        ) from error
    return cast(Source, found.open_source(remote, store))
