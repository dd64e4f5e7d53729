"""A store: made whole or not at all, found from any path, revised by one writer at a time."""

import contextlib
import dataclasses
import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from pinstripe.errors import ArgumentError, DamageError, NamespaceError, NoStoreError, TargetError, UnsupportedError
from pinstripe.format.superblock import Superblock
from pinstripe.store import create as create_module
from pinstripe.store.create import create
from pinstripe.store.store import Store
from pinstripe.store.target_spec import TargetSpec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create(tmp_path / "store", [tmp_path / "t0", f"{tmp_path}/t1,pool=ssd"])


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


class TestCreate:
    def test_a_new_store_knows_its_targets_in_the_order_given(self, store: Store, tmp_path: Path) -> None:
        assert [target.path for target in store.targets] == [f"{tmp_path}/t0", f"{tmp_path}/t1"]
        assert [target.pool for target in store.targets] == [None, "ssd"]
        assert store.missing == ()
        assert store.superblock.revision == 1

    def test_the_layout_given_is_the_default_of_new_files(self, tmp_path: Path) -> None:
        store = create(tmp_path / "s", [tmp_path / "t"], stripe_bytes="4M", stripe_count=1, codec="raw")
        assert (store.layout.stripe_bytes, store.layout.stripe_count, store.layout.codec) == (4 << 20, 1, "raw")

    def test_targets_beside_and_below_the_store_are_recorded_relative_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep/s").mkdir()
        store = create(tmp_path / "deep/s", [tmp_path / "deep/t", tmp_path / "deep/s/t", tmp_path / "far"])
        assert [entry.path for entry in store.superblock.targets] == ["../t", "t", str(tmp_path / "far")]

    def test_a_store_moved_with_its_targets_is_whole(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        create(tmp_path / "a/s", [tmp_path / "a/t"])
        (tmp_path / "a").rename(tmp_path / "b")
        assert Store(tmp_path / "b/s").missing == ()

    def test_an_existing_directory_becomes_a_store_and_keeps_what_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s/notes").write_text("mine")
        create(tmp_path / "s", [tmp_path / "t"])
        assert (tmp_path / "s/notes").read_text() == "mine"

    def test_a_second_store_in_the_same_directory_is_refused(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(NamespaceError, match="is a store already") as caught:
            create(store.root, [tmp_path / "t2"])
        assert caught.value.errno == errno.EEXIST
        assert not (tmp_path / "t2").exists()

    def test_a_store_in_a_store_is_refused(self, store: Store, tmp_path: Path) -> None:
        os.mkdir(f"{store.root}/dir")
        with pytest.raises(NamespaceError, match="do not nest"):
            create(f"{store.root}/dir/inner", [tmp_path / "t2"])

    def test_a_store_that_would_lie_in_its_own_target_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NamespaceError, match="in its target"):
            create(tmp_path / "t/s", [tmp_path / "t"])
        assert tree(tmp_path) == []

    def test_a_store_in_another_stores_target_is_refused(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(NamespaceError, match="which is a target"):
            create(tmp_path / "t0/s", [tmp_path / "t2"])

    def test_a_target_of_another_store_is_refused(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="belongs to a store already"):
            create(tmp_path / "other", [tmp_path / "t0"])
        with pytest.raises(TargetError, match="lies in the target"):
            create(tmp_path / "other", [tmp_path / "t0/below"])
        assert not (tmp_path / "other").exists()

    def test_a_target_that_is_not_empty_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()
        (tmp_path / "t/thesis.tex").touch()
        with pytest.raises(TargetError, match=r"not empty \(thesis.tex\)"):
            create(tmp_path / "s", [tmp_path / "t"])

    def test_a_target_whose_parent_is_missing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match="parent directory does not exist"):
            create(tmp_path / "s", [tmp_path / "a/b"])

    @pytest.mark.parametrize(
        ("targets", "match"),
        [
            ([], "at least one target"),
            (["t", "t"], "is the same as"),
            (["t", "t/below"], "lies in"),
            (["t,scope=rack"], "scope='rack'"),
            (["t,colour=red"], "unknown option colour"),
        ],
    )
    def test_targets_that_cannot_be_meant_are_refused(
        self, tmp_path: Path, targets: list[str], match: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ArgumentError, match=match):
            create("s", targets)
        assert tree(tmp_path) == []

    def test_a_default_pool_without_a_target_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ArgumentError, match="no target is in that pool"):
            create(tmp_path / "s", [tmp_path / "t"], pool="ssd")

    def test_a_file_system_without_hard_links_is_refused_with_the_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_link(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        monkeypatch.setattr(os, "link", no_link)
        with pytest.raises(UnsupportedError, match="no hard links across directories"):
            create(tmp_path / "s", [tmp_path / "t"])
        assert tree(tmp_path) == []

    @pytest.mark.parametrize("step", ["publish_superblock", "publish_place", "fsync_directory", "create_target"])
    @pytest.mark.parametrize("existing", [False, True])
    def test_an_error_at_any_step_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
    ) -> None:
        if existing:
            for name in ("s", "t0", "t1"):
                (tmp_path / name).mkdir(mode=0o711)
        before = [(path, os.stat(tmp_path / path).st_mode) for path in tree(tmp_path)]
        real = getattr(create_module, step)
        calls = 0
        failed = 0

        def fails_at(number: int):  # type: ignore[no-untyped-def]
            def act(*args: object, **kwargs: object) -> object:
                nonlocal calls, failed
                calls += 1
                if calls == number:
                    failed += 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*args, **kwargs)

            return act

        for number in range(1, 20):
            calls, failed = 0, 0
            monkeypatch.setattr(create_module, step, fails_at(number))
            with contextlib.suppress(OSError):
                create(tmp_path / "s", [tmp_path / "t0", tmp_path / "t1"], mode=0o1777)
            if not failed:
                break
            assert [(path, os.stat(tmp_path / path).st_mode) for path in tree(tmp_path)] == before
        assert number > 1
        assert not failed

    @pytest.mark.parametrize("mode", [0o755, 0o700, 0o2775, 0o1777])
    def test_aa_directories_are_as_wide_as_the_store_but_only_the_owner_lists_them(
        self, tmp_path: Path, mode: int
    ) -> None:
        store = create(tmp_path / "s", [tmp_path / "t"], mode=mode)
        shard = Path(store.make_shard(bytes(16)))
        assert stat.S_IMODE(shard.stat().st_mode) == mode & ~0o044
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == mode
        assert not stat.S_IMODE(Path(store.meta, "superblock").stat().st_mode) & 0o022
        assert not stat.S_IMODE(Path(store.meta, "files").stat().st_mode) & 0o022

    def test_the_mode_is_that_of_the_directory_if_it_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s").chmod(0o700)
        (tmp_path / "t").mkdir()
        (tmp_path / "t").chmod(0o755)
        store = create(tmp_path / "s", [tmp_path / "t"])
        assert store.superblock.mode == 0o700
        assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o700

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories to any group")
    def test_what_a_group_may_write_belongs_to_the_directorys_group(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        os.chown(tmp_path / "s", -1, 4321)
        (tmp_path / "s").chmod(0o2775)
        store = create(tmp_path / "s", [tmp_path / "t"])
        for path in (store.meta, f"{store.meta}/files", f"{store.meta}/files/00", tmp_path / "t", tmp_path / "t/00"):
            assert os.stat(path).st_gid == 4321

    def test_in_a_shared_store_the_owner_makes_every_aa_directory(self, tmp_path: Path) -> None:
        store = create(tmp_path / "s", [tmp_path / "t"], mode=0o1777)
        for parent in (Path(store.meta, "files"), tmp_path / "t"):
            shards = [path for path in parent.iterdir() if path.is_dir()]
            assert len(shards) == 256
            assert {stat.S_IMODE(path.stat().st_mode) for path in shards} == {0o1733}


class TestTargetSpec:
    def test_the_options_are_read_from_the_end(self, tmp_path: Path) -> None:
        spec = TargetSpec.parse(f"{tmp_path}/a,b,scope=node,pool=ssd")
        assert spec == TargetSpec(f"{tmp_path}/a,b", "node", "ssd")

    def test_a_mapping_says_the_same(self, tmp_path: Path) -> None:
        assert TargetSpec.parse({"path": tmp_path, "pool": "hdd"}) == TargetSpec(str(tmp_path), "shared", "hdd")

    def test_an_option_given_twice_is_refused(self) -> None:
        with pytest.raises(ArgumentError, match="twice"):
            TargetSpec.parse("t,pool=a,pool=b")


class TestFind:
    def test_the_store_is_found_from_any_path_in_it(self, store: Store) -> None:
        os.makedirs(f"{store.root}/a/b")
        for path in ("", "/a/b", "/a/b/not/there"):
            assert Store.find(store.root + path).root == store.root

    def test_a_path_in_no_store_is_an_error_that_names_create(self, tmp_path: Path) -> None:
        with pytest.raises(NoStoreError, match="pinstripe create") as caught:
            Store.find(tmp_path)
        assert isinstance(caught.value, FileNotFoundError)

    def test_the_same_store_is_opened_once(self, store: Store) -> None:
        assert Store.find(store.root) is Store.find(f"{store.root}/x")

    def test_a_store_made_anew_at_the_same_path_is_another(self, store: Store, tmp_path: Path) -> None:
        old = Store.find(store.root)
        shutil.rmtree(store.root)
        shutil.rmtree(tmp_path / "t0")
        new = create(store.root, [tmp_path / "t0"])
        assert Store.find(store.root).id == new.id != old.id

    def test_what_another_process_revised_is_seen(self, store: Store) -> None:
        found = Store.find(store.root)
        Store(store.root).revise(lambda block: dataclasses.replace(block, layout=store.layout.make(codec="raw")))
        assert Store.find(store.root) is found
        assert found.layout.codec == "raw"


class TestTargets:
    def test_a_missing_target_is_listed_and_named_when_it_is_needed(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "t1").rename(tmp_path / "away")
        store.reload()
        assert [target.path for target in store.targets] == [f"{tmp_path}/t0"]
        (entry,) = store.missing
        with pytest.raises(TargetError) as caught:
            store.target(entry.id)
        assert f"{tmp_path}/t1" in str(caught.value)
        assert caught.value.target == f"{tmp_path}/t1"
        assert str(store.missing_error(entry)) == str(caught.value)

    def test_a_target_that_comes_back_is_seen_by_who_looks_again(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = Store.find(store.root)
        (tmp_path / "t1").rename(tmp_path / "away")
        found.reload()
        assert len(Store.find(store.root).missing) == 1
        (tmp_path / "away").rename(tmp_path / "t1")
        monkeypatch.setattr("pinstripe.store.store._LOOK_AGAIN_S", 0.0)
        assert Store.find(store.root).missing == ()

    def test_an_empty_directory_in_a_targets_place_is_missing_not_empty(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "t1").rename(tmp_path / "away")
        (tmp_path / "t1").mkdir()
        store.reload()
        assert len(store.missing) == 1
        assert list((tmp_path / "t1").iterdir()) == []

    def test_a_target_is_found_by_its_id(self, store: Store) -> None:
        for target in store.targets:
            assert store.target(target.id) is target
        with pytest.raises(TargetError, match="was removed"):
            store.target(bytes(16))


class TestRevise:
    def test_a_revision_that_changes_nothing_is_not_made(self, store: Store) -> None:
        assert store.revise(lambda block: block).revision == 1

    def test_two_who_revise_at_once_both_land(self, store: Store) -> None:
        barrier = threading.Barrier(4)

        def add(word: str) -> None:
            barrier.wait()
            mine = Store(store.root)
            for number in range(5):
                mine.revise(
                    lambda block, tag=f"{word}{number}": dataclasses.replace(block, compatible=(*block.compatible, tag))
                )

        threads = [threading.Thread(target=add, args=(word,)) for word in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.reload()
        assert sorted(store.superblock.compatible) == sorted(
            f"{word}{number}" for word in "abcd" for number in range(5)
        )
        assert store.superblock.revision == 21
        assert sorted(os.listdir(f"{store.meta}/superblock"), key=int) == [str(number) for number in range(1, 22)]

    def test_a_damaged_newest_revision_gives_way_to_the_one_before(self, store: Store) -> None:
        store.revise(lambda block: dataclasses.replace(block, layout=store.layout.make(codec="raw")))
        newest = Path(store.meta, "superblock/2")
        newest.chmod(0o644)
        newest.write_bytes(newest.read_bytes().replace(b"raw", b"lz4"))
        store.reload()
        assert store.superblock.revision == 1

    def test_a_store_without_a_whole_revision_is_damage(self, store: Store) -> None:
        only = Path(store.meta, "superblock/1")
        only.chmod(0o644)
        only.write_bytes(b"")
        with pytest.raises(DamageError):
            store.reload()

    def test_a_newer_format_is_refused_even_beside_an_older_revision(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pinstripe.format.superblock.FORMAT", 2)
        Path(store.meta, "superblock/2").write_bytes(dataclasses.replace(store.superblock, revision=2).encode())
        monkeypatch.undo()
        with pytest.raises(UnsupportedError, match="format 2"):
            store.reload()


class TestCopies:
    def test_a_new_store_is_no_copy(self, store: Store) -> None:
        assert not store.is_copy
        store.check_writable()

    def test_a_moved_store_is_no_copy(self, store: Store, tmp_path: Path) -> None:
        os.rename(store.root, tmp_path / "moved")
        assert not Store(tmp_path / "moved").is_copy

    def test_a_copied_store_is_read_only_until_it_is_adopted(self, store: Store, tmp_path: Path) -> None:
        shutil.copytree(store.root, tmp_path / "copy")
        copy = Store(tmp_path / "copy")
        assert copy.id == store.id
        with pytest.raises(NamespaceError, match="pinstripe adopt") as caught:
            copy.check_writable()
        assert caught.value.errno == errno.EROFS


def test_opening_a_store_writes_nothing(store: Store) -> None:
    def marks() -> list[tuple[str, int]]:
        root = Path(store.root)
        return [(path, os.lstat(root / path).st_mtime_ns) for path in [".", *tree(root)]]

    before = marks()
    Store(store.root)
    Store.find(store.root)
    assert marks() == before


def test_a_superblock_holds_what_was_given(store: Store) -> None:
    data = Path(store.meta, "superblock/1").read_bytes()
    assert Superblock.decode(data, 1) == store.superblock
