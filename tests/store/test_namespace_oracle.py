"""The namespace beside a plain directory: the same calls, the same outcomes, the same errors."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pinstripe.format.inode import Inode
from pinstripe.store import namespace as ns
from pinstripe.store.create import create
from pinstripe.store.newfile import write_inode

NAMES = ("a", "b", "c")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
links = st.lists(st.sampled_from((*NAMES, "..", ".")), min_size=1, max_size=3).map("/".join)


class NamespaceBesideDirectory(RuleBasedStateMachine):
    """Each rule acts on both sides and compares what came of it."""

    def __init__(self) -> None:
        super().__init__()
        base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
        self.top = Path(tempfile.mkdtemp(prefix="pinstripe-oracle-", dir=base))
        self.store = create(self.top / "store", [self.top / "target"])
        self.plain = self.top / "plain"
        self.plain.mkdir()

    def teardown(self) -> None:
        shutil.rmtree(self.top)

    def both(self, ours: Callable[..., Any], theirs: Callable[..., Any], *paths: str) -> Any:
        """Call both; the outcome or the error must be the same."""
        outcomes = []
        for act, top in ((theirs, str(self.plain)), (ours, self.store.root)):
            try:
                outcomes.append((None, act(*(f"{top}/{path}" for path in paths))))
            except OSError as error:
                outcomes.append((error.errno, None))
        assert outcomes[0] == outcomes[1], (paths, outcomes)
        return outcomes[0][1]

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        self.both(ns.mkdir, os.mkdir, path)

    @rule(path=paths, exist_ok=st.booleans())
    def makedirs(self, path: str, exist_ok: bool) -> None:
        self.both(lambda p: ns.makedirs(p, exist_ok=exist_ok), lambda p: os.makedirs(p, exist_ok=exist_ok), path)

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self.both(ns.rmdir, os.rmdir, path)

    @rule(path=paths, size=st.integers(0, 50))
    def make(self, path: str, size: int) -> None:
        def ours(path: str) -> None:
            inode = Inode(secrets.token_bytes(16), "inline", self.store.layout, b"x" * size)
            place = ns.locate(path)
            write_inode(self.store, inode, place.path, refuse_existing=True, sync=False)

        def theirs(path: str) -> None:
            with open(path, "xb") as file:
                file.write(b"x" * size)

        if not os.path.lexists(self.plain / path):
            self.both(ours, theirs, path)

    @rule(path=paths)
    def remove(self, path: str) -> None:
        self.both(ns.remove, os.remove, path)

    @rule(source=paths, destination=paths)
    def rename(self, source: str, destination: str) -> None:
        self.both(ns.rename, os.rename, source, destination)

    @rule(path=paths, content=links)
    def symlink(self, path: str, content: str) -> None:
        depth = path.count("/")
        for part in content.split("/"):
            depth += {"..": -1, ".": 0}.get(part, 1)
            if depth < 0:
                return  # it would leave the store; a plain directory has no such bound
        if os.path.realpath(os.path.dirname(self.plain / path)) != os.path.dirname(str(self.plain / path)):
            return  # the link's own directory is reached by a link, so its depth is another
        self.both(lambda p: ns.symlink(content, p), lambda p: os.symlink(content, p), path)

    @rule(path=paths)
    def look(self, path: str) -> None:
        if not os.path.realpath(self.plain / path).startswith(str(self.plain)):
            return  # a link that was moved, and leaves now
        self.both(ns.exists, os.path.exists, path)
        self.both(ns.lexists, os.path.lexists, path)
        self.both(ns.isdir, os.path.isdir, path)
        self.both(ns.isfile, os.path.isfile, path)
        self.both(lambda p: sorted(ns.listdir(p)), lambda p: sorted(os.listdir(p)), path)
        self.both(ns.readlink, os.readlink, path)
        self.both(lambda p: ns.stat(p).st_mode, lambda p: os.stat(p).st_mode, path)

    @invariant()
    def the_trees_are_equal(self) -> None:
        def seen(top: str, walk: Callable[..., Any], lstat: Callable[[str], os.stat_result]) -> list[Any]:
            found = []
            for directory, names, files in walk(top):
                sizes = [(name, lstat(os.path.join(directory, name)).st_size) for name in sorted(files)]
                found.append((os.path.relpath(directory, top), sorted(names), sizes))
            return sorted(found)

        ours = seen(self.store.root, ns.walk, ns.lstat)
        theirs = seen(str(self.plain), self._bounded_walk, os.lstat)
        assert ours == theirs

    def _bounded_walk(self, top: str) -> Any:
        """`os.walk`, but a link that leaves is listed as the store lists it: as no directory."""
        for directory, names, files in os.walk(top):
            for name in list(names):
                path = os.path.join(directory, name)
                if os.path.islink(path) and not (os.path.realpath(path) + os.sep).startswith(top + os.sep):
                    names.remove(name)
                    files.append(name)
            yield directory, names, files


TestNamespaceBesideDirectory = NamespaceBesideDirectory.TestCase
TestNamespaceBesideDirectory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
