"""Opening: what the first rank looks up and registers, and how the others are told.

Order for a file that has a name: register, *then* check that ``inode`` is still this inode and is named, *then* list and record the base.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import secrets
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError, DamageError
from ..format.inode import Inode
from ..format.layout import Layout
from ..options import Options
from ..targets.contract import Access
from .commit import sync_entry
from .directory_layout import layout_of
from .generation import Generation, list_numbers, newest_durable
from .inode_file import read_inode
from .naming import naming
from .newfile import MovedError, access_of
from .place import Place, locate
from .registering import base_of, refuse_others, register
from .session import Session
from .store import Store
from .stub import restore
from .team import SERIAL, Team

__all__ = ["MODES", "open_session"]

MODES = ("r", "r+", "w", "x", "a", "c")
"""As `open`'s; ``c`` is ``r+`` of a file that is made when it is not there."""


LOOKS = 100
"""How often a name that others move meanwhile is looked at again."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """What the first rank found or made; told to the others as JSON."""

    path: str
    tx: str
    token: str
    manifest: str
    access: tuple[int, int, int]
    inline: bool
    stub: bool


def open_session(
    path: str | os.PathLike[str],
    mode: str,
    *,
    team: Team = SERIAL,
    options: Options | None = None,
    name_at_open: bool = False,
    exclusive: bool = False,
    layout: dict[str, Any] | None = None,
    generation: int | str | None = None,
) -> Session:
    """Collective. Open a file; the first rank looks and registers, the others are told.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    name_at_open : bool
        Make a new file's name now, empty, as MPI and POSIX do; else it appears with the first commit.
    exclusive : bool
        Refuse to open for writing beside a live writer.
    layout : dict, optional
        Changes to the layout that a new file inherits from its directory.
    generation : int or str, optional
        Read an older one: its number, ``"durable"``, or the id of a kept transaction.

    Raises
    ------
    OSError
        As `open`; BlockingIOError for `exclusive`. The same on every rank.
    """
    options = options or Options.make()
    error: BaseException | None = None
    session: Session | None = None
    if team.rank == 0:
        try:
            with naming(os.fspath(path)):
                session = _open_first(path, mode, team, options, name_at_open, exclusive, layout, generation)
        except BaseException as raised:  # an interrupt too: the others wait in agree
            error = raised
    team.agree(error)
    if team.size == 1:
        assert session is not None
        return session
    shared = _share(session, mode, team, options)
    try:
        shared.spread_inline()
    except BaseException:  # the same on all ranks
        shared.discard()
        shared.close()
        raise
    return shared


def _share(session: Session | None, mode: str, team: Team, options: Options) -> Session:
    """Tell the other ranks what the first opened."""
    inode_bytes = team.broadcast(session.inode.encode() if session is not None else None)
    told = team.broadcast(json.dumps(dataclasses.asdict(_describe(session))).encode() if session is not None else None)
    head = team.broadcast(session.base.head_bytes() if session is not None else None)
    if session is not None:
        return session
    opened = _Opened(**json.loads(told))
    inode = Inode.decode(inode_bytes)
    store = Store.find(os.path.dirname(opened.path))
    inline = inode.data if opened.inline else None
    remote = inode.remote if opened.stub else None
    base = Generation.from_head_bytes(inode.file_id, inode.layout, head, opened.manifest, inline, remote)
    base.store = store
    made = Session(store, opened.path, inode, mode, team, options, base)
    made.access = Access(*opened.access)
    made.tx_id = bytes.fromhex(opened.tx)
    made.token = opened.token
    return made


def _describe(session: Session) -> _Opened:
    access = session.access
    return _Opened(
        path=session.path,
        tx=session.tx_id.hex(),
        token=session.token,
        manifest=session.base.path,
        access=(access.mode, access.uid or 0, access.gid or 0),
        inline=session.base.inline is not None,
        stub=session.base.remote is not None and session.base.header is None,
    )


def _open_first(
    path: str | os.PathLike[str],
    mode: str,
    team: Team,
    options: Options,
    name_at_open: bool,
    exclusive: bool,
    layout: dict[str, Any] | None,
    generation: int | str | None,
) -> Session:
    if mode not in MODES:
        raise ArgumentError(f"mode={mode!r}: choose one of {', '.join(MODES)}")
    if generation is not None and mode != "r":
        raise ArgumentError("an older generation can only be read: mode='r'")
    for _ in range(LOOKS):
        place = locate(path)
        if mode != "r":
            place.store.check_writable()
        try:
            inode, seen = read_inode(place.path)
        except FileNotFoundError:
            if mode in ("r", "r+") or not place.name:
                raise
            try:
                return _open_new(place, mode, team, options, name_at_open, layout)
            except FileExistsError:  # named at open, and another was first
                if mode == "x":
                    raise
                continue
        if mode == "x":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.path)
        try:
            return _open_existing(place, inode, seen, mode, team, options, exclusive, generation)
        except MovedError:
            continue
    raise MovedError(errno.ENOENT, "the name leads to another file whenever it is opened", os.fspath(path))


def _open_existing(
    place: Place,
    inode: Inode,
    seen: os.stat_result,
    mode: str,
    team: Team,
    options: Options,
    exclusive: bool,
    generation: int | str | None,
) -> Session:
    store = place.store

    def still_named() -> bool:
        try:
            now = os.lstat(place.path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)

    if mode == "r":
        base = _generation(store, inode, place.path, generation, still_named)
        session = Session(store, place.path, inode, mode, team, options, base)
        session.access = access_of(seen)
        return session
    _check_access(place.path, place.path, os.W_OK)
    tx = register(store, inode, place.path, seen, team.size)
    try:
        if exclusive:
            refuse_others(tx, place.path)
        try:
            base, highest = base_of(store, inode, place.path, still_named)
        except DamageError:
            if mode != "w":
                raise
            numbers = list_numbers(tx.directory)  # whatever is there is replaced, damaged or not
            base, highest = Generation(inode.file_id, inode.layout), max(numbers, default=0)
            base.number = highest
        if (
            base.remote is not None and mode != "w"
        ):  # a stub is restored before it is changed, which is a commit of its own
            base.close()
            tx.discard()
            restore(place.path, durable=options.durable, options=options)
            raise MovedError(errno.ENOENT, "the file was restored while it was opened", place.path)
        tx.record_base(base.number, highest)
        session = Session(store, place.path, inode, mode, team, options, base)
    except BaseException:
        tx.discard()
        raise
    session.access = access_of(seen)
    session.transaction, session.tx_id = tx, tx.id
    return session


def _open_new(
    place: Place, mode: str, team: Team, options: Options, name_at_open: bool, layout: dict[str, Any] | None
) -> Session:
    os.stat(place.directory)  # ENOENT, ENOTDIR as the system says
    _check_access(place.directory, place.path, os.W_OK | os.X_OK)
    file_layout = Layout.make(layout_of(place.directory), **(layout or {}))
    inode = Inode(secrets.token_bytes(16), "generations", file_layout)
    base = Generation(inode.file_id, file_layout)
    session = Session(place.store, place.path, inode, mode, team, options, base)
    session.replaces = False
    session.unborn = True
    if team.size > 1 or name_at_open:
        session.be_born()
        if name_at_open:
            assert session.new_file is not None
            assert session.transaction is not None
            try:
                if options.durable:
                    sync_entry(session.transaction.directory)
                session.new_file.put_name(sync=options.durable)
            except OSError:
                session.abandon()
                raise
            session.new_file = None
    return session


def _check_access(path: str, named: str, wanted: int) -> None:
    """Refuse as the system would: PermissionError, or EROFS on a read-only mount."""
    if not os.access(path, wanted):
        code = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), named)


def _generation(
    store: Store, inode: Inode, path: str, which: int | str | None, still_named: Callable[[], bool]
) -> Generation:
    if which is None:
        return Generation.head(store, inode, path, named=still_named)
    directory = store.file_directory(inode.file_id)
    if which == "durable":
        which = newest_durable(directory, inode.file_id)
    if isinstance(which, str) and not which.isdecimal():
        try:
            return Generation.from_path(inode.file_id, os.path.join(directory, f"{which}.tx"), None)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, f"the file keeps no transaction {which}", path) from None
    number = int(which)
    if number == 0 and inode.kind != "generations":
        return Generation.zero(inode)
    try:
        return Generation.from_path(inode.file_id, os.path.join(directory, str(number)), number)
    except FileNotFoundError:
        have = "none"
        with contextlib.suppress(FileNotFoundError):
            have = ", ".join(map(str, list_numbers(directory))) or "none"
        raise FileNotFoundError(errno.ENOENT, f"the file has no generation {number} (it has {have})", path) from None
