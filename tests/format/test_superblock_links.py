"""Links in the superblock: there with their feature, read back, and refused where they cannot be."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError, DamageError, UnsupportedError
from pinstripe.format.layout import Layout
from pinstripe.format.remote import Endpoint
from pinstripe.format.superblock import EVENTS, LinkEntry, Superblock, TargetEntry

from .test_superblock import EXAMPLE, EXAMPLE_BYTES, NO_FEATURES, STORE, rewritten

LINK = LinkEntry(
    b"\x33" * 16,
    "data/era5",
    "lab",
    "era5/2025/",
    ("new", "changed"),
    ("deleted",),
    Endpoint(url="https://s3.example.org"),
    {"high": 90, "owner": "1000:1000"},
)
LINKED = dataclasses.replace(EXAMPLE, links=(LINK,))
LINKED_BYTES = (
    b'{"crc64nvme":"222a42c18215484c","features":{"compatible":[],"incompatible":[],"read_only_compatible":["links"]},"format":1,'
    b'"layout":{"block_bytes":65536,"codec":"auto","pool":null,"stripe_bytes":1048576,"stripe_count":-1},"links":['
    b'{"bucket":"lab","directory":"data/era5","endpoint":{"url":"https://s3.example.org"},"export":["deleted"],'
    b'"id":"33333333333333333333333333333333","import":["new","changed"],"options":{"high":90,"owner":"1000:1000"},'
    b'"prefix":"era5/2025/"}],"mode":1533,"revision":2,'
    b'"store":"000102030405060708090a0b0c0d0e0f","targets":['
    b'{"id":"11111111111111111111111111111111","path":"targets/0","pool":null,"scope":"shared","state":"active"},'
    b'{"id":"22222222222222222222222222222222","path":"/fast","pool":"ssd","scope":"node","state":"drain"}]}\n'
)


def test_the_bytes_of_a_superblock_with_links_are_frozen():
    assert LINKED.encode() == LINKED_BYTES
    assert Superblock.decode(LINKED_BYTES, 2) == LINKED


def test_without_links_the_bytes_are_those_of_before_there_were_any():
    assert dataclasses.replace(LINKED, links=()).encode() == EXAMPLE_BYTES


def test_the_feature_is_there_exactly_while_there_are_links():
    assert EXAMPLE.read_only_compatible == ()
    assert LINKED.read_only_compatible == ("links",)
    assert LINKED.not_writable_here == ()
    with_others = dataclasses.replace(EXAMPLE, read_only_compatible=("quota",), links=(LINK,))
    assert with_others.read_only_compatible == ("quota", "links")
    assert dataclasses.replace(with_others, links=()).read_only_compatible == ("quota",)
    assert dataclasses.replace(EXAMPLE, read_only_compatible=("links",)).read_only_compatible == ()


def test_every_flipped_byte_is_noticed(flips):
    for data in flips(LINKED_BYTES):
        with pytest.raises(DamageError):
            Superblock.decode(data, 2)


VALUES = json.loads(LINKED_BYTES)["links"][0]


@pytest.mark.parametrize(
    "links",
    [
        7,
        {},
        [],
        [7],
        [{}],
        [VALUES, VALUES],
        [VALUES, VALUES | {"id": "44" * 16, "directory": "data"}],
        [VALUES, VALUES | {"id": "44" * 16, "directory": "other"}],
        [VALUES | {"id": "44"}],
        [VALUES | {"directory": "/data"}],
        [VALUES | {"directory": "data/../.."}],
        [VALUES | {"directory": "data/"}],
        [VALUES | {"directory": "./data"}],
        [VALUES | {"directory": ".pinstripe/files"}],
        [VALUES | {"directory": "a\0b"}],
        [VALUES | {"directory": 7}],
        [VALUES | {"bucket": ""}],
        [VALUES | {"prefix": "no-slash"}],
        [VALUES | {"prefix": "/"}],
        [VALUES | {"prefix": "a//b/"}],
        [VALUES | {"import": ["renamed"]}],
        [VALUES | {"import": ["changed", "new"]}],
        [VALUES | {"export": "new"}],
        [VALUES | {"endpoint": {"checksum": "md5"}}],
        [VALUES | {"endpoint": {"unsigned": "yes"}}],
        [VALUES | {"endpoint": 7}],
        [VALUES | {"options": {"high": [90]}}],
        [VALUES | {"options": 7}],
    ],
)
def test_links_that_cannot_be_are_damage_even_where_the_checksum_holds(links):
    features = NO_FEATURES | {"read_only_compatible": ["links"]}
    with pytest.raises(DamageError):
        Superblock.decode(rewritten(EXAMPLE_BYTES, features=features, links=links), 2)


def test_links_without_their_feature_and_the_feature_without_links_are_damage():
    for changes in (
        {"links": [VALUES]},
        {"features": NO_FEATURES | {"read_only_compatible": ["links"]}},
        {"features": NO_FEATURES | {"compatible": ["links"]}, "links": [VALUES]},
    ):
        with pytest.raises(DamageError):
            Superblock.decode(rewritten(EXAMPLE_BYTES, **changes), 2)


def test_what_a_later_version_says_of_a_link_is_read_past_and_its_options_are_kept():
    features = NO_FEATURES | {"read_only_compatible": ["links"]}
    later = VALUES | {"colour": "red", "options": {"tide": "low"}, "endpoint": {"speed": 7}}
    read = Superblock.decode(rewritten(EXAMPLE_BYTES, features=features, links=[later]), 2)
    assert read.links[0].options == {"tide": "low"}
    assert read.links[0].endpoint == Endpoint()


def test_a_read_only_feature_of_a_later_version_still_lets_only_read():
    features = NO_FEATURES | {"read_only_compatible": ["links", "quota"]}
    read = Superblock.decode(rewritten(EXAMPLE_BYTES, features=features, links=[VALUES]), 2)
    assert read.not_writable_here == ("quota",)
    features["incompatible"] = ["tides"]
    with pytest.raises(UnsupportedError, match="tides"):
        Superblock.decode(rewritten(EXAMPLE_BYTES, features=features, links=[VALUES]), 2)


def link(directory: str, prefix: str, bucket: str = "b", url: str = "", number: int = 1) -> LinkEntry:
    return LinkEntry(bytes([number]) * 16, directory, bucket, prefix, endpoint=Endpoint(url=url))


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (link("a", "x/"), link("a", "y/"), "directory"),
        (link("a", "x/"), link("a/b", "y/"), "directory"),
        (link("", "x/"), link("a/b", "y/"), "directory"),
        (link("a", "x/"), link("ab", "y/"), ""),
        (link("a", "x/"), link("b", "x/"), "bucket"),
        (link("a", "x/"), link("b", "x/y/"), "bucket"),
        (link("a", ""), link("b", "x/y/"), "bucket"),
        (link("a", "x/"), link("b", "xy/"), ""),
        (link("a", "x/"), link("b", "x/", bucket="c"), ""),
        (link("a", "x/", url="http://one"), link("b", "x/", url="http://two"), ""),
        (link("a", "x/", url="http://one"), link("b", "x/", url="http://one/"), "bucket"),
        (link("a", "x/", url="http://one"), link("b", "x/"), "bucket"),
    ],
)
def test_links_overlap_where_directories_or_prefixes_are_nested(one, other, meet):
    other = dataclasses.replace(other, id=b"\x02" * 16)
    assert one.overlaps(other) == other.overlaps(one) == meet
    if meet:
        with pytest.raises(ArgumentError, match="overlap"):
            dataclasses.replace(EXAMPLE, links=(one, other))
    else:
        assert len(dataclasses.replace(EXAMPLE, links=(one, other)).links) == 2


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..") and not name.startswith(".pinstripe")
)
words = st.sets(st.sampled_from(EVENTS)).map(lambda chosen: tuple(word for word in EVENTS if word in chosen))


@given(
    st.lists(names, max_size=3).map("/".join),
    st.lists(names, max_size=3).map(lambda parts: "".join(f"{part}/" for part in parts)),
    words,
    words,
    st.builds(Endpoint, url=st.sampled_from(["", "https://s3"]), unsigned=st.booleans(), kms_key=st.text()),
    st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()),
)
def test_a_link_survives_its_encoding(directory, prefix, import_, export, endpoint, options):
    entry = LinkEntry(b"\x01" * 16, directory, "bucket", prefix, import_, export, endpoint, options)
    superblock = Superblock(STORE, 1, 0o755, Layout(), (TargetEntry(bytes(16), "t"),), links=(entry,))
    assert Superblock.decode(superblock.encode(), 1) == superblock
