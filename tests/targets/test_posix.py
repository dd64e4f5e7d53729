"""Directories as targets: identity, permissions, symlinks, short writes."""

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pinstripe.errors import ArgumentError, TargetError
from pinstripe.format.superblock import TargetEntry
from pinstripe.targets import posix
from pinstripe.targets.contract import Access
from pinstripe.targets.posix import IDENTITY, PosixSegment, PosixTarget, create_target, open_target

STORE, OTHER_STORE = b"\x01" * 16, b"\x02" * 16
FILE = bytes.fromhex("a0" + "11" * 15)
TX = bytes.fromhex("44" * 16)
NAME = f"{TX.hex()}.0.0"
ROOT = os.geteuid() == 0


@pytest.fixture
def target(tmp_path):
    return create_target(tmp_path / "target", STORE)


@pytest.fixture
def open_path():
    """A directory that other users reach too: `tmp_path` lies below one that is closed to them."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(*path: object) -> int:
    return stat.S_IMODE(os.lstat(os.path.join(*map(str, path))).st_mode)


def file_directory(target: PosixTarget) -> str:
    return f"{target.path}/{FILE.hex()[:2]}/{FILE.hex()}"


def make_segment(target: PosixTarget, access: Access, name: str = NAME) -> str:
    with target.create_segment(FILE, name, access) as segment:
        segment.write_at(b"data", 0)
    return f"{file_directory(target)}/{name}"


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_identity_file_is_frozen(tmp_path):
    target = create_target(tmp_path / "t", STORE, target_id=b"\x0a" * 16)
    assert (tmp_path / "t" / IDENTITY).read_bytes() == (
        b'{"format":1,"store":"01010101010101010101010101010101","target":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}\n'
    )
    assert os.listdir(target.path) == [IDENTITY]


def test_a_target_is_opened_by_its_entry(tmp_path):
    made = create_target(tmp_path / "fast", STORE, scope="node", pool="ssd")
    (tmp_path / "store").mkdir()
    target = open_target(TargetEntry(made.id, "../fast", "node", "ssd"), str(tmp_path / "store"), STORE)
    target.check()
    assert (target.id, target.path, target.scope, target.pool) == (made.id, str(tmp_path / "fast"), "node", "ssd")
    absolute = open_target(TargetEntry(made.id, str(tmp_path / "fast")), "/nowhere", STORE)
    absolute.check()


def test_the_directory_is_made_if_its_parent_exists(tmp_path):
    assert create_target(tmp_path / "made", STORE).path == str(tmp_path / "made")
    with pytest.raises(TargetError, match=r"parent directory .* does not exist"):
        create_target(tmp_path / "missing" / "made", STORE)
    assert os.listdir(tmp_path) == ["made"]


def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ArgumentError, match=r"not empty \(it holds precious\): choose an empty directory"):
        create_target(tmp_path, STORE)
    assert os.listdir(tmp_path) == ["precious"]


def test_a_directory_that_is_a_target_is_refused_and_its_store_is_named(target):
    with pytest.raises(ArgumentError, match="a target of this store already"):
        create_target(target.path, STORE)
    with pytest.raises(ArgumentError, match=f"a target of the store {STORE.hex()} already"):
        create_target(target.path, OTHER_STORE)
    target.check()


def test_only_one_of_two_stores_gets_a_directory(tmp_path):
    made, refused = [], []
    gate = threading.Barrier(8)

    def make(number: int) -> None:
        gate.wait()
        try:
            made.append(create_target(tmp_path / "t", bytes([number]) * 16))
        except ArgumentError as error:
            refused.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) <= 1
    assert len(made) + len(refused) == 8
    for winner in made:
        winner.check()


def test_a_file_is_no_place_for_a_target(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="cannot be made"):
        create_target(tmp_path / "file", STORE)


def test_a_wrong_scope_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="scope='rack': choose one of shared, node"):
        create_target(tmp_path / "t", STORE, scope="rack")
    assert os.listdir(tmp_path) == []


def test_a_target_needs_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(posix.os, "link", refuse)
    target = create_target(tmp_path / "t", STORE)
    assert os.listdir(target.path) == [IDENTITY]
    target.check()


USES = {
    "check": lambda target: target.check(),
    "create_segment": lambda target: target.create_segment(FILE, NAME, Access(0o600)),
    "open_segment": lambda target: target.open_segment(FILE, NAME),
    "list_segments": lambda target: target.list_segments(FILE),
    "list_files": lambda target: list(target.list_files()),
    "remove_segment": lambda target: target.remove_segment(FILE, NAME),
    "remove_directory": lambda target: target.remove_directory(FILE),
    "sync_directory": lambda target: target.sync_directory(FILE),
    "write_manifest_copy": lambda target: target.write_manifest_copy(FILE, TX, b"", Access(0o600)),
    "read_manifest_copy": lambda target: target.read_manifest_copy(FILE, TX),
    "space": lambda target: target.space(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("checked", [False, True], ids=["fresh", "checked before"])
@pytest.mark.parametrize("how", ["unmounted", "gone", "swapped", "damaged"])
def test_a_target_that_is_not_there_is_never_taken_for_an_empty_one(tmp_path, target, use, checked, how):
    make_segment(target, Access(0o600))
    if checked:
        target.check()
    else:
        target = PosixTarget(target.path, target.id, STORE)
    os.rename(target.path, tmp_path / "elsewhere")
    if how == "unmounted":
        os.mkdir(target.path)
    elif how == "swapped":
        create_target(target.path, STORE)
    elif how == "damaged":
        os.mkdir(target.path)
        with open(f"{target.path}/{IDENTITY}", "w") as file:
            file.write('{"format":1,"store":"01"')
    with pytest.raises(TargetError) as caught:
        use(target)
    assert caught.value.target == target.path
    assert caught.value.errno != errno.ENOENT
    assert target.path in str(caught.value)
    if how != "gone":
        assert set(os.listdir(target.path)) <= {IDENTITY}  # nothing was made in the wrong place


@pytest.mark.parametrize(
    ("store", "changed_id", "words"),
    [(OTHER_STORE, False, "belongs to the store 0101"), (STORE, True, r"is the target \w+, not 0909")],
)
def test_a_foreign_target_is_named(target, store, changed_id, words):
    foreign = PosixTarget(target.path, b"\x09" * 16 if changed_id else target.id, store)
    with pytest.raises(TargetError, match=words):
        foreign.check()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "7", '{"format":1,"store":1,"target":2}', '{"format":1,"store":"zz","target":"00"}', "[" * 4096],
)
def test_a_damaged_identity_is_an_error_with_a_remedy(target, text):
    os.chmod(f"{target.path}/{IDENTITY}", 0o644)
    with open(f"{target.path}/{IDENTITY}", "w") as file:
        file.write(text)
    with pytest.raises(TargetError, match="restore the file"):
        target.check()


def test_a_newer_identity_is_unsupported(target):
    os.chmod(f"{target.path}/{IDENTITY}", 0o644)
    with open(f"{target.path}/{IDENTITY}", "w") as file:
        file.write(f'{{"format":2,"store":"{STORE.hex()}","target":"{target.id.hex()}"}}')
    with pytest.raises(TargetError, match="format 2"):
        target.check()


def test_a_target_that_comes_back_is_used_again(tmp_path, target):
    make_segment(target, Access(0o600))
    os.rename(target.path, tmp_path / "unmounted")
    with pytest.raises(TargetError, match="missing"):
        target.list_segments(FILE)
    os.rename(tmp_path / "unmounted", target.path)
    assert target.list_segments(FILE) == [NAME]


def test_the_error_survives_its_way_to_another_rank(tmp_path):
    with pytest.raises(TargetError) as caught:
        PosixTarget(str(tmp_path / "gone"), bytes(16), STORE).check()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.target, copy.errno) == (str(caught.value), caught.value.target, caught.value.errno)


# --- permissions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_mode", "directory_mode"),
    [
        (0o600, 0o700),
        (0o400, 0o700),
        (0o200, 0o300),
        (0o000, 0o300),
        (0o640, 0o750),
        (0o644, 0o755),
        (0o660, 0o770),
        (0o664, 0o775),
        (0o620, 0o730),
        (0o666, 0o777),
        (0o755, 0o755),
        (0o711, 0o700),
        (0o2770, 0o770),
        (0o1777, 0o777),
        (0o100640, 0o750),
    ],
)
def test_a_files_directory_follows_its_mode_whatever_the_umask(target, umask, file_mode, directory_mode):
    assert Access(file_mode).directory_mode == directory_mode
    path = make_segment(target, Access(file_mode, os.getuid(), os.getgid()))
    assert mode_of(file_directory(target)) == directory_mode
    assert mode_of(path) == 0o444


def test_a_manifest_copy_is_read_only_whatever_the_umask(target, umask):
    target.write_manifest_copy(FILE, TX, b"manifest", Access(0o600))
    assert mode_of(file_directory(target), f"{TX.hex()}.manifest") == 0o444
    assert mode_of(target.path, IDENTITY) == 0o444


@pytest.mark.parametrize(
    ("target_mode", "shard_mode"), [(0o700, 0o700), (0o755, 0o711), (0o775, 0o731), (0o2770, 0o2730), (0o1777, 0o1733)]
)
def test_an_aa_directory_is_as_wide_as_the_target_but_not_to_be_listed(target, umask, target_mode, shard_mode):
    os.chmod(target.path, target_mode)
    make_segment(target, Access(0o644))
    assert mode_of(target.path, FILE.hex()[:2]) == shard_mode


def test_a_setgid_target_gives_its_group_on_and_the_files_directory_has_the_files_group(target):
    groups = [group for group in os.getgroups() if group != os.getegid()]
    if ROOT:
        groups = [12345]
    if not groups:
        pytest.skip("needs a second group")
    os.chown(target.path, -1, groups[0])
    os.chmod(target.path, 0o2770)
    make_segment(target, Access(0o660))
    assert os.stat(f"{target.path}/{FILE.hex()[:2]}").st_gid == groups[0]
    assert os.stat(file_directory(target)).st_gid == groups[0]
    other = bytes.fromhex("a0" + "22" * 15)
    target.create_segment(other, NAME, Access(0o660, gid=os.getegid())).close()
    seen = os.stat(f"{target.path}/a0/{other.hex()}")
    assert (seen.st_gid, stat.S_IMODE(seen.st_mode)) == (os.getegid(), 0o770)


def test_where_the_group_cannot_be_set_the_group_gets_nothing(target, monkeypatch):
    def refuse(fd: int, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, "not in that group")

    monkeypatch.setattr(posix.os, "fchown", refuse)
    make_segment(target, Access(0o664, os.getuid(), os.getegid() + 1))
    assert mode_of(file_directory(target)) == 0o705


def test_an_inherited_acl_lets_nobody_in(target, monkeypatch):
    removed = []
    monkeypatch.setattr(posix.os, "removexattr", lambda fd, name: removed.append(name))
    make_segment(target, Access(0o600))
    assert removed == ["system.posix_acl_access", "system.posix_acl_default"]


@pytest.mark.parametrize(
    ("access", "directory_mode", "accepted"),
    [
        (lambda uid, gid: Access(0o600, uid, gid), 0o700, True),
        (lambda uid, gid: Access(0o644, uid, gid), 0o700, True),
        (lambda uid, gid: Access(0o600), 0o777, True),
        (lambda uid, gid: Access(0o666, uid + 1, gid), 0o777, True),
        (lambda uid, gid: Access(0o664, uid + 1, gid), 0o775, True),
        (lambda uid, gid: Access(0o664, uid + 1, gid + 1), 0o775, False),
        (lambda uid, gid: Access(0o664, uid + 1, gid), 0o777, False),
        (lambda uid, gid: Access(0o644, uid + 1, gid), 0o755, False),
        (lambda uid, gid: Access(0o600, uid + 1, gid), 0o700, False),
    ],
    ids=[
        "the owner's",
        "the owner's with another mode",
        "owner unknown",
        "everybody's file",
        "same group and mode",
        "another group",
        "another mode",
        "group may not write",
        "private",
    ],
)
def test_a_directory_that_somebody_else_made_is_used_only_if_it_lets_nobody_more_in(
    target, monkeypatch, access, directory_mode, accepted
):
    make_segment(target, Access(0o600))
    os.chmod(file_directory(target), directory_mode)
    seen = os.stat(file_directory(target))
    uid, gid = seen.st_uid or 1000, seen.st_gid
    if ROOT:  # root's directories are trusted: let it be another's
        os.chown(file_directory(target), uid, -1)
    name = f"{TX.hex()}.1.0"
    if accepted:
        make_segment(target, access(uid, gid), name)
    else:
        with pytest.raises(TargetError, match=f"belongs to user {uid}") as caught:
            target.create_segment(FILE, name, access(uid, gid))
        assert caught.value.errno == errno.EACCES
        assert target.list_segments(FILE) == [NAME]


@pytest.mark.skipif(not ROOT, reason="needs to be root")
def test_root_gives_the_directory_to_the_files_owner(target):
    make_segment(target, Access(0o640, 1234, 5678))
    seen = os.stat(file_directory(target))
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (1234, 5678, 0o750)


@pytest.mark.skipif(not ROOT, reason="needs to be root")
def test_a_user_who_may_not_list_the_aa_directory_can_write_sync_and_read(open_path):
    target = create_target(open_path / "t", STORE)
    os.chmod(target.path, 0o1777)
    shard = f"{target.path}/{FILE.hex()[:2]}"
    os.mkdir(shard)
    os.chmod(shard, 0o1733)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(4321)
            os.setuid(4321)
            access = Access(0o600, 4321, 4321)
            make_segment(target, access)
            target.sync_directory(FILE)
            target.write_manifest_copy(FILE, TX, b"copy", access)
            assert target.open_segment(FILE, NAME).read_at(0, 4) == b"data"
            try:
                list(target.list_files())
            except PermissionError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert os.stat(file_directory(target)).st_uid == 4321


def test_nothing_half_made_is_left_behind(target):
    make_segment(target, Access(0o644))
    assert sorted(os.listdir(target.path)) == [FILE.hex()[:2], IDENTITY]
    assert os.listdir(f"{target.path}/{FILE.hex()[:2]}") == [FILE.hex()]


def test_a_directory_is_never_seen_half_set(target, monkeypatch):
    seen = []
    give = posix._give

    def look(fd: int, access: Access) -> None:
        give(fd, access)
        seen.append(os.path.exists(file_directory(target)))

    monkeypatch.setattr(posix, "_give", look)
    make_segment(target, Access(0o644))
    assert seen == [False]


def test_a_directory_that_another_process_makes_at_the_same_time_is_shared(target, monkeypatch):
    give = posix._give

    def be_late(fd: int, access: Access) -> None:
        give(fd, access)
        monkeypatch.setattr(posix, "_give", give)
        make_segment(PosixTarget(target.path, target.id, STORE), access, f"{TX.hex()}.9.0")

    monkeypatch.setattr(posix, "_give", be_late)
    make_segment(target, Access(0o644))
    assert target.list_segments(FILE) == [NAME, f"{TX.hex()}.9.0"]
    assert os.listdir(f"{target.path}/{FILE.hex()[:2]}") == [FILE.hex()]


def test_many_processes_write_into_one_directory(tmp_path, target):
    program = f"""
