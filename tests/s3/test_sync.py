"""Sync: every row of the conflict table, against a real bucket; removals; what is written down between rounds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pinstripe
from pinstripe.cli import cli
from pinstripe.errors import ArgumentError, ConflictError, StaleError
from pinstripe.format.remote import Endpoint
from pinstripe.s3.agent_lock import AgentLock
from pinstripe.s3.client import Client
from pinstripe.s3.exporting import export
from pinstripe.s3.known import Known
from pinstripe.s3.links import LinkOptions, link, unlink
from pinstripe.s3.syncing import LinkSync, sync
from pinstripe.store.place import Place
from pinstripe.store.residency import Residency
from pinstripe.store.state import FileState, set_flags, state_of
from pinstripe.store.store import Store
from pinstripe.testing.s3_faults import Fault, FaultProxy

from .stepping import ALL, Pair, Telling

OLD, NEW, OTHER = b"old" * 30_000, b"new" * 40_000, b"other" * 50_000
"""Too long for an inode, and of different lengths."""


@pytest.fixture
def pair(store: Store, client: Any, bucket: str, endpoint: Endpoint) -> Pair:
    return Pair(store, client, bucket, endpoint)


@pytest.fixture
def linked(pair: Pair) -> Pair:
    pair.link()
    return pair


def in_step(pair: Pair, state: str = "clean") -> None:
    """Make file and object ``a`` of the same bytes; the file as wanted."""
    pair.write("a", OLD)
    pair.sync()
    assert pair.there() == {"a": OLD}
    if state == "released":
        pair.release("a")
    elif state == "dirty":
        pair.write("a", NEW)
    elif state == "removed":
        pair.remove("a")


# --- the same on both sides --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["clean", "released"])
def test_unchanged_and_the_same_stays(linked: Pair, state: str) -> None:
    in_step(linked, state)
    before = linked.state("a")
    summary = linked.sync()
    assert (summary.files, linked.state("a")) == (0, before)
    assert not before.why_not_released


def test_new_objects_become_stubs(linked: Pair) -> None:
    linked.put("x/a", OLD)
    linked.sync()
    assert linked.state("x/a").is_stub
    assert linked.read("x/a") == OLD
    assert linked.sync().files == 0


def test_new_objects_stay_there_if_they_are_not_imported(pair: Pair) -> None:
    pair.link(import_=("changed", "deleted"))
    pair.put("a", OLD)
    pair.sync()
    assert pair.here() == []


def test_new_files_go_up(linked: Pair) -> None:
    linked.write("x/a", OLD)
    linked.write("b", b"")
    linked.sync()
    assert linked.there() == {"x/a": OLD, "b": b""}
    assert linked.state("x/a").archived
    assert linked.sync().files == 0


def test_new_files_stay_here_if_they_are_not_exported(pair: Pair) -> None:
    pair.link(export=("changed", "deleted"))
    pair.write("a", OLD)
    pair.sync()
    assert pair.there() == {}


# --- unchanged here --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["clean", "released"])
def test_unchanged_follows_a_changed_object(linked: Pair, state: str) -> None:
    in_step(linked, state)
    linked.put("a", NEW)
    linked.sync()
    assert linked.state("a").is_stub
    assert linked.read("a") == NEW


@pytest.mark.parametrize("state", ["clean", "released"])
def test_unchanged_stays_if_changes_are_not_imported(pair: Pair, state: str) -> None:
    pair.link(import_=("new",))
    in_step(pair, state)
    before = pair.state("a")
    pair.put("a", NEW)
    pair.sync()
    assert pair.state("a") == before
    assert pair.there() == {"a": NEW}
    if state == "clean":
        assert pair.read("a") == OLD
    else:
        with pytest.raises(StaleError, match="p/a"):
            pair.read("a")


@pytest.mark.parametrize("state", ["clean", "released"])
def test_unchanged_notes_an_object_that_was_written_again(linked: Pair, state: str) -> None:
    in_step(linked, state)
    linked.put("a", OLD, Metadata={"file-permissions": "0100600"})
    linked.sync()
    assert linked.state("a").archived
    assert linked.read("a") == OLD


@pytest.mark.parametrize("state", ["clean", "released"])
def test_unchanged_goes_with_its_object(linked: Pair, state: str) -> None:
    in_step(linked, state)
    linked.delete("a")
    linked.sync()
    assert linked.here() == []
    assert linked.sync().files == 0
    assert linked.there() == {}


def test_unchanged_whose_object_is_gone_stays_as_noexport_if_that_is_not_imported(pair: Pair) -> None:
    pair.link(import_=("new", "changed"))
    in_step(pair)
    pair.delete("a")
    pair.sync()
    assert pair.state("a").noexport
    assert pair.read("a") == OLD
    pair.sync()
    assert pair.there() == {}


def test_released_whose_object_is_gone_is_lost_if_that_is_not_imported(pair: Pair) -> None:
    pair.link(import_=("new", "changed"))
    in_step(pair, "released")
    pair.delete("a")
    pair.sync()
    assert pair.state("a").lost
    with pytest.raises(OSError, match="p/a"):
        pair.read("a")


def test_who_reads_while_the_object_changes_gets_no_mixed_bytes(linked: Pair) -> None:
    linked.put("a", OLD)
    linked.sync()
    with pinstripe.open(linked.path("a"), "rb", buffering=0) as file:
        assert file.read(1000) == OLD[:1000]
        linked.put("a", NEW)
        with pytest.raises(StaleError, match="p/a"):
            file.read()
    linked.sync()
    assert linked.read("a") == NEW


# --- changed here ----------------------------------------------------------------------------------------------------


def test_changed_goes_up_over_the_same_object(linked: Pair) -> None:
    in_step(linked, "dirty")
    linked.sync()
    assert linked.there() == {"a": NEW}
    assert linked.state("a").archived


def test_changed_stays_here_if_changes_are_not_exported(pair: Pair) -> None:
    pair.link(export=("new", "deleted"))
    in_step(pair, "dirty")
    pair.sync()
    assert pair.there() == {"a": OLD}
    assert pair.state("a").dirty


def test_both_changed_is_a_conflict_and_both_stay(linked: Pair) -> None:
    in_step(linked, "dirty")
    linked.put("a", OTHER)
    events = Telling()
    summary = linked.sync(code=3, events=events)
    assert summary.conflicts == 1
    assert linked.there() == {"a": OTHER}
    assert linked.read("a") == NEW
    assert linked.state("a").conflict
    assert linked.conflicts() == ["a"]
    assert linked.sync(code=3).conflicts == 1


def test_a_conflict_ends_when_one_side_gives_way(linked: Pair) -> None:
    in_step(linked, "dirty")
    linked.put("a", OTHER)
    linked.sync(code=3)
    export([linked.path("a")], if_exists="overwrite")
    linked.sync()
    assert linked.there() == {"a": NEW}
    assert linked.conflicts() == []


def test_both_changed_and_skip(pair: Pair) -> None:
    pair.link(if_conflict="skip")
    in_step(pair, "dirty")
    pair.put("a", OTHER)
    pair.sync()
    assert pair.there() == {"a": OTHER}
    assert pair.read("a") == NEW


def test_both_changed_and_overwrite(pair: Pair) -> None:
    pair.link(if_conflict="overwrite")
    in_step(pair, "dirty")
    pair.put("a", OTHER)
    pair.sync()
    assert pair.there() == {"a": NEW}
    assert pair.state("a").archived


def test_both_changed_and_keep_both(pair: Pair) -> None:
    pair.link(if_conflict="keep-both")
    in_step(pair, "dirty")
    pair.put("a", OTHER)
    pair.sync()
    beside = [name for name in pair.there() if name.startswith("a.conflict-")]
    assert pair.there() == {"a": OTHER, beside[0]: NEW}
    assert pair.read("a") == NEW
    assert pair.state("a").conflict
    pair.sync()
    assert pair.read(beside[0]) == NEW
    assert len(pair.there()) == 2
    assert pair.conflicts() == ["a"]


def test_kept_both_is_not_uploaded_again_by_another_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.link(if_conflict="keep-both")
    in_step(pair, "dirty")
    pair.put("a", OTHER)
    pair.sync()
    monkeypatch.setenv("SLURM_JOB_ID", "another")
    pair.sync()
    assert len(pair.there()) == 2
    pair.write("a", NEW + b"!")
    pair.sync()
    assert len(pair.there()) == 3


def test_both_changed_and_take_remote(pair: Pair) -> None:
    pair.link(if_conflict="take-remote")
    in_step(pair, "dirty")
    pair.put("a", OTHER)
    pair.sync()
    assert pair.read("a") == OTHER
    aside = Path(pair.store.meta, "lost+found", "a")
    assert aside.exists()


def test_both_changed_to_the_same_bytes_is_no_conflict(linked: Pair) -> None:
    in_step(linked, "dirty")
    linked.put("a", NEW)
    linked.sync()
    assert linked.state("a").archived
    assert linked.there() == {"a": NEW}


@pytest.mark.parametrize("if_conflict", ["fail", "keep-both", "take-remote"])
def test_changed_whose_object_is_gone_is_a_conflict(pair: Pair, if_conflict: str) -> None:
    pair.link(if_conflict=if_conflict)
    in_step(pair, "dirty")
    pair.delete("a")
    for _ in range(2):
        pair.sync(code=3)
        assert pair.there() == {}
        assert pair.read("a") == NEW
        assert pair.state("a").conflict


@pytest.mark.parametrize("options", [{"if_deleted": "recreate"}, {"if_conflict": "overwrite"}])
def test_changed_whose_object_is_gone_is_made_again_if_asked(pair: Pair, options: dict[str, str]) -> None:
    pair.link(**options)
    in_step(pair, "dirty")
    pair.delete("a")
    pair.sync()
    assert pair.there() == {"a": NEW}


def test_changed_whose_object_is_gone_and_skip(pair: Pair) -> None:
    pair.link(if_conflict="skip")
    in_step(pair, "dirty")
    pair.delete("a")
    pair.sync()
    assert pair.there() == {}
    assert pair.read("a") == NEW


def test_a_new_file_beside_another_object_is_a_conflict(linked: Pair) -> None:
    linked.put("a", OTHER)
    linked.write("a", NEW)
    linked.sync(code=3)
    assert (linked.read("a"), linked.there()) == (NEW, {"a": OTHER})


def test_a_new_file_beside_an_equal_object_is_noted(linked: Pair) -> None:
    linked.put("a", NEW)
    linked.write("a", NEW)
    linked.sync()
    assert linked.state("a").archived


def test_noexport_stays_here(linked: Pair) -> None:
    linked.write("a", OLD)
    set_flags(linked.path("a"), add=["noexport"])
    linked.sync()
    assert linked.there() == {}


# --- removed here ----------------------------------------------------------------------------------------------------


def test_removed_is_removed_there(linked: Pair) -> None:
    in_step(linked, "removed")
    assert linked.sync().files == 1
    assert linked.there() == {}
    assert linked.sync().files == 0
    assert linked.here() == []


def test_removed_stays_there_if_removals_are_not_exported_and_does_not_come_back(pair: Pair) -> None:
    pair.link(export=("new", "changed"))
    in_step(pair, "removed")
    for _ in range(2):
        pair.sync()
        assert pair.there() == {"a": OLD}
        assert pair.here() == []


def test_a_stub_that_was_removed_is_removed_there(linked: Pair) -> None:
    linked.put("a", OLD)
    linked.sync()
    linked.remove("a")
    linked.sync()
    assert linked.there() == {}


@pytest.mark.parametrize("import_", [ALL, ("changed",)])
def test_removed_whose_object_changed_comes_back(pair: Pair, import_: tuple[str, ...]) -> None:
    pair.link(import_=import_)
    in_step(pair, "removed")
    pair.put("a", OTHER)
    pair.sync()
    assert pair.read("a") == OTHER
    assert pair.there() == {"a": OTHER}


@pytest.mark.parametrize("import_", [("new",), ()])
def test_removed_whose_object_changed_is_a_conflict_if_changes_are_not_imported(
    pair: Pair, import_: tuple[str, ...]
) -> None:
    pair.link(import_=import_)
    in_step(pair, "removed")
    pair.put("a", OTHER)
    for _ in range(2):
        pair.sync(code=3)
        assert pair.there() == {"a": OTHER}
        assert pair.here() == []
        assert pair.conflicts() == ["a"]


def test_removed_on_both_sides_is_forgotten(linked: Pair) -> None:
    in_step(linked, "removed")
    linked.delete("a")
    assert linked.sync().files == 0
    assert Known.read(linked.link_now()).names == {}


def test_an_object_that_changes_while_it_is_deleted_stays(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link(import_=("new",))
    in_step(pair, "removed")
    proxy.add(Fault("DELETE", "p/a", "412"))
    pair.sync(code=3)
    assert pair.there() == {"a": OLD}
    pair.sync()
    assert pair.there() == {}


def test_a_bucket_that_refuses_deletes_leaves_the_rest_to_the_next_round(pair: Pair, proxy: FaultProxy) -> None:
    pair.endpoint = Endpoint(url=proxy.url, region="us-east-1")
    pair.link(import_=("new",))
    in_step(pair, "removed")
    proxy.add(Fault("DELETE", "p/a", "403"))
    pair.sync(code=1)
    assert pair.there() == {"a": OLD}
    pair.sync()
    assert pair.there() == {}


def test_what_was_never_exported_is_removed_without_a_word(linked: Pair) -> None:
    linked.put("kept", OLD)
    linked.write("a", NEW)
    linked.remove("a")
    linked.sync()
    assert linked.there() == {"kept": OLD}


def test_a_renamed_file_moves_there(linked: Pair) -> None:
    in_step(linked)
    pinstripe.rename(linked.path("a"), linked.path("b"))
    linked.sync()
    assert linked.there() == {"b": OLD}
    assert linked.state("b").archived
    assert linked.sync().files == 0


def test_a_linked_directory_that_is_gone_removes_nothing(linked: Pair) -> None:
    in_step(linked)
    os.rename(linked.directory, f"{linked.directory}-elsewhere")
    linked.sync(code=1)
    assert linked.there() == {"a": OLD}


def test_a_directory_that_cannot_be_looked_into_removes_nothing(linked: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    linked.write("x/a", OLD)
    linked.sync()
    real = pinstripe.scandir

    def scandir(path: Any) -> Any:
        if str(path).rstrip("/").endswith("/x"):
            raise PermissionError(13, "no", str(path))
        return real(path)

    monkeypatch.setattr("pinstripe.store.namespace.scandir", scandir)
    LinkSync(linked.link_now()).round(Telling())
    assert linked.there() == {"x/a": OLD}


# --- files that were moved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["stub", "loaded", "released"])
def test_a_moved_file_keeps_its_object_until_it_has_another(linked: Pair, state: str) -> None:
    linked.put("x/a", OLD)
    linked.sync()
    if state != "stub":
        with pinstripe.open(linked.path("x/a"), "rb") as file:
            file.read(10 if state == "loaded" else -1)
    if state == "released":
        linked.release("x/a")
    linked.link(quiet_s=3600.0)
    pinstripe.rename(linked.path("x"), linked.path("y"))
    events = Telling()
    linked.sync(events=events)
    assert linked.there() == {"x/a": OLD}
    assert any("not deleted" in note and "y/a" in note for note in events.notes)
    linked.link(quiet_s=0.0)
    for _ in range(2):
        linked.sync()
    assert linked.there() == {"y/a": OLD}
    assert linked.read("y/a") == OLD
    assert linked.sync().files == 0


@pytest.mark.parametrize("how", ["stub", "loaded", "released", "directory", "link"])
def test_a_file_that_was_moved_out_of_its_link_keeps_its_object(linked: Pair, how: str) -> None:
    long = OLD * 30
    linked.put("x/a", long)
    linked.put("k", NEW)
    linked.sync()
    path, saved = linked.path("x/a"), os.path.join(linked.store.root, "saved")
    if how in ("loaded", "released"):
        with pinstripe.open(path, "rb") as file:
            file.read(-1 if how == "released" else 10)
    assert linked.state("x/a").is_stub == (how != "released")
    if how == "released":
        linked.release("x/a")
    linked.sync()
    if how == "directory":
        pinstripe.rename(linked.path("x"), saved)
        saved = os.path.join(saved, "a")
    elif how == "link":
        os.link(path, saved)
        linked.remove("x/a")
    else:
        pinstripe.rename(path, saved)
    for _ in range(2):
        linked.sync()
        assert linked.there()["x/a"] == long
    with pinstripe.open(saved, "rb") as file:
        assert file.read() == long
    pinstripe.remove(saved)
    linked.sync()
    assert "x/a" not in linked.there()


def test_a_moved_stub_that_cannot_be_kept_here_is_one_of_its_new_object(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.link(import_=("new", "changed"), export=("new", "changed"))
    pair.put("a", OLD)
    pair.sync()
    pinstripe.rename(pair.path("a"), pair.path("b"))

    def full(self: Residency) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Residency, "_open_writer", full)
    pair.sync()
    pair.delete("a")
    pair.sync()
    assert pair.state("b").is_stub
    assert pair.read("b") == OLD


def test_an_interrupted_round_writes_down_what_it_did(linked: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    linked.write("a", OLD)
    linked.write("b", NEW)
    linked.sync()
    linked.remove("a")
    linked.remove("b")
    real = Client.delete

    def delete(self: Client, bucket: str, key: str, **more: Any) -> None:
        real(self, bucket, key, **more)
        if key == "p/b":
            raise KeyboardInterrupt

    monkeypatch.setattr(Client, "delete", delete)
    with pytest.raises(KeyboardInterrupt):
        linked.sync()
    assert list(Known.read(linked.link_now()).names) == ["b"]


def test_what_cannot_be_looked_at_is_not_deleted(linked: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    linked.put("a", OLD)
    linked.put("k", NEW)
    linked.sync()
    linked.remove("a")
    pinstripe.mkdir(os.path.join(linked.store.root, "closed"))
    real = pinstripe.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("/closed"):
            raise PermissionError(13, "no", str(path))
        return real(path)

    events = Telling()
    with monkeypatch.context() as patch:
        patch.setattr("pinstripe.store.listing.scandir", scandir)
        linked.sync(events=events)
    assert linked.there() == {"a": OLD, "k": NEW}
    assert any("cannot be told" in note for note in events.notes)
    linked.sync()
    assert linked.there() == {"k": NEW}


def test_a_whole_file_that_was_moved_out_of_its_link_is_pinned(linked: Pair) -> None:
    in_step(linked)
    saved = os.path.join(linked.store.root, "saved")
    pinstripe.rename(linked.path("a"), saved)
    linked.sync()
    assert linked.there() == {}
    assert "pinned" in state_of(saved).why_not_released


def test_a_moved_file_and_another_object_of_its_new_name_are_a_conflict(linked: Pair) -> None:
    in_step(linked)
    pinstripe.rename(linked.path("a"), linked.path("b"))
    linked.put("b", OTHER)
    for _ in range(2):
        linked.sync(code=3)
        assert (linked.read("b"), linked.there()["b"]) == (OLD, OTHER)


def test_two_names_of_one_file_and_other_objects_of_both_lose_nothing(linked: Pair) -> None:
    linked.write("a", OLD)
    os.link(linked.path("a"), linked.path("b"))
    linked.sync()
    base = linked.state("a").base
    assert base is not None
    other = "a" if base.remote.key == "p/b" else "b"
    linked.put(other, OTHER)
    linked.sync(code=3)
    assert linked.read("a") == linked.read("b") == OLD
    assert linked.there()[other] == OTHER


# --- directories and symlinks ------------------------------------------------------------------------------------------


def test_empty_directories_and_symlinks_go_up_once_and_are_removed(linked: Pair) -> None:
    linked.write("a", OLD)
    pinstripe.mkdir(linked.path("empty"))
    pinstripe.symlink("a", linked.path("link"))
    linked.sync()
    assert linked.there() == {"a": OLD, "empty/": b"", "link": b"a"}
    assert linked.sync().files == 0
    pinstripe.rmdir(linked.path("empty"))
    pinstripe.remove(linked.path("link"))
    linked.sync()
    assert linked.there() == {"a": OLD}
    assert linked.sync().files == 0
    assert linked.here() == ["a"]


def test_a_symlink_that_leads_elsewhere_goes_up(linked: Pair) -> None:
    linked.write("a", OLD)
    pinstripe.symlink("a", linked.path("link"))
    linked.sync()
    pinstripe.remove(linked.path("link"))
    pinstripe.symlink("b", linked.path("link"))
    linked.sync()
    assert linked.there() == {"a": OLD, "link": b"b"}


def test_a_symlink_follows_its_object(linked: Pair) -> None:
    pinstripe.symlink("a", linked.path("link"))
    linked.sync()
    linked.put("link", b"b", Metadata={"file-permissions": "0120777"})
    linked.sync()
    assert os.readlink(linked.path("link")) == "b"
    linked.delete("link")
    linked.sync()
    assert linked.here() == []
    assert linked.sync().files == 0


def test_a_symlink_that_changed_on_both_sides_is_a_conflict(linked: Pair) -> None:
    pinstripe.symlink("a", linked.path("link"))
    linked.sync()
    linked.put("link", b"b", Metadata={"file-permissions": "0120777"})
    pinstripe.remove(linked.path("link"))
    pinstripe.symlink("c", linked.path("link"))
    for _ in range(2):
        linked.sync(code=3)
        assert (os.readlink(linked.path("link")), linked.there()) == ("c", {"link": b"b"})


def test_a_removed_directory_does_not_come_back(pair: Pair) -> None:
    pair.link(export=("new",))
    pair.write("x/a", OLD)
    pair.sync()
    pair.remove("x/a")
    pinstripe.rmdir(pair.path("x"))
    pair.sync()
    assert not os.path.exists(pair.path("x"))
    assert pair.there() == {"x/a": OLD}


def test_a_directory_in_place_of_a_file(linked: Pair) -> None:
    in_step(linked, "removed")
    linked.write("a/b", NEW)
    linked.sync()
    assert linked.there() == {"a/b": NEW}


# --- a round ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_all_and_changes_nothing(linked: Pair) -> None:
    in_step(linked)
    linked.write("b", NEW)
    linked.sync()
    linked.remove("a")
    linked.write("b", OTHER)
    linked.write("c", NEW)
    linked.put("d", OLD)
    before = (linked.there(), linked.here())
    events = Telling()
    linked.sync(dry_run=True, events=events)
    told = {(verb, os.path.basename(path)) for verb, path in events.plans}
    assert told == {("delete", "a"), ("upload", "b"), ("upload", "c"), ("make a stub", "d")}
    assert (linked.there(), linked.here()) == before


def test_what_was_just_written_waits_for_its_quiet_time(pair: Pair) -> None:
    pair.link(quiet_s=3600.0)
    pair.write("a", OLD)
    sync_ = LinkSync(pair.link_now())
    step = sync_.round(Telling())
    assert (pair.there(), step.dirty_files, step.dirty_bytes) == ({}, 1, len(OLD))


def test_what_is_in_conflict_is_nothing_to_wait_for(linked: Pair) -> None:
    in_step(linked, "dirty")
    linked.put("a", OTHER)
    step = LinkSync(linked.link_now()).round(Telling())
    assert (step.conflicts, step.dirty_files, step.dirty_bytes) == (1, 0, 0)


def test_two_changes_within_a_tick_of_the_clock_are_both_seen(linked: Pair) -> None:
    path = linked.write("a", OLD)
    keeper = LinkSync(linked.link_now())
    keeper.round(Telling())
    seen = os.stat(path)
    linked.write("a", NEW)
    pinstripe.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    keeper.round(Telling(), lists=False)
    assert linked.there() == {"a": NEW}


def test_a_whole_store_can_be_linked(store: Store, bucket: str, endpoint: Endpoint, client: Any) -> None:
    pair = Pair(store, client, bucket, endpoint)
    pair.directory = store.root
    pair.link()
    pair.write("a", OLD)
    pair.put("b", NEW)
    pair.sync()
    assert pair.there() == {"a": OLD, "b": NEW}
    assert pair.here() == ["a", "b"]
    pair.remove("a")
    pair.delete("b")
    pair.sync()
    assert (pair.there(), pair.here()) == ({}, [])


def test_more_than_max_dirty_does_not_wait(pair: Pair) -> None:
    pair.link(quiet_s=3600.0, max_dirty=len(OLD))
    pair.write("a", OLD)
    pair.sync()
    assert pair.there() == {}
    pair.write("b", OLD)
    pair.sync()
    assert sorted(pair.there()) == ["a", "b"]


def test_a_round_looks_only_into_files_that_changed(linked: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        linked.write(name, OLD)
    monkeypatch.setattr("pinstripe.s3.syncing._TICK_NS", 0)
    keeper = LinkSync(linked.link_now())
    keeper.round(Telling())
    looked: list[str] = []

    def look(place: Place) -> FileState:
        looked.append(place.name)
        return state_of(place)

    monkeypatch.setattr("pinstripe.s3.syncing.state_of", look)
    keeper.round(Telling(), lists=False)
    assert looked == []
    linked.write("b", NEW)
    keeper.round(Telling(), lists=False)
    assert set(looked) == {"b"}
    assert linked.there()["b"] == NEW
    set_flags(linked.path("c"), add=["noexport"])
    looked.clear()
    keeper.round(Telling(), lists=False)
    assert "c" in looked


def test_a_link_whose_directory_is_gone_holds_no_other_link_up(pair: Pair, bucket: str) -> None:
    pair.link()
    other = os.path.join(pair.store.root, "a-first")
    link(other, f"s3://{bucket}/q", import_=ALL, endpoint=pair.endpoint, options=LinkOptions(quiet_s=0.0))
    os.rmdir(other)
    pair.write("a", OLD)
    pair.sync(code=1)
    assert pair.there() == {"a": OLD}


def test_a_record_that_is_damaged_removes_nothing(linked: Pair) -> None:
    in_step(linked, "removed")
    record = Path(linked.store.meta, "s3", f"{linked.link_now().id.hex()}.known")
    record.write_text('{"names": [')
    linked.sync()
    assert linked.there() == {"a": OLD}
    assert linked.read("a") == OLD


def test_the_record_of_a_link_that_is_no_more_is_removed(linked: Pair) -> None:
    in_step(linked)
    record = Path(linked.store.meta, "s3", f"{linked.link_now().id.hex()}.known")
    assert record.exists()
    unlink(linked.directory)
    linked.link()
    linked.sync()
    assert not record.exists()
    assert linked.there() == {"a": OLD}


def test_sync_of_a_directory_is_for_its_links(linked: Pair) -> None:
    linked.write("x/a", OLD)
    sync(linked.path("x"))
    assert linked.there() == {"x/a": OLD}
    pinstripe.mkdir(os.path.join(linked.store.root, "elsewhere"))
    with pytest.raises(ArgumentError, match="not linked"):
        sync(os.path.join(linked.store.root, "elsewhere"))


def test_one_round_at_a_time(linked: Pair) -> None:
    with AgentLock(linked.store), pytest.raises(ConflictError, match="looked after already"):
        sync(linked.store.root)
    linked.sync()


def test_the_command(linked: Pair) -> None:
    linked.write("a", OLD)
    done = CliRunner().invoke(cli, ["sync", linked.store.root, "--json"])
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["files"], last["bytes"]) == ("summary", 1, len(OLD))
    linked.write("a", NEW)
    linked.put("a", OTHER)
    assert CliRunner().invoke(cli, ["sync", linked.store.root]).exit_code == 3
    listed = CliRunner().invoke(cli, ["link", linked.store.root])
    assert "1 in conflict" in listed.stdout
    assert "conflict" in CliRunner().invoke(cli, ["state", linked.path("a")]).stdout
