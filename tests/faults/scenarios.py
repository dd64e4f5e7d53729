"""What the fault tests do again and again, and how they judge what is left. Loaded by a `Laboratory`, so this is no test module.

A scenario is a generator: it yields each time a call of the store has returned, that is, has promised the next of `states`. A state says
what each name holds: bytes, or None where there is no such name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

import pinstripe
from pinstripe.errors import Error, OutcomeUnknownError
from pinstripe.format.segment import parse_segment_name
from pinstripe.store import collect, commit, newfile, opening, session
from pinstripe.store.collect import collect_store
from pinstripe.store.generation import Generation
from pinstripe.store.place import locate
from pinstripe.store.store import publish_place
from pinstripe.store.transaction import Transaction
from pinstripe.store.verify import verify
from pinstripe.store.writer_identity import is_alive
from pinstripe.targets.posix import PosixSegment, PosixTarget
from pinstripe.testing.faults import Run
from pinstripe.testing.powercut import CUT

collect.LISTING_S = 0.0  # one process at a time: no listing races with another
logging.getLogger("pinstripe").setLevel(logging.CRITICAL)
collect.is_alive = functools.partial(
    is_alive, silence_s=0.0
)  # an hour later: a header that was torn proves nothing before

State = dict[str, bytes | None]
SMALL, LARGE = 900, 200_000
STRIPE = 1 << 16


def content(version: int, size: int = LARGE) -> bytes:
    """The bytes of a version: no two have a block in common."""
    return random.Random(version).randbytes(size)


def store_at(root: str, **options: Any) -> pinstripe.Store:
    """A store with two targets, small stripes."""
    return pinstripe.create(f"{root}/store", [f"{root}/a", f"{root}/b"], stripe_bytes=STRIPE, **options)


def write(path: str, data: bytes, mode: str = "wb", **options: Any) -> None:
    """Write a whole file."""
    with pinstripe.open(path, mode, buffering=0, **options) as file:
        file.write(data)


def read(path: str) -> bytes | None:
    """The whole file; None where there is none."""
    try:
        with pinstripe.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


class Steps:
    """A scenario in steps.

    Attributes
    ----------
    states : list of State
        What holds before the first step and after each.
    options : dict
        How files are opened.
    """

    states: ClassVar[list[State]]
    options: ClassVar[dict[str, Any]] = {"grace_s": 0}
    elsewhere = False  # whether faults on one target alone must be no errors
    below_directory = ""

    def below(self, root: str) -> str:
        return f"{root}/{self.below_directory}" if self.below_directory else root

    def setup(self, root: str) -> None:
        store_at(root)
        for name, data in self.states[0].items():
            if data is not None:
                write(f"{root}/store/{name}", data, **self.options)

    def steps(self, top: str) -> Iterator[None]:
        raise NotImplementedError

    def run(self, root: str, say: Callable[..., None]) -> None:
        say("begun", 1)
        k = 1
        try:
            for _ in self.steps(f"{root}/store"):
                say("done", k)
                k += 1
                if k < len(self.states):
                    say("begun", k)
        except (OSError, Error) as raised:
            unknown = isinstance(raised, OutcomeUnknownError)
            number = getattr(raised, "errno", 0)
            say("failed", k, type(raised).__name__, unknown, number, str(raised))
        except Exception as raised:
            say("unclear", k, type(raised).__name__, False, 0, repr(raised))

    # --- judging -----------------------------------------------------------------------------------------------------

    def check(self, run: Run) -> list[str]:
        if run.fault is CUT:
            meta = f"{run.root}/store/.pinstripe"
            if os.path.isdir(meta):
                publish_place(meta)  # a tree that was built anew is a copy, else
        low, high = self.reached(run.events)
        problems = self.judge_error(run)
        allowed = self.states[low : high + 1]
        seen, wrong = self.observe(run.root)
        problems += wrong
        if not wrong and seen not in allowed:
            problems.append(f"found {describe(seen)}, promised {' or '.join(describe(s) for s in allowed)}")
        if not problems and run.thorough:
            problems += self.use(run, seen)
        return problems

    def reached(self, events: list[list[Any]]) -> tuple[int, int]:
        """Which states may be there: from the last that was promised to the last that was begun."""
        low = max([event[1] for event in events if event[0] == "done"], default=0)
        high = max([event[1] for event in events if event[0] == "begun"], default=0)
        if events and events[-1][0] == "failed" and not events[-1][3]:
            high = low
        return low, max(low, high)

    def judge_error(self, run: Run) -> list[str]:
        problems = []
        last = run.events[-1] if run.events else [""]
        if last[0] == "unclear":
            problems.append(f"not a clear error: {last[5]}")
        if last[0] == "failed" and not run.fault.kills:
            _, _, kind, unknown, number, text = last
            if self.elsewhere:
                problems.append(f"one target failed, and with it the job: {kind}: {text}")
            if run.hit is not None and unknown and not self.outcome_is_unclear(run):
                problems.append(f"the outcome of {run.hit} is not unclear: {text}")
            if run.root not in text and run.hit is not None:
                problems.append(f"the error names nothing: {kind}: {text}")
            if run.hit is not None and run.hit.operation in ("stat", "access"):
                pass  # the store, or the right to it, cannot be seen: os.access answers no more than that
            elif number not in (run.fault.error, errno.EIO):
                problems.append(f"the error has another errno: {kind} {errno.errorcode.get(number, number)}: {text}")
        return problems

    def outcome_is_unclear(self, run: Run) -> bool:
        assert run.hit is not None
        opened = run.hit.operation == "open" and not os.path.isfile(
            run.hit.path
        )  # a directory, to make its names durable
        return (
            run.hit.operation in ("link", "rename", "close") or run.hit.is_directory or opened or run.fault.persistent
        )

    def observe(self, root: str) -> tuple[State, list[str]]:
        seen: State = {}
        problems: list[str] = []
        names = {name for state in self.states for name in state}
        for name in sorted(names):
            try:
                seen[name] = read(f"{root}/store/{name}")
            except (OSError, Error) as error:
                problems.append(f"{name} cannot be read: {type(error).__name__}: {error}")
        listed = set(pinstripe.listdir(f"{root}/store"))
        present = {name for name, data in seen.items() if data is not None}
        if not problems and listed != present:
            problems.append(f"listed are {sorted(listed)}, readable {sorted(present)}")
        found = verify(pinstripe.Store(f"{root}/store"), f"{root}/store")
        problems += [
            f"verify: {finding.kind}: {finding.text}"
            for finding in found.findings
            if finding.is_fatal or finding.kind == "copy"
        ]
        return seen, problems

    def use(self, run: Run, seen: State) -> list[str]:
        """Write again, collect, look again."""
        top, problems = f"{run.root}/store", []
        store = pinstripe.Store(top)
        for name, data in seen.items():
            if data is not None:
                with pinstripe.open(f"{top}/{name}", "r+b") as file:
                    file.write(b"again")
                seen[name] = b"again" + data[5:]
        write(f"{top}/another", content(99), **self.options)
        seen = seen | {"another": content(99)}
        for _ in range(3):  # a header that proves nothing is seen, found dead, and then what it held is freed
            collect_store(store, grace_s=0.0)
        problems += leftovers(run.root)
        for name, data in seen.items():
            if read(f"{top}/{name}") != data:
                problems.append(f"after writing and collecting, {name} is not what was written")
        return problems


def describe(state: State) -> str:
    known = {content(v, size): f"v{v}" for v in range(8) for size in (SMALL, LARGE)}
    return str(
        {
            name: None if data is None else known.get(data, f"{len(data)} bytes {data[:8]!r}")
            for name, data in state.items()
        }
    )


def leftovers(root: str) -> list[str]:
    """What a collector should have freed."""
    problems = []
    named = {}
    for directory, below, files in os.walk(f"{root}/store"):
        if ".pinstripe" in below:
            below.remove(".pinstripe")
        for name in files:
            path = os.path.join(directory, name)
            if name.startswith(".pinstripe"):
                problems.append(f"left: {path}")
            named[os.lstat(path).st_ino] = path
    kept: dict[str, set[str]] = {}
    base = f"{root}/store/.pinstripe/files"
    for shard in sorted(os.listdir(base)):
        for file_id in sorted(os.listdir(f"{base}/{shard}")):
            if file_id.startswith(".new-"):
                continue
            here = f"{base}/{shard}/{file_id}"
            entries = sorted(os.listdir(here))
            numbers = sorted(int(name) for name in entries if name.isdecimal())
            if "inode" not in entries or os.lstat(f"{here}/inode").st_ino not in named:
                problems.append(f"left: {here} {entries}")
            if extra := [name for name in entries if name != "inode" and not name.isdecimal()]:
                problems.append(f"left: {extra}")
            generations = [Generation.from_path(bytes.fromhex(file_id), f"{here}/{n}", n) for n in numbers]
            durable = max((g.number for g in generations if g.durable), default=0)
            for g in generations:
                if g.number not in (durable, max(numbers)):
                    problems.append(f"left: generation {g.number} of {numbers}")
                names = kept.setdefault(file_id, set())
                names.add(g.copies_name())
                names |= {f"{bytes(e['tx']).hex()}.{e['stream']}.{e['n']}" for e in g.segments if e["live_frames"]}
                g.close()
    for target in ("a", "b"):
        for shard in sorted(os.listdir(f"{root}/{target}")):
            if len(shard) != 2:
                continue
            for file_id in sorted(os.listdir(f"{root}/{target}/{shard}")):
                if file_id.startswith(".new-"):
                    continue
                if not os.path.isdir(f"{base}/{shard}/{file_id}"):
                    problems.append(f"left: {target}/{shard}/{file_id}")
                for name in sorted(os.listdir(f"{root}/{target}/{shard}/{file_id}")):
                    if name not in kept.get(file_id, set()):
                        what = "segment" if parse_segment_name(name) else "file"
                        problems.append(f"left: {what} {target}/{name}")
    return problems


# --- the scenarios ----------------------------------------------------------------------------------------------------


class CreateInline(Steps):
    states: ClassVar = [{"f": None}, {"f": content(1, SMALL)}]

    def steps(self, top):
        write(f"{top}/f", content(1, SMALL), **self.options)
        yield


class CreateExclusively(Steps):
    states: ClassVar = [{"f": None}, {"f": content(1, SMALL)}]

    def steps(self, top):
        write(f"{top}/f", content(1, SMALL), "xb", **self.options)
        yield


class CreateFrames(Steps):
    states: ClassVar = [{"f": None}, {"f": content(1)}]
    mode = "wb"

    def steps(self, top):
        write(f"{top}/f", content(1), self.mode, **self.options)
        yield


class CreateFramesExclusively(CreateFrames):
    mode = "xb"


class CreateNamedAtOpen(Steps):
    """As the mount and MPI.File do: the name is there at once, empty."""

    states: ClassVar = [{"f": None}, {"f": b""}, {"f": content(1)}]

    def steps(self, top):
        opened = opening.open_session(
            f"{top}/f", "c", options=pinstripe.Options.make(dict(self.options)), name_at_open=True
        )
        try:
            yield
            opened.write(0, content(1))
            opened.publish(final=True)
            yield
        except BaseException:
            opened.discard()
            raise
        finally:
            opened.close()


class Overwrite(Steps):
    states: ClassVar = [{"f": content(0)}, {"f": content(1)}, {"f": content(2, 130_000)}]

    def steps(self, top):
        for state in self.states[1:]:
            write(f"{top}/f", state["f"], **self.options)
            yield


class OverwriteInline(Overwrite):
    states: ClassVar = [{"f": content(0, SMALL)}, {"f": content(1, SMALL)}, {"f": content(2)}]


class Update(Steps):
    _one = content(0)[:70_000] + content(1, 50_000) + content(0)[120_000:]
    states: ClassVar = [{"f": content(0)}, {"f": _one}, {"f": _one + content(2, 100_000)}, {"f": _one[:100_000]}]

    def steps(self, top):
        with pinstripe.open(f"{top}/f", "r+b", buffering=0, **self.options) as file:
            file.pwrite(content(1, 50_000), 70_000)
        yield
        write(f"{top}/f", content(2, 100_000), "ab", **self.options)
        yield
        with pinstripe.open(f"{top}/f", "r+b", buffering=0, **self.options) as file:
            file.truncate(100_000)
        yield


class SyncInside(Steps):
    states: ClassVar = [
        {"f": None},
        {"f": content(1, SMALL)},
        {"f": content(1, SMALL) + content(2)},
        {"f": content(3, SMALL) + content(2)},
    ]

    def steps(self, top):
        with pinstripe.open(f"{top}/f", "w+b", buffering=0, **self.options) as file:
            file.write(content(1, SMALL))
            file.sync()
            yield
            file.write(content(2))
            file.sync()
            yield
            file.pwrite(content(3, SMALL), 0)
        yield


class Discard(Steps):
    """An exception in ``with``: nothing is published, and nothing left."""

    states: ClassVar = [{"f": content(0), "g": None}, {"f": content(0), "g": None}]

    def steps(self, top):
        for name, mode in (("f", "r+b"), ("g", "wb")):
            try:
                with pinstripe.open(f"{top}/{name}", mode, buffering=0, **self.options) as file:
                    file.write(content(1))
                    raise KeyError(name)
            except KeyError:
                pass
        yield


class Rename(Steps):
    states: ClassVar = [
        {"f": content(0), "g": content(1), "h": None},
        {"f": None, "g": content(1), "h": content(0)},
        {"f": None, "g": content(0), "h": None},
    ]

    def steps(self, top):
        pinstripe.rename(f"{top}/f", f"{top}/h")
        yield
        pinstripe.replace(f"{top}/h", f"{top}/g")
        yield

    def outcome_is_unclear(self, run):
        return True

    def reached(self, events):
        """A name's change may be done when its directory's sync fails: `os.rename` and `os.remove` promise no more."""
        low = max([event[1] for event in events if event[0] == "done"], default=0)
        return low, max([event[1] for event in events if event[0] == "begun"], default=0)


class RenameUndurable(Rename):
    options: ClassVar = {"grace_s": 0, "durability": "none"}


class Remove(Rename):
    states: ClassVar = [
        {"f": content(0), "g": content(1, SMALL)},
        {"f": None, "g": content(1, SMALL)},
        {"f": None, "g": None},
    ]

    def steps(self, top):
        pinstripe.remove(f"{top}/f")
        yield
        pinstripe.remove(f"{top}/g")
        yield


class Collect(Steps):
    """Old generations, a dead writer's transaction, a new file of a dead writer, a removed file: what gc is for."""

    states: ClassVar = [{"f": content(2)}, {"f": content(2)}]

    def setup(self, root):
        store = store_at(root)
        top = f"{root}/store"
        for version in range(3):
            write(f"{top}/f", content(version), grace_s=3600)
        write(f"{top}/gone", content(4))
        place = locate(f"{top}/gone")
        os.unlink(place.path)
        pid = os.fork()
        if pid == 0:
            for name, mode in (("f", "r+b"), ("new", "wb")):
                file = pinstripe.open(f"{top}/{name}", mode, buffering=0)
                file.write(content(5))
            os._exit(0)
        os.waitpid(pid, 0)
        del store

    def steps(self, top):
        collect_store(pinstripe.Store(top), grace_s=0.0)
        yield


