"""Attributes in objects' metadata: as FSx writes them, both ways."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError
from pinstripe.s3.metadata import Attributes, Defaults, Origin, from_metadata, symlink_problem, to_metadata

NS = 1_595_002_920_000_000_000
FSX_FILE = {
    "file-permissions": "0100664",
    "file-owner": "500",
    "file-group": "501",
    "file-atime": f"{NS}ns",
    "file-mtime": f"{NS + 1}ns",
    "user-agent": "aws-fsx-lustre",
}


class Stat:
    """What `to_metadata` takes of an `os.stat_result`."""

    def __init__(self, mode: int, uid: int = 500, gid: int = 501, atime_ns: int = NS, mtime_ns: int = NS + 1) -> None:
        self.st_mode, self.st_uid, self.st_gid, self.st_atime_ns, self.st_mtime_ns = mode, uid, gid, atime_ns, mtime_ns


def test_what_fsx_writes_of_a_file_is_read() -> None:
    assert from_metadata(FSX_FILE, "dir/file") == Attributes(0o664, 500, 501, NS, NS + 1, "file")


@pytest.mark.parametrize(
    ("mode", "kind", "text"),
    [
        (0o100664, "file", "0100664"),
        (0o100000, "file", "0100000"),
        (0o040755, "directory", "0040755"),
        (0o120777, "symlink", "0120777"),
        (0o041777, "directory", "0041777"),
        (0o104755, "file", "0100755"),
        (0o106755, "file", "0102755"),
        (0o042775, "directory", "0042775"),
    ],
)
def test_what_is_written_has_fsxs_form_and_no_set_user_id(mode: int, kind: str, text: str) -> None:
    written = to_metadata(Stat(mode), kind)  # type: ignore[arg-type]
    assert written == FSX_FILE | {"file-permissions": text, "user-agent": "pinstripe"}
    assert all(name.isascii() and value.isascii() for name, value in written.items())
    assert sum(map(len, (*written, *written.values()))) < 500


modes = st.integers(0, 0o1777)
ids = st.integers(0, 2**32 - 2)
times = st.integers(-(2**62), 2**62)


@given(modes, ids, ids, times, times, st.sampled_from(["file", "directory", "symlink"]))
def test_attributes_survive_the_way_there_and_back(
    mode: int, uid: int, gid: int, atime: int, mtime: int, kind: str
) -> None:
    types = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK}
    written = to_metadata(Stat(types[kind] | mode, uid, gid, atime, mtime), kind)  # type: ignore[arg-type]
    key = "a/b/" if kind == "directory" else "a/b"
    assert from_metadata(written, key) == Attributes(mode, uid, gid, atime, mtime, kind)


def test_a_real_file_survives_it(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "f")
    with open(path, "w"):
        pass
    os.chmod(path, 0o640)
    os.utime(path, ns=(NS + 7, NS + 9))
    seen = os.stat(path)
    assert from_metadata(to_metadata(seen, "file"), "f") == Attributes(
        0o640, seen.st_uid, seen.st_gid, NS + 7, NS + 9, "file"
    )


def test_a_directory_is_told_by_its_slash_even_with_a_files_type_bits() -> None:
    found = from_metadata(FSX_FILE, "dir/")
    assert (found.kind, found.mode) == ("directory", 0o664)


@pytest.mark.parametrize("permissions", ["0040755", "0755", "0010644", "0020644", "0140644"])
def test_without_slash_and_a_symlinks_type_it_is_a_file(permissions: str) -> None:
    assert from_metadata({"file-permissions": permissions}, "x").kind == "file"


def test_set_user_id_goes_and_set_group_id_stays_on_directories_only() -> None:
    assert from_metadata({"file-permissions": "0106755"}, "x").mode == 0o755
    assert from_metadata({"file-permissions": "0046775"}, "x/").mode == 0o2775
    assert from_metadata({"file-permissions": "0041777"}, "x/").mode == 0o1777


def test_a_time_without_suffix_is_milliseconds() -> None:
    found = from_metadata({"file-mtime": "1595002920123", "file-atime": "-5"}, "x")
    assert (found.mtime_ns, found.atime_ns) == (1_595_002_920_123_000_000, -5_000_000)


def test_a_time_before_1970_is_read() -> None:
    assert from_metadata({"file-mtime": "-1ns"}, "x").mtime_ns == -1


def test_what_is_missing_is_each_by_itself_a_default() -> None:
    defaults = Defaults(7, 8, 0o600, 0o700)
    assert from_metadata({}, "x", defaults, modified_ns=99) == Attributes(0o600, 7, 8, 99, 99, "file")
    assert from_metadata({}, "x/", defaults, modified_ns=99) == Attributes(0o700, 7, 8, 99, 99, "directory")
    found = from_metadata({"file-owner": "3", "file-mtime": "4ns"}, "x", defaults, modified_ns=99)
    assert found == Attributes(0o600, 3, 8, 4, 4, "file")
    assert from_metadata({"file-atime": "4ns"}, "x", modified_ns=99) == Attributes(0o644, -1, -1, 4, 99, "file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("file-permissions", "rw-r--r--"),
        ("file-permissions", "0100888"),
        ("file-permissions", "-644"),
        ("file-permissions", "7777777"),
        ("file-permissions", ""),
        ("file-owner", "root"),
        ("file-owner", "-1"),
        ("file-owner", "4294967295"),
        ("file-group", "99999999999"),
        ("file-group", "٣"),
        ("file-mtime", "yesterday"),
        ("file-mtime", "1.5"),
        ("file-mtime", "ns"),
        ("file-mtime", "9223372036854775808ns"),
        ("file-atime", "9223372036854776"),
        ("file-atime", "1e9ns"),
    ],
)
def test_values_that_cannot_be_are_defaults_and_told(name: str, value: str) -> None:
    found = from_metadata({name: value}, "x", Defaults(7, 8), modified_ns=99)
    assert found == Attributes(0o644, 7, 8, 99, 99, "file", (name,))


def test_keys_are_read_in_any_case_and_with_their_full_name() -> None:
    shouted = {f"X-Amz-Meta-{name.title()}": f" {value} " for name, value in FSX_FILE.items()}
    assert from_metadata(shouted, "x") == from_metadata(FSX_FILE, "x")


@given(st.dictionaries(st.sampled_from(sorted(FSX_FILE)), st.text(max_size=30)), st.sampled_from(["x", "x/"]))
def test_whatever_the_metadata_the_attributes_can_be_set(metadata: dict[str, str], key: str) -> None:
    found = from_metadata(metadata, key)
    assert 0 <= found.mode <= 0o3777
    assert -1 <= found.uid <= 2**32 - 2
    assert abs(found.mtime_ns) < 2**63
    assert (found.kind == "directory") == key.endswith("/")


@pytest.mark.parametrize("changes", [{"uid": -2}, {"gid": 2**32 - 1}, {"file_mode": 0o10000}, {"directory_mode": -1}])
def test_defaults_that_cannot_be_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ArgumentError):
        Defaults(**changes)


@pytest.mark.parametrize(
    ("body", "good"),
    [(b"target", True), (b"../a\xff", True), (b"", False), (b"a\0b", False), (b"x" * 4095, True), (b"x" * 4096, False)],
)
def test_a_symlinks_body_is_its_target(body: bytes, good: bool) -> None:
    assert (symlink_problem(body) is None) == good


ORIGIN = Origin(b"s" * 16, b"f" * 16, 3, b"t" * 16)


def test_an_origin_survives_and_fits() -> None:
    written = to_metadata(Stat(0o100644), "file", ORIGIN)  # type: ignore[arg-type]
    assert Origin.from_metadata(written) == ORIGIN
    assert Origin.from_metadata(FSX_FILE) is None
    assert Origin.from_metadata({"pinstripe-origin": "0.1.2.3"}) is None
    assert sum(map(len, (*written, *written.values()))) < 700


def test_an_origin_knows_its_older_ones() -> None:
    older = Origin(b"s" * 16, b"f" * 16, 2, b"u" * 16)
    assert older.is_older_of(ORIGIN)
    assert ORIGIN.is_older_of(ORIGIN)
    assert not ORIGIN.is_older_of(older)
    assert not Origin(b"s" * 16, b"g" * 16, 2, b"u" * 16).is_older_of(ORIGIN)
    assert not Origin(b"s" * 16, b"f" * 16, 3, b"u" * 16).is_older_of(ORIGIN)
