"""Kill, fail, tear, shorten or record the system calls of a process, one at a time: SQLite's method, on real file systems.

The calls are caught by a preload library (`faults.c`, compiled by `build`) that counts those below one directory. A `Laboratory` is a
process that has it and has imported everything; it forks for each run, so that a sweep over every call of a scenario takes milliseconds a
call, and it forks again for the check, which so sees what a fresh process sees.

::

    with Laboratory(build(tmp_path), "tests/faults/scenarios.py", tmp_path) as laboratory:
        swept = laboratory.sweep("create_inline", "kill")
    assert not swept.failures, swept
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import importlib.util
import json
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self

__all__ = ["FAULTS", "Events", "Fault", "Hit", "Laboratory", "Library", "Run", "Scenario", "Swept", "build", "library"]

CHANGES, READS, LOOKS, CLOSES, DATA = 1, 2, 4, 8, 16
_COUNT, _KILL, _TEAR, _FAIL, _FAIL_AFTER, _SHORTEN = range(6)
_TOLD_BYTES = 8 + 8 + 4 + 4 + 8192
_EVENTS_BYTES = 1 << 20
_PATIENCE_S = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """What is done to the n-th call of some classes.

    Attributes
    ----------
    action : int
    classes : int
        CHANGES what is on disk, READS, LOOKS at attributes, CLOSES; DATA: those changes that write bytes.
    error : int
        The errno.
    persistent : bool
        Whether every later call is met too.
    """

    action: int
    classes: int = CHANGES
    error: int = 0
    persistent: bool = False

    @property
    def kills(self) -> bool:
        """Whether the process does not outlive it."""
        return self.action in (_KILL, _TEAR)


FAULTS = {
    "kill": Fault(_KILL),
    "tear": Fault(_TEAR, DATA),
    "short": Fault(_SHORTEN, DATA),
    "always-short": Fault(_SHORTEN, DATA, persistent=True),
    "lost-answer": Fault(_FAIL_AFTER, error=errno.EIO),  # done, and then an error: a network file system's
    **{name: Fault(_FAIL, error=getattr(errno, name)) for name in ("EIO", "ENOSPC", "EDQUOT")},
    **{
        f"always-{name}": Fault(_FAIL, error=getattr(errno, name), persistent=True)
        for name in ("EIO", "ENOSPC", "EDQUOT")
    },
    "read-EIO": Fault(_FAIL, READS, errno.EIO),
    "always-read-EIO": Fault(_FAIL, READS, errno.EIO, persistent=True),
    "look-EIO": Fault(_FAIL, LOOKS, errno.EIO),
    "look-EACCES": Fault(_FAIL, LOOKS, errno.EACCES),
    "close-EIO": Fault(_FAIL, CLOSES, errno.EIO),
}
"""The faults that a sweep knows, by name. ``kill`` dies before each call, so also after each; ``tear`` in the middle of one."""


def build(directory: str | os.PathLike[str]) -> str:
    """Compile the preload library into `directory`; return its path."""
    made = os.path.join(directory, "faults.so")
    source = os.path.join(os.path.dirname(__file__), "faults.c")
    if not os.path.exists(made):
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, source, "-ldl", "-pthread"],
            check=True,
        )
    return made


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """Which call a fault met first."""

    operation: str = ""
    path: str = ""
    second: str = ""
    is_directory: bool = False

    def __str__(self) -> str:
        where = f"{self.path} -> {self.second}" if self.second else self.path
        return f"{self.operation}{' of directory' if self.is_directory else ''} {where}"


class Library:
    """The preload library of this process."""

    def __init__(self) -> None:
        self._c = ctypes.CDLL(None)
        if not hasattr(self._c, "faults_arm"):
            raise RuntimeError("this process was started without the preload library")
        self._told = mmap.mmap(-1, _TOLD_BYTES)

    def arm(self, root: str, fault: Fault, nth: int, *, log: int = -1, fake_sync: bool = True) -> None:
        """Meet the `nth` call below `root` with a fault; 0 counts only.

        Parameters
        ----------
        log : int
            Descriptor to record changes to; -1 = none.
        fake_sync : bool
            Whether syncs do nothing: a process that dies needs none.
        """
        action = fault.action if nth else _COUNT
        memory = ctypes.addressof(ctypes.c_char.from_buffer(self._told))
        self._c.faults_arm(
            os.fsencode(root),
            fault.classes,
            ctypes.c_int64(nth),
            action,
            fault.error,
            fault.persistent,
            fake_sync,
            log,
            ctypes.c_void_p(memory),
        )

    def disarm(self) -> None:
        """Let every call pass."""
        self._c.faults_disarm()

    def mark(self, text: str) -> None:
        """Put a remark between the recorded changes."""
        self._c.faults_mark(text.encode())

    @property
    def count(self) -> int:
        """Calls counted since `reset`, in this process and its forked children."""
        return int(struct.unpack_from("<q", self._told)[0])

    @property
    def hit(self) -> Hit | None:
        """The call that was met."""
        _, hits, is_directory, length = struct.unpack_from("<qqii", self._told)
        if not hits:
            return None
        operation, path, second = bytes(self._told[24 : 24 + length]).split(b"\0")[:3]
        return Hit(operation.decode(), os.fsdecode(path), os.fsdecode(second), bool(is_directory))

    def reset(self) -> None:
        """Count from 0 again."""
        self._told[:24] = bytes(24)


_library: Library | None = None


def library() -> Library | None:
    """Give this process's preload library; None in an ordinary process."""
    return _library