class ForkedChild(Steps):
    """A child that has a writer's files open exits in the middle: nothing of the parent's may go."""

    states: ClassVar = [{"f": content(0), "g": None}, {"f": content(1), "g": content(2)}]

    def steps(self, top):
        with (
            pinstripe.open(f"{top}/f", "wb", **self.options) as f,
            pinstripe.open(f"{top}/g", "wb", **self.options) as g,
        ):
            f.write(content(1)[:100_000])
            g.write(content(2)[:100_000])
            pid = os.fork()
            if pid == 0:
                try:
                    with f:
                        f.write(b"x" * 100_000)
                except BaseException:
                    pass
                finally:
                    del f, g
                    os._exit(0)
            os.waitpid(pid, 0)
            f.write(content(1)[100_000:])
            g.write(content(2)[100_000:])
        yield

    def reached(self, events):
        return 0, 0

    def check(self, run):
        low = max([event[1] for event in run.events if event[0] == "done"], default=0)
        begun = self.states[0], {"f": content(0), "g": content(2)}, self.states[1]
        problems = self.judge_error(run)
        seen, wrong = self.observe(run.root)
        if wrong or seen not in (begun if not low else begun[2:]):
            return [*problems, *wrong, describe(seen)]
        return problems + (self.use(run, seen) if run.thorough and not problems else [])


