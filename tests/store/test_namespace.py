"""Names: `os`'s functions, with its arguments and errors, and what a store adds to them."""

import dataclasses
import errno
import os
import secrets
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pinstripe.errors import ArgumentError, DamageError, NamespaceError, NoStoreError
from pinstripe.format.inode import Inode
from pinstripe.format.layout import Layout
from pinstripe.format.superblock import LinkEntry
from pinstripe.store import namespace as ns
from pinstripe.store import newfile
from pinstripe.store.create import create
from pinstripe.store.newfile import link_opened_inode, write_inode
from pinstripe.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = create(tmp_path / "store", [tmp_path / "t0", tmp_path / "t1"])
    monkeypatch.chdir(store.root)
    return store


Make = Callable[..., Inode]


@pytest.fixture
def make(store: Store) -> Make:
    """Make a small file; with an id's directory if `held`."""

    def make(path: str, data: bytes = b"hello", *, held: bool = False) -> Inode:
        inode = Inode(secrets.token_bytes(16), "inline", store.layout, data)
        path = os.path.join(store.root, path)
        write_inode(store, inode, path, refuse_existing=True, sync=False)
        if held:
            fd = os.open(path, os.O_RDONLY)
            link_opened_inode(store, inode.file_id, path, fd)
            os.close(fd)
        return inode

    return make


