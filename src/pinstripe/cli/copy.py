"""Command cp: in, out and within. Alone or with all ranks of a job."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import numpy as np

from ..errors import Error
from ..kernels import crc64_combine
from ..options import Options
from ..store.filesystem import sync_filesystem
from ..store.opening import open_session
from ..store.place import locate
from ..store.shares import cut, deal
from ..store.team import SERIAL, Team
from ..store.telling import tell_json
from .copy_data import HostSink, HostSource, StoreSource, check_crc, copy_range
from .copy_plan import Item, Plan, plan_copy
from .failure import RESUMABLE, Failures, exit_code, in_one_line, tell
from .output import echo, emit_json, size_text
from .progress import Progress
from .ranks import make_team
from .trees import HOST, STORE, Tree, tree_of
from .words import json_option

__all__ = ["cp_command"]

_SHARED_BYTES = 64 << 20
"""Files from this size on are copied by all ranks together."""


@click.command("cp")
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.argument("destination", type=click.Path())
@click.option("-r", "-R", "recursive", is_flag=True, help="Directories too; symlinks are copied as such.")
@click.option("-p", "preserve", is_flag=True, help="Keep owner, times and extended attributes, too.")
@json_option
def cp_command(sources: tuple[str, ...], destination: str, recursive: bool, preserve: bool, as_json: bool) -> None:
    """Copy into a store, out of one, or within; keeps mode and holes, and verifies what it copied.

    Each file is seen whole or not at all. Under mpirun all ranks share the work. What is there when cp ends is durable.

    \b
    Examples:
      pinstripe cp -r results /scratch/store/
      mpirun -n 8 pinstripe cp -rp /scratch/store/run-1 /archive/
    """
    team = make_team()
    copy = _Copy(team, recursive, preserve)
    begun = time.monotonic()
    try:
        copy.run(sources, destination, quiet=as_json)
    except KeyboardInterrupt:
        tell(f"interrupted: {copy.files} files are copied, each whole; run it again for the rest")
        raise click.exceptions.Exit(RESUMABLE) from None
    seconds = max(time.monotonic() - begun, 1e-9)
    files, size, failed, code = copy.totals()
    if team.rank == 0:
        if as_json:
            emit_json({"files": files, "bytes": size, "failed": failed, "seconds": round(seconds, 3)})
        else:
            rate = f"{size / seconds / 1e9:.2f} GB/s"
            echo(f"copied {files} file{'s' * (files != 1)}, {size_text(size)} in {seconds:.1f} s ({rate})")
    if code:
        raise click.exceptions.Exit(code)


class _Copy:
    """One run of cp on one rank."""

    def __init__(self, team: Team, recursive: bool, preserve: bool) -> None:
        self.team, self.recursive, self.preserve = team, recursive, preserve
        self.failures = Failures()
        self.files = 0
        self.size = 0
        self._advance: Callable[[int], object] = lambda count: None

    def run(self, sources: tuple[str, ...], destination: str, *, quiet: bool) -> None:
        """Collective. Plan on the first rank, then copy: shared files by all together, the others each by one."""
        error: BaseException | None = None
        plan = Plan()
        if self.team.rank == 0:
            try:
                plan = plan_copy(sources, destination, self.recursive, self.failures)
                self._make_directories(plan)
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
        self.team.agree(error)
        told = tell_json(self.team, dataclasses.asdict(plan))
        plan = Plan(*([Item(**item) for item in told[name]] for name in ("directories", "links", "files")))
        with Progress("copied", plan.size // self.team.size, enabled=self.team.rank == 0 and not quiet) as progress:
            self._advance = progress.advance
            self._copy_files(plan)
        if self.recursive:
            self._sync(plan, destination)
        if self.team.rank == 0:
            for item in reversed(plan.directories):
                if item.is_new or self.preserve:
                    with self.failures:
                        _give_attributes(item, self.preserve, item.mode)

    def totals(self) -> tuple[int, int, int, int]:
        """Collective. Files, bytes, failures and exit code of all ranks."""
        mine = np.array([self.files, self.size, self.failures.count, self.failures.code], np.int64)
        every = np.stack(self.team.allgather(mine))
        files, size, failed = every[:, :3].sum(axis=0).tolist()
        return files, size, failed, int(every[:, 3].max())

    def _make_directories(self, plan: Plan) -> None:
        for item in plan.directories:
            if item.is_new:
                with self.failures:
                    _side(item.to_store).mkdir(item.destination)
        for item in plan.links:
            with self.failures:
                side = _side(item.to_store)
                if not item.is_new:
                    side.unlink(item.destination)
                side.symlink(item.link, item.destination)
                if self.preserve:
                    _give_attributes(item, True, None)
                self.files += 1

    def _copy_files(self, plan: Plan) -> None:
        together = [item for item in plan.files if self.team.size > 1 and item.size >= _SHARED_BYTES]
        alone = [item for item in plan.files if self.team.size == 1 or item.size < _SHARED_BYTES]
        for item in together:
            try:
                self._copy_together(item)
            except (Error, OSError) as error:  # the same on every rank
                if self.team.rank == 0:
                    self.failures.add(in_one_line(error), exit_code(error))
        sizes = [item.size for item in alone]
        most = max(sizes, default=0) + 1
        unforeseen: BaseException | None = None
        try:
            for share in deal(sizes, self.team.size, most)[self.team.rank]:
                with self.failures:
                    self._copy_alone(alone[share.file])
        except BaseException as raised:  # an interrupt too: the others wait in agree
            unforeseen = raised
        self.team.agree(unforeseen)

    def _copy_alone(self, item: Item) -> None:
        with _opened(item) as source:
            if item.to_store:
                self._into_store(item, source, SERIAL)
            else:
                sink = HostSink(item.destination, item.mode & 0o777)
                try:
                    self._into_host(item, source, sink, SERIAL)
                finally:
                    sink.close()
        _give_attributes(item, self.preserve, item.mode if item.to_store and item.is_new else None)
        self.files += 1

    def _copy_together(self, item: Item) -> None:
        """Collective. Each rank copies its own range of the file; an error on one is raised on all."""
        error: BaseException | None = None
        source: HostSource | StoreSource | None = None
        try:
            source = _open(item)
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        try:
            self.team.agree(error)
            assert source is not None
            if item.to_store:
                self._into_store(item, source, self.team)
            else:
                self._into_host_together(item, source)
        finally:
            if source is not None:
                source.close()
        if self.team.rank == 0:
            self.files += 1
            with self.failures:
                _give_attributes(item, self.preserve, item.mode if item.to_store and item.is_new else None)

    def _into_store(self, item: Item, source: HostSource | StoreSource, team: Team) -> None:
        # A new file has no older generation to fall back to, so it can wait for the one sync at the end.
        durability = "none" if self.recursive and item.is_new else "full"
        with _umask_for(item.mode):
            session = open_session(item.destination, "w", team=team, options=Options.make({"durability": durability}))
            try:
                crc = self._copy_range(source, session, session.layout.stripe_bytes, team)
                if session.size < source.size:  # it ends with a hole
                    session.resize(source.size)
                session.publish(final=True)
            except BaseException:
                session.discard()
                raise
            finally:
                session.close()
        if team.rank == 0:
            check_crc(crc, StoreSource(session).data_crc, item.destination)

    def _into_host(self, item: Item, source: HostSource | StoreSource, sink: HostSink, team: Team) -> None:
        crc = self._copy_range(source, sink, 1 << 20, team)
        if isinstance(source, StoreSource):
            check_crc(crc, source.data_crc, item.source)
        sink.finish(source.size, sync=not self.recursive)

    def _into_host_together(self, item: Item, source: HostSource | StoreSource) -> None:
        """Collective. The first rank makes the draft, all write it, the first gives it its name."""
        error: BaseException | None = None
        sink: HostSink | None = None
        try:
            if self.team.rank == 0:
                sink = HostSink(item.destination, item.mode & 0o777)
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        try:
            self.team.agree(error)
            draft = tell_json(self.team, sink.draft if sink is not None else None)
            try:
                if sink is None:
                    sink = HostSink(item.destination, 0, draft)
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
            self.team.agree(error)
            assert sink is not None
            crc = self._copy_range(source, sink, 1 << 20, self.team)
            try:
                if not self.recursive:
                    sink.sync()
                if self.team.rank == 0 and isinstance(source, StoreSource):
                    check_crc(crc, source.data_crc, item.source)
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
            self.team.agree(error)
            try:
                if self.team.rank == 0:
                    sink.finish(source.size, sync=not self.recursive)
            except BaseException as raised:  # an interrupt too: the others wait in agree
                error = raised
            self.team.agree(error)
        finally:
            if sink is not None:
                sink.close()

    def _copy_range(self, source: HostSource | StoreSource, sink: object, grain_bytes: int, team: Team) -> int:
        """Collective. Copy this rank's range; return the whole file's checksum, on the first rank."""
        begin, end = cut(source.size, team.size, grain_bytes)[team.rank]
        crc = 0
        error: BaseException | None = None
        try:
            crc = copy_range(source, sink, begin, end, self._advance, max(8 << 20, grain_bytes))  # type: ignore[arg-type]
            source.check_unchanged()
            self.size += end - begin
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        team.agree(error)
        every = np.stack(team.allgather(np.array([end - begin, crc], np.uint64)))
        whole = 0
        for length, part in every.tolist():
            whole = crc64_combine(whole, part, length)
        return whole

    def _sync(self, plan: Plan, destination: str) -> None:
        """Collective. Make durable what each rank wrote, once for all files; per node, for each has its own page cache."""
        error: BaseException | None = None
        try:
            for path in _filesystems(plan, destination):
                sync_filesystem(path)
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
        self.team.agree(error)


def _filesystems(plan: Plan, destination: str) -> list[str]:
    """One path on each file system that was written to."""
    if not (plan.files or plan.links or plan.directories):
        return []
    side = tree_of(destination)
    paths = [side.real(destination) if side.isdir(destination) else os.path.dirname(side.real(destination))]
    if side.is_store:
        paths += [target.path for target in locate(destination).store.targets]
    return list({os.stat(path).st_dev: path for path in paths}.values())


def _side(is_store: bool) -> Tree:
    return STORE if is_store else HOST


def _open(item: Item) -> HostSource | StoreSource:
    return StoreSource(open_session(item.source, "r")) if item.from_store else HostSource(item.source)


@contextmanager
def _opened(item: Item) -> Iterator[HostSource | StoreSource]:
    source = _open(item)
    try:
        yield source
    finally:
        source.close()


@contextmanager
def _umask_for(mode: int) -> Iterator[None]:
    """Make new files no wider than `mode` from their first moment on; their owner always keeps his bits."""
    before = os.umask(~mode & 0o077)
    try:
        yield
    finally:
        os.umask(before)


def _give_attributes(item: Item, preserve: bool, mode: int | None) -> None:
    """Give the copy what it is to keep of its source: `mode`, and with -p owner, times and extended attributes."""
    side, tree = _side(item.to_store), _side(item.from_store)
    path = item.destination
    is_link = bool(item.link)
    if preserve:
        mode = item.mode
        for name, value in tree.xattrs(item.source).items():
            if name.startswith(("user.", "system.posix_acl_")):
                with suppress(OSError):  # the other file system may know none
                    side.setxattr(path, name, value)
        try:
            side.chown(path, item.uid, item.gid)
        except PermissionError:  # as cp: without its owner a file is no longer set-id
            mode &= 0o1777
    elif mode is not None:
        # Set-id bits are a program's; but a directory has its group's bit from the one it was made in, and hands it on.
        mode = mode & 0o1777 | (os.lstat(side.real(path)).st_mode & 0o2000 if side.isdir(path) else 0)
    if mode is not None and not is_link and side.lstat(path).st_mode & 0o7777 != mode:
        side.chmod(path, mode)
    if preserve:
        side.utime(path, (item.atime_ns, item.mtime_ns))