class TwoWriters(Steps):
    """Two open the file; the second to commit lost, and puts what it wrote on top: other stripes, a shared one, and the end."""

    states: ClassVar = [
        {"f": content(0)},
        {"f": content(1, 70_000) + content(0)[70_000:]},
        {"f": content(1, 70_000) + content(0)[70_000:100_000] + content(2, 60_000) + content(0)[160_000:]},
    ]

    def steps(self, top):
        with pinstripe.open(f"{top}/f", "r+b", buffering=0, **self.options) as one:
            with pinstripe.open(f"{top}/f", "r+b", buffering=0, **self.options) as two:
                one.pwrite(content(1, 70_000), 0)
                two.pwrite(content(2, 60_000), 100_000)
                one.close()
                yield
            yield


class TwoAppend(Steps):
    states: ClassVar = [
        {"f": content(0)},
        {"f": content(0) + content(1, 50_000)},
        {"f": content(0) + content(1, 50_000) + content(2, 70_000)},
    ]

    def steps(self, top):
        with pinstripe.open(f"{top}/f", "ab", buffering=0, **self.options) as one:
            with pinstripe.open(f"{top}/f", "ab", buffering=0, **self.options) as two:
                one.write(content(1, 50_000))
                two.write(content(2, 70_000))
                one.close()
                yield
            yield


