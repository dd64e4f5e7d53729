"""cp: in, out, within."""

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

import pinstripe
from pinstripe.cli import copy as copy_module
from pinstripe.cli.copy_data import HostSink, HostSource, copy_range
from pinstripe.kernels import crc64
from pinstripe.store.session import Session
from pinstripe.store.store import Store

from .conftest import Run, Write


def content(path: str) -> bytes:
    with pinstripe.open(path, "rb") as file:
        data: bytes = file.read()
    return data


@pytest.mark.parametrize("size", [0, 1, 16 << 10, (16 << 10) + 1, 1 << 20, (8 << 20) + 1, 20 << 20])
def test_a_file_goes_in_and_comes_out_as_it_was(run: Run, store: Store, write: Write, size: int) -> None:
    data = os.urandom(size)
    run("cp", str(write("data", data)), "s/file")
    assert content("s/file") == data
    run("cp", "s/file", "s/again")
    assert content("s/again") == data
    run("cp", "s/again", "out")
    assert Path("out").read_bytes() == data


def test_a_copy_within_has_the_layout_of_where_it_is(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("data", os.urandom(5 << 20))), "s/file")
    run("mkdir", "s/a")
    run("setstripe", "-S", "2M", "s/a")
    run("cp", "s/file", "s/a/")
    assert run.json("stat", "s/a/file")["stripes"] == 3
    assert content("s/a/file") == content("s/file")


def test_between_two_stores(run: Run, store: Store, write: Write) -> None:
    run("create", "s2", "--target", "t9")
    run("cp", str(write("data", os.urandom(3 << 20))), "s/file")
    run("cp", "s/file", "s2/")
    assert content("s2/file") == content("s/file")


def test_the_destination_is_a_directory_or_a_name(run: Run, store: Store, write: Write) -> None:
    write("x")
    write("y")
    run("mkdir", "s/a")
    run("cp", "x", "y", "s/a")
    assert run("ls", "s/a") == "x\ny\n"
    run("cp", "x", "s/a/")
    run("cp", "x", "s/a/z")
    assert run("ls", "s/a") == "x\ny\nz\n"
    run.fails("cp", "x", "y", "s/none", code=2)
    os.chdir("s/a")
    run("cp", "../../x", ".")


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o664, 0o400])
def test_the_mode_of_a_new_file_is_its_sources(run: Run, store: Store, write: Write, mode: int) -> None:
    for name, data in (("small", b"x"), ("large", os.urandom(200_000))):
        run("cp", str(write(name, data, mode)), "s/")
        assert stat.S_IMODE(os.stat(f"s/{name}").st_mode) == mode
        run("cp", f"s/{name}", "out")
        assert stat.S_IMODE(os.stat("out").st_mode) == mode
        os.unlink("out")
    assert run("verify", "s").startswith("good: 2 files")


def test_a_private_file_is_private_from_its_first_moment_on(
    run: Run, store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    publish = Session.publish

    def look(self: Session, *, final: bool = False) -> int:
        done = publish(self, final=final)
        modes.append(stat.S_IMODE(os.stat("s/file").st_mode))
        return done

    monkeypatch.setattr(Session, "publish", look)
    run("cp", str(write("data", os.urandom(200_000), 0o600)), "s/file")
    assert modes == [0o600]


def test_what_is_there_already_keeps_its_mode_and_id(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("old", b"old", 0o640)), "s/file")
    before = run.json("stat", "s/file")["id"]
    run("cp", str(write("new", os.urandom(200_000), 0o600)), "s/file")
    assert stat.S_IMODE(os.stat("s/file").st_mode) == 0o640
    assert run.json("stat", "s/file")["id"] == before
    write("out", b"old", 0o604)
    run("cp", "s/file", "out")
    assert stat.S_IMODE(os.stat("out").st_mode) == 0o604


