"""What a power cut may leave of a directory tree, after each recorded change: ALICE's method.

The model of a file system, on the safe side of what POSIX promises: a directory is what is on the disk and what was done since its last
fsync, in order; a cut keeps of each directory on its own any first part of that. One thing is taken for granted: a rename from one
directory to another does not lose the file (its old name goes no sooner than the new one is there). Bytes that were not synced are lost,
kept, kept up to some write, torn by sectors or read as zeros, whatever the file's names. An fsync of a file makes its bytes durable and no name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any

from . import faults
from .faults import CHANGES, Events, Fault, Run, Scenario, Swept, fresh_directory, in_child

__all__ = ["CUT", "Change", "Disk", "read_log", "sweep"]

CUT = Fault(-1)
"""The fault that a check is told of after a power cut."""

_RECORD = struct.Struct("<IIqqQII")
_CREATE, _WRITE, _TRUNCATE, _LINK, _RENAME, _UNLINK, _MKDIR, _RMDIR, _SYNC, _SYMLINK, _MARK = range(1, 12)
_NAMES = ["", "create", "write", "truncate", "link", "rename", "unlink", "mkdir", "rmdir", "fsync", "symlink", "mark"]
_SECTOR = 512
_RANDOM_STATES = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One recorded change."""

    operation: int
    flags: int
    inode: int
    offset: int
    path: str
    second: str
    data: bytes

    def __str__(self) -> str:
        return f"{_NAMES[self.operation]} {self.path}{' -> ' + self.second if self.second else ''}"


def read_log(path: str) -> list[Change]:
    """Read what the preload library recorded."""
    with open(path, "rb") as file:
        data = file.read()
    changes, at = [], 0
    while at < len(data):
        operation, flags, inode, offset, length, a, b = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        first, second = os.fsdecode(data[at : at + a]), os.fsdecode(data[at + a : at + a + b])
        at += a + b
        changes.append(Change(operation, flags, inode, offset, first, second, data[at : at + length]))
        at += length
    return changes