class Undurable(Steps):
    """Commits with durability none over a durable one: after a power cut that one is there, whatever became of the others."""

    states: ClassVar = [{"f": content(0)}, {"f": content(1)}, {"f": content(2, SMALL)}, {"f": content(3)}]
    durable: ClassVar = {0}  # states that were promised to be durable when they were reached
    durability = ("none", "none", "none")

    def setup(self, root):
        store_at(root)
        if self.states[0]["f"] is not None:
            write(f"{root}/store/f", self.states[0]["f"], grace_s=0)

    def steps(self, top):
        for word, state in zip(self.durability, self.states[1:], strict=True):
            write(f"{top}/f", state["f"], grace_s=0, durability=word)
            yield

    def check(self, run):
        if run.fault is not CUT:
            return super().check(run)
        publish_place(f"{run.root}/store/.pinstripe")
        low, high = self.reached(run.events)
        least = max((k for k in self.durable if k <= low), default=0)
        possible = [state["f"] for state in self.states[least : high + 1]]
        if least not in self.durable:  # nothing was promised: the name may have outlived its first generation
            possible.append(b"")
        path, problems = f"{run.root}/store/f", []
        try:
            found = read(path)
            if found not in possible:
                problems.append(f"found {describe({'f': found})}")
        except Error as error:
            if least in self.durable:
                with pinstripe.open(path, "rb", generation="durable") as file:
                    number, found = file.generation, file.read()
                if found not in possible:
                    problems.append(f"the newest durable one is {describe({'f': found})}")
                if f"generation={number}" not in str(error):
                    problems.append(f"the error does not name generation {number}: {error}")
        if least in self.durable:
            # Another may be written in its place, and is then what is read.
            write(path, content(5))
            if read(path) != content(5):
                problems.append("what was written after the cut is not what is read")
        return problems


