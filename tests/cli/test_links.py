"""link, unlink and state; the bucket is a stand-in here. tests/s3 has a real one."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pinstripe
from pinstripe.cli.state import describe_state, hsm_flags, hsm_line
from pinstripe.errors import ArgumentError, NamespaceError, UnsupportedError
from pinstripe.format.remote import Base, Endpoint, Remote
from pinstripe.format.superblock import LinkEntry
from pinstripe.s3 import links as links_module
from pinstripe.s3.conflicts import Policy
from pinstripe.s3.links import LinkOptions, endpoint_for, link, link_of, links, unlink
from pinstripe.store.state import FileState, record_base, set_flags, state_of
from pinstripe.store.store import Store
from pinstripe.store.stub import make_stub

from .conftest import Run, Write

pytestmark = pytest.mark.usefixtures("bucket")


class Page:
    """As the client's pages."""

    def __init__(self, objects: tuple[str, ...]) -> None:
        self.objects = objects


class Bucket:
    """A stand-in for the client: knows which keys there are, and remembers what it was asked."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.endpoints: list[Endpoint] = []
        self.error: Exception | None = None
        self.allowed = ""

    def of(self, endpoint: Endpoint) -> Bucket:
        self.endpoints.append(endpoint)
        return self

    def list_pages(self, bucket: str, prefix: str, *, delimiter: str = "") -> Iterator[Page]:
        self.asked.append((bucket, prefix))
        if self.error is not None:
            raise self.error
        if not prefix.startswith(self.allowed):
            raise PermissionError(errno.EACCES, f"s3://{bucket}/{prefix} may not be listed")
        yield Page(tuple(key for key in self.keys if key.startswith(prefix)))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    stand_in = Bucket()
    monkeypatch.setattr(links_module, "_client", stand_in.of)
    return stand_in


def remote(key: str = "in/f", size: int = 5, url: str = "", **more: object) -> Remote:
    return Remote("b", key, size, "e" * 32, endpoint=Endpoint(url=url), **more)  # type: ignore[arg-type]


class TestLink:
    def test_a_link_is_made_listed_and_ended(self, run: Run, store: Store, bucket: Bucket) -> None:
        assert run("link", "s") == f"{store.root} has no links\n"
        assert run("link", "s/in", "s3://b/data/in") == f"linked {store.root}/in to s3://b/data/in/\n"
        assert os.path.isdir("s/in")
        assert run("link", "s/x", "s3://c", "--import", "all", "--export", "changed,new", "--endpoint-url", "http://h")
        rows = [line.split() for line in run("link", "s").splitlines()]
        assert rows == [
            ["DIRECTORY", "BUCKET", "IMPORT", "EXPORT", "ENDPOINT"],
            [f"{store.root}/in", "s3://b/data/in/", "-", "-", "-"],
            [f"{store.root}/x", "s3://c/", "new,changed,deleted", "new,changed", "http://h"],
        ]
        os.chdir("s/in")
        assert len(run.json("link")) == 2
        assert run("unlink", ".") == f"unlinked {store.root}/in from s3://b/data/in/\n"
        assert [one["bucket"] for one in run.json("link", "..")] == ["c"]
        assert run.json("unlink", "../x")["url"] == "s3://c/"
        assert Store.find(store.root).superblock.read_only_compatible == ()

    def test_json_says_all_of_a_link(self, run: Run, store: Store) -> None:
        told = run.json(
            "link", "s/in", "s3://b/p/", "--import", "new", "--profile", "me", "--region", "r", "--requester-pays",
            "--kms-key", "aws:kms", "--owner-acl", "--checksum", "crc32c", "--map-owner", "12:34", "--file-mode", "600",
            "--high", "90%", "--low", "80", "--quiet", "2m", "--poll", "1h", "--max-dirty", "1G", "--if-conflict", "keep-both",
            "--if-deleted", "recreate", "--directory-mode", "2750",
        )  # fmt: skip
        assert len(told.pop("id")) == 32
        assert told == {
            "directory": f"{store.root}/in",
            "url": "s3://b/p/",
            "bucket": "b",
            "prefix": "p/",
            "import": ["new"],
            "export": [],
            "endpoint": {
                "url": "",
                "region": "r",
                "profile": "me",
                "unsigned": False,
                "requester_pays": True,
                "owner_acl": True,
                "kms_key": "aws:kms",
                "checksum": "crc32c",
            },
            "options": {
                "high": 90.0,
                "low": 80.0,
                "uid": 12,
                "gid": 34,
                "file_mode": 0o600,
                "directory_mode": 0o2750,
                "quiet_s": 120.0,
                "poll_s": 3600.0,
                "max_dirty": 1 << 30,
                "if_conflict": "keep-both",
                "if_deleted": "recreate",
            },
        }
        (found,) = links(Store.find("s"))
        assert found.policy == Policy(("new",), (), "keep-both", "recreate")
        assert (found.defaults.uid, found.defaults.file_mode) == (12, 0o600)

    def test_the_same_place_again_changes_the_settings_and_keeps_the_id(self, run: Run, store: Store) -> None:
        first = run.json("link", "s/in", "s3://b/p", "--import", "all", "--high", "90", "--low", "80")
        second = run.json("link", "s/in", "s3://b/p/", "--export", "new")
        assert second["id"] == first["id"]
        assert (second["import"], second["export"], second["options"]["high"]) == ([], ["new"], 0.0)
        assert len(run.json("link", "s")) == 1

    @pytest.mark.parametrize(
        ("directory", "url"),
        [
            ("s/a/b", "s3://other"),
            ("s/a", "s3://other"),
            ("s/a/b/c", "s3://other"),
            ("s", "s3://other"),
            ("s/z", "s3://b/p/q"),
            ("s/z", "s3://b/p"),
            ("s/z", "s3://b/p/q/r/"),
            ("s/z", "s3://b"),
            ("s/a/b", "s3://b/p/q/r"),
        ],
    )
    def test_links_that_overlap_are_refused_and_leave_nothing(
        self, run: Run, store: Store, bucket: Bucket, directory: str, url: str
    ) -> None:
        run("link", "s/a/b", "s3://b/p/q")
        bucket.asked.clear()
        text = run.fails("link", directory, url, code=2)
        assert (
            f"overlaps the link of a/b to s3://b/p/q/ ({'its part' if '/z' in directory else 'its directory'}" in text
        )
        assert bucket.asked == []
        assert not os.path.exists("s/z")
        assert not os.path.exists("s/a/b/c")
        assert len(run.json("link", "s")) == 1

    def test_neighbours_do_not_overlap(self, run: Run, store: Store) -> None:
        run("link", "s/a", "s3://b/p")
        run("link", "s/ab", "s3://b/pq")
        run("link", "s/z", "s3://b/p", "--endpoint-url", "http://other", code=2)
        assert len(run.json("link", "s")) == 2

    def test_a_race_with_another_link_is_decided_by_the_superblock(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = LinkEntry(b"x" * 16, "other", "b", "p/")

        def ask(client: object, wanted: LinkEntry) -> None:
            store.revise(lambda block: dataclasses.replace(block, links=(entry,)))

        monkeypatch.setattr(links_module, "_ask", ask)
        with pytest.raises(ArgumentError, match="overlaps the link of other"):
            link("s/in", "s3://b/p/q")
        assert not os.path.exists("s/in")
        assert [one.entry for one in links(Store.find("s"))] == [entry]

    def test_the_bucket_is_asked_and_its_error_told_before_anything_is_made(
        self, run: Run, store: Store, bucket: Bucket
    ) -> None:
        bucket.error = PermissionError(errno.EACCES, "s3://b may not be listed")
        assert "s3://b may not be listed" in run.fails("link", "s/in", "s3://b/p", "--profile", "me")
        assert bucket.asked == [("b", "p/")]
        assert bucket.endpoints == [Endpoint(profile="me")]
        assert not os.path.exists("s/in")
        assert run.json("link", "s") == []

    @pytest.mark.parametrize("url", ["s3://b/x/store", "s3://b/x/store/dir", "s3://b/x/store/dir/below"])
    def test_a_prefix_that_is_a_store_or_lies_in_one_is_refused(
        self, run: Run, store: Store, bucket: Bucket, url: str
    ) -> None:
        bucket.keys = ["x/store/.pinstripe/superblock/1", "x/store/dir/name", "x/plain"]
        assert "is a store itself" in run.fails("link", "s/in", url)
        assert not os.path.exists("s/in")
        run("link", "s/in", "s3://b/x/plain")

    def test_who_may_list_a_prefix_alone_may_link_it(self, run: Run, store: Store, bucket: Bucket) -> None:
        bucket.allowed = "lab/mine/"
        run("link", "s/in", "s3://b/lab/mine")
        assert bucket.asked[-1] == ("b", "lab/.pinstripe/superblock/")
        bucket.keys = ["lab/mine/x/.pinstripe/superblock/1"]
        run.fails("link", "s/x", "s3://c/lab/mine/x/y")
        run.fails("link", "s/x", "s3://c/lab")

    def test_a_whole_bucket_that_is_a_store_is_refused(self, run: Run, store: Store, bucket: Bucket) -> None:
        bucket.keys = [".pinstripe/superblock/1"]
        run.fails("link", "s/in", "s3://b")
        run.fails("link", "s/in", "s3://b/dir")
        assert "store's own" in run.fails("link", "s/in", "s3://b/.pinstripe/files")

    def test_only_directories_are_linked(self, run: Run, store: Store, write: Write) -> None:
        run("cp", str(write("f")), "s/f")
        run.fails("link", "s/f", "s3://b")
        run.fails("link", "s/.pinstripe", "s3://b", code=2)
        assert "lies in no store" in run.fails("link", "elsewhere", "s3://b")
        assert run.json("link", "s") == []

    @pytest.mark.parametrize(
        "args",
        [
            ("s/in", "b/p"),
            ("s/in", "s3://"),
            ("s/in", "s3://b/a//b"),
            ("s/in", "s3://b/../x"),
            ("s/in", "s3://b", "--import", "renamed"),
            ("s/in", "s3://b", "--import", ""),
            ("s/in", "s3://b", "--high", "90"),
            ("s/in", "s3://b", "--high", "120%", "--low", "10"),
            ("s/in", "s3://b", "--high", "10", "--low", "90"),
            ("s/in", "s3://b", "--map-owner", "nobody-here-by-that-name"),
            ("s/in", "s3://b", "--map-owner", ":5"),
            ("s/in", "s3://b", "--checksum", "md5"),
            ("s/in", "s3://b", "--quiet", "soon"),
            ("s/in", "s3://b", "--unsigned", "--export", "new"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, run: Run, store: Store, args: tuple[str, ...]) -> None:
        run.fails("link", *args, code=2)
        assert not os.path.exists("s/in")

    def test_a_link_keeps_the_service_of_the_environment_it_was_made_in(
        self, run: Run, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all")
        assert run.json("link", "s/a", "s3://a")["endpoint"]["url"] == "http://all"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
        assert run.json("link", "s/b", "s3://b")["endpoint"]["url"] == "http://s3"
        assert run.json("link", "s/c", "s3://c", "--endpoint-url", "http://c")["endpoint"]["url"] == "http://c"
        monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        assert run.json("link", "s/d", "s3://d")["endpoint"]["url"] == ""

    def test_a_read_only_store_is_not_linked(self, store: Store) -> None:
        store.revise(lambda block: dataclasses.replace(block, read_only_compatible=("quota",)))
        for attempt in (lambda: link("s/in", "s3://b"), lambda: unlink("s/in")):
            with pytest.raises((UnsupportedError, FileNotFoundError)):
                attempt()
        assert links(Store.find("s")) == []

    def test_the_store_itself_may_be_linked(self, run: Run, store: Store, write: Write) -> None:
        run("link", "s", "s3://b/all")
        (found,) = links(Store.find("s"))
        assert found.directory == store.root
        assert found.key_of(f"{store.root}/a/b") == "all/a/b"
        assert found.key_of(store.root, is_directory=True) == "all/"
        assert found.path_of("all/a/b/") == f"{store.root}/a/b"
        assert found.path_of("all/") == store.root

    def test_the_world_below_still_works_with_links(self, run: Run, store: Store, write: Write) -> None:
        run("link", "s/in", "s3://b/p")
        run("cp", str(write("f")), "s/in/f")
        assert run("cat", "s/in/f") == "hello\n"
        assert "good" in run("verify", "s")


class TestFinding:
    @pytest.fixture
    def linked(self, store: Store) -> Store:
        for name, url, service in (("in", "s3://b/in", ""), ("out", "s3://b/out", "http://one"), ("x", "s3://c", "")):
            link(f"s/{name}", url, endpoint=Endpoint(url=service, profile=name))
        return Store.find("s")

    def test_the_link_of_a_path_is_that_of_a_directory_above_it(self, linked: Store) -> None:
        for path, name in (("in", "in"), ("in/a/b", "in"), ("inn", None), ("", None), ("out/f", "out")):
            found = link_of(linked, f"{linked.root}/{path}".rstrip("/"))
            assert (found.entry.directory if found is not None else None) == name

    def test_the_links_settings_win_over_what_a_stub_was_made_with(self, linked: Store) -> None:
        assert endpoint_for(linked, remote("in/f")).profile == "in"
        assert endpoint_for(linked, remote("in/f", url="http://elsewhere")).profile == "in"
        assert endpoint_for(linked, remote("out/f", url="http://one/")).profile == "out"
        assert endpoint_for(linked, remote("out/f", url="http://two")) == Endpoint(url="http://two")
        assert endpoint_for(linked, remote("elsewhere/f", url="http://one")) == Endpoint(url="http://one")

    def test_keys_of_elsewhere_have_no_path_here(self, linked: Store) -> None:
        (found,) = (one for one in links(linked) if one.entry.directory == "in")
        with pytest.raises(ArgumentError):
            found.key_of(f"{linked.root}/out/f")
        for key in ("out/f", "in/../f", "in//f", "in/.pinstripe/f"):
            with pytest.raises(ArgumentError):
                found.path_of(key)

    def test_settings_of_a_later_version_are_read_past_and_wrong_ones_refused(self, linked: Store) -> None:
        assert LinkOptions.from_values({"tide": "low", "high": 90, "low": 80}) == LinkOptions(high=90, low=80)
        with pytest.raises(ArgumentError, match="wrong kind"):
            LinkOptions.from_values({"high": "90"})


class TestUnlink:
    def test_what_is_there_stays(self, run: Run, store: Store, write: Write) -> None:
        run("link", "s/in", "s3://b/in")
        make_stub("s/in/stub", remote())
        run("unlink", "s/in")
        assert state_of("s/in/stub").is_stub

    def test_with_delete_data_goes_what_the_bucket_holds_unchanged(self, run: Run, store: Store, write: Write) -> None:
        run("link", "s/in", "s3://b/in")
        pinstripe.makedirs("s/in/a/b")
        pinstripe.makedirs("s/in/c")
        make_stub("s/in/a/b/stub", remote())
        make_stub("s/in/lost", remote())
        set_flags("s/in/lost", add=("lost",))
        for name in ("archived", "dirty", "new"):
            run("cp", str(write("f")), f"s/in/c/{name}")
        for name in ("archived", "dirty"):
            record_base(f"s/in/c/{name}", remote(size=6), state_of(f"s/in/c/{name}").tx)
        with pinstripe.open("s/in/c/dirty", "ab") as file:
            file.write(b"more")
        pinstripe.symlink("c", "s/in/symlink")
        run("unlink", "--delete-data", "s/in")
        left = {str(Path(top, name).relative_to("s/in")) for top, ds, fs in os.walk("s/in") for name in ds + fs}
        assert left == {"c", "c/dirty", "c/new", "lost", "symlink"}

    def test_what_is_not_linked_is_told(self, run: Run, store: Store) -> None:
        run("link", "s/in", "s3://b/in")
        pinstripe.mkdir("s/in/a")
        assert f"the linked directory is {store.root}/in" in run.fails("unlink", "s/in/a", code=2)
        assert "is not linked" in run.fails("unlink", "s", code=2)


TX = b"t" * 16


def state(
    base: Base | None = None, *, is_stub: bool = False, resident: int = 5, flags: tuple[str, ...] = ()
) -> FileState:
    return FileState("f", 5, TX, 1, base, is_stub, resident, frozenset(flags))


HERE = Base(remote(crc64=7), TX, "crc64nvme")
BEFORE = Base(remote(), b"o" * 16, "crc64nvme")


class TestState:
    @pytest.mark.parametrize(
        ("state", "line"),
        [
            (state(), "f: (0x00000000)"),
            (state(HERE), "f: (0x00000009) exists archived, archive_id:1"),
            (state(BEFORE), "f: (0x0000000b) exists dirty archived, archive_id:1"),
            (state(HERE, is_stub=True, resident=0), "f: (0x0000000d) released exists archived, archive_id:1"),
            (
                state(HERE, is_stub=True, resident=2),
                "f: (0x0000000d) released exists archived, archive_id:1; partial unproven",
            ),
            (state(Base(remote(), TX, "size")), "f: (0x00000009) exists archived, archive_id:1; unproven"),
            (
                state(BEFORE, flags=("conflict", "norelease")),
                "f: (0x0000001b) exists dirty archived never_release, archive_id:1; conflict",
            ),
            (state(flags=("noexport",)), "f: (0x00000020) never_archive"),
            (
                state(HERE, is_stub=True, resident=0, flags=("lost", "norelease", "noexport")),
                "f: (0x0000007d) released exists archived never_release never_archive lost_from_hsm, archive_id:1",
            ),
        ],
    )
    def test_the_line_is_lustres(self, state: FileState, line: str) -> None:
        assert hsm_line("f", state) == line
        told = describe_state("f", state)
        assert told["flags"] == hsm_flags(state) == int(line.split()[1].strip("()"), 16)
        behind = line.split(") ")[1] if ") " in line else ""
        assert told["words"] == behind.replace(", archive_id:1", "").replace(";", "").split()

    def test_files_of_a_store(self, run: Run, store: Store, write: Write) -> None:
        run("cp", str(write("f")), "s/plain")
        make_stub("s/stub", remote())
        assert run("state", "s/plain", "s/stub") == (
            "s/plain: (0x00000000)\ns/stub: (0x0000000d) released exists archived, archive_id:1\n"
        )
        told = run.json("state", "s/stub")
        assert told == [
            {
                "path": "s/stub",
                "flags": 13,
                "words": ["released", "exists", "archived"],
                "size": 5,
                "resident_bytes": 0,
                "generation": 0,
                "url": "s3://b/in/f",
                "etag": "e" * 32,
                "version": None,
                "proof": "etag",
            }
        ]

    def test_flags_are_set_and_cleared(self, run: Run, store: Store, write: Write) -> None:
        for name in ("a", "b"):
            run("cp", str(write("f")), f"s/{name}")
        assert run("state", "--set", "norelease,noarchive", "s/a", "s/b") == ""
        assert run("state", "s/a") == "s/a: (0x00000030) never_release never_archive\n"
        assert run("state", "--clear", "noexport", "--set", "norelease", "s/a") == ""
        assert run("state", "s/a") == "s/a: (0x00000010) never_release\n"
        assert run.json("state", "--clear", "norelease", "s/a")[0]["flags"] == 0
        run.fails("state", "--set", "lost", "s/a", code=2)
        run.fails("state", "--set", "norelease", "--clear", "norelease", "s/a", code=2)
        assert run("state", "s/b") == "s/b: (0x00000030) never_release never_archive\n"

    def test_directories_are_told_with_all_below(self, run: Run, store: Store, write: Write) -> None:
        pinstripe.makedirs("s/d/e")
        for name in ("d/x", "d/e/y"):
            run("cp", str(write("f")), f"s/{name}")
        pinstripe.symlink("x", "s/d/symlink")
        assert "directory has no state" in run.fails("state", "s/d")
        assert sorted(run("state", "-r", "s/d").splitlines()) == ["s/d/e/y: (0x00000000)", "s/d/x: (0x00000000)"]
        run("state", "-r", "--set", "norelease", "s/d")
        assert all("never_release" in line for line in run("state", "-r", "s/d").splitlines())

    def test_what_is_not_there_fails_and_the_rest_is_told(self, run: Run, store: Store, write: Write) -> None:
        run("cp", str(write("f")), "s/f")
        result = run.result("state", "s/none", "s/f")
        assert result.exit_code == 1
        assert result.stdout == "s/f: (0x00000000)\n"
        assert result.stderr.startswith("pinstripe: ")


def test_no_command_line_imports_boto3_to_list_links_or_states(store: Store) -> None:
    code = (
        "import sys, pinstripe.cli as c\n"
        "for args in (['--help'], ['link', 's'], ['link', '--help']):\n"
        "    c.cli.main(args, standalone_mode=False)\n"
        "assert not {'boto3', 'botocore'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_link_of_a_whole_store_that_lies_in_a_symlinked_place(run: Run, store: Store) -> None:
    os.symlink("s", "way")
    assert run.json("link", "way/in", "s3://b/p")["directory"] == f"{store.root}/in"
    pinstripe.symlink("in", "s/other")
    with pytest.raises((ArgumentError, NamespaceError)):
        link("s/other", "s3://c")


def test_of_links_that_overlap_and_are_made_at_once_one_is_made(store: Store) -> None:
    children = []
    for number in range(6):
        child = os.fork()
        if not child:
            code = 1
            try:
                link(f"s/{number}", "s3://b/" + "x/" * number)
                code = 0
            except ArgumentError:
                code = 2
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 2, 2, 2, 2, 2]
    (made,) = links(Store.find("s"))
    assert sorted(name for name in os.listdir("s") if name.isdecimal()) == [made.entry.directory]
