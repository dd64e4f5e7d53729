"""Export: files of a store made objects, alone or by all ranks of a job.

Small files are drawn by whichever rank is free, and put whole. Large ones are sent in rounds: the rank that found a file creates its upload, or
resumes the one that a killed run left; all ranks send parts; that rank completes it with the checksum of the whole, under a condition.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, ConditionError, DamageError, Error, RemoteError, StaleError
from ..format.remote import Endpoint
from ..kernels import crc64_combine
from ..store.cpus import cpus_for_threads
from ..store.place import AnyPath, locate
from ..store.state import state_of
from ..store.store import META, Store
from ..store.team import SERIAL, Team
from ..store.telling import tell_json
from ..store.work_queue import WorkQueue, work_through
from . import completion, uploads
from .completion import Staged
from .conflicts import CHOICES
from .credentials import SIGNED_S, Holder, to_values, waves
from .events import Events, Summary
from .export_plan import Destination, Name, Plan, plan_export, plan_stage_out
from .listing import list_objects
from .objects import ObjectInfo, Part, Signed
from .parts import PartSender, Piece, Target, Trouble
from .sending import PART_BYTES_LEAST, Candidate, Choice, Sender, attributes_text, is_passing, part_bytes_of

if TYPE_CHECKING:
    from .client import Client

__all__ = ["IF_EXISTS", "export", "stage_out"]

IF_EXISTS = tuple(choice for choice in CHOICES if choice != "take-remote")
"""What is done about an object that is not known to be an older version of the file."""

_THREADS_SMALL = 8
_ROUND = 16  # large files of one rank under way at once
_ATTEMPTS = 3
_DELETES_AT_ONCE = 8


def export(
    paths: Iterable[AnyPath],
    *,
    team: Team = SERIAL,
    if_exists: str | None = None,
    is_meant: Callable[[str], bool] | None = None,
    dry_run: bool = False,
    events: Events | None = None,
    part_bytes_least: int = PART_BYTES_LEAST,
    credentials: str = "all",
) -> Summary:
    """Collective. Bring files and trees below a link to its bucket: what is new or was changed.

    Nothing is overwritten blind: an upload is conditional on the version that was last known, or on there being none. Each file that was exported
    is clean at once, durably. What fails is told, and the rest goes on.

    Parameters
    ----------
    paths : iterable of path
        All in one store.
    if_exists : str or None
        What is done where the object is not what was known: one of `IF_EXISTS`; None: as the link says.
    is_meant : callable, optional
        Tells of an absolute path whether it is to be exported, of all that are found; asked on the first rank.
    dry_run : bool
        Tell what would be done, and change nothing.
    events : Events or None
    part_bytes_least : int
        Longer files are sent in parts, of at least so much.
    credentials : str
        ``root``: only the first rank has some. It does all but the parts of large files, for which it signs URLs for the others.

    Returns
    -------
    Summary
        Of all ranks, on all ranks.

    Raises
    ------
    ArgumentError
        A path lies below no link.
    FileNotFoundError, NoStoreError, OSError
        A path is not there, or in no store.
    """
    _check_choice(if_exists)
    chosen = list(paths)
    if not chosen:
        raise ArgumentError("no path was given")
    store = Store.find(locate(chosen[0], follow=False).directory)

    def plan() -> Plan:
        for path in chosen:
            if locate(path, follow=False).store.id != store.id:
                raise ArgumentError(
                    f"{path!r} lies in another store than {chosen[0]!r}: export them one after the other"
                )
        made = plan_export(store, chosen, if_exists)
        if is_meant is not None:
            roots = [one.directory for one in made.destinations]
            made.names = [one for one in made.names if is_meant(os.path.join(roots[one.destination], one.path))]
        return made

    run = _Export(
        store,
        team,
        events or Events(),
        dry_run=dry_run,
        part_bytes_least=part_bytes_least,
        credentials=credentials,
    )
    run.begin(plan)
    run.send()
    return run.finish()


def stage_out(
    directory: AnyPath,
    url: str,
    *,
    endpoint: Endpoint | None = None,
    if_exists: str = "fail",
    delete: bool = False,
    dry_run: bool = False,
    team: Team = SERIAL,
    events: Events | None = None,
    part_bytes_least: int = PART_BYTES_LEAST,
    credentials: str = "all",
) -> Summary:
    """Collective. Make a prefix of a bucket hold all that a directory holds; then write a completion object that says so.

    What the prefix has already is not sent again. Objects that this directory was staged out to before, or was made of, are replaced if they are
    still the same version.

    Parameters
    ----------
    directory : path
    url : str
        ``s3://bucket/prefix``.
    if_exists : str
        What is done about other objects that are in the way: one of `IF_EXISTS`.
    delete : bool
        Delete the objects that the last completion object lists, that are still the same version, and that the directory no longer has.
    credentials : str
        As for `export`.

    Returns
    -------
    Summary
        Of all ranks, on all ranks. The completion object was written if its exit code is 0, and this was no dry run.

    Raises
    ------
    ArgumentError
        The address or an option cannot be.
    NotADirectoryError, NoStoreError, OSError
        The directory is none of a store's.
    RemoteError
        The bucket cannot be listed.
    """
    _check_choice(if_exists)
    store = Store.find(locate(directory).path)
    run = _Export(
        store,
        team,
        events or Events(),
        dry_run=dry_run,
        part_bytes_least=part_bytes_least,
        credentials=credentials,
    )
    run.begin(lambda: plan_stage_out(directory, url, endpoint or Endpoint(), if_exists), lists=True)
    run.send()
    if delete:
        run.delete()
    return run.finish(completes=True)


def _check_choice(if_exists: str | None) -> None:
    if if_exists is not None and if_exists not in IF_EXISTS:
        raise ArgumentError(f"if_exists={if_exists!r}: choose one of {', '.join(IF_EXISTS)}")


@dataclasses.dataclass(slots=True)
class _Begun:
    """A large file whose upload this rank began, or took over."""

    candidate: Candidate
    choice: Choice
    record: uploads.Record
    resumed: bool
    parts: dict[int, Part] = dataclasses.field(default_factory=dict)
    trouble: Exception | None = None

    def told(self) -> dict[str, Any]:
        """What the other ranks need to send parts."""
        upload, one = self.record.upload, self.candidate
        return {
            "name": dataclasses.astuple(one.name),
            "path": one.path,
            "destination": one.name.destination,
            "key": self.choice.key,
            "upload": upload.id,
            "generation": one.generation,
            "tx": one.tx.hex(),
            "size": one.size,
            "part_bytes": upload.part_bytes,
            "have": sorted(self.parts),
        }


class _Export:
    """One run on one rank."""

    def __init__(
        self,
        store: Store,
        team: Team,
        events: Events,
        *,
        dry_run: bool,
        part_bytes_least: int,
        credentials: str,
    ) -> None:
        self.store, self.team, self.events = store, team, events
        self._holder = Holder(credentials, team)
        self.dry_run, self.part_bytes_least = dry_run, part_bytes_least
        self.plan = Plan()
        self._listed: list[ObjectInfo] = []
        self._last: completion.Manifest | None = None
        self._deleted: set[str] = set()
        self._retries: dict[Client, int] = {}
        self._clients: dict[int, Client] = {}

    # --- plan --------------------------------------------------------------------------------------------------------

    def begin(self, make_plan: Callable[[], Plan], *, lists: bool = False) -> None:
        """Collective. Plan on the first rank; ask what the endpoints can do; list the prefix, if there is one."""
        self.events.phase("look")
        self._together(lambda: setattr(self, "plan", make_plan()) if self.team.rank == 0 else None)
        if self.team.size > 1:
            # The destinations first: listing is collective, and needs a client on every rank.
            told = tell_json(self.team, [one.to_values() for one in self.plan.destinations])
            if self.team.rank:
                self.plan.destinations = [Destination.from_values(one) for one in told]
        # The first asks and writes down what it learns; the others meanwhile get ready to find it there.
        self._together(self._ask if self.team.rank == 0 else self._get_ready)
        self._together(self._ask if self.team.rank else _nothing)
        if lists:
            self._list()
        if self.team.rank == 0:
            for path, problem in self.plan.problems:
                code, _, reason = problem.partition(": ")
                self.events.failed(path, reason or problem, error_code=code if reason else "")
        if self.team.size > 1:
            plan = Plan.from_values(tell_json(self.team, self.plan.to_values() if self.team.rank == 0 else None))
            if self.team.rank:
                self.plan = plan
        self.sender = Sender(
            self.store,
            self.plan,
            self.events,
            self.client_of,
            dry_run=self.dry_run,
            part_bytes_least=self.part_bytes_least,
        )

    def _ask(self) -> None:
        for number, destination in enumerate(self.plan.destinations):
            if self._holder.is_guest:
                client = self._holder.client(destination.endpoint)
            else:
                client = _client(destination, self.store, may_write=not self.dry_run)
            self._clients[number] = client
            self._retries[client] = client.counters.retries

    def _get_ready(self) -> None:
        for destination in self.plan.destinations:
            self._holder.check(destination.endpoint)
            _ = self._holder.client(destination.endpoint).url

    def client_of(self, destination: Destination) -> Client:
        """Give the client for a destination."""
        for number, known in enumerate(self.plan.destinations):
            if known.bucket == destination.bucket and known.endpoint == destination.endpoint:
                return self._clients[number]
        raise KeyError(destination.url)

    def _list(self) -> None:
        """Collective. Note in the plan which objects are there, and which of them the last completion object knows."""
        destination = self.plan.destinations[0]
        client = self._clients[0]
        place = (destination.bucket, destination.prefix)
        if not self._holder.signs:
            with self.events.spending("listing"):
                self._listed = list_objects(client, *place, team=self.team, store=self.store, events=self.events)

        def note() -> None:
            if self._holder.signs:
                with self.events.spending("listing"):
                    self._listed = list_objects(client, *place, store=self.store, events=self.events)
            self._last = completion.read_last(client, destination.bucket, destination.prefix)
            listed = {one.key: one for one in self._listed}
            last = {one.key: one for one in self._last.objects} if self._last is not None else {}
            for name in self.plan.names:
                key = destination.prefix + name.path + "/" * (name.kind == "directory")
                there, before = listed.get(key), last.get(key)
                name.listed = there.etag if there is not None else ""
                name.listed_bytes = there.size if there is not None else 0
                name.known = before.etag if before is not None else ""
                if before is not None:
                    name.known_crc = attributes_text(before) if before.kind == "directory" else before.crc64nvme

        self._together(note if self.team.rank == 0 else _nothing)

    # --- send --------------------------------------------------------------------------------------------------------

    def send(self) -> None:
        """Collective. Send all names: files, then the directories that need an object, for some services make those anew with what is put below."""
        last = [name for name in self.plan.names if name.kind == "directory"]
        first = [name for name in self.plan.names if name.kind != "directory"]
        self.events.phase("upload", len(self.plan.names) if self.team.size == 1 else None)
        large = self._send_small(first)
        large.sort(key=lambda one: one.path)
        while self._anywhere(len(large)):
            chosen, large = large[:_ROUND], large[_ROUND:]
            large += self._round(chosen)
        self._send_small(last)

    def _send_small(self, names: list[Name]) -> list[Candidate]:
        """Collective. Send names as ranks are free; return the files that this rank drew and that all are to send."""
        if not names:
            return []
        large: list[Candidate] = []

        def send(number: int) -> None:
            candidate = self.sender.send(names[number])
            if candidate is not None:
                large.append(candidate)

        if self._holder.signs:
            first = range(len(names)) if self.team.rank == 0 else range(0)
            self._together(lambda: work_through(WorkQueue(None, SERIAL, len(first)), send, _THREADS_SMALL))
            return large
        error: BaseException | None = None
        queue = WorkQueue(self.store, self.team, len(names))
        try:
            work_through(queue, send, _THREADS_SMALL)
        except BaseException as raised:  # an interrupt too: the others wait in close
            error = raised
        queue.close(error)
        return large

    def _anywhere(self, count: int) -> bool:
        """Collective. Tell whether any rank has some."""
        return bool(np.concatenate(self.team.allgather(np.array([count], np.int64))).any())

    def _round(self, chosen: list[Candidate]) -> list[Candidate]:
        """Collective. Send some large files; return those that are to be tried again."""
        again: list[Candidate] = []
        begun: list[_Begun] = []

        def begin() -> None:
            with ThreadPoolExecutor(_THREADS_SMALL, "pinstripe-begin") as pool:
                begun.extend(one for one in pool.map(self._begin_quietly, chosen) if one is not None)

        try:
            self._together(begin)
            told = self._allgather([one.told() for one in begun])
            owners = [rank for rank, ones in enumerate(told) for _ in ones]
            files = list(itertools.chain.from_iterable(told))
            first = owners.index(self.team.rank) if self.team.rank in owners else 0
            sender = self._send_parts(files)
            sent = self._allgather([[file, dataclasses.astuple(part)] for file, part in sender.sent])
            troubles = self._allgather([[one.file, _to_values(one)] for one in sender.troubles])
            for file, values in itertools.chain.from_iterable(sent):
                if owners[file] == self.team.rank:
                    part = Part(*values)
                    begun[file - first].parts[part.number] = part
            for file, values in itertools.chain.from_iterable(troubles):
                if owners[file] == self.team.rank:
                    begun[file - first].trouble = _from_values(values)

            def complete() -> None:
                with ThreadPoolExecutor(_THREADS_SMALL, "pinstripe-complete") as pool:
                    again.extend(one for one in pool.map(self._complete_quietly, begun) if one is not None)

            self._together(complete)
        except BaseException:
            for one in begun:
                one.record.leave()
            self.events.interrupted()
            raise
        return again

    def _send_parts(self, files: list[dict[str, Any]]) -> PartSender:
        """Collective. Send this rank's parts of the round's files."""
        targets = []
        pieces = []
        threads = cpus_for_threads(self.team.size)
        for number, told in enumerate(files):
            destination = self.plan.destinations[told["destination"]]
            place = (destination.bucket, told["key"], told["upload"])
            note = functools.partial(uploads.note_part, self.store, *place, self.team.rank)
            targets.append(
                Target(self.client_of(destination), *place, functools.partial(self._open, told, threads), note)
            )
            have = set(told["have"])
            for part, offset in enumerate(range(0, told["size"], told["part_bytes"]), 1):
                if part not in have:
                    pieces.append(Piece(number, part, offset, min(told["part_bytes"], told["size"] - offset)))
        self.events.expect(bytes=sum(piece.length for piece in pieces) // self.team.size)
        sender = PartSender(targets, self.events)
        if not self._holder.signs:
            self._share(sender, pieces)
            return sender
        for wave in waves(pieces, lambda piece: piece.length, self.team.size):
            shared, alone = self._signed(targets, wave)
            self._share(sender, shared)
            if alone:
                longest = max(piece.length for piece in alone)
                self._together(functools.partial(sender.run, alone if self.team.rank == 0 else [], longest))
        return sender

    def _share(self, sender: PartSender, pieces: Sequence[Piece]) -> None:
        """Collective. Send pieces as ranks are free."""
        error: BaseException | None = None
        queue = WorkQueue(self.store, self.team, len(pieces))
        try:
            sender.run((pieces[number] for number in queue), max((piece.length for piece in pieces), default=1))
        except BaseException as raised:  # an interrupt too: the others wait in close
            error = raised
        queue.close(error)

    def _signed(self, targets: list[Target], pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
        """Collective. Let the first rank sign pieces for the others; return those that ranks share, and those that the first sends itself.

        No checksum is signed, for nobody has read the bytes yet: the one of the whole, which goes with the completion, stands for all. Where a
        service compares only those of parts, the first rank sends the parts itself.
        """
        told: list[Any] = []

        def sign() -> None:
            for piece in pieces:
                one = targets[piece.file]
                proof = one.client.checksum
                if proof != "none" and (proof != "crc64nvme" or not one.client.capabilities.full_object):
                    told.append(None)
                else:
                    place = (one.bucket, one.key, one.upload, piece.number)
                    told.append(to_values(one.client.sign_part(*place, None, seconds=SIGNED_S)))

        self._together(sign if self.team.rank == 0 else _nothing)
        values = tell_json(self.team, told)
        both = list(zip(pieces, values, strict=True))
        alone = [piece for piece, one in both if one is None]
        if not self._holder.is_guest:
            return [piece for piece, one in both if one is not None], alone
        return [dataclasses.replace(piece, signed=Signed(*one)) for piece, one in both if one is not None], alone

    def _open(self, told: dict[str, Any], threads: int) -> Any:
        return self.sender.open_generation(told["path"], told["generation"], bytes.fromhex(told["tx"]), threads=threads)

    # --- one large file ----------------------------------------------------------------------------------------------

    def _begin_quietly(self, one: Candidate) -> _Begun | None:
        try:
            return self._begin(one)
        except (Error, OSError) as error:
            self.sender.fail(one.path, error)
        return None

    def _begin(self, one: Candidate) -> _Begun | None:
        """Decide about a file; resume its upload or create one."""
        if one.attempts:
            with contextlib.ExitStack() as stack:
                seen, state = os.lstat(one.path), state_of(one.path)
                one.name.listed = None  # that was long ago
                fresh = self.sender.look_at(one.name, one.destination, one.path, seen, state, stack)
            if fresh is None:
                return None
            fresh.attempts = one.attempts
            fresh.session = None
            one = fresh
        one.attempts += 1
        choice = self.sender.first_choice(one, look=True)
        if choice is None:
            return None
        client = self.client_of(one.destination)
        wanted = uploads.Upload(
            bucket=one.destination.bucket,
            key=choice.key,
            endpoint=one.destination.endpoint,
            path=one.name.path,
            tx=one.tx.hex(),
            size=one.size,
            crc64=one.crc,
            part_bytes=part_bytes_of(one.size, one.stripe_bytes, self.part_bytes_least),
        )
        resumed: _Begun | None = None
        for record in uploads.take_over(self.store, wanted.bucket, wanted.key):
            if resumed is None and record.upload.id and record.upload.is_same_content(wanted):
                parts = uploads.parts_there(client, record)
                if parts is not None:
                    resumed = _Begun(one, choice, record, resumed=True, parts=parts)
                    continue
            uploads.abort(client, record, note=self.events.note)
        if resumed is not None:
            return resumed
        record = uploads.begin(self.store, wanted)
        try:
            record.note_id(client.create_upload(wanted.bucket, wanted.key, metadata=one.metadata))
        except BaseException:
            record.leave()
            raise
        return _Begun(one, choice, record, resumed=False)

    def _complete_quietly(self, begun: _Begun) -> Candidate | None:
        one, client = begun.candidate, self.client_of(begun.candidate.destination)
        try:
            trouble = begun.trouble
            if trouble is None:
                try:
                    return self._complete(begun, client)
                except (Error, OSError) as error:
                    trouble = error
            if is_passing(trouble) and begun.record.path:
                begun.record.leave()
                self.sender.fail(one.path, trouble)
                return None
            uploads.abort(client, begun.record)
            is_lost = isinstance(trouble, RemoteError) and trouble.status == 404
            # A part that was signed for another rank has no checksum of its own: damage shows in the end.
            is_damaged = self._holder.signs and isinstance(trouble, RemoteError) and trouble.code == "BadDigest"
            if (is_lost or is_damaged or isinstance(trouble, StaleError)) and one.attempts < _ATTEMPTS:
                return one
            self.sender.fail(one.path, trouble)
        except (Error, OSError) as error:  # it could not be aborted: a collector will
            begun.record.leave()
            self.sender.fail(one.path, error)
        return None

    def _complete(self, begun: _Begun, client: Client) -> Candidate | None:
        """Make the object of its parts; return the file if it is to be tried again."""
        one, upload = begun.candidate, begun.record.upload
        parts = [begun.parts[number] for number in sorted(begun.parts)]
        whole = 0
        for part in parts:
            assert part.crc64 is not None
            whole = crc64_combine(whole, part.crc64, part.size)
        if sum(part.size for part in parts) != one.size or (one.crc is not None and whole != one.crc):
            uploads.abort(client, begun.record)
            if begun.resumed and one.attempts < _ATTEMPTS:  # what the killed run sent is not what it should be
                return one
            raise DamageError("the parts that were sent are not the file: their checksum differs", path=one.path)
        one.crc = whole
        one.staged = dataclasses.replace(one.staged, crc64nvme=f"{whole:016x}")
        choice: Choice | None = begun.choice
        for _ in range(_ATTEMPTS):
            is_conditional = client.capabilities.conditional_complete
            if choice is not None and not is_conditional:
                choice = self.sender.look_again(one, choice)
            if choice is None or choice.key != upload.key:
                break
            try:
                etag, version = client.complete_upload(
                    upload.bucket,
                    upload.key,
                    upload.id,
                    parts,
                    size=one.size,
                    crc64=whole,
                    if_none_match=choice.if_none_match and is_conditional,
                    if_match=choice.if_match if is_conditional else "",
                )
            except RemoteError as error:
                if not isinstance(error, ConditionError) and error.status != 404:
                    raise
                choice = self.sender.look_again(one, choice)
                if choice is None:
                    break  # it is there, perhaps of this very request, or it is in conflict
                if choice.key != upload.key or error.status != 412:
                    # Beside the object, or the service has dropped the upload (409, 404): all parts are sent again.
                    uploads.abort(client, begun.record)
                    if one.attempts < _ATTEMPTS:
                        return one
                    raise
            else:
                self.sender.finish(one, choice, etag, version)
                begun.record.remove()
                self.events.advance(files=1)
                return None
        uploads.abort(client, begun.record)
        if choice is not None:
            if one.attempts < _ATTEMPTS:
                return one
            self.events.conflict(one.path, f"{upload.url} changes faster than it can be looked at")
        return None

    # --- end ---------------------------------------------------------------------------------------------------------

    def delete(self) -> None:
        """Collective. Delete what the directory no longer has, if all else succeeded."""
        if self._so_far().exit_code:
            return
        error: BaseException | None = None
        if self.team.rank == 0:
            try:
                self._delete()
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
        self.team.agree(error)

    def _others(self) -> list[ObjectInfo]:
        """Objects below the prefix that no name of the directory stands for."""
        destination = self.plan.destinations[0]
        names = {destination.prefix + name.path + "/" * (name.kind == "directory") for name in self.plan.names}
        own = f"{destination.prefix}{META}"
        return [one for one in self._listed if one.key not in names and not one.key.startswith(own)]

    def _doomed(self) -> list[ObjectInfo]:
        """Those of them that an earlier stage-out brought, and nobody replaced since."""
        known = self._last.etags if self._last is not None else {}
        return [one for one in self._others() if one.etag and known.get(one.key) == one.etag]

    def _delete(self) -> None:
        destination = self.plan.destinations[0]
        doomed = self._doomed()
        foreign = len(self._others()) - len(doomed)
        if foreign > 0:
            self.events.note(f"{foreign} objects below {destination.url} were not staged out from here: they stay")
        if self.dry_run:
            for one in doomed:
                self.events.planned("delete", f"s3://{destination.bucket}/{one.key}", one.size)
            return
        self.events.phase("delete", len(doomed))
        with ThreadPoolExecutor(_DELETES_AT_ONCE, "pinstripe-delete") as pool:
            list(pool.map(functools.partial(self._delete_one, destination), doomed))

    def _delete_one(self, destination: Destination, one: ObjectInfo) -> None:
        try:
            self.client_of(destination).delete(destination.bucket, one.key, if_match=one.etag)
            self._deleted.add(one.key)
            self.events.advance(files=1, count=False)
        except (ConditionError, StaleError) as error:
            self.events.conflict(
                f"s3://{destination.bucket}/{one.key}", f"it was replaced, and stays ({error.strerror})"
            )
        except (Error, OSError) as error:
            self.events.failed(f"s3://{destination.bucket}/{one.key}", error)

    def finish(self, *, completes: bool = False) -> Summary:
        """Collective. Write the completion object, if all succeeded; return the summary of all ranks."""
        if completes and not self.dry_run and not self._so_far().exit_code:
            objects = self._allgather([one.to_values() for one in self.sender.staged])

            def write() -> None:
                destination = self.plan.destinations[0]
                completion.write(
                    self._clients[0],
                    destination.bucket,
                    destination.prefix,
                    [Staged(**one) for one in itertools.chain.from_iterable(objects)],
                    left={one.key: one.etag for one in self._doomed() if one.key not in self._deleted},
                    store_id=self.store.id,
                )

            self._together(write if self.team.rank == 0 else _nothing)
        self.events.retried(sum(client.counters.retries - before for client, before in self._retries.items()))
        return self.events.finish().of_all(self.team)

    def _so_far(self) -> Summary:
        return self.events.summary.of_all(self.team)

    def _together(self, work: Callable[[], object]) -> None:
        """Do something on every rank; an error on one is the error of all."""
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # an interrupt too: the others wait here
            error = raised
        self.team.agree(error)

    def _allgather(self, values: list[Any]) -> list[list[Any]]:
        every = self.team.allgather(np.frombuffer(json.dumps(values).encode(), np.uint8))
        return [json.loads(array.tobytes()) for array in every]


def _client(destination: Destination, store: Store, *, may_write: bool) -> Client:
    from .client import Client  # here, for it imports boto3
    from .probe import capabilities_of

    client = Client.of(destination.endpoint)
    client.capabilities = capabilities_of(client, destination.bucket, may_write=may_write, store=store)
    return client


def _to_values(trouble: Trouble) -> dict[str, Any]:
    """Tell another rank an error: what of it decides what is done."""
    error = trouble.error
    values = {"kind": getattr(error, "kind", ""), "text": getattr(error, "strerror", None) or str(error)}
    if isinstance(error, RemoteError):
        values |= {"bucket": error.bucket, "key": error.key, "status": error.status, "code": error.code}
    elif isinstance(error, OSError):
        values |= {"errno": error.errno, "path": str(error.filename or "")}
    return values


def _from_values(values: dict[str, Any]) -> Exception:
    kind, text = values["kind"], values["text"]
    if kind in ("remote", "condition"):
        made = ConditionError if kind == "condition" else RemoteError
        return made(text, **{name: values[name] for name in ("bucket", "key", "status", "code")})
    if kind == "damage":
        return DamageError(text, path=values["path"])
    if kind == "stale":
        return StaleError(text, path=values["path"])
    return OSError(values.get("errno"), text, values.get("path", ""))


def _nothing() -> None:
    """What a rank does while another works."""