from pinstripe.targets.posix import PosixTarget
from pinstripe.targets.contract import Access
import sys
target = PosixTarget({target.path!r}, bytes.fromhex({target.id.hex()!r}), bytes.fromhex({STORE.hex()!r}))
for number in range(30):
    file_id = bytes([number]) * 16
    with target.create_segment(file_id, f"{{'44' * 16}}.{{sys.argv[1]}}.0", Access(0o644)) as segment:
        segment.write_at(b"data", 0)
"""
    workers = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    for number in range(30):
        assert len(target.list_segments(bytes([number]) * 16)) == 4


# --- symlinks and strangers -------------------------------------------------------------------------------------------


def test_a_symlink_in_place_of_a_segment_is_refused(tmp_path, target):
    path = make_segment(target, Access(0o644))
    (tmp_path / "secret").write_text("secret")
    os.unlink(path)
    os.symlink(tmp_path / "secret", path)
    with pytest.raises(OSError, match="symbolic links") as caught:
        target.open_segment(FILE, NAME)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(FileExistsError):
        target.create_segment(FILE, NAME, Access(0o644))
    target.remove_segment(FILE, NAME)
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("level", ["aa", "ID"])
def test_a_symlink_in_place_of_a_directory_is_refused(tmp_path, target, level):
    path = make_segment(target, Access(0o644))
    (tmp_path / "outside" / FILE.hex()).mkdir(parents=True)
    place = os.path.dirname(path) if level == "ID" else os.path.dirname(os.path.dirname(path))
    os.rename(place, f"{place}-away")
    os.symlink(tmp_path / "outside" / (FILE.hex() if level == "ID" else ""), place)
    for use in (
        lambda: target.create_segment(FILE, NAME, Access(0o644)),
        lambda: target.open_segment(FILE, NAME),
        lambda: target.list_segments(FILE),
        lambda: target.remove_segment(FILE, NAME),
        lambda: target.sync_directory(FILE),
    ):
        with pytest.raises(NotADirectoryError):
            use()
    assert os.listdir(tmp_path / "outside" / FILE.hex()) == []


def test_a_target_may_be_reached_through_a_symlink(tmp_path, target):
    os.symlink(target.path, tmp_path / "link")
    through = PosixTarget(str(tmp_path / "link"), target.id, STORE)
    make_segment(through, Access(0o644))
    assert target.list_segments(FILE) == [NAME]


def test_a_pipe_in_place_of_a_segment_is_refused_at_once(target):
    path = make_segment(target, Access(0o644))
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a plain file"):
        target.open_segment(FILE, NAME)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(target, name):
    for use in (
        lambda: target.create_segment(FILE, name, Access(0o644)),
        lambda: target.open_segment(FILE, name),
        lambda: target.remove_segment(FILE, name),
    ):
        with pytest.raises(ArgumentError, match="must be the name of one file"):
            use()


def test_strangers_in_a_target_are_no_files(target):
    make_segment(target, Access(0o644))
    for stranger in ("lost+found", "zz", "a", "a0/.new-0123", f"a0/{'b0' * 16}", "a0/x"):
        os.mkdir(f"{target.path}/{stranger}")
    assert list(target.list_files()) == [FILE]


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_a_short_write_goes_on_where_it_stopped(target, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(posix.os, "pwrite", lambda fd, data, offset: write(fd, data[:7], offset))
    data = bytes(range(256))
    with target.create_segment(FILE, NAME, Access(0o644)) as segment:
        segment.write_at(data, 3)
        assert segment.read_at(0, 1000) == bytes(3) + data


def test_a_write_that_writes_nothing_is_an_error_not_a_loop(target, monkeypatch):
    monkeypatch.setattr(posix.os, "pwrite", lambda fd, data, offset: 0)
    with target.create_segment(FILE, NAME, Access(0o644)) as segment, pytest.raises(OSError, match="writes nothing"):
        segment.write_at(b"data", 0)


def test_a_short_read_goes_on_where_it_stopped(target, monkeypatch):
    read = os.pread
    data = bytes(range(256))
    with target.create_segment(FILE, NAME, Access(0o644)) as segment:
        segment.write_at(data, 0)
        monkeypatch.setattr(posix.os, "pread", lambda fd, length, offset: read(fd, min(length, 7), offset))
        assert segment.read_at(10, 100) == data[10:110]
        assert segment.read_at(200, 1000) == data[200:]


def test_a_write_that_fails_midway_raises(target, monkeypatch):
    write, left = os.pwrite, [2]

    def fill(fd: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "full")
        return write(fd, data[:5], offset)

    monkeypatch.setattr(posix.os, "pwrite", fill)
    with target.create_segment(FILE, NAME, Access(0o644)) as segment:
        with pytest.raises(OSError, match="full") as caught:
            segment.write_at(bytes(100), 0)
        assert caught.value.errno == errno.ENOSPC
        assert segment.size() == 10


def test_an_error_of_the_close_is_raised_once(target, monkeypatch):
    segment = target.create_segment(FILE, NAME, Access(0o644))
    close = os.close

    def fail(fd: int) -> None:
        close(fd)
        raise OSError(errno.EIO, "lost in the cache")

    with monkeypatch.context() as patch:
        patch.setattr(posix.os, "close", fail)
        with pytest.raises(OSError, match="lost in the cache"):
            segment.close()
    segment.close()


def test_descriptors_are_not_inherited_and_do_not_leak(target):
    before = sorted(os.listdir("/proc/self/fd"))
    for use in USES.values():
        try:
            result = use(target)
        except FileNotFoundError:
            continue
        if isinstance(result, PosixSegment):
            assert not os.get_inheritable(result.fileno())
            result.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_segment_that_is_dropped_unclosed_gives_its_descriptor_back(target):
    before = len(os.listdir("/proc/self/fd"))
    segment = target.create_segment(FILE, NAME, Access(0o644))
    del segment
    assert len(os.listdir("/proc/self/fd")) == before


def test_syncing_reaches_every_directory_on_the_way(target, monkeypatch):
    make_segment(target, Access(0o644))
    synced = []
    monkeypatch.setattr(posix.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    target.sync_directory(FILE)
    assert synced == [file_directory(target), os.path.dirname(file_directory(target)), target.path]


def test_a_directory_sync_that_fails_is_an_error(target, monkeypatch):
    make_segment(target, Access(0o644))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(posix.os, "fsync", fail)
    with pytest.raises(OSError, match="lost"):
        target.sync_directory(FILE)


def test_a_torn_manifest_copy_is_never_seen(target, monkeypatch):
    target.write_manifest_copy(FILE, TX, b"old", Access(0o644))

    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(posix.os, "pwrite", fail)
        with pytest.raises(OSError, match="full"):
            target.write_manifest_copy(FILE, TX, b"new", Access(0o644))
    assert target.read_manifest_copy(FILE, TX) == b"old"
    target.write_manifest_copy(FILE, TX, b"newer", Access(0o644))
    assert target.read_manifest_copy(FILE, TX) == b"newer"


def test_space_is_what_the_file_system_says(target):
    seen = os.statvfs(target.path)
    space = target.space()
    assert space.total == seen.f_blocks * seen.f_frsize
    assert 0 <= space.free <= space.total
