"""The agent: keeps the links of a store in step, round by round, until it is told to end. One a store.

It looks through the linked directories often, which costs little, and at the buckets at longer times; a file goes up when it has rested for its
link's quiet time, so that what is written twice in between goes up once. What is not in the buckets yet it writes down, for writers that would
rather wait than outrun it: `wait_for_export`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from ..errors import ArgumentError
from ..store.place import AnyPath, locate
from ..store.store import Store
from .agent_lock import AgentLock, s3_directory
from .events import Events, Summary
from .known import forget_ended
from .links import Link, links
from .syncing import LinkSync, Step

__all__ = ["Agent", "Round", "dirty_bytes", "wait_for_export"]

_LEAST_TICK_S = 1.0
_LOOK_S = 0.5
_BYTES_MOST = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """What the agent did in one round.

    Attributes
    ----------
    number : int
        From 1.
    links : int
        Links that were looked at.
    listed : int
        Links whose buckets were looked at.
    step : Step
        Of all links.
    summary : Summary
    next_s : float
        When the next round begins, in seconds.
    """

    number: int
    links: int
    listed: int
    step: Step
    summary: Summary
    next_s: float

    def to_values(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {
            "round": self.number,
            "links": self.links,
            "listed": self.listed,
            **dataclasses.asdict(self.step),
            "seconds": round(self.summary.seconds, 3),
            "next_s": self.next_s,
            "exit_code": self.summary.exit_code,
        }


class Agent:
    """Looks after all links of a store. Links that are made or changed meanwhile are seen at the next round.

    Parameters
    ----------
    path : path
        In a store.
    interval_s : float, optional
        How often all is looked at, buckets too. None: a bucket as often as its link says (``poll_s``), the store at least so often, and
        twice within the shortest quiet time.
    hints : iterator, optional
        Asked before each round for addresses, ``s3://bucket/key``, that may have changed, an iterable of them; must answer at once. A link that
        one of them lies below is listed in this round. It is a hint only: nothing is missed without it, or if it ends.
    make_events : callable, optional
        Gives the events of each round.
    on_round : callable, optional
        Is told each round.

    Examples
    --------
    >>> Agent("/scratch/store").run()
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        interval_s: float | None = None,
        hints: Iterator[Iterable[str]] | None = None,
        make_events: Callable[[], Events] = Events,
        on_round: Callable[[Round], object] | None = None,
    ) -> None:
        if interval_s is not None and interval_s <= 0:
            raise ArgumentError(f"interval_s={interval_s!r}: must be above 0")
        self._root = locate(path).store.root
        self._interval_s, self._hints = interval_s, hints
        self._make_events, self._on_round = make_events, on_round
        self._stop = threading.Event()
        self._is_working = False
        self._rounds = 0
        self._syncs: dict[bytes, LinkSync] = {}
        self._listed: dict[bytes, float] = {}  # link -> when its bucket was listed, monotonic
        self._pending: dict[bytes, int] = {}  # link -> bytes that were released, and are not freed yet

    def run(self, *, once: bool = False) -> Summary:
        """Work until `stop` is called, or SIGINT or SIGTERM comes; or for one round.

        A signal ends the file that is at work, or leaves it where the next run goes on: no name and no object is ever half of one. Signals are
        seen to only in the main thread.

        Returns
        -------
        Summary
            Of the last round.

        Raises
        ------
        ConflictError
            Another agent, or a `sync`, is at work in this store; or it was taken over.
        NoStoreError
            The store is gone.
        """
        summary = Summary()
        store = Store.find(self._root)
        with self._signals(), AgentLock(store) as lock:
            forget_ended(store)
            try:
                while not self._stop.is_set():
                    self._is_working = True
                    lock.check()
                    done = self._round()
                    self._is_working = False
                    summary = done.summary
                    if self._on_round is not None:
                        self._on_round(done)
                    if once:
                        break
                    self._stop.wait(done.next_s)
            except KeyboardInterrupt:
                if not self._stop.is_set():  # not by a signal that was seen to here
                    raise
                summary = dataclasses.replace(summary, incomplete=True)
            finally:
                self._is_working = False
        return summary

    def stop(self) -> None:
        """Let `run` end after the round that is at work. Any thread may call it."""
        self._stop.set()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, frame: FrameType | None) -> None:
            self.stop()
            if self._is_working:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- one round ---------------------------------------------------------------------------------------------------

    def _round(self) -> Round:
        self._rounds += 1
        store = Store.find(self._root)
        events = self._make_events()
        chosen = links(store)
        hinted = self._hinted(chosen)
        step = Step()
        listed = 0
        self._syncs = {link.id: self._sync_of(link) for link in chosen}
        self._pending = {link.id: self._pending.get(link.id, 0) for link in chosen}
        for link in chosen:
            lists = link.id in hinted or self._is_due(link)
            pending = sum(size for id, size in self._pending.items() if id != link.id)
            done = self._syncs[link.id].round(events, lists=lists, pending_bytes=pending)
            if lists:
                listed += 1
                self._listed[link.id] = time.monotonic()
            self._pending[link.id] = done.pending_bytes
            step.add(done)
        summary = events.finish()
        _write_dirty(store, step.dirty_files, step.dirty_bytes)
        return Round(self._rounds, len(chosen), listed, step, summary, self._tick_s(chosen))

    def _sync_of(self, link: Link) -> LinkSync:
        known = self._syncs.get(link.id)
        if known is None:
            return LinkSync(link)
        known.link = link
        return known

    def _is_due(self, link: Link) -> bool:
        last = self._listed.get(link.id)
        every = link.options.poll_s if self._interval_s is None else self._interval_s
        return last is None or time.monotonic() - last >= every * 0.99

    def _hinted(self, chosen: list[Link]) -> set[bytes]:
        urls = list(next(self._hints, ())) if self._hints is not None else []
        return {link.id for link in chosen if any(url.startswith(link.url) for url in urls)}

    def _tick_s(self, chosen: list[Link]) -> float:
        if self._interval_s is not None:
            return self._interval_s
        wanted = [time_s for link in chosen for time_s in (link.options.poll_s, link.options.quiet_s / 2)]
        return max(_LEAST_TICK_S, min(wanted, default=60.0))


