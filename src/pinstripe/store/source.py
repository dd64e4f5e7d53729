"""Source: the contract by which a stub's bytes come from elsewhere. `pinstripe.s3` will implement it."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Source"]


class Source(Protocol):
    """Ranges of one remote object, all of one version of it.

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
        """
