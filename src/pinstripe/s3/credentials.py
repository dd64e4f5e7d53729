"""Credentials that only the first rank of a job has: the others move bytes by URLs that it signs, each for one object or one part, for an hour."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ArgumentError
from ..format.remote import Endpoint
from ..store.team import SERIAL, Team
from ..store.telling import tell_json
from .events import Summary
from .objects import Signed

if TYPE_CHECKING:
    from .client import Client

__all__ = ["CREDENTIALS", "SIGNED_S", "Holder", "to_values", "waves"]

CREDENTIALS = ("all", "root")
"""Who has credentials: every rank, or the first alone."""

SIGNED_S = 3600
"""So long does a URL hold. What is to be moved is signed wave by wave."""

_WAVE_BYTES = 8 << 30  # of one rank
_WAVE_REQUESTS = 2048

T = TypeVar("T")


class Holder:
    """Which rank of a team has credentials.

    Parameters
    ----------
    choice : str
        One of `CREDENTIALS`.

    Attributes
    ----------
    signs : bool
        The first rank alone has them, and there are others.
    is_guest : bool
        This rank is one of those, and must ask nobody for credentials.
    """

    def __init__(self, choice: str, team: Team) -> None:
        if choice not in CREDENTIALS:
            raise ArgumentError(f"credentials={choice!r}: choose one of {', '.join(CREDENTIALS)}")
        self._team = team
        self.signs = choice == "root" and team.size > 1
        self.is_guest = self.signs and team.rank > 0

    def client(self, endpoint: Endpoint) -> Client:
        """Return this rank's client. A guest's is good for signed requests only, and never looks for credentials."""
        from .client import Client  # here, for it imports boto3

        return Client.of(dataclasses.replace(endpoint, profile="", unsigned=True) if self.is_guest else endpoint)

    def check(self, endpoint: Endpoint) -> None:
        """See that this rank has the credentials that it will need, before others wait for it.

        Raises
        ------
        RemoteError
            It has none.
        """
        if self._team.size > 1 and not self.is_guest:
            self.client(endpoint).check_credentials()

    def on_first(self, work: Callable[[Team], Summary]) -> Summary:
        """Collective. Let the first rank alone do all of it; every rank gets its summary."""
        found: Summary | None = None
        error: BaseException | None = None
        if self._team.rank == 0:
            try:
                found = work(SERIAL)
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
        self._team.agree(error)
        return Summary(**tell_json(self._team, dataclasses.asdict(found) if found is not None else None))


def to_values(signed: Signed) -> list[Any]:
    """Return what is told to the rank that shall use it: ``Signed(*values)``."""
    return [signed.url, signed.headers]


def waves(work: Sequence[T], length_of: Callable[[T], int], ranks: int) -> Iterator[Sequence[T]]:
    """Cut work in waves that are done long before what was signed for them expires."""
    begin = total = 0
    for number, length in enumerate(itertools.chain(map(length_of, work), [0])):
        is_full = total + length > _WAVE_BYTES * ranks or number - begin >= _WAVE_REQUESTS
        if number > begin and (is_full or number == len(work)):
            yield work[begin:number]
            begin, total = number, 0
        total += length
