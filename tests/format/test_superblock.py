"""A superblock is read back, and nothing else is read as one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstripe.errors import ArgumentError, DamageError, Error, UnsupportedError
from pinstripe.format.layout import Layout
from pinstripe.format.superblock import Superblock, TargetEntry
from pinstripe.kernels import crc64

STORE = bytes(range(16))
EXAMPLE = Superblock(
    store_id=STORE,
    revision=2,
    mode=0o2775,
    layout=Layout(),
    targets=(TargetEntry(b"\x11" * 16, "targets/0"), TargetEntry(b"\x22" * 16, "/fast", "node", "ssd", "drain")),
)
EXAMPLE_BYTES = (
    b'{"crc64nvme":"d0201873b3c583e1","features":{"compatible":[],"incompatible":[],"read_only_compatible":[]},"format":1,'
    b'"layout":{"block_bytes":65536,"codec":"auto","pool":null,"stripe_bytes":1048576,"stripe_count":-1},"mode":1533,"revision":2,'
    b'"store":"000102030405060708090a0b0c0d0e0f","targets":['
    b'{"id":"11111111111111111111111111111111","path":"targets/0","pool":null,"scope":"shared","state":"active"},'
    b'{"id":"22222222222222222222222222222222","path":"/fast","pool":"ssd","scope":"node","state":"drain"}]}\n'
)


def rewritten(data: bytes, **changes: object) -> bytes:
    """The same superblock with other values and a checksum that holds."""
    values = json.loads(data) | changes
    del values["crc64nvme"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    values["crc64nvme"] = f"{crc64(text.encode()):016x}"
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_the_bytes_of_a_superblock_are_frozen():
    assert EXAMPLE.encode() == EXAMPLE_BYTES
    assert Superblock.decode(EXAMPLE_BYTES, 2) == EXAMPLE


paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
entries = st.builds(
    TargetEntry,
    st.binary(min_size=16, max_size=16),
    paths,
    st.sampled_from(["shared", "node"]),
    st.sampled_from([None, "ssd", "hdd"]),
    st.sampled_from(["active", "drain"]),
)


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(1, 1 << 40),
    st.integers(0, 0o7777),
    st.lists(entries, max_size=4, unique_by=lambda entry: entry.id),
)
def test_a_superblock_survives_its_encoding(store_id, revision, mode, targets):
    superblock = Superblock(store_id, revision, mode, Layout(codec="raw"), tuple(targets), (), ("quota",), ("tags",))
    assert Superblock.decode(superblock.encode(), revision) == superblock


def test_every_flipped_byte_is_noticed(flips):
    for data in flips(EXAMPLE_BYTES):
        with pytest.raises(DamageError):
            Superblock.decode(data, 2)


def test_every_cut_is_noticed():
    for length in range(len(EXAMPLE_BYTES)):
        with pytest.raises(DamageError):
            Superblock.decode(EXAMPLE_BYTES[:length], 2)


def test_another_revision_than_the_name_says_is_damage():
    with pytest.raises(DamageError, match="states another revision"):
        Superblock.decode(EXAMPLE_BYTES, 3)


def test_a_newer_format_is_unsupported_not_damage():
    with pytest.raises(UnsupportedError, match="format 2"):
        Superblock.decode(rewritten(EXAMPLE_BYTES, format=2), 2)


NO_FEATURES: dict[str, list[str]] = {"incompatible": [], "read_only_compatible": [], "compatible": []}


def test_an_unknown_incompatible_feature_refuses_the_store():
    with pytest.raises(UnsupportedError, match="parity"):
        Superblock.decode(rewritten(EXAMPLE_BYTES, features=NO_FEATURES | {"incompatible": ["parity"]}), 2)


def test_an_unknown_read_only_compatible_feature_lets_read_and_not_write():
    read = Superblock.decode(rewritten(EXAMPLE_BYTES, features=NO_FEATURES | {"read_only_compatible": ["quota"]}), 2)
    assert read.not_writable_here == ("quota",)


def test_an_unknown_compatible_feature_changes_nothing():
    read = Superblock.decode(rewritten(EXAMPLE_BYTES, features=NO_FEATURES | {"compatible": ["tags"]}), 2)
    assert read.compatible == ("tags",)
    assert read.not_writable_here == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"store": "00"},
        {"store": "00" * 15 + "0G"},
        {"store": 7},
        {"mode": "wide"},
        {"mode": 0o10000},
        {"layout": {}},
        {"targets": {"a": 1}},
        {"targets": [7]},
        {"targets": [{}]},
        {"targets": [json.loads(EXAMPLE_BYTES)["targets"][0]] * 2},
        {"targets": [json.loads(EXAMPLE_BYTES)["targets"][0] | {"scope": "rack"}]},
        {"features": []},
        {"revision": "2"},
    ],
)
def test_values_that_cannot_be_are_damage_even_where_the_checksum_holds(changes):
    with pytest.raises(DamageError):
        Superblock.decode(rewritten(EXAMPLE_BYTES, **changes), 2)


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff", b"[]\n", b"{}\n", b"1" * 5000, b"[" * 100_000])
def test_what_is_no_superblock_is_damage(data):
    with pytest.raises(DamageError):
        Superblock.decode(data, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TargetEntry(b"short", "path"),
        lambda: TargetEntry(bytes(16), ""),
        lambda: TargetEntry(bytes(16), "path", scope="rack"),
        lambda: TargetEntry(bytes(16), "path", state="gone"),
        lambda: TargetEntry(bytes(16), "path", pool="a b"),
        lambda: Superblock(b"short", 1, 0, Layout(), ()),
        lambda: Superblock(STORE, 0, 0, Layout(), ()),
        lambda: Superblock(STORE, 1, -1, Layout(), ()),
        lambda: Superblock(STORE, 1, 0, Layout(), (EXAMPLE.targets[0],) * 2),
    ],
)
def test_a_superblock_that_cannot_be_is_not_made(make):
    with pytest.raises(ArgumentError):
        make()


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_our_errors(data):
    with pytest.raises(Error):
        Superblock.decode(data, 1)