class Events:
    """Words of a run that outlive it, in order."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _EVENTS_BYTES)

    def say(self, *words: Any) -> None:
        """Add an event; also to the record."""
        text = json.dumps(words)
        (length,) = struct.unpack_from("<q", self._memory)
        line = text.encode() + b"\n"
        self._memory[8 + length : 8 + length + len(line)] = line
        struct.pack_into("<q", self._memory, 0, length + len(line))
        if _library is not None:
            _library.mark(text)

    def all(self) -> list[list[Any]]:
        """Give them all."""
        (length,) = struct.unpack_from("<q", self._memory)
        return [json.loads(line) for line in bytes(self._memory[8 : 8 + length]).splitlines()]

    def clear(self) -> None:
        """Forget them."""
        struct.pack_into("<q", self._memory, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a check is told of the run before it. `thorough` is every third point, and every one where the process died."""

    root: str
    fault: Fault
    hit: Hit | None
    events: list[list[Any]]
    thorough: bool = True


class Scenario(Protocol):
    """What a sweep does again and again. `setup` and `run` happen in one process, `check` in a fresh one."""

    def setup(self, root: str) -> None:
        """Make what is there before; no fault happens here."""

    def run(self, root: str, say: Callable[..., None]) -> None:
        """Do what is tested; `say` what was begun and what returned."""

    def check(self, run: Run) -> list[str]:
        """Look at what is left; say what is wrong."""

    def below(self, root: str) -> str:
        """Where calls are counted: `root`, or a directory in it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found.

    Attributes
    ----------
    points : int
        Calls that were met.
    failures : list of str
        One for each call after which something was wrong.
    outcomes : dict
        How often each last event was said.
    """

    points: int
    failures: list[str]
    outcomes: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        shown = "\n".join(self.failures[:12])
        return (
            f"{len(self.failures)} of {self.points} points are wrong ({self.outcomes}, {self.seconds:.1f} s):\n{shown}"
        )


