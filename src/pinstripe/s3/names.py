"""Names: keys of a bucket and paths below a linked directory, one made of the other; and why some cannot be. Pure.

A key is its prefix and the path below the directory; a directory's own key has a slash behind it. A problem is told as
FSx's error code, a colon, and the reason: ``error_code`` gives the code back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import ArgumentError

__all__ = [
    "KEY_BYTES_MOST",
    "error_code",
    "is_reserved",
    "key_of",
    "key_problem",
    "path_of",
    "path_problem",
    "prefix_of",
    "shadowed",
    "split_url",
]

KEY_BYTES_MOST = 1024
"""Longest key that S3 takes, in bytes of UTF-8."""

_NAME_BYTES_MOST = 255
_PATH_BYTES_MOST = 4095
_RESERVED = ".pinstripe"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_URL = re.compile(
    r"s3://(?P<bucket>arn:[^/]+:accesspoint[:/][^/]+|[^/]+)(?:/(?P<key>.*))?",
    re.DOTALL,
)


def split_url(url: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` in bucket and key, as they stand; the key may be empty. An access point's ARN is a bucket.

    Raises
    ------
    ArgumentError
        It is no such address.
    """
    match = _URL.fullmatch(url)
    if match is None or "\0" in url:
        raise ArgumentError(f"{url!r} is no address of a bucket: write s3://BUCKET or s3://BUCKET/PREFIX")
    return match["bucket"], match["key"] or ""


def prefix_of(key: str) -> str:
    """Make of what stands behind a bucket's name the prefix of all below it: "" or with one slash at its end."""
    key = key.rstrip("/")
    return f"{key}/" if key else ""


def key_of(path: str, prefix: str, *, is_directory: bool = False) -> str:
    """Return the key of `path`, which is relative to the linked directory, normalised; "" is the directory itself."""
    if not path:
        return prefix
    return f"{prefix}{path}/" if is_directory else f"{prefix}{path}"


def path_of(key: str, prefix: str) -> str:
    """Return the path of `key` below the linked directory; "" for the directory's own key.

    The key must be one of which `key_problem` knows nothing.

    Raises
    ------
    ArgumentError
        The key does not begin with `prefix`, or cannot be a path.
    """
    problem = key_problem(key, prefix)
    if problem is not None or not key.startswith(prefix):
        raise ArgumentError(f"key {key!r} below {prefix!r}: {problem or 'does not begin with that'}")
    return key[len(prefix) :].removesuffix("/")


def key_problem(key: str, prefix: str, *, root_bytes: int = 0) -> str | None:
    """Say why `key`, which begins with `prefix`, cannot be a path below the linked directory; None if it can.

    A key that is no UTF-8 shows as what boto3 or Python makes of it: with U+FFFD or lone surrogates. Such a key could not be
    asked for again.

    Parameters
    ----------
    key : str
        The whole key; a slash at its end makes it a directory.
    prefix : str
        Of the link.
    root_bytes : int
        Length of the linked directory's own path, where the whole path's length counts.

    Returns
    -------
    str or None
        ``CODE: reason``. Keys of pinstripe's own (see `is_reserved`) are among those that cannot be.
    """
    not_posix = "S3ObjectPathNotPosixCompliant"
    if not key.startswith(prefix):
        return f"{not_posix}: the key does not begin with {prefix!r}"
    rest = key[len(prefix) :]
    if not rest:
        return None
    if _REPLACEMENT in rest:
        return f"{not_posix}: the key is not UTF-8"
    try:
        encoded = rest.removesuffix("/").encode()
    except UnicodeEncodeError:
        return f"{not_posix}: the key is not UTF-8"
    if "\0" in rest:
        return f"{not_posix}: the key holds a NUL"
    names = encoded.split(b"/")
    if b"" in names:
        return f"{not_posix}: the key holds a name that is empty (// or a leading /)"
    if b"." in names or b".." in names:
        return f"{not_posix}: the key holds a name that is . or .."
    if any(len(name) > _NAME_BYTES_MOST for name in names):
        return f"{not_posix}: the key holds a name of more than {_NAME_BYTES_MOST} bytes"
    if root_bytes + 1 + len(encoded) > _PATH_BYTES_MOST:
        return f"PathSizeTooLong: the path would have more than {_PATH_BYTES_MOST} bytes"
    if is_reserved(rest):
        return f"{not_posix}: names that begin with {_RESERVED} are pinstripe's own"
    return None


def path_problem(path: str, prefix: str, *, is_directory: bool = False) -> str | None:
    """Say why the file at `path`, relative to the linked directory, cannot be exported under its name; None if it can."""
    key = key_of(path, prefix, is_directory=is_directory)
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "S3ObjectPathNotPosixCompliant: the name is not UTF-8, which keys must be"
    if length > KEY_BYTES_MOST:
        return f"PathSizeTooLong: the key would have {length} bytes, S3 takes {KEY_BYTES_MOST}"
    return key_problem(key, prefix)


def is_reserved(path: str) -> bool:
    """Tell whether a name in this path is pinstripe's own: a store in the bucket, or a manifest of a stage-out."""
    return any(name.startswith(_RESERVED) for name in path.split("/"))


def shadowed(keys: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Find the keys that stand where other keys need a directory: ``a`` beside ``a/`` or ``a/b``.

    Parameters
    ----------
    keys : iterable of str
        Sorted by code points, which is S3's own order. Those that cannot be paths count for nothing.
    prefix : str
        Of the link.

    Returns
    -------
    dict
        Of each such key, what `key_problem` would say. The directory and what is in it stay; the file is what is skipped.
    """
    found: dict[str, str] = {}
    above: list[str] = []  # keys that the present one begins with, each beginning with the one before
    for key in keys:
        while above and not key.startswith(above[-1]):
            above.pop()
        if key_problem(key, prefix) is not None:
            continue
        for file in above:
            if file not in found and key[len(file) : len(file) + 1] == "/":
                found[file] = f"S3ObjectTypeMismatch: {key!r} needs a directory of this name"
        if len(key) > len(prefix) and not key.endswith("/"):
            above.append(key)
    return found


def error_code(problem: str) -> str:
    """Return the code of what `key_problem`, `path_problem` or `shadowed` said."""
    return problem.partition(":")[0]
