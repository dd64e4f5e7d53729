"""Listing a prefix in parallel: first by delimiter, to shards; then a shard that goes on and on is split where its keys may be.

Splitting needs an endpoint that lists in order. Which keys there are is not known before they are listed, so the split is a guess, in
the middle of what may still come, among the characters that were seen; a guess too high costs one request that finds nothing.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..store.team import SERIAL, Team
from ..store.telling import tell_json
from ..store.work_queue import WorkQueue
from .events import Events
from .objects import ObjectInfo

if TYPE_CHECKING:
    from ..store.store import Store
    from .client import Client

__all__ = ["Shard", "list_objects", "midpoint"]

THREADS = 8
"""Requests of one rank at once."""

_SHARDS_A_RANK = 4
_LEVELS_MOST = 8
_PAGES_OF_LEVEL = 2  # a directory of more names than these pages hold is listed as a shard from there on
_PAGES_TO_SPLIT = 2
_LAST = "\U0010ffff"
_WIDTH = 8


@dataclasses.dataclass(slots=True)
class Shard:
    """Keys that begin with `prefix`, from behind `after` up to `last`.

    Attributes
    ----------
    prefix : str
    after : str
        Not itself among them; "" = from the first on.
    last : str
        Itself among them; "" = to the end.
    """

    prefix: str
    after: str = ""
    last: str = ""


def midpoint(low: str, high: str, alphabet: str) -> str:
    """Return a string between two, about in the middle of those made of some characters; "" where there is none. Pure.

    Parameters
    ----------
    low, high : str
        ``low < high``; neither is the result.
    alphabet : str
        Sorted, without repeats.
    """
    if len(alphabet) < 2:
        return ""
    pairs = enumerate(zip(low, high, strict=False))
    common = next((place for place, (one, other) in pairs if one != other), min(len(low), len(high)))
    base = len(alphabet)

    def number(text: str) -> int:
        value = 0
        for place in range(common, common + _WIDTH):
            digit = bisect.bisect_left(alphabet, text[place]) if place < len(text) else 0
            value = value * base + min(digit, base - 1)
        return value

    middle = (number(low) + number(high) + 1) // 2
    digits: list[str] = []
    for _ in range(_WIDTH):
        middle, digit = divmod(middle, base)
        digits.append(alphabet[digit])
    found = low[:common] + "".join(reversed(digits))
    return found if low < found < high else ""


def list_objects(
    client: Client,
    bucket: str,
    prefix: str,
    *,
    team: Team = SERIAL,
    store: Store | None = None,
    events: Events | None = None,
) -> list[ObjectInfo]:
    """Collective. List all objects whose keys begin with `prefix`; the first rank gets them, sorted by key, the others an empty list.

    Parameters
    ----------
    store : Store or None
        By whose directory ranks share the work evenly; without one each gets its part beforehand.

    Raises
    ------
    RemoteError
        The same on every rank.
    """
    found: list[ObjectInfo] = []
    shards: list[Shard] = []
    error: BaseException | None = None
    if team.rank == 0:
        try:
            found, shards = _fan_out(client, bucket, prefix, max(THREADS, _SHARDS_A_RANK * team.size))
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
    team.agree(error)
    if team.size > 1:
        shards = [Shard(*values) for values in tell_json(team, [dataclasses.astuple(shard) for shard in shards])]
    with WorkQueue(store, team, len(shards)) as queue:
        found += _Lister(client, bucket, (shards[number] for number in queue), events or Events()).run()
    if team.size > 1:
        gathered = team.gather(np.frombuffer(_encode(found), np.uint8))
        found = [] if gathered is None else list(itertools.chain.from_iterable(_decode(part) for part in gathered))
    found.sort(key=lambda one: one.key)
    return found


def _fan_out(client: Client, bucket: str, prefix: str, wanted: int) -> tuple[list[ObjectInfo], list[Shard]]:
    """List level by level until there are enough shards; return what was found on the way, and the shards that are left."""
    found: list[ObjectInfo] = []
    shards: list[Shard] = []
    level = [prefix]
    is_ordered = client.capabilities.ordered_list

    def look(into: str) -> tuple[list[ObjectInfo], list[str], Shard | None]:
        objects: list[ObjectInfo] = []
        prefixes: list[str] = []
        pages = client.list_pages(bucket, into, delimiter="/")
        for count, page in enumerate(pages, 1):
            objects += page.objects
            prefixes += page.prefixes
            if is_ordered and count == _PAGES_OF_LEVEL:
                last = max([one.key for one in page.objects[-1:]] + [name + _LAST for name in page.prefixes[-1:]])
                return objects, prefixes, Shard(into, last)
        return objects, prefixes, None

    with ThreadPoolExecutor(THREADS, "pinstripe-list") as pool:
        for _ in range(_LEVELS_MOST):
            if not level or len(level) + len(shards) >= wanted:
                break
            below: list[str] = []
            for objects, prefixes, rest in pool.map(look, level):
                found += objects
                below += prefixes
                if rest is not None:
                    shards.append(rest)
            level = below
    return found, shards + [Shard(name) for name in level]


class _Lister:
    """Lists shards with several threads; a thread without a shard splits another's."""

    def __init__(self, client: Client, bucket: str, shards: Iterator[Shard], events: Events) -> None:
        self._client, self._bucket, self._shards, self._events = client, bucket, shards, events
        self._splits = client.capabilities.ordered_list
        self._change = threading.Condition()
        self._drawing = threading.Lock()
        self._active: list[_Listed] = []
        self._found: list[ObjectInfo] = []
        self._error: BaseException | None = None
        self._characters: set[str] = set()

    def run(self) -> list[ObjectInfo]:
        """List all of them.

        Raises
        ------
        RemoteError
        """
        with ThreadPoolExecutor(THREADS, "pinstripe-list") as pool:
            working = [pool.submit(self._work) for _ in range(THREADS)]
            try:
                for one in working:
                    one.result()
            except BaseException as error:  # an interrupt: the threads end with their page
                self._error = self._error or error
                raise
        if self._error is not None:
            raise self._error
        return self._found

    def _work(self) -> None:
        try:
            while self._error is None and (shard := self._next()) is not None:
                self._list(shard)
        except BaseException as error:
            with self._change:
                self._error = self._error or error
                self._change.notify_all()

    def _next(self) -> _Listed | None:
        with self._drawing:
            fresh = next(self._shards, None)
        with self._change:
            if fresh is not None:
                return self._begin(fresh)
            while self._error is None and self._active:
                if self._splits:
                    for longest in sorted(self._active, key=lambda one: -one.pages):
                        rest = longest.split("".join(sorted(self._characters)))
                        if rest is not None:
                            return self._begin(rest)
                self._change.wait()
            return None

    def _begin(self, shard: Shard) -> _Listed:
        listed = _Listed(shard)
        self._active.append(listed)
        return listed

    def _list(self, listed: _Listed) -> None:
        try:
            shard = listed.shard
            for page in self._client.list_pages(self._bucket, shard.prefix, start_after=shard.after):
                objects: Iterable[ObjectInfo] = page.objects
                with self._change:
                    last = shard.last
                    if last and page.objects and page.objects[-1].key > last:
                        objects = [one for one in page.objects if one.key <= last]
                    before = len(self._found)
                    self._found += objects
                    if page.objects:
                        listed.turned(page.objects[-1].key)
                        for one in (page.objects[0], page.objects[len(page.objects) // 2], page.objects[-1]):
                            self._characters.update(one.key[len(shard.prefix) :])
                    self._change.notify_all()
                    self._events.advance(files=len(self._found) - before, count=False)
                    if self._error is not None or (last and listed.at >= last):
                        return
        finally:
            with self._change:
                self._active.remove(listed)
                self._change.notify_all()


class _Listed:
    """A shard being listed."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.at = shard.after
        self.pages = 0

    def turned(self, key: str) -> None:
        """Count a page that ended with a key."""
        self.at = key
        self.pages += 1

    def split(self, alphabet: str) -> Shard | None:
        """Give away the upper half of what may still come."""
        if self.pages < _PAGES_TO_SPLIT:
            return None
        last = self.shard.last or self.shard.prefix + _LAST
        middle = midpoint(self.at, last, alphabet)
        if not middle:
            return None
        rest = Shard(self.shard.prefix, middle, self.shard.last)
        self.shard.last = middle
        self.pages = 0
        return rest


_FIELDS = ("key", "size", "etag", "modified_ns", "version", "storage_class", "available")


def _encode(objects: list[ObjectInfo]) -> bytes:
    return json.dumps([[getattr(one, name) for name in _FIELDS] for one in objects]).encode()


def _decode(data: Any) -> Iterator[ObjectInfo]:
    for values in json.loads(data.tobytes()):
        yield ObjectInfo(**dict(zip(_FIELDS, values, strict=True)))