class UndurableThenDurable(Undurable):
    """none, none, full, none: the third makes durable what the first two left, names and directories too."""

    states: ClassVar = [{"f": None}, {"f": content(1)}, {"f": content(2)}, {"f": content(3)}, {"f": content(4)}]
    durable: ClassVar = {3}
    durability = ("none", "none", "full", "none")


class UpdateUndurableThenDurable(UndurableThenDurable):
    """The same, but each keeps stripes of the ones before."""

    _one = content(1)
    _two = _one[:70_000] + content(2, 10_000) + _one[80_000:]
    _three = _two[:150_000] + content(3, 10_000) + _two[160_000:]
    _four = content(4, 10_000) + _three[10_000:]
    states: ClassVar = [{"f": None}, {"f": _one}, {"f": _two}, {"f": _three}, {"f": _four}]

    def steps(self, top):
        write(f"{top}/f", content(1), grace_s=0, durability="none")
        yield
        for version, (offset, word) in enumerate(((70_000, "none"), (150_000, "full"), (0, "none")), 2):
            with pinstripe.open(f"{top}/f", "r+b", buffering=0, grace_s=0, durability=word) as file:
                file.pwrite(content(version, 10_000), offset)
            yield


class InlineUndurableThenDurable(UndurableThenDurable):
    states: ClassVar = [
        {"f": None},
        {"f": content(1, SMALL)},
        {"f": content(2, SMALL)},
        {"f": content(3)},
        {"f": content(4, SMALL)},
    ]


