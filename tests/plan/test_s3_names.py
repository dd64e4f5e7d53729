"""Keys and paths: one made of the other, and what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError
from pinstripe.s3.names import (
    error_code,
    is_reserved,
    key_of,
    key_problem,
    path_of,
    path_problem,
    prefix_of,
    shadowed,
    split_url,
)
from pinstripe.s3.reports import ERROR_CODES

names = st.text(
    st.characters(exclude_characters="/\0\ufffd", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and not name.startswith(".pinstripe"))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
prefixes = st.lists(names, max_size=2).map(lambda parts: "".join(f"{part}/" for part in parts))


@given(paths, prefixes, st.booleans())
def test_a_path_survives_being_a_key(path: str, prefix: str, is_directory: bool) -> None:
    key = key_of(path, prefix, is_directory=is_directory)
    assert key.startswith(prefix)
    assert key.endswith("/") == is_directory
    assert key_problem(key, prefix) is None
    assert path_of(key, prefix) == path


@given(prefixes)
def test_the_prefix_itself_is_the_directory_itself(prefix: str) -> None:
    assert key_problem(prefix, prefix) is None
    assert path_of(prefix, prefix) == ""
    assert key_of("", prefix, is_directory=True) == prefix


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (".", "is . or .."),
        ("..", "is . or .."),
        ("test/.", "is . or .."),
        ("test/..", "is . or .."),
        ("../etc/passwd", "is . or .."),
        ("a/../../b", "is . or .."),
        ("./x", "is . or .."),
        ("/a", "empty"),
        ("a//b", "empty"),
        ("a//", "empty"),
        ("/", "empty"),
        ("//", "empty"),
        ("a\0b", "NUL"),
        ("a/\udc80b", "not UTF-8"),
        ("a\ufffdb", "not UTF-8"),
        ("a/" + "n" * 256, "255 bytes"),
        ("ä" * 128, "255 bytes"),
        (".pinstripe/superblock/1", "own"),
        ("x/.pinstripe/files/aa/b", "own"),
        ("x/.pinstripe-layout", "own"),
    ],
)
def test_keys_that_cannot_be_paths_are_told_why(key: str, reason: str) -> None:
    for prefix in ("", "data/"):
        problem = key_problem(prefix + key, prefix)
        assert problem is not None
        assert reason in problem
        assert error_code(problem) == "S3ObjectPathNotPosixCompliant"
        with pytest.raises(ArgumentError):
            path_of(prefix + key, prefix)


@pytest.mark.parametrize(
    "key", ["...", "a/...", ".hidden", "a b", "a\nb", "\\", "c:", "-x", "a" * 255, "ä" * 127, "a/", "x.pinstripe"]
)
def test_keys_that_are_odd_and_can_be_paths(key: str) -> None:
    assert key_problem(key, "") is None


def test_a_path_may_not_be_longer_than_the_kernel_takes() -> None:
    key = "/".join(["n" * 200] * 20)
    assert key_problem(key, "") is None
    problem = key_problem(key, "", root_bytes=100)
    assert problem is not None
    assert error_code(problem) == "PathSizeTooLong"


def test_a_key_that_is_not_below_the_prefix_is_a_problem() -> None:
    assert key_problem("other/x", "data/") is not None
    with pytest.raises(ArgumentError):
        path_of("other/x", "data/")


def test_what_is_exported_must_be_utf8_and_fit_a_key() -> None:
    assert path_problem("a/b", "p/") is None
    for path, code in (("a\udcff", "S3ObjectPathNotPosixCompliant"), ("/".join(["n" * 200] * 6), "PathSizeTooLong")):
        problem = path_problem(path, "p/")
        assert problem is not None
        assert error_code(problem) == code
    edge = "/".join(["n" * 203] * 5) + "xxxx"  # 1023 bytes
    assert path_problem(edge + "x", "") is None
    assert path_problem(edge + "x", "", is_directory=True) is not None
    assert path_problem(edge, "p/") is not None


@pytest.mark.parametrize(
    ("keys", "files"),
    [
        (["a", "a/"], ["a"]),
        (["a", "a/b"], ["a"]),
        (["a", "a-b", "a.txt", "a/b"], ["a"]),
        (["a", "a!", "a!/x", "a/b/c"], ["a", "a!"]),
        (["a", "a/b", "a/b/c"], ["a", "a/b"]),
        (["a", "ab", "ab/c"], ["ab"]),
        (["a/", "a/b"], []),
        (["a", "b", "c/d"], []),
        (["a", "a//b"], []),
        (["a", "a/../b"], []),
        ([], []),
    ],
)
def test_a_file_where_others_need_a_directory_is_told(keys: list[str], files: list[str]) -> None:
    assert sorted(keys) == keys
    for prefix in ("", "p/"):
        found = shadowed([prefix + key for key in keys], prefix)
        assert sorted(found) == [prefix + file for file in files]
        assert all(error_code(problem) == "S3ObjectTypeMismatch" for problem in found.values())


@given(st.lists(st.text("ab/-", min_size=1, max_size=6), unique=True))
def test_shadowed_files_are_those_that_an_all_pairs_search_finds(keys: list[str]) -> None:
    good = [key for key in keys if key_problem(key, "") is None]
    wanted = {file for file in good if not file.endswith("/") for key in good if key.startswith(f"{file}/")}
    assert set(shadowed(sorted(keys))) == wanted


def test_the_prefix_is_no_file_that_shadows() -> None:
    assert shadowed(["p/", "p/a"], "p/") == {}


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/x/y", "b", "x/y"),
        ("s3://b/x//y/", "b", "x//y/"),
        (
            "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/ap/x/y",
            "arn:aws:s3:us-west-2:123456789012:accesspoint/ap",
            "x/y",
        ),
        (
            "s3://arn:aws:s3:us-west-2:123456789012:accesspoint:ap/x",
            "arn:aws:s3:us-west-2:123456789012:accesspoint:ap",
            "x",
        ),
    ],
)
def test_addresses_are_split(url: str, bucket: str, key: str) -> None:
    assert split_url(url) == (bucket, key)


@pytest.mark.parametrize("url", ["", "b/x", "s3:/b", "s3://", "s3:///x", "http://b/x", "S3://b/x", "s3://b/x\0"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ArgumentError, match="no address"):
        split_url(url)


@pytest.mark.parametrize(("key", "prefix"), [("", ""), ("/", ""), ("x", "x/"), ("x/", "x/"), ("x/y//", "x/y/")])
def test_a_prefix_ends_in_one_slash(key: str, prefix: str) -> None:
    assert prefix_of(key) == prefix


def test_names_of_ours_are_known_anywhere_in_a_path() -> None:
    assert is_reserved("a/.pinstripe/b")
    assert is_reserved(".pinstripe-layout")
    assert not is_reserved("a/pinstripe/.b")


def test_problems_begin_with_codes_that_reports_have() -> None:
    problems = [key_problem("..", ""), key_problem("a//b", ""), path_problem("n/" * 600 + "n", "")]
    assert all(problem and error_code(problem) in ERROR_CODES for problem in problems)