def test_holes_stay_holes(run: Run, store: Store, write: Write) -> None:
    with open("sparse", "wb") as file:
        file.write(b"begin")
        file.seek(30 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    run("cp", "sparse", "s/")
    found = run.json("stat", "s/sparse")
    assert (found["size"], found["stripes"], found["holes"]) == (100 << 20, 100, 98)
    run("cp", "s/sparse", "s/again")
    assert run.json("stat", "s/again")["holes"] == 98
    run("cp", "s/again", "out")
    assert os.stat("out").st_blocks * 512 < 4 << 20
    assert Path("out").read_bytes() == Path("sparse").read_bytes()
    assert found["crc64nvme"] == f"{crc64(Path('sparse').read_bytes()):016x}"


@pytest.fixture
def tree(write: Write) -> None:
    write("src/a/x", b"x" * 100, 0o600)
    write("src/a/b/y", os.urandom(2_000_000), 0o755)
    write("src/z", b"")
    os.mkdir("src/empty")
    os.chmod("src/a", 0o750)
    os.symlink("a/x", "src/link")
    os.symlink("missing", "src/broken")
    os.utime("src/a/x", ns=(10**18, 10**18 + 7))
    os.utime("src/a", ns=(10**18, 10**18 + 5))


def same(one: str, other: str) -> None:
    done = subprocess.run(["diff", "-r", "--no-dereference", one, other], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_a_tree_goes_in_and_comes_out_as_it_was(run: Run, store: Store, tree: None) -> None:
    assert run("cp", "-r", "src", "s/").startswith("copied 5 files")
    assert run("ls", "s/src") == "a\nbroken\nempty\nlink\nz\n"
    run("cp", "-r", "s/src", "s/again")
    run("cp", "-r", "s/again", "out")
    same("src", "out")
    for path in ("a", "a/x", "a/b/y"):
        assert os.stat(f"out/{path}").st_mode == os.stat(f"src/{path}").st_mode
    assert os.stat("out/a/x").st_mtime_ns != os.stat("src/a/x").st_mtime_ns


def test_p_keeps_owner_times_and_extended_attributes(run: Run, store: Store, tree: None) -> None:
    try:
        os.setxattr("src/a/x", "user.note", b"hello")
    except OSError:
        pytest.skip("the file system here has no extended attributes")
    if os.geteuid() == 0:
        os.chown("src/a/x", 1234, 2345)
        os.chown("src/link", 1234, 2345, follow_symlinks=False)
    run("cp", "-rp", "src", "s/")
    run("cp", "-rp", "s/src", "out")
    for path in ("a", "a/x", "a/b/y", "z", "link"):
        before, after = os.lstat(f"src/{path}"), os.lstat(f"out/{path}")
        assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
        assert before.st_mtime_ns == after.st_mtime_ns == pinstripe.lstat(f"s/src/{path}").st_mtime_ns
    assert os.getxattr("out/a/x", "user.note") == pinstripe.getxattr("s/src/a/x", "user.note") == b"hello"


def test_a_second_copy_of_a_tree_merges_into_the_first(run: Run, store: Store, tree: None, write: Write) -> None:
    run("cp", "-r", "src", "s/")
    write("src/a/new", b"new")
    write("src/z", b"changed")
    run("cp", "-r", "src", "s/")
    run("cp", "-r", "s/src", "out")
    same("src", "out")
    assert not any("adopt" in name or name.startswith(".") for name in pinstripe.listdir("s/src"))


def test_a_tree_is_synced_once_at_the_end(run: Run, store: Store, tree: None, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(copy_module, "sync_filesystem", synced.append)
    fsyncs: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        fsyncs.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    run("cp", "-r", "src", "s/")
    assert len(synced) == 1  # store and targets lie on one file system
    assert not [
        path for path in fsyncs if f"{os.sep}t" in path.removeprefix(str(Path.cwd())) and "." in os.path.basename(path)
    ]


def test_links_that_could_not_be_followed_are_told_and_the_rest_is_copied(run: Run, store: Store, write: Write) -> None:
    write("src/file")
    os.symlink("/etc/passwd", "src/absolute")
    os.symlink("../../..", "src/leaving")
    os.mkfifo("src/pipe")
    errors = run.fails("cp", "-r", "src", "s/").splitlines()
    assert len(errors) == 3
    assert run("ls", "s/src") == "file\n"


def test_a_directory_needs_r_and_a_missing_file_fails_alone(run: Run, store: Store, tree: None, write: Write) -> None:
    assert "-r copies it" in run.fails("cp", "src", "s/")
    write("x")
    assert "missing" in run.fails("cp", "missing", "x", "s/")
    assert run("ls", "s") == "x\n"


def test_a_directory_in_a_group_directory_stays_the_groups(run: Run, write: Write) -> None:
    run("create", "s", "--target", "t0", "--mode", "2775")
    write("src/a/x")
    run("cp", "-r", "src", "s/")
    assert os.stat("s/src/a").st_mode & 0o2000


def test_without_r_a_link_is_followed(run: Run, store: Store, tree: None) -> None:
    run("cp", "src/link", "s/")
    assert content("s/link") == b"x" * 100
    pinstripe.symlink("link", "s/second")
    run("cp", "s/second", "out")
    assert Path("out").read_bytes() == b"x" * 100


def test_a_file_or_directory_is_not_copied_onto_or_into_itself(run: Run, store: Store, tree: None) -> None:
    run("cp", "-r", "src", "s/")
    assert "same file" in run.fails("cp", "s/src/z", "s/src/../src/z")
    assert "into itself" in run.fails("cp", "-r", "s/src", "s/src/a")
    assert "into itself" in run.fails("cp", "-r", "s/src", "s/src/a/new")
    assert run("ls", "s/src/a") == "b\nx\n"


def test_a_directory_and_a_file_do_not_replace_each_other(run: Run, store: Store, write: Write) -> None:
    write("one/x/y")
    write("two/x")
    run("cp", "-r", "one", "s/")
    run("cp", "-r", "two", "s/")
    run.fails("cp", "-r", "two/x", "s/one")
    run.fails("cp", "-r", "one/x", "s/two")
    assert content("s/one/x/y") == content("s/two/x") == b"hello\n"


def test_neither_side_in_a_store_is_refused(run: Run, store: Store, write: Write) -> None:
    assert "use cp" in run.fails("cp", str(write("x")), "y", code=2)


def test_a_store_inside_a_tree_is_copied_as_files(run: Run, write: Write) -> None:
    write("src/plain")
    run("create", "src/inner", "--target", "t0")
    run("create", "s", "--target", "t1")
    run("cp", str(write("x", b"data")), "src/inner/x")
    run("cp", "-r", "src", "s/")
    assert content("s/src/inner/x") == b"data"
    assert run("ls", "s/src/inner") == "x\n"


def test_our_own_names_do_not_go_in(run: Run, store: Store, write: Write) -> None:
    write("src/.pinstripe-layout")
    write("src/file")
    assert "pinstripe's own" in run.fails("cp", "-r", "src", "s/")
    assert content("s/src/file") == b"hello\n"


def test_a_pipe_or_device_is_written_directly(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("x")), "s/")
    run("cp", "s/x", "/dev/null")
    assert os.path.exists("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_a_source_that_changes_meanwhile_is_not_copied(
    run: Run, store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("x", os.urandom(1 << 20))
    read = HostSource.read_into

    def grow(self: HostSource, offset: int, buffer: memoryview) -> int:
        with open("x", "ab") as file:
            file.write(b"more")
        return read(self, offset, buffer)

    monkeypatch.setattr(HostSource, "read_into", grow)
    assert "changed while it was copied" in run.fails("cp", "x", "s/")
    assert run("ls", "s") == ""
    assert not any(list(target.list_files()) for target in store.targets)


def test_what_was_written_otherwise_than_it_was_read_is_told(
    run: Run, store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_module, "copy_range", lambda *args: copy_range(*args) ^ 1)
    assert "checksum differs" in run.fails("cp", str(write("x", os.urandom(1 << 20))), "s/", code=4)


def test_damaged_data_is_not_copied_out(run: Run, store: Store, write: Write) -> None:
    run("cp", str(write("x", os.urandom(3 << 20))), "s/")
    segment = next(path for path in Path("t1").rglob("*.*.*") if path.is_file())
    segment.chmod(0o644)
    data = bytearray(segment.read_bytes())
    data[-100] ^= 1
    segment.write_bytes(data)
    write("out", b"before")
    assert "does not hold" in run.fails("cp", "s/x", "out", code=4)
    assert Path("out").read_bytes() == b"before"
    assert sorted(os.listdir()) == ["out", "s", "t0", "t1", "t2", "x"]


def test_a_full_disk_outside_leaves_no_draft(
    run: Run, store: Store, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("cp", str(write("x", os.urandom(1 << 20))), "s/")

    def full(self: HostSink, offset: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    monkeypatch.setattr(HostSink, "write", full)
    assert "No space left" in run.fails("cp", "s/x", "out")
    assert sorted(os.listdir()) == ["s", "t0", "t1", "t2", "x"]


def test_an_interrupt_ends_as_resumable(run: Run, store: Store, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("src/a")
    write("src/b")
    real = copy_module.copy_range
    calls = 0

    def interrupted(*args: object) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(copy_module, "copy_range", interrupted)
    assert "run it again" in run.fails("cp", "-r", "src", "s/", code=75)
    assert run("ls", "s/src") == "a\n"
    monkeypatch.undo()


def test_json_counts(run: Run, store: Store, tree: None) -> None:
    found = run.json("cp", "-r", "src", "s/")
    assert (found["files"], found["bytes"], found["failed"]) == (5, 2_000_100, 0)