def test_two_that_give_a_small_file_its_directory_at_once_both_succeed(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = make("f")
    real, calls = newfile.link_descriptor, []

    def link(fd: int, path: str) -> None:
        calls.append(path)
        if (
            len(calls) == 1
        ):  # the other renamed its directory, as empty, over ours just now: the path leads into what is gone
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        real(fd, path)

    monkeypatch.setattr(newfile, "link_descriptor", link)
    fd = os.open(f"{store.root}/f", os.O_RDONLY)
    try:
        link_opened_inode(store, inode.file_id, "f", fd)
        assert os.path.samestat(os.fstat(fd), os.stat(f"{store.file_directory(inode.file_id)}/inode"))
        calls.clear()
        os.unlink(f"{store.file_directory(inode.file_id)}/inode")
        os.unlink(f"{store.root}/f")
        with pytest.raises(FileNotFoundError):
            link_opened_inode(store, inode.file_id, "f", fd)
        assert not os.path.exists(store.file_directory(inode.file_id))
    finally:
        os.close(fd)


def test_a_linked_directory_is_neither_moved_nor_removed(store: Store) -> None:
    os.makedirs("a/linked")
    entry = LinkEntry(secrets.token_bytes(16), "a/linked", "bucket", "prefix/")
    store.revise(lambda present: dataclasses.replace(present, links=(entry,)))
    for call in (lambda: ns.rename("a", "b"), lambda: ns.rename("a/linked", "c"), lambda: ns.rmdir("a/linked")):
        with pytest.raises(NamespaceError, match="pinstripe unlink"):
            call()
    store.revise(lambda present: dataclasses.replace(present, links=()))
    ns.rename("a", "b")
    ns.rmdir("b/linked")


class TestLocate:
    def test_a_path_leads_to_its_real_absolute_place(self, store: Store) -> None:
        os.makedirs("a/b")
        place = ns.locate("a/../a/./b//name")
        assert (place.path, place.directory, place.name) == (
            f"{store.root}/a/b/name",
            f"{store.root}/a/b",
            "name",
        )
        assert place.store.root == store.root

    def test_the_stores_own_directory_has_no_name(self, store: Store) -> None:
        for path in (".", store.root, "a/..", f"{store.root}/"):
            os.makedirs("a", exist_ok=True)
            assert ns.locate(path).path == store.root
            assert ns.locate(path).name == ""

    def test_a_relative_symlink_within_the_store_is_followed(self, store: Store) -> None:
        os.makedirs("a/b")
        os.symlink("../a/b", "a/link")
        assert ns.locate("a/link/name").path == f"{store.root}/a/b/name"
        assert ns.locate("a/link", follow=False).path == f"{store.root}/a/link"
        assert ns.locate("a/link/").path == f"{store.root}/a/b"
        assert ns.locate("a/link/..").path == f"{store.root}/a"

    def test_an_absolute_symlink_is_refused_even_if_it_stays_inside(self, store: Store) -> None:
        os.mkdir("a")
        os.symlink(f"{store.root}/a", "link")
        with pytest.raises(NamespaceError, match="absolute"):
            ns.locate("link")
        with pytest.raises(NamespaceError, match="absolute"):
            ns.locate("link/name")

    @pytest.mark.parametrize("content", ["..", "../outside", "a/../../outside", "a/up"])
    def test_a_symlink_that_leaves_the_store_is_refused(self, store: Store, content: str) -> None:
        os.mkdir("a")
        os.symlink("../..", "a/up")
        os.symlink(content, "link")
        with pytest.raises(NamespaceError, match="leaves the store"):
            ns.locate("link")

    def test_a_symlink_outside_that_leads_into_the_store_is_the_systems_own(self, store: Store, tmp_path: Path) -> None:
        os.mkdir("a")
        os.symlink(f"{store.root}/a", tmp_path / "door")
        os.symlink("store", tmp_path / "relative")
        assert ns.locate(tmp_path / "door/name").path == f"{store.root}/a/name"
        assert ns.locate(tmp_path / "relative/a").path == f"{store.root}/a"

    def test_a_path_may_leave_the_store_and_come_back(self, store: Store) -> None:
        os.mkdir("a")
        assert ns.locate("a/../../store/a").path == f"{store.root}/a"

    def test_a_path_that_leaves_the_store_lies_in_none(self, store: Store) -> None:
        with pytest.raises(NoStoreError):
            ns.locate("../elsewhere")

    def test_a_loop_of_symlinks_ends(self, store: Store) -> None:
        os.symlink("b", "a")
        os.symlink("a", "b")
        with pytest.raises(OSError) as caught:
            ns.locate("a/name")
        assert caught.value.errno == errno.ELOOP

    def test_what_is_missing_on_the_way_is_as_the_system_says(self, store: Store, make: Make) -> None:
        make("file")
        with pytest.raises(FileNotFoundError):
            ns.locate("missing/name")
        with pytest.raises(NotADirectoryError):
            ns.locate("file/name")
        with pytest.raises(NotADirectoryError):
            ns.locate("file/")
        with pytest.raises(FileNotFoundError):
            ns.locate("")

    @pytest.mark.parametrize("path", [".pinstripe", ".pinstripe/files", ".pinstripe-layout", "a/.pinstripe-x", "link"])
    def test_our_own_names_are_refused(self, store: Store, path: str) -> None:
        os.mkdir("a")
        os.symlink(".pinstripe/files", "link")
        with pytest.raises(NamespaceError, match="pinstripe's own"):
            ns.locate(path)

    def test_a_target_below_the_store_has_no_names(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        store = create(tmp_path / "s", [tmp_path / "s/data"])
        assert ns.listdir(store.root) == []
        with pytest.raises(NamespaceError, match="a target of the store"):
            ns.locate(f"{store.root}/data/00")

    def test_the_innermost_store_is_the_one(self, store: Store, tmp_path: Path) -> None:
        # Not made by `create`, but by moving one store into another.
        other = create(tmp_path / "other", [tmp_path / "t2"])
        os.rename(other.root, f"{store.root}/inner")
        assert ns.locate("inner/name").store.root == f"{store.root}/inner"
        assert ns.locate("inner/../name").store.root == store.root


class TestInode:
    def test_a_name_leads_to_its_inode(self, make: Make) -> None:
        made = make("file", held=True)
        inode, seen = ns.read_inode("file")
        assert inode == made
        assert seen.st_ino == os.stat("file").st_ino

    def test_errors_are_the_systems_own(self, store: Store) -> None:
        os.mkdir("dir")
        with pytest.raises(FileNotFoundError):
            ns.read_inode("missing")
        with pytest.raises(IsADirectoryError):
            ns.read_inode("dir")

    @pytest.mark.parametrize("data", [b"", b"pin", b"hello world\n", b"\x00" * 100])
    def test_a_foreign_file_is_refused_with_the_remedy(self, store: Store, data: bytes) -> None:
        Path("foreign").write_bytes(data)
        with pytest.raises(NamespaceError, match="pinstripe cp") as caught:
            ns.read_inode("foreign")
        assert caught.value.filename == f"{store.root}/foreign"

    def test_a_huge_foreign_file_is_not_read(self, store: Store) -> None:
        with open("huge", "wb") as file:
            file.write(b"pinstripe 1 ")
            file.truncate(1 << 40)
        with pytest.raises(NamespaceError):
            ns.read_inode("huge")

    def test_a_pipe_is_refused_without_waiting(self, store: Store) -> None:
        os.mkfifo("pipe")
        with pytest.raises(NamespaceError, match="neither a file"):
            ns.read_inode("pipe")

    def test_a_damaged_inode_is_damage_and_names_the_path(self, store: Store, make: Make) -> None:
        make("file")
        os.chmod("file", 0o644)
        data = bytearray(Path("file").read_bytes())
        data[-1] ^= 1
        Path("file").write_bytes(data)
        with pytest.raises(DamageError) as caught:
            ns.read_inode("file")
        assert caught.value.filename == f"{store.root}/file"

    def test_a_copy_made_behind_our_back_is_refused_with_the_remedy(self, make: Make) -> None:
        make("file", held=True)
        Path("copy").write_bytes(Path("file").read_bytes())
        with pytest.raises(NamespaceError, match="pinstripe cp"):
            ns.read_inode("copy")
        ns.read_inode("file")


class TestListing:
    def test_names_of_our_own_are_hidden(self, store: Store, make: Make) -> None:
        os.mkdir("dir")
        make("file")
        ns.set_layout("dir", Layout())
        ns.set_layout(".", Layout())
        assert sorted(ns.listdir()) == ["dir", "file"]
        assert ns.listdir("dir") == []

    def test_entries_know_what_they_are(self, store: Store, make: Make) -> None:
        os.mkdir("dir")
        make("dir/file")
        os.symlink("file", "dir/link")
        os.symlink("..", "dir/up")
        os.symlink("nowhere", "dir/broken")
        os.symlink("/", "dir/absolute")
        with ns.scandir("dir") as entries:
            seen = {
                e.name: (e.is_file(), e.is_dir(), e.is_symlink(), e.is_file(follow_symlinks=False)) for e in entries
            }
        assert seen == {
            "file": (True, False, False, True),
            "link": (True, False, True, False),
            "up": (False, True, True, False),
            "broken": (False, False, True, False),
            "absolute": (False, False, True, False),
        }

    def test_entries_have_paths_and_attributes(self, store: Store, make: Make) -> None:
        os.mkdir("dir")
        make("dir/file", b"12345")
        (entry,) = list(ns.scandir("dir"))
        assert entry.path == os.fspath(entry) == "dir/file"
        assert entry.stat().st_size == 5
        assert entry.inode() == os.stat("dir/file").st_ino

    def test_walk_gives_what_os_walk_does(self, store: Store, make: Make) -> None:
        os.makedirs("a/b")
        for path in ("a/x", "a/b/y", "top"):
            make(path)
        os.symlink("b", "a/link")
        ours = sorted((top, sorted(dirs), sorted(files)) for top, dirs, files in ns.walk("a"))
        theirs = sorted((top, sorted(dirs), sorted(files)) for top, dirs, files in os.walk("a"))
        assert ours == theirs
        assert [top for top, _, _ in ns.walk("a", topdown=False)] == ["a/b", "a"]
        assert "a/link" in [top for top, _, _ in ns.walk("a", followlinks=True)]

    def test_walk_tells_errors_to_who_asks(self, store: Store) -> None:
        errors: list[OSError] = []
        assert list(ns.walk("missing", onerror=errors.append)) == []
        assert isinstance(errors[0], FileNotFoundError)

    def test_exists_isdir_isfile(self, store: Store, make: Make) -> None:
        os.mkdir("dir")
        make("file")
        os.symlink("nowhere", "broken")
        os.symlink("/etc", "absolute")
        assert [ns.exists(p) for p in ("dir", "file", "broken", "absolute", "missing", "/")] == [True, True] + [
            False
        ] * 4
        assert [ns.lexists(p) for p in ("broken", "absolute", "missing")] == [True, True, False]
        assert [ns.isdir(p) for p in ("dir", "file")] == [True, False]
        assert [ns.isfile(p) for p in ("dir", "file")] == [False, True]


class TestStat:
    def test_a_files_size_is_its_own_not_its_inodes(self, make: Make) -> None:
        make("file", b"x" * 1000)
        seen, kernel = ns.stat("file"), os.stat("file")
        assert seen.st_size == 1000
        assert seen.st_blocks == 2
        assert seen.st_nlink == 1
        assert (seen.st_mode, seen.st_uid, seen.st_ino, seen.st_mtime_ns, seen.st_mtime) == (
            kernel.st_mode,
            kernel.st_uid,
            kernel.st_ino,
            kernel.st_mtime_ns,
            kernel.st_mtime,
        )

    def test_the_count_of_links_is_one_whatever_holds_the_file(self, make: Make) -> None:
        make("file", held=True)
        assert os.stat("file").st_nlink == 2
        assert ns.stat("file").st_nlink == 1

    def test_a_directory_and_a_symlink_are_the_kernels(self, store: Store, make: Make) -> None:
        os.mkdir("dir")
        make("file", b"12")
        os.symlink("file", "link")
        assert ns.stat("dir") == os.stat("dir")
        assert ns.lstat("link") == os.lstat("link")
        assert ns.stat("link").st_size == 2

    def test_a_missing_name_is_an_error(self, store: Store) -> None:
        with pytest.raises(FileNotFoundError):
            ns.stat("missing")


class TestMakeAndRemove:
    def test_makedirs_takes_the_stores_own_directory_for_there(self, store: Store) -> None:
        ns.makedirs(store.root, exist_ok=True)
        assert ns.listdir(store.root) == []

    def test_makedirs_makes_what_is_missing(self, store: Store) -> None:
        ns.makedirs("a/b/c")
        assert ns.isdir("a/b/c")
        with pytest.raises(FileExistsError):
            ns.makedirs("a/b/c")
        ns.makedirs("a/b/c/", exist_ok=True)
        with pytest.raises(FileNotFoundError):
            ns.mkdir("x/y")

    def test_remove_removes_a_file_and_what_holds_it(self, store: Store, make: Make) -> None:
        made = make("file", held=True)
        assert os.path.isdir(store.file_directory(made.file_id))
        ns.remove("file")
        assert not ns.lexists("file")
        assert not os.path.exists(store.file_directory(made.file_id))

    def test_remove_removes_the_link_not_what_it_leads_to(self, store: Store, make: Make) -> None:
        make("file")
        os.symlink("file", "link")
        os.symlink("/etc/passwd", "absolute")
        ns.unlink("link")
        ns.unlink("absolute")
        assert ns.listdir() == ["file"]

    def test_remove_of_a_directory_or_of_nothing_is_as_the_system_says(self, store: Store) -> None:
        os.mkdir("dir")
        with pytest.raises(IsADirectoryError):
            ns.remove("dir")
        with pytest.raises(FileNotFoundError):
            ns.remove("missing")

    def test_removing_a_copy_leaves_the_original_whole(self, store: Store, make: Make) -> None:
        made = make("file", held=True)
        Path("copy").write_bytes(Path("file").read_bytes())
        ns.remove("copy")
        assert ns.stat("file").st_size == 5
        assert os.path.isdir(store.file_directory(made.file_id))

    def test_a_directory_with_only_its_layout_is_empty(self, store: Store, make: Make) -> None:
        ns.mkdir("dir")
        ns.set_layout("dir", Layout())
        ns.rmdir("dir")
        assert not os.path.lexists("dir")
        ns.mkdir("dir")
        make("dir/file")
        ns.set_layout("dir", Layout(codec="raw"))
        with pytest.raises(OSError) as caught:
            ns.rmdir("dir")
        assert caught.value.errno == errno.ENOTEMPTY
        assert ns.layout_of("dir").codec == "raw"

    def test_the_stores_own_directory_cannot_be_removed_or_renamed(self, store: Store) -> None:
        for act in (lambda: ns.rmdir("."), lambda: ns.rename(".", "x"), lambda: ns.rename(store.root, "x")):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno in (errno.EBUSY, errno.EINVAL)

    def test_removetree_removes_all_and_follows_no_link(self, store: Store, make: Make) -> None:
        os.makedirs("a/b")
        kept = make("kept", held=True)
        gone = make("a/b/gone", held=True)
        os.symlink("../kept", "a/link")
        removed: list[str] = []
        ns.removetree("a", onremove=removed.append)
        assert removed == ["a/b/gone", "a/b", "a/link", "a"]
        assert ns.listdir() == ["kept"]
        assert os.path.isdir(store.file_directory(kept.file_id))
        assert not os.path.exists(store.file_directory(gone.file_id))

    def test_removetree_syncs_once_a_directory_before_it_collects(
        self, store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkdir("a")
        made = [make(f"a/{number}", held=True) for number in range(5)]
        told: list[str] = []
        sync, collect = ns.fsync_directory, ns.collect_removed

        def synced(path: str) -> None:
            told.append("sync")
            sync(path)

        def collected(store: Store, file_id: bytes) -> None:
            told.append("collect")
            collect(store, file_id)

        monkeypatch.setattr(ns, "fsync_directory", synced)
        monkeypatch.setattr(ns, "collect_removed", collected)
        ns.removetree("a")
        assert told == ["sync", *["collect"] * 5, "sync"]
        assert not any(os.path.exists(store.file_directory(inode.file_id)) for inode in made)


class TestRename:
    def test_a_file_keeps_its_id(self, store: Store, make: Make) -> None:
        made = make("a", held=True)
        ns.mkdir("dir")
        ns.rename("a", "dir/b")
        assert ns.read_inode("dir/b")[0].file_id == made.file_id
        assert ns.listdir() == ["dir"]

    def test_what_is_replaced_is_collected(self, store: Store, make: Make) -> None:
        old, new = make("old", b"old", held=True), make("new", b"newer", held=True)
        ns.replace("new", "old")
        assert ns.read_inode("old")[0].file_id == new.file_id
        assert ns.stat("old").st_size == 5
        assert not os.path.exists(store.file_directory(old.file_id))

    def test_a_file_renamed_to_itself_is_untouched(self, store: Store, make: Make) -> None:
        made = make("a", held=True)
        ns.rename("a", "a")
        assert ns.read_inode("a")[0] == made
        assert os.path.isdir(store.file_directory(made.file_id))

    def test_directories_move_with_all_they_hold(self, store: Store, make: Make) -> None:
        ns.makedirs("a/b")
        make("a/b/file", b"123", held=True)
        ns.rename("a", "c")
        assert ns.stat("c/b/file").st_size == 3

    def test_a_symlink_is_renamed_itself(self, store: Store) -> None:
        os.symlink("nowhere", "a")
        ns.rename("a", "b")
        assert ns.readlink("b") == "nowhere"

    def test_errors_are_the_systems_own(self, store: Store, make: Make) -> None:
        make("file")
        ns.makedirs("dir/sub")
        for source, destination, kind in (
            ("missing", "x", FileNotFoundError),
            ("file", "dir", IsADirectoryError),
            ("dir", "file", NotADirectoryError),
        ):
            with pytest.raises(kind):
                ns.rename(source, destination)
        assert ns.stat("file").st_size == 5

    def test_between_two_stores_there_is_no_rename(self, store: Store, make: Make, tmp_path: Path) -> None:
        other = create(tmp_path / "other", [tmp_path / "t2"])
        make("file")
        with pytest.raises(OSError, match="pinstripe cp") as caught:
            ns.rename("file", f"{other.root}/file")
        assert caught.value.errno == errno.EXDEV

    def test_a_directory_that_holds_a_target_stays(self, tmp_path: Path) -> None:
        (tmp_path / "s/data").mkdir(parents=True)
        store = create(tmp_path / "s", [tmp_path / "s/data/t"])
        with pytest.raises(NamespaceError, match="recorded by that path"):
            ns.rename(f"{store.root}/data", f"{store.root}/moved")


class TestSymlinks:
    def test_a_relative_link_within_the_store_is_made(self, store: Store, make: Make) -> None:
        ns.makedirs("a/b")
        make("file", b"123")
        ns.symlink("../../file", "a/b/link")
        assert ns.readlink("a/b/link") == "../../file"
        assert ns.stat("a/b/link").st_size == 3

    @pytest.mark.parametrize(
        ("content", "match"),
        [("/etc/passwd", "absolute"), ("../../x", "leave the store"), ("a/../../../x", "leave"), (".pinstripe", "own")],
    )
    def test_a_link_that_could_not_be_followed_is_refused(self, store: Store, content: str, match: str) -> None:
        ns.mkdir("dir")
        with pytest.raises(NamespaceError, match=match):
            ns.symlink(content, "dir/link")
        assert ns.listdir("dir") == []


class TestLayouts:
    def test_the_nearest_layout_upwards_is_inherited(self, store: Store) -> None:
        ns.makedirs("a/b/c")
        assert ns.layout_of("a/b/c") == store.layout
        ns.set_layout("a", Layout(stripe_bytes=1 << 22))
        assert ns.layout_of("a/b/c").stripe_bytes == 1 << 22
        ns.set_layout("a/b", Layout(codec="lz4"))
        assert ns.layout_of("a/b/c") == Layout(codec="lz4")
        assert ns.layout_of("a").stripe_bytes == 1 << 22
        assert ns.own_layout("a/b/c") is None
        ns.set_layout("a/b", None)
        assert ns.layout_of("a/b/c").stripe_bytes == 1 << 22

    def test_a_pool_without_a_target_is_refused(self, store: Store) -> None:
        with pytest.raises(ArgumentError, match="no target of the store"):
            ns.set_layout(".", Layout(pool="tape"))

    def test_a_damaged_layout_is_not_passed_over(self, store: Store) -> None:
        ns.mkdir("a")
        Path("a/.pinstripe-layout").write_text("{")
        with pytest.raises(DamageError):
            ns.layout_of("a")

    def test_only_a_directory_has_one(self, store: Store, make: Make) -> None:
        make("file")
        with pytest.raises(NotADirectoryError):
            ns.set_layout("file", Layout())
        with pytest.raises(FileNotFoundError):
            ns.set_layout("missing", Layout())


class TestAttributes:
    @pytest.mark.parametrize(
        ("mode", "wanted"),
        [(0o600, 0o700), (0o644, 0o755), (0o640, 0o750), (0o620, 0o730), (0o444, 0o755), (0o200, 0o300)],
    )
    def test_what_holds_a_files_data_follows_its_mode(self, store: Store, make: Make, mode: int, wanted: int) -> None:
        made = make("file", held=True)
        data = f"{store.targets[0].path}/{made.file_id.hex()[:2]}/{made.file_id.hex()}"
        os.makedirs(data)
        ns.chmod("file", mode)
        assert stat.S_IMODE(os.stat("file").st_mode) == mode
        assert stat.S_IMODE(os.stat(store.file_directory(made.file_id)).st_mode) == wanted
        assert stat.S_IMODE(os.stat(data).st_mode) == wanted

    def test_a_directory_and_an_inline_file_are_the_kernels_only(self, store: Store, make: Make) -> None:
        ns.mkdir("dir")
        make("file")
        ns.chmod("dir", 0o750)
        ns.chmod("file", 0o640)
        assert stat.S_IMODE(os.stat("dir").st_mode) == 0o750
        assert stat.S_IMODE(os.stat("file").st_mode) == 0o640

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
    def test_what_holds_a_files_data_follows_its_owner(self, store: Store, make: Make) -> None:
        made = make("file", held=True)
        ns.chown("file", 1234, 2345)
        seen = os.stat(store.file_directory(made.file_id))
        assert (seen.st_uid, seen.st_gid) == (1234, 2345)
        ns.chown("file", -1, 0)
        assert (os.stat("file").st_uid, os.stat("file").st_gid) == (1234, 0)
        seen = os.stat(store.file_directory(made.file_id))
        assert (seen.st_uid, seen.st_gid) == (1234, 0)

    def test_times_are_set(self, make: Make) -> None:
        make("file")
        ns.utime("file", ns=(10**18, 2 * 10**18))
        assert (ns.stat("file").st_atime_ns, ns.stat("file").st_mtime_ns) == (10**18, 2 * 10**18)
        ns.utime("file", (5, 6))
        assert ns.stat("file").st_mtime == 6

    def test_extended_attributes_are_kept(self, make: Make) -> None:
        make("file")
        try:
            ns.setxattr("file", "user.note", b"hello")
        except OSError as error:
            pytest.skip(f"the file system here has none: {error}")
        assert ns.getxattr("file", "user.note") == b"hello"
        assert ns.listxattr("file") == ["user.note"]
        make("other")
        ns.chmod("file", 0o640)
        ns.copystat("file", "other")
        assert ns.getxattr("other", "user.note") == b"hello"
        assert stat.S_IMODE(os.stat("other").st_mode) == 0o640
        ns.removexattr("file", "user.note")
        assert ns.listxattr("file") == []

    def test_an_owner_who_took_his_own_rights_can_give_them_back(self, store: Store, make: Make) -> None:
        made = make("file", held=True)
        ns.chmod("file", 0)
        assert stat.S_IMODE(os.stat("file").st_mode) == 0
        assert stat.S_IMODE(os.stat(store.file_directory(made.file_id)).st_mode) == 0o300
        ns.chmod("file", 0o640)
        assert stat.S_IMODE(os.stat(store.file_directory(made.file_id)).st_mode) == 0o750

    def test_an_acl_is_followed_by_what_holds_the_data(self, store: Store, make: Make) -> None:
        made = make("file", held=True)
        entries = [
            (1, 6, -1),
            (2, 4, 4321),
            (4, 0, -1),
            (0x10, 4, -1),
            (0x20, 0, -1),
        ]  # u::rw- u:4321:r-- g::--- m::r-- o::---
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        try:
            ns.setxattr("file", "system.posix_acl_access", acl)
        except OSError as error:
            pytest.skip(f"the file system here has no ACLs: {error}")
        held = os.getxattr(store.file_directory(made.file_id), "system.posix_acl_access")
        found = [(tag, bits, who) for tag, bits, who in struct.iter_unpack("<HHi", held[4:])]
        assert found == [(1, 7, -1), (2, 5, 4321), (4, 0, -1), (0x10, 5, -1), (0x20, 0, -1)]
        ns.chmod("file", 0o600)
        held = os.getxattr(store.file_directory(made.file_id), "system.posix_acl_access")
        assert [bits for _, bits, _ in struct.iter_unpack("<HHi", held[4:])] == [7, 5, 0, 0, 0]
        ns.removexattr("file", "system.posix_acl_access")
        assert os.listxattr(store.file_directory(made.file_id)) == []

    def test_a_missing_target_is_told_after_the_rest_is_done(self, store: Store, make: Make, tmp_path: Path) -> None:
        make("file", held=True)
        (tmp_path / "t1").rename(tmp_path / "away")
        store.reload()
        Store.find(store.root).reload()
        with pytest.raises(OSError, match="t1"):
            ns.chmod("file", 0o640)
        assert stat.S_IMODE(os.stat("file").st_mode) == 0o640


def test_a_read_only_copy_of_a_store_lets_nothing_be_removed(store: Store, make: Make) -> None:
    make("file")
    place = Path(store.meta, "place")
    data = place.read_bytes()
    place.unlink()
    place.write_bytes(data.replace(b":", b": 9"))
    for act in (lambda: ns.remove("file"), lambda: ns.rename("file", "other")):
        with pytest.raises(NamespaceError, match="pinstripe adopt"):
            act()
    assert ns.stat("file").st_size == 5