class _File:
    def __init__(self, content: bytes = b"") -> None:
        self.now = bytearray(content)
        self.disk = bytes(content)
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data) or (size, None)

    def write(self, offset: int, data: bytes) -> None:
        _put(self.now, offset, data)
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        _cut(self.now, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        self.disk = bytes(self.now)
        self.pending.clear()

    def after_a_cut(self, chance: random.Random, how: str) -> bytes:
        """Give its bytes: ``lost``, ``zeros``, ``kept``, ``first`` (some of the writes, in order) or ``torn``."""
        if not self.pending or how == "lost":
            return self.disk
        if how == "kept":
            return bytes(self.now)
        if how == "zeros":
            return self.disk[: len(self.now)].ljust(len(self.now), b"\0")
        torn = bytearray(self.disk)
        if how == "first":
            for offset, data in self.pending[: chance.randint(0, len(self.pending))]:
                if data is None:
                    _cut(torn, offset)
                else:
                    _put(torn, offset, data)
            return bytes(torn)
        for offset, data in self.pending:
            if data is None:
                if chance.random() < 0.5:
                    _cut(torn, offset)
                continue
            for begin in range(0, len(data), _SECTOR):
                if chance.random() < 0.5:
                    _put(torn, offset + begin, data[begin : begin + _SECTOR])
        return bytes(torn)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class _Link:
    def __init__(self, content: str) -> None:
        self.content = content


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A change of a directory's entries: drop names, then put one."""

    number: int
    drops: tuple[str, ...] = ()
    puts: str = ""
    node: Any = None
    needs: Any = None  # the directory that has the other half of a rename: it must have it when this is kept

    def do(self, entries: dict[str, Any]) -> None:
        for name in self.drops:
            entries.pop(name, None)
        if self.puts:
            entries[self.puts] = self.node


class _Directory:
    def __init__(self) -> None:
        self.now: dict[str, Any] = {}
        self.disk: dict[str, Any] = {}
        self.since: list[_Step] = []

    def step(self, step: _Step) -> None:
        step.do(self.now)
        self.since.append(step)

    def settle(self, upto: int) -> None:
        """Make the first steps durable, and what they need."""
        steps, self.since = self.since[:upto], self.since[upto:]
        for step in steps:
            step.do(self.disk)
        for step in steps:
            if step.needs is not None:
                numbers = [other.number for other in step.needs.since]
                if step.number in numbers:
                    step.needs.settle(numbers.index(step.number) + 1)


class Disk:
    """A tree below one root: what every process sees, and what a cut would leave.

    Parameters
    ----------
    root : str
        Its path in the record.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.top = _Directory()
        self._files: dict[int, _File] = {}  # by inode number, the newest that has it
        self._steps = 0

    def scan(self) -> None:
        """Take what is there now for durable."""
        for directory, names, files in os.walk(self.root):
            here = self._directory(directory)
            for name in names + files:
                path = os.path.join(directory, name)
                seen = os.lstat(path)
                if os.path.islink(path):
                    node: Any = _Link(os.readlink(path))
                elif os.path.isdir(path):
                    node = _Directory()
                else:
                    node = self._files.get(seen.st_ino)
                    if node is None:
                        with open(path, "rb") as file:
                            node = self._files[seen.st_ino] = _File(file.read())
                here.now[name] = here.disk[name] = node

    def _directory(self, path: str) -> _Directory:
        node = self.top
        for name in os.path.relpath(path, self.root).split(os.sep):
            node = node if name == "." else node.now[name]
        return node

    def _place(self, path: str) -> tuple[_Directory, str]:
        return self._directory(os.path.dirname(path)), os.path.basename(path)

    def apply(self, change: Change) -> None:
        """Do a recorded change."""
        self._steps += 1
        number = self._steps
        if change.operation == _CREATE:
            node = self._files[change.inode] = _File()
            if not change.flags:
                directory, name = self._place(change.path)
                directory.step(_Step(number, puts=name, node=node))
        elif change.operation == _WRITE:
            self._files[change.inode].write(change.offset, change.data)
        elif change.operation == _TRUNCATE:
            self._files[change.inode].truncate(change.offset)
        elif change.operation == _SYNC:
            if not change.flags:
                self._files[change.inode].sync()
            else:
                try:
                    synced = self._directory(change.path)
                except KeyError:  # removed while it was open
                    return
                synced.settle(len(synced.since))
        elif change.operation == _LINK:
            directory, name = self._place(change.path)
            directory.step(_Step(number, puts=name, node=self._files[change.inode]))
        elif change.operation in (_MKDIR, _SYMLINK):
            directory, name = self._place(change.path)
            directory.step(
                _Step(number, puts=name, node=_Directory() if change.operation == _MKDIR else _Link(change.second))
            )
        elif change.operation in (_UNLINK, _RMDIR):
            directory, name = self._place(change.path)
            directory.step(_Step(number, drops=(name,)))
        elif change.operation == _RENAME:
            self._rename(number, change)

    def _rename(self, number: int, change: Change) -> None:
        source, old = self._place(change.path)
        target, new = self._place(change.second)
        node = source.now[old]
        if target.now.get(new) is node:  # two links of one file: rename does nothing
            return
        if source is target:
            source.step(_Step(number, drops=(old,), puts=new, node=node))
        else:
            target.step(_Step(number, puts=new, node=node))
            source.step(_Step(number, drops=(old,), needs=target))

    def after_a_cut(self, chance: random.Random, how: str) -> dict[str, Any]:
        """Give a tree that a cut may leave: names to nested trees, link contents, or (identity, bytes) of files.

        Parameters
        ----------
        how : str
            ``lost``: nothing that was not synced; ``names``: every name, no bytes; ``zeros``: the same, but with their lengths;
            ``kept``: everything; ``random``.
        """
        directories = list(self._all(self.top))
        kept = {
            id(d): {"lost": 0, "random": chance.randint(0, len(d.since))}.get(how, len(d.since)) for d in directories
        }
        changed = True
        while changed:
            changed = False
            for directory in directories:
                for step in directory.since[: kept[id(directory)]]:
                    if step.needs is not None:
                        numbers = [other.number for other in step.needs.since]
                        if step.number in numbers and kept[id(step.needs)] <= numbers.index(step.number):
                            kept[id(step.needs)] = numbers.index(step.number) + 1
                            changed = True
        contents: dict[int, bytes] = {}

        def tree(directory: _Directory) -> dict[str, Any]:
            entries = dict(directory.disk)
            for step in directory.since[: kept.get(id(directory), 0)]:
                step.do(entries)
            out: dict[str, Any] = {}
            for name, node in sorted(entries.items()):
                if isinstance(node, _Directory):
                    out[name] = tree(node)
                elif isinstance(node, _Link):
                    out[name] = node.content
                else:
                    if id(node) not in contents:
                        word = (
                            chance.choice(("lost", "kept", "first", "torn", "zeros"))
                            if how == "random"
                            else {"names": "lost"}.get(how, how)
                        )
                        contents[id(node)] = node.after_a_cut(chance, word)
                    out[name] = (id(node), contents[id(node)])
            return out

        return tree(self.top)

    def _all(self, directory: _Directory) -> Iterator[_Directory]:
        yield directory
        seen: set[int] = set()
        for node in [*directory.now.values(), *directory.disk.values(), *(step.node for step in directory.since)]:
            if isinstance(node, _Directory) and id(node) not in seen:
                seen.add(id(node))
                yield from self._all(node)


def build_tree(tree: dict[str, Any], root: str) -> None:
    """Make a tree that `Disk.after_a_cut` gave, hard links as hard links."""
    made: dict[int, str] = {}

    def make(entries: dict[str, Any], directory: str) -> None:
        for name, node in entries.items():
            path = os.path.join(directory, name)
            if isinstance(node, dict):
                os.mkdir(path)
                make(node, path)
            elif isinstance(node, str):
                os.symlink(node, path)
            elif node[0] in made:
                os.link(made[node[0]], path)
            else:
                made[node[0]] = path
                with open(path, "wb", buffering=0) as file:
                    file.write(node[1])

    make(tree, root)


def _fingerprint(tree: dict[str, Any]) -> int:
    def values(entries: dict[str, Any]) -> Any:
        return tuple((name, values(node) if isinstance(node, dict) else node) for name, node in entries.items())

    return hash(values(tree))


def sweep(
    scenario: Scenario,
    parent: str,
    *,
    first: int = 1,
    step: int = 1,
    most: int = 5000,
    enough: int = 20,
    seed: int = 0,
) -> Swept:
    """Record one run of a scenario; after each change (from the `first`, every `step`-th) cut the power, in several ways, and check what is left."""
    begun = time.monotonic()
    with fresh_directory(parent, "recorded") as root:
        changes, disk = _recorded(scenario, root, parent)
        failures: list[str] = []
        outcomes: dict[str, int] = {}
        seen: set[Any] = set()
        events: list[list[Any]] = []
        for at in range(len(changes) + 1):
            if at:
                if changes[at - 1].operation == _MARK:
                    events.append(json.loads(changes[at - 1].path))
                else:
                    disk.apply(changes[at - 1])
            if (at - first) % step:
                continue
            for k, how in enumerate(["lost", "names", "zeros", *["random"] * _RANDOM_STATES]):
                tree = disk.after_a_cut(random.Random(f"{seed} {at} {k}"), how)
                key = (_fingerprint(tree), len(events))
                if key in seen:
                    continue
                seen.add(key)
                if len(seen) > most:
                    return Swept(
                        most, [*failures, f"it has more than {most} states"], outcomes, time.monotonic() - begun
                    )
                if len(failures) >= enough:
                    break
                problems = _checked(scenario, tree, parent, events, thorough=len(seen) % 3 == 0)
                outcomes[how] = outcomes.get(how, 0) + 1
                if problems:
                    last = changes[at - 1] if at else "nothing"
                    failures.append(
                        f"cut {at} ({how}, after {last}; {events[-1:]}): {'; '.join(problems)}".replace(root, "ROOT")
                    )
    return Swept(len(seen), failures, outcomes, time.monotonic() - begun)


def _recorded(scenario: Scenario, root: str, parent: str) -> tuple[list[Change], Disk]:
    tool = faults.library()
    assert tool is not None
    log_path, before = os.path.join(parent, "log"), os.path.join(parent, "before")

    def record() -> None:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        tool.arm(root, Fault(0, CHANGES), 0)
        scenario.setup(root)
        disk = Disk(root)
        disk.scan()
        with open(before, "wb") as file:
            pickle.dump(disk, file)
        tool.arm(root, Fault(0, CHANGES), 0, log=log)
        scenario.run(root, Events().say)
        tool.disarm()

    code = in_child(record)
    if code:
        raise RuntimeError(f"the run that was to be recorded ended with {code}")
    with open(before, "rb") as file:
        disk = pickle.load(file)
    changes = read_log(log_path)
    os.unlink(log_path)
    os.unlink(before)
    return changes, disk


def _checked(
    scenario: Scenario, tree: dict[str, Any], parent: str, events: list[list[Any]], *, thorough: bool
) -> list[str]:
    tool = faults.library()
    assert tool is not None
    found = Events()
    with fresh_directory(parent, "cut") as root:
        build_tree(tree, root)

        def check() -> None:
            tool.arm(root, Fault(0, CHANGES), 0)  # syncs do nothing
            for problem in scenario.check(Run(root, CUT, None, list(events), thorough)):
                found.say(problem)

        code = in_child(check)
        problems = [event[0].replace(root, "ROOT") for event in found.all()]
    if code == -signal.SIGALRM:
        return [*problems, "the check hangs"]
    return problems if code == 0 else [*problems, f"the check itself ended with {code}"]
