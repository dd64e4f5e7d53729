"""FSx's report format: its documentation's own examples, and back."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ConditionError, ConflictError, DamageError, RemoteError, StaleError
from pinstripe.s3.reports import ERROR_CODES, OUR_CODES, STATUSES, Line, code_of, parse, report, report_name


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("@filename.txt", '"""@filename.txt"""'),
        ("+filename.txt", '"""+filename.txt"""'),
        ("-filename.txt", '"""-filename.txt"""'),
        ("=filename.txt", '"""=filename.txt"""'),
        ("file,name.txt", '"file,name.txt"'),
        ('file"name.txt', '"file""name.txt"'),
        ('=a"b', '"""=a""b"""'),
        ("two\nlines", '"two\nlines"'),
        ("plain name", "plain name"),
        ("a=b@c", "a=b@c"),
    ],
)
def test_paths_are_quoted_as_in_fsxs_examples(path: str, encoded: str) -> None:
    assert Line(path, "failed", "S3Error").encode() == f"{encoded},failed,S3Error"


def test_a_report_is_fsxs_sample() -> None:
    lines = [
        Line("myRestrictedFile", "failed", "S3AccessDenied"),
        Line("fine", "succeeded"),
        Line("dir1/myLargeFile", "failed", "FileSizeTooLarge"),
    ]
    sample = b"myRestrictedFile,failed,S3AccessDenied\r\ndir1/myLargeFile,failed,FileSizeTooLarge\r\n"
    assert report(lines, failed_only=True) == sample
    assert report(lines).count(b"\r\n") == 3
    assert list(parse(sample.replace(b"\r\n", b"\n"))) == [lines[0], lines[2]]


# A name that itself is in quotes with a formula in it reads as one that was put in quotes: FSx's form cannot tell them apart.
names = st.text(st.characters(exclude_characters="\0"), min_size=1).filter(lambda text: not text.startswith('"'))


@given(
    st.lists(
        st.builds(Line, names, st.sampled_from(STATUSES), st.sampled_from(["", *ERROR_CODES, *OUR_CODES])), max_size=5
    )
)
def test_a_report_is_read_back(lines: list[Line]) -> None:
    try:
        data = report(lines)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return
    assert list(parse(data)) == lines


def test_a_name_that_is_no_text_is_its_bytes() -> None:
    assert report([Line("a\udcffb", "succeeded")]) == b"a\xffb,succeeded,\r\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteError("no", status=403, code="AccessDenied"), "S3AccessDenied"),
        (RemoteError("no", status=403, code="InvalidObjectState"), "S3ObjectInUnsupportedTier"),
        (RemoteError("no", status=404, code="NoSuchKey"), "S3ObjectNotFound"),
        (ConditionError("no", status=412, code="PreconditionFailed"), "Conflict"),
        (ConditionError("no", status=409, code="ConditionalRequestConflict"), "Conflict"),
        (ConditionError("no", status=404, code="NoSuchKey"), "Conflict"),
        (RemoteError("no", status=400, code="EntityTooLarge"), "FileSizeTooLarge"),
        (RemoteError("no", status=503, code="SlowDown"), "S3Error"),
        (RemoteError("no", code="Timeout"), "S3Error"),
        (StaleError("changed"), "ObjectChanged"),
        (DamageError("spoilt"), "ChecksumMismatch"),
        (ConflictError("both"), "Conflict"),
        (ConflictError("another writer", transaction="1" * 32), "ResourceBusy"),
        (OSError(errno.EBUSY, "busy"), "ResourceBusy"),
        (OSError(errno.ENAMETOOLONG, "long"), "PathSizeTooLong"),
        (NotADirectoryError(errno.ENOTDIR, "file"), "S3ObjectTypeMismatch"),
        (OSError(errno.ENOSPC, "full"), "InternalError"),
        (RuntimeError("oops"), "InternalError"),
    ],
)
def test_errors_have_codes(error: BaseException, code: str) -> None:
    assert code_of(error) == code
    assert code in (*ERROR_CODES, *OUR_CODES)


def test_the_files_are_named_as_fsxs() -> None:
    assert (report_name("export"), report_name("import")) == ("failures.csv", "report.csv")