def on_one_target(kind: type[Steps]) -> type[Steps]:
    """The same, with faults on target a alone: the other one takes everything."""
    return type(f"{kind.__name__}OnOneTarget", (kind,), {"elsewhere": True, "below_directory": "a"})


# --- protocols that are wrong, to see that a sweep finds it -----------------------------------------------------------


def broken(kind: type[Steps], name: str, **patches: tuple[Any, str, Any]) -> type[Steps]:
    """The same with functions of the store replaced while it runs."""

    def run(self: Steps, root: str, say: Callable[..., None]) -> None:
        with contextlib.ExitStack() as stack:
            for owner, attribute, replacement in patches.values():
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            kind.run(self, root, say)

    return type(name, (kind,), {"run": run})


def nothing(*args: Any, **kwargs: Any) -> None:
    """In the place of a sync."""


_write_manifest, _link, _append = Transaction.write_manifest, Transaction.link, PosixSegment.append


def _write_later(self: Transaction, header: Any, body: Any, *, sync: bool) -> None:
    _later[self.id] = (header, list(body), sync)
    _write_manifest(self, header, body, sync=sync)
    os.truncate(self.path, 4096)


def _link_first(self: Transaction, number: int) -> None:
    _link(self, number)
    header, body, sync = _later[self.id]
    os.chmod(self.path, 0o644)
    _write_manifest(self, header, body, sync=sync)


def _write_unsynced(self: Transaction, header: Any, body: Any, *, sync: bool) -> None:
    _write_manifest(self, header, body, sync=False)


def _append_anyhow(self: PosixSegment, *args: Any) -> None:
    with contextlib.suppress(OSError):
        _append(self, *args)


_later: dict[bytes, Any] = {}
BROKEN = (
    broken(
        CreateFrames,
        "LinkedBeforeWritten",
        a=(Transaction, "write_manifest", _write_later),
        b=(Transaction, "link", _link_first),
    ),
    broken(Overwrite, "ErrorsSwallowed", a=(PosixSegment, "append", _append_anyhow)),
    broken(Overwrite, "SegmentsUnsynced", a=(PosixSegment, "sync", nothing)),
    broken(Overwrite, "ManifestUnsynced", a=(Transaction, "write_manifest", _write_unsynced)),
    broken(CreateFrames, "DirectoryUnsynced", a=(commit, "fsync_directory", nothing)),
    broken(CreateFrames, "TargetDirectoryUnsynced", a=(PosixTarget, "sync_directory", nothing)),
    broken(CreateFrames, "InodeUnsynced", a=(commit, "_sync_inode", nothing)),
    broken(CreateFrames, "NameUnsynced", a=(newfile, "fsync_directory", nothing)),
    broken(InlineUndurableThenDurable, "BaseUnsynced", a=(session.Session, "_sync_name", nothing)),
)


SCENARIOS: dict[str, Any] = {
    kind.__name__: kind()
    for kind in (
        CreateInline, CreateExclusively, CreateFrames, CreateFramesExclusively, CreateNamedAtOpen, Overwrite, OverwriteInline, Update, SyncInside,
        Discard, Rename, RenameUndurable, Remove, Collect, ForkedChild, TwoWriters, TwoAppend,
        Undurable, UndurableThenDurable, UpdateUndurableThenDurable, InlineUndurableThenDurable,
        *map(on_one_target, (CreateFrames, Overwrite, Update, SyncInside)), *BROKEN,
    )
}  # fmt: skip