# --- holding writers back ---------------------------------------------------------------------------------------------


def dirty_bytes(path: AnyPath) -> int:
    """Return how many bytes of a store's links are not in their buckets yet, as the agent last saw it; 0 where none ever looked."""
    return _read_dirty(locate(path).store)


def wait_for_export(path: AnyPath, max_dirty: int | None = None, *, timeout_s: float | None = None) -> bool:
    """Wait until not more than so many bytes of a store's links wait for their export. For writers, between two files.

    What was written since the agent's last look is not counted yet: so a writer overruns the bound by what it writes within one interval of the
    agent. Nobody is held back who does not call this.

    Parameters
    ----------
    path : path
        In the store.
    max_dirty : int, optional
        Bytes; None: the least that a link says (``--max-dirty``). Where none does, it returns at once.
    timeout_s : float, optional
        None: as long as it takes.

    Returns
    -------
    bool
        False: there are more, and no agent lives that would export them.

    Raises
    ------
    TimeoutError
        There are still more.
    """
    store = locate(path).store
    if max_dirty is None:
        max_dirty = min((link.options.max_dirty for link in links(store) if link.options.max_dirty), default=0)
        if not max_dirty:
            return True
    if max_dirty < 0:
        raise ArgumentError(f"max_dirty={max_dirty!r}: must be at least 0")
    lock = AgentLock(store)
    begun = time.monotonic()
    while _read_dirty(store) > max_dirty:
        if lock.holder() is None:
            return False
        if timeout_s is not None and time.monotonic() - begun >= timeout_s:
            raise TimeoutError(
                f"more than {max_dirty} bytes of {store.root} wait for their export, for {timeout_s} s now"
            )
        time.sleep(_LOOK_S if timeout_s is None else min(_LOOK_S, timeout_s))
    return True


def _dirty_path(store: Store) -> str:
    return os.path.join(store.meta, "s3", "dirty")


def _read_dirty(store: Store) -> int:
    try:
        with open(_dirty_path(store), "rb") as file:
            return int(json.loads(file.read(_BYTES_MOST))["bytes"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        return 0


def _write_dirty(store: Store, files: int, size: int) -> None:
    path = _dirty_path(store)
    draft = f"{path}-{secrets.token_hex(8)}"
    s3_directory(store)
    try:
        with open(draft, "x", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            json.dump({"bytes": size, "files": files}, file)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