class Laboratory:
    """A process with the preload library that knows the scenarios of one module.

    Parameters
    ----------
    library_path : str
        What `build` made.
    scenarios : path
        A Python file; its ``SCENARIOS`` maps names to scenarios.
    directory : path
        Where runs take place; emptied after each.
    """

    def __init__(self, library_path: str, scenarios: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
        command = [sys.executable, "-m", "pinstripe.testing.faults", os.fspath(scenarios), os.fspath(directory)]
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"LD_PRELOAD": library_path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def sweep(
        self,
        scenario: str,
        fault: str,
        *,
        first: int = 1,
        step: int = 1,
        most: int = 5000,
        enough: int = 20,
        seed: int = 0,
    ) -> Swept:
        """Meet every `step`-th call of a scenario with a fault, from the `first` until it completes.

        Parameters
        ----------
        scenario : str
            Its name.
        fault : str
            One of `FAULTS`, or ``cut``: a power cut after each call (see `pinstripe.testing.powercut`).
        most : int
            Calls at most: a scenario that never completes is a failure.
        enough : int
            After so many failures it ends.
        seed : int
            Of what a power cut leaves.
        """
        question = {"scenario": scenario, "fault": fault, "first": first, "step": step}
        answer = self._ask(question | {"most": most, "enough": enough, "seed": seed})
        return Swept(**answer)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the laboratory ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- in the laboratory ------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Do something in a forked child; return how it ended, as `os.waitstatus_to_exitcode`. A child that hangs is killed by SIGALRM."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(_PATIENCE_S)
        code = 3
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def fresh_directory(parent: str, name: str) -> Iterator[str]:
    """Make a directory for one run and remove it afterwards."""
    root = os.path.join(parent, name)
    os.mkdir(root)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def _warm(scenario: Scenario, parent: str) -> None:
    """Run it once here, so that what is imported late need not be imported in each child."""
    with fresh_directory(parent, "warm") as root:
        scenario.setup(root)
        events: list[list[Any]] = []
        scenario.run(root, lambda *words: events.append(list(words)))
        problems = scenario.check(Run(root, Fault(_COUNT), None, events))
    if problems:
        raise RuntimeError(f"without any fault: {'; '.join(problems)}")


def sweep(
    scenario: Scenario, fault: Fault, parent: str, *, first: int = 1, step: int = 1, most: int = 5000, enough: int = 20
) -> Swept:
    """Run a scenario once for each call that it makes (from the `first`, every `step`-th), that call being met."""
    tool = _library
    assert tool is not None
    begun = time.monotonic()
    failures: list[str] = []
    outcomes: dict[str, int] = {}
    events, found = Events(), Events()
    _warm(scenario, parent)
    points = 0
    for nth in range(first, most + 2, step):
        with fresh_directory(parent, f"run-{nth}") as root:
            tool.reset()
            events.clear()
            found.clear()

            def run(root: str = root, nth: int = nth) -> None:
                tool.arm(root, Fault(_COUNT), 0)  # syncs do nothing
                scenario.setup(root)
                tool.reset()
                tool.arm(scenario.below(root), fault, nth)
                try:
                    scenario.run(root, events.say)
                finally:
                    tool.disarm()

            code = in_child(run)
            hit = tool.hit
            told = Run(root, fault, hit, events.all(), thorough=fault.kills or points % 3 == 0)
            problems = []
            if code not in (0, -signal.SIGKILL) or (code == -signal.SIGKILL and not (hit and fault.kills)):
                problems.append(f"it ended with {code}")
            if not (hit and fault.kills) and not told.events:
                problems.append("it said nothing")

            def check(told: Run = told) -> None:
                tool.arm(told.root, Fault(_COUNT), 0)
                for problem in scenario.check(told):
                    found.say(problem)

            if in_child(check) != 0:
                problems.append("the check itself failed")
            problems += [event[0] for event in found.all()]
            last = json.dumps(told.events[-1][:3]) if told.events else "nothing"
            outcomes[last] = outcomes.get(last, 0) + 1
            if problems:
                failures.append(f"call {nth} ({hit}; {last}): " + "; ".join(problems).replace(root, "ROOT"))
        if hit is None or len(failures) >= enough:
            return Swept(points, failures, outcomes, time.monotonic() - begun)
        points += 1
    return Swept(points, [*failures, f"it makes more than {most} calls"], outcomes, time.monotonic() - begun)


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fault_scenarios", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fault_scenarios"] = module
    spec.loader.exec_module(module)
    return module


def main(scenarios: str, directory: str) -> None:
    """Answer questions from standard input, one a line, until it ends."""
    global _library
    from . import powercut

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a scenario prints is no answer
    _library = Library()
    known: dict[str, Scenario] = _load(scenarios).SCENARIOS
    for line in sys.stdin:
        question = json.loads(line)
        try:
            scenario = known[question["scenario"]]
            how = {word: question[word] for word in ("first", "step", "most", "enough")}
            if question["fault"] == "cut":
                swept = powercut.sweep(scenario, directory, seed=question["seed"], **how)
            else:
                swept = sweep(scenario, FAULTS[question["fault"]], directory, **how)
            answer: dict[str, Any] = dataclasses.asdict(swept)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    from pinstripe.testing import faults as itself  # one module, whatever it was started as

    itself.main(*sys.argv[1:])
